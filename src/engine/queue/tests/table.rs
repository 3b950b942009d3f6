//! The table of the write queue: the code says what its doc comment says, and on two real queues every state is left at every
//! event as a second table has it.

use super::*;
use crate::engine::queue::table::{next, step};

const STATES: [(&str, WriteState); 9] = [
    ("Free", WriteState::Free),
    ("Leased", WriteState::Leased),
    ("Inside", WriteState::Inside),
    ("Granted", WriteState::Granted),
    ("Kept", WriteState::Kept),
    ("Received", WriteState::Received),
    ("Unclaimed", WriteState::Unclaimed),
    ("Remote", WriteState::Remote),
    ("Abandoned", WriteState::Abandoned),
];

/// The columns of the doc comment.
const COLUMNS: [(&str, Event, &[bool]); 9] = [
    ("Ask", Event::Ask, &[false]),
    ("Ask, others wait", Event::Ask, &[true]),
    ("Claim", Event::Claim, &[false, true]),
    ("Release", Event::Release, &[false]),
    ("Release, others wait", Event::Release, &[true]),
    ("Return", Event::Return, &[false]),
    ("Return, others wait", Event::Return, &[true]),
    ("Settle", Event::Settle, &[false, true]),
    ("Look", Event::Look, &[false, true]),
];

fn cells(line: &str) -> Vec<&str> {
    line.trim_matches('|').split('|').map(str::trim).collect()
}

#[test]
fn the_code_is_the_table_of_its_comment() {
    let rows: Vec<_> = include_str!("../table.rs")
        .lines()
        .filter_map(|line| line.strip_prefix("//! "))
        .filter(|line| line.starts_with('|'))
        .collect();
    assert_eq!(cells(rows[0])[1..], COLUMNS.map(|(name, ..)| name));
    assert_eq!(rows.len(), 2 + STATES.len());
    for ((name, state), row) in STATES.into_iter().zip(&rows[2..]) {
        let row = cells(row);
        assert_eq!(row[0], name);
        assert_eq!(row.len(), 1 + COLUMNS.len());
        for ((column, event, others), cell) in COLUMNS.into_iter().zip(&row[1..]) {
            for others_wait in others {
                let said = format!("{:?}", step(state, event, *others_wait, false));
                let said = if *cell == "-" { said.replace("Nothing", "-") } else { said };
                assert_eq!(said, *cell, "{name}, {column}, others wait: {others_wait}");
            }
        }
    }
}

#[test]
fn a_closed_queue_refuses_and_keeps_nothing() {
    for ((name, state), others_wait) in STATES.into_iter().flat_map(|state| [(state, false), (state, true)]) {
        assert_eq!(step(state, Event::Ask, others_wait, true), Step::Refuse, "{name}");
        assert_eq!(step(state, Event::Look, others_wait, true), Step::Refuse, "{name}");
        let released = step(state, Event::Release, others_wait, false);
        assert_eq!(step(state, Event::Return, others_wait, true), released, "{name}");
        for event in [Event::Claim, Event::Release, Event::Settle] {
            assert_eq!(step(state, event, others_wait, true), step(state, event, others_wait, false), "{name}");
        }
    }
}

#[test]
fn the_longest_waiter_is_next_and_within_the_tenure_one_of_this_process() {
    for within_tenure in [false, true] {
        assert_eq!(next(None::<u64>, None, within_tenure), Next::Free);
        assert_eq!(next(Some(7), None, within_tenure), Next::Own);
        assert_eq!(next(None, Some(7), within_tenure), Next::Other);
        assert_eq!(next(Some(6), Some(7), within_tenure), Next::Own);
        assert_eq!(next(Some(7), Some(7), within_tenure), Next::Own, "to switch the process costs more");
    }
    assert_eq!(next(Some(7), Some(6), false), Next::Other);
    assert_eq!(next(Some(7), Some(6), true), Next::Own);
}

/// What waits beside the connection of the event.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Others {
    None,
    /// A connection of this process, [`WAITER`].
    Here,
    /// A third process.
    There,
}

/// What a connection does.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Call {
    /// [`OTHER`] tries.
    Asks,
    /// [`HOLDER`] tries.
    Claims,
    Releases,
    Returns,
    /// [`HOLDER`] gives its grant up.
    GivesUp,
    /// [`HOLDER`] is closed.
    IsForgotten,
    /// A connection that has nothing is closed.
    OtherIsForgotten,
    /// [`OTHER`] waits in the queue, and looks once if it is first. Then its wait ends.
    Waits,
    /// The engine closes.
    Closes,
}

