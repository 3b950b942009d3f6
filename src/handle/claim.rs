//! The first `xLock(SHARED)`: join the engine that lives in this process, leave a plain rollback-mode file to the base, or,
//! under INIT ([`super::init_lock`]), join the log of other processes ([`super::join`]) or claim the database: EXCLUSIVE
//! through the database handle, settle what stock SQLite or a crash left, start the engine.
//! [`super::settle`] goes the same way, up to the engine.

use super::base::{Above, BaseFile};
use super::beside::{BesideStock, give_up_lock, is_held_alone};
use super::exit::watch_process;
use super::file::OpenFile;
use super::header::{ONLY_READS, read_header, why_bases};
use super::init_lock::{INIT_WAIT, cannot_be_shared, is_shared, take_init};
use super::leftovers::describe;
use super::opening::{ExclusiveDatabase, Opening};
use super::refusal::{Refused, STOCK_IS_THERE, lock_failed};
use super::registry::{Entry, FileIdentity};
use super::wal_connection::WalConnection;
use super::{below, join};
use crate::disk::LogDirectory;
use crate::engine::Engine;
use crate::host::LockLevel;
use crate::interleave::Instant;
use crate::log::recovery::open_database;
use crate::log::stamp::{self, StampState};
use crate::shared::{BYTE_RANGES, LOCK_NAME, LockFile};
use crate::sqlite::Code;
use crate::view::View;
use std::sync::Arc;
use std::time::Duration;

/// How long INIT is waited for where [`OpenFile::comes_again`].
const INIT_WAIT_AGAIN: Duration = Duration::from_millis(20);

/// Attempts to claim while stock's leftovers are settled or directories go away under us.
const ATTEMPTS: usize = 5;

/// The result of `lock_shared`: how a handle that has SHARED is served.
pub(super) enum Locked {
    /// The log's.
    Wal(Box<WalConnection>),
    /// By the base, whose SHARED is held; beside stock SQLite with a lock that prevents claims.
    Base(Option<BesideStock>),
}

