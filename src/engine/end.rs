//! Where the log ends, as this process found it last.
//!
//! Nothing is decided by memory alone: what is remembered counts while nobody has published, or written an epoch, since, and is found anew in the
//! rings else.

use super::commit::AppendGuard;
use super::segment_file::Segment;
use super::segments::Place;
use super::{Engine, EngineError};
use crate::shared::RecordAddress;

/// Where the log ends, after so many commits and cuts: it does not change while these do not.
#[derive(Clone, Debug)]
pub(crate) struct End {
    published: u64,
    last_epoch: u64,
    pub(super) tail: RecordAddress,
    /// The segment file of the tail.
    pub(super) segment: Segment,
    /// The chain value behind the last commit.
    pub(super) chain: u64,
}

impl Engine {
    /// Where the log ends, as this process found it last, if nobody has published, or written an epoch, since.
    pub(super) fn with_end<T>(&self, use_it: impl FnOnce(Option<&End>) -> T) -> T {
        let control = self.marks.control();
        let now = (control.published(), control.last_written_epoch());
        use_it(self.end.lock().as_ref().filter(|end| (end.published, end.last_epoch) == now))
    }

    /// Where the log ends. Under APPEND, with every epoch record stored.
    pub(super) fn find_end(&self) -> Result<End, EngineError> {
        let (control, tail) = (self.marks.control(), self.tail());
        let chain = control.last_commit().map_or(self.log_id, |entry| entry.chain);
        Ok(End {
            published: control.published(),
            last_epoch: control.last_written_epoch(),
            tail,
            segment: self.segment(tail.segment)?,
            chain,
        })
    }

    /// The record at `place` counts: the log ends behind it. Under APPEND.
    pub(super) fn advance_tail(&self, append: &mut AppendGuard, place: Place, chain: u64) {
        let (control, segment) = (self.marks.control(), place.segment);
        let tail = RecordAddress { ordinal: place.ordinal, offset: place.offset + place.bytes, segment: segment.id };
        debug_assert_eq!(tail, self.tail());
        let end =
            End { published: control.published(), last_epoch: control.last_written_epoch(), tail, segment, chain };
        *self.end.lock() = Some(end.clone());
        append.end = Some(end);
    }
}
