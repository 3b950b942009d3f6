//! The checkpointer of a connection: SQLite's lock CKPT becomes a checkpoint of the engine.
//!
//! SQLite copies no frame: `WalCkptInfo` shows it what the engine has moved to the database file. A requested
//! checkpoint is made between lock and unlock; an autocheckpoint, inside COMMIT, only wakes the background thread. The
//! calls of the two are the same, so the place after a commit and the number of frames distinguish them.

use super::wal_connection::WalConnection;
use crate::sqlite::Code;

/// A view that gets commits of others is built anew when its `mxFrame` passes this and the frames that are not backfilled: `wal_hook`
/// and autocheckpoint get that number.
pub(super) const FRAMES_BEYOND_LOG: u32 = 1000;
/// The same for a view whose commits were all brought to the database file at this connection's request; directly after
/// a commit, where a `wal_hook` may request a checkpoint, which would do so for each commit from there on.
const FRAMES_BEHIND_HOOK: u32 = 64;

/// `SQLITE_DEFAULT_WAL_AUTOCHECKPOINT`, in frames.
pub(super) const AUTOCHECKPOINT: i32 = 1000;

/// A checkpoint of this connection, between lock and unlock of CKPT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Checkpointing {
    No,
    /// An autocheckpoint inside COMMIT: the background thread works. Work starts here only if SQLite asks for more.
    Automatic,
    Requested,
}

/// Where the connection is after its last commit: a checkpoint that follows at once is an autocheckpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AfterCommit {
    No,
    Committed,
    ReadReleased,
}

/// What a connection checkpoints, and what SQLite knows of it.
pub(super) struct Checkpointer {
    pub(super) running: Checkpointing,
    pub(super) after: AfterCommit,
    /// What `after` was before this call.
    pub(super) previous: AfterCommit,
    /// A backfilled commit, and the number of its last frame.
    backfilled: (u64, u64),
    /// `PRAGMA wal_autocheckpoint` of the handle, in frames.
    pub(super) autocheckpoint: i32,
    /// A checkpoint came directly after the last commit after which SQLite's own hook asks for one, and none where it does not.
    pub(super) hook_is_sqlites: bool,
}

impl Default for Checkpointer {
    fn default() -> Checkpointer {
        Checkpointer {
            running: Checkpointing::No,
            after: AfterCommit::No,
            previous: AfterCommit::No,
            backfilled: (0, 0),
            autocheckpoint: AUTOCHECKPOINT,
            hook_is_sqlites: false,
        }
    }
}

impl Checkpointer {
    /// A call of SQLite comes.
    pub(super) fn called(&mut self) {
        self.previous = std::mem::replace(&mut self.after, AfterCommit::No);
    }

    pub(super) fn end(&mut self) {
        self.running = Checkpointing::No;
    }

    pub(super) fn is_running(&self) -> bool {
        self.running != Checkpointing::No
    }
}

impl WalConnection {
    /// CKPT (`sqlite3WalCheckpoint`).
    pub(super) fn begin_checkpoint(&mut self) -> Result<(), Code> {
        self.engine.log.check_poison().map_err(|error| self.failed(&error))?;
        if self.is_automatic() {
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

    /// Whether this CKPT is an autocheckpoint, inside COMMIT's own step, which must not wait. `sqlite3_wal_checkpoint`
    /// after a commit, by the application, makes the same calls; and SQLite cannot be asked whether its hook is
    /// installed. So the first call that might be the hook's is taken for the application's, and later ones as long as
    /// the hook would make exactly these.
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
