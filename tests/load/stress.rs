//! Many threads write and read one database: sums stay, rows are counted against
//! acknowledgements, and nothing fails but with BUSY, where stock does.
//!
//! A lost row may leave `integrity_check` at "ok", so each writer numbers its transactions and
//! remembers which were acknowledged. `PWAL_TEST_SECONDS` (default 6) is the time of all tests here together;
//! the long form is `PWAL_TEST_SECONDS=180 cargo test --test load stress:: -- --nocapture`: a minute each.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rusqlite::{Connection, ffi};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use support::{Scratch, Watchdog, env_number};

const WRITERS: usize = 8;
const READERS: usize = 4;
const ACCOUNTS: i64 = 64;
const TOTAL: i64 = ACCOUNTS * 1000;
const TESTS: u64 = 3;

/// What a run is about.
struct Run {
    /// `synchronous` of each writer, round robin.
    synchronous: &'static [&'static str],
    /// Modes of `wal_checkpoint`, a thread each.
    checkpoints: &'static [&'static str],
}

/// What all threads share.
struct Shared<'a> {
    run: &'a Run,
    path: &'a Path,
    until: Instant,
    failed: AtomicBool,
    /// The last acknowledged transaction of each writer.
    acknowledged: [AtomicU64; WRITERS],
}

#[test]
fn full_with_automatic_checkpoints() {
    stress(&Run { synchronous: &["FULL"], checkpoints: &[] });
}

#[test]
fn normal_with_checkpoints_of_each_kind() {
    stress(&Run { synchronous: &["NORMAL"], checkpoints: &["PASSIVE", "FULL", "RESTART", "TRUNCATE"] });
}

#[test]
fn every_synchronous_at_once_with_checkpoints() {
    stress(&Run { synchronous: &["FULL", "NORMAL", "EXTRA", "OFF"], checkpoints: &["PASSIVE", "TRUNCATE"] });
}

fn stress(run: &Run) {
    let _one = super::one_at_a_time();
    let seconds = Duration::from_secs(env_number("PWAL_TEST_SECONDS", 2 * TESTS)) / TESTS as u32;
    let _watchdog = Watchdog::new("a stress run", seconds + Duration::from_secs(90));
    let seed = env_number("PWAL_TEST_SEED", 1);
    let scratch = Scratch::new();
    let path = scratch.file("app.db");
    prepare(&path);
    let shared = Shared {
        run,
        path: &path,
        until: Instant::now() + seconds,
        failed: AtomicBool::new(false),
        acknowledged: Default::default(),
    };
    let done = std::thread::scope(|scope| {
        let shared = &shared;
        for mode in run.checkpoints {
            scope.spawn(move || under_exclusive(shared, || checkpoints(shared, mode)));
        }
        let readers: Vec<_> =
            (0..READERS).map(|_| scope.spawn(move || under_exclusive(shared, || read_on(shared)))).collect();
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let rng = StdRng::seed_from_u64(seed * 1000 + writer as u64);
                scope.spawn(move || under_exclusive(shared, || Writer::new(shared, writer, rng).write_on()))
            })
            .collect();
        let reads: u64 = readers.into_iter().map(|thread| thread.join().unwrap_or_default().unwrap_or_default()).sum();
        let writes: Vec<u64> =
            writers.into_iter().map(|thread| thread.join().unwrap_or_default().unwrap_or_default()).collect();
        println!("{:?}: {reads} reads, transactions of each writer {writes:?}", run.synchronous);
        writes
    });
    assert!(!shared.failed.load(Ordering::Relaxed), "seed {seed}: see above");
    if support::on_pwal() {
        assert!(done.iter().all(|writes| *writes > 0), "a writer starved: {done:?}");
    }
    count(&path, &done);
    support::assert_plain(&path);
    let stock = support::open_stock(&path);
    check_counts(&stock, &done);
}

