//! Checkpoints that are asked for, that come by themselves, and what they report.

use super::fill;
use rusqlite::{Connection, ffi};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use support::Scratch;

/// The columns busy, log, checkpointed.
fn row(connection: &Connection, mode: &str) -> [i64; 3] {
    let text = support::text(connection, &format!("PRAGMA wal_checkpoint({mode})"));
    let numbers: Vec<i64> = text.split('|').map(|number| number.parse().expect("a number")).collect();
    numbers.try_into().expect("three columns")
}

/// Early checkpoints, and segments so small that the log goes round many times. Stock ignores the word it does not know.
const SMALL: &str =
    "PRAGMA synchronous=NORMAL; PRAGMA wal_autocheckpoint=100; PRAGMA parallel_wal_segment_bytes=1048576";

/// The bytes of all files beside the database, of directories too.
fn log_bytes(path: &Path) -> u64 {
    support::beside(path).iter().map(|name| bytes_below(&path.with_file_name(name))).sum()
}

fn bytes_below(path: &Path) -> u64 {
    let Ok(metadata) = path.metadata() else { return 0 };
    if metadata.is_dir() {
        let Ok(entries) = std::fs::read_dir(path) else { return 0 };
        entries.flatten().map(|entry| bytes_below(&entry.path())).sum()
    } else {
        metadata.len()
    }
}

#[test]
fn a_checkpoint_that_meets_nobody_is_complete() {
    for mode in ["PASSIVE", "FULL", "RESTART", "TRUNCATE"] {
        let scratch = Scratch::new();
        let connection = support::open_wal(&scratch.file("app.db"));
        fill(&connection, 100, 500);
        let [busy, log, checkpointed] = row(&connection, mode);
        assert_eq!((busy, log), (0, checkpointed), "{mode}");
        assert_eq!(log == 0, mode == "TRUNCATE", "{mode}: {log} frames");
        fill(&connection, 10, 500);
        support::assert_integrity(&connection);
        // What is backfilled can be read without the log's help: the pages are in the file.
        row(&connection, "FULL");
        let pages = support::number(&connection, "PRAGMA page_count");
        assert_eq!(scratch.file("app.db").metadata().unwrap().len(), u64::try_from(pages).unwrap() * 4096);
    }
}

#[test]
fn a_reader_of_an_old_snapshot_holds_the_checkpoint_back_and_keeps_its_rows() {
    let scratch = Scratch::new();
    let path = scratch.file("app.db");
    let (writer, reader) = (support::open_wal(&path), support::open(&path));
    writer.busy_timeout(Duration::ZERO).unwrap();
    fill(&writer, 100, 500);
    support::run(&reader, "BEGIN");
    assert_eq!(support::number(&reader, "SELECT count(*) FROM t"), 100);
    support::run(&writer, "UPDATE t SET x=zeroblob(600); DELETE FROM t WHERE id>50");
    for (mode, busy) in [("PASSIVE", 0), ("FULL", 1), ("RESTART", 1), ("TRUNCATE", 1)] {
        let [got, log, checkpointed] = row(&writer, mode);
        assert_eq!(got, busy, "{mode}");
        assert!(checkpointed < log, "{mode}: {checkpointed} of {log}");
        assert_eq!(support::text(&reader, "SELECT count(*), sum(length(x)) FROM t"), "100|50000", "{mode}");
    }
    support::run(&reader, "COMMIT");
    for mode in ["PASSIVE", "FULL", "RESTART"] {
        let [busy, log, checkpointed] = row(&writer, mode);
        assert_eq!((busy, log), (0, checkpointed), "{mode}");
    }
    assert_eq!(row(&writer, "TRUNCATE"), [0, 0, 0]);
    assert_eq!(support::text(&reader, "SELECT count(*), sum(length(x)) FROM t"), "50|30000");
}

