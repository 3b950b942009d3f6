//! A process dies at each step at which it holds something of what all share, one by one.
//!
//! The steps are the fault points of `src/os/fault_point.rs` (builds with debug assertions only). For each, under FULL
//! and NORMAL: a process dies there alone, and the log that it leaves is valid; it dies there beside two that
//! work; and it stops there, so that the others run into what it holds, and dies then. Who is left goes on at
//! once, and nothing that was acknowledged is missing.
//!
//! `PWAL_TEST_SEED` and `PWAL_TEST_ROUNDS` (default 1) choose what the processes do; in each round they die at another pass.
#![cfg(debug_assertions)]

use pwal::internal::disk::Directory;
use pwal::internal::shared::ControlMapping;
use rustix::process::Signal;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};
use support::child::Role;
use support::processes::agent::{is_stopped, wait_for};
use support::processes::board::Board;
use support::processes::worker::Work;
use support::processes::{Progress, ledger, log, watch_progress};
use support::{Scratch, env_number};

/// Processes that are there before the victim, and stay.
const SURVIVORS: usize = 2;
/// The victim's place, and that of one who comes while it is stopped.
const VICTIM: usize = SURVIVORS;
const LATE: usize = SURVIVORS + 1;
const PLACES: usize = SURVIVORS + 2;

/// A step that every working process passes again and again.
fn while_working(point: &str, others_go_on: bool) {
    while_working_in("auto", &["FULL", "NORMAL"], point, others_go_on);
}

fn while_working_in(mode: &'static str, synchronous: &[&'static str], point: &str, others_go_on: bool) {
    for round in 0..env_number("PWAL_TEST_ROUNDS", 1) {
        for synchronous in synchronous {
            let pass = 1 + 3 * round;
            dies_alone(mode, point, pass, synchronous);
            let mut scene = Scene { mode, ..Scene::new(point, synchronous) };
            scene.start_survivors();
            scene.victim_dies(pass);
            scene.all_go_on();
            scene.victim_stops(pass + 1);
            scene.others_work_while_it_is_stopped(others_go_on);
            scene.kill_victim();
            scene.all_go_on();
            scene.finish();
        }
    }
}

/// A step at the beginning or the end of a life, which holds INIT: who comes then waits.
fn while_coming_or_leaving(point: &str, prepare: fn(&mut Scene)) {
    for synchronous in ["FULL", "NORMAL"] {
        let mut scene = Scene::new(point, synchronous);
        for _ in 0..2 {
            prepare(&mut scene);
            scene.victim_dies(1);
        }
        prepare(&mut scene);
        scene.victim_stops(1);
        let late = scene.start(LATE);
        std::thread::sleep(Duration::from_millis(30));
        assert!(!scene.is_ready(LATE), "{point}: somebody came in while INIT was held");
        scene.kill_victim();
        scene.processes.push(late);
        scene.all_go_on();
        scene.finish();

        // And where the first goes on, who waited comes behind it.
        let mut scene = Scene::new(point, synchronous);
        prepare(&mut scene);
        scene.victim_stops(1);
        let late = scene.start(LATE);
        std::thread::sleep(Duration::from_millis(30));
        assert!(!scene.is_ready(LATE), "{point}: somebody came in while INIT was held");
        scene.victim_goes_on();
        scene.wait_for("who has waited", || scene.is_ready(LATE));
        scene.processes.push(late);
        scene.finish();
    }
}

/// The victim is the only process.
fn dies_alone(mode: &'static str, point: &str, pass: u64, synchronous: &'static str) {
    let mut scene = Scene { mode, ..Scene::new(point, synchronous) };
    scene.victim_dies(pass);
    log::assert_sound(&scene.path);
    let connection = support::open(&scene.path);
    let seen = ledger::look(&connection, PLACES).expect("a look")[VICTIM];
    let told = scene.board.line(VICTIM).acknowledged.load(SeqCst);
    assert!(seen == told || seen == told + 1, "{point}: {told} were acknowledged, {seen} are there");
    support::assert_integrity(&connection);
    support::close(connection);
    scene.finish();
}

struct Scene {
    point: String,
    mode: &'static str,
    synchronous: &'static str,
    scratch: Scratch,
    path: PathBuf,
    board: Board,
    processes: Vec<Role>,
    victim: Option<Role>,
    lives: u64,
    _progress: Progress,
}