/// Runs a thread's work; if it panics the others end too.
fn under_exclusive<T>(shared: &Shared<'_>, work: impl FnOnce() -> T) -> Option<T> {
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
    if result.is_err() {
        shared.failed.store(true, Ordering::Relaxed);
    }
    result.ok()
}

impl Shared<'_> {
    fn goes_on(&self) -> bool {
        Instant::now() < self.until && !self.failed.load(Ordering::Relaxed)
    }

    fn open(&self, synchronous: &str) -> Connection {
        let connection = support::open(self.path);
        support::run(&connection, &format!("PRAGMA synchronous={synchronous}"));
        connection
    }

    /// Whether who reads now must see every commit that is acknowledged. A commit under NORMAL is acknowledged when it is
    /// published; a commit under FULL before it, which another connection waits for, hides it a while.
    fn acknowledged_is_visible(&self) -> bool {
        !support::on_pwal() || self.run.synchronous.len() == 1
    }
}

fn prepare(path: &Path) {
    let connection = support::open_wal(path);
    support::run(
        &connection,
        "CREATE TABLE account(id INTEGER PRIMARY KEY, balance INTEGER);
         CREATE TABLE ledger(writer INTEGER, n INTEGER, amount INTEGER, note BLOB, PRIMARY KEY(writer, n));
         CREATE INDEX amounts ON ledger(amount)",
    );
    for account in 0..ACCOUNTS {
        support::run(&connection, &format!("INSERT INTO account VALUES({account}, 1000)"));
    }
}

struct Writer<'a> {
    shared: &'a Shared<'a>,
    connection: Connection,
    number: usize,
    rng: StdRng,
    /// Transactions that were acknowledged.
    done: u64,
}

impl<'a> Writer<'a> {
    fn new(shared: &'a Shared<'a>, number: usize, rng: StdRng) -> Writer<'a> {
        let synchronous = shared.run.synchronous[number % shared.run.synchronous.len()];
        Writer { shared, connection: shared.open(synchronous), number, rng, done: 0 }
    }

    fn write_on(mut self) -> u64 {
        while self.shared.goes_on() {
            let result = match self.rng.random_range(0..10) {
                0..6 => self.transfer("BEGIN IMMEDIATE"),
                6 | 7 => self.transfer("BEGIN"),
                8 => self.insert(),
                _ => self.give_up(),
            };
            match result {
                Ok(true) => {
                    self.done += 1;
                    self.shared.acknowledged[self.number].store(self.done, Ordering::SeqCst);
                    self.sees_its_own();
                }
                Ok(false) => {}
                Err(error) => {
                    let code = support::code(&error);
                    assert!(
                        matches!(code, ffi::SQLITE_BUSY | ffi::SQLITE_BUSY_SNAPSHOT),
                        "writer {}: {error:?}",
                        self.number
                    );
                    if !self.connection.is_autocommit() {
                        support::run(&self.connection, "ROLLBACK");
                    }
                }
            }
        }
        let done = self.done;
        support::close(self.connection);
        done
    }

    /// Moves money between two accounts and writes it down. With a deferred BEGIN it reads first, as many
    /// applications do.
    fn transfer(&mut self, begin: &str) -> rusqlite::Result<bool> {
        let (from, to) = (self.rng.random_range(0..ACCOUNTS), self.rng.random_range(0..ACCOUNTS));
        let amount = self.rng.random_range(1..50_i64);
        self.connection.execute_batch(begin)?;
        let balance: i64 =
            self.connection.query_row("SELECT balance FROM account WHERE id=?1", [from], |row| row.get(0))?;
        self.connection.execute("UPDATE account SET balance=?1 WHERE id=?2", [balance - amount, from])?;
        self.connection.execute("UPDATE account SET balance=balance+?1 WHERE id=?2", [amount, to])?;
        self.write_down(amount)?;
        self.connection.execute_batch("COMMIT")?;
        Ok(true)
    }

    fn insert(&mut self) -> rusqlite::Result<bool> {
        self.write_down(0)?;
        Ok(true)
    }

    fn give_up(&mut self) -> rusqlite::Result<bool> {
        self.connection.execute_batch("BEGIN IMMEDIATE")?;
        self.connection.execute("UPDATE account SET balance=balance+1", [])?;
        self.write_down(1)?;
        self.connection.execute_batch("ROLLBACK")?;
        Ok(false)
    }

    fn write_down(&mut self, amount: i64) -> rusqlite::Result<()> {
        let note = if self.rng.random_bool(0.05) { self.rng.random_range(0..30_000) } else { 50 };
        self.connection.execute(
            "INSERT INTO ledger VALUES(?1, ?2, ?3, zeroblob(?4))",
            [self.number as i64, self.done as i64 + 1, amount, note],
        )?;
        Ok(())
    }

    fn sees_its_own(&self) {
        let sql = "SELECT count(*) FROM ledger WHERE writer=?1 AND n=?2";
        let seen: i64 = self
            .connection
            .query_row(sql, [self.number as i64, self.done as i64], |row| row.get(0))
            .unwrap_or_else(|error| panic!("writer {} reads its own commit: {error:?}", self.number));
        assert_eq!(seen, 1, "writer {} does not see its own commit {}", self.number, self.done);
    }
}

