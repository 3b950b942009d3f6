//! Rules that no random world comes to: each test fails with its rule dropped (`docs/mutants.md`).

use super::{BLOCK, PAGE_BYTES, Pair, SEGMENT_BYTES, commit, die, facts, image, leave_a_segment, staged, staged_in};
use crate::disk::OpenMode;
use crate::disk::fault::{DATABASE_NAME, DIRECTORY_NAME, Fault, Operation};
use crate::engine::leader::Leader;
use crate::engine::lease::Stall;
use crate::engine::tail::Record;
use crate::engine::{CommitFacts, Engine, EngineError, Rest};
use crate::log::format::{segment_name, spill_name};
use crate::log::stamp::{Stamp, StampState};
use crate::view::View;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Of what was not synced a power cut leaves what the dice say.
const SEEDS: std::ops::Range<u64> = 0..8;

/// A0. An activation after a rest fails when its stamp is durable. The next try fails before the segment of the first is deleted,
/// or after that: the database file has no stamp then, durably, and beside a segment that is left there is the marker.
#[test]
fn an_activation_that_is_tried_again_leaves_no_stamp_without_a_segment() {
    for (operation, name) in [(Operation::Remove, "retired"), (Operation::Sync, DIRECTORY_NAME)] {
        for again in [Operation::Remove, Operation::Create] {
            for (seed, nth) in SEEDS.flat_map(|seed| (1..8).map(move |nth| (seed, nth))) {
                let what = format!("{operation:?} {name} {nth}, {again:?}, seed {seed}");
                let pair = Pair::with_dice(seed);
                let one = pair.claim();
                commit(&one, 3, 1, true).unwrap();
                assert_eq!(one.rest().unwrap(), Rest::Retired);
                pair.disk.plan().add(Fault { nth, ..pair.fault(operation, name) });
                let is_refused = commit(&one, 3, 2, true).is_err();
                assert!(is_refused || nth > 1, "{what}: nothing failed");
                pair.disk.plan().clear();
                let has_segment = || pair.directory().list().unwrap().iter().any(|name| name.contains(".seg"));
                if is_refused && (again == Operation::Create || has_segment()) {
                    pair.disk.plan().add(pair.fault(again, ".seg"));
                    commit(&one, 3, 2, true).unwrap_err();
                    die(one);
                    if again == Operation::Create {
                        // A deletion may be durable, and what came before it not.
                        pair.lose_power_but(50);
                    } else {
                        pair.disk.kill();
                    }
                    assert_eq!(pair.recovered(), [1; 3], "{what}");
                }
            }
        }
    }
}

/// An activation after a rest fails at its stamp: what was durable is so still, and nothing waits for a flush that no log takes.
#[test]
fn an_activation_that_fails_after_a_rest_takes_back_no_certificate() {
    let pair = Pair::new();
    let one = pair.claim();
    commit(&one, 3, 1, true).unwrap();
    assert_eq!(one.rest().unwrap(), Rest::Retired);
    pair.disk.plan().add(pair.fault(Operation::Write, DATABASE_NAME));
    commit(&one, 3, 2, true).unwrap_err();
    assert_eq!(one.log.marks.durable(), 1);
    assert_eq!(one.on_demand.sync_published().unwrap(), 1);
    commit(&one, 3, 2, true).unwrap();
    assert_eq!(one.log.marks.durable(), 2);
    die(one);
    pair.lose_power();
    assert_eq!(pair.recovered(), [2; 3]);
}

/// R6. A dead process had made a segment, and its name was not durable yet.
#[test]
fn the_slot_of_a_dead_process_has_a_durable_name_before_commits_rely_on_it() {
    for seed in SEEDS {
        let pair = Pair::with_dice(seed);
        let one = pair.claim();
        commit(&one, 3, 1, true).unwrap();
        let number = u32::try_from(one.log.marks.control().give_segment_id()).unwrap();
        let file = pair.directory().open(&segment_name(one.log.log_id, number), OpenMode::CreateNew).unwrap();
        file.write_zeros(usize::try_from(24 * BLOCK).unwrap(), 0).unwrap();
        while one.log.tail().segment == 0 {
            commit(&one, 3, one.log.marks.published() + 1, true).unwrap();
        }
        assert_eq!(one.log.tail().segment, number);
        let last = one.log.marks.published();
        die(one);
        pair.lose_power();
        assert_eq!(pair.recovered(), [last; 3], "seed {seed}");
    }
}

