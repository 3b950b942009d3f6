//! The state of an open main file: what a call of SQLite finds and leaves.

use super::alone::Alone;
use super::beside::BesideStock;
use super::file::OpenFile;
use super::siblings;
use super::wal_connection::WalConnection;
use crate::host::{DatabaseHandle, LockLevel};
use crate::sync::MutexGuard;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

/// `SQLITE_DEFAULT_WAL_AUTOCHECKPOINT`, in frames.
pub(super) const AUTOCHECKPOINT: i32 = 1000;

/// How the file is served.
pub(super) enum HandleState {
    /// Everything goes to the base.
    Plain,
    /// On pwal, with an engine.
    Wal(Box<WalConnection>),
    /// The last handle got EXCLUSIVE and the log is retired: the database handle's EXCLUSIVE stands for
    /// this handle's. The view lives until `shm_unmap`.
    Retired { database_handle: Box<dyn DatabaseHandle>, view: Option<Box<crate::view::View>> },
    /// `locking_mode=EXCLUSIVE`: the log is retired, and the connection continues in WAL mode.
    Alone(Box<Alone>),
}

pub(super) struct State {
    /// The level that SQLite believes to have.
    pub(super) level: LockLevel,
    /// `parallel_wal_mode=off`: never joins.
    pub(super) off: bool,
    /// Settings of pragmas that came before the database was first read.
    pub(super) pending_settings: Vec<(String, String)>,
    /// `PRAGMA wal_autocheckpoint`, in frames; 0 or less: commits of this connection are not checkpointed unasked.
    pub(super) autocheckpoint: i32,
    /// `PRAGMA journal_mode` with another mode than WAL came.
    pub(super) leaves_wal: bool,
    /// SQLite shall drop the pages that it has cached: the next read of the file's version says that others have written.
    pub(super) drops_cache: bool,
    pub(super) kind: HandleState,
    /// A connection that is not on pwal was there first: the file is the base's.
    pub(super) beside: Option<BesideStock>,
}

/// The state of a handle; a panic while it is held is noted, for [`super::after_panic`].
pub(super) struct StateGuard<'a> {
    pub(super) file: &'a Arc<OpenFile>,
    pub(super) state: MutexGuard<'a, State>,
    /// The application's own panic, in which it closes connections.
    pub(super) panicking: bool,
}

impl Drop for StateGuard<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() && !self.panicking {
            siblings::note_panic(self.file);
        }
    }
}

impl Deref for StateGuard<'_> {
    type Target = State;

    fn deref(&self) -> &State {
        &self.state
    }
}

impl DerefMut for StateGuard<'_> {
    fn deref_mut(&mut self) -> &mut State {
        &mut self.state
    }
}

impl State {
    pub(super) fn new(off: bool) -> State {
        State {
            level: LockLevel::None,
            off,
            pending_settings: Vec::new(),
            autocheckpoint: AUTOCHECKPOINT,
            leaves_wal: false,
            drops_cache: false,
            kind: HandleState::Plain,
            beside: None,
        }
    }
}
