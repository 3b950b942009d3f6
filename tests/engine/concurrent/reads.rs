//! What counts as read, by whatever way SQLite reads: and what the connection's own copies of the database see beside others' commits.

use super::*;
use rusqlite::backup::{Backup, StepResult};
use std::io::{Read, Write};

/// The pages of an incremental blob are read, also by a handle that was opened in an earlier transaction and moved on.
#[test]
fn a_blob_that_is_read_counts() {
    let scene = scene(ROWS);
    let (a, b) = scene.pair();
    for code in [SNAPSHOT, 0] {
        run(&a, "BEGIN");
        let mut byte = [0];
        a.blob_open("main", "t", "pad", 10, true).expect("a blob").read_exact(&mut byte).expect("a byte");
        run(&a, "UPDATE t SET n=n+1 WHERE id=20000");
        let id = if code == 0 { 10000 } else { 10 };
        run(&b, &format!("BEGIN; UPDATE t SET n=n+1 WHERE id={id}; COMMIT"));
        assert_eq!(commit(&a), code, "{id}");
    }
    // Written by it, too.
    run(&a, "BEGIN");
    a.blob_open("main", "t", "pad", 10, false).expect("a blob").write_all(b"x").expect("a byte");
    run(&b, "BEGIN; UPDATE t SET n=n+1 WHERE id=20000; COMMIT");
    assert_eq!(commit(&a), 0);
    assert_eq!(text(&b, "SELECT hex(substr(pad, 1, 1)) FROM t WHERE id=10"), "78");
    run(&a, "BEGIN");
    a.blob_open("main", "t", "pad", 10, false).expect("a blob").write_all(b"y").expect("a byte");
    run(&b, "BEGIN; UPDATE t SET n=n+1 WHERE id=10; COMMIT");
    assert_eq!(commit(&a), SNAPSHOT);
}

/// A copy that is being made of a connection which commits beside others meanwhile is one state of the database.
#[test]
fn a_backup_begins_again_after_a_commit_beside_others() {
    let scene = scene(ROWS);
    let (a, b) = scene.pair();
    let mut copy = Connection::open_in_memory().expect("a database");
    {
        let backup = Backup::new(&a, &mut copy).expect("a backup");
        for id in [10, 2000, 4000] {
            assert_eq!(backup.step(20).expect("a step"), StepResult::More);
            run(&a, &format!("BEGIN; UPDATE t SET n=n+1 WHERE id={id}"));
            run(&b, "BEGIN; UPDATE t SET n=n+1 WHERE id=20000; COMMIT");
            let code = commit(&a);
            assert!(matches!(code, 0 | SNAPSHOT), "{code}");
        }
        assert_eq!(backup.step(-1).expect("the rest"), StepResult::Done);
    }
    assert_eq!(support::dump::first_difference(&support::dump::dump(&a), &support::dump::dump(&copy)), None);
}

/// A destination in whose connection BEGIN has come is not another case: what it writes over is read or written.
#[test]
fn a_backup_into_a_transaction_is_validated() {
    let scene = scene(ROWS);
    let (mut a, b) = scene.pair();
    let from = Connection::open_in_memory().expect("a database");
    run(&from, "CREATE TABLE copied(x); INSERT INTO copied VALUES(7)");
    run(&a, "BEGIN");
    {
        let backup = Backup::new(&from, &mut a).expect("a backup");
        // All is copied by one call, which also commits; a commit of another comes before.
        run(&b, "BEGIN; UPDATE t SET n=n+1 WHERE id=20000; COMMIT");
        assert_eq!(backup.step(-1).expect("all of it"), StepResult::Done);
    }
    if !a.is_autocommit() {
        run(&a, "COMMIT");
    }
    for connection in [&a, &b, &scene.serial] {
        assert_eq!(number(connection, "SELECT x FROM copied"), 7);
        support::assert_integrity(connection);
    }
}

/// Off and on again in one transaction: the set begins anew, so the transaction is a serial one.
#[test]
fn the_setting_off_and_on_again_forgets_nothing() {
    let scene = scene(ROWS);
    let (a, b) = scene.pair();
    patient(&b, 0);
    run(&a, "BEGIN");
    assert_eq!(number(&a, "SELECT n FROM t WHERE id=10"), 0);
    for writers in ["serial", "concurrent"] {
        assert_eq!(text(&a, &format!("PRAGMA parallel_wal_writers={writers}")), writers);
    }
    run(&a, "UPDATE t SET n=1 WHERE id=20000");
    assert_eq!(code_of(&b, "BEGIN IMMEDIATE"), ffi::SQLITE_BUSY);
    assert_eq!(commit(&a), 0);
    // The next one writes beside others, and what is in the cache since then counts.
    assert_eq!(number(&a, "SELECT n FROM t WHERE id=10"), 0);
    run(&a, "BEGIN");
    assert_eq!(number(&a, "SELECT n FROM t WHERE id=10"), 0);
    run(&a, "UPDATE t SET n=2 WHERE id=20000");
    run(&b, "UPDATE t SET n=7 WHERE id=10");
    assert_eq!(commit(&a), SNAPSHOT);
}

/// FTS5 keeps what it has read of its structure by `data_version`.
#[test]
fn a_full_text_index_is_not_torn() {
    let scene = scene("CREATE VIRTUAL TABLE words USING fts5(body); INSERT INTO words VALUES('first')");
    let (a, b) = scene.pair();
    let mut rows = 1;
    for round in 0..30 {
        for connection in [&a, &b] {
            run(connection, &format!("BEGIN; INSERT INTO words VALUES('word{round} common')"));
        }
        let (first, second) = if round % 2 == 0 { (&a, &b) } else { (&b, &a) };
        rows += [first, second].iter().filter(|connection| commit(connection) == 0).count() as i64;
        for connection in [&a, &b] {
            assert_eq!(number(connection, "SELECT count(*) FROM words WHERE words MATCH 'common'"), rows - 1);
        }
    }
    assert_eq!(rows, 31, "one of two wins");
    for connection in [&a, &b, &scene.serial] {
        run(connection, "INSERT INTO words(words) VALUES('integrity-check')");
        support::assert_integrity(connection);
    }
}

