//! Durability on demand: `pwal_commit()`, `pwal_wait_durable()`, `pwal_sync()`; and `pwal_wait_commit()`, which waits for
//! commits of any process.

use rusqlite::{Connection, ffi};
use std::path::Path;
use std::time::{Duration, Instant};
use support::processes::agent::Agent;
use support::scene::{COUNT, scene};
use support::{code_of, number, run, text};

const INSERT: &str = "INSERT INTO t VALUES('a row')";
/// Longer than any wait that is met.
const LONG: u64 = 60_000;

fn normal(path: &Path) -> Connection {
    let connection = support::open(path);
    run(&connection, "PRAGMA synchronous=NORMAL");
    connection
}

fn status(connection: &Connection, key: &str) -> u64 {
    support::lab::status(connection, key).as_u64().expect("a number")
}

fn wait_durable(commit: i64, timeout: u64) -> String {
    format!("SELECT pwal_wait_durable({commit}, {timeout})")
}

#[test]
fn one_flush_makes_many_commits_durable_when_that_is_asked_for() {
    if !support::on_pwal() {
        return;
    }
    let (_scene, path) = scene("durability on demand");
    let connection = normal(&path);
    assert_eq!(text(&connection, "SELECT ifnull(pwal_commit(), 'none')"), "none");
    run(&connection, INSERT);
    let first = number(&connection, "SELECT pwal_commit()");
    for _ in 0..50 {
        run(&connection, INSERT);
    }
    let last = number(&connection, "SELECT pwal_commit()");
    assert_eq!(last, first + 50);
    assert_eq!(number(&connection, &wait_durable(last, 0)), 0, "a look does not sync");
    assert!(status(&connection, "durable") < last as u64);

    let before = status(&connection, "flushes");
    assert_eq!(number(&connection, &wait_durable(first, LONG)), 1);
    assert_eq!(number(&connection, &wait_durable(last, 0)), 1, "the same flush");
    assert_eq!((status(&connection, "flushes") - before, status(&connection, "durable")), (1, last as u64));

    run(&connection, INSERT);
    assert_eq!(number(&connection, "SELECT pwal_sync()"), last + 1);
    assert_eq!(number(&connection, &wait_durable(last + 1, 0)), 1);
    assert_eq!(status(&connection, "flushes") - before, 2);
    assert_eq!(number(&connection, "SELECT pwal_sync()"), last + 1);
    assert_eq!(status(&connection, "flushes") - before, 2, "nothing was left to sync");
}

/// What another connection has committed: `pwal_sync` syncs it, `pwal_commit` does not count it.
#[test]
fn commits_of_other_connections_are_synced_and_are_not_ones_own() {
    if !support::on_pwal() {
        return;
    }
    let (_scene, path) = scene("commits of others");
    let (one, other) = (normal(&path), normal(&path));
    run(&one, INSERT);
    let own = number(&one, "SELECT pwal_commit()");
    run(&other, INSERT);
    assert_eq!(number(&one, COUNT), 2);
    assert_eq!(number(&one, "SELECT pwal_commit()"), own);
    assert_eq!(number(&one, "SELECT pwal_sync()"), own + 1);
    assert_eq!(number(&other, &wait_durable(own + 1, 0)), 1);
}

/// Under FULL a commit is durable when COMMIT returns, and after a rest of the log everything is.
#[test]
fn what_is_durable_already_needs_no_wait() {
    if !support::on_pwal() {
        return;
    }
    let (_scene, path) = scene("durable already");
    let connection = support::open(&path);
    run(&connection, &format!("PRAGMA synchronous=FULL; {INSERT}"));
    assert_eq!(number(&connection, "SELECT pwal_wait_durable(pwal_commit(), 0)"), 1);
    run(&connection, &format!("PRAGMA synchronous=NORMAL; {INSERT}"));
    assert_eq!(text(&connection, "SELECT pwal_retire()"), "retired");
    assert_eq!(number(&connection, "SELECT pwal_wait_durable(pwal_commit(), 0)"), 1);
    let rested = number(&connection, "SELECT pwal_commit()");
    run(&connection, INSERT);
    assert_eq!(number(&connection, "SELECT pwal_commit()"), rested + 1);
}

