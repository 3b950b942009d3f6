//! The methods of the `sqlite3_vfs`: which kinds of file pwal handles; everything else goes to the base.

use super::base::{BaseVfs, RawBase};
use super::callback::{callback, callback_value};
use super::main_file::{HEAD_BYTES, MainFile};
use super::messages;
use super::registration::{self, Registration};
use super::wal_file;
use crate::handle::{self, Above, Handle, OpenFacts};
use crate::sqlite::Code;
use crate::sqlite::ffi::{self, AnyFunction, RawFile, RawVfs};
use std::ffi::{CStr, OsStr, c_char, c_int, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// URI parameters with this prefix are for the handle.
const PARAMETER_PREFIX: &str = "parallel_wal_";

/// Our table over the base's: a method that the base lacks is missing here too.
pub(super) fn table(base: &RawVfs, file_bytes: c_int) -> RawVfs {
    RawVfs {
        version: base.version.min(3),
        file_bytes,
        path_bytes_max: base.path_bytes_max,
        next: std::ptr::null_mut(),
        name: std::ptr::null(),
        app_data: std::ptr::null_mut(),
        open: Some(x_open),
        delete: Some(x_delete),
        access: Some(x_access),
        full_pathname: Some(x_full_pathname),
        dl_open: base.dl_open.and(Some(x_dl_open)),
        dl_error: base.dl_error.and(Some(x_dl_error)),
        dl_sym: base.dl_sym.and(Some(x_dl_sym)),
        dl_close: base.dl_close.and(Some(x_dl_close)),
        randomness: Some(x_randomness),
        sleep: Some(x_sleep),
        current_time: base.current_time.and(Some(x_current_time)),
        get_last_error: base.get_last_error.and(Some(x_get_last_error)),
        current_time_int64: base.current_time_int64.and(Some(x_current_time_int64)),
        set_system_call: base.set_system_call.and(Some(x_set_system_call)),
        get_system_call: base.get_system_call.and(Some(x_get_system_call)),
        next_system_call: base.next_system_call.and(Some(x_next_system_call)),
    }
}

/// The registration of one of our VFSs.
///
/// # Safety
/// `vfs` is null or a `sqlite3_vfs` with our methods: ours, or another VFS's, which has copied ours, and may have a `pAppData` of
/// its own.
unsafe fn registration(vfs: *mut RawVfs) -> Result<&'static Registration, Code> {
    if vfs.is_null() {
        return Err(Code::MISUSE);
    }
    // SAFETY: by the contract. The pointer is compared, and not followed.
    let app_data = unsafe { (*vfs).app_data };
    registration::of_app_data(app_data.cast_const().cast()).ok_or(Code::MISUSE)
}

/// The base VFS and its pointer, for a call that is passed on as it is.
///
/// # Safety
/// As [`registration`].
unsafe fn base_of(vfs: *mut RawVfs) -> Option<*mut RawVfs> {
    // SAFETY: by the contract.
    unsafe { registration(vfs) }.ok().map(|registration| registration.base.pointer())
}

unsafe extern "C" fn x_open(
    vfs: *mut RawVfs,
    name: *const c_char,
    file: *mut RawFile,
    flags: c_int,
    out_flags: *mut c_int,
) -> c_int {
    callback(Code::CANTOPEN, || {
        // SAFETY: SQLite passes our VFS, a file object of `szOsFile` bytes, and a name of its own
        // making (with parameters, journal and WAL name around it) or null.
        unsafe {
            let registration = registration(vfs)?;
            if file.is_null() {
                return Err(Code::MISUSE);
            }
            (*file).methods = std::ptr::null();
            if flags & ffi::OPEN_SUPER_JOURNAL != 0 && flags & ffi::OPEN_CREATE != 0 {
                // Without CREATE it is read, for a hot journal's sake.
                handle::super_journal_opened();
            }
            if !name.is_null() && flags & ffi::OPEN_MAIN_DB != 0 {
                open_main(registration, name, file, flags, out_flags)
            } else if !name.is_null() && flags & ffi::OPEN_WAL != 0 {
                open_wal(registration, name, file, flags, out_flags)
            } else {
                registration.base.open(name, file, flags, out_flags)
            }
        }
    })
}

/// Closes the base's file unless the open has come to its end.
struct CloseOnDrop(Option<RawBase>);

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        if let Some(base) = self.0 {
            let _ = base.close();
        }
    }
}

