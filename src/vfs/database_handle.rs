//! The engine's own handle on a database file, and what else the handles of a registration get
//! from SQLite.
//!
//! The database handle's name is made by `sqlite3_create_filename` and freed after its file is closed: the
//! unix VFS keeps the pointer (`unixFile.zPath`). It is closed by the base VFS only, so that POSIX
//! locks of the other handles on the file live on.

use super::base::{BaseVfs, RawBase};
use super::messages;
use crate::disk::Database;
use crate::handle::{BaseFile, DatabaseHandle, Host, LockLevel};
use crate::sqlite::ffi::{self, Connection, RawFile};
use crate::sqlite::{Api, Code};
use std::cell::Cell;
use std::ffi::{CStr, CString, c_char, c_int};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// A database handle of SQLite's base VFS.
#[derive(Debug)]
pub(super) struct SqliteDatabaseHandle {
    base: RawBase,
    read_only: bool,
    /// What `base` points to and `name`: dropped after `drop` has closed the file.
    _memory: Box<[u64]>,
    _name: Name,
}

/// A name made by `sqlite3_create_filename`.
#[derive(Debug)]
struct Name {
    api: Api,
    pointer: *mut c_char,
}

// SAFETY: it is plain memory that only its owner reads and frees.
unsafe impl Send for Name {}

impl Drop for Name {
    fn drop(&mut self) {
        // SAFETY: made by `sqlite3_create_filename`, and its file is closed.
        unsafe { (self.api.free_filename)(self.pointer) };
    }
}

/// A path as a C string, with a suffix.
fn c_path(path: &Path, suffix: &str) -> Result<CString, Code> {
    let mut bytes = path.as_os_str().as_bytes().to_vec();
    bytes.extend_from_slice(suffix.as_bytes());
    CString::new(bytes).map_err(|_| Code::CANTOPEN)
}

impl Name {
    fn new(api: Api, path: &Path) -> Result<Name, Code> {
        let (database, journal, wal) = (c_path(path, "")?, c_path(path, "-journal")?, c_path(path, "-wal")?);
        // SAFETY: three C strings, and no parameters.
        let pointer = unsafe {
            (api.create_filename)(database.as_ptr(), journal.as_ptr(), wal.as_ptr(), 0, std::ptr::null_mut())
        };
        if pointer.is_null() { Err(Code::NOMEM) } else { Ok(Name { api, pointer }) }
    }
}

impl SqliteDatabaseHandle {
    fn open(api: Api, vfs: BaseVfs, path: &Path) -> Result<SqliteDatabaseHandle, Code> {
        let name = Name::new(api, path)?;
        // In words of 8 bytes, for the alignment.
        let mut memory = vec![0_u64; vfs.file_bytes().max(size_of::<RawFile>()).div_ceil(8)].into_boxed_slice();
        let file: *mut RawFile = memory.as_mut_ptr().cast();
        let flags = ffi::OPEN_MAIN_DB | ffi::OPEN_READWRITE;
        let mut opened_with: c_int = 0;
        // SAFETY: the name is of SQLite's own making, and the memory is zeroed and large enough.
        let base = unsafe {
            let opened = vfs.open(name.pointer, file, flags, &raw mut opened_with);
            let base = (!(*file).methods.is_null()).then(|| RawBase::new(file));
            if let Err(code) = opened {
                if let Some(base) = base {
                    // A failed open that leaves methods wants `xClose`.
                    let _ = base.close();
                }
                return Err(code);
            }
            base.ok_or(Code::CANTOPEN)?
        };
        let read_only = opened_with & ffi::OPEN_READONLY != 0;
        Ok(SqliteDatabaseHandle { base, read_only, _memory: memory, _name: name })
    }

    /// `unixWrite` answers IOERR_WRITE where the process may not make the file so long (`RLIMIT_FSIZE`).
    fn write_error(&self, code: Code) -> io::Error {
        let mut errno: c_int = 0;
        // SAFETY: the file control stores an int, or does nothing.
        let asked = unsafe { self.base.file_control(ffi::FCNTL_LAST_ERRNO, (&raw mut errno).cast()) };
        if code == Code::IOERR_WRITE && asked.is_ok() && errno == libc::EFBIG {
            return io::Error::new(io::ErrorKind::FileTooLarge, code);
        }
        code.into()
    }
}

impl Drop for SqliteDatabaseHandle {
    fn drop(&mut self) {
        let _ = self.base.close();
    }
}

