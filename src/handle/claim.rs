//! The first `xLock(SHARED)`: join the engine that lives, leave a plain rollback-mode file to the base, or claim a
//! WAL database: take `lock`, then EXCLUSIVE through the broker, settle what stock SQLite or a crash left, start the engine.
//! [`super::settle`] goes the same way, up to the engine.

use super::joined::Joined;
use super::registry::{Entry, FileIdentity};
use super::{BaseFile, Broker, Context, Inner, LockLevel, control};
use crate::disk::{LogDirectory, not_local};
use crate::engine::{Claimed, Engine, EngineError, Settings};
use crate::log::LogError;
use crate::log::recovery::{Done, Next, OpenFacts, Opened, open_database};
use crate::log::stamp::{self, DATABASE_HEADER_BYTES, StampState};
use crate::shared::{Attachment, CONTROL_NAME, Control, LOCK_NAME, LockFile, WHOLE_LOCK, command, watch};
use crate::sqlite::Code;
use parking_lot::Mutex;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

/// Attempts to claim while stock's leftovers are settled or directories go away under us.
const ATTEMPTS: usize = 5;

type Header = [u8; DATABASE_HEADER_BYTES];

/// Why a database cannot be had, and what the user can do about it.
pub(super) struct Refused {
    pub(super) code: Code,
    /// `None`: the code says all.
    pub(super) text: Option<String>,
}

impl Refused {
    pub(super) fn new(code: Code, text: impl Into<String>) -> Refused {
        Refused { code, text: Some(text.into()) }
    }
}

impl From<Code> for Refused {
    fn from(code: Code) -> Refused {
        Refused { code, text: None }
    }
}

impl From<EngineError> for Refused {
    fn from(error: EngineError) -> Refused {
        Refused::new(error.code(), error.to_string())
    }
}

/// Joined, or `None`: the file is the base's, whose SHARED is held.
///
/// # Errors
/// `BUSY`, for the busy handler: somebody else has the database. What the claim met.
pub(super) fn lock_shared(inner: &Arc<Inner>, base: &mut dyn BaseFile) -> Result<Option<Joined>, Code> {
    let Some(identity) = inner.identity else {
        base.lock(LockLevel::Shared)?;
        return Ok(None);
    };
    let entry = inner.context.registry.entry(identity);
    let mut engine = entry.engine.lock();
    if let Some(engine) = engine.as_ref() {
        return join(inner, engine, &entry).map(Some);
    }
    if let Err(code) = base.lock(LockLevel::Shared) {
        if code.primary() == Code::BUSY && beside(&real_path(inner), "-pwal").exists() {
            say(inner, code, "another process has the database open through pwal: one process at a time");
        }
        return Err(code);
    }
    let header = match read_header(base) {
        Ok(header) => header,
        Err(code) => {
            base.unlock(LockLevel::None)?;
            return Err(code);
        }
    };
    let wal = match stamp::read(&header) {
        StampState::Plain { wal } => wal,
        StampState::Stamped(_) | StampState::BadStamp { .. } | StampState::Leftover => true,
    };
    if !wal || read_only_and_plain(inner, &header) {
        return Ok(None);
    }
    // Another handle's SHARED, this one's too, makes the broker's EXCLUSIVE fail.
    base.unlock(LockLevel::None)?;
    let claimed = claim(inner, identity).map_err(|refused| {
        if let Some(text) = &refused.text {
            say(inner, refused.code, text);
        }
        refused.code
    })?;
    let Some(started) = claimed else {
        base.lock(LockLevel::Shared)?;
        return Ok(None);
    };
    watch_exit(&inner.context);
    let joined = join(inner, &started, &entry)?;
    *engine = Some(started);
    Ok(Some(joined))
}

/// The contexts whose engines the exit of the process closes.
static CONTEXTS: Mutex<Vec<Weak<Context>>> = Mutex::new(Vec::new());

fn close_at_exit() {
    let Some(contexts) = CONTEXTS.try_lock() else { return };
    for context in contexts.iter().filter_map(Weak::upgrade) {
        context.registry.close_all();
    }
}

fn watch_exit(context: &Arc<Context>) {
    watch(close_at_exit);
    let mut contexts = CONTEXTS.lock();
    if !contexts.iter().any(|known| std::ptr::eq(known.as_ptr(), Arc::as_ptr(context))) {
        contexts.push(Arc::downgrade(context));
    }
}

fn join(inner: &Arc<Inner>, engine: &Arc<Engine>, entry: &Arc<Entry>) -> Result<Joined, Code> {
    control::apply_parameters(inner, engine);
    *inner.refused.lock() = None;
    Joined::new(engine, entry).map_err(|error| tell(inner, &error))
}

/// A database that can only be read, and no log: the base's, with its real `-wal` and `-shm`.
fn read_only_and_plain(inner: &Inner, header: &Header) -> bool {
    inner.facts.read_only && stamp::read(header) == StampState::Plain { wal: true }
}

