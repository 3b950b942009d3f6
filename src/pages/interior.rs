//! Interior b-tree pages that several transactions came through, or have changed, beside each other.
//!
//! An interior page divides the keys of its subtree among its children: each child has those between two keys of the page, its
//! neighbours, and a search for a key reads the child that has it. So a transaction that came through a page would have taken the
//! same way through a newer one, if each child that it has read has the same neighbours there: [`leads_the_same_way`]. In an index
//! the keys of an interior page are entries, too, at which a search may end. One of those that is not in the newer page must have
//! been moved to a child, as a split or a balance does it, and not be deleted.
//!
//! Two changes of one page can be put into one page, if they are of different children: [`merge`]. Nothing is looked at but where
//! the children are; what is on them is compared elsewhere, page by page.
//!
//! What is not as SQLite writes it has no answer but "not the same".

use super::{BtreePage, Cell, Kind};
use std::collections::{HashMap, HashSet};

/// A child of an interior page, and the keys of the page on both sides of it; `None`: it is the first one, the last one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Span<'a> {
    child: u32,
    from: Option<&'a [u8]>,
    to: Option<&'a [u8]>,
}

/// An interior page as what it divides the keys into.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interior<'a> {
    kind: Kind,
    spans: Vec<Span<'a>>,
}

impl<'a> Interior<'a> {
    /// `None`: not an interior page with two children or more, all different; or page 1, which has more than children.
    #[must_use]
    pub fn parse(image: &'a [u8], page: u32, usable: usize) -> Option<Interior<'a>> {
        let kind = Kind::of(image, page).filter(|kind| kind.is_interior() && page != 1)?;
        let BtreePage { cells, right, .. } = BtreePage::parse(image, page, usable)?;
        let from = std::iter::once(None).chain(cells.iter().map(|cell| Some(cell.content)));
        let ends = cells.iter().map(|cell| (cell.child, Some(cell.content))).chain([(right, None)]);
        let spans = from.zip(ends).map(|(from, (child, to))| Span { child, from, to }).collect();
        Interior { kind, spans }.checked()
    }

    fn checked(self) -> Option<Interior<'a>> {
        let children: HashSet<u32> = self.spans.iter().map(|span| span.child).collect();
        (self.spans.len() > 1 && children.len() == self.spans.len()).then_some(self)
    }

    /// Its children, in the order of their keys.
    pub fn children(&self) -> impl Iterator<Item = u32> + '_ {
        self.spans.iter().map(|span| span.child)
    }

    fn keys(&self) -> impl Iterator<Item = &'a [u8]> + '_ {
        self.spans.iter().filter_map(|span| span.to)
    }

    /// The image of this page, with the reserved bytes of `like`, of the same size. `None`: it does not fit.
    fn encode(&self, like: &[u8], usable: usize) -> Option<Vec<u8>> {
        let (last, others) = self.spans.split_last()?;
        let cells = others.iter().map(|span| Some(Cell { child: span.child, content: span.to? }));
        let page = BtreePage { kind: self.kind, cells: cells.collect::<Option<_>>()?, right: last.child };
        let mut image = page.encode(like.len(), usable)?;
        image.get_mut(usable..)?.copy_from_slice(like.get(usable..)?);
        Some(image)
    }
}

/// Whether a transaction that came through `seen` to the children that `is_touched` names would have come to them through `now`, too;
/// then the children of `now` that hold entries which `seen` had. `changed` reads a child of `now` if it was written since `seen`;
/// `None`: it was not.
///
/// # Errors
/// What `changed` returns.
pub fn leads_the_same_way<E>(
    seen: &Interior<'_>,
    now: &Interior<'_>,
    usable: usize,
    is_touched: impl Fn(u32) -> bool,
    mut changed: impl FnMut(u32) -> Result<Option<Vec<u8>>, E>,
) -> Result<Option<Vec<u32>>, E> {
    let places: HashMap<u32, &Span<'_>> = now.spans.iter().map(|span| (span.child, span)).collect();
    let is_there = |span: &Span<'_>| match places.get(&span.child) {
        Some(place) => *place == span || crate::drops("interior-neighbours"),
        None => crate::drops("interior-children"),
    };
    let is_kept = seen.spans.iter().all(|span| !is_touched(span.child) || is_there(span));
    if seen.kind != now.kind || !is_kept {
        return Ok(None);
    }
    let mut holders = Vec::new();
    if seen.kind == Kind::TableInterior || crate::drops("interior-entries") {
        return Ok(Some(holders));
    }
    let there: HashSet<&[u8]> = now.keys().collect();
    let mut gone: HashSet<&[u8]> = seen.keys().filter(|key| !there.contains(key)).collect();
    for child in now.children() {
        if gone.is_empty() {
            break;
        }
        let Some(image) = changed(child)? else { continue };
        let entries = BtreePage::parse(&image, child, usable);
        let Some(entries) = entries.filter(|page| page.kind != Kind::TableInterior) else { return Ok(None) };
        let before = gone.len();
        for cell in &entries.cells {
            gone.remove(cell.content);
        }
        if gone.len() < before {
            holders.push(child);
        }
    }
    Ok(gone.is_empty().then_some(holders))
}

/// The page `theirs`, which others have made of `base`, with what a transaction has made of `base` in `mine`. `None`: both have
/// changed where the same children are, or it does not fit. It has the reserved bytes of `theirs`.
#[must_use]
pub fn merge(base: &[u8], mine: &[u8], theirs: &[u8], page: u32, usable: usize) -> Option<Vec<u8>> {
    let parse = |image| Interior::parse(image, page, usable);
    let (before, own, now) = (parse(base)?, parse(mine)?, parse(theirs)?);
    let kind = Some(before.kind).filter(|kind| *kind == own.kind && *kind == now.kind)?;
    let (before, own, now) = (&before.spans, &own.spans, &now.spans);
    let same_first = before.iter().zip(own).take_while(|(one, other)| one == other).count();
    let (before, own) = (&before[same_first..], &own[same_first..]);
    let same_last = before.iter().rev().zip(own.iter().rev()).take_while(|(one, other)| one == other).count();
    let (replaced, own) = (&before[..before.len() - same_last], &own[..own.len() - same_last]);
    let (Some(first), false) = (replaced.first(), own.is_empty()) else {
        return (replaced.is_empty() && own.is_empty()).then(|| theirs.to_vec());
    };
    // With the same keys on both sides: the others lie around it as they do around what replaces it.
    let at = now.iter().position(|span| span == first)?;
    let (kept, rest) = (now.get(..at)?, now.get(at + replaced.len()..)?);
    if now.get(at..at + replaced.len())? != replaced && !crate::drops("interior-merged-part") {
        return None;
    }
    let spans = [kept, own, rest].concat();
    Interior { kind, spans }.checked()?.encode(theirs, usable)
}
