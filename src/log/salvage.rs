//! What to do where recovery refuses: replay the longest prefix that is valid and report what is given up, or give up
//! the log. Only ever on a user's request.
//!
//! Never worse than the file that was there: images of the log are only written over pages that cannot be newer, and
//! what is overwritten is kept ([`super::undo`]). Nothing is deleted: the log directory is moved beside, under another
//! name. A crash may follow each step: until page 1 is plain the same call starts again, and after that an open moves
//! the directory away.

use super::decide::{Action, Refusal, decide};
use super::error::LogError;
use super::files::Unreadable;
use super::format::LogId;
use super::found::{FoundLog, log_ids};
use super::image_cache::ImageCache;
use super::recovery::{Beginning, Inspection, OpenFacts, beginning_of, list, move_away, sync_everything};
use super::replay::replay;
use super::retire::make_plain;
use super::stamp::{self, StampState};
use super::undo;
use super::walk::{Through, Walk};
use crate::disk::{Database, LogDirectory, OpenMode};

/// What can be saved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Salvage {
    /// An ordinary open does all that there is to do.
    NotNeeded,
    /// This much.
    Possible(Plan),
    /// Nothing of the log; the database file as it is can be had by giving up the log.
    Impossible {
        /// Why.
        why: String,
    },
}

/// What a salvage does, and what it gives up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The log.
    pub log_id: LogId,
    /// Commits up to here are in the database file.
    pub base: u64,
    /// Commits up to here are valid in the log.
    pub last: u64,
    /// They are replayed. Not if the database file may hold pages of later commits: it is taken as it is then.
    pub replays: bool,
    /// The last commit that any record names; what is after the state of the database file is given up.
    pub known: u64,
    /// The database file holds pages of commits up to here: T of its stamp; D where the stamp is not whole.
    pub seen: u64,
    /// The size of the database after it, in pages; 0: as it is.
    pub database_pages: u32,
    /// Why the normal rules refuse.
    pub reason: String,
    /// What could not be looked at.
    pub unreadable: Vec<Unreadable>,
}

impl Plan {
    /// The last commit whose pages are in the database file afterwards; the later ones up to `known` are given up.
    #[must_use]
    pub fn kept(&self) -> u64 {
        if self.replays { self.last } else { self.seen }
    }
}

/// What was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Salvaged {
    /// The plan that was followed.
    pub plan: Plan,
    /// Pages that were written.
    pub pages: u64,
    /// The log directory is now `<database>-pwal.<this>`.
    pub moved_to: String,
}

/// What was given up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Discarded {
    /// The log directory is now `<database>-pwal.<this>`; `None` if there was no log in it.
    pub moved_to: Option<String>,
    /// Logs that still held commits: id, B, and the last commit that anything in them speaks of.
    pub given_up: Vec<(LogId, u64, u64)>,
    /// What could not be read, of which log: its content is unknown.
    pub unreadable: Vec<(LogId, String)>,
}

/// Says what a salvage would do. Touches nothing.
///
/// # Errors
/// Any error of the medium; records of a newer pwal.
pub fn plan(dir: &dyn LogDirectory, database: &mut dyn Database) -> Result<Salvage, LogError> {
    let names = list(dir)?;
    let beginning = beginning_of(database)?;
    let look = Inspection::at(
        dir,
        beginning,
        Some(database),
        OpenFacts::default(),
        &names,
        OpenMode::ReadOnly,
        &mut |_, _| {},
    )?;
    Ok(match choose(&look, dir)? {
        Chosen::NotNeeded => Salvage::NotNeeded,
        Chosen::Impossible(why) => Salvage::Impossible { why },
        Chosen::Possible { plan, .. } => Salvage::Possible(plan),
    })
}

