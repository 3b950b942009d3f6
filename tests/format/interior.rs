//! Interior pages that two transactions have changed: the way through them and their merge, compared with a model that looks at each
//! key by itself.

use proptest::prelude::*;
use pwal::internal::pages::{BtreePage, Cell, Interior, Kind, leads_the_same_way, merge};
use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;

const PAGE_BYTES: usize = 512;
const USABLE: usize = 500;
const PAGE: u32 = 2;
/// Keys lie below it; so there is a key in every span of a page.
const KEYS_END: u8 = 120;

/// An interior page: a child for the keys up to and with each of `keys`, and one for all above.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Model {
    keys: Vec<u8>,
    children: Vec<u32>,
}

/// The keys that a child has: those above the first, up to the second.
type Span = (u32, Option<u8>, Option<u8>);

fn content(kind: Kind, key: u8) -> Vec<u8> {
    if kind == Kind::TableInterior { vec![key] } else { vec![1, key] }
}

impl Model {
    fn image(&self, kind: Kind) -> Vec<u8> {
        let contents: Vec<Vec<u8>> = self.keys.iter().map(|key| content(kind, *key)).collect();
        let cells = contents.iter().zip(&self.children).map(|(content, child)| Cell { child: *child, content });
        let (cells, right) = (cells.collect(), *self.children.last().expect("a child"));
        let mut image = BtreePage { kind, cells, right }.encode(PAGE_BYTES, USABLE).expect("it fits");
        image[USABLE..].fill(self.keys.len() as u8);
        image
    }

    fn of(image: &[u8]) -> Model {
        let page = BtreePage::parse(image, PAGE, USABLE).expect("an interior page");
        let keys = page.cells.iter().map(|cell| *cell.content.last().expect("a key")).collect();
        Model { keys, children: page.cells.iter().map(|cell| cell.child).chain([page.right]).collect() }
    }

    fn span(&self, key: u8) -> Span {
        let at = self.keys.partition_point(|end| *end < key);
        (self.children[at], at.checked_sub(1).map(|before| self.keys[before]), self.keys.get(at).copied())
    }

    /// By key.
    fn spans(&self) -> Vec<Span> {
        (0..KEYS_END).map(|key| self.span(key)).collect()
    }

