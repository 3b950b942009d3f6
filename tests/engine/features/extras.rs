//! Blobs, full text search, temporary tables, mapped memory, shared cache, limits, other files.

use super::fill;
use rusqlite::{Connection, OpenFlags, ffi};
use std::io::{Read, Seek, SeekFrom, Write};
use support::Scratch;

#[test]
fn incremental_blobs_are_read_and_written_over_several_transactions() {
    let scratch = Scratch::new();
    let path = scratch.file("app.db");
    let (own, other) = (support::open_wal(&path), support::open(&path));
    support::run(&own, "CREATE TABLE t(id INTEGER PRIMARY KEY, x); INSERT INTO t VALUES(1, zeroblob(100000))");
    let mut blob = own.blob_open("main", "t", "x", 1, false).unwrap();
    for at in [0_u64, 50_000, 99_000] {
        blob.seek(SeekFrom::Start(at)).unwrap();
        blob.write_all(&[7; 1000]).unwrap();
    }
    blob.close().unwrap();
    let mut blob = other.blob_open("main", "t", "x", 1, true).unwrap();
    let mut bytes = Vec::new();
    blob.read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes.iter().filter(|byte| **byte == 7).count(), 3000);
    assert_eq!(support::text(&own, "SELECT length(x) FROM t"), "100000");
    // A blob that is open for reading holds its snapshot; one whose row changed by its own connection expires.
    support::run(&own, "UPDATE t SET x='gone'");
    blob.seek(SeekFrom::Start(0)).unwrap();
    bytes.clear();
    blob.read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes.len(), 100_000);
    drop(blob);
    let mut expired = own.blob_open("main", "t", "x", 1, true).unwrap();
    support::run(&own, "UPDATE t SET x='again'");
    assert!(expired.read(&mut [0; 2]).is_err());
}

#[test]
fn full_text_search() {
    let scratch = Scratch::new();
    let path = scratch.file("app.db");
    let (own, other) = (support::open_wal(&path), support::open(&path));
    support::run(&own, "CREATE VIRTUAL TABLE words USING fts5(body)");
    for n in 0..200 {
        let writer = if n % 2 == 0 { &own } else { &other };
        support::run(writer, &format!("INSERT INTO words VALUES('number {n} of the words, {}')", n % 10));
    }
    support::run(&own, "INSERT INTO words(words) VALUES('optimize'); DELETE FROM words WHERE rowid=5");
    assert_eq!(support::number(&other, "SELECT count(*) FROM words WHERE words MATCH 'number'"), 199);
    assert_eq!(support::number(&own, "SELECT count(*) FROM words WHERE words MATCH '\"words 3\"'"), 20);
    support::run(&own, "INSERT INTO words(words) VALUES('integrity-check')");
    support::assert_integrity(&other);
}

#[test]
fn temporary_tables_live_beside_a_wal_database() {
    let scratch = Scratch::new();
    let path = scratch.file("app.db");
    let connection = support::open_wal(&path);
    fill(&connection, 100, 1000);
    support::run(
        &connection,
        "PRAGMA temp_store=FILE; PRAGMA temp.cache_size=2; CREATE TEMP TABLE here AS SELECT * FROM t",
    );
    support::run(&connection, "BEGIN; DELETE FROM here WHERE id%2; INSERT INTO t(x) SELECT x FROM here; COMMIT");
    assert_eq!(support::text(&connection, "SELECT (SELECT count(*) FROM here), count(*) FROM t"), "50|150");
    support::run(&connection, "BEGIN; DELETE FROM here; DELETE FROM t; ROLLBACK");
    assert_eq!(support::text(&connection, "SELECT (SELECT count(*) FROM here), count(*) FROM t"), "50|150");
    support::close(connection);
    support::assert_plain(&path);
}

#[test]
fn databases_in_memory_and_without_a_name_are_not_touched() {
    for name in [":memory:", "", "file::memory:", "file:shared?mode=memory&cache=shared"] {
        let connection = support::try_open(name.as_ref(), support::flags(), support::vfs()).unwrap();
        fill(&connection, 100, 1000);
        support::run(&connection, "PRAGMA journal_mode=WAL; VACUUM");
        assert_ne!(support::text(&connection, "PRAGMA journal_mode"), "wal");
        assert_eq!(support::number(&connection, "SELECT count(*) FROM t"), 100);
    }
}

