//! Keeps the cores from dozing during the comparison: on a virtual machine that idles between two commits a sync takes many
//! times as long, and the side that works more would look faster than it is.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;

/// Until it is dropped, a thread of the lowest priority keeps each core busy.
pub struct Awake(Arc<AtomicBool>);

impl Awake {
    pub fn new() -> Awake {
        let ends = Arc::new(AtomicBool::new(false));
        // Elsewhere the priority would be the whole process's.
        if cfg!(target_os = "linux") {
            for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
                let ends = Arc::clone(&ends);
                thread::spawn(move || {
                    let lowest = rustix::process::nice(19).is_ok();
                    while lowest && !ends.load(SeqCst) {
                        // A thread that only spins is not preempted before the next tick.
                        thread::yield_now();
                    }
                });
            }
        }
        Awake(ends)
    }
}

impl Drop for Awake {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}
