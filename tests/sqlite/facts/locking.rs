//! xLock, xUnlock, xCheckReservedLock: who calls them and when, and how stock's unix VFS answers.

use super::{Lab, Trace};
use rusqlite::ffi;
use std::ffi::{CString, c_int};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use support::{child, shim::Verdict};

/// A file of the base VFS, opened as the engine's own handle is: without a connection.
struct BaseFile {
    memory: Vec<u64>,
    name: ffi::sqlite3_filename,
    out_flags: c_int,
}

impl BaseFile {
    fn open(path: &Path, flags: c_int) -> BaseFile {
        let vfs = CString::new(support::STOCK).unwrap();
        let path = CString::new(path.to_str().unwrap()).unwrap();
        // SAFETY: the name is made for xOpen and freed after the file is closed; `memory` is as large as
        // the VFS asks, and does not move while the file is open.
        unsafe {
            let vfs = ffi::sqlite3_vfs_find(vfs.as_ptr());
            let (journal, wal) = (c"".as_ptr(), c"".as_ptr());
            let name = ffi::sqlite3_create_filename(path.as_ptr(), journal, wal, 0, std::ptr::null_mut());
            let mut memory = vec![0_u64; usize::try_from((*vfs).szOsFile).unwrap().div_ceil(8)];
            let mut out_flags = 0;
            let code = (*vfs).xOpen.unwrap()(vfs, name, memory.as_mut_ptr().cast(), flags, &raw mut out_flags);
            assert_eq!(code, ffi::SQLITE_OK);
            BaseFile { memory, name, out_flags }
        }
    }

    fn methods(&mut self) -> (*mut ffi::sqlite3_file, &'static ffi::sqlite3_io_methods) {
        let file = self.memory.as_mut_ptr().cast::<ffi::sqlite3_file>();
        // SAFETY: the file is open.
        (file, unsafe { &*(*file).pMethods })
    }

    fn lock(&mut self, level: c_int) -> c_int {
        let (file, methods) = self.methods();
        // SAFETY: the file is open.
        unsafe { methods.xLock.unwrap()(file, level) }
    }

    fn unlock(&mut self, level: c_int) -> c_int {
        let (file, methods) = self.methods();
        // SAFETY: the file is open.
        unsafe { methods.xUnlock.unwrap()(file, level) }
    }

    fn read_and_write(&mut self) {
        let (file, methods) = self.methods();
        let mut page = [0_u8; 512];
        // SAFETY: the file is open, the buffer has 512 bytes.
        unsafe {
            assert_eq!(methods.xRead.unwrap()(file, page.as_mut_ptr().cast(), 512, 0), ffi::SQLITE_OK);
            assert_eq!(methods.xWrite.unwrap()(file, page.as_ptr().cast(), 512, 0), ffi::SQLITE_OK);
        }
    }
}

impl Drop for BaseFile {
    fn drop(&mut self) {
        let (file, methods) = self.methods();
        // SAFETY: the file is open until here; the name came from sqlite3_create_filename.
        unsafe {
            methods.xClose.unwrap()(file);
            ffi::sqlite3_free_filename(self.name);
        }
    }
}

const READ_WRITE: c_int = ffi::SQLITE_OPEN_READWRITE | ffi::SQLITE_OPEN_MAIN_DB;

fn a_database(lab: &Lab) -> std::path::PathBuf {
    let path = lab.file("a.db");
    let stock = support::open_stock(&path);
    support::run(&stock, "CREATE TABLE t(x)");
    support::close(stock);
    path
}

/// Whether another process may read: it is told the path and answers with a code.
fn another_process_reads(path: &Path) -> i32 {
    let mut reader =
        child::start("facts::locking::child_reads", &[("PWAL_TEST_DATABASE", path.to_str().unwrap().to_owned())]);
    reader.lines.next().expect("an answer").parse().expect("a code")
}

/// A role of its own process; nothing in a normal run.
#[test]
fn child_reads() {
    if child::role("facts::locking::child_reads") {
        let stock = support::open_stock(child::setting("PWAL_TEST_DATABASE").as_ref());
        stock.busy_timeout(Duration::ZERO).unwrap();
        child::report(&support::code_of(&stock, "SELECT count(*) FROM t").to_string());
    }
}

