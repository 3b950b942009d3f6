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

mod life;
mod machine;
mod medium;
mod script;
mod state;

use super::register::{Options, Registration, register_api};
use crate::disk::fault::{DATABASE_NAME, DIRECTORY_NAME, Effect, Fault, Operation, PARENT_NAME};
use crate::disk::sim::{Dice, HeaderTear, PowerCut, SimDisk};
use crate::interleave::{Turns, Watchdog, simulate};
use crate::log::recovery::{OpenFacts, open_database};
use crate::log::salvage::salvage;
use crate::log::stamp::{self, StampState};
use crate::sqlite::Api;
use crate::sync::Mutex;
use life::{Checked, Ended, Life, copy, open};
use machine::{Counts, Machine, Moment, PowerDisk, Promise, Watch};
use rusqlite::Connection;
use state::state;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::OnceLock;
use std::time::Duration;

/// The database file.
const NAME: &str = "app.db";
/// Processes that a machine has at most.
const PROCESSES: usize = 4;
/// Lives of a machine, and steps in each, at most.
const LIVES: u64 = 3;
const STEPS: u64 = 120;
/// Openings within openings that are copied.
const DEPTH: u32 = 3;

fn sim_path() -> PathBuf {
    Path::new("/sim").join(NAME)
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
    /// What has to happen in it, beside [`EVENTS`].
    events: &'static [&'static str],
}

const CALM: World = World {
    name: "calm",
    stock: false,
    fails: false,
    fills: false,
    tears_same_bytes: false,
    tears_header: HeaderTear::Never,
    spoils: false,
    events: &[],
};

/// What has to happen in each world.
const EVENTS: &[&str] = &[
    "commits",
    "logs left",
    "segments made",
    "logs retired",
    "processes that attached",
    "lives of more than three processes",
    "writes to spills of many blocks",
    "cuts while opening",
    "cuts while opening after such a cut",
    "commits under way that are there",
    "commits gone that were not promised",
];

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
    World { name: "full", fills: true, events: &["refusals of a full disk"], ..CALM },
];

/// What a life is like.
#[derive(Clone, Copy, Debug)]
struct Character {
    connections: usize,
    processes: usize,
    segment_bytes: u64,
    /// The images that a transaction keeps in memory before it spills.
    batch_bytes: u64,
    stock: bool,
    switches: bool,
    fills: bool,
}

/// The only thread of the simulated machine. Its waits are over at once.
#[derive(Debug)]
struct Alone(Mutex<(u64, Dice)>);

/// Simulated time after which a wait is one without end.
const STUCK_US: u64 = 3_600_000_000;

impl Turns for Alone {
    fn process(&self) -> u64 {
        u64::MAX
    }

    fn step(&self, _place: &str) {
        self.pass(1);
    }

    fn sleep(&self, at_most: Duration) {
        self.pass(u64::try_from(at_most.as_nanos().div_ceil(1000)).unwrap_or(u64::MAX).clamp(1, 1_000_000));
    }

    fn now_us(&self) -> u64 {
        self.lock().0
    }

    fn log_id(&self) -> u64 {
        self.lock().1.next() | 1
    }

    fn split(&self, _bytes: usize) -> Option<usize> {
        None
    }
}

impl Alone {
    fn lock(&self) -> crate::sync::MutexGuard<'_, (u64, Dice)> {
        self.0.try_lock().expect("one thread")
    }

    fn pass(&self, us: u64) {
        let now = {
            let mut alone = self.lock();
            alone.0 += us;
            alone.0
        };
        assert!(now < STUCK_US, "waits without end");
    }
}

struct Run {
    world: World,
    seed: u64,
    skips: BTreeSet<u64>,
    /// More machines stop than by chance.
    is_eager: bool,
    counts: Counts,
    events: Vec<String>,
    /// Since a sector was spoiled.
    is_spoiled: bool,
    /// A sector has changed without an error.
    has_rotted: bool,
}

/// A machine that was opened after it had stopped.
struct Opened {
    machine: Arc<Machine>,
    connection: Connection,
    /// The history up to the state that was found.
    known: Vec<u64>,
}

impl Run {
    fn count(&mut self, what: &'static str, count: u64) {
        *self.counts.entry(what).or_default() += count;
    }

