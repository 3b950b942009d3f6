//! Records that are valid in any place of a log: what a user could store who knows all of it.

use pwal::internal::log::format::{
    BatchHeader, Certificate, Descriptor, ImageForm, ImagePlace, SegmentHeader, batch_head_bytes, chain_after,
    encode_batch,
};

const BLOCK: u64 = 4096;
/// Of [`forged`].
pub const KINDS: usize = 8;

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

/// Records that are valid in this place: of this log, of a later version, with any watermarks.
pub fn forged(kind: usize, log_id: u64, ordinal: u64, offset: u64, next: u64) -> Vec<u8> {
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
        let descriptors =
            [Descriptor { page: 1, place: ImagePlace::Batch(batch_head_bytes(1)), form: ImageForm::PLAIN, crc: 9 }];
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
    let segment_header = || {
        let header = SegmentHeader {
            log_id,
            block_bytes: BLOCK as u32,
            page_bytes: 1024,
            segment_bytes: 2 * BLOCK,
            ordinal: ordinal + 1,
            first_sequence: next,
            chain: 5,
        };
        let mut record = header.encode();
        record.truncate(68);
        record
    };
    match kind {
        0 => certificate(log_id, ordinal, offset, 1 << 40, 0).encode().to_vec(),
        1 => certificate(log_id, ordinal, offset, 1 << 40, 1 << 40).encode().to_vec(),
        2 => newer(certificate(log_id, ordinal, offset, 1, 0).encode().to_vec(), 252, 252),
        3 => certificate(log_id, ordinal, offset, 1 << 40, 1 << 40).encode_doubled(4096, &[7; 512], 8)[..768].to_vec(),
        4 => batch(),
        5 => newer(batch(), 12, 0),
        6 => segment_header(),
        _ => newer(segment_header(), 64, 64),
    }
}
