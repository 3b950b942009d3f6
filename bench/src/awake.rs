//! Keeps the cores from dozing: on a virtual machine that idles between two commits a sync takes milliseconds instead of
//! microseconds, and the side that works more would look faster than it is.
//!
//! Linux lets a process that may (root) ask for idle cores that wait for work without halting, as long as it keeps
//! `/dev/cpu_dma_latency` open with a latency of 0 (kernel documentation, `power/pm_qos_interface`). Elsewhere a thread of the
//! lowest priority keeps each core busy. That costs more: the scheduler does not take such a core for idle when it looks for
//! one that could take a waiting thread over.

use crate::machine::cores;
use crate::scheduling;
use std::fs::File;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::JoinHandle;

/// Until it is dropped, no core dozes.
pub struct Awake {
    _latency: Option<File>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Awake {
    /// Asks for it, or starts a thread for each core; neither where a thread cannot have such a priority.
    #[expect(clippy::new_without_default, reason = "it starts threads")]
    pub fn new() -> Awake {
        let stop = Arc::new(AtomicBool::new(false));
        let latency = if cfg!(target_os = "linux") { no_latency().ok() } else { None };
        let count = if cfg!(target_os = "linux") && latency.is_none() { cores() } else { 0 };
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
        Awake { _latency: latency, stop, threads }
    }
}

fn no_latency() -> io::Result<File> {
    let mut file = File::options().write(true).open("/dev/cpu_dma_latency")?;
    file.write_all(&0_i32.to_ne_bytes())?;
    Ok(file)
}

impl Drop for Awake {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        for thread in self.threads.drain(..) {
            let _ended = thread.join();
        }
    }
}
