//! The engine's own threads. One prepares segments ahead of need: no sync of a checkpoint keeps it from that. The other runs the
//! checkpoints that commits only ask for, one when nobody has committed for a while, and a flush where much is not durable; and
//! it retires the log when nobody has committed for long.
//!
//! Each starts with the first wish and ends with the engine, which it does not keep alive.

use super::{Engine, EngineError};
use crate::interleave::{self, Instant};
use crate::sync::{Condvar, Mutex};
use std::cell::Cell;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

/// A log to which nobody commits for so long is idle.
const IDLE: Duration = Duration::from_millis(500);
/// A thread that nobody has a wish for ends after so long: a process may have many databases.
const LINGERS: Duration = Duration::from_secs(3);

#[derive(Debug, Default)]
struct Requests {
    segment: bool,
    checkpoint: bool,
    flush: bool,
    /// Look whether the log is idle.
    watch: bool,
    stop: bool,
    thread: Option<JoinHandle<()>>,
}

thread_local! {
    /// This thread is an engine's own.
    static IS_BACKGROUND: Cell<bool> = const { Cell::new(false) };
}

impl Requests {
    fn is_empty(&self) -> bool {
        !self.segment && !self.checkpoint && !self.flush && !self.watch && !self.stop
    }
}

#[derive(Debug, Default)]
struct Shared {
    /// As in the wishes: for who waits in the middle of one.
    stopping: AtomicBool,
    /// A wish to watch is there, or being fulfilled.
    watching: AtomicBool,
    requests: Mutex<Requests>,
    wake: Condvar,
    /// What is under way shall not be brought to its end.
    gives_up: AtomicBool,
}

/// A thread and its wishes.
#[derive(Debug, Default)]
struct Worker(Arc<Shared>);

#[derive(Debug, Default)]
pub(super) struct Background {
    segments: Worker,
    checkpoints: Worker,
}

impl Background {
    /// The next segment shall be ready before it is needed.
    pub(super) fn request_segment(&self, engine: &Arc<Engine>) {
        self.segments.request(engine, |requests| &mut requests.segment);
    }

    /// A checkpoint shall run.
    pub(super) fn request_checkpoint(&self, engine: &Arc<Engine>) {
        self.checkpoints.request(engine, |requests| &mut requests.checkpoint);
    }

    /// What is published shall become durable, though nobody waits for it.
    pub(super) fn request_flush(&self, engine: &Arc<Engine>) {
        self.checkpoints.request(engine, |requests| &mut requests.flush);
    }

    /// There is a commit that is to be checkpointed when nobody commits any more. Cheap when that is known.
    pub(super) fn watch(&self, engine: &Arc<Engine>) {
        let worker = &self.checkpoints;
        // Read first: the word is written by nobody then. Whoever takes the wish away looks for commits behind that.
        let is_wished = worker.0.watching.load(SeqCst) || worker.0.watching.swap(true, SeqCst);
        if !is_wished && !worker.request(engine, |requests| &mut requests.watch) {
            worker.0.watching.store(false, SeqCst);
        }
    }

    /// Whether this is one of the threads, and it shall end: then it waits for nobody any more.
    pub(super) fn stops_here(&self) -> bool {
        let stops = |worker: &Worker| worker.0.stopping.load(SeqCst);
        IS_BACKGROUND.get() && (stops(&self.segments) || stops(&self.checkpoints))
    }

    /// Whether the pass of this thread is left to others.
    pub(super) fn gives_up_checkpoint(&self) -> bool {
        self.checkpoints.0.gives_up.load(SeqCst)
    }

    /// They may start again behind [`Background::stop`].
    pub(super) fn allow(&self) {
        self.segments.allow();
        self.checkpoints.allow();
    }

    /// Ends the threads and waits for them. A segment that is being made is given up; so is a checkpoint, if `leaves`: other
    /// processes do it.
    pub(super) fn stop(&self, leaves: bool) {
        let threads = [self.segments.end(true), self.checkpoints.end(leaves)];
        for thread in threads.into_iter().flatten() {
            if thread.thread().id() != std::thread::current().id() {
                // A panic there has been told by the hook; the engine is going anyway.
                drop(thread.join());
            }
        }
    }
}

