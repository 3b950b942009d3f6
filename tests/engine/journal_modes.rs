//! `journal_mode` and `locking_mode`: to WAL and away from it, alone and beside others, and in a storm of
//! connections that come and go.

use rusqlite::{Connection, ffi};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, Instant};
use support::{Scratch, Watchdog, dump, env_number};

const OTHERS: [&str; 5] = ["DELETE", "TRUNCATE", "PERSIST", "MEMORY", "OFF"];

fn mode(connection: &Connection, mode: &str) -> String {
    support::text(connection, &format!("PRAGMA journal_mode={mode}"))
}

fn database(path: &Path) -> Connection {
    let connection = support::open_wal(path);
    connection.busy_timeout(Duration::ZERO).unwrap();
    support::run(&connection, "CREATE TABLE t(x); INSERT INTO t VALUES(zeroblob(10000))");
    connection
}

fn count(connection: &Connection) -> i64 {
    support::number(connection, "SELECT count(*) FROM t")
}

/// Version bytes as they are in the file, past any connection. Only when none is open: plain file calls drop
/// the locks of the process.
fn version(path: &Path) -> u8 {
    std::fs::read(path).unwrap()[19]
}

#[test]
fn from_wal_to_every_other_mode_and_back() {
    for other in OTHERS {
        let scratch = Scratch::new();
        let path = scratch.file("app.db");
        let connection = database(&path);
        for round in 0..3_i64 {
            let before = dump::dump(&connection);
            assert_eq!(mode(&connection, other), other.to_lowercase());
            assert_eq!(dump::first_difference(&before, &dump::dump(&connection)), None);
            let mut beside = support::beside(&path);
            beside.retain(|name| !name.ends_with("-journal"));
            assert_eq!(beside, Vec::<String>::new(), "{other}, {round}");
            support::run(&connection, "INSERT INTO t VALUES(1)");
            assert_eq!(mode(&connection, "WAL"), "wal");
            support::run(&connection, "INSERT INTO t VALUES(2)");
            assert_eq!(count(&connection), 3 + round * 2);
        }
        mode(&connection, other);
        support::close(connection);
        assert_eq!(version(&path), 1);
        let stock = support::open_stock(&path);
        support::assert_integrity(&stock);
        assert_eq!(count(&stock), 7);
    }
}

#[test]
fn to_wal_and_back_at_once() {
    for table in ["", "CREATE TABLE t(x)"] {
        let scratch = Scratch::new();
        let path = scratch.file("app.db");
        let connection = support::open(&path);
        connection.busy_timeout(Duration::ZERO).unwrap();
        support::run(&connection, table);
        for _ in 0..2 {
            assert_eq!(mode(&connection, "WAL"), "wal");
            assert_eq!(mode(&connection, "DELETE"), "delete");
        }
        support::run(&connection, "CREATE TABLE u(x)");
        support::close(connection);
        support::assert_plain_header(&path, 1);
    }
}

#[test]
fn the_answer_without_a_value_is_the_mode() {
    let scratch = Scratch::new();
    let path = scratch.file("app.db");
    let connection = support::open(&path);
    assert_eq!(support::text(&connection, "PRAGMA journal_mode"), "delete");
    mode(&connection, "WAL");
    for again in [support::open(&path), connection] {
        assert_eq!(support::text(&again, "PRAGMA journal_mode"), "wal");
        assert_eq!(mode(&again, "WAL"), "wal");
        assert_eq!(support::text(&again, "PRAGMA main.journal_mode"), "wal");
    }
}

#[test]
fn away_from_wal_is_busy_while_another_connection_uses_the_database() {
    let scratch = Scratch::new();
    let path = scratch.file("app.db");
    let (own, other) = (database(&path), support::open(&path));
    assert_eq!(count(&other), 1);
    for begin in ["", "BEGIN", "BEGIN IMMEDIATE"] {
        support::run(&other, begin);
        support::text(&other, "SELECT count(*) FROM t");
        assert_eq!(support::code_of(&own, "PRAGMA journal_mode=DELETE"), ffi::SQLITE_BUSY, "{begin}");
        assert_eq!(support::text(&own, "PRAGMA journal_mode"), "wal");
        if !begin.is_empty() {
            support::run(&other, "COMMIT");
        }
        support::run(&own, "INSERT INTO t VALUES(1)");
        assert_eq!(count(&own), count(&other));
    }
    support::close(other);
    assert_eq!(mode(&own, "DELETE"), "delete");
    support::close(own);
    support::assert_plain_header(&path, 1);
}

