//! WRITE: the write queue, in the order of waiting.
//!
//! One owner at a time, of all connections of all processes. A connection waits in `xSleep`, without polling, and is
//! woken only with a grant that cannot be revoked before its retry. A writer that does not wait for the disk may
//! reacquire WRITE for a bounded time (the lease) before the longest waiter gets its turn; and a process that has WRITE
//! may serve its own waiters for as long (its tenure) before one of another process that waits longer.
//!
//! Not all connections wait in `xSleep`: an application's own busy handler sleeps on its own (Rails, .NET), and SQLite
//! calls none for a write inside a transaction that has read. While others wait in the queue the lock is never free,
//! and such a connection, which polls, would never find it free. So a refused attempt has a place in the queue, too:
//! before its next snapshot the connection waits for its turn there for a bounded time (`line_up`), and continues with
//! a grant. So does one that has polled before, rather than be refused again; and one that is expected to write after it has
//! read (`take_turn`). And since a connection that polls is not in the queue while it sleeps, it keeps its place afterwards, until it
//! has had WRITE for its share of the time that it had waited (its credit). Turns on credit alternate with those of connections that
//! wait.
//!
//! What is done at each event in each state is a table, in `table`: a call sees the state, looks up the step, and takes it
//! by a compare-and-swap of the lock as it was seen; if that fails it sees the state again.
//!
//! This file is the order within the process, under one mutex; the owner lock that processes share is in `turn`. Every
//! step on the lock is taken under the mutex, so within the process the two never differ. The wait of the first waiter
//! is remote (for its process's turn) when another process has the lock, and local (for a connection of its own
//! process) otherwise.

mod state;
mod table;

use super::turn::{Abandoned, Turn};
use crate::interleave::Instant;
use crate::os::{now_us, this_thread};
use crate::shared::{Member, Owner, OwnerState};
use crate::sync::{Condvar, Mutex, MutexGuard};
use state::{LATER_WAITER_FACTOR, LOCAL_WAIT_FACTOR, LONG_WAIT, State, TIMES, TURN, Times, Waiter};
use std::sync::Arc;
use std::time::Duration;
use table::{Event, Next, Step, WriteState};

/// A connection, in the numbering of the engine.
pub(crate) type ConnectionId = u64;

/// The state of WRITE, and what it was seen by.
struct Seen {
    state: WriteState,
    word: OwnerState,
    /// Connections of this process wait, or another process does.
    others_wait: bool,
    abandoned: Option<Abandoned>,
}

/// What a waiter does between two looks.
enum Sleep {
    /// It looks again at once.
    No,
    /// It waits until then for a connection of this process.
    Local(u64),
    /// It waits until then for this process's turn.
    Remote(u64),
}

#[derive(Debug)]
pub(crate) struct WriteQueue {
    state: Mutex<State>,
    /// Notified when no connection is inside any more, once closed.
    left: Condvar,
    turn: Turn,
    times: Times,
}

impl WriteQueue {
    pub(crate) fn new(member: Arc<Member>) -> WriteQueue {
        WriteQueue { state: Mutex::default(), left: Condvar::new(), turn: Turn::new(member), times: TIMES }
    }

    /// Takes WRITE if it is free and no connection has an older claim. A connection that is refused has a place in the
    /// queue from then on.
    pub(crate) fn try_acquire(&self, connection: ConnectionId) -> bool {
        let mut state = self.state.lock();
        let now = now_us();
        let taken = self.try_take(&mut state, connection, now);
        if taken {
            let others = state.waiters.len() + self.turn.waiting_processes();
            state.served(connection, others, now);
        } else if !state.closed {
            state.refused(connection, now);
        }
        taken
    }

    /// Whether WRITE is this connection's, here.
    pub(crate) fn is_held_by(&self, connection: ConnectionId) -> bool {
        self.state.lock().owner == Some(connection)
    }

