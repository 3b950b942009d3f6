//! Durability on demand when the flush fails, or does not end in time: nothing is called durable that is not.

use rusqlite::{Connection, ffi};
use std::time::{Duration, Instant};
use support::lab::{Call, Lab, eio, status};
use support::{code_of, number, run};

/// A connection under NORMAL with a commit that is not durable.
fn undurable(lab: &Lab) -> Connection {
    let connection = lab.wal();
    run(&connection, "CREATE TABLE t(x); INSERT INTO t VALUES(0); PRAGMA synchronous=NORMAL; INSERT INTO t VALUES(1)");
    connection
}

#[test]
fn a_commit_whose_flush_failed_is_never_called_durable() {
    let lab = Lab::new();
    let connection = undurable(&lab);
    lab.hook(|moment| if moment.call == Call::Sync && moment.name.ends_with(".seg") { Err(eio()) } else { Ok(()) });
    let began = Instant::now();
    for sql in [
        "SELECT pwal_wait_durable(pwal_commit(), 60000)",
        "SELECT pwal_wait_durable(pwal_commit(), 60000)",
        "SELECT pwal_sync()",
        "SELECT pwal_wait_commit(pwal_commit(), 60000)",
    ] {
        assert_eq!(code_of(&connection, sql), ffi::SQLITE_IOERR_FSYNC, "{sql}");
    }
    assert!(began.elapsed() < Duration::from_secs(30), "an error does not wait for the end of the time");
    assert_eq!(number(&connection, "SELECT pwal_wait_durable(pwal_commit(), 0)"), 0);
    lab.unhook();
    support::close(connection);
    // It was acknowledged before the flush failed, and a kill loses nothing.
    assert_eq!(support::text(&lab.open("a.db"), "SELECT x FROM t"), "0 1");
}

/// Another connection leads, and its sync does not end: the wait ends at its time, and the answer is no.
#[test]
fn a_wait_ends_in_time_beside_a_flush_that_does_not() {
    let lab = Lab::new();
    let connection = undurable(&lab);
    let commit = number(&connection, "SELECT pwal_commit()");
    let other = lab.open("a.db");
    run(&other, "PRAGMA synchronous=FULL");
    let (syncs, go_on) = lab.hold_a_sync(false);
    std::thread::scope(|scope| {
        let leader = scope.spawn(move || run(&other, "INSERT INTO t VALUES(2)"));
        syncs.pass();
        let began = Instant::now();
        assert_eq!(number(&connection, &format!("SELECT pwal_wait_durable({commit}, 30)")), 0);
        assert!(began.elapsed() >= Duration::from_millis(30) && began.elapsed() < Duration::from_secs(3));
        go_on.open();
        leader.join().expect("the commit");
    });
    assert_eq!(
        number(&connection, &format!("SELECT pwal_wait_durable({commit}, 0)")),
        1,
        "by the flush of the other one"
    );
    assert!(status(&connection, "poisoned").is_null());
}
