//! A transaction that was shown what is not durable, and is refused WRITE after that: it waits for the flush at its end, as any other
//! that has seen so much (R3).

use rusqlite::Connection;
use rusqlite::ffi::{SQLITE_BUSY, SQLITE_BUSY_SNAPSHOT};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;
use support::lab::{Call, Gate, Lab, Once};
use support::{code_of, number, run};

const READ: &str = "SELECT n FROM rows WHERE id=10";

/// Reads on one connection, is refused a write by the other, says that it ends, and ends its transaction. What was read.
type Act = fn(&Connection, &Connection, &Sender<()>) -> i64;

/// The first statement of its transaction writes, and a cursor stays open over the ROLLBACK.
fn with_a_cursor(connection: &Connection, other: &Connection, ends: &Sender<()>) -> i64 {
    run(connection, "BEGIN; UPDATE rows SET n=n+1 WHERE id=20");
    let mut statement = connection.prepare("SELECT n FROM rows ORDER BY id").expect("a statement");
    let mut rows = statement.query([]).expect("a query");
    let read = rows.next().expect("a row").expect("a row").get(0).expect("a number");
    run(connection, "ROLLBACK");
    is_refused(connection, other);
    ends.send(()).expect("a thread that receives");
    drop(rows);
    read
}

/// Its first statement writes to another database.
fn into_another_database(connection: &Connection, other: &Connection, ends: &Sender<()>) -> i64 {
    run(connection, "ATTACH ':memory:' AS other; CREATE TABLE other.copy(n)");
    run(connection, "BEGIN; INSERT INTO other.copy SELECT n FROM main.rows WHERE id=10");
    let read = number(connection, "SELECT n FROM copy");
    is_refused(connection, other);
    ends.send(()).expect("a thread that receives");
    run(connection, "ROLLBACK");
    read
}

fn is_refused(connection: &Connection, other: &Connection) {
    run(other, "BEGIN IMMEDIATE");
    let code = code_of(connection, "UPDATE rows SET n=n+1 WHERE id=20");
    assert!(matches!(code, SQLITE_BUSY | SQLITE_BUSY_SNAPSHOT), "{code}");
}

fn waits_for_what_it_has_read(act: Act) {
    let lab = Lab::new();
    let serial = lab.wal();
    run(
        &serial,
        "CREATE TABLE rows(id INTEGER PRIMARY KEY, n); INSERT INTO rows VALUES(10, 0), (20, 0); PRAGMA wal_autocheckpoint=0",
    );
    let [reads, other, commits] = [0, 20_000, 20_000].map(|timeout| {
        let connection = support::try_open(&lab.path(), support::flags(), &lab.vfs).expect("a connection");
        run(&connection, "PRAGMA synchronous=FULL");
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
    let after = std::thread::scope(|scope| {
        scope.spawn(move || run(&commits, "UPDATE rows SET n=1 WHERE id=10"));
        syncs.pass();
        let reader = scope.spawn(move || {
            let read = act(&reads, &other, &says_ends);
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
    waits_for_what_it_has_read(with_a_cursor);
}

#[test]
fn one_that_wrote_to_another_database_first_waits_for_what_it_has_read() {
    waits_for_what_it_has_read(into_another_database);
}
