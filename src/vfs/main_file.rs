//! The file object of a main database: a head that names our state, which holds the base VFS's own file object. Each method is
//! one call of [`Handle`].
//!
//! SQLite calls the methods of one file object from one thread at a time, under the mutex of
//! the connection (or of the shared cache). `pwal_status()` looks in from another thread: so the
//! state is shared (`&MainFile`), and what changes in it is atomic or behind a lock.

use super::above;
use super::base::{RawBase, lock_level, lock_number};
use super::callback::{callback, callback_value};
use super::database_handle;
use super::pager::{BusyHandler, PagerOfFile};
use super::registration::Registration;
use crate::handle::{Handle, PragmaAnswer, ShmAction};
use crate::sqlite::Code;
use crate::sqlite::ffi::{self, Connection, IoMethods, RawFile};
use crate::sync::Mutex;
use crate::view::{REGION_BYTES, Region};
use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicPtr, AtomicU8, Ordering, fence};

/// One open main database file.
pub(super) struct MainFile {
    registration: &'static Registration,
    handle: Arc<Handle>,
    base: RawBase,
    /// The memory of the base's file object. Not after our head: a VFS above may move that elsewhere (`apndOpen`).
    _room: Box<[u64]>,
    /// The source of this connection's shared memory.
    shm: AtomicU8,
    /// The regions that SQLite may have pointers into, until `xShmUnmap`.
    regions: Mutex<Vec<Arc<Region>>>,
    /// SQLite's names of this file and of its WAL: known to `Registration::names` as long as this lives.
    name: *const c_char,
    wal_name: *const c_char,
    /// Of `SQLITE_FCNTL_BUSYHANDLER`, which comes before the pager is known (`sqlite3BtreeOpen`).
    busy_handler: AtomicPtr<BusyHandler>,
}

const SHM_NONE: u8 = 0;
const SHM_BASE: u8 = 1;
const SHM_VIEW: u8 = 2;

/// How our file objects begin.
#[repr(C)]
struct Head {
    file: RawFile,
    /// From `Box::into_raw`; null if the file is not open.
    main: *mut MainFile,
}

/// Where room for a file object of the base's begins: SQLite aligns file objects to 8 bytes.
pub(super) const HEAD_BYTES: usize = size_of::<Head>().next_multiple_of(8);

impl MainFile {
    pub(super) fn new(
        registration: &'static Registration,
        handle: Arc<Handle>,
        (base, room): (RawBase, Box<[u64]>),
        (name, wal_name): (*const c_char, *const c_char),
    ) -> MainFile {
        let (shm, regions) = (AtomicU8::new(SHM_NONE), Mutex::new(Vec::new()));
        let busy_handler = AtomicPtr::default();
        MainFile { registration, handle, base, _room: room, shm, regions, name, wal_name, busy_handler }
    }

    pub(super) fn handle(&self) -> &Arc<Handle> {
        &self.handle
    }

    pub(super) fn base(&self) -> RawBase {
        self.base
    }

    /// Puts this state into SQLite's file object, which is open from here on.
    ///
    /// # Safety
    /// `file` is the file object of this `xOpen`, and the WAL's name a C string.
    pub(super) unsafe fn install(self, file: *mut RawFile) {
        let methods = methods_for(self.base);
        let head: *mut Head = file.cast();
        // SAFETY: by the contract; `szOsFile` of our VFS covers the head.
        unsafe {
            self.registration.names.add((self.name, self.wal_name), &self.handle, self.base, file);
            (*head).main = Box::into_raw(Box::new(self));
            (*head).file.methods = methods;
        }
    }

