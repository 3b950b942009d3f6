//! A process that has no descriptor left.

use super::*;
use std::time::Instant;

/// A process that has no descriptor left can lead no flush: it tries again, and another process may do it. Nothing has
/// failed of what is written, and nobody else is to suffer for it.
#[test]
fn a_segment_that_cannot_be_opened_for_a_sync_is_tried_again() {
    for self_sealed in [false, true] {
        let pair = Pair::new();
        let one = pair.claim();
        commit(&one, 3, 1, true).unwrap();
        let other = pair.join();
        other.committer.prepare(staged(&other, 3, 1).lane()).unwrap();
        leave_a_segment(&one);
        let left = one.files.segment(one.log.tail().segment).unwrap();
        leave_a_segment(&one);
        let view = staged(&other, 3, 1000);
        other.reader.follower.follow(other.log.marks.published()).unwrap();
        pair.cannot_open(&left.name);
        let facts = facts(&other, true);
        let published = other.publish(view.lane(), facts, self_sealed).unwrap();
        assert_eq!(published.self_sealed.is_some(), self_sealed);
        other.durability.acknowledge(facts.sequence, true, published.self_sealed).unwrap();
        assert_eq!(pair.disk.plan().fired(), 1, "self-sealed {self_sealed}");
        commit(&one, 3, 1001, true).unwrap();
    }
}

/// It finds out before it publishes, as far as it can: what is published and cannot be made durable ends the log for all.
#[test]
fn a_process_without_descriptors_poisons_nobody() {
    for wants_durable in [true, false] {
        let pair = Pair::new();
        let one = pair.claim();
        leave_a_segment(&one);
        let other = pair.join();
        pair.disk.plan().add(Fault { goes_on: true, ..pair.fault(Operation::Open, &segment_name(one.log.log_id, 0)) });
        let refused = commit(&other, 3, 1000, wants_durable).unwrap_err();
        assert!(matches!(refused, EngineError::Open { .. }), "{refused}");
        commit(&one, 3, 1001, true).unwrap();
        pair.disk.plan().clear();
        commit(&other, 3, 1002, wants_durable).unwrap();
    }
}

/// A file of the log is opened again when it is used, so that a missing descriptor may be met by any operation: nothing has failed
/// then. A commit that is published waits for its answer however long that takes; one that is not, for a while.
#[test]
fn an_operation_for_which_a_descriptor_is_missing_is_tried_again() {
    // Each attempt takes 5 ms: a flush that cannot be begun for another reason is given up after 400 of them.
    for (operation, attempts) in [(Operation::Write, 20), (Operation::Sync, 600), (Operation::Open, 20)] {
        let pair = Pair::new();
        let one = pair.claim();
        leave_a_segment(&one);
        let other = pair.join();
        let fault = pair.fault(operation, ".seg");
        pair.disk.plan().add(Fault { goes_on: true, effect: Effect::NoDescriptor, ..fault });
        let (told, heard) = std::sync::mpsc::channel();
        let commits = Arc::clone(&other);
        std::thread::spawn(move || told.send(commit(&commits, 3, 1000, true)));
        while pair.disk.plan().fired() < attempts {
            let early = heard.recv_timeout(Duration::from_millis(1));
            assert!(early.is_err(), "{operation:?}: {early:?}");
        }
        pair.disk.plan().clear();
        heard.recv_timeout(Duration::from_secs(20)).expect("who waits hangs").unwrap();
        commit(&one, 3, 1001, true).unwrap();
        assert!(!one.log.is_poisoned());
    }
}

/// The time for which operations are tried again is that of one shortage: it ends when the flush that a commit waited for has been made.
#[test]
fn a_shortage_that_a_flush_has_met_ends_with_it() {
    let pair = Pair::new();
    let one = pair.claim();
    leave_a_segment(&one);
    let other = pair.join();
    // A commit that is not published waits for 2 s in one shortage.
    for (operation, seconds, sequence) in [(Operation::Sync, 3, 1000), (Operation::Write, 0, 1001)] {
        let fault = pair.fault(operation, ".seg");
        pair.disk.plan().add(Fault { goes_on: true, effect: Effect::NoDescriptor, ..fault });
        let (before, began) = (pair.disk.plan().fired(), Instant::now());
        let (answers, answer) = std::sync::mpsc::channel();
        let commits = Arc::clone(&other);
        std::thread::spawn(move || answers.send(commit(&commits, 3, sequence, true)));
        while pair.disk.plan().fired() < before + 20 || began.elapsed() < Duration::from_secs(seconds) {
            let early = answer.recv_timeout(Duration::from_millis(1));
            assert!(early.is_err(), "{operation:?}: {early:?}");
        }
        pair.disk.plan().clear();
        answer.recv_timeout(Duration::from_secs(20)).expect("an answer").unwrap();
    }
}

