//! Block 0 of a segment.

use super::bytes::{put, u16_at, u32_at, u64_at};
use super::error::{FormatError, Rule, require};
use super::magic::SEGMENT as MAGIC;
use super::{
    BLOCK_BYTES_MAX, BLOCK_BYTES_MIN, FORMAT_VERSION, LogId, PAGE_BYTES_MAX, PAGE_BYTES_MIN, POSITION_END,
    SegmentHeader,
};

const VERSION: usize = 8;
const RESERVED_2: usize = 10;
const BLOCK: usize = 12;
const PAGE: usize = 16;
const RESERVED_4: usize = 20;
const SEGMENT: usize = 24;
const LOG_ID: usize = 32;
const ORDINAL: usize = 40;
const FIRST: usize = 48;
const CHAIN: usize = 56;
const CRC: usize = 64;
/// The bytes of a segment header that mean something; all in one sector.
pub const SEGMENT_HEADER_BYTES: usize = 68;
const _: () = assert!(CRC + 4 == SEGMENT_HEADER_BYTES && SEGMENT_HEADER_BYTES <= 512);

impl SegmentHeader {
    /// The header as a whole block, zero padded.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut block = vec![0; usize::try_from(self.block_bytes).unwrap_or(0).max(SEGMENT_HEADER_BYTES)];
        put(&mut block, 0, *MAGIC);
        put(&mut block, VERSION, FORMAT_VERSION.to_le_bytes());
        put(&mut block, BLOCK, self.block_bytes.to_le_bytes());
        put(&mut block, PAGE, self.page_bytes.to_le_bytes());
        put(&mut block, SEGMENT, self.segment_bytes.to_le_bytes());
        put(&mut block, LOG_ID, self.log_id.to_le_bytes());
        put(&mut block, ORDINAL, self.ordinal.to_le_bytes());
        put(&mut block, FIRST, self.first_sequence.to_le_bytes());
        put(&mut block, CHAIN, self.chain.to_le_bytes());
        let crc = crc32c::crc32c(&block[..CRC]);
        put(&mut block, CRC, crc.to_le_bytes());
        block
    }

    /// The header that the first bytes of a segment of the log `log_id` hold (rules S1 to S3, and S4 but for the sizes).
    ///
    /// # Errors
    /// The rule that does not hold; other versions of a header that is whole by name.
    pub fn decode(block: &[u8], log_id: LogId) -> Result<SegmentHeader, FormatError> {
        let Some(bytes) = block.first_chunk::<SEGMENT_HEADER_BYTES>() else {
            return Err(FormatError::Short { needed: SEGMENT_HEADER_BYTES, found: block.len() });
        };
        require(bytes.starts_with(MAGIC), Rule::SegmentMagic)?;
        // Before the version: magic, version, log id and this CRC keep their places in every version.
        require(u64_at(bytes, LOG_ID) == log_id || crate::drops("s4"), Rule::SegmentPlace)?;
        require(u32_at(bytes, CRC) == crc32c::crc32c(&bytes[..CRC]) || crate::drops("s2"), Rule::SegmentCrc)?;
        FormatError::check_version(u16_at(bytes, VERSION))?;
        let header = SegmentHeader {
            log_id,
            block_bytes: u32_at(bytes, BLOCK),
            page_bytes: u32_at(bytes, PAGE),
            segment_bytes: u64_at(bytes, SEGMENT),
            ordinal: u64_at(bytes, ORDINAL),
            first_sequence: u64_at(bytes, FIRST),
            chain: u64_at(bytes, CHAIN),
        };
        let possible = u16_at(bytes, RESERVED_2) == 0
            && u32_at(bytes, RESERVED_4) == 0
            && is_block_size(header.block_bytes)
            && is_page_size(header.page_bytes)
            && header.segment_bytes.is_multiple_of(u64::from(header.block_bytes))
            && header.segment_bytes >= 2 * u64::from(header.block_bytes)
            && header.segment_bytes <= POSITION_END
            && header.log_id != 0
            && header.ordinal != 0
            && header.first_sequence != 0;
        require(possible || crate::drops("s3"), Rule::SegmentFields)?;
        Ok(header)
    }
}

/// Whether a block can have this size in bytes.
#[must_use]
pub fn is_block_size(bytes: u32) -> bool {
    bytes.is_power_of_two() && (BLOCK_BYTES_MIN..=BLOCK_BYTES_MAX).contains(&bytes)
}

/// Whether a page of SQLite can have this size in bytes.
#[must_use]
pub fn is_page_size(bytes: u32) -> bool {
    bytes.is_power_of_two() && (PAGE_BYTES_MIN..=PAGE_BYTES_MAX).contains(&bytes)
}
