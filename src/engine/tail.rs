//! The tail of the log: where it ends, where the next record goes, and the writing of it. Under APPEND.
//!
//! Nothing of this is stored: the end of the log is derived from the rings, so that the holder of APPEND continues where
//! another process ended, or died. Memory alone never decides: what is remembered of the end is valid while no process
//! has published, or written an epoch, since, and is read from the rings otherwise.
//!
//! A record is written, and counts by a store that follows (`ControlBlock::publish`, `store_epoch`). Until then it may be
//! erased: with zeros over its first sector at least, synced. The header of a segment goes with the first record in it; the
//! next segment is taken when that record counts.
//!
//! Batches follow one another from sector to sector. A certificate, or the batch that carries one, ends on a block, so that
//! no block is written again that a flush may have made durable. Every write begins at the tail and ends with zeros to the
//! end of its last page of the page cache: the next one finds that page there, and reads nothing from the disk.

use super::context::LogContext;
use super::error::EngineError;
use super::owner_lock::OwnerGuard;
use super::segment_file::Segment;
use super::segment_files::{Found, SegmentFiles};
use crate::log::format::{RECORD_PLACE_BYTES, SegmentHeader};
use crate::log::segments::ZERO_PIECE_BYTES;
use crate::shared::RecordAddress;
use crate::sync::Mutex;
use std::io::IoSlice;
use std::ops::Range;
use std::sync::Arc;

/// Blocks at the end of a segment that only certificates may use: between two batches of a prepared writer
/// there are few, so that a certificate always finds room.
pub(crate) const CERTIFICATE_BLOCKS: u64 = 8;
/// What records are padded with: a page of the page cache.
static ZEROS: [u8; PAGE_BYTES] = [0; PAGE_BYTES];
const PAGE_BYTES: usize = 4096;
const SECTOR: u64 = RECORD_PLACE_BYTES as u64;

/// Slices of this number of zeros.
fn zeros<'a>(mut bytes: u64) -> impl Iterator<Item = IoSlice<'a>> {
    std::iter::from_fn(move || {
        let piece = usize::try_from(bytes).unwrap_or(PAGE_BYTES).min(PAGE_BYTES);
        bytes -= piece as u64;
        (piece > 0).then(|| IoSlice::new(&ZEROS[..piece]))
    })
}

/// APPEND: the tail of the log. Held for the write and the publication of a batch, or of a certificate and
/// its epoch record; by the conservative path from the write to the last word.
pub(crate) struct AppendGuard {
    /// Where the log ends, if it is to go on.
    pub(super) end: Option<End>,
    _held: OwnerGuard,
}

impl AppendGuard {
    /// Of a caller that does not ask where the log ends.
    pub(super) fn new(held: OwnerGuard) -> AppendGuard {
        AppendGuard { end: None, _held: held }
    }

    /// # Errors
    /// There is no log yet, or it is not to go on.
    pub(super) fn end(&self) -> Result<&End, EngineError> {
        self.end.as_ref().ok_or(EngineError::NoLog)
    }
}

/// A record that must go.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Begun {
    pub(crate) segment: u32,
    pub(crate) offset: u64,
    pub(super) end: u64,
    is_doubled: bool,
}

impl Begun {
    /// A batch.
    pub(super) fn batch(segment: u32, offset: u64, end: u64) -> Begun {
        Begun { segment, offset, end, is_doubled: false }
    }

    /// The record at this place.
    pub(super) fn at(place: &Place) -> Begun {
        let end = place.offset + place.bytes;
        Begun { segment: place.segment.id, offset: place.offset, end, is_doubled: place.is_doubled }
    }

    /// Writes zeros over what makes it a record: its first block, and the second one of a doubled certificate, but nothing
    /// of its neighbours in these blocks.
    pub(super) fn write_zeros(&self, log: &LogContext, segment: &Segment) -> Result<(), EngineError> {
        let mut offset = self.offset;
        for _ in 0..if self.is_doubled { 2 } else { 1 } {
            let next = log.block_after(offset);
            let end = if crate::drops("erase-record-only") { next } else { next.min(self.end) };
            segment.write(&vec![0; usize::try_from(end - offset).unwrap_or(0)], offset)?;
            offset = next;
        }
        Ok(())
    }
}

