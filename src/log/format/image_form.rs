//! How an image is stored in a batch: with a mask, and without its longest run of zeros.
//!
//! A page of a b-tree has zeros between its cell pointers and its cells as long as it is not full. A writer may leave one run of
//! them out; the descriptor states which, and every reader puts it back before it looks at the image. The CRC of an image is that
//! of the whole image. The mask is that of what is stored: the bytes before the run and those after it lie next to each other.

use super::mask::apply_mask;
use std::borrow::Cow;
use std::ops::Range;

/// Zeros are left out in words of this number of bytes: so what is stored of an image ends on a multiple of 8, as the image does.
pub const ZEROS_UNIT: usize = 8;
/// The search looks at this number of bytes at once.
const CHUNK_BYTES: usize = 64;

/// A run of zeros that is left out of an image; empty: none is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OmittedZeros {
    /// Where it begins in the image, in words of [`ZEROS_UNIT`] bytes.
    start: u16,
    /// Its length in such words.
    words: u16,
}

impl OmittedZeros {
    /// Nothing is left out.
    pub const NONE: OmittedZeros = OmittedZeros { start: 0, words: 0 };

    /// The run of `words` words from word `start` on of an image of `page_bytes` bytes. `None`: it does not lie in it, or
    /// nothing would be stored, or it is empty and begins somewhere.
    #[must_use]
    pub fn new(start: u16, words: u16, page_bytes: u32) -> Option<OmittedZeros> {
        let page_words = page_bytes / ZEROS_UNIT as u32;
        let lies = u32::from(start) + u32::from(words) <= page_words && u32::from(words) < page_words;
        let possible = if words == 0 { start == 0 } else { lies || crate::drops("b6-zeros") };
        possible.then_some(OmittedZeros { start, words })
    }

    /// The longest run of zeros in `image` among those that hold 64 bytes from a multiple of 64 on. One word of an image of
    /// zeros stays.
    #[must_use]
    pub fn longest_in(image: &[u8]) -> OmittedZeros {
        let (chunks, _) = image.as_chunks::<CHUNK_BYTES>();
        let is_word = |at: usize| image[at..at + ZEROS_UNIT] == [0; ZEROS_UNIT];
        let (mut longest, mut at) = (0..0, 0);
        while let Some(first) = chunks[at..].iter().position(is_zeros) {
            let from = at + first;
            let count = chunks[from..].iter().position(|chunk| !is_zeros(chunk)).unwrap_or(chunks.len() - from);
            at = from + count;
            let (mut start, mut end) = (from * CHUNK_BYTES, at * CHUNK_BYTES);
            while start >= ZEROS_UNIT && is_word(start - ZEROS_UNIT) {
                start -= ZEROS_UNIT;
            }
            while end + ZEROS_UNIT <= image.len() && is_word(end) {
                end += ZEROS_UNIT;
            }
            if end - start > longest.len() {
                longest = start..end;
            }
        }
        let words = longest.len().min(image.len().saturating_sub(ZEROS_UNIT)) / ZEROS_UNIT;
        match (u16::try_from(longest.start / ZEROS_UNIT), u16::try_from(words)) {
            (Ok(start), Ok(words)) if words > 0 => OmittedZeros { start, words },
            _ => OmittedZeros::NONE,
        }
    }

    /// The two numbers that a descriptor has of it, in words of [`ZEROS_UNIT`] bytes: where it begins, and its length.
    #[must_use]
    pub fn words(&self) -> (u16, u16) {
        (self.start, self.words)
    }

    /// Whether nothing is left out.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.words == 0
    }

    /// Its bytes in the image.
    #[must_use]
    pub fn range(&self) -> Range<usize> {
        let start = usize::from(self.start) * ZEROS_UNIT;
        start..start + usize::from(self.words) * ZEROS_UNIT
    }

    /// Where byte `at` of the image lies in what is stored of it; a zero that is left out, where the run was.
    fn stored(&self, at: usize) -> usize {
        let zeros = self.range();
        at.min(zeros.start) + at.saturating_sub(zeros.end)
    }
}

/// How an image is stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ImageForm {
    /// What is stored is masked with this where records could begin ([`apply_mask`]); 0 for none.
    pub mask: u8,
    /// What is not stored.
    pub omitted: OmittedZeros,
}