impl Scene {
    fn new(point: &str, synchronous: &'static str) -> Scene {
        let scratch = Scratch::new();
        let path = scratch.file("app.db");
        ledger::create(&path);
        let board = Board::create(&scratch.file("board"));
        let _progress = watch_progress(&board, PLACES);
        Scene {
            point: point.to_owned(),
            mode: "auto",
            synchronous,
            scratch,
            path,
            board,
            processes: Vec::new(),
            victim: None,
            lives: 0,
            _progress,
        }
    }

    fn start_with(&mut self, place: usize, life: u64, settings: &[(&str, String)]) -> Role {
        self.lives += 1;
        self.board.line(place).clear();
        Work {
            database: &self.path,
            board: self.board.path(),
            place,
            places: PLACES,
            threads: 1,
            mode: self.mode,
            synchronous: &[self.synchronous],
            // Whoever asks for a checkpoint waits for the one who is at it.
            checkpoints: false,
            seed: env_number("PWAL_TEST_SEED", 1) * 1000 + self.lives,
            life,
            limit: Duration::from_secs(120),
        }
        .start_with(settings)
    }

    fn start(&mut self, place: usize) -> Role {
        self.start_with(place, u64::MAX, &[])
    }

    /// [`wait_for`]; a process that has failed is not waited for.
    #[track_caller]
    fn wait_for(&self, what: &str, mut holds: impl FnMut() -> bool) {
        let point = &self.point;
        wait_for(&format!("{point}, {}: {what}", self.synchronous), || {
            assert!(!self.board.failed(), "{point}: a process has failed: see above");
            holds()
        });
    }

    fn is_ready(&self, place: usize) -> bool {
        self.board.line(place).ready.load(SeqCst) != 0
    }

    fn start_survivors(&mut self) {
        for place in 0..SURVIVORS {
            let process = self.start(place);
            self.processes.push(process);
        }
        self.wait_for("the survivors", || (0..SURVIVORS).all(|place| self.is_ready(place)));
    }

    /// Starts the victim; it passes the point for the n-th time.
    fn start_victim(&mut self, variable: &str, pass: u64) -> Role {
        let setting = format!("{}:{pass}", self.point);
        // At the end of a life only once: then its life is short.
        let life = if self.point == "retiring" { 20 } else { u64::MAX };
        self.start_with(VICTIM, life, &[(variable, setting)])
    }

    /// The victim's successor counts first what the victim was told.
    fn victim_dies(&mut self, pass: u64) {
        let mut victim = self.start_victim("PWAL_TEST_DIE_AT", pass);
        self.wait_for(&format!("a process to die at pass {pass}"), || victim.try_wait().is_some());
        let status = victim.wait();
        assert_eq!(status.signal(), Some(libc::SIGKILL), "{}: {status}: it was never there", self.point);
        self.board.line(VICTIM).clear();
        assert!(!self.board.failed(), "{}: a process has failed: see above", self.point);
    }

    fn victim_stops(&mut self, pass: u64) {
        let mut victim = self.start_victim("PWAL_TEST_STOP_AT", pass);
        self.wait_for(&format!("a process to stop at pass {pass}"), || {
            assert!(victim.try_wait().is_none(), "{}: it was never there", self.point);
            is_stopped(victim.pid())
        });
        self.victim = Some(victim);
    }

    /// What the others have done until now: commits, reads.
    fn done(&self, place: usize) -> u64 {
        let line = self.board.line(place);
        line.acknowledged.load(SeqCst) + line.reads.load(SeqCst)
    }

