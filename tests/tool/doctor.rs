//! `pwal doctor`: each thing that it can find, made by hand; and that it changes nothing and disturbs nobody.

use super::{Output, command, contents, crashed, hold, library, log_id, rot, tool};
use crate::common::{Scratch, close, open_stock, open_wal, run};
use proptest::prelude::*;
use pwal::shared::{ALIVE_BYTE, CONTROL_NAME, Control, Identity, LOCK_NAME, LockFile, State, Words, now_us};
use serde_json::Value;
use std::fs::{self, File, Permissions};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

#[path = "../../src/bin/pwal/doctor/mount.rs"]
mod mount;
#[path = "../../src/bin/pwal/doctor/schema.rs"]
mod schema;

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
    fn says(&self, check: &str, verdict: &str, words: &[&str]) -> &Report {
        let fits = |found: &str| words.iter().all(|word| found.contains(word));
        let count = self.checks().filter(|(c, v, found)| (*c, *v) == (check, verdict) && fits(found)).count();
        assert_eq!(count, 1, "{check}: {verdict}: {words:?} in {:#}", self.said);
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

    fn signal(&self, signal: i32) {
        // SAFETY: the child is ours and was not waited for.
        assert_eq!(unsafe { libc::kill(libc::pid_t::try_from(self.pid()).expect("a pid"), signal) }, 0);
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A live engine's `lock` and `control`, made by hand, with the first `alive` process slots alive.
fn by_hand(path: &Path, alive: u64) -> (LockFile, Control) {
    let log = log_of(path);
    fs::create_dir(&log).expect("a directory");
    let lock = LockFile::open(&log.join(LOCK_NAME), 0o644).expect("a lock");
    assert!(lock.try_lock(ALIVE_BYTE..ALIVE_BYTE + alive).expect("locks"));
    let control = Control::create(&log.join(CONTROL_NAME), 0o644).expect("a control");
    control.words().set_identity(&identity(path));
    control.words().set_state(State::Ready);
    (lock, control)
}

fn identity(path: &Path) -> Identity {
    let file = fs::metadata(path).expect("a database");
    Identity { boot_id: 1, log_id: 2, device: file.dev(), inode: file.ino(), generation: 1, block_bytes: 4096 }
}

#[test]
fn a_closed_database_is_fine_and_the_text_says_it_in_lines() {
    let scratch = Scratch::new();
    let path = closed(&scratch, "app.db");
    let report = doctor(&scratch, &path);
    report.only(&[]);
    assert_eq!(report.said["verdict"], "ok");
    for (check, words) in [
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
        report.says(check, "ok", &[words]);
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
    let mut holder = hold(&path, 5);
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

#[cfg(target_os = "linux")]
#[test]
fn stock_connections_are_named() {
    let scratch = Scratch::new();
    let path = closed(&scratch, "app.db");
    // Not `doctor`: reading the file here would drop the locks of this process on it.
    let look = || ask(doctor_command(&scratch, &path));
    let own = std::process::id().to_string();
    let stock = open_stock(&path);
    run(&stock, "SELECT * FROM t");
    let report = look();
    report.says("other openers", "warn", &[&own, "until it closes it"]).only(&["other openers"]);
    run(&stock, "PRAGMA busy_timeout=0; INSERT INTO t VALUES(2)");
    look().says("leftovers", "note", &["app.db-wal", "in use by stock"]);
    run(&stock, "PRAGMA journal_mode=DELETE; PRAGMA locking_mode=EXCLUSIVE; BEGIN EXCLUSIVE; COMMIT");
    let report = look();
    report.says("other openers", "problem", &[&own, "EXCLUSIVE"]);
    run(&stock, "PRAGMA locking_mode=NORMAL; SELECT * FROM t");
    look().says("other openers", "note", &[&own, "rollback mode"]).only(&["journal mode"]);
    close(stock);
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

    fs::write(beside(&path, "-wal"), "x").expect("write");
    doctor(&scratch, &path).says("leftovers", "problem", &["app.db-wal", "beside a log"]);
    fs::remove_file(beside(&path, "-wal")).expect("remove");

    rot(&path, 3);
    doctor(&scratch, &path).says("log", "problem", &["damaged", "rule L3"]).only(&["log"]);
    fs::rename(log_of(&path), scratch.file("away")).expect("move");
    doctor(&scratch, &path).says("log", "problem", &["needs log", &log_id(&path)]).only(&["log"]);
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

/// What the words of a live engine say, one thing after the other.
#[test]
fn the_words_of_a_live_engine_are_read() {
    let scratch = Scratch::new();
    let path = closed(&scratch, "app.db");
    let (_lock, control) = by_hand(&path, 2);
    let words = control.words();
    doctor(&scratch, &path).says("processes", "note", &["not attached"]).only(&[]);

    let ago = |seconds: u64| now_us().saturating_sub(seconds * 1_000_000);
    let writer = words.attach(0, 4_000_001, "writer").expect("a slot");
    let waiter = words.attach(1, 4_000_002, "waiter").expect("a slot");
    let killed = words.attach(2, 4_000_003, "killed").expect("a slot");
    doctor(&scratch, &path)
        .says("processes", "ok", &["2 are attached", "4000001 (writer)", "4000002 (waiter)"])
        .says("processes", "note", &["4000003 (killed) was killed"])
        .only(&[]);
    assert!(words.write().try_acquire(writer, false));
    words.set_process_waiting(waiter, ago(30));
    let slot = words.claim_snapshot_slot(waiter).expect("a slot");
    assert!(words.take_snapshot(slot, 1, ago(600)));
    let slot = words.claim_snapshot_slot(killed).expect("a slot");
    assert!(words.take_snapshot(slot, 1, ago(20)));
    doctor(&scratch, &path)
        .says("processes", "warn", &["4000002 (waiter) waits to write", "4000001 (writer) writes"])
        .says("processes", "warn", &["4000002 (waiter) reads since 10 min"])
        .only(&["processes", "processes"]);
    words.set_process_waiting(waiter, ago(1));
    words.end_snapshot(slot);

    words.set_mode(1);
    doctor(&scratch, &path).says("engine", "ok", &["conservative"]);
    assert!(words.poison());
    doctor(&scratch, &path).says("engine", "problem", &["nobody can commit"]);
}

#[cfg(target_os = "linux")]
#[test]
fn a_stopped_process_is_told_and_worse_if_it_holds_what_others_need() {
    let scratch = Scratch::new();
    let path = closed(&scratch, "app.db");
    let (_lock, control) = by_hand(&path, 1);
    let process = Open::new(&path);
    let words: &Words = control.words();
    let me = words.attach(0, process.pid(), "sleeper").expect("a slot");
    let pid = process.pid().to_string();
    process.signal(libc::SIGSTOP);
    let stopped = || fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains(") T "));
    crate::wait_until(stopped);
    doctor(&scratch, &path).says("processes", "warn", &[&pid, "is stopped"]);
    assert!(words.write().try_acquire(me, false));
    doctor(&scratch, &path).says("processes", "problem", &[&pid, "holds WRITE"]);
    process.signal(libc::SIGCONT);
    crate::wait_until(|| !stopped());
    doctor(&scratch, &path).says("processes", "ok", &["1 is attached"]);
}

#[test]
fn a_control_of_another_version_or_file_is_told() {
    let scratch = Scratch::new();
    let path = closed(&scratch, "app.db");
    let (lock, control) = by_hand(&path, 1);
    assert!(control.words().attach(0, 4_000_001, "it").is_some());
    control.words().set_identity(&Identity { inode: 1, ..identity(&path) });
    doctor(&scratch, &path).says("control", "problem", &["another file"]).only(&["control"]);
    let file = File::options().write(true).open(log_of(&path).join(CONTROL_NAME)).expect("open");
    file.write_all_at(&99u64.to_ne_bytes(), 8).expect("write");
    doctor(&scratch, &path).says("control", "problem", &["another version", "layout version 99"]).only(&["control"]);
    drop(lock);
    doctor(&scratch, &path).says("control", "note", &["another version"]).only(&[]);
    control.words().set_identity(&identity(&path));
    if cfg!(target_os = "linux") {
        doctor(&scratch, &path).says("control", "note", &["another boot"]).only(&[]);
    }
}

#[test]
fn traces_of_litestream_are_found() {
    let scratch = Scratch::new();
    let path = closed(&scratch, "app.db");
    let stock = open_stock(&path);
    // So many tables that the schema has several levels.
    for table in 0..400 {
        run(&stock, &format!("CREATE TABLE a_table_with_a_long_name_{table}(x, y, z, {})", "w".repeat(200)));
    }
    run(&stock, "CREATE TABLE _litestream_seq(id INTEGER PRIMARY KEY, seq INTEGER); DROP TABLE _litestream_seq");
    run(&stock, "CREATE TABLE t2(x DEFAULT '_litestream_seq'); CREATE VIEW _litestream_lock AS SELECT 1");
    let mut wanted = crate::common::rows(&stock, "SELECT name FROM sqlite_schema WHERE type='table'").expect("names");
    close(stock);
    wanted.sort();
    let header = fs::read(&path).expect("read");
    let mut names = schema::tables(&File::open(&path).expect("open"), &header).expect("a schema");
    names.sort();
    assert_eq!(names, wanted);
    doctor(&scratch, &path).says("litestream", "ok", &[]).only(&[]);
    let stock = open_stock(&path);
    run(&stock, "DROP VIEW _litestream_lock; CREATE TABLE _litestream_lock(id INTEGER)");
    close(stock);
    doctor(&scratch, &path).says("litestream", "warn", &["table _litestream_lock"]).only(&["litestream"]);

    let other = closed(&scratch, "other.db");
    fs::create_dir(scratch.file(".other.db-litestream")).expect("a directory");
    doctor(&scratch, &other).says("litestream", "warn", &[".other.db-litestream"]).only(&["litestream"]);
    if cfg!(target_os = "linux") {
        let file = File::open(&other).expect("open");
        let mut running = Command::new("/bin/sleep");
        let running = running.arg0("litestream replicate").arg("600").stdin(file).spawn().expect("sleep starts");
        let running = Open(running);
        crate::wait_until(|| {
            fs::read(format!("/proc/{}/cmdline", running.pid())).is_ok_and(|line| line.starts_with(b"litestream"))
        });
        doctor(&scratch, &other).says("litestream", "problem", &[&running.pid().to_string()]);
    }
}

/// A database of small pages whose schema has two levels.
fn many_tables() -> &'static [u8] {
    static SOUND: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
    SOUND.get_or_init(|| {
        let scratch = Scratch::new();
        let path = scratch.file("app.db");
        let stock = open_stock(&path);
        run(&stock, "PRAGMA page_size=512");
        for table in 0..60 {
            run(&stock, &format!("CREATE TABLE table_{table}(x, y, z)"));
        }
        close(stock);
        fs::read(&path).expect("read")
    })
}

fn tables_of(bytes: &[u8]) -> Option<usize> {
    let scratch = Scratch::in_memory();
    let path = scratch.file("any.db");
    fs::write(&path, bytes).expect("write");
    schema::tables(&File::open(&path).expect("open"), &bytes[..100]).map(|names| names.len())
}

#[test]
fn a_schema_that_makes_no_sense_has_no_answer() {
    let sound = many_tables();
    assert_eq!(tables_of(sound), Some(60));
    let changed = |at: usize, bytes: &[u8]| {
        let mut all = sound.to_vec();
        all[at..at + bytes.len()].copy_from_slice(bytes);
        tables_of(&all)
    };
    // The right-most child of the root, in the header of the b-tree page behind that of the database.
    for child in [0, 1, 1 << 30, u32::MAX] {
        assert_eq!(changed(108, &child.to_be_bytes()), None, "{child}");
    }
    assert_eq!(changed(100, &[2]), None, "an index");
    assert_eq!(changed(103, &[0xff, 0xff]), None, "more cells than the page has");
    assert_eq!(changed(16, &[0, 3]), None, "no page size");
    assert_eq!(tables_of(&sound[..700]), None, "a file that ends early");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whatever the bytes are, the walk ends, with or without an answer.
    #[test]
    fn a_schema_of_any_bytes_is_walked_to_an_end(changes in prop::collection::vec((0usize..16384, any::<u8>()), 1..40)) {
        let mut bytes = many_tables().to_vec();
        let length = bytes.len();
        for (at, byte) in changes {
            // The first page and the header most of all.
            bytes[if at % 3 == 0 { at % 600 } else { at % length }] = byte;
        }
        let tables = tables_of(&bytes);
        prop_assert!(tables.is_none_or(|tables| tables <= length), "{tables:?}");
    }
}

#[test]
fn permissions_that_keep_others_out_are_told() {
    let scratch = Scratch::new();
    let path = closed(&scratch, "app.db");
    let mode = |path: &Path, mode| fs::set_permissions(path, Permissions::from_mode(mode)).expect("chmod");
    mode(&path, 0o664);
    mode(scratch.path(), 0o755);
    doctor(&scratch, &path).says("permissions", "warn", &["group", "make no log"]).only(&["permissions"]);
    mode(scratch.path(), 0o775);
    doctor(&scratch, &path).only(&[]);
    let (lock, _control) = by_hand(&path, 1);
    mode(&log_of(&path), 0o775);
    mode(&log_of(&path).join(CONTROL_NAME), 0o664);
    mode(&log_of(&path).join(LOCK_NAME), 0o644);
    doctor(&scratch, &path).says("permissions", "warn", &["lock has mode 644, the database 664"]);
    mode(&log_of(&path).join(LOCK_NAME), 0o664);
    doctor(&scratch, &path).only(&[]);
    // Another owner or group can be made by root only.
    let is_root = fs::metadata(&path).expect("look").uid() == 0;
    if is_root {
        let own = |path: &Path, user, group| std::os::unix::fs::chown(path, user, group).expect("chown");
        own(&log_of(&path).join(LOCK_NAME), None, Some(12_345));
        doctor(&scratch, &path).says("permissions", "warn", &["has group 12345"]);
        own(&log_of(&path).join(LOCK_NAME), Some(12_345), Some(0));
        doctor(&scratch, &path).only(&[]);
        mode(&path, 0o644);
        doctor(&scratch, &path).says("permissions", "warn", &["belongs to user 12345"]);
    }
    drop(lock);
    fs::remove_dir_all(log_of(&path)).expect("remove");
    let other = scratch.file("other.db");
    fs::hard_link(&path, &other).expect("a link");
    doctor(&scratch, &path).says("permissions", "warn", &["2 names"]);
    fs::remove_file(&other).expect("remove");
    symlink(&path, &other).expect("a symlink");
    doctor(&scratch, &other).says("symlink", "note", &["other.db", "app.db"]).only(&[]);
}

/// As another user, which takes root to become.
#[test]
fn a_user_without_rights_is_told_what_it_may_not_do() {
    let scratch = Scratch::new();
    let path = closed(&scratch, "app.db");
    if fs::metadata(&path).expect("look").uid() != 0 {
        println!("not run: only root can run the tool as another user");
        return;
    }
    // The build may lie where nobody else may look.
    let tool = scratch.file("pwal");
    fs::copy(library::tool(), &tool).expect("copy");
    let mode = |path: &Path, mode| fs::set_permissions(path, Permissions::from_mode(mode)).expect("chmod");
    mode(scratch.path(), 0o755);
    let as_nobody = |path: &Path| {
        let mut command = Command::new(&tool);
        command.args(["doctor".as_ref(), "--json".as_ref(), path.as_os_str()]).env_clear().uid(65_534).gid(65_534);
        ask(command)
    };
    let report = as_nobody(&path);
    report.says("permissions", "warn", &["not write it"]).says("permissions", "problem", &["no files in"]);
    mode(&path, 0o600);
    let report = as_nobody(&path);
    report.says("permissions", "problem", &["may not read the database"]);
    // Nothing is claimed about what was not seen.
    assert!(
        report.checks().all(|(check, _, _)| !matches!(check, "database" | "journal mode" | "log")),
        "{:#}",
        report.said
    );
    mode(&path, 0o666);
    mode(scratch.path(), 0o777);
    fs::create_dir(log_of(&path)).expect("a directory");
    mode(&log_of(&path), 0o700);
    as_nobody(&path).says("permissions", "problem", &["may not look into", "app.db-pwal"]);
    if cfg!(target_os = "linux") {
        mode(&log_of(&path), 0o777);
        let _open = Open::new(&path);
        as_nobody(&path).says("other openers", "note", &["processes of other users"]);
    }
}

/// A program in a directory that is PATH for the tool.
fn program(directory: &Path, name: &str, script: &str) {
    fs::create_dir_all(directory).expect("a directory");
    let path = directory.join(name);
    fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("write");
    fs::set_permissions(&path, Permissions::from_mode(0o755)).expect("chmod");
}

#[test]
fn hosts_are_asked_and_judged() {
    let scratch = Scratch::new();
    let path = closed(&scratch, "app.db");
    let with = |name: &str, script: &str| {
        let place = scratch.file(&format!("{}-{name}", script.len()));
        program(&place, name, script);
        let mut command = doctor_command(&scratch, &path);
        command.env("PATH", &place);
        ask(command)
    };
    let old = with("sqlite3", "echo 3.31.1");
    old.says("sqlite", "warn", &["3.31.1", "older than 3.32"]).only(&["sqlite"]);
    let omits = with("sqlite3", "echo 3.45.0; echo OMIT_LOAD_EXTENSION");
    omits.says("sqlite", "warn", &["3.45.0", "without loading of extensions"]).only(&["sqlite"]);
    let single = with("sqlite3", "echo 3.45.0; echo THREADSAFE=0");
    single.says("sqlite", "warn", &["THREADSAFE=0"]).only(&["sqlite"]);
    let other = with("sqlite3", "case \"$*\" in *.load*) echo 0.0.7;; *) echo 3.45.0;; esac");
    other.says("sqlite", "warn", &["is pwal 0.0.7"]).only(&["sqlite"]);
    let refuses = with("sqlite3", "case \"$*\" in *.load*) echo no such symbol >&2; exit 1;; *) echo 3.45.0;; esac");
    refuses.says("sqlite", "warn", &["does not load", "no such symbol"]).only(&["sqlite"]);
    with("sqlite3", "echo broken >&2; exit 7").says("sqlite", "note", &["cannot be asked: broken"]).only(&[]);
    with("python3", "echo '{\"version\":\"3.40.1\",\"options\":[],\"loads\":false}'")
        .says("sqlite", "warn", &["3.40.1", "without loading"])
        .only(&["sqlite"]);
    with("python3", "echo Traceback >&2; exit 1").says("sqlite", "note", &["cannot be asked: Traceback"]).only(&[]);
    with("python3", "echo '[}'").says("sqlite", "note", &["no JSON"]).only(&[]);
}

/// The real ones: `PWAL_TEST_SQLITE3` and `PWAL_TEST_PYTHON3` name others than those in `/usr/bin`.
#[test]
fn the_hosts_that_are_here_load_the_library() {
    let scratch = Scratch::new();
    let path = closed(&scratch, "app.db");
    let place = scratch.file("bin");
    fs::create_dir(&place).expect("a directory");
    let real = |variable: &str, default: &str| std::env::var_os(variable).map_or(PathBuf::from(default), PathBuf::from);
    symlink(real("PWAL_TEST_SQLITE3", "/usr/bin/sqlite3"), place.join("sqlite3")).expect("a symlink");
    symlink(real("PWAL_TEST_PYTHON3", "/usr/bin/python3"), place.join("python3")).expect("a symlink");
    let mut command = doctor_command(&scratch, &path);
    command.env("PATH", &place);
    let before = contents(scratch.path());
    let report = ask(command);
    report.says("sqlite", "ok", &["bin/sqlite3: loads"]).says("sqlite", "ok", &["bin/python3: loads"]).only(&[]);
    assert_eq!(contents(scratch.path()), before);
}

#[test]
fn the_library_is_looked_for() {
    let scratch = Scratch::new();
    let path = closed(&scratch, "app.db");
    let place = scratch.file("tool");
    fs::create_dir(&place).expect("a directory");
    fs::copy(library::tool(), place.join("pwal")).expect("copy");
    let asked = |library: Option<&str>| {
        let mut command = Command::new(place.join("pwal"));
        command.args(["doctor".as_ref(), "--json".as_ref(), path.as_os_str()]).env_clear().current_dir(scratch.path());
        command.envs(library.map(|library| ("PWAL_LIBRARY", library)));
        ask(command)
    };
    let built = library::library();
    let name = built.file_name().expect("a name");
    asked(None).says("library", "warn", &["no libpwal", "beside this program"]).only(&["library"]);
    asked(Some("/nowhere/libpwal.so")).says("library", "problem", &["/nowhere/libpwal.so"]);
    fs::copy(&built, scratch.path().join(name)).expect("copy");
    asked(None).says("library", "ok", &["not beside this program"]).only(&[]);
    fs::copy(&built, place.join(name)).expect("copy");
    asked(None).says("library", "ok", &["tool/libpwal"]).only(&[]);
    fs::write(scratch.path().join(name), "an older one").expect("write");
    asked(None).says("library", "warn", &["differ"]).only(&["library"]);
}

#[test]
fn mounts_are_found_and_read() {
    let table = "\
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw,errors=remount-ro
30 22 0:26 / /srv ro,nosuid shared:5 - btrfs /dev/vdb rw,space_cache
31 30 0:27 / /srv/my\\040data rw - nfs4 server:/export rw,vers=4.2
32 30 0:28 / /srv/my\\040data rw - fuse.sshfs a:/b rw,barrier=0
not a line
";
    let find = |path: &str| mount::Mount::find(table, Path::new(path)).expect("a mount");
    assert_eq!((find("/home/app.db").kind.as_str(), find("/home/app.db").point.as_str()), ("ext4", "/"));
    assert_eq!(find("/srvs/app.db").kind, "ext4", "by whole names");
    assert_eq!(find("/srv/app.db").kind, "btrfs");
    assert_eq!(find("/srv/my data/app.db").kind, "fuse.sshfs", "the last hides the others");
    assert!(find("/srv/app.db").has("ro") && !find("/home/app.db").has("ro"), "an option as a whole");
    assert!(find("/srv/my data/app.db").has("barrier=0") && !find("/srv/app.db").has("space"));
    assert_eq!(mount::Mount::find("", Path::new("/app.db")), None);
    assert_eq!(mount::Mount::of(Path::new("/app.db")).is_some(), cfg!(target_os = "linux"));
}

/// Real mounts, in a mount namespace of their own, which takes root to make.
#[cfg(target_os = "linux")]
#[test]
fn file_systems_are_told_by_their_mounts() {
    let scratch = Scratch::new();
    let path = closed(&scratch, "app.db");
    let place = scratch.file("mounted");
    fs::create_dir(&place).expect("a directory");
    let tool = library::tool();
    let run = |mount: &str| {
        let script = format!(
            "set -e; cd {0}; {mount}; cp -f {1} mounted/app.db 2>/dev/null || true; exec {2} doctor --json mounted/app.db",
            scratch.path().display(),
            path.display(),
            tool.display()
        );
        let mut command = Command::new("unshare");
        command.env_remove("PWAL_VERSION").args(["-m", "sh", "-c", &script]).env("PWAL_LIBRARY", library::library());
        Output::of(command.output().expect("unshare starts"))
    };
    let tmpfs = run("mount -t tmpfs -o size=2m none mounted");
    if !tmpfs.stdout.starts_with('{') {
        println!("not run: no mounts can be made here: {}", tmpfs.stderr);
        return;
    }
    Report::of(tmpfs).says("file system", "warn", &["tmpfs", "memory"]).says("free space", "problem", &["MiB free"]);
    let read_only =
        run(&format!("cp {} mounted/; mount --bind mounted mounted; mount -o remount,ro,bind mounted", path.display()));
    Report::of(read_only).says("file system", "problem", &["mounted read-only"]);
    let files = run("mount -t tmpfs -o size=64m,nr_inodes=2 none mounted");
    Report::of(files).says("free space", "problem", &["no more files"]);
    let overlay = run(
        "mount -t tmpfs none mounted; mkdir mounted/l mounted/u mounted/w; mount -t overlay -o lowerdir=mounted/l,upperdir=mounted/u,workdir=mounted/w none mounted",
    );
    if overlay.stdout.starts_with('{') {
        Report::of(overlay).says("file system", "warn", &["overlay", "goes with the container"]);
    }
}
