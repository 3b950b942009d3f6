//! The life of an engine: start on a claimed database or beside the processes that have it, activation of the log, the end
//! with or without a clean close.

use super::activate::{HEADER_BYTES, checksums};
use super::error::EngineError;
use super::parts::{Engine, Opened};
use super::poison::Failed;
use super::settings::Settings;
use crate::disk::{LogDirectory, links_of_open_file};
use crate::host::{DatabaseHandle, Environment};
use crate::log::format::{self, LogId};
use crate::log::recovery::{OpenFacts, open_database};
use crate::log::retire;
use crate::os::boot_id;
use crate::shared::{CONTROL_NAME, Identity, LOCK_NAME, Member, State};

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// A database that this process may use alone: `lock` is held, the database handle has EXCLUSIVE, what stock
/// SQLite or a crash left is settled, the file is plain and in WAL mode.
pub(crate) struct ClaimedDatabase {
    pub(crate) path: PathBuf,
    pub(crate) dir: Arc<dyn LogDirectory>,
    /// The control block is all zero but for this process's segment.
    pub(crate) member: Member,
    pub(crate) database_handle: Box<dyn DatabaseHandle>,
    /// The first bytes of the database file.
    pub(crate) header: [u8; HEADER_BYTES],
    pub(crate) page_bytes: u32,
    pub(crate) database_bytes: u64,
}

/// A database that other processes have open, too: its words are complete, and this process has a place in them.
pub(crate) struct SharedDatabase {
    pub(crate) path: PathBuf,
    pub(crate) dir: Arc<dyn LogDirectory>,
    pub(crate) member: Member,
    /// Without a lock.
    pub(crate) database_handle: Box<dyn DatabaseHandle>,
    pub(crate) page_bytes: u32,
}

impl Engine {
    /// An engine on a claimed database. Nothing is written before the first commit.
    ///
    /// # Errors
    /// The system has no random numbers.
    pub(crate) fn start(
        environment: &Arc<Environment>,
        claimed: ClaimedDatabase,
        settings: Settings,
    ) -> Result<Arc<Engine>, EngineError> {
        Engine::start_log(environment, claimed, settings, new_log_id()?)
    }

    /// As [`Engine::start`], with the id that the log gets.
    pub(crate) fn start_log(
        environment: &Arc<Environment>,
        claimed: ClaimedDatabase,
        settings: Settings,
        log_id: LogId,
    ) -> Result<Arc<Engine>, EngineError> {
        let ClaimedDatabase { path, dir, member, database_handle, header, page_bytes, database_bytes } = claimed;
        // Rounded up: the size that SQLite would take from the file.
        let pages = database_bytes.div_ceil(u64::from(page_bytes));
        let block_bytes = environment.disk.sector_bytes(&path).max(format::BLOCK_BYTES_MIN);
        let file = std::fs::metadata(&path).map_err(|e| EngineError::database("look at", &path, e))?;
        let identity = Identity {
            boot_id: boot_id().unwrap_or(0),
            log_id,
            device: file.dev(),
            inode: file.ino(),
            block_bytes: u64::from(block_bytes),
        };
        let member = Arc::new(member);
        let control = member.control();
        control.set_identity(&identity);
        control.set_at_claim(checksums(&header, &file), database_bytes);
        control.set_backfilled_pages(0, u32::try_from(pages).unwrap_or(u32::MAX));
        control.exclusive().try_acquire(member.me(), false);
        settings.copy_to(&Settings::shared(&member));
        let parts = Opened { path, dir, member, database_handle, is_exclusive: true, page_bytes, block_bytes };
        let engine = Engine::build(environment, parts);
        engine.log.marks.control().set_state(State::Ready);
        Ok(engine)
    }

    /// An engine beside those of other processes. Under INIT. The joining process activates the log if no process has,
    /// so that the stamp keeps stock SQLite out when the holder of EXCLUSIVE leaves.
    ///
    /// # Errors
    /// The log could not be activated, or not while stock SQLite was kept out; this process is not on pwal then.
    pub(crate) fn join(environment: &Arc<Environment>, joined: SharedDatabase) -> Result<Arc<Engine>, EngineError> {
        let SharedDatabase { path, dir, member, database_handle, page_bytes } = joined;
        let member = Arc::new(member);
        let block_bytes = u32::try_from(member.control().identity().block_bytes).unwrap_or(0);
        let parts = Opened { path, dir, member, database_handle, is_exclusive: false, page_bytes, block_bytes };
        let engine = Engine::build(environment, parts);
        match engine.activate_under_exclusive() {
            Ok(()) => Ok(engine),
            Err(error) => {
                engine.abandon();
                Err(error)
            }
        }
    }

