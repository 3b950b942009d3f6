//! Pages of database files that SQLite made, read and written again by `pages`: every page size, reserved bytes, pointer maps.

use proptest::prelude::*;
use pwal::internal::pages::{BtreePage, Cell, Counters, Kind, PageOne, Trunk};
use rusqlite::{Connection, ffi};
use std::path::Path;
use support::Scratch;
use support::dump::{dump, first_difference};

const PAGE_BYTES: [usize; 8] = [512, 1024, 2048, 4096, 8192, 16384, 32768, 65536];
/// Bytes that SQLite leaves alone at the end of each page; 32 is the most for pages of 512 bytes.
const RESERVED: [u8; 3] = [0, 8, 32];
const AUTO_VACUUM: [i64; 3] = [0, 1, 2];

/// A database with freed pages, tables, and indexes with short and long entries.
fn database(path: &Path, page_bytes: usize, reserved: u8, auto_vacuum: i64) -> Connection {
    let connection = support::open_stock(path);
    support::run(&connection, &format!("PRAGMA page_size={page_bytes}; PRAGMA auto_vacuum={auto_vacuum}"));
    let mut bytes = i32::from(reserved);
    // SAFETY: the connection is open; the file control takes a number.
    let code = unsafe {
        let argument = (&raw mut bytes).cast();
        ffi::sqlite3_file_control(connection.handle(), c"main".as_ptr(), ffi::SQLITE_FCNTL_RESERVE_BYTES, argument)
    };
    assert_eq!(code, ffi::SQLITE_OK);
    let long = page_bytes * 3;
    support::run(
        &connection,
        &format!(
            "CREATE TABLE t(id INTEGER PRIMARY KEY, k, pad);
             VACUUM;
             CREATE INDEX k ON t(k);
             CREATE TABLE w(k PRIMARY KEY, v) WITHOUT ROWID;
             WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < 1200)
             INSERT INTO t SELECT x * 7919 % 1201, iif(x % 40, x * 31 % 977 || 'key', zeroblob({long} + x)),
                                  zeroblob({page_bytes} / 8) FROM c;
             INSERT INTO w SELECT hex(id * 48271 % 1201) || iif(id % 50, '', hex(zeroblob({long}))), k FROM t;
             CREATE TABLE gone AS SELECT * FROM t;
             DELETE FROM t WHERE id % 5 = 0;
             DELETE FROM gone;
             PRAGMA incremental_vacuum(9)"
        ),
    );
    connection
}

/// The pages of a file.
struct File {
    bytes: Vec<u8>,
    page_bytes: usize,
    usable: usize,
}

impl File {
    fn read(path: &Path, page_bytes: usize) -> File {
        let bytes = std::fs::read(path).expect("the database");
        let usable = PageOne::parse(&bytes[..page_bytes]).expect("page 1").usable();
        File { bytes, page_bytes, usable }
    }

    fn page(&self, page: u32) -> &[u8] {
        let start = (page as usize - 1) * self.page_bytes;
        &self.bytes[start..start + self.page_bytes]
    }

    fn replace(&mut self, page: u32, image: &[u8]) {
        let start = (page as usize - 1) * self.page_bytes;
        self.bytes[start..start + self.page_bytes].copy_from_slice(image);
    }

    /// The pages of a b-tree, and the entries in it where it is an index.
    fn tree(&self, root: u32) -> (Vec<u32>, usize) {
        let (mut pages, mut open, mut entries) = (Vec::new(), vec![root], 0);
        while let Some(page) = open.pop() {
            pages.push(page);
            if Kind::of(self.page(page), page) == Some(Kind::TableLeaf) {
                continue;
            }
            let parsed = BtreePage::parse(self.page(page), page, self.usable).expect("a page of the tree");
            assert_every_byte_is_known(&parsed, self.page(page), page, self.usable);
            if parsed.kind.is_interior() {
                open.extend(parsed.cells.iter().map(|cell| cell.child).chain([parsed.right]));
            }
            if parsed.kind != Kind::TableInterior {
                entries += parsed.cells.len();
            }
        }
        (pages, entries)
    }
}

