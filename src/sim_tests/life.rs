//! One life of a process: connections that read and write as `handle` does it, and checkpoints, in a random order on one
//! thread.
//!
//! Before each operation of the disk and within each sync other connections may go on: every place where the engine
//! does I/O without a lock that they need. What would wait for somebody who stands still is not begun.

use super::adapters::{SimHost, set_between};
use super::client::{Client, Phase};
use super::scene::{Habits, IDLE_ONLY, Scene};
use super::world::{NAME, World};
use crate::disk::Database;
use crate::engine::{ClaimedDatabase, Engine, Settings};
use crate::host::Environment;
use crate::shared::{ControlMapping, LockFile, Member};
use crate::view::View;
use std::cell::RefCell;
use std::ops::Deref;
use std::rc::Rc;
use std::sync::Arc;

/// How deep steps go on within steps.
const DEPTH_MAX: u32 = 2;

pub struct Life {
    scene: Scene,
    clients: RefCell<Vec<Option<Box<Client>>>>,
}

impl Deref for Life {
    type Target = Scene;

    fn deref(&self) -> &Scene {
        &self.scene
    }
}

impl Life {
    /// A process that claims the database.
    ///
    /// # Errors
    /// The machine stopped.
    pub fn begin(mut world: World) -> Result<Rc<Life>, Box<World>> {
        let dice = &mut world.dice;
        let mut habits = Habits::any(dice);
        let (clients, stop) = (1 + dice.below(3), dice.below(4));
        if world.conditions.lazy {
            habits = Habits { full_sync: 0, early: 0, reads: 10, checkpoints: 2, pages_of_commit: 100, ..habits };
            habits.checkpoint_kinds = IDLE_ONLY;
        }
        world.plan_anew();
        if stop > 0 {
            let after = match stop {
                1 => world.dice.below(30),
                2 => world.dice.below(120),
                _ => world.dice.below(600),
            };
            world.say(format!("LIFE, stops after {after} operations"));
            world.disk.stop_after(after);
        } else {
            world.say("LIFE");
        }
        world.may_lose_header();
        if world.conditions.faults && world.dice.percent(60) {
            for _ in 0..1 + world.dice.below(2) {
                world.plan_fault();
            }
        }
        let Some(engine) = start(&mut world) else { return Err(Box::new(world)) };
        let life = Rc::new(Life { scene: Scene::new(world, engine, habits), clients: RefCell::new(Vec::new()) });
        for _ in 0..clients {
            let me = life.engine.connections.add().unwrap();
            let lane_bytes = life.habits.lane_pages * life.engine.log.page_bytes as usize;
            let client = Client {
                me,
                view: View::new(life.engine.log.page_bytes, lane_bytes),
                seen: 0,
                phase: Phase::Idle,
                is_lost: false,
                is_refused: false,
            };
            life.clients.borrow_mut().push(Some(Box::new(client)));
        }
        let within = Rc::downgrade(&life);
        set_between(Some(Rc::new(move || {
            if let Some(life) = within.upgrade() {
                life.go_on_within();
            }
        })));
        Ok(life)
    }

    fn go_on_within(self: &Rc<Life>) {
        if self.depth.get() >= DEPTH_MAX || self.is_over() || !self.percent(self.habits.goes_on_within) {
            return;
        }
        self.depth.set(self.depth.get() + 1);
        let most = if self.percent(4) { 120 } else { 6 };
        for _ in 0..1 + self.below(most) {
            self.step();
        }
        self.depth.set(self.depth.get() - 1);
    }

    fn step(self: &Rc<Life>) {
        if self.is_over() {
            return;
        }
        let medium = self.world.lock().medium.clone();
        if !self.is_nested() {
            self.was_full.set(medium.is_full());
        }
        if self.world.lock().conditions.fills && self.percent(6) {
            medium.set_full(!medium.is_full());
            self.was_full.set(self.was_full.get() || medium.is_full());
            self.say(if medium.is_full() { "the disk is full" } else { "the disk has space" });
        } else if self.percent(self.habits.checkpoints) {
            self.checkpoint();
        } else if self.percent(self.habits.leaders_die) {
            self.leader_dies();
        } else if self.percent(5) {
            let free = self.free();
            if free.creating && free.append && free.frames {
                self.engine.segments.prepare_next_segment();
            }
        } else {
            let index = self.below(self.clients.borrow().len() as u64) as usize;
            let client = self.clients.borrow_mut()[index].take();
            if let Some(mut client) = client {
                client.step(self);
                self.clients.borrow_mut()[index] = Some(client);
            }
        }
        self.note_poison();
    }

