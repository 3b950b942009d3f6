//! A connection on pwal: SQLite's locks of the wal-index become snapshots, the write lock and checkpoints of the engine.

use super::base::{BaseFile, ShmAction};
use super::checkpointer::{AfterCommit, Checkpointer, FRAMES_BEYOND_LOG};
use super::file::OpenFile;
use super::reader::{ReadLock, Reader};
use super::registry::Entry;
use super::transaction::{Writer, lane_bytes};
use crate::engine::{Connection, Engine, EngineError, Rest};
use crate::host::DatabaseHandle;
use crate::sqlite::Code;
use crate::view::{Region, Snapshot, View};
use std::sync::Arc;

/// `WAL_WRITE_LOCK`
const WRITE: u32 = 0;
/// `WAL_CKPT_LOCK`
const CHECKPOINT: u32 = 1;
/// `WAL_READ_LOCK(0)`
const READ: u32 = 3;

/// SQLite's handle on the virtual WAL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WalFile {
    NotOpen,
    Open,
    /// `xLock(EXCLUSIVE)` came: SQLite closes the connection's WAL and wants it checkpointed.
    Closing,
}

/// A connection on pwal: what SQLite's calls on the wal-index and the WAL of one database mean for its engine.
///
/// It has three roles, each with the state of one of SQLite's locks: a [`Reader`] (`READ_LOCK`, [`super::reader`]), a
/// [`Writer`] (WRITE, [`super::transaction`]) and a [`Checkpointer`] (CKPT, [`super::checkpointer`]). They share the
/// view, through which every commit goes that one of them shows or publishes. Here is what belongs to none of them
/// alone: which role a call of SQLite is for, and the beginning and the end of the connection.
pub(super) struct WalConnection {
    pub(super) engine: Arc<Engine>,
    pub(super) entry: Arc<Entry>,
    pub(super) me: Connection,
    pub(super) view: View,
    pub(super) reader: Reader,
    pub(super) writer: Writer,
    pub(super) checkpointer: Checkpointer,
    wal: WalFile,
    /// This connection will ask to have the database for itself (`locking_mode=EXCLUSIVE`, [`super::alone`]).
    pub(super) wants_alone: bool,
    /// The base promises `SQLITE_IOCAP_POWERSAFE_OVERWRITE`, too.
    pub(super) is_powersafe: bool,
    /// Another VFS lies above, which passes on what it was tried with ([`super::Above::PassesOn`]).
    pub(super) is_below: bool,
    /// A panic came out of a call, or what SQLite believes and what is true differ: only `xClose` is left.
    broken: bool,
}

impl WalConnection {
    /// # Errors
    /// The engine takes no more connections.
    pub(super) fn new(engine: &Arc<Engine>, entry: &Arc<Entry>, is_below: bool) -> Result<WalConnection, EngineError> {
        let me = engine.connections.add()?;
        Ok(WalConnection {
            engine: Arc::clone(engine),
            entry: Arc::clone(entry),
            me,
            view: View::new(engine.log.page_bytes, lane_bytes(engine)),
            reader: Reader::default(),
            writer: Writer::default(),
            checkpointer: Checkpointer::default(),
            wal: WalFile::NotOpen,
            wants_alone: false,
            is_powersafe: false,
            is_below,
            broken: false,
        })
    }

    /// Any call of SQLite on this handle but PHASETWO: a transaction whose WRITE is released and whose PHASETWO did not
    /// come is rolled back.
    pub(super) fn called(&mut self, file: &OpenFile) {
        self.checkpointer.called();
        if self.writer.called() && self.engine.log.is_of_this_process() {
            if self.is_below && self.is_committed(file) {
                self.commit_without_phase_two(file);
            } else {
                self.roll_back(file);
            }
        }
    }

    /// # Errors
    /// `IOERR`: the engine is a parent process's, the process is exiting, or a call panicked. Only `xClose` is left.
    pub(super) fn check_mine(&self) -> Result<(), Code> {
        if self.engine.log.is_mine() && !self.broken { Ok(()) } else { Err(Code::IOERR) }
    }

    /// A call panicked: this view is unusable, what it returned may be half true, and no process may wait for what it
    /// held.
    pub(super) fn after_panic(&mut self, file: &OpenFile) {
        if self.broken || !self.engine.log.is_mine() {
            self.broken = true;
            return;
        }
        self.log(Code::INTERNAL, "a call of SQLite panicked; the connection has to be closed");
        self.give_up(file);
    }

    /// What SQLite believes of this connection and what is true of it differ: only `xClose` is left.
    pub(super) fn give_up(&mut self, file: &OpenFile) {
        self.broken = true;
        self.end_given_up(file);
        self.checkpointer.end();
        self.reader.lock = ReadLock::None;
        self.engine.connections.drop_snapshot(self.me);
    }

