//! Busy handlers, xSleep, and what SQLite asks again after a refusal.

use super::{Lab, Trace};
use rusqlite::ffi;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use support::shim::Verdict;

/// The microseconds of all calls of xSleep.
fn sleeps(trace: &Trace) -> Vec<u64> {
    trace.only(&["sleep "]).iter().map(|call| call.rsplit(' ').next().unwrap().parse().unwrap()).collect()
}

#[test]
fn the_busy_timeout_counts_nominal_delays_and_sleeps_by_the_vfs() {
    let lab = Lab::new();
    let writer = lab.wal();
    let waiter = lab.open("a.db");
    waiter.busy_timeout(Duration::from_millis(400)).unwrap();
    support::run(&writer, "BEGIN IMMEDIATE");
    lab.shim.hook(|moment| if moment.text.starts_with("sleep") { Verdict::Value(0) } else { Verdict::Pass });
    let begun = Instant::now();
    let trace = lab.trace(|| assert_eq!(support::code_of(&waiter, "BEGIN IMMEDIATE"), ffi::SQLITE_BUSY));
    let slept: Vec<u64> = sleeps(&trace).iter().map(|us| us / 1000).collect();
    assert_eq!(slept, [1, 2, 5, 10, 15, 20, 25, 25, 25, 50, 50, 100, 72]);
    assert!(begun.elapsed() < Duration::from_millis(300), "early returns make it give up early");
}

#[test]
fn a_refused_begin_immediate_drops_its_read_lock_before_it_sleeps_and_takes_a_new_snapshot() {
    let lab = Lab::new();
    let writer = lab.wal();
    support::run(&writer, "INSERT INTO t VALUES(1)");
    let waiter = lab.open("a.db");
    waiter.busy_timeout(Duration::from_millis(2)).unwrap();
    support::text(&waiter, "SELECT * FROM t");
    support::run(&writer, "BEGIN IMMEDIATE");
    let trace = lab.trace(|| assert_eq!(support::code_of(&waiter, "BEGIN IMMEDIATE"), ffi::SQLITE_BUSY));
    let tries = [
        "a.db: shm lock shared READ1",
        "a.db: shm lock exclusive WRITE",
        "a.db: shm unlock shared READ1",
        "sleep 1000",
        "a.db: shm lock shared READ1",
        "a.db: shm lock exclusive WRITE",
        "a.db: shm unlock shared READ1",
        "sleep 1000",
        "a.db: shm lock shared READ1",
        "a.db: shm lock exclusive WRITE",
        "a.db: shm unlock shared READ1",
    ];
    assert_eq!(trace.0, tries);
}

#[test]
fn an_autocommit_write_waits_as_begin_immediate_does() {
    let lab = Lab::new();
    let writer = lab.wal();
    let waiter = lab.open("a.db");
    waiter.busy_timeout(Duration::from_millis(1)).unwrap();
    support::run(&writer, "BEGIN IMMEDIATE");
    support::text(&waiter, "SELECT * FROM t");
    let trace = lab.trace(|| assert_eq!(support::code_of(&waiter, "INSERT INTO t VALUES(1)"), ffi::SQLITE_BUSY));
    assert_eq!(
        trace.only(&["WRITE", "sleep"]),
        ["a.db: shm lock exclusive WRITE", "sleep 1000", "a.db: shm lock exclusive WRITE"]
    );
    let slept = trace.position("sleep");
    assert!(trace.0[slept - 1].contains("shm unlock shared READ"));
}

#[test]
fn an_upgrade_inside_a_read_transaction_asks_no_busy_handler() {
    let lab = Lab::new();
    let writer = lab.wal();
    let mut reader = lab.open("a.db");
    reader.busy_handler(Some(|_| panic!("not asked"))).unwrap();
    support::run(&reader, "BEGIN; SELECT * FROM t");
    support::run(&writer, "BEGIN IMMEDIATE");
    assert_eq!(support::code_of(&reader, "INSERT INTO t VALUES(1)"), ffi::SQLITE_BUSY);
    support::run(&writer, "INSERT INTO t VALUES(2); COMMIT");
    assert_eq!(support::code_of(&reader, "INSERT INTO t VALUES(1)"), ffi::SQLITE_BUSY_SNAPSHOT);
}

#[test]
fn a_custom_busy_handler_never_reaches_xsleep() {
    let lab = Lab::new();
    let writer = lab.wal();
    let mut waiter = lab.open("a.db");
    let calls = Arc::new(AtomicUsize::new(0));
    let called = Arc::clone(&calls);
    waiter.busy_handler(Some(move |_| called.fetch_add(1, Ordering::Relaxed) < 5)).unwrap();
    support::run(&writer, "BEGIN IMMEDIATE");
    let trace = lab.trace(|| assert_eq!(support::code_of(&waiter, "BEGIN IMMEDIATE"), ffi::SQLITE_BUSY));
    assert_eq!((calls.load(Ordering::Relaxed), sleeps(&trace).len()), (6, 0));
}

#[test]
fn xsleep_is_that_of_the_main_databases_vfs() {
    let (lab, other) = (Lab::new(), Lab::new());
    let writer = lab.wal();
    let waiter = other.open("main.db");
    waiter.busy_timeout(Duration::from_millis(3)).unwrap();
    let attach = format!("ATTACH 'file:{}?vfs={}' AS a", lab.file("a.db").display(), lab.shim.name);
    support::run(&waiter, &attach);
    support::run(&writer, "BEGIN IMMEDIATE");
    lab.shim.take();
    let trace = other.trace(|| assert_eq!(support::code_of(&waiter, "INSERT INTO a.t VALUES(1)"), ffi::SQLITE_BUSY));
    assert!(!sleeps(&trace).is_empty());
    assert!(sleeps(&Trace(lab.shim.take())).is_empty());
}

#[test]
fn sqlite3_sleep_goes_to_the_default_vfs_and_not_to_a_connections() {
    let lab = Lab::new();
    let _connection = lab.wal();
    // SAFETY: no arguments but a number.
    let trace = lab.trace(|| unsafe { ffi::sqlite3_sleep(1) });
    assert!(sleeps(&trace).is_empty());
}

#[test]
fn the_retry_after_a_sleep_may_fail_before_it_asks_for_write() {
    let lab = Lab::new();
    let writer = lab.wal();
    let waiter = lab.open("a.db");
    waiter.busy_timeout(Duration::from_millis(100)).unwrap();
    support::text(&waiter, "SELECT * FROM t");
    support::run(&writer, "BEGIN IMMEDIATE");
    let mut slept = false;
    lab.shim.hook(move |moment| {
        slept |= moment.text.starts_with("sleep");
        if slept && moment.text.contains("shm lock shared") {
            Verdict::Answer(ffi::SQLITE_IOERR)
        } else {
            Verdict::Pass
        }
    });
    let trace = lab.trace(|| assert_eq!(support::code_of(&waiter, "BEGIN IMMEDIATE"), ffi::SQLITE_IOERR));
    assert_eq!(trace.count("exclusive WRITE"), 1, "no second one: a grant made in xSleep must end otherwise");
}
