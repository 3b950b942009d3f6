//! The base VFS below the shim, and an open file of it: the raw calls, made once each.

use crate::handle::{BaseFile, LockLevel};
use crate::sqlite::Code;
use crate::sqlite::ffi::{self, IoMethods, RawFile, RawVfs};
use std::ffi::{CStr, c_char, c_int, c_void};

/// The base VFS. SQLite never frees a registered VFS that is in use.
#[derive(Clone, Copy, Debug)]
pub(super) struct BaseVfs(*mut RawVfs);

// SAFETY: a VFS is called by SQLite itself from every thread; nothing here writes to it.
unsafe impl Send for BaseVfs {}
// SAFETY: as above.
unsafe impl Sync for BaseVfs {}

impl BaseVfs {
    /// # Safety
    /// `vfs` is a registered VFS that stays for the life of the process.
    pub(super) unsafe fn new(vfs: *mut RawVfs) -> BaseVfs {
        BaseVfs(vfs)
    }

    pub(super) fn pointer(self) -> *mut RawVfs {
        self.0
    }

    /// A copy of its table.
    pub(super) fn table(self) -> RawVfs {
        // SAFETY: the VFS is registered, by the contract of `new`. Of a version 1 or 2 table the fields after its end
        // are not read: they are null here.
        unsafe {
            let vfs = self.0;
            let version = (*vfs).version;
            RawVfs {
                version,
                file_bytes: (*vfs).file_bytes,
                path_bytes_max: (*vfs).path_bytes_max,
                next: std::ptr::null_mut(),
                name: (*vfs).name,
                app_data: std::ptr::null_mut(),
                open: (*vfs).open,
                delete: (*vfs).delete,
                access: (*vfs).access,
                full_pathname: (*vfs).full_pathname,
                dl_open: (*vfs).dl_open,
                dl_error: (*vfs).dl_error,
                dl_sym: (*vfs).dl_sym,
                dl_close: (*vfs).dl_close,
                randomness: (*vfs).randomness,
                sleep: (*vfs).sleep,
                current_time: (*vfs).current_time,
                get_last_error: (*vfs).get_last_error,
                current_time_int64: if version >= 2 { (*vfs).current_time_int64 } else { None },
                set_system_call: if version >= 3 { (*vfs).set_system_call } else { None },
                get_system_call: if version >= 3 { (*vfs).get_system_call } else { None },
                next_system_call: if version >= 3 { (*vfs).next_system_call } else { None },
            }
        }
    }

    pub(super) fn name(self) -> String {
        // SAFETY: a registered VFS has a name, which stays with it.
        unsafe {
            let name = (*self.0).name;
            if name.is_null() { String::new() } else { CStr::from_ptr(name).to_string_lossy().into_owned() }
        }
    }

    /// The size of its file objects, in bytes.
    pub(super) fn file_bytes(self) -> usize {
        // SAFETY: the VFS is registered.
        usize::try_from(unsafe { (*self.0).file_bytes }).unwrap_or(0)
    }

    /// `xOpen`, with nothing changed.
    ///
    /// # Safety
    /// As SQLite promises for `xOpen`: `name` is null or a name of SQLite's own making, `file`
    /// has room for a file object of this VFS.
    pub(super) unsafe fn open(
        self,
        name: *const c_char,
        file: *mut RawFile,
        flags: c_int,
        out_flags: *mut c_int,
    ) -> Result<(), Code> {
        // SAFETY: passed on as SQLite promised it.
        unsafe {
            let open = (*self.0).open.ok_or(Code::CANTOPEN)?;
            Code::check(open(self.0, name, file, flags, out_flags))
        }
    }

    /// `xDelete`.
    ///
    /// # Safety
    /// `name` is null or a C string.
    pub(super) unsafe fn delete(self, name: *const c_char, sync_directory: c_int) -> Result<(), Code> {
        // SAFETY: passed on as it came.
        unsafe {
            let delete = (*self.0).delete.ok_or(Code::IOERR_DELETE)?;
            Code::check(delete(self.0, name, sync_directory))
        }
    }

    /// `xAccess`.
    ///
    /// # Safety
    /// `name` is null or a C string, `out` takes one integer.
    pub(super) unsafe fn access(self, name: *const c_char, flags: c_int, out: *mut c_int) -> Result<(), Code> {
        // SAFETY: passed on as it came.
        unsafe {
            let access = (*self.0).access.ok_or(Code::IOERR_ACCESS)?;
            Code::check(access(self.0, name, flags, out))
        }
    }
}

