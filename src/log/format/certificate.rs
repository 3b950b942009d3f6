//! The record that seals an epoch: in the header of the epoch's last batch, or outside of a batch.

use super::bytes::{put, u16_at, u32_at, u64_at};
use super::error::{FormatError, Rule, require};
use super::magic::CERTIFICATE as MAGIC;
use super::mask::{apply_mask, mask_of};
use super::{Certificate, FORMAT_VERSION, LogId, PAGE_BYTES_MAX, PAGE_BYTES_MIN, PageCopy};
use std::ops::Range;

const VERSION: usize = 8;
const FLAGS: usize = 10;
const DATABASE_PAGES: usize = 12;
const LOG_ID: usize = 16;
const EPOCH: usize = 24;
const LO: usize = 32;
const HI: usize = 40;
const DURABLE: usize = 48;
const BACKFILLED: usize = 56;
const CHAIN: usize = 64;
const BATCHES: usize = 72;
const LANE_COUNT: usize = 76;
const RESERVED_2: usize = 78;
const FRAMES: usize = 80;
const DISTINCT_PAGES: usize = 88;
const LANES: usize = 96;
const ORDINAL: usize = LANES + 4 * LANES_MAX;
const OFFSET: usize = ORDINAL + 8;
const COPY: usize = OFFSET + 8;
const COPY_MASK: usize = COPY + 2;
const COPY_HALF: usize = COPY_MASK + 1;
const COPY_CRC: usize = COPY_HALF + 1;
const NEXT_BLOCK_CRC: usize = COPY_CRC + 4;
/// A copy is counted in pieces of this size.
const COPY_UNIT: u32 = PAGE_BYTES_MIN;
const CRC: usize = 252;
/// A certificate in bytes.
pub const CERTIFICATE_BYTES: usize = 256;
/// The lanes that a certificate has room for.
pub const LANES_MAX: usize = 32;
const _: () = assert!(NEXT_BLOCK_CRC + 4 == CRC && CRC + 4 == CERTIFICATE_BYTES && CERTIFICATE_BYTES <= 512);

const FLAG_FALLBACK: u16 = 1;
const FLAG_MARK: u16 = 2;
const FLAG_CLEAN_END: u16 = 4;
const FLAG_DOUBLED: u16 = 8;
const FLAGS_KNOWN: u16 = FLAG_FALLBACK | FLAG_MARK | FLAG_CLEAN_END | FLAG_DOUBLED;

/// Where a certificate is looked for: what it must name before anything else of it counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CertificatePlace {
    /// The log.
    pub log_id: LogId,
    /// The ordinal of the segment; `None`: any one. What an older segment in the same file left is true, too.
    pub ordinal: Option<u64>,
    /// The offset in the segment, in bytes; in a batch that of the batch.
    pub offset: u64,
}

/// Which bytes of a copy of `copy` bytes lie where in two blocks of `block` bytes: one half after each certificate.
fn half_rooms(copy: usize, block: usize) -> [(Range<usize>, Range<usize>); 2] {
    let first = copy.min(block - CERTIFICATE_BYTES);
    let second = (copy - first).min(block - CERTIFICATE_BYTES);
    let after = |at: usize, bytes: usize| at + CERTIFICATE_BYTES..at + CERTIFICATE_BYTES + bytes;
    [(0..first, after(0, first)), (first..first + second, after(block, second))]
}

impl PageCopy {
    /// The copy in these two blocks, if it is whole.
    #[must_use]
    pub fn read(&self, blocks: &[u8]) -> Option<Vec<u8>> {
        let (block, bytes) = (blocks.len() / 2, usize::try_from(self.bytes).ok()?);
        if block < 2 * CERTIFICATE_BYTES || bytes > block {
            return None;
        }
        let mut copy = vec![0; bytes];
        for (to, room) in half_rooms(bytes, block) {
            copy[to.clone()].copy_from_slice(&blocks[room.clone()]);
            apply_mask(&mut copy[to], room.start as u64, self.mask);
        }
        (crc32c::crc32c(&copy) == self.crc).then_some(copy)
    }
}

impl Certificate {
    /// Whether this is an epoch without commits, there to carry D and B.
    #[must_use]
    pub fn is_mark(&self) -> bool {
        self.hi < self.lo
    }

