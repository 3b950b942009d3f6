//! The first `xLock(SHARED)`: join the engine that lives in this process, leave a plain rollback-mode file to the base, or,
//! under INIT, join to the log that other processes have ([`super::join`]) or claim the database: EXCLUSIVE
//! through the database handle, settle what stock SQLite or a crash left, start the engine.
//! [`super::settle`] goes the same way, up to the engine.

use super::beside::{BesideStock, give_up_lock, is_beside_stock, is_held_alone};
use super::registry::{Entry, FileIdentity};
use super::wal_connection::WalConnection;
use super::{Above, BaseFile, Context, DatabaseHandle, Inner, LockLevel, below, join, pragma};
use crate::disk::{LogDirectory, advice, not_local, open_to_read};
pub(super) use crate::engine::INIT_WAIT;
use crate::engine::{ClaimedDatabase, Engine, EngineError, Settings, has_stock_wal};
use crate::interleave::{self, Instant};
use crate::log::LogError;
use crate::log::recovery::{Done, Next, OpenFacts, Opened, open_database};
use crate::log::stamp::{self, DATABASE_HEADER_BYTES, StampState};
use crate::shared::{
    ALIVE_BYTES, ALONE, BYTE_RANGES, ControlMapping, INIT, LOCK_NAME, LockFile, Member, Process, between_forks,
    command, living, lock_is_held, names, watch,
};
use crate::sqlite::Code;
use crate::sync::Mutex;
use crate::view::View;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;

/// How often it is tried to open what another user is just making, and the pause in between.
const GIVING_PAUSES: u32 = 10;
const GIVING_PAUSE: Duration = Duration::from_millis(1);

/// How long EXCLUSIVE is waited for: who has just retired the log holds it until its handle is closed.
const EXCLUSIVE_WAIT: Duration = Duration::from_millis(100);
const EXCLUSIVE_PAUSE: Duration = Duration::from_millis(1);

/// Who comes again so soon after BUSY has a busy handler. SQLite's own counts what it sleeps, not what it waits here: of each
/// further attempt only a small part of its longest sleep (100 ms) may be spent here, or the busy timeout says nothing.
const AGAIN: Duration = Duration::from_millis(500);
const INIT_WAIT_AGAIN: Duration = Duration::from_millis(20);
const EXCLUSIVE_WAIT_AGAIN: Duration = Duration::from_millis(5);

/// Attempts to claim while stock's leftovers are settled or directories go away under us.
const ATTEMPTS: usize = 5;

pub(super) type Header = [u8; DATABASE_HEADER_BYTES];

/// What every database file begins with.
const MAGIC: &[u8] = b"SQLite format 3\0";

/// Why EXCLUSIVE cannot be had.
const STOCK_IS_THERE: &str = "a connection that is not on pwal has the database open, in this or another process: one that was \
                              opened before pwal was loaded, or on another VFS, or with mode=ro while such a one was there or by \
                              a user who may only read it. Close it, and load pwal before the first connection, or open it with \
                              vfs=pwal";

const ALONE_IS_THERE: &str = "a connection with locking_mode=EXCLUSIVE, in this or another process, has the database for itself: close it, or \
                              set locking_mode=NORMAL in it before it reads the database";

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

/// Whose the file is for a handle that has SHARED.
pub(super) enum Locked {
    /// The log's.
    Wal(Box<WalConnection>),
    /// The base's, whose SHARED is held; beside stock SQLite with a lock that keeps claims away.
    Base(Option<BesideStock>),
}

