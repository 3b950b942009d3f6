//! The kernel is asked: what pwal really writes, syncs, renames and removes, below all of its own code, and in which order.
//!
//! Processes live a script (`kernel_syncs/script.rs`) on the real file system and record every call that changes the database's
//! directory (`kernel_syncs/recorder.rs`). What was recorded is played behind every call as if the power had gone there
//! (`kernel_syncs/cuts.rs`): of what no sync had made durable some is lost, and what is left is opened.
//!
//! The short form plays a part of the cuts, chosen by a seed that is printed; `PWAL_TEST_ROUNDS=<n>` plays n times as many, 0 all
//! of them, and `PWAL_TEST_SEED` chooses.
#![cfg(target_os = "linux")]

mod barriers;
mod cuts;
mod history;
mod medium;
mod recorder;
mod records;
mod script;
mod trace;

use medium::{Left, Medium, tree_of};
use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use support::{Scratch, Watchdog, child, env_number};
use trace::Call;

/// What was there before, and what was done then.
struct Record {
    before: Medium,
    calls: Vec<(u32, Call)>,
}

/// A directory that is recorded, and the file of records.
struct Place {
    _scratch: Scratch,
    root: PathBuf,
    records: PathBuf,
    before: Medium,
}

impl Place {
    fn new() -> Place {
        let scratch = Scratch::new();
        let (root, records) = (scratch.file("root"), scratch.file("records"));
        std::fs::create_dir(&root).expect("a directory");
        std::fs::write(&records, "").expect("a file of records");
        Place { before: Medium::of(&root), _scratch: scratch, root, records }
    }

    /// One life after the other. `life@point` dies at that point (`src/os/fault_point.rs`).
    fn live(&self, lives: &[&str]) {
        for life in lives {
            self.end(life, &mut self.start(life));
            self.assert_complete();
        }
    }

    fn start(&self, life: &str) -> child::Role {
        let text = |path: &Path| path.to_str().expect("a path").to_owned();
        let is_begin = |call: &Call| matches!(call, Call::Mark(text) if text.starts_with("begin"));
        let begun = trace::read(&self.records).iter().filter(|(_, call)| is_begin(call)).count();
        let (name, point) = life.split_once('@').map_or((life, None), |(name, point)| (name, Some(point)));
        let mut settings = vec![
            (script::ROOT, text(&self.root)),
            (script::RECORDS, text(&self.records)),
            (script::FIRST, (begun + 1).to_string()),
            (script::LIFE, name.to_owned()),
        ];
        settings.extend(point.map(|point| ("PWAL_TEST_DIE_AT", point.to_owned())));
        child::start("kernel_syncs::child_lives", &settings)
    }

    fn end(&self, life: &str, process: &mut child::Role) {
        let end = process.wait();
        assert!(end.success() || end.signal() == Some(libc::SIGKILL), "{life}: {end:?}");
    }

    /// What is there now was always there.
    fn start_over(&mut self) {
        self.before = Medium::of(&self.root);
        std::fs::write(&self.records, "").expect("a file of records");
    }

    /// Nothing was done to the directory that is not recorded.
    fn assert_complete(&self) {
        let mut medium = self.before.clone();
        trace::read(&self.records).iter().for_each(|(_, call)| medium.apply(call));
        let (recorded, real) = (medium.tree(&|_| Left::All), tree_of(&self.root));
        let names = |tree: &medium::Tree| tree.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(&recorded), names(&real));
        for (path, content) in &recorded {
            assert!(real[path] == *content, "{} is not what was recorded", path.display());
        }
    }

    fn record(&self) -> Record {
        Record { before: self.before.clone(), calls: trace::read(&self.records) }
    }
}

/// Holds a record against the golden list, in which these rules must count.
fn hold(record: &Record, rules: &[&str]) -> BTreeMap<&'static str, usize> {
    if std::env::var_os("PWAL_TEST_SHOW").is_some() {
        record.calls.iter().enumerate().for_each(|(at, (pid, call))| println!("{at} {pid} {call}"));
    }
    let met = barriers::check(&record.before, &record.calls);
    for rule in rules {
        assert!(met.contains_key(rule), "nothing asked for rule {rule}: {met:?}");
    }
    println!("{} calls, barriers: {met:?}", record.calls.len());
    met
}

