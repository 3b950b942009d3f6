//! `pwal doctor`: each thing that it can find, made by hand; and that it changes nothing and disturbs nobody.

mod processes;
mod surroundings;

use super::{FEW, Output, command, contents, crashed, hold, library, log_id, rot, tool};
use pwal::internal::disk::Directory;
use pwal::internal::shared::{ALIVE_BYTE, ControlMapping, Identity, LockFile, State};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use support::{Scratch, close, open_stock, open_wal, run};

/// What the doctor said, as JSON, and its exit status.
struct Report {
    status: Option<i32>,
    said: Value,
}

impl Report {
    fn of(output: Output) -> Report {
        let said = serde_json::from_str(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
        let report = Report { status: output.status, said };
        // The exit status says whether there is a problem, and nothing else.
        assert_eq!(report.status, Some(i32::from(report.verdicts().any(|verdict| verdict == "problem"))), "{output:?}");
        report
    }

    fn checks(&self) -> impl Iterator<Item = (&str, &str, &str)> {
        self.said["checks"].as_array().expect("a list").iter().map(|check| {
            assert_eq!(check["advice"].is_string(), matches!(check["verdict"].as_str(), Some("warn" | "problem")));
            let text = |field: &str| check[field].as_str().expect("a text");
            (text("check"), text("verdict"), text("found"))
        })
    }

    fn verdicts(&self) -> impl Iterator<Item = &str> {
        self.checks().map(|(_, verdict, _)| verdict)
    }

    /// Exactly one check of this name has this verdict and says these words.
    fn says(&self, check: &str, verdict: &str, control: &[&str]) -> &Report {
        let fits = |found: &str| control.iter().all(|word| found.contains(word));
        let count = self.checks().filter(|(c, v, found)| (*c, *v) == (check, verdict) && fits(found)).count();
        assert_eq!(count, 1, "{check}: {verdict}: {control:?} in {:#}", self.said);
        self
    }

    /// Nothing but this is worse than a note.
    fn only(&self, worse: &[&str]) -> &Report {
        let found: Vec<_> = self.checks().filter(|(_, verdict, _)| matches!(*verdict, "warn" | "problem")).collect();
        let names: Vec<_> = found.iter().map(|(check, _, _)| *check).collect();
        assert_eq!(names, worse, "{found:?}");
        self
    }
}

/// The doctor, with the library of this build and no host in PATH.
fn doctor_command(scratch: &Scratch, path: &Path) -> Command {
    let mut command = command(["doctor".as_ref(), "--json".as_ref(), path.as_os_str()]);
    command.env("PWAL_LIBRARY", library::library()).env("PATH", scratch.path().join("no programs"));
    command.env_remove("LD_LIBRARY_PATH").stdin(Stdio::null());
    command
}

fn ask(mut command: Command) -> Report {
    Report::of(Output::of(command.output().expect("the tool starts")))
}

/// What it says of a database; it must change nothing beside it.
fn doctor(scratch: &Scratch, path: &Path) -> Report {
    let before = contents(scratch.path());
    let report = ask(doctor_command(scratch, path));
    assert_eq!(contents(scratch.path()), before);
    report
}

/// A database with one table, closed.
fn closed(scratch: &Scratch, name: &str) -> PathBuf {
    let path = scratch.file(name);
    let connection = open_wal(&path);
    run(&connection, "CREATE TABLE t(x); INSERT INTO t VALUES(1)");
    close(connection);
    path
}

fn log_of(path: &Path) -> PathBuf {
    beside(path, "-pwal")
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// A process that has a file open as its standard input, until it is dropped.
struct Open(Child);

impl Open {
    fn new(path: &Path) -> Open {
        let file = File::open(path).expect("open");
        Open(Command::new("/bin/sleep").arg("600").stdin(file).spawn().expect("sleep starts"))
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).expect("the child was not waited for");
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A live engine's `lock` and `control`, made by hand, with the first `alive` process slots alive.
fn by_hand(path: &Path, alive: u64) -> (LockFile, ControlMapping) {
    let log = log_of(path);
    fs::create_dir(&log).expect("a directory");
    let directory = Directory::open(&log).expect("the log");
    let lock = LockFile::open(&directory, 0o644).expect("a lock");
    assert!(lock.try_lock(ALIVE_BYTE..ALIVE_BYTE + alive).expect("locks"));
    let mapping = ControlMapping::create(&directory, 0o644).expect("a control");
    mapping.control().set_identity(&identity(path));
    mapping.control().set_state(State::Ready);
    (lock, mapping)
}

fn identity(path: &Path) -> Identity {
    let file = fs::metadata(path).expect("a database");
    Identity { boot_id: 1, log_id: 2, device: file.dev(), inode: file.ino(), block_bytes: 4096 }
}

#[test]
fn a_closed_database_is_fine_and_the_text_says_it_in_lines() {
    let scratch = Scratch::new();
    let path = closed(&scratch, "app.db");
    let report = doctor(&scratch, &path);
    report.only(&[]);
    assert_eq!(report.said["verdict"], "ok");
    for (check, control) in [
        ("database", "plain, WAL mode"),
        ("page size", "4096 bytes"),
        ("journal mode", "WAL"),
        ("file system", "local, with locks"),
        ("free space", "free for this user"),
        ("permissions", "its directory is writable"),
        ("log", "none"),
        ("leftovers", "none"),
        ("processes", "none"),
        ("other openers", "none"),
        ("litestream", "no traces"),
        ("library", "libpwal"),
        ("sqlite", "in this program"),
        ("settings", "no setting"),
    ] {
        report.says(check, "ok", &[control]);
    }
    let mut command = doctor_command(&scratch, &path);
    command.env("PWAL_MODE", "off");
    let json = ask(command);
    json.says("settings", "warn", &["PWAL_MODE=off"]).only(&["settings"]);
    let text = tool(["doctor".as_ref(), path.as_os_str()]);
    let text = text.stdout;
    assert!(text.starts_with("ok       database       "), "{text}");
    let verdicts = ["ok       ", "note     ", "warn     ", "problem  ", "         "];
    assert!(text.lines().all(|line| verdicts.iter().any(|verdict| line.starts_with(verdict))), "{text}");
}

#[test]
fn the_kind_of_database_is_told() {
    let scratch = Scratch::new();
    let path = closed(&scratch, "app.db");
    let stock = open_stock(&path);
    run(&stock, "PRAGMA journal_mode=DELETE; PRAGMA page_size=1024; VACUUM");
    close(stock);
    let report = doctor(&scratch, &path);
    report
        .says("journal mode", "warn", &["rollback"])
        .says("page size", "note", &["1024 bytes"])
        .only(&["journal mode"]);
    let empty = scratch.file("empty.db");
    fs::write(&empty, "").expect("write");
    doctor(&scratch, &empty).says("database", "note", &["no database yet"]).only(&[]);
    let mut bytes = fs::read(&path).expect("read");
    bytes[16..18].copy_from_slice(&[0, 7]);
    fs::write(&empty, bytes).expect("write");
    doctor(&scratch, &empty).says("database", "problem", &["page size"]);
}

#[test]
fn a_database_in_use_is_looked_at_without_disturbing() {
    let scratch = Scratch::new();
    let path = scratch.file("app.db");
    let mut holder = hold(&path, FEW);
    let report = doctor(&scratch, &path);
    let pid = holder.pid().to_string();
    report.says("processes", "ok", &["1 is attached", &pid]).says("log", "ok", &["in use"]).only(&[]);
    report.says("control", "ok", &[&log_id(&path)]).says("engine", "ok", &["auto"]);
    if cfg!(target_os = "linux") {
        report.says("other openers", "ok", &["none"]);
        let other = Open::new(&path);
        let told = doctor(&scratch, &path);
        told.says("other openers", "warn", &[&other.pid().to_string(), "past pwal"]).only(&["other openers"]);
    }
    holder.send("go");
    assert!(holder.wait().success());
}

#[test]
fn a_writer_gets_no_busy_while_somebody_looks() {
    let scratch = Scratch::new();
    let path = closed(&scratch, "app.db");
    let connection = open_wal(&path);
    run(&connection, "PRAGMA busy_timeout=0");
    let mut looks: Vec<Child> = (0..4)
        .map(|_| doctor_command(&scratch, &path).stdout(Stdio::null()).spawn().expect("the tool starts"))
        .collect();
    let mut commits = 0;
    while looks.iter_mut().any(|look| look.try_wait().expect("wait").is_none()) {
        run(&connection, "INSERT INTO t VALUES(2)");
        commits += 1;
    }
    for mut look in looks {
        assert_eq!(look.wait().expect("wait").code(), Some(0));
    }
    assert!(commits > 0);
    close(connection);
    // The first statement on a database that is being looked at, over and over.
    let mut look = doctor_command(&scratch, &path).stdout(Stdio::null()).spawn().expect("the tool starts");
    while look.try_wait().expect("wait").is_none() {
        let connection = open_wal(&path);
        run(&connection, "PRAGMA busy_timeout=0; INSERT INTO t VALUES(3)");
        close(connection);
    }
}

#[test]
fn a_crash_and_what_lies_beside_are_told() {
    let scratch = Scratch::new();
    let path = crashed(&scratch, 8);
    let report = doctor(&scratch, &path);
    report.says("log", "note", &["left by a crash", "recovers", &log_id(&path)]).only(&[]);
    report.says("control", "note", &["killed"]).says("processes", "ok", &["none"]);

    fs::write(log_of(&path).join("notes.txt"), "hello").expect("write");
    doctor(&scratch, &path).says("leftovers", "warn", &["notes.txt"]).only(&["leftovers"]);
    fs::remove_file(log_of(&path).join("notes.txt")).expect("remove");

    fs::create_dir(beside(&path, "-pwal.orphan-0123456789abcdef")).expect("a directory");
    doctor(&scratch, &path).says("leftovers", "note", &["orphan-0123456789abcdef"]).only(&[]);

    fs::remove_dir(beside(&path, "-wal")).expect("it lies beside a log");
    doctor(&scratch, &path).says("leftovers", "note", &["no directory at", "app.db-wal"]).only(&[]);
    fs::write(beside(&path, "-wal"), "x").expect("write");
    doctor(&scratch, &path).says("leftovers", "problem", &["app.db-wal", "beside a log"]);
    fs::remove_file(beside(&path, "-wal")).expect("remove");

    rot(&path, 3);
    doctor(&scratch, &path).says("log", "problem", &["damaged", "rule L3"]).only(&["log"]);
    fs::rename(log_of(&path), scratch.file("away")).expect("move");
    doctor(&scratch, &path).says("log", "problem", &["needs log", &log_id(&path)]).only(&["log"]);
}

#[test]
fn a_directory_that_keeps_stock_out_of_a_plain_file_is_told_and_taken_away() {
    let scratch = Scratch::new();
    let path = scratch.file("app.db");
    let connection = open_wal(&path);
    run(&connection, "CREATE TABLE t(x)");
    close(connection);
    fs::create_dir(beside(&path, "-wal")).expect("a directory");
    fs::write(beside(&path, "-wal").join("notes"), "").expect("write");
    doctor(&scratch, &path).says("leftovers", "problem", &["app.db-wal is a directory"]).only(&["leftovers"]);
    fs::remove_file(beside(&path, "-wal").join("notes")).expect("remove");
    doctor(&scratch, &path).says("leftovers", "problem", &["app.db-wal is a directory"]).only(&["leftovers"]);
    tool(["recover".as_ref(), path.as_os_str()]).printed();
    assert!(!beside(&path, "-wal").exists());
    doctor(&scratch, &path).says("leftovers", "ok", &["none"]);
}

#[test]
fn what_stock_left_is_told() {
    let scratch = Scratch::new();
    let path = scratch.file("app.db");
    let stock = open_stock(&path);
    run(&stock, "PRAGMA journal_mode=WAL; CREATE TABLE t(x)");
    let copy = scratch.file("copy.db");
    for suffix in ["", "-wal", "-shm"] {
        fs::copy(beside(&path, suffix), beside(&copy, suffix)).expect("copy");
    }
    close(stock);
    doctor(&scratch, &copy).says("leftovers", "note", &["copy.db-wal", "plays it back"]).only(&[]);
    fs::remove_file(beside(&copy, "-wal")).expect("remove");
    doctor(&scratch, &copy).says("leftovers", "note", &["copy.db-shm", "harmless"]).only(&[]);
    fs::remove_file(beside(&copy, "-shm")).expect("remove");
    fs::write(beside(&copy, "-journal"), "journal").expect("write");
    doctor(&scratch, &copy).says("leftovers", "note", &["copy.db-journal", "rolls it back"]);
}
