//! An error on the way: what is answered, and that what it leaves is what the next attempt, and the next process, expect.

use super::{
    BLOCK, Effect, Engine, EngineError, Fault, Operation, PAGE_BYTES, Pair, SEGMENT_BYTES, commit,
    commit_and_die_before_the_store, die, facts, staged,
};
use crate::disk::Database;
use crate::disk::fault::{DATABASE_NAME, DIRECTORY_NAME, PLACEHOLDER_NAME};
use crate::engine::Rest;
use crate::engine::segment_file::Segment;
use crate::engine::stopping::Stopping;
use crate::host::{DatabaseHandle, LockLevel};
use crate::log::format::{BATCH_HEADER_BYTES, segment_name};
use crate::shared::{COMMIT_RING, CommitEntry};
use crate::sqlite::Code;
use std::io;
use std::sync::Arc;

fn is_poison(error: &EngineError, is_unknown: bool) -> bool {
    matches!(error, EngineError::Poisoned { unknown, .. } if *unknown == is_unknown)
}

/// The segment in which the log ends.
fn last_segment(engine: &Engine) -> Segment {
    engine.files.segment(engine.log.tail().segment).unwrap()
}

fn names(pair: &Pair, part: &str) -> Vec<String> {
    pair.directory().list().unwrap().into_iter().filter(|name| name.contains(part)).collect()
}

/// Commits, in the same segment, until a batch of so many frames has to begin the next one.
fn fill(engine: &Arc<Engine>, frames: u64) {
    let segment = last_segment(engine);
    while engine.log.tail().offset + frames * BLOCK + 512 <= engine.tail.limit(&segment) {
        commit(engine, 1, engine.log.marks.published() + 1, false).unwrap();
    }
    assert_eq!(engine.log.tail().segment, segment.id);
}

/// Prepare may fail; publish, which follows a word to SQLite that it will not, should not.
#[test]
fn prepare_follows_the_others_before_anything_is_promised() {
    let pair = Pair::new();
    let (one, other) = (pair.claim(), pair.join());
    // Its batch has to be read; the next one begins a segment, which has room.
    commit(&one, 20, 1, true).unwrap();
    commit(&one, 5, 1, true).unwrap();
    let view = staged(&other, 1, 2);
    pair.disk.plan().add(Fault { goes_on: true, ..pair.fault(Operation::Read, ".seg") });
    let refused = other.committer.prepare(view.lane()).unwrap_err();
    assert_eq!(refused.code(), Code::IOERR, "{refused}");
    pair.disk.plan().clear();
    assert!(!one.log.is_poisoned());
    commit(&other, 1, 2, true).unwrap();
}

/// A commit for which the ring of commits has no room waits for a flush. If none can be begun it is refused, and nothing is
/// written over in the ring that is not durable.
#[test]
fn a_commit_that_waits_for_a_flush_that_cannot_begin_is_refused() {
    let pair = Pair::new();
    let one = pair.claim();
    commit(&one, 1, 1, false).unwrap();
    let control = one.log.marks.control();
    let entry = control.commit(1).unwrap();
    for sequence in 2.. {
        if one.log.marks.undurable_backlog_is_full() {
            break;
        }
        one.log.marks.member().mapping().allocate_commit(sequence).unwrap();
        control.publish(&CommitEntry { sequence, ..entry }).unwrap();
    }
    let (published, durable) = (one.log.marks.published(), one.log.marks.durable());
    assert!(published - durable >= COMMIT_RING / 2 - 1, "{published}, {durable}");
    let missing = Fault { effect: Effect::NoDescriptor, goes_on: true, ..pair.fault(Operation::Write, ".seg") };
    pair.disk.plan().add(missing);
    for _ in 0..2 {
        let refused = one.committer.prepare(staged(&one, 1, 7).lane()).unwrap_err();
        assert!(refused.is_out_of_descriptors(), "{refused}");
    }
    assert_eq!((one.log.marks.published(), one.log.marks.durable()), (published, durable));
    pair.disk.plan().clear();
    commit(&one, 1, 7, false).unwrap();
    assert_eq!(one.log.marks.durable(), published);
}

