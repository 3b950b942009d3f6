//! Loads that threads do until the time is over, each on a connection of its own.

use crate::case::{Case, Load};
use crate::child::{Outcome, Run};
use crate::database::{self, Random, is_locked, open, payload, rows};
use crate::seen::Latencies;
use rusqlite::{Connection, Result, Statement};
use std::path::Path;
use std::sync::Barrier;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

/// Threads that insert beside those that read.
const WRITERS: usize = 4;
/// Of a hundred operations of the mixed load.
const MIXED_WRITES: u64 = 5;
/// Commits before each `pwal_sync()`.
const COMMITS_A_SYNC: u64 = 100;
/// What the application does inside a transaction of loads that think.
const THINKS: Duration = Duration::from_millis(2);
/// Before each checkpoint, while commits go on alone; less in short runs.
const PAUSE: Duration = Duration::from_millis(50);

/// The threads of this process: they open the database, wait for the other processes, and run.
pub fn run(path: &Path, case: &Case, run: Run) -> Outcome {
    let writers = if case.load == Load::ReadBesideWriters { WRITERS } else { 0 };
    let (start, end) = (Barrier::new(case.threads + writers + 1), Barrier::new(case.threads + writers + 1));
    let checkpoints = AtomicBool::new(false);
    let over = AtomicBool::new(false);
    std::thread::scope(|threads| {
        let handles: Vec<_> = (0..case.threads + writers)
            .map(|index| {
                let (start, end, checkpoints) = (&start, &end, &checkpoints);
                threads.spawn(move || {
                    let connection = open(path, case).expect("open the database");
                    let mut worker = Worker::new(&connection, case, index, checkpoints);
                    start.wait();
                    start.wait();
                    worker.work(Duration::from_millis(case.run_ms));
                    // The counters are read while all threads are there.
                    end.wait();
                    end.wait();
                    worker.done
                })
            })
            .collect();
        // Every connection is open.
        start.wait();
        let mut running = run.begin();
        start.wait();
        if case.load == Load::BesideCheckpoint {
            threads.spawn(|| checkpoint(path, case, &checkpoints, &over));
        }
        end.wait();
        over.store(true, SeqCst);
        let mut outcome = running.end(path, case);
        end.wait();
        for (index, handle) in handles.into_iter().enumerate() {
            let done = handle.join().expect("a worker");
            outcome.acknowledged += done.acknowledged;
            outcome.locked += done.locked;
            if index < case.threads {
                outcome.operations.push(done.operations);
                outcome.retries += done.retries;
                outcome.latencies.add(&done.latencies);
                outcome.alone.add(&done.alone);
            }
        }
        outcome
    })
}

/// Checkpoints, again and again, with pauses; `runs` is set while one runs.
fn checkpoint(path: &Path, case: &Case, runs: &AtomicBool, over: &AtomicBool) {
    let connection = open(path, case).expect("open the database");
    while !over.load(SeqCst) {
        std::thread::sleep(PAUSE.min(Duration::from_millis(case.run_ms) / 10));
        runs.store(true, SeqCst);
        let done = connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()));
        runs.store(false, SeqCst);
        done.expect("a checkpoint");
    }
}

/// What one thread did.
#[derive(Default)]
struct Done {
    /// What the sum of `n` has to show.
    acknowledged: u64,
    /// Operations that ended within the time.
    operations: u64,
    locked: u64,
    retries: u64,
    latencies: Latencies,
    /// Of those that no checkpoint ran beside.
    alone: Latencies,
}

struct Statements<'a> {
    insert: Statement<'a>,
    insert_at: Statement<'a>,
    update: Statement<'a>,
    set: Statement<'a>,
    select: Statement<'a>,
    begin: Statement<'a>,
    begin_immediate: Statement<'a>,
    commit: Statement<'a>,
    sync: Option<Statement<'a>>,
}

impl<'a> Statements<'a> {
    fn prepare(connection: &'a Connection, load: Load, table: &str) -> Result<Statements<'a>> {
        Ok(Statements {
            insert: connection.prepare(&format!("INSERT INTO {table}(thread, n, value) VALUES(?1, 1, ?2)"))?,
            insert_at: connection
                .prepare(&format!("INSERT INTO {table}(id, thread, n, value) VALUES(?1, ?2, 1, ?3)"))?,
            update: connection.prepare(&format!("UPDATE {table} SET n = n + 1, value = ?1 WHERE id = ?2"))?,
            set: connection.prepare(&format!("UPDATE {table} SET n = ?1 WHERE id = ?2"))?,
            select: connection.prepare(&format!("SELECT n FROM {table} WHERE id = ?1"))?,
            begin: connection.prepare("BEGIN")?,
            begin_immediate: connection.prepare("BEGIN IMMEDIATE")?,
            commit: connection.prepare("COMMIT")?,
            sync: if load == Load::OnDemand { Some(connection.prepare("SELECT pwal_sync()")?) } else { None },
        })
    }
}

struct Worker<'a> {
    connection: &'a Connection,
    load: Load,
    index: i64,
    rows: u64,
    payload: String,
    random: Random,
    statements: Statements<'a>,
    checkpoints: &'a AtomicBool,
    done: Done,
}

