//! One simulated process: it claims the database or joins to it as a real one does, works with one or two threads, and
//! leaves, or exits in the middle.

use super::super::adapters::{Directory, Exclusive, Medium, SimDatabaseHandle};
use super::super::client::{Client, Phase};
use super::super::scene::{Habits, Scene};
use super::super::world::{NAME, World, sim_path};
use super::Run;
use crate::disk::sim::SimDisk;
use crate::disk::{Disk, LogDirectory};
use crate::engine::{Connection, Engine, Settings};
use crate::handle::{Context, DatabaseHandle, Host, OpenFacts, Registry, open_engine};
use crate::host::Environment;
use crate::interleave;
use crate::sqlite::Code;
use crate::sync::Mutex;
use crate::view::View;
use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// So long a connection waits in its busy handler at once.
const BUSY_WAIT: Duration = Duration::from_millis(20);
const EXIT_WAIT: Duration = Duration::from_millis(200);

pub struct Process {
    pub id: u64,
    /// In its run.
    pub number: usize,
    pub engine: Mutex<Option<Arc<Engine>>>,
    pub is_dead: Mutex<bool>,
}

/// What a process is like.
#[derive(Clone, Copy, Debug)]
pub struct Character {
    pub habits: Habits,
    pub threads: u64,
    pub connections: u64,
    pub steps: u64,
    /// Ends without closing its connections.
    pub exits: bool,
}

/// An engine, or why there is none.
type Opened = Result<Option<Arc<Engine>>, (Code, Option<String>)>;

#[derive(Debug)]
struct ProcessDisk {
    disk: SimDisk,
    medium: Medium,
    real: PathBuf,
}

impl Disk for ProcessDisk {
    fn log_directory(&self, _database: &Path) -> Arc<dyn LogDirectory> {
        let path = self.real.join(format!("{NAME}-pwal"));
        Arc::new(Directory {
            inner: self.disk.directory(&sim_path()),
            path,
            medium: self.medium.clone(),
            is_shared: true,
        })
    }

    fn sector_bytes(&self, database: &Path) -> u32 {
        self.disk.sector_bytes(database)
    }
}

#[derive(Debug)]
struct ProcessHost {
    disk: SimDisk,
    medium: Medium,
    exclusive: Exclusive,
}

impl Host for ProcessHost {
    fn open_database_handle(&self, _path: &Path) -> Result<Box<dyn DatabaseHandle>, Code> {
        interleave::step("opening a broker");
        let exclusive = Some(self.exclusive.clone());
        Ok(Box::new(SimDatabaseHandle {
            inner: self.disk.database(&sim_path()),
            medium: self.medium.clone(),
            exclusive,
        }))
    }

    fn recover_stock_files(&self, _path: &Path) -> Result<(), Code> {
        Err(Code::ERROR)
    }

    fn log(&self, _code: i32, text: &str) {
        if std::env::var_os("PWAL_TEST_TALK").is_some() {
            println!("  process {} log: {text}", self.exclusive.process);
        }
    }
}

/// As the first `xLock(SHARED)` of a process with this number.
pub fn open(world: &Mutex<World>, holder: &Arc<Mutex<Option<u64>>>, process: u64) -> Opened {
    let (disk, medium, real) = {
        let world = world.lock();
        (world.disk.clone(), world.medium.clone(), world.real.clone())
    };
    let exclusive = Exclusive { holder: Arc::clone(holder), process };
    let environment = Environment {
        host: Box::new(ProcessHost { disk: disk.clone(), medium: medium.clone(), exclusive }),
        disk: Arc::new(ProcessDisk { disk, medium, real: real.clone() }),
        defaults: Vec::new(),
    };
    let context = Arc::new(Context { environment: Arc::new(environment), registry: Registry::default() });
    open_engine(
        &context,
        OpenFacts {
            path: real.join(NAME),
            read_only: false,
            parameters: Vec::new(),
            no_lock: false,
            foreign_name: false,
        },
    )
}

