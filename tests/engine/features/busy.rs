//! BUSY, where stock gives it, and waiting.

use rusqlite::{Connection, ffi};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use support::Scratch;

fn pair(scratch: &Scratch, timeout: Duration) -> (Connection, Connection) {
    let path = scratch.file("app.db");
    let one = support::open_wal(&path);
    support::run(&one, "CREATE TABLE t(x); INSERT INTO t VALUES(0)");
    let two = support::open(&path);
    one.busy_timeout(timeout).unwrap();
    two.busy_timeout(timeout).unwrap();
    (one, two)
}

#[test]
fn without_a_timeout_busy_comes_at_once() {
    let scratch = Scratch::new();
    let (one, two) = pair(&scratch, Duration::ZERO);
    support::run(&one, "BEGIN IMMEDIATE");
    let begun = Instant::now();
    for sql in ["BEGIN IMMEDIATE", "BEGIN EXCLUSIVE", "INSERT INTO t VALUES(1)", "CREATE TABLE u(x)", "VACUUM"] {
        assert_eq!(support::code_of(&two, sql), ffi::SQLITE_BUSY, "{sql}");
        assert!(two.is_autocommit());
    }
    assert!(begun.elapsed() < Duration::from_secs(2));
    support::run(&one, "ROLLBACK");
    support::run(&two, "BEGIN IMMEDIATE; INSERT INTO t VALUES(1); COMMIT");
}

#[test]
fn readers_are_never_kept_out_by_a_writer() {
    let scratch = Scratch::new();
    let (one, two) = pair(&scratch, Duration::ZERO);
    for begin in ["BEGIN IMMEDIATE", "BEGIN EXCLUSIVE"] {
        support::run(&one, begin);
        support::run(&one, "DELETE FROM t");
        assert_eq!(support::number(&two, "SELECT count(*) FROM t"), 1);
        support::run(&one, "ROLLBACK");
    }
}

#[test]
fn a_timeout_is_kept() {
    let scratch = Scratch::new();
    let (one, two) = pair(&scratch, Duration::from_millis(300));
    support::run(&one, "BEGIN IMMEDIATE");
    let begun = Instant::now();
    assert_eq!(support::code_of(&two, "BEGIN IMMEDIATE"), ffi::SQLITE_BUSY);
    let waited = begun.elapsed();
    assert!((Duration::from_millis(250)..Duration::from_secs(5)).contains(&waited), "{waited:?}");
}

#[test]
fn a_waiter_gets_the_lock_when_the_holder_is_done() {
    for end in ["COMMIT", "ROLLBACK"] {
        let scratch = Scratch::new();
        let (one, two) = pair(&scratch, Duration::from_secs(20));
        support::run(&one, "BEGIN IMMEDIATE; INSERT INTO t VALUES(1)");
        let waiter = std::thread::spawn(move || {
            support::run(&two, "INSERT INTO t VALUES(2)");
            two
        });
        std::thread::sleep(Duration::from_millis(100));
        support::run(&one, end);
        let two = waiter.join().unwrap();
        assert_eq!(support::number(&two, "SELECT count(*) FROM t"), if end == "COMMIT" { 3 } else { 2 });
    }
}

#[test]
fn a_waiter_gets_the_lock_when_the_holder_closes() {
    let scratch = Scratch::new();
    let (one, two) = pair(&scratch, Duration::from_secs(20));
    support::run(&one, "BEGIN IMMEDIATE; INSERT INTO t VALUES(1)");
    let waiter = std::thread::spawn(move || {
        support::run(&two, "INSERT INTO t VALUES(2)");
        two
    });
    std::thread::sleep(Duration::from_millis(100));
    support::close(one);
    assert_eq!(support::number(&waiter.join().unwrap(), "SELECT count(*) FROM t"), 2);
}

