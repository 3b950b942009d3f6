//! What goes on beside such a transaction, and what ends it.

use super::*;
use rusqlite::OptionalExtension;
use support::lab::status;

/// The rest of a query.
fn drain(rows: &mut rusqlite::Rows<'_>) -> Vec<(i64, i64)> {
    let mut rest = Vec::new();
    while let Some(row) = rows.next().expect("a row") {
        rest.push((row.get(0).expect("an id"), row.get(1).expect("a number")));
    }
    rest
}

/// The cursor reads on in its own world: its snapshot, and what this connection has committed since.
#[test]
fn a_cursor_stays_open_over_the_commit() {
    let scene = scene(ROWS);
    let (a, b) = scene.pair();
    let mut statement = a.prepare("SELECT id, n FROM t ORDER BY id").expect("a statement");
    let mut rows = statement.query([]).expect("a query");
    rows.next().expect("a row");
    run(&a, "BEGIN; UPDATE t SET n=1 WHERE id=10000");
    run(&b, "BEGIN; UPDATE t SET n=2 WHERE id=20000; COMMIT");
    assert_eq!(commit(&a), 0);
    // No further write on this snapshot, by whatever statement.
    for begin in ["BEGIN", "SAVEPOINT s", ""] {
        assert_eq!(tried(&a, &format!("{begin}; UPDATE t SET n=3 WHERE id=9000")), SNAPSHOT, "{begin}");
    }
    let rest = drain(&mut rows);
    assert_eq!((rest.len(), rest.iter().map(|(_, n)| n).sum::<i64>()), (1999, 1));
    drop(rows);
    drop(statement);
    assert_eq!(number(&a, "SELECT sum(n) FROM t"), 3);
    run(&a, "BEGIN; UPDATE t SET n=3 WHERE id=9000; COMMIT");
    for connection in [&a, &b, &scene.serial] {
        assert_eq!(number(connection, "SELECT sum(n) FROM t"), 6);
        support::assert_integrity(connection);
    }
}

/// Own commits beside others, with a cursor open or without, and then whatever makes the view anew.
#[test]
fn a_connection_reads_everything_after_its_commit_beside_others() {
    let scene = scene(ROWS);
    let (a, b) = scene.pair();
    let mut sum = 0;
    for round in 0..40 {
        run(&a, "BEGIN; UPDATE t SET n=n+1 WHERE id=10");
        run(&b, &format!("BEGIN; UPDATE t SET n=n+1 WHERE id={}; COMMIT", 10000 + 10 * (round % 7)));
        // It has written for long: after one that had not, the next ones would begin with an empty cache. Its first write comes at once,
        // but where the machine stops the thread.
        std::thread::sleep(Duration::from_millis(5));
        // All of the table is in the cache since the last round, and counts as read. Not in the second try: others have committed.
        let first = commit(&a);
        assert_eq!(first, if round == 0 { 0 } else { SNAPSHOT }, "round {round}");
        if first != 0 {
            run(&a, "BEGIN; UPDATE t SET n=n+1 WHERE id=10");
            run(&b, &format!("BEGIN; UPDATE t SET n=n+1 WHERE id={}; COMMIT", 10000 + 10 * (round % 7)));
            assert_eq!(commit(&a), 0, "round {round}");
            sum += 1;
        }
        sum += 2;
        match round % 4 {
            0 => run(&b, "PRAGMA wal_checkpoint(TRUNCATE)"),
            1 => run(&a, "PRAGMA wal_checkpoint(PASSIVE)"),
            2 => run(&a, "PRAGMA wal_checkpoint(TRUNCATE)"),
            _ => {}
        }
        for connection in [&a, &b] {
            assert_eq!(number(connection, "SELECT sum(n) FROM t"), sum, "round {round}");
        }
    }
    support::assert_integrity(&a);
}

