//! Checkpoints: what SQLite asks, and what words of the wal-index make it do nothing itself.

use super::Lab;
use rusqlite::{Connection, ffi};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};
use support::shim::*;

/// A database with 4 frames or so that are not backfilled.
fn filled(lab: &Lab) -> Connection {
    let connection = lab.wal();
    support::run(&connection, "INSERT INTO t VALUES(1); INSERT INTO t VALUES(2)");
    lab.shim.take();
    connection
}

/// Plays the part of an engine that has backfilled up to `k` frames, all of them if `None`, when asked for
/// the checkpoint lock. With some held back, the truth about readers is told by READ1.
fn backfill(lab: &Lab, k: Option<u32>) {
    lab.shim.hook(move |moment| {
        let Some(index) = moment.index else { return Verdict::Pass };
        let frames = index.word(MX_FRAME);
        let done = k.unwrap_or(frames);
        if moment.text.ends_with("shm lock exclusive CKPT") {
            index.set(BACKFILLED, done);
            if done < frames {
                index.set(READ_MARK + 1, done);
                (2..5).for_each(|mark| index.set(READ_MARK + mark, u32::MAX));
            }
        }
        let held = moment.text.contains("shm lock exclusive READ1") && done < frames;
        if held { Verdict::Answer(ffi::SQLITE_BUSY) } else { Verdict::Pass }
    });
}

fn row(connection: &Connection, mode: &str) -> String {
    support::text(connection, &format!("PRAGMA wal_checkpoint({mode})"))
}

#[test]
fn an_autocheckpoint_asks_for_ckpt_right_behind_the_read_unlock_of_its_commit() {
    let lab = Lab::new();
    let connection = filled(&lab);
    support::run(&connection, "PRAGMA wal_autocheckpoint=1");
    let trace = lab.trace(|| support::run(&connection, "INSERT INTO t VALUES(3)"));
    let phasetwo = trace.position("PHASETWO");
    assert_eq!(
        trace.0[phasetwo..phasetwo + 3],
        ["a.db: control PHASETWO", "a.db: shm unlock shared READ1", "a.db: shm lock exclusive CKPT"]
    );
    assert_eq!(trace.count("exclusive WRITE"), 2, "PASSIVE: lock and unlock of the commit only");
}

#[test]
fn a_checkpoint_that_is_asked_for_has_no_commit_before_it() {
    let lab = Lab::new();
    let connection = filled(&lab);
    for mode in ["PASSIVE", "FULL", "RESTART", "TRUNCATE"] {
        support::run(&connection, "INSERT INTO t VALUES(3)");
        let trace = lab.trace(|| row(&connection, mode));
        assert_eq!(trace.only(&["shm lock"])[0], "a.db: shm lock exclusive CKPT", "{mode}");
    }
}

#[test]
fn write_is_asked_under_ckpt_without_a_read_lock() {
    let lab = Lab::new();
    let connection = filled(&lab);
    for mode in ["FULL", "RESTART", "TRUNCATE"] {
        support::run(&connection, "INSERT INTO t VALUES(3)");
        let trace = lab.trace(|| row(&connection, mode));
        let locks = trace.only(&["shm lock"]);
        assert_eq!(locks[..2], ["a.db: shm lock exclusive CKPT", "a.db: shm lock exclusive WRITE"], "{mode}");
    }
}

#[test]
fn everything_backfilled_under_ckpt_gives_the_numbers_and_no_write() {
    for (mode, expected) in [("PASSIVE", "0|4|4"), ("FULL", "0|4|4"), ("RESTART", "0|4|4"), ("TRUNCATE", "0|0|0")] {
        let lab = Lab::new();
        let connection = filled(&lab);
        backfill(&lab, None);
        let trace = lab.trace(|| assert_eq!(row(&connection, mode), expected, "{mode}"));
        assert_eq!(trace.only(&["a.db: write", "a.db: truncate", "a.db: sync"]), Vec::<&str>::new(), "{mode}");
    }
}

#[test]
fn a_checkpoint_that_is_held_back_at_a_mark_gives_the_numbers_and_no_write() {
    for (mode, expected) in [("PASSIVE", "0|4|2"), ("FULL", "1|4|2"), ("RESTART", "1|4|2"), ("TRUNCATE", "1|4|2")] {
        let lab = Lab::new();
        let connection = filled(&lab);
        backfill(&lab, Some(2));
        let trace = lab.trace(|| assert_eq!(row(&connection, mode), expected, "{mode}"));
        assert_eq!(trace.only(&["a.db: write", "a.db: truncate", "a.db: sync"]), Vec::<&str>::new(), "{mode}");
        assert!(trace.count("shm lock exclusive READ1") > 0);
    }
}

