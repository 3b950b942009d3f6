//! Epochs: the first committer who finds no flush under way leads. It cuts what is published, writes the
//! certificate, syncs once for all, and wakes the others.

use super::commit::{Append, Lone, Unsealed};
use super::slots::{Place, Slots};
use super::{Engine, EngineError};
use crate::log::format::Certificate;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

/// Below this sync time waiting for more commits costs more than it gains (`docs/measurements.md`).
const GATHER_SYNC_MIN: Duration = Duration::from_micros(80);
/// The share of the measured sync time that a leader waits for those who were just woken, in per cent.
const GATHER_SHARE_PERCENT: u32 = 40;

/// LEADER: whoever holds this leads; dropped, it wakes those who wait for a flush.
pub(crate) struct Leader {
    engine: Arc<Engine>,
}

impl Drop for Leader {
    fn drop(&mut self) {
        *self.engine.leading.lock() = false;
        self.engine.flushed.notify_all();
    }
}

impl Engine {
    /// LEADER, if nobody has it.
    pub(crate) fn try_lead(self: &Arc<Engine>) -> Option<Leader> {
        let mut leading = self.leading.lock();
        if *leading {
            return None;
        }
        *leading = true;
        Some(Leader { engine: Arc::clone(self) })
    }

    /// LEADER, waited for.
    pub(crate) fn lead_waiting(self: &Arc<Engine>) -> Leader {
        let mut leading = self.leading.lock();
        while *leading {
            self.flushed.wait(&mut leading);
        }
        *leading = true;
        Leader { engine: Arc::clone(self) }
    }

    /// LEADER, with everything that is published made durable.
    pub(crate) fn lead_before_all(self: &Arc<Engine>) -> Result<Leader, EngineError> {
        let leader = self.lead_waiting();
        self.check_poison()?;
        self.flush(&leader, false)?;
        Ok(leader)
    }

    /// Waits until everything up to `sequence` is durable, leading if nobody does.
    ///
    /// # Errors
    /// The flush failed: the commit was rolled back, or its outcome is unknown (R5).
    pub(crate) fn wait_durable(self: &Arc<Engine>, sequence: u64) -> Result<(), EngineError> {
        self.wait_until(&|| self.marks.durable() >= sequence)
    }

    /// Waits until everything up to `sequence` is visible, leading if nobody does.
    ///
    /// # Errors
    /// As [`Engine::wait_durable`].
    pub(crate) fn wait_visible(self: &Arc<Engine>, sequence: u64) -> Result<(), EngineError> {
        self.wait_until(&|| self.marks.visible() >= sequence)
    }