/// Nor is it a failed pass of a checkpoint, two of which end the engine.
#[test]
fn a_checkpoint_for_which_a_descriptor_is_missing_has_not_failed() {
    let pair = Pair::new();
    let one = pair.claim();
    let other = pair.join();
    commit(&one, 3, 1, true).unwrap();
    let fault = pair.fault(Operation::Read, ".seg");
    pair.disk.plan().add(Fault { goes_on: true, effect: Effect::NoDescriptor, ..fault });
    for _ in 0..3 {
        let refused = other.checkpointer.checkpoint_in_background().unwrap_err();
        assert!(refused.is_out_of_descriptors(), "{refused}");
    }
    pair.disk.plan().clear();
    commit(&one, 3, 2, true).unwrap();
    other.checkpointer.checkpoint_when_idle().unwrap();
    assert_eq!(other.log.marks.backfilled(), 2);
}

/// As the first, for what a leader left that died.
#[test]
fn a_segment_that_cannot_be_opened_for_a_dead_leaders_flush_is_tried_again() {
    for goes_on in [false, true] {
        let pair = Pair::new();
        let one = pair.claim();
        leave_a_segment(&one);
        let view = staged(&one, 3, 1000);
        one.committer.prepare(view.lane()).unwrap();
        one.publish(view.lane(), facts(&one, true), false).unwrap();
        let leader = one.lease.try_lead().unwrap();
        one.flusher.write_epoch(&leader, false).unwrap();
        std::mem::forget(leader);
        let other = pair.join();
        other.reader.follower.follow(one.log.marks.published()).unwrap();
        let last = one.log.marks.published();
        die(one);
        pair.cannot_open(&segment_name(other.log.log_id, 0));
        if goes_on {
            let fault = Fault { goes_on, ..pair.fault(Operation::Open, ".seg") };
            pair.disk.plan().add(fault);
        }
        let (told, heard) = std::sync::mpsc::channel();
        let waits = Arc::clone(&other);
        std::thread::spawn(move || told.send(waits.durability.wait_durable(last)));
        let waited = heard.recv_timeout(Duration::from_secs(20)).expect("who waits hangs");
        assert_eq!(waited.is_ok(), !goes_on, "{waited:?}");
        assert!(!other.log.is_poisoned());
    }
}

/// A statement tries for a while, the next ones do not: nothing has changed since. With descriptors again all is as before.
#[test]
fn a_shortage_is_waited_for_once() {
    let pair = Pair::new();
    let one = pair.claim();
    commit(&one, 3, 1, true).unwrap();
    let fault = pair.fault(Operation::Create, ".seg");
    for _ in 0..2 {
        pair.disk.plan().reset();
        pair.disk.plan().add(Fault { goes_on: true, effect: Effect::NoDescriptor, ..fault.clone() });
        // One of them needs a segment of its own.
        let refused = commit(&one, 40, 2, true).unwrap_err();
        assert!(refused.is_out_of_descriptors(), "{refused}");
        let tries = pair.disk.plan().fired();
        assert!(tries > 10, "{tries} tries only");
        for n in 1..=3 {
            let refused = commit(&one, 40, 2, true).unwrap_err();
            assert!(refused.is_out_of_descriptors(), "{refused}");
            assert_eq!(pair.disk.plan().fired(), tries + 2 * n, "once more behind the close of what can be closed");
        }
        pair.disk.plan().clear();
        commit(&one, 3, 3, true).unwrap();
        // What ends a shortage is that a descriptor was there for which one was missing before.
        pair.disk.plan().reset();
        pair.disk.plan().add(Fault { effect: Effect::NoDescriptor, ..fault.clone() });
        commit(&one, 40, 4, true).unwrap();
        assert_eq!(pair.disk.plan().fired(), 1);
    }
}

