//! Checkpoints that SQLite's own hook asks for at the end of a commit.

use support::lab::{Lab, status, wait_until};

/// The first such call of a connection may be the application's own, and is made at once. Those of all other connections, which come
/// by then, do not wait for it.
#[test]
fn the_first_of_one_connection_keeps_no_other_waiting() {
    const SET: &str = "PRAGMA synchronous=NORMAL; PRAGMA wal_autocheckpoint=3";
    let lab = Lab::new();
    let one = lab.wal();
    support::run(&one, "CREATE TABLE t(x)");
    support::run(&one, SET);
    let other = lab.open("a.db");
    support::run(&other, SET);
    let (syncs, go_on) = lab.hold_a_sync(false);
    let commit = std::thread::spawn(move || support::run(&one, "INSERT INTO t VALUES(randomblob(20000))"));
    syncs.pass();
    let beside = std::thread::spawn(move || {
        (0..5).for_each(|x| support::run(&other, &format!("INSERT INTO t VALUES({x})")));
        other
    });
    wait_until(|| beside.is_finished());
    assert!(!commit.is_finished());
    go_on.open();
    commit.join().unwrap();
    let other = beside.join().unwrap();
    assert_eq!(support::number(&other, "SELECT count(*) FROM t"), 6);
    support::run(&other, "PRAGMA wal_checkpoint");
    assert_eq!(status(&other, "backfilled"), status(&other, "published"));
}
