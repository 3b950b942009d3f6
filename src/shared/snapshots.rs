//! Snapshot slots: what readers see, and the target of a checkpoint, which may not pass them.
//!
//! The two exclude each other without a lock: a reader stores its snapshot and then looks at the
//! announced target; the checkpointer announces, and then looks at the snapshots. All of it is
//! sequentially consistent, so at least one of them sees the other.

use super::owner::Owner;
use crate::interleave::step;
use crate::sync::atomic::AtomicU64;
use crate::sync::atomic::Ordering::{Relaxed, SeqCst};

/// Connections that may read at the same time.
pub const SNAPSHOT_SLOTS: usize = if cfg!(loom) { 2 } else { 2048 };

/// The snapshot slots.
#[repr(C)]
#[cfg_attr(loom, derive(Default))]
pub struct SnapshotTable {
    pub(super) counts: Counts,
    pub(super) slots: [SnapshotLine; SNAPSHOT_SLOTS],
}

/// Rarely stored.
#[repr(C, align(64))]
#[cfg_attr(loom, derive(Default))]
pub(super) struct Counts {
    /// The slots that have ever been claimed, the lowest first: reading the later ones would only touch their memory.
    used: AtomicU64,
    /// Of [`PageLeases`](super::PageLeases).
    pub(super) allocated_us: AtomicU64,
    pub(super) leases_given: AtomicU64,
    /// The last slots, that have no space on the disk yet: nothing is stored in them.
    unallocated: AtomicU64,
}

#[cfg(not(loom))]
const _: () = assert!(size_of::<Counts>() == 64);
#[cfg(not(loom))]
const _: () = assert!(size_of::<SnapshotLine>() == 64 && SNAPSHOT_SLOTS <= 1 << 16, "the index of a slot fits 16 bits");

/// The complement of "no snapshot" (all ones): zeroed memory is idle.
const IDLE: u64 = 0;

#[repr(C, align(64))]
#[cfg_attr(loom, derive(Default))]
pub(super) struct SnapshotLine {
    /// As in the owner locks; 0: free.
    pub(super) owner: AtomicU64,
    /// The complement of the commit sequence.
    complement: AtomicU64,
    since_us: AtomicU64,
    /// When the connection last leased pages; 0: never.
    pub(super) leased_us: AtomicU64,
    /// The first and the last page of what it has leased beyond the end of the database.
    pub(super) leased_from: AtomicU64,
    pub(super) leased_to: AtomicU64,
    /// The last word of the line, never stored: see [`SNAPSHOT_SPARE`].
    #[cfg(not(loom))]
    _spare: [AtomicU64; 2],
}

/// A snapshot slot.
#[cfg(not(loom))]
pub(super) const SNAPSHOT_BYTES: usize = size_of::<SnapshotLine>();

/// Where a line has 8 bytes in which nothing is ever stored: zeros may be written there at any time, to give the line its space on
/// the disk.
#[cfg(not(loom))]
pub(super) const SNAPSHOT_SPARE: usize = 56;
#[cfg(not(loom))]
const _: () = assert!(std::mem::offset_of!(SnapshotLine, _spare) + 8 == SNAPSHOT_SPARE);

impl SnapshotLine {
    /// The pages beyond the end that its connection has leased; of two stores at once a mixture, which is a hint as good.
    pub(super) fn leased(&self) -> std::ops::RangeInclusive<u64> {
        // Page 1 is never leased.
        self.leased_from.load(SeqCst).max(2)..=self.leased_to.load(SeqCst)
    }
}

/// The snapshot slot of one connection.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Clone, Copy)]
pub struct SnapshotSlot(pub(super) u16);

/// A registered snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The slot it is in.
    pub slot: SnapshotSlot,
    /// The process it belongs to.
    pub owner: Owner,
    /// The commit sequence up to which it sees the log.
    pub sequence: u64,
    /// When it was taken: microseconds, as [`now_us`](crate::os::now_us).
    pub since_us: u64,
}