/// SHARED; `shares`: as stock SQLite does, where a connection that is not on pwal is there.
///
/// # Errors
/// `BUSY`, for the busy handler: somebody has the database who does not share it. What the claim met.
pub(super) fn lock_shared(inner: &Arc<Inner>, base: &mut dyn BaseFile, shares: bool) -> Result<Locked, Code> {
    let Some(identity) = inner.identity else {
        base.lock(LockLevel::Shared)?;
        return Ok(Locked::Base(None));
    };
    let entry = inner.context.registry.entry(identity);
    let mut engine = entry.engine.lock();
    if let Some(engine) = engine.as_ref() {
        if below::is_refused(inner) {
            log_message(inner, Code::BUSY, below::WHY_REFUSED);
            return Err(Code::BUSY);
        }
        return connect(inner, engine, &entry).map(|wal| Locked::Wal(Box::new(wal)));
    }
    // First without a lock, as a hint: a SHARED of the base, this handle's too, makes EXCLUSIVE fail, of whoever claims now.
    // A log that lives is seen here: it begins with EXCLUSIVE and a header that says WAL, and ends before that changes.
    if !is_ours(inner, &read_header_or_lost(inner, base)?) {
        base.lock(LockLevel::Shared)?;
        match read_header(base) {
            Ok(header) if !is_ours(inner, &header) => {
                *inner.bases.lock() = Some(why_bases(&header));
                return Ok(Locked::Base(None));
            }
            Ok(_) => base.unlock(LockLevel::None)?,
            Err(code) => {
                base.unlock(LockLevel::None)?;
                return Err(code);
            }
        }
    }
    watch_process(&inner.context);
    let started = match begin(inner, base, identity, shares) {
        Ok(Begun::Engine(started)) => started,
        Ok(Begun::Base(beside)) => return Ok(Locked::Base(beside)),
        Err(_) if inner.facts.read_only && is_bases_to_read(inner, base) => {
            *inner.bases.lock() = Some(ONLY_READS);
            return Ok(Locked::Base(None));
        }
        Err(refused) => {
            if let Some(text) = &refused.text {
                log_message(inner, refused.code, text);
            }
            *inner.waited.lock() = (refused.code.primary() == Code::BUSY).then(Instant::now);
            return Err(refused.code);
        }
    };
    match connect(inner, &started, &entry) {
        Ok(wal) => {
            *engine = Some(started);
            Ok(Locked::Wal(Box::new(wal)))
        }
        Err(code) => {
            if let Err(error) = started.close(false) {
                log_error(inner, &error);
            }
            Err(code)
        }
    }
}

/// What a first SHARED began; the base's is held for `Base`.
enum Begun {
    Engine(Arc<Engine>),
    Base(Option<BesideStock>),
}

fn begin(inner: &Arc<Inner>, base: &mut dyn BaseFile, identity: FileIdentity, shares: bool) -> Result<Begun, Refused> {
    match start_or_join(inner, identity, below::is_refused(inner))? {
        Started::Engine(engine) => Ok(Begun::Engine(engine)),
        Started::Base => {
            base.lock(LockLevel::Shared)?;
            Ok(Begun::Base(None))
        }
        Started::Refused(stock) => share_with_stock(inner, base, stock, shares).map(Begun::Base),
    }
}

/// Beside the connection that keeps EXCLUSIVE from us, as stock SQLite would be; `None`: the file is in rollback mode by now.
fn share_with_stock(
    inner: &Inner,
    base: &mut dyn BaseFile,
    stock: StockIsThere,
    shares: bool,
) -> Result<Option<BesideStock>, Refused> {
    let StockIsThere { lock, dir, refused } = stock;
    let can_share = BYTE_RANGES && join::cannot_be_shared(real_path(inner)).is_none();
    let lock_path = dir.path().join(LOCK_NAME);
    let failed = |error| lock_failed(&lock_path, &error);
    if !shares || !can_share || is_held_alone(&lock).map_err(failed)? {
        give_up_lock(&lock, &*dir);
        return Err(refused);
    }
    let beside = BesideStock::begin(lock, &dir).map_err(failed)?;
    // Not where somebody writes alone (`locking_mode=EXCLUSIVE`, a recovery).
    if base.lock(LockLevel::Shared).is_err() {
        return Err(refused);
    }
    let state = read_header(base).map(|header| stamp::read(&header));
    match state {
        Ok(StampState::Plain { wal: true }) => {
            beside.end_init().map_err(failed)?;
            let why = refused.text.unwrap_or_default();
            let text = format!(
                "on stock SQLite's own -wal, not on pwal: {why}. The next open after all of them, and those like this one, have \
                 closed is on pwal again; parallel_wal_beside_stock=refuse makes this an error"
            );
            log_message(inner, Code::WARNING, &text);
            Ok(Some(beside))
        }
        Ok(StampState::Plain { wal: false }) => Ok(None),
        _ => {
            base.unlock(LockLevel::None)?;
            Err(refused)
        }
    }
}