#[test]
fn checkpoints_of_each_kind_pass_an_open_transaction() {
    let scene = scene(ROWS);
    let (a, b) = scene.pair();
    patient(&scene.serial, 50);
    let mut expected = 0;
    for kind in ["PASSIVE", "FULL", "RESTART", "TRUNCATE"] {
        run(&a, "BEGIN; UPDATE t SET n=n+1 WHERE id=10");
        run(&b, "BEGIN; UPDATE t SET n=n+1 WHERE id=20000; COMMIT");
        // RESTART and TRUNCATE wait for the snapshot, as for a reader's.
        run(&scene.serial, &format!("PRAGMA wal_checkpoint({kind})"));
        run(&b, "BEGIN; UPDATE t SET n=n+1 WHERE id=20000; COMMIT");
        assert_eq!(commit(&a), 0, "{kind}");
        expected += 3;
        assert_eq!(number(&scene.serial, "SELECT sum(n) FROM t"), expected, "{kind}");
        run(&scene.serial, &format!("PRAGMA wal_checkpoint({kind})"));
        assert_eq!(number(&a, "SELECT n FROM t WHERE id=10"), expected / 3, "{kind}");
    }
    support::assert_integrity(&a);
}

/// The log is retired with the transaction open, and made anew by its commit, or by another's, which counts for it.
#[test]
fn the_log_rests_beside_an_open_transaction() {
    const RETIRE: &str = "SELECT pwal_retire()";
    let scene = scene(ROWS);
    let a = scene.concurrent();
    run(&a, "BEGIN; UPDATE t SET n=n+1 WHERE id=10");
    assert_eq!(text(&scene.serial, RETIRE), "retired");
    assert_eq!(commit(&a), 0);
    assert_eq!(number(&scene.serial, "SELECT n FROM t WHERE id=10"), 1);
    for (id, code) in [(10, SNAPSHOT), (10000, 0)] {
        run(&a, "BEGIN; UPDATE t SET n=n+1 WHERE id=10");
        assert_eq!(text(&scene.serial, RETIRE), "retired");
        run(&scene.serial, &format!("UPDATE t SET n=n+1 WHERE id={id}"));
        // What it has not seen cannot be retired.
        assert_eq!(code_of(&scene.serial, RETIRE), ffi::SQLITE_BUSY);
        assert_eq!(commit(&a), code);
    }
    assert_eq!(number(&a, "SELECT sum(n) FROM t"), 4);
    for connection in [a, scene.serial] {
        support::assert_integrity(&connection);
        support::close(connection);
    }
    support::assert_plain(&scene.path);
}

/// With a full lane and WRITE with a serial writer, pages stay in SQLite's memory: no statement waits for it, only COMMIT does.
#[test]
fn a_statement_does_not_wait_for_the_write_lock() {
    use std::sync::atomic::{AtomicI32, Ordering::SeqCst};
    static ASKED: AtomicI32 = AtomicI32::new(0);
    let scene = scene(ROWS);
    let (mut a, b) = scene.pair();
    run(&scene.serial, "PRAGMA parallel_wal_max_batch_bytes=65536");
    run(&a, "PRAGMA cache_size=10");
    a.busy_handler(Some(|_| ASKED.fetch_add(1, SeqCst) < 3)).expect("a busy handler");
    run(&b, "BEGIN IMMEDIATE");
    run(&a, "BEGIN; UPDATE t SET n=3 WHERE id < 10000; UPDATE t SET n=4 WHERE id >= 10000");
    assert_eq!((ASKED.load(SeqCst), counted(&a, "full_lanes")), (0, 0));
    assert_eq!(code_of(&a, "COMMIT"), ffi::SQLITE_BUSY);
    assert_eq!(ASKED.load(SeqCst), 4);
    run(&b, "COMMIT");
    assert_eq!(commit(&a), 0);
    assert_eq!(number(&b, "SELECT sum(n) FROM t"), 3 * 999 + 4 * 1001);
    support::assert_integrity(&b);
}

/// One that writes beside others needs no turn in the write queue, in which its connection was refused before.
#[test]
fn it_does_not_wait_in_the_write_queue() {
    let scene = scene(ROWS);
    let (a, b) = scene.pair();
    let waits = scene.concurrent();
    patient(&a, 0);
    run(&b, "BEGIN IMMEDIATE");
    std::thread::scope(|scope| {
        let waiting = scope.spawn(move || run(&waits, "UPDATE t SET n=n+1 WHERE id=20000"));
        support::lab::wait_until(|| status(&b, "waiting_writers") == 1);
        // From now on it has a place there.
        assert_eq!(code_of(&a, "UPDATE t SET n=n+1 WHERE id=10"), ffi::SQLITE_BUSY);
        let shortest = (0..20).map(|_| {
            let began = std::time::Instant::now();
            run(&a, "BEGIN; UPDATE t SET n=n+1 WHERE id=10");
            let took = began.elapsed();
            run(&a, "ROLLBACK");
            took
        });
        let shortest = shortest.min().expect("twenty");
        assert!(shortest < Duration::from_millis(4), "{shortest:?}");
        run(&b, "COMMIT");
        waiting.join().expect("no panic");
    });
}