/// Reads until the end: in one transaction everything fits, stands still, and nothing goes back between two.
fn read_on(shared: &Shared<'_>) -> u64 {
    let connection = shared.open("FULL");
    let mut before = [0; WRITERS];
    let mut reads = 0;
    while shared.goes_on() {
        let acknowledged: Vec<u64> = shared.acknowledged.iter().map(|counter| counter.load(Ordering::SeqCst)).collect();
        support::run(&connection, "BEGIN");
        let first = snapshot(&connection);
        std::thread::yield_now();
        assert_eq!(snapshot(&connection), first, "the snapshot moved inside a transaction");
        support::run(&connection, "COMMIT");
        for writer in 0..WRITERS {
            assert!(
                first[writer] >= before[writer],
                "writer {writer}: went back from {} to {}",
                before[writer],
                first[writer]
            );
            assert!(
                !shared.acknowledged_is_visible() || first[writer] >= acknowledged[writer],
                "writer {writer}: {} were acknowledged, {} are seen",
                acknowledged[writer],
                first[writer]
            );
        }
        before = first;
        reads += 1;
    }
    support::close(connection);
    reads
}

/// The rows of each writer; checks that they are dense and that no money was lost.
fn snapshot(connection: &Connection) -> [u64; WRITERS] {
    assert_eq!(support::number(connection, "SELECT sum(balance) FROM account"), TOTAL, "money was lost or made");
    let mut counts = [0; WRITERS];
    for line in support::rows(connection, "SELECT writer, count(*), max(n) FROM ledger GROUP BY writer").expect("rows")
    {
        let mut numbers = line.split('|').map(|number| number.parse::<u64>().expect("a number"));
        let (writer, count, last) = (numbers.next().unwrap(), numbers.next().unwrap(), numbers.next().unwrap());
        assert_eq!(count, last, "writer {writer}: a transaction before another is missing");
        counts[usize::try_from(writer).unwrap()] = count;
    }
    counts
}

fn checkpoints(shared: &Shared<'_>, mode: &str) {
    let connection = shared.open("FULL");
    while shared.goes_on() {
        let row = support::text(&connection, &format!("PRAGMA wal_checkpoint({mode})"));
        assert_eq!(row.split('|').count(), 3, "{mode}: {row}");
        // A pace, not a wait: back to back they would keep every writer out.
        std::thread::sleep(Duration::from_millis(7));
    }
    support::close(connection);
}

/// Opens again: each acknowledged transaction is there, and no other.
fn count(path: &Path, done: &[u64]) {
    let connection = support::open(path);
    check_counts(&connection, done);
    support::assert_integrity(&connection);
    support::close(connection);
}

fn check_counts(connection: &Connection, done: &[u64]) {
    assert_eq!(snapshot(connection), done, "rows against acknowledgements");
}
