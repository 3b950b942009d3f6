//! What is published, durable, visible, backfilled and announced, by the rings and the snapshots together.
//!
//! The holder of APPEND fills an entry of a ring and then stores the watermark that makes it count. What readers may see
//! is derived from both rings. A snapshot and the target of a checkpoint exclude each other without a lock: a reader stores
//! its snapshot and then looks at the announced target; the checkpointer announces, and then looks at the snapshots. All
//! of it is sequentially consistent, so at least one of them sees the other.

use super::SharedError;
use super::control_block::{ControlBlock, ControlView};
use super::owner::Owner;
use super::ring::{CommitEntry, EpochRecord, RecordAddress, commit_ring, epoch_ring};
use super::snapshots::SnapshotSlot;
use crate::interleave::step;
use crate::sync::atomic::Ordering::SeqCst;

/// The entry of a watermark. The ring may wrap between the two loads.
fn entry_of<T>(watermark: impl Fn() -> u64, load: impl Fn(u64) -> Option<T>) -> Option<T> {
    let mut mark = watermark();
    loop {
        let entry = load(mark);
        let now = watermark();
        // An entry of another round while the watermark stands still is damage: as if there were none.
        if entry.is_some() || now == mark || crate::drops("ring-last-looked-for-again") {
            return entry;
        }
        mark = now;
    }
}

impl ControlView {
    /// The published commit `sequence`; `None` if it is not published, or the ring has moved on (read
    /// the segments then).
    #[must_use]
    pub fn commit(&self, sequence: u64) -> Option<CommitEntry> {
        // A writer that died before it published may have left an entry after `published`.
        if sequence > self.published() { None } else { self.commit_ring.load(sequence, true) }
    }

    /// The last published commit, but for its pages: they read as zeros.
    #[must_use]
    pub fn last_commit(&self) -> Option<CommitEntry> {
        entry_of(|| self.published(), |published| self.commit_ring.load(published, false))
    }

    /// Whether one of the last `commits` wants durability, as far back as the ring goes.
    #[must_use]
    pub fn is_durability_wanted(&self, commits: u64) -> bool {
        let published = self.published();
        let last = (published.saturating_sub(commits) + 1..=published).rev();
        // Before the first commit of this log there are no entries.
        last.map_while(|sequence| self.commit_ring.wants_durable(sequence)).any(|wants| wants)
    }

    /// The record of `epoch`; `None` if it is not stored, or the ring has moved on.
    #[must_use]
    pub fn epoch(&self, epoch: u64) -> Option<EpochRecord> {
        if epoch > self.last_written_epoch() { None } else { self.epoch_ring.load(epoch) }
    }

    /// The record of the last certified epoch; `None` before the first.
    #[must_use]
    pub fn certified_epoch(&self) -> Option<EpochRecord> {
        entry_of(|| self.last_certified_epoch(), |certified| self.epoch_ring.load(certified))
    }

    /// The last epoch record, certified or not.
    #[must_use]
    pub fn last_epoch(&self) -> Option<EpochRecord> {
        entry_of(|| self.last_written_epoch(), |last_epoch| self.epoch_ring.load(last_epoch))
    }

    /// Commits up to here are durable: `hi` of the last certified epoch.
    #[must_use]
    pub fn durable(&self) -> u64 {
        self.certified_epoch().map_or(0, |record| record.hi)
    }

    /// Commits up to here are what readers may see. On a poisoned engine: what is durable.
    #[must_use]
    pub fn visible(&self) -> u64 {
        let visible = self.visible.0.load(SeqCst);
        if self.poisoned() == 0 || crate::drops("r5-hides-undurable") { visible } else { visible.min(self.durable()) }
    }

    /// The last commit that was ever visible: all that was acknowledged without being durable is at or below it, also
    /// on a poisoned engine. A commit that becomes visible after [`poison`](ControlBlock::poison) is not acknowledged
    /// by that.
    pub(crate) fn was_visible(&self) -> u64 {
        self.visible.0.load(SeqCst).max(self.durable())
    }