/// Replays what [`plan`] says, makes the database file plain, and moves the log directory away, `lock` with it. Under the
/// claim, as an open.
///
/// # Errors
/// Any error of the medium, after which the same call starts again; the refusal of an open where nothing can be saved.
pub fn salvage(dir: &dyn LogDirectory, database: &mut dyn Database) -> Result<Option<Salvaged>, LogError> {
    let names = list(dir)?;
    let unsynced = if log_ids(&names).is_empty() { Vec::new() } else { sync_everything(dir, &names)? };
    let beginning = beginning_of(database)?;
    let look = Inspection::at(
        dir,
        beginning,
        Some(database),
        OpenFacts::default(),
        &names,
        OpenMode::PastCache,
        &mut |_, _| {},
    )?;
    let (mut plan, log, walk) = match choose(&look, dir)? {
        Chosen::NotNeeded => return Ok(None),
        Chosen::Impossible(_) => {
            let Action::Refuse(refusal) = decide(&look.situation) else { return Ok(None) };
            return Err(look.refuse(dir, refusal));
        }
        Chosen::Possible { plan, log, walk } => (plan, log, walk),
    };
    plan.unreadable.extend(unsynced.into_iter().filter_map(|error| match error {
        LogError::Io { action, file, source } => {
            Some(Unreadable { file, offset: 0, bytes: u64::MAX, error: format!("cannot {action} it: {source}") })
        }
        _ => None,
    }));
    let page_bytes = log.page_bytes().or_else(|| stamp::page_bytes(&look.header)).unwrap_or(0);
    let mut pages = 0;
    let marks = look.marks_for(plan.log_id, &walk);
    if look.situation.header == StampState::NoHeader {
        let first = if walk.batches.is_empty() { u32::MAX } else { walk.database_pages };
        undo::keep(dir, database, page_bytes, walk.newest.keys().copied(), first)?;
        // What is taken as it is may be newer after the sector that was lost.
        let bytes_max = if plan.replays { usize::MAX } else { stamp::STAMP_WRITE_BYTES };
        look.restore(database, log, &walk, marks, bytes_max)?;
    }
    if plan.replays && !walk.batches.is_empty() {
        let overwritten = walk.newest.keys().copied().filter(|page| *page <= walk.database_pages);
        undo::keep(dir, database, page_bytes, overwritten, walk.database_pages)?;
        pages = replay(database, log, &walk, &ImageCache::default(), page_bytes, marks)?;
    }
    make_plain(database)?;
    let moved_to = move_away(dir, "salvaged", plan.log_id)?;
    Ok(Some(Salvaged { plan, pages, moved_to }))
}

/// Gives up every log: the database file is made plain as it is, and the log directory moved away, `lock` with it. Under the
/// claim, as an open.
///
/// # Errors
/// Any error of the medium, after which the same call starts again.
pub fn discard_log(dir: &dyn LogDirectory, database: &mut dyn Database) -> Result<Discarded, LogError> {
    let names = list(dir)?;
    let mut discarded = given_up(dir, database, &names)?;
    let Beginning { header, unreadable } = beginning_of(database)?;
    // What cannot be read cannot be made plain. It is left alone.
    if unreadable.is_none() && !matches!(stamp::read(&header), StampState::Plain { .. }) {
        make_plain(database)?;
    }
    if let Some(log_id) = log_ids(&names).first() {
        discarded.moved_to = Some(move_away(dir, "discarded", *log_id)?);
    }
    Ok(discarded)
}

/// Says what [`discard_log`] would give up. Touches nothing.
///
/// # Errors
/// Any error of the medium in the directory itself or the database file.
pub fn plan_discard(dir: &dyn LogDirectory, database: &mut dyn Database) -> Result<Discarded, LogError> {
    given_up(dir, database, &list(dir)?)
}