/// A rest needs one descriptor, for its marker. Without it the log stays, and goes on.
#[test]
fn without_a_descriptor_the_log_is_not_retired() {
    let pair = Pair::new();
    let one = pair.claim();
    commit(&one, 3, 1, true).unwrap();
    for effect in [Effect::NoDescriptor, Effect::NoSpace] {
        for operation in [Operation::Create, Operation::Read, Operation::Open] {
            let name = if operation == Operation::Create { "retired-" } else { ".seg" };
            pair.disk.plan().add(Fault { effect, goes_on: true, ..pair.fault(operation, name) });
            let rested = one.rest();
            assert!(!one.log.is_poisoned(), "{effect:?}, {operation:?}: {rested:?}");
            assert!(operation != Operation::Create || rested.is_err());
            pair.disk.plan().clear();
            commit(&one, 3, one.log.marks.published() + 1, true).unwrap();
        }
    }
    // It is told once, as long as the reason is the same.
    pair.disk.plan().add(Fault { effect: Effect::NoSpace, goes_on: true, ..pair.fault(Operation::Create, "retired-") });
    one.rest_when_idle().unwrap_err();
    assert!(!one.rest_when_idle().unwrap(), "it is tried again");
    pair.disk.plan().clear();
    assert!(one.rest_when_idle().unwrap());
    commit(&one, 3, one.log.marks.published() + 1, true).unwrap();
    pair.disk.plan().add(Fault { effect: Effect::NoSpace, goes_on: true, ..pair.fault(Operation::Create, "retired-") });
    one.rest_when_idle().unwrap_err();
    // And none behind that.
    pair.disk.plan().reset();
    pair.disk.plan().add(Fault {
        nth: 2,
        effect: Effect::NoDescriptor,
        goes_on: true,
        ..pair.fault(Operation::Create, "retired-")
    });
    assert_eq!(one.rest().unwrap(), Rest::Retired);
    assert_eq!(pair.disk.plan().fired(), 0, "its marker is made once");
}

/// Its log is gone then, though the control block says that there is one: a commit behind it would be lost.
#[test]
fn a_rest_that_fails_behind_its_log_ends_the_engine() {
    // Each read of the file in turn, until a rest gets through.
    for nth in 1.. {
        let pair = Pair::new();
        let one = pair.claim();
        commit(&one, 3, 1, true).unwrap();
        pair.disk.plan().add(Fault { nth, ..pair.fault(Operation::Read, DATABASE_NAME) });
        if one.rest().is_ok() {
            assert!(nth > 3, "read {nth}");
            break;
        }
        let committed = commit(&one, 3, 2, true);
        assert_eq!(committed.is_ok(), !one.log.is_poisoned(), "read {nth}: {committed:?}");
        die(one);
        pair.disk.kill();
        assert_eq!(pair.recovered(), [if committed.is_ok() { 2 } else { 1 }; 3], "read {nth}");
    }
}

/// What a failed flush took is erased through another descriptor; where there is none, through the one that is there.
#[test]
fn a_failed_flush_is_taken_back_without_another_descriptor() {
    for failures in 1..=3 {
        let pair = Pair::new();
        let one = pair.claim();
        commit(&one, 3, 1, true).unwrap();
        for nth in 1..=failures {
            pair.disk.plan().add(Fault { nth, ..pair.fault(Operation::Sync, ".seg") });
        }
        let open = pair.fault(Operation::Open, ".seg");
        pair.disk.plan().add(Fault { effect: Effect::NoDescriptor, goes_on: true, ..open });
        commit(&one, 3, 2, true).unwrap_err();
        let told = one.log.check_poison().unwrap_err();
        let is_known = matches!(told, EngineError::Poisoned { unknown: false, .. });
        assert_eq!(is_known, failures < 3, "{failures} failures: {told}");
        die(one);
        pair.disk.kill();
        pair.disk.plan().clear();
        let recovered = pair.recovered();
        assert!(recovered == [1; 3] || !is_known && recovered == [2; 3], "{failures} failures: {recovered:?}");
    }
}

/// A failed write-back is told to the files that are open then. One that was closed and opened again since is not among them,
/// however old the engine's segment is.
#[test]
fn a_file_that_was_opened_again_is_young() {
    for reopened in [false, true] {
        let pair = Pair::new();
        let one = pair.claim();
        commit(&one, 3, 1, true).unwrap();
        one.log.marks.control().set_led_away();
        let view = staged(&one, 3, 2);
        one.committer.prepare(view.lane()).unwrap();
        one.publish(view.lane(), facts(&one, true), false).unwrap();
        let leader = one.lease.try_lead().unwrap();
        let epoch = one.flusher.write_epoch(&leader, false).unwrap().unwrap();
        pair.reopened.fetch_add(u64::from(reopened), SeqCst);
        let before = pair.disk.operations();
        one.flusher.sync_and_seal(&leader, epoch).unwrap();
        // A sync; or one more behind what was written again: a batch, a certificate.
        let operations = pair.disk.operations() - before;
        assert_eq!(operations > 1, reopened, "{operations} operations");
    }
}