/// Whether a busy handler asks for the database, again.
fn comes_again(inner: &Inner) -> bool {
    inner.waited.lock().is_some_and(|waited| waited.elapsed() < AGAIN)
}

const ONLY_READS: &str = "opened for reading where it cannot be had through pwal: it is read as stock SQLite does";

/// Why a file with this header is the base's.
pub(super) fn why_bases(header: &Header) -> &'static str {
    match stamp::read(header) {
        // A file without a byte is a new one.
        StampState::Plain { wal: false } if header.starts_with(MAGIC) || header.iter().all(|byte| *byte == 0) => {
            "not in WAL mode: PRAGMA journal_mode=WAL"
        }
        StampState::Plain { wal: true } if header.starts_with(MAGIC) => ONLY_READS,
        StampState::BadStamp { .. } | StampState::Leftover if header.starts_with(MAGIC) => {
            "something is in bytes 72 to 91 of the database header, which SQLite reserves, or its version is a newer one: it works as \
             on stock SQLite"
        }
        _ => "its header is not SQLite's: the database is encrypted (it works as on stock SQLite), or no database",
    }
}

/// Whether the database is ours: in WAL mode, or with a log. But one that this process can only read, and whose log nobody
/// has, is the base's, with its real `-wal` and `-shm`. Where only the connection is for reading, it is ours like any other:
/// the base's SHARED, held as long as it is open, would keep everybody out who writes.
pub(super) fn is_ours(inner: &Inner, header: &Header) -> bool {
    let has_log =
        || std::fs::symlink_metadata(beside(real_path(inner), "-pwal")).is_ok() || has_placeholder(real_path(inner));
    match stamp::read(header) {
        // Of an encrypted database (a codec between SQLite and its VFS) these bytes say nothing.
        _ if !header.starts_with(MAGIC) && !has_log() => false,
        // An earlier log's placeholder keeps SQLite out of whatever file was brought here since: the claim takes it away.
        StampState::Plain { wal: false } | StampState::NoHeader => {
            (has_placeholder(real_path(inner)) && may_write(real_path(inner))) || may_have_lost_header(inner, header)
        }
        StampState::Plain { wal: true } if inner.facts.read_only => is_taken(inner) || may_write(real_path(inner)),
        StampState::Plain { wal: true } | StampState::Stamped(_) | StampState::Older { .. } => true,
        // What is in the bytes that SQLite reserves may be somebody else's.
        StampState::BadStamp { .. } | StampState::Leftover => has_log(),
    }
}

/// Whether the first sector may be lost: the file does not begin as a database, and a log directory lies beside it. Beside
/// the file of a codec lies none.
fn may_have_lost_header(inner: &Inner, header: &Header) -> bool {
    let path = real_path(inner);
    !stamp::is_database(header)
        && std::fs::metadata(path).is_ok_and(|file| file.len() >= header.len() as u64)
        && has_directory(inner)
}

/// Whether a directory has the name of the database's `-wal`.
fn has_placeholder(path: &Path) -> bool {
    std::fs::symlink_metadata(beside(path, "-wal")).is_ok_and(|wal| wal.is_dir())
}

/// Whether somebody has the log of the database, or is just opening it.
fn is_taken(inner: &Inner) -> bool {
    lock_is_held(&beside(real_path(inner), "-pwal")).is_ok_and(|held| held == Some(true))
}

/// The database file, and a log beside it; as far as permissions tell.
fn may_write(path: &Path) -> bool {
    use rustix::fs::{Access, AtFlags, CWD, accessat};
    let may = |path: &Path| accessat(CWD, path, Access::WRITE_OK, AtFlags::EACCESS).is_ok();
    may(path) && (beside(path, "-pwal").exists() || path.parent().is_some_and(may))
}

