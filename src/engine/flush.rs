//! Epochs: group commit. The first committer that finds no flush in progress leads: it stores the epoch record of what
//! is published, writes the certificate, syncs once for all commits in it, and wakes the first of the other committers,
//! which wakes the next.

use super::commit::{EpochCounts, SelfSealed};
use super::lease::{Leader, Stall};
use super::owner_lock::Wait;
use super::poison::Failed;
use super::segment_file::sync_all;
use super::tail::{Begun, Place};
use super::{Engine, EngineError};
use crate::interleave::Instant;
use crate::shared::{EpochRecord, TIMED_WAIT};
use crate::sqlite::Code;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

/// Below this sync time waiting for more commits costs more than it gains (`docs/measurements.md`).
const GATHER_SYNC_MIN: Duration = Duration::from_micros(80);
/// The share of the measured sync time that a leader waits for committers that were just woken, in per cent.
const GATHER_SHARE_PERCENT: u32 = 40;

/// A sync that costs less is no wait for the disk: to hand WRITE to another thread or process costs as much.
const SYNC_FREE: Duration = Duration::from_micros(10);

/// How long a flush that could not be begun here is tried again, while another process may lead.
const FLUSH_PATIENCE: Duration = Duration::from_secs(2);

/// One of a process's waiters for a flush checks every [`TIMED_WAIT`] whether the leader is alive and makes progress.
/// The others are woken one by another, and check rarely.
struct Watcher<'a>(Option<&'a AtomicBool>);

/// How often the others look at most.
const OTHERS_LOOK: Duration = Duration::from_millis(50);
/// Commits that are counted while the table is locked, before APPEND is taken.
const COMMITS_AT_ONCE: u64 = 64;

impl<'a> Watcher<'a> {
    /// The time after which this waiter checks again. It becomes the watcher if there is none.
    fn looks_after(&mut self, watched: &'a AtomicBool, sync_nanos: u64) -> Duration {
        if self.0.is_none() && !watched.swap(true, SeqCst) {
            self.0 = Some(watched);
        }
        if self.0.is_some() { TIMED_WAIT } else { OTHERS_LOOK.max(Duration::from_nanos(sync_nanos) * 4) }
    }
}

impl Drop for Watcher<'_> {
    fn drop(&mut self) {
        if let Some(watched) = self.0 {
            watched.store(false, SeqCst);
        }
    }
}

impl Engine {
    /// LEADER, with everything that is published made durable.
    pub(crate) fn lead_before_all(self: &Arc<Engine>) -> Result<Leader, EngineError> {
        let leader = self.lead_waiting()?;
        self.log.check_poison()?;
        self.flush(&leader, false)?;
        Ok(leader)
    }

