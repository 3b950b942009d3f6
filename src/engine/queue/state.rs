//! What the queue of one process knows: who is inside, who waits, since when, and until when what counts.

use super::ConnectionId;
use crate::shared::TIMED_WAIT;
use crate::sync::Condvar;
use std::collections::HashMap;
use std::sync::Arc;

/// Microseconds, as all times here.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    /// How long a writer may take WRITE again and again while others wait, and a process serve its own waiters.
    pub(super) lease: u64,
    /// How long a grant waits for the retry of the one who was woken with it.
    pub(super) grant: u64,
    /// How long the longest waiter of all sleeps before it looks whether the owner lives. The others look more rarely, but
    /// do look: the longest waiter may be dead, too.
    pub(super) look: u64,
    /// Who came back so soon the last time is worth a lease.
    pub(super) soon: u64,
}

pub(super) const TIMES: Times = Times { lease: 500, grant: 50_000, look: TIMED_WAIT.as_micros() as u64, soon: 100 };
/// The waiters behind the longest one sleep so many times as long.
pub(super) const BEHIND: u64 = 5;
/// And those that wait for a connection of their own process.
pub(super) const AT_HOME: u64 = 10;
/// Who has not waited for so long, and not written either, has given up.
pub(super) const PAUSE: u64 = 1_000_000;
/// Who waits for so long wants to know why: nobody should write that long.
pub(super) const LONG_WAIT: u64 = 500_000;

#[derive(Debug)]
pub(super) struct Waiter {
    pub(super) connection: ConnectionId,
    /// Since when it waits; no two are the same.
    pub(super) ticket: u64,
    pub(super) wake: Arc<Condvar>,
    /// It waits for the process's turn.
    pub(super) abroad: bool,
    /// When it wakes by itself.
    pub(super) until: u64,
}

/// How a connection behaves that has left WRITE to others. A lease for one that does not come back is lost time for all.
#[derive(Debug)]
pub(super) struct Habit {
    /// When it left; `None`: it has come back since.
    pub(super) left: Option<u64>,
    pub(super) comes_soon: bool,
}

/// The place in the queue of a connection that waits again and again.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) ticket: u64,
    /// When it waited last.
    pub(super) waited: u64,
    /// It is known who keeps it waiting.
    pub(super) told: bool,
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) owner: Option<ConnectionId>,
    pub(super) lease: Option<(ConnectionId, u64)>,
    /// Whoever waits for the end of the lease knows when that is.
    pub(super) lease_told: bool,
    pub(super) grant: Option<(ConnectionId, u64)>,
    /// In `xSleep` now, the longest waiter first.
    pub(super) waiters: Vec<Waiter>,
    /// Those who were refused and have not written since.
    pub(super) places: HashMap<ConnectionId, Place>,
    pub(super) last_ticket: u64,
    pub(super) habits: HashMap<ConnectionId, Habit>,
    /// Until when the process serves its own waiters first. `None`: no connection of it has been inside since the word
    /// was another's, or free.
    pub(super) tenure: Option<u64>,
    pub(super) closed: bool,
}

impl State {
    /// Forgets a grant or a lease whose time is over.
    pub(super) fn expire(&mut self, now: u64) {
        if self.grant.is_some_and(|(_, until)| until <= now) {
            self.grant = None;
        }
        if self.lease.is_some_and(|(_, until)| until <= now) {
            self.lease = None;
        }
    }

    /// Since when `connection` waits, though with pauses.
    pub(super) fn ticket(&mut self, connection: ConnectionId, now: u64) -> u64 {
        if let Some(place) = self.places.get(&connection)
            && now < place.waited + PAUSE
        {
            return place.ticket;
        }
        let ticket = now.max(self.last_ticket + 1);
        self.last_ticket = ticket;
        self.places.insert(connection, Place { ticket, waited: now, told: false });
        ticket
    }

    /// The word is another process's, or free: whatever this one thought that it had is over.
    pub(super) fn lose_word(&mut self) {
        self.grant = None;
        self.lease = None;
        self.tenure = None;
    }

    pub(super) fn has_lease(&self, connection: ConnectionId) -> bool {
        self.lease.is_some_and(|(holder, _)| holder == connection)
    }

    pub(super) fn is_first(&self, connection: ConnectionId) -> bool {
        self.waiters.first().is_some_and(|waiter| waiter.connection == connection)
    }

    pub(super) fn waiter(&mut self, connection: ConnectionId) -> Option<&mut Waiter> {
        self.waiters.iter_mut().find(|waiter| waiter.connection == connection)
    }
}
