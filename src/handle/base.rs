//! What a handle needs of the shim below: implemented by `vfs`, and by fakes in tests.

use crate::host::LockLevel;
use crate::sqlite::Code;
use std::path::PathBuf;

/// What `xShmLock` shall do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShmAction {
    /// `SQLITE_SHM_LOCK | SQLITE_SHM_SHARED`
    LockShared,
    /// `SQLITE_SHM_LOCK | SQLITE_SHM_EXCLUSIVE`
    LockExclusive,
    /// `SQLITE_SHM_UNLOCK | SQLITE_SHM_SHARED`
    UnlockShared,
    /// `SQLITE_SHM_UNLOCK | SQLITE_SHM_EXCLUSIVE`
    UnlockExclusive,
}

/// The answer to a pragma.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PragmaAnswer {
    /// `SQLITE_OK` with this one row.
    Row(String),
    /// `SQLITE_ERROR` with this message.
    Error(String),
    /// `SQLITE_NOTFOUND`: SQLite (or the base) handles it.
    NotMine,
}

/// What `xOpen(MAIN_DB)` knows.
#[derive(Clone, Debug)]
pub struct OpenFacts {
    /// The path as SQLite gave it: absolute; symlinks may be in it.
    pub path: PathBuf,
    /// The out-flags say that the file is open for reading only.
    pub read_only: bool,
    /// URI parameters whose names begin with `parallel_wal_`, in their order.
    pub parameters: Vec<(String, String)>,
    /// `nolock=1`: SQLite takes no lock, and opens no WAL.
    pub no_lock: bool,
    /// The name does not lie among those of its journal and WAL, as SQLite makes them: a VFS above has made it.
    pub foreign_name: bool,
}

/// The connection's own handle of the base VFS on the database file.
pub trait BaseFile {
    /// `xRead`: after the end of the file zeros, and `IOERR_SHORT_READ`.
    fn read(&mut self, buffer: &mut [u8], offset: u64) -> Result<(), Code>;
    /// `xWrite`.
    fn write(&mut self, data: &[u8], offset: u64) -> Result<(), Code>;
    /// `xTruncate`, to `bytes`.
    fn truncate(&mut self, bytes: u64) -> Result<(), Code>;
    /// `xSync`.
    fn sync(&mut self, flags: i32) -> Result<(), Code>;
    /// `xFileSize`, in bytes.
    fn bytes(&mut self) -> Result<u64, Code>;
    /// `xLock`.
    fn lock(&mut self, level: LockLevel) -> Result<(), Code>;
    /// `xUnlock`.
    fn unlock(&mut self, level: LockLevel) -> Result<(), Code>;
    /// `xCheckReservedLock`.
    fn check_reserved_lock(&mut self) -> Result<bool, Code>;
}

/// What a connection runs as it asks for a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Running {
    /// No statement (a backup, the schema at `sqlite3_prepare`), or it cannot be known.
    Unknown,
    /// A statement that writes, to this database or to another one of the connection.
    Writes,
    /// A statement that only reads. Inside BEGIN, or while its rows are fetched, others may write in the same transaction.
    Reads {
        /// A hash of its text.
        text: u64,
    },
}

/// What lies between SQLite and a main file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Above {
    /// Nothing: SQLite calls the file itself.
    Nothing,
    /// Another VFS, which passes on what a log needs.
    PassesOn,
    /// Another VFS, which may keep calls back.
    Unknown,
}

/// SQLite's pager above a handle, asked from inside a call of its own.
pub trait Pager: Send + Sync {
    /// The connection that uses it now, as a number that is only compared.
    fn connection(&self) -> usize;
    /// What lies between SQLite and the file. `None`: it cannot be known.
    fn above(&self) -> Option<Above>;
    /// The VFS above has kept back what a log needs: from now on its files are [`Above::Unknown`].
    fn distrust_above(&self);
    /// The statement of its connection that asks for a snapshot now.
    fn running(&self) -> Running;
    /// Whether BEGIN or SAVEPOINT began the transaction that the connection is in; not that of VACUUM. False, too, where it cannot be
    /// known (`sqlite3_get_autocommit`).
    fn in_transaction(&self) -> bool;
    /// Whether the transaction of this database begins with this call (`sqlite3BtreeBeginTrans`, which notes only then that there is one):
    /// nothing was read in it. False, too, where SQLite does not say (before 3.34).
    fn is_beginning(&self) -> bool;
    /// Calls the application's busy handler, which may wait. False: there is none, or it gives up.
    fn wait_busy(&self) -> bool;
    /// Whether a commit of this database may still fail in another one after its prepare.
    fn has_siblings(&self) -> bool;
    /// Whether the commit may have a super-journal: two databases that have no log of ours are being written, too.
    fn may_have_super_journal(&self) -> bool;
    /// `SQLITE_FCNTL_DATA_VERSION`: a number that a commit raises before it unlocks WRITE, and a rollback does not
    /// (`sqlite3PagerCommitPhaseTwo`). `None`: it cannot be asked.
    fn data_version(&self) -> Option<u32>;
    /// `sqlite3_db_release_memory`: drops every page of the connection that is not in use.
    fn release_pages(&self);
}
