//! File controls and pragmas, mapped pages, and header bytes that SQLite refuses or ignores.

use super::Lab;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, ffi};
use std::os::unix::fs::FileExt;
use std::path::Path;
use support::shim::Verdict;

const PRAGMA: &str = "a.db: control PRAGMA";

#[test]
fn pragmas_arrive_at_prepare_with_name_and_value_as_written() {
    let lab = Lab::new();
    let connection = lab.wal();
    for (sql, seen) in [
        ("PRAGMA Some_Word", "Some_Word -"),
        ("PRAGMA main.some_word", "some_word -"),
        ("PRAGMA some_word(Value)", "some_word Value"),
        ("PRAGMA some_word = 'a b'", "some_word a b"),
        ("PRAGMA some_word=-5", "some_word -5"),
        ("EXPLAIN PRAGMA some_word=1", "some_word 1"),
    ] {
        let trace = lab.trace(|| drop(connection.prepare(sql).unwrap()));
        assert_eq!(trace.only(&["PRAGMA"]), [format!("{PRAGMA} {seen}")], "{sql}");
    }
}

#[test]
fn a_pragma_comes_before_the_file_was_read() {
    let lab = Lab::new();
    support::close(lab.wal());
    let connection = lab.open("a.db");
    let trace = lab.trace(|| support::text(&connection, "PRAGMA some_word"));
    assert_eq!(trace.0, [format!("{PRAGMA} some_word -")]);
}

#[test]
fn a_pragma_control_answers_with_a_row_or_a_message_or_lets_sqlite_go_on() {
    let lab = Lab::new();
    let connection = lab.wal();
    lab.shim.hook(|moment| match moment.text {
        "a.db: control PRAGMA good_word -" => Verdict::Say(ffi::SQLITE_OK, c"the row"),
        "a.db: control PRAGMA bad_word 1" => Verdict::Say(ffi::SQLITE_ERROR, c"the message"),
        _ => Verdict::Pass,
    });
    assert_eq!(support::text(&connection, "PRAGMA good_word"), "the row");
    let error = connection.execute_batch("PRAGMA bad_word=1").unwrap_err();
    assert_eq!(support::code(&error), ffi::SQLITE_ERROR);
    assert!(error.to_string().contains("the message"), "{error}");
    assert_eq!(support::text(&connection, "PRAGMA unknown_word"), "");
}

#[test]
fn a_pragma_of_an_attached_or_in_memory_database_goes_to_that_file() {
    let lab = Lab::new();
    let connection = lab.wal();
    support::run(&connection, &format!("ATTACH '{}' AS b; ATTACH ':memory:' AS m", lab.file("b.db").display()));
    let trace =
        lab.trace(|| support::run(&connection, "PRAGMA b.some_word; PRAGMA m.some_word; PRAGMA temp.some_word"));
    assert_eq!(trace.only(&["PRAGMA"]), ["b.db: control PRAGMA some_word -"]);
}

#[test]
fn a_fetch_that_gives_no_page_is_answered_by_a_read() {
    let lab = Lab::new();
    let connection = lab.wal();
    support::run(&connection, "INSERT INTO t VALUES(1); PRAGMA wal_checkpoint(TRUNCATE); PRAGMA mmap_size=1000000");
    lab.shim
        .hook(|moment| if moment.text.contains(": fetch") { Verdict::Answer(ffi::SQLITE_OK) } else { Verdict::Pass });
    let reader = lab.open("a.db");
    support::run(&reader, "PRAGMA mmap_size=1000000");
    let trace = lab.trace(|| assert_eq!(support::text(&reader, "SELECT x FROM t"), "1"));
    assert!(trace.count("fetch 4096@4096") > 0);
    assert!(trace.position("fetch 4096@4096") < trace.position("read 4096@4096"));
}

#[test]
fn no_checkpoint_on_close_takes_no_lock() {
    let lab = Lab::new();
    let connection = lab.wal();
    connection.set_db_config(rusqlite::config::DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).unwrap();
    support::run(&connection, "INSERT INTO t VALUES(1)");
    let trace = lab.trace(|| support::close(connection));
    assert_eq!(trace.only(&[": lock", "write", "delete"]), ["a.db: shm unmap delete 0"]);
}

#[test]
fn the_page_size_does_not_change_in_wal_mode() {
    let lab = Lab::new();
    let connection = lab.wal();
    support::run(&connection, "INSERT INTO t VALUES(1); PRAGMA page_size=8192; VACUUM");
    assert_eq!(support::text(&connection, "PRAGMA page_size"), "4096");
}

#[test]
fn a_backup_into_a_wal_database_with_another_page_size_is_readonly() {
    let lab = Lab::new();
    let mut target = lab.wal();
    let source = Connection::open_in_memory().unwrap();
    support::run(&source, "PRAGMA page_size=1024; CREATE TABLE t(x)");
    let backup = rusqlite::backup::Backup::new(&source, &mut target).unwrap();
    assert_eq!(backup.step(-1).map_err(|error| support::code(&error)).unwrap_err(), ffi::SQLITE_READONLY);
}

/// A closed database in WAL mode, its bytes 18 and 19 set to 112.
fn stamped(lab: &Lab) {
    let connection = lab.wal();
    support::run(&connection, "INSERT INTO t VALUES(1)");
    support::close(connection);
    set_bytes(&lab.file("a.db"), 18, &[0x70, 0x70]);
}

