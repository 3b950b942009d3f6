//! Which transactions conflict, and what SQLite's connections are left with.

use super::*;

#[test]
fn transactions_on_different_pages_write_beside_each_other() {
    let scene = scene(ROWS);
    let (a, b) = scene.pair();
    for (connection, id) in [(&a, 10), (&b, 20000)] {
        run(connection, &format!("BEGIN; UPDATE t SET n=n+1 WHERE id={id}"));
    }
    assert_eq!(counted(&a, "open"), 2);
    assert!(counted(&a, "staged_bytes") < 4096, "nothing is in a lane before COMMIT or a spill");
    assert_eq!((commit(&a), commit(&b)), (0, 0));
    assert_eq!(number(&scene.serial, "SELECT sum(n) FROM t"), 2);
    // Each sees both.
    assert_eq!((number(&a, "SELECT sum(n) FROM t"), number(&b, "SELECT sum(n) FROM t")), (2, 2));
    assert_eq!((counted(&a, "open"), counted(&a, "staged_bytes"), counted(&a, "commits")), (0, 0, 2));
}

#[test]
fn an_update_is_not_lost() {
    let scene = scene(ROWS);
    let (a, b) = scene.pair();
    // Both read and wrote before the first commits.
    for connection in [&a, &b] {
        run(connection, "BEGIN; UPDATE t SET n=n+1 WHERE id=10");
    }
    assert_eq!((commit(&a), commit(&b)), (0, SNAPSHOT));
    assert_eq!(code_of(&b, "ROLLBACK"), ffi::SQLITE_ERROR, "it is rolled back");
    assert_eq!(tried(&b, "BEGIN; UPDATE t SET n=n+1 WHERE id=10; COMMIT"), 0);
    // Both read before the first writes: the second one's first write says it.
    for connection in [&a, &b] {
        run(connection, "BEGIN");
        assert_eq!(number(connection, "SELECT n FROM t WHERE id=10"), 2);
    }
    run(&a, "UPDATE t SET n=3 WHERE id=10; COMMIT");
    assert_eq!(code_of(&b, "UPDATE t SET n=3 WHERE id=10"), SNAPSHOT);
    assert!(!b.is_autocommit());
    assert_eq!(number(&b, "SELECT n FROM t WHERE id=10"), 2, "it reads on at its snapshot");
    run(&b, "ROLLBACK");
    assert_eq!(number(&b, "SELECT n FROM t WHERE id=10"), 3);
}

/// The page is in SQLite's cache since an earlier transaction, so that nothing is read again in this one.
#[test]
fn what_is_read_of_the_cache_counts() {
    let scene = scene(ROWS);
    let (a, b) = scene.pair();
    run(&b, "BEGIN; UPDATE t SET n=n WHERE id=10; COMMIT");
    assert_eq!(number(&b, "SELECT n FROM t WHERE id=10"), 0);
    run(&b, "BEGIN");
    assert_eq!(number(&b, "SELECT n FROM t WHERE id=10"), 0);
    run(&b, "UPDATE t SET n=1 WHERE id=20000");
    run(&a, "BEGIN; UPDATE t SET n=7 WHERE id=10; COMMIT");
    assert_eq!(commit(&b), SNAPSHOT);
    // Also what the connection has written itself and read of its cache.
    run(&b, "BEGIN; UPDATE t SET n=8 WHERE id=10; COMMIT");
    run(&b, "BEGIN");
    assert_eq!(number(&b, "SELECT n FROM t WHERE id=10"), 8);
    run(&b, "UPDATE t SET n=1 WHERE id=20000");
    run(&a, "BEGIN; UPDATE t SET n=9 WHERE id=10; COMMIT");
    assert_eq!(commit(&b), SNAPSHOT);
    // And a page that it has made, and was never given.
    run(&b, "BEGIN; INSERT INTO u SELECT id, 0, zeroblob(3000) FROM t WHERE id <= 50; COMMIT");
    run(&b, "BEGIN");
    assert_eq!(number(&b, "SELECT n FROM u WHERE id=50"), 0);
    run(&b, "UPDATE t SET n=n+1 WHERE id=20000");
    run(&a, "BEGIN; UPDATE u SET n=1 WHERE id=50; COMMIT");
    assert_eq!(commit(&b), SNAPSHOT);
}

