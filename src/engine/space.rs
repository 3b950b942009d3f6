//! The space of the log: segments that are no longer needed are deleted while there are members.
//!
//! A segment is deleted where it could be reused (`Segments::free_segments`), by a process that has reserved it
//! (`reservation.rs`), so that no other process chooses it; never the next segment itself. In this order: what was in it is read from the database file from now
//! on (`recycled_below`); its file is truncated, so that the space is free though other processes have the file open;
//! its name is removed; a counter is incremented, by which the others close it. A segment id is never reused, so an
//! open file of a deleted segment never becomes another segment. A process that opens the file in between finds no
//! header in it, and one that finds no file searches again: all that was in it is backfilled. After a kill or a power
//! cut on the way the file is there, whole or not, and free.

use super::context::LogContext;
use super::error::EngineError;
use super::follow::Follower;
use super::reservation::Free;
use super::segment_files::SegmentFiles;
use super::segments::Segments;
use crate::log::format::FileName;
use crate::log::kept::bytes_kept;
use crate::os::now_us;
use crate::sqlite::Code;
use std::sync::Arc;

/// A steady load cycles through this many segments: one is written, one is next, one waits for a certificate.
const SEGMENTS_KEPT: u64 = 3;
/// What was in use at once fades by this share with a checkpoint, but once a second at most, whichever process runs it (a fast load
/// has a hundred checkpoints a second), and with each look at an idle log: a log that is as large again and again is not made anew each time.
/// The quarter that is kept above it lasts for three fades: a load that needs as much again within three seconds keeps it all.
const FADES: u64 = 16;
const FADES_IDLE: u64 = 8;
const FADE_EVERY_US: u64 = 1_000_000;

/// What is not needed and stays nevertheless.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keep {
    /// What the load of late needs, to be used again; `journal_size_limit` counts above what any load needs.
    ForLoad,
    /// The same for an idle log, with `journal_size_limit` in full.
    Idle,
    /// The next segment only.
    Nothing,
}

/// Gives space back.
pub(super) struct Space {
    log: Arc<LogContext>,
    files: Arc<SegmentFiles>,
    segments: Arc<Segments>,
    follower: Arc<Follower>,
}

impl Space {
    pub(super) fn new(
        log: &Arc<LogContext>,
        files: &Arc<SegmentFiles>,
        segments: &Arc<Segments>,
        follower: &Arc<Follower>,
    ) -> Space {
        let (log, files) = (Arc::clone(log), Arc::clone(files));
        Space { log, files, segments: Arc::clone(segments), follower: Arc::clone(follower) }
    }

