//! Who has a database open: by the kernel's locks, and for people by the open files of the processes.

use crate::database::DatabaseFile;
use pwal::shared::{LOCK_NAME, lock_is_held};
use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// One process that has the file open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    pub pid: u32,
    pub command: String,
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {} ({})", self.pid, self.command)
    }
}

/// Whether a live engine owns the database.
pub fn is_owned(database: &DatabaseFile) -> io::Result<bool> {
    Ok(lock_is_held(&database.log_directory().join(LOCK_NAME))?.unwrap_or(false))
}

/// The processes that have `path` open, as far as this user may see them (Linux; elsewhere none).
pub fn processes_with_open(path: &Path) -> Vec<Process> {
    let Ok(wanted) = fs::metadata(path) else { return Vec::new() };
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let mut found: Vec<Process> = entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|pid| *pid != std::process::id())
        .filter(|pid| has_open(*pid, wanted.dev(), wanted.ino()))
        .map(|pid| Process { pid, command: command_of(pid) })
        .collect();
    found.sort_by_key(|process| process.pid);
    found
}

fn has_open(pid: u32, device: u64, inode: u64) -> bool {
    let Ok(files) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    files
        .filter_map(|file| fs::metadata(file.ok()?.path()).ok())
        .any(|file| file.dev() == device && file.ino() == inode)
}

fn command_of(pid: u32) -> String {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words: Vec<_> = line.split(|&byte| byte == 0).filter(|word| !word.is_empty()).collect();
    let text: String =
        String::from_utf8_lossy(&words.join(&b' ')).chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    match text.chars().count() {
        0 => "command not visible".to_owned(),
        1..=60 => text,
        _ => text.chars().take(57).chain("...".chars()).collect(),
    }
}

/// A sentence that names who has the database open, for a command that cannot go on.
pub fn sentence(database: &DatabaseFile) -> String {
    let open = processes_with_open(&database.path);
    if open.is_empty() {
        return "close it there first (no process that this user may look at has the file open)".to_owned();
    }
    let names: Vec<String> = open.iter().map(ToString::to_string).collect();
    format!("open in {}; close it there first", names.join(", "))
}
