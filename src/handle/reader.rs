//! The reader of a connection: SQLite's read locks of the wal-index become snapshots of the engine.
//!
//! `READ_LOCK` shared is the moment of the snapshot. The engine registers it, which keeps what it needs in the log, and the view is
//! brought to it. If that changed the header, SQLite notices, unlocks, and takes the lock again (`WAL_RETRY`): the snapshot is
//! kept in between, and used then. Unlock ends it, after a wait for the commits that it showed before they were durable (R3).

use super::base::{BaseFile, Running};
use super::below::Withheld;
use super::committed::{Committed, PageFailure};
use super::file::OpenFile;
use super::header::mask;
use super::roles::{AfterCommit, ReadLock};
use super::wal_connection::WalConnection;
use super::writers::{Begun, Needs};
use super::{concurrent, moving, siblings, turns};
use crate::sqlite::Code;
use std::time::Duration;

/// How long a transaction that reads first waits for its turn to write, however many are before it; in microseconds.
const TURN_MAX: u64 = 1_000_000;

impl WalConnection {
    /// The moment of the snapshot (`walTryBeginRead`).
    pub(super) fn begin_read(&mut self, file: &OpenFile, base: &mut dyn BaseFile, at_zero: bool) -> Result<(), Code> {
        self.reader.at_zero = at_zero;
        self.reader.was_locked = true;
        if self.reader.lock == ReadLock::Pinned {
            self.reader.lock = ReadLock::Held;
            return Ok(());
        }
        concurrent::end_read(self);
        self.check_replaced().inspect_err(|_| {
            self.engine.queue.give_up_grant(self.me.id);
            self.log(Code::IOERR_READ, &self.lost().to_string());
        })?;
        self.engine.exclusive.refresh();
        if self.checkpointer.previous == AfterCommit::ReadReleased && self.is_autocheckpoint_due() {
            self.checkpointer.hook_is_sqlites = false;
        }
        let newest = self.wants_newest(file);
        let alone = self.shows_backfilled();
        concurrent::before_snapshot(self, file);
        let is_private = concurrent::wants_own_freelist(self, file);
        let refreshed = self.refresh_to_snapshot(newest).map_err(PageFailure::Engine);
        let shown =
            refreshed.and_then(|changed| Ok(changed | (is_private && concurrent::show_own_freelist(self, base)?)));
        let changed = match shown {
            Ok(changed) => changed,
            Err(failure) => {
                self.engine.connections.drop_snapshot(self.me);
                self.engine.queue.give_up_grant(self.me.id);
                return Err(self.page_failed(failure));
            }
        };
        let sequence = self.view.sequence().unwrap_or(0);
        if sequence < self.reader.seen || self.engine.log.hides_acknowledged() {
            // R5.3: what this connection saw was rolled back with a flush that failed; or it would show an older state
            // than others have acknowledged.
            self.engine.connections.drop_snapshot(self.me);
            self.engine.queue.give_up_grant(self.me.id);
            return Err(self.failed(&self.lost()));
        }
        if alone {
            self.view.set_checkpoint_info(self.view.max_frame(), true);
        } else if self.view.has_several_blocks() {
            let backfilled = self.backfilled_frames();
            self.view.skip_backfilled(backfilled);
        }
        self.reader.seen_before = std::mem::replace(&mut self.reader.seen, sequence);
        self.reader.lock = if changed { ReadLock::Retries } else { ReadLock::Held };
        if changed || crate::drops("concurrent-reads-of-cache") {
            concurrent::forget_reads(self);
        }
        self.reader.shows_rolled_back = false;
        self.reader.wrote = false;
        self.reader.writers.began();
        concurrent::note_snapshot(self);
        if self.writer.holds_write {
            // `SQLITE_ENABLE_SETLK_TIMEOUT` builds take WRITE before their snapshot.
            self.start_transaction(sequence);
        }
        Ok(())
    }

