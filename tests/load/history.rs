//! What several processes read and what they were told, as one history: is there an order of all transactions that explains it?
//!
//! Clients, several in each of several processes, run small transactions on registers: each reads some of them and writes others, with
//! values that nobody else writes, and a counter that each commit raises names the state that it saw (`history/client.rs`). Meanwhile
//! processes are killed, all at once too, stopped, and stopped and killed. Each client writes down what it read, what it is about to
//! commit, and what it was told (`history/record.rs`): a file survives the kill of who writes it. In the end all of it must fit one order
//! (`history/checker.rs`).
//!
//! `PWAL_TEST_SECONDS` (default 6), `PWAL_TEST_PROCESSES` (default 3), `PWAL_TEST_SEED` (default: the time; printed). The long form:
//! `PWAL_TEST_SECONDS=600 cargo test --test load history:: -- --nocapture`.

mod checker;
mod client;
mod record;

use checker::{History, check};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rustix::process::Signal;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use support::child::{self, Role};
use support::{Scratch, Watchdog, assert_integrity, assert_plain, close, env_number, open, open_wal, run};

const CLIENT: &str = "history::a_process_with_clients";

#[test]
fn a_process_with_clients() {
    if child::role(CLIENT) {
        client::work();
    }
}

/// The processes, and how to start another one.
struct Crowd {
    database: PathBuf,
    records: PathBuf,
    rng: StdRng,
    processes: Vec<Role>,
    started: u64,
}

impl Crowd {
    fn start(&mut self) -> Role {
        self.started += 1;
        let path = |path: &Path| path.to_str().expect("a name in UTF-8").to_owned();
        child::start(
            CLIENT,
            &[
                ("PWAL_TEST_DATABASE", path(&self.database)),
                ("PWAL_TEST_RECORDS", path(&self.records)),
                ("PWAL_TEST_PROCESS", self.started.to_string()),
                ("PWAL_TEST_LIFE_SEED", self.rng.random::<u64>().to_string()),
            ],
        )
    }

    /// Kills process `place`, which must not have failed before, and puts another one there.
    fn replace(&mut self, place: usize) {
        if let Some(status) = self.processes[place].try_wait() {
            panic!("a process ended by itself: {status}");
        }
        self.processes[place].kill();
        self.processes[place] = self.start();
    }

    fn blow(&mut self) {
        let place = self.rng.random_range(0..self.processes.len());
        match self.rng.random_range(0..10) {
            0..5 => self.replace(place),
            5..8 => {
                self.processes[place].signal(Signal::STOP);
                self.pause(0..1500);
                self.processes[place].signal(Signal::CONT);
            }
            8 => {
                self.processes[place].signal(Signal::STOP);
                self.pause(0..700);
                self.replace(place);
            }
            _ => {
                for process in &self.processes {
                    process.strike();
                }
                for place in 0..self.processes.len() {
                    self.processes[place].wait();
                    self.processes[place] = self.start();
                }
            }
        }
    }

    fn pause(&mut self, milliseconds: std::ops::Range<u64>) {
        std::thread::sleep(Duration::from_millis(self.rng.random_range(milliseconds)));
    }
}

#[test]
fn every_read_and_every_answer_fits_one_order() {
    let clock = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a clock");
    let seed = env_number("PWAL_TEST_SEED", clock.as_micros() as u64);
    println!("PWAL_TEST_SEED={seed}");
    let time = Duration::from_secs(env_number("PWAL_TEST_SECONDS", 6));
    let _one = super::one_at_a_time();
    let _watchdog = Watchdog::new("a history", time + Duration::from_secs(120));
    let scratch = Scratch::new();
    let records = scratch.file("records");
    std::fs::create_dir(&records).expect("a directory");
    let database = scratch.file("app.db");
    let first = open_wal(&database);
    run(&first, client::SCHEMA);
    close(first);
    let rng = StdRng::seed_from_u64(seed);
    let mut crowd = Crowd { database, records, rng, processes: Vec::new(), started: 0 };
    for _ in 0..env_number("PWAL_TEST_PROCESSES", 3) {
        let process = crowd.start();
        crowd.processes.push(process);
    }
    let began = Instant::now();
    let mut blows = 0;
    while began.elapsed() < time {
        crowd.pause(0..300);
        crowd.blow();
        blows += 1;
    }
    for mut process in std::mem::take(&mut crowd.processes) {
        process.end_input();
        let status = process.wait();
        assert!(status.success(), "a process failed: {status}");
    }
    let last = open(&crowd.database);
    assert_integrity(&last);
    let history = History {
        transactions: record::read_all(&crowd.records),
        order: client::order(&last),
        registers: client::registers(&last),
    };
    close(last);
    assert_plain(&crowd.database);
    let told = check(&history).unwrap_or_else(|why| panic!("PWAL_TEST_SEED={seed}: {why}"));
    println!("{blows} blows, {} processes, {told:?}", crowd.started);
    assert!(told.commits > 20 && told.reads > 20, "too little happened: {told:?}");
}
