//! Transactions that write beside each other are serializable: random ones of several connections, threads and processes, whose every
//! answer is compared with that of the same transactions one after the other, in the order of their commits, on stock SQLite.
//!
//! `random_schedules_are_serializable`: several connections in one thread; a seed is a schedule, which can be repeated.
//! `processes_and_threads_are_serializable`: a seed chooses what they do, not how they meet; one process or all are killed in two of
//! three rounds. `kills`: what a killed process leaves, again and again on one database.
//!
//! `PWAL_TEST_ROUNDS` (schedules, default 16; rounds of processes, a fifth) or `PWAL_TEST_SECONDS`, `PWAL_TEST_STEPS` (default 600 of
//! a schedule), `PWAL_TEST_SEED`. The long form, which says every ten seconds how far it is:
//! `PWAL_TEST_SECONDS=3600 PWAL_TEST_STEPS=6000 cargo test --release --test load concurrent:: -- --nocapture`.

mod journal;
mod kills;
mod replay;
mod rounds;
mod statements;

use crate::serializable::history::Item;
use journal::Journal;
use replay::{Replay, UP_TO, assert_same};
use rusqlite::{Connection, ffi};
use statements::{Maker, SCHEMA};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use support::{Scratch, Watchdog, code_of, env_number, number, run, text};

const RANGES: [u32; 4] = [60, 300, 3000, 20000];

fn is_busy(code: i32) -> bool {
    code & 0xff == ffi::SQLITE_BUSY
}

/// Pragmas of the new database of a seed.
fn settings(seed: u64) -> String {
    let page_bytes = [512, 1024, 4096][seed as usize % 3];
    // Pointer maps, too.
    let auto_vacuum = [0, 0, 0, 1, 2][seed as usize % 5];
    format!("PRAGMA page_size={page_bytes}; PRAGMA auto_vacuum={auto_vacuum}")
}

/// The statements that fill it.
fn fill(seed: u64, range: u32) -> Vec<String> {
    let mut maker = Maker::new(seed, range);
    (0..range.min(3000)).map(|_| maker.statement()).filter(|sql| sql.starts_with("INSERT")).collect()
}

fn prepare(connection: &Connection, settings: &str, fill: &[String]) {
    run(connection, &format!("{settings}; PRAGMA journal_mode=WAL; PRAGMA foreign_keys=ON; {SCHEMA}; BEGIN"));
    for sql in fill {
        let code = code_of(connection, sql);
        assert!(code == 0 || code & 0xff == ffi::SQLITE_CONSTRAINT, "{sql}: {code}");
    }
    run(connection, "COMMIT");
}

fn open(path: &Path, seed: u64, wait: Duration) -> Connection {
    let connection = support::open(path);
    connection.busy_timeout(wait).expect("a busy timeout");
    run(&connection, "PRAGMA foreign_keys=ON; PRAGMA synchronous=NORMAL; PRAGMA parallel_wal_max_batch_bytes=65536");
    // So few pages that transactions spill.
    run(&connection, &format!("PRAGMA cache_size={}", [200, 10][seed as usize % 2]));
    assert_eq!(text(&connection, "PRAGMA parallel_wal_writers=concurrent"), "concurrent");
    connection
}

/// The number of the connection's last commit; 0: it has none.
fn last_commit(connection: &Connection) -> i64 {
    number(connection, "SELECT ifnull(pwal_commit(), 0)")
}

/// The newest commit that is visible.
fn newest(connection: &Connection) -> i64 {
    number(connection, "SELECT pwal_wait_commit(0, 0)")
}

/// One connection and its open transaction.
struct Client {
    connection: Connection,
    open: Option<Item>,
    done: Vec<Item>,
    commits: u64,
    /// Of one that may be killed.
    journal: Option<Journal>,
}

impl Client {
    fn new(connection: Connection) -> Client {
        Client { connection, open: None, done: Vec::new(), commits: 0, journal: None }
    }

    /// Runs a statement of the open transaction; one that is refused ends it.
    fn step(&mut self, sql: &str) {
        let Some(item) = &mut self.open else { return };
        item.run(&self.connection, sql);
        let answer = &item.steps.last().expect("a step").answer;
        let code = answer.strip_prefix("code ").and_then(|code| code.parse().ok()).unwrap_or(0);
        if is_busy(code) {
            self.roll_back();
        } else {
            assert!(matches!(code & 0xff, 0 | 1 | ffi::SQLITE_CONSTRAINT), "{sql}: {code}");
            if code == ffi::SQLITE_ERROR && sql == statements::INTEGRITY {
                // Not in one that sees what others have allocated since it began: no answer, and nothing done.
                item.steps.pop();
            }
        }
    }

