//! An owner lock: WRITE, APPEND, LEADER, CREATE, CKPT, EXCL.
//!
//! 64 bits: owner slot + 1 in bits 0..16 (0: free), "granted" in bit 30, "a process waits" in bit 31, the owner's
//! incarnation in bits 32..64; the futex is on the low half. The owner is a process: threads of one process exclude
//! each other by the same word, since it is held whichever thread took it. Only WRITE is ever granted: its steps are
//! the engine's, by [`OwnerLock::look`] and [`OwnerLock::swap`].

use crate::interleave::step;
use crate::os::futex;
use crate::sync::atomic::AtomicU64;
use crate::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

/// How long one wait on a word lasts at most, before the waiter looks whether the owner lives.
pub const TIMED_WAIT: Duration = Duration::from_millis(5);

const GRANTED: u64 = 1 << 30;
const WAITS: u64 = 1 << 31;
/// Reads of the lock before its waiter sleeps: APPEND is mostly held for less.
const SPINS: u32 = if cfg!(loom) { 1 } else { 64 };

/// A process slot and the incarnation of the process in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The process slot, from 0.
    pub slot: u16,
    /// Raised with each process that acquires that slot, before anything else.
    pub incarnation: u32,
}

impl Owner {
    /// As the control block holds it; never 0.
    pub(super) fn pack(self) -> u64 {
        u64::from(self.incarnation) << 32 | (u64::from(self.slot) + 1)
    }

    /// What a word holds; `None` for a free word.
    pub(super) fn unpack(word: u64) -> Option<Owner> {
        let slot = u16::try_from((word & 0x1_ffff).checked_sub(1)?).ok()?;
        Some(Owner { slot, incarnation: (word >> 32) as u32 })
    }
}

/// What an owner lock holds at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OwnerState(u64);

impl OwnerState {
    /// The lock is free, and no process waits.
    pub(crate) const FREE: OwnerState = OwnerState(0);

    /// `owner` has the lock, and no process is known to wait.
    pub(crate) fn by(owner: Owner) -> OwnerState {
        OwnerState(owner.pack())
    }

    /// The same, but `owner` has not come for it yet.
    pub(crate) fn granted(self) -> OwnerState {
        OwnerState(self.0 | GRANTED)
    }

    /// The same, and `waits`: a process waits.
    pub(crate) fn waited_for(self, waits: bool) -> OwnerState {
        OwnerState(self.0 & !WAITS | if waits { WAITS } else { 0 })
    }

    /// The owner.
    pub(crate) fn owner(self) -> Option<Owner> {
        Owner::unpack(self.0)
    }

    /// Whether its owner has not come for it yet.
    pub(crate) fn is_granted(self) -> bool {
        self.0 & GRANTED != 0
    }

    /// Whether a process waits, or did when the lock was last taken.
    pub(crate) fn is_waited_for(self) -> bool {
        self.0 & WAITS != 0
    }
}

/// An owner lock. On a cache line of its own.
#[repr(C, align(64))]
#[cfg_attr(loom, derive(Default))]
pub struct OwnerLock(pub(super) AtomicU64);

impl OwnerLock {
    /// What it holds now.
    pub(crate) fn look(&self) -> OwnerState {
        OwnerState(self.0.load(SeqCst))
    }

    /// Changes it from exactly `seen` to `then`; false: it is something else by now.
    pub(crate) fn swap(&self, seen: OwnerState, then: OwnerState) -> bool {
        step("a swap of a word");
        self.0.compare_exchange(seen.0, then.0, SeqCst, SeqCst).is_ok()
    }

    /// The owner.
    #[must_use]
    pub fn holder(&self) -> Option<Owner> {
        Owner::unpack(self.0.load(SeqCst))
    }