impl Database for SqliteDatabaseHandle {
    fn read_at(&mut self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        match self.base.read(buffer, offset) {
            Ok(()) => Ok(buffer.len()),
            Err(Code::IOERR_SHORT_READ) => {
                let behind = self.base.bytes()?.saturating_sub(offset);
                Ok(usize::try_from(behind).map_or(buffer.len(), |bytes| bytes.min(buffer.len())))
            }
            // Recovery asks whether it is the medium.
            Err(code) if code.is_unreadable() => Err(io::Error::from_raw_os_error(libc::EIO)),
            Err(code) => Err(code.into()),
        }
    }

    fn write_at(&mut self, data: &[u8], offset: u64) -> io::Result<()> {
        self.base.write(data, offset).map_err(|code| self.write_error(code))
    }

    fn set_bytes(&mut self, bytes: u64) -> io::Result<()> {
        // `xTruncate` only shrinks.
        if self.base.bytes()? < bytes {
            return self.base.write(&[0], bytes - 1).map_err(|code| self.write_error(code));
        }
        Ok(self.base.truncate(bytes)?)
    }

    fn sync(&mut self) -> io::Result<()> {
        Ok(self.base.sync(ffi::SYNC_FULL)?)
    }

    fn bytes(&mut self) -> io::Result<u64> {
        Ok(self.base.bytes()?)
    }
}

impl DatabaseHandle for SqliteDatabaseHandle {
    fn lock(&mut self, level: LockLevel) -> Result<(), Code> {
        self.base.lock(level)
    }

    fn unlock(&mut self, level: LockLevel) -> Result<(), Code> {
        self.base.unlock(level)
    }

    fn read_only(&self) -> bool {
        self.read_only
    }
}

/// What one registration offers its handles.
#[derive(Debug)]
pub(super) struct SqliteHost {
    api: Api,
    base: BaseVfs,
    base_name: String,
}

impl SqliteHost {
    pub(super) fn new(api: Api, base: BaseVfs) -> SqliteHost {
        SqliteHost { api, base, base_name: base.name() }
    }
}

thread_local! {
    static PRIVATE: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread is opening a connection of our own, past pwal.
pub(super) fn opens_private_connection() -> bool {
    PRIVATE.get()
}

/// A private connection on the base VFS.
struct PrivateConnection<'a> {
    api: &'a Api,
    connection: *mut Connection,
}

impl Drop for PrivateConnection<'_> {
    fn drop(&mut self) {
        // SAFETY: `sqlite3_open_v2` leaves a connection to close even when it fails, or null, which is ignored.
        unsafe { (self.api.close_v2)(self.connection) };
    }
}

impl PrivateConnection<'_> {
    fn open<'a>(api: &'a Api, vfs: &str, path: &Path) -> Result<PrivateConnection<'a>, Code> {
        let (path, vfs) = (c_path(path, "")?, CString::new(vfs).map_err(|_| Code::CANTOPEN)?);
        let mut connection = std::ptr::null_mut();
        let flags = ffi::OPEN_READWRITE | ffi::OPEN_NOMUTEX | ffi::OPEN_PRIVATECACHE;
        PRIVATE.set(true);
        // SAFETY: two C strings and a variable of ours.
        let code = unsafe { (api.open_v2)(path.as_ptr(), &raw mut connection, flags, vfs.as_ptr()) };
        PRIVATE.set(false);
        let opened = PrivateConnection { api, connection };
        opened.check(code)?;
        Ok(opened)
    }

    fn execute(&self, sql: &CStr) -> Result<(), Code> {
        // SAFETY: the connection is open, and rows and message are not wanted.
        let code =
            unsafe { (self.api.exec)(self.connection, sql.as_ptr(), None, std::ptr::null_mut(), std::ptr::null_mut()) };
        self.check(code)
    }

    fn checkpoint_truncate(&self) -> Result<(), Code> {
        let (none, main) = (std::ptr::null_mut(), c"main");
        // SAFETY: the connection is open; null: the numbers are not wanted.
        let code = unsafe {
            (self.api.wal_checkpoint_v2)(self.connection, main.as_ptr(), ffi::CHECKPOINT_TRUNCATE, none, none)
        };
        self.check(code)
    }

    /// The extended code of a result code.
    fn check(&self, code: c_int) -> Result<(), Code> {
        Code::check(code).map_err(|code| {
            if self.connection.is_null() {
                return code;
            }
            // SAFETY: the connection is open.
            let extended = unsafe { (self.api.extended_errcode)(self.connection) };
            match Code::check(extended) {
                Err(extended) if extended.primary() == code.primary() => extended,
                _ => code,
            }
        })
    }

    fn message(&self) -> String {
        if self.connection.is_null() {
            return String::from("out of memory");
        }
        // SAFETY: the connection is open; the text is its own until the next call.
        unsafe { CStr::from_ptr((self.api.errmsg)(self.connection)).to_string_lossy().into_owned() }
    }
}