    /// The state of a file object of ours; `None` if it is another VFS's, or not open.
    ///
    /// # Safety
    /// `file` is null or a file object of SQLite's, which stays open for `'a`.
    pub(super) unsafe fn of<'a>(file: *mut RawFile) -> Option<&'a MainFile> {
        if file.is_null() {
            return None;
        }
        // SAFETY: every file object has the method pointer; only ours point to our tables, and those have the
        // head; `install` sets the state before the methods, `x_close` takes both away.
        unsafe {
            let methods = (*file).methods;
            if !TABLES.iter().any(|table| std::ptr::eq(methods, *table)) {
                return None;
            }
            (*file.cast::<Head>()).main.as_ref()
        }
    }

    fn shm_is_of_view(&self) -> bool {
        match self.shm.load(Ordering::Acquire) {
            SHM_NONE => self.handle.is_on_pwal(),
            kind => kind == SHM_VIEW,
        }
    }

    fn shm_map(&self, index: u32, bytes: c_int, extend: bool) -> Result<*mut c_void, Code> {
        if usize::try_from(bytes) != Ok(REGION_BYTES) {
            return Err(Code::IOERR_SHMMAP);
        }
        let Some(region) = self.handle.shm_map(index, extend)? else {
            return Ok(std::ptr::null_mut());
        };
        // The memory is atomics all through, so that SQLite may write to it beside us.
        let pointer = Arc::as_ptr(&region).cast_mut().cast();
        let mut regions = self.regions.lock();
        if !regions.iter().any(|known| Arc::ptr_eq(known, &region)) {
            regions.push(region);
        }
        self.shm.store(SHM_VIEW, Ordering::Release);
        Ok(pointer)
    }
}

/// The bytes that SQLite passed.
///
/// # Safety
/// `data` is null or has `bytes` bytes, which are not used elsewhere during the call.
pub(super) unsafe fn bytes_mut<'a>(data: *mut c_void, bytes: c_int) -> Option<&'a mut [u8]> {
    let bytes = usize::try_from(bytes).ok()?;
    // SAFETY: by the contract.
    (!data.is_null()).then(|| unsafe { std::slice::from_raw_parts_mut(data.cast(), bytes) })
}

/// The bytes that SQLite passed.
///
/// # Safety
/// `data` is null or has `bytes` bytes, which do not change during the call.
pub(super) unsafe fn bytes_of<'a>(data: *const c_void, bytes: c_int) -> Option<&'a [u8]> {
    let bytes = usize::try_from(bytes).ok()?;
    // SAFETY: by the contract.
    (!data.is_null()).then(|| unsafe { std::slice::from_raw_parts(data.cast(), bytes) })
}

/// The state, or the error that says a file of ours is not open.
///
/// # Safety
/// As [`MainFile::of`].
unsafe fn opened<'a>(file: *mut RawFile) -> Result<&'a MainFile, Code> {
    // SAFETY: by the contract.
    unsafe { MainFile::of(file) }.ok_or(Code::MISUSE)
}

unsafe extern "C" fn x_close(file: *mut RawFile) -> c_int {
    callback(Code::IOERR, || {
        // SAFETY: SQLite closes a file object that it has opened, once, after every other call has returned.
        let main = unsafe { opened(file) }?;
        main.registration.names.remove(main.wal_name);
        let closed = callback_value(Err(Code::IOERR), || {
            main.handle.close();
            Ok(())
        });
        let base = main.base.close();
        // SAFETY: `main` came from `Box::into_raw` in `install`, and is not used after this call.
        unsafe {
            let head: *mut Head = file.cast();
            (*head).file.methods = std::ptr::null();
            drop(Box::from_raw(std::mem::replace(&mut (*head).main, std::ptr::null_mut())));
        }
        base.and(closed)
    })
}

unsafe extern "C" fn x_read(file: *mut RawFile, data: *mut c_void, bytes: c_int, offset: i64) -> c_int {
    callback(Code::IOERR_READ, || {
        // SAFETY: SQLite's open file, and its buffer of `bytes` bytes.
        let (main, buffer) = unsafe { (opened(file)?, bytes_mut(data, bytes).ok_or(Code::IOERR_READ)?) };
        let offset = u64::try_from(offset).map_err(|_| Code::IOERR_READ)?;
        main.handle.read(&mut main.base(), buffer, offset)
    })
}

