//! Access to the medium: the files of the log, and the database file as replay and checkpoint see it. A real
//! implementation, and a simulated one with a page cache, power cuts and injected faults.

mod aligned;
mod descriptor;
mod directory;
pub mod fault;
mod file;
mod file_system;
mod holes;
pub mod hooked;
mod placeholder;
mod real;
pub mod sim;
mod size_limit;

pub use aligned::AlignedBytes;
pub use descriptor::{advice, is_out_of_descriptors};
pub(crate) use descriptor::{open_to_append, open_to_read};
pub use directory::{Access, Directory};
pub use file_system::{links_of_open_file, not_local};
pub use holes::data_of;
pub use real::{RealDisk, RealLogDirectory};
pub use size_limit::is_refused_for_size;

use std::ffi::OsStr;
use std::fmt::Debug;
use std::io::{self, IoSlice};
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

/// One open file of the log: a segment or a spill file. Shared by threads.
pub trait LogFile: Send + Sync + Debug {
    /// Reads at `offset` (bytes) until `buffer` is full or the file ends; returns the bytes read. A file whose name was
    /// removed may be empty.
    ///
    /// # Errors
    /// Any error of the medium; never for the end of the file.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Whether reads wait for the medium, and take memory as it is ([`AlignedBytes`]): then it pays to have another thread read what
    /// comes next.
    fn reads_past_cache(&self) -> bool {
        false
    }

    /// Writes all `parts`, concatenated, from `offset` (bytes) on.
    ///
    /// # Errors
    /// Any error of the medium; some of the bytes may be written then, but for [`is_refused_for_size`].
    fn write_at(&self, parts: &[IoSlice<'_>], offset: u64) -> io::Result<()>;

    /// Writes `bytes` zeros from `offset` (bytes) on, as space for records to come: where possible past the
    /// page cache. True: past it, so that a sync has none of them to write.
    ///
    /// # Errors
    /// As [`write_at`](LogFile::write_at).
    fn write_zeros(&self, bytes: usize, offset: u64) -> io::Result<bool> {
        self.write_at(&[IoSlice::new(&vec![0; bytes])], offset)?;
        Ok(false)
    }

    /// Gets the space of the first `bytes` of the file, which is empty, without writing to it: they read as zeros. False: the file
    /// system cannot, and nothing is done.
    ///
    /// # Errors
    /// As [`write_at`](LogFile::write_at).
    fn allocate(&self, bytes: u64) -> io::Result<bool> {
        let _by_writes_only = bytes;
        Ok(false)
    }

    /// Makes the writes that returned before this call durable (`fdatasync`).
    ///
    /// # Errors
    /// A failure says that any unsynced write may be lost, and that a second sync proves nothing.
    fn sync(&self) -> io::Result<()>;

    /// The size of the file in bytes.
    ///
    /// # Errors
    /// Any error of the medium.
    fn bytes(&self) -> io::Result<u64>;

    /// Sets the size to 0: the space is free at once, also while other processes have the file open.
    ///
    /// # Errors
    /// Any error of the medium; `PermissionDenied` for a file that is only read.
    fn truncate(&self) -> io::Result<()> {
        Err(io::ErrorKind::PermissionDenied.into())
    }

    /// Keeps the file open from now on (opening it if it is not); or allows the disk to close it while it is not used:
    /// what was written to it is durable, whichever process synced it. Without either, what this process has written
    /// and not synced stays open.
    ///
    /// # Errors
    /// It is to be kept open and cannot be opened, or may not be written by this process ([`is_refused_for_size`]).
    fn keep_open(&self, keep: bool) -> io::Result<()> {
        let _all_files_stay_open = keep;
        Ok(())
    }

    /// How often the file was opened for this, the first time included: the disk may have closed it meanwhile.
    fn openings(&self) -> u64 {
        1
    }

    /// The next bytes from `from` on that were written, if the file system knows: what lies between reads as zeros. `None`:
    /// there are no more.
    ///
    /// # Errors
    /// Any error of the medium.
    fn data(&self, from: u64) -> io::Result<Option<Range<u64>>> {
        let end = self.bytes()?;
        Ok((from < end).then_some(from..end))
    }
}

/// How [`LogDirectory::open`] opens a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    /// Create it; it must not exist. Read and write.
    CreateNew,
    /// It must exist. Read and write, through the page cache.
    Existing,
    /// It must exist. Only read, through the page cache: for looking at a log of another owner.
    ReadOnly,
    /// It must exist. Only read; reads come from the medium, past what the page cache may hold
    /// (`O_DIRECT`, or sync and drop the cached pages first). For recovery (`docs/format.md`).
    PastCache,
}

/// The directory `<database>-pwal` beside a database file, the placeholder `<database>-wal`, and their parent.
pub trait LogDirectory: Send + Sync + Debug {
    /// The path, for messages.
    fn path(&self) -> &Path;
    /// The directory on the real file system: `lock` and `control` are real files also where the log is simulated.
    ///
    /// # Errors
    /// Any error of the file system; `NotFound`; a directory that is not to be trusted, by name.
    fn directory(&self) -> io::Result<Arc<Directory>> {
        Ok(Arc::new(Directory::open(self.path())?))
    }
    /// Creates the directory with the mode and, where permitted, the owner of the database file; `Ok` if it exists, and
    /// belongs to a user who may write the database.
    ///
    /// # Errors
    /// Any error of the medium.
    fn create(&self) -> io::Result<()>;
    /// Whether the directory is there.
    ///
    /// # Errors
    /// Any error of the medium; not for "is not there".
    fn exists(&self) -> io::Result<bool>;
    /// The names in it, sorted; empty if the directory is not there.
    ///
    /// # Errors
    /// Any error of the medium.
    fn list(&self) -> io::Result<Vec<String>>;
    /// Opens the file `name` in it.
    ///
    /// # Errors
    /// Any error of the medium.
    fn open(&self, name: &str, how: OpenMode) -> io::Result<Arc<dyn LogFile>>;
    /// Deletes the file `name` in it; `Ok` if it is not there.
    ///
    /// # Errors
    /// Any error of the medium.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Makes the names in the directory durable.
    ///
    /// # Errors
    /// Any error of the medium.
    fn sync(&self) -> io::Result<()>;
    /// Makes the names in the parent directory durable: the directory's own, the database's.
    ///
    /// # Errors
    /// Any error of the medium.
    fn sync_parent(&self) -> io::Result<()>;
    /// Makes what the file beside the database, with this at the end of its name, is now durable, if there is one: `-journal` or
    /// `-wal`. A link is followed, as SQLite does; what is no regular file is left alone.
    ///
    /// # Errors
    /// Any error of the medium; not for "is not there".
    fn sync_beside(&self, suffix: &str) -> io::Result<()> {
        let path = self.path().as_os_str().as_encoded_bytes();
        let database = path.strip_suffix(b"-pwal").unwrap_or(path);
        let name = [database, suffix.as_bytes()].concat();
        let file = Path::new(OsStr::from_bytes(&name));
        let sync = |file: &Path| open_to_read(file)?.sync_all();
        match sync(file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            // It is a link, or no regular file.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => match std::fs::canonicalize(file) {
                Ok(there) if there.is_file() => sync(&there),
                _ => Ok(()),
            },
            result => result,
        }
    }
    /// Removes the directory; `Ok(false)` and untouched if it is not empty, or not this process's to remove.
    ///
    /// # Errors
    /// Any error of the medium.
    fn remove_directory(&self) -> io::Result<bool>;
    /// Makes the placeholder, an empty directory at `<database>-wal`, with the mode and, where permitted, the owner of the log
    /// directory; `Ok(true)` if a directory is there; `Ok(false)` and untouched if something else has that name.
    ///
    /// # Errors
    /// Any error of the medium.
    fn create_placeholder(&self) -> io::Result<bool>;
    /// Removes the placeholder; `Ok` and untouched if it is not there, not empty, not a directory, or not this process's to
    /// remove.
    ///
    /// # Errors
    /// Any error of the medium.
    fn remove_placeholder(&self) -> io::Result<()>;
    /// Renames the directory to `<database>-pwal.<suffix>` beside the database.
    ///
    /// # Errors
    /// Any error of the medium.
    fn rename(&self, suffix: &str) -> io::Result<()>;
}