/// For a connection that only reads, and cannot have the database through us: whether it may read beside those who have it, a
/// stock connection or nobody, as they do. True: SHARED of the base is held.
fn is_bases_to_read(inner: &Inner, base: &mut dyn BaseFile) -> bool {
    if base.lock(LockLevel::Shared).is_err() {
        return false;
    }
    let plain = read_header(base).is_ok_and(|header| matches!(stamp::read(&header), StampState::Plain { .. }));
    if plain && !is_taken(inner) {
        return true;
    }
    let _the_first_error_counts = base.unlock(LockLevel::None);
    false
}

/// The contexts whose engines the exit of the process closes.
static CONTEXTS: Mutex<Vec<Weak<Context>>> = Mutex::new(Vec::new());

fn close_at_exit() {
    // Not held over the closes, which tell the application's log: it may fork.
    let Some(contexts) = CONTEXTS.try_lock().map(|contexts| contexts.clone()) else { return };
    for context in contexts.iter().filter_map(Weak::upgrade) {
        context.registry.close_all();
    }
}

/// Before the first lock: a child that is forked from here on closes what it inherits.
fn watch_process(context: &Arc<Context>) {
    watch(close_at_exit);
    let _no_fork = between_forks();
    let mut contexts = CONTEXTS.lock();
    if !contexts.iter().any(|known| std::ptr::eq(known.as_ptr(), Arc::as_ptr(context))) {
        contexts.push(Arc::downgrade(context));
    }
}

fn connect(inner: &Arc<Inner>, engine: &Arc<Engine>, entry: &Arc<Entry>) -> Result<WalConnection, Code> {
    pragma::apply_parameters(inner, engine);
    *inner.refused.lock() = None;
    *inner.bases.lock() = None;
    let is_below = inner.pager.get().and_then(|pager| pager.above()) == Some(Above::PassesOn);
    WalConnection::new(engine, entry, is_below).map_err(|error| log_error(inner, &error))
}

pub(super) fn read_header(base: &mut dyn BaseFile) -> Result<Header, Code> {
    let mut header = [0; DATABASE_HEADER_BYTES];
    match base.read(&mut header, 0) {
        Ok(()) | Err(Code::IOERR_SHORT_READ) => Ok(header),
        Err(code) => Err(code),
    }
}

/// As that; zeros where the medium does not give the header and a log directory lies beside the file: recovery can bring it back.
fn read_header_or_lost(inner: &Inner, base: &mut dyn BaseFile) -> Result<Header, Code> {
    match read_header(base) {
        Err(code) if code.is_unreadable() && has_directory(inner) => Ok([0; DATABASE_HEADER_BYTES]),
        read => read,
    }
}

/// Whether a log directory lies beside the file.
pub(super) fn has_directory(inner: &Inner) -> bool {
    std::fs::symlink_metadata(beside(real_path(inner), "-pwal")).is_ok()
}

fn log_error(inner: &Inner, error: &EngineError) -> Code {
    let code = error.code();
    log_message(inner, code, &error.to_string());
    code
}

pub(super) fn log_message(inner: &Inner, code: Code, text: &str) {
    if code != Code::NOTICE {
        *inner.refused.lock() = Some(text.to_owned());
    }
    inner.context.host.log(code.number(), &format!("pwal: {}: {text}", inner.facts.path.display()));
}

/// The directory of the log lies beside the file, not beside a symlink to it.
fn real_path(inner: &Inner) -> &Path {
    inner
        .real_path
        .get_or_init(|| std::fs::canonicalize(&inner.facts.path).unwrap_or_else(|_| inner.facts.path.clone()))
}

pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// What a claim came to.
enum Started {
    Engine(Arc<Engine>),
    /// The file is in rollback mode by now, or this process may not write it any more.
    Base,
    Refused(StockIsThere),
}

/// EXCLUSIVE cannot be had, since connections that are not on pwal have the database open; nobody is joined. INIT is held.
struct StockIsThere {
    lock: LockFile,
    dir: Arc<dyn LogDirectory>,
    refused: Refused,
}

