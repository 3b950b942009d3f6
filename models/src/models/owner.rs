//! Owner locks: WRITE, APPEND, LEADER, CREATE, CKPT, EXCL.
//!
//! One owner at a time, and what it did inside happens before what the next one does; a release is missed by nobody who sleeps;
//! the lock of a dead process comes to one other; and a new process in a dead one's slot keeps what it took.

use super::{check, process};
use crate::shared::{Owner, OwnerLock};
use loom::sync::atomic::AtomicU64;
use loom::sync::atomic::Ordering::Relaxed;
use loom::thread;
use std::convert::Infallible;
use std::sync::Arc;

/// The lock, and what it protects.
#[derive(Default)]
struct Place {
    lock: OwnerLock,
    /// Read and stored without any order of its own: an owner that is not ordered after the one before may read an older value, and
    /// then a step is missing at the end.
    inside: AtomicU64,
}

impl Place {
    fn enter(&self) {
        self.inside.store(self.inside.load(Relaxed) + 1, Relaxed);
    }

    fn entered(&self) -> u64 {
        self.inside.load(Relaxed)
    }
}

fn acquire(place: &Place, me: Owner, alive: impl FnMut(Owner) -> bool) -> Option<Owner> {
    place.lock.acquire(me, alive, || Ok::<(), Infallible>(())).expect("no end is asked for")
}

/// Two take the lock, do something inside, and let go of it.
pub fn one_is_inside() {
    check("one_is_inside", 3, true, || {
        let place = Arc::new(Place::default());
        let threads = [0, 1].map(|slot| {
            let place = Arc::clone(&place);
            thread::spawn(move || {
                let me = process(slot);
                assert_eq!(acquire(&place, me, |_| true), None);
                place.enter();
                assert!(place.lock.release(me), "somebody else has it");
            })
        });
        for thread in threads {
            thread.join().expect("it ends");
        }
        assert!(place.lock.try_acquire(process(2), false));
        assert_eq!(place.entered(), 2);
    });
}

/// Three take the lock in turn, and sleep until they are woken: no wake is lost.
pub fn a_release_wakes_who_waits() {
    check("a_release_wakes_who_waits", 2, false, || {
        let place = Arc::new(Place::default());
        let threads = [0, 1].map(|slot| {
            let place = Arc::clone(&place);
            thread::spawn(move || {
                acquire(&place, process(slot), |_| true);
                place.enter();
                place.lock.release(process(slot));
            })
        });
        acquire(&place, process(2), |_| true);
        place.enter();
        place.lock.release(process(2));
        for thread in threads {
            thread.join().expect("it ends");
        }
        acquire(&place, process(2), |_| true);
        assert_eq!(place.entered(), 3);
    });
}

/// The owner is dead: of two that find it so, one takes the lock from it, and the other one waits.
pub fn a_dead_owner_is_followed_by_one() {
    check("a_dead_owner_is_followed_by_one", 3, true, || {
        let place = Arc::new(Place::default());
        let dead = process(2);
        assert!(place.lock.try_acquire(dead, false));
        let threads = [0, 1].map(|slot| {
            let place = Arc::clone(&place);
            thread::spawn(move || {
                let taken_from = acquire(&place, process(slot), |owner| owner != dead);
                place.enter();
                assert!(place.lock.release(process(slot)), "somebody else has it");
                u64::from(taken_from.is_some())
            })
        });
        let taken: u64 = threads.map(|thread| thread.join().expect("it ends")).iter().sum();
        assert_eq!(taken, 1, "it was taken from the dead one once");
        acquire(&place, process(0), |_| true);
        assert_eq!(place.entered(), 2);
    });
}

/// A process has come to the slot of the dead owner, and takes the lock for itself, while another one has found the dead one dead.
pub fn an_incarnation_is_not_its_predecessor() {
    check("an_incarnation_is_not_its_predecessor", 3, true, || {
        let place = Arc::new(Place::default());
        let dead = process(0);
        let next = Owner { incarnation: 2, ..dead };
        assert!(place.lock.try_acquire(dead, false));
        let of_other = Arc::clone(&place);
        let other = thread::spawn(move || {
            if of_other.lock.holder() == Some(dead) && of_other.lock.take_over(dead, process(1)) {
                of_other.enter();
                assert!(of_other.lock.release(process(1)), "somebody else has it");
            }
        });
        // As a process does that joins.
        if place.lock.take_over(dead, next) {
            place.lock.release(next);
        }
        acquire(&place, next, |_| true);
        place.enter();
        assert!(place.lock.release(next), "it was taken from a process that lives");
        other.join().expect("it ends");
    });
}
