//! What a killed stock SQLite leaves beside its database, opened through the VFS under test.

use super::common::{self, Scratch, child};
use super::workload;
use std::path::Path;

/// A role of its own process: stock SQLite writes in WAL mode and waits to be killed.
#[test]
fn child_writes_a_stock_wal() {
    if child::role("leftovers::child_writes_a_stock_wal") {
        let stock = common::open_stock(child::setting("PWAL_TEST_DATABASE").as_ref());
        common::run(&stock, "PRAGMA wal_autocheckpoint=0");
        for n in 1..=20 {
            common::run(
                &stock,
                &format!(
                    "BEGIN; INSERT INTO whole VALUES(0,{n},1); INSERT INTO part VALUES(0,{n},0,zeroblob(3000)); COMMIT"
                ),
            );
            child::report(&format!("0 {n}"));
        }
        child::command();
    }
}

/// A role of its own process: stock SQLite in rollback mode, in the middle of a transaction
/// that has spilled to the database file.
#[test]
fn child_leaves_a_hot_journal() {
    if child::role("leftovers::child_leaves_a_hot_journal") {
        let stock = common::open_stock(child::setting("PWAL_TEST_DATABASE").as_ref());
        common::run(&stock, "PRAGMA cache_size=2; BEGIN; DELETE FROM part; INSERT INTO whole VALUES(3,1,5)");
        common::run(&stock, "UPDATE churn SET body=randomblob(9000)");
        child::report("in the middle");
        child::command();
    }
}

fn start(role: &str, path: &Path) -> child::Role {
    child::start(role, &[("PWAL_TEST_DATABASE", path.to_str().unwrap().to_owned())])
}

#[test]
fn the_wal_of_a_killed_stock_writer_is_settled_and_nothing_is_lost() {
    let scratch = Scratch::new();
    let path = scratch.file("app.db");
    let create = common::open_stock(&path);
    common::run(&create, "PRAGMA journal_mode=WAL");
    common::close(create);
    workload::create(&path);
    let mut writer = start("leftovers::child_writes_a_stock_wal", &path);
    let mut reported = workload::Reported::default();
    for _ in 0..20 {
        reported.add(&writer.lines.next().expect("a commit"));
    }
    writer.kill();
    assert!(scratch.file("app.db-wal").metadata().unwrap().len() > 20 * 3000);

    let connection = common::open(&path);
    reported.compare(&workload::found(&connection));
    common::run(&connection, "BEGIN; INSERT INTO whole VALUES(0,21,1); INSERT INTO part VALUES(0,21,0,x'00'); COMMIT");
    common::assert_integrity(&connection);
    common::close(connection);
    common::assert_plain(&path);
    let stock = common::open_stock(&path);
    assert_eq!(workload::found(&stock).get(&0), Some(&21));
}

#[test]
fn a_hot_journal_is_played_back_in_rollback_mode_and_before_the_switch_to_wal() {
    for switch in [false, true] {
        let scratch = Scratch::new();
        let path = scratch.file("app.db");
        workload::create(&path);
        let prepare = common::open_stock(&path);
        common::run(
            &prepare,
            "PRAGMA journal_mode=DELETE;
             INSERT INTO churn WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<50) SELECT i, zeroblob(9000) FROM n;
             INSERT INTO whole VALUES(0,1,1); INSERT INTO part VALUES(0,1,0,x'00')",
        );
        let before = common::dump::dump(&prepare);
        common::close(prepare);
        let mut writer = start("leftovers::child_leaves_a_hot_journal", &path);
        writer.expect("in the middle");
        writer.kill();
        assert!(scratch.file("app.db-journal").metadata().unwrap().len() > 9000);

        let connection = common::open(&path);
        if switch {
            assert_eq!(common::text(&connection, "PRAGMA journal_mode=WAL"), "wal");
        }
        assert_eq!(common::dump::first_difference(&before, &common::dump::dump(&connection)), None);
        common::assert_integrity(&connection);
        common::run(&connection, "INSERT INTO churn VALUES(99, x'01')");
        common::close(connection);
        common::assert_plain_header(&path, if switch { 2 } else { 1 });
    }
}