/// A page behind the end of the database may still have a frame in a writer's view; a checkpoint then
/// cuts the file before that page, and the writer makes the database grow over it again.
#[test]
fn a_writer_may_take_pages_again_that_a_checkpoint_has_cut_off() {
    let scratch = Scratch::new();
    let path = scratch.file("app.db");
    let (own, other) = (support::open(&path), support::open(&path));
    support::run(&own, "PRAGMA page_size=512; PRAGMA auto_vacuum=FULL; PRAGMA journal_mode=WAL");
    support::run(
        &own,
        "CREATE TABLE t(id INTEGER PRIMARY KEY, x); CREATE TABLE u(x); INSERT INTO t(x) VALUES(zeroblob(33612))",
    );
    other.busy_timeout(Duration::ZERO).unwrap();
    support::run(&own, "UPDATE t SET x=1; BEGIN");
    support::run(
        &own,
        "INSERT INTO u WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<40) SELECT zeroblob(200) FROM n",
    );
    assert_eq!(row(&other, "TRUNCATE")[0], 1);
    support::run(&own, "CREATE TABLE v(x); CREATE TABLE w(x); COMMIT");
    support::assert_integrity(&other);
}

#[test]
fn a_writer_in_the_middle_makes_all_but_passive_busy() {
    let scratch = Scratch::new();
    let path = scratch.file("app.db");
    let (writer, other) = (support::open_wal(&path), support::open(&path));
    other.busy_timeout(Duration::ZERO).unwrap();
    fill(&writer, 100, 500);
    support::run(&writer, "BEGIN IMMEDIATE; DELETE FROM t");
    for (mode, busy) in [("PASSIVE", 0), ("FULL", 1), ("RESTART", 1), ("TRUNCATE", 1)] {
        assert_eq!(row(&other, mode)[0], busy, "{mode}");
    }
    support::run(&writer, "COMMIT");
    assert_eq!(row(&other, "TRUNCATE"), [0, 0, 0]);
}

#[test]
fn a_checkpoint_inside_an_own_transaction_is_locked() {
    let scratch = Scratch::new();
    let connection = support::open_wal(&scratch.file("app.db"));
    fill(&connection, 10, 500);
    for begin in ["BEGIN IMMEDIATE", "BEGIN; SELECT * FROM t"] {
        support::run(&connection, begin);
        assert_eq!(support::code_of(&connection, "PRAGMA wal_checkpoint"), ffi::SQLITE_LOCKED, "{begin}");
        support::run(&connection, "COMMIT");
    }
}

#[test]
fn the_c_function_gives_the_same_numbers() {
    let scratch = Scratch::new();
    let connection = support::open_wal(&scratch.file("app.db"));
    fill(&connection, 10, 500);
    let (mut log, mut checkpointed) = (-2, -2);
    // SAFETY: the connection is open, the numbers live.
    let code = unsafe {
        ffi::sqlite3_wal_checkpoint_v2(
            connection.handle(),
            c"main".as_ptr(),
            ffi::SQLITE_CHECKPOINT_FULL,
            &raw mut log,
            &raw mut checkpointed,
        )
    };
    assert_eq!(code, ffi::SQLITE_OK);
    assert!(log > 0 && log == checkpointed, "{log} {checkpointed}");
}

#[test]
fn the_wal_hook_gets_growing_numbers_and_autocheckpoint_keeps_its_value() {
    let scratch = Scratch::new();
    let mut connection = support::open_wal(&scratch.file("app.db"));
    for value in [17, 0, 1000] {
        assert_eq!(support::number(&connection, &format!("PRAGMA wal_autocheckpoint={value}")), value);
        assert_eq!(support::number(&connection, "PRAGMA wal_autocheckpoint"), value);
    }
    let seen = Arc::new(Mutex::new(Vec::new()));
    let pages = Arc::clone(&seen);
    let hook = move |wal: &mut rusqlite::hooks::Wal, frames: i32| {
        assert_eq!(wal.name().to_bytes(), b"main");
        pages.lock().unwrap().push(frames);
        Ok(())
    };
    connection.wal_hook(Some(hook)).unwrap();
    for _ in 0..20 {
        fill(&connection, 1, 3000);
    }
    let seen = seen.lock().unwrap();
    assert!(seen.len() >= 20 && seen.is_sorted() && seen[0] > 0, "{seen:?}");
    assert!(seen.last() > seen.first());
}

