//! The lane: the frames that one write transaction has staged, in virtual frame order.
//!
//! Images lie in memory up to a limit, the rest in a spill file, densely. Memory is taken in chunks as it is
//! needed and kept for the next transaction; nothing is copied or zeroed when the lane grows.

use crate::disk::LogFile;
use std::io;
use std::sync::Arc;

use super::ViewError;
use crate::log::format::image_crc;

/// Images are kept in pieces of this size: one page of the largest size, 128 of the smallest.
const CHUNK_BYTES: usize = 65536;
/// The bookkeeping of this number of frames is kept for the next transaction.
const ENTRIES_KEPT: usize = 8192;

/// The memory of a lane: given to the view of a transaction, and taken back empty.
#[derive(Debug, Default)]
pub struct LaneMemory(Vec<Vec<u8>>);

/// What is known of a staged frame beside its image: 16 bytes, since one transaction may have millions.
#[derive(Clone, Copy, Debug)]
struct Entry {
    page: u32,
    crc: u32,
    /// Bytes 16..24 of the frame header as SQLite wrote it.
    sums: [u8; 8],
}

const _: () = assert!(size_of::<Entry>() == 16);

/// Where the image of a staged frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Image<'a> {
    /// In memory.
    Memory(&'a [u8]),
    /// In the spill file, at this offset in bytes.
    Spill(u64),
}

/// One staged frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StagedFrame<'a> {
    /// The page number.
    pub page: u32,
    /// `image_crc` of the image.
    pub crc: u32,
    /// The image.
    pub image: Image<'a>,
}

/// The frames that one write transaction has staged. A page may be there twice: the later one counts.
#[derive(Debug)]
pub struct Lane {
    page_bytes: usize,
    /// Frames before the spill.
    memory_frames_max: usize,
    frames_per_chunk: usize,
    /// Filled in order, each to its capacity.
    chunks: Vec<Vec<u8>>,
    entries: Vec<Entry>,
    spill: Option<Arc<dyn LogFile>>,
    /// A write to the spill file failed: the images in it are unknown.
    spill_failed: bool,
    /// Bytes 8..16 of the frame headers.
    salt: [u8; 8],
    /// The frame whose header has a database size (index in the lane), and that size.
    commit: Option<(usize, u32)>,
}

impl Lane {
    pub(super) fn new(page_bytes: u32, lane_bytes_max: usize) -> Lane {
        let page_bytes = page_bytes as usize;
        let mut lane = Lane {
            page_bytes,
            memory_frames_max: 1,
            frames_per_chunk: (CHUNK_BYTES / page_bytes).max(1),
            chunks: Vec::new(),
            entries: Vec::new(),
            spill: None,
            spill_failed: false,
            salt: [0; 8],
            commit: None,
        };
        lane.set_bytes_max(lane_bytes_max);
        lane
    }

    pub(super) fn set_bytes_max(&mut self, bytes: usize) {
        if self.is_empty() {
            self.memory_frames_max = (bytes / self.page_bytes).max(1);
            self.chunks.truncate(self.memory_frames_max.div_ceil(self.frames_per_chunk));
        }
    }

    pub(super) fn page_bytes(&self) -> usize {
        self.page_bytes
    }

    /// The number of frames staged.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nothing is staged.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The frames whose images are in memory: the first ones. Those of the others are in the spill file.
    #[must_use]
    pub fn memory_frames(&self) -> usize {
        self.len().min(self.memory_frames_max)
    }

    /// The spill file of this transaction, if it has one.
    #[must_use]
    pub fn spill(&self) -> Option<&Arc<dyn LogFile>> {
        self.spill.as_ref()
    }