/// A page that was read before the setting is in the cache, and was not noted.
#[test]
fn what_was_read_before_the_setting_counts() {
    let scene = scene(ROWS);
    let b = support::open(&scene.path);
    assert_eq!(number(&b, "SELECT n FROM t WHERE id=10"), 0);
    assert_eq!(text(&b, "PRAGMA parallel_wal_writers=concurrent"), "concurrent");
    run(&b, "BEGIN");
    assert_eq!(number(&b, "SELECT n FROM t WHERE id=10"), 0);
    run(&b, "UPDATE t SET n=1 WHERE id=20000");
    assert_eq!(counted(&b, "open"), 1);
    run(&scene.serial, "UPDATE t SET n=7 WHERE id=10");
    assert_eq!(commit(&b), SNAPSHOT);
    // And one that is read while the pragma comes: the transaction is a serial one.
    let c = support::open(&scene.path);
    run(&c, "BEGIN");
    assert_eq!(number(&c, "SELECT n FROM t WHERE id=10"), 7);
    assert_eq!(text(&c, "PRAGMA parallel_wal_writers=concurrent"), "concurrent");
    run(&c, "UPDATE t SET n=1 WHERE id=20000");
    patient(&scene.serial, 0);
    assert_eq!(code_of(&scene.serial, "UPDATE t SET n=8 WHERE id=10"), ffi::SQLITE_BUSY);
    assert_eq!(commit(&c), 0);
}

#[test]
fn there_is_no_write_skew() {
    let scene = scene(ROWS);
    let (a, b) = scene.pair();
    for (connection, id) in [(&a, 10), (&b, 20000)] {
        run(connection, "BEGIN");
        assert_eq!(number(connection, "SELECT sum(n) FROM t WHERE id IN (10, 20000)"), 0);
        run(connection, &format!("UPDATE t SET n=1 WHERE id={id}"));
    }
    assert_eq!((commit(&a), commit(&b)), (0, SNAPSHOT));
}

#[test]
fn there_are_no_phantoms() {
    let scene = scene(ROWS);
    let (a, b) = scene.pair();
    run(&a, "BEGIN");
    assert_eq!(number(&a, "SELECT count(*) FROM u WHERE n=1"), 0);
    run(&a, "UPDATE t SET n=1 WHERE id=10");
    run(&b, "BEGIN; INSERT INTO u VALUES(1, 1, 1); COMMIT");
    assert_eq!(commit(&a), SNAPSHOT);
}

#[test]
fn unique_keys_stay_unique() {
    let scene =
        scene("CREATE TABLE t(id INTEGER PRIMARY KEY, k UNIQUE); CREATE TABLE w(k PRIMARY KEY, v) WITHOUT ROWID");
    let (a, b) = scene.pair();
    for (connection, id) in [(&a, 1), (&b, 2)] {
        run(connection, &format!("BEGIN; INSERT INTO t VALUES({id}, 'same')"));
    }
    assert_eq!((commit(&a), commit(&b)), (0, SNAPSHOT));
    assert_eq!(tried(&b, "BEGIN; INSERT INTO t VALUES(2, 'same')"), ffi::SQLITE_CONSTRAINT_UNIQUE);
    for connection in [&a, &b] {
        run(connection, "BEGIN; INSERT INTO w VALUES('same', 1)");
    }
    assert_eq!((commit(&a), commit(&b)), (0, SNAPSHOT));
}

#[test]
fn foreign_keys_hold() {
    let scene = scene(
        "CREATE TABLE parent(id INTEGER PRIMARY KEY); CREATE TABLE child(id INTEGER PRIMARY KEY, p REFERENCES parent(id));
         CREATE INDEX child_p ON child(p); INSERT INTO parent VALUES(1), (2)",
    );
    let (a, b) = scene.pair();
    run(&a, "BEGIN; DELETE FROM parent WHERE id=1");
    run(&b, "BEGIN; INSERT INTO child VALUES(1, 1)");
    assert_eq!((commit(&a), commit(&b)), (0, SNAPSHOT));
    run(&a, "BEGIN; DELETE FROM parent WHERE id=2");
    run(&b, "BEGIN; INSERT INTO child VALUES(1, 2)");
    assert_eq!((commit(&b), commit(&a)), (0, SNAPSHOT));
    assert!(support::rows(&scene.serial, "PRAGMA foreign_key_check").expect("a check").is_empty());
}

#[test]
fn a_generated_key_is_given_once() {
    let scene = scene(
        "CREATE TABLE r(id INTEGER PRIMARY KEY, n); CREATE TABLE s(id INTEGER PRIMARY KEY AUTOINCREMENT, n);
        CREATE TABLE s2(id INTEGER PRIMARY KEY AUTOINCREMENT, n)",
    );
    let (a, b) = scene.pair();
    // `sqlite_sequence` is one page for all tables.
    for (one, other) in [("r", "r"), ("s", "s"), ("s", "s2")] {
        run(&a, &format!("BEGIN; INSERT INTO {one}(n) VALUES(1)"));
        run(&b, &format!("BEGIN; INSERT INTO {other}(n) VALUES(1)"));
        assert_eq!((commit(&a), commit(&b)), (0, SNAPSHOT), "{one}, {other}");
    }
}

