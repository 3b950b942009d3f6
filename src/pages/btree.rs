//! B-tree pages: the children of an interior page and the keys between them, and the entries of an index page.
//!
//! Of a cell the content is kept as it lies in the page: of an interior page of a table the rowid, of a page of an index the entry,
//! with the number of its first overflow page where it has one. Two cells with the same bytes are the same.

use super::{be16, be32, is_usable};

/// The header of the database file before the b-tree page on page 1, in bytes.
const FILE_HEADER_BYTES: usize = 100;
/// The header of an interior page, and the one of a leaf.
const INTERIOR_HEADER_BYTES: usize = 12;
const LEAF_HEADER_BYTES: usize = 8;
/// No cell takes less room (`btreeParseCellPtr`).
const CELL_BYTES_MIN: usize = 4;

/// What a b-tree page is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Children, with entries of an index between them.
    IndexInterior,
    /// Children, with rowids between them.
    TableInterior,
    /// Entries of an index, or rows of a table without rowids.
    IndexLeaf,
    /// Rows.
    TableLeaf,
}

impl Kind {
    /// What an image of page `page` says of itself; `None`: no b-tree page. An overflow page or a free page may look like one.
    #[must_use]
    pub fn of(image: &[u8], page: u32) -> Option<Kind> {
        match image.get(header_at(page))? {
            2 => Some(Kind::IndexInterior),
            5 => Some(Kind::TableInterior),
            10 => Some(Kind::IndexLeaf),
            13 => Some(Kind::TableLeaf),
            _ => None,
        }
    }

    /// Whether pages of this kind have children.
    #[must_use]
    pub fn is_interior(self) -> bool {
        matches!(self, Kind::IndexInterior | Kind::TableInterior)
    }

    fn number(self) -> u8 {
        match self {
            Kind::IndexInterior => 2,
            Kind::TableInterior => 5,
            Kind::IndexLeaf => 10,
            Kind::TableLeaf => 13,
        }
    }
}

fn header_at(page: u32) -> usize {
    if page == 1 { FILE_HEADER_BYTES } else { 0 }
}

/// A cell: what is left of `content` lies in `child`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cell<'a> {
    /// 0 in a leaf.
    pub child: u32,
    /// As it lies in the page.
    pub content: &'a [u8],
}

/// An interior page, or a leaf of an index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BtreePage<'a> {
    /// Not [`Kind::TableLeaf`].
    pub kind: Kind,
    /// In the order of their keys.
    pub cells: Vec<Cell<'a>>,
    /// The right-most child; 0 in a leaf.
    pub right: u32,
}

/// A variable-length integer and its length in bytes (`sqlite3GetVarint`).
fn varint(bytes: &[u8]) -> Option<(u64, usize)> {
    let mut value = 0;
    for (at, byte) in bytes.iter().enumerate().take(8) {
        value = value << 7 | u64::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            return Some((value, at + 1));
        }
    }
    bytes.get(8).map(|byte| (value << 8 | u64::from(*byte), 9))
}

/// The bytes that an entry of an index with so many bytes has in its page, with the number of its overflow page.
fn local_bytes(payload: u64, usable: usize) -> Option<usize> {
    let most = (usable - 12) * 64 / 255 - 23;
    let least = (usable - 12) * 32 / 255 - 23;
    if payload <= most as u64 {
        return usize::try_from(payload).ok();
    }
    let fitting = least + usize::try_from((payload - least as u64) % (usable as u64 - 4)).ok()?;
    Some(if fitting <= most { fitting } else { least } + 4)
}

fn content_bytes(kind: Kind, bytes: &[u8], usable: usize) -> Option<usize> {
    let (number, length) = varint(bytes)?;
    match kind {
        Kind::TableInterior => Some(length),
        Kind::IndexInterior | Kind::IndexLeaf => length.checked_add(local_bytes(number, usable)?),
        Kind::TableLeaf => None,
    }
}

impl<'a> BtreePage<'a> {
    /// `None`: not an interior page or a leaf of an index, in a database whose pages have `usable` bytes for SQLite. (Whether cells
    /// overlap, and whether children are pages of the database, is not checked.)
    #[must_use]
    pub fn parse(image: &'a [u8], page: u32, usable: usize) -> Option<BtreePage<'a>> {
        let kind = Kind::of(image, page).filter(|kind| *kind != Kind::TableLeaf)?;
        if !is_usable(image.len(), usable) {
            return None;
        }
        let (bytes, header) = (image.get(..usable)?, header_at(page));
        let count = usize::from(be16(bytes, header + 3)?);
        let header_bytes = if kind.is_interior() { INTERIOR_HEADER_BYTES } else { LEAF_HEADER_BYTES };
        let right = if kind.is_interior() { be32(bytes, header + 8)? } else { 0 };
        let pointers = bytes.get(header + header_bytes..)?.get(..2 * count)?;
        let mut cells = Vec::with_capacity(count);
        for pointer in pointers.chunks_exact(2) {
            let at = usize::from(be16(pointer, 0)?);
            let (child, at) = if kind.is_interior() { (be32(bytes, at)?, at + 4) } else { (0, at) };
            let content = bytes.get(at..)?;
            let content = content.get(..content_bytes(kind, content, usable)?)?;
            cells.push(Cell { child, content });
        }
        Some(BtreePage { kind, cells, right })
    }

    /// The image of this interior page, of `page_bytes` of which SQLite uses `usable`: its cells without gaps, from the end of the page
    /// on. `None`: it does not fit, or is none. Not page 1, which has other bytes, too.
    #[must_use]
    pub fn encode(&self, page_bytes: usize, usable: usize) -> Option<Vec<u8>> {
        if !self.kind.is_interior() || !is_usable(page_bytes, usable) {
            return None;
        }
        let mut image = vec![0; page_bytes];
        let pointers_end = INTERIOR_HEADER_BYTES + 2 * self.cells.len();
        let mut end = usable;
        for (nth, cell) in self.cells.iter().enumerate() {
            let length = (4 + cell.content.len()).max(CELL_BYTES_MIN);
            end = end.checked_sub(length).filter(|end| *end >= pointers_end)?;
            image.get_mut(end..end + 4)?.copy_from_slice(&cell.child.to_be_bytes());
            image.get_mut(end + 4..end + 4 + cell.content.len())?.copy_from_slice(cell.content);
            let pointer = INTERIOR_HEADER_BYTES + 2 * nth;
            image.get_mut(pointer..pointer + 2)?.copy_from_slice(&u16::try_from(end).ok()?.to_be_bytes());
        }
        let count = u16::try_from(self.cells.len()).ok()?;
        *image.first_mut()? = self.kind.number();
        image.get_mut(3..5)?.copy_from_slice(&count.to_be_bytes());
        // 65536 is 0 there; no page without cells is that long and whole.
        image.get_mut(5..7)?.copy_from_slice(&u16::try_from(end).unwrap_or(0).to_be_bytes());
        image.get_mut(8..12)?.copy_from_slice(&self.right.to_be_bytes());
        Some(image)
    }
}
