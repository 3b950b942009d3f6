//! What a connection says of itself: whether it is on a log, and if not, why and what to do. And file controls.

use rusqlite::{Connection, ffi};
use std::ffi::c_int;
use std::os::unix::fs::FileExt;
use std::path::Path;
use support::Scratch;
use support::processes::agent::Agent;

fn status(connection: &Connection) -> (bool, String) {
    let json: String = connection.query_row("PRAGMA parallel_wal_status", [], |row| row.get(0)).unwrap();
    let status: serde_json::Value = serde_json::from_str(&json).unwrap();
    (status["active"].as_bool().unwrap(), status["reason"].as_str().unwrap_or_default().to_owned())
}

const ROLLBACK: &str = "not in WAL mode: PRAGMA journal_mode=WAL";

#[test]
fn a_database_in_rollback_mode_says_what_to_type() {
    if !support::on_pwal() {
        return;
    }
    let scratch = Scratch::new();
    let connection = support::open(&scratch.file("app.db"));
    let inactive = format!("inactive: {ROLLBACK}");
    assert_eq!(support::text(&connection, "PRAGMA parallel_wal_mode"), inactive, "a new file");
    assert_eq!(support::text(&connection, "PRAGMA parallel_wal_mode=auto"), inactive);
    assert_eq!(status(&connection), (false, String::from("not read yet")));
    for sql in ["CREATE TABLE t(x)", "INSERT INTO t VALUES(1)", "SELECT * FROM t", "BEGIN; SELECT * FROM t", "COMMIT"] {
        support::run(&connection, sql);
        assert_eq!(support::text(&connection, "PRAGMA parallel_wal_mode"), inactive, "{sql}");
        assert_eq!(status(&connection), (false, ROLLBACK.to_owned()), "{sql}");
    }
    let other = support::open(&scratch.file("app.db"));
    assert_eq!(support::text(&other, "PRAGMA parallel_wal_mode=conservative"), inactive);
    assert_eq!(support::text(&other, "PRAGMA journal_mode=WAL"), "wal");
    assert_eq!(support::number(&other, "SELECT count(*) FROM t"), 1);
    assert_eq!(support::text(&other, "PRAGMA parallel_wal_mode"), "conservative", "the wish counts now");
    assert_eq!(status(&other), (true, String::new()));
    assert_eq!(support::text(&connection, "PRAGMA parallel_wal_mode"), "auto");
    assert_eq!(support::number(&connection, "SELECT count(*) FROM t"), 1);
    assert!(status(&connection).0);
    let off = support::open(&scratch.file("off.db"));
    assert_eq!(support::text(&off, "PRAGMA parallel_wal_mode=off"), "off");
    assert_eq!(status(&off).1, "parallel_wal_mode=off");
}

/// A database in WAL mode, closed, with these bytes in its header.
fn patched(path: &Path, bytes: &[u8], offset: u64) {
    let connection = support::open_wal(path);
    support::run(&connection, "CREATE TABLE t(x); INSERT INTO t VALUES(1)");
    support::close(connection);
    std::fs::OpenOptions::new().write(true).open(path).unwrap().write_all_at(bytes, offset).unwrap();
}

/// Codecs with a plain header keep something there.
#[test]
fn what_others_keep_in_reserved_header_bytes_makes_it_work_as_stock() {
    let scratch = Scratch::new();
    let path = scratch.file("app.db");
    patched(&path, b"somebody's own bytes", 72);
    let all: Vec<Connection> = (0..3).map(|_| support::open(&path)).collect();
    for connection in &all {
        support::run(connection, "INSERT INTO t VALUES(2); BEGIN; SELECT * FROM t; COMMIT");
    }
    assert_eq!(support::number(&all[0], "SELECT count(*) FROM t"), 4);
    if support::on_pwal() {
        assert!(status(&all[1]).1.contains("bytes 72 to 91"), "{:?}", status(&all[1]));
    }
    drop(all);
    assert_eq!(std::fs::read(&path).unwrap()[72..92], *b"somebody's own bytes");
    support::assert_integrity(&support::open_stock(&path));
}