fn start_or_join(inner: &Arc<Inner>, identity: FileIdentity, is_refused: bool) -> Result<Started, Refused> {
    let path = path_of(inner, identity)?;
    for _ in 0..ATTEMPTS {
        // Opened anew: that of the last attempt may have been removed, or moved away.
        let dir = inner.context.disk.log_directory(&path);
        let at_most = if comes_again(inner) { INIT_WAIT_AGAIN } else { INIT_WAIT };
        let Some(lock) = take_init(&path, &*dir, at_most)? else { continue };
        if is_shared(&lock, &*dir)? {
            if is_refused {
                return Err(Refused::new(Code::BUSY, below::WHY_REFUSED));
            }
            return join::join(inner, &path, &dir, lock).map(Started::Engine);
        }
        if is_refused {
            let refused = Refused::new(Code::BUSY, below::WHY_REFUSED);
            return Ok(Started::Refused(StockIsThere { lock, dir, refused }));
        }
        let database_handle = match exclusive_handle(inner, &path, &lock) {
            Ok(database_handle) => database_handle,
            Err(refused) if refused.code.primary() == Code::BUSY => {
                return Ok(Started::Refused(StockIsThere { lock, dir, refused }));
            }
            Err(refused) => {
                give_up_lock(&lock, &*dir);
                return Err(refused);
            }
        };
        let exclusive = ExclusiveDatabase { database_handle, lock };
        let settled = recover_under_exclusive(inner, &path, &dir, exclusive, &mut |dir, database, facts| {
            let opened = open_database(dir, database, facts)?;
            for done in &opened.done {
                log_message(inner, Code::NOTICE, &describe(done));
            }
            Ok(opened)
        })?;
        let Some(settled) = settled else { continue };
        let engine = start(inner, &path, &dir, settled)?;
        return Ok(engine.map_or(Started::Base, Started::Engine));
    }
    Err(Refused::new(Code::BUSY, "others keep opening and closing this database"))
}

/// As the first `xLock(SHARED)` of a process that has no engine of this database: for the simulation of several.
#[cfg(test)]
pub(crate) fn open_engine(
    context: &Arc<Context>,
    facts: super::OpenFacts,
) -> Result<Option<Arc<Engine>>, (Code, Option<String>)> {
    let inner = super::Handle::open(context, facts).0;
    let Some(identity) = inner.identity else { return Ok(None) };
    match start_or_join(&inner, identity, false) {
        Ok(Started::Engine(engine)) => Ok(Some(engine)),
        Ok(Started::Base) => Ok(None),
        Ok(Started::Refused(StockIsThere { lock, dir, refused })) => {
            give_up_lock(&lock, &*dir);
            Err((refused.code, refused.text))
        }
        Err(refused) => Err((refused.code, refused.text)),
    }
}

/// The real path of the file that was opened, on a file system where a log may lie.
pub(super) fn path_of(inner: &Inner, identity: FileIdentity) -> Result<PathBuf, Refused> {
    let path = real_path(inner).to_path_buf();
    if FileIdentity::of(&path).ok() != Some(identity) {
        let text = "another file has this name by now; close the connection and open it again";
        return Err(Refused::new(Code::READONLY_DBMOVED, text));
    }
    if let Some(name) = not_local(&path)
        && !pragma::any_file_system(inner)
    {
        let text = format!(
            "is on {name}, whose locks or syncs do not keep what a log relies on; move it to a local file system, open it \
             with parallel_wal_mode=off, or take the risk with parallel_wal_file_system=any (PWAL_FILE_SYSTEM=any)"
        );
        return Err(Refused::new(Code::CANTOPEN, text));
    }
    Ok(path)
}

