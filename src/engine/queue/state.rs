//! The state of the queue of one process: the connection inside, the waiters, since when they wait, and how long grants
//! and leases are valid.

use super::ConnectionId;
use super::table::WriteState;
use crate::os::this_thread;
use crate::shared::{Owner, TIMED_WAIT};
use crate::sync::Condvar;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Microseconds, as all times here.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    /// How long a writer may take WRITE again and again while others wait, and a process serve its own waiters: at least, and
    /// at most.
    pub(super) lease: u64,
    pub(super) longest_lease: u64,
    /// How long a grant is valid for the retry of the connection that was woken with it.
    pub(super) grant: u64,
    /// How long the longest waiter of all sleeps before it looks whether the owner lives. The others look more rarely, but
    /// do look: the longest waiter may be dead, too.
    pub(super) look: u64,
    /// A connection that reacquired WRITE within this time gets a lease.
    pub(super) quick: u64,
    /// A lease that lasts no longer than this may end before a connection that takes its snapshot now asks for WRITE, which refuses it.
    pub(super) snapshot: u64,
}

pub(super) const TIMES: Times = Times {
    lease: 500,
    longest_lease: 1_000,
    grant: 50_000,
    look: TIMED_WAIT.as_micros() as u64,
    quick: 100,
    snapshot: 100,
};
/// A lease is at least this many times as long as it takes until a waiter that is woken writes: on machines where a thread on another core
/// wakes late WRITE would lie idle for much of the time.
const HANDOVERS: u64 = 10;
/// Poll interval of later waiters, as a multiple of the first one's.
pub(super) const LATER_WAITER_FACTOR: u64 = 5;
/// And those that wait for a connection of their own process.
pub(super) const LOCAL_WAIT_FACTOR: u64 = 10;
/// A connection that has neither waited nor written for this time has given up.
pub(super) const PAUSE: u64 = 1_000_000;
/// How long a connection that polls waits for its turn before its snapshot, in [`line_up`](super::WriteQueue::line_up), at least, and at
/// most: in between for as long as it sleeps when it is refused. A lease and a tenure of another process end within 2 ms, but of those
/// that poll several may be before it. A long write transaction must not delay a caller that sleeps on its own by more than that.
const LINE_UP: u64 = 5_000;
const LINE_UP_MAX: u64 = 50_000;
/// How long a connection that is expected to write waits for its turn before its snapshot, in
/// [`take_turn`](super::WriteQueue::take_turn), without a commit of another connection.
pub(super) const TURN: u64 = 10_000;
/// The longest credit of a connection that polls.
pub(super) const CREDIT: u64 = 200_000;
/// How many times as long as it has waited a credit lasts: a connection with slow code of its own has WRITE for a small part of
/// the time, and its share shall be used up before the credit ends.
const CREDIT_LASTS: u64 = 8;
/// A wait of this length is explained in the log: no transaction should write that long.
pub(super) const LONG_WAIT: u64 = 500_000;

#[derive(Debug)]
pub(super) struct Waiter {
    pub(super) connection: ConnectionId,
    /// Since when it waits; no two are the same.
    pub(super) ticket: u64,
    /// It waits at the place of its credit.
    pub(super) on_credit: bool,
    pub(super) wake: Arc<Condvar>,
    /// It waits for the process's turn.
    pub(super) is_remote: bool,
    /// When its wait times out.
    pub(super) until: u64,
}

/// How a connection behaves that has left WRITE to others. A lease for one that does not come back is lost time for all.
#[derive(Debug)]
pub(super) struct ReacquireHistory {
    /// When it left; `None`: it has come back since.
    pub(super) left: Option<u64>,
    pub(super) reacquires_quickly: bool,
    /// It got WRITE after it had polled.
    pub(super) credit: Option<Credit>,
    /// It was granted WRITE before it reads, and has not come for it.
    pub(super) reads_with_grant: bool,
    /// It polls: how long it slept when it was refused last.
    pub(super) sleeps: Option<u64>,
}

impl Default for ReacquireHistory {
    fn default() -> ReacquireHistory {
        ReacquireHistory { left: None, reacquires_quickly: true, credit: None, reads_with_grant: false, sleeps: None }
    }
}

impl ReacquireHistory {
    /// So much of its credit is used up.
    pub(super) fn pay(&mut self, write_us: u64) {
        self.credit = self.credit.and_then(|credit| {
            let write_left = credit.write_left.checked_sub(write_us).filter(|left| *left > 0)?;
            Some(Credit { write_left, ..credit })
        });
    }
}

/// A connection that polls is not in the line while it sleeps. After it has waited for WRITE it keeps the place in the line that
/// it had then, until it has had WRITE for its share of that time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Credit {
    pub(super) ticket: u64,
    pub(super) until: u64,
    pub(super) write_left: u64,
}

