//! The state of one thread's transaction: databases that are prepared and not published, a super-journal, and the
//! connection that was refused the write lock.
//!
//! A commit runs on one thread from its first prepare to its last PHASETWO, so thread-locals hold all of it.

use super::file::{OpenFile, Sibling};
use crate::engine::Engine;
use std::cell::{Cell, RefCell};
use std::sync::{Arc, Weak};
use std::time::Duration;

/// A commit that is published and waits for the last database of its transaction.
pub(super) struct Unacknowledged {
    pub(super) engine: Arc<Engine>,
    pub(super) sequence: u64,
    pub(super) wants_durable: bool,
}

struct Refused {
    engine: Weak<Engine>,
    connection: u64,
}

thread_local! {
    // What every call asks, without a look at the lists below, which have destructors.
    /// The handle that is prepared, by its address, which the list keeps from being used again; `SEVERAL`; or `NONE`.
    static PREPARED_ONE: Cell<usize> = const { Cell::new(NONE) };
    static IS_REFUSED: Cell<bool> = const { Cell::new(false) };
    static PREPARED: RefCell<Vec<(usize, Weak<dyn Sibling>)>> = const { RefCell::new(Vec::new()) };
    static UNACKNOWLEDGED: RefCell<Vec<(usize, Unacknowledged)>> = const { RefCell::new(Vec::new()) };
    static REFUSED: RefCell<Option<Refused>> = const { RefCell::new(None) };
    static SUPER_JOURNAL: Cell<bool> = const { Cell::new(false) };
}

/// No address.
const NONE: usize = 0;
/// As this.
const SEVERAL: usize = 1;

fn note_prepared(prepared: &[(usize, Weak<dyn Sibling>)]) {
    PREPARED_ONE.set(match prepared {
        [] => NONE,
        [(_, only)] => address(only),
        _ => SEVERAL,
    });
}

fn address(sibling: &Weak<dyn Sibling>) -> usize {
    sibling.as_ptr().addr()
}

fn is_of(sibling: &Weak<dyn Sibling>, file: &OpenFile) -> bool {
    file.sibling.as_ref().is_some_and(|own| Weak::ptr_eq(own, sibling))
}

/// This file of connection `connection` is prepared.
pub(super) fn add_prepared(connection: usize, file: &OpenFile) {
    let Some(sibling) = &file.sibling else { return };
    let _ = PREPARED.try_with(|prepared| {
        let mut prepared = prepared.borrow_mut();
        prepared.push((connection, Weak::clone(sibling)));
        note_prepared(&prepared);
    });
}

/// It is published, or rolled back.
pub(super) fn remove_prepared(file: &OpenFile) {
    let _ = PREPARED.try_with(|prepared| {
        let mut prepared = prepared.borrow_mut();
        prepared.retain(|(_, other)| !is_of(other, file));
        note_prepared(&prepared);
    });
}

/// Whether any other handle than this one is prepared on this thread.
pub(super) fn any_prepared_beside(file: &OpenFile) -> bool {
    let one = PREPARED_ONE.get();
    one != NONE && file.sibling.as_ref().is_none_or(|own| one != address(own))
}

/// The other handles of this connection that are prepared and not published.
pub(super) fn prepared_siblings(connection: usize, file: &OpenFile) -> Vec<Arc<dyn Sibling>> {
    if !any_prepared_beside(file) {
        return Vec::new();
    }
    PREPARED
        .try_with(|prepared| {
            let prepared = prepared.borrow();
            let others = prepared.iter().filter(|(of, other)| *of == connection && !is_of(other, file));
            others.filter_map(|(_, other)| other.upgrade()).collect()
        })
        .unwrap_or_default()
}

/// To be waited for by the last PHASETWO of this connection.
pub(super) fn add_unacknowledged(connection: usize, commit: Unacknowledged) {
    let _ = UNACKNOWLEDGED.try_with(|waiting| waiting.borrow_mut().push((connection, commit)));
}

/// What the last PHASETWO of this connection waits for.
pub(super) fn take_unacknowledged(connection: usize) -> Vec<Unacknowledged> {
    UNACKNOWLEDGED
        .try_with(|waiting| {
            let mut waiting = waiting.borrow_mut();
            if waiting.is_empty() {
                return Vec::new();
            }
            let (mine, others) = waiting.drain(..).partition(|(of, _)| *of == connection);
            *waiting = others;
            let mine: Vec<(usize, Unacknowledged)> = mine;
            mine.into_iter().map(|(_, commit)| commit).collect()
        })
        .unwrap_or_default()
}

/// This connection was refused WRITE and has dropped its read lock: the thread's next `xSleep` is its busy handler's.
pub(super) fn arm_refused(engine: &Arc<Engine>, connection: u64) {
    let _ = REFUSED.try_with(|refused| {
        *refused.borrow_mut() = Some(Refused { engine: Arc::downgrade(engine), connection });
        IS_REFUSED.set(true);
    });
}

/// Any call but `xSleep` came.
#[inline]
pub(super) fn forget_refused() {
    if IS_REFUSED.get() {
        end_refused();
    }
}

#[cold]
fn end_refused() {
    IS_REFUSED.set(false);
    let refused = REFUSED.try_with(|refused| refused.borrow_mut().take()).ok().flatten();
    // Its busy timeout is over, or it has none.
    if let Some(refused) = refused
        && let Some(engine) = refused.engine.upgrade()
    {
        engine.connections.warn_blocked_writer(refused.connection);
    }
}

/// Waits in the write queue for the connection that was refused on this thread; false: none was.
pub(super) fn wait_for_refused(at_most: Duration) -> bool {
    let refused = REFUSED.try_with(|refused| refused.borrow_mut().take()).ok().flatten();
    let Some(refused) = refused else { return false };
    let Some(engine) = refused.engine.upgrade() else { return false };
    engine.queue.wait(refused.connection, at_most);
    true
}

/// A super-journal was opened on this thread: SQLite ignores the results of PHASETWO until the transaction ends.
pub(super) fn set_super_journal(open: bool) {
    let _ = SUPER_JOURNAL.try_with(|flag| flag.set(open));
}

/// Whether a super-journal is open.
pub(super) fn super_journal() -> bool {
    SUPER_JOURNAL.try_with(Cell::get).unwrap_or(false)
}
