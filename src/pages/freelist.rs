//! The freelist of several transactions that allocate beside each other: what each is shown of it, and what a commit publishes.
//!
//! SQLite allocates from the first trunk of the list: the leaf that is nearest, or the trunk itself when it has none; it grows the file
//! only when the list is empty, and puts a freed page on the first trunk, or before it as a new one (`allocateBtreePage`, `freePage2`).
//! So a transaction that is shown a list of its own takes pages of its own. [`Shown`] is the beginning of such a list: trunks that lead
//! with pages that are leased to the connection, and then list all the others, so that the database that it sees is whole.
//!
//! [`compose`] makes of what SQLite has left of that list, and of what the list is in truth by then, page 1 and the trunks that are
//! published. It works on sets: what was taken must still be free, what was given is free from then on. What does not add up is
//! refused, never guessed.

use super::{Counters, PageOne, Trunk};

/// The beginning of a freelist: its first trunks, and what they list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Head {
    trunks: Vec<u32>,
    /// The trunks and their leaves, rising.
    pages: Vec<u32>,
    rest: u32,
}

impl Head {
    /// Nothing is known yet of the list that begins with this trunk; 0: it is empty.
    #[must_use]
    pub fn new(first_trunk: u32) -> Head {
        Head { trunks: Vec::new(), pages: Vec::new(), rest: first_trunk }
    }

    /// The first trunk after it; 0: the list ends.
    #[must_use]
    pub fn rest(&self) -> u32 {
        self.rest
    }

    /// Its trunks and their leaves, rising.
    #[must_use]
    pub fn pages(&self) -> &[u32] {
        &self.pages
    }

    /// Its trunks, in the order of the list.
    #[must_use]
    pub fn trunks(&self) -> &[u32] {
        &self.trunks
    }

    /// Whether a page is in it.
    #[must_use]
    pub fn contains(&self, page: u32) -> bool {
        self.pages.binary_search(&page).is_ok()
    }

    /// Adds the trunk [`Head::rest`], whose image this is. False: it is none, or lists a page twice.
    #[must_use]
    pub fn extend(&mut self, image: &[u8], usable: usize) -> bool {
        let Some(trunk) = Trunk::parse(image, usable).filter(|_| self.rest != 0) else { return false };
        self.pages.push(self.rest);
        self.pages.extend(trunk.leaves);
        self.pages.sort_unstable();
        self.trunks.push(self.rest);
        self.rest = trunk.next;
        self.pages.windows(2).all(|pair| pair[0] != pair[1]) && self.pages.first() != Some(&0)
    }
}

/// What a transaction sees of the freelist, up to the trunk of all other free pages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    head: Head,
    /// What of it is leased to no connection, or to others, rising: it comes after all that is this one's.
    others: Vec<u32>,
    /// What others have taken of it, where the snapshot has moved past that.
    gone: Vec<u32>,
    /// It has moved past allocations: what the list is after this beginning is not known.
    is_past: bool,
    /// Pages of the whole list, as page 1 says.
    free_pages: u32,
    /// The size of the database, in pages, as page 1 says.
    database_pages: u32,
}

/// Images of pages that only one connection sees.
pub type Images = Vec<(u32, Vec<u8>)>;

impl Shown {
    /// The list as it is. `None`: the header does not add up.
    #[must_use]
    pub fn truth(page_one: &PageOne<'_>, head: &Head) -> Option<Shown> {
        let Counters { free_pages, database_pages, .. } = page_one.counters();
        let is_valid = head.pages.len() as u64 <= u64::from(free_pages) && free_pages < database_pages;
        is_valid.then(|| Shown {
            head: head.clone(),
            others: Vec::new(),
            gone: Vec::new(),
            is_past: false,
            free_pages,
            database_pages,
        })
    }