    fn dice(&self, what: u64) -> Dice {
        let mut dice = Dice::new(self.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ what);
        dice.next();
        dice
    }

    fn watch(&self, dice: &mut Dice, permille: u64, most: usize) -> Watch {
        let permille = if self.is_eager { permille * 4 } else { permille };
        let most = if self.is_eager { most * 4 } else { most };
        Watch { dice: Dice::new(dice.next()), permille, promise: Promise::default(), moments: Vec::new(), most }
    }

    /// The power goes, or all processes end.
    fn stop(&mut self, disk: &SimDisk, dice: &mut Dice) -> bool {
        let is_killed = dice.percent(20);
        disk.plan().reset();
        disk.set_capacity(None);
        if is_killed {
            disk.kill();
        } else {
            let (torn, lost) = (disk.same_bytes_torn(), disk.headers_lost());
            disk.power_cut(&PowerCut {
                keep_percent: dice.pick(&[0, 0, 10, 50, 90, 100]),
                tears_sectors: dice.percent(80),
                tears_same_bytes: self.world.tears_same_bytes,
                tears_header: self.world.tears_header,
            });
            self.count("sectors lost that were rewritten", disk.same_bytes_torn() - torn);
            self.count("first sectors lost", disk.headers_lost() - lost);
        }
        if self.world.spoils && dice.percent(50) {
            self.spoil(disk, dice);
        }
        if dice.percent(30) {
            disk.evict();
        }
        disk.forget_unnamed();
        is_killed
    }

    /// One sector of the log is not what it was.
    fn spoil(&mut self, disk: &SimDisk, dice: &mut Dice) {
        let directory = Path::new("/sim/app.db-pwal");
        let names: Vec<String> = disk.names(directory).unwrap_or_default();
        let names: Vec<&String> =
            names.iter().filter(|name| name.contains(".seg") || name.contains(".spill")).collect();
        if names.is_empty() {
            return;
        }
        let path = directory.join(names[dice.index(names.len())]);
        let bytes = disk.contents(&path).map_or(0, |(bytes, _)| bytes.len() as u64);
        // The beginning of the file is where its records are.
        let end = if dice.percent(50) { bytes.min(32_768) } else { bytes };
        let sector = dice.below(end / 512);
        if dice.percent(50) {
            disk.make_unreadable(&path, sector);
        } else {
            self.has_rotted = true;
            let (at, bit) = (dice.below(512), dice.below(8));
            disk.edit(&path, |file| {
                if let Some(byte) = file.get_mut(usize::try_from(sector * 512 + at).expect("an offset")) {
                    *byte ^= 1 << bit;
                }
            });
        }
        self.is_spoiled = true;
        self.count("bad sectors", 1);
    }

    /// Whether an open was refused as the user is told: nothing but the lost sector said whose file it is. Then he does what the
    /// refusal says.
    fn salvages(&mut self, disk: &SimDisk) -> bool {
        let copy = disk.deep_clone(0);
        let opened = open_database(&copy.directory(&sim_path()), &mut copy.database(&sim_path()), OpenFacts::default());
        if !opened.is_err_and(|error| error.to_string().contains("nothing proves that the log")) {
            return false;
        }
        self.count("first sectors salvaged", 1);
        matches!(salvage(&disk.directory(&sim_path()), &mut disk.database(&sim_path())), Ok(Some(_)))
    }

