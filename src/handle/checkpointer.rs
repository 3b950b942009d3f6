//! The checkpointer of a connection: SQLite's lock CKPT becomes a checkpoint of the engine.
//!
//! SQLite copies no frame: `WalCkptInfo` shows it what the engine has moved to the database file. A requested
//! checkpoint is made between lock and unlock; an autocheckpoint, inside COMMIT, only wakes the background thread. The
//! calls of the two are the same, so the place after a commit and the number of frames distinguish them.

use super::roles::{AfterCommit, Checkpointing};
use super::wal_connection::{FRAMES_BEYOND_LOG, WalConnection};
use crate::sqlite::Code;
use std::sync::Arc;

/// As [`FRAMES_BEYOND_LOG`], for a view whose commits were all brought to the database file at this connection's request; directly after
/// a commit, where a `wal_hook` may request a checkpoint, which would do so for each commit from there on.
const FRAMES_BEHIND_HOOK: u32 = 64;

impl WalConnection {
    /// CKPT (`sqlite3WalCheckpoint`).
    pub(super) fn begin_checkpoint(&mut self) -> Result<(), Code> {
        self.engine.log.check_poison().map_err(|error| self.failed(&error))?;
        let entry = Arc::clone(&self.entry);
        // Where SQLite's own hook makes one, inside COMMIT's own step. `sqlite3_wal_checkpoint` after a commit, by the application, makes the
        // same calls; and SQLite cannot be asked whether its hook is installed. While such a call of another connection runs this one is
        // taken for the hook's: stock SQLite waits for no other checkpoint (`sqlite3WalCheckpoint`), and where many connections begin to
        // write together, each would wait for those of all the others.
        let may_be_hooks = self.checkpointer.previous == AfterCommit::ReadReleased && self.is_autocheckpoint_due();
        let only_one = may_be_hooks.then(|| entry.after_commit.try_lock()).flatten();
        if self.is_automatic() || may_be_hooks && only_one.is_none() && !crate::drops("hook-one-at-a-time") {
            self.checkpointer.running = Checkpointing::Automatic;
            let waiting = self.view.max_frame() - self.backfilled_frames();
            if i64::from(waiting) >= i64::from(self.checkpointer.autocheckpoint) {
                self.engine.wake_checkpoint();
            }
            self.show_backfilled();
            return Ok(());
        }
        self.checkpointer.running = Checkpointing::Requested;
        let bound = match self.checkpointer.previous {
            AfterCommit::ReadReleased if !self.is_autocheckpoint_due() => FRAMES_BEHIND_HOOK,
            _ => FRAMES_BEYOND_LOG,
        };
        self.run_checkpoint().inspect_err(|_| self.end_checkpoint())?;
        if self.view.max_frame() > bound && self.engine.log.marks.backfilled() >= self.view.newest_shown() {
            self.view.renumber();
        }
        Ok(())
    }

    /// Whether SQLite's own hook requests a checkpoint after a commit (`sqlite3WalDefaultHook`), if it is installed.
    pub(super) fn is_autocheckpoint_due(&self) -> bool {
        u32::try_from(self.checkpointer.autocheckpoint)
            .is_ok_and(|frames| frames > 0 && self.view.max_frame() >= frames)
    }

    /// Whether this CKPT is an autocheckpoint, which must not wait. The first call that might be the hook's is taken for the
    /// application's, and later ones as long as the hook would make exactly these.
    fn is_automatic(&mut self) -> bool {
        if self.checkpointer.previous != AfterCommit::ReadReleased {
            return false;
        }
        let due = self.is_autocheckpoint_due();
        std::mem::replace(&mut self.checkpointer.hook_is_sqlites, due) && due
    }

    /// Brings the view to what is visible and the database file as near to it as readers allow.
    pub(super) fn run_checkpoint(&mut self) -> Result<(), Code> {
        self.engine.checkpointer.make_visible().map_err(|error| self.failed(&error))?;
        let refreshed = if self.is_reading() { Ok(false) } else { self.refresh_to_snapshot(false) };
        let result = refreshed
            .and_then(|_| self.engine.checkpointer.checkpoint_on_request())
            .map_err(|error| self.failed(&error));
        if !self.is_reading() {
            self.engine.connections.drop_snapshot(self.me);
        }
        self.show_backfilled();
        result
    }

    /// How many virtual frames of the snapshot, from the first on, are backfilled.
    pub(super) fn backfilled_frames(&mut self) -> u32 {
        let commit = self.engine.log.marks.backfilled().min(self.view.newest_shown());
        if self.checkpointer.backfilled.0 != commit {
            self.checkpointer.backfilled = (commit, self.engine.reader.last_number(commit));
        }
        self.view.frames_up_to(self.checkpointer.backfilled.1)
    }

    /// What SQLite shall find in `WalCkptInfo`: everything is done (true), or so far, and then nothing for SQLite to
    /// write: no reader's mark lies beyond.
    fn show_backfilled(&mut self) -> bool {
        let all = self.engine.log.marks.backfilled() >= self.view.newest_shown();
        let frames = if all { self.view.max_frame() } else { self.backfilled_frames() };
        self.view.set_checkpoint_info(frames, all);
        all
    }

    /// EXCLUSIVE on READ_LOCK(1..): in a checkpoint granted when all is done, after one more attempt; outside, SQLite
    /// moves a read mark. SQLite has copied the header by now, so the view stays as it is; the background thread may have
    /// done more since SQLite was shown how much, and what is granted must be what is shown.
    pub(super) fn exclude_readers(&mut self) -> Result<(), Code> {
        if self.checkpointer.running == Checkpointing::No {
            // `walRestartLog`, by a connection that was to have the database for itself and writes beside others.
            return if self.is_reading() && self.reader.at_zero { Err(Code::BUSY) } else { Ok(()) };
        }
        if self.show_backfilled() {
            return Ok(());
        }
        if self.checkpointer.running == Checkpointing::Requested {
            self.engine.checkpointer.checkpoint_on_request().map_err(|error| self.failed(&error))?;
        }
        if self.show_backfilled() { Ok(()) } else { Err(Code::BUSY) }
    }

    pub(super) fn end_checkpoint(&mut self) {
        self.checkpointer.running = Checkpointing::No;
        if self.view.live_max_frame_is_zero() {
            // TRUNCATE (`walRestartHdr`) emptied the header: the next snapshot builds it anew. All is in the database file.
            self.engine.checkpointer.shrink();
            if let Err(error) = self.refresh_to_snapshot(false) {
                // The next snapshot says it.
                self.failed(&error);
            }
            self.engine.connections.drop_snapshot(self.me);
        }
        self.view.reset_checkpoint_info();
    }
}
