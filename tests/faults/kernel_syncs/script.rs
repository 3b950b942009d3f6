//! The lives of the recorded processes: all that pwal does to a database and its log, step by step.

use super::history::{digest, statements};
use super::recorder::{self, Failure, SPACE};
use rusqlite::Connection;
use std::cell::Cell;
use std::path::{Path, PathBuf};
use support::child;

/// The directory that is recorded, the file of records, the number of the first commit, the life.
pub const ROOT: &str = "PWAL_TEST_ROOT";
pub const RECORDS: &str = "PWAL_TEST_RECORDS";
pub const FIRST: &str = "PWAL_TEST_FIRST";
pub const LIFE: &str = "PWAL_TEST_LIFE";

/// The database in the directory.
pub const DATABASE: &str = "app.db";

/// Small segments, so that they are changed often.
const SETTINGS: &str = "PRAGMA parallel_wal_segment_bytes=262144; PRAGMA wal_autocheckpoint=0";

struct Life {
    path: PathBuf,
    connection: Connection,
    next: Cell<u64>,
}

/// Plays the life that the environment names, recorded.
pub fn play() {
    let root = PathBuf::from(child::setting(ROOT));
    if let Err(error) = recorder::start(&root, child::setting(RECORDS).as_ref()) {
        panic!(
            "system calls cannot be recorded here: {error}. This test needs Linux 5.5 and a sandbox (container, systemd) that \
             permits seccomp(2) with a filter and user notification, as the usual ones do; no privileges"
        );
    }
    let name = child::setting(LIFE);
    recorder::mark(&format!("life {name}"));
    let path = root.join(DATABASE);
    match name.as_str() {
        "modes" => modes(&path),
        "seldom synced" => seldom_synced(&path),
        "created" => created(&path),
        "written and killed" => written_and_killed(&path),
        "opened" => opened(&path),
        "log moved" => log_moved(&path),
        "rested" => rested(&path),
        "idle" => idle(&path),
        "alone" => alone(&path),
        "everything" => everything(&path),
        "survives" => survives(&path),
        "dies beside" => dies_beside(&path, false),
        "makes a segment" => dies_beside(&path, true),
        "salvaged" => salvaged(&path),
        "checkpointed" => checkpointed(&path),
        "rollback journal" => rollback_journal(&path, "DELETE"),
        "persistent journal" => rollback_journal(&path, "PERSIST"),
        "journal begun" => journal_begun(&path),
        "stock's log" => stock(&path, false),
        "stock's journal" => stock(&path, true),
        "stock's empty log" => emptied(&path),
        "failed sync" => failed(&path, Failure::BatchSync),
        "failed write" => failed(&path, Failure::BatchWrite),
        other => panic!("no life is called {other}"),
    }
}

impl Life {
    fn on(path: &Path, connection: Connection) -> Life {
        let next = child::setting(FIRST).parse().expect("a number");
        Life { path: path.to_owned(), connection, next: Cell::new(next) }
    }

    /// Through pwal: what an earlier life left is settled by the first read.
    fn open(path: &Path) -> Life {
        let life = Life::on(path, support::open(path));
        life.run(SETTINGS);
        recorder::mark(&format!("found {}", digest(&life.connection).expect("read")));
        life
    }

    fn run(&self, sql: &str) {
        support::run(&self.connection, sql);
    }

    /// One commit over so many pages; 0: the tables.
    fn commit(&self, pages: u64) {
        assert_eq!(self.try_commit(pages), 0, "a commit");
    }

    /// Its result code.
    fn try_commit(&self, pages: u64) -> i32 {
        let number = self.next.get();
        self.next.set(number + 1);
        let synchronous = support::number(&self.connection, "PRAGMA synchronous");
        // Without WAL mode only EXTRA makes the end of a journal durable (`sqlite3PagerSetFlags`).
        let is_wal = support::text(&self.connection, "PRAGMA journal_mode") == "wal";
        let promise = if synchronous == 3 || synchronous == 2 && is_wal { "durable" } else { "ordered" };
        recorder::mark(&format!("begin {number} {pages} {promise}"));
        let code =
            support::code_of(&self.connection, &format!("BEGIN IMMEDIATE; {}; COMMIT", statements(number, pages)));
        recorder::mark(if code == 0 { "acknowledged" } else { "failed" });
        code
    }

