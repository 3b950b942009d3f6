//! GUARD: the process whose broker holds SQLite's EXCLUSIVE on the database file, so that stock SQLite gets "database is
//! locked".
//!
//! One process at a time, as the lock says. Who goes lets go of it; who finds it free, or its holder dead, tries to have
//! it. Nobody needs it while the log is active: the stamp keeps stock SQLite out then. So the one thing it is asked for with
//! certainty is a retirement, and the time before activation, when there is one process.

use super::Engine;
use crate::handle::{Broker, LockLevel};
use crate::interleave::{self, Instant};
use crate::shared::now_coarse_us;
use crate::sqlite::Code;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::Duration;

/// How often it is looked whether the holder lives, and how often who failed tries again (microseconds).
const LOOK_EVERY_US: u64 = 200_000;

const STOCK_WAIT: Duration = Duration::from_millis(100);
const STOCK_PAUSE: Duration = Duration::from_millis(1);

/// What this process has of it.
#[derive(Debug, Default)]
pub(super) struct Guard {
    /// The broker of this process holds EXCLUSIVE. Stored under the broker's mutex.
    held: AtomicBool,
    next_look_us: AtomicU64,
}

impl Guard {
    /// The broker that the engine began with holds EXCLUSIVE.
    pub(super) fn of_claim() -> Guard {
        Guard { held: AtomicBool::new(true), next_look_us: AtomicU64::new(0) }
    }
}

impl Engine {
    /// At the begin of a read or a write: becomes the guard where nobody is. Two loads where somebody is.
    pub(crate) fn look_after_guard(&self) {
        if self.guard.held.load(SeqCst) {
            return;
        }
        let now = now_coarse_us();
        let next = self.guard.next_look_us.load(SeqCst);
        if now < next || self.guard.next_look_us.compare_exchange(next, now + LOOK_EVERY_US, SeqCst, SeqCst).is_err() {
            return;
        }
        // Somebody works with the broker: not now.
        if let Some(mut broker) = self.broker.try_lock()
            && let Some(broker) = broker.as_mut()
        {
            let _another_time = self.try_guard(broker.as_mut());
        }
    }

    /// Becomes the guard, waiting for whoever works with the broker, and for a moment for stock connections, which let go when
    /// they have met the stamp. False: another process is, or a connection that is not on pwal has a lock on the file.
    pub(super) fn be_guard(&self) -> bool {
        let deadline = Instant::now() + STOCK_WAIT;
        loop {
            if self.broker.lock().as_mut().is_some_and(|broker| self.try_guard(broker.as_mut())) {
                return true;
            }
            if Instant::now() >= deadline {
                return false;
            }
            interleave::sleep(STOCK_PAUSE);
        }
    }

    /// Whether the process that is the guard lives, as far as this can be known.
    pub(crate) fn has_guard(&self) -> bool {
        self.marks.control().guard_holder().is_some_and(|holder| self.marks.attachment().is_alive(holder))
    }

    /// Becomes the guard with this broker, which is the engine's.
    pub(super) fn try_guard(&self, broker: &mut dyn Broker) -> bool {
        if self.guard.held.load(SeqCst) {
            return true;
        }
        let attachment = self.marks.attachment();
        let (lock, me) = (attachment.control().guard(), attachment.me());
        let mine = lock.try_acquire(me, false)
            || lock.holder().is_some_and(|holder| !attachment.is_alive(holder) && lock.take_over(holder, me));
        if !mine {
            return false;
        }
        let locked = broker.lock(LockLevel::Shared).and_then(|()| broker.lock(LockLevel::Exclusive));
        if let Err(code) = locked {
            // PENDING stays behind a refused EXCLUSIVE.
            let unlocked = broker.unlock(LockLevel::None);
            lock.release(me);
            if code.primary() != Code::BUSY || unlocked.is_err() {
                let text = format!("pwal: {}: cannot lock the database file", self.path.display());
                self.context.host.log(code.number(), &text);
            }
            return false;
        }
        self.guard.held.store(true, SeqCst);
        true
    }

    /// Whether there is a guard; becomes it where nobody is. POSIX locks are the process's: it loses them where any other code in it
    /// closes the file, and is not told. So this process's EXCLUSIVE is taken anew. (Another's cannot be tested: two SQLite
    /// libraries in one process do not keep each other out.)
    pub(super) fn confirm_guard(&self, broker: &mut dyn Broker) -> bool {
        if !self.guard.held.load(SeqCst) {
            return self.has_guard() || self.try_guard(broker);
        }
        // A connection on stock SQLite that comes in just now mostly goes again soon.
        let deadline = Instant::now() + STOCK_WAIT;
        let mut from = LockLevel::Shared;
        loop {
            let locked = broker.unlock(from).and_then(|()| broker.lock(LockLevel::Shared));
            if locked.and_then(|()| broker.lock(LockLevel::Exclusive)).is_ok() {
                return true;
            }
            if Instant::now() >= deadline {
                break;
            }
            from = LockLevel::None;
            interleave::sleep(STOCK_PAUSE);
        }
        let _nothing_is_held = broker.unlock(LockLevel::None);
        self.guard.held.store(false, SeqCst);
        let attachment = self.marks.attachment();
        attachment.control().guard().release(attachment.me());
        false
    }

    /// The broker goes, and with it what it holds; another process may be the guard.
    pub(super) fn end_guard(&self) {
        let mut broker = self.broker.lock();
        broker.take();
        self.guard.held.store(false, SeqCst);
        let attachment = self.marks.attachment();
        attachment.control().guard().release(attachment.me());
    }
}
