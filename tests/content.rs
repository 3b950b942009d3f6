//! What users store is never taken for a record of the log that it lies in, whatever they know of it.

mod common;
#[path = "engine/lab.rs"]
mod lab;

use lab::{Lab, status};
use pwal::disk::{Disk, RealDisk};
use pwal::log::format::{
    BatchHeader, CERTIFICATE_BYTES, Certificate, Descriptor, FileName, ImagePlace, SlotHeader, batch_head_bytes,
    chain_after, encode_batch,
};
use pwal::log::scan::dump_slot;
use rusqlite::Connection;
use std::path::Path;

const BLOCK: u64 = 4096;
const BLOB_BYTES: usize = 1_200_000;

/// A log that is active, with some commits.
fn begun() -> (Lab, Connection) {
    let lab = Lab::new();
    let connection = lab.wal();
    common::run(&connection, "PRAGMA wal_autocheckpoint=0; CREATE TABLE t(x); CREATE TABLE upload(data BLOB)");
    for value in 0..20 {
        common::run(&connection, &format!("INSERT INTO t VALUES({value})"));
    }
    (lab, connection)
}

fn store(connection: &Connection, blob: &[u8]) {
    assert_eq!(connection.execute("INSERT INTO upload(data) VALUES(?1)", [blob]).unwrap(), 1);
}

/// The slots of the log, and their bytes.
fn slots(path: &Path) -> Vec<(String, u64, Vec<u8>)> {
    let directory = RealDisk.log_directory(path);
    let mut slots = Vec::new();
    for name in directory.list().unwrap() {
        if let Some(FileName::Slot { log_id, .. }) = FileName::parse(&name) {
            let bytes = std::fs::read(directory.path().join(&name)).unwrap();
            if let Ok(header) = SlotHeader::decode(&bytes, log_id) {
                slots.push((name, header.ordinal, bytes));
            }
        }
    }
    slots
}

