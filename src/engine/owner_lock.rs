//! APPEND, LEADER, CREATE and CKPT: owner locks that a guard releases.
//!
//! A lock excludes the threads of this process as it excludes other processes; a waiter checks whether the owner is
//! alive, and takes the lock from a dead one.

use super::context::LogContext;
use super::error::EngineError;
use crate::interleave::{self, Instant};
use crate::os::generation;
use crate::shared::{ControlBlock, Member, Owner, OwnerLock, TIMED_WAIT};
use crate::sqlite::Code;
use std::sync::Arc;
use std::time::Duration;

/// What a process has that is a lease is taken from it, or passed by, if it makes no progress for this time where syncs are fast.
const LEASE: Duration = Duration::from_secs(1);
/// The same in the simulation, whose syncs take no time, so that it expires while processes work.
const LEASE_SIMULATED: Duration = Duration::from_millis(15);
/// A lease is never shorter than this number of syncs.
pub(super) const LEASE_SYNCS: u32 = 4;
/// An unbounded wait is logged after this time.
const TELL_AFTER: Duration = Duration::from_secs(2);
/// A bounded wait ends where no process makes progress for this time,
const WAIT_MAX: Duration = Duration::from_secs(5);
/// or, where syncs are slow, for the time of this number of syncs.
const WAIT_SYNCS: u32 = 64;

/// How long a process may make no progress, at least.
pub(super) fn least_lease(control: &ControlBlock) -> Duration {
    let least = if interleave::is_simulated() { LEASE_SIMULATED } else { LEASE };
    least.max(Duration::from_nanos(control.sync_nanos()) * LEASE_SYNCS)
}

/// A wait for what others have or do.
#[derive(Debug)]
pub(super) struct Wait {
    /// The last progress that was seen.
    since: Instant,
    seen: [u64; 3],
    is_bounded: bool,
    is_told: bool,
    /// When it ends in any case.
    deadline: Option<Instant>,
}

impl Wait {
    /// The time until the deadline: the longest sleep before the next look.
    pub(super) fn left(&self) -> Duration {
        self.deadline.map_or(Duration::MAX, |deadline| deadline.saturating_duration_since(Instant::now()))
    }
}

/// A lock of the control block.
pub(super) type Which = fn(&ControlBlock) -> &OwnerLock;

/// A lock that is held; dropped, it is free.
pub(crate) struct OwnerGuard {
    member: Arc<Member>,
    which: Which,
    /// The process that holds it: a forked child that closes what it inherited lets go of nothing.
    generation: u32,
}

impl Drop for OwnerGuard {
    fn drop(&mut self) {
        if self.generation == generation() {
            (self.which)(self.member.control()).release(self.member.me());
        }
    }
}

/// The owner locks of the log, as this process takes and waits for them.
pub(super) struct OwnerLocks {
    log: Arc<LogContext>,
}

impl OwnerLocks {
    pub(super) fn new(log: &Arc<LogContext>) -> OwnerLocks {
        OwnerLocks { log: Arc::clone(log) }
    }

    pub(super) fn held(&self, which: Which) -> OwnerGuard {
        OwnerGuard { member: self.log.marks.shared(), which, generation: generation() }
    }

    /// Takes the lock if it is free.
    pub(super) fn try_hold(&self, which: Which) -> Option<OwnerGuard> {
        let member = self.log.marks.member();
        which(member.control()).try_acquire(member.me(), false).then(|| self.held(which))
    }

    /// Takes the lock from its owner if that is dead.
    pub(super) fn try_take_over(&self, which: Which) -> Option<OwnerGuard> {
        let member = self.log.marks.member();
        let lock = which(member.control());
        let owner = lock.holder()?;
        (!member.is_alive(owner) && lock.take_over(owner, member.me())).then(|| self.held(which))
    }

    /// Waits for the lock, as long as a [bounded wait](OwnerLocks::bounded_wait) lasts.
    ///
    /// # Errors
    /// `LockHeld`: its owner keeps it for too long.
    pub(super) fn hold(&self, which: Which, name: &'static str) -> Result<OwnerGuard, EngineError> {
        match self.try_hold(which) {
            Some(held) => Ok(held),
            None => self.hold_with(which, name, self.bounded_wait()),
        }
    }