/// The place in the queue of a connection that was refused, and waits again and again.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) ticket: u64,
    /// When it waited or was refused last.
    pub(super) waited: u64,
    /// It was refused and has not waited in `xSleep` since: a busy handler of the application's, or none, or an upgrade inside
    /// a transaction, for which SQLite asks no busy handler.
    pub(super) polls: bool,
    /// Which process had WRITE when it last waited in `xSleep` in vain.
    pub(super) kept_by: Option<Owner>,
    /// The log has named the process that it waits for.
    pub(super) told: bool,
}

/// How the owner got WRITE.
#[derive(Debug, Default)]
pub(super) struct Taken {
    /// The thread that took it for the owner.
    pub(super) by: usize,
    pub(super) at: u64,
    /// How long it takes until a waiter that is woken has WRITE, on average.
    pub(super) handover: u64,
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) owner: Option<ConnectionId>,
    pub(super) taken: Taken,
    pub(super) lease: Option<(ConnectionId, u64)>,
    /// The process that waits for the end of the lease knows that time.
    pub(super) lease_announced: bool,
    pub(super) grant: Option<(ConnectionId, u64)>,
    /// The connection that has WRITE, or had it last in this process, was granted it at the place of its credit.
    pub(super) turn_on_credit: bool,
    /// In `xSleep` now, the longest waiter first.
    pub(super) waiters: Vec<Waiter>,
    /// The connections that were refused and have not written since.
    pub(super) places: BTreeMap<ConnectionId, Place>,
    pub(super) last_ticket: u64,
    pub(super) histories: BTreeMap<ConnectionId, ReacquireHistory>,
    /// Until when the process serves its own waiters first. `None`: no connection of it has been inside since the word
    /// was another's, or free.
    pub(super) tenure: Option<u64>,
    pub(super) closed: bool,
}

