//! The threads of this process on which engines work beside the calls of their connections: few for all databases.
//!
//! A job is ready, or waits for its time. A thread takes the job that is ready or whose time has come, and runs it; before that it
//! starts another thread where none waits and something else is left, so that no job waits for a long one of another database.
//! Threads start with the first job and end when they had none for a while, all but one as long as a job waits for its time.

use super::stopping::Stopping;
use crate::interleave::Instant;
use crate::os::{between_forks, generation, spawn_without_signals};
use crate::sync::{Condvar, Mutex, MutexGuard};
use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// How long a thread of the process's pool waits for its next job.
const LINGERS: Duration = Duration::from_secs(3);
/// More jobs than this at once wait for each other: of disks that are stuck.
const THREADS_MAX: usize = 64;

/// What a thread of the pool does. A panic ends the job.
pub(super) trait Job: Send + Sync + 'static {
    /// Runs it, once.
    fn run(self: Arc<Self>);
}

/// A job that no thread has begun.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ticket {
    number: u64,
    at: Option<Instant>,
}

/// Tickets so far. Of all pools: one that a forked child inherited is none of its own pool.
static GIVEN: AtomicU64 = AtomicU64::new(0);

#[derive(Default)]
struct Queue {
    /// With the numbers of their tickets.
    ready: VecDeque<(u64, Arc<dyn Job>)>,
    timed: BTreeMap<(Instant, u64), Arc<dyn Job>>,
    threads: usize,
    /// Threads that have no job, those that begin included.
    waiting: usize,
}

impl Queue {
    fn add(&mut self, job: Arc<dyn Job>, at: Option<Instant>) -> Ticket {
        let number = GIVEN.fetch_add(1, Relaxed);
        match at {
            None => self.ready.push_back((number, job)),
            Some(at) => drop(self.timed.insert((at, number), job)),
        }
        Ticket { number, at }
    }

    fn remove(&mut self, ticket: &Ticket) -> bool {
        if let Some(at) = ticket.at {
            return self.timed.remove(&(at, ticket.number)).is_some();
        }
        let place = self.ready.iter().position(|(number, _)| *number == ticket.number);
        place.is_some_and(|place| self.ready.remove(place).is_some())
    }

    fn first_time(&self) -> Option<Instant> {
        self.timed.first_key_value().map(|((at, _), _)| *at)
    }

    /// The job to be run now.
    fn take(&mut self) -> Option<Arc<dyn Job>> {
        if self.first_time().is_some_and(|at| at <= Instant::now()) {
            return self.timed.pop_first().map(|(_, job)| job);
        }
        self.ready.pop_front().map(|(_, job)| job)
    }

    fn is_empty(&self) -> bool {
        self.ready.is_empty() && self.timed.is_empty()
    }
}

/// The threads and their jobs.
pub(super) struct Pool {
    queue: Mutex<Queue>,
    wake: Condvar,
    /// A thread without a job for this time ends.
    lingers: Duration,
}

/// That of this process: a forked child has none of its parent's threads.
static OF_PROCESS: Mutex<Option<(u32, Arc<Pool>)>> = Mutex::new(None);

impl Pool {
    fn new(lingers: Duration) -> Arc<Pool> {
        Arc::new(Pool { queue: Mutex::default(), wake: Condvar::new(), lingers })
    }

    /// The pool of this process.
    pub(super) fn of_process() -> Arc<Pool> {
        let _no_fork = between_forks();
        let mut held = OF_PROCESS.lock();
        let generation = generation();
        if let Some((made_in, pool)) = &*held
            && *made_in == generation
        {
            return Arc::clone(pool);
        }
        let pool = Pool::new(LINGERS);
        // What a child inherited is its parent's, and may have been in use at the fork: left as it is.
        std::mem::forget(held.replace((generation, Arc::clone(&pool))));
        pool
    }

    /// The job runs as soon as a thread has time for it. `None`: the system starts no thread.
    pub(super) fn begin(self: &Arc<Pool>, job: Arc<dyn Job>) -> Option<Ticket> {
        self.add(job, None)
    }

    /// As [`Pool::begin`], at this time.
    pub(super) fn begin_at(self: &Arc<Pool>, job: Arc<dyn Job>, at: Instant) -> Option<Ticket> {
        self.add(job, Some(at))
    }

