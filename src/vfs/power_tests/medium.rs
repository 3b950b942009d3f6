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
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::io;
use std::mem::size_of;
use std::path::{Path, PathBuf};
use std::ptr;
use std::sync::{Arc, Once};

/// The name of the VFS.
pub const MEDIUM: &str = "power-medium";
const BELOW: &CStr = c"unix";

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

/// What SQLite allocates for each file; the file of the VFS below lies after it.
#[repr(C)]
struct File {
    methods: *const ffi::sqlite3_io_methods,
    /// `None`: a temporary file, which is the VFS's below.
    content: *mut Content,
}

/// Registers it once.
pub fn register() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: SQLite never frees a registered VFS; the new one is a copy with our functions, never freed.
        unsafe {
            let below = ffi::sqlite3_vfs_find(BELOW.as_ptr());
            assert!(!below.is_null());
            let mut vfs = *below;
            vfs.pNext = ptr::null_mut();
            vfs.zName = CString::new(MEDIUM).expect("a name").into_raw();
            vfs.pAppData = below.cast();
            vfs.szOsFile += c_int::try_from(size_of::<File>()).expect("small");
            vfs.xOpen = Some(x_open);
            vfs.xDelete = Some(x_delete);
            vfs.xAccess = Some(x_access);
            vfs.xFullPathname = Some(x_full_pathname);
            vfs.xSleep = Some(x_sleep);
            assert_eq!(ffi::sqlite3_vfs_register(Box::leak(Box::new(vfs)), 0), ffi::SQLITE_OK);
        }
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

// SAFETY (of all functions below): SQLite calls them with its own pointers as the VFS interface documents; `pAppData` and
// `File` hold what `register` and `x_open` stored.

unsafe fn below_of(vfs: *mut ffi::sqlite3_vfs) -> *mut ffi::sqlite3_vfs {
    // SAFETY: set in `register`.
    unsafe { (*vfs).pAppData.cast() }
}

unsafe fn path_of(name: *const c_char) -> PathBuf {
    // SAFETY: SQLite passes names that end with a zero byte.
    PathBuf::from(unsafe { CStr::from_ptr(name) }.to_str().expect("a path of ours"))
}

unsafe fn below(file: *mut ffi::sqlite3_file) -> (*mut ffi::sqlite3_file, &'static ffi::sqlite3_io_methods) {
    // SAFETY: `szOsFile` leaves room for that file after ours; it is open, so it has methods.
    unsafe {
        let below = file.cast::<u8>().add(size_of::<File>()).cast::<ffi::sqlite3_file>();
        (below, &*(*below).pMethods)
    }
}

unsafe fn content(file: *mut ffi::sqlite3_file) -> Option<&'static Content> {
    // SAFETY: it lives until `x_close`.
    unsafe { (*file.cast::<File>()).content.as_ref() }
}

macro_rules! pass {
    ($file:expr, $method:ident $(, $argument:expr)*) => {{
        // SAFETY: see above.
        unsafe {
            let (file, methods) = below($file);
            methods.$method.expect("it has it")(file $(, $argument)*)
        }
    }};
}

const ON_DISK: c_int =
    ffi::SQLITE_OPEN_MAIN_DB | ffi::SQLITE_OPEN_MAIN_JOURNAL | ffi::SQLITE_OPEN_SUPER_JOURNAL | ffi::SQLITE_OPEN_WAL;

unsafe extern "C" fn x_open(
    vfs: *mut ffi::sqlite3_vfs,
    name: ffi::sqlite3_filename,
    file: *mut ffi::sqlite3_file,
    flags: c_int,
    out_flags: *mut c_int,
) -> c_int {
    // SAFETY: see above; a failed open leaves no methods.
    unsafe {
        (*file).pMethods = ptr::null();
        let mut content = None;
        if flags & ON_DISK != 0 && !name.is_null() {
            let path = path_of(name);
            let Some((machine, database, name)) = place(&path) else { return ffi::SQLITE_CANTOPEN };
            let creates = flags & ffi::SQLITE_OPEN_CREATE != 0;
            if creates && !path.exists() {
                machine.tick("create", &name);
            }
            let file = match machine.beside(database).open(&name, creates) {
                Ok(file) => file,
                Err(error) => return code(&error, ffi::SQLITE_CANTOPEN),
            };
            let copy = std::fs::OpenOptions::new().read(true).write(true).create(creates).truncate(false).open(&path);
            let Ok(copy) = copy else { return ffi::SQLITE_CANTOPEN };
            // `isNewJrnl` of `unixOpen`: whoever may have made it.
            let syncs_directory = Cell::new(creates && flags & ffi::SQLITE_OPEN_MAIN_DB == 0);
            content = Some(Content { machine, file, name, database, copy, syncs_directory });
        }
        let real = file.cast::<u8>().add(size_of::<File>()).cast::<ffi::sqlite3_file>();
        (*real).pMethods = ptr::null();
        let vfs = below_of(vfs);
        let code = (*vfs).xOpen.expect("it has it")(vfs, name, real, flags, out_flags);
        if code == ffi::SQLITE_OK {
            let content = content.map_or(ptr::null_mut(), |content| Box::into_raw(Box::new(content)));
            file.cast::<File>().write(File { methods: &raw const METHODS, content });
        }
        code
    }
}