    /// The state of WRITE now. `suspect`: the process that has it may be dead.
    fn see(&self, state: &mut State, now: u64, suspect: bool) -> Seen {
        state.expire(now);
        let word = self.turn.look();
        let others_wait = !state.waiters.is_empty() || word.is_waited_for();
        let mut seen = Seen { state: WriteState::Inside, word, others_wait, abandoned: None };
        if state.owner.is_some() {
            return seen;
        }
        seen.state = if word == OwnerState::FREE {
            state.grant = None;
            state.tenure = None;
            // The owner released it while no connection waited: then WRITE is kept only for one that reacquires it
            // quickly.
            let is_kept = |holder| !state.is_waiting(holder) && state.reacquires_quickly(holder);
            if state.lease.is_some_and(|(holder, _)| is_kept(holder)) { WriteState::Leased } else { WriteState::Free }
        } else if self.turn.is_mine(word) {
            if state.tenure.is_none() {
                // It came from another process since.
                state.lease = None;
            }
            if state.grant.is_some() {
                WriteState::Granted
            } else if state.lease.is_some_and(|(holder, _)| !state.is_waiting(holder)) {
                WriteState::Kept
            } else if state.tenure.is_none() && now < self.turn.grant_until() {
                WriteState::Received
            } else {
                WriteState::Unclaimed
            }
        } else {
            state.lose_word();
            seen.abandoned = self.turn.abandoned(word, suspect);
            if seen.abandoned.is_some() { WriteState::Abandoned } else { WriteState::Remote }
        };
        seen
    }

    fn try_take(&self, state: &mut State, connection: ConnectionId, now: u64) -> bool {
        state.came(connection, now, self.times.quick);
        loop {
            // A dead owner must not block a connection without a busy handler either.
            let seen = self.see(state, now, true);
            let event = if state.holder(seen.state) == Some(connection) { Event::Claim } else { Event::Ask };
            match table::step(seen.state, event, seen.others_wait, state.closed) {
                Step::Stay => return true,
                Step::Enter => {
                    if self.turn.swap(seen.word, self.turn.inside().waited_for(seen.word.is_waited_for())) {
                        if event == Event::Ask {
                            state.turn_on_credit = false;
                        }
                        state.enter(connection, now, &self.times);
                        return true;
                    }
                }
                Step::PassOn | Step::TakeOver => match self.take_for_next(state, &seen, now) {
                    Some(Next::Own | Next::Other) => return false,
                    Some(Next::Free) | None => {}
                },
                _ => return false,
            }
        }
    }

    /// Releases WRITE. `keep_lease`: the owner may reacquire it before the longest waiter.
    pub(crate) fn release(&self, connection: ConnectionId, keep_lease: bool) {
        let mut state = self.state.lock();
        if state.owner != Some(connection) {
            return;
        }
        state.owner = None;
        if state.closed {
            self.left.notify_all();
        }
        if !keep_lease || state.closed {
            state.lease = None;
        }
        loop {
            let word = self.turn.look();
            if !self.turn.is_mine(word) {
                return state.lose_word();
            }
            let others_wait = !state.waiters.is_empty() || word.is_waited_for();
            let returns = others_wait && state.leave_to_others(connection, now_us());
            let event = if returns { Event::Return } else { Event::Release };
            match table::step(WriteState::Inside, event, others_wait, state.closed) {
                Step::Free if !self.turn.swap(word, OwnerState::FREE) => {}
                Step::Free => return state.tenure = None,
                Step::Keep => return self.keep(&mut state),
                _ => {
                    state.lease = None;
                    self.pass_on(&mut state, now_us());
                    return;
                }
            }
        }
    }

    /// Whether this connection holds a grant.
    pub(crate) fn granted(&self, connection: ConnectionId) -> bool {
        self.state.lock().has_grant(connection, now_us())
    }

    /// Whether no other connection would get WRITE before this one, which is outside, however late it comes: it has the lease, or WRITE is
    /// free, and none waits.
    pub(crate) fn is_alone(&self, connection: ConnectionId) -> bool {
        let mut state = self.state.lock();
        let seen = self.see(&mut state, now_us(), false);
        match seen.state {
            WriteState::Free => !seen.others_wait,
            WriteState::Leased => !seen.others_wait && state.has_lease(connection),
            // Others wait for the end of the lease.
            WriteState::Kept => state.has_lease(connection) && crate::drops("queue-alone-in-lease"),
            _ => false,
        }
    }

