//! The first commit of a log, torn in its write at every sector: a kill leaves a prefix of it, a power cut any part. The database
//! is what it was before, and nothing lies beside it.

use pwal::internal::log::format::{Batch, BatchPlace, FileName, ImagePlace, SegmentHeader, decode_batch};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use support::lab::{Call, Crashed, Lab, Once};

const SECTOR: u64 = 512;

/// Where commit 1 of the only log beside this database lies.
struct First {
    segment: PathBuf,
    batch: Batch,
    page_bytes: usize,
}

impl First {
    fn of(database: &Path) -> First {
        let directory = PathBuf::from(format!("{}-pwal", database.display()));
        let names = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
        for segment in names {
            let name = segment.file_name().unwrap().to_str().unwrap().to_owned();
            let Some(FileName::Segment { log_id, .. }) = FileName::parse(&name) else { continue };
            let bytes = std::fs::read(&segment).unwrap();
            let Ok(header) = SegmentHeader::decode(&bytes, log_id) else { continue };
            for offset in (0..bytes.len() as u64).step_by(header.block_bytes as usize) {
                let SegmentHeader { ordinal, block_bytes, page_bytes, segment_bytes, .. } = header;
                let place = BatchPlace { log_id, ordinal, offset, block_bytes, page_bytes, segment_bytes };
                match decode_batch(&bytes[offset as usize..], &place) {
                    Ok(batch) if batch.header.sequence == 1 => {
                        return First { segment, batch, page_bytes: page_bytes as usize };
                    }
                    _ => {}
                }
            }
        }
        panic!("no commit 1 in the log of {}", database.display());
    }

    /// What it holds of headers and images, in bytes.
    fn used(&self) -> u64 {
        let ends = self.batch.descriptors.iter().map(|descriptor| match descriptor.place {
            ImagePlace::Batch(position) => position + descriptor.form.stored_bytes(self.page_bytes) as u64,
            ImagePlace::Spill { .. } => 344 + 24 * self.batch.descriptors.len() as u64,
        });
        ends.max().unwrap()
    }

    fn fill(&self, from: u64, to: u64) {
        let file = std::fs::OpenOptions::new().write(true).open(&self.segment).unwrap();
        file.write_all_at(&vec![0; (to - from) as usize], self.batch.header.offset + from).unwrap();
    }
}

/// A database with a row, and what a kill leaves behind one more transaction: the first of its log.
fn killed(lab: &Lab, page_bytes: u32, transaction: &str) -> Crashed {
    let connection = lab.open("a.db");
    support::run(&connection, &format!("PRAGMA page_size={page_bytes}; PRAGMA journal_mode=WAL"));
    support::run(&connection, "CREATE TABLE t(x); CREATE TABLE u(x); INSERT INTO t VALUES('before')");
    support::close(connection);
    support::assert_plain(&lab.path());
    let connection = lab.wal();
    support::run(&connection, transaction);
    let crashed = lab.crash();
    support::close(connection);
    crashed
}

#[track_caller]
fn expect_before(database: &Path, what: &str) {
    let connection = support::open(database);
    assert_eq!(support::number(&connection, "SELECT count(*) FROM t"), 1, "{what}");
    assert_eq!(support::number(&connection, "SELECT count(*) FROM u"), 0, "{what}");
    support::assert_integrity(&connection);
    support::close(connection);
    // No directory of another name, either.
    assert_eq!(support::beside(database), [""; 0], "{what}");
    support::assert_plain(database);
}

const TRANSACTIONS: [(u32, &str, u64); 4] = [
    // Pages with much room in them, a few of which are nothing but zeros behind their first bytes.
    (4096, "INSERT INTO t VALUES('after')", SECTOR),
    (512, "INSERT INTO u VALUES(zeroblob(9000)), ('x'), (zeroblob(4000))", SECTOR),
    (4096, "BEGIN; INSERT INTO t VALUES('after'); INSERT INTO u VALUES(zeroblob(30000)); COMMIT", SECTOR),
    // It does not fit the first segment.
    (
        4096,
        "INSERT INTO u SELECT randomblob(3000) FROM (WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM c LIMIT 90) SELECT i FROM c)",
        41 * SECTOR,
    ),
];

#[test]
fn a_kill_at_every_sector_of_the_first_commit_leaves_one_plain_file() {
    if !support::on_pwal() {
        return;
    }
    for (page_bytes, transaction, step) in TRANSACTIONS {
        let lab = Lab::new();
        let whole = killed(&lab, page_bytes, transaction);
        let used = First::of(whole.path()).used();
        for tear in (0..used).step_by(step as usize) {
            let torn = support::lab::copy_crashed(whole.path());
            let first = First::of(torn.path());
            first.fill(tear, first.batch.header.bytes);
            expect_before(torn.path(), &format!("{transaction}: {tear} of {used} bytes"));
        }
        // All of it.
        assert!(support::number(&whole.open(), "SELECT (SELECT count(*) FROM t) + (SELECT count(*) FROM u)") > 1);
    }
}

#[test]
fn so_does_a_power_cut_that_took_any_one_sector() {
    if !support::on_pwal() {
        return;
    }
    for (page_bytes, transaction, step) in TRANSACTIONS {
        let lab = Lab::new();
        let whole = killed(&lab, page_bytes, transaction);
        let used = First::of(whole.path()).used();
        for at in (0..used).step_by(2 * step as usize) {
            let torn = support::lab::copy_crashed(whole.path());
            First::of(torn.path()).fill(at, at + SECTOR);
            expect_before(torn.path(), &format!("{transaction}: the sector at {at} of {used}"));
        }
    }
}

/// A writer of the first commit has died in it, and the next one may, too.
#[test]
fn the_next_writer_finds_zeros_where_one_has_died_in_the_first_commit() {
    if !support::on_pwal() {
        return;
    }
    let lab = Lab::new();
    drop(killed(&lab, 4096, TRANSACTIONS[0].1));
    let segments = |path: &Path| -> Vec<PathBuf> {
        let directory = std::fs::read_dir(format!("{}-pwal", path.display())).unwrap();
        directory
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|e| e == "seg"))
            .collect()
    };
    let (path, begun, cleared) = (lab.path(), Once::default(), Once::default());
    let (left, seen) = (begun.clone(), cleared.clone());
    // Behind the header and the two blocks of the mark.
    let place = 3 * 4096;
    lab.hook(move |moment| {
        if moment.call == Call::Sync && moment.name == "(parent)" && left.first() {
            // The segment is made: a prefix of a longer batch.
            let segment = std::fs::OpenOptions::new().write(true).open(&segments(&path)[0])?;
            segment.write_all_at(&[0x70; 5 * 4096], place)?;
        }
        if moment.call == Call::Write && moment.name.ends_with(".seg") && !moment.done && left.happened() {
            // The batch has one block: its page is mostly zeros.
            let mut there = vec![1; 4096];
            std::fs::File::open(&segments(&path)[0])?.read_exact_at(&mut there, place)?;
            if there.iter().all(|&byte| byte == 0) {
                seen.first();
            }
        }
        Ok(())
    });
    let connection = lab.wal();
    support::run(&connection, "INSERT INTO t VALUES('after')");
    assert!(begun.happened() && cleared.happened(), "{} {}", begun.happened(), cleared.happened());
    lab.unhook();
    assert_eq!(support::number(&lab.crash().open(), "SELECT count(*) FROM t"), 3);
    support::close(connection);
}
