//! `<database>-pwal/lock` and its byte INIT: one process at a time opens, joins or closes a database.
//!
//! INIT comes before any lock on the database file. It is a lock of the open file (OFD), so that two SQLite libraries in one process
//! exclude each other, too. Its holder finds out whether other processes are joined ([`is_shared`]), and what it does next, a
//! claim, a join or a recovery, is over before the next process gets INIT. The file may be deleted with its directory by the last
//! process that closes: a lock on a file that is not in the directory any more counts for nothing.

use super::refusal::{Refused, lock_failed};
use crate::disk::{LogDirectory, not_local};
pub(super) use crate::engine::INIT_WAIT;
use crate::interleave;
use crate::shared::{
    ALIVE_BYTES, ALONE, BYTE_RANGES, ControlMapping, INIT, LOCK_NAME, LockFile, Process, living, names,
};
use crate::sqlite::Code;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

/// How often it is tried to open what another user is just making, and the pause in between.
const GIVING_PAUSES: u32 = 10;
const GIVING_PAUSE: Duration = Duration::from_millis(1);

/// `<database>-pwal/lock`, with INIT held, before any lock on the database file; `None`: the directory went meanwhile.
pub(super) fn take_init(path: &Path, dir: &dyn LogDirectory, at_most: Duration) -> Result<Option<LockFile>, Refused> {
    let lock_path = dir.path().join(LOCK_NAME);
    let failed = |error| lock_failed(&lock_path, &error);
    let lock = match open_lock(path, dir) {
        Ok(lock) => lock,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let is_alone = || lock.is_held_by_others(ALONE);
    if !lock.lock_within(INIT, at_most, is_alone).map_err(failed)? {
        let who = who_has(&lock, dir);
        let text = if is_alone().map_err(failed)? {
            let why = cannot_be_shared(path);
            let why =
                why.unwrap_or_else(|| String::from("its control file could not be made, or its pwal is an older one"));
            format!("another process has the database open for itself alone (one process at a time): {why}")
        } else if who.is_empty() {
            String::from("another process is opening or closing the database, or was stopped while it did")
        } else {
            format!(
                "one of those that have the database open ({}) is busy with INIT, or was stopped there",
                names(&who)
            )
        };
        return Err(Refused::new(Code::BUSY, text));
    }
    let is_current = dir.directory().and_then(|directory| lock.is_in(&directory)).or_else(not_there).map_err(failed)?;
    Ok(is_current.then_some(lock))
}

/// The directory went.
fn not_there(error: io::Error) -> io::Result<bool> {
    if error.kind() == io::ErrorKind::NotFound { Ok(false) } else { Err(error) }
}

/// The lock file, and its directory.
fn open_lock(path: &Path, dir: &dyn LogDirectory) -> io::Result<LockFile> {
    let mut pauses = 0;
    loop {
        let opened = dir.create().and_then(|()| LockFile::open(&*dir.directory()?, file_mode(path)));
        match opened {
            // Another user may be making it, and has not given it away yet.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied && pauses < GIVING_PAUSES => {
                pauses += 1;
                interleave::sleep(GIVING_PAUSE);
            }
            opened => return opened,
        }
    }
}

/// The mode of the files of the log.
pub(super) fn file_mode(path: &Path) -> u32 {
    std::fs::metadata(path).map_or(0o644, |file| file.mode() & 0o666 | 0o600)
}

/// Under INIT: whether there are other members that this process can join.
pub(super) fn is_shared(lock: &LockFile, dir: &dyn LogDirectory) -> Result<bool, Refused> {
    // Without byte ranges INIT is all there is.
    let held = if BYTE_RANGES { lock.is_held_by_others(ALIVE_BYTES) } else { Ok(false) };
    held.map_err(|error| lock_failed(&dir.path().join(LOCK_NAME), &error))
}

/// The processes that have the database open, but this open file.
fn who_has(lock: &LockFile, dir: &dyn LogDirectory) -> Vec<Process> {
    let observed = dir.directory().and_then(|directory| ControlMapping::open_read_only(&directory));
    observed.map_or_else(|_| Vec::new(), |observed| living(observed.control(), lock))
}

/// Like the claim: INIT, without members.
///
/// # Errors
/// `BUSY`: there are members.
pub(super) fn take_lock(path: &Path, dir: &dyn LogDirectory) -> Result<Option<LockFile>, Refused> {
    let Some(lock) = take_init(path, dir, INIT_WAIT)? else { return Ok(None) };
    if is_shared(&lock, dir)? {
        let text = format!("another process has the database open: {}", names(&who_has(&lock, dir)));
        return Err(Refused::new(Code::BUSY, text));
    }
    Ok(Some(lock))
}

/// Why only one process at a time may have the database at `path`.
pub(super) fn cannot_be_shared(path: &Path) -> Option<String> {
    why_not_shared(not_local(path), BYTE_RANGES)
}

fn why_not_shared(not_local: Option<&str>, byte_locks: bool) -> Option<String> {
    match not_local {
        Some(name) => {
            Some(format!("it lies on a file system ({name}) where locks and memory need not hold between machines"))
        }
        None if !byte_locks => Some(String::from("this system has no locks of byte ranges by open file")),
        None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_file_system_or_a_system_without_byte_locks_is_for_one_process() {
        assert_eq!(why_not_shared(None, true), None);
        assert!(why_not_shared(Some("NFS"), true).unwrap().contains("NFS"));
        assert!(why_not_shared(Some("NFS"), false).unwrap().contains("NFS"));
        assert!(why_not_shared(None, false).unwrap().contains("byte ranges"));
    }
}