    /// The machine starts again, and the database is opened.
    #[expect(clippy::too_many_lines, reason = "a scene, from top to bottom")]
    fn start_again(
        &mut self,
        moment: Moment,
        history: &[u64],
        depth: u32,
        dice: &mut Dice,
    ) -> Result<Option<Opened>, String> {
        let Moment { disk, promise, place } = moment;
        let is_killed = self.stop(&disk, dice);
        self.count("cuts", 1);
        self.count("cuts while opening", u64::from(depth > 0));
        self.count("cuts while opening after such a cut", u64::from(depth > 1));
        let has_wal =
            disk.contents(&sim_path().with_file_name(format!("{NAME}-wal"))).is_some_and(|(wal, _)| !wal.is_empty());
        self.count("stock WALs left", u64::from(has_wal));
        let journal = disk.contents(&sim_path().with_file_name(format!("{NAME}-journal")));
        self.count(
            "hot journals",
            u64::from(journal.is_some_and(|(journal, _)| journal.first().is_some_and(|byte| *byte != 0))),
        );
        let has_log = disk
            .names(Path::new("/sim/app.db-pwal"))
            .is_some_and(|names| names.iter().any(|name| name.ends_with(".seg")));
        self.count("logs left", u64::from(has_log));
        let told = |what: String| {
            format!("{what}\n  stopped before: {place} (killed {is_killed}, {promise:?}, depth {depth})")
        };
        if std::env::var_os("PWAL_TEST_TALK").is_some() {
            println!("START depth {depth} {place} killed {is_killed} {promise:?}");
            for name in disk.names(Path::new("/sim")).unwrap_or_default() {
                if let Some((bytes, _)) = disk.contents(&Path::new("/sim").join(&name)) {
                    println!("  {name}: {} {:02x?}", bytes.len(), &bytes[..bytes.len().min(64)]);
                }
            }
        }
        let permille = if depth < DEPTH { dice.pick(&[0, 0, 10, 50]) } else { 0 };
        let mut watch = self.watch(dice, permille, 2);
        // What the power took is not there for the next end of a process.
        watch.promise = if is_killed { promise } else { Promise { kept: promise.must, ..promise } };
        let before = self.is_spoiled.then(|| files(&disk));
        let machine = Machine::start(disk.clone(), watch);
        let process = dice.index(PROCESSES);
        let read = |machine: &Machine| {
            open(machine, Some(process)).and_then(|connection| Ok((state(&connection)?, connection)))
        };
        let found = read(&machine);
        if let (Err(error), Some(before)) = (&found, &before) {
            if files(&disk) != *before {
                return Err(told(format!("a refused database was changed: {error:?}")));
            }
            self.count("bad sectors, and refused", 1);
            return Ok(None);
        }
        if found.is_err() && self.world.tears_header == HeaderTear::Garbage {
            disk.kill();
            if self.salvages(&disk) {
                // What a salvage brings back is what it says, not what was promised.
                return Ok(None);
            }
        }
        let (found, connection) = found.map_err(|error| {
            told(format!("a healthy database is not opened: {error:?}: {:?}", files(&machine.disk).keys()))
        })?;
        self.count("bad sectors, and all is there", u64::from(before.is_some()));
        let least = match is_killed {
            // What only the last records say has no other copy: changed, they look like the torn end of the log.
            _ if self.has_rotted => 0,
            true => promise.kept.max(promise.must),
            false => promise.must,
        };
        let answered = (least..=promise.last).rev().find(|at| history[*at] == found);
        let mut known = history[..=promise.last].to_vec();
        match answered {
            Some(at) => known.truncate(at + 1),
            None if promise.under_way == Some(found) => known.push(found),
            None => {
                let at: Vec<usize> = (0..history.len()).filter(|at| history[*at] == found).collect();
                return Err(told(format!("found state {at:?}, which must be {least}..={} or the next", promise.last)));
            }
        }
        self.count("commits under way that are there", u64::from(answered.is_none()));
        self.count("commits gone that were not promised", u64::from(answered.is_some_and(|at| at < promise.last)));
        let order: String = connection
            .query_row("PRAGMA integrity_check", [], |row| row.get(0))
            .map_err(|error| told(format!("integrity_check: {error:?}")))?;
        if order != "ok" {
            return Err(told(format!("integrity_check: {order}")));
        }
        // What was read once stays; but for the deletion of a rollback journal that only the cache has, as with stock SQLite.
        let at = known.len() - 1;
        let must = if is_killed && self.world.stock { promise.must.min(at) } else { at };
        machine.promise(|promise| *promise = Promise { must, kept: at, last: at, under_way: None });
        Ok(Some(Opened { machine, connection, known }))
    }

