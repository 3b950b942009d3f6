//! What a transaction sees while commits of others wait for their flush: one that only reads sees what is durable and never
//! waits, one that writes begins with the newest state.
//!
//! The disk is held in the middle of a sync, as long as a test wants.

use pwal::internal::disk::Directory;
use pwal::internal::shared::ControlMapping;
use rusqlite::{Connection, ffi};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;
use support::Watchdog;
use support::lab::{Call, Lab};

/// The syncs of the log wait while it is shut.
#[derive(Default)]
struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    fn of(lab: &Lab) -> Gate {
        let gate = Gate::default();
        let hooked = Arc::clone(&gate.0);
        lab.hook(move |moment| {
            if moment.call == Call::Sync && moment.name.ends_with(".seg") && !moment.done {
                let (shut, changed) = &*hooked;
                drop(changed.wait_while(shut.lock().unwrap(), |shut| *shut).unwrap());
            }
            Ok(())
        });
        gate
    }

    fn set(&self, shut: bool) {
        *self.0.0.lock().unwrap() = shut;
        self.0.1.notify_all();
    }
}

fn status(connection: &Connection, field: &str) -> u64 {
    let json: String = connection.query_row("PRAGMA parallel_wal_status", [], |row| row.get(0)).unwrap();
    let status: serde_json::Value = serde_json::from_str(&json).unwrap();
    status[field].as_u64().unwrap_or_else(|| panic!("{field} in {status}"))
}

/// It opens when a test ends in whatever way: connections close behind it.
impl Drop for Gate {
    fn drop(&mut self) {
        self.set(false);
    }
}

/// A database with one row, and a commit of a second one that waits for the gate.
struct Held {
    lab: Lab,
    gate: Gate,
    writer: Option<JoinHandle<()>>,
    _watchdog: Watchdog,
}

impl Held {
    /// `prepare` makes connections and what they do before.
    fn new<T>(prepare: impl FnOnce(&Lab) -> T) -> (T, Held) {
        let lab = Lab::new();
        let first = lab.wal();
        support::run(&first, "CREATE TABLE t(x); CREATE TABLE u(x); INSERT INTO t VALUES(1)");
        let (prepared, connection) = (prepare(&lab), lab.wal());
        let gate = Gate::of(&lab);
        gate.set(true);
        let _watchdog = Watchdog::new("a transaction beside a flush that is held", Duration::from_secs(60));
        let before = status(&first, "published");
        let writer = std::thread::spawn(move || support::run(&connection, "INSERT INTO t VALUES(2)"));
        let log = Directory::open(&lab.path().with_file_name("a.db-pwal")).unwrap();
        let observed = ControlMapping::open_read_only(&log).unwrap();
        // It lets go of WRITE after it has published.
        while status(&first, "published") == before || observed.control().holders()[0].is_some() {
            std::thread::yield_now();
        }
        assert_eq!(status(&first, "visible"), before);
        (prepared, Held { lab, gate, writer: Some(writer), _watchdog })
    }

    fn release(&mut self) {
        self.gate.set(false);
        self.writer.take().unwrap().join().unwrap();
    }
}

const COUNT: &str = "SELECT count(*) FROM t";

fn count(connection: &Connection) -> i64 {
    support::number(connection, COUNT)
}

#[test]
fn a_transaction_that_only_reads_sees_what_is_durable_and_does_not_wait() {
    let (connections, mut held) = Held::new(|lab| {
        let of = |before: &str| {
            let connection = lab.wal();
            support::run(&connection, before);
            connection
        };
        [
            of(""),
            of("SELECT * FROM t"),
            of("INSERT INTO u VALUES(1)"),
            of("PRAGMA synchronous=NORMAL; INSERT INTO u VALUES(1)"),
            of("BEGIN; INSERT INTO u VALUES(1); COMMIT"),
            of("BEGIN IMMEDIATE; COMMIT"),
            of("BEGIN IMMEDIATE; INSERT INTO u VALUES(1); ROLLBACK"),
            of("BEGIN; SELECT * FROM t; INSERT INTO u VALUES(1); COMMIT"),
            of("SAVEPOINT s; SELECT * FROM t; INSERT INTO u VALUES(1); RELEASE s"),
            // Its transactions were brief: those that write get the newest state, with WRITE as a grant.
            of(&format!(
                "PRAGMA parallel_wal_writers=concurrent; SELECT * FROM t; {}",
                "BEGIN; INSERT INTO u VALUES(1); COMMIT;".repeat(40)
            )),
        ]
    });
    let fresh = held.lab.wal();
    for (number, connection) in connections.iter().chain([&fresh]).enumerate() {
        for (begin, end) in [("BEGIN", "COMMIT"), ("", ""), ("SAVEPOINT r", "RELEASE r"), ("BEGIN", "ROLLBACK")] {
            support::run(connection, begin);
            assert_eq!(count(connection), 1, "{number}: {begin}");
            assert_eq!(support::text(connection, "SELECT name FROM sqlite_schema"), "t u");
            support::run(connection, end);
        }
    }
    held.release();
    assert!(connections.iter().all(|connection| count(connection) == 2));
}