    /// As [`Activation::activate`](super::activate::Activation::activate), with another process's EXCLUSIVE, which must have been held all the time: without it
    /// stock SQLite may have opened the file before the stamp, and would overwrite it.
    fn activate_under_exclusive(self: &Arc<Engine>) -> Result<(), EngineError> {
        if self.log.marks.control().is_active() {
            self.exclusive.refresh();
            return Ok(());
        }
        self.activation.activate()?;
        if self.exclusive.is_held() || self.exclusive.acquire() {
            return Ok(());
        }
        // The holder of EXCL died meanwhile, and stock SQLite came. Without a commit the log can go again.
        self.retire()?;
        Err(EngineError::NotOnPwal { file: self.log.path.clone() })
    }

    /// The last connection of this process has closed. There are other members: this process leaves. There are none: a
    /// clean close, unless `keep_log`. In any case this engine is over.
    ///
    /// # Errors
    /// Stamp and log stay for the next open.
    pub(crate) fn close(self: &Arc<Engine>, keep_log: bool) -> Result<(), EngineError> {
        // Other members continue with the checkpoint; the last one does it anew if it is abandoned.
        self.background.stop(!self.log.marks.member().others().is_empty());
        let closed = self.close_if_last(keep_log);
        self.abandon();
        closed
    }

    fn close_if_last(self: &Arc<Engine>, keep_log: bool) -> Result<(), EngineError> {
        // Under INIT: of two that leave at once one is the last.
        self.membership.wait_init()?;
        if keep_log && !self.is_deleted() || self.log.is_poisoned() {
            return Ok(());
        }
        match self.membership.check_alone() {
            Ok(()) => self.retire_under_exclusive(),
            Err(_) => Ok(()),
        }
    }

    /// Whether the database file has no name any more: no process can open it again, and its log is of no use. (SQLite
    /// asks for no EXCLUSIVE where its file has another name or none, `databaseIsUnmoved`.)
    fn is_deleted(&self) -> bool {
        let identity = self.log.marks.control().identity();
        let same = |file: std::fs::Metadata| (file.dev(), file.ino()) == (identity.device, identity.inode);
        !std::fs::metadata(&self.log.path).is_ok_and(same)
            && links_of_open_file(identity.device, identity.inode) == Some(0)
    }

    /// Retires the log for a connection that continues with the database file alone, as `journal_mode=DELETE` does:
    /// INIT is held until the log is gone.
    ///
    /// # Errors
    /// `BUSY`: there are other members, or other locks on the file; with `unused` (the connection has not opened the
    /// WAL), there are commits in this log, and the connection has read page 1 past them. What the retirement met:
    /// stamp and log stay.
    pub(crate) fn retire_alone(self: &Arc<Engine>, unused: bool) -> Result<(), EngineError> {
        self.membership.check_alone()?;
        // It may be retiring the log, and to the kernel its INIT is this thread's.
        self.background.stop(true);
        let _resting = self.membership.one_thread.lock();
        if let Err(error) = self.membership.wait_init() {
            self.background.allow();
            return Err(error);
        }
        let check_unused = || match unused && self.log.marks.published() > 0 {
            true => Err(EngineError::Committed { file: self.log.path.clone() }),
            false => Ok(()),
        };
        let retired =
            self.membership.check_alone().and_then(|()| check_unused()).and_then(|()| self.retire_under_exclusive());
        if retired.is_err() {
            self.background.allow();
            self.membership.end_init()?;
        }
        retired
    }

    /// Under INIT, and with no other process joined.
    fn retire_under_exclusive(self: &Arc<Engine>) -> Result<(), EngineError> {
        if !self.exclusive.acquire() {
            return Err(EngineError::NotOnPwal { file: self.log.path.clone() });
        }
        self.retire()
    }

