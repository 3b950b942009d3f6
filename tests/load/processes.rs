//! Many processes of several threads write, read and checkpoint one database, and come and go all the time.
//!
//! Each thread asserts at once what must hold: sums stay, every writer's transactions are dense, what anybody was told
//! before a read began is seen by it, snapshots of one connection never go back, nobody waits longer than the busy
//! timeout (`support::processes::worker`). At the end every acknowledged transaction is counted, and one plain file is left.
//!
//! `PWAL_TEST_PROCESSES` (default 4) and `PWAL_TEST_THREADS` (default 2), `PWAL_TEST_SECONDS` (default 12) for all
//! tests here together. The long form: `PWAL_TEST_PROCESSES=8 PWAL_TEST_SECONDS=600 cargo test --test load
//! processes::`. `PWAL_TEST_SEED` chooses what they do, not when.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::path::Path;
use std::time::{Duration, Instant};
use support::processes::board::Board;
use support::processes::worker::Work;
use support::processes::{ledger, watch_progress};
use support::{Scratch, env_number};

/// What a run is about.
struct Run<'a> {
    mode: &'a str,
    synchronous: &'a [&'a str],
    /// Operations of each thread in the life of a process, at most.
    life: u64,
}

const RUNS: u64 = 6;

#[test]
fn auto_full() {
    stress(&Run { mode: "auto", synchronous: &["FULL"], life: 400 });
}

#[test]
fn auto_normal() {
    stress(&Run { mode: "auto", synchronous: &["NORMAL"], life: 1000 });
}

#[test]
fn conservative_full() {
    stress(&Run { mode: "conservative", synchronous: &["FULL"], life: 400 });
}

#[test]
fn conservative_normal() {
    stress(&Run { mode: "conservative", synchronous: &["NORMAL"], life: 1000 });
}

#[test]
fn every_synchronous_at_once() {
    stress(&Run { mode: "auto", synchronous: &["FULL", "NORMAL", "EXTRA", "OFF"], life: 400 });
}

/// So short lives that often nobody is left: the log comes and goes.
#[test]
fn short_lives() {
    stress(&Run { mode: "auto", synchronous: &["FULL"], life: 4 });
}

fn stress(run: &Run<'_>) {
    let _one = super::one_at_a_time();
    let places = env_number("PWAL_TEST_PROCESSES", 4) as usize;
    let threads = env_number("PWAL_TEST_THREADS", 2) as usize;
    let seed = env_number("PWAL_TEST_SEED", 1);
    let length = Duration::from_millis(env_number("PWAL_TEST_SECONDS", 2 * RUNS) * 1000 / RUNS);
    let scratch = Scratch::new();
    let path = scratch.file("app.db");
    ledger::create(&path);
    let board = Board::create(&scratch.file("board"));
    let _progress = watch_progress(&board, places * threads);
    let until = Instant::now() + length;
    let lives: u64 = std::thread::scope(|scope| {
        let place = |place| {
            let (board, path) = (&board, &path);
            let rng = StdRng::seed_from_u64(seed * 100 + place as u64);
            let work = Work {
                database: path,
                board: board.path(),
                place,
                places,
                threads,
                mode: run.mode,
                synchronous: run.synchronous,
                checkpoints: true,
                seed: 0,
                life: run.life,
                limit: length + Duration::from_secs(90),
            };
            scope.spawn(move || live_and_live_again(work, board, until, rng))
        };
        let running: Vec<_> = (0..places).map(place).collect();
        running.into_iter().map(|thread| thread.join().expect("a place")).sum()
    });
    assert!(!board.failed(), "seed {seed}: see above");
    let done = board.acknowledged(places * threads);
    println!(
        "{} {:?}: {lives} lives, {} commits, {} reads, {} too late, {} busy, longest {} us, of each {done:?}",
        run.mode,
        run.synchronous,
        done.iter().sum::<u64>(),
        board.sum(|line| &line.reads),
        board.sum(|line| &line.stale),
        board.sum(|line| &line.busy),
        board.highest(|line| &line.longest_us),
    );
    check(&path, &done);
}

/// One place: a process, and when it has ended the next one, until the time is over.
fn live_and_live_again(work: Work<'_>, board: &Board, until: Instant, mut rng: StdRng) -> u64 {
    let mut lives = 0;
    while Instant::now() < until && board.goes_on() {
        lives += 1;
        let mut process = Work { seed: rng.random(), life: rng.random_range(1..=work.life), ..work.clone() }.start();
        // A long life ends when the time is over.
        while process.try_wait().is_none() {
            if Instant::now() >= until {
                board.stop();
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        if !process.wait().success() {
            board.fail();
        }
    }
    lives
}

/// Each acknowledged transaction is there, and no other, through the VFS under test and in the plain file that it leaves.
fn check(path: &Path, done: &[u64]) {
    support::assert_plain(path);
    let stock = support::open_stock(path);
    assert_eq!(ledger::look(&stock, done.len()).expect("a look"), done, "rows against acknowledgements");
    support::close(stock);
    let connection = support::open(path);
    assert_eq!(ledger::look(&connection, done.len()).expect("a look"), done);
    support::assert_integrity(&connection);
    support::close(connection);
    support::assert_plain(path);
}
