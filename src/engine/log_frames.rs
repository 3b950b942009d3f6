//! The frame table of the process with its lock, how far it follows the log, and the images that need no look into it.

use super::frames::Frames;
use super::recent::RecentImages;
use crate::sync::RwLock;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{RwLockReadGuard, RwLockWriteGuard};

#[derive(Debug)]
pub(crate) struct LogFrames {
    table: RwLock<Frames>,
    /// The last commit in the table.
    followed: AtomicU64,
    pub(super) recent: RecentImages,
}

impl LogFrames {
    /// An empty log over a database of `database_pages` pages of `page_bytes` bytes.
    pub(super) fn new(database_pages: u32, page_bytes: u32) -> LogFrames {
        let table = RwLock::new(Frames::new(database_pages));
        LogFrames { table, followed: AtomicU64::new(0), recent: RecentImages::new(page_bytes) }
    }

    pub(super) fn read(&self) -> RwLockReadGuard<'_, Frames> {
        self.table.read()
    }

    pub(super) fn write(&self) -> RwLockWriteGuard<'_, Frames> {
        self.table.write()
    }

    #[cfg(test)]
    pub(crate) fn is_free(&self) -> bool {
        self.table.try_write().is_some()
    }

    /// The last commit that is in the table, without its lock.
    pub(super) fn followed(&self) -> u64 {
        self.followed.load(SeqCst)
    }

    /// The table, locked, ends with commit `sequence` from here on.
    pub(super) fn set_followed(&self, sequence: u64) {
        self.followed.store(sequence, SeqCst);
    }
}
