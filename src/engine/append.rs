//! APPEND: one writer at a time at the tail of the log, of all threads of all processes.
//!
//! Its owner may die or fail anywhere. The next one ends a poisoning that its process did not survive, and erases a doubled
//! certificate that does not count, before the log is written to again. A record that was written and does not count is erased, by its writer or, after a panic, by
//! the connection that ends; where that fails the log is poisoned, since recovery would take the record for valid.

use super::context::LogContext;
use super::error::EngineError;
use super::owner_lock::OwnerLocks;
use super::poison::{Failed, Poison};
use super::segment_files::SegmentFiles;
use super::tail::{AppendGuard, Begun, LogTail, Place};
use crate::log::follow::proven;
use crate::log::format::Certificate;
use crate::shared::{ControlBlock, EpochRecord};
use std::sync::Arc;

/// Takes APPEND, and takes back what was written under it.
pub(crate) struct Append {
    log: Arc<LogContext>,
    locks: Arc<OwnerLocks>,
    files: Arc<SegmentFiles>,
    tail: Arc<LogTail>,
    pub(super) poison: Arc<Poison>,
}

impl Append {
    pub(super) fn new(
        log: &Arc<LogContext>,
        locks: &Arc<OwnerLocks>,
        files: &Arc<SegmentFiles>,
        tail: &Arc<LogTail>,
        poison: &Arc<Poison>,
    ) -> Append {
        let (log, locks, files) = (Arc::clone(log), Arc::clone(locks), Arc::clone(files));
        Append { log, locks, files, tail: Arc::clone(tail), poison: Arc::clone(poison) }
    }

    /// Takes APPEND, and erases what a failed flush left whose process died meanwhile, and a doubled certificate that was
    /// abandoned.
    ///
    /// # Errors
    /// The log cannot be read or written. `LockHeld`: the owner of APPEND keeps it for too long.
    pub(crate) fn lock(&self) -> Result<AppendGuard, EngineError> {
        let mut append = self.lock_to_seal()?;
        append.end = self.tail.with_end(|end| end.cloned());
        if append.end.is_none() && self.log.is_active() {
            append.end = Some(self.tail.find()?);
        }
        let is_abandoned = append.end.is_some() && self.log.marks.control().is_doubled_begun();
        if is_abandoned && !self.log.is_poisoned() && !crate::drops("doubled-abandoned") {
            self.tail.erase_abandoned_doubled(&append)?;
        }
        Ok(append)
    }

    /// Takes APPEND for a caller that writes nothing at the tail.
    ///
    /// # Errors
    /// `LockHeld`: the owner of APPEND keeps it for too long.
    pub(super) fn lock_to_seal(&self) -> Result<AppendGuard, EngineError> {
        let append = AppendGuard::new(self.locks.hold(ControlBlock::append, "APPEND")?);
        if self.log.marks.control().is_being_poisoned() && !crate::drops("append-poison-ended") {
            self.poison.erase_after_death(&append);
        }
        Ok(append)
    }

    /// APPEND, whatever its last owner left, and however long that takes: to end what failed.
    pub(super) fn lock_unrepaired(&self) -> AppendGuard {
        AppendGuard::new(self.locks.hold_unbounded(ControlBlock::append, "APPEND"))
    }

    /// The certificate at this address is written, in two blocks or in one: stores the record of its epoch.
    pub(super) fn store_epoch(
        &self,
        _append: &AppendGuard,
        certificate: &Certificate,
        (file, ordinal, offset): (u32, u64, u64),
        is_doubled: bool,
    ) -> Result<(), EngineError> {
        let before = self.log.marks.control().last_epoch();
        let record = EpochRecord {
            epoch: certificate.epoch,
            lo: certificate.lo,
            hi: certificate.hi,
            ordinal,
            segment: file,
            offset,
            is_doubled,
            doubled_ordinal: if is_doubled { ordinal } else { before.map_or(0, |record| record.doubled_ordinal) },
            backfilled: certificate.backfilled,
            chain: certificate.chain,
        };
        Ok(self.log.marks.store_epoch(&record)?)
    }

    /// R5.0: the bytes of a batch that is not published may be whole on the disk, and would be replayed.
    pub(super) fn erase_unpublished(&self, append: &AppendGuard, place: &Place) -> bool {
        if crate::drops("r5-erase-unpublished") {
            return true;
        }
        match self.tail.erase(append, place) {
            Ok(()) => true,
            Err(_) if crate::drops("r5-poison-unerased") => false,
            Err(error) => {
                // Once more with all that is not durable, through another descriptor.
                self.poison.poison(
                    append,
                    &format!("a batch that was not published could not be erased: {error}"),
                    Failed::Write(Begun::at(place)),
                );
                false
            }
        }
    }

    /// A call panicked whose commit, `sequence`, returned an error: it is taken back. If it is published, with all
    /// after it; else it lies after the tail at most, maybe whole.
    pub(crate) fn take_back_after_panic(&self, sequence: Option<u64>) {
        if sequence.is_some_and(|sequence| self.take_back_published(sequence)) {
            return;
        }
        let append = self.lock_unrepaired();
        if self.log.is_active()
            && let Err(error) = self.erase_after_tail(&append)
        {
            self.poison.poison(&append, &format!("a panic, and what it left after the tail: {error}"), Failed::Flush);
        }
    }

    /// Takes commit `sequence` back, with all after it, if it is published and not durable. False: it is not.
    pub(super) fn take_back_published(&self, sequence: u64) -> bool {
        let append = self.lock_unrepaired();
        let takes_back = sequence <= self.log.marks.published() && sequence > self.log.marks.durable();
        if takes_back {
            self.poison.poison(&append, "a panic", Failed::Commit(sequence));
        }
        takes_back
    }

    /// Called before a marker says where the log ends: a whole batch after that, of a writer that died before it
    /// published, would contradict it.
    pub(super) fn end_log(&self) -> Result<(), EngineError> {
        let append = self.lock()?;
        self.log.check_poison()?;
        let (tail, next) = (self.log.tail(), self.log.marks.control().published() + 1);
        let begun = match self.log.marks.control().next_segment().filter(|number| *number != tail.segment) {
            Some(number) => {
                self.files.header_of(&self.files.segment(number)?)?.is_some_and(|header| header.ordinal > tail.ordinal)
            }
            None => false,
        };
        let is_written = match self.files.reader_of(&self.files.segment(tail.segment)?)? {
            Some(reader) => proven(reader.head_at(tail.offset))?.is_some_and(|batch| batch.header.sequence == next),
            None => false,
        };
        if begun || is_written { self.erase_after_tail(&append) } else { Ok(()) }
    }

    fn erase_after_tail(&self, append: &AppendGuard) -> Result<(), EngineError> {
        let tail = self.log.tail();
        let segment = self.files.segment(tail.segment)?;
        if tail.offset < segment.bytes {
            self.tail.write_zeros_to_block(&segment, tail.offset)?;
            self.tail.sync_beside(append, &segment)?;
        }
        self.tail.invalidate_started_segments(append)
    }

    /// Poisons the log for a failure outside of it: only commits that wait for a flush are answered with an error.
    pub(super) fn poison_log(&self, reason: &str) {
        self.poison.poison(&self.lock_unrepaired(), reason, Failed::Flush);
    }
}
