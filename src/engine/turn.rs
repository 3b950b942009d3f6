//! WRITE among processes: the owner lock, and whose turn is next.
//!
//! The lock is a process's, and not granted, exactly while a connection of that process is inside. In between it is
//! free, or *granted*: handed to the process whose waiter waits longest, or kept by one for its own next connection. A
//! grant is valid until `grant_until_us`; after that, and when its process is dead, any waiter may take the lock. So no
//! process depends on one that does not run: a process that is killed or stopped anywhere delays the others by one
//! grant.
//!
//! No wake-up is lost. A waiter first publishes since when it waits, then sets the bit "a process waits" in the lock,
//! and sleeps only if it saw the lock with the bit set. A release first clears the bit, then reads the waiters, and its
//! next change of the lock fails if the bit is set again: so it has seen every process that sleeps.

use crate::os::now_us;
use crate::shared::{Event, Member, Owner, OwnerState};
use std::sync::Arc;
use std::time::Duration;

/// The process whose turn is next, of all but this one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Longest {
    /// Since when it waits (microseconds, as [`now_us`]).
    pub(super) since_us: u64,
    /// At the place of a credit.
    pub(super) on_credit: bool,
    process: Owner,
    /// It is not the only one.
    more: bool,
}

/// A process that has the lock and is dead, or did not use its grant in time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Abandoned {
    process: Owner,
    /// Since when it waits; 0: it does not.
    since_us: u64,
    /// Until when the grant was valid that it did not use; `None`: it is dead.
    late: Option<u64>,
}

/// This process's side of the word.
#[derive(Debug)]
pub(super) struct Turn {
    member: Arc<Member>,
}

/// A process says so in the last bit of the time since when it waits, which so has a resolution of two microseconds.
fn is_on_credit(since_us: u64) -> bool {
    since_us & 1 == 1
}

impl Turn {
    pub(super) fn new(member: Arc<Member>) -> Turn {
        Turn { member }
    }

    pub(super) fn look(&self) -> OwnerState {
        self.member.control().write().look()
    }

    /// Changes the word from exactly `seen` to `then`.
    pub(super) fn swap(&self, seen: OwnerState, then: OwnerState) -> bool {
        self.member.control().write().swap(seen, then)
    }

    /// The word as this process holds it while one of its connections is inside.
    pub(super) fn inside(&self) -> OwnerState {
        OwnerState::by(self.member.me())
    }

    pub(super) fn is_mine(&self, word: OwnerState) -> bool {
        word.owner() == Some(self.member.me())
    }

    /// The process that waits longest, of those that live.
    pub(super) fn longest(&self) -> Option<Longest> {
        self.next(|since_us, _| since_us)
    }

    /// The process that is first by its place, which follows from since when it waits, and whether on credit; of those that
    /// live.
    pub(super) fn next<P: Ord>(&self, place: impl Fn(u64, bool) -> P) -> Option<Longest> {
        let control = self.member.control();
        loop {
            let mut all = 0;
            let waiting = control.process_slots().waiting(self.member.me()).inspect(|_| all += 1);
            let (since_us, process) = waiting.min_by_key(|(since_us, _)| place(*since_us, is_on_credit(*since_us)))?;
            if self.member.is_alive(process) {
                return Some(Longest { since_us, on_credit: is_on_credit(since_us), process, more: all > 1 });
            }
            control.process_slots().discount_waiting(process, since_us);
        }
    }

    /// How many other processes wait.
    pub(super) fn waiting_processes(&self) -> usize {
        self.member.control().process_slots().waiting(self.member.me()).count()
    }

    /// Until when the next grant counts. Only while the word is this process's and not granted.
    pub(super) fn set_grant_until(&self, until_us: u64) {
        self.member.control().set_grant_until_us(until_us);
    }

    pub(super) fn grant_until(&self) -> u64 {
        self.member.control().grant_until_us()
    }

    /// Hands the lock, which is `mine`, to `next`; `wait`: this process waits again. The caller notifies `next`
    /// afterwards.
    pub(super) fn hand_to(&self, mine: OwnerState, next: Longest, wait: bool) -> bool {
        self.swap(mine, OwnerState::by(next.process).granted().waited_for(wait || next.more))
    }

    /// Wakes the waiter of that process that waits for its turn.
    pub(super) fn notify(&self, longest: Longest) {
        if let Some(turn) = self.member.control().process_slots().turn(longest.process.slot) {
            turn.notify();
        }
    }

    /// Every process looks again, whether WRITE was granted to it or not.
    pub(super) fn notify_all(&self) {
        self.member.control().process_slots().notify_turns();
    }

    /// Notified when WRITE may have been granted to this process.
    pub(super) fn mine(&self) -> Option<&Event> {
        self.member.control().process_slots().turn(self.member.me().slot)
    }

    /// Waits until that event is notified, for at most `at_most_us` microseconds.
    pub(super) fn wait(&self, ticket: u64, at_most_us: u64) {
        if let Some(turn) = self.mine()
            && turn.wait(ticket, Duration::from_micros(at_most_us))
        {
            turn.pass_on();
        }
    }

    /// Since when this process waits, and whether at the place of a credit; 0: it does not.
    pub(super) fn show_waiting(&self, since_us: u64, on_credit: bool) {
        // The last bit of the time; see `is_on_credit`.
        let since_us = if since_us == 0 { 0 } else { since_us.max(2) & !1 | u64::from(on_credit) };
        self.member.control().process_slots().set_waiting(self.member.me(), since_us);
    }

    /// Whether the process that has the lock is dead or did not use its grant in time. `suspect`: it may be dead.
    pub(super) fn abandoned(&self, word: OwnerState, suspect: bool) -> Option<Abandoned> {
        let process = word.owner()?;
        let control = self.member.control();
        let (since_us, until_us) = (control.process_slots().waiting_since_us(process), control.grant_until_us());
        // Read between two looks at the same word: the grant's own time, but for one that was accepted, given
        // back and granted anew in between. Then one connection asks twice.
        let is_late = word.is_granted() && until_us <= now_us() && self.look() == word;
        let is_abandoned = is_late || suspect && !self.member.is_alive(process);
        is_abandoned.then(|| Abandoned { process, since_us, late: is_late.then_some(until_us) })
    }

    /// Takes the lock of a process that abandoned it; a grant is for `grant_us`. It is this process's then, with the bit
    /// "a process waits".
    pub(super) fn take_abandoned(&self, word: OwnerState, abandoned: &Abandoned, grant_us: u64) -> bool {
        let taken = self.swap(word, self.inside().waited_for(true));
        let is_of_grant = |until_us| abandoned.since_us.saturating_add(grant_us) <= until_us;
        // A waiter that got a grant and did not use it would be next again and again.
        if taken && abandoned.since_us != 0 && abandoned.late.is_none_or(is_of_grant) {
            self.member.control().process_slots().discount_waiting(abandoned.process, abandoned.since_us);
        }
        taken
    }

    pub(super) fn is_poisoned(&self) -> bool {
        self.member.control().poisoned() != 0
    }
}
