//! The two rings, by which it is known what is published and what is durable.
//!
//! Commit ring, 128 bytes for each commit; epoch ring, 64 bytes for each epoch. One writer at a time (the
//! holder of APPEND) fills an entry and then stores the watermark that makes it count; an entry whose
//! first word is not what the reader looks for is of another round, or being written over.

use crate::interleave::ring_entries;
use crate::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use crate::sync::atomic::{AtomicU64, fence};

/// Entries of the commit ring.
pub const COMMIT_RING: u64 = if cfg!(loom) { 4 } else { 8192 };
/// Entries of the epoch ring.
pub const EPOCH_RING: u64 = if cfg!(loom) { 4 } else { 1024 };
#[cfg(not(loom))]
const _: () = {
    assert!(size_of::<CommitLine>() == 128 && size_of::<EpochLine>() == 64);
    assert!(COMMIT_RING.is_power_of_two() && EPOCH_RING.is_power_of_two());
};

/// The unit of an epoch record's offset, in bytes: records begin on sectors.
const OFFSET_UNIT: u64 = 512;

/// The pages of up to this number of frames lie in the entry itself: to follow a small commit its batch need not be
/// read.
pub const PAGES_INLINE: usize = 16;

/// The entries of the commit ring that are used: all, but in some simulations.
pub(crate) fn commit_ring() -> u64 {
    ring_entries(COMMIT_RING, 16)
}

pub(super) fn epoch_ring() -> u64 {
    ring_entries(EPOCH_RING, 8)
}

const HAS_CERTIFICATE: u64 = 1;
const HAS_SPILL: u64 = 2;
const HAS_FORMS: u64 = 4;

/// One entry of the commit ring.
#[repr(C, align(64))]
#[cfg_attr(loom, derive(Default))]
struct CommitLine {
    /// Sequence x 2 + "wants durability": one word, so that the walk over undurable commits is one load each.
    tag: AtomicU64,
    ordinal: AtomicU64,
    offset: AtomicU64,
    end: AtomicU64,
    /// Segment file in the high half, frames in the low.
    file_frames: AtomicU64,
    /// Database pages in the high half, then flags from bit 16 on.
    pages_flags: AtomicU64,
    chain: AtomicU64,
    lane: AtomicU64,
    /// Two in a word, for a commit of at most [`PAGES_INLINE`] frames.
    pages: [AtomicU64; PAGES_INLINE / 2],
}

/// One entry of the epoch ring.
#[repr(C, align(64))]
#[cfg_attr(loom, derive(Default))]
struct EpochLine {
    epoch: AtomicU64,
    lo: AtomicU64,
    hi: AtomicU64,
    ordinal: AtomicU64,
    /// Segment file in the high half, offset in units of 512 bytes in the low.
    file_offset: AtomicU64,
    /// Ordinal of the newest doubled certificate x 2 + "it is this one".
    doubled: AtomicU64,
    backfilled: AtomicU64,
    chain: AtomicU64,
}

/// The entry of commit n at n mod [`COMMIT_RING`].
#[repr(transparent)]
#[cfg_attr(loom, derive(Default))]
pub(super) struct CommitRing([CommitLine; COMMIT_RING as usize]);

/// The entry of epoch e at e mod [`EPOCH_RING`].
#[repr(transparent)]
#[cfg_attr(loom, derive(Default))]
pub(super) struct EpochRing([EpochLine; EPOCH_RING as usize]);

/// A published commit: where its batch lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommitEntry {
    /// The commit sequence, from 1, below 2^63.
    pub sequence: u64,
    /// `synchronous` FULL or EXTRA: not visible before it is durable.
    pub wants_durable: bool,
    /// The ordinal of its segment.
    pub ordinal: u64,
    /// Its segment, by the id in the file name.
    pub segment: u32,
    /// Where the batch begins in the segment, in bytes.
    pub offset: u64,
    /// Its end, in bytes: the tail follows it.
    pub end: u64,
    /// Frames in the batch.
    pub frames: u32,
    /// The size of the database after it, in pages.
    pub database_pages: u32,
    /// The batch header carries the certificate of its epoch.
    pub has_certificate: bool,
    /// Descriptors point into a spill file.
    pub has_spill: bool,
    /// Images in the batch are masked, or lack zeros, as its descriptors state.
    pub has_forms: bool,
    /// The chain value after it.
    pub chain: u64,
    /// The lane that it was staged in.
    pub lane: u16,
    /// The pages of its frames, as far as they fit.
    pub pages: [u32; PAGES_INLINE],
}

