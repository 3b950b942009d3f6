//! The one way by which pages of a log reach the database file: checkpoint and replay.
//!
//! Promises that page 1 carries the marks of the log as long as the log exists: page images in the log are
//! SQLite's, with 2,2 and zeros, and one of them written as it is would open the file to stock SQLite.

use super::error::LogError;
use super::stamp::{Marks, STAMP_WRITE_BYTES, Stamp};
use crate::disk::Database;
use std::io;

/// Neighbouring pages are written together, up to this number of bytes.
pub const PIECE_BYTES_MAX: usize = 1 << 20;

/// One pass that brings the database file to a commit.
pub struct Backfill<'a> {
    database: &'a mut dyn Database,
    page_bytes: usize,
    marks: Marks,
}

impl<'a> Backfill<'a> {
    /// A checkpoint pass: page 1 gets `stamp`, whose T is the target of this pass.
    #[must_use]
    pub fn new(database: &'a mut dyn Database, page_bytes: u32, stamp: Stamp) -> Backfill<'a> {
        Backfill::with_marks(database, page_bytes, Marks::Stamp(stamp))
    }

    /// A replay: page 1 keeps the marks that it has.
    pub(crate) fn with_marks(database: &'a mut dyn Database, page_bytes: u32, marks: Marks) -> Backfill<'a> {
        Backfill { database, page_bytes: page_bytes as usize, marks }
    }

    /// Writes `pages` (numbers, ascending, each once), whose images `read` puts into a buffer of one page;
    /// pages beyond `database_pages` are left out. Page 1 comes last; a pass without it writes the stamp
    /// alone, in one sector. Then sets the size to `database_pages` and syncs: after `Ok` all of it is
    /// durable.
    ///
    /// # Errors
    /// What `read` returns; any error of the medium. The file may hold any part of the pass then: write all of it
    /// again, a sync alone proves nothing.
    pub fn run<E: From<LogError>>(
        self,
        pages: impl IntoIterator<Item = u32>,
        database_pages: u32,
        mut read: impl FnMut(u32, &mut [u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut pass = self.begin();
        let mut has_page_one = false;
        for page in pages {
            if page == 1 {
                has_page_one = true;
            } else if page > 0 && page <= database_pages {
                pass.write(page, |image| read(page, image))?;
            }
        }
        pass.end(has_page_one.then_some(|image: &mut [u8]| read(1, image)), database_pages)
    }

    /// The same step by step.
    pub(crate) fn begin(self) -> Pass<'a> {
        let Backfill { database, page_bytes, marks } = self;
        let piece = Piece { bytes: Vec::new(), first: 0, next: 0 };
        Pass { database, page_bytes, marks, piece, written: 0, pieces: 0 }
    }
}

/// A pass that has begun.
pub(crate) struct Pass<'a> {
    database: &'a mut dyn Database,
    page_bytes: usize,
    marks: Marks,
    piece: Piece,
    /// Since the last sync, in bytes, and in how many pieces.
    written: usize,
    pieces: usize,
}

impl Pass<'_> {
    /// Writes a page, not the first, whose image `read` puts into a buffer. It may stay in memory until the next one.
    pub(crate) fn write<E: From<LogError>>(
        &mut self,
        page: u32,
        read: impl FnOnce(&mut [u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let is_full = self.piece.bytes.len() + self.page_bytes > PIECE_BYTES_MAX.max(self.page_bytes);
        if page != self.piece.next || is_full || self.piece.bytes.is_empty() {
            self.flush()?;
            self.piece.first = page;
        }
        let at = self.piece.bytes.len();
        self.piece.bytes.resize(at + self.page_bytes, 0);
        read(&mut self.piece.bytes[at..])?;
        self.piece.next = page.saturating_add(1);
        Ok(())
    }

    fn flush(&mut self) -> Result<(), LogError> {
        if !self.piece.bytes.is_empty() {
            self.written += self.piece.bytes.len();
            self.pieces += 1;
            let offset = u64::from(self.piece.first - 1) * self.page_bytes as u64;
            self.database.write_at(&self.piece.bytes, offset).map_err(|error| LogError::database("write", error))?;
            self.piece.bytes.clear();
        }
        Ok(())
    }

    /// Whether it is time for a [`sync`](Pass::sync): something was written, in pieces of at least `piece_bytes` bytes on average.
    /// Smaller ones stay in the cache, where later ones may join them.
    pub(crate) fn has_written(&mut self, piece_bytes: usize) -> Result<bool, LogError> {
        self.flush()?;
        Ok(self.pieces > 0 && self.written >= self.pieces.saturating_mul(piece_bytes))
    }

    /// Syncs what was written, so that less is to be synced at the end.
    pub(crate) fn sync(&mut self) -> Result<(), LogError> {
        (self.written, self.pieces) = (0, 0);
        self.database.sync().map_err(|error| LogError::database("sync", error))
    }

    /// Page 1 with its marks, or the stamp alone; the size; a sync.
    pub(crate) fn end<E: From<LogError>>(
        mut self,
        page_one: Option<impl FnOnce(&mut [u8]) -> Result<(), E>>,
        database_pages: u32,
    ) -> Result<(), E> {
        self.flush()?;
        match page_one {
            Some(read) if database_pages > 0 => {
                let mut image = vec![0; self.page_bytes];
                read(&mut image)?;
                if !crate::drops("r7-page-one-stamped") {
                    self.marks.apply(&mut image);
                }
                self.database.write_at(&image, 0).map_err(|error| LogError::database("write", error))?;
            }
            _ => {
                if let Marks::Stamp(_) = self.marks {
                    write_marks(self.database, self.marks)?;
                }
            }
        }
        let bytes = u64::from(database_pages) * self.page_bytes as u64;
        let current = self.database.bytes().map_err(|error| LogError::database("look at the size of", error))?;
        if current != bytes && !crate::drops("z1-size") {
            self.database.set_bytes(bytes).map_err(|error| LogError::database("set the size of", error))?;
        }
        if !crate::drops("z1-sync-database") {
            self.database.sync().map_err(|error| LogError::database("sync", error))?;
        }
        Ok(())
    }
}

/// Neighbouring pages that are not written yet.
struct Piece {
    bytes: Vec<u8>,
    first: u32,
    next: u32,
}

/// Puts `marks` on page 1 as it lies in the database file, within one sector. Not synced.
pub(crate) fn write_marks(database: &mut dyn Database, marks: Marks) -> Result<(), LogError> {
    let mut sector = [0; STAMP_WRITE_BYTES];
    let read = database.read_at(&mut sector, 0).map_err(|error| LogError::database("read", error))?;
    let sector = &mut sector[..read];
    if sector.len() < super::stamp::DATABASE_HEADER_BYTES {
        let short = io::Error::new(io::ErrorKind::UnexpectedEof, "it is too short for a database header");
        return Err(LogError::database("read", short));
    }
    marks.apply(sector);
    database.write_at(sector, 0).map_err(|error| LogError::database("write", error))
}
