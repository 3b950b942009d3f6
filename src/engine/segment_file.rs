//! One segment file as this process has it open.

use super::error::EngineError;
use crate::disk::LogFile;
use crate::sync::Mutex;
use std::io::IoSlice;
use std::sync::Arc;

/// One segment file, open.
pub(crate) type Segment = Arc<SegmentFile>;

/// As [`Segment`].
#[derive(Debug)]
pub(crate) struct SegmentFile {
    /// The id in its file name.
    pub(crate) id: u32,
    pub(crate) name: String,
    pub(crate) file: Arc<dyn LogFile>,
    pub(crate) bytes: u64,
    /// [`LogFile::openings`], and what [`SegmentFile::opened_at`] says of the last of them.
    opened: Mutex<(u64, u64)>,
}

impl SegmentFile {
    /// `published`: the last commit, read when `file` was open; `None`: this process has made the file.
    pub(super) fn new(
        id: u32,
        name: String,
        file: Arc<dyn LogFile>,
        bytes: u64,
        published: impl FnOnce() -> Option<u64>,
    ) -> SegmentFile {
        // In this order: one more opening is noticed later.
        let openings = file.openings();
        let opened = Mutex::new((openings, published().map_or(0, |published| published + 1)));
        SegmentFile { id, name, file, bytes, opened }
    }

    /// What was written before it was opened here is of commits up to this one, published or about to be. The disk may have
    /// closed the file since, and opened it again when the last commit was at most `published`.
    pub(super) fn opened_at(&self, published: u64) -> u64 {
        let mut opened = self.opened.lock();
        let openings = self.file.openings();
        if opened.0 != openings {
            *opened = (openings, published + 1);
        }
        opened.1
    }

    /// Writes at `offset` (bytes).
    pub(super) fn write(&self, data: &[u8], offset: u64) -> Result<(), EngineError> {
        self.file.write_at(&[IoSlice::new(data)], offset).map_err(|error| EngineError::write(&self.name, error))
    }

    pub(crate) fn sync(&self) -> Result<(), EngineError> {
        self.file.sync().map_err(|error| EngineError::sync(&self.name, error))
    }
}

/// Syncs all of them. Where there are not descriptors enough to have all open at once, those that are synced are closed for the
/// others.
pub(super) fn sync_all(segments: &[Segment]) -> Result<(), EngineError> {
    let mut left: Vec<&Segment> = segments.iter().collect();
    loop {
        let mut missing = None;
        let mut synced = Vec::new();
        let mut later = Vec::new();
        for segment in left {
            match segment.sync() {
                Ok(()) => synced.push(segment),
                Err(error) if error.is_out_of_descriptors() => {
                    missing = Some(error);
                    later.push(segment);
                }
                Err(error) => return Err(error),
            }
        }
        let Some(missing) = missing else { return Ok(()) };
        if synced.is_empty() {
            return Err(missing);
        }
        for segment in synced {
            // No error: it is not opened.
            let _may_be_closed = segment.file.keep_open(false);
        }
        left = later;
    }
}
