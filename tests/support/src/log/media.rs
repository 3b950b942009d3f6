//! A log directory on a medium with bad sectors, that counts what is read and how many files are open.

use pwal::internal::disk::{LogDirectory, LogFile, OpenMode};
use std::io::{self, IoSlice};
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

/// What the medium does, and what it has seen.
#[derive(Debug, Default)]
pub struct Medium {
    /// Bytes of files that are never read again.
    pub bad: Mutex<Vec<(String, Range<u64>)>>,
    pub read: AtomicU64,
    open: AtomicU64,
    pub most_open: AtomicU64,
}

impl Medium {
    /// `inner` on a medium on which these bytes are bad.
    pub fn new(bad: Vec<(String, Range<u64>)>) -> Arc<Medium> {
        Arc::new(Medium { bad: Mutex::new(bad), ..Medium::default() })
    }

    pub fn under(self: &Arc<Medium>, inner: Arc<dyn LogDirectory>) -> MediumDirectory {
        MediumDirectory { inner, medium: Arc::clone(self) }
    }
}

#[derive(Debug)]
pub struct MediumDirectory {
    inner: Arc<dyn LogDirectory>,
    medium: Arc<Medium>,
}

impl LogDirectory for MediumDirectory {
    fn path(&self) -> &Path {
        self.inner.path()
    }
    fn create(&self) -> io::Result<()> {
        self.inner.create()
    }
    fn exists(&self) -> io::Result<bool> {
        self.inner.exists()
    }
    fn list(&self) -> io::Result<Vec<String>> {
        self.inner.list()
    }
    fn open(&self, name: &str, how: OpenMode) -> io::Result<Arc<dyn LogFile>> {
        let inner = self.inner.open(name, how)?;
        let open = self.medium.open.fetch_add(1, SeqCst) + 1;
        self.medium.most_open.fetch_max(open, SeqCst);
        Ok(Arc::new(MediumFile { inner, name: name.to_owned(), medium: Arc::clone(&self.medium) }))
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.inner.remove(name)
    }
    fn sync(&self) -> io::Result<()> {
        self.inner.sync()
    }
    fn sync_parent(&self) -> io::Result<()> {
        self.inner.sync_parent()
    }
    fn remove_directory(&self) -> io::Result<bool> {
        self.inner.remove_directory()
    }
    fn create_placeholder(&self) -> io::Result<bool> {
        self.inner.create_placeholder()
    }
    fn remove_placeholder(&self) -> io::Result<()> {
        self.inner.remove_placeholder()
    }
    fn rename(&self, suffix: &str) -> io::Result<()> {
        self.inner.rename(suffix)
    }
}

#[derive(Debug)]
struct MediumFile {
    inner: Arc<dyn LogFile>,
    name: String,
    medium: Arc<Medium>,
}

impl Drop for MediumFile {
    fn drop(&mut self) {
        self.medium.open.fetch_sub(1, SeqCst);
    }
}

impl LogFile for MediumFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let end = offset + buffer.len() as u64;
        let hits = |(name, bytes): &(String, Range<u64>)| *name == self.name && bytes.start < end && offset < bytes.end;
        if self.medium.bad.lock().unwrap().iter().any(hits) {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        let read = self.inner.read_at(buffer, offset)?;
        self.medium.read.fetch_add(read as u64, SeqCst);
        Ok(read)
    }
    fn write_at(&self, parts: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        self.inner.write_at(parts, offset)
    }
    fn sync(&self) -> io::Result<()> {
        self.inner.sync()
    }
    fn bytes(&self) -> io::Result<u64> {
        self.inner.bytes()
    }
    fn data(&self, from: u64) -> io::Result<Option<Range<u64>>> {
        self.inner.data(from)
    }
}
