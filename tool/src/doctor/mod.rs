//! `pwal doctor`: what is fine around a database, and what to change. Looks, and changes nothing.
//!
//! A file for each group of checks. It opens the database file by plain calls: in a process that has no connection on it,
//! closing it again drops no locks. What can be read without a lock is read without one, so no process gets BUSY because
//! of it.

mod file_system;
mod files;
mod hosts;
mod library;
mod litestream;
mod mount;
mod permissions;
mod processes;
mod report;
mod run;
mod schema;

use crate::database::DatabaseFile;
use crate::failure::{Done, Failure};
use crate::openers::Openers;
use crate::owner;
use crate::text::{self, say};
use pwal::internal::shared::{Observed, OnStockWal, ProcessInfo};
use report::{Report, Verdict};
use std::io;
use std::path::{Path, PathBuf};

/// Check the surroundings of a database: what is fine, what to change
///
/// File system, permissions, leftovers, who has it open, SQLite versions, the library. Changes and locks nothing, also
/// while the database is written. Run it as the user that the programs run as. It starts the sqlite3 shells and
/// the python3 that are in PATH, to ask them for their version and to load the library.
///
/// Exit status 1: at least one check says "problem".
#[derive(clap::Args)]
pub struct Arguments {
    /// The database file
    database: PathBuf,
    /// Print everything as JSON
    #[arg(long)]
    json: bool,
}

pub fn run(arguments: &Arguments) -> Done {
    let scene = Scene::look(&arguments.database)?;
    let mut report = Report::default();
    files::check_database(&scene, &mut report);
    file_system::check(&scene, &mut report);
    permissions::check(&scene, &mut report);
    files::check_log(&scene, &mut report);
    files::check_leftovers(&scene, &mut report);
    files::check_control(&scene, &mut report);
    processes::check(&scene, &mut report);
    litestream::check(&scene, &mut report);
    let library = library::check(&mut report);
    hosts::check(library.as_deref(), &mut report);
    library::check_settings(&mut report);
    if arguments.json {
        say!("{:#}", report.as_json(&scene.database));
    } else {
        text::print(&report.render());
    }
    match report.count(Verdict::Problem) {
        0 => Ok(()),
        problems => Err(Failure::no(format!("{}: {}", scene.database.name(), text::counted(problems, "problem")))),
    }
}

/// What the checks look at.
struct Scene {
    /// As the user named it.
    named: PathBuf,
    database: DatabaseFile,
    /// Why the database file cannot be read; its header is empty then.
    unreadable: Option<io::Error>,
    /// Whether a live engine owns it.
    owned: bool,
    /// The control block of a live engine, and who is joined.
    control: io::Result<Option<(Observed, Vec<ProcessInfo>)>>,
    openers: Openers,
    /// Whether connections of pwal work as stock SQLite does.
    stock_wal: OnStockWal,
}

impl Scene {
    fn look(path: &Path) -> Result<Scene, Failure> {
        let found = std::fs::canonicalize(path).map_err(|error| Failure::io("find", path, &error))?;
        let metadata = std::fs::metadata(&found).map_err(|error| Failure::io("look at", &found, &error))?;
        // Not of a pipe: that waits for a writer.
        let (database, unreadable) = match metadata.is_file().then(|| std::fs::File::open(&found)) {
            Some(Err(error)) if error.kind() == io::ErrorKind::PermissionDenied => {
                (DatabaseFile { path: found, bytes: metadata.len(), header: Vec::new(), unreadable: None }, Some(error))
            }
            _ => (DatabaseFile::look(path)?, None),
        };
        // What cannot be looked at here is reported by the permissions.
        let owned = owner::is_owned(&database).unwrap_or(false);
        let control = if owned { owner::processes(&database) } else { Ok(None) };
        let openers = Openers::of(&database);
        let stock_wal = owner::stock_wal(&database).unwrap_or(OnStockWal::No);
        Ok(Scene { named: path.to_path_buf(), database, unreadable, owned, control, openers, stock_wal })
    }

    /// The joined processes, as far as they can be known.
    fn process_infos(&self) -> &[ProcessInfo] {
        self.control.as_ref().ok().and_then(Option::as_ref).map_or(&[], |(_, attached)| attached)
    }
}
