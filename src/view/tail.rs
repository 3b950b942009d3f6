//! The frames at the end of a view that the next refresh takes away: images that only this connection sees, and its own commits
//! since, where SQLite has something else in its page cache than what was published.
//!
//! A transaction that allocates pages beside others is shown a freelist of its own: page 1 and trunks, as frames after those of its
//! snapshot. And of what it stages page 1 and the trunks are published otherwise than SQLite wrote them, so that SQLite's own
//! images stay, for as long as its page cache may: until the header changes.

use super::header::Header;
use super::lane::Lane;
use super::{View, ViewError, Writing};
use std::collections::BTreeMap;
use std::io;

/// The number of a frame that is in no log.
pub(super) const PRIVATE: u64 = u64::MAX;

/// Where the tail begins.
#[derive(Clone, Copy, Debug)]
struct Begin {
    /// The frames before it,
    frames: usize,
    /// and the commit that they show.
    sequence: u64,
}

/// What SQLite has staged where something else is published.
#[derive(Debug)]
struct Original {
    /// In the lane.
    index: usize,
    page: u32,
    image: Vec<u8>,
}

/// See the head of the file.
#[derive(Debug, Default)]
pub(super) struct Tail {
    begin: Option<Begin>,
    /// The newest commit of this connection in it; 0: there is none.
    pub(super) shown: u64,
    /// By page: the frame and its image.
    private: BTreeMap<u32, (u32, Vec<u8>)>,
    /// The frames that SQLite has staged, where the lane holds others.
    composed: Option<usize>,
    originals: Vec<Original>,
    /// The next refresh takes the tail away.
    is_stale: bool,
}

impl Tail {
    pub(super) fn is_there(&self) -> bool {
        self.begin.is_some()
    }

    /// A view that shows commit `sequence`, and commits of its own beyond it without those in between.
    pub(super) fn is_apart(&self, sequence: Option<u64>) -> bool {
        self.shown > sequence.unwrap_or(0)
    }

    pub(super) fn is_stale(&self) -> bool {
        self.is_stale
    }

    /// The frames before it; all, where there is none.
    pub(super) fn before(&self, frames: usize) -> usize {
        self.begin.map_or(frames, |begin| begin.frames)
    }

    fn begin(&mut self, frames: usize, sequence: Option<u64>) {
        self.begin.get_or_insert(Begin { frames, sequence: sequence.unwrap_or(0) });
    }

    /// The image of a frame of the snapshot that is in no log, or that SQLite has staged otherwise.
    pub(super) fn image(&self, frame: u32, page: u32) -> Option<&[u8]> {
        let (at, image) = self.private.get(&page)?;
        (*at == frame).then_some(image)
    }

    /// The image of a frame of the lane as SQLite has staged it, where the lane holds another.
    pub(super) fn original(&self, index: usize) -> Option<&[u8]> {
        self.originals.iter().find(|original| original.index == index).map(|original| original.image.as_slice())
    }

    /// The transaction is rolled back.
    pub(super) fn forget_originals(&mut self) {
        self.originals.clear();
        self.composed = None;
    }
}

/// Shows these images after the snapshot, and a database of this size (pages); the header changes.
pub fn show_private(view: &mut View, images: Vec<(u32, Vec<u8>)>, database_pages: u32) {
    view.tail.begin(view.numbers.len(), view.sequence);
    for (page, image) in images {
        if view.push(PRIVATE, page) {
            view.tail.private.insert(page, (view.snapshot_frames(), image));
        }
    }
    change_header(view, database_pages);
}

/// Whether SQLite is shown images that are in no log.
#[must_use]
pub fn is_private(view: &View) -> bool {
    !view.tail.private.is_empty()
}

