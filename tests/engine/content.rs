//! What users store is never taken for a record of the log that it lies in, whatever they know of it.

use pwal::internal::disk::{Disk, RealDisk};
use pwal::internal::log::format::{CERTIFICATE_BYTES, FileName, SegmentHeader};
use pwal::internal::log::scan::dump_segment;
use rusqlite::Connection;
use std::path::Path;
use support::lab::{Lab, status};
use support::log::forged::{KINDS, forged};

const BLOCK: u64 = 4096;
const BLOB_BYTES: usize = 1_200_000;

/// A log that is active, with some commits.
fn begun() -> (Lab, Connection) {
    let lab = Lab::new();
    let connection = lab.wal();
    support::run(&connection, "PRAGMA wal_autocheckpoint=0; CREATE TABLE t(x); CREATE TABLE upload(data BLOB)");
    for value in 0..20 {
        support::run(&connection, &format!("INSERT INTO t VALUES({value})"));
    }
    (lab, connection)
}

fn store(connection: &Connection, blob: &[u8]) {
    assert_eq!(connection.execute("INSERT INTO upload(data) VALUES(?1)", [blob]).unwrap(), 1);
}

/// The segments of the log, and their bytes.
fn segments(path: &Path) -> Vec<(String, u64, Vec<u8>)> {
    let directory = RealDisk.log_directory(path);
    let mut segments = Vec::new();
    for name in directory.list().unwrap() {
        if let Some(FileName::Segment { log_id, .. }) = FileName::parse(&name) {
            let bytes = std::fs::read(directory.path().join(&name)).unwrap();
            if let Ok(header) = SegmentHeader::decode(&bytes, log_id) {
                segments.push((name, header.ordinal, bytes));
            }
        }
    }
    segments
}

/// Which byte of the blob lies at which block of which segment: learned from a blob that counts. The same statements on another
/// new database lay it out the same way.
fn places() -> Vec<(u64, u64, usize)> {
    let (lab, connection) = begun();
    let blob: Vec<u8> = (0..BLOB_BYTES as u32 / 4).flat_map(|at| (0x8000_0000 | at).to_le_bytes()).collect();
    store(&connection, &blob);
    let mut places = Vec::new();
    for (_, ordinal, bytes) in segments(&lab.path()) {
        for (block, offset) in bytes.chunks(BLOCK as usize).zip((0..).step_by(BLOCK as usize)) {
            // Both words count: it is the blob, and begins with whole numbers.
            let word = |at: usize| u32::from_le_bytes(block[at..at + 4].try_into().unwrap());
            if word(0) >> 31 == 1 && word(4) == word(0) + 1 {
                places.push((ordinal, offset, 4 * (word(0) & 0x7fff_ffff) as usize));
            }
        }
    }
    assert!(places.len() > 250, "{} blocks", places.len());
    places
}

#[test]
fn records_in_a_blob_are_none() {
    if !support::on_pwal() {
        return;
    }
    let places = places();
    let (lab, connection) = begun();
    let path = lab.path();
    let log_id = u64::from_str_radix(status(&connection, "log_id").as_str().unwrap(), 16).unwrap();
    let next = status(&connection, "published").as_u64().unwrap() + 1;
    let mut blob = vec![0xa5; BLOB_BYTES];
    for (nth, (ordinal, offset, at)) in places.into_iter().enumerate() {
        let record = forged(nth % KINDS, log_id, ordinal, offset, next);
        let end = blob.len().min(at + record.len());
        blob[at..end].copy_from_slice(&record[..end - at]);
    }
    store(&connection, &blob);
    let masks = segments(&path).into_iter().map(|(name, ..)| {
        let text = dump_segment(&*RealDisk.log_directory(&path), &name).unwrap();
        text.matches(", mask ").count()
    });
    assert!(masks.sum::<usize>() > 250, "the blob does not lie where it was thought to");
    for value in 20..30 {
        support::run(&connection, &format!("INSERT INTO t VALUES({value})"));
    }
    let read = |connection: &Connection| -> (i64, bool) {
        let stored: Vec<u8> = connection.query_row("SELECT data FROM upload", [], |row| row.get(0)).unwrap();
        (support::number(connection, "SELECT count(*) FROM t"), stored == blob)
    };
    assert_eq!(read(&connection), (30, true), "from the log");
    let killed = lab.crash();
    let again = killed.open();
    assert_eq!(read(&again), (30, true), "after a kill");
    support::assert_integrity(&again);
    support::run(&connection, "PRAGMA wal_checkpoint(TRUNCATE)");
    assert_eq!(read(&connection), (30, true), "from the database file");
    support::close(connection);
    support::assert_plain(&path);
    assert_eq!(read(&support::open_stock(&path)), (30, true));
}