/// What is to be written at the tail.
#[derive(Clone, Copy, Debug)]
pub(super) enum Record {
    /// A batch of these bytes, with its certificate or without one. It leaves the last blocks of a segment to certificates.
    Batch {
        bytes: u64,
        is_sealed: bool,
    },
    Certificate,
    Doubled,
}

/// Where a record goes.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) segment: Segment,
    pub(crate) ordinal: u64,
    /// Of the record, in bytes.
    pub(crate) offset: u64,
    pub(super) bytes: u64,
    /// The bytes from the tail to the record: to the block on which a doubled certificate begins.
    gap: u64,
    is_doubled: bool,
    /// Of the segment, if the record begins it; and the segment that ends then, with its tail.
    begins: Option<(Vec<u8>, Segment, u64)>,
}

impl Place {
    /// Whether the record is the first of its segment.
    pub(super) fn begins_segment(&self) -> bool {
        self.begins.is_some()
    }
}

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

/// The tail of the log.
pub(super) struct LogTail {
    log: Arc<LogContext>,
    files: Arc<SegmentFiles>,
    /// Where the log ended when this process last looked.
    end: Mutex<Option<End>>,
}

impl LogTail {
    pub(super) fn new(log: &Arc<LogContext>, files: &Arc<SegmentFiles>) -> LogTail {
        LogTail { log: Arc::clone(log), files: Arc::clone(files), end: Mutex::default() }
    }

    /// The log was retired.
    pub(super) fn forget(&self) {
        *self.end.lock() = None;
    }

    /// Calls `use_it` with the remembered end of the log, if no process has published, or written an epoch, since.
    pub(super) fn with_end<T>(&self, use_it: impl FnOnce(Option<&End>) -> T) -> T {
        let control = self.log.marks.control();
        let now = (control.published(), control.last_written_epoch());
        use_it(self.end.lock().as_ref().filter(|end| (end.published, end.last_epoch) == now))
    }

