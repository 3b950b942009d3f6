//! Waiting on a word, and waking who waits.
//!
//! Linux: a futex on the half of the word that changes, not private, so that it also works between
//! processes on a mapped file. Elsewhere: a table of condition variables, for one process.
//! A wait may always end without a reason; callers look at the word again.

use crate::interleave;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

/// Waits until the low 32 bits of `word` are not `expected`, somebody wakes, or `timeout` is over.
pub(super) fn wait(word: &AtomicU64, expected: u32, timeout: Duration) {
    if interleave::is_simulated() {
        if word.load(SeqCst) as u32 == expected {
            interleave::sleep(timeout);
        }
        return;
    }
    os::wait(word, expected, timeout);
}

/// Wakes one that waits on `word`.
pub(super) fn wake_one(word: &AtomicU64) {
    os::wake(word);
}

#[cfg(any(target_os = "linux", target_os = "android"))]
mod os {
    use super::{AtomicU64, Duration};

    /// The address of the low half, on which the kernel compares.
    fn low_half(word: &AtomicU64) -> *const u32 {
        let halves = word.as_ptr().cast::<u32>().cast_const();
        if cfg!(target_endian = "big") { halves.wrapping_add(1) } else { halves }
    }

    pub(super) fn wait(word: &AtomicU64, expected: u32, timeout: Duration) {
        let timeout = libc::timespec {
            tv_sec: libc::time_t::try_from(timeout.as_secs()).unwrap_or(libc::time_t::MAX),
            tv_nsec: timeout.subsec_nanos() as libc::c_long,
        };
        // SAFETY: FUTEX_WAIT reads 4 aligned bytes at the address, which `word` keeps alive, and the
        // timeout; it writes nothing. Any result (EAGAIN, ETIMEDOUT, EINTR) means "look again".
        unsafe {
            libc::syscall(
                libc::SYS_futex,
                low_half(word),
                libc::FUTEX_WAIT,
                expected,
                &raw const timeout,
                std::ptr::null::<u32>(),
                0u32,
            );
        }
    }

    pub(super) fn wake(word: &AtomicU64) {
        // SAFETY: FUTEX_WAKE uses the address as a key only.
        unsafe {
            libc::syscall(libc::SYS_futex, low_half(word), libc::FUTEX_WAKE, 1);
        }
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
