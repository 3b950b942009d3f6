//! Drops one rule of recovery at the door to the disk, to show that the checks would notice.

use pwal::internal::disk::sim::{SimDatabase, SimDirectory};
use pwal::internal::disk::{Database, LogDirectory, LogFile, OpenMode};
use pwal::internal::log::stamp;
use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::Arc;

/// The database file; `dropped` names the rule that is not kept.
#[derive(Debug)]
pub struct DatabaseAdapter {
    pub inner: SimDatabase,
    pub dropped: &'static str,
}

impl Database for DatabaseAdapter {
    fn read_at(&mut self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.inner.read_at(buffer, offset)
    }

    fn write_at(&mut self, data: &[u8], offset: u64) -> io::Result<()> {
        if self.dropped == "replay_stamp" && offset == 0 && data.len() >= 100 {
            let mut plain = data.to_vec();
            stamp::clear(&mut plain);
            return self.inner.write_at(&plain, 0);
        }
        self.inner.write_at(data, offset)
    }

    fn set_bytes(&mut self, bytes: u64) -> io::Result<()> {
        if self.dropped == "truncate" { Ok(()) } else { self.inner.set_bytes(bytes) }
    }

    fn sync(&mut self) -> io::Result<()> {
        if self.dropped == "database_sync" { Ok(()) } else { self.inner.sync() }
    }

    fn bytes(&mut self) -> io::Result<u64> {
        self.inner.bytes()
    }
}

/// The log directory; `dropped` names the rule that is not kept.
#[derive(Debug)]
pub struct DirectoryAdapter {
    pub inner: SimDirectory,
    pub dropped: &'static str,
}

impl LogDirectory for DirectoryAdapter {
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
        let how = match how {
            OpenMode::PastCache if self.dropped == "past_cache" => OpenMode::Existing,
            how => how,
        };
        if self.dropped == "marker_z2" && name.starts_with("retired-") {
            return self.inner.open("control", OpenMode::CreateNew);
        }
        let file = self.inner.open(name, how)?;
        Ok(if self.dropped == "sync_first" { Arc::new(Unsynced(file)) } else { file })
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.inner.remove(name)
    }

    fn sync(&self) -> io::Result<()> {
        if self.dropped == "directory_sync" { Ok(()) } else { self.inner.sync() }
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
struct Unsynced(Arc<dyn LogFile>);

impl LogFile for Unsynced {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_at(buffer, offset)
    }

    fn write_at(&self, parts: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        self.0.write_at(parts, offset)
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn bytes(&self) -> io::Result<u64> {
        self.0.bytes()
    }
}