/// Header, pointers, cells and what the page says is free are all of it: no cell was taken for longer or shorter than it is.
fn assert_every_byte_is_known(parsed: &BtreePage<'_>, image: &[u8], page: u32, usable: usize) {
    let word = |at: usize| usize::from(u16::from_be_bytes([image[at], image[at + 1]]));
    let header = if page == 1 { 100 } else { 0 };
    let interior = parsed.kind.is_interior();
    let pointers_end = header + if interior { 12 } else { 8 } + 2 * parsed.cells.len();
    let start = match word(header + 5) {
        0 => 65536,
        start => start,
    };
    let mut free = start - pointers_end + usize::from(image[header + 7]);
    let mut block = word(header + 1);
    while block != 0 {
        free += word(block + 2);
        block = word(block);
    }
    let cells: usize = parsed.cells.iter().map(|cell| (cell.content.len() + if interior { 4 } else { 0 }).max(4)).sum();
    assert_eq!(pointers_end + free + cells, usable, "page {page}, {:?}", parsed.kind);
}

fn each_database(mut check: impl FnMut(&Path, Connection, usize, i64)) {
    for (nth, page_bytes) in PAGE_BYTES.into_iter().enumerate() {
        let scratch = Scratch::in_memory();
        for auto_vacuum in AUTO_VACUUM {
            let reserved = RESERVED[(nth + auto_vacuum as usize) % RESERVED.len()];
            let path = scratch.file(&format!("{auto_vacuum}.db"));
            let connection = database(&path, page_bytes, reserved, auto_vacuum);
            let image = std::fs::read(&path).expect("the database");
            let usable = PageOne::parse(&image[..page_bytes]).expect("page 1").usable();
            assert_eq!((image[20], usable), (reserved, page_bytes - usize::from(reserved)));
            check(&path, connection, page_bytes, auto_vacuum);
        }
    }
}

#[test]
fn page_one_says_what_sqlite_says() {
    each_database(|path, connection, page_bytes, auto_vacuum| {
        let before = std::fs::read(path).expect("the database");
        let counters = PageOne::parse(&before[..page_bytes]).expect("page 1").counters();
        let answers = |sql| u32::try_from(support::number(&connection, sql)).expect("a count");
        assert_eq!(counters.database_pages, answers("PRAGMA page_count"));
        assert_eq!(counters.free_pages, answers("PRAGMA freelist_count"));
        assert_eq!(PageOne::parse(&before[..page_bytes]).expect("page 1").has_pointer_maps(), auto_vacuum != 0);
        assert!(counters.free_pages > 1 || auto_vacuum == 1, "{counters:?}");

        // An allocation changes the counters alone; the schema and the user's version are no counters.
        support::run(&connection, &format!("INSERT INTO t(pad) VALUES(zeroblob({} * 9))", page_bytes));
        let grown = std::fs::read(path).expect("the database");
        let one = |bytes: &'_ [u8]| bytes[..page_bytes].to_vec();
        let (before, grown) = (one(&before), one(&grown));
        let (first, second) = (PageOne::parse(&before).expect("page 1"), PageOne::parse(&grown).expect("page 1"));
        assert_ne!(first.counters(), second.counters());
        assert!(first.is_same_but_counters(&second));
        let mut written = before.clone();
        assert!(second.counters().write(&mut written));
        assert!(written == grown, "the counters are not all that an allocation changes");
        for sql in ["PRAGMA user_version=7", "CREATE TABLE another(x)", "PRAGMA application_id=9"] {
            support::run(&connection, sql);
            let changed = one(&std::fs::read(path).expect("the database"));
            assert!(!first.is_same_but_counters(&PageOne::parse(&changed).expect("page 1")), "{sql}");
        }
    });
}

