//! The newest page images that this process published, in memory.
//!
//! Connections that write in turns read what the others have just changed: for each commit some leaf, its parents, page 1.
//! From the log each page costs a look into the frame table, whose lock commits need, and a system call. So the images of small
//! commits are kept here as well, each in the place of its frame number modulo the number of places, until a later one gets that
//! place. A frame number stands for one image as long as the engine exists: what is found is right, and what is not found is read
//! from the log.
//!
//! A process with one connection keeps none: the page cache of that connection has what it wrote. A place is only tried, never waited
//! for.

use crate::sync::Mutex;
use crate::view::{Image, Lane};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// Memory for the images of one database, in bytes.
const BYTES: usize = 512 << 10;
/// A commit that would take more than this share of the places is not kept.
const SHARE: usize = 4;

#[derive(Debug, Default)]
struct Kept {
    /// The number of the frame; 0: none.
    number: u64,
    sequence: u64,
    image: Vec<u8>,
}

/// See the head of the file.
#[derive(Debug)]
pub(super) struct RecentImages {
    page_bytes: usize,
    /// Several connections are open.
    is_wanted: AtomicBool,
    places: OnceLock<Box<[Mutex<Kept>]>>,
}

impl RecentImages {
    pub(super) fn new(page_bytes: u32) -> RecentImages {
        let page_bytes = usize::try_from(page_bytes).unwrap_or(usize::MAX).max(1);
        RecentImages { page_bytes, is_wanted: AtomicBool::new(false), places: OnceLock::new() }
    }

    /// So many connections are open.
    pub(super) fn set_connections(&self, count: usize) {
        self.is_wanted.store(count > 1, Relaxed);
    }

    fn place<'a>(&self, places: &'a [Mutex<Kept>], number: u64) -> Option<&'a Mutex<Kept>> {
        places.get(usize::try_from(number % places.len() as u64).ok()?)
    }

    /// Keeps the images of commit `sequence`, whose frames are numbered from `first_number` on.
    pub(super) fn keep(&self, first_number: u64, sequence: u64, lane: &Lane) {
        if !self.is_wanted.load(Relaxed) {
            return;
        }
        let count = (BYTES / self.page_bytes).max(SHARE);
        if lane.len() > count / SHARE {
            return;
        }
        let places = self.places.get_or_init(|| (0..count).map(|_| Mutex::default()).collect());
        for (number, frame) in (first_number..).zip(lane.frames()) {
            let Image::Memory(image) = frame.image else { continue };
            if let Some(mut place) = self.place(places, number).and_then(Mutex::try_lock) {
                (place.number, place.sequence) = (number, sequence);
                place.image.clear();
                place.image.extend_from_slice(image);
            }
        }
    }

    /// Fills `buffer` from `offset` (bytes) of the image of frame `number` on, and returns the commit of that frame; `None`: it is
    /// not here.
    pub(super) fn read(&self, number: u64, offset: u64, buffer: &mut [u8]) -> Option<u64> {
        let place = self.place(self.places.get()?, number)?.try_lock()?;
        if place.number != number {
            return None;
        }
        let start = usize::try_from(offset).ok()?;
        buffer.copy_from_slice(place.image.get(start..start.checked_add(buffer.len())?)?);
        Some(place.sequence)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::{View, Written};
    use std::io;

    const PAGE_BYTES: u32 = 4096;

    /// A staged transaction, each of its pages full of this value.
    fn staged(pages: u32, value: u8) -> View {
        let mut view = View::new(PAGE_BYTES, 1 << 20);
        view.begin_write(1, 1);
        let mut at = 32;
        for page in 1..=pages {
            let mut header = [0; 24];
            header[..4].copy_from_slice(&page.to_be_bytes());
            header[4..8].copy_from_slice(&(if page == pages { pages } else { 0 }).to_be_bytes());
            let mut no_spill = || Err(io::ErrorKind::Unsupported.into());
            view.write(&header, at, &mut no_spill).unwrap();
            let written = view.write(&[value; PAGE_BYTES as usize], at + 24, &mut no_spill).unwrap();
            assert_eq!(matches!(written, Written::Commit { .. }), page == pages);
            at += 24 + u64::from(PAGE_BYTES);
        }
        view
    }

    #[test]
    fn the_image_of_a_number_is_there_until_a_later_one_takes_its_place() {
        let recent = RecentImages::new(PAGE_BYTES);
        let mut buffer = [0; 100];
        recent.keep(1, 7, staged(2, 1).lane());
        assert_eq!(recent.read(1, 0, &mut buffer), None, "one connection keeps none");
        recent.set_connections(2);
        recent.keep(1, 7, staged(2, 1).lane());
        recent.keep(3, 8, staged(1, 2).lane());
        for (number, sequence, value) in [(1, 7, 1), (2, 7, 1), (3, 8, 2)] {
            assert_eq!(recent.read(number, 50, &mut buffer), Some(sequence));
            assert_eq!(buffer, [value; 100]);
        }
        let places = u64::try_from(BYTES).unwrap() / u64::from(PAGE_BYTES);
        recent.keep(2 + places, 9, staged(1, 3).lane());
        assert_eq!(recent.read(2, 0, &mut buffer), None);
        assert_eq!(recent.read(2 + places, 4000, &mut buffer[..96]), Some(9));
        assert_eq!(recent.read(2 + places, 4000, &mut buffer), None, "beyond the page");
        assert_eq!(recent.read(4, 0, &mut buffer), None);
    }

    #[test]
    fn a_large_commit_is_not_kept() {
        let recent = RecentImages::new(PAGE_BYTES);
        recent.set_connections(2);
        let pages = u32::try_from(BYTES / PAGE_BYTES as usize / SHARE).unwrap();
        recent.keep(1, 1, staged(pages + 1, 1).lane());
        assert!(recent.places.get().is_none());
        recent.keep(1, 1, staged(pages, 1).lane());
        assert_eq!(recent.read(u64::from(pages), 0, &mut [0; 9]), Some(1));
    }
}
