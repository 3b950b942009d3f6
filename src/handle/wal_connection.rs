//! A handle behind which an engine lives: how SQLite's locks on the wal-index become snapshots, the write
//! lock and checkpoints of the engine.

use super::registry::Entry;
use super::transaction::Transaction;
use super::writers::{Begun, Writers};
use super::{BaseFile, DatabaseHandle, OpenFile, Running, ShmAction, siblings};
use crate::engine::{Connection, Engine, EngineError, Rest};
use crate::sqlite::Code;
use crate::view::{Region, Snapshot, View};
use std::sync::Arc;

/// `WAL_WRITE_LOCK`
const WRITE: u32 = 0;
/// `WAL_CKPT_LOCK`
const CHECKPOINT: u32 = 1;
/// `WAL_READ_LOCK(0)`
const READ: u32 = 3;
/// A view that gets commits of others is built anew when its `mxFrame` passes this and the frames that are not backfilled: `wal_hook`
/// and autocheckpoint get that number.
const FRAMES_BEYOND_LOG: u32 = 1000;
/// The same for a view whose commits were all brought to the database file because this connection asked for it; directly behind
/// a commit, where a `wal_hook` may ask, which would ask for each commit from there on.
const FRAMES_BEHIND_HOOK: u32 = 64;

/// A checkpoint of this connection, between lock and unlock of CKPT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Checkpointing {
    No,
    /// An autocheckpoint inside COMMIT: the background thread works. Work starts here only if SQLite asks for more.
    Automatic,
    Requested,
}

/// Where the connection is behind its last commit: a checkpoint that follows at once is an autocheckpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AfterCommit {
    No,
    Committed,
    ReadReleased,
}

pub(super) struct WalConnection {
    pub(super) engine: Arc<Engine>,
    entry: Arc<Entry>,
    pub(super) me: Connection,
    pub(super) view: View,
    wal_open: bool,
    reading: bool,
    /// The snapshot changed the header: SQLite unlocks and comes again (`WAL_RETRY`).
    retry: bool,
    /// Between the two: the snapshot is kept.
    pinned: bool,
    pub(super) holds_write: bool,
    /// WRITE was taken in this read transaction.
    pub(super) wrote: bool,
    /// Which transactions get the newest published state as their snapshot.
    writers: Writers,
    refused: bool,
    /// The present snapshot began with a grant of WRITE.
    granted: bool,
    /// WRITE was refused, and no transaction that only read has come since.
    was_refused: bool,
    /// A backfilled commit, and the number of its last frame.
    backfilled: (u64, u64),
    /// The newest commit that this connection has shown to the application.
    pub(super) seen: u64,
    /// What `seen` was before the present read transaction.
    seen_before: u64,
    checkpointing: Checkpointing,
    pub(super) behind: AfterCommit,
    /// What `behind` was before this call.
    previous: AfterCommit,
    /// UNLOCK(WRITE) was the last call, and took a prepared transaction for rolled back: a PHASETWO now would say that it
    /// was not.
    pub(super) undone_at_unlock: bool,
    /// SQLite's own header stands for a commit that is rolled back, until its next snapshot.
    pub(super) shows_rolled_back: bool,
    /// A panic came out of a call: only `xClose` is left.
    broken: bool,
    pub(super) transaction: Transaction,
    /// PHASETWO runs for this commit.
    pub(super) committing: Option<u64>,
    /// The lane that the transaction is bound to.
    pub(super) lane: Option<u16>,
    /// This connection will ask to have the database for itself (`locking_mode=EXCLUSIVE`, [`super::alone`]).
    pub(super) wants_alone: bool,
    /// The present snapshot is read by `READ_LOCK(0)`: all of it from the database file.
    at_zero: bool,
    /// The base promises `SQLITE_IOCAP_POWERSAFE_OVERWRITE`, too.
    pub(super) is_powersafe: bool,
    /// `xLock(EXCLUSIVE)` came: SQLite closes the connection's WAL and wants it checkpointed.
    asked_exclusive: bool,
    /// As of the handle.
    pub(super) autocheckpoint: i32,
    /// A checkpoint came directly behind the last commit after which SQLite's own hook asks for one, and none where it does not.
    hook_is_sqlites: bool,
    /// Another VFS lies above, which passes on what it was tried with ([`super::Above::PassesOn`]).
    pub(super) is_below: bool,
    /// A read lock of the wal-index has come.
    was_locked: bool,
}

