//! What users do to a database that processes have open: it is removed and made anew under them, opened for reading first,
//! its processes are killed in the middle of large transactions.
//!
//! Each scene is played by agents (`processes/agent.rs`).

mod common;
mod processes;

use common::{Scratch, Watchdog, child};
use processes::agent::{self, Agent};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A role of its own process; nothing in a normal run.
#[test]
fn child_obeys() {
    if child::role("child_obeys") {
        agent::run();
    }
}

/// A hang of a scene is a failure.
fn watchdog(scene: &str) -> Watchdog {
    Watchdog::new(scene, Duration::from_secs(100))
}

/// A database in WAL mode with an empty table `t(x)`.
fn create(path: &Path) {
    let connection = common::open_wal(path);
    common::run(&connection, "CREATE TABLE t(x)");
    common::close(connection);
}

fn log_directory(path: &Path) -> PathBuf {
    PathBuf::from(format!("{}-pwal", path.display()))
}

/// `rm -rf app.db*; ./migrate` while an old server runs, which is ended afterwards: at its exit it shall not take the
/// files of the new database for its own.
#[test]
fn the_exit_of_one_whose_database_was_made_anew_leaves_the_new_one_alone() {
    let _watchdog = watchdog("a database made anew");
    let scratch = Scratch::new();
    let path = scratch.file("app.db");
    create(&path);
    let mut old = Agent::on(&path);
    old.run("INSERT INTO t VALUES('old')");
    std::fs::remove_file(&path).unwrap();
    std::fs::remove_dir_all(log_directory(&path)).unwrap();
    create(&path);
    let (mut one, mut other) = (Agent::on(&path), Agent::on(&path));
    one.run("INSERT INTO t VALUES(1)");
    other.run("INSERT INTO t VALUES(2)");

    old.run("INSERT INTO t VALUES('old')");
    old.tell("c .exit");
    old.wait();
    for name in ["lock", "control"] {
        assert!(log_directory(&path).join(name).exists(), "{name} of the new database");
    }
    // Without them the next one would find nobody there, and recover the log of the other.
    one.kill();
    let mut next = Agent::on(&path);
    next.run("INSERT INTO t VALUES(3)");
    other.run("INSERT INTO t VALUES(4)");
    for agent in [&mut next, &mut other] {
        assert_eq!(agent.run("SELECT x FROM t ORDER BY x"), "1 2 3 4");
    }
    next.end();
    other.end();
    common::assert_plain(&path);
    let stock = common::open_stock(&path);
    assert_eq!(common::text(&stock, "SELECT x FROM t ORDER BY x"), "1 2 3 4");
}

const COUNT: &str = "SELECT count(*) FROM t";

fn read_only(path: &Path) -> PathBuf {
    PathBuf::from(format!("file:{}?mode=ro", path.display()))
}

/// A dashboard that opens the database with `mode=ro` is often the first to come.
#[test]
fn who_only_reads_keeps_no_writer_out_even_if_it_comes_first() {
    let _watchdog = watchdog("a reader that comes first");
    let scratch = Scratch::new();
    let path = scratch.file("app.db");
    create(&path);
    let (mut reader, mut other, mut writer) = (Agent::start(), Agent::start(), Agent::on(&path));
    reader.open("c", &read_only(&path));
    other.open("c", &read_only(&path));
    assert_eq!((reader.run(COUNT), other.run(COUNT)), (String::from("0"), String::from("0")));
    writer.run("INSERT INTO t VALUES(1)");
    assert_eq!((reader.run(COUNT), other.run(COUNT)), (String::from("1"), String::from("1")));
    writer.close();
    reader.close();
    assert_eq!(other.run(COUNT), "1");
    // What a reader alone leaves.
    other.close();
    common::assert_plain(&path);
}

/// Beside stock SQLite it reads as a connection of stock does: pwal cannot have the database, and who only reads needs no log.
#[test]
fn who_only_reads_does_so_beside_stock_too() {
    let _watchdog = watchdog("a reader beside stock");
    let scratch = Scratch::new();
    let path = scratch.file("app.db");
    create(&path);
    let (mut reader, mut stock) = (Agent::start(), Agent::start());
    assert_eq!(stock.ask(&format!("c .vfs unix {}", path.display())), "open");
    stock.run("INSERT INTO t VALUES(1)");
    reader.open("c", &read_only(&path));
    assert_eq!(reader.run(COUNT), "1");
    stock.run("INSERT INTO t VALUES(2)");
    assert_eq!(reader.run(COUNT), "2");
    // Who could write is told.
    reader.open("w", &path);
    assert_eq!(reader.ask("w .timeout 100"), "ok");
    assert_eq!(reader.ask("w SELECT 1 FROM t"), "code 5");
    stock.close();
    reader.close();
    assert_eq!(reader.ask(&format!("w {COUNT}")), "2");
}
