//! What one connection sees: its synthesised wal-index and its virtual WAL file.
//!
//! A [`View`] builds, in memory that SQLite maps, the wal-index that `wal.c` would have built if
//! the frames of one snapshot lay in a real `-wal` file, and serves the bytes of that file: images
//! of the snapshot through a callback, frames of the open transaction from the connection's
//! [`Lane`].
//!
//! Promises:
//! * The live header *stands for* one commit sequence. As long as that sequence is asked for, no
//!   byte of the header changes, so SQLite keeps its page cache; any other snapshot gets an
//!   `iChange` that this view never had before.
//! * At least one frame is in it, and outside of a checkpoint `mxFrame > nBackfill`: SQLite never enters
//!   `READ_LOCK(0)`, never restarts the log and never writes a WAL header.
//! * Virtual frame numbers are the view's own; each has a frame number of the log (0: the database
//!   file), in log order.
//! * Regions never move and never go while the view lives.
//!
//! It knows no files and no locks: the owner of the view decides when a snapshot may change. SQLite
//! uses the regions under the mutex of its connection, from one thread at a time; the atomics are
//! there because the memory is shared with C, not for ordering.

mod error;
mod header;
mod index;
mod lane;
mod page_set;
mod refresh;
mod tail;
mod wal_file;

#[cfg(test)]
mod tests;

pub use error::{ReadError, ViewError};
pub use lane::{Image, Lane, LaneMemory, StagedFrame};
pub use page_set::PageSet;
pub use refresh::{FrameTable, Snapshot};
pub use tail::{Composition, end_private, is_private, private_page_at, show_private};
pub use wal_file::{ReadImage, Written};

use header::Copies;
use index::Index;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use tail::Tail;

/// The size of one region of the wal-index, in bytes (`WALINDEX_PGSZ` of `wal.c`).
pub const REGION_BYTES: usize = 32768;

/// The 32-bit words of a region.
const REGION_WORDS: usize = REGION_BYTES / 4;

/// One region of a wal-index: SQLite's memory, so atomics only. Never moves.
#[repr(C, align(8))]
pub struct Region(pub(crate) [AtomicU32; REGION_WORDS]);

impl Region {
    fn zeroed() -> Arc<Region> {
        Arc::new(Region([const { AtomicU32::new(0) }; REGION_WORDS]))
    }

    /// The word (native byte order) at `index`, counted in 4 bytes; 0 outside of the region.
    #[must_use]
    pub fn word(&self, index: usize) -> u32 {
        self.0.get(index).map_or(0, |word| word.load(Ordering::Relaxed))
    }

    fn set_word(&self, index: usize, value: u32) {
        if let Some(word) = self.0.get(index) {
            word.store(value, Ordering::Relaxed);
        }
    }
}

impl std::fmt::Debug for Region {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Region")
    }
}

/// A write transaction: from WRITE to publish or rollback.
#[derive(Debug)]
struct Writing {
    log_id: u64,
    sequence: u64,
    /// Both header copies as they were at WRITE.
    saved: Copies,
    /// Both header copies as SQLite advanced them, while [`View::hide_advance`] keeps them aside.
    hidden: Option<Copies>,
    /// The last header that was written, until something else is: a data write right after it appends
    /// (`walWriteOneFrame`), a header alone is a rewrite (`walRewriteChecksums`).
    pending: Option<wal_file::FrameHeader>,
}

/// The synthesised wal-index and virtual WAL file of one connection, and its lane.
#[derive(Debug)]
pub struct View {
    page_bytes: u32,
    index: Index,
    /// The number in the log of each virtual frame of the snapshot (virtual frame 1 first), rising as far as the tail;
    /// 0: the image is the database file's.
    numbers: Vec<u64>,
    /// What the live header stands for.
    sequence: Option<u64>,
    /// What [`View::frames_up_to`] answered last.
    prefix: usize,
    /// A bound below this is not worth another rebuild: the last one could not meet its bound.
    bound_floor: u32,
    /// Frames of this connection's own commits since the view was built.
    own_frames: u32,
    /// The next refresh builds it anew.
    renumber: bool,
    tail: Tail,
    writing: Option<Writing>,
    lane: Lane,
}

