//! Transactions that write beside each other: `parallel_wal_writers=concurrent`.
//!
//! A transaction after BEGIN (deferred) or an outermost SAVEPOINT gets WRITE at once, and *virtually*: SQLite has it, the queue does
//! not know. What it writes is staged in its lane as ever. At COMMIT, in prepare, it is validated: if a commit after its snapshot S
//! has written a page that it has read or written, COMMIT is `SQLITE_BUSY_SNAPSHOT`, and SQLite rolls back. Else it is a commit like
//! any other: WRITE is held from the second half of the validation to its publication, so that nothing is published in between. The
//! first validation, up to what is published by then, is done before WRITE is taken, where most of the pages are looked at.
//!
//! What it has read is every page that SQLite was given since its page cache was last emptied ([`PageSet`](crate::view::PageSet)), not since BEGIN: what is in
//! the cache is read without a call. SQLite empties it exactly when a snapshot comes with another header
//! (`sqlite3WalBeginReadTransaction`, `pager_reset`), and so the set is emptied there, and nowhere else. Until the first such snapshot
//! after the setting the set is not complete, and the connection writes serially.
//!
//! Page 1 is in every read set. Of it only what is no counter counts: the schema, `user_version` and so on ([`PageOne`](crate::pages::PageOne)). Of one that
//! allocates or frees pages it is made anew, with the freelist: [`super::growth`].
//!
//! So transactions are serializable, in the order of their commits. All else is serial as without the setting: BEGIN IMMEDIATE and
//! EXCLUSIVE, statements outside of BEGIN, VACUUM. A transaction whose lane is full takes WRITE there and then, if it can be had.

use super::base::BaseFile;
use super::committed::{Committed, PageFailure};
use super::concurrent_state::Write;
use super::file::OpenFile;
use super::siblings;
use super::turns::{Database, GRANT};
use super::validation::{Conflict, Sight, Validation, kind};
use super::wal_connection::WalConnection;
use crate::engine::{ConcurrentCounters, WrittenPage};
use crate::sqlite::Code;
use crate::status::ConcurrentStatus;
use crate::view::{self, Composition};
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

/// Another transaction that commits holds WRITE for less, if no disk stalls: waited for without asking a busy handler.
const COMMIT_WAIT: Duration = Duration::from_millis(10);
/// With another database of the same transaction prepared: two connections that commit to the same two databases in opposite orders
/// wait for each other.
const SIBLING_WAIT: Duration = Duration::from_millis(20);

/// How long others that write wait for the first write of a transaction that has its turn: until then it cannot lose, and after it neither.
pub(super) const TURN_VALID: Duration = Duration::from_secs(1);

/// Switches the connection; not in a write transaction.
pub(super) fn set(wal: &mut WalConnection, wanted: bool) {
    // What a VFS above has read of its own is not known.
    let wanted = wanted && !wal.is_below;
    if wanted && wal.writer.concurrent.is_none() {
        wal.engine.reader.index_pages();
        wal.writer.concurrent = Some(Box::default());
    } else if !wanted {
        wal.writer.concurrent = None;
    }
}

/// Before a snapshot: the next one changes the header, if SQLite may have pages in its cache that it was given before the setting, or if
/// the transaction is to begin with an empty cache.
pub(super) fn before_snapshot(wal: &mut WalConnection, file: &OpenFile) {
    let Some(concurrent) = &wal.writer.concurrent else { return };
    if !concurrent.is_complete || (concurrent.turns.begins_afresh() && is_in_transaction(file)) {
        wal.view.renumber();
    }
}

/// After a snapshot: what it took to follow the commits of others is no time of its transaction.
pub(super) fn note_snapshot(wal: &mut WalConnection) {
    if let Some(concurrent) = &mut wal.writer.concurrent {
        concurrent.turns.note_snapshot(crate::os::now_us());
    }
}

/// After a snapshot that changed the header.
pub(super) fn forget_reads(wal: &mut WalConnection) {
    if let Some(concurrent) = &mut wal.writer.concurrent {
        concurrent.forget_reads();
    }
}

