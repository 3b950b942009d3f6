//! Three states of an interior page with anything in them: what two have made of one is put together or refused.

use crate::input::Input;
use crate::memory;
use pwal::internal::pages::{BtreePage, Cell, Interior, Kind, leads_the_same_way, merge};
use std::convert::Infallible;

const PAGE: u32 = 2;

/// One input: the size of the page and its reserved bytes, its first bytes, and then bytes of one of the three that are others.
pub fn check(data: &[u8]) {
    let mut input = Input::new(data);
    let mut base = vec![0; 512 << (input.u8() % 3)];
    let usable = base.len() - usize::from(input.u8() % 64);
    let count = usize::from(input.u16());
    let first = input.bytes(count);
    let length = first.len().min(base.len());
    base[..length].copy_from_slice(&first[..length]);
    let mut images = [base.clone(), base.clone(), base];
    while !input.is_empty() {
        let image = &mut images[input.below(3)];
        let at = input.below(image.len());
        image[at] = input.u8();
    }
    // Spans of a few words for each pointer, in three pages.
    memory::within(512 * images[0].len() + (1 << 16), "three pages", || look(&images, usable));
}

fn look([base, mine, theirs]: &[Vec<u8>; 3], usable: usize) {
    let merged = merge(base, mine, theirs, PAGE, usable);
    let parse = |image| Interior::parse(image, PAGE, usable);
    let (Some(before), Some(own), Some(now)) = (parse(base), parse(mine), parse(theirs)) else {
        assert_eq!(merged, None);
        return;
    };
    let way = |touched: u32| {
        let read = |child| Ok::<_, Infallible>((child % 2 == 0).then(|| mine.clone()));
        let Ok(way) = leads_the_same_way(&before, &now, usable, |child| child == touched, read);
        way
    };
    for child in before.children().take(4) {
        if let Some(holders) = way(child) {
            assert!(now.children().any(|other| other == child));
            assert!(holders.iter().all(|holder| now.children().any(|child| child == *holder)));
        }
    }
    let Some(merged) = merged else { return };
    let merged = parse(&merged).expect("an interior page");
    let from_one = |child| own.children().chain(now.children()).any(|other| other == child);
    assert!(merged.children().all(from_one));
    if mine == base {
        assert_eq!(merged, now);
    }
}

/// Each pair of a few changes of one page.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let keys: [&[u8]; 5] = [&[1, 20], &[1, 40], &[1, 60], &[1, 80], &[1, 90]];
    let image = |keys: &[&[u8]], children: &[u32]| {
        let cells = keys.iter().zip(children).map(|(content, child)| Cell { child: *child, content }).collect();
        let page = BtreePage { kind: Kind::IndexInterior, cells, right: *children.last().expect("a child") };
        page.encode(512, 512).expect("it fits")
    };
    let base = image(&keys, &[3, 4, 5, 6, 7, 8]);
    let others = [
        image(&[&keys[..1], &[&[1, 30]], &keys[1..]].concat(), &[3, 4, 20, 5, 6, 7, 8]),
        image(&keys[..4], &[3, 4, 5, 6, 7]),
        image(&[keys[0], keys[1], keys[2], &[1, 70], keys[4]], &[3, 4, 5, 6, 7, 8]),
    ];
    let mut seeds = Vec::new();
    for (mine, theirs) in others.iter().flat_map(|mine| others.iter().map(move |theirs| (mine, theirs))) {
        let mut seed = [&[0, 0][..], &512_u16.to_le_bytes(), &base].concat();
        for (nth, image) in [(1, mine), (2, theirs)] {
            for at in (0..512).filter(|at| image[*at] != base[*at]) {
                seed.push(nth);
                seed.extend(u16::try_from(at).expect("512").to_le_bytes());
                seed.push(image[at]);
            }
        }
        seeds.push(seed);
    }
    seeds
}
