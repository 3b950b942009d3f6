//! The leftovers beside a database without members: a log, a `-wal` or a journal of stock SQLite. Under INIT and
//! EXCLUSIVE they are recovered, and the database file is plain afterwards.

use super::beside::give_up_lock;
use super::file::beside;
use super::opening::{ExclusiveDatabase, Opening};
use super::refusal::Refused;
use crate::disk::{LogDirectory, open_to_read};
use crate::engine::{EngineError, has_stock_wal};
use crate::host::DatabaseHandle;
use crate::log::LogError;
use crate::log::recovery::{Done, IMAGE_CACHE_BYTES, Next, OpenFacts, Opened};
use std::io;
use std::path::Path;

/// How what lies beside the database file is settled.
pub(super) type RecoverBy<'a> =
    dyn FnMut(&dyn LogDirectory, &mut dyn DatabaseHandle, OpenFacts) -> Result<Opened, LogError> + 'a;

impl Opening<'_> {
    /// Holding `lock` and EXCLUSIVE: `settle`. Whatever fails lets go of everything. `None`: claim again.
    pub(super) fn recover_under_exclusive(
        &self,
        exclusive: ExclusiveDatabase,
        settle: &mut RecoverBy<'_>,
    ) -> Result<Option<ExclusiveDatabase>, Refused> {
        let ExclusiveDatabase { mut database_handle, lock } = exclusive;
        let facts = OpenFacts {
            read_only: database_handle.read_only(),
            hot_journal: has_hot_journal(self.path),
            real_wal_not_empty: has_stock_wal(self.path),
            cache_bytes: IMAGE_CACHE_BYTES,
        };
        match settle(&*self.dir, database_handle.as_mut(), facts) {
            Ok(opened) => match opened.next {
                Next::Ready => Ok(Some(ExclusiveDatabase { database_handle, lock })),
                Next::ClaimAgain => Ok(None),
                Next::RecoverStock => {
                    drop(database_handle);
                    let settled = self.file.context.environment.host.recover_stock_files(self.path);
                    if settled.is_err() {
                        give_up_lock(&lock, &*self.dir);
                    }
                    drop(lock);
                    settled?;
                    Ok(None)
                }
            },
            Err(error) => {
                give_up_lock(&lock, &*self.dir);
                Err(EngineError::Log(error).into())
            }
        }
    }
}

/// As `hasHotJournal`: it is there and begins with a byte that is not zero (PERSIST leaves zeros).
fn has_hot_journal(path: &Path) -> bool {
    let journal = beside(path, "-journal");
    let mut first = [0];
    open_to_read(&journal).is_ok_and(|mut file| io::Read::read(&mut file, &mut first).is_ok_and(|n| n == 1))
        && first != [0]
}

pub(super) fn describe(done: &Done) -> String {
    match done {
        Done::DeletedLeftovers { log_ids } => {
            format!("leftovers of a log that nothing needed were deleted ({} logs)", log_ids.len())
        }
        Done::Recovered(recovered) => {
            let tail = recovered
                .torn_tail
                .as_ref()
                .map_or(String::new(), |tail| format!("; a torn tail was truncated: {tail:?}"));
            let unread: String =
                recovered.unreadable.iter().map(|unread| format!("; cannot be read: {unread}")).collect();
            let header = match recovered.restored_header {
                true => "; the first sector of the database file was lost, and came back from its copy in the log",
                false => "",
            };
            let (id, last) = (recovered.log_id, recovered.last);
            if last > recovered.backfilled {
                let (first, pages) = (recovered.backfilled + 1, recovered.pages);
                format!(
                    "recovered log {id:016x}: commits {first} to {last} replayed, {pages} pages written{header}{tail}{unread}"
                )
            } else {
                format!(
                    "recovered log {id:016x}: all {last} commits were in the database file already{header}{tail}{unread}"
                )
            }
        }
        Done::SetAside { log_id, suffix } => format!(
            "no commit of log {log_id:016x} is whole, the first was written and is damaged; its directory was renamed to -pwal.{suffix}"
        ),
        Done::Orphaned { log_id, suffix } => {
            format!("log {log_id:016x} belongs to another database file; its directory was renamed to -pwal.{suffix}")
        }
    }
}
