//! Whether `libpwal.so` is where it is looked for, and what the environment sets.

use super::report::Report;
use crate::shell;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};

const LIBRARY: &str = "library";

/// Looks for the library. Answers the one to try with the hosts that are found: what `pwal shell` takes, else the first.
pub fn check(report: &mut Report) -> Option<PathBuf> {
    let taken = match shell::library() {
        Ok(path) => Some(path),
        Err(failure) if env::var_os("PWAL_LIBRARY").is_some() => {
            report.problem(LIBRARY, failure.to_string(), "set PWAL_LIBRARY to the path of the library, or unset it");
            None
        }
        Err(_) => None,
    };
    let mut found: Vec<PathBuf> = Vec::new();
    for path in taken.iter().cloned().chain(elsewhere()) {
        let is_new = |real: &PathBuf| found.iter().all(|other| fs::canonicalize(other).ok().as_ref() != Some(real));
        if fs::canonicalize(&path).is_ok_and(|real| real.is_file() && is_new(&real)) {
            found.push(path);
        }
    }
    let Some((first, others)) = found.split_first() else {
        let text = format!("no {} beside this program, in LD_LIBRARY_PATH, here, or in /usr/lib", shell::LIBRARY);
        let advice = "build it (cargo build --release -p pwal-sqlite-ext) and load it by its path; a program that links the crate needs none";
        report.warn(LIBRARY, text, advice);
        return None;
    };
    let differs = |other: &&PathBuf| fs::read(other).ok() != fs::read(first).ok();
    match others.iter().find(differs) {
        Some(other) => {
            let text = format!("{} and {} differ", first.display(), other.display());
            report.warn(LIBRARY, text, "keep one: processes that share a database need the same version");
        }
        None => report.ok(
            LIBRARY,
            format!("{}{}", first.display(), if taken.is_none() { ", not beside this program" } else { "" }),
        ),
    }
    Some(first.clone())
}

/// Where the system, or who types `.load ./libpwal`, looks.
fn elsewhere() -> impl Iterator<Item = PathBuf> {
    let set = env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    let set: Vec<PathBuf> = env::split_paths(&set).filter(|path| !path.as_os_str().is_empty()).collect();
    let multiarch = format!("/usr/lib/{}-linux-gnu", env::consts::ARCH);
    let usual = ["/usr/local/lib", "/usr/lib", "/usr/lib64", &multiarch].map(PathBuf::from);
    let all = set.into_iter().chain(env::current_dir()).chain(usual).collect::<Vec<_>>();
    all.into_iter().map(|directory| directory.join(Path::new(shell::LIBRARY)))
}

/// The settings that this environment brings; that of the programs may be another.
pub fn check_settings(report: &mut Report) {
    let mut set: Vec<(String, String)> = env::vars_os()
        .map(|(name, value)| (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned()))
        // The tool's own say nothing about the programs that use the database.
        .filter(|(name, _)| name.starts_with("PWAL_") && name != "PWAL_LIBRARY" && name != "PWAL_SQLITE3")
        .collect();
    set.sort();
    for (name, value) in &set {
        match (name.as_str(), value.trim().to_ascii_lowercase().as_str()) {
            ("PWAL_MODE", "off") => {
                report.warn("settings", "PWAL_MODE=off: every connection passes through to stock SQLite", "unset it");
            }
            ("PWAL_FILE_SYSTEM", "any") => {
                let found = "PWAL_FILE_SYSTEM=any: databases on network file systems are not refused";
                report.warn("settings", found, "unset it where no database needs it");
            }
            _ => report.note("settings", format!("{name}={value}")),
        }
    }
    if report.is_silent_on("settings") {
        report.ok("settings", "no setting in this environment");
    }
}