#[test]
fn shared_of_a_second_handle_makes_exclusive_of_the_first_fail() {
    let lab = Lab::new();
    let path = a_database(&lab);
    let (mut first, mut second) = (BaseFile::open(&path, READ_WRITE), BaseFile::open(&path, READ_WRITE));
    assert_eq!(first.lock(ffi::SQLITE_LOCK_SHARED), ffi::SQLITE_OK);
    assert_eq!(second.lock(ffi::SQLITE_LOCK_SHARED), ffi::SQLITE_OK);
    assert_eq!(first.lock(ffi::SQLITE_LOCK_EXCLUSIVE), ffi::SQLITE_BUSY);
    assert_eq!(second.unlock(ffi::SQLITE_LOCK_NONE), ffi::SQLITE_OK);
    // PENDING may be left on the inode; it goes with the first's unlock.
    assert_eq!(first.unlock(ffi::SQLITE_LOCK_NONE), ffi::SQLITE_OK);
    assert_eq!(first.lock(ffi::SQLITE_LOCK_SHARED), ffi::SQLITE_OK);
    assert_eq!(first.lock(ffi::SQLITE_LOCK_EXCLUSIVE), ffi::SQLITE_OK);
    assert_eq!(second.lock(ffi::SQLITE_LOCK_SHARED), ffi::SQLITE_BUSY);
}

#[test]
fn a_handle_keeps_exclusive_while_others_read_and_write_without_locks_and_close() {
    let lab = Lab::new();
    let path = a_database(&lab);
    let mut database_handle = BaseFile::open(&path, READ_WRITE);
    assert_eq!(another_process_reads(&path), ffi::SQLITE_OK);
    assert_eq!(database_handle.lock(ffi::SQLITE_LOCK_SHARED), ffi::SQLITE_OK);
    assert_eq!(database_handle.lock(ffi::SQLITE_LOCK_EXCLUSIVE), ffi::SQLITE_OK);
    let mut other = BaseFile::open(&path, READ_WRITE);
    other.read_and_write();
    database_handle.read_and_write();
    drop(other);
    database_handle.read_and_write();
    assert_eq!(another_process_reads(&path), ffi::SQLITE_BUSY);
    let stock = support::open_stock(&path);
    stock.busy_timeout(Duration::ZERO).unwrap();
    assert_eq!(support::code_of(&stock, "SELECT * FROM t"), ffi::SQLITE_BUSY);
    support::close(stock);
    assert_eq!(another_process_reads(&path), ffi::SQLITE_BUSY, "after a stock connection here came and went");
    assert_eq!(database_handle.unlock(ffi::SQLITE_LOCK_NONE), ffi::SQLITE_OK);
    assert_eq!(another_process_reads(&path), ffi::SQLITE_OK);
}

#[test]
fn plain_file_calls_in_the_process_drop_the_locks() {
    let lab = Lab::new();
    let path = a_database(&lab);
    let mut database_handle = BaseFile::open(&path, READ_WRITE);
    database_handle.lock(ffi::SQLITE_LOCK_SHARED);
    database_handle.lock(ffi::SQLITE_LOCK_EXCLUSIVE);
    assert_eq!(another_process_reads(&path), ffi::SQLITE_BUSY);
    drop(std::fs::File::open(&path).unwrap());
    assert_eq!(another_process_reads(&path), ffi::SQLITE_OK, "this is why nobody here may do that");
}

#[test]
fn exclusive_on_a_read_only_descriptor_is_an_io_error() {
    let lab = Lab::new();
    let path = a_database(&lab);
    let mut file = BaseFile::open(&path, ffi::SQLITE_OPEN_READONLY | ffi::SQLITE_OPEN_MAIN_DB);
    assert_ne!(file.out_flags & ffi::SQLITE_OPEN_READONLY, 0);
    assert_eq!(file.lock(ffi::SQLITE_LOCK_SHARED), ffi::SQLITE_OK);
    assert_eq!(file.lock(ffi::SQLITE_LOCK_EXCLUSIVE), ffi::SQLITE_IOERR_LOCK);
}

#[test]
fn busy_from_xlock_shared_reaches_the_busy_handler() {
    let lab = Lab::new();
    support::close(lab.wal());
    let mut connection = lab.open("a.db");
    let calls = Arc::new(AtomicUsize::new(0));
    let called = Arc::clone(&calls);
    connection.busy_handler(Some(move |_| called.fetch_add(1, Ordering::Relaxed) < 100)).unwrap();
    let mut refusals = 3;
    lab.shim.hook(move |moment| {
        if moment.text == "a.db: lock SHARED" && refusals > 0 {
            refusals -= 1;
            return Verdict::Answer(ffi::SQLITE_BUSY);
        }
        Verdict::Pass
    });
    support::run(&connection, "SELECT * FROM t");
    assert_eq!(calls.load(Ordering::Relaxed), 3);
}