    /// A machine that stopped at this moment keeps what was promised, also if it stops again while it is opened.
    fn examine(&mut self, moment: Moment, history: &[u64], depth: u32, dice: &mut Dice) -> Checked {
        let place = moment.place.clone();
        let Some(Opened { machine, connection, mut known }) = self.start_again(moment, history, depth, dice)? else {
            return Ok(());
        };
        let told = |what: String| format!("{what}\n  stopped before: {place} (depth {depth})");
        let mode: String = connection.query_row("PRAGMA journal_mode", [], |row| row.get(0)).expect("a mode");
        if dice.percent(20) {
            let at = known.len();
            machine.promise(|promise| promise.last = at);
            let number = dice.below(1000);
            let sql = format!("PRAGMA synchronous=EXTRA; INSERT OR REPLACE INTO n VALUES(1, 'after {number}')");
            connection.execute_batch(&sql).map_err(|error| told(format!("the next commit: {error:?}")))?;
            known.push(state(&connection).map_err(|error| told(format!("{error:?}")))?);
            machine.promise(|promise| *promise = Promise { must: at, kept: at, last: at, under_way: None });
        }
        connection.close().map_err(|(_, error)| told(format!("close: {error:?}")))?;
        self.check_closed(&machine, &known, &mode, dice).map_err(told)?;
        let moments = machine.take_moments();
        drop(machine);
        for moment in moments {
            let mut dice = Dice::new(dice.next());
            // That of the opening was not one of reading yet.
            let history = if moment.promise.last < known.len() { &known[..] } else { history };
            self.examine(moment, history, depth + 1, &mut dice)?;
        }
        Ok(())
    }

    /// One plain file, as stock SQLite leaves it.
    fn check_closed(&self, machine: &Machine, known: &[u64], mode: &str, dice: &mut Dice) -> Checked {
        let names = machine.disk.names(Path::new("/sim")).unwrap_or_default();
        // With rollback journals it is stock SQLite that leaves an empty `-wal`, and a journal in a mode that keeps it.
        let is_stocks = |name: &str| name.ends_with("-journal") || (mode != "wal" && name.ends_with("-wal"));
        let is_beside = |name: &&String| *name != NAME && !name.contains("-pwal.") && !is_stocks(name);
        if let Some(name) = names.iter().find(is_beside) {
            return Err(format!("{name} is left after a close in mode {mode}"));
        }
        let (cached, medium) = machine.disk.contents(&sim_path()).expect("a database file");
        let is_plain = |bytes: &[u8]| stamp::read(bytes) == (StampState::Plain { wal: mode == "wal" });
        if !is_plain(&cached) || !is_plain(&medium) {
            return Err(String::from("the header is not plain after a close"));
        }
        if dice.percent(10) {
            let stock = open(machine, None).and_then(|connection| state(&connection));
            match stock {
                Ok(found) if found == known[known.len() - 1] => {}
                other => return Err(format!("stock SQLite finds {other:?}")),
            }
        }
        Ok(())
    }

    fn create(&self, dice: &mut Dice) -> SimDisk {
        let disk = SimDisk::new(dice.next());
        let machine = Machine::start(disk.clone(), self.watch(dice, 0, 0));
        let connection = open(&machine, None).expect("a database");
        let (page, vacuum) =
            (dice.pick(&[512, 512, 1024, 1024, 4096, 4096, 8192, 65_536]), dice.pick(&["NONE", "NONE", "FULL"]));
        let sql = format!(
            "PRAGMA page_size={page}; PRAGMA auto_vacuum={vacuum}; PRAGMA journal_mode=WAL; {}",
            script::SCHEMA
        );
        connection.execute_batch(&sql).expect("a schema");
        connection.close().expect("a close");
        let file = machine.beside().open(NAME, false).expect("the file");
        file.sync().and_then(|()| machine.beside().sync()).expect("a sync");
        disk
    }

    fn plan_fault(&self, disk: &SimDisk, dice: &mut Dice) {
        let (operation, names): (Operation, &[&str]) = match dice.below(10) {
            0..4 => (Operation::Sync, &[".seg", ".seg", ".spill", DATABASE_NAME, DIRECTORY_NAME, PARENT_NAME]),
            4..8 => (Operation::Write, &[".seg", ".seg", ".spill", DATABASE_NAME]),
            8 => (Operation::Create, &[".seg", ".spill", "retired"]),
            _ => (dice.pick(&[Operation::SetBytes, Operation::Remove, Operation::Open, Operation::Read]), &[""]),
        };
        let bytes = dice.pick(&[0, 4096, 8192, 1 << 20]);
        let effect = match (operation, dice.below(4)) {
            (Operation::Write, 0) => Effect::Short(bytes),
            (Operation::Write, 1) => Effect::ShortNoSpace(bytes),
            (Operation::Write | Operation::Create, 2) => Effect::NoSpace,
            _ => Effect::Error,
        };
        let (nth, goes_on) = (1 + dice.below(12), dice.percent(25));
        disk.plan().add(Fault { operation, name_contains: dice.pick(names).to_owned(), nth, effect, goes_on });
    }

