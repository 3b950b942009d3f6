//! Spill files: the frames of transactions that outgrew their lane.
//!
//! One is needed while its transaction holds WRITE, and from its publication until a durable certificate says that the
//! commit is in the database file. A killed process leaves files for which neither holds: so a checkpoint lists the
//! files, and deletes those that are not needed.

use super::context::LogContext;
use super::durability::Durability;
use super::error::EngineError;
use super::follow::Follower;
use super::frames::FileId;
use super::log_frames::LogFrames;
use crate::disk::{LogFile, OpenMode};
use crate::log::format::{self, FileName};
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

/// The spill files of the log.
pub(crate) struct Spills {
    log: Arc<LogContext>,
    durability: Arc<Durability>,
    follower: Arc<Follower>,
    frames: Arc<LogFrames>,
}

impl Spills {
    pub(super) fn new(log: &Arc<LogContext>, durability: &Arc<Durability>, follower: &Arc<Follower>) -> Spills {
        let (log, durability, follower) = (Arc::clone(log), Arc::clone(durability), Arc::clone(follower));
        let frames = Arc::clone(&follower.frames);
        Spills { log, durability, follower, frames }
    }

    /// A new spill file and its number. No batch names it yet. Called by the holder of WRITE.
    ///
    /// # Errors
    /// Any error of the medium.
    pub(crate) fn create(&self) -> io::Result<(u32, Arc<dyn LogFile>)> {
        let control = self.log.marks.control();
        let number = u32::try_from(control.give_spill_number()).map_err(io::Error::other)?;
        self.log.dir.create()?;
        control.set_staged_spill(Some(number));
        let name = format::spill_name(self.log.log_id, number);
        let create = || self.log.dir.open(&name, OpenMode::CreateNew).map_err(|error| EngineError::open(&name, error));
        let file = self.durability.with_descriptors(create).map_err(|error| match error {
            EngineError::Open { source, .. } => source,
            other => io::Error::other(other),
        })?;
        self.frames.write().add_file(FileId::Spill(number), &file);
        self.log.counters.spills.fetch_add(1, SeqCst);
        Ok((number, file))
    }

    /// The transaction rolled back. A file that cannot be deleted now goes with a checkpoint.
    pub(crate) fn remove(&self, number: u32) {
        self.frames.write().remove_file(FileId::Spill(number));
        if let Err(error) = self.log.dir.remove(&format::spill_name(self.log.log_id, number)) {
            self.log.report(crate::sqlite::Code::IOERR_DELETE, &format!("a spill file stays for now: {error}"));
        }
        self.log.marks.forget_staged_spill();
    }

    /// A spill file goes when a durable certificate carries B beyond it. A failure leaves it to the next pass. Under CKPT.
    pub(super) fn delete_unneeded(&self) {
        let carried = if crate::drops("spill-kept") {
            self.log.marks.backfilled()
        } else {
            self.log.marks.certified().backfilled
        };
        let over = self.frames.write().take_spills(carried);
        for (sequence, number) in over {
            if self.log.dir.remove(&format::spill_name(self.log.log_id, number)).is_err() {
                self.frames.write().add_spill(sequence, number);
            }
        }
        for number in self.unneeded_spills().unwrap_or_default() {
            // For the space only.
            let _the_next_pass_tries_again = self.log.dir.remove(&format::spill_name(self.log.log_id, number));
        }
    }

    /// The existing spill files that are not needed. The order of the checks matters: a file that exists and is not
    /// staged any more is published, or needed by no transaction; and what is published by then is in the frame table.
    fn unneeded_spills(&self) -> Option<Vec<u32>> {
        let control = self.log.marks.control();
        if !control.has_spilled() {
            return None;
        }
        let names = self.log.dir.list().ok()?;
        let number_of = |name: &String| match FileName::parse(name) {
            Some(FileName::Spill { log_id, number }) if log_id == self.log.log_id => Some(number),
            _ => None,
        };
        let mut there: Vec<u32> = names.iter().filter_map(number_of).collect();
        let staged = control.staged_spill();
        there.retain(|number| Some(*number) != staged || crate::drops("spill-staged-kept"));
        if there.is_empty() {
            return None;
        }
        self.follower.follow(self.log.marks.published()).ok()?;
        let frames = self.frames.read();
        there.retain(|number| !frames.has_spill(*number));
        frames.knows_spills_behind(self.log.marks.certified().backfilled).then_some(there)
    }
}
