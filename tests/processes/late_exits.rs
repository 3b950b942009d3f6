//! What a program does with its databases when it is ending: in handlers of `exit` that run as the last, and with a transaction
//! of its own that it leaves open.

use rusqlite::Connection;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};
use support::{Scratch, child, number, run};

static LATE: Mutex<Option<Connection>> = Mutex::new(None);

fn path_of_parent() -> PathBuf {
    PathBuf::from(child::setting("PWAL_TEST_DATABASE"))
}

fn start(role: &str, path: &Path) -> child::Role {
    child::start(role, &[("PWAL_TEST_DATABASE", path.to_str().expect("text").to_owned())])
}

fn scene() -> (Scratch, PathBuf) {
    let scratch = Scratch::new();
    let path = scratch.file("a.db");
    let setup = support::open_wal(&path);
    run(&setup, "CREATE TABLE t(x)");
    support::close(setup);
    (scratch, path)
}

extern "C" fn last() {
    let connection = LATE.lock().expect("nobody panicked").take().expect("it was left");
    child::report(&support::code_of(&connection, "INSERT INTO t VALUES('in an exit handler')").to_string());
    drop(connection);
}

#[test]
fn child_commits_in_its_last_exit_handler() {
    if !child::role("late_exits::child_commits_in_its_last_exit_handler") {
        return;
    }
    // Registered first, so it runs last: before the library is loaded.
    // SAFETY: a function that stays.
    assert_eq!(unsafe { libc::atexit(last) }, 0);
    let connection = support::open(&path_of_parent());
    run(&connection, "INSERT INTO t VALUES('before')");
    *LATE.lock().expect("nobody panicked") = Some(connection);
    std::process::exit(0);
}

#[test]
fn the_last_exit_handler_can_commit_and_leaves_one_plain_file() {
    let (scratch, path) = scene();
    let mut process = start("late_exits::child_commits_in_its_last_exit_handler", &path);
    process.expect("0");
    assert!(process.wait().success());
    assert!(!scratch.file("a.db-pwal").exists(), "closed, the last connection too");
    let stock = support::open_stock(&path);
    assert_eq!(number(&stock, "SELECT count(*) FROM t"), 2);
}

#[test]
fn child_leaves_its_transaction_open() {
    if !child::role("late_exits::child_leaves_its_transaction_open") {
        return;
    }
    let connection = support::open(&path_of_parent());
    run(&connection, "BEGIN IMMEDIATE; INSERT INTO t VALUES('never committed')");
    std::mem::forget(connection);
    child::report("exits");
    std::process::exit(0);
}

/// Nobody else could end it: to wait for that would be in vain.
#[test]
fn an_exit_does_not_wait_for_its_own_transaction() {
    let (_scratch, path) = scene();
    let took = (0..4).map(|_| {
        let mut process = start("late_exits::child_leaves_its_transaction_open", &path);
        process.expect("exits");
        let began = Instant::now();
        assert!(process.wait().success());
        began.elapsed()
    });
    // The exit of a process waits a second for what others are in the middle of. The best of some, on a busy machine.
    let best = took.min().expect("some");
    assert!(best < Duration::from_millis(700), "{best:?}");
    let connection = support::open(&path);
    assert_eq!(number(&connection, "SELECT count(*) FROM t"), 0);
    run(&connection, "INSERT INTO t VALUES(1)");
}
