//! R5, fail stop: the first failed write or sync of an epoch ends this engine.
//!
//! Every waiter gets an answer, nothing is tried again on the same pages, nobody goes on above the durable
//! prefix, no checkpoint, no clean close. A commit that is reported as failed is invalidated on disk.

use super::commit::{Begun, HeldAppend};
use super::{Engine, EngineError};
use crate::disk::OpenHow;
use crate::log::follow::proven;
use std::collections::BTreeSet;

impl Engine {
    /// Whether it is over: what could be erased is.
    pub(crate) fn is_poisoned(&self) -> bool {
        self.marks.words().poison_outcome().is_some()
    }

    /// Whether a view of this commit shows what a failed flush took, or is just taking.
    pub(crate) fn shows_lost(&self, sequence: u64) -> bool {
        self.marks.is_poisoned() && sequence > self.marks.visible()
    }

    /// # Errors
    /// The engine is poisoned, by this process or another.
    pub(crate) fn check_poison(&self) -> Result<(), EngineError> {
        let Some(unknown) = self.marks.words().poison_outcome() else { return Ok(()) };
        let reason = match self.poison.get() {
            Some(reason) => reason.clone(),
            None => "a write or a sync of the log failed in another process".to_owned(),
        };
        Err(EngineError::Poisoned { reason, unknown })
    }

    /// The error of an operation that poisoned the engine: the operation's own code with the poison's text.
    pub(crate) fn poisoned_as(&self, error: EngineError) -> EngineError {
        self.check_poison().err().unwrap_or(error)
    }

    /// Under APPEND: what is not durable is overwritten with zeros and synced through another descriptor
    /// (Linux reports a write-back error once to each), then everybody is told. `begun`: a record that was written and does
    /// not count.
    pub(crate) fn poison(&self, append: &HeldAppend, reason: &str, begun: Option<Begun>) {
        if self.is_poisoned() {
            return;
        }
        // First of all: from here on no view shows what is about to be erased (`shows_lost`).
        self.marks.poison();
        // Two at once are one.
        let _ = self.poison.set(reason.to_owned());
        self.erase_undurable(append, begun);
    }

    /// A process that died while it poisoned: what it may have left is erased.
    pub(super) fn erase_after_death(&self, append: &HeldAppend) {
        self.erase_undurable(append, None);
    }

    /// A call panicked whose commit, `sequence`, was answered with an error: it is taken back. If it is published, with all
    /// that is not durable; else it lies behind the tail at most, maybe whole.
    pub(crate) fn take_back_after_panic(&self, sequence: Option<u64>) {
        if sequence.is_some_and(|sequence| self.take_back_published(sequence)) {
            return;
        }
        let append = self.append_as_it_is();
        if self.is_active()
            && let Err(error) = self.erase_behind_tail(&append)
        {
            self.poison(&append, &format!("a panic, and what it left behind the tail: {error}"), None);
        }
    }

    /// As that, if the commit is published and not durable, with all that is not durable. False: it is not.
    pub(super) fn take_back_published(&self, sequence: u64) -> bool {
        let append = self.append_as_it_is();
        let takes_back = sequence <= self.marks.published() && sequence > self.marks.durable();
        if takes_back {
            self.poison(&append, "a panic", None);
        }
        takes_back
    }

    /// Before a marker says where the log ends: a whole batch behind that, of a writer that died before it published, would say
    /// otherwise.
    pub(super) fn end_log(&self) -> Result<(), EngineError> {
        let append = self.append()?;
        self.check_poison()?;
        let (tail, next) = (self.tail(), self.marks.words().published() + 1);
        let begun = match self.marks.words().next_slot().filter(|number| *number != tail.file) {
            Some(number) => self.header_of(&self.slot(number)?)?.is_some_and(|header| header.ordinal > tail.ordinal),
            None => false,
        };
        let behind = match self.reader_of(&self.slot(tail.file)?)? {
            Some(reader) => proven(reader.head_at(tail.offset))?.is_some_and(|batch| batch.header.sequence == next),
            None => false,
        };
        if begun || behind { self.erase_behind_tail(&append) } else { Ok(()) }
    }

    fn erase_behind_tail(&self, append: &HeldAppend) -> Result<(), EngineError> {
        let tail = self.tail();
        let slot = self.slot(tail.file)?;
        if tail.offset < slot.bytes {
            slot.write(&self.zero_block(), tail.offset)?;
            self.sync_beside(append, &slot)?;
        }
        self.give_up_begun(append)
    }

    fn erase_undurable(&self, append: &HeldAppend, begun: Option<Begun>) {
        let erased = self.erase_records(append, begun);
        let lost = self.marks.published() - self.marks.durable();
        let unknown = erased.is_err();
        self.marks.words().set_poison_outcome(unknown);
        if let Err(error) = self.check_poison() {
            let text = format!("pwal: {}: {error} ({lost} commits behind the durable prefix)", self.path.display());
            self.context.host.log(error.code().number(), &text);
        }
        self.queue.close();
        self.marks.words().durable_wake().notify();
        self.marks.words().gathered().notify();
    }

    /// The first blocks of every record that is not durable (R5.1).
    fn erase_records(&self, _append: &HeldAppend, begun: Option<Begun>) -> Result<(), EngineError> {
        let words = self.marks.words();
        if !self.is_active() {
            return Ok(());
        }
        let mut records: Vec<Begun> = begun.into_iter().collect();
        for sequence in self.marks.durable() + 1..=words.published() {
            let entry = words.commit(sequence).ok_or_else(|| self.no_commit(sequence))?;
            records.push(Begun { slot: entry.file, offset: entry.offset });
        }
        for epoch in words.certified() + 1..=words.cuts() {
            let cut = words.cut(epoch).ok_or(EngineError::NoLog)?;
            records.push(Begun { slot: cut.file, offset: cut.offset });
        }
        let mut touched = BTreeSet::new();
        for record in records {
            let slot = self.slot(record.slot)?;
            slot.write(&self.zero_block(), record.offset)?;
            touched.insert(slot.name.clone());
        }
        for name in touched {
            let file = self.dir.open(&name, OpenHow::Existing).map_err(|e| EngineError::open(&name, e))?;
            file.sync().map_err(|e| EngineError::sync(&name, e))?;
        }
        Ok(())
    }
}