/// What a transaction may stage in memory.
fn lane_bytes(engine: &Engine) -> usize {
    usize::try_from(engine.settings.batch_bytes_max()).unwrap_or(usize::MAX)
}

impl WalConnection {
    /// # Errors
    /// The engine takes no more connections.
    pub(super) fn new(engine: &Arc<Engine>, entry: &Arc<Entry>, is_below: bool) -> Result<WalConnection, EngineError> {
        let me = engine.add_connection()?;
        Ok(WalConnection {
            engine: Arc::clone(engine),
            entry: Arc::clone(entry),
            me,
            view: View::new(engine.page_bytes, lane_bytes(engine)),
            wal_open: false,
            reading: false,
            retry: false,
            pinned: false,
            holds_write: false,
            wrote: false,
            writers: Writers::default(),
            refused: false,
            granted: false,
            was_refused: false,
            backfilled: (0, 0),
            seen: 0,
            seen_before: 0,
            checkpointing: Checkpointing::No,
            behind: AfterCommit::No,
            previous: AfterCommit::No,
            undone_at_unlock: false,
            shows_rolled_back: false,
            broken: false,
            transaction: Transaction::None,
            committing: None,
            lane: None,
            wants_alone: false,
            at_zero: false,
            is_powersafe: false,
            asked_exclusive: false,
            autocheckpoint: super::AUTOCHECKPOINT,
            hook_is_sqlites: false,
            is_below,
            was_locked: false,
        })
    }