impl View {
    /// A view without a header: [`View::refresh`] it before SQLite maps its first region.
    ///
    /// `page_bytes`: the page size of the database. `lane_bytes_max`: the images that the lane keeps
    /// in memory before it spills (at least one page).
    #[must_use]
    pub fn new(page_bytes: u32, lane_bytes_max: usize) -> View {
        View {
            page_bytes,
            index: Index::new(),
            numbers: Vec::new(),
            sequence: None,
            prefix: 0,
            bound_floor: 0,
            own_frames: 0,
            renumber: false,
            tail: Tail::default(),
            writing: None,
            lane: Lane::new(page_bytes, lane_bytes_max),
        }
    }

    /// The region of that index, for `xShmMap`; it stays where it is. One that is not there is made if
    /// `extend` says so and it is the next one (SQLite reaches them one by one), else `None`.
    pub fn region(&mut self, index: u32, extend: bool) -> Option<Arc<Region>> {
        self.index.region(usize::try_from(index).ok()?, extend)
    }

    /// The commit sequence that the live header stands for; `None` before the first refresh.
    #[must_use]
    pub fn sequence(&self) -> Option<u64> {
        self.sequence
    }

    /// The newest commit of which the view shows anything: [`View::sequence`], or where the view is apart a commit of this
    /// connection after it, without those in between.
    #[must_use]
    pub fn newest_shown(&self) -> u64 {
        self.sequence.unwrap_or(0).max(self.tail.shown)
    }

    /// The size of the database that SQLite saw at WRITE, in pages.
    #[must_use]
    pub fn database_pages_at_write(&self) -> u32 {
        self.writing.as_ref().map_or(0, |writing| writing.saved.first().database_pages)
    }

    /// `mxFrame` of the live header.
    #[must_use]
    pub fn max_frame(&self) -> u32 {
        self.index.header().max_frame
    }

    /// Whether the live header says `mxFrame` = 0, as `walRestartHdr` leaves it after
    /// `wal_checkpoint(TRUNCATE)`: SQLite then asks for `READ_LOCK(0)`, and the view wants a refresh.
    #[must_use]
    pub fn live_max_frame_is_zero(&self) -> bool {
        self.max_frame() == 0
    }

    /// The page size in bytes.
    #[must_use]
    pub fn page_bytes(&self) -> u32 {
        self.page_bytes
    }

    /// The lane: the frames that this write transaction has staged, in virtual frame order.
    #[must_use]
    pub fn lane(&self) -> &Lane {
        &self.lane
    }

    /// The images that the lane keeps in memory before it spills (bytes, at least one page); while nothing is staged,
    /// else without effect.
    pub fn set_lane_bytes_max(&mut self, bytes: usize) {
        self.lane.set_bytes_max(bytes);
    }

    /// The frames of the snapshot.
    fn snapshot_frames(&self) -> u32 {
        u32::try_from(self.numbers.len()).unwrap_or(u32::MAX)
    }

    /// One more frame of the snapshot, with this number in the log; false: it cannot be indexed.
    fn push(&mut self, number: u64, page: u32) -> bool {
        let pushed = self.index.append(self.snapshot_frames() + 1, page).is_ok();
        if pushed {
            self.numbers.push(number);
        }
        pushed
    }

    /// How many virtual frames (a prefix) have a number in the log that is at most `number`.
    #[must_use]
    pub fn frames_up_to(&mut self, number: u64) -> u32 {
        // Mostly the same as the last time: asked with each commit, while it changes with a checkpoint.
        let numbers = &self.numbers[..self.tail.before(self.numbers.len())];
        let (before, after) = numbers.split_at(self.prefix.min(numbers.len()));
        if before.last().is_some_and(|&last| last > number) || after.first().is_some_and(|&first| first <= number) {
            self.prefix = numbers.partition_point(|&n| n <= number);
        } else {
            self.prefix = before.len();
        }
        u32::try_from(self.prefix).unwrap_or(u32::MAX)
    }