    /// Takes the lock if it is free. `waited`: the caller has waited for it, so others may still wait, and the lock is
    /// taken with "a process waits" set: without that a wake-up is lost, and the next waiter waits for the end of its
    /// [`TIMED_WAIT`].
    pub fn try_acquire(&self, me: Owner, waited: bool) -> bool {
        step("taking a word");
        let taken = me.pack() | if waited && !crate::drops("owner-waits-kept") { WAITS } else { 0 };
        self.0.compare_exchange(0, taken, SeqCst, SeqCst).is_ok()
    }

    /// Lets go of the word and wakes one that waits. False, and nothing changed, if `me` does not own it.
    pub fn release(&self, me: Owner) -> bool {
        step("letting go of a word");
        let mut now = self.0.load(SeqCst);
        loop {
            if Owner::unpack(now) != Some(me) {
                return false;
            }
            match self.0.compare_exchange(now, 0, SeqCst, SeqCst) {
                Ok(_) => {
                    if now & WAITS != 0 {
                        futex::wake_one(&self.0);
                    }
                    return true;
                }
                Err(other) => now = other,
            }
        }
    }

    /// Takes the lock from `dead`, whose ALIVE byte the caller found free. Compares slot *and* incarnation: a new
    /// process may have got slot and lock since. False if `dead` no longer has it.
    pub fn take_over(&self, dead: Owner, me: Owner) -> bool {
        step("a takeover");
        let mut now = self.0.load(SeqCst);
        let is_dead = |owner: Owner| owner == dead || (owner.slot == dead.slot && crate::drops("owner-incarnation"));
        while Owner::unpack(now).is_some_and(is_dead) {
            match self.0.compare_exchange(now, me.pack() | WAITS, SeqCst, SeqCst) {
                Ok(_) => return true,
                Err(other) => now = other,
            }
        }
        false
    }

    /// Waits until the word may be free, at most `timeout`. Takes nothing.
    pub fn wait(&self, timeout: Duration) {
        let now = self.0.load(SeqCst);
        if now == 0 {
            return;
        }
        let waited = now | WAITS;
        if now != waited && self.0.compare_exchange(now, waited, SeqCst, SeqCst).is_err() {
            return;
        }
        futex::wait(&self.0, waited as u32, timeout);
    }

