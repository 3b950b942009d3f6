//! EXCL: the process whose database handle holds SQLite's EXCLUSIVE on the database file, so that stock SQLite gets
//! "database is locked".
//!
//! One process at a time holds it. A process that leaves releases it; a process that finds it free, or its holder dead,
//! tries to take it. While the log is active no process needs it: the stamp keeps stock SQLite out. It is required for
//! a retirement only, and before activation, when there is one process.

use super::context::LogContext;
use crate::host::{DatabaseHandle, LockLevel};
use crate::interleave::{self, Instant};
use crate::os::now_coarse_us;
use crate::sqlite::Code;
use crate::sync::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::Duration;

/// How often to check whether the holder is alive, and how often to retry after a failure (microseconds).
const LOOK_EVERY_US: u64 = 200_000;

const STOCK_WAIT: Duration = Duration::from_millis(100);
const STOCK_PAUSE: Duration = Duration::from_millis(1);

/// The engine's handle on the database file, and what this process has of EXCL by it.
pub(crate) struct ExclusiveLock {
    log: Arc<LogContext>,
    /// `None`: this process has left. Held while the database file is read or written.
    pub(crate) database_handle: Mutex<Option<Box<dyn DatabaseHandle>>>,
    /// The database handle of this process holds EXCLUSIVE. Stored under the database handle's mutex.
    held: AtomicBool,
    next_look_us: AtomicU64,
}

impl ExclusiveLock {
    /// `is_held`: the database handle has EXCLUSIVE.
    pub(super) fn new(log: &Arc<LogContext>, database_handle: Box<dyn DatabaseHandle>, is_held: bool) -> ExclusiveLock {
        let (database_handle, held) = (Mutex::new(Some(database_handle)), AtomicBool::new(is_held));
        ExclusiveLock { log: Arc::clone(log), database_handle, held, next_look_us: AtomicU64::new(0) }
    }

    /// At the begin of a read or a write: takes EXCL where no process holds it. Two loads otherwise.
    pub(crate) fn refresh(&self) {
        if self.held.load(SeqCst) {
            return;
        }
        let now = now_coarse_us();
        let next = self.next_look_us.load(SeqCst);
        if now < next || self.next_look_us.compare_exchange(next, now + LOOK_EVERY_US, SeqCst, SeqCst).is_err() {
            return;
        }
        // If another thread uses the database handle, not now.
        if let Some(mut database_handle) = self.database_handle.try_lock()
            && let Some(database_handle) = database_handle.as_mut()
        {
            let _another_time = self.try_acquire(database_handle.as_mut());
        }
    }

    /// Takes EXCL, waiting for the threads that use the database handle, and for a moment for stock connections, which
    /// release their locks when they have seen the stamp. False: another process holds it, or a connection that is not
    /// on pwal has a lock on the file.
    pub(super) fn acquire(&self) -> bool {
        let deadline = Instant::now() + STOCK_WAIT;
        loop {
            if self
                .database_handle
                .lock()
                .as_mut()
                .is_some_and(|database_handle| self.try_acquire(database_handle.as_mut()))
            {
                return true;
            }
            if Instant::now() >= deadline {
                return false;
            }
            interleave::sleep(STOCK_PAUSE);
        }
    }

    /// Whether the process that holds EXCL lives, as far as this can be known.
    pub(crate) fn is_held(&self) -> bool {
        self.log.marks.control().exclusive_holder().is_some_and(|holder| self.log.marks.member().is_alive(holder))
    }

    /// Takes EXCL with this database handle, which is the engine's.
    pub(super) fn try_acquire(&self, database_handle: &mut dyn DatabaseHandle) -> bool {
        if self.held.load(SeqCst) {
            return true;
        }
        let member = self.log.marks.member();
        let (lock, me) = (member.control().exclusive(), member.me());
        let mine = lock.try_acquire(me, false)
            || lock.holder().is_some_and(|holder| !member.is_alive(holder) && lock.take_over(holder, me));
        if !mine {
            return false;
        }
        let locked = database_handle.lock(LockLevel::Shared).and_then(|()| database_handle.lock(LockLevel::Exclusive));
        if let Err(code) = locked {
            // PENDING stays after a refused EXCLUSIVE.
            let unlocked = database_handle.unlock(LockLevel::None);
            lock.release(me);
            if code.primary() != Code::BUSY || unlocked.is_err() {
                self.log.report(code, "cannot lock the database file");
            }
            return false;
        }
        self.held.store(true, SeqCst);
        true
    }

    /// Whether a process holds EXCL; takes it where none does. POSIX locks belong to the process, and are lost without
    /// a notice when any other code in it closes the file. So this process's EXCLUSIVE is taken anew. (Another's cannot
    /// be tested: two SQLite libraries in one process do not exclude each other.)
    pub(super) fn confirm(&self, database_handle: &mut dyn DatabaseHandle) -> bool {
        if !self.held.load(SeqCst) {
            return self.is_held() || self.try_acquire(database_handle);
        }
        // A connection on stock SQLite that comes in just now mostly goes again soon.
        let deadline = Instant::now() + STOCK_WAIT;
        let mut from = LockLevel::Shared;
        loop {
            let locked = database_handle.unlock(from).and_then(|()| database_handle.lock(LockLevel::Shared));
            if locked.and_then(|()| database_handle.lock(LockLevel::Exclusive)).is_ok() {
                return true;
            }
            if Instant::now() >= deadline {
                break;
            }
            from = LockLevel::None;
            interleave::sleep(STOCK_PAUSE);
        }
        let _nothing_is_held = database_handle.unlock(LockLevel::None);
        self.held.store(false, SeqCst);
        let member = self.log.marks.member();
        member.control().exclusive().release(member.me());
        false
    }

    /// The database handle goes, and with it what it holds; another process may take EXCL.
    pub(super) fn release(&self) {
        let mut database_handle = self.database_handle.lock();
        database_handle.take();
        self.held.store(false, SeqCst);
        let member = self.log.marks.member();
        member.control().exclusive().release(member.me());
    }

    /// In a forked child: the parent's database handle, as SQLite's unix VFS remembers it, would keep this process from locking the
    /// database file for ever. Its locks are the parent's own and stay.
    pub(crate) fn forget_inherited(&self) {
        if !self.log.is_of_this_process()
            && let Some(mut database_handle) = self.database_handle.try_lock()
        {
            database_handle.take();
        }
    }

    /// The database handle of a retired engine, with its EXCLUSIVE.
    pub(crate) fn take_database_handle(&self) -> Option<Box<dyn DatabaseHandle>> {
        self.database_handle.lock().take()
    }
}
