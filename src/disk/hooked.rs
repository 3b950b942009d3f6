//! A [`Disk`] around another one, whose operations a [`Hook`] sees first: it may fail them, or answer itself.
//!
//! For tests, and for what only watches. All else is passed on.

use super::{Directory, Disk, LogDirectory, LogFile, OpenMode};
use std::fmt::Debug;
use std::io::{self, IoSlice};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The name of the log directory, in a [`Call`].
pub const DIRECTORY_NAME: &str = "(directory)";
/// The name of the directory's parent.
pub const PARENT_NAME: &str = "(parent)";
/// The name of the placeholder.
pub const PLACEHOLDER_NAME: &str = "(placeholder)";

/// What is done to a file of the log, or to its directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// A read of a file.
    Read,
    /// A write to a file.
    Write,
    /// Space for a file, which nothing is written to; to a planned fault a write.
    Allocate,
    /// A sync of a file or a directory.
    Sync,
    /// A change of a file's size.
    SetBytes,
    /// The opening of a file that is there.
    Open,
    /// The creation of a file or of the directory.
    Create,
    /// The deletion of a file or of the directory.
    Remove,
    /// A list of the directory; to a planned fault a read.
    List,
    /// A renaming of the directory; to a planned fault a deletion.
    Rename,
}

/// One operation.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// What is done.
    pub operation: Operation,
    /// The file's name, or one of those above.
    pub name: &'a str,
    /// The log directory.
    pub directory: &'a Path,
    /// Where a read or a write begins, in bytes.
    pub offset: u64,
    /// The bytes to be read or written, or those that were.
    pub bytes: usize,
}

/// What a hook decides.
#[derive(Debug)]
pub enum Verdict {
    /// The operation is done.
    Pass,
    /// It is not, and fails.
    Fail(io::Error),
    /// A write: this number of bytes of it is written, and it fails.
    Short(usize, io::Error),
    /// The operation is done, and fails.
    Done(io::Error),
    /// It is not done, and succeeds. Not for what has a value.
    Skip,
}

/// Sees the operations of a disk.
pub trait Hook: Debug + Send + Sync {
    /// Before an operation.
    fn before(&self, call: &Call<'_>) -> Verdict {
        let _all_pass = call;
        Verdict::Pass
    }

    /// After one that succeeded; not where a directory stays, since it is not empty.
    ///
    /// # Errors
    /// They are its result.
    fn after(&self, call: &Call<'_>) -> io::Result<()> {
        let _all_pass = call;
        Ok(())
    }

    /// Another path of the log directory, where `lock` and `control` are.
    fn path(&self) -> Option<&Path> {
        None
    }

    /// Changes what a list of the directory returns.
    fn listed(&self, names: &mut Vec<String>) {
        let _all_are_there = names;
    }

    /// How often a file was opened that its disk says was opened so often.
    fn openings(&self, openings: u64) -> u64 {
        openings
    }

    /// A file is closed.
    fn closed(&self, name: &str) {
        let _nothing = name;
    }
}

/// The disk.
#[derive(Debug)]
pub struct HookedDisk {
    inner: Arc<dyn Disk>,
    hook: Arc<dyn Hook>,
}

impl HookedDisk {
    /// `inner`, whose operations `hook` sees.
    #[must_use]
    pub fn new(inner: Arc<dyn Disk>, hook: Arc<dyn Hook>) -> HookedDisk {
        HookedDisk { inner, hook }
    }
}

impl Disk for HookedDisk {
    fn log_directory(&self, database: &Path) -> Arc<dyn LogDirectory> {
        Arc::new(HookedDirectory::new(self.inner.log_directory(database), Arc::clone(&self.hook)))
    }

    fn sector_bytes(&self, database: &Path) -> u32 {
        self.inner.sector_bytes(database)
    }
}

/// A log directory of such a disk.
#[derive(Debug)]
pub struct HookedDirectory {
    inner: Arc<dyn LogDirectory>,
    hooked: Hooked,
}

#[derive(Clone, Debug)]
struct Hooked {
    hook: Arc<dyn Hook>,
    directory: PathBuf,
}

impl Hooked {
    fn call<'a>(&'a self, operation: Operation, name: &'a str) -> Call<'a> {
        Call { operation, name, directory: &self.directory, offset: 0, bytes: 0 }
    }

    /// `skipped`: the result if the hook skips it.
    fn around<T>(
        &self,
        operation: Operation,
        name: &str,
        skipped: Option<T>,
        act: impl FnOnce() -> io::Result<T>,
    ) -> io::Result<T> {
        let call = self.call(operation, name);
        match (self.hook.before(&call), skipped) {
            (Verdict::Skip, Some(value)) => Ok(value),
            (Verdict::Fail(error) | Verdict::Short(_, error), _) => Err(error),
            (Verdict::Done(error), _) => act().and(Err(error)),
            (Verdict::Pass | Verdict::Skip, _) => {
                let value = act()?;
                self.hook.after(&call)?;
                Ok(value)
            }
        }
    }
}

impl HookedDirectory {
    /// `inner`, whose operations `hook` sees.
    #[must_use]
    pub fn new(inner: Arc<dyn LogDirectory>, hook: Arc<dyn Hook>) -> HookedDirectory {
        let directory = hook.path().unwrap_or(inner.path()).to_path_buf();
        HookedDirectory { inner, hooked: Hooked { hook, directory } }
    }
}

impl LogDirectory for HookedDirectory {
    fn path(&self) -> &Path {
        &self.hooked.directory
    }

    fn directory(&self) -> io::Result<Arc<Directory>> {
        match self.hooked.hook.path() {
            Some(path) => Ok(Arc::new(Directory::open(path)?)),
            None => self.inner.directory(),
        }
    }

