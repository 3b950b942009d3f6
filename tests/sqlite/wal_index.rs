//! What SQLite itself writes into a wal-index, byte for byte against what the view synthesises for the
//! same frames: header, page numbers, hash blocks, read marks. Each test fails when SQLite changes its layout.

use pwal::internal::view::{FrameTable, Region, Snapshot, View};
use rusqlite::Connection;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

const REGION_WORDS: usize = 8192;
const HEADER_WORDS: usize = 12;

/// A stock database in WAL mode, its `-wal` and `-shm` as they are.
struct Stock {
    connection: Connection,
    path: PathBuf,
    _directory: tempfile::TempDir,
    page_bytes: usize,
}

/// A frame of the real WAL: its page, and the database size if it ends a commit.
#[derive(Clone, Copy, Debug)]
struct Frame {
    page: u32,
    database_pages: u32,
}

impl Stock {
    fn new(page_bytes: usize) -> Stock {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("stock.db");
        let connection = Connection::open(&path).unwrap();
        connection
            .execute_batch(&format!(
                "PRAGMA page_size={page_bytes}; PRAGMA journal_mode=WAL; PRAGMA wal_autocheckpoint=0;
                 PRAGMA synchronous=OFF; CREATE TABLE t(a INTEGER PRIMARY KEY, b);"
            ))
            .unwrap();
        Stock { connection, path, _directory: directory, page_bytes }
    }

    fn run(&self, sql: &str) {
        self.connection.execute_batch(sql).unwrap();
    }

    fn beside(&self, suffix: &str) -> Vec<u8> {
        let mut name = self.path.clone().into_os_string();
        name.push(suffix);
        fs::read(name).unwrap()
    }

    /// The wal-index as words in native byte order, a region after the other.
    fn index(&self) -> Vec<u32> {
        self.beside("-shm").chunks_exact(4).map(|b| u32::from_ne_bytes(b.try_into().unwrap())).collect()
    }

    /// The first `count` frames of the WAL.
    fn frames(&self, count: u32) -> Vec<Frame> {
        let wal = self.beside("-wal");
        let word = |at: usize| u32::from_be_bytes(wal[at..at + 4].try_into().unwrap());
        let at = |i: usize| 32 + i * (self.page_bytes + 24);
        (0..count as usize).map(|i| Frame { page: word(at(i)), database_pages: word(at(i) + 4) }).collect()
    }
}

/// The frames of a real WAL as the frame table of a log whose commits are these. `newest` answers all frames, so that
/// the view holds the very same sequence.
struct Captured {
    frames: Vec<Frame>,
    /// The last frame of each commit, from commit 1 on.
    ends: Vec<usize>,
}

impl Captured {
    fn new(frames: Vec<Frame>) -> Captured {
        let ends = (1..).zip(&frames).filter(|(_, frame)| frame.database_pages != 0).map(|(i, _)| i).collect();
        Captured { frames, ends }
    }

    fn snapshot(&self, commits: usize) -> Snapshot {
        let last = self.frames[self.ends[commits - 1] - 1];
        Snapshot { sequence: commits as u64, database_pages: last.database_pages }
    }

    /// The view of all commits, taken along in some steps.
    fn view(&self, page_bytes: usize) -> View {
        let mut view = View::new(page_bytes as u32, 1 << 20);
        let commits = self.ends.len();
        for i in [1, commits.div_ceil(3), commits.div_ceil(2), commits] {
            view.refresh(self, self.snapshot(i), u32::MAX);
        }
        assert_eq!(view.max_frame() as usize, self.frames.len());
        view
    }
}

impl FrameTable for Captured {
    fn between(&self, from: u64, to: u64, each: &mut dyn FnMut(u64, u32)) -> bool {
        let end = |commit: u64| if commit == 0 { 0 } else { self.ends[commit as usize - 1] };
        for i in end(from)..end(to) {
            each(i as u64 + 1, self.frames[i].page);
        }
        true
    }

    fn newest(&self, to: u64, each: &mut dyn FnMut(u64, u32)) {
        self.between(0, to, each);
    }
}

fn regions(view: &mut View) -> Vec<Arc<Region>> {
    (0..).map_while(|i| view.region(i, false)).collect()
}

/// `walChecksumBytes` in native byte order, checked against stock's headers below.
fn checksum(words: &[u32]) -> [u32; 2] {
    words.chunks_exact(2).fold([0, 0], |[s1, s2], pair| {
        let s1: u32 = pair[0].wrapping_add(s1).wrapping_add(s2);
        [s1, pair[1].wrapping_add(s2).wrapping_add(s1)]
    })
}

