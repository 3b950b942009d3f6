//! A process that is stopped (SIGSTOP, a frozen container, a debugger) at each step at which it holds something of what all
//! share: the others go on, or get `SQLITE_BUSY`, in bounded time; and when it goes on, nothing that was acknowledged is missing.
//!
//! Steps are the fault points of `src/os/fault_point.rs` (builds with debug assertions only). What a process holds for
//! microseconds only is taken for it by the test, in the control block.
#![cfg(debug_assertions)]

use pwal::internal::disk::Directory;
use pwal::internal::shared::{ControlBlock, ControlMapping, Owner, OwnerLock, RESERVATIONS};
use rusqlite::{Connection, ffi};
use rustix::process::Signal;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};
use support::processes::agent::Agent;
use support::scene::{COUNT, scene};

/// A flush is taken from its leader after about a second; the machine may be busy.
const FINISHED: Duration = Duration::from_secs(8);
/// A wait before publication ends after about five.
const BUSY: Duration = Duration::from_secs(12);

#[track_caller]
fn within<T>(bound: Duration, what: &str, act: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let value = act();
    let took = start.elapsed();
    println!("{what}: {took:?}");
    assert!(took < bound, "{what} took {took:?}");
    value
}

#[track_caller]
fn assert_left(path: &Path, rows: i64) {
    support::assert_plain(path);
    let stock = support::open_stock(path);
    assert_eq!(support::number(&stock, "SELECT count(*) FROM t"), rows);
    support::assert_integrity(&stock);
    support::close(stock);
}

/// Stops itself at the point in its first commit.
fn stopped_at(path: &Path, point: &str) -> Agent {
    let mut agent = Agent::start_with(&[("PWAL_TEST_STOP_AT", point.to_owned())]);
    agent.open("c", path);
    agent.tell("c INSERT INTO t VALUES('of the stopped one')");
    agent.wait_stopped();
    agent
}

fn a_stopped_flush_is_finished(point: &str) {
    if !support::on_pwal() {
        return;
    }
    for synchronous in ["FULL", "NORMAL"] {
        let (_scene, path) = scene(&format!("stopped at {point}, {synchronous}"));
        let (mut other, mut leaves) = (Agent::on(&path), Agent::on(&path));
        for agent in [&mut other, &mut leaves] {
            agent.run(&format!("PRAGMA synchronous={synchronous}"));
            agent.run(COUNT);
        }
        let mut stopped = stopped_at(&path, point);

        within(FINISHED, "INSERT", || other.run("INSERT INTO t VALUES(1)"));
        // What lies behind the cut of the stopped one is in its place.
        assert_eq!(within(FINISHED, "SELECT behind it", || other.run(COUNT)), "2");
        other.run("BEGIN");
        other.run("INSERT INTO t VALUES(2)");
        within(FINISHED, "COMMIT", || other.run("COMMIT"));
        within(FINISHED, "a checkpoint", || other.run("PRAGMA wal_checkpoint"));
        within(FINISHED, "INSERT", || leaves.run("INSERT INTO t VALUES(3)"));
        within(FINISHED, "close", || leaves.close());
        leaves.end();
        for value in 4..30 {
            other.run(&format!("INSERT INTO t VALUES({value})"));
        }
        assert_eq!(other.run(COUNT), "30");

        stopped.signal(Signal::CONT);
        assert_eq!(stopped.answer(), "", "its commit is there, and it is told so");
        assert_eq!(stopped.run(COUNT), "30");
        assert_eq!(other.run("SELECT count(*) FROM t WHERE x = 'of the stopped one'"), "1");
        for agent in [&mut stopped, &mut other] {
            agent.run("INSERT INTO t VALUES('later')");
            assert_eq!(agent.run("PRAGMA integrity_check"), "ok");
        }
        stopped.end();
        other.end();
        assert_left(&path, 32);
    }
}

