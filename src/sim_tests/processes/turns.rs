//! Who goes on: one thread of all simulated processes at a time, until it comes to a place where others may come between.
//!
//! The thread that gives up its turn chooses the next one, or hands over to the simulation itself (`run`), for what happens
//! from outside: a kill, a power cut, a new process. All of it by dice, so that a seed is one course of events. Time is the
//! simulated machine's: a thread that waits may find that it was woken early, or that its time is over while others stood
//! still.

use crate::disk::sim::Dice;
use crate::interleave::{self, simulate};
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

/// Real time after which a thread that does not come back is one that waits for ever.
const STUCK: Duration = Duration::from_secs(60);
/// Places where others come between more often: a step of the protocol is half done.
pub const HOT: &[&str] = &[
    "frame located",
    "publish_before_store",
    "after_publish",
    "leading_before_cut",
    "leading_uncertified",
    "making",
    "reserved",
    "overtaken",
    "deleting",
    "truncated",
    "rotating",
    "activating",
    "attaching",
    "retiring",
    "before published",
    "before cuts",
    "before certified",
    "after published",
    "after cuts",
    "after certified",
    "before active",
    "after an incarnation",
    "before poisoned",
    "after a snapshot",
    "after a target",
    "after the snapshots",
    "before next_segment",
    "before recycled_below",
    "a takeover",
    "written again",
    "LEADER of the living",
    "sealing",
    "a sync",
    "a failed sync",
    "an acknowledgement",
];
/// Here it is decided whether a promise was one: something happens from outside so much more often.
const DECISIVE: &[(&str, u64)] = &[("an acknowledgement", 20), ("a failed sync", 100)];
/// Where somebody lies in wait, in per cent.
const SNIPED: u32 = 20;

/// The same for the hot places.
const HOT_EVENTS: u64 = 5;

/// How often what happens.
#[derive(Clone, Copy, Debug)]
pub struct Course {
    /// Of the places where others may come between, in per cent.
    pub switches: u32,
    /// The same for the hot ones.
    pub hot: u32,
    /// Of all steps, in ten thousand: something happens from outside.
    pub events: u64,
    /// Of the writes, in per cent: happens in two parts.
    pub splits: u32,
    /// Who comes here is killed, in a good part of the cases.
    pub sniped: Option<&'static str>,
    /// When somebody comes here the power goes, in so many per cent of the cases.
    pub power_goes_at: Option<(&'static str, u32)>,
    pub has_small_rings: bool,
}

struct Thread {
    process: u64,
    weight: u64,
    /// It waits for others until then.
    until_us: Option<u64>,
    place: String,
    is_killed: bool,
    is_done: bool,
    wake: Arc<Condvar>,
}

struct State {
    dice: Dice,
    course: Course,
    now_us: u64,
    threads: Vec<Thread>,
    /// `None`: the simulation itself.
    current: Option<usize>,
    /// Who gave up its turn last.
    last: usize,
    /// It came where somebody lies in wait.
    is_sniped: bool,
    /// Somebody came where the power goes.
    power_goes: bool,
    /// Steps that are left before it is a hang.
    left: u64,
    panics: Vec<String>,
    /// Processes that are stopped, each for so many turns of others.
    stopped: BTreeMap<u64, u64>,
    /// How often somebody came to each place.
    times: BTreeMap<String, u64>,
}

pub struct Turns {
    state: Mutex<State>,
    outside: Condvar,
}

/// Why a thread of a killed process unwinds.
struct Killed;

/// What one thread knows.
struct Turn {
    turns: Arc<Turns>,
    me: usize,
    process: u64,
}

impl State {
    fn living(&self) -> impl Iterator<Item = usize> + '_ {
        self.threads.iter().enumerate().filter(|(_, thread)| !thread.is_done && !thread.is_killed).map(|(at, _)| at)
    }

    /// The thread that goes on.
    fn choose(&mut self) -> Option<usize> {
        if self.dice.percent(2) {
            for thread in &mut self.threads {
                // 0: stopped, as by a signal.
                thread.weight = self.dice.pick(&[0, 1, 10, 10, 100]);
            }
        }
        for left in self.stopped.values_mut() {
            *left = left.saturating_sub(1);
        }
        self.stopped.retain(|_, left| *left > 0);
        for tries in 0.. {
            let mut living: Vec<usize> = self.living().collect();
            if living.iter().any(|at| !self.stopped.contains_key(&self.threads[*at].process)) {
                living.retain(|at| !self.stopped.contains_key(&self.threads[*at].process));
            }
            let mut weights: Vec<u64> = living.iter().map(|at| self.threads[*at].weight).collect();
            if weights.iter().all(|weight| *weight == 0) {
                weights.fill(1);
            }
            let mut roll = self.dice.below(weights.iter().sum());
            let at = living.iter().zip(weights).find(|(_, weight)| {
                let found = roll < *weight;
                roll = roll.saturating_sub(*weight);
                found
            });
            let at = *at?.0;
            match self.threads[at].until_us.filter(|until| *until > self.now_us) {
                None => return Some(at),
                Some(until) => match self.dice.below(10) {
                    0..3 => return Some(at),
                    3..6 => {
                        self.now_us = until;
                        return Some(at);
                    }
                    _ if tries > 20 => self.now_us = until,
                    _ => {}
                },
            }
        }
        None
    }

