//! The images that a checkpoint pass brings to the database file, each proven by its CRC.
//!
//! All are proven before the first byte of the pass is written: with some of them in the file and one that cannot be proven,
//! neither the file nor the log would be a state of the database. A pass of usual size keeps what it has proven in memory; a
//! larger one reads and proves each image again when it is written. Images that lie side by side are read at once.
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

/// What a pass keeps in memory at most. Simulations have passes on both sides of it.
const KEPT_BYTES_MAX: usize = if cfg!(test) { 16 << 10 } else { 8 << 20 };
/// Images that lie one after the other, those of neighbouring pages of one commit for example, are read at once, up to this.
const RUN_BYTES_MAX: usize = if cfg!(test) { 12 << 10 } else { 256 << 10 };

/// The images of a pass: those of the pages that the database has after it.
pub(super) struct Images<'a> {
    log: &'a LogContext,
    files: &'a SegmentFiles,
    /// In page order.
    frames: Vec<(Frame, Arc<dyn LogFile>)>,
    /// The images, concatenated, if they are few.
    kept: Option<Vec<u8>>,
    /// Else the last run that was read: the place of its first frame, and its images.
    run: (usize, Vec<u8>),
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
        let mut images = Images { log, files, frames: frames.collect(), kept: None, run: (0, Vec::new()) };
        images.learn(batches)?;
        let page_bytes = log.page_bytes as usize;
        let is_small = images.frames.len() * page_bytes <= KEPT_BYTES_MAX;
        let mut space =
            vec![0; if is_small { images.frames.len() * page_bytes } else { RUN_BYTES_MAX.max(page_bytes) }];
        let mut at = 0;
        while at < images.frames.len() {
            let (run, place) = (images.run_at(at), if is_small { at * page_bytes } else { 0 });
            images.read_proven(at, &mut space[place..place + run * page_bytes])?;
            at += run;
        }
        images.kept = is_small.then_some(space);
        Ok(images)
    }

    /// The pages, ascending.
    pub(super) fn pages(&self) -> Vec<u32> {
        self.frames.iter().map(|(frame, _)| frame.page).collect()
    }

    /// Puts the image of `page` into `buffer`.
    ///
    /// # Errors
    /// As [`Images::prove`].
    pub(super) fn read(&mut self, page: u32, buffer: &mut [u8]) -> Result<(), EngineError> {
        let at = self.frames.binary_search_by_key(&page, |(frame, _)| frame.page).map_err(|_| EngineError::NoLog)?;
        let page_bytes = buffer.len();
        if self.kept.is_none() && !(self.run.0..self.run.0 + self.run.1.len() / page_bytes).contains(&at) {
            let mut space = std::mem::take(&mut self.run.1);
            space.resize(self.run_at(at) * page_bytes, 0);
            self.read_proven(at, &mut space)?;
            self.run = (at, space);
        }
        let (first, images) = self.kept.as_ref().map_or((self.run.0, &self.run.1), |kept| (0, kept));
        buffer.copy_from_slice(&images[(at - first) * page_bytes..(at - first + 1) * page_bytes]);
        Ok(())
    }

    /// How many frames from this one on have images that lie one after the other.
    fn run_at(&self, at: usize) -> usize {
        let page_bytes = self.log.page_bytes as usize;
        let first = &self.frames[at].0;
        let most = (RUN_BYTES_MAX / page_bytes).max(1);
        let mut end = first.offset();
        let follows = |(frame, _): &&(Frame, Arc<dyn LogFile>)| {
            let is_next = frame.file() == first.file() && frame.offset() == end;
            end += frame.form().stored_bytes(page_bytes) as u64;
            is_next
        };
        self.frames[at..].iter().take(most).take_while(follows).count()
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

    /// Reads the images of the run of frames that begins with this one, as many as fit, and proves each.
    fn read_proven(&self, at: usize, images: &mut [u8]) -> Result<(), EngineError> {
        let page_bytes = self.log.page_bytes as usize;
        let (first, file) = &self.frames[at];
        let run = &self.frames[at..at + images.len() / page_bytes];
        let mut end: usize = run.iter().map(|(frame, _)| frame.form().stored_bytes(page_bytes)).sum();
        let read =
            file.read_at(&mut images[..end], first.offset()).map_err(|e| EngineError::read(&self.log.path, e))?;
        // What is stored is shorter than the images: the last one is moved to its place first.
        for (nth, (frame, _)) in run.iter().enumerate().rev() {
            if read < end {
                return Err(EngineError::ShortLog { file: self.log.dir.path().to_path_buf(), page: frame.page });
            }
            let start = end - frame.form().stored_bytes(page_bytes);
            images.copy_within(start..end, nth * page_bytes);
            self.prove_one(frame, &mut images[nth * page_bytes..(nth + 1) * page_bytes])?;
            end = start;
        }
        Ok(())
    }

    /// Whether `image`, which begins with what is stored of it, is that of the frame; it is the image after that.
    fn prove_one(&self, frame: &Frame, image: &mut [u8]) -> Result<(), EngineError> {
        frame.form().restore(image, 0, frame.offset());
        if frame.crc == image_crc(self.log.log_id, frame.page, frame.sequence, image)
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
            offset: frame.offset(),
        })
    }
}
