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

use super::committed::{Committed, PageFailure};
use crate::engine::{Connection, Engine, Freelist};
use crate::pages::{Composed, Head, PageOne, Refusal, Shown, Staged, Truth, compose, lock_page};
use crate::sqlite::Code;
use crate::view::{self, Composition, Lane, PageSet, View};
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

/// Why a transaction that has allocated or freed pages cannot commit after the others.
#[derive(Clone, Copy, Debug)]
pub(super) enum Refused {
    /// It has taken this page, which is not free any more.
    Taken(u32),
    /// It has freed this page, which another one has changed.
    Freed(u32),
    /// The freelist is not what SQLite would have made of the one it was shown, or all that it was shown is used.
    Structure,
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Refused {
        match refusal {
            Refusal::Page(page) => Refused::Taken(page),
            Refusal::Structure => Refused::Structure,
        }
    }
}

/// Whether the pages that a transaction has freed are as they were in its snapshot. It has put elsewhere what was on them: what others
/// have added to such a page since would be lost, also where the page is an interior one, of which a change is no conflict for those
/// that have only come through it.
fn still_in_use(
    committed: &Committed<'_>,
    (snapshot, published): (u64, u64),
    composed: Composed,
) -> Result<Result<Composed, Refused>, PageFailure> {
    let reader = &committed.engine.reader;
    for page in composed.given.iter().copied().filter(|_| !crate::drops("growth-freed-is-unchanged")) {
        if reader.newest_of(page, published)? != reader.newest_of(page, snapshot)? {
            return Ok(Err(Refused::Freed(page)));
        }
    }
    Ok(Ok(composed))
}

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

    /// Before a snapshot that is to have a freelist of its own: whether the present one can go on.
    pub(super) fn goes_on(&self) -> bool {
        self.private.is_some() && self.own.len() as u32 >= self.lease_pages() / LEASE_SHARE
    }

    /// After a snapshot that is to have a freelist of its own; true: the header has changed.
    pub(super) fn show(
        &mut self,
        committed: &mut Committed<'_>,
        view: &mut View,
        me: Connection,
    ) -> Result<bool, PageFailure> {
        if view::is_private(view) {
            return Ok(false);
        }
        self.private = None;
        let (engine, sequence) = (committed.engine, view.sequence().unwrap_or(0));
        let Some(freelist) = committed.freelist(sequence)? else { return Ok(false) };
        let Some(page_one) = PageOne::parse(&freelist.page_one) else { return Ok(false) };
        let size = page_one.counters().database_pages;
        if page_one.has_pointer_maps() || size != engine.reader.database_pages(sequence) || size > DATABASE_PAGES_MAX {
            return Ok(false);
        }
        let mut head = freelist.head.clone();
        // One that takes more than a trunk lists comes to the next ones.
        let wanted = self.lease_pages() as usize;
        while head.pages().len() < wanted && head.rest() != 0 && head.trunks().len() < TRUNKS_MAX {
            let trunk = committed.page(head.rest(), sequence)?;
            if !head.extend(&trunk, page_one.usable()) {
                return Ok(false);
            }
        }
        self.lease(engine, me, size, &head);
        let Some((shown, images)) = Shown::private(&freelist.page_one, &head, &self.own, SPARE) else {
            return Ok(false);
        };
        let database_pages = shown.database_pages();
        self.private = Some(shown);
        self.uses_others = false;
        view::show_private(view, images, database_pages);
        Ok(true)
    }

    /// Leases as many pages as are wanted: of the share of the freelist first.
    fn lease(&mut self, engine: &Engine, me: Connection, size: u32, head: &Head) {
        let lock_page = lock_page(engine.log.page_bytes as usize);
        let leased = engine.connections.lease(me);
        let wanted = self.lease_pages() as usize;
        // Else the file would grow back, after a VACUUM.
        let is_far = leased.is_far(size) && !crate::drops("growth-far-leases");
        self.own.retain(|page| match *page > size {
            true => leased.is_own(*page) && !is_far,
            false => head.contains(*page) && leased.has(*page),
        });
        if self.own.len() >= wanted / LEASE_SHARE as usize {
            return;
        }
        // A trunk only when it has no leaves: it is written by each commit that takes or gives.
        let are_all_trunks = head.pages().len() == head.trunks().len();
        let may = |page: &u32| leased.has(*page) && (are_all_trunks || !head.trunks().contains(page));
        let own = self.own.clone();
        let share = head.pages().iter().copied().filter(|page| may(page) && own.binary_search(page).is_err());
        self.own.extend(share.take(wanted - own.len()));
        if self.own.len() < wanted / LEASE_SHARE as usize {
            let count = u32::try_from(wanted - self.own.len()).unwrap_or(LEASE_MAX);
            let first = engine.connections.lease_beyond(me, size, count);
            crate::fault_point("leased");
            self.own.extend((first..first.saturating_add(count)).filter(|page| *page != lock_page));
        }
        self.own.sort_unstable();
        self.own.dedup();
    }

    /// What is known of the freelist in the snapshot, where SQLite is shown what is.
    pub(super) fn look_at_truth(
        &mut self,
        committed: &mut Committed<'_>,
        view: &View,
        snapshot: u64,
    ) -> Result<bool, PageFailure> {
        if view::is_private(view) || self.shown(false, snapshot).is_some() {
            return Ok(false);
        }
        let Some(freelist) = committed.freelist(snapshot)? else { return Ok(false) };
        let page_one = PageOne::parse(&freelist.page_one).filter(|page_one| !page_one.has_pointer_maps());
        self.truth = page_one.and_then(|page_one| Some((snapshot, Shown::truth(&page_one, &freelist.head)?)));
        Ok(self.truth.is_some())
    }

    /// Which of these pages, which were free and are written by commits up to `to`, are in use after it. `None`: one is a trunk that
    /// SQLite is shown.
    pub(super) fn gone(
        &self,
        committed: &mut Committed<'_>,
        to: u64,
        mut written: Vec<u32>,
    ) -> Result<Option<Vec<u32>>, PageFailure> {
        let Some(freelist) = committed.freelist(to)? else { return Ok(None) };
        written.sort_unstable();
        written.dedup();
        written.retain(|page| !freelist.head.contains(*page));
        let is_shown = written.iter().any(|page| self.private.as_ref().is_some_and(|shown| shown.is_trunk(*page)));
        Ok((!is_shown).then_some(written))
    }

    /// Puts page 1 and the freelist as they are after commit `published` and then this transaction into the lane. The size of the
    /// database, in pages. Under WRITE.
    pub(super) fn put_composed(
        &mut self,
        committed: &mut Committed<'_>,
        view: &mut View,
        (snapshot, published): (u64, u64),
        written: &PageSet,
        database_pages: u32,
    ) -> Result<Result<u32, Refused>, PageFailure> {
        let connections = &committed.engine.connections;
        let composed = match self.compose_commit(committed, view, (snapshot, published), database_pages)? {
            Ok(composed) => still_in_use(committed, (snapshot, published), composed)?,
            Err(refusal) => Err(refusal.into()),
        };
        let composed = match composed {
            Ok(composed) if composed.taken.iter().all(|page| written.contains(*page)) => composed,
            refused => {
                self.note_taken(self.taken(view, snapshot, written));
                connections.note_allocation();
                return Ok(Err(refused.err().unwrap_or(Refused::Structure)));
            }
        };
        self.stage_composed(view, snapshot, &composed).map_err(PageFailure::Lane)?;
        crate::fault_point("composed");
        let pages = composed.database_pages;
        self.composed = Some(Box::new(composed));
        Ok(Ok(pages))
    }

    /// How many of the pages that SQLite was shown as free it has written.
    fn taken(&self, view: &View, snapshot: u64, written: &PageSet) -> usize {
        let shown = self.shown(view::is_private(view), snapshot);
        let pages = view.lane().pages().filter(|page| shown.is_some_and(|shown| shown.is_free(*page)));
        pages.filter(|page| written.contains(*page)).count()
    }

    fn compose_commit(
        &mut self,
        committed: &mut Committed<'_>,
        view: &mut View,
        (snapshot, published): (u64, u64),
        database_pages: u32,
    ) -> Result<Result<Composed, Refusal>, PageFailure> {
        self.look_at_truth(committed, view, snapshot)?;
        let is_private = view::is_private(view);
        let Some(truth) = committed.freelist(published)? else { return Ok(Err(Refusal::Structure)) };
        let size = PageOne::parse(&truth.page_one).map(|page_one| page_one.counters().database_pages);
        if size != Some(committed.engine.reader.database_pages(published)) {
            return Ok(Err(Refusal::Structure));
        }
        let Some(shown) = self.shown(is_private, snapshot) else { return Ok(Err(Refusal::Structure)) };
        let rest_is_written = view.lane().pages().any(|page| page == shown.rest());
        let Some(composition) = Composition::of(view) else { return Ok(Err(Refusal::Structure)) };
        let Some(page_one) = composition.image(1).map_err(PageFailure::Spill)? else {
            return Ok(Err(Refusal::Structure));
        };
        let staged = Staged { page_one: &page_one, shown, rest_is_written, database_pages };
        let truth = Truth { page_one: &truth.page_one, head: truth.head.clone() };
        let committed = RefCell::new(committed);
        let mut staged_page = |page: u32| match composition.image(page).map_err(PageFailure::Spill)? {
            None if !is_private => committed.borrow_mut().page(page, snapshot).map(Some),
            staged => Ok(staged),
        };
        let mut page_of_truth = |page: u32| committed.borrow_mut().page(page, published).map(Some);
        compose(&staged, &truth, &mut staged_page, &mut page_of_truth)
    }

    /// What is published goes to the lane: in the place of the pages that SQLite was shown as free and has not taken, which are not.
    fn stage_composed(&self, view: &mut View, snapshot: u64, composed: &Composed) -> Result<(), view::ViewError> {
        let Some(shown) = self.shown(view::is_private(view), snapshot) else { return Ok(()) };
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

    /// The lane is published, and its frames are numbered from `first_number` on. The trunks that were composed: SQLite has them otherwise.
    pub(super) fn note_published(
        &mut self,
        lane: &Lane,
        (engine, first_number): (&Engine, u64),
    ) -> Vec<(u32, Vec<u8>)> {
        let Some(composed) = self.composed.take() else { return Vec::new() };
        engine.log.counters.concurrent.composed.fetch_add(1, SeqCst);
        let Composed { page_one, trunks, taken, head, seen, .. } = *composed;
        let of_page_one =
            lane.pages().zip(first_number..).filter(|(page, _)| *page == 1).map(|(_, number)| number).last();
        if let Some(number) = of_page_one {
            engine.reader.freelist.put(number, Arc::new(Freelist { page_one, head }));
        }
        self.own.retain(|page| taken.binary_search(page).is_err());
        self.note_taken(taken.len());
        if self.private.is_some() {
            self.private = Some(seen);
        }
        trunks
    }
}
