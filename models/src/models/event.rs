//! An event: a thread that looks for the news after its ticket, and sleeps if it is not there, is woken once it is. One wake is made; each
//! thread that is woken passes it on.

use super::check;
use crate::shared::Event;
use crate::sync::atomic::AtomicU64;
use crate::sync::atomic::Ordering::{Relaxed, SeqCst};
use loom::sync::Mutex;
use loom::thread;
use std::sync::Arc;
use std::time::Duration;

#[derive(Default)]
struct News {
    event: Event,
    news: AtomicU64,
}

/// Two wait for the same news, which comes while they look.
pub fn all_are_woken() {
    check("all_are_woken", 3, false, || {
        let shared = Arc::new(News::default());
        let threads = [(); 2].map(|()| {
            let shared = Arc::clone(&shared);
            thread::spawn(move || {
                loop {
                    let ticket = shared.event.ticket();
                    if shared.news.load(SeqCst) == 1 {
                        return;
                    }
                    if shared.event.wait(ticket, Duration::MAX) {
                        shared.event.pass_on();
                    }
                }
            })
        });
        shared.news.store(1, Relaxed);
        shared.event.notify();
        for thread in threads {
            thread.join().expect("it ends");
        }
    });
}

/// Two wait until a number has grown (`wait_for`), which grows while they look; the notification costs a load where none waits.
pub fn all_that_wait_for_something_are_woken() {
    check("all_that_wait_for_something_are_woken", 3, false, || {
        let shared = Arc::new(News::default());
        let threads = [(); 2].map(|()| {
            let shared = Arc::clone(&shared);
            thread::spawn(move || {
                let is_there = || shared.news.load(SeqCst) == 1;
                while !is_there() {
                    shared.event.wait_for(is_there, Duration::MAX);
                }
            })
        });
        shared.news.store(1, SeqCst);
        shared.event.notify_awaited();
        for thread in threads {
            thread.join().expect("it ends");
        }
    });
}

/// Where commits wait for their epochs, as `Durability::wait_until` does.
#[derive(Default)]
struct Flushes {
    /// LEADER.
    leads: AtomicU64,
    append: Mutex<()>,
    published: AtomicU64,
    /// The last commit of each epoch; 0: it is not written.
    epochs: [AtomicU64; 4],
    written: AtomicU64,
    certified: AtomicU64,
    events: [Event; 4],
}

impl Flushes {
    fn event(&self, epoch: u64) -> &Event {
        &self.events[usize::try_from(epoch % 4).unwrap()]
    }

    fn last_of(&self, epoch: u64) -> u64 {
        self.epochs[usize::try_from(epoch % 4).unwrap()].load(SeqCst)
    }

    fn epoch_of(&self, commit: u64) -> u64 {
        let (next, written) = (self.certified.load(SeqCst) + 1, self.written.load(SeqCst));
        if self.last_of(written) < commit { (written + 1).max(next) } else { written.max(next) }
    }

    fn try_to_flush(&self, reached: impl Fn() -> bool) -> bool {
        if self.leads.compare_exchange(0, 1, SeqCst, SeqCst).is_err() {
            return false;
        }
        if !reached() {
            let append = self.append.lock().unwrap();
            let epoch = self.written.load(SeqCst) + 1;
            self.epochs[usize::try_from(epoch % 4).unwrap()].store(self.published.load(SeqCst), SeqCst);
            self.written.store(epoch, SeqCst);
            drop(append);
            self.certified.store(epoch, SeqCst);
            self.event(epoch).notify();
        }
        self.leads.store(0, SeqCst);
        self.event(self.written.load(SeqCst) + 1).notify_one();
        true
    }

    fn commit(&self) {
        let commit = {
            let _append = self.append.lock().unwrap();
            self.published.fetch_add(1, SeqCst) + 1
        };
        let mut elected = None;
        loop {
            let epoch = self.epoch_of(commit);
            let event = self.event(epoch);
            let ticket = event.ticket();
            let reached = || self.last_of(self.certified.load(SeqCst)) >= commit;
            if reached() {
                break;
            }
            if self.try_to_flush(reached) {
                elected = None;
                continue;
            }
            elected = None;
            if event.wait(ticket, Duration::MAX) {
                if self.certified.load(SeqCst) >= epoch {
                    event.pass_on();
                } else {
                    elected = Some(event);
                }
            }
        }
        if let Some(event) = elected {
            event.pass_on();
        }
    }
}

/// Three commit at once: each becomes durable, whichever of them leads, and none sleeps for ever.
pub fn all_become_durable() {
    check("all_become_durable", 2, false, || {
        let shared = Arc::new(Flushes::default());
        let threads = [(); 2].map(|()| {
            let shared = Arc::clone(&shared);
            thread::spawn(move || shared.commit())
        });
        shared.commit();
        for thread in threads {
            thread.join().expect("it ends");
        }
    });
}
