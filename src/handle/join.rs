//! A database that other processes have open: a place in their words.

use super::opening::Opening;
use super::refusal::Refused;
use crate::engine::{Engine, EngineError, SharedDatabase};
use crate::host::DatabaseHandle;
use crate::log::stamp::{self, DATABASE_HEADER_BYTES, StampState};
use crate::os::command;
use crate::shared::{CONTROL_NAME, ControlMapping, LockFile, Member, PROCESS_SLOTS, SharedError, living, names};
use crate::sqlite::Code;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

/// Reads of the header while a checkpoint may be writing it.
const HEADER_READS: usize = 100;

/// Under INIT, which `lock` holds, while there are other members: an engine beside theirs. INIT is released. No lock of
/// SQLite's is taken: another member's EXCLUSIVE keeps stock out, or the stamp does.
pub(super) fn join(opening: &Opening<'_>, lock: LockFile) -> Result<Arc<Engine>, Refused> {
    let Opening { file, path, dir } = opening;
    let opened = std::fs::metadata(path).map_err(|error| EngineError::database("look at", path, error))?;
    let named = |source| SharedError::ControlOpen { file: dir.path().join(CONTROL_NAME), source };
    let directory = dir.directory().map_err(named).map_err(refused)?;
    let mapping = ControlMapping::open(&directory, opened.dev(), opened.ino()).map_err(refused)?;
    let control = mapping.control();
    let others = living(control, &lock);
    if control.poisoned() != 0 {
        let text = format!(
            "a write or a sync of the log has failed: close the database in all processes that have it open ({}), and open \
             it again",
            names(&others)
        );
        return Err(Refused::new(Code::IOERR_FSYNC, text));
    }
    let mut database_handle = file.context.environment.host.open_database_handle(path)?;
    if database_handle.read_only() {
        let text = format!(
            "other processes have the database open through pwal ({}), and a user who may only read it cannot share it: allow this \
             user to write to it and to its log directory, or read a copy",
            names(&others)
        );
        return Err(Refused::new(Code::READONLY_RECOVERY, text));
    }
    let page_bytes =
        page_bytes(path, database_handle.as_mut(), control.is_active().then(|| control.identity().log_id))?;
    let claimed = Member::acquire(mapping, lock, &command());
    let claimed = claimed.map_err(|source| EngineError::Lock { file: path.to_path_buf(), source })?;
    let Some(member) = claimed else {
        let text = format!("{PROCESS_SLOTS} processes have the database open ({}): pwal takes no more", names(&others));
        return Err(Refused::new(Code::BUSY, text));
    };
    let joined = SharedDatabase { path: path.to_path_buf(), dir: Arc::clone(dir), member, database_handle, page_bytes };
    let engine = Engine::join(&file.context.environment, joined)?;
    engine.membership.end_init()?;
    Ok(engine)
}

fn refused(error: SharedError) -> Refused {
    let code = match &error {
        // Until they close it.
        SharedError::OtherVersion { .. } => Code::BUSY,
        _ => Code::CANTOPEN,
    };
    Refused::new(code, error.to_string())
}

/// The page size of a database that carries the stamp of this log, or, before activation, none.
fn page_bytes(path: &Path, database_handle: &mut dyn DatabaseHandle, log_id: Option<u64>) -> Result<u32, Refused> {
    let mut header = [0; DATABASE_HEADER_BYTES];
    for _ in 0..HEADER_READS {
        database_handle.read_at(&mut header, 0).map_err(|error| EngineError::database("read", path, error))?;
        let fits = match (stamp::read(&header), log_id) {
            (StampState::Stamped(stamp), Some(log_id)) => stamp.log_id == log_id,
            // An activation that failed leaves a stamp, and the next one takes it away.
            (StampState::Stamped(_) | StampState::Plain { wal: true }, None) => true,
            _ => false,
        };
        if let (true, Some(bytes)) = (fits, stamp::page_bytes(&header)) {
            return Ok(bytes);
        }
        // A page that is written while it is read may be torn.
        std::thread::yield_now();
    }
    Err(EngineError::Changed { file: path.to_path_buf() }.into())
}
