//! R2: a commit is answered when it is durable, if it wants that, or else when what it was based on is visible.
//!
//! A committer first looks whether another one's flush has reached its commit. If no process leads a flush it leads one
//! itself, which covers everything that is published by then; else it sleeps with the commits of its own epoch: those of the
//! flush in progress, or those of the next one. The end of a flush wakes one sleeper of its epoch, which wakes the next, and so
//! on: all of them at once would collide on WRITE. When LEADER is released, one sleeper of the next epoch is woken, and one of an
//! epoch that was left uncertified. It leads, or finds that another committer does; should it end without either, it wakes the
//! next. What wakes none of them (a death on the way) is found by those that check: one of a process's waiters checks often
//! whether the leader lives and makes progress (`lease`).
//!
//! A wait before a commit is published is bounded, and ends with `LockHeld`. A published commit is waited for without a
//! bound: an error for it would concern all commits after it (R5).

use super::append::Append;
use super::context::LogContext;
use super::error::EngineError;
use super::flush::{Flusher, SelfSealed};
use super::leader::Leader;
use super::lease::{Lease, Stall};
use super::owner_lock::{OwnerLocks, Wait};
use super::poison::{Failed, Poison};
use super::segment_files::SegmentFiles;
use super::shortage::Shortage;
use super::wakes::NextWake;
use crate::interleave::Instant;
use crate::shared::{Event, TIMED_WAIT};
use crate::sqlite::Code;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

/// How long a flush that could not be begun here is tried again, while another process may lead.
const FLUSH_PATIENCE: Duration = Duration::from_secs(2);

/// When the waiters look that are not the [`Watcher`]: first so soon, in case that the one that is to wake them does not,
const OTHERS_LOOK: Duration = Duration::from_millis(2);

/// then each time twice as late, at most so.
const OTHERS_LOOK_MAX: Duration = Duration::from_millis(50);

/// One of a process's waiters for a flush checks every [`TIMED_WAIT`] whether the leader is alive and makes progress.
/// The others are woken one by another, and check rarely.
struct Watcher<'a> {
    watched: Option<&'a AtomicBool>,
    others_look: Duration,
}

impl<'a> Watcher<'a> {
    /// The time after which this waiter checks again. It becomes the watcher if there is none.
    fn looks_after(&mut self, watched: &'a AtomicBool, sync_nanos: u64) -> Duration {
        if self.watched.is_none() && !watched.swap(true, SeqCst) {
            self.watched = Some(watched);
        }
        let others_look = self.others_look;
        self.others_look = (others_look * 2).min(OTHERS_LOOK_MAX);
        if self.watched.is_some() { TIMED_WAIT } else { others_look.max(Duration::from_nanos(sync_nanos) * 4) }
    }
}

impl Drop for Watcher<'_> {
    fn drop(&mut self) {
        if let Some(watched) = self.watched {
            watched.store(false, SeqCst);
        }
    }
}

/// The notification that LEADER is free, which a waiter passes on if it ends without having led.
struct Elected<'a>(Option<&'a Event>);

impl Drop for Elected<'_> {
    fn drop(&mut self) {
        if let Some(event) = self.0 {
            event.pass_on();
        }
    }
}

/// This thread led a flush, and sealed an epoch, of which a waiter is to be woken, or none.
struct Led(Option<NextWake>);

/// Waits until commits are durable, or visible.
pub(crate) struct Durability {
    log: Arc<LogContext>,
    locks: Arc<OwnerLocks>,
    shortage: Arc<Shortage>,
    files: Arc<SegmentFiles>,
    append: Arc<Append>,
    poison: Arc<Poison>,
    flusher: Arc<Flusher>,
    lease: Arc<Lease>,
    /// One of the threads that wait for a flush checks often whether the leader is alive and makes progress.
    watched: AtomicBool,
}

/// What [`Durability`] waits with.
pub(super) struct DurabilityParts<'a> {
    pub(super) log: &'a Arc<LogContext>,
    pub(super) locks: &'a Arc<OwnerLocks>,
    pub(super) shortage: &'a Arc<Shortage>,
    pub(super) files: &'a Arc<SegmentFiles>,
    pub(super) append: &'a Arc<Append>,
    pub(super) poison: &'a Arc<Poison>,
    pub(super) flusher: &'a Arc<Flusher>,
    pub(super) lease: &'a Arc<Lease>,
}

impl Durability {
    pub(super) fn new(parts: &DurabilityParts<'_>) -> Durability {
        Durability {
            log: Arc::clone(parts.log),
            locks: Arc::clone(parts.locks),
            shortage: Arc::clone(parts.shortage),
            files: Arc::clone(parts.files),
            append: Arc::clone(parts.append),
            poison: Arc::clone(parts.poison),
            flusher: Arc::clone(parts.flusher),
            lease: Arc::clone(parts.lease),
            watched: AtomicBool::new(false),
        }
    }

