//! Epochs: the first committer who finds no flush under way leads. It cuts what is published, writes the
//! certificate, syncs once for all, and wakes the first of the others, who wakes the next.

use super::commit::{Begun, HeldAppend, Lone};
use super::hold::Held;
use super::poison::Failed;
use super::slots::Place;
use super::{Engine, EngineError};
use crate::interleave::Instant;
use crate::log::format::{Certificate, CertificatePlace};
use crate::shared::{Cut, TIMED_WAIT, Words};
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

/// Below this sync time waiting for more commits costs more than it gains (`docs/measurements.md`).
const GATHER_SYNC_MIN: Duration = Duration::from_micros(80);
/// The share of the measured sync time that a leader waits for those who were just woken, in per cent.
const GATHER_SHARE_PERCENT: u32 = 40;

/// A sync that costs less is no wait for the disk: to hand WRITE to another thread or process costs as much.
const SYNC_FREE: Duration = Duration::from_micros(10);

/// How often a flush that could not be begun is tried, with a [`TIMED_WAIT`] in between.
const FLUSH_TRIES: u32 = 40;

/// LEADER: whoever holds this leads; dropped, it wakes the first of those who wait for a flush. No cut is left
/// uncertified when it is taken.
pub(crate) struct Leader {
    engine: Arc<Engine>,
    held: Option<Held>,
    /// The commit for which it flushes, which is not answered yet.
    answers: Option<u64>,
}

impl Leader {
    /// It flushes for this commit, and answers it.
    pub(super) fn answering(mut self, sequence: Option<u64>) -> Leader {
        self.answers = sequence;
        self
    }
}

impl Drop for Leader {
    fn drop(&mut self) {
        if let Some(sequence) = self.answers
            && std::thread::panicking()
        {
            // While LEADER is held: nobody makes durable what is answered with an error.
            let taken_back = catch_unwind(AssertUnwindSafe(|| self.engine.take_back_published(sequence)));
            // Dropping a foreign payload may panic again.
            std::mem::forget(taken_back);
        }
        self.held = None;
        self.engine.marks.words().durable_wake().notify();
    }
}

impl Engine {
    fn leader(self: &Arc<Engine>, held: Held) -> Leader {
        Leader { engine: Arc::clone(self), held: Some(held), answers: None }
    }

    /// LEADER, if nobody has it, and what its last owner left could be made durable.
    pub(crate) fn try_lead(self: &Arc<Engine>) -> Option<Leader> {
        self.lead_if_free().ok().flatten()
    }

    fn lead_if_free(self: &Arc<Engine>) -> Result<Option<Leader>, EngineError> {
        let Some(held) = self.try_hold(Words::leader) else { return Ok(None) };
        let leader = self.leader(held);
        // Who had it before may have failed, or been killed and its slot been taken over since.
        self.certify_left(&leader)?;
        Ok(Some(leader))
    }

    /// LEADER, from its owner if that one is dead.
    fn lead_for_the_dead(self: &Arc<Engine>) -> Result<Option<Leader>, EngineError> {
        let Some(held) = self.try_take_over(Words::leader) else { return Ok(None) };
        let leader = self.leader(held);
        self.finish_flush_of_the_dead(&leader)?;
        Ok(Some(leader))
    }

    /// LEADER, waited for.
    ///
    /// # Errors
    /// What a leader left that died could not be made durable.
    pub(crate) fn lead_waiting(self: &Arc<Engine>) -> Result<Leader, EngineError> {
        let (held, taken_from) = self.hold(Words::leader, "LEADER");
        let leader = self.leader(held);
        if taken_from.is_some() {
            self.finish_flush_of_the_dead(&leader)?
        } else {
            self.certify_left(&leader)?
        }
        Ok(leader)
    }

    /// A cut that nobody certified, and LEADER free: its leader was killed, and whoever took LEADER from it too.
    fn certify_left(self: &Arc<Engine>, leader: &Leader) -> Result<(), EngineError> {
        let words = self.marks.words();
        if words.cuts() > words.certified() && !self.is_poisoned() {
            self.finish_flush_of_the_dead(leader)?;
        }
        Ok(())
    }

