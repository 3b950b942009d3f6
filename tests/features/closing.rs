//! A clean close leaves one plain file, whatever is in it.

use crate::common::{self, Scratch, dump};
use crate::fill;

#[test]
fn every_page_size_and_auto_vacuum() {
    for page_bytes in [512, 1024, 2048, 4096, 8192, 16384, 32768, 65536] {
        for vacuum in ["NONE", "FULL", "INCREMENTAL"] {
            let scratch = Scratch::new();
            let path = scratch.file("app.db");
            let connection = common::open(&path);
            common::run(
                &connection,
                &format!("PRAGMA page_size={page_bytes}; PRAGMA auto_vacuum={vacuum}; PRAGMA journal_mode=WAL"),
            );
            fill(&connection, 40, 100);
            fill(&connection, 5, page_bytes * 5 / 2);
            common::run(&connection, "DELETE FROM t WHERE id%3=0; PRAGMA incremental_vacuum(3)");
            fill(&connection, 3, page_bytes);
            assert_eq!(common::number(&connection, "PRAGMA page_size"), i64::from(page_bytes));
            common::assert_integrity(&connection);
            let before = dump::dump(&connection);
            common::close(connection);
            common::assert_plain(&path);
            for again in [common::open_stock(&path), common::open(&path)] {
                assert_eq!(dump::first_difference(&before, &dump::dump(&again)), None, "{page_bytes}, {vacuum}");
                common::close(again);
            }
            common::assert_plain(&path);
        }
    }
}

#[test]
fn whoever_closes_last_leaves_the_plain_file() {
    let scratch = Scratch::new();
    let path = scratch.file("app.db");
    let first = common::open_wal(&path);
    fill(&first, 10, 100);
    let connections: Vec<_> = (0..5).map(|_| common::open(&path)).collect();
    for (number, connection) in connections.iter().enumerate() {
        common::run(connection, &format!("UPDATE t SET x='{number}' WHERE id={}", number + 1));
    }
    common::close(first);
    for connection in connections {
        common::assert_integrity(&connection);
        common::close(connection);
    }
    common::assert_plain(&path);
}

#[test]
fn a_close_in_the_middle_of_a_transaction_rolls_it_back() {
    let scratch = Scratch::new();
    let path = scratch.file("app.db");
    let connection = common::open_wal(&path);
    fill(&connection, 10, 100);
    common::run(&connection, "PRAGMA cache_size=1; BEGIN; DELETE FROM t");
    fill(&connection, 100, 4000);
    common::close(connection);
    common::assert_plain(&path);
    assert_eq!(common::number(&common::open_stock(&path), "SELECT count(*) FROM t"), 10);
}

#[test]
fn reading_alone_changes_no_byte_and_leaves_nothing() {
    let scratch = Scratch::new();
    let path = scratch.file("app.db");
    let connection = common::open_wal(&path);
    fill(&connection, 10, 100);
    common::close(connection);
    let before = std::fs::read(&path).unwrap();
    let (one, two) = (common::open(&path), common::open(&path));
    assert_eq!(common::number(&one, "SELECT count(*) FROM t"), 10);
    assert_eq!(common::number(&two, "SELECT count(*) FROM t"), 10);
    common::run(&one, "BEGIN IMMEDIATE; COMMIT; BEGIN; INSERT INTO t(x) VALUES(1); ROLLBACK");
    common::close(one);
    common::close(two);
    assert_eq!(std::fs::read(&path).unwrap(), before);
    assert_eq!(common::beside(&path), Vec::<String>::new());
}

#[test]
fn an_open_connection_that_never_read_leaves_nothing_and_an_empty_file_stays_empty() {
    let scratch = Scratch::new();
    let path = scratch.file("app.db");
    common::close(common::open(&path));
    assert_eq!(std::fs::read(&path).map(|bytes| bytes.len()).unwrap_or(0), 0);
    let connection = common::open(&path);
    assert_eq!(common::number(&connection, "SELECT count(*) FROM sqlite_schema"), 0);
    common::close(connection);
    assert_eq!(common::beside(&path), Vec::<String>::new());
}