impl<'a> Worker<'a> {
    fn new(connection: &'a Connection, case: &Case, index: usize, checkpoints: &'a AtomicBool) -> Worker<'a> {
        let load = if index >= case.threads { Load::Insert } else { case.load };
        if load == Load::BesideCheckpoint {
            connection.execute_batch("PRAGMA wal_autocheckpoint=0").expect("a pragma");
        }
        let own = format!("own_{}_{index}", std::process::id());
        let (table, rows) = match load {
            Load::OwnTables | Load::OwnInserts => (own.as_str(), database::ROWS_OWN),
            _ => ("t", rows(case.load, case.mib)),
        };
        if matches!(load, Load::OwnTables | Load::OwnInserts) {
            database::make_own(connection, table).expect("a table");
        }
        // Attached, read, cached: the first operation is as the others.
        connection.query_row("SELECT max(id) FROM t", [], |_| Ok(())).expect("read");
        Worker {
            connection,
            load,
            index: index as i64,
            rows,
            payload: payload(),
            random: Random::new(index as u64 ^ u64::from(std::process::id()) << 32),
            statements: Statements::prepare(connection, load, table).expect("prepare"),
            checkpoints,
            done: Done::default(),
        }
    }

    fn work(&mut self, length: Duration) {
        let begin = Instant::now();
        let mut turn = 0;
        while begin.elapsed() < length {
            turn += 1;
            let writes = self.load != Load::Read && self.load != Load::ReadBesideWriters;
            let writes = writes && (self.load != Load::Mixed || self.random.below(100) < MIXED_WRITES);
            let checkpoint_ran = self.checkpoints.load(SeqCst);
            let before = Instant::now();
            let result = if writes { self.write(turn) } else { self.read() };
            let took = before.elapsed();
            match result {
                Ok(()) => self.done.operations += u64::from(begin.elapsed() < length),
                Err(error) if is_locked(&error) => {
                    self.done.locked += 1;
                    self.roll_back();
                }
                Err(error) => panic!("thread {}: {error}", self.index),
            }
            // In the mixed load the reads would hide the commits.
            if writes || self.load != Load::Mixed {
                let beside = checkpoint_ran || self.checkpoints.load(SeqCst);
                let alone = self.load == Load::BesideCheckpoint && !beside;
                if alone { &mut self.done.alone } else { &mut self.done.latencies }.record(took);
            }
        }
    }

    fn roll_back(&self) {
        if !self.connection.is_autocommit() {
            self.connection.execute_batch("ROLLBACK").expect("a rollback");
        }
    }

    fn read(&mut self) -> Result<()> {
        let key = self.random.key(self.rows);
        self.statements.select.query_row([key], |row| row.get_ref(0).map(|_| ()))
    }

    fn write(&mut self, turn: u64) -> Result<()> {
        match self.load {
            Load::Update | Load::BesideCheckpoint => {
                let key = self.random.key(self.rows);
                self.statements.update.execute((self.payload.as_str(), key))?;
            }
            Load::TenRows => return self.insert_rows(10),
            Load::TenThousandRows => return self.insert_rows(10_000),
            load if load == Load::ReadModifyWrite || load.is_for_both_writers() => {
                while let Err(error) = self.transaction() {
                    if !is_locked(&error) {
                        return Err(error);
                    }
                    self.done.retries += 1;
                    self.roll_back();
                }
            }
            _ => drop(self.statements.insert.execute((self.index, self.payload.as_str()))?),
        }
        self.done.acknowledged += 1;
        if turn.is_multiple_of(COMMITS_A_SYNC)
            && let Some(sync) = &mut self.statements.sync
        {
            sync.query_row([], |_| Ok(()))?;
        }
        Ok(())
    }

    fn insert_rows(&mut self, rows: u64) -> Result<()> {
        self.statements.begin_immediate.execute([])?;
        for _ in 0..rows {
            self.statements.insert.execute((self.index, self.payload.as_str()))?;
        }
        self.statements.commit.execute([])?;
        self.done.acknowledged += rows;
        Ok(())
    }

    /// One attempt.
    fn transaction(&mut self) -> Result<()> {
        let key = self.random.key(self.rows);
        self.statements.begin.execute([])?;
        match self.load {
            Load::OwnTables | Load::RandomKeys => {
                self.statements.update.execute((self.payload.as_str(), key))?;
                std::thread::sleep(THINKS);
            }
            Load::OwnInserts => drop(self.statements.insert.execute((self.index, self.payload.as_str()))?),
            Load::EarlyAppend => {
                self.statements.insert.execute((self.index, self.payload.as_str()))?;
                std::thread::sleep(THINKS);
            }
            Load::RandomInserts => {
                let key = self.random.key_between(self.rows);
                self.statements.insert_at.execute((key, self.index, self.payload.as_str()))?;
                std::thread::sleep(THINKS);
            }
            Load::LateAppend => {
                self.statements.select.query_row([key], |row| row.get_ref(0).map(|_| ()))?;
                std::thread::sleep(THINKS);
                self.statements.insert.execute((self.index, self.payload.as_str()))?;
            }
            load => {
                // An update that is lost shows: `n` is what was read, plus 1.
                let n: i64 = self.statements.select.query_row([key], |row| row.get(0))?;
                if load == Load::ReadThinkUpdate {
                    std::thread::sleep(THINKS);
                }
                self.statements.set.execute((n + 1, key))?;
            }
        }
        self.statements.commit.execute([])?;
        Ok(())
    }
}
