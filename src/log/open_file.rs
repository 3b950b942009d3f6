//! A file of the log that is open, with the path that its errors name.

use super::error::LogError;
use crate::disk::LogFile;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

/// A file of the log and its path, for messages.
#[derive(Clone, Debug)]
pub struct OpenFile<'a> {
    /// The path.
    pub path: PathBuf,
    /// The file.
    pub file: Arc<dyn LogFile + 'a>,
}

impl OpenFile<'_> {
    /// Reads until `buffer` is full or the file ends.
    pub(crate) fn read(&self, buffer: &mut [u8], offset: u64) -> Result<usize, LogError> {
        self.file.read_at(buffer, offset).map_err(|error| LogError::io("read", &self.path, error))
    }

    /// The next bytes that are no hole of the file.
    pub(crate) fn data(&self, from: u64) -> Result<Option<Range<u64>>, LogError> {
        self.file.data(from).map_err(|error| LogError::io("look for the holes of", &self.path, error))
    }

    pub(crate) fn bytes(&self) -> Result<u64, LogError> {
        self.file.bytes().map_err(|error| LogError::io("look at the size of", &self.path, error))
    }
}
