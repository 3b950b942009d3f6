//! R5, fail stop: the first failed write or sync of an epoch ends this engine.
//!
//! Every waiter gets an answer, nothing is tried again on the same pages, no process continues above the durable
//! prefix, no checkpoint, no clean close. A commit that is reported as failed is invalidated on disk, with all after
//! it. What was acknowledged before that without being durable (`synchronous=NORMAL`) is not: it is in the log as far
//! as the medium kept it, for the next open.

use super::context::LogContext;
use super::error::EngineError;
use super::queue::WriteQueue;
use super::segment_file::Segment;
use super::segment_files::SegmentFiles;
use super::shortage::Shortage;
use super::tail::{AppendGuard, Begun};
use crate::disk::{OpenMode, is_out_of_descriptors};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What failed.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Failed {
    /// A flush, a checkpoint or a retirement: only commits that wait for it are answered with an error.
    Flush,
    /// The write of a record that does not count.
    Write(Begun),
    /// This commit is answered with an error, though it may be visible.
    Commit(u64),
}

/// Poisons the log: ends it for all processes, and erases what returned an error.
pub(super) struct Poison {
    log: Arc<LogContext>,
    files: Arc<SegmentFiles>,
    shortage: Arc<Shortage>,
    queue: Arc<WriteQueue>,
}

impl Poison {
    pub(super) fn new(
        log: &Arc<LogContext>,
        files: &Arc<SegmentFiles>,
        shortage: &Arc<Shortage>,
        queue: &Arc<WriteQueue>,
    ) -> Poison {
        let (log, files) = (Arc::clone(log), Arc::clone(files));
        Poison { log, files, shortage: Arc::clone(shortage), queue: Arc::clone(queue) }
    }

    /// Under APPEND: what returned an error, and all after it, is overwritten with zeros and synced through another
    /// descriptor (Linux reports a write-back error once to each), then every waiter is notified. What was acknowledged
    /// without being durable stays in the log: recovery decides by its CRCs how much of it survived.
    pub(super) fn poison(&self, append: &AppendGuard, reason: &str, failed: Failed) {
        if self.log.is_poisoned() {
            return;
        }
        // First of all: from here on no view shows what is about to be erased (`shows_lost`).
        self.log.marks.poison();
        self.log.set_poison_reason(reason);
        self.erase_undurable(append, failed);
    }

    /// A process that died while it poisoned: what it may have left is erased.
    pub(super) fn erase_after_death(&self, append: &AppendGuard) {
        self.erase_undurable(append, Failed::Flush);
    }

    fn erase_undurable(&self, append: &AppendGuard, failed: Failed) {
        let kept = self.kept(&failed);
        let erased = self.shortage.retry(
            || self.erase_behind(append, kept, failed),
            || {
                self.files.keep_none();
                false
            },
        );
        let lost = self.log.marks.published().saturating_sub(kept);
        let unknown = erased.is_err();
        self.log.marks.control().set_poison_outcome(unknown);
        if let Err(error) = self.log.check_poison() {
            self.log.report(error.code(), &format!("{error} ({lost} commits after commit {kept})"));
        }
        self.queue.close();
        self.log.marks.control().flush_events().notify_all();
        self.log.marks.control().visible_wake().notify_awaited();
        self.log.marks.control().gathered().notify();
    }

    /// The last commit that is not erased: all that was acknowledged is at or below it.
    fn kept(&self, failed: &Failed) -> u64 {
        let kept = self.log.marks.control().was_visible();
        let mut kept = if crate::drops("r5-keeps-acknowledged") { 0 } else { kept };
        if let Failed::Commit(sequence) = failed {
            kept = kept.min(sequence.saturating_sub(1));
        }
        self.log.marks.control().keep_at_poison(kept.max(self.log.marks.durable()))
    }

    /// Writes zeros over the beginning of every batch after commit `kept` (R5.1). Certificates stay: each says of D and B what was true
    /// when it was written, and those of the epochs that failed name commits that the walk does not reach any more.
    fn erase_behind(&self, _append: &AppendGuard, kept: u64, failed: Failed) -> Result<(), EngineError> {
        let control = self.log.marks.control();
        if !self.log.is_active() {
            return Ok(());
        }
        let mut records = Vec::new();
        if let Failed::Write(begun) = failed
            && !crate::drops("r5-erase-begun")
        {
            records.push(begun);
        }
        for sequence in kept + 1..=control.published() {
            let entry = control.commit(sequence).ok_or_else(|| self.log.no_commit(sequence))?;
            records.push(Begun::batch(entry.segment, entry.offset, entry.end));
        }
        let mut by_segment: BTreeMap<u32, Vec<Begun>> = BTreeMap::new();
        for record in records {
            by_segment.entry(record.segment).or_default().push(record);
        }
        by_segment.into_iter().try_for_each(|(number, records)| self.erase_in(&self.files.segment(number)?, &records))
    }

    /// Writes zeros over these records of a segment, durably: through another descriptor, since this one may still have
    /// an earlier failure to report. Without another one, what is written after such a failure has a result of its own.
    fn erase_in(&self, segment: &Segment, records: &[Begun]) -> Result<(), EngineError> {
        let write = || records.iter().try_for_each(|record| record.write_zeros(&self.log, segment));
        if !crate::drops("r5-erase") {
            write()?;
        }
        match self.log.dir.open(&segment.name, OpenMode::Existing) {
            Ok(_) if crate::drops("r5-sync-erase") => Ok(()),
            Ok(other) => other.sync().map_err(|error| EngineError::sync(&segment.name, error)),
            Err(error) if is_out_of_descriptors(&error) => {
                segment.sync().or_else(|_| write().and_then(|()| segment.sync()))
            }
            Err(error) => Err(EngineError::open(&segment.name, error)),
        }
    }
}