/// The page whose image lies at this offset of the virtual WAL, in bytes, if only this connection sees that image.
#[must_use]
pub fn private_page_at(view: &View, offset: u64) -> Option<u32> {
    let frame = u32::try_from(offset.checked_sub(32)? / (u64::from(view.page_bytes) + 24) + 1).ok()?;
    let page = view.index.page(frame);
    view.tail.image(frame, page).map(|_| page)
}

/// The next refresh changes the header where SQLite is shown anything but what is in the log.
pub fn end_private(view: &mut View) {
    view.tail.is_stale = view.tail.is_there();
}

/// Takes the tail away, but for what stays of the header.
pub(super) fn drop_tail(view: &mut View) {
    let tail = std::mem::take(&mut view.tail);
    if let Some(begin) = tail.begin {
        let frames = view.snapshot_frames();
        view.numbers.truncate(begin.frames);
        view.index.take_out(view.snapshot_frames(), frames);
        view.sequence = Some(begin.sequence);
    }
}

/// The frames of the lane that SQLite knows became the log's frames `first_number` and following.
pub(super) fn append_published(view: &mut View, first_number: u64, sequence: u64) {
    let frames = view.numbers.len();
    let is_next = view.sequence.is_none_or(|snapshot| snapshot + 1 == sequence);
    let View { tail, lane, .. } = view;
    let staged = tail.composed.take().unwrap_or(lane.len());
    let originals = std::mem::take(&mut tail.originals);
    if !is_next || !originals.is_empty() {
        tail.begin(frames, view.sequence);
    }
    if tail.is_there() {
        tail.shown = sequence;
        for (index, page) in lane.pages().take(staged).enumerate() {
            if originals.iter().all(|original| original.index != index) {
                tail.private.remove(&page);
            }
        }
        // Of a page that is there twice the last one comes first (`Composition::replace`), and is what SQLite reads.
        for Original { index, page, image } in
            originals.into_iter().rev().filter(|_| !crate::drops("growth-own-images"))
        {
            let frame = u32::try_from(frames + index + 1).unwrap_or(u32::MAX);
            tail.private.insert(page, (frame, image));
        }
    }
    view.numbers.extend((first_number..).take(staged));
    if is_next {
        view.sequence = Some(sequence);
    }
}

/// All frames are those of the snapshot and of the tail: SQLite empties its page cache, and sees a database of this size (pages).
pub(super) fn change_header(view: &mut View, database_pages: u32) {
    view.index.set_header(&Header {
        change: view.index.header().change.wrapping_add(1),
        page_bytes: view.page_bytes,
        max_frame: view.snapshot_frames(),
        database_pages,
    });
    view.reset_checkpoint_info();
    // `SQLITE_ENABLE_SETLK_TIMEOUT` builds take WRITE before their snapshot.
    if let Some(writing) = &mut view.writing {
        writing.saved = view.index.copies();
    }
}

/// What is published of a transaction in the place of what SQLite has staged: see the head of the file.
pub struct Composition<'a> {
    lane: &'a mut Lane,
    tail: &'a mut Tail,
    log_id: u64,
    sequence: u64,
}