#[test]
fn the_freelist_is_read_and_written_again() {
    each_database(|path, connection, page_bytes, _| {
        support::close(connection);
        let mut file = File::read(path, page_bytes);
        let counters = PageOne::parse(file.page(1)).expect("page 1").counters();
        let (mut next, mut free) = (counters.first_trunk, std::collections::BTreeSet::new());
        while next != 0 {
            let trunk = Trunk::parse(file.page(next), file.usable).expect("a trunk page");
            assert!(free.insert(next), "page {next} is there twice");
            for leaf in &trunk.leaves {
                assert!(*leaf <= counters.database_pages && free.insert(*leaf), "page {leaf} is there twice");
            }
            let image = trunk.encode(page_bytes, file.usable).expect("SQLite writes no more leaves");
            assert_eq!(Trunk::parse(&image, file.usable), Some(trunk.clone()));
            file.replace(next, &image);
            next = trunk.next;
        }
        assert_eq!(free.len(), counters.free_pages as usize);
        std::fs::write(path, &file.bytes).expect("the database");
        let connection = support::open_stock(path);
        support::assert_integrity(&connection);
        // Every free page is taken from it.
        support::run(&connection, &format!("INSERT INTO t(pad) VALUES(zeroblob({page_bytes} * {}))", free.len() + 2));
        assert_eq!(support::number(&connection, "PRAGMA freelist_count"), 0);
        support::assert_integrity(&connection);
    });
}

#[test]
fn b_trees_are_read_and_their_interior_pages_written_again() {
    each_database(|path, connection, page_bytes, _| {
        let count = |sql: &str| usize::try_from(support::number(&connection, sql)).expect("a count");
        let roots = |name| u32::try_from(count(&format!("SELECT rootpage FROM sqlite_schema WHERE name='{name}'")));
        let (table, index, without) = (roots("t").unwrap(), roots("k").unwrap(), roots("w").unwrap());
        let (rows, entries) = (count("SELECT count(*) FROM t"), count("SELECT count(*) FROM w"));
        let content = dump(&connection);
        support::close(connection);
        let mut file = File::read(path, page_bytes);
        assert_eq!((file.tree(index).1, file.tree(without).1), (rows, entries));
        let mut rebuilt = 0;
        for root in [table, index, without] {
            for page in file.tree(root).0 {
                let Some(parsed) = BtreePage::parse(file.page(page), page, file.usable) else { continue };
                if !parsed.kind.is_interior() {
                    assert_eq!(parsed.encode(page_bytes, file.usable), None);
                    continue;
                }
                let mut image = parsed.encode(page_bytes, file.usable).expect("it fitted before");
                assert_eq!(BtreePage::parse(&image, page, file.usable).as_ref(), Some(&parsed));
                image[file.usable..].copy_from_slice(&file.page(page)[file.usable..]);
                file.replace(page, &image);
                rebuilt += 1;
            }
        }
        assert!(rebuilt > 0, "no interior page in pages of {page_bytes} bytes");
        std::fs::write(path, &file.bytes).expect("the database");
        let connection = support::open_stock(path);
        support::assert_integrity(&connection);
        assert_eq!(first_difference(&dump(&connection), &content), None);
    });
}

/// A page with anything in it, whose kind and counts are small numbers more often than chance has it.
fn any_page() -> impl Strategy<Value = Vec<u8>> {
    let bytes = prop_oneof![Just(512_usize), Just(1024), Just(4096), Just(65536), 0_usize..600];
    let words = prop::collection::vec((any::<u16>(), any::<u8>()), 0..40);
    (bytes, any::<u8>(), prop::sample::select(vec![0_u8, 2, 5, 10, 13]), 0_u8..40, words).prop_map(
        |(length, fill, kind, count, words)| {
            let mut image = vec![fill; length];
            for (at, value) in words {
                if let Some(byte) = image.get_mut(usize::from(at) % length.max(1)) {
                    *byte = value;
                }
            }
            for (at, value) in [(0, kind), (3, 0), (4, count)] {
                if let Some(byte) = image.get_mut(at) {
                    *byte = value;
                }
            }
            image
        },
    )
}

