//! The index, word for word: across region borders, with collisions, over what a transaction left behind.

use super::client::{Client, frame_page};
use super::header_words;
use super::log::Log;
use crate::view::{FrameTable, Snapshot, View};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const BORDERS: [u32; 8] = [4061, 4062, 4063, 8157, 8158, 8159, 12254, 12255];

/// A table of one frame for each commit.
struct Frames(Vec<u32>);

impl FrameTable for Frames {
    fn between(&self, from: u64, to: u64, each: &mut dyn FnMut(u64, u32)) -> bool {
        for number in from + 1..=to {
            each(number, self.0[number as usize - 1]);
        }
        true
    }

    /// All of them: not what a real table answers, but a way to have any sequence of pages in a view.
    fn newest(&self, to: u64, each: &mut dyn FnMut(u64, u32)) {
        self.between(0, to, each);
    }
}

fn at(sequence: u32) -> Snapshot {
    Snapshot { sequence: u64::from(sequence), database_pages: 9 }
}

/// Pages of which many fall on the same slots of the hash, and many are the one before.
fn colliding_pages(count: usize, seed: u64) -> Vec<u32> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut page = 1;
    let next = |_| {
        if random.random_bool(0.5) {
            page = random.random_range(1..60) + 8192 * random.random_range(0..40);
        }
        page
    };
    (0..count).map(next).collect()
}

/// All words behind the header copies.
fn words(view: &mut View) -> Vec<u32> {
    let regions: Vec<_> = (0..).map_while(|region| view.region(region, false)).collect();
    regions.iter().flat_map(|region| (0..8192).map(|i| region.word(i))).skip(24).collect()
}

/// The same frames, put there by what SQLite does.
fn by_client(pages: &[u32]) -> View {
    let mut view = View::new(512, 1 << 20);
    let mut client = Client::new(512);
    for (frame, &page) in (1..).zip(pages) {
        client.append(&mut view, frame, page);
        client.header[4] = frame;
    }
    view.index.set_header(&crate::view::header::Header {
        change: 1,
        page_bytes: 512,
        max_frame: pages.len() as u32,
        database_pages: 9,
    });
    view.reset_checkpoint_info();
    view
}

#[test]
fn appended_as_sqlite_appends() {
    for count in BORDERS {
        let table = Frames(colliding_pages(count as usize, 7));
        let mut view = View::new(512, 1 << 20);
        let mut done = 0;
        for step in [1, 2, 4000, 4062, 4063, 8158, count] {
            if step > done && step <= count {
                assert!(view.refresh(&table, at(step), u32::MAX));
                done = step;
            }
        }
        assert_eq!(view.max_frame(), count);
        assert!(words(&mut view) == words(&mut by_client(&table.0)), "{count} frames");
        for frame in [1, 2, 4061, 4062, 4063, 8158, 8159, count] {
            if frame <= count {
                assert_eq!(frame_page(&mut view, frame), table.0[frame as usize - 1]);
            }
        }
    }
}

#[test]
fn a_rebuild_forgets_what_was_there() {
    for count in BORDERS {
        let long = Frames(colliding_pages(13000, 1));
        let short = Frames(colliding_pages(count as usize, 2));
        let mut view = View::new(512, 1 << 20);
        view.refresh(&long, at(13000), u32::MAX);
        // Earlier than what it stands for: only a rebuild does that.
        view.refresh(&short, at(count), u32::MAX);
        let mut client = Client::new(512);
        client.try_header(&mut view);
        let expected = words(&mut by_client(&short.0));
        // Regions behind the last one keep what they had: SQLite empties them before their first frame.
        assert!(words(&mut view)[..expected.len()] == expected, "{count} frames");
        for page in [1, 8193, 59, 5] {
            let newest = short.0.iter().rposition(|&p| p == page).map_or(0, |i| i as u32 + 1);
            assert_eq!(client.find(&mut view, page), newest);
        }
    }
}

