//! `WalIndexHdr` of `wal.c`: 48 bytes, twice, at the start of region 0, in native byte order.

/// The words of one copy.
pub(super) const HEADER_WORDS: usize = 12;
/// The words that the checksum covers.
const CHECKED_WORDS: usize = 10;

/// `WALINDEX_MAX_VERSION`.
const VERSION: u32 = 3_007_000;

/// `aSalt`: any constant will do, nothing is recovered by it.
pub(super) const SALT: [u32; 2] =
    [u32::from_ne_bytes([b'p', b'w', b'a', b'l']), u32::from_ne_bytes([b'v', b'i', b'e', b'w'])];

/// The fields that change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// `iChange`
    pub change: u32,
    /// The page size in bytes.
    pub page_bytes: u32,
    /// `mxFrame`
    pub max_frame: u32,
    /// `nPage`
    pub database_pages: u32,
}

impl Header {
    /// The copy as SQLite expects it: checked by `walIndexTryHdr`.
    pub fn encode(&self) -> [u32; HEADER_WORDS] {
        let [s0, s1] = encode_page_bytes(self.page_bytes).to_ne_bytes();
        let mut words = [0; HEADER_WORDS];
        words[0] = VERSION;
        words[2] = self.change;
        // isInit, bigEndCksum (= SQLITE_BIGENDIAN), szPage
        words[3] = u32::from_ne_bytes([1, u8::from(cfg!(target_endian = "big")), s0, s1]);
        words[4] = self.max_frame;
        words[5] = self.database_pages;
        words[8] = SALT[0];
        words[9] = SALT[1];
        let sums = checksum([0, 0], &words[..CHECKED_WORDS]);
        words[10] = sums[0];
        words[11] = sums[1];
        words
    }

    /// The fields, whatever the checksum says.
    pub fn decode(words: &[u32; HEADER_WORDS]) -> Header {
        let [_, _, s0, s1] = words[3].to_ne_bytes();
        Header {
            change: words[2],
            page_bytes: decode_page_bytes(u16::from_ne_bytes([s0, s1])),
            max_frame: words[4],
            database_pages: words[5],
        }
    }
}

/// Both copies as they lie in region 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Copies(pub [u32; 2 * HEADER_WORDS]);

impl Copies {
    /// The fields of the first copy.
    pub fn first(&self) -> Header {
        let mut words = [0; HEADER_WORDS];
        words.copy_from_slice(&self.0[..HEADER_WORDS]);
        Header::decode(&words)
    }
}

/// `szPage` in 16 bits: 65536 is 1 (`sqlite3WalFrames`).
fn encode_page_bytes(page_bytes: u32) -> u16 {
    let folded = (page_bytes & 0xff00) | (page_bytes >> 16);
    u16::try_from(folded).unwrap_or(0)
}

fn decode_page_bytes(encoded: u16) -> u32 {
    u32::from(encoded & 0xfe00) + (u32::from(encoded & 1) << 16)
}

/// `walChecksumBytes` over native words, an even number of them.
pub(super) fn checksum(start: [u32; 2], words: &[u32]) -> [u32; 2] {
    let [mut s1, mut s2] = start;
    for pair in words.chunks_exact(2) {
        s1 = s1.wrapping_add(pair[0]).wrapping_add(s2);
        s2 = s2.wrapping_add(pair[1]).wrapping_add(s1);
    }
    [s1, s2]
}
