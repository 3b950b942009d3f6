//! The writer of a connection: a write transaction, from WRITE to SQLite's last call.
//!
//! Prepare comes with the image of the commit frame; then SQLite may still fail, in this database or in a sibling. Only
//! `COMMIT_PHASETWO` means commit; any other call after UNLOCK(WRITE) means rollback.

use super::base::BaseFile;
use super::below::Withheld;
use super::concurrent;
use super::file::{OpenFile, Sibling};
use super::roles::{AfterCommit, Checkpointing, Prepared, ReadLock, Transaction};
use super::siblings::{self, Unacknowledged};
use super::wal_connection::WalConnection;
use super::writers::Begun;
use crate::engine::{CommitFacts, EngineError, Mode, PreparedBatch, SelfSealed};
use crate::sqlite::Code;
use crate::view::{self, LaneMemory, ViewError, Written};
use std::sync::Arc;

/// What UNLOCK(WRITE) says of a prepared transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Word {
    Commit,
    Rollback,
    /// PHASETWO will show it.
    Unknown,
}

/// The call of SQLite that wants WRITE has taken the snapshot, too: if it is refused, it calls the busy handler
/// (`sqlite3BtreeBeginTrans`).
fn is_beginning(file: &OpenFile) -> bool {
    file.pager.get().is_some_and(|pager| pager.is_beginning())
}

/// A transaction that has read wants to write: SQLite calls no busy handler if it is refused.
fn is_upgrade(file: &OpenFile) -> bool {
    concurrent::is_in_transaction(file) && (!is_beginning(file) || crate::drops("queue-begin-is-no-upgrade"))
}

/// What SQLite gets where a frame could not be staged.
fn staging_code(error: &ViewError) -> Code {
    match error {
        ViewError::Spill(source) => EngineError::spill_code(source),
        ViewError::ImageBytes { .. } => Code::CORRUPT,
        _ => Code::IOERR_WRITE,
    }
}

impl WalConnection {
    pub(super) fn begin_write(&mut self, file: &OpenFile, base: &mut dyn BaseFile) -> Result<(), Code> {
        if self.writer.holds_write {
            // A VFS above has taken it and reported a failure. `unixShmLock` grants it again.
            self.roll_back(file);
        }
        self.engine.log.check_poison().map_err(|error| self.failed(&error))?;
        self.reader.writers.wants_write();
        if self.is_reading() && self.view.sequence().is_some_and(|snapshot| snapshot < self.view.newest_shown()) {
            // The snapshot is older than this connection's own last commit.
            return Err(Code::BUSY_SNAPSHOT);
        }
        if concurrent::applies(self, file) {
            return concurrent::begin(self, file, base);
        }
        if view::is_private(&self.view) && self.is_reading() && !crate::drops("growth-own-list") {
            // A statement outside of BEGIN, while a cursor is open that was opened inside of it: its freelist is this connection's own.
            return Err(Code::BUSY_SNAPSHOT);
        }
        if !self.engine.queue.try_acquire(self.me.id)
            && !self.engine.acquire_write_after_rest(self.me.id)
            && !self.engine.queue.acquire_after_grant(self.me.id, is_upgrade(file))
        {
            return Err(self.refuse(file, Code::BUSY));
        }
        // In `locking_mode=EXCLUSIVE` SQLite does not come here for a write.
        self.wants_alone &= self.checkpointer.is_running();
        let published = self.engine.log.marks.published();
        if self.checkpointer.is_running() {
            self.writer.holds_write = true;
            // More than PASSIVE: so no autocheckpoint.
            self.checkpointer.running = Checkpointing::Requested;
            // An error means to SQLite that it has no lock: it unlocks none.
            return self.run_checkpoint().inspect_err(|_| self.free_write(false));
        }
        if self.is_reading() && self.view.sequence() != Some(published) {
            self.engine.queue.release(self.me.id, false);
            return Err(self.refuse(file, Code::BUSY_SNAPSHOT));
        }
        self.writer.holds_write = true;
        if self.is_reading() {
            self.start_transaction(published);
        }
        Ok(())
    }

    fn refuse(&mut self, file: &OpenFile, code: Code) -> Code {
        self.reader.was_refused = true;
        self.writer.next_wake.let_go();
        if self.is_reading() {
            self.reader.refused = true;
            self.reader.shows_nothing = self.reader.writers.begun == Begun::Writes
                && (is_beginning(file) || crate::drops("r3-refused-after-read"))
                && (!self.reader.wrote || crate::drops("r3-refused-after-write"));
            if is_upgrade(file) {
                self.entry.upgrades.note_contended();
            }
        } else {
            siblings::arm_refused(&self.engine, self.me.id);
        }
        code
    }

