//! Many threads and processes for some seconds each. What waits here may wait as long as a busy timeout: what has
//! a closer bound on time is in the other programs, which do not run at the same time.

mod concurrent;
mod crashes;
mod equivalence;
mod fault_threads;
mod history;
mod kills;
mod nemesis;
mod open_close;
mod power_cuts;
mod processes;
mod scale;
mod serializable;
mod stress;
mod views;

use std::sync::{Mutex, MutexGuard, PoisonError};

support::roles!();

/// Held by a run that keeps the whole machine busy: two at once would wait for each other longer than a busy timeout allows.
fn one_at_a_time() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}
