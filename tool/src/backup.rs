//! `pwal backup`: a copy of a database that is in use, by SQLite's backup API through pwal.

use crate::database::DatabaseFile;
use crate::failure::{Done, Failure};
use crate::openers::Openers;
use crate::text::say;
use crate::{owner, progress, text};
use pwal::internal::log::stamp::StampState;
use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, OpenFlags};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::NamedTempFile;

/// Copy a database while it is in use: one plain SQLite file, checked, synced, and only then at its place
///
/// The copy is of one moment: it has every commit that was acknowledged before. No process waits for it; while it runs the log keeps
/// what it reads. DEST is there whole or not at all.
#[derive(clap::Args)]
pub struct Arguments {
    /// The database file
    database: PathBuf,
    /// The file to make
    dest: PathBuf,
    /// Replace DEST if it is there. Never one that is open, or that has a journal or a log beside it
    #[arg(long)]
    force: bool,
    /// Check the copy by quick_check, which does not compare indexes with tables, instead of integrity_check
    #[arg(long)]
    quick: bool,
}

/// For each step of the copy.
const PAGES_PER_STEP: i32 = 1024;
/// Who starts using the database just now may hold it so long.
const PATIENCE: Duration = Duration::from_secs(10);

pub fn run(arguments: &Arguments) -> Done {
    let database = DatabaseFile::look(&arguments.database)?;
    let dest = Destination::look(&arguments.dest, arguments.force, &database)?;
    let copy = dest.new_file()?;
    let wait = progress::spinner(format!("copying {}", database.name()));
    let done = copy_to(&database, copy.path()).and_then(|()| {
        wait.set_message(format!("checking {}", dest.path.display()));
        check(copy.path(), arguments.quick)
    });
    wait.finish_and_clear();
    let pages = done?;
    let mode = database.path.metadata().map_err(|error| Failure::io("read", &database.path, &error))?.permissions();
    dest.put(copy, mode)?;
    let pages = text::counted(pages, "page");
    let checked = if arguments.quick { "quick_check" } else { "integrity_check" };
    say!("{}: {pages} of {}, {checked} ok, synced", dest.path.display(), database.name());
    Ok(())
}

/// Every page, as one snapshot sees it.
fn copy_to(database: &DatabaseFile, copy: &Path) -> Done {
    let failed = |error: rusqlite::Error| {
        let failure = Failure::sqlite(&database.path, &error);
        if failure.is_in_use() { failure.hint(owner::sentence(database)) } else { failure }
    };
    pwal::register().map_err(|error| Failure::cannot(error.to_string()))?;
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let source = Connection::open_with_flags_and_vfs(&database.path, flags, "pwal").map_err(failed)?;
    source.busy_timeout(PATIENCE).map_err(failed)?;
    // Inside a read transaction no commit of others makes the copy begin anew (`sqlite3_backup_step`).
    source.execute_batch("BEGIN; SELECT count(*) FROM sqlite_master").map_err(failed)?;
    let of_copy = |error: rusqlite::Error| Failure::sqlite(copy, &error);
    let mut target =
        Connection::open_with_flags_and_vfs(copy, OpenFlags::SQLITE_OPEN_READ_WRITE, "unix").map_err(of_copy)?;
    // The file is synced as a whole at the end, and is nothing before.
    target.execute_batch("PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF").map_err(of_copy)?;
    let backup = Backup::new(&source, &mut target).map_err(of_copy)?;
    loop {
        match backup.step(PAGES_PER_STEP).map_err(failed)? {
            StepResult::Done => break,
            StepResult::More => {}
            _ => return Err(Failure::in_use(format!("{} is busy", database.name())).hint(owner::sentence(database))),
        }
    }
    drop(backup);
    target.close().map_err(|(_, error)| of_copy(error))?;
    source.close().map_err(|(_, error)| failed(error))
}