#[test]
fn what_is_no_database_of_this_version_has_the_codes_of_stock() {
    let scratch = Scratch::new();
    for (name, bytes, offset) in [
        ("read version", &[3_u8][..], 19),
        ("both versions", &[3, 3], 18),
        ("a read version of pwal's without its stamp", &[0x70], 19),
        ("both of pwal's without its stamp", &[0x70, 0x70], 18),
        ("magic", b"blah", 8),
        ("all", &[0xa5; 100], 0),
    ] {
        let path = scratch.file(&format!("{name}.db"));
        patched(&path, bytes, offset);
        let connection = support::open(&path);
        let code = support::code_of(&connection, "SELECT * FROM t");
        let stock = support::code_of(&support::open_stock(&path), "SELECT * FROM t");
        assert_eq!((code, stock), (ffi::SQLITE_NOTADB, ffi::SQLITE_NOTADB), "{name}");
        assert_eq!(support::beside(&path), Vec::<String>::new(), "{name}");
        if support::on_pwal() && name == "all" {
            assert!(status(&connection).1.contains("encrypted"), "{:?}", status(&connection));
            assert!(support::text(&connection, "PRAGMA parallel_wal_mode").contains("encrypted"));
        }
    }
}

fn control(connection: &Connection, operation: c_int) -> c_int {
    let mut value: c_int = -1;
    // SAFETY: an open connection, a C string, and an integer as these operations want it.
    let code =
        unsafe { ffi::sqlite3_file_control(connection.handle(), c"main".as_ptr(), operation, (&raw mut value).cast()) };
    assert_eq!(code, ffi::SQLITE_OK);
    value
}

#[test]
fn file_controls_tell_of_the_locks_that_sqlite_has() {
    let scratch = Scratch::new();
    let path = scratch.file("app.db");
    let connection = support::open_wal(&path);
    support::run(&connection, "CREATE TABLE t(x)");
    assert_eq!(control(&connection, ffi::SQLITE_FCNTL_LOCKSTATE), ffi::SQLITE_LOCK_SHARED);
    let other = support::open(&path);
    assert_eq!(control(&other, ffi::SQLITE_FCNTL_LOCKSTATE), ffi::SQLITE_LOCK_NONE);
    support::run(&other, "BEGIN; SELECT * FROM t");
    assert_eq!(control(&other, ffi::SQLITE_FCNTL_LOCKSTATE), ffi::SQLITE_LOCK_SHARED);
    assert_eq!(control(&connection, ffi::SQLITE_FCNTL_EXTERNAL_READER), 0, "of this process");
    let mut elsewhere = Agent::on(&path);
    elsewhere.run("BEGIN");
    elsewhere.run("SELECT * FROM t");
    assert_eq!(control(&connection, ffi::SQLITE_FCNTL_EXTERNAL_READER), 1, "of another one");
    elsewhere.run("COMMIT");
    assert_eq!(control(&connection, ffi::SQLITE_FCNTL_EXTERNAL_READER), 0);
    elsewhere.end();
}

#[test]
fn without_locks_a_database_in_wal_mode_cannot_be_opened() {
    let scratch = Scratch::new();
    let path = scratch.file("app.db");
    let connection = support::open_wal(&path);
    support::run(&connection, "CREATE TABLE t(x); INSERT INTO t VALUES(1)");
    let uri = format!("file:{}?nolock=1", path.display());
    let other = support::open(Path::new(&uri));
    for sql in ["SELECT * FROM t", "INSERT INTO t VALUES(2)"] {
        assert_eq!(support::code_of(&other, sql), ffi::SQLITE_CANTOPEN, "{sql}");
    }
    support::run(&connection, "INSERT INTO t VALUES(3)");
    drop(other);
    support::close(connection);
    support::assert_plain(&path);
}

/// A newer SQLite's format: an older one reads it, and leaves it as it is (`lockBtree`).
#[test]
fn what_only_a_newer_sqlite_may_write_is_read() {
    let scratch = Scratch::new();
    for version in [3, 4, 111, 113, 255] {
        let path = scratch.file(&format!("{version}.db"));
        patched(&path, &[version], 18);
        let before = std::fs::read(&path).unwrap();
        let connection = support::open(&path);
        assert_eq!(support::text(&connection, "SELECT x FROM t"), "1", "{version}");
        assert!(connection.is_readonly("main").unwrap(), "{version}");
        let written = support::code_of(&connection, "INSERT INTO t VALUES(2)");
        assert_eq!(written, ffi::SQLITE_READONLY, "{version}");
        if support::on_pwal() {
            assert!(status(&connection).1.contains("newer SQLite"), "{version}: {}", status(&connection).1);
        }
        support::close(connection);
        assert!(std::fs::read(&path).unwrap() == before, "{version}: the file was written");
        assert_eq!(support::beside(&path), Vec::<String>::new(), "{version}");
    }
}