/// Whether the transaction whose snapshot is taken now gets WRITE virtually, if it writes: it needs no turn in the queue.
pub(super) fn is_coming(wal: &WalConnection, file: &OpenFile) -> bool {
    wal.writer.concurrent.is_some() && !wal.wants_alone && is_in_transaction(file)
}

/// Whether the transaction whose snapshot is taken now takes its turn before, since the last ones of its connection have lost.
pub(super) fn lost_often(wal: &WalConnection, file: &OpenFile) -> bool {
    let database = Database::of(&*wal.engine);
    wal.writer.concurrent.as_ref().is_some_and(|concurrent| concurrent.turns.is_due(database))
        && !wal.writer.holds_write
        && is_coming(wal, file)
        && !crate::drops("concurrent-turn")
}

/// Whether WRITE, which SQLite asks for now, is to be granted virtually.
pub(super) fn applies(wal: &WalConnection, file: &OpenFile) -> bool {
    wal.writer
        .concurrent
        .as_ref()
        .is_some_and(|concurrent| concurrent.is_complete || crate::drops("concurrent-complete"))
        && !has_turn(wal)
        && wal.is_reading()
        && !wal.reader.at_zero
        && !wal.checkpointer.is_running()
        && !wal.wants_alone
        && is_in_transaction(file)
}

/// The transaction whose snapshot is taken now waits for its turn, or not.
pub(super) fn note_turn(wal: &mut WalConnection, has_waited: bool) {
    if let Some(concurrent) = &mut wal.writer.concurrent {
        concurrent.turns.note_turn(has_waited);
    }
}

/// The read transaction is over, and has only read.
pub(super) fn only_read(wal: &mut WalConnection) {
    let database = Database::of(&*wal.engine);
    if let Some(concurrent) = &mut wal.writer.concurrent {
        concurrent.turns.only_read(database);
    }
}

/// Whether the open transaction has its turn, still, for a serial write. Without it a serial write could only be refused for what was
/// committed since its snapshot.
fn has_turn(wal: &WalConnection) -> bool {
    wal.reader.granted
        && wal.writer.concurrent.as_ref().is_some_and(|concurrent| concurrent.turns.has_waited())
        && wal.engine.queue.granted(wal.me.id)
}

/// Between BEGIN and COMMIT: `OP_AutoCommit` and `OP_Savepoint` end it before they commit.
pub(super) fn is_in_transaction(file: &OpenFile) -> bool {
    file.pager.get().is_some_and(|pager| pager.in_transaction())
}

/// Grants WRITE virtually. What was read by now must be as it was, since it is cheaper to say so now.
pub(super) fn begin(wal: &mut WalConnection, file: &OpenFile, base: &mut dyn BaseFile) -> Result<(), Code> {
    let turns = wal.writer.concurrent.as_mut().map(|concurrent| &mut concurrent.turns);
    if turns.as_ref().is_none_or(|turns| !turns.has_grant()) {
        wal.reader.give_up_grant(&wal.engine, wal.me.id);
    }
    if let Some(turns) = turns {
        let is_first = file.pager.get().is_some_and(|pager| pager.is_beginning());
        turns.note_first_write(is_first, crate::os::now_us());
        if turns.takes_grant_to_write() {
            let has_grant = wal.engine.queue.take_turn(wal.me.id, GRANT);
            turns.note_grant(has_grant, has_grant);
            turns.note_waited(crate::os::now_us());
        }
    }
    // Also if it is refused: the next one that begins with the same text gets the newest snapshot.
    wal.reader.wrote = true;
    let (snapshot, published) = (wal.snapshot(), wal.engine.log.marks.published());
    if published > snapshot {
        let is_same = validate_up_to(wal, base, (snapshot, published), &mut Validation::default());
        is_same.inspect_err(|_| give_up_grant(wal))?;
    }
    set_write(wal, Write::Virtual);
    counters(wal).open.fetch_add(1, SeqCst);
    wal.writer.holds_write = true;
    wal.start_transaction(snapshot);
    Ok(())
}

