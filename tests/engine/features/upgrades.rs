//! Deferred transactions that read before they write: SQLite calls no busy handler for their write, so they take their turn at the
//! first read.

use rusqlite::{Connection, ffi};
use std::path::{Path, PathBuf};
use std::sync::Barrier;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};
use support::Scratch;

const THREADS: u64 = 8;
const COMMITS: u64 = 100;
/// Two of a hundred commits, and one of each thread: that it is an upgrade is not known before.
const REFUSED_MAX: u64 = THREADS + THREADS * COMMITS / 50;

/// The database, and a connection that has made its log, and keeps it.
fn scene(scratch: &Scratch) -> (PathBuf, Connection) {
    let path = scratch.file("a.db");
    let connection = support::open_wal(&path);
    let rows = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < 1000) INSERT INTO t SELECT x, 0 FROM c";
    support::run(&connection, &format!("CREATE TABLE t(id INTEGER PRIMARY KEY, n); {rows}"));
    (path, connection)
}

fn connect(path: &Path, synchronous: &str) -> Connection {
    let connection = support::open(path);
    support::run(&connection, &format!("PRAGMA synchronous={synchronous}"));
    connection.busy_timeout(Duration::from_secs(20)).unwrap();
    connection
}

/// Reads, thinks, updates what it has read; how often it was refused.
fn add_one(connection: &Connection, id: u64, thinks: Duration) -> u64 {
    let begin = Instant::now();
    for refused in 0.. {
        assert!(begin.elapsed() < Duration::from_secs(60), "refused {refused} times");
        support::run(connection, "BEGIN");
        let n = support::number(connection, &format!("SELECT n FROM t WHERE id = {id}"));
        if thinks > Duration::ZERO {
            std::thread::sleep(thinks);
        }
        match connection.execute("UPDATE t SET n = ?1 WHERE id = ?2", (n + 1, id as i64)) {
            Ok(_) => {
                support::run(connection, "COMMIT");
                return refused;
            }
            Err(error) => {
                assert_eq!(error.sqlite_error_code(), Some(rusqlite::ErrorCode::DatabaseBusy), "{error}");
                support::run(connection, "ROLLBACK");
            }
        }
    }
    unreachable!()
}

/// All threads at once, each with commits of its own, on one connection or on one for each: how often all were refused.
fn refused(path: &Path, synchronous: &str, thinks: Duration, fresh: bool) -> u64 {
    let (refused, barrier) = (AtomicU64::new(0), Barrier::new(THREADS as usize));
    std::thread::scope(|threads| {
        for thread in 0..THREADS {
            let (refused, barrier) = (&refused, &barrier);
            threads.spawn(move || {
                let mut connection = connect(path, synchronous);
                barrier.wait();
                for commit in 0..COMMITS {
                    refused.fetch_add(add_one(&connection, 1 + (thread * 331 + commit * 7) % 1000, thinks), SeqCst);
                    if fresh {
                        connection = connect(path, synchronous);
                    }
                }
            });
        }
    });
    refused.load(SeqCst)
}

#[test]
fn an_upgrade_is_seldom_refused() {
    for (synchronous, thinks_us, fresh) in
        [("FULL", 0, false), ("NORMAL", 0, false), ("FULL", 1000, false), ("NORMAL", 0, true), ("FULL", 0, true)]
    {
        let what = format!("{synchronous}, thinks {thinks_us} us, fresh connections: {fresh}");
        // A turn ends after 50 ms: a machine that stands still again and again shows nothing.
        let tries = (0..3).map(|_| {
            let scratch = Scratch::new();
            let (path, first) = scene(&scratch);
            let refused = refused(&path, synchronous, Duration::from_micros(thinks_us), fresh);
            assert_eq!(support::number(&first, "SELECT sum(n) FROM t") as u64, THREADS * COMMITS, "{what}");
            println!("{what}: refused {refused} times");
            refused
        });
        let seldom = tries.take(if support::on_pwal() { 3 } else { 1 }).any(|refused| refused <= REFUSED_MAX);
        assert!(seldom || !support::on_pwal(), "{what}: refused more than {REFUSED_MAX} times");
    }
}

