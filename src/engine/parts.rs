//! The engine of one open database: its parts, put together, each with those below it.
//!
//! A part owns its state and knows the parts below; the order in which they are made here is the order of the stack. What
//! needs most of them stands above: the life of the engine, the rest of the log, the status.

use super::activate::Activation;
use super::append::Append;
use super::background::Background;
use super::checkpoint::{Checkpointer, CheckpointerParts};
use super::commit::{CommitFacts, Due, PreparedBatch, Published};
use super::commit::{Committer, CommitterParts};
use super::connections::Connections;
use super::context::LogContext;
use super::durability::{Durability, DurabilityParts};
use super::error::EngineError;
use super::exclusive::ExclusiveLock;
use super::flush::{Flusher, FlusherParts};
use super::follow::Follower;
use super::lanes::Lanes;
use super::leader::Leading;
use super::lease::Lease;
use super::log_frames::LogFrames;
use super::membership::Membership;
use super::on_demand::OnDemand;
use super::owner_lock::OwnerLocks;
use super::page_one::PageOneCopy;
use super::poison::Poison;
use super::queue::WriteQueue;
use super::reader::FrameReader;
use super::segment_files::SegmentFiles;
use super::segments::Segments;
use super::shortage::Shortage;
use super::space::Space;
use super::spills::Spills;
use super::tail::LogTail;
use super::undurable::Undurable;
use crate::disk::LogDirectory;
use crate::host::{DatabaseHandle, Environment};
use crate::shared::Member;
use crate::sync::Mutex;
use crate::view::Lane;
use std::path::PathBuf;
use std::sync::Arc;

/// What an engine is built from.
pub(super) struct Opened {
    pub(super) path: PathBuf,
    pub(super) dir: Arc<dyn LogDirectory>,
    pub(super) member: Arc<Member>,
    pub(super) database_handle: Box<dyn DatabaseHandle>,
    pub(super) is_exclusive: bool,
    pub(super) page_bytes: u32,
    pub(super) block_bytes: u32,
}

/// One open database.
pub(crate) struct Engine {
    pub(crate) log: Arc<LogContext>,
    pub(crate) queue: Arc<WriteQueue>,
    pub(crate) lanes: Lanes,
    pub(crate) connections: Connections,
    pub(crate) reader: FrameReader,
    pub(crate) files: Arc<SegmentFiles>,
    pub(super) tail: Arc<LogTail>,
    pub(super) poison: Arc<Poison>,
    pub(crate) append: Arc<Append>,
    pub(crate) segments: Arc<Segments>,
    pub(crate) frames: Arc<LogFrames>,
    pub(crate) checkpointer: Checkpointer,
    pub(crate) spills: Arc<Spills>,
    pub(crate) committer: Committer,
    pub(super) activation: Arc<Activation>,
    pub(crate) exclusive: Arc<ExclusiveLock>,
    pub(crate) membership: Arc<Membership>,
    pub(crate) flusher: Arc<Flusher>,
    pub(crate) lease: Arc<Lease>,
    pub(crate) durability: Arc<Durability>,
    pub(crate) on_demand: OnDemand,
    pub(crate) background: Background,
    /// The last reported reason why the log of an idle database stays.
    pub(super) rest_refused: Mutex<Option<String>>,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("path", &self.log.path).finish_non_exhaustive()
    }
}

/// The parts below LEADER, from the lowest on.
struct Lower {
    log: Arc<LogContext>,
    locks: Arc<OwnerLocks>,
    files: Arc<SegmentFiles>,
    tail: Arc<LogTail>,
    shortage: Arc<Shortage>,
    queue: Arc<WriteQueue>,
    poison: Arc<Poison>,
    append: Arc<Append>,
    segments: Arc<Segments>,
    follower: Arc<Follower>,
    undurable: Arc<Undurable>,
    page_one: Arc<PageOneCopy>,
}

impl Lower {
    fn new(log: LogContext, member: &Arc<Member>) -> Lower {
        let pages = member.control().backfilled_pages().map_or(0, |(_, pages)| pages);
        let log = Arc::new(log);
        let locks = Arc::new(OwnerLocks::new(&log));
        let files = Arc::new(SegmentFiles::new(&log, &locks));
        let tail = Arc::new(LogTail::new(&log, &files));
        let shortage = Arc::new(Shortage::new(&log));
        let queue = Arc::new(WriteQueue::new(Arc::clone(member)));
        let poison = Arc::new(Poison::new(&log, &files, &shortage, &queue));
        let append = Arc::new(Append::new(&log, &locks, &files, &tail, &poison));
        let segments = Arc::new(Segments::new(&log, &locks, &files, &tail, &append));
        let frames = Arc::new(LogFrames::new(pages, log.page_bytes));
        let follower = Arc::new(Follower::new(&log, &files, &frames));
        let undurable = Arc::new(Undurable::new(&log, &files, &poison));
        let page_one = Arc::new(PageOneCopy::new(&log));
        Lower { log, locks, files, tail, shortage, queue, poison, append, segments, follower, undurable, page_one }
    }