fn set_bytes(path: &Path, at: u64, bytes: &[u8]) {
    std::fs::OpenOptions::new().write(true).open(path).unwrap().write_all_at(bytes, at).unwrap();
}

#[test]
fn version_bytes_of_a_stamp_are_refused_by_everything_that_reads() {
    let lab = Lab::new();
    stamped(&lab);
    let path = lab.file("a.db");
    for sql in
        ["SELECT * FROM t", "CREATE TABLE u(x)", "VACUUM", "PRAGMA journal_mode=DELETE", "PRAGMA integrity_check"]
    {
        let connection = support::open_stock(&path);
        assert_eq!(support::code_of(&connection, sql), ffi::SQLITE_NOTADB, "{sql}");
    }
    for parameter in ["mode=ro", "immutable=1"] {
        let uri = format!("file:{}?{parameter}", path.display());
        let connection = support::try_open(uri.as_ref(), support::flags(), support::STOCK).unwrap();
        assert_eq!(support::code_of(&connection, "SELECT * FROM t"), ffi::SQLITE_NOTADB, "{parameter}");
    }
    let source = Connection::open_in_memory().unwrap();
    support::run(&source, "CREATE TABLE v(x)");
    let mut target = support::open_stock(&path);
    let backup = rusqlite::backup::Backup::new(&source, &mut target).unwrap();
    assert_eq!(backup.step(-1).map_err(|error| support::code(&error)).unwrap_err(), ffi::SQLITE_NOTADB);
    drop(backup);
    drop(target);
    assert_eq!(std::fs::read(&path).unwrap()[18..20], [0x70, 0x70], "nothing written");
}

/// `pagerOpenWalIfPresent` counts a directory (`unixAccess`), and looks before `lockBtree` reads the version bytes.
#[test]
fn a_directory_in_place_of_the_wal_cannot_be_opened_whatever_the_version_bytes_say() {
    for version in [1, 2, 3, 112] {
        let lab = Lab::new();
        stamped(&lab);
        let path = lab.file("a.db");
        set_bytes(&path, 18, &[version; 2]);
        let before = std::fs::read(&path).unwrap();
        std::fs::create_dir(lab.file("a.db-wal")).unwrap();
        for sql in
            ["SELECT * FROM t", "CREATE TABLE u(x)", "VACUUM", "PRAGMA journal_mode=DELETE", "PRAGMA wal_checkpoint"]
        {
            for reset in [false, true] {
                let connection = support::open_stock(&path);
                connection.set_db_config(DbConfig::SQLITE_DBCONFIG_RESET_DATABASE, reset).unwrap();
                assert_eq!(support::code_of(&connection, sql), ffi::SQLITE_CANTOPEN, "{version}: {sql}");
                support::close(connection);
            }
        }
        assert!(std::fs::read(&path).unwrap() == before, "{version}: nothing written");
        assert!(lab.file("a.db-wal").is_dir());
    }
}

#[test]
fn a_real_wal_beside_version_bytes_of_a_stamp_is_played_back_first() {
    let lab = Lab::new();
    let connection = lab.wal();
    support::run(&connection, "INSERT INTO t VALUES(1)");
    std::fs::copy(lab.file("a.db-wal"), lab.file("copy")).unwrap();
    support::close(connection);
    set_bytes(&lab.file("a.db"), 18, &[0x70, 0x70]);
    std::fs::rename(lab.file("copy"), lab.file("a.db-wal")).unwrap();
    let stock = support::open_stock(&lab.file("a.db"));
    assert_eq!(
        support::text(&stock, "SELECT * FROM t"),
        "1",
        "this is why a stamped file with a WAL beside it is refused"
    );
    support::close(stock);
    assert_eq!(std::fs::read(lab.file("a.db")).unwrap()[18..20], [2, 2]);
}

#[test]
fn reset_database_and_vacuum_skip_the_version_bytes() {
    let lab = Lab::new();
    stamped(&lab);
    let stock = support::open_stock(&lab.file("a.db"));
    // SAFETY: the connection is open; the option takes an int and a pointer that may be null.
    let code = unsafe {
        ffi::sqlite3_db_config(stock.handle(), ffi::SQLITE_DBCONFIG_RESET_DATABASE, 1, std::ptr::null_mut::<i32>())
    };
    assert_eq!(code, ffi::SQLITE_OK);
    support::run(&stock, "VACUUM");
}

#[test]
fn header_bytes_72_to_91_are_zeros_and_no_write_touches_what_is_there() {
    let lab = Lab::new();
    support::close(lab.wal());
    let path = lab.file("a.db");
    assert_eq!(std::fs::read(&path).unwrap()[72..92], [0; 20]);
    set_bytes(&path, 72, &[7; 20]);
    let stock = support::open_stock(&path);
    support::run(&stock, "INSERT INTO t VALUES(1); CREATE TABLE u(x); PRAGMA user_version=3");
    support::assert_integrity(&stock);
    support::close(stock);
    assert_eq!(std::fs::read(&path).unwrap()[72..92], [7; 20], "compared and changed nowhere");
}

#[test]
fn byte_19_decides_about_wal() {
    for (bytes, mode) in [([2, 2], "wal"), ([1, 2], "wal"), ([2, 1], "delete"), ([1, 1], "delete")] {
        let lab = Lab::new();
        support::close(lab.wal());
        set_bytes(&lab.file("a.db"), 18, &bytes);
        let stock = support::open_stock(&lab.file("a.db"));
        assert_eq!(support::text(&stock, "PRAGMA journal_mode"), mode, "{bytes:?}");
    }
}
