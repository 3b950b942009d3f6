//! A handle: each of SQLite's calls on a main database file, its wal-index and its WAL, by the state that the file is in.

use super::alone::{self, Alone};
use super::base::{Above, BaseFile, OpenFacts, Pager, PragmaAnswer, ShmAction};
use super::claim::{self, Locked};
use super::header::mask;
use super::registry::Context;
use super::state::{HandleState, ServedFile, StateGuard};
use super::{pragma, siblings};
use crate::host::{DatabaseHandle, LockLevel};
use crate::log::stamp;
use crate::sqlite::Code;
use crate::view::Region;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

/// What `sqlite3PagerSharedLock` compares with the version of its cache, with a rollback journal: change counter, size
/// and free pages in the header of the database file. Commits in WAL mode need not move the counter. A connection that
/// leaves WAL mode keeps its cache if these are unchanged, and overwrites what others have committed since its last
/// read. (With stock SQLite it does.) The file is not changed for that: its first sector would be written without a
/// log.
const FILE_VERSION: u64 = 24;
const FILE_VERSION_BYTES: usize = 16;

/// What `sqlite3BtreeOpen` reads of a file before its first lock (`sqlite3PagerReadFileheader`): nothing else is.
const FILE_HEADER_BYTES: usize = 100;

/// One open main database file. SQLite calls it from one thread at a time, not always the same.
pub struct Handle(pub(super) Arc<ServedFile>);

impl Handle {
    /// A handle that is not on pwal to an engine. Called in `xOpen(MAIN_DB)`, after the base opened the file.
    #[must_use]
    pub fn open(context: &Arc<Context>, facts: OpenFacts) -> Handle {
        Handle(ServedFile::open(context, facts))
    }

    /// `SQLITE_FCNTL_PDB`, which comes once.
    pub fn set_pager(&self, pager: Box<dyn Pager>) {
        let _only_the_first_counts = self.0.file.pager.set(pager);
    }

