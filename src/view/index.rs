//! The wal-index in its regions: header copies, checkpoint info, `aPgno` and `aHash` blocks, as
//! `wal.c` lays them out. SQLite appends in the same memory (`walIndexAppend`), so what is
//! written here is what it would have written itself.

use super::header::{Copies, HEADER_WORDS, Header};
use super::{REGION_WORDS, Region};
use std::sync::Arc;

/// Frames in a region after the first (`HASHTABLE_NPAGE`).
const REGION_FRAMES: u32 = 4096;
/// Words of region 0 before its page numbers (`WALINDEX_HDR_SIZE / 4`).
const PREFIX_WORDS: usize = 34;
/// Frames in region 0 (`HASHTABLE_NPAGE_ONE`).
pub(super) const FIRST_REGION_FRAMES: u32 = REGION_FRAMES - PREFIX_WORDS as u32;
/// `HASHTABLE_NSLOT`
const SLOTS: u32 = 8192;
/// Where the slots (16 bits each) begin in a region.
const HASH_WORD: usize = REGION_FRAMES as usize;
/// `HASHTABLE_HASH_1`
const HASH_FACTOR: u32 = 383;

/// Words of `WalCkptInfo`, after the two header copies.
const BACKFILL_WORD: usize = 2 * HEADER_WORDS;
const READ_MARK_WORD: usize = BACKFILL_WORD + 1;
const READ_MARKS: usize = 5;
const BACKFILL_ATTEMPTED_WORD: usize = READ_MARK_WORD + READ_MARKS + 2;
/// `READMARK_NOT_USED`
const NOT_USED: u32 = 0xffff_ffff;

const _: () = assert!(BACKFILL_ATTEMPTED_WORD * 4 == 128 && PREFIX_WORDS * 4 == 136);
const _: () = assert!(HASH_WORD + SLOTS as usize / 2 == REGION_WORDS && FIRST_REGION_FRAMES == 4062);

/// No room in a hash table, which an intact one always has: its memory was overwritten.
#[derive(Debug)]
pub(super) struct Tangled;

/// Where a frame is indexed: its region, and its place there from 1 on (`idx` of `walIndexAppend`).
fn place(frame: u32) -> (usize, u32) {
    if frame <= FIRST_REGION_FRAMES {
        (0, frame)
    } else {
        let beyond = frame - FIRST_REGION_FRAMES - 1;
        (1 + (beyond / REGION_FRAMES) as usize, beyond % REGION_FRAMES + 1)
    }
}

/// Where the page numbers begin in a region.
fn first_page_word(region: usize) -> usize {
    if region == 0 { PREFIX_WORDS } else { 0 }
}

fn page_word(region: usize, idx: u32) -> usize {
    first_page_word(region) + idx as usize - 1
}

/// Which word holds a slot, and the shift of its half: slots are `u16` in memory order.
fn slot_word(slot: u32) -> (usize, u32) {
    let high = (slot & 1 == 1) != cfg!(target_endian = "big");
    (HASH_WORD + (slot / 2) as usize, if high { 16 } else { 0 })
}

/// The frame in a slot, as its place in the region; 0: the slot is free.
fn in_slot(region: &Region, slot: u32) -> u32 {
    let (word, shift) = slot_word(slot);
    (region.word(word) >> shift) & 0xffff
}

#[derive(Debug)]
pub(super) struct Index {
    regions: Vec<Arc<Region>>,
    /// The slot of the frame that was appended last: a hint.
    last_slot: u32,
}

impl Index {
    pub fn new() -> Index {
        Index { regions: vec![Region::zeroed()], last_slot: 0 }
    }

    pub fn region(&mut self, index: usize, extend: bool) -> Option<Arc<Region>> {
        if index == self.regions.len() && extend {
            self.regions.push(Region::zeroed());
        }
        self.regions.get(index).cloned()
    }

    pub fn copies(&self) -> Copies {
        Copies(std::array::from_fn(|i| self.regions[0].word(i)))
    }

    /// In the order of `walIndexWriteHdr`: the second copy first.
    pub fn set_copies(&mut self, copies: &Copies) {
        let (first, second) = copies.0.split_at(HEADER_WORDS);
        for (i, &word) in second.iter().enumerate() {
            self.regions[0].set_word(HEADER_WORDS + i, word);
        }
        for (i, &word) in first.iter().enumerate() {
            self.regions[0].set_word(i, word);
        }
    }

