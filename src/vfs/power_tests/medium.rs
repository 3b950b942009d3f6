//! The base VFS: SQLite's own for locks and shared memory, the simulated disk for what files contain.
//!
//! It syncs as `os_unix.c` does: with the first sync of a journal or a `-wal` that it has made also the directory
//! (`UNIXFILE_DIRSYNC`), and with `xDelete` only if that is asked for. It promises nothing else: no `SQLITE_IOCAP_POWERSAFE_OVERWRITE`,
//! sectors of 512 bytes. Written for tests alone: it shares no code with the shim that it carries.

use super::NAMES;
use super::machine::Machine;
use crate::disk::sim::SimBesideFile;
use rusqlite::ffi;
use std::cell::Cell;
use std::ffi::c_int;
use std::io;
use std::path::Path;
use std::sync::{Arc, Once};
use support::test_vfs::{self, Below, Call, Hook, OpenFile, Shape};

/// The name of the VFS.
pub const MEDIUM: &str = "power-medium";
const BELOW: &str = support::STOCK;

/// A file on the simulated disk.
struct Content {
    machine: Arc<Machine>,
    file: SimBesideFile,
    name: String,
    /// The number of its database.
    database: usize,
    copy: std::fs::File,
    /// The name of a file that may be new is not durable yet.
    syncs_directory: Cell<bool>,
}

/// Registers it once.
pub fn register() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        test_vfs::register(MEDIUM, BELOW, Shape { version: 2, shm: true }, Medium);
    });
}

fn code(error: &io::Error, otherwise: c_int) -> c_int {
    match error.raw_os_error() {
        Some(libc::ENOSPC) => ffi::SQLITE_FULL,
        _ => otherwise,
    }
}

impl Content {
    /// What the kernel shows by path follows the cache.
    fn copy_back(&self, offset: u64, bytes: usize) {
        use std::os::unix::fs::FileExt;
        let Ok(length) = self.file.bytes() else { return };
        if self.copy.metadata().map(|file| file.len()).ok() != Some(length) {
            self.copy.set_len(length).expect("a size");
        }
        let mut buffer = vec![0; bytes];
        if let Ok(read) = self.file.read_at(&mut buffer, offset) {
            self.copy.write_all_at(&buffer[..read], offset).expect("a write");
        }
    }

    fn write(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.machine.tick("write", &self.name);
        let written = self.file.write_at(data, offset);
        self.copy_back(offset, data.len());
        written
    }

    fn truncate(&self, bytes: u64) -> io::Result<()> {
        self.machine.tick("truncate", &self.name);
        let cut = self.file.set_bytes(bytes);
        self.copy_back(0, 0);
        cut
    }

    fn sync(&self) -> io::Result<()> {
        self.machine.tick("sync", &self.name);
        self.file.sync()?;
        if self.syncs_directory.get() {
            self.machine.tick("sync", "the directory for a journal");
            self.machine.beside(self.database).sync()?;
            self.syncs_directory.set(false);
        }
        Ok(())
    }
}

/// The machine, the number of the database and the name of a file that lies on its disk.
fn place(path: &Path) -> Option<(Arc<Machine>, usize, String)> {
    let name = path.file_name()?.to_str()?;
    let database = NAMES.iter().position(|database| name.starts_with(database) && !name.ends_with("-shm"))?;
    Some((Machine::of(path)?, database, name.to_owned()))
}

const ON_DISK: c_int =
    ffi::SQLITE_OPEN_MAIN_DB | ffi::SQLITE_OPEN_MAIN_JOURNAL | ffi::SQLITE_OPEN_SUPER_JOURNAL | ffi::SQLITE_OPEN_WAL;

/// The VFS. Its temporary files are those of the VFS below, as are locks and shared memory of the others.
struct Medium;

