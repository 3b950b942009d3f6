//! The names of the tables, read from the database file without SQLite: no lock, and also where SQLite would refuse
//! the stamp of a log.
//!
//! Only the file's own pages: what is in a log or in a `-wal` file only is not seen. A process may write the file
//! meanwhile: every number is checked, and what makes no sense ends the walk without an answer.

use pwal::internal::log::stamp;
use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::FileExt;

/// The schema of a large application fits a tenth of it.
const PAGES_MAX: usize = 20_000;

const INTERIOR_TABLE: u8 = 5;
const LEAF_TABLE: u8 = 13;
/// Page 1 begins with the header of the database.
const HEADER_BYTES: usize = 100;

/// The names of the tables in `sqlite_schema`; `None`: the file does not tell.
pub fn tables(file: &File, header: &[u8]) -> Option<Vec<String>> {
    let page_bytes = usize::try_from(stamp::page_bytes(header)?).ok()?;
    let usable = page_bytes.checked_sub(usize::from(*header.get(20)?))?;
    let mut names = Vec::new();
    let mut seen = BTreeSet::new();
    let mut todo = vec![1u32];
    while let Some(number) = todo.pop() {
        if !seen.insert(number) || seen.len() > PAGES_MAX {
            return None;
        }
        let mut page = vec![0; page_bytes];
        let offset = u64::from(number.checked_sub(1)?) * page_bytes as u64;
        file.read_exact_at(&mut page, offset).ok()?;
        let page = Page { bytes: &page, usable, at: if number == 1 { HEADER_BYTES } else { 0 } };
        match *page.bytes.get(page.at)? {
            LEAF_TABLE => names.extend(page.cells(8)?.into_iter().filter_map(|cell| page.table(cell))),
            INTERIOR_TABLE => {
                for cell in page.cells(12)? {
                    todo.push(page.u32_at(cell)?);
                }
                todo.push(page.u32_at(page.at + 8)?);
            }
            _ => return None,
        }
    }
    Some(names)
}

/// One page of a b-tree whose header is at `at`.
struct Page<'a> {
    bytes: &'a [u8],
    usable: usize,
    at: usize,
}

impl Page<'_> {
    fn u16_at(&self, at: usize) -> Option<usize> {
        let bytes = self.bytes.get(at..at.checked_add(2)?)?;
        Some(usize::from(u16::from_be_bytes(bytes.try_into().ok()?)))
    }

    fn u32_at(&self, at: usize) -> Option<u32> {
        let bytes = self.bytes.get(at..at.checked_add(4)?)?;
        Some(u32::from_be_bytes(bytes.try_into().ok()?))
    }

    /// The offsets of the cells; their pointers lie behind a header of `header_bytes`.
    fn cells(&self, header_bytes: usize) -> Option<Vec<usize>> {
        let first = self.at + header_bytes;
        (0..self.u16_at(self.at + 3)?).map(|index| self.u16_at(first + 2 * index)).collect()
    }

    /// A variable-length integer and where it ends.
    fn varint(&self, at: usize) -> Option<(u64, usize)> {
        let mut value = 0u64;
        for index in 0..9 {
            let byte = *self.bytes.get(at.checked_add(index)?)?;
            if index == 8 {
                return Some((value << 8 | u64::from(byte), at + 9));
            }
            value = value << 7 | u64::from(byte & 0x7f);
            if byte & 0x80 == 0 {
                return Some((value, at + index + 1));
            }
        }
        None
    }

    /// The name, if the cell at `at` is the row of a table. Type and name are the first two columns, and lie in the page
    /// itself, not on an overflow page, if they are as short as the names that are looked for.
    fn table(&self, at: usize) -> Option<String> {
        let (_payload_bytes, at) = self.varint(at)?;
        let (_rowid, record) = self.varint(at)?;
        let (head_bytes, at) = self.varint(record)?;
        let (kind, at) = self.varint(at)?;
        let (name, _) = self.varint(at)?;
        let kind_at = record.checked_add(usize::try_from(head_bytes).ok()?)?;
        let name_at = kind_at.checked_add(text_bytes(kind)?)?;
        let name_end = name_at.checked_add(text_bytes(name)?)?;
        if name_end > self.usable || self.bytes.get(kind_at..name_at)? != b"table" {
            return None;
        }
        String::from_utf8(self.bytes.get(name_at..name_end)?.to_vec()).ok()
    }
}

/// The length of a text by its serial type.
fn text_bytes(serial: u64) -> Option<usize> {
    (serial >= 13 && serial % 2 == 1).then(|| usize::try_from((serial - 13) / 2).ok()).flatten()
}