#[test]
fn appends_over_what_a_transaction_left() {
    // SQLite indexed frames of a transaction, and did not clean up after it: the header went back only afterwards.
    for base in [10, 4000, 4062, 8157] {
        for left in [1, 60, 5000] {
            let pages = colliding_pages(base + 70, 3);
            let table = Frames(pages.clone());
            let mut view = View::new(512, 1 << 20);
            view.refresh(&table, at(base as u32), u32::MAX);
            let mut client = Client::new(512);
            client.try_header(&mut view);
            for (frame, page) in (base as u32 + 1..).zip(colliding_pages(left, 4)) {
                client.append(&mut view, frame, page);
            }
            view.refresh(&table, at(base as u32 + 70), u32::MAX);
            let expected = words(&mut by_client(&pages));
            assert!(words(&mut view)[..expected.len()] == expected, "{base} frames, {left} left behind");
        }
    }
}

#[test]
fn page_sizes() {
    for shift in 9..=16 {
        let page_bytes = 1_u32 << shift;
        let mut view = View::new(page_bytes, 1 << 20);
        assert_eq!(view.sequence(), None);
        let log = Log::new(3);
        assert!(view.refresh(&log, log.snapshot(0), 1));
        // Panics if SQLite would not take it.
        Client::new(page_bytes).try_header(&mut view);
        assert_eq!(view.index.header().page_bytes, page_bytes);
    }
}

#[test]
fn never_empty() {
    let log = Log::new(3);
    let mut view = View::new(512, 1 << 20);
    view.refresh(&log, log.snapshot(0), 1000);
    assert_eq!((view.max_frame(), view.sequence()), (1, Some(0)));
    let mut asked = Vec::new();
    let mut buffer = [0; 512];
    view.read::<()>(&mut buffer, 32 + 24, &mut |number, page, at, part| {
        asked.push((number, page, at, part.len()));
        Ok(())
    })
    .unwrap();
    assert_eq!(asked, [(0, 1, 0, 512)], "page 1 of the database file");
    assert_eq!(view.frames_up_to(0), 1);
}

#[test]
fn an_empty_database_has_a_page() {
    let log = Log::new(0);
    let mut view = View::new(512, 1 << 20);
    view.refresh(&log, log.snapshot(0), 1000);
    assert_eq!(header_words(&mut view, 0)[5], 1, "0 would make SQLite ask the file");
}

#[test]
fn the_bound_is_kept_by_a_rebuild() {
    let mut log = Log::new(3);
    let mut view = View::new(512, 1 << 20);
    view.refresh(&log, log.snapshot(0), 5);
    for i in 0..4 {
        let sequence = log.commit([(1 + i % 2, u64::from(i))], 3);
        assert!(view.refresh(&log, log.snapshot(sequence), 5));
    }
    assert_eq!(view.max_frame(), 5);
    let change = header_words(&mut view, 0)[2];
    assert!(!view.refresh(&log, log.snapshot(4), 5));
    // One frame too many: frames 3 and 4 remain, and the new one.
    let sequence = log.commit([(3, 9)], 3);
    assert!(view.refresh(&log, log.snapshot(sequence), 5));
    assert_eq!((view.max_frame(), view.numbers.clone()), (3, vec![3, 4, 5]));
    assert_eq!(header_words(&mut view, 0)[2], change + 1);
    // The same commits, a lower bound: left alone, as it was asked for.
    log.checkpoint(5);
    log.dropped = 4;
    assert!(!view.refresh(&log, log.snapshot(5), 2));
    view.renumber();
    assert!(view.refresh(&log, log.snapshot(5), 2));
    assert_eq!(view.numbers, [5]);
    assert!(!view.refresh(&log, log.snapshot(5), 2));
    // A bound that cannot be met costs one rebuild, not one for each look.
    let many: Vec<(u32, u64)> = (1..=9).map(|page| (page, 1)).collect();
    let sequence = log.commit(many, 9);
    assert!(view.refresh(&log, log.snapshot(sequence), 2));
    assert_eq!(view.max_frame(), 9);
    assert!(!view.refresh(&log, log.snapshot(sequence), 2));
    let sequence = log.commit([(1, 2)], 9);
    assert!(view.refresh(&log, log.snapshot(sequence), 2));
    assert_eq!(view.max_frame(), 10, "appended");
}

