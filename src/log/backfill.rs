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
        let mut piece = Piece { bytes: Vec::new(), first: 0, next: 0 };
        let mut has_page_one = false;
        for page in pages {
            if page == 1 {
                has_page_one = true;
                continue;
            }
            if page == 0 || page > database_pages {
                continue;
            }
            if page != piece.next || piece.bytes.len() + self.page_bytes > PIECE_BYTES_MAX.max(self.page_bytes) {
                piece.write(self.database, self.page_bytes)?;
                piece.first = page;
            }
            let at = piece.bytes.len();
            piece.bytes.resize(at + self.page_bytes, 0);
            read(page, &mut piece.bytes[at..])?;
            piece.next = page.saturating_add(1);
        }
        piece.write(self.database, self.page_bytes)?;
        if has_page_one && database_pages > 0 {
            let mut image = vec![0; self.page_bytes];
            read(1, &mut image)?;
            if !crate::drops("r7-page-one-stamped") {
                self.marks.apply(&mut image);
            }
            self.database.write_at(&image, 0).map_err(|error| LogError::database("write", error))?;
        } else if let Marks::Stamp(_) = self.marks {
            write_marks(self.database, self.marks)?;
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

struct Piece {
    bytes: Vec<u8>,
    first: u32,
    next: u32,
}

impl Piece {
    fn write(&mut self, database: &mut dyn Database, page_bytes: usize) -> Result<(), LogError> {
        if !self.bytes.is_empty() {
            let offset = u64::from(self.first - 1) * page_bytes as u64;
            database.write_at(&self.bytes, offset).map_err(|error| LogError::database("write", error))?;
            self.bytes.clear();
        }
        Ok(())
    }
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