    /// Deletes segments that are not needed. True: of what is kept for the load some may go later, without another commit.
    ///
    /// # Errors
    /// The log directory failed. Nothing but space is lost by it.
    pub(super) fn give_back(&self, keep: Keep) -> Result<bool, EngineError> {
        if !self.log.is_active() || self.count_slots()? <= 2 {
            return Ok(false);
        }
        let create = &self.segments.create;
        match keep {
            // Most likely that is the segment for which the load waits; the next checkpoint comes here again.
            Keep::ForLoad if create.maker_of_next().is_some() => return Ok(false),
            Keep::ForLoad => {}
            Keep::Idle | Keep::Nothing => create.wait_for_maker()?,
        }
        let Some(reservation) = create.reserve_deletion()? else { return Ok(true) };
        let mut kept_bytes = None;
        'survey: loop {
            let (all, tail) = self.segments.survey()?;
            let next = self.log.marks.control().next_segment();
            let mut free = self.segments.free_segments(&all, tail);
            free.retain(|free| Some(free.segment.id) != next);
            let mut bytes: u64 = all.iter().map(|found| found.segment.bytes).sum();
            let in_use = bytes - free.iter().map(|free| free.segment.bytes).sum::<u64>();
            let kept = *kept_bytes.get_or_insert_with(|| self.kept_bytes(keep, in_use));
            // Those of unusual size first, which were made for one batch; then the smallest.
            let usual = self.log.settings.segment_bytes();
            free.sort_by_key(|free| (free.segment.bytes <= usual, free.segment.bytes));
            let mut given = 0;
            for free in &free {
                if bytes <= kept {
                    break;
                }
                if !create.reserve_free(&reservation, free)? {
                    continue 'survey;
                }
                self.delete_segment(free)?;
                bytes -= free.segment.bytes;
                given += 1;
            }
            self.follower.close_deleted();
            let is_more = bytes > (SEGMENTS_KEPT * usual).min(self.log.settings.journal_size_limit());
            return Ok(given < free.len() && is_more);
        }
    }

    /// The bytes that the log may have though some of it is not needed.
    fn kept_bytes(&self, keep: Keep, in_use: u64) -> u64 {
        let control = self.log.marks.control();
        let share = match keep {
            Keep::Idle => Some(FADES_IDLE),
            Keep::ForLoad | Keep::Nothing => control.fades_again(now_us(), FADE_EVERY_US).then_some(FADES),
        };
        let faded = |before: u64| share.map_or(0, |share| before.div_ceil(share));
        let high = control.update_in_use_bytes(|before| in_use.max(before - faded(before)));
        let (limit, least) =
            (self.log.settings.journal_size_limit(), SEGMENTS_KEPT * self.log.settings.segment_bytes());
        match keep {
            Keep::Nothing => 0,
            Keep::Idle => (high + high / 4).max(least).min(limit),
            Keep::ForLoad => (high + high / 4).min(limit).max(least),
        }
    }

    /// Of a segment that is reserved.
    fn delete_segment(&self, free: &Free) -> Result<(), EngineError> {
        let Free { segment, last_sequence, is_used, .. } = free;
        if !crate::drops("deleted-below") {
            self.log.marks.recycle_to(*last_sequence);
        }
        if !is_used && !crate::drops("deleted-begun-header") {
            // A header that a dead writer began may be on the disk: the segment of that ordinal may have begun elsewhere since.
            segment.write(&self.log.zero_block(), 0)?;
            segment.sync()?;
        }
        crate::fault_point("deleting");
        segment.file.truncate().map_err(|e| EngineError::write(&segment.name, e))?;
        crate::fault_point("truncated");
        self.log.dir.remove(&segment.name).map_err(|e| EngineError::write(&segment.name, e))?;
        self.log.marks.control().add_segment_deleted();
        Ok(())
    }

    fn count_slots(&self) -> Result<usize, EngineError> {
        let names = self.log.dir.list().map_err(|e| EngineError::open("the log directory", e))?;
        let is_segment = |name: &&String| matches!(FileName::parse(name), Some(FileName::Segment { log_id, .. }) if log_id == self.log.log_id);
        Ok(names.iter().filter(is_segment).count())
    }

    /// The bytes of the log that a reader of the state of commit `snapshot` keeps, or 0 while it keeps no segment but
    /// the one that is written.
    pub(super) fn kept_by(&self, snapshot: u64) -> Result<u64, EngineError> {
        let last = self.log.tail().ordinal;
        let begins_in = self.log.marks.control().commit(snapshot.saturating_add(1)).map(|entry| entry.ordinal);
        if !self.log.is_active() || snapshot >= self.log.marks.published() || begins_in == Some(last) {
            return Ok(0);
        }
        Ok(bytes_kept(&self.files.segment_headers()?, snapshot, last))
    }

    /// A failure to give space back harms nothing else: it is only logged. True: there may be more to give back later.
    pub(super) fn warn_kept_space(&self, given: Result<bool, EngineError>) -> bool {
        let error = match given {
            Ok(more) => return more,
            Err(error) => error,
        };
        self.log.report(Code::NOTICE, &format!("the log keeps space that it does not need: {error}"));
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The control block remembers it, for all processes: a load of many would forget what it needs as much faster.
    #[test]
    fn what_was_in_use_fades_once_a_second() {
        let mapping = crate::shared::ControlMapping::anonymous().unwrap();
        let second = FADE_EVERY_US;
        let looks = [2 * second, 2 * second + 1, 3 * second - 1, 3 * second, 9 * second, 9 * second, 8 * second];
        let fades = looks.map(|now| mapping.control().fades_again(now, FADE_EVERY_US));
        assert_eq!(fades, [true, false, false, true, true, false, false]);
    }
}