    /// R2, for a published commit; `self_sealed`: it carries its certificate, and this flushes it.
    ///
    /// # Errors
    /// The commit is not acknowledged, and must not reappear: the engine is poisoned (R5).
    pub(crate) fn acknowledge(
        &self,
        sequence: u64,
        wants_durable: bool,
        self_sealed: Option<SelfSealed>,
    ) -> Result<Option<NextWake>, EngineError> {
        // Its failure is the log's, or the next leader does it.
        let flushed = self_sealed.map(|self_sealed| self.flusher.flush_self_sealed(&self_sealed));
        let wants_durable = wants_durable && !crate::drops("r2-durable");
        let reached = || if wants_durable { self.log.marks.durable() >= sequence } else { self.is_visible(sequence) };
        if reached() {
            return Ok(flushed.and_then(Result::ok).flatten());
        }
        self.wait_until(&reached, Some(sequence), Some(sequence), self.locks.unbounded_wait()).or_else(|error| {
            let append = self.append.lock_unrepaired();
            // By another process meanwhile.
            if reached() {
                return Ok(None);
            }
            self.poison.poison(
                &append,
                &format!("a commit could not be acknowledged: {error}"),
                Failed::Commit(sequence),
            );
            Err(self.log.poisoned_as(error))
        })
    }

    /// Waits until everything up to `sequence` is durable, leading if no other committer does.
    ///
    /// # Errors
    /// The flush failed: the commit was rolled back, or its outcome is unknown (R5). `LockHeld`: another process has
    /// kept a lock that the flush needs for too long.
    pub(crate) fn wait_durable(&self, sequence: u64) -> Result<(), EngineError> {
        self.wait_until(&|| self.log.marks.durable() >= sequence, Some(sequence), None, self.locks.bounded_wait())
            .map(drop)
    }

    /// Waits until the rings have room again, leading if no other committer does: a flush in progress may be enough,
    /// though it ends before the last commit.
    ///
    /// # Errors
    /// As [`Durability::wait_durable`].
    pub(super) fn wait_for_backlog(&self) -> Result<(), EngineError> {
        self.wait_until(&|| !self.log.marks.undurable_backlog_is_full(), None, None, self.locks.bounded_wait())
            .map(drop)
    }

    /// Waits until everything up to `sequence` is visible, leading if no other committer does.
    ///
    /// # Errors
    /// As [`Durability::wait_durable`].
    pub(super) fn wait_visible(&self, sequence: u64) -> Result<(), EngineError> {
        self.wait_until(&|| self.is_visible(sequence), Some(sequence), None, self.locks.bounded_wait()).map(drop)
    }

    /// Like [`Durability::wait_visible`], for a transaction that has read the commit and cannot return before.
    ///
    /// # Errors
    /// The flush failed.
    pub(crate) fn wait_visible_of_seen(&self, sequence: u64) -> Result<(), EngineError> {
        self.wait_until(&|| self.is_visible(sequence), Some(sequence), None, self.locks.unbounded_wait()).map(drop)
    }

    fn is_visible(&self, sequence: u64) -> bool {
        let control = self.log.marks.control();
        if crate::drops("r2-visible") {
            return true;
        }
        // Moved here, too: the leader that made it durable may have died before it did.
        self.log.marks.visible() >= sequence
            || control.advance_visible() >= sequence
            // It was before a flush failed, and stays in the log.
            || control.kept_by_poison().is_some_and(|kept| kept >= sequence)
    }

    /// The epoch with which commit `sequence` becomes durable, which is published and not durable yet: the last one that is written, or
    /// the next one, which takes all that is published. Without a commit: the epoch that is certified next.
    fn epoch_of(&self, sequence: Option<u64>) -> u64 {
        let control = self.log.marks.control();
        let next_certified = control.last_certified_epoch() + 1;
        match (control.last_epoch(), sequence) {
            (Some(last), Some(sequence)) if last.hi < sequence => (last.epoch + 1).max(next_certified),
            (Some(last), _) => last.epoch.max(next_certified),
            (None, _) => next_certified,
        }
    }

