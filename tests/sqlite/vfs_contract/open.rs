//! Opening: failed opens, WAL databases, names that only look like ours, shims above, panics below.

use super::{READ_WRITE, Recorder, Shape, find, open, pair, text};
use pwal::internal::disk::{Disk, LogDirectory};
use rusqlite::{Connection, ErrorCode, OpenFlags, ffi};
use std::ffi::{CString, c_int};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

#[test]
fn a_failed_open_leaves_no_methods_and_no_open_file() {
    let pair = pair("failed", Shape::default());
    let directory = tempfile::tempdir().unwrap();
    let path = CString::new(directory.path().join("none.db").as_os_str().as_bytes()).unwrap();
    let vfs = find(&pair.shim);
    // SAFETY: a registered VFS, a name made by SQLite, and zeroed memory of `szOsFile` bytes.
    unsafe {
        let none = std::ptr::null_mut();
        let name = ffi::sqlite3_create_filename(path.as_ptr(), c"".as_ptr(), c"".as_ptr(), 0, none);
        let words = usize::try_from((*vfs).szOsFile).unwrap().div_ceil(8);
        for methods_after_failed_open in [false, true] {
            pair.recorder.methods_after_failed_open.store(methods_after_failed_open, Ordering::SeqCst);
            let mut memory = vec![u64::MAX; words];
            let file: *mut ffi::sqlite3_file = memory.as_mut_ptr().cast();
            let flags = ffi::SQLITE_OPEN_MAIN_DB | ffi::SQLITE_OPEN_READWRITE;
            let mut out: c_int = 0;
            let code = (*vfs).xOpen.unwrap()(vfs, name, file, flags, &raw mut out);
            assert_eq!(code & 0xff, ffi::SQLITE_CANTOPEN);
            assert!((*file).pMethods.is_null());
            assert_eq!(pair.recorder.open_files.load(Ordering::SeqCst), 0);
        }
        pair.recorder.methods_after_failed_open.store(false, Ordering::SeqCst);
        ffi::sqlite3_free_filename(name);
    }
}

#[test]
fn a_wal_database_lives_through_the_shim_and_is_a_plain_file_afterwards() {
    let pair = pair("wal", Shape::default());
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("test.db");
    let (first, second) = (open(&path, &pair.shim), open(&path, &pair.shim));
    assert_eq!(text(&first, "PRAGMA journal_mode = wal"), "wal");
    first.execute_batch("CREATE TABLE t(x); INSERT INTO t VALUES(1)").unwrap();
    assert_eq!(text(&second, "PRAGMA journal_mode"), "wal");
    second.execute_batch("INSERT INTO t VALUES(2)").unwrap();
    // A snapshot stays as it is while the other writes.
    first.execute_batch("BEGIN").unwrap();
    assert_eq!(text(&first, "SELECT group_concat(x) FROM t"), "1,2");
    second.execute_batch("INSERT INTO t VALUES(3)").unwrap();
    assert_eq!(text(&first, "SELECT group_concat(x) FROM t"), "1,2");
    first.execute_batch("COMMIT").unwrap();
    assert_eq!(text(&first, "SELECT group_concat(x) FROM t"), "1,2,3");
    assert_eq!(text(&second, "PRAGMA integrity_check"), "ok");
    drop((first, second));

    let names: Vec<_> = std::fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["test.db"], "one plain file is left");
    let stock = open(&path, "unix");
    assert_eq!(text(&stock, "SELECT group_concat(x) FROM t"), "1,2,3");
    assert_eq!(text(&stock, "PRAGMA journal_mode = delete"), "delete");
}

#[test]
fn a_wal_database_goes_back_to_a_rollback_journal_and_forth() {
    let pair = pair("modes", Shape::default());
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("test.db");
    let connection = open(&path, &pair.shim);
    connection.execute_batch("CREATE TABLE t(x)").unwrap();
    for (round, mode) in (0_i64..).zip(["wal", "delete", "wal", "truncate", "wal", "memory", "wal"]) {
        assert_eq!(text(&connection, &format!("PRAGMA journal_mode = {mode}")), mode);
        connection.execute("INSERT INTO t VALUES(?1)", [round]).unwrap();
        assert_eq!(text(&connection, "SELECT count(*) FROM t"), format!("Integer({})", round + 1));
    }
    drop(connection);
    assert_eq!(text(&open(&path, "unix"), "SELECT group_concat(x) FROM t"), "0,1,2,3,4,5,6");
}

/// Another shim above: works as long as the shared memory is the base's, and is refused where it would
/// have to be ours; never half.
#[test]
fn below_another_shim_it_works_or_refuses() {
    let pair = pair("below", Shape::default());
    Recorder::register("above-below", &pair.shim, Shape::default());
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("test.db");
    let connection = open(&path, "above-below");
    connection.execute_batch("CREATE TABLE t(x); INSERT INTO t VALUES(1)").unwrap();
    match connection.execute_batch("PRAGMA journal_mode = wal; INSERT INTO t VALUES(2)") {
        Ok(()) => assert_eq!(text(&connection, "SELECT count(*) FROM t"), "Integer(2)"),
        Err(error) => assert_eq!(error.sqlite_error_code(), Some(ErrorCode::CannotOpen), "{error}"),
    }
    drop(connection);
    assert_eq!(text(&open(&path, &pair.shim), "PRAGMA integrity_check"), "ok");
}

#[derive(Debug)]
struct PanickingDisk;