/// The transaction does not come for WRITE, if it has it as a grant.
fn give_up_grant(wal: &mut WalConnection) {
    if wal.writer.concurrent.as_mut().is_some_and(|concurrent| concurrent.turns.end()) {
        wal.reader.granted = false;
        wal.engine.queue.give_up_grant(wal.me.id);
    }
}

/// COMMIT of a transaction after BEGIN comes, beside others or not.
pub(super) fn note_commit_begins(wal: &mut WalConnection) {
    if let Some(concurrent) = &mut wal.writer.concurrent {
        concurrent.turns.note_commit_begins(crate::os::now_us());
    }
}

/// Whether the transaction whose snapshot is taken now, if it writes, takes WRITE as a grant before that, since it is expected to be brief.
pub(super) fn is_brief(wal: &WalConnection, file: &OpenFile) -> bool {
    wal.writer.concurrent.as_ref().is_some_and(|concurrent| concurrent.turns.is_brief())
        && !wal.writer.holds_write
        && is_coming(wal, file)
}

/// The transaction whose snapshot is taken now has WRITE as a grant, or not; `is_next`: or needs none.
pub(super) fn note_grant(wal: &mut WalConnection, has_grant: bool, is_next: bool) {
    if let Some(concurrent) = &mut wal.writer.concurrent {
        concurrent.turns.note_grant(has_grant, is_next);
    }
}

/// Whether it is expected that no other transaction commits before this one.
pub(super) fn is_next(wal: &WalConnection) -> bool {
    wal.writer.concurrent.as_ref().is_some_and(|concurrent| concurrent.turns.is_next())
}

/// Whether the connection may commit several times before the next one gets WRITE.
pub(super) fn keeps_lease(wal: &WalConnection) -> bool {
    !is_open(wal) || wal.writer.concurrent.as_ref().is_some_and(|concurrent| concurrent.turns.is_brief())
}

fn counters(wal: &WalConnection) -> &ConcurrentCounters {
    &wal.engine.log.counters.concurrent
}

fn write(wal: &WalConnection) -> Write {
    wal.writer.concurrent.as_ref().map_or(Write::AsSqlite, |concurrent| concurrent.write)
}

fn set_write(wal: &mut WalConnection, write: Write) {
    if let Some(concurrent) = &mut wal.writer.concurrent {
        concurrent.write = write;
    }
}

/// The read transaction is over.
pub(super) fn end_read(wal: &mut WalConnection) {
    if let Some(concurrent) = &mut wal.writer.concurrent {
        concurrent.moved_to = None;
        concurrent.growth.end();
        concurrent.turns.end();
    }
}

/// Whether the present transaction began with a virtual WRITE.
pub(super) fn is_open(wal: &WalConnection) -> bool {
    write(wal) != Write::AsSqlite
}

/// Before a frame is staged: one that goes to a spill file needs WRITE.
///
/// # Errors
/// `BUSY`: SQLite keeps the page in memory (`sqlite3PcacheFetchStress`), or COMMIT may be repeated. `BUSY_SNAPSHOT`: with a sibling that
/// is prepared.
pub(super) fn before_staging(wal: &mut WalConnection, file: &OpenFile, bytes: usize, offset: u64) -> Result<(), Code> {
    if write(wal) != Write::Virtual || !wal.view.spills(bytes, offset) {
        return Ok(());
    }
    take_write(wal, file)?;
    counters(wal).full_lanes.fetch_add(1, SeqCst);
    // Nothing is published by others from now on.
    stamp(wal, wal.engine.log.marks.published() + 1)
}

/// A frame was staged, or several were dropped.
pub(super) fn count_staged(wal: &mut WalConnection) {
    let staged = wal.view.lane().len() as u64 * u64::from(wal.view.page_bytes());
    if let Some(concurrent) = wal.writer.concurrent.as_mut().filter(|concurrent| concurrent.write != Write::AsSqlite) {
        let before = std::mem::replace(&mut concurrent.staged_bytes, staged);
        wal.engine.log.counters.concurrent.staged_bytes.fetch_add(staged.wrapping_sub(before), SeqCst);
    }
}