/// What makes [`LogDirectory`]s: the real file system, or a simulated one.
pub trait Disk: Send + Sync + Debug {
    /// The log directory of the database file at `database` (absolute, symlinks resolved).
    fn log_directory(&self, database: &Path) -> Arc<dyn LogDirectory>;
    /// A word for messages and the telemetry: the largest sector the medium tears at, in bytes
    /// (at least 512); the log's block is `max(4096, this)`.
    fn sector_bytes(&self, database: &Path) -> u32;
}

/// The database file, as replay, checkpoint and retirement see it. Implemented by the database handle in
/// `vfs` (through SQLite's base VFS) and by the simulated disk. All offsets and sizes in bytes.
pub trait Database: Send + Debug {
    /// Reads at `offset` until `buffer` is full or the file ends; returns the bytes read.
    ///
    /// # Errors
    /// Any error of the medium.
    fn read_at(&mut self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes all of `data` at `offset`.
    ///
    /// # Errors
    /// Any error of the medium; `StorageFull` for a full disk.
    fn write_at(&mut self, data: &[u8], offset: u64) -> io::Result<()>;
    /// Sets the size of the file.
    ///
    /// # Errors
    /// Any error of the medium.
    fn set_bytes(&mut self, bytes: u64) -> io::Result<()>;
    /// Makes everything written durable.
    ///
    /// # Errors
    /// Any error of the medium.
    fn sync(&mut self) -> io::Result<()>;
    /// The size of the file.
    ///
    /// # Errors
    /// Any error of the medium.
    fn bytes(&mut self) -> io::Result<u64>;
}