/// A connection whose transactions are known to write after they have read.
fn known(path: &Path) -> Connection {
    let (known, other) = (connect(path, "NORMAL"), connect(path, "NORMAL"));
    support::run(&known, "BEGIN");
    support::number(&known, "SELECT n FROM t WHERE id = 1");
    support::run(&other, "UPDATE t SET n = n + 1 WHERE id = 2");
    assert_eq!(support::code_of(&known, "UPDATE t SET n = n + 1 WHERE id = 1"), ffi::SQLITE_BUSY_SNAPSHOT);
    support::run(&known, "ROLLBACK");
    assert_eq!(add_one(&known, 1, Duration::ZERO), 0);
    known
}

#[test]
fn a_turn_that_does_not_come_is_not_waited_for() {
    let scratch = Scratch::new();
    let (path, first) = scene(&scratch);
    let known = known(&path);
    support::run(&first, "BEGIN IMMEDIATE; UPDATE t SET n = n + 1 WHERE id = 5");
    support::run(&known, "BEGIN");
    assert_eq!(support::number(&known, "SELECT n FROM t WHERE id = 5"), 0, "it reads nevertheless");
    assert_eq!(support::code_of(&known, "UPDATE t SET n = n + 1 WHERE id = 5"), ffi::SQLITE_BUSY);
    support::run(&first, "ROLLBACK");
    support::run(&known, "UPDATE t SET n = n + 1 WHERE id = 5; COMMIT");
}

/// It has its turn, and makes no use of it: others do not notice, but for a delay.
#[test]
fn a_turn_is_kept_for_a_while_only() {
    let scratch = Scratch::new();
    let (path, first) = scene(&scratch);
    let known = known(&path);
    first.busy_timeout(Duration::ZERO).unwrap();
    for end in ["COMMIT", "ROLLBACK"] {
        support::run(&known, "BEGIN");
        assert_eq!(support::number(&known, "SELECT n FROM t WHERE id = 5"), 0);
        // On this very thread.
        support::run(&first, "UPDATE t SET n = n + 1 WHERE id = 6");
        assert_eq!(support::code_of(&known, "UPDATE t SET n = n + 1 WHERE id = 5"), ffi::SQLITE_BUSY_SNAPSHOT);
        support::run(&known, end);
    }
}

/// A wait in the busy handler of a connection that this thread has just tried.
fn sleep(at_most: Duration) {
    let name = std::ffi::CString::new(support::vfs()).unwrap();
    // SAFETY: the VFS is registered for as long as the process lives.
    unsafe {
        let vfs = ffi::sqlite3_vfs_find(name.as_ptr());
        (*vfs).xSleep.unwrap()(vfs, at_most.as_micros().try_into().unwrap());
    }
}

/// It has shown nothing, and SQLite calls its busy handler, after which it has a new snapshot: waiting for the grant of a connection that
/// has waited longer, it would find its snapshot too old then, and would wait a second time. One that has read has to wait.
#[test]
fn one_that_begins_with_a_write_does_not_wait_for_a_grant() {
    const ADD: &str = "UPDATE t SET n = n + 1 WHERE id = 3";
    if !support::on_pwal() {
        return;
    }
    let scratch = Scratch::new();
    let (path, mut writer) = scene(&scratch);
    let (begins, waits) = (connect(&path, "NORMAL"), connect(&path, "NORMAL"));
    for connection in [&begins, &waits] {
        connection.busy_timeout(Duration::ZERO).unwrap();
    }
    let mut granted = || {
        support::run(&writer, "BEGIN IMMEDIATE");
        assert_eq!(support::code_of(&waits, "BEGIN IMMEDIATE"), ffi::SQLITE_BUSY);
        // In another thread, so that the next sleep of this one is for the connection that waits.
        let writer = &mut writer;
        std::thread::scope(|threads| threads.spawn(move || support::run(writer, "COMMIT")).join().unwrap());
        sleep(Duration::from_secs(20));
    };
    // A grant ends after 50 ms, for which this thread may have stood still.
    let is_refused = (0..100).any(|_| {
        granted();
        let code = support::code_of(&begins, &format!("BEGIN; {ADD}; COMMIT"));
        if !begins.is_autocommit() {
            support::run(&begins, "ROLLBACK");
        }
        code == ffi::SQLITE_BUSY
    });
    assert!(is_refused, "it waits for the end of the grant");
    granted();
    support::run(&begins, "BEGIN");
    support::number(&begins, "SELECT n FROM t WHERE id = 3");
    support::run(&begins, &format!("{ADD}; COMMIT"));
}