#[test]
fn a_database_can_be_opened_and_closed_many_times_and_by_stock_in_between() {
    let scratch = Scratch::new();
    let path = scratch.file("app.db");
    common::close(common::open_wal(&path));
    for round in 0..30_i64 {
        let connection = if round % 3 == 2 { common::open_stock(&path) } else { common::open(&path) };
        fill(&connection, 1, 3000);
        assert_eq!(common::number(&connection, "SELECT count(*) FROM t"), round + 1);
        common::close(connection);
        assert_eq!(common::beside(&path), Vec::<String>::new());
    }
    common::assert_plain(&path);
}

#[test]
fn every_synchronous_commits_and_leaves_a_plain_file() {
    for synchronous in ["OFF", "NORMAL", "FULL", "EXTRA"] {
        let scratch = Scratch::new();
        let path = scratch.file("app.db");
        let connection = common::open_wal(&path);
        common::run(&connection, &format!("PRAGMA synchronous={synchronous}"));
        fill(&connection, 10, 100);
        let other = common::open(&path);
        assert_eq!(common::number(&other, "SELECT count(*) FROM t"), 10, "{synchronous}");
        common::run(&other, "DELETE FROM t WHERE id=1");
        assert_eq!(common::number(&connection, "SELECT count(*) FROM t"), 9, "{synchronous}");
        common::close(connection);
        common::close(other);
        common::assert_plain(&path);
    }
}

#[test]
fn no_checkpoint_on_close_keeps_the_log_also_behind_a_refused_journal_mode() {
    for (refused, reads, synchronous) in [(false, false, 1), (true, false, 1), (true, true, 1), (true, true, 2)] {
        let scratch = Scratch::new();
        let path = scratch.file("app.db");
        let (one, other) = (common::open_wal(&path), common::open(&path));
        common::run(&one, &format!("PRAGMA synchronous={synchronous}"));
        fill(&one, 10, 100);
        assert_eq!(common::number(&other, "SELECT count(*) FROM t"), 10);
        if refused {
            one.busy_timeout(std::time::Duration::ZERO).unwrap();
            let mode = common::rows(&one, "PRAGMA journal_mode=DELETE");
            assert!(mode.is_err() || mode.is_ok_and(|rows| rows == ["wal"]));
        }
        common::close(other);
        one.set_db_config(rusqlite::config::DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).unwrap();
        if reads {
            assert_eq!(common::number(&one, "SELECT count(*) FROM t"), 10);
        }
        common::close(one);
        assert_ne!(common::beside(&path), Vec::<String>::new(), "{refused}, {reads}: the log stays");
        let again = common::open(&path);
        assert_eq!(common::number(&again, "SELECT count(*) FROM t"), 10);
        common::close(again);
        common::assert_plain(&path);
    }
}

/// Test suites delete their databases before they close them.
#[test]
fn a_database_that_was_deleted_leaves_nothing() {
    if !common::on_pwal() {
        return;
    }
    let scratch = Scratch::new();
    let path = scratch.file("app.db");
    for round in 0..3 {
        let connections = [common::open_wal(&path), common::open(&path)];
        common::run(&connections[0], "CREATE TABLE t(x); INSERT INTO t VALUES(1)");
        assert_eq!(common::number(&connections[1], "SELECT count(*) FROM t"), 1);
        std::fs::remove_file(&path).unwrap();
        common::run(&connections[1], "INSERT INTO t VALUES(2)");
        drop(connections);
        assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 0, "round {round}");
    }
    // One that has another name keeps its log.
    let connection = common::open_wal(&path);
    common::run(&connection, "CREATE TABLE t(x); INSERT INTO t VALUES(1)");
    let moved = scratch.file("moved.db");
    std::fs::rename(&path, &moved).unwrap();
    drop(connection);
    std::fs::rename(&moved, &path).unwrap();
    assert_eq!(common::number(&common::open(&path), "SELECT count(*) FROM t"), 1);
}
