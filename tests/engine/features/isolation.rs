//! What one connection sees of the others.

use super::fill;
use rusqlite::{Connection, ffi};
use std::time::Duration;
use support::Scratch;

fn count(connection: &Connection) -> i64 {
    support::number(connection, "SELECT count(*) FROM t")
}

fn pair(scratch: &Scratch) -> (Connection, Connection) {
    let path = scratch.file("app.db");
    let one = support::open_wal(&path);
    fill(&one, 10, 100);
    (one, support::open(&path))
}

#[test]
fn a_snapshot_stands_still_until_its_transaction_ends() {
    let scratch = Scratch::new();
    let (writer, reader) = pair(&scratch);
    support::run(&reader, "BEGIN");
    assert_eq!(count(&reader), 10);
    for round in 0..20 {
        fill(&writer, 5, 2000);
        support::run(&writer, "UPDATE t SET x='new' WHERE id<=10");
        support::text(&writer, "PRAGMA wal_checkpoint(PASSIVE)");
        assert_eq!(count(&reader), 10, "round {round}");
        assert_eq!(support::text(&reader, "SELECT DISTINCT length(x) FROM t"), "100");
    }
    support::run(&reader, "COMMIT");
    assert_eq!(count(&reader), 110);
}

#[test]
fn a_commit_is_seen_by_others_when_it_returns_and_not_before() {
    let scratch = Scratch::new();
    let (writer, reader) = pair(&scratch);
    for round in 1..=50_i64 {
        support::run(&writer, "BEGIN; INSERT INTO t(x) VALUES('one'); INSERT INTO t(x) VALUES('two')");
        assert_eq!(count(&reader), 10 + (round - 1) * 2);
        support::run(&writer, "COMMIT");
        assert_eq!(count(&reader), 10 + round * 2);
    }
}

#[test]
fn connections_that_take_turns_see_each_others_commits() {
    let scratch = Scratch::new();
    let path = scratch.file("app.db");
    let (first, second) = pair(&scratch);
    let all = [first, second, support::open(&path), support::open(&path)];
    for round in 0..40 {
        let connection = &all[round * 7 % 4];
        support::run(connection, "BEGIN; UPDATE t SET x=x||'!' WHERE id=1");
        let length = support::text(connection, "SELECT length(x) FROM t WHERE id=1");
        support::run(connection, "COMMIT");
        for other in &all {
            assert_eq!(support::text(other, "SELECT length(x) FROM t WHERE id=1"), length);
        }
    }
}

#[test]
fn a_stale_snapshot_cannot_write_and_the_transaction_goes_on_reading() {
    let scratch = Scratch::new();
    let (writer, reader) = pair(&scratch);
    support::run(&reader, "BEGIN");
    assert_eq!(count(&reader), 10);
    fill(&writer, 1, 10);
    assert_eq!(support::code_of(&reader, "INSERT INTO t(x) VALUES(1)"), ffi::SQLITE_BUSY_SNAPSHOT);
    assert_eq!(count(&reader), 10);
    support::run(&reader, "ROLLBACK; INSERT INTO t(x) VALUES(1)");
    assert_eq!(count(&writer), 12);
}

#[test]
fn data_version_moves_with_foreign_commits_and_only_with_them() {
    let scratch = Scratch::new();
    let (writer, reader) = pair(&scratch);
    let version = |connection: &Connection| support::number(connection, "PRAGMA data_version");
    let (mut of_writer, mut of_reader) = (version(&writer), version(&reader));
    for _ in 0..5 {
        fill(&writer, 3, 100);
        assert_eq!(version(&writer), of_writer, "own commit");
        assert_ne!(version(&reader), of_reader, "foreign commit");
        of_reader = version(&reader);
        assert_eq!(version(&reader), of_reader, "nothing happened");
        support::run(&writer, "BEGIN IMMEDIATE; DELETE FROM t; ROLLBACK");
        assert_eq!(version(&reader), of_reader, "a rollback");
        assert_eq!(version(&writer), of_writer, "an own rollback");
        fill(&reader, 1, 1);
        assert_eq!(version(&reader), of_reader, "own commit");
        assert_ne!(version(&writer), of_writer, "foreign commit");
        of_writer = version(&writer);
    }
}

#[test]
fn an_open_cursor_keeps_its_rows_over_own_and_foreign_commits() {
    let scratch = Scratch::new();
    let (own, other) = pair(&scratch);
    let mut statement = own.prepare("SELECT id FROM t WHERE id<=10").unwrap();
    let mut rows = statement.query([]).unwrap();
    let mut seen = Vec::new();
    while let Some(row) = rows.next().unwrap() {
        seen.push(row.get::<_, i64>(0).unwrap());
        fill(&other, 2, 3000);
        if seen.len() % 3 == 0 {
            // Reading an old snapshot, it cannot write; the newest it could.
            assert_eq!(support::code_of(&own, "INSERT INTO t(x) VALUES(0)"), ffi::SQLITE_BUSY_SNAPSHOT);
        }
    }
    assert_eq!(seen, (1..=10).collect::<Vec<_>>());
    drop(rows);
    drop(statement);
    assert_eq!(count(&own), 30);
}

