//! The background thread's checkpoints: those that commits ask for, and the one when nobody has committed for a while.

use std::time::{Duration, Instant};

fn status(connection: &rusqlite::Connection, field: &str) -> u64 {
    let json: String = connection.query_row("PRAGMA parallel_wal_status", [], |row| row.get(0)).unwrap();
    let status: serde_json::Value = serde_json::from_str(&json).unwrap();
    status[field].as_u64().unwrap_or_else(|| panic!("{field} in {json}"))
}

#[test]
fn everything_is_backfilled_when_nobody_commits() {
    if !support::on_pwal() {
        return;
    }
    let scratch = support::Scratch::new();
    let connection = support::open_wal(&scratch.file("app.db"));
    support::run(&connection, "PRAGMA wal_autocheckpoint=10; CREATE TABLE t(a)");
    for round in 0..2 {
        for i in 0..40 {
            support::run(&connection, &format!("INSERT INTO t VALUES({i})"));
        }
        let deadline = Instant::now() + Duration::from_secs(30);
        while status(&connection, "backfilled") < status(&connection, "published") {
            assert!(Instant::now() < deadline, "round {round}");
            std::thread::yield_now();
        }
    }
}

#[test]
fn wal_autocheckpoint_0_turns_it_off() {
    if !support::on_pwal() {
        return;
    }
    let scratch = support::Scratch::new();
    let connection = support::open_wal(&scratch.file("app.db"));
    support::run(&connection, "PRAGMA wal_autocheckpoint=0; CREATE TABLE t(a)");
    for i in 0..40 {
        support::run(&connection, &format!("INSERT INTO t VALUES({i})"));
    }
    // Longer than the log has to be idle for.
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(status(&connection, "backfilled"), 0);
    assert_eq!(status(&connection, "published"), 41);
}

#[test]
fn a_checkpoint_that_is_asked_for_behind_a_commit_works() {
    if !support::on_pwal() {
        return;
    }
    let scratch = support::Scratch::new();
    let connection = support::open_wal(&scratch.file("app.db"));
    support::run(&connection, "PRAGMA wal_autocheckpoint=0; CREATE TABLE t(a); INSERT INTO t VALUES(1)");
    let rows = support::rows(&connection, "PRAGMA wal_checkpoint").unwrap();
    assert_eq!(status(&connection, "backfilled"), 2, "{rows:?}");
}
