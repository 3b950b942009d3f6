//! Keeps the cores from dozing: on a virtual machine that idles between two commits a sync takes milliseconds instead of
//! microseconds, and the side that works more would look faster than it is.

use crate::machine::cores;
use crate::scheduling;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::JoinHandle;

/// Until it is dropped, a thread of the lowest priority keeps each core busy.
pub struct Awake {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Awake {
    /// One thread for each core; none where a thread cannot have such a priority.
    #[expect(clippy::new_without_default, reason = "it starts threads")]
    pub fn new() -> Awake {
        let stop = Arc::new(AtomicBool::new(false));
        let count = if cfg!(target_os = "linux") { cores() } else { 0 };
        let threads = (0..count)
            .map(|_| {
                let stop = Arc::clone(&stop);
                std::thread::spawn(move || {
                    scheduling::idle();
                    while !stop.load(Relaxed) {
                        // A thread that only spins is not preempted before the next tick.
                        std::thread::yield_now();
                    }
                })
            })
            .collect();
        Awake { stop, threads }
    }
}

impl Drop for Awake {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        for thread in self.threads.drain(..) {
            let _ended = thread.join();
        }
    }
}
