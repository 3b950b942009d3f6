//! What goes wrong in the log, and what the user can do about it.

use super::format::{FormatError, LogId};
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
    /// The file cannot be opened as it is, and nothing is damaged: `SQLITE_CANTOPEN`.
    CannotOpen,
    /// A log must be recovered and nothing may be written: `SQLITE_READONLY_RECOVERY`.
    ReadOnly,
}

/// An error of the log. Nothing was written to the database file on doubt.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum LogError {
    /// The medium failed.
    #[error("cannot {action} {file}: {source}")]
    Io {
        /// The operation.
        action: &'static str,
        /// The file or directory.
        file: PathBuf,
        /// The error of the medium.
        source: io::Error,
    },
    /// The disk is full.
    #[error("cannot {action} {file}: the disk is full; make room and open the database again")]
    Full {
        /// The operation.
        action: &'static str,
        /// The file or directory.
        file: PathBuf,
    },
    /// A record does not prove itself.
    #[error("{file} is damaged at byte {offset}: {source}; `pwal recover --salvage` shows what can be saved")]
    Record {
        /// The file.
        file: PathBuf,
        /// The offset of the record in bytes.
        offset: u64,
        /// What does not hold.
        source: FormatError,
    },
    /// A record proves itself and was written by a newer pwal.
    #[error("{file} at byte {offset}: {source}")]
    Newer {
        /// The file.
        file: PathBuf,
        /// The offset of the record in bytes.
        offset: u64,
        /// What is newer.
        source: FormatError,
    },
    /// A stamped database file without its log: a copy without its `-pwal` directory, or the directory was lost.
    #[error(
        "the database file needs its log {log_id:016x}, and {directory} does not hold it: put the directory back beside the file, or `pwal recover --discard-log` to open the state of the last checkpoint"
    )]
    BareCopy {
        /// The log of the stamp.
        log_id: LogId,
        /// Where it was looked for.
        directory: PathBuf,
    },
    /// Read-only, and a log that must be recovered first.
    #[error(
        "{directory} holds a log that must be recovered, and the database is open read-only: open it once read-write"
    )]
    ReadOnly {
        /// The log directory.
        directory: PathBuf,
    },
}

impl LogError {
    /// An error of the medium, told apart from a full disk.
    #[must_use]
    pub fn io(action: &'static str, file: &Path, source: io::Error) -> LogError {
        let file = file.to_path_buf();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => LogError::Full { action, file },
            _ => LogError::Io { action, file, source },
        }
    }

    /// What the caller does with it.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            LogError::Io { .. } => ErrorKind::Io,
            LogError::Full { .. } => ErrorKind::Full,
            LogError::Record { .. } => ErrorKind::Corrupt,
            LogError::BareCopy { .. } | LogError::Newer { .. } => ErrorKind::CannotOpen,
            LogError::ReadOnly { .. } => ErrorKind::ReadOnly,
        }
    }
}
