//! The marks in the database header that say: a log exists, and stock SQLite must not open this file.
//!
//! They lie in the first 512 bytes of page 1, so that one sector takes all of them: bytes 18..19 are
//! 112,112 (a version that no SQLite knows; 3,3 is that of its branch with two WAL files), 72..79 the log id, 80..87 T, 88..91 a CRC-32C over 16..19 and 72..87.
//! SQLite reserves 72..91 as zeros.

use super::format::{LogId, is_page_size};

/// The bytes of the database header that SQLite uses; the stamp lies among them.
pub const DATABASE_HEADER_BYTES: usize = 100;
/// What is written when only the stamp changes: within one sector.
pub const STAMP_WRITE_BYTES: usize = 512;

const VERSIONS: std::ops::Range<usize> = 18..20;
const READ_VERSION: usize = 19;
const RESERVED: std::ops::Range<usize> = 72..92;
const LOG_ID: std::ops::Range<usize> = 72..80;
const TARGET: std::ops::Range<usize> = 80..88;
const CRC: std::ops::Range<usize> = 88..92;
const STAMPED: u8 = 0x70;
/// In format version 1.
const STAMPED_BY_OLDER: u8 = 3;
const WAL: u8 = 2;

/// The stamp of a log on its database file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// The log.
    pub log_id: LogId,
    /// T: the target of the last checkpoint pass that reached page 1, or of a recovery, a commit sequence.
    pub backfill_target: u64,
}

/// What page 1 carries beside SQLite's bytes: versions, and the reserved bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Marks {
    /// This stamp.
    Stamp(Stamp),
    /// What lies in the file, whole or torn, byte for byte.
    AsFound {
        /// Bytes 18..19.
        versions: [u8; 2],
        /// Bytes 72..91.
        reserved: [u8; 20],
    },
    /// Those of a file in WAL mode without a log.
    Plain,
}

impl Marks {
    /// The marks that the header in `page1` (100 bytes at least, else plain) carries.
    pub(crate) fn found(page1: &[u8]) -> Marks {
        if page1.len() < DATABASE_HEADER_BYTES {
            return Marks::Plain;
        }
        let (mut versions, mut reserved) = ([0; 2], [0; 20]);
        versions.copy_from_slice(&page1[VERSIONS]);
        reserved.copy_from_slice(&page1[RESERVED]);
        Marks::AsFound { versions, reserved }
    }

    /// Puts them on page 1 (at least its first 100 bytes; shorter is left alone).
    pub(crate) fn apply(&self, page1: &mut [u8]) {
        match self {
            Marks::Stamp(stamp) => stamp.apply(page1),
            Marks::Plain => clear(page1),
            Marks::AsFound { versions, reserved } if page1.len() >= DATABASE_HEADER_BYTES => {
                page1[VERSIONS].copy_from_slice(versions);
                page1[RESERVED].copy_from_slice(reserved);
            }
            Marks::AsFound { .. } => {}
        }
    }
}

/// What the header of a database file says about a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StampState {
    /// No stamp. A file too short for a header is plain, too.
    Plain {
        /// Byte 19 says WAL, and byte 18 does not say that only a newer SQLite may write: SQLite opens it so.
        wal: bool,
    },
    /// A whole stamp.
    Stamped(Stamp),
    /// A whole stamp of format version 1.
    Older {
        /// The log.
        log_id: LogId,
    },
    /// Byte 19 is 112, but the stamp is not whole: torn, or not ours.
    BadStamp {
        /// The log id as it reads.
        log_id: LogId,
    },
    /// The file does not begin as a database and carries no whole stamp: its first sector was lost, or it is another file.
    /// Without a log beside it, it is SQLite's to refuse, or a codec's to read. Only [`recovery`](super::recovery) says so.
    NoHeader,
    /// Byte 18 is 112 and byte 19 is not, or a WAL header's reserved bytes are not zero, or they are those of a whole stamp in any
    /// header: a stamp torn the other way.
    Leftover,
}

impl Stamp {
    /// Puts the stamp on page 1 (at least its first 100 bytes; shorter is left alone).
    pub fn apply(&self, page1: &mut [u8]) {
        if page1.len() < DATABASE_HEADER_BYTES {
            return;
        }
        page1[VERSIONS].fill(STAMPED);
        page1[LOG_ID].copy_from_slice(&self.log_id.to_le_bytes());
        page1[TARGET].copy_from_slice(&self.backfill_target.to_le_bytes());
        let crc = crc_of(page1);
        page1[CRC].copy_from_slice(&crc.to_le_bytes());
    }
}

/// Makes page 1 plain, as SQLite in WAL mode writes it: bytes 18..19 are 2,2, bytes 72..91 zero. Touches what
/// of them lies in `page1` only.
pub fn clear(page1: &mut [u8]) {
    let end = page1.len();
    page1[VERSIONS.start.min(end)..VERSIONS.end.min(end)].fill(WAL);
    page1[RESERVED.start.min(end)..RESERVED.end.min(end)].fill(0);
}

/// Whether the first bytes of a database file carry a stamp, whole or not.
#[must_use]
pub fn is_stamped(header: &[u8]) -> bool {
    header.get(READ_VERSION) == Some(&STAMPED)
}