    /// The begin of every call: prepared siblings hide their commit, and a commit whose PHASETWO did not come is rolled
    /// back.
    pub(super) fn enter(&self) -> StateGuard<'_> {
        self.hide_siblings();
        let mut state = self.0.state();
        if let HandleState::Wal(wal) = &mut state.kind {
            wal.called(&self.0.file);
        }
        state
    }

    fn hide_siblings(&self) {
        if !siblings::any_prepared_beside(&self.0.file) {
            return;
        }
        for sibling in siblings::prepared_siblings(self.0.file.connection(), &self.0.file) {
            sibling.hide_advance();
        }
    }

    /// `xLock`. Inside the first `lock(Shared)` the database is claimed.
    ///
    /// # Errors
    /// `BUSY`: another connection or process has the file; what the claim met; what the base returns.
    pub fn lock(&self, base: &mut dyn BaseFile, level: LockLevel) -> Result<(), Code> {
        let mut state = self.enter();
        if state.level >= level {
            return Ok(());
        }
        let (off, leaves_wal) = (state.off, state.leaves_wal);
        match &mut state.kind {
            HandleState::Plain if level == LockLevel::Shared && !off => {
                let shares = self.0.file.options().shares_with_stock(&state.pending_settings);
                match claim::lock_shared(&self.0.file, base, shares)? {
                    Locked::Wal(wal) => {
                        state.kind = HandleState::Wal(wal);
                        pragma::apply_pending_settings(&self.0.file, &mut state);
                    }
                    Locked::Base(beside) => state.beside = beside,
                }
            }
            HandleState::Plain => {
                base.lock(level)?;
                if level == LockLevel::Exclusive
                    && let Some(beside) = &state.beside
                    && !beside.be_alone().unwrap_or(false)
                {
                    // POSIX locks, which other processes have lost, do not show it. After RESERVED only SQLite may
                    // release it.
                    if state.level <= LockLevel::Shared {
                        base.unlock(state.level)?;
                    }
                    return Err(Code::BUSY);
                }
            }
            HandleState::Retired { .. } | HandleState::Alone(_) => {}
            HandleState::Wal(wal) => match level {
                LockLevel::None | LockLevel::Shared => {}
                LockLevel::Pending => return Err(Code::BUSY),
                LockLevel::Reserved | LockLevel::Exclusive => {
                    let by_the_wal = level == LockLevel::Exclusive;
                    let for_itself = by_the_wal && wal.asks_for_itself();
                    if for_itself && self.0.file.facts.read_only {
                        // As the base says it of a file that is open for reading.
                        return Err(Code::IOERR_LOCK);
                    }
                    let database_handle = wal.retire_for_exclusive(by_the_wal, for_itself, leaves_wal)?;
                    let HandleState::Wal(wal) = std::mem::replace(&mut state.kind, HandleState::Plain) else {
                        return Err(Code::INTERNAL);
                    };
                    state.drops_cache |= !for_itself;
                    state.kind = if for_itself {
                        let view = wal.wal_is_open().then(|| Box::new(wal.view));
                        self.0.file.was_alone.store(true, SeqCst);
                        HandleState::Alone(Box::new(Alone::new(&self.0.file, database_handle, view)))
                    } else {
                        HandleState::Retired { database_handle, view: Some(Box::new(wal.view)) }
                    };
                }
            },
        }
        state.level = level;
        Ok(())
    }

    /// `xUnlock`.
    ///
    /// # Errors
    /// What the base says.
    pub fn unlock(&self, base: &mut dyn BaseFile, level: LockLevel) -> Result<(), Code> {
        let mut state = self.enter();
        match &mut state.kind {
            HandleState::Plain => {
                base.unlock(level)?;
                if let Some(beside) = &state.beside {
                    beside.share().map_err(|_| Code::IOERR_UNLOCK)?;
                }
                if level == LockLevel::None {
                    state.beside = None;
                }
            }
            HandleState::Wal(wal) => {
                if level == LockLevel::None {
                    wal.unpin();
                } else {
                    wal.goes_on();
                }
            }
            HandleState::Retired { database_handle, .. } => {
                hand_over(database_handle.as_mut(), base, level)?;
                state.kind = HandleState::Plain;
            }
            HandleState::Alone(alone) => {
                hand_over(alone.database_handle()?, base, level)?;
                state.kind = HandleState::Plain;
            }
        }
        state.level = level;
        Ok(())
    }

    /// `xCheckReservedLock`.
    ///
    /// # Errors
    /// What the base says.
    pub fn check_reserved_lock(&self, base: &mut dyn BaseFile) -> Result<bool, Code> {
        match self.enter().kind {
            HandleState::Plain => base.check_reserved_lock(),
            // No hot-journal playback beside a log.
            HandleState::Wal(_) | HandleState::Retired { .. } | HandleState::Alone(_) => Ok(true),
        }
    }

    /// `xRead` of the database file: fills `buffer`; after the end of the file with zeros and `IOERR_SHORT_READ`. A
    /// handle on pwal sees the header of a plain WAL database.
    ///
    /// # Errors
    /// What the base returns; a poisoned engine's `IOERR_READ`.
    pub fn read(&self, base: &mut dyn BaseFile, buffer: &mut [u8], offset: u64) -> Result<(), Code> {
        let mut state = self.enter();
        let result = match &mut state.kind {
            HandleState::Wal(wal) => super::reader::read_file(wal, base, buffer, offset),
            HandleState::Plain | HandleState::Retired { .. } | HandleState::Alone(_) => base.read(buffer, offset),
        };
        let is_unlocked = state.level == LockLevel::None && !self.0.file.facts.no_lock;
        if is_unlocked && (offset, buffer.len()) != (0, FILE_HEADER_BYTES) {
            self.0.file.read_unlocked.store(true, SeqCst);
        }
        match &mut state.kind {
            HandleState::Wal(wal) => {
                wal.check_lost()?;
                mask(buffer, offset);
            }
            // A database in WAL mode, which SQLite cannot open without locks: the code for that, not that of a damaged file.
            HandleState::Plain if self.0.file.facts.no_lock && offset == 0 && stamp::is_stamped(buffer) => {
                mask(buffer, offset)
            }
            HandleState::Alone(alone) => alone.check()?,
            // Before its first lock SQLite looks at the header (`sqlite3PagerReadFileheader`), and an error ends the open. The lock
            // brings the header back where a log has it.
            HandleState::Plain
                if is_unlocked
                    && offset == 0
                    && result.is_err_and(Code::is_unreadable)
                    && self.0.file.has_directory() =>
            {
                buffer.fill(0);
                return Err(Code::IOERR_SHORT_READ);
            }
            HandleState::Plain | HandleState::Retired { .. } => {}
        }
        if state.drops_cache && offset == FILE_VERSION && buffer.len() == FILE_VERSION_BYTES && result.is_ok() {
            state.drops_cache = false;
            // A size of the file that no version had.
            buffer.iter_mut().for_each(|byte| *byte = !*byte);
        }
        result
    }

    /// `xWrite` of the database file.
    ///
    /// # Errors
    /// What the base says; `IOERR_WRITE` beside a log.
    pub fn write(&self, base: &mut dyn BaseFile, data: &[u8], offset: u64) -> Result<(), Code> {
        match &self.enter().kind {
            HandleState::Wal(_) => Err(Code::IOERR_WRITE),
            HandleState::Alone(alone) => alone.check().and_then(|()| base.write(data, offset)),
            HandleState::Plain | HandleState::Retired { .. } => base.write(data, offset),
        }
    }

    /// `xTruncate` of the database file, to `bytes`.
    ///
    /// # Errors
    /// What the base says; `IOERR_TRUNCATE` beside a log.
    pub fn truncate(&self, base: &mut dyn BaseFile, bytes: u64) -> Result<(), Code> {
        match &self.enter().kind {
            HandleState::Wal(_) => Err(Code::IOERR_TRUNCATE),
            HandleState::Alone(alone) => alone.check().and_then(|()| base.truncate(bytes)),
            HandleState::Plain | HandleState::Retired { .. } => base.truncate(bytes),
        }
    }

    /// `xSync` of the database file.
    ///
    /// # Errors
    /// What the base says.
    pub fn sync(&self, base: &mut dyn BaseFile, flags: i32) -> Result<(), Code> {
        drop(self.enter());
        base.sync(flags)
    }

    /// `xFileSize` of the database file.
    ///
    /// # Errors
    /// What the base says.
    pub fn bytes(&self, base: &mut dyn BaseFile) -> Result<u64, Code> {
        if self.enter().level == LockLevel::None {
            self.0.file.read_unlocked.store(true, SeqCst);
        }
        base.bytes()
    }

    /// Whether this handle has a view of a log: then its `X-wal` does not exist for `xAccess`, `xDelete` is OK without
    /// effect, `xOpen(WAL)` is virtual, shared memory is the view's, and `xFetch` returns null.
    #[must_use]
    pub fn is_on_pwal(&self) -> bool {
        match &self.0.state.lock().kind {
            HandleState::Wal(_) | HandleState::Retired { view: Some(_), .. } => true,
            HandleState::Alone(alone) => alone.view.is_some(),
            HandleState::Plain | HandleState::Retired { view: None, .. } => false,
        }
    }

    /// Whether [`Handle::real_wal`] has had an answer, or may have one: asked by each call on the WAL.
    #[must_use]
    pub fn may_have_real_wal(&self) -> bool {
        self.0.file.was_alone.load(SeqCst)
    }

    /// The number of the real `-wal` that SQLite's virtual one stands for now, where the connection has the database for itself
    /// (`locking_mode=EXCLUSIVE`): it goes to the base. Another number is another file.
    ///
    /// # Errors
    /// `IOERR`: only `xClose` is left.
    pub fn real_wal(&self) -> Result<Option<u64>, Code> {
        match &self.enter().kind {
            HandleState::Alone(alone) => alone.check().map(|()| alone.wal()),
            HandleState::Plain | HandleState::Wal(_) | HandleState::Retired { .. } => Ok(None),
        }
    }

    /// `xShmMap` of a handle on pwal: the region of that index (32768 bytes); `None` if it is not there and
    /// `extend` is false. The region stays at its address until `shm_unmap`.
    ///
    /// # Errors
    /// The handle is not on pwal.
    pub fn shm_map(&self, index: u32, extend: bool) -> Result<Option<Arc<Region>>, Code> {
        // Between prepare and PHASETWO SQLite maps regions for its own appends.
        match &mut self.0.state().kind {
            HandleState::Wal(wal) => wal.region(index, extend),
            HandleState::Retired { view: Some(view), .. } => Ok(view.region(index, extend)),
            HandleState::Alone(alone) => {
                alone.view.as_mut().map(|view| view.region(index, extend)).ok_or(Code::IOERR_SHMMAP)
            }
            HandleState::Plain | HandleState::Retired { .. } => Err(Code::IOERR_SHMMAP),
        }
    }

    /// `xShmLock` of a handle on pwal: `count` locks from `first` on.
    ///
    /// # Errors
    /// `BUSY`, `BUSY_SNAPSHOT`, what a checkpoint met.
    pub fn shm_lock(&self, base: &mut dyn BaseFile, first: u32, action: ShmAction) -> Result<(), Code> {
        let mut state = self.enter();
        match &mut state.kind {
            HandleState::Wal(wal) => wal.shm_lock(&self.0.file, base, first, action),
            HandleState::Alone(alone) if action == ShmAction::LockShared => {
                let wal = alone.share(&self.0.file)?;
                state.kind = HandleState::Wal(Box::new(wal));
                pragma::apply_pending_settings(&self.0.file, &mut state);
                Ok(())
            }
            HandleState::Retired { .. } | HandleState::Alone(_) => Ok(()),
            HandleState::Plain => Err(Code::IOERR_LOCK),
        }
    }

    /// `xShmUnmap` of a handle on pwal.
    pub fn shm_unmap(&self) {
        match &mut self.enter().kind {
            HandleState::Retired { view, .. } => *view = None,
            HandleState::Alone(alone) => alone.view = None,
            HandleState::Plain | HandleState::Wal(_) => {}
        }
    }

    /// `xOpen(WAL)` goes to the base: in `locking_mode=EXCLUSIVE` after a change of `journal_mode` nothing else shows
    /// that this connection has the database for itself.
    pub fn real_wal_opens(&self) {
        let mut state = self.enter();
        if state.level == LockLevel::Exclusive && state.beside.is_none() && matches!(state.kind, HandleState::Plain) {
            *self.0.file.bases.lock() = Some(alone::WHY_INACTIVE);
            state.beside = alone::hold(&self.0.file);
        }
    }

    /// `xOpen(WAL)` of a handle on pwal.
    ///
    /// # Errors
    /// The handle is not on pwal.
    pub fn wal_open(&self) -> Result<(), Code> {
        match &mut self.enter().kind {
            HandleState::Wal(wal) => {
                wal.wal_opened();
                Ok(())
            }
            HandleState::Plain | HandleState::Retired { .. } | HandleState::Alone(_) => Err(Code::CANTOPEN),
        }
    }

    /// `xClose` of the virtual WAL.
    pub fn wal_close(&self) {
        drop(self.enter());
    }

    /// `xRead` of the virtual WAL.
    ///
    /// # Errors
    /// What the medium says; a poisoned engine's `IOERR_READ`.
    pub fn wal_read(&self, base: &mut dyn BaseFile, buffer: &mut [u8], offset: u64) -> Result<(), Code> {
        match &mut self.0.state().kind {
            HandleState::Wal(wal) => wal.wal_read(&self.0.file, base, buffer, offset),
            HandleState::Plain | HandleState::Retired { .. } | HandleState::Alone(_) => Err(Code::IOERR_READ),
        }
    }

    /// `xWrite` of the virtual WAL.
    ///
    /// # Errors
    /// Why the transaction cannot go on or be prepared; SQLite rolls back.
    pub fn wal_write(&self, base: &mut dyn BaseFile, data: &[u8], offset: u64) -> Result<(), Code> {
        let mut state = self.enter();
        match &mut state.kind {
            HandleState::Wal(wal) => wal.wal_write(&self.0.file, base, data, offset),
            HandleState::Plain | HandleState::Retired { .. } | HandleState::Alone(_) => Err(Code::IOERR_WRITE),
        }
    }

    /// `xSync` of the virtual WAL.
    ///
    /// # Errors
    /// The conservative path's write or sync failed.
    pub fn wal_sync(&self) -> Result<(), Code> {
        let mut state = self.enter();
        match &mut state.kind {
            HandleState::Wal(wal) => wal.wal_sync(&self.0.file),
            HandleState::Plain | HandleState::Retired { .. } | HandleState::Alone(_) => Ok(()),
        }
    }

    /// `xFileSize` of the virtual WAL.
    ///
    /// # Errors
    /// `CANTOPEN`: not by SQLite.
    pub fn wal_bytes(&self) -> Result<u64, Code> {
        match &self.0.state.lock().kind {
            HandleState::Wal(wal) => wal.wal_bytes(&self.0.file),
            HandleState::Retired { view: Some(view), .. } => Ok(view.wal_bytes()),
            HandleState::Plain | HandleState::Retired { .. } | HandleState::Alone(_) => Ok(0),
        }
    }

    /// `SQLITE_FCNTL_COMMIT_PHASETWO` on the database file: publishes and acknowledges.
    ///
    /// # Errors
    /// `IOERR_WRITE`: nothing is published. `IOERR_FSYNC`: see R5.
    pub fn commit_phase_two(&self) -> Result<(), Code> {
        self.hide_siblings();
        match &mut self.0.state().kind {
            HandleState::Wal(wal) => wal.commit_phase_two(&self.0.file),
            HandleState::Plain | HandleState::Retired { .. } | HandleState::Alone(_) => {
                siblings::set_super_journal(false);
                Ok(())
            }
        }
    }

    /// `SQLITE_FCNTL_PRAGMA`: name in any case, value if there is one.
    pub fn pragma(&self, base: &mut dyn BaseFile, name: &str, value: Option<&str>) -> PragmaAnswer {
        let mut state = self.enter();
        pragma::pragma(&self.0.file, &mut state, base, name, value)
    }

    /// As [`Pager::above`].
    #[must_use]
    pub fn above(&self) -> Option<Above> {
        self.0.file.pager.get().and_then(|pager| pager.above())
    }

    /// `SQLITE_FCNTL_LOCKSTATE` of a handle on pwal: the level that SQLite believes to have.
    #[must_use]
    pub fn lock_level(&self) -> LockLevel {
        self.0.state.lock().level
    }

    /// `SQLITE_FCNTL_EXTERNAL_READER` of a handle on pwal: whether another process reads.
    #[must_use]
    pub fn has_external_reader(&self) -> bool {
        match &self.0.state.lock().kind {
            HandleState::Wal(wal) => wal.engine.log.marks.is_read_elsewhere(),
            HandleState::Plain | HandleState::Retired { .. } | HandleState::Alone(_) => false,
        }
    }

    /// `xDeviceCharacteristics`: those of the base, and what a handle on pwal adds.
    #[must_use]
    pub fn characteristics(&self, of_base: i32) -> i32 {
        /// `SQLITE_IOCAP_POWERSAFE_OVERWRITE`: `sqlite3WalOpen` asks the database file; without it
        /// SQLite pads commits to the sector.
        const POWERSAFE_OVERWRITE: i32 = 0x1000;
        /// `SQLITE_IOCAP_SUBPAGE_READ` would read overflow pages past the view's accounting.
        const SUBPAGE_READ: i32 = 0x8000;
        match &mut self.0.state.lock().kind {
            HandleState::Wal(wal) if wal.wal_is_open() => {
                wal.is_powersafe = of_base & POWERSAFE_OVERWRITE != 0;
                (of_base | POWERSAFE_OVERWRITE) & !SUBPAGE_READ
            }
            _ => of_base,
        }
    }

    /// Retires the log with connections open; what came of it, in a word.
    ///
    /// # Errors
    /// `BUSY` and why: others are joined, or a transaction is open.
    pub fn retire_log(&self) -> Result<&'static str, (Code, String)> {
        match &mut self.enter().kind {
            HandleState::Wal(wal) => wal.retire_log(),
            HandleState::Plain | HandleState::Retired { .. } | HandleState::Alone(_) => Ok("no log"),
        }
    }

    /// Anything else that SQLite asks of the database file (other file controls and so on): some
    /// states end with it.
    pub fn other_call(&self) {
        drop(self.enter());
    }

    /// `xClose`, before the base is closed.
    pub fn close(&self) {
        let mut state = self.enter();
        // `Alone` lets go of EXCLUSIVE first, then of STOCK.
        if let HandleState::Wal(wal) = std::mem::replace(&mut state.kind, HandleState::Plain) {
            wal.leave(&self.0.file);
        }
        state.beside = None;
        state.level = LockLevel::None;
    }
}

/// The database handle has EXCLUSIVE for this handle, which continues with `level`, by its own file.
fn hand_over(database_handle: &mut dyn DatabaseHandle, base: &mut dyn BaseFile, level: LockLevel) -> Result<(), Code> {
    // Another handle's SHARED makes EXCLUSIVE fail, and none may slip in between.
    database_handle.unlock(level.min(LockLevel::Shared))?;
    if level >= LockLevel::Shared {
        base.lock(LockLevel::Shared)?;
        database_handle.unlock(LockLevel::None)?;
    }
    Ok(())
}
