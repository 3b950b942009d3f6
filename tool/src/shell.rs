//! `pwal shell`: the real `sqlite3`, with the library loaded and the database opened through it.

use crate::failure::{Done, Failure};
use std::env;
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Open a database in the sqlite3 shell, through pwal
///
/// Loading comes before opening: `sqlite3 -cmd ".load libpwal" app.db` would open the file first, on stock SQLite.
#[derive(clap::Args)]
pub struct Arguments {
    /// The database file; created if it is not there. `:memory:` is a database in memory
    database: PathBuf,
    /// Further arguments for sqlite3: options, and SQL to run instead of reading it from the terminal
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    rest: Vec<OsString>,
}

/// The file name of the loadable library.
#[cfg(target_os = "macos")]
pub const LIBRARY: &str = "libpwal.dylib";
#[cfg(not(target_os = "macos"))]
pub const LIBRARY: &str = "libpwal.so";

pub fn run(arguments: &Arguments) -> Done {
    let library = library()?;
    // `:memory:` is no file, as in sqlite3; `./:memory:` is one.
    let database = match arguments.database.as_os_str() == ":memory:" {
        true => Ok(arguments.database.clone()),
        false => std::path::absolute(&arguments.database),
    };
    let database = database.map_err(|error| Failure::io("find", &arguments.database, &error))?;
    let sqlite3 = env::var_os("PWAL_SQLITE3").unwrap_or_else(|| "sqlite3".into());
    // With -bail a library that does not load ends the shell: it would go on with stock SQLite, silently.
    let mut command = Command::new(&sqlite3);
    command.arg("-bail");
    for line in [format!(".load {}", quoted(&library)?), format!(".open {}", quoted(&database)?), ".bail off".into()] {
        command.arg("-cmd").arg(line);
    }
    let error = command.arg(":memory:").args(&arguments.rest).exec();
    let text = format!("cannot run {}: {error}", sqlite3.display());
    Err(Failure::cannot(text).hint("install SQLite's shell (Debian: apt-get install sqlite3), or set PWAL_SQLITE3"))
}

/// The loadable library: by `PWAL_LIBRARY`, else beside this program.
pub fn library() -> Result<PathBuf, Failure> {
    if let Some(path) = env::var_os("PWAL_LIBRARY") {
        let path = std::path::absolute(&path).map_err(|error| Failure::io("find", Path::new(&path), &error))?;
        return match path.is_file() {
            true => Ok(path),
            false => Err(Failure::cannot(format!("PWAL_LIBRARY names {}, which is not a file", path.display()))),
        };
    }
    let here = env::current_exe().and_then(|path| path.canonicalize());
    let here = here.map_err(|error| Failure::cannot(format!("cannot find the path of this program: {error}")))?;
    let beside = here.with_file_name(LIBRARY);
    let installed = here.parent().map(|directory| directory.join("../lib").join(LIBRARY));
    [Some(beside.clone()), installed].into_iter().flatten().find(|path| path.is_file()).ok_or_else(|| {
        Failure::cannot(format!("{} is not there", beside.display()))
            .hint("build it (cargo build --release -p pwal-sqlite-ext), or set PWAL_LIBRARY to its path")
    })
}

/// A path as an argument of a dot command: in double quotes the shell undoes C's escapes.
pub fn quoted(path: &Path) -> Result<String, Failure> {
    let Some(text) = path.to_str() else {
        return Err(Failure::cannot(format!("{} is not UTF-8, and cannot be passed to sqlite3", path.display())));
    };
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    Ok(quoted)
}