/// Which byte of the blob lies at which block of which segment: learned from a blob that counts. The same statements on another
/// new database lay it out the same way.
fn places() -> Vec<(u64, u64, usize)> {
    let (lab, connection) = begun();
    let blob: Vec<u8> = (0..BLOB_BYTES as u32 / 4).flat_map(|at| (0x8000_0000 | at).to_le_bytes()).collect();
    store(&connection, &blob);
    let mut places = Vec::new();
    for (_, ordinal, bytes) in slots(&lab.path()) {
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

fn certificate(log_id: u64, ordinal: u64, offset: u64, durable: u64, backfilled: u64) -> Certificate {
    Certificate {
        log_id,
        ordinal,
        offset,
        epoch: 1,
        lo: 1,
        hi: durable,
        durable,
        backfilled,
        chain: 7,
        batches: 1,
        frames: 1,
        distinct_pages: 1,
        database_pages: 1,
        fallback: false,
        clean_end: false,
        lane_frames: vec![],
        copy: None,
    }
}

/// Records that prove themselves in this place: of this log, of a later version, with any watermarks.
fn forged(kind: usize, log_id: u64, ordinal: u64, offset: u64, next: u64) -> Vec<u8> {
    let newer = |mut record: Vec<u8>, crc: usize, covered: usize| {
        record[8] = 3;
        let sum = if crc < 16 {
            crc32c::crc32c_append(crc32c::crc32c(&record[..crc]), &record[crc + 4..])
        } else {
            crc32c::crc32c(&record[..covered])
        };
        record[crc..crc + 4].copy_from_slice(&sum.to_le_bytes());
        record
    };
    let batch = || {
        let descriptors = [Descriptor { page: 1, place: ImagePlace::Batch(batch_head_bytes(1)), mask: 0, crc: 9 }];
        let mut header = BatchHeader {
            log_id,
            sequence: next,
            ordinal,
            offset,
            bytes: 2 * BLOCK,
            frames: 1,
            database_pages: 1,
            lane: 0,
            wants_durable: true,
            time_us: 1,
            chain: 5,
            certificate: None,
        };
        let chain = chain_after(&header, &descriptors);
        header.certificate =
            Some(Certificate { hi: next, chain, ..certificate(log_id, ordinal, offset, 1 << 40, 1 << 40) });
        header.certificate.as_mut().unwrap().durable = 0;
        header.certificate.as_mut().unwrap().backfilled = 0;
        encode_batch(&header, &descriptors).unwrap()
    };
    match kind {
        0 => certificate(log_id, ordinal, offset, 1 << 40, 0).encode().to_vec(),
        1 => certificate(log_id, ordinal, offset, 1 << 40, 1 << 40).encode().to_vec(),
        2 => newer(certificate(log_id, ordinal, offset, 1, 0).encode().to_vec(), 252, 252),
        3 => certificate(log_id, ordinal, offset, 1 << 40, 1 << 40).encode_doubled(4096, &[7; 512], 8)[..768].to_vec(),
        4 => batch(),
        _ => newer(batch(), 12, 0),
    }
}

#[test]
fn records_in_a_blob_are_none() {
    if !common::on_pwal() {
        return;
    }
    let places = places();
    let (lab, connection) = begun();
    let path = lab.path();
    let log_id = u64::from_str_radix(status(&connection, "log_id").as_str().unwrap(), 16).unwrap();
    let next = status(&connection, "published").as_u64().unwrap() + 1;
    let mut blob = vec![0xa5; BLOB_BYTES];
    for (nth, (ordinal, offset, at)) in places.into_iter().enumerate() {
        let record = forged(nth % 6, log_id, ordinal, offset, next);
        let end = blob.len().min(at + record.len());
        blob[at..end].copy_from_slice(&record[..end - at]);
    }
    store(&connection, &blob);
    let masks = slots(&path).into_iter().map(|(name, ..)| {
        let text = dump_slot(&*RealDisk.log_directory(&path), &name).unwrap();
        text.matches(", mask ").count()
    });
    assert!(masks.sum::<usize>() > 250, "the blob does not lie where it was thought to");
    for value in 20..30 {
        common::run(&connection, &format!("INSERT INTO t VALUES({value})"));
    }
    let read = |connection: &Connection| -> (i64, bool) {
        let stored: Vec<u8> = connection.query_row("SELECT data FROM upload", [], |row| row.get(0)).unwrap();
        (common::number(connection, "SELECT count(*) FROM t"), stored == blob)
    };
    assert_eq!(read(&connection), (30, true), "from the log");
    let killed = lab.crash();
    let again = killed.open();
    assert_eq!(read(&again), (30, true), "after a kill");
    common::assert_integrity(&again);
    common::run(&connection, "PRAGMA wal_checkpoint(TRUNCATE)");
    assert_eq!(read(&connection), (30, true), "from the database file");
    common::close(connection);
    common::assert_plain(&path);
    assert_eq!(read(&common::open_stock(&path)), (30, true));
}

/// Who knows nothing of the log: any phase of any kind of record.
#[test]
fn records_at_every_phase_are_none() {
    if !common::on_pwal() {
        return;
    }
    for kind in 0..6 {
        let (lab, connection) = begun();
        let record = forged(kind, 1, 1, BLOCK, 1);
        let mut blob = vec![0; 300 * 4092];
        for (page, piece) in blob.chunks_mut(4092).enumerate() {
            piece[page % CERTIFICATE_BYTES..]
                .chunks_exact_mut(record.len())
                .for_each(|tile| tile.copy_from_slice(&record));
        }
        store(&connection, &blob);
        common::run(&connection, "INSERT INTO t VALUES(20)");
        let killed = lab.crash();
        let again = killed.open();
        assert_eq!(common::number(&again, "SELECT count(*) FROM t"), 21, "kind {kind}");
        let stored: Vec<u8> = again.query_row("SELECT data FROM upload", [], |row| row.get(0)).unwrap();
        assert!(stored == blob, "kind {kind}");
    }
}