    fn others_work_while_it_is_stopped(&mut self, must: bool) {
        let before: Vec<u64> = (0..SURVIVORS).map(|place| self.done(place)).collect();
        let must = must && !self.victim_keeps_others_waiting();
        let went_on = || (0..SURVIVORS).all(|place| self.done(place) > before[place] + 3);
        if must {
            self.wait_for("the others to work while one is stopped", went_on);
        } else {
            // They run into what it holds: a time in which they would have gone on otherwise.
            let until = Instant::now() + Duration::from_millis(50);
            while Instant::now() < until && !went_on() {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }

    /// All its threads were stopped: the one that writes may have been anywhere. LEADER is taken from it.
    fn victim_keeps_others_waiting(&self) -> bool {
        let directory = Directory::open(&self.path.with_file_name("app.db-pwal")).expect("the log");
        let observed = ControlMapping::open_read_only(&directory).expect("the words");
        let control = observed.control();
        let pid = self.victim.as_ref().expect("a victim").pid();
        let Some(victim) = control.processes().find(|process| i64::from(process.pid) == i64::from(pid)) else {
            return false;
        };
        let [write, append, _leader, _checkpoint] = control.holders();
        [write, append].contains(&Some(victim.owner))
    }

    fn victim_goes_on(&mut self) {
        let victim = self.victim.take().expect("a victim");
        victim.signal(Signal::CONT);
        self.processes.push(victim);
    }

    fn kill_victim(&mut self) {
        self.victim.take().expect("a victim").kill();
        self.board.line(VICTIM).clear();
    }

    /// Everybody who lives goes on, and one more takes the victim's place.
    fn all_go_on(&mut self) {
        let places = if self.processes.len() == SURVIVORS { 0..SURVIVORS } else { LATE..LATE + self.processes.len() };
        let before: Vec<u64> = places.clone().map(|place| self.done(place)).collect();
        let commits = self.commits();
        let start = Instant::now();
        self.wait_for("a commit behind the death", || self.commits() > commits);
        let first = start.elapsed();
        let each = |index: usize, place| self.done(place) > before[index] + 5;
        self.wait_for("everybody to go on", || places.clone().enumerate().all(|(index, place)| each(index, place)));
        println!("{}, {}: the next commit after {first:?}", self.point, self.synchronous);
        let mut next = self.start_with(VICTIM, 20, &[]);
        assert!(next.wait().success(), "{}: see above", self.point);
        assert!(!self.board.failed(), "{}: a process has failed: see above", self.point);
    }

    fn commits(&self) -> u64 {
        self.board.sum(|line| &line.acknowledged)
    }

    /// All end cleanly: one plain file, and in it what was acknowledged.
    fn finish(mut self) {
        self.board.stop();
        for process in &mut self.processes {
            assert!(process.wait().success(), "{}: see above", self.point);
        }
        support::assert_plain(&self.path);
        let stock = support::open_stock(&self.path);
        let seen = ledger::look(&stock, PLACES).expect("a look");
        for (place, seen) in seen.into_iter().enumerate() {
            let told = self.board.line(place).acknowledged.load(SeqCst);
            // The commit that was under way counts if its process had no successor.
            assert!(seen == told || (place == VICTIM && seen == told + 1), "{}: {told}, {seen}", self.point);
        }
        support::close(stock);
        drop(self.scratch);
    }
}

#[test]
fn dies_reading() {
    while_working("reading", true);
}

#[test]
fn dies_staging() {
    while_working("staging", false);
}

#[test]
fn dies_in_publish_before_the_store() {
    while_working("publish_before_store", false);
}

#[test]
fn dies_after_publish() {
    while_working("after_publish", false);
}

#[test]
fn dies_leading_before_the_cut() {
    while_working("leading_before_cut", false);
}

#[test]
fn dies_leading_with_the_certificate_unsynced() {
    while_working("leading_uncertified", true);
}

#[test]
fn dies_leading_with_everything_synced() {
    while_working("sealing", true);
}

#[test]
fn dies_with_a_synced_batch_before_its_last_word() {
    while_working_in("conservative", &["FULL"], "written_early", false);
}

#[test]
fn dies_checkpointing() {
    while_working("checkpointing", true);
}

/// Beside others: `stopped.rs`. A log that has grown makes no more segments.
#[test]
fn dies_making_a_segment() {
    for synchronous in ["FULL", "NORMAL"] {
        dies_alone("auto", "making", 1, synchronous);
    }
}

#[test]
fn dies_rotating() {
    while_working("rotating", false);
}

#[test]
fn dies_attaching_beside_others() {
    for synchronous in ["FULL", "NORMAL"] {
        let mut scene = Scene::new("attaching", synchronous);
        scene.start_survivors();
        scene.victim_dies(1);
        scene.all_go_on();
        scene.victim_stops(1);
        scene.others_work_while_it_is_stopped(true);
        scene.kill_victim();
        scene.all_go_on();
        scene.finish();
    }
}

#[test]
fn dies_attaching_alone() {
    while_coming_or_leaving("attaching", |_| ());
}

#[test]
fn dies_activating() {
    while_coming_or_leaving("activating", |_| ());
}

/// A log is there: its only process was killed at work.
fn crash(scene: &mut Scene) {
    let mut crashes = scene.start(VICTIM);
    let before = scene.commits();
    scene.wait_for("some commits", || scene.commits() > before + 20);
    crashes.kill();
    scene.board.line(VICTIM).clear();
}

#[test]
fn dies_recovering() {
    while_coming_or_leaving("recovering", crash);
}

#[test]
fn dies_retiring() {
    while_coming_or_leaving("retiring", |_| ());
}