#[test]
fn stopped_with_a_cut_and_nothing_synced() {
    a_stopped_flush_is_finished("leading_uncertified");
}

#[test]
fn stopped_with_everything_synced() {
    a_stopped_flush_is_finished("sealing");
}

/// With WRITE, too: as an open transaction.
fn a_stopped_writer_keeps_writers_out(point: &str) {
    if !support::on_pwal() {
        return;
    }
    let (_scene, path) = scene(&format!("stopped at {point}"));
    let mut other = Agent::on(&path);
    other.run("INSERT INTO t VALUES(0)");
    let mut stopped = stopped_at(&path, point);
    other.ask("c .timeout 1000");
    assert_eq!(within(BUSY, "INSERT", || other.ask("c INSERT INTO t VALUES(1)")), "code 5");
    assert_eq!(within(FINISHED, "SELECT", || other.run(COUNT)), "1");
    within(BUSY, "close", || other.close());
    other.end();
    stopped.signal(Signal::CONT);
    assert_eq!(stopped.answer(), "");
    assert_eq!(stopped.run(COUNT), "2");
    stopped.end();
    assert_left(&path, 2);
}

#[test]
fn stopped_with_a_batch_that_is_not_published() {
    a_stopped_writer_keeps_writers_out("publish_before_store");
}

type Which = fn(&ControlBlock) -> &OwnerLock;

const CREATE: [Which; RESERVATIONS] = [
    |control| control.reservations().lock(0),
    |control| control.reservations().lock(1),
    |control| control.reservations().lock(2),
    |control| control.reservations().lock(3),
];

/// The control block of a database, and the place of another process in them.
struct Stopped {
    mapping: ControlMapping,
    owner: Owner,
}

impl Stopped {
    fn new(path: &Path, agent: &Agent) -> Stopped {
        let file = std::fs::metadata(path).expect("the database");
        let directory = Directory::open(&path.with_file_name("app.db-pwal")).expect("the log directory");
        let mapping = ControlMapping::open(&directory, file.dev(), file.ino()).expect("the words");
        let found = mapping.control().processes().find(|process| i64::from(process.pid) == i64::from(agent.pid()));
        let owner = found.expect("the agent is attached").owner;
        Stopped { mapping, owner }
    }

    /// As if it had been stopped with this word in its hands.
    fn takes(&self, locks: &[Which]) {
        let start = Instant::now();
        for which in locks {
            while !which(self.mapping.control()).try_acquire(self.owner, false) {
                assert!(start.elapsed() < BUSY, "another process keeps the word");
                std::thread::yield_now();
            }
        }
    }

    fn goes_on(&self, locks: &[Which]) {
        locks.iter().for_each(|which| assert!(which(self.mapping.control()).release(self.owner)));
    }
}

/// COMMIT is busy, and can be repeated.
#[track_caller]
fn commit_is_busy(connection: &Connection, insert: &str, go_on: impl FnOnce()) {
    support::run(connection, "BEGIN");
    support::run(connection, insert);
    let code = within(BUSY, "COMMIT", || support::code_of(connection, "COMMIT"));
    assert_eq!(code & 0xff, ffi::SQLITE_BUSY);
    assert!(!connection.is_autocommit(), "the transaction is open still");
    go_on();
    assert_eq!(support::code_of(connection, "COMMIT"), ffi::SQLITE_OK);
    assert!(connection.is_autocommit());
}