    /// Before the snapshot of a connection that is likely to write: if it polls, it waits in the line for its turn, for as long as it
    /// slept when it was refused last, within bounds. True: with a grant, which [`give_up_grant`](Self::give_up_grant) gives back if
    /// the connection does not write.
    pub(crate) fn line_up(&self, connection: ConnectionId) -> bool {
        let mut state = self.state.lock();
        let is_granted = self.wait_in_line_before_snapshot(&mut state, connection);
        state.reads_with_grant(connection, is_granted)
    }

    fn wait_in_line_before_snapshot(&self, state: &mut MutexGuard<'_, State>, connection: ConnectionId) -> bool {
        let now = now_us();
        if state.has_grant(connection, now) {
            return true;
        }
        let Some(at_most) = state.lines_up_for(connection, now) else { return false };
        // Before it waits: whether it has come back soon.
        state.came(connection, now, self.times.quick);
        let seen = self.see(state, now, false);
        let place = state.ticket_of_polling(connection, now);
        match seen.state {
            WriteState::Kept if state.has_lease(connection) => {
                let least = if crate::drops("queue-lease-left") { 0 } else { self.times.snapshot };
                if state.lease.is_some_and(|(_, until)| until > now + least) {
                    // It goes on with what is left of its lease: in the line it would be given a whole one.
                    state.grant = state.lease;
                    return true;
                }
                state.lease = None;
                self.settle(state);
            }
            WriteState::Free | WriteState::Leased if place.is_none() && !seen.others_wait => return false,
            _ if place.is_none() && crate::drops("queue-polls-again") => return false,
            _ => {}
        }
        let place = place.unwrap_or_else(|| (state.ticket(connection, now), false));
        self.wait_with(state, connection, place, now + at_most)
    }

    /// Before the snapshot of a connection that is expected to write soon after it has read: gives it a grant if WRITE is free, or waits
    /// for its turn, for at most 10 ms. True: with a grant, as of [`line_up`](Self::line_up), which is valid for that time, or, if it is
    /// zero, as long as other grants.
    pub(crate) fn take_turn(&self, connection: ConnectionId, valid: Duration) -> bool {
        let mut state = self.state.lock();
        let is_granted = self.wait_for_turn(&mut state, connection, valid);
        state.reads_with_grant(connection, is_granted)
    }

    fn wait_for_turn(&self, state: &mut MutexGuard<'_, State>, connection: ConnectionId, valid: Duration) -> bool {
        let now = now_us();
        let valid = match u64::try_from(valid.as_micros()).unwrap_or(u64::MAX) {
            0 => self.times.grant,
            valid => valid,
        };
        if state.has_grant(connection, now) {
            return true;
        }
        if !self.try_take(state, connection, now) {
            let ticket = state.ticket(connection, now);
            if !self.wait_with(state, connection, (ticket, false), now + TURN) {
                return false;
            }
            if valid == self.times.grant {
                return true;
            }
            let now = now_us();
            if !self.try_take(state, connection, now) {
                return false;
            }
        }
        self.grant_to_owner(state, now_us() + valid)
    }

    /// WRITE, for a connection that was refused it while no connection writes, but one has a grant and reads first, so that it may never
    /// write. Stock SQLite knows no such state, so it waits for the end of that grant, whatever its busy handler. `upgrades`: SQLite calls
    /// no busy handler for it. Then it also waits for the grant of another process, which may be one for a waiter that comes at once: one
    /// with a busy handler has a snapshot that is too old after that, and would wait a second time.
    pub(crate) fn acquire_after_grant(&self, connection: ConnectionId, upgrades: bool) -> bool {
        let mut state = self.state.lock();
        let now = now_us();
        let word = self.turn.look();
        let ends = match state.grant {
            _ if state.owner.is_some() || state.closed => return false,
            Some((holder, until))
                if upgrades || state.histories.get(&holder).is_some_and(|history| history.reads_with_grant) =>
            {
                until
            }
            None if upgrades && word.is_granted() && !self.turn.is_mine(word) => self.turn.grant_until(),
            _ => return false,
        };
        let ticket = state.ticket(connection, now);
        self.wait_with(&mut state, connection, (ticket, false), ends.min(now + self.times.grant));
        // As in `wait`: it did not poll.
        if let Some(place) = state.places.get_mut(&connection) {
            (place.waited, place.polls) = (now_us(), false);
        }
        drop(state);
        self.try_acquire(connection)
    }

