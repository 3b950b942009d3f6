//! Distinguishes a log whose first commit never was whole on the medium from one whose first commit has rotted.
//!
//! A segment is zeros before it is used, and no sector of the batch of commit 1 is all zeros before its last image ends
//! ([`mask_of_first`](super::format::mask_of_first)). So a sector of zeros there was never written: a process was
//! killed in the write (a prefix of it is there), or the power failed before the sync (any of its sectors are). A
//! commit that was durable has all of its sectors; rot changes what is in them.
//!
//! Where commit 1 was never whole, no commit was durable, and no page of the log is in the database file.

use super::error::LogError;
use super::follow::proven;
use super::format::{ImagePlace, RECORD_PLACE_BYTES};
use super::found::{FoundLog, FoundSegment, HeaderState};
use super::walk::Walk;
use std::collections::BTreeSet;

/// More batches of commit 1 are not what processes leave that died in writing it: each is read in part.
const BEGUN_MAX: usize = 64;
/// Sectors are read in pieces of this size.
const PIECE_BYTES: u64 = 64 << 10;

impl FoundLog<'_> {
    /// Whether commit 1 may have been durable, or the log holds anything that speaks of a commit.
    pub(super) fn may_hold_commits(&self, walk: &Walk) -> Result<bool, LogError> {
        let is_begun = self.first_place().is_some();
        let is_unwritten = is_begun && self.says_nothing(walk) && self.is_first_unwritten()?;
        Ok(!is_unwritten && (is_begun || self.has_commits()))
    }

    /// Whether a segment is there that a log begins with: the first one, or any where what came before may be gone.
    pub(super) fn has_header(&self, walk: &Walk) -> bool {
        let is_any = self.segments.iter().any(|segment| segment.reader.is_some());
        if walk.base > 0 { is_any } else { self.first_place().is_some() }
    }

    /// No record but heads of batches speaks of a commit, and nothing that could is broken or unreadable. (The header of a segment
    /// lies in one sector: torn, it is zeros.)
    fn says_nothing(&self, walk: &Walk) -> bool {
        walk.last() == 0
            && self.durable == 0
            && walk.contradiction.is_none()
            && self.unreadable().next().is_none()
            && self.segments.iter().all(|segment| matches!(segment.state, HeaderState::Whole | HeaderState::Free))
    }

    /// Where the first segment continues after the certificates that it begins with: segment file and offset. `None`:
    /// it is not there.
    fn first_place(&self) -> Option<(usize, u64)> {
        let (segment, offset, _) = self.resume(0)?;
        let header = &self.segments.get(segment)?.reader.as_ref()?.header;
        let is_first = header.first_sequence == 1 && header.chain == self.log_id;
        is_first.then(|| (segment, self.after_certificates(segment, offset)))
    }

    /// Commit 1 lies there, or at the beginning of a later segment whose header says so. It was never whole if in each of these
    /// places, and in each batch that calls itself commit 1, a sector was never written.
    fn is_first_unwritten(&self) -> Result<bool, LogError> {
        let Some(first) = self.first_place() else { return Ok(false) };
        let mut places = BTreeSet::from([first]);
        for (segment, found) in self.segments.iter().enumerate().filter(|(segment, _)| *segment != first.0) {
            let Some(header) = found.reader.as_ref().map(|reader| &reader.header) else { continue };
            if header.first_sequence == 1 && header.chain == self.log_id {
                places.insert((segment, self.after_certificates(segment, u64::from(header.block_bytes))));
            }
        }
        let whole = self.candidates.iter().map(|it| (it.sequence, it.segment, it.offset));
        let begun = whole.chain(self.broken.iter().map(|it| (it.sequence, it.segment, it.offset)));
        places.extend(begun.filter(|(sequence, ..)| *sequence == 1).map(|(_, segment, offset)| (segment, offset)));
        if places.len() > BEGUN_MAX {
            return Ok(false);
        }
        for (segment, offset) in places {
            if !self.segments[segment].is_unwritten(offset)? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

impl FoundSegment<'_> {
    /// Whether a sector of what was begun there is all zeros: of the head as far as the header claims it, of the images as far as a
    /// whole head says where they end.
    fn is_unwritten(&self, offset: u64) -> Result<bool, LogError> {
        if self.has_zero_sector(offset, RECORD_PLACE_BYTES as u64)? {
            return Ok(true);
        }
        let Some(reader) = self.reader.as_ref() else { return Ok(false) };
        let Some(claimed) = proven(reader.claimed_at(offset))? else { return Ok(false) };
        if self.has_zero_sector(offset, claimed.head_bytes as u64)? {
            return Ok(true);
        }
        let Some(batch) = proven(reader.head_at(offset))? else { return Ok(false) };
        let ends = batch.descriptors.iter().filter_map(|descriptor| match descriptor.place {
            ImagePlace::Batch(position) => {
                Some(position + descriptor.form.stored_bytes(reader.header.page_bytes as usize) as u64)
            }
            ImagePlace::Spill { .. } => None,
        });
        self.has_zero_sector(offset, ends.max().unwrap_or(0))
    }

    /// Whether one of the sectors that begin in these bytes is all zeros.
    fn has_zero_sector(&self, offset: u64, bytes: u64) -> Result<bool, LogError> {
        let end = offset.saturating_add(bytes.next_multiple_of(RECORD_PLACE_BYTES as u64));
        let mut piece = vec![0; usize::try_from((end - offset).min(PIECE_BYTES)).unwrap_or(0)];
        for start in (offset..end).step_by(PIECE_BYTES as usize) {
            let wanted = usize::try_from((end - start).min(PIECE_BYTES)).unwrap_or(0);
            let read = self.open.read(&mut piece[..wanted], start)?;
            if piece[..read].chunks_exact(RECORD_PLACE_BYTES).any(|sector| sector.iter().all(|&byte| byte == 0)) {
                return Ok(true);
            }
            if read < wanted {
                return Ok(false);
            }
        }
        Ok(false)
    }
}