    /// Whether the transaction that begins now gets what is published as its snapshot, not only what is visible. One that writes
    /// and was refused before, or is expected to write after it has read, waits for its turn first.
    fn wants_newest(&mut self, file: &OpenFile) -> bool {
        let pager = file.pager.get().filter(|_| !file.facts.read_only);
        let is_asked = self.reader.was_refused
            || self.engine.log.marks.published() != self.engine.log.marks.visible()
            || self.entry.upgrades.are_contended() && pager.is_some_and(|pager| pager.in_transaction());
        let takes_turn = concurrent::lost_often(self, file);
        concurrent::note_turn(self, takes_turn);
        if takes_turn {
            self.reader.writers.begun = Begun::Unasked;
            self.reader.granted = self.wait_for_turn(concurrent::TURN_VALID);
            return true;
        }
        let is_brief = concurrent::is_brief(self, file);
        if !is_asked && !is_brief {
            self.reader.writers.begun = Begun::Unasked;
            return self.writer.holds_write;
        }
        let running = pager.map_or(Running::Unknown, |pager| pager.running());
        let needs = self.reader.writers.begin(running, &self.entry.upgrades, self.reader.was_refused);
        let needs_turn = !self.writer.holds_write && !concurrent::is_coming(self, file);
        self.reader.granted = match needs {
            // With a grant also within its lease, which may end before COMMIT.
            Needs::Turn | Needs::Newest if is_brief => {
                let is_last = self.writer.last_commit == Some(self.engine.log.marks.published());
                let is_alone = is_last && self.engine.queue.is_alone(self.me.id);
                let is_granted = !is_alone && self.wait_for_turn(turns::GRANT);
                concurrent::note_grant(self, is_granted, is_granted || is_alone);
                is_granted
            }
            Needs::Turn if needs_turn => self.wait_for_turn(Duration::ZERO),
            Needs::Newest if needs_turn => self.engine.queue.line_up(self.me.id),
            _ => self.engine.queue.granted(self.me.id),
        };
        needs != Needs::Visible
            || self.writer.holds_write
            || running == Running::Unknown && self.reader.granted
            // What could not be waited for at the end of an earlier transaction is waited for at the end of this one.
            || self.reader.seen > self.engine.log.marks.visible() && !crate::drops("r3-seen-again")
    }

    /// Waits for the turn of a transaction that is expected to write, as long as others commit; true: with a grant, valid at least
    /// that long.
    fn wait_for_turn(&self, valid: Duration) -> bool {
        let mut published = self.engine.log.marks.published();
        if self.writer.last_commit.is_some_and(|own| own < published) {
            self.entry.upgrades.note_contended();
        }
        let begin = crate::os::now_us();
        loop {
            if self.engine.queue.take_turn(self.me.id, valid) {
                return true;
            }
            let newer = self.engine.log.marks.published();
            if newer == published || crate::os::now_us() > begin + TURN_MAX {
                return false;
            }
            published = newer;
        }
    }

    /// For the next snapshot: whether the view shall show that all of it is in the database file, so that SQLite takes
    /// `READ_LOCK(0)` and restarts the WAL with its next write, as the only connection; brings everything there. If
    /// not, and SQLite has taken that lock, the view gets another header, with which SQLite retries.
    fn shows_backfilled(&mut self) -> bool {
        let is_alone =
            self.wants_alone && self.is_powersafe && !self.writer.holds_write && self.engine.connections.count() == 1;
        let brings = || self.engine.checkpointer.checkpoint_on_request().map_err(|error| self.failed(&error));
        let done = is_alone && self.engine.membership.check_alone().is_ok() && brings().is_ok();
        let shows = done && self.engine.log.marks.backfilled() == self.engine.log.marks.published();
        if shows != self.reader.at_zero {
            self.view.renumber();
        }
        shows
    }

    pub(super) fn end_read(&mut self) {
        match self.reader.lock {
            ReadLock::None | ReadLock::Pinned => return,
            ReadLock::Retries => {
                self.reader.lock = ReadLock::Pinned;
                return;
            }
            ReadLock::Held => self.reader.lock = ReadLock::None,
        }
        if std::mem::take(&mut self.reader.at_zero) && self.writer.holds_write {
            // `walRestartLog`, which was refused: it retries for the same snapshot, by another lock. The transaction
            // continues.
            self.reader.lock = ReadLock::Pinned;
            return;
        }
        let refused = std::mem::take(&mut self.reader.refused);
        if std::mem::take(&mut self.reader.shows_nothing) {
            // So the next snapshot may be an older one.
            self.reader.seen = self.reader.seen_before;
        } else if self.reader.seen > self.engine.log.marks.visible() {
            // R3: a transaction that saw more than is durable waits here, where nothing can be reported: if the flush
            // fails, the next snapshot reports it.
            let _reported_by_the_next_snapshot = self.engine.durability.wait_visible_of_seen(self.reader.seen);
        }
        concurrent::end_read(self);
        self.engine.connections.drop_snapshot(self.me);
        if std::mem::take(&mut self.reader.granted) && !self.reader.wrote {
            self.engine.queue.give_up_grant(self.me.id);
        }
        if !self.reader.wrote && !refused {
            concurrent::only_read(self);
        }
        self.reader.writers.end(self.reader.wrote || refused, &self.entry.upgrades);
        self.reader.was_refused &= self.reader.wrote || refused;
        if refused {
            siblings::arm_refused(&self.engine, self.me.id);
        }
    }