#[test]
fn mapped_memory_never_shows_a_page_that_the_log_has_newer() {
    let scratch = Scratch::new();
    let path = scratch.file("app.db");
    let (writer, reader) = (support::open_wal(&path), support::open(&path));
    support::run(&writer, "PRAGMA mmap_size=100000000");
    support::run(&reader, "PRAGMA mmap_size=100000000; PRAGMA cache_size=2");
    fill(&writer, 200, 1000);
    for round in 0..30 {
        support::run(&writer, &format!("UPDATE t SET x=zeroblob({})", 900 + round));
        if round % 3 == 0 {
            support::text(&writer, "PRAGMA wal_checkpoint(TRUNCATE)");
        }
        assert_eq!(support::text(&reader, "SELECT DISTINCT length(x) FROM t"), (900 + round).to_string());
    }
    support::run(&writer, "DELETE FROM t WHERE id>10; VACUUM");
    support::assert_integrity(&reader);
}

#[test]
fn connections_with_a_shared_cache() {
    let scratch = Scratch::new();
    let path = scratch.file("app.db");
    let flags = support::flags() | OpenFlags::SQLITE_OPEN_SHARED_CACHE;
    let open = || {
        let connection = support::try_open(&path, flags, support::vfs()).unwrap();
        connection.busy_timeout(std::time::Duration::ZERO).unwrap();
        connection
    };
    let (one, two, other) = (open(), open(), support::open(&path));
    support::run(&one, "PRAGMA journal_mode=WAL");
    fill(&one, 10, 100);
    assert_eq!(support::number(&two, "SELECT count(*) FROM t"), 10);
    support::run(&one, "BEGIN; INSERT INTO t(x) VALUES(1)");
    assert_eq!(support::code_of(&two, "SELECT count(*) FROM t"), ffi::SQLITE_LOCKED_SHAREDCACHE);
    assert_eq!(support::number(&other, "SELECT count(*) FROM t"), 10);
    support::run(&one, "COMMIT");
    support::run(&two, "INSERT INTO t(x) VALUES(2)");
    support::run(&other, "INSERT INTO t(x) VALUES(3)");
    assert_eq!(support::number(&one, "SELECT count(*) FROM t"), 13);
    for connection in [one, two, other] {
        support::close(connection);
    }
    support::assert_plain(&path);
}

#[test]
fn a_full_database_is_full_and_goes_on() {
    let scratch = Scratch::new();
    let path = scratch.file("app.db");
    let connection = support::open_wal(&path);
    fill(&connection, 10, 100);
    let pages = support::number(&connection, "PRAGMA page_count");
    support::run(&connection, &format!("PRAGMA max_page_count={}", pages + 5));
    support::run(&connection, "BEGIN; INSERT INTO t(x) VALUES('lost')");
    let code = support::code_of(&connection, "INSERT INTO t(x) VALUES(zeroblob(100000))");
    assert_eq!(code, ffi::SQLITE_FULL);
    assert!(connection.is_autocommit(), "FULL rolls the transaction back");
    assert_eq!(support::number(&connection, "SELECT count(*) FROM t"), 10);
    support::run(&connection, "PRAGMA max_page_count=100000; INSERT INTO t(x) VALUES(zeroblob(100000))");
    support::close(connection);
    support::assert_plain(&path);
}

#[test]
fn the_vfs_can_be_chosen_by_uri_and_says_its_name() {
    let scratch = Scratch::new();
    let path = scratch.file("app.db");
    let uri = format!("file:{}?vfs={}", path.display(), support::vfs());
    let connection = Connection::open_with_flags(uri, support::flags()).unwrap();
    support::run(&connection, "PRAGMA journal_mode=WAL");
    fill(&connection, 10, 100);
    let mut name: *mut std::ffi::c_char = std::ptr::null_mut();
    // SAFETY: the connection is open; the control stores a text that sqlite3_free frees.
    let name = unsafe {
        let code = ffi::sqlite3_file_control(
            connection.handle(),
            c"main".as_ptr(),
            ffi::SQLITE_FCNTL_VFSNAME,
            (&raw mut name).cast(),
        );
        assert_eq!(code, ffi::SQLITE_OK);
        let text = std::ffi::CStr::from_ptr(name).to_string_lossy().into_owned();
        ffi::sqlite3_free(name.cast());
        text
    };
    assert_eq!(name, if support::on_pwal() { "pwal/unix" } else { "unix" });
}

#[test]
fn overflow_pages_of_every_length_around_a_page() {
    let scratch = Scratch::new();
    let path = scratch.file("app.db");
    let (own, other) = (support::open(&path), support::open(&path));
    support::run(&own, "PRAGMA page_size=1024; PRAGMA journal_mode=WAL; PRAGMA cache_size=3");
    support::run(&own, "CREATE TABLE t(id INTEGER PRIMARY KEY, x)");
    for bytes in (0..5000).step_by(97) {
        support::run(&own, &format!("INSERT INTO t(x) VALUES(zeroblob({bytes}))"));
        assert_eq!(support::number(&other, "SELECT length(x) FROM t ORDER BY id DESC"), bytes);
    }
    support::assert_integrity(&other);
}