unsafe extern "C" fn x_write(file: *mut RawFile, data: *const c_void, bytes: c_int, offset: i64) -> c_int {
    callback(Code::IOERR_WRITE, || {
        // SAFETY: SQLite's open file, and its buffer of `bytes` bytes.
        let (main, data) = unsafe { (opened(file)?, bytes_of(data, bytes).ok_or(Code::IOERR_WRITE)?) };
        let offset = u64::try_from(offset).map_err(|_| Code::IOERR_WRITE)?;
        main.handle.write(&mut main.base(), data, offset)
    })
}

unsafe extern "C" fn x_truncate(file: *mut RawFile, bytes: i64) -> c_int {
    callback(Code::IOERR_TRUNCATE, || {
        // SAFETY: SQLite's open file.
        let main = unsafe { opened(file) }?;
        let bytes = u64::try_from(bytes).map_err(|_| Code::IOERR_TRUNCATE)?;
        main.handle.truncate(&mut main.base(), bytes)
    })
}

unsafe extern "C" fn x_sync(file: *mut RawFile, flags: c_int) -> c_int {
    callback(Code::IOERR_FSYNC, || {
        // SAFETY: SQLite's open file.
        let main = unsafe { opened(file) }?;
        main.handle.sync(&mut main.base(), flags)
    })
}

unsafe extern "C" fn x_file_size(file: *mut RawFile, out: *mut i64) -> c_int {
    callback(Code::IOERR_FSTAT, || {
        // SAFETY: SQLite's open file, and a variable of the caller.
        let (main, out) = unsafe { (opened(file)?, out.as_mut().ok_or(Code::MISUSE)?) };
        let bytes = main.handle.bytes(&mut main.base())?;
        *out = i64::try_from(bytes).map_err(|_| Code::IOERR_FSTAT)?;
        Ok(())
    })
}

unsafe extern "C" fn x_lock(file: *mut RawFile, level: c_int) -> c_int {
    callback(Code::IOERR_LOCK, || {
        // SAFETY: SQLite's open file.
        let main = unsafe { opened(file) }?;
        if database_handle::opens_private_connection() {
            // An automatic extension of the host's, inside the claim of a database by this very thread: it would wait for itself.
            return Err(Code::BUSY);
        }
        main.handle.lock(&mut main.base(), lock_level(level)?)
    })
}

unsafe extern "C" fn x_unlock(file: *mut RawFile, level: c_int) -> c_int {
    callback(Code::IOERR_UNLOCK, || {
        // SAFETY: SQLite's open file.
        let main = unsafe { opened(file) }?;
        main.handle.unlock(&mut main.base(), lock_level(level)?)
    })
}

unsafe extern "C" fn x_check_reserved_lock(file: *mut RawFile, out: *mut c_int) -> c_int {
    callback(Code::IOERR_LOCK, || {
        // SAFETY: SQLite's open file, and a variable of the caller.
        let (main, out) = unsafe { (opened(file)?, out.as_mut().ok_or(Code::MISUSE)?) };
        *out = c_int::from(main.handle.check_reserved_lock(&mut main.base())?);
        Ok(())
    })
}

