//! A database in WAL mode on the shim: what the base is still asked, and what it is not.

use super::{Pair, Shape, WORK, file_of, find, methods_of, open, pair, text};
use rusqlite::{Connection, ffi};
use std::ffi::{CString, c_char, c_int};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// A pair, and a database in WAL mode that is open through its shim.
fn joined(name: &str) -> (Pair, tempfile::TempDir, PathBuf, Connection) {
    let pair = pair(name, Shape::default());
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("test.db");
    let connection = open(&path, &pair.shim);
    assert_eq!(text(&connection, "PRAGMA journal_mode = wal"), "wal");
    connection.execute_batch("CREATE TABLE t(id INTEGER PRIMARY KEY, x); INSERT INTO t(x) VALUES(1)").unwrap();
    (pair, directory, path, connection)
}

/// SQLite's own name of a connection's WAL: the very pointer that it hands to the VFS.
fn wal_name(connection: &Connection) -> *const c_char {
    // SAFETY: an open connection with a file as its main database.
    unsafe { ffi::sqlite3_filename_wal(ffi::sqlite3_db_filename(connection.handle(), c"main".as_ptr())) }
}

/// `xAccess` and then `xDelete` of a name.
fn exists_and_delete(vfs: &str, name: *const c_char) -> (bool, c_int) {
    let vfs = find(vfs);
    let mut exists: c_int = -1;
    // SAFETY: a registered VFS and a C string.
    unsafe {
        assert_eq!((*vfs).xAccess.unwrap()(vfs, name, ffi::SQLITE_ACCESS_EXISTS, &raw mut exists), 0);
        (exists == 1, (*vfs).xDelete.unwrap()(vfs, name, 0))
    }
}

/// A file is the WAL of a joined handle by the address of its name, never by its looks: SQLite does not
/// see a file there and cannot delete one; every other name gets the truth.
#[test]
fn a_wal_is_virtual_by_the_address_of_its_name() {
    let (pair, directory, path, connection) = joined("virtual");
    let real = directory.path().join("test.db-wal");
    assert_eq!(exists_and_delete(&pair.shim, wal_name(&connection)), (false, 0));
    std::fs::remove_dir(&real).expect("the placeholder, which SQLite does not see either");
    std::fs::write(&real, "somebody else's").unwrap();
    let copy = CString::new(real.as_os_str().as_bytes()).unwrap();

    assert_eq!(exists_and_delete(&pair.shim, wal_name(&connection)), (false, 0));
    assert!(real.exists(), "a WAL that is not there cannot be deleted");
    assert_eq!(exists_and_delete(&pair.shim, copy.as_ptr()), (true, 0));
    assert!(!real.exists(), "the same name elsewhere in memory is the file");
    drop(connection);

    // Without an engine the name is the file too.
    let plain = open(&path, &pair.shim);
    assert_eq!(text(&plain, "PRAGMA journal_mode = delete"), "delete");
    std::fs::write(&real, "").unwrap();
    let (_, code) = exists_and_delete(&pair.shim, wal_name(&plain));
    assert_eq!(code, 0);
    assert!(!real.exists());
}

#[test]
fn no_real_wal_and_no_shared_memory_of_the_base() {
    let (pair, directory, path, first) = joined("no-real-wal");
    pair.recorder.take();
    let second = open(&path, &pair.shim);
    for connection in [&first, &second] {
        connection.execute_batch("INSERT INTO t(x) VALUES(2); SELECT * FROM t; PRAGMA wal_checkpoint").unwrap();
    }
    let events = pair.recorder.take();
    let of_wal = |event: &&String| event.starts_with("wal: ") || event.contains(": shm ");
    assert_eq!(events.iter().find(of_wal), None);
    assert!(!directory.path().join("test.db-wal").is_file());
    assert!(!directory.path().join("test.db-shm").exists());
}