/// A commit that is published, and durable on the medium, though nobody was told.
fn publish_and_sync(engine: &Arc<Engine>, value: u64, wants_durable: bool) -> u64 {
    let view = staged(engine, 3, value);
    engine.committer.prepare(view.lane()).unwrap();
    let facts = facts(engine, wants_durable);
    engine.publish(view.lane(), facts, false).unwrap();
    engine.files.segment(engine.log.tail().segment).unwrap().sync().unwrap();
    facts.sequence
}

/// Runs `act` in a thread, which has to wait for APPEND, and `meanwhile` once it does.
fn while_it_waits_for_append<R: Send>(
    holder: &Arc<Engine>,
    act: impl FnOnce() -> R + Send,
    meanwhile: impl FnOnce(),
) -> R {
    let append = holder.append.lock().unwrap();
    let lock = holder.log.marks.control().append();
    std::thread::scope(|threads| {
        let waits = threads.spawn(act);
        while !lock.look().is_waited_for() {
            assert!(!waits.is_finished(), "it does not wait for APPEND");
            std::thread::yield_now();
        }
        meanwhile();
        drop(append);
        waits.join().unwrap()
    })
}

/// R5. A commit was answered with an error, though all of it is on the medium: it does not come back after a power cut.
#[test]
fn what_was_answered_with_an_error_is_erased_durably() {
    let pair = Pair::new();
    let one = pair.claim();
    commit(&one, 3, 1, true).unwrap();
    let sequence = publish_and_sync(&one, 2, true);
    pair.disk.plan().add(pair.fault(Operation::Sync, ".seg"));
    one.durability.acknowledge(sequence, true, None).unwrap_err();
    die(one);
    pair.lose_power();
    assert_eq!(pair.recovered(), [1; 3]);
}

/// R5. Neither does one that rolls back behind its batch and certificate, which are on the medium.
#[test]
fn a_prepared_batch_that_rolls_back_is_erased_durably() {
    for seed in SEEDS {
        let pair = Pair::with_dice(seed);
        let one = pair.claim();
        commit(&one, 3, 1, true).unwrap();
        let view = staged(&one, 3, 2);
        one.committer.prepare(view.lane()).unwrap();
        let prepared = one.committer.write_prepared(view.lane(), facts(&one, true)).unwrap();
        one.committer.rollback_prepared(prepared).unwrap();
        die(one);
        pair.lose_power();
        assert_eq!(pair.recovered(), [1; 3], "seed {seed}");
    }
}

/// R5. A commit under NORMAL was acknowledged before the flush failed: it stays in the log.
#[test]
fn what_was_acknowledged_before_a_flush_failed_is_kept() {
    let pair = Pair::new();
    let one = pair.claim();
    commit(&one, 3, 1, true).unwrap();
    let acknowledged = publish_and_sync(&one, 2, false);
    one.durability.acknowledge(acknowledged, false, None).unwrap();
    let sequence = publish_and_sync(&one, 3, true);
    pair.disk.plan().add(pair.fault(Operation::Sync, ".seg"));
    one.durability.acknowledge(sequence, true, None).unwrap_err();
    die(one);
    pair.lose_power();
    assert_eq!(pair.recovered(), [2; 3]);
}

/// R7. Another program has written to the file since the claim: a stamp would make the log's pages count above it.
#[test]
fn no_stamp_is_written_on_a_file_that_has_changed() {
    let pair = Pair::new();
    let one = pair.claim();
    pair.disk.edit(&super::sim_path(), |file| file[60] ^= 1);
    let refused = commit(&one, 3, 1, true).unwrap_err();
    assert!(matches!(refused, EngineError::Changed { .. }), "{refused}");
    die(one);
    assert_eq!(pair.recovered(), [0; 3]);
}

