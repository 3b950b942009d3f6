//! The validation of a transaction that writes beside others: whether the commits after its snapshot have written what it depends on,
//! and what its own commit has to have of theirs. It takes no lock; the second half of it is done under WRITE.

use super::committed::{Committed, PageFailure};
use super::concurrent_state::Concurrent;
use super::growth::Refused;
use super::interior::{Interiors, Structure};
use crate::engine::{Engine, WrittenPage};
use crate::pages::{Kind, PageOne};
use crate::view::{self, Composition, PageSet, View};

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
    /// It has freed this page, which another one has changed.
    Freed(u32),
    /// It has allocated more than it was shown, or the freelist is not what SQLite would have left.
    Freelist,
    /// The database has become smaller, or is not of the size that this transaction saw and changed.
    Size,
    /// The snapshot has ended: what was committed after it is not known any more.
    Ended,
}

/// A transaction that writes beside others, and the commits that it is compared with.
pub(super) struct Sight<'a> {
    pub(super) committed: Committed<'a>,
    pub(super) concurrent: &'a mut Concurrent,
    pub(super) view: &'a mut View,
}

impl Sight<'_> {
    /// The commit that the transaction sees.
    pub(super) fn snapshot(&self) -> u64 {
        self.concurrent.snapshot(self.view.sequence().unwrap_or(0))
    }

    /// Whether the page 1 that is staged says so.
    fn has_pointer_maps(&mut self) -> bool {
        let image = Composition::of(self.view).and_then(|staged| staged.image(1).ok().flatten());
        image.is_some_and(|image| PageOne::parse(&image).is_some_and(|page_one| page_one.has_pointer_maps()))
    }

    /// Whether page 1 is in this frame what it is in the snapshot, but for its counters.
    fn has_same_schema(&mut self, newer: WrittenPage) -> Result<bool, PageFailure> {
        let sequence = self.snapshot();
        let seen = self.committed.page(1, sequence)?;
        let now = self.committed.page(1, newer.sequence)?;
        let (seen, now) = (PageOne::parse(&seen), PageOne::parse(&now));
        Ok(seen.zip(now).is_some_and(|(seen, now)| seen.is_same_but_counters(&now)))
    }

    /// What is known of the freelist in the snapshot; true: more than before.
    fn look_at_freelist(&mut self) -> Result<bool, PageFailure> {
        let snapshot = self.snapshot();
        self.concurrent.growth.look_at_truth(&mut self.committed, self.view, snapshot)
    }
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

/// One validation, in one or two parts.
#[derive(Debug, Default)]
pub(super) struct Validation {
    /// The pages in the lane, once they count.
    written: PageSet,
    /// As of the end of the part before.
    interiors: Interiors,
}

impl Validation {
    /// All that the transaction writes is in its lane.
    pub(super) fn note_written(&mut self, view: &View) {
        self.written.extend(view.lane().pages());
    }

    /// Whether the commits of this range have written what the transaction depends on. The range continues that of the part before.
    pub(super) fn validate(
        &mut self,
        sight: &mut Sight<'_>,
        range: (u64, u64),
    ) -> Result<Option<Conflict>, PageFailure> {
        let mut found = self.look_for(sight, range)?;
        // Perhaps a page of the freelist: it is composed.
        if !found.pages.is_empty() && sight.look_at_freelist()? {
            found = self.look_for(sight, range)?;
        }
        if found.is_incomplete {
            return Ok(Some(Conflict::Ended));
        }
        if let Some(conflict) = self.look_at(sight, range.1, &found.pages)? {
            return Ok(Some(conflict));
        }
        let Some(page_one) = found.page_one else { return Ok(None) };
        let is_same = sight.has_same_schema(page_one)? || crate::drops("concurrent-schema");
        Ok((!is_same).then_some(Conflict::Schema(page_one)))
    }

