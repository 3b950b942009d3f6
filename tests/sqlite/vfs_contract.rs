//! The contract of the shim: what is not a WAL database of ours passes through, call by call.
//!
//! Each test puts a recorder below the shim and compares what arrives there with what arrives
//! when SQLite uses the recorder directly.

mod joined;
mod open;
mod recorder;

use recorder::{FCNTL_OWN, Recorder};
use rusqlite::ffi::{self, sqlite3_file, sqlite3_io_methods, sqlite3_vfs};
use rusqlite::{Connection, OpenFlags};
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use support::test_vfs::Shape;

/// A recorder, and the shim on top of it.
struct Pair {
    recorder: &'static Recorder,
    direct: String,
    shim: String,
}

fn pair(name: &str, shape: Shape) -> Pair {
    let (direct, shim) = (format!("recorder-{name}"), format!("pwal-{name}"));
    let recorder = Recorder::register(&direct, support::STOCK, shape);
    pwal::Vfs::builder().name(&shim).base(&direct).register().unwrap();
    Pair { recorder, direct, shim }
}

const READ_WRITE: OpenFlags = OpenFlags::SQLITE_OPEN_READ_WRITE
    .union(OpenFlags::SQLITE_OPEN_CREATE)
    .union(OpenFlags::SQLITE_OPEN_URI)
    .union(OpenFlags::SQLITE_OPEN_NO_MUTEX);

fn open(path: impl AsRef<Path>, vfs: &str) -> Connection {
    let vfs = CString::new(vfs).unwrap();
    Connection::open_with_flags_and_vfs(path, READ_WRITE, vfs.as_c_str()).unwrap()
}

fn file_of(connection: &Connection) -> *mut sqlite3_file {
    pointer(connection, ffi::SQLITE_FCNTL_FILE_POINTER)
}

fn pointer(connection: &Connection, operation: c_int) -> *mut sqlite3_file {
    let mut file: *mut sqlite3_file = std::ptr::null_mut();
    // SAFETY: both operations leave a file object's address.
    let code =
        unsafe { ffi::sqlite3_file_control(connection.handle(), c"main".as_ptr(), operation, (&raw mut file).cast()) };
    assert_eq!(code, 0);
    assert!(!file.is_null());
    file
}

fn methods_of(file: *mut sqlite3_file) -> &'static sqlite3_io_methods {
    // SAFETY: an open file; tables stay.
    unsafe { &*(*file).pMethods }
}

fn find(vfs: &str) -> *mut sqlite3_vfs {
    let name = CString::new(vfs).unwrap();
    // SAFETY: a C string.
    let found = unsafe { ffi::sqlite3_vfs_find(name.as_ptr()) };
    assert!(!found.is_null());
    found
}

fn text(connection: &Connection, sql: &str) -> String {
    connection.query_row(sql, [], |row| row.get::<_, rusqlite::types::Value>(0)).map_or_else(
        |error| format!("error: {error}"),
        |value| match value {
            rusqlite::types::Value::Text(text) => text,
            other => format!("{other:?}"),
        },
    )
}

/// What the shim may ask of the base on its own account before it knows that a database is not
/// a WAL database: looking, never changing.
fn only_looks(event: &str) -> bool {
    ["main: read ", "main: size", "vfs: access "].iter().any(|look| event.starts_with(look))
}

/// Everything that arrives directly arrives through the shim, in this order, with the same arguments.
fn assert_passed_through(direct: &[String], shim: &[String]) {
    let mut expected = direct.iter().peekable();
    for (at, event) in shim.iter().enumerate() {
        if expected.peek() == Some(&event) {
            expected.next();
        } else {
            assert!(
                only_looks(event),
                "call {at} through the shim is {event:?}, expected {:?}; before it: {:?}",
                expected.peek(),
                &shim[at.saturating_sub(5)..at]
            );
        }
    }
    assert_eq!(expected.next(), None, "a call did not arrive through the shim");
}