/// Cuts the power: so often in the short form.
fn cut(record: &Record, short: usize) {
    let rounds = usize::try_from(env_number("PWAL_TEST_ROUNDS", 1)).expect("a number");
    let seed = env_number("PWAL_TEST_SEED", u64::from(std::process::id()));
    println!("seed {seed}: {}", cuts::play(&record.before, &record.calls, seed, short * rounds));
}

fn watchdog() -> Watchdog {
    let long = std::env::var_os("PWAL_TEST_ROUNDS").is_some();
    Watchdog::new("recorded lives and power cuts", Duration::from_secs(if long { 36_000 } else { 300 }))
}

/// Plays these lives, in which these rules must count, and cuts the power.
fn play(lives: &[&str], rules: &[&str], short: usize) {
    if !support::on_pwal() {
        return;
    }
    let _watchdog = watchdog();
    let place = Place::new();
    println!("{lives:?}");
    place.live(lives);
    let record = place.record();
    hold(&record, rules);
    cut(&record, short);
}

#[test]
fn commits_in_every_mode() {
    play(&["modes"], &["R2", "R4", "R6 space", "R6 name", "cut", "D", "B", "recycle", "spill", "spill end"], 100);
}

#[test]
fn segments_that_are_allocated() {
    play(&["seldom synced"], &["R2", "R6 allocated", "R6 name"], 100);
}

#[test]
fn killed_and_recovered() {
    let rules = [
        "A3",
        "recovery files",
        "recovery names",
        "recovery parent",
        "recovery T",
        "Z1",
        "Z2",
        "Z3",
        "Z4",
        "spill end",
    ];
    play(&["created", "written and killed", "opened", "rested", "opened", "idle"], &rules, 200);
}

#[test]
fn beside_stock_and_its_journals() {
    let lives = [
        "created",
        "rollback journal",
        "opened",
        "persistent journal",
        "opened",
        "journal begun",
        "opened",
        "stock's log",
        "opened",
        "stock's journal",
        "opened",
        "stock's empty log",
        "opened",
    ];
    play(&lives, &["A0 file", "A0 journal", "A0 -wal", "A1 segment", "A1 names", "A1 parent", "A2"], 200);
}

#[test]
fn alone_and_back() {
    play(&["created", "alone", "opened"], &["alone", "A0 file"], 100);
}

#[test]
fn failures_are_answered() {
    play(&["created", "failed sync", "opened", "failed write", "opened"], &["R5"], 200);
}

/// The points at which a process that is alone dies.
#[cfg(debug_assertions)]
const POINTS: [&str; 16] = [
    "publish_before_store",
    "after_publish",
    "leading_before_cut",
    "leading_uncertified",
    "sealing",
    "written_early",
    "checkpointing",
    "deleting",
    "truncated",
    "making",
    "rotating",
    "activating",
    "activating_again",
    "resting",
    "retiring",
    "recovering",
];

#[cfg(debug_assertions)]
#[test]
fn dead_at_some_point() {
    use rand::{SeedableRng, rngs::StdRng, seq::IndexedRandom};
    let count = if std::env::var_os("PWAL_TEST_ROUNDS").is_some() { POINTS.len() } else { 3 };
    let seed = env_number("PWAL_TEST_SEED", u64::from(std::process::id()));
    let points: Vec<&&str> = POINTS.choose_multiple(&mut StdRng::seed_from_u64(seed), count).collect();
    for point in points {
        let dies = format!("everything@{point}");
        // A recovery needs what another one left.
        let mut lives = vec!["created", "everything@sealing", &dies, "opened"];
        if *point != "recovering" {
            lives.remove(1);
        }
        play(&lives, &[], 60);
    }
}

/// Somebody has moved the log directory: no other name beside the database may be in doubt when a log is recovered. Without power
/// cuts, since one that takes half of that away leaves a database without its log.
#[test]
fn recovered_where_it_was_moved_to() {
    if !support::on_pwal() {
        return;
    }
    let _watchdog = watchdog();
    let place = Place::new();
    place.live(&["created", "written and killed", "log moved", "opened"]);
    hold(&place.record(), &["recovery parent"]);
}