/// A field of `parallel_wal_status`.
fn status(connection: &Connection, field: &str) -> u64 {
    let json: String = connection.query_row("PRAGMA parallel_wal_status", [], |row| row.get(0)).unwrap();
    let status: serde_json::Value = serde_json::from_str(&json).unwrap();
    // Not there before the database is first read.
    status[field].as_u64().unwrap_or(0)
}

#[test]
fn automatic_checkpoints_bound_the_log_and_the_database_grows_meanwhile() {
    let scratch = Scratch::new();
    let path = scratch.file("app.db");
    let connection = support::open_wal(&path);
    support::run(&connection, SMALL);
    let mut largest = 0;
    for round in 0..60 {
        let before = if support::on_pwal() { status(&connection, "published") } else { 0 };
        for _ in 0..20 {
            fill(&connection, 10, 2000);
        }
        support::run(&connection, "DELETE FROM t WHERE id NOT IN (SELECT id FROM t ORDER BY id DESC LIMIT 500)");
        // The checkpoint runs beside the commits and holds none of them up: no bound but that it comes at all.
        let until = Instant::now() + Duration::from_secs(60);
        while support::on_pwal() && status(&connection, "backfilled") < before {
            assert!(Instant::now() < until, "round {round}: no checkpoint to commit {before}");
            std::thread::yield_now();
        }
        largest = largest.max(log_bytes(&path));
    }
    assert!(path.metadata().unwrap().len() > 500_000);
    assert!(largest < 16 << 20, "the log took {largest} bytes");
    support::assert_integrity(&connection);
    support::close(connection);
    support::assert_plain(&path);
}

#[test]
fn overlapping_readers_do_not_keep_the_log_from_being_reset() {
    let scratch = Scratch::new();
    let path = scratch.file("app.db");
    let writer = support::open_wal(&path);
    support::run(&writer, SMALL);
    fill(&writer, 100, 1000);
    let readers = [support::open(&path), support::open(&path)];
    support::run(&readers[0], "BEGIN; SELECT count(*) FROM t");
    let mut largest = 0;
    let mut before = [0; 2];
    for round in 0..120 {
        let begin = if support::on_pwal() { status(&writer, "published") } else { 0 };
        for _ in 0..20 {
            support::run(&writer, "UPDATE t SET x=zeroblob(1000+random()%2) WHERE id%5=0");
        }
        // One of the two reads at every moment.
        support::run(&readers[(round + 1) % 2], "BEGIN; SELECT count(*) FROM t");
        support::run(&readers[round % 2], "COMMIT");
        // No snapshot is older than the round before; the checkpoint runs beside the commits.
        let until = Instant::now() + Duration::from_secs(60);
        while support::on_pwal() && status(&writer, "backfilled") < before[0] {
            assert!(Instant::now() < until, "round {round}: no checkpoint to commit {}", before[0]);
            std::thread::yield_now();
        }
        before = [before[1], begin];
        largest = largest.max(log_bytes(&path));
    }
    // About 240 MB went through it. Stock's log grows to all of them.
    assert!(largest < 64 << 20 || !support::on_pwal(), "the log took {largest} bytes");
    support::assert_integrity(&writer);
}