/// A pass died on the way to commit 2: the beginning of the file is not what commit 1 left.
#[test]
fn the_copy_of_page_one_is_of_the_commit_that_it_names() {
    let pair = Pair::new();
    let one = pair.claim();
    commit(&one, 3, 1, true).unwrap();
    commit(&one, 3, 2, true).unwrap();
    let mut database = pair.database_handle();
    for (stamped, copied) in [(2, None), (1, Some(1))] {
        let mut first = vec![0; 4096];
        database.read_at(&mut first, 0).unwrap();
        let stamp = Stamp { log_id: one.log.log_id, backfill_target: stamped };
        stamp.apply(&mut first);
        database.write_at(&first, 0).unwrap();
        assert_eq!(crate::log::stamp::read(&first), StampState::Stamped(stamp));
        *one.checkpointer.page_one.copy.lock() = None;
        one.checkpointer.page_one.take(database.as_mut(), 1).unwrap();
        assert_eq!(one.checkpointer.page_one.copy.lock().as_ref().map(|copy| copy.sequence), copied);
    }
}

/// Before a segment is written over, the control block says that its commits are in the database file alone.
#[test]
fn commits_of_a_segment_that_is_used_again_are_read_from_the_database_file() {
    let pair = Pair::new();
    let one = pair.claim();
    commit(&one, 3, 1, true).unwrap();
    let mut was = (one.log.tail(), 0);
    let mut last_in = std::collections::BTreeMap::new();
    let mut again = 0;
    while again < 3 {
        one.checkpointer.checkpoint_when_idle().unwrap();
        let sequence = one.log.marks.published() + 1;
        commit(&one, 3, sequence, true).unwrap();
        let tail = one.log.tail();
        if tail.ordinal != was.0.ordinal {
            last_in.insert(was.0.segment, was.1);
            if let Some(last) = last_in.get(&tail.segment) {
                assert!(one.log.marks.recycled(*last), "commit {last} of file {}", tail.segment);
                again += 1;
            }
        }
        was = (tail, sequence);
    }
}

/// The same before a segment is deleted: a reader that has its file open may find anything in it while it is truncated.
#[test]
fn commits_of_a_segment_that_is_deleted_are_read_from_the_database_file() {
    let pair = Pair::new();
    let one = pair.claim();
    let mut last_in = std::collections::BTreeMap::new();
    while last_in.len() < 4 {
        let sequence = one.log.marks.published() + 1;
        commit(&one, 3, sequence, true).unwrap();
        last_in.insert(one.log.tail().segment, sequence);
    }
    one.checkpointer.checkpoint_when_idle().unwrap();
    one.checkpointer.shrink();
    let there = pair.directory().list().unwrap();
    last_in.retain(|segment, _| !there.contains(&segment_name(one.log.log_id, *segment)));
    assert!(!last_in.is_empty(), "{there:?}");
    for (segment, last) in last_in {
        assert!(one.log.marks.recycled(last), "commit {last} of file {segment}");
    }
}

/// A3. The marker of a rest goes durably before commits rely on the log that comes after it.
#[test]
fn the_marker_of_a_rest_does_not_come_back() {
    for seed in SEEDS {
        let pair = Pair::with_dice(seed);
        let one = pair.claim();
        commit(&one, 3, 1, true).unwrap();
        assert_eq!(one.rest().unwrap(), Rest::Retired);
        commit(&one, 3, 2, true).unwrap();
        commit(&one, 2, 3, true).unwrap();
        die(one);
        pair.lose_power();
        assert_eq!(pair.recovered(), [3, 3, 2]);
    }
}

/// Commit 1 is durable; commit 2 is published, and part of the epoch that `one` has begun as its leader.
fn lead_commit_2(one: &Arc<Engine>) -> (Leader, u64) {
    commit(one, 3, 1, true).unwrap();
    publish_and_sync(one, 2, true);
    let leader = one.lease.try_lead().unwrap();
    let epoch = one.flusher.write_epoch(&leader, false).unwrap().unwrap();
    (leader, epoch)
}

/// A leader that seems to stand still goes on while another process waits for APPEND to take LEADER from it.
#[test]
fn leader_is_not_taken_from_a_process_that_has_gone_on() {
    let pair = Pair::new();
    let (one, other) = (pair.claim(), pair.join());
    let (leader, epoch) = lead_commit_2(&one);
    let (mut stall, began) = (Stall::new(), Instant::now());
    assert!(other.lease.lead_for_other(&mut stall).unwrap().is_none(), "it has just been seen");
    while began.elapsed() < Duration::from_millis(1100) {
        std::thread::sleep(Duration::from_millis(20));
    }
    let control = one.log.marks.control();
    let taken = while_it_waits_for_append(
        &one,
        || other.lease.lead_for_other(&mut stall).unwrap().is_some(),
        || control.certify(epoch),
    );
    assert!(!taken);
    assert_eq!(control.leader().holder(), Some(one.log.marks.member().me()));
    drop(leader);
}