impl CommitEntry {
    /// The pages of its frames, whose images follow the head of the batch, packed, as they are; `None`: the batch must be read.
    #[must_use]
    pub fn inline_pages(&self) -> Option<&[u32]> {
        if self.has_spill || self.has_forms { None } else { self.pages.get(..self.frames as usize) }
    }
}

/// An epoch record: all that the certificate of the epoch says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochRecord {
    /// The epoch, from 1.
    pub epoch: u64,
    /// The first commit that it covers.
    pub lo: u64,
    /// The last one; `lo - 1` in a mark.
    pub hi: u64,
    /// The ordinal of the segment that its certificate lies in.
    pub ordinal: u64,
    /// The segment that its certificate lies in, by the id in the file name.
    pub segment: u32,
    /// Where the certificate begins in the segment, in bytes, a multiple of 512; the batch's
    /// own offset if the certificate is in the header of batch `hi`.
    pub offset: u64,
    /// Its certificate is doubled: in two blocks, with a copy of the beginning of page 1.
    pub is_doubled: bool,
    /// The ordinal of the segment of the newest doubled certificate, this one or an earlier one, below 2^63; it says B.
    pub doubled_ordinal: u64,
    /// B: commits up to here were in the database file and synced there.
    pub backfilled: u64,
    /// The chain value after commit `hi`.
    pub chain: u64,
}

/// Where a record of the log lies, or the next one goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RecordAddress {
    /// The ordinal of the segment.
    pub ordinal: u64,
    /// Bytes from the start of the segment.
    pub offset: u64,
    /// The segment, by the id in the file name.
    pub segment: u32,
}

impl EpochRecord {
    /// D: commits up to here were durable when its certificate was written.
    #[must_use]
    pub fn durable(&self) -> u64 {
        self.lo.saturating_sub(1)
    }

    /// The offset in sectors; `None`: it cannot be stored.
    pub(super) fn offset_units(&self) -> Option<u32> {
        u32::try_from(self.offset / OFFSET_UNIT).ok().filter(|_| self.offset.is_multiple_of(OFFSET_UNIT))
    }

    /// The end of its certificate, if that does not lie in a batch: on a block of this size.
    #[must_use]
    pub fn end(&self, block_bytes: u64) -> u64 {
        let (block_bytes, blocks) = (block_bytes.max(1), if self.is_doubled { 2 } else { 1 });
        if crate::drops("cut") && !self.is_doubled && !self.offset.is_multiple_of(block_bytes) {
            return self.offset + OFFSET_UNIT;
        }
        (self.offset / block_bytes).saturating_add(blocks).saturating_mul(block_bytes)
    }
}

impl CommitRing {
    /// The size of an entry.
    pub(super) const ENTRY_BYTES: usize = size_of::<CommitLine>();

    fn line(&self, sequence: u64) -> &CommitLine {
        &self.0[(sequence % commit_ring()) as usize]
    }

    /// Stores an entry. Under APPEND.
    pub(super) fn store(&self, entry: &CommitEntry) {
        self.line(entry.sequence).store(entry);
    }

    /// The entry of `sequence`, if the ring has not moved on; without its pages they read as zeros.
    pub(super) fn load(&self, sequence: u64, with_pages: bool) -> Option<CommitEntry> {
        self.line(sequence).load(sequence, with_pages)
    }

    /// Whether the commit `sequence` wants durability; `None`: the entry is of another round.
    pub(super) fn wants_durable(&self, sequence: u64) -> Option<bool> {
        let tag = self.line(sequence).tag.load(SeqCst);
        (tag >> 1 == sequence).then_some(tag & 1 != 0)
    }
}

impl EpochRing {
    fn line(&self, epoch: u64) -> &EpochLine {
        &self.0[(epoch % epoch_ring()) as usize]
    }

    /// Stores a record, whose offset [fits](EpochRecord::offset_units). Under LEADER and APPEND.
    pub(super) fn store(&self, record: &EpochRecord, units: u32) {
        self.line(record.epoch).store(record, u64::from(record.segment) << 32 | u64::from(units));
    }

    /// The record of `epoch`, if the ring has not moved on.
    pub(super) fn load(&self, epoch: u64) -> Option<EpochRecord> {
        self.line(epoch).load(epoch)
    }
}