    fn commits(&self, count: u64, pages: u64) {
        (0..count).for_each(|_| self.commit(pages));
    }

    /// All of it is in the database file.
    fn checkpoint(&self, how: &str) {
        let told = support::text(&self.connection, &format!("PRAGMA wal_checkpoint({how})"));
        let numbers: Vec<&str> = told.split('|').collect();
        assert!(numbers[0] == "0" && numbers[1] == numbers[2], "wal_checkpoint({how}): {told}");
        recorder::mark("durable");
    }

    fn close(self) {
        support::close(self.connection);
        recorder::mark("durable");
        let mut beside = support::beside(&self.path);
        // The shared memory of a stock SQLite that was killed stays until its next close, a journal that it had begun until it
        // writes the next, and a log that was salvaged until it is deleted.
        beside
            .retain(|name| !name.ends_with("-shm") && !name.ends_with("-journal") && !name.contains("-pwal.salvaged-"));
        assert_eq!(beside, Vec::<String>::new());
    }
}

/// A new database, and every way to commit and to checkpoint.
fn modes(path: &Path) {
    let life = Life::on(path, support::open(path));
    life.run("PRAGMA journal_mode=WAL");
    life.run(SETTINGS);
    life.commit(0);
    for mode in ["auto", "conservative"] {
        for synchronous in ["FULL", "NORMAL", "EXTRA", "OFF", "NORMAL"] {
            life.run(&format!("PRAGMA parallel_wal_mode={mode}; PRAGMA synchronous={synchronous}"));
            life.commits(2, 1);
        }
    }
    for (mode, synchronous) in [("conservative", "FULL"), ("auto", "FULL"), ("auto", "NORMAL")] {
        life.run(&format!("PRAGMA parallel_wal_mode={mode}; PRAGMA synchronous={synchronous}"));
        life.commits(7, 12);
    }
    life.checkpoint("PASSIVE");
    life.commits(3, 12);
    life.run("PRAGMA synchronous=FULL");
    life.commits(12, 12);
    life.checkpoint("FULL");
    life.commits(8, 12);
    // Outgrows its lane: images in a file of their own.
    life.run("PRAGMA parallel_wal_max_batch_bytes=65536");
    for synchronous in ["FULL", "NORMAL"] {
        life.run(&format!("PRAGMA synchronous={synchronous}"));
        life.commits(2, 30);
    }
    life.commits(2, 2);
    life.checkpoint("TRUNCATE");
    life.commits(2, 2);
    life.close();
}

/// Segments are allocated, and then commits wait for their syncs.
fn seldom_synced(path: &Path) {
    let life = Life::on(path, support::open(path));
    life.run("PRAGMA journal_mode=WAL");
    life.run(SETTINGS);
    life.run("PRAGMA synchronous=NORMAL");
    life.commit(0);
    life.commits(16, 12);
    life.run("PRAGMA synchronous=FULL");
    life.commits(4, 12);
    life.checkpoint("FULL");
    life.commits(2, 12);
    life.close();
}

/// A new database with a few rows.
fn created(path: &Path) {
    let life = Life::on(path, support::open(path));
    life.run("PRAGMA journal_mode=WAL");
    life.commit(0);
    life.commit(30);
    life.commit(30);
    life.close();
}

/// Nothing is said of the end.
fn written_and_killed(path: &Path) {
    let life = Life::open(path);
    life.commits(3, 12);
    life.checkpoint("PASSIVE");
    life.run("PRAGMA synchronous=NORMAL; PRAGMA parallel_wal_max_batch_bytes=65536");
    life.commit(25);
    life.commits(4, 3);
    life.run("PRAGMA synchronous=FULL");
    life.commits(2, 1);
    life.run("PRAGMA synchronous=NORMAL");
    life.commits(3, 1);
    recorder::kill();
}

