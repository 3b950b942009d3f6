//! The process slots of the control block: the members, since when each waits for WRITE, and the event of its turn.
//!
//! The values are for display, and order the queue. Whether a process is alive is decided by the kernel's locks
//! ([`Member`](super::Member)).

use super::event::Event;
use super::line::Line;
use super::owner::Owner;
use crate::interleave::step;
use crate::os::now_us;
use crate::sync::atomic::AtomicU64;
use crate::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::fmt;

/// Processes that may share a database.
pub const PROCESS_SLOTS: usize = if cfg!(loom) { 3 } else { 128 };
const COMMAND_WORDS: usize = 4;

/// The process slots.
#[repr(C)]
#[cfg_attr(loom, derive(Default))]
pub struct ProcessTable {
    /// Those that have ever been acquired, the lowest first: reading the later ones would only touch their memory.
    used: Line,
    slots: [ProcessLine; PROCESS_SLOTS],
}

#[cfg(not(loom))]
const _: () = assert!(size_of::<ProcessLine>() == 128 && PROCESS_SLOTS <= 1 << 15, "an owner fits 16 bits");

#[repr(C, align(64))]
#[cfg_attr(loom, derive(Default))]
struct ProcessLine {
    incarnation: AtomicU64,
    pid: AtomicU64,
    joined_us: AtomicU64,
    waiting_since_us: AtomicU64,
    command: [AtomicU64; COMMAND_WORDS],
    /// Notified when WRITE is granted to this process.
    turn: Event,
}

/// One joined process, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its slot and incarnation.
    pub owner: Owner,
    /// Its process id in its own namespace. Never a proof of life.
    pub pid: u32,
    /// When it joined: microseconds, as [`now_us`].
    pub joined_us: u64,
    /// Since when the longest of its waiters for WRITE waits: microseconds, as [`now_us`]; 0: none of them does.
    pub waiting_since_us: u64,
    /// The beginning of its command, at most 32 bytes.
    pub command: String,
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let command: String = self.command.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        write!(f, "process {} ({})", self.pid, command)
    }
}

impl ProcessTable {
    /// The incarnation that the process slot `slot` has now.
    pub(super) fn incarnation(&self, slot: u16) -> Option<u32> {
        self.slots.get(usize::from(slot)).map(|line| line.incarnation.load(SeqCst) as u32)
    }

