//! Images that a probe verifies while it passes them (rule B8), so that a walk need not read them again.
//!
//! Only what is valid counts. An image that is not, or lies in a spill file or in a piece that the medium did not give at once, ends
//! the attempt for its batch: the walk reads that batch and says what is wrong with it. At most one page is kept from piece to
//! piece, and the batches are those that do not overlap, so that every byte is verified once, whatever the heads claim.

use super::follow::ImageRef;
use super::format::{Batch, ImagePlace, LogId};
use std::collections::VecDeque;
use std::ops::Range;

/// The batches of one segment whose images are still to come.
#[derive(Debug)]
pub(super) struct Passing {
    log_id: LogId,
    page_bytes: usize,
    open: VecDeque<Open>,
    /// Up to here the segment belongs to the batches that have been entered.
    taken: u64,
    /// What lay before the next piece, at most a page, and its end.
    tail: Vec<u8>,
    end: u64,
    image: Vec<u8>,
}

/// A batch of which the first images are valid.
#[derive(Debug)]
struct Open {
    /// The index of its candidate.
    candidate: usize,
    batch: Batch,
    verified: usize,
}

/// What became of a batch.
enum Passed {
    Whole,
    /// The next image does not end in this piece.
    Later,
    /// Not to be known from here.
    Unknown,
}

impl Passing {
    pub(super) fn new(log_id: LogId, page_bytes: u32) -> Passing {
        let image = vec![0; page_bytes as usize];
        let (open, tail) = (VecDeque::new(), Vec::new());
        Passing { log_id, page_bytes: page_bytes as usize, open, taken: 0, tail, end: 0, image }
    }

    /// A batch whose head is valid, in the piece that is passed next.
    pub(super) fn enter(&mut self, candidate: usize, batch: Batch) {
        let bytes = batch.header.offset..batch.header.offset.saturating_add(batch.header.bytes);
        if bytes.start >= self.taken {
            self.taken = bytes.end;
            self.open.push_back(Open { candidate, batch, verified: 0 });
        }
    }

    /// The bytes of the segment from `start` on. `valid` gets each valid image that ends in them, without its mask, and `whole`
    /// each batch whose last image does, if all are valid.
    pub(super) fn pass(
        &mut self,
        start: u64,
        piece: &[u8],
        mut valid: impl FnMut(ImageRef, &[u8]),
        mut whole: impl FnMut(usize, Batch),
    ) {
        if start != self.end {
            self.tail.clear();
        }
        while let Some(mut open) = self.open.pop_front() {
            match self.verify(&mut open, start, piece, &mut valid) {
                Passed::Whole => whole(open.candidate, open.batch),
                Passed::Unknown => {}
                Passed::Later => {
                    // The others begin after its end.
                    self.open.push_front(open);
                    break;
                }
            }
        }
        let kept = piece.len().min(self.page_bytes);
        self.tail.extend_from_slice(&piece[piece.len() - kept..]);
        let too_many = self.tail.len().saturating_sub(self.page_bytes);
        self.tail.drain(..too_many);
        self.end = start + piece.len() as u64;
    }

    fn verify(&mut self, open: &mut Open, start: u64, piece: &[u8], valid: &mut impl FnMut(ImageRef, &[u8])) -> Passed {
        while let Some(descriptor) = open.batch.descriptors.get(open.verified) {
            let frame = ImageRef::of(&open.batch, descriptor);
            let ImagePlace::Batch(at) = frame.place else { return Passed::Unknown };
            let bytes = frame.form.stored_bytes(self.page_bytes);
            let Some(end) = at.checked_add(bytes as u64) else { return Passed::Unknown };
            if end > start + piece.len() as u64 {
                return Passed::Later;
            }
            // Most lie in one piece, and are stored as they are.
            let stored = at.checked_sub(start).map(|within| &piece[within as usize..(end - start) as usize]);
            match stored.filter(|_| frame.form.is_plain()) {
                Some(image) if frame.is_of(self.log_id, image) => valid(frame, image),
                Some(_) => return Passed::Unknown,
                None if self.copy(at..end, start, piece) && frame.is_whole(self.log_id, at, &mut self.image) => {
                    valid(frame, &self.image);
                }
                None => return Passed::Unknown,
            }
            open.verified += 1;
        }
        Passed::Whole
    }