    fn one_life(&mut self, number: u64, opened: Opened) -> Result<(Moment, Vec<u64>), String> {
        let mut dice = self.dice(number << 32);
        let Opened { machine: before, connection, .. } = opened;
        let twin = copy(&connection);
        connection.close().map_err(|(_, error)| format!("close: {error:?}"))?;
        if self.world.stock {
            // Behind a kill the deletion of a journal is in the cache only, and would undo what this life begins with.
            let file = before.beside().open(NAME, false).expect("the file");
            file.sync().and_then(|()| before.beside().sync()).expect("a sync");
        }
        let disk = before.disk.clone();
        drop(before);
        let permille = dice.pick(&[5, 20, 60]);
        let machine = Machine::start(disk, self.watch(&mut dice, permille, 25));
        let character = Character {
            connections: 1 + dice.index(6),
            processes: dice.pick(&[1, 2, 3, PROCESSES, PROCESSES]),
            segment_bytes: 4096 * (17 + dice.below(8)),
            batch_bytes: dice.pick(&[4096, 20_000, 4 << 20]),
            stock: self.world.stock && dice.percent(30),
            switches: self.world.stock,
            fills: self.world.fills,
        };
        let mut life = Life::new(Arc::clone(&machine), character, twin);
        life.events.push(format!("LIFE {number}: {character:?}"));
        let steps = dice.pick(&[10, 40, STEPS]);
        let mut done = Ok(());
        for step in 0..steps {
            if self.skips.contains(&(number << 16 | step)) {
                continue;
            }
            let mut dice = self.dice(number << 32 | step << 8 | 1);
            if self.world.fails && dice.percent(5) {
                self.plan_fault(&machine.disk, &mut dice);
            }
            if self.world.fills && dice.percent(10) {
                let room = dice.pick(&[None, Some(0), Some(5000), Some(80_000)]);
                machine.disk.set_capacity(room.map(|room| machine.disk.used() + room));
            }
            done = life.step(dice);
            if done.is_err() {
                break;
            }
        }
        if done.is_ok() && dice.percent(15) && !self.world.fails && !self.world.fills {
            done = life.close_all();
        }
        let promise = machine.current();
        let last =
            Moment { disk: machine.disk.deep_clone(dice.next()), promise, place: String::from("the end of the life") };
        self.count("failed operations", machine.disk.plan().fired());
        machine.disk.kill();
        let Ended { history, moments, events } = life.end();
        self.events.extend(events);
        for (what, count) in machine.counts() {
            self.count(what, count);
        }
        drop(machine);
        for (moments, history) in moments {
            for moment in moments {
                if done.is_err() {
                    break;
                }
                let mut dice = Dice::new(dice.next());
                done = self.examine(moment, &history, 0, &mut dice);
            }
        }
        done.map(|()| (last, history))
    }

    fn play(&mut self) -> Checked {
        registration(0);
        simulate(Arc::new(Alone(Mutex::new((1_000_000, self.dice(1))))));
        self.count("runs", 1);
        let mut dice = self.dice(0);
        let disk = self.create(&mut dice);
        let mut moment = Moment { disk, promise: Promise::default(), place: String::from("the beginning") };
        let mut history = Vec::new();
        for number in 1..=1 + dice.below(LIVES) {
            if history.is_empty() {
                history = vec![self.begun(&moment)];
            }
            let mut dice = Dice::new(dice.next());
            let Some(opened) = self.start_again(moment, &history, 0, &mut dice)? else { return Ok(()) };
            (moment, history) = self.one_life(number, opened)?;
        }
        self.examine(moment, &history, 0, &mut dice)
    }

