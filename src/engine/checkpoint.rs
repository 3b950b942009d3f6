//! The checkpoint: pages of the log go to the database file, and segments come free.
//!
//! R4: a page goes there only from a commit at or below T, where a durable certificate says D >= T. Two
//! checkpoints never overlap (CKPT).

use super::append::Append;
use super::context::LogContext;
use super::durability::Durability;
use super::error::EngineError;
use super::exclusive::ExclusiveLock;
use super::follow::Follower;
use super::frames::Frame;
use super::images::Images;
use super::lease::Lease;
use super::owner_lock::OwnerGuard;
use super::owner_lock::OwnerLocks;
use super::page_one::PageOneCopy;
use super::segment_files::SegmentFiles;
use super::space::Keep;
use super::space::Space;
use super::spills::Spills;
use crate::log::backfill::Backfill;
use crate::log::stamp::{self, DATABASE_HEADER_BYTES, Stamp, StampState};
use crate::shared::ControlBlock;
use crate::sqlite::Code;
use crate::sync::{Mutex, MutexGuard};
use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

/// How long a requested checkpoint waits for one of another process.
const OTHER_PROCESS: Duration = Duration::from_secs(5);

/// Frames that are taken from the table at once: 8 KiB.
const FRAMES_AT_ONCE: usize = 256;

/// CKPT.
pub(super) struct Checkpointing<'a> {
    failures: MutexGuard<'a, Failures>,
    _held: OwnerGuard,
}

/// What CKPT remembers of this process's earlier passes.
#[derive(Debug, Default)]
pub(super) struct Failures {
    /// Passes that failed one after the other; the next pass writes all their pages again.
    in_a_row: u32,
    /// The warning that the database file has lost its name was given.
    warned_moved: bool,
}

/// Failed passes in a row that end the engine (R5).
const FAILURES_MAX: u32 = 2;

/// Runs checkpoints.
pub(crate) struct Checkpointer {
    log: Arc<LogContext>,
    locks: Arc<OwnerLocks>,
    files: Arc<SegmentFiles>,
    append: Arc<Append>,
    lease: Arc<Lease>,
    durability: Arc<Durability>,
    follower: Arc<Follower>,
    pub(super) page_one: Arc<PageOneCopy>,
    exclusive: Arc<ExclusiveLock>,
    space: Space,
    spills: Arc<Spills>,
    /// CKPT within the process: held during a checkpoint.
    failures: Mutex<Failures>,
}

/// What [`Checkpointer`] works with.
pub(super) struct CheckpointerParts<'a> {
    pub(super) log: &'a Arc<LogContext>,
    pub(super) locks: &'a Arc<OwnerLocks>,
    pub(super) files: &'a Arc<SegmentFiles>,
    pub(super) append: &'a Arc<Append>,
    pub(super) lease: &'a Arc<Lease>,
    pub(super) durability: &'a Arc<Durability>,
    pub(super) follower: &'a Arc<Follower>,
    pub(super) page_one: &'a Arc<PageOneCopy>,
    pub(super) exclusive: &'a Arc<ExclusiveLock>,
    pub(super) spills: &'a Arc<Spills>,
}

impl Checkpointer {
    pub(super) fn new(parts: &CheckpointerParts<'_>, space: Space) -> Checkpointer {
        Checkpointer {
            log: Arc::clone(parts.log),
            locks: Arc::clone(parts.locks),
            files: Arc::clone(parts.files),
            append: Arc::clone(parts.append),
            lease: Arc::clone(parts.lease),
            durability: Arc::clone(parts.durability),
            follower: Arc::clone(parts.follower),
            page_one: Arc::clone(parts.page_one),
            exclusive: Arc::clone(parts.exclusive),
            space,
            spills: Arc::clone(parts.spills),
            failures: Mutex::default(),
        }
    }

    /// For the background thread: so much is published and not durable that the next flush would take long, or the log could
    /// not be used again for long.
    pub(super) fn flush_ahead(&self) -> Result<(), EngineError> {
        self.lease.flush_unless(|| false, false)
    }