#[test]
fn a_full_lane_turns_serial() {
    let scene = scene(ROWS);
    let (a, b) = scene.pair();
    run(&scene.serial, "PRAGMA parallel_wal_max_batch_bytes=65536");
    run(&a, "PRAGMA cache_size=20");
    let many = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < 600)
                INSERT INTO u(pad) SELECT randomblob(1000) FROM c";
    // It takes WRITE before COMMIT.
    run(&a, &format!("BEGIN; {many}"));
    assert_eq!(counted(&a, "full_lanes"), 1);
    assert!(counted(&a, "staged_bytes") > 65536);
    patient(&b, 0);
    assert_eq!(code_of(&b, "BEGIN IMMEDIATE"), ffi::SQLITE_BUSY);
    assert_eq!(commit(&a), 0);
    assert_eq!((number(&b, "SELECT count(*) FROM u"), counted(&a, "staged_bytes")), (600, 0));
    // What was committed before is noticed.
    run(&a, "BEGIN; UPDATE t SET n=n+1 WHERE id=10");
    run(&b, "BEGIN; UPDATE t SET n=n+1 WHERE id=10; COMMIT");
    run(&a, many);
    assert_eq!(commit(&a), SNAPSHOT);
    run(&b, "UPDATE t SET n=n+1 WHERE id=20");
    // And what was not touched is no conflict: the images in the spill file are stamped as those of their commit.
    run(&a, "BEGIN; SELECT 1 FROM u LIMIT 1; UPDATE u SET n=1 WHERE id=1");
    run(&b, "BEGIN; UPDATE t SET n=n+1 WHERE id=20000; COMMIT");
    run(&a, "UPDATE u SET n=2");
    assert_eq!(commit(&a), 0);
    assert_eq!(number(&b, "SELECT sum(n) FROM u"), 1200);
    // While a serial writer has WRITE, its pages stay in SQLite's memory, and COMMIT says BUSY.
    patient(&a, 0);
    run(&b, "BEGIN IMMEDIATE");
    run(&a, "BEGIN; UPDATE u SET n=3");
    assert_eq!(code_of(&a, "COMMIT"), ffi::SQLITE_BUSY);
    assert!(!a.is_autocommit());
    run(&b, "ROLLBACK");
    assert_eq!(commit(&a), 0);
    assert_eq!(number(&b, "SELECT sum(n) FROM u"), 1800);
    for sql in ["PRAGMA wal_checkpoint(TRUNCATE)", "PRAGMA integrity_check"] {
        run(&b, sql);
    }
    support::assert_integrity(&b);
    // A rollback leaves nothing.
    run(&a, "BEGIN; UPDATE u SET n=4; ROLLBACK; PRAGMA wal_checkpoint(TRUNCATE)");
    assert_eq!((counted(&a, "open"), counted(&a, "staged_bytes")), (0, 0));
    assert_eq!(number(&a, "SELECT sum(n) FROM u"), 1800);
    run(&b, "BEGIN IMMEDIATE; COMMIT");
}

#[test]
fn vacuum_and_backups_are_serial() {
    let scene = scene(&format!("{ROWS}; DELETE FROM t WHERE id > 15000"));
    let (a, b) = scene.pair();
    run(&b, "BEGIN; UPDATE t SET n=1 WHERE id=10");
    run(&a, "VACUUM");
    assert_eq!(commit(&b), SNAPSHOT, "every page is another");
    patient(&b, 0);
    run(&b, "BEGIN IMMEDIATE");
    assert_eq!(code_of(&a, "VACUUM"), ffi::SQLITE_BUSY);
    run(&b, "COMMIT");
    support::assert_integrity(&a);
    // Into the connection: its own BEGIN is of no account.
    let mut from = Connection::open_in_memory().expect("a database");
    run(&from, "CREATE TABLE copied(x); INSERT INTO copied VALUES(7)");
    run(&b, "BEGIN; UPDATE t SET n=1 WHERE id=10");
    let mut to = scene.concurrent();
    rusqlite::backup::Backup::new(&from, &mut to).expect("a backup").step(-1).expect("all of it");
    assert_eq!(commit(&b), SNAPSHOT);
    assert_eq!(number(&to, "SELECT x FROM copied"), 7);
    // Out of it, in a transaction.
    run(&to, "BEGIN; UPDATE copied SET x=8");
    run(&a, "BEGIN; PRAGMA user_version; COMMIT");
    assert_eq!(commit(&to), 0);
    rusqlite::backup::Backup::new(&to, &mut from).expect("a backup").step(-1).expect("all of it");
    assert_eq!(number(&from, "SELECT x FROM copied"), 8);
}

