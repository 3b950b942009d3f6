//! Stock SQLite beside processes that use the database through pwal: it never gets in.

use super::processes::agent::Agent;
use super::{assert_left, common};
use crate::common::scene::{COUNT, scene};
use std::path::Path;
use std::process::Command;

/// What the `sqlite3` shell, without pwal, says to a statement.
fn shell(path: &Path, sql: &str) -> Result<String, String> {
    let name = std::env::var_os("PWAL_TEST_SQLITE3").unwrap_or_else(|| "/usr/bin/sqlite3".into());
    let output = Command::new(name).arg("-batch").arg(path).arg(sql).output().expect("the sqlite3 shell");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("a text").trim().to_owned();
    if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
}

const STATEMENTS: [&str; 4] =
    ["SELECT count(*) FROM t", "INSERT INTO t VALUES('stock')", "PRAGMA journal_mode=DELETE", "VACUUM"];

/// By the lock where somebody holds it, at the latest by the directory in place of the `-wal`; with `locked`, by the lock.
#[track_caller]
fn assert_kept_out(path: &Path, locked: bool) {
    for sql in STATEMENTS {
        let error = shell(path, sql).expect_err(sql);
        let by_lock = error.contains("database is locked");
        assert!(by_lock || (!locked && error.contains("unable to open database file")), "{sql}: {error}");
    }
}

#[test]
fn stock_is_kept_out_while_anybody_is_attached() {
    if !common::on_pwal() {
        return;
    }
    let (_scene, path) = scene("stock outside");
    let mut first = Agent::on(&path);
    first.run(COUNT);
    assert_kept_out(&path, true);
    let mut second = Agent::on(&path);
    second.run(COUNT);
    assert_kept_out(&path, true);
    first.run("INSERT INTO t VALUES(1)");
    // The first held EXCLUSIVE.
    first.end();
    assert_kept_out(&path, false);
    second.run("INSERT INTO t VALUES(2)");
    assert_kept_out(&path, false);
    let mut third = Agent::on(&path);
    third.run("INSERT INTO t VALUES(3)");
    assert_kept_out(&path, false);
    second.kill();
    assert_kept_out(&path, false);
    third.run("INSERT INTO t VALUES(4)");
    assert_kept_out(&path, false);
    // Nobody is there any more, and the log is.
    third.kill();
    assert_kept_out(&path, false);
    let last = common::open(&path);
    assert_eq!(common::number(&last, COUNT), 4);
    common::close(last);
    assert_eq!(shell(&path, COUNT).expect("nobody is attached"), "4");
    shell(&path, "INSERT INTO t VALUES('stock')").expect("nobody is attached");
    assert_left(&path, 5);
}

/// Who has committed nothing yet has written nothing either: then the lock alone keeps stock out, and when the
/// first dies the second must not go on as if it had it.
#[test]
fn stock_is_kept_out_of_a_database_that_nobody_has_written_yet() {
    if !common::on_pwal() {
        return;
    }
    let (_scene, path) = scene("stock outside of readers");
    for kills in [false, true] {
        let (mut first, mut second) = (Agent::on(&path), Agent::on(&path));
        first.run(COUNT);
        second.run(COUNT);
        assert_kept_out(&path, false);
        if kills {
            first.kill();
        } else {
            first.end();
        }
        assert_kept_out(&path, false);
        assert_eq!(second.run(COUNT), "0");
        assert_kept_out(&path, false);
        second.end();
        assert_left(&path, 0);
    }
}

#[test]
fn a_stock_connection_that_was_there_first_keeps_every_process_out() {
    if !common::on_pwal() {
        return;
    }
    let (_scene, path) = scene("stock inside");
    let mut stock = Agent::start();
    assert_eq!(stock.ask(&format!("c .vfs unix {}", path.display())), "open");
    stock.run(COUNT);
    let mut agents = [Agent::on(&path), Agent::on(&path)];
    for agent in &mut agents {
        agent.ask("c .timeout 100");
        assert_eq!(agent.ask("c SELECT * FROM t"), "code 5");
        // It is still there: in WAL mode it holds SHARED for as long as it is open.
        assert_eq!(agent.ask("c INSERT INTO t VALUES(1)"), "code 5");
    }
    stock.run("INSERT INTO t VALUES('stock')");
    stock.end();
    for agent in &mut agents {
        agent.run("INSERT INTO t VALUES(1)");
    }
    agents.into_iter().for_each(Agent::end);
    assert_left(&path, 3);
}
