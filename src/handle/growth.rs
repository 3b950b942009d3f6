//! Pages that transactions allocate and free beside each other (`parallel_wal_writers=concurrent`).
//!
//! Two transactions that allocate would take the same page, and both write page 1 and the first trunk of the freelist. So, once
//! transactions allocate beside each other, one after BEGIN is shown a freelist of its own ([`Shown::private`]): pages that are leased
//! to its connection first, of the list and beyond the end of the database, then all others. It is a whole database, with a page 1 and
//! trunks that no other connection sees; `integrity_check` and a backup find nothing missing in it. Outside of BEGIN it is shown what is.
//!
//! At COMMIT, with WRITE held, page 1 and the trunks are made anew of those of the commit before and of what this transaction has taken
//! and given ([`compose`]). A lease is a hint: what was taken must still be free. Of what SQLite has staged, the pages that it was shown
//! as free and has not taken are not published: a trunk that only it saw may be another one's page by now. So each page of a batch is
//! one that no commit has written since the snapshot, or one that was free, or composed.
//!
//! SQLite has its own page 1 and trunks in its cache then, so that the view keeps showing them, as long as no other commits come: until
//! then the next transaction goes on with them. A database with pointer maps (`auto_vacuum`) has no leases, nor has a connection with
//! `PRAGMA max_page_count`: what is beyond the end would count.

use super::base::BaseFile;
use super::concurrent;
use super::concurrent::{Concurrent, Conflict};
use super::file::OpenFile;
use super::header::mask;
use super::reader::ReadFailure;
use super::wal_connection::WalConnection;
use crate::engine::{Engine, Freelist};
use crate::pages::{Composed, Head, PageOne, Refusal, Shown, Staged, Truth, compose, lock_page};
use crate::sqlite::Code;
use crate::view::{self, Composition, PageSet};
use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

/// The fewest and the most pages of a lease,
const LEASE_MIN: u32 = 16;
const LEASE_MAX: u32 = 4096;
/// and twice what the transactions of the connection have taken of late.
const LEASE_SHARE: u32 = 2;
/// Pages beyond the end that are shown as free and leased to no connection: room for a transaction that takes more than its lease.
const SPARE: u32 = 256;
/// Trunks that are shown at most.
const TRUNKS_MAX: usize = 16;
/// The largest database with leases, in pages.
const DATABASE_PAGES_MAX: u32 = 1 << 31;

/// Of a connection with `parallel_wal_writers=concurrent`.
#[derive(Debug, Default)]
pub(super) struct Growth {
    /// The pages that are leased to it, rising.
    own: Vec<u32>,
    /// How many its transactions have taken of late.
    needs: u32,
    /// What SQLite is shown, while the view is private.
    private: Option<Shown>,
    /// What it is shown else: of the commit of this sequence.
    truth: Option<(u64, Shown)>,
    /// SQLite has come to the pages that are not leased to this connection: it may have taken any.
    uses_others: bool,
    /// A statement of the present transaction has ended in its midst.
    is_broken: bool,
    /// Of the transaction that is prepared.
    composed: Option<Box<Composed>>,
}

impl Growth {
    /// What SQLite is shown of the freelist, if it is known.
    pub(super) fn shown(&self, is_private: bool, sequence: u64) -> Option<&Shown> {
        match is_private {
            true => self.private.as_ref(),
            false => self.truth.as_ref().filter(|(known, _)| *known == sequence).map(|(_, shown)| shown),
        }
    }

    fn lease_pages(&self) -> u32 {
        (LEASE_SHARE * self.needs).clamp(LEASE_MIN, LEASE_MAX)
    }

    /// A transaction has taken this number of pages, or has tried.
    fn note_taken(&mut self, taken: usize) {
        let taken = u32::try_from(taken).unwrap_or(LEASE_MAX).min(LEASE_MAX);
        self.needs = taken.max(self.needs - self.needs.div_ceil(16));
    }

    /// Whether a page is free, and SQLite cannot have taken it.
    pub(super) fn is_of_others(&self, page: u32) -> bool {
        !self.uses_others && self.private.as_ref().is_some_and(|shown| shown.is_of_others(page))
    }

