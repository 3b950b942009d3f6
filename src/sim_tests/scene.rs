//! What connections find around them, in both simulations: the engine of their process, the world, what is like their
//! application, and what is to be noted for the checks.

use super::world::World;
use crate::disk::sim::Dice;
use crate::engine::{Engine, EngineError};
use crate::interleave::step;
use crate::sqlite::Code;
use crate::sync::Mutex;
use std::cell::Cell;
use std::sync::Arc;

/// Of the kinds of checkpoints only that of an idle log.
pub const IDLE_ONLY: u64 = 0;

/// What an application is like, in per cent.
#[derive(Clone, Copy, Debug)]
pub struct Habits {
    pub full_sync: u32,
    pub early: u32,
    pub rolls_back: u32,
    pub leads: u32,
    pub reads: u32,
    pub checkpoints: u32,
    pub leaders_die: u32,
    /// Of [`Scene::checkpoint`]; or [`IDLE_ONLY`].
    pub checkpoint_kinds: u64,
    pub goes_on_within: u32,
    /// A view is built anew beyond so many frames.
    pub bound: u32,
    pub lane_pages: usize,
    pub pages_of_commit: u32,
}

impl Habits {
    pub fn any(dice: &mut Dice) -> Habits {
        Habits {
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
        }
    }
}

/// Which locks of the engine nobody has who stands still meanwhile.
#[derive(Clone, Copy, Debug)]
pub struct Free {
    pub append: bool,
    pub leader: bool,
    pub creating: bool,
    pub checkpoint: bool,
    pub database_handle: bool,
    pub frames: bool,
}

impl Free {
    /// Whoever has one goes on.
    const ALL: Free =
        Free { append: true, leader: true, creating: true, checkpoint: true, database_handle: true, frames: true };

    pub fn can_flush(self) -> bool {
        // A certificate may need the next segment.
        self.append && self.leader && self.creating && self.frames
    }

    pub fn can_publish(self) -> bool {
        self.append && self.frames
    }

    fn can_checkpoint(self) -> bool {
        self.can_flush() && self.checkpoint && self.database_handle
    }
}

pub struct Scene {
    pub world: Arc<Mutex<World>>,
    pub engine: Arc<Engine>,
    pub habits: Habits,
    /// Before each of its events.
    pub name: String,
    /// Others go on while this thread waits. Else what would wait for somebody who stands still is not begun.
    pub waits: bool,
    /// How deep steps go on within steps.
    pub depth: Cell<u32>,
    /// The disk was full at some moment of this step.
    pub was_full: Cell<bool>,
}

impl Scene {
    pub fn new(world: World, engine: Arc<Engine>, habits: Habits) -> Scene {
        Scene {
            world: Arc::new(Mutex::new(world)),
            engine,
            habits,
            name: String::new(),
            waits: false,
            depth: Cell::new(0),
            was_full: Cell::new(false),
        }
    }

    pub fn percent(&self, percent: u32) -> bool {
        self.world.lock().dice.percent(percent)
    }

    pub fn below(&self, end: u64) -> u64 {
        self.world.lock().dice.below(end)
    }

    pub fn say(&self, what: impl Into<String>) {
        let depth = self.depth.get() as usize;
        self.world.lock().say(format!("{}{}{}", self.name, "  ".repeat(depth), what.into()));
    }

    pub fn is_nested(&self) -> bool {
        self.depth.get() > 0
    }

    pub fn is_over(&self) -> bool {
        let world = self.world.lock();
        world.disk.is_off() || world.violation.is_some()
    }

    pub fn free(&self) -> Free {
        if self.waits {
            return Free::ALL;
        }
        let engine = &self.engine;
        let control = engine.log.marks.control();
        let [_, append, leader, checkpoint] = control.holders();
        Free {
            append: append.is_none(),
            leader: leader.is_none(),
            creating: control.reservations().holders().next().is_none(),
            checkpoint: checkpoint.is_none(),
            database_handle: engine.exclusive.database_handle.try_lock().is_some(),
            frames: engine.frames.is_free(),
        }
    }

