//! Interior b-tree pages that others have changed beside a transaction (`parallel_wal_writers=concurrent`).
//!
//! A split or a balance below an interior page changes it, and every transaction that came to any row below it has read it. So such a
//! page is compared as of the snapshot and as of the commit that the transaction comes after. If what was read or written below it
//! lies there still, it is no conflict ([`leads_the_same_way`]); and if the transaction has changed it, too, the page that is
//! published has both changes ([`merge`]). SQLite's own page stays readable for the connection until its read lock ends, as
//! page 1 does where it is composed (`growth`): a cursor that is open over COMMIT reads on in the transaction's own state.
//!
//! In a database of less than 2^25 pages without pointer maps a page that is in use and begins as an interior page is one: an
//! overflow page and a trunk of the freelist begin with a page number (`PAGES_MAX`). Elsewhere every page conflicts.

use super::committed::{Committed, PageFailure};
use super::concurrent_state::Concurrent;
use crate::engine::{Engine, WrittenPage};
use crate::pages::{Interior, PageOne, leads_the_same_way, merge};
use crate::view::{self, Composition, PageSet, View, ViewError};
use std::sync::atomic::Ordering::SeqCst;

/// The first byte of a page number below it is 0 or 1; of an interior page it is 2 or 5.
const PAGES_MAX: u32 = 1 << 25;

/// The interior pages that others have changed and that are no conflict, as of the commit that the transaction is validated against.
#[derive(Debug, Default)]
pub(super) struct Interiors(Vec<Excused>);

#[derive(Debug)]
struct Excused {
    written: WrittenPage,
    /// Children that hold entries which the page had in the snapshot.
    holders: Vec<u32>,
    /// What is published of it, where the transaction has written it.
    merged: Option<Vec<u8>>,
}

impl Interiors {
    /// The pages of which one holds an entry that was on another page in the snapshot: if it is written again, what rests on it is to be
    /// looked at again.
    pub(super) fn resting_on(&self, page: u32) -> impl Iterator<Item = WrittenPage> + '_ {
        let is_held = move |excused: &&Excused| excused.holders.contains(&page) && !crate::drops("interior-again");
        self.0.iter().filter(is_held).map(|excused| excused.written)
    }

    pub(super) fn are_none(&self) -> bool {
        self.0.is_empty()
    }

    /// Puts what is merged into the lane, which is stamped, and counts.
    pub(super) fn stage(self, engine: &Engine, view: &mut View) -> Result<(), ViewError> {
        let counters = &engine.log.counters.concurrent;
        let merged = self.0.iter().filter(|excused| excused.merged.is_some()).count() as u64;
        counters.merged.fetch_add(merged, SeqCst);
        counters.excused.fetch_add(self.0.len() as u64 - merged, SeqCst);
        let Some(mut composition) = Composition::of(view) else { return Ok(()) };
        for Excused { written, merged, .. } in self.0 {
            if let Some(image) = merged.filter(|_| !crate::drops("interior-staged")) {
                composition.replace(written.page, (written.page, &image))?;
            }
        }
        Ok(())
    }
}

/// A database in which interior pages are known by their images.
pub(super) struct Structure {
    usable: usize,
    snapshot: u64,
    to: u64,
}

impl Structure {
    /// Between the snapshot and commit `to`. `None`: it is no such database.
    pub(super) fn of(committed: &mut Committed<'_>, snapshot: u64, to: u64) -> Result<Option<Structure>, PageFailure> {
        let page_one = committed.page(1, snapshot)?;
        let usable = PageOne::parse(&page_one).filter(|page_one| !page_one.has_pointer_maps());
        let usable = usable.map(|page_one| page_one.usable());
        let is_small = [snapshot, to].iter().all(|at| committed.engine.reader.database_pages(*at) < PAGES_MAX);
        Ok(usable.filter(|_| is_small).map(|usable| Structure { usable, snapshot, to }))
    }

    /// Looks at a page that others have written and this transaction has read or written. False: it is a conflict.
    pub(super) fn look_at(
        &self,
        committed: &mut Committed<'_>,
        (concurrent, view): (&Concurrent, &mut View),
        written: WrittenPage,
        own: &PageSet,
        excused: &mut Interiors,
    ) -> Result<bool, PageFailure> {
        let page = written.page;
        let Some(shown) = concurrent.growth.shown(view::is_private(view), self.snapshot) else { return Ok(false) };
        let is_own = own.contains(page);
        if is_own && shown.is_free(page) {
            return Ok(false);
        }
        let now = committed.page(page, self.to)?;
        let holders = match self.holders(concurrent, committed, (page, &now), own)? {
            None if is_own && crate::drops("interior-merged-way") => Vec::new(),
            None => return Ok(false),
            Some(holders) => holders,
        };
        let merged = match is_own {
            true => self.merge(view, committed, (page, &now))?,
            false => None,
        };
        if is_own && merged.is_none() {
            return Ok(false);
        }
        excused.0.retain(|known| known.written.page != page);
        excused.0.push(Excused { written, holders, merged });
        Ok(true)
    }

    /// Whether what was read and written below the page is there still; then the children with what was in the page.
    fn holders(
        &self,
        concurrent: &Concurrent,
        committed: &mut Committed<'_>,
        (page, now): (u32, &[u8]),
        own: &PageSet,
    ) -> Result<Option<Vec<u32>>, PageFailure> {
        let Some(now) = Interior::parse(now, page, self.usable) else { return Ok(None) };
        let seen = committed.page(page, self.snapshot)?;
        let Some(seen) = Interior::parse(&seen, page, self.usable) else { return Ok(None) };
        let is_touched = |child| concurrent.has_read(child) || own.contains(child);
        let changed = |child| {
            let reader = &committed.engine.reader;
            let is_changed = reader.newest_of(child, self.to)? != reader.newest_of(child, self.snapshot)?;
            if is_changed { committed.page(child, self.to).map(Some) } else { Ok(None) }
        };
        leads_the_same_way(&seen, &now, self.usable, is_touched, changed)
    }

    fn merge(
        &self,
        view: &mut View,
        committed: &mut Committed<'_>,
        (page, now): (u32, &[u8]),
    ) -> Result<Option<Vec<u8>>, PageFailure> {
        let Some(staged) = Composition::of(view) else { return Ok(None) };
        let Some(mine) = staged.image(page).map_err(PageFailure::Spill)? else { return Ok(None) };
        let seen = committed.page(page, self.snapshot)?;
        Ok(merge(&seen, &mine, now, page, self.usable))
    }
}
