//! Opening a database: what a crash or a clean close left is inspected, decided by the table in
//! [`decide`](super::decide), and recovered, so that the file is plain and no log lies beside it.
//!
//! Promises: everything is synced before it is read, and read past the page cache, so that no decision rests on bytes
//! that a power cut could still take; each step may be repeated from the start; a refusal has touched nothing.

use super::backfill::write_marks;
use super::decide::{Action, LogFacts, Refusal, Situation, decide};
use super::error::LogError;
use super::files::Unreadable;
use super::format::{FileName, LogId};
use super::found::{FoundLog, HeaderState, Probed, TornTail, log_ids};
use super::image_cache::ImageCache;
use super::replay::replay;
use super::retire::{delete_log, make_plain, remove_placeholder, retire_keeping_lock};
use super::stamp::{self, DATABASE_HEADER_BYTES, Marks, Stamp, StampState};
use super::walk::{Through, Walk};
use crate::disk::{Database, LogDirectory, OpenMode};
use std::io;
use std::path::PathBuf;

/// [`OpenFacts::cache_bytes`] of an open: what a process may need for a moment.
pub const IMAGE_CACHE_BYTES: usize = 64 << 20;

/// What the opener knows beside the bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OpenFacts {
    /// Nothing may be written.
    pub read_only: bool,
    /// A hot journal of stock SQLite lies beside the database file.
    pub hot_journal: bool,
    /// A real `-wal` file lies beside the database file and is not empty.
    pub real_wal_not_empty: bool,
    /// Images that may be kept in memory between their verification and their replay, in bytes; the others are read again.
    pub cache_bytes: usize,
}

/// What the opener does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// The file is plain, no log lies beside it; the claim stands.
    Ready,
    /// Stock SQLite has to settle its journal or its `-wal` (a private connection on the base VFS, not under
    /// the claim); then open again.
    RecoverStock,
    /// The directory was moved away, and `lock` with it: claim again.
    ClaimAgain,
}

/// Something that was done on the way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Done {
    /// Logs that nothing needed any more were deleted.
    DeletedLeftovers {
        /// The logs.
        log_ids: Vec<LogId>,
    },
    /// A log was replayed and retired.
    Recovered(Recovered),
    /// A log whose first commit was written and has rotted, and was never in the database file, was moved away.
    SetAside {
        /// The log.
        log_id: LogId,
        /// The suffix after `-pwal.` of its new name.
        suffix: String,
    },
    /// The log of another database file was moved away.
    Orphaned {
        /// One of the logs in it.
        log_id: LogId,
        /// The suffix after `-pwal.` of its new name.
        suffix: String,
    },
}

/// What a recovery did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// The log.
    pub log_id: LogId,
    /// B: commits up to here were in the database file already.
    pub backfilled: u64,
    /// n: the last commit.
    pub last: u64,
    /// Pages that were written.
    pub pages: u64,
    /// The first sector of the database file was lost, and came back from a copy of it in the log.
    pub restored_header: bool,
    /// A commit after the last that was begun and is not whole: truncated.
    pub torn_tail: Option<TornTail>,
    /// What could not be read, and was not needed.
    pub unreadable: Vec<Unreadable>,
}

/// What an open came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    /// What was done.
    pub done: Vec<Done>,
    /// What comes next.
    pub next: Next,
}

