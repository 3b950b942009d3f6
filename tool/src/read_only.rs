//! A log directory and a database file that can only be looked at: the owner of one of these cannot create, lock, sync
//! or change anything.

use crate::failure::Failure;
use pwal::internal::disk::{Access, Database, Directory, LogDirectory, LogFile, OpenMode, data_of};
use std::fs::File;
use std::io::{self, ErrorKind, IoSlice};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A directory with segments, wherever it lies: beside a database, or moved away.
#[derive(Debug)]
pub struct ReadOnlyDirectory {
    path: PathBuf,
}

impl ReadOnlyDirectory {
    pub fn new(path: PathBuf) -> ReadOnlyDirectory {
        ReadOnlyDirectory { path }
    }
}

fn refused<T>() -> io::Result<T> {
    Err(ErrorKind::PermissionDenied.into())
}

impl LogDirectory for ReadOnlyDirectory {
    fn path(&self) -> &Path {
        &self.path
    }

    fn create(&self) -> io::Result<()> {
        refused()
    }

    fn exists(&self) -> io::Result<bool> {
        self.path.try_exists()
    }

    fn list(&self) -> io::Result<Vec<String>> {
        match Directory::open(&self.path) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
            opened => opened?.list(),
        }
    }

    fn open(&self, name: &str, how: OpenMode) -> io::Result<Arc<dyn LogFile>> {
        if how != OpenMode::ReadOnly {
            return refused();
        }
        Ok(Arc::new(ReadOnlyFile(Directory::open(&self.path)?.open_file(name, Access::Read)?)))
    }

    fn remove(&self, _name: &str) -> io::Result<()> {
        refused()
    }

    fn sync(&self) -> io::Result<()> {
        refused()
    }

    fn sync_parent(&self) -> io::Result<()> {
        refused()
    }

    fn remove_directory(&self) -> io::Result<bool> {
        refused()
    }

    fn create_placeholder(&self) -> io::Result<bool> {
        refused()
    }

    fn remove_placeholder(&self) -> io::Result<()> {
        refused()
    }

    fn rename(&self, _suffix: &str) -> io::Result<()> {
        refused()
    }
}

#[derive(Debug)]
struct ReadOnlyFile(File);

fn read_full(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

impl LogFile for ReadOnlyFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        read_full(&self.0, buffer, offset)
    }

    fn write_at(&self, _parts: &[IoSlice<'_>], _offset: u64) -> io::Result<()> {
        refused()
    }

    fn sync(&self) -> io::Result<()> {
        refused()
    }

    fn bytes(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn data(&self, from: u64) -> io::Result<Option<Range<u64>>> {
        data_of(&self.0, from)
    }
}

/// The database file, for looking.
#[derive(Debug)]
pub struct ReadOnlyDatabase(File);

impl ReadOnlyDatabase {
    pub fn open(path: &Path) -> Result<ReadOnlyDatabase, Failure> {
        File::open(path).map(ReadOnlyDatabase).map_err(|error| Failure::io("open", path, &error))
    }
}

impl Database for ReadOnlyDatabase {
    fn read_at(&mut self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        read_full(&self.0, buffer, offset)
    }

    fn write_at(&mut self, _data: &[u8], _offset: u64) -> io::Result<()> {
        refused()
    }

    fn set_bytes(&mut self, _bytes: u64) -> io::Result<()> {
        refused()
    }

    fn sync(&mut self) -> io::Result<()> {
        refused()
    }

    fn bytes(&mut self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }
}
