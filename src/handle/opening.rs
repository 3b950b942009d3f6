//! One attempt to get a database: the value that the claim, the join, a recovery, and the way back from `locking_mode=EXCLUSIVE`
//! pass along.

use super::beside::{give_up_lock, is_beside_stock, is_held_alone};
use super::file::{OpenFile, beside};
use super::init_lock::{cannot_be_shared, file_mode};
use super::refusal::{ALONE_IS_THERE, Refused, STOCK_IS_THERE, lock_failed};
use crate::disk::LogDirectory;
use crate::engine::{ClaimedDatabase, Engine, EngineError, Settings};
use crate::host::{DatabaseHandle, LockLevel};
use crate::interleave::{self, Instant};
use crate::log::stamp::{self, DATABASE_HEADER_BYTES, StampState};
use crate::os::command;
use crate::shared::{CONTROL_NAME, ControlMapping, LOCK_NAME, LockFile, Member};
use crate::sqlite::Code;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// How long to wait for EXCLUSIVE: a process that has just retired the log holds it until its handle is closed.
const EXCLUSIVE_WAIT: Duration = Duration::from_millis(100);
const EXCLUSIVE_PAUSE: Duration = Duration::from_millis(1);
/// The same, where [`OpenFile::comes_again`].
const EXCLUSIVE_WAIT_AGAIN: Duration = Duration::from_millis(5);

/// An open file, its real path, and the directory of its log as of this attempt: the next attempt opens the directory anew, since it
/// may have been removed or moved away.
///
/// Its steps, under INIT ([`super::init_lock`]): [`exclusive_handle`](Opening::exclusive_handle),
/// [`recover_under_exclusive`](super::leftovers), [`start`](Opening::start); or [`join`](super::join::join) where other processes have
/// the database. A step that fails releases INIT and EXCLUSIVE, so that the next process gets the database.
pub(super) struct Opening<'a> {
    pub(super) file: &'a OpenFile,
    /// The real path of the database file.
    pub(super) path: &'a Path,
    pub(super) dir: Arc<dyn LogDirectory>,
}

/// `lock` and EXCLUSIVE are held; once its leftovers are settled, the file is plain.
pub(super) struct ExclusiveDatabase {
    // Dropped in this order: the next holder of INIT must be able to get EXCLUSIVE, too.
    pub(super) database_handle: Box<dyn DatabaseHandle>,
    pub(super) lock: LockFile,
}

impl<'a> Opening<'a> {
    pub(super) fn new(file: &'a OpenFile, path: &'a Path) -> Opening<'a> {
        Opening { file, path, dir: file.context.environment.disk.log_directory(path) }
    }

    /// Under INIT, which `lock` holds.
    pub(super) fn exclusive_handle(&self, lock: &LockFile) -> Result<Box<dyn DatabaseHandle>, Refused> {
        if is_beside_stock(lock).map_err(|error| lock_failed(&beside(self.path, "-pwal"), &error))? {
            let alone = is_held_alone(lock).map_err(|error| lock_failed(&beside(self.path, "-pwal"), &error))?;
            return Err(Refused::new(Code::BUSY, if alone { ALONE_IS_THERE } else { STOCK_IS_THERE }));
        }
        let mut database_handle = self.file.context.environment.host.open_database_handle(self.path)?;
        if database_handle.read_only() {
            // EXCLUSIVE on a read-only descriptor is EBADF.
            database_handle.lock(LockLevel::Shared)?;
            return Ok(database_handle);
        }
        let deadline = Instant::now() + if self.file.comes_again() { EXCLUSIVE_WAIT_AGAIN } else { EXCLUSIVE_WAIT };
        loop {
            match database_handle.lock(LockLevel::Shared).and_then(|()| database_handle.lock(LockLevel::Exclusive)) {
                Ok(()) => return Ok(database_handle),
                Err(code) if code.primary() != Code::BUSY => return Err(code.into()),
                Err(code) if Instant::now() >= deadline => {
                    return Err(Refused::new(code, STOCK_IS_THERE));
                }
                Err(_) => {
                    database_handle.unlock(LockLevel::None)?;
                    interleave::sleep(EXCLUSIVE_PAUSE);
                }
            }
        }
    }

    /// The engine of a recovered database, or `None`: another process switched it to rollback mode before, or this
    /// process may not write to it any more.
    pub(super) fn start(&self, settled: ExclusiveDatabase) -> Result<Option<Arc<Engine>>, Refused> {
        let ExclusiveDatabase { lock, mut database_handle } = settled;
        let mut header = [0; DATABASE_HEADER_BYTES];
        let database_bytes = match database_handle.read_at(&mut header, 0).and_then(|_| database_handle.bytes()) {
            Ok(bytes) => bytes,
            Err(error) => {
                give_up_lock(&lock, &*self.dir);
                return Err(EngineError::database("read", self.path, error).into());
            }
        };
        if database_handle.read_only() {
            // Its SHARED keeps no writer out, and nothing can be written by it: the base's, with its real `-wal` and `-shm`.
            give_up_lock(&lock, &*self.dir);
            return Ok(None);
        }
        let page_bytes = stamp::page_bytes(&header);
        let (StampState::Plain { wal: true }, Some(page_bytes)) = (stamp::read(&header), page_bytes) else {
            give_up_lock(&lock, &*self.dir);
            return Ok(None);
        };
        let settings = Settings::default();
        self.file.options().apply_defaults(&settings);
        let member = self.join_first(lock)?;
        let claimed = ClaimedDatabase {
            path: self.path.to_path_buf(),
            dir: Arc::clone(&self.dir),
            member,
            database_handle,
            header,
            page_bytes,
            database_bytes,
        };
        let engine = Engine::start(&self.file.context.environment, claimed, settings)?;
        engine.membership.end_init()?;
        Ok(Some(engine))
    }

    /// A control block for a database without members, and the first process slot in it.
    fn join_first(&self, lock: LockFile) -> Result<Member, Refused> {
        let lock_path = self.dir.path().join(LOCK_NAME);
        let mapping = self.new_control()?;
        let member = Member::acquire(mapping, lock, &command());
        let member = member.map_err(|error| lock_failed(&lock_path, &error))?;
        member.ok_or_else(|| Refused::new(Code::BUSY, "others hold locks of the log directory without sharing it"))
    }

    /// A control block for a database without members: a file that others can map, or memory of this process alone.
    fn new_control(&self) -> Result<ControlMapping, Refused> {
        let Opening { file, path, dir } = self;
        let control = dir.path().join(CONTROL_NAME);
        let shared = match cannot_be_shared(path) {
            Some(why) => Err(why),
            None => dir
                .directory()
                .and_then(|directory| ControlMapping::create(&directory, file_mode(path)))
                .map_err(|error| format!("{} cannot be made ({error})", control.display())),
        };
        match shared {
            Ok(mapping) => Ok(mapping),
            Err(why) => {
                file.log_message(Code::NOTICE, &format!("open for this process alone, others are refused: {why}"));
                ControlMapping::anonymous().map_err(|error: io::Error| EngineError::memory(&error).into())
            }
        }
    }
}
