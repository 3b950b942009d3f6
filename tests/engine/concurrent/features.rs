//! What SQLite has beside plain tables, in transactions that write beside each other.

use super::*;
use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::sync::atomic::Ordering::SeqCst;

/// Keys of 32 characters, so that neighbours are far from each other.
const KEYED: &str = "CREATE TABLE k(key TEXT PRIMARY KEY, n) WITHOUT ROWID;
    WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < 2000)
    INSERT INTO k SELECT format('%032d', x), 0 FROM c";

#[test]
fn without_rowid_keys_conflict_by_their_pages() {
    let scene = scene(KEYED);
    let (a, b) = scene.pair();
    let add = |key: i64| format!("UPDATE k SET n=n+1 WHERE key=format('%032d', {key})");
    for (connection, key) in [(&a, 1), (&b, 2000)] {
        run(connection, &format!("BEGIN; {}", add(key)));
    }
    assert_eq!((commit(&a), commit(&b)), (0, 0));
    for connection in [&a, &b] {
        run(connection, &format!("BEGIN; {}", add(7)));
    }
    assert_eq!((commit(&a), commit(&b)), (0, SNAPSHOT));
    // A key that another one has inserted.
    for connection in [&a, &b] {
        run(connection, "BEGIN; INSERT INTO k VALUES('0', 5)");
    }
    assert_eq!((commit(&b), commit(&a)), (0, SNAPSHOT));
    assert_eq!(tried(&a, "INSERT INTO k VALUES('0', 5)"), ffi::SQLITE_CONSTRAINT_PRIMARYKEY);
    assert_eq!(number(&scene.serial, "SELECT sum(n) FROM k"), 8);
}

#[test]
fn what_a_trigger_reads_and_writes_counts() {
    let schema = "CREATE TABLE total(id INTEGER PRIMARY KEY, n); INSERT INTO total VALUES(1, 0);
        CREATE TRIGGER adds AFTER UPDATE ON t BEGIN UPDATE total SET n=n+new.n-old.n; END;
        CREATE TABLE most(id INTEGER PRIMARY KEY, n); INSERT INTO most VALUES(1, 100);
        CREATE TRIGGER checks BEFORE UPDATE ON u WHEN new.n > (SELECT n FROM most) BEGIN SELECT RAISE(ABORT, 'too much'); END;
        INSERT INTO u VALUES(1, 0, 0)";
    let scene = scene(&format!("{ROWS}; {schema}"));
    let (a, b) = scene.pair();
    for (connection, id) in [(&a, 10), (&b, 20000)] {
        run(connection, &format!("BEGIN; UPDATE t SET n=n+1 WHERE id={id}"));
    }
    assert_eq!((commit(&a), commit(&b)), (0, SNAPSHOT), "both have written the total");
    assert_eq!(number(&a, "SELECT n FROM total"), 1);
    run(&a, "BEGIN; UPDATE u SET n=50");
    run(&b, "BEGIN; UPDATE most SET n=10; COMMIT");
    assert_eq!(commit(&a), SNAPSHOT, "it was allowed by what has changed");
}

#[test]
fn a_savepoint_that_is_rolled_back_leaves_its_reads() {
    let scene = scene(ROWS);
    let (a, b) = scene.pair();
    run(
        &a,
        "BEGIN; UPDATE t SET n=1 WHERE id=10; SAVEPOINT s; UPDATE t SET n=1 WHERE id=20000; ROLLBACK TO s; RELEASE s",
    );
    run(&b, "BEGIN; UPDATE t SET n=2 WHERE id=10000; COMMIT");
    assert_eq!(commit(&a), 0);
    assert_eq!(number(&scene.serial, "SELECT n FROM t WHERE id=20000"), 0);
    // What it has read in the savepoint, the application knows.
    run(&a, "BEGIN; UPDATE t SET n=3 WHERE id=10; SAVEPOINT s");
    assert_eq!(number(&a, "SELECT n FROM t WHERE id=20000"), 0);
    run(&a, "ROLLBACK TO s; RELEASE s");
    run(&b, "BEGIN; UPDATE t SET n=4 WHERE id=20000; COMMIT");
    assert_eq!(commit(&a), SNAPSHOT);
}

#[test]
fn data_version_changes_with_the_commits_of_others() {
    let scene = scene(ROWS);
    let (a, b) = scene.pair();
    let version = |connection: &Connection| number(connection, "PRAGMA data_version");
    let before = (version(&a), version(&b), version(&scene.serial));
    run(&a, "BEGIN; UPDATE t SET n=1 WHERE id=10");
    assert_eq!((version(&a), version(&scene.serial)), (before.0, before.2), "nothing is committed");
    run(&b, "BEGIN; UPDATE t SET n=1 WHERE id=20000; COMMIT");
    assert_eq!(version(&a), before.0, "it stands at its snapshot");
    assert_eq!(commit(&a), 0);
    assert_eq!(version(&b), before.1 + 1, "a commit of another connection");
    assert_ne!(version(&scene.serial), before.2);
    // Its own commit, and that of the other one in between.
    assert_ne!(version(&a), before.0);
    let quiet = version(&a);
    assert_eq!(tried(&a, "BEGIN; UPDATE t SET n=2 WHERE id=10; COMMIT"), 0);
    assert_eq!(version(&a), quiet, "only its own");
}

#[test]
fn the_wal_hook_comes_once_for_each_commit() {
    let scene = scene(ROWS);
    let (mut a, b) = scene.pair();
    static FRAMES: AtomicI64 = AtomicI64::new(-1);
    static CALLS: AtomicI64 = AtomicI64::new(0);
    a.wal_hook(Some(|_: &mut rusqlite::hooks::Wal, frames: i32| {
        FRAMES.store(frames.into(), SeqCst);
        CALLS.fetch_add(1, SeqCst);
        Ok(())
    }))
    .expect("a hook");
    run(&a, "BEGIN; UPDATE t SET n=1 WHERE id=10");
    run(&b, "BEGIN; UPDATE t SET n=1 WHERE id=20000; COMMIT");
    assert_eq!(CALLS.load(SeqCst), 0);
    assert_eq!(commit(&a), 0);
    assert_eq!(CALLS.load(SeqCst), 1);
    let frames = FRAMES.load(SeqCst);
    assert!(frames > 0, "{frames} frames");
    run(&a, "BEGIN; UPDATE t SET n=2 WHERE id=10");
    run(&b, "BEGIN; UPDATE t SET n=2 WHERE id=10; COMMIT");
    assert_eq!(commit(&a), SNAPSHOT);
    assert_eq!(CALLS.load(SeqCst), 1, "nothing was committed");
}

/// A commit hook that refuses, and one that counts: as for any transaction.
#[test]
fn a_commit_hook_is_asked_before_the_validation() {
    let scene = scene(ROWS);
    let (mut a, b) = scene.pair();
    let refuses = Arc::new(AtomicI64::new(1));
    let of_hook = Arc::clone(&refuses);
    a.commit_hook(Some(move || of_hook.load(SeqCst) == 1)).expect("a hook");
    run(&a, "BEGIN; UPDATE t SET n=1 WHERE id=10");
    assert_eq!(commit(&a), ffi::SQLITE_CONSTRAINT_COMMITHOOK);
    refuses.store(0, SeqCst);
    assert_eq!(tried(&a, "BEGIN; UPDATE t SET n=1 WHERE id=10; COMMIT"), 0);
    assert_eq!(number(&b, "SELECT n FROM t WHERE id=10"), 1);
    assert_eq!((counted(&a, "open"), counted(&a, "staged_bytes")), (0, 0));
}
