//! What the recorded writes to a log mean: its records, and which of them are durable.

use super::medium::{Medium, Node, ROOT};
use super::script::DATABASE;
use pwal::internal::log::format::{BatchPlace, RECORD_PLACE_BYTES};
use pwal::internal::log::format::{
    Certificate, CertificatePlace, FileName, ImagePlace, LogId, SegmentHeader, batch_place, decode_batch,
};
use std::collections::BTreeMap;

/// The call of what was there before the first one, and may be damaged.
pub const FOUND: usize = usize::MAX;

pub const BLOCK_BYTES: usize = 4096;

/// What a node is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Database,
    Journal,
    LogDirectory,
    Placeholder,
    Undo,
    In(FileName),
    Other,
}

impl Role {
    pub fn of(directory: Node, name: &str) -> Role {
        if directory != ROOT {
            return match name {
                "undo-salvage.journal" => Role::Undo,
                _ => FileName::parse(name).map_or(Role::Other, Role::In),
            };
        }
        match name.strip_prefix(DATABASE) {
            Some("") => Role::Database,
            Some("-journal") => Role::Journal,
            Some("-pwal") => Role::LogDirectory,
            Some("-wal") => Role::Placeholder,
            _ => Role::Other,
        }
    }

    pub fn segment(self) -> Option<LogId> {
        match self {
            Role::In(FileName::Segment { log_id, .. }) => Some(log_id),
            _ => None,
        }
    }

    pub fn spill(self) -> Option<u32> {
        match self {
            Role::In(FileName::Spill { number, .. }) => Some(number),
            _ => None,
        }
    }

    pub fn is_marker(self) -> bool {
        matches!(self, Role::In(FileName::Marker { .. }))
    }
}

/// The image of a page in a batch, by its checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Image {
    pub page: u32,
    pub crc: u32,
}

/// A record that was written to a segment.
#[derive(Clone, Debug)]
pub enum Kind {
    Header { ordinal: u64 },
    Batch { sequence: u64, spills: Vec<u32>, images: Vec<Image> },
    Certificate { durable: u64, last: u64, backfilled: u64, is_doubled: bool },
}

#[derive(Clone, Debug)]
pub struct Record {
    pub log_id: LogId,
    pub segment: Node,
    pub ordinal: u64,
    /// The call that wrote it.
    pub at: usize,
    pub offset: u64,
    pub end: u64,
    pub kind: Kind,
}

impl Record {
    /// No power cut takes it any more.
    pub fn is_durable(&self, medium: &Medium) -> bool {
        medium.pending_of(self.segment).all(|pending| pending.at != self.at)
    }
}

/// The records in one write to a segment.
pub fn read(log_id: LogId, segment: Node, at: usize, offset: u64, bytes: &[u8]) -> Vec<Record> {
    let mut records = Vec::new();
    let mut from = 0;
    while from + RECORD_PLACE_BYTES <= bytes.len() {
        let (here, place) = (&bytes[from..], offset + from as u64);
        let mut add = |ordinal, end, kind| {
            records.push(Record { log_id, segment, ordinal, at, offset: place, end, kind });
        };
        let block_end = (place + 1).next_multiple_of(BLOCK_BYTES as u64);
        let certificate_place = CertificatePlace { log_id, ordinal: None, offset: place };
        let of_certificate = |certificate: &Certificate| Kind::Certificate {
            durable: certificate.durable,
            last: certificate.hi,
            backfilled: certificate.backfilled,
            is_doubled: certificate.copy.is_some(),
        };
        let mut next = from + RECORD_PLACE_BYTES;
        if let Ok(header) = SegmentHeader::decode(here, log_id) {
            add(header.ordinal, block_end, Kind::Header { ordinal: header.ordinal });
        } else if let Ok(certificate) = Certificate::decode(here, &certificate_place) {
            add(certificate.ordinal, block_end, of_certificate(&certificate));
        } else if let Some((_, ordinal, _)) = batch_place(here) {
            let (block_bytes, page_bytes) = (BLOCK_BYTES as u32, BLOCK_BYTES as u32);
            let place = BatchPlace { log_id, ordinal, offset: place, block_bytes, page_bytes, segment_bytes: 1 << 40 };
            let Ok(batch) = decode_batch(here, &place) else {
                assert_eq!(at, FOUND, "a batch that pwal has written");
                from = next;
                continue;
            };
            let mut spills: Vec<u32> = batch
                .descriptors
                .iter()
                .filter_map(|frame| match frame.place {
                    ImagePlace::Spill { file, .. } => Some(file),
                    ImagePlace::Batch(_) => None,
                })
                .collect();
            spills.dedup();
            let images = batch.descriptors.iter().map(|frame| Image { page: frame.page, crc: frame.crc }).collect();
            let end = batch.header.offset + batch.header.bytes;
            add(ordinal, end, Kind::Batch { sequence: batch.header.sequence, spills, images });
            if let Some(certificate) = &batch.header.certificate {
                add(ordinal, end, of_certificate(certificate));
            }
            next = from + usize::try_from(batch.header.bytes).expect("a length");
        }
        from = next;
    }
    records
}

/// The last record of each commit of a log.
pub fn batches(records: &[Record], log_id: LogId) -> BTreeMap<u64, &Record> {
    let of_log = records.iter().filter(|record| record.log_id == log_id);
    let batches = of_log.filter_map(|record| match record.kind {
        Kind::Batch { sequence, .. } => Some((sequence, record)),
        _ => None,
    });
    batches.collect()
}
