//! Recovery of a database that is not open, without a connection: for programs and administrators.

use crate::disk::RealDisk;
use crate::handle::settle::{How, Report, SettleError};
use crate::log::recovery::Done;
use crate::log::salvage::{Discarded, Salvaged};
use crate::sqlite::Code;
use crate::vfs::{RegisterError, recover_on};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Recovers the database file at `path` as the next open through pwal would, and closes it again: what a crash left in the log is
/// replayed and the log deleted, and what is left is one plain SQLite file.
///
/// Needs no registration of the VFS, and no other process or connection may have the database open.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let directory = tempfile::tempdir()?;
/// # let path = directory.path().join("app.db");
/// # rusqlite::Connection::open(&path)?.execute_batch("CREATE TABLE t(x)")?;
/// let recovery = pwal::recover(&path)?;
/// println!("{} commits replayed, {} pages written", recovery.commits_replayed, recovery.pages_written);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// [`RecoverError::InUse`]; [`RecoverError::Refused`] where the log is damaged or not of this file: nothing was changed then, and
/// [`salvage`] and [`discard_log`] are what is left.
pub fn recover(path: impl AsRef<Path>) -> Result<Recovery, RecoverError> {
    recover_by(path.as_ref(), How::Recover)
}

/// As [`recover`]; where that refuses, it replays the commits that are valid, gives up those after them, and moves the log directory
/// away. Copy the database file and its `-pwal` directory first.
///
/// # Errors
/// As [`recover`]; [`RecoverError::Refused`] where nothing of the log can be salvaged.
pub fn salvage(path: impl AsRef<Path>) -> Result<Recovery, RecoverError> {
    recover_by(path.as_ref(), How::Salvage)
}

/// Takes the database file as the last checkpoint left it, gives up every commit that is only in the log, and moves the log directory
/// away. Copy the database file and its `-pwal` directory first.
///
/// # Errors
/// As [`recover`].
pub fn discard_log(path: impl AsRef<Path>) -> Result<Recovery, RecoverError> {
    recover_by(path.as_ref(), How::DiscardLog)
}

fn recover_by(path: &Path, how: How) -> Result<Recovery, RecoverError> {
    match recover_on(path, how, Arc::new(RealDisk))? {
        Ok(report) => Ok(Recovery::new(path, &report)),
        Err(error) => Err(RecoverError::new(path, error)),
    }
}

/// What a recovery did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Recovery {
    /// Commits that were in the log only and are in the database file now.
    pub commits_replayed: u64,
    /// Pages of the database file that were written for them.
    pub pages_written: u64,
    /// Commits that the log speaks of and that are lost: by [`salvage`] or [`discard_log`] only.
    pub commits_given_up: u64,
    /// Where log directories are now that were moved away, not deleted.
    pub moved_to: Vec<PathBuf>,
    /// Whether stock SQLite recovered a journal or a `-wal` of its own.
    pub stock_recovered: bool,
    /// What could not be read, each a sentence for people; empty: everything could.
    pub unreadable: Vec<String>,
}

impl Recovery {
    fn new(path: &Path, report: &Report) -> Recovery {
        let mut recovery = Recovery { stock_recovered: report.stock_recovered, ..Recovery::default() };
        for done in &report.done {
            match done {
                Done::DeletedLeftovers { .. } => {}
                Done::Recovered(recovered) => {
                    recovery.commits_replayed += recovered.last - recovered.backfilled;
                    recovery.pages_written += recovered.pages;
                    recovery.unreadable.extend(recovered.unreadable.iter().map(ToString::to_string));
                }
                Done::SetAside { suffix, .. } | Done::Orphaned { suffix, .. } => recovery.moved(path, suffix),
            }
        }
        if let Some(Salvaged { plan, pages, moved_to }) = &report.salvaged {
            if plan.replays {
                recovery.commits_replayed += plan.last.saturating_sub(plan.base);
            }
            recovery.pages_written += pages;
            recovery.commits_given_up += plan.known.saturating_sub(plan.kept());
            recovery.unreadable.extend(plan.unreadable.iter().map(ToString::to_string));
            recovery.moved(path, moved_to);
        }
        if let Some(Discarded { moved_to, given_up, unreadable }) = &report.discarded {
            let commits = given_up.iter().map(|(_, backfilled, known)| known.saturating_sub(*backfilled));
            recovery.commits_given_up += commits.sum::<u64>();
            recovery.unreadable.extend(unreadable.iter().map(|(log_id, what)| format!("log {log_id:016x}: {what}")));
            moved_to.iter().for_each(|suffix| recovery.moved(path, suffix));
        }
        recovery
    }

    fn moved(&mut self, path: &Path, suffix: &str) {
        let mut directory = path.as_os_str().to_owned();
        directory.push(format!("-pwal.{suffix}"));
        self.moved_to.push(PathBuf::from(directory));
    }
}

/// Why a database was not recovered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecoverError {
    /// The linked SQLite cannot be used.
    #[error(transparent)]
    Register(#[from] RegisterError),
    /// A connection has the database open: try again when all are closed.
    #[error("{0}")]
    InUse(Unrecovered),
    /// The log is damaged or belongs to another file, or the file is no database: nothing was changed but what `done` says. The message
    /// says what the user can do.
    #[error("{0}")]
    Refused(Unrecovered),
    /// The file system or the medium fails: no such file, no permission, no space, an I/O error.
    #[error("{0}")]
    Failed(Unrecovered),
}

/// How far a recovery came that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Unrecovered {
    /// The extended result code of SQLite that an open through pwal would have met.
    pub code: i32,
    /// What happened, and what the user can do.
    pub message: String,
    /// What was done before.
    pub done: Recovery,
}

impl fmt::Display for Unrecovered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl RecoverError {
    fn new(path: &Path, error: SettleError) -> RecoverError {
        let SettleError { code, text, report } = error;
        let unrecovered = Unrecovered { code: code.number(), message: text, done: Recovery::new(path, &report) };
        match code.primary() {
            Code::BUSY | Code::LOCKED => RecoverError::InUse(unrecovered),
            Code::CORRUPT | Code::NOTADB => RecoverError::Refused(unrecovered),
            Code::CANTOPEN if path.exists() => RecoverError::Refused(unrecovered),
            _ if code == Code::READONLY_RECOVERY => RecoverError::Refused(unrecovered),
            _ => RecoverError::Failed(unrecovered),
        }
    }
}