/// Zeros that are not stored come back, wherever they lie in a page, with whatever around them, by every way to read them.
#[test]
fn zeros_of_any_length_come_back() {
    if !support::on_pwal() {
        return;
    }
    for page_bytes in [4096, 8192, 65536] {
        let lab = Lab::new();
        let path = lab.path();
        let connection = lab.open("a.db");
        support::run(
            &connection,
            &format!(
                "PRAGMA page_size={page_bytes}; PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA wal_autocheckpoint=0; CREATE TABLE t(id INTEGER PRIMARY KEY, x BLOB)"
            ),
        );
        let row = |number: usize| {
            // What begins a record, at every word; zeros among it.
            let mut row = b"pwalbtch".repeat(1 + number * 37 % 60);
            let at = number * 53 % row.len();
            row.splice(at..at, vec![0; number * 97 % 900]);
            row
        };
        for number in 0..60 {
            let insert = "INSERT INTO t VALUES(?1, ?2)";
            connection.execute(insert, rusqlite::params![number as i64, row(number)]).unwrap();
            if number % 7 == 6 {
                support::run(&connection, &format!("DELETE FROM t WHERE id={}", number - 3));
            }
        }
        let dumped = segments(&path).into_iter().map(|(name, ..)| {
            let text = dump_segment(&*RealDisk.log_directory(&path), &name).unwrap();
            assert!(!text.contains("is not valid"), "{text}");
            text.matches(", without the zeros from ").count()
        });
        let left_out = dumped.sum::<usize>();
        assert!(left_out > 5, "{left_out} images without zeros, pages of {page_bytes} bytes");
        let check = |connection: &Connection, whence: &str| {
            let mut statement = connection.prepare("SELECT id, x FROM t").unwrap();
            let rows: Vec<(usize, Vec<u8>)> = statement
                .query_map([], |row| Ok((row.get::<_, i64>(0)? as usize, row.get(1)?)))
                .unwrap()
                .map(Result::unwrap)
                .collect();
            assert_eq!(rows.len(), 52, "{whence}");
            assert!(rows.iter().all(|(number, stored)| *stored == row(*number)), "{whence}, {page_bytes}");
            support::assert_integrity(connection);
        };
        check(&connection, "by the writer");
        let reader = lab.open("a.db");
        check(&reader, "by a connection that has cached nothing");
        let killed = lab.crash();
        let again = killed.open();
        check(&again, "after a kill");
        support::run(&reader, "PRAGMA wal_checkpoint(TRUNCATE)");
        drop(reader);
        support::close(connection);
        support::assert_plain(&path);
        check(&support::open_stock(&path), "from the database file");
    }
}

/// Who knows nothing of the log: any phase of any kind of record.
#[test]
fn records_at_every_phase_are_none() {
    if !support::on_pwal() {
        return;
    }
    for kind in 0..KINDS {
        let (lab, connection) = begun();
        let record = forged(kind, 1, 1, BLOCK, 1);
        let mut blob = vec![0; 300 * 4092];
        for (page, piece) in blob.chunks_mut(4092).enumerate() {
            piece[page % CERTIFICATE_BYTES..]
                .chunks_exact_mut(record.len())
                .for_each(|tile| tile.copy_from_slice(&record));
        }
        store(&connection, &blob);
        support::run(&connection, "INSERT INTO t VALUES(20)");
        let killed = lab.crash();
        let again = killed.open();
        assert_eq!(support::number(&again, "SELECT count(*) FROM t"), 21, "kind {kind}");
        let stored: Vec<u8> = again.query_row("SELECT data FROM upload", [], |row| row.get(0)).unwrap();
        assert!(stored == blob, "kind {kind}");
    }
}
