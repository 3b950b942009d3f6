//! Several processes on one simulated disk, with one `control`: whatever comes between, and whoever dies where, what was
//! promised holds.
//!
//! Each process is a real one as far as the engine can tell: a mapping of its own of the same `control`, byte locks of its
//! own in the same `lock`, handles of its own on the simulated disk; it claims or joins, commits, reads, leads,
//! checkpoints and leaves by the code that users run. Their threads run one at a time ([`turns`]); at each operation of the
//! disk, each fault point, each wait and each step on a shared word another one may go on, a process may be killed (its
//! locks are free, its words stay), or the power may go.
//!
//! `PWAL_TEST_ROUNDS` sets the runs in each world (the long form: `PWAL_TEST_ROUNDS=20000 cargo test --release --lib
//! sim_tests::processes`), `PWAL_TEST_SEED` the first; one run is shown with
//! `PWAL_TEST_ONE=<world>:<seed> cargo test --lib sim_tests::processes::one_run -- --nocapture`.

mod parties;
mod process;
mod stopped;
mod takeover;
mod turns;
mod unacknowledged;

use super::scene::Habits;
use super::world::{BLOCKS, CALM, Conditions, NAME, World};
use super::{check_met, real_directory, rounds};
use crate::disk::sim::HeaderTear;
use crate::sync::Mutex;
use process::{Character, Process, live};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use turns::{Course, Turns};

/// Steps that a run may take until everybody is gone whom nobody disturbs any more.
const CALM_STEPS: u64 = 1_000_000;
/// Steps of a run that is disturbed.
const STORM_STEPS: [u64; 4] = [500, 2000, 5000, 20_000];
/// Where a process that is stopped leads.
const LEADING: &[&str] = &["leading_before_cut", "leading_uncertified", "a sync", "sealing", "written again"];
/// All of them: something happens from outside at once.
const ALWAYS: u64 = 10_000;
const PROCESSES_MAX: usize = 3;
const PROCESSES_MAX_LARGE: usize = 6;

const WORLDS: &[Conditions] = &[
    Conditions { name: "processes", blocks: BLOCKS, ..CALM },
    Conditions { name: "processes-faults", faults: true, ..CALM },
    Conditions { name: "processes-torn", tears_header: HeaderTear::Mixed, met_percent: 20, ..CALM },
    Conditions { name: "processes-lazy", lazy: true, ..CALM },
    Conditions { name: "processes-ecc", tears_same_bytes: true, met_percent: 25, ..CALM },
    Conditions { name: "processes-stopped", stops: true, tears_same_bytes: true, met_percent: 33, ..CALM },
    Conditions { name: "processes-stopped-faults", stops: true, faults: true, met_percent: 33, ..CALM },
    Conditions { name: "processes-large", large: true, met_percent: 15, ..CALM },
    Conditions { name: "processes-garbage", tears_header: HeaderTear::Garbage, met_percent: 25, ..CALM },
];

pub struct Run {
    pub turns: Arc<Turns>,
    pub world: Arc<Mutex<World>>,
    /// Whose database handle holds EXCLUSIVE.
    pub exclusive: Arc<Mutex<Option<u64>>>,
    processes: Mutex<Vec<Arc<Process>>>,
    exits: Mutex<Vec<u64>>,
    is_calm: AtomicBool,
}

/// What happens from outside.
#[derive(Clone, Copy, Debug)]
struct Weather {
    kills: u64,
    power_cuts: u64,
    comers: u64,
    faults: u64,
    stops: u64,
}

/// Processes of all runs, so that what is registered for one is its own.
static PROCESSES: AtomicU64 = AtomicU64::new(0);

impl Run {
    fn new(seed: u64, conditions: Conditions, real: &Path) -> Arc<Run> {
        let _nothing_there = std::fs::remove_dir_all(real.join(format!("{NAME}-pwal")));
        let mut world = World::new(seed, conditions, real);
        let course = Course {
            switches: world.dice.pick(&[3, 10, 30]),
            hot: world.dice.pick(&[10, 40, 80]),
            events: 0,
            splits: world.dice.pick(&[0, 20]),
            sniped: None,
            power_goes_at: None,
            has_small_rings: seed % 2 == 1,
        };
        let turns = Turns::new(world.dice.next(), course);
        Arc::new(Run {
            turns,
            world: Arc::new(Mutex::new(world)),
            exclusive: Arc::default(),
            processes: Mutex::default(),
            exits: Mutex::default(),
            is_calm: AtomicBool::new(false),
        })
    }