/// COMMIT, and a statement without BEGIN, while a stopped process has `which`; each statement inserts five rows of so many
/// bytes.
fn is_busy_before_publication(mode: &str, name: &str, locks: &[Which], bytes: [u32; 2]) {
    if !support::on_pwal() {
        return;
    }
    let [insert, larger] = bytes.map(|bytes| format!("INSERT INTO t SELECT zeroblob({bytes}) FROM five"));
    let (_scene, path) = scene(&format!("{name} of a stopped process, {mode}"));
    let connection = support::open(&path);
    support::run(&connection, &format!("PRAGMA parallel_wal_mode={mode}"));
    support::run(&connection, "PRAGMA wal_autocheckpoint=0; PRAGMA parallel_wal_max_batch_bytes=67108864");
    support::run(&connection, "CREATE TABLE five(x); INSERT INTO five VALUES(1),(2),(3),(4),(5)");
    let (mut other, mut reader) = (Agent::on(&path), Agent::on(&path));
    reader.run(COUNT);
    other.run(COUNT);
    let stopped = Stopped::new(&path, &other);

    stopped.takes(locks);
    commit_is_busy(&connection, &insert, || stopped.goes_on(locks));
    assert_eq!((support::number(&connection, COUNT), reader.run(COUNT).as_str()), (5, "5"));
    let insert = larger;

    // Without BEGIN it is rolled back, as by stock SQLite.
    stopped.takes(locks);
    let code = within(BUSY, "INSERT", || support::code_of(&connection, &insert));
    assert_eq!(code & 0xff, ffi::SQLITE_BUSY, "{name}");
    assert_eq!(within(FINISHED, "SELECT", || reader.run(COUNT)), "5");
    // And rolled back by hand.
    support::run(&connection, "BEGIN");
    support::run(&connection, &insert);
    assert_eq!(within(BUSY, "COMMIT", || support::code_of(&connection, "COMMIT")) & 0xff, ffi::SQLITE_BUSY);
    support::run(&connection, "ROLLBACK");
    assert_eq!(support::number(&connection, COUNT), 5);
    stopped.goes_on(locks);
    support::run(&connection, &insert);
    assert_eq!(support::number(&connection, COUNT), 10);
    support::assert_integrity(&connection);
    assert_eq!(reader.run(COUNT), "10");

    support::close(connection);
    reader.end();
    other.end();
    assert_left(&path, 10);
}

#[test]
fn a_commit_that_needs_append_of_a_stopped_process_is_busy_and_can_be_repeated() {
    is_busy_before_publication("auto", "APPEND", &[ControlBlock::append], [1000, 1000]);
}

#[test]
fn so_it_is_in_conservative_mode() {
    is_busy_before_publication("conservative", "APPEND", &[ControlBlock::append], [1000, 1000]);
}

/// Of a transaction in two databases under `conservative` the first one's batch is written, under its APPEND, when the second
/// one is refused. The transaction stays open, for as long as the application likes: nothing of the first database is kept
/// meanwhile that others need.
#[test]
fn a_commit_that_is_busy_in_one_of_two_databases_keeps_nothing_of_the_other() {
    if !support::on_pwal() {
        return;
    }
    let (scene, path) = scene("APPEND of a stopped process, in the second of two databases");
    let directory = scene.scratch.file("second");
    std::fs::create_dir(&directory).expect("a directory");
    let second = directory.join("app.db");
    support::scene::create(&second);
    let (mut beside_first, mut beside_second) = (Agent::on(&path), Agent::on(&second));
    for agent in [&mut beside_first, &mut beside_second] {
        agent.run(COUNT);
    }
    let connection = support::open(&path);
    support::run(&connection, &format!("ATTACH '{}' AS b", second.display()));
    for schema in ["main", "b"] {
        support::run(&connection, &format!("PRAGMA {schema}.parallel_wal_mode=conservative"));
        support::run(&connection, &format!("PRAGMA {schema}.synchronous=FULL; INSERT INTO {schema}.t VALUES(0)"));
    }
    let first = Stopped::new(&path, &beside_first);
    let stopped = Stopped::new(&second, &beside_second);

    stopped.takes(&[ControlBlock::append]);
    commit_is_busy(&connection, "INSERT INTO t VALUES(1); INSERT INTO b.t VALUES(1)", || {
        let control = first.mapping.control();
        // A worker may have one of them for a moment.
        let begin = Instant::now();
        while (control.append().holder(), control.leader().holder()) != (None, None) {
            assert!(begin.elapsed() < FINISHED, "the first database's APPEND or LEADER is kept");
            std::thread::yield_now();
        }
        within(FINISHED, "a checkpoint", || beside_first.run("PRAGMA wal_checkpoint"));
        assert_eq!(within(FINISHED, "SELECT", || beside_first.run(COUNT)), "1");
        stopped.goes_on(&[ControlBlock::append]);
    });
    assert_eq!((beside_first.run(COUNT), beside_second.run(COUNT)), ("2".to_owned(), "2".to_owned()));

    support::close(connection);
    beside_first.end();
    beside_second.end();
    assert_left(&path, 2);
    assert_left(&second, 2);
}