    /// The owner, which has just taken WRITE, has a grant instead.
    fn grant_to_owner(&self, state: &mut State, until: u64) -> bool {
        let Some(owner) = state.owner.take() else { return false };
        self.turn.set_grant_until(until);
        loop {
            let word = self.turn.look();
            if !self.turn.is_mine(word) {
                state.lose_word();
                return false;
            }
            if self.turn.swap(word, word.granted()) {
                state.grant = Some((owner, until));
                return true;
            }
        }
    }

    /// Whether a connection waits in `xSleep`, in any process.
    pub(crate) fn contended(&self) -> bool {
        self.turn.look().is_waited_for() || !self.state.lock().waiters.is_empty()
    }

    /// The other process that had WRITE while this connection waited for long. Once for each time that it waits.
    pub(crate) fn kept_waiting_by(&self, connection: ConnectionId) -> Option<Owner> {
        let mut state = self.state.lock();
        let place = state.places.get_mut(&connection)?;
        if place.told || now_us() < place.ticket + LONG_WAIT {
            return None;
        }
        let holder = place.kept_by?;
        place.told = true;
        Some(holder)
    }

    /// Waits for at most `at_most`; true: with a grant.
    pub(crate) fn wait(&self, connection: ConnectionId, at_most: Duration) -> bool {
        let now = now_us();
        let deadline = now.saturating_add(u64::try_from(at_most.as_micros()).unwrap_or(u64::MAX));
        let mut state = self.state.lock();
        let ticket = state.ticket(connection, now);
        let granted = self.wait_with(&mut state, connection, (ticket, false), deadline);
        let word = self.turn.look();
        if let Some(place) = state.places.get_mut(&connection) {
            place.waited = now_us();
            place.polls = false;
            place.kept_by = word.owner().filter(|_| !granted && !self.turn.is_mine(word));
        }
        state.waits(connection);
        granted
    }

    /// Waits in the line with this ticket, which may be that of its credit.
    fn wait_with(
        &self,
        state: &mut MutexGuard<'_, State>,
        connection: ConnectionId,
        (ticket, on_credit): (u64, bool),
        deadline: u64,
    ) -> bool {
        let wake = Arc::new(Condvar::new());
        let place = state.waiters.partition_point(|other| other.ticket < ticket);
        let waiter = Waiter { connection, ticket, on_credit, wake: Arc::clone(&wake), is_remote: false, until: 0 };
        state.waiters.insert(place, waiter);
        self.show_waiting(state);
        let granted = self.wait_in_line(state, connection, &wake, deadline);
        state.waiters.retain(|waiter| waiter.connection != connection);
        self.show_waiting(state);
        if !granted {
            // The next one takes this one's part; and what came for this one is not lost.
            match state.waiters.first() {
                Some(next) => self.wake(next),
                None => self.settle(state),
            }
        }
        granted
    }

    fn wait_in_line(
        &self,
        state: &mut MutexGuard<'_, State>,
        connection: ConnectionId,
        wake: &Condvar,
        deadline: u64,
    ) -> bool {
        let mut suspect = false;
        loop {
            let ticket = self.turn.mine().map_or(0, |turn| turn.ticket());
            let now = now_us();
            if state.closed || self.turn.is_poisoned() {
                return false;
            }
            state.expire(now);
            if state.grant.is_some_and(|(holder, _)| holder == connection) {
                return true;
            }
            if now >= deadline {
                return false;
            }
            let sleep = match state.is_first(connection) {
                true => self.look_out(state, connection, now, suspect),
                false => Sleep::Local(now + LOCAL_WAIT_FACTOR * self.times.look),
            };
            let (until, is_remote) = match sleep {
                Sleep::No => continue,
                Sleep::Local(until) => (until.min(deadline), false),
                Sleep::Remote(until) => (until.min(deadline), true),
            };
            suspect = is_remote;
            let at_most = until.saturating_sub(now);
            if let Some(waiter) = state.waiter(connection) {
                waiter.is_remote = is_remote;
                waiter.until = until;
            }
            if is_remote {
                MutexGuard::unlocked(state, || self.turn.wait(ticket, at_most));
                if let Some(waiter) = state.waiter(connection) {
                    waiter.is_remote = false;
                }
            } else {
                wake.wait_for(state, Duration::from_micros(at_most));
            }
        }
    }

