//! Random lives of several views over one log: every page that a snapshot can see is read as `wal.c` would
//! read it and compared with what it has to be, after every step.

use super::client::{Client, Savepoint};
use super::log::{Content, Log, image};
use super::{header_words, open_spill};
use crate::log::format::image_crc;
use crate::view::{Image, View};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use std::collections::{BTreeMap, HashMap};

const LOG_ID: u64 = 0x1122_3344_5566_7788;

/// One connection.
struct Connection {
    view: View,
    client: Client,
    /// What each header that was ever live stood for; `None`: an advance that was rolled back.
    headers: HashMap<[u32; 12], Option<u64>>,
}

impl Connection {
    fn new(page_bytes: u32, lane_bytes: usize) -> Connection {
        let view = View::new(page_bytes, lane_bytes);
        Connection { view, client: Client::new(page_bytes), headers: HashMap::new() }
    }

    /// The live header stands for `sequence`, and never stood for anything else.
    fn note_header(&mut self, sequence: Option<u64>) {
        let header = header_words(&mut self.view, 0);
        let before = *self.headers.entry(header).or_insert(sequence);
        assert_eq!(before, sequence, "one header, two meanings");
    }

    fn refresh(&mut self, log: &Log, to: u64, bound: u32) {
        let before = header_words(&mut self.view, 0);
        let sequence_before = self.view.sequence();
        let renumber = to.is_multiple_of(5);
        if renumber {
            self.view.renumber();
        }
        let changed = self.view.refresh(log, log.snapshot(to), bound);
        assert_eq!(changed, before != header_words(&mut self.view, 0));
        if sequence_before == Some(to) && before[4] != 0 {
            assert_eq!(changed, renumber, "the same snapshot, another header");
        }
        assert!(changed || sequence_before == Some(to));
        assert!(!self.view.refresh(log, log.snapshot(to), bound), "SQLite would try again for ever");
        assert_eq!(self.view.sequence(), Some(to));
        self.note_header(Some(to));
        self.client.try_header(&mut self.view);
        self.client.begin_read(&mut self.view);
        assert_eq!(self.client.header[5], log.pages[to as usize]);
        // Over the bound only where the last rebuild showed that the table has more pages than that; or nothing was asked for that
        // the view does not have.
        assert!(self.view.max_frame() <= bound.max(self.view.bound_floor) || !changed);
        self.check(log);
    }

    /// Every page of the snapshot reads as it should.
    fn check(&mut self, log: &Log) {
        let Some(at) = self.view.sequence() else { return };
        for page in 1..=log.pages[at as usize] {
            assert_eq!(self.client.read(&mut self.view, log, page), log.content(page, at), "page {page} at {at}");
        }
    }
}

/// What the open transaction has written.
#[derive(Clone, Default)]
struct Pages {
    content: BTreeMap<u32, Content>,
    /// In SQLite's cache, not (or not so) in a frame.
    dirty: BTreeMap<u32, ()>,
}

struct World {
    random: StdRng,
    log: Log,
    connections: Vec<Connection>,
    next_content: Content,
    pages_max: u32,
}

impl World {
    fn new(seed: u64, page_bytes: u32, pages_max: u32) -> World {
        let mut random = StdRng::seed_from_u64(seed);
        let lane_bytes = page_bytes as usize * random.random_range(1..20);
        let pages = random.random_range(1..=pages_max);
        let connections = (0..3).map(|_| Connection::new(page_bytes, lane_bytes)).collect();
        World { random, log: Log::new(pages), connections, next_content: 1, pages_max }
    }

