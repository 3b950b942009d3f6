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
//!
//! LEADER names the process that leads. A ticket, kept in the process, names the thread: a thread whose LEADER was
//! taken does not release a later one of its process.

use super::tail::AppendGuard;
use super::{Engine, EngineError};
use crate::interleave::{self, Instant};
use crate::shared::{ControlBlock, Owner, OwnerLock, generation};
use crate::sqlite::Code;
use crate::sync::Mutex;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

/// The lease where syncs are fast.
const LEASE: Duration = Duration::from_secs(1);
/// The same in the simulation, whose syncs take no time, so that it expires while leaders work.
const LEASE_SIMULATED: Duration = Duration::from_millis(15);
/// The lease is never shorter than this number of syncs.
const LEASE_SYNCS: u32 = 4;

/// Which thread of this process leads.
#[derive(Debug, Default)]
pub(super) struct Leading(Mutex<Tickets>);

#[derive(Debug, Default)]
struct Tickets {
    last: u64,
    /// 0: none of them.
    present: u64,
}

/// LEADER: the owner of this value leads, unless LEADER was taken away; its drop wakes the first of the waiters for a
/// flush. When it is taken, no epoch record is left uncertified.
pub(crate) struct Leader {
    engine: Arc<Engine>,
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
    pub(super) fn leads(&self, _append: &AppendGuard) -> bool {
        let leading = self.engine.leading.0.lock();
        let member = self.engine.log.marks.member();
        leading.present == self.ticket && member.control().leader().holder() == Some(member.me())
    }
}

impl Drop for Leader {
    fn drop(&mut self) {
        if let Some(sequence) = self.answers
            && std::thread::panicking()
        {
            // While LEADER is held: no process makes durable what returns an error.
            let taken_back = catch_unwind(AssertUnwindSafe(|| self.engine.append.take_back_published(sequence)));
            // Dropping a foreign payload may panic again.
            std::mem::forget(taken_back);
        }
        if self.generation == generation() {
            let mut leading = self.engine.leading.0.lock();
            if leading.present == self.ticket || crate::drops("lease-ticket") {
                leading.present = 0;
                let member = self.engine.log.marks.member();
                member.control().leader().release(member.me());
            }
        }
        self.engine.log.marks.control().durable_wake().notify();
    }
}

/// What a waiter has seen of the flush of another process.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stall {
    leader: Option<Owner>,
    certified: u64,
    last_epoch: u64,
    since: Instant,
}

impl Stall {
    pub(super) fn new() -> Stall {
        Stall { leader: None, certified: 0, last_epoch: 0, since: Instant::now() }
    }

    /// Since when the leader that is there now makes no progress; `None`: it does, or there is none.
    fn look(&mut self, control: &ControlBlock) -> Option<(Owner, Duration)> {
        let leader = control.leader().holder();
        if leader.is_none() || !self.is_unchanged(control) {
            let (certified, last_epoch) = (control.certified(), control.last_written_epoch());
            *self = Stall { leader, certified, last_epoch, since: Instant::now() };
        }
        Some((leader?, self.since.elapsed()))
    }

    fn is_unchanged(&self, control: &ControlBlock) -> bool {
        (self.leader, self.certified, self.last_epoch)
            == (control.leader().holder(), control.certified(), control.last_written_epoch())
    }
}

impl Engine {
    /// LEADER, if `take` gets the lock.
    fn take_leader(self: &Arc<Engine>, take: impl FnOnce(&OwnerLock, Owner) -> bool) -> Option<Leader> {
        let member = self.log.marks.member();
        let mut leading = self.leading.0.lock();
        if !take(member.control().leader(), member.me()) {
            return None;
        }
        leading.last += 1;
        leading.present = leading.last;
        Some(Leader { engine: Arc::clone(self), ticket: leading.last, generation: generation(), answers: None })
    }

    /// Takes LEADER, if it is free, and what its last owner left could be made durable.
    pub(crate) fn try_lead(self: &Arc<Engine>) -> Option<Leader> {
        self.lead_if_free().ok().flatten()
    }

    pub(super) fn lead_if_free(self: &Arc<Engine>) -> Result<Option<Leader>, EngineError> {
        if self.log.marks.control().leader().holder().is_some() {
            return Ok(None);
        }
        let Some(leader) = self.take_leader(|lock, me| lock.try_acquire(me, false)) else { return Ok(None) };
        let control = self.log.marks.control();
        // The previous leader may have failed, or died and had its process slot reused.
        if control.last_written_epoch() > control.certified()
            && !self.log.is_poisoned()
            && !crate::drops("leader-finishes-cut")
        {
            let append = self.append.lock()?;
            self.finish_flush(&leader, append)?;
        }
        Ok(Some(leader))
    }

    /// Takes LEADER from its owner, if that is dead, or makes no progress.
    pub(super) fn lead_for_other(self: &Arc<Engine>, stall: &mut Stall) -> Result<Option<Leader>, EngineError> {
        let member = self.log.marks.member();
        let control = member.control();
        let Some((owner, stands_still)) = stall.look(control).filter(|(owner, _)| *owner != member.me()) else {
            return Ok(None);
        };
        if !member.is_alive(owner) {
            let Some(leader) = self.take_leader(|lock, me| lock.take_over(owner, me)) else { return Ok(None) };
            let append = self.append.lock()?;
            return self.finish_flush(&leader, append).map(|()| Some(leader));
        }
        let lease = self.lease();
        if stands_still < lease || self.log.is_poisoned() {
            return Ok(None);
        }
        let append = self.append.lock()?;
        if !stall.is_unchanged(control) && !crate::drops("lease-looks-again") {
            return Ok(None);
        }
        let Some(leader) = self.take_leader(|lock, me| lock.take_over(owner, me)) else { return Ok(None) };
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
    pub(crate) fn lead_waiting(self: &Arc<Engine>) -> Result<Leader, EngineError> {
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

    /// How long a leader may make no progress.
    fn lease(&self) -> Duration {
        let control = self.log.marks.control();
        let least = if interleave::is_simulated() { LEASE_SIMULATED } else { LEASE };
        let syncs = Duration::from_nanos(control.sync_nanos()) * LEASE_SYNCS;
        least.max(Duration::from_micros(control.lease_us())).max(syncs)
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

    /// Finishes the flush of a leader that died in it, or makes no progress. Its sync may have failed: Linux reports a
    /// write-back error once to each open file, perhaps only to that process. So a sync of this process alone proves
    /// nothing: what is not known to be durable is verified by its CRCs, written again (the same bytes), and synced.
    fn finish_flush(&self, leader: &Leader, append: AppendGuard) -> Result<(), EngineError> {
        if !crate::drops("taker-proves") {
            self.undurable.prove(&append)?;
        }
        let (last_epoch, certified) =
            (self.log.marks.control().last_written_epoch(), self.log.marks.control().certified());
        drop(append);
        // No epoch record was stored: the next leader syncs the batches.
        if last_epoch > certified { self.sync_and_seal(leader, last_epoch) } else { Ok(()) }
    }
}
