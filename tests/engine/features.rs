//! What applications do with SQLite in WAL mode, a test each: on the VFS under test as on stock.

mod backup;
mod busy;
mod checkpoints;
mod closing;
mod extras;
mod isolation;
mod read_only;
mod reasons;
mod upgrades;

use rusqlite::Connection;

/// Rows of a table `t(id, x)` with bodies of so many bytes.
fn fill(connection: &Connection, rows: u32, bytes: u32) {
    support::run(
        connection,
        &format!(
            "CREATE TABLE IF NOT EXISTS t(id INTEGER PRIMARY KEY, x);
             INSERT INTO t(x) WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<{rows})
             SELECT CAST(printf('%.*c', {bytes}, char(97+i%26)) AS BLOB) FROM n"
        ),
    );
}
