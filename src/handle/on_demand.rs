//! What a connection asks of the log beside its transactions: the number of its last commit, durability on demand, commits
//! of others. A wait is made without the state of the handle, which the connection's other files look at.

use super::Handle;
use super::state::HandleState;
use crate::engine::{Engine, EngineError};
use crate::sqlite::Code;
use std::sync::Arc;
use std::time::Duration;

impl Handle {
    /// The last commit of this connection in the present log; `None`: there was none.
    #[must_use]
    pub fn last_commit(&self) -> Option<u64> {
        match &self.enter().kind {
            HandleState::Wal(wal) => wal.writer.last_commit,
            HandleState::Plain | HandleState::Retired { .. } | HandleState::Alone(_) => None,
        }
    }

    /// Waits until the commit `sequence` is durable, at most `timeout`; false: it is not.
    ///
    /// # Errors
    /// The database is not on pwal; there is no such commit; the flush failed, or cannot go on.
    pub fn wait_durable(&self, sequence: u64, timeout: Duration) -> Result<bool, (Code, String)> {
        self.on_engine(|engine| engine.on_demand.wait_durable_within(sequence, timeout))
    }

    /// Makes all that is committed durable, of all connections; the last commit of that.
    ///
    /// # Errors
    /// As [`Handle::wait_durable`].
    pub fn sync_commits(&self) -> Result<u64, (Code, String)> {
        self.on_engine(|engine| engine.on_demand.sync_published())
    }

    /// Waits for a commit after `sequence`, of any connection and process, at most `timeout`; the newest commit that a
    /// transaction which begins now reads.
    ///
    /// # Errors
    /// The database is not on pwal, or its log failed.
    pub fn wait_commit(&self, sequence: u64, timeout: Duration) -> Result<u64, (Code, String)> {
        self.on_engine(|engine| engine.on_demand.wait_commit(sequence, timeout))
    }

    fn on_engine<T>(&self, wait: impl FnOnce(&Arc<Engine>) -> Result<T, EngineError>) -> Result<T, (Code, String)> {
        let engine = match &mut self.enter().kind {
            HandleState::Wal(wal) => wal.engine_of_this_process()?,
            HandleState::Plain | HandleState::Retired { .. } | HandleState::Alone(_) => {
                let why = "the main database has no log of pwal: read it first, and see PRAGMA parallel_wal_mode";
                return Err((Code::ERROR, String::from(why)));
            }
        };
        wait(&engine).map_err(|error| (error.code(), error.to_string()))
    }
}