#[test]
fn a_reserved_lock_of_others_keeps_a_journal_from_being_played_back() {
    let lab = Lab::new();
    let path = a_database(&lab);
    let journal = lab.file("a.db-journal");
    hot_journal(&path, &lab);
    assert!(journal.metadata().unwrap().len() > 512);
    let connection = lab.open("a.db");
    lab.shim.hook(|moment| if moment.text == "a.db: check reserved" { Verdict::Value(1) } else { Verdict::Pass });
    support::run(&connection, "SELECT * FROM t");
    assert!(journal.exists(), "reserved: left alone");
    lab.shim.unhook();
    let again = lab.open("a.db");
    support::run(&connection, "SELECT * FROM t");
    support::run(&again, "SELECT * FROM t");
    assert!(!journal.exists(), "not reserved: played back and deleted");
}

/// Puts a valid journal beside a database: taken from a transaction that has spilled.
fn hot_journal(path: &Path, lab: &Lab) {
    let copy = lab.file("copy-journal");
    let stock = support::open_stock(path);
    support::run(
        &stock,
        "PRAGMA cache_size=1; BEGIN; INSERT INTO t WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n \
         WHERE i<99) SELECT zeroblob(2000) FROM n",
    );
    std::fs::copy(lab.file("a.db-journal"), &copy).unwrap();
    support::run(&stock, "ROLLBACK");
    support::close(stock);
    std::fs::rename(copy, lab.file("a.db-journal")).unwrap();
}

#[test]
fn with_a_wal_exclusive_comes_from_close_from_journal_mode_and_from_locking_mode() {
    let lab = Lab::new();
    let connection = lab.wal();
    let work = "INSERT INTO t VALUES(1); SELECT * FROM t; BEGIN IMMEDIATE; COMMIT; VACUUM; PRAGMA wal_checkpoint(TRUNCATE);
                PRAGMA locking_mode=NORMAL; PRAGMA journal_mode=WAL; PRAGMA journal_mode; CREATE TABLE u(x); DROP TABLE u";
    let trace = lab.trace(|| support::run(&connection, work));
    assert_eq!(trace.only(&[": lock"]), Vec::<&str>::new());

    let trace = lab.trace(|| support::run(&connection, "PRAGMA journal_mode=DELETE"));
    let locks = trace.only(&[": lock", "shm unmap", ": unlock"]);
    assert_eq!(
        locks[..6],
        [
            "a.db: lock EXCLUSIVE",
            "a.db: lock EXCLUSIVE",
            "a.db: shm unmap delete 1",
            "a.db: unlock SHARED",
            "a.db: lock RESERVED",
            "a.db: lock EXCLUSIVE"
        ]
    );
    support::run(&connection, "PRAGMA journal_mode=WAL; SELECT * FROM t");
    let trace = lab.trace(|| support::close(connection));
    assert_eq!(trace.only(&[": lock"]), ["a.db: lock EXCLUSIVE"]);
}

#[test]
fn locking_mode_exclusive_asks_with_a_read_lock_held_or_before_the_wal_is_open() {
    let lab = Lab::new();
    let connection = lab.wal();
    support::run(&connection, "PRAGMA locking_mode=EXCLUSIVE");
    let trace = lab.trace(|| support::run(&connection, "INSERT INTO t VALUES(1)"));
    let asked = trace.position("a.db: lock EXCLUSIVE");
    assert!(trace.position("shm lock shared READ") < asked);
    support::close(connection);

    let connection = lab.open("a.db");
    support::run(&connection, "PRAGMA locking_mode=EXCLUSIVE");
    let trace = lab.trace(|| support::run(&connection, "SELECT * FROM t"));
    assert!(trace.position("a.db: lock EXCLUSIVE") < trace.position("a.db-wal: open"));
    assert_eq!(trace.count("shm"), 0, "its wal-index is on the heap");
}