    /// Whether SQLite has come to the pages that are not leased to this connection, after which the list goes on as it was in the snapshot.
    pub(super) fn uses_others(&self) -> bool {
        self.uses_others
    }

    /// Whether a page is free in what SQLite is shown.
    pub(super) fn may_have_taken(&self, page: u32) -> bool {
        self.private.as_ref().is_some_and(|shown| shown.is_free(page))
    }

    /// Others have taken these pages, and the snapshot has moved past that.
    pub(super) fn leave(&mut self, pages: &[u32]) {
        if let Some(shown) = self.private.as_mut().filter(|_| !crate::drops("moving-gone")) {
            shown.leave(pages);
        }
    }

    /// Whether SQLite's freelist has pages that others have taken by the snapshot.
    pub(super) fn has_left(&self) -> bool {
        self.private.as_ref().is_some_and(Shown::has_left)
    }

    /// SQLite reads a page that only it is shown.
    ///
    /// # Errors
    /// `BUSY_SNAPSHOT`: it has used up what is leased to it, and of what comes next others have taken pages by its snapshot. The
    /// statement ends in its midst, and SQLite takes back only what has a statement journal (`sqlite3VdbeHalt`): the transaction
    /// cannot commit.
    pub(super) fn note_private_read(&mut self, page: u32) -> Result<(), Code> {
        if !self.private.as_ref().is_some_and(|shown| shown.is_trunk_of_others(page)) {
            return Ok(());
        }
        self.uses_others = true;
        if self.has_left() && !crate::drops("moving-trunk") {
            self.note_taken(2 * self.own.len());
            self.is_broken = true;
            return Err(Code::BUSY_SNAPSHOT);
        }
        Ok(())
    }

    /// Whether a statement of the transaction has ended in its midst, so that it cannot commit.
    pub(super) fn is_broken(&self) -> bool {
        self.is_broken && !crate::drops("growth-half-statement")
    }

    /// The transaction is over.
    pub(super) fn end(&mut self) {
        self.forget_composed();
        self.is_broken = false;
    }

    /// Nothing is prepared any more.
    pub(super) fn forget_composed(&mut self) {
        self.composed = None;
    }
}

fn growth(wal: &mut WalConnection) -> Option<&mut Growth> {
    wal.writer.concurrent.as_mut().map(|concurrent| &mut concurrent.growth)
}

/// Before a snapshot: whether it is to have a freelist of its own. Where SQLite is shown one that this snapshot cannot have, or that
/// is used up, the header changes.
pub(super) fn before_snapshot(wal: &mut WalConnection, file: &OpenFile) -> bool {
    let wants = concurrent::is_coming(wal, file)
        && !wal.writer.holds_write
        && !concurrent::lost_often(wal, file)
        && (!wal.writer.limits_pages || crate::drops("growth-page-limit"))
        && !wal.reader.at_zero
        && wal.engine.connections.allocate_beside_others();
    let goes_on = wal.writer.concurrent.as_ref().is_some_and(|concurrent| {
        let growth = &concurrent.growth;
        growth.private.is_some() && growth.own.len() as u32 >= growth.lease_pages() / LEASE_SHARE
    });
    let ends = !wants || !goes_on;
    if ends && !crate::drops("growth-outside-of-begin") {
        view::end_private(&mut wal.view);
    }
    wants
}

/// After a snapshot that [`before_snapshot`] wants private; true: the header has changed.
pub(super) fn show(wal: &mut WalConnection, base: &mut dyn BaseFile) -> Result<bool, ReadFailure> {
    if view::is_private(&wal.view) {
        return Ok(false);
    }
    if let Some(growth) = growth(wal) {
        growth.private = None;
    }
    let (engine, sequence) = (Arc::clone(&wal.engine), wal.view.sequence().unwrap_or(0));
    let Some(freelist) = freelist_of(&engine, base, sequence)? else { return Ok(false) };
    let Some(page_one) = PageOne::parse(&freelist.page_one) else { return Ok(false) };
    let size = page_one.counters().database_pages;
    if page_one.has_pointer_maps() || size != engine.reader.database_pages(sequence) || size > DATABASE_PAGES_MAX {
        return Ok(false);
    }
    let mut head = freelist.head.clone();
    // One that takes more than a trunk lists comes to the next ones.
    let wanted = growth(wal).map_or(0, |growth| growth.lease_pages()) as usize;
    while head.pages().len() < wanted && head.rest() != 0 && head.trunks().len() < TRUNKS_MAX {
        let trunk = true_page(&engine, base, head.rest(), sequence)?;
        if !head.extend(&trunk, page_one.usable()) {
            return Ok(false);
        }
    }
    lease(wal, size, &head);
    let Some(growth) = growth(wal) else { return Ok(false) };
    let Some((shown, images)) = Shown::private(&freelist.page_one, &head, &growth.own, SPARE) else {
        return Ok(false);
    };
    let database_pages = shown.database_pages();
    growth.private = Some(shown);
    growth.uses_others = false;
    view::show_private(&mut wal.view, images, database_pages);
    Ok(true)
}

