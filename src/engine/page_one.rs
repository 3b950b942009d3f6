//! The second copy of the beginning of page 1.
//!
//! A pass, an activation and a retirement rewrite the first sector of the database file in place, and a drive may lose
//! it with a power cut. So B moves by doubled certificates only, and each carries the beginning of page 1 as commit B
//! left it; the log begins with one. A segment file is reused only when a later doubled certificate is durable in a
//! later segment: at every moment the log holds either a copy as of some commit b and every batch from b + 1 on, or an
//! image of page 1 among these, without additional syncs.
//!
//! The process that has run a pass takes the copy from the database file, under CKPT, and carries it with the next
//! flush that it leads.

use super::context::LogContext;
use super::error::EngineError;
use crate::host::DatabaseHandle;
use crate::log::stamp::{self, STAMP_WRITE_BYTES, Stamp, StampState};
use crate::sync::Mutex;
use std::sync::Arc;

/// Page 1 from its beginning, at most a block, as a commit left it and without a stamp.
#[derive(Debug)]
pub(crate) struct PageOne {
    /// That commit.
    pub(super) sequence: u64,
    pub(super) bytes: Vec<u8>,
    /// CRC of the next block in the file: identifies the file where the beginning is lost.
    pub(super) next_block_crc: u32,
}

/// The copy of page 1 as the last pass of this process left it, until a certificate carries it.
pub(super) struct PageOneCopy {
    log: Arc<LogContext>,
    pub(super) copy: Mutex<Option<Arc<PageOne>>>,
}

impl PageOneCopy {
    pub(super) fn new(log: &Arc<LogContext>) -> PageOneCopy {
        PageOneCopy { log: Arc::clone(log), copy: Mutex::default() }
    }

    /// The bytes of page 1 that a doubled certificate copies; it also has the CRC of the block after them.
    fn copied_bytes(&self) -> usize {
        self.log.page_bytes.min(self.log.block_bytes) as usize
    }

    /// The beginning of the database file, as far as a doubled certificate knows it; at least what it copies.
    pub(super) fn read_beginning(&self, database_handle: &mut dyn DatabaseHandle) -> Result<Vec<u8>, EngineError> {
        let mut bytes = vec![0; self.copied_bytes() + self.log.block_bytes as usize];
        let read =
            database_handle.read_at(&mut bytes, 0).map_err(|e| EngineError::database("read", &self.log.path, e))?;
        if read < STAMP_WRITE_BYTES {
            return Err(EngineError::Changed { file: self.log.path.clone() });
        }
        bytes.truncate(read.max(self.copied_bytes()));
        Ok(bytes)
    }

    /// What a doubled certificate says of a file that begins so, as commit `sequence` left it.
    pub(super) fn of(&self, mut beginning: Vec<u8>, sequence: u64) -> PageOne {
        let next_block = beginning.split_off(self.copied_bytes());
        stamp::clear(&mut beginning);
        let next_block_crc = if next_block.is_empty() { 0 } else { crc32c::crc32c(&next_block) };
        PageOne { sequence, bytes: beginning, next_block_crc }
    }

    /// Commits up to `sequence` are in the database file: the copy is that of page 1 there, if its stamp says the same.
    /// Under CKPT, when no process writes to it.
    pub(super) fn take(&self, database_handle: &mut dyn DatabaseHandle, sequence: u64) -> Result<(), EngineError> {
        let beginning = self.read_beginning(database_handle)?;
        let expected = StampState::Stamped(Stamp { log_id: self.log.log_id, backfill_target: sequence });
        // Else a pass died on the way to a later commit: the next one ends it.
        if stamp::read(&beginning) == expected || crate::drops("b-copy-of-b") {
            *self.copy.lock() = Some(Arc::new(self.of(beginning, sequence)));
        }
        Ok(())
    }

    /// The copy with which the next certificate moves B, if there is one.
    pub(super) fn to_carry(&self) -> Option<Arc<PageOne>> {
        let copy = self.copy.lock().clone()?;
        (copy.sequence > self.log.marks.certified().backfilled).then_some(copy)
    }
}
