//! LEADER, as a process and one of its threads has it.
//!
//! LEADER names the process that leads. A ticket, kept in the process, names the thread: a thread whose LEADER was taken
//! does not release a later one of its process. `lease` says when LEADER is taken from a process that has it.

use super::append::Append;
use super::context::LogContext;
use super::owner_lock::{LEASE_SYNCS, least_lease};
use super::tail::AppendGuard;
use crate::os::generation;
use crate::shared::{Owner, OwnerLock};
use crate::sync::Mutex;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

/// Which thread of this process leads.
pub(super) struct Leading {
    log: Arc<LogContext>,
    append: Arc<Append>,
    tickets: Mutex<Tickets>,
}

#[derive(Debug, Default)]
struct Tickets {
    last: u64,
    /// 0: none of them.
    present: u64,
}

/// LEADER: the owner of this value leads, unless LEADER was taken away; its drop wakes one of the waiters for the
/// next flush. When it is taken, no epoch record is left uncertified.
pub(crate) struct Leader {
    leading: Arc<Leading>,
    ticket: u64,
    /// The process that holds it: a forked child that closes what it inherited lets go of nothing.
    generation: u32,
    /// The commit for which it flushes, which is not answered yet.
    answers: Option<u64>,
}

impl Leader {
    /// It flushes for this commit, and answers it.
    pub(super) fn answering(mut self, sequence: Option<u64>) -> Leader {
        self.answers = sequence;
        self
    }

    /// Whether it still leads. Under APPEND this stays true: LEADER is taken from a live owner under APPEND only.
    pub(crate) fn leads(&self, _append: &AppendGuard) -> bool {
        let tickets = self.leading.tickets.lock();
        let member = self.leading.log.marks.member();
        tickets.present == self.ticket && member.control().leader().holder() == Some(member.me())
    }
}

impl Drop for Leader {
    fn drop(&mut self) {
        if let Some(sequence) = self.answers
            && std::thread::panicking()
        {
            // While LEADER is held: no process makes durable what returns an error.
            let taken_back = catch_unwind(AssertUnwindSafe(|| self.leading.append.take_back_published(sequence)));
            // Dropping a foreign payload may panic again.
            std::mem::forget(taken_back);
        }
        if self.generation == generation() {
            let mut tickets = self.leading.tickets.lock();
            if tickets.present == self.ticket || crate::drops("lease-ticket") {
                tickets.present = 0;
                let member = self.leading.log.marks.member();
                member.control().leader().release(member.me());
            }
        }
        // One of those that wait for the next epoch leads; where an epoch record is left without its certificate, its waiters are
        // others, and there may be no more of the next one.
        let control = self.leading.log.marks.control();
        let (left, next) = (control.last_certified_epoch() + 1, control.last_written_epoch() + 1);
        control.flush_events().of(next).notify_one();
        if left < next && !crate::drops("leader-left-epoch") {
            control.flush_events().of(left).notify_one();
        }
    }
}

impl Leading {
    pub(super) fn new(log: &Arc<LogContext>, append: &Arc<Append>) -> Leading {
        Leading { log: Arc::clone(log), append: Arc::clone(append), tickets: Mutex::default() }
    }

    /// LEADER, if `take` gets the lock.
    pub(super) fn take(self: &Arc<Leading>, take: impl FnOnce(&OwnerLock, Owner) -> bool) -> Option<Leader> {
        let member = self.log.marks.member();
        let mut tickets = self.tickets.lock();
        if !take(member.control().leader(), member.me()) {
            return None;
        }
        tickets.last += 1;
        tickets.present = tickets.last;
        Some(Leader { leading: Arc::clone(self), ticket: tickets.last, generation: generation(), answers: None })
    }

    /// How long a leader may make no progress.
    pub(super) fn lease(&self) -> Duration {
        let control = self.log.marks.control();
        least_lease(control).max(Duration::from_micros(control.lease_us()))
    }

    /// A flush of this process took this long, and LEADER was not taken from it.
    pub(super) fn note_lease(&self, took: Duration) {
        let control = self.log.marks.control();
        let before = control.lease_us();
        if before > 0 {
            let needed = u64::try_from((took * LEASE_SYNCS).as_micros()).unwrap_or(u64::MAX);
            control.set_lease_us(before.min(needed));
        }
    }
}
