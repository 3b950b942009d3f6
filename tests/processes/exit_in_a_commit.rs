//! The exit of a process in the middle of a commit: until its last thread has gone, nobody else may take the log.

use pwal::internal::shared::lock_is_held;
use std::path::PathBuf;
use support::{Scratch, child};

fn log_directory() -> PathBuf {
    PathBuf::from(format!("{}-pwal", child::setting("PWAL_TEST_DATABASE")))
}

/// Registered before pwal's own handler, so it runs behind it.
extern "C" fn behind_pwal() {
    child::report(&format!("{:?}", lock_is_held(&log_directory()).ok().flatten()));
}

#[test]
fn child_exits_in_a_commit() {
    if !child::role("exit_in_a_commit::child_exits_in_a_commit") {
        return;
    }
    // SAFETY: a function that stays.
    assert_eq!(unsafe { libc::atexit(behind_pwal) }, 0);
    let path = PathBuf::from(child::setting("PWAL_TEST_DATABASE"));
    let connection = support::open_wal(&path);
    // The writer is in its transaction for longer than the exit waits.
    support::run(&connection, "CREATE TABLE t(x); BEGIN IMMEDIATE; INSERT INTO t VALUES(1)");
    std::mem::forget(connection);
    std::process::exit(0);
}

#[test]
fn the_lock_is_held_to_the_end_where_somebody_writes() {
    if !support::on_pwal() {
        return;
    }
    let scratch = Scratch::new();
    let path = scratch.file("a.db");
    let database = [("PWAL_TEST_DATABASE", path.to_str().unwrap().to_owned())];
    let mut process = child::start("exit_in_a_commit::child_exits_in_a_commit", &database);
    process.expect("Some(true)");
    assert!(process.wait().success());
    assert_eq!(support::text(&support::open(&path), "SELECT count(*) FROM t"), "0");
}