const CALLS: [Call; 9] = [
    Call::Asks,
    Call::Claims,
    Call::Releases,
    Call::Returns,
    Call::GivesUp,
    Call::IsForgotten,
    Call::OtherIsForgotten,
    Call::Waits,
    Call::Closes,
];

const HOLDER: ConnectionId = 1;
const OTHER: ConnectionId = 2;
/// It waits since long ago.
const WAITER: ConnectionId = 3;
const LONG_AGO: u64 = 1;

/// What follows: what the call returns, and the state that this process sees then.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Then {
    /// True, or nothing, and the state.
    Yes(WriteState),
    /// False, and the state.
    No(WriteState),
}

/// Three processes, and this one in a state.
struct Scene {
    _directory: Directory,
    here: WriteQueue,
    /// The process that has WRITE, or had it before.
    there: WriteQueue,
    /// The process that waits.
    third: WriteQueue,
}

impl Scene {
    fn new(state: WriteState, others: Others) -> Scene {
        let directory = Directory::new();
        let queue = |grant| WriteQueue {
            times: Times { lease: LONG_US, longest_lease: LONG_US, grant, look: LONG_US, quick: LONG_US, snapshot: 0 },
            ..directory.queue()
        };
        // The other process comes for no grant in time where that is the state.
        let there = queue(if state == WriteState::Abandoned { 0 } else { LONG_US });
        let scene = Scene { here: queue(LONG_US), there, third: queue(LONG_US), _directory: directory };
        scene.make(state);
        scene.let_wait(others);
        scene
    }

    fn make(&self, state: WriteState) {
        let here = &self.here;
        here.state.lock().histories.entry(HOLDER).or_default().reacquires_quickly = true;
        match state {
            WriteState::Free => {}
            WriteState::Leased => {
                assert!(here.try_acquire(HOLDER));
                here.release(HOLDER, true);
            }
            WriteState::Inside => assert!(here.try_acquire(HOLDER)),
            WriteState::Granted => assert!(here.wait(HOLDER, LONG)),
            WriteState::Kept => {
                assert!(here.try_acquire(HOLDER));
                self.let_wait(Others::There);
                here.release(HOLDER, true);
                self.third.turn.show_waiting(0, false);
                let word = here.turn.look();
                assert!(here.turn.swap(word, word.waited_for(false)));
            }
            WriteState::Received => {
                assert!(self.there.try_acquire(HOLDER));
                here.turn.show_waiting(LONG_AGO, false);
                let word = here.turn.look();
                assert!(here.turn.swap(word, word.waited_for(true)));
                self.there.release(HOLDER, false);
                here.turn.show_waiting(0, false);
            }
            WriteState::Unclaimed => {
                assert!(here.wait(HOLDER, LONG));
                here.state.lock().grant = Some((HOLDER, now_us()));
            }
            WriteState::Remote => assert!(self.there.try_acquire(HOLDER)),
            WriteState::Abandoned => {
                assert!(!self.there.wait(HOLDER, Duration::from_millis(1)), "its grant ends at once");
                // As one that is killed or stopped with a grant leaves it.
                let mine = self.there.turn.inside();
                self.there.turn.set_grant_until(now_us());
                assert!(here.turn.swap(here.turn.look(), mine.granted()));
            }
        }
    }

    fn let_wait(&self, others: Others) {
        match others {
            Others::None => {}
            Others::Here => {
                let wake = Arc::new(Condvar::new());
                let waiter = Waiter {
                    connection: WAITER,
                    ticket: LONG_AGO,
                    on_credit: false,
                    wake,
                    is_remote: false,
                    until: u64::MAX,
                };
                let mut state = self.here.state.lock();
                state.waiters.push(waiter);
                self.here.show_waiting(&state);
            }
            Others::There => {
                self.third.turn.show_waiting(LONG_AGO, false);
                let word = self.here.turn.look();
                // A process that finds the lock free takes it, and sleeps only with the bit set.
                assert!(word == OwnerState::FREE || self.here.turn.swap(word, word.waited_for(true)));
            }
        }
    }

    fn state(&self) -> WriteState {
        self.here.see(&mut self.here.state.lock(), now_us(), true).state
    }