/// Runs the same on the recorder and on the shim, each in its own directory, and compares the calls.
fn compare(pair: &Pair, run: impl Fn(&str, PathBuf) -> Vec<String>) {
    let directories = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    pair.recorder.take();
    let direct_answers = run(&pair.direct, directories[0].path().join("test.db"));
    let direct = pair.recorder.take();
    let shim_answers = run(&pair.shim, directories[1].path().join("test.db"));
    let shim = pair.recorder.take();
    assert_eq!(direct_answers, shim_answers);
    assert!(!direct.is_empty());
    assert_passed_through(&direct, &shim);
    let names = |directory: &Path| {
        let mut names: Vec<_> = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    assert_eq!(names(directories[0].path()), names(directories[1].path()), "the same files are left");
}

const WORK: &str = "
    CREATE TABLE t(id INTEGER PRIMARY KEY, x BLOB);
    INSERT INTO t(x) WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i < 200)
        SELECT zeroblob(500 + i) FROM n;
    BEGIN; UPDATE t SET x = zeroblob(3000) WHERE id % 3 = 0; ROLLBACK;
    BEGIN; DELETE FROM t WHERE id % 7 = 0; SAVEPOINT s; UPDATE t SET x = 'y'; ROLLBACK TO s; COMMIT;
    CREATE INDEX i ON t(x);
    VACUUM;
";

#[test]
fn every_rollback_journal_mode_passes_through_call_by_call() {
    let pair = pair("journal", Shape::default());
    for mode in ["delete", "truncate", "persist", "memory", "off"] {
        for synchronous in ["off", "normal", "full", "extra"] {
            compare(&pair, |vfs, path| {
                let connection = open(&path, vfs);
                let mut answers = vec![text(&connection, &format!("PRAGMA journal_mode = {mode}"))];
                connection.execute_batch(&format!("PRAGMA synchronous = {synchronous}")).unwrap();
                // Of the flags of xSync, one bit is set by a pragma only.
                connection.execute_batch("PRAGMA cache_size = 10; PRAGMA fullfsync = 1").unwrap();
                // Without a journal ROLLBACK is undefined.
                let work = if mode == "off" { WORK.replace("ROLLBACK", "COMMIT") } else { WORK.to_owned() };
                let work = if mode == "off" { work.replace("COMMIT TO s", "RELEASE s") } else { work };
                connection.execute_batch(&work).unwrap();
                let reader = open(&path, vfs);
                answers.push(text(&reader, "SELECT count(*) || ' ' || sum(length(x)) FROM t"));
                answers.push(text(&reader, "PRAGMA integrity_check"));
                answers
            });
        }
    }
}

#[test]
fn attached_databases_commit_together_by_a_super_journal() {
    let pair = pair("attached", Shape::default());
    compare(&pair, |vfs, path| {
        let connection = open(&path, vfs);
        let second = path.with_file_name("second.db");
        connection.execute("ATTACH ?1 AS second", [second.to_str().unwrap()]).unwrap();
        connection.execute_batch("CREATE TABLE a(x); CREATE TABLE second.b(x)").unwrap();
        connection.execute_batch("BEGIN; INSERT INTO a VALUES(1); INSERT INTO b VALUES(2); COMMIT").unwrap();
        connection.execute_batch("BEGIN; INSERT INTO a VALUES(3); INSERT INTO b VALUES(4); ROLLBACK").unwrap();
        vec![text(&connection, "SELECT sum(x) FROM (SELECT x FROM a UNION ALL SELECT x FROM b)")]
    });

    // A super-journal that announces a commit is created; one that is only read is not (`pager_delsuper`).
    let directory = tempfile::tempdir().unwrap();
    let connection = open(directory.path().join("test.db"), &pair.shim);
    connection.execute("ATTACH ?1 AS second", [directory.path().join("second.db").to_str().unwrap()]).unwrap();
    connection.execute_batch("CREATE TABLE a(x); CREATE TABLE second.b(x)").unwrap();
    pair.recorder.take();
    connection.execute_batch("BEGIN; INSERT INTO a VALUES(1); INSERT INTO b VALUES(2); COMMIT").unwrap();
    let create = ffi::SQLITE_OPEN_SUPER_JOURNAL | ffi::SQLITE_OPEN_CREATE;
    let opened = |event: &String| {
        let flags = event.strip_prefix("super-journal: open super flags=0x")?;
        c_int::from_str_radix(flags, 16).ok()
    };
    let flags: Vec<c_int> = pair.recorder.take().iter().filter_map(opened).collect();
    assert_eq!(flags.len(), 1);
    assert_eq!(flags[0] & create, create);
}

