//! R5, fail stop: the first failed write or sync of an epoch ends this engine.
//!
//! Every waiter gets an answer, nothing is tried again on the same pages, nobody goes on above the durable
//! prefix, no checkpoint, no clean close. A commit that is reported as failed is invalidated on disk.

use super::commit::Append;
use super::{Engine, EngineError};
use crate::disk::OpenHow;
use std::collections::BTreeSet;
use std::io::{self, IoSlice};
use std::sync::atomic::Ordering::SeqCst;

#[derive(Debug)]
pub(super) struct Poison {
    reason: String,
    /// What failed could not be invalidated: it may come back at the next open.
    unknown: bool,
}

impl Engine {
    pub(crate) fn is_poisoned(&self) -> bool {
        self.poison.get().is_some()
    }

    /// Whether a view of this commit shows what a failed flush took, or is just taking.
    pub(crate) fn shows_lost(&self, sequence: u64) -> bool {
        self.marks.is_poisoned() && sequence > self.marks.visible()
    }

    /// # Errors
    /// The engine is poisoned.
    pub(crate) fn check_poison(&self) -> Result<(), EngineError> {
        match self.poison.get() {
            None => Ok(()),
            Some(poison) => Err(EngineError::Poisoned { reason: poison.reason.clone(), unknown: poison.unknown }),
        }
    }

    /// The error of an operation that poisoned the engine: the operation's own code with the poison's text.
    pub(crate) fn poisoned_as(&self, error: EngineError) -> EngineError {
        self.check_poison().err().unwrap_or(error)
    }

    /// Under APPEND: what is not durable is overwritten with zeros and synced through another descriptor
    /// (Linux reports a write-back error once to each), then everybody is told.
    pub(crate) fn poison(&self, append: &mut Append, reason: &str) {
        if self.is_poisoned() {
            return;
        }
        // First of all: from here on no view shows what is about to be erased (`shows_lost`).
        self.marks.poison();
        let erased = self.erase_unsealed(append);
        let lost = self.marks.published() - self.marks.durable();
        let unknown = erased.is_err();
        let poison = Poison { reason: reason.to_owned(), unknown };
        if self.poison.set(poison).is_err() {
            return;
        }
        let error = EngineError::Poisoned { reason: reason.to_owned(), unknown };
        let text = format!("pwal: {}: {error} ({lost} commits behind the durable prefix)", self.path.display());
        self.context.host.log(error.code().number(), &text);
        self.lost.store(lost, SeqCst);
        self.queue.close();
        drop(self.leading.lock());
        self.flushed.notify_all();
    }

    fn erase_unsealed(&self, append: &mut Append) -> io::Result<()> {
        let Some(slots) = append.slots.as_ref() else { return Ok(()) };
        let zeros = vec![0; usize::try_from(self.block_bytes).unwrap_or(0)];
        let mut touched = BTreeSet::new();
        for record in &append.unsealed {
            if let Some((name, file)) = slots.file(record.slot) {
                file.write_at(&[IoSlice::new(&zeros)], record.offset)?;
                touched.insert(name);
            }
        }
        for name in touched {
            self.dir.open(&name, OpenHow::Existing)?.sync()?;
        }
        Ok(())
    }
}