    pub fn header(&self) -> Header {
        Header::decode(&std::array::from_fn(|i| self.regions[0].word(i)))
    }

    pub fn set_header(&mut self, header: &Header) {
        let words = header.encode();
        self.set_copies(&Copies(std::array::from_fn(|i| words[i % HEADER_WORDS])));
    }

    /// `nBackfill` and `aReadMark[1]`; the other marks are unused, mark 0 is always 0. `nBackfillAttempted` is never above
    /// `nBackfill`: `sqlite3_snapshot_recover` reads the frames in between.
    pub fn set_checkpoint_info(&mut self, backfill: u32, mark: u32) {
        let region = &self.regions[0];
        region.set_word(BACKFILL_WORD, backfill);
        region.set_word(READ_MARK_WORD, 0);
        region.set_word(READ_MARK_WORD + 1, mark);
        for i in 2..READ_MARKS {
            region.set_word(READ_MARK_WORD + i, NOT_USED);
        }
        region.set_word(BACKFILL_ATTEMPTED_WORD, backfill);
    }

    /// `nBackfill`
    pub fn backfilled(&self) -> u32 {
        self.regions[0].word(BACKFILL_WORD)
    }

    /// The page of a frame (`walFramePgno`); 0 if the index has none.
    pub fn page(&self, frame: u32) -> u32 {
        if frame == 0 {
            return 0;
        }
        let (region, idx) = place(frame);
        self.regions.get(region).map_or(0, |r| r.word(page_word(region, idx)))
    }

    /// `walIndexAppend`: frame `frame` has `page`; all frames before it are indexed.
    pub fn append(&mut self, frame: u32, page: u32) -> Result<(), Tangled> {
        let (number, idx) = place(frame);
        if number == self.regions.len() {
            self.regions.push(Region::zeroed());
        }
        let region = self.regions.get(number).ok_or(Tangled)?;
        if idx == 1 {
            for word in first_page_word(number)..REGION_WORDS {
                region.set_word(word, 0);
            }
        } else if region.word(page_word(number, idx)) != 0 {
            clean(region, number, idx - 1);
        }
        let mut slot = page.wrapping_mul(HASH_FACTOR) & (SLOTS - 1);
        if idx > 1 && region.word(page_word(number, idx - 1)) == page && in_slot(region, self.last_slot) == idx - 1 {
            // The frame before it has the same page, as where many commits change one leaf: the slots from the hash to that
            // frame's are taken.
            slot = (self.last_slot + 1) & (SLOTS - 1);
        }
        let mut collisions = idx;
        loop {
            let (word, shift) = slot_word(slot);
            let old = region.word(word);
            if (old >> shift) & 0xffff == 0 {
                region.set_word(page_word(number, idx), page);
                region.set_word(word, old | (idx << shift));
                self.last_slot = slot;
                return Ok(());
            }
            if collisions == 0 {
                return Err(Tangled);
            }
            collisions -= 1;
            slot = (slot + 1) & (SLOTS - 1);
        }
    }
}

impl Index {
    /// The opposite of [`Index::append`]: takes the frames after `from` up to `to` out, the last one first, so that each leaves its
    /// table as it was before it. What is not found is left for the next append.
    pub fn take_out(&self, from: u32, to: u32) {
        for frame in (from + 1..=to).rev() {
            let (number, idx) = place(frame);
            let Some(region) = self.regions.get(number) else { continue };
            let page = region.word(page_word(number, idx));
            let first = page.wrapping_mul(HASH_FACTOR) & (SLOTS - 1);
            for step in 0..=idx {
                let (word, shift) = slot_word((first + step) & (SLOTS - 1));
                let old = region.word(word);
                if (old >> shift) & 0xffff == idx {
                    region.set_word(word, old & !(0xffff << shift));
                    region.set_word(page_word(number, idx), 0);
                    break;
                }
            }
        }
    }
}

/// `walCleanupHash`: removes what a transaction that ended left after the first `limit` frames of the region.
fn clean(region: &Region, number: usize, limit: u32) {
    for slot in 0..SLOTS {
        let (word, shift) = slot_word(slot);
        let old = region.word(word);
        if (old >> shift) & 0xffff > limit {
            region.set_word(word, old & !(0xffff << shift));
        }
    }
    for word in first_page_word(number) + limit as usize..HASH_WORD {
        region.set_word(word, 0);
    }
}