#[test]
fn temporary_files_and_memory_pass_through() {
    let pair = pair("temporary", Shape::default());
    compare(&pair, |vfs, path| {
        let connection = open(&path, vfs);
        connection.execute_batch("PRAGMA temp_store = file; PRAGMA cache_size = 10").unwrap();
        connection
            .execute_batch(
                "CREATE TABLE t AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i < 3000)
                     SELECT i, (i * 7919) % 3001 AS j, zeroblob(100) AS z FROM n;
                 CREATE TEMP TABLE u AS SELECT * FROM t ORDER BY j;
                 CREATE TEMP TABLE v(x); INSERT INTO v SELECT i FROM u; ROLLBACK TO x;",
            )
            .unwrap_err();
        let copy = path.with_file_name("copy.db");
        connection.execute("VACUUM INTO ?1", [copy.to_str().unwrap()]).unwrap();
        connection.execute_batch("ATTACH ':memory:' AS m; CREATE TABLE m.w AS SELECT i FROM u").unwrap();
        connection.execute_batch("ATTACH '' AS n; CREATE TABLE n.w AS SELECT * FROM u").unwrap();
        let memory = open(":memory:", vfs);
        memory.execute_batch("CREATE TABLE t(x); INSERT INTO t VALUES(1)").unwrap();
        vec![
            text(&connection, "SELECT group_concat(i) FROM (SELECT i FROM u ORDER BY j, z LIMIT 5)"),
            text(&connection, "SELECT count(*) FROM m.w"),
            text(&connection, "SELECT count(*) FROM n.w"),
            text(&memory, "SELECT x FROM t"),
            text(&open(copy, vfs), "PRAGMA integrity_check"),
        ]
    });
}

#[test]
fn memory_mapped_reads_reach_the_base() {
    let pair = pair("mmap", Shape::default());
    compare(&pair, |vfs, path| {
        let connection = open(&path, vfs);
        connection.execute_batch(WORK).unwrap();
        drop(connection);
        let connection = open(&path, vfs);
        vec![
            text(&connection, "PRAGMA mmap_size = 1000000"),
            text(&connection, "SELECT sum(length(x)) FROM t"),
            text(&connection, "DELETE FROM t WHERE id < 50 RETURNING id"),
            text(&connection, "SELECT sum(length(x)) FROM t"),
        ]
    });
    let directory = tempfile::tempdir().unwrap();
    let connection = open(directory.path().join("mapped.db"), &pair.shim);
    connection.execute_batch(WORK).unwrap();
    connection.execute_batch("PRAGMA mmap_size = 1000000").unwrap();
    pair.recorder.take();
    let _ = text(&connection, "SELECT sum(length(x)) FROM t NOT INDEXED");
    let _ = text(&open(directory.path().join("mapped.db"), &pair.shim), "PRAGMA integrity_check");
    let events = pair.recorder.take();
    assert!(events.iter().any(|event| event.starts_with("main: fetch")), "no page came by xFetch");
}

