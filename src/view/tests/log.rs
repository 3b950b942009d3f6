//! A log of frames as the engine has it, with a database file behind it, for tests.

use crate::view::{FrameTable, Snapshot};
use std::collections::HashMap;

/// What stands for a page image: an image of it is this number over and over.
pub type Content = u64;

#[derive(Clone, Copy, Debug)]
pub struct LogFrame {
    pub sequence: u64,
    pub page: u32,
    pub content: Content,
}

#[derive(Debug)]
pub struct Log {
    /// Frame numbers are indices + 1.
    pub frames: Vec<LogFrame>,
    /// Frames of commits up to here have left the table.
    pub dropped: u64,
    /// Commits up to here are in the database file.
    pub backfilled: u64,
    pub database: HashMap<u32, Content>,
    /// Database pages after each commit; 0 is the state before the first.
    pub pages: Vec<u32>,
}

/// A page that no commit has touched.
pub fn initial(page: u32) -> Content {
    0xdb00_0000_0000_0000 | u64::from(page)
}

impl Log {
    pub fn new(pages: u32) -> Log {
        Log { frames: Vec::new(), dropped: 0, backfilled: 0, database: HashMap::new(), pages: vec![pages] }
    }

    pub fn last(&self) -> u64 {
        self.pages.len() as u64 - 1
    }

    pub fn snapshot(&self, sequence: u64) -> Snapshot {
        Snapshot { sequence, database_pages: self.pages[sequence as usize] }
    }

    pub fn commit(&mut self, frames: impl IntoIterator<Item = (u32, Content)>, pages: u32) -> u64 {
        let sequence = self.last() + 1;
        self.frames.extend(frames.into_iter().map(|(page, content)| LogFrame { sequence, page, content }));
        self.pages.push(pages);
        sequence
    }

    pub fn content(&self, page: u32, sequence: u64) -> Content {
        let newest = self.frames.iter().rev().find(|f| f.page == page && f.sequence <= sequence);
        newest.map_or(initial(page), |f| f.content)
    }

    pub fn checkpoint(&mut self, to: u64) {
        for frame in self.frames.iter().filter(|f| f.sequence > self.backfilled && f.sequence <= to) {
            self.database.insert(frame.page, frame.content);
        }
        self.backfilled = self.backfilled.max(to);
    }

    pub fn in_database(&self, page: u32) -> Content {
        self.database.get(&page).copied().unwrap_or(initial(page))
    }

    /// The image of a frame, as the engine serves it: what has left the table comes from the database file.
    pub fn image(&self, number: u64, page: u32) -> Content {
        match number.checked_sub(1).map(|index| self.frames[index as usize]) {
            Some(frame) if frame.sequence > self.dropped => {
                assert_eq!(frame.page, page, "frame {number}");
                frame.content
            }
            _ => self.in_database(page),
        }
    }

    /// The number of frames that are not backfilled.
    pub fn waiting(&self) -> u32 {
        self.frames.iter().filter(|f| f.sequence > self.backfilled).count() as u32
    }
}

impl FrameTable for Log {
    fn between(&self, from: u64, to: u64, each: &mut dyn FnMut(u64, u32)) -> bool {
        if from < self.dropped {
            return false;
        }
        for (frame, number) in self.frames.iter().zip(1..) {
            if frame.sequence > from && frame.sequence <= to {
                each(number, frame.page);
            }
        }
        true
    }

    fn newest(&self, to: u64, each: &mut dyn FnMut(u64, u32)) {
        let seen = |f: &&LogFrame| f.sequence > self.dropped && f.sequence <= to;
        let newest: HashMap<u32, u64> =
            self.frames.iter().zip(1..).filter(|(f, _)| seen(f)).map(|(f, number)| (f.page, number)).collect();
        let mut newest: Vec<(u64, u32)> = newest.into_iter().map(|(page, number)| (number, page)).collect();
        newest.sort_unstable();
        for (number, page) in newest {
            each(number, page);
        }
    }
}

/// The image that stands for `content`.
pub fn image(content: Content, page_bytes: u32) -> Vec<u8> {
    content.to_le_bytes().repeat(page_bytes as usize / 8)
}

/// What an image stands for; panics if it is a mixture.
pub fn content(image: &[u8]) -> Content {
    let content = Content::from_le_bytes(image[..8].try_into().unwrap());
    assert!(image.chunks_exact(8).all(|part| part == content.to_le_bytes()), "a mixed image");
    content
}