/// # Safety
/// As SQLite promises for `xOpen` of a main database.
unsafe fn open_main(
    registration: &'static Registration,
    name: *const c_char,
    file: *mut RawFile,
    flags: c_int,
    out_flags: *mut c_int,
) -> Result<(), Code> {
    let mut opened_with: c_int = flags;
    let mut room = vec![0_u64; registration.base.file_bytes().max(size_of::<RawFile>()).div_ceil(8)].into_boxed_slice();
    // SAFETY: room for the base's file object (`szOsFile`), aligned as SQLite aligns it, and zero: no methods.
    let base = unsafe {
        let below: *mut RawFile = room.as_mut_ptr().cast();
        let opened = registration.base.open(name, below, flags, &raw mut opened_with);
        // A failed open may leave methods, and wants `xClose` then.
        let base = (!(*below).methods.is_null()).then(|| RawBase::new(below));
        if let Err(code) = opened {
            drop(CloseOnDrop(base));
            return Err(code);
        }
        base.ok_or(Code::CANTOPEN)?
    };
    let mut close = CloseOnDrop(Some(base));
    // SAFETY: a main database's name is of SQLite's own making.
    let (facts, wal_name) = unsafe { (facts(registration, name, opened_with), (registration.api.filename_wal)(name)) };
    let handle = Arc::new(Handle::open(&registration.context, facts));
    let main = MainFile::new(registration, handle, (base, room), (name, wal_name));
    // SAFETY: SQLite's file object of this call; `out_flags` takes one integer or is null.
    unsafe {
        main.install(file);
        if !out_flags.is_null() {
            out_flags.write(opened_with);
        }
    }
    close.0 = None;
    Ok(())
}

/// # Safety
/// `name` is a main database's name of SQLite's own making.
unsafe fn facts(registration: &Registration, name: *const c_char, opened_with: c_int) -> OpenFacts {
    let api = &registration.api;
    let mut parameters = Vec::new();
    if registration.strict.load(Ordering::SeqCst) {
        parameters.push((String::from("parallel_wal_beside_stock"), String::from("refuse")));
    }
    // SAFETY: the name carries its parameters; the answers are C strings inside it.
    let path = unsafe {
        for at in 0.. {
            let key = (api.uri_key)(name, at);
            if key.is_null() {
                break;
            }
            let value = (api.uri_parameter)(name, key);
            let key = CStr::from_ptr(key).to_string_lossy();
            if key.starts_with(PARAMETER_PREFIX) && !value.is_null() {
                parameters.push((key.into_owned(), CStr::from_ptr(value).to_string_lossy().into_owned()));
            }
        }
        PathBuf::from(OsStr::from_bytes(CStr::from_ptr(name).to_bytes()))
    };
    // SAFETY: C strings inside the name's block.
    let (no_lock, foreign_name) = unsafe {
        let no_lock = (api.uri_boolean)(name, c"nolock".as_ptr(), 0) != 0;
        let (own, wal) = (CStr::from_ptr(name).to_bytes(), (api.filename_wal)(name));
        (no_lock, wal.is_null() || CStr::from_ptr(wal).to_bytes().strip_suffix(b"-wal") != Some(own))
    };
    OpenFacts { path, read_only: opened_with & ffi::OPEN_READONLY != 0, parameters, no_lock, foreign_name }
}

/// The WAL of a joined handle is virtual; any other is the base's, whole.
///
/// # Safety
/// As SQLite promises for `xOpen` of a WAL.
unsafe fn open_wal(
    registration: &'static Registration,
    name: *const c_char,
    file: *mut RawFile,
    flags: c_int,
    out_flags: *mut c_int,
) -> Result<(), Code> {
    let refuse = || {
        // SAFETY: a C string.
        let name = unsafe { CStr::from_ptr(name) }.to_string_lossy();
        let text = format!("pwal: cannot open {name}: another VFS lies between SQLite and {}", registration.name());
        messages::write(&registration.api, Code::CANTOPEN.number(), &text);
        Err(Code::CANTOPEN)
    };
    match registration.names.get(name) {
        Some(known) if known.handle.is_on_pwal() => {
            let reaches_us = match known.handle.above() {
                Some(above) => above != Above::Unknown,
                // SAFETY: the name of the WAL that SQLite has given to an open main file, so it lies in the block of names of an
                // open pager. (One of `sqlite3_create_filename` would have to come from a VFS above on a SQLite that cannot be asked.)
                None => unsafe { (registration.api.database_file_object)(name) }.addr() == known.file,
            };
            if !reaches_us {
                // The shared memory would be asked of that one.
                return refuse();
            }
            // SAFETY: SQLite's file object of this call; the main file outlives its WAL (`sqlite3PagerClose`).
            unsafe { wal_file::install(known.handle, known.base, registration.base, name, file) }?;
            if !out_flags.is_null() {
                // SAFETY: `out_flags` takes one integer.
                unsafe { out_flags.write(flags) };
            }
            Ok(())
        }
        // A VFS above names files by names of its own: never a real WAL beside a log.
        // SAFETY: a C string.
        None if registration.names.has_virtual(unsafe { CStr::from_ptr(name) }) => refuse(),
        known => {
            if let Some(known) = known {
                known.handle.real_wal_opens();
            }
            // SAFETY: passed on as it came.
            unsafe { registration.base.open(name, file, flags, out_flags) }
        }
    }
}