unsafe extern "C" fn x_file_control(file: *mut RawFile, operation: c_int, argument: *mut c_void) -> c_int {
    callback(Code::IOERR, || {
        // SAFETY: SQLite's open file, and an argument as the operation demands it.
        unsafe {
            let main = opened(file)?;
            match operation {
                ffi::FCNTL_PRAGMA => pragma(main, argument),
                ffi::FCNTL_COMMIT_PHASETWO if above::is_trial(file) => Ok(()),
                ffi::FCNTL_COMMIT_PHASETWO => commit_phase_two(main, argument),
                ffi::FCNTL_VFSNAME => vfs_name(main, argument),
                ffi::FCNTL_PDB => {
                    let place: *const *mut Connection = argument.cast();
                    if !place.is_null() {
                        let busy_handler = main.busy_handler.load(SeqCst);
                        let is_on_pwal = |file| MainFile::of(file).map(|main| main.handle.is_on_pwal());
                        let pager =
                            PagerOfFile::new(main.registration, file, main.name, place, busy_handler, is_on_pwal);
                        main.handle.set_pager(Box::new(pager));
                    }
                    main.base.file_control(operation, argument)
                }
                ffi::FCNTL_BUSYHANDLER => {
                    main.busy_handler.store(argument.cast(), SeqCst);
                    main.base.file_control(operation, argument)
                }
                // The base holds no lock of a joined handle.
                ffi::FCNTL_LOCKSTATE | ffi::FCNTL_EXTERNAL_READER if main.handle.is_on_pwal() => {
                    main.handle.other_call();
                    let value = match operation {
                        ffi::FCNTL_LOCKSTATE => lock_number(main.handle.lock_level()),
                        _ => c_int::from(main.handle.has_external_reader()),
                    };
                    *argument.cast::<c_int>().as_mut().ok_or(Code::MISUSE)? = value;
                    Ok(())
                }
                // The file belongs to the engine: a hint must not make it longer.
                ffi::FCNTL_SIZE_HINT if main.handle.is_on_pwal() => {
                    main.handle.other_call();
                    Ok(())
                }
                _ => {
                    main.handle.other_call();
                    main.base.file_control(operation, argument)
                }
            }
        }
    })
}

/// `SQLITE_FCNTL_COMMIT_PHASETWO`: the result is the result of COMMIT, so once a commit is
/// published the base has no say; without an engine it decides alone.
///
/// # Safety
/// The file control's argument.
unsafe fn commit_phase_two(main: &MainFile, argument: *mut c_void) -> Result<(), Code> {
    let joined = main.handle.is_on_pwal();
    main.handle.commit_phase_two()?;
    if joined {
        return Ok(());
    }
    // SAFETY: passed on as it came.
    unsafe { main.base.file_control(ffi::FCNTL_COMMIT_PHASETWO, argument) }
}

/// `SQLITE_FCNTL_VFSNAME`: puts `pwal/` before what the base says.
///
/// # Safety
/// `argument` is a `char**` that takes text made by `sqlite3_malloc`.
unsafe fn vfs_name(main: &MainFile, argument: *mut c_void) -> Result<(), Code> {
    main.handle.other_call();
    let api = &main.registration.api;
    // SAFETY: a `char**`, by the contract; the base's answer is its own allocation, which is ours from there on.
    unsafe {
        let out = argument.cast::<*mut c_char>().as_mut().ok_or(Code::MISUSE)?;
        let below = match main.base.file_control(ffi::FCNTL_VFSNAME, argument) {
            Ok(()) if !out.is_null() => {
                let below = CStr::from_ptr(*out).to_string_lossy().into_owned();
                (api.free)(out.cast());
                below
            }
            _ => main.registration.base.name(),
        };
        *out = api.copy_text(&format!("{}/{below}", main.registration.name()));
        if out.is_null() { Err(Code::NOMEM) } else { Ok(()) }
    }
}

