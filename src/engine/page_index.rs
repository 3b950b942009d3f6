//! The frames of each page, in the frame table of a process: made when a connection first writes beside others.
//!
//! By page the number of its newest frame; by frame how far before it the next older one of the same page lies. So a frame costs four
//! bytes, and looking for an older state of a page takes a step for each time that it was written since.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};

/// Page numbers are no attack: one multiplication.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct PageHasher(u64);

impl Hasher for PageHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u32(u32::from(*byte));
        }
    }

    fn write_u32(&mut self, page: u32) {
        self.0 = (self.0 ^ u64::from(page)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 ^= self.0 >> 32;
    }
}

/// See the head of the file.
#[derive(Debug, Default)]
pub(super) struct PageIndex {
    newest: HashMap<u32, u64, BuildHasherDefault<PageHasher>>,
    /// By frame, the first one of the table first: how far before it the one before it of the same page is; 0: not in the table.
    before: VecDeque<u32>,
    /// The number of the first one.
    first: u64,
}

impl PageIndex {
    /// One more frame, the next one.
    pub(super) fn push(&mut self, number: u64, page: u32) {
        if self.before.is_empty() {
            self.first = number;
        }
        let before = self.newest.insert(page, number).filter(|before| *before >= self.first);
        self.before.push_back(before.map_or(0, |before| u32::try_from(number - before).unwrap_or(0)));
    }

    /// The first frame, one of this page, is not in the table any more.
    pub(super) fn drop_first(&mut self, page: u32) {
        if self.newest.get(&page) == Some(&self.first) {
            self.newest.remove(&page);
        }
        self.before.pop_front();
        self.first += 1;
        if self.before.len() < self.before.capacity() / 8 {
            self.before.shrink_to(2 * self.before.len());
            self.newest.shrink_to(2 * self.newest.len());
        }
    }

    /// The newest frame of a page whose number is at most `at_most`.
    pub(super) fn newest(&self, page: u32, at_most: u64) -> Option<u64> {
        let mut number = *self.newest.get(&page)?;
        while number > at_most {
            let index = usize::try_from(number.checked_sub(self.first)?).ok()?;
            let back = *self.before.get(index)?;
            if back == 0 {
                return None;
            }
            number -= u64::from(back);
        }
        (number >= self.first).then_some(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn it_finds_what_a_search_finds(pages in prop::collection::vec(1_u32..8, 1..200), dropped in 0_usize..150, asked in 0_u64..260) {
            let mut index = PageIndex::default();
            let dropped = dropped.min(pages.len());
            let numbers = 41_u64..;
            for (at, (number, page)) in numbers.zip(&pages).enumerate() {
                // Some go while others come.
                if at >= 50 && at - 50 < dropped {
                    index.drop_first(pages[at - 50]);
                }
                index.push(number, *page);
            }
            let gone = dropped.min(pages.len().saturating_sub(50));
            let there: Vec<(u64, u32)> = (41_u64..).zip(pages.iter().copied()).skip(gone).collect();
            for page in 0..9 {
                let expected = there.iter().rev().find(|(number, of)| *of == page && *number <= asked).map(|(number, _)| *number);
                prop_assert_eq!(index.newest(page, asked), expected, "page {}", page);
            }
        }
    }
}
