//! R5 for a commit that is published and cannot be made durable, with another process attached: it is tried again as long as
//! nothing has failed on the medium, and then everybody is poisoned. No COMMIT is answered with a plain error and comes back
//! later, made durable by somebody else's flush.

use super::super::client::{Client, Phase};
use super::super::real_directory;
use super::super::scene::{Habits, Scene};
use super::super::world::{CALM, Contents, NAME, World};
use super::process::open;
use crate::disk::fault::{Effect, Fault, Operation};
use crate::engine::{Engine, EngineError, Settings};
use crate::sync::Mutex;
use crate::view::View;
use std::cell::Cell;
use std::sync::Arc;

/// Who commits: it wants durability, and may carry its own certificate.
#[derive(Clone, Copy, Debug, PartialEq)]
struct How {
    full: bool,
    leads: bool,
}

const FULL: How = How { full: true, leads: false };
const LONE: How = How { full: true, leads: true };
const NORMAL: How = How { full: false, leads: false };

/// One process with one connection.
struct Party {
    scene: Scene,
    client: Client,
}

/// Two processes on one database.
struct Scenery {
    world: Arc<Mutex<World>>,
    holder: Arc<Mutex<Option<u64>>>,
    _real: tempfile::TempDir,
}

impl Scenery {
    fn new(seed: u64) -> Scenery {
        let real = real_directory();
        let mut world = World::new(seed, CALM, real.path());
        world.page_bytes = 4096;
        world.segment_bytes = 4096 * 17;
        world.disk.edit(&super::super::world::sim_path(), |file| file.clear());
        let bytes: Vec<u8> = (1..=3).flat_map(|page| world.image(page, 0)).collect();
        world.disk.edit(&super::super::world::sim_path(), |file| *file = bytes);
        Scenery { world: Arc::new(Mutex::new(world)), holder: Arc::default(), _real: real }
    }

