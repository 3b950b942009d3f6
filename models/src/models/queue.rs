//! The write queue of two processes, above the lock WRITE: one connection is inside at a time, and a release is missed by nobody who
//! waits in the line, here or in the other process. Time stands still, so that no wait ends by itself, no lease ends, and none is kept.

use super::check;
use crate::engine::queue::WriteQueue;
use crate::shared::{ControlBlock, Member};
use loom::sync::atomic::AtomicU64;
use loom::sync::atomic::Ordering::Relaxed;
use loom::thread;
use std::sync::Arc;
use std::time::Duration;

/// What WRITE protects, read and stored without any order of its own: an owner that is not ordered after the one before may read an
/// older value, and then a step is missing at the end.
#[derive(Default)]
struct Inside(AtomicU64);

fn write(queue: &WriteQueue, connection: u64, inside: &Inside) {
    while !queue.try_acquire(connection) {
        queue.wait(connection, Duration::from_secs(1));
    }
    inside.0.store(inside.0.load(Relaxed) + 1, Relaxed);
    queue.release(connection, false);
}

/// The connections of the first process write in threads of their own, and one of the second process beside them.
fn goes_round(name: &str, preemptions: usize, here: u64) {
    check(name, preemptions, false, move || {
        let control = Arc::new(ControlBlock::default());
        let owners = [0, 1].map(|slot| control.process_slots().acquire(slot, 1, "").expect("a slot"));
        let [queue, there] = owners.map(|owner| Arc::new(WriteQueue::new(Arc::new(Member::new(&control, owner)))));
        let inside = Arc::new(Inside::default());
        let mut threads = Vec::new();
        for connection in 1..=here {
            let (queue, inside) = (Arc::clone(&queue), Arc::clone(&inside));
            threads.push(thread::spawn(move || write(&queue, connection, &inside)));
        }
        write(&there, 1, &inside);
        for thread in threads {
            thread.join().expect("it ends");
        }
        assert_eq!(inside.0.load(Relaxed), here + 1);
        assert!(control.write().holder().is_none(), "it stays with a process that has nobody for it");
    });
}

/// A connection of each of two processes.
pub fn write_goes_round() {
    goes_round("write_goes_round", 3, 1);
}

/// Two connections of one process, and one of another.
pub fn write_goes_round_at_home_too() {
    goes_round("write_goes_round_at_home_too", 2, 2);
}
