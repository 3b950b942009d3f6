//! LEADER as a lease: a flush that makes no progress is finished by another process.
//!
//! A process that is stopped (SIGSTOP, a frozen container, a debugger) while it leads would block all others for as
//! long as it is stopped. Progress shows in the control block: a leader stores an epoch record, certifies, or releases
//! LEADER. A waiter that sees none for the time of the lease takes LEADER from its live owner, as from a dead one: what
//! is not known to be durable is verified, written again, and synced. So a wrong guess costs a second sync, and no
//! commit.
//!
//! The fence is APPEND. LEADER is taken from a live owner under APPEND, and a leader checks under APPEND whether it
//! still leads, before it writes to a segment and before it certifies. So a process that wakes up finds LEADER lost and
//! writes nothing; its sync, which may end at any time, proves nothing, since others may have written the same blocks
//! again after it.
//!
//! A disk whose sync takes longer than the lease is not a stopped leader: each takeover doubles the lease, so that one
//! of several processes that take LEADER from each other gets the time that its sync needs; a completed flush sets it
//! back to the time that it took.

use super::append::Append;
use super::context::LogContext;
use super::error::EngineError;
use super::flush::Flusher;
use super::leader::{Leader, Leading};
use super::owner_lock::OwnerLocks;
use super::tail::AppendGuard;
use super::undurable::Undurable;
use crate::interleave::{self, Instant};
use crate::shared::{ControlBlock, Owner};
use crate::sqlite::Code;
use std::sync::Arc;
use std::time::Duration;

/// What a waiter has seen of the flush of another process.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stall {
    leader: Option<Owner>,
    certified: u64,
    last_epoch: u64,
    since: Instant,
}

impl Stall {
    pub(crate) fn new() -> Stall {
        Stall { leader: None, certified: 0, last_epoch: 0, since: Instant::now() }
    }

    /// Since when the leader that is there now makes no progress; `None`: it does, or there is none.
    fn look(&mut self, control: &ControlBlock) -> Option<(Owner, Duration)> {
        let leader = control.leader().holder();
        if leader.is_none() || !self.is_unchanged(control) {
            let (certified, last_epoch) = (control.last_certified_epoch(), control.last_written_epoch());
            *self = Stall { leader, certified, last_epoch, since: Instant::now() };
        }
        Some((leader?, self.since.elapsed()))
    }

    fn is_unchanged(&self, control: &ControlBlock) -> bool {
        (self.leader, self.certified, self.last_epoch)
            == (control.leader().holder(), control.last_certified_epoch(), control.last_written_epoch())
    }
}

/// Takes LEADER, from a free lock or from an owner that is dead or makes no progress.
pub(crate) struct Lease {
    log: Arc<LogContext>,
    locks: Arc<OwnerLocks>,
    append: Arc<Append>,
    undurable: Arc<Undurable>,
    leading: Arc<Leading>,
    flusher: Arc<Flusher>,
}

impl Lease {
    pub(super) fn new(
        log: &Arc<LogContext>,
        locks: &Arc<OwnerLocks>,
        append: &Arc<Append>,
        undurable: &Arc<Undurable>,
        leading: &Arc<Leading>,
        flusher: &Arc<Flusher>,
    ) -> Lease {
        let (log, locks, append) = (Arc::clone(log), Arc::clone(locks), Arc::clone(append));
        let (undurable, leading, flusher) = (Arc::clone(undurable), Arc::clone(leading), Arc::clone(flusher));
        Lease { log, locks, append, undurable, leading, flusher }
    }

    /// Takes LEADER, if it is free, and what its last owner left could be made durable.
    pub(crate) fn try_lead(&self) -> Option<Leader> {
        self.lead_if_free().ok().flatten()
    }