#[test]
fn frames_that_left_the_table_force_a_rebuild() {
    let mut log = Log::new(3);
    let mut view = View::new(512, 1 << 20);
    for i in 0..3 {
        log.commit([(1 + i, u64::from(i))], 3);
    }
    view.refresh(&log, log.snapshot(1), 1000);
    log.checkpoint(2);
    log.dropped = 2;
    view.refresh(&log, log.snapshot(3), 1000);
    assert_eq!(view.numbers, [3]);
    log.checkpoint(3);
    log.dropped = 3;
    assert!(!view.refresh(&log, log.snapshot(3), 1000), "recycling renumbers nothing");
    assert_eq!(view.numbers, [3]);
}

#[test]
fn prefixes_by_log_number() {
    let mut log = Log::new(3);
    let mut view = View::new(512, 1 << 20);
    view.refresh(&log, log.snapshot(0), 1000);
    log.commit([(1, 1), (2, 2)], 3);
    log.commit([(1, 3)], 3);
    view.refresh(&log, log.snapshot(2), 1000);
    assert_eq!([0, 1, 2, 3, 4].map(|n| view.frames_up_to(n)), [1, 2, 3, 4, 4]);
    assert_eq!([4, 2, 3, 0, 0].map(|n| view.frames_up_to(n)), [4, 3, 4, 1, 1], "whatever was asked before");
    log.commit([(1, 4)], 3);
    assert!(!view.stands_for(3));
    view.refresh(&log, log.snapshot(3), 1000);
    assert!(view.stands_for(3));
    assert_eq!([3, 4, 5].map(|n| view.frames_up_to(n)), [4, 5, 5], "it has grown");
    view.renumber();
    assert!(!view.stands_for(3));
    view.refresh(&log, log.snapshot(3), 1000);
    assert_eq!([4, 2, 1].map(|n| view.frames_up_to(n)), [2, 1, 0], "it was built anew");
}

#[test]
fn regions_stay_and_grow_one_by_one() {
    let mut view = View::new(512, 1 << 20);
    let first = view.region(0, false).unwrap();
    assert!(view.region(1, false).is_none());
    assert!(view.region(5, true).is_none());
    assert!(view.region(1, true).is_some());
    let table = Frames(colliding_pages(9000, 5));
    view.refresh(&table, at(9000), u32::MAX);
    assert!(std::sync::Arc::ptr_eq(&first, &view.region(0, false).unwrap()));
    assert!(view.region(2, false).is_some() && view.region(3, false).is_none());
    assert!(view.region(u32::MAX, true).is_none());
}

#[test]
fn a_damaged_index_is_an_error() {
    let log = Log::new(3);
    let mut view = View::new(512, 1 << 20);
    view.refresh(&log, log.snapshot(0), 1000);
    view.region(0, false).unwrap().set_word(34, 0);
    let read = view.read::<()>(&mut [0; 512], 32 + 24, &mut |_, _, _, _| panic!("no page"));
    assert!(matches!(read, Err(crate::view::ReadError::Index { frame: 1 })));
    // A hash table without a free slot: the append gives up, the rebuild empties it.
    for word in 4096..8192 {
        view.region(0, false).unwrap().set_word(word, u32::from_ne_bytes([1, 0, 1, 0]));
    }
    let mut log = log;
    log.commit([(2, 1)], 3);
    view.refresh(&log, log.snapshot(1), 1000);
    let mut client = Client::new(512);
    client.try_header(&mut view);
    assert_eq!(client.find(&mut view, 2), 1);
}