unsafe extern "C" fn x_delete(vfs: *mut ffi::sqlite3_vfs, name: *const c_char, sync_directory: c_int) -> c_int {
    // SAFETY: see above.
    unsafe {
        let below = below_of(vfs);
        let path = path_of(name);
        if let Some((machine, database, on_disk)) = place(&path)
            && path.exists()
        {
            machine.tick("remove", &on_disk);
            if let Err(error) = machine.beside(database).remove(&on_disk) {
                return code(&error, ffi::SQLITE_IOERR_DELETE);
            }
            let deleted = (*below).xDelete.expect("it has it")(below, name, 0);
            if deleted != ffi::SQLITE_OK || sync_directory == 0 {
                return deleted;
            }
            machine.tick("sync", "the directory for a deletion");
            return machine.beside(database).sync().map_or(ffi::SQLITE_IOERR_DIR_FSYNC, |()| ffi::SQLITE_OK);
        }
        (*below).xDelete.expect("it has it")(below, name, 0)
    }
}

unsafe extern "C" fn x_access(vfs: *mut ffi::sqlite3_vfs, name: *const c_char, flags: c_int, out: *mut c_int) -> c_int {
    // SAFETY: see above.
    unsafe {
        let below = below_of(vfs);
        (*below).xAccess.expect("it has it")(below, name, flags, out)
    }
}

unsafe extern "C" fn x_full_pathname(
    vfs: *mut ffi::sqlite3_vfs,
    name: *const c_char,
    bytes: c_int,
    out: *mut c_char,
) -> c_int {
    // SAFETY: see above.
    unsafe {
        let below = below_of(vfs);
        (*below).xFullPathname.expect("it has it")(below, name, bytes, out)
    }
}

unsafe extern "C" fn x_sleep(_vfs: *mut ffi::sqlite3_vfs, microseconds: c_int) -> c_int {
    // The machine has one thread: nobody else goes on meanwhile.
    microseconds
}

unsafe extern "C" fn x_close(file: *mut ffi::sqlite3_file) -> c_int {
    let closed = pass!(file, xClose);
    // SAFETY: see above; SQLite calls nothing more on this file.
    unsafe {
        let content = (*file.cast::<File>()).content;
        if !content.is_null() {
            drop(Box::from_raw(content));
        }
        (*file).pMethods = ptr::null();
        closed
    }
}

unsafe extern "C" fn x_read(file: *mut ffi::sqlite3_file, to: *mut c_void, bytes: c_int, offset: i64) -> c_int {
    // SAFETY: see above.
    let Some(content) = (unsafe { content(file) }) else { return pass!(file, xRead, to, bytes, offset) };
    // SAFETY: see above; `to` has room for `bytes` bytes.
    let buffer = unsafe { std::slice::from_raw_parts_mut(to.cast::<u8>(), usize::try_from(bytes).expect("a length")) };
    match content.file.read_at(buffer, offset.unsigned_abs()) {
        Ok(read) if read == buffer.len() => ffi::SQLITE_OK,
        Ok(read) => {
            buffer[read..].fill(0);
            ffi::SQLITE_IOERR_SHORT_READ
        }
        Err(error) => code(&error, ffi::SQLITE_IOERR_READ),
    }
}

unsafe extern "C" fn x_write(file: *mut ffi::sqlite3_file, from: *const c_void, bytes: c_int, offset: i64) -> c_int {
    // SAFETY: see above.
    let Some(content) = (unsafe { content(file) }) else { return pass!(file, xWrite, from, bytes, offset) };
    // SAFETY: see above; `from` has `bytes` bytes.
    let data = unsafe { std::slice::from_raw_parts(from.cast::<u8>(), usize::try_from(bytes).expect("a length")) };
    let written = content.write(data, offset.unsigned_abs());
    written.map_or_else(|error| code(&error, ffi::SQLITE_IOERR_WRITE), |()| ffi::SQLITE_OK)
}

