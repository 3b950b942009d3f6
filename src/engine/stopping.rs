//! The end of the engine's own threads: a flag that each wait and each long step on them reads.
//!
//! The threads are in `background`, above everything that they call; what they call has to know that they are to end.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

thread_local! {
    /// This thread is an engine's own.
    static IS_BACKGROUND: Cell<bool> = const { Cell::new(false) };
}

/// What the engine's own threads are to do with the work that is under way.
#[derive(Debug, Default)]
pub(super) struct Stopping {
    /// They shall end.
    stops: AtomicBool,
    /// A checkpoint shall not be brought to its end.
    gives_up: AtomicBool,
}

impl Stopping {
    /// This thread is an engine's own from here on.
    pub(super) fn enter_background() {
        IS_BACKGROUND.set(true);
    }

    /// The threads shall end; `gives_up`: without the checkpoint that is under way.
    pub(super) fn stop(&self, gives_up: bool) {
        self.gives_up.store(gives_up, SeqCst);
        self.stops.store(true, SeqCst);
    }

    /// The threads may start again.
    pub(super) fn allow(&self) {
        self.stops.store(false, SeqCst);
        self.gives_up.store(false, SeqCst);
    }

    /// Whether this is one of the threads, and it shall end: then it waits for no other process any more.
    pub(super) fn stops_here(&self) -> bool {
        IS_BACKGROUND.get() && self.stops.load(SeqCst)
    }

    /// Whether the pass of this thread is left to others.
    pub(super) fn gives_up_checkpoint(&self) -> bool {
        self.gives_up.load(SeqCst)
    }
}