    /// The leader died in its flush, and its sync may have failed: Linux tells an error of write-back once, and it may
    /// have been told to the dead. So a sync of this process alone proves nothing: what is not known to be durable is
    /// proven by its CRCs, written again (the same bytes), and synced.
    fn finish_flush_of_the_dead(&self, _leader: &Leader) -> Result<(), EngineError> {
        let append = self.append()?;
        self.prove_undurable(&append)?;
        drop(append);
        let (cuts, certified) = (self.marks.words().cuts(), self.marks.words().certified());
        // Nothing was cut: the next leader syncs it.
        if cuts > certified { self.sync_and_seal(cuts) } else { Ok(()) }
    }

    /// Under LEADER: what is not known to be durable is proven and written again, or the engine is poisoned.
    fn prove_undurable(&self, append: &HeldAppend) -> Result<(), EngineError> {
        self.check_poison()?;
        if let Err(error) = self.write_undurable_again() {
            if error.is_of_opening() {
                return Err(error);
            }
            self.poison(
                append,
                &format!("what a process left that died in a flush cannot be read: {error}"),
                Failed::Flush,
            );
            return Err(self.poisoned_as(error));
        }
        crate::interleave::step("written again");
        self.marks.words().set_sync_in_doubt(false);
        Ok(())
    }

    fn write_undurable_again(&self) -> Result<(), EngineError> {
        let (words, block) = (self.marks.words(), u64::from(self.block_bytes));
        // Where the segments end that have a part in it, and in which files they lie.
        let mut ends: BTreeMap<u64, (u32, u64)> = BTreeMap::new();
        let mut reaches = |ordinal: u64, file: u32, end: u64| {
            let before = ends.entry(ordinal).or_insert((file, end));
            before.1 = before.1.max(end);
        };
        if let Some(cut) = words.certified_cut() {
            // Where it lies in the batch, that one's end counts. A segment before it may have been written over.
            let in_batch =
                words.commit(cut.hi).filter(|entry| (entry.ordinal, entry.offset) == (cut.ordinal, cut.offset));
            reaches(cut.ordinal, cut.file, in_batch.map_or(cut.end(block), |entry| entry.end));
        }
        for sequence in self.marks.durable() + 1..=words.published() {
            let entry = words.commit(sequence).ok_or_else(|| self.no_commit(sequence))?;
            reaches(entry.ordinal, entry.file, entry.end);
            self.prove_and_write_again(&entry)?;
        }
        for epoch in words.certified() + 1..=words.cuts() {
            let cut = words.cut(epoch).ok_or(EngineError::NoLog)?;
            reaches(cut.ordinal, cut.file, cut.end(block));
            let in_batch = words
                .commit(cut.hi)
                .is_some_and(|entry| entry.has_certificate && (entry.file, entry.offset) == (cut.file, cut.offset));
            if !in_batch {
                self.prove_certificate_and_write_again(&cut)?;
            }
        }
        // The headers of the segments that began since, and the zeros behind each segment that was left. The header of the
        // certified segment is durable, with every commit that depends on it: it is not written again.
        let durable = words.certified_cut().map_or(0, |cut| cut.ordinal);
        let last = ends.keys().next_back().copied();
        for (ordinal, (number, end)) in ends {
            let slot = self.slot(number)?;
            let reader = self.reader_of(&slot)?.filter(|reader| reader.header.ordinal == ordinal);
            let header = reader.ok_or_else(|| self.no_segment(ordinal))?.header;
            // The first segment's was durable before the log was active.
            if ordinal > durable.max(1) {
                slot.write(&header.encode(), 0)?;
            }
            if Some(ordinal) != last && end < slot.bytes {
                slot.write(&self.zero_block(), end)?;
            }
        }
        Ok(())
    }

    /// Reads the certificate of this cut, which lies in blocks of its own, proves it, and writes the same bytes again.
    fn prove_certificate_and_write_again(&self, cut: &Cut) -> Result<(), EngineError> {
        let (slot, block) = (self.slot(cut.file)?, u64::from(self.block_bytes));
        let mut bytes = vec![0; usize::try_from(cut.end(block) - cut.offset).unwrap_or(0)];
        let read = slot.file.read_at(&mut bytes, cut.offset).map_err(|e| EngineError::read(&self.path, e))?;
        let mut is_whole = read == bytes.len();
        for (at, half) in (cut.offset..).step_by(self.block_bytes as usize).zip(bytes.chunks(self.block_bytes as usize))
        {
            let place = CertificatePlace { log_id: self.log_id, ordinal: Some(cut.ordinal), offset: at };
            let certificate = Certificate::decode(half, &place)?;
            is_whole &= (certificate.epoch, certificate.chain) == (cut.epoch, cut.chain)
                && certificate.copy.is_some() == cut.is_doubled
                && certificate.copy.is_none_or(|copy| copy.read(&bytes).is_some());
        }
        if !is_whole {
            return Err(EngineError::NoLog);
        }
        slot.write(&bytes, cut.offset)
    }

