//! One open main database file, in safe Rust: plain, joined to an engine, or retired.
//!
//! `vfs` translates each of SQLite's calls into one call here and makes no decision of its own.

mod base;

pub use base::{BaseFile, Broker, Host, LockLevel, OpenFacts, PragmaAnswer, ShmAction};

use crate::disk::Disk;
use crate::sqlite::Code;
use crate::view::Region;
use std::sync::Arc;

/// What all handles of one registration of the VFS share.
pub struct Context {
    /// What the shim offers.
    pub host: Box<dyn Host>,
    /// Where the files of the log are.
    pub disk: Arc<dyn Disk>,
    /// What the environment sets, by the names of the URI parameters: `PWAL_MODE=auto` is
    /// `("parallel_wal_mode", "auto")`. Read once, at registration.
    pub defaults: Vec<(String, String)>,
}

/// One open main database file. SQLite calls it from one thread at a time, not always the same.
pub struct Handle {
    _context: Arc<Context>,
}

impl Handle {
    /// A handle that is not joined to an engine. Called in `xOpen(MAIN_DB)`, after the base opened the file.
    #[must_use]
    pub fn open(context: &Arc<Context>, _facts: OpenFacts) -> Handle {
        Handle { _context: Arc::clone(context) }
    }

    /// `SQLITE_FCNTL_PDB`: the connection, as a number that is only compared.
    pub fn set_connection(&self, _connection: usize) {}

    /// `xLock`. Inside the first `lock(Shared)` the database is claimed.
    pub fn lock(&self, base: &mut dyn BaseFile, level: LockLevel) -> Result<(), Code> {
        base.lock(level)
    }

    /// `xUnlock`.
    pub fn unlock(&self, base: &mut dyn BaseFile, level: LockLevel) -> Result<(), Code> {
        base.unlock(level)
    }

    /// `xCheckReservedLock`.
    pub fn check_reserved_lock(&self, base: &mut dyn BaseFile) -> Result<bool, Code> {
        base.check_reserved_lock()
    }

    /// `xRead` of the database file: fills `buffer`; behind the end of the file with zeros and
    /// `IOERR_SHORT_READ`.
    pub fn read(&self, base: &mut dyn BaseFile, buffer: &mut [u8], offset: u64) -> Result<(), Code> {
        base.read(buffer, offset)
    }

    /// `xWrite` of the database file.
    pub fn write(&self, base: &mut dyn BaseFile, data: &[u8], offset: u64) -> Result<(), Code> {
        base.write(data, offset)
    }

    /// `xTruncate` of the database file, to `bytes`.
    pub fn truncate(&self, base: &mut dyn BaseFile, bytes: u64) -> Result<(), Code> {
        base.truncate(bytes)
    }

    /// `xSync` of the database file.
    pub fn sync(&self, base: &mut dyn BaseFile, flags: i32) -> Result<(), Code> {
        base.sync(flags)
    }

    /// `xFileSize` of the database file.
    pub fn bytes(&self, base: &mut dyn BaseFile) -> Result<u64, Code> {
        base.bytes()
    }

    /// Whether an engine lives behind this handle: then its `X-wal` does not exist for
    /// `xAccess`, `xDelete` is OK without effect, `xOpen(WAL)` is virtual, shared memory is the
    /// view's, and `xFetch` answers null.
    #[must_use]
    pub fn joined(&self) -> bool {
        false
    }

    /// `xShmMap` of a joined handle: the region of that index (32768 bytes); `None` if it is not there and
    /// `extend` is false. The region stays at its address until `shm_unmap`.
    pub fn shm_map(&self, _index: u32, _extend: bool) -> Result<Option<Arc<Region>>, Code> {
        Err(Code::IOERR_SHMMAP)
    }

    /// `xShmLock` of a joined handle: `count` locks from `first` on.
    pub fn shm_lock(&self, _base: &mut dyn BaseFile, _first: u32, _count: u32, _action: ShmAction) -> Result<(), Code> {
        Err(Code::IOERR_LOCK)
    }

    /// `xShmUnmap` of a joined handle.
    pub fn shm_unmap(&self) {}

    /// `xOpen(WAL)` of a joined handle.
    pub fn wal_open(&self) -> Result<(), Code> {
        Err(Code::CANTOPEN)
    }

    /// `xClose` of the virtual WAL.
    pub fn wal_close(&self) {}

    /// `xRead` of the virtual WAL.
    pub fn wal_read(&self, _base: &mut dyn BaseFile, _buffer: &mut [u8], _offset: u64) -> Result<(), Code> {
        Err(Code::IOERR_READ)
    }

    /// `xWrite` of the virtual WAL.
    pub fn wal_write(&self, _data: &[u8], _offset: u64) -> Result<(), Code> {
        Err(Code::IOERR_WRITE)
    }

    /// `xTruncate` of the virtual WAL.
    pub fn wal_truncate(&self, _bytes: u64) -> Result<(), Code> {
        Ok(())
    }

    /// `xSync` of the virtual WAL.
    pub fn wal_sync(&self, _flags: i32) -> Result<(), Code> {
        Ok(())
    }

    /// `xFileSize` of the virtual WAL.
    pub fn wal_bytes(&self) -> Result<u64, Code> {
        Ok(0)
    }

    /// `SQLITE_FCNTL_COMMIT_PHASETWO` on the database file.
    pub fn commit_phase_two(&self) -> Result<(), Code> {
        Ok(())
    }

    /// `SQLITE_FCNTL_PRAGMA`: name in any case, value if there is one.
    pub fn pragma(&self, _name: &str, _value: Option<&str>) -> PragmaAnswer {
        PragmaAnswer::NotMine
    }

    /// `xDeviceCharacteristics`: those of the base, and what a joined handle adds.
    #[must_use]
    pub fn characteristics(&self, of_base: i32) -> i32 {
        of_base
    }

    /// Anything else that SQLite asks of the database file (other file controls and so on): some
    /// states end with it.
    pub fn other_call(&self) {}

    /// `xClose`, before the base is closed.
    pub fn close(&self, _base: &mut dyn BaseFile) {}
}

/// `xOpen` of a super-journal on this thread (`SQLITE_OPEN_SUPER_JOURNAL`).
pub fn super_journal_opened() {}

/// First thing in every call of SQLite into the shim but `xSleep` (all rooms of the VFS): forgets
/// who was refused on this thread.
pub fn entered() {}

/// `xSleep`: waits for what the connection that was refused on this thread needs, at most so
/// long. `Some(microseconds)` as slept; `None`: nobody was refused, the base shall sleep.
#[must_use]
pub fn sleep(_microseconds: u32) -> Option<u32> {
    None
}

/// `pwal_status()`'s text (JSON) for a handle of this library.
#[must_use]
pub fn status_json(_handle: &Handle) -> String {
    String::from("{}")
}