#[test]
fn a_connection_that_never_read_does_not_count() {
    let scratch = Scratch::new();
    let path = scratch.file("app.db");
    let (own, other) = (database(&path), support::open(&path));
    assert_eq!(mode(&own, "DELETE"), "delete");
    assert_eq!(count(&other), 1);
    support::run(&other, "INSERT INTO t VALUES(1)");
    assert_eq!(count(&own), 2);
    support::close(own);
    support::close(other);
    support::assert_plain_header(&path, 1);
}

#[test]
fn connections_follow_the_switch_of_another_in_both_directions() {
    let scratch = Scratch::new();
    let path = scratch.file("app.db");
    let own = support::open(&path);
    support::run(&own, "CREATE TABLE t(x)");
    let others = [support::open(&path), support::open(&path)];
    for connection in &others {
        assert_eq!(count(connection), 0);
    }
    assert_eq!(mode(&own, "WAL"), "wal");
    for (n, connection) in others.iter().enumerate() {
        support::run(connection, &format!("INSERT INTO t VALUES({n})"));
        assert_eq!(support::text(connection, "PRAGMA journal_mode"), "wal");
    }
    assert_eq!(count(&own), 2);
    let [one, two] = others;
    support::close(own);
    support::close(one);
    assert_eq!(mode(&two, "DELETE"), "delete");
    let again = support::open(&path);
    support::run(&again, "INSERT INTO t VALUES(9)");
    assert_eq!(count(&two), 3);
    assert_eq!(mode(&again, "WAL"), "wal");
    assert_eq!(count(&two), 3);
    support::close(again);
    support::close(two);
    support::assert_plain(&path);
}

#[test]
fn not_inside_a_transaction() {
    let scratch = Scratch::new();
    let path = scratch.file("app.db");
    let connection = database(&path);
    support::run(&connection, "BEGIN; INSERT INTO t VALUES(1)");
    assert_eq!(mode(&connection, "DELETE"), "wal", "has written: answers with the old mode");
    support::run(&connection, "COMMIT; BEGIN; SELECT * FROM t");
    assert_eq!(support::code_of(&connection, "PRAGMA journal_mode=DELETE"), ffi::SQLITE_ERROR);
    support::run(&connection, "COMMIT; PRAGMA journal_mode=DELETE; BEGIN; INSERT INTO t VALUES(1)");
    assert_eq!(mode(&connection, "WAL"), "delete");
    support::run(&connection, "COMMIT");
    assert_eq!(count(&connection), 3);
}

#[test]
fn a_journal_that_was_left_by_persist_does_not_disturb_wal() {
    let scratch = Scratch::new();
    let path = scratch.file("app.db");
    let stock = support::open_stock(&path);
    support::run(&stock, "PRAGMA journal_mode=PERSIST; CREATE TABLE t(x); INSERT INTO t VALUES(zeroblob(10000))");
    support::close(stock);
    assert!(scratch.file("app.db-journal").exists());
    let connection = support::open_wal(&path);
    support::run(&connection, "INSERT INTO t VALUES(1)");
    let other = support::open(&path);
    support::run(&other, "INSERT INTO t VALUES(2)");
    support::close(connection);
    support::close(other);
    let again = support::open(&path);
    assert_eq!(count(&again), 3);
    support::assert_integrity(&again);
}

#[test]
fn the_page_size_changes_by_way_of_rollback_mode() {
    let scratch = Scratch::new();
    let path = scratch.file("app.db");
    let connection = database(&path);
    for page_bytes in [8192, 512, 65536, 1024] {
        support::run(&connection, &format!("PRAGMA page_size={page_bytes}; VACUUM"));
        assert_ne!(support::number(&connection, "PRAGMA page_size"), page_bytes, "not in WAL mode");
        mode(&connection, "DELETE");
        support::run(&connection, &format!("PRAGMA page_size={page_bytes}; VACUUM"));
        mode(&connection, "WAL");
        assert_eq!(support::number(&connection, "PRAGMA page_size"), page_bytes);
        support::run(&connection, "INSERT INTO t VALUES(zeroblob(3000))");
        support::assert_integrity(&connection);
    }
    support::close(connection);
    support::assert_plain(&path);
}

