//! Memory at an address that reads past the page cache accept.

use std::ops::{Deref, DerefMut};

/// What direct reads are aligned to, in bytes: a multiple of every usual logical sector.
pub(super) const DIRECT_ALIGN: usize = 4096;

/// Zeros at first.
#[derive(Debug, Default)]
pub struct AlignedBytes {
    space: Vec<u8>,
    start: usize,
    bytes: usize,
}

impl AlignedBytes {
    /// `None`: there is no memory.
    #[must_use]
    pub fn new(bytes: usize) -> Option<AlignedBytes> {
        let mut space = Vec::new();
        space.try_reserve_exact(bytes.checked_add(DIRECT_ALIGN)?).ok()?;
        space.resize(bytes + DIRECT_ALIGN, 0);
        let start = space.as_ptr().align_offset(DIRECT_ALIGN);
        (start <= DIRECT_ALIGN).then_some(AlignedBytes { space, start, bytes })
    }

    /// With another length in bytes; false: there is not as much room.
    pub fn set_len(&mut self, bytes: usize) -> bool {
        let fits = bytes <= self.space.len().saturating_sub(self.start);
        if fits {
            self.bytes = bytes;
        }
        fits
    }
}

impl Deref for AlignedBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.space[self.start..self.start + self.bytes]
    }
}

impl DerefMut for AlignedBytes {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.space[self.start..self.start + self.bytes]
    }
}
