//! The backup API both ways, VACUUM, VACUUM INTO.

use super::fill;
use rusqlite::Connection;
use rusqlite::backup::{Backup, StepResult};
use std::cell::Cell;
use support::{Scratch, dump};

fn copy(source: &Connection, target: &mut Connection, between: impl Fn(u32)) {
    let backup = Backup::new(source, target).unwrap();
    for round in 0..10_000 {
        match backup.step(7).unwrap() {
            StepResult::Done => return,
            StepResult::More => between(round),
            other => panic!("{other:?}"),
        }
    }
    panic!("the backup never ends");
}

#[test]
fn a_backup_from_it_while_its_own_connection_and_others_write() {
    let scratch = Scratch::new();
    let path = scratch.file("app.db");
    let (source, other) = (support::open_wal(&path), support::open(&path));
    fill(&source, 300, 1000);
    for to in ["memory", "file"] {
        let mut target = match to {
            "memory" => Connection::open_in_memory().unwrap(),
            _ => support::open_stock(&scratch.file("copy.db")),
        };
        copy(&source, &mut target, |round| {
            if round == 3 {
                support::run(&source, "INSERT INTO t(x) VALUES('own')");
            }
            if round == 6 {
                support::run(&other, "INSERT INTO t(x) VALUES('foreign'); DELETE FROM t WHERE id=2");
            }
        });
        let content = "SELECT count(*), sum(length(x)), max(id) FROM t";
        assert_eq!(support::text(&target, content), support::text(&source, content), "to {to}");
        support::assert_integrity(&target);
    }
}

#[test]
fn a_backup_into_it_while_another_connection_reads() {
    let scratch = Scratch::new();
    let path = scratch.file("app.db");
    let (mut target, reader) = (support::open_wal(&path), support::open(&path));
    fill(&target, 20, 100);
    assert_eq!(support::number(&reader, "SELECT count(*) FROM t"), 20);
    let source = Connection::open_in_memory().unwrap();
    fill(&source, 300, 1000);
    copy(&source, &mut target, |_| assert_eq!(support::number(&reader, "SELECT count(*) FROM t"), 20));
    assert_eq!(support::number(&reader, "SELECT count(*) FROM t"), 300);
    support::assert_integrity(&reader);
    // The copied page 1 says what the source's journal mode was.
    let mode = support::text(&target, "PRAGMA journal_mode");
    fill(&target, 1, 10);
    support::close(reader);
    support::close(target);
    let stock = support::open_stock(&path);
    assert_eq!(support::number(&stock, "SELECT count(*) FROM t"), 301, "{mode}");
    support::assert_integrity(&stock);
}

#[test]
fn a_backup_from_one_database_of_this_vfs_into_another() {
    let scratch = Scratch::new();
    let (one, two) = (scratch.file("one.db"), scratch.file("two.db"));
    let (source, mut target) = (support::open_wal(&one), support::open_wal(&two));
    fill(&source, 300, 1000);
    copy(&source, &mut target, |_| ());
    let before = dump::dump(&source);
    assert_eq!(dump::first_difference(&before, &dump::dump(&target)), None);
    support::close(source);
    support::close(target);
    support::assert_plain(&one);
    support::assert_plain(&two);
}

#[test]
fn vacuum_keeps_the_rows_and_gives_the_pages_back() {
    for vacuum in ["NONE", "FULL", "INCREMENTAL"] {
        let scratch = Scratch::new();
        let path = scratch.file("app.db");
        let (own, reader) = (support::open_wal(&path), support::open(&path));
        fill(&own, 500, 1000);
        support::run(&own, "DELETE FROM t WHERE id%2");
        support::run(&reader, "BEGIN");
        assert_eq!(support::number(&reader, "SELECT count(*) FROM t"), 250);
        let pages = support::number(&own, "PRAGMA page_count");
        support::run(&own, &format!("PRAGMA auto_vacuum={vacuum}; VACUUM"));
        assert!(support::number(&own, "PRAGMA page_count") < pages * 2 / 3);
        assert_eq!(support::number(&reader, "SELECT count(*) FROM t"), 250, "the old snapshot");
        support::run(&reader, "COMMIT");
        assert_eq!(support::text(&reader, "SELECT count(*), sum(length(x)) FROM t"), "250|250000");
        support::assert_integrity(&reader);
        support::run(&own, "VACUUM");
        support::close(own);
        support::close(reader);
        support::assert_plain(&path);
        assert!(path.metadata().unwrap().len() < u64::try_from(pages).unwrap() * 4096 * 2 / 3);
    }
}

