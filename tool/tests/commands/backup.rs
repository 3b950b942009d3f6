//! `pwal backup`

use super::{FEW, Output, contents, hold, tool};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering::SeqCst};
use support::{Scratch, assert_plain, assert_plain_header, beside, close, number, open_stock, open_wal, run};

fn backup(database: &Path, dest: &Path, options: &[&str]) -> Output {
    let words = ["backup".as_ref(), database.as_os_str(), dest.as_os_str()];
    tool(words.into_iter().chain(options.iter().map(std::ffi::OsStr::new)))
}

#[test]
fn a_database_that_another_process_has_open_is_copied_to_a_plain_file() {
    let scratch = Scratch::new();
    let path = scratch.file("app.db");
    let mut holder = hold(&path, FEW);
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o640)).expect("chmod");
    // A name that a URI would take apart.
    let dest = scratch.file("a %41?copy#.db");
    let output = backup(&path, &dest, &[]);
    let text = output.printed();
    assert!(text.contains("integrity_check ok, synced"), "{text}");
    assert_plain(&dest);
    assert_eq!(number(&open_stock(&dest), "SELECT count(*) FROM t"), i64::try_from(FEW).unwrap());
    assert_eq!(dest.metadata().expect("metadata").permissions().mode() & 0o777, 0o640);
    assert!(beside(&path).contains(&String::from("app.db-pwal")), "it is in use still");
    holder.kill();
    // And a crashed one, which the backup recovers first.
    let output = backup(&path, &scratch.file("second.db"), &["--quick"]);
    assert!(output.printed().contains("quick_check ok"), "{output:?}");
    assert_plain(&path);
    assert_plain(&scratch.file("second.db"));
}

#[test]
fn the_copy_is_of_one_moment_while_somebody_commits() {
    let scratch = Scratch::new();
    let path = scratch.file("app.db");
    let connection = open_wal(&path);
    run(&connection, "PRAGMA synchronous=FULL; CREATE TABLE t(x INTEGER PRIMARY KEY, y); CREATE INDEX i ON t(y)");
    let (over, acknowledged) = (AtomicBool::new(false), AtomicI64::new(0));
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let connection = open_wal(&path);
            run(&connection, "PRAGMA synchronous=FULL");
            while !over.load(SeqCst) {
                run(&connection, "INSERT INTO t(y) VALUES(randomblob(3000))");
                acknowledged.fetch_add(1, SeqCst);
            }
            close(connection);
        });
        while acknowledged.load(SeqCst) < 200 {
            std::thread::yield_now();
        }
        for n in 0..3 {
            let before = acknowledged.load(SeqCst);
            let dest = scratch.file(&format!("{n}.db"));
            backup(&path, &dest, &[]).printed();
            let there = number(&open_stock(&dest), "SELECT count(*) FROM t");
            let after = acknowledged.load(SeqCst) + 1;
            assert!((before..=after).contains(&there), "{before} <= {there} <= {after}");
        }
        over.store(true, SeqCst);
        writer.join().expect("the writer");
    });
    close(connection);
    assert_plain(&path);
}

#[test]
fn what_is_at_the_destination_is_replaced_by_force_only_and_never_in_use() {
    let scratch = Scratch::new();
    let (path, dest) = (scratch.file("app.db"), scratch.file("dest.db"));
    let connection = open_wal(&path);
    run(&connection, "CREATE TABLE t(x); INSERT INTO t VALUES(1)");
    std::fs::write(&dest, "something of value").expect("write");
    assert!(backup(&path, &dest, &[]).refused(1).contains("--force"));
    assert_eq!(std::fs::read(&dest).expect("read"), b"something of value");
    backup(&path, &dest, &["--force"]).printed();
    assert_plain(&dest);

    assert!(backup(&path, &path, &["--force"]).refused(1).contains("is the database itself"));
    let stock = open_stock(&dest);
    assert!(backup(&path, &dest, &["--force"]).refused(3).contains("dest.db is open in process"));
    close(stock);
    std::fs::write(scratch.file("dest.db-journal"), "hot").expect("write");
    assert!(backup(&path, &dest, &["--force"]).refused(1).contains("dest.db-journal is there"));
    std::fs::remove_file(&dest).expect("remove");
    assert!(backup(&path, &dest, &[]).refused(1).contains("dest.db-journal is there"));
    assert!(!dest.exists());
    close(connection);
}

#[test]
fn a_damaged_database_makes_no_copy() {
    let scratch = Scratch::new();
    let path = scratch.file("app.db");
    let connection = open_wal(&path);
    run(&connection, "CREATE TABLE t(x INTEGER PRIMARY KEY, y); CREATE INDEX i ON t(y)");
    run(&connection, "INSERT INTO t(y) VALUES(1), (2), (3)");
    close(connection);
    std::fs::OpenOptions::new().write(true).open(&path).expect("open").write_at(&[0; 100], 2 * 4096).expect("write");
    let output = backup(&path, &scratch.file("dest.db"), &[]);
    output.refused(1);
    assert_eq!(contents(scratch.path()).len(), 1, "{output:?}");
}

#[test]
fn a_database_in_rollback_mode_is_copied_as_it_is() {
    let scratch = Scratch::new();
    let path = scratch.file("app.db");
    let stock = open_stock(&path);
    run(&stock, "PRAGMA journal_mode=DELETE; CREATE TABLE t(x); INSERT INTO t VALUES(1)");
    backup(&path, &scratch.file("dest.db"), &[]).printed();
    assert_plain_header(&scratch.file("dest.db"), 1);
    close(stock);
}
