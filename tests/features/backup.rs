//! The backup API both ways, VACUUM, VACUUM INTO.

use crate::common::{self, Scratch, dump};
use crate::fill;
use rusqlite::Connection;
use rusqlite::backup::{Backup, StepResult};

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
