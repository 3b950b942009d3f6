//! What an engine does beside the calls of its connections: it prepares segments ahead of need, which no sync of a checkpoint delays,
//! runs the checkpoints that commits only request, one when no commit has come for a while, and a flush where much is not
//! durable; and it retires the log of a database without commits.
//!
//! Two workers, each with requests of its own, on the threads of the process ([`pool`](super::pool)): a worker runs on one of them at a
//! time, or waits there for its time, or is free. None keeps its engine alive.

use super::context::LogContext;
use super::error::EngineError;
use super::pool::{Job, Pool, Ticket};
use crate::interleave::{self, Instant};
use crate::sync::{Condvar, Mutex, MutexGuard};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Weak};
use std::thread::ThreadId;
use std::time::Duration;

/// A log without a commit for this time is idle.
const IDLE: Duration = Duration::from_millis(500);

/// What a worker can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Request {
    /// The next segment.
    Segment,
    Checkpoint,
    Flush,
    /// To look whether the log is idle.
    Watch,
}

/// Where a worker is.
#[derive(Debug, Default)]
enum Stage {
    /// Nothing is to be done.
    #[default]
    Free,
    /// The pool has it: it is next, or it is not its time.
    Waits(Ticket),
    /// This thread runs it.
    Runs(ThreadId),
}

/// What is waited for beside requests.
#[derive(Debug, Default)]
struct Idle {
    /// The last commit when it was last looked whether the log is idle, and when to look again.
    watched: Option<(u64, Instant)>,
    /// The last commit of an idle log, and when the log is retired if no other commit follows.
    retires: Option<(u64, Instant)>,
}

impl Idle {
    fn from_commit(last: u64) -> Idle {
        Idle { watched: Some((last, Instant::now() + IDLE)), retires: None }
    }

    fn next_look(&self) -> Option<Instant> {
        self.watched.or(self.retires).map(|(_, at)| at)
    }
}

#[derive(Debug, Default)]
struct Requests {
    /// By [`Request`].
    open: [bool; 4],
    stop: bool,
    stage: Stage,
    /// Not changed by others while the worker runs.
    idle: Idle,
}

impl Requests {
    fn is_empty(&self) -> bool {
        self.open == [false; 4]
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
    /// The worker is free.
    freed: Condvar,
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

    fn free(&self, mut requests: MutexGuard<'_, Requests>) {
        requests.stage = Stage::Free;
        drop(requests);
        self.freed.notify_all();
    }
}

/// A worker that panics has nothing pending: the next request starts it again.
struct ForgetsAtPanic<'a>(&'a Shared);

impl Drop for ForgetsAtPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // Under the lock: a request that came before the worker is free would wait for it for ever.
            let mut requests = self.0.requests.lock();
            (requests.open, requests.idle) = ([false; 4], Idle::default());
            self.0.forget_pending();
            self.0.free(requests);
        }
    }
}

/// A worker of one engine.
#[derive(Debug, Default)]
struct Worker(Arc<Shared>);

/// What the workers are asked for.
pub(super) trait Work: Send + Sync + 'static {
    fn prepare_segment(&self);
    /// True: much is not durable again, or still.
    fn flush(&self) -> Result<bool, EngineError>;
    fn checkpoint(&self) -> Result<(), EngineError>;
    /// True: another call may shrink the log further, though nothing is committed.
    fn checkpoint_when_idle(&self) -> Result<bool, EngineError>;
    /// Retires the log. False: try again later.
    fn rest(self: &Arc<Self>) -> Result<bool, EngineError>;
}

pub(crate) struct Background {
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

    /// They may run again after [`Background::stop`].
    pub(super) fn allow(&self) {
        self.log.stopping.allow();
        self.segments.allow();
        self.checkpoints.allow();
    }