/// The process lost LEADER while it waited for APPEND: the epoch is not its to seal.
#[test]
fn no_certificate_is_in_the_batch_of_a_process_that_has_lost_leader() {
    for goes_on in [true, false] {
        let pair = Pair::new();
        let (one, other) = (pair.claim(), pair.join());
        commit(&one, 3, 1, true).unwrap();
        let view = staged(&one, 3, 2);
        one.committer.prepare(view.lane()).unwrap();
        let (me, taker) = (one.log.marks.member().me(), other.log.marks.member().me());
        let control = one.log.marks.control();
        let prepared = while_it_waits_for_append(
            &other,
            || {
                one.committer
                    .write_prepared(view.lane(), facts(&one, true))
                    .map(|prepared| one.committer.rollback_prepared(prepared).unwrap())
            },
            || assert!(control.leader().take_over(me, taker)),
        );
        assert!(matches!(prepared, Err(EngineError::LockHeld { .. })), "{prepared:?}");
        assert!(control.leader().release(taker));
        if goes_on {
            commit(&one, 3, 3, true).unwrap();
        }
        die(one);
        die(other);
        // Where nothing follows the batch is whole on the medium unless it was erased.
        if goes_on {
            pair.lose_power()
        } else {
            pair.disk.kill()
        }
        assert_eq!(pair.recovered(), if goes_on { [3; 3] } else { [1; 3] });
    }
}

/// R5. What could not be erased is erased again, with all that is not durable, and nothing is committed after it.
#[test]
fn a_batch_that_cannot_be_erased_at_once_ends_the_engine() {
    for operation in [Operation::Write, Operation::Sync] {
        let pair = Pair::new();
        let one = pair.claim();
        commit(&one, 3, 1, true).unwrap();
        let view = staged(&one, 3, 2);
        one.committer.prepare(view.lane()).unwrap();
        let prepared = one.committer.write_prepared(view.lane(), facts(&one, true)).unwrap();
        pair.disk.plan().add(pair.fault(operation, ".seg"));
        one.committer.rollback_prepared(prepared).unwrap_err();
        assert!(commit(&one, 3, 3, true).is_err(), "{operation:?}");
        die(one);
        pair.lose_power();
        assert_eq!(pair.recovered(), [1; 3], "{operation:?}");
    }
}

/// A process died holding APPEND, and another one has its process slot: the lock is free, and nobody takes it for the new process's.
#[test]
fn a_process_in_the_slot_of_a_dead_one_does_not_hold_its_locks() {
    let pair = Pair::new();
    let (one, other) = (pair.claim(), pair.join());
    commit(&one, 3, 1, true).unwrap();
    let dead = one.log.marks.member().me();
    std::mem::forget(one.append.lock().unwrap());
    die(one);
    let next = pair.join();
    assert_eq!(next.log.marks.member().me().slot, dead.slot);
    assert!(!other.log.marks.member().is_alive(dead), "its slot is another one's");
    assert_eq!(next.log.marks.control().append().holder(), None);
    commit(&other, 3, 2, true).unwrap();
}