    /// `xWrite` of the virtual WAL: stages; the image of a commit frame prepares.
    pub(super) fn wal_write(
        &mut self,
        file: &OpenFile,
        base: &mut dyn BaseFile,
        data: &[u8],
        offset: u64,
    ) -> Result<(), Code> {
        self.check_mine()?;
        // Headers alone are `walRewriteChecksums`, inside prepare.
        if data.len() == self.view.page_bytes() as usize {
            self.unprepare(file)?;
        }
        let mut spill = match &self.writer.transaction {
            Transaction::Staging { spill } => *spill,
            Transaction::Prepared(prepared) => prepared.facts.spill,
            Transaction::None | Transaction::Failed { .. } => return Err(Code::IOERR_WRITE),
        };
        if let Err(code) = concurrent::before_staging(self, file, data.len(), offset) {
            return Err(not_validated(self, file, code));
        }
        let engine = &self.engine;
        let written = self.view.write(data, offset, &mut || {
            let (number, file) = engine.spills.create()?;
            spill = Some(number);
            Ok(file)
        });
        if let Transaction::Staging { spill: of_transaction } = &mut self.writer.transaction {
            *of_transaction = spill;
        }
        concurrent::count_staged(self);
        match written {
            Ok(Written::Staged) => {
                crate::fault_point("staging");
                Ok(())
            }
            Ok(Written::Commit { database_pages }) => self.prepare(file, base, database_pages, spill),
            Err(error) => {
                let code = staging_code(&error);
                self.log(code, &error.to_string());
                Err(code)
            }
        }
    }

    /// A sibling returned BUSY, so that the transaction is still open, and it continues.
    fn unprepare(&mut self, file: &OpenFile) -> Result<(), Code> {
        let Transaction::Prepared(prepared) = &mut self.writer.transaction else { return Ok(()) };
        let (spill, prepared_batch) = (prepared.facts.spill, prepared.prepared_batch.take());
        self.writer.transaction = Transaction::Staging { spill };
        siblings::remove_prepared(file);
        self.view.hide_advance();
        self.view.forget_advance();
        let erased =
            prepared_batch.map_or(Ok(()), |prepared_batch| self.engine.committer.rollback_prepared(prepared_batch));
        concurrent::unprepared(self, spill);
        erased.map_err(|error| self.failed(&error))
    }

    fn prepare(
        &mut self,
        file: &OpenFile,
        base: &mut dyn BaseFile,
        database_pages: u32,
        spill: Option<u32>,
    ) -> Result<(), Code> {
        let connection = file.connection();
        concurrent::note_commit_begins(self);
        let (sequence, database_pages) = match concurrent::is_open(self) {
            false => (self.view.sequence().unwrap_or(0) + 1, database_pages),
            true => {
                let validated = concurrent::validate_commit(self, file, base, database_pages);
                validated.map_err(|code| {
                    concurrent::unprepared(self, spill);
                    not_validated(self, file, code)
                })?
            }
        };
        if let Err(error) = self.engine.committer.prepare(self.view.lane()) {
            return Err(self.not_prepared(file, &error, spill));
        }
        let facts = CommitFacts {
            sequence,
            database_pages,
            wants_durable: false,
            lane: self.writer.lane.unwrap_or(0),
            spill,
            checkpoint_when_idle: self.checkpointer.autocheckpoint > 0,
        };
        let pager = file.pager.get().filter(|pager| self.is_below || pager.has_siblings());
        // Not seen if main is on another VFS.
        let super_journal = siblings::super_journal() || pager.is_some_and(|pager| pager.may_have_super_journal());
        let two_phase = self.engine.log.settings.mode() == Mode::Conservative || super_journal;
        let version = pager.and_then(|pager| pager.data_version());
        let prepared = Prepared { facts, two_phase, prepared_batch: None, unlocked: false, hidden: false, version };
        self.writer.transaction = Transaction::Prepared(Box::new(prepared));
        siblings::add_prepared(connection, file);
        // SQLite ignores what PHASETWO answers then, so nothing may be left that can fail; whether an `xSync` comes is
        // not known yet.
        if super_journal { self.wal_sync(file) } else { Ok(()) }
    }