    /// Ends the workers and waits for them. A segment that is being made is given up; so is a checkpoint, if `leaves`: other
    /// processes do it.
    pub(crate) fn stop(&self, leaves: bool) {
        self.log.stopping.stop(leaves);
        if !self.log.is_of_this_process() {
            // A forked child has none of the threads.
            return;
        }
        let workers = [&self.segments, &self.checkpoints];
        workers.iter().for_each(|worker| worker.end());
        workers.iter().for_each(|worker| worker.wait_until_free());
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

    /// False: there is no thread for it. Then the request waits for the next one, writers make their segments themselves, and
    /// checkpoints run when SQLite requests one that waits.
    fn open(&self, log: &Arc<LogContext>, work: &Arc<impl Work>, request: Request) -> bool {
        if interleave::is_simulated() {
            // The simulation does the work itself, at moments of its choice.
            return false;
        }
        let mut requests = self.0.requests.lock();
        if requests.stop {
            return false;
        }
        let pool = Pool::of_process();
        match &requests.stage {
            Stage::Runs(_) => {
                // It looks again before it is free.
                requests.open[request as usize] = true;
                return true;
            }
            // Else it is about to run, as above.
            Stage::Waits(ticket) if !pool.withdraw(ticket) => {
                requests.open[request as usize] = true;
                return true;
            }
            Stage::Waits(_) | Stage::Free => {}
        }
        if request == Request::Watch {
            requests.idle = Idle::from_commit(log.marks.published());
        } else {
            requests.open[request as usize] = true;
        }
        let duty = Arc::new(Duty { shared: Arc::clone(&self.0), log: Arc::clone(log), work: Arc::downgrade(work) });
        let ticket = match requests.idle.next_look() {
            Some(at) if requests.is_empty() => pool.begin_at(duty, at),
            _ => pool.begin(duty),
        };
        let Some(ticket) = ticket else {
            *requests = Requests::default();
            self.0.forget_pending();
            return false;
        };
        requests.stage = Stage::Waits(ticket);
        true
    }

    fn allow(&self) {
        let mut requests = self.0.requests.lock();
        (requests.open, requests.stop) = ([false; 4], false);
        self.0.forget_pending();
    }

    /// No more requests.
    fn end(&self) {
        let mut requests = self.0.requests.lock();
        requests.stop = true;
        if matches!(&requests.stage, Stage::Waits(ticket) if Pool::of_process().withdraw(ticket)) {
            requests.idle = Idle::default();
            self.0.free(requests);
        }
    }

    /// After [`Worker::end`]. Not for the thread that runs it: that ends with what it is at.
    fn wait_until_free(&self) {
        let mut requests = self.0.requests.lock();
        loop {
            match requests.stage {
                Stage::Free => return,
                Stage::Runs(thread) if thread == std::thread::current().id() => return,
                // Each time it is freed it is said; so no time is too long.
                _ => drop(self.0.freed.wait_for(&mut requests, IDLE)),
            }
        }
    }
}

/// What is to be done now.
#[derive(Default)]
struct Due {
    segment: bool,
    checkpoint: bool,
    flush: bool,
}

/// A worker, as a thread runs it.
struct Duty<W> {
    shared: Arc<Shared>,
    log: Arc<LogContext>,
    work: Weak<W>,
}

impl<W: Work> Job for Duty<W> {
    fn run(self: Arc<Self>) {
        let _forgets = ForgetsAtPanic(&self.shared);
        while let Some(due) = self.next() {
            let Some(work) = self.work.upgrade() else { return self.shared.free(self.shared.requests.lock()) };
            self.act(&due, &work);
        }
    }
}

impl<W: Work> Duty<W> {
    /// What is to be done now; `None`: nothing, and the worker waits for its time or is free.
    fn next(self: &Arc<Self>) -> Option<Due> {
        let mut requests = self.shared.requests.lock();
        requests.stage = Stage::Runs(std::thread::current().id());
        if requests.stop {
            requests.idle = Idle::default();
            self.shared.free(requests);
            return None;
        }
        if requests.take(Request::Watch) {
            requests.idle = Idle::from_commit(self.log.marks.published());
        }
        if requests.is_empty() {
            match requests.idle.next_look() {
                None => {
                    self.shared.free(requests);
                    return None;
                }
                Some(at) if at > Instant::now() => {
                    let duty: Arc<Duty<W>> = Arc::clone(self);
                    requests.stage = Stage::Waits(Pool::of_process().go_on_at(duty, at));
                    return None;
                }
                Some(_) => {}
            }
        }
        Some(Due {
            segment: requests.take(Request::Segment),
            checkpoint: requests.take(Request::Checkpoint),
            flush: requests.take(Request::Flush),
        })
    }

    fn act(&self, due: &Due, work: &Arc<W>) {
        let (shared, log) = (&self.shared, &*self.log);
        if due.segment {
            work.prepare_segment();
            shared.done(Request::Segment);
        }
        if due.flush {
            let more = log_failure(log, "flush", work.flush());
            shared.done(Request::Flush);
            // No commit may come that asks for it.
            if more && !crate::drops("flush-again") {
                let mut requests = shared.requests.lock();
                requests.open[Request::Flush as usize] = !requests.stop;
            }
        }
        if due.checkpoint {
            log_failure(log, "checkpoint", work.checkpoint());
            shared.done(Request::Checkpoint);
        }
        let mut idle = std::mem::take(&mut shared.requests.lock().idle);
        if due.segment || due.checkpoint || due.flush {
            idle.watched = idle.watched.map(|(last, _)| (last, Instant::now() + IDLE));
        } else {
            self.look(&mut idle, work);
        }
        shared.requests.lock().idle = idle;
    }

    /// It is time to look whether the log is idle.
    fn look(&self, idle: &mut Idle, work: &Arc<W>) {
        let log = &*self.log;
        let published = log.marks.published();
        let retires_at = || Some((published, Instant::now() + log.settings.idle_retire()?));
        let Some((watched, _)) = idle.watched else {
            idle.retires = match idle.retires {
                Some((last, at)) if last == published && Instant::now() >= at => {
                    if log_failure(log, "retirement of the log", work.rest()) { None } else { retires_at() }
                }
                Some((last, at)) if last == published => Some((last, at)),
                _ => None,
            };
            return;
        };
        if watched != published {
            *idle = Idle::from_commit(published);
            return;
        }
        // A commit from here on is watched for anew.
        self.shared.done(Request::Watch);
        *idle = match log_failure(log, "checkpoint", work.checkpoint_when_idle()) {
            true => Idle::from_commit(published),
            false => Idle { watched: None, retires: retires_at() },
        };
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