#[test]
fn a_schema_change_conflicts_with_all_others() {
    let scene = scene(ROWS);
    let (a, b) = scene.pair();
    run(&a, "BEGIN; UPDATE t SET n=1 WHERE id=10");
    run(&b, "CREATE TABLE v(x)");
    assert_eq!(commit(&a), SNAPSHOT);
    run(&a, "BEGIN; CREATE TABLE w(x)");
    run(&b, "BEGIN; UPDATE t SET n=5 WHERE id=20000; COMMIT");
    assert_eq!(commit(&a), 0, "beside a commit that leaves page 1 alone");
    for connection in [&a, &b] {
        run(connection, "BEGIN; PRAGMA user_version=7");
    }
    assert_eq!((commit(&a), commit(&b)), (0, SNAPSHOT));
    run(&a, "BEGIN; UPDATE t SET n=1 WHERE id=10");
    run(&b, "PRAGMA application_id=9");
    assert_eq!(commit(&a), SNAPSHOT);
    support::assert_integrity(&scene.serial);
}

#[test]
fn a_database_that_becomes_smaller_conflicts() {
    let scene = scene(&format!(
        "PRAGMA auto_vacuum=2; VACUUM; {ROWS}; INSERT INTO u(pad) VALUES(zeroblob(90000)); DELETE FROM u"
    ));
    let (a, b) = scene.pair();
    run(&a, "BEGIN; UPDATE t SET n=1 WHERE id=10");
    run(&b, "PRAGMA incremental_vacuum(5)");
    assert_eq!(commit(&a), SNAPSHOT);
    run(&a, "BEGIN; PRAGMA incremental_vacuum(5)");
    run(&b, "BEGIN; UPDATE t SET n=1 WHERE id=10; COMMIT");
    let code = commit(&a);
    assert!(matches!(code, 0 | SNAPSHOT), "{code}");
    support::assert_integrity(&scene.serial);
}

#[test]
fn an_outermost_savepoint_begins_one_too() {
    let scene = scene(ROWS);
    let (a, b) = scene.pair();
    run(&a, "SAVEPOINT s; UPDATE t SET n=n+1 WHERE id=10");
    run(&b, "BEGIN; UPDATE t SET n=2 WHERE id=20000; COMMIT");
    run(&a, "RELEASE s");
    run(&a, "SAVEPOINT s; UPDATE t SET n=n+1 WHERE id=10");
    run(&b, "BEGIN; UPDATE t SET n=2 WHERE id=10; COMMIT");
    assert_eq!(code_of(&a, "RELEASE s"), SNAPSHOT);
    // Nothing of it holds WRITE.
    patient(&b, 0);
    run(&b, "UPDATE t SET n=3 WHERE id=10");
    if !a.is_autocommit() {
        run(&a, "ROLLBACK");
    }
    assert_eq!(number(&a, "SELECT n FROM t WHERE id=10"), 3);
    // What is read in a savepoint that is rolled back counts as read.
    run(&a, "BEGIN; SAVEPOINT s");
    assert_eq!(number(&a, "SELECT n FROM t WHERE id=20000"), 2);
    run(&a, "UPDATE t SET n=5 WHERE id=9000; ROLLBACK TO s; UPDATE t SET n=4 WHERE id=10");
    run(&b, "UPDATE t SET n=8 WHERE id=20000");
    assert_eq!(commit(&a), SNAPSHOT);
    assert_eq!(number(&a, "SELECT n FROM t WHERE id=9000"), 0);
}

#[test]
fn only_what_comes_after_begin_is_concurrent() {
    let scene = scene(ROWS);
    let (a, b) = scene.pair();
    patient(&b, 0);
    for begin in ["BEGIN IMMEDIATE", "BEGIN EXCLUSIVE"] {
        run(&a, &format!("{begin}; UPDATE t SET n=n+1 WHERE id=10"));
        assert_eq!(code_of(&b, "BEGIN IMMEDIATE"), ffi::SQLITE_BUSY, "{begin}");
        assert_eq!(code_of(&b, "UPDATE t SET n=n+1 WHERE id=20000"), ffi::SQLITE_BUSY, "{begin}");
        // One after BEGIN writes, and waits at COMMIT, where it stays open.
        run(&b, "BEGIN; UPDATE t SET n=n+1 WHERE id=20000");
        assert_eq!(code_of(&b, "COMMIT"), ffi::SQLITE_BUSY, "{begin}");
        assert!(!b.is_autocommit());
        run(&a, "COMMIT");
        assert_eq!(commit(&b), 0, "{begin}");
    }
    // And one that is open does not keep a serial writer out.
    run(&b, "BEGIN; UPDATE t SET n=n+1 WHERE id=20000");
    patient(&a, 0);
    run(&a, "UPDATE t SET n=n+1 WHERE id=10");
    assert_eq!(commit(&b), 0);
    assert_eq!(support::lab::status(&a, "concurrent")["commits"], 3);
    // The setting goes.
    assert_eq!(text(&b, "PRAGMA parallel_wal_writers=serial"), "serial");
    run(&b, "BEGIN; UPDATE t SET n=n+1 WHERE id=20000");
    assert_eq!(code_of(&a, "UPDATE t SET n=n+1 WHERE id=10"), ffi::SQLITE_BUSY);
    assert_eq!(code_of(&b, "PRAGMA parallel_wal_writers=concurrent"), ffi::SQLITE_ERROR);
    run(&b, "COMMIT");
}