    /// A list that begins with `own` (rising), and has all the others after them: first those of `head`, then `spare` pages beyond the
    /// end of the database. With the images of page 1 and of the trunks that lead so far. `None`: the header does not add up.
    #[must_use]
    pub fn private(page_one: &[u8], head: &Head, own: &[u32], spare: u32) -> Option<(Shown, Images)> {
        let parsed = PageOne::parse(page_one)?;
        let truth = Shown::truth(&parsed, head)?;
        let size = truth.database_pages;
        let database_pages = own.last().copied().unwrap_or(0).max(size).checked_add(spare)?;
        if database_pages - size > GROWTH_MAX {
            return None;
        }
        let lock_page = lock_page(page_one.len());
        let is_own = |page: &u32| own.binary_search(page).is_ok();
        let beyond = (size + 1..=database_pages).filter(|page| *page != lock_page);
        let is_shown = |page: &u32| !is_own(page) && !crate::drops("growth-all-shown");
        let in_file: Vec<u32> = head.pages.iter().copied().filter(is_shown).collect();
        let beyond: Vec<u32> = beyond.filter(is_shown).collect();
        if own.iter().any(|page| *page <= size && !head.contains(*page) || *page == lock_page) {
            return None;
        }
        let (page_bytes, usable) = (page_one.len(), parsed.usable());
        let mut images = Images::new();
        for (pages, trunks) in [(&beyond[..], &[][..]), (&in_file, &head.trunks), (own, &[])] {
            let next = images.first().map_or(head.rest, |(page, _)| *page);
            let mut first = chain(pages, trunks, next, page_bytes, usable)?;
            first.append(&mut images);
            images = first;
        }
        let free_pages = truth.free_pages - u32::try_from(head.pages.len()).ok()?
            + u32::try_from(own.len() + in_file.len() + beyond.len()).ok()?;
        let mut pages = [own, &in_file, &beyond].concat();
        pages.sort_unstable();
        let trunks: Vec<u32> = images.iter().map(|(page, _)| *page).collect();
        let first_trunk = trunks.first().copied().unwrap_or(head.rest);
        let mut image = page_one.to_vec();
        if !(Counters { database_pages, first_trunk, free_pages, ..parsed.counters() }).write(&mut image) {
            return None;
        }
        images.push((1, image));
        let others = [in_file, beyond].concat();
        let head = Head { trunks, pages, rest: head.rest };
        Some((Shown { head, others, gone: Vec::new(), is_past: false, free_pages, database_pages }, images))
    }

    /// The size of the database that is shown, in pages.
    #[must_use]
    pub fn database_pages(&self) -> u32 {
        self.database_pages
    }

    /// The first trunk after the beginning that is shown; 0: the list ends with it.
    #[must_use]
    pub fn rest(&self) -> u32 {
        self.head.rest
    }

    /// Whether the page is shown as free, or lies beyond the end: a transaction that writes it has taken it.
    #[must_use]
    pub fn is_free(&self, page: u32) -> bool {
        page > self.database_pages || (self.head.contains(page) && !self.gone.contains(&page))
    }

    /// Whether it is free, and comes after all that is this connection's own: taken only after [`Shown::is_trunk_of_others`].
    #[must_use]
    pub fn is_of_others(&self, page: u32) -> bool {
        self.others.binary_search(&page).is_ok() && !self.gone.contains(&page)
    }

    /// Whether it is a trunk of those that come after.
    #[must_use]
    pub fn is_trunk_of_others(&self, page: u32) -> bool {
        self.is_trunk(page) && self.others.binary_search(&page).is_ok()
    }

    /// Others have allocated or freed, and have taken these pages; the snapshot is after that.
    pub fn leave(&mut self, pages: &[u32]) {
        self.gone.extend(pages);
        self.is_past = !self.gone.is_empty() || !crate::drops("moving-past");
    }

    /// Whether others have allocated or freed by the snapshot: SQLite's list is not what is free, nor need it end where the list of the
    /// snapshot does.
    #[must_use]
    pub fn has_left(&self) -> bool {
        self.is_past
    }

    /// Whether it is a trunk of the beginning.
    #[must_use]
    pub fn is_trunk(&self, page: u32) -> bool {
        self.head.trunks.contains(&page)
    }
}

/// The page that SQLite locks bytes of (`PENDING_BYTE_PAGE`), and never uses.
#[must_use]
pub fn lock_page(page_bytes: usize) -> u32 {
    u32::try_from(0x4000_0000 / page_bytes.max(1)).unwrap_or(u32::MAX) + 1
}

/// Trunks that list these pages (rising) and lead to `rest`; pages of `trunks` are preferred, then the last ones. All but the first are
/// full, so that what is freed later has room in the first.
fn chain(pages: &[u32], trunks: &[u32], rest: u32, page_bytes: usize, usable: usize) -> Option<Images> {
    let most = Trunk::leaves_written(usable);
    let count = pages.len().div_ceil(most + 1);
    let is_there = |page: &u32| pages.binary_search(page).is_ok();
    let preferred = trunks.iter().copied().filter(is_there);
    let others = pages.iter().rev().copied().filter(|page| !trunks.contains(page));
    let chosen: Vec<u32> = preferred.chain(others).take(count).collect();
    let mut leaves = pages.iter().copied().filter(|page| !chosen.contains(page));
    let mut room = pages.len().saturating_sub(count + count.saturating_sub(1) * most);
    let mut images = Vec::with_capacity(count);
    for (nth, page) in chosen.iter().enumerate() {
        let next = chosen.get(nth + 1).copied().unwrap_or(rest);
        let mut trunk = Trunk { next, leaves: leaves.by_ref().take(room).collect() };
        // SQLite takes the first one where no page is near, and puts the last one in its place: so they are taken as they rise.
        if let Some((_, later)) = trunk.leaves.split_first_mut() {
            later.reverse();
        }
        images.push((*page, trunk.encode(page_bytes, usable)?));
        room = most;
    }
    Some(images)
}

