//! A process with clients: each runs one small transaction after the other, on one connection for a while and then on the next.

use super::checker::{Outcome, Transaction};
use super::record::Record;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rusqlite::{Connection, ffi};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use support::{child, code, open, run};

/// Registers that each transaction reads and writes some of, the counter of the commits, and which transaction each one was.
pub const SCHEMA: &str = "CREATE TABLE register(name INTEGER PRIMARY KEY, value INTEGER NOT NULL); \
     CREATE TABLE state(id INTEGER PRIMARY KEY CHECK(id=1), number INTEGER NOT NULL); \
     CREATE TABLE commits(number INTEGER PRIMARY KEY, id INTEGER NOT NULL UNIQUE); \
     INSERT INTO state VALUES(1,0)";

const CLIENTS: u64 = 3;
const REGISTERS: i64 = 12;
/// Transactions of one connection.
const LIFE: u64 = 40;

/// The commits, in their order.
pub fn order(connection: &Connection) -> Vec<(i64, i64)> {
    pairs(connection, "SELECT number, id FROM commits ORDER BY number")
}

/// The registers that have a value.
pub fn registers(connection: &Connection) -> BTreeMap<i64, i64> {
    pairs(connection, "SELECT name, value FROM register").into_iter().collect()
}

fn pairs(connection: &Connection, sql: &str) -> Vec<(i64, i64)> {
    let mut statement = connection.prepare(sql).expect("a statement");
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).expect("rows");
    rows.map(|row| row.expect("a row")).collect()
}

/// Until the input ends.
pub fn work() {
    let database = PathBuf::from(child::setting("PWAL_TEST_DATABASE"));
    let records = PathBuf::from(child::setting("PWAL_TEST_RECORDS"));
    let number = |name: &str| child::setting(name).parse::<u64>().expect("a number");
    let (process, seed) = (number("PWAL_TEST_PROCESS"), number("PWAL_TEST_LIFE_SEED"));
    let ends = AtomicBool::new(false);
    std::thread::scope(|threads| {
        for client in 0..CLIENTS {
            let name = process * CLIENTS + client;
            let record = Record::create(&records.join(name.to_string()));
            let client = Client { record, rng: StdRng::seed_from_u64(seed ^ client), next: name as i64 * 1_000_000 };
            let (database, ends) = (&database, &ends);
            threads.spawn(move || {
                // A client that fails ends its process, and with it the test.
                let failed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| client.run(database, ends)));
                if failed.is_err() {
                    std::process::exit(1);
                }
            });
        }
        while child::command().is_some() {}
        ends.store(true, Relaxed);
    });
}

struct Client {
    record: Record,
    rng: StdRng,
    /// The id of the next transaction; its values follow from it.
    next: i64,
}

fn now_us() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000 + now.tv_nsec as u64 / 1000
}

/// What a transaction may fail with: others have the lock for long, or committed since it read.
fn may_fail(error: &rusqlite::Error) -> bool {
    code(error) & 0xff == ffi::SQLITE_BUSY
}

impl Client {
    fn run(mut self, database: &Path, ends: &AtomicBool) {
        while !ends.load(Relaxed) {
            let connection = open(database);
            connection.busy_timeout(Duration::from_secs(10)).expect("a busy timeout");
            let synchronous = ["FULL", "FULL", "NORMAL", "EXTRA", "OFF"][self.rng.random_range(0..5)];
            run(&connection, &format!("PRAGMA synchronous={synchronous}"));
            let life = self.rng.random_range(1..=LIFE);
            for _ in 0..life {
                if ends.load(Relaxed) {
                    break;
                }
                self.transaction(&connection);
            }
            support::close(connection);
        }
    }

    /// One transaction, written down.
    fn transaction(&mut self, connection: &Connection) {
        let id = self.next;
        self.next += 1;
        let kind = self.rng.random_range(0..20);
        if kind == 0 {
            let how = ["PASSIVE", "FULL", "RESTART", "TRUNCATE"][self.rng.random_range(0..4)];
            // Others may read or checkpoint.
            if let Err(error) = support::rows(connection, &format!("PRAGMA wal_checkpoint({how})")) {
                assert!(may_fail(&error), "a checkpoint: {error:?}");
            }
            return;
        }
        let writes = kind < 12;
        let mut transaction = Transaction {
            id,
            began: now_us(),
            ended: 0,
            outcome: Outcome::Unknown,
            saw: 0,
            reads: Vec::new(),
            writes: Vec::new(),
        };
        // With a read first others may commit in between: then it fails at its first write.
        let begin = if writes && kind < 8 { "BEGIN IMMEDIATE" } else { "BEGIN" };
        let done = connection
            .execute_batch(begin)
            .and_then(|()| self.read(connection, &mut transaction))
            .and_then(|()| if writes { self.write(connection, &mut transaction) } else { Ok(()) });
        let is_begun = !connection.is_autocommit();
        let wants_commit = done.is_ok() && !(writes && kind == 11);
        let has_read = !transaction.reads.is_empty();
        if has_read {
            self.record.begins(&transaction);
        }
        let ended = match done {
            Ok(()) if wants_commit => connection.execute_batch("COMMIT"),
            other => other,
        };
        if let Err(error) = &ended {
            assert!(may_fail(error), "{begin} of {transaction:?}: {error:?}");
        }
        if is_begun && !connection.is_autocommit() {
            run(connection, "ROLLBACK");
        }
        // One that did not get that far saw nothing.
        if !has_read {
            return;
        }
        let outcome = match ended {
            Ok(()) if !writes => Outcome::Read,
            Ok(()) if wants_commit => Outcome::Acknowledged,
            _ => Outcome::Failed,
        };
        self.record.ends(id, now_us(), outcome);
    }

    fn read(&mut self, connection: &Connection, transaction: &mut Transaction) -> rusqlite::Result<()> {
        let state = "SELECT number, (SELECT coalesce(max(number),0) FROM commits) FROM state";
        let (number, last): (i64, i64) =
            connection.prepare_cached(state)?.query_row([], |row| Ok((row.get(0)?, row.get(1)?)))?;
        assert_eq!(number, last, "two tables of one snapshot");
        transaction.saw = number;
        let mut statement =
            connection.prepare_cached("SELECT coalesce((SELECT value FROM register WHERE name=?1),0)")?;
        for _ in 0..self.rng.random_range(1..=5) {
            let register = self.rng.random_range(0..REGISTERS);
            transaction.reads.push((register, statement.query_row([register], |row| row.get(0))?));
        }
        Ok(())
    }

    fn write(&mut self, connection: &Connection, transaction: &mut Transaction) -> rusqlite::Result<()> {
        let mut statement = connection.prepare_cached("REPLACE INTO register VALUES(?1,?2)")?;
        let first = self.rng.random_range(0..REGISTERS);
        for step in 0..self.rng.random_range(1..=3) {
            let (register, value) = ((first + step) % REGISTERS, transaction.id * 10 + step);
            statement.execute([register, value])?;
            transaction.writes.push((register, value));
        }
        let number = transaction.saw + 1;
        connection.prepare_cached("INSERT INTO commits VALUES(?1,?2)")?.execute([number, transaction.id])?;
        connection.prepare_cached("UPDATE state SET number=?1")?.execute([number])?;
        Ok(())
    }
}
