//! A clean close leaves one plain file, whatever is in it.

use super::fill;
use support::{Scratch, dump};

#[test]
fn every_page_size_and_auto_vacuum() {
    for page_bytes in [512, 1024, 2048, 4096, 8192, 16384, 32768, 65536] {
        for vacuum in ["NONE", "FULL", "INCREMENTAL"] {
            let scratch = Scratch::new();
            let path = scratch.file("app.db");
            let connection = support::open(&path);
            support::run(
                &connection,
                &format!("PRAGMA page_size={page_bytes}; PRAGMA auto_vacuum={vacuum}; PRAGMA journal_mode=WAL"),
            );
            fill(&connection, 40, 100);
            fill(&connection, 5, page_bytes * 5 / 2);
            support::run(&connection, "DELETE FROM t WHERE id%3=0; PRAGMA incremental_vacuum(3)");
            fill(&connection, 3, page_bytes);
            assert_eq!(support::number(&connection, "PRAGMA page_size"), i64::from(page_bytes));
            support::assert_integrity(&connection);
            let before = dump::dump(&connection);
            support::close(connection);
            support::assert_plain(&path);
            for again in [support::open_stock(&path), support::open(&path)] {
                assert_eq!(dump::first_difference(&before, &dump::dump(&again)), None, "{page_bytes}, {vacuum}");
                support::close(again);
            }
            support::assert_plain(&path);
        }
    }
}

#[test]
fn whoever_closes_last_leaves_the_plain_file() {
    let scratch = Scratch::new();
    let path = scratch.file("app.db");
    let first = support::open_wal(&path);
    fill(&first, 10, 100);
    let connections: Vec<_> = (0..5).map(|_| support::open(&path)).collect();
    for (number, connection) in connections.iter().enumerate() {
        support::run(connection, &format!("UPDATE t SET x='{number}' WHERE id={}", number + 1));
    }
    support::close(first);
    for connection in connections {
        support::assert_integrity(&connection);
        support::close(connection);
    }
    support::assert_plain(&path);
}

#[test]
fn a_close_in_the_middle_of_a_transaction_rolls_it_back() {
    let scratch = Scratch::new();
    let path = scratch.file("app.db");
    let connection = support::open_wal(&path);
    fill(&connection, 10, 100);
    support::run(&connection, "PRAGMA cache_size=1; BEGIN; DELETE FROM t");
    fill(&connection, 100, 4000);
    support::close(connection);
    support::assert_plain(&path);
    assert_eq!(support::number(&support::open_stock(&path), "SELECT count(*) FROM t"), 10);
}

#[test]
fn reading_alone_changes_no_byte_and_leaves_nothing() {
    let scratch = Scratch::new();
    let path = scratch.file("app.db");
    let connection = support::open_wal(&path);
    fill(&connection, 10, 100);
    support::close(connection);
    let before = std::fs::read(&path).unwrap();
    let (one, two) = (support::open(&path), support::open(&path));
    assert_eq!(support::number(&one, "SELECT count(*) FROM t"), 10);
    assert_eq!(support::number(&two, "SELECT count(*) FROM t"), 10);
    support::run(&one, "BEGIN IMMEDIATE; COMMIT; BEGIN; INSERT INTO t(x) VALUES(1); ROLLBACK");
    support::close(one);
    support::close(two);
    assert_eq!(std::fs::read(&path).unwrap(), before);
    assert_eq!(support::beside(&path), Vec::<String>::new());
}

#[test]
fn an_open_connection_that_never_read_leaves_nothing_and_an_empty_file_stays_empty() {
    let scratch = Scratch::new();
    let path = scratch.file("app.db");
    support::close(support::open(&path));
    assert_eq!(std::fs::read(&path).map(|bytes| bytes.len()).unwrap_or(0), 0);
    let connection = support::open(&path);
    assert_eq!(support::number(&connection, "SELECT count(*) FROM sqlite_schema"), 0);
    support::close(connection);
    assert_eq!(support::beside(&path), Vec::<String>::new());
}