/// `SQLITE_FCNTL_PRAGMA`: asks the handle, then the base.
///
/// # Safety
/// `argument` is an array of three `char*`: the answer, the name, the value or null.
unsafe fn pragma(main: &MainFile, argument: *mut c_void) -> Result<(), Code> {
    let arguments: *mut *mut c_char = argument.cast();
    if arguments.is_null() {
        return Err(Code::NOTFOUND);
    }
    // SAFETY: three pointers, by the contract; name and value are C strings that outlive the call.
    let (name, value) = unsafe {
        let text = |at: usize| {
            let text = *arguments.add(at);
            (!text.is_null()).then(|| CStr::from_ptr(text).to_string_lossy())
        };
        (text(1), text(2))
    };
    let answer = match &name {
        Some(name) => main.handle.pragma(&mut main.base(), name, value.as_deref()),
        None => PragmaAnswer::NotMine,
    };
    let (text, result) = match answer {
        PragmaAnswer::Row(text) => (text, Ok(())),
        PragmaAnswer::Error(text) => (text, Err(Code::ERROR)),
        // SAFETY: passed on as it came.
        PragmaAnswer::NotMine => return unsafe { main.base.file_control(ffi::FCNTL_PRAGMA, argument) },
    };
    let copy = main.registration.api.copy_text(&text);
    if copy.is_null() {
        return Err(Code::NOMEM);
    }
    // SAFETY: SQLite frees the answer.
    unsafe { arguments.write(copy) };
    result
}

unsafe extern "C" fn x_sector_size(file: *mut RawFile) -> c_int {
    callback_value(0, || {
        crate::handle::entered();
        // SAFETY: SQLite's open file.
        unsafe { MainFile::of(file) }.map_or(0, |main| main.base.sector_size())
    })
}

unsafe extern "C" fn x_device_characteristics(file: *mut RawFile) -> c_int {
    callback_value(0, || {
        if above::is_trial(file) {
            return above::TRIED_CHARACTERISTICS;
        }
        crate::handle::entered();
        // SAFETY: SQLite's open file.
        unsafe { MainFile::of(file) }.map_or(0, |main| main.handle.characteristics(main.base.device_characteristics()))
    })
}

unsafe extern "C" fn x_shm_map(
    file: *mut RawFile,
    region: c_int,
    bytes: c_int,
    extend: c_int,
    out: *mut *mut c_void,
) -> c_int {
    callback(Code::IOERR_SHMMAP, || {
        // SAFETY: SQLite's open file, and a variable of the caller.
        let (main, pointer) = unsafe { (opened(file)?, out.as_mut().ok_or(Code::MISUSE)?) };
        if above::is_trial(file) {
            // As for a region that is not there yet.
            *pointer = std::ptr::null_mut();
            return Ok(());
        }
        if main.shm_is_of_view() {
            *pointer = std::ptr::null_mut();
            let region = u32::try_from(region).map_err(|_| Code::IOERR_SHMMAP)?;
            *pointer = main.shm_map(region, bytes, extend != 0)?;
            return Ok(());
        }
        main.shm.store(SHM_BASE, Ordering::Release);
        // SAFETY: the caller's variable.
        unsafe { main.base.shm_map(region, bytes, extend, out) }
    })
}

unsafe extern "C" fn x_shm_lock(file: *mut RawFile, first: c_int, count: c_int, flags: c_int) -> c_int {
    callback(Code::IOERR_LOCK, || {
        // SAFETY: SQLite's open file.
        let main = unsafe { opened(file) }?;
        if above::is_trial(file) {
            return Err(Code::BUSY);
        }
        if !main.shm_is_of_view() {
            return main.base.shm_lock(first, count, flags);
        }
        const LOCK_SHARED: c_int = ffi::SHM_LOCK | ffi::SHM_SHARED;
        const LOCK_EXCLUSIVE: c_int = ffi::SHM_LOCK | ffi::SHM_EXCLUSIVE;
        const UNLOCK_SHARED: c_int = ffi::SHM_UNLOCK | ffi::SHM_SHARED;
        const UNLOCK_EXCLUSIVE: c_int = ffi::SHM_UNLOCK | ffi::SHM_EXCLUSIVE;
        let action = match flags {
            LOCK_SHARED => ShmAction::LockShared,
            LOCK_EXCLUSIVE => ShmAction::LockExclusive,
            UNLOCK_SHARED => ShmAction::UnlockShared,
            UNLOCK_EXCLUSIVE => ShmAction::UnlockExclusive,
            _ => return Err(Code::MISUSE),
        };
        let first = u32::try_from(first).map_err(|_| Code::MISUSE)?;
        main.handle.shm_lock(&mut main.base(), first, action)
    })
}