    /// The record; frames of lanes beyond [`LANES_MAX`] are added to the last lane.
    #[must_use]
    pub fn encode(&self) -> [u8; CERTIFICATE_BYTES] {
        let mut bytes = [0; CERTIFICATE_BYTES];
        let mut flags = 0;
        for (is_set, flag) in [
            (self.fallback, FLAG_FALLBACK),
            (self.is_mark(), FLAG_MARK),
            (self.clean_end, FLAG_CLEAN_END),
            (self.copy.is_some(), FLAG_DOUBLED),
        ] {
            flags |= if is_set { flag } else { 0 };
        }
        put(&mut bytes, 0, *MAGIC);
        put(&mut bytes, VERSION, FORMAT_VERSION.to_le_bytes());
        put(&mut bytes, FLAGS, flags.to_le_bytes());
        put(&mut bytes, DATABASE_PAGES, self.database_pages.to_le_bytes());
        put(&mut bytes, LOG_ID, self.log_id.to_le_bytes());
        put(&mut bytes, EPOCH, self.epoch.to_le_bytes());
        put(&mut bytes, LO, self.lo.to_le_bytes());
        put(&mut bytes, HI, self.hi.to_le_bytes());
        put(&mut bytes, DURABLE, self.durable.to_le_bytes());
        put(&mut bytes, BACKFILLED, self.backfilled.to_le_bytes());
        put(&mut bytes, CHAIN, self.chain.to_le_bytes());
        put(&mut bytes, BATCHES, self.batches.to_le_bytes());
        put(&mut bytes, FRAMES, self.frames.to_le_bytes());
        put(&mut bytes, DISTINCT_PAGES, self.distinct_pages.to_le_bytes());
        let mut lanes = [0_u32; LANES_MAX];
        for (lane, frames) in self.lane_frames.iter().enumerate() {
            let sum = &mut lanes[lane.min(LANES_MAX - 1)];
            *sum = sum.saturating_add(*frames);
        }
        let count = u16::try_from(self.lane_frames.len().min(LANES_MAX)).unwrap_or(0);
        put(&mut bytes, LANE_COUNT, count.to_le_bytes());
        for (lane, frames) in lanes.iter().enumerate() {
            put(&mut bytes, LANES + 4 * lane, frames.to_le_bytes());
        }
        put(&mut bytes, ORDINAL, self.ordinal.to_le_bytes());
        put(&mut bytes, OFFSET, self.offset.to_le_bytes());
        if let Some(copy) = &self.copy {
            put(&mut bytes, COPY, u16::try_from(copy.bytes / COPY_UNIT).unwrap_or(0).to_le_bytes());
            put(&mut bytes, COPY_CRC, copy.crc.to_le_bytes());
            put(&mut bytes, NEXT_BLOCK_CRC, copy.next_block_crc.to_le_bytes());
            put(&mut bytes, COPY_MASK, [copy.mask, u8::from(copy.is_second)]);
        }
        let crc = crc32c::crc32c(&bytes[..CRC]);
        put(&mut bytes, CRC, crc.to_le_bytes());
        bytes
    }

    /// The record doubled, as two blocks, each with the certificate for its own place and one half of `page_one` after
    /// it: the first min(page, block) bytes of page 1 as commit B left it, without a stamp. A reader finds B in either
    /// block, and the beginning of the database file with both. `next_block_crc` is [`PageCopy::next_block_crc`].
    #[must_use]
    pub fn encode_doubled(&self, block_bytes: u32, page_one: &[u8], next_block_crc: u32) -> Vec<u8> {
        let block = usize::try_from(block_bytes).unwrap_or(0).max(2 * CERTIFICATE_BYTES);
        let mut blocks = vec![0; 2 * block];
        for (from, room) in half_rooms(page_one.len(), block) {
            blocks[room].copy_from_slice(&page_one[from]);
        }
        let mask = mask_of(&blocks, 0);
        for (_, room) in half_rooms(page_one.len(), block) {
            let position = room.start as u64;
            apply_mask(&mut blocks[room], position, mask);
        }
        let bytes = u32::try_from(page_one.len()).unwrap_or(0);
        let copy = PageCopy { bytes, crc: crc32c::crc32c(page_one), next_block_crc, mask, is_second: false };
        for (at, is_second) in [(0, false), (block, true)] {
            let offset = self.offset + at as u64;
            let half = Certificate { offset, copy: Some(PageCopy { is_second, ..copy }), ..self.clone() };
            put(&mut blocks, at, half.encode());
        }
        blocks
    }