    /// R2, for a published commit; `self_sealed`: it carries its certificate, and this flushes it.
    ///
    /// # Errors
    /// The commit is not acknowledged, and must not reappear: the engine is poisoned (R5).
    pub(crate) fn acknowledge(
        self: &Arc<Engine>,
        sequence: u64,
        wants_durable: bool,
        self_sealed: Option<SelfSealed>,
    ) -> Result<(), EngineError> {
        // Its failure is the log's, or the next leader does it.
        let _flushed = self_sealed.map(|self_sealed| self.flush_self_sealed(&self_sealed));
        let wants_durable = wants_durable && !crate::drops("r2-durable");
        let reached = || if wants_durable { self.log.marks.durable() >= sequence } else { self.is_visible(sequence) };
        if reached() {
            return Ok(());
        }
        self.wait_until(&reached, Some(sequence), self.locks.unbounded_wait()).or_else(|error| {
            let append = self.append.lock_unrepaired();
            // By another process meanwhile.
            if reached() {
                return Ok(());
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
    pub(crate) fn wait_durable(self: &Arc<Engine>, sequence: u64) -> Result<(), EngineError> {
        self.wait_until(&|| self.log.marks.durable() >= sequence, None, self.locks.bounded_wait())
    }

    /// Waits until the rings have room again, leading if no other committer does: a flush in progress may be enough,
    /// though it ends before the last commit.
    ///
    /// # Errors
    /// As [`Engine::wait_durable`].
    pub(super) fn wait_for_backlog(self: &Arc<Engine>) -> Result<(), EngineError> {
        self.wait_until(&|| !self.log.marks.undurable_backlog_is_full(), None, self.locks.bounded_wait())
    }

    /// Waits until everything up to `sequence` is visible, leading if no other committer does.
    ///
    /// # Errors
    /// As [`Engine::wait_durable`].
    pub(super) fn wait_visible(self: &Arc<Engine>, sequence: u64) -> Result<(), EngineError> {
        self.wait_until(&|| self.is_visible(sequence), None, self.locks.bounded_wait())
    }

    /// Like [`Engine::wait_visible`], for a transaction that has read the commit and cannot return before.
    ///
    /// # Errors
    /// The flush failed.
    pub(crate) fn wait_visible_of_seen(self: &Arc<Engine>, sequence: u64) -> Result<(), EngineError> {
        self.wait_until(&|| self.is_visible(sequence), None, self.locks.unbounded_wait())
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

    /// `answers`: the commit of the caller's that is answered when it is reached.
    pub(super) fn wait_until(
        self: &Arc<Engine>,
        reached: &dyn Fn() -> bool,
        answers: Option<u64>,
        mut wait: Wait,
    ) -> Result<(), EngineError> {
        let wake = self.log.marks.control().durable_wake();
        let me = self.log.marks.member().me();
        let (mut waited, mut stall, mut watcher) = (Duration::ZERO, Stall::new(), Watcher(None));
        let (mut first_failure, mut is_told) = (None, false);
        loop {
            let mut ticket = wake.ticket();
            if reached() {
                if first_failure.is_some() {
                    self.shortage.ends();
                }
                return Ok(());
            }
            self.log.check_poison()?;
            match self.try_to_flush(reached, answers, (waited >= TIMED_WAIT).then_some(&mut stall)) {
                Ok(true) => continue,
                // The owner of the lock continues, or the wait ends.
                Ok(false) | Err(EngineError::LockHeld { .. }) => {}
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
            let leader = self.log.marks.control().leader().holder().filter(|owner| *owner != me);
            self.locks.goes_on(&mut wait, "a flush", leader)?;
            let began = Instant::now();
            let look = watcher.looks_after(&self.flush_watched, self.log.marks.control().sync_nanos());
            wake.wait(ticket, look.min(wait.left()));
            waited = began.elapsed();
        }
    }

    /// Leads, if no other committer does, or, with `stall`, if the leader is dead or makes no progress. False: there is
    /// a leader.
    fn try_to_flush(
        self: &Arc<Engine>,
        reached: &dyn Fn() -> bool,
        answers: Option<u64>,
        stall: Option<&mut Stall>,
    ) -> Result<bool, EngineError> {
        let leader = match (self.lead_if_free()?, stall) {
            (None, Some(stall)) => self.lead_for_other(stall)?,
            (leader, _) => leader,
        };
        let Some(leader) = leader else { return Ok(false) };
        if !reached() {
            let leader = leader.answering(answers);
            self.gather();
            self.flush(&leader, false)?;
        }
        Ok(true)
    }

    /// Holding LEADER only: where a sync is slow, waits for the committers that were just woken, so that they need not
    /// wait for two syncs; for as many as the last flush released or left, within a share of the sync time.
    fn gather(&self) {
        let goal = self.log.marks.control().flush_group();
        let sync = Duration::from_nanos(self.log.marks.control().sync_nanos());
        let at_most = (sync * GATHER_SHARE_PERCENT / 100).min(self.log.settings.flush_delay_max());
        if goal <= 1 || sync < GATHER_SYNC_MIN || self.log.marks.syncs_pending() >= goal {
            return;
        }
        let (control, deadline) = (self.log.marks.control(), Instant::now() + at_most);
        control.set_gather_goal(goal);
        loop {
            let ticket = control.gathered().ticket();
            let left = deadline.saturating_duration_since(Instant::now());
            if self.log.marks.syncs_pending() >= goal || left.is_zero() {
                break;
            }
            control.gathered().wait(ticket, left);
        }
        control.set_gather_goal(0);
    }

    /// A commit that wants durability is published.
    pub(crate) fn notify_gathering_leader(&self) {
        let control = self.log.marks.control();
        let goal = control.gather_goal();
        if goal > 0 && self.log.marks.syncs_pending() >= goal {
            control.gathered().notify();
        }
    }

    /// One epoch: everything that is published is sealed and made durable. `mark`: also if nothing is new, so that
    /// a durable certificate carries the present D and B.
    ///
    /// # Errors
    /// The write or the sync failed: the engine is poisoned.
    pub(crate) fn flush(&self, leader: &Leader, mark: bool) -> Result<(), EngineError> {
        match self.write_epoch(leader, mark)? {
            Some(epoch) => self.sync_and_seal(leader, epoch),
            None => Ok(()),
        }
    }

    /// Most of what the next certificate says of its commits, before APPEND is taken, for which the committers wait.
    fn count_ahead(&self) -> Result<EpochCounts, EngineError> {
        self.log.check_poison()?;
        let mut counts = EpochCounts::after(self.log.marks.durable());
        if self.log.is_active() {
            self.follower.follow(self.log.marks.published())?;
            while !self.frames.read().count(&mut counts, COMMITS_AT_ONCE) {}
        }
        Ok(counts)
    }

    /// Its first half: everything that is published is sealed by a certificate that is written; `None`: there was nothing.
    ///
    /// # Errors
    /// As [`Engine::flush`].
    pub(super) fn write_epoch(&self, leader: &Leader, mark: bool) -> Result<Option<u64>, EngineError> {
        let copy = self.page_one.to_carry();
        let mut counts = self.count_ahead()?;
        let (mut append, place) = loop {
            let append = self.append.lock()?;
            self.log.check_poison()?;
            let hi = self.log.marks.published();
            let leads = leader.leads(&append) || crate::drops("lease-cut");
            if !leads || !self.log.is_active() || (self.log.marks.durable() >= hi && !mark) {
                return Ok(None);
            }
            let blocks = if copy.is_some() { 2 } else { 1 };
            match self.tail.place(&append, blocks * u64::from(self.log.block_bytes), false, hi + 1)? {
                Some(place) => break (append, place),
                None => {
                    drop(append);
                    self.segments.make_room(0)?;
                }
            }
        };
        let hi = self.log.marks.published();
        self.follower.follow(hi)?;
        let (counts, database_pages) = {
            let frames = self.frames.read();
            let durable = self.log.marks.durable();
            if counts.after != durable {
                // Only a leader makes commits durable, and LEADER is checked above. A certificate with counts of other
                // commits would make recovery refuse the log, so it is not left to that.
                counts = EpochCounts::after(durable);
            }
            frames.count(&mut counts, u64::MAX);
            (counts, frames.database_pages(hi))
        };
        let certificate = self.certificate(&counts, &place, hi, append.end()?.chain, database_pages, copy.as_deref());
        let bytes = match &copy {
            Some(_) if crate::drops("b-doubled") => certificate.encode_block(self.log.block_bytes),
            Some(copy) => certificate.encode_doubled(self.log.block_bytes, &copy.bytes, copy.next_block_crc),
            None => certificate.encode_block(self.log.block_bytes),
        };
        let record = self.tail.write_record(&append, &place, &[&bytes]).and_then(|()| {
            crate::fault_point("leading_before_cut");
            let at = (place.segment.id, place.ordinal, place.offset);
            let record = self.append.store_epoch(&append, &certificate, at, copy.is_some());
            self.tail.mark_in_use(&append, &place);
            record
        });
        if let Err(error) = record {
            // Nothing is written then.
            if error.is_open_failure() {
                return Err(error);
            }
            let blocks = if copy.is_some() { 2 } else { 1 };
            let begun = Begun { segment: place.segment.id, offset: place.offset, blocks };
            self.poison.poison(&append, &error.to_string(), Failed::Write(begun));
            return Err(self.log.poisoned_as(error));
        }
        self.tail.advance(&mut append, place, certificate.chain);
        drop(append);
        Ok(Some(certificate.epoch))
    }

    /// The certificate of an epoch whose last batch carries it is written: syncs and seals.
    ///
    /// # Errors
    /// As [`Engine::flush`].
    fn flush_self_sealed(&self, self_sealed: &SelfSealed) -> Result<(), EngineError> {
        self.log.check_poison()?;
        self.sync_and_seal(&self_sealed.leader, self_sealed.certificate.epoch)
    }

    /// Syncs every file that holds part of what was written since the last certificate, up to the record of this epoch,
    /// without APPEND. Does nothing if another process has taken LEADER meanwhile: that one finishes the flush.
    pub(super) fn sync_and_seal(&self, leader: &Leader, epoch: u64) -> Result<(), EngineError> {
        let control = self.log.marks.control();
        let wanted = self.log.marks.syncs_requested();
        let mut written_again = false;
        loop {
            if control.certified() >= epoch {
                return Ok(());
            }
            let began = Instant::now();
            let synced = control.epoch(epoch).ok_or(EngineError::NoLog).and_then(|record| self.sync_to_epoch(&record));
            crate::fault_point("sealing");
            // Under APPEND: a process that poisons now erases these records, or finds them durable, and so does one
            // that takes LEADER.
            let append = match &synced {
                // Nothing was synced then, and nothing failed: the next leader does it.
                Err(error) if error.is_open_failure() => return synced.map(drop),
                Err(_) => self.append.lock_unrepaired(),
                Ok(_) => self.append.lock_to_seal()?,
            };
            if !leader.leads(&append) && !crate::drops("lease-seal") {
                return Ok(());
            }
            self.log.check_poison()?;
            let is_young = match synced {
                Ok(is_young) => is_young,
                Err(error) => {
                    self.poison.poison(&append, &error.to_string(), Failed::Flush);
                    return Err(self.log.poisoned_as(error));
                }
            };
            let in_doubt = control.is_sync_in_doubt() && !crate::drops("sync-in-doubt");
            if !in_doubt && (written_again || !is_young || crate::drops("lease-young-descriptor")) {
                self.note_lease(began.elapsed());
                self.sealed(epoch, wanted);
                return Ok(());
            }
            // A process that got an error of a sync may be dead or stopped, and this sync proves nothing.
            self.undurable.prove(&append)?;
            written_again = true;
        }
    }

    /// True: LEADER was once taken from a live process, and a file was opened here when what is to be verified was
    /// written already. A failed write-back may have been reported to that process, and is then not reported to this
    /// open file.
    fn sync_to_epoch(&self, record: &EpochRecord) -> Result<bool, EngineError> {
        let segments = self.files.segments_between(self.log.first_unsynced_segment(), record.ordinal)?;
        let durable = self.log.marks.durable();
        crate::fault_point("leading_uncertified");
        let began = Instant::now();
        let unsynced = if crate::drops("epoch-all-segments") { segments.len() - 1 } else { 0 };
        if !crate::drops("epoch-sync") {
            sync_all(&segments[unsynced..])?;
        }
        self.measured_sync(began.elapsed());
        // After the sync, which may have opened one again.
        let published = self.log.marks.published();
        let is_young = segments.iter().any(|segment| segment.opened_at(published) > durable);
        Ok(is_young && self.log.marks.control().was_led_away())
    }

    /// The epoch is durable, and with it what its certificate says of D and B.
    pub(crate) fn sealed(&self, epoch: u64, wanted: u64) {
        let group = self.log.marks.syncs_pending();
        self.log.marks.certify(epoch, wanted);
        self.log.marks.control().set_flush_group(group);
        self.counters.flushes.fetch_add(1, SeqCst);
    }

    /// Syncs what was written since the last certificate, to the record at `place`, under APPEND (the conservative path).
    pub(crate) fn sync_to(&self, place: &Place) -> Result<(), EngineError> {
        let before = place.ordinal - u64::from(place.begins_segment());
        let mut segments = self.files.segments_between(self.log.first_unsynced_segment(), before)?;
        if crate::drops("conservative-segments-before") {
            segments.clear();
        }
        if place.begins_segment() || crate::drops("conservative-segments-before") {
            segments.push(place.segment.clone());
        }
        if crate::drops("conservative-sync") {
            return Ok(());
        }
        sync_all(&segments)
    }

    /// Whether a sync costs almost nothing here (a file system in memory): then each writer flushes for itself, and
    /// keeps writing like one that does not wait.
    pub(crate) fn sync_is_free(&self) -> bool {
        let nanos = self.log.marks.control().sync_nanos();
        nanos > 0 && Duration::from_nanos(nanos) < SYNC_FREE
    }

    /// A moving average, so that a leader knows what a sync costs here.
    fn measured_sync(&self, took: Duration) {
        let took = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let before = self.log.marks.control().sync_nanos();
        let average = if before == 0 { took } else { before - before / 8 + took / 8 };
        self.log.marks.control().set_sync_nanos(average);
    }
}