/// A statement that fails after some of its pages are in the spill file, and what comes after it in the same places.
#[test]
fn a_statement_that_fails_after_a_spill_leaves_nothing() {
    let scene = scene(ROWS);
    let (a, b) = scene.pair();
    run(&scene.serial, "PRAGMA parallel_wal_max_batch_bytes=65536; CREATE UNIQUE INDEX t_n ON t(n) WHERE n > 100");
    run(&a, "PRAGMA cache_size=10");
    number(&a, "SELECT count(*) FROM sqlite_schema");
    let mut expected = 0;
    for round in 1..5 {
        run(&a, &format!("BEGIN; UPDATE t SET n=n+1 WHERE id <= {}", round * 100));
        run(&b, "BEGIN; UPDATE t SET n=n+1 WHERE id=20000; COMMIT");
        let failing = "UPDATE t SET n=n + CASE WHEN id >= 17000 THEN 1000 ELSE 1 END WHERE id < 18000";
        assert_eq!(code_of(&a, failing), ffi::SQLITE_CONSTRAINT_UNIQUE);
        let of_savepoint = "SAVEPOINT s; UPDATE t SET n=n+1 WHERE id < 18000; ROLLBACK TO s";
        run(&a, &format!("{of_savepoint}; UPDATE t SET n=n+1 WHERE id={}", round * 10));
        assert_eq!(counted(&a, "full_lanes"), round);
        assert_eq!(commit(&a), 0, "round {round}");
        expected += 1 + i64::try_from(round * 10 + 1).expect("a number");
        assert_eq!(number(&b, "SELECT sum(n) FROM t"), expected, "round {round}");
        support::assert_integrity(&b);
    }
    assert_eq!(counted(&a, "open") + counted(&a, "staged_bytes"), 0);
    run(&b, "PRAGMA wal_checkpoint(TRUNCATE)");
    assert_eq!(number(&b, "SELECT sum(n) FROM t"), expected);
}

/// More statements come after a COMMIT that was refused WRITE, and a commit of another, before COMMIT is tried again.
#[test]
fn a_commit_that_is_tried_again_is_validated_again() {
    let scene = scene(ROWS);
    let (a, b) = scene.pair();
    patient(&a, 0);
    let mut sum = 0;
    for (other, code) in [(10000, 0), (10, SNAPSHOT), (20000, SNAPSHOT)] {
        run(&b, "BEGIN IMMEDIATE");
        run(&a, "BEGIN; UPDATE t SET n=n+1 WHERE id=10");
        assert_eq!(code_of(&a, "COMMIT"), ffi::SQLITE_BUSY);
        run(&a, "SAVEPOINT s; UPDATE t SET n=n+1 WHERE id=20000");
        assert_eq!(code_of(&a, "COMMIT"), ffi::SQLITE_BUSY);
        run(&a, "ROLLBACK TO s; UPDATE t SET n=n+1 WHERE id=20");
        run(&b, &format!("UPDATE t SET n=n+1 WHERE id={other}; COMMIT"));
        assert_eq!(commit(&a), code, "{other}");
        sum += 1 + if code == 0 { 2 } else { 0 };
        assert_eq!(number(&b, "SELECT sum(n) FROM t"), sum);
        assert_eq!(counted(&a, "open") + counted(&a, "staged_bytes"), 0);
        // WRITE is free.
        patient(&b, 0);
        run(&b, "BEGIN IMMEDIATE; COMMIT");
    }
    support::assert_integrity(&a);
}

/// Two connections with one cache: what either has read of it counts for both, and neither loses an update.
#[test]
fn a_shared_cache_loses_nothing() {
    let scene = scene(ROWS);
    let flags = support::flags() | rusqlite::OpenFlags::SQLITE_OPEN_SHARED_CACHE;
    let open = || support::try_open(&scene.path, flags, support::vfs()).expect("a connection");
    let (one, two) = (open(), open());
    assert_eq!(text(&one, "PRAGMA parallel_wal_writers=concurrent"), "concurrent");
    number(&one, "SELECT count(*) FROM sqlite_schema");
    let b = scene.concurrent();
    let mut expected = 0;
    for round in 0..20 {
        for connection in [&one, &two] {
            // Read by the other connection of the cache.
            let other = if round % 2 == 0 { &two } else { &one };
            let before = number(other, "SELECT n FROM t WHERE id=10");
            run(connection, "BEGIN");
            assert_eq!(number(connection, "SELECT n FROM t WHERE id=10"), before);
            let written = code_of(connection, "UPDATE t SET n=n+1 WHERE id=20000");
            if written == 0 && round % 3 != 0 {
                // A serial one has WRITE.
                patient(&b, 0);
                expected += i64::from(code_of(&b, "BEGIN; UPDATE t SET n=n+1 WHERE id=10; COMMIT") == 0);
                if !b.is_autocommit() {
                    run(&b, "ROLLBACK");
                }
            }
            let now = number(&b, "SELECT n FROM t WHERE id=10");
            let code = tried(connection, "COMMIT");
            assert_eq!(code == 0, written == 0 && now == before, "{code}, {before}, {now}");
            assert_eq!(number(&b, "SELECT n FROM t WHERE id=10"), expected);
        }
    }
    assert!(expected > 5, "{expected}");
    support::assert_integrity(&b);
}