/// On the conservative path, too, a sync for which a descriptor is missing has not failed.
#[test]
fn a_batch_that_is_written_early_is_tried_again_where_a_descriptor_is_missing() {
    let pair = Pair::new();
    let one = pair.claim();
    commit(&one, 3, 1, true).unwrap();
    let view = staged(&one, 3, 2);
    one.committer.prepare(view.lane()).unwrap();
    pair.disk.plan().add(Fault { effect: Effect::NoDescriptor, ..pair.fault(Operation::Sync, ".seg") });
    let prepared = one.committer.write_prepared(view.lane(), facts(&one, true)).unwrap();
    assert_eq!(pair.disk.plan().fired(), 1);
    one.commit_prepared(prepared).unwrap();
    die(one);
    pair.lose_power();
    assert_eq!(pair.recovered(), [2; 3]);
}

/// A panic leaves a whole batch after the tail, which its commit was answered with an error for. If it cannot be erased, the
/// log ends, and says that it may come back.
#[test]
fn what_a_panic_left_and_cannot_be_erased_ends_the_log() {
    for goes_on in [false, true] {
        let pair = Pair::new();
        let one = pair.claim();
        commit(&one, 3, 1, true).unwrap();
        let view = staged(&one, 3, 2);
        one.committer.prepare(view.lane()).unwrap();
        let facts = facts(&one, false);
        drop(one.committer.write_prepared(view.lane(), facts).unwrap());
        pair.disk.plan().add(Fault { goes_on, ..pair.fault(Operation::Sync, ".seg") });
        one.append.take_back_after_panic(Some(facts.sequence));
        // What is published ends there: the poison has no record to erase but that it does not know.
        let ended = one.log.check_poison().unwrap_err();
        assert!(matches!(ended, EngineError::Poisoned { .. }), "{ended}");
        pair.disk.plan().clear();
        die(one);
        pair.disk.kill();
        assert_eq!(pair.recovered(), [1; 3], "goes on: {goes_on}");
    }
}

/// A process with one descriptor syncs the segment that ends before it writes to the next one. Its failure is answered; and
/// the next leader, to whose descriptor the kernel reports nothing, writes what lies there again.
#[test]
fn the_sync_of_a_segment_that_is_closed_for_the_next_one_may_fail() {
    let pair = Pair::new();
    let (one, other) = (pair.claim(), pair.join());
    commit(&one, 3, 1, true).unwrap();
    fill(&one, 6);
    let ends = last_segment(&one);
    let before = one.log.marks.published();
    let view = staged(&one, 6, 66);
    one.committer.prepare(view.lane()).unwrap();
    let next = segment_name(one.log.log_id, one.log.marks.control().next_segment().unwrap());
    pair.disk.plan().add(Fault { effect: Effect::NoDescriptor, ..pair.fault(Operation::Write, &next) });
    pair.disk.plan().add(pair.fault(Operation::Sync, &ends.name));
    let refused = one.publish(view.lane(), facts(&one, false), false).err().unwrap();
    assert!(matches!(refused, EngineError::Sync { .. }), "{refused}");
    assert_eq!(pair.disk.plan().fired(), 2);
    assert_eq!(one.log.marks.published(), before);
    assert!(one.log.marks.control().is_sync_in_doubt());
    commit(&other, 6, before + 1, true).unwrap();
    assert!(!one.log.marks.control().is_sync_in_doubt());
    die(one);
    die(other);
    pair.lose_power();
    assert_eq!(pair.recovered(), [before + 1; 3]);
}

/// What a dead process was making is not relied on before its space and its name are durable.
#[test]
fn a_segment_whose_space_may_be_refused_is_not_the_next_one() {
    for name in [".seg", DIRECTORY_NAME] {
        let pair = Pair::new();
        let one = pair.claim();
        commit(&one, 3, 1, true).unwrap();
        let number = u32::try_from(one.log.marks.control().give_segment_id()).unwrap();
        let file = pair.directory().open(&segment_name(one.log.log_id, number), super::OpenMode::CreateNew).unwrap();
        file.write_zeros(usize::try_from(SEGMENT_BYTES).unwrap(), 0).unwrap();
        fill(&one, 6);
        let (before, ordinal) = (one.log.marks.published(), one.log.tail().ordinal);
        pair.disk.plan().add(pair.fault(Operation::Sync, name));
        let refused = commit(&one, 6, 66, false).unwrap_err();
        assert!(matches!(refused, EngineError::Sync { .. }), "{name}: {refused}");
        assert_eq!(one.log.marks.control().next_segment(), None, "{name}");
        assert_eq!((one.log.marks.published(), one.log.tail().ordinal), (before, ordinal), "{name}");
        commit(&one, 6, before + 1, true).unwrap();
        die(one);
        pair.lose_power();
        assert_eq!(pair.recovered(), [before + 1; 3], "{name}");
    }
}

