//! SQLite above the real VFS on a machine whose power goes: the database file, journals, a stock `-wal` and the log lie on one
//! simulated disk, which loses what is not synced.
//!
//! Each run is up to three lives of one machine. In a life some connections of up to four processes (or of stock SQLite) do random
//! SQL in turn, on one thread and with simulated time, so that a seed is one course of events. Before each operation of the
//! disk the whole machine may be copied: the copy is one that stopped there. Then its power goes, or only its processes end, and
//! it is opened; the opening is copied in the same way, and so is that of the copy. What is found must be a state of the history,
//! as a database in memory had it that did what was committed: not older than the last commit that was promised, not
//! newer than the one under way; it must be in order, take the next commit, and be a plain file after the close.
//!
//! `PWAL_TEST_ROUNDS` sets the machines that stop in each world (the long form: `PWAL_TEST_ROUNDS=15000 cargo test
//! --release --lib power_tests`). Seeds begin with the time, or with `PWAL_TEST_SEED`. A run that fails is tried with fewer and fewer steps, and shown with
//! what repeats it: `PWAL_TEST_ONE=<world>:<seed> PWAL_TEST_SKIP=<steps> cargo test --lib power_tests::one_run -- --nocapture`.

mod alone;
mod life;
mod machine;
mod medium;
mod run;
mod script;
mod shrink;
mod state;

use super::register::{Options, register_api};
use super::registration::Registration;
use crate::disk::sim::HeaderTear;
use crate::sqlite::Api;
use life::Checked;
use machine::{Counts, PowerDisk};
use run::Run;
use shrink::{list, listed, shrink};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

/// The database files that a world may have; no name begins with another.
const NAMES: [&str; 3] = ["app.db", "more.db", "third.db"];
/// Processes that a machine has at most.
const PROCESSES: usize = 4;
/// Lives of a machine, and steps in each, at most.
const LIVES: u64 = 3;
const STEPS: u64 = 120;
/// Openings within openings that are copied.
const DEPTH: u32 = 3;

fn sim_path(file: usize) -> PathBuf {
    Path::new("/sim").join(NAMES[file])
}

fn process_vfs(process: usize) -> String {
    format!("power-{process}")
}

/// What stands for a process: the VFS, with an engine of its own for each database.
fn registration(process: usize) -> &'static Registration {
    static ALL: OnceLock<Vec<&'static Registration>> = OnceLock::new();
    ALL.get_or_init(|| {
        medium::register();
        let register = |process| {
            let options = Options {
                name: process_vfs(process),
                base: Some(medium::MEDIUM.to_owned()),
                make_default: false,
                disk: Some(Arc::new(PowerDisk)),
            };
            register_api(Api::linked().expect("the linked SQLite"), options).expect("registers")
        };
        (0..PROCESSES).map(register).collect()
    })[process]
}

/// What may happen in a run.
#[derive(Clone, Copy, Debug)]
struct World {
    name: &'static str,
    /// Databases: a connection has some of them, and its transactions write several.
    files: usize,
    /// Lives of stock SQLite, and switches of `journal_mode`.
    stock: bool,
    /// Operations of the disk fail.
    fails: bool,
    /// The disk is full for a while.
    fills: bool,
    tears_same_bytes: bool,
    tears_header: HeaderTear,
    /// A sector of the log has rotted, or cannot be read.
    spoils: bool,
    /// Transactions write beside each other.
    beside: bool,
    /// What has to happen in it, beside [`EVENTS`].
    events: &'static [&'static str],
}

const CALM: World = World {
    name: "calm",
    files: 1,
    stock: false,
    fails: false,
    fills: false,
    tears_same_bytes: false,
    tears_header: HeaderTear::Never,
    spoils: false,
    beside: false,
    events: &[],
};

/// What has to happen in each world.
const EVENTS: &[&str] = &[
    "commits",
    "logs left",
    "segments made",
    "segments allocated",
    "logs retired",
    "processes that attached",
    "lives of more than three processes",
    "writes to spills of many blocks",
    "cuts while opening",
    "cuts while opening after such a cut",
    "commits under way that are there",
    "commits gone that were not promised",
];

/// And in each that has one database: where there are more, rollback journals leave little for the log.
const RING_EVENTS: &[&str] = &["laps of the commit ring", "reads of the log where the commit ring had moved on"];

const WORLDS: &[World] = &[
    CALM,
    World {
        name: "modes",
        stock: true,
        events: &["stock WALs left", "hot journals", "commits with a journal"],
        ..CALM
    },
    World { name: "ecc", tears_same_bytes: true, events: &["sectors lost that were rewritten"], ..CALM },
    World { name: "garbage", tears_header: HeaderTear::Garbage, events: &["first sectors lost"], ..CALM },
    World { name: "media", spoils: true, events: &["bad sectors", "bad sectors, and all is there"], ..CALM },
    World { name: "faults", fails: true, events: &["failed operations"], ..CALM },
    World {
        name: "attached",
        files: 3,
        stock: true,
        events: &[
            "commits of several databases",
            "commits with a super-journal",
            "super-journals left",
            "commits that some databases have",
        ],
        ..CALM
    },
    World {
        name: "beside",
        beside: true,
        events: &[
            "commits beside others",
            "transactions that lost",
            "commits in the midst of another's",
            "refused statements of transactions that went on",
        ],
        ..CALM
    },
    World { name: "full", fills: true, events: &["refusals of a full disk"], ..CALM },
];