    /// The first waiter looks. `suspect`: the process that has WRITE may be dead.
    fn look_out(&self, state: &mut State, connection: ConnectionId, now: u64, suspect: bool) -> Sleep {
        let seen = self.see(state, now, suspect);
        match table::step(seen.state, Event::Look, seen.others_wait, state.closed) {
            Step::Wait => {
                let ends =
                    [state.lease, state.grant].into_iter().flatten().map(|(_, end)| end).filter(|end| *end > now);
                Sleep::Local(ends.fold(now + LOCAL_WAIT_FACTOR * self.times.look, u64::min))
            }
            Step::WaitRemote => self.announce(state, seen.word, now),
            Step::Accept => {
                // No step on the lock is needed: the grant is this process's.
                state.grant = Some((connection, self.turn.grant_until()));
                state.turn_on_credit = state.waiter(connection).is_some_and(|waiter| waiter.on_credit);
                Sleep::No
            }
            Step::PassOn | Step::TakeOver => {
                self.take_for_next(state, &seen, now);
                Sleep::No
            }
            _ => Sleep::No,
        }
    }

    /// The lock is another process's: says in it that this process waits.
    fn announce(&self, state: &State, word: OwnerState, now: u64) -> Sleep {
        // Re-announce: another process may have discounted this waiter.
        self.show_waiting(state);
        let is_said = word.is_waited_for() || crate::drops("queue-says-waits");
        if !is_said && !self.turn.swap(word, word.waited_for(true)) {
            return Sleep::No;
        }
        let since = state.waiters.first().map_or(0, |waiter| waiter.ticket);
        if self.turn.longest().is_some_and(|other| other.since_us < since) {
            return Sleep::Remote(now + LATER_WAITER_FACTOR * self.times.look);
        }
        let grant_ends = if word.is_granted() { self.turn.grant_until() } else { u64::MAX };
        Sleep::Remote(grant_ends.clamp(now, now + self.times.look))
    }

    /// Takes the lock as it was seen, and passes it on. `None`: it has changed meanwhile.
    fn take_for_next(&self, state: &mut State, seen: &Seen, now: u64) -> Option<Next> {
        if let Some(abandoned) = &seen.abandoned {
            if !self.turn.take_abandoned(seen.word, abandoned, self.times.grant) {
                return None;
            }
            state.tenure = Some(now + state.lease_us(&self.times));
        } else {
            if !self.turn.swap(seen.word, self.turn.inside().waited_for(seen.word.is_waited_for())) {
                return None;
            }
            let lease = state.lease_us(&self.times);
            state.tenure.get_or_insert(now + lease);
        }
        self.pass_on(state, now)
    }

    /// The owner has left, but may reacquire WRITE until its lease ends.
    fn keep(&self, state: &mut State) {
        let Some((_, until)) = state.lease else { return };
        self.turn.set_grant_until(until);
        let word = loop {
            let word = self.turn.look();
            if !self.turn.is_mine(word) {
                return state.lose_word();
            }
            if self.turn.swap(word, word.granted()) {
                break word;
            }
        };
        // The next waiter must not sleep longer than the lease lasts.
        if std::mem::replace(&mut state.lease_announced, true) {
            return;
        }
        match state.waiters.first() {
            Some(first) if first.until <= until => {}
            Some(first) => self.wake(first),
            None if word.is_waited_for() => {
                if let Some(longest) = self.turn.longest() {
                    self.turn.notify(longest);
                }
            }
            None => {}
        }
    }