    /// What `walCheckpoint` finds while it holds CKPT: `backfill` virtual frames are in the
    /// database file, or all of them (`all_done`).
    ///
    /// Held back at k < `mxFrame`, `nBackfill` = k alone would make SQLite write the rest into the
    /// database file itself; so mark 1 says that a reader is there, and the owner of the view answers BUSY
    /// to `EXCLUSIVE READ_LOCK(1)`.
    pub fn set_checkpoint_info(&mut self, backfill: u32, all_done: bool) {
        let max_frame = self.max_frame();
        let backfill = if all_done { max_frame } else { backfill.min(max_frame) };
        self.index.set_checkpoint_info(backfill, backfill);
    }

    /// What every reader shall find: nothing backfilled, mark 1 at `mxFrame`.
    pub fn reset_checkpoint_info(&mut self) {
        let max_frame = self.max_frame();
        self.index.set_checkpoint_info(0, max_frame);
    }

    /// What a reader finds whose snapshot the live header is, if that many virtual frames are in the database file: `walFindFrame`
    /// looks for each page that is not in the log into every block of the index that holds a later frame. Never all of them, or
    /// SQLite would restart the log.
    pub fn skip_backfilled(&mut self, backfill: u32) {
        let max_frame = self.max_frame();
        self.index.set_checkpoint_info(backfill.min(max_frame.saturating_sub(1)), max_frame);
    }

    /// Whether a page that is in no frame costs SQLite more than one look into the index.
    #[must_use]
    pub fn has_several_blocks(&self) -> bool {
        self.max_frame() > index::FIRST_REGION_FRAMES
    }

    /// What SQLite, without locks of the wal-index (`WAL_EXCLUSIVE_MODE`), has put into a WAL file of its own and not into the
    /// database file: page and newest frame of each, by page; and the size of the database in pages.
    #[must_use]
    pub fn frames_to_backfill(&self) -> (Vec<(u32, u32)>, u32) {
        let header = self.index.header();
        let newest: BTreeMap<u32, u32> = (self.index.backfilled().saturating_add(1)..=header.max_frame)
            .map(|frame| (self.index.page(frame), frame))
            .collect();
        let inside = |page: u32| page > 0 && page <= header.database_pages;
        (newest.into_iter().filter(|(page, _)| inside(*page)).collect(), header.database_pages)
    }

    /// All that the live header shows is in the database file, and stands for `sequence`: the header stays as SQLite left it. (With
    /// `mxFrame` = 0 the next refresh builds the view anew.)
    pub fn adopt(&mut self, sequence: u64) {
        self.numbers.clear();
        self.numbers.resize(self.max_frame() as usize, 0);
        self.own_frames = self.max_frame();
        self.bound_floor = 0;
        self.tail = Tail::default();
        self.renumber = self.live_max_frame_is_zero();
        self.sequence = (!self.renumber).then_some(sequence);
        self.reset_checkpoint_info();
    }

    /// The memory that the lane stages in from now on, for what it had; while nothing is staged, else `memory` comes
    /// back.
    pub fn swap_lane_memory(&mut self, memory: LaneMemory) -> LaneMemory {
        self.lane.swap_memory(memory)
    }

    /// WRITE was granted: remembers both header copies; the lane is empty; images get the CRC of
    /// (`log_id`, page, `sequence`), where `sequence` is the one that the commit will have.
    pub fn begin_write(&mut self, log_id: u64, sequence: u64) {
        self.lane.clear();
        let saved = self.index.copies();
        self.writing = Some(Writing { log_id, sequence, saved, hidden: None, pending: None });
    }