#[test]
fn a_wait_for_commits_ends_with_the_commit_of_any_process() {
    if !support::on_pwal() {
        return;
    }
    let (_scene, path) = scene("a wait for commits");
    let waiter = normal(&path);
    run(&waiter, INSERT);
    let mut seen = number(&waiter, "SELECT pwal_wait_commit(0, 0)");
    assert_eq!(seen, number(&waiter, "SELECT pwal_commit()"));
    let began = Instant::now();
    assert_eq!(number(&waiter, &format!("SELECT pwal_wait_commit({seen}, 30)")), seen, "the time is over");
    assert!(began.elapsed() >= Duration::from_millis(30));

    let (mut other, began) = (Agent::on(&path), Instant::now());
    for round in 0..40 {
        let sync = if round % 2 == 0 { "FULL" } else { "NORMAL" };
        other.ask(&format!("c PRAGMA synchronous={sync}"));
        other.tell(&format!("c {INSERT}"));
        let next = number(&waiter, &format!("SELECT pwal_wait_commit({seen}, {LONG})"));
        assert_eq!((next, number(&waiter, COUNT)), (seen + 1, round + 2));
        seen = next;
        other.answer();
    }
    // Without notifications each of them would be seen half a second later.
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    other.end();
}

/// Each waiter is woken by each commit: nobody is left asleep until its time is over.
#[test]
fn all_that_wait_are_woken() {
    if !support::on_pwal() {
        return;
    }
    let (_scene, path) = scene("many that wait for commits");
    let writer = normal(&path);
    run(&writer, INSERT);
    let start = number(&writer, "SELECT pwal_commit()");
    let began = Instant::now();
    std::thread::scope(|threads| {
        for _ in 0..8 {
            threads.spawn(|| {
                let connection = support::open(&path);
                number(&connection, COUNT);
                let mut seen = start;
                while seen < start + 100 {
                    let next = number(&connection, &format!("SELECT pwal_wait_commit({seen}, {LONG})"));
                    assert!(next > seen, "woken by the commit, not by the time");
                    seen = next;
                }
            });
        }
        for _ in 0..100 {
            run(&writer, INSERT);
        }
    });
    assert!(began.elapsed() < Duration::from_millis(LONG));
}

#[test]
fn what_cannot_be_waited_for_is_an_error() {
    if !support::on_pwal() {
        return;
    }
    let (scene, path) = scene("no commit to wait for");
    let connection = support::open(&path);
    run(&connection, INSERT);
    let last = number(&connection, "SELECT pwal_commit()");
    for (sql, why) in [
        (wait_durable(last + 1, 0), "is not committed yet"),
        ("SELECT pwal_wait_durable(NULL, 0)".into(), "not an integer"),
        ("SELECT pwal_wait_durable(1, -1)".into(), "not an integer"),
        ("SELECT pwal_wait_commit('1', 0)".into(), "not an integer"),
        ("SELECT pwal_wait_durable(1)".into(), "wrong number of arguments"),
    ] {
        let error = connection.query_row(&sql, [], |_| Ok(())).expect_err(&sql).to_string();
        assert!(error.contains(why), "{sql}: {error}");
    }
    let rollback = support::open(&scene.scratch.file("rollback.db"));
    run(&rollback, "CREATE TABLE t(x)");
    assert_eq!(code_of(&rollback, "SELECT pwal_sync()"), ffi::SQLITE_ERROR, "not in WAL mode");
    let stock = support::open_stock(&scene.scratch.file("stock.db"));
    for sql in ["SELECT pwal_commit()", "SELECT pwal_sync()", "SELECT pwal_wait_commit(0, 0)"] {
        let error = stock.query_row(sql, [], |_| Ok(())).expect_err(sql).to_string();
        assert!(error.contains("not on pwal"), "{error}");
    }
}