    /// The lock is this process's, and none of its connections is inside: says which waiter has it now. `None`: it is not this
    /// process's any more.
    fn pass_on(&self, state: &mut State, now: u64) -> Option<Next> {
        let inside = self.turn.inside();
        loop {
            let word = self.turn.look();
            if !self.turn.is_mine(word) {
                state.lose_word();
                return None;
            }
            let is_asked = word != inside && !crate::drops("queue-waits-taken-first");
            if is_asked && !self.turn.swap(word, inside) {
                continue;
            }
            let own = state.next().filter(|_| !state.closed);
            let other = self.turn.next(|ticket, on_credit| state.place(ticket, on_credit));
            let until = now + self.times.grant;
            self.turn.set_grant_until(until);
            let within_tenure = state.tenure.is_some_and(|until| now < until);
            let next = table::next(
                own.map(|own| state.place(own.ticket, own.on_credit)),
                other.map(|other| state.place(other.since_us, other.on_credit)),
                within_tenure,
            );
            match (next, own, other) {
                (Next::Own, Some(own), _) => {
                    if !self.turn.swap(inside, inside.granted().waited_for(other.is_some())) {
                        continue;
                    }
                    self.wake(own);
                    (state.grant, state.turn_on_credit) = (Some((own.connection, until)), own.on_credit);
                    state.lease = None;
                }
                (Next::Other, _, Some(other)) => {
                    if !self.turn.hand_to(inside, other, own.is_some()) {
                        continue;
                    }
                    self.turn.notify(other);
                    // To wait for the process's turn from now on.
                    state.waiters.first().filter(|first| !first.is_remote).inspect(|first| self.wake(first));
                    state.lose_word();
                }
                _ => {
                    if !self.turn.swap(inside, OwnerState::FREE) {
                        continue;
                    }
                    state.tenure = None;
                }
            }
            return Some(next);
        }
    }

    /// What could have taken WRITE is gone: if no connection of this process is inside, or comes, the lock is passed on.
    fn settle(&self, state: &mut State) {
        let now = now_us();
        loop {
            let seen = self.see(state, now, false);
            match table::step(seen.state, Event::Settle, seen.others_wait, state.closed) {
                Step::PassOn if self.take_for_next(state, &seen, now).is_none() => {}
                Step::Wake => return state.waiters.first().into_iter().for_each(|first| self.wake(first)),
                _ => return,
            }
        }
    }

    fn wake(&self, waiter: &Waiter) {
        match self.turn.mine() {
            Some(turn) if waiter.is_remote => turn.notify(),
            _ => {
                waiter.wake.notify_one();
            }
        }
    }

    fn show_waiting(&self, state: &State) {
        let first = state.waiters.first();
        self.turn.show_waiting(first.map_or(0, |first| first.ticket), first.is_some_and(|first| first.on_credit));
    }

    /// The connection goes: whatever it holds here is free.
    pub(crate) fn forget(&self, connection: ConnectionId) {
        let mut state = self.state.lock();
        state.places.remove(&connection);
        state.histories.remove(&connection);
        if state.owner == Some(connection) {
            state.owner = None;
            // `close_when_free` waits for it.
            self.left.notify_all();
        }
        if state.grant.is_some_and(|(holder, _)| holder == connection) {
            state.grant = None;
        }
        if state.has_lease(connection) {
            state.lease = None;
        }
        self.settle(&mut state);
    }

    /// The read lock of a granted connection failed, or it stopped trying: the next one's turn.
    pub(crate) fn give_up_grant(&self, connection: ConnectionId) {
        let mut state = self.state.lock();
        if state.grant.is_some_and(|(holder, _)| holder == connection) {
            state.grant = None;
            state.reads_with_grant(connection, false);
            if state.has_lease(connection) {
                state.lease = None;
            }
            self.settle(&mut state);
        }
    }

    /// Every wait ends, without a grant; if the log is poisoned, also those of other processes.
    pub(crate) fn close(&self) {
        self.end_waits(&mut self.state.lock());
        if self.turn.is_poisoned() {
            self.turn.notify_all();
        }
    }

    fn end_waits(&self, state: &mut State) {
        state.closed = true;
        state.grant = None;
        state.lease = None;
        for waiter in &state.waiters {
            self.wake(waiter);
        }
        self.settle(state);
    }

    /// Closes the queue once no connection writes; false: one does, for longer than this, or on this very thread.
    pub(crate) fn close_when_free(&self, at_most: Duration) -> bool {
        let deadline = Instant::now() + at_most;
        let mut state = self.state.lock();
        self.end_waits(&mut state);
        while state.owner.is_some() {
            // Its transaction ends with the process.
            if state.taken.by == this_thread() {
                return false;
            }
            if self.left.wait_until(&mut state, deadline) {
                return state.owner.is_none();
            }
        }
        true
    }

    /// Connections of this process that wait now.
    pub(crate) fn waiting(&self) -> usize {
        self.state.lock().waiters.len()
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
