//! What goes wrong in the engine, and which result code of SQLite says it.

use crate::disk::{advice, is_out_of_descriptors, is_refused_for_size};
use crate::log::format::FormatError;
use crate::log::{ErrorKind, LogError};
use crate::shared::SharedError;
use crate::sqlite::Code;
use std::io;
use std::path::{Path, PathBuf};

/// An error of the engine.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum EngineError {
    /// A write to the log failed.
    #[error("cannot write {file}: {source}{}", advice(source))]
    Write { file: String, source: io::Error },
    /// A sync of the log failed.
    #[error("cannot sync {file}: {source}{}", advice(source))]
    Sync { file: String, source: io::Error },
    /// A file of the log could not be opened.
    #[error("cannot open {file}: {source}{}", advice(source))]
    Open { file: String, source: io::Error },
    /// A segment of the log is not there.
    #[error("segment {ordinal} of the log in {file} is missing: was the log modified by another program?")]
    NoSegment { file: PathBuf, ordinal: u64 },
    /// A commit that another process published is not where it says.
    #[error("commit {sequence} of the log in {file} is not valid: another program has modified the log")]
    NoCommit { file: PathBuf, sequence: u64 },
    /// Another process has what this needs, and keeps it.
    #[error("{what} of {file} is held by {holder}")]
    LockHeld { what: &'static str, file: PathBuf, holder: String },
    /// A frame could not be read.
    #[error("cannot read the log of {file}: {source}{}", advice(source))]
    Read { file: PathBuf, source: io::Error },
    /// A segment is shorter than its frames.
    #[error("the log in {file} ends before the image of page {page}: was the log modified by another program?")]
    ShortLog { file: PathBuf, page: u32 },
    /// An image of a durable commit is not what was written.
    #[error(
        "the image of page {page} of commit {sequence} at byte {offset} of {file} does not fit its checksum: the medium has \
         changed it, or another program has; nothing of it is written to the database file, and the log stays"
    )]
    Image { file: PathBuf, page: u32, sequence: u64, offset: u64 },
    /// The log has reached `parallel_wal_log_limit_bytes`, and a reader keeps it.
    #[error("the log of {file} has reached {bytes} bytes (parallel_wal_log_limit_bytes); {reader}")]
    LogLimit { file: PathBuf, bytes: u64, reader: String },
    /// The database file is not the one that the log belongs to.
    #[error(
        "{file} was overwritten while it was open: {found}. Nothing was written to it; the log stays beside it. Close all \
         connections before a database file is restored or copied over"
    )]
    Replaced { file: PathBuf, found: String },
    /// The database file could not be read, written or synced.
    #[error("cannot {action} the database file {file}: {source}")]
    Database { action: &'static str, file: PathBuf, source: io::Error },
    /// The database file is not what it was when the engine claimed it.
    #[error("{file} was changed by another program without a lock; nothing was written")]
    Changed { file: PathBuf },
    /// An earlier write or sync failed: nothing is written until the database is opened again.
    #[error("{reason}; {}; close all connections and open the database again", outcome(*unknown))]
    Poisoned { reason: String, unknown: bool },
    /// The batch cannot be placed: prepare was not asked, or promised too little.
    #[error("no place in the log for a batch")]
    NoLog,
    /// A number that no commit has.
    #[error("commit {sequence} of {file} is not committed yet: the last one is {last}")]
    NotCommitted { sequence: u64, last: u64, file: PathBuf },
    /// The engine ends, and what was under way is left to others.
    #[error("given up, since this process closes the database")]
    GivenUp,
    /// No memory for the control block.
    #[error("no memory for the control block: {reason}")]
    NoMemory { reason: String },
    /// Some reader holds the checkpoint back where none should be.
    #[error("not all commits could be brought into {file}; the log stays for the next open")]
    NotBackfilled { file: PathBuf },
    /// All snapshot slots are taken.
    #[error("{connections} connections of all processes have {file} open: pwal takes no more")]
    TooManyConnections { connections: usize, file: PathBuf },
    /// What one process alone may do.
    #[error("{file} cannot leave WAL mode while other processes have it open: {who}; close it there first")]
    OtherMembers { file: PathBuf, who: String },
    /// A rest of the log beside a transaction.
    #[error("a transaction writes {file}, or reads an older state of it; the log stays")]
    InUse { file: PathBuf },
    /// A change of the journal mode has read the file without its log.
    #[error("others have committed to {file} while its journal mode was being changed; change it again")]
    Committed { file: PathBuf },
    /// INIT was not to be had in time.
    #[error("another process has been opening or closing {file} for too long; the log stays for the next open")]
    InitHeld { file: PathBuf },
    /// A lock of the base VFS on the database file.
    #[error("a connection that is not on pwal has a lock on {file}; the log stays for the next open")]
    NotOnPwal { file: PathBuf },
    /// The log directory has another name by now.
    #[error("the log directory of {file} was moved while it was in use; it stays for the next open")]
    Moved { file: PathBuf },
    /// `lock` cannot be locked or asked.
    #[error("cannot lock the file lock beside {file}: {source}")]
    Lock { file: PathBuf, source: io::Error },
    /// The log said so.
    #[error(transparent)]
    Log(#[from] LogError),
    /// A record cannot be encoded.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// The control block refuse.
    #[error(transparent)]
    Shared(#[from] SharedError),
}

fn outcome(unknown: bool) -> &'static str {
    if unknown {
        "the outcome of commits that were not acknowledged is unknown"
    } else {
        "commits that were not acknowledged were rolled back"
    }
}

impl EngineError {
    pub(crate) fn write(file: &str, source: io::Error) -> EngineError {
        EngineError::Write { file: file.to_owned(), source }
    }

    pub(crate) fn sync(file: &str, source: io::Error) -> EngineError {
        EngineError::Sync { file: file.to_owned(), source }
    }

    pub(crate) fn open(file: &str, source: io::Error) -> EngineError {
        EngineError::Open { file: file.to_owned(), source }
    }

    pub(crate) fn read(file: &Path, source: io::Error) -> EngineError {
        EngineError::Read { file: file.to_path_buf(), source }
    }

    pub(crate) fn database(action: &'static str, file: &Path, source: io::Error) -> EngineError {
        EngineError::Database { action, file: file.to_path_buf(), source }
    }

    pub(crate) fn memory(source: &io::Error) -> EngineError {
        EngineError::NoMemory { reason: source.to_string() }
    }

    /// A file, or the directory, could not be opened, mostly for want of descriptors, or may not be written by this process for
    /// its length: this process's trouble, which says nothing of what is written.
    pub(super) fn is_open_failure(&self) -> bool {
        matches!(self, EngineError::Open { .. })
            || self.is_out_of_descriptors()
            || self.io_source().is_some_and(is_refused_for_size)
    }

    /// A file is longer than this process may write one (`RLIMIT_FSIZE`), or would be: no failure of the medium.
    pub(super) fn is_too_large(&self) -> bool {
        self.io_source().is_some_and(|source| source.kind() == io::ErrorKind::FileTooLarge)
    }

    /// The process, or the system, has no descriptor left. A file of the log is opened again when it is used, so that every
    /// operation on one may say so; then it was not begun.
    pub(super) fn is_out_of_descriptors(&self) -> bool {
        self.io_source().is_some_and(is_out_of_descriptors)
    }

    fn io_source(&self) -> Option<&io::Error> {
        match self {
            EngineError::Write { source, .. }
            | EngineError::Sync { source, .. }
            | EngineError::Open { source, .. }
            | EngineError::Read { source, .. }
            | EngineError::Database { source, .. }
            | EngineError::Lock { source, .. }
            | EngineError::Log(LogError::Io { source, .. }) => Some(source),
            _ => None,
        }
    }

    /// The result code for a failure of a spill file.
    pub(crate) fn spill_code(source: &io::Error) -> Code {
        full_or(source, Code::IOERR_WRITE)
    }

    /// The result code of SQLite that its users expect.
    pub(crate) fn code(&self) -> Code {
        match self {
            EngineError::Write { source, .. } => full_or(source, Code::IOERR_WRITE),
            EngineError::Sync { source, .. } => full_or(source, Code::IOERR_FSYNC),
            EngineError::Read { .. } | EngineError::ShortLog { .. } => Code::IOERR_READ,
            EngineError::Database { source, .. } => full_or(source, Code::IOERR),
            EngineError::Open { source, .. } => full_or(source, Code::IOERR),
            EngineError::NoSegment { .. } | EngineError::NoCommit { .. } => Code::IOERR_READ,
            EngineError::LogLimit { .. } => Code::FULL,
            EngineError::NotCommitted { .. } => Code::ERROR,
            EngineError::GivenUp => Code::INTERRUPT,
            EngineError::Replaced { .. } => Code::IOERR_READ,
            EngineError::Image { .. } => Code::IOERR_DATA,
            EngineError::LockHeld { .. } => Code::BUSY,
            EngineError::Changed { .. } | EngineError::NoLog => Code::IOERR,
            EngineError::Poisoned { .. } => Code::IOERR_FSYNC,
            EngineError::TooManyConnections { .. }
            | EngineError::NotBackfilled { .. }
            | EngineError::OtherMembers { .. }
            | EngineError::InUse { .. }
            | EngineError::Committed { .. }
            | EngineError::InitHeld { .. }
            | EngineError::NotOnPwal { .. } => Code::BUSY,
            EngineError::Moved { .. } => Code::READONLY_DBMOVED,
            // As SQLite answers where it cannot open a file.
            EngineError::Lock { source, .. } if is_out_of_descriptors(source) => Code::CANTOPEN,
            EngineError::Lock { .. } => Code::IOERR_LOCK,
            EngineError::Log(error) => log_code(error),
            EngineError::NoMemory { .. } => Code::NOMEM,
            // From PHASETWO: SQLite forgets the pages of the lost commit for IOERR and FULL only (`pager_error`).
            EngineError::Format(_) | EngineError::Shared(_) => Code::IOERR,
        }
    }
}

fn full_or(source: &io::Error, other: Code) -> Code {
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Code::FULL,
        // As `seekAndWrite` has it.
        io::ErrorKind::FileTooLarge => Code::IOERR_WRITE,
        _ => other,
    }
}

/// The result code for an error of the log.
pub(crate) fn log_code(error: &LogError) -> Code {
    if let LogError::Io { source, .. } = error
        && source.kind() == io::ErrorKind::FileTooLarge
    {
        return Code::IOERR_WRITE;
    }
    match error.kind() {
        ErrorKind::Io => Code::IOERR,
        ErrorKind::Full => Code::FULL,
        ErrorKind::Corrupt => Code::CORRUPT,
        ErrorKind::CannotOpen => Code::CANTOPEN,
        ErrorKind::ReadOnly => Code::READONLY_RECOVERY,
    }
}