    fn wait_until(self: &Arc<Engine>, reached: &dyn Fn() -> bool) -> Result<(), EngineError> {
        loop {
            if reached() {
                return Ok(());
            }
            self.check_poison()?;
            if let Some(leader) = self.try_lead() {
                if !reached() {
                    self.gather();
                    self.flush(&leader, false)?;
                }
                continue;
            }
            let mut leading = self.leading.lock();
            if *leading && !reached() && !self.is_poisoned() {
                self.flushed.wait(&mut leading);
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
        let deadline = Instant::now() + at_most;
        let mut gathering = self.gathering.lock();
        self.marks.words().set_gather_goal(goal);
        while self.marks.wanting() < goal && !self.gathered.wait_until(&mut gathering, deadline).timed_out() {}
        self.marks.words().set_gather_goal(0);
    }

    /// A commit that wants durability is published.
    pub(crate) fn tell_gathering_leader(&self) {
        let goal = self.marks.words().gather_goal();
        if goal > 0 && self.marks.wanting() >= goal {
            let _gathering = self.gathering.lock();
            self.gathered.notify_one();
        }
    }

    /// One epoch: everything that is published is sealed and made durable. `mark`: also if nothing is new, so that
    /// a durable certificate carries the present D and B.
    ///
    /// # Errors
    /// The write or the sync failed: the engine is poisoned.
    pub(crate) fn flush(&self, _leader: &Leader, mark: bool) -> Result<(), EngineError> {
        let mut append = self.append.lock();
        self.check_poison()?;
        let hi = self.marks.published();
        if append.slots.is_none() || (self.marks.durable() >= hi && !mark) {
            return Ok(());
        }
        let database_pages = self.frames.read().database_pages(hi);
        let epoch = self.marks.epoch() + 1;
        let (chain, block_bytes) = (append.chain, self.block_bytes);
        let certificate = self.certificate(&append.counts, epoch, hi, chain, database_pages);
        let bytes = certificate.encode_block(block_bytes);
        let cut = self
            .write_certificate(&mut append, &bytes, hi)
            .and_then(|place| self.cut(&mut append, &certificate, &place));
        if let Err(error) = cut {
            self.poison(&mut append, &error.to_string());
            return Err(self.poisoned_as(error));
        }
        self.sync_and_seal(append, &certificate)
    }

    fn write_certificate(&self, append: &mut Append, bytes: &[u8], hi: u64) -> Result<Place, EngineError> {
        let chain = append.chain;
        let slots = append.slots.as_mut().ok_or(EngineError::NoLog)?;
        let length = bytes.len() as u64;
        let place = slots.place(length, false, hi + 1, chain).ok_or(EngineError::NoLog)?;
        append.unsealed.push(Unsealed { sequence: hi, slot: place.index, offset: place.offset });
        if let Some(below) = slots.recycles(&place) {
            self.marks.recycle_to(below);
        }
        slots.write(&place, &[bytes])?;
        slots.enter(&place, hi);
        Ok(place)
    }

    /// The certificate of an epoch whose last batch carries it is written: sync and seal.
    ///
    /// # Errors
    /// As [`Engine::flush`].
    pub(crate) fn flush_lone(&self, lone: Lone) -> Result<(), EngineError> {
        let append = self.append.lock();
        self.check_poison()?;
        self.sync_and_seal(append, &lone.certificate)
    }

    /// Syncs every file that holds part of what was written, without APPEND.
    fn sync_and_seal(
        &self,
        mut append: parking_lot::MutexGuard<'_, Append>,
        certificate: &Certificate,
    ) -> Result<(), EngineError> {
        let dirty = append.slots.as_mut().map(Slots::take_dirty).unwrap_or_default();
        let wanted = self.marks.wanted();
        drop(append);
        crate::fault_point("leading_uncertified");
        let began = Instant::now();
        for (name, file) in &dirty {
            if let Err(error) = file.sync() {
                let error = EngineError::sync(name, error);
                self.poison(&mut self.append.lock(), &error.to_string());
                return Err(self.poisoned_as(error));
            }
        }
        self.measured_sync(began.elapsed());
        // Under APPEND: whoever poisons now erases these records, or finds them durable.
        let mut append = self.append.lock();
        self.check_poison()?;
        append.unsealed.retain(|record| record.sequence > certificate.hi);
        self.sealed(certificate, wanted);
        Ok(())
    }

    /// The epoch of this certificate is durable, and with it what it says of D and B.
    pub(crate) fn sealed(&self, certificate: &Certificate, wanted: u64) {
        let group = self.marks.wanting();
        self.marks.certify(certificate.epoch, wanted);
        self.marks.words().set_flush_group(group);
        self.counters.flushes.fetch_add(1, SeqCst);
    }

    /// Syncs what is dirty, under APPEND (the conservative path).
    pub(crate) fn sync_dirty(&self, append: &mut Append) -> Result<(), EngineError> {
        let dirty = append.slots.as_mut().map(Slots::take_dirty).unwrap_or_default();
        for (name, file) in &dirty {
            file.sync().map_err(|error| EngineError::sync(name, error))?;
        }
        Ok(())
    }

    /// A moving average, so that a leader knows what a sync costs here.
    fn measured_sync(&self, took: Duration) {
        let took = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let before = self.marks.words().sync_nanos();
        let average = if before == 0 { took } else { before - before / 8 + took / 8 };
        self.marks.words().set_sync_nanos(average);
    }
}