    /// Any call of SQLite on this handle but PHASETWO: a transaction whose WRITE is released and whose PHASETWO did not
    /// come is rolled back.
    pub(super) fn called(&mut self, file: &Arc<OpenFile>) {
        self.undone_at_unlock = false;
        self.previous = std::mem::replace(&mut self.behind, AfterCommit::No);
        if self.transaction.waits_for_phase_two() && self.engine.is_of_this_process() {
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
        if self.engine.is_mine() && !self.broken { Ok(()) } else { Err(Code::IOERR) }
    }

    /// A call panicked: this view is worth nothing any more, what it answered may be half true, and nobody shall wait for
    /// what it held.
    pub(super) fn after_panic(&mut self, file: &Arc<OpenFile>) {
        if self.broken || !self.engine.is_mine() {
            self.broken = true;
            return;
        }
        self.log(Code::INTERNAL, "a call of SQLite panicked; the connection has to be closed");
        self.give_up(file);
    }

    /// What SQLite believes of this connection and what is true of it differ: only `xClose` is left.
    pub(super) fn give_up(&mut self, file: &Arc<OpenFile>) {
        self.broken = true;
        self.end_given_up(file);
        self.checkpointing = Checkpointing::No;
        self.pinned = false;
        self.reading = false;
        self.engine.drop_snapshot(self.me);
    }

    pub(super) fn region(&mut self, index: u32, extend: bool) -> Result<Option<Arc<Region>>, Code> {
        if self.view.sequence().is_none() {
            // Valid from the start, so that SQLite never runs its own recovery.
            let refreshed = self.refresh_to_snapshot(false);
            self.engine.drop_snapshot(self.me);
            refreshed.map_err(|error| self.failed(&error))?;
        }
        Ok(self.view.region(index, extend))
    }

    pub(super) fn wal_opened(&mut self) {
        self.wal_open = true;
    }

    pub(super) fn wal_is_open(&self) -> bool {
        self.wal_open
    }

    /// # Errors
    /// `CANTOPEN`: a VFS above asks by itself (`walIndexRecover` does not, since the view's header is always valid).
    pub(super) fn wal_bytes(&self, file: &OpenFile) -> Result<u64, Code> {
        if self.is_below && !self.was_locked {
            return Err(self.distrust_reads(file));
        }
        Ok(self.view.wal_bytes())
    }

    /// Registers a snapshot and brings the view to it; true: the header changed.
    ///
    /// # Errors
    /// What other processes wrote cannot be read; the snapshot is registered nevertheless.
    fn refresh_to_snapshot(&mut self, newest: bool) -> Result<bool, EngineError> {
        let sequence = self.engine.take_snapshot(self.me, newest)?;
        let view = &mut self.view;
        if view.stands_for(sequence) {
            return Ok(false);
        }
        self.engine.with_frames(
            |table, facts| {
                let to = Snapshot { sequence, database_pages: facts.database_pages };
                let bound = u32::try_from(facts.frames).unwrap_or(u32::MAX).saturating_add(FRAMES_BEYOND_LOG);
                view.refresh(table, to, bound)
            },
            sequence,
        )
    }

    /// `xShmLock`. Source of the lock's numbers: <https://www.sqlite.org/walformat.html>.
    pub(super) fn shm_lock(&mut self, file: &Arc<OpenFile>, first: u32, action: ShmAction) -> Result<(), Code> {
        self.check_mine()?;
        match (action, first) {
            (ShmAction::LockShared, READ..) => self.begin_read(file, first == READ),
            (ShmAction::UnlockShared, READ..) => {
                if self.previous == AfterCommit::Committed {
                    self.behind = AfterCommit::ReadReleased;
                }
                self.end_read();
                Ok(())
            }
            (ShmAction::LockExclusive, WRITE) => self.begin_write(),
            (ShmAction::UnlockExclusive, WRITE) => {
                self.end_write(file);
                Ok(())
            }
            // `sqlite3_snapshot_recover`: SQLite checkpoints in no read transaction (`sqlite3BtreeCheckpoint`).
            (ShmAction::LockExclusive, CHECKPOINT) if self.reading => Err(Code::ERROR),
            (ShmAction::LockExclusive, CHECKPOINT) => self.begin_checkpoint(),
            // `sqlite3_snapshot_open` and its check, nobody else: the headers of two views may be equal, and stand for
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

    /// The moment of the snapshot (`walTryBeginRead`).
    fn begin_read(&mut self, file: &OpenFile, at_zero: bool) -> Result<(), Code> {
        self.at_zero = at_zero;
        self.was_locked = true;
        if std::mem::take(&mut self.pinned) {
            self.reading = true;
            return Ok(());
        }
        self.check_replaced().inspect_err(|_| {
            self.engine.queue.give_up_grant(self.me.id);
            self.log(Code::IOERR_READ, &self.lost().to_string());
        })?;
        self.engine.refresh_exclusive();
        if self.previous == AfterCommit::ReadReleased && self.is_autocheckpoint_due() {
            self.hook_is_sqlites = false;
        }
        let newest = self.wants_newest(file);
        let alone = self.shows_backfilled();
        let changed = match self.refresh_to_snapshot(newest) {
            Ok(changed) => changed,
            Err(error) => {
                self.engine.drop_snapshot(self.me);
                self.engine.queue.give_up_grant(self.me.id);
                return Err(self.failed(&error));
            }
        };
        let sequence = self.view.sequence().unwrap_or(0);
        if sequence < self.seen || self.engine.hides_acknowledged() {
            // R5.3: what this connection saw was rolled back with a flush that failed; or an older state than others were
            // told of would be shown.
            self.engine.drop_snapshot(self.me);
            self.engine.queue.give_up_grant(self.me.id);
            return Err(self.failed(&self.lost()));
        }
        if changed {
            self.retry = true;
        }
        if alone {
            self.view.set_checkpoint_info(self.view.max_frame(), true);
        } else if self.view.has_several_blocks() {
            let backfilled = self.backfilled_frames();
            self.view.skip_backfilled(backfilled);
        }
        self.seen_before = std::mem::replace(&mut self.seen, sequence);
        self.reading = true;
        self.shows_rolled_back = false;
        self.wrote = false;
        if self.holds_write {
            // `SQLITE_ENABLE_SETLK_TIMEOUT` builds take WRITE before their snapshot.
            self.start_transaction(sequence);
        }
        Ok(())
    }

    /// Whether the transaction that begins now gets what is published as its snapshot, not only what is visible. One that writes
    /// and was refused before waits for its turn first.
    fn wants_newest(&mut self, file: &OpenFile) -> bool {
        if !self.was_refused && self.engine.marks.published() == self.engine.marks.visible() {
            self.writers.begun = Begun::Unasked;
            return self.holds_write;
        }
        let running = match file.pager.get() {
            Some(pager) if !file.facts.read_only => pager.running(),
            _ => Running::Unknown,
        };
        let writes = self.writers.begin(running);
        self.granted = match writes && !self.holds_write {
            true => self.engine.queue.line_up(self.me.id),
            false => self.engine.queue.granted(self.me.id),
        };
        writes
            || self.holds_write
            || running == Running::Unknown && self.granted
            // What could not be waited for at the end of an earlier transaction is waited for at the end of this one.
            || self.seen > self.engine.marks.visible()
    }

    /// For the next snapshot: whether the view shall show that all of it is in the database file, so that SQLite takes
    /// `READ_LOCK(0)` and begins the WAL anew with its next write, as the only connection; brings everything there. Where not, and
    /// SQLite has come by that lock, the view gets another header, with which SQLite comes again.
    fn shows_backfilled(&mut self) -> bool {
        let is_alone =
            self.wants_alone && self.is_powersafe && !self.holds_write && self.engine.connection_count() == 1;
        let brings = || self.engine.checkpoint_on_request().map_err(|error| self.failed(&error));
        let done = is_alone && self.engine.check_alone().is_ok() && brings().is_ok();
        let shows = done && self.engine.marks.backfilled() == self.engine.marks.published();
        if shows != self.at_zero {
            self.view.renumber();
        }
        shows
    }

    /// What SQLite knows of the log and of its `-wal`, which it had for itself, is in the database file: it goes on reading by this view.
    ///
    /// # Errors
    /// The control block is damaged.
    pub(super) fn resume(&mut self, view: Box<View>) -> Result<(), EngineError> {
        self.view = *view;
        self.seen = self.engine.take_snapshot(self.me, false)?;
        self.view.adopt(self.seen);
        (self.wal_open, self.reading, self.is_powersafe) = (true, true, true);
        Ok(())
    }

    fn lost(&self) -> EngineError {
        let gone = EngineError::Poisoned { reason: "a flush failed".to_owned(), unknown: true };
        self.engine.check_poison().err().unwrap_or(gone)
    }

    fn end_read(&mut self) {
        if std::mem::take(&mut self.retry) {
            self.reading = false;
            self.pinned = true;
            return;
        }
        if !std::mem::take(&mut self.reading) {
            return;
        }
        if std::mem::take(&mut self.at_zero) && self.holds_write {
            // `walRestartLog`, which was not allowed to: it comes again for the same snapshot, by another lock. The transaction
            // goes on.
            self.pinned = true;
            return;
        }
        let refused = std::mem::take(&mut self.refused);
        if refused && self.writers.begun == Begun::Writes {
            // WRITE was refused to the statement that took the snapshot, in the same `sqlite3BtreeBeginTrans`: nothing has come
            // to the application, so the next snapshot may be an older one.
            self.seen = self.seen_before;
        } else if self.seen > self.engine.marks.visible() {
            // R3: whoever saw more than is durable waits here, where nothing can be reported: if the flush
            // fails, the next snapshot says so.
            let _reported_by_the_next_snapshot = self.engine.wait_visible_of_seen(self.seen);
        }
        self.engine.drop_snapshot(self.me);
        if std::mem::take(&mut self.granted) && !self.wrote {
            self.engine.queue.give_up_grant(self.me.id);
        }
        self.writers.end(self.wrote || refused);
        self.was_refused &= self.wrote || refused;
        if refused {
            siblings::arm_refused(&self.engine, self.me.id);
        }
    }

    fn check_replaced(&self) -> Result<(), Code> {
        if self.engine.marks.control().is_replaced() { Err(Code::IOERR_READ) } else { Ok(()) }
    }

    /// The second attempt did not come.
    pub(super) fn unpin(&mut self) {
        if std::mem::take(&mut self.pinned) {
            self.seen = self.seen_before;
            self.engine.drop_snapshot(self.me);
        }
    }

    /// `pagerExclusiveLock` takes its question for EXCLUSIVE back: a change of `journal_mode` was refused, not a close.
    pub(super) fn goes_on(&mut self) {
        self.asked_exclusive = false;
    }

    fn refuse(&mut self, code: Code) -> Code {
        self.was_refused = true;
        if self.reading {
            self.refused = true;
        } else {
            siblings::arm_refused(&self.engine, self.me.id);
        }
        code
    }

    fn begin_write(&mut self) -> Result<(), Code> {
        self.engine.check_poison().map_err(|error| self.failed(&error))?;
        if !self.engine.queue.try_acquire(self.me.id) {
            return Err(self.refuse(Code::BUSY));
        }
        // In `locking_mode=EXCLUSIVE` SQLite does not come here for a write.
        self.wants_alone &= self.checkpointing != Checkpointing::No;
        let published = self.engine.marks.published();
        if self.checkpointing != Checkpointing::No {
            self.holds_write = true;
            // More than PASSIVE: so no autocheckpoint.
            self.checkpointing = Checkpointing::Requested;
            // An error means to SQLite that it has no lock: it unlocks none.
            return self.run_checkpoint().inspect_err(|_| self.free_write(false));
        }
        if self.reading && self.view.sequence() != Some(published) {
            self.engine.queue.release(self.me.id, false);
            return Err(self.refuse(Code::BUSY_SNAPSHOT));
        }
        self.holds_write = true;
        if self.reading {
            self.start_transaction(published);
        }
        Ok(())
    }

    pub(super) fn start_transaction(&mut self, published: u64) {
        let (number, memory) = self.engine.lanes.bind(self.engine.settings.lanes());
        self.lane = Some(number);
        self.view.swap_lane_memory(memory);
        self.wrote = true;
        self.view.begin_write(self.engine.log_id, published + 1);
        self.engine.forget_staged_spill();
        self.view.set_lane_bytes_max(lane_bytes(&self.engine));
        self.transaction = Transaction::Staging { spill: None };
    }

    /// Whether SQLite's own hook asks for a checkpoint behind a commit (`sqlite3WalDefaultHook`), if it is there.
    fn is_autocheckpoint_due(&self) -> bool {
        u32::try_from(self.autocheckpoint).is_ok_and(|frames| frames > 0 && self.view.max_frame() >= frames)
    }

    /// Whether this CKPT is an autocheckpoint, inside COMMIT's own step, which shall not wait. `sqlite3_wal_checkpoint` behind a commit,
    /// by the application, makes the same calls; and whether SQLite's hook is there cannot be asked. So the first one that might be its is
    /// taken for the application's, and later ones as long as there are no others than it makes.
    fn is_automatic(&mut self) -> bool {
        if self.previous != AfterCommit::ReadReleased {
            return false;
        }
        let due = self.is_autocheckpoint_due();
        std::mem::replace(&mut self.hook_is_sqlites, due) && due
    }

    /// CKPT (`sqlite3WalCheckpoint`).
    fn begin_checkpoint(&mut self) -> Result<(), Code> {
        self.engine.check_poison().map_err(|error| self.failed(&error))?;
        if self.is_automatic() {
            self.checkpointing = Checkpointing::Automatic;
            let waiting = self.view.max_frame() - self.backfilled_frames();
            if i64::from(waiting) >= i64::from(self.autocheckpoint) {
                self.engine.wake_checkpoint();
            }
            self.show_backfilled();
            return Ok(());
        }
        self.checkpointing = Checkpointing::Requested;
        let bound = match self.previous {
            AfterCommit::ReadReleased if !self.is_autocheckpoint_due() => FRAMES_BEHIND_HOOK,
            _ => FRAMES_BEYOND_LOG,
        };
        self.run_checkpoint().inspect_err(|_| self.end_checkpoint())?;
        if self.view.max_frame() > bound && self.engine.marks.backfilled() >= self.view.sequence().unwrap_or(0) {
            self.view.renumber();
        }
        Ok(())
    }

    /// Brings the view to what is visible and the database file as near to it as readers allow.
    fn run_checkpoint(&mut self) -> Result<(), Code> {
        self.engine.make_visible().map_err(|error| self.failed(&error))?;
        let refreshed = if self.reading { Ok(false) } else { self.refresh_to_snapshot(false) };
        let result = refreshed.and_then(|_| self.engine.checkpoint_on_request()).map_err(|error| self.failed(&error));
        if !self.reading {
            self.engine.drop_snapshot(self.me);
        }
        self.show_backfilled();
        result
    }

    /// How many virtual frames of the snapshot, from the first on, are backfilled.
    fn backfilled_frames(&mut self) -> u32 {
        let commit = self.engine.marks.backfilled().min(self.view.sequence().unwrap_or(0));
        if self.backfilled.0 != commit {
            self.backfilled = (commit, self.engine.last_number(commit));
        }
        self.view.frames_up_to(self.backfilled.1)
    }

    /// What SQLite shall find in `WalCkptInfo`: everything is done (true), or so far, and then nothing for SQLite to
    /// write: no reader's mark lies beyond.
    fn show_backfilled(&mut self) -> bool {
        let sequence = self.view.sequence().unwrap_or(0);
        let all = self.engine.marks.backfilled() >= sequence;
        let frames = if all { self.view.max_frame() } else { self.backfilled_frames() };
        self.view.set_checkpoint_info(frames, all);
        all
    }

    /// EXCLUSIVE on READ_LOCK(1..): in a checkpoint granted when all is done, after one more attempt; outside, SQLite
    /// moves a read mark. SQLite has copied the header by now, so the view stays as it is; the background thread may have
    /// done more since SQLite was shown how much, and what is granted must be what is shown.
    fn exclude_readers(&mut self) -> Result<(), Code> {
        if self.checkpointing == Checkpointing::No {
            // `walRestartLog`, by a connection that was to have the database for itself and writes beside others.
            return if self.reading && self.at_zero { Err(Code::BUSY) } else { Ok(()) };
        }
        if self.show_backfilled() {
            return Ok(());
        }
        if self.checkpointing == Checkpointing::Requested {
            self.engine.checkpoint_on_request().map_err(|error| self.failed(&error))?;
        }
        if self.show_backfilled() { Ok(()) } else { Err(Code::BUSY) }
    }

    fn end_checkpoint(&mut self) {
        self.checkpointing = Checkpointing::No;
        if self.view.live_max_frame_is_zero() {
            // TRUNCATE (`walRestartHdr`) emptied the header: the next snapshot builds it anew. All is in the database file.
            self.engine.shrink();
            if let Err(error) = self.refresh_to_snapshot(false) {
                // The next snapshot says it.
                self.failed(&error);
            }
            self.engine.drop_snapshot(self.me);
        }
        self.view.reset_checkpoint_info();
    }

    /// R5.3: a view that shows what was rolled back shows nothing. Nor does one over a file that was replaced.
    pub(super) fn check_lost(&self) -> Result<(), Code> {
        self.check_mine()?;
        self.check_replaced()?;
        if self.reading
            && self.view.sequence().is_some_and(|sequence| sequence < self.engine.marks.control().ended_below())
        {
            // As a snapshot that has become too old to write by.
            return Err(Code::BUSY_SNAPSHOT);
        }
        if self.engine.shows_lost(self.view.sequence().unwrap_or(0)) {
            return Err(Code::IOERR_READ);
        }
        Ok(())
    }

    pub(super) fn wal_read(
        &mut self,
        file: &OpenFile,
        base: &mut dyn BaseFile,
        buffer: &mut [u8],
        offset: u64,
    ) -> Result<(), Code> {
        self.check_lost()?;
        if self.is_below && !self.reading {
            return Err(self.distrust_reads(file));
        }
        let (engine, page_bytes) = (&self.engine, u64::from(self.engine.page_bytes));
        let read = self.view.read(buffer, offset, &mut |number, page, within, part| {
            if number != 0 && engine.read_frame(number, within, part)? {
                return Ok(());
            }
            let at = u64::from(page.saturating_sub(1)) * page_bytes + within;
            match base.read(part, at) {
                // The file was cut to the size at the checkpoint's target: a page behind it is in no later commit of the
                // snapshot. It reads as zeros, as a page behind the end of the database file does.
                Ok(()) | Err(Code::IOERR_SHORT_READ) => {}
                Err(code) => return Err(ReadFailure::Base(code)),
            }
            super::mask(part, at);
            Ok(())
        });
        // What was read may have been erased meanwhile.
        self.check_lost()?;
        read.map_err(|error| match error {
            crate::view::ReadError::Image(ReadFailure::Base(code)) => code,
            crate::view::ReadError::Image(ReadFailure::Engine(error)) => self.failed(&error),
            crate::view::ReadError::BehindEnd { .. } if self.shows_rolled_back => Code::ABORT_ROLLBACK,
            crate::view::ReadError::BehindEnd { .. } => Code::IOERR_SHORT_READ,
            other => {
                self.log(Code::IOERR_READ, &other.to_string());
                Code::IOERR_READ
            }
        })
    }

    /// Tells `sqlite3_log`, and gives SQLite's code.
    pub(super) fn failed(&self, error: &EngineError) -> Code {
        let code = error.code();
        self.log(code, &error.to_string());
        code
    }

    pub(super) fn log(&self, code: Code, text: &str) {
        let text = format!("pwal: {}: {text}", self.engine.path.display());
        self.engine.context.host.log(code.number(), &text);
    }

    /// `xLock(EXCLUSIVE)`, `by_the_wal`: only the last handle of all processes gets it, with its WAL open and no read lock. The log is
    /// retired then. `xLock(RESERVED)`, not `by_the_wal`: `journal_mode` leaves WAL before this connection has opened
    /// it (`sqlite3PagerCloseWal` finds no file then), and `sqlite3BtreeSetVersion` writes as in rollback mode: what it has
    /// read of the file by then must be all there is.
    /// `for_itself`: [`WalConnection::asks_for_itself`]. `leaves_wal`: the user asked for it, so a refusal is told.
    ///
    /// # Errors
    /// `BUSY`; what the retirement met: stamp and log stay.
    pub(super) fn retire_for_exclusive(
        &mut self,
        by_the_wal: bool,
        for_itself: bool,
        leaves_wal: bool,
    ) -> Result<Box<dyn DatabaseHandle>, Code> {
        self.asked_exclusive |= by_the_wal && !for_itself;
        self.check_mine()?;
        if self.holds_write || !for_itself && (self.reading || by_the_wal != self.wal_open) {
            return Err(Code::BUSY);
        }
        if self.reading && !self.is_all_backfilled() {
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
        if self.engine.connection_count() > 1 {
            return Err(Code::BUSY);
        }
        let retired = self.engine.retire_alone(!for_itself && !by_the_wal);
        if self.engine.is_retired() {
            *of_entry = None;
        }
        retired.map_err(|error| match error {
            // SQLite asks this at each close, too.
            EngineError::OtherMembers { .. } if !leaves_wal && !for_itself => Code::BUSY,
            error => self.failed(&error),
        })?;
        self.engine.remove_connection(self.me);
        self.view.set_checkpoint_info(self.view.max_frame(), true);
        self.engine.take_database_handle().ok_or(Code::IOERR_LOCK)
    }

    /// Whether `xLock(EXCLUSIVE)` now is that of `locking_mode=EXCLUSIVE`: before the WAL is opened, or with a read lock.
    pub(super) fn asks_for_itself(&self) -> bool {
        self.reading || !self.wal_open
    }

    /// Whether the present snapshot is the newest state, and SQLite reads all of it from the database file.
    fn is_all_backfilled(&self) -> bool {
        let published = self.engine.marks.published();
        self.at_zero && self.view.sequence() == Some(published) && self.engine.marks.backfilled() == published
    }

    /// The log is retired, and the next commit makes it anew.
    ///
    /// # Errors
    /// Why not; it is there still, but for a failure that poisons.
    pub(super) fn retire_log(&mut self) -> Result<&'static str, (Code, String)> {
        self.check_mine().map_err(|code| (code, String::from("the database has to be opened anew")))?;
        // Nobody joins, leaves or retires meanwhile.
        let _entry = self.entry.engine.lock();
        match self.engine.rest() {
            Ok(Rest::Retired) => Ok("retired"),
            Ok(Rest::NoLog) => Ok("no log"),
            Err(error) => Err((error.code(), error.to_string())),
        }
    }

    /// The view of a handle whose engine is retired.
    pub(super) fn into_view(self) -> Box<View> {
        Box::new(self.view)
    }

    /// The handle closes.
    pub(super) fn leave(mut self, file: &Arc<OpenFile>) {
        if !self.engine.is_of_this_process() {
            return;
        }
        self.roll_back(file);
        if !self.engine.is_mine() {
            return;
        }
        let mut of_entry = self.entry.engine.lock();
        if !self.engine.remove_connection(self.me) {
            return;
        }
        // `SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE`: a WAL that is closed without the question for EXCLUSIVE stays.
        let keep_log = self.wal_open && !self.asked_exclusive;
        if let Err(error) = self.engine.close(keep_log) {
            self.failed(&error);
        }
        *of_entry = None;
    }
}

/// Why a frame could not be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadFailure {
    #[error("{0}")]
    Base(Code),
    #[error(transparent)]
    Engine(EngineError),
}

impl From<EngineError> for ReadFailure {
    fn from(error: EngineError) -> ReadFailure {
        ReadFailure::Engine(error)
    }
}
