//! What SQLite makes of errors in the steps of a commit.

use super::Lab;
use rusqlite::{Connection, ffi};
use support::shim::Verdict;

/// The next `word` is answered with `code`.
fn fail_once(lab: &Lab, word: &'static str, code: i32) {
    let mut left = 1;
    lab.shim.hook(move |moment| {
        if moment.text.contains(word) && left > 0 {
            left -= 1;
            return Verdict::Answer(code);
        }
        Verdict::Pass
    });
}

const PREPARE: &str = "a.db-wal: write 4096@";
const PHASETWO: &str = "a.db: control PHASETWO";

fn started(lab: &Lab) -> Connection {
    let connection = lab.wal();
    support::run(&connection, "INSERT INTO t VALUES(0); INSERT INTO t VALUES(-1)");
    connection
}

#[test]
fn an_error_from_prepare_is_the_result_and_rolls_back() {
    for code in [ffi::SQLITE_FULL, ffi::SQLITE_IOERR_WRITE, ffi::SQLITE_BUSY_SNAPSHOT, ffi::SQLITE_IOERR_FSYNC] {
        for sql in ["INSERT INTO t VALUES(1)", "BEGIN; INSERT INTO t VALUES(1); COMMIT"] {
            let lab = Lab::new();
            let mut connection = started(&lab);
            connection.busy_handler(Some(|_| panic!("no busy handler"))).unwrap();
            fail_once(&lab, PREPARE, code);
            assert_eq!(support::code_of(&connection, sql), code, "{sql}");
            assert!(connection.is_autocommit(), "{sql}");
            assert_eq!(support::text(&connection, "SELECT x FROM t"), "0 -1");
            support::run(&connection, "INSERT INTO t VALUES(2)");
            assert_eq!(support::text(&connection, "SELECT x FROM t"), "0 -1 2");
        }
    }
}

#[test]
fn an_open_cursor_survives_busy_snapshot_from_prepare() {
    let lab = Lab::new();
    let connection = started(&lab);
    let mut cursor = connection.prepare("SELECT x FROM t").unwrap();
    let mut rows = cursor.query([]).unwrap();
    assert!(rows.next().unwrap().is_some());
    fail_once(&lab, PREPARE, ffi::SQLITE_BUSY_SNAPSHOT);
    assert_eq!(support::code_of(&connection, "INSERT INTO t VALUES(1)"), ffi::SQLITE_BUSY_SNAPSHOT);
    assert_eq!(rows.next().unwrap().unwrap().get::<_, i64>(0).unwrap(), -1);
    assert!(rows.next().unwrap().is_none());
}

#[test]
fn busy_from_prepare_of_an_explicit_commit_leaves_the_transaction_open() {
    let lab = Lab::new();
    let connection = started(&lab);
    support::run(&connection, "BEGIN; INSERT INTO t VALUES(1)");
    fail_once(&lab, PREPARE, ffi::SQLITE_BUSY);
    assert_eq!(support::code_of(&connection, "COMMIT"), ffi::SQLITE_BUSY);
    assert!(!connection.is_autocommit());
    support::run(&connection, "COMMIT");
    assert_eq!(support::text(&connection, "SELECT x FROM t"), "0 -1 1");
}

#[test]
fn an_error_from_the_release_of_an_outermost_savepoint_leaves_autocommit_off() {
    let lab = Lab::new();
    let connection = started(&lab);
    support::run(&connection, "SAVEPOINT s; INSERT INTO t VALUES(1)");
    fail_once(&lab, PREPARE, ffi::SQLITE_BUSY_SNAPSHOT);
    assert_eq!(support::code_of(&connection, "RELEASE s"), ffi::SQLITE_BUSY_SNAPSHOT);
    assert!(!connection.is_autocommit());
    support::run(&connection, "ROLLBACK");
    assert_eq!(support::text(&connection, "SELECT x FROM t"), "0 -1");
}

#[test]
fn an_error_from_phasetwo_is_the_result_of_commit_though_it_is_in_the_view() {
    let lab = Lab::new();
    let connection = started(&lab);
    let mut cursor = connection.prepare("SELECT x FROM t").unwrap();
    for sql in ["INSERT INTO t VALUES(1)", "BEGIN; INSERT INTO t VALUES(2); COMMIT"] {
        let mut rows = cursor.query([]).unwrap();
        assert!(rows.next().unwrap().is_some());
        fail_once(&lab, PHASETWO, ffi::SQLITE_IOERR_FSYNC);
        assert_eq!(support::code_of(&connection, sql), ffi::SQLITE_IOERR_FSYNC);
        assert!(connection.is_autocommit());
        assert_eq!(rows.next().map(|_| ()).map_err(|error| support::code(&error)), Err(ffi::SQLITE_IOERR_FSYNC));
    }
    // The header stands for the commits that were reported as failed: the connection reads them.
    assert_eq!(support::text(&connection, "SELECT x FROM t"), "0 -1 1 2");
}

#[test]
fn results_of_read_unlocks_are_ignored() {
    let lab = Lab::new();
    let connection = started(&lab);
    lab.shim.hook(|moment| {
        if moment.text.contains("shm unlock shared") { Verdict::Answer(ffi::SQLITE_IOERR) } else { Verdict::Pass }
    });
    support::run(&connection, "SELECT x FROM t; INSERT INTO t VALUES(1)");
}

#[test]
fn an_error_from_a_read_lock_is_the_result_of_the_statement() {
    let lab = Lab::new();
    let connection = started(&lab);
    fail_once(&lab, "shm lock shared", ffi::SQLITE_IOERR);
    assert_eq!(support::code_of(&connection, "SELECT x FROM t"), ffi::SQLITE_IOERR);
    fail_once(&lab, "shm lock shared", ffi::SQLITE_IOERR_LOCK);
    assert_eq!(support::code_of(&connection, "INSERT INTO t VALUES(1)"), ffi::SQLITE_IOERR_LOCK);
    assert_eq!(support::text(&connection, "SELECT x FROM t"), "0 -1");
}

#[test]
fn busy_from_write_is_the_result_of_the_statement_and_an_io_error_ends_the_transaction_too() {
    let lab = Lab::new();
    let connection = started(&lab);
    for (code, ended) in [(ffi::SQLITE_BUSY, false), (ffi::SQLITE_BUSY_SNAPSHOT, false), (ffi::SQLITE_IOERR_LOCK, true)]
    {
        support::run(&connection, "BEGIN; SELECT x FROM t");
        fail_once(&lab, "shm lock exclusive WRITE", code);
        assert_eq!(support::code_of(&connection, "INSERT INTO t VALUES(1)"), code);
        assert_eq!(connection.is_autocommit(), ended);
        assert_eq!(support::text(&connection, "SELECT x FROM t"), "0 -1");
        let _ = connection.execute_batch("ROLLBACK");
    }
}

#[test]
fn full_while_a_transaction_spills_is_the_result_of_that_statement_and_rolls_back() {
    let lab = Lab::new();
    let connection = started(&lab);
    support::run(&connection, "PRAGMA cache_size=1; BEGIN; INSERT INTO t VALUES(1)");
    fail_once(&lab, PREPARE, ffi::SQLITE_FULL);
    let many = "INSERT INTO t WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<99) SELECT zeroblob(4000) FROM n";
    assert_eq!(support::code_of(&connection, many), ffi::SQLITE_FULL);
    assert!(connection.is_autocommit());
    assert_eq!(support::text(&connection, "SELECT x FROM t"), "0 -1");
}
