//! The header of a database file as this connection's base has it: what it says of the file, and what SQLite is shown of it.

use super::base::BaseFile;
use crate::log::stamp::{self, DATABASE_HEADER_BYTES, StampState};
use crate::sqlite::Code;

pub(super) type Header = [u8; DATABASE_HEADER_BYTES];

/// What every database file begins with.
pub(super) const MAGIC: &[u8] = b"SQLite format 3\0";

/// What SQLite reads at byte 18 of a database in WAL mode: both versions.
const VERSION_BYTES: std::ops::Range<u64> = 18..20;

pub(super) fn read_header(base: &mut dyn BaseFile) -> Result<Header, Code> {
    let mut header = [0; DATABASE_HEADER_BYTES];
    match base.read(&mut header, 0) {
        Ok(()) | Err(Code::IOERR_SHORT_READ) => Ok(header),
        Err(code) => Err(code),
    }
}

pub(super) const ONLY_READS: &str =
    "opened for reading where it cannot be had through pwal: it is read as stock SQLite does";

/// Why a file with this header is the base's.
pub(super) fn why_bases(header: &Header) -> &'static str {
    match stamp::read(header) {
        StampState::Plain { .. } if header.starts_with(MAGIC) && stamp::is_read_only(header) => {
            "its write version is one of a newer SQLite: it is read as on stock SQLite, and no connection here writes it"
        }
        // A file without a byte is a new one.
        StampState::Plain { wal: false } if header.starts_with(MAGIC) || header.iter().all(|byte| *byte == 0) => {
            "not in WAL mode: PRAGMA journal_mode=WAL"
        }
        StampState::Plain { wal: true } if header.starts_with(MAGIC) => ONLY_READS,
        StampState::BadStamp { .. } | StampState::Leftover if header.starts_with(MAGIC) => {
            "something is in bytes 72 to 91 of the database header, which SQLite reserves, or its version is a newer one: it works as \
             on stock SQLite"
        }
        _ => "its header is not SQLite's: the database is encrypted (it works as on stock SQLite), or no database",
    }
}

/// Makes page 1 of the database file, read at `offset`, look as a plain WAL database does: 2,2 at byte 18, zeros in the
/// reserved bytes.
pub(super) fn mask(buffer: &mut [u8], offset: u64) {
    const RESERVED: std::ops::Range<u64> = 72..92;
    for (range, value) in [(VERSION_BYTES, 2), (RESERVED, 0)] {
        let end = offset + buffer.len() as u64;
        let (from, to) = (range.start.max(offset), range.end.min(end));
        if from < to
            && let (Ok(from), Ok(to)) = (usize::try_from(from - offset), usize::try_from(to - offset))
        {
            buffer[from..to].fill(value);
        }
    }
}