#[test]
fn an_unqualified_locking_mode_reaches_attached_files_that_are_not_told() {
    let lab = Lab::new();
    let connection = lab.wal();
    let attach =
        format!("ATTACH '{}' AS b; PRAGMA b.journal_mode=WAL; CREATE TABLE b.u(x)", lab.file("b.db").display());
    support::run(&connection, &attach);
    let trace = lab.trace(|| support::run(&connection, "PRAGMA locking_mode=EXCLUSIVE"));
    assert_eq!(trace.only(&["PRAGMA"]), ["a.db: control PRAGMA locking_mode EXCLUSIVE"]);
    let trace = lab.trace(|| support::run(&connection, "INSERT INTO b.u VALUES(1)"));
    assert_eq!(trace.only(&[": lock"]), ["b.db: lock EXCLUSIVE"]);
}

#[test]
fn busy_at_exclusive_refuses_the_mode_change_and_is_ignored_at_close() {
    let lab = Lab::new();
    let connection = lab.wal();
    support::run(&connection, "INSERT INTO t VALUES(1)");
    lab.shim.hook(|moment| {
        if moment.text == "a.db: lock EXCLUSIVE" { Verdict::Answer(ffi::SQLITE_BUSY) } else { Verdict::Pass }
    });
    assert_eq!(support::code_of(&connection, "PRAGMA journal_mode=DELETE"), ffi::SQLITE_BUSY);
    assert_eq!(support::text(&connection, "PRAGMA journal_mode"), "wal");
    support::run(&connection, "INSERT INTO t VALUES(2)");
    let trace = lab.trace(|| support::close(connection));
    assert_eq!(trace.only(&["delete", "write"]), ["a.db: shm unmap delete 0"]);
}

#[test]
fn the_switch_to_wal_holds_exclusive_deletes_the_journal_and_syncs_no_directory() {
    for (synchronous, synced) in [("OFF", 0), ("NORMAL", 0), ("FULL", 0), ("EXTRA", 1)] {
        let lab = Lab::new();
        let connection = lab.open("a.db");
        support::run(&connection, &format!("PRAGMA synchronous={synchronous}; CREATE TABLE t(x)"));
        let trace = lab.trace(|| support::run(&connection, "PRAGMA journal_mode=WAL"));
        let deleted = trace.position(&format!("a.db-journal: delete, sync directory {synced}"));
        let (exclusive, shared) = (trace.position("a.db: lock EXCLUSIVE"), trace.position("a.db: unlock SHARED"));
        assert!(exclusive < deleted && deleted < shared, "{:#?}", trace.0);
        let trace = lab.trace(|| support::run(&connection, "SELECT * FROM t"));
        assert_eq!(trace.only(&[": lock", "wal: open"])[..2], ["a.db: lock SHARED", "a.db-wal: open"]);
    }
}

#[test]
fn away_from_wal_before_it_was_read_takes_reserved_and_opens_no_wal() {
    let lab = Lab::new();
    let connection = lab.open("a.db");
    support::run(&connection, "CREATE TABLE t(x); PRAGMA journal_mode=WAL");
    let trace = lab.trace(|| support::run(&connection, "PRAGMA journal_mode=DELETE"));
    assert_eq!(trace.count("wal: open"), 0);
    assert_eq!(trace.only(&[": lock"]), ["a.db: lock SHARED", "a.db: lock RESERVED", "a.db: lock EXCLUSIVE"]);
    assert_eq!(support::text(&connection, "PRAGMA journal_mode"), "delete");
}

#[test]
fn a_refused_first_lock_is_followed_by_an_unlock_and_nothing_else() {
    let lab = Lab::new();
    support::close(lab.wal());
    let connection = lab.open("a.db");
    let refuse = Arc::new(AtomicBool::new(true));
    let refusing = Arc::clone(&refuse);
    lab.shim.hook(move |moment| {
        let refused = moment.text == "a.db: lock SHARED" && refusing.load(Ordering::Relaxed);
        if refused { Verdict::Answer(ffi::SQLITE_BUSY) } else { Verdict::Pass }
    });
    lab.shim.take();
    assert_eq!(support::code_of(&connection, "SELECT * FROM t"), ffi::SQLITE_BUSY);
    let trace = Trace(lab.shim.take());
    assert_eq!(trace.0, ["a.db: lock SHARED", "a.db: characteristics", "a.db: unlock NONE"]);
    refuse.store(false, Ordering::Relaxed);
    support::run(&connection, "SELECT * FROM t");
}