    fn look_for(&self, sight: &Sight<'_>, (from, to): (u64, u64)) -> Result<Found, PageFailure> {
        let Sight { committed, concurrent, view } = sight;
        let mut pages: Vec<WrittenPage> = Vec::new();
        let shown = concurrent.growth.shown(view::is_private(view), sight.snapshot());
        let is_trunk = |page| shown.is_some_and(|shown| shown.is_trunk(page));
        let is_free = |page| shown.is_some_and(|shown| shown.is_free(page));
        let reads = |page| concurrent.has_read(page) && !is_trunk(page) && !crate::drops("concurrent-reads");
        let writes = |page| self.written.contains(page) && !is_free(page) && !crate::drops("concurrent-writes");
        let mut note = |page: WrittenPage| {
            if pages.iter().all(|known| known.page != page.page) {
                pages.push(page);
            }
            pages.len() >= PAGES_MAX
        };
        let since = committed.engine.reader.written_since(from, to, |now| {
            let is_over = (reads(now.page) || writes(now.page)) && note(now);
            self.interiors.resting_on(now.page).fold(is_over, |is_over, page| note(page) || is_over)
        })?;
        Ok(Found { pages, page_one: since.page_one, is_incomplete: since.is_incomplete })
    }

    /// The first of these pages that is a conflict.
    fn look_at(
        &mut self,
        sight: &mut Sight<'_>,
        to: u64,
        pages: &[WrittenPage],
    ) -> Result<Option<Conflict>, PageFailure> {
        if pages.is_empty() {
            return Ok(None);
        }
        let snapshot = sight.snapshot();
        let Sight { committed, concurrent, view } = sight;
        let structure = Structure::of(committed, snapshot, to)?.filter(|_| pages.len() < PAGES_MAX);
        for page in pages {
            let is_same = match &structure {
                Some(structure) => {
                    let (written, interiors) = (&self.written, &mut self.interiors);
                    structure.look_at(committed, (concurrent, view), *page, written, interiors)?
                }
                None => false,
            };
            if !is_same {
                return Ok(Some(Conflict::Page(*page, self.written.contains(page.page))));
            }
        }
        Ok(None)
    }

    /// The size of the database after a commit that is the next after `published`; where others have committed since the snapshot, or
    /// the freelist that SQLite has seen is its own, the transaction's page 1 is that of what is published.
    pub(super) fn size_after(
        &self,
        sight: &mut Sight<'_>,
        (snapshot, published): (u64, u64),
        database_pages: u32,
    ) -> Result<Result<u32, Conflict>, PageFailure> {
        let Committed { engine, .. } = sight.committed;
        let since = engine.reader.written_since(snapshot, published, |_| false)?;
        let (seen, is_private) = (sight.view.database_pages_at_write(), view::is_private(sight.view));
        let is_smaller = since.is_incomplete || since.database_pages_min < engine.reader.database_pages(snapshot);
        if is_smaller && !crate::drops("concurrent-size-seen") {
            return Ok(Err(Conflict::Size));
        }
        if !self.written.contains(1) {
            let is_same = database_pages == seen;
            return Ok(if is_same { Ok(since.database_pages) } else { Err(Conflict::Size) });
        }
        let is_right =
            since.page_one.is_none() && (self.interiors.are_none() || crate::drops("growth-freed-is-looked-at"));
        if !is_private && (is_right || crate::drops("growth-composed")) {
            // No other has allocated or freed: what SQLite has made of the freelist is right, unless it has freed a page that others have
            // changed.
            return Ok(Ok(database_pages));
        }
        if let Some(page_one) = since.page_one
            && sight.has_pointer_maps()
        {
            return Ok(Err(Conflict::Allocation(page_one)));
        }
        if published > snapshot && (is_private || since.page_one.is_some()) {
            engine.connections.note_allocation();
        }
        let Sight { committed, concurrent, view } = sight;
        let at = (snapshot, published);
        let composed = concurrent.growth.put_composed(committed, view, at, &self.written, database_pages)?;
        Ok(composed.map_err(|refused| match refused {
            Refused::Taken(page) => Conflict::Taken(page),
            Refused::Freed(page) => Conflict::Freed(page),
            Refused::Structure => Conflict::Freelist,
        }))
    }

    /// Puts the interior pages that others have changed, too, into the lane, which is stamped.
    pub(super) fn stage(self, sight: &mut Sight<'_>) -> Result<(), PageFailure> {
        self.interiors.stage(sight.committed.engine, sight.view).map_err(PageFailure::Lane)
    }
}

/// What a page is, in a word.
pub(super) fn kind(engine: &Engine, written: &WrittenPage) -> &'static str {
    let mut image = vec![0; engine.log.page_bytes as usize];
    if !engine.reader.read_frame(written.number, 0, &mut image).is_ok_and(|is_read| is_read) {
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
