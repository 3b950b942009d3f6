//! The virtual WAL file: what SQLite's `xWrite` and `xRead` on `X-wal` mean.
//!
//! A 32-byte header, then frames of 24 bytes and a page each. Frames up to the snapshot's last are committed; the later
//! ones are the lane's. A write is one of three:
//! * a header with its image right after it appends a frame, and drops what the lane had from there on
//!   (`sqlite3WalSavepointUndo` moves the end back without a call, and a COMMIT that returned BUSY starts over);
//! * an image alone replaces the image of a staged frame (a page that was spilled, written again);
//! * a header alone is `walRewriteChecksums`: nothing but its checksum is new.

use super::error::{ReadError, ViewError};
use super::header::{SALT, checksum};
use super::lane::Staging;
use super::{View, Writing};
use crate::disk::LogFile;
use std::io;
use std::sync::Arc;

/// `WAL_HDRSIZE`
const WAL_HEADER_BYTES: u64 = 32;
/// `WAL_FRAME_HDRSIZE`
const FRAME_HEADER_BYTES: usize = 24;

/// What a write to the virtual WAL file was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// Part of a transaction in progress.
    Staged,
    /// The last image of the transaction, staged: all of it is in the lane now.
    Commit {
        /// The size of the database after it, in pages.
        database_pages: u32,
    },
}

/// Fills a buffer with bytes of a committed frame's page: (its number in the log, 0 = the database file; the page
/// number; the offset in the page; the buffer).
pub type ReadImage<'a, E> = dyn FnMut(u64, u32, u64, &mut [u8]) -> Result<(), E> + 'a;

/// A frame header as SQLite writes it (`walEncodeFrame`), big-endian.
#[derive(Clone, Copy, Debug)]
pub(super) struct FrameHeader {
    /// The virtual frame.
    frame: u64,
    page: u32,
    /// 0: not the last of its commit.
    database_pages: u32,
    salt: [u8; 8],
    sums: [u8; 8],
}

impl FrameHeader {
    fn decode(frame: u64, bytes: &[u8; FRAME_HEADER_BYTES]) -> FrameHeader {
        let [p0, p1, p2, p3, d0, d1, d2, d3, ..] = *bytes;
        let mut salt = [0; 8];
        salt.copy_from_slice(&bytes[8..16]);
        let mut sums = [0; 8];
        sums.copy_from_slice(&bytes[16..]);
        FrameHeader {
            frame,
            page: u32::from_be_bytes([p0, p1, p2, p3]),
            database_pages: u32::from_be_bytes([d0, d1, d2, d3]),
            salt,
            sums,
        }
    }
}

impl View {
    /// `xWrite` on the virtual WAL file: `data` at `offset` bytes. `open_spill` is called at most once
    /// for each transaction, when its lane is full.
    ///
    /// # Errors
    /// What is not a frame header or a whole page in the place where SQLite would write it; the spill file's
    /// errors. The transaction has to be rolled back then.
    pub fn write(
        &mut self,
        data: &[u8],
        offset: u64,
        open_spill: &mut dyn FnMut() -> io::Result<Arc<dyn LogFile>>,
    ) -> Result<Written, ViewError> {
        let snapshot_frames = self.numbers.len() as u64;
        let frame_bytes = self.frame_bytes();
        let lane = &mut self.lane;
        let Some(Writing { log_id, sequence, pending, .. }) = &mut self.writing else {
            return Err(ViewError::NotWriting { offset });
        };
        let (log_id, sequence) = (*log_id, *sequence);
        let misplaced = || ViewError::Misplaced { offset, bytes: data.len() };

        let behind = offset.checked_sub(WAL_HEADER_BYTES).ok_or_else(misplaced)?;
        let frame = behind / frame_bytes + 1;
        let at = behind % frame_bytes;
        if frame <= snapshot_frames {
            return Err(ViewError::Committed { frame });
        }
        let index = usize::try_from(frame - snapshot_frames - 1).map_err(|_| misplaced())?;
        let header_before = pending.take();

        if at == 0 {
            let header = FrameHeader::decode(frame, data.try_into().map_err(|_| misplaced())?);
            if index > lane.len() {
                return Err(ViewError::Gap { frame, expected: snapshot_frames + lane.len() as u64 + 1 });
            }
            if header.page == 0 {
                return Err(ViewError::PageZero { frame });
            }
            lane.rewrite_header(index, header.page, header.salt, header.sums);
            *pending = Some(header);
            return Ok(Written::Staged);
        }
        if at != FRAME_HEADER_BYTES as u64 {
            return Err(misplaced());
        }
        if data.len() != self.page_bytes as usize {
            return Err(ViewError::ImageBytes { frame, bytes: data.len(), page_bytes: self.page_bytes });
        }
        match header_before.filter(|header| header.frame == frame) {
            Some(header) => {
                let FrameHeader { page, database_pages, salt, sums, .. } = header;
                let staging = Staging { page, database_pages, salt, sums, image: data, log_id, sequence };
                lane.stage(index, &staging, open_spill)?;
                if database_pages != 0 {
                    return Ok(Written::Commit { database_pages });
                }
            }
            None if index < lane.len() => lane.overwrite(index, data, log_id, sequence)?,
            None => return Err(ViewError::NoHeader { frame }),
        }
        Ok(Written::Staged)
    }

    /// Whether a write of `bytes` bytes at `offset` puts an image into the spill file.
    #[must_use]
    pub fn spills(&self, bytes: usize, offset: u64) -> bool {
        let frame = offset.saturating_sub(WAL_HEADER_BYTES) / self.frame_bytes() + 1;
        bytes == self.page_bytes as usize && self.lane_index(frame).is_some_and(|index| self.lane.spills(index))
    }