    /// Waits until `reached`, which is so at the latest when commit `sequence` is durable, or, without one, after some flush.
    /// `answers`: the commit of the caller's that is answered when it is reached.
    pub(super) fn wait_until(
        &self,
        reached: &dyn Fn() -> bool,
        sequence: Option<u64>,
        answers: Option<u64>,
        mut wait: Wait,
    ) -> Result<Option<NextWake>, EngineError> {
        let control = self.log.marks.control();
        let me = self.log.marks.member().me();
        let (mut elected, mut next_wake) = (Elected(None), None);
        let (mut waited, mut stall, mut watcher) =
            (Duration::ZERO, Stall::new(), Watcher { watched: None, others_look: OTHERS_LOOK });
        let (mut first_failure, mut is_told) = (None, false);
        loop {
            let epoch = self.epoch_of(sequence);
            let wake = control.flush_events().of(epoch);
            let mut ticket = wake.ticket();
            if reached() {
                if first_failure.is_some() {
                    self.shortage.ends();
                }
                return Ok(next_wake);
            }
            self.log.check_poison()?;
            match self.try_to_flush(reached, answers, (waited >= TIMED_WAIT).then_some(&mut stall)) {
                Ok(Some(Led(wake))) => {
                    (elected.0, next_wake) = (None, wake);
                    continue;
                }
                // The owner of the lock continues, or the wait ends.
                Ok(None) | Err(EngineError::LockHeld { .. }) => {}
                // It could not be begun (too many open files, say), and nothing has failed: another process may lead, or
                // this one a moment later.
                Err(error) => {
                    self.files.keep_no_more()?;
                    let misses_descriptor = error.is_out_of_descriptors();
                    let is_over = first_failure.get_or_insert_with(Instant::now).elapsed() >= FLUSH_PATIENCE
                        || misses_descriptor && self.shortage.lasts();
                    // What is published is acknowledged, however long it takes: an error would concern all commits
                    // after it.
                    let answers_later = answers.is_some() && misses_descriptor;
                    if is_over && !answers_later || self.log.is_poisoned() {
                        return Err(error);
                    }
                    if is_over && !std::mem::replace(&mut is_told, true) {
                        self.log.report(Code::WARNING, &format!("a commit waits to be made durable: {error}"));
                    }
                    // Not woken by this thread's own letting go.
                    ticket = wake.ticket();
                }
            }
            let leader = control.leader().holder().filter(|owner| *owner != me);
            self.locks.goes_on(&mut wait, "a flush", leader)?;
            let began = Instant::now();
            let look = watcher.looks_after(&self.watched, control.sync_nanos());
            // The present leader notifies another one when it ends.
            (elected.0, next_wake) = (None, None);
            let is_notified = wake.wait(ticket, look.min(wait.left()));
            if control.last_certified_epoch() < epoch {
                elected.0 = is_notified.then_some(wake);
            } else if is_notified {
                next_wake = Some(NextWake::next(&self.log, epoch));
            } else {
                // The one before it keeps the wake-up for too long.
                drop(NextWake::next(&self.log, epoch));
            }
            waited = began.elapsed();
        }
    }

    /// Leads, if no other committer does, or, with `stall`, if the leader is dead or makes no progress. `None`: there is
    /// a leader.
    fn try_to_flush(
        &self,
        reached: &dyn Fn() -> bool,
        answers: Option<u64>,
        stall: Option<&mut Stall>,
    ) -> Result<Option<Led>, EngineError> {
        let leader = match (self.lease.lead_if_free()?, stall) {
            (None, Some(stall)) => self.lease.lead_for_other(stall)?,
            (leader, _) => leader,
        };
        let Some(leader) = leader else { return Ok(None) };
        if reached() {
            return Ok(Some(Led(None)));
        }
        let leader = leader.answering(answers);
        self.flusher.gather();
        self.flusher.flush(&leader, false).map(|wake| Some(Led(wake)))
    }

    /// LEADER, with everything that is published made durable.
    pub(crate) fn lead_before_all(&self) -> Result<Leader, EngineError> {
        let leader = self.lease.lead_waiting()?;
        self.log.check_poison()?;
        drop(self.flusher.flush(&leader, false)?);
        Ok(leader)
    }

    /// Runs `act`, again where a descriptor is missing.
    ///
    /// # Errors
    /// Those of `act`.
    pub(super) fn with_descriptors<T>(&self, act: impl FnMut() -> Result<T, EngineError>) -> Result<T, EngineError> {
        self.shortage.retry(act, || self.let_files_close())
    }

    /// What is published is made durable, so that no file of the log but the one at its end has to stay open here. False: nothing
    /// more can be closed than before; the operation says what is missing.
    fn let_files_close(&self) -> bool {
        let published = self.log.marks.published();
        let was_durable = self.log.marks.durable() >= published;
        // Before the flush, which may have to open files itself.
        let closes = self
            .files
            .keep_no_more()
            .and_then(|_| self.wait_durable(published))
            .and_then(|()| self.files.keep_no_more());
        matches!(closes, Ok(true)) && !was_durable
    }
}