    /// Takes the word, however long that takes. `alive` says whether the process of an owner lives; the word of a dead one is
    /// taken over. `goes_on` is asked between two waits. Returns the dead owner it was taken from.
    ///
    /// # Errors
    /// What `goes_on` says: the wait is over, and the word is not taken.
    pub fn acquire<E>(
        &self,
        me: Owner,
        mut alive: impl FnMut(Owner) -> bool,
        mut goes_on: impl FnMut() -> Result<(), E>,
    ) -> Result<Option<Owner>, E> {
        for _ in 0..SPINS {
            // Read first: a swap would take the line from the owner, which is about to release it.
            if self.0.load(SeqCst) == 0 && self.try_acquire(me, false) {
                return Ok(None);
            }
            std::hint::spin_loop();
        }
        loop {
            self.wait(TIMED_WAIT);
            if self.try_acquire(me, true) {
                return Ok(None);
            }
            if let Some(holder) = self.holder()
                && !alive(holder)
                && self.take_over(holder, me)
            {
                return Ok(Some(holder));
            }
            goes_on()?;
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::sync::atomic::Ordering::Relaxed;

    const A: Owner = Owner { slot: 0, incarnation: 1 };
    const B: Owner = Owner { slot: 65535, incarnation: u32::MAX };
    /// What a lost wake-up costs: a wait that lasts to its end. A busy machine takes half of that for a whole test.
    const LOST: Duration = Duration::from_secs(60);

    fn word() -> OwnerLock {
        OwnerLock(AtomicU64::new(0))
    }

    #[test]
    fn an_owner_survives_packing() {
        for owner in [A, B, Owner { slot: 127, incarnation: 0 }] {
            assert_eq!(Owner::unpack(owner.pack() | WAITS), Some(owner));
            assert_eq!(owner.pack() & (WAITS | GRANTED), 0);
            let held = OwnerState::by(owner).granted().waited_for(true);
            assert_eq!(held.owner(), Some(owner));
            assert!(held.is_granted() && held.is_waited_for());
            assert_eq!(held.waited_for(false), OwnerState::by(owner).granted());
        }
        assert_eq!(Owner::unpack(0), None);
        assert_eq!(Owner::unpack(WAITS), None);
    }

    #[test]
    fn one_owner_at_a_time() {
        let word = word();
        assert!(word.try_acquire(A, false));
        assert!(!word.try_acquire(A, false), "also a second thread of the owner is refused");
        assert!(!word.try_acquire(B, true));
        assert!(!word.release(B));
        assert_eq!(word.holder(), Some(A));
        assert!(word.release(A));
        assert!(!word.release(A));
        assert_eq!(word.holder(), None);
    }

    #[test]
    fn a_taker_compares_the_incarnation() {
        let word = word();
        let again = Owner { incarnation: 2, ..A };
        assert!(word.try_acquire(again, false));
        assert!(!word.take_over(A, B), "the word is the new process's");
        assert!(word.take_over(again, B));
        assert!(word.look().is_waited_for(), "who waited for the dead one must be woken by the taker");
        assert!(word.release(B));
    }

    #[test]
    fn who_waited_keeps_the_bit() {
        let word = word();
        assert!(word.try_acquire(A, false));
        word.wait(Duration::from_micros(1));
        assert!(word.look().is_waited_for());
        assert!(word.release(A));
        assert!(word.try_acquire(A, true));
        assert!(word.look().is_waited_for());
    }

    #[test]
    fn threads_exclude_each_other_and_none_starves_on_a_lost_wake() {
        let word = word();
        let count = AtomicU64::new(0);
        let inside = AtomicU64::new(0);
        std::thread::scope(|threads| {
            for slot in 0..4 {
                let (word, count, inside) = (&word, &count, &inside);
                threads.spawn(move || {
                    let me = Owner { slot, incarnation: 1 };
                    for _ in 0..5000 {
                        assert_eq!(word.acquire(me, |_| true, || Ok::<(), ()>(())), Ok(None));
                        assert_eq!(inside.swap(1, Relaxed), 0);
                        count.store(count.load(Relaxed) + 1, Relaxed);
                        inside.store(0, Relaxed);
                        assert!(word.release(me));
                    }
                });
            }
        });
        assert_eq!(count.load(Relaxed), 20000);
    }

    #[test]
    fn a_release_wakes_who_waits() {
        let word = word();
        let begin = std::time::Instant::now();
        for _ in 0..200 {
            assert!(word.try_acquire(A, false));
            std::thread::scope(|threads| {
                threads.spawn(|| {
                    while !word.try_acquire(B, true) {
                        word.wait(LOST);
                    }
                    assert!(word.release(B));
                });
                while !word.look().is_waited_for() {
                    std::thread::yield_now();
                }
                assert!(word.release(A));
            });
            assert!(begin.elapsed() < LOST, "a wake was lost");
        }
    }

    #[test]
    fn a_wait_that_is_over_takes_nothing() {
        let word = word();
        assert!(word.try_acquire(A, false));
        let mut asked = 0;
        let over = || {
            asked += 1;
            if asked == 3 { Err("over") } else { Ok(()) }
        };
        assert_eq!(word.acquire(B, |_| true, over), Err("over"));
        assert_eq!(word.holder(), Some(A));
    }

    #[test]
    fn the_word_of_a_dead_owner_is_taken() {
        let word = word();
        assert!(word.try_acquire(A, false));
        assert_eq!(word.acquire(B, |owner| owner != A, || Ok::<(), ()>(())), Ok(Some(A)));
        assert_eq!(word.holder(), Some(B));
    }
}
