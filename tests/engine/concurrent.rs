//! Transactions that write beside each other (`parallel_wal_writers=concurrent`): what conflicts, with which code, and what goes on.

mod conflicts;
mod features;
mod grants;
mod growth;
mod interior;
mod lifecycle;
mod moving;
mod reads;
mod turns;

use rusqlite::{Connection, ffi};
use std::path::{Path, PathBuf};
use std::time::Duration;
use support::{Scratch, code_of, number, run, text};

/// `COMMIT` or a write lost against another transaction.
const SNAPSHOT: i32 = ffi::SQLITE_BUSY_SNAPSHOT;

/// 2000 rows on some fifty leaves, and an empty table.
const ROWS: &str = "CREATE TABLE t(id INTEGER PRIMARY KEY, n, pad);
    WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < 2000)
    INSERT INTO t SELECT x * 10, 0, zeroblob(100) FROM c;
    CREATE TABLE u(id INTEGER PRIMARY KEY, n, pad)";

struct Scene {
    _scratch: Scratch,
    path: PathBuf,
    /// A connection with the setting `serial`.
    serial: Connection,
}

fn scene(schema: &str) -> Scene {
    let scratch = Scratch::new();
    let path = scratch.file("a.db");
    let serial = support::open_wal(&path);
    run(&serial, schema);
    Scene { _scratch: scratch, path, serial }
}

impl Scene {
    fn concurrent(&self) -> Connection {
        concurrent(&self.path)
    }

    fn pair(&self) -> (Connection, Connection) {
        (self.concurrent(), self.concurrent())
    }
}

/// A connection with the setting; its first snapshot is taken.
fn concurrent(path: &Path) -> Connection {
    let connection = support::open_wal(path);
    run(&connection, "PRAGMA foreign_keys=ON");
    assert_eq!(text(&connection, "PRAGMA parallel_wal_writers=concurrent"), "concurrent");
    number(&connection, "SELECT count(*) FROM sqlite_schema");
    connection
}

/// What COMMIT answers, 0 for OK; a transaction that stays open is an error here.
fn commit(connection: &Connection) -> i32 {
    let code = code_of(connection, "COMMIT");
    assert!(connection.is_autocommit(), "COMMIT ({code}) left a transaction open");
    code
}

/// As [`code_of`], after which the transaction, if it stays open, is rolled back.
fn tried(connection: &Connection, sql: &str) -> i32 {
    let code = code_of(connection, sql);
    if !connection.is_autocommit() {
        run(connection, "ROLLBACK");
    }
    code
}

/// Of the status of this process.
fn counted(connection: &Connection, field: &str) -> u64 {
    support::lab::status(connection, "concurrent")[field].as_u64().expect("a count")
}

fn patient(connection: &Connection, for_ms: u64) {
    connection.busy_timeout(Duration::from_millis(for_ms)).expect("a busy timeout");
}
