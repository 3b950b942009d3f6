//! Random SQL from several processes gives what stock SQLite gives, when it runs the same transactions one after the
//! other.
//!
//! Each transaction that writes takes the next number of a clock in the database; each that only reads, or is rolled back,
//! reads the clock. What every statement answered is recorded by the process that ran it. At the end one
//! connection of stock plays all transactions in the order of their numbers: each statement must answer the same, and the
//! closed database must have the same pages.
//!
//! `PWAL_TEST_ROUNDS` (default 15), `PWAL_TEST_PROCESSES` (default 4), `PWAL_TEST_STEPS` (default 60 transactions of each
//! thread in a round), `PWAL_TEST_SEED`. The long form: `PWAL_TEST_ROUNDS=500 cargo test --test load serializable::`.
//! A seed chooses what they do, not how they meet. `PWAL_TEST_KEEP=1` keeps the databases.

pub mod history;
mod random_sql;

use history::{Item, Recorder, answer};
use random_sql::{Maker, Plan};
use rusqlite::{Connection, ffi};
use std::path::{Path, PathBuf};
use std::time::Duration;
use support::{Scratch, Watchdog, child, dump, env_number};

const BUSY_TIMEOUT: Duration = Duration::from_secs(10);
const THREADS: u64 = 2;
const TICK: &str = "UPDATE clock SET n=n+1 RETURNING n";

const SCHEMA: &str = "
    CREATE TABLE clock(n INTEGER);
    INSERT INTO clock VALUES(0);
    CREATE TABLE a(id INTEGER PRIMARY KEY, x INTEGER, y BLOB);
    CREATE INDEX a_x ON a(x);
    CREATE TABLE b(k TEXT PRIMARY KEY, v) WITHOUT ROWID;
    CREATE TABLE tick(k INTEGER PRIMARY KEY, n INTEGER, v);
    CREATE TRIGGER ticks AFTER INSERT ON tick BEGIN UPDATE clock SET n=n+1; END;";

#[test]
fn several_processes_do_what_one_connection_of_stock_does() {
    let rounds = env_number("PWAL_TEST_ROUNDS", 15);
    let first = env_number("PWAL_TEST_SEED", 1);
    let mut transactions = 0;
    for seed in first..first + rounds {
        let _watchdog = Watchdog::new(&format!("the round of seed {seed}"), Duration::from_secs(120));
        transactions += round(seed);
    }
    println!("{rounds} rounds, {transactions} transactions");
}

/// A role of its own process; nothing in a normal run.
#[test]
fn child_plays() {
    if child::role("serializable::child_plays") {
        let number = |name: &str| child::setting(name).parse::<u64>().expect("a number");
        let _watchdog = Watchdog::new("a process that plays", Duration::from_secs(110));
        let (seed, place, steps) = (number("PWAL_TEST_SEED"), number("PWAL_TEST_PLACE"), number("PWAL_TEST_STEPS"));
        std::thread::scope(|scope| {
            for thread in 0..THREADS {
                scope.spawn(move || Player::new(seed, place, thread).play(steps));
            }
        });
    }
}

fn round(seed: u64) -> usize {
    let processes = env_number("PWAL_TEST_PROCESSES", 4);
    let steps = env_number("PWAL_TEST_STEPS", 60);
    let scratch = Scratch::in_memory();
    let path = scratch.file("app.db");
    let page_bytes = [512, 1024, 4096, 4096, 16384][seed as usize % 5];
    let connection = support::open(&path);
    support::run(&connection, &format!("PRAGMA page_size={page_bytes}; PRAGMA journal_mode=WAL; {SCHEMA}"));
    support::close(connection);
    let mut players: Vec<child::Role> = (0..processes)
        .map(|place| {
            let settings = [
                ("PWAL_TEST_DATABASE", path.to_str().expect("a name in UTF-8").to_owned()),
                ("PWAL_TEST_SEED", seed.to_string()),
                ("PWAL_TEST_PLACE", place.to_string()),
                ("PWAL_TEST_STEPS", steps.to_string()),
            ];
            child::start("serializable::child_plays", &settings)
        })
        .collect();
    for player in &mut players {
        assert!(player.wait().success(), "seed {seed}: a process has failed, see above");
    }
    support::assert_plain(&path);
    let mut items = Vec::new();
    for place in 0..processes {
        for thread in 0..THREADS {
            items.extend(history::read(&history::file(&path, place, thread)));
        }
    }
    let replayed = scratch.file("replayed.db");
    let transactions = items.len();
    replay(seed, items, &replayed, page_bytes);
    if let Some(page) = dump::different_page(&path, &replayed) {
        let (one, two) = (support::open_stock(&path), support::open_stock(&replayed));
        let line = dump::first_difference(&dump::dump(&one), &dump::dump(&two));
        panic!("seed {seed}: the closed files differ: {page}; dumps: {line:?}");
    }
    transactions
}

/// Plays all in the order of the clock on stock, and compares each answer.
fn replay(seed: u64, mut items: Vec<Item>, path: &Path, page_bytes: u32) {
    // Who read state n comes behind who made it, and before who made the next.
    items.sort_by_key(|item| (item.order, !item.commits));
    let connection = support::open_stock(path);
    support::run(&connection, &format!("PRAGMA page_size={page_bytes}; PRAGMA journal_mode=WAL; {SCHEMA}"));
    support::run(&connection, "PRAGMA synchronous=OFF");
    let mut clock = 0;
    for item in items {
        if item.commits {
            assert_eq!(item.order, clock + 1, "seed {seed}: the clock has a gap, or stood still: {item:#?}");
            clock = item.order;
        }
        assert_eq!(item.order, clock, "seed {seed}: nobody made the state that this one read: {item:#?}");
        if !item.autocommit {
            support::run(&connection, "BEGIN");
        }
        for (index, step) in item.steps.iter().enumerate() {
            let expected = answer(&connection, &step.sql);
            assert_eq!(step.answer, expected, "seed {seed}: step {index} of {item:#?} and what stock answers");
        }
        if !item.autocommit {
            support::run(&connection, if item.commits { "COMMIT" } else { "ROLLBACK" });
        }
    }
    support::assert_integrity(&connection);
    support::close(connection);
}

