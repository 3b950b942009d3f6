//! SIGKILL of one of several processes at random moments, and another takes its place at once.
//!
//! Each process works on the ledger (`support::processes::worker`), with small segments and frequent checkpoints. A successor counts
//! before it goes on: what its predecessor was told is there, or that and the one commit that was under way. The
//! others must go on: whoever waits longer than the busy timeout fails. Now and then all are killed at once; then the log
//! beside the file must be valid, and they race for its recovery.
//!
//! `PWAL_TEST_KILLS` (default 480, split among the runs), `PWAL_TEST_PROCESSES` (default 4), `PWAL_TEST_THREADS`
//! (default 2), `PWAL_TEST_SEED`. The long form: `PWAL_TEST_KILLS=8000 cargo test --test load kills::`.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::path::PathBuf;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};
use support::child::Role;
use support::processes::board::Board;
use support::processes::worker::Work;
use support::processes::{ledger, log, watch_progress};
use support::{Scratch, env_number};

const RUNS: u64 = 4;

#[test]
fn auto_full() {
    kills("auto", "FULL");
}

#[test]
fn auto_normal() {
    kills("auto", "NORMAL");
}

#[test]
fn conservative_full() {
    kills("conservative", "FULL");
}

#[test]
fn conservative_normal() {
    kills("conservative", "NORMAL");
}

struct Crowd<'a> {
    board: Board,
    path: PathBuf,
    threads: usize,
    mode: &'a str,
    synchronous: &'a str,
    rng: StdRng,
    processes: Vec<Role>,
    places: usize,
}

fn kills(mode: &str, synchronous: &str) {
    let _one = super::one_at_a_time();
    let kills = env_number("PWAL_TEST_KILLS", 480) / RUNS;
    let places = env_number("PWAL_TEST_PROCESSES", 4) as usize;
    let threads = env_number("PWAL_TEST_THREADS", 2) as usize;
    let seed = env_number("PWAL_TEST_SEED", 1);
    let scratch = Scratch::new();
    let path = scratch.file("app.db");
    ledger::create(&path);
    let board = Board::create(&scratch.file("board"));
    let _progress = watch_progress(&board, places * threads);
    let rng = StdRng::seed_from_u64(seed);
    let mut crowd = Crowd { board, path, threads, mode, synchronous, rng, processes: Vec::new(), places };
    crowd.all_start();
    let (mut done, mut all) = (0, 0);
    while done < kills {
        if crowd.rng.random_range(0..20) == 0 {
            crowd.kill_all();
            (done, all) = (done + places as u64, all + 1);
        } else {
            crowd.kill_one();
            done += 1;
        }
    }
    crowd.finish(seed);
    let board = &crowd.board;
    println!(
        "{mode} {synchronous}, seed {seed}: {done} kills, {all} times all at once, {} commits, {} reads, longest {} us, {} busy",
        board.sum(|line| &line.acknowledged),
        board.sum(|line| &line.reads),
        board.highest(|line| &line.longest_us),
        board.sum(|line| &line.busy),
    );
}

impl Crowd<'_> {
    fn start(&mut self, place: usize) -> Role {
        Work {
            database: &self.path,
            board: self.board.path(),
            place,
            places: self.places,
            threads: self.threads,
            mode: self.mode,
            synchronous: &[self.synchronous],
            checkpoints: true,
            seed: self.rng.random(),
            life: u64::MAX,
            limit: Duration::from_secs(3600),
        }
        .start()
    }

    fn all_start(&mut self) {
        self.processes = (0..self.places).map(|place| self.start(place)).collect();
    }

    fn commits(&self) -> u64 {
        self.board.sum(|line| &line.acknowledged)
    }

    /// Lets them work: until so many commits more, or for so long, since a moment in which nobody can commit is one for a
    /// kill too.
    fn work(&mut self) {
        let wanted = self.commits() + self.rng.random_range(0..60);
        let until = Instant::now() + Duration::from_micros(self.rng.random_range(0..100_000));
        while self.commits() < wanted && Instant::now() < until {
            self.assert_alive();
            std::thread::sleep(Duration::from_micros(200));
        }
        std::thread::sleep(Duration::from_micros(self.rng.random_range(0..3000)));
    }

    fn assert_alive(&mut self) {
        let ended = self.processes.iter_mut().any(|process| process.try_wait().is_some());
        assert!(!ended && !self.board.failed(), "a process has ended by itself: see above");
    }

    fn kill_one(&mut self) {
        self.work();
        let place = self.rng.random_range(0..self.places);
        loop {
            self.kill(place);
            self.processes[place] = self.start(place);
            // Some die again at once, while they start and attach.
            if self.rng.random_range(0..4) != 0 {
                return;
            }
            std::thread::sleep(Duration::from_micros(self.rng.random_range(0..20_000)));
        }
    }

    fn kill(&mut self, place: usize) {
        self.assert_alive();
        self.processes[place].kill();
        for line in place * self.threads..(place + 1) * self.threads {
            self.board.line(line).clear();
        }
    }

    fn kill_all(&mut self) {
        self.work();
        // All signals first: nobody shall see the others die.
        self.processes.iter().for_each(Role::strike);
        (0..self.places).for_each(|place| {
            self.processes[place].kill();
        });
        for line in 0..self.places * self.threads {
            self.board.line(line).clear();
        }
        assert!(!self.board.failed(), "a process has failed: see above");
        if support::on_pwal() {
            log::assert_sound(&self.path);
        }
        // Half of the time one process recovers alone, and looks before it leaves; else all race for it.
        if self.rng.random_range(0..2) == 0 {
            let connection = support::open(&self.path);
            let seen = ledger::look(&connection, self.places * self.threads).expect("a look");
            support::assert_integrity(&connection);
            for (line, seen) in seen.into_iter().enumerate() {
                let told = &self.board.line(line).acknowledged;
                let before = told.swap(seen, SeqCst);
                assert!(seen == before || seen == before + 1, "{before} were acknowledged, {seen} are there");
            }
            if self.rng.random_range(0..2) == 0 {
                support::close(connection);
                support::assert_plain(&self.path);
                self.all_start();
            } else {
                self.all_start();
                support::close(connection);
            }
        } else {
            self.all_start();
        }
    }

    /// Lets all end cleanly: one plain file is left, with every acknowledged transaction.
    fn finish(&mut self, seed: u64) {
        // Who has not opened the database yet would not close what the killed one before it has left.
        let lines = self.places * self.threads;
        while (0..lines).any(|line| self.board.line(line).ready.load(SeqCst) == 0) {
            self.assert_alive();
            std::thread::sleep(Duration::from_micros(200));
        }
        self.board.stop();
        for process in &mut self.processes {
            assert!(process.wait().success(), "seed {seed}: a process has failed: see above");
        }
        let done = self.board.acknowledged(lines);
        support::assert_plain(&self.path);
        let stock = support::open_stock(&self.path);
        assert_eq!(ledger::look(&stock, done.len()).expect("a look"), done, "rows against acknowledgements");
        support::close(stock);
    }
}