    fn begin(&mut self, sql: &str) {
        if code_of(&self.connection, sql) == 0 {
            self.open = Some(Item::new(newest(&self.connection), false));
        }
    }

    fn roll_back(&mut self) {
        self.open = None;
        if !self.connection.is_autocommit() {
            run(&self.connection, "ROLLBACK");
        }
    }

    /// COMMIT; false: it was refused, and the transaction is open still.
    fn commit(&mut self) -> bool {
        if let Some(mark) = self.journal.as_mut().zip(self.open.as_ref()).and_then(|(journal, item)| journal.mark(item))
        {
            self.step(&mark);
        }
        let Some(item) = &self.open else { return true };
        if let Some(journal) = &mut self.journal {
            journal.is_pending(item);
        }
        let before = last_commit(&self.connection);
        match code_of(&self.connection, "COMMIT") {
            0 => self.ended(before),
            ffi::SQLITE_BUSY => {
                assert!(!self.connection.is_autocommit(), "BUSY leaves it open");
                return false;
            }
            code if is_busy(code) => {
                assert!(self.connection.is_autocommit(), "{code} ends it");
                assert_eq!(last_commit(&self.connection), before, "refused, and published");
                self.open = None;
            }
            code => panic!("COMMIT: {code}"),
        }
        true
    }

    fn ended(&mut self, before: i64) {
        let Some(mut item) = self.open.take() else { return };
        let last = last_commit(&self.connection);
        if last == before {
            item.note(UP_TO, newest(&self.connection).to_string());
        } else {
            (item.order, item.commits) = (last, true);
            self.commits += 1;
        }
        match &mut self.journal {
            Some(journal) => journal.is_done(&item),
            None => self.done.push(item),
        }
    }

    fn autocommit(&mut self, sql: &str) {
        let (before, low) = (last_commit(&self.connection), newest(&self.connection));
        let mut item = Item::new(low, false);
        item.autocommit = true;
        if let Some(journal) = &mut self.journal {
            let mut pending = item.clone();
            // As an UPDATE of one row answers.
            pending.note(sql, String::from("; 1 changed"));
            journal.is_pending(&pending);
        }
        item.run(&self.connection, sql);
        if item.steps[0].answer.strip_prefix("code ").and_then(|code| code.parse().ok()).is_some_and(is_busy) {
            return;
        }
        self.open = Some(item);
        self.ended(before);
    }
}

/// The new database of a seed.
struct World {
    scratch: Scratch,
    path: PathBuf,
    /// The keys are below it.
    range: u32,
    settings: String,
    fill: Vec<String>,
    /// The connection that has filled it.
    serial: Connection,
    /// The newest commit then.
    first: i64,
    /// For messages.
    seed: String,
}

/// Steps of a schedule; a thread takes a twelfth as many transactions.
fn steps() -> u64 {
    env_number("PWAL_TEST_STEPS", 600)
}

/// How long a round may take, on a machine that is busy.
fn patience() -> Duration {
    Duration::from_secs(120 * steps().div_ceil(600))
}

/// The length of a test.
struct Length {
    begin: Instant,
    seconds: u64,
    rounds: u64,
    /// When something was printed last.
    said: Instant,
    /// That were compared.
    transactions: u64,
    /// Of them.
    commits: u64,
    kills: u64,
}

impl Length {
    /// By `PWAL_TEST_SECONDS`; else so many rounds.
    fn new(rounds: u64) -> Length {
        let begin = Instant::now();
        Length {
            begin,
            seconds: env_number("PWAL_TEST_SECONDS", 0),
            rounds,
            said: begin,
            transactions: 0,
            commits: 0,
            kills: 0,
        }
    }

    /// The seeds of its rounds, from `PWAL_TEST_SEED` on.
    fn next_seed(&mut self, round: u64) -> Option<u64> {
        let goes_on = match self.seconds {
            0 => round < self.rounds,
            seconds => self.begin.elapsed() < Duration::from_secs(seconds),
        };
        if !goes_on || self.said.elapsed() >= Duration::from_secs(10) {
            self.said = Instant::now();
            let Length { transactions, commits, kills, .. } = self;
            let rate = *transactions as f64 / self.begin.elapsed().as_secs_f64();
            println!("{round} rounds: {transactions} transactions, {rate:.0} a second, {commits} wrote; {kills} kills");
        }
        goes_on.then(|| env_number("PWAL_TEST_SEED", 1) + round)
    }
}