unsafe extern "C" fn x_delete(vfs: *mut RawVfs, name: *const c_char, sync_directory: c_int) -> c_int {
    callback(Code::IOERR_DELETE, || {
        // SAFETY: SQLite passes our VFS and a C string.
        unsafe {
            let registration = registration(vfs)?;
            if registration.names.is_virtual(name) {
                return Ok(());
            }
            registration.base.delete(name, sync_directory)
        }
    })
}

unsafe extern "C" fn x_access(vfs: *mut RawVfs, name: *const c_char, flags: c_int, out: *mut c_int) -> c_int {
    callback(Code::IOERR_ACCESS, || {
        // SAFETY: SQLite passes our VFS, a C string and a variable of its own.
        unsafe {
            let registration = registration(vfs)?;
            if registration.names.is_virtual(name) {
                *out.as_mut().ok_or(Code::MISUSE)? = 0;
                return Ok(());
            }
            registration.base.access(name, flags, out)
        }
    })
}

unsafe extern "C" fn x_sleep(vfs: *mut RawVfs, microseconds: c_int) -> c_int {
    callback_value(0, || {
        if let Some(slept) = handle::sleep(u32::try_from(microseconds).unwrap_or(0)) {
            return c_int::try_from(slept).unwrap_or(c_int::MAX);
        }
        // SAFETY: SQLite passes our VFS; the base is registered.
        unsafe {
            match base_of(vfs) {
                Some(base) => (*base).sleep.map_or(0, |sleep| sleep(base, microseconds)),
                None => 0,
            }
        }
    })
}

/// A method that goes to the base as it is; `$missing` is the answer if the base has none.
macro_rules! forwarded {
    ($($name:ident = $method:ident($($argument:ident: $type:ty),*) -> $result:ty, $missing:expr;)*) => {
        $(unsafe extern "C" fn $name(vfs: *mut RawVfs $(, $argument: $type)*) -> $result {
            callback_value($missing, || {
                handle::entered();
                // SAFETY: SQLite passes our VFS; the base is registered, has the method (else ours is not in the
                // table either), and gets the arguments as SQLite made them.
                unsafe {
                    match base_of(vfs) {
                        Some(base) => (*base).$method.map_or($missing, |method| method(base $(, $argument)*)),
                        None => $missing,
                    }
                }
            })
        })*
    };
}

forwarded! {
    x_full_pathname = full_pathname(name: *const c_char, bytes: c_int, out: *mut c_char) -> c_int, Code::CANTOPEN.number();
    x_dl_open = dl_open(name: *const c_char) -> *mut c_void, std::ptr::null_mut();
    x_dl_error = dl_error(bytes: c_int, out: *mut c_char) -> (), ();
    x_dl_sym = dl_sym(library: *mut c_void, name: *const c_char) -> AnyFunction, None;
    x_dl_close = dl_close(library: *mut c_void) -> (), ();
    x_randomness = randomness(bytes: c_int, out: *mut c_char) -> c_int, 0;
    x_current_time = current_time(out: *mut f64) -> c_int, Code::ERROR.number();
    x_get_last_error = get_last_error(bytes: c_int, out: *mut c_char) -> c_int, 0;
    x_current_time_int64 = current_time_int64(out: *mut i64) -> c_int, Code::ERROR.number();
    x_set_system_call = set_system_call(name: *const c_char, function: AnyFunction) -> c_int, Code::NOTFOUND.number();
    x_get_system_call = get_system_call(name: *const c_char) -> AnyFunction, None;
    x_next_system_call = next_system_call(name: *const c_char) -> *const c_char, std::ptr::null();
}

/// The size of our file objects over a base's.
pub(super) fn file_bytes(base: BaseVfs) -> Option<c_int> {
    // Room for the base's object alone, too: it is opened at the start for the kinds that are not ours.
    c_int::try_from(HEAD_BYTES.checked_add(base.file_bytes())?).ok()
}