unsafe extern "C" fn x_truncate(file: *mut ffi::sqlite3_file, bytes: i64) -> c_int {
    // SAFETY: see above.
    let Some(content) = (unsafe { content(file) }) else { return pass!(file, xTruncate, bytes) };
    let cut = content.truncate(bytes.unsigned_abs());
    cut.map_or_else(|error| code(&error, ffi::SQLITE_IOERR_TRUNCATE), |()| ffi::SQLITE_OK)
}

unsafe extern "C" fn x_sync(file: *mut ffi::sqlite3_file, flags: c_int) -> c_int {
    // SAFETY: see above.
    let Some(content) = (unsafe { content(file) }) else { return pass!(file, xSync, flags) };
    content.sync().map_or_else(|error| code(&error, ffi::SQLITE_IOERR_FSYNC), |()| ffi::SQLITE_OK)
}

unsafe extern "C" fn x_file_size(file: *mut ffi::sqlite3_file, out: *mut i64) -> c_int {
    // SAFETY: see above.
    let Some(content) = (unsafe { content(file) }) else { return pass!(file, xFileSize, out) };
    let Ok(bytes) = content.file.bytes() else { return ffi::SQLITE_IOERR_FSTAT };
    // SAFETY: see above.
    unsafe { *out = i64::try_from(bytes).expect("a size") };
    ffi::SQLITE_OK
}

unsafe extern "C" fn x_lock(file: *mut ffi::sqlite3_file, level: c_int) -> c_int {
    pass!(file, xLock, level)
}

unsafe extern "C" fn x_unlock(file: *mut ffi::sqlite3_file, level: c_int) -> c_int {
    pass!(file, xUnlock, level)
}

unsafe extern "C" fn x_check_reserved_lock(file: *mut ffi::sqlite3_file, out: *mut c_int) -> c_int {
    pass!(file, xCheckReservedLock, out)
}

unsafe extern "C" fn x_file_control(file: *mut ffi::sqlite3_file, op: c_int, argument: *mut c_void) -> c_int {
    match op {
        // These would change or map the copy.
        ffi::SQLITE_FCNTL_SIZE_HINT | ffi::SQLITE_FCNTL_CHUNK_SIZE | ffi::SQLITE_FCNTL_MMAP_SIZE => {
            ffi::SQLITE_NOTFOUND
        }
        _ => pass!(file, xFileControl, op, argument),
    }
}

unsafe extern "C" fn x_sector_size(_file: *mut ffi::sqlite3_file) -> c_int {
    512
}

unsafe extern "C" fn x_device_characteristics(_file: *mut ffi::sqlite3_file) -> c_int {
    0
}

unsafe extern "C" fn x_shm_map(
    file: *mut ffi::sqlite3_file,
    region: c_int,
    bytes: c_int,
    extend: c_int,
    out: *mut *mut c_void,
) -> c_int {
    pass!(file, xShmMap, region, bytes, extend, out)
}

unsafe extern "C" fn x_shm_lock(file: *mut ffi::sqlite3_file, offset: c_int, count: c_int, flags: c_int) -> c_int {
    pass!(file, xShmLock, offset, count, flags)
}

unsafe extern "C" fn x_shm_barrier(file: *mut ffi::sqlite3_file) {
    pass!(file, xShmBarrier);
}

unsafe extern "C" fn x_shm_unmap(file: *mut ffi::sqlite3_file, delete: c_int) -> c_int {
    pass!(file, xShmUnmap, delete)
}

static METHODS: ffi::sqlite3_io_methods = ffi::sqlite3_io_methods {
    iVersion: 2,
    xClose: Some(x_close),
    xRead: Some(x_read),
    xWrite: Some(x_write),
    xTruncate: Some(x_truncate),
    xSync: Some(x_sync),
    xFileSize: Some(x_file_size),
    xLock: Some(x_lock),
    xUnlock: Some(x_unlock),
    xCheckReservedLock: Some(x_check_reserved_lock),
    xFileControl: Some(x_file_control),
    xSectorSize: Some(x_sector_size),
    xDeviceCharacteristics: Some(x_device_characteristics),
    xShmMap: Some(x_shm_map),
    xShmLock: Some(x_shm_lock),
    xShmBarrier: Some(x_shm_barrier),
    xShmUnmap: Some(x_shm_unmap),
    xFetch: None,
    xUnfetch: None,
};