fn given_up(dir: &dyn LogDirectory, database: &mut dyn Database, names: &[String]) -> Result<Discarded, LogError> {
    let mut discarded = Discarded { moved_to: None, given_up: Vec::new(), unreadable: Vec::new() };
    let Beginning { header, unreadable } = beginning_of(database)?;
    let page_bytes = stamp::page_bytes(&header);
    let log_ids = log_ids(names);
    match (unreadable, log_ids.first()) {
        (Some(error), Some(log_id)) => discarded.unreadable.push((*log_id, error.to_string())),
        (Some(error), None) => return Err(error),
        (None, _) => {}
    }
    for log_id in log_ids {
        // What cannot be read any more is given up all the same.
        let how = (OpenMode::ReadOnly, page_bytes);
        match FoundLog::read(dir, names, log_id, how, &mut ImageCache::default(), &mut |_| {}) {
            Ok(log) => {
                // What a finished log holds is in the database file.
                if log.markers.is_empty() {
                    discarded.unreadable.extend(log.unreadable().map(|unread| (log_id, unread.to_string())));
                    if known_of(&log) > log.backfilled {
                        discarded.given_up.push((log_id, log.backfilled, known_of(&log)));
                    }
                }
            }
            Err(error) => discarded.unreadable.push((log_id, error.to_string())),
        }
    }
    Ok(discarded)
}

enum Chosen<'a, 'd> {
    NotNeeded,
    Impossible(String),
    Possible { plan: Plan, log: &'a FoundLog<'d>, walk: Box<Walk> },
}

fn choose<'a, 'd>(look: &'a Inspection<'d>, dir: &dyn LogDirectory) -> Result<Chosen<'a, 'd>, LogError> {
    let Action::Refuse(refusal) = decide(&look.situation) else { return Ok(Chosen::NotNeeded) };
    let reason = look.refuse(dir, refusal).to_string();
    let target = match look.situation.header {
        StampState::Stamped(stamp) => Some(stamp.backfill_target),
        _ => None,
    };
    let (log_id, base) = match refusal {
        Refusal::Damaged(log_id) | Refusal::Unreadable(log_id) | Refusal::MarkerMismatch(log_id) => (log_id, None),
        // On a person's word the file is this log's.
        Refusal::NoHeader(log_id) => match look.situation.teller() {
            Some(log) if log.has_page_one => (log_id, None),
            _ => return Ok(Chosen::Impossible(reason)),
        },
        // The old copy holds commits up to T; the log may still hold all that followed.
        Refusal::OldCopy(log_id) => (log_id, target),
        Refusal::UnknownHeader => {
            let mut unfinished = look.situation.logs.iter().filter(|log| !log.is_finished());
            match (unfinished.next(), unfinished.next()) {
                (Some(log), None) if log.page_size_fits => (log.log_id, None),
                _ => return Ok(Chosen::Impossible(reason)),
            }
        }
        Refusal::ReadOnly
        | Refusal::StockLeftovers
        | Refusal::BareCopy(_)
        | Refusal::PageSize(_)
        | Refusal::OlderStamp(_) => {
            return Ok(Chosen::Impossible(reason));
        }
    };
    let Some((found, _)) = look.own(log_id) else { return Ok(Chosen::Impossible(reason)) };
    let log = &found.log;
    let walk = log.walk(base.unwrap_or(log.backfilled), Through::Batches)?;
    // Without a batch after T, an old copy is all that there is; without a header, nothing is valid.
    if (base.is_some() && walk.batches.is_empty()) || log.page_bytes().is_none() {
        return Ok(Chosen::Impossible(reason));
    }
    // R4: no page of a commit after D is in the database file.
    let seen = target.unwrap_or(log.durable.max(look.target_in_damaged_header(log_id)));
    let plan = Plan {
        log_id,
        base: walk.base,
        last: walk.last(),
        replays: walk.last() >= seen,
        known: known_of(log).max(seen).max(walk.last()),
        seen,
        database_pages: walk.database_pages,
        reason,
        unreadable: log.unreadable().cloned().collect(),
    };
    Ok(Chosen::Possible { plan, log, walk: Box::new(walk) })
}

/// The last commit that anything in the log speaks of.
fn known_of(log: &FoundLog<'_>) -> u64 {
    let candidates = log.candidates.iter().map(|candidate| candidate.sequence);
    candidates.chain(log.markers.iter().copied()).chain([log.durable, log.backfilled]).max().unwrap_or(0)
}