impl Host for SqliteHost {
    fn open_database_handle(&self, path: &Path) -> Result<Box<dyn DatabaseHandle>, Code> {
        Ok(Box::new(SqliteDatabaseHandle::open(self.api, self.base, path)?))
    }

    fn recover_stock_files(&self, path: &Path) -> Result<(), Code> {
        let stock = PrivateConnection::open(&self.api, &self.base_name, path)?;
        // Without a read first the checkpoint does nothing and says OK.
        let settled = stock.execute(c"SELECT 1 FROM sqlite_master").and_then(|()| stock.checkpoint_truncate());
        if let Err(code) = settled {
            let text =
                format!("pwal: cannot settle what stock SQLite left beside {}: {}", path.display(), stock.message());
            self.log(code.number(), &text);
        }
        settled
    }

    fn log(&self, code: i32, text: &str) {
        messages::write(&self.api, code, text);
    }
}

#[cfg(all(test, feature = "linked"))]
mod tests {
    use super::*;
    use rusqlite::{Connection, ErrorCode};

    fn host() -> SqliteHost {
        let api = Api::linked().unwrap();
        // SAFETY: the platform's default VFS stays registered.
        SqliteHost::new(api, unsafe { BaseVfs::new((api.vfs_find)(c"unix".as_ptr())) })
    }

    fn stock(path: &Path) -> Connection {
        let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_WRITE | rusqlite::OpenFlags::SQLITE_OPEN_CREATE;
        let connection = Connection::open_with_flags_and_vfs(path, flags, c"unix").unwrap();
        connection.busy_timeout(std::time::Duration::ZERO).unwrap();
        connection
    }

    /// A directory with a stock database of three rows.
    fn database() -> (tempfile::TempDir, std::path::PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("test.db");
        stock(&path).execute_batch("CREATE TABLE t(x); INSERT INTO t VALUES(1),(2),(3)").unwrap();
        (directory, path)
    }

    fn rows(path: &Path) -> i64 {
        stock(path).query_row("SELECT count(*) FROM t", [], |row| row.get(0)).unwrap()
    }

    #[test]
    fn reads_writes_cuts_and_grows() {
        let (_directory, path) = database();
        let mut database_handle = host().open_database_handle(&path).unwrap();
        assert!(!database_handle.read_only());
        let bytes = database_handle.bytes().unwrap();
        assert_eq!(bytes, std::fs::metadata(&path).unwrap().len());
        let mut head = [0_u8; 16];
        assert_eq!(database_handle.read_at(&mut head, 0).unwrap(), 16);
        assert_eq!(&head, b"SQLite format 3\0");
        let mut tail = [0xaa_u8; 64];
        assert_eq!(database_handle.read_at(&mut tail, bytes - 10).unwrap(), 10, "only what is there counts");
        assert!(tail[10..].iter().all(|byte| *byte == 0));
        assert_eq!(database_handle.read_at(&mut tail, bytes + 1000).unwrap(), 0);

        database_handle.write_at(b"hello", bytes + 100).unwrap();
        assert_eq!(database_handle.bytes().unwrap(), bytes + 105);
        database_handle.set_bytes(bytes).unwrap();
        assert_eq!(database_handle.bytes().unwrap(), bytes);
        database_handle.set_bytes(bytes + 4096).unwrap();
        assert_eq!(database_handle.bytes().unwrap(), bytes + 4096, "the size can also grow");
        database_handle.set_bytes(bytes + 4096).unwrap();
        database_handle.set_bytes(bytes).unwrap();
        // Longer than any request that SQLite makes itself.
        let long: Vec<u8> = (0..300_000_u32).map(|at| (at % 251) as u8).collect();
        database_handle.write_at(&long, bytes).unwrap();
        let mut back = vec![0; long.len()];
        assert_eq!(database_handle.read_at(&mut back, bytes).unwrap(), long.len());
        assert!(back == long);
        database_handle.set_bytes(bytes).unwrap();
        database_handle.sync().unwrap();
        drop(database_handle);
        assert_eq!(rows(&path), 3);
    }

