//! A disk of some MiB that is full: of a file system in memory, in a mount namespace of a process of its own. What does not fit is
//! `SQLITE_FULL`, what was acknowledged is there, what is open can be read, and all goes on when there is room.

use rusqlite::{Connection, ffi};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use support::lab::copy_crashed;
use support::scene::{COUNT, watchdog};
use support::{Scratch, child, code_of, number, run, small_disk};

const ROLE: &str = "full_disk::what_does_not_fit_is_full_and_nothing_else";

#[test]
fn what_does_not_fit_is_full_and_nothing_else() {
    if child::role(ROLE) {
        let disk = small_disk::place();
        for left in [0, 40, 300, 700, 1500, 3000] {
            let _watchdog = watchdog("a full disk");
            a_closed_database(&disk, left * 1024);
            an_open_database(&disk, left * 1024);
            a_log_that_is_recovered(&disk, left * 1024);
        }
        // What the control block takes with the first commits is between these.
        for left in (0..1_600).step_by(40).chain((240..300).step_by(4)) {
            let _watchdog = watchdog("a full disk");
            a_log_that_begins(&disk, left * 1024);
        }
        for left in (480..640).step_by(8) {
            let _watchdog = watchdog("a full disk");
            a_log_that_goes_on(&disk, left * 1024);
        }
        child::report("done");
        return;
    }
    let scratch = Scratch::new();
    let Some(mut played) = small_disk::start(&scratch, 16, ROLE) else { return };
    let last = played.lines.by_ref().last();
    assert!(played.wait().success(), "see above");
    assert_eq!(last.as_deref(), Some("done"));
}

const ROW: &str = "INSERT INTO t VALUES(randomblob(3000))";

fn insert(connection: &Connection, rows: &mut i64) -> bool {
    let code = code_of(connection, ROW);
    assert!([0, ffi::SQLITE_FULL].contains(&code), "{code}: {}", state(connection));
    *rows += i64::from(code == 0);
    code == 0
}

fn state(connection: &Connection) -> String {
    connection.query_row("PRAGMA parallel_wal_status", [], |row| row.get(0)).unwrap_or_default()
}

/// A database of so many rows on the disk, which goes with the directory.
fn database(disk: &Path, count: u32) -> (tempfile::TempDir, PathBuf, i64) {
    let directory = tempfile::tempdir_in(disk).expect("a directory");
    let path = directory.path().join("a.db");
    support::scene::create(&path);
    let connection = support::open(&path);
    let mut rows = 0;
    (0..count).for_each(|_| assert!(insert(&connection, &mut rows)));
    support::close(connection);
    (directory, path, rows)
}

/// A file that takes all but so many bytes of the disk.
fn fill(disk: &Path, but: u64) -> PathBuf {
    let path = disk.join("neighbour");
    let file = File::create(&path).expect("the neighbour's file");
    let left = rustix::fs::fstatvfs(&file).expect("the free space");
    let take = (left.f_bavail * left.f_frsize).saturating_sub(but);
    rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, take.max(1)).expect("fill the disk");
    path
}

fn works(path: &Path, rows: &mut i64) {
    let connection = support::open(path);
    assert!(insert(&connection, rows), "{}", state(&connection));
    assert_eq!(number(&connection, COUNT), *rows);
    support::assert_integrity(&connection);
    support::close(connection);
    support::assert_plain(path);
}

/// It is read as on stock SQLite, however little is left.
fn a_closed_database(disk: &Path, left: u64) {
    let (_directory, path, mut rows) = database(disk, 100);
    let neighbour = fill(disk, left);
    let connection = support::open(&path);
    if left > 0 || support::on_pwal() {
        assert_eq!(number(&connection, COUNT), rows, "{left} bytes left");
    }
    // So much is a log's beginning: control block and segment.
    let fits = insert(&connection, &mut rows);
    assert!(fits || left < 1_500 * 1024, "{left} bytes left");
    while rows < 2_000 && insert(&connection, &mut rows) {}
    assert_eq!(number(&connection, COUNT), rows, "{left} bytes left");
    std::fs::remove_file(neighbour).expect("make room");
    assert!(insert(&connection, &mut rows), "{left} bytes left: {}", state(&connection));
    support::close(connection);
    works(&path, &mut rows);
}