#[test]
fn a_database_can_be_opened_and_closed_many_times_and_by_stock_in_between() {
    let scratch = Scratch::new();
    let path = scratch.file("app.db");
    support::close(support::open_wal(&path));
    for round in 0..30_i64 {
        let connection = if round % 3 == 2 { support::open_stock(&path) } else { support::open(&path) };
        fill(&connection, 1, 3000);
        assert_eq!(support::number(&connection, "SELECT count(*) FROM t"), round + 1);
        support::close(connection);
        assert_eq!(support::beside(&path), Vec::<String>::new());
    }
    support::assert_plain(&path);
}

#[test]
fn every_synchronous_commits_and_leaves_a_plain_file() {
    for synchronous in ["OFF", "NORMAL", "FULL", "EXTRA"] {
        let scratch = Scratch::new();
        let path = scratch.file("app.db");
        let connection = support::open_wal(&path);
        support::run(&connection, &format!("PRAGMA synchronous={synchronous}"));
        fill(&connection, 10, 100);
        let other = support::open(&path);
        assert_eq!(support::number(&other, "SELECT count(*) FROM t"), 10, "{synchronous}");
        support::run(&other, "DELETE FROM t WHERE id=1");
        assert_eq!(support::number(&connection, "SELECT count(*) FROM t"), 9, "{synchronous}");
        support::close(connection);
        support::close(other);
        support::assert_plain(&path);
    }
}

#[test]
fn no_checkpoint_on_close_keeps_the_log_also_behind_a_refused_journal_mode() {
    for (refused, reads, synchronous) in [(false, false, 1), (true, false, 1), (true, true, 1), (true, true, 2)] {
        let scratch = Scratch::new();
        let path = scratch.file("app.db");
        let (one, other) = (support::open_wal(&path), support::open(&path));
        support::run(&one, &format!("PRAGMA synchronous={synchronous}"));
        fill(&one, 10, 100);
        assert_eq!(support::number(&other, "SELECT count(*) FROM t"), 10);
        if refused {
            one.busy_timeout(std::time::Duration::ZERO).unwrap();
            let mode = support::rows(&one, "PRAGMA journal_mode=DELETE");
            assert!(mode.is_err() || mode.is_ok_and(|rows| rows == ["wal"]));
        }
        support::close(other);
        one.set_db_config(rusqlite::config::DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).unwrap();
        if reads {
            assert_eq!(support::number(&one, "SELECT count(*) FROM t"), 10);
        }
        support::close(one);
        assert_ne!(support::beside(&path), Vec::<String>::new(), "{refused}, {reads}: the log stays");
        let again = support::open(&path);
        assert_eq!(support::number(&again, "SELECT count(*) FROM t"), 10);
        support::close(again);
        support::assert_plain(&path);
    }
}

/// Test suites delete their databases before they close them.
#[test]
fn a_database_that_was_deleted_leaves_nothing() {
    if !support::on_pwal() {
        return;
    }
    let scratch = Scratch::new();
    let path = scratch.file("app.db");
    for round in 0..3 {
        let connections = [support::open_wal(&path), support::open(&path)];
        support::run(&connections[0], "CREATE TABLE t(x); INSERT INTO t VALUES(1)");
        assert_eq!(support::number(&connections[1], "SELECT count(*) FROM t"), 1);
        std::fs::remove_file(&path).unwrap();
        support::run(&connections[1], "INSERT INTO t VALUES(2)");
        drop(connections);
        assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 0, "round {round}");
    }
    // One that has another name keeps its log.
    let connection = support::open_wal(&path);
    support::run(&connection, "CREATE TABLE t(x); INSERT INTO t VALUES(1)");
    let moved = scratch.file("moved.db");
    std::fs::rename(&path, &moved).unwrap();
    drop(connection);
    std::fs::rename(&moved, &path).unwrap();
    assert_eq!(support::number(&support::open(&path), "SELECT count(*) FROM t"), 1);
}
