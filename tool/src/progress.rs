//! Progress of a recovery: a disk that counts what is read from the log.

use indicatif::{ProgressBar, ProgressStyle};
use pwal::internal::disk::{Disk, LogDirectory, LogFile, OpenMode, RealDisk};
use std::io::{self, IoSlice};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

/// The real disk; what is read past the page cache (as recovery reads) moves the bar.
#[derive(Debug)]
pub struct WatchedDisk {
    bar: ProgressBar,
}

impl WatchedDisk {
    /// A bar for a log of `log_bytes` bytes; on a terminal only.
    pub fn new(log_bytes: u64) -> (Arc<WatchedDisk>, ProgressBar) {
        let bar = ProgressBar::new(log_bytes);
        bar.set_style(style("{msg} {wide_bar} {bytes}/{total_bytes}"));
        bar.set_message("reading the log");
        (Arc::new(WatchedDisk { bar: bar.clone() }), bar)
    }
}

/// A spinner for work whose end is not known; on a terminal only.
pub fn spinner(message: String) -> ProgressBar {
    let spinner = ProgressBar::new_spinner();
    spinner.set_style(style("{spinner} {msg} {elapsed}"));
    spinner.set_message(message);
    spinner.enable_steady_tick(std::time::Duration::from_millis(100));
    spinner
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

impl Disk for WatchedDisk {
    fn log_directory(&self, database: &Path) -> Arc<dyn LogDirectory> {
        Arc::new(WatchedDirectory { inner: RealDisk.log_directory(database), bar: self.bar.clone() })
    }

    fn sector_bytes(&self, database: &Path) -> u32 {
        RealDisk.sector_bytes(database)
    }
}

#[derive(Debug)]
struct WatchedDirectory {
    inner: Arc<dyn LogDirectory>,
    bar: ProgressBar,
}

impl LogDirectory for WatchedDirectory {
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
        let file = self.inner.open(name, how)?;
        Ok(match how {
            OpenMode::PastCache => Arc::new(WatchedFile { inner: file, bar: self.bar.clone() }),
            _ => file,
        })
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
struct WatchedFile {
    inner: Arc<dyn LogFile>,
    bar: ProgressBar,
}

impl LogFile for WatchedFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let read = self.inner.read_at(buffer, offset)?;
        self.bar.inc(read as u64);
        // Every segment is read once to look at it; what is read then is checked and replayed.
        if self.bar.length().is_some_and(|length| self.bar.position() > length) {
            self.bar.unset_length();
            self.bar.set_style(style("{spinner} {msg} {bytes} {elapsed}"));
            self.bar.set_message("checking and replaying");
        }
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