unsafe extern "C" fn x_shm_barrier(file: *mut RawFile) {
    callback_value((), || {
        crate::handle::entered();
        // SAFETY: SQLite's open file.
        match unsafe { MainFile::of(file) } {
            Some(main) if !main.shm_is_of_view() => main.base.shm_barrier(),
            _ => fence(Ordering::SeqCst),
        }
    });
}

unsafe extern "C" fn x_shm_unmap(file: *mut RawFile, delete: c_int) -> c_int {
    callback(Code::IOERR_SHMMAP, || {
        // SAFETY: SQLite's open file.
        let main = unsafe { opened(file) }?;
        let of_view = main.shm_is_of_view();
        main.shm.store(SHM_NONE, Ordering::Release);
        if of_view {
            main.handle.shm_unmap();
            // SQLite has forgotten its pointers (`walIndexClose`).
            main.regions.lock().clear();
            return Ok(());
        }
        main.base.shm_unmap(delete)
    })
}

unsafe extern "C" fn x_fetch(file: *mut RawFile, offset: i64, bytes: c_int, out: *mut *mut c_void) -> c_int {
    callback(Code::IOERR_READ, || {
        // SAFETY: SQLite's open file, and a variable of the caller.
        let (main, page) = unsafe { (opened(file)?, out.as_mut().ok_or(Code::MISUSE)?) };
        *page = std::ptr::null_mut();
        if main.handle.is_on_pwal() {
            return Ok(());
        }
        // SAFETY: the caller's variable.
        unsafe { main.base.fetch(offset, bytes, page) }
    })
}

unsafe extern "C" fn x_unfetch(file: *mut RawFile, offset: i64, page: *mut c_void) -> c_int {
    callback(Code::IOERR, || {
        // SAFETY: SQLite's open file.
        let main = unsafe { opened(file) }?;
        // SAFETY: what `x_fetch` gave, or null.
        unsafe { main.base.unfetch(offset, page) }
    })
}

const VERSION_3: IoMethods = IoMethods {
    version: 3,
    close: Some(x_close),
    read: Some(x_read),
    write: Some(x_write),
    truncate: Some(x_truncate),
    sync: Some(x_sync),
    file_size: Some(x_file_size),
    lock: Some(x_lock),
    unlock: Some(x_unlock),
    check_reserved_lock: Some(x_check_reserved_lock),
    file_control: Some(x_file_control),
    sector_size: Some(x_sector_size),
    device_characteristics: Some(x_device_characteristics),
    shm_map: Some(x_shm_map),
    shm_lock: Some(x_shm_lock),
    shm_barrier: Some(x_shm_barrier),
    shm_unmap: Some(x_shm_unmap),
    fetch: Some(x_fetch),
    unfetch: Some(x_unfetch),
};

static METHODS_1: IoMethods = IoMethods { version: 1, ..VERSION_3 };
static METHODS_2: IoMethods = IoMethods { version: 2, ..VERSION_3 };
static METHODS_3: IoMethods = VERSION_3;
/// SQLite takes a missing `xShmMap` as "no WAL here" (`sqlite3PagerWalSupported`): say it as the base does.
static METHODS_3_NO_SHM: IoMethods = IoMethods { shm_map: None, ..VERSION_3 };
static TABLES: [&IoMethods; 4] = [&METHODS_1, &METHODS_2, &METHODS_3, &METHODS_3_NO_SHM];

/// The table that promises what the base's does, no more and no less.
fn methods_for(base: RawBase) -> &'static IoMethods {
    match base.version() {
        ..=1 => &METHODS_1,
        2 if base.has_shm() => &METHODS_2,
        2 => &METHODS_1,
        _ if base.has_shm() => &METHODS_3,
        _ => &METHODS_3_NO_SHM,
    }
}