    fn party(&self, number: u64, how: How) -> Party {
        let engine = open(&self.world, &self.holder, u64::MAX - number).expect("opened").expect("an engine");
        engine.background.stop();
        let mut world = self.world.lock();
        if !world.is_of(&engine) {
            Settings::for_simulation(world.segment_bytes).copy_to(&engine.settings);
            world.log_id = engine.log_id;
        }
        let habits = Habits {
            full_sync: if how.full { 100 } else { 0 },
            early: 0,
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
        let me = engine.join().expect("a seat");
        let view = View::new(engine.page_bytes, 100 * engine.page_bytes as usize);
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

    fn plan(&self, operation: Operation, nth: u64, goes_on: bool) {
        let fault = Fault { operation, name_contains: ".seg".to_owned(), nth, effect: Effect::Error, goes_on };
        self.world.lock().disk.plan().add(fault);
    }

    fn heal(&self) {
        self.world.lock().disk.plan().clear();
    }

    /// What the next one finds who opens the database, after all have gone.
    fn recovered(&self, parties: Vec<Party>) -> Contents {
        for Party { scene, client } in parties {
            scene.engine.leave(client.me);
            scene.engine.close(false).expect("a poisoned log stays as it is");
        }
        let engine = open(&self.world, &self.holder, u64::MAX - 9).expect("opened").expect("an engine");
        let state = self.world.lock().state();
        engine.close(false).expect("closed");
        state
    }
}

impl Party {
    fn engine(&self) -> &Arc<Engine> {
        &self.scene.engine
    }

    /// One commit, up to its publication.
    fn publishes(&mut self) -> u64 {
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
    fn acknowledges(&mut self) -> Result<(), EngineError> {
        let Phase::Published { sequence, wants_durable, lone } = std::mem::replace(&mut self.client.phase, Phase::Idle)
        else {
            panic!("nothing is published");
        };
        let result = self.engine().acknowledge(sequence, wants_durable, lone);
        self.engine().drop_snapshot(self.client.me);
        result
    }

    fn commits(&mut self) -> u64 {
        let sequence = self.publishes();
        self.acknowledges().expect("acknowledged");
        sequence
    }

    fn ordinal(&self) -> u64 {
        self.engine().tail().ordinal
    }

    fn check_over(&self) {
        let Party { scene, client } = self;
        let refused = scene.engine.check_poison();
        assert!(matches!(refused, Err(EngineError::Poisoned { .. })), "{}{refused:?}", scene.name);
        assert!(scene.engine.prepare(client.view.lane()).is_err(), "{}prepares", scene.name);
        let snapshot = scene.engine.take_snapshot(client.me, true);
        assert!(snapshot <= scene.engine.marks.durable(), "{}sees what is lost", scene.name);
        scene.engine.drop_snapshot(client.me);
    }
}

/// `second` has published a commit; `first` has published more, in a slot that `second` does not have open.
fn in_another_slot(scenery: &Scenery, how: How) -> (Party, Party) {
    let mut first = scenery.party(1, FULL);
    first.commits();
    let mut second = scenery.party(2, how);
    second.commits();
    if !how.full {
        // What it is based on is not visible.
        first.publishes();
    }
    second.publishes();
    let mut third = scenery.party(3, NORMAL);
    // The next one may have been made by the second itself.
    let enough = third.ordinal() + 2;
    while third.ordinal() < enough {
        third.publishes();
        third.client.phase = Phase::Idle;
        third.engine().drop_snapshot(third.client.me);
    }
    (first, second)
}

/// Everybody is told, and nothing comes back that was reported as failed.
fn check_all_over(scenery: &Scenery, error: &EngineError, parties: Vec<Party>) {
    let EngineError::Poisoned { unknown, .. } = error else { panic!("a plain error: {error}") };
    let durable = parties[0].engine().marks.durable();
    parties.iter().for_each(Party::check_over);
    scenery.heal();
    let expected = scenery.world.lock().history[usize::try_from(durable).unwrap()].clone();
    let state = scenery.recovered(parties);
    assert!(*unknown || state == expected, "{state:?} instead of {expected:?}, commit {durable}");
}

/// Too many open files: the slot that another process began cannot be opened, so the flush cannot even begin.
#[test]
fn a_flush_that_cannot_begin_poisons_everybody_in_the_end() {
    for how in [FULL, NORMAL] {
        let scenery = Scenery::new(1);
        let (first, mut second) = in_another_slot(&scenery, how);
        scenery.plan(Operation::Open, 1, true);
        let fired = || scenery.world.lock().disk.plan().fired();
        let error = second.acknowledges().expect_err("it cannot be durable");
        assert!(fired() > 10, "{how:?}: tried {} times", fired());
        check_all_over(&scenery, &error, vec![first, second]);
    }
}

/// The same, but only for a while.
#[test]
fn a_flush_that_cannot_begin_is_tried_again() {
    for how in [FULL, NORMAL] {
        let scenery = Scenery::new(2);
        let (mut first, mut second) = in_another_slot(&scenery, how);
        (1..=5).for_each(|nth| scenery.plan(Operation::Open, nth, false));
        second.acknowledges().expect("acknowledged in the end");
        assert_eq!(scenery.world.lock().disk.plan().fired(), 5, "{how:?}");
        assert!(first.engine().check_poison().is_ok());
        if !how.full {
            first.acknowledges().expect("made durable by the other one");
        }
        first.commits();
    }
}

/// Whatever fails on the medium behind publication: at once, for everybody.
#[test]
fn a_flush_that_fails_poisons_everybody() {
    for (operation, goes_on) in [(Operation::Sync, false), (Operation::Sync, true), (Operation::Write, true)] {
        for how in [FULL, LONE, NORMAL] {
            let scenery = Scenery::new(3);
            let mut first = scenery.party(1, FULL);
            first.commits();
            let mut second = scenery.party(2, how);
            let is_based = !how.full;
            if is_based {
                first.publishes();
            }
            second.publishes();
            if operation == Operation::Write && how == LONE {
                // Its certificate is written already.
                continue;
            }
            scenery.plan(operation, 1, goes_on);
            let error = second.acknowledges().expect_err("it cannot be durable");
            assert_eq!(matches!(error, EngineError::Poisoned { unknown: true, .. }), goes_on, "{error}");
            if is_based {
                let error = first.acknowledges().expect_err("it was rolled back");
                assert!(matches!(error, EngineError::Poisoned { .. }), "{error}");
            }
            check_all_over(&scenery, &error, vec![first, second]);
        }
    }
}

/// A process died with LEADER behind its last store, and what it left cannot be read: nobody waits for ever.
#[test]
fn what_a_dead_leader_left_that_cannot_be_read_ends_in_an_answer() {
    for operation in [Operation::Open, Operation::Read] {
        let scenery = Scenery::new(4);
        let (first, mut second) = in_another_slot(&scenery, FULL);
        let leader = first.engine().try_lead().expect("LEADER is free");
        first.engine().cut_epoch(&leader, false).expect("cut");
        // As if killed: its locks are free, its words stay.
        first.engine().marks.attachment().lock().close();
        *scenery.holder.lock() = None;
        std::mem::forget(leader);
        scenery.plan(operation, 1, true);
        let error = second.acknowledges().expect_err("it cannot be durable");
        let third = scenery.party_is_refused();
        assert!(third, "{operation:?}: who comes now is told");
        check_all_over(&scenery, &error, vec![second]);
    }
}

impl Scenery {
    fn party_is_refused(&self) -> bool {
        open(&self.world, &self.holder, u64::MAX - 8).is_err()
    }
}

#[test]
fn the_database_of_these_tests_is_real_enough() {
    let scenery = Scenery::new(5);
    let mut first = scenery.party(1, LONE);
    let mut second = scenery.party(2, FULL);
    for sequence in (1..20).step_by(2) {
        assert_eq!((first.commits(), second.commits()), (sequence, sequence + 1));
    }
    let expected = scenery.world.lock().history[20].clone();
    assert!(scenery.world.lock().real.join(NAME).exists());
    assert_eq!(scenery.recovered(vec![first, second]), expected);
}