/// A segment that a dead writer began is deleted when zeros over its header are durable: until then it stays, and is free.
#[test]
fn a_begun_segment_whose_zeros_are_not_durable_is_not_deleted() {
    let pair = Pair::new();
    let (one, dies) = (pair.claim(), pair.join());
    commit(&one, 3, 1, true).unwrap();
    commit_and_die_before_the_store(dies, 12, 66);
    let begun = segment_name(one.log.log_id, one.log.marks.control().next_segment().unwrap());
    // The next one is another one, and the begun one is found as it was.
    commit(&one, 30, 2, true).unwrap();
    let segment = one.files.segment(1).unwrap();
    assert_eq!(segment.name, begun);
    let header = crate::log::format::SegmentHeader {
        log_id: one.log.log_id,
        block_bytes: one.log.block_bytes,
        page_bytes: PAGE_BYTES,
        segment_bytes: segment.bytes,
        ordinal: one.log.tail().ordinal + 1,
        first_sequence: 3,
        chain: 9,
    };
    segment.write(&header.encode(), 0).unwrap();
    one.checkpointer.checkpoint_when_idle().unwrap();
    pair.disk.plan().add(pair.fault(Operation::Sync, &begun));
    one.checkpointer.shrink();
    assert_eq!(pair.disk.plan().fired(), 1);
    assert_eq!(names(&pair, &begun), std::slice::from_ref(&begun));
    one.checkpointer.shrink();
    assert!(names(&pair, &begun).is_empty());
    commit(&one, 3, 3, true).unwrap();
}

/// The head of a small commit of another process is read for the CRCs of its images. Without it nothing is written to the database
/// file; the second time ends the engine, with the log kept.
#[test]
fn a_checkpoint_without_the_head_of_a_batch_writes_nothing() {
    let pair = Pair::new();
    let (one, other) = (pair.claim(), pair.join());
    commit(&other, 3, 1, true).unwrap();
    let (segment, entry) = (last_segment(&one), one.log.marks.control().commit(1).unwrap());
    let mut head = vec![0; BATCH_HEADER_BYTES];
    segment.file.read_at(&mut head, entry.offset).unwrap();
    segment.write(&vec![0; head.len()], entry.offset).unwrap();
    let refused = one.checkpointer.checkpoint_on_request().unwrap_err();
    assert!(matches!(refused, EngineError::NoCommit { sequence: 1, .. }), "{refused}");
    assert_eq!(one.log.marks.backfilled(), 0);
    assert!(!one.log.is_poisoned());
    one.checkpointer.checkpoint_on_request().unwrap_err();
    assert!(one.log.is_poisoned());
    segment.write(&head, entry.offset).unwrap();
    die(one);
    die(other);
    pair.disk.kill();
    assert_eq!(pair.recovered(), [1; 3]);
}

/// A log that rests after a commit; this sync of its directory will fail.
fn rested(nth: u64) -> (Pair, Arc<Engine>) {
    let pair = Pair::new();
    let one = pair.claim();
    commit(&one, 3, 1, true).unwrap();
    assert_eq!(one.rest().unwrap(), Rest::Retired);
    pair.disk.plan().add(Fault { nth, ..pair.fault(Operation::Sync, DIRECTORY_NAME) });
    (pair, one)
}

/// After a rest a failed activation has taken the marker away, durably or not. The next one makes it again before anything else; if
/// that fails, nothing is deleted.
#[test]
fn an_activation_that_cannot_mark_the_log_again_changes_nothing() {
    let mut tried = 0;
    for nth in 1..8 {
        let (pair, one) = rested(nth);
        if commit(&one, 3, 2, true).is_ok() || !names(&pair, "retired-").is_empty() {
            continue;
        }
        tried += 1;
        let segments = names(&pair, ".seg");
        assert!(!segments.is_empty());
        pair.disk.plan().add(pair.fault(Operation::Create, "retired-"));
        let refused = commit(&one, 3, 2, true).unwrap_err();
        assert!(refused.to_string().contains("retired-"), "{refused}");
        assert_eq!(names(&pair, ".seg"), segments);
        pair.disk.plan().clear();
        commit(&one, 3, 2, true).unwrap();
        die(one);
        pair.lose_power();
        assert_eq!(pair.recovered(), [2; 3]);
    }
    assert!(tried > 0);
}

