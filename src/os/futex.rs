//! Waiting on a word, and waking the waiters.
//!
//! Linux: a futex on the half of the word that changes, not private, so that it also works between processes on a
//! mapped file. Elsewhere: a table of condition variables, for one process. A wait may always end without a reason;
//! callers check the word again.

use crate::interleave;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

/// Waits until the low 32 bits of `word` are not `expected`, another thread wakes it, or `timeout` is over.
pub(crate) fn wait(word: &AtomicU64, expected: u32, timeout: Duration) {
    if interleave::is_simulated() {
        if word.load(SeqCst) as u32 == expected {
            interleave::sleep(timeout);
        }
        return;
    }
    os::wait(word, expected, timeout);
}

/// Wakes one that waits on `word`.
pub(crate) fn wake_one(word: &AtomicU64) {
    os::wake(word);
}

/// Wakes all that wait on `word`.
pub(crate) fn wake_all(word: &AtomicU64) {
    os::wake_all(word);
}

#[cfg(any(target_os = "linux", target_os = "android"))]
mod os {
    use super::{AtomicU64, Duration};
    use rustix::thread::futex::{self, Flags};
    use rustix::time::Timespec;
    use std::sync::atomic::AtomicU32;

    /// The low half, on which the kernel compares.
    fn low_half(word: &AtomicU64) -> &AtomicU32 {
        let halves = word.as_ptr().cast::<AtomicU32>();
        let low = if cfg!(target_endian = "big") { halves.wrapping_add(1) } else { halves };
        // SAFETY: four aligned bytes of `word`, which lives as long as the reference; they are read by the kernel only.
        unsafe { &*low }
    }

    pub(super) fn wait(word: &AtomicU64, expected: u32, timeout: Duration) {
        // Beyond what the kernel takes: looked at again sooner.
        let timeout = Timespec::try_from(timeout).unwrap_or(Timespec { tv_sec: 3600, tv_nsec: 0 });
        // Any result (EAGAIN, ETIMEDOUT, EINTR) means "look again".
        let _looked_at_again = futex::wait(low_half(word), Flags::empty(), expected, Some(&timeout));
    }

    pub(super) fn wake(word: &AtomicU64) {
        let _how_many = futex::wake(low_half(word), Flags::empty(), 1);
    }

    pub(super) fn wake_all(word: &AtomicU64) {
        let _how_many = futex::wake(low_half(word), Flags::empty(), i32::MAX as u32);
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
mod os {
    use super::{AtomicU64, Duration, parked};

    pub(super) fn wait(word: &AtomicU64, expected: u32, timeout: Duration) {
        parked::wait(word, expected, timeout);
    }

    pub(super) fn wake(word: &AtomicU64) {
        parked::wake(word);
    }

    pub(super) fn wake_all(word: &AtomicU64) {
        parked::wake(word);
    }
}

/// Condition variables by address: what systems without a futex use, in one process.
#[cfg(any(test, not(any(target_os = "linux", target_os = "android"))))]
mod parked {
    use super::{AtomicU64, Duration};
    use crate::sync::{Condvar, Mutex};
    use std::sync::atomic::Ordering::SeqCst;

    const BUCKETS: usize = 64;
    static TABLE: [(Mutex<()>, Condvar); BUCKETS] = [const { (Mutex::new(()), Condvar::new()) }; BUCKETS];

    fn bucket(word: &AtomicU64) -> &'static (Mutex<()>, Condvar) {
        &TABLE[(word.as_ptr().addr() >> 6) % BUCKETS]
    }

    pub(super) fn wait(word: &AtomicU64, expected: u32, timeout: Duration) {
        let (mutex, changed) = bucket(word);
        let mut held = mutex.lock();
        // Under the mutex that `wake` takes after the word changed: no wake is lost.
        if word.load(SeqCst) as u32 == expected {
            changed.wait_for(&mut held, timeout);
        }
    }

    pub(super) fn wake(word: &AtomicU64) {
        let (mutex, changed) = bucket(word);
        drop(mutex.lock());
        changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::Ordering::SeqCst;
    use std::time::Instant;

    type Wait = fn(&AtomicU64, u32, Duration);
    type Wake = fn(&AtomicU64);

    fn ping_pong(wait: Wait, wake: Wake) {
        let word = AtomicU64::new(7 << 32);
        let begin = Instant::now();
        std::thread::scope(|threads| {
            for me in 0..2 {
                let word = &word;
                threads.spawn(move || {
                    for turn in (me..2000u64).step_by(2) {
                        loop {
                            let now = word.load(SeqCst) as u32;
                            if u64::from(now) == turn {
                                break;
                            }
                            wait(word, now, Duration::from_secs(20));
                        }
                        word.fetch_add(1, SeqCst);
                        wake(word);
                    }
                });
            }
        });
        assert_eq!(word.load(SeqCst) & 0xffff_ffff, 2000);
        assert!(begin.elapsed() < Duration::from_secs(15), "a wake was lost");
    }

    #[test]
    fn no_wake_is_lost() {
        ping_pong(wait, wake_one);
    }

    #[test]
    fn no_wake_is_lost_without_futex() {
        ping_pong(parked::wait, parked::wake);
    }

    #[test]
    fn a_changed_word_and_a_timeout_end_the_wait() {
        let word = AtomicU64::new(1);
        wait(&word, 2, Duration::from_secs(20));
        parked::wait(&word, 2, Duration::from_secs(20));
        let begin = Instant::now();
        wait(&word, 1, Duration::from_millis(2));
        assert!(begin.elapsed() < Duration::from_secs(10));
    }
}