    /// LEADER, with everything that is published made durable.
    pub(crate) fn lead_before_all(self: &Arc<Engine>) -> Result<Leader, EngineError> {
        let leader = self.lead_waiting()?;
        self.check_poison()?;
        self.flush(&leader, false)?;
        Ok(leader)
    }

    /// R2, for a published commit; `lone`: it carries its certificate, and this flushes it.
    ///
    /// # Errors
    /// It is not acknowledged, and whatever the reason is, it shall not come back: the engine is poisoned (R5).
    pub(crate) fn acknowledge(
        self: &Arc<Engine>,
        sequence: u64,
        wants_durable: bool,
        lone: Option<Lone>,
    ) -> Result<(), EngineError> {
        // Its failure is the log's, or the next leader does it.
        let _flushed = lone.map(|lone| self.flush_lone(&lone));
        let reached = || if wants_durable { self.marks.durable() >= sequence } else { self.is_visible(sequence) };
        self.wait_until(&reached, Some(sequence)).or_else(|error| {
            let append = self.append_as_it_is();
            // By another process meanwhile.
            if reached() {
                return Ok(());
            }
            self.poison(&append, &format!("a commit could not be acknowledged: {error}"), Failed::Commit(sequence));
            Err(self.poisoned_as(error))
        })
    }

    /// Waits until everything up to `sequence` is durable, leading if nobody does.
    ///
    /// # Errors
    /// The flush failed: the commit was rolled back, or its outcome is unknown (R5).
    pub(crate) fn wait_durable(self: &Arc<Engine>, sequence: u64) -> Result<(), EngineError> {
        self.wait_until(&|| self.marks.durable() >= sequence, None)
    }

    /// Waits until everything up to `sequence` is visible, leading if nobody does.
    ///
    /// # Errors
    /// As [`Engine::wait_durable`].
    pub(crate) fn wait_visible(self: &Arc<Engine>, sequence: u64) -> Result<(), EngineError> {
        self.wait_until(&|| self.is_visible(sequence), None)
    }

    fn is_visible(&self, sequence: u64) -> bool {
        let words = self.marks.words();
        // Moved here, too: the leader that made it durable may have died before it did.
        self.marks.visible() >= sequence
            || words.advance_visible() >= sequence
            // It was before a flush failed, and stays in the log.
            || words.kept_by_poison().is_some_and(|kept| kept >= sequence)
    }

    /// `answers`: the commit of the caller's that is answered when it is reached.
    fn wait_until(self: &Arc<Engine>, reached: &dyn Fn() -> bool, answers: Option<u64>) -> Result<(), EngineError> {
        let wake = self.marks.words().durable_wake();
        let me = self.marks.attachment().me();
        let (mut waited, mut since) = (Duration::ZERO, None);
        let mut tries = FLUSH_TRIES;
        loop {
            let mut ticket = wake.ticket();
            if reached() {
                return Ok(());
            }
            self.check_poison()?;
            let leader = match self.lead_if_free() {
                Ok(None) if waited >= TIMED_WAIT => self.lead_for_the_dead(),
                leader => leader,
            };
            let flushed = match leader {
                Ok(None) => None,
                Ok(Some(leader)) if !reached() => {
                    let leader = leader.answering(answers);
                    self.gather();
                    Some(self.flush(&leader, false))
                }
                led => Some(led.map(drop)),
            };
            match flushed {
                None => {}
                Some(Ok(())) => continue,
                // It could not be begun (too many open files, say), and nothing has failed: another process may lead, or
                // this one a moment later.
                Some(Err(error)) if tries == 0 || self.is_poisoned() => return Err(error),
                Some(Err(_)) => {
                    tries -= 1;
                    // Not woken by this thread's own letting go.
                    ticket = wake.ticket();
                }
            }
            let began = Instant::now();
            wake.wait(ticket, TIMED_WAIT);
            waited = began.elapsed();
            if let Some(owner) = self.marks.words().leader().holder().filter(|owner| *owner != me) {
                self.tell_owner(&mut since, owner, "a flush");
            }
        }
    }