    /// A child is divided, two become one, what lies between two is divided otherwise, or a child lies on another page now. False: not this page.
    fn change(&mut self, change: Change, new: u32) -> bool {
        let at = change.at % self.children.len();
        let (from, to) = (at.checked_sub(1).map_or(0, |before| self.keys[before]), self.keys.get(at).copied());
        let between = |to: u8| (to > from + 1).then(|| from + 1 + change.key % (to - from - 1));
        match change.kind % 4 {
            0 => between(to.unwrap_or(KEYS_END - 1)).is_some_and(|key| {
                self.keys.insert(at, key);
                self.children.insert(at + usize::from(change.key % 2), new);
                true
            }),
            1 if self.keys.len() > 1 && at < self.keys.len() => {
                self.keys.remove(at);
                self.children.remove(at + usize::from(change.key % 2));
                true
            }
            2 if at < self.keys.len() => {
                between(self.keys.get(at + 1).copied().unwrap_or(KEYS_END - 1)).is_some_and(|key| {
                    self.keys[at] = key;
                    true
                })
            }
            3 => {
                self.children[at] = new;
                true
            }
            _ => false,
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Change {
    kind: u8,
    at: usize,
    key: u8,
}

fn changes(count: std::ops::Range<usize>) -> impl Strategy<Value = Vec<Change>> {
    let change = (any::<u8>(), 0_usize..64, any::<u8>()).prop_map(|(kind, at, key)| Change { kind, at, key });
    prop::collection::vec(change, count)
}

fn model() -> impl Strategy<Value = Model> {
    prop::collection::btree_set(1..KEYS_END - 1, 1..24).prop_map(|keys| {
        let children = (3_u32..).take(keys.len() + 1).collect();
        Model { keys: keys.into_iter().collect(), children }
    })
}

fn changed(base: &Model, changes: &[Change], new: u32) -> Model {
    let mut model = base.clone();
    for (change, new) in changes.iter().zip(new..) {
        model.change(*change, new);
    }
    model
}

/// The merge of two changes of one page is, for each key, what the one that changed its span has made of it; and there is one, if what
/// the others have changed lies outside of what this one has.
fn assert_merged(kind: Kind, base: &Model, mine: &Model, theirs: &Model) -> bool {
    let image = theirs.image(kind);
    let merged = merge(&base.image(kind), &mine.image(kind), &image, PAGE, USABLE);
    let (before, own, now) = (base.spans(), mine.spans(), theirs.spans());
    let touched = |of: &[Span]| (0..before.len()).filter(|key| of[*key] != before[*key]).collect::<Vec<usize>>();
    let (by_mine, by_theirs) = (touched(&own), touched(&now));
    let hull = by_mine.first().copied().unwrap_or(1)..=by_mine.last().copied().unwrap_or(0);
    let is_apart = !by_theirs.iter().any(|key| hull.contains(key));
    assert_eq!(merged.is_some(), is_apart, "{base:?}, {mine:?}, {theirs:?}");
    let Some(merged) = merged else { return false };
    assert_eq!(merged[USABLE..], image[USABLE..], "reserved bytes");
    assert_eq!(Kind::of(&merged, PAGE), Some(kind));
    let spans = Model::of(&merged).spans();
    for key in 0..before.len() {
        let expected = if hull.contains(&key) { own[key] } else { now[key] };
        assert_eq!(spans[key], expected, "key {key}: {base:?}, {mine:?}, {theirs:?}");
    }
    true
}

const KINDS: [Kind; 2] = [Kind::TableInterior, Kind::IndexInterior];

/// Each change of five children beside each other one.
#[test]
fn two_changes_of_one_page_are_merged_where_they_lie_apart() {
    let base = Model { keys: vec![20, 40, 60, 80], children: vec![3, 4, 5, 6, 7] };
    let all = (0..4).flat_map(|kind| (0..5).flat_map(move |at| (6..8).map(move |key| Change { kind, at, key })));
    let all: Vec<Change> = all.filter(|change| base.clone().change(*change, 100)).collect();
    let (mut merged, mut tried) = (0, 0);
    for kind in KINDS {
        for one in &all {
            for other in &all {
                let (mine, theirs) = (changed(&base, &[*one], 100), changed(&base, &[*other], 200));
                merged += u32::from(assert_merged(kind, &base, &mine, &theirs));
                tried += 1;
            }
        }
    }
    assert!(merged * 3 > tried && merged * 3 < tried * 2, "{merged} of {tried}");
}

#[test]
fn what_is_merged_fits_or_is_refused() {
    // Twelve entries of 40 bytes fill the page.
    let usable = 12 + 12 * 40;
    let entry = |key: u8| [&[33][..], &[key; 33]].concat();
    let image = |keys: &[u8], children: &[u32]| {
        let contents: Vec<Vec<u8>> = keys.iter().map(|key| entry(*key)).collect();
        let cells = contents.iter().zip(children).map(|(content, child)| Cell { child: *child, content }).collect();
        let page = BtreePage { kind: Kind::IndexInterior, cells, right: *children.last().expect("a child") };
        page.encode(PAGE_BYTES, usable).expect("it fits")
    };
    let base: Vec<u8> = (1..11).map(|key| 10 * key).collect();
    let children: Vec<u32> = (3..14).collect();
    let with = |keys: &[u8], new: u32| {
        let (mut all, mut below) = (base.clone(), children.clone());
        for (key, new) in keys.iter().zip(new..) {
            let at = all.partition_point(|other| other < key);
            all.insert(at, *key);
            below.insert(at, new);
        }
        image(&all, &below)
    };
    let before = image(&base, &children);
    let both = merge(&before, &with(&[15], 100), &with(&[85], 200), PAGE, usable).expect("twelve entries");
    assert_eq!(BtreePage::parse(&both, PAGE, usable).expect("a page").cells.len(), 12);
    assert_eq!(merge(&before, &with(&[15, 16], 100), &with(&[85], 200), PAGE, usable), None);
}

/// A leaf of an index with these entries.
fn leaf(entries: &[u8]) -> Vec<u8> {
    let mut image = vec![0; PAGE_BYTES];
    let mut end = USABLE;
    for (nth, key) in entries.iter().enumerate() {
        end -= 4;
        image[end..end + 2].copy_from_slice(&content(Kind::IndexInterior, *key));
        image[8 + 2 * nth..10 + 2 * nth].copy_from_slice(&u16::try_from(end).unwrap().to_be_bytes());
    }
    image[0] = 10;
    image[4] = u8::try_from(entries.len()).unwrap();
    image[5..7].copy_from_slice(&u16::try_from(end).unwrap().to_be_bytes());
    image
}

/// As [`leads_the_same_way`], with the children that were written since.
fn same_way(
    kind: Kind,
    (seen, now): (&Model, &Model),
    touched: &BTreeSet<u32>,
    written: &BTreeMap<u32, Vec<u8>>,
) -> Option<Vec<u32>> {
    let (seen, now) = (seen.image(kind), now.image(kind));
    let parse = |image| Interior::parse(image, PAGE, USABLE).expect("an interior page");
    let read = |child| Ok::<_, Infallible>(written.get(&child).cloned());
    let Ok(way) = leads_the_same_way(&parse(&seen), &parse(&now), USABLE, |child| touched.contains(&child), read);
    way
}

/// Entries are not only moved but deleted: a search had ended at one.
#[test]
fn an_entry_of_an_index_has_moved_or_is_gone() {
    let seen = Model { keys: vec![20, 40, 60], children: vec![3, 4, 5, 6] };
    let now = Model { keys: vec![30, 60], children: vec![3, 5, 6] };
    let none = BTreeSet::new();
    let written = |pages: &[(u32, &[u8])]| pages.iter().map(|(page, entries)| (*page, leaf(entries))).collect();
    let way = |written: BTreeMap<u32, Vec<u8>>| same_way(Kind::IndexInterior, (&seen, &now), &none, &written);
    assert_eq!(way(written(&[(3, &[10, 20, 25]), (5, &[31, 40])])), Some(vec![3, 5]));
    assert_eq!(way(written(&[(3, &[10, 20, 25, 40]), (5, &[31])])), Some(vec![3]));
    assert_eq!(way(written(&[(3, &[10, 25]), (5, &[31, 40])])), None, "20 is deleted");
    assert_eq!(way(written(&[(3, &[10, 20])])), None, "40 is not where it was written");
    assert_eq!(way(written(&[(4, &[20, 40])])), None, "a page that is no child any more");
    let mut damaged: BTreeMap<u32, Vec<u8>> = written(&[(3, &[20]), (5, &[40])]);
    damaged.get_mut(&3).expect("it").fill(13);
    assert_eq!(way(damaged), None);
    // Of a table the keys are no rows.
    assert_eq!(same_way(Kind::TableInterior, (&seen, &now), &none, &BTreeMap::new()), Some(vec![]));
}

#[test]
fn only_whole_interior_pages_are_compared() {
    let model = Model { keys: vec![20, 40], children: vec![3, 4, 5] };
    for kind in KINDS {
        let image = model.image(kind);
        assert!(Interior::parse(&image, PAGE, USABLE).is_some());
        assert!(Interior::parse(&image, 1, USABLE).is_none(), "page 1");
        let one = Model { keys: vec![], children: vec![3] }.image(kind);
        assert!(Interior::parse(&one, PAGE, USABLE).is_none(), "one child");
        let twice = Model { keys: vec![20, 40], children: vec![3, 4, 3] }.image(kind);
        assert!(Interior::parse(&twice, PAGE, USABLE).is_none(), "a child twice");
        assert_eq!(merge(&image, &image, &twice, PAGE, USABLE), None);
    }
    assert!(Interior::parse(&leaf(&[20, 40]), PAGE, USABLE).is_none());
    let [table, index] = KINDS.map(|kind| model.image(kind));
    assert_eq!(merge(&table, &table, &index, PAGE, USABLE), None);
    let parse = |image| Interior::parse(image, PAGE, USABLE).expect("an interior page");
    let way = leads_the_same_way(&parse(&table), &parse(&index), USABLE, |_| false, |_| Ok::<_, Infallible>(None));
    assert_eq!(way, Ok(None));
}

proptest! {
    #[test]
    fn changes_of_one_page_are_merged_where_they_lie_apart(
        base in model(), mine in changes(0..4), theirs in changes(0..4), is_index in any::<bool>()
    ) {
        let (mine, theirs) = (changed(&base, &mine, 100), changed(&base, &theirs, 200));
        assert_merged(KINDS[usize::from(is_index)], &base, &mine, &theirs);
    }

    /// A child is found again if each of its keys leads to it and it has no others.
    #[test]
    fn the_way_is_the_same_if_it_is_for_each_key(
        seen in model(), now in changes(0..4), touched in prop::collection::btree_set(3_u32..28, 0..12)
    ) {
        let now = changed(&seen, &now, 200);
        let kept = seen.spans().iter().zip(now.spans()).all(|(before, after)| !touched.contains(&before.0) || *before == after);
        let way = same_way(Kind::TableInterior, (&seen, &now), &touched, &BTreeMap::new());
        prop_assert_eq!(way, kept.then(Vec::new));
    }

    /// So it is in an index, if no entry is gone.
    #[test]
    fn so_it_is_in_an_index(
        seen in model(), now in changes(0..3), touched in prop::collection::btree_set(3_u32..28, 0..4),
        written in prop::collection::btree_map(3_u32..28, prop::collection::btree_set(1..KEYS_END - 1, 0..60), 0..24)
    ) {
        let now = changed(&seen, &now, 200);
        let kept = seen.spans().iter().zip(now.spans()).all(|(before, after)| !touched.contains(&before.0) || *before == after);
        let gone: BTreeSet<u8> = seen.keys.iter().copied().filter(|key| !now.keys.contains(key)).collect();
        let has = |child: &u32, key: &u8| written.get(child).is_some_and(|entries| entries.contains(key));
        let moved = gone.iter().all(|key| now.children.iter().any(|child| has(child, key)));
        let images = written.iter().map(|(page, entries)| (*page, leaf(&entries.iter().copied().collect::<Vec<_>>())));
        let way = same_way(Kind::IndexInterior, (&seen, &now), &touched, &images.collect());
        prop_assert_eq!(way.is_some(), kept && moved);
        for holder in way.iter().flatten() {
            prop_assert!(now.children.contains(holder) && gone.iter().any(|key| has(holder, key)));
        }
        for key in way.iter().flat_map(|_| &gone) {
            prop_assert!(way.iter().flatten().any(|holder| has(holder, key)));
        }
    }
}
