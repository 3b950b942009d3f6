//! Time, and the places where others may come between, of which a model has more: each access of an atomic is one.

use std::ops::Add;
use std::time::Duration;

/// Nothing.
pub(crate) fn step(_place: &str) {}

/// All of them.
pub(crate) fn ring_entries(all: u64, _few: u64) -> u64 {
    all
}

/// The time of a model stands still: what ends by time is not modelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Instant(Duration);

impl Instant {
    pub(crate) fn now() -> Instant {
        Instant(Duration::ZERO)
    }
}

impl Add<Duration> for Instant {
    type Output = Instant;

    fn add(self, longer: Duration) -> Instant {
        Instant(self.0 + longer)
    }
}
