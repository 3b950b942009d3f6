//! The images of frames: from memory, from a segment or a spill file, or, once they are backfilled, from the database file.
//!
//! A reader takes no lock while it reads a file. Meanwhile the segment may have been used again, or the file deleted: so it is
//! looked after the read whether the frame's commit is recycled by then, and if it is, the database file has the image.

use super::context::LogContext;
use super::durability::Durability;
use super::error::EngineError;
use super::follow::Follower;
use super::frames::Frame;
use super::freelist::FreelistCache;
use super::log_frames::LogFrames;
use crate::disk::{LogFile, is_out_of_descriptors};
use std::sync::Arc;

/// Reads frames, and shows the frame table to views.
pub(crate) struct FrameReader {
    log: Arc<LogContext>,
    pub(super) durability: Arc<Durability>,
    pub(super) follower: Arc<Follower>,
    frames: Arc<LogFrames>,
    pub(crate) freelist: FreelistCache,
}

/// What a view needs to know of its snapshot beside the frames.
pub(crate) struct SnapshotFacts {
    pub(crate) database_pages: u32,
    /// Frames that are not backfilled.
    pub(crate) frames: usize,
}

impl FrameReader {
    pub(super) fn new(log: &Arc<LogContext>, durability: &Arc<Durability>, follower: &Arc<Follower>) -> FrameReader {
        let (log, durability, follower) = (Arc::clone(log), Arc::clone(durability), Arc::clone(follower));
        let frames = Arc::clone(&follower.frames);
        FrameReader { log, durability, follower, frames, freelist: FreelistCache::default() }
    }

    /// Reads `buffer.len()` bytes at `offset` of the image of frame `number`. False: it is in the
    /// database file, read it there.
    ///
    /// # Errors
    /// The medium failed.
    pub(crate) fn read_frame(&self, number: u64, offset: u64, buffer: &mut [u8]) -> Result<bool, EngineError> {
        if let Some(sequence) = self.frames.recent.read(number, offset, buffer) {
            self.check_kept(sequence)?;
            return Ok(true);
        }
        let Some((frame, file)) = self.frames.read().locate(number) else { return Ok(false) };
        self.read_located(&frame, file.as_deref(), offset, buffer)
    }

    /// As [`FrameReader::read_frame`], of a frame that the table had a moment ago.
    pub(super) fn read_located(
        &self,
        frame: &Frame,
        file: Option<&dyn LogFile>,
        offset: u64,
        buffer: &mut [u8],
    ) -> Result<bool, EngineError> {
        crate::interleave::step("frame located");
        let Some(file) = file else {
            // Its segment or its spill file is deleted: the database file has what was in it.
            let is_there = frame.sequence <= self.log.marks.backfilled();
            return if is_there { Ok(false) } else { Err(self.log.no_commit(frame.sequence)) };
        };
        let (form, begin) = (frame.form(), usize::try_from(offset).unwrap_or(usize::MAX));
        let stored = form.stored(begin..begin.saturating_add(buffer.len()));
        let wanted = stored.len();
        let read = self.durability.with_descriptors(|| {
            Ok(match file.read_at(&mut buffer[..wanted], frame.offset() + stored.start as u64) {
                Err(error) if is_out_of_descriptors(&error) => return Err(EngineError::read(&self.log.path, error)),
                read => read,
            })
        })?;
        // The segment may have been used again meanwhile, or the file deleted, which is empty then: the database file has the image.
        let is_cut = read.as_ref().is_ok_and(|read| *read < wanted);
        if self.log.marks.recycled(frame.sequence) || (is_cut && frame.sequence <= self.log.marks.backfilled()) {
            crate::interleave::step("frame gone");
            return Ok(false);
        }
        let read = read.map_err(|e| EngineError::read(&self.log.path, e))?;
        self.check_kept(frame.sequence)?;
        if read < wanted {
            return Err(EngineError::ShortLog { file: self.log.dir.path().to_path_buf(), page: frame.page });
        }
        form.restore(buffer, begin, frame.offset());
        Ok(true)
    }

    /// # Errors
    /// A failed flush took commit `sequence`, or may have: the reader has seen more than what is durable now.
    fn check_kept(&self, sequence: u64) -> Result<(), EngineError> {
        if self.log.marks.is_poisoned() && sequence > self.log.marks.durable() {
            let reason = "a flush failed".to_owned();
            return Err(self.log.poisoned_as(EngineError::Poisoned { reason, unknown: true }));
        }
        Ok(())
    }

    /// The number of the last frame of the commits up to `sequence`; at least that, where it has been dropped from the table.
    pub(crate) fn last_number(&self, sequence: u64) -> u64 {
        self.frames.read().last_number(sequence)
    }

    /// A connection of this process is to write beside others: the frames are found by their pages from now on.
    pub(crate) fn index_pages(&self) {
        let is_indexed = self.frames.read().has_page_index();
        if !is_indexed {
            self.frames.write().index_pages();
        }
    }

    /// The number of the newest frame of a page in the commits up to `sequence`; `None`: the database file has the page.
    ///
    /// # Errors
    /// What other processes wrote cannot be read.
    pub(crate) fn newest_of(&self, page: u32, sequence: u64) -> Result<Option<u64>, EngineError> {
        self.durability.with_descriptors(|| self.follower.follow(sequence))?;
        Ok(self.frames.read().newest_of(page, sequence))
    }

    /// The size of the database after commit `sequence`, which the table knows or has dropped, in pages.
    pub(crate) fn database_pages(&self, sequence: u64) -> u32 {
        self.frames.read().database_pages(sequence)
    }

    /// The frame table, which knows the commits up to `sequence`, for a view.
    ///
    /// # Errors
    /// What other processes wrote cannot be read.
    pub(crate) fn with_frames<T>(
        &self,
        use_it: impl FnOnce(&dyn crate::view::FrameTable, &SnapshotFacts) -> T,
        sequence: u64,
    ) -> Result<T, EngineError> {
        self.durability.with_descriptors(|| self.follower.follow(sequence))?;
        let frames = self.frames.read();
        let facts = SnapshotFacts { database_pages: frames.database_pages(sequence), frames: frames.len() };
        Ok(use_it(&*frames, &facts))
    }
}
