//! The segments of the log: which files exist, where the next record goes, which segment is next.
//!
//! Nothing of this is stored: the tail is derived from the rings, a segment's ordinal from its header, the next segment
//! from the control block. So the holder of APPEND continues where another process ended, or died. Only open files are
//! remembered here.

use super::commit::AppendGuard;
use super::end::End;
use super::segment_file::{Segment, SegmentFile};
use super::segment_files::Found;
use super::{Engine, EngineError};
use crate::log::LogError;
use crate::log::format::{self, SegmentHeader};
use crate::log::segments::{ZERO_PIECE_BYTES, create_segment};
use crate::shared::{COMMIT_RING, ControlBlock, RecordAddress};
use crate::sqlite::Code;
use std::collections::BTreeSet;
use std::io::{self, IoSlice};
use std::sync::Arc;

/// Blocks at the end of a segment that only certificates may use: between two batches of a prepared writer
/// there are few, so that a certificate always finds room.
pub(crate) const CERTIFICATE_BLOCKS: u64 = 8;
/// Blocks that a batch's room has to spare, for the certificates that come before it.
const SPARE_BLOCKS: u64 = 4;
/// What records are padded with.
static ZEROS: [u8; 4096] = [0; 4096];
/// Where a record goes.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) segment: Segment,
    pub(crate) ordinal: u64,
    /// Of the record, in bytes.
    pub(crate) offset: u64,
    pub(super) bytes: u64,
    /// Of the segment, if the record begins it; and the segment that ends then, with its tail.
    begins: Option<(Vec<u8>, Segment, u64)>,
}

impl Place {
    /// Whether the record is the first of its segment.
    pub(super) fn begins_segment(&self) -> bool {
        self.begins.is_some()
    }
}

/// A segment of which nothing is needed any more.
pub(super) struct Free {
    pub(super) segment: Segment,
    /// The newest commit that its records speak of; 0: it has none that counts.
    pub(super) last_sequence: u64,
    /// It has a header, of a segment before the tail.
    pub(super) is_used: bool,
}

/// Segment files that are not free, whatever their headers say.
struct Needed {
    segments: BTreeSet<u32>,
    /// The rings have all of it still.
    are_all: bool,
}

/// So much of the segment is written that the next one is to be prepared.
fn is_low(tail: RecordAddress, segment: &SegmentFile) -> bool {
    tail.offset * 4 > segment.bytes
}

impl Engine {
    fn blocks(&self, count: u64) -> u64 {
        count * u64::from(self.log.block_bytes)
    }

    /// What a batch may use of a segment.
    fn limit(&self, segment: &Segment) -> u64 {
        segment.bytes.saturating_sub(self.blocks(CERTIFICATE_BLOCKS))
    }

    /// The bytes of a segment that takes such a batch.
    fn bytes_for(&self, batch_bytes: u64) -> u64 {
        self.log.round_up(batch_bytes) + self.blocks(CERTIFICATE_BLOCKS + 2 * SPARE_BLOCKS)
    }

    /// The number of the segment that follows the current one, if it is ready. Under APPEND.
    fn next_segment(&self, tail: RecordAddress) -> Option<u32> {
        let next = self.log.marks.control().next_segment();
        if next == Some(tail.segment) && !crate::drops("next-segment-taken") {
            // A batch or a certificate took it, whose writer died before it stored that.
            self.log.marks.control().set_next_segment(None);
            return None;
        }
        next
    }

    /// Whether a batch of `batch_bytes` fits: in the current segment, whatever few certificates come before it, or in
    /// the next one. Without APPEND: other processes' certificates may take the space, and publish checks again.
    fn has_room(&self, batch_bytes: u64) -> Result<bool, EngineError> {
        let bytes = self.log.round_up(batch_bytes) + self.blocks(SPARE_BLOCKS);
        let fits = |tail: RecordAddress, segment: &Segment| tail.offset + bytes <= self.limit(segment);
        if self.with_end(|end| end.is_some_and(|end| fits(end.tail, &end.segment))) {
            return Ok(true);
        }
        let tail = self.log.tail();
        if self.files.segment_if_there(tail.segment)?.is_some_and(|segment| fits(tail, &segment)) {
            return Ok(true);
        }
        let Some(next) = self.log.marks.control().next_segment().filter(|next| *next != tail.segment) else {
            return Ok(false);
        };
        let next = self.files.segment_if_there(next)?;
        Ok(next.is_some_and(|next| u64::from(self.log.block_bytes) + bytes <= self.limit(&next)))
    }