    pub(super) fn region(&mut self, index: u32, extend: bool) -> Result<Option<Arc<Region>>, Code> {
        if self.view.sequence().is_none() {
            // Valid from the start, so that SQLite never runs its own recovery.
            let refreshed = self.refresh_to_snapshot(false);
            self.engine.connections.drop_snapshot(self.me);
            refreshed.map_err(|error| self.failed(&error))?;
        }
        Ok(self.view.region(index, extend))
    }

    pub(super) fn wal_opened(&mut self) {
        if self.wal == WalFile::NotOpen {
            self.wal = WalFile::Open;
        }
    }

    pub(super) fn wal_is_open(&self) -> bool {
        self.wal != WalFile::NotOpen
    }

    /// # Errors
    /// `CANTOPEN`: a VFS above asks by itself (`walIndexRecover` does not, since the view's header is always valid).
    pub(super) fn wal_bytes(&self, file: &OpenFile) -> Result<u64, Code> {
        if self.is_below && !self.reader.was_locked {
            return Err(self.distrust_reads(file));
        }
        Ok(self.view.wal_bytes())
    }

    /// Registers a snapshot and brings the view to it; true: the header changed.
    ///
    /// # Errors
    /// What other processes wrote cannot be read; the snapshot is registered nevertheless.
    pub(super) fn refresh_to_snapshot(&mut self, newest: bool) -> Result<bool, EngineError> {
        let sequence = self.engine.connections.take_snapshot(self.me, newest)?;
        let view = &mut self.view;
        if view.stands_for(sequence) {
            return Ok(false);
        }
        self.engine.reader.with_frames(
            |table, facts| {
                let to = Snapshot { sequence, database_pages: facts.database_pages };
                let bound = u32::try_from(facts.frames).unwrap_or(u32::MAX).saturating_add(FRAMES_BEYOND_LOG);
                view.refresh(table, to, bound)
            },
            sequence,
        )
    }

    /// `xShmLock`. Source of the lock's numbers: <https://www.sqlite.org/walformat.html>.
    pub(super) fn shm_lock(
        &mut self,
        file: &OpenFile,
        base: &mut dyn BaseFile,
        first: u32,
        action: ShmAction,
    ) -> Result<(), Code> {
        self.check_mine()?;
        match (action, first) {
            (ShmAction::LockShared, READ..) => {
                if self.reader.lock == ReadLock::None && self.writer.has_transaction() {
                    // A snapshot begins, so no transaction writes: a VFS above has kept UNLOCK(WRITE) back. Frees its
                    // lane, its spill file and WRITE.
                    self.roll_back(file);
                }
                self.begin_read(file, base, first == READ)
            }
            (ShmAction::UnlockShared, READ..) => {
                if self.checkpointer.previous == AfterCommit::Committed {
                    self.checkpointer.after = AfterCommit::ReadReleased;
                }
                self.end_read();
                Ok(())
            }
            (ShmAction::LockExclusive, WRITE) => self.begin_write(file, base),
            (ShmAction::UnlockExclusive, WRITE) => {
                self.end_write(file);
                Ok(())
            }
            // `sqlite3_snapshot_recover`: SQLite checkpoints in no read transaction (`sqlite3BtreeCheckpoint`).
            (ShmAction::LockExclusive, CHECKPOINT) if self.is_reading() => Err(Code::ERROR),
            (ShmAction::LockExclusive, CHECKPOINT) => self.begin_checkpoint(),
            // `sqlite3_snapshot_open` and its check only: the headers of two views may be equal, and stand for
            // different commits.
            (ShmAction::LockShared, CHECKPOINT) => Err(Code::ERROR_SNAPSHOT),
            (ShmAction::UnlockExclusive, CHECKPOINT) => {
                self.end_checkpoint();
                Ok(())
            }
            (ShmAction::LockExclusive, READ..) => self.exclude_readers(),
            // RECOVER never comes, since the header is always valid; unlocks of what was granted.
            _ => Ok(()),
        }
    }

    /// What SQLite knows of the log and of its `-wal`, which it had for itself, is in the database file: it continues
    /// to read by this view.
    ///
    /// # Errors
    /// The control block is damaged.
    pub(super) fn resume(&mut self, view: Box<View>) -> Result<(), EngineError> {
        self.view = *view;
        self.reader.seen = self.engine.connections.take_snapshot(self.me, false)?;
        self.view.adopt(self.reader.seen);
        (self.wal, self.reader.lock, self.is_powersafe) = (WalFile::Open, ReadLock::Held, true);
        Ok(())
    }

    /// `pagerExclusiveLock` takes its question for EXCLUSIVE back: a change of `journal_mode` was refused, not a close.
    pub(super) fn goes_on(&mut self) {
        if self.wal == WalFile::Closing {
            self.wal = WalFile::Open;
        }
    }

    /// Logs the error by `sqlite3_log`, and returns SQLite's code.
    pub(super) fn failed(&self, error: &EngineError) -> Code {
        let code = error.code();
        self.log(code, &error.to_string());
        code
    }