impl World {
    fn new(seed: u64) -> World {
        let scratch = Scratch::in_memory();
        let path = scratch.file("app.db");
        let range = RANGES[seed as usize % RANGES.len()];
        let (settings, mut fill) = (settings(seed), fill(seed, range));
        fill.extend(journal::tables(rounds::PROCESSES, rounds::THREADS));
        let serial = support::open(&path);
        prepare(&serial, &settings, &fill);
        let first = newest(&serial);
        World { scratch, path, range, settings, fill, serial, first, seed: format!("PWAL_TEST_SEED={seed}") }
    }

    /// What is there is what the same transactions one after the other leave on stock SQLite.
    fn check(self, items: Vec<Item>, same_trees: bool) {
        let replayed = self.replay(items, 0).unwrap_or_else(|difference| panic!("{difference}"));
        assert_same(&self.serial, &replayed, same_trees, &self.seed);
        support::close(self.serial);
        assert_same(&support::open_stock(&self.path), &replayed, same_trees, &self.seed);
    }

    /// `nth`: of several attempts.
    fn replay(&self, items: Vec<Item>, nth: usize) -> Result<Connection, String> {
        let path = self.scratch.file(&format!("replayed-{nth}.db"));
        Replay::new(&path, &self.settings, &self.fill, &self.seed).play(items, self.first)
    }
}

#[test]
fn random_schedules_are_serializable() {
    let mut length = Length::new(env_number("PWAL_TEST_ROUNDS", 16));
    let mut met = [0; 4];
    for round in 0.. {
        let Some(seed) = length.next_seed(round) else { break };
        let _watchdog = Watchdog::new(&format!("the schedule of seed {seed}"), patience());
        let met_here = schedule(seed, steps(), &mut length);
        met = std::array::from_fn(|at| met[at] + met_here[at]);
    }
    println!("{}", MET.iter().zip(met).map(|(name, count)| format!("{name} {count}")).collect::<Vec<_>>().join(", "));
}

/// What is counted of a schedule, as the status names it.
const MET: [&str; 4] = ["conflicts", "moved", "excused", "merged"];

/// One thread: whichever connection is next makes its next step. How often it met what is counted.
fn schedule(seed: u64, steps: u64, length: &mut Length) -> [u64; 4] {
    let world = World::new(seed);
    let path = &world.path;
    let mut maker = Maker::new(seed.wrapping_mul(31) + 7, world.range);
    let count = 3 + maker.below(5) as usize;
    let mut clients: Vec<Client> = (0..count).map(|_| Client::new(open(path, seed, Duration::ZERO))).collect();
    for _ in 0..steps {
        let chosen = maker.below(count as u32) as usize;
        let client = &mut clients[chosen];
        match client.open.as_ref().map(|item| item.steps.len()) {
            None => match maker.below(24) {
                0..=3 => client.autocommit(&maker.statement()),
                4 => client.begin("BEGIN IMMEDIATE"),
                5 => {
                    let kind = ["PASSIVE", "FULL", "RESTART", "TRUNCATE"][maker.below(4) as usize];
                    let _busy_or_not = support::rows(&client.connection, &format!("PRAGMA wal_checkpoint({kind})"));
                }
                6 if maker.is_one_of(4) => {
                    let writers = ["serial", "concurrent"][maker.below(2) as usize];
                    run(&client.connection, &format!("PRAGMA parallel_wal_writers={writers}"));
                }
                7 if maker.is_one_of(6) => {
                    let again = open(path, seed, Duration::ZERO);
                    support::close(std::mem::replace(&mut client.connection, again));
                }
                _ => client.begin("BEGIN"),
            },
            Some(done) => match maker.below(12) {
                0..=4 => client.step(&maker.statement()),
                5 if done > 1 => client.step(maker.savepoint()),
                6 if maker.is_one_of(3) => client.roll_back(),
                7..=11 if done > 0 => {
                    if !client.commit() && maker.is_one_of(2) {
                        client.roll_back();
                    }
                }
                _ => client.step(&maker.reading()),
            },
        }
    }
    let mut items = Vec::new();
    for mut client in clients {
        client.roll_back();
        support::assert_integrity(&client.connection);
        items.append(&mut client.done);
        length.commits += client.commits;
        support::close(client.connection);
    }
    length.transactions += items.len() as u64;
    let status = support::lab::status(&world.serial, "concurrent");
    let counted = |name: &str| status[name].as_u64().expect("a count");
    world.check(items, counted("excused") + counted("merged") == 0);
    MET.map(counted)
}

#[test]
fn processes_and_threads_are_serializable() {
    let mut length = Length::new(env_number("PWAL_TEST_ROUNDS", 16).div_ceil(5));
    for round in 0.. {
        let Some(seed) = length.next_seed(round) else { break };
        let _watchdog = Watchdog::new(&format!("the round of seed {seed}"), patience());
        rounds::round(seed, &mut length);
    }
}
