//! A process that is stopped (SIGSTOP, a frozen container, a debugger) at each step at which it holds something of what all
//! share: the others go on, or get `SQLITE_BUSY`, in bounded time; and when it goes on, nothing that was acknowledged is missing.
//!
//! Steps are the fault points of `src/shared/fault_point.rs` (builds with debug assertions only). What a process holds for
//! microseconds only is taken for it by the test, in the control block.
#![cfg(debug_assertions)]

use pwal::internal::disk::Directory;
use pwal::internal::shared::{ControlBlock, ControlMapping, Owner, OwnerLock};
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
    fn takes(&self, which: fn(&ControlBlock) -> &OwnerLock) {
        let start = Instant::now();
        while !which(self.mapping.control()).try_acquire(self.owner, false) {
            assert!(start.elapsed() < BUSY, "somebody keeps the word");
            std::thread::yield_now();
        }
    }

    fn goes_on(&self, which: fn(&ControlBlock) -> &OwnerLock) {
        assert!(which(self.mapping.control()).release(self.owner));
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
fn is_busy_before_publication(mode: &str, name: &str, which: fn(&ControlBlock) -> &OwnerLock, bytes: [u32; 2]) {
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

    stopped.takes(which);
    commit_is_busy(&connection, &insert, || stopped.goes_on(which));
    assert_eq!((support::number(&connection, COUNT), reader.run(COUNT).as_str()), (5, "5"));
    let insert = larger;

    // Without BEGIN it is rolled back, as by stock SQLite.
    stopped.takes(which);
    let code = within(BUSY, "INSERT", || support::code_of(&connection, &insert));
    assert_eq!(code & 0xff, ffi::SQLITE_BUSY, "{name}");
    assert_eq!(within(FINISHED, "SELECT", || reader.run(COUNT)), "5");
    // And rolled back by hand.
    support::run(&connection, "BEGIN");
    support::run(&connection, &insert);
    assert_eq!(within(BUSY, "COMMIT", || support::code_of(&connection, "COMMIT")) & 0xff, ffi::SQLITE_BUSY);
    support::run(&connection, "ROLLBACK");
    assert_eq!(support::number(&connection, COUNT), 5);
    stopped.goes_on(which);
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
    is_busy_before_publication("auto", "APPEND", ControlBlock::append, [1000, 1000]);
}

#[test]
fn so_it_is_in_conservative_mode() {
    is_busy_before_publication("conservative", "APPEND", ControlBlock::append, [1000, 1000]);
}

/// More than any segment has room for that is there.
#[test]
fn a_commit_that_needs_create_of_a_stopped_process_is_busy_and_can_be_repeated() {
    is_busy_before_publication("auto", "CREATE", ControlBlock::create, [100_000, 4_000_000]);
}

/// Whatever word a stopped process has: who closes does not wait for it, though its thread does.
#[test]
fn a_close_does_not_wait_for_a_stopped_process() {
    if !support::on_pwal() {
        return;
    }
    let control: [fn(&ControlBlock) -> &OwnerLock; 4] =
        [ControlBlock::leader, ControlBlock::append, ControlBlock::create, ControlBlock::checkpoint];
    for which in control {
        let (_scene, path) = scene("close beside a stopped process");
        let connection = support::open(&path);
        support::run(&connection, "PRAGMA synchronous=NORMAL");
        let mut other = Agent::on(&path);
        other.run(COUNT);
        support::run(&connection, "INSERT INTO t VALUES(1)");
        let stopped = Stopped::new(&path, &other);
        stopped.takes(which);
        // The engine's thread wants to bring it to the database file, and waits.
        std::thread::sleep(Duration::from_millis(800));
        within(FINISHED, "close", || support::close(connection));
        // LEADER may have been taken away from it.
        which(stopped.mapping.control()).release(stopped.owner);
        drop(stopped);
        assert_eq!(other.run(COUNT), "1");
        other.end();
        assert_left(&path, 1);
    }
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