/// A segment is being made ahead of need: of all that a process leaves whose name no commit waited for.
#[cfg(debug_assertions)]
#[test]
fn dead_when_it_makes_a_segment() {
    play(&["created", "everything@making", "opened"], &["recovery names", "recovery T"], 60);
}

/// One process of two dies, and the other goes on with what it left.
#[cfg(debug_assertions)]
#[test]
fn dead_beside_another() {
    if !support::on_pwal() {
        return;
    }
    let _watchdog = watchdog();
    let mut begun = 0;
    // 80 pages fit no usual segment: the one that was begun is given up.
    for (dies, pages) in
        [("makes a segment", 12), ("dies beside@rotating", 80), ("dies beside@leading_uncertified", 12)]
    {
        let place = Place::new();
        println!("{dies}");
        place.live(&["created"]);
        let mut survivor = place.start("survives");
        survivor.expect("ready");
        place.end(dies, &mut place.start(dies));
        survivor.send(&pages.to_string());
        place.end("survives", &mut survivor);
        place.assert_complete();
        let record = place.record();
        begun += hold(&record, &["R6 space", "R6 name"]).get("begun").copied().unwrap_or(0);
        cut(&record, 40);
    }
    assert!(begun > 0, "no segment was begun twice");
}

/// The first sector of the database file was lost: it comes back from the log, durably, before the log goes.
#[test]
fn the_first_sector_is_restored() {
    if !support::on_pwal() {
        return;
    }
    let _watchdog = watchdog();
    let mut place = Place::new();
    place.live(&["created", "checkpointed"]);
    let path = place.root.join(script::DATABASE);
    let mut bytes = std::fs::read(&path).expect("the database file");
    bytes[..512].fill(0xa5);
    std::fs::write(&path, bytes).expect("damage it");
    place.start_over();
    place.live(&["opened"]);
    hold(&place.record(), &["Z1"]);
}

/// A salvage overwrites nothing that it has not kept.
#[test]
fn salvaged() {
    if !support::on_pwal() {
        return;
    }
    let _watchdog = watchdog();
    let mut place = Place::new();
    place.live(&["created", "written and killed"]);
    damage(&place.root);
    place.start_over();
    place.live(&["salvaged", "opened"]);
    hold(&place.record(), &["undo whole", "undo", "moved"]);
}

/// One byte of a commit that a certificate calls durable.
fn damage(root: &Path) {
    let directory = std::fs::read_dir(root.join(format!("{}-pwal", script::DATABASE))).expect("the log directory");
    let files: Vec<PathBuf> = directory.map(|entry| entry.expect("an entry").path()).collect();
    let (mut durable, mut batches) = (0, BTreeMap::new());
    for (number, file) in files.iter().enumerate() {
        let name = file.file_name().and_then(|name| name.to_str()).expect("a name");
        let Some(log_id) = records::Role::of(usize::MAX, name).segment() else { continue };
        let bytes = std::fs::read(file).expect("a segment");
        for record in records::read(log_id, number, records::FOUND, 0, &bytes) {
            match record.kind {
                records::Kind::Certificate { durable: d, .. } => durable = durable.max(d),
                records::Kind::Batch { sequence, .. } => drop(batches.insert(sequence, (file, record.offset))),
                records::Kind::Header { .. } => {}
            }
        }
    }
    let (file, offset) = batches[&durable];
    let mut bytes = std::fs::read(file).expect("a segment");
    bytes[usize::try_from(offset).expect("an offset") + 300] ^= 1;
    std::fs::write(file, bytes).expect("damage it");
}

/// Every rule of the golden list is asked for by a test here.
#[test]
fn the_list_is_whole() {
    let text = include_str!("kernel_syncs.rs");
    for (rule, _) in barriers::RULES {
        assert!(text.contains(&format!("\"{rule}\"")), "no test demands rule {rule}");
    }
}

/// A role of its own process; nothing in a normal run.
#[test]
fn child_lives() {
    if child::role("kernel_syncs::child_lives") {
        script::play();
    }
}