/// Why a transaction's allocations cannot be published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Another one has taken this page, or freed it.
    Page(u32),
    /// The list is not what SQLite would have made of the one it was shown; or the transaction has used all that it was shown.
    Structure,
}

/// A transaction that has written page 1.
#[derive(Clone, Copy, Debug)]
pub struct Staged<'a> {
    /// Page 1, as SQLite wrote it.
    pub page_one: &'a [u8],
    /// What SQLite was shown.
    pub shown: &'a Shown,
    /// SQLite has written the first trunk after that ([`Shown::rest`]).
    pub rest_is_written: bool,
    /// The size of the database after it, in pages, as SQLite says with its commit.
    pub database_pages: u32,
}

/// What the commit before it has left.
#[derive(Clone, Debug)]
pub struct Truth<'a> {
    /// Page 1.
    pub page_one: &'a [u8],
    /// The beginning of the list; [`compose`] extends it where it needs more.
    pub head: Head,
}

/// What is published in the place of what SQLite has staged.
#[derive(Clone, Debug)]
pub struct Composed {
    /// Page 1.
    pub page_one: Vec<u8>,
    /// The trunks that have changed.
    pub trunks: Images,
    /// The size of the database, in pages.
    pub database_pages: u32,
    /// What was free and is in use now, rising.
    pub taken: Vec<u32>,
    /// What was in use and is free now.
    pub given: Vec<u32>,
    /// The beginning of the list after it.
    pub head: Head,
    /// What SQLite believes of the list.
    pub seen: Shown,
}

/// Reads a page; `None`: it is not there.
pub type ReadPage<'a, E> = &'a mut dyn FnMut(u32) -> Result<Option<Vec<u8>>, E>;

/// The pages that a transaction may grow a database by beside others: what is made of them is a list in memory.
const GROWTH_MAX: u32 = 1 << 22;
/// Trunks of the list that are read at most in search of a page that was taken.
const TRUNKS_MAX: usize = 16;

/// Page 1 and the freelist as they are after `truth` and then `staged`. `staged_page` reads a trunk that SQLite was shown or has
/// written, `true_page` one of the list as it is.
///
/// # Errors
/// What a reader returns.
pub fn compose<E>(
    staged: &Staged<'_>,
    truth: &Truth<'_>,
    staged_page: ReadPage<'_, E>,
    true_page: ReadPage<'_, E>,
) -> Result<Result<Composed, Refusal>, E> {
    let (Some(own), Some(last)) = (PageOne::parse(staged.page_one), PageOne::parse(truth.page_one)) else {
        return Ok(Err(Refusal::Structure));
    };
    let seen = match walk(staged, &own, staged_page)? {
        Some(seen) => seen,
        None => return Ok(Err(Refusal::Structure)),
    };
    let (mut head, usable) = (truth.head.clone(), last.usable());
    let size = last.counters().database_pages;
    let changes = Changes::of(staged.shown, &seen, lock_page(staged.page_one.len()));
    while head.rest != 0
        && head.trunks.len() < TRUNKS_MAX
        && changes.taken.iter().any(|page| *page <= size && !head.contains(*page))
    {
        let is_trunk = true_page(head.rest)?.is_some_and(|image| head.extend(&image, usable));
        if !is_trunk {
            return Ok(Err(Refusal::Structure));
        }
    }
    Ok(publish(staged, &own, &last, truth, (head, changes, seen)))
}