#[test]
fn vacuum_into_makes_a_plain_copy_of_the_snapshot() {
    let scratch = Scratch::new();
    let path = scratch.file("app.db");
    let connection = support::open_wal(&path);
    fill(&connection, 300, 1000);
    support::run(&connection, "DELETE FROM t WHERE id%3");
    let (plain, by_uri) = (scratch.file("plain.db"), scratch.file("by-uri.db"));
    support::run(&connection, &format!("VACUUM INTO '{}'", plain.display()));
    support::run(&connection, &format!("VACUUM INTO 'file:{}?vfs=unix'", by_uri.display()));
    for copy in [plain, by_uri] {
        assert_eq!(support::beside(&copy), Vec::<String>::new());
        let stock = support::open_stock(&copy);
        assert_eq!(support::text(&stock, "SELECT count(*), sum(length(x)) FROM t"), "100|100000");
        support::assert_integrity(&stock);
    }
    assert_ne!(support::code_of(&connection, &format!("VACUUM INTO '{}'", scratch.file("plain.db").display())), 0);
}

/// SQLite writes what the source's own connection commits to the copy, too, and goes on.
#[test]
fn own_commits_do_not_begin_a_backup_again() {
    let scratch = Scratch::in_memory();
    let source = support::open_wal(&scratch.file("app.db"));
    support::run(&source, "PRAGMA synchronous=OFF");
    fill(&source, 6000, 3500);
    let version = support::number(&source, "PRAGMA data_version");
    let mut target = support::open(&scratch.file("copy.db"));
    let steps = Cell::new(0);
    {
        let backup = rusqlite::backup::Backup::new(&source, &mut target).unwrap();
        let mut left = i32::MAX;
        while backup.step(20).unwrap() == rusqlite::backup::StepResult::More {
            let now = backup.progress().remaining;
            assert!(now < left, "{now} pages are left, and were {left}");
            left = now;
            steps.set(steps.get() + 1);
            support::run(
                &source,
                "UPDATE t SET x=randomblob(3500) WHERE id IN (abs(random())%6000+1, abs(random())%6000+1)",
            );
        }
    }
    assert!(steps.get() >= 300);
    assert_eq!(support::number(&source, "PRAGMA data_version"), version);
    let rows = "SELECT count(*), sum(length(x)), group_concat(substr(x, 1, 8)) FROM t";
    assert_eq!(support::text(&source, rows), support::text(&target, rows));
}

/// The idle checkpoint does its work, and no connection's view changes by it.
#[test]
fn a_checkpoint_in_the_background_changes_no_data_version() {
    let scratch = Scratch::in_memory();
    let path = scratch.file("app.db");
    let (writer, reader) = (support::open_wal(&path), support::open(&path));
    fill(&writer, 6000, 3500);
    let version = |connection: &Connection| support::number(connection, "PRAGMA data_version");
    let before = (version(&writer), version(&reader));
    if support::on_pwal() {
        let status = |field: &str| {
            let json: String = writer.query_row("PRAGMA parallel_wal_status", [], |row| row.get(0)).unwrap();
            serde_json::from_str::<serde_json::Value>(&json).unwrap()[field].as_u64().unwrap()
        };
        while status("backfilled") < status("published") {
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }
    assert_eq!((version(&writer), version(&reader)), before);
}
