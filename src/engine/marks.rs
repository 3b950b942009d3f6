//! The watermarks over commit sequences, and the snapshots that hold them back.
//!
//! `published >= visible`, `durable >= backfilled`; each only grows, but `visible` when a flush fails.

use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

/// Connections that one database takes.
pub(crate) const SNAPSHOT_SLOTS: usize = 2048;
const IDLE: u64 = u64::MAX;

#[derive(Debug)]
pub(crate) struct Marks {
    published: AtomicU64,
    durable: AtomicU64,
    visible: AtomicU64,
    backfilled: AtomicU64,
    /// Where the checkpoint goes that runs, or went that ran last.
    target: AtomicU64,
    /// Commits up to here may be gone from the slots: the database file has them.
    recycled_below: AtomicU64,
    /// Published commits that want durability and do not have it.
    wanting: Mutex<VecDeque<u64>>,
    snapshots: Vec<AtomicU64>,
}

impl Marks {
    pub(crate) fn new() -> Marks {
        let zero = || AtomicU64::new(0);
        Marks {
            published: zero(),
            durable: zero(),
            visible: zero(),
            backfilled: zero(),
            target: zero(),
            recycled_below: zero(),
            wanting: Mutex::new(VecDeque::new()),
            snapshots: (0..SNAPSHOT_SLOTS).map(|_| AtomicU64::new(IDLE)).collect(),
        }
    }

    pub(crate) fn published(&self) -> u64 {
        self.published.load(SeqCst)
    }
    pub(crate) fn durable(&self) -> u64 {
        self.durable.load(SeqCst)
    }
    pub(crate) fn visible(&self) -> u64 {
        self.visible.load(SeqCst)
    }
    pub(crate) fn backfilled(&self) -> u64 {
        self.backfilled.load(SeqCst)
    }
    pub(crate) fn recycled_below(&self) -> u64 {
        self.recycled_below.load(SeqCst)
    }

    /// Published commits that wait for durability.
    pub(crate) fn wanting(&self) -> usize {
        self.wanting.lock().len()
    }

    /// Commit `sequence`, the next one, is written.
    pub(crate) fn publish(&self, sequence: u64, wants_durable: bool) {
        let mut wanting = self.wanting.lock();
        if wants_durable {
            wanting.push_back(sequence);
        }
        self.published.store(sequence, SeqCst);
        self.advance_visible(&wanting);
    }

    /// Everything up to `sequence` is durable.
    pub(crate) fn seal(&self, sequence: u64) {
        let mut wanting = self.wanting.lock();
        while wanting.front().is_some_and(|first| *first <= sequence) {
            wanting.pop_front();
        }
        self.durable.store(sequence, SeqCst);
        self.advance_visible(&wanting);
    }

    fn advance_visible(&self, wanting: &VecDeque<u64>) {
        let visible = wanting.front().map_or(self.published.load(SeqCst), |first| first - 1);
        self.visible.fetch_max(visible, SeqCst);
    }

    /// A flush failed: nobody goes on above what is durable.
    pub(crate) fn fall_back_to_durable(&self) {
        let _wanting = self.wanting.lock();
        self.visible.store(self.durable.load(SeqCst), SeqCst);
    }

    pub(crate) fn set_backfilled(&self, sequence: u64) {
        self.backfilled.store(sequence, SeqCst);
    }

    pub(crate) fn raise_recycled_below(&self, sequence: u64) {
        self.recycled_below.fetch_max(sequence, SeqCst);
    }

    /// Registers a snapshot that no checkpoint overtakes: stores it, then looks at the announced target.
    /// `newest`: what is published, else what is visible.
    pub(crate) fn take_snapshot(&self, slot: usize, newest: bool) -> u64 {
        loop {
            let sequence = if newest { self.published() } else { self.visible() };
            self.snapshots[slot].store(sequence, SeqCst);
            if self.target.load(SeqCst) <= sequence {
                return sequence;
            }
        }
    }

    pub(crate) fn drop_snapshot(&self, slot: usize) {
        self.snapshots[slot].store(IDLE, SeqCst);
    }

    /// The oldest snapshot that is registered.
    pub(crate) fn oldest_snapshot(&self) -> Option<u64> {
        self.snapshots.iter().map(|slot| slot.load(SeqCst)).filter(|sequence| *sequence != IDLE).min()
    }

    /// Announces a target no higher than `at_most`, then lowers it to what the snapshots allow.
    pub(crate) fn choose_target(&self, at_most: u64) -> u64 {
        let at_most = at_most.max(self.backfilled());
        self.target.store(at_most, SeqCst);
        let target = self.oldest_snapshot().map_or(at_most, |oldest| oldest.min(at_most)).max(self.backfilled());
        self.target.store(target, SeqCst);
        target
    }
}