    /// `xSync` of the virtual WAL after prepare: this commit wants durability.
    pub(super) fn wal_sync(&mut self, file: &OpenFile) -> Result<(), Code> {
        self.check_mine()?;
        let Transaction::Prepared(prepared) = &mut self.writer.transaction else { return Ok(()) };
        prepared.facts.wants_durable = true;
        if !prepared.two_phase || prepared.prepared_batch.is_some() {
            return Ok(());
        }
        match self.engine.committer.write_prepared(self.view.lane(), prepared.facts) {
            Ok(prepared_batch) => {
                prepared.prepared_batch = Some(prepared_batch);
                Ok(())
            }
            Err(error) => {
                let spill = prepared.facts.spill;
                Err(self.not_prepared(file, &error, spill))
            }
        }
    }

    /// What COMMIT returns before anything is published. BUSY leaves the transaction open (`sqlite3VdbeHalt`), and
    /// COMMIT may be repeated: SQLite writes its frames again then. With any other code SQLite rolls back.
    fn not_prepared(&mut self, file: &OpenFile, error: &EngineError, spill: Option<u32>) -> Code {
        let connection = file.connection();
        let mut code = self.failed(error);
        if concurrent::is_open(self) {
            concurrent::unprepared(self, spill);
            if code == Code::BUSY && !siblings::prepared_siblings(connection, file).is_empty() {
                // The transaction would stay open, and its siblings would keep WRITE.
                code = Code::BUSY_SNAPSHOT;
            }
        }
        if code == Code::BUSY {
            self.writer.transaction = Transaction::Staging { spill };
            siblings::remove_prepared(file);
            free_siblings(connection, file);
        } else {
            self.fail_transaction(file);
            reset_siblings(connection, file);
        }
        code
    }

    /// Another file of this connection is called while this one is prepared: SQLite may still roll back and copies the
    /// live header then (`sqlite3WalUndo`), which must be the one before this commit.
    pub(super) fn hide_advance(&mut self) {
        if let Transaction::Prepared(prepared) = &mut self.writer.transaction
            && !prepared.hidden
            && self.view.header_advanced()
        {
            self.view.hide_advance();
            prepared.hidden = true;
        }
    }

    fn word_at_unlock(&self, file: &OpenFile) -> Word {
        let Transaction::Prepared(prepared) = &self.writer.transaction else { return Word::Unknown };
        let Some(before) = prepared.version else { return Word::Unknown };
        match file.pager.get().and_then(|pager| pager.data_version()) {
            None => Word::Unknown,
            Some(now) if now == before => Word::Rollback,
            Some(_) => Word::Commit,
        }
    }

    /// After UNLOCK(WRITE) of a prepared transaction.
    pub(super) fn is_committed(&self, file: &OpenFile) -> bool {
        self.word_at_unlock(file) == Word::Commit
    }

    /// UNLOCK(WRITE): a commit and a rollback make the same call of us, with the same header. Where another database may
    /// have failed, the pager knows which it is: then nothing is held for a PHASETWO that will not come, though an open cursor
    /// may keep this connection from ever calling again. Else a rollback shows by the index that `sqlite3WalUndo` has
    /// cleaned.
    pub(super) fn end_write(&mut self, file: &OpenFile) {
        if self.writer.holds_write
            && self.is_below
            && !self.writer.transaction.is_prepared()
            && self.view.header_advanced()
        {
            // SQLite advances it after the last frame of a commit (`sqlite3WalFrames`).
            self.distrust(file, Withheld::Frames);
            self.roll_back(file);
            self.give_up(file);
            return;
        }
        match self.word_at_unlock(file) {
            Word::Rollback => {
                let hidden = matches!(&self.writer.transaction, Transaction::Prepared(prepared) if prepared.hidden);
                let advanced = !hidden && self.view.header_advanced();
                self.view.forget_advance();
                self.roll_back(file);
                // `sqlite3WalUndo` has copied the advanced header and kept the transaction's pages, which a cursor would read
                // on. Without them it comes for frames that are not there any more.
                self.reader.shows_rolled_back = advanced;
                if advanced && let Some(pager) = file.pager.get() {
                    pager.release_pages();
                }
                return;
            }
            Word::Unknown if self.view.undone() => {
                self.view.forget_advance();
                self.writer.undone_at_unlock = true;
                self.roll_back(file);
                return;
            }
            Word::Commit | Word::Unknown => {}
        }
        if !self.writer.transaction.write_unlocked() {
            self.roll_back(file);
        }
    }