/// Two connections that have the two databases in opposite orders: neither waits for the other for long.
#[test]
fn attached_databases_commit_together_in_whatever_order() {
    let (one, other) = (scene(ROWS), scene(ROWS));
    let attach = |main: &Scene, attached: &Scene| {
        let connection = main.concurrent();
        run(&connection, &format!("ATTACH '{}' AS o", attached.path.display()));
        assert_eq!(text(&connection, "PRAGMA o.parallel_wal_writers=concurrent"), "concurrent");
        number(&connection, "SELECT count(*) FROM o.sqlite_schema");
        connection
    };
    let work = |connection: Connection, ids: [i64; 2]| {
        let (mut done, mut conflicts) = (0, 0);
        while done < 15 {
            for (id, schema) in ids.iter().zip(["main", "o"]) {
                let begin = if schema == "main" { "BEGIN" } else { "" };
                run(&connection, &format!("{begin}; UPDATE {schema}.t SET n=n+1 WHERE id={id}"));
            }
            match code_of(&connection, "COMMIT") {
                0 => done += 1,
                SNAPSHOT => {
                    assert!(connection.is_autocommit());
                    conflicts += 1;
                }
                other => panic!("COMMIT is {other}"),
            }
        }
        conflicts
    };
    std::thread::scope(|scope| {
        let (a, b) = (attach(&one, &other), attach(&other, &one));
        let threads = [scope.spawn(move || work(a, [10, 20000])), scope.spawn(move || work(b, [10, 20000]))];
        for thread in threads {
            thread.join().expect("no panic");
        }
    });
    for scene in [&one, &other] {
        assert_eq!(text(&scene.serial, "SELECT group_concat(n) FROM t WHERE id IN (10, 20000)"), "15,15");
        support::assert_integrity(&scene.serial);
    }
    // A conflict in the second one takes the first one back.
    let a = attach(&one, &other);
    run(&a, "BEGIN; UPDATE main.t SET n=-1 WHERE id=10; UPDATE o.t SET n=-1 WHERE id=10");
    run(&other.serial, "UPDATE t SET n=n+1 WHERE id=10");
    assert_eq!(commit(&a), SNAPSHOT);
    assert_eq!((number(&a, "SELECT n FROM main.t WHERE id=10"), number(&a, "SELECT n FROM o.t WHERE id=10")), (15, 16));
    run(&one.serial, "UPDATE t SET n=0");
    run(&other.serial, "UPDATE t SET n=0");
}

#[test]
fn the_setting_is_the_connections_own() {
    let scene = scene(ROWS);
    let uri = |value: &str| {
        let uri = format!("file:{}?parallel_wal_writers={value}", scene.path.display());
        support::try_open(Path::new(&uri), support::flags(), support::vfs()).expect("a connection")
    };
    let answer = |connection: &Connection| text(connection, "PRAGMA parallel_wal_writers");
    let (a, b) = (uri("concurrent"), uri("serial"));
    assert_eq!(
        (answer(&a), answer(&b), answer(&scene.serial)),
        ("concurrent".into(), "serial".into(), "serial".into())
    );
    for connection in [&a, &b] {
        number(connection, "SELECT count(*) FROM t");
    }
    assert_eq!((answer(&a), answer(&b)), ("concurrent".into(), "serial".into()));
    assert_eq!(code_of(&b, "PRAGMA parallel_wal_writers=parallel"), ffi::SQLITE_ERROR);
    assert_eq!((answer(&b), status(&b, "concurrent")), ("serial".into(), serde_json::Value::Null));
    // One that has the database for itself is a serial one.
    let plain = Connection::open_in_memory().expect("a database");
    assert_eq!(plain.query_row("PRAGMA parallel_wal_writers", [], |row| row.get::<_, String>(0)).optional(), Ok(None));
}
