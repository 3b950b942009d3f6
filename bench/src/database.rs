//! The database of a run: how it is made, opened, and counted in the end.

use crate::Error;
use crate::case::{Case, Load, STOCK};
use rusqlite::{Connection, ErrorCode, OpenFlags};
use std::path::Path;
use std::time::Duration;

/// What rusqlite sets by itself.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Each acknowledged operation that writes adds 1 to the sum of `n`.
const CREATE: &str =
    "PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF; CREATE TABLE t(id INTEGER PRIMARY KEY, thread, n, value)";
const FILL: &str = "
    WITH RECURSIVE row(id) AS (VALUES(1) UNION ALL SELECT id + 1 FROM row WHERE id < ?1)
    INSERT INTO t(thread, n, value) SELECT -1, 0, hex(randomblob(50)) FROM row";

/// Rows of loads that read or update by the key.
pub const ROWS: u64 = 10_000;
/// The same, of loads with time inside their transactions.
const ROWS_THINKING: u64 = 20_000;
/// The keys from one of these rows to the next, where rows are inserted between them.
const KEYS_BETWEEN: i64 = 1 << 40;
/// And of each thread's own table.
pub const ROWS_OWN: u64 = 1000;
/// A row of 100 bytes of text takes about this number of bytes of the database.
const ROW_BYTES: u64 = 112;

/// How many rows `load` finds.
pub fn rows(load: Load, mib: u64) -> u64 {
    match load {
        Load::Update | Load::ReadModifyWrite | Load::Mixed | Load::Read | Load::ReadBesideWriters => ROWS,
        Load::RandomKeys | Load::RandomInserts | Load::ReadThinkUpdate | Load::LateAppend | Load::EarlyAppend => {
            ROWS_THINKING
        }
        Load::LogBytes | Load::OpenReadClose | Load::ShellRead => 1,
        Load::BesideCheckpoint | Load::Vacuum => (mib << 20) / ROW_BYTES,
        _ => 0,
    }
}

/// Makes the database of a run, by stock SQLite: it is the same for both sides.
pub fn make(path: &Path, case: &Case) -> Result<(), Error> {
    let made = connect(path, STOCK).and_then(|connection| {
        connection.execute_batch(CREATE)?;
        match rows(case.load, case.mib) {
            0 => {}
            rows => drop(connection.execute(FILL, [rows as i64])?),
        }
        if case.load == Load::RandomInserts {
            connection.execute("UPDATE t SET id = id * ?1", [KEYS_BETWEEN])?;
        }
        if case.load == Load::Bulk {
            connection.execute_batch("CREATE INDEX by_value ON t(value)")?;
        }
        if case.load == Load::Vacuum {
            connection.execute_batch("DELETE FROM t WHERE id % 4 = 0")?;
        }
        connection.close().map_err(|(_, error)| error)
    });
    made.map_err(Error::sqlite(path))
}

/// A connection with nothing set but the busy timeout.
pub fn connect(path: &Path, vfs: &str) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags_and_vfs(path, flags, vfs)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    Ok(connection)
}

/// A connection of the case.
pub fn open(path: &Path, case: &Case) -> rusqlite::Result<Connection> {
    let connection = connect(path, &case.vfs)?;
    if case.is_pwal() {
        let Case { mode, writers, .. } = case;
        connection.execute_batch(&format!("PRAGMA parallel_wal_mode={mode}; PRAGMA parallel_wal_writers={writers}"))?;
    }
    connection.execute_batch(&format!("PRAGMA synchronous={}", case.synchronous))?;
    Ok(connection)
}

/// Makes the table of a thread.
pub fn make_own(connection: &Connection, name: &str) -> rusqlite::Result<()> {
    let create = format!("BEGIN IMMEDIATE; CREATE TABLE {name}(id INTEGER PRIMARY KEY, thread, n, value)");
    connection.execute_batch(&create)?;
    connection.execute(&FILL.replace("INTO t(", &format!("INTO {name}(")), [ROWS_OWN as i64])?;
    connection.execute_batch("COMMIT")
}

/// What stock SQLite finds of the operations that wrote, in all tables.
pub fn written(path: &Path) -> Result<u64, Error> {
    let sum = connect(path, STOCK).and_then(|stock| {
        let mut names = stock.prepare("SELECT name FROM sqlite_schema WHERE type = 'table'")?;
        let names: Vec<String> = names.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
        let sum = |name: &String| -> rusqlite::Result<i64> {
            stock.query_row(&format!("SELECT coalesce(sum(n), 0) FROM {name}"), [], |row| row.get(0))
        };
        names.iter().map(sum).sum::<rusqlite::Result<i64>>()
    });
    sum.map(i64::unsigned_abs).map_err(Error::sqlite(path))
}

/// Whether the application got "database is locked".
pub fn is_locked(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
}

/// 100 bytes of text.
pub fn payload() -> String {
    "x".repeat(100)
}

/// A fixed sequence for each seed (splitmix64).
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    /// Below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        ((mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb) >> 33) % end
    }

    /// A key between those of `rows` rows, which hardly comes twice.
    pub fn key_between(&mut self, rows: u64) -> i64 {
        self.key(rows) * KEYS_BETWEEN + self.key(1 << 31)
    }

    /// The id of one of `rows` rows.
    pub fn key(&mut self, rows: u64) -> i64 {
        (self.below(rows) + 1) as i64
    }
}