    /// Where the log ends. Under APPEND.
    pub(super) fn find(&self) -> Result<End, EngineError> {
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
    pub(super) fn advance(&self, append: &mut AppendGuard, place: Place, chain: u64) {
        let (control, segment) = (self.log.marks.control(), place.segment);
        let tail = RecordAddress { ordinal: place.ordinal, offset: place.offset + place.bytes, segment: segment.id };
        debug_assert_eq!(tail, self.log.tail());
        let end =
            End { published: control.published(), last_epoch: control.last_written_epoch(), tail, segment, chain };
        *self.end.lock() = Some(end.clone());
        append.end = Some(end);
    }

    pub(super) fn blocks(&self, count: u64) -> u64 {
        count * u64::from(self.log.block_bytes)
    }

    /// What a batch may use of a segment.
    pub(super) fn limit(&self, segment: &Segment) -> u64 {
        segment.bytes.saturating_sub(self.blocks(CERTIFICATE_BLOCKS))
    }

    /// The number of the segment that follows the current one, if it is ready. Under APPEND.
    pub(super) fn next_segment(&self, tail: RecordAddress) -> Option<u32> {
        let next = self.log.marks.control().next_segment();
        if next == Some(tail.segment) && !crate::drops("next-segment-taken") {
            // A batch or a certificate took it, whose writer died before it stored that.
            self.log.marks.control().set_next_segment(None);
            return None;
        }
        next
    }

    /// Where `record` begins and ends in a segment that is written up to `tail`.
    fn extent(&self, record: Record, tail: u64) -> Range<u64> {
        match record {
            Record::Batch { bytes, is_sealed: true } if !crate::drops("cut") => tail..self.log.round_up(tail + bytes),
            Record::Batch { bytes, .. } => tail..(tail + bytes).next_multiple_of(SECTOR),
            Record::Certificate => tail..self.log.block_after(tail),
            Record::Doubled => {
                let begin = self.log.round_up(tail);
                begin..begin + self.blocks(2)
            }
        }
    }

    /// Where a record goes. `None`: neither the current segment nor the next one has room.
    pub(super) fn place(
        &self,
        append: &AppendGuard,
        record: Record,
        first_sequence: u64,
    ) -> Result<Option<Place>, EngineError> {
        let end_of = |segment: &Segment| match record {
            Record::Batch { .. } => self.limit(segment),
            Record::Certificate | Record::Doubled => segment.bytes,
        };
        let is_doubled = matches!(record, Record::Doubled);
        let &End { tail, segment: ref here, chain, .. } = append.end()?;
        let Range { start: offset, end } = self.extent(record, tail.offset);
        if end <= end_of(here) {
            let (segment, bytes, gap) = (Arc::clone(here), end - offset, offset - tail.offset);
            return Ok(Some(Place { segment, ordinal: tail.ordinal, offset, bytes, gap, is_doubled, begins: None }));
        }
        let Range { start: offset, end } = self.extent(record, u64::from(self.log.block_bytes));
        let next = self.next_segment(tail).map(|number| self.files.segment(number)).transpose()?;
        let Some(segment) = next.filter(|next| end <= end_of(next)) else { return Ok(None) };
        let header = SegmentHeader {
            log_id: self.log.log_id,
            block_bytes: self.log.block_bytes,
            page_bytes: self.log.page_bytes,
            segment_bytes: segment.bytes,
            ordinal: tail.ordinal + 1,
            first_sequence,
            chain,
        };
        let begins = Some((header.encode(), Arc::clone(here), tail.offset));
        let bytes = end - offset;
        Ok(Some(Place { segment, ordinal: header.ordinal, offset, bytes, gap: 0, is_doubled, begins }))
    }

    /// Writes a record, with zeros from the tail on and to the end of its last page; with it the header of a segment that
    /// begins, after the block at the tail of the segment that ends was zeroed: a record that was abandoned there shall not be
    /// taken for the next one.
    pub(super) fn write_record(&self, append: &AppendGuard, place: &Place, parts: &[&[u8]]) -> Result<(), EngineError> {
        if place.is_doubled {
            self.log.marks.control().set_doubled_begun(true);
        }
        let length: usize = parts.iter().map(|part| part.len()).sum();
        let end = place.offset + place.bytes;
        let last = if crate::drops("whole-pages") { end } else { end.next_multiple_of(PAGE_BYTES as u64) };
        let padding = last.saturating_sub(place.offset + length as u64);
        let mut slices = Vec::with_capacity(parts.len() + 3 + (place.gap + padding) as usize / PAGE_BYTES);
        let mut offset = place.offset;
        if let Some((header, ends, tail)) = &place.begins {
            if *tail < ends.bytes && !crate::drops("rotation-zeros") {
                self.write_zeros_to_block(ends, *tail)?;
            }
            slices.push(IoSlice::new(header));
            offset = 0;
        } else if !crate::drops("gap-zeros") {
            slices.extend(zeros(place.gap));
            offset -= place.gap;
        }
        slices.extend(parts.iter().map(|part| IoSlice::new(part)));
        slices.extend(zeros(padding));
        let write =
            || place.segment.file.write_at(&slices, offset).map_err(|e| EngineError::write(&place.segment.name, e));
        match (write(), &place.begins) {
            // One descriptor has to do for both segments: the one that ends is closed when it is synced.
            (Err(error), Some((_, ends, _))) if error.is_out_of_descriptors() => {
                self.sync_beside(append, ends)?;
                ends.file.keep_open(false).map_err(|e| EngineError::open(&ends.name, e))?;
                write()?;
            }
            (written, _) => written?,
        }
        if place.begins_segment() {
            crate::fault_point("rotating");
        }
        Ok(())
    }

    /// Writes zeros at `offset` to the end of its block.
    pub(super) fn write_zeros_to_block(&self, segment: &Segment, offset: u64) -> Result<(), EngineError> {
        let bytes = usize::try_from(self.log.block_after(offset) - offset).unwrap_or(0);
        segment.write(&vec![0; bytes], offset)
    }

    /// Overwrites with zeros, durably, what attempts at commit 1 have left at `place` whose writers died there, or rolled back: if
    /// this writer dies there, too, the sectors that it has not written must be known (`log/unwritten.rs`).
    pub(super) fn clear_begun(&self, append: &AppendGuard, place: &Place) -> Result<(), EngineError> {
        let (segment, end) = (&place.segment, place.offset + place.bytes);
        let mut is_cleared = false;
        for offset in (place.offset..end).step_by(ZERO_PIECE_BYTES) {
            let mut piece = vec![0; usize::try_from(end - offset).unwrap_or(usize::MAX).min(ZERO_PIECE_BYTES)];
            segment.file.read_at(&mut piece, offset).map_err(|error| EngineError::read(&self.log.path, error))?;
            if piece.iter().any(|&byte| byte != 0) {
                segment.file.write_zeros(piece.len(), offset).map_err(|e| EngineError::write(&segment.name, e))?;
                is_cleared = true;
            }
        }
        if is_cleared { self.sync_beside(append, segment) } else { Ok(()) }
    }

    /// The record at `place` counts, by a store that was just made: it is no longer begun, and the segment that it begins is not
    /// the next one.
    pub(super) fn mark_in_use(&self, _append: &AppendGuard, place: &Place) {
        if place.is_doubled {
            self.log.marks.control().set_doubled_begun(false);
        }
        if place.begins.is_some() {
            self.files.note_ordinal(place.ordinal, place.segment.id);
            self.log.marks.control().set_next_segment(None);
        }
    }

    /// A doubled certificate was begun, by a writer that died or panicked: zeros over both halves, synced, before the next record
    /// is written. That may cover the first half only, and the second says that nothing lies before it: where the
    /// medium does not give the block of the next commit, recovery would not look for it there.
    pub(super) fn erase_abandoned_doubled(&self, append: &AppendGuard) -> Result<(), EngineError> {
        let next = self.log.marks.published() + 1;
        // Nothing has changed at the tail since: it is the same place.
        if let Some(place) = self.place(append, Record::Doubled, next)? {
            Begun::at(&place).write_zeros(&self.log, &place.segment)?;
            self.sync_beside(append, &place.segment)?;
        }
        self.log.marks.control().set_doubled_begun(false);
        Ok(())
    }

    /// Makes what was written at `place` and does not count unprovable: zeros, synced.
    pub(super) fn erase(&self, append: &AppendGuard, place: &Place) -> Result<(), EngineError> {
        if place.begins_segment() && !crate::drops("r5-erase-header") {
            place.segment.write(&self.log.zero_block(), 0)?;
        }
        self.write_zeros_to_block(&place.segment, place.offset)?;
        self.sync_beside(append, &place.segment)
    }

    /// Syncs a segment that may hold other writers' undurable commits, without holding LEADER. If that fails, and this
    /// process dies before it can poison, the kernel has reported a failure that a leader with a younger descriptor
    /// does not get: so a flag warns that leader (`sync_and_seal`).
    pub(super) fn sync_beside(&self, _append: &AppendGuard, segment: &Segment) -> Result<(), EngineError> {
        let control = self.log.marks.control();
        // Another one's doubt stays.
        let before = control.is_sync_in_doubt();
        control.set_sync_in_doubt(!crate::drops("erase-says-doubt"));
        if !crate::drops("r5-sync-erased") {
            segment.sync()?;
        }
        control.set_sync_in_doubt(before);
        Ok(())
    }

    /// A writer that died may have begun another segment file than `chosen` as the next one: two segments of one ordinal would be in
    /// the log. `all` is what there was when the log ended in segment `was_last`.
    pub(super) fn invalidate_started_segments_except(
        &self,
        _append: &AppendGuard,
        all: &[Found],
        was_last: u64,
        chosen: Option<u32>,
    ) -> Result<(), EngineError> {
        let (last, next) = (self.log.tail().ordinal, self.log.marks.control().next_segment());
        let begun = all.iter().filter(|found| found.header.as_ref().is_some_and(|header| header.ordinal > was_last));
        let mut begun: Vec<Segment> = begun.map(|found| found.segment.clone()).collect();
        // It may have been chosen, and begun, since.
        begun.extend(next.map_or(Ok(None), |number| self.files.segment_if_there(number))?);
        for segment in begun.iter().filter(|segment| chosen != Some(segment.id)) {
            // Read again: before APPEND was held here, a process that lives may have gone on in it. One without a header may
            // have been given up before, by a process that died before its zeros were durable.
            if self.files.header_of(segment)?.is_none_or(|header| header.ordinal > last)
                && !crate::drops("begun-segment-given-up")
            {
                segment.write(&self.log.zero_block(), 0)?;
                if !crate::drops("begun-segment-sync") {
                    segment.sync()?;
                }
            }
        }
        Ok(())
    }

    /// Invalidates whatever segment was begun after the tail.
    pub(super) fn invalidate_started_segments(&self, append: &AppendGuard) -> Result<(), EngineError> {
        self.invalidate_started_segments_except(append, &self.files.all_slots()?, self.log.tail().ordinal, None)
    }
}