    /// As [`Pool::begin_at`], for a job whose thread is about to return.
    pub(super) fn go_on_at(&self, job: Arc<dyn Job>, at: Instant) -> Ticket {
        self.queue.lock().add(job, Some(at))
    }

    /// Takes the job back. False: a thread has begun it, or is about to.
    pub(super) fn withdraw(&self, ticket: &Ticket) -> bool {
        self.queue.lock().remove(ticket)
    }

    fn add(self: &Arc<Pool>, job: Arc<dyn Job>, at: Option<Instant>) -> Option<Ticket> {
        let mut queue = self.queue.lock();
        let first = queue.first_time();
        let ticket = queue.add(job, at);
        if !self.one_waits(&mut queue) {
            queue.remove(&ticket);
            return None;
        }
        drop(queue);
        // One that waits for a later time, or for none.
        if at.is_none() || first.is_none() || at < first {
            self.wake.notify_one();
        }
        Some(ticket)
    }

    /// Starts a thread if none waits for jobs and one more may. False: there is none at all.
    fn one_waits(self: &Arc<Pool>, queue: &mut Queue) -> bool {
        if queue.waiting >= queue.ready.len().max(1) || queue.threads >= THREADS_MAX {
            return true;
        }
        let pool = Arc::clone(self);
        if spawn_without_signals("pwal", move || pool.work()).is_ok() {
            queue.threads += 1;
            queue.waiting += 1;
        }
        queue.threads > 0
    }

