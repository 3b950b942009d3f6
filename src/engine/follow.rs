//! Following the log: what other processes published becomes frames of this process's table.
//!
//! The commit ring has the addresses of the newest batches, and of a small commit its pages: that batch need not be
//! read. A process that fell behind the ring walks the segments, as recovery does. What is published is written, so all
//! that is read is valid; what is backfilled need not be read.

use super::context::LogContext;
use super::error::EngineError;
use super::frames::{FileId, Frames, LogCommit, NewFrame};
use super::log_frames::LogFrames;
use super::segment_files::SegmentFiles;
use super::segment_files::if_there;
use crate::disk::OpenMode;
use crate::interleave::step;
use crate::log::format::{self, Batch, ImagePlace, batch_head_bytes};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

/// Commits that a walk adds while others wait for the table.
const WALKED_AT_ONCE: u64 = 1024;

/// Keeps the frame table of the process up to date.
pub(crate) struct Follower {
    log: Arc<LogContext>,
    files: Arc<SegmentFiles>,
    pub(super) frames: Arc<LogFrames>,
    /// How many segments this process knows to be deleted.
    deleted_known: AtomicU64,
}

impl Follower {
    pub(super) fn new(log: &Arc<LogContext>, files: &Arc<SegmentFiles>, frames: &Arc<LogFrames>) -> Follower {
        let (log, files, frames) = (Arc::clone(log), Arc::clone(files), Arc::clone(frames));
        Follower { log, files, frames, deleted_known: AtomicU64::new(0) }
    }

    /// Closes the files of segments that were deleted since this process last looked.
    pub(super) fn close_deleted(&self) {
        self.close_deleted_in(&mut self.frames.write());
    }

    /// Closes the files of segments that were deleted since this process last looked.
    fn close_deleted_in(&self, frames: &mut Frames) {
        let deleted = self.log.marks.control().segments_deleted();
        if self.deleted_known.swap(deleted, SeqCst) == deleted {
            return;
        }
        frames.drop_to(self.log.marks.backfilled());
        for number in self.files.close_deleted_slots() {
            frames.remove_file(FileId::Segment(number));
        }
    }

    /// Brings the frame table to commit `to`, which is published.
    ///
    /// # Errors
    /// The log cannot be read.
    pub(super) fn follow(&self, to: u64) -> Result<(), EngineError> {
        if self.frames.followed() >= to {
            return Ok(());
        }
        loop {
            let mut frames = self.frames.write();
            let followed = self.follow_with(&mut frames, to);
            self.frames.set_followed(frames.last_sequence());
            if followed? {
                return Ok(());
            }
        }
    }

    /// False: there is more to follow, and others may read the table first.
    fn follow_with(&self, frames: &mut Frames, to: u64) -> Result<bool, EngineError> {
        while frames.last_sequence() < to {
            let (backfilled, pages) = self.log.marks.control().backfilled_pages().unwrap_or((0, 0));
            frames.drop_to(backfilled);
            self.close_deleted_in(frames);
            if frames.last_sequence() < backfilled {
                frames.begin_at(backfilled, pages);
                continue;
            }
            while frames.last_sequence() < to && self.follow_entry(frames, frames.last_sequence() + 1)? {}
            if frames.last_sequence() >= to {
                break;
            }
            let next = frames.last_sequence() + 1;
            let walks = self.log.marks.control().commit(next).is_none();
            if walks {
                step("the commit ring has moved on");
            }
            let added = if walks { self.walk(frames, to)? } else { self.add_published(frames, next)? };
            // Else it is backfilled, and written over or deleted meanwhile.
            if !added && self.log.marks.backfilled() < next {
                return Err(self.log.no_commit(next));
            }
            if walks {
                return Ok(frames.last_sequence() >= to);
            }
        }
        Ok(true)
    }

    /// Adds a small commit by what the commit ring says of it. False: its batch must be read.
    fn follow_entry(&self, frames: &mut Frames, sequence: u64) -> Result<bool, EngineError> {
        let Some(entry) = self.log.marks.control().commit(sequence) else { return Ok(false) };
        let Some(pages) = entry.inline_pages().filter(|pages| !pages.contains(&0)) else { return Ok(false) };
        let commit = LogCommit {
            sequence,
            database_pages: entry.database_pages,
            lane: entry.lane,
            segment: entry.segment,
            ordinal: entry.ordinal,
            offset: entry.offset,
            end: entry.end,
        };
        if frames.end().is_none_or(|(ordinal, _)| ordinal != entry.ordinal) {
            let Some(segment) = self.files.segment_if_there(entry.segment)? else { return Ok(false) };
            self.files.note_ordinal(entry.ordinal, entry.segment);
            frames.add_file(FileId::Segment(entry.segment), &segment.file);
        }
        let images = batch_head_bytes(pages.len());
        let page_bytes = u64::from(self.log.page_bytes);
        frames
            .append(&commit, pages.iter().zip(0..).map(|(page, at)| NewFrame::unread(*page, images + at * page_bytes)));
        Ok(true)
    }

