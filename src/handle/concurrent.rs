//! Transactions that write beside each other: `parallel_wal_writers=concurrent`.
//!
//! A transaction after BEGIN (deferred) or an outermost SAVEPOINT gets WRITE at once, and *virtually*: SQLite has it, the queue does
//! not know. What it writes is staged in its lane as ever. At COMMIT, in prepare, it is validated: if a commit after its snapshot S
//! has written a page that it has read or written, COMMIT is `SQLITE_BUSY_SNAPSHOT`, and SQLite rolls back. Else it is a commit like
//! any other: WRITE is held from the second half of the validation to its publication, so that nothing is published in between. The
//! first validation, up to what is published by then, is done before WRITE is taken, where most of the pages are looked at.
//!
//! What it has read is every page that SQLite was given since its page cache was last emptied ([`PageSet`]), not since BEGIN: what is in
//! the cache is read without a call. SQLite empties it exactly when a snapshot comes with another header
//! (`sqlite3WalBeginReadTransaction`, `pager_reset`), and so the set is emptied there, and nowhere else. Until the first such snapshot
//! after the setting the set is not complete, and the connection writes serially.
//!
//! Page 1 is in every read set. Of it only what is no counter counts: the schema, `user_version` and so on ([`PageOne`]). Of one that
//! allocates or frees pages it is made anew, with the freelist: [`growth`].
//!
//! So transactions are serializable, in the order of their commits. All else is serial as without the setting: BEGIN IMMEDIATE and
//! EXCLUSIVE, statements outside of BEGIN, VACUUM. A transaction whose lane is full takes WRITE there and then, if it can be had.

use super::base::BaseFile;
use super::file::OpenFile;
use super::growth::{self, Growth};
use super::interior::{Interiors, Structure};
use super::moving::Moved;
use super::reader::ReadFailure;
use super::siblings;
use super::turns::{Database, Turns};
use super::wal_connection::WalConnection;
use crate::engine::{ConcurrentCounters, WrittenPage};
use crate::pages::{Kind, PageOne};
use crate::sqlite::Code;
use crate::status::ConcurrentStatus;
use crate::view::{self, Composition, PageSet};
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

/// Of a connection with `parallel_wal_writers=concurrent`.
#[derive(Debug, Default)]
pub(super) struct Concurrent {
    /// The pages that SQLite may have in its cache.
    reads: PageSet,
    /// Nothing is in its cache that is not in `reads`.
    is_complete: bool,
    write: Write,
    /// What its open transaction has staged, in bytes, as it is counted.
    staged_bytes: u64,
    /// Its open transaction was refused WRITE for a page that SQLite wanted to spill.
    spill_refused: bool,
    /// Whether it takes WRITE sooner than at COMMIT.
    turns: Turns,
    /// The pages that it allocates.
    pub(super) growth: Growth,
    /// How far the snapshot of its present transaction has moved.
    pub(super) moved: Moved,
}

/// What the connection has of WRITE.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Write {
    /// What SQLite believes.
    #[default]
    AsSqlite,
    /// Only SQLite believes that it has it.
    Virtual,
    /// A transaction that began virtually has it: it is prepared, or its lane was full.
    Taken,
    /// It has it since its first write.
    TakenAtFirst,
}

/// Why a transaction cannot commit after the others.
pub(super) enum Conflict {
    /// This page was read, or written (true).
    Page(WrittenPage, bool),
    /// The schema, or another field of page 1, has changed.
    Schema(WrittenPage),
    /// Both allocate or free pages of a database with pointer maps.
    Allocation(WrittenPage),
    /// It has taken this page, which is not free any more.
    Taken(u32),
    /// It has allocated more than it was shown, or the freelist is not what SQLite would have left.
    Freelist,
    /// The database has become smaller, or is not of the size that this transaction saw and changed.
    Size,
    /// The snapshot has ended: what was committed after it is not known any more.
    Ended,
}