/// Looks at the database file and its log directory, and settles what it finds. Under the claim: the caller holds
/// `lock`, and the database file for writing (unless it is read-only).
///
/// # Errors
/// A refusal of the decision table, with nothing touched; any error of the medium, after which the same call starts
/// again from the beginning.
pub fn open_database(
    dir: &dyn LogDirectory,
    database: &mut dyn Database,
    facts: OpenFacts,
) -> Result<Opened, LogError> {
    let mut done = Vec::new();
    // One round for the own log, one for what lies beside it; each takes at least one log away.
    loop {
        let mut look = Inspection::take(dir, database, facts)?;
        // A whole stamp has named the log of this file: not one that is left, whatever has rotted around the stamp.
        if look.situation.header == StampState::NoHeader && !done.is_empty() {
            look.situation.header = StampState::Plain { wal: true };
        }
        match decide(&look.situation) {
            action @ (Action::Open | Action::RecoverStock) => {
                // The file is plain; a crash in activation or retirement, or a user who copied another file here, left
                // the log.
                if !facts.read_only {
                    remove_placeholder(dir)?;
                }
                let next = if action == Action::Open { Next::Ready } else { Next::RecoverStock };
                return Ok(Opened { done, next });
            }
            Action::DeleteAll => {
                look.make_plain(database)?;
                delete_log(dir, |_| true)?;
                done.push(Done::DeletedLeftovers { log_ids: look.logs.iter().map(|found| found.log.log_id).collect() });
            }
            Action::DeleteOwn(own) => {
                look.restore_own(database, own)?;
                make_plain(database)?;
                delete_log(dir, |id| id == own)?;
                done.push(Done::DeletedLeftovers { log_ids: vec![own] });
            }
            Action::SetAside(log_id) => {
                look.restore_own(database, log_id)?;
                make_plain(database)?;
                let suffix = move_away(dir, "orphan", log_id)?;
                done.push(Done::SetAside { log_id, suffix });
                return Ok(Opened { done, next: Next::ClaimAgain });
            }
            Action::Orphan(log_id) => {
                // A log that is set aside, truncated: what reads plain may be in the cache only.
                make_plain(database)?;
                let suffix = move_away(dir, "orphan", log_id)?;
                done.push(Done::Orphaned { log_id, suffix });
                return Ok(Opened { done, next: Next::ClaimAgain });
            }
            Action::Recover(log_id) => done.push(Done::Recovered(look.recover(dir, database, log_id)?)),
            Action::Refuse(refusal) => return Err(look.refuse(dir, refusal)),
        }
    }
}

/// One log with the chain of its batches.
pub(crate) struct Chained<'a> {
    pub(crate) log: FoundLog<'a>,
    pub(crate) walk: Walk,
    images: ImageCache,
}

/// The first bytes of the database file, as far as SQLite's header goes.
pub(crate) struct Beginning {
    /// Zeros where they cannot be read.
    pub(crate) header: Vec<u8>,
    /// What the medium says instead.
    pub(crate) unreadable: Option<LogError>,
}

/// Everything that an opener has looked at.
pub(crate) struct Inspection<'a> {
    pub(crate) header: Vec<u8>,
    /// The header is zeros because the medium does not give it, and says this.
    unreadable_header: Option<String>,
    pub(crate) situation: Situation,
    pub(crate) logs: Vec<Chained<'a>>,
}