/// More of it in `locking_mode.rs`.
#[test]
fn locking_mode_exclusive_keeps_others_out() {
    for before_first_use in [false, true] {
        let scratch = Scratch::new();
        let path = scratch.file("app.db");
        support::close(database(&path));
        let connection = support::open(&path);
        connection.busy_timeout(Duration::ZERO).unwrap();
        if !before_first_use {
            assert_eq!(count(&connection), 1);
        }
        support::run(&connection, "PRAGMA locking_mode=EXCLUSIVE");
        support::run(&connection, "INSERT INTO t VALUES(1)");
        let other = support::open(&path);
        other.busy_timeout(Duration::ZERO).unwrap();
        assert_eq!(support::code_of(&other, "SELECT count(*) FROM t"), ffi::SQLITE_BUSY);
        assert_eq!(count(&connection), 2);
        support::run(&connection, "PRAGMA locking_mode=NORMAL");
        assert_eq!(count(&connection), 2);
        if !before_first_use {
            // Stock goes back only if it began with a shared wal-index.
            let other = support::open(&path);
            support::run(&other, "INSERT INTO t VALUES(2)");
            assert_eq!(count(&connection), 3);
            support::close(other);
        }
        support::close(connection);
        support::assert_plain(&path);
    }
}

#[test]
fn locking_mode_exclusive_with_others_is_busy_and_ends() {
    let scratch = Scratch::new();
    let path = scratch.file("app.db");
    let (own, other) = (database(&path), support::open(&path));
    assert_eq!(count(&other), 1);
    support::run(&own, "PRAGMA locking_mode=EXCLUSIVE");
    assert_eq!(support::code_of(&own, "INSERT INTO t VALUES(1)"), ffi::SQLITE_BUSY);
    support::run(&own, "PRAGMA locking_mode=NORMAL; INSERT INTO t VALUES(1)");
    support::run(&other, "INSERT INTO t VALUES(2)");
    assert_eq!((count(&own), count(&other)), (3, 3));
}

/// Threads that open, write, close; one that switches the mode all the time. Nothing fails but with BUSY, nothing that
/// was acknowledged is missing.
#[test]
fn connections_that_come_and_go_while_one_switches_the_mode() {
    storm(true);
}

#[test]
fn connections_that_come_and_go() {
    storm(false);
}

fn storm(switching: bool) {
    let seconds = Duration::from_secs(env_number("PWAL_TEST_SECONDS", 2));
    let _watchdog = Watchdog::new("a storm of connections", seconds + Duration::from_secs(120));
    let scratch = Scratch::new();
    let path = scratch.file("app.db");
    support::close(database(&path));
    let until = Instant::now() + seconds;
    let (acknowledged, failed) = (AtomicI64::new(0), AtomicBool::new(false));
    let goes_on = || Instant::now() < until && !failed.load(Ordering::Relaxed);
    let busy = |error: &rusqlite::Error| {
        let code = support::code(error);
        if !matches!(code & 0xff, ffi::SQLITE_BUSY) {
            failed.store(true, Ordering::Relaxed);
            panic!("{error:?}");
        }
    };
    std::thread::scope(|scope| {
        for thread in 0..4_i64 {
            let (path, acknowledged, goes_on, busy) = (&path, &acknowledged, &goes_on, &busy);
            scope.spawn(move || {
                for n in 0_i64.. {
                    if !goes_on() {
                        return;
                    }
                    let connection = support::open(path);
                    let value = thread * 1_000_000 + n;
                    for sql in [format!("INSERT INTO t VALUES({value})"), format!("SELECT x FROM t WHERE x={value}")] {
                        match connection.execute_batch(&sql) {
                            Ok(()) if sql.starts_with("INSERT") => drop(acknowledged.fetch_add(1, Ordering::Relaxed)),
                            Ok(()) => {}
                            Err(error) => busy(&error),
                        }
                    }
                    support::close(connection);
                }
            });
        }
        if switching {
            let (path, goes_on, busy) = (&path, &goes_on, &busy);
            scope.spawn(move || {
                while goes_on() {
                    let connection = support::open(path);
                    for sql in ["PRAGMA journal_mode=DELETE", "PRAGMA journal_mode=WAL"] {
                        if let Err(error) = connection.execute_batch(sql) {
                            busy(&error);
                        }
                    }
                    support::close(connection);
                }
            });
        }
    });
    let connection = support::open(&path);
    assert_eq!(support::number(&connection, "SELECT count(*)-1 FROM t"), acknowledged.load(Ordering::Relaxed));
    assert_eq!(support::number(&connection, "SELECT count(DISTINCT x)-1 FROM t"), acknowledged.load(Ordering::Relaxed));
    support::assert_integrity(&connection);
    mode(&connection, "WAL");
    println!("{} commits", count(&connection));
    support::close(connection);
    support::assert_plain(&path);
}