/// Pages of the base's mapping would change under a snapshot. SQLite gives the mapping up at its first
/// read in WAL mode (`pagerBeginReadTransaction`), and gets no new one.
#[test]
fn nothing_is_read_from_a_mapping() {
    let pair = pair("mapping", Shape::default());
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("test.db");
    let connection = open(&path, &pair.shim);
    connection.execute_batch("PRAGMA mmap_size = 100000000").unwrap();
    connection.execute_batch(WORK).unwrap();
    pair.recorder.take();
    let _ = text(&connection, "SELECT sum(length(x)) FROM t NOT INDEXED");
    assert!(pair.recorder.take().iter().any(|event| event.starts_with("main: fetch")), "it was not mapped before");

    assert_eq!(text(&connection, "PRAGMA journal_mode = wal"), "wal");
    let _ = text(&connection, "SELECT count(*) FROM t");
    let events = pair.recorder.take();
    assert!(events.iter().any(|event| event.starts_with("main: unfetch") && event.ends_with(" all")), "{events:?}");
    for _ in 0..3 {
        connection.execute_batch("DELETE FROM t WHERE id > 5; VACUUM; PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
        assert_eq!(text(&connection, "PRAGMA integrity_check"), "ok");
        connection.execute_batch("INSERT INTO t(x) SELECT zeroblob(100000) FROM t").unwrap();
        let other = open(&path, &pair.shim);
        other.execute_batch("PRAGMA mmap_size = 100000000").unwrap();
        assert_eq!(text(&other, "PRAGMA integrity_check"), "ok");
    }
    let events = pair.recorder.take();
    assert_eq!(events.iter().find(|event| event.starts_with("main: fetch")), None);
    assert!(events.iter().any(|event| event.starts_with("main: control 18")), "the limit itself arrives");
}

/// What the base says to a commit that is published already must not become the result of COMMIT.
#[test]
fn a_published_commit_does_not_depend_on_the_base() {
    let (pair, _directory, _path, connection) = joined("published");
    pair.recorder.take();
    pair.recorder.fail("control", ffi::SQLITE_IOERR);
    connection.execute_batch("INSERT INTO t(x) VALUES(2)").unwrap();
    pair.recorder.fail("", 0);
    assert!(!pair.recorder.take().contains(&String::from("main: control 22")));
    assert_eq!(text(&connection, "SELECT count(*) FROM t"), "Integer(2)");
}

/// The database file is the engine's: nothing of the connection makes it longer, shorter or different.
#[test]
fn a_connection_does_not_change_the_database_file() {
    let (pair, _directory, path, connection) = joined("untouched");
    pair.recorder.take();
    let before = std::fs::read(&path).unwrap();
    let file = file_of(&connection);
    let methods = methods_of(file);
    let (mut chunk, mut hint) = (1 << 20, 1_i64 << 24);
    // SAFETY: an open file, and memory as each method demands it.
    unsafe {
        assert_eq!(
            methods.xFileControl.unwrap()(file, ffi::SQLITE_FCNTL_CHUNK_SIZE, (&raw mut chunk).cast::<i32>().cast()),
            0
        );
        assert_eq!(methods.xFileControl.unwrap()(file, ffi::SQLITE_FCNTL_SIZE_HINT, (&raw mut hint).cast()), 0);
        assert_ne!(methods.xWrite.unwrap()(file, before.as_ptr().cast(), 512, 0), 0);
        assert_ne!(methods.xTruncate.unwrap()(file, 512), 0);
    }
    assert_eq!(std::fs::metadata(&path).unwrap().len(), before.len() as u64);
    assert_eq!(text(&connection, "PRAGMA integrity_check"), "ok");
    assert_eq!(pair.recorder.take().iter().find(|event| event.starts_with("main: control 5")), None);
}

/// The methods of the virtual WAL's own file object.
#[test]
fn the_virtual_wal_is_a_file_of_version_1() {
    let (_pair, _directory, _path, connection) = joined("wal-object");
    let file = super::pointer(&connection, ffi::SQLITE_FCNTL_JOURNAL_POINTER);
    let methods = methods_of(file);
    assert_eq!(methods.iVersion, 1);
    let (mut number, mut bytes) = (-1, -1_i64);
    // SAFETY: an open file, and memory as each method demands it; what makes no sense is caught before it is used.
    unsafe {
        assert_eq!(methods.xLock.unwrap()(file, ffi::SQLITE_LOCK_SHARED), 0);
        assert_eq!(methods.xCheckReservedLock.unwrap()(file, &raw mut number), 0);
        assert_eq!(number, 0);
        assert_eq!(methods.xFileSize.unwrap()(file, &raw mut bytes), 0);
        assert!(bytes >= 32, "at least one frame is always in it");
        let unknown = ffi::SQLITE_FCNTL_HAS_MOVED;
        assert_eq!(methods.xFileControl.unwrap()(file, unknown, (&raw mut number).cast()), ffi::SQLITE_NOTFOUND);
        assert_ne!(methods.xRead.unwrap()(file, std::ptr::null_mut(), 24, 32), 0);
        assert_ne!(methods.xWrite.unwrap()(file, std::ptr::null(), 24, 32), 0);
        assert_ne!(methods.xRead.unwrap()(file, (&raw mut bytes).cast(), 8, -8), 0);
    }
    assert_eq!(text(&connection, "PRAGMA integrity_check"), "ok");
}