/// A rest that cannot make its marker durable takes it away, and the log goes on. If that fails, too, the log ends: beside a marker
/// the next open would throw away what is committed after it.
#[test]
fn a_marker_of_a_rest_that_stays_ends_the_log() {
    for stays in [false, true] {
        let pair = Pair::new();
        let one = pair.claim();
        commit(&one, 3, 1, true).unwrap();
        one.checkpointer.checkpoint_when_idle().unwrap();
        pair.disk.plan().add(pair.fault(Operation::Sync, DIRECTORY_NAME));
        if stays {
            pair.disk.plan().add(pair.fault(Operation::Remove, "retired-"));
        }
        one.rest().unwrap_err();
        assert_eq!(pair.disk.plan().fired(), 1 + u64::from(stays));
        assert_eq!(names(&pair, "retired-").is_empty(), !stays);
        assert_eq!(one.log.is_poisoned(), stays);
        let committed = commit(&one, 3, 2, true);
        assert_eq!(committed.is_err(), stays, "{committed:?}");
        die(one);
        pair.disk.kill();
        assert_eq!(pair.recovered(), [if stays { 1 } else { 2 }; 3]);
    }
}

/// What a dead leader left is proven before it is written again: a page, a certificate, the header of a segment that has changed on
/// the disk ends the log, and what was not durable is answered with an error.
#[test]
fn what_a_dead_leader_left_and_has_rotted_ends_the_log() {
    for what in ["image", "certificate", "header"] {
        let pair = Pair::new();
        let (one, other) = (pair.claim(), pair.join());
        commit(&one, 3, 1, true).unwrap();
        fill(&one, 6);
        one.durability.wait_durable(one.log.marks.published()).unwrap();
        let durable = one.log.marks.published();
        let view = staged(&one, 6, durable + 1);
        one.committer.prepare(view.lane()).unwrap();
        one.publish(view.lane(), facts(&one, true), false).unwrap();
        let leader = one.lease.try_lead().unwrap();
        let epoch = one.flusher.write_epoch(&leader, false).unwrap().unwrap();
        std::mem::forget(leader);
        let control = other.log.marks.control();
        let (entry, record) = (control.commit(durable + 1).unwrap(), control.epoch(epoch).unwrap());
        let segment = last_segment(&one);
        die(one);
        let rotten = match what {
            "image" => entry.offset + 2 * BLOCK,
            "certificate" => record.offset + 100,
            _ => 40,
        };
        segment.write(&[0x5a; 8], rotten).unwrap();
        let refused = other.durability.wait_durable(durable + 1).unwrap_err();
        assert!(is_poison(&refused, false), "{what}: {refused}");
        assert_eq!(other.log.marks.durable(), durable, "{what}");
        die(other);
        pair.disk.kill();
        assert_eq!(pair.recovered(), [durable, 1, 1], "{what}");
    }
}

/// What a flush does not sync now need not be open: the next segment is opened when it begins.
#[test]
fn the_next_segment_need_not_be_open_before_it_begins() {
    let pair = Pair::new();
    let (one, other) = (pair.claim(), pair.join());
    // It knows where the segments are.
    commit(&other, 3, 1, true).unwrap();
    fill(&one, 9);
    one.committer.prepare(staged(&one, 9, 66).lane()).unwrap();
    let next = segment_name(one.log.log_id, one.log.marks.control().next_segment().unwrap());
    pair.disk.plan().add(Fault { effect: Effect::NoDescriptor, goes_on: true, ..pair.fault(Operation::Open, &next) });
    commit(&other, 1, 2, true).unwrap();
    assert_eq!(pair.disk.plan().fired(), 1, "it is looked for, and not waited for");
}

/// A thread of the engine's own that runs `act`; with `stops` it shall end.
fn in_background<T: Send>(engine: &Engine, stops: bool, act: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|threads| {
        let thread = threads.spawn(|| {
            Stopping::enter_background();
            act()
        });
        if stops {
            engine.log.stopping.stop(false);
        }
        let acted = thread.join().unwrap();
        engine.log.stopping.allow();
        acted
    })
}

