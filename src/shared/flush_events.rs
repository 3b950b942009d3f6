//! What commits wait for that are to become durable: an event for each epoch, so that the end of a flush wakes those that it made
//! durable, and the release of LEADER one of those that the next flush is for.
//!
//! An epoch uses the event of the fourth epoch before it, whose waiters have mostly gone by then. One that has not may be
//! woken instead of one of the later epoch: it passes that on.

use super::event::Event;

/// Events for epochs that follow one another.
const EVENTS: usize = 4;

/// See the head of the file. On a cache line of its own.
#[repr(C, align(64))]
#[cfg_attr(loom, derive(Default))]
pub struct FlushEvents([Event; EVENTS]);

impl FlushEvents {
    /// That of epoch `epoch`. Notified after it was certified (all waiters); when LEADER is free and it is the next one, or is left
    /// to be certified (one waiter, which leads); and on poison.
    #[must_use]
    pub fn of(&self, epoch: u64) -> &Event {
        &self.0[usize::try_from(epoch % EVENTS as u64).unwrap_or(0)]
    }

    /// The engine is poisoned: wakes those that wait for any flush.
    pub fn notify_all(&self) {
        for event in &self.0 {
            event.notify();
        }
    }
}