/// The transaction, in whose lane all is staged, is to commit: the sequence and the size of the database that it gets, in pages. WRITE is
/// held from then on.
///
/// # Errors
/// `BUSY_SNAPSHOT`: it conflicts with others. `BUSY`: WRITE was not to be had.
pub(super) fn validate_commit(
    wal: &mut WalConnection,
    file: &OpenFile,
    base: &mut dyn BaseFile,
    database_pages: u32,
) -> Result<(u64, u32), Code> {
    // What is published then may be taken back: no conflict, and no reason to try again.
    wal.engine.log.check_poison().map_err(|error| wal.failed(&error))?;
    if wal.writer.concurrent.as_ref().is_some_and(|concurrent| concurrent.growth.is_broken()) {
        return Err(conflicts(wal, &Conflict::Freelist));
    }
    let snapshot = wal.snapshot();
    let mut validation = Validation::default();
    let mut validated = wal.engine.log.marks.published();
    if validated > snapshot || view::is_private(&wal.view) {
        validation.note_written(&wal.view);
    }
    if validated > snapshot {
        validate_up_to(wal, base, (snapshot, validated), &mut validation)?;
    }
    if write(wal) == Write::Virtual {
        crate::interleave::step("before WRITE of a commit");
        take_write(wal, file)?;
    }
    let published = wal.engine.log.marks.published();
    if published > validated {
        if validated == snapshot && !view::is_private(&wal.view) {
            validation.note_written(&wal.view);
        }
        if crate::drops("concurrent-validate-under-write") {
            validated = published;
        }
        validate_up_to(wal, base, (validated, published), &mut validation)?;
    }
    stamp(wal, published + 1)?;
    let database_pages = match published > snapshot || view::is_private(&wal.view) {
        true => size_after(wal, base, &validation, (snapshot, published), database_pages)?,
        false => database_pages,
    };
    let staged = sight(wal, base).map_or(Ok(()), |mut sight| validation.stage(&mut sight));
    staged.map_err(|failure| wal.page_failed(failure))?;
    Ok((published + 1, database_pages))
}

/// The connection's transaction beside others; `None`: it has none.
fn sight<'a>(wal: &'a mut WalConnection, base: &'a mut dyn BaseFile) -> Option<Sight<'a>> {
    let WalConnection { engine, view, writer, .. } = wal;
    let concurrent = writer.concurrent.as_deref_mut()?;
    Some(Sight { committed: Committed { engine, base }, concurrent, view })
}

fn validate_up_to(
    wal: &mut WalConnection,
    base: &mut dyn BaseFile,
    commits: (u64, u64),
    validation: &mut Validation,
) -> Result<(), Code> {
    let found =
        sight(wal, base).map_or(Ok(Some(Conflict::Ended)), |mut sight| validation.validate(&mut sight, commits));
    match found {
        Ok(None) => wal.check_lost(),
        Ok(Some(conflict)) => Err(conflicts(wal, &conflict)),
        Err(failure) => Err(wal.page_failed(failure)),
    }
}

/// As [`Validation::size_after`].
fn size_after(
    wal: &mut WalConnection,
    base: &mut dyn BaseFile,
    validation: &Validation,
    commits: (u64, u64),
    database_pages: u32,
) -> Result<u32, Code> {
    let size = sight(wal, base)
        .map_or(Ok(Err(Conflict::Ended)), |mut sight| validation.size_after(&mut sight, commits, database_pages));
    match size {
        Ok(Ok(database_pages)) => Ok(database_pages),
        Ok(Err(conflict)) => Err(conflicts(wal, &conflict)),
        Err(failure) => Err(wal.page_failed(failure)),
    }
}

