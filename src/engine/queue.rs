//! WRITE: who may write, in the order of waiting.
//!
//! One owner at a time. Who waits does so in `xSleep`, without polling, and is woken only with a
//! grant that nobody can take away before its retry. A writer that does not wait for the disk may come
//! again for a bounded time (the lease) before the longest waiter gets its turn.

use parking_lot::{Condvar, Mutex, MutexGuard};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A connection, in the numbering of the engine.
pub(crate) type ConnectionId = u64;

/// How long a writer may take WRITE again and again while others wait.
const LEASE: Duration = Duration::from_micros(500);
/// How long a grant waits for the retry of the one who was woken with it.
const GRANT: Duration = Duration::from_millis(50);

#[derive(Debug)]
struct Waiter {
    connection: ConnectionId,
    ticket: u64,
    wake: Arc<Condvar>,
}

#[derive(Debug, Default)]
struct State {
    owner: Option<ConnectionId>,
    lease: Option<(ConnectionId, Instant)>,
    grant: Option<(ConnectionId, Instant)>,
    /// In `xSleep` now, the longest waiter first.
    waiters: Vec<Waiter>,
    /// The place in the queue of those who were refused and have not written since.
    tickets: HashMap<ConnectionId, u64>,
    next_ticket: u64,
    closed: bool,
}

impl State {
    /// Forgets a grant or a lease whose time is over.
    fn expire(&mut self, now: Instant) {
        if self.grant.is_some_and(|(_, until)| until <= now) {
            self.grant = None;
        }
        if self.lease.is_some_and(|(_, until)| until <= now) {
            self.lease = None;
        }
    }