    /// The lane's frames became the log's frames `first_frame_number` and following, in lane order; the view
    /// stands for `sequence`. Header bytes stay as SQLite advanced them; the lane is empty.
    ///
    /// Where other commits lie between the snapshot and this one, the view is *apart*: SQLite reads on what it has written, on its
    /// snapshot, and the next refresh takes these frames away and appends all that was committed.
    pub fn published(&mut self, first_frame_number: u64, sequence: u64) {
        self.restore_advance();
        tail::append_published(self, first_frame_number, sequence);
        self.own_frames = self.own_frames.saturating_add(u32::try_from(self.lane.len()).unwrap_or(u32::MAX));
        self.lane.clear();
        self.writing = None;
        debug_assert_eq!(self.snapshot_frames(), self.max_frame(), "SQLite counts other frames than the lane");
    }

    /// The commit gets this sequence instead of the one that was expected at WRITE: its images get their CRCs anew.
    ///
    /// # Errors
    /// The spill file cannot be read.
    pub fn set_commit_sequence(&mut self, sequence: u64) -> std::io::Result<()> {
        match &mut self.writing {
            Some(writing) if writing.sequence != sequence => {
                writing.sequence = sequence;
                self.lane.stamp(writing.log_id, sequence)
            }
            _ => Ok(()),
        }
    }

    /// The transaction is gone: [`View::reset_header`], and the lane is empty. Returns whether SQLite had advanced the
    /// header. To be called when SQLite has rolled back (its unlock of WRITE), or is done with the frames anyway.
    pub fn rolled_back(&mut self) -> bool {
        let advanced = self.reset_header();
        self.tail.forget_originals();
        self.lane.clear();
        self.writing = None;
        advanced
    }

    /// The prepared commit is rolled back: if SQLite had advanced the live header, both copies go back to what they
    /// were at WRITE, with an `iChange` that neither had. Returns whether it had been advanced (hidden or not).
    ///
    /// The lane stays readable until [`View::rolled_back`], and the index after `mxFrame` stays as it is: before
    /// `sqlite3WalUndo` comes, SQLite may read spilled pages to save its cursors, and `sqlite3WalUndo` reads the page
    /// numbers there to drop those pages from the cache. The next append cleans the index.
    pub fn reset_header(&mut self) -> bool {
        let Some(writing) = &mut self.writing else { return false };
        let live = self.index.copies();
        let advanced = writing.hidden.take().unwrap_or(live);
        if advanced == writing.saved {
            return false;
        }
        let mut header = writing.saved.first();
        let not_these = [header.change, live.first().change, advanced.first().change];
        header.change = advanced.first().change;
        while not_these.contains(&header.change) {
            header.change = header.change.wrapping_add(1);
        }
        self.index.set_header(&header);
        writing.saved = self.index.copies();
        true
    }

    /// Whether SQLite has advanced the header since WRITE (also while the advance is hidden).
    #[must_use]
    pub fn header_advanced(&self) -> bool {
        self.writing.as_ref().is_some_and(|w| w.hidden.is_some() || self.index.copies() != w.saved)
    }

    /// Whether SQLite has taken the staged frames out of the index again: `sqlite3WalUndo` (`walCleanupHash`) does,
    /// where it found the header as it was before them. Only the block in which the snapshot ends shows it: false says
    /// nothing.
    #[must_use]
    pub fn undone(&self) -> bool {
        !self.lane.is_empty() && self.index.page(self.snapshot_frames() + 1) == 0
    }

    /// Puts the copies saved at WRITE back and keeps the advanced ones aside: should SQLite roll this database
    /// back because a sibling failed, `sqlite3WalUndo` must find the old header.
    pub fn hide_advance(&mut self) {
        let Some(writing) = &mut self.writing else { return };
        let live = self.index.copies();
        if writing.hidden.is_none() && live != writing.saved {
            writing.hidden = Some(live);
            self.index.set_copies(&writing.saved);
        }
    }

    /// SQLite has gone back to the header that [`View::hide_advance`] showed it: that one stays, byte for byte.
    pub fn forget_advance(&mut self) {
        if let Some(writing) = &mut self.writing {
            writing.hidden = None;
        }
    }

    /// Puts back, byte for byte, what [`View::hide_advance`] kept aside.
    pub fn restore_advance(&mut self) {
        if let Some(advanced) = self.writing.as_mut().and_then(|w| w.hidden.take()) {
            self.index.set_copies(&advanced);
        }
    }
}