    fn step(&mut self) {
        let who = self.random.random_range(0..self.connections.len());
        match self.random.random_range(0..10) {
            0..3 => {
                let from = self.connections[who].view.sequence().unwrap_or(self.log.backfilled);
                let to = self.random.random_range(from.max(self.log.backfilled)..=self.log.last());
                let bound = self.bound();
                self.connections[who].refresh(&self.log, to, bound);
            }
            3..7 => self.transaction(who),
            7..9 => {
                let lowest = self.connections.iter().filter_map(|c| c.view.sequence()).min();
                let lowest = lowest.unwrap_or(self.log.last());
                let to = self.random.random_range(self.log.backfilled..=lowest.max(self.log.backfilled));
                self.log.checkpoint(to);
                if self.random.random_bool(0.8) {
                    self.log.dropped = self.random.random_range(self.log.dropped..=self.log.backfilled);
                }
            }
            _ => {
                self.checkpoint_call(who);
            }
        }
        for connection in &mut self.connections {
            connection.check(&self.log);
        }
    }

    fn bound(&mut self) -> u32 {
        self.log.waiting() + self.random.random_range(1..30)
    }

    /// `sqlite3_wal_checkpoint_v2`, as far as the view sees it.
    fn checkpoint_call(&mut self, who: usize) {
        let bound = self.bound();
        let (last, backfilled) = (self.log.last(), self.log.backfilled);
        let Connection { view, client, .. } = &mut self.connections[who];
        view.refresh(&self.log, self.log.snapshot(last), bound);
        client.try_header(view);
        let number = self.log.frames.iter().take_while(|f| f.sequence <= backfilled).count() as u64;
        let prefix = view.frames_up_to(number);
        assert!(prefix <= view.max_frame());
        view.set_checkpoint_info(prefix, backfilled == last);
        let region = view.region(0, false).unwrap();
        let backfill = region.word(24);
        assert_eq!(backfill, if backfilled == last { view.max_frame() } else { prefix });
        assert_eq!([region.word(25), region.word(26), region.word(27)], [0, backfill, u32::MAX]);
        if backfill == view.max_frame() && self.random.random_bool(0.5) {
            client.restart_header(view);
            assert!(view.live_max_frame_is_zero());
        }
        view.reset_checkpoint_info();
        assert_eq!(region.word(24), 0);
        assert_eq!(region.word(26), view.max_frame());
        assert_eq!(region.word(32), 0);
        let bound = self.bound();
        self.connections[who].refresh(&self.log, last, bound);
    }

    fn touch(&mut self, pages: &mut Pages, database_pages: u32) {
        for _ in 0..self.random.random_range(1..8) {
            let page = self.random.random_range(1..=database_pages);
            pages.content.insert(page, self.next_content);
            pages.dirty.insert(page, ());
            self.next_content += 1;
        }
    }

    /// A write transaction: spills, savepoints, commits that are refused, rollbacks.
    fn transaction(&mut self, who: usize) {
        let last = self.log.last();
        let bound = self.bound();
        if self.random.random_bool(0.2) {
            // WRITE before the snapshot, as builds with SQLITE_ENABLE_SETLK_TIMEOUT do.
            self.connections[who].view.begin_write(LOG_ID, last + 1);
            self.connections[who].refresh(&self.log, last, bound);
        } else {
            self.connections[who].refresh(&self.log, last, bound);
            self.connections[who].view.begin_write(LOG_ID, last + 1);
        }
        let before = self.log.pages[last as usize];
        let database_pages =
            if self.random.random_bool(0.2) { self.random.random_range(1..=self.pages_max) } else { before };
        let mut pages = Pages::default();
        for page in before + 1..=database_pages {
            pages.content.insert(page, self.next_content);
            pages.dirty.insert(page, ());
            self.next_content += 1;
        }
        let mut savepoints: Vec<(Savepoint, Pages)> = Vec::new();
        for _ in 0..self.random.random_range(0..8) {
            self.touch(&mut pages, before.max(database_pages));
            match self.random.random_range(0..6) {
                0 => {
                    let savepoint = self.connections[who].client.savepoint();
                    savepoints.push((savepoint, pages.clone()));
                }
                1 if !savepoints.is_empty() => {
                    let depth = self.random.random_range(0..savepoints.len());
                    savepoints.truncate(depth + 1);
                    let (savepoint, then) = savepoints[depth].clone();
                    let Connection { view, client, .. } = &mut self.connections[who];
                    client.savepoint_undo(view, savepoint);
                    pages = then;
                    // The journal of the savepoint puts them into the cache again: frames may have been overwritten.
                    pages.dirty = pages.content.keys().map(|&page| (page, ())).collect();
                }
                2..5 => self.spill(who, &mut pages),
                _ => {}
            }
            self.check_open(who, &pages);
        }
        self.finish(who, &mut pages, database_pages);
    }

