//! `pwal off`: back to stock SQLite, and proof of it.

use crate::database::DatabaseFile;
use crate::failure::{Done, Failure};
use crate::text::say;
use crate::{owner, progress, recover, text};
use pwal::internal::handle::settle::How;
use pwal::internal::log::stamp::StampState;
use rusqlite::{Connection, OpenFlags};
use std::path::{Path, PathBuf};

/// Take a database back to stock SQLite: recover, retire the log, check every page
///
/// What is left is one plain SQLite file. Nothing remembers that it was on pwal: opening it through pwal puts it
/// on pwal again.
#[derive(clap::Args)]
pub struct Arguments {
    /// The database file
    database: PathBuf,
    /// The journal mode to leave the database in
    #[arg(long, value_enum, default_value_t = JournalMode::Wal)]
    journal_mode: JournalMode,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum JournalMode {
    /// As it was: stock SQLite's own -wal and -shm come with the next open
    Wal,
    /// One file, with a rollback journal while it is written
    Delete,
}

pub fn run(arguments: &Arguments) -> Done {
    let database = DatabaseFile::look(&arguments.database)?;
    let report = recover::recover(&database, How::Recover)?;
    recover::print(&report);
    let wait = progress::spinner(format!("checking {}", database.name()));
    let checked = check(&database, arguments.journal_mode);
    wait.finish_and_clear();
    let pages = checked?;
    let plain = DatabaseFile::look(&arguments.database)?;
    if !matches!(plain.stamp(), StampState::Plain { .. }) {
        // A process opened it through pwal between recovery and now.
        return Err(Failure::in_use(format!("{}: {}", plain.name(), plain.describe())).hint(owner::sentence(&plain)));
    }
    if let Some(left) = plain.leftovers().first() {
        return Err(Failure::in_use(format!("{} is back since", left.display())).hint(owner::sentence(&plain)));
    }
    say!("{} is {}: {}, integrity_check ok, nothing beside it", plain.name(), plain.describe(), pages);
    Ok(())
}

/// A connection of stock SQLite, past pwal.
pub fn open_stock(path: &Path, flags: OpenFlags) -> rusqlite::Result<Connection> {
    Connection::open_with_flags_and_vfs(path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX, "unix")
}

/// Stock SQLite's opinion of every page, and the journal mode. The last connection closes cleanly, so that
/// nothing stays beside the file. Returns the pages, for people.
fn check(database: &DatabaseFile, mode: JournalMode) -> Result<String, Failure> {
    let failed = |error: rusqlite::Error| {
        let failure = Failure::sqlite(&database.path, &error);
        if failure.is_in_use() { failure.hint(owner::sentence(database)) } else { failure }
    };
    let stock = open_stock(&database.path, OpenFlags::SQLITE_OPEN_READ_WRITE).map_err(failed)?;
    let said: String = stock.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0)).map_err(failed)?;
    if said != "ok" {
        let text = format!("{}: integrity_check of stock SQLite says: {said}", database.name());
        return Err(Failure::no(text));
    }
    if mode == JournalMode::Delete {
        let now: String = stock.query_row("PRAGMA journal_mode=DELETE", [], |row| row.get(0)).map_err(failed)?;
        if now != "delete" {
            let text = format!("{}: the journal mode stays {now}", database.name());
            return Err(Failure::in_use(text).hint(owner::sentence(database)));
        }
    }
    let pages: i64 = stock.query_row("PRAGMA page_count", [], |row| row.get(0)).map_err(failed)?;
    stock.close().map_err(|(_, error)| failed(error))?;
    Ok(text::counted(u64::try_from(pages).unwrap_or(0), "page"))
}