/// The first commit takes a control block and a segment, or leaves nothing.
fn a_log_that_begins(disk: &Path, left: u64) {
    let (_directory, path, mut rows) = database(disk, 1);
    let connection = support::open(&path);
    assert_eq!(number(&connection, COUNT), rows, "{left} bytes left");
    let neighbour = fill(disk, left);
    insert(&connection, &mut rows);
    assert_eq!(number(&connection, COUNT), rows, "{left} bytes left");
    std::fs::remove_file(neighbour).expect("make room");
    assert!(insert(&connection, &mut rows), "{left} bytes left: {}", state(&connection));
    support::close(connection);
    works(&path, &mut rows);
}

/// The commits after that take the rest of the control block, piece by piece.
fn a_log_that_goes_on(disk: &Path, left: u64) {
    let (_directory, path, mut rows) = database(disk, 1);
    let connection = support::open(&path);
    run(&connection, "PRAGMA synchronous=NORMAL; PRAGMA wal_autocheckpoint=0; CREATE TABLE small(x)");
    let neighbour = fill(disk, left);
    let codes: Vec<i32> = (0..200).map(|_| code_of(&connection, "INSERT INTO small VALUES(1)")).collect();
    assert!(codes.iter().all(|code| [0, ffi::SQLITE_FULL].contains(code)), "{left} bytes left: {codes:?}");
    let done = codes.iter().filter(|code| **code == 0).count();
    assert_eq!(number(&connection, "SELECT count(*) FROM small"), i64::try_from(done).unwrap(), "{left} bytes left");
    std::fs::remove_file(neighbour).expect("make room");
    assert!(insert(&connection, &mut rows), "{left} bytes left: {}", state(&connection));
    support::close(connection);
    works(&path, &mut rows);
}

/// Open connections read, and write until it is full; nothing stays of what did not fit.
fn an_open_database(disk: &Path, left: u64) {
    let (_directory, path, mut rows) = database(disk, 100);
    let (one, other) = (support::open(&path), support::open(&path));
    assert!(insert(&one, &mut rows) && insert(&other, &mut rows));
    let neighbour = fill(disk, left);
    let mut refused = 0;
    for round in 0..1_000 {
        let connection = if round % 2 == 0 { &one } else { &other };
        refused += i64::from(!insert(connection, &mut rows));
        if refused > 50 {
            break;
        }
    }
    // A transaction that spills.
    run(&other, "PRAGMA cache_size=10");
    let large = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000) \
                 INSERT INTO t SELECT randomblob(3000) FROM n";
    let code = code_of(&other, large);
    assert_eq!(code, ffi::SQLITE_FULL, "{left} bytes left: {}", state(&other));
    for connection in [&one, &other] {
        assert_eq!(number(connection, COUNT), rows, "{left} bytes left");
        let checkpoint = code_of(connection, "PRAGMA wal_checkpoint(PASSIVE)");
        assert!([0, ffi::SQLITE_FULL].contains(&checkpoint), "{checkpoint}: {}", state(connection));
    }
    std::fs::remove_file(neighbour).expect("make room");
    assert!(insert(&one, &mut rows) && insert(&other, &mut rows), "{left} bytes left: {}", state(&one));
    support::close(one);
    support::close(other);
    works(&path, &mut rows);
}

/// The first open of a killed log writes: without room it is refused, and finds everything later.
fn a_log_that_is_recovered(disk: &Path, left: u64) {
    let (_directory, path, mut rows) = database(disk, 100);
    let connection = support::open(&path);
    run(&connection, "PRAGMA wal_autocheckpoint=0");
    (0..100).for_each(|_| assert!(insert(&connection, &mut rows)));
    // Beside it, on the same disk.
    let crashed = copy_crashed(&path);
    let killed = disk.join("killed");
    std::fs::create_dir(&killed).expect("a directory");
    let mut copy = Command::new("cp");
    copy.arg("-r").arg(format!("{}/.", crashed.path().parent().expect("a directory").display())).arg(&killed);
    assert!(copy.status().expect("cp starts").success());
    support::close(connection);
    let neighbour = fill(disk, left);
    let killed_path = killed.join("a.db");
    for _ in 0..3 {
        let connection = support::open(&killed_path);
        let code = code_of(&connection, COUNT);
        assert!([0, ffi::SQLITE_FULL].contains(&code), "{code}: {}", state(&connection));
        if code == 0 {
            assert_eq!(number(&connection, COUNT), rows, "{left} bytes left");
        }
    }
    std::fs::remove_file(neighbour).expect("make room");
    works(&killed_path, &mut rows);
    std::fs::remove_dir_all(killed).expect("delete the copy");
}
