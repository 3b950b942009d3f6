//! A connection on pwal: SQLite's locks of the wal-index become snapshots, the write lock and checkpoints of the engine.

use super::committed::PageFailure;
use super::registry::Entry;
use super::roles::{Checkpointer, ReadLock, Reader, Transaction, Writer};
use crate::engine::{Connection, Engine, EngineError};
use crate::sqlite::Code;
use crate::view::{Snapshot, View};
use std::sync::Arc;

/// A view that gets commits of others is built anew when its `mxFrame` passes this and the frames that are not backfilled: `wal_hook`
/// and autocheckpoint get that number.
pub(super) const FRAMES_BEYOND_LOG: u32 = 1000;
/// SQLite's handle on the virtual WAL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WalFile {
    NotOpen,
    Open,
    /// `xLock(EXCLUSIVE)` came: SQLite closes the connection's WAL and wants it checkpointed.
    Closing,
}

/// A connection on pwal: what SQLite's calls on the wal-index and the WAL of one database mean for its engine.
///
/// It has three roles, each with the state of one of SQLite's locks: a [`Reader`] (`READ_LOCK`, [`super::reader`]), a
/// [`Writer`] (WRITE, [`super::transaction`], [`super::concurrent`]) and a [`Checkpointer`] (CKPT, [`super::checkpointer`]). They share
/// the view, through which every commit goes that one of them shows or publishes.
///
/// Here is what the steps of all of them use: whether the connection may go on, its snapshot, its lane. The steps stand above, in this
/// order: checkpointer, concurrent, reader, transaction; above them [`super::wal_index`] knows which of them a call of SQLite is for,
/// and [`super::ending`] how the connection ends.
pub(super) struct WalConnection {
    pub(super) engine: Arc<Engine>,
    pub(super) entry: Arc<Entry>,
    pub(super) me: Connection,
    pub(super) view: View,
    pub(super) reader: Reader,
    pub(super) writer: Writer,
    pub(super) checkpointer: Checkpointer,
    pub(super) wal: WalFile,
    /// This connection will ask to have the database for itself (`locking_mode=EXCLUSIVE`, [`super::alone`]).
    pub(super) wants_alone: bool,
    /// The base promises `SQLITE_IOCAP_POWERSAFE_OVERWRITE`, too.
    pub(super) is_powersafe: bool,
    /// Another VFS lies above, which passes on what it was tried with ([`super::Above::PassesOn`]).
    pub(super) is_below: bool,
    /// A panic came out of a call, or what SQLite believes and what is true differ: only `xClose` is left.
    pub(super) broken: bool,
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

    /// # Errors
    /// `IOERR`: the engine is a parent process's, the process is exiting, or a call panicked. Only `xClose` is left.
    pub(super) fn check_mine(&self) -> Result<(), Code> {
        if self.engine.log.is_mine() && !self.broken { Ok(()) } else { Err(Code::IOERR) }
    }

    pub(super) fn wal_opened(&mut self) {
        if self.wal == WalFile::NotOpen {
            self.wal = WalFile::Open;
        }
    }

    pub(super) fn wal_is_open(&self) -> bool {
        self.wal != WalFile::NotOpen
    }

    /// Whether SQLite has a read lock.
    pub(super) fn is_reading(&self) -> bool {
        matches!(self.reader.lock, ReadLock::Held | ReadLock::Retries)
    }

    /// The commit that the connection sees: that of its view, or a later one to which it has moved.
    pub(super) fn snapshot(&self) -> u64 {
        let of_view = self.view.sequence().unwrap_or(0);
        self.writer.concurrent.as_ref().map_or(of_view, |concurrent| concurrent.snapshot(of_view))
    }

    /// R5.3: a view that shows what was rolled back shows nothing. Nor does one over a file that was replaced.
    pub(super) fn check_lost(&self) -> Result<(), Code> {
        self.check_mine()?;
        self.check_replaced()?;
        if self.is_reading()
            && self.view.sequence().is_some_and(|sequence| sequence < self.engine.log.marks.control().ended_below())
        {
            // As a snapshot that has become too old to write by.
            return Err(Code::BUSY_SNAPSHOT);
        }
        if self.engine.log.shows_lost(self.view.newest_shown().max(self.snapshot())) {
            return Err(Code::IOERR_READ);
        }
        Ok(())
    }

    /// # Errors
    /// `IOERR_READ`: another file has the name of the database.
    pub(super) fn check_replaced(&self) -> Result<(), Code> {
        if self.engine.log.marks.control().is_replaced() { Err(Code::IOERR_READ) } else { Ok(()) }
    }

    /// Why what was seen is lost.
    pub(super) fn lost(&self) -> EngineError {
        let gone = EngineError::Poisoned { reason: "a flush failed".to_owned(), unknown: true };
        self.engine.log.check_poison().err().unwrap_or(gone)
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

    /// As [`WalConnection::failed`], for a page that could not be read, or not put into the lane.
    pub(super) fn page_failed(&self, failure: PageFailure) -> Code {
        match failure {
            PageFailure::Base(code) => code,
            PageFailure::Engine(error) => self.failed(&error),
            PageFailure::Spill(error) => {
                self.log(Code::IOERR_READ, &format!("spill file of the transaction: {error}"));
                Code::IOERR_READ
            }
            PageFailure::Lane(error) => {
                self.log(Code::IOERR_WRITE, &error.to_string());
                Code::IOERR_WRITE
            }
        }
    }

    pub(super) fn log(&self, code: Code, text: &str) {
        let text = format!("pwal: {}: {text}", self.engine.log.path.display());
        self.engine.log.environment.host.log(code.number(), &text);
    }

    /// WRITE is held, or virtual: binds a lane, for a commit after `published`.
    pub(super) fn start_transaction(&mut self, published: u64) {
        let (number, memory) = self.engine.lanes.bind(self.engine.log.settings.lanes());
        self.writer.lane = Some(number);
        self.view.swap_lane_memory(memory);
        self.reader.wrote = true;
        self.view.begin_write(self.engine.log.log_id, published + 1);
        if !self.writer.is_virtual() {
            self.engine.log.marks.forget_staged_spill();
        }
        self.view.set_lane_bytes_max(lane_bytes(&self.engine));
        self.writer.transaction = Transaction::Staging { spill: None };
    }

    /// Whether `xLock(EXCLUSIVE)` now is that of `locking_mode=EXCLUSIVE`: before the WAL is opened, or with a read lock.
    pub(super) fn asks_for_itself(&self) -> bool {
        self.is_reading() || !self.wal_is_open()
    }

    /// The engine, for a wait of this connection.
    pub(super) fn engine_of_this_process(&mut self) -> Result<Arc<Engine>, (Code, String)> {
        self.check_mine().map_err(|code| (code, String::from("the database has to be opened anew")))?;
        Ok(Arc::clone(&self.engine))
    }
}

/// What a transaction may stage in memory.
pub(super) fn lane_bytes(engine: &Engine) -> usize {
    usize::try_from(engine.log.settings.batch_bytes_max()).unwrap_or(usize::MAX)
}
