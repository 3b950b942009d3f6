//! The engine's own threads. One prepares segments ahead of need: no sync of a checkpoint delays it. The other runs the
//! checkpoints that commits only request, one when no commit has come for a while, and a flush where much is not
//! durable; and it retires the log of a database without commits.
//!
//! Each starts with the first request and ends with the engine, which it does not keep alive.

use super::context::LogContext;
use super::error::EngineError;
use super::stopping::Stopping;
use crate::interleave::{self, Instant};
use crate::sync::{Condvar, Mutex};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

/// A log without a commit for this time is idle.
const IDLE: Duration = Duration::from_millis(500);
/// A thread without a request for this time ends: a process may have many databases.
const LINGERS: Duration = Duration::from_secs(3);

/// What a thread can be asked for.
#[derive(Clone, Copy, Debug)]
enum Request {
    /// The next segment.
    Segment,
    Checkpoint,
    Flush,
    /// To look whether the log is idle.
    Watch,
}

#[derive(Debug, Default)]
struct Requests {
    /// By [`Request`].
    open: [bool; 4],
    stop: bool,
    thread: Option<JoinHandle<()>>,
}

impl Requests {
    fn is_empty(&self) -> bool {
        self.open == [false; 4] && !self.stop
    }

    fn take(&mut self, request: Request) -> bool {
        std::mem::take(&mut self.open[request as usize])
    }
}

#[derive(Debug, Default)]
struct Shared {
    /// By [`Request`]: it is open, or under way. Until it is done every commit may make the same one, and a notice is a system call.
    pending: [AtomicBool; 4],
    requests: Mutex<Requests>,
    wake: Condvar,
}

impl Shared {
    /// The request is done: what has come up meanwhile is asked for by the next commit.
    fn done(&self, request: Request) {
        self.pending[request as usize].store(false, SeqCst);
    }

    fn forget_pending(&self) {
        for pending in &self.pending {
            pending.store(false, SeqCst);
        }
    }
}

/// A thread that ends by a panic has nothing pending: the next request starts another thread.
struct ForgetsAtPanic<'a>(&'a Shared);

impl Drop for ForgetsAtPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // Under the lock, and with the thread: a request that came before the thread has ended would wait for it for ever.
            let mut requests = self.0.requests.lock();
            (requests.open, requests.thread) = ([false; 4], None);
            self.0.forget_pending();
        }
    }
}

/// A thread and its requests.
#[derive(Debug, Default)]
struct Worker(Arc<Shared>);

/// What the threads are asked for.
pub(super) trait Work: Send + Sync + 'static {
    fn prepare_segment(&self);
    fn flush(&self) -> Result<(), EngineError>;
    fn checkpoint(&self) -> Result<(), EngineError>;
    /// True: another call may shrink the log further, though nothing is committed.
    fn checkpoint_when_idle(&self) -> Result<bool, EngineError>;
    /// Retires the log. False: try again later.
    fn rest(self: &Arc<Self>) -> Result<bool, EngineError>;
}

pub(super) struct Background {
    log: Arc<LogContext>,
    segments: Worker,
    checkpoints: Worker,
}

impl Background {
    pub(super) fn new(log: &Arc<LogContext>) -> Background {
        Background { log: Arc::clone(log), segments: Worker::default(), checkpoints: Worker::default() }
    }

    /// The next segment shall be ready before it is needed.
    pub(super) fn request_segment(&self, work: &Arc<impl Work>) {
        self.segments.request(&self.log, work, Request::Segment);
    }

    /// A checkpoint shall run.
    pub(super) fn request_checkpoint(&self, work: &Arc<impl Work>) {
        self.checkpoints.request(&self.log, work, Request::Checkpoint);
    }

    /// What is published shall become durable, though no commit waits for it.
    pub(super) fn request_flush(&self, work: &Arc<impl Work>) {
        self.checkpoints.request(&self.log, work, Request::Flush);
    }

    /// There is a commit that is to be checkpointed when the database is idle.
    pub(super) fn watch(&self, work: &Arc<impl Work>) {
        self.checkpoints.request(&self.log, work, Request::Watch);
    }

    /// They may start again after [`Background::stop`].
    pub(super) fn allow(&self) {
        self.log.stopping.allow();
        self.segments.allow();
        self.checkpoints.allow();
    }

    /// Ends the threads and waits for them. A segment that is being made is given up; so is a checkpoint, if `leaves`: other
    /// processes do it.
    pub(super) fn stop(&self, leaves: bool) {
        self.log.stopping.stop(leaves);
        let threads = [self.segments.end(), self.checkpoints.end()];
        for thread in threads.into_iter().flatten() {
            if thread.thread().id() != std::thread::current().id() {
                // The panic hook has reported a panic there; the engine ends anyway.
                drop(thread.join());
            }
        }
    }
}

impl Worker {
    /// Cheap while the same is pending.
    fn request(&self, log: &Arc<LogContext>, work: &Arc<impl Work>, request: Request) {
        let pending = &self.0.pending[request as usize];
        // Read first: the flag is not written in the common case.
        if pending.load(SeqCst) || pending.swap(true, SeqCst) {
            return;
        }
        if !self.open(log, work, request) {
            pending.store(false, SeqCst);
        }
    }