/// `<database>-pwal/lock`, with INIT held, before any lock on the database file; `None`: the directory went meanwhile.
pub(super) fn take_init(path: &Path, dir: &dyn LogDirectory, at_most: Duration) -> Result<Option<LockFile>, Refused> {
    let lock_path = dir.path().join(LOCK_NAME);
    let failed = |error| lock_failed(&lock_path, &error);
    let lock = match open_lock(path, dir) {
        Ok(lock) => lock,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let is_alone = || lock.is_held_by_others(ALONE);
    if !lock.lock_within(INIT, at_most, is_alone).map_err(failed)? {
        let who = who_has(&lock, dir);
        let text = if is_alone().map_err(failed)? {
            let why = join::cannot_be_shared(path);
            let why =
                why.unwrap_or_else(|| String::from("its control file could not be made, or its pwal is an older one"));
            format!("another process has the database open for itself alone (one process at a time): {why}")
        } else if who.is_empty() {
            String::from("another process is opening or closing the database, or was stopped while it did")
        } else {
            format!(
                "one of those that have the database open ({}) is busy with INIT, or was stopped there",
                names(&who)
            )
        };
        return Err(Refused::new(Code::BUSY, text));
    }
    let is_current = dir.directory().and_then(|directory| lock.is_in(&directory)).or_else(not_there).map_err(failed)?;
    Ok(is_current.then_some(lock))
}

/// The directory went.
fn not_there(error: io::Error) -> io::Result<bool> {
    if error.kind() == io::ErrorKind::NotFound { Ok(false) } else { Err(error) }
}

fn lock_failed(lock_path: &Path, error: &io::Error) -> Refused {
    let code = if error.kind() == io::ErrorKind::StorageFull { Code::FULL } else { Code::CANTOPEN };
    let hint = if error.kind() == io::ErrorKind::PermissionDenied {
        "; who reads or writes a database through pwal must be able to write to it and to its log directory"
    } else {
        advice(error)
    };
    Refused::new(code, format!("cannot take {}: {error}{hint}", lock_path.display()))
}

/// The lock file, and its directory.
fn open_lock(path: &Path, dir: &dyn LogDirectory) -> io::Result<LockFile> {
    let mut pauses = 0;
    loop {
        let opened = dir.create().and_then(|()| LockFile::open(&*dir.directory()?, file_mode(path)));
        match opened {
            // Another user may be making it, and has not given it away yet.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied && pauses < GIVING_PAUSES => {
                pauses += 1;
                interleave::sleep(GIVING_PAUSE);
            }
            opened => return opened,
        }
    }
}

/// The mode of the files of the log.
pub(super) fn file_mode(path: &Path) -> u32 {
    std::fs::metadata(path).map_or(0o644, |file| file.mode() & 0o666 | 0o600)
}

/// Under INIT: whether other processes are joined, to whom this one can join.
fn is_shared(lock: &LockFile, dir: &dyn LogDirectory) -> Result<bool, Refused> {
    // Without byte ranges INIT is all there is.
    let held = if BYTE_RANGES { lock.is_held_by_others(ALIVE_BYTES) } else { Ok(false) };
    held.map_err(|error| lock_failed(&dir.path().join(LOCK_NAME), &error))
}

/// Who has the database open, but this open file.
fn who_has(lock: &LockFile, dir: &dyn LogDirectory) -> Vec<Process> {
    let observed = dir.directory().and_then(|directory| ControlMapping::open_read_only(&directory));
    observed.map_or_else(|_| Vec::new(), |observed| living(observed.control(), lock))
}

/// As the claim: INIT, with nobody joined.
///
/// # Errors
/// `BUSY`: somebody is.
pub(super) fn take_lock(path: &Path, dir: &dyn LogDirectory) -> Result<Option<LockFile>, Refused> {
    let Some(lock) = take_init(path, dir, INIT_WAIT)? else { return Ok(None) };
    if is_shared(&lock, dir)? {
        let text = format!("another process has the database open: {}", names(&who_has(&lock, dir)));
        return Err(Refused::new(Code::BUSY, text));
    }
    Ok(Some(lock))
}

/// `lock` and EXCLUSIVE are held; once its leftovers are settled, the file is plain.
pub(super) struct ExclusiveDatabase {
    // Dropped in this order: whoever gets INIT next shall get EXCLUSIVE, too.
    pub(super) database_handle: Box<dyn DatabaseHandle>,
    pub(super) lock: LockFile,
}

/// How what lies beside the database file is settled.
type RecoverBy<'a> = dyn FnMut(&dyn LogDirectory, &mut dyn DatabaseHandle, OpenFacts) -> Result<Opened, LogError> + 'a;

