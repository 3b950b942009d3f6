//! The beginning of the database file where a power cut took it: what it was by the log, and whether the file is the
//! log's.
//!
//! A pass, an activation and a retirement rewrite the first sector of the file in place. While they do, the log holds
//! either a doubled certificate with a copy of the beginning of page 1 as of some commit, with every batch after that,
//! or an image of page 1 among these batches (`docs/format.md`). So page 1 as the last commit left it is always known.
//!
//! Where nothing in the header shows whose file this is, the other pages must: one of them must be an image of this
//! log, or the block that follows the certificate's copy, and no page may be older than what the log says is in the
//! file.

use super::error::LogError;
use super::follow::ImageRef;
use super::format::{Descriptor, image_crc};
use super::found::{FoundCopy, FoundLog};
use super::stamp::{Marks, STAMP_WRITE_BYTES};
use super::walk::{Through, Walk};
use crate::disk::Database;
use std::collections::{BTreeMap, BTreeSet};

/// Page 1 as the last commit of a walk left it, plain.
#[derive(Debug)]
pub(crate) struct PageOne {
    /// All of it, or its beginning: at most a block.
    pub(crate) bytes: Vec<u8>,
    /// It is an image of page 1 in the walk itself, which a replay writes.
    pub(crate) is_replayed: bool,
}

impl FoundLog<'_> {
    /// The copy that this half belongs to, if both are whole.
    fn copy_of(&self, found: &FoundCopy) -> Result<Option<Vec<u8>>, LogError> {
        let Some(block) = self.block_bytes() else { return Ok(None) };
        let half = if found.copy.is_second { u64::from(block) } else { 0 };
        let Some(start) = found.offset.checked_sub(half) else { return Ok(None) };
        let mut blocks = vec![0; 2 * block as usize];
        let read = given(self.segments[found.segment].open.read(&mut blocks, start))?;
        Ok(if read == Some(blocks.len()) { found.copy.read(&blocks) } else { None })
    }

    /// Page 1 as the last commit of `walk` left it, by an image or by a copy as of a commit after which no batch has
    /// one; `None`: the log does not have it.
    pub(crate) fn page_one(&self, walk: &Walk) -> Result<Option<PageOne>, LogError> {
        if let Some(bytes) = self.image_of_page_one(walk)? {
            return Ok(Some(PageOne { bytes, is_replayed: true }));
        }
        let mut copies: Vec<&FoundCopy> = self.copies.iter().filter(|copy| copy.backfilled <= walk.base).collect();
        copies.sort_by_key(|copy| std::cmp::Reverse(copy.backfilled));
        for found in copies {
            let Some(bytes) = self.copy_of(found)? else { continue };
            let copy = PageOne { bytes, is_replayed: false };
            if found.backfilled == walk.base {
                return Ok(Some(copy));
            }
            // The certificate that moved B to here is not whole: then every batch after this one is there.
            let longer = self.walk(found.backfilled, walk.through)?;
            if longer.last() == walk.last() {
                let image = self.image_of_page_one(&longer)?;
                return Ok(Some(image.map_or(copy, |bytes| PageOne { bytes, is_replayed: false })));
            }
        }
        Ok(None)
    }

    fn image_of_page_one(&self, walk: &Walk) -> Result<Option<Vec<u8>>, LogError> {
        let Some((segment, frame)) = walk.newest.get(&1) else { return Ok(None) };
        let Some(reader) = self.reader(*segment, walk.through) else { return Ok(None) };
        let mut image = vec![0; reader.header.page_bytes as usize];
        let is_whole = given(reader.image_of(frame, &self.spills, &mut image))?.is_some();
        Ok(is_whole.then_some(image))
    }

    /// Whether the rest of the database file shows that it is this log's: what lies after its first sector is, in some
    /// place, an image of the log or the block that a doubled certificate names, and every page of which the log has
    /// only images that have been in the file for long, among them the last one, is one of them.
    pub(crate) fn is_log_of(
        &self,
        walk: &Walk,
        page_one: &PageOne,
        database: &mut dyn Database,
    ) -> Result<bool, LogError> {
        let (Some(page_bytes), Some(block_bytes)) = (self.page_bytes(), self.block_bytes()) else { return Ok(false) };
        let mut there = vec![0; page_one.bytes.len()];
        let read_bytes = read(database, &mut there, 0)?;
        let mut is_known = has_sector_of(&there[..read_bytes], &page_one.bytes, 1);
        // Also where page 1 is replayed: before the first pass, the file is what it was when the log began.
        for found in self.copies.iter().filter(|found| found.backfilled == walk.base) {
            let Some(copy) = self.copy_of(found)? else { continue };
            is_known |= has_sector_of(&there[..read_bytes], &copy, 1);
            let mut bytes = vec![0; block_bytes as usize];
            let next_bytes = read(database, &mut bytes, copy.len() as u64)?;
            is_known |=
                found.copy.next_block_crc != 0 && crc32c::crc32c(&bytes[..next_bytes]) == found.copy.next_block_crc;
        }
        let (mut there, mut image) = (vec![0; page_bytes as usize], vec![0; page_bytes as usize]);
        let (images_to, all_from) = (self.images_to(walk)?, self.all_from(walk));
        for (page, images) in images_to {
            if read(database, &mut there, u64::from(page - 1) * u64::from(page_bytes))? < there.len() {
                continue;
            }
            let is_one = |frame: &ImageRef| frame.crc == image_crc(self.log_id, page, frame.sequence, &there);
            if page > 1 && images.iter().any(|(_, frame)| is_one(frame)) {
                is_known = true;
            } else if page > 1
                && images.iter().all(|(_, frame)| frame.sequence <= walk.base)
                && images.iter().any(|(_, frame)| frame.sequence >= all_from)
            {
                return Ok(false);
            } else if !is_known {
                // A pass may have been writing it.
                for (segment, frame) in &images {
                    let Some(reader) = self.reader(*segment, Through::Headers) else { continue };
                    let is_whole = given(reader.image_of(frame, &self.spills, &mut image))?.is_some();
                    is_known |= is_whole && has_sector_of(&there, &image, usize::from(page == 1));
                }
            }
        }
        Ok(is_known)
    }

    /// From this commit on the log has every batch up to the base of `walk`. Of older ones there may be some in segments that are
    /// free, while a later one was written over or deleted: their images are not the last ones of their pages.
    fn all_from(&self, walk: &Walk) -> u64 {
        let there: BTreeSet<u64> = self.candidates.iter().map(|candidate| candidate.sequence).collect();
        (1..=walk.base).rev().take_while(|sequence| there.contains(sequence)).last().unwrap_or(walk.base + 1)
    }

    /// The images of each page in the batches up to the last of `walk`, also those before it, as far as they are there.
    fn images_to(&self, walk: &Walk) -> Result<BTreeMap<u32, Vec<(usize, ImageRef)>>, LogError> {
        let mut images: BTreeMap<u32, Vec<(usize, ImageRef)>> = BTreeMap::new();
        for candidate in self.candidates.iter().filter(|candidate| candidate.sequence <= walk.last()) {
            let Some(reader) = self.reader(candidate.segment, Through::Headers) else { continue };
            let Some(batch) = given(reader.head_at(candidate.offset))? else { continue };
            // Of several images of a page in one batch the last one counts.
            let last: BTreeMap<u32, &Descriptor> = batch.descriptors.iter().map(|frame| (frame.page, frame)).collect();
            for (page, descriptor) in last {
                images.entry(page).or_default().push((candidate.segment, ImageRef::of(&batch, descriptor)));
            }
        }
        Ok(images)
    }
}