#[test]
fn own_commits_go_on_under_an_open_cursor() {
    let scratch = Scratch::new();
    let (own, other) = pair(&scratch);
    let mut statement = own.prepare("SELECT id FROM t ORDER BY id DESC").unwrap();
    let mut rows = statement.query([]).unwrap();
    for expected in (1..=10_i64).rev() {
        assert_eq!(rows.next().unwrap().unwrap().get::<_, i64>(0).unwrap(), expected);
        support::run(&own, "INSERT INTO t(x) VALUES(zeroblob(3000))");
    }
    assert!(rows.next().unwrap().is_none());
    assert_eq!(count(&other), 20);
}

#[test]
fn savepoints_nest_and_a_rollback_to_one_takes_back_what_came_behind_it() {
    let scratch = Scratch::new();
    let (own, other) = pair(&scratch);
    support::run(&own, "PRAGMA cache_size=2; BEGIN");
    fill(&own, 50, 3000);
    support::run(&own, "SAVEPOINT a; DELETE FROM t WHERE id%2");
    fill(&own, 50, 3000);
    support::run(&own, "SAVEPOINT b; DELETE FROM t; ROLLBACK TO b");
    assert_eq!(count(&own), 80);
    support::run(&own, "RELEASE b; ROLLBACK TO a");
    assert_eq!(count(&own), 60);
    fill(&own, 10, 3000);
    assert_eq!(count(&other), 10);
    support::run(&own, "COMMIT");
    assert_eq!((count(&own), count(&other)), (70, 70));
    support::assert_integrity(&other);
}

#[test]
fn a_big_transaction_that_spills_commits_or_rolls_back_whole() {
    let scratch = Scratch::new();
    let (own, other) = pair(&scratch);
    support::run(&own, "PRAGMA cache_size=5; BEGIN");
    fill(&own, 2000, 5000);
    support::run(&own, "UPDATE t SET x=zeroblob(4000) WHERE id%5=0");
    assert_eq!((count(&own), count(&other)), (2010, 10));
    support::run(&own, "ROLLBACK");
    assert_eq!((count(&own), count(&other)), (10, 10));
    support::assert_integrity(&own);
    support::run(&own, "BEGIN");
    fill(&own, 2000, 5000);
    support::run(&own, "COMMIT");
    assert_eq!(count(&other), 2010);
    support::assert_integrity(&other);
}

#[test]
fn an_interrupted_statement_is_rolled_back_and_the_connection_goes_on() {
    let scratch = Scratch::new();
    let (own, other) = pair(&scratch);
    support::run(&own, "PRAGMA cache_size=5");
    for begin in ["", "BEGIN;"] {
        support::run(&own, begin);
        let interrupt = own.get_interrupt_handle();
        let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let stopped = std::sync::Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(50));
            while !stopped.load(std::sync::atomic::Ordering::Relaxed) {
                interrupt.interrupt();
                std::thread::yield_now();
            }
        });
        let endless = "INSERT INTO t(x) WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n) SELECT zeroblob(3000) FROM n";
        let code = support::code_of(&own, endless);
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        thread.join().unwrap();
        assert_eq!(code, ffi::SQLITE_INTERRUPT);
        assert!(own.is_autocommit(), "an interrupted write rolls everything back");
        assert_eq!((count(&own), count(&other)), (10, 10));
    }
    fill(&own, 1, 100);
    assert_eq!(count(&other), 11);
    support::assert_integrity(&own);
}

#[test]
fn one_connection_may_be_used_by_several_threads_in_turn_inside_one_transaction() {
    let scratch = Scratch::new();
    let (mut own, other) = pair(&scratch);
    for round in 0..10 {
        for sql in [
            "BEGIN IMMEDIATE",
            "INSERT INTO t(x) VALUES(zeroblob(5000))",
            "SAVEPOINT s",
            "DELETE FROM t WHERE id=3",
            "ROLLBACK TO s",
            "UPDATE t SET x='moved' WHERE id=4",
            if round % 3 == 2 { "ROLLBACK" } else { "COMMIT" },
            "SELECT count(*) FROM t",
        ] {
            own = std::thread::spawn(move || {
                support::run(&own, sql);
                own
            })
            .join()
            .unwrap();
        }
    }
    assert_eq!(count(&other), 17);
    assert_eq!(support::code_of(&other, "BEGIN IMMEDIATE; COMMIT"), 0);
    std::thread::spawn(move || support::close(own)).join().unwrap();
    support::close(other);
    support::assert_plain(&scratch.file("app.db"));
}

#[test]
fn schema_changes_reach_other_connections() {
    let scratch = Scratch::new();
    let (own, other) = pair(&scratch);
    let mut statement = other.prepare("SELECT count(*) FROM t").unwrap();
    for round in 0..20 {
        support::run(&own, &format!("CREATE TABLE n{round}(x); ALTER TABLE t ADD COLUMN c{round}"));
        support::run(&other, &format!("INSERT INTO n{round} VALUES(1); CREATE INDEX i{round} ON n{round}(x)"));
        support::run(&own, &format!("DROP TABLE n{round}"));
        assert_eq!(statement.query_row([], |row| row.get::<_, i64>(0)).unwrap(), 10);
    }
    support::assert_integrity(&own);
}