    /// The bytes of the log that a reader of the state of commit `snapshot` keeps.
    ///
    /// # Errors
    /// The log cannot be read.
    pub(super) fn kept_by(&self, snapshot: u64) -> Result<u64, EngineError> {
        self.space.kept_by(snapshot)
    }

    /// Everything that is published becomes visible.
    ///
    /// # Errors
    /// A flush failed.
    pub(crate) fn make_visible(&self) -> Result<(), EngineError> {
        self.durability.wait_visible(self.log.marks.published())
    }

    /// The background thread's pass: as far as the last durable certificate allows, which is free; with a flush and
    /// a mark if that is not past what is backfilled.
    pub(crate) fn checkpoint_in_background(&self) -> Result<(), EngineError> {
        // The holder of CKPT does what is requested here.
        let Ok(ckpt) = self.checkpoint_lock(Duration::ZERO) else { return Ok(()) };
        self.log.check_poison()?;
        let target = self.log.marks.certified().durable.min(self.log.marks.visible());
        if target <= self.log.marks.backfilled() {
            self.certify()?;
        }
        self.pass(ckpt, &|| self.log.stopping.gives_up_checkpoint())?;
        self.certify_backfilled()?;
        self.space.warn_kept_space(self.space.give_back(Keep::ForLoad));
        Ok(())
    }

    /// The database is idle: everything goes to the database file. True: another call may shrink the log further,
    /// though nothing is committed.
    pub(crate) fn checkpoint_when_idle(&self) -> Result<bool, EngineError> {
        self.checkpoint_visible(&|| self.log.stopping.gives_up_checkpoint())?;
        self.certify_backfilled()?;
        Ok(self.space.warn_kept_space(self.space.give_back(Keep::Idle)))
    }

    /// Segments become free when a durable certificate carries B. The next epoch that this process seals does; where no
    /// commit wants durability, or other processes lead, there may be none for long, and the log would grow: so this
    /// writes a mark.
    pub(super) fn certify_backfilled(&self) -> Result<(), EngineError> {
        if self.page_one.to_carry().is_some() {
            self.lease.flush_unless(|| self.page_one.to_carry().is_none(), true)?;
            // The holder of CKPT deletes them.
            if let Ok(_ckpt) = self.checkpoint_lock(Duration::ZERO) {
                self.spills.delete_unneeded();
            }
        }
        Ok(())
    }

    /// The log shall have no more than it needs, as after `wal_checkpoint(TRUNCATE)`: writes a certificate for what the
    /// durable ones do not allow yet.
    pub(crate) fn shrink(&self) {
        let shrunk = self.certify_backfilled().and_then(|()| self.space.give_back(Keep::Nothing));
        self.space.warn_kept_space(shrunk);
    }

    /// The pass that SQLite asked for: to everything that is visible, as far as readers allow.
    ///
    /// # Errors
    /// The log or the database file failed; B did not move.
    pub(crate) fn checkpoint_on_request(&self) -> Result<(), EngineError> {
        self.durability.with_descriptors(|| self.checkpoint_visible(&|| false))
    }

    fn checkpoint_visible(&self, gives_up: &dyn Fn() -> bool) -> Result<(), EngineError> {
        let (goal, before) = (self.log.marks.visible(), self.log.marks.backfilled());
        let ckpt = self.checkpoint_lock(OTHER_PROCESS)?;
        self.log.check_poison()?;
        // Of many connections that ask at once, the pass of one does it for those that waited meanwhile.
        if before < goal && self.log.marks.backfilled() >= goal && self.carries_backfilled() {
            return Ok(());
        }
        self.certify()?;
        self.pass(ckpt, gives_up)
    }

    /// Whether the log says what is backfilled, or this process's next certificate will.
    fn carries_backfilled(&self) -> bool {
        self.log.marks.certified().backfilled >= self.log.marks.backfilled() || self.page_one.to_carry().is_some()
    }

    /// Before a clean close: to the last commit. No connection reads or writes.
    pub(super) fn checkpoint_all(&self) -> Result<(), EngineError> {
        let published = self.log.marks.published();
        self.make_visible()?;
        self.checkpoint_on_request()?;
        if self.log.marks.backfilled() < published {
            return Err(EngineError::NotBackfilled { file: self.log.path.clone() });
        }
        Ok(())
    }