#[test]
fn parameters_of_uris_reach_the_base() {
    let pair = pair("uri", Shape::default());
    let uri = |path: &Path, vfs: &str, rest: &str| format!("file:{}?vfs={vfs}&{rest}", path.display());
    compare(&pair, |vfs, path| {
        open(&path, vfs).execute_batch(WORK).unwrap();
        let mut answers = Vec::new();
        for rest in ["probe=hello", "psow=0", "nolock=1", "immutable=1", "mode=ro", "cache=shared", "modeof=/"] {
            let connection = Connection::open_with_flags(uri(&path, vfs, rest), READ_WRITE).unwrap();
            answers.push(text(&connection, "SELECT count(*) FROM t"));
            answers.push(connection.is_readonly("main").unwrap().to_string());
            answers.push(text(&connection, "INSERT INTO t(x) VALUES('new') RETURNING x"));
        }
        answers
    });

    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("test.db");
    open(&path, &pair.shim).execute_batch(WORK).unwrap();
    for rest in ["nolock=1&probe=seen", "immutable=1&probe=seen"] {
        pair.recorder.take();
        let connection = Connection::open_with_flags(uri(&path, &pair.shim, rest), READ_WRITE).unwrap();
        assert_eq!(text(&connection, "PRAGMA integrity_check"), "ok");
        drop(connection);
        let events = pair.recorder.take();
        assert!(events.iter().any(|event| event.ends_with("probe=seen")), "{events:?}");
        assert!(!events.iter().any(|event| event.starts_with("main: lock")), "{rest} locks: {events:?}");
    }
}

#[test]
fn only_main_files_are_ours_all_others_are_the_bases_own_objects() {
    let pair = pair("whole", Shape::default());
    let directory = tempfile::tempdir().unwrap();
    let direct = open(directory.path().join("direct.db"), &pair.direct);
    direct.execute_batch("CREATE TABLE t(x)").unwrap();
    let of_base = methods_of(file_of(&direct));

    let connection = open(directory.path().join("test.db"), &pair.shim);
    connection
        .execute_batch("PRAGMA journal_mode = persist; CREATE TABLE t(x); BEGIN; INSERT INTO t VALUES(1)")
        .unwrap();
    let journal = methods_of(pointer(&connection, ffi::SQLITE_FCNTL_JOURNAL_POINTER));
    assert!(std::ptr::eq(journal, of_base), "the journal is not the base's");
    assert!(!std::ptr::eq(methods_of(file_of(&connection)), of_base), "the main file is not ours");
    connection.execute_batch("COMMIT").unwrap();
}

#[test]
fn versions_and_sizes_are_the_bases() {
    for version in 1..=3 {
        for shm in [true, false] {
            let pair = pair(&format!("version-{version}-{shm}"), Shape { version, shm });
            // SAFETY: registered VFSes.
            let (base, shim) = unsafe { (&*find(&pair.direct), &*find(&pair.shim)) };
            assert_eq!(shim.iVersion, version);
            assert_eq!(shim.mxPathname, base.mxPathname);
            assert!(shim.szOsFile > base.szOsFile);
            assert_eq!(shim.xCurrentTimeInt64.is_some(), base.xCurrentTimeInt64.is_some());
            assert_eq!(shim.xNextSystemCall.is_some(), base.xNextSystemCall.is_some());
            assert_eq!(shim.xDlOpen.is_some(), base.xDlOpen.is_some());

            let directory = tempfile::tempdir().unwrap();
            let connection = open(directory.path().join("test.db"), &pair.shim);
            let methods = methods_of(file_of(&connection));
            let has_shm = version >= 2 && shm;
            // A version 2 without shared memory offers what version 1 does.
            assert_eq!(methods.iVersion, if version == 2 && !shm { 1 } else { version });
            if version >= 3 {
                assert_eq!(methods.xShmMap.is_some(), has_shm);
            }
            // SQLite offers WAL where there is shared memory, and there only.
            let mode = text(&connection, "PRAGMA journal_mode = wal");
            assert_eq!(mode, if has_shm { "wal" } else { "delete" }, "version {version}, shm {shm}");
            connection.execute_batch(WORK).unwrap();
            assert_eq!(text(&connection, "PRAGMA integrity_check"), "ok");
            assert_eq!(text(&connection, "PRAGMA mmap_size = 1000000"), text(&connection, "PRAGMA mmap_size"));
        }
    }
}

