//! The way back from a salvage: every page that it overwrites or truncates is kept first, in a rollback journal of
//! SQLite.
//!
//! Laid beside the database file as `<database>-journal`, SQLite plays it back (`pager_playback`): the file is what it
//! was before the salvage, as a plain one.

use super::error::LogError;
use super::files::is_unreadable;
use super::stamp;
use crate::disk::{Database, LogDirectory, LogFile, OpenMode};
use std::collections::BTreeSet;
use std::io::{self, IoSlice};
use std::path::Path;

/// The name in the log directory.
pub const UNDO_NAME: &str = "undo-salvage.journal";

/// What a journal begins with, and the bytes of its header (`writeJournalHdr`, with sectors of 512 bytes).
const MAGIC: [u8; 8] = [0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7];
const HEADER_BYTES: u64 = 512;
/// The byte that SQLite locks; its page holds nothing.
const PENDING_BYTE: u64 = 0x4000_0000;

/// Keeps `pages` of the database file, page 1, and all after `database_pages`, durably, as far as they can be read.
/// Does nothing where an attempt that was cut short has kept them already: the file may have been changed since.
///
/// # Errors
/// Any error of the medium; nothing was overwritten.
pub(crate) fn keep(
    dir: &dyn LogDirectory,
    database: &mut dyn Database,
    page_bytes: u32,
    pages: impl Iterator<Item = u32>,
    database_pages: u32,
) -> Result<(), LogError> {
    let path = dir.path().join(UNDO_NAME);
    if is_kept(dir, &path)? {
        return Ok(());
    }
    let bytes = database.bytes().map_err(|error| LogError::database("look at the size of", error))?;
    let count = u32::try_from(bytes.div_ceil(u64::from(page_bytes))).unwrap_or(u32::MAX);
    let pending = u32::try_from(PENDING_BYTE / u64::from(page_bytes) + 1).unwrap_or(0);
    let mut kept: BTreeSet<u32> = pages.chain(database_pages.saturating_add(1)..=count).chain([1]).collect();
    kept.retain(|page| *page <= count && *page != pending);
    dir.remove(UNDO_NAME).map_err(|error| LogError::io("delete", &path, error))?;
    let file = dir.open(UNDO_NAME, OpenMode::CreateNew).map_err(|error| LogError::io("create", &path, error))?;
    let written = write(&*file, database, page_bytes, &kept, count);
    written.map_err(|error| match error {
        Failed::Journal(error) => LogError::io("write", &path, error),
        Failed::Database(error) => LogError::database("read", error),
    })?;
    dir.sync().map_err(|error| LogError::io("sync", dir.path(), error))
}

fn is_kept(dir: &dyn LogDirectory, path: &Path) -> Result<bool, LogError> {
    match dir.open(UNDO_NAME, OpenMode::PastCache) {
        Ok(file) => {
            let mut magic = [0; MAGIC.len()];
            let read = file.read_at(&mut magic, 0).map_err(|error| LogError::io("read", path, error))?;
            Ok(magic[..read] == MAGIC)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(LogError::io("open", path, error)),
    }
}

enum Failed {
    Journal(io::Error),
    Database(io::Error),
}

/// The header comes last: with it the journal is whole.
fn write(
    file: &dyn LogFile,
    database: &mut dyn Database,
    page_bytes: u32,
    pages: &BTreeSet<u32>,
    count: u32,
) -> Result<(), Failed> {
    let (mut offset, mut records) = (HEADER_BYTES, 0_u32);
    for page in pages {
        let mut image = vec![0; page_bytes as usize];
        match database.read_at(&mut image, u64::from(page - 1) * u64::from(page_bytes)) {
            // Nothing is lost by what is written there.
            Err(error) if is_unreadable(&error) => continue,
            read => read.map_err(Failed::Database)?,
        };
        if *page == 1 {
            stamp::clear(&mut image);
        }
        let (number, sum) = (page.to_be_bytes(), checksum(&image).to_be_bytes());
        let parts = [IoSlice::new(&number), IoSlice::new(&image), IoSlice::new(&sum)];
        file.write_at(&parts, offset).map_err(Failed::Journal)?;
        offset += 8 + u64::from(page_bytes);
        records += 1;
    }
    file.sync().map_err(Failed::Journal)?;
    let words = [records, 0, count, HEADER_BYTES as u32, page_bytes].map(u32::to_be_bytes);
    let mut header = [MAGIC.as_slice(), words.as_flattened()].concat();
    header.resize(HEADER_BYTES as usize, 0);
    file.write_at(&[IoSlice::new(&header)], 0).map_err(Failed::Journal)?;
    file.sync().map_err(Failed::Journal)
}

/// As `pager_cksum`, with a first value of 0.
fn checksum(image: &[u8]) -> u32 {
    let from_end = (1..).map_while(|step| image.len().checked_sub(200 * step)).take_while(|at| *at > 0);
    from_end.fold(0_u32, |sum, at| sum.wrapping_add(u32::from(image[at])))
}