    /// Whether `published` - durable or `last_written_epoch` - `last_certified_epoch` has reached half its ring: then prepare
    /// leads or waits.
    #[must_use]
    pub fn ring_is_half_full(&self) -> bool {
        // The lower watermarks first: the answer may be too low, never wrong by a wrap.
        let (durable, certified) = (self.durable(), self.last_certified_epoch());
        if crate::drops("r9-ring-half-full") {
            return false;
        }
        self.published().saturating_sub(durable) >= commit_ring() / 2
            || self.last_written_epoch().saturating_sub(certified) >= epoch_ring() / 2
    }

    /// The address of the next batch or certificate: after the last published batch and the last epoch record. Under
    /// APPEND. `None` in a log that has neither.
    #[must_use]
    pub fn tail(&self) -> Option<RecordAddress> {
        let after_commit =
            self.last_commit().map(|e| RecordAddress { ordinal: e.ordinal, offset: e.end, segment: e.segment });
        let block = self.identity().block_bytes;
        // A certificate in a batch header begins where the batch does and is no longer than it: its end never counts.
        let after_cut =
            self.last_epoch().map(|c| RecordAddress { ordinal: c.ordinal, offset: c.end(block), segment: c.segment });
        after_commit.max(after_cut)
    }
}

impl ControlBlock {
    /// Publishes the next commit, whose batch is written: the ring entry, then `published`. Under APPEND.
    /// The caller then calls [`advance_visible`](ControlBlock::advance_visible).
    ///
    /// # Errors
    /// It is not the next commit; the ring is full of commits that are not durable; a value does not fit.
    /// Nothing has changed then.
    pub fn publish(&self, entry: &CommitEntry) -> Result<(), SharedError> {
        let published = self.published();
        if entry.sequence != published.wrapping_add(1) && !crate::drops("r1-dense") {
            return Err(SharedError::NotTheNextCommit { offered: entry.sequence, published });
        }
        if entry.sequence > u64::MAX >> 1 {
            return Err(SharedError::TooLarge { what: "commit sequence", value: entry.sequence });
        }
        if published.saturating_sub(self.durable()) >= commit_ring() - 1 && !crate::drops("r9-ring-full") {
            return Err(SharedError::RingFull { ring: "commits" });
        }
        if crate::drops("r9-entry-first") {
            self.published.0.store(entry.sequence, SeqCst);
            step("before published");
        }
        if entry.sequence.is_multiple_of(commit_ring()) {
            step("the commit ring laps");
        }
        self.commit_ring.store(entry);
        step("before published");
        self.published.0.store(entry.sequence, SeqCst);
        step("after published");
        Ok(())
    }

    /// Stores the record of the next epoch, whose certificate is *written* already: the ring entry, then
    /// `last_written_epoch`. Under LEADER and APPEND.
    ///
    /// # Errors
    /// As [`publish`](ControlBlock::publish).
    pub fn store_epoch(&self, record: &EpochRecord) -> Result<(), SharedError> {
        let last_epoch = self.last_written_epoch();
        if record.epoch != last_epoch.wrapping_add(1) {
            return Err(SharedError::NotTheNextEpoch { offered: record.epoch, last_epoch });
        }
        if last_epoch.saturating_sub(self.last_certified_epoch()) >= epoch_ring() - 1 {
            return Err(SharedError::RingFull { ring: "epochs" });
        }
        let Some(units) = record.offset_units() else {
            return Err(SharedError::TooLarge { what: "offset of a certificate", value: record.offset });
        };
        if crate::drops("r9-cut-first") {
            self.last_written_epoch.0.store(record.epoch, SeqCst);
            step("before cuts");
        }
        self.epoch_ring.store(record, units);
        step("before cuts");
        self.last_written_epoch.0.store(record.epoch, SeqCst);
        step("after cuts");
        Ok(())
    }

