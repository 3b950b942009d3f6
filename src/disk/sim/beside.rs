//! The directory that a database lies in, and the files in it that are not the log's: the database file, journals, the
//! `-wal` of stock SQLite.

use super::{Node, SimDisk, SimFile, SimHandle, State, SyncToken, name_of, strike};
use crate::disk::fault::{DATABASE_NAME, Operation, PARENT_NAME};
use std::io;
use std::path::{Path, PathBuf};

impl SimDisk {
    /// The directory of the database file at `path`.
    #[must_use]
    pub fn beside(&self, path: &Path) -> SimBeside {
        let mut state = self.state.lock();
        state.parent(path);
        SimBeside { disk: self.clone(), database: path.to_path_buf(), incarnation: state.incarnation }
    }

    /// No file grows when all files with a name have this number of bytes; `None`: unlimited.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.state.lock().capacity = bytes;
    }

    /// The bytes of all files that have a name.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.state.lock().used()
    }

    /// A sector (of 512 bytes) of the file at `path` cannot be read until it is written.
    pub fn make_unreadable(&self, path: &Path, sector: u64) {
        let mut state = self.state.lock();
        if let Some(id) = state.find(path)
            && let Node::File(file) = &mut state.nodes[id]
        {
            file.make_unreadable(sector);
        }
    }

    /// What no name leads to any more leaves the memory. For a machine on which nothing is open.
    pub fn forget_unnamed(&self) {
        let mut state = self.state.lock();
        let named = state.named();
        for (id, node) in state.nodes.iter_mut().enumerate() {
            if let Node::File(file) = node
                && !named[id]
            {
                *file = SimFile::default();
            }
        }
    }
}

impl State {
    /// Which files and directories a name leads to, in the cache or on the medium.
    fn named(&self) -> Vec<bool> {
        let mut named = vec![false; self.nodes.len()];
        let mut left: Vec<_> = self.parents.values().copied().collect();
        while let Some(id) = left.pop() {
            if std::mem::replace(&mut named[id], true) {
                continue;
            }
            if let Node::Directory(names) = &self.nodes[id] {
                left.extend(names.cache.values().chain(names.medium.values()));
                left.extend(names.pending.iter().flat_map(|(_, renames)| renames.iter().filter_map(|(_, file)| *file)));
            }
        }
        named
    }

    fn used(&self) -> u64 {
        let named = self.named();
        let files = self.nodes.iter().zip(named).filter_map(|(node, named)| match node {
            Node::File(file) if named => Some(file.bytes()),
            _ => None,
        });
        files.sum()
    }

    /// # Errors
    /// `EIO`: a sector of these bytes cannot be read.
    pub(super) fn check_readable(&mut self, file: usize, offset: u64, bytes: usize) -> io::Result<()> {
        match self.file(file).is_unreadable(offset, bytes) {
            true => Err(io::Error::from_raw_os_error(libc::EIO)),
            false => Ok(()),
        }
    }

    /// # Errors
    /// `ENOSPC`: there is no room for a file that grows to `bytes`.
    pub(super) fn check_room(&mut self, file: usize, bytes: u64) -> io::Result<()> {
        let Some(capacity) = self.capacity else { return Ok(()) };
        let now = self.file(file).bytes();
        if bytes > now && self.used() + (bytes - now) > capacity {
            return Err(io::Error::from_raw_os_error(libc::ENOSPC));
        }
        Ok(())
    }
}

/// A directory of a [`SimDisk`] with a database file in it.
#[derive(Clone, Debug)]
pub struct SimBeside {
    disk: SimDisk,
    database: PathBuf,
    incarnation: u64,
}

impl SimBeside {
    /// The name that failures are planned by.
    fn known_as<'a>(&self, name: &'a str) -> &'a str {
        if name == name_of(&self.database) { DATABASE_NAME } else { name }
    }

    /// Opens the file `name`; `creates`: and makes it if it is not there.
    ///
    /// # Errors
    /// Any error of the medium; `NotFound`; `IsADirectory`.
    pub fn open(&self, name: &str, creates: bool) -> io::Result<SimBesideFile> {
        let mut state = self.disk.state.lock();
        state.check(self.incarnation)?;
        let parent = state.parent(&self.database);
        let known_as = self.known_as(name);
        let found = state.names(parent).cache.get(name).copied();
        let file = match found {
            Some(file) if matches!(state.nodes[file], Node::Directory(_)) => {
                return Err(io::ErrorKind::IsADirectory.into());
            }
            Some(file) => {
                strike(&self.disk.plan, Operation::Open, known_as)?;
                file
            }
            None if !creates => return Err(io::ErrorKind::NotFound.into()),
            None => {
                strike(&self.disk.plan, Operation::Create, known_as)?;
                state.begin(self.incarnation)?;
                let file = if known_as == DATABASE_NAME { SimFile::database() } else { SimFile::default() };
                state.nodes.push(Node::File(file));
                let (file, clock) = (state.nodes.len() - 1, state.clock);
                state.names(parent).change(clock, vec![(name.to_owned(), Some(file))]);
                state.check(self.incarnation)?;
                file
            }
        };
        let handle = SimHandle::new(&self.disk, &mut state, file, self.incarnation);
        Ok(SimBesideFile { handle, name: known_as.to_owned() })
    }

    /// Deletes the file `name`; `Ok` if it is not there.
    ///
    /// # Errors
    /// Any error of the medium.
    pub fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.disk.state.lock();
        state.check(self.incarnation)?;
        let parent = state.parent(&self.database);
        if !state.names(parent).cache.contains_key(name) {
            return Ok(());
        }
        strike(&self.disk.plan, Operation::Remove, self.known_as(name))?;
        state.begin(self.incarnation)?;
        let clock = state.clock;
        state.names(parent).change(clock, vec![(name.to_owned(), None)]);
        state.check(self.incarnation)
    }

    /// Makes the names in the directory durable.
    ///
    /// # Errors
    /// Any error of the medium.
    pub fn sync(&self) -> io::Result<()> {
        let mut state = self.disk.state.lock();
        state.check(self.incarnation)?;
        strike(&self.disk.plan, Operation::Sync, PARENT_NAME)?;
        state.begin(self.incarnation)?;
        let (parent, clock) = (state.parent(&self.database), state.clock);
        state.names(parent).sync(clock);
        state.check(self.incarnation)
    }
}

/// An open file beside the log.
#[derive(Clone, Debug)]
pub struct SimBesideFile {
    handle: SimHandle,
    name: String,
}

impl SimBesideFile {
    /// As [`Database::read_at`](crate::disk::Database::read_at).
    ///
    /// # Errors
    /// As there.
    pub fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.handle.read(&self.name, buffer, offset, false)
    }

    /// As [`Database::write_at`](crate::disk::Database::write_at).
    ///
    /// # Errors
    /// As there.
    pub fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.handle.write(&self.name, data, offset)
    }

    /// As [`Database::set_bytes`](crate::disk::Database::set_bytes).
    ///
    /// # Errors
    /// As there.
    pub fn set_bytes(&self, bytes: u64) -> io::Result<()> {
        self.handle.set_bytes(&self.name, bytes)
    }

    /// As [`Database::sync`](crate::disk::Database::sync).
    ///
    /// # Errors
    /// As there.
    pub fn sync(&self) -> io::Result<()> {
        let token: SyncToken = self.handle.sync_begin();
        self.handle.sync_end(&self.name, token, false)
    }

    /// As [`Database::bytes`](crate::disk::Database::bytes).
    ///
    /// # Errors
    /// As there.
    pub fn bytes(&self) -> io::Result<u64> {
        self.handle.bytes()
    }
}