    /// False: there is no thread for it.
    fn open(&self, log: &Arc<LogContext>, work: &Arc<impl Work>, request: Request) -> bool {
        let mut requests = self.0.requests.lock();
        if requests.stop {
            return false;
        }
        // It ends without a stop only by a panic, which was reported.
        if requests.thread.as_ref().is_none_or(JoinHandle::is_finished) {
            requests.thread = self.start(log, work);
            if requests.thread.is_none() {
                return false;
            }
        }
        requests.open[request as usize] = true;
        drop(requests);
        // Without the lock, or the thread would wake only to wait for it.
        self.0.wake.notify_one();
        true
    }

    /// Starts the thread. `None` (the system refuses one): the request waits for the next one, writers make their
    /// segments themselves, and checkpoints run when SQLite requests one that waits.
    fn start(&self, log: &Arc<LogContext>, work: &Arc<impl Work>) -> Option<JoinHandle<()>> {
        if interleave::is_simulated() {
            // The simulation does the work itself, at moments of its choice.
            return None;
        }
        let (shared, log, work) = (Arc::clone(&self.0), Arc::clone(log), Arc::downgrade(work));
        crate::shared::spawn_without_signals("pwal", move || run(&shared, &log, &work)).ok()
    }

    fn allow(&self) {
        let mut requests = self.0.requests.lock();
        let thread = requests.thread.take();
        *requests = Requests { thread, ..Requests::default() };
        self.0.forget_pending();
    }

    /// No more wishes; the thread, to be waited for.
    fn end(&self) -> Option<JoinHandle<()>> {
        let mut requests = self.0.requests.lock();
        requests.stop = true;
        self.0.wake.notify_one();
        requests.thread.take()
    }
}

/// What the thread is to do now.
#[derive(Default)]
struct Due {
    segment: bool,
    checkpoint: bool,
    flush: bool,
}

/// What is waited for beside requests.
#[derive(Default)]
struct Idle {
    /// The last commit when it was last looked whether the log is idle.
    watched: Option<u64>,
    /// The last commit of an idle log, and when the log is retired if no other commit follows.
    retires: Option<(u64, Instant)>,
}

/// Waits for requests, or until it is time to look whether the log is idle; `None`: the thread ends.
fn wait_for_requests(shared: &Shared, idle: &mut Idle) -> Option<Due> {
    let mut requests = shared.requests.lock();
    while requests.is_empty() {
        let at_most = match idle.retires {
            _ if idle.watched.is_some() => IDLE,
            Some((_, at)) => at.saturating_duration_since(Instant::now()),
            None => LINGERS,
        };
        let timed_out = shared.wake.wait_for(&mut requests, at_most);
        if timed_out && idle.watched.is_none() && idle.retires.is_none() && requests.is_empty() {
            // The next request starts another thread.
            requests.thread = None;
            return None;
        }
        if timed_out {
            break;
        }
    }
    if requests.stop {
        return None;
    }
    if requests.take(Request::Watch) {
        *idle = Idle { watched: Some(0), retires: None };
    }
    Some(Due {
        segment: requests.take(Request::Segment),
        checkpoint: requests.take(Request::Checkpoint),
        flush: requests.take(Request::Flush),
    })
}

fn run(shared: &Shared, log: &LogContext, work: &Weak<impl Work>) {
    Stopping::enter_background();
    let _forgets = ForgetsAtPanic(shared);
    let mut idle = Idle::default();
    loop {
        let Some(Due { segment, checkpoint, flush }) = wait_for_requests(shared, &mut idle) else { return };
        let Some(work) = work.upgrade() else { return };
        if segment {
            work.prepare_segment();
            shared.done(Request::Segment);
        }
        if flush {
            log_failure(log, "flush", work.flush());
            shared.done(Request::Flush);
        }
        if checkpoint {
            log_failure(log, "checkpoint", work.checkpoint());
            shared.done(Request::Checkpoint);
        }
        if segment || checkpoint || flush {
            continue;
        }
        let published = log.marks.published();
        let retires_at = || Some((published, Instant::now() + log.settings.idle_retire()?));
        if idle.watched.is_none() {
            // It is time, or a notice came for nothing.
            idle.retires = match idle.retires {
                Some((last, at)) if last == published && Instant::now() >= at => {
                    if log_failure(log, "retirement of the log", work.rest()) { None } else { retires_at() }
                }
                Some((last, at)) if last == published => Some((last, at)),
                _ => None,
            };
            continue;
        }
        if idle.watched == Some(published) {
            // A commit from here on wakes the thread again.
            shared.done(Request::Watch);
            if !log_failure(log, "checkpoint", work.checkpoint_when_idle()) {
                idle.watched = None;
                idle.retires = retires_at();
            }
        } else {
            idle.watched = idle.watched.map(|_| published);
        }
    }
}

fn log_failure<T: Default>(log: &LogContext, what: &str, result: Result<T, EngineError>) -> T {
    result.unwrap_or_else(|error| {
        // It gave up a wait, or what it was at, to end.
        if matches!(error, EngineError::GivenUp) || log.stopping.stops_here() {
            return T::default();
        }
        let text = format!("pwal: {what} of {}: {error}", log.path.display());
        log.environment.host.log(error.code().number(), &text);
        T::default()
    })
}