/// A little of everything that a process alone can do, for those that die at some place in it.
fn everything(path: &Path) {
    let life = Life::open(path);
    life.run("PRAGMA journal_mode=WAL");
    for mode in ["conservative", "auto"] {
        life.run(&format!("PRAGMA parallel_wal_mode={mode}"));
        life.commit(1);
    }
    life.commits(8, 12);
    life.run("PRAGMA synchronous=NORMAL");
    life.commits(6, 12);
    life.checkpoint("TRUNCATE");
    life.commit(2);
    assert_eq!(support::text(&life.connection, "SELECT pwal_retire()"), "retired");
    recorder::mark("durable");
    life.commits(2, 1);
    life.close();
}

/// Two processes have the database: this one goes on when the other has died, which its parent says.
fn survives(path: &Path) {
    let life = Life::open(path);
    life.commit(1);
    child::report("ready");
    let pages = child::command().and_then(|pages| pages.parse().ok()).expect("the size of the next commit");
    recorder::mark("goes on");
    // As who writes: what is published, and perhaps not durable.
    life.run("BEGIN IMMEDIATE");
    recorder::mark(&format!("saw {}", digest(&life.connection).expect("read")));
    life.run("ROLLBACK");
    // It may have died in a commit, whose number is used.
    life.next.set(life.next.get() + 100);
    life.commits(2, pages);
    life.commits(6, 12);
    life.run("PRAGMA synchronous=NORMAL");
    life.commits(6, 12);
    life.checkpoint("TRUNCATE");
    life.close();
}

/// The other one: dies where it makes a segment ahead of need, or at the place that the environment names.
fn dies_beside(path: &Path, makes_segment: bool) {
    let life = Life::open(path);
    if makes_segment {
        recorder::fail(Failure::Death(SPACE));
    }
    life.commits(10, 12);
    unreachable!("it dies");
}

/// Killed when the log has nothing to replay: of segments that are not needed some are there, and later ones are not.
fn checkpointed(path: &Path) {
    let life = Life::open(path);
    for _ in 0..3 {
        life.commits(11, 12);
        life.checkpoint("FULL");
    }
    life.checkpoint("TRUNCATE");
    recorder::kill();
}

/// What was damaged is saved as far as it is valid.
fn salvaged(path: &Path) {
    assert!(pwal::recover(path).is_err(), "it is damaged");
    let report = pwal::salvage(path).expect("a salvage");
    assert_eq!(report.moved_to.len(), 1, "{report:?}");
}

/// As a program that does one thing.
fn opened(path: &Path) {
    let life = Life::open(path);
    life.run("PRAGMA journal_mode=WAL");
    life.commit(1);
    life.close();
}

/// Somebody takes the log directory away, and puts it back before anybody opens the database.
fn log_moved(path: &Path) {
    let log = PathBuf::from(format!("{}-pwal", path.display()));
    let away = path.with_file_name("away");
    std::fs::rename(&log, &away).expect("move the log directory");
    std::fs::rename(&away, &log).expect("move it back");
}

/// The log is retired with the connection open, twice, and made anew.
fn rested(path: &Path) {
    let life = Life::open(path);
    for synchronous in ["FULL", "NORMAL"] {
        life.run(&format!("PRAGMA synchronous={synchronous}"));
        life.commits(2, 3);
        assert_eq!(support::text(&life.connection, "SELECT pwal_retire()"), "retired");
        recorder::mark("durable");
    }
    life.commits(3, 1);
    recorder::kill();
}