/// What a life is like.
#[derive(Clone, Copy, Debug)]
struct Character {
    files: usize,
    connections: usize,
    processes: usize,
    segment_bytes: u64,
    /// The images that a transaction keeps in memory before it spills.
    batch_bytes: u64,
    stock: bool,
    switches: bool,
    fills: bool,
    beside: bool,
    /// Nobody checkpoints, and the connection of one process does nothing for long.
    falls_behind: bool,
}

/// What came of a run: counts, events, and what it violates.
fn run_one(world: World, seed: u64, skips: Option<&BTreeSet<u64>>) -> (Counts, Vec<String>, Checked) {
    let _watchdog = support::Watchdog::new(&format!("PWAL_TEST_ONE={}:{seed}", world.name), crate::interleave::RUN_MAX);
    let mut run = Run::new(world, seed, skips);
    let played = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run.play()));
    let played = played.unwrap_or_else(|payload| {
        let text = payload.downcast_ref::<String>().cloned();
        Err(text.unwrap_or_else(|| payload.downcast_ref::<&str>().map_or("a panic", |text| text).to_owned()))
    });
    (run.counts, run.events, played)
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

fn first_seed() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a time");
    number("PWAL_TEST_SEED").unwrap_or(u64::try_from(since.as_millis()).expect("a time") % 1_000_000_000_000)
}

/// Plays runs until so many machines have stopped, and what the world is for has happened.
fn every_promise_holds(name: &str) {
    let world = *WORLDS.iter().find(|world| world.name == name).expect("a world");
    let (first, most) = (first_seed(), number("PWAL_TEST_ROUNDS").unwrap_or(300));
    println!("{name}: seeds from {first}");
    let began = std::time::Instant::now();
    let mut all = Counts::default();
    let of = |all: &Counts, what: &str| all.get(what).copied().unwrap_or(0);
    for seed in first.. {
        let (counts, events, played) = run_one(world, seed, None);
        for (what, count) in counts {
            *all.entry(what).or_default() += count;
        }
        if let Err(what) = played {
            let shrunk =
                shrink(world, seed).map(|skips| format!(" PWAL_TEST_SKIP={}", list(&skips))).unwrap_or_default();
            panic!(
                "PWAL_TEST_ONE={name}:{seed}{shrunk} cargo test --lib power_tests::one_run\n{what}\n  {}",
                events.join("\n  ")
            );
        }
        let of_rings = RING_EVENTS.iter().filter(|_| world.files == 1);
        let lacks = EVENTS.iter().chain(world.events).chain(of_rings).find(|what| of(&all, what) < 1 + most / 100);
        let cuts = of(&all, "cuts");
        if cuts >= most && lacks.is_none() {
            break;
        }
        assert!(cuts < 10 * most.max(100), "{name}: {cuts} cuts, and too seldom: {lacks:?}: {all:?}");
    }
    println!("{name}: {all:?} in {:?}", began.elapsed());
}

#[test]
fn every_promise_holds_when_the_power_goes() {
    every_promise_holds("calm");
}

#[test]
fn every_promise_holds_where_modes_change() {
    every_promise_holds("modes");
}

#[test]
fn every_promise_holds_where_rewritten_sectors_are_lost() {
    every_promise_holds("ecc");
}

#[test]
fn every_promise_holds_where_the_first_sector_is_lost() {
    every_promise_holds("garbage");
}

#[test]
fn every_promise_holds_where_sectors_of_the_log_go_bad() {
    every_promise_holds("media");
}

#[test]
fn every_promise_holds_where_the_disk_fails() {
    every_promise_holds("faults");
}

#[test]
fn every_promise_holds_of_several_databases() {
    every_promise_holds("attached");
}

#[test]
fn every_promise_holds_of_transactions_beside_each_other() {
    every_promise_holds("beside");
}

#[test]
fn every_promise_holds_where_the_disk_is_full() {
    every_promise_holds("full");
}

#[test]
fn one_run() {
    let Ok(wanted) = std::env::var("PWAL_TEST_ONE") else { return };
    let Some((name, seed)) = wanted.split_once(':') else { return };
    let Some(world) = WORLDS.iter().find(|world| world.name == name) else { return };
    let skips = std::env::var("PWAL_TEST_SKIP").ok().map(|text| listed(&text));
    let (counts, events, played) = run_one(*world, seed.parse().expect("a seed"), skips.as_ref());
    println!("{}\n{counts:?}", events.join("\n"));
    if let Err(what) = played {
        panic!("{what}");
    }
}