/// What the first bytes of a database file (100, or the whole file if it is shorter) say.
#[must_use]
pub fn read(header: &[u8]) -> StampState {
    if header.len() < DATABASE_HEADER_BYTES {
        return StampState::Plain { wal: false };
    }
    let log_id = u64_of(&header[LOG_ID]);
    let crc = u64_of(&header[CRC]) == u64::from(crc_of(header));
    if crc && header[VERSIONS] == [STAMPED_BY_OLDER; 2] && log_id != 0 {
        return StampState::Older { log_id };
    }
    if header[READ_VERSION] == STAMPED {
        return if crc && log_id != 0 && header[VERSIONS.start] == STAMPED {
            StampState::Stamped(Stamp { log_id, backfill_target: u64_of(&header[TARGET]) })
        } else {
            StampState::BadStamp { log_id }
        };
    }
    let wal = header[READ_VERSION] == WAL && !is_read_only(header);
    // In rollback mode the reserved bytes are none of ours, no log ever ends there: unless they are those of a whole stamp.
    let is_half = header[VERSIONS.start] == STAMPED || read_reserved(header).is_some();
    if is_half || (wal && header[RESERVED].iter().any(|&byte| byte != 0)) {
        return StampState::Leftover;
    }
    StampState::Plain { wal }
}

/// Whether byte 18 says that only a newer SQLite may write the file: this one opens it for reading (`lockBtree`).
#[must_use]
pub fn is_read_only(header: &[u8]) -> bool {
    header.get(VERSIONS.start).is_some_and(|version| *version > WAL && *version != STAMPED)
}

/// The stamp of a header that is damaged around it, as far as into its versions: the reserved bytes and the page size are
/// those of a whole stamp.
pub(crate) fn read_reserved(header: &[u8]) -> Option<Stamp> {
    let mut header = header.get(..DATABASE_HEADER_BYTES)?.to_vec();
    header[VERSIONS].fill(STAMPED);
    match read(&header) {
        StampState::Stamped(stamp) => Some(stamp),
        _ => None,
    }
}

/// Whether a file that begins so is a database, and neither a codec's nor one whose first sector was lost: it begins with
/// SQLite's magic, and its versions are those that SQLite (with its branches) or a stamp has.
#[must_use]
pub fn is_database(header: &[u8]) -> bool {
    let is_version = |version: &u8| matches!(*version, 1..=3 | STAMPED);
    header.starts_with(b"SQLite format 3\0")
        && header.get(VERSIONS).is_some_and(|versions| versions.iter().all(is_version))
}

/// The page size in bytes that a database header states; `None` if it is short or states an impossible one.
#[must_use]
pub fn page_bytes(header: &[u8]) -> Option<u32> {
    let stated = u32::from(u16::from_be_bytes([*header.get(16)?, *header.get(17)?]));
    let bytes = if stated == 1 { 65536 } else { stated };
    is_page_size(bytes).then_some(bytes)
}

fn crc_of(page1: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&page1[16..VERSIONS.end]), &page1[LOG_ID.start..TARGET.end])
}

fn u64_of(bytes: &[u8]) -> u64 {
    let mut value = [0; 8];
    let length = bytes.len().min(8);
    value[..length].copy_from_slice(&bytes[..length]);
    u64::from_le_bytes(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wal_page() -> Vec<u8> {
        let mut page: Vec<u8> = (0..=255).cycle().take(512).collect();
        page[16..18].copy_from_slice(&[0x10, 0]);
        clear(&mut page);
        page
    }

    #[test]
    fn a_stamp_is_read_back_and_cleared_to_the_same_bytes() {
        let plain = wal_page();
        let stamp = Stamp { log_id: 0xfeed, backfill_target: 77 };
        let mut page = plain.clone();
        stamp.apply(&mut page);
        assert_eq!(read(&page), StampState::Stamped(stamp));
        assert_eq!(page_bytes(&page), Some(4096));
        clear(&mut page);
        assert_eq!(page, plain);
        assert_eq!(read(&plain), StampState::Plain { wal: true });
    }

    #[test]
    fn any_flipped_bit_of_a_stamp_shows() {
        let mut page = wal_page();
        Stamp { log_id: 0xfeed, backfill_target: 77 }.apply(&mut page);
        for at in (16..20).chain(72..92) {
            for bit in 0..8 {
                let mut flipped = page.clone();
                flipped[at] ^= 1 << bit;
                let state = read(&flipped);
                assert!(!matches!(state, StampState::Stamped(_) | StampState::Plain { .. }), "{at}.{bit}: {state:?}");
            }
        }
    }

    #[test]
    fn a_stamp_of_version_1_is_named_and_that_of_another_sqlite_is_none() {
        let mut page = wal_page();
        page[VERSIONS].fill(3);
        page[LOG_ID].copy_from_slice(&7_u64.to_le_bytes());
        let crc = crc_of(&page);
        assert_eq!(read(&page), StampState::Plain { wal: false });
        page[CRC].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(read(&page), StampState::Older { log_id: 7 });
    }

    /// What says that the file is another's (a newer SQLite's, one in rollback mode) moves the log away.
    #[test]
    fn the_reserved_bytes_of_a_whole_stamp_are_never_plain() {
        let mut page = wal_page();
        Stamp { log_id: 0xfeed, backfill_target: 77 }.apply(&mut page);
        for versions in [[1, 1], [1, 2], [2, 1], [2, 2], [3, 2], [3, 3], [9, 2], [STAMPED, 2]] {
            page[VERSIONS].copy_from_slice(&versions);
            assert_eq!(read(&page), StampState::Leftover, "{versions:?}");
        }
        // A newer SQLite may use them.
        page[VERSIONS].copy_from_slice(&[3, 2]);
        page[TARGET.start] ^= 1;
        assert_eq!(read(&page), StampState::Plain { wal: false });
    }

    #[test]
    fn short_and_rollback_files_are_plain() {
        assert_eq!(read(&[]), StampState::Plain { wal: false });
        assert_eq!(read(&[3; 99]), StampState::Plain { wal: false });
        let mut page = wal_page();
        page[18..20].fill(1);
        page[80] = 9;
        assert_eq!(read(&page), StampState::Plain { wal: false });
        clear(&mut [0; 19]);
    }
}