impl ImageForm {
    /// The bytes of the image itself.
    pub const PLAIN: ImageForm = ImageForm { mask: 0, omitted: OmittedZeros::NONE };

    /// The form, and what is stored, of an image that lies at `position` of a batch without the zeros `omitted`. `mask_of` chooses
    /// the mask for bytes at a position.
    #[must_use]
    pub fn of(
        image: &[u8],
        omitted: OmittedZeros,
        position: u64,
        mask_of: impl Fn(&[u8], u64) -> u8,
    ) -> (ImageForm, Cow<'_, [u8]>) {
        let zeros = omitted.range();
        let mut stored = match omitted.is_empty() {
            true => Cow::Borrowed(image),
            false => Cow::Owned([&image[..zeros.start], &image[zeros.end..]].concat()),
        };
        let mask = match crate::drops("mask-of-stored") {
            true => mask_of(image, position),
            false => mask_of(&stored, position),
        };
        if mask != 0 {
            apply_mask(stored.to_mut(), position, mask);
        }
        (ImageForm { mask, omitted }, stored)
    }

    /// Whether what is stored is the image itself.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        *self == ImageForm::PLAIN
    }

    /// The bytes that are stored of an image of `page_bytes` bytes.
    #[must_use]
    pub fn stored_bytes(&self, page_bytes: usize) -> usize {
        self.omitted.stored(page_bytes)
    }

    /// Which of the stored bytes make these bytes of the image.
    #[must_use]
    pub fn stored(&self, image: Range<usize>) -> Range<usize> {
        self.omitted.stored(image.start)..self.omitted.stored(image.end)
    }

    /// Makes `buffer` the bytes of the image from `offset` on: it begins with the stored ones that make them
    /// ([`ImageForm::stored`]). `position`: where what is stored of the image begins, in the batch or the segment.
    pub fn restore(&self, buffer: &mut [u8], offset: usize, position: u64) {
        let end = offset + buffer.len();
        let stored = self.stored(offset..end);
        let count = stored.len().min(buffer.len());
        apply_mask(&mut buffer[..count], position + stored.start as u64, self.mask);
        if !self.omitted.is_empty() {
            let zeros = self.omitted.range();
            let within = |at: usize| at.clamp(offset, end) - offset;
            let (start, end) = (within(zeros.start), within(zeros.end));
            buffer.copy_within(start..count, end);
            buffer[start..end].fill(0);
        }
    }
}

fn is_zeros(chunk: &[u8; CHUNK_BYTES]) -> bool {
    chunk.as_chunks::<ZEROS_UNIT>().0.iter().fold(0, |all, word| all | u64::from_ne_bytes(*word)) == 0
}

#[cfg(test)]
mod tests {
    use super::super::mask::{mask_of, mask_of_first};
    use super::*;
    use proptest::prelude::*;

    /// Contents in pieces: zeros, one byte, what begins a record; of any length in bytes.
    fn contents(page_bytes: usize) -> impl Strategy<Value = Vec<u8>> {
        let piece = (0..4_u8, any::<u8>(), 1..1500_usize);
        prop::collection::vec(piece, 1..12).prop_map(move |pieces| {
            let mut image = Vec::new();
            for (kind, byte, length) in pieces {
                match kind {
                    0 | 1 => image.resize(image.len() + length, 0),
                    2 => image.resize(image.len() + length % 100, byte),
                    _ => (0..length / 8 % 70).for_each(|_| image.extend(b"pwalbtch")),
                }
            }
            image.resize(page_bytes, 0);
            image
        })
    }

    fn images() -> impl Strategy<Value = Vec<u8>> {
        prop::sample::select(vec![512_usize, 1024, 4096, 8192]).prop_flat_map(contents)
    }

    /// The longest run by looking at each word, of those that hold a chunk.
    fn longest_by_words(image: &[u8]) -> usize {
        let (mut longest, mut start) = (0, 0);
        for (at, word) in image.chunks(8).enumerate() {
            if word != [0; 8] {
                start = at + 1;
            } else if start.next_multiple_of(8) + 8 <= at + 1 {
                longest = longest.max(at + 1 - start);
            }
        }
        longest.min(image.len() / 8 - 1)
    }

