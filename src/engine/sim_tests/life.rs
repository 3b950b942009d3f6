//! One life of a process: connections that read and write as `handle` does it, and checkpoints, in a random order on one
//! thread.
//!
//! Before each operation of the disk and within each sync other connections may go on: every place where the engine
//! does I/O without a lock that they need. What would wait for somebody who stands still is not begun.

use super::adapters::{SimHost, set_between};
use super::client::{Client, Phase};
use super::world::{NAME, World};
use crate::disk::Database;
use crate::engine::{Claimed, Engine, EngineError, Settings};
use crate::handle::{Context, Registry};
use crate::shared::{Attachment, Control, LockFile};
use crate::sqlite::Code;
use crate::view::View;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

/// How deep steps go on within steps.
const DEPTH_MAX: u32 = 2;

pub struct Life {
    pub world: RefCell<World>,
    pub engine: Arc<Engine>,
    clients: RefCell<Vec<Option<Box<Client>>>>,
    depth: Cell<u32>,
    /// The disk was full at some moment of this step.
    was_full: Cell<bool>,
    pub habits: Habits,
}

/// Of the kinds of checkpoints only that of an idle log.
const IDLE_ONLY: u64 = 0;

/// What this life's application is like, in per cent.
#[derive(Clone, Copy, Debug)]
pub struct Habits {
    pub full_sync: u32,
    pub early: u32,
    pub rolls_back: u32,
    pub leads: u32,
    pub reads: u32,
    pub checkpoints: u32,
    pub leaders_die: u32,
    /// Of `Life::checkpoint`; or [`IDLE_ONLY`].
    pub checkpoint_kinds: u64,
    pub goes_on_within: u32,
    /// A view is built anew beyond so many frames.
    pub bound: u32,
    pub lane_pages: usize,
    pub pages_of_commit: u32,
}

/// Which locks of the engine nobody has.
#[derive(Clone, Copy, Debug)]
pub struct Free {
    pub append: bool,
    pub leader: bool,
    pub creating: bool,
    pub checkpoint: bool,
    pub broker: bool,
    pub frames: bool,
}

impl Free {
    pub fn can_flush(self) -> bool {
        self.append && self.leader && self.frames
    }

    pub fn can_publish(self) -> bool {
        self.append && self.frames
    }

    fn can_checkpoint(self) -> bool {
        self.can_flush() && self.checkpoint && self.broker
    }
}