    /// The last word: publish, free WRITE, acknowledge.
    pub(super) fn commit_phase_two(&mut self, file: &OpenFile) -> Result<(), Code> {
        if let Err(code) = self.check_mine() {
            if self.engine.log.is_of_this_process() {
                self.fail_transaction(file);
            }
            return Err(code);
        }
        let connection = file.connection();
        let Transaction::Prepared(prepared) = std::mem::replace(&mut self.writer.transaction, Transaction::None) else {
            if self.writer.undone_at_unlock {
                // SQLite commits what it seemed to have undone: never answered OK.
                self.log(Code::IOERR_WRITE, "a commit was taken for rolled back; it is not in the database");
                self.acknowledge(connection, None)?;
                return Err(Code::IOERR_WRITE);
            }
            // An empty transaction, or one of a file in rollback mode.
            self.checkpointer.after = AfterCommit::Committed;
            return self.acknowledge(connection, None);
        };
        siblings::remove_prepared(file);
        siblings::set_super_journal(false);
        let Prepared { facts, prepared_batch, hidden, .. } = *prepared;
        self.writer.committing = Some(facts.sequence);
        let result = self.publish_and_acknowledge(file, facts, prepared_batch, hidden);
        self.writer.committing = None;
        result
    }

    fn publish_and_acknowledge(
        &mut self,
        file: &OpenFile,
        facts: CommitFacts,
        prepared_batch: Option<PreparedBatch>,
        hidden: bool,
    ) -> Result<(), Code> {
        let connection = file.connection();
        if hidden {
            self.view.restore_advance();
        }
        let siblings = siblings::prepared_siblings(connection, file);
        let last = siblings.is_empty();
        let published =
            self.write_all_prepared(prepared_batch, facts, &siblings).and_then(|prepared_batch| match prepared_batch {
                Some(prepared_batch) => self.engine.commit_prepared(prepared_batch),
                None => self.engine.publish(self.view.lane(), facts, last),
            });
        drop(siblings);
        let published = match published {
            Ok(published) => published,
            Err(error) => {
                let code = at_phase_two(self.failed(&error));
                self.view.rolled_back();
                if let Some(number) = facts.spill {
                    self.engine.spills.remove(number);
                }
                self.free_write(false);
                reset_siblings(connection, file);
                let _not_reported_twice = self.acknowledge(connection, None);
                return Err(code);
            }
        };
        concurrent::note_published(self, published.first_number);
        self.view.published(published.first_number, facts.sequence);
        self.reader.seen = facts.sequence;
        self.writer.last_commit = Some(facts.sequence);
        let keep_lease = concurrent::keeps_lease(self) && (!facts.wants_durable || self.engine.flusher.sync_is_free());
        self.free_write(keep_lease);
        self.checkpointer.after = AfterCommit::Committed;
        let CommitFacts { sequence, wants_durable, .. } = facts;
        if !last {
            let commit = Unacknowledged { engine: Arc::clone(&self.engine), sequence, wants_durable };
            siblings::add_unacknowledged(connection, commit);
            return Ok(());
        }
        self.acknowledge(connection, Some((facts, published.self_sealed)))
    }

    /// With other databases after this one in the transaction, what may fail in any of them comes before the first is
    /// published: all are written, and synced where that is wanted.
    fn write_all_prepared(
        &self,
        own: Option<PreparedBatch>,
        facts: CommitFacts,
        siblings: &[Arc<dyn Sibling>],
    ) -> Result<Option<PreparedBatch>, EngineError> {
        if siblings.is_empty() {
            return Ok(own);
        }
        let own = match own {
            Some(own) => own,
            None => self.engine.committer.write_prepared(self.view.lane(), facts)?,
        };
        for sibling in siblings {
            if let Err(error) = Arc::clone(sibling).write_prepared() {
                self.engine.committer.rollback_prepared(own)?;
                return Err(error);
            }
        }
        Ok(Some(own))
    }

    /// A sibling is about to publish: nothing may fail here after it.
    pub(super) fn write_prepared(&mut self) -> Result<(), EngineError> {
        if let Transaction::Prepared(prepared) = &mut self.writer.transaction
            && prepared.prepared_batch.is_none()
        {
            prepared.prepared_batch = Some(self.engine.committer.write_prepared(self.view.lane(), prepared.facts)?);
        }
        Ok(())
    }

    /// R2, for this commit and those of the siblings that were published before it: durable if that was wanted; else what it was
    /// based on is visible.
    fn acknowledge(&mut self, connection: usize, own: Option<(CommitFacts, Option<SelfSealed>)>) -> Result<(), Code> {
        let mut result = Ok(());
        if let Some((facts, self_sealed)) = own {
            let answer = self.engine.durability.acknowledge(facts.sequence, facts.wants_durable, self_sealed);
            result = answer.map(|wake| self.writer.next_wake.answered(wake));
        }
        for Unacknowledged { engine, sequence, wants_durable } in siblings::take_unacknowledged(connection) {
            result = result.and(engine.durability.acknowledge(sequence, wants_durable, None).map(drop));
        }
        result.map_err(|error| self.failed(&error))
    }