    /// Copies these bytes of the segment, at most a page, which end in the piece, to `image`; false: the first of them are not
    /// there any more.
    fn copy(&mut self, bytes: Range<u64>, start: u64, piece: &[u8]) -> bool {
        let (count, before) = ((bytes.end - bytes.start) as usize, start.saturating_sub(bytes.start));
        // What ends before the piece was passed with an earlier one.
        if before > self.tail.len() as u64 || bytes.end < start {
            return false;
        }
        let (before, offset) = (before as usize, bytes.start.saturating_sub(start) as usize);
        let (first, rest) = self.image[..count].split_at_mut(before);
        first.copy_from_slice(&self.tail[self.tail.len() - before..]);
        rest.copy_from_slice(&piece[offset..offset + rest.len()]);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::format::{BatchHeader, Descriptor, ImageForm, OmittedZeros, image_crc};

    const PAGE: u64 = 1024;

    /// Bytes of a segment, and a batch of three images in them, the first 368 bytes after its beginning.
    fn sample(offset: u64) -> (Vec<u8>, Batch) {
        let bytes: Vec<u8> = (0..40_000_u32).map(|at| (at % 251) as u8).collect();
        let descriptors = (0..3).map(|index| {
            let position = 368 + u64::from(index) * PAGE;
            let at = (offset + position) as usize;
            let crc = image_crc(7, index + 1, 5, &bytes[at..at + PAGE as usize]);
            Descriptor { page: index + 1, place: ImagePlace::Batch(position), form: ImageForm::PLAIN, crc }
        });
        let descriptors: Vec<Descriptor> = descriptors.collect();
        let header = BatchHeader {
            log_id: 7,
            sequence: 5,
            ordinal: 1,
            offset,
            bytes: 4096,
            frames: 3,
            database_pages: 3,
            lane: 0,
            wants_durable: true,
            time_us: 1,
            chain: 1,
            certificate: None,
        };
        (bytes, Batch { header, descriptors, chain_after: 2 })
    }

    /// The same where the middle one of the images lacks 40 words of zeros, 16 before its end.
    fn sample_without_zeros(offset: u64) -> (Vec<u8>, Batch) {
        let (bytes, mut batch) = sample(offset);
        let omitted = OmittedZeros::new(72, 40, PAGE as u32).unwrap();
        let at = (offset + 368 + PAGE) as usize;
        let mut image = bytes[at..at + PAGE as usize - 320].to_vec();
        image.splice(576..576, [0; 320]);
        batch.descriptors[1].form.omitted = omitted;
        batch.descriptors[1].crc = image_crc(7, 2, 5, &image);
        let last = (at + PAGE as usize - 320) as u64 - offset;
        batch.descriptors[2].place = ImagePlace::Batch(last);
        batch.descriptors[2].crc = image_crc(7, 3, 5, &bytes[(offset + last) as usize..][..PAGE as usize]);
        (bytes, batch)
    }

    /// The candidates that are whole if the bytes are passed in pieces of this size, without the `left_out` one.
    fn whole(bytes: &[u8], batches: Vec<Batch>, piece_bytes: usize, left_out: Option<usize>) -> Vec<usize> {
        let mut passing = Passing::new(7, PAGE as u32);
        let mut whole = Vec::new();
        let mut batches = batches.into_iter().enumerate().peekable();
        for (index, piece) in bytes.chunks(piece_bytes).enumerate() {
            let (start, end) = (index * piece_bytes, index * piece_bytes + piece.len());
            while let Some((candidate, batch)) = batches.next_if(|(_, batch)| batch.header.offset < end as u64) {
                passing.enter(candidate, batch);
            }
            if Some(index) != left_out {
                passing.pass(start as u64, piece, |_, _| {}, |candidate, _| whole.push(candidate));
            }
        }
        whole
    }

    #[test]
    fn images_are_verified_wherever_the_pieces_end() {
        let (bytes, one) = sample(4096);
        let (_, other) = sample(8192);
        for piece_bytes in [512, 1024, 1536, 4096, 5000, 8192, 12_288, 65_536] {
            assert_eq!(whole(&bytes, vec![one.clone(), other.clone()], piece_bytes, None), [0, 1], "{piece_bytes}");
        }
    }

    #[test]
    fn images_without_their_zeros_are_verified_wherever_the_pieces_end() {
        let (mut bytes, one) = sample_without_zeros(4096);
        let (_, other) = sample(8192);
        for piece_bytes in (8..3000).step_by(8).chain([4096, 8192, 65_536]) {
            assert_eq!(whole(&bytes, vec![one.clone(), other.clone()], piece_bytes, None), [0, 1], "{piece_bytes}");
        }
        // The last byte before the zeros, and the first one after them.
        for at in [575, 576] {
            bytes[4096 + 368 + PAGE as usize + at] ^= 1;
            assert_eq!(whole(&bytes, vec![one.clone(), other.clone()], 1024, None), [1]);
            bytes[4096 + 368 + PAGE as usize + at] ^= 1;
        }
        let mut elsewhere = one.clone();
        elsewhere.descriptors[1].form.omitted = OmittedZeros::new(71, 40, PAGE as u32).unwrap();
        assert_eq!(whole(&bytes, vec![elsewhere, other], 1024, None), [1]);
    }

    #[test]
    fn what_is_not_seen_whole_is_not_known() {
        let (mut bytes, one) = sample(4096);
        let (_, other) = sample(8192);
        let both = || vec![one.clone(), other.clone()];
        // The last byte of the last image, and the one after it.
        let last = 4096 + 368 + 3 * PAGE as usize - 1;
        bytes[last + 1] ^= 1;
        assert_eq!(whole(&bytes, both(), 4096, None), [0, 1]);
        bytes[last] ^= 1;
        assert_eq!(whole(&bytes, both(), 4096, None), [1]);
        bytes[last] ^= 1;
        assert_eq!(whole(&bytes, both(), 4096, Some(1)), [1]);
        assert_eq!(whole(&bytes, both(), 512, Some(9)), [1]);
        let spilled = Descriptor { place: ImagePlace::Spill { file: 0, offset: 0 }, ..one.descriptors[1] };
        let mut with_spill = one.clone();
        with_spill.descriptors[1] = spilled;
        assert_eq!(whole(&bytes, vec![with_spill, other.clone()], 4096, None), [1]);
        // Of two that overlap the first counts.
        let (_, inside) = sample(4608);
        assert_eq!(whole(&bytes, vec![one.clone(), inside, other.clone()], 4096, None), [0, 2]);
    }
}