#[test]
fn an_honest_nbackfill_alone_makes_sqlite_write_the_database_file() {
    let lab = Lab::new();
    let connection = filled(&lab);
    lab.shim.hook(|moment| {
        if moment.text.ends_with("shm lock exclusive CKPT") {
            moment.index.unwrap().set(BACKFILLED, 2);
        }
        Verdict::Pass
    });
    let trace = lab.trace(|| assert_eq!(row(&connection, "PASSIVE"), "0|4|4"));
    assert!(trace.count("a.db: write") > 0);
}

#[test]
fn each_retry_of_the_busy_handler_asks_for_read_lock_1_again() {
    let lab = Lab::new();
    let mut connection = filled(&lab);
    connection.busy_handler(Some(|calls| calls < 3)).unwrap();
    backfill(&lab, Some(2));
    let trace = lab.trace(|| assert_eq!(row(&connection, "FULL"), "1|4|2"));
    assert_eq!(trace.count("shm lock exclusive READ1"), 4);
}

#[test]
fn restart_waits_for_all_readers_and_truncate_leaves_no_frames_and_read_lock_0() {
    let lab = Lab::new();
    let connection = filled(&lab);
    let trace = lab.trace(|| row(&connection, "RESTART"));
    assert_eq!(trace.count("shm lock exclusive READ1..READ4"), 1);
    support::run(&connection, "INSERT INTO t VALUES(3)");
    let trace = lab.trace(|| row(&connection, "TRUNCATE"));
    assert_eq!(trace.only(&["wal: truncate"]), ["a.db-wal: truncate 0"]);
    let frames = Arc::new(AtomicU32::new(u32::MAX));
    let seen = Arc::clone(&frames);
    lab.shim.hook(move |moment| {
        if moment.text.contains("shm lock shared") {
            seen.store(moment.index.unwrap().word(MX_FRAME), Ordering::Relaxed);
        }
        Verdict::Pass
    });
    let trace = lab.trace(|| support::text(&connection, "SELECT * FROM t"));
    assert_eq!(trace.only(&["shm lock"]), ["a.db: shm lock shared READ0"]);
    assert_eq!(frames.load(Ordering::Relaxed), 0);
}

#[test]
fn noop_takes_no_lock_and_reports_the_view() {
    let lab = Lab::new();
    let connection = filled(&lab);
    let trace = lab.trace(|| assert_eq!(row(&connection, "NOOP"), "0|4|0"));
    assert_eq!(trace.only(&["CKPT", "WRITE", "a.db: write"]), Vec::<&str>::new());
}

#[test]
fn busy_from_ckpt_reaches_no_busy_handler() {
    let lab = Lab::new();
    let mut connection = filled(&lab);
    connection.busy_handler(Some(|_| panic!("not asked"))).unwrap();
    lab.shim.hook(|moment| {
        if moment.text.contains("exclusive CKPT") { Verdict::Answer(ffi::SQLITE_BUSY) } else { Verdict::Pass }
    });
    for mode in ["PASSIVE", "FULL", "RESTART", "TRUNCATE"] {
        assert!(row(&connection, mode).starts_with("1|"), "{mode}");
    }
}

#[test]
fn a_close_with_everything_backfilled_writes_nothing_and_deletes_the_wal() {
    let lab = Lab::new();
    let connection = filled(&lab);
    row(&connection, "PASSIVE");
    let trace = lab.trace(|| support::close(connection));
    assert_eq!(
        trace.only(&["write", "truncate", "lock", "delete"]),
        ["a.db: lock EXCLUSIVE", "a.db: shm unmap delete 1", "a.db-wal: delete, sync directory 0", "a.db: unlock NONE"]
    );
}

#[test]
fn wal_autocheckpoint_and_the_wal_hook_get_mxframe() {
    let lab = Lab::new();
    let mut connection = filled(&lab);
    let pages = Arc::new(AtomicI32::new(0));
    let seen = Arc::clone(&pages);
    let hook = move |_: &mut rusqlite::hooks::Wal, pages: i32| {
        seen.store(pages, Ordering::Relaxed);
        Ok(())
    };
    connection.wal_hook(Some(hook)).unwrap();
    support::run(&connection, "INSERT INTO t VALUES(3)");
    assert_eq!(pages.load(Ordering::Relaxed), 5);
}