    pub(super) fn free_write(&mut self, keep_lease: bool) {
        if let Some(number) = self.writer.lane.take() {
            self.engine.lanes.release(number, self.view.swap_lane_memory(LaneMemory::default()));
        }
        self.writer.holds_write = false;
        if concurrent::end(self) {
            self.engine.queue.release(self.me.id, keep_lease);
        }
        self.writer.next_wake.released();
    }

    /// Unprepares, and puts the header back as it was at WRITE; a batch that is written already is erased.
    fn fail_transaction(&mut self, file: &OpenFile) {
        let spill = match std::mem::replace(&mut self.writer.transaction, Transaction::None) {
            Transaction::None => return,
            Transaction::Staging { spill } | Transaction::Failed { spill } => spill,
            Transaction::Prepared(mut prepared) => {
                siblings::remove_prepared(file);
                siblings::set_super_journal(false);
                if let Some(prepared_batch) = prepared.prepared_batch.take()
                    && let Err(error) = self.engine.committer.rollback_prepared(prepared_batch)
                {
                    self.failed(&error);
                }
                if prepared.hidden {
                    self.view.restore_advance();
                }
                prepared.facts.spill
            }
        };
        self.view.reset_header();
        self.writer.transaction = Transaction::Failed { spill };
    }

    /// The transaction is over without a commit: nothing of it is in the log, or it is erased there.
    pub(super) fn roll_back(&mut self, file: &OpenFile) {
        self.fail_transaction(file);
        self.view.rolled_back();
        if let Transaction::Failed { spill: Some(number) } =
            std::mem::replace(&mut self.writer.transaction, Transaction::None)
        {
            self.engine.spills.remove(number);
        }
        if self.writer.holds_write {
            self.free_write(true);
        }
    }

    /// What SQLite believes of this connection and what is true of it differ: only `xClose` is left. A commit of it is answered with an
    /// error.
    pub(super) fn give_up(&mut self, file: &OpenFile) {
        self.broken = true;
        if self.writer.holds_write || self.writer.committing.is_some() {
            // First what holds APPEND.
            self.fail_transaction(file);
            self.engine.append.take_back_after_panic(self.writer.committing.take());
        }
        self.roll_back(file);
        self.checkpointer.end();
        self.reader.lock = ReadLock::None;
        self.engine.connections.drop_snapshot(self.me);
    }

    /// A sibling failed: unprepared, its header as before; WRITE and the lane go with SQLite's own unlock.
    pub(super) fn reset_prepared(&mut self, file: &OpenFile) {
        if self.writer.transaction.waits_for_phase_two() {
            self.roll_back(file);
        } else {
            self.fail_transaction(file);
        }
    }
}

/// A sibling returned BUSY: what is written already is taken back.
pub(super) fn free_prepared(wal: &mut WalConnection, file: &OpenFile) {
    if matches!(&wal.writer.transaction, Transaction::Prepared(prepared) if prepared.prepared_batch.is_some())
        && let Err(code) = wal.unprepare(file)
    {
        wal.log(code, "a batch that was written early could not be taken back");
    }
}

/// The transaction cannot be committed, or not now: after BUSY it stays open.
fn not_validated(wal: &mut WalConnection, file: &OpenFile, code: Code) -> Code {
    if code != Code::BUSY {
        wal.fail_transaction(file);
        reset_siblings(file.connection(), file);
    }
    code
}

/// SQLite has released its write lock by now: after BUSY it would leave a transaction open whose next COMMIT writes
/// nothing. And it forgets the pages of the lost commit for IOERR and FULL only (`pager_error`).
fn at_phase_two(code: Code) -> Code {
    match code {
        Code::BUSY => Code::IOERR_LOCK,
        Code::CANTOPEN => Code::IOERR,
        code => code,
    }
}

/// The transaction stays open, for as long as the application likes: no sibling keeps APPEND meanwhile.
fn free_siblings(connection: usize, file: &OpenFile) {
    for sibling in siblings::prepared_siblings(connection, file) {
        sibling.free_prepared();
    }
}

/// A prepare, a sync or a PHASETWO failed: every sibling that is prepared and unpublished is reset at
/// once, before SQLite copies its header (`sqlite3WalUndo`).
fn reset_siblings(connection: usize, file: &OpenFile) {
    for sibling in siblings::prepared_siblings(connection, file) {
        sibling.reset_prepared();
    }
}
