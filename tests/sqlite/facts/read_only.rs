//! A write version that SQLite does not know, beside the read version of rollback mode: what a connection on stock SQLite would do
//! with a file that pwal has marked so (`docs/architecture.md`, on stock readers).

use super::Lab;
use rusqlite::{Connection, ffi};
use std::path::Path;

/// Rows of `t`: some leaf pages and a root.
const ROWS: i64 = 1000;

/// Bytes 18 and 19: the write version and the read version. Only while no connection has a lock.
fn set_versions(path: &Path, versions: [u8; 2]) {
    write_at(path, &versions, 18);
}

fn write_at(path: &Path, bytes: &[u8], at: u64) {
    let file = std::fs::File::options().write(true).open(path).expect("open the database file");
    std::os::unix::fs::FileExt::write_all_at(&file, bytes, at).expect("write to it");
}

/// A file that was in WAL mode, with these versions.
fn marked(lab: &Lab) -> Connection {
    let connection = lab.wal();
    for row in 0..ROWS {
        support::run(&connection, &format!("INSERT INTO t VALUES({row})"));
    }
    support::close(connection);
    set_versions(&lab.file("a.db"), [112, 1]);
    lab.open("a.db")
}

fn sum(connection: &Connection) -> Result<i64, i32> {
    connection.query_row("SELECT sum(x) FROM t", [], |row| row.get(0)).map_err(|error| support::code(&error))
}

const SUM: i64 = ROWS * (ROWS - 1) / 2;

#[test]
fn it_is_read_and_not_written() {
    let lab = Lab::new();
    let connection = marked(&lab);
    let before = std::fs::read(lab.file("a.db")).expect("read the file");
    assert_eq!(sum(&connection), Ok(SUM));
    for sql in ["INSERT INTO t VALUES(1)", "VACUUM", "PRAGMA journal_mode=WAL", "PRAGMA user_version=3", "DROP TABLE t"]
    {
        assert_eq!(support::code_of(&connection, sql), ffi::SQLITE_READONLY, "{sql}");
    }
    assert_eq!(support::text(&connection, "PRAGMA integrity_check"), "ok");
    support::close(connection);
    assert!(std::fs::read(lab.file("a.db")).expect("read the file") == before);
    assert_eq!(support::beside(&lab.file("a.db")), Vec::<String>::new());
}

/// `sqlite3PagerSharedLock` compares bytes 24 to 39: as long as they stay, neither another page nor another version is seen, also
/// not a version that is one to read again.
#[test]
fn a_page_cache_is_believed_as_long_as_the_change_counter_stays() {
    let lab = Lab::new();
    let connection = marked(&lab);
    assert_eq!(sum(&connection), Ok(SUM));
    let path = lab.file("a.db");
    let last = i16::try_from(ROWS - 1).expect("a small number");
    let bytes = std::fs::read(&path).expect("read the file");
    let at = bytes.windows(2).rposition(|window| window == last.to_be_bytes()).expect("the last row");
    write_at(&path, &(last - 1).to_be_bytes(), at as u64);
    set_versions(&path, [112, 112]);
    assert_eq!(sum(&connection), Ok(SUM));
    write_at(&path, &[0, 0, 0x77, 0x77], 24);
    assert_eq!(sum(&connection), Err(ffi::SQLITE_NOTADB));
    set_versions(&path, [112, 1]);
    assert_eq!(sum(&connection), Err(ffi::SQLITE_NOTADB));
    write_at(&path, &[0, 0, 0x77, 0x78], 24);
    assert_eq!(sum(&connection), Ok(SUM - 1));
}

#[test]
fn a_directory_in_place_of_the_wal_refuses_connections_that_are_open_too() {
    let lab = Lab::new();
    let connection = marked(&lab);
    assert_eq!(sum(&connection), Ok(SUM));
    let wal = lab.file("a.db-wal");
    std::fs::create_dir(&wal).expect("make a directory");
    assert_eq!(sum(&connection), Err(ffi::SQLITE_CANTOPEN));
    assert_eq!(sum(&lab.open("a.db")), Err(ffi::SQLITE_CANTOPEN));
    std::fs::remove_dir(&wal).expect("remove it");
    assert_eq!(sum(&connection), Ok(SUM));
}

#[test]
fn a_copy_by_backup_has_the_versions_and_one_by_vacuum_has_not() {
    let lab = Lab::new();
    let connection = marked(&lab);
    let mut copy = lab.open("copy.db");
    let backup = rusqlite::backup::Backup::new(&connection, &mut copy).expect("begin a backup");
    backup.run_to_completion(1000, std::time::Duration::ZERO, None).expect("a backup");
    drop(backup);
    support::close(copy);
    support::run(&connection, &format!("VACUUM INTO '{}'", lab.file("vacuum.db").display()));
    let versions = |name: &str| std::fs::read(lab.file(name)).expect("read a copy")[18..20].to_vec();
    assert_eq!((versions("copy.db"), versions("vacuum.db")), (vec![112, 1], vec![1, 1]));
    assert_eq!(support::code_of(&lab.open("copy.db"), "INSERT INTO t VALUES(1)"), ffi::SQLITE_READONLY);
}

/// `SQLITE_DBCONFIG_RESET_DATABASE`: `sqlite3BtreeBeginTrans` looks at no version then.
#[test]
fn a_reset_writes_it() {
    let lab = Lab::new();
    let connection = marked(&lab);
    // SAFETY: an open connection, and the arguments that this verb takes.
    let code = unsafe {
        ffi::sqlite3_db_config(
            connection.handle(),
            ffi::SQLITE_DBCONFIG_RESET_DATABASE,
            1_i32,
            std::ptr::null_mut::<std::ffi::c_int>(),
        )
    };
    assert_eq!(code, ffi::SQLITE_OK);
    support::run(&connection, "VACUUM");
    support::close(connection);
    assert_eq!(std::fs::read(lab.file("a.db")).expect("read the file")[18..20], [1, 1]);
}

/// It is played back before page 1 is looked at (`sqlite3PagerSharedLock`).
#[test]
fn a_hot_journal_is_played_back_into_it() {
    let lab = Lab::new();
    let connection = lab.open("a.db");
    support::run(&connection, "CREATE TABLE t(x); INSERT INTO t VALUES(zeroblob(100000)); PRAGMA cache_size=2");
    support::run(
        &connection,
        "BEGIN; UPDATE t SET x=randomblob(100000); CREATE TABLE u AS SELECT randomblob(50000) AS x",
    );
    let (journal, kept) = (lab.file("a.db-journal"), lab.file("kept"));
    std::fs::copy(&journal, &kept).expect("copy the journal");
    support::run(&connection, "ROLLBACK");
    support::close(connection);
    std::fs::rename(kept, &journal).expect("bring it back");
    set_versions(&lab.file("a.db"), [112, 1]);
    assert_eq!(support::number(&lab.open("a.db"), "SELECT count(*) FROM t"), 1);
    assert!(!journal.exists());
    assert_eq!(std::fs::read(lab.file("a.db")).expect("read the file")[18..20], [1, 1]);
}