proptest! {
    /// Whatever is read from any bytes is what is written of it.
    #[test]
    fn what_is_parsed_of_any_bytes_is_encoded_again(image in any_page(), reserved in any::<u8>(), page in 1_u32..4) {
        let usable = image.len().saturating_sub(usize::from(reserved));
        if let Some(one) = PageOne::parse(&image) {
            prop_assert!(one.is_same_but_counters(&one));
        }
        if let Some(trunk) = Trunk::parse(&image, usable)
            && let Some(again) = trunk.encode(image.len(), usable)
        {
            prop_assert_eq!(Trunk::parse(&again, usable), Some(trunk));
        }
        if let Some(parsed) = BtreePage::parse(&image, page, usable)
            && let Some(again) = parsed.encode(image.len(), usable)
        {
            prop_assert_eq!(BtreePage::parse(&again, 2, usable), Some(parsed));
        }
    }

    #[test]
    fn an_interior_page_holds_what_fits(keys in prop::collection::vec((1_u32.., 0_u64..1 << 56), 0..200), right in 1_u32.., reserved in 0_usize..32) {
        let (page_bytes, usable) = (512, 512 - reserved);
        let keys: Vec<(u32, Vec<u8>)> = keys.into_iter().map(|(child, rowid)| (child, varint(rowid))).collect();
        let cells = keys.iter().map(|(child, content)| Cell { child: *child, content }).collect();
        let page = BtreePage { kind: Kind::TableInterior, cells, right };
        let bytes: usize = 12 + keys.iter().map(|(_, content)| 2 + 4 + content.len()).sum::<usize>();
        match page.encode(page_bytes, usable) {
            Some(image) => {
                prop_assert!(bytes <= usable);
                prop_assert!(image[usable..].iter().all(|byte| *byte == 0));
                prop_assert_eq!(BtreePage::parse(&image, 2, usable), Some(page));
            }
            None => prop_assert!(bytes > usable),
        }
    }

    #[test]
    fn a_trunk_holds_what_sqlite_writes(leaves in prop::collection::vec(any::<u32>(), 0..140), next in any::<u32>()) {
        let trunk = Trunk { next, leaves };
        match trunk.encode(512, 512) {
            Some(image) => prop_assert_eq!(Trunk::parse(&image, 512), Some(trunk)),
            None => prop_assert!(trunk.leaves.len() > 512 / 4 - 8),
        }
    }

    #[test]
    fn counters_are_written_where_they_are_read(words in any::<[u32; 6]>(), short in 0_usize..100) {
        let [change_counter, database_pages, first_trunk, free_pages, version_valid_for, sqlite_version] = words;
        let counters = Counters {
            change_counter, database_pages, first_trunk, free_pages, version_valid_for, sqlite_version,
        };
        let mut image = vec![0; 512];
        image[..16].copy_from_slice(b"SQLite format 3\0");
        image[16..18].copy_from_slice(&512_u16.to_be_bytes());
        let before = image.clone();
        prop_assert!(counters.write(&mut image));
        let (one, was) = (PageOne::parse(&image).unwrap(), PageOne::parse(&before).unwrap());
        prop_assert_eq!(one.counters(), counters);
        prop_assert!(one.is_same_but_counters(&was));
        let mut too_short = vec![0; short];
        prop_assert!(!counters.write(&mut too_short));
        prop_assert_eq!(too_short, vec![0; short]);
    }
}

/// As `sqlite3PutVarint` writes it, up to 8 bytes.
fn varint(value: u64) -> Vec<u8> {
    let mut bytes = vec![(value & 0x7f) as u8];
    let mut rest = value >> 7;
    while rest != 0 {
        bytes.insert(0, (rest & 0x7f) as u8 | 0x80);
        rest >>= 7;
    }
    bytes
}