/// SHARED; `shares`: as stock SQLite does, where a connection that is not on pwal is there.
///
/// # Errors
/// `BUSY`, for the busy handler: a process has the database that does not share it. What the claim met.
pub(super) fn lock_shared(file: &OpenFile, base: &mut dyn BaseFile, shares: bool) -> Result<Locked, Code> {
    let Some(identity) = file.identity else {
        base.lock(LockLevel::Shared)?;
        return Ok(Locked::Base(None));
    };
    let entry = file.context.registry.entry(identity);
    let mut engine = entry.engine.lock();
    if let Some(engine) = engine.as_ref() {
        if below::is_refused(file) {
            file.log_message(Code::BUSY, below::WHY_REFUSED);
            return Err(Code::BUSY);
        }
        return connect(file, engine, &entry).map(|wal| Locked::Wal(Box::new(wal)));
    }
    // First without a lock, as a hint: a SHARED of the base, this handle's too, makes the EXCLUSIVE of a claiming
    // process fail. A live log is seen here: it begins with EXCLUSIVE and a header that says WAL, and ends before that
    // changes.
    if !file.is_ours(&file.read_header_or_lost(base)?) {
        base.lock(LockLevel::Shared)?;
        match read_header(base) {
            Ok(header) if !file.is_ours(&header) => {
                *file.bases.lock() = Some(why_bases(&header));
                return Ok(Locked::Base(None));
            }
            Ok(_) => base.unlock(LockLevel::None)?,
            Err(code) => {
                base.unlock(LockLevel::None)?;
                return Err(code);
            }
        }
    }
    watch_process(&file.context);
    let started = match begin(file, base, identity, shares) {
        Ok(Begun::Engine(started)) => started,
        Ok(Begun::Base(beside)) => return Ok(Locked::Base(beside)),
        Err(_) if file.facts.read_only && file.is_bases_to_read(base) => {
            *file.bases.lock() = Some(ONLY_READS);
            return Ok(Locked::Base(None));
        }
        Err(refused) => {
            if let Some(text) = &refused.text {
                file.log_message(refused.code, text);
            }
            *file.waited.lock() = (refused.code.primary() == Code::BUSY).then(Instant::now);
            return Err(refused.code);
        }
    };
    match connect(file, &started, &entry) {
        Ok(wal) => {
            *engine = Some(started);
            Ok(Locked::Wal(Box::new(wal)))
        }
        Err(code) => {
            if let Err(error) = started.close(false) {
                file.log_error(&error);
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

fn begin(file: &OpenFile, base: &mut dyn BaseFile, identity: FileIdentity, shares: bool) -> Result<Begun, Refused> {
    match start_or_join(file, identity, below::is_refused(file))? {
        Started::Engine(engine) => Ok(Begun::Engine(engine)),
        Started::Base => {
            base.lock(LockLevel::Shared)?;
            Ok(Begun::Base(None))
        }
        Started::Refused(stock) => share_with_stock(file, base, stock, shares).map(Begun::Base),
    }
}

/// Beside the connection that keeps EXCLUSIVE from us, as stock SQLite would be; `None`: the file is in rollback mode by now.
fn share_with_stock(
    file: &OpenFile,
    base: &mut dyn BaseFile,
    stock: StockIsThere,
    shares: bool,
) -> Result<Option<BesideStock>, Refused> {
    let StockIsThere { lock, dir, refused } = stock;
    let can_share = BYTE_RANGES && cannot_be_shared(file.real_path()).is_none();
    let lock_path = dir.path().join(LOCK_NAME);
    let failed = |error| lock_failed(&lock_path, &error);
    if !shares || !can_share || is_held_alone(&lock).map_err(failed)? {
        give_up_lock(&lock, &*dir);
        return Err(refused);
    }
    let beside = BesideStock::begin(lock, &dir).map_err(failed)?;
    // Not where a process writes exclusively (`locking_mode=EXCLUSIVE`, a recovery).
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
            file.log_message(Code::WARNING, &text);
            Ok(Some(beside))
        }
        Ok(StampState::Plain { wal: false }) => Ok(None),
        _ => {
            base.unlock(LockLevel::None)?;
            Err(refused)
        }
    }
}

fn connect(file: &OpenFile, engine: &Arc<Engine>, entry: &Arc<Entry>) -> Result<WalConnection, Code> {
    file.options().apply_parameters(&engine.log.settings);
    *file.refused.lock() = None;
    *file.bases.lock() = None;
    let is_below = file.pager.get().and_then(|pager| pager.above()) == Some(Above::PassesOn);
    WalConnection::new(engine, entry, is_below).map_err(|error| file.log_error(&error))
}

/// What a claim came to.
enum Started {
    Engine(Arc<Engine>),
    /// The file is in rollback mode by now, or this process may not write it any more.
    Base,
    Refused(StockIsThere),
}

/// EXCLUSIVE cannot be had, since connections that are not on pwal have the database open; there is no member. INIT is
/// held.
struct StockIsThere {
    lock: LockFile,
    dir: Arc<dyn LogDirectory>,
    refused: Refused,
}

fn start_or_join(file: &OpenFile, identity: FileIdentity, is_refused: bool) -> Result<Started, Refused> {
    let path = file.database_path(identity)?;
    for _ in 0..ATTEMPTS {
        let opening = Opening::new(file, &path);
        let at_most = if file.comes_again() { INIT_WAIT_AGAIN } else { INIT_WAIT };
        let Some(lock) = take_init(&path, &*opening.dir, at_most)? else { continue };
        if is_shared(&lock, &*opening.dir)? {
            if is_refused {
                return Err(Refused::new(Code::BUSY, below::WHY_REFUSED));
            }
            return join::join(&opening, lock).map(Started::Engine);
        }
        if is_refused {
            let refused = Refused::new(Code::BUSY, below::WHY_REFUSED);
            return Ok(Started::Refused(StockIsThere { lock, dir: opening.dir, refused }));
        }
        let database_handle = match opening.exclusive_handle(&lock) {
            Ok(database_handle) => database_handle,
            Err(refused) if refused.code.primary() == Code::BUSY => {
                return Ok(Started::Refused(StockIsThere { lock, dir: opening.dir, refused }));
            }
            Err(refused) => {
                give_up_lock(&lock, &*opening.dir);
                return Err(refused);
            }
        };
        let exclusive = ExclusiveDatabase { database_handle, lock };
        let settled = opening.recover_under_exclusive(exclusive, &mut |dir, database, facts| {
            let opened = open_database(dir, database, facts)?;
            for done in &opened.done {
                file.log_message(Code::NOTICE, &describe(done));
            }
            Ok(opened)
        })?;
        let Some(settled) = settled else { continue };
        let engine = opening.start(settled)?;
        return Ok(engine.map_or(Started::Base, Started::Engine));
    }
    Err(Refused::new(Code::BUSY, "others keep opening and closing this database"))
}

/// As the first `xLock(SHARED)` of a process that has no engine of this database: for the simulation of several.
#[cfg(test)]
pub(crate) fn open_engine(
    context: &Arc<super::Context>,
    facts: super::OpenFacts,
) -> Result<Option<Arc<Engine>>, (Code, Option<String>)> {
    let file = OpenFile::open(context, facts);
    let Some(identity) = file.identity else { return Ok(None) };
    match start_or_join(&file, identity, false) {
        Ok(Started::Engine(engine)) => Ok(Some(engine)),
        Ok(Started::Base) => Ok(None),
        Ok(Started::Refused(StockIsThere { lock, dir, refused })) => {
            give_up_lock(&lock, &*dir);
            Err((refused.code, refused.text))
        }
        Err(refused) => Err((refused.code, refused.text)),
    }
}

/// For a connection that holds EXCLUSIVE, in WAL mode: STOCK alone, where there are such locks.
///
/// # Errors
/// `BUSY`; any error of the file system.
pub(super) fn hold_alone(file: &OpenFile) -> Result<Option<BesideStock>, Refused> {
    let path = file.real_path();
    if !BYTE_RANGES || cannot_be_shared(path).is_some() {
        return Ok(None);
    }
    for _ in 0..ATTEMPTS {
        let dir = file.context.environment.disk.log_directory(path);
        let Some(lock) = take_init(path, &*dir, INIT_WAIT)? else { continue };
        let failed = |error| lock_failed(&dir.path().join(LOCK_NAME), &error);
        let held = BesideStock::begin_alone(lock, &dir).map_err(failed)?;
        let held = held.ok_or_else(|| Refused::new(Code::BUSY, STOCK_IS_THERE))?;
        held.end_init().map_err(failed)?;
        return Ok(Some(held));
    }
    Err(Refused::new(Code::BUSY, "others keep opening and closing this database"))
}

/// A connection that had the database for itself continues with an engine, and with what it sees by `view`, which is
/// all in the database file.
///
/// # Errors
/// The engine could not be started: the lock is gone.
pub(super) fn resume(
    file: &OpenFile,
    entry: &Arc<Entry>,
    opening: &Opening<'_>,
    settled: ExclusiveDatabase,
    view: Box<View>,
) -> Result<(Arc<Engine>, WalConnection), Code> {
    let started = opening.start(settled).map_err(|refused| {
        file.log_message(
            refused.code,
            refused.text.as_deref().unwrap_or("cannot be shared again; close the connection"),
        );
        refused.code
    })?;
    let engine = started.ok_or(Code::IOERR)?;
    let mut wal = connect(file, &engine, entry)?;
    wal.resume(view).map_err(|error| file.log_error(&error))?;
    Ok((engine, wal))
}
