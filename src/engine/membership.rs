//! This process as a member of the log: INIT, under which processes join and leave one at a time, the other members, and
//! the directory that they share.

use super::context::LogContext;
use super::error::EngineError;
use crate::shared::names;
use crate::sync::Mutex;
use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

/// How long one call waits for INIT: a caller that gets BUSY then has a busy handler.
pub(crate) const INIT_WAIT: Duration = Duration::from_secs(1);

/// The part of the engine that joins and leaves.
pub(crate) struct Membership {
    log: Arc<LogContext>,
    /// One thread of the process at a time waits for INIT: to the kernel they are one holder of it.
    pub(crate) one_thread: Mutex<()>,
}

impl Membership {
    pub(super) fn new(log: &Arc<LogContext>) -> Membership {
        Membership { log: Arc::clone(log), one_thread: Mutex::default() }
    }

    /// Takes INIT.
    ///
    /// # Errors
    /// Another process has it for too long, or `lock` cannot be locked.
    pub(super) fn wait_init(&self) -> Result<(), EngineError> {
        let file = || self.log.path.clone();
        match self.log.marks.member().wait_init(INIT_WAIT) {
            Ok(true) => Ok(()),
            Ok(false) => Err(EngineError::InitHeld { file: file() }),
            Err(source) => Err(EngineError::Lock { file: file(), source }),
        }
    }

    /// There is no other member. A process that exits has left already, though it lives for a while.
    pub(crate) fn check_alone(&self) -> Result<(), EngineError> {
        let others = self.log.marks.member().others();
        if others.is_empty() {
            return Ok(());
        }
        Err(EngineError::OtherMembers { file: self.log.path.clone(), who: names(&others) })
    }

    /// Whether the log directory still is the one that this process is joined in. Where it was removed under it, others may
    /// have made another one since: what has its name is theirs, with their `lock` and `control`.
    pub(super) fn has_directory(&self) -> Result<bool, EngineError> {
        let file = || self.log.path.clone();
        let io = |source| EngineError::Lock { file: file(), source };
        let lock = self.log.marks.member().lock();
        let is_in = match self.log.dir.directory() {
            Ok(directory) => lock.is_in(&directory).map_err(io)?,
            // What has the name by now is none, or not to be used.
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::InvalidInput) => false,
            Err(error) => return Err(io(error)),
        };
        if is_in {
            return Ok(true);
        }
        if lock.is_deleted().map_err(io)? { Ok(false) } else { Err(EngineError::Moved { file: file() }) }
    }

    /// The claim or the membership is through: others may come.
    ///
    /// # Errors
    /// Any error of the file system.
    pub(crate) fn end_init(&self) -> Result<(), EngineError> {
        let failed = |source| EngineError::Lock { file: self.log.path.clone(), source };
        self.log.marks.member().end_init().map_err(failed)
    }
}
