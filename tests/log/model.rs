//! The protocol of the log under random schedules, crashes, faults and rot, on the simulated disk: recovery is the project's,
//! the writer is a small reference one whose every rule can be dropped.
//!
//! The number of runs for each world comes from `PWAL_MODEL_RUNS`; one run is shown with
//! `PWAL_MODEL_TRACE=<world>:<seed>[:<dropped rule>] cargo test --test log model::one_run -- --nocapture`.

mod adapters;
mod world;
mod writer;

use std::rc::Rc;
use std::task::{Context, Waker};
use world::{Conditions, Outcome, WORLDS, World};
use writer::{Fate, Task, Writer};

/// Polls one task alone, so many times at most; true if it ended.
fn drive(mut task: Task, limit: u64) -> bool {
    let mut context = Context::from_waker(Waker::noop());
    (0..limit).any(|_| task.as_mut().poll(&mut context).is_ready())
}

/// One life of a process: tasks in a random order until they are done or the budget is; then a crash.
fn live(world: World) -> (World, Option<String>) {
    let writer = Writer::new(world);
    let mut violation = None;
    let (mut left, mut budget, full_percent, fail_percent, always) = {
        let dice = &mut writer.world.borrow_mut().dice;
        let budget = match dice.below(3) {
            0 => dice.below(31),
            1 => dice.below(121),
            _ => 1_000_000,
        };
        (dice.below(10), budget, dice.pick(&[0, 30, 50, 100]), dice.pick(&[0, 15]), budget == 1_000_000)
    };
    let mut tasks: Vec<Task> = Vec::new();
    let mut context = Context::from_waker(Waker::noop());
    while budget > 0 && (left > 0 || !tasks.is_empty()) && !writer.world.borrow().is_crashed {
        budget -= 1;
        if left > 0 && tasks.len() < 4 && writer.world.borrow_mut().dice.percent(30) {
            left -= 1;
            let (kind, full, fails, rolls_back) = {
                let dice = &mut writer.world.borrow_mut().dice;
                (dice.below(100), dice.percent(full_percent), dice.percent(fail_percent), dice.percent(50))
            };
            let fate = match (fails, rolls_back) {
                (false, _) => Fate::Fine,
                (true, true) => Fate::RollsBack,
                (true, false) => Fate::WriteFails,
            };
            tasks.push(if kind < 25 {
                Box::pin(Rc::clone(&writer).checkpoint(false))
            } else {
                Box::pin(Rc::clone(&writer).commit(full, fate))
            });
        }
        if !tasks.is_empty() {
            let index = writer.world.borrow_mut().dice.index(tasks.len());
            if tasks[index].as_mut().poll(&mut context).is_ready() {
                drop(tasks.swap_remove(index));
            }
        }
        let mut world = writer.world.borrow_mut();
        if world.conditions.restores && world.dice.percent(2) {
            world.take_copy();
        }
        if always && budget < 900_000 {
            violation = Some("no progress (hang)".to_owned());
            break;
        }
    }
    let closes = tasks.is_empty() && !writer.world.borrow().is_crashed && writer.world.borrow_mut().dice.percent(50);
    drop(tasks);
    if closes {
        let limit = if writer.world.borrow_mut().dice.percent(50) {
            writer.world.borrow_mut().dice.below(26)
        } else {
            1_000_000
        };
        drive(Box::pin(Rc::clone(&writer).close()), limit);
    }
    let mut world = Rc::into_inner(writer).expect("all tasks are gone").world.into_inner();
    if violation.is_none() {
        world.crash();
        if world.conditions.rots && world.dice.percent(50) {
            world.rot();
        }
    }
    (world, violation)
}

/// One random run: up to three lives, each with its crashes and its recovery.
fn run(seed: u64, conditions: Conditions, dropped: &'static str) -> (Vec<String>, Option<String>) {
    let mut world = World::new(seed, conditions, dropped);
    for _ in 0..1 + world.dice.below(3) {
        let (survivor, violation) = live(world);
        world = survivor;
        if violation.is_some() {
            return (world.events, violation);
        }
        world.keep_files();
        match world.open() {
            Ok(()) => {}
            Err(Outcome::Fine) => return (world.events, None),
            Err(Outcome::Violation(what)) => return (world.events, Some(what)),
        }
    }
    (world.events, None)
}

fn runs(default: u64) -> u64 {
    std::env::var("PWAL_MODEL_RUNS").ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

#[test]
fn no_world_violates_the_promises() {
    for &conditions in WORLDS {
        for seed in 0..runs(400) {
            let (events, violation) = run(seed, conditions, "");
            if let Some(what) = violation {
                panic!("world {} seed {seed}: {what}\n  {}", conditions.name, events.join("\n  "));
            }
        }
    }
}

/// Each rule, with a world and a seed in which dropping it was noticed; the search goes on from there if the dice
/// have changed since.
const RULES: &[(&str, &str, u64)] = &[
    // Of the writer.
    ("new_log_id", "crash", 3),
    ("a1_sync", "crash", 7),
    ("a2_sync", "crash", 17),
    ("segment_dir_sync", "crash", 63),
    ("recycle_gate", "crash", 3467),
    ("rollback_zero", "crash", 311),
    ("error_zero", "crash", 298),
    ("rollback_sync", "crash", 2781),
    ("spill_sync", "crash", 17),
    ("spill_dir_sync", "crash", 82),
    ("spill_keep", "crash", 3),
    ("wait_ack", "crash", 100),
    ("visible", "crash", 152),
    ("rotation_sync", "crash", 140),
    ("cut", "ecc", 7),
    ("r5_zero", "faults", 38),
    ("t_under_d", "rot", 97),
    ("log_before_data", "crash", 36),
    ("b_after_sync", "faults", 6),
    ("b_not_after_error", "faults", 6),
    ("t_in_stamp", "crash", 10),
    ("stamp_page1", "crash", 3),
    ("marker", "crash", 4),
    ("z3_sync", "crash", 12),
    ("marker_last", "crash", 211),
    // Of recovery, at its door to the disk.
    ("replay_stamp", "crash", 3),
    ("truncate", "crash", 6),
    ("database_sync", "crash", 1),
    ("directory_sync", "crash", 332),
    ("marker_z2", "crash", 6),
    ("sync_first", "crash", 132),
    ("past_cache", "faults", 2006),
];

#[test]
fn each_dropped_rule_is_noticed() {
    let mut missed = Vec::new();
    for &(rule, world, first) in RULES {
        let conditions = *WORLDS.iter().find(|conditions| conditions.name == world).unwrap();
        let noticed =
            (first..first + runs(20_000)).find_map(|seed| run(seed, conditions, rule).1.map(|what| (seed, what)));
        match noticed {
            Some((seed, what)) => println!("{rule:20} {world:8} seed {seed:6} {what}"),
            None => missed.push(rule),
        }
    }
    assert!(missed.is_empty(), "nobody noticed that these rules were dropped: {missed:?}");
}

#[test]
fn one_run() {
    let Ok(wanted) = std::env::var("PWAL_MODEL_TRACE") else { return };
    let mut parts = wanted.split(':');
    let (world, seed) = (parts.next().unwrap(), parts.next().unwrap().parse().unwrap());
    let dropped = parts.next().map_or("", |name| RULES.iter().find(|rule| rule.0 == name).unwrap().0);
    let conditions = *WORLDS.iter().find(|conditions| conditions.name == world).unwrap();
    let (events, violation) = run(seed, conditions, dropped);
    println!("{}\n-> {violation:?}", events.join("\n"));
}