    /// Whether the next segment is to be prepared ahead of need.
    pub(super) fn is_low(&self, append: &AppendGuard) -> bool {
        let Some(End { tail, segment, .. }) = &append.end else { return false };
        is_low(*tail, segment) && self.next_segment(*tail).is_none() && !self.has_failed_ahead(*tail)
    }

    /// The next segment could not be made since the present one began.
    fn has_failed_ahead(&self, tail: RecordAddress) -> bool {
        self.ahead_failed.load(std::sync::atomic::Ordering::SeqCst) == tail.ordinal
    }

    /// Where a record of this size goes; a batch leaves the last blocks of a segment to certificates. `None`: neither
    /// the current segment nor the next one has room.
    pub(super) fn place(
        &self,
        append: &AppendGuard,
        bytes: u64,
        batch: bool,
        first_sequence: u64,
    ) -> Result<Option<Place>, EngineError> {
        let bytes = self.log.round_up(bytes);
        let end = |segment: &Segment| if batch { self.limit(segment) } else { segment.bytes };
        let &End { tail, segment: ref here, chain, .. } = append.end()?;
        if tail.offset + bytes <= end(here) {
            let segment = Arc::clone(here);
            return Ok(Some(Place { segment, ordinal: tail.ordinal, offset: tail.offset, bytes, begins: None }));
        }
        let offset = u64::from(self.log.block_bytes);
        let next = self.next_segment(tail).map(|number| self.files.segment(number)).transpose()?;
        let Some(segment) = next.filter(|next| offset + bytes <= end(next)) else { return Ok(None) };
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
        Ok(Some(Place { segment, ordinal: header.ordinal, offset, bytes, begins }))
    }