    /// The certificate that the first bytes hold (rules C1 to C4).
    ///
    /// # Errors
    /// The rule that does not hold; other versions and unknown flags of a whole record by name.
    pub fn decode(bytes: &[u8], place: &CertificatePlace) -> Result<Certificate, FormatError> {
        let Some(bytes) = bytes.first_chunk::<CERTIFICATE_BYTES>() else {
            return Err(FormatError::Short { needed: CERTIFICATE_BYTES, found: bytes.len() });
        };
        require(bytes.starts_with(MAGIC), Rule::CertificateMagic)?;
        // Before the version: magic, version, log id, place and CRC keep their places in every version.
        require(u64_at(bytes, LOG_ID) == place.log_id, Rule::CertificatePlace)?;
        let (version, flags) = (u16_at(bytes, VERSION), u16_at(bytes, FLAGS));
        let (ordinal, offset) = (u64_at(bytes, ORDINAL), u64_at(bytes, OFFSET));
        let is_here = offset == place.offset && place.ordinal.is_none_or(|expected| expected == ordinal);
        // Version 1 named no place.
        require(is_here || version == 1 || crate::drops("c4"), Rule::CertificatePlace)?;
        let is_whole = u32_at(bytes, CRC) == crc32c::crc32c(&bytes[..CRC]) || crate::drops("c2");
        require(is_whole, Rule::CertificateCrc)?;
        FormatError::check_version(version)?;
        if flags & !FLAGS_KNOWN != 0 {
            return Err(FormatError::UnknownFlags(flags));
        }
        let lanes = usize::from(u16_at(bytes, LANE_COUNT));
        require(lanes <= LANES_MAX, Rule::CertificateFields)?;
        let certificate = Certificate {
            log_id: place.log_id,
            ordinal,
            offset,
            epoch: u64_at(bytes, EPOCH),
            lo: u64_at(bytes, LO),
            hi: u64_at(bytes, HI),
            durable: u64_at(bytes, DURABLE),
            backfilled: u64_at(bytes, BACKFILLED),
            chain: u64_at(bytes, CHAIN),
            batches: u32_at(bytes, BATCHES),
            frames: u64_at(bytes, FRAMES),
            distinct_pages: u64_at(bytes, DISTINCT_PAGES),
            database_pages: u32_at(bytes, DATABASE_PAGES),
            fallback: flags & FLAG_FALLBACK != 0,
            clean_end: flags & FLAG_CLEAN_END != 0,
            lane_frames: (0..lanes).map(|lane| u32_at(bytes, LANES + 4 * lane)).collect(),
            copy: (flags & FLAG_DOUBLED != 0).then(|| PageCopy {
                bytes: COPY_UNIT * u32::from(u16_at(bytes, COPY)),
                crc: u32_at(bytes, COPY_CRC),
                next_block_crc: u32_at(bytes, NEXT_BLOCK_CRC),
                mask: bytes[COPY_MASK],
                is_second: bytes[COPY_HALF] != 0,
            }),
        };
        let is_copy = match &certificate.copy {
            Some(copy) => (PAGE_BYTES_MIN..=PAGE_BYTES_MAX).contains(&copy.bytes) && bytes[COPY_HALF] <= 1,
            None => bytes[COPY..CRC].iter().all(|&byte| byte == 0),
        };
        let possible = certificate.log_id != 0
            && certificate.ordinal != 0
            && certificate.epoch != 0
            && certificate.lo != 0
            && certificate.hi >= certificate.lo - 1
            && certificate.is_mark() == (flags & FLAG_MARK != 0)
            && certificate.backfilled <= certificate.durable
            && certificate.durable <= certificate.hi
            && u16_at(bytes, RESERVED_2) == 0
            && bytes[LANES + 4 * lanes..ORDINAL].iter().all(|&byte| byte == 0)
            && is_copy;
        require(possible || crate::drops("c3"), Rule::CertificateFields)?;
        Ok(certificate)
    }
}