    fn processes_max(&self) -> usize {
        if self.world.lock().conditions.large { PROCESSES_MAX_LARGE } else { PROCESSES_MAX }
    }

    pub fn is_calm(&self) -> bool {
        self.is_calm.load(SeqCst)
    }

    /// Whether somebody has the database open.
    pub fn is_open(&self) -> bool {
        self.living().iter().any(|process| process.engine.lock().is_some())
    }

    /// The process of this thread is over, with all its threads.
    pub fn exit(&self, process: u64) -> ! {
        self.exits.lock().push(process);
        loop {
            self.turns.change(|course| course.events = ALWAYS);
            crate::interleave::sleep(std::time::Duration::from_secs(1));
        }
    }

    fn living(&self) -> Vec<Arc<Process>> {
        self.processes.lock().iter().filter(|process| !*process.is_dead.lock()).cloned().collect()
    }

    fn spawn(self: &Arc<Run>, steps: Option<u64>) {
        let character = {
            let mut world = self.world.lock();
            let mut habits = Habits::any(&mut world.dice);
            if world.conditions.lazy {
                habits = Habits { full_sync: 0, early: 0, reads: 10, checkpoints: 2, checkpoint_kinds: 0, ..habits };
            }
            if world.conditions.large {
                habits = Habits { lane_pages: 1, pages_of_commit: 100, reads: 40, checkpoints: 25, ..habits };
            }
            let dice = &mut world.dice;
            if dice.percent(20) {
                // A reader, of what others do.
                habits.reads = 90;
            }
            Character {
                habits,
                threads: 1 + dice.below(2),
                connections: 1 + dice.below(2),
                steps: steps.unwrap_or(dice.pick(&[5, 30, 100, 400])),
                exits: dice.percent(15),
            }
        };
        let id = PROCESSES.fetch_add(1, SeqCst);
        let mut processes = self.processes.lock();
        let number = processes.len();
        let process = Arc::new(Process { id, number, engine: Mutex::default(), is_dead: Mutex::default() });
        processes.push(Arc::clone(&process));
        drop(processes);
        let run = Arc::clone(self);
        self.turns.spawn(id, &format!("p{id}.1"), move || live(&run, &process, character));
    }

    fn catch_up(&self) {
        let mut world = self.world.lock();
        for process in self.living() {
            if let Some(engine) = process.engine.lock().as_ref() {
                world.catch_up(engine);
            }
        }
    }

    /// Their words stay, their locks are free.
    fn kill(&self, killed: &[u64]) {
        self.catch_up();
        for id in killed {
            crate::shared::cut_off(*id);
            let mut exclusive = self.exclusive.lock();
            if *exclusive == Some(*id) {
                *exclusive = None;
            }
        }
        self.turns.kill(|process| killed.contains(&process));
        for process in self.living().iter().filter(|process| killed.contains(&process.id)) {
            *process.is_dead.lock() = true;
            process.engine.lock().take();
        }
    }

    fn kill_all(&self) {
        let all: Vec<u64> = self.living().iter().map(|process| process.id).collect();
        self.kill(&all);
    }

    fn happens(self: &Arc<Run>, weather: Weather) {
        let Weather { kills, power_cuts, comers, faults, stops } = weather;
        let living = self.living();
        let last = living.iter().find(|process| Some(process.id) == self.turns.last());
        if self.turns.take_sniped()
            && let Some(last) = last
            && self.world.lock().dice.percent(80)
        {
            if stops > 0 && self.world.lock().dice.percent(70) {
                return self.stop(last);
            }
            self.world.lock().say(format!("SNIPED p{}", last.number));
            return self.kill(&[last.id]);
        }
        if self.turns.take_power_goes() {
            self.kill_all();
            return self.world.lock().power_cut();
        }
        let roll = self.world.lock().dice.below(kills + power_cuts + comers + faults + stops);
        if roll < kills && !living.is_empty() {
            let any = &living[self.world.lock().dice.index(living.len())];
            // Where it stands may be a place that was come to for this.
            let killed = last.filter(|_| self.world.lock().dice.percent(60)).unwrap_or(any);
            self.world.lock().say(format!("KILL p{}", killed.number));
            self.kill(&[killed.id]);
        } else if roll < kills + power_cuts {
            self.kill_all();
            self.world.lock().power_cut();
        } else if roll < kills + power_cuts + comers {
            if living.len() < self.processes_max() {
                self.spawn(None);
            }
        } else if roll < kills + power_cuts + comers + stops {
            if let Some(last) = last {
                self.stop(last);
            }
        } else if faults > 0 {
            let mut world = self.world.lock();
            if world.dice.percent(50) { world.plan_failed_sync() } else { world.plan_fault() }
        }
    }