    /// The pages of the frames, in lane order.
    pub fn pages(&self) -> impl ExactSizeIterator<Item = u32> + '_ {
        self.entries.iter().map(|entry| entry.page)
    }

    /// Whether the image of the frame at `index` would go to the spill file.
    pub(super) fn spills(&self, index: usize) -> bool {
        index >= self.memory_frames_max
    }

    /// The CRC of each image as that of commit `sequence`.
    pub(super) fn stamp(&mut self, log_id: u64, sequence: u64) -> io::Result<()> {
        let mut image = Vec::new();
        for index in 0..self.entries.len() {
            let page = self.entries[index].page;
            let crc = match self.memory(index) {
                Some(image) => image_crc(log_id, page, sequence, image),
                None => {
                    image.resize(self.page_bytes, 0);
                    self.read_image(index, 0, &mut image)?;
                    image_crc(log_id, page, sequence, &image)
                }
            };
            self.entries[index].crc = crc;
        }
        Ok(())
    }

    /// All frames in lane order.
    pub fn frames(&self) -> impl ExactSizeIterator<Item = StagedFrame<'_>> + '_ {
        self.entries.iter().enumerate().map(|(index, entry)| StagedFrame {
            page: entry.page,
            crc: entry.crc,
            image: self.memory(index).map_or_else(|| Image::Spill(self.spill_offset(index)), Image::Memory),
        })
    }

    /// The images in memory, in lane order, in as few pieces as there are.
    pub fn memory_pieces(&self) -> impl Iterator<Item = &[u8]> + '_ {
        self.chunks.iter().map(Vec::as_slice).filter(|chunk| !chunk.is_empty())
    }

    fn memory(&self, index: usize) -> Option<&[u8]> {
        if index >= self.memory_frames_max {
            return None;
        }
        let start = index % self.frames_per_chunk * self.page_bytes;
        self.chunks.get(index / self.frames_per_chunk)?.get(start..start + self.page_bytes)
    }

    fn spill_offset(&self, index: usize) -> u64 {
        (index.saturating_sub(self.memory_frames_max) as u64) * self.page_bytes as u64
    }

    /// Empties the lane; memory is kept, the spill file is not.
    pub(super) fn clear(&mut self) {
        self.truncate(0);
        if self.entries.capacity() > ENTRIES_KEPT {
            self.entries = Vec::new();
        }
        self.spill = None;
        self.spill_failed = false;
    }

    /// The memory of an empty lane; what a lane that is not empty keeps is nothing.
    pub(super) fn swap_memory(&mut self, memory: LaneMemory) -> LaneMemory {
        if !self.is_empty() {
            return memory;
        }
        self.chunks.truncate(self.memory_frames_max.div_ceil(self.frames_per_chunk));
        LaneMemory(std::mem::replace(&mut self.chunks, memory.0))
    }

    /// Drops the frames from `index` on.
    pub(super) fn truncate(&mut self, index: usize) {
        let chunks_now = self.memory_frames().div_ceil(self.frames_per_chunk);
        self.entries.truncate(index);
        let frames = self.memory_frames();
        let first = frames / self.frames_per_chunk;
        for i in first..chunks_now {
            let keep = if i == first { frames % self.frames_per_chunk * self.page_bytes } else { 0 };
            self.chunks[i].truncate(keep);
        }
        if self.commit.is_some_and(|(at, _)| at >= index) {
            self.commit = None;
        }
    }

    /// Drops the frames from `index` on (at most the length) and stages one there.
    pub(super) fn stage(
        &mut self,
        index: usize,
        frame: &Staging<'_>,
        open_spill: &mut dyn FnMut() -> io::Result<Arc<dyn LogFile>>,
    ) -> Result<(), ViewError> {
        if self.spill_failed {
            return Err(ViewError::SpillFailedBefore);
        }
        self.truncate(index);
        if index < self.memory_frames_max {
            let chunk = index / self.frames_per_chunk;
            if chunk == self.chunks.len() {
                let frames = self.frames_per_chunk.min(self.memory_frames_max - index);
                self.chunks.push(Vec::with_capacity(frames * self.page_bytes));
            }
            self.chunks[chunk].extend_from_slice(frame.image);
        } else {
            if self.spill.is_none() {
                self.spill = Some(open_spill().map_err(ViewError::Spill)?);
            }
            self.write_spill(index, frame.image)?;
        }
        if frame.database_pages != 0 {
            self.commit = Some((index, frame.database_pages));
        }
        self.entries.push(Entry { page: frame.page, crc: frame.crc(frame.page), sums: frame.sums });
        self.keep_salt(frame.salt);
        Ok(())
    }

    /// Replaces the image of the frame at `index`, which is there.
    pub(super) fn overwrite(
        &mut self,
        index: usize,
        image: &[u8],
        log_id: u64,
        sequence: u64,
    ) -> Result<(), ViewError> {
        if self.spill_failed {
            return Err(ViewError::SpillFailedBefore);
        }
        if index < self.memory_frames_max {
            let start = index % self.frames_per_chunk * self.page_bytes;
            self.chunks[index / self.frames_per_chunk][start..start + self.page_bytes].copy_from_slice(image);
        } else {
            self.write_spill(index, image)?;
        }
        let entry = &mut self.entries[index];
        entry.crc = image_crc(log_id, entry.page, sequence, image);
        Ok(())
    }

    /// The last frame of a page.
    pub(super) fn last_of(&self, page: u32) -> Option<usize> {
        self.entries.iter().rposition(|entry| entry.page == page)
    }

    /// Makes the frame at `index`, which is there, one of this page.
    pub(super) fn replace(
        &mut self,
        index: usize,
        (page, image): (u32, &[u8]),
        log_id: u64,
        sequence: u64,
    ) -> Result<(), ViewError> {
        self.entries[index].page = page;
        self.overwrite(index, image, log_id, sequence)
    }

    /// Adds a frame that SQLite has not staged: in memory, unless the spill file has begun.
    pub(super) fn append(&mut self, (page, image): (u32, &[u8]), log_id: u64, sequence: u64) -> Result<(), ViewError> {
        let index = self.len();
        if self.spill.is_none() {
            self.memory_frames_max = self.memory_frames_max.max(index + 1);
        }
        let commit = self.commit;
        let frame = Staging { page, database_pages: 0, salt: [0; 8], sums: [0; 8], image, log_id, sequence };
        let staged = self.stage(index, &frame, &mut || Err(io::ErrorKind::NotFound.into()));
        self.commit = commit;
        staged
    }

    fn write_spill(&mut self, index: usize, image: &[u8]) -> Result<(), ViewError> {
        let offset = self.spill_offset(index);
        let Some(spill) = &self.spill else { return Err(ViewError::SpillFailedBefore) };
        spill.write_at(&[io::IoSlice::new(image)], offset).map_err(|error| {
            self.spill_failed = true;
            ViewError::Spill(error)
        })
    }

    /// The header of the frame at `index` was written again, its image not.
    pub(super) fn rewrite_header(&mut self, index: usize, page: u32, salt: [u8; 8], sums: [u8; 8]) {
        if let Some(entry) = self.entries.get_mut(index)
            && entry.page == page
        {
            entry.sums = sums;
            self.keep_salt(salt);
        }
    }

    fn keep_salt(&mut self, salt: [u8; 8]) {
        if salt != [0; 8] {
            self.salt = salt;
        }
    }

    /// The frame header at `index`, as SQLite wrote it.
    pub(super) fn header(&self, index: usize) -> Option<[u8; 24]> {
        let entry = self.entries.get(index)?;
        let mut header = [0; 24];
        header[..4].copy_from_slice(&entry.page.to_be_bytes());
        if let Some((_, pages)) = self.commit.filter(|&(at, _)| at == index) {
            header[4..8].copy_from_slice(&pages.to_be_bytes());
        }
        // `walEncodeFrame` leaves salt and sums zero, or writes both.
        if entry.sums != [0; 8] {
            header[8..16].copy_from_slice(&self.salt);
            header[16..].copy_from_slice(&entry.sums);
        }
        Some(header)
    }

    /// Fills `buffer` from byte `offset` on of the image at `index`, which is there.
    pub(super) fn read_image(&self, index: usize, offset: usize, buffer: &mut [u8]) -> io::Result<()> {
        if let Some(image) = self.memory(index) {
            buffer.copy_from_slice(&image[offset..offset + buffer.len()]);
            return Ok(());
        }
        let spill = self.spill.as_ref().ok_or(io::ErrorKind::NotFound)?;
        if spill.read_at(buffer, self.spill_offset(index) + offset as u64)? < buffer.len() {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file ends inside a staged page"));
        }
        Ok(())
    }
}

/// A frame on its way into the lane.
pub(super) struct Staging<'a> {
    pub page: u32,
    /// 0: not the last of its commit.
    pub database_pages: u32,
    pub salt: [u8; 8],
    pub sums: [u8; 8],
    pub image: &'a [u8],
    pub log_id: u64,
    pub sequence: u64,
}

impl Staging<'_> {
    fn crc(&self, page: u32) -> u32 {
        image_crc(self.log_id, page, self.sequence, self.image)
    }
}
