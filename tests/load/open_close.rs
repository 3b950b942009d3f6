//! First opens and last closes in many threads: an engine starts and ends all the time, and nobody meets an error.

use rusqlite::{Connection, ffi};
use std::path::Path;
use std::time::{Duration, Instant};
use support::{Scratch, Watchdog, env_number};

/// Opens, writes, and closes, in every way there is; returns the rows that were acknowledged.
fn come_and_go(path: &Path, thread: i64, until: Instant) -> i64 {
    let mut rows = 0;
    for round in 0.. {
        if Instant::now() >= until {
            break;
        }
        let connection = support::open(path);
        connection.busy_timeout(Duration::from_secs(30)).unwrap();
        match (round + thread) % 5 {
            0 => support::run(&connection, "SELECT count(*) FROM t"),
            1 => drop(support::open(path)),
            2 => support::run(&connection, "PRAGMA synchronous=NORMAL"),
            3 => support::run(&connection, "BEGIN IMMEDIATE; INSERT INTO t VALUES(-1); ROLLBACK"),
            _ => {
                // Only the last one is granted that, and then the others find a database in rollback mode.
                let mode = support::rows(&connection, "PRAGMA journal_mode=DELETE");
                match mode.as_deref() {
                    Ok([mode]) => assert!(["wal", "delete"].contains(&mode.as_str()), "{mode}"),
                    Ok(other) => panic!("{other:?}"),
                    Err(error) => assert_eq!(support::code(error) & 0xff, ffi::SQLITE_BUSY, "{error:?}"),
                }
                let _ = connection.execute_batch("PRAGMA journal_mode=WAL");
            }
        }
        rows += insert(&connection, thread);
        if round % 3 == 0 {
            rows += insert(&connection, thread);
        }
        support::close(connection);
    }
    rows
}

fn insert(connection: &Connection, thread: i64) -> i64 {
    match connection.execute("INSERT INTO t VALUES(?1)", [thread]) {
        Ok(_) => 1,
        Err(error) => {
            // Threads that change the mode have the file for themselves for a moment.
            assert_eq!(support::code(&error) & 0xff, ffi::SQLITE_BUSY, "thread {thread}: {error:?}");
            0
        }
    }
}

#[test]
fn threads_open_and_close_one_database() {
    let seconds = Duration::from_secs(env_number("PWAL_TEST_SECONDS", 4));
    let _watchdog = Watchdog::new("open and close", seconds + Duration::from_secs(120));
    let scratch = Scratch::new();
    let path = scratch.file("a.db");
    let connection = support::open_wal(&path);
    support::run(&connection, "CREATE TABLE t(x)");
    support::close(connection);
    let until = Instant::now() + seconds;
    let rows: Vec<i64> = std::thread::scope(|scope| {
        let path = &path;
        let threads: Vec<_> = (0..6).map(|thread| scope.spawn(move || come_and_go(path, thread, until))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let connection = support::open_wal(&path);
    for (thread, rows) in rows.iter().enumerate() {
        let sql = format!("SELECT count(*) FROM t WHERE x={thread}");
        assert_eq!(support::number(&connection, &sql), *rows, "thread {thread} of {rows:?}");
    }
    assert_eq!(support::number(&connection, "SELECT count(*) FROM t WHERE x=-1"), 0);
    support::close(connection);
    support::assert_plain(&path);
    println!("{rows:?} rows");
}