    fn spill(&mut self, who: usize, pages: &mut Pages) {
        let dirty: Vec<u32> = pages.dirty.keys().copied().collect();
        let count = self.random.random_range(0..=dirty.len());
        let mut spilled: Vec<u32> = dirty.choose_multiple(&mut self.random, count).copied().collect();
        spilled.sort_unstable();
        if spilled.is_empty() {
            return;
        }
        let list: Vec<(u32, Content)> = spilled.iter().map(|page| (*page, pages.content[page])).collect();
        let Connection { view, client, .. } = &mut self.connections[who];
        assert!(client.frames(view, &list, None, &mut open_spill).unwrap());
        for page in spilled {
            pages.dirty.remove(&page);
        }
    }

    /// What the transaction itself sees.
    fn check_open(&mut self, who: usize, pages: &Pages) {
        let Connection { view, client, .. } = &mut self.connections[who];
        for page in 1..=self.pages_max {
            if pages.dirty.contains_key(&page) {
                continue;
            }
            let expected = match pages.content.get(&page) {
                Some(&content) => content,
                None => self.log.content(page, self.log.last()),
            };
            assert_eq!(client.read(view, &self.log, page), expected, "page {page} inside the transaction");
        }
    }

    #[expect(clippy::too_many_lines, reason = "a scene, from top to bottom")]
    fn finish(&mut self, who: usize, pages: &mut Pages, database_pages: u32) {
        let last = self.log.last();
        if self.random.random_bool(0.15) {
            let Connection { view, client, .. } = &mut self.connections[who];
            let header = header_words(view, 0);
            client.undo(view);
            assert!(!view.header_advanced());
            assert!(!view.rolled_back());
            assert!(view.lane().is_empty());
            assert_eq!(header, header_words(view, 0));
            return;
        }
        if pages.dirty.is_empty() {
            let content = pages.content.get(&1).copied().unwrap_or_else(|| self.log.content(1, last));
            pages.content.insert(1, content);
            pages.dirty.insert(1, ());
        }
        let list: Vec<(u32, Content)> = pages.dirty.keys().map(|page| (*page, pages.content[page])).collect();
        let refuse = self.random.random_bool(0.2);
        let kind = self.random.random_range(0..8);
        let connection = &mut self.connections[who];
        let Connection { view, client, .. } = connection;
        let saved = header_words(view, 0);
        client.refuse = refuse;
        if !client.frames(view, &list, Some(database_pages), &mut open_spill).unwrap() {
            assert_eq!(saved, header_words(view, 0));
            if kind < 4 {
                client.undo(view);
                assert!(!view.rolled_back());
                return;
            }
            assert!(client.frames(view, &list, Some(database_pages), &mut open_spill).unwrap());
        }
        let advanced = header_words(view, 0);
        assert!(view.header_advanced() && advanced != saved);
        assert_eq!(view.wal_bytes(), client.frame_offset(client.max_frame() + 1));
        let staged: Vec<u32> = view.lane().frames().map(|frame| frame.page).collect();
        match kind {
            // The sibling rule: reset at once, then `sqlite3WalUndo`.
            0 => {
                assert!(view.reset_header());
                for (page, content) in &pages.content {
                    assert_eq!(client.read(view, &self.log, *page), *content);
                }
                assert_eq!(client.undo(view), staged);
                assert!(!view.rolled_back());
            }
            // `sqlite3WalUndo` found the advanced header, then the reset.
            1 => {
                assert!(client.undo(view).is_empty());
                assert!(view.rolled_back());
            }
            // Hidden while a sibling is called, which fails.
            2 => {
                view.hide_advance();
                assert_eq!(saved, header_words(view, 0));
                assert!(view.header_advanced());
                assert_eq!(client.undo(view), staged);
                assert!(view.rolled_back());
            }
            _ => {
                if kind == 3 {
                    view.hide_advance();
                    view.hide_advance();
                    assert_eq!(saved, header_words(view, 0));
                    view.restore_advance();
                    assert_eq!(advanced, header_words(view, 0));
                }
                self.publish(who, pages, database_pages);
                return;
            }
        }
        assert!(view.lane().is_empty() && !view.header_advanced());
        let reset = header_words(view, 0);
        assert_eq!(reset[4..6], saved[4..6]);
        assert!(reset[2] != saved[2] && reset[2] != advanced[2]);
        connection.headers.insert(advanced, None);
        connection.note_header(Some(last));
        connection.client.try_header(&mut connection.view);
    }

