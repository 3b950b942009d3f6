//! What goes wrong in the log, and what the user can do about it.

use super::format::{FormatError, LogId};
use crate::disk::{advice, is_out_of_descriptors};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// What a caller does with a [`LogError`]: one result code for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The medium failed: `SQLITE_IOERR`.
    Io,
    /// The disk is full: `SQLITE_FULL`. The log is kept.
    Full,
    /// The log, or what its marks say of the database file, is damaged: `SQLITE_CORRUPT`.
    Corrupt,
    /// The file cannot be opened as it is, and no record of it is damaged: `SQLITE_CANTOPEN`.
    CannotOpen,
    /// A log must be recovered and nothing may be written: `SQLITE_READONLY_RECOVERY`.
    ReadOnly,
}

/// What stands for the database file in the messages: the log knows only its descriptor.
pub(crate) const DATABASE: &str = "the database file";

/// An error of the log. Nothing was written to the database file on doubt.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum LogError {
    /// The medium failed.
    #[error("cannot {action} {}: {source}{}", file.display(), advice(source))]
    Io {
        /// The operation.
        action: &'static str,
        /// The file or directory.
        file: PathBuf,
        /// The error of the medium.
        source: io::Error,
    },
    /// The disk is full.
    #[error("cannot {action} {}: the disk is full; make room and open the database again", file.display())]
    Full {
        /// The operation.
        action: &'static str,
        /// The file or directory.
        file: PathBuf,
    },
    /// The records of a file claim lengths that no log has. Nothing was touched.
    #[error("cannot {action} {}: {source}; `pwal recover --discard-log` opens the state of the last checkpoint", file.display())]
    Endless {
        /// The operation.
        action: &'static str,
        /// The file.
        file: PathBuf,
        /// What was seen.
        source: io::Error,
    },
    /// A record is not valid.
    #[error("{} is damaged at byte {offset}: {source}", file.display())]
    Record {
        /// The file.
        file: PathBuf,
        /// The offset of the record in bytes.
        offset: u64,
        /// What does not hold.
        source: FormatError,
    },
    /// A record is valid and was written by a newer pwal, or by an older one. Nothing was touched.
    #[error("{} at byte {offset}: {source}", file.display())]
    OtherVersion {
        /// The file.
        file: PathBuf,
        /// The offset of the record in bytes.
        offset: u64,
        /// What is newer, or older.
        source: FormatError,
    },
    /// Rules L2 and L3: commits that are known to have been durable are not valid any more.
    #[error(
        "{} is damaged at byte {offset}: {reason}; the log {log_id:016x} is whole up to commit {last}, but was durable up to {durable} (the database file has seen {target}); `pwal recover --salvage` shows what can be saved",
        file.display()
    )]
    Damaged {
        /// The segment, or the directory if it is not known which.
        file: PathBuf,
        /// The offset in bytes where the chain of batches ends.
        offset: u64,
        /// Why it ends there.
        reason: String,
        /// The log.
        log_id: LogId,
        /// n: the last commit that is valid.
        last: u64,
        /// D: the last commit that a certificate calls durable.
        durable: u64,
        /// T of the stamp (0 where the stamp is torn).
        target: u64,
    },
    /// The medium does not give a block in which the next commit may lie, or a certificate that speaks of it.
    #[error(
        "{} cannot be read at byte {offset}: {error}; the log {log_id:016x} is whole up to commit {last}, and more may have been durable; `pwal recover --salvage` shows what can be saved",
        file.display()
    )]
    Unreadable {
        /// The segment or the spill file.
        file: PathBuf,
        /// The offset in bytes.
        offset: u64,
        /// What the medium says.
        error: String,
        /// The log.
        log_id: LogId,
        /// n: the last commit that is valid.
        last: u64,
    },
    /// Rule L1: the stamp is older than the log.
    #[error(
        "the database file was checkpointed to commit {target}, but its log {log_id:016x} says {backfilled}: an old copy was put back under a newer log; put the right file back, or `pwal recover --salvage`"
    )]
    OldCopy {
        /// The log.
        log_id: LogId,
        /// T of the stamp.
        target: u64,
        /// B of the certificates.
        backfilled: u64,
    },
    /// Rule L4: a marker beside the log names another last commit than its batches.
    #[error(
        "the log {log_id:016x} was retired at commit {marker}, but its batches end at {last}; `pwal recover --salvage` shows what can be saved"
    )]
    MarkerMismatch {
        /// The log.
        log_id: LogId,
        /// n of the marker.
        marker: u64,
        /// n of the batches.
        last: u64,
    },
    /// The page size of the log is not that of the database file.
    #[error(
        "the log {log_id:016x} has pages of {log_bytes} bytes, the database file of {database_bytes}: they do not belong together, or the header of the database file is damaged"
    )]
    PageSize {
        /// The log.
        log_id: LogId,
        /// Bytes of a page of the log.
        log_bytes: u32,
        /// Bytes of a page by the database header; 0 if it names no possible size.
        database_bytes: u32,
    },
    /// A stamped database file without its log: a copy without its `-pwal` directory, or the directory was lost.
    #[error(
        "the database file needs its log {log_id:016x}, and {} does not hold it: put the directory back beside the file, or `pwal recover --discard-log` to open the state of the last checkpoint",
        directory.display()
    )]
    BareCopy {
        /// The log of the stamp.
        log_id: LogId,
        /// Where it was looked for.
        directory: PathBuf,
    },
    /// The version bytes or the reserved bytes of the database header are neither plain nor a whole stamp,
    /// and nothing says what they were.
    #[error(
        "the header of the database file is neither SQLite's nor that of a log in {}: a newer file format, or damage; `pwal recover` shows what can be done",
        directory.display()
    )]
    UnknownHeader {
        /// The log directory.
        directory: PathBuf,
    },
    /// The stamp on the database file is of an older version of the format.
    #[error(
        "the database file and its log {log_id:016x} were written by an older pwal (format version 1): open the database once with the pwal that wrote it, which leaves one plain file"
    )]
    OlderStamp {
        /// The log.
        log_id: LogId,
    },
    /// The database file does not begin as one, and nothing proves that the log beside it is its own.
    #[error(
        "the database file does not begin as one, and nothing proves that the log {log_id:016x} in {} is its own: its first sector was lost, or it is another file, an encrypted one perhaps; `pwal recover --salvage` brings the sector back from the log, and if the log belongs elsewhere, move that directory away",
        directory.display()
    )]
    LostHeader {
        /// The log.
        log_id: LogId,
        /// The log directory.
        directory: PathBuf,
    },
    /// The medium does not give the first sector of the database file, and nothing proves that the log beside it is its own.
    #[error(
        "the database file cannot be read at byte 0: {error}; the log {log_id:016x} in {} cannot restore it, since nothing proves that it is this file's, or it is not whole; `pwal recover --salvage` shows what can be saved",
        directory.display()
    )]
    UnreadableHeader {
        /// What the medium says.
        error: String,
        /// The log.
        log_id: LogId,
        /// The log directory.
        directory: PathBuf,
    },
    /// A hot journal or a `-wal` file of stock SQLite beside a stamped database file.
    #[error(
        "the database file has a log in {}, and beside it lies a journal or a -wal file of stock SQLite, which would undo it: move that file away after making sure that it belongs elsewhere",
        directory.display()
    )]
    StockLeftovers {
        /// The log directory.
        directory: PathBuf,
    },
    /// Read-only, and a log that must be recovered first.
    #[error(
        "{} holds a log that must be recovered, and the database is open read-only: open it once read-write",
        directory.display()
    )]
    ReadOnly {
        /// The log directory.
        directory: PathBuf,
    },
    /// A log is to be retired and the database file carries the stamp of another one, or none can be on it.
    #[error("the database file does not carry the stamp of log {log_id:016x}: it was replaced; nothing was touched")]
    NotOurs {
        /// The log that was to be retired.
        log_id: LogId,
    },
}