#[test]
fn an_idle_database_is_checkpointed_without_being_asked() {
    if !support::on_pwal() {
        return;
    }
    for mode in ["auto", "conservative"] {
        let scratch = Scratch::new();
        let path = scratch.file("app.db");
        let connection = support::open_wal(&path);
        support::run(&connection, &format!("PRAGMA parallel_wal_mode={mode}"));
        fill(&connection, 100, 3000);
        let until = Instant::now() + Duration::from_secs(30);
        while path.metadata().unwrap().len() < 300_000 {
            assert!(Instant::now() < until, "{mode}: still {} bytes", path.metadata().unwrap().len());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// `sqlite3_wal_checkpoint_v2`: result code, frames in the log, frames in the database file.
fn checkpoint(connection: &Connection, mode: i32) -> (i32, i32, i32) {
    let (mut log, mut done) = (-1, -1);
    // SAFETY: an open connection, a C string and two variables.
    let code = unsafe {
        ffi::sqlite3_wal_checkpoint_v2(connection.handle(), c"main".as_ptr(), mode, &raw mut log, &raw mut done)
    };
    (code, log, done)
}

const MODES: [i32; 4] = [
    ffi::SQLITE_CHECKPOINT_PASSIVE,
    ffi::SQLITE_CHECKPOINT_FULL,
    ffi::SQLITE_CHECKPOINT_RESTART,
    ffi::SQLITE_CHECKPOINT_TRUNCATE,
];

/// Its calls are the same as those of the checkpoint inside COMMIT that SQLite asks for by itself.
#[test]
fn a_checkpoint_by_the_c_function_directly_behind_a_commit_works() {
    let scratch = Scratch::new();
    let connection = support::open_wal(&scratch.file("app.db"));
    // SAFETY: an open connection.
    unsafe { ffi::sqlite3_wal_autocheckpoint(connection.handle(), 0) };
    fill(&connection, 10, 100);
    for rows in [5, 3000] {
        for mode in MODES {
            fill(&connection, rows, 1000);
            let (code, log, done) = checkpoint(&connection, mode);
            assert_eq!((code, log), (ffi::SQLITE_OK, done), "mode {mode}, {rows} rows");
            if support::on_pwal() {
                assert_eq!(status(&connection, "backfilled"), status(&connection, "published"));
            }
            fill(&connection, rows, 1000);
            // SAFETY: an open connection, and a C string.
            let code = unsafe { ffi::sqlite3_wal_checkpoint(connection.handle(), c"main".as_ptr()) };
            assert_eq!(code, ffi::SQLITE_OK);
            if support::on_pwal() && rows < 1000 {
                assert_eq!(status(&connection, "backfilled"), status(&connection, "published"));
            }
        }
    }
}

#[test]
fn a_checkpoint_directly_behind_a_commit_waits_for_a_reader_that_leaves() {
    thread_local! {
        static READER: std::cell::RefCell<Option<Connection>> = const { std::cell::RefCell::new(None) };
        static CALLS: std::cell::Cell<i32> = const { std::cell::Cell::new(0) };
    }
    fn handler(calls: i32) -> bool {
        CALLS.set(calls);
        if calls == 5 {
            READER.take();
        }
        calls < 1000
    }
    let scratch = Scratch::new();
    let path = scratch.file("app.db");
    let mut connection = support::open_wal(&path);
    fill(&connection, 10, 100);
    for mode in &MODES[1..] {
        let reader = support::open(&path);
        support::run(&reader, "BEGIN; SELECT * FROM t");
        READER.set(Some(reader));
        fill(&connection, 10, 1000);
        connection.busy_handler(Some(handler)).unwrap();
        let (code, log, done) = checkpoint(&connection, *mode);
        assert_eq!((code, log), (ffi::SQLITE_OK, done), "mode {mode}");
        assert!((5..10).contains(&CALLS.get()), "{} calls", CALLS.get());
        assert!(READER.take().is_none());
    }
}

/// A checkpoint that a `wal_hook` asks for counts the frames from the start again.
#[test]
fn a_hook_that_checkpoints_gets_small_numbers_again() {
    static NUMBERS: Mutex<Vec<i32>> = Mutex::new(Vec::new());
    fn hook(wal: &mut rusqlite::hooks::Wal, frames: i32) -> rusqlite::Result<()> {
        NUMBERS.lock().unwrap().push(frames);
        if frames >= 100 { wal.checkpoint().map(drop) } else { Ok(()) }
    }
    let scratch = Scratch::new();
    let mut connection = support::open_wal(&scratch.file("app.db"));
    connection.wal_hook(Some(hook)).unwrap();
    fill(&connection, 1, 10);
    for _ in 0..400 {
        fill(&connection, 2, 3000);
    }
    let numbers = NUMBERS.lock().unwrap();
    let (large, small) = numbers.iter().partition::<Vec<i32>, _>(|frames| **frames >= 100);
    assert!(large.len() * 10 < small.len(), "{} large numbers, {} small ones", large.len(), small.len());
}