    fn publish(&mut self, who: usize, pages: &Pages, database_pages: u32) {
        let sequence = self.log.last() + 1;
        let connection = &mut self.connections[who];
        let Connection { view, client, .. } = connection;
        let staged = read_lane(view, sequence);
        let newest: BTreeMap<u32, Content> = staged.iter().copied().collect();
        assert_eq!(newest, pages.content);
        let first = self.log.frames.len() as u64 + 1;
        assert_eq!(self.log.commit(staged, database_pages), sequence);
        let header = header_words(view, 0);
        view.published(first, sequence);
        assert_eq!(header, header_words(view, 0));
        assert!(view.lane().is_empty() && view.lane().spill().is_none());
        assert_eq!(client.header, header);
        connection.note_header(Some(sequence));
        let bound = connection.view.max_frame();
        assert!(!connection.view.refresh(&self.log, self.log.snapshot(sequence), bound), "own commit");
    }
}

/// Pages and contents of the lane, its checksums and its spill file checked.
fn read_lane(view: &View, sequence: u64) -> Vec<(u32, Content)> {
    let lane = view.lane();
    let mut frames = Vec::new();
    for (i, frame) in lane.frames().enumerate() {
        assert_eq!(matches!(frame.image, Image::Memory(_)), i < lane.memory_frames());
        let mut buffer = vec![0; view.page_bytes() as usize];
        match frame.image {
            Image::Memory(image) => buffer.copy_from_slice(image),
            Image::Spill(offset) => {
                assert_eq!(lane.spill().unwrap().read_at(&mut buffer, offset).unwrap(), buffer.len());
            }
        }
        assert_eq!(frame.crc, image_crc(LOG_ID, frame.page, sequence, &buffer));
        frames.push((frame.page, super::log::content(&buffer)));
    }
    let in_memory: Vec<u8> = lane.memory_pieces().flatten().copied().collect();
    let expected: Vec<u8> =
        frames[..lane.memory_frames()].iter().flat_map(|&(_, content)| image(content, view.page_bytes())).collect();
    assert!(in_memory == expected);
    assert_eq!(frames.len(), lane.len());
    frames
}

fn run(seeds: std::ops::Range<u64>, page_bytes: u32, pages_max: u32, steps: usize) {
    for seed in seeds {
        println!("seed {seed}, {page_bytes} bytes");
        let mut world = World::new(seed, page_bytes, pages_max);
        for _ in 0..steps {
            world.step();
        }
    }
}

#[test]
fn every_snapshot_reads_right() {
    run(0..150, 512, 12, 60);
    for page_bytes in [1024, 4096, 65536] {
        run(0..3, page_bytes, 5, 20);
    }
}

#[test]
fn many_pages() {
    run(1000..1010, 512, 200, 60);
}
