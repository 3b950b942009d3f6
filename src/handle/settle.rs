//! Settling a database without opening it: what the first `xLock(SHARED)` would do up to the engine, for
//! a tool that wants to know what was done.
//!
//! The claim is the same: `lock`, then EXCLUSIVE through a database handle. So no other process has the database meanwhile, and a
//! database that is in use is left alone.

use super::base::OpenFacts;
use super::beside::give_up_lock;
use super::file::OpenFile;
use super::init_lock::take_lock;
use super::opening::{ExclusiveDatabase, Opening};
use super::refusal::Refused;
use super::registry::Context;
use crate::disk::LogDirectory;
use crate::host::DatabaseHandle;
use crate::log::LogError;
use crate::log::recovery::{self, Done, Next, Opened, open_database};
use crate::log::salvage::{Discarded, Salvaged, discard_log, salvage};
use crate::sqlite::Code;
use std::path::Path;
use std::sync::Arc;

/// Attempts while stock's leftovers are settled, directories go away under us, or a log is moved away.
const ATTEMPTS: usize = 8;

/// How a log that lies beside the database file is settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// By the decision table, as an open does it.
    Recover,
    /// Where the table refuses: what is valid is replayed, the log moved away.
    Salvage,
    /// The database file as it is; the log is moved away.
    DiscardLog,
}

/// What was done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// By recovery.
    pub done: Vec<Done>,
    /// By [`How::Salvage`], where it was needed.
    pub salvaged: Option<Salvaged>,
    /// By [`How::DiscardLog`].
    pub discarded: Option<Discarded>,
    /// Stock SQLite settled a journal or a `-wal` of its own.
    pub stock_recovered: bool,
}

/// Why a database was not settled.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct SettleError {
    /// The result code of SQLite that an open would have met.
    pub code: Code,
    /// What happened, and what the user can do.
    pub text: String,
    /// What was done before.
    pub report: Box<Report>,
}

/// Settles the database file at `path`: afterwards it is one plain SQLite file.
///
/// # Errors
/// `BUSY`: it is in use. What the decision table refuses; any error of the medium.
pub fn settle(context: &Arc<Context>, path: &Path, how: How) -> Result<Report, SettleError> {
    let mut report = Report::default();
    match try_settle(context, path, how, &mut report) {
        Ok(()) => Ok(report),
        Err(Refused { code, text }) => {
            Err(SettleError { code, text: text.unwrap_or_else(|| code.to_string()), report: Box::new(report) })
        }
    }
}

fn try_settle(context: &Arc<Context>, path: &Path, how: How, report: &mut Report) -> Result<(), Refused> {
    let facts = OpenFacts {
        path: path.to_path_buf(),
        read_only: false,
        parameters: Vec::new(),
        no_lock: false,
        foreign_name: false,
    };
    let file = OpenFile::open(context, facts);
    let Some(identity) = file.identity else {
        return Err(Refused::new(Code::CANTOPEN, "there is no such file, or it may not be looked at"));
    };
    let path = file.database_path(identity)?;
    for _ in 0..ATTEMPTS {
        let opening = Opening::new(&file, &path);
        let Some(lock) = take_lock(&path, &*opening.dir)? else { continue };
        let mut stock = false;
        let database_handle = match opening.exclusive_handle(&lock) {
            Ok(database_handle) => database_handle,
            Err(refused) => {
                give_up_lock(&lock, &*opening.dir);
                return Err(refused);
            }
        };
        let exclusive = ExclusiveDatabase { database_handle, lock };
        let settled = opening.recover_under_exclusive(exclusive, &mut |dir, database, facts| {
            if let Some(moved) = by_force(how, dir, database, facts, report)? {
                return Ok(moved);
            }
            let opened = open_database(dir, database, facts)?;
            report.done.extend(opened.done.iter().cloned());
            stock = opened.next == Next::RecoverStock;
            Ok(opened)
        })?;
        report.stock_recovered |= stock;
        if let Some(settled) = settled {
            give_up_lock(&settled.lock, &*opening.dir);
            drop(settled);
            return Ok(());
        }
    }
    Err(Refused::new(Code::BUSY, "others keep opening and closing this database"))
}

/// Salvages or discards, once. `Some`: the directory was moved away, and `lock` with it.
fn by_force(
    how: How,
    dir: &dyn LogDirectory,
    database: &mut dyn DatabaseHandle,
    facts: recovery::OpenFacts,
    report: &mut Report,
) -> Result<Option<Opened>, LogError> {
    // With a journal of stock's beside it nothing is decided here: an open says what is to be done.
    let is_opens = facts.read_only || facts.hot_journal || facts.real_wal_not_empty;
    if report.salvaged.is_some() || report.discarded.is_some() || is_opens {
        return Ok(None);
    }
    let moved = match how {
        How::Recover => false,
        How::Salvage => {
            report.salvaged = salvage(dir, database)?;
            report.salvaged.is_some()
        }
        How::DiscardLog => {
            let discarded = discard_log(dir, database)?;
            let moved = discarded.moved_to.is_some();
            report.discarded = Some(discarded);
            moved
        }
    };
    Ok(moved.then(|| Opened { done: Vec::new(), next: Next::ClaimAgain }))
}