    /// `xRead` on the virtual WAL file: fills `buffer` from `offset` bytes on. `image` is called for frames of the
    /// snapshot.
    ///
    /// After the end are zeros. For frame headers that is all (SQLite 3.40 may read the checksum of one there and
    /// ignores it); an image there is an error, as the short read of a real file would be: the reader expects a frame
    /// that is gone.
    ///
    /// # Errors
    /// What `image` or the spill file returns; an image after the end (the buffer is filled with zeros from there on).
    pub fn read<E>(&self, buffer: &mut [u8], offset: u64, image: &mut ReadImage<'_, E>) -> Result<(), ReadError<E>> {
        let mut rest = buffer;
        let mut offset = offset;
        if offset < WAL_HEADER_BYTES && !rest.is_empty() {
            let header = self.wal_header();
            let from = usize::try_from(offset).unwrap_or(header.len());
            let (part, behind) = rest.split_at_mut(rest.len().min(header.len() - from));
            part.copy_from_slice(&header[from..from + part.len()]);
            (rest, offset) = (behind, WAL_HEADER_BYTES);
        }
        while !rest.is_empty() {
            let frame = (offset - WAL_HEADER_BYTES) / self.frame_bytes() + 1;
            // Below 65536 + 24.
            let at = ((offset - WAL_HEADER_BYTES) % self.frame_bytes()) as usize;
            if at < FRAME_HEADER_BYTES {
                let (part, behind) = rest.split_at_mut(rest.len().min(FRAME_HEADER_BYTES - at));
                part.copy_from_slice(&self.frame_header(frame)[at..at + part.len()]);
                offset += part.len() as u64;
                rest = behind;
                continue;
            }
            let at = at - FRAME_HEADER_BYTES;
            let (part, behind) = rest.split_at_mut(rest.len().min(self.page_bytes as usize - at));
            if let Err(error) = self.read_image(frame, at, part, image) {
                behind.fill(0);
                return Err(error);
            }
            offset += part.len() as u64;
            rest = behind;
        }
        Ok(())
    }

    /// The size of the virtual WAL file, in bytes.
    #[must_use]
    pub fn wal_bytes(&self) -> u64 {
        WAL_HEADER_BYTES + (self.numbers.len() + self.lane.len()) as u64 * self.frame_bytes()
    }

    fn frame_bytes(&self) -> u64 {
        u64::from(self.page_bytes) + FRAME_HEADER_BYTES as u64
    }

    /// The index in the lane of a virtual frame, if it is there; from the snapshot on it may be beyond the end.
    fn lane_index(&self, frame: u64) -> Option<usize> {
        let index = frame.checked_sub(self.numbers.len() as u64 + 1)?;
        usize::try_from(index).ok()
    }

    fn read_image<E>(
        &self,
        frame: u64,
        at: usize,
        buffer: &mut [u8],
        image: &mut ReadImage<'_, E>,
    ) -> Result<(), ReadError<E>> {
        match self.lane_index(frame) {
            Some(index) if index < self.lane.len() => match self.tail.original(index) {
                Some(original) => {
                    buffer.copy_from_slice(&original[at..at + buffer.len()]);
                    Ok(())
                }
                None => self.lane.read_image(index, at, buffer).map_err(ReadError::Spill),
            },
            Some(_) => {
                buffer.fill(0);
                Err(ReadError::BehindEnd { frame })
            }
            None => {
                let (page, number) = self.committed(frame)?;
                if let Some(private) = u32::try_from(frame).ok().and_then(|frame| self.tail.image(frame, page)) {
                    buffer.copy_from_slice(&private[at..at + buffer.len()]);
                    return Ok(());
                }
                image(number, page, at as u64, buffer).map_err(ReadError::Image)
            }
        }
    }

    /// Page and number in the log of a frame of the snapshot.
    fn committed<E>(&self, frame: u64) -> Result<(u32, u64), ReadError<E>> {
        let frame = u32::try_from(frame).unwrap_or(u32::MAX);
        let page = self.index.page(frame);
        match (page, self.numbers.get((frame as usize).wrapping_sub(1))) {
            (1.., Some(&number)) => Ok((page, number)),
            _ => Err(ReadError::Index { frame }),
        }
    }

    /// Salt and checksums of committed frames are never verified, only carried on: zeros.
    fn frame_header(&self, frame: u64) -> [u8; FRAME_HEADER_BYTES] {
        let mut header = [0; FRAME_HEADER_BYTES];
        match self.lane_index(frame) {
            Some(index) => return self.lane.header(index).unwrap_or(header),
            None => {
                let page = u32::try_from(frame).map_or(0, |frame| self.index.page(frame));
                header[..4].copy_from_slice(&page.to_be_bytes());
            }
        }
        header
    }

    /// As `walFrames` writes it before frame 1: magic with the byte order of the checksums, version, page size, no
    /// checkpoint yet, salt, checksum.
    fn wal_header(&self) -> [u8; 32] {
        let mut header = [0; 32];
        let magic = 0x377f_0682 | u32::from(cfg!(target_endian = "big"));
        let fields = [magic, 3_007_000, self.page_bytes, 0];
        for (to, field) in header.chunks_exact_mut(4).zip(fields) {
            to.copy_from_slice(&field.to_be_bytes());
        }
        header[16..20].copy_from_slice(&SALT[0].to_ne_bytes());
        header[20..24].copy_from_slice(&SALT[1].to_ne_bytes());
        let mut words = [0; 6];
        for (word, bytes) in words.iter_mut().zip(header.chunks_exact(4)) {
            *word = u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        }
        for (to, sum) in header[24..].chunks_exact_mut(4).zip(checksum([0, 0], &words)) {
            to.copy_from_slice(&sum.to_be_bytes());
        }
        header
    }
}