    /// As by SIGSTOP, wherever it is; it goes on later.
    fn stop(&self, process: &Process) {
        let mut world = self.world.lock();
        let turns = world.dice.pick(&[50, 300, 2000]);
        world.say(format!("STOP p{} for {turns} turns", process.number));
        self.turns.stop(process.id, turns);
    }

    /// Exits, panics, hangs.
    fn look(&self) -> bool {
        let exits = std::mem::take(&mut *self.exits.lock());
        if !exits.is_empty() {
            self.kill(&exits);
        }
        let mut world = self.world.lock();
        for panic in self.turns.panics() {
            world.violate(format!("a panic: {panic}"));
        }
        world.violation.is_none()
    }

    /// Those that have ended by themselves.
    fn bury(&self) {
        for process in self.living() {
            if self.turns.is_over(process.id) {
                *process.is_dead.lock() = true;
                process.engine.lock().take();
            }
        }
    }

    fn storm(self: &Arc<Run>) {
        let (weather, steps, events, sniped, power_goes_at) = {
            let mut world = self.world.lock();
            let Conditions { tears_same_bytes, stops: has_stops, large: is_large, .. } = world.conditions;
            let tears_headers = world.conditions.tears_header != HeaderTear::Never;
            let faults = if world.conditions.faults { 30 } else { 0 };
            let stops = if world.conditions.stops { 60 } else { 0 };
            let dice = &mut world.dice;
            let (kills, power_cuts, comers) = (dice.pick(&[0, 10, 60]), dice.pick(&[0, 5, 40]), dice.pick(&[20, 60]));
            let mut sniped = dice.percent(60).then(|| dice.pick(turns::HOT));
            let mut power_goes_at = None;
            if tears_same_bytes {
                // Where a leader's death makes the next one write again; then the power goes before that is synced.
                sniped = Some(dice.pick(&["after cuts", "leading_uncertified", "before certified"]));
                power_goes_at = Some(("written again", 50));
            }
            if has_stops && dice.percent(70) {
                sniped = Some(dice.pick(LEADING));
                // Behind what a leader answers that woke up, before what others wrote again is synced.
                power_goes_at = Some(("an acknowledgement", dice.pick(&[1, 5])));
            }
            if tears_headers {
                power_goes_at = Some(("header written", 50));
            }
            let storms = match () {
                () if is_large => &STORM_STEPS[3..],
                () if has_stops => &STORM_STEPS[2..],
                () => &STORM_STEPS[..],
            };
            let (steps, events) = (dice.pick(storms), dice.pick(&[10, 30, 100]));
            (Weather { kills, power_cuts, comers, faults, stops }, steps, events, sniped, power_goes_at)
        };
        self.turns.limit(steps);
        self.turns.change(|course| (course.sniped, course.power_goes_at) = (sniped, power_goes_at));
        for _ in 0..self.processes_max() {
            self.spawn(None);
        }
        loop {
            self.turns.change(|course| course.events = events);
            let goes_on = self.turns.go_on();
            self.catch_up();
            if !self.look() || self.turns.hang().is_some() {
                return;
            }
            self.bury();
            if !goes_on {
                self.spawn(None);
            } else {
                self.happens(weather);
            }
        }
    }

    /// Nobody is disturbed any more: everybody leaves.
    fn calm(self: &Arc<Run>) {
        self.is_calm.store(true, SeqCst);
        {
            let mut world = self.world.lock();
            world.say("CALM");
            world.disk.plan().clear();
        }
        self.turns.wake_all();
        self.turns.limit(CALM_STEPS);
        while {
            self.turns.change(|course| course.events = 0);
            self.turns.go_on()
        } {
            self.catch_up();
            if let Some(places) = self.turns.hang() {
                self.world.lock().violate(format!("a hang: {places}"));
            }
            if !self.look() {
                return;
            }
        }
        self.look();
        self.bury();
    }
}

/// What came of a run.
struct Outcome {
    events: Vec<String>,
    violation: Option<String>,
    /// How often that happened for which the world exists.
    met: u64,
    /// How often the commit ring lapped, and a process read the log since it had moved on.
    laps: [u64; 2],
}