/// One thread of one process.
struct Player {
    maker: Maker,
    recorder: Recorder,
    path: PathBuf,
    connection: Connection,
}

fn open(path: &Path) -> Connection {
    let connection = support::open(path);
    connection.busy_timeout(BUSY_TIMEOUT).expect("a busy timeout");
    support::run(&connection, "PRAGMA parallel_wal_segment_bytes=262144; PRAGMA parallel_wal_max_batch_bytes=65536");
    connection
}

impl Player {
    fn new(seed: u64, place: u64, thread: u64) -> Player {
        let path = PathBuf::from(child::setting("PWAL_TEST_DATABASE"));
        Player {
            maker: Maker::new(seed * 1000 + place * THREADS + thread),
            recorder: Recorder::create(&history::file(&path, place, thread)),
            connection: open(&path),
            path,
        }
    }

    fn play(mut self, steps: u64) {
        for _ in 0..steps {
            let plan = self.maker.plan();
            match plan {
                Plan::Write { immediate, commits } => self.write(immediate, commits),
                Plan::ReadThenWrite => self.read_then_write(),
                Plan::Read => self.read(),
                Plan::Autocommit => self.autocommit(),
                Plan::Setting(sql) => {
                    // Answers differ between the two; what counts is that all goes on as before.
                    support::rows(&self.connection, &sql).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
                }
                Plan::OpenAgain => {
                    let old = std::mem::replace(&mut self.connection, open(&self.path));
                    support::close(old);
                }
            }
        }
        self.recorder.finish();
        support::close(self.connection);
    }

    /// The number that a statement answers; `None`: BUSY, and nothing was done.
    #[track_caller]
    fn number(&self, sql: &str) -> Option<i64> {
        // To the end: a statement that was only reset would not say that its commit failed.
        match support::rows(&self.connection, sql) {
            Ok(rows) => Some(rows.concat().parse().expect("a number")),
            Err(error) => {
                assert_eq!(support::code(&error) & 0xff, ffi::SQLITE_BUSY, "{sql}: {error:?}");
                None
            }
        }
    }

    /// [`Player::number`]; only stock may let somebody wait for longer than the busy timeout.
    #[track_caller]
    fn number_in_time(&self, sql: &str) -> Option<i64> {
        let number = self.number(sql);
        assert!(number.is_some() || !support::on_pwal(), "{sql}: BUSY");
        number
    }

    #[track_caller]
    fn begin(&self, sql: &str) -> bool {
        match self.connection.execute_batch(sql) {
            Ok(()) => true,
            Err(error) => {
                let busy = support::code(&error) & 0xff == ffi::SQLITE_BUSY;
                assert!(busy && !support::on_pwal(), "{sql}: {error:?}");
                false
            }
        }
    }

    fn write(&mut self, immediate: bool, commits: bool) {
        if !self.begin(if immediate { "BEGIN IMMEDIATE" } else { "BEGIN" }) {
            return;
        }
        let Some(order) = self.number_in_time(TICK) else {
            return support::run(&self.connection, "ROLLBACK");
        };
        let mut item = Item::new(if commits { order } else { order - 1 }, commits);
        if commits {
            item.note(TICK, format!("{order}; 1 changed"));
        } else {
            // Who is rolled back does not move the clock.
            support::run(&self.connection, "UPDATE clock SET n=n-1");
        }
        for sql in self.maker.writes() {
            item.run(&self.connection, &sql);
        }
        self.end(commits);
        self.recorder.add(item);
    }

    fn end(&self, commits: bool) {
        let sql = if commits { "COMMIT" } else { "ROLLBACK" };
        self.connection.execute_batch(sql).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }

    fn read(&mut self) {
        support::run(&self.connection, "BEGIN");
        if let Some(order) = self.number_in_time("SELECT n FROM clock") {
            let mut item = Item::new(order, false);
            for sql in self.maker.reads() {
                item.run(&self.connection, &sql);
                std::thread::yield_now();
            }
            self.recorder.add(item);
        }
        support::run(&self.connection, "COMMIT");
    }

    /// The write finds its snapshot stale, or it is the very next after it.
    fn read_then_write(&mut self) {
        support::run(&self.connection, "BEGIN");
        let Some(snapshot) = self.number_in_time("SELECT n FROM clock") else {
            support::run(&self.connection, "ROLLBACK");
            return;
        };
        let mut item = Item::new(snapshot, false);
        for sql in self.maker.reads() {
            item.run(&self.connection, &sql);
        }
        match self.number(TICK) {
            None => {
                for sql in self.maker.reads() {
                    item.run(&self.connection, &sql);
                }
                self.end(false);
            }
            Some(order) => {
                assert_eq!(order, snapshot + 1, "a stale snapshot became a write transaction");
                (item.order, item.commits) = (order, true);
                item.note(TICK, format!("{order}; 1 changed"));
                for sql in self.maker.writes() {
                    item.run(&self.connection, &sql);
                }
                self.end(true);
            }
        }
        self.recorder.add(item);
    }

    fn autocommit(&mut self) {
        let sql = self.maker.tick();
        if let Some(order) = self.number_in_time(&sql) {
            let mut item = Item::new(order, true);
            item.autocommit = true;
            item.note(&sql, format!("{order}; {} changed", self.connection.changes()));
            self.recorder.add(item);
        }
    }
}
