//! The end of a log: after it the database file is one plain SQLite file, and nothing lies beside it.
//!
//! The steps Z1 to Z4 of the specification; a power cut may follow each, and the next open finds a row of the decision
//! table for it.

use super::backfill::write_marks;
use super::error::LogError;
use super::format::{CONTROL_NAME, FileName, LOCK_NAME, LogId, marker_name};
use super::stamp::{self, DATABASE_HEADER_BYTES, Marks, StampState};
use crate::disk::{Database, LogDirectory, OpenMode};
use std::io;

/// Retires a log at a clean close, and removes its directory with `lock`.
///
/// Z1 is the caller's: every commit up to `last_sequence` is in the database file, its size is final, and
/// [`Backfill::run`](super::backfill::Backfill::run) said so. The caller holds the lock, knows that the path still
/// names the file that `database` has open, and lets go of the lock after this.
///
/// # Errors
/// Any error of the medium; the log is still there then, and the next open retires it. [`LogError::NotOurs`]
/// if the file carries no stamp of this log.
pub fn retire(
    dir: &dyn LogDirectory,
    database: &mut dyn Database,
    log_id: LogId,
    last_sequence: u64,
    page_bytes: u32,
) -> Result<(), LogError> {
    retire_keeping_lock(dir, database, log_id, last_sequence, page_bytes)?;
    remove_directory(dir)
}

/// Like [`retire`], for a caller that keeps owning the database: `lock` and the directory stay.
///
/// # Errors
/// As [`retire`].
pub fn retire_keeping_lock(
    dir: &dyn LogDirectory,
    database: &mut dyn Database,
    log_id: LogId,
    last_sequence: u64,
    page_bytes: u32,
) -> Result<(), LogError> {
    end(dir, database, log_id, last_sequence, page_bytes)?;
    delete_log(dir, |id| id == log_id)
}

/// Z2 and Z3, and the placeholder.
fn end(
    dir: &dyn LogDirectory,
    database: &mut dyn Database,
    log_id: LogId,
    last_sequence: u64,
    page_bytes: u32,
) -> Result<(), LogError> {
    let marker = marker_name(log_id, last_sequence);
    let mut header = [0; DATABASE_HEADER_BYTES];
    let read = database.read_at(&mut header, 0).map_err(|error| LogError::database("read", error))?;
    let header = &header[..read];
    let is_ours = match stamp::read(header) {
        StampState::Stamped(stamp) => stamp.log_id == log_id && stamp::page_bytes(header) == Some(page_bytes),
        // Recovery retires torn stamps too; it has decided that the log is this file's.
        StampState::BadStamp { .. } | StampState::Leftover => true,
        StampState::Older { .. } | StampState::NoHeader => false,
        // A retirement that failed after Z3, repeated.
        StampState::Plain { .. } => list(dir)?.contains(&marker),
    };
    if !is_ours {
        return Err(LogError::NotOurs { log_id });
    }
    if !crate::drops("z2-marker") {
        mark(dir, log_id, last_sequence)?;
    }
    crate::fault_point("retiring");
    make_plain(database)?;
    remove_placeholder(dir)
}

/// Like [`retire_keeping_lock`], for a process whose connections stay: `control` does, and so does the marker, durably:
/// beside it a plain file with segments of this log is a finished one, until the next log is stamped. So the deletions may
/// come undone with a power cut; the sync of the next log's first segment makes them durable, or that of a close.
///
/// # Errors
/// As [`retire`].
pub fn retire_in_place(
    dir: &dyn LogDirectory,
    database: &mut dyn Database,
    log_id: LogId,
    last_sequence: u64,
    page_bytes: u32,
) -> Result<(), LogError> {
    end(dir, database, log_id, last_sequence, page_bytes)?;
    delete_files(dir, |name| {
        matches!(name, FileName::Segment { .. } | FileName::Spill { .. }) && name.log_id() == Some(log_id)
    })
}

/// Deletes the segments of a log that is made anew: its marker stays, and the spill file of the transaction for which it is. The sync
/// of the new segment's name makes it durable.
pub(crate) fn delete_slots(dir: &dyn LogDirectory, log_id: LogId) -> Result<(), LogError> {
    delete_files(dir, |name| matches!(name, FileName::Segment { .. }) && name.log_id() == Some(log_id))
}

fn delete_files(dir: &dyn LogDirectory, which: impl Fn(&FileName) -> bool) -> Result<(), LogError> {
    let names = list(dir)?;
    let is_ours = |name: &&String| FileName::parse(name).is_some_and(|name| which(&name));
    remove_all(dir, &names.iter().filter(is_ours).collect::<Vec<&String>>())
}

