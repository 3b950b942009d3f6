//! The segments of the log: which one is next, and which are free.
//!
//! Nothing of this is stored: which segment is next stands in the control block, what is free is derived from headers
//! and rings. A free one is used again, or else a new one is made: with all of its space, and synced (R6), ahead of need by a
//! thread of the engine, when a quarter of the present one is written, or by the writer that has filled the present one.
//! The process has reserved it meanwhile (`reservation.rs`), and holds no lock that others need.

use super::append::Append;
use super::context::LogContext;
use super::error::EngineError;
use super::limits::Limits;
use super::owner_lock::OwnerLocks;
use super::reservation::{Create, Free, NextMaker, Reservation};
use super::segment_file::{Segment, SegmentFile};
use super::segment_files::{Found, SegmentFiles};
use super::tail::{AppendGuard, CERTIFICATE_BLOCKS, End, LogTail};
use crate::log::LogError;
use crate::log::format;
use crate::log::segments::{Space, create_segment};
use crate::shared::{RecordAddress, commit_ring};
use crate::sqlite::Code;
use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

/// Blocks that a batch's room has to spare, for the certificates that come before it.
const SPARE_BLOCKS: u64 = 4;

/// Where no commit wants durability, this many segments may be written before a flush is due.
pub(super) const UNDURABLE_SEGMENTS: u64 = 2;

/// Commits that show whether those to come will wait for a sync. Where fewer than one of this number does, it is not worth writing zeros.
pub(super) const RECENT_COMMITS: u64 = 100;

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

/// Chooses and makes segments.
pub(crate) struct Segments {
    log: Arc<LogContext>,
    locks: Arc<OwnerLocks>,
    files: Arc<SegmentFiles>,
    tail: Arc<LogTail>,
    append: Arc<Append>,
    limits: Limits,
    pub(super) create: Arc<Create>,
    /// The segment during which no next segment file could be made ahead of need: a nearly full disk is not filled again
    /// and again.
    ahead_failed: AtomicU64,
    /// The largest batch for which room was made since a segment was last chosen ahead of need, in bytes.
    largest_batch: AtomicU64,
}

impl Segments {
    pub(super) fn new(
        log: &Arc<LogContext>,
        locks: &Arc<OwnerLocks>,
        files: &Arc<SegmentFiles>,
        tail: &Arc<LogTail>,
        append: &Arc<Append>,
    ) -> Segments {
        let (limits, ahead_failed) = (Limits::new(log), AtomicU64::new(0));
        let create = Arc::new(Create::new(log, locks, files, append));
        let (log, locks, files) = (Arc::clone(log), Arc::clone(locks), Arc::clone(files));
        Segments {
            log,
            locks,
            files,
            tail: Arc::clone(tail),
            append: Arc::clone(append),
            limits,
            create,
            ahead_failed,
            largest_batch: AtomicU64::new(0),
        }
    }

    /// The log was retired.
    pub(super) fn forget(&self) {
        self.ahead_failed.store(0, SeqCst);
    }

    /// The bytes of a segment that takes such a batch.
    fn bytes_for(&self, batch_bytes: u64) -> u64 {
        self.log.round_up(batch_bytes) + self.tail.blocks(CERTIFICATE_BLOCKS + 2 * SPARE_BLOCKS)
    }

    /// Whether a batch of `batch_bytes` fits: in the current segment, whatever few certificates come before it, or in
    /// the next one. Without APPEND: other processes' certificates may take the space, and publish checks again.
    fn has_room(&self, batch_bytes: u64) -> Result<bool, EngineError> {
        let bytes = self.log.round_up(batch_bytes) + self.tail.blocks(SPARE_BLOCKS);
        let fits = |tail: RecordAddress, segment: &Segment| tail.offset + bytes <= self.tail.limit(segment);
        if self.tail.with_end(|end| end.is_some_and(|end| fits(end.tail, &end.segment))) {
            return Ok(true);
        }
        let tail = self.log.tail();
        if self.files.segment_if_there(tail.segment)?.is_some_and(|segment| fits(tail, &segment)) {
            return Ok(true);
        }
        let next = self.next(tail)?;
        Ok(next.is_some_and(|next| u64::from(self.log.block_bytes) + bytes <= self.tail.limit(&next)))
    }

    /// The next segment, where the log ends at `tail`.
    fn next(&self, tail: RecordAddress) -> Result<Option<Segment>, EngineError> {
        let next = self.log.marks.control().next_segment().filter(|next| *next != tail.segment);
        next.map_or(Ok(None), |number| self.files.segment_if_there(number))
    }

    /// Whether there is a next segment of this size.
    fn is_chosen(&self, least: u64) -> Result<bool, EngineError> {
        Ok(self.next(self.log.tail())?.is_some_and(|next| next.bytes >= least))
    }