impl Concurrent {
    /// SQLite was given this page.
    pub(super) fn note_read(&mut self, page: u32) {
        self.reads.insert(page);
    }

    /// SQLite was given these bytes of the database file.
    pub(super) fn note_file_read(&mut self, offset: u64, bytes: usize, page_bytes: u32) {
        if crate::drops("concurrent-file-reads") {
            return;
        }
        let page = |at: u64| u32::try_from(at / u64::from(page_bytes) + 1).unwrap_or(u32::MAX);
        self.reads.extend(page(offset)..=page(offset + (bytes as u64).max(1) - 1));
    }

    /// The connection has committed these pages, which are in SQLite's cache.
    pub(super) fn note_written(&mut self, pages: impl Iterator<Item = u32>) {
        if !crate::drops("concurrent-own-pages") {
            self.reads.extend(pages);
        }
    }

    /// Whether SQLite may have the page in its cache.
    pub(super) fn has_read(&self, page: u32) -> bool {
        self.reads.contains(page)
    }

    /// Whether the snapshot of the present transaction may move: it began virtually, or with WRITE at its first write.
    pub(super) fn may_move(&self) -> bool {
        matches!(self.write, Write::Virtual | Write::TakenAtFirst)
    }

    /// A snapshot comes with another header: SQLite empties its cache before it reads anything.
    fn forget_reads(&mut self) {
        self.reads.clear();
        self.is_complete = true;
    }
}

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

