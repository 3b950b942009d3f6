//! SQLite's calls on the wal-index of a connection on pwal: which of its roles each is for.

use super::base::{BaseFile, ShmAction};
use super::below::Withheld;
use super::file::OpenFile;
use super::roles::{AfterCommit, ReadLock};
use super::wal_connection::WalConnection;
use crate::sqlite::Code;
use crate::view::Region;
use std::sync::Arc;

/// `WAL_WRITE_LOCK`
const WRITE: u32 = 0;
/// `WAL_CKPT_LOCK`
const CHECKPOINT: u32 = 1;
/// `WAL_READ_LOCK(0)`
const READ: u32 = 3;

impl WalConnection {
    /// Any call of SQLite on this handle but PHASETWO: a transaction whose WRITE is released and whose PHASETWO did not
    /// come is rolled back.
    pub(super) fn called(&mut self, file: &OpenFile) {
        self.checkpointer.called();
        if self.writer.called() && self.engine.log.is_of_this_process() {
            if self.is_below && self.is_committed(file) {
                self.distrust(file, Withheld::PhaseTwo);
                if self.commit_phase_two(file).is_err() {
                    self.give_up(file);
                }
            } else {
                self.roll_back(file);
            }
        }
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

    /// # Errors
    /// `CANTOPEN`: a VFS above asks by itself (`walIndexRecover` does not, since the view's header is always valid).
    pub(super) fn wal_bytes(&self, file: &OpenFile) -> Result<u64, Code> {
        if self.is_below && !self.reader.was_locked {
            return Err(self.distrust(file, Withheld::Locks));
        }
        Ok(self.view.wal_bytes())
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
}