/// Nothing is made ahead of need for a process that ends; and that is not what keeps one from being made afterwards. A disk that
/// has no room for it is not filled again before the log has gone on in another segment.
#[test]
fn a_segment_ahead_of_need_that_could_not_be_made_is_not_tried_again_and_again() {
    let pair = Pair::new();
    let one = pair.claim();
    commit(&one, 3, 1, true).unwrap();
    while one.log.tail().offset * 4 <= SEGMENT_BYTES {
        commit(&one, 1, one.log.marks.published() + 1, false).unwrap();
    }
    let next = || one.log.marks.control().next_segment();
    let there = names(&pair, ".seg");
    one.log.stopping.stop(false);
    in_background(&one, true, || one.segments.prepare_next_segment());
    assert_eq!((next(), names(&pair, ".seg")), (None, there.clone()), "it was begun, and is gone");

    let full = Fault { effect: Effect::NoSpace, goes_on: true, ..pair.fault(Operation::Write, ".seg") };
    pair.disk.plan().add(full);
    in_background(&one, false, || one.segments.prepare_next_segment());
    let fired = pair.disk.plan().fired();
    assert!(fired > 0);
    assert_eq!((next(), names(&pair, ".seg")), (None, there), "what could not be filled is gone");
    in_background(&one, false, || one.segments.prepare_next_segment());
    assert_eq!(pair.disk.plan().fired(), fired, "the disk is full still");
    pair.disk.plan().clear();
    let ordinal = one.log.tail().ordinal;
    while one.log.tail().ordinal == ordinal || one.log.tail().offset * 4 <= SEGMENT_BYTES {
        commit(&one, 1, one.log.marks.published() + 1, false).unwrap();
    }
    in_background(&one, false, || one.segments.prepare_next_segment());
    assert!(next().is_some());
}

/// What a checkpoint cannot write to the database file is no reason to end the engine, unless the next one fails as well.
#[test]
fn failed_checkpoints_end_the_engine_only_one_after_the_other() {
    let pair = Pair::new();
    let one = pair.claim();
    let fails = || {
        pair.disk.plan().add(pair.fault(Operation::Sync, DATABASE_NAME));
        one.checkpointer.checkpoint_on_request().unwrap_err();
    };
    for value in 1..=3 {
        commit(&one, 3, value, true).unwrap();
        fails();
        assert!(!one.log.is_poisoned(), "commit {value}");
        one.checkpointer.checkpoint_on_request().unwrap();
    }
    commit(&one, 3, 4, true).unwrap();
    fails();
    fails();
    assert!(one.log.is_poisoned());
    die(one);
    pair.disk.kill();
    assert_eq!(pair.recovered(), [4; 3]);
}

/// An activation whose segment cannot be made leaves a plain file with nothing beside it that would keep stock SQLite out.
#[test]
fn an_activation_without_a_segment_leaves_no_placeholder() {
    let pair = Pair::new();
    let one = pair.claim();
    pair.disk.plan().add(Fault { effect: Effect::NoSpace, ..pair.fault(Operation::Write, ".seg") });
    let refused = commit(&one, 3, 1, true).unwrap_err();
    assert_eq!(refused.code(), Code::FULL);
    assert!(names(&pair, ".seg").is_empty());
    // What is not there is not removed a second time: this one would fail.
    pair.disk.plan().clear();
    pair.disk.plan().add(pair.fault(Operation::Create, PLACEHOLDER_NAME));
    commit(&one, 3, 1, true).unwrap_err();
    commit(&one, 3, 1, true).unwrap();
}

/// A0. The stamp of an activation that failed goes before anything else, and durably.
#[test]
fn an_activation_that_cannot_take_back_a_stamp_changes_nothing() {
    for operation in [Operation::Write, Operation::Sync] {
        let pair = Pair::new();
        let one = pair.claim();
        pair.disk.plan().add(pair.fault(Operation::Sync, DATABASE_NAME));
        commit(&one, 3, 1, true).unwrap_err();
        let segments = names(&pair, ".seg");
        assert!(!segments.is_empty());
        pair.disk.plan().clear();
        pair.disk.plan().add(pair.fault(operation, DATABASE_NAME));
        let refused = commit(&one, 3, 1, true).unwrap_err();
        assert!(matches!(refused, EngineError::Database { .. }), "{operation:?}: {refused}");
        assert!(one.log.marks.control().may_be_stamped(), "{operation:?}");
        assert_eq!(names(&pair, ".seg"), segments, "{operation:?}");
        commit(&one, 3, 1, true).unwrap();
        die(one);
        pair.lose_power();
        assert_eq!(pair.recovered(), [1; 3], "{operation:?}");
    }
}