    fn call(&self, call: Call) -> bool {
        let here = &self.here;
        match call {
            Call::Asks => here.try_acquire(OTHER),
            Call::Claims => here.try_acquire(HOLDER),
            Call::Releases => {
                here.release(HOLDER, false);
                true
            }
            Call::Returns => {
                here.release(HOLDER, true);
                true
            }
            Call::GivesUp => {
                here.give_up_grant(HOLDER);
                true
            }
            Call::IsForgotten => {
                here.forget(HOLDER);
                true
            }
            Call::OtherIsForgotten => {
                here.forget(OTHER);
                true
            }
            Call::Waits => here.wait(OTHER, Duration::from_millis(1)),
            Call::Closes => {
                here.close();
                true
            }
        }
    }
}

const LONG_US: u64 = LONG.as_micros() as u64;

/// What follows a call in a state; `None`: the call cannot come there.
fn specified(state: WriteState, call: Call, others: Others) -> Option<Then> {
    use WriteState::{Abandoned, Free, Granted, Inside, Kept, Leased, Received, Remote, Unclaimed};
    // Where a lock goes that no connection of this process has.
    let passed_on = match others {
        Others::None => Free,
        Others::Here => Granted,
        Others::There => Remote,
    };
    let alone = others == Others::None;
    Some(match call {
        Call::Asks => match state {
            Inside | Granted | Remote => Then::No(state),
            Leased | Kept if others == Others::Here => Then::No(state),
            Kept if others == Others::There => Then::No(state),
            // Nothing in the lock says that the third process waits: it has not slept yet.
            Free | Leased if others != Others::Here => Then::Yes(Inside),
            _ if alone => Then::Yes(Inside),
            _ => Then::No(passed_on),
        },
        Call::Claims => match state {
            Inside | Leased | Granted | Kept => Then::Yes(Inside),
            // A connection that has neither is another one, above.
            Free | Received | Unclaimed | Remote | Abandoned => return None,
        },
        // Only the owner releases.
        Call::Releases | Call::Returns if state != Inside => return None,
        Call::Releases => Then::Yes(passed_on),
        Call::Returns if alone => Then::Yes(Leased),
        Call::Returns => Then::Yes(Kept),
        Call::GivesUp => match state {
            Granted => Then::Yes(passed_on),
            // It has none to give up, and nothing changes.
            _ => Then::Yes(state),
        },
        Call::IsForgotten => match state {
            Inside | Granted | Kept | Received | Unclaimed => Then::Yes(passed_on),
            Leased => Then::Yes(Free),
            Free | Remote | Abandoned => Then::Yes(state),
        },
        Call::OtherIsForgotten => match state {
            Received | Unclaimed => Then::Yes(passed_on),
            _ => Then::Yes(state),
        },
        // After another waiter of this process, whose thread does not run here: its wait ends without a look.
        Call::Waits if others == Others::Here => Then::No(state),
        Call::Waits => match state {
            Free | Received => Then::Yes(Granted),
            Unclaimed | Abandoned => Then::Yes(Granted),
            Leased | Inside | Granted | Kept | Remote => Then::No(state),
        },
        Call::Closes => match state {
            Inside | Remote | Abandoned | Free => Then::Yes(state),
            Leased => Then::Yes(Free),
            // No connection of this process gets it any more.
            Granted | Kept | Received | Unclaimed if others == Others::There => Then::Yes(Remote),
            Granted | Kept | Received | Unclaimed => Then::Yes(Free),
        },
    })
}

#[test]
fn every_state_is_left_at_every_event_as_specified() {
    let mut faults = Vec::new();
    let mut impossible = 0;
    for (name, state) in STATES {
        for (call, others) in
            CALLS.into_iter().flat_map(|call| [(call, Others::None), (call, Others::Here), (call, Others::There)])
        {
            let scene = Scene::new(state, others);
            assert_eq!(scene.state(), state, "the scene");
            let Some(then) = specified(state, call, others) else {
                impossible += 1;
                continue;
            };
            let said = scene.call(call);
            let found = if said { Then::Yes(scene.state()) } else { Then::No(scene.state()) };
            if found != then {
                faults.push(format!("{name}, {call:?}, others {others:?}: {found:?}, not {then:?}"));
            }
        }
    }
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
    // Five states have no connection that claims, and eight none that releases, in two ways.
    assert_eq!(impossible, 3 * (5 + 8 + 8));
}