    /// False: its segment or its spill file is gone.
    fn add(&self, frames: &mut Frames, commit: &LogCommit, batch: &Batch) -> Result<bool, EngineError> {
        let Some(segment) = self.files.segment_if_there(commit.segment)? else { return Ok(false) };
        let mut spilled = None;
        for descriptor in &batch.descriptors {
            if let ImagePlace::Spill { file, .. } = descriptor.place
                && spilled != Some(file)
            {
                let name = format::spill_name(self.log.log_id, file);
                let spill = match self.log.dir.open(&name, OpenMode::Existing) {
                    Ok(spill) => spill,
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
                    Err(error) => return Err(EngineError::open(&name, error)),
                };
                frames.add_file(FileId::Spill(file), &spill);
                frames.add_spill(commit.sequence, file);
                spilled = Some(file);
            }
        }
        frames.add_file(FileId::Segment(commit.segment), &segment.file);
        frames.append(commit, batch.descriptors.iter().map(NewFrame::from));
        Ok(true)
    }

    /// Adds the commit `sequence` by its batch. False: it is not there any more.
    fn add_published(&self, frames: &mut Frames, sequence: u64) -> Result<bool, EngineError> {
        let Some(entry) = self.log.marks.control().commit(sequence) else { return Ok(true) };
        let Some(batch) = self.files.batch_of(&entry)? else { return Ok(false) };
        self.files.note_ordinal(entry.ordinal, entry.segment);
        self.add(frames, &LogCommit::of(&batch, entry.segment), &batch)
    }

    /// Walks the segments from the end of the table's last commit as far as commit `to` or [`WALKED_AT_ONCE`] commits,
    /// which are no longer in the ring: a segment is read ahead, so the time grows with its bytes. False: the next
    /// commit is no longer there.
    fn walk(&self, frames: &mut Frames, to: u64) -> Result<bool, EngineError> {
        let block = u64::from(self.log.block_bytes);
        let before = frames.last_sequence();
        let to = to.min(before + WALKED_AT_ONCE);
        let Some((mut ordinal, mut offset)) = self.walk_from(frames, before + 1)? else { return Ok(false) };
        while frames.last_sequence() < to && ordinal <= self.log.tail().ordinal {
            let Some(segment) = self.files.segment_with_ordinal(ordinal)? else { break };
            let Some(reader) = self.files.reader_of(&segment)?.filter(|reader| reader.header.ordinal == ordinal) else {
                break;
            };
            let reader = reader.reading_ahead();
            while frames.last_sequence() < to && offset < segment.bytes {
                if let Some(batch) = if_there(reader.head_at(offset))? {
                    let is_next = batch.header.sequence == frames.last_sequence() + 1;
                    if is_next && !self.add(frames, &LogCommit::of(&batch, segment.id), &batch)? {
                        return Ok(frames.last_sequence() > before);
                    }
                    offset += batch.header.bytes;
                } else if if_there(reader.certificate_at(offset))?.is_some() || !offset.is_multiple_of(block) {
                    // Of a doubled certificate the first block comes after the zeros at the end of this one.
                    offset = reader.block_after(offset);
                } else {
                    break;
                }
            }
            (ordinal, offset) = (ordinal + 1, block);
        }
        Ok(frames.last_sequence() > before)
    }

    /// Segment and offset from which the walk to the commit `sequence` begins: where the log was read to, unless that segment has
    /// been written over since.
    fn walk_from(&self, frames: &Frames, sequence: u64) -> Result<Option<(u64, u64)>, EngineError> {
        if let Some((ordinal, offset)) = frames.end()
            && self.files.segment_with_ordinal(ordinal)?.is_some()
        {
            return Ok(Some((ordinal, offset)));
        }
        Ok(self.files.ordinal_with(sequence)?.map(|ordinal| (ordinal, u64::from(self.log.block_bytes))))
    }
}