    /// A thread.
    fn work(self: &Arc<Pool>) {
        Stopping::enter_background();
        let mut idle_since = Instant::now();
        let mut queue = self.queue.lock();
        queue.waiting -= 1;
        loop {
            if let Some(job) = queue.take() {
                if !queue.is_empty() {
                    self.one_waits(&mut queue);
                }
                MutexGuard::unlocked(&mut queue, || {
                    // The panic hook has reported it; the job left its state in order.
                    drop(catch_unwind(AssertUnwindSafe(|| job.run())));
                });
                idle_since = Instant::now();
                continue;
            }
            let first = queue.first_time();
            let may_end = first.is_none() || queue.waiting > 0;
            let now = Instant::now();
            let lingers = self.lingers.saturating_sub(now.saturating_duration_since(idle_since));
            if may_end && lingers.is_zero() {
                queue.threads -= 1;
                if first.is_some() {
                    // One that stays may wait for a later time: this thread was the one that knew of the first.
                    self.wake.notify_one();
                }
                return;
            }
            let until_first = first.map(|at| at.saturating_duration_since(now));
            let at_most = if may_end {
                until_first.map_or(lingers, |first| first.min(lingers))
            } else {
                until_first.unwrap_or(self.lingers)
            };
            queue.waiting += 1;
            self.wake.wait_for(&mut queue, at_most);
            queue.waiting -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::without_new_threads;
    use std::sync::mpsc::{Receiver, Sender, channel};

    /// Sends its name, and then waits until it may end.
    struct Named(&'static str, Sender<&'static str>, Mutex<Option<Receiver<()>>>);

    impl Job for Named {
        fn run(self: Arc<Self>) {
            self.1.send(self.0).unwrap();
            if let Some(end) = self.2.lock().take() {
                end.recv().unwrap();
            }
        }
    }

    fn job(name: &'static str, names: &Sender<&'static str>, end: Option<Receiver<()>>) -> Arc<Named> {
        Arc::new(Named(name, names.clone(), Mutex::new(end)))
    }

    fn next(ran: &Receiver<&'static str>) -> &'static str {
        ran.recv_timeout(Duration::from_secs(30)).unwrap()
    }

    fn threads(pool: &Pool) -> usize {
        pool.queue.lock().threads
    }

    #[test]
    fn a_long_job_holds_up_no_other() {
        let (pool, (names, ran), (ends, end)) = (Pool::new(LINGERS), channel(), channel());
        pool.begin(job("long", &names, Some(end))).unwrap();
        assert_eq!(next(&ran), "long");
        pool.begin_at(job("timed", &names, None), Instant::now() + Duration::from_millis(20)).unwrap();
        pool.begin(job("short", &names, None)).unwrap();
        // In which order depends on how soon a thread gets a processor.
        let mut others = [next(&ran), next(&ran)];
        others.sort_unstable();
        assert_eq!(others, ["short", "timed"]);
        ends.send(()).unwrap();
    }

    #[test]
    fn a_hundred_that_wait_for_their_time_need_one_thread() {
        let (pool, (names, ran)) = (Pool::new(LINGERS), channel());
        let far = Instant::now() + Duration::from_secs(3600);
        let waiting: Vec<Ticket> = (0..100).map(|_| pool.begin_at(job("far", &names, None), far).unwrap()).collect();
        pool.begin_at(job("near", &names, None), Instant::now()).unwrap();
        assert_eq!(next(&ran), "near", "it is seen though another time was waited for");
        // While the one ran the job another began to wait.
        assert!(threads(&pool) <= 2, "{}", threads(&pool));
        assert!(waiting.iter().all(|ticket| pool.withdraw(ticket)));
        assert!(!pool.withdraw(&waiting[0]), "withdrawn before");
        assert!(ran.try_recv().is_err());
    }

    /// What is asked for then is done otherwise, or not at all: it must not be done later as well.
    #[test]
    fn a_job_for_which_there_is_no_thread_is_not_kept() {
        let (pool, (names, ran)) = (Pool::new(LINGERS), channel());
        without_new_threads(|| {
            assert!(pool.begin(job("refused", &names, None)).is_none());
            assert!(pool.begin_at(job("refused, too", &names, None), Instant::now()).is_none());
        });
        assert!(pool.queue.lock().is_empty());
        pool.begin(job("next", &names, None)).unwrap();
        assert_eq!(next(&ran), "next");
    }

    #[test]
    fn a_panic_ends_the_job_and_not_the_thread() {
        struct Panics;
        impl Job for Panics {
            fn run(self: Arc<Self>) {
                panic!("as the test wants it");
            }
        }
        let (pool, (names, ran)) = (Pool::new(LINGERS), channel());
        pool.begin(Arc::new(Panics)).unwrap();
        pool.begin_at(job("later", &names, None), Instant::now() + Duration::from_millis(20)).unwrap();
        assert_eq!(next(&ran), "later");
    }

    /// Of two threads that wait, the one that stays may have begun to wait when there was no earlier time than the far one.
    #[test]
    fn the_thread_that_stays_waits_for_the_first_time() {
        /// Runs a job, and then has another one at a time of its own.
        struct GoesOn(Arc<Pool>, Arc<Named>, Arc<Named>);
        impl Job for GoesOn {
            fn run(self: Arc<Self>) {
                Arc::clone(&self.1).run();
                let next: Arc<Named> = Arc::clone(&self.2);
                self.0.go_on_at(next, Instant::now() + Duration::from_millis(300));
            }
        }
        let (pool, (names, ran), (ends, end)) = (Pool::new(Duration::from_millis(20)), channel(), channel());
        let far = Instant::now() + Duration::from_secs(3600);
        let far = pool.begin_at(job("far", &names, None), far).unwrap();
        let [first, later] = [("first", Some(end)), ("later", None)].map(|(name, end)| job(name, &names, end));
        pool.begin(Arc::new(GoesOn(Arc::clone(&pool), first, later))).unwrap();
        assert_eq!(next(&ran), "first");
        pool.begin(job("short", &names, None)).unwrap();
        assert_eq!(next(&ran), "short");
        let began = std::time::Instant::now();
        while threads(&pool) > 2 {
            assert!(began.elapsed() < Duration::from_secs(30), "one runs a job, and one waits for the far time");
            std::thread::yield_now();
        }
        ends.send(()).unwrap();
        assert_eq!(next(&ran), "later");
        assert!(pool.withdraw(&far));
    }

    #[test]
    fn threads_end_when_nothing_is_left() {
        let (pool, (names, ran)) = (Pool::new(LINGERS), channel());
        pool.begin(job("only", &names, None)).unwrap();
        assert_eq!(next(&ran), "only");
        let began = std::time::Instant::now();
        while threads(&pool) > 0 {
            assert!(began.elapsed() < Duration::from_secs(30), "it does not end");
            std::thread::yield_now();
        }
        pool.begin(job("again", &names, None)).unwrap();
        assert_eq!(next(&ran), "again");
    }
}