    /// Every file of the epoch is synced: its commits are durable. Under LEADER; never goes back, nor beyond
    /// `last_written_epoch`. The caller then calls [`advance_visible`](ControlBlock::advance_visible) and notifies
    /// the epoch's event ([`flush_events`](ControlBlock::flush_events)).
    pub fn certify(&self, epoch: u64) {
        step("before certified");
        self.last_certified_epoch.0.fetch_max(epoch.min(self.last_written_epoch()), SeqCst);
        step("after certified");
    }

    /// Moves `visible` to the last commit before the first undurable one that wants durability, and returns it. Runs
    /// after each publish, after each [`certify`](ControlBlock::certify), and in each snapshot: the last to store
    /// `published` or `last_certified_epoch` sees the other store and does what is left.
    pub fn advance_visible(&self) -> u64 {
        loop {
            let certified = self.last_certified_epoch();
            let published = self.published();
            let durable = self.durable();
            let visible = self.visible.0.load(SeqCst);
            let mut candidate = durable.max(visible);
            // Poisoned: nothing above the durable prefix becomes visible any more.
            if self.poisoned() == 0 || crate::drops("r5-visible-stops") {
                while candidate < published {
                    match self.commit_ring.wants_durable(candidate + 1) {
                        Some(wants) if !wants || crate::drops("r3-visible-prefix") => {}
                        // Of another round: the watermarks moved, and the walk begins again below.
                        _ => break,
                    }
                    candidate += 1;
                }
            }
            if candidate > visible {
                self.visible.0.fetch_max(candidate, SeqCst);
                if !crate::drops("visible-notifies") {
                    self.visible_wake().notify_awaited();
                }
            }
            if (certified, published) == (self.last_certified_epoch(), self.published()) {
                return self.visible();
            }
        }
    }

    /// Registers the snapshot `sequence`. False: a checkpoint has announced a target beyond it, and
    /// nothing is registered; take a newer one (visible is never below an announced target).
    /// `now_us` as [`now_us`](crate::os::now_us).
    #[must_use]
    pub fn take_snapshot(&self, slot: SnapshotSlot, sequence: u64, now_us: u64) -> bool {
        self.snapshots.take(slot, sequence, now_us, || {
            (self.checkpoint_target() <= sequence || crate::drops("snapshot-looks-at-target"))
                && self.recycled_below() <= sequence.saturating_add(1)
                && self.ended_below() <= sequence
        })
    }

    /// The lowest registered snapshot that was not ended; `None` if there is no reader. Slots whose process is dead (by
    /// `alive`) are cleared: under CKPT.
    pub fn oldest_snapshot(&self, alive: impl FnMut(Owner) -> bool) -> Option<u64> {
        self.snapshots.oldest(|| self.ended_below(), alive)
    }

    /// Chooses the target of a checkpoint and announces it: the lowest of D of the last durable
    /// certificate, visible, and every registered snapshot; not below `backfilled`, which it equals
    /// if there is nothing to do. Under CKPT.
    pub fn choose_checkpoint_target(&self, alive: impl FnMut(Owner) -> bool) -> u64 {
        let backfilled = self.backfilled();
        let proven = self.certified_epoch().map_or(0, |record| record.durable());
        let proven = if crate::drops("r4-certified") { self.published() } else { proven };
        let limit = backfilled.max(if crate::drops("r4-visible") { proven } else { proven.min(self.visible()) });
        step("before a target");
        if !crate::drops("snapshot-target-announced") {
            self.checkpoint_target.0.store(limit, SeqCst);
        }
        step("after a target");
        let oldest = self.oldest_snapshot(alive).filter(|_| !crate::drops("snapshot-holds-target"));
        let target = limit.min(backfilled.max(oldest.unwrap_or(u64::MAX)));
        step("after the snapshots");
        self.checkpoint_target.0.store(target, SeqCst);
        target
    }
}