    /// As a process that is killed between the record of its epoch and the sync, with LEADER: the next one takes it over.
    fn leader_dies(self: &Rc<Life>) {
        if !self.free().can_flush() {
            return;
        }
        let mark = self.percent(30);
        let Some(leader) = self.engine.lease.try_lead() else { return };
        let record = self.engine.flusher.write_epoch(&leader, mark);
        self.say(format!("a leader dies after it has written its epoch: {record:?}"));
        if let Err(error) = record {
            self.check_error(&error);
        }
    }

    /// Random steps, then perhaps a clean close; gives the world back.
    pub fn run(self: Rc<Life>) -> World {
        let steps = match self.below(3) {
            0 => self.below(40),
            1 => self.below(120),
            _ => self.below(400),
        };
        for _ in 0..steps {
            self.step();
            if self.is_over() {
                break;
            }
        }
        let closes = !self.is_over() && self.percent(50);
        set_between(None);
        if closes {
            self.finish_clients();
        }
        self.world.lock().medium.set_full(false);
        if closes && !self.is_over() {
            self.close();
        }
        self.note_poison();
        self.clients.borrow_mut().clear();
        self.engine.abandon();
        let life = Rc::into_inner(self).expect("nobody goes on");
        Arc::into_inner(life.scene.world).expect("nobody looks on").into_inner()
    }

    fn finish_clients(self: &Rc<Life>) {
        let count = self.clients.borrow().len();
        for index in 0..count {
            // Whoever stands still may hold what another one waits for: the holders of APPEND and LEADER first.
            let holds = |client: &Option<Box<Client>>| client.as_ref().is_some_and(|client| client.holds());
            let at = self.clients.borrow().iter().position(holds).unwrap_or(index);
            for index in [at, index] {
                let client = self.clients.borrow_mut()[index].take();
                if let Some(mut client) = client {
                    client.finish(self);
                    self.clients.borrow_mut()[index] = Some(client);
                }
            }
        }
    }

    fn close(self: &Rc<Life>) {
        self.was_full.set(false);
        for client in self.clients.borrow_mut().iter_mut().filter_map(Option::take) {
            self.engine.connections.remove(client.me);
        }
        let result = self.engine.retire();
        self.say(format!("close: {result:?}"));
        match result {
            Ok(()) => {
                let mut world = self.world.lock();
                let published = world.history.len() as u64 - 1;
                (world.must_kill, world.must_power) = (published, published);
            }
            Err(error) => self.check_error(&error),
        }
    }
}

fn start(world: &mut World) -> Option<Arc<Engine>> {
    world.take_lock().ok()?;
    let path = world.real.join(NAME);
    let dir = world.directory();
    let mut database_handle = world.database_handle();
    let mut header = [0; 100];
    let database_bytes = database_handle.read_at(&mut header, 0).and_then(|_| database_handle.bytes()).ok()?;
    let disk = Arc::new(world.disk.clone());
    let environment = Environment { host: Box::new(SimHost), disk, defaults: Vec::new() };
    std::fs::create_dir_all(&dir.path).unwrap();
    let lock = LockFile::open(&crate::disk::Directory::open(&dir.path).unwrap(), 0o644).unwrap();
    let mapping = ControlMapping::anonymous().unwrap();
    let me = mapping.control().process_slots().acquire(0, 1, "simulated").unwrap();
    let claimed = ClaimedDatabase {
        member: Member::new(mapping, lock, me),
        path,
        dir: Arc::new(dir),
        database_handle: Box::new(database_handle),
        header,
        page_bytes: world.page_bytes,
        database_bytes,
    };
    let settings = Settings::for_simulation(world.segment_bytes);
    // The same run for the same seed: a log id of its own dice, no thread.
    world.log_id = world.dice.next() | 1;
    let engine = Engine::start_log(&Arc::new(environment), claimed, settings, world.log_id).unwrap();
    engine.background.stop(false);
    Some(engine)
}