    proptest! {
        #[test]
        fn what_is_left_out_comes_back(
            image in images(),
            eighths in 0..200_u64,
            (from, to) in (any::<prop::sample::Index>(), any::<prop::sample::Index>()),
            is_first in any::<bool>(),
        ) {
            let (position, mask_of) = (8 * eighths, if is_first { mask_of_first } else { mask_of });
            let omitted = OmittedZeros::longest_in(&image);
            prop_assert_eq!(omitted.range().len(), 8 * longest_by_words(&image));
            let (start, words) = omitted.words();
            prop_assert_eq!(OmittedZeros::new(start, words, image.len() as u32), Some(omitted));
            let (form, stored) = ImageForm::of(&image, omitted, position, mask_of);
            prop_assert_eq!(form.stored_bytes(image.len()), stored.len());
            prop_assert_eq!(form.is_plain(), *stored == image[..]);
            // No place in it reads as a record.
            let places = (0..stored.len()).filter(|at| (position + *at as u64).is_multiple_of(512));
            prop_assert!(places.into_iter().all(|at| !stored[at..].starts_with(b"pwal")));
            // All of it, and a part.
            let (a, b) = (from.index(image.len() + 1), to.index(image.len() + 1));
            for range in [0..image.len(), a.min(b)..a.max(b)] {
                let of = form.stored(range.clone());
                let mut buffer = vec![0xee; range.len()];
                buffer[..of.len()].copy_from_slice(&stored[of]);
                form.restore(&mut buffer, range.start, position);
                prop_assert!(buffer == image[range.clone()], "{:?}", range);
            }
        }

        #[test]
        fn any_run_of_zeros_may_be_left_out(
            (start, words) in (0..512_u16, 0..520_u16),
            byte in 1..=255_u8,
        ) {
            let omitted = OmittedZeros::new(start, words, 4096);
            let is_possible = if words == 0 { start == 0 } else { words < 512 && start + words <= 512 };
            prop_assert_eq!(omitted.is_some(), is_possible);
            let Some(omitted) = omitted else { return Ok(()) };
            let mut image = vec![byte; 4096];
            image[omitted.range()].fill(0);
            let (form, stored) = ImageForm::of(&image, omitted, 368, mask_of);
            let mut buffer = vec![0xee; 4096];
            buffer[..stored.len()].copy_from_slice(&stored);
            form.restore(&mut buffer, 0, 368);
            prop_assert!(buffer == image);
        }
    }

    /// Bytes that lie where a record could begin only once zeros before them are left out.
    #[test]
    fn the_mask_is_that_of_what_is_stored() {
        let mut image = vec![0xaa; 4096];
        image[64..320].fill(0);
        // Places in a batch with one frame: where 144, 656 and so on of what is stored lie.
        image[656 + 256..][..8].copy_from_slice(b"pwalbtch");
        assert_eq!(mask_of(&image, 368), 0);
        let (form, stored) = ImageForm::of(&image, OmittedZeros::longest_in(&image), 368, mask_of);
        assert_eq!((form.omitted.range(), form.mask), (64..320, 1));
        assert_eq!(&stored[656..664], b"qwalbtch");
        // And the other way round: nothing lies there any more.
        image[656..664].copy_from_slice(b"pwalbtch");
        image[912..920].fill(0xaa);
        assert_eq!(mask_of(&image, 368), 1);
        let (form, stored) = ImageForm::of(&image, OmittedZeros::longest_in(&image), 368, mask_of);
        assert_eq!((form.mask, stored.len()), (0, 3840));
    }

    #[test]
    fn one_word_of_an_image_of_zeros_is_stored() {
        for page_bytes in [512, 65536] {
            let image = vec![0; page_bytes];
            let omitted = OmittedZeros::longest_in(&image);
            let (form, stored) = ImageForm::of(&image, omitted, 368, mask_of_first);
            assert_eq!((omitted.words(), stored.len()), ((0, (page_bytes / 8 - 1) as u16), 8));
            assert_eq!(form.stored(0..page_bytes), 0..8);
        }
    }
}
