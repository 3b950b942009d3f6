//! One open main database file, in safe Rust: plain, on an engine, or retired.
//!
//! `vfs` translates each of SQLite's calls into one call here and makes no decision of its own.
//!
//! From the top; each file uses those below it only:
//!
//! A [`Handle`] (`calls`, `pragma`, `on_demand`) is an open file with its state (`state`): plain, on pwal, retired, or alone (`alone`). Its
//! first SHARED gets the database (`claim`): by INIT (`init_lock`), each attempt an `Opening` (`opening`) that joins the log of other
//! processes (`join`) or recovers what is there (`leftovers`) and starts an engine; or it refuses (`refusal`), or works beside stock SQLite
//! (`beside`, `below`). `settle` and `exit` are the ways without a connection.
//!
//! From there on the handle has a `WalConnection` (`wal_connection`) with three roles, whose data are in `roles`: a reader, a writer and a
//! checkpointer. `wal_index` knows which of them a call of SQLite is for, `ending` how the connection ends. The steps of the roles are in
//! `transaction` (with `siblings`), `reader` (`writers`, `upgrades`), `concurrent` and `checkpointer`. A transaction that writes beside others
//! (`concurrent_state`) is validated (`validation`, `interior`), moves (`moving`), grows (`growth`) and takes turns (`turns`) without the
//! connection.
//!
//! Below all of it are the facts of the open file (`file`, `header`, `options`).

mod alone;
mod base;
mod below;
mod beside;
mod calls;
mod checkpointer;
mod claim;
mod committed;
mod concurrent;
mod concurrent_state;
mod ending;
mod exit;
mod file;
mod growth;
mod header;
mod init_lock;
mod interior;
mod join;
mod leftovers;
mod moving;
mod on_demand;
mod opening;
mod options;
mod pragma;
mod reader;
mod refusal;
mod registry;
mod roles;
pub mod settle;
mod siblings;
mod state;
mod transaction;
mod turns;
mod upgrades;
mod validation;
mod wal_connection;
mod wal_index;
mod writers;

pub use crate::host::{DatabaseHandle, Host, LockLevel};
pub use base::{Above, BaseFile, OpenFacts, Pager, PragmaAnswer, Running, ShmAction};
pub use calls::Handle;
#[cfg(test)]
pub(crate) use claim::open_engine;
pub(crate) use options::check_setting;
pub use registry::{Context, Registry};

use state::HandleState;
use std::time::Duration;

/// `xOpen` of a super-journal on this thread (`SQLITE_OPEN_SUPER_JOURNAL`).
pub fn super_journal_opened() {
    siblings::set_super_journal(true);
}

/// Called first in every call of SQLite into the shim but `xSleep` (all parts of the VFS): forgets the connection that
/// was refused on this thread.
pub fn entered() {
    siblings::forget_refused();
}

/// A call of SQLite ended in a panic, which was caught: what it left half done on this thread's handles is ended.
pub fn after_panic() {
    for served in state::take_panicked() {
        if let HandleState::Wal(wal) = &mut served.state.lock().kind {
            wal.after_panic(&served.file);
        }
    }
}

/// `xSleep`: waits for the lock that was refused to a connection on this thread, for at most `at_most`.
/// `Some(microseconds)`: the time slept; `None`: no connection was refused, the base shall sleep.
#[must_use]
pub fn sleep(microseconds: u32) -> Option<u32> {
    siblings::wait_for_refused(Duration::from_micros(u64::from(microseconds))).then_some(microseconds)
}

/// `pwal_status()`'s text (JSON) for a handle of this library.
#[must_use]
pub fn status_json(handle: &Handle) -> String {
    pragma::status_json(&handle.0.file, &handle.0.state.lock())
}