impl Worker {
    /// False: there is no thread to fulfil it.
    fn request(&self, engine: &Arc<Engine>, request: impl Fn(&mut Requests) -> &mut bool) -> bool {
        let mut requests = self.0.requests.lock();
        if requests.stop {
            return false;
        }
        // It ends by itself only by a panic, which has been told.
        if requests.thread.as_ref().is_none_or(JoinHandle::is_finished) {
            requests.thread = self.start(engine);
            if requests.thread.is_none() {
                return false;
            }
        }
        // Every commit may wish the same until it is fulfilled, and a notice is a system call.
        if !std::mem::replace(request(&mut requests), true) {
            self.0.wake.notify_one();
        }
        true
    }

    /// No thread (the system refuses one): the wish is nobody's until the next one, writers make their segments themselves
    /// and checkpoints run when SQLite asks with a wait.
    fn start(&self, engine: &Arc<Engine>) -> Option<JoinHandle<()>> {
        if interleave::is_simulated() {
            // The simulation does the work itself, at moments of its choice.
            return None;
        }
        let (shared, engine) = (Arc::clone(&self.0), Arc::downgrade(engine));
        crate::shared::spawn_without_signals("pwal", move || run(&shared, &engine)).ok()
    }

    fn allow(&self) {
        let mut requests = self.0.requests.lock();
        let thread = requests.thread.take();
        *requests = Requests { thread, ..Requests::default() };
        self.0.stopping.store(false, SeqCst);
        self.0.watching.store(false, SeqCst);
        self.0.gives_up.store(false, SeqCst);
    }

    /// No more wishes; the thread, to be waited for.
    fn end(&self, gives_up: bool) -> Option<JoinHandle<()>> {
        self.0.gives_up.store(gives_up, SeqCst);
        self.0.stopping.store(true, SeqCst);
        let mut requests = self.0.requests.lock();
        requests.stop = true;
        self.0.wake.notify_one();
        requests.thread.take()
    }
}

fn run(shared: &Shared, engine: &Weak<Engine>) {
    IS_BACKGROUND.set(true);
    // The last commit when it was last looked whether the log is idle.
    let mut watched: Option<u64> = None;
    // The last commit of an idle log, and when it is retired if that one still is the last then.
    let mut retires: Option<(u64, Instant)> = None;
    loop {
        let (segment, checkpoint, flush) = {
            let mut requests = shared.requests.lock();
            while requests.is_empty() {
                let at_most = match retires {
                    _ if watched.is_some() => IDLE,
                    Some((_, at)) => at.saturating_duration_since(Instant::now()),
                    None => LINGERS,
                };
                let timed_out = shared.wake.wait_for(&mut requests, at_most);
                if timed_out && watched.is_none() && retires.is_none() && requests.is_empty() {
                    // The next wish starts another one.
                    requests.thread = None;
                    return;
                }
                if timed_out {
                    break;
                }
            }
            if requests.stop {
                return;
            }
            if std::mem::take(&mut requests.watch) {
                (watched, retires) = (Some(0), None);
            }
            let Requests { segment, checkpoint, flush, .. } = &mut *requests;
            (std::mem::take(segment), std::mem::take(checkpoint), std::mem::take(flush))
        };
        let Some(engine) = engine.upgrade() else { return };
        if segment {
            engine.prepare_next_segment();
        }
        if flush {
            log_failure(&engine, "flush", engine.flush_ahead());
        }
        if checkpoint {
            log_failure(&engine, "checkpoint", engine.checkpoint_in_background());
        }
        if segment || checkpoint || flush {
            continue;
        }
        let published = engine.marks.published();
        let retires_at = || Some((published, Instant::now() + engine.settings.idle_retire()?));
        if watched.is_none() {
            // It is time, or a notice came for nothing.
            retires = match retires {
                Some((last, at)) if last == published && Instant::now() >= at => {
                    if log_failure(&engine, "retirement of the log", engine.rest_when_idle()) {
                        None
                    } else {
                        retires_at()
                    }
                }
                Some((last, at)) if last == published => Some((last, at)),
                _ => None,
            };
            continue;
        }
        if watched == Some(published) {
            // A commit from here on wakes the thread again.
            shared.watching.store(false, SeqCst);
            if !log_failure(&engine, "checkpoint", engine.checkpoint_when_idle()) {
                watched = None;
                retires = retires_at();
            }
        } else {
            watched = watched.map(|_| published);
        }
    }
}

fn log_failure<T: Default>(engine: &Engine, what: &str, result: Result<T, EngineError>) -> T {
    result.unwrap_or_else(|error| {
        // It gave up a wait, or what it was at, to end.
        if matches!(error, EngineError::GivenUp) || engine.background.stops_here() {
            return T::default();
        }
        let text = format!("pwal: {what} of {}: {error}", engine.path.display());
        engine.context.host.log(error.code().number(), &text);
        T::default()
    })
}
