//! Pages of a database file with anything in them: what is read of one is what would be written, and nothing is allocated beyond it.

use crate::input::Input;
use crate::memory;
use pwal::internal::pages::{BtreePage, Cell, Counters, Kind, PageOne, Trunk};

/// One input: the size of the page, its reserved bytes, its number, and its first bytes; the rest is zero.
pub fn check(data: &[u8]) {
    let mut input = Input::new(data);
    let mut image = vec![0; 512 << (input.u8() % 8)];
    let usable = image.len() - usize::from(input.u8());
    let page = 1 + u32::from(input.u8() % 3);
    let bytes = input.rest();
    let length = bytes.len().min(image.len());
    image[..length].copy_from_slice(&bytes[..length]);
    // A cell is a number and a slice; a page of 65536 bytes has room for no more than 32768 pointers.
    memory::within(32 * image.len() + (1 << 16), "a page", || read(&image, page, usable));
}

fn read(image: &[u8], page: u32, usable: usize) {
    if let Some(one) = PageOne::parse(image) {
        assert!(one.is_same_but_counters(&one));
        assert!((480..=image.len()).contains(&one.usable()));
        let mut again = image.to_vec();
        assert!(one.counters().write(&mut again) && again == image);
    }
    if let Some(trunk) = Trunk::parse(image, usable)
        && let Some(again) = trunk.encode(image.len(), usable)
    {
        assert_eq!(Trunk::parse(&again, usable), Some(trunk));
    }
    let Some(parsed) = BtreePage::parse(image, page, usable) else { return };
    assert_eq!(Some(parsed.kind), Kind::of(image, page));
    if let Some(again) = parsed.encode(image.len(), usable) {
        assert_eq!(BtreePage::parse(&again, 2, usable), Some(parsed));
    }
}

/// A page of each kind.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let counters = Counters {
        change_counter: 7,
        database_pages: 9,
        first_trunk: 3,
        free_pages: 2,
        version_valid_for: 7,
        sqlite_version: 3_040_001,
    };
    let mut one = vec![0; 512];
    one[..18].copy_from_slice(b"SQLite format 3\0\x02\0");
    assert!(counters.write(&mut one));
    one[100] = 13;
    let trunk = Trunk { next: 4, leaves: vec![5, 6] }.encode(512, 512).expect("a trunk");
    let cells = vec![Cell { child: 5, content: &[3, 2, 1, 9] }, Cell { child: 6, content: &[2, 1, 1] }];
    let index = BtreePage { kind: Kind::IndexInterior, cells, right: 7 }.encode(512, 512).expect("an index");
    let cells = vec![Cell { child: 5, content: &[0x81, 3] }];
    let table = BtreePage { kind: Kind::TableInterior, cells, right: 7 }.encode(512, 512).expect("a table");
    [(0, one), (1, trunk), (1, index), (1, table)]
        .map(|(page, image)| [&[0, 0, page][..], &image].concat())
        .into_iter()
        .collect()
}