#[test]
fn an_interrupted_reader_does_not_wait() {
    let (reader, mut held) = Held::new(|lab| lab.wal());
    let interrupt = reader.get_interrupt_handle();
    {
        let mut statement = reader.prepare("SELECT a.x FROM t a, sqlite_schema").unwrap();
        let mut rows = statement.query([]).unwrap();
        assert!(rows.next().unwrap().is_some());
        interrupt.interrupt();
        assert!(rows.next().is_err());
    }
    assert_eq!(count(&reader), 1);
    held.release();
}

#[test]
fn a_transaction_that_writes_first_begins_with_the_newest_state() {
    for begin in ["BEGIN; INSERT INTO u SELECT count(*) FROM t", "BEGIN IMMEDIATE"] {
        let (writer, mut held) = Held::new(|lab| lab.wal());
        support::run(&writer, begin);
        assert_eq!(count(&writer), 2);
        let end = std::thread::spawn(move || {
            support::run(&writer, "INSERT INTO u VALUES(1); COMMIT");
            writer
        });
        held.release();
        assert_eq!(count(&end.join().unwrap()), 2);
    }
}

/// A snapshot that is old from the start would make its write fail each time.
#[test]
fn a_transaction_that_reads_as_one_that_then_wrote_begins_with_the_newest_state() {
    let (connection, mut held) = Held::new(|lab| lab.wal());
    // Nobody has foretold it the first time.
    support::run(&connection, "BEGIN");
    assert_eq!(count(&connection), 1);
    assert_eq!(support::code_of(&connection, "INSERT INTO u VALUES(1)"), ffi::SQLITE_BUSY_SNAPSHOT);
    support::run(&connection, "ROLLBACK; BEGIN");
    assert_eq!(support::number(&connection, "SELECT count(*) FROM t -- another text"), 1);
    support::run(&connection, "COMMIT; BEGIN");
    assert_eq!(count(&connection), 2, "the same text");
    let end = std::thread::spawn(move || {
        support::run(&connection, "INSERT INTO u VALUES(1); COMMIT");
        connection
    });
    held.release();
    assert_eq!(count(&end.join().unwrap()), 2);
}

/// Whoever was refused WRITE had the newest state as its snapshot, and its next one is older: nothing has failed by that.
#[test]
fn a_read_behind_a_refused_write_works_while_the_flush_goes_on() {
    let attempts = [
        "INSERT INTO u VALUES(1)",
        "BEGIN IMMEDIATE",
        "BEGIN; INSERT INTO u VALUES(1)",
        "SAVEPOINT s; INSERT INTO u VALUES(1)",
        "CREATE TABLE v(x)",
        "PRAGMA user_version=7",
        "VACUUM",
    ];
    let ((holder, connections), mut held) = Held::new(|lab| (lab.wal(), attempts.map(|attempt| (attempt, lab.wal()))));
    support::run(&holder, "BEGIN IMMEDIATE");
    for (attempt, connection) in &connections {
        for begin in ["", "BEGIN"] {
            assert_eq!(support::code_of(connection, attempt), ffi::SQLITE_BUSY, "{attempt}");
            if !connection.is_autocommit() {
                support::run(connection, "ROLLBACK");
            }
            support::run(connection, begin);
            assert_eq!(support::rows(connection, COUNT).unwrap(), ["1"], "{begin} behind {attempt}");
            assert_eq!(support::number(connection, "PRAGMA user_version"), 0);
            if !connection.is_autocommit() {
                support::run(connection, "COMMIT");
            }
        }
    }
    held.release();
    support::run(&holder, "ROLLBACK");
    for (_, connection) in &connections {
        assert_eq!(count(connection), 2);
        support::run(connection, "INSERT INTO u VALUES(1)");
    }
}

#[test]
fn a_schema_that_a_refused_writer_met_is_forgotten_with_its_snapshot() {
    let lab = Lab::new();
    let first = lab.wal();
    support::run(&first, "CREATE TABLE t(x); CREATE TABLE u(x); INSERT INTO t VALUES(1)");
    let (connection, holder, writer) = (lab.wal(), lab.wal(), lab.wal());
    support::run(&connection, "SELECT * FROM t");
    let gate = Gate::of(&lab);
    gate.set(true);
    let _watchdog = Watchdog::new("a flush that is held", Duration::from_secs(60));
    let before = status(&first, "published");
    let changer = std::thread::spawn(move || support::run(&writer, "ALTER TABLE t ADD COLUMN y DEFAULT 5"));
    while status(&first, "published") == before {
        std::thread::yield_now();
    }
    support::run(&holder, "BEGIN IMMEDIATE");
    for _ in 0..3 {
        assert_eq!(support::code_of(&connection, "INSERT INTO u VALUES(1)"), ffi::SQLITE_BUSY);
        assert_eq!(support::text(&connection, "SELECT name FROM pragma_table_info('t')"), "x");
    }
    gate.set(false);
    changer.join().unwrap();
    assert_eq!(support::text(&connection, "SELECT name FROM pragma_table_info('t')"), "x y");
    support::run(&holder, "ROLLBACK");
    support::run(&connection, "CREATE INDEX i ON t(y); INSERT INTO t VALUES(2, 6)");
    support::assert_integrity(&connection);
}