/// A reader has looked up in which spill file a frame lies; before it reads, checkpoints take the file away.
#[test]
fn a_frame_whose_spill_file_goes_before_it_is_read_is_in_the_database_file() {
    let pair = Pair::new();
    let one = pair.claim();
    let mut number = None;
    let mut view = View::new(PAGE_BYTES, 1 << 20);
    view.set_lane_bytes_max(1);
    let view = staged_in(&one, view, 3, 7, &mut || {
        let (created, file) = one.spills.create()?;
        number = Some(created);
        Ok(file)
    });
    one.committer.prepare(view.lane()).unwrap();
    let facts = CommitFacts { spill: number, ..facts(&one, true) };
    let published = one.publish(view.lane(), facts, true).unwrap();
    one.durability.acknowledge(facts.sequence, true, published.self_sealed).unwrap();
    let spill = spill_name(one.log.log_id, number.expect("a spill file"));
    let is_there = || pair.directory().list().unwrap().contains(&spill);
    let (frame, file) = one.frames.read().locate(one.reader.last_number(facts.sequence)).expect("the last frame");
    let mut page = vec![0; PAGE_BYTES as usize];
    assert!(one.reader.read_located(&frame, file.as_deref(), 0, &mut page).unwrap() && is_there());
    assert_eq!(page, image(frame.page, 7));
    one.checkpointer.checkpoint_on_request().unwrap();
    one.checkpointer.certify_backfilled().unwrap();
    assert!(!is_there(), "the commit is in the database file");
    // As long as it is open it reads as it was; once it is closed, it is empty.
    let is_there = |page: &mut Vec<u8>| one.reader.read_located(&frame, file.as_deref(), 0, page).unwrap();
    let reads = (0..64).take_while(|_| {
        page.fill(0);
        is_there(&mut page) && page == image(frame.page, 7)
    });
    assert!(reads.count() < 64 && !is_there(&mut page));
}

/// What this process has just published is read without the log where it has several connections; not what a failed flush takes.
#[test]
fn a_recent_image_is_read_from_memory() {
    let pair = Pair::new();
    let one = pair.claim();
    let connections = [one.connections.add().unwrap(), one.connections.add().unwrap()];
    commit(&one, 3, 1, true).unwrap();
    commit(&one, 2, 2, true).unwrap();
    let unreadable = || pair.disk.plan().add(Fault { goes_on: true, ..pair.fault(Operation::Read, ".seg") });
    unreadable();
    let mut page = vec![0; PAGE_BYTES as usize];
    for (number, expected) in [(3, image(3, 1)), (4, image(1, 2)), (5, image(2, 2))] {
        assert!(one.reader.read_frame(number, 0, &mut page).unwrap());
        assert_eq!(page, expected);
    }
    let [first, second] = connections;
    assert!(!one.connections.remove(first));
    pair.disk.plan().clear();
    commit(&one, 3, 3, true).unwrap();
    unreadable();
    assert!(
        matches!(one.reader.read_frame(6, 0, &mut page), Err(EngineError::Read { .. })),
        "one connection keeps none"
    );
    pair.disk.plan().clear();
    let third = one.connections.add().unwrap();
    // Published and read, and then its flush fails.
    let view = staged(&one, 3, 4);
    one.committer.prepare(view.lane()).unwrap();
    let facts = facts(&one, true);
    let published = one.publish(view.lane(), facts, false).unwrap();
    assert!(one.reader.read_frame(published.first_number, 0, &mut page).unwrap());
    assert_eq!(page, image(1, 4));
    pair.disk.plan().add(pair.fault(Operation::Sync, ".seg"));
    one.durability.acknowledge(facts.sequence, true, published.self_sealed).unwrap_err();
    assert!(matches!(one.reader.read_frame(published.first_number, 0, &mut page), Err(EngineError::Poisoned { .. })));
    let _last = (one.connections.remove(second), one.connections.remove(third));
}

/// A flush has made commit 2 durable, and seals it while another process poisons the log: commit 3, which no process shows by then, is
/// answered with an error, and does not come back.
#[test]
fn nothing_becomes_visible_once_the_log_is_being_poisoned() {
    let pair = Pair::new();
    let (one, other) = (pair.claim(), pair.join());
    let (leader, epoch) = lead_commit_2(&one);
    one.files.segment(one.log.tail().segment).unwrap().sync().unwrap();
    let sequence = publish_and_sync(&other, 3, false);
    let control = one.log.marks.control();
    assert!((control.visible(), sequence) == (1, 3), "it waits for commit 2");
    control.poison();
    one.log.marks.certify(epoch, 0);
    assert_eq!(control.durable(), 2);
    drop(leader);
    // The next owner of APPEND finishes what the other one has begun.
    let refused = other.durability.acknowledge(sequence, false, None);
    assert!(matches!(refused, Err(EngineError::Poisoned { .. })), "{refused:?}");
    die(one);
    die(other);
    pair.disk.kill();
    assert_eq!(pair.recovered(), [2; 3]);
}