    /// Counts a step; whether something happens from outside now.
    fn is_event(&mut self, more: u64) -> bool {
        self.left = self.left.saturating_sub(1);
        self.dice.below(10_000) < self.course.events * more || self.left == 0
    }
}

impl Turns {
    pub fn new(seed: u64, course: Course) -> Arc<Turns> {
        let state = State {
            dice: Dice::new(seed),
            course,
            now_us: 1_000_000,
            threads: Vec::new(),
            current: None,
            last: 0,
            is_sniped: false,
            power_goes: false,
            left: u64::MAX,
            panics: Vec::new(),
            stopped: BTreeMap::new(),
            times: BTreeMap::new(),
        };
        Arc::new(Turns { state: Mutex::new(state), outside: Condvar::new() })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no thread panics here")
    }

    fn pass_to(&self, state: &mut State, next: Option<usize>) {
        state.current = next;
        match next {
            Some(next) => state.threads[next].wake.notify_one(),
            None => self.outside.notify_one(),
        }
    }

    /// One more thread of a process; by whoever has the turn.
    pub fn spawn(self: &Arc<Turns>, process: u64, name: &str, body: impl FnOnce() + Send + 'static) {
        let me = {
            let mut state = self.lock();
            let wake = Arc::new(Condvar::new());
            let weight = state.dice.pick(&[1, 10, 10, 100]);
            let place = String::from("its beginning");
            let thread = Thread { process, weight, until_us: None, place, is_killed: false, is_done: false, wake };
            state.threads.push(thread);
            state.threads.len() - 1
        };
        let turn = Arc::new(Turn { turns: Arc::clone(self), me, process });
        let run = move || {
            simulate(Arc::clone(&turn) as Arc<dyn interleave::Turns>);
            let ended = catch_unwind(AssertUnwindSafe(|| {
                turn.wait_for_turn(turn.turns.lock());
                body();
            }));
            turn.end(ended.err());
        };
        std::thread::Builder::new().name(name.to_owned()).spawn(run).expect("a thread");
    }

    /// From outside: the threads go on until something shall happen from outside again. False: nobody lives.
    pub fn go_on(&self) -> bool {
        let mut state = self.lock();
        let Some(next) = state.choose() else { return false };
        self.pass_to(&mut state, Some(next));
        drop(self.wait_outside(state, |state| state.current.is_none()));
        true
    }

    fn wait_outside<'a>(&self, state: MutexGuard<'a, State>, ready: impl Fn(&State) -> bool) -> MutexGuard<'a, State> {
        let waited = self.outside.wait_timeout_while(state, STUCK, |state| !ready(state));
        let (state, waited) = waited.expect("no thread panics here");
        assert!(!waited.timed_out(), "a thread never gives up its turn: {}", places(&state));
        state
    }

    /// From outside: the threads of these processes are gone.
    pub fn kill(&self, is_killed: impl Fn(u64) -> bool) {
        let mut state = self.lock();
        for thread in &mut state.threads {
            if is_killed(thread.process) && !thread.is_done {
                thread.is_killed = true;
                thread.wake.notify_one();
            }
        }
        let gone = |state: &State| state.threads.iter().all(|thread| !thread.is_killed || thread.is_done);
        drop(self.wait_outside(state, gone));
    }

    pub fn change(&self, change: impl FnOnce(&mut Course)) {
        change(&mut self.lock().course);
    }

    /// If it takes so many steps more, it is a hang.
    pub fn limit(&self, steps: u64) {
        self.lock().left = steps;
    }

    /// A process stands still for so many turns of the others, or until nobody else lives.
    pub fn stop(&self, process: u64, turns: u64) {
        self.lock().stopped.insert(process, turns);
    }

    /// Who is stopped goes on.
    pub fn wake_all(&self) {
        self.lock().stopped.clear();
    }

    /// How often somebody came to this place.
    pub fn times(&self, place: &str) -> u64 {
        self.lock().times.get(place).copied().unwrap_or(0)
    }

    /// Whether the process that had the turn last came where somebody lies in wait.
    pub fn take_sniped(&self) -> bool {
        std::mem::take(&mut self.lock().is_sniped)
    }

    /// Whether somebody came where the power goes.
    pub fn take_power_goes(&self) -> bool {
        std::mem::take(&mut self.lock().power_goes)
    }

    /// The process that had the turn last.
    pub fn last(&self) -> Option<u64> {
        let state = self.lock();
        state.threads.get(state.last).map(|thread| thread.process)
    }

    /// Whether no thread of it goes on.
    pub fn is_over(&self, process: u64) -> bool {
        self.lock().threads.iter().all(|thread| thread.process != process || thread.is_done)
    }

    /// What hangs, if anything does.
    pub fn hang(&self) -> Option<String> {
        let state = self.lock();
        (state.left == 0).then(|| places(&state))
    }

    pub fn panics(&self) -> Vec<String> {
        self.lock().panics.clone()
    }
}