/// Leases as many pages as are wanted: of the share of the freelist first.
fn lease(wal: &mut WalConnection, size: u32, head: &Head) {
    let (engine, me) = (Arc::clone(&wal.engine), wal.me);
    let lock_page = lock_page(engine.log.page_bytes as usize);
    let leased = engine.connections.lease(me);
    let Some(growth) = growth(wal) else { return };
    let wanted = growth.lease_pages() as usize;
    // Else the file would grow back, after a VACUUM.
    let is_far = leased.is_far(size) && !crate::drops("growth-far-leases");
    growth.own.retain(|page| match *page > size {
        true => leased.is_own(*page) && !is_far,
        false => head.contains(*page) && leased.has(*page),
    });
    if growth.own.len() >= wanted / LEASE_SHARE as usize {
        return;
    }
    // A trunk only when it has no leaves: it is written by each commit that takes or gives.
    let are_all_trunks = head.pages().len() == head.trunks().len();
    let may = |page: &u32| leased.has(*page) && (are_all_trunks || !head.trunks().contains(page));
    let own = growth.own.clone();
    let share = head.pages().iter().copied().filter(|page| may(page) && own.binary_search(page).is_err());
    growth.own.extend(share.take(wanted - own.len()));
    if growth.own.len() < wanted / LEASE_SHARE as usize {
        let count = u32::try_from(wanted - growth.own.len()).unwrap_or(LEASE_MAX);
        let first = engine.connections.lease_beyond(me, size, count);
        crate::fault_point("leased");
        growth.own.extend((first..first.saturating_add(count)).filter(|page| *page != lock_page));
    }
    growth.own.sort_unstable();
    growth.own.dedup();
}

/// What is known of the freelist in the snapshot, where SQLite is shown what is.
pub(super) fn look_at_truth(wal: &mut WalConnection, base: &mut dyn BaseFile) -> Result<bool, ReadFailure> {
    let (engine, sequence) = (Arc::clone(&wal.engine), concurrent::snapshot(wal));
    let is_private = view::is_private(&wal.view);
    let Some(growth) = growth(wal) else { return Ok(false) };
    if is_private || growth.shown(false, sequence).is_some() {
        return Ok(false);
    }
    let Some(freelist) = freelist_of(&engine, base, sequence)? else { return Ok(false) };
    let page_one = PageOne::parse(&freelist.page_one).filter(|page_one| !page_one.has_pointer_maps());
    growth.truth = page_one.and_then(|page_one| Some((sequence, Shown::truth(&page_one, &freelist.head)?)));
    Ok(growth.truth.is_some())
}

/// A page as it is after commit `sequence`, which is not before the snapshot of this connection.
pub(super) fn true_page(
    engine: &Engine,
    base: &mut dyn BaseFile,
    page: u32,
    sequence: u64,
) -> Result<Vec<u8>, ReadFailure> {
    let mut image = vec![0; engine.log.page_bytes as usize];
    if let Some(number) = engine.reader.newest_of(page, sequence)?
        && engine.reader.read_frame(number, 0, &mut image)?
    {
        return Ok(image);
    }
    let offset = u64::from(page.saturating_sub(1)) * u64::from(engine.log.page_bytes);
    match base.read(&mut image, offset) {
        Ok(()) | Err(Code::IOERR_SHORT_READ) => {}
        Err(code) => return Err(ReadFailure::Base(code)),
    }
    mask(&mut image, offset);
    Ok(image)
}

