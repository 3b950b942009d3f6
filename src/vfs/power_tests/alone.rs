//! The only thread of a simulated machine, and its time.

use super::life::meanwhile;
use crate::disk::sim::Dice;
use crate::interleave::Turns;
use crate::sync::{Mutex, MutexGuard};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;

/// The only thread of the simulated machine. Its waits are over at once.
#[derive(Debug)]
pub struct Alone {
    time: Mutex<(u64, Dice)>,
    has_small_rings: bool,
    laps: AtomicU64,
    /// How often a process had to read the log since the commit ring had moved on.
    ring_moved_on: AtomicU64,
}

/// Simulated time after which a wait is one without end.
const STUCK_US: u64 = 3_600_000_000;

impl Turns for Alone {
    fn process(&self) -> u64 {
        u64::MAX
    }

    fn step(&self, place: &str) {
        match place {
            meanwhile::PLACE => meanwhile::is_there(),
            "the commit ring laps" => drop(self.laps.fetch_add(1, SeqCst)),
            "the commit ring has moved on" => drop(self.ring_moved_on.fetch_add(1, SeqCst)),
            _ => {}
        }
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

    fn has_small_rings(&self) -> bool {
        self.has_small_rings
    }
}

impl Alone {
    pub fn new(mut dice: Dice) -> Alone {
        let has_small_rings = dice.percent(50);
        Alone {
            has_small_rings,
            time: Mutex::new((1_000_000, dice)),
            laps: AtomicU64::new(0),
            ring_moved_on: AtomicU64::new(0),
        }
    }

    pub fn laps(&self) -> u64 {
        self.laps.load(SeqCst)
    }

    pub fn ring_moved_on(&self) -> u64 {
        self.ring_moved_on.load(SeqCst)
    }

    fn lock(&self) -> MutexGuard<'_, (u64, Dice)> {
        self.time.try_lock().expect("one thread")
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
