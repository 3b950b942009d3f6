//! The empty directory at `<database>-wal`: there while a log is, and gone with it, whatever crashed in between. What stock
//! SQLite says to it; what else may have that name.

use super::killed;
use rusqlite::config::DbConfig;
use rusqlite::ffi;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use support::{Scratch, child};

fn wal(path: &Path) -> PathBuf {
    PathBuf::from(format!("{}-wal", path.display()))
}

/// A closed database in WAL mode with one row.
fn closed(scratch: &Scratch) -> PathBuf {
    let path = scratch.file("app.db");
    let connection = support::open_wal(&path);
    support::run(&connection, "CREATE TABLE t(x); INSERT INTO t VALUES(1)");
    support::close(connection);
    path
}

#[test]
fn it_is_there_while_a_log_is() {
    if !support::on_pwal() {
        return;
    }
    let scratch = Scratch::new();
    let path = closed(&scratch);
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o660)).unwrap();
    let connection = support::open(&path);
    support::number(&connection, "SELECT count(*) FROM t");
    assert!(!wal(&path).exists(), "nothing is written before the first commit");
    support::run(&connection, "INSERT INTO t VALUES(2)");
    let of = |path: &Path| std::fs::symlink_metadata(path).unwrap();
    let (placeholder, log) = (of(&wal(&path)), of(&scratch.file("app.db-pwal")));
    assert!(placeholder.is_dir() && std::fs::read_dir(wal(&path)).unwrap().next().is_none());
    assert_eq!((placeholder.mode(), placeholder.uid(), placeholder.gid()), (log.mode(), log.uid(), log.gid()));
    // Beside another process, and for what SQLite itself asks about its WAL.
    let second = support::open(&path);
    support::run(&second, "INSERT INTO t VALUES(3); PRAGMA wal_checkpoint(TRUNCATE); VACUUM");
    support::close(second);
    assert!(wal(&path).is_dir());
    assert_eq!(support::text(&connection, "PRAGMA journal_mode=DELETE"), "delete");
    assert!(!wal(&path).exists(), "retired");
    assert_eq!(support::text(&connection, "PRAGMA journal_mode=WAL"), "wal");
    support::run(&connection, "INSERT INTO t VALUES(4)");
    assert!(wal(&path).is_dir());
    support::close(connection);
    support::assert_plain(&path);
}

/// 14, which nobody takes for damage and deletes the file; not 26. Also what skips the version check.
#[test]
fn stock_cannot_open_what_a_killed_process_left() {
    if !support::on_pwal() {
        return;
    }
    let (_scratch, path, reported) = killed();
    let before = std::fs::read(&path).unwrap();
    for sql in ["SELECT count(*) FROM part", "CREATE TABLE t(x)", "VACUUM", "PRAGMA journal_mode=DELETE"] {
        let stock = support::open_stock(&path);
        assert_eq!(support::code_of(&stock, sql), ffi::SQLITE_CANTOPEN, "{sql}");
        support::close(stock);
    }
    for (parameter, code) in
        [("mode=ro", ffi::SQLITE_CANTOPEN), ("nolock=1", ffi::SQLITE_CANTOPEN), ("immutable=1", ffi::SQLITE_NOTADB)]
    {
        let uri = format!("file:{}?{parameter}", path.display());
        let stock = support::try_open(uri.as_ref(), support::flags(), support::STOCK).unwrap();
        assert_eq!(support::code_of(&stock, "SELECT count(*) FROM part"), code, "{parameter}");
    }
    let stock = support::open_stock(&path);
    stock.set_db_config(DbConfig::SQLITE_DBCONFIG_RESET_DATABASE, true).unwrap();
    assert_eq!(support::code_of(&stock, "VACUUM"), ffi::SQLITE_CANTOPEN);
    stock.set_db_config(DbConfig::SQLITE_DBCONFIG_RESET_DATABASE, false).unwrap();
    support::close(stock);
    assert!(std::fs::read(&path).unwrap() == before, "nothing written");
    super::check(&path, &reported, true);
}

#[test]
fn a_copy_of_everything_recovers_with_and_without_it() {
    if !support::on_pwal() {
        return;
    }
    let (scratch, path, reported) = killed();
    for keeps in [true, false] {
        let target = scratch.file(&format!("copy-{keeps}"));
        std::fs::create_dir(&target).unwrap();
        let files = [&path, &wal(&path), &scratch.file("app.db-pwal")];
        let copied = Command::new("cp").arg("-r").args(files).arg(&target).status().unwrap();
        assert!(copied.success());
        if !keeps {
            std::fs::remove_dir(target.join("app.db-wal")).unwrap();
        }
        super::check(&target.join("app.db"), &reported, true);
    }
    super::check(&path, &reported, true);
}