    /// Waits for the lock without a bound: for a caller that must end what failed.
    pub(super) fn hold_unbounded(&self, which: Which, name: &'static str) -> OwnerGuard {
        loop {
            if let Ok(held) = self.hold_with(which, name, self.unbounded_wait()) {
                return held;
            }
        }
    }

    fn hold_with(&self, which: Which, name: &'static str, mut wait: Wait) -> Result<OwnerGuard, EngineError> {
        let member = self.log.marks.member();
        let lock = which(member.control());
        let goes_on = || self.goes_on(&mut wait, name, lock.holder());
        lock.acquire(member.me(), |owner| member.is_alive(owner), goes_on)?;
        Ok(self.held(which))
    }

    /// A wait before anything is promised: it ends with `LockHeld` (`SQLITE_BUSY`) where no process makes progress for
    /// long, and when the engine's own thread waits and must end.
    pub(super) fn bounded_wait(&self) -> Wait {
        Wait { since: Instant::now(), seen: self.progress(), is_bounded: true, is_told: false, deadline: None }
    }

    /// A [bounded wait](OwnerLocks::bounded_wait) that ends at `deadline`, too.
    pub(super) fn wait_until_deadline(&self, deadline: Instant) -> Wait {
        Wait { deadline: Some(deadline), ..self.bounded_wait() }
    }

    /// A wait for the answer to a commit that is published.
    pub(super) fn unbounded_wait(&self) -> Wait {
        Wait { is_bounded: false, ..self.bounded_wait() }
    }

    /// The numbers that move while a process works on the log.
    fn progress(&self) -> [u64; 3] {
        let control = self.log.marks.control();
        [control.published(), control.last_written_epoch(), control.last_certified_epoch()]
    }

    /// Between two looks at what is waited for. `name` is what, `owner` the process that has it.
    ///
    /// # Errors
    /// `LockHeld`: the wait is over.
    pub(super) fn goes_on(&self, wait: &mut Wait, name: &'static str, owner: Option<Owner>) -> Result<(), EngineError> {
        let progress = self.progress();
        if progress != wait.seen {
            (wait.seen, wait.since) = (progress, Instant::now());
        }
        let syncs = Duration::from_nanos(self.log.marks.control().sync_nanos()) * WAIT_SYNCS;
        let is_over = wait.is_bounded && wait.since.elapsed() >= WAIT_MAX.max(syncs);
        if is_over || wait.left().is_zero() || self.log.stopping.stops_here() {
            let holder = owner.map_or_else(|| "another process".to_owned(), |owner| self.log.describe(owner));
            return Err(EngineError::LockHeld { what: name, file: self.log.path.clone(), holder });
        }
        if let Some(owner) = owner
            && !wait.is_bounded
            && !wait.is_told
            && wait.since.elapsed() >= TELL_AFTER
        {
            wait.is_told = true;
            self.warn_blocked_by(name, owner);
        }
        Ok(())
    }

    /// Waits for the lock for at most `at_most`; `Err`: the owner.
    pub(super) fn hold_within(&self, which: Which, at_most: Duration) -> Result<OwnerGuard, Option<Owner>> {
        let lock = which(self.log.marks.control());
        let began = Instant::now();
        loop {
            if let Some(held) = self.try_hold(which).or_else(|| self.try_take_over(which)) {
                return Ok(held);
            }
            if began.elapsed() >= at_most || self.log.stopping.stops_here() {
                return Err(lock.holder());
            }
            lock.wait(TIMED_WAIT);
        }
    }

    /// Names the process that has what this one waits for.
    pub(super) fn warn_blocked_by(&self, name: &str, owner: Owner) {
        self.log.report(Code::WARNING, &format!("waits for {name}, held by {}", self.log.describe(owner)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::Directory;
    use crate::shared::{ControlMapping, LockFile};

    #[test]
    fn a_forked_child_lets_go_of_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let lock = LockFile::open(&Directory::open(directory.path()).unwrap(), 0o600).unwrap();
        let claimed = Member::acquire(ControlMapping::anonymous().unwrap(), lock, "parent").unwrap();
        let member = Arc::new(claimed.unwrap());
        let lock = member.control().append();
        assert!(lock.try_acquire(member.me(), false));
        let held = |generation| OwnerGuard { member: Arc::clone(&member), which: ControlBlock::append, generation };
        drop(held(generation() + 1));
        assert_eq!(lock.holder(), Some(member.me()), "the parent has it still");
        drop(held(generation()));
        assert_eq!(lock.holder(), None);
    }
}