impl State {
    /// Removes a grant or a lease that has expired. The lease of a connection with a grant stays until that is used: it would be given
    /// another one.
    pub(super) fn expire(&mut self, now: u64) {
        if self.grant.is_some_and(|(_, until)| until <= now) {
            self.grant = None;
        }
        let has_grant = |holder| self.grant.is_some_and(|(granted, _)| granted == holder);
        if self.lease.is_some_and(|(holder, until)| until <= now && !has_grant(holder)) {
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
        self.places.insert(connection, Place { ticket, waited: now, polls: false, kept_by: None, told: false });
        ticket
    }

    /// `connection` tries to take WRITE: `quick` is the time within which it is taken for one that reacquires it.
    pub(super) fn came(&mut self, connection: ConnectionId, now: u64, quick: u64) {
        if let Some(history) = self.histories.get_mut(&connection)
            && let Some(left) = history.left.take()
        {
            history.reacquires_quickly = now < left + quick;
            if history.reacquires_quickly {
                // No other connection got it in between.
                history.pay(now - left);
            }
        }
    }

    /// The length of a lease, and of a tenure.
    pub(super) fn lease_us(&self, times: &Times) -> u64 {
        let handovers = if crate::drops("queue-lease-by-handovers") { 0 } else { HANDOVERS };
        (handovers * self.taken.handover).clamp(times.lease, times.longest_lease)
    }

    /// `connection` has WRITE from now on, and a lease, unless it has one already.
    pub(super) fn enter(&mut self, connection: ConnectionId, now: u64, times: &Times) {
        if let Some((_, until)) = self.grant
            && self.places.get(&connection).is_some_and(|place| !place.polls)
            && !self.histories.get(&connection).is_some_and(|history| history.reads_with_grant)
        {
            let took = (now + times.grant).saturating_sub(until).min(times.longest_lease);
            self.taken.handover = (7 * self.taken.handover + took) / 8;
        }
        let lease = self.lease_us(times);
        self.tenure.get_or_insert(now + lease);
        if !self.has_lease(connection) {
            self.lease = Some((connection, now + lease));
            self.lease_announced = false;
        }
        self.grant = None;
        self.reads_with_grant(connection, false);
        self.owner = Some(connection);
        self.taken.by = this_thread();
    }

    /// `connection` reads now, with a grant or without one, which is answered.
    pub(super) fn reads_with_grant(&mut self, connection: ConnectionId, is_granted: bool) -> bool {
        if is_granted {
            self.histories.entry(connection).or_default().reads_with_grant = true;
        } else if let Some(history) = self.histories.get_mut(&connection) {
            history.reads_with_grant = false;
        }
        is_granted
    }

    /// The owner, `connection`, leaves WRITE while others wait. True: it has a lease, and is expected to come again soon.
    pub(super) fn leave_to_others(&mut self, connection: ConnectionId, now: u64) -> bool {
        self.expire(now);
        let write_us = now.saturating_sub(self.taken.at);
        let history = self.histories.entry(connection).or_default();
        history.left = Some(now);
        history.pay(write_us);
        history.reacquires_quickly && self.has_lease(connection)
    }

    /// The connection that has WRITE, the grant or the lease.
    pub(super) fn holder(&self, state: WriteState) -> Option<ConnectionId> {
        match state {
            WriteState::Inside => self.owner,
            WriteState::Granted => self.grant.map(|(holder, _)| holder),
            WriteState::Leased | WriteState::Kept => self.lease.map(|(holder, _)| holder),
            WriteState::Free
            | WriteState::Received
            | WriteState::Unclaimed
            | WriteState::Remote
            | WriteState::Abandoned => None,
        }
    }

    /// WRITE was refused to `connection`.
    pub(super) fn refused(&mut self, connection: ConnectionId, now: u64) {
        self.ticket(connection, now);
        if let Some(place) = self.places.get_mut(&connection) {
            place.waited = now;
            place.polls = true;
        }
    }

    /// `connection` has WRITE, and its place in the queue is free. It shares WRITE with `others` connections.
    pub(super) fn served(&mut self, connection: ConnectionId, others: usize, now: u64) {
        self.taken.at = now;
        let Some(place) = self.places.remove(&connection).filter(|place| place.polls) else { return };
        let history = self.histories.entry(connection).or_default();
        if history.credit.is_none_or(|credit| credit.until <= now) {
            let waited = now.saturating_sub(place.ticket).min(CREDIT);
            // Twice its share of that time: the others go on while it is used up, each with a lease.
            let write_left = 2 * waited / others.max(1) as u64;
            history.credit = Some(Credit { ticket: place.ticket, until: now + CREDIT_LASTS * waited, write_left });
        }
    }

    /// `connection` waits in `xSleep`: it does not poll.
    pub(super) fn waits(&mut self, connection: ConnectionId) {
        if let Some(history) = self.histories.get_mut(&connection) {
            history.sleeps = None;
        }
    }

    /// How long a connection that polls, or has done so, waits in the line before its snapshot.
    pub(super) fn lines_up_for(&mut self, connection: ConnectionId, now: u64) -> Option<u64> {
        let place = self.places.get(&connection).filter(|place| place.polls);
        if let Some(slept) = place.map(|place| now.saturating_sub(place.waited)).filter(|slept| *slept < PAUSE) {
            self.histories.entry(connection).or_default().sleeps = Some(slept);
        }
        let sleeps = self.histories.get(&connection)?.sleeps?;
        Some(sleeps.clamp(LINE_UP, LINE_UP_MAX))
    }

    /// The ticket of a connection that polls, or has a credit: true.
    pub(super) fn ticket_of_polling(&self, connection: ConnectionId, now: u64) -> Option<(u64, bool)> {
        let place = self.places.get(&connection).filter(|place| place.polls && now < place.waited + PAUSE);
        let credit = || self.histories.get(&connection)?.credit.filter(|credit| now < credit.until);
        place.map(|place| (place.ticket, false)).or_else(|| credit().map(|credit| (credit.ticket, true)))
    }

    /// The word is another process's, or free: whatever this one thought that it had is over.
    pub(super) fn lose_word(&mut self) {
        self.grant = None;
        self.lease = None;
        self.tenure = None;
        self.turn_on_credit = false;
    }

    pub(super) fn has_grant(&self, connection: ConnectionId, now: u64) -> bool {
        self.grant.is_some_and(|(holder, until)| holder == connection && until > now)
    }

    pub(super) fn has_lease(&self, connection: ConnectionId) -> bool {
        self.lease.is_some_and(|(holder, _)| holder == connection)
    }

    /// Whether this connection came back soon when it last left WRITE to others.
    pub(super) fn reacquires_quickly(&self, connection: ConnectionId) -> bool {
        self.histories.get(&connection).is_some_and(|history| history.reacquires_quickly)
    }

    /// The waiter whose turn is next, of this process.
    pub(super) fn next(&self) -> Option<&Waiter> {
        self.waiters.iter().min_by_key(|waiter| self.place(waiter.ticket, waiter.on_credit))
    }

    /// The place in the queue, the lowest first: by time; but of two turns in a row only one is on credit, while a connection
    /// waits that has none. So those that poll and those that wait each have half of the time at least.
    pub(super) fn place(&self, ticket: u64, on_credit: bool) -> (bool, u64) {
        (on_credit && self.turn_on_credit && !crate::drops("queue-credit-alternates"), ticket)
    }

    pub(super) fn is_first(&self, connection: ConnectionId) -> bool {
        self.waiters.first().is_some_and(|waiter| waiter.connection == connection)
    }

    pub(super) fn is_waiting(&self, connection: ConnectionId) -> bool {
        self.waiters.iter().any(|waiter| waiter.connection == connection)
    }

    pub(super) fn waiter(&mut self, connection: ConnectionId) -> Option<&mut Waiter> {
        self.waiters.iter_mut().find(|waiter| waiter.connection == connection)
    }
}