    /// Whether the next segment is to be prepared ahead of need.
    pub(super) fn is_low(&self, append: &AppendGuard) -> bool {
        let Some(End { tail, segment, .. }) = &append.end else { return false };
        is_low(*tail, segment) && self.tail.next_segment(*tail).is_none() && !self.has_failed_ahead(*tail)
    }

    /// The next segment could not be made since the present one began.
    fn has_failed_ahead(&self, tail: RecordAddress) -> bool {
        self.ahead_failed.load(SeqCst) == tail.ordinal
    }

    /// Makes room for a batch of this size, in the current segment or in the next one.
    ///
    /// # Errors
    /// A full disk, a medium that fails. `LockHeld`: other processes have all reservations, and make no progress.
    pub(super) fn make_room(&self, bytes: u64) -> Result<(), EngineError> {
        if bytes > self.largest_batch.load(SeqCst) {
            self.largest_batch.fetch_max(bytes, SeqCst);
        }
        let mut wait = None;
        while !self.has_room(bytes)? {
            match self.create.reserve_next()? {
                NextMaker::Here(reservation) => self.choose_next(&reservation, bytes)?,
                NextMaker::Other(making) => {
                    let wait = wait.get_or_insert_with(|| self.locks.bounded_wait());
                    self.locks.goes_on(wait, "CREATE", making.map(|making| making.owner))?;
                    self.create.wait_a_moment(making);
                }
            }
        }
        Ok(())
    }

    /// Prepares the next segment ahead of need; a failure is not reported here: the writer that needs the segment meets
    /// it.
    pub(crate) fn prepare_next_segment(&self) {
        // `LockHeld`: the writer that needs the segment gets the error.
        if let Err(error) = self.try_prepare_next_segment()
            && !matches!(error, EngineError::LockHeld { .. })
            && !self.log.stopping.stops_here()
        {
            self.ahead_failed.store(self.log.tail().ordinal, SeqCst);
            self.log.environment.host.log(error.code().number(), &format!("pwal: no segment ahead of need: {error}"));
        }
    }

    fn try_prepare_next_segment(&self) -> Result<(), EngineError> {
        let tail = self.tail.with_end(|end| end.map(|end| end.tail));
        if tail.is_some_and(|tail| self.log.marks.control().next_segment().is_some_and(|next| next != tail.segment)) {
            return Ok(());
        }
        // Where another process makes it, and is stopped, the next commit asks again.
        let NextMaker::Here(reservation) = self.create.reserve_next()? else { return Ok(()) };
        let tail = self.log.tail();
        let next = self.log.marks.control().next_segment().filter(|next| *next != tail.segment);
        let is_wanted = self.log.is_active() && next.is_none() && !self.has_failed_ahead(tail);
        if is_wanted && self.files.segment_if_there(tail.segment)?.is_some_and(|segment| is_low(tail, &segment)) {
            // With room for the batches of late: a smaller one would be given up when the next of them comes.
            self.choose_next(&reservation, self.largest_batch.swap(0, SeqCst))?;
        }
        Ok(())
    }

    /// Chooses the next segment, with room for a batch of this size: one that is free by now, or a new one. Where another
    /// process has chosen one meanwhile that has room, too, that one stays.
    pub(super) fn choose_next(&self, reservation: &Reservation, batch_bytes: u64) -> Result<(), EngineError> {
        let least = self.bytes_for(batch_bytes);
        while !self.is_chosen(least)? {
            let (all, tail) = self.survey()?;
            reservation.add_step();
            let free = self.free_segments(&all, tail).into_iter().find(|free| free.segment.bytes >= least);
            let segment = match free {
                Some(free) if self.create.reserve_free(reservation, &free)? => {
                    self.reuse(&free)?;
                    free.segment
                }
                // Another process was faster.
                Some(_) => continue,
                None => match self.make(reservation, &all, batch_bytes) {
                    Err(_) if self.is_chosen(least)? => return Ok(()),
                    made => made?,
                },
            };
            reservation.add_step();
            return self.set_next(&segment, &all, tail, least);
        }
        Ok(())
    }

    /// A free segment, which is reserved, is used again.
    fn reuse(&self, free: &Free) -> Result<(), EngineError> {
        if free.last_sequence == 0 {
            // The process that made it may have died before its space and its name were durable.
            if !crate::drops("r6-sync-begun-segment") {
                free.segment.sync()?;
            }
            if !crate::drops("r6-sync-begun-name") {
                self.log.dir.sync().map_err(|e| EngineError::sync("the log directory", e))?;
            }
        }
        // Read from the database file from now on.
        if !crate::drops("recycled-below") {
            self.log.marks.recycle_to(free.last_sequence);
        }
        self.files.add_segment(free.segment.clone());
        Ok(())
    }

