//! The virtual WAL of a joined handle: a file object without a file of its own. Where the connection has the database for itself
//! (`locking_mode=EXCLUSIVE`) the base's `-wal` is, whose file object follows our head.
//!
//! SQLite opens it while the main file is open and closes it before (`sqlite3PagerClose`), so
//! it may read the database through the main file's base handle.

use super::base::{BaseVfs, RawBase};
use super::callback::{callback, callback_value};
use super::main_file::{HEAD_BYTES, bytes_mut, bytes_of};
use crate::handle::{BaseFile, Handle};
use crate::sqlite::Code;
use crate::sqlite::ffi::{self, IoMethods, RawFile};
use crate::sync::Mutex;
use std::ffi::{c_char, c_int, c_void};
use std::sync::Arc;

struct WalFile {
    handle: Arc<Handle>,
    /// The connection's own handle on the database file.
    base: RawBase,
    /// What opens the real `-wal`, and its name, which SQLite keeps as long as the main file is open.
    vfs: BaseVfs,
    name: *const c_char,
    /// Room for the real one's file object.
    room: *mut RawFile,
    /// The real one that is open, and its number (`Handle::real_wal`).
    real: Mutex<Option<(u64, RawBase)>>,
}

impl WalFile {
    /// The real `-wal` that this file stands for now, opened with the first call that needs it.
    fn real(&self) -> Result<Option<RawBase>, Code> {
        if !self.handle.may_have_real_wal() {
            return Ok(None);
        }
        let wanted = self.handle.real_wal()?;
        let mut real = self.real.lock();
        match (*real, wanted) {
            (Some((number, file)), Some(wanted)) if number == wanted => return Ok(Some(file)),
            (Some((_, file)), _) => {
                *real = None;
                file.close()?;
            }
            (None, _) => {}
        }
        let Some(number) = wanted else { return Ok(None) };
        let flags = ffi::OPEN_READWRITE | ffi::OPEN_CREATE | ffi::OPEN_WAL;
        let mut opened_with: c_int = 0;
        // SAFETY: SQLite's own name of the WAL; `szOsFile` of our VFS has room for the base's file object after the head, where none is
        // open now.
        let file = unsafe {
            (*self.room).methods = std::ptr::null();
            let opened = self.vfs.open(self.name, self.room, flags, &raw mut opened_with);
            let file = (!(*self.room).methods.is_null()).then(|| RawBase::new(self.room));
            if let Err(code) = opened {
                // A failed open that leaves methods wants `xClose`.
                file.map_or(Ok(()), RawBase::close)?;
                return Err(code);
            }
            file.ok_or(Code::CANTOPEN)?
        };
        *real = Some((number, file));
        Ok(Some(file))
    }
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
/// `file` is the file object of this `xOpen`, and `name` its name; `base` stays open until it is closed.
pub(super) unsafe fn install(
    handle: Arc<Handle>,
    base: RawBase,
    vfs: BaseVfs,
    name: *const c_char,
    file: *mut RawFile,
) -> Result<(), Code> {
    handle.wal_open()?;
    let head: *mut Head = file.cast();
    // SAFETY: `szOsFile` of our VFS covers the head, and after it the base's file object.
    unsafe {
        let room = file.byte_add(HEAD_BYTES);
        let wal = WalFile { handle, base, vfs, name, room, real: Mutex::new(None) };
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
    callback(Code::IOERR, || {
        // SAFETY: SQLite closes a file object that it has opened, once, after every other call has returned.
        let wal = unsafe { opened(file) }?;
        let closed = callback_value(Err(Code::IOERR), || {
            wal.handle.wal_close();
            wal.real.lock().take().map_or(Ok(()), |(_, file)| file.close())
        });
        // SAFETY: the state came from `Box::into_raw` in `install`, and is not used after this call.
        unsafe {
            let head: *mut Head = file.cast();
            (*head).file.methods = std::ptr::null();
            drop(Box::from_raw(std::mem::replace(&mut (*head).wal, std::ptr::null_mut())));
        }
        closed
    })
}

unsafe extern "C" fn x_read(file: *mut RawFile, data: *mut c_void, bytes: c_int, offset: i64) -> c_int {
    callback(Code::IOERR_READ, || {
        // SAFETY: SQLite's open file, and its buffer of `bytes` bytes.
        let (wal, buffer) = unsafe { (opened(file)?, bytes_mut(data, bytes).ok_or(Code::IOERR_READ)?) };
        let offset = u64::try_from(offset).map_err(|_| Code::IOERR_READ)?;
        match wal.real()? {
            Some(mut real) => real.read(buffer, offset),
            None => wal.handle.wal_read(&mut wal.base.clone(), buffer, offset),
        }
    })
}

unsafe extern "C" fn x_write(file: *mut RawFile, data: *const c_void, bytes: c_int, offset: i64) -> c_int {
    callback(Code::IOERR_WRITE, || {
        // SAFETY: SQLite's open file, and its buffer of `bytes` bytes.
        let (wal, data) = unsafe { (opened(file)?, bytes_of(data, bytes).ok_or(Code::IOERR_WRITE)?) };
        let offset = u64::try_from(offset).map_err(|_| Code::IOERR_WRITE)?;
        match wal.real()? {
            Some(mut real) => real.write(data, offset),
            None => wal.handle.wal_write(&mut wal.base.clone(), data, offset),
        }
    })
}

unsafe extern "C" fn x_truncate(file: *mut RawFile, bytes: i64) -> c_int {
    callback(Code::IOERR_TRUNCATE, || {
        // SAFETY: SQLite's open file.
        let wal = unsafe { opened(file) }?;
        let bytes = u64::try_from(bytes).map_err(|_| Code::IOERR_TRUNCATE)?;
        match wal.real()? {
            Some(mut real) => real.truncate(bytes),
            // The virtual WAL has no size of its own.
            None => Ok(()),
        }
    })
}

unsafe extern "C" fn x_sync(file: *mut RawFile, flags: c_int) -> c_int {
    callback(Code::IOERR_FSYNC, || {
        // SAFETY: SQLite's open file.
        let wal = unsafe { opened(file) }?;
        match wal.real()? {
            Some(mut real) => real.sync(flags),
            None => wal.handle.wal_sync(),
        }
    })
}

unsafe extern "C" fn x_file_size(file: *mut RawFile, out: *mut i64) -> c_int {
    callback(Code::IOERR_FSTAT, || {
        // SAFETY: SQLite's open file, and a variable of the caller.
        let (wal, out) = unsafe { (opened(file)?, out.as_mut().ok_or(Code::MISUSE)?) };
        let bytes = match wal.real()? {
            Some(mut real) => real.bytes()?,
            None => wal.handle.wal_bytes()?,
        };
        *out = i64::try_from(bytes).map_err(|_| Code::IOERR_FSTAT)?;
        Ok(())
    })
}

/// SQLite locks the main file only.
unsafe extern "C" fn x_lock(_file: *mut RawFile, _level: c_int) -> c_int {
    callback(Code::IOERR_LOCK, || Ok(()))
}

unsafe extern "C" fn x_check_reserved_lock(_file: *mut RawFile, out: *mut c_int) -> c_int {
    callback(Code::IOERR_LOCK, || {
        // SAFETY: a variable of the caller, or null.
        *unsafe { out.as_mut() }.ok_or(Code::MISUSE)? = 0;
        Ok(())
    })
}

unsafe extern "C" fn x_file_control(_file: *mut RawFile, _operation: c_int, _argument: *mut c_void) -> c_int {
    callback(Code::IOERR, || Err(Code::NOTFOUND))
}

unsafe extern "C" fn x_sector_size(file: *mut RawFile) -> c_int {
    callback_value(0, || {
        crate::handle::entered();
        // SAFETY: SQLite's open file; its main file outlives it.
        unsafe { opened(file) }.map_or(0, |wal| wal.base.sector_size())
    })
}

unsafe extern "C" fn x_device_characteristics(file: *mut RawFile) -> c_int {
    callback_value(0, || {
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