    pub fn checkpoint(&self) {
        if !self.free().can_checkpoint() {
            return;
        }
        let kind = if self.habits.checkpoint_kinds == IDLE_ONLY { 2 } else { self.below(self.habits.checkpoint_kinds) };
        let (visible_first, shrinks) = (self.percent(50), self.percent(30));
        self.say(format!("checkpoint {kind}"));
        let result = if visible_first { self.engine.checkpointer.make_visible() } else { Ok(()) };
        if !self.free().can_checkpoint() {
            return;
        }
        let backfilled = self.engine.log.marks.backfilled();
        let result = result.and_then(|()| match kind {
            0 => self.engine.checkpointer.checkpoint_on_request(),
            1 => self.engine.checkpointer.checkpoint_in_background(),
            _ => self.engine.checkpointer.checkpoint_when_idle().map(|_| ()),
        });
        if kind == 2 && self.engine.log.marks.backfilled() > backfilled {
            self.world.lock().idle_checkpoints += 1;
        }
        if shrinks && result.is_ok() && self.free().can_checkpoint() {
            // As `wal_checkpoint(TRUNCATE)`.
            self.engine.checkpointer.shrink();
        }
        if result.is_ok() && visible_first && shrinks {
            self.rest();
        }
        let (marks, certified) = (&self.engine.log.marks, self.engine.log.marks.certified());
        self.say(format!(
            "  backfilled {} certified {:?}: {result:?}",
            marks.backfilled(),
            (certified.durable, certified.backfilled)
        ));
        if let Err(error) = result {
            self.check_error(&error);
        }
    }

    /// The log is retired with its connections open, where nothing is left to do before: else it would wait for those who
    /// stand still.
    fn rest(&self) {
        let (engine, marks) = (&self.engine, &self.engine.log.marks);
        let is_quiet = marks.backfilled() == marks.published() && marks.certified().durable >= marks.visible();
        if !is_quiet || !self.free().can_checkpoint() || engine.membership.one_thread.try_lock().is_none() {
            return;
        }
        let result = engine.rest();
        self.say(format!("rest: {result:?}"));
        match result {
            Err(error) if error.code() != Code::BUSY => self.check_error(&error),
            _ => {}
        }
    }

    /// An error in a world where nothing failed, or another one than what failed.
    pub fn check_error(&self, error: &EngineError) {
        let mut world = self.world.lock();
        if world.disk.is_off() {
            return;
        }
        let explained = world.disk.plan().fired() > 0
            || (self.was_full.get() && error.code() == Code::FULL && !self.engine.log.is_poisoned())
            // Another process has had it for long.
            || (self.waits && matches!(error, EngineError::LockHeld { .. } | EngineError::InitHeld { .. }));
        if !explained {
            world.violate(format!("an error out of nowhere: {error} ({:?})", error.code()));
        }
    }

    /// What others have published by now, as far as it is not known yet.
    pub fn catch_up(&self) {
        self.world.lock().catch_up(&self.engine);
    }

    /// What a failed flush means for what was answered: what was answered with an error is gone, unless it says that it is not
    /// known.
    pub fn note_poison(&self) {
        let Err(EngineError::Poisoned { unknown, .. }) = self.engine.log.check_poison() else { return };
        let durable = self.engine.log.marks.durable();
        let kept = self.engine.log.marks.control().kept_by_poison().unwrap_or(durable);
        let mut world = self.world.lock();
        if !world.is_of(&self.engine) {
            return;
        }
        if world.disk.plan().fired() == 0 {
            if !world.disk.is_off() {
                world.violate("poisoned out of nowhere");
            }
            return;
        }
        world.may_lose(durable, kept);
        if !unknown && !world.disk.is_off() && world.ceiling.is_none() {
            world.say(format!("poisoned, rolled back to {kept}, durable {durable}"));
            world.ceiling = Some(kept);
        }
    }

    /// A commit was reported as failed.
    pub fn not_committed(&self, sequence: u64) {
        self.catch_up();
        let unknown = matches!(self.engine.log.check_poison(), Err(EngineError::Poisoned { unknown: true, .. }));
        let mut world = self.world.lock();
        if !world.disk.is_off() && !unknown {
            world.forget_doubt(sequence);
        }
    }

    /// Who saw commit `sequence` may rely on every commit up to it that asked for durability.
    pub fn seen(&self, sequence: u64) {
        self.catch_up();
        let mut world = self.world.lock();
        if !world.is_of(&self.engine) {
            return;
        }
        let upto = usize::try_from(sequence).unwrap();
        let last = world.wants.iter().take(upto + 1).rposition(|wants| *wants).unwrap_or(0);
        world.must_power = world.must_power.max(last as u64);
        drop(world);
        step("an acknowledgement");
    }
}