/// Before a snapshot: the next one changes the header, if SQLite may have pages in its cache that it was given before the setting.
pub(super) fn before_snapshot(wal: &mut WalConnection) {
    if wal.writer.concurrent.as_ref().is_some_and(|concurrent| !concurrent.is_complete) {
        wal.view.renumber();
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
        concurrent.turns.note_snapshot(has_waited, crate::os::now_us());
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

/// Grants WRITE virtually, or, to one of a connection that takes it with the first write, really, if it can be had while others only
/// commit. What was read by now must be as it was, since it is cheaper to say so now.
pub(super) fn begin(wal: &mut WalConnection, file: &OpenFile, base: &mut dyn BaseFile) -> Result<(), Code> {
    wal.reader.give_up_grant(&wal.engine, wal.me.id);
    let mut takes_write = false;
    if let Some(concurrent) = &mut wal.writer.concurrent {
        let is_first = file.pager.get().is_some_and(|pager| pager.is_beginning());
        concurrent.turns.note_first_write(is_first, crate::os::now_us());
        takes_write = concurrent.turns.takes_write();
    }
    // Also if it is refused: the next one that begins with the same text gets the newest snapshot.
    wal.reader.wrote = true;
    if takes_write && !wait_for_write(wal, COMMIT_WAIT) {
        wal.engine.queue.give_up_grant(wal.me.id);
        takes_write = false;
    }
    let (snapshot, published) = (self::snapshot(wal), wal.engine.log.marks.published());
    if published > snapshot {
        let (written, mut interiors) = (PageSet::default(), Interiors::default());
        let is_same = validate_up_to(wal, base, (snapshot, published), &written, &mut interiors);
        if let (Err(_), true) = (is_same, takes_write) {
            wal.engine.queue.release(wal.me.id, false);
        }
        is_same?;
    }
    set_write(wal, if takes_write { Write::TakenAtFirst } else { Write::Virtual });
    counters(wal).open.fetch_add(1, SeqCst);
    wal.writer.holds_write = true;
    wal.start_transaction(snapshot);
    // Nothing is published by others from now on.
    if takes_write { stamp(wal, published + 1) } else { Ok(()) }
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

/// The commit that the connection sees: that of its view, or a later one to which it has moved.
pub(super) fn snapshot(wal: &WalConnection) -> u64 {
    let of_view = wal.view.sequence().unwrap_or(0);
    wal.writer.concurrent.as_ref().map_or(of_view, |concurrent| concurrent.moved.at(of_view))
}

/// The read transaction is over.
pub(super) fn end_read(wal: &mut WalConnection) {
    if let Some(concurrent) = &mut wal.writer.concurrent {
        concurrent.moved.end();
        concurrent.growth.end();
    }
}

/// Whether the present transaction began with a virtual WRITE.
pub(super) fn is_open(wal: &WalConnection) -> bool {
    write(wal) != Write::AsSqlite
}

/// Whether SQLite has WRITE virtually only.
pub(super) fn is_virtual(wal: &WalConnection) -> bool {
    write(wal) == Write::Virtual
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
    let has_write = write(wal) == Write::TakenAtFirst;
    if let Some(concurrent) = &mut wal.writer.concurrent {
        concurrent.turns.note_commit_begins(has_write, crate::os::now_us());
    }
    let snapshot = self::snapshot(wal);
    let (mut written, mut interiors) = (PageSet::default(), Interiors::default());
    let mut validated = wal.engine.log.marks.published();
    if validated > snapshot || view::is_private(&wal.view) {
        written.extend(wal.view.lane().pages());
    }
    if validated > snapshot {
        validate_up_to(wal, base, (snapshot, validated), &written, &mut interiors)?;
    }
    if write(wal) == Write::Virtual {
        crate::interleave::step("before WRITE of a commit");
        take_write(wal, file)?;
    }
    let published = wal.engine.log.marks.published();
    if published > validated {
        if validated == snapshot && !view::is_private(&wal.view) {
            written.extend(wal.view.lane().pages());
        }
        if crate::drops("concurrent-validate-under-write") {
            validated = published;
        }
        validate_up_to(wal, base, (validated, published), &written, &mut interiors)?;
    }
    stamp(wal, published + 1)?;
    let database_pages = match published > snapshot || view::is_private(&wal.view) {
        true => size_after(wal, base, (snapshot, published), &written, database_pages)?,
        false => database_pages,
    };
    interiors.stage(wal).map_err(|error| {
        wal.log(Code::IOERR_WRITE, &error.to_string());
        Code::IOERR_WRITE
    })?;
    Ok((published + 1, database_pages))
}

fn validate_up_to(
    wal: &mut WalConnection,
    base: &mut dyn BaseFile,
    commits: (u64, u64),
    written: &PageSet,
    interiors: &mut Interiors,
) -> Result<(), Code> {
    match validate(wal, base, commits, written, interiors) {
        Ok(None) => wal.check_lost(),
        Ok(Some(conflict)) => Err(conflicts(wal, &conflict)),
        Err(failure) => Err(code_of(wal, failure)),
    }
}

/// Logs why a page could not be read.
pub(super) fn code_of(wal: &WalConnection, failure: ReadFailure) -> Code {
    match failure {
        ReadFailure::Base(code) => code,
        ReadFailure::Engine(error) => wal.failed(&error),
        ReadFailure::Spill(error) => {
            wal.log(Code::IOERR_READ, &format!("spill file of the transaction: {error}"));
            Code::IOERR_READ
        }
    }
}

/// The size of the database after a commit that is the next after `published`; where others have committed since the snapshot, or the
/// freelist that SQLite has seen is its own, the transaction's page 1 is that of what is published.
fn size_after(
    wal: &mut WalConnection,
    base: &mut dyn BaseFile,
    (snapshot, published): (u64, u64),
    written: &PageSet,
    database_pages: u32,
) -> Result<u32, Code> {
    let reader = &wal.engine.reader;
    let since = reader.written_since(snapshot, published, |_| false).map_err(|error| wal.failed(&error))?;
    let (seen, is_private) = (wal.view.database_pages_at_write(), view::is_private(&wal.view));
    let is_smaller = since.is_incomplete || since.database_pages_min < reader.database_pages(snapshot);
    if is_smaller && !crate::drops("concurrent-size-seen") {
        return Err(conflicts(wal, &Conflict::Size));
    }
    if !written.contains(1) {
        let is_same = database_pages == seen;
        return if is_same { Ok(since.database_pages) } else { Err(conflicts(wal, &Conflict::Size)) };
    }
    if !is_private && (since.page_one.is_none() || crate::drops("growth-composed")) {
        // No other has allocated or freed: what SQLite has made of the freelist is right.
        return Ok(database_pages);
    }
    if let Some(page_one) = since.page_one
        && has_pointer_maps(wal)
    {
        return Err(conflicts(wal, &Conflict::Allocation(page_one)));
    }
    if published > snapshot {
        wal.engine.connections.note_allocation();
    }
    growth::put_composed(wal, base, published, written, database_pages)?.map_err(|conflict| conflicts(wal, &conflict))
}

/// Whether the page 1 that is staged says so.
fn has_pointer_maps(wal: &mut WalConnection) -> bool {
    let image = Composition::of(&mut wal.view).and_then(|staged| staged.image(1).ok().flatten());
    image.is_some_and(|image| PageOne::parse(&image).is_some_and(|page_one| page_one.has_pointer_maps()))
}

/// Whether the commits of this range have written what the transaction depends on. `interiors` is of the end of the range before, which
/// this one continues, and then of the end of this one.
fn validate(
    wal: &mut WalConnection,
    base: &mut dyn BaseFile,
    range: (u64, u64),
    written: &PageSet,
    interiors: &mut Interiors,
) -> Result<Option<Conflict>, ReadFailure> {
    let mut found = look_for(wal, range, written, interiors)?;
    // Perhaps a page of the freelist: it is composed.
    if !found.pages.is_empty() && growth::look_at_truth(wal, base)? {
        found = look_for(wal, range, written, interiors)?;
    }
    if found.is_incomplete {
        return Ok(Some(Conflict::Ended));
    }
    if let Some(conflict) = look_at(wal, base, (range.1, &found.pages), written, interiors)? {
        return Ok(Some(conflict));
    }
    let Some(page_one) = found.page_one else { return Ok(None) };
    let is_same = has_same_schema(wal, base, page_one)? || crate::drops("concurrent-schema");
    Ok((!is_same).then_some(Conflict::Schema(page_one)))
}

/// The first of these pages that is a conflict.
fn look_at(
    wal: &mut WalConnection,
    base: &mut dyn BaseFile,
    (to, pages): (u64, &[WrittenPage]),
    written: &PageSet,
    interiors: &mut Interiors,
) -> Result<Option<Conflict>, ReadFailure> {
    if pages.is_empty() {
        return Ok(None);
    }
    let structure = Structure::of(wal, base, to)?.filter(|_| pages.len() < PAGES_MAX);
    for page in pages {
        let is_same = match &structure {
            Some(structure) => structure.look_at(wal, base, *page, written, interiors)?,
            None => false,
        };
        if !is_same {
            return Ok(Some(Conflict::Page(*page, written.contains(page.page))));
        }
    }
    Ok(None)
}

/// What others have written of what a transaction depends on.
struct Found {
    /// Not page 1; each once, at most [`PAGES_MAX`].
    pages: Vec<WrittenPage>,
    page_one: Option<WrittenPage>,
    is_incomplete: bool,
}

/// Written pages that are looked at: if there are more, one of them is a leaf most likely, and what is compared has its bounds.
const PAGES_MAX: usize = 64;

fn look_for(
    wal: &WalConnection,
    (from, to): (u64, u64),
    written: &PageSet,
    interiors: &Interiors,
) -> Result<Found, ReadFailure> {
    let mut pages: Vec<WrittenPage> = Vec::new();
    let Some(concurrent) = &wal.writer.concurrent else {
        return Ok(Found { pages, page_one: None, is_incomplete: true });
    };
    let shown = concurrent.growth.shown(view::is_private(&wal.view), snapshot(wal));
    let is_trunk = |page| shown.is_some_and(|shown| shown.is_trunk(page));
    let is_free = |page| shown.is_some_and(|shown| shown.is_free(page));
    let reads = |page| concurrent.reads.contains(page) && !is_trunk(page) && !crate::drops("concurrent-reads");
    let writes = |page| written.contains(page) && !is_free(page) && !crate::drops("concurrent-writes");
    let mut note = |page: WrittenPage| {
        if pages.iter().all(|known| known.page != page.page) {
            pages.push(page);
        }
        pages.len() >= PAGES_MAX
    };
    let since = wal.engine.reader.written_since(from, to, |now| {
        let is_over = (reads(now.page) || writes(now.page)) && note(now);
        interiors.resting_on(now.page).fold(is_over, |is_over, page| note(page) || is_over)
    })?;
    Ok(Found { pages, page_one: since.page_one, is_incomplete: since.is_incomplete })
}

/// Whether page 1 is in this frame what it is in the snapshot, but for its counters.
fn has_same_schema(wal: &WalConnection, base: &mut dyn BaseFile, newer: WrittenPage) -> Result<bool, ReadFailure> {
    let (engine, sequence) = (&wal.engine, snapshot(wal));
    let seen = growth::true_page(engine, base, 1, sequence)?;
    let now = growth::true_page(engine, base, 1, newer.sequence)?;
    let (seen, now) = (PageOne::parse(&seen), PageOne::parse(&now));
    Ok(seen.zip(now).is_some_and(|(seen, now)| seen.is_same_but_counters(&now)))
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
            let (page, kind) = (written.page, kind(wal, written));
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
        Conflict::Freelist => {
            "this transaction has allocated or freed more pages beside others than it had leased".to_owned()
        }
        Conflict::Size => "the size of the database has changed beside this transaction".to_owned(),
        Conflict::Ended => "the snapshot of this transaction has ended".to_owned(),
    };
    wal.log(Code::BUSY_SNAPSHOT, &text);
    Code::BUSY_SNAPSHOT
}

/// What a page is, in a word.
fn kind(wal: &WalConnection, written: &WrittenPage) -> &'static str {
    let mut image = vec![0; wal.engine.log.page_bytes as usize];
    if !wal.engine.reader.read_frame(written.number, 0, &mut image).is_ok_and(|is_read| is_read) {
        return "unknown";
    }
    match Kind::of(&image, written.page) {
        Some(Kind::TableLeaf) => "leaf of a table",
        Some(Kind::IndexLeaf) => "leaf of an index",
        Some(Kind::TableInterior) => "interior page of a table",
        Some(Kind::IndexInterior) => "interior page of an index",
        None => "overflow, free or pointer-map page",
    }
}

fn stamp(wal: &mut WalConnection, sequence: u64) -> Result<(), Code> {
    wal.view.set_commit_sequence(sequence).map_err(|error| {
        wal.log(Code::IOERR_READ, &format!("spill file of the transaction: {error}"));
        Code::IOERR_READ
    })
}

/// Waits for WRITE as long as others that commit keep it; true: it is this connection's.
fn wait_for_write(wal: &WalConnection, at_most: Duration) -> bool {
    let (engine, me) = (&wal.engine, wal.me.id);
    engine.queue.try_acquire(me)
        || engine.acquire_write_after_rest(me)
        || (!at_most.is_zero() && engine.queue.wait(me, at_most) && engine.queue.try_acquire(me))
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
    let mut taken = wait_for_write(wal, if waits { wait } else { Duration::ZERO });
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
    if matches!(write(wal), Write::Taken | Write::TakenAtFirst) && spill.is_none() {
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
        growth::note_published(concurrent, wal.view.lane(), (&wal.engine, first_number));
    }
}

/// The transaction is over; true: WRITE is to be released.
pub(super) fn end(wal: &mut WalConnection) -> bool {
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