/// Before a snapshot: whether it is to have a freelist of its own (`growth`). Where SQLite is shown one that this snapshot cannot have,
/// or that is used up, the header changes.
pub(super) fn wants_own_freelist(wal: &mut WalConnection, file: &OpenFile) -> bool {
    let wants = is_coming(wal, file)
        && !wal.writer.holds_write
        && !lost_often(wal, file)
        && !is_next(wal)
        && (!wal.writer.limits_pages || crate::drops("growth-page-limit"))
        && !wal.reader.at_zero
        && wal.engine.connections.allocate_beside_others();
    let goes_on = wal.writer.concurrent.as_ref().is_some_and(|concurrent| concurrent.growth.goes_on());
    let ends = !wants || !goes_on;
    if ends && !crate::drops("growth-outside-of-begin") {
        view::end_private(&mut wal.view);
    }
    wants
}

/// After a snapshot that [`wants_own_freelist`]; true: the header has changed.
pub(super) fn show_own_freelist(wal: &mut WalConnection, base: &mut dyn BaseFile) -> Result<bool, PageFailure> {
    let me = wal.me;
    let Some(Sight { mut committed, concurrent, view }) = sight(wal, base) else { return Ok(false) };
    concurrent.growth.show(&mut committed, view, me)
}

/// Logs the conflict, and returns its code.
fn conflicts(wal: &mut WalConnection, conflict: &Conflict) -> Code {
    counters(wal).conflicts.fetch_add(1, SeqCst);
    wal.reader.was_refused = true;
    let database = Database::of(&*wal.engine);
    if let Some(concurrent) = &mut wal.writer.concurrent {
        concurrent.turns.note_lost(database);
    }
    let by = |written: &WrittenPage| format!("commit {} of another connection", written.sequence);
    let note = |written: &WrittenPage, kind: &str| {
        counters(wal).note_contended(written.page, kind, written.sequence);
    };
    let text = match conflict {
        Conflict::Page(written, own) => {
            let done = if *own { "written" } else { "read" };
            let (page, kind) = (written.page, kind(&wal.engine, written));
            note(written, kind);
            format!("{} wrote page {page} ({kind}), which this transaction has {done}", by(written))
        }
        Conflict::Schema(written) => {
            note(written, "schema or header");
            format!("{} changed page 1 (schema or header), which this transaction has read", by(written))
        }
        Conflict::Allocation(written) => {
            note(written, "allocation of pages");
            format!("{} allocated or freed pages (page 1), and this transaction has written page 1", by(written))
        }
        Conflict::Taken(page) => {
            format!("page {page}, which this transaction has taken from the freelist or the end, is not free any more")
        }
        Conflict::Freed(page) => {
            format!("page {page}, which this transaction has freed, was changed by a commit of another connection")
        }
        Conflict::Freelist => {
            "this transaction has allocated or freed more pages beside others than it had leased".to_owned()
        }
        Conflict::Size => "the size of the database has changed beside this transaction".to_owned(),
        Conflict::Ended => "the snapshot of this transaction has ended".to_owned(),
    };
    wal.log(Code::BUSY_SNAPSHOT, &text);
    Code::BUSY_SNAPSHOT
}

fn stamp(wal: &mut WalConnection, sequence: u64) -> Result<(), Code> {
    wal.view.set_commit_sequence(sequence).map_err(|error| {
        wal.log(Code::IOERR_READ, &format!("spill file of the transaction: {error}"));
        Code::IOERR_READ
    })
}