    pub(super) fn lead_if_free(&self) -> Result<Option<Leader>, EngineError> {
        if self.log.marks.control().leader().holder().is_some() {
            return Ok(None);
        }
        let Some(leader) = self.leading.take(|lock, me| lock.try_acquire(me, false)) else { return Ok(None) };
        let control = self.log.marks.control();
        // The previous leader may have failed, or died and had its process slot reused.
        if control.last_written_epoch() > control.last_certified_epoch()
            && !self.log.is_poisoned()
            && !crate::drops("leader-finishes-cut")
        {
            let append = self.append.lock()?;
            self.finish_flush(&leader, append)?;
        }
        Ok(Some(leader))
    }

    /// Takes LEADER from its owner, if that is dead, or makes no progress.
    pub(crate) fn lead_for_other(&self, stall: &mut Stall) -> Result<Option<Leader>, EngineError> {
        let member = self.log.marks.member();
        let control = member.control();
        let Some((owner, stands_still)) = stall.look(control).filter(|(owner, _)| *owner != member.me()) else {
            return Ok(None);
        };
        if !member.is_alive(owner) {
            let Some(leader) = self.leading.take(|lock, me| lock.take_over(owner, me)) else { return Ok(None) };
            let append = self.append.lock()?;
            return self.finish_flush(&leader, append).map(|()| Some(leader));
        }
        let lease = self.leading.lease();
        if stands_still < lease || self.log.is_poisoned() {
            return Ok(None);
        }
        let append = self.append.lock()?;
        if !stall.is_unchanged(control) && !crate::drops("lease-looks-again") {
            return Ok(None);
        }
        let Some(leader) = self.leading.take(|lock, me| lock.take_over(owner, me)) else { return Ok(None) };
        interleave::step("LEADER of the living");
        if !crate::drops("lease-led-away") {
            control.set_led_away();
        }
        control.set_lease_us(u64::try_from(lease.as_micros()).unwrap_or(u64::MAX).saturating_mul(2));
        let owner = self.log.describe(owner);
        self.log.report(Code::NOTICE, &format!("finishes the flush of {owner}, which makes no progress"));
        self.finish_flush(&leader, append).map(|()| Some(leader))
    }

    /// LEADER, waited for.
    ///
    /// # Errors
    /// `LockHeld`: for too long. What a leader left that died could not be made durable.
    pub(crate) fn lead_waiting(&self) -> Result<Leader, EngineError> {
        let (mut wait, mut stall) = (self.locks.bounded_wait(), Stall::new());
        loop {
            let leader = match self.lead_if_free()? {
                None => self.lead_for_other(&mut stall)?,
                leader => leader,
            };
            if let Some(leader) = leader {
                return Ok(leader);
            }
            let lock = self.log.marks.control().leader();
            self.locks.goes_on(&mut wait, "LEADER", lock.holder())?;
            lock.wait(crate::shared::TIMED_WAIT);
        }
    }

    /// Leads, waiting for LEADER, and flushes what is published; nothing if it is `done` by then. `mark` as in
    /// [`Flusher::flush`].
    ///
    /// # Errors
    /// As [`Lease::lead_waiting`] and [`Flusher::flush`].
    pub(super) fn flush_unless(&self, done: impl FnOnce() -> bool, mark: bool) -> Result<(), EngineError> {
        let leader = self.lead_waiting()?;
        if done() { Ok(()) } else { self.flusher.flush(&leader, mark).map(drop) }
    }

    /// Finishes the flush of a leader that died in it, or makes no progress. Its sync may have failed: Linux reports a
    /// write-back error once to each open file, perhaps only to that process. So a sync of this process alone proves
    /// nothing: what is not known to be durable is verified by its CRCs, written again (the same bytes), and synced.
    fn finish_flush(&self, leader: &Leader, append: AppendGuard) -> Result<(), EngineError> {
        if !crate::drops("taker-proves") {
            self.undurable.prove(&append)?;
        }
        let (last_epoch, certified) =
            (self.log.marks.control().last_written_epoch(), self.log.marks.control().last_certified_epoch());
        drop(append);
        // No epoch record was stored: the next leader syncs the batches.
        if last_epoch > certified { self.flusher.sync_and_seal(leader, last_epoch).map(drop) } else { Ok(()) }
    }
}