#[test]
fn characteristics_and_sectors_are_the_bases() {
    // Some that no unix file claims.
    let characteristics = ffi::SQLITE_IOCAP_UNDELETABLE_WHEN_OPEN | ffi::SQLITE_IOCAP_SAFE_APPEND;
    let pair = pair("characteristics", Shape::default());
    pair.recorder.characteristics.store(characteristics, Ordering::SeqCst);
    let directory = tempfile::tempdir().unwrap();
    let ask = |vfs: &str| {
        let connection = open(directory.path().join("test.db"), vfs);
        let file = file_of(&connection);
        let methods = methods_of(file);
        // SAFETY: an open file.
        unsafe { (methods.xDeviceCharacteristics.unwrap()(file), methods.xSectorSize.unwrap()(file)) }
    };
    let direct = ask(&pair.direct);
    assert_eq!(direct.0 & characteristics, characteristics);
    assert_eq!(ask(&pair.shim), direct);
}

#[test]
fn every_file_control_reaches_the_base() {
    let pair = pair("controls", Shape::default());
    let directory = tempfile::tempdir().unwrap();
    let ask = |vfs: &str| {
        let connection = open(directory.path().join("test.db"), vfs);
        let file = file_of(&connection);
        pair.recorder.take();
        // 16 makes a name that would have to be freed, 43 closes the descriptor; 12 has its own test.
        let answers: Vec<(c_int, c_int)> = (1..=60)
            .filter(|operation| ![12, 16, 43].contains(operation))
            .map(|operation| {
                let mut argument = [0_i64; 8];
                // SAFETY: an open file; no operation of the unix VFS takes more than eight words, and all read zeros
                // as nothing or null.
                let code =
                    unsafe { methods_of(file).xFileControl.unwrap()(file, operation, argument.as_mut_ptr().cast()) };
                (operation, code)
            })
            .collect();
        let events = pair.recorder.take();
        (answers, events)
    };
    let (direct, shim) = (ask(&pair.direct), ask(&pair.shim));
    assert_eq!(shim.0, direct.0);
    assert_passed_through(&direct.1, &shim.1);
    assert_eq!(direct.1.len(), 57);

    let connection = open(directory.path().join("test.db"), &pair.shim);
    // SAFETY: the recorder takes a string.
    let code = unsafe {
        let argument: *const c_char = c"hello".as_ptr();
        ffi::sqlite3_file_control(connection.handle(), c"main".as_ptr(), FCNTL_OWN, argument.cast_mut().cast())
    };
    assert_eq!(code, 0);
    assert!(pair.recorder.take().contains(&String::from("main: control 987654 hello")));
}

#[test]
fn the_name_of_the_vfs_says_what_lies_below() {
    let pair = pair("name", Shape::default());
    let directory = tempfile::tempdir().unwrap();
    let connection = open(directory.path().join("test.db"), &pair.shim);
    let mut name: *mut c_char = std::ptr::null_mut();
    // SAFETY: the file control leaves text made by `sqlite3_malloc`.
    unsafe {
        let out: *mut c_void = (&raw mut name).cast();
        ffi::sqlite3_file_control(connection.handle(), c"main".as_ptr(), ffi::SQLITE_FCNTL_VFSNAME, out);
        assert_eq!(CStr::from_ptr(name), c"pwal-name/unix");
        ffi::sqlite3_free(name.cast());
    }
    // A base that does not say its name.
    pair.recorder.fail("control", ffi::SQLITE_NOTFOUND);
    // SAFETY: as above.
    unsafe {
        let out: *mut c_void = (&raw mut name).cast();
        ffi::sqlite3_file_control(connection.handle(), c"main".as_ptr(), ffi::SQLITE_FCNTL_VFSNAME, out);
        assert_eq!(CStr::from_ptr(name), c"pwal-name/recorder-name");
        ffi::sqlite3_free(name.cast());
    }
    pair.recorder.fail("", 0);
}