/// What SQLite has left of the list that it was shown. `None`: no such list.
fn walk<E>(staged: &Staged<'_>, own: &PageOne<'_>, page: ReadPage<'_, E>) -> Result<Option<Shown>, E> {
    let Staged { shown, rest_is_written, database_pages, .. } = *staged;
    // As many pages may have been put on that trunk as were taken from it: the numbers do not say that it has changed.
    if rest_is_written && !crate::drops("growth-rest") {
        return Ok(None);
    }
    let counters = own.counters();
    let rest_pages = u64::from(shown.free_pages) - shown.head.pages.len() as u64;
    if own.has_pointer_maps()
        || counters.database_pages != database_pages
        || !(shown.database_pages..=shown.database_pages.saturating_add(GROWTH_MAX)).contains(&database_pages)
        || counters.free_pages >= database_pages
    {
        return Ok(None);
    }
    let mut head = Head::new(counters.first_trunk);
    while head.rest != shown.head.rest {
        let is_trunk = head.rest != 0 && page(head.rest)?.is_some_and(|image| head.extend(&image, own.usable()));
        if !is_trunk || head.pages.len() as u64 > u64::from(counters.free_pages) {
            return Ok(None);
        }
    }
    let is_whole = head.pages.len() as u64 + rest_pages == u64::from(counters.free_pages)
        && head.pages.last().is_none_or(|page| *page <= database_pages);
    let (others, gone, is_past) = (shown.others.clone(), shown.gone.clone(), shown.is_past);
    Ok(is_whole.then_some(Shown { head, others, gone, is_past, free_pages: counters.free_pages, database_pages }))
}

/// What a transaction has made of the list.
struct Changes {
    /// Rising.
    taken: Vec<u32>,
    given: Vec<u32>,
}

impl Changes {
    fn of(shown: &Shown, seen: &Shown, lock_page: u32) -> Changes {
        let grown = (shown.database_pages + 1..=seen.database_pages).filter(|page| *page != lock_page);
        let was_free = shown.head.pages.iter().copied().chain(grown);
        let taken = was_free.filter(|page| !seen.head.contains(*page)).collect();
        let was_used = |page: &u32| !shown.is_free(*page) && !shown.gone.contains(page);
        let given = seen.head.pages.iter().copied().filter(was_used).collect();
        Changes { taken, given }
    }
}

fn publish(
    staged: &Staged<'_>,
    own: &PageOne<'_>,
    last: &PageOne<'_>,
    truth: &Truth<'_>,
    (head, changes, seen): (Head, Changes, Shown),
) -> Result<Composed, Refusal> {
    let Changes { taken, given } = changes;
    let counters = last.counters();
    let size = counters.database_pages;
    let is_gone = |page: &&u32| **page <= size && !head.contains(**page);
    let is_free = |page: &&u32| **page > size || head.contains(**page);
    if let Some(page) = taken.iter().find(is_gone).filter(|_| !crate::drops("growth-taken-is-free")) {
        return Err(Refusal::Page(*page));
    }
    if let Some(page) = given.iter().find(is_free) {
        return Err(Refusal::Page(*page));
    }
    if last.has_pointer_maps() || head.pages.len() as u64 > u64::from(counters.free_pages) {
        return Err(Refusal::Structure);
    }
    let database_pages = size.max(taken.last().copied().unwrap_or(0));
    let lock_page = lock_page(staged.page_one.len());
    let skipped = (size + 1..=database_pages).filter(|page| *page != lock_page);
    let skipped = skipped.filter(|_| !crate::drops("growth-skipped-is-free"));
    let is_taken = |page: &u32| taken.binary_search(page).is_ok();
    let mut pages: Vec<u32> = head.pages.iter().copied().chain(skipped).filter(|page| !is_taken(page)).collect();
    pages.extend(&given);
    pages.sort_unstable();
    let rest_pages = counters.free_pages - u32::try_from(head.pages.len()).map_err(|_| Refusal::Structure)?;
    let (page_bytes, usable) = (staged.page_one.len(), last.usable());
    let trunks = chain(&pages, &head.trunks, head.rest, page_bytes, usable).ok_or(Refusal::Structure)?;
    // Its own where it has changed more than the counters: then no other has, since its snapshot.
    let is_same = own.is_same_but_counters(last);
    let mut page_one = if is_same { truth.page_one.to_vec() } else { staged.page_one.to_vec() };
    let change_counter = counters.change_counter.wrapping_add(1);
    let new = Counters {
        change_counter,
        database_pages,
        first_trunk: trunks.first().map_or(head.rest, |(page, _)| *page),
        free_pages: rest_pages + u32::try_from(pages.len()).map_err(|_| Refusal::Structure)?,
        version_valid_for: change_counter,
        sqlite_version: own.counters().sqlite_version,
    };
    if !new.write(&mut page_one) {
        return Err(Refusal::Structure);
    }
    let head = Head { trunks: trunks.iter().map(|(page, _)| *page).collect(), pages, rest: head.rest };
    Ok(Composed { page_one, trunks, database_pages, taken, given, head, seen })
}