impl<'a> Inspection<'a> {
    /// Syncs what lies there, and only then reads it.
    pub(crate) fn take(
        dir: &'a dyn LogDirectory,
        database: &mut dyn Database,
        facts: OpenFacts,
    ) -> Result<Inspection<'a>, LogError> {
        let names = list(dir)?;
        let has_log = !log_ids(&names).is_empty();
        if has_log && !facts.read_only {
            // A failed sync says that what was written before may be lost.
            if let Some(error) = sync_everything(dir, &names)?.into_iter().next() {
                return Err(error);
            }
        }
        let how =
            if facts.read_only || crate::drops("r4-past-the-cache") { OpenMode::ReadOnly } else { OpenMode::PastCache };
        let header = beginning_of(database)?;
        Inspection::at(dir, header, Some(database), facts, &names, how, &mut |_, _| {})
    }

    /// Looks only: at the files `names` beside a database file that begins so. Without the file, nothing says that it
    /// is the log's where the header does not. `observe` is shown what is met in each log.
    pub(crate) fn at(
        dir: &'a dyn LogDirectory,
        beginning: Beginning,
        mut database: Option<&mut dyn Database>,
        facts: OpenFacts,
        names: &[String],
        how: OpenMode,
        observe: &mut dyn FnMut(LogId, Probed<'_>),
    ) -> Result<Inspection<'a>, LogError> {
        let ids = log_ids(names);
        let Beginning { header, unreadable } = beginning;
        // Without a log, nothing brings it back.
        let unreadable_header = match unreadable {
            Some(error) if ids.is_empty() => return Err(error),
            Some(error) => error.unreadable().map(ToString::to_string),
            None => None,
        };
        let is_no_database = header.len() >= DATABASE_HEADER_BYTES && !stamp::is_database(&header);
        let state = match stamp::read(&header) {
            whole @ (StampState::Stamped(_) | StampState::Older { .. }) => whole,
            _ if is_no_database => StampState::NoHeader,
            other => other,
        };
        let mut look = Inspection {
            situation: Situation {
                header: state,
                logs: Vec::new(),
                has_stock_leftovers: facts.hot_journal || facts.real_wal_not_empty,
                is_read_only: facts.read_only,
            },
            header,
            unreadable_header,
            logs: Vec::new(),
        };
        for log_id in ids {
            let page_bytes = stamp::page_bytes(&look.header);
            let is_own = matches!(look.situation.header, StampState::Stamped(stamp) if stamp.log_id == log_id);
            let cache_bytes = if is_own { facts.cache_bytes } else { 0 };
            let mut images = ImageCache::new(cache_bytes);
            let how = (how, page_bytes);
            let log = FoundLog::read(dir, names, log_id, how, &mut images, &mut |probed| observe(log_id, probed))?;
            let walk = log.walk(log.backfilled, Through::Headers)?;
            let facts = look.facts_of(&log, &walk, database.as_deref_mut())?;
            look.situation.logs.push(facts);
            look.logs.push(Chained { log, walk, images });
        }
        Ok(look)
    }

    fn facts_of<'d>(
        &self,
        log: &FoundLog<'_>,
        walk: &Walk,
        database: Option<&mut (dyn Database + 'd)>,
    ) -> Result<LogFacts, LogError> {
        // Only determined where the header does not show whose file this is.
        let is_doubtful =
            matches!(self.situation.header, StampState::BadStamp { .. } | StampState::Leftover | StampState::NoHeader);
        let page_one = if is_doubtful { log.page_one(walk)? } else { None };
        let (has_lost_page_one, is_of_file) = match (&page_one, database) {
            (Some(page_one), Some(database)) => (!page_one.is_in(database)?, log.is_log_of(walk, page_one, database)?),
            _ => (false, false),
        };
        let page_bytes = stamp::page_bytes(&self.header);
        // Without T nothing bounds what a certificate that cannot be read may say.
        let is_torn = matches!(self.situation.header, StampState::BadStamp { .. });
        Ok(LogFacts {
            log_id: log.log_id,
            // Of several markers the one that does not fit.
            marker: log.markers.iter().find(|marker| **marker != walk.last()).or(log.markers.last()).copied(),
            has_commits: log.may_hold_commits(walk)?,
            has_header: log.has_header(walk),
            backfilled: log.backfilled,
            durable: log.durable.max(self.target_in_damaged_header(log.log_id)),
            last: walk.last(),
            page_size_fits: log.page_bytes().is_none_or(|bytes| Some(bytes) == page_bytes),
            has_page_one: page_one.is_some(),
            is_unreadable: walk.doubt.is_some() || (is_torn && log.unreadable().next().is_some()),
            is_contradicted: walk.contradiction.is_some(),
            has_lost_page_one,
            is_of_file,
        })
    }

    /// T, where the header is damaged around it; 0: it does not say. R4: pages of commits up to T may be in the database file, and
    /// were durable then, whatever the certificates that can still be read say.
    pub(crate) fn target_in_damaged_header(&self, log_id: LogId) -> u64 {
        let stamp = match self.situation.header {
            StampState::NoHeader | StampState::BadStamp { .. } => stamp::read_reserved(&self.header),
            _ => None,
        };
        stamp.filter(|stamp| stamp.log_id == log_id).map_or(0, |stamp| stamp.backfill_target)
    }

    pub(crate) fn own(&self, log_id: LogId) -> Option<(&Chained<'a>, &LogFacts)> {
        self.logs.iter().zip(&self.situation.logs).find(|(found, _)| found.log.log_id == log_id)
    }

    /// Steps 7 and 8: replays the log to its n, and retires it.
    fn recover(
        &self,
        dir: &dyn LogDirectory,
        database: &mut dyn Database,
        log_id: LogId,
    ) -> Result<Recovered, LogError> {
        let Some((found, _)) = self.own(log_id) else { return Err(self.unknown(dir)) };
        let (log, walk) = (&found.log, &found.walk);
        let page_bytes = log.page_bytes().or_else(|| stamp::page_bytes(&self.header)).unwrap_or(0);
        let (marks, restored_header) = self.raise_target(database, log, walk)?;
        let pages = replay(database, log, walk, &found.images, page_bytes, marks)?;
        crate::fault_point("recovering");
        retire_keeping_lock(dir, database, log_id, walk.last(), page_bytes)?;
        Ok(Recovered {
            log_id,
            backfilled: walk.base,
            last: walk.last(),
            pages,
            restored_header,
            torn_tail: walk.torn.clone(),
            unreadable: log.unreadable().cloned().collect(),
        })
    }

    /// T = n in a whole stamp, durably, before a page is written: no certificate may say D for the last commits. If this recovery is
    /// cut short and they rot, the next one would take an older n for the newest, and leave their pages in the file. Written also
    /// where T reads n: the sync of a recovery before this one may have failed. Returns the marks of page 1, and whether the
    /// beginning of the file was lost and came back from a copy.
    fn raise_target(
        &self,
        database: &mut dyn Database,
        log: &FoundLog<'_>,
        walk: &Walk,
    ) -> Result<(Marks, bool), LogError> {
        let marks = self.marks_for(log.log_id, walk);
        if walk.batches.is_empty() || crate::drops("r4-recovery-target") {
            return Ok((marks, self.restore(database, log, walk, marks, usize::MAX)?));
        }
        let marks = Marks::Stamp(Stamp { log_id: log.log_id, backfill_target: walk.last() });
        if self.restore(database, log, walk, marks, usize::MAX)? {
            return Ok((marks, true));
        }
        // A stamp must not make a header whole that is not.
        let page_one = match self.situation.header {
            StampState::Stamped(_) => None,
            _ => log.page_one(walk)?,
        };
        match page_one {
            Some(page_one) => page_one.write(database, marks, usize::MAX)?,
            None => write_marks(database, marks)?,
        }
        database.sync().map_err(|error| LogError::database("sync", error))?;
        Ok((marks, false))
    }

    /// What page 1 carries while this walk is replayed.
    pub(crate) fn marks_for(&self, log_id: LogId, walk: &Walk) -> Marks {
        match self.situation.header {
            // T: it is unknown which commits the file has seen, but they are no more than this.
            StampState::NoHeader => Marks::Stamp(Stamp { log_id, backfill_target: walk.last() }),
            _ => Marks::found(&self.header),
        }
    }

    /// Restores the beginning of the file, at most `bytes_max` bytes and with these marks, where it was lost and no
    /// image of page 1 is replayed. Synced.
    pub(crate) fn restore(
        &self,
        database: &mut dyn Database,
        log: &FoundLog<'_>,
        walk: &Walk,
        marks: Marks,
        bytes_max: usize,
    ) -> Result<bool, LogError> {
        let Some(page_one) = log.page_one(walk)? else { return Ok(false) };
        // An unknown version is none of the marks that are repaired with the rest.
        let is_whole = self.situation.header != StampState::NoHeader && page_one.is_in(database)?;
        if page_one.is_replayed || is_whole || crate::drops("page-one-restored") {
            return Ok(false);
        }
        page_one.write(database, marks, bytes_max)?;
        if crate::drops("page-one-sync") {
            return Ok(true);
        }
        database.sync().map_err(|error| LogError::database("sync", error))?;
        Ok(true)
    }

    fn restore_own(&self, database: &mut dyn Database, log_id: LogId) -> Result<(), LogError> {
        if let Some((found, _)) = self.own(log_id) {
            self.restore(database, &found.log, &found.walk, Marks::found(&self.header), usize::MAX)?;
        }
        Ok(())
    }

    /// Like [`make_plain`], beside logs that are not needed. A header that reads plain is only rewritten where the only
    /// log that is there could bring it back. Else nothing is in the cache alone: some of the log was deleted, after
    /// the header was synced; or an older log is there again, whose deletion was durable before a younger one could
    /// write a stamp.
    fn make_plain(&self, database: &mut dyn Database) -> Result<(), LogError> {
        let teller = self.situation.teller().and_then(|log| self.own(log.log_id));
        let could_bring_back = match teller {
            Some((found, _)) => found.log.page_one(&found.walk)?.is_some(),
            None => false,
        };
        if matches!(self.situation.header, StampState::Plain { .. }) && !could_bring_back {
            return database.sync().map_err(|error| LogError::database("sync", error));
        }
        make_plain(database)
    }

    fn unknown(&self, dir: &dyn LogDirectory) -> LogError {
        LogError::UnknownHeader { directory: dir.path().to_path_buf() }
    }

    pub(crate) fn refuse(&self, dir: &dyn LogDirectory, refusal: Refusal) -> LogError {
        let directory = dir.path().to_path_buf();
        let target = match self.situation.header {
            StampState::Stamped(stamp) => stamp.backfill_target,
            _ => 0,
        };
        let of = |log_id| self.own(log_id).map(|(found, facts)| (found, *facts));
        let error = match refusal {
            Refusal::ReadOnly => Some(LogError::ReadOnly { directory }),
            Refusal::StockLeftovers => Some(LogError::StockLeftovers { directory }),
            Refusal::BareCopy(log_id) => Some(LogError::BareCopy { log_id, directory }),
            Refusal::UnknownHeader => None,
            Refusal::NoHeader(log_id) => Some(match self.unreadable_header.clone() {
                Some(error) => LogError::UnreadableHeader { error, log_id, directory },
                None => LogError::LostHeader { log_id, directory },
            }),
            Refusal::OlderStamp(log_id) => Some(LogError::OlderStamp { log_id }),
            Refusal::OldCopy(log_id) => {
                of(log_id).map(|(_, facts)| LogError::OldCopy { log_id, target, backfilled: facts.backfilled })
            }
            Refusal::MarkerMismatch(log_id) => of(log_id).map(|(_, facts)| LogError::MarkerMismatch {
                log_id,
                marker: facts.marker.unwrap_or(0),
                last: facts.last,
            }),
            Refusal::PageSize(log_id) => of(log_id).map(|(found, _)| LogError::PageSize {
                log_id,
                log_bytes: found.log.page_bytes().unwrap_or(0),
                database_bytes: stamp::page_bytes(&self.header).unwrap_or(0),
            }),
            Refusal::Damaged(log_id) => of(log_id).map(|(found, facts)| found.damaged(directory, facts, target)),
            Refusal::Unreadable(log_id) => of(log_id).and_then(|(found, facts)| found.unreadable(facts)),
        };
        error.unwrap_or_else(|| self.unknown(dir))
    }
}

