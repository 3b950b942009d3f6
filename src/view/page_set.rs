//! A set of page numbers: the pages that a connection has read, or that its transaction has written.

use std::collections::BTreeMap;

/// Pages in one block of the set: 512 bytes.
const BLOCK_PAGES: u32 = 4096;
const BLOCK_WORDS: usize = BLOCK_PAGES as usize / 64;
/// Above this number of pages the set holds every page: what it costs is bounded, and a connection that has read so much has read nearly all.
const PAGES_MAX: u32 = 1 << 20;

/// A set of page numbers, sparse: a block of 512 bytes for each 4096 pages of which one is in it.
#[derive(Debug, Default)]
pub struct PageSet {
    blocks: BTreeMap<u32, Box<[u64; BLOCK_WORDS]>>,
    pages: u32,
    is_everything: bool,
}

fn place(page: u32) -> (u32, usize, u64) {
    let at = page % BLOCK_PAGES;
    (page / BLOCK_PAGES, (at / 64) as usize, 1 << (at % 64))
}

impl PageSet {
    /// Adds a page.
    pub fn insert(&mut self, page: u32) {
        if self.is_everything {
            return;
        }
        let (block, word, bit) = place(page);
        let words = self.blocks.entry(block).or_insert_with(|| Box::new([0; BLOCK_WORDS]));
        self.pages += u32::from(words[word] & bit == 0);
        words[word] |= bit;
        if self.pages > PAGES_MAX {
            self.is_everything = true;
            self.blocks = BTreeMap::new();
        }
    }

    /// Whether the page is in it.
    #[must_use]
    pub fn contains(&self, page: u32) -> bool {
        let (block, word, bit) = place(page);
        self.is_everything || self.blocks.get(&block).is_some_and(|words| words[word] & bit != 0)
    }

    /// Empties it.
    pub fn clear(&mut self) {
        *self = PageSet::default();
    }
}

impl Extend<u32> for PageSet {
    fn extend<T: IntoIterator<Item = u32>>(&mut self, pages: T) {
        for page in pages {
            self.insert(page);
        }
    }
}

impl FromIterator<u32> for PageSet {
    fn from_iter<T: IntoIterator<Item = u32>>(pages: T) -> PageSet {
        let mut set = PageSet::default();
        set.extend(pages);
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn it_holds_what_was_added(pages in prop::collection::vec(prop_oneof![0_u32..9000, any::<u32>()], 0..300), asked in any::<u32>()) {
            let mut set = PageSet::default();
            set.extend(pages.iter().copied());
            let model: BTreeSet<u32> = pages.iter().copied().collect();
            for page in pages.iter().flat_map(|page| [page.wrapping_sub(1), *page, page.wrapping_add(1)]).chain([asked]) {
                prop_assert_eq!(set.contains(page), model.contains(&page), "{}", page);
            }
            set.clear();
            prop_assert!(!pages.iter().any(|page| set.contains(*page)));
        }
    }

    #[test]
    fn above_a_million_pages_it_holds_every_page_and_takes_no_memory() {
        let mut set = PageSet::default();
        set.extend(1..=PAGES_MAX);
        assert!(set.contains(PAGES_MAX) && !set.contains(PAGES_MAX + 1));
        // Twice the same is one.
        set.insert(7);
        assert!(!set.contains(PAGES_MAX + 1));
        set.insert(u32::MAX);
        assert!(set.contains(PAGES_MAX + 1) && set.contains(0) && set.blocks.is_empty());
        set.insert(9);
        assert!(set.blocks.is_empty());
        set.clear();
        assert!(!set.contains(9));
    }
}
