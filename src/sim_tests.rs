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

use life::Life;
use std::path::Path;
use world::{Conditions, WORLDS, World};

/// The events of a run, what it violates, and how often that happened for which its world exists.
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
    let met = world.met();
    (world.events, world.violation, met)
}

fn real_directory() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join(world::NAME), "").unwrap();
    directory
}

/// A world in which that seldom happens for which it exists shows nothing.
fn check_met(conditions: Conditions, met_in: u64, runs: u64) {
    let Conditions { name, met_percent, .. } = conditions;
    println!("{name}: what it is for happened in {met_in} of {runs} runs");
    assert!(met_in >= runs * met_percent / 100, "{name}: what it is for happened in {met_in} of {runs} runs only");
}

fn rounds(default: u64) -> u64 {
    std::env::var("PWAL_TEST_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

#[test]
fn every_promise_holds_after_a_crash() {
    let real = real_directory();
    for &conditions in WORLDS {
        let mut met_in = 0;
        // What the lazy world is for happens seldom.
        let runs = rounds(60) * if conditions.lazy { 5 } else { 1 };
        for seed in 0..runs {
            let _watchdog = support::Watchdog::new(
                &format!("PWAL_TEST_ONE={}:{seed}", conditions.name),
                crate::interleave::RUN_MAX,
            );
            let (events, violation, met) = run(seed, conditions, real.path());
            if let Some(what) = violation {
                panic!("PWAL_TEST_ONE={}:{seed}: {what}\n  {}", conditions.name, events.join("\n  "));
            }
            met_in += u64::from(met > 0);
        }
        check_met(conditions, met_in, runs);
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
