//! The engine itself under random lives, crashes and failures, on the simulated disk: what was promised is there after
//! the next open, and nothing else.
//!
//! Each run is up to three lives of a process on one thread, with a crash behind each (the machine stops at any operation
//! of the disk; the process was killed, or the power went) and up to four attempts to open what is left. `PWAL_TEST_ROUNDS`
//! sets the runs in each world; one run is shown with
//! `PWAL_TEST_ONE=<world>:<seed> cargo test --lib sim_tests::one_run -- --nocapture`. Several processes at once: `processes`.

mod adapters;
mod client;
mod life;
mod processes;
mod scene;
mod world;

use crate::disk::sim::HeaderTear;
use life::Life;
use std::path::Path;
use world::{Conditions, WORLDS, World};

/// The events of a run, what it violates, and how often the first sector of the database file was lost.
fn run(seed: u64, conditions: Conditions, real: &Path) -> (Vec<String>, Option<String>, u64) {
    let mut world = World::new(seed, conditions, real);
    for _ in 0..1 + world.dice.below(3) {
        world = match Life::begin(world) {
            Ok(life) => life.run(),
            Err(world) => *world,
        };
        if world.violation.is_some() {
            break;
        }
        if let Err(what) = world.crash_and_open() {
            world.violate(what);
            break;
        }
    }
    let lost = world.disk.headers_lost();
    (world.events, world.violation, lost)
}

fn real_directory() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join(world::NAME), "").unwrap();
    directory
}

/// Ends the tests with the name of a run that does not end by itself.
struct Watchdog(Option<std::sync::mpsc::Sender<()>>);

/// No run takes nearly as long.
const RUN_MAX: std::time::Duration = std::time::Duration::from_secs(60);

impl Watchdog {
    fn new(name: String) -> Watchdog {
        let (over, ends) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            if ends.recv_timeout(RUN_MAX) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                eprintln!("{name}: does not end");
                std::process::abort();
            }
        });
        Watchdog(Some(over))
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.0.take();
    }
}

fn rounds(default: u64) -> u64 {
    std::env::var("PWAL_TEST_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

#[test]
fn every_promise_holds_after_a_crash() {
    let real = real_directory();
    for &conditions in WORLDS {
        let mut runs_with_lost_headers = 0;
        // What the lazy world is for happens seldom.
        for seed in 0..rounds(60) * if conditions.lazy { 5 } else { 1 } {
            let _watchdog = Watchdog::new(format!("PWAL_TEST_ONE={}:{seed}", conditions.name));
            let (events, violation, headers_lost) = run(seed, conditions, real.path());
            if let Some(what) = violation {
                panic!("PWAL_TEST_ONE={}:{seed}: {what}\n  {}", conditions.name, events.join("\n  "));
            }
            runs_with_lost_headers += u64::from(headers_lost > 0);
        }
        if conditions.tears_header == HeaderTear::Garbage {
            let least = rounds(60) / 4;
            assert!(runs_with_lost_headers >= least, "the first sector was lost in {runs_with_lost_headers} runs only");
        }
    }
}

#[test]
fn one_run() {
    let Ok(wanted) = std::env::var("PWAL_TEST_ONE") else { return };
    let (name, seed) = wanted.split_once(':').unwrap();
    let Some(conditions) = WORLDS.iter().find(|conditions| conditions.name == name) else { return };
    let (events, violation, _) = run(seed.parse().unwrap(), *conditions, real_directory().path());
    println!("{}\n-> {violation:?}", events.join("\n"));
}