    /// A durable certificate says D >= everything that is visible now.
    fn certify(&self) -> Result<(), EngineError> {
        if !self.log.is_active() {
            return Ok(());
        }
        let goal = self.log.marks.visible();
        self.durability.wait_durable(goal)?;
        if self.log.marks.certified().durable < goal {
            self.lease.flush_unless(|| self.log.marks.certified().durable >= goal, true)?;
        }
        Ok(())
    }

    /// CKPT; waits at most this time for another process's.
    pub(super) fn checkpoint_lock(&self, at_most: Duration) -> Result<Checkpointing<'_>, EngineError> {
        let failures = self.failures.lock();
        let held =
            self.locks.hold_within(ControlBlock::checkpoint, at_most).map_err(|owner| EngineError::LockHeld {
                what: "the checkpoint",
                file: self.log.path.clone(),
                holder: owner.map_or_else(|| "another process".to_owned(), |owner| self.log.describe(owner)),
            })?;
        Ok(Checkpointing { failures, _held: held })
    }

    /// One pass, under CKPT, unless it `gives_up` on the way: a pass that did not end is made again by the next.
    fn pass(&self, mut ckpt: Checkpointing<'_>, gives_up: &dyn Fn() -> bool) -> Result<(), EngineError> {
        if !self.log.is_active() {
            return Ok(());
        }
        let backfilled = self.log.marks.backfilled();
        match self.check_database(backfilled) {
            Err(_) if crate::drops("r8-database-checked") => {}
            Err(error @ EngineError::Replaced { .. }) => return Err(self.end_for(error)),
            checked => checked?,
        }
        self.look_at_name(&mut ckpt.failures);
        let target = self.log.marks.choose_target();
        if target > backfilled {
            self.follower.follow(target)?;
            // What another process brought there: its segments may be written over by now.
            self.follower.frames.write().drop_to(backfilled);
            let database_pages = match self.backfill(target, gives_up) {
                Ok(database_pages) => database_pages,
                Err(error) => {
                    // A full disk is no failure of the medium: B stays, and the next pass may find room. Nor is it one that
                    // a file cannot be opened here, or not be made so long by this process, or that the database handle has gone, with the exit of this process.
                    let is_of_medium = !matches!(error, EngineError::NoLog | EngineError::GivenUp);
                    if is_of_medium && error.code() != Code::FULL && !error.is_too_large() && !error.is_open_failure() {
                        ckpt.failures.in_a_row += 1;
                        if ckpt.failures.in_a_row >= FAILURES_MAX {
                            return Err(self.end_for(error));
                        }
                    }
                    return Err(error);
                }
            };
            ckpt.failures.in_a_row = 0;
            self.log.marks.set_backfilled(target, database_pages);
            self.follower.frames.write().drop_to(target);
            self.log.counters.checkpoints.fetch_add(1, SeqCst);
        } else if !self.carries_backfilled() {
            // Another process ran the pass, and has not carried B since.
            let mut database_handle = self.exclusive.database_handle.lock();
            self.page_one.take(database_handle.as_mut().ok_or(EngineError::NoLog)?.as_mut(), backfilled)?;
        }
        self.spills.delete_unneeded();
        Ok(())
    }

    /// The engine ends for a checkpoint's failure. The log is whole: what is published is made durable first, if that can be
    /// done.
    fn end_for(&self, error: EngineError) -> EngineError {
        if self.log.is_poisoned() {
            return error;
        }
        // Ignore the error: a failed flush has poisoned the engine.
        let _flushed = self.lease.flush_unless(|| false, false);
        if matches!(error, EngineError::Replaced { .. }) {
            self.log.marks.control().set_replaced();
        }
        self.append.poison_log(&error.to_string());
        error
    }

    /// Whether the file is still the one that this log belongs to. A user may have copied another file over it, or
    /// restored an older state: pages of this log in it would make a mixture of both. EXCLUSIVE keeps SQLite from
    /// writing, but not `cp`.
    fn check_database(&self, backfilled: u64) -> Result<(), EngineError> {
        let mut database_handle = self.exclusive.database_handle.lock();
        let database_handle = database_handle.as_mut().ok_or(EngineError::NoLog)?;
        let mut header = [0; DATABASE_HEADER_BYTES];
        let read =
            database_handle.read_at(&mut header, 0).map_err(|e| EngineError::database("read", &self.log.path, e))?;
        let log_id = self.log.log_id;
        let found = match stamp::read(&header[..read]) {
            // T of a pass that did not come to its end may be beyond B.
            StampState::Stamped(found) if found.log_id == log_id => match found.backfill_target {
                target if (backfilled..=self.log.marks.published()).contains(&target) => return Ok(()),
                target => format!("it has the state of commit {target}, not {backfilled}"),
            },
            // A write of page 1 that failed on its way.
            StampState::BadStamp { log_id: found } if found == log_id => return Ok(()),
            StampState::Stamped(found) => format!("it belongs to the log {:016x}, not {log_id:016x}", found.log_id),
            StampState::BadStamp { .. } | StampState::Older { .. } => "its header is damaged".to_owned(),
            StampState::Plain { .. } | StampState::Leftover | StampState::NoHeader => {
                format!("its header does not name the log {log_id:016x}")
            }
        };
        Err(EngineError::Replaced { file: self.log.path.clone(), found })
    }

    /// A file that was renamed or removed, or over which another one was renamed, is still this log's: the processes
    /// that have it open continue, as with stock SQLite (`verifyDbFile`), and no other process finds it. So this is
    /// logged, once.
    fn look_at_name(&self, seen: &mut Failures) {
        let identity = self.log.marks.control().identity();
        let named = std::fs::metadata(&self.log.path).map(|file| (file.dev(), file.ino()));
        if seen.warned_moved || named.is_ok_and(|named| named == (identity.device, identity.inode)) {
            return;
        }
        seen.warned_moved = true;
        self.log.report(
            Code::WARNING,
            "the database file was renamed, removed or replaced while it was open; what is committed goes to the old file. Close \
             all connections and open the database again",
        );
    }

    /// The newest frame of each page of the commits up to `target`. Under CKPT, so that none of them is dropped meanwhile.
    fn newest_by_page(&self, target: u64) -> BTreeMap<u32, Frame> {
        let (mut newest, mut piece, mut next) = (BTreeMap::new(), Vec::with_capacity(FRAMES_AT_ONCE), Some(0));
        while let Some(number) = next {
            // Commits wait for the table with APPEND in their hands.
            next = self.follower.frames.read().copy(number, target, FRAMES_AT_ONCE, &mut piece);
            newest.extend(piece.drain(..).map(|frame| (frame.page, frame)));
        }
        newest
    }

    /// The newest image of each page up to `target` goes to the database file, which gets the size that it has then, in
    /// pages, and is synced.
    fn backfill(&self, target: u64, gives_up: &dyn Fn() -> bool) -> Result<u32, EngineError> {
        let newest = self.newest_by_page(target);
        let (newest, unread, database_pages) = {
            let frames = self.follower.frames.read();
            let newest = frames.with_files(newest).ok_or_else(|| self.log.no_commit(target))?;
            (newest, frames.unread_batches(target), frames.database_pages(target))
        };
        let mut images = Images::prove(&self.log, &self.files, newest, &unread, database_pages)?;
        let mut database_handle = self.exclusive.database_handle.lock();
        let database_handle = database_handle.as_mut().ok_or(EngineError::NoLog)?;
        let stated = if crate::drops("t-of-pass") { 0 } else { target };
        let stamp = Stamp { log_id: self.log.log_id, backfill_target: stated };
        let passed = Backfill::new(database_handle.as_mut(), self.log.page_bytes, stamp).run(
            images.pages(),
            database_pages,
            |page, buffer| {
                crate::fault_point("checkpointing");
                if gives_up() {
                    return Err(EngineError::GivenUp);
                }
                images.read(page, buffer)
            },
        );
        if !crate::drops("b-after-failed-pass") {
            passed?;
        }
        self.page_one.take(database_handle.as_mut(), target)?;
        Ok(database_pages)
    }
}
