//! Page 1: the header of the database file, and the root of the schema.

use super::{be32, is_usable, put};

const MAGIC: &[u8; 16] = b"SQLite format 3\0";
const RESERVED: usize = 20;
const CHANGE_COUNTER: usize = 24;
const DATABASE_PAGES: usize = 28;
const FIRST_TRUNK: usize = 32;
const FREE_PAGES: usize = 36;
const LARGEST_ROOT: usize = 52;
const VERSION_VALID_FOR: usize = 92;
const SQLITE_VERSION: usize = 96;

/// What [`PageOne::is_same_but_counters`] compares: not bytes 24 to 39 and 92 to 99.
const COMPARED: [std::ops::Range<usize>; 2] = [0..CHANGE_COUNTER, 40..VERSION_VALID_FOR];
const COMPARED_FROM: usize = 100;

/// A whole image of page 1.
#[derive(Clone, Copy, Debug)]
pub struct PageOne<'a> {
    image: &'a [u8],
    usable: usize,
}

/// What an allocation of pages, or their release, changes in the header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counters {
    /// Raised by every commit that writes page 1.
    pub change_counter: u32,
    /// The size of the database, in pages.
    pub database_pages: u32,
    /// The first trunk page of the freelist; 0: it is empty.
    pub first_trunk: u32,
    /// Pages on the freelist, trunks among them.
    pub free_pages: u32,
    /// The change counter of the SQLite that wrote `sqlite_version`.
    pub version_valid_for: u32,
    /// `SQLITE_VERSION_NUMBER` of it.
    pub sqlite_version: u32,
}

impl<'a> PageOne<'a> {
    /// `None`: not page 1 of a database whose pages are as long as `image`. (That of an encrypted one is none, either.)
    #[must_use]
    pub fn parse(image: &'a [u8]) -> Option<PageOne<'a>> {
        let page_bytes = match super::be16(image, 16)? {
            1 => 65536,
            bytes => usize::from(bytes),
        };
        let usable = image.len().checked_sub(usize::from(*image.get(RESERVED)?))?;
        (image.starts_with(MAGIC) && page_bytes == image.len() && is_usable(page_bytes, usable))
            .then_some(PageOne { image, usable })
    }

    /// The bytes of a page without those that are reserved at its end.
    #[must_use]
    pub fn usable(&self) -> usize {
        self.usable
    }

    /// Whether the database has pointer-map pages (`auto_vacuum`).
    #[must_use]
    pub fn has_pointer_maps(&self) -> bool {
        be32(self.image, LARGEST_ROOT) != Some(0)
    }

    /// Size, freelist and change counter.
    #[must_use]
    pub fn counters(&self) -> Counters {
        // `parse` has checked the length.
        let at = |at| be32(self.image, at).unwrap_or(0);
        Counters {
            change_counter: at(CHANGE_COUNTER),
            database_pages: at(DATABASE_PAGES),
            first_trunk: at(FIRST_TRUNK),
            free_pages: at(FREE_PAGES),
            version_valid_for: at(VERSION_VALID_FOR),
            sqlite_version: at(SQLITE_VERSION),
        }
    }

    /// Whether the two differ in their [`Counters`] at most: not in the schema, nor in anything else of the header.
    #[must_use]
    pub fn is_same_but_counters(&self, other: &PageOne<'_>) -> bool {
        self.image.len() == other.image.len()
            && COMPARED.into_iter().all(|range| self.image.get(range.clone()) == other.image.get(range))
            && self.image.get(COMPARED_FROM..) == other.image.get(COMPARED_FROM..)
    }
}

impl Counters {
    /// Writes them into an image of page 1. False, and nothing is written: it is too short.
    #[must_use]
    pub fn write(&self, image: &mut [u8]) -> bool {
        image.len() >= COMPARED_FROM
            && [
                (CHANGE_COUNTER, self.change_counter),
                (DATABASE_PAGES, self.database_pages),
                (FIRST_TRUNK, self.first_trunk),
                (FREE_PAGES, self.free_pages),
                (VERSION_VALID_FOR, self.version_valid_for),
                (SQLITE_VERSION, self.sqlite_version),
            ]
            .into_iter()
            .all(|(at, value)| put(image, at, &value.to_be_bytes()))
    }
}