/// Everything that the view synthesises, against the index that stock wrote for the same frames.
fn compare(stock: &Stock) -> u32 {
    let index = stock.index();
    let max_frame = index[4];
    let mut view = Captured::new(stock.frames(max_frame)).view(stock.page_bytes);
    let regions = regions(&mut view);
    let last_region = if max_frame <= 4062 { 0 } else { 1 + (max_frame as usize - 4063) / 4096 };
    assert_eq!(regions.len(), last_region + 1);

    // Both header copies of stock are equal, and its checksum is what the view computes.
    assert_eq!(index[..HEADER_WORDS], index[HEADER_WORDS..2 * HEADER_WORDS]);
    assert_eq!(checksum(&index[..10]), index[10..12]);
    let header: Vec<u32> = (0..2 * HEADER_WORDS).map(|i| regions[0].word(i)).collect();
    assert_eq!(header[..HEADER_WORDS], header[HEADER_WORDS..]);
    assert_eq!(checksum(&header[..10]), header[10..12]);
    // Version, padding, (isInit, bigEndCksum, szPage), mxFrame, nPage; not iChange, aFrameCksum, aSalt.
    for word in [0, 1, 3, 4, 5] {
        assert_eq!(header[word], index[word], "header word {word}");
    }
    // nBackfill and the marks, once a reader has set them.
    stock.connection.query_row("SELECT count(*) FROM t", [], |_| Ok(())).unwrap();
    let with_reader = stock.index();
    let info: Vec<u32> = (24..30).map(|word| regions[0].word(word)).collect();
    assert_eq!(info, with_reader[24..30]);
    // The lock bytes and the padding are left alone.
    for word in [30, 31, 33] {
        assert_eq!(regions[0].word(word), 0);
    }
    // Page numbers and hash slots.
    for (i, region) in regions.iter().enumerate() {
        for word in if i == 0 { 34 } else { 0 }..REGION_WORDS {
            assert_eq!(region.word(word), index[i * REGION_WORDS + word], "region {i}, word {word}");
        }
    }
    max_frame
}

#[test]
fn every_page_size() {
    for shift in 9..=16 {
        let stock = Stock::new(1 << shift);
        for i in 0..30 {
            stock.run(&format!("INSERT INTO t(b) VALUES(zeroblob({}))", i * 300));
        }
        assert!(compare(&stock) > 30);
    }
}

#[test]
fn over_region_borders() {
    let stock = Stock::new(512);
    stock.run("INSERT INTO t VALUES(1, 1)");
    let mut seen = Vec::new();
    for target in [4060, 4062, 4063, 4064, 8157, 8158, 8159, 8160, 12260] {
        let mut max_frame = stock.index()[4];
        while max_frame + 40 < target {
            stock.run("INSERT INTO t(b) VALUES(zeroblob(5000))");
            max_frame = stock.index()[4];
        }
        while max_frame < target {
            // One frame.
            stock.run("UPDATE t SET b=b+1 WHERE a=1");
            max_frame = stock.index()[4];
        }
        seen.push(compare(&stock));
    }
    assert!(seen.contains(&4062) && seen.contains(&4063) && seen.contains(&8158), "{seen:?}");
}

#[test]
fn one_transaction_over_all_borders() {
    let stock = Stock::new(512);
    stock.run(
        "PRAGMA cache_size=20; BEGIN;
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<13000)
         INSERT INTO t(b) SELECT randomblob(400) FROM n;
         COMMIT;",
    );
    assert!(compare(&stock) > 12254);
}

/// What a rolled-back transaction leaves in the index is removed as the view removes it: the same words in the end.
#[test]
fn after_spills_savepoints_and_rollbacks() {
    for frames in [300, 4020, 8100] {
        let stock = Stock::new(512);
        stock.run("PRAGMA cache_size=10; CREATE INDEX i ON t(b); INSERT INTO t VALUES(1, 1)");
        for _ in 0..20 {
            stock.run("INSERT INTO t(b) VALUES(randomblob(300))");
        }
        while stock.index()[4] < frames {
            stock.run("UPDATE t SET b=randomblob(300) WHERE a=1");
        }
        let before = stock.index();
        stock.run(
            "BEGIN;
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<300)
             INSERT INTO t(b) SELECT randomblob(400) FROM n;",
        );
        let spilled = stock.index();
        assert_eq!(spilled[..24], before[..24]);
        assert!(spilled.len() > before.len() || spilled[34..] != before[34..], "nothing was spilled");
        stock.run("ROLLBACK");
        assert_eq!(stock.index()[..24], before[..24]);
        compare(&stock);
        stock.run(
            "BEGIN;
             INSERT INTO t(b) VALUES(randomblob(300));
             SAVEPOINT s;
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<300)
             INSERT INTO t(b) SELECT randomblob(400) FROM n;
             ROLLBACK TO s;
             INSERT INTO t(b) VALUES(randomblob(300));
             COMMIT;",
        );
        compare(&stock);
    }
}

/// `iChange` moves by one for each commit, and only then: what makes a snapshot recognisable.
#[test]
fn the_change_counter_counts_commits() {
    let stock = Stock::new(4096);
    let before = stock.index();
    stock.run("INSERT INTO t(b) VALUES(1)");
    let after = stock.index();
    assert_eq!(after[2], before[2] + 1);
    stock.run("BEGIN; INSERT INTO t(b) VALUES(1); ROLLBACK; SELECT * FROM t;");
    assert_eq!(stock.index()[..24], after[..24]);
}

/// `wal_checkpoint(TRUNCATE)` leaves mxFrame = 0 and another salt, with the same `iChange`, in a live header.
#[test]
fn truncate_leaves_an_empty_header() {
    let stock = Stock::new(4096);
    stock.run("INSERT INTO t(b) VALUES(1)");
    let before = stock.index();
    stock.run("PRAGMA wal_checkpoint(TRUNCATE)");
    let after = stock.index();
    assert_eq!((after[2], after[4], after[5]), (before[2], 0, before[5]));
    assert_ne!(after[8..10], before[8..10]);
    assert_eq!(after[24..30], [0, 0, 0, u32::MAX, u32::MAX, u32::MAX]);
}
