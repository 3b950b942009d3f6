//! Pages of SQLite's file format, as far as a commit that is validated against others has to understand them: what page 1 says of
//! the file, trunk pages of the freelist, and the cells of b-tree pages that lead to other pages or to entries of an index.
//!
//! Images go in, and facts or images come out; it knows no file, no log and no connection. Every decoder is total: an image that is
//! not what SQLite writes is `None`, nothing panics, and nothing is allocated for a count before it is known that the page has room
//! for it. Source of the format: <https://www.sqlite.org/fileformat2.html>; numbers are big-endian.

mod btree;
mod freelist;
mod interior;
mod page_one;
mod trunk;

pub use btree::{BtreePage, Cell, Kind};
pub use freelist::{Composed, Head, Images, ReadPage, Refusal, Shown, Staged, Truth, compose, lock_page};
pub use interior::{Interior, leads_the_same_way, merge};
pub use page_one::{Counters, PageOne};
pub use trunk::Trunk;

/// The smallest and the largest page, in bytes.
const PAGE_BYTES: std::ops::RangeInclusive<usize> = 512..=65536;
/// What SQLite leaves of a page at least, beside its reserved bytes (`lockBtree`).
const USABLE_MIN: usize = 480;

/// Whether a page of `page_bytes` may have `usable` bytes for SQLite.
fn is_usable(page_bytes: usize, usable: usize) -> bool {
    page_bytes.is_power_of_two()
        && PAGE_BYTES.contains(&page_bytes)
        && (USABLE_MIN..=page_bytes).contains(&usable)
        && page_bytes - usable <= 255
}

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    let bytes = bytes.get(at..at.checked_add(2)?)?;
    Some(u16::from_be_bytes(bytes.try_into().ok()?))
}

fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_be_bytes(bytes.try_into().ok()?))
}

/// False: there is no room for it.
#[must_use]
fn put(bytes: &mut [u8], at: usize, value: &[u8]) -> bool {
    let room = at.checked_add(value.len()).and_then(|end| bytes.get_mut(at..end));
    room.map(|room| room.copy_from_slice(value)).is_some()
}
