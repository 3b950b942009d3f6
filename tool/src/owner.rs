//! Who owns a database: by the kernel's locks; and in a sentence, for a command that cannot go on.

use crate::database::DatabaseFile;
use crate::openers::Openers;
use pwal::internal::disk::Directory;
use pwal::internal::shared::{
    ControlMapping, LockProbe, Observed, OnStockWal, ProcessInfo, State, lock_is_held, on_stock_wal,
};
use std::io;

/// Whether a live engine owns the database.
pub fn is_owned(database: &DatabaseFile) -> io::Result<bool> {
    Ok(lock_is_held(&database.log_directory())?.unwrap_or(false))
}

/// Whether connections of pwal work on stock SQLite's own `-wal`.
pub fn stock_wal(database: &DatabaseFile) -> io::Result<OnStockWal> {
    on_stock_wal(&database.log_directory())
}

/// The control block of a live log, and who is joined to it; `None`: there are none yet, or they are being made.
///
/// # Errors
/// A `control` that cannot be read, or is none of this layout.
pub fn processes(database: &DatabaseFile) -> io::Result<Option<(Observed, Vec<ProcessInfo>)>> {
    let opened = Directory::open(&database.log_directory())
        .and_then(|directory| ControlMapping::open_read_only(&directory).map(|mapping| (directory, mapping)));
    let (directory, mapping) = match opened {
        Ok(opened) => opened,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    if mapping.control().state() != State::Ready {
        return Ok(None);
    }
    let probe = LockProbe::open(&directory)?;
    let alive = |slot| probe.as_ref().is_some_and(|probe| probe.is_alive(slot).unwrap_or(true));
    let attached = mapping.control().process_infos(|owner| alive(owner.slot));
    Ok(Some((mapping, attached)))
}

/// A sentence that names who has the database open, for a command that cannot go on.
pub fn sentence(database: &DatabaseFile) -> String {
    let open = Openers::of(database).all;
    if open.is_empty() {
        return "close it there first (no process that this user may look at has the file open)".to_owned();
    }
    let names: Vec<String> = open.iter().map(ToString::to_string).collect();
    format!("open in {}; close it there first", names.join(", "))
}
