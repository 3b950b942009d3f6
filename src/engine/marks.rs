//! The watermarks over commit sequences, and the snapshots that hold them back: the control block, as the engine uses it.
//!
//! `published >= visible`, `durable >= backfilled`; each only grows, but `visible` when a flush fails.

use crate::os::now_coarse_us;
use crate::shared::{CommitEntry, ControlBlock, EpochRecord, Member, ProcessInfo, SharedError, Snapshot, SnapshotSlot};
use std::io;
use std::sync::Arc;

/// No announced target is beyond what is visible: a reader that meets one has read `visible` before it moved.
const SNAPSHOT_TRIES: u32 = 100_000;

/// What a certificate says, in commits.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Certified {
    /// D: all up to here are durable.
    pub(crate) durable: u64,
    /// B: all up to here are in the database file.
    pub(crate) backfilled: u64,
}

/// Which segments may be overwritten: those whose commits are all at or below `backfilled`, which a durable doubled
/// certificate carries, and which lie in a segment before that certificate's. It may be the last record of its own, and
/// without it the log says less than the stamp, and has no copy of page 1 as the commits at or below B left it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Recyclable {
    pub(crate) backfilled: u64,
    /// The ordinal of that certificate's segment; 0: there is none.
    pub(crate) before: u64,
}

pub(crate) struct Marks(Arc<Member>);

impl Marks {
    pub(crate) fn new(member: &Arc<Member>) -> Marks {
        Marks(Arc::clone(member))
    }

    pub(crate) fn control(&self) -> &ControlBlock {
        self.0.control()
    }

    /// Like [`Marks::member`], for a caller that keeps it.
    pub(crate) fn shared(&self) -> Arc<Member> {
        Arc::clone(&self.0)
    }

    /// The place of this process among those that share the database.
    pub(crate) fn member(&self) -> &Member {
        &self.0
    }

    pub(crate) fn published(&self) -> u64 {
        self.control().published()
    }
    pub(crate) fn durable(&self) -> u64 {
        self.control().durable()
    }
    pub(crate) fn visible(&self) -> u64 {
        self.control().visible()
    }
    pub(crate) fn backfilled(&self) -> u64 {
        self.control().backfilled()
    }

    /// Whether a frame of commit `sequence` may be gone from its segment: the database file has it then.
    pub(crate) fn recycled(&self, sequence: u64) -> bool {
        sequence < self.control().recycled_below()
    }

    /// The epoch of the last epoch record.
    pub(crate) fn epoch(&self) -> u64 {
        self.control().last_written_epoch()
    }

    /// D and B of the last durable certificate.
    pub(crate) fn certified(&self) -> Certified {
        self.control().certified_epoch().map_or_else(Certified::default, |record| Certified {
            durable: record.durable(),
            backfilled: record.backfilled,
        })
    }

    /// What may be written over.
    pub(crate) fn recyclable(&self) -> Recyclable {
        let record = self.control().certified_epoch();
        Recyclable {
            backfilled: record.map_or(0, |record| record.backfilled),
            before: record.map_or(0, |record| record.doubled_ordinal),
        }
    }

    /// True if the undurable backlog is so large that the writer must lead a flush first.
    pub(crate) fn undurable_backlog_is_full(&self) -> bool {
        self.control().ring_is_half_full()
    }

    /// Commits that want durability and wait for it.
    pub(crate) fn syncs_pending(&self) -> u64 {
        self.control().syncs_pending()
    }

    /// Commits that wanted durability, ever: under APPEND, for [`Marks::certify`].
    pub(crate) fn syncs_requested(&self) -> u64 {
        self.control().syncs_requested()
    }

    /// Publishes the next commit, which is written. Under APPEND.
    ///
    /// # Errors
    /// It is not the next one, or the ring is full, contrary to what prepare has checked.
    pub(crate) fn publish(&self, entry: &CommitEntry) -> Result<(), SharedError> {
        self.control().publish(entry)?;
        if entry.wants_durable {
            self.control().add_sync_request();
        }
        self.control().advance_visible();
        Ok(())
    }

    /// The next certificate is written. Under LEADER and APPEND.
    ///
    /// # Errors
    /// As [`Marks::publish`].
    pub(crate) fn store_epoch(&self, record: &EpochRecord) -> Result<(), SharedError> {
        self.control().store_epoch(record)
    }

    /// Epoch `epoch` is durable, and with it `syncs_requested` of the commits that wanted durability.
    pub(crate) fn certify(&self, epoch: u64, syncs_requested: u64) {
        self.control().add_syncs_done(syncs_requested);
        self.control().certify(epoch);
        self.control().advance_visible();
    }

    /// A flush failed: no process continues above what is durable.
    pub(crate) fn poison(&self) {
        self.control().poison();
    }

