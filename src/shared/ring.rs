//! The two rings, what is published and durable by them, and what is visible.
//!
//! Commit ring, 128 bytes for each commit; epoch ring, 64 bytes for each epoch. One writer at a time (the
//! holder of APPEND) fills an entry and then stores the watermark that makes it count; an entry whose
//! first word is not what the reader looks for is of another round, or being written over.

use super::SharedError;
use super::control_block::{COMMIT_RING, ControlBlock, ControlView, EPOCH_RING};
use crate::interleave::{ring_entries, step};
use crate::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use crate::sync::atomic::{AtomicU64, fence};

/// The unit of an epoch record's offset, in bytes: records begin on sectors.
const OFFSET_UNIT: u64 = 512;

/// The pages of up to this number of frames lie in the entry itself: to follow a small commit its batch need not be
/// read.
pub const PAGES_INLINE: usize = 16;

/// The entries of the commit ring that are used: all, but in some simulations.
pub(crate) fn commit_ring() -> u64 {
    ring_entries(COMMIT_RING, 16)
}

fn epoch_ring() -> u64 {
    ring_entries(EPOCH_RING, 8)
}

const HAS_CERTIFICATE: u64 = 1;
const HAS_SPILL: u64 = 2;
const HAS_MASKS: u64 = 4;

/// One entry of the commit ring.
#[repr(C, align(64))]
#[cfg_attr(loom, derive(Default))]
pub(super) struct CommitLine {
    /// Sequence x 2 + "wants durability": one word, so that the walk over undurable commits is one load each.
    tag: AtomicU64,
    ordinal: AtomicU64,
    offset: AtomicU64,
    end: AtomicU64,
    /// Segment file in the high half, frames in the low.
    file_frames: AtomicU64,
    /// Database pages in the high half, then flags and writer, 16 bits each.
    pages_flags_writer: AtomicU64,
    chain: AtomicU64,
    /// CRC in the low half, lane above it.
    crc_lane: AtomicU64,
    /// Two in a word, for a commit of at most [`PAGES_INLINE`] frames.
    pages: [AtomicU64; PAGES_INLINE / 2],
}

/// One entry of the epoch ring.
#[repr(C, align(64))]
#[cfg_attr(loom, derive(Default))]
pub(super) struct EpochLine {
    epoch: AtomicU64,
    lo: AtomicU64,
    hi: AtomicU64,
    ordinal: AtomicU64,
    /// Segment file in the high half, offset in units of 4096 bytes in the low.
    file_offset: AtomicU64,
    /// Ordinal of the newest doubled certificate x 2 + "it is this one".
    doubled: AtomicU64,
    backfilled: AtomicU64,
    chain: AtomicU64,
}

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
    /// Images in the batch are masked, as its descriptors say.
    pub has_masks: bool,
    /// The process slot of its writer.
    pub writer: u16,
    /// The chain value after it.
    pub chain: u64,
    /// The CRC of the batch's header.
    pub crc: u32,
    /// The lane that it was staged in.
    pub lane: u16,
    /// The pages of its frames, as far as they fit.
    pub pages: [u32; PAGES_INLINE],
}