/// An open file of the base VFS. Copies name the same file; the caller that closes it ensures that no copy is used
/// afterwards.
#[derive(Clone, Copy, Debug)]
pub(super) struct RawBase(*mut RawFile);

// SAFETY: SQLite itself moves file objects between threads, one call at a time; the users of
// this type keep to that (SQLite by the mutex of the connection, the database handle by `&mut`).
unsafe impl Send for RawBase {}
// SAFETY: sharing hands out only the pointer; each call is bound to the rule above.
unsafe impl Sync for RawBase {}

/// Calls one method: `None` in the table is an error of this code.
macro_rules! call {
    ($base:expr, $method:ident, $missing:expr $(, $argument:expr)*) => {{
        // SAFETY: the file is open, so its method table is there and reaches to this method (the callers
        // check the version); the arguments are plain numbers, or memory that lives until it returns.
        unsafe {
            let method = (*$base.methods()).$method.ok_or($missing)?;
            Code::check(method($base.0 $(, $argument)*))
        }
    }};
}

impl RawBase {
    /// # Safety
    /// `file` is a file object that the base VFS has opened: its method table is not null; it
    /// stays open as long as this value and its copies are used.
    pub(super) unsafe fn new(file: *mut RawFile) -> RawBase {
        RawBase(file)
    }

    /// Its method table. Never a reference: a table of version 1 may be shorter than the type.
    pub(super) fn methods(self) -> *const IoMethods {
        // SAFETY: the file is open, by the contract of `new`.
        unsafe { (*self.0).methods }
    }

    /// The version of its methods.
    pub(super) fn version(self) -> c_int {
        // SAFETY: the file is open, so the table is there.
        unsafe { (*self.methods()).version }
    }

    /// Whether it has shared memory: some of unix's locking styles have version 3 without.
    pub(super) fn has_shm(self) -> bool {
        // SAFETY: from version 2 on the table has the field.
        self.version() >= 2 && unsafe { (*self.methods()).shm_map.is_some() }
    }

    /// `xClose`.
    pub(super) fn close(self) -> Result<(), Code> {
        call!(self, close, Code::IOERR)
    }

    /// `xFileControl`.
    ///
    /// # Safety
    /// `argument` is what the operation demands.
    pub(super) unsafe fn file_control(self, operation: c_int, argument: *mut c_void) -> Result<(), Code> {
        call!(self, file_control, Code::NOTFOUND, operation, argument)
    }

    /// `xSectorSize`, in bytes; 0 if the base does not say.
    pub(super) fn sector_size(self) -> c_int {
        // SAFETY: the file is open.
        unsafe { (*self.methods()).sector_size.map_or(0, |method| method(self.0)) }
    }

    /// `xDeviceCharacteristics`
    pub(super) fn device_characteristics(self) -> c_int {
        // SAFETY: the file is open.
        unsafe { (*self.methods()).device_characteristics.map_or(0, |method| method(self.0)) }
    }

    /// `xShmMap`.
    ///
    /// # Safety
    /// `out` takes a pointer.
    pub(super) unsafe fn shm_map(
        self,
        region: c_int,
        bytes: c_int,
        extend: c_int,
        out: *mut *mut c_void,
    ) -> Result<(), Code> {
        if self.version() < 2 {
            return Err(Code::IOERR_SHMMAP);
        }
        call!(self, shm_map, Code::IOERR_SHMMAP, region, bytes, extend, out)
    }

    /// `xShmLock`.
    pub(super) fn shm_lock(self, first: c_int, count: c_int, flags: c_int) -> Result<(), Code> {
        if self.version() < 2 {
            return Err(Code::IOERR_LOCK);
        }
        call!(self, shm_lock, Code::IOERR_LOCK, first, count, flags)
    }

    /// `xShmBarrier`
    pub(super) fn shm_barrier(self) {
        if self.version() >= 2 {
            // SAFETY: the file is open, and from version 2 on the table has the field.
            unsafe {
                if let Some(method) = (*self.methods()).shm_barrier {
                    method(self.0);
                }
            }
        }
    }

    /// `xShmUnmap`.
    pub(super) fn shm_unmap(self, delete: c_int) -> Result<(), Code> {
        if self.version() < 2 {
            return Ok(());
        }
        call!(self, shm_unmap, Code::IOERR_SHMMAP, delete)
    }

    /// `xFetch`; a base without it answers null, which says "read it".
    ///
    /// # Safety
    /// `out` takes a pointer.
    pub(super) unsafe fn fetch(self, offset: i64, bytes: c_int, out: *mut *mut c_void) -> Result<(), Code> {
        if self.version() < 3 {
            // SAFETY: `out` takes a pointer, by the contract.
            unsafe { out.write(std::ptr::null_mut()) };
            return Ok(());
        }
        call!(self, fetch, Code::IOERR_READ, offset, bytes, out)
    }