    fn flusher(&self, leading: &Arc<Leading>) -> Arc<Flusher> {
        Arc::new(Flusher::new(&FlusherParts {
            log: &self.log,
            files: &self.files,
            tail: &self.tail,
            append: &self.append,
            poison: &self.poison,
            undurable: &self.undurable,
            segments: &self.segments,
            frames: &self.follower.frames,
            follower: &self.follower,
            page_one: &self.page_one,
            leading,
        }))
    }

    fn durability(&self, flusher: &Arc<Flusher>, lease: &Arc<Lease>) -> Arc<Durability> {
        Arc::new(Durability::new(&DurabilityParts {
            log: &self.log,
            locks: &self.locks,
            shortage: &self.shortage,
            files: &self.files,
            append: &self.append,
            poison: &self.poison,
            flusher,
            lease,
        }))
    }

    fn checkpointer(
        &self,
        lease: &Arc<Lease>,
        durability: &Arc<Durability>,
        exclusive: &Arc<ExclusiveLock>,
        spills: &Arc<Spills>,
    ) -> Checkpointer {
        let parts = CheckpointerParts {
            log: &self.log,
            locks: &self.locks,
            files: &self.files,
            append: &self.append,
            lease,
            durability,
            follower: &self.follower,
            page_one: &self.page_one,
            exclusive,
            spills,
        };
        Checkpointer::new(&parts, Space::new(&self.log, &self.files, &self.segments, &self.follower))
    }

    fn committer(
        &self,
        flusher: &Arc<Flusher>,
        lease: &Arc<Lease>,
        durability: &Arc<Durability>,
        activation: &Arc<Activation>,
    ) -> Committer {
        Committer::new(&CommitterParts {
            log: &self.log,
            queue: &self.queue,
            files: &self.files,
            tail: &self.tail,
            append: &self.append,
            segments: &self.segments,
            follower: &self.follower,
            flusher,
            lease,
            durability,
            activation,
        })
    }
}

impl Engine {
    pub(super) fn build(environment: &Arc<Environment>, opened: Opened) -> Arc<Engine> {
        let Opened { path, dir, member, database_handle, is_exclusive, page_bytes, block_bytes } = opened;
        let lower = Lower::new(LogContext::new(environment, path, dir, (page_bytes, block_bytes), &member), &member);
        let Lower { log, locks, files, append, follower, page_one, .. } = &lower;
        let leading = Arc::new(Leading::new(log, append));
        let flusher = lower.flusher(&leading);
        let lease = Arc::new(Lease::new(log, locks, append, &lower.undurable, &leading, &flusher));
        let durability = lower.durability(&flusher, &lease);
        let spills = Arc::new(Spills::new(log, &durability, follower));
        let exclusive = Arc::new(ExclusiveLock::new(log, database_handle, is_exclusive));
        let activation = Arc::new(Activation::new(log, files, append, page_one, &exclusive));
        let membership = Arc::new(Membership::new(log));
        Arc::new(Engine {
            checkpointer: lower.checkpointer(&lease, &durability, &exclusive, &spills),
            committer: lower.committer(&flusher, &lease, &durability, &activation),
            connections: Connections::new(log, locks, &lower.queue, &membership, &follower.frames),
            reader: FrameReader::new(log, &durability, follower),
            on_demand: OnDemand::new(log, locks, &durability),
            background: Background::new(log),
            lanes: Lanes::default(),
            rest_refused: Mutex::default(),
            exclusive,
            spills,
            activation,
            membership,
            flusher,
            lease,
            durability,
            frames: Arc::clone(&follower.frames),
            log: lower.log,
            files: lower.files,
            tail: lower.tail,
            queue: lower.queue,
            poison: lower.poison,
            append: lower.append,
            segments: lower.segments,
        })
    }

    /// An autocheckpoint inside COMMIT: a pass shall run, not here.
    pub(crate) fn wake_checkpoint(self: &Arc<Engine>) {
        self.background.request_checkpoint(self);
    }

    /// Writes the batch of the lane and publishes it, as [`Committer::publish`].
    ///
    /// # Errors
    /// Nothing is published then.
    pub(crate) fn publish(
        self: &Arc<Engine>,
        lane: &Lane,
        facts: CommitFacts,
        may_lead: bool,
    ) -> Result<Published, EngineError> {
        self.committer.publish(lane, facts, may_lead).inspect(|published| self.request(published.due))
    }

    /// Publishes a batch that was written before.
    ///
    /// # Errors
    /// The engine is poisoned.
    pub(crate) fn commit_prepared(self: &Arc<Engine>, prepared: PreparedBatch) -> Result<Published, EngineError> {
        self.committer.commit_prepared(prepared).inspect(|published| self.request(published.due))
    }

    fn request(self: &Arc<Engine>, due: Due) {
        if due.segment {
            self.background.request_segment(self);
        }
        if due.watch {
            self.background.watch(self);
        }
        if due.flush {
            self.background.request_flush(self);
        }
    }
}