/// By itself, when nobody commits.
fn idle(path: &Path) {
    let life = Life::open(path);
    life.run("PRAGMA parallel_wal_idle_retire_ms=1; PRAGMA wal_autocheckpoint=1000");
    life.commits(2, 3);
    let directory = PathBuf::from(format!("{}-pwal", path.display()));
    let has_slots = || {
        let names = std::fs::read_dir(&directory).expect("the log directory").map(|entry| entry.expect("an entry"));
        names.into_iter().any(|entry| entry.file_name().to_string_lossy().ends_with(".seg"))
    };
    let began = std::time::Instant::now();
    while has_slots() {
        assert!(began.elapsed() < std::time::Duration::from_secs(60), "the log is not retired");
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    life.commit(1);
    life.close();
}

fn is_on_log(life: &Life) -> bool {
    support::lab::status(&life.connection, "active") == true
}

/// In `locking_mode=EXCLUSIVE`, with a WAL that was open before, and back: what SQLite has put into its own `-wal` goes to the
/// database file.
fn alone(path: &Path) {
    let life = Life::open(path);
    for synchronous in ["NORMAL", "FULL"] {
        life.commits(2, 2);
        life.run(&format!("PRAGMA locking_mode=EXCLUSIVE; PRAGMA synchronous={synchronous}"));
        life.commits(3, 4);
        assert!(!is_on_log(&life), "not alone");
        life.run("PRAGMA synchronous=NORMAL");
        life.commits(2, 2);
        // With the end of the next transaction.
        life.run("PRAGMA locking_mode=NORMAL");
        life.commit(1);
        assert!(is_on_log(&life), "still alone");
    }
    life.close();
}

/// Out of WAL mode and back.
fn rollback_journal(path: &Path, mode: &str) {
    let life = Life::open(path);
    life.commit(2);
    life.run(&format!("PRAGMA journal_mode={mode}; PRAGMA synchronous=EXTRA"));
    recorder::mark("durable");
    life.commits(3, 2);
    life.run("PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL");
    life.commits(2, 2);
    recorder::kill();
}

/// Stock SQLite is killed, with a log of its own or in the middle of a transaction.
fn stock(path: &Path, in_rollback_mode: bool) {
    let life = Life::on(path, support::open_stock(path));
    if in_rollback_mode {
        life.run("PRAGMA journal_mode=DELETE; PRAGMA synchronous=EXTRA");
        life.commit(2);
        life.run("PRAGMA journal_mode=WAL; PRAGMA wal_autocheckpoint=0; PRAGMA synchronous=NORMAL");
        life.commit(2);
        life.run("PRAGMA journal_mode=DELETE; PRAGMA cache_size=2; BEGIN; UPDATE t SET x=x||'lost'");
    } else {
        life.run("PRAGMA wal_autocheckpoint=0; PRAGMA synchronous=FULL");
        life.commits(2, 2);
        life.run("PRAGMA synchronous=NORMAL");
        life.commits(2, 2);
    }
    recorder::kill();
}

/// Stock SQLite is killed with an empty log, which had pages before.
fn emptied(path: &Path) {
    let life = Life::on(path, support::open_stock(path));
    life.run("PRAGMA wal_autocheckpoint=0; PRAGMA synchronous=FULL");
    life.commits(2, 2);
    life.run("PRAGMA wal_checkpoint(TRUNCATE)");
    recorder::kill();
}

/// Stock SQLite is killed when it has begun to leave WAL mode: the journal is no hot one, and stays.
fn journal_begun(path: &Path) {
    let life = Life::on(path, support::open_stock(path));
    recorder::fail(Failure::Death("-journal"));
    life.run("PRAGMA journal_mode=DELETE");
    unreachable!("it writes to a journal");
}

/// A commit that is answered with an error never comes back.
fn failed(path: &Path, failure: Failure) {
    let life = Life::open(path);
    life.run("PRAGMA synchronous=FULL");
    life.commits(2, 2);
    life.run("PRAGMA synchronous=NORMAL");
    life.commit(1);
    life.run("PRAGMA synchronous=FULL");
    recorder::fail(failure);
    assert_ne!(life.try_commit(2), 0, "a failure was planned");
    life.try_commit(1);
    recorder::kill();
}
