//! A trunk page of the freelist: the next trunk, and the free pages that it lists.

use super::{be32, is_usable, put};

const NEXT: usize = 0;
const COUNT: usize = 4;
const LEAVES: usize = 8;
/// SQLite does not use the last six places of a trunk page (`freePage2`): versions before 3.6.0 took them for damage.
const UNUSED: usize = 6;

/// A trunk page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trunk {
    /// The next one; 0: this is the last.
    pub next: u32,
    /// The free pages that it lists, in the order of the page.
    pub leaves: Vec<u32>,
}

impl Trunk {
    /// The number of leaves that SQLite reads from a trunk page (`allocateBtreePage`).
    fn leaves_max(usable: usize) -> usize {
        usable / 4 - 2
    }

    /// `None`: not a trunk page with `usable` bytes for SQLite. (Whether its leaves are pages of the database is not checked.)
    #[must_use]
    pub fn parse(image: &[u8], usable: usize) -> Option<Trunk> {
        if !is_usable(image.len(), usable) {
            return None;
        }
        let count = usize::try_from(be32(image, COUNT)?).ok()?;
        if count > Trunk::leaves_max(usable) {
            return None;
        }
        let leaves = image.get(LEAVES..LEAVES + 4 * count)?.chunks_exact(4).filter_map(|leaf| be32(leaf, 0)).collect();
        Some(Trunk { next: be32(image, NEXT)?, leaves })
    }

    /// The number of leaves that SQLite writes into a trunk page with `usable` bytes.
    #[must_use]
    pub fn leaves_written(usable: usize) -> usize {
        Trunk::leaves_max(usable).saturating_sub(UNUSED)
    }

    /// The image of this page, of `page_bytes` of which SQLite uses `usable`; `None`: it lists more leaves than SQLite would.
    #[must_use]
    pub fn encode(&self, page_bytes: usize, usable: usize) -> Option<Vec<u8>> {
        if !is_usable(page_bytes, usable) || self.leaves.len() > Trunk::leaves_written(usable) {
            return None;
        }
        let mut image = vec![0; page_bytes];
        let count = u32::try_from(self.leaves.len()).ok()?;
        let words = [self.next, count].into_iter().chain(self.leaves.iter().copied());
        for (room, word) in image.chunks_exact_mut(4).zip(words) {
            if !put(room, 0, &word.to_be_bytes()) {
                return None;
            }
        }
        Some(image)
    }
}
