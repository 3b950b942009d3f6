//! The lanes: staging memory, one for each core that writes, shared by all connections.
//!
//! A transaction is bound to a lane from WRITE to its end, and leaves the memory to the next one: a
//! hundred connections need no more than there are lanes.

use crate::sync::Mutex;
use crate::view::LaneMemory;

#[derive(Debug, Default)]
pub(crate) struct Lanes(Mutex<Vec<Option<LaneMemory>>>);

/// The core that this thread runs on, for its caches' sake: any number will do.
fn core() -> usize {
    #[cfg(target_os = "linux")]
    {
        rustix::thread::sched_getcpu()
    }
    #[cfg(not(target_os = "linux"))]
    {
        0
    }
}

impl Lanes {
    /// One of `count` lanes and its memory: this core's, if no transaction is bound to it.
    pub(crate) fn bind(&self, count: u64) -> (u16, LaneMemory) {
        let count = u16::try_from(count).unwrap_or(u16::MAX).max(1);
        let mut lanes = self.0.lock();
        lanes.resize_with(usize::from(count), || Some(LaneMemory::default()));
        let first = core() % lanes.len();
        let order = (first..lanes.len()).chain(0..first);
        for number in order {
            if let (Some(memory), Ok(number)) = (lanes[number].take(), u16::try_from(number)) {
                return (number, memory);
            }
        }
        // Every lane is bound.
        (u16::try_from(first).unwrap_or(0), LaneMemory::default())
    }

    /// The transaction is over.
    pub(crate) fn release(&self, number: u16, memory: LaneMemory) {
        if let Some(lane) = self.0.lock().get_mut(usize::from(number)) {
            lane.get_or_insert(memory);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_lane_is_nobody_elses() {
        let lanes = Lanes::default();
        let bound: Vec<_> = (0..3).map(|_| lanes.bind(3)).collect();
        let mut numbers: Vec<_> = bound.iter().map(|(number, _)| *number).collect();
        numbers.sort_unstable();
        assert_eq!(numbers, [0, 1, 2]);
        let (number, memory) = bound.into_iter().next().unwrap();
        lanes.release(number, memory);
        assert_eq!(lanes.bind(3).0, number);
    }
}
