//! The watermarks over commit sequences, and the snapshots that hold them back: the shared words of
//! `shared::words`, in memory of this process until the log is activated, then mapped from `control`.
//!
//! `published >= visible`, `durable >= backfilled`; each only grows, but `visible` when a flush fails.

use crate::shared::{
    Attached, CommitEntry, Control, Cut, Identity, Owner, SharedError, SnapshotSlot, Words, command, now_us,
};
use parking_lot::RwLock;
use std::io;
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

/// Which slots may be written over: those whose commits are all at or below `backfilled`, which a durable certificate
/// carries, but for the slot in which that certificate lies. It may be the last record there, and without it the log says
/// less than the stamp.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Recyclable {
    pub(crate) backfilled: u64,
    /// The number of that slot.
    pub(crate) keep: Option<u32>,
}

pub(crate) struct Marks {
    anonymous: Control,
    mapped: OnceLock<Control>,
    /// Held for writing while the words move, for reading by whoever stores to them without WRITE.
    switch: RwLock<()>,
    me: Owner,
    /// Commits that wanted durability, ever; and those of them that have it.
    wanted: AtomicU64,
    satisfied: AtomicU64,
}

/// The one process of a database has this slot.
const PROCESS_SLOT: u16 = 0;

impl Marks {
    /// # Errors
    /// The system has no memory.
    pub(crate) fn new(identity: &Identity) -> io::Result<Marks> {
        let anonymous = Control::anonymous()?;
        anonymous.words().set_identity(identity);
        let me = anonymous
            .words()
            .attach(PROCESS_SLOT, std::process::id(), &command())
            .ok_or_else(|| io::Error::other("no process slot"))?;
        let (wanted, satisfied) = (AtomicU64::new(0), AtomicU64::new(0));
        Ok(Marks { anonymous, mapped: OnceLock::new(), switch: RwLock::new(()), me, wanted, satisfied })
    }

    fn words(&self) -> &Words {
        self.mapped.get().unwrap_or(&self.anonymous).words()
    }

    /// Runs `store`, which writes to the words without holding WRITE, before or after they move, not meanwhile.
    fn store<T>(&self, store: impl FnOnce(&Words) -> T) -> T {
        match self.mapped.get() {
            Some(mapped) => store(mapped.words()),
            None => {
                let _stays = self.switch.read();
                store(self.words())
            }
        }
    }

    /// Activation: the words move to the file at `path`. The caller holds WRITE.
    ///
    /// # Errors
    /// The file cannot be made.
    pub(crate) fn map(&self, path: &Path, mode: u32) -> io::Result<()> {
        let _nobody_stores = self.switch.write();
        if self.mapped.get().is_none() {
            let control = Control::create(path, mode, &self.anonymous)?;
            // Empty until now, and nobody else holds `switch` for writing.
            let _ = self.mapped.set(control);
        }
        Ok(())
    }

    pub(crate) fn published(&self) -> u64 {
        self.words().published()
    }
    pub(crate) fn durable(&self) -> u64 {
        self.words().durable()
    }
    pub(crate) fn visible(&self) -> u64 {
        self.words().visible()
    }
    pub(crate) fn backfilled(&self) -> u64 {
        self.words().backfilled()
    }

    /// Whether a frame of commit `sequence` may be gone from its slot: the database file has it then.
    pub(crate) fn recycled(&self, sequence: u64) -> bool {
        sequence < self.words().recycled_below()
    }

    /// The epoch of the last cut.
    pub(crate) fn epoch(&self) -> u64 {
        self.words().cuts()
    }

    /// D and B of the last durable certificate.
    pub(crate) fn certified(&self) -> (u64, u64) {
        self.words().certified_cut().map_or((0, 0), |cut| (cut.durable, cut.backfilled))
    }

    /// What may be written over.
    pub(crate) fn recyclable(&self) -> Recyclable {
        let cut = self.words().certified_cut();
        Recyclable { backfilled: cut.map_or(0, |cut| cut.backfilled), keep: cut.map(|cut| cut.file) }
    }

