//! The end of the log, as this process found it last.
//!
//! Memory alone never decides: what is remembered is valid while no process has published, or written an epoch, since,
//! and is read from the rings otherwise.

use super::commit::AppendGuard;
use super::segment_file::Segment;
use super::segments::Place;
use super::{Engine, EngineError};
use crate::shared::RecordAddress;

/// The end of the log at this number of commits and epochs: it does not change while these do not.
#[derive(Clone, Debug)]
pub(crate) struct End {
    published: u64,
    last_epoch: u64,
    pub(super) tail: RecordAddress,
    /// The segment file of the tail.
    pub(super) segment: Segment,
    /// The chain value after the last commit.
    pub(super) chain: u64,
}

impl Engine {
    /// Calls `use_it` with the remembered end of the log, if no process has published, or written an epoch, since.
    pub(super) fn with_end<T>(&self, use_it: impl FnOnce(Option<&End>) -> T) -> T {
        let control = self.log.marks.control();
        let now = (control.published(), control.last_written_epoch());
        use_it(self.end.lock().as_ref().filter(|end| (end.published, end.last_epoch) == now))
    }

    /// Where the log ends. Under APPEND, with every epoch record stored.
    pub(super) fn find_end(&self) -> Result<End, EngineError> {
        let (control, tail) = (self.log.marks.control(), self.log.tail());
        let chain = control.last_commit().map_or(self.log.log_id, |entry| entry.chain);
        Ok(End {
            published: control.published(),
            last_epoch: control.last_written_epoch(),
            tail,
            segment: self.files.segment(tail.segment)?,
            chain,
        })
    }

    /// The record at `place` is valid: the log ends after it. Under APPEND.
    pub(super) fn advance_tail(&self, append: &mut AppendGuard, place: Place, chain: u64) {
        let (control, segment) = (self.log.marks.control(), place.segment);
        let tail = RecordAddress { ordinal: place.ordinal, offset: place.offset + place.bytes, segment: segment.id };
        debug_assert_eq!(tail, self.log.tail());
        let end =
            End { published: control.published(), last_epoch: control.last_written_epoch(), tail, segment, chain };
        *self.end.lock() = Some(end.clone());
        append.end = Some(end);
    }
}
