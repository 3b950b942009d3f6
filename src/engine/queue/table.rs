//! The table of the write queue: what a process does at each event, in each state of WRITE as it sees it.
//!
//! A state is what the lock holds and what the process knows of it ([`WriteState`]); an event is a call of one of its
//! connections ([`Event`]); a step is what the process does then ([`Step`]). *Others wait*: connections of this process
//! in the queue, or another process by the bit in the lock. `-` is impossible: nothing is done.
//!
//! | state | Ask | Ask, others wait | Claim | Release | Release, others wait | Return | Return, others wait | Settle | Look |
//! |---|---|---|---|---|---|---|---|---|---|
//! | Free | Enter | PassOn | - | - | - | - | - | Wake | PassOn |
//! | Leased | Enter | Refuse | Enter | - | - | - | - | Nothing | Wait |
//! | Inside | Refuse | Refuse | Stay | Free | PassOn | Free | Keep | Nothing | Wait |
//! | Granted | Refuse | Refuse | Enter | - | - | - | - | Nothing | Wait |
//! | Kept | Enter | Refuse | Enter | - | - | - | - | Nothing | Wait |
//! | Received | Enter | PassOn | - | - | - | - | - | PassOn | Accept |
//! | Unclaimed | Enter | PassOn | - | - | - | - | - | PassOn | PassOn |
//! | Remote | Refuse | Refuse | - | - | - | - | - | Wake | WaitRemote |
//! | Abandoned | TakeOver | TakeOver | - | - | - | - | - | Wake | TakeOver |
//!
//! A closed queue refuses: Ask is Refuse, Look is Refuse, and Return is Release, in each state.
//!
//! Time moves a state without a call, and the next look finds it: of Granted and of Kept it makes Unclaimed, of Leased
//! Free, of Received Unclaimed, of another process's grant Abandoned.
//!
//! Why there are four notions beside the owner. A *grant* lets a connection be woken and be certain to get WRITE: so
//! each release wakes one thread. A *lease* saves the wake-up where the owner returns within microseconds; only its
//! *history* shows whether it does, and WRITE kept for one that does not is lost time for all. A *tenure* bounds what a
//! process serves of its own waiters before one of another process: to switch the process costs more than to switch the
//! thread, and a lease that each of its threads gets anew would not bound it.

/// Where WRITE is, as this process sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WriteState {
    /// The lock is free.
    Free,
    /// The lock is free, and the connection that released it last may reacquire it before waiters of this process.
    Leased,
    /// A connection of this process has WRITE.
    Inside,
    /// A waiter of this process has a grant and has not come for it yet.
    Granted,
    /// The lock is this process's, and the connection that released it may reacquire it before all waiters.
    Kept,
    /// Another process handed the lock to this one, and none of its waiters has looked yet.
    Received,
    /// The lock is this process's and none of its connections has it: a grant or a lease expired, or was given up.
    Unclaimed,
    /// The lock is another process's.
    Remote,
    /// The lock is that of a process which is dead, or has not come for its grant in time.
    Abandoned,
}

/// What a connection of this process does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// A connection that has neither a grant nor the lease tries to take WRITE.
    Ask,
    /// The connection that has WRITE, the grant or the lease tries to take it.
    Claim,
    /// The owner releases WRITE.
    Release,
    /// The owner releases WRITE and, with what is left of its lease, is expected to reacquire it soon.
    Return,
    /// What could have taken WRITE is gone: a wait ended without a grant, a grant was given up, a connection was closed,
    /// or the queue was.
    Settle,
    /// The first waiter of this process looks.
    Look,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// The connection takes WRITE.
    Enter,
    /// The connection has WRITE already.
    Stay,
    /// The connection does not get WRITE.
    Refuse,
    /// The lock is free again.
    Free,
    /// The lock is kept for the connection that releases it.
    Keep,
    /// This process takes the lock or has it, and gives it to the waiter that is [next](Next).
    PassOn,
    /// This process takes the lock from the process that abandoned it, and gives it to the waiter that is next.
    TakeOver,
    /// The first waiter has the grant that another process gave.
    Accept,
    /// The first waiter waits for a connection of this process: until the grant or the lease ends.
    Wait,
    /// The first waiter waits for this process's turn.
    WaitRemote,
    /// The first waiter is woken to look.
    Wake,
    Nothing,
}

/// The table. `others_wait`: connections of this process, or other processes.
pub(super) fn step(state: WriteState, event: Event, others_wait: bool, closed: bool) -> Step {
    use WriteState::{Abandoned, Free, Granted, Inside, Kept, Leased, Received, Remote, Unclaimed};
    match (event, state) {
        (Event::Ask | Event::Look, _) if closed => Step::Refuse,

        (Event::Ask, Inside | Granted | Remote) => Step::Refuse,
        (Event::Ask, Abandoned) => Step::TakeOver,
        (Event::Ask, Free | Leased | Kept | Received | Unclaimed) if !others_wait => Step::Enter,
        (Event::Ask, Leased | Kept) => Step::Refuse,
        (Event::Ask, Free | Received | Unclaimed) => Step::PassOn,

        (Event::Claim, Inside) => Step::Stay,
        (Event::Claim, Leased | Granted | Kept) => Step::Enter,
        (Event::Claim, Free | Received | Unclaimed | Remote | Abandoned) => Step::Nothing,

        (Event::Release | Event::Return, Inside) if !others_wait => Step::Free,
        (Event::Return, Inside) if !closed => Step::Keep,
        (Event::Release | Event::Return, Inside) => Step::PassOn,
        (
            Event::Release | Event::Return,
            Free | Leased | Granted | Kept | Received | Unclaimed | Remote | Abandoned,
        ) => Step::Nothing,

        (Event::Settle, Leased | Inside | Granted | Kept) => Step::Nothing,
        (Event::Settle, Received | Unclaimed) => Step::PassOn,
        (Event::Settle, Free | Remote | Abandoned) => Step::Wake,

        (Event::Look, Leased | Inside | Granted | Kept) => Step::Wait,
        (Event::Look, Received) => Step::Accept,
        (Event::Look, Free | Unclaimed) => Step::PassOn,
        (Event::Look, Abandoned) => Step::TakeOver,
        (Event::Look, Remote) => Step::WaitRemote,
    }
}

/// Which waiter gets WRITE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// The first one of this process.
    Own,
    /// That of the other process that waits longest.
    Other,
    /// None waits: the lock is free.
    Free,
}

/// Which waiter gets WRITE: the [place](super::state::State::place) of the next one of this process, that of another process,
/// and whether this process is within its tenure.
pub(super) fn next<P: Ord>(own: Option<P>, other: Option<P>, within_tenure: bool) -> Next {
    match (own, other) {
        (None, None) => Next::Free,
        (Some(own), Some(other)) if !within_tenure && other < own => Next::Other,
        (Some(_), _) => Next::Own,
        (None, Some(_)) => Next::Other,
    }
}