/// More than any segment has room for that is there, while stopped processes have all reservations.
#[test]
fn a_commit_that_needs_create_of_stopped_processes_is_busy_and_can_be_repeated() {
    is_busy_before_publication("auto", "CREATE", &CREATE, [100_000, 4_000_000]);
}

/// Whatever word a stopped process has: who closes does not wait for it, though its thread does.
#[test]
fn a_close_does_not_wait_for_a_stopped_process() {
    if !support::on_pwal() {
        return;
    }
    let others: [Which; 3] = [ControlBlock::leader, ControlBlock::append, ControlBlock::checkpoint];
    for locks in [&others[..1], &others[1..2], &others[2..], &CREATE] {
        let (_scene, path) = scene("close beside a stopped process");
        let connection = support::open(&path);
        support::run(&connection, "PRAGMA synchronous=NORMAL");
        let mut other = Agent::on(&path);
        other.run(COUNT);
        support::run(&connection, "INSERT INTO t VALUES(1)");
        let stopped = Stopped::new(&path, &other);
        stopped.takes(locks);
        // The engine's thread wants to bring it to the database file, and waits.
        std::thread::sleep(Duration::from_millis(800));
        within(FINISHED, "close", || support::close(connection));
        // LEADER may have been taken away from it.
        for which in locks {
            which(stopped.mapping.control()).release(stopped.owner);
        }
        drop(stopped);
        assert_eq!(other.run(COUNT), "1");
        other.end();
        assert_left(&path, 1);
    }
}

/// A process whose own thread is stopped while it fills a segment, which it makes ahead of need.
fn stopped_making(path: &Path, other: &mut Agent) -> Option<Agent> {
    let mut agent = Agent::start_with(&[("PWAL_TEST_STOP_AT", "making".to_owned())]);
    agent.open("c", path);
    agent.run("PRAGMA synchronous=NORMAL");
    agent.tell("c INSERT INTO t VALUES(zeroblob(100000))");
    agent.wait_stopped();
    let stopped = Stopped::new(path, &agent);
    let is_appending = stopped.mapping.control().append().holder() == Some(stopped.owner);
    other.ask("c .timeout 200");
    let is_writing = !other.ask("c BEGIN IMMEDIATE").is_empty();
    other.ask("c .timeout 10000");
    if !is_writing {
        other.run("ROLLBACK");
    }
    // Its other thread may be in the middle of the commit.
    if is_appending || is_writing {
        agent.kill()
    } else {
        return Some(agent);
    };
    None
}

fn segment_files(path: &Path) -> usize {
    let names = std::fs::read_dir(path.with_file_name("app.db-pwal")).expect("the log directory");
    names.filter(|name| name.as_ref().expect("a name").file_name().to_string_lossy().ends_with(".seg")).count()
}

