//! What a killed stock SQLite leaves beside its database, opened through the VFS under test.

use super::workload;
use std::path::Path;
use support::{Scratch, child};

/// A role of its own process: stock SQLite writes in WAL mode and waits to be killed.
#[test]
fn child_writes_a_stock_wal() {
    if child::role("crashes::leftovers::child_writes_a_stock_wal") {
        let stock = support::open_stock(child::setting("PWAL_TEST_DATABASE").as_ref());
        support::run(&stock, "PRAGMA wal_autocheckpoint=0");
        for n in 1..=20 {
            support::run(
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
    if child::role("crashes::leftovers::child_leaves_a_hot_journal") {
        let stock = support::open_stock(child::setting("PWAL_TEST_DATABASE").as_ref());
        support::run(&stock, "PRAGMA cache_size=2; BEGIN; DELETE FROM part; INSERT INTO whole VALUES(3,1,5)");
        support::run(&stock, "UPDATE churn SET body=randomblob(9000)");
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
    let create = support::open_stock(&path);
    support::run(&create, "PRAGMA journal_mode=WAL");
    support::close(create);
    workload::create(&path);
    let mut writer = start("crashes::leftovers::child_writes_a_stock_wal", &path);
    let mut reported = workload::Reported::default();
    for _ in 0..20 {
        reported.add(&writer.lines.next().expect("a commit"));
    }
    writer.kill();
    assert!(scratch.file("app.db-wal").metadata().unwrap().len() > 20 * 3000);

    let connection = support::open(&path);
    reported.compare(&workload::found(&connection));
    support::run(&connection, "BEGIN; INSERT INTO whole VALUES(0,21,1); INSERT INTO part VALUES(0,21,0,x'00'); COMMIT");
    support::assert_integrity(&connection);
    support::close(connection);
    support::assert_plain(&path);
    let stock = support::open_stock(&path);
    assert_eq!(workload::found(&stock).get(&0), Some(&21));
}

#[test]
fn a_hot_journal_is_played_back_in_rollback_mode_and_before_the_switch_to_wal() {
    for switch in [false, true] {
        let scratch = Scratch::new();
        let path = scratch.file("app.db");
        workload::create(&path);
        let prepare = support::open_stock(&path);
        support::run(
            &prepare,
            "PRAGMA journal_mode=DELETE;
             INSERT INTO churn WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<50) SELECT i, zeroblob(9000) FROM n;
             INSERT INTO whole VALUES(0,1,1); INSERT INTO part VALUES(0,1,0,x'00')",
        );
        let before = support::dump::dump(&prepare);
        support::close(prepare);
        let mut writer = start("crashes::leftovers::child_leaves_a_hot_journal", &path);
        writer.expect("in the middle");
        writer.kill();
        assert!(scratch.file("app.db-journal").metadata().unwrap().len() > 9000);

        let connection = support::open(&path);
        if switch {
            assert_eq!(support::text(&connection, "PRAGMA journal_mode=WAL"), "wal");
        }
        assert_eq!(support::dump::first_difference(&before, &support::dump::dump(&connection)), None);
        support::assert_integrity(&connection);
        support::run(&connection, "INSERT INTO churn VALUES(99, x'01')");
        support::close(connection);
        support::assert_plain_header(&path, if switch { 2 } else { 1 });
    }
}
