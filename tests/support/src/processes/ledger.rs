//! A database whose rows say whether anything is missing.
//!
//! Money moves between accounts and its sum stays. Each thread of each place is a writer that numbers its
//! transactions; one is a row in `ledger` and as many rows in `part` as that one says: half a transaction shows.
//! A writer's old rows go, but dense its rows stay, up to the number in `head`.

use rusqlite::Connection;
use std::path::Path;

const ACCOUNTS: i64 = 32;
const TOTAL: i64 = ACCOUNTS * 1000;
/// So many of a writer's last transactions are kept.
const KEPT: i64 = 20;

pub fn create(path: &Path) {
    let connection = crate::open_wal(path);
    crate::run(
        &connection,
        &format!(
            "CREATE TABLE account(id INTEGER PRIMARY KEY, balance INTEGER);
             CREATE TABLE head(writer INTEGER PRIMARY KEY, n INTEGER);
             CREATE TABLE ledger(writer INTEGER, n INTEGER, amount INTEGER, parts INTEGER, note BLOB, PRIMARY KEY(writer, n));
             CREATE TABLE part(writer INTEGER, n INTEGER, i INTEGER, body BLOB);
             CREATE INDEX parts ON part(writer, n);
             CREATE TRIGGER counts AFTER INSERT ON ledger BEGIN
               REPLACE INTO head VALUES(new.writer, new.n);
               DELETE FROM ledger WHERE writer=new.writer AND n<=new.n-{KEPT};
               DELETE FROM part WHERE writer=new.writer AND n<=new.n-{KEPT};
             END;
             INSERT INTO account WITH RECURSIVE a(i) AS (SELECT 0 UNION ALL SELECT i+1 FROM a WHERE i<{ACCOUNTS}-1)
               SELECT i, 1000 FROM a"
        ),
    );
    crate::close(connection);
}

/// One transaction's content.
pub struct Entry {
    pub writer: i64,
    pub n: i64,
    pub from: i64,
    pub to: i64,
    pub amount: i64,
    /// Bytes of the note and of each part.
    pub note: i64,
    pub parts: Vec<i64>,
}

impl Entry {
    /// A random one; some are large.
    pub fn random(rng: &mut impl rand::Rng, writer: i64, n: i64) -> Entry {
        let note = match rng.random_range(0..200) {
            0 => rng.random_range(0..300_000),
            1..10 => rng.random_range(0..20_000),
            _ => rng.random_range(0..100),
        };
        let parts = (0..rng.random_range(0..4)).map(|_| rng.random_range(0..900)).collect();
        let (from, to) = (rng.random_range(0..ACCOUNTS), rng.random_range(0..ACCOUNTS));
        Entry { writer, n, from, to, amount: rng.random_range(1..50), note, parts }
    }

    /// Reads a balance, moves money and writes it down, inside a transaction. The read comes first, as in many
    /// applications.
    pub fn transfer(&self, connection: &Connection) -> rusqlite::Result<()> {
        let head: Option<i64> = {
            let mut select = connection.prepare_cached("SELECT n FROM head WHERE writer=?1")?;
            let mut rows = select.query([self.writer])?;
            rows.next()?.map(|row| row.get(0)).transpose()?
        };
        assert_eq!(head.unwrap_or(0) + 1, self.n, "writer {} does not see its last commit", self.writer);
        let balance: i64 = connection
            .prepare_cached("SELECT balance FROM account WHERE id=?1")?
            .query_row([self.from], |row| row.get(0))?;
        let mut set = connection.prepare_cached("UPDATE account SET balance=?1 WHERE id=?2")?;
        set.execute([balance - self.amount, self.from])?;
        let mut add = connection.prepare_cached("UPDATE account SET balance=balance+?1 WHERE id=?2")?;
        add.execute([self.amount, self.to])?;
        let mut part = connection.prepare_cached("INSERT INTO part VALUES(?1, ?2, ?3, zeroblob(?4))")?;
        for (i, bytes) in (0..).zip(&self.parts) {
            part.execute([self.writer, self.n, i, *bytes])?;
        }
        self.write_down(connection, self.parts.len() as i64)
    }

    /// One statement: the transaction's row without parts.
    pub fn insert(&self, connection: &Connection) -> rusqlite::Result<()> {
        self.write_down(connection, 0)
    }

    fn write_down(&self, connection: &Connection, parts: i64) -> rusqlite::Result<()> {
        let mut insert = connection.prepare_cached("INSERT INTO ledger VALUES(?1, ?2, ?3, ?4, zeroblob(?5))")?;
        insert.execute([self.writer, self.n, self.amount, parts, self.note])?;
        Ok(())
    }
}

/// [`snapshot`] in a transaction of its own.
pub fn look(connection: &Connection, writers: usize) -> rusqlite::Result<Vec<u64>> {
    look_in("BEGIN", connection, writers)
}

/// As [`look`], at the newest state: a commit that is not durable yet may be hidden from who only reads.
pub fn look_at_newest(connection: &Connection, writers: usize) -> rusqlite::Result<Vec<u64>> {
    look_in("BEGIN IMMEDIATE", connection, writers)
}

fn look_in(begin: &str, connection: &Connection, writers: usize) -> rusqlite::Result<Vec<u64>> {
    connection.execute_batch(begin)?;
    let seen = snapshot(connection, writers);
    connection.execute_batch(if seen.is_ok() { "COMMIT" } else { "ROLLBACK" })?;
    seen
}

/// What one snapshot shows, inside a transaction: the last transaction of each writer, below `writers`. Checks that
/// nothing is missing in it.
pub fn snapshot(connection: &Connection, writers: usize) -> rusqlite::Result<Vec<u64>> {
    let numbers = |sql: &str| -> rusqlite::Result<Vec<Vec<i64>>> {
        let mut statement = connection.prepare_cached(sql)?;
        let columns = statement.column_count();
        statement.query_map([], |row| (0..columns).map(|column| row.get(column)).collect())?.collect()
    };
    let sums = numbers("SELECT sum(balance), count(*) FROM account")?;
    assert_eq!(sums, [[TOTAL, ACCOUNTS]], "money was lost or made");
    let mut last = vec![0; writers];
    let heads = numbers("SELECT writer, n FROM head ORDER BY writer")?;
    let rows = numbers("SELECT writer, max(n), max(n)-min(n)+1, count(*), sum(parts) FROM ledger GROUP BY writer")?;
    assert_eq!(heads.len(), rows.len(), "{heads:?} {rows:?}");
    let parts = numbers("SELECT writer, count(*) FROM part GROUP BY writer")?;
    for (head, row) in heads.iter().zip(&rows) {
        assert_eq!(head[..2], row[..2], "the last transaction of a writer");
        assert_eq!(row[2], row[3], "writer {}: a transaction before another is missing", row[0]);
        assert_eq!(row[3], row[1].min(KEPT), "writer {}: transactions that were deleted", row[0]);
        let found = parts.iter().find(|part| part[0] == row[0]).map_or(0, |part| part[1]);
        assert_eq!(found, row[4], "writer {}: parts of a transaction", row[0]);
        last[usize::try_from(row[0]).expect("a writer")] = u64::try_from(row[1]).expect("a number");
    }
    Ok(last)
}