#[test]
fn errors_of_the_base_keep_their_codes() {
    let pair = pair("errors", Shape::default());
    let directory = tempfile::tempdir().unwrap();
    let connection = open(directory.path().join("test.db"), &pair.shim);
    connection.execute_batch("PRAGMA journal_mode = delete; CREATE TABLE t(x)").unwrap();
    let file = file_of(&connection);
    let methods = methods_of(file);
    let (mut buffer, mut size, mut number) = ([0_u8; 512], 0_i64, 0);
    let fail = |method: &'static str, code: c_int, call: &mut dyn FnMut() -> c_int| {
        pair.recorder.fail(method, code);
        assert_eq!(call(), code, "{method}");
        pair.recorder.fail("", 0);
    };
    // SAFETY: an open file, and memory as each method demands it.
    unsafe {
        // Codes that SQLite does not know, so that nobody can have made them up.
        fail("read", 10 | 77 << 8, &mut || methods.xRead.unwrap()(file, buffer.as_mut_ptr().cast(), 512, 0));
        fail("write", 13 | 77 << 8, &mut || methods.xWrite.unwrap()(file, buffer.as_ptr().cast(), 512, 0));
        fail("truncate", 10 | 78 << 8, &mut || methods.xTruncate.unwrap()(file, 512));
        fail("sync", 10 | 79 << 8, &mut || methods.xSync.unwrap()(file, 2));
        fail("size", 10 | 80 << 8, &mut || methods.xFileSize.unwrap()(file, &raw mut size));
        fail("lock", 5 | 77 << 8, &mut || methods.xLock.unwrap()(file, ffi::SQLITE_LOCK_SHARED));
        fail("check reserved", 10 | 82 << 8, &mut || methods.xCheckReservedLock.unwrap()(file, &raw mut number));
        fail("control", 1 | 77 << 8, &mut || methods.xFileControl.unwrap()(file, 6, (&raw mut number).cast()));
        fail("fetch", 10 | 84 << 8, &mut || {
            let mut page = std::ptr::null_mut();
            methods.xFetch.unwrap()(file, 0, 512, &raw mut page)
        });
        fail("unlock", 10 | 81 << 8, &mut || methods.xUnlock.unwrap()(file, ffi::SQLITE_LOCK_NONE));
    }
    assert_eq!(text(&connection, "SELECT count(*) FROM t"), "Integer(0)");
}

#[test]
fn a_read_behind_the_end_is_short_and_zeroed() {
    let pair = pair("short", Shape::default());
    let directory = tempfile::tempdir().unwrap();
    let connection = open(directory.path().join("test.db"), &pair.shim);
    connection.execute_batch("PRAGMA page_size = 512; CREATE TABLE t(x)").unwrap();
    let file = file_of(&connection);
    let mut size = 0_i64;
    let mut buffer = [0xaa_u8; 1024];
    // SAFETY: an open file, and a buffer of that size.
    let code = unsafe {
        assert_eq!(methods_of(file).xFileSize.unwrap()(file, &raw mut size), 0);
        methods_of(file).xRead.unwrap()(file, buffer.as_mut_ptr().cast(), 1024, size - 100)
    };
    assert_eq!(code, ffi::SQLITE_IOERR_SHORT_READ);
    assert!(buffer[100..].iter().all(|byte| *byte == 0));
}

#[test]
fn arguments_that_make_no_sense_are_errors() {
    let pair = pair("nonsense", Shape::default());
    let directory = tempfile::tempdir().unwrap();
    let connection = open(directory.path().join("test.db"), &pair.shim);
    let file = file_of(&connection);
    let methods = methods_of(file);
    let mut buffer = [0_u8; 16];
    // SAFETY: an open file; what makes no sense is caught before it is used.
    unsafe {
        assert_ne!(methods.xRead.unwrap()(file, buffer.as_mut_ptr().cast(), -1, 0), 0);
        assert_ne!(methods.xRead.unwrap()(file, buffer.as_mut_ptr().cast(), 16, -1), 0);
        assert_ne!(methods.xRead.unwrap()(file, std::ptr::null_mut(), 16, 0), 0);
        assert_ne!(methods.xWrite.unwrap()(file, std::ptr::null(), 16, 0), 0);
        assert_ne!(methods.xTruncate.unwrap()(file, -1), 0);
        assert_ne!(methods.xFileSize.unwrap()(file, std::ptr::null_mut()), 0);
        assert_ne!(methods.xLock.unwrap()(file, 17), 0);
        assert_ne!(methods.xRead.unwrap()(std::ptr::null_mut(), buffer.as_mut_ptr().cast(), 16, 0), 0);
    }
}