impl Hook for Medium {
    fn call(&self, call: &Call, file: Option<&OpenFile>, below: &Below) -> c_int {
        match (call, file) {
            (Call::Open { .. }, Some(file)) => open(call, file, below),
            (Call::Delete { sync_directory, .. }, _) => delete(call, *sync_directory != 0, below),
            // The machine has one thread: nothing else happens meanwhile.
            (Call::Sleep { microseconds, .. }, _) => *microseconds,
            (Call::SectorSize { .. }, _) => 512,
            (Call::DeviceCharacteristics { .. }, _) => 0,
            // These would change or map the copy.
            (
                Call::FileControl {
                    operation: ffi::SQLITE_FCNTL_SIZE_HINT | ffi::SQLITE_FCNTL_CHUNK_SIZE | ffi::SQLITE_FCNTL_MMAP_SIZE,
                    ..
                },
                _,
            ) => ffi::SQLITE_NOTFOUND,
            (_, Some(file)) => match file.kept::<Content>() {
                Some(content) => content.answer(call, below),
                None => below.pass(call),
            },
            (_, None) => below.pass(call),
        }
    }
}

fn open(call: &Call, file: &OpenFile, below: &Below) -> c_int {
    if let Some(path) = call.path()
        && file.flags & ON_DISK != 0
    {
        let Some((machine, database, name)) = place(path) else { return ffi::SQLITE_CANTOPEN };
        let creates = file.flags & ffi::SQLITE_OPEN_CREATE != 0;
        if creates && !path.exists() {
            machine.tick("create", &name);
        }
        let on_disk = match machine.beside(database).open(&name, creates) {
            Ok(on_disk) => on_disk,
            Err(error) => return code(&error, ffi::SQLITE_CANTOPEN),
        };
        let copy = std::fs::OpenOptions::new().read(true).write(true).create(creates).truncate(false).open(path);
        let Ok(copy) = copy else { return ffi::SQLITE_CANTOPEN };
        // `isNewJrnl` of `unixOpen`: also where it was there.
        let syncs_directory = Cell::new(creates && file.flags & ffi::SQLITE_OPEN_MAIN_DB == 0);
        file.keep(Content { machine, file: on_disk, name, database, copy, syncs_directory });
    }
    below.pass(call)
}

fn delete(call: &Call, syncs_directory: bool, below: &Below) -> c_int {
    let path = call.path().expect("a path");
    let Some((machine, database, on_disk)) = place(path).filter(|_| path.exists()) else { return below.pass(call) };
    machine.tick("remove", &on_disk);
    if let Err(error) = machine.beside(database).remove(&on_disk) {
        return code(&error, ffi::SQLITE_IOERR_DELETE);
    }
    let deleted = below.pass(call);
    if deleted != ffi::SQLITE_OK || !syncs_directory {
        return deleted;
    }
    machine.tick("sync", "the directory for a deletion");
    machine.beside(database).sync().map_or(ffi::SQLITE_IOERR_DIR_FSYNC, |()| ffi::SQLITE_OK)
}

impl Content {
    fn answer(&self, call: &Call, below: &Below) -> c_int {
        let (done, otherwise) = match call {
            Call::Read { .. } => {
                let read = call.read(|buffer, offset| self.file.read_at(buffer, offset));
                return read.unwrap_or_else(|error| code(&error, ffi::SQLITE_IOERR_READ));
            }
            Call::Write { offset, .. } => (self.write(call.data(), offset.unsigned_abs()), ffi::SQLITE_IOERR_WRITE),
            Call::Truncate { bytes, .. } => (self.truncate(bytes.unsigned_abs()), ffi::SQLITE_IOERR_TRUNCATE),
            Call::Sync { .. } => (self.sync(), ffi::SQLITE_IOERR_FSYNC),
            Call::FileSize { .. } => {
                let bytes = self.file.bytes().map(|bytes| call.answer(i64::try_from(bytes).expect("a size")));
                (bytes, ffi::SQLITE_IOERR_FSTAT)
            }
            _ => return below.pass(call),
        };
        done.map_or_else(|error| code(&error, otherwise), |()| ffi::SQLITE_OK)
    }
}
