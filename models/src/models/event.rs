//! An event: a thread that looks for the news after its ticket, and sleeps if it is not there, is woken once it is. One wake is made; each
//! thread that is woken wakes the next.

use super::check;
use crate::shared::Event;
use crate::sync::atomic::AtomicU64;
use crate::sync::atomic::Ordering::{Relaxed, SeqCst};
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
                    shared.event.wait(ticket, Duration::MAX);
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
