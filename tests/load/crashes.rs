//! SIGKILL at random moments: what was acknowledged is there, whole, and nothing else.
//!
//! A child process writes from several threads and reports each commit after `COMMIT` returned; the
//! parent kills it, opens the database, and counts. Each kill uses the next of the combinations of
//! mode and `synchronous`. Default 20 kills; the long form is `PWAL_TEST_KILLS=200
//! cargo test --test load crashes::`. `PWAL_TEST_SEED` chooses the moments.

mod leftovers;
mod placeholder;
mod workload;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rusqlite::ffi;
use std::path::{Path, PathBuf};
use std::time::Duration;
use support::{Scratch, Watchdog, child, dump, env_number};
use workload::{Kind, Reported, Workload};

/// Of each ten kills, how many are of which kind.
const KINDS: [Kind; 10] = [
    Kind::Stays,
    Kind::ComesAndGoes,
    Kind::Stays,
    Kind::ProcessInfo,
    Kind::Stays,
    Kind::Stays,
    Kind::ComesAndGoes,
    Kind::Stays,
    Kind::ProcessInfo,
    Kind::Stays,
];

/// `parallel_wal_mode` and `synchronous`.
const COMBINATIONS: [(&str, &str); 4] =
    [("auto", "FULL"), ("auto", "NORMAL"), ("conservative", "FULL"), ("conservative", "NORMAL")];

#[test]
fn a_killed_process_loses_nothing_that_was_acknowledged() {
    let kills = env_number("PWAL_TEST_KILLS", 20);
    let first = env_number("PWAL_TEST_SEED", 1);
    let scratch = Scratch::new();
    let path = scratch.file("app.db");
    workload::create(&path);
    for seed in first..first + kills {
        // Not in step: 4 combinations, 10 kinds.
        let index = usize::try_from(seed).unwrap();
        let ((mode, synchronous), kind) = (COMBINATIONS[index / 3 % COMBINATIONS.len()], KINDS[index % KINDS.len()]);
        let _watchdog = Watchdog::new(&format!("the kill of seed {seed}"), Duration::from_secs(120));
        println!("seed {seed}: {mode}, {synchronous}, {kind:?}");
        let mut rng = StdRng::seed_from_u64(seed);
        let workload = Workload { path: &path, mode, synchronous, kind, seed };
        let reported = kill_at_random(&workload, &mut rng);
        for _ in 0..rng.random_range(0..4) {
            kill_while_opening(&path, &mut rng);
        }
        let clean = rng.random_bool(0.5);
        check(&path, &reported, clean);
        // Without a super-journal each of two databases commits by itself: what is acknowledged is in both.
        let both = if kind == Kind::ProcessInfo { reported } else { Reported::default() };
        check(&workload::second(&path), &both, clean);
    }
}

/// Lets the child write for a while, kills it, and says what it had reported.
fn kill_at_random(workload: &Workload<'_>, rng: &mut StdRng) -> Reported {
    let mut child = workload.start();
    let mut reported = Reported::default();
    // Some moments while it opens and activates the log, most under load: after so many commits, and a bit.
    let most = if workload.kind == Kind::ComesAndGoes { 40 } else { 400 };
    let commits = if rng.random_bool(0.2) { 0 } else { rng.random_range(1..most) };
    for _ in 0..commits {
        let line = child.lines.next().expect("the child ended by itself");
        reported.add(&line);
    }
    std::thread::sleep(Duration::from_micros(rng.random_range(0..4000)));
    child.kill();
    child.lines.by_ref().for_each(|line| reported.add(&line));
    reported
}

/// Kills a process somewhere between its start and the end of its clean close.
fn kill_while_opening(path: &Path, rng: &mut StdRng) {
    let mut opener = child::start("crashes::child_opens", &[("PWAL_TEST_DATABASE", path.to_str().unwrap().to_owned())]);
    opener.expect("opening");
    std::thread::sleep(Duration::from_micros(rng.random_range(0..8000)));
    opener.kill();
}

/// Opens the database and compares; then a clean close, and stock sees the same.
fn check(path: &Path, reported: &Reported, clean: bool) {
    let connection = support::open(path);
    let found = workload::found(&connection);
    reported.compare(&found);
    support::assert_integrity(&connection);
    let before = dump::dump(&connection);
    if clean {
        support::close(connection);
        support::assert_plain(path);
        let stock = support::open_stock(path);
        assert_eq!(dump::first_difference(&before, &dump::dump(&stock)), None, "pwal against stock");
        support::close(stock);
    }
    let connection = support::open(path);
    workload::clear(&connection);
    support::close(connection);
}

/// A role of its own process; nothing in a normal run.
#[test]
fn child_writes() {
    if child::role("crashes::child_writes") {
        workload::run();
    }
}

/// A role of its own process; nothing in a normal run.
#[test]
fn child_opens() {
    if child::role("crashes::child_opens") {
        let path = child::setting("PWAL_TEST_DATABASE");
        child::report("opening");
        let connection = support::open(path.as_ref());
        support::number(&connection, "SELECT count(*) FROM part");
        support::close(connection);
        child::report("closed");
    }
}

#[test]
fn a_copy_without_its_log_is_refused_by_name() {
    if !support::on_pwal() {
        return;
    }
    let (scratch, path, _) = killed();
    let copy = scratch.file("copy.db");
    std::fs::copy(&path, &copy).unwrap();
    let connection = support::open(&copy);
    let code = support::code_of(&connection, "SELECT count(*) FROM part");
    assert_eq!(code & 0xff, ffi::SQLITE_CANTOPEN, "{code}");
    drop(connection);
    assert_eq!(std::fs::read(&copy).unwrap()[18..20], [0x70, 0x70], "nothing written");
}

#[test]
fn a_database_and_its_log_can_be_moved_together() {
    if !support::on_pwal() {
        return;
    }
    let (scratch, path, reported) = killed();
    let moved = scratch.file("moved.db");
    std::fs::rename(&path, &moved).unwrap();
    std::fs::rename(scratch.file("app.db-pwal"), scratch.file("moved.db-pwal")).unwrap();
    check(&moved, &reported, true);
}

/// A database whose process was killed after 50 commits, and what it had reported.
fn killed() -> (Scratch, PathBuf, Reported) {
    let scratch = Scratch::new();
    let path = scratch.file("app.db");
    workload::create(&path);
    let mut child = Workload { path: &path, mode: "auto", synchronous: "FULL", kind: Kind::Stays, seed: 7 }.start();
    let mut reported = Reported::default();
    for _ in 0..50 {
        reported.add(&child.lines.next().expect("the child ended by itself"));
    }
    child.kill();
    child.lines.by_ref().for_each(|line| reported.add(&line));
    (scratch, path, reported)
}
