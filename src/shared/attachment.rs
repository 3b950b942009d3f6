//! What one process holds of the words that all share: its process slot, and who else lives.
//!
//! A process lives as long as the kernel holds its ALIVE byte and nobody has attached to its slot since. Nothing else
//! is proof: not a pid, not a time.

use super::control::Control;
use super::lock::{ALIVE_BYTE, INIT_BYTE, LockFile};
use super::owner::Owner;
use super::words::{PROCESS_SLOTS, Words};
use std::io;
use std::ops::Range;

/// The bytes of all process slots.
pub const ALIVE_BYTES: Range<u64> = ALIVE_BYTE..ALIVE_BYTE + PROCESS_SLOTS as u64;

/// One process's place among those that share a database. Dropping it closes the lock file, and with it go its locks.
#[derive(Debug)]
pub struct Attachment {
    control: Control,
    lock: LockFile,
    me: Owner,
}

impl Attachment {
    /// The place in `control`, whose ALIVE byte `lock` holds.
    #[must_use]
    pub fn new(control: Control, lock: LockFile, me: Owner) -> Attachment {
        Attachment { control, lock, me }
    }

    /// The words.
    #[must_use]
    pub fn words(&self) -> &Words {
        self.control.words()
    }

    /// The memory behind the words.
    #[must_use]
    pub fn control(&self) -> &Control {
        &self.control
    }

    /// Slot and incarnation of this process.
    #[must_use]
    pub fn me(&self) -> Owner {
        self.me
    }

    /// The lock file.
    #[must_use]
    pub fn lock(&self) -> &LockFile {
        &self.lock
    }

    /// Whether the process of `owner` lives. Where that cannot be found out it counts as alive: nothing is taken from it.
    #[must_use]
    pub fn is_alive(&self, owner: Owner) -> bool {
        if owner == self.me {
            return true;
        }
        if owner.slot == self.me.slot || self.words().incarnation(owner.slot) != Some(owner.incarnation) {
            return false;
        }
        let byte = ALIVE_BYTE + u64::from(owner.slot);
        self.control.is_shared() && self.lock.is_held_by_others(byte..byte + 1).unwrap_or(true)
    }

    /// Whether any other process is attached, or was a moment ago. Under INIT nobody comes.
    ///
    /// # Errors
    /// Any error of the file system.
    pub fn has_others(&self) -> io::Result<bool> {
        Ok(self.control.is_shared() && self.lock.is_held_by_others(ALIVE_BYTES)?)
    }

    /// INIT, if nobody has it. Words of one process alone need none.
    ///
    /// # Errors
    /// Any error of the file system.
    pub fn try_init(&self) -> io::Result<bool> {
        if self.control.is_shared() { self.lock.try_lock(INIT_BYTE..INIT_BYTE + 1) } else { Ok(true) }
    }

    /// Lets go of INIT.
    ///
    /// # Errors
    /// Any error of the file system.
    pub fn end_init(&self) -> io::Result<()> {
        if self.control.is_shared() { self.lock.unlock(INIT_BYTE..INIT_BYTE + 1) } else { Ok(()) }
    }

    /// Leaves the process slot and closes the lock file: all its locks are free.
    pub fn leave(&self) {
        self.words().detach(self.me);
        self.lock.close();
    }
}
