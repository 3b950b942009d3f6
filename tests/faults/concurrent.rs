//! A log that fails while transactions write beside each other.

use rusqlite::Connection;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use support::lab::{Call, Gate, Lab, Once, eio, status};
use support::{code_of, number, run, text};

fn concurrent(lab: &Lab) -> Connection {
    let connection = support::try_open(&lab.path(), support::flags(), &lab.vfs).expect("a connection");
    run(&connection, "PRAGMA synchronous=FULL");
    assert_eq!(text(&connection, "PRAGMA parallel_wal_writers=concurrent"), "concurrent");
    number(&connection, "SELECT count(*) FROM sqlite_schema");
    connection
}

/// What it lost against is published, and its flush does not end: the same statements again begin with it.
#[test]
fn a_retry_sees_what_it_lost_against() {
    const READ: &str = "SELECT n FROM rows WHERE id=10";
    let lab = Lab::new();
    let serial = lab.wal();
    run(
        &serial,
        "CREATE TABLE rows(id INTEGER PRIMARY KEY, n); INSERT INTO rows VALUES(10, 0); PRAGMA wal_autocheckpoint=0",
    );
    let (a, b) = (concurrent(&lab), concurrent(&lab));
    let (syncs, go_on, once) = (Gate::default(), Gate::default(), Once::default());
    let (reached, wait) = (syncs.clone(), go_on.clone());
    lab.hook(move |moment| {
        if moment.call == Call::Sync && moment.name.ends_with(".seg") && !moment.done && once.first() {
            reached.open();
            wait.pass();
        }
        Ok(())
    });
    std::thread::scope(|scope| {
        let flushes = scope.spawn(move || run(&b, "BEGIN; UPDATE rows SET n=1 WHERE id=10; COMMIT"));
        syncs.pass();
        for expected in [rusqlite::ffi::SQLITE_BUSY_SNAPSHOT, 0] {
            run(&a, "BEGIN");
            let read = number(&a, READ);
            let code = code_of(&a, "UPDATE rows SET n=n+1 WHERE id=10");
            if (code, read) != (expected, i64::from(expected == 0)) {
                go_on.open();
                panic!("{code} after {read}, not {expected}");
            }
            if code != 0 {
                run(&a, "ROLLBACK");
            }
        }
        go_on.open();
        flushes.join().expect("no panic");
        run(&a, "COMMIT");
    });
    lab.unhook();
    assert_eq!(number(&serial, READ), 2);
}

/// One fails to become durable while the others are open: none of them commits any more, and nothing of any is there after the next
/// open.
#[test]
fn a_failed_flush_ends_the_open_ones() {
    for reads_on in [false, true] {
        let lab = Lab::new();
        let serial = lab.wal();
        run(
            &serial,
            "CREATE TABLE rows(id INTEGER PRIMARY KEY, n, pad); PRAGMA wal_autocheckpoint=0; PRAGMA synchronous=FULL;
             WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < 2000)
             INSERT INTO rows SELECT x * 10, 0, zeroblob(100) FROM c",
        );
        let (a, b) = (concurrent(&lab), concurrent(&lab));
        run(&a, "BEGIN; UPDATE rows SET n=1 WHERE id=10");
        run(&b, "BEGIN; UPDATE rows SET n=1 WHERE id=20000");
        let failed = AtomicBool::new(false);
        lab.hook(move |moment| match moment.call == Call::Sync && moment.name.ends_with(".seg") && !moment.done {
            true if !failed.swap(true, SeqCst) => Err(eio()),
            _ => Ok(()),
        });
        assert_ne!(code_of(&b, "COMMIT"), 0);
        assert!(status(&a, "poisoned").is_string());
        if reads_on {
            // It was begun before, and shows nothing that is lost.
            let seen: rusqlite::Result<i64> = a.query_row("SELECT n FROM rows WHERE id=10000", [], |row| row.get(0));
            assert!(seen.is_err() || seen == Ok(0), "{seen:?}");
        }
        let code = code_of(&a, "COMMIT");
        assert!(code != 0 && code & 0xff != rusqlite::ffi::SQLITE_BUSY, "{code}");
        assert_ne!(code_of(&a, "BEGIN; UPDATE rows SET n=2 WHERE id=10; COMMIT"), 0);
        lab.unhook();
        let path = lab.path();
        for connection in [a, b, serial] {
            drop(connection);
        }
        let again = support::try_open(&path, support::flags(), &lab.vfs).expect("opened again");
        assert_eq!(number(&again, "SELECT sum(n) FROM rows"), 0);
        support::assert_integrity(&again);
    }
}
