//! Bringing a view to another snapshot: by appending what lies between, or by building it anew
//! from the newest frame of each page.

use super::View;
use super::tail::{change_header, drop_tail};

/// A place in the order of commits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Commits up to here are seen.
    pub sequence: u64,
    /// The size of the database after them, in pages.
    pub database_pages: u32,
}

/// What the engine knows of the frames of the log. Frame numbers are dense from 1 on, in log order;
/// frames that are not in the table any more are backfilled.
pub trait FrameTable {
    /// Calls `each` with (frame number, page) of every frame of the commits `(from, to]`, in log order, and
    /// answers true; false, without a call, if one of them is no longer in the table.
    fn between(&self, from: u64, to: u64, each: &mut dyn FnMut(u64, u32)) -> bool;

    /// Calls `each` with the newest frame of commits up to `to` of every page that has one in the table, in log
    /// order.
    fn newest(&self, to: u64, each: &mut dyn FnMut(u64, u32));
}

/// After a rebuild that could not meet its bound, the number of frames before the next one.
const REBUILD_EVERY: u32 = 1000;

/// A view that only its own connection's commits let grow is rebuilt after this number of frames: 16 bytes of memory
/// each.
const OWN_FRAMES_MAX: u32 = 1 << 18;

/// Up to this number of frame numbers the memory is kept.
const NUMBERS_KEPT: usize = 65536;

impl View {
    /// Brings the view to `to`; true if the 48 bytes of the header changed, to which SQLite responds with a second
    /// attempt (`WAL_RETRY`).
    ///
    /// A view that [stands for](View::stands_for) `to` is left alone, but for [`View::renumber`] and `OWN_FRAMES_MAX`:
    /// a header that changes without a commit of others drops SQLite's page cache and restarts its running backups.
    /// Otherwise it gets the frames in between, or, if the table no longer has them or `mxFrame` would pass `bound`
    /// (SQLite's autocheckpoint counts by it), only the newest frame of each page. Not while frames are staged: they
    /// are numbered after this snapshot.
    pub fn refresh(&mut self, table: &dyn FrameTable, to: Snapshot, bound: u32) -> bool {
        let hidden = self.writing.as_ref().is_some_and(|writing| writing.hidden.is_some());
        if !self.lane.is_empty() || hidden {
            debug_assert!(false, "refresh of a view with staged frames");
            return false;
        }
        if self.stands_for(to.sequence) {
            return false;
        }
        let goes_on = self.goes_on();
        drop_tail(self);
        let bound_met = bound.max(self.bound_floor);
        let appended = match self.sequence {
            Some(at) if goes_on && at <= to.sequence => self.append_between(table, at, to.sequence, bound_met),
            _ => false,
        };
        if !appended {
            self.rebuild(table, to.sequence, bound);
        }
        self.sequence = Some(to.sequence);
        // 0 would make SQLite take the size of the database file.
        change_header(self, to.database_pages.max(1));
        true
    }

    /// Whether [`View::refresh`] to commit `sequence` would change nothing, and needs no table.
    #[must_use]
    pub fn stands_for(&self, sequence: u64) -> bool {
        self.sequence == Some(sequence) && !self.tail.is_stale() && !self.tail.is_apart(self.sequence) && self.goes_on()
    }

    /// Whether its frames stay as they are numbered.
    fn goes_on(&self) -> bool {
        // Not so after `walRestartHdr` (TRUNCATE), which leaves mxFrame = 0.
        let is_intact = self.snapshot_frames() == self.max_frame();
        is_intact && !self.renumber && self.own_frames <= OWN_FRAMES_MAX
    }

    /// The next [`View::refresh`] builds the view anew, with the newest frame of each page alone: its frames count from 1 again, as
    /// those of a WAL do that was checkpointed to its end.
    pub fn renumber(&mut self) {
        self.renumber = true;
    }

    /// False if the view has to be rebuilt; its index is not to be used then.
    fn append_between(&mut self, table: &dyn FrameTable, from: u64, to: u64, bound: u32) -> bool {
        let mut fits = true;
        let known = table.between(from, to, &mut |number, page| {
            fits = fits && self.snapshot_frames() < bound && self.push(number, page);
        });
        known && fits
    }

    fn rebuild(&mut self, table: &dyn FrameTable, to: u64, bound: u32) {
        self.numbers.clear();
        self.renumber = false;
        self.own_frames = 0;
        table.newest(to, &mut |number, page| {
            let pushed = self.push(number, page);
            debug_assert!(pushed, "a region is emptied before its first frame");
        });
        if self.numbers.is_empty() {
            // Page 1 as it is in the database file.
            self.push(0, 1);
        }
        if self.numbers.capacity() > NUMBERS_KEPT {
            self.numbers.shrink_to(NUMBERS_KEPT);
        }
        let frames = self.snapshot_frames();
        self.bound_floor = if frames > bound { frames.saturating_add(REBUILD_EVERY) } else { 0 };
    }
}