#[test]
fn one_that_was_left_goes_with_the_next_open() {
    if !support::on_pwal() {
        return;
    }
    for mode in ["WAL", "DELETE", "a new file"] {
        let scratch = Scratch::new();
        let path = closed(&scratch);
        let connection = support::open(&path);
        support::run(&connection, if mode == "DELETE" { "PRAGMA journal_mode=DELETE" } else { "SELECT 1 FROM t" });
        support::close(connection);
        if mode == "a new file" {
            std::fs::write(&path, "").unwrap();
        }
        std::fs::create_dir(wal(&path)).unwrap();
        let connection = support::open(&path);
        if mode == "a new file" {
            support::run(&connection, "CREATE TABLE t(x); INSERT INTO t VALUES(1)");
        }
        assert_eq!(support::number(&connection, "SELECT count(*) FROM t"), 1, "{mode}");
        assert!(!wal(&path).exists(), "{mode}");
        support::run(&connection, "INSERT INTO t VALUES(2)");
        support::close(connection);
        support::assert_plain_header(&path, if mode == "WAL" { 2 } else { 1 });
        assert_eq!(support::number(&support::open_stock(&path), "SELECT count(*) FROM t"), 2, "{mode}");
    }
}

#[test]
fn one_that_was_left_beside_a_hot_journal_does_not_keep_it_from_being_played_back() {
    if !support::on_pwal() {
        return;
    }
    let scratch = Scratch::new();
    let path = scratch.file("app.db");
    super::workload::create(&path);
    let prepare = support::open_stock(&path);
    support::run(&prepare, "PRAGMA journal_mode=DELETE; INSERT INTO churn VALUES(1, zeroblob(90000))");
    let before = support::dump::dump(&prepare);
    support::close(prepare);
    let setting = [("PWAL_TEST_DATABASE", path.to_str().unwrap().to_owned())];
    let mut writer = child::start("crashes::leftovers::child_leaves_a_hot_journal", &setting);
    writer.expect("in the middle");
    writer.kill();
    std::fs::create_dir(wal(&path)).unwrap();
    let connection = support::open(&path);
    assert_eq!(support::dump::first_difference(&before, &support::dump::dump(&connection)), None);
    support::close(connection);
    support::assert_plain_header(&path, 1);
}

/// What has the name and is not the placeholder: pwal works, and leaves it alone.
#[test]
fn what_somebody_else_put_there_stays() {
    if !support::on_pwal() {
        return;
    }
    let (to_file, to_directory) = ("a link to an empty file", "a link to a directory");
    for what in ["an empty file", "a directory with a file", "a dangling link", to_file, to_directory] {
        let scratch = Scratch::new();
        let path = closed(&scratch);
        let elsewhere = scratch.file("elsewhere");
        match what {
            "an empty file" => std::fs::write(wal(&path), "").unwrap(),
            "a directory with a file" => {
                std::fs::create_dir(wal(&path)).unwrap();
                std::fs::write(wal(&path).join("notes"), "").unwrap();
            }
            "a dangling link" => symlink(scratch.file("nowhere"), wal(&path)).unwrap(),
            _ if what == to_file => {
                std::fs::write(&elsewhere, "").unwrap();
                symlink(&elsewhere, wal(&path)).unwrap();
            }
            _ => {
                std::fs::create_dir(&elsewhere).unwrap();
                symlink(&elsewhere, wal(&path)).unwrap();
            }
        }
        let before = std::fs::symlink_metadata(wal(&path)).unwrap();
        let connection = support::open(&path);
        support::run(&connection, "INSERT INTO t VALUES(2)");
        assert_eq!(support::number(&connection, "SELECT count(*) FROM t"), 2, "{what}");
        let after = std::fs::symlink_metadata(wal(&path)).unwrap();
        assert_eq!((after.ino(), after.mode()), (before.ino(), before.mode()), "{what}");
        // `sqlite3WalClose` deletes its own name, which works with what is no directory.
        support::close(connection);
        assert_eq!(wal(&path).join("notes").exists(), what == "a directory with a file");
        assert!(!scratch.file("nowhere").exists());
        assert_eq!(elsewhere.exists(), what == to_file || what == to_directory);
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!(bytes[18..20], [2, 2], "{what}: retired");
    }
}
