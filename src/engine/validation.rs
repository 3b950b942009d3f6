//! What was committed since a snapshot, for a transaction that is validated before it commits beside others.

use super::error::EngineError;
use super::reader::FrameReader;

/// Frames that are copied from the table while others wait for it.
const FRAMES_AT_ONCE: usize = 4096;

/// A page that a commit has written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WrittenPage {
    pub(crate) page: u32,
    /// The commit.
    pub(crate) sequence: u64,
    /// The number of the frame.
    pub(crate) number: u64,
}

/// What the commits after a snapshot have written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Since {
    /// The first page that the transaction depends on; not page 1.
    pub(crate) touched: Option<WrittenPage>,
    /// Page 1, as the last of them has left it.
    pub(crate) page_one: Option<WrittenPage>,
    /// The size of the database after the last of them, in pages,
    pub(crate) database_pages: u32,
    /// and the smallest after any of them.
    pub(crate) database_pages_min: u32,
    /// Not all of them are known any more: a checkpoint has passed the snapshot.
    pub(crate) is_incomplete: bool,
}

impl FrameReader {
    /// Looks through the commits after `from` up to `to`, which is published; until one has written a page for which `depends_on` is
    /// true, which is not asked for page 1.
    ///
    /// # Errors
    /// What other processes wrote cannot be read.
    pub(crate) fn written_since(
        &self,
        from: u64,
        to: u64,
        mut depends_on: impl FnMut(WrittenPage) -> bool,
    ) -> Result<Since, EngineError> {
        self.durability.with_descriptors(|| self.follower.follow(to))?;
        let (mut next, database_pages) = {
            let frames = self.follower.frames.read();
            (frames.last_number(from) + 1, frames.database_pages(to))
        };
        let mut since = Since {
            touched: None,
            page_one: None,
            database_pages,
            database_pages_min: database_pages,
            is_incomplete: false,
        };
        let (mut piece, mut sized) = (Vec::new(), from);
        loop {
            piece.clear();
            let more = {
                let frames = self.follower.frames.read();
                if !frames.has_all_after(from) {
                    since.is_incomplete = true;
                    return Ok(since);
                }
                let more = frames.copy(next, to, FRAMES_AT_ONCE, &mut piece);
                for frame in
                    piece.iter().filter(|frame| std::mem::replace(&mut sized, frame.sequence) != frame.sequence)
                {
                    since.database_pages_min = since.database_pages_min.min(frames.database_pages(frame.sequence));
                }
                more
            };
            for (frame, number) in piece.iter().zip(next..) {
                let written = WrittenPage { page: frame.page, sequence: frame.sequence, number };
                if frame.page == 1 {
                    since.page_one = Some(written);
                } else if depends_on(written) {
                    since.touched = Some(written);
                    return Ok(since);
                }
            }
            match more {
                Some(number) => next = number,
                None => return Ok(since),
            }
        }
    }
}
