//! Processes that a test takes by the hand, one connection each, in real time: for courses of events that dice meet seldom.

use super::super::client::{Client, Phase};
use super::super::real_directory;
use super::super::scene::{Habits, Scene};
use super::super::world::{CALM, Contents, World, sim_path};
use super::process::open;
use crate::disk::fault::{Effect, Fault, Operation};
use crate::engine::{Engine, EngineError, Settings};
use crate::sync::Mutex;
use crate::view::View;
use std::cell::Cell;
use std::sync::Arc;

/// Who commits: it wants durability, and may carry its own certificate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct How {
    pub full: bool,
    pub leads: bool,
    /// Written and synced before its last word.
    pub early: bool,
}

pub const FULL: How = How { full: true, leads: false, early: false };
pub const SELF_SEALED: How = How { full: true, leads: true, early: false };
pub const NORMAL: How = How { full: false, leads: false, early: false };
pub const EARLY: How = How { full: true, leads: false, early: true };

/// One process with one connection.
pub struct Party {
    pub scene: Scene,
    pub client: Client,
}

/// Two processes on one database.
pub struct Scenery {
    pub world: Arc<Mutex<World>>,
    pub holder: Arc<Mutex<Option<u64>>>,
    _real: tempfile::TempDir,
}

impl Scenery {
    pub fn new(seed: u64) -> Scenery {
        let real = real_directory();
        let mut world = World::new(seed, CALM, real.path());
        world.page_bytes = 4096;
        world.segment_bytes = 4096 * 40;
        world.disk.edit(&sim_path(), |file| file.clear());
        let bytes: Vec<u8> = (1..=3).flat_map(|page| world.image(page, 0)).collect();
        world.disk.edit(&sim_path(), |file| *file = bytes);
        Scenery { world: Arc::new(Mutex::new(world)), holder: Arc::default(), _real: real }
    }

    pub fn party(&self, number: u64, how: How) -> Party {
        let engine = open(&self.world, &self.holder, u64::MAX - number).expect("opened").expect("an engine");
        engine.background.stop(false);
        let mut world = self.world.lock();
        if !world.is_of(&engine) {
            Settings::for_simulation(world.segment_bytes).copy_to(&engine.log.settings);
            world.log_id = engine.log.log_id;
        }
        let habits = Habits {
            full_sync: if how.full { 100 } else { 0 },
            early: if how.early { 100 } else { 0 },
            rolls_back: 0,
            leads: if how.leads { 100 } else { 0 },
            reads: 0,
            checkpoints: 0,
            leaders_die: 0,
            checkpoint_kinds: 3,
            goes_on_within: 0,
            bound: 1000,
            lane_pages: 100,
            pages_of_commit: 100,
        };
        drop(world);
        let me = engine.connections.add().expect("a seat");
        let view = View::new(engine.log.page_bytes, 100 * engine.log.page_bytes as usize);
        let client = Client { me, view, seen: 0, phase: Phase::Idle, is_lost: false, is_refused: false };
        let scene = Scene {
            world: Arc::clone(&self.world),
            engine,
            habits,
            name: format!("p{number} "),
            waits: true,
            depth: Cell::new(0),
            was_full: Cell::new(false),
        };
        Party { scene, client }
    }

    /// Whether who comes now is told that it is over.
    pub fn refuses(&self) -> bool {
        open(&self.world, &self.holder, u64::MAX - 8).is_err()
    }

    pub fn plan(&self, operation: Operation, nth: u64, goes_on: bool) {
        let fault = Fault { operation, name_contains: ".seg".to_owned(), nth, effect: Effect::Error, goes_on };
        self.world.lock().disk.plan().add(fault);
    }

    pub fn heal(&self) {
        self.world.lock().disk.plan().clear();
    }

    /// What the next one finds who opens the database, after all have gone.
    pub fn recovered(&self, parties: Vec<Party>) -> Contents {
        for Party { scene, client } in parties {
            scene.engine.connections.remove(client.me);
            scene.engine.close(false).expect("a poisoned log stays as it is");
        }
        let engine = open(&self.world, &self.holder, u64::MAX - 9).expect("opened").expect("an engine");
        let state = self.world.lock().state();
        engine.close(false).expect("closed");
        state
    }
}

impl Party {
    /// As by a kill: its locks are free, its words stay.
    pub fn is_killed(&self, scenery: &Scenery) {
        self.engine().log.marks.member().lock().close();
        *scenery.holder.lock() = None;
    }

    pub fn engine(&self) -> &Arc<Engine> {
        &self.scene.engine
    }

    /// One commit, up to its publication.
    pub fn publishes(&mut self) -> u64 {
        // Nobody else's lease: whoever is refused makes what it has seen durable.
        let (queue, me) = (&self.engine().queue, self.client.me.id);
        while !queue.try_acquire(me) {
            std::thread::yield_now();
        }
        queue.release(me, false);
        for _ in 0..100 {
            if let Phase::Published { sequence, .. } = self.client.phase {
                return sequence;
            }
            self.client.step(&self.scene);
            assert_eq!(self.scene.world.lock().violation, None);
        }
        panic!("no commit in 100 steps");
    }

    /// Its COMMIT is answered.
    pub fn acknowledges(&mut self) -> Result<(), EngineError> {
        let Phase::Published { sequence, wants_durable, self_sealed } =
            std::mem::replace(&mut self.client.phase, Phase::Idle)
        else {
            panic!("nothing is published");
        };
        let result = self.engine().durability.acknowledge(sequence, wants_durable, self_sealed).map(drop);
        self.engine().connections.drop_snapshot(self.client.me);
        result
    }

    pub fn commits(&mut self) -> u64 {
        let sequence = self.publishes();
        self.acknowledges().expect("acknowledged");
        sequence
    }

    pub fn ordinal(&self) -> u64 {
        self.engine().log.tail().ordinal
    }

    pub fn check_over(&self) {
        let Party { scene, client } = self;
        let refused = scene.engine.log.check_poison();
        assert!(matches!(refused, Err(EngineError::Poisoned { .. })), "{}{refused:?}", scene.name);
        assert!(scene.engine.committer.prepare(client.view.lane()).is_err(), "{}prepares", scene.name);
        let snapshot = scene.engine.connections.take_snapshot(client.me, true).expect("the words are whole");
        assert!(snapshot <= scene.engine.log.marks.durable(), "{}sees what is lost", scene.name);
        scene.engine.connections.drop_snapshot(client.me);
    }
}