/// Makes the marker of a log, durably. One that is there is not opened: that needs a descriptor.
pub(crate) fn mark(dir: &dyn LogDirectory, log_id: LogId, last_sequence: u64) -> Result<(), LogError> {
    let marker = marker_name(log_id, last_sequence);
    let is_there = list(dir)?.contains(&marker);
    match if is_there { Ok(()) } else { dir.open(&marker, OpenMode::CreateNew).map(drop) } {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(LogError::io("create", &dir.path().join(marker), error)),
    }
    if crate::drops("z2-sync-marker") {
        return Ok(());
    }
    dir.sync().map_err(|error| LogError::io("sync", dir.path(), error))
}

/// Takes the marker of a log away, durably: commits follow.
pub(crate) fn unmark(dir: &dyn LogDirectory, log_id: LogId, last_sequence: u64) -> Result<(), LogError> {
    let marker = marker_name(log_id, last_sequence);
    dir.remove(&marker).map_err(|error| LogError::io("delete", &dir.path().join(marker), error))?;
    if crate::drops("a3-sync-unmark") {
        return Ok(());
    }
    dir.sync().map_err(|error| LogError::io("sync", dir.path(), error))
}

/// Stock SQLite may open the database file again: it is plain, durably. No sync of its own: the one before the marker is
/// deleted, which follows, takes this along where the file system has one journal for all names; else the directory may come
/// back with a power cut, and the next open removes it.
pub(crate) fn remove_placeholder(dir: &dyn LogDirectory) -> Result<(), LogError> {
    if crate::drops("z3-placeholder") {
        return Ok(());
    }
    dir.remove_placeholder().map_err(|error| LogError::io("remove the placeholder beside", dir.path(), error))
}

/// Z3: page 1 as SQLite would have it, durable. Also where it reads plain already: what reads plain may
/// be in the cache only.
pub(crate) fn make_plain(database: &mut dyn Database) -> Result<(), LogError> {
    let mut header = [0; DATABASE_HEADER_BYTES];
    let read = database.read_at(&mut header, 0).map_err(|error| LogError::database("read", error))?;
    match stamp::read(&header[..read]) {
        // Whatever else rotted around it: a stamp that stays names a log that is gone after this.
        StampState::Stamped(_) => write_marks(database, Marks::Plain)?,
        StampState::Plain { .. } if crate::drops("z3-plain-again") => {}
        // Too short for a header, or none of SQLite's: not touched.
        _ if !stamp::is_database(&header) => {}
        // In rollback mode: the same bytes again, so that the sync covers them.
        StampState::Plain { wal: false } => write_marks(database, Marks::found(&header))?,
        _ => write_marks(database, Marks::Plain)?,
    }
    if crate::drops("z3-sync-plain") {
        return Ok(());
    }
    database.sync().map_err(|error| LogError::database("sync", error))
}

/// Z4 without the directory: deletes the files of the logs that `which` names, and `control`.
pub(crate) fn delete_log(dir: &dyn LogDirectory, which: impl Fn(LogId) -> bool) -> Result<(), LogError> {
    let names = list(dir)?;
    let ours = |name: &&String| match FileName::parse(name) {
        Some(FileName::Control) => true,
        Some(parsed) => parsed.log_id().is_some_and(&which),
        None => false,
    };
    let (markers, others): (Vec<&String>, Vec<&String>) =
        names.iter().filter(ours).partition(|name| matches!(FileName::parse(name), Some(FileName::Marker { .. })));
    remove_all(dir, &others)?;
    // Unsynced deletions may come undone: a segment that came back without its marker would be replayed as the log of a
    // replaced file.
    if !markers.is_empty() && !crate::drops("z4-sync-deletions") {
        dir.sync().map_err(|error| LogError::io("sync", dir.path(), error))?;
    }
    remove_all(dir, &markers)
}

fn list(dir: &dyn LogDirectory) -> Result<Vec<String>, LogError> {
    dir.list().map_err(|error| LogError::io("list", dir.path(), error))
}

fn remove_all(dir: &dyn LogDirectory, names: &[&String]) -> Result<(), LogError> {
    for name in names {
        dir.remove(name).map_err(|error| LogError::io("delete", &dir.path().join(name.as_str()), error))?;
    }
    Ok(())
}

/// Removes what a database without a log leaves: `control`, `lock`, and the directory unless another program put
/// something there. For the holder of the lock, which releases it after this.
///
/// # Errors
/// Any error of the medium, but not for a directory that is not empty.
pub fn remove_directory(dir: &dyn LogDirectory) -> Result<(), LogError> {
    for name in [CONTROL_NAME, LOCK_NAME] {
        dir.remove(name).map_err(|error| LogError::io("delete", &dir.path().join(name), error))?;
    }
    dir.remove_directory().map_err(|error| LogError::io("remove", dir.path(), error)).map(|_| ())
}
