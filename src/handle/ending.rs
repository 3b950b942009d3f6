//! How a connection on pwal ends: it closes, it retires the log and has the database for itself or in rollback mode, or a call panicked.
//! And the log that is retired under it.

use super::file::OpenFile;
use super::wal_connection::{WalConnection, WalFile};
use crate::engine::{EngineError, Rest};
use crate::host::DatabaseHandle;
use crate::sqlite::Code;

impl WalConnection {
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
