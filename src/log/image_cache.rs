//! ImageCache that a probe has read and verified, kept in memory for the replay: so a log that fits is read once.
//!
//! Of each page the image of its newest commit so far is kept, as long as there is room. Which image is the newest of the
//! chain only the walk knows: the replay takes a kept one only if it is the very frame that the walk names.

use super::follow::ImageRef;
use super::format::LogId;
use std::collections::HashMap;

/// ImageCache are allocated in pieces of this size in bytes: a multiple of every page size.
const PIECE_BYTES: usize = 1 << 20;

/// Verified images, as they are in the database file.
#[derive(Debug, Default)]
pub(crate) struct ImageCache {
    /// Bytes of images that there may be.
    bytes_max: usize,
    /// That of the first image.
    page_bytes: usize,
    pieces: Vec<Vec<u8>>,
    /// Places that have been used.
    places: usize,
    by_page: HashMap<u32, Image>,
    /// Places that are free again.
    free: Vec<usize>,
    /// Commits up to here have been thrown out to make room.
    thrown_out: u64,
}

#[derive(Clone, Copy, Debug)]
struct Image {
    segment: usize,
    frame: ImageRef,
    /// Which of the places has it.
    at: usize,
}

impl ImageCache {
    /// Room for `bytes_max` bytes of images.
    pub(super) fn new(bytes_max: usize) -> ImageCache {
        ImageCache { bytes_max, ..ImageCache::default() }
    }

    /// Keeps the image of a frame in this segment file, if it may be the newest of its page and there is room. `backfilled`: images
    /// of commits up to here are not needed.
    pub(super) fn keep(&mut self, segment: usize, frame: ImageRef, image: &[u8], backfilled: u64) {
        if self.bytes_max == 0 || frame.sequence <= backfilled || image.is_empty() {
            return;
        }
        if self.page_bytes == 0 {
            self.page_bytes = image.len();
        }
        if image.len() != self.page_bytes {
            return;
        }
        let at = match self.by_page.get(&frame.page) {
            // Of several in one commit the last counts.
            Some(there) if there.frame.sequence > frame.sequence => return,
            Some(there) => Some(there.at),
            None => self.room(backfilled),
        };
        let Some(at) = at else { return };
        self.put(at, image);
        self.by_page.insert(frame.page, Image { segment, frame, at });
    }

    /// Whether the image of this frame is kept.
    pub(super) fn has(&self, segment: usize, frame: &ImageRef) -> bool {
        self.by_page.get(&frame.page).is_some_and(|kept| kept.segment == segment && kept.frame == *frame)
    }

    /// The image of this frame, if it is kept, and still what was verified.
    pub(super) fn get(&self, log_id: LogId, segment: usize, frame: &ImageRef) -> Option<&[u8]> {
        let kept = self.by_page.get(&frame.page).filter(|kept| kept.segment == segment && kept.frame == *frame)?;
        let start = kept.at % self.in_piece() * self.page_bytes;
        let image = self.pieces.get(kept.at / self.in_piece())?.get(start..start + self.page_bytes)?;
        frame.is_of(log_id, image).then_some(image)
    }

    fn in_piece(&self) -> usize {
        PIECE_BYTES / self.page_bytes
    }

    /// Into a place, or a new one after all others.
    fn put(&mut self, at: usize, image: &[u8]) {
        let (piece, start) = (at / self.in_piece(), at % self.in_piece() * self.page_bytes);
        let piece = &mut self.pieces[piece];
        match piece.get_mut(start..start + image.len()) {
            Some(place) => place.copy_from_slice(image),
            None => piece.extend_from_slice(image),
        }
    }