    /// Holding LEADER only: where a sync is slow, waits for those who were just woken, so that they need not wait for
    /// two syncs; as many as the last flush released or left, within a share of the sync time.
    fn gather(&self) {
        let goal = self.marks.words().flush_group();
        let sync = Duration::from_nanos(self.marks.words().sync_nanos());
        let at_most = (sync * GATHER_SHARE_PERCENT / 100).min(self.settings.flush_delay_max());
        if goal <= 1 || sync < GATHER_SYNC_MIN || self.marks.wanting() >= goal {
            return;
        }
        let (words, deadline) = (self.marks.words(), Instant::now() + at_most);
        words.set_gather_goal(goal);
        loop {
            let ticket = words.gathered().ticket();
            let left = deadline.saturating_duration_since(Instant::now());
            if self.marks.wanting() >= goal || left.is_zero() {
                break;
            }
            words.gathered().wait(ticket, left);
        }
        words.set_gather_goal(0);
    }

    /// A commit that wants durability is published.
    pub(crate) fn tell_gathering_leader(&self) {
        let words = self.marks.words();
        let goal = words.gather_goal();
        if goal > 0 && self.marks.wanting() >= goal {
            words.gathered().notify();
        }
    }

    /// One epoch: everything that is published is sealed and made durable. `mark`: also if nothing is new, so that
    /// a durable certificate carries the present D and B.
    ///
    /// # Errors
    /// The write or the sync failed: the engine is poisoned.
    pub(crate) fn flush(&self, leader: &Leader, mark: bool) -> Result<(), EngineError> {
        match self.cut_epoch(leader, mark)? {
            Some(epoch) => self.sync_and_seal(epoch),
            None => Ok(()),
        }
    }

    /// Its first half: everything that is published is sealed by a certificate that is written; `None`: there was nothing.
    pub(super) fn cut_epoch(&self, _leader: &Leader, mark: bool) -> Result<Option<u64>, EngineError> {
        let copy = self.copy_to_carry();
        let (mut append, place) = loop {
            let append = self.append()?;
            self.check_poison()?;
            let hi = self.marks.published();
            if !self.is_active() || (self.marks.durable() >= hi && !mark) {
                return Ok(None);
            }
            let blocks = if copy.is_some() { 2 } else { 1 };
            match self.place(&append, blocks * u64::from(self.block_bytes), false, hi + 1)? {
                Some(place) => break (append, place),
                None => {
                    drop(append);
                    self.make_room(0)?;
                }
            }
        };
        let hi = self.marks.published();
        self.follow(hi)?;
        let (counts, database_pages) = {
            let frames = self.frames.read();
            (frames.counts_since(self.marks.durable()), frames.database_pages(hi))
        };
        let certificate = self.certificate(&counts, &place, hi, append.end()?.chain, database_pages, copy.as_deref());
        let bytes = match &copy {
            Some(copy) => certificate.encode_doubled(self.block_bytes, &copy.bytes),
            None => certificate.encode_block(self.block_bytes),
        };
        let cut = self.write_at_place(&append, &place, &[&bytes]).and_then(|()| {
            crate::fault_point("leading_before_cut");
            let at = (place.slot.number, place.ordinal, place.offset);
            let cut = self.cut(&append, &certificate, at, copy.is_some());
            self.enter(&append, &place);
            cut
        });
        if let Err(error) = cut {
            let blocks = if copy.is_some() { 2 } else { 1 };
            let begun = Begun { slot: place.slot.number, offset: place.offset, blocks };
            self.poison(&append, &error.to_string(), Failed::Write(begun));
            return Err(self.poisoned_as(error));
        }
        self.ends_behind(&mut append, place, certificate.chain);
        drop(append);
        Ok(Some(certificate.epoch))
    }