    fn hand_over(&mut self, now: Instant) {
        if self.owner.is_some() || self.grant.is_some() {
            return;
        }
        if let Some(first) = self.waiters.first() {
            self.lease = None;
            self.grant = Some((first.connection, now + GRANT));
            first.wake.notify_one();
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct WriteQueue(Mutex<State>, Condvar);

impl WriteQueue {
    /// Takes WRITE if it is free and nobody has an older claim.
    pub(crate) fn try_acquire(&self, connection: ConnectionId) -> bool {
        let mut state = self.0.lock();
        if state.owner.is_some() || state.closed {
            return state.owner == Some(connection);
        }
        let now = Instant::now();
        state.expire(now);
        let mine = match state.grant {
            Some((holder, _)) if holder != connection => return false,
            Some(_) => true,
            None => false,
        };
        let leased = state.lease.is_some_and(|(holder, _)| holder == connection);
        if !mine && !leased && !state.waiters.is_empty() {
            state.hand_over(now);
            return false;
        }
        state.grant = None;
        state.owner = Some(connection);
        state.tickets.remove(&connection);
        if !leased {
            state.lease = Some((connection, now + LEASE));
        }
        true
    }

    /// Frees WRITE. `keep_lease`: the owner may come again before the longest waiter.
    pub(crate) fn release(&self, connection: ConnectionId, keep_lease: bool) {
        let mut state = self.0.lock();
        if state.owner != Some(connection) {
            return;
        }
        state.owner = None;
        if state.closed {
            self.1.notify_all();
        }
        if state.waiters.is_empty() {
            return;
        }
        let now = Instant::now();
        state.expire(now);
        if !keep_lease || state.lease.is_none() {
            state.lease = None;
            state.hand_over(now);
        }
    }

    /// Whether this connection holds a grant.
    pub(crate) fn granted(&self, connection: ConnectionId) -> bool {
        self.0.lock().grant.is_some_and(|(holder, until)| holder == connection && until > Instant::now())
    }

    /// Whether anybody waits in `xSleep`.
    pub(crate) fn contended(&self) -> bool {
        !self.0.lock().waiters.is_empty()
    }

    /// Waits at most so long; true: with a grant.
    pub(crate) fn wait(&self, connection: ConnectionId, at_most: Duration) -> bool {
        let deadline = Instant::now() + at_most;
        let mut state = self.0.lock();
        let ticket = match state.tickets.get(&connection) {
            Some(ticket) => *ticket,
            None => {
                state.next_ticket += 1;
                let ticket = state.next_ticket;
                state.tickets.insert(connection, ticket);
                ticket
            }
        };
        let wake = Arc::new(Condvar::new());
        let place = state.waiters.partition_point(|other| other.ticket < ticket);
        state.waiters.insert(place, Waiter { connection, ticket, wake: Arc::clone(&wake) });
        let granted = Self::wait_in_line(&mut state, connection, &wake, deadline);
        state.waiters.retain(|waiter| waiter.connection != connection);
        granted
    }

    fn wait_in_line(
        state: &mut MutexGuard<'_, State>,
        connection: ConnectionId,
        wake: &Condvar,
        deadline: Instant,
    ) -> bool {
        loop {
            let now = Instant::now();
            if state.closed {
                return false;
            }
            state.expire(now);
            let first = state.waiters.first().is_some_and(|waiter| waiter.connection == connection);
            let free = state.owner.is_none() && state.lease.is_none_or(|(holder, _)| holder == connection);
            if first && free && state.grant.is_none() {
                state.hand_over(now);
            }
            if state.grant.is_some_and(|(holder, _)| holder == connection) {
                return true;
            }
            if now >= deadline {
                return false;
            }
            let mut until = deadline;
            if first {
                let ends = [state.lease, state.grant];
                until = ends.iter().flatten().fold(until, |until, (_, end)| until.min(*end));
            }
            wake.wait_until(state, until);
        }
    }

    /// The connection goes: whatever it holds here is free.
    pub(crate) fn forget(&self, connection: ConnectionId) {
        let mut state = self.0.lock();
        state.tickets.remove(&connection);
        if state.owner == Some(connection) {
            state.owner = None;
        }
        if state.grant.is_some_and(|(holder, _)| holder == connection) {
            state.grant = None;
        }
        if state.lease.is_some_and(|(holder, _)| holder == connection) {
            state.lease = None;
        }
        state.hand_over(Instant::now());
    }

    /// The read lock of a granted connection failed, or it stopped trying: the next one's turn.
    pub(crate) fn give_up_grant(&self, connection: ConnectionId) {
        let mut state = self.0.lock();
        if state.grant.is_some_and(|(holder, _)| holder == connection) {
            state.grant = None;
            state.hand_over(Instant::now());
        }
    }

    /// Every wait ends, without a grant.
    pub(crate) fn close(&self) {
        let mut state = self.0.lock();
        state.closed = true;
        for waiter in &state.waiters {
            waiter.wake.notify_one();
        }
    }

    /// Closes the queue once nobody writes; false: somebody does, for longer than this.
    pub(crate) fn close_when_free(&self, at_most: Duration) -> bool {
        let deadline = Instant::now() + at_most;
        let mut state = self.0.lock();
        state.closed = true;
        for waiter in &state.waiters {
            waiter.wake.notify_one();
        }
        while state.owner.is_some() {
            if self.1.wait_until(&mut state, deadline).timed_out() {
                return state.owner.is_none();
            }
        }
        true
    }

    /// Connections that wait now.
    pub(crate) fn waiting(&self) -> usize {
        self.0.lock().waiters.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_owner_and_the_longest_waiter_next() {
        let queue = Arc::new(WriteQueue::default());
        assert!(queue.try_acquire(1));
        assert!(!queue.try_acquire(2));
        let waits: Vec<_> = [2, 3]
            .into_iter()
            .map(|id| {
                let queue_of_thread = Arc::clone(&queue);
                let thread = std::thread::spawn(move || queue_of_thread.wait(id, Duration::from_secs(20)));
                while queue.waiting() < (id - 1) as usize {
                    std::thread::yield_now();
                }
                thread
            })
            .collect();
        queue.release(1, false);
        assert!(!queue.try_acquire(1), "a waiter is granted");
        let mut waits = waits.into_iter();
        assert!(waits.next().unwrap().join().unwrap());
        assert!(!queue.try_acquire(3), "the grant is connection 2's");
        assert!(queue.try_acquire(2));
        queue.release(2, false);
        assert!(waits.next().unwrap().join().unwrap());
        assert!(queue.try_acquire(3));
    }

    #[test]
    fn a_lease_ends() {
        let queue = Arc::new(WriteQueue::default());
        assert!(queue.try_acquire(1));
        let of_thread = Arc::clone(&queue);
        let thread = std::thread::spawn(move || of_thread.wait(2, Duration::from_secs(20)));
        while queue.waiting() == 0 {
            std::thread::yield_now();
        }
        queue.release(1, true);
        assert!(thread.join().unwrap(), "granted after the lease, though nobody released again");
    }

    #[test]
    fn a_wait_ends_at_its_time_and_when_closed() {
        let queue = WriteQueue::default();
        assert!(queue.try_acquire(1));
        assert!(!queue.wait(2, Duration::from_millis(1)));
        queue.close();
        assert!(!queue.wait(2, Duration::from_secs(20)));
    }

    #[test]
    fn a_grant_that_is_not_used_goes_on() {
        let queue = WriteQueue::default();
        assert!(queue.wait(1, Duration::from_secs(20)));
        assert!(!queue.try_acquire(2));
        queue.give_up_grant(1);
        assert!(queue.try_acquire(2));
    }
}
