//! The limits of the log's size: what it had in use at once, and the reader that keeps it.

use super::context::LogContext;
use super::error::EngineError;
use super::segment_file::SegmentFile;
use super::segment_files::Found;
use crate::os::now_us;
use crate::shared::Snapshot;
use crate::sqlite::Code;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

/// A log of this many segments that a reader keeps is reported, and each doubling.
const TOLD_SEGMENTS: u64 = 4;

/// Asked before the log grows.
pub(super) struct Limits {
    log: Arc<LogContext>,
    /// The bytes of the log at the last warning that a reader keeps it.
    warned_bytes: AtomicU64,
}

impl Limits {
    pub(super) fn new(log: &Arc<LogContext>) -> Limits {
        Limits { log: Arc::clone(log), warned_bytes: AtomicU64::new(0) }
    }

    /// A segment is made since none is free: all of them are in use.
    pub(super) fn note_in_use(&self, all: &[Found], made: &SegmentFile) {
        let bytes = all.iter().map(|found| found.segment.bytes).sum::<u64>() + made.bytes;
        let control = self.log.marks.control();
        control.update_in_use_bytes(|before| before.max(bytes));
    }

    /// Before the log grows by a segment of at least `more` bytes. Where a reader is why no segment is free, its snapshot or this commit
    /// may have to end.
    ///
    /// # Errors
    /// [`EngineError::LogLimit`].
    pub(super) fn keep_within(&self, all: &[Found], more: u64) -> Result<(), EngineError> {
        let Some(reader) = self.keeping_reader() else { return Ok(()) };
        let bytes: u64 = all.iter().map(|found| found.segment.bytes).sum();
        let exceeds = |limit: Option<u64>| limit.is_some_and(|limit| bytes + more > limit);
        let ends = exceeds(self.log.settings.reader_limit_bytes());
        let seconds = now_us().saturating_sub(reader.since_us) / 1_000_000;
        let text = format!(
            "{} has read the state of commit {} for {seconds} s, and no later segment can be reused; {}",
            self.log.describe(reader.owner),
            reader.sequence,
            if ends { "its snapshot ends here (parallel_wal_reader_limit_bytes)" } else { "end its transaction" },
        );
        let told = self.warned_bytes.load(SeqCst);
        if ends || bytes >= (2 * told).max(TOLD_SEGMENTS * self.log.settings.segment_bytes()) {
            self.warned_bytes.store(bytes, SeqCst);
            self.log.report(Code::WARNING, &format!("the log has {bytes} bytes: {text}"));
        }
        if ends {
            self.log.marks.control().end_snapshots_below(reader.sequence + 1);
        } else if exceeds(self.log.settings.log_limit_bytes()) {
            return Err(EngineError::LogLimit { file: self.log.path.clone(), bytes, reader: text });
        }
        Ok(())
    }

    /// The reader that keeps checkpoints from continuing.
    fn keeping_reader(&self) -> Option<Snapshot> {
        let (control, oldest) = (self.log.marks.control(), self.log.marks.oldest_reader()?);
        (oldest.sequence <= control.backfilled() && oldest.sequence < control.visible()).then_some(oldest)
    }
}