/// Stock SQLite's opinion of the copy. `immutable`: it makes no files beside it. Answers its pages.
fn check(copy: &Path, quick: bool) -> Result<u64, Failure> {
    let failed = |error: rusqlite::Error| Failure::sqlite(copy, &error);
    let plain = DatabaseFile::look(copy)?;
    if !matches!(plain.stamp(), StampState::Plain { .. }) {
        return Err(Failure::no(format!("the copy is not a plain database: {}", plain.describe())));
    }
    let mut uri = String::from("file:");
    for byte in copy.as_os_str().as_encoded_bytes() {
        uri.push_str(&format!("%{byte:02x}"));
    }
    uri.push_str("?immutable=1");
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI;
    let stock = Connection::open_with_flags_and_vfs(&uri, flags, "unix").map_err(failed)?;
    let pragma = if quick { "PRAGMA quick_check(1)" } else { "PRAGMA integrity_check(1)" };
    let said: String = stock.query_row(pragma, [], |row| row.get(0)).map_err(failed)?;
    if said != "ok" {
        return Err(Failure::no(format!("the copy is damaged, as the database may be: {said}"))
            .hint("nothing was put at the destination"));
    }
    let pages: u64 = stock.query_row("PRAGMA page_count", [], |row| row.get(0)).map_err(failed)?;
    stock.close().map_err(|(_, error)| failed(error))?;
    Ok(pages)
}

/// Where the copy goes.
struct Destination {
    path: PathBuf,
    directory: PathBuf,
    replace: bool,
}

impl Destination {
    /// # Errors
    /// A file is there and is not to be replaced, or must not be.
    fn look(path: &Path, replace: bool, database: &DatabaseFile) -> Result<Destination, Failure> {
        let path = std::path::absolute(path).map_err(|error| Failure::io("find", path, &error))?;
        let directory = path.parent().unwrap_or(Path::new("/")).to_owned();
        if fs::canonicalize(&path).is_ok_and(|real| real == database.path) {
            return Err(Failure::no(format!("{} is the database itself", path.display())));
        }
        for suffix in ["-wal", "-journal", "-shm", "-pwal"] {
            let mut beside = path.clone().into_os_string();
            beside.push(suffix);
            let beside = PathBuf::from(beside);
            if fs::symlink_metadata(&beside).is_ok() {
                return Err(Failure::no(format!("{} is there: it would be taken for the copy's", beside.display()))
                    .hint("choose another name, or finish with that database and remove its files"));
            }
        }
        let there = fs::symlink_metadata(&path).is_ok();
        if there && !replace {
            return Err(Failure::no(format!("{} is there already", path.display())).hint("--force replaces it"));
        }
        if let Some(open) = there.then(|| DatabaseFile::look(&path).ok()).flatten().map(|old| Openers::of(&old).all)
            && let Some(opener) = open.first()
        {
            return Err(Failure::in_use(format!("{} is open in {opener}", path.display())));
        }
        Ok(Destination { path, directory, replace })
    }

    /// An empty file beside it: on the same file system, so that it can be renamed.
    fn new_file(&self) -> Result<NamedTempFile, Failure> {
        let mut prefix = std::ffi::OsString::from(".");
        prefix.push(self.path.file_name().unwrap_or_default());
        prefix.push(".backup-");
        let made = tempfile::Builder::new().prefix(&prefix).tempfile_in(&self.directory);
        made.map_err(|error| Failure::io("make a file in", &self.directory, &error))
    }

    /// Syncs the copy and puts it at its place.
    fn put(&self, copy: NamedTempFile, mode: fs::Permissions) -> Done {
        let failed = |error| Failure::io("write", &self.path, &error);
        copy.as_file().set_permissions(mode).map_err(failed)?;
        copy.as_file().sync_all().map_err(failed)?;
        let put = match self.replace {
            true => copy.persist(&self.path),
            false => copy.persist_noclobber(&self.path),
        };
        put.map_err(|error| failed(error.error))?;
        File::open(&self.directory).and_then(|directory| directory.sync_all()).map_err(failed)
    }
}
