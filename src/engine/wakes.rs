//! When the next waiter of an epoch is woken.
//!
//! The end of a flush wakes one waiter of its epoch, which wakes the next one, and so on: all of them at once would collide
//! on WRITE. Where the applications commit again at once, a waiter that is woken while the one before it has WRITE sleeps a
//! second time, for WRITE, and a processor changes from one to the other for nothing. So a connection that is about to commit
//! again keeps the wake-up of the next waiter until it has released WRITE. Its last commit shows whether it is:
//! the time from an answer to the next release of WRITE was short.
//!
//! A connection that does not commit again, against that, makes the waiters after it late, not wrong: each looks for itself
//! after a while (`durability`), and what it finds goes on from there.

use super::context::LogContext;
use crate::interleave::Instant;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// From the answer to a commit until WRITE is released again: a connection that takes no longer keeps the wake-up of the next
/// waiter that long.
const AGAIN: Duration = Duration::from_micros(100);

/// Where a sync takes as long, no wake-up is kept: what that saves is little beside the sync, and the waiters look for themselves
/// rarely.
const SLOW_SYNC: Duration = Duration::from_millis(2);

/// The wake-up of the next waiter of an epoch that is durable. Its drop wakes it.
#[must_use = "a drop at once wakes a waiter at once"]
pub(crate) struct NextWake {
    log: Arc<LogContext>,
    epoch: u64,
    /// Of the leader: no waiter was notified yet.
    is_first: bool,
}

impl NextWake {
    pub(super) fn first(log: &Arc<LogContext>, epoch: u64) -> NextWake {
        NextWake { log: Arc::clone(log), epoch, is_first: true }
    }

    pub(super) fn next(log: &Arc<LogContext>, epoch: u64) -> NextWake {
        NextWake { log: Arc::clone(log), epoch, is_first: false }
    }
}

impl NextWake {
    /// Whether the waiters that look for themselves, after four syncs at most, do so soon.
    fn is_kept_shortly(&self) -> bool {
        Duration::from_nanos(self.log.marks.control().sync_nanos()) < SLOW_SYNC
    }
}

impl fmt::Debug for NextWake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NextWake of epoch {}", self.epoch)
    }
}

impl Drop for NextWake {
    fn drop(&mut self) {
        let event = self.log.marks.control().flush_events().of(self.epoch);
        if self.is_first { event.notify() } else { event.pass_on() }
    }
}

/// The wake-up that a connection keeps, and what it did after its last commit.
#[derive(Default)]
pub(crate) struct KeptWake {
    wake: Option<NextWake>,
    answered: Option<Instant>,
    commits_again: bool,
}

impl KeptWake {
    #[cfg(test)]
    pub(crate) fn of_one_that_commits_again() -> KeptWake {
        KeptWake { commits_again: true, ..KeptWake::default() }
    }

    /// A commit of the connection is answered.
    pub(crate) fn answered(&mut self, wake: Option<NextWake>) {
        self.wake = wake.filter(|wake| self.commits_again && wake.is_kept_shortly());
        self.answered = Some(Instant::now());
    }

    /// The connection has released WRITE.
    pub(crate) fn released(&mut self) {
        if crate::drops("kept-wake") {
            std::mem::forget(self.wake.take());
        }
        self.wake = None;
        if let Some(answered) = self.answered.take() {
            self.commits_again = answered.elapsed() < AGAIN;
        }
    }

    /// The connection is about to wait.
    pub(crate) fn let_go(&mut self) {
        self.wake = None;
    }
}