    #[test]
    fn exclusive_keeps_stock_out_while_other_handles_come_and_go() {
        let (_directory, path) = database();
        let host = host();
        let mut database_handle = host.open_database_handle(&path).unwrap();
        database_handle.lock(LockLevel::Shared).unwrap();
        database_handle.lock(LockLevel::Exclusive).unwrap();
        for _ in 0..3 {
            let other = stock(&path);
            let error = other.query_row("SELECT count(*) FROM t", [], |_| Ok(())).unwrap_err();
            assert_eq!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy));
            drop(other);
            // POSIX locks are the process's: a second database handle that comes and goes must not take them away.
            let mut second = host.open_database_handle(&path).unwrap();
            assert_eq!(second.lock(LockLevel::Shared), Err(Code::BUSY));
            assert_eq!(second.read_at(&mut [0; 16], 0).unwrap(), 16, "reading needs no lock");
        }
        database_handle.unlock(LockLevel::Shared).unwrap();
        assert_eq!(rows(&path), 3);
        database_handle.lock(LockLevel::Exclusive).unwrap();
        drop(database_handle);
        assert_eq!(rows(&path), 3, "dropping frees the locks");
    }

    #[test]
    fn what_cannot_be_written_is_opened_for_reading() {
        // The kernel allows no write to a running program, not even root's.
        let program = std::env::current_exe().unwrap();
        let mut database_handle = host().open_database_handle(&program).unwrap();
        assert!(database_handle.read_only());
        let mut magic = [0_u8; 4];
        assert_eq!(database_handle.read_at(&mut magic, 0).unwrap(), 4);
        let error = database_handle.write_at(&magic, 0).unwrap_err();
        assert_eq!(Code::of(&error).map(Code::primary), Some(Code::IOERR), "{error}");
    }

    #[test]
    fn what_is_not_there_is_not_created() {
        let (directory, _) = database();
        let host = host();
        let none = directory.path().join("none.db");
        assert_eq!(host.open_database_handle(&none).err().map(Code::primary), Some(Code::CANTOPEN));
        assert_eq!(host.recover_stock_files(&none).err().map(Code::primary), Some(Code::CANTOPEN));
        assert!(!none.exists());
    }

    /// The files of a database as a crash would leave them: copied while a connection is in the middle.
    fn crash(path: &Path, suffix: &str, work: &str) -> (tempfile::TempDir, std::path::PathBuf) {
        let connection = stock(path);
        connection.execute_batch(work).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let copy = directory.path().join("copy.db");
        let beside = |path: &Path| std::path::PathBuf::from(format!("{}{suffix}", path.display()));
        assert!(std::fs::metadata(beside(path)).unwrap().len() > 0, "the work must leave {suffix}");
        std::fs::copy(path, &copy).unwrap();
        std::fs::copy(beside(path), beside(&copy)).unwrap();
        (directory, copy)
    }

    #[test]
    fn a_stock_wal_is_settled_into_the_database_file() {
        let (_directory, path) = database();
        let work = "PRAGMA journal_mode=WAL; INSERT INTO t VALUES(4),(5)";
        let (_copies, copy) = crash(&path, "-wal", work);
        host().recover_stock_files(&copy).unwrap();
        let wal = format!("{}-wal", copy.display());
        assert!(!Path::new(&wal).exists(), "nothing is left beside it");
        assert_eq!(rows(&copy), 5);
    }

    #[test]
    fn a_hot_journal_is_settled_and_the_transaction_is_gone() {
        let (_directory, path) = database();
        let work = "PRAGMA cache_size=1; BEGIN; INSERT INTO t WITH RECURSIVE n(i) AS
                    (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<500) SELECT zeroblob(1000) FROM n";
        let (_copies, copy) = crash(&path, "-journal", work);
        host().recover_stock_files(&copy).unwrap();
        let journal = format!("{}-journal", copy.display());
        assert!(!Path::new(&journal).exists());
        assert_eq!(rows(&copy), 3);
    }

    #[test]
    fn a_busy_database_is_not_settled() {
        let (_directory, path) = database();
        let connection = stock(&path);
        connection
            .execute_batch("PRAGMA journal_mode=WAL; PRAGMA locking_mode=EXCLUSIVE; INSERT INTO t VALUES(4)")
            .unwrap();
        let settled = host().recover_stock_files(&path);
        assert_eq!(settled.err().map(Code::primary), Some(Code::BUSY));
        assert_eq!(connection.query_row("SELECT count(*) FROM t", [], |row| row.get(0)), Ok(4));
    }

    #[test]
    fn odd_paths_are_only_paths() {
        let directory = tempfile::tempdir().unwrap();
        for name in ["file:x?mode=memory", "with space%20.db", "ünïcode.db", "-wal"] {
            let path = directory.path().join(name);
            stock(&path).execute_batch("CREATE TABLE t(x); INSERT INTO t VALUES(1)").unwrap();
            let host = host();
            assert!(host.open_database_handle(&path).unwrap().bytes().unwrap() > 0);
            host.recover_stock_files(&path).unwrap();
            assert!(path.exists());
        }
    }
}
