//! Requests to the engine's own threads: each is done, and then can be made again.

use super::{AnyDatabaseHandle, Pair, commit, die, sim_path};
use crate::engine::Engine;
use crate::os::without_new_threads;
use crate::shared::COMMIT_RING;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Makes the request until it is done, as each commit does: one that comes while the same is pending is none.
fn until(engine: &Arc<Engine>, what: &str, request: impl Fn(), done: impl Fn(&Arc<Engine>) -> bool) {
    let began = Instant::now();
    while !done(engine) {
        request();
        assert!(began.elapsed() < Duration::from_secs(30), "{what}: not done");
        std::thread::yield_now();
    }
}

#[test]
fn what_was_done_once_can_be_requested_again() {
    let pair = Pair::new();
    let engine = pair.claim();
    engine.background.allow();
    for round in 1..=3 {
        let next = || commit(&engine, 3, engine.log.marks.published() + 1, false).unwrap();
        next();
        let is_durable = |engine: &Arc<Engine>| engine.log.marks.durable() == engine.log.marks.published();
        until(&engine, "a flush", || engine.background.request_flush(&engine), is_durable);
        let is_backfilled = |engine: &Arc<Engine>| engine.log.marks.backfilled() == engine.log.marks.published();
        until(&engine, "a checkpoint", || engine.background.request_checkpoint(&engine), is_backfilled);

        let ordinal = engine.log.tail().ordinal;
        let bytes = engine.files.segment(engine.log.tail().segment).unwrap().bytes;
        while engine.log.tail().offset * 4 <= bytes {
            next();
        }
        let is_chosen = |engine: &Arc<Engine>| {
            engine.log.marks.control().next_segment().is_some_and(|segment| segment != engine.log.tail().segment)
        };
        until(&engine, "a segment", || engine.background.request_segment(&engine), is_chosen);
        assert_eq!(engine.log.tail().ordinal, ordinal, "round {round}: by the thread, not by a writer");
        while engine.log.tail().ordinal == ordinal {
            next();
        }
    }
    engine.background.stop(false);
    die(engine);
}

/// A request for which the system makes no thread is none, and the next one is: it is not pending for ever. (A thread that another
/// test's engine has left may do the first one.)
#[test]
fn a_request_for_which_there_is_no_thread_can_be_made_again() {
    let pair = Pair::new();
    let engine = pair.claim();
    engine.background.allow();
    commit(&engine, 3, 1, false).unwrap();
    without_new_threads(|| engine.background.request_flush(&engine));
    let is_durable = |engine: &Arc<Engine>| engine.log.marks.durable() == 1;
    until(&engine, "a flush", || engine.background.request_flush(&engine), is_durable);
    engine.background.stop(false);
    die(engine);
}

/// Without the engine's own threads the writers flush themselves, long before the commit ring would turn over what is not durable.
#[test]
fn writers_flush_before_the_ring_is_full() {
    let pair = Pair::new();
    let engine = pair.claim();
    for value in 1..=COMMIT_RING / 2 + 20 {
        commit(&engine, 1, value, false).unwrap();
        assert!(engine.log.marks.published() - engine.log.marks.durable() <= COMMIT_RING / 2, "at commit {value}");
    }
    assert!(engine.log.marks.durable() > 0);
    die(engine);
}

/// A panic ends the engine's thread in the middle of a request: the next request starts another thread.
#[test]
fn a_panic_of_the_thread_is_not_its_last_work() {
    let pair = Pair::new();
    let engine = pair.claim();
    engine.background.allow();
    commit(&engine, 3, 1, true).unwrap();
    let panics = AnyDatabaseHandle(pair.disk.database(&sim_path()), Arc::default(), true);
    *engine.exclusive.database_handle.lock() = Some(Box::new(panics));
    engine.background.request_checkpoint(&engine);
    let is_backfilled = |engine: &Arc<Engine>| engine.log.marks.backfilled() == engine.log.marks.published();
    until(&engine, "a checkpoint", || engine.background.request_checkpoint(&engine), is_backfilled);
    engine.background.stop(false);
    die(engine);
}
