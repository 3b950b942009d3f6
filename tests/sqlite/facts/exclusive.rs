//! `locking_mode=EXCLUSIVE` in WAL mode: when SQLite asks for EXCLUSIVE, and what it does in the WAL then.

use super::Lab;

#[test]
fn before_the_wal_is_open_it_asks_first_and_maps_no_shared_memory() {
    let lab = Lab::new();
    support::close(lab.wal());
    let connection = lab.open("a.db");
    support::run(&connection, "PRAGMA locking_mode=EXCLUSIVE");
    let trace = lab.trace(|| support::text(&connection, "SELECT x FROM t"));
    assert!(trace.position("a.db: lock EXCLUSIVE") < trace.position("a.db-wal: open"), "{:#?}", trace.0);
    let trace = lab.trace(|| support::run(&connection, "INSERT INTO t VALUES(1)"));
    assert_eq!(trace.only(&["shm map", "shm lock", "a.db: lock"]), Vec::<&str>::new());
    let trace = lab.trace(|| support::run(&connection, "PRAGMA locking_mode=NORMAL; SELECT x FROM t"));
    assert_eq!(trace.only(&["a.db: unlock", "shm"]), Vec::<&str>::new(), "it stays in the mode");
}

#[test]
fn with_the_wal_open_it_asks_with_a_read_lock_at_the_first_write() {
    let lab = Lab::new();
    let connection = lab.wal();
    support::run(&connection, "INSERT INTO t VALUES(1); PRAGMA locking_mode=EXCLUSIVE");
    let trace = lab.trace(|| support::text(&connection, "SELECT x FROM t"));
    assert_eq!(trace.count("a.db: lock"), 0);
    let trace = lab.trace(|| support::run(&connection, "INSERT INTO t VALUES(2)"));
    let locks = trace.only(&["a.db: lock", "a.db: unlock", "shm lock", "shm unlock"]);
    let (read, unread) = ("a.db: shm lock shared READ1", "a.db: shm unlock shared READ1");
    assert_eq!(locks, [read, "a.db: lock EXCLUSIVE", unread]);
    let trace =
        lab.trace(|| support::run(&connection, "BEGIN; INSERT INTO t VALUES(3); ROLLBACK; PRAGMA wal_checkpoint"));
    assert_eq!(trace.only(&["a.db: lock", "a.db: unlock", "shm lock", "shm unlock"]), Vec::<&str>::new());
}

/// Else it appends to the frames that are in the WAL.
#[test]
fn it_begins_the_wal_anew_where_its_snapshot_is_read_from_the_database_file() {
    let lab = Lab::new();
    let connection = lab.wal();
    support::run(&connection, "INSERT INTO t VALUES(1); PRAGMA locking_mode=EXCLUSIVE");
    let trace = lab.trace(|| support::run(&connection, "INSERT INTO t VALUES(2)"));
    assert_eq!(trace.count("a.db-wal: write 32@0"), 0, "{:#?}", trace.0);
    support::close(connection);
    let connection = lab.wal();
    support::run(&connection, "INSERT INTO t VALUES(1); PRAGMA wal_checkpoint; PRAGMA locking_mode=EXCLUSIVE");
    let trace = lab.trace(|| support::run(&connection, "INSERT INTO t VALUES(2)"));
    assert_eq!(trace.only(&["shm lock"]), ["a.db: shm lock shared READ0"]);
    assert_eq!(trace.count("a.db-wal: write 32@0"), 1, "{:#?}", trace.0);
}

#[test]
fn back_in_normal_it_asks_for_the_lock_of_its_snapshot_before_it_lets_go() {
    let lab = Lab::new();
    let connection = lab.wal();
    support::run(&connection, "INSERT INTO t VALUES(1); PRAGMA locking_mode=EXCLUSIVE; INSERT INTO t VALUES(2)");
    support::run(&connection, "PRAGMA locking_mode=NORMAL");
    let trace = lab.trace(|| support::text(&connection, "SELECT x FROM t"));
    let locks = trace.only(&["a.db: lock", "a.db: unlock", "shm lock", "shm unlock"]);
    let (read, unread) = ("a.db: shm lock shared READ1", "a.db: shm unlock shared READ1");
    assert_eq!(locks, [read, "a.db: unlock SHARED", unread]);
}
