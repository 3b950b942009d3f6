//! A futex: the comparison and the going to sleep are one step; a wake wakes one that sleeps on the word, and nothing else ends
//! a wait. So a wake that is lost is a deadlock, which loom reports. In a model with [`waits_end`] a wait ends at once instead, as if
//! its time were over.

use crate::sync::atomic::AtomicU64;
use crate::sync::atomic::Ordering::SeqCst;
use loom::sync::{Arc, Condvar, Mutex};
use std::cell::Cell;
use std::time::Duration;

struct Sleeper {
    address: usize,
    wake: Arc<Condvar>,
    is_woken: Arc<Cell<bool>>,
}

loom::lazy_static! {
    static ref SLEEPERS: Mutex<Vec<Sleeper>> = Mutex::new(Vec::new());
}

thread_local! {
    static WAITS_END: Cell<bool> = const { Cell::new(false) };
}

/// Whether waits of the models that this thread runs end by themselves.
pub(crate) fn waits_end(end: bool) {
    WAITS_END.set(end);
}

pub(crate) fn wait(word: &AtomicU64, expected: u32, _timeout: Duration) {
    if WAITS_END.get() {
        loom::thread::yield_now();
        return;
    }
    let mut sleepers = SLEEPERS.lock().expect("nobody panics while holding it");
    if word.load(SeqCst) as u32 != expected {
        return;
    }
    let (wake, is_woken) = (Arc::new(Condvar::new()), Arc::new(Cell::new(false)));
    sleepers.push(Sleeper { address: word.address(), wake: Arc::clone(&wake), is_woken: Arc::clone(&is_woken) });
    while !is_woken.get() {
        sleepers = wake.wait(sleepers).expect("nobody panics while holding it");
    }
}

pub(crate) fn wake_one(word: &AtomicU64) {
    let mut sleepers = SLEEPERS.lock().expect("nobody panics while holding it");
    if let Some(first) = sleepers.iter().position(|sleeper| sleeper.address == word.address()) {
        let sleeper = sleepers.remove(first);
        sleeper.is_woken.set(true);
        sleeper.wake.notify_one();
    }
}

pub(crate) fn wake_all(word: &AtomicU64) {
    let mut sleepers = SLEEPERS.lock().expect("nobody panics while holding it");
    for sleeper in sleepers.extract_if(.., |sleeper| sleeper.address == word.address()) {
        sleeper.is_woken.set(true);
        sleeper.wake.notify_one();
    }
}
