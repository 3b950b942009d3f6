//! The engine's own thread: prepares slots ahead of need and runs the checkpoints that commits only ask for.
//!
//! It starts with the first wish and ends with the engine, which it does not keep alive.

use super::{Engine, EngineError};
use parking_lot::{Condvar, Mutex};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

/// A log to which nobody commits for so long is idle: what a pass under load had to leave is finished then.
const IDLE: Duration = Duration::from_millis(100);

#[derive(Debug, Default)]
struct Wishes {
    slot: bool,
    checkpoint: bool,
    stop: bool,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    wishes: Mutex<Wishes>,
    wake: Condvar,
}

#[derive(Debug, Default)]
pub(super) struct Background(Arc<Shared>);

impl Background {
    /// The next slot shall be ready before it is needed.
    pub(super) fn want_slot(&self, engine: &Arc<Engine>) {
        self.want(engine, |wishes| &mut wishes.slot);
    }

    /// A checkpoint shall run.
    pub(super) fn want_checkpoint(&self, engine: &Arc<Engine>) {
        self.want(engine, |wishes| &mut wishes.checkpoint);
    }

    fn want(&self, engine: &Arc<Engine>, wish: impl Fn(&mut Wishes) -> &mut bool) {
        let mut wishes = self.0.wishes.lock();
        if wishes.stop || *wish(&mut wishes) {
            return;
        }
        *wish(&mut wishes) = true;
        if wishes.thread.is_none() {
            wishes.thread = self.start(engine);
        }
        self.0.wake.notify_one();
    }

    /// No thread (the system refuses one): the wishes are nobody's, writers make their slots themselves and
    /// checkpoints run when SQLite asks with a wait.
    fn start(&self, engine: &Arc<Engine>) -> Option<JoinHandle<()>> {
        let (shared, engine) = (Arc::clone(&self.0), Arc::downgrade(engine));
        crate::shared::spawn_without_signals("pwal", move || run(&shared, &engine)).ok()
    }

    /// Ends the thread and waits for it.
    pub(super) fn stop(&self) {
        let thread = {
            let mut wishes = self.0.wishes.lock();
            wishes.stop = true;
            self.0.wake.notify_one();
            wishes.thread.take()
        };
        if let Some(thread) = thread
            && thread.thread().id() != std::thread::current().id()
        {
            // A panic there has been told by the hook; the engine is going anyway.
            drop(thread.join());
        }
    }
}

fn run(shared: &Shared, engine: &Weak<Engine>) {
    // The commit after which an idle pass is due, and nobody has committed since.
    let mut unfinished: Option<u64> = None;
    loop {
        let (slot, checkpoint) = {
            let mut wishes = shared.wishes.lock();
            while !wishes.slot && !wishes.checkpoint && !wishes.stop {
                if unfinished.is_none() {
                    shared.wake.wait(&mut wishes);
                } else if shared.wake.wait_for(&mut wishes, IDLE).timed_out() {
                    break;
                }
            }
            if wishes.stop {
                return;
            }
            (std::mem::take(&mut wishes.slot), std::mem::take(&mut wishes.checkpoint))
        };
        let Some(engine) = engine.upgrade() else { return };
        if slot {
            engine.prepare_next_slot();
        }
        let published = engine.marks.published();
        let idle = !slot && !checkpoint && unfinished == Some(published);
        unfinished = unfinished.map(|_| published);
        if checkpoint {
            tell(&engine, engine.checkpoint_in_background());
            unfinished = Some(engine.marks.published());
        } else if idle {
            tell(&engine, engine.checkpoint_on_request());
            unfinished = None;
        }
    }
}

fn tell(engine: &Engine, result: Result<(), EngineError>) {
    if let Err(error) = result {
        let text = format!("pwal: checkpoint of {}: {error}", engine.path.display());
        engine.context.host.log(error.code().number(), &text);
    }
}
