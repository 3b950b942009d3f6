//! APPEND, LEADER, CREATE and CKPT: owner words that a guard lets go of.
//!
//! A word excludes the threads of this process as it excludes other processes; who waits finds out whether the owner
//! lives, and takes the word from a dead one.

use super::Engine;
use super::queue::ConnectionId;
use crate::interleave::Instant;
use crate::shared::{Attachment, Owner, OwnerWord, TIMED_WAIT, Words, generation};
use crate::sqlite::Code;
use std::sync::Arc;
use std::time::Duration;

/// After so long it is told for whom this process waits.
const TELL_AFTER: Duration = Duration::from_secs(1);

/// A word of the shared words.
pub(super) type Which = fn(&Words) -> &OwnerWord;

/// A word that is held; dropped, it is free.
pub(crate) struct Held {
    attachment: Arc<Attachment>,
    which: Which,
    /// The process that holds it: a forked child that closes what it inherited lets go of nothing.
    generation: u32,
}

impl Drop for Held {
    fn drop(&mut self) {
        if self.generation == generation() {
            (self.which)(self.attachment.words()).release(self.attachment.me());
        }
    }
}

impl Engine {
    pub(super) fn held(&self, which: Which) -> Held {
        Held { attachment: self.marks.shared(), which, generation: generation() }
    }

    /// Takes the word if it is free.
    pub(super) fn try_hold(&self, which: Which) -> Option<Held> {
        let attachment = self.marks.attachment();
        which(attachment.words()).try_acquire(attachment.me(), false).then(|| self.held(which))
    }

    /// Takes the word from its owner if that one is dead.
    pub(super) fn try_take_over(&self, which: Which) -> Option<Held> {
        let attachment = self.marks.attachment();
        let word = which(attachment.words());
        let owner = word.holder()?;
        (!attachment.is_alive(owner) && word.take_over(owner, attachment.me())).then(|| self.held(which))
    }

    /// Waits for the word; and the dead owner from whom it was taken.
    pub(super) fn hold(&self, which: Which, name: &'static str) -> (Held, Option<Owner>) {
        let attachment = self.marks.attachment();
        let mut began = None;
        let taken_from = which(attachment.words()).acquire(attachment.me(), |owner| {
            self.tell_owner(&mut began, owner, name);
            attachment.is_alive(owner)
        });
        (self.held(which), taken_from)
    }

    /// Waits for the word, so long at most; `Err`: the owner.
    pub(super) fn hold_within(&self, which: Which, at_most: Duration) -> Result<Held, Option<Owner>> {
        let word = which(self.marks.words());
        let began = Instant::now();
        loop {
            if let Some(held) = self.try_hold(which).or_else(|| self.try_take_over(which)) {
                return Ok(held);
            }
            if began.elapsed() >= at_most {
                return Err(word.holder());
            }
            word.wait(TIMED_WAIT);
        }
    }

    /// A process that is stopped in the middle keeps everybody waiting: `sqlite3_log` says which.
    pub(super) fn tell_owner(&self, began: &mut Option<(Instant, bool)>, owner: Owner, name: &str) {
        let (since, told) = began.get_or_insert_with(|| (Instant::now(), false));
        if !*told && since.elapsed() >= TELL_AFTER {
            *told = true;
            self.tell_waits(name, owner);
        }
    }

    /// As that, for the write lock, after a wait of `connection` that ended without it.
    pub(crate) fn tell_writer(&self, connection: ConnectionId) {
        if let Some(owner) = self.queue.kept_waiting_by(connection) {
            self.tell_waits("WRITE", owner);
        }
    }

    fn tell_waits(&self, name: &str, owner: Owner) {
        let text = format!("pwal: {}: waits for {name}, held by {}", self.path.display(), self.describe(owner));
        self.context.host.log(Code::WARNING.number(), &text);
    }

    /// Who that is, for people.
    pub(crate) fn describe(&self, owner: Owner) -> String {
        match self.marks.words().processes().find(|process| process.owner == owner) {
            Some(process) => format!("process {} ({})", process.pid, process.command),
            None => format!("the process in slot {}", owner.slot),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::Directory;
    use crate::shared::{Control, LockFile};

    #[test]
    fn a_forked_child_lets_go_of_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let lock = LockFile::open(&Directory::open(directory.path()).unwrap(), 0o600).unwrap();
        let claimed = Attachment::claim(Control::anonymous().unwrap(), lock, "parent").unwrap();
        let attachment = Arc::new(claimed.unwrap());
        let word = attachment.words().append();
        assert!(word.try_acquire(attachment.me(), false));
        let held = |generation| Held { attachment: Arc::clone(&attachment), which: Words::append, generation };
        drop(held(generation() + 1));
        assert_eq!(word.holder(), Some(attachment.me()), "the parent has it still");
        drop(held(generation()));
        assert_eq!(word.holder(), None);
    }
}
