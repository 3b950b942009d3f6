//! The command line tool on real files: what it prints, what it answers, and what it leaves alone.
//!
//! Builds the tool (and for `shell` the library) once, in the profile `dev`. `shell` needs the `sqlite3` shell:
//! `PWAL_TEST_SQLITE3` names another than `/usr/bin/sqlite3`.

mod backup;
mod bench;
mod demo;
mod doctor;
mod inspect;
mod links;
mod off;
mod recover;
mod run;
mod shell;
mod status;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use support::{Scratch, child, library, open_wal, run};

/// What a command of the tool did.
#[derive(Debug)]
struct Output {
    status: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Output {
    fn of(output: std::process::Output) -> Output {
        Output {
            status: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// It must have succeeded, silently on standard error; what it printed.
    fn printed(&self) -> &str {
        assert_eq!(self.status, Some(0), "{self:?}");
        assert_eq!(self.stderr, "", "{self:?}");
        &self.stdout
    }

    /// It must have ended with this status; what it said on standard error.
    fn refused(&self, status: i32) -> &str {
        assert_eq!(self.status, Some(status), "{self:?}");
        assert!(self.stderr.starts_with("pwal: "), "{self:?}");
        &self.stderr
    }
}

/// The tool with these arguments, and no setting of pwal from outside.
fn tool<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Output {
    Output::of(command(arguments).stdin(Stdio::null()).output().expect("the tool starts"))
}

fn command<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(library::tool());
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("PWAL_")) {
        command.env_remove(name);
    }
    command.args(arguments);
    command
}

/// Every file in a directory and below, with its bytes: to see that a command left them alone.
fn contents(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(directory).expect("read a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            files.insert(path.clone(), Vec::new());
            files.extend(contents(&path));
        } else {
            files.insert(path.clone(), std::fs::read(&path).expect("read a file"));
        }
    }
    files
}

/// Commits `rows` rows, one by one, and stays until it is killed.
const HOLDER: &str = "holder";

#[test]
fn holder() {
    if !child::role(HOLDER) {
        return;
    }
    let connection = open_wal(Path::new(&child::setting("DATABASE")));
    run(&connection, "PRAGMA synchronous=FULL; PRAGMA wal_autocheckpoint=0; CREATE TABLE t(x INTEGER PRIMARY KEY, y)");
    for _ in 0..child::setting("ROWS").parse().expect("a number") {
        run(&connection, "INSERT INTO t(y) VALUES(randomblob(500))");
    }
    child::report("done");
    let _ = child::command();
}

/// So few rows that whoever has committed them does nothing afterwards: the first segment is far from full, and no next one is
/// made ahead of need.
const FEW: u64 = 5;

/// A process that has committed so many rows and holds the database open.
fn hold(path: &Path, rows: u64) -> child::Role {
    let settings = [("DATABASE", path.display().to_string()), ("ROWS", rows.to_string())];
    let mut role = child::start(HOLDER, &settings);
    role.expect("done");
    role
}

/// A database whose owner was killed with so many rows in the log.
fn crashed(scratch: &Scratch, rows: u64) -> PathBuf {
    let path = scratch.file("app.db");
    hold(&path, rows).kill();
    path
}

/// Waits for a state that must come.
fn wait_until(mut is_there: impl FnMut() -> bool) {
    let end = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while !is_there() {
        assert!(std::time::Instant::now() < end, "it does not come");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

/// The log id in the stamp of a database file.
fn log_id(path: &Path) -> String {
    let bytes = std::fs::read(path).expect("read the database file");
    format!("{:016x}", u64::from_le_bytes(bytes[72..80].try_into().expect("eight bytes")))
}

/// The file name of segment `index` of the log of a database.
fn segment(path: &Path, index: u32) -> PathBuf {
    let mut directory = path.as_os_str().to_owned();
    directory.push("-pwal");
    Path::new(&directory).join(format!("{}-{index:04}.seg", log_id(path)))
}

/// Damages the image of commit `sequence`, which follows the head of its batch, as a medium that rots.
fn rot(path: &Path, sequence: usize) {
    use std::os::unix::fs::FileExt;
    let file = segment(path, 0);
    let bytes = std::fs::read(&file).expect("read a segment");
    let is_batch = |block: &usize| bytes[block * 4096..].starts_with(b"pwalbtch");
    let batch = (0..bytes.len() / 4096).filter(is_batch).nth(sequence - 1).expect("a batch");
    let file = std::fs::OpenOptions::new().write(true).open(&file).expect("open a segment");
    // A head with one descriptor and a certificate has 368 bytes.
    file.write_at(&[0xee; 64], batch as u64 * 4096 + 400).expect("write");
}

#[test]
fn a_wrong_command_line_ends_with_2_and_the_help_tells_the_others() {
    assert_eq!(tool(["nonsense"]).status, Some(2));
    assert_eq!(tool(["recover"]).status, Some(2));
    assert_eq!(tool(["demo", "--seconds", "0"]).status, Some(2));
    let help = tool(["--help"]);
    assert!(help.printed().contains("another process has the database open"), "{help:?}");
    assert!(!help.printed().contains("demo-writer") && !help.printed().contains("bench-run"), "{help:?}");
    assert_eq!(tool(["--version"]).printed().trim(), format!("pwal {}", pwal::version()));
}

#[test]
fn what_is_no_database_is_told_so_and_left_alone() {
    let scratch = Scratch::new();
    let path = scratch.file("notes.txt");
    std::fs::write(&path, "not a database, but long enough to be taken for a header".repeat(20)).expect("write");
    let before = contents(scratch.path());
    for command in ["inspect", "verify", "recover", "status", "doctor", "off"] {
        let missing = scratch.file("missing.db");
        assert!(tool([command.as_ref(), missing.as_os_str()]).refused(4).contains("missing.db"));
        assert!(tool([command.as_ref(), path.as_os_str()]).refused(4).contains("not a SQLite database"));
        assert!(tool([command.as_ref(), scratch.path().as_os_str()]).refused(4).contains("not a file"));
    }
    assert_eq!(contents(scratch.path()), before);
}