impl Chained<'_> {
    fn unreadable(&self, facts: LogFacts) -> Option<LogError> {
        let Unreadable { file, offset, error, .. } = self.walk.doubt.as_ref().or(self.log.unreadable().next())?.clone();
        let LogFacts { log_id, last, .. } = facts;
        Some(LogError::Unreadable { file, offset, error, log_id, last })
    }

    /// Where and why the chain ends before it should.
    fn damaged(&self, directory: PathBuf, facts: LogFacts, target: u64) -> LogError {
        let missing = facts.last.saturating_add(1);
        let (file, offset, reason) = if let Some(wrong) = &self.walk.contradiction {
            (wrong.file.clone(), wrong.offset, format!("rule {}: {}", wrong.rule, wrong.what))
        } else if let Some(torn) = &self.walk.torn {
            (torn.file.clone(), torn.offset, format!("commit {missing} is not valid ({})", torn.reason))
        } else if let Some((segment, offset)) = self.walk.end {
            let file = self.log.segments[segment].open.path.clone();
            (file, offset, format!("commit {missing} is not there"))
        } else if let Some(free) = self.log.segments.iter().find(|segment| segment.state == HeaderState::Broken) {
            (
                free.open.path.clone(),
                0,
                format!("commit {missing} is not there, and this segment's header is not valid"),
            )
        } else {
            (directory, 0, format!("commit {missing} is in no segment"))
        };
        let LogFacts { log_id, last, durable, .. } = facts;
        LogError::Damaged { file, offset, reason, log_id, last, durable, target }
    }
}

