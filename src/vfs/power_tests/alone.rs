//! The only thread of a simulated machine, and its time.

use crate::disk::sim::Dice;
use crate::interleave::Turns;
use crate::sync::{Mutex, MutexGuard};
use std::time::Duration;

/// The only thread of the simulated machine. Its waits are over at once.
#[derive(Debug)]
pub struct Alone(Mutex<(u64, Dice)>);

/// Simulated time after which a wait is one without end.
const STUCK_US: u64 = 3_600_000_000;

impl Turns for Alone {
    fn process(&self) -> u64 {
        u64::MAX
    }

    fn step(&self, _place: &str) {
        self.pass(1);
    }

    fn sleep(&self, at_most: Duration) {
        self.pass(u64::try_from(at_most.as_nanos().div_ceil(1000)).unwrap_or(u64::MAX).clamp(1, 1_000_000));
    }

    fn now_us(&self) -> u64 {
        self.lock().0
    }

    fn log_id(&self) -> u64 {
        self.lock().1.next() | 1
    }

    fn split(&self, _bytes: usize) -> Option<usize> {
        None
    }
}

impl Alone {
    pub fn new(dice: Dice) -> Alone {
        Alone(Mutex::new((1_000_000, dice)))
    }

    fn lock(&self) -> MutexGuard<'_, (u64, Dice)> {
        self.0.try_lock().expect("one thread")
    }

    fn pass(&self, us: u64) {
        let now = {
            let mut alone = self.lock();
            alone.0 += us;
            alone.0
        };
        assert!(now < STUCK_US, "waits without end");
    }
}
