//! A member: the process slot of this process in the shared control block, and which other members are alive.
//!
//! A process is alive as long as the kernel holds its ALIVE byte and no process has acquired its slot since. Nothing
//! else decides: neither a pid nor a time.

use super::control_block::{ControlBlock, ControlView};
use super::lock::{ALIVE_BYTE, INIT, LockFile, WHOLE_LOCK};
use super::mapping::ControlMapping;
use super::owner::Owner;
use super::process_slots::PROCESS_SLOTS;
use super::process_slots::Process;
use super::reservations::RESERVATIONS;
use std::io;
use std::ops::Range;
use std::time::Duration;

/// The bytes of all process slots.
pub const ALIVE_BYTES: Range<u64> = ALIVE_BYTE..ALIVE_BYTE + PROCESS_SLOTS as u64;

fn alive_byte(slot: u16) -> Range<u64> {
    let byte = ALIVE_BYTE + u64::from(slot);
    byte..byte + 1
}

/// The processes that live and are joined to `words`, but not the one that `lock` belongs to.
#[must_use]
pub fn living(control: &ControlView, lock: &LockFile) -> Vec<Process> {
    let lives = |process: &Process| lock.is_held_by_others(alive_byte(process.owner.slot)).unwrap_or(true);
    control.processes().filter(lives).collect()
}

/// Processes that a message names.
const NAMED_MAX: usize = 4;

/// A description of the members, for a message.
#[must_use]
pub fn names(processes: &[Process]) -> String {
    let mut names: Vec<String> = processes.iter().take(NAMED_MAX).map(Process::to_string).collect();
    match processes.len() {
        0 => return String::from("a process that is just coming or going"),
        all if all > NAMED_MAX => names.push(format!("{} more", all - NAMED_MAX)),
        _ => {}
    }
    names.join(", ")
}

/// One process's place among those that share a database. Dropping it closes the lock file, and with it go its locks.
#[derive(Debug)]
pub struct Member {
    mapping: ControlMapping,
    lock: LockFile,
    me: Owner,
}

impl Member {
    /// The process slot in `control`, whose ALIVE byte `lock` holds.
    #[cfg(test)]
    pub(crate) fn new(mapping: ControlMapping, lock: LockFile, me: Owner) -> Member {
        Member { mapping, lock, me }
    }

    /// Acquires a process slot: the lowest whose ALIVE byte is free; in private memory of one process the first, with
    /// all locks for life. `command` is for messages. What a dead process left in the slot is freed at once. `None`:
    /// every slot is taken. Under INIT.
    ///
    /// # Errors
    /// Any error of the file system.
    pub fn acquire(mapping: ControlMapping, lock: LockFile, command: &str) -> io::Result<Option<Member>> {
        let mut slot = None;
        if !mapping.is_shared() {
            slot = lock.try_lock(WHOLE_LOCK)?.then_some(0);
        } else {
            for free in (0u16..).take(PROCESS_SLOTS) {
                if lock.try_lock(alive_byte(free))? {
                    slot = Some(free);
                    break;
                }
            }
        }
        let me = slot.and_then(|slot| mapping.control().process_slots().acquire(slot, std::process::id(), command));
        Ok(me.map(|me| {
            let member = Member { mapping, lock, me };
            crate::fault_point("attaching");
            member.free_leftovers();
            member
        }))
    }

    /// Before anything else: the process that died in this slot may still own locks, and a live process now holds the
    /// ALIVE byte: without this all others would wait for the dead one for ever.
    fn free_leftovers(&self) {
        let control = self.control();
        // Nothing has to be repaired here: the tail and what is sealed are derived, the next leader checks whether the
        // last epoch record is, and a word says whether a doubled certificate was begun.
        let locks = [control.write(), control.append(), control.leader(), control.checkpoint(), control.exclusive()];
        for word in locks.into_iter().chain((0..RESERVATIONS).map(|index| control.reservations().lock(index))) {
            if let Some(holder) = word.holder()
                && holder.slot == self.me.slot
                && holder != self.me
                && !crate::drops("join-frees-locks")
                && word.take_over(holder, self.me)
            {
                word.release(self.me);
            }
        }
        control.process_slots().notify_turns();
        self.control().snapshot_slots().free_idle(|owner| self.is_alive(owner));
    }

    /// The lock file.
    #[must_use]
    pub fn lock(&self) -> &LockFile {
        &self.lock
    }

    /// The control block.
    #[must_use]
    pub fn control(&self) -> &ControlBlock {
        self.mapping.control()
    }

    /// The memory of the control block.
    #[must_use]
    pub fn mapping(&self) -> &ControlMapping {
        &self.mapping
    }

    /// Slot and incarnation of this process.
    #[must_use]
    pub fn me(&self) -> Owner {
        self.me
    }

    /// Whether the process of `owner` lives. Where that cannot be found out it counts as alive: nothing is taken from it.
    #[must_use]
    pub fn is_alive(&self, owner: Owner) -> bool {
        if owner == self.me {
            return true;
        }
        let is_of_slot = self.control().incarnation(owner.slot) == Some(owner.incarnation);
        if owner.slot == self.me.slot || !(is_of_slot || crate::drops("alive-incarnation")) {
            return false;
        }
        if crate::drops("alive-byte") {
            return false;
        }
        self.mapping.is_shared() && self.lock.is_held_by_others(alive_byte(owner.slot)).unwrap_or(true)
    }

    /// The other members that are alive. Under INIT no process joins.
    #[must_use]
    pub fn others(&self) -> Vec<Process> {
        if self.mapping.is_shared() { living(self.control(), &self.lock) } else { Vec::new() }
    }

    /// Waits for INIT for at most this time. A control block of one process needs none. Threads of one process exclude
    /// each other by other means: to the kernel they are one holder.
    ///
    /// # Errors
    /// Any error of the file system.
    pub fn wait_init(&self, at_most: Duration) -> io::Result<bool> {
        if self.mapping.is_shared() { self.lock.lock_within(INIT, at_most, || Ok(false)) } else { Ok(true) }
    }

    /// Lets go of INIT.
    ///
    /// # Errors
    /// Any error of the file system.
    pub fn end_init(&self) -> io::Result<()> {
        if self.mapping.is_shared() { self.lock.unlock(INIT) } else { Ok(()) }
    }

    /// Leaves the process slot and closes the lock file: all its locks are free.
    pub fn leave(&self) {
        self.control().process_slots().release(self.me);
        self.lock.close();
    }
}