pub(crate) fn list(dir: &dyn LogDirectory) -> Result<Vec<String>, LogError> {
    dir.list().map_err(|error| LogError::io("list", dir.path(), error))
}

impl From<&[u8]> for Beginning {
    fn from(header: &[u8]) -> Beginning {
        Beginning { header: header.to_vec(), unreadable: None }
    }
}

/// Reads the beginning of the database file. A sector that cannot be read is no error yet: a write heals it.
pub(crate) fn beginning_of(database: &mut dyn Database) -> Result<Beginning, LogError> {
    let mut header = vec![0; DATABASE_HEADER_BYTES];
    match database.read_at(&mut header, 0).map_err(|error| LogError::database("read the first sector of", error)) {
        Ok(read) => {
            header.truncate(read);
            Ok(Beginning { header, unreadable: None })
        }
        Err(error) if error.unreadable().is_some() => {
            header.fill(0);
            Ok(Beginning { header, unreadable: Some(error) })
        }
        Err(error) => Err(error),
    }
}

/// Step 2: what a killed process left may vanish in a power cut after the decision. Returns the errors of files that
/// cannot be synced.
pub(crate) fn sync_everything(dir: &dyn LogDirectory, names: &[String]) -> Result<Vec<LogError>, LogError> {
    let mut unsynced = Vec::new();
    for name in names {
        if let Some(FileName::Segment { .. } | FileName::Spill { .. }) = FileName::parse(name)
            && !crate::drops("r4-recovery-syncs-files")
        {
            let path = dir.path().join(name);
            let file = dir.open(name, OpenMode::Existing).map_err(|error| LogError::io("open", &path, error));
            let synced = file.and_then(|file| file.sync().map_err(|error| LogError::io("sync", &path, error)));
            match synced {
                Ok(()) => {}
                Err(error) if error.unreadable().is_some() => unsynced.push(error),
                Err(error) => return Err(error),
            }
        }
    }
    if !crate::drops("r4-recovery-syncs-names") {
        dir.sync().map_err(|error| LogError::io("sync", dir.path(), error))?;
    }
    if !crate::drops("r4-recovery-syncs-parent") {
        dir.sync_parent().map_err(|error| LogError::io("sync the parent of", dir.path(), error))?;
    }
    Ok(unsynced)
}

/// Moves the directory to `-pwal.<what>-<log id>`, with a number after it if that name is taken.
pub(crate) fn move_away(dir: &dyn LogDirectory, what: &str, log_id: LogId) -> Result<String, LogError> {
    let mut number = 1;
    loop {
        let suffix = match number {
            1 => format!("{what}-{log_id:016x}"),
            _ => format!("{what}-{log_id:016x}-{number}"),
        };
        match dir.rename(&suffix) {
            Ok(()) if crate::drops("orphan-sync-parent") => return Ok(suffix),
            Ok(()) => {
                dir.sync_parent().map_err(|error| LogError::io("sync the parent of", dir.path(), error))?;
                return Ok(suffix);
            }
            Err(error) => match error.kind() {
                io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists if number < 1000 => number += 1,
                _ => return Err(LogError::io("move away", dir.path(), error)),
            },
        }
    }
}
