//! CREATE: the segment files that are being made, or deleted, each reserved by the process that does so.
//!
//! A reservation is an owner lock, the id of a segment, and a count of steps. No process waits for more than a moment
//! for one: while one process fills a segment, writes go on, and where it makes no step for about a second, another
//! process reserves and makes another segment. So there are a few of them. A segment that a live process has reserved
//! is not free: no other process takes it, truncates it or deletes it. The reservation of a dead process counts for
//! nothing.
//!
//! Reservations are acquired, and segments are set in them, under APPEND: so the holder of APPEND finds every segment
//! either free or reserved. They are released without it.

use super::owner::{Owner, OwnerLock};
use crate::interleave::step;
use crate::sync::atomic::AtomicU64;
use crate::sync::atomic::Ordering::SeqCst;

/// Segments that may be made and deleted at the same time. More than one, since the process that makes one may be stopped.
pub const RESERVATIONS: usize = 4;

/// Of the word of a reservation: its segment becomes the next one of the log.
const IS_NEXT: u64 = 1 << 40;
/// Another process has made the next segment instead.
const OVERTAKEN: u64 = 1 << 41;
const SEGMENT: u64 = (1 << 33) - 1;

/// The reservations of a control block.
#[repr(C, align(64))]
#[cfg_attr(loom, derive(Default))]
pub struct Reservations {
    locks: [OwnerLock; RESERVATIONS],
    /// The segment + 1, with flags.
    words: [AtomicU64; RESERVATIONS],
    steps: [AtomicU64; RESERVATIONS],
}

/// What a process does, that no step has been seen of since, if it is the same later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Making {
    pub(crate) index: usize,
    pub(crate) owner: Owner,
    steps: u64,
}

impl Reservations {
    /// The owner lock of the reservation `index`, below [`RESERVATIONS`].
    #[must_use]
    pub fn lock(&self, index: usize) -> &OwnerLock {
        &self.locks[index]
    }

    /// The owners of all of them.
    pub fn holders(&self) -> impl Iterator<Item = Owner> + '_ {
        self.locks.iter().filter_map(OwnerLock::holder)
    }

    /// The segments that `lives` says are reserved by a live process. Under APPEND.
    pub(crate) fn segments<'a>(&'a self, lives: impl Fn(Owner) -> bool + 'a) -> impl Iterator<Item = u32> + 'a {
        let reserved = self.locks.iter().zip(&self.words).filter_map(move |(lock, word)| {
            let owner = lock.holder()?;
            let segment = u32::try_from((word.load(SeqCst) & SEGMENT).checked_sub(1)?).ok()?;
            Some((owner, segment))
        });
        reserved.filter(move |(owner, _)| lives(*owner)).map(|(_, segment)| segment)
    }

    /// Those that make the next segment, and are not overtaken.
    pub(crate) fn making(&self) -> impl Iterator<Item = Making> + '_ {
        self.locks.iter().enumerate().filter_map(|(index, lock)| {
            let owner = lock.holder()?;
            let is_making = self.words[index].load(SeqCst) & (IS_NEXT | OVERTAKEN) == IS_NEXT;
            is_making.then(|| Making { index, owner, steps: self.steps[index].load(SeqCst) })
        })
    }

    /// Another process makes the next segment instead of this one. Without APPEND the reservation may be a later one of the same
    /// place by now: then two segments are made, and one of them is free.
    pub(crate) fn overtake(&self, making: &Making) {
        step("overtaken");
        self.words[making.index].fetch_or(OVERTAKEN, SeqCst);
    }

    /// Begins the reservation `index`, whose lock was just acquired: of no segment yet. Under APPEND.
    pub(crate) fn begin(&self, index: usize, is_next: bool) {
        self.add_step(index);
        self.words[index].store(if is_next { IS_NEXT } else { 0 }, SeqCst);
    }

    /// Sets the segment of the reservation `index`, by its owner. A file that others may find: under APPEND.
    pub(crate) fn set_segment(&self, index: usize, segment: u32) {
        let flags = self.words[index].load(SeqCst) & !SEGMENT;
        self.words[index].store(flags | (u64::from(segment) + 1), SeqCst);
        step("reserved");
    }

    /// The owner of the reservation `index` has come further.
    pub(crate) fn add_step(&self, index: usize) {
        self.steps[index].fetch_add(1, SeqCst);
    }
}
