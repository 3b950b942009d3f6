//! A snapshot that moves forward, of a transaction that writes beside others (`parallel_wal_writers=concurrent`).
//!
//! SQLite asks for a page when it is not in its cache. If others have written it since the snapshot, and nothing that this
//! connection's cache may hold, the page is given as it is now: the transaction is one that began later. So a page conflicts
//! only when it is written after it was first read, not after BEGIN. All that is read from then on is read as of the commit that the snapshot has moved
//! to. The snapshot slot stays where it is, and so what checkpoints may do.
//!
//! It moves when nothing in between has written a page that was read, or that the transaction has written or may have taken; the schema is
//! the same; and the database is not larger than SQLite knows. With a freelist of its own, pages that were taken by others meanwhile are free no more
//! ([`Shown::leave`](crate::pages::Shown::leave)), though SQLite's list has them still, after those that are leased to the connection: if it comes so far, the
//! statement is `SQLITE_BUSY_SNAPSHOT`.
//!
//! Only a transaction that has WRITE virtually moves. One that only reads stays at its snapshot.

use super::committed::{Committed, PageFailure};
use super::concurrent_state::Concurrent;
use crate::engine::WrittenPage;
use crate::pages::PageOne;
use crate::view::{PageSet, View};
use std::cell::RefCell;

/// Before SQLite is given a page, other than page 1: the commit as of which it is read, if that is not the view's.
pub(super) fn before_page(
    committed: &mut Committed<'_>,
    (concurrent, view): (&mut Concurrent, &View),
    page: u32,
) -> Result<Option<u64>, PageFailure> {
    if page > 1 && concurrent.may_move() {
        move_for(committed, (concurrent, view), page)?;
    }
    Ok(concurrent.moved_to)
}

fn move_for(
    committed: &mut Committed<'_>,
    (concurrent, view): (&mut Concurrent, &View),
    page: u32,
) -> Result<(), PageFailure> {
    let engine = committed.engine;
    let from = concurrent.snapshot(view.sequence().unwrap_or(0));
    let to = engine.log.marks.published();
    if to <= from || engine.reader.newest_of(page, to)? == engine.reader.newest_of(page, from)? {
        return Ok(());
    }
    match may_move(committed, (concurrent, view), (from, to))? {
        Verdict::Stays => return Ok(()),
        Verdict::Moves => {}
        Verdict::MovesPastAllocations(gone) => concurrent.growth.leave(&gone),
    }
    concurrent.moved_to = Some(to);
    engine.log.counters.concurrent.moved.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
    Ok(())
}

/// Whether a snapshot moves.
enum Verdict {
    Stays,
    Moves,
    /// Past commits that have changed page 1: these pages were free and are not.
    MovesPastAllocations(Vec<u32>),
}

/// Whether all that SQLite may have in its cache is the same after commit `to`.
fn may_move(
    committed: &mut Committed<'_>,
    (concurrent, view): (&Concurrent, &View),
    (from, to): (u64, u64),
) -> Result<Verdict, PageFailure> {
    let engine = committed.engine;
    let is_private = crate::view::is_private(view);
    let staged: PageSet = view.lane().pages().collect();
    let written = RefCell::new(Vec::new());
    let depends = |WrittenPage { page, .. }| {
        let is_read = concurrent.has_read(page) && !crate::drops("moving-reads");
        // A backup reads free pages, too.
        if is_private && !is_read && concurrent.growth.is_of_others(page) {
            written.borrow_mut().push(page);
            return false;
        }
        let is_taken = is_private && concurrent.growth.may_have_taken(page) && !crate::drops("moving-taken");
        page != 1 && (is_read || is_taken || staged.contains(page))
    };
    let since = engine.reader.written_since(from, to, depends)?;
    let size = engine.reader.database_pages(from);
    let is_known = since.touched.is_none() && !since.is_incomplete && since.database_pages_min >= size;
    let fits = since.database_pages <= view.database_pages_at_write() || crate::drops("moving-size");
    if is_known && !is_private && since.page_one.is_some() && !crate::drops("moving-allocates") {
        // The next snapshots have freelists of their own, and move past what others allocate.
        engine.connections.note_allocation();
    }
    if !is_known || !fits || engine.log.check_poison().is_err() {
        return Ok(Verdict::Stays);
    }
    if since.page_one.is_none() {
        return Ok(Verdict::Moves);
    }
    if !is_private || concurrent.growth.uses_others() {
        return Ok(Verdict::Stays);
    }
    let (before, after) = (committed.page(1, from)?, committed.page(1, to)?);
    let parsed = PageOne::parse(&before).zip(PageOne::parse(&after));
    let is_same = parsed.is_some_and(|(before, after)| before.is_same_but_counters(&after));
    if !is_same && !crate::drops("moving-schema") {
        return Ok(Verdict::Stays);
    }
    let gone = concurrent.growth.gone(committed, to, written.into_inner())?;
    Ok(gone.map_or(Verdict::Stays, Verdict::MovesPastAllocations))
}

/// Before SQLite reads bytes of the database file: moves as [`before_page`] does, and finds the frames that have the bytes, by the offset in the buffer. Before
/// the file is read, which has what is in no frame.
pub(super) fn frames_of_file(
    committed: &mut Committed<'_>,
    (concurrent, view): (&mut Concurrent, &View),
    (offset, bytes): (u64, usize),
) -> Result<Vec<(usize, u64)>, PageFailure> {
    let engine = committed.engine;
    let page_bytes = u64::from(engine.log.page_bytes);
    let end = offset + bytes as u64;
    let pages = offset / page_bytes..end.div_ceil(page_bytes);
    for page in pages.clone() {
        before_page(committed, (concurrent, view), page_number(page))?;
    }
    let Some(at) = concurrent.moved_to else { return Ok(Vec::new()) };
    let mut frames = Vec::new();
    for page in pages.filter(|page| *page > 0) {
        if let Some(number) = engine.reader.newest_of(page_number(page), at)? {
            frames.push((usize::try_from((page * page_bytes).saturating_sub(offset)).unwrap_or(0), number));
        }
    }
    Ok(frames)
}

fn page_number(index: u64) -> u32 {
    u32::try_from(index + 1).unwrap_or(u32::MAX)
}
