//! A word on which many waiters wait for the same event (the end of a flush): it has no owner.
//!
//! A notification wakes one waiter: all at once would collide on what they do next. A waiter that is woken passes the notification on to
//! the next, unless it does itself what the notification asks for. The chain is broken by a process that dies in it; so every wait has
//! a timeout.
//!
//! Bit 0: there are waiters. The rest counts the notifications; the futex is on the low half. A process that died while
//! it waited leaves the bit set, which costs one needless wake-up.

use crate::os::futex;
use crate::sync::atomic::AtomicU64;
use crate::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

/// News that many wait for.
#[repr(C)]
#[cfg_attr(loom, derive(Default))]
pub struct Event(pub(super) AtomicU64);

impl Event {
    /// What to hand to [`wait`](Event::wait). Take it *before* looking whether the news is there.
    #[must_use]
    pub fn ticket(&self) -> u64 {
        self.0.load(SeqCst) | 1
    }

    /// Waits until there was news after the ticket was taken, at most `timeout`. True: there was; other waiters may still be asleep
    /// ([`pass_on`](Event::pass_on)).
    #[must_use]
    pub fn wait(&self, ticket: u64, timeout: Duration) -> bool {
        let before = ticket & !1;
        match self.0.compare_exchange(before, ticket, SeqCst, SeqCst) {
            Ok(_) => {}
            Err(now) if now == ticket => {}
            Err(_) => return true,
        }
        futex::wait(&self.0, ticket as u32, timeout);
        self.0.load(SeqCst) & !1 != before
    }

    /// Wakes the next waiter: of one that was notified.
    pub fn pass_on(&self) {
        if !crate::drops("event-wakes-next") {
            futex::wake_one(&self.0);
        }
    }

    /// Notifies the waiters: store the news first, then call this. Wakes the first waiter, which passes it on. No
    /// system call if there is none.
    pub fn notify(&self) {
        let mut now = self.0.load(SeqCst);
        loop {
            let then = if crate::drops("event-counts") { now & !1 } else { (now | 1).wrapping_add(1) };
            match self.0.compare_exchange(now, then, SeqCst, SeqCst) {
                Ok(_) => break,
                Err(other) => now = other,
            }
        }
        if now & 1 != 0 {
            futex::wake_one(&self.0);
        }
    }

    /// Wakes one waiter only, which does what is to be done, or passes that on: the others wait for [`notify`](Event::notify).
    pub fn notify_one(&self) {
        // Bit 0 stays.
        if self.0.fetch_add(2, SeqCst) & 1 != 0 {
            futex::wake_one(&self.0);
        }
    }

    /// Waits until `reached` or until [`notify_awaited`](Event::notify_awaited), at most `timeout`. Not to be mixed with
    /// [`wait`](Event::wait) on one event.
    pub fn wait_for(&self, reached: impl Fn() -> bool, timeout: Duration) {
        let ticket = self.ticket();
        if reached() {
            return;
        }
        match self.0.compare_exchange(ticket & !1, ticket, SeqCst, SeqCst) {
            Ok(_) => {}
            Err(now) if now == ticket => {}
            Err(_) => return,
        }
        // Again: what happened before bit 0 was set has notified nothing.
        if !reached() || crate::drops("event-looks-again") {
            futex::wait(&self.0, ticket as u32, timeout);
        }
    }

    /// Wakes all that are in [`wait_for`](Event::wait_for): store what they wait for first. One load where nothing waits.
    pub fn notify_awaited(&self) {
        let now = self.0.load(SeqCst);
        // If another thread changes it first, that one wakes them.
        if now & 1 != 0 && self.0.compare_exchange(now, now.wrapping_add(1), SeqCst, SeqCst).is_ok() {
            futex::wake_all(&self.0);
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::time::Instant;

    /// What a lost wake-up costs: a wait that lasts to its end. A busy machine takes half of that for a whole test.
    const LOST: Duration = Duration::from_secs(60);

    #[test]
    fn news_after_the_ticket_is_not_missed() {
        let event = Event(AtomicU64::new(0));
        let ticket = event.ticket();
        event.notify();
        let begin = Instant::now();
        assert!(event.wait(ticket, LOST));
        assert!(begin.elapsed() < LOST);
    }

    /// Between the look and the sleep: the waiter looks again once it can be seen, so that no wake is needed.
    #[test]
    fn what_happens_before_the_sleep_is_not_missed() {
        let (event, looks) = (Event(AtomicU64::new(0)), std::cell::Cell::new(0));
        let begin = Instant::now();
        event.wait_for(
            || {
                looks.set(looks.get() + 1);
                if looks.get() == 1 {
                    event.notify_awaited();
                }
                looks.get() > 1
            },
            LOST,
        );
        assert!(begin.elapsed() < LOST && looks.get() == 2);
    }

    #[test]
    fn all_that_wait_for_something_are_woken_at_once() {
        let (event, news) = (Event(AtomicU64::new(u64::from(u32::MAX) - 21)), AtomicU64::new(0));
        let begin = Instant::now();
        std::thread::scope(|threads| {
            for _ in 0..4 {
                threads.spawn(|| {
                    for wanted in 1..=300 {
                        while news.load(SeqCst) < wanted {
                            event.wait_for(|| news.load(SeqCst) >= wanted, LOST);
                        }
                    }
                });
            }
            for _ in 1..=300 {
                std::thread::yield_now();
                news.fetch_add(1, SeqCst);
                event.notify_awaited();
            }
        });
        assert!(begin.elapsed() < LOST, "a wake was lost");
    }

    #[test]
    fn all_are_woken() {
        const THREADS: u64 = 4;
        // The count wraps in the half that the futex compares.
        let event = Event(AtomicU64::new(u64::from(u32::MAX) - 201));
        let news = AtomicU64::new(0);
        let seen = AtomicU64::new(0);
        let begin = Instant::now();
        std::thread::scope(|threads| {
            let (event, news, seen) = (&event, &news, &seen);
            for _ in 0..THREADS {
                threads.spawn(move || {
                    for wanted in 1..=300u64 {
                        loop {
                            let ticket = event.ticket();
                            if news.load(SeqCst) >= wanted {
                                break;
                            }
                            if event.wait(ticket, LOST) {
                                event.pass_on();
                            }
                        }
                        seen.fetch_add(1, SeqCst);
                    }
                });
            }
            for round in 1..=300u64 {
                while event.0.load(SeqCst) & 1 == 0 && begin.elapsed() < LOST {
                    std::thread::yield_now();
                }
                news.fetch_add(1, SeqCst);
                event.notify();
                while seen.load(SeqCst) < round * THREADS && begin.elapsed() < LOST {
                    std::thread::yield_now();
                }
            }
        });
        assert!(begin.elapsed() < LOST, "a wake was lost");
    }
}
