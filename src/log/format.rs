//! The records of the log as values, and their codecs.
//!
//! Decoding is total: any bytes give a value or an error. A value that a decoder returns has proven
//! itself by its CRC and by the rules that need no other record.
//!
#![doc = include_str!("../../docs/format.md")]

mod batch;
mod bytes;
mod certificate;
mod error;
mod image_form;
mod magic;
mod mask;
mod name;
mod segment;

pub use batch::{
    BATCH_HEADER_BYTES, Batch, BatchPlace, ClaimedBatch, DESCRIPTOR_BYTES, HeadDecoder, POSITION_END, SPILL_NUMBER_END,
    batch_head_bytes, batch_place, chain_after, decode_batch, decode_batch_header, embedded_certificate, encode_batch,
    encode_batch_sealed, image_crc,
};
pub use certificate::{CERTIFICATE_BYTES, CertificatePlace, LANES_MAX};
pub use error::{FormatError, Rule};
pub use image_form::{ImageForm, OmittedZeros, ZEROS_UNIT};
pub use mask::{RECORD_PLACE_BYTES, apply_mask, begins_record, block_after, mask_of, mask_of_first};
pub use name::{CONTROL_NAME, FileName, LOCK_NAME, marker_name, segment_name, spill_name};
pub use segment::{SEGMENT_HEADER_BYTES, is_block_size, is_page_size};

/// The version of the format that is written, and the only one that is read.
pub const FORMAT_VERSION: u16 = 2;

/// What names one log; random, never 0, never used by a second incarnation.
pub type LogId = u64;

/// The block, in bytes, unless the medium's sector is larger: what is durable ends on one ([`block_after`]).
pub const BLOCK_BYTES_MIN: u32 = 4096;
/// The largest block, in bytes.
pub const BLOCK_BYTES_MAX: u32 = 65536;
/// The smallest page of SQLite, in bytes.
pub const PAGE_BYTES_MIN: u32 = 512;
/// The largest page of SQLite, in bytes.
pub const PAGE_BYTES_MAX: u32 = 65536;

/// Block 0 of a segment: what the segment holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    /// The log that the segment belongs to.
    pub log_id: LogId,
    /// The block of this log in bytes.
    pub block_bytes: u32,
    /// The page of the database in bytes.
    pub page_bytes: u32,
    /// The segment, with its header, in bytes.
    pub segment_bytes: u64,
    /// The ordinal of the segment in the log, from 1.
    pub ordinal: u64,
    /// The first commit sequence that may lie in it.
    pub first_sequence: u64,
    /// The chain value before that commit.
    pub chain: u64,
}

/// Where the image of a frame lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImagePlace {
    /// In the batch, at this offset (bytes) from its start.
    Batch(u64),
    /// In the spill file of this number, at this offset in bytes.
    Spill {
        /// The number in the file's name, `<log id>-<number>.spill`.
        file: u32,
        /// Bytes from its start.
        offset: u64,
    },
}

/// One frame of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// The page number, from 1.
    pub page: u32,
    /// Where the image is.
    pub place: ImagePlace,
    /// How it is stored there; in a spill file plain.
    pub form: ImageForm,
    /// `image_crc` of the image.
    pub crc: u32,
}

/// One commit, without its descriptors and images.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchHeader {
    /// The log.
    pub log_id: LogId,
    /// The commit sequence.
    pub sequence: u64,
    /// The ordinal of the segment that the batch lies in.
    pub ordinal: u64,
    /// Its offset in the segment, in bytes.
    pub offset: u64,
    /// The whole batch with header, descriptors, images and padding, in bytes.
    pub bytes: u64,
    /// The number of descriptors.
    pub frames: u32,
    /// The size of the database after this commit, in pages.
    pub database_pages: u32,
    /// The lane that it was staged in.
    pub lane: u16,
    /// The commit wants durability (`synchronous` FULL or EXTRA).
    pub wants_durable: bool,
    /// When it was committed: microseconds since 1970 began, UTC, by the clock of the machine; 0 if that was not set.
    pub time_us: u64,
    /// The chain value before this commit.
    pub chain: u64,
    /// The certificate in it, if this batch is the last of an epoch and carries it itself.
    pub certificate: Option<Certificate>,
}

/// The record that seals an epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// The log.
    pub log_id: LogId,
    /// The ordinal of the segment that it lies in.
    pub ordinal: u64,
    /// Its offset in the segment, in bytes; in a batch that of the batch.
    pub offset: u64,
    /// The epoch, from 1.
    pub epoch: u64,
    /// The first commit that it covers.
    pub lo: u64,
    /// The last commit that it covers; `lo - 1` in a mark.
    pub hi: u64,
    /// D: commits up to here were durable when it was written.
    pub durable: u64,
    /// B: commits up to here are in the database file and synced there.
    pub backfilled: u64,
    /// The chain value after commit `hi`.
    pub chain: u64,
    /// Batches in the epoch.
    pub batches: u32,
    /// Frames in the epoch.
    pub frames: u64,
    /// Distinct pages in the epoch, as far as the writer counted them.
    pub distinct_pages: u64,
    /// The size of the database after `hi`, in pages.
    pub database_pages: u32,
    /// The conservative path was active.
    pub fallback: bool,
    /// The log was closed cleanly after this certificate.
    pub clean_end: bool,
    /// Frames of each lane.
    pub lane_frames: Vec<u32>,
    /// It is doubled: what follows it in its block.
    pub copy: Option<PageCopy>,
}

/// One half of the copy of the beginning of page 1, as commit B left it and without a stamp, that follows a doubled
/// certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageCopy {
    /// The whole copy in bytes: a multiple of 512, at most a block.
    pub bytes: u32,
    /// CRC-32C of the whole copy without its mask.
    pub crc: u32,
    /// CRC-32C of the block of the database file that follows what is copied, or of the part of it that existed; 0:
    /// none.
    pub next_block_crc: u32,
    /// What it is masked with ([`apply_mask`]); 0 for none.
    pub mask: u8,
    /// This is the second one of the two blocks.
    pub is_second: bool,
}