    /// Everything goes to the database file, the log is retired. What is left is one plain SQLite file. Under INIT, and
    /// with EXCLUSIVE, which the database handle keeps.
    ///
    /// # Errors
    /// Stamp and log stay for the next open.
    pub(crate) fn retire(self: &Arc<Engine>) -> Result<(), EngineError> {
        if self.log.is_retired() {
            return Ok(());
        }
        self.background.stop(false);
        let retired = self.try_retire();
        if retired.is_err() {
            // The caller keeps using this engine.
            self.background.allow();
        }
        retired
    }

    fn try_retire(self: &Arc<Engine>) -> Result<(), EngineError> {
        self.log.check_poison()?;
        let has_directory = self.membership.has_directory()?;
        if self.log.is_active() {
            self.checkpointer.checkpoint_all()?;
            if !crate::drops("z2-end-log") {
                self.append.end_log()?;
            }
            let retired = match self.exclusive.database_handle.lock().as_mut() {
                // All is in the database file, and there is no log that could be played back.
                Some(database_handle) if !has_directory => retire::make_plain(database_handle.as_mut())
                    .and_then(|()| retire::remove_placeholder(&*self.log.dir))
                    .map_err(EngineError::from),
                Some(database_handle) => {
                    let last = self.log.marks.published();
                    retire::retire(&*self.log.dir, database_handle.as_mut(), self.log.log_id, last, self.log.page_bytes)
                        .map_err(EngineError::from)
                }
                None => Err(EngineError::NoLog),
            };
            if let Err(error) = retired {
                // The marker may exist, the stamp may be gone, segments may be deleted: a later commit would be lost,
                // or make the next open refuse the log.
                self.poison.poison(
                    &self.append.lock_unrepaired(),
                    &format!("the log could not be retired: {error}"),
                    Failed::Flush,
                );
                return Err(error);
            }
        } else if has_directory {
            let names = self.log.dir.list().map_err(|e| EngineError::write("the log directory", e))?;
            if names.iter().any(|name| name != CONTROL_NAME && name != LOCK_NAME) {
                // An activation that failed on the way: what it left is what a crash there leaves.
                let mut database_handle = self.exclusive.database_handle.lock();
                let database_handle = database_handle.as_mut().ok_or(EngineError::NoLog)?;
                open_database(&*self.log.dir, database_handle.as_mut(), OpenFacts::default())?;
            }
            // Nothing was written: `lock` and the directory go. A newcomer's files keep it.
            retire::remove_directory(&*self.log.dir)?;
        }
        self.log.set_retired();
        self.log.marks.member().leave();
        Ok(())
    }

    /// The process exits with connections open: as a close, if no thread is in the middle of a commit and no reader
    /// holds the checkpoint back; else the log is left to the others, or to recovery. Nothing is committed after this.
    /// A thread in the middle of a commit may still report it as durable, and threads may still read: so ALIVE stays
    /// until the process has ended, and no process takes it for dead before.
    pub(crate) fn close_at_exit(self: &Arc<Engine>, at_most: Duration) {
        let quiet = !self.log.is_poisoned() && self.queue.close_when_free(at_most);
        if quiet && let Err(error) = self.leave_at_exit() {
            self.log.report(error.code(), &format!("not closed at exit: {error}"));
        }
        self.log.set_over();
    }

    fn leave_at_exit(self: &Arc<Engine>) -> Result<(), EngineError> {
        let _resting = self.membership.one_thread.lock();
        self.membership.wait_init()?;
        let left = match self.membership.check_alone() {
            Ok(()) => self.retire_under_exclusive(),
            Err(_) => {
                // From here on another process may retire the log: no thread reads by it. The background thread ends
                // with the process; it may be waiting for others.
                self.log.set_over();
                self.exclusive.release();
                let member = self.log.marks.member();
                member.control().process_slots().release(member.me());
                Ok(())
            }
        };
        if !self.log.is_retired() {
            self.membership.end_init()?;
        }
        left
    }

    /// The end of this process's part: the log stays as it is, for the others or for the next open.
    pub(crate) fn abandon(&self) {
        self.background.stop(true);
        self.exclusive.release();
        self.log.marks.member().leave();
    }
}

fn new_log_id() -> Result<LogId, EngineError> {
    #[cfg(test)]
    if let Some(id) = crate::interleave::log_id() {
        return Ok(id);
    }
    loop {
        let id = getrandom::u64().map_err(|e| EngineError::write("a log id", std::io::Error::other(e.to_string())))?;
        if id != 0 {
            return Ok(if crate::drops("new-log-id") { 1 } else { id });
        }
    }
}
