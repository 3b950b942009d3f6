//! The virtual WAL of a joined handle: a file object without a file behind it.
//!
//! SQLite opens it while the main file is open and closes it before (`sqlite3PagerClose`), so
//! it may read the database through the main file's base handle.

use super::base::RawBase;
use super::guard::{guard, guard_value};
use super::main_file::{bytes_mut, bytes_of};
use crate::handle::Handle;
use crate::sqlite::Code;
use crate::sqlite::ffi::{IoMethods, RawFile};
use std::ffi::{c_int, c_void};
use std::sync::Arc;

struct WalFile {
    handle: Arc<Handle>,
    /// The connection's own handle on the database file.
    base: RawBase,
}

#[repr(C)]
struct Head {
    file: RawFile,
    /// From `Box::into_raw`; null if the file is not open.
    wal: *mut WalFile,
}

/// Opens the virtual WAL of a handle in SQLite's file object.
///
/// # Safety
/// `file` is the file object of this `xOpen`; `base` stays open until it is closed.
pub(super) unsafe fn install(handle: Arc<Handle>, base: RawBase, file: *mut RawFile) -> Result<(), Code> {
    handle.wal_open()?;
    let wal = WalFile { handle, base };
    let head: *mut Head = file.cast();
    // SAFETY: `szOsFile` of our VFS covers the head.
    unsafe {
        (*head).wal = Box::into_raw(Box::new(wal));
        (*head).file.methods = &raw const METHODS;
    }
    Ok(())
}

/// # Safety
/// `file` is null or a file object with [`METHODS`], which stays open for `'a`.
unsafe fn opened<'a>(file: *mut RawFile) -> Result<&'a WalFile, Code> {
    if file.is_null() {
        return Err(Code::MISUSE);
    }
    // SAFETY: only `install` sets these methods, after the state.
    unsafe { (*file.cast::<Head>()).wal.as_ref() }.ok_or(Code::MISUSE)
}

unsafe extern "C" fn x_close(file: *mut RawFile) -> c_int {
    guard(Code::IOERR, || {
        // SAFETY: SQLite closes a file object that it has opened, once, after every other call has returned.
        let wal = unsafe { opened(file) }?;
        let closed = guard_value(Err(Code::IOERR), || {
            wal.handle.wal_close();
            Ok(())
        });
        // SAFETY: the state came from `Box::into_raw` in `install`, and nobody uses it after this call.
        unsafe {
            let head: *mut Head = file.cast();
            (*head).file.methods = std::ptr::null();
            drop(Box::from_raw(std::mem::replace(&mut (*head).wal, std::ptr::null_mut())));
        }
        closed
    })
}

unsafe extern "C" fn x_read(file: *mut RawFile, data: *mut c_void, bytes: c_int, offset: i64) -> c_int {
    guard(Code::IOERR_READ, || {
        // SAFETY: SQLite's open file, and its buffer of so many bytes.
        let (wal, buffer) = unsafe { (opened(file)?, bytes_mut(data, bytes).ok_or(Code::IOERR_READ)?) };
        let offset = u64::try_from(offset).map_err(|_| Code::IOERR_READ)?;
        wal.handle.wal_read(&mut wal.base.clone(), buffer, offset)
    })
}

unsafe extern "C" fn x_write(file: *mut RawFile, data: *const c_void, bytes: c_int, offset: i64) -> c_int {
    guard(Code::IOERR_WRITE, || {
        // SAFETY: SQLite's open file, and its buffer of so many bytes.
        let (wal, data) = unsafe { (opened(file)?, bytes_of(data, bytes).ok_or(Code::IOERR_WRITE)?) };
        let offset = u64::try_from(offset).map_err(|_| Code::IOERR_WRITE)?;
        wal.handle.wal_write(data, offset)
    })
}

unsafe extern "C" fn x_truncate(file: *mut RawFile, bytes: i64) -> c_int {
    guard(Code::IOERR_TRUNCATE, || {
        // SAFETY: SQLite's open file.
        let wal = unsafe { opened(file) }?;
        wal.handle.wal_truncate(u64::try_from(bytes).map_err(|_| Code::IOERR_TRUNCATE)?)
    })
}

unsafe extern "C" fn x_sync(file: *mut RawFile, flags: c_int) -> c_int {
    guard(Code::IOERR_FSYNC, || {
        // SAFETY: SQLite's open file.
        unsafe { opened(file) }?.handle.wal_sync(flags)
    })
}

unsafe extern "C" fn x_file_size(file: *mut RawFile, out: *mut i64) -> c_int {
    guard(Code::IOERR_FSTAT, || {
        // SAFETY: SQLite's open file, and a variable of the caller.
        let (wal, out) = unsafe { (opened(file)?, out.as_mut().ok_or(Code::MISUSE)?) };
        *out = i64::try_from(wal.handle.wal_bytes()?).map_err(|_| Code::IOERR_FSTAT)?;
        Ok(())
    })
}

/// SQLite locks the main file only.
unsafe extern "C" fn x_lock(_file: *mut RawFile, _level: c_int) -> c_int {
    guard(Code::IOERR_LOCK, || Ok(()))
}

unsafe extern "C" fn x_check_reserved_lock(_file: *mut RawFile, out: *mut c_int) -> c_int {
    guard(Code::IOERR_LOCK, || {
        // SAFETY: a variable of the caller, or null.
        *unsafe { out.as_mut() }.ok_or(Code::MISUSE)? = 0;
        Ok(())
    })
}

unsafe extern "C" fn x_file_control(_file: *mut RawFile, _operation: c_int, _argument: *mut c_void) -> c_int {
    guard(Code::IOERR, || Err(Code::NOTFOUND))
}

unsafe extern "C" fn x_sector_size(file: *mut RawFile) -> c_int {
    guard_value(0, || {
        crate::handle::entered();
        // SAFETY: SQLite's open file; its main file outlives it.
        unsafe { opened(file) }.map_or(0, |wal| wal.base.sector_size())
    })
}

unsafe extern "C" fn x_device_characteristics(file: *mut RawFile) -> c_int {
    guard_value(0, || {
        crate::handle::entered();
        // SAFETY: SQLite's open file; its main file outlives it.
        unsafe { opened(file) }.map_or(0, |wal| wal.base.device_characteristics())
    })
}

/// Version 1: shared memory and mapping belong to the main file.
static METHODS: IoMethods = IoMethods {
    version: 1,
    close: Some(x_close),
    read: Some(x_read),
    write: Some(x_write),
    truncate: Some(x_truncate),
    sync: Some(x_sync),
    file_size: Some(x_file_size),
    lock: Some(x_lock),
    unlock: Some(x_lock),
    check_reserved_lock: Some(x_check_reserved_lock),
    file_control: Some(x_file_control),
    sector_size: Some(x_sector_size),
    device_characteristics: Some(x_device_characteristics),
    shm_map: None,
    shm_lock: None,
    shm_barrier: None,
    shm_unmap: None,
    fetch: None,
    unfetch: None,
};