/// After a rest the marker goes, durably, before a commit is in the log: it would say that there is none. Whichever sync of the
/// directory fails, the activation does.
#[test]
fn a_marker_of_a_rest_that_may_come_back_ends_the_activation() {
    let mut failed = 0;
    for nth in 1..8 {
        let (pair, one) = rested(nth);
        let committed = commit(&one, 3, 2, true);
        assert_eq!(committed.is_err(), pair.disk.plan().fired() > 0, "sync {nth}");
        failed += pair.disk.plan().fired();
        pair.disk.plan().clear();
        die(one);
        pair.lose_power();
        assert_eq!(pair.recovered(), [if committed.is_ok() { 2 } else { 1 }; 3], "sync {nth}");
    }
    assert!(failed > 1, "{failed}");
}

/// A flush failed, and what it took cannot be opened for its erasure: it may come back.
#[test]
fn what_cannot_be_opened_for_its_erasure_has_an_unknown_outcome() {
    let pair = Pair::new();
    let one = pair.claim();
    commit(&one, 3, 1, true).unwrap();
    pair.disk.plan().add(pair.fault(Operation::Sync, ".seg"));
    pair.disk.plan().add(Fault { goes_on: true, ..pair.fault(Operation::Open, ".seg") });
    commit(&one, 3, 2, true).unwrap_err();
    let ended = one.log.check_poison().unwrap_err();
    assert!(is_poison(&ended, true), "{ended}");
}

/// The kernel has reported a failed write-back to a leader that died after it had released LEADER. The next one proves what it left
/// before it leads; where that cannot be begun, it does not.
#[test]
fn a_leader_that_could_not_prove_what_was_left_does_not_lead() {
    let pair = Pair::new();
    let (one, other) = (pair.claim(), pair.join());
    commit(&one, 3, 1, true).unwrap();
    let view = staged(&one, 3, 2);
    one.committer.prepare(view.lane()).unwrap();
    one.publish(view.lane(), facts(&one, true), false).unwrap();
    let leader = one.lease.try_lead().unwrap();
    one.flusher.write_epoch(&leader, false).unwrap();
    pair.disk.plan().add(pair.fault(Operation::Sync, ".seg"));
    last_segment(&one).sync().unwrap_err();
    drop(leader);
    die(one);
    pair.disk.plan().reset();
    pair.disk.plan().add(Fault { effect: Effect::NoDescriptor, ..pair.fault(Operation::Read, ".seg") });
    other.durability.wait_durable(2).unwrap();
    assert_eq!(pair.disk.plan().fired(), 1);
    die(other);
    pair.lose_power();
    assert_eq!(pair.recovered(), [2; 3]);
}

/// A database handle whose EXCLUSIVE is refused, and the lock that it has.
#[derive(Debug)]
struct Refused(Option<LockLevel>);

impl Database for Refused {
    fn read_at(&mut self, _buffer: &mut [u8], _offset: u64) -> io::Result<usize> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn write_at(&mut self, _data: &[u8], _offset: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn set_bytes(&mut self, _bytes: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn sync(&mut self) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn bytes(&mut self) -> io::Result<u64> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

impl DatabaseHandle for Refused {
    fn lock(&mut self, level: LockLevel) -> Result<(), Code> {
        if level == LockLevel::Exclusive {
            // As SQLite leaves it.
            self.0 = Some(LockLevel::Pending);
            return Err(Code::BUSY);
        }
        self.0 = Some(level);
        Ok(())
    }

    fn unlock(&mut self, level: LockLevel) -> Result<(), Code> {
        self.0 = (level != LockLevel::None).then_some(level);
        Ok(())
    }

    fn read_only(&self) -> bool {
        false
    }
}

/// A process that is refused EXCLUSIVE, or has lost it, keeps no lock on the file, and leaves EXCL to the others.
#[test]
fn a_process_that_is_refused_exclusive_keeps_nothing() {
    let pair = Pair::new();
    let (one, other) = (pair.claim(), pair.join());
    commit(&one, 3, 1, true).unwrap();
    let mut refused = Refused(None);
    let holder = || one.log.marks.control().exclusive_holder();
    one.exclusive.release();
    assert!(!other.exclusive.try_acquire(&mut refused));
    assert_eq!((refused.0, holder()), (None, None));
    assert!(other.exclusive.acquire());
    assert_eq!(holder(), Some(other.log.marks.member().me()));
    assert!(!other.exclusive.confirm(&mut refused), "it was lost since");
    assert_eq!((refused.0, holder()), (None, None));
    let third = pair.join();
    assert!(third.exclusive.acquire());
}
