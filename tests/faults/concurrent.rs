//! A log that fails while transactions write beside each other.

use rusqlite::Connection;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use support::lab::{Call, Lab, Once, eio, status};
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
    let (syncs, go_on) = lab.hold_a_sync(false);
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

const ROWS: &str = "CREATE TABLE rows(id INTEGER PRIMARY KEY, n, pad);
    WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < 2000)
    INSERT INTO rows SELECT x * 10, 0, zeroblob(100) FROM c";

/// WRITE is taken inside COMMIT. Whatever fails or panics after that frees it, and the transaction is not there; others commit.
#[test]
fn a_commit_that_fails_keeps_write_from_no_other() {
    for panics in [false, true] {
        for (call, ends_with) in [(Call::Write, ".seg"), (Call::Create, ".spill"), (Call::Write, ".spill")] {
            let what = format!("{call:?} of {ends_with}, panics: {panics}");
            let lab = Lab::new();
            let serial = lab.wal();
            run(&serial, ROWS);
            run(&serial, "PRAGMA parallel_wal_max_batch_bytes=65536");
            let (a, b) = (concurrent(&lab), concurrent(&lab));
            run(&a, "BEGIN; UPDATE rows SET n=1 WHERE id <= 10000");
            run(&b, "BEGIN; UPDATE rows SET n=1 WHERE id=20000");
            let once = Once::default();
            let (met, me) = (once.clone(), std::thread::current().id());
            lab.hook(move |moment| {
                let is_it = moment.call == call && moment.name.ends_with(ends_with) && !moment.done;
                if is_it && std::thread::current().id() == me && once.first() {
                    assert!(!panics, "on purpose");
                    return Err(eio());
                }
                Ok(())
            });
            let code = code_of(&a, "COMMIT");
            assert!(met.happened() && code != 0 && code & 0xff != rusqlite::ffi::SQLITE_BUSY, "{what}: {code}");
            lab.unhook();
            if status(&b, "poisoned").is_null() {
                assert_eq!(code_of(&b, "COMMIT"), 0, "{what}");
                assert_eq!(number(&serial, "SELECT sum(n) FROM rows"), 1, "{what}");
                run(&serial, "BEGIN IMMEDIATE; COMMIT");
                let counted = status(&b, "concurrent");
                assert_eq!((&counted["open"], &counted["staged_bytes"]), (&0.into(), &0.into()), "{what}");
            }
            for connection in [a, b, serial] {
                drop(connection);
            }
            let again = lab.open("a.db");
            assert!(number(&again, "SELECT sum(n) FROM rows") <= 1, "{what}");
            support::assert_integrity(&again);
        }
    }
}

/// A database in rollback mode in the same transaction is busy, and then fails: the transaction is open meanwhile, and is validated
/// when COMMIT comes again; in the end WRITE is free.
#[test]
fn a_sibling_that_is_busy_or_fails_leaves_a_transaction_to_validate() {
    for mode in ["auto", "conservative"] {
        let lab = Lab::new();
        let serial = lab.wal();
        run(&serial, ROWS);
        run(&serial, &format!("PRAGMA parallel_wal_mode={mode}"));
        let (a, b) = (concurrent(&lab), concurrent(&lab));
        let path = lab.scratch.file("x.db");
        run(&a, &format!("ATTACH '{}' AS x; CREATE TABLE x.x(v); INSERT INTO x VALUES(0)", path.display()));
        let other = lab.open("x.db");
        for (other_writes, expected) in [(10000, 0), (10, rusqlite::ffi::SQLITE_BUSY_SNAPSHOT)] {
            run(&other, "BEGIN; SELECT * FROM x");
            run(&a, "BEGIN; UPDATE rows SET n=n+1 WHERE id=10; UPDATE x SET v=v+1");
            a.busy_timeout(std::time::Duration::ZERO).expect("no busy timeout");
            assert_eq!(code_of(&a, "COMMIT"), rusqlite::ffi::SQLITE_BUSY, "{mode}");
            assert!(!a.is_autocommit());
            // `vdbeCommit` takes EXCLUSIVE in all files with a journal before the first one is prepared, so WRITE is free.
            run(&b, &format!("BEGIN IMMEDIATE; UPDATE rows SET n=n+1 WHERE id={other_writes}; COMMIT"));
            run(&other, "COMMIT");
            assert_eq!(code_of(&a, "COMMIT"), expected, "{mode}");
            assert!(a.is_autocommit());
        }
        assert_eq!(number(&serial, "SELECT sum(n) FROM rows"), 3);
        assert_eq!(number(&other, "SELECT v FROM x"), 1);
        // It fails, after this one is prepared.
        run(&a, "BEGIN; UPDATE rows SET n=n+1 WHERE id=10; UPDATE x SET v=v+1");
        lab.base_fails("x.db: write", rusqlite::ffi::SQLITE_FULL);
        assert_eq!(code_of(&a, "COMMIT"), rusqlite::ffi::SQLITE_FULL, "{mode}");
        lab.base_works();
        run(&b, "BEGIN; UPDATE rows SET n=n+1 WHERE id=10; COMMIT");
        run(&serial, "BEGIN IMMEDIATE; COMMIT");
        assert_eq!(number(&a, "SELECT sum(n) FROM rows"), 4);
        assert_eq!(number(&a, "SELECT v FROM x"), 1);
        assert_eq!(status(&a, "concurrent")["open"], 0);
    }
}
