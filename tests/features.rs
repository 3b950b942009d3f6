//! What applications do with SQLite in WAL mode, a test each: on the VFS under test as on stock.

#[path = "features/backup.rs"]
mod backup;
#[path = "features/busy.rs"]
mod busy;
#[path = "features/checkpoints.rs"]
mod checkpoints;
#[path = "features/closing.rs"]
mod closing;
#[path = "features/extras.rs"]
mod extras;
#[path = "features/isolation.rs"]
mod isolation;
#[path = "features/polling.rs"]
mod polling;
#[path = "features/read_only.rs"]
mod read_only;
#[path = "features/reasons.rs"]
mod reasons;

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