fn start(run: &Run, process: &Process) -> Option<Arc<Engine>> {
    let opened = open(&run.world, &run.exclusive, process.id);
    // From here on nobody comes between until the engine is known.
    let mut world = run.world.lock();
    match opened {
        Ok(Some(engine)) => {
            engine.background.stop(false);
            if world.is_of(&engine) {
                world.say(format!("p{} attached", process.number));
            } else {
                world.say(format!("p{} claimed", process.number));
                world.had_power_cut |= world.medium.take_failed();
                Settings::for_simulation(world.segment_bytes).copy_to(&engine.log.settings);
                if world.dice.percent(30) {
                    let delay = engine.log.settings.set_number("parallel_wal_max_flush_delay_ms", "2");
                    assert!(matches!(delay, Some(Ok(_))), "leaders gather");
                }
                world.plan_anew();
                world.log_id = engine.log.log_id;
                if let Err(what) = world.check_open() {
                    world.violate(what);
                }
            }
            *process.engine.lock() = Some(Arc::clone(&engine));
            Some(engine)
        }
        Ok(None) => {
            world.violate("a database in WAL mode is not ours");
            None
        }
        Err((code, text)) => {
            world.say(format!("p{} is refused: {code} {text:?}", process.number));
            let fired = world.disk.plan().fired() > 0;
            // What only the cache held may be lost with a sync that failed in a recovery.
            world.had_power_cut |= fired && !run.is_open();
            // Not for ever.
            world.disk.plan().clear();
            let is_salvaged = text.as_ref().is_some_and(|text| world.salvages_lost_header(text));
            if code != Code::BUSY && !fired && !is_salvaged {
                world.violate(format!("a healthy database is not opened: {code} {text:?}"));
            }
            None
        }
    }
}

pub fn live(run: &Arc<Run>, process: &Arc<Process>, character: Character) {
    let Some(engine) = start(run, process) else { return };
    let seats =
        |count: u64| -> Vec<Connection> { (0..count).map(|_| engine.connections.add().expect("a seat")).collect() };
    let first = seats(character.connections);
    if character.threads > 1 {
        let second = seats(character.connections);
        let (run_of_second, engine, of_second) = (Arc::clone(run), Arc::clone(&engine), Arc::clone(process));
        run.turns.spawn(process.id, &format!("p{}.2", process.id), move || {
            work(&run_of_second, &of_second, engine, second, character, 2);
        });
    }
    work(run, process, engine, first, character, 1);
}

fn work(run: &Run, process: &Process, engine: Arc<Engine>, seats: Vec<Connection>, character: Character, thread: u64) {
    let habits = character.habits;
    let scene = Scene {
        world: Arc::clone(&run.world),
        engine: Arc::clone(&engine),
        habits,
        name: format!("p{}.{thread} ", process.number),
        waits: true,
        depth: Cell::new(0),
        was_full: Cell::new(false),
    };
    let lane_bytes = habits.lane_pages * engine.log.page_bytes as usize;
    let view = || View::new(engine.log.page_bytes, lane_bytes);
    let new = |me| Client { me, view: view(), seen: 0, phase: Phase::Idle, is_lost: false, is_refused: false };
    let mut clients: Vec<Client> = seats.into_iter().map(new).collect();
    for _ in 0..character.steps {
        if scene.is_over() {
            return;
        }
        if run.is_calm() || engine.log.is_poisoned() {
            break;
        }
        step(&scene, &mut clients);
    }
    // In the middle of a call.
    while let Some(at) = clients.iter().position(Client::holds) {
        clients[at].finish(&scene);
    }
    if character.exits && !run.is_calm() {
        scene.say("exits");
        scene.catch_up();
        engine.close_at_exit(EXIT_WAIT);
        closed(&scene);
        run.exit(process.id);
    }
    let mut is_last = false;
    for mut client in clients {
        client.finish(&scene);
        is_last |= engine.connections.remove(client.me);
    }
    scene.catch_up();
    if is_last && !scene.is_over() {
        let keeps_log = scene.percent(10);
        let result = engine.close(keeps_log);
        scene.say(format!("leaves, keeps the log {keeps_log}: {result:?}"));
        match result {
            Ok(()) => closed(&scene),
            Err(error) => {
                scene.check_error(&error);
                scene.note_poison();
            }
        }
    }
}

/// The engine was closed: if that retired the log, everything is in the database file.
fn closed(scene: &Scene) {
    let mut world = scene.world.lock();
    if scene.engine.log.is_retired() && world.is_of(&scene.engine) {
        let published = world.history.len() as u64 - 1;
        (world.must_kill, world.must_power) = (published, published);
        world.say(format!("  retired at {published}"));
    }
}

fn step(scene: &Scene, clients: &mut [Client]) {
    let holder = clients.iter().position(Client::holds);
    if let Some(at) = holder {
        // This thread would wait for itself.
        clients[at].step(scene);
    } else if scene.percent(scene.habits.checkpoints) {
        scene.checkpoint();
    } else if scene.percent(5) {
        // Its wish comes with a commit.
        if scene.engine.log.is_active() {
            scene.engine.segments.prepare_next_segment();
        }
    } else {
        let at = scene.below(clients.len() as u64) as usize;
        let client = &mut clients[at];
        if matches!(client.phase, Phase::Idle) && !client.is_lost && client.is_refused {
            client.is_refused = false;
            scene.engine.queue.wait(client.me.id, BUSY_WAIT);
        }
        client.step(scene);
    }
    scene.catch_up();
    scene.note_poison();
}