impl CommitEntry {
    /// The pages of its frames, whose images follow the head of the batch, packed; `None`: the batch must be read.
    #[must_use]
    pub fn inline_pages(&self) -> Option<&[u32]> {
        if self.has_spill || self.has_masks { None } else { self.pages.get(..self.frames as usize) }
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

impl CommitLine {
    fn store(&self, e: &CommitEntry) {
        let flags = [(e.has_certificate, HAS_CERTIFICATE), (e.has_spill, HAS_SPILL), (e.has_masks, HAS_MASKS)];
        let flags = flags.iter().map(|(is_set, flag)| if *is_set { *flag } else { 0 }).sum::<u64>();
        if !crate::drops("ring-entry-void-first") {
            self.tag.store(0, Relaxed);
        }
        fence(Release);
        self.ordinal.store(e.ordinal, Relaxed);
        self.offset.store(e.offset, Relaxed);
        self.end.store(e.end, Relaxed);
        self.file_frames.store(u64::from(e.segment) << 32 | u64::from(e.frames), Relaxed);
        self.pages_flags_writer.store(u64::from(e.database_pages) << 32 | flags << 16 | u64::from(e.writer), Relaxed);
        self.chain.store(e.chain, Relaxed);
        self.crc_lane.store(u64::from(e.crc) | u64::from(e.lane) << 32, Relaxed);
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
        let crc_lane = self.crc_lane.load(Relaxed);
        let mut pages = [0; PAGES_INLINE];
        let count = if with_pages { (file_frames as u32 as usize).min(PAGES_INLINE) } else { 0 };
        let control = &self.pages[..count.div_ceil(2)];
        for ((at, pair), word) in (0..).step_by(2).zip(pages.as_chunks_mut::<2>().0).zip(control) {
            let both = word.load(Relaxed);
            // What follows the last one is of an older commit.
            pair[0] = if at < file_frames as u32 { (both >> 32) as u32 } else { 0 };
            pair[1] = if at + 1 < file_frames as u32 { both as u32 } else { 0 };
        }
        let pages_flags_writer = self.pages_flags_writer.load(Relaxed);
        let entry = CommitEntry {
            sequence,
            wants_durable: tag & 1 != 0,
            ordinal: self.ordinal.load(Relaxed),
            segment: (file_frames >> 32) as u32,
            offset: self.offset.load(Relaxed),
            end: self.end.load(Relaxed),
            frames: file_frames as u32,
            database_pages: (pages_flags_writer >> 32) as u32,
            has_certificate: pages_flags_writer >> 16 & HAS_CERTIFICATE != 0,
            has_spill: pages_flags_writer >> 16 & HAS_SPILL != 0,
            has_masks: pages_flags_writer >> 16 & HAS_MASKS != 0,
            writer: pages_flags_writer as u16,
            chain: self.chain.load(Relaxed),
            crc: crc_lane as u32,
            lane: (crc_lane >> 32) as u16,
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
    fn commit_line(&self, sequence: u64) -> &CommitLine {
        &self.commit_ring[(sequence % commit_ring()) as usize]
    }

    fn epoch_line(&self, epoch: u64) -> &EpochLine {
        &self.epoch_ring[(epoch % epoch_ring()) as usize]
    }

    /// The published commit `sequence`; `None` if it is not published, or the ring has moved on (read
    /// the segments then).
    #[must_use]
    pub fn commit(&self, sequence: u64) -> Option<CommitEntry> {
        // A writer that died before it published may have left an entry after `published`.
        if sequence > self.published() { None } else { self.commit_line(sequence).load(sequence, true) }
    }

    /// The last published commit, but for its pages: they read as zeros.
    #[must_use]
    pub fn last_commit(&self) -> Option<CommitEntry> {
        entry_of(|| self.published(), |published| self.commit_line(published).load(published, false))
    }

    /// The record of `epoch`; `None` if it is not stored, or the ring has moved on.
    #[must_use]
    pub fn epoch(&self, epoch: u64) -> Option<EpochRecord> {
        if epoch > self.last_written_epoch() { None } else { self.epoch_line(epoch).load(epoch) }
    }

    /// The record of the last certified epoch; `None` before the first.
    #[must_use]
    pub fn certified_epoch(&self) -> Option<EpochRecord> {
        entry_of(|| self.certified(), |certified| self.epoch_line(certified).load(certified))
    }

    /// The last epoch record, certified or not.
    #[must_use]
    pub fn last_epoch(&self) -> Option<EpochRecord> {
        entry_of(|| self.last_written_epoch(), |last_epoch| self.epoch_line(last_epoch).load(last_epoch))
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

    /// Whether `published` - durable or `last_written_epoch` - `certified` has reached half its ring: then prepare
    /// leads or waits.
    #[must_use]
    pub fn ring_is_half_full(&self) -> bool {
        // The lower watermarks first: the answer may be too low, never wrong by a wrap.
        let (durable, certified) = (self.durable(), self.certified());
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
        let behind_commit =
            self.last_commit().map(|e| RecordAddress { ordinal: e.ordinal, offset: e.end, segment: e.segment });
        let block = self.identity().block_bytes;
        // A certificate in a batch header begins where the batch does and is no longer than it: its end never counts.
        let behind_cut =
            self.last_epoch().map(|c| RecordAddress { ordinal: c.ordinal, offset: c.end(block), segment: c.segment });
        behind_commit.max(behind_cut)
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
        self.commit_line(entry.sequence).store(entry);
        step("before published");
        self.published.0.store(entry.sequence, SeqCst);
        step("behind published");
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
        if last_epoch.saturating_sub(self.certified()) >= epoch_ring() - 1 {
            return Err(SharedError::RingFull { ring: "epochs" });
        }
        let units =
            u32::try_from(record.offset / OFFSET_UNIT).ok().filter(|_| record.offset.is_multiple_of(OFFSET_UNIT));
        let Some(units) = units else {
            return Err(SharedError::TooLarge { what: "offset of a certificate", value: record.offset });
        };
        if crate::drops("r9-cut-first") {
            self.last_written_epoch.0.store(record.epoch, SeqCst);
            step("before cuts");
        }
        self.epoch_line(record.epoch).store(record, u64::from(record.segment) << 32 | u64::from(units));
        step("before cuts");
        self.last_written_epoch.0.store(record.epoch, SeqCst);
        step("behind cuts");
        Ok(())
    }

    /// Every file of the epoch is synced: its commits are durable. Under LEADER; never goes back, nor beyond
    /// `last_written_epoch`. The caller then calls [`advance_visible`](ControlBlock::advance_visible) and notifies
    /// the epoch's event ([`flush_events`](ControlBlock::flush_events)).
    pub fn certify(&self, epoch: u64) {
        step("before certified");
        self.certified.0.fetch_max(epoch.min(self.last_written_epoch()), SeqCst);
        step("behind certified");
    }

    /// Moves `visible` to the last commit before the first undurable one that wants durability, and returns it. Runs
    /// after each publish, after each [`certify`](ControlBlock::certify), and in each snapshot: the last to store
    /// `published` or `certified` sees the other store and does what is left.
    pub fn advance_visible(&self) -> u64 {
        loop {
            let certified = self.certified();
            let published = self.published();
            let durable = self.durable();
            let visible = self.visible.0.load(SeqCst);
            let mut candidate = durable.max(visible);
            // Poisoned: nothing above the durable prefix becomes visible any more.
            if self.poisoned() == 0 || crate::drops("r5-visible-stops") {
                while candidate < published {
                    let tag = self.commit_line(candidate + 1).tag.load(SeqCst);
                    // Of another round: the watermarks moved, and the walk begins again below.
                    if tag >> 1 != candidate + 1 || (tag & 1 != 0 && !crate::drops("r3-visible-prefix")) {
                        break;
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
            if (certified, published) == (self.certified(), self.published()) {
                return self.visible();
            }
        }
    }
}