impl SnapshotTable {
    /// The registered snapshots.
    pub(super) fn registered(&self) -> impl Iterator<Item = Snapshot> + '_ {
        self.slots.iter().take(self.used()).zip(0u16..).filter_map(|(line, index)| {
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

    pub(super) fn used(&self) -> usize {
        usize::try_from(self.counts.used.load(SeqCst)).map_or(SNAPSHOT_SLOTS, |used| used.min(SNAPSHOT_SLOTS))
    }

    pub(super) fn line(&self, slot: SnapshotSlot) -> &SnapshotLine {
        // Slots come from `claim` only.
        &self.slots[usize::from(slot.0) % SNAPSHOT_SLOTS]
    }

    /// The slots that have their space on the disk, the lowest ones. All of them in memory without a file.
    #[must_use]
    pub fn allocated(&self) -> usize {
        let unallocated = usize::try_from(self.counts.unallocated.load(SeqCst)).unwrap_or(SNAPSHOT_SLOTS);
        SNAPSHOT_SLOTS - unallocated.min(SNAPSHOT_SLOTS)
    }

    /// The first slots have their space now; before another process has the memory.
    pub(super) fn begin_allocated(&self, slots: usize) {
        self.counts.unallocated.store((SNAPSHOT_SLOTS - slots.min(SNAPSHOT_SLOTS)) as u64, SeqCst);
    }

    /// As many slots as that have their space now, or more.
    pub(super) fn note_allocated(&self, slots: usize) {
        step("before snapshots are allocated");
        self.counts.unallocated.fetch_min((SNAPSHOT_SLOTS - slots.min(SNAPSHOT_SLOTS)) as u64, SeqCst);
    }

    /// A slot for a connection, for as long as it lives; `None`: all that are allocated are taken.
    #[must_use]
    pub fn claim(&self, me: Owner) -> Option<SnapshotSlot> {
        let claim = |line: &SnapshotLine| {
            line.owner.load(Relaxed) == 0 && line.owner.compare_exchange(0, me.pack(), SeqCst, SeqCst).is_ok()
        };
        let mut lines = self.slots.iter().take(self.allocated()).zip(0u16..);
        let index = lines.find_map(|(line, index)| claim(line).then_some(index))?;
        // Before a snapshot is stored in it.
        self.counts.used.fetch_max(u64::from(index) + 1, SeqCst);
        Some(SnapshotSlot(index))
    }

    /// Gives the slot back.
    pub fn free(&self, slot: SnapshotSlot) {
        let line = self.line(slot);
        line.leased_us.store(0, SeqCst);
        line.leased_to.store(0, SeqCst);
        line.complement.store(IDLE, SeqCst);
        line.owner.store(0, SeqCst);
    }

    /// Frees the slots of dead processes (`alive` says so) that hold no snapshot. Those that do are cleared by
    /// [`oldest`](SnapshotTable::oldest) first, so that the two never store into the same slot. Under INIT.
    pub fn free_idle(&self, mut alive: impl FnMut(Owner) -> bool) {
        let mut known: Option<(Owner, bool)> = None;
        for line in self.slots.iter().take(self.used()) {
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

    /// Stores the snapshot `sequence`; `holds`, asked after that, says whether it counts. False: it does not, and nothing is
    /// registered. `now_us` as [`now_us`](crate::os::now_us).
    pub(super) fn take(&self, slot: SnapshotSlot, sequence: u64, now_us: u64, holds: impl FnOnce() -> bool) -> bool {
        let line = self.line(slot);
        line.since_us.store(now_us, Relaxed);
        step("before a snapshot");
        line.complement.store(!sequence, SeqCst);
        step("after a snapshot");
        let is_held = holds();
        if !is_held {
            line.complement.store(IDLE, SeqCst);
        }
        is_held
    }

    /// Ends the snapshot of this slot.
    pub fn end(&self, slot: SnapshotSlot) {
        self.line(slot).complement.store(IDLE, SeqCst);
    }

    /// The lowest registered snapshot from `ended_below` on; `None` if there is no reader. Slots whose process is dead (by
    /// `alive`) are cleared: under CKPT.
    pub(super) fn oldest(&self, ended_below: impl Fn() -> u64, mut alive: impl FnMut(Owner) -> bool) -> Option<u64> {
        let mut oldest = None;
        for line in self.slots.iter().take(self.used()) {
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
                // From then on `free_idle` may be quicker.
                line.complement.store(IDLE, SeqCst);
                let _ = line.owner.compare_exchange(word, 0, SeqCst, SeqCst);
                continue;
            }
            if !complement >= ended_below() {
                oldest = Some(oldest.unwrap_or(u64::MAX).min(!complement));
            }
        }
        oldest
    }
}
