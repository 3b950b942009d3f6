//! The state of an open main file: what a call of SQLite finds and leaves.

use super::alone::Alone;
use super::base::OpenFacts;
use super::beside::BesideStock;
use super::file::{OpenFile, Sibling};
use super::registry::Context;
use super::roles::AUTOCHECKPOINT;
use super::transaction;
use super::wal_connection::WalConnection;
use crate::engine::EngineError;
use crate::host::{DatabaseHandle, LockLevel};
use crate::sync::{Mutex, MutexGuard};
use std::cell::RefCell;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Weak};

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

/// An open main file with its state. A [`Handle`](super::Handle) has one; the handles of the other databases of its connection reach it
/// as a [`Sibling`]. Its lock is held over a call of SQLite; only the steps of a call on this file take it, and those of a commit of
/// several databases, one after the other.
pub(super) struct ServedFile {
    pub(super) file: OpenFile,
    pub(super) state: Mutex<State>,
}

impl ServedFile {
    /// Not on pwal yet.
    pub(super) fn open(context: &Arc<Context>, facts: OpenFacts) -> Arc<ServedFile> {
        let file = OpenFile::open(context, facts);
        let state = Mutex::new(State::new(file.options().opens_off()));
        Arc::new_cyclic(|served: &Weak<ServedFile>| {
            let sibling: Weak<dyn Sibling> = Weak::<ServedFile>::clone(served);
            ServedFile { file: OpenFile { sibling: Some(sibling), ..file }, state }
        })
    }

    /// The state, for a call of SQLite.
    pub(super) fn state(self: &Arc<ServedFile>) -> StateGuard<'_> {
        StateGuard { served: self, state: self.state.lock(), panicking: std::thread::panicking() }
    }
}

impl Sibling for ServedFile {
    fn hide_advance(self: Arc<Self>) {
        if let HandleState::Wal(wal) = &mut self.state().kind {
            wal.hide_advance();
        }
    }

    fn write_prepared(self: Arc<Self>) -> Result<(), EngineError> {
        match &mut self.state().kind {
            HandleState::Wal(wal) => wal.write_prepared(),
            HandleState::Plain | HandleState::Retired { .. } | HandleState::Alone(_) => Ok(()),
        }
    }

    fn free_prepared(self: Arc<Self>) {
        if let HandleState::Wal(wal) = &mut self.state().kind {
            transaction::free_prepared(wal, &self.file);
        }
    }

    fn reset_prepared(self: Arc<Self>) {
        if let HandleState::Wal(wal) = &mut self.state().kind {
            wal.reset_prepared(&self.file);
        }
    }
}

thread_local! {
    static PANICKED: RefCell<Vec<Weak<ServedFile>>> = const { RefCell::new(Vec::new()) };
}

/// The files on which a panic came out of a call of this thread.
pub(super) fn take_panicked() -> Vec<Arc<ServedFile>> {
    let taken = PANICKED.try_with(|panicked| panicked.take()).unwrap_or_default();
    taken.iter().filter_map(Weak::upgrade).collect()
}

/// The state of a handle; a panic while it is held is noted, for [`super::after_panic`].
pub(super) struct StateGuard<'a> {
    served: &'a Arc<ServedFile>,
    state: MutexGuard<'a, State>,
    /// The application's own panic, in which it closes connections.
    panicking: bool,
}

impl Drop for StateGuard<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() && !self.panicking {
            let _ = PANICKED.try_with(|panicked| panicked.borrow_mut().push(Arc::downgrade(self.served)));
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