#[test]
fn an_upgrade_asks_no_busy_handler_and_says_whether_the_snapshot_is_stale() {
    let scratch = Scratch::new();
    let (one, mut two) = pair(&scratch, Duration::ZERO);
    two.busy_handler(Some(|_| panic!("not asked"))).unwrap();
    support::run(&two, "BEGIN; SELECT * FROM t");
    support::run(&one, "BEGIN IMMEDIATE; INSERT INTO t VALUES(1)");
    assert_eq!(support::code_of(&two, "INSERT INTO t VALUES(2)"), ffi::SQLITE_BUSY);
    support::run(&one, "ROLLBACK");
    support::run(&two, "INSERT INTO t VALUES(2); COMMIT");
    support::run(&two, "BEGIN; SELECT * FROM t");
    support::run(&one, "INSERT INTO t VALUES(3)");
    assert_eq!(support::code_of(&two, "INSERT INTO t VALUES(4)"), ffi::SQLITE_BUSY_SNAPSHOT);
}

#[test]
fn a_custom_handler_is_called_until_it_gives_up() {
    let scratch = Scratch::new();
    let (one, mut two) = pair(&scratch, Duration::ZERO);
    let calls = Arc::new(AtomicUsize::new(0));
    let called = Arc::clone(&calls);
    two.busy_handler(Some(move |_| called.fetch_add(1, Ordering::Relaxed) < 5)).unwrap();
    support::run(&one, "BEGIN IMMEDIATE");
    assert_eq!(support::code_of(&two, "BEGIN IMMEDIATE"), ffi::SQLITE_BUSY);
    assert_eq!(calls.load(Ordering::Relaxed), 6);
}

#[test]
fn a_thread_that_gave_up_waiting_does_not_keep_others_out() {
    let scratch = Scratch::new();
    let (one, two) = pair(&scratch, Duration::from_millis(20));
    support::run(&one, "BEGIN IMMEDIATE");
    for _ in 0..3 {
        assert_eq!(support::code_of(&two, "BEGIN IMMEDIATE"), ffi::SQLITE_BUSY);
    }
    support::run(&one, "COMMIT");
    // Whatever was reserved for the waiter, it has ended: it does not come back.
    let three = support::open(&scratch.file("app.db"));
    three.busy_timeout(Duration::from_secs(5)).unwrap();
    for n in 0..20 {
        support::run(&three, &format!("INSERT INTO t VALUES({n})"));
        support::run(&one, &format!("INSERT INTO t VALUES({n})"));
    }
    assert_eq!(support::number(&three, "SELECT count(*) FROM t"), 41);
}

#[test]
fn a_thread_that_waits_for_its_own_other_connection_ends_with_busy() {
    let scratch = Scratch::new();
    let (one, two) = pair(&scratch, Duration::from_millis(100));
    support::run(&one, "BEGIN IMMEDIATE; INSERT INTO t VALUES(1)");
    assert_eq!(support::code_of(&two, "INSERT INTO t VALUES(2)"), ffi::SQLITE_BUSY);
    support::run(&one, "COMMIT");
    support::run(&two, "INSERT INTO t VALUES(2)");
    assert_eq!(support::number(&one, "SELECT count(*) FROM t"), 3);
}

#[test]
fn writers_in_threads_all_get_through() {
    const EACH: i64 = 40;
    let scratch = Scratch::new();
    let path = scratch.file("app.db");
    let (one, two) = pair(&scratch, Duration::from_secs(60));
    std::thread::scope(|scope| {
        for thread in 0..6 {
            let path = &path;
            scope.spawn(move || {
                let connection = support::open(path);
                connection.busy_timeout(Duration::from_secs(60)).unwrap();
                for n in 0..EACH {
                    support::run(
                        &connection,
                        &format!("BEGIN IMMEDIATE; INSERT INTO t VALUES({thread}*1000+{n}); COMMIT"),
                    );
                }
            });
        }
    });
    drop(two);
    assert_eq!(support::number(&one, "SELECT count(DISTINCT x) FROM t WHERE x<>0 OR rowid=1"), 6 * EACH);
}