/// Whether a sector from the `first` one on is the same in both, and says something.
fn has_sector_of(there: &[u8], image: &[u8], first: usize) -> bool {
    let sectors = there.chunks(STAMP_WRITE_BYTES).zip(image.chunks(STAMP_WRITE_BYTES)).skip(first);
    let says_something = |sector: &[u8]| sector.iter().any(|byte| *byte != sector[0]);
    sectors.into_iter().any(|(one, other)| one == other && says_something(one))
}

/// `Ok(None)`: it is not whole, or the medium does not give it.
fn given<T>(result: Result<T, LogError>) -> Result<Option<T>, LogError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(LogError::Record { .. }) => Ok(None),
        Err(error) if error.unreadable().is_some() => Ok(None),
        Err(error) => Err(error),
    }
}

/// Sectors that the medium does not give read as zeros.
fn read(database: &mut dyn Database, buffer: &mut [u8], offset: u64) -> Result<usize, LogError> {
    let mut read = |buffer: &mut [u8], offset| {
        let result = database.read_at(buffer, offset).map_err(|error| LogError::database("read", error));
        match result {
            Err(error) if error.unreadable().is_some() => Ok(None),
            result => result.map(Some),
        }
    };
    if let Some(read) = read(buffer, offset)? {
        return Ok(read);
    }
    let mut filled = 0;
    for (at, sector) in (offset..).step_by(STAMP_WRITE_BYTES).zip(buffer.chunks_mut(STAMP_WRITE_BYTES)) {
        filled += match read(sector, at)? {
            Some(read) if read < sector.len() => return Ok(filled + read),
            Some(read) => read,
            None => {
                sector.fill(0);
                sector.len()
            }
        };
    }
    Ok(filled)
}

impl PageOne {
    /// Whether the file begins so, marks aside.
    pub(crate) fn is_in(&self, database: &mut dyn Database) -> Result<bool, LogError> {
        let mut there = vec![0; self.bytes.len()];
        let read = read(database, &mut there, 0)?;
        let mut expected = self.bytes.clone();
        for bytes in [&mut there, &mut expected] {
            Marks::Plain.apply(bytes);
        }
        Ok(read == there.len() && there == expected)
    }

    /// Writes at most `bytes_max` bytes of it to the beginning of the file, with these marks. Not synced.
    pub(crate) fn write(&self, database: &mut dyn Database, marks: Marks, bytes_max: usize) -> Result<(), LogError> {
        let mut bytes = self.bytes.clone();
        marks.apply(&mut bytes);
        bytes.truncate(bytes_max);
        database.write_at(&bytes, 0).map_err(|error| LogError::database("write", error))
    }
}