#[test]
fn a_commit_waits_for_a_serial_writer() {
    let scene = scene(ROWS);
    let (a, b) = scene.pair();
    run(&b, "BEGIN IMMEDIATE; UPDATE t SET n=1 WHERE id=20000");
    run(&a, "BEGIN; UPDATE t SET n=1 WHERE id=10");
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| {
            let code = commit(&a);
            (code, a)
        });
        support::lab::wait_until(|| support::lab::status(&b, "waiting_writers") == 1);
        run(&b, "COMMIT");
        let (code, a) = waits.join().expect("no panic");
        assert_eq!(code, 0);
        assert_eq!(number(&a, "SELECT sum(n) FROM t"), 2);
    });
}

/// An application's own busy handler is asked at COMMIT, and what it says counts.
#[test]
fn a_busy_handler_is_asked_at_commit() {
    use std::sync::atomic::{AtomicI32, Ordering::SeqCst};
    static ASKED: AtomicI32 = AtomicI32::new(0);
    let scene = scene(ROWS);
    let (mut a, b) = scene.pair();
    a.busy_handler(Some(|times| {
        ASKED.store(times + 1, SeqCst);
        times < 4
    }))
    .expect("a busy handler");
    run(&b, "BEGIN IMMEDIATE; UPDATE t SET n=1 WHERE id=20000");
    run(&a, "BEGIN; UPDATE t SET n=1 WHERE id=10");
    assert_eq!(code_of(&a, "COMMIT"), ffi::SQLITE_BUSY);
    assert_eq!(ASKED.load(SeqCst), 5);
    assert!(!a.is_autocommit());
    run(&b, "COMMIT");
    assert_eq!(commit(&a), 0);
}

#[test]
fn the_status_lists_the_pages_of_the_last_conflicts() {
    let scene = scene(&format!("{ROWS}; CREATE TABLE w(id INTEGER PRIMARY KEY, n); INSERT INTO w VALUES(1, 0)"));
    let (a, b) = scene.pair();
    let root = number(&a, "SELECT rootpage FROM sqlite_schema WHERE name='w'");
    for _ in 0..2 {
        run(&a, "BEGIN; UPDATE w SET n=n+1");
        run(&b, "BEGIN; UPDATE w SET n=n+1; COMMIT");
        assert_eq!(commit(&a), SNAPSHOT);
    }
    let commit_of_b = number(&b, "SELECT pwal_commit()");
    run(&a, "BEGIN; UPDATE t SET n=n+1 WHERE id=10");
    run(&b, "BEGIN; PRAGMA user_version=3; COMMIT");
    assert_eq!(commit(&a), SNAPSHOT);
    let listed = "SELECT group_concat(format('%s %s %s', value->>'page', value->>'kind', value->>'conflicts'), '; ')
        FROM json_each(pwal_status(), '$.concurrent.contended_pages')";
    assert_eq!(text(&a, listed), format!("1 schema or header 1; {root} leaf of a table 2"));
    let won = "SELECT pwal_status()->>'$.concurrent.contended_pages[1].commit'";
    assert_eq!(number(&a, won), commit_of_b);
    // At most 16, the last ones.
    run(
        &scene.serial,
        "CREATE TABLE x(id INTEGER PRIMARY KEY, n, pad);
        INSERT INTO x SELECT id, 0, zeroblob(3000) FROM t WHERE id <= 200",
    );
    for id in (10..=200).step_by(10) {
        run(&a, "BEGIN; UPDATE t SET n=n+1 WHERE id=10; COMMIT");
        run(&a, &format!("BEGIN; UPDATE x SET n=1 WHERE id={id}"));
        run(&scene.serial, &format!("UPDATE x SET n=2 WHERE id={id}"));
        assert_eq!(commit(&a), SNAPSHOT);
    }
    assert_eq!(number(&a, "SELECT json_array_length(pwal_status(), '$.concurrent.contended_pages')"), 16);
}