/// Waits for WRITE: first for others that commit, then, at COMMIT, for serial writers by the application's busy handler. A statement
/// whose page is spilled waits for others that commit once in its transaction: the page stays in memory.
fn take_write(wal: &mut WalConnection, file: &OpenFile) -> Result<(), Code> {
    let (engine, me) = (Arc::clone(&wal.engine), wal.me.id);
    let queue = &engine.queue;
    let has_siblings = !siblings::prepared_siblings(file.connection(), file).is_empty();
    let is_spill = is_in_transaction(file);
    let wait = if has_siblings { SIBLING_WAIT } else { COMMIT_WAIT };
    let waits = !is_spill || wal.writer.concurrent.as_ref().is_some_and(|concurrent| !concurrent.spill_refused);
    let mut taken = queue.try_acquire(me)
        || engine.acquire_write_after_rest(me)
        || (waits && queue.wait(me, wait) && queue.try_acquire(me));
    while !taken && !has_siblings && !is_spill {
        // The handler of `busy_timeout` waits in `xSleep`, which waits in the queue.
        siblings::arm_refused(&wal.engine, me);
        let waited = file.pager.get().is_some_and(|pager| pager.wait_busy());
        siblings::forget_refused();
        taken = queue.try_acquire(me);
        if !waited {
            break;
        }
    }
    if !taken {
        queue.give_up_grant(me);
        if let Some(concurrent) = &mut wal.writer.concurrent {
            concurrent.spill_refused |= is_spill;
        }
        return Err(if has_siblings { Code::BUSY_SNAPSHOT } else { Code::BUSY });
    }
    set_write(wal, Write::Taken);
    if let Err(error) = engine.log.check_poison() {
        queue.release(me, false);
        set_write(wal, Write::Virtual);
        return Err(wal.failed(&error));
    }
    engine.log.marks.forget_staged_spill();
    Ok(())
}

/// The transaction is not prepared any more: WRITE is free, unless its spill file needs it.
pub(super) fn unprepared(wal: &mut WalConnection, spill: Option<u32>) {
    if let Some(Err(error)) = Composition::of(&mut wal.view).map(Composition::take_back) {
        // The lane takes no more, and says so with the next page.
        wal.log(Code::IOERR_WRITE, &error.to_string());
    }
    if let Some(concurrent) = &mut wal.writer.concurrent {
        concurrent.growth.forget_composed();
    }
    if write(wal) == Write::Taken && spill.is_none() {
        wal.engine.queue.release(wal.me.id, false);
        set_write(wal, Write::Virtual);
    }
}

/// The transaction is published, its frames from `first_number` on, with what is in the lane still.
pub(super) fn note_published(wal: &mut WalConnection, first_number: u64) {
    if is_open(wal) {
        counters(wal).commits.fetch_add(1, SeqCst);
    }
    let database = Database::of(&*wal.engine);
    if let Some(concurrent) = &mut wal.writer.concurrent {
        concurrent.turns.note_committed(database);
        concurrent.note_published(wal.view.lane(), (&wal.engine, first_number));
    }
}

/// The transaction is over; true: WRITE is to be released.
pub(super) fn end(wal: &mut WalConnection) -> bool {
    if write(wal) == Write::Virtual {
        give_up_grant(wal);
    }
    let Some(concurrent) = &mut wal.writer.concurrent else { return true };
    let write = std::mem::take(&mut concurrent.write);
    concurrent.spill_refused = false;
    concurrent.growth.end();
    if write != Write::AsSqlite {
        let staged = std::mem::take(&mut concurrent.staged_bytes);
        counters(wal).staged_bytes.fetch_sub(staged, SeqCst);
        counters(wal).open.fetch_sub(1, SeqCst);
    }
    write != Write::Virtual
}

/// For `parallel_wal_status`.
pub(super) fn status(wal: &WalConnection) -> Option<ConcurrentStatus> {
    let ConcurrentCounters { open, staged_bytes, commits, conflicts, composed, excused, merged, full_lanes, .. } =
        counters(wal);
    let status = ConcurrentStatus {
        on: wal.writer.concurrent.is_some(),
        open: open.load(SeqCst),
        staged_bytes: staged_bytes.load(SeqCst),
        commits: commits.load(SeqCst),
        conflicts: conflicts.load(SeqCst),
        composed: composed.load(SeqCst),
        excused: excused.load(SeqCst),
        merged: merged.load(SeqCst),
        full_lanes: full_lanes.load(SeqCst),
        moved: counters(wal).moved.load(SeqCst),
        contended_pages: counters(wal).contended_pages(),
    };
    (status.on || status.open + status.commits + status.conflicts > 0).then_some(status)
}