    /// As soon as the poisoning begins.
    pub(crate) fn is_poisoned(&self) -> bool {
        self.control().poisoned() != 0
    }

    /// Commits up to `sequence`, after which the database has `database_pages` pages, are in the database file. Under
    /// CKPT.
    pub(crate) fn set_backfilled(&self, sequence: u64, database_pages: u32) {
        self.control().set_backfilled_pages(sequence, database_pages);
        self.control().set_backfilled(sequence);
    }

    /// Slots with commits up to `sequence` are about to be written over.
    pub(crate) fn recycle_to(&self, sequence: u64) {
        self.control().set_recycled_below(sequence + 1);
    }

    /// A snapshot slot for a connection; `None`: all are taken.
    ///
    /// # Errors
    /// No space for further ones.
    pub(crate) fn claim_snapshot_slot(&self) -> io::Result<Option<SnapshotSlot>> {
        loop {
            let claimed = self.control().snapshot_slots().claim(self.0.me());
            if claimed.is_some() || !self.0.mapping().allocate_snapshots()? {
                return Ok(claimed);
            }
        }
    }

    pub(crate) fn free_snapshot_slot(&self, slot: SnapshotSlot) {
        self.control().snapshot_slots().free(slot);
    }

    /// Registers a snapshot that no checkpoint overtakes. `newest`: what is published, else what is visible.
    ///
    /// # Errors
    /// The control block is damaged: a target lies beyond what is visible, and stays there.
    pub(crate) fn take_snapshot(&self, slot: SnapshotSlot, newest: bool) -> Result<u64, SharedError> {
        let control = self.control();
        for _ in 0..SNAPSHOT_TRIES {
            let sequence = if newest { control.published() } else { control.advance_visible() };
            if control.take_snapshot(slot, sequence, now_coarse_us()) {
                return Ok(sequence);
            }
            // A checkpoint stores twice.
            std::hint::spin_loop();
        }
        Err(SharedError::NoSnapshot { target: control.checkpoint_target(), visible: control.visible() })
    }

    pub(crate) fn end_snapshot(&self, slot: SnapshotSlot) {
        self.control().snapshot_slots().end(slot);
    }

    /// The joined processes, this one too.
    pub(crate) fn process_infos(&self) -> Vec<ProcessInfo> {
        self.control().process_infos(|owner| self.0.is_alive(owner))
    }

    /// Whether another process has a snapshot.
    pub(crate) fn is_read_elsewhere(&self) -> bool {
        let others = |snapshot: crate::shared::Snapshot| snapshot.owner != self.0.me();
        self.control().snapshots().any(|snapshot| others(snapshot) && self.0.is_alive(snapshot.owner))
    }

    /// The oldest snapshot of a process that lives, if it was not ended.
    pub(crate) fn oldest_reader(&self) -> Option<Snapshot> {
        let control = self.control();
        let counts =
            |snapshot: &Snapshot| snapshot.sequence >= control.ended_below() && self.0.is_alive(snapshot.owner);
        control.snapshots().filter(counts).min_by_key(|snapshot| snapshot.sequence)
    }

    /// The new holder of WRITE has no spill file: the previous one, which perhaps died, needs none.
    pub(crate) fn forget_staged_spill(&self) {
        if self.control().staged_spill().is_some() {
            self.control().set_staged_spill(None);
        }
    }

    /// The oldest snapshot that is registered.
    pub(crate) fn oldest_snapshot(&self) -> Option<u64> {
        self.control().snapshots().map(|snapshot| snapshot.sequence).min()
    }

    /// Announces the target of a checkpoint: no higher than D of the last durable certificate, visible, and the
    /// oldest snapshot. Under CKPT.
    pub(crate) fn choose_target(&self) -> u64 {
        self.control().choose_checkpoint_target(|owner| self.0.is_alive(owner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shared::{ControlMapping, LockFile};

    #[test]
    fn a_target_that_stays_beyond_what_is_visible_is_an_error_and_no_endless_loop() {
        let directory = tempfile::tempdir().unwrap();
        let lock = LockFile::open(&crate::disk::Directory::open(directory.path()).unwrap(), 0o600).unwrap();
        let member = Member::acquire(ControlMapping::anonymous().unwrap(), lock, "a program").unwrap().unwrap();
        let marks = Marks::new(&Arc::new(member));
        let slot = marks.claim_snapshot_slot().unwrap().unwrap();
        assert_eq!(marks.take_snapshot(slot, false).unwrap(), 0);
        // Never stored while nothing is backfilled.
        marks.control().set_recycled_below(9);
        assert!(matches!(marks.take_snapshot(slot, false), Err(SharedError::NoSnapshot { visible: 0, .. })));
        assert_eq!(marks.oldest_snapshot(), None);
    }
}
