//! The engine's own handle on a database file, and what else the handles of a registration get
//! from SQLite.
//!
//! The broker's name is made by `sqlite3_create_filename` and freed after its file is closed: the
//! unix VFS keeps the pointer (`unixFile.zPath`). It is closed by the base VFS only, so that POSIX
//! locks of the other handles on the file live on.

use super::base::{BaseVfs, RawBase};
use crate::disk::Database;
use crate::handle::{BaseFile, Broker, Host, LockLevel};
use crate::sqlite::ffi::{self, Connection, RawFile};
use crate::sqlite::{Api, Code};
use std::ffi::{CStr, CString, c_char, c_int};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// A broker of SQLite's base VFS.
#[derive(Debug)]
pub(super) struct SqliteBroker {
    base: RawBase,
    read_only: bool,
    sync_flags: c_int,
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

/// A path as a C string, with something behind it.
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

impl SqliteBroker {
    fn open(api: Api, vfs: BaseVfs, path: &Path) -> Result<SqliteBroker, Code> {
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
        Ok(SqliteBroker { base, read_only, sync_flags: ffi::SYNC_FULL, _memory: memory, _name: name })
    }
}

impl Drop for SqliteBroker {
    fn drop(&mut self) {
        let _ = self.base.close();
    }
}

impl Database for SqliteBroker {
    fn read_at(&mut self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        match self.base.read(buffer, offset) {
            Ok(()) => Ok(buffer.len()),
            Err(Code::IOERR_SHORT_READ) => {
                let behind = self.base.bytes()?.saturating_sub(offset);
                Ok(usize::try_from(behind).map_or(buffer.len(), |bytes| bytes.min(buffer.len())))
            }
            Err(code) => Err(code.into()),
        }
    }

    fn write_at(&mut self, data: &[u8], offset: u64) -> io::Result<()> {
        Ok(self.base.write(data, offset)?)
    }

    fn set_bytes(&mut self, bytes: u64) -> io::Result<()> {
        // `xTruncate` only cuts.
        if self.base.bytes()? < bytes {
            return Ok(self.base.write(&[0], bytes - 1)?);
        }
        Ok(self.base.truncate(bytes)?)
    }

    fn sync(&mut self) -> io::Result<()> {
        Ok(self.base.sync(self.sync_flags)?)
    }

    fn bytes(&mut self) -> io::Result<u64> {
        Ok(self.base.bytes()?)
    }
}

impl Broker for SqliteBroker {
    fn lock(&mut self, level: LockLevel) -> Result<(), Code> {
        self.base.lock(level)
    }

    fn unlock(&mut self, level: LockLevel) -> Result<(), Code> {
        self.base.unlock(level)
    }

    fn read_only(&self) -> bool {
        self.read_only
    }

    fn sync_flags(&mut self, flags: i32) {
        self.sync_flags = flags;
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
        // SAFETY: two C strings and a variable of ours.
        let code = unsafe { (api.open_v2)(path.as_ptr(), &raw mut connection, flags, vfs.as_ptr()) };
        let opened = PrivateConnection { api, connection };
        opened.check(code)?;
        Ok(opened)
    }

    fn execute(&self, sql: &CStr) -> Result<(), Code> {
        // SAFETY: the connection is open, and nobody wants the rows or the message.
        let code =
            unsafe { (self.api.exec)(self.connection, sql.as_ptr(), None, std::ptr::null_mut(), std::ptr::null_mut()) };
        self.check(code)
    }

    fn checkpoint_truncate(&self) -> Result<(), Code> {
        let (none, main) = (std::ptr::null_mut(), c"main");
        // SAFETY: the connection is open; null says that nobody wants the numbers.
        let code = unsafe {
            (self.api.wal_checkpoint_v2)(self.connection, main.as_ptr(), ffi::CHECKPOINT_TRUNCATE, none, none)
        };
        self.check(code)
    }

    /// The extended code behind a result code.
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
    fn open_broker(&self, path: &Path) -> Result<Box<dyn Broker>, Code> {
        Ok(Box::new(SqliteBroker::open(self.api, self.base, path)?))
    }

    fn settle_leftovers(&self, path: &Path) -> Result<(), Code> {
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

    fn exists(&self, path: &Path) -> Result<bool, Code> {
        let path = c_path(path, "")?;
        let mut exists: c_int = 0;
        // SAFETY: a C string and a variable of ours.
        unsafe { self.base.access(path.as_ptr(), ffi::ACCESS_EXISTS, &raw mut exists) }?;
        Ok(exists != 0)
    }

    fn log(&self, code: i32, text: &str) {
        self.api.write_log(code, text);
    }

    fn base_name(&self) -> &str {
        &self.base_name
    }
}