fn read_header(base: &mut dyn BaseFile) -> Result<Header, Code> {
    let mut header = [0; DATABASE_HEADER_BYTES];
    match base.read(&mut header, 0) {
        Ok(()) | Err(Code::IOERR_SHORT_READ) => Ok(header),
        Err(code) => Err(code),
    }
}

fn tell(inner: &Inner, error: &EngineError) -> Code {
    let code = error.code();
    say(inner, code, &error.to_string());
    code
}

fn say(inner: &Inner, code: Code, text: &str) {
    if code != Code::NOTICE {
        *inner.refused.lock() = Some(text.to_owned());
    }
    inner.context.host.log(code.number(), &format!("pwal: {}: {text}", inner.facts.path.display()));
}

/// What is true of the real path: the directory of the log lies beside the file, not beside a symlink to it.
fn real_path(inner: &Inner) -> PathBuf {
    std::fs::canonicalize(&inner.facts.path).unwrap_or_else(|_| inner.facts.path.clone())
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// An engine, or `None`: the file is in rollback mode by now.
fn claim(inner: &Arc<Inner>, identity: FileIdentity) -> Result<Option<Arc<Engine>>, Refused> {
    let path = path_of(inner, identity)?;
    let dir = inner.context.disk.log_directory(&path);
    for _ in 0..ATTEMPTS {
        let Some(lock) = take_lock(&path, &*dir)? else { continue };
        let settled = settle_locked(inner, &path, &dir, lock, &mut |dir, database, facts| {
            let opened = open_database(dir, database, facts)?;
            for done in &opened.done {
                say(inner, Code::NOTICE, &describe(done));
            }
            Ok(opened)
        })?;
        let Some(settled) = settled else { continue };
        return start(inner, &path, &dir, settled);
    }
    Err(Refused::new(Code::BUSY, "others keep opening and closing this database"))
}

/// The real path of the file that was opened, on a file system where a log may lie.
pub(super) fn path_of(inner: &Inner, identity: FileIdentity) -> Result<PathBuf, Refused> {
    let path = real_path(inner);
    if FileIdentity::of(&path).ok() != Some(identity) {
        let text = "another file has this name by now; close the connection and open it again";
        return Err(Refused::new(Code::READONLY_DBMOVED, text));
    }
    if let Some(name) = not_local(&path)
        && !control::any_file_system(inner)
    {
        let text = format!(
            "is on {name}, whose locks or syncs do not keep what a log relies on; move it to a local file system, open it \
             with parallel_wal_mode=off, or take the risk with parallel_wal_file_system=any (PWAL_FILE_SYSTEM=any)"
        );
        return Err(Refused::new(Code::CANTOPEN, text));
    }
    Ok(path)
}

/// `<database>-pwal/lock`, before any lock on the database file; `None`: the directory went meanwhile.
pub(super) fn take_lock(path: &Path, dir: &dyn LogDirectory) -> Result<Option<LockFile>, Refused> {
    let lock_path = dir.path().join(LOCK_NAME);
    let mode = std::fs::metadata(path).map_or(0o644, |file| file.mode() & 0o777);
    let failed = |error: io::Error| {
        let code = if error.kind() == io::ErrorKind::StorageFull { Code::FULL } else { Code::CANTOPEN };
        Refused::new(code, format!("cannot take {}: {error}", lock_path.display()))
    };
    dir.create().map_err(failed)?;
    let lock = match LockFile::open(&lock_path, mode) {
        Ok(lock) => lock,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    if !lock.try_lock(WHOLE_LOCK).map_err(failed)? {
        let text = "another process (or another copy of pwal in this one) has the database open";
        return Err(Refused::new(Code::BUSY, text));
    }
    Ok(lock.is_same_as_path(&lock_path).map_err(failed)?.then_some(lock))
}

/// A database whose leftovers are settled: `lock` and EXCLUSIVE are held, the file is plain.
pub(super) struct Settled {
    // Dropped in this order: whoever gets `lock` next shall get EXCLUSIVE, too.
    pub(super) broker: Box<dyn Broker>,
    pub(super) lock: LockFile,
}

/// How what lies beside the database file is settled.
type SettleBy<'a> = dyn FnMut(&dyn LogDirectory, &mut dyn Broker, OpenFacts) -> Result<Opened, LogError> + 'a;

/// Holding `lock`: EXCLUSIVE, then `settle`. Whatever fails lets go of everything. `None`: claim again.
pub(super) fn settle_locked(
    inner: &Inner,
    path: &Path,
    dir: &Arc<dyn LogDirectory>,
    lock: LockFile,
    settle: &mut SettleBy<'_>,
) -> Result<Option<Settled>, Refused> {
    let give_up = |refused: Refused| {
        give_up_lock(&**dir);
        Err(refused)
    };
    let mut broker = match exclusive_broker(inner, path) {
        Ok(broker) => broker,
        Err(refused) => return give_up(refused),
    };
    let facts = OpenFacts {
        read_only: broker.read_only(),
        hot_journal: has_hot_journal(path),
        real_wal_not_empty: bytes_at(&beside(path, "-wal")) > 0,
    };
    match settle(&**dir, broker.as_mut(), facts) {
        Ok(opened) => match opened.next {
            Next::Ready => Ok(Some(Settled { broker, lock })),
            Next::ClaimAgain => Ok(None),
            Next::SettleStock => {
                drop(broker);
                let settled = inner.context.host.settle_leftovers(path);
                if settled.is_err() {
                    give_up_lock(&**dir);
                }
                drop(lock);
                settled?;
                Ok(None)
            }
        },
        Err(error) => give_up(EngineError::Log(error).into()),
    }
}

/// The engine of a settled database, or `None`: another process switched it to rollback mode before we had it, or we may
/// not write to it any more.
fn start(
    inner: &Arc<Inner>,
    path: &Path,
    dir: &Arc<dyn LogDirectory>,
    settled: Settled,
) -> Result<Option<Arc<Engine>>, Refused> {
    let Settled { lock, mut broker } = settled;
    let mut header = [0; DATABASE_HEADER_BYTES];
    let database_bytes = match broker.read_at(&mut header, 0).and_then(|_| broker.bytes()) {
        Ok(bytes) => bytes,
        Err(error) => {
            give_up_lock(&**dir);
            return Err(EngineError::database("read", path, error).into());
        }
    };
    if broker.read_only() {
        // Its SHARED keeps no writer out, and nothing can be written by it: the base's, with its real `-wal` and `-shm`.
        give_up_lock(&**dir);
        return Ok(None);
    }
    let page_bytes = stamp::page_bytes(&header);
    let (StampState::Plain { wal: true }, Some(page_bytes)) = (stamp::read(&header), page_bytes) else {
        give_up_lock(&**dir);
        return Ok(None);
    };
    let settings = Settings::default();
    control::apply_defaults(inner, &settings);
    let attachment = attach_first(path, &**dir, lock)?;
    let claimed = Claimed {
        path: path.to_path_buf(),
        dir: Arc::clone(dir),
        attachment,
        broker,
        header,
        page_bytes,
        database_bytes,
    };
    Ok(Some(Engine::start(&inner.context, claimed, settings)?))
}

/// The words of a database that nobody has, and the first place in them.
fn attach_first(path: &Path, dir: &dyn LogDirectory, lock: LockFile) -> Result<Attachment, Refused> {
    let mode = std::fs::metadata(path).map_or(0o644, |file| file.mode() & 0o777);
    let control = Control::create(&dir.path().join(CONTROL_NAME), mode).or_else(|_| Control::anonymous());
    let control = control.map_err(|error| Refused::from(EngineError::memory(&error)))?;
    let me = control.words().attach(0, std::process::id(), &command());
    let me = me.ok_or(Refused::from(Code::INTERNAL))?;
    Ok(Attachment::new(control, lock, me))
}

fn exclusive_broker(inner: &Inner, path: &Path) -> Result<Box<dyn Broker>, Refused> {
    let mut broker = inner.context.host.open_broker(path)?;
    if broker.read_only() {
        // EXCLUSIVE on a read-only descriptor is EBADF.
        broker.lock(LockLevel::Shared)?;
        return Ok(broker);
    }
    for level in [LockLevel::Shared, LockLevel::Exclusive] {
        if let Err(code) = broker.lock(level) {
            if code.primary() == Code::BUSY {
                let text = "a connection that is not on pwal, of this or another process, has the database open: \
                            close it, or open it with vfs=pwal (load pwal before the first connection)";
                return Err(Refused::new(code, text));
            }
            return Err(code.into());
        }
    }
    Ok(broker)
}

/// Under `lock`: the directory goes if nothing but `lock` was in it. A failure leaves a harmless empty directory.
pub(super) fn give_up_lock(dir: &dyn LogDirectory) {
    let is_ours = |name: &String| name == LOCK_NAME || name == CONTROL_NAME;
    if dir.list().is_ok_and(|names| names.iter().all(is_ours)) {
        let _ = crate::log::retire::remove_directory(dir);
    }
}

fn bytes_at(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |file| file.len())
}

/// As `hasHotJournal`: it is there and begins with a byte that is not zero (PERSIST leaves zeros).
fn has_hot_journal(path: &Path) -> bool {
    let journal = beside(path, "-journal");
    let mut first = [0];
    std::fs::File::open(journal).is_ok_and(|mut file| io::Read::read(&mut file, &mut first).is_ok_and(|n| n == 1))
        && first != [0]
}

pub(super) fn describe(done: &Done) -> String {
    match done {
        Done::DeletedLeftovers { log_ids } => {
            format!("leftovers of a log that nothing needed were deleted ({} logs)", log_ids.len())
        }
        Done::Recovered(recovered) => {
            let tail =
                recovered.torn_tail.as_ref().map_or(String::new(), |tail| format!("; a torn tail was cut: {tail:?}"));
            format!(
                "recovered log {:016x}: commits {} to {}, {} pages{tail}",
                recovered.log_id,
                recovered.backfilled + 1,
                recovered.last,
                recovered.pages
            )
        }
        Done::Orphaned { log_id, suffix } => {
            format!("log {log_id:016x} belongs to another database file; its directory was renamed to -pwal.{suffix}")
        }
    }
}