    /// A place that no image has; `None`: there is none, or no memory.
    fn room(&mut self, backfilled: u64) -> Option<usize> {
        let max = self.bytes_max / self.page_bytes;
        if self.free.is_empty() && self.places >= max && self.thrown_out < backfilled {
            self.thrown_out = backfilled;
            let free = &mut self.free;
            self.by_page.retain(|_, kept| {
                let stays = kept.frame.sequence > backfilled;
                if !stays {
                    free.push(kept.at);
                }
                stays
            });
        }
        if let Some(at) = self.free.pop() {
            return Some(at);
        }
        if self.places >= max {
            return None;
        }
        if self.places / self.in_piece() == self.pieces.len() {
            let mut piece = Vec::new();
            if piece.try_reserve_exact(PIECE_BYTES).is_err() {
                self.bytes_max = self.places * self.page_bytes;
                return None;
            }
            self.pieces.push(piece);
        }
        self.places += 1;
        Some(self.places - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::format::{ImageForm, ImagePlace, image_crc};

    const PAGE: u32 = 512;
    const LOG: LogId = 7;

    fn frame(page: u32, sequence: u64, image: &[u8]) -> ImageRef {
        let place = ImagePlace::Batch(sequence * 8192 + u64::from(page) * 512);
        ImageRef { place, page, sequence, form: ImageForm::PLAIN, crc: image_crc(LOG, page, sequence, image) }
    }

    fn image(byte: u8) -> Vec<u8> {
        vec![byte; PAGE as usize]
    }

    #[test]
    fn the_newest_image_of_a_page_is_kept_and_given_for_its_frame_alone() {
        let mut images = ImageCache::new(1 << 20);
        let (old, new) = (frame(3, 5, &image(5)), frame(3, 6, &image(6)));
        images.keep(0, old, &image(5), 0);
        images.keep(1, new, &image(6), 0);
        images.keep(0, old, &image(5), 0);
        assert_eq!(images.get(LOG, 1, &new), Some(&image(6)[..]));
        assert_eq!(images.get(LOG, 0, &old), None);
        assert_eq!(images.get(LOG, 0, &new), None, "of another segment");
        assert_eq!(images.get(LOG, 1, &ImageRef { crc: 1, ..new }), None);
        assert_eq!(images.get(LOG, 1, &ImageRef { place: ImagePlace::Batch(0), ..new }), None);
        // Of one commit the last image counts.
        let last = ImageRef { place: ImagePlace::Batch(9), ..frame(3, 6, &image(7)) };
        images.keep(1, last, &image(7), 0);
        assert_eq!(images.get(LOG, 1, &last), Some(&image(7)[..]));
    }

    #[test]
    fn what_has_changed_in_memory_is_not_given() {
        let mut images = ImageCache::new(1 << 20);
        let kept = frame(3, 5, &image(5));
        images.keep(0, kept, &image(5), 0);
        images.pieces[0][100] ^= 1;
        assert_eq!(images.get(LOG, 0, &kept), None);
    }

    #[test]
    fn room_is_bounded_and_what_is_backfilled_makes_room() {
        let mut images = ImageCache::new(4 * PAGE as usize);
        for page in 1..=5 {
            images.keep(0, frame(page, u64::from(page), &image(1)), &image(1), 0);
        }
        let there =
            |images: &ImageCache, page: u32| images.get(LOG, 0, &frame(page, u64::from(page), &image(1))).is_some();
        assert_eq!((1..=5).filter(|page| there(&images, *page)).collect::<Vec<_>>(), [1, 2, 3, 4]);
        images.keep(0, frame(2, 2, &image(1)), &image(1), 2);
        images.keep(0, frame(6, 6, &image(1)), &image(1), 2);
        images.keep(0, frame(7, 7, &image(1)), &image(1), 2);
        images.keep(0, frame(8, 8, &image(1)), &image(1), 2);
        assert_eq!((1..=8).filter(|page| there(&images, *page)).collect::<Vec<_>>(), [3, 4, 6, 7]);
        let mut none = ImageCache::new(0);
        none.keep(0, frame(1, 1, &image(1)), &image(1), 0);
        assert!(!there(&none, 1));
    }
}
