//! The engine: what one process holds for one open database. Commits, epochs, snapshots, the
//! write queue, checkpoints.
//!
//! It promises the rules R1 to R9 of `docs/architecture.md`; it knows no SQLite but its result codes.
//! Order of its locks: CKPT > WRITE > LEADER > CREATE (of this process) > APPEND.

mod append;
mod background;
#[cfg(test)]
mod by_hand;
mod checkpoint;
mod commit;
mod connections;
mod context;
mod durability;
mod epoch_counts;
mod error;
mod exclusive;
mod flush;
mod follow;
mod frames;
mod images;
mod lanes;
mod leader;
mod lease;
mod lifecycle;
mod limits;
mod log_frames;
mod marks;
mod membership;
mod on_demand;
mod owner_lock;
mod page_one;
#[cfg(test)]
mod pair_tests;
mod poison;
mod queue;
mod recent;
mod reservation;
mod rest;
mod segment_file;
mod segment_files;
mod segments;
mod settings;
mod shortage;
#[cfg(test)]
mod sim_tests;
mod space;
mod spills;
mod status;
mod stopping;
mod tail;
mod turn;
mod undurable;

#[cfg(all(test, feature = "linked"))]
pub(crate) use by_hand::Work;
pub(crate) use commit::{CommitFacts, PreparedBatch};
pub(crate) use connections::Connection;
pub(crate) use error::EngineError;
pub(crate) use flush::SelfSealed;
pub(crate) use lifecycle::{ClaimedDatabase, SharedDatabase, has_stock_wal};
pub(crate) use membership::INIT_WAIT;
pub(crate) use rest::Rest;
pub(crate) use settings::{JOURNAL_SIZE_LIMIT, Mode, Settings, UNLIMITED};

use crate::disk::{LogFile, is_out_of_descriptors};
use crate::sync::Mutex;
use append::Append;
use background::Background;
use connections::Connections;
use context::LogContext;
use durability::Durability;
use exclusive::ExclusiveLock;
use flush::Flusher;
use follow::Follower;
use frames::Frame;
use lease::Lease;
use log_frames::LogFrames;
use membership::Membership;
use on_demand::OnDemand;
use owner_lock::OwnerLocks;
use page_one::PageOneCopy;
use poison::Poison;
use queue::WriteQueue;
use segment_files::SegmentFiles;
use segments::Segments;
use space::Space;
use std::sync::Arc;
use tail::LogTail;

/// One open database.
pub(crate) struct Engine {
    pub(crate) log: Arc<LogContext>,
    locks: Arc<OwnerLocks>,
    pub(crate) queue: Arc<WriteQueue>,
    pub(crate) lanes: lanes::Lanes,
    connections: Mutex<Connections>,
    files: Arc<SegmentFiles>,
    tail: Arc<LogTail>,
    poison: Arc<Poison>,
    pub(crate) append: Arc<Append>,
    segments: Arc<Segments>,
    space: Space,
    frames: Arc<LogFrames>,
    follower: Arc<Follower>,
    /// CKPT: held during a checkpoint; counts the failed syncs of the database file.
    checkpointing: Mutex<checkpoint::Failures>,
    page_one: Arc<PageOneCopy>,
    pub(crate) exclusive: ExclusiveLock,
    pub(crate) membership: Membership,
    pub(crate) flusher: Arc<Flusher>,
    lease: Arc<Lease>,
    pub(crate) durability: Arc<Durability>,
    pub(crate) on_demand: OnDemand,
    background: Background,
    /// The last reported reason why the log of an idle database stays.
    rest_refused: Mutex<Option<String>>,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("path", &self.log.path).finish_non_exhaustive()
    }
}

impl Engine {
    /// Reads `buffer.len()` bytes at `offset` of the image of frame `number`. False: it is in the
    /// database file, read it there.
    ///
    /// # Errors
    /// The medium failed.
    pub(crate) fn read_frame(
        self: &Arc<Engine>,
        number: u64,
        offset: u64,
        buffer: &mut [u8],
    ) -> Result<bool, EngineError> {
        if let Some(sequence) = self.frames.recent.read(number, offset, buffer) {
            self.check_kept(sequence)?;
            return Ok(true);
        }
        let Some((frame, file)) = self.frames.read().locate(number) else { return Ok(false) };
        self.read_located(&frame, file.as_deref(), offset, buffer)
    }

    /// As [`Engine::read_frame`], of a frame that the table had a moment ago.
    fn read_located(
        self: &Arc<Engine>,
        frame: &Frame,
        file: Option<&dyn LogFile>,
        offset: u64,
        buffer: &mut [u8],
    ) -> Result<bool, EngineError> {
        crate::interleave::step("frame located");
        let Some(file) = file else {
            // Its segment or its spill file is deleted: the database file has what was in it.
            let is_there = frame.sequence <= self.log.marks.backfilled();
            return if is_there { Ok(false) } else { Err(self.log.no_commit(frame.sequence)) };
        };
        let read = self.durability.with_descriptors(|| {
            Ok(match file.read_at(buffer, frame.offset + offset) {
                Err(error) if is_out_of_descriptors(&error) => return Err(EngineError::read(&self.log.path, error)),
                read => read,
            })
        })?;
        // The segment may have been used again meanwhile, or the file deleted, which is empty then: the database file has the image.
        let is_cut = read.as_ref().is_ok_and(|read| *read < buffer.len());
        if self.log.marks.recycled(frame.sequence) || (is_cut && frame.sequence <= self.log.marks.backfilled()) {
            crate::interleave::step("frame gone");
            return Ok(false);
        }
        let read = read.map_err(|e| EngineError::read(&self.log.path, e))?;
        self.check_kept(frame.sequence)?;
        if read < buffer.len() {
            return Err(EngineError::ShortLog { file: self.log.dir.path().to_path_buf(), page: frame.page });
        }
        frame.unmask(buffer, offset);
        Ok(true)
    }

    /// # Errors
    /// A failed flush took commit `sequence`, or may have: the reader has seen more than what is durable now.
    fn check_kept(&self, sequence: u64) -> Result<(), EngineError> {
        if self.log.marks.is_poisoned() && sequence > self.log.marks.durable() {
            let reason = "a flush failed".to_owned();
            return Err(self.log.poisoned_as(EngineError::Poisoned { reason, unknown: true }));
        }
        Ok(())
    }

    /// The number of the last frame of the commits up to `sequence`; at least that, where it has been dropped from the table.
    pub(crate) fn last_number(&self, sequence: u64) -> u64 {
        self.frames.read().last_number(sequence)
    }

    /// The frame table, which knows the commits up to `sequence`, for a view.
    ///
    /// # Errors
    /// What other processes wrote cannot be read.
    pub(crate) fn with_frames<T>(
        self: &Arc<Engine>,
        use_it: impl FnOnce(&dyn crate::view::FrameTable, &SnapshotFacts) -> T,
        sequence: u64,
    ) -> Result<T, EngineError> {
        self.durability.with_descriptors(|| self.follower.follow(sequence))?;
        let frames = self.frames.read();
        let facts = SnapshotFacts { database_pages: frames.database_pages(sequence), frames: frames.len() };
        Ok(use_it(&*frames, &facts))
    }
}

/// What a view needs to know of its snapshot beside the frames.
pub(crate) struct SnapshotFacts {
    pub(crate) database_pages: u32,
    /// Frames that are not backfilled.
    pub(crate) frames: usize,
}