impl Life {
    /// A process that claims the database.
    ///
    /// # Errors
    /// The machine stopped.
    pub fn begin(mut world: World) -> Result<Rc<Life>, Box<World>> {
        let dice = &mut world.dice;
        let mut habits = Habits {
            full_sync: dice.pick(&[0, 30, 50, 100]),
            early: dice.pick(&[0, 0, 15, 100]),
            rolls_back: dice.pick(&[0, 15]),
            leads: dice.pick(&[0, 70, 100]),
            reads: dice.pick(&[10, 40]),
            checkpoints: dice.pick(&[0, 2, 2, 8, 25]),
            leaders_die: dice.pick(&[0, 0, 3, 10]),
            checkpoint_kinds: dice.pick(&[1, 3]),
            goes_on_within: dice.pick(&[0, 5, 30]),
            bound: dice.pick(&[3, 20, 1000]),
            lane_pages: dice.pick(&[1, 2, 100, 100]),
            pages_of_commit: dice.pick(&[1, 3, 100]),
        };
        let (clients, stop) = (1 + dice.below(3), dice.below(4));
        if world.conditions.lazy {
            habits = Habits { full_sync: 0, early: 0, reads: 10, checkpoints: 2, pages_of_commit: 100, ..habits };
            habits.checkpoint_kinds = IDLE_ONLY;
        }
        world.disk.plan().reset();
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
        if world.conditions.faults && world.dice.percent(60) {
            for _ in 0..1 + world.dice.below(2) {
                world.plan_fault();
            }
        }
        let Some(engine) = start(&mut world) else { return Err(Box::new(world)) };
        let life = Rc::new(Life {
            clients: RefCell::new(Vec::new()),
            depth: Cell::new(0),
            was_full: Cell::new(false),
            habits,
            world: RefCell::new(world),
            engine,
        });
        for _ in 0..clients {
            let me = life.engine.join().unwrap();
            let lane_bytes = life.habits.lane_pages * life.engine.page_bytes as usize;
            let client = Client {
                me,
                view: View::new(life.engine.page_bytes, lane_bytes),
                seen: 0,
                phase: Phase::Idle,
                is_lost: false,
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

    pub fn percent(&self, percent: u32) -> bool {
        self.world.borrow_mut().dice.percent(percent)
    }

    pub fn below(&self, end: u64) -> u64 {
        self.world.borrow_mut().dice.below(end)
    }

    pub fn say(&self, what: impl Into<String>) {
        let depth = self.depth.get() as usize;
        self.world.borrow_mut().say(format!("{}{}", "  ".repeat(depth), what.into()));
    }

    pub fn is_nested(&self) -> bool {
        self.depth.get() > 0
    }

    pub fn is_over(&self) -> bool {
        let world = self.world.borrow();
        world.disk.is_off() || world.violation.is_some()
    }

    pub fn free(&self) -> Free {
        let engine = &self.engine;
        let words = engine.marks.words();
        let [_, append, leader, checkpoint] = words.holders();
        Free {
            append: append.is_none(),
            leader: leader.is_none(),
            creating: words.create().holder().is_none(),
            checkpoint: checkpoint.is_none(),
            broker: engine.broker.try_lock().is_some(),
            frames: engine.frames.try_write().is_some(),
        }
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
        let full = self.world.borrow().full.clone();
        if !self.is_nested() {
            self.was_full.set(full.is_set());
        }
        if self.world.borrow().conditions.fills && self.percent(6) {
            full.set(!full.is_set());
            self.was_full.set(self.was_full.get() || full.is_set());
            self.say(if full.is_set() { "the disk is full" } else { "the disk has space" });
        } else if self.percent(self.habits.checkpoints) {
            self.checkpoint();
        } else if self.percent(self.habits.leaders_die) {
            self.leader_dies();
        } else if self.percent(5) {
            let free = self.free();
            if free.creating && free.append && free.frames {
                self.engine.prepare_next_slot();
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

    /// As a process that is killed between the cut of its epoch and the sync, with LEADER: the next one takes it over.
    fn leader_dies(self: &Rc<Life>) {
        if !self.free().can_flush() {
            return;
        }
        let mark = self.percent(30);
        let Some(leader) = self.engine.try_lead() else { return };
        let cut = self.engine.cut_epoch(&leader, mark);
        self.say(format!("a leader dies behind its cut: {cut:?}"));
        if let Err(error) = cut {
            self.check_error(&error);
        }
    }

    fn checkpoint(self: &Rc<Life>) {
        if !self.free().can_checkpoint() {
            return;
        }
        let kind = if self.habits.checkpoint_kinds == IDLE_ONLY { 2 } else { self.below(self.habits.checkpoint_kinds) };
        let visible_first = self.percent(50);
        self.say(format!("checkpoint {kind}"));
        let result = if visible_first { self.engine.make_visible() } else { Ok(()) };
        if !self.free().can_checkpoint() {
            return;
        }
        let result = result.and_then(|()| match kind {
            0 => self.engine.checkpoint_on_request(),
            1 => self.engine.checkpoint_in_background(),
            _ => self.engine.checkpoint_when_idle(),
        });
        let marks = &self.engine.marks;
        self.say(format!("  backfilled {} certified {:?}: {result:?}", marks.backfilled(), marks.certified()));
        if let Err(error) = result {
            self.check_error(&error);
        }
    }

    /// An error in a world where nothing failed, or another one than what failed.
    pub fn check_error(&self, error: &EngineError) {
        let mut world = self.world.borrow_mut();
        if world.disk.is_off() {
            return;
        }
        let explained = world.disk.plan().fired() > 0
            || (self.was_full.get() && error.code() == Code::FULL && !self.engine.is_poisoned());
        if !explained {
            world.violate(format!("an error out of nowhere: {error} ({:?})", error.code()));
        }
    }

    /// What a failed flush means for what was answered: what is not durable is gone, unless it says that it is not known.
    pub fn note_poison(&self) {
        let Err(EngineError::Poisoned { unknown, .. }) = self.engine.check_poison() else { return };
        let durable = self.engine.marks.durable();
        let mut world = self.world.borrow_mut();
        if world.disk.plan().fired() == 0 {
            if !world.disk.is_off() {
                world.violate("poisoned out of nowhere");
            }
            return;
        }
        world.must_kill = world.must_kill.min(durable);
        if !unknown && !world.disk.is_off() && world.ceiling.is_none() {
            world.say(format!("poisoned, rolled back to {durable}"));
            world.ceiling = Some(durable);
        }
    }

    /// A commit was reported as failed.
    pub fn not_committed(&self, sequence: u64) {
        let unknown = matches!(self.engine.check_poison(), Err(EngineError::Poisoned { unknown: true, .. }));
        let mut world = self.world.borrow_mut();
        if !world.disk.is_off() && !unknown {
            world.doubt.retain(|(doubtful, _)| *doubtful != sequence);
        }
    }

    /// Who saw commit `sequence` may rely on every commit up to it that asked for durability.
    pub fn seen(&self, sequence: u64) {
        let mut world = self.world.borrow_mut();
        let upto = usize::try_from(sequence).unwrap();
        let last = world.wants.iter().take(upto + 1).rposition(|wants| *wants).unwrap_or(0);
        world.must_power = world.must_power.max(last as u64);
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
        self.world.borrow().full.set(false);
        if closes && !self.is_over() {
            self.close();
        }
        self.note_poison();
        self.clients.borrow_mut().clear();
        self.engine.abandon();
        Rc::into_inner(self).expect("nobody goes on").world.into_inner()
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
            self.engine.leave(client.me);
        }
        let result = self.engine.retire();
        self.say(format!("close: {result:?}"));
        match result {
            Ok(()) => {
                let mut world = self.world.borrow_mut();
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
    let mut broker = world.broker();
    let mut header = [0; 100];
    let database_bytes = broker.read_at(&mut header, 0).and_then(|_| broker.bytes()).ok()?;
    let context = Context {
        host: Box::new(SimHost),
        disk: Arc::new(world.disk.clone()),
        defaults: Vec::new(),
        registry: Registry::default(),
    };
    std::fs::create_dir_all(&dir.path).unwrap();
    let lock = LockFile::open(&dir.path.join(crate::shared::LOCK_NAME), 0o644).unwrap();
    let control = Control::anonymous().unwrap();
    let me = control.words().attach(0, 1, "simulated").unwrap();
    let claimed = Claimed {
        attachment: Attachment::new(control, lock, me),
        path,
        dir: Arc::new(dir),
        broker: Box::new(broker),
        header,
        page_bytes: world.page_bytes,
        database_bytes,
    };
    let settings = Settings::for_simulation(world.segment_bytes);
    let mut engine = Engine::start(&Arc::new(context), claimed, settings).unwrap();
    // The same run for the same seed: a log id of its own dice, no thread.
    let only = Arc::get_mut(&mut engine).unwrap();
    only.log_id = world.dice.next() | 1;
    engine.background.stop();
    Some(engine)
}