/// Holding `lock` and EXCLUSIVE: `settle`. Whatever fails lets go of everything. `None`: claim again.
pub(super) fn recover_under_exclusive(
    inner: &Inner,
    path: &Path,
    dir: &Arc<dyn LogDirectory>,
    exclusive: ExclusiveDatabase,
    settle: &mut RecoverBy<'_>,
) -> Result<Option<ExclusiveDatabase>, Refused> {
    let ExclusiveDatabase { mut database_handle, lock } = exclusive;
    let facts = OpenFacts {
        read_only: database_handle.read_only(),
        hot_journal: has_hot_journal(path),
        real_wal_not_empty: has_stock_wal(path),
    };
    match settle(&**dir, database_handle.as_mut(), facts) {
        Ok(opened) => match opened.next {
            Next::Ready => Ok(Some(ExclusiveDatabase { database_handle, lock })),
            Next::ClaimAgain => Ok(None),
            Next::RecoverStock => {
                drop(database_handle);
                let settled = inner.context.host.recover_stock_files(path);
                if settled.is_err() {
                    give_up_lock(&lock, &**dir);
                }
                drop(lock);
                settled?;
                Ok(None)
            }
        },
        Err(error) => {
            give_up_lock(&lock, &**dir);
            Err(EngineError::Log(error).into())
        }
    }
}

/// The engine of a settled database, or `None`: another process switched it to rollback mode before we had it, or we may
/// not write to it any more.
fn start(
    inner: &Arc<Inner>,
    path: &Path,
    dir: &Arc<dyn LogDirectory>,
    settled: ExclusiveDatabase,
) -> Result<Option<Arc<Engine>>, Refused> {
    let ExclusiveDatabase { lock, mut database_handle } = settled;
    let mut header = [0; DATABASE_HEADER_BYTES];
    let database_bytes = match database_handle.read_at(&mut header, 0).and_then(|_| database_handle.bytes()) {
        Ok(bytes) => bytes,
        Err(error) => {
            give_up_lock(&lock, &**dir);
            return Err(EngineError::database("read", path, error).into());
        }
    };
    if database_handle.read_only() {
        // Its SHARED keeps no writer out, and nothing can be written by it: the base's, with its real `-wal` and `-shm`.
        give_up_lock(&lock, &**dir);
        return Ok(None);
    }
    let page_bytes = stamp::page_bytes(&header);
    let (StampState::Plain { wal: true }, Some(page_bytes)) = (stamp::read(&header), page_bytes) else {
        give_up_lock(&lock, &**dir);
        return Ok(None);
    };
    let settings = Settings::default();
    pragma::apply_defaults(inner, &settings);
    let member = join_first(inner, path, &**dir, lock)?;
    let claimed = ClaimedDatabase {
        path: path.to_path_buf(),
        dir: Arc::clone(dir),
        member,
        database_handle,
        header,
        page_bytes,
        database_bytes,
    };
    let engine = Engine::start(&inner.context, claimed, settings)?;
    engine.end_init()?;
    Ok(Some(engine))
}

/// For a connection that holds EXCLUSIVE, in WAL mode: STOCK alone, where there are such locks.
///
/// # Errors
/// `BUSY`; any error of the file system.
pub(super) fn hold_alone(inner: &Inner) -> Result<Option<BesideStock>, Refused> {
    let path = real_path(inner);
    if !BYTE_RANGES || join::cannot_be_shared(path).is_some() {
        return Ok(None);
    }
    for _ in 0..ATTEMPTS {
        let dir = inner.context.disk.log_directory(path);
        let Some(lock) = take_init(path, &*dir, INIT_WAIT)? else { continue };
        let failed = |error| lock_failed(&dir.path().join(LOCK_NAME), &error);
        let held = BesideStock::begin_alone(lock, &dir).map_err(failed)?;
        let held = held.ok_or_else(|| Refused::new(Code::BUSY, STOCK_IS_THERE))?;
        held.end_init().map_err(failed)?;
        return Ok(Some(held));
    }
    Err(Refused::new(Code::BUSY, "others keep opening and closing this database"))
}