    /// Writes a record, padded to its blocks; with it the header of a segment that begins, after the block at the tail
    /// of the segment that ends was zeroed: a record that was abandoned there shall not be taken for the next one.
    pub(super) fn write_at_place(
        &self,
        append: &AppendGuard,
        place: &Place,
        parts: &[&[u8]],
    ) -> Result<(), EngineError> {
        let length: usize = parts.iter().map(|part| part.len()).sum();
        let mut padding = usize::try_from(place.bytes).map_or(0, |bytes| bytes.saturating_sub(length));
        let mut slices = Vec::with_capacity(parts.len() + 2 + padding / ZEROS.len());
        let mut offset = place.offset;
        if let Some((header, ends, tail)) = &place.begins {
            if *tail < ends.bytes && !crate::drops("rotation-zeros") {
                ends.write(&self.log.zero_block(), *tail)?;
            }
            slices.push(IoSlice::new(header));
            offset = 0;
        }
        slices.extend(parts.iter().map(|part| IoSlice::new(part)));
        while padding > 0 {
            let zeros = &ZEROS[..padding.min(ZEROS.len())];
            slices.push(IoSlice::new(zeros));
            padding -= zeros.len();
        }
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

    /// Overwrites with zeros what a writer has left at `place` that died there in writing commit 1: if the next writer
    /// dies there, too, the sectors that it has not written must be known (`log/unwritten.rs`). A write that was cut
    /// short left its beginning.
    pub(super) fn clear_begun(&self, _append: &AppendGuard, place: &Place) -> Result<(), EngineError> {
        let mut beginning = [0; format::RECORD_PLACE_BYTES];
        let segment = &place.segment;
        segment.file.read_at(&mut beginning, place.offset).map_err(|error| EngineError::read(&self.log.path, error))?;
        if beginning.iter().all(|&byte| byte == 0) {
            return Ok(());
        }
        let end = place.offset + place.bytes;
        for offset in (place.offset..end).step_by(ZERO_PIECE_BYTES) {
            let piece = usize::try_from(end - offset).unwrap_or(usize::MAX).min(ZERO_PIECE_BYTES);
            segment.file.write_zeros(piece, offset).map_err(|error| EngineError::write(&segment.name, error))?;
        }
        Ok(())
    }

    /// The record at `place` counts, by a store that was just made: the segment that it begins is no longer the next one.
    pub(super) fn mark_in_use(&self, _append: &AppendGuard, place: &Place) {
        if place.begins.is_some() {
            self.files.note_ordinal(place.ordinal, place.segment.id);
            self.log.marks.control().set_next_segment(None);
        }
    }

    /// Makes what was written at `place` and does not count unprovable: zeros, synced.
    pub(super) fn erase(&self, append: &AppendGuard, place: &Place) -> Result<(), EngineError> {
        let header = if place.begins_segment() && !crate::drops("r5-erase-header") { 0 } else { place.offset };
        for offset in [header, place.offset] {
            place.segment.write(&self.log.zero_block(), offset)?;
        }
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

    /// Makes room for a batch of this size, in the current segment or in the next one.
    pub(super) fn make_room(&self, bytes: u64) -> Result<(), EngineError> {
        if self.has_room(bytes)? {
            return Ok(());
        }
        let _create = self.locks.hold(ControlBlock::create, "CREATE")?;
        if self.has_room(bytes)? { Ok(()) } else { self.choose_next(bytes) }
    }

    /// Prepares the next segment ahead of need; a failure is not reported here: the writer that needs the segment meets
    /// it.
    pub(crate) fn prepare_next_segment(&self) {
        // `LockHeld`: the writer that needs the segment gets the error.
        if let Err(error) = self.try_prepare_next_segment()
            && !matches!(error, EngineError::LockHeld { .. })
            && !self.log.stopping.stops_here()
        {
            self.ahead_failed.store(self.log.tail().ordinal, std::sync::atomic::Ordering::SeqCst);
            self.log.environment.host.log(error.code().number(), &format!("pwal: no segment ahead of need: {error}"));
        }
    }

    fn try_prepare_next_segment(&self) -> Result<(), EngineError> {
        let tail = self.with_end(|end| end.map(|end| end.tail));
        if tail.is_some_and(|tail| self.log.marks.control().next_segment().is_some_and(|next| next != tail.segment)) {
            return Ok(());
        }
        // The holder of CREATE most likely makes a segment; if not, the next commit asks again.
        let Some(_create) =
            self.locks.try_hold(ControlBlock::create).or_else(|| self.locks.try_take_over(ControlBlock::create))
        else {
            return Ok(());
        };
        // Without APPEND, for which a committer would have to wake this thread: only the holder of CREATE sets a next
        // segment.
        let tail = self.log.tail();
        let next = self.log.marks.control().next_segment().filter(|next| *next != tail.segment);
        let is_wanted = self.log.is_active() && next.is_none() && !self.has_failed_ahead(tail);
        if is_wanted && self.files.segment_if_there(tail.segment)?.is_some_and(|segment| is_low(tail, &segment)) {
            self.choose_next(0)?;
        }
        Ok(())
    }

    /// Chooses the next segment, with room for a batch of this size: one that is free by now, or a new one. Under
    /// CREATE.
    fn choose_next(&self, batch_bytes: u64) -> Result<(), EngineError> {
        let least = self.bytes_for(batch_bytes);
        let (all, tail) = self.survey()?;
        let free = self.free_slots(&all, tail).into_iter().find(|free| free.segment.bytes >= least);
        let number = match free {
            Some(Free { segment, last_sequence, .. }) => {
                if last_sequence == 0 {
                    // The process that made it may have died before its space and its name were durable.
                    if !crate::drops("r6-sync-begun-segment") {
                        segment.sync()?;
                    }
                    if !crate::drops("r6-sync-begun-name") {
                        self.log.dir.sync().map_err(|e| EngineError::sync("the log directory", e))?;
                    }
                }
                // Read from the database file from now on.
                if !crate::drops("recycled-below") {
                    self.log.marks.recycle_to(last_sequence);
                }
                self.files.add_segment(segment.clone());
                segment.id
            }
            None => {
                self.keep_within_limits(&all, least)?;
                let made = self.create_next(&all, least)?;
                self.note_in_use(&all, &made);
                made.id
            }
        };
        let append = self.lock_append()?;
        self.invalidate_started_segments_except(&append, &all, tail.ordinal, Some(number))?;
        self.log.marks.control().set_next_segment(Some(number));
        Ok(())
    }

    /// Every segment file, and where the log ended meanwhile. Under CREATE.
    pub(super) fn survey(&self) -> Result<(Vec<Found>, RecordAddress), EngineError> {
        let tail = || self.lock_append().map(|_append| self.log.tail());
        // Where there is a next segment that is too small for this batch, a writer may rotate into it meanwhile: then
        // its header was read too early, and the segment that has just ended would seem to be older than any other.
        // Once at most: only the holder of CREATE sets a next segment.
        loop {
            // Without APPEND: any moment before the headers are read does.
            let before = self.log.tail();
            let all = self.files.all_slots()?;
            let tail = tail()?;
            if tail.ordinal == before.ordinal {
                return Ok((all, tail));
            }
        }
    }

    /// The segments of which nothing is needed any more. Under CREATE.
    pub(super) fn free_slots(&self, all: &[Found], tail: RecordAddress) -> Vec<Free> {
        let recyclable = self.log.marks.recyclable();
        let begins_with = |ordinal: u64| {
            let headers = all.iter().filter_map(|found| found.header.as_ref());
            headers.filter(|header| header.ordinal == ordinal).map(|header| header.first_sequence).next()
        };
        let needed = self.needed_slots(recyclable.before);
        let others = all.iter().filter(|found| found.segment.id != tail.segment);
        let free = others.filter_map(|found| {
            let (last_sequence, is_over) = match &found.header {
                // Begun by a writer that died, or never.
                None => (0, needed.are_all),
                Some(header) if header.ordinal > tail.ordinal => (0, true),
                // It ends where the next segment begins; unknown: that one is recycled already, and this one was before
                // it.
                Some(header) => {
                    let last = begins_with(header.ordinal + 1).map_or(header.first_sequence, |first| first - 1);
                    let is_backfilled = last <= recyclable.backfilled || crate::drops("recycle-backfilled");
                    let is_before = header.ordinal < recyclable.before || crate::drops("recycle-before-certificate");
                    (last, is_backfilled && is_before)
                }
            };
            let is_used = found.header.as_ref().is_some_and(|header| header.ordinal <= tail.ordinal);
            let is_needed = needed.segments.contains(&found.segment.id) && !crate::drops("recycle-needed");
            let is_free = is_over && !is_needed;
            is_free.then(|| Free { segment: found.segment.clone(), last_sequence, is_used })
        });
        free.collect()
    }

    /// What is known without the headers, which may have rotted: the segments of the commits that are not backfilled, of what is
    /// not certified, and of the segments from `first` on that this process remembers.
    fn needed_slots(&self, first: u64) -> Needed {
        let control = self.log.marks.control();
        let mut segments: BTreeSet<u32> = self.files.known_from(first);
        let (backfilled, published) = (control.backfilled(), control.published());
        // What the ring has no more is not looked for.
        let first_kept = (backfilled + 1).max((published + 1).saturating_sub(COMMIT_RING));
        let entries = (first_kept..=published).map(|sequence| control.commit(sequence).map(|entry| entry.segment));
        let last_epoch = (control.certified().max(1)..=control.last_written_epoch())
            .map(|epoch| control.epoch(epoch).map(|record| record.segment));
        let mut are_all = first_kept == backfilled + 1;
        for file in entries.chain(last_epoch) {
            are_all &= file.is_some();
            segments.extend(file);
        }
        Needed { segments, are_all }
    }

    /// A writer that died may have begun another segment file than `chosen` as the next one: two segments of one ordinal would be in
    /// the log. `all` is what there was when the log ended in segment `was_last`.
    fn invalidate_started_segments_except(
        &self,
        _append: &AppendGuard,
        all: &[Found],
        was_last: u64,
        chosen: Option<u32>,
    ) -> Result<(), EngineError> {
        let (last, next) = (self.log.tail().ordinal, self.log.marks.control().next_segment());
        for Found { segment, header } in all {
            let may_be = header.as_ref().is_some_and(|header| header.ordinal > was_last) || next == Some(segment.id);
            if !may_be || chosen == Some(segment.id) {
                continue;
            }
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

    /// A new segment of at least `least` bytes: twice the largest so far, or less where the disk is nearly full.
    fn create_next(&self, all: &[Found], least: u64) -> Result<Segment, EngineError> {
        let least = self.log.round_up(least);
        let largest = all.iter().map(|found| found.segment.bytes).max().unwrap_or(0);
        // Whole blocks: the header of another segment is not valid.
        let mut bytes = self.log.round_up((largest * 2).min(self.log.settings.segment_bytes())).max(least);
        loop {
            match self.create_segment(bytes) {
                Err(error) if error.code() == Code::FULL && bytes > least => {
                    bytes = (bytes / 2).next_multiple_of(u64::from(self.log.block_bytes)).max(least);
                }
                created => return created,
            }
        }
    }

    pub(super) fn create_segment(&self, bytes: u64) -> Result<Segment, EngineError> {
        let number = self.log.marks.control().give_segment_id();
        let number =
            u32::try_from(number).map_err(|e| LogError::io("number", self.log.dir.path(), io::Error::other(e)))?;
        let name = format::segment_name(self.log.log_id, number);
        // One that is made ahead of need is not finished for a process that closes the database.
        let goes_on = || if self.log.stopping.stops_here() { Err(io::ErrorKind::Interrupted.into()) } else { Ok(()) };
        let file = create_segment(&*self.log.dir, &name, bytes, &goes_on)?;
        let segment = Arc::new(SegmentFile::new(number, name, file, bytes, || None));
        self.files.add_segment(segment.clone());
        Ok(segment)
    }
}