/// Where everybody stands.
fn places(state: &State) -> String {
    let places = state.living().map(|at| {
        let Thread { process, until_us, place, .. } = &state.threads[at];
        format!("process {process} at {place} (waits until {until_us:?})")
    });
    places.collect::<Vec<_>>().join(", ")
}

impl Turn {
    fn die(&self) -> ! {
        resume_unwind(Box::new(Killed))
    }

    fn wait_for_turn(&self, mut state: MutexGuard<'_, State>) {
        let wake = Arc::clone(&state.threads[self.me].wake);
        while state.current != Some(self.me) && !state.threads[self.me].is_killed {
            state = wake.wait(state).expect("no thread panics here");
        }
        let thread = &mut state.threads[self.me];
        thread.until_us = None;
        if thread.is_killed {
            drop(state);
            self.die();
        }
    }

    fn give_up(&self, mut state: MutexGuard<'_, State>, place: &str, until_us: Option<u64>, is_event: bool) {
        state.last = self.me;
        let thread = &mut state.threads[self.me];
        thread.until_us = until_us;
        place.clone_into(&mut thread.place);
        let next = if is_event { None } else { state.choose() };
        if next != Some(self.me) {
            self.turns.pass_to(&mut state, next);
        }
        self.wait_for_turn(state);
    }

    fn end(&self, panic: Option<Box<dyn std::any::Any + Send>>) {
        let mut state = self.turns.lock();
        if let Some(payload) = panic.filter(|payload| !payload.is::<Killed>()) {
            let text = payload.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("a panic");
            state.panics.push(text.to_owned());
        }
        let thread = &mut state.threads[self.me];
        thread.is_done = true;
        if thread.is_killed {
            self.turns.outside.notify_one();
        } else {
            let next = if state.panics.is_empty() { state.choose() } else { None };
            self.turns.pass_to(&mut state, next);
        }
    }
}

impl interleave::Turns for Turn {
    fn process(&self) -> u64 {
        self.process
    }

    fn step(&self, place: &str) {
        let mut state = self.turns.lock();
        let more = state.dice.below(4);
        state.now_us += more;
        match state.times.get_mut(place) {
            Some(times) => *times += 1,
            None => drop(state.times.insert(place.to_owned(), 1)),
        }
        let decisive = DECISIVE.iter().find(|(decisive, _)| *decisive == place).map(|(_, more)| *more);
        let is_hot = decisive.is_some() || HOT.contains(&place);
        let percent = if is_hot { state.course.hot } else { state.course.switches };
        let mut is_event = state.is_event(decisive.unwrap_or(if is_hot { HOT_EVENTS } else { 1 }));
        if state.course.events > 0 && state.course.sniped == Some(place) && state.dice.percent(SNIPED) {
            (is_event, state.is_sniped) = (true, true);
        }
        if state.course.events > 0
            && let Some((_, percent)) = state.course.power_goes_at.filter(|(at, _)| *at == place)
            && state.dice.percent(percent)
        {
            (is_event, state.power_goes) = (true, true);
        }
        if is_event || state.dice.percent(percent) {
            self.give_up(state, place, None, is_event);
        }
    }

    fn sleep(&self, at_most: Duration) {
        let mut state = self.turns.lock();
        let is_event = state.is_event(1);
        let until = state.now_us.saturating_add(u64::try_from(at_most.as_nanos().div_ceil(1000)).unwrap_or(u64::MAX));
        self.give_up(state, "a wait", Some(until), is_event);
    }

    fn now_us(&self) -> u64 {
        self.turns.lock().now_us
    }

    fn log_id(&self) -> u64 {
        self.turns.lock().dice.next() | 1
    }

    fn split(&self, bytes: usize) -> Option<usize> {
        let mut state = self.turns.lock();
        let percent = state.course.splits;
        // As a kernel does that is stopped between two pages of its cache.
        (bytes > 4096 && state.dice.percent(percent)).then(|| 4096 * (1 + state.dice.index(bytes / 4096)))
    }

    fn has_small_rings(&self) -> bool {
        self.turns.lock().course.has_small_rings
    }
}