impl Disk for PanickingDisk {
    fn log_directory(&self, _database: &Path) -> Arc<dyn LogDirectory> {
        panic!("on purpose")
    }

    fn sector_bytes(&self, _database: &Path) -> u32 {
        panic!("on purpose")
    }
}

/// A panic below a callback is an error code of SQLite; the process lives, rollback journals work.
#[test]
fn a_panic_is_an_error_code() {
    pwal::Vfs::builder().name("pwal-panic").disk(Arc::new(PanickingDisk)).register().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let connection = open(directory.path().join("test.db"), "pwal-panic");
    let _ = connection.execute_batch("PRAGMA journal_mode = wal");
    let _ = connection.execute_batch("CREATE TABLE t(x); INSERT INTO t VALUES(1)");
    drop(connection);
    let memory = open(":memory:", "pwal-panic");
    memory.execute_batch("CREATE TABLE t(x)").unwrap();
}

#[test]
fn read_only_databases_are_read_and_not_written() {
    let pair = pair("read-only", Shape::default());
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("test.db");
    open(&path, "unix").execute_batch("CREATE TABLE t(x); INSERT INTO t VALUES(1)").unwrap();
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY;
    let vfs = CString::new(pair.shim.as_str()).unwrap();
    let connection = Connection::open_with_flags_and_vfs(&path, flags, vfs.as_c_str()).unwrap();
    assert!(connection.is_readonly("main").unwrap());
    assert_eq!(text(&connection, "SELECT x FROM t"), "Integer(1)");
    let error = connection.execute_batch("INSERT INTO t VALUES(2)").unwrap_err();
    assert_eq!(error.sqlite_error_code(), Some(ErrorCode::ReadOnly));
}

#[test]
fn a_file_that_the_base_could_only_open_for_reading_is_read_only() {
    let pair = pair("out-flags", Shape::default());
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("test.db");
    open(&path, &pair.shim).execute_batch("CREATE TABLE t(x)").unwrap();
    pair.recorder.opens_read_only.store(true, Ordering::SeqCst);
    let connection = open(&path, &pair.shim);
    assert!(connection.is_readonly("main").unwrap());
    let error = connection.execute_batch("INSERT INTO t VALUES(2)").unwrap_err();
    assert_eq!(error.sqlite_error_code(), Some(ErrorCode::ReadOnly));
    assert_eq!(text(&connection, "SELECT count(*) FROM t"), "Integer(0)");
}

/// What a stock connection left in WAL mode and closed reads the same, immutable.
#[test]
fn immutable_wal_databases_are_read_without_locks() {
    let pair = pair("immutable", Shape::default());
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("test.db");
    let stock = open(&path, "unix");
    stock.execute_batch("PRAGMA journal_mode = wal; CREATE TABLE t(x); INSERT INTO t VALUES(1)").unwrap();
    drop(stock);
    let uri = format!("file:{}?vfs={}&immutable=1", path.display(), pair.shim);
    pair.recorder.take();
    let connection = Connection::open_with_flags(uri, READ_WRITE).unwrap();
    assert_eq!(text(&connection, "SELECT x FROM t"), "Integer(1)");
    drop(connection);
    let events = pair.recorder.take();
    assert!(!events.iter().any(|event| event.starts_with("main: lock") || event.contains("wal")), "{events:?}");
}

#[test]
fn the_sql_functions_say_where_a_connection_is() {
    let pair = pair("functions", Shape::default());
    let directory = tempfile::tempdir().unwrap();
    let stock = open(directory.path().join("stock.db"), "unix");
    assert_eq!(text(&stock, "SELECT pwal_version()"), pwal::version());
    assert_eq!(
        text(&stock, "SELECT pwal_status()"),
        r#"{"schema":1,"vfs":"unix","active":false,"reason":"opened on another VFS than pwal"}"#
    );
    assert_eq!(
        text(&open(":memory:", &pair.shim), "SELECT pwal_status()"),
        r#"{"schema":1,"vfs":null,"active":false,"reason":"the main database is temporary or in memory"}"#
    );
    let ours = open(directory.path().join("ours.db"), &pair.shim);
    let status = text(&ours, "SELECT pwal_status()");
    assert!(!status.contains("another VFS"), "{status}");
    assert!(serde_json::from_str::<serde_json::Value>(&status).unwrap().is_object(), "{status}");
    drop(ours);
    // An index may use the version, nothing may use what changes.
    stock.execute_batch("CREATE TABLE t(x); CREATE INDEX i ON t(pwal_version())").unwrap();
    stock.execute_batch("CREATE INDEX j ON t(pwal_status())").unwrap_err();
}

#[test]
fn shared_cache_connections_work() {
    let pair = pair("shared", Shape::default());
    let directory = tempfile::tempdir().unwrap();
    let uri = format!("file:{}?vfs={}&cache=shared", directory.path().join("test.db").display(), pair.shim);
    let first = Connection::open_with_flags(&uri, READ_WRITE).unwrap();
    let second = Connection::open_with_flags(&uri, READ_WRITE).unwrap();
    first.execute_batch("PRAGMA journal_mode = wal; CREATE TABLE t(x); INSERT INTO t VALUES(1)").unwrap();
    second.execute_batch("INSERT INTO t VALUES(2)").unwrap();
    assert_eq!(text(&first, "SELECT count(*) FROM t"), "Integer(2)");
    drop(first);
    second.execute_batch("INSERT INTO t VALUES(3)").unwrap();
    assert_eq!(text(&second, "SELECT count(*) FROM t"), "Integer(3)");
}