/// Which of these pages, which were free and are written by commits up to `to`, are in use after it. `None`: one is a trunk that SQLite
/// is shown.
pub(super) fn gone(
    engine: &Engine,
    base: &mut dyn BaseFile,
    to: u64,
    growth: &Growth,
    mut written: Vec<u32>,
) -> Result<Option<Vec<u32>>, ReadFailure> {
    let Some(freelist) = freelist_of(engine, base, to)? else { return Ok(None) };
    written.sort_unstable();
    written.dedup();
    written.retain(|page| !freelist.head.contains(*page));
    let is_shown = written.iter().any(|page| growth.private.as_ref().is_some_and(|shown| shown.is_trunk(*page)));
    Ok((!is_shown).then_some(written))
}

/// Page 1 after commit `sequence`, and the beginning of the freelist. `None`: they are not what SQLite writes.
fn freelist_of(engine: &Engine, base: &mut dyn BaseFile, sequence: u64) -> Result<Option<Arc<Freelist>>, ReadFailure> {
    let number = engine.reader.newest_of(1, sequence)?;
    if let Some(known) = number.and_then(|number| engine.reader.freelist.get(number)) {
        return Ok(Some(known));
    }
    let page_one = true_page(engine, base, 1, sequence)?;
    let Some(parsed) = PageOne::parse(&page_one) else { return Ok(None) };
    let mut head = Head::new(parsed.counters().first_trunk);
    if head.rest() != 0 {
        let trunk = true_page(engine, base, head.rest(), sequence)?;
        if !head.extend(&trunk, parsed.usable()) {
            return Ok(None);
        }
    }
    let freelist = Arc::new(Freelist { page_one, head });
    if let Some(number) = number {
        engine.reader.freelist.put(number, Arc::clone(&freelist));
    }
    Ok(Some(freelist))
}

/// Puts page 1 and the freelist as they are after commit `published` and then this transaction into the lane. The size of the
/// database, in pages. Under WRITE.
pub(super) fn put_composed(
    wal: &mut WalConnection,
    base: &mut dyn BaseFile,
    published: u64,
    written: &PageSet,
    database_pages: u32,
) -> Result<Result<u32, Conflict>, Code> {
    let composed = compose_commit(wal, base, published, database_pages);
    let composed = match composed.map_err(|failure| concurrent::code_of(wal, failure))? {
        Ok(composed) if composed.taken.iter().all(|page| written.contains(*page)) => composed,
        refused => {
            let taken = growth_taken(wal, written);
            if let Some(growth) = growth(wal) {
                growth.note_taken(taken);
            }
            wal.engine.connections.note_allocation();
            return Ok(Err(match refused {
                Err(Refusal::Page(page)) => Conflict::Taken(page),
                _ => Conflict::Freelist,
            }));
        }
    };
    stage_composed(wal, &composed).map_err(|error| {
        wal.log(Code::IOERR_WRITE, &error.to_string());
        Code::IOERR_WRITE
    })?;
    crate::fault_point("composed");
    let pages = composed.database_pages;
    if let Some(growth) = growth(wal) {
        growth.composed = Some(Box::new(composed));
    }
    Ok(Ok(pages))
}

fn growth_taken(wal: &WalConnection, written: &PageSet) -> usize {
    let sequence = concurrent::snapshot(wal);
    let shown = wal
        .writer
        .concurrent
        .as_ref()
        .and_then(|concurrent| concurrent.growth.shown(view::is_private(&wal.view), sequence));
    let pages = wal.view.lane().pages().filter(|page| shown.is_some_and(|shown| shown.is_free(*page)));
    pages.filter(|page| written.contains(*page)).count()
}