    /// The second attempt did not come.
    pub(super) fn unpin(&mut self) {
        if self.reader.lock == ReadLock::Pinned {
            self.reader.lock = ReadLock::None;
            self.reader.seen = self.reader.seen_before;
            self.engine.connections.drop_snapshot(self.me);
        }
    }

    pub(super) fn wal_read(
        &mut self,
        file: &OpenFile,
        base: &mut dyn BaseFile,
        buffer: &mut [u8],
        offset: u64,
    ) -> Result<(), Code> {
        self.check_lost()?;
        if self.is_below && !self.is_reading() {
            return Err(self.distrust(file, Withheld::Locks));
        }
        if let Some(concurrent) = &mut self.writer.concurrent
            && let Some(page) = crate::view::private_page_at(&self.view, offset)
        {
            concurrent.growth.note_private_read(page)?;
        }
        let (engine, page_bytes) = (&self.engine, u64::from(self.engine.log.page_bytes));
        let (mut concurrent, view) = (self.writer.concurrent.as_deref_mut(), &self.view);
        let mut committed = Committed { engine, base };
        let read = view.read(buffer, offset, &mut |number, page, within, part| {
            let mut number = number;
            if let Some(concurrent) = &mut concurrent {
                if let Some(at) = moving::before_page(&mut committed, (concurrent, view), page)? {
                    // A frame of its own commit is after that.
                    number = number.max(engine.reader.newest_of(page, at)?.unwrap_or(0));
                }
                concurrent.note_read(page);
            }
            if number != 0 && engine.reader.read_frame(number, within, part)? {
                return Ok(());
            }
            let at = u64::from(page.saturating_sub(1)) * page_bytes + within;
            match committed.base.read(part, at) {
                // The file was truncated to the size at the checkpoint's target: a page after it is in no later commit
                // of the snapshot. It reads as zeros, as a page after the end of the database file does.
                Ok(()) | Err(Code::IOERR_SHORT_READ) => {}
                Err(code) => return Err(PageFailure::Base(code)),
            }
            mask(part, at);
            Ok(())
        });
        self.reader.seen = self.reader.seen.max(self.snapshot());
        // What was read may have been erased meanwhile.
        self.check_lost()?;
        read.map_err(|error| match error {
            crate::view::ReadError::Image(failure) => self.page_failed(failure),
            crate::view::ReadError::BehindEnd { .. } if self.reader.shows_rolled_back => Code::ABORT_ROLLBACK,
            crate::view::ReadError::BehindEnd { .. } => Code::IOERR_SHORT_READ,
            other => {
                self.log(Code::IOERR_READ, &other.to_string());
                Code::IOERR_READ
            }
        })
    }
}

/// SQLite reads the database file, for pages that its snapshot has in no frame; where the snapshot has moved, a frame may have them.
pub(super) fn read_file(
    wal: &mut WalConnection,
    base: &mut dyn BaseFile,
    buffer: &mut [u8],
    offset: u64,
) -> Result<(), Code> {
    let Some(concurrent) = &mut wal.writer.concurrent else { return base.read(buffer, offset) };
    let (engine, page_bytes) = (&wal.engine, wal.engine.log.page_bytes);
    let frames =
        moving::frames_of_file(&mut Committed { engine, base }, (concurrent, &wal.view), (offset, buffer.len()));
    concurrent.note_file_read(offset, buffer.len(), page_bytes);
    let frames = frames.map_err(|failure| wal.page_failed(failure))?;
    let mut result = base.read(buffer, offset);
    for (at, number) in frames {
        let within = (offset + at as u64) % u64::from(page_bytes);
        let end = buffer.len().min(at + page_bytes as usize - usize::try_from(within).unwrap_or(0));
        let is_read = wal.engine.reader.read_frame(number, within, &mut buffer[at..end]);
        match is_read.map_err(|error| wal.failed(&error))? {
            true if result == Err(Code::IOERR_SHORT_READ) => result = Ok(()),
            true => {}
            // In the database file by now.
            false => result = result.and(base.read(&mut buffer[at..end], offset + at as u64)),
        }
    }
    wal.reader.seen = wal.reader.seen.max(wal.snapshot());
    result
}