impl LogError {
    /// An error of the medium, distinguished from a full disk.
    #[must_use]
    pub fn io(action: &'static str, file: &Path, source: io::Error) -> LogError {
        let file = file.to_path_buf();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => LogError::Full { action, file },
            _ if source.get_ref().is_some_and(|inner| inner.is::<ReadsTooMuch>()) => {
                LogError::Endless { action, file, source }
            }
            _ => LogError::Io { action, file, source },
        }
    }

    pub(crate) fn database(action: &'static str, source: io::Error) -> LogError {
        LogError::io(action, Path::new(DATABASE), source)
    }

    pub(crate) fn record(file: &Path, offset: u64, source: FormatError) -> LogError {
        let file = file.to_path_buf();
        if source.is_other_version() {
            LogError::OtherVersion { file, offset, source }
        } else {
            LogError::Record { file, offset, source }
        }
    }

    /// What the caller does with it.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            // As SQLite answers where it cannot open a file.
            LogError::Io { source, .. } if is_out_of_descriptors(source) => ErrorKind::CannotOpen,
            LogError::Io { .. } | LogError::Unreadable { .. } | LogError::UnreadableHeader { .. } => ErrorKind::Io,
            LogError::Full { .. } => ErrorKind::Full,
            LogError::Record { .. }
            | LogError::Endless { .. }
            | LogError::Damaged { .. }
            | LogError::MarkerMismatch { .. }
            | LogError::PageSize { .. } => ErrorKind::Corrupt,
            LogError::BareCopy { .. }
            | LogError::OldCopy { .. }
            | LogError::OtherVersion { .. }
            | LogError::OlderStamp { .. }
            | LogError::LostHeader { .. }
            | LogError::UnknownHeader { .. }
            | LogError::StockLeftovers { .. }
            | LogError::NotOurs { .. } => ErrorKind::CannotOpen,
            LogError::ReadOnly { .. } => ErrorKind::ReadOnly,
        }
    }
}

/// More was to be read than records that pwal wrote can ask for.
#[derive(Debug)]
pub(crate) struct ReadsTooMuch;

impl fmt::Display for ReadsTooMuch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the lengths in its records are not those of a log that pwal wrote")
    }
}

impl std::error::Error for ReadsTooMuch {}
