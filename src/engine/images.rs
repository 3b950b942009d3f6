//! The images that a checkpoint pass brings to the database file, each proven by its CRC.
//!
//! All are proven before the first byte of the pass is written: with some of them in the file and one that cannot be proven,
//! neither the file nor the log would be a state of the database. A pass of usual size keeps what it has proven in memory; a
//! larger one reads and proves each image again when it is written.
//!
//! The CRC of an image lies in the frame table where this process has seen the head of its batch: of its own commits, and of
//! large ones of others. Of the others' small commits, which are followed by the commit ring alone, the head is read here.

use super::context::LogContext;
use super::error::EngineError;
use super::frames::{BatchAt, FileId, Frame, NewestByPage, UNREAD};
use super::segment_files::SegmentFiles;
use crate::disk::LogFile;
use crate::log::follow::proven;
use crate::log::format::image_crc;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What a pass keeps in memory at most.
const KEPT_BYTES_MAX: usize = 8 << 20;

/// The images of a pass: those of the pages that the database has after it.
pub(super) struct Images<'a> {
    log: &'a LogContext,
    files: &'a SegmentFiles,
    /// In page order.
    frames: Vec<(Frame, Arc<dyn LogFile>)>,
    /// The images, concatenated, if they are few.
    kept: Option<Vec<u8>>,
}

impl<'a> Images<'a> {
    /// Reads and verifies them all. `batches`: the addresses of the batches that have frames whose CRC is not known.
    ///
    /// # Errors
    /// [`EngineError::Image`] for one that is not valid, or any error of the medium.
    pub(super) fn prove(
        log: &'a LogContext,
        files: &'a SegmentFiles,
        newest: NewestByPage,
        batches: &[BatchAt],
        database_pages: u32,
    ) -> Result<Images<'a>, EngineError> {
        let frames = newest.into_iter().filter(|(page, _)| *page <= database_pages).map(|(_, found)| found);
        let mut images = Images { log, files, frames: frames.collect(), kept: None };
        images.learn(batches)?;
        let page_bytes = log.page_bytes as usize;
        let is_small = images.frames.len() * page_bytes <= KEPT_BYTES_MAX;
        let mut space = vec![0; if is_small { images.frames.len() } else { 1 } * page_bytes];
        for (at, (frame, file)) in images.frames.iter().enumerate() {
            let at = if is_small { at * page_bytes } else { 0 };
            images.read_proven(frame, file, &mut space[at..at + page_bytes])?;
        }
        images.kept = is_small.then_some(space);
        Ok(images)
    }

    /// The pages, ascending.
    pub(super) fn pages(&self) -> impl Iterator<Item = u32> {
        self.frames.iter().map(|(frame, _)| frame.page)
    }

    /// Puts the image of `page` into `buffer`.
    ///
    /// # Errors
    /// As [`Images::prove`].
    pub(super) fn read(&self, page: u32, buffer: &mut [u8]) -> Result<(), EngineError> {
        let at = self.frames.binary_search_by_key(&page, |(frame, _)| frame.page).map_err(|_| EngineError::NoLog)?;
        let Some(kept) = &self.kept else {
            let (frame, file) = &self.frames[at];
            return self.read_proven(frame, file, buffer);
        };
        buffer.copy_from_slice(&kept[at * buffer.len()..(at + 1) * buffer.len()]);
        Ok(())
    }

    /// The CRCs of the frames that have none yet, from the heads of their batches.
    fn learn(&mut self, batches: &[BatchAt]) -> Result<(), EngineError> {
        let mut unknown: BTreeMap<u64, Vec<&mut Frame>> = BTreeMap::new();
        for (frame, _) in self.frames.iter_mut().filter(|(frame, _)| frame.crc == UNREAD) {
            unknown.entry(frame.sequence).or_default().push(frame);
        }
        for batch in batches {
            let Some(frames) = unknown.get_mut(&batch.sequence) else { continue };
            let segment = self.files.segment(batch.segment)?;
            let head = match self.files.reader_of(&segment)? {
                Some(reader) => proven(reader.head_at(batch.offset))?,
                None => None,
            };
            let head = head.filter(|head| head.header.sequence == batch.sequence);
            let head = head.ok_or_else(|| self.log.no_commit(batch.sequence))?;
            for frame in frames {
                // Of several images of one page the last counts.
                let of_page = head.descriptors.iter().rfind(|descriptor| descriptor.page == frame.page);
                frame.crc = of_page.map_or(UNREAD, |descriptor| descriptor.crc);
            }
        }
        Ok(())
    }

    fn read_proven(&self, frame: &Frame, file: &Arc<dyn LogFile>, buffer: &mut [u8]) -> Result<(), EngineError> {
        let read = file.read_at(buffer, frame.offset).map_err(|e| EngineError::read(&self.log.path, e))?;
        if read < buffer.len() {
            return Err(EngineError::ShortLog { file: self.log.dir.path().to_path_buf(), page: frame.page });
        }
        frame.unmask(buffer, 0);
        if frame.crc == image_crc(self.log.log_id, frame.page, frame.sequence, buffer)
            || crate::drops("r8-images-proven")
        {
            return Ok(());
        }
        let file = match frame.file() {
            FileId::Segment(number) => crate::log::format::segment_name(self.log.log_id, number),
            FileId::Spill(number) => crate::log::format::spill_name(self.log.log_id, number),
        };
        Err(EngineError::Image {
            file: self.log.dir.path().join(file),
            page: frame.page,
            sequence: frame.sequence,
            offset: frame.offset,
        })
    }
}
