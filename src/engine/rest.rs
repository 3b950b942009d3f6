//! Rest: the log is retired while its connections stay, and the next commit makes it anew (`Activation::activate`).
//!
//! While it rests the database file is plain and complete, as before the first commit: a kill leaves one that stock
//! SQLite opens, and the database handle's EXCLUSIVE keeps stock SQLite out until then. Only a process that is the only
//! member does it: two members have the stamp between them and stock SQLite, whichever of them leaves.
//!
//! INIT excludes joining, CKPT writes to the database file, WRITE the begin of a commit, CREATE the making of a
//! segment, and LEADER and APPEND writes to the log. All that is published is in the database file, so that snapshots
//! and page caches stay as they are. Log id, commit sequences, ordinals, epochs and chain continue in the next log. The
//! marker of the retirement stays until that log is stamped: beside the marker a plain file with segments is a finished
//! log (`docs/format.md`).

use super::background::Work;
use super::error::EngineError;
use super::parts::Engine;
use crate::log::retire;
use std::sync::Arc;
use std::time::Duration;

/// In the numbering of connections: those begin with 1.
const NOBODY: u64 = 0;

/// There is no other member: at most a dead process has it.
const CKPT_WAIT: Duration = Duration::from_secs(1);

/// What a rest came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rest {
    /// The log is retired.
    Retired,
    /// There was none.
    NoLog,
}

impl Engine {
    /// Retires the log now, with connections open.
    ///
    /// # Errors
    /// `BUSY`: there are other members, or a transaction writes, or reads an older snapshot. What the retirement met:
    /// then the engine is poisoned, as after a retirement that failed.
    pub(crate) fn rest(self: &Arc<Engine>) -> Result<Rest, EngineError> {
        let _resting = self.membership.one_thread.lock();
        self.try_rest()
    }

    /// For the background thread, when the database is idle for long. False: try again later. Not beside other
    /// processes: each would keep a thread for that.
    pub(super) fn rest_when_idle(self: &Arc<Engine>) -> Result<bool, EngineError> {
        let Some(_one_thread) = self.membership.one_thread.try_lock() else { return Ok(false) };
        let mut told = self.rest_refused.lock();
        match self.try_rest() {
            Ok(_) | Err(EngineError::OtherMembers { .. }) => {
                *told = None;
                Ok(true)
            }
            Err(error) if error.code().primary() == crate::sqlite::Code::BUSY => Ok(false),
            // A full disk, no descriptor: the log stays, which is logged once.
            Err(error) if told.replace(error.to_string()) == Some(error.to_string()) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// WRITE, for a connection that was refused it: not for the engine itself, which has it for some syncs while the log is
    /// retired. Stock SQLite has no such writer, and a connection without a busy handler would meet one that it cannot know of.
    pub(crate) fn acquire_write_after_rest(&self, connection: u64) -> bool {
        if !self.queue.is_held_by(NOBODY) {
            return false;
        }
        drop(self.membership.one_thread.lock());
        self.queue.try_acquire(connection)
    }

    fn try_rest(self: &Arc<Engine>) -> Result<Rest, EngineError> {
        self.log.check_poison()?;
        if !self.log.is_active() {
            return Ok(Rest::NoLog);
        }
        self.membership.check_alone()?;
        self.checkpointer.checkpoint_all()?;
        let busy = || EngineError::InUse { file: self.log.path.clone() };
        self.membership.wait_init()?;
        let rested = self.membership.check_alone().and_then(|()| {
            let _checkpointing = self.checkpointer.checkpoint_lock(CKPT_WAIT)?;
            if !self.queue.try_acquire(NOBODY) {
                self.queue.forget(NOBODY);
                return Err(busy());
            }
            let rested = if self.exclusive.acquire() {
                self.retire_in_place()
            } else {
                Err(EngineError::NotOnPwal { file: self.log.path.clone() })
            };
            self.queue.release(NOBODY, false);
            self.queue.forget(NOBODY);
            rested
        });
        self.membership.end_init()?;
        rested
    }

    /// Under INIT, CKPT and WRITE, with EXCLUSIVE.
    fn retire_in_place(self: &Arc<Engine>) -> Result<Rest, EngineError> {
        let leader = self.lease.lead_waiting()?;
        // A segment that is being made would come after the others have gone, and the log that comes next would go on in it.
        let _create = if crate::drops("rest-create") { None } else { Some(self.segments.create.reserve_all()?) };
        self.append.end_log()?;
        let append = self.append.lock()?;
        self.log.check_poison()?;
        let last = self.log.marks.published();
        if self.log.marks.backfilled() < last {
            // A commit has come since the checkpoint.
            return Err(EngineError::InUse { file: self.log.path.clone() });
        }
        if !self.membership.has_directory()? {
            return Err(EngineError::Moved { file: self.log.path.clone() });
        }
        let mut database_handle = self.exclusive.database_handle.lock();
        let database_handle = database_handle.as_mut().ok_or(EngineError::NoLog)?;
        if let Err(error) = retire::mark(&*self.log.dir, self.log.log_id, last) {
            // A full disk, for example: the log continues, without the commit.
            if let Err(gone) = retire::unmark(&*self.log.dir, self.log.log_id, last) {
                self.poison.poison(
                    &append,
                    &format!("the log could not be retired: {gone}"),
                    super::poison::Failed::Flush,
                );
            }
            return Err(error.into());
        }
        let retired = retire::retire_in_place(
            &*self.log.dir,
            database_handle.as_mut(),
            self.log.log_id,
            last,
            self.log.page_bytes,
        );
        let noted = retired.map_err(EngineError::from).and_then(|()| {
            crate::fault_point("resting");
            self.activation.note_claim(database_handle.as_mut())
        });
        if let Err(error) = noted {
            // As a retirement: the stamp may be gone, segments may be deleted.
            self.poison.poison(
                &append,
                &format!("the log could not be retired: {error}"),
                super::poison::Failed::Flush,
            );
            return Err(error);
        }
        let control = self.log.marks.control();
        control.set_may_be_stamped(false);
        control.set_next_segment(None);
        control.set_inactive();
        self.files.forget();
        self.tail.forget();
        self.segments.forget();
        self.frames.write().close_files(self.log.marks.backfilled());
        drop((append, leader));
        Ok(Rest::Retired)
    }
}

impl Work for Engine {
    fn prepare_segment(&self) {
        self.segments.prepare_next_segment();
    }

    fn flush(&self) -> Result<bool, EngineError> {
        self.checkpointer.flush_ahead()?;
        let published = self.log.marks.published();
        // Where all is durable a flush does nothing, and the worker would not end.
        Ok(published > self.log.marks.durable() && self.committer.is_flush_due(self.log.tail().ordinal, published))
    }

    fn checkpoint(&self) -> Result<(), EngineError> {
        self.checkpointer.checkpoint_in_background()
    }

    fn checkpoint_when_idle(&self) -> Result<bool, EngineError> {
        self.checkpointer.checkpoint_when_idle()
    }

    fn rest(self: &Arc<Engine>) -> Result<bool, EngineError> {
        self.rest_when_idle()
    }
}