/// A connection that had the database for itself goes on with an engine, and with what it sees by `view`, which is all in the
/// database file.
///
/// # Errors
/// The engine could not be started: the lock is gone.
pub(super) fn resume(
    inner: &Arc<Inner>,
    entry: &Arc<Entry>,
    path: &Path,
    dir: &Arc<dyn LogDirectory>,
    settled: ExclusiveDatabase,
    view: Box<View>,
) -> Result<(Arc<Engine>, WalConnection), Code> {
    let started = start(inner, path, dir, settled).map_err(|refused| {
        log_message(
            inner,
            refused.code,
            refused.text.as_deref().unwrap_or("cannot be shared again; close the connection"),
        );
        refused.code
    })?;
    let engine = started.ok_or(Code::IOERR)?;
    let mut wal = connect(inner, &engine, entry)?;
    wal.resume(view).map_err(|error| log_error(inner, &error))?;
    Ok((engine, wal))
}

/// The control block of a database that nobody has, and the first place in them.
fn join_first(inner: &Inner, path: &Path, dir: &dyn LogDirectory, lock: LockFile) -> Result<Member, Refused> {
    let lock_path = dir.path().join(LOCK_NAME);
    let mapping = join::new_control(inner, path, dir)?;
    let member = Member::acquire(mapping, lock, &command());
    let member = member.map_err(|error| lock_failed(&lock_path, &error))?;
    member.ok_or_else(|| Refused::new(Code::BUSY, "others hold locks of the log directory without sharing it"))
}

/// Under INIT, which `lock` holds.
pub(super) fn exclusive_handle(
    inner: &Inner,
    path: &Path,
    lock: &LockFile,
) -> Result<Box<dyn DatabaseHandle>, Refused> {
    if is_beside_stock(lock).map_err(|error| lock_failed(&beside(path, "-pwal"), &error))? {
        let alone = is_held_alone(lock).map_err(|error| lock_failed(&beside(path, "-pwal"), &error))?;
        return Err(Refused::new(Code::BUSY, if alone { ALONE_IS_THERE } else { STOCK_IS_THERE }));
    }
    let mut database_handle = inner.context.host.open_database_handle(path)?;
    if database_handle.read_only() {
        // EXCLUSIVE on a read-only descriptor is EBADF.
        database_handle.lock(LockLevel::Shared)?;
        return Ok(database_handle);
    }
    let deadline = Instant::now() + if comes_again(inner) { EXCLUSIVE_WAIT_AGAIN } else { EXCLUSIVE_WAIT };
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

/// As `hasHotJournal`: it is there and begins with a byte that is not zero (PERSIST leaves zeros).
fn has_hot_journal(path: &Path) -> bool {
    let journal = beside(path, "-journal");
    let mut first = [0];
    open_to_read(&journal).is_ok_and(|mut file| io::Read::read(&mut file, &mut first).is_ok_and(|n| n == 1))
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
            let unread: String =
                recovered.unreadable.iter().map(|unread| format!("; cannot be read: {unread}")).collect();
            let header = match recovered.restored_header {
                true => "; the first sector of the database file was lost, and came back from its copy in the log",
                false => "",
            };
            let (id, last) = (recovered.log_id, recovered.last);
            if last > recovered.backfilled {
                let (first, pages) = (recovered.backfilled + 1, recovered.pages);
                format!(
                    "recovered log {id:016x}: commits {first} to {last} replayed, {pages} pages written{header}{tail}{unread}"
                )
            } else {
                format!(
                    "recovered log {id:016x}: all {last} commits were in the database file already{header}{tail}{unread}"
                )
            }
        }
        Done::SetAside { log_id, suffix } => format!(
            "no commit of log {log_id:016x} is whole, the first was written and is damaged; its directory was renamed to -pwal.{suffix}"
        ),
        Done::Orphaned { log_id, suffix } => {
            format!("log {log_id:016x} belongs to another database file; its directory was renamed to -pwal.{suffix}")
        }
    }
}
