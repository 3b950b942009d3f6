//! What a connection that writes beside others knows of its transactions: the pages that they may depend on, what it has of WRITE, when it
//! takes its turn, and the pages that they allocate. `concurrent` has the steps.

use super::growth::Growth;
use super::turns::Turns;
use crate::engine::Engine;
use crate::view::{Lane, PageSet};

/// Of a connection with `parallel_wal_writers=concurrent`.
#[derive(Debug, Default)]
pub(super) struct Concurrent {
    /// The pages that SQLite may have in its cache.
    pub(super) reads: PageSet,
    /// Nothing is in its cache that is not in `reads`.
    pub(super) is_complete: bool,
    pub(super) write: Write,
    /// What its open transaction has staged, in bytes, as it is counted.
    pub(super) staged_bytes: u64,
    /// Its open transaction was refused WRITE for a page that SQLite wanted to spill.
    pub(super) spill_refused: bool,
    /// Whether it takes WRITE sooner than at COMMIT.
    pub(super) turns: Turns,
    /// The pages that it allocates.
    pub(super) growth: Growth,
    /// The commit to which the snapshot of its present transaction has moved: all that was read is what it is after this one.
    pub(super) moved_to: Option<u64>,
}

/// What the connection has of WRITE.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Write {
    /// What SQLite believes.
    #[default]
    AsSqlite,
    /// Only SQLite believes that it has it.
    Virtual,
    /// A transaction that began virtually has it: it is prepared, or its lane was full.
    Taken,
}

impl Concurrent {
    /// SQLite was given this page.
    pub(super) fn note_read(&mut self, page: u32) {
        self.reads.insert(page);
    }

    /// SQLite was given these bytes of the database file.
    pub(super) fn note_file_read(&mut self, offset: u64, bytes: usize, page_bytes: u32) {
        if crate::drops("concurrent-file-reads") {
            return;
        }
        let page = |at: u64| u32::try_from(at / u64::from(page_bytes) + 1).unwrap_or(u32::MAX);
        self.reads.extend(page(offset)..=page(offset + (bytes as u64).max(1) - 1));
    }

    /// The connection has committed these pages, which are in SQLite's cache.
    fn note_written(&mut self, pages: impl Iterator<Item = u32>) {
        if !crate::drops("concurrent-own-pages") {
            self.reads.extend(pages);
        }
    }

    /// The lane is published, its frames from `first_number` on.
    pub(super) fn note_published(&mut self, lane: &Lane, (engine, first_number): (&Engine, u64)) {
        let composed = self.growth.note_published(lane, (engine, first_number));
        self.note_written(lane.pages().filter(|page| composed.iter().all(|(trunk, _)| trunk != page)));
    }

    /// Whether SQLite may have the page in its cache.
    pub(super) fn has_read(&self, page: u32) -> bool {
        self.reads.contains(page)
    }

    /// The commit that the transaction sees, whose view shows `of_view`.
    pub(super) fn snapshot(&self, of_view: u64) -> u64 {
        self.moved_to.unwrap_or(of_view)
    }

    /// Whether the snapshot of the present transaction may move: others may commit still.
    pub(super) fn may_move(&self) -> bool {
        self.write == Write::Virtual
    }

    /// A snapshot comes with another header: SQLite empties its cache before it reads anything.
    pub(super) fn forget_reads(&mut self) {
        self.reads.clear();
        self.is_complete = true;
    }
}