/// The first batch of a segment is published, and its writer died before it stored that the segment is not the next one any more.
/// What does not fit there any more does not begin it anew.
#[test]
fn a_segment_that_a_dead_writer_began_to_use_is_not_the_next_one() {
    let pair = Pair::new();
    let (one, other) = (pair.claim(), pair.join());
    let next = || commit(&one, 3, one.log.marks.published() + 1, true).unwrap();
    next();
    while one.log.tail().ordinal == 1 {
        next();
    }
    let (control, tail) = (one.log.marks.control(), one.log.tail());
    control.set_next_segment(Some(tail.segment));
    die(one);
    let append = other.append.lock().unwrap();
    let first = other.log.marks.published() + 1;
    // There is room for it in a segment that nobody has begun.
    let batch = Record::Batch { bytes: SEGMENT_BYTES - 10 * BLOCK, is_sealed: false };
    let place = other.tail.place(&append, batch, first).unwrap();
    assert!(place.is_none(), "{place:?} after {tail:?}");
    drop(append);
    commit(&other, 3, first, true).unwrap();
    die(other);
    pair.disk.kill();
    assert_eq!(pair.recovered(), [first; 3]);
}

/// All that a segment holds is in the database file, and a later certificate says so; but its own doubled one has the only copy of page
/// 1. A process that joins later, and remembers nothing of it, does not use it again.
#[test]
fn the_segment_of_the_last_copy_of_page_one_is_not_free() {
    let pair = Pair::new();
    let one = pair.claim();
    leave_a_segment(&one);
    let other = pair.join();
    commit(&other, 3, 1000, true).unwrap();
    let record = other.log.marks.control().certified_epoch().unwrap();
    assert!(record.doubled_ordinal < record.ordinal, "the certificate of the last commit is in the next segment");
    let third = pair.join();
    let (all, tail) = third.segments.survey().unwrap();
    let ordinals: Vec<u64> = third
        .segments
        .free_segments(&all, tail)
        .iter()
        .filter_map(|free| third.files.header_of(&free.segment).unwrap())
        .map(|header| header.ordinal)
        .collect();
    assert!(!ordinals.contains(&record.doubled_ordinal), "{ordinals:?} {record:?}");
}

/// A leader that could not sync leaves its epoch record to the next one: a commit of that epoch is notified, since no other may wait.
#[test]
fn a_leader_that_leaves_an_epoch_to_be_certified_notifies_its_commits() {
    let pair = Pair::new();
    let one = pair.claim();
    commit(&one, 3, 1, true).unwrap();
    let view = staged(&one, 1, 2);
    one.committer.prepare(view.lane()).unwrap();
    let facts = facts(&one, true);
    one.publish(view.lane(), facts, false).unwrap();
    let leader = one.lease.try_lead().unwrap();
    let epoch = one.flusher.write_epoch(&leader, false).unwrap().unwrap();
    let events = one.log.marks.control().flush_events();
    let tickets = [epoch, epoch + 1].map(|epoch| (epoch, events.of(epoch).ticket()));
    drop(leader);
    for (epoch, ticket) in tickets {
        assert!(events.of(epoch).wait(ticket, Duration::ZERO), "epoch {epoch}");
    }
    one.durability.acknowledge(facts.sequence, true, None).unwrap();
    assert_eq!(one.log.marks.control().last_certified_epoch(), epoch);
}

/// A dead leader left a batch and its certificate in a segment whose header is durable: these two are written again, and the header is
/// not, which a power cut might tear, with all that is durable after it.
#[test]
fn a_header_that_is_durable_is_not_written_again() {
    let pair = Pair::new();
    let (one, other) = (pair.claim(), pair.join());
    while one.log.tail().ordinal < 3 {
        commit(&one, 3, one.log.marks.published() + 1, true).unwrap();
    }
    commit(&one, 1, 100, true).unwrap();
    let sequence = publish_and_sync(&one, 101, true);
    let leader = one.lease.try_lead().unwrap();
    one.flusher.write_epoch(&leader, false).unwrap().unwrap();
    assert_eq!(one.log.first_unsynced_segment(), one.log.tail().ordinal, "the header is durable");
    std::mem::forget(leader);
    die(one);
    pair.disk.plan().add(Fault { nth: 3, ..pair.fault(Operation::Write, ".seg") });
    other.durability.acknowledge(sequence, true, None).unwrap();
    // The fault is still there: two writes were made.
    commit(&other, 1, 102, true).unwrap_err();
}
