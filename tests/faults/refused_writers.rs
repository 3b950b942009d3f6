//! A transaction that was shown what is not durable, and is refused WRITE after that: it waits for the flush at its end, as any other
//! that has seen so much (R3). Where nothing can be flushed, the next one of its connection is shown as much.

use rusqlite::ffi::{SQLITE_BUSY, SQLITE_BUSY_SNAPSHOT};
use rusqlite::{Connection, OpenFlags};
use std::io;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;
use support::lab::{Call, Gate, Lab, Once};
use support::{code_of, number, run};

const READ: &str = "SELECT n FROM rows WHERE id=10";

/// Reads on one connection, is refused a write by the other, says that it ends, and ends its transaction. What was read.
type Act = fn(&Lab, &Connection, &Connection, &Sender<()>) -> i64;

/// The first statement of its transaction writes, and a cursor stays open over the ROLLBACK.
fn with_a_cursor(_: &Lab, connection: &Connection, other: &Connection, ends: &Sender<()>) -> i64 {
    run(connection, "BEGIN; UPDATE rows SET n=n+1 WHERE id=20");
    under_a_cursor(connection, connection, other, ends)
}

/// A cursor of `reads` is open while `connection` rolls back and is refused. What was read.
fn under_a_cursor(reads: &Connection, connection: &Connection, other: &Connection, ends: &Sender<()>) -> i64 {
    let mut statement = reads.prepare("SELECT n FROM rows ORDER BY id").expect("a statement");
    let mut rows = statement.query([]).expect("a query");
    let read = rows.next().expect("a row").expect("a row").get(0).expect("a number");
    run(connection, "ROLLBACK");
    is_refused(connection, other);
    ends.send(()).expect("a thread that receives");
    drop(rows);
    read
}

/// Its first statement writes to another database.
fn into_another_database(_: &Lab, connection: &Connection, other: &Connection, ends: &Sender<()>) -> i64 {
    run(connection, "ATTACH ':memory:' AS other; CREATE TABLE other.copy(n)");
    run(connection, "BEGIN; INSERT INTO other.copy SELECT n FROM main.rows WHERE id=10");
    let read = number(connection, "SELECT n FROM copy");
    is_refused(connection, other);
    ends.send(()).expect("a thread that receives");
    run(connection, "ROLLBACK");
    read
}

/// Its cache is shared, and the cursor is one of another connection: this one reads nothing when it is refused.
fn with_a_cursor_of_another_one(lab: &Lab, connection: &Connection, other: &Connection, ends: &Sender<()>) -> i64 {
    let shares = open(lab, CACHE);
    number(&shares, "SELECT count(*) FROM others");
    run(connection, "BEGIN; UPDATE others SET n=n+1");
    under_a_cursor(&shares, connection, other, ends)
}

fn is_refused(connection: &Connection, other: &Connection) {
    run(other, "BEGIN IMMEDIATE");
    let code = code_of(connection, "UPDATE rows SET n=n+1 WHERE id=20");
    assert!(matches!(code, SQLITE_BUSY | SQLITE_BUSY_SNAPSHOT), "{code}");
}

const TABLES: &str = "CREATE TABLE rows(id INTEGER PRIMARY KEY, n); INSERT INTO rows VALUES(10, 0), (20, 0);
    CREATE TABLE others(n); INSERT INTO others VALUES(0)";

const CACHE: OpenFlags = OpenFlags::SQLITE_OPEN_SHARED_CACHE;
const NO_CACHE: OpenFlags = OpenFlags::empty();

fn open(lab: &Lab, cache: OpenFlags) -> Connection {
    let connection = support::try_open(&lab.path(), support::flags() | cache, &lab.vfs).expect("a connection");
    run(&connection, "PRAGMA wal_autocheckpoint=0; PRAGMA synchronous=FULL");
    connection
}

fn waits_for_what_it_has_read(cache: OpenFlags, act: Act) {
    let lab = Lab::new();
    let serial = lab.wal();
    run(&serial, TABLES);
    let [reads, other, commits] = [(0, cache), (20_000, NO_CACHE), (20_000, NO_CACHE)].map(|(timeout, cache)| {
        let connection = open(&lab, cache);
        connection.busy_timeout(Duration::from_millis(timeout)).expect("a timeout");
        number(&connection, READ);
        connection
    });
    let (syncs, go_on, once) = (Gate::default(), Gate::default(), Once::default());
    let (reached, wait) = (syncs.clone(), go_on.clone());
    lab.hook(move |moment| {
        if moment.call == Call::Sync && moment.name.ends_with(".seg") && !moment.done && once.first() {
            reached.open();
            wait.pass();
        }
        Ok(())
    });
    let (says_ends, ends) = channel();
    let (says_ended, ended) = channel();
    let of = &lab;
    let after = std::thread::scope(|scope| {
        scope.spawn(move || run(&commits, "UPDATE rows SET n=1 WHERE id=10"));
        syncs.pass();
        let reader = scope.spawn(move || {
            let read = act(of, &reads, &other, &says_ends);
            let _nobody_waits = says_ended.send(());
            (read, number(&reads, READ))
        });
        let is_there = ends.recv_timeout(Duration::from_secs(60));
        // The flush does not end before this, however long it is.
        let waits = ended.recv_timeout(Duration::from_millis(300));
        go_on.open();
        assert_eq!((is_there, waits), (Ok(()), Err(RecvTimeoutError::Timeout)), "it has not waited for the flush");
        reader.join().expect("no panic")
    });
    lab.unhook();
    assert_eq!(after, (1, 1), "what it has read, and then");
}

#[test]
fn one_whose_cursor_stays_open_waits_for_what_it_has_read() {
    waits_for_what_it_has_read(NO_CACHE, with_a_cursor);
}

#[test]
fn one_that_wrote_to_another_database_first_waits_for_what_it_has_read() {
    waits_for_what_it_has_read(NO_CACHE, into_another_database);
}

#[test]
fn one_whose_cache_has_an_open_cursor_waits_for_what_was_read() {
    waits_for_what_it_has_read(CACHE, with_a_cursor_of_another_one);
}

/// It has no descriptor to make the last commit durable, and the other process is in a sync that does not return: so the end of its
/// transaction gives up to wait. It was shown that commit, so the next transaction is, too: nothing is lost.
#[test]
fn one_that_could_not_wait_reads_on() {
    let (lab, another) = (Lab::new(), Lab::new());
    let commits = lab.wal();
    run(&commits, TABLES);
    let reads = support::try_open(&lab.path(), support::flags(), &another.vfs).expect("a connection");
    run(&reads, "PRAGMA wal_autocheckpoint=0");
    assert_eq!(number(&reads, READ), 0);
    another.hook(|moment| match moment.call {
        Call::Write | Call::Sync if moment.name.ends_with(".seg") => Err(io::Error::from_raw_os_error(libc::EMFILE)),
        _ => Ok(()),
    });
    let (syncs, go_on) = lab.hold_a_sync(false);
    let codes = std::thread::scope(|scope| {
        scope.spawn(move || run(&commits, "UPDATE rows SET n=1 WHERE id=10"));
        syncs.pass();
        let codes = ["BEGIN IMMEDIATE; ROLLBACK", READ].map(|sql| code_of(&reads, sql));
        go_on.open();
        codes
    });
    another.unhook();
    assert_eq!((codes, number(&reads, READ)), ([0, 0], 1));
}