    /// The state that the database begins with.
    fn begun(&self, moment: &Moment) -> u64 {
        let machine = Machine::start(moment.disk.deep_clone(0), self.watch(&mut Dice::new(0), 0, 0));
        let connection = open(&machine, None).expect("a database");
        state(&connection).expect("a state")
    }
}

/// All files of the disk.
type Files = BTreeMap<PathBuf, Option<Vec<u8>>>;

fn files(disk: &SimDisk) -> Files {
    let mut all = Files::new();
    let mut directories = vec![PathBuf::from("/sim")];
    while let Some(directory) = directories.pop() {
        for name in disk.names(&directory).unwrap_or_default() {
            let path = directory.join(name);
            let content = disk.contents(&path).map(|(cached, _)| cached);
            if content.is_none() && directory.as_path() == Path::new("/sim") {
                directories.push(path.clone());
            }
            all.insert(path, content);
        }
    }
    all
}

/// What came of a run: counts, events, and what it violates.
fn run(world: World, seed: u64, skips: Option<&BTreeSet<u64>>) -> (Counts, Vec<String>, Checked) {
    let (is_eager, skips) = (skips.is_some(), skips.cloned().unwrap_or_default());
    let _watchdog = Watchdog::new(format!("PWAL_TEST_ONE={}:{seed}", world.name));
    let mut run = Run {
        world,
        seed,
        skips,
        is_eager,
        counts: Counts::default(),
        events: Vec::new(),
        is_spoiled: false,
        has_rotted: false,
    };
    let played = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run.play()));
    let played = played.unwrap_or_else(|payload| {
        let text = payload.downcast_ref::<String>().cloned();
        Err(text.unwrap_or_else(|| payload.downcast_ref::<&str>().map_or("a panic", |text| text).to_owned()))
    });
    (run.counts, run.events, played)
}

/// Steps that the run fails without, found in pieces that get smaller; `None`: it does not fail where more machines stop.
fn shrink(world: World, seed: u64) -> Option<BTreeSet<u64>> {
    let fails = |skips: &BTreeSet<u64>| run(world, seed, Some(skips)).2.is_err();
    let mut skips = BTreeSet::new();
    if !fails(&skips) {
        return None;
    }
    let all: Vec<u64> = (1..=LIVES).flat_map(|life| (0..STEPS).map(move |step| life << 16 | step)).collect();
    let mut piece = all.len() / 2;
    while piece > 0 {
        for steps in all.chunks(piece) {
            let more: BTreeSet<u64> = skips.iter().chain(steps).copied().collect();
            if more.len() > skips.len() && fails(&more) {
                skips = more;
            }
        }
        piece /= 2;
    }
    Some(skips)
}

fn list(steps: &BTreeSet<u64>) -> String {
    let mut ranges: Vec<(u64, u64)> = Vec::new();
    for step in steps {
        match ranges.last_mut() {
            Some((_, to)) if *to + 1 == *step => *to = *step,
            _ => ranges.push((*step, *step)),
        }
    }
    ranges.iter().map(|(from, to)| format!("{from}-{to}")).collect::<Vec<_>>().join(",")
}

fn listed(text: &str) -> BTreeSet<u64> {
    let range = |text: &str| {
        let (from, to) = text.split_once('-')?;
        Some(from.parse::<u64>().ok()?..=to.parse::<u64>().ok()?)
    };
    text.split(',').filter_map(range).flatten().collect()
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
        let (counts, events, played) = run(world, seed, None);
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
        let lacks = EVENTS.iter().chain(world.events).find(|what| of(&all, what) < 1 + most / 100);
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
fn every_promise_holds_where_the_disk_is_full() {
    every_promise_holds("full");
}

#[test]
fn one_run() {
    let Ok(wanted) = std::env::var("PWAL_TEST_ONE") else { return };
    let Some((name, seed)) = wanted.split_once(':') else { return };
    let Some(world) = WORLDS.iter().find(|world| world.name == name) else { return };
    let skips = std::env::var("PWAL_TEST_SKIP").ok().map(|text| listed(&text));
    let (counts, events, played) = run(*world, seed.parse().expect("a seed"), skips.as_ref());
    println!("{}\n{counts:?}", events.join("\n"));
    if let Err(what) = played {
        panic!("{what}");
    }
}
