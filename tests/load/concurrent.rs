//! Transactions that write beside each other are serializable: random ones of several connections, threads and processes, whose every
//! answer is compared with that of the same transactions one after the other, in the order of their commits, on stock SQLite.
//!
//! `random_schedules_are_serializable`: several connections in one thread; a seed is a schedule, which can be repeated.
//! `processes_and_threads_are_serializable`: a seed chooses what they do, not how they meet.
//! `kills`: processes are killed meanwhile.
//!
//! `PWAL_TEST_ROUNDS` (schedules, default 16; rounds of processes, an eighth), `PWAL_TEST_STEPS` (default 600 of a schedule),
//! `PWAL_TEST_SEED`. The long form: `PWAL_TEST_ROUNDS=20000 cargo test --test load concurrent::`.

mod kills;
mod replay;
mod statements;

use crate::serializable::history::{self, Item, Recorder};
use replay::{Replay, UP_TO, assert_same};
use rusqlite::{Connection, ffi};
use statements::{Maker, SCHEMA};
use std::path::{Path, PathBuf};
use std::time::Duration;
use support::{Scratch, Watchdog, child, code_of, env_number, number, run, text};

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
    conflicts: u64,
}

impl Client {
    fn new(connection: Connection) -> Client {
        Client { connection, open: None, done: Vec::new(), commits: 0, conflicts: 0 }
    }

    /// Runs a statement of the open transaction; one that is refused ends it.
    fn step(&mut self, sql: &str) {
        let Some(item) = &mut self.open else { return };
        item.run(&self.connection, sql);
        let answer = &item.steps.last().expect("a step").answer;
        let code = answer.strip_prefix("code ").and_then(|code| code.parse().ok()).unwrap_or(0);
        if is_busy(code) {
            self.conflicts += 1;
            self.roll_back();
        } else {
            assert!(matches!(code & 0xff, 0 | 1 | ffi::SQLITE_CONSTRAINT), "{sql}: {code}");
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
                self.conflicts += 1;
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
        self.done.push(item);
    }

    fn autocommit(&mut self, sql: &str) {
        let (before, low) = (last_commit(&self.connection), newest(&self.connection));
        let mut item = Item::new(low, false);
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

impl World {
    fn new(seed: u64) -> World {
        let scratch = Scratch::in_memory();
        let path = scratch.file("app.db");
        let range = RANGES[seed as usize % RANGES.len()];
        let (settings, fill) = (settings(seed), fill(seed, range));
        let serial = support::open(&path);
        prepare(&serial, &settings, &fill);
        let first = newest(&serial);
        World { scratch, path, range, settings, fill, serial, first, seed: format!("PWAL_TEST_SEED={seed}") }
    }

    /// What is there is what the same transactions one after the other leave on stock SQLite.
    fn check(self, items: Vec<Item>) {
        let replay = Replay::new(&self.scratch.file("replayed.db"), &self.settings, &self.fill, &self.seed);
        let replayed = replay.play(items, self.first);
        assert_same(&self.serial, &replayed, &self.seed);
        support::close(self.serial);
        assert_same(&support::open_stock(&self.path), &replayed, &self.seed);
    }
}

#[test]
fn random_schedules_are_serializable() {
    let first = env_number("PWAL_TEST_SEED", 1);
    let (mut commits, mut conflicts) = (0, 0);
    for seed in first..first + env_number("PWAL_TEST_ROUNDS", 16) {
        let _watchdog = Watchdog::new(&format!("the schedule of seed {seed}"), Duration::from_secs(120));
        let (committed, refused) = schedule(seed, env_number("PWAL_TEST_STEPS", 600));
        commits += committed;
        conflicts += refused;
    }
    println!("{commits} transactions, {conflicts} conflicts");
}

/// One thread: whichever connection is next makes its next step.
fn schedule(seed: u64, steps: u64) -> (u64, u64) {
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
    let (mut commits, mut conflicts) = (0, 0);
    for mut client in clients {
        client.roll_back();
        support::assert_integrity(&client.connection);
        items.append(&mut client.done);
        (commits, conflicts) = (commits + client.commits, conflicts + client.conflicts);
        support::close(client.connection);
    }
    world.check(items);
    (commits, conflicts)
}

#[test]
fn processes_and_threads_are_serializable() {
    let first = env_number("PWAL_TEST_SEED", 1);
    let mut commits = 0;
    for seed in first..first + env_number("PWAL_TEST_ROUNDS", 16).div_ceil(8) {
        let _watchdog = Watchdog::new(&format!("the round of seed {seed}"), Duration::from_secs(120));
        commits += round(seed);
    }
    println!("{commits} transactions");
}

const PROCESSES: u64 = 3;
const THREADS: u64 = 2;

fn round(seed: u64) -> usize {
    let world = World::new(seed);
    let path = &world.path;
    let mut players: Vec<child::Role> = (0..PROCESSES)
        .map(|place| {
            let settings = [
                ("PWAL_TEST_DATABASE", path.to_str().expect("a name in UTF-8").to_owned()),
                ("PWAL_TEST_SEED", seed.to_string()),
                ("PWAL_TEST_PLACE", place.to_string()),
                ("PWAL_TEST_STEPS", env_number("PWAL_TEST_STEPS", 600).to_string()),
            ];
            child::start("concurrent::child_plays", &settings)
        })
        .collect();
    for player in &mut players {
        assert!(player.wait().success(), "{}: a process has failed, see above", world.seed);
    }
    let mut items = Vec::new();
    for place in 0..PROCESSES {
        for thread in 0..THREADS {
            items.extend(history::read(&history::file(path, place, thread)));
        }
    }
    let commits = items.iter().filter(|item| item.commits).count();
    world.check(items);
    commits
}

/// A role of its own process; nothing in a normal run.
#[test]
fn child_plays() {
    if !child::role("concurrent::child_plays") {
        return;
    }
    let number = |name: &str| child::setting(name).parse::<u64>().expect("a number");
    let (seed, place, steps) = (number("PWAL_TEST_SEED"), number("PWAL_TEST_PLACE"), number("PWAL_TEST_STEPS"));
    let path = PathBuf::from(child::setting("PWAL_TEST_DATABASE"));
    let _watchdog = Watchdog::new("a process that plays", Duration::from_secs(110));
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let path = &path;
            scope.spawn(move || play(path, (seed, place, thread), steps));
        }
    });
}

fn play(path: &Path, (seed, place, thread): (u64, u64, u64), steps: u64) {
    let mut maker = Maker::new(seed * 1000 + place * THREADS + thread, RANGES[seed as usize % RANGES.len()]);
    let mut client = Client::new(open(path, seed, Duration::from_secs(20)));
    for _ in 0..steps / 12 {
        match maker.below(8) {
            0..=1 => client.autocommit(&maker.statement()),
            kind => {
                client.begin(if kind == 2 { "BEGIN IMMEDIATE" } else { "BEGIN" });
                for _ in 0..1 + maker.below(8) {
                    let sql = if maker.is_one_of(9) { maker.savepoint().to_owned() } else { maker.statement() };
                    client.step(&sql);
                    if maker.is_one_of(3) {
                        std::thread::yield_now();
                    }
                }
                if client.open.is_none() {
                    continue;
                }
                if maker.is_one_of(40) {
                    client.roll_back();
                } else {
                    assert!(client.commit(), "BUSY within the busy timeout");
                }
            }
        }
    }
    client.roll_back();
    let mut recorder = Recorder::create(&history::file(path, place, thread));
    for item in client.done {
        recorder.add(item);
    }
    recorder.finish();
    support::close(client.connection);
}
