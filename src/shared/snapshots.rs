//! Snapshot slots: what readers see, and the target of a checkpoint, which may not pass them.
//!
//! The two exclude each other without a lock: a reader stores its snapshot and then looks at the
//! announced target; the checkpointer announces, and then looks at the snapshots. All of it is
//! sequentially consistent, so at least one of them sees the other.

use super::control_block::{ControlBlock, ControlView, SNAPSHOT_SLOTS};
use super::owner::Owner;
use crate::interleave::step;
use crate::sync::atomic::AtomicU64;
use crate::sync::atomic::Ordering::{Relaxed, SeqCst};

/// The complement of "no snapshot" (all ones): zeroed memory is idle.
const IDLE: u64 = 0;

#[repr(C, align(64))]
#[cfg_attr(loom, derive(Default))]
pub(super) struct SnapshotLine {
    /// As in the owner locks; 0: free.
    owner: AtomicU64,
    /// The complement of the commit sequence.
    complement: AtomicU64,
    since_us: AtomicU64,
}

/// The snapshot slot of one connection.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Clone, Copy)]
pub struct SnapshotSlot(u16);

/// A registered snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The slot it is in.
    pub slot: SnapshotSlot,
    /// The process it belongs to.
    pub owner: Owner,
    /// The commit sequence up to which it sees the log.
    pub sequence: u64,
    /// When it was taken: microseconds, as [`now_us`](super::now_us).
    pub since_us: u64,
}

impl ControlView {
    /// The registered snapshots.
    pub fn snapshots(&self) -> impl Iterator<Item = Snapshot> + '_ {
        self.snapshots.iter().take(self.snapshot_slots_used()).zip(0u16..).filter_map(|(line, index)| {
            let complement = line.complement.load(SeqCst);
            let owner = Owner::unpack(line.owner.load(SeqCst))?;
            (complement != IDLE).then(|| Snapshot {
                slot: SnapshotSlot(index),
                owner,
                sequence: !complement,
                since_us: line.since_us.load(Relaxed),
            })
        })
    }
}

impl ControlBlock {
    fn line(&self, slot: SnapshotSlot) -> &SnapshotLine {
        // Slots come from `claim_snapshot_slot` only.
        &self.snapshots[usize::from(slot.0) % SNAPSHOT_SLOTS]
    }

    /// A slot for a connection, for as long as it lives; `None`: all are taken.
    #[must_use]
    pub fn claim_snapshot_slot(&self, me: Owner) -> Option<SnapshotSlot> {
        let claim = |line: &SnapshotLine| {
            line.owner.load(Relaxed) == 0 && line.owner.compare_exchange(0, me.pack(), SeqCst, SeqCst).is_ok()
        };
        let index = self.snapshots.iter().zip(0u16..).find_map(|(line, index)| claim(line).then_some(index))?;
        self.note_snapshot_slot(index);
        Some(SnapshotSlot(index))
    }

    /// Gives the slot back.
    pub fn free_snapshot_slot(&self, slot: SnapshotSlot) {
        let line = self.line(slot);
        line.complement.store(IDLE, SeqCst);
        line.owner.store(0, SeqCst);
    }

    /// Frees the slots of dead processes (`alive` says so) that hold no snapshot. Those that do are cleared by
    /// [`oldest_snapshot`](ControlBlock::oldest_snapshot) first, so that the two never store into the same slot. Under INIT.
    pub fn free_idle_snapshot_slots(&self, mut alive: impl FnMut(Owner) -> bool) {
        let mut known: Option<(Owner, bool)> = None;
        for line in self.snapshots.iter().take(self.snapshot_slots_used()) {
            let word = line.owner.load(SeqCst);
            let Some(owner) = Owner::unpack(word) else { continue };
            let lives = match known {
                Some((last, lives)) if last == owner => lives,
                _ => alive(owner),
            };
            known = Some((owner, lives));
            // The line of a dead process does not change any more.
            if !lives && line.complement.load(SeqCst) == IDLE {
                let _ = line.owner.compare_exchange(word, 0, SeqCst, SeqCst);
            }
        }
    }

    /// Registers the snapshot `sequence`. False: a checkpoint has announced a target beyond it, and
    /// nothing is registered; take a newer one (visible is never below an announced target).
    /// `now_us` as [`now_us`](super::now_us).
    #[must_use]
    pub fn take_snapshot(&self, slot: SnapshotSlot, sequence: u64, now_us: u64) -> bool {
        let line = self.line(slot);
        line.since_us.store(now_us, Relaxed);
        step("before a snapshot");
        line.complement.store(!sequence, SeqCst);
        step("behind a snapshot");
        let is_held = (self.checkpoint_target() <= sequence || crate::drops("snapshot-looks-at-target"))
            && self.recycled_below() <= sequence.saturating_add(1);
        if is_held && self.ended_below() <= sequence {
            return true;
        }
        line.complement.store(IDLE, SeqCst);
        false
    }

    /// Ends the snapshot of this slot.
    pub fn end_snapshot(&self, slot: SnapshotSlot) {
        self.line(slot).complement.store(IDLE, SeqCst);
    }

    /// The lowest registered snapshot that was not ended; `None` if there is no reader. Slots whose process is dead (by
    /// `alive`) are cleared: under CKPT.
    pub fn oldest_snapshot(&self, mut alive: impl FnMut(Owner) -> bool) -> Option<u64> {
        let mut oldest = None;
        for line in self.snapshots.iter().take(self.snapshot_slots_used()) {
            let complement = line.complement.load(SeqCst);
            if complement == IDLE {
                continue;
            }
            let word = line.owner.load(SeqCst);
            if let Some(owner) = Owner::unpack(word)
                && !alive(owner)
                && !crate::drops("dead-snapshot-cleared")
            {
                // No process can claim the slot before its owner is 0, so the first store meets the dead one's value.
                // From then on `free_idle_snapshot_slots` may be quicker.
                line.complement.store(IDLE, SeqCst);
                let _ = line.owner.compare_exchange(word, 0, SeqCst, SeqCst);
                continue;
            }
            if !complement >= self.ended_below() {
                oldest = Some(oldest.unwrap_or(u64::MAX).min(!complement));
            }
        }
        oldest
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
        step("behind a target");
        let oldest = self.oldest_snapshot(alive).filter(|_| !crate::drops("snapshot-holds-target"));
        let target = limit.min(backfilled.max(oldest.unwrap_or(u64::MAX)));
        step("behind the snapshots");
        self.checkpoint_target.0.store(target, SeqCst);
        target
    }
}
