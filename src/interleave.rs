//! Time, and the places where another thread or process may come between, as the simulation of several processes
//! (`sim_tests`) takes hold of them: it lets one thread run at a time, and decides at these places which.
//!
//! On a thread that is not simulated, and in every build but that of the unit tests, time is the system's and [`step`] is
//! nothing.

#[cfg(not(test))]
pub(crate) use real::*;
#[cfg(test)]
pub(crate) use simulated::*;

#[cfg(not(test))]
mod real {
    pub(crate) use std::thread::sleep;
    pub(crate) use std::time::Instant;

    /// Others may come between here.
    #[inline(always)]
    pub(crate) fn step(_place: &str) {}

    /// Whether this thread's waits are [`sleep`].
    #[inline(always)]
    pub(crate) fn is_simulated() -> bool {
        false
    }

    /// The entries of a ring that are used: all of them.
    #[inline(always)]
    pub(crate) fn ring_entries(all: u64, _few: u64) -> u64 {
        all
    }
}

#[cfg(test)]
mod simulated {
    use std::cell::RefCell;
    use std::ops::Add;
    use std::sync::{Arc, LazyLock};
    use std::time::Duration;

    /// What decides on a simulated thread.
    pub(crate) trait Turns {
        /// The simulated process that the thread belongs to.
        fn process(&self) -> u64;
        /// Others may come between.
        fn step(&self, place: &str);
        /// The thread waits for others, for at most `at_most`.
        fn sleep(&self, at_most: Duration);
        /// The time of the simulated machine.
        fn now_us(&self) -> u64;
        /// The same for the same seed.
        fn log_id(&self) -> u64;
        /// A write of `bytes` happens in two parts; returns the length of the first.
        fn split(&self, bytes: usize) -> Option<usize>;
        /// The rings lap within some dozen commits. The same for all threads of a machine.
        fn has_small_rings(&self) -> bool;
    }

    thread_local! {
        static TURNS: RefCell<Option<Arc<dyn Turns>>> = const { RefCell::new(None) };
    }

    /// This thread is simulated from here on.
    pub(crate) fn simulate(turns: Arc<dyn Turns>) {
        TURNS.with(|cell| *cell.borrow_mut() = Some(turns));
    }

    /// `None` also while a thread unwinds, as that of a simulated process that was killed.
    fn turns() -> Option<Arc<dyn Turns>> {
        if std::thread::panicking() { None } else { TURNS.try_with(|cell| cell.borrow().clone()).ok()? }
    }

    pub(crate) fn is_simulated() -> bool {
        turns().is_some()
    }

    pub(crate) fn process() -> Option<u64> {
        turns().map(|turns| turns.process())
    }

    pub(crate) fn step(place: &str) {
        if let Some(turns) = turns() {
            turns.step(place);
        }
    }

    pub(crate) fn sleep(at_most: Duration) {
        match turns() {
            Some(turns) => turns.sleep(at_most),
            None => std::thread::sleep(at_most),
        }
    }

    pub(crate) fn now_us() -> Option<u64> {
        turns().map(|turns| turns.now_us())
    }

    pub(crate) fn log_id() -> Option<u64> {
        turns().map(|turns| turns.log_id())
    }

    /// The entries of a ring that are used, of all that it has.
    pub(crate) fn ring_entries(all: u64, few: u64) -> u64 {
        if turns().is_some_and(|turns| turns.has_small_rings()) { few } else { all }
    }

    pub(crate) fn split(bytes: usize) -> Option<usize> {
        turns().and_then(|turns| turns.split(bytes))
    }

    /// No run of a simulation takes nearly as long.
    pub(crate) const RUN_MAX: Duration = Duration::from_secs(60);

    static BEGAN: LazyLock<std::time::Instant> = LazyLock::new(std::time::Instant::now);

    /// As that of the standard library.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
    pub(crate) struct Instant(Duration);

    impl Instant {
        pub(crate) fn now() -> Instant {
            Instant(now_us().map_or_else(|| BEGAN.elapsed(), Duration::from_micros))
        }

        pub(crate) fn elapsed(&self) -> Duration {
            Instant::now().saturating_duration_since(*self)
        }

        pub(crate) fn saturating_duration_since(&self, earlier: Instant) -> Duration {
            self.0.saturating_sub(earlier.0)
        }
    }

    impl Add<Duration> for Instant {
        type Output = Instant;

        fn add(self, longer: Duration) -> Instant {
            Instant(self.0 + longer)
        }
    }
}
