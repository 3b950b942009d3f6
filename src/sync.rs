//! Locks between the threads of one process, which a forked child can go on with.
//!
//! Those of the standard library keep all of their state in themselves. Locks that park threads in a table of the process
//! do not do: a forked child inherits the table with threads in it that it does not have, and loops or crashes in
//! its own waits. Nothing is poisoned by a panic: what a panic may have left half done is the business of its guard at the
//! border to SQLite.
//!
//! `models` compiles the room `shared` and the write queue with locks and atomics of its own instead of these.

use crate::interleave::{self, Instant};
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::{PoisonError, TryLockError};
use std::time::Duration;

pub(crate) use std::sync::atomic;

/// The pause between two attempts of [`Mutex::try_lock_for`].
const PAUSE: Duration = Duration::from_millis(1);

pub(crate) struct Mutex<T>(std::sync::Mutex<T>);

impl<T> Mutex<T> {
    pub(crate) const fn new(value: T) -> Mutex<T> {
        Mutex(std::sync::Mutex::new(value))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        while interleave::is_simulated() {
            match self.try_lock() {
                Some(guard) => return guard,
                None => interleave::sleep(PAUSE),
            }
        }
        MutexGuard { mutex: self, held: Some(self.0.lock().unwrap_or_else(PoisonError::into_inner)) }
    }

    pub(crate) fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        let held = match self.0.try_lock() {
            Ok(held) => held,
            Err(TryLockError::Poisoned(held)) => held.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        Some(MutexGuard { mutex: self, held: Some(held) })
    }

    /// Tries for at most `at_most`.
    pub(crate) fn try_lock_for(&self, at_most: Duration) -> Option<MutexGuard<'_, T>> {
        let deadline = Instant::now() + at_most;
        loop {
            let guard = self.try_lock();
            if guard.is_some() || Instant::now() >= deadline {
                return guard;
            }
            interleave::sleep(PAUSE);
        }
    }
}

#[cfg(test)]
impl<T> Mutex<T> {
    pub(crate) fn into_inner(self) -> T {
        self.0.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Default> Default for Mutex<T> {
    fn default() -> Mutex<T> {
        Mutex::new(T::default())
    }
}

impl<T: fmt::Debug> fmt::Debug for Mutex<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

pub(crate) struct MutexGuard<'a, T> {
    mutex: &'a Mutex<T>,
    /// `None` only while a condition variable or [`MutexGuard::unlocked`] has let go of it.
    held: Option<std::sync::MutexGuard<'a, T>>,
}

impl<T> MutexGuard<'_, T> {
    /// Runs `act` without the lock.
    pub(crate) fn unlocked<R>(guard: &mut Self, act: impl FnOnce() -> R) -> R {
        guard.held = None;
        let result = act();
        guard.held = guard.mutex.lock().held;
        result
    }
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        match &self.held {
            Some(held) => held,
            None => unreachable!("a guard is not used while its lock is free"),
        }
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        match &mut self.held {
            Some(held) => held,
            None => unreachable!("a guard is not used while its lock is free"),
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct Condvar(std::sync::Condvar);

impl Condvar {
    pub(crate) const fn new() -> Condvar {
        Condvar(std::sync::Condvar::new())
    }

    /// True: the time is over.
    pub(crate) fn wait_for<T>(&self, guard: &mut MutexGuard<'_, T>, at_most: Duration) -> bool {
        if interleave::is_simulated() {
            let began = Instant::now();
            MutexGuard::unlocked(guard, || interleave::sleep(at_most));
            return began.elapsed() >= at_most;
        }
        let Some(held) = guard.held.take() else { return true };
        let (held, result) = self.0.wait_timeout(held, at_most).unwrap_or_else(PoisonError::into_inner);
        guard.held = Some(held);
        result.timed_out()
    }

    /// True: the time is over.
    pub(crate) fn wait_until<T>(&self, guard: &mut MutexGuard<'_, T>, deadline: Instant) -> bool {
        self.wait_for(guard, deadline.saturating_duration_since(Instant::now()))
    }

    pub(crate) fn notify_one(&self) {
        self.0.notify_one();
    }

    pub(crate) fn notify_all(&self) {
        self.0.notify_all();
    }
}

#[derive(Debug, Default)]
pub(crate) struct RwLock<T>(std::sync::RwLock<T>);

impl<T> RwLock<T> {
    pub(crate) const fn new(value: T) -> RwLock<T> {
        RwLock(std::sync::RwLock::new(value))
    }

    pub(crate) fn get_mut(&mut self) -> &mut T {
        self.0.get_mut().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn read(&self) -> std::sync::RwLockReadGuard<'_, T> {
        while interleave::is_simulated() {
            match self.0.try_read() {
                Ok(guard) => return guard,
                Err(TryLockError::Poisoned(guard)) => return guard.into_inner(),
                Err(TryLockError::WouldBlock) => interleave::sleep(PAUSE),
            }
        }
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn try_read(&self) -> Option<std::sync::RwLockReadGuard<'_, T>> {
        match self.0.try_read() {
            Ok(guard) => Some(guard),
            Err(TryLockError::Poisoned(guard)) => Some(guard.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    pub(crate) fn try_write(&self) -> Option<std::sync::RwLockWriteGuard<'_, T>> {
        match self.0.try_write() {
            Ok(guard) => Some(guard),
            Err(TryLockError::Poisoned(guard)) => Some(guard.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    pub(crate) fn write(&self) -> std::sync::RwLockWriteGuard<'_, T> {
        while interleave::is_simulated() {
            match self.0.try_write() {
                Ok(guard) => return guard,
                Err(TryLockError::Poisoned(guard)) => return guard.into_inner(),
                Err(TryLockError::WouldBlock) => interleave::sleep(PAUSE),
            }
        }
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::Arc;

    #[test]
    fn a_panic_poisons_nothing() {
        let mutex = Mutex::new(1);
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            let mut held = mutex.lock();
            *held = 2;
            panic!("in the middle");
        }));
        assert!(panicked.is_err());
        assert_eq!(*mutex.lock(), 2);
        assert_eq!(mutex.try_lock().map(|held| *held), Some(2));
    }

    #[test]
    fn a_wait_ends_by_a_notice_or_by_its_time() {
        let shared = Arc::new((Mutex::new(false), Condvar::new()));
        let of_thread = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            let mut told = of_thread.0.lock();
            while !*told {
                assert!(!of_thread.1.wait_for(&mut told, Duration::from_secs(60)), "it was told nothing");
            }
        });
        assert!(shared.1.wait_for(&mut shared.0.lock(), Duration::from_millis(1)));
        *shared.0.lock() = true;
        shared.1.notify_all();
        thread.join().unwrap();
    }

    #[test]
    fn what_is_unlocked_is_free_meanwhile() {
        let mutex = Mutex::new(1);
        let mut held = mutex.lock();
        assert!(mutex.try_lock().is_none());
        assert!(mutex.try_lock_for(Duration::from_millis(2)).is_none());
        let seen = MutexGuard::unlocked(&mut held, || {
            let mut other = mutex.lock();
            *other += 1;
            *other
        });
        assert_eq!((seen, *held), (2, 2));
    }
}
