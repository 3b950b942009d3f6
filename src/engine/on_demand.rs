//! Durability on demand, and waits for commits.
//!
//! Under NORMAL a commit is published and not synced. A program that needs some of its commits durable requests that by
//! number: it waits as a committer under FULL does, and leads the flush itself if no process leads one, so that one
//! sync covers all that was published before. A program that waits for a commit of any process sleeps on
//! `visible_wake`, which each commit checks when it becomes visible.

use super::context::LogContext;
use super::durability::Durability;
use super::error::EngineError;
use super::owner_lock::OwnerLocks;
use crate::interleave::Instant;
use std::sync::Arc;
use std::time::Duration;

/// The longest sleep of a wait for commits: a process that dies between a commit and its notification wakes nothing.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// Durability on demand.
pub(crate) struct OnDemand {
    log: Arc<LogContext>,
    locks: Arc<OwnerLocks>,
    durability: Arc<Durability>,
}

impl OnDemand {
    pub(super) fn new(log: &Arc<LogContext>, locks: &Arc<OwnerLocks>, durability: &Arc<Durability>) -> OnDemand {
        OnDemand { log: Arc::clone(log), locks: Arc::clone(locks), durability: Arc::clone(durability) }
    }

    /// Waits until the commit `sequence` and all before it are durable, at most `timeout`, which does not interrupt a sync
    /// that this thread makes itself; false: not by then.
    ///
    /// # Errors
    /// `NotCommitted`; the flush failed; `LockHeld`: a process that is stopped has what the flush needs.
    pub(crate) fn wait_durable_within(&self, sequence: u64, timeout: Duration) -> Result<bool, EngineError> {
        let reached = || self.log.marks.durable() >= sequence;
        let last = self.log.marks.published();
        if sequence > last {
            return Err(EngineError::NotCommitted { sequence, last, file: self.log.path.clone() });
        }
        if reached() || timeout.is_zero() {
            return Ok(reached());
        }
        let deadline = Instant::now() + timeout;
        match self.durability.wait_until(&reached, Some(sequence), None, self.locks.wait_until_deadline(deadline)) {
            Err(EngineError::LockHeld { .. }) if Instant::now() >= deadline => Ok(reached()),
            waited => waited.map(|_woken_at_once| true),
        }
    }

    /// Makes everything durable that is published; the last commit of that.
    ///
    /// # Errors
    /// As [`Durability::wait_durable`].
    pub(crate) fn sync_published(&self) -> Result<u64, EngineError> {
        let published = self.log.marks.published();
        self.durability.wait_durable(published)?;
        Ok(published)
    }

    /// Waits until a commit after `sequence` is visible to readers, of any connection and process, at most `timeout`; the
    /// newest visible commit.
    ///
    /// # Errors
    /// The log is poisoned: there will be no more commits.
    pub(crate) fn wait_commit(&self, sequence: u64, timeout: Duration) -> Result<u64, EngineError> {
        let began = Instant::now();
        loop {
            let newest = self.log.marks.visible();
            let left = timeout.saturating_sub(began.elapsed());
            if newest > sequence || left.is_zero() {
                return Ok(newest);
            }
            self.log.check_poison()?;
            let control = self.log.marks.control();
            control.visible_wake().wait_for(|| self.log.marks.visible() > sequence, left.min(LOOK_AGAIN));
        }
    }
}
