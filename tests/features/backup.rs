//! The backup API both ways, VACUUM, VACUUM INTO.

use crate::common::{self, Scratch, dump};
use crate::fill;
use rusqlite::Connection;
use rusqlite::backup::{Backup, StepResult};
use std::cell::Cell;

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
    let (source, other) = (common::open_wal(&path), common::open(&path));
    fill(&source, 300, 1000);
    for to in ["memory", "file"] {
        let mut target = match to {
            "memory" => Connection::open_in_memory().unwrap(),
            _ => common::open_stock(&scratch.file("copy.db")),
        };
        copy(&source, &mut target, |round| {
            if round == 3 {
                common::run(&source, "INSERT INTO t(x) VALUES('own')");
            }
            if round == 6 {
                common::run(&other, "INSERT INTO t(x) VALUES('foreign'); DELETE FROM t WHERE id=2");
            }
        });
        let content = "SELECT count(*), sum(length(x)), max(id) FROM t";
        assert_eq!(common::text(&target, content), common::text(&source, content), "to {to}");
        common::assert_integrity(&target);
    }
}

#[test]
fn a_backup_into_it_while_another_connection_reads() {
    let scratch = Scratch::new();
    let path = scratch.file("app.db");
    let (mut target, reader) = (common::open_wal(&path), common::open(&path));
    fill(&target, 20, 100);
    assert_eq!(common::number(&reader, "SELECT count(*) FROM t"), 20);
    let source = Connection::open_in_memory().unwrap();
    fill(&source, 300, 1000);
    copy(&source, &mut target, |_| assert_eq!(common::number(&reader, "SELECT count(*) FROM t"), 20));
    assert_eq!(common::number(&reader, "SELECT count(*) FROM t"), 300);
    common::assert_integrity(&reader);
    // The copied page 1 says what the source's journal mode was.
    let mode = common::text(&target, "PRAGMA journal_mode");
    fill(&target, 1, 10);
    common::close(reader);
    common::close(target);
    let stock = common::open_stock(&path);
    assert_eq!(common::number(&stock, "SELECT count(*) FROM t"), 301, "{mode}");
    common::assert_integrity(&stock);
}

#[test]
fn a_backup_from_one_database_of_this_vfs_into_another() {
    let scratch = Scratch::new();
    let (one, two) = (scratch.file("one.db"), scratch.file("two.db"));
    let (source, mut target) = (common::open_wal(&one), common::open_wal(&two));
    fill(&source, 300, 1000);
    copy(&source, &mut target, |_| ());
    let before = dump::dump(&source);
    assert_eq!(dump::first_difference(&before, &dump::dump(&target)), None);
    common::close(source);
    common::close(target);
    common::assert_plain(&one);
    common::assert_plain(&two);
}

#[test]
fn vacuum_keeps_the_rows_and_gives_the_pages_back() {
    for vacuum in ["NONE", "FULL", "INCREMENTAL"] {
        let scratch = Scratch::new();
        let path = scratch.file("app.db");
        let (own, reader) = (common::open_wal(&path), common::open(&path));
        fill(&own, 500, 1000);
        common::run(&own, "DELETE FROM t WHERE id%2");
        common::run(&reader, "BEGIN");
        assert_eq!(common::number(&reader, "SELECT count(*) FROM t"), 250);
        let pages = common::number(&own, "PRAGMA page_count");
        common::run(&own, &format!("PRAGMA auto_vacuum={vacuum}; VACUUM"));
        assert!(common::number(&own, "PRAGMA page_count") < pages * 2 / 3);
        assert_eq!(common::number(&reader, "SELECT count(*) FROM t"), 250, "the old snapshot");
        common::run(&reader, "COMMIT");
        assert_eq!(common::text(&reader, "SELECT count(*), sum(length(x)) FROM t"), "250|250000");
        common::assert_integrity(&reader);
        common::run(&own, "VACUUM");
        common::close(own);
        common::close(reader);
        common::assert_plain(&path);
        assert!(path.metadata().unwrap().len() < u64::try_from(pages).unwrap() * 4096 * 2 / 3);
    }
}

#[test]
fn vacuum_into_makes_a_plain_copy_of_the_snapshot() {
    let scratch = Scratch::new();
    let path = scratch.file("app.db");
    let connection = common::open_wal(&path);
    fill(&connection, 300, 1000);
    common::run(&connection, "DELETE FROM t WHERE id%3");
    let (plain, by_uri) = (scratch.file("plain.db"), scratch.file("by-uri.db"));
    common::run(&connection, &format!("VACUUM INTO '{}'", plain.display()));
    common::run(&connection, &format!("VACUUM INTO 'file:{}?vfs=unix'", by_uri.display()));
    for copy in [plain, by_uri] {
        assert_eq!(common::beside(&copy), Vec::<String>::new());
        let stock = common::open_stock(&copy);
        assert_eq!(common::text(&stock, "SELECT count(*), sum(length(x)) FROM t"), "100|100000");
        common::assert_integrity(&stock);
    }
    assert_ne!(common::code_of(&connection, &format!("VACUUM INTO '{}'", scratch.file("plain.db").display())), 0);
}

/// SQLite writes what the source's own connection commits to the copy, too, and goes on.
#[test]
fn own_commits_do_not_begin_a_backup_again() {
    let scratch = Scratch::in_memory();
    let source = common::open_wal(&scratch.file("app.db"));
    common::run(&source, "PRAGMA synchronous=OFF");
    fill(&source, 6000, 3500);
    let version = common::number(&source, "PRAGMA data_version");
    let mut target = common::open(&scratch.file("copy.db"));
    let steps = Cell::new(0);
    {
        let backup = rusqlite::backup::Backup::new(&source, &mut target).unwrap();
        let mut left = i32::MAX;
        while backup.step(20).unwrap() == rusqlite::backup::StepResult::More {
            let now = backup.progress().remaining;
            assert!(now < left, "{now} pages are left, and were {left}");
            left = now;
            steps.set(steps.get() + 1);
            common::run(
                &source,
                "UPDATE t SET x=randomblob(3500) WHERE id IN (abs(random())%6000+1, abs(random())%6000+1)",
            );
        }
    }
    assert!(steps.get() >= 300);
    assert_eq!(common::number(&source, "PRAGMA data_version"), version);
    let rows = "SELECT count(*), sum(length(x)), group_concat(substr(x, 1, 8)) FROM t";
    assert_eq!(common::text(&source, rows), common::text(&target, rows));
}

/// The idle checkpoint does its work, and no connection's view changes by it.
#[test]
fn a_checkpoint_in_the_background_changes_no_data_version() {
    let scratch = Scratch::in_memory();
    let path = scratch.file("app.db");
    let (writer, reader) = (common::open_wal(&path), common::open(&path));
    fill(&writer, 6000, 3500);
    let version = |connection: &Connection| common::number(connection, "PRAGMA data_version");
    let before = (version(&writer), version(&reader));
    if common::on_pwal() {
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