    /// So many commits are not durable that a writer has to lead a flush before the next one.
    pub(crate) fn too_much_undurable(&self) -> bool {
        self.words().ring_is_half_full()
    }

    /// Commits that want durability and wait for it.
    pub(crate) fn wanting(&self) -> u64 {
        self.wanted.load(SeqCst).saturating_sub(self.satisfied.load(SeqCst))
    }

    /// Commits that wanted durability, ever: under APPEND, for [`Marks::certify`].
    pub(crate) fn wanted(&self) -> u64 {
        self.wanted.load(SeqCst)
    }

    /// The next commit is written: it is everybody's. Under APPEND.
    ///
    /// # Errors
    /// It is not the next one, or the ring is full, against prepare's promise.
    pub(crate) fn publish(&self, mut entry: CommitEntry) -> Result<(), SharedError> {
        entry.writer = self.me.slot;
        self.words().publish(&entry)?;
        if entry.wants_durable {
            self.wanted.fetch_add(1, SeqCst);
        }
        self.words().advance_visible();
        Ok(())
    }

    /// The next certificate is written. Under LEADER and APPEND.
    ///
    /// # Errors
    /// As [`Marks::publish`].
    pub(crate) fn store_cut(&self, cut: &Cut) -> Result<(), SharedError> {
        self.words().store_cut(cut)
    }

    /// Epoch `epoch` is durable, and with it so many of the commits that [`Marks::wanted`] it.
    pub(crate) fn certify(&self, epoch: u64, wanted: u64) {
        self.satisfied.fetch_max(wanted, SeqCst);
        self.words().certify(epoch);
        self.words().advance_visible();
    }

    /// A flush failed: nobody goes on above what is durable.
    pub(crate) fn poison(&self) {
        self.words().poison(1);
    }

    /// As soon as the poisoning begins.
    pub(crate) fn is_poisoned(&self) -> bool {
        self.words().poisoned() != 0
    }

    /// The mode, for whoever looks at the words from outside.
    pub(crate) fn show_mode(&self, mode: u64) {
        self.store(|words| words.set_mode(mode));
    }

    pub(crate) fn set_backfilled(&self, sequence: u64) {
        self.words().set_backfilled(sequence);
    }

    /// Slots with commits up to `sequence` are about to be written over.
    pub(crate) fn recycle_to(&self, sequence: u64) {
        self.words().set_recycled_below(sequence + 1);
    }

    /// A snapshot slot for a connection; `None`: all are taken.
    pub(crate) fn claim_snapshot_slot(&self) -> Option<SnapshotSlot> {
        self.store(|words| words.claim_snapshot_slot(self.me))
    }

    pub(crate) fn free_snapshot_slot(&self, slot: SnapshotSlot) {
        self.store(|words| words.free_snapshot_slot(slot));
    }

    /// Registers a snapshot that no checkpoint overtakes. `newest`: what is published, else what is visible.
    pub(crate) fn take_snapshot(&self, slot: SnapshotSlot, newest: bool) -> u64 {
        self.store(|words| {
            loop {
                let sequence = if newest { words.published() } else { words.advance_visible() };
                if words.take_snapshot(slot, sequence, now_us()) {
                    return sequence;
                }
            }
        })
    }

    pub(crate) fn end_snapshot(&self, slot: SnapshotSlot) {
        self.store(|words| words.end_snapshot(slot));
    }

    /// The attached processes. `alive` says whether the process in another slot than this one's lives.
    pub(crate) fn attached(&self, mut alive: impl FnMut(u16) -> bool) -> Vec<Attached> {
        self.words().attached(|owner| owner == self.me || alive(owner.slot))
    }

    /// The oldest snapshot that is registered.
    pub(crate) fn oldest_snapshot(&self) -> Option<u64> {
        self.words().snapshots().map(|snapshot| snapshot.sequence).min()
    }

    /// Announces the target of a checkpoint: no higher than D of the last durable certificate, visible, and the
    /// oldest snapshot. Under CKPT.
    pub(crate) fn choose_target(&self) -> u64 {
        self.words().choose_checkpoint_target(|_| true)
    }
}