    pub(super) fn log(&self, code: Code, text: &str) {
        let text = format!("pwal: {}: {text}", self.engine.log.path.display());
        self.engine.log.environment.host.log(code.number(), &text);
    }

    /// `xLock(EXCLUSIVE)`, `by_the_wal`: only the last handle of all processes gets it, with its WAL open and no read lock. The log is
    /// retired then. `xLock(RESERVED)`, not `by_the_wal`: `journal_mode` leaves WAL before this connection has opened
    /// it (`sqlite3PagerCloseWal` finds no file then), and `sqlite3BtreeSetVersion` writes as in rollback mode: what it has
    /// read of the file by then must be all there is.
    /// `for_itself`: [`WalConnection::asks_for_itself`]. `leaves_wal`: the user asked for it, so a refusal is logged.
    ///
    /// # Errors
    /// `BUSY`; what the retirement met: stamp and log stay.
    pub(super) fn retire_for_exclusive(
        &mut self,
        by_the_wal: bool,
        for_itself: bool,
        leaves_wal: bool,
    ) -> Result<Box<dyn DatabaseHandle>, Code> {
        if by_the_wal && !for_itself {
            self.wal = WalFile::Closing;
        }
        self.check_mine()?;
        if self.writer.holds_write || !for_itself && (self.is_reading() || by_the_wal != self.wal_is_open()) {
            return Err(Code::BUSY);
        }
        if self.is_reading() && !self.is_all_backfilled() {
            self.wants_alone = true;
            let why = match self.is_powersafe {
                true => {
                    "locking_mode=EXCLUSIVE is had by the next transaction that finds the database unused by others"
                }
                false => {
                    "locking_mode=EXCLUSIVE can be had before the database is first read only: its disk has no powersafe overwrite"
                }
            };
            self.log(Code::BUSY, why);
            return Err(Code::BUSY);
        }
        self.unpin();
        let mut of_entry = self.entry.engine.lock();
        if self.engine.connections.count() > 1 {
            return Err(Code::BUSY);
        }
        let retired = self.engine.retire_alone(!for_itself && !by_the_wal);
        if self.engine.log.is_retired() {
            *of_entry = None;
        }
        retired.map_err(|error| match error {
            // SQLite asks this at each close, too.
            EngineError::OtherMembers { .. } if !leaves_wal && !for_itself => Code::BUSY,
            error => self.failed(&error),
        })?;
        self.engine.connections.remove(self.me);
        self.view.set_checkpoint_info(self.view.max_frame(), true);
        self.engine.exclusive.take_database_handle().ok_or(Code::IOERR_LOCK)
    }

    /// Whether `xLock(EXCLUSIVE)` now is that of `locking_mode=EXCLUSIVE`: before the WAL is opened, or with a read lock.
    pub(super) fn asks_for_itself(&self) -> bool {
        self.is_reading() || !self.wal_is_open()
    }

    /// Whether the present snapshot is the newest state, and SQLite reads all of it from the database file.
    fn is_all_backfilled(&self) -> bool {
        let published = self.engine.log.marks.published();
        self.reader.at_zero
            && self.view.sequence() == Some(published)
            && self.engine.log.marks.backfilled() == published
    }

    /// The log is retired, and the next commit makes it anew.
    ///
    /// # Errors
    /// Why not; it is there still, but for a failure that poisons.
    pub(super) fn retire_log(&mut self) -> Result<&'static str, (Code, String)> {
        self.engine_of_this_process()?;
        // No process joins, leaves or retires meanwhile.
        let _entry = self.entry.engine.lock();
        match self.engine.rest() {
            Ok(Rest::Retired) => Ok("retired"),
            Ok(Rest::NoLog) => Ok("no log"),
            Err(error) => Err((error.code(), error.to_string())),
        }
    }

    /// The engine, for a wait of this connection.
    pub(super) fn engine_of_this_process(&mut self) -> Result<Arc<Engine>, (Code, String)> {
        self.check_mine().map_err(|code| (code, String::from("the database has to be opened anew")))?;
        Ok(Arc::clone(&self.engine))
    }

    /// The view of a handle whose engine is retired.
    pub(super) fn into_view(self) -> Box<View> {
        Box::new(self.view)
    }

    /// The handle closes.
    pub(super) fn leave(mut self, file: &OpenFile) {
        if !self.engine.log.is_of_this_process() {
            return;
        }
        self.roll_back(file);
        if !self.engine.log.is_mine() {
            return;
        }
        let mut of_entry = self.entry.engine.lock();
        if !self.engine.connections.remove(self.me) {
            return;
        }
        // `SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE`: a WAL that is closed without the question for EXCLUSIVE stays.
        let keep_log = self.wal == WalFile::Open;
        if let Err(error) = self.engine.close(keep_log) {
            self.failed(&error);
        }
        *of_entry = None;
    }
}