    /// The joined processes.
    pub(super) fn joined(&self) -> impl Iterator<Item = Process> + '_ {
        self.slots.iter().zip(0u16..).filter_map(|(line, slot)| {
            let joined_us = line.joined_us.load(SeqCst);
            if joined_us == 0 {
                return None;
            }
            let bytes: Vec<u8> = line.command.iter().flat_map(|word| word.load(Relaxed).to_ne_bytes()).collect();
            let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
            Some(Process {
                owner: Owner { slot, incarnation: line.incarnation.load(SeqCst) as u32 },
                pid: line.pid.load(Relaxed) as u32,
                joined_us,
                waiting_since_us: line.waiting_since_us.load(SeqCst),
                command: String::from_utf8_lossy(&bytes[..end]).into_owned(),
            })
        })
    }

    /// Acquires the process slot `slot`, whose ALIVE byte the caller holds: raises its incarnation first, then stores
    /// the identity of the process. `None` if there is no such slot. The caller must next take over what the
    /// predecessor left in the owner locks.
    #[must_use]
    pub fn acquire(&self, slot: u16, pid: u32, command: &str) -> Option<Owner> {
        let line = self.slots.get(usize::from(slot))?;
        step("before an incarnation");
        self.used.0.fetch_max(u64::from(slot) + 1, SeqCst);
        let incarnation = line.incarnation.fetch_add(1, SeqCst).wrapping_add(1);
        step("after an incarnation");
        // Not shown before it is whole: what a predecessor that was killed left is not this one's.
        line.joined_us.store(0, SeqCst);
        line.waiting_since_us.store(0, SeqCst);
        line.pid.store(u64::from(pid), Relaxed);
        let mut bytes = [0; COMMAND_WORDS * 8];
        let length = (0..=command.len().min(bytes.len())).rev().find(|at| command.is_char_boundary(*at)).unwrap_or(0);
        bytes[..length].copy_from_slice(&command.as_bytes()[..length]);
        for (word, part) in line.command.iter().zip(bytes.as_chunks::<8>().0) {
            word.store(u64::from_ne_bytes(*part), Relaxed);
        }
        line.joined_us.store(now_us(), SeqCst);
        Some(Owner { slot, incarnation: incarnation as u32 })
    }

    /// Sets since when the longest waiter for WRITE of the process `me` waits (microseconds, as [`now_us`]; 0: there is
    /// none). A release of WRITE hands it to the process that waits longest. No effect if the slot has another
    /// incarnation.
    pub fn set_waiting(&self, me: Owner, since_us: u64) {
        if let Some(line) = self.line(me) {
            line.waiting_since_us.store(since_us, SeqCst);
        }
    }

    /// The processes other than `me` that wait for WRITE: since when (microseconds, as [`now_us`]), and which. They may be
    /// dead.
    pub(crate) fn waiting(&self, me: Owner) -> impl Iterator<Item = (u64, Owner)> + '_ {
        let used = usize::try_from(self.used.0.load(SeqCst)).unwrap_or(PROCESS_SLOTS);
        let lines = self.slots.iter().zip(0u16..).take(used).filter(move |(_, slot)| *slot != me.slot);
        lines.filter_map(|(line, slot)| {
            let incarnation = line.incarnation.load(SeqCst);
            let since_us = line.waiting_since_us.load(SeqCst);
            // An join in between: what was read is of two processes.
            let same = since_us != 0 && line.incarnation.load(SeqCst) == incarnation;
            same.then_some((since_us, Owner { slot, incarnation: incarnation as u32 }))
        })
    }

    /// `other`, which was found to wait since `since_us`, does not count any more: it is dead, or did not come for what it
    /// was granted. If it does wait, it says so again.
    pub(crate) fn discount_waiting(&self, other: Owner, since_us: u64) {
        if let Some(line) = self.line(other) {
            let _ = line.waiting_since_us.compare_exchange(since_us, 0, SeqCst, SeqCst);
        }
    }

    /// Since when `other` waits, as [`waiting`](ProcessTable::waiting) finds it; 0: it does not.
    pub(crate) fn waiting_since_us(&self, other: Owner) -> u64 {
        self.line(other).map_or(0, |line| line.waiting_since_us.load(SeqCst))
    }

    /// All processes check whether it is their turn: after poison, or when WRITE was freed without reading the waiters.
    pub(crate) fn notify_turns(&self) {
        let used = usize::try_from(self.used.0.load(SeqCst)).unwrap_or(PROCESS_SLOTS);
        self.slots.iter().take(used).for_each(|line| line.turn.notify());
    }

    /// Notified when WRITE is granted to the process in `slot`, and on poison.
    pub(crate) fn turn(&self, slot: u16) -> Option<&Event> {
        self.slots.get(usize::from(slot)).map(|line| &line.turn)
    }

    /// Leaves the process slot.
    pub fn release(&self, me: Owner) {
        if let Some(line) = self.line(me) {
            line.waiting_since_us.store(0, SeqCst);
            line.joined_us.store(0, SeqCst);
        }
    }

    /// The line of a process that is a member or was, if no other got its slot since. A live process holds its ALIVE
    /// byte, so that no other gets the slot between this check and a store of its own.
    fn line(&self, me: Owner) -> Option<&ProcessLine> {
        let line = self.slots.get(usize::from(me.slot))?;
        (line.incarnation.load(SeqCst) as u32 == me.incarnation).then_some(line)
    }
}
