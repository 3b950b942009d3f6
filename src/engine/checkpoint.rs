//! The checkpoint: pages of the log go to the database file, and slots come free.
//!
//! R4: a page goes there only from a commit at or below T, where a durable certificate says D >= T. Two
//! checkpoints never overlap (CKPT).

use super::{Engine, EngineError};
use crate::log::backfill::Backfill;
use crate::log::format;
use crate::log::stamp::Stamp;
use parking_lot::MutexGuard;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

/// What CKPT remembers of earlier passes.
#[derive(Debug, Default)]
pub(super) struct Failures {
    /// Passes that failed one after the other; the next pass writes all their pages again.
    in_a_row: u32,
}

/// Failed passes in a row that end the engine (R5).
const FAILURES_MAX: u32 = 2;

impl Engine {
    /// An autocheckpoint inside COMMIT: a pass shall run, not here.
    pub(crate) fn wake_checkpoint(self: &Arc<Engine>) {
        self.background.want_checkpoint(self);
    }

    /// Everything that is published becomes visible.
    ///
    /// # Errors
    /// A flush failed.
    pub(crate) fn make_visible(self: &Arc<Engine>) -> Result<(), EngineError> {
        self.wait_visible(self.marks.published())
    }

    /// The background thread's pass: as far as the last durable certificate allows, which is free; with a flush and
    /// a mark if that is not past what is backfilled.
    pub(super) fn checkpoint_in_background(self: &Arc<Engine>) -> Result<(), EngineError> {
        let ckpt = self.checkpointing.lock();
        self.check_poison()?;
        let target = self.marks.certified().0.min(self.marks.visible());
        if target <= self.marks.backfilled() {
            self.certify()?;
        }
        self.pass(ckpt)?;
        self.free_slots()
    }

    /// Nobody has committed for a while: everything goes to the database file.
    pub(super) fn checkpoint_when_idle(self: &Arc<Engine>) -> Result<(), EngineError> {
        self.checkpoint_on_request()?;
        self.free_slots()
    }

    /// Slots come free when a durable certificate carries B. The next epoch's does; where nobody wants durability there
    /// may be none for long, and the log would grow: so a mark, beside the commits.
    fn free_slots(self: &Arc<Engine>) -> Result<(), EngineError> {
        if self.marks.certified().1 < self.marks.backfilled() {
            let leader = self.lead_waiting();
            if self.marks.certified().1 < self.marks.backfilled() {
                self.flush(&leader, true)?;
            }
            drop(leader);
            self.delete_spills();
        }
        Ok(())
    }

    /// The pass that SQLite asked for: to everything that is visible, as far as readers allow.
    ///
    /// # Errors
    /// The log or the database file failed; B did not move.
    pub(crate) fn checkpoint_on_request(self: &Arc<Engine>) -> Result<(), EngineError> {
        let ckpt = self.checkpointing.lock();
        self.check_poison()?;
        self.certify()?;
        self.pass(ckpt)
    }

    /// Before a clean close: to the last commit. Nobody reads or writes.
    pub(super) fn checkpoint_all(self: &Arc<Engine>) -> Result<(), EngineError> {
        let published = self.marks.published();
        self.make_visible()?;
        self.checkpoint_on_request()?;
        if self.marks.backfilled() < published {
            return Err(EngineError::NotBackfilled { file: self.path.clone() });
        }
        Ok(())
    }

    /// A durable certificate says D >= everything that is visible now.
    fn certify(self: &Arc<Engine>) -> Result<(), EngineError> {
        if !self.is_active() {
            return Ok(());
        }
        let goal = self.marks.visible();
        self.wait_durable(goal)?;
        if self.marks.certified().0 < goal {
            let leader = self.lead_waiting();
            if self.marks.certified().0 < goal {
                self.flush(&leader, true)?;
            }
        }
        Ok(())
    }

    /// One pass, under CKPT.
    fn pass(&self, mut ckpt: MutexGuard<'_, Failures>) -> Result<(), EngineError> {
        if !self.is_active() {
            return Ok(());
        }
        let backfilled = self.marks.backfilled();
        let target = self.marks.choose_target();
        if target > backfilled {
            match self.backfill(target) {
                Ok(()) => ckpt.in_a_row = 0,
                Err(error) => {
                    // A full disk is no failure of the medium: B stays, and the next pass may find room.
                    if error.code() != crate::sqlite::Code::FULL {
                        ckpt.in_a_row += 1;
                        if ckpt.in_a_row >= FAILURES_MAX {
                            self.poison(&mut self.append.lock(), &error.to_string());
                        }
                    }
                    return Err(error);
                }
            }
            self.marks.set_backfilled(target);
            self.frames.write().drop_to(target);
            self.counters.checkpoints.fetch_add(1, SeqCst);
        }
        self.delete_spills();
        Ok(())
    }

    /// The newest image of each page up to `target` goes to the database file, and is synced there.
    fn backfill(&self, target: u64) -> Result<(), EngineError> {
        let (newest, database_pages) = {
            let frames = self.frames.read();
            (frames.newest_by_page(target), frames.database_pages(target))
        };
        let mut broker = self.broker.lock();
        let broker = broker.as_mut().ok_or(EngineError::NoLog)?;
        let stamp = Stamp { log_id: self.log_id, backfill_target: target };
        Backfill::new(broker.as_mut(), self.page_bytes, stamp).run(
            newest.keys().copied(),
            database_pages,
            |page, buffer| {
                let (frame, file) = newest.get(&page).ok_or(EngineError::NoLog)?;
                let read = file.read_at(buffer, frame.offset).map_err(|e| EngineError::read(&self.path, e))?;
                if read < buffer.len() {
                    return Err(EngineError::ShortLog { file: self.dir.path().to_path_buf(), page });
                }
                Ok(())
            },
        )
    }

    /// A spill file goes when a durable certificate carries B beyond it. A failure leaves it to the retirement.
    fn delete_spills(&self) {
        let (_, backfilled) = self.marks.certified();
        let mut spills = self.spills.lock();
        spills.retain(|(sequence, number)| {
            if *sequence > backfilled {
                return true;
            }
            self.frames.write().remove_file(super::frames::FileId::Spill(*number));
            self.dir.remove(&format::spill_name(self.log_id, *number)).is_err()
        });
    }
}