    fn create(&self) -> io::Result<()> {
        self.hooked.around(Operation::Create, DIRECTORY_NAME, Some(()), || self.inner.create())
    }

    fn exists(&self) -> io::Result<bool> {
        self.inner.exists()
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = self.hooked.around(Operation::List, DIRECTORY_NAME, None, || self.inner.list())?;
        self.hooked.hook.listed(&mut names);
        Ok(names)
    }

    fn open(&self, name: &str, how: OpenMode) -> io::Result<Arc<dyn LogFile>> {
        let operation = if how == OpenMode::CreateNew { Operation::Create } else { Operation::Open };
        let inner = self.hooked.around(operation, name, None, || self.inner.open(name, how))?;
        Ok(Arc::new(HookedFile { inner, name: name.to_owned(), hooked: self.hooked.clone() }))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.hooked.around(Operation::Remove, name, Some(()), || self.inner.remove(name))
    }

    fn sync(&self) -> io::Result<()> {
        self.hooked.around(Operation::Sync, DIRECTORY_NAME, Some(()), || self.inner.sync())
    }

    fn sync_parent(&self) -> io::Result<()> {
        self.hooked.around(Operation::Sync, PARENT_NAME, Some(()), || self.inner.sync_parent())
    }

    fn sync_beside(&self, suffix: &str) -> io::Result<()> {
        self.hooked.around(Operation::Sync, suffix, Some(()), || self.inner.sync_beside(suffix))
    }

    fn remove_directory(&self) -> io::Result<bool> {
        let call = self.hooked.call(Operation::Remove, DIRECTORY_NAME);
        let is_removed = match self.hooked.hook.before(&call) {
            Verdict::Fail(error) | Verdict::Short(_, error) => return Err(error),
            Verdict::Done(error) => return self.inner.remove_directory().and(Err(error)),
            Verdict::Pass | Verdict::Skip => self.inner.remove_directory()?,
        };
        if is_removed {
            self.hooked.hook.after(&call)?;
        }
        Ok(is_removed)
    }

    fn create_placeholder(&self) -> io::Result<bool> {
        self.hooked.around(Operation::Create, PLACEHOLDER_NAME, None, || self.inner.create_placeholder())
    }

    fn remove_placeholder(&self) -> io::Result<()> {
        self.hooked.around(Operation::Remove, PLACEHOLDER_NAME, Some(()), || self.inner.remove_placeholder())
    }

    fn rename(&self, suffix: &str) -> io::Result<()> {
        self.hooked.around(Operation::Rename, DIRECTORY_NAME, Some(()), || self.inner.rename(suffix))
    }
}

#[derive(Debug)]
struct HookedFile {
    inner: Arc<dyn LogFile>,
    name: String,
    hooked: Hooked,
}

impl Drop for HookedFile {
    fn drop(&mut self) {
        self.hooked.hook.closed(&self.name);
    }
}

impl LogFile for HookedFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let call = Call { offset, bytes: buffer.len(), ..self.hooked.call(Operation::Read, &self.name) };
        if let Verdict::Fail(error) | Verdict::Short(_, error) | Verdict::Done(error) = self.hooked.hook.before(&call) {
            return Err(error);
        }
        let bytes = self.inner.read_at(buffer, offset)?;
        self.hooked.hook.after(&Call { bytes, ..call })?;
        Ok(bytes)
    }

    fn write_at(&self, parts: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        let bytes = parts.iter().map(|part| part.len()).sum();
        let call = Call { offset, bytes, ..self.hooked.call(Operation::Write, &self.name) };
        match self.hooked.hook.before(&call) {
            Verdict::Pass => self.inner.write_at(parts, offset)?,
            Verdict::Skip => return Ok(()),
            Verdict::Fail(error) => return Err(error),
            Verdict::Done(error) => return self.inner.write_at(parts, offset).and(Err(error)),
            Verdict::Short(bytes, error) => {
                let all: Vec<u8> = parts.iter().flat_map(|part| part.iter().copied()).take(bytes).collect();
                self.inner.write_at(&[IoSlice::new(&all)], offset)?;
                return Err(error);
            }
        }
        self.hooked.hook.after(&call)
    }

    fn allocate(&self, bytes: u64) -> io::Result<bool> {
        let call =
            Call { bytes: bytes.try_into().unwrap_or(usize::MAX), ..self.hooked.call(Operation::Allocate, &self.name) };
        match self.hooked.hook.before(&call) {
            Verdict::Pass => {}
            Verdict::Skip => return Ok(true),
            Verdict::Fail(error) | Verdict::Short(_, error) => return Err(error),
            Verdict::Done(error) => return self.inner.allocate(bytes).and(Err(error)),
        }
        let is_allocated = self.inner.allocate(bytes)?;
        self.hooked.hook.after(&call).map(|()| is_allocated)
    }

    fn sync(&self) -> io::Result<()> {
        self.hooked.around(Operation::Sync, &self.name, Some(()), || self.inner.sync())
    }

    fn bytes(&self) -> io::Result<u64> {
        self.inner.bytes()
    }

    fn truncate(&self) -> io::Result<()> {
        self.hooked.around(Operation::SetBytes, &self.name, Some(()), || self.inner.truncate())
    }

    fn keep_open(&self, keep: bool) -> io::Result<()> {
        self.inner.keep_open(keep)
    }

    fn openings(&self) -> u64 {
        self.hooked.hook.openings(self.inner.openings())
    }

    fn data(&self, from: u64) -> io::Result<Option<Range<u64>>> {
        self.inner.data(from)
    }
}