impl Composition<'_> {
    /// Of the transaction that writes; `None`: there is none.
    pub fn of(view: &mut View) -> Option<Composition<'_>> {
        let View { lane, tail, writing: Some(Writing { log_id, sequence, .. }), .. } = view else { return None };
        Some(Composition { lane, tail, log_id: *log_id, sequence: *sequence })
    }

    /// What SQLite has staged of a page, or has been shown of it alone.
    ///
    /// # Errors
    /// The spill file cannot be read.
    pub fn image(&self, page: u32) -> io::Result<Option<Vec<u8>>> {
        let Some(index) = self.lane.last_of(page) else {
            return Ok(self.tail.private.get(&page).map(|(_, image)| image.clone()));
        };
        let mut image = vec![0; self.lane.page_bytes()];
        self.lane.read_image(index, 0, &mut image)?;
        Ok(Some(image))
    }

    /// Publishes `now` in the place of the page `staged`, which SQLite has staged.
    ///
    /// # Errors
    /// The spill file failed.
    pub fn replace(&mut self, staged: u32, now: (u32, &[u8])) -> Result<(), ViewError> {
        while let Some(index) = self.lane.last_of(staged).filter(|index| self.tail.original(*index).is_none()) {
            let mut image = vec![0; self.lane.page_bytes()];
            self.lane.read_image(index, 0, &mut image).map_err(ViewError::Spill)?;
            self.tail.composed.get_or_insert(self.lane.len());
            self.tail.originals.push(Original { index, page: staged, image });
            self.lane.replace(index, now, self.log_id, self.sequence)?;
        }
        Ok(())
    }

    /// Publishes a page that SQLite has not staged.
    ///
    /// # Errors
    /// The spill file failed.
    pub fn add(&mut self, now: (u32, &[u8])) -> Result<(), ViewError> {
        self.tail.composed.get_or_insert(self.lane.len());
        self.lane.append(now, self.log_id, self.sequence)
    }

    /// All is again as SQLite has staged it: the transaction goes on.
    ///
    /// # Errors
    /// The spill file failed.
    pub fn take_back(self) -> Result<(), ViewError> {
        if crate::drops("growth-taken-back") {
            return Ok(());
        }
        if let Some(staged) = self.tail.composed.take() {
            self.lane.truncate(staged);
        }
        for Original { index, page, image } in std::mem::take(&mut self.tail.originals) {
            self.lane.replace(index, (page, &image), self.log_id, self.sequence)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::Image;
    use crate::view::tests::open_spill;

    const PAGE_BYTES: u32 = 512;

    fn staged(pages: &[(u32, u8)]) -> View {
        let mut view = View::new(PAGE_BYTES, 3 * PAGE_BYTES as usize);
        view.begin_write(1, 1);
        let mut at = 32;
        for (page, value) in pages {
            let mut header = [0; 24];
            header[..4].copy_from_slice(&page.to_be_bytes());
            view.write(&header, at, &mut open_spill).unwrap();
            view.write(&[*value; PAGE_BYTES as usize], at + 24, &mut open_spill).unwrap();
            at += 24 + u64::from(PAGE_BYTES);
        }
        view
    }

    fn content(lane: &Lane) -> Vec<(u32, u32, u8)> {
        let mut image = vec![0; lane.page_bytes()];
        let frames = lane.frames().enumerate();
        frames
            .map(|(index, frame)| {
                lane.read_image(index, 0, &mut image).unwrap();
                if let Image::Memory(in_memory) = frame.image {
                    assert_eq!(in_memory, image);
                }
                (frame.page, frame.crc, image[0])
            })
            .collect()
    }

    /// In memory and in the spill file.
    #[test]
    fn what_was_composed_is_taken_back() {
        for pages in [&[(1, 1), (5, 2), (9, 3)][..], &[(7, 1), (1, 2), (5, 3), (9, 4), (5, 5)]] {
            let mut view = staged(pages);
            let before = content(view.lane());
            let mut composition = Composition::of(&mut view).unwrap();
            assert_eq!(
                composition.image(5).unwrap().unwrap()[0],
                pages.iter().rfind(|(page, _)| *page == 5).unwrap().1
            );
            composition.replace(5, (30, &[100; 512])).unwrap();
            composition.replace(1, (1, &[101; 512])).unwrap();
            composition.add((31, &[102; 512])).unwrap();
            let now: Vec<(u32, u8)> = content(view.lane()).into_iter().map(|(page, _, value)| (page, value)).collect();
            for (page, value) in [(30, 100), (1, 101), (31, 102)] {
                assert_eq!(now.iter().rfind(|(at, _)| *at == page), Some(&(page, value)));
            }
            assert!(now.iter().all(|(page, _)| *page != 5), "{now:?}");
            Composition::of(&mut view).unwrap().take_back().unwrap();
            assert_eq!(content(view.lane()), before);
        }
    }
}
