//! The locks of `src/sync.rs`, as far as the modelled rooms use them, on loom's. A wait ends by a notice only.

use loom::sync as loom;
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::time::Duration;

use crate::interleave::Instant;

pub(crate) mod atomic {
    pub(crate) use crate::seqcst::{AtomicU64, Ordering, fence};
}

pub(crate) struct Mutex<T>(loom::Mutex<T>);

impl<T> Mutex<T> {
    pub(crate) fn new(value: T) -> Mutex<T> {
        Mutex(loom::Mutex::new(value))
    }

    #[track_caller]
    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        MutexGuard { mutex: self, held: Some(self.0.lock().expect("nobody panics while holding it")) }
    }
}

impl<T: Default> Default for Mutex<T> {
    fn default() -> Mutex<T> {
        Mutex::new(T::default())
    }
}

impl<T> fmt::Debug for Mutex<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Mutex")
    }
}

pub(crate) struct MutexGuard<'a, T> {
    mutex: &'a Mutex<T>,
    held: Option<loom::MutexGuard<'a, T>>,
}

impl<T> MutexGuard<'_, T> {
    pub(crate) fn unlocked<R>(guard: &mut Self, act: impl FnOnce() -> R) -> R {
        guard.held = None;
        let result = act();
        guard.held = guard.mutex.lock().held.take();
        result
    }
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.held.as_deref().expect("a guard is not used while its lock is free")
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.held.as_deref_mut().expect("a guard is not used while its lock is free")
    }
}

#[derive(Debug)]
pub(crate) struct Condvar(loom::Condvar);

impl Condvar {
    pub(crate) fn new() -> Condvar {
        Condvar(loom::Condvar::new())
    }

    /// Never true: the time is not over.
    #[track_caller]
    pub(crate) fn wait_for<T>(&self, guard: &mut MutexGuard<'_, T>, _at_most: Duration) -> bool {
        let held = guard.held.take().expect("a guard is not used while its lock is free");
        guard.held = Some(self.0.wait(held).expect("nobody panics while holding it"));
        false
    }

    pub(crate) fn wait_until<T>(&self, guard: &mut MutexGuard<'_, T>, _deadline: Instant) -> bool {
        self.wait_for(guard, Duration::ZERO)
    }

    pub(crate) fn notify_one(&self) {
        self.0.notify_one();
    }

    pub(crate) fn notify_all(&self) {
        self.0.notify_all();
    }
}
