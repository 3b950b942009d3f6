//! The ports of an engine: what it needs of the host's SQLite and of the base VFS. Implemented by `vfs`, and by fakes in tests.

use crate::disk::{Database, Disk};
use crate::sqlite::Code;
use std::fmt::Debug;
use std::path::Path;
use std::sync::Arc;

/// The locking level of a database file. Source: <https://www.sqlite.org/lockingv3.html>.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LockLevel {
    /// No lock.
    None,
    /// May read.
    Shared,
    /// Will write.
    Reserved,
    /// Waits for readers to go.
    Pending,
    /// Writes.
    Exclusive,
}

/// The engine's own handle of the base VFS on the database file: opened apart from every
/// connection, read-write where it can be. Closing it (dropping) frees its locks.
pub trait DatabaseHandle: Database {
    /// `xLock`, from the level it has to this one.
    fn lock(&mut self, level: LockLevel) -> Result<(), Code>;
    /// `xUnlock`, down to this level.
    fn unlock(&mut self, level: LockLevel) -> Result<(), Code>;
    /// Whether it could only be opened for reading.
    fn read_only(&self) -> bool;
}

/// What one registration of the VFS offers its handles.
pub trait Host: Send + Sync + Debug {
    /// A new database handle on this path.
    fn open_database_handle(&self, path: &Path) -> Result<Box<dyn DatabaseHandle>, Code>;
    /// Settles what stock SQLite left beside a plain database file (a hot `-journal`, a non-empty `-wal`):
    /// a private connection on the base VFS reads the schema, runs
    /// `wal_checkpoint(TRUNCATE)` and closes. Called without any lock of ours on the file.
    fn recover_stock_files(&self, path: &Path) -> Result<(), Code>;
    /// `sqlite3_log`.
    fn log(&self, code: i32, text: &str);
}

/// What all engines of one registration of the VFS share.
#[derive(Debug)]
pub struct Environment {
    /// What the shim offers.
    pub host: Box<dyn Host>,
    /// Where the files of the log are.
    pub disk: Arc<dyn Disk>,
    /// What the environment sets, by the names of the URI parameters: `PWAL_MODE=auto` is
    /// `("parallel_wal_mode", "auto")`. Read once, at registration.
    pub defaults: Vec<(String, String)>,
}