    /// The log continues in `segment`, which is reserved, unless there is a next segment of this size by now; then it is free.
    /// `all` is what there was when the log ended at `tail`.
    pub(super) fn set_next(
        &self,
        segment: &Segment,
        all: &[Found],
        tail: RecordAddress,
        least: u64,
    ) -> Result<(), EngineError> {
        let append = self.append.lock()?;
        if self.is_chosen(least)? && !crate::drops("create-first-counts") {
            return Ok(());
        }
        self.tail.invalidate_started_segments_except(&append, all, tail.ordinal, Some(segment.id))?;
        self.log.marks.control().set_next_segment(Some(segment.id));
        Ok(())
    }

    /// Every segment file, and where the log ended meanwhile.
    pub(super) fn survey(&self) -> Result<(Vec<Found>, RecordAddress), EngineError> {
        let tail = || self.append.lock().map(|_append| self.log.tail());
        // A writer may rotate meanwhile: then the header of its segment was read too early, and the segment that has just
        // ended would seem to be older than any other.
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

    /// The segments of which nothing is needed any more, and that no process has reserved.
    pub(super) fn free_segments(&self, all: &[Found], tail: RecordAddress) -> Vec<Free> {
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
            let is_free = is_over && !is_needed && !self.create.is_reserved(found.segment.id);
            let (segment, header) = (found.segment.clone(), found.header.clone());
            is_free.then_some(Free { segment, header, last_sequence, is_used })
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
        let first_kept = (backfilled + 1).max((published + 1).saturating_sub(commit_ring()));
        let entries = (first_kept..=published).map(|sequence| control.commit(sequence).map(|entry| entry.segment));
        let last_epoch = (control.last_certified_epoch().max(1)..=control.last_written_epoch())
            .map(|epoch| control.epoch(epoch).map(|record| record.segment));
        let mut are_all = first_kept == backfilled + 1;
        for file in entries.chain(last_epoch) {
            are_all &= file.is_some();
            segments.extend(file);
        }
        Needed { segments, are_all }
    }

    /// A new segment with room for a batch of this size: twice the largest so far, or less where the disk is nearly full.
    fn make(&self, reservation: &Reservation, all: &[Found], batch_bytes: u64) -> Result<Segment, EngineError> {
        let least = self.bytes_for(batch_bytes);
        self.limits.keep_within(all, least)?;
        let least = self.log.round_up(least);
        let largest = all.iter().map(|found| found.segment.bytes).max().unwrap_or(0);
        // Whole blocks: the header of another segment is not valid.
        let mut bytes = self.log.round_up((largest * 2).min(self.log.settings.segment_bytes())).max(least);
        let made = loop {
            match self.create_segment(reservation, bytes, self.space_for(all, bytes, batch_bytes)) {
                Err(error) if (error.code() == Code::FULL || error.is_too_large()) && bytes > least => {
                    bytes = (bytes / 2).next_multiple_of(u64::from(self.log.block_bytes)).max(least);
                }
                created => break created?,
            }
        };
        self.limits.note_in_use(all, &made);
        Ok(made)
    }

    /// How a new segment of `bytes` gets its space: zeros are written where commits wait for their syncs, unless the batch that it is
    /// made for fills half of it; and where more is undurable than what a flush is due for, so that writers that need no sync run no
    /// further ahead of the disk, nor keep more files open.
    fn space_for(&self, all: &[Found], bytes: u64, batch_bytes: u64) -> Space {
        let unsynced = self.log.first_unsynced_segment()..=self.log.tail().ordinal;
        let undurable: u64 = all
            .iter()
            .filter(|found| found.header.as_ref().is_some_and(|header| unsynced.contains(&header.ordinal)))
            .map(|found| found.segment.bytes)
            .sum();
        let bound = UNDURABLE_SEGMENTS * self.log.settings.segment_bytes();
        let is_fast = || undurable <= bound || crate::drops("allocated-bounded");
        let is_wanted = || self.log.marks.control().is_durability_wanted(RECENT_COMMITS);
        let waits = || is_wanted() && !crate::drops("allocated-without-waits");
        if batch_bytes * 2 > bytes || is_fast() && !waits() { Space::Allocated } else { Space::Written }
    }

    pub(super) fn create_segment(
        &self,
        reservation: &Reservation,
        bytes: u64,
        space: Space,
    ) -> Result<Segment, EngineError> {
        let number = self.log.marks.control().give_segment_id();
        let number =
            u32::try_from(number).map_err(|e| LogError::io("number", self.log.dir.path(), io::Error::other(e)))?;
        let name = format::segment_name(self.log.log_id, number);
        // Before the file is there.
        reservation.set_new_segment(number);
        let goes_on = || {
            reservation.add_step();
            // One that is made ahead of need is not finished for a process that closes the database.
            if self.log.stopping.stops_here() { Err(io::ErrorKind::Interrupted.into()) } else { Ok(()) }
        };
        let file = create_segment(&*self.log.dir, &name, bytes, space, &goes_on)?;
        let segment = Arc::new(SegmentFile::new(number, name, file, bytes, || None));
        self.files.add_segment(segment.clone());
        Ok(segment)
    }
}