    /// `xUnfetch`; a null page gives up the whole mapping.
    ///
    /// # Safety
    /// `page` is null or came from `fetch` of this offset.
    pub(super) unsafe fn unfetch(self, offset: i64, page: *mut c_void) -> Result<(), Code> {
        if self.version() < 3 {
            return Ok(());
        }
        call!(self, unfetch, Code::IOERR, offset, page)
    }
}

/// A file offset, as SQLite counts it.
fn offset_of(offset: u64) -> Result<i64, Code> {
    i64::try_from(offset).map_err(|_| Code::IOERR)
}

/// The largest request that SQLite itself makes: one page. `seekAndWriteFd` and `seekAndRead` of `os_unix.c` truncate
/// requests to 17 bits, so that one of 128 KiB writes nothing and is taken for a full disk.
const PIECE_BYTES_MAX: usize = 65536;

impl BaseFile for RawBase {
    fn read(&mut self, buffer: &mut [u8], offset: u64) -> Result<(), Code> {
        let mut short = Ok(());
        let mut at = offset_of(offset)?;
        for piece in buffer.chunks_mut(PIECE_BYTES_MAX) {
            let bytes = c_int::try_from(piece.len()).map_err(|_| Code::IOERR_READ)?;
            match call!(self, read, Code::IOERR_READ, piece.as_mut_ptr().cast(), bytes, at) {
                Err(Code::IOERR_SHORT_READ) => short = Err(Code::IOERR_SHORT_READ),
                other => other?,
            }
            at = at.checked_add(i64::from(bytes)).ok_or(Code::IOERR_READ)?;
        }
        short
    }

    fn write(&mut self, data: &[u8], offset: u64) -> Result<(), Code> {
        let mut at = offset_of(offset)?;
        for piece in data.chunks(PIECE_BYTES_MAX) {
            let bytes = c_int::try_from(piece.len()).map_err(|_| Code::IOERR_WRITE)?;
            call!(self, write, Code::IOERR_WRITE, piece.as_ptr().cast(), bytes, at)?;
            at = at.checked_add(i64::from(bytes)).ok_or(Code::IOERR_WRITE)?;
        }
        Ok(())
    }

    fn truncate(&mut self, bytes: u64) -> Result<(), Code> {
        let bytes = offset_of(bytes)?;
        call!(self, truncate, Code::IOERR_TRUNCATE, bytes)
    }

    fn sync(&mut self, flags: i32) -> Result<(), Code> {
        call!(self, sync, Code::IOERR_FSYNC, flags)
    }

    fn bytes(&mut self) -> Result<u64, Code> {
        let mut bytes = 0_i64;
        call!(self, file_size, Code::IOERR_FSTAT, &raw mut bytes)?;
        u64::try_from(bytes).map_err(|_| Code::IOERR_FSTAT)
    }

    fn lock(&mut self, level: LockLevel) -> Result<(), Code> {
        call!(self, lock, Code::IOERR_LOCK, lock_number(level))
    }

    fn unlock(&mut self, level: LockLevel) -> Result<(), Code> {
        call!(self, unlock, Code::IOERR_UNLOCK, lock_number(level))
    }

    fn check_reserved_lock(&mut self) -> Result<bool, Code> {
        let mut reserved: c_int = 0;
        call!(self, check_reserved_lock, Code::IOERR_LOCK, &raw mut reserved)?;
        Ok(reserved != 0)
    }
}

/// The number of that level.
pub(super) fn lock_number(level: LockLevel) -> c_int {
    match level {
        LockLevel::None => ffi::LOCK_NONE,
        LockLevel::Shared => ffi::LOCK_SHARED,
        LockLevel::Reserved => ffi::LOCK_RESERVED,
        LockLevel::Pending => ffi::LOCK_PENDING,
        LockLevel::Exclusive => ffi::LOCK_EXCLUSIVE,
    }
}

/// The level of that number.
pub(super) fn lock_level(number: c_int) -> Result<LockLevel, Code> {
    match number {
        ffi::LOCK_NONE => Ok(LockLevel::None),
        ffi::LOCK_SHARED => Ok(LockLevel::Shared),
        ffi::LOCK_RESERVED => Ok(LockLevel::Reserved),
        ffi::LOCK_PENDING => Ok(LockLevel::Pending),
        ffi::LOCK_EXCLUSIVE => Ok(LockLevel::Exclusive),
        _ => Err(Code::MISUSE),
    }
}