impl CommitLine {
    fn store(&self, e: &CommitEntry) {
        let flags = [(e.has_certificate, HAS_CERTIFICATE), (e.has_spill, HAS_SPILL), (e.has_forms, HAS_FORMS)];
        let flags = flags.iter().map(|(is_set, flag)| if *is_set { *flag } else { 0 }).sum::<u64>();
        if !crate::drops("ring-entry-void-first") {
            self.tag.store(0, Relaxed);
        }
        fence(Release);
        self.ordinal.store(e.ordinal, Relaxed);
        self.offset.store(e.offset, Relaxed);
        self.end.store(e.end, Relaxed);
        self.file_frames.store(u64::from(e.segment) << 32 | u64::from(e.frames), Relaxed);
        self.pages_flags.store(u64::from(e.database_pages) << 32 | flags << 16, Relaxed);
        self.chain.store(e.chain, Relaxed);
        self.lane.store(u64::from(e.lane), Relaxed);
        for (word, pair) in self.pages.iter().zip(e.pages.as_chunks::<2>().0) {
            if pair[0] == 0 {
                // No page: after the last one.
                break;
            }
            word.store(u64::from(pair[0]) << 32 | u64::from(pair[1]), Relaxed);
        }
        self.tag.store(e.sequence << 1 | u64::from(e.wants_durable), Release);
    }

    fn load(&self, sequence: u64, with_pages: bool) -> Option<CommitEntry> {
        let tag = self.tag.load(Acquire);
        if sequence == 0 || tag >> 1 != sequence {
            return None;
        }
        let file_frames = self.file_frames.load(Relaxed);
        let mut pages = [0; PAGES_INLINE];
        let count = if with_pages { (file_frames as u32 as usize).min(PAGES_INLINE) } else { 0 };
        let control = &self.pages[..count.div_ceil(2)];
        for ((at, pair), word) in (0..).step_by(2).zip(pages.as_chunks_mut::<2>().0).zip(control) {
            let both = word.load(Relaxed);
            // What follows the last one is of an older commit.
            pair[0] = if at < file_frames as u32 { (both >> 32) as u32 } else { 0 };
            pair[1] = if at + 1 < file_frames as u32 { both as u32 } else { 0 };
        }
        let pages_flags = self.pages_flags.load(Relaxed);
        let entry = CommitEntry {
            sequence,
            wants_durable: tag & 1 != 0,
            ordinal: self.ordinal.load(Relaxed),
            segment: (file_frames >> 32) as u32,
            offset: self.offset.load(Relaxed),
            end: self.end.load(Relaxed),
            frames: file_frames as u32,
            database_pages: (pages_flags >> 32) as u32,
            has_certificate: pages_flags >> 16 & HAS_CERTIFICATE != 0,
            has_spill: pages_flags >> 16 & HAS_SPILL != 0,
            has_forms: pages_flags >> 16 & HAS_FORMS != 0,
            chain: self.chain.load(Relaxed),
            lane: self.lane.load(Relaxed) as u16,
            pages,
        };
        fence(Acquire);
        (self.tag.load(Relaxed) == tag || crate::drops("ring-entry-looked-at-again")).then_some(entry)
    }
}

impl EpochLine {
    fn store(&self, c: &EpochRecord, file_offset: u64) {
        self.epoch.store(0, Relaxed);
        fence(Release);
        self.lo.store(c.lo, Relaxed);
        self.hi.store(c.hi, Relaxed);
        self.ordinal.store(c.ordinal, Relaxed);
        self.file_offset.store(file_offset, Relaxed);
        self.doubled.store(c.doubled_ordinal << 1 | u64::from(c.is_doubled), Relaxed);
        self.backfilled.store(c.backfilled, Relaxed);
        self.chain.store(c.chain, Relaxed);
        self.epoch.store(c.epoch, Release);
    }

    fn load(&self, epoch: u64) -> Option<EpochRecord> {
        if epoch == 0 || self.epoch.load(Acquire) != epoch {
            return None;
        }
        let file_offset = self.file_offset.load(Relaxed);
        let doubled = self.doubled.load(Relaxed);
        let record = EpochRecord {
            epoch,
            lo: self.lo.load(Relaxed),
            hi: self.hi.load(Relaxed),
            ordinal: self.ordinal.load(Relaxed),
            segment: (file_offset >> 32) as u32,
            offset: u64::from(file_offset as u32) * OFFSET_UNIT,
            is_doubled: doubled & 1 != 0,
            doubled_ordinal: doubled >> 1,
            backfilled: self.backfilled.load(Relaxed),
            chain: self.chain.load(Relaxed),
        };
        fence(Acquire);
        (self.epoch.load(Relaxed) == epoch).then_some(record)
    }
}
