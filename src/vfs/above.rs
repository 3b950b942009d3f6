//! Another VFS above ours, whose file objects SQLite calls in place of ours.
//!
//! A log can be served through it only if it passes on what a log needs: `SQLITE_FCNTL_COMMIT_PHASETWO`, by which a commit is
//! published, the shared memory with its locks, by which snapshots are taken, and `xDeviceCharacteristics`, or SQLite would write
//! the WAL in other pieces (`walWriteToLog`). Whether it does is tried once for each VFS and
//! table of methods, when SQLite has opened a connection and is in no call of a VFS (`sqlite3_auto_extension`): a VFS above may
//! hold a mutex of its own while it calls ours. The calls are made on the file object that SQLite has, with a mark on this
//! thread; a method of ours that finds the mark notes that it was reached, and does nothing else.
//!
//! An attached database has no such moment. It is served where the VFS above it has been tried at a main database.
//!
//! A trial promises nothing of later calls. So `handle` checks what comes through such a VFS, and [`withdraw`]s the trust where
//! something is missing.

use super::registration;
use crate::sqlite::Api;
use crate::sqlite::ffi::{self, Connection, IoMethods, RawFile, RawVfs};
use crate::sync::Mutex;
use std::cell::Cell;
use std::ffi::{CStr, c_int};

/// A VFS above ours, and the methods of a file object of its own; addresses that are only compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Above {
    vfs: usize,
    methods: usize,
}

/// The VFSes that were tried, and whether they pass on what a log needs.
static TRIED: Mutex<Vec<(Above, bool)>> = Mutex::new(Vec::new());

/// Beyond this number the oldest is forgotten: a VFS may make a table of methods for each file.
const TRIED_MAX: usize = 64;

/// `SQLITE_IOCAP_POWERSAFE_OVERWRITE`: what a trial is answered.
pub(super) const TRIED_CHARACTERISTICS: c_int = 0x1000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trial {
    No,
    /// The next call of this thread that reaches a file of ours is none of SQLite's.
    Calls,
    /// It has reached the file object at this address.
    Reached(usize),
}

thread_local! {
    static TRIAL: Cell<Trial> = const { Cell::new(Trial::No) };
}

/// Whether this call on a main file of ours is a trial, to be answered without effect.
pub(super) fn is_trial(file: *mut RawFile) -> bool {
    let is_trial = TRIAL.get() != Trial::No;
    if is_trial {
        TRIAL.set(Trial::Reached(file.addr()));
    }
    is_trial
}

/// Whether `call`, on a file object above, reaches the file object of ours at this address.
fn reaches(file: usize, call: impl FnOnce()) -> bool {
    TRIAL.set(Trial::Calls);
    call();
    TRIAL.replace(Trial::No) == Trial::Reached(file)
}

impl Above {
    /// The VFS and the file object of a database that is on no file object of ours.
    ///
    /// # Safety
    /// `connection` is an open connection of the SQLite of `api`, in use by this thread; `file` is the file object of that schema,
    /// and open.
    pub(super) unsafe fn of(api: &Api, connection: *mut Connection, schema: &CStr, file: *mut RawFile) -> Above {
        let mut vfs: *mut RawVfs = std::ptr::null_mut();
        // SAFETY: the file control stores a pointer and calls no VFS (`sqlite3_file_control`).
        unsafe {
            let out = (&raw mut vfs).cast();
            (api.file_control)(connection, schema.as_ptr(), ffi::FCNTL_VFS_POINTER, out);
            Above { vfs: vfs.addr(), methods: (*file).methods.addr() }
        }
    }

    /// Whether it was tried, and passes on what a log needs.
    pub(super) fn passes_on(self) -> bool {
        TRIED.lock().iter().any(|(tried, passes_on)| *tried == self && *passes_on)
    }

    /// It has kept something back: from now on it is not trusted.
    pub(super) fn withdraw(self) {
        self.note(false);
    }

    fn note(self, passes_on: bool) {
        let mut tried = TRIED.lock();
        tried.retain(|(other, _)| *other != self);
        if tried.len() >= TRIED_MAX {
            tried.remove(0);
        }
        tried.push((self, passes_on));
    }
}

/// Tries the VFS of the main database, if it lies above ours and was not tried before.
///
/// # Safety
/// `connection` is a connection of the SQLite of `api` that is being opened, its main file open; no VFS is being called. `is_ours` says of
/// an open file object whether it has methods of ours.
pub(super) unsafe fn try_main(api: &Api, connection: *mut Connection, is_ours: unsafe fn(*mut RawFile) -> bool) {
    const MAIN: &CStr = c"main";
    let mut file: *mut RawFile = std::ptr::null_mut();
    // SAFETY: the file control stores a pointer; names and file objects live as long as the connection.
    unsafe {
        (api.file_control)(connection, MAIN.as_ptr(), ffi::FCNTL_FILE_POINTER, (&raw mut file).cast());
        if file.is_null() || (*file).methods.is_null() || is_ours(file) {
            return;
        }
        let Some(known) = registration::find_open(api, (api.db_filename)(connection, MAIN.as_ptr())) else { return };
        let above = Above::of(api, connection, MAIN, file);
        if TRIED.lock().iter().any(|(tried, _)| *tried == above) {
            return;
        }
        let phase_two = || {
            (api.file_control)(connection, MAIN.as_ptr(), ffi::FCNTL_COMMIT_PHASETWO, std::ptr::null_mut());
        };
        let passes_on = reaches(known.file, phase_two)
            && passes_shared_memory(file, known.file)
            && passes_characteristics(file, known.file);
        above.note(passes_on);
    }
}

/// # Safety
/// `file` is an open file object that is not in use now.
unsafe fn passes_characteristics(file: *mut RawFile, ours: usize) -> bool {
    let mut answer = 0;
    // SAFETY: a method of every version.
    let ask = || unsafe {
        if let Some(characteristics) = (*(*file).methods).device_characteristics {
            answer = characteristics(file);
        }
    };
    reaches(ours, ask) && answer & TRIED_CHARACTERISTICS == TRIED_CHARACTERISTICS
}

/// # Safety
/// `file` is an open file object that is not in use now.
unsafe fn passes_shared_memory(file: *mut RawFile, ours: usize) -> bool {
    /// `WAL_READ_LOCK(0)`
    const READ: c_int = 3;
    const REGION_BYTES: c_int = 32768;
    // SAFETY: the table is as long as its version says; the calls are those that SQLite makes of an open main file.
    unsafe {
        let methods: *const IoMethods = (*file).methods;
        if (*methods).version < 2 {
            return false;
        }
        let (Some(map), Some(lock), Some(unmap)) = ((*methods).shm_map, (*methods).shm_lock, (*methods).shm_unmap)
        else {
            return false;
        };
        let mut region = std::ptr::null_mut();
        let (mut mapped, mut locked) = (ffi::OK, ffi::OK);
        if !reaches(ours, || mapped = map(file, 0, REGION_BYTES, 0, &raw mut region)) {
            // It has shared memory of its own, which is there now.
            if mapped == ffi::OK {
                unmap(file, 0);
            }
            return false;
        }
        let reached = reaches(ours, || locked = lock(file, READ, 1, ffi::SHM_LOCK | ffi::SHM_SHARED));
        if !reached && locked == ffi::OK {
            lock(file, READ, 1, ffi::SHM_UNLOCK | ffi::SHM_SHARED);
        }
        reached
    }
}