    /// The certificate of an epoch whose last batch carries it is written: sync and seal.
    ///
    /// # Errors
    /// As [`Engine::flush`].
    fn flush_lone(&self, lone: &Lone) -> Result<(), EngineError> {
        self.check_poison()?;
        self.sync_and_seal(lone.certificate.epoch)
    }

    /// Where the certificate lies that is durable last: what is behind it may not be.
    pub(super) fn first_unsynced_segment(&self) -> u64 {
        self.marks.words().certified_cut().map_or(1, |cut| cut.ordinal)
    }

    /// Opens the slots that a flush would have to sync now: a process without descriptors shall not publish what it cannot make
    /// durable.
    ///
    /// # Errors
    /// One cannot be opened.
    pub(super) fn open_unsynced(&self) -> Result<(), EngineError> {
        let last = self.with_end(|end| end.map(|end| end.tail.ordinal)).unwrap_or_else(|| self.tail().ordinal);
        // What is open stays open.
        if self.opened_to.load(SeqCst) == last {
            return Ok(());
        }
        match self.slots_between(self.first_unsynced_segment(), last) {
            Ok(_) => {
                self.opened_to.store(last, SeqCst);
                Ok(())
            }
            Err(error) if error.is_of_opening() => Err(error),
            // Without APPEND it may have become another segment meanwhile.
            Err(_) => Ok(()),
        }
    }

    /// Syncs every file that holds part of what was written since the last certificate, to the cut of this epoch, without
    /// APPEND.
    fn sync_and_seal(&self, epoch: u64) -> Result<(), EngineError> {
        let cut = self.marks.words().cut(epoch).ok_or(EngineError::NoLog)?;
        let wanted = self.marks.wanted();
        loop {
            self.sync_to_cut(&cut)?;
            crate::fault_point("sealing");
            // Under APPEND: whoever poisons now erases these records, or finds them durable.
            let append = self.append()?;
            self.check_poison()?;
            if !self.marks.words().is_sync_in_doubt() {
                self.sealed(cut.epoch, wanted);
                return Ok(());
            }
            // Who was told of a failure may be dead, and this sync proves nothing.
            self.prove_undurable(&append)?;
        }
    }

    fn sync_to_cut(&self, cut: &Cut) -> Result<(), EngineError> {
        let slots = self.slots_between(self.first_unsynced_segment(), cut.ordinal);
        crate::fault_point("leading_uncertified");
        let began = Instant::now();
        let synced = slots.and_then(|slots| slots.iter().try_for_each(|slot| slot.sync()));
        if let Err(error) = synced {
            // Nothing was synced then, and nothing failed: the next leader does it.
            if error.is_of_opening() {
                return Err(error);
            }
            self.poison(&self.append_as_it_is(), &error.to_string(), Failed::Flush);
            return Err(self.poisoned_as(error));
        }
        self.measured_sync(began.elapsed());
        Ok(())
    }

    /// The epoch is durable, and with it what its certificate says of D and B.
    pub(crate) fn sealed(&self, epoch: u64, wanted: u64) {
        let group = self.marks.wanting();
        self.marks.certify(epoch, wanted);
        self.marks.words().set_flush_group(group);
        self.counters.flushes.fetch_add(1, SeqCst);
    }

    /// Syncs what was written since the last certificate, to the record at `place`, under APPEND (the conservative path).
    pub(crate) fn sync_to(&self, place: &Place) -> Result<(), EngineError> {
        let before = place.ordinal - u64::from(place.begins_slot());
        let mut slots = self.slots_between(self.first_unsynced_segment(), before)?;
        if place.begins_slot() {
            slots.push(place.slot.clone());
        }
        slots.iter().try_for_each(|slot| slot.sync())
    }

    /// Whether a sync costs next to nothing here (a file system in memory): then each writer flushes for itself, and goes on
    /// writing as one that does not wait.
    pub(crate) fn sync_is_free(&self) -> bool {
        let nanos = self.marks.words().sync_nanos();
        nanos > 0 && Duration::from_nanos(nanos) < SYNC_FREE
    }

    /// A moving average, so that a leader knows what a sync costs here.
    fn measured_sync(&self, took: Duration) {
        let took = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let before = self.marks.words().sync_nanos();
        let average = if before == 0 { took } else { before - before / 8 + took / 8 };
        self.marks.words().set_sync_nanos(average);
    }
}
