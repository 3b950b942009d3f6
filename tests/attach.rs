//! Processes come and go on one database: who claims, attaches, leaves, dies; who is refused, and in which words.

mod common;
#[path = "attach/remote.rs"]
mod remote;

use common::{Scratch, Watchdog};
use remote::Remote;
use std::path::{Path, PathBuf};
use std::time::Duration;

fn watchdog(what: &str) -> Watchdog {
    Watchdog::new(what, Duration::from_secs(120))
}

/// A database in WAL mode with a table `t(x)`, closed.
fn create(scratch: &Scratch) -> PathBuf {
    let path = scratch.file("app.db");
    let connection = common::open_wal(&path);
    common::run(&connection, "CREATE TABLE t(x)");
    common::close(connection);
    common::assert_plain(&path);
    path
}

fn version(path: &Path) -> [u8; 2] {
    let bytes = std::fs::read(path).unwrap();
    [bytes[18], bytes[19]]
}

#[test]
fn two_processes_write_and_read_each_others_rows() {
    let _watchdog = watchdog("two processes");
    let scratch = Scratch::new();
    let path = create(&scratch);
    let (mut one, mut other) = (Remote::attached(&path), Remote::attached(&path));
    for round in 0..20 {
        one.run(&format!("INSERT INTO t VALUES({})", 2 * round));
        assert_eq!(other.text("SELECT count(*), max(x) FROM t"), format!("{}|{}", 2 * round + 1, 2 * round));
        other.run(&format!("INSERT INTO t VALUES({})", 2 * round + 1));
        assert_eq!(one.text("SELECT count(*), max(x) FROM t"), format!("{}|{}", 2 * round + 2, 2 * round + 1));
    }
    one.close();
    assert_eq!(version(&path), [3, 3], "the log lives on");
    other.run("INSERT INTO t VALUES(40)");
    other.close();
    common::assert_plain(&path);
    assert_eq!(common::number(&common::open_stock(&path), "SELECT count(*) FROM t"), 41);
}

#[test]
fn the_second_activates_what_the_first_only_read() {
    let _watchdog = watchdog("a second process");
    let scratch = Scratch::new();
    let path = create(&scratch);
    let mut one = Remote::attached(&path);
    assert_eq!(version(&path), [2, 2]);
    let mut other = Remote::attached(&path);
    assert_eq!(version(&path), [3, 3]);
    one.run("INSERT INTO t VALUES(1)");
    assert_eq!(other.text("SELECT x FROM t"), "1");
    other.close();
    one.close();
    common::assert_plain(&path);
}