/// Of segments of 256 KiB: each has room for two rows, so that a process that made none would wait with each second row.
fn another_makes_the_segment(synchronous: &str, then: fn(&mut Agent, Agent)) {
    if !support::on_pwal() {
        return;
    }
    let (_scene, path, mut other, stopped) = (0..20)
        .find_map(|_| {
            let (scene, path) = scene(&format!("stopped making a segment, {synchronous}"));
            let mut other = Agent::on(&path);
            let stopped = stopped_making(&path, &mut other)?;
            Some((scene, path, other, stopped))
        })
        .expect("it is always stopped in the middle of a commit");
    let (mut leaves, mut waits) = (Agent::on(&path), Agent::on(&path));
    for agent in [&mut other, &mut leaves, &mut waits] {
        agent.run(&format!("PRAGMA synchronous={synchronous}"));
        agent.run("PRAGMA parallel_wal_segment_bytes=262144");
        agent.run("PRAGMA wal_autocheckpoint=0");
        agent.run(COUNT);
    }
    let rows: i64 = other.run(COUNT).parse().expect("a number");
    waits.ask("c .timeout 100");

    within(FINISHED, "the first INSERTs", || {
        other.run("INSERT INTO t VALUES(zeroblob(100000))");
        other.tell("c INSERT INTO t VALUES(zeroblob(100000))");
        within(Duration::from_secs(4), "INSERT with a busy timeout", || waits.ask("c INSERT INTO t VALUES(NULL)"));
        assert_eq!(other.answer(), "");
    });
    waits.ask("c .timeout 10000");
    let rows = rows + 2 + i64::from(waits.run("SELECT count(*) FROM t WHERE x IS NULL") != "0");
    within(FINISHED, "60 INSERTs", || {
        for _ in 0..60 {
            other.run("INSERT INTO t VALUES(zeroblob(100000))");
        }
    });
    within(FINISHED, "a checkpoint", || other.run("PRAGMA wal_checkpoint(TRUNCATE)"));
    // The segment that is written, the next one, and that of the stopped process.
    assert!(segment_files(&path) <= 3, "{}", segment_files(&path));
    within(FINISHED, "close", || leaves.close());
    leaves.end();
    waits.end();
    assert_eq!(other.run(COUNT), (rows + 60).to_string());
    then(&mut other, stopped);
    for _ in 0..10 {
        other.run("INSERT INTO t VALUES(zeroblob(100000))");
    }
    other.run("PRAGMA wal_checkpoint(TRUNCATE)");
    assert!(segment_files(&path) <= 2, "{}", segment_files(&path));
    assert_eq!(other.run("PRAGMA integrity_check"), "ok");
    let left: i64 = other.run(COUNT).parse().expect("a number");
    other.end();
    assert_left(&path, left);
}

#[test]
fn a_segment_that_a_stopped_process_makes_is_made_by_another() {
    for synchronous in ["FULL", "NORMAL"] {
        another_makes_the_segment(synchronous, |other, mut stopped| {
            let before: i64 = other.run(COUNT).parse().expect("a number");
            stopped.signal(Signal::CONT);
            assert_eq!(stopped.answer(), "");
            for _ in 0..10 {
                stopped.run("INSERT INTO t VALUES(zeroblob(100000))");
            }
            assert_eq!(other.run(COUNT), (before + 10).to_string());
            stopped.end();
        });
    }
}

#[test]
fn a_segment_that_a_killed_process_was_making_is_deleted() {
    another_makes_the_segment("NORMAL", |_, stopped| {
        stopped.kill();
    });
}

/// A wait that a busy timeout covers is nobody's error: `sqlite3_log` is told nothing.
#[test]
fn a_wait_within_the_busy_timeout_is_no_warning() {
    let (_scene, path) = scene("a wait that ends well");
    let (mut writer, mut other) = (Agent::on(&path), Agent::on(&path));
    other.run(COUNT);
    writer.run("BEGIN IMMEDIATE");
    writer.run("INSERT INTO t VALUES(1)");
    other.log();
    other.tell("c INSERT INTO t VALUES(2)");
    std::thread::sleep(Duration::from_millis(1500));
    writer.run("COMMIT");
    assert_eq!(other.answer(), "");
    assert_eq!(other.log(), "");
    writer.end();
    other.end();
    assert_left(&path, 2);
}