fn compose_commit(
    wal: &mut WalConnection,
    base: &mut dyn BaseFile,
    published: u64,
    database_pages: u32,
) -> Result<Result<Composed, Refusal>, ReadFailure> {
    look_at_truth(wal, base)?;
    let (engine, snapshot) = (Arc::clone(&wal.engine), concurrent::snapshot(wal));
    let is_private = view::is_private(&wal.view);
    let Some(truth) = freelist_of(&engine, base, published)? else { return Ok(Err(Refusal::Structure)) };
    let size = PageOne::parse(&truth.page_one).map(|page_one| page_one.counters().database_pages);
    if size != Some(engine.reader.database_pages(published)) {
        return Ok(Err(Refusal::Structure));
    }
    let WalConnection { view, writer, .. } = wal;
    let shown = writer.concurrent.as_ref().and_then(|concurrent| concurrent.growth.shown(is_private, snapshot));
    let Some(shown) = shown else { return Ok(Err(Refusal::Structure)) };
    let rest_is_written = view.lane().pages().any(|page| page == shown.rest());
    let Some(composition) = Composition::of(view) else { return Ok(Err(Refusal::Structure)) };
    let Some(page_one) = composition.image(1).map_err(ReadFailure::Spill)? else {
        return Ok(Err(Refusal::Structure));
    };
    let staged = Staged { page_one: &page_one, shown, rest_is_written, database_pages };
    let truth = Truth { page_one: &truth.page_one, head: truth.head.clone() };
    let base = RefCell::new(base);
    let mut staged_page = |page: u32| match composition.image(page).map_err(ReadFailure::Spill)? {
        None if !is_private => true_page(&engine, *base.borrow_mut(), page, snapshot).map(Some),
        staged => Ok(staged),
    };
    let mut page_of_truth = |page: u32| true_page(&engine, *base.borrow_mut(), page, published).map(Some);
    compose(&staged, &truth, &mut staged_page, &mut page_of_truth)
}

/// What is published goes to the lane: in the place of the pages that SQLite was shown as free and has not taken, which are not.
fn stage_composed(wal: &mut WalConnection, composed: &Composed) -> Result<(), crate::view::ViewError> {
    let sequence = concurrent::snapshot(wal);
    let is_private = view::is_private(&wal.view);
    let WalConnection { view, writer, .. } = wal;
    let Some(shown) = writer.concurrent.as_ref().and_then(|concurrent| concurrent.growth.shown(is_private, sequence))
    else {
        return Ok(());
    };
    let is_composed = |page: u32| page == 1 || composed.trunks.iter().any(|(trunk, _)| *trunk == page);
    let is_taken = |page: u32| composed.taken.binary_search(&page).is_ok();
    let is_over = |page: &u32| shown.is_free(*page) && !is_taken(*page) && !is_composed(*page);
    let over = view.lane().pages().filter(is_over).filter(|_| !crate::drops("growth-superseded"));
    let mut over: Vec<u32> = over.collect();
    over.sort_unstable();
    over.dedup();
    let staged: PageSet = view.lane().pages().collect();
    let Some(mut composition) = Composition::of(view) else { return Ok(()) };
    for (trunk, image) in &composed.trunks {
        let now = (*trunk, image.as_slice());
        match (staged.contains(*trunk), over.pop()) {
            (true, kept) => {
                over.extend(kept);
                composition.replace(*trunk, now)?;
            }
            (false, Some(page)) => composition.replace(page, now)?,
            (false, None) => composition.add(now)?,
        }
    }
    for page in over {
        composition.replace(page, (1, &composed.page_one))?;
    }
    composition.replace(1, (1, &composed.page_one))
}

/// The lane is published, and its frames are numbered from `first_number` on.
pub(super) fn note_published(
    concurrent: &mut Concurrent,
    lane: &crate::view::Lane,
    (engine, first_number): (&Engine, u64),
) {
    let Some(composed) = concurrent.growth.composed.take() else {
        concurrent.note_written(lane.pages());
        return;
    };
    engine.log.counters.concurrent.composed.fetch_add(1, SeqCst);
    let Composed { page_one, trunks, taken, head, seen, .. } = *composed;
    concurrent.note_written(lane.pages().filter(|page| trunks.iter().all(|(trunk, _)| trunk != page)));
    let of_page_one = lane.pages().zip(first_number..).filter(|(page, _)| *page == 1).map(|(_, number)| number).last();
    if let Some(number) = of_page_one {
        engine.reader.freelist.put(number, Arc::new(Freelist { page_one, head }));
    }
    let growth = &mut concurrent.growth;
    growth.own.retain(|page| taken.binary_search(page).is_err());
    growth.note_taken(taken.len());
    if growth.private.is_some() {
        growth.private = Some(seen);
    }
}