fn run(seed: u64, conditions: Conditions, real: &Path) -> Outcome {
    let run = Run::new(seed, conditions, real);
    run.storm();
    let is_fine = |run: &Run| run.world.lock().violation.is_none();
    if is_fine(&run) {
        run.calm();
    }
    if is_fine(&run) {
        // Somebody who meets what they left, and leaves a plain file.
        run.spawn(Some(0));
        run.calm();
    }
    run.kill_all();
    let mut world = run.world.lock();
    if world.violation.is_none()
        && let Err(what) = world.crash_and_open()
    {
        world.violate(what);
    }
    let Conditions { name, stops, .. } = conditions;
    let met = match name {
        _ if stops => run.turns.times("LEADER of the living"),
        "processes" => run.turns.times("a takeover"),
        "processes-large" => run.turns.times("frame gone"),
        _ => world.met(),
    };
    let laps = ["the commit ring laps", "the commit ring has moved on"].map(|place| run.turns.times(place));
    Outcome { events: std::mem::take(&mut world.events), violation: world.violation.take(), met, laps }
}

fn first_seed() -> u64 {
    std::env::var("PWAL_TEST_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// Plays the runs of these worlds.
fn every_promise_holds(worlds: &[Conditions]) {
    let real = real_directory();
    for &conditions in worlds {
        let (mut met_in, mut laps, mut ring_moved_on) = (0, 0, 0);
        let has_to_lap = matches!(conditions.name, "processes" | "processes-lazy") && rounds(12) >= 12;
        let mut seeds = first_seed()..first_seed() + rounds(12);
        while let Some(seed) = seeds.next() {
            if seeds.is_empty() && laps == 0 && has_to_lap && seeds.end < first_seed() + 4 * rounds(12) {
                // Twelve runs have no lap in one of four cases.
                seeds.end += 1;
            }
            let _watchdog = support::Watchdog::new(
                &format!("PWAL_TEST_ONE={}:{seed}", conditions.name),
                crate::interleave::RUN_MAX,
            );
            let outcome = run(seed, conditions, real.path());
            if let Some(what) = outcome.violation {
                panic!("PWAL_TEST_ONE={}:{seed}: {what}\n  {}", conditions.name, outcome.events.join("\n  "));
            }
            met_in += u64::from(outcome.met > 0);
            laps += outcome.laps[0];
            ring_moved_on += outcome.laps[1];
        }
        println!(
            "{}: {laps} laps of the commit ring, {ring_moved_on} reads of the log where it had moved on",
            conditions.name
        );
        assert!(laps > 0 || !has_to_lap, "{}: the commit ring never laps", conditions.name);
        check_met(conditions, met_in, seeds.end - first_seed());
    }
}

#[test]
fn every_promise_holds_between_processes() {
    every_promise_holds(&WORLDS[..1]);
}

#[test]
fn every_promise_holds_where_the_disk_fails() {
    every_promise_holds(&WORLDS[1..2]);
}

#[test]
fn every_promise_holds_where_headers_tear() {
    every_promise_holds(&WORLDS[2..3]);
}

#[test]
fn every_promise_holds_where_nobody_wants_durability() {
    every_promise_holds(&WORLDS[3..4]);
}

/// No durable block is written twice: a disk that loses sectors rewritten with the bytes that they had loses no commit.
#[test]
fn every_promise_holds_where_rewritten_sectors_tear() {
    every_promise_holds(&WORLDS[4..5]);
}

/// A leader that does not go on loses LEADER, and wakes up later: no commit is lost by what it does then.
#[test]
fn every_promise_holds_where_processes_are_stopped() {
    every_promise_holds(&WORLDS[5..7]);
}

/// The first sector of the database file comes back from the log.
#[test]
fn every_promise_holds_where_headers_are_lost() {
    every_promise_holds(&WORLDS[8..9]);
}

/// Spill files of many blocks, which go while other processes read them.
#[test]
fn every_promise_holds_where_pages_are_large_and_processes_many() {
    every_promise_holds(&WORLDS[7..8]);
}

#[test]
fn one_run() {
    let Ok(wanted) = std::env::var("PWAL_TEST_ONE") else { return };
    let (name, seed) = wanted.split_once(':').unwrap();
    let Some(conditions) = WORLDS.iter().find(|conditions| conditions.name == name) else { return };
    let Outcome { events, violation, .. } = run(seed.parse().unwrap(), *conditions, real_directory().path());
    println!("{}\n-> {violation:?}", events.join("\n"));
}
