//! The SQL functions `pwal_version()`, `pwal_status()` and `pwal_retire()`, on every connection of a SQLite that has
//! pwal, also on those that are not on it: there they say so.

use super::callback::callback_value;
use super::main_file::MainFile;
use super::register;
use crate::handle::{self, Handle};
use crate::sqlite::ffi::{self, Connection, FunctionCall, RawFile, SqlFunction, Value};
use crate::sqlite::{Api, Code};
use crate::status::Status;
use std::ffi::{CStr, CString, c_char, c_int};
use std::sync::{Arc, OnceLock};

/// pwal's version, with the revision it was built from where that is known.
#[must_use]
pub const fn version() -> &'static str {
    env!("PWAL_VERSION")
}

/// When a connection was opened: what its functions are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Opened {
    /// It loaded pwal itself, so it is older.
    BeforePwal,
    /// With pwal there to choose.
    WithPwal,
}

/// A SQL function is told nothing from which it could find out which SQLite calls it, and one process
/// can have several. So each gets functions of its own.
const HOSTS_MAX: usize = 4;
static HOSTS: [OnceLock<Api>; HOSTS_MAX] = [const { OnceLock::new() }; HOSTS_MAX];
static FUNCTIONS: [[SqlFunction; 3]; HOSTS_MAX] = [
    [pwal_version::<0>, pwal_status::<0>, pwal_retire::<0>],
    [pwal_version::<1>, pwal_status::<1>, pwal_retire::<1>],
    [pwal_version::<2>, pwal_status::<2>, pwal_retire::<2>],
    [pwal_version::<3>, pwal_status::<3>, pwal_retire::<3>],
];

/// The functions of the SQLite with this table; `None` if there are too many in this process.
fn functions_of(api: &Api) -> Option<[SqlFunction; 3]> {
    let same = |known: &Api| std::ptr::fn_addr_eq(known.vfs_find, api.vfs_find);
    let at = HOSTS.iter().position(|host| same(host.get_or_init(|| *api)))?;
    FUNCTIONS.get(at).copied()
}

/// Adds the functions to a connection.
///
/// # Safety
/// `connection` is an open connection of the SQLite of `api`.
pub(super) unsafe fn add_to(connection: *mut Connection, api: &Api, opened: Opened) -> Result<(), Code> {
    let [version, status, retire] = functions_of(api).ok_or(Code::ERROR)?;
    let user_data = std::ptr::without_provenance_mut(usize::from(opened == Opened::BeforePwal));
    let add = |name: &CStr, flags: c_int, function: SqlFunction| {
        // SAFETY: the connection is open and the name a C string; the user data is only a number.
        Code::check(unsafe {
            let flags = ffi::UTF8 | flags;
            (api.create_function_v2)(connection, name.as_ptr(), 0, flags, user_data, Some(function), None, None, None)
        })
    };
    add(c"pwal_version", ffi::DETERMINISTIC | ffi::INNOCUOUS, version)?;
    add(c"pwal_status", 0, status)?;
    // Not in a view or a trigger of a database that somebody else wrote.
    add(c"pwal_retire", ffi::DIRECTONLY, retire)
}

/// `SQLITE_TRANSIENT`: SQLite copies the text.
const TRANSIENT: usize = usize::MAX;

/// Answers `text()`; a panic is an error of the statement.
///
/// # Safety
/// `call` is the call of a function that the SQLite of `api` makes just now.
unsafe fn answer(call: *mut FunctionCall, api: &Api, text: impl FnOnce() -> String) {
    match callback_value(None, || Some(text())) {
        Some(text) => {
            let bytes = c_int::try_from(text.len()).unwrap_or(0);
            // SAFETY: SQLite copies so many bytes before the call returns.
            unsafe { (api.result_text)(call, text.as_ptr().cast(), bytes, std::ptr::without_provenance(TRANSIENT)) }
        }
        // SAFETY: SQLite copies the C string.
        None => unsafe { (api.result_error)(call, c"pwal: internal error, see SQLite's log".as_ptr(), -1) },
    }
}

unsafe extern "C" fn pwal_version<const HOST: usize>(call: *mut FunctionCall, _: c_int, _: *mut *mut Value) {
    if let Some(api) = HOSTS[HOST].get() {
        // SAFETY: only the SQLite of this host has got this function.
        unsafe { answer(call, api, || String::from(version())) };
    }
}

unsafe extern "C" fn pwal_status<const HOST: usize>(call: *mut FunctionCall, _: c_int, _: *mut *mut Value) {
    if let Some(api) = HOSTS[HOST].get() {
        // SAFETY: only the SQLite of this host has got this function, and its connection is open
        // while a statement of it runs.
        unsafe { answer(call, api, || status(api, call)) };
    }
}

/// Retires the log of the main database, with its connections open: answers what came of it.
unsafe extern "C" fn pwal_retire<const HOST: usize>(call: *mut FunctionCall, _: c_int, _: *mut *mut Value) {
    let Some(api) = HOSTS[HOST].get() else { return };
    let retired = callback_value(Err((Code::INTERNAL, String::from("internal error, see SQLite's log"))), || {
        // SAFETY: the file object lives as long as the connection, which runs a statement now.
        let main = unsafe { main_handle(api, (api.context_db_handle)(call)) };
        let main = main.ok_or_else(|| (Code::ERROR, String::from("the main database is not on pwal")))?;
        main.retire_log()
    });
    // SAFETY: only the SQLite of this host has got this function; it copies the text.
    unsafe {
        match retired {
            Ok(what) => answer(call, api, || String::from(what)),
            Err((code, text)) => {
                let text = CString::new(format!("pwal_retire: {text}")).unwrap_or_default();
                (api.result_error)(call, text.as_ptr(), -1);
                (api.result_error_code)(call, code.number());
            }
        }
    }
}

/// The file object of the main database; null where there is none.
///
/// # Safety
/// `connection` is open, or being opened.
unsafe fn main_file(api: &Api, connection: *mut Connection) -> *mut RawFile {
    let mut file: *mut RawFile = std::ptr::null_mut();
    // SAFETY: the file control takes a `sqlite3_file**`.
    unsafe {
        let out = (&raw mut file).cast();
        (api.file_control)(connection, c"main".as_ptr(), ffi::FCNTL_FILE_POINTER, out);
    }
    file
}

/// The handle of the main database, if it is on pwal: also where another VFS lies above.
///
/// # Safety
/// `connection` is open, or being opened.
unsafe fn main_handle(api: &Api, connection: *mut Connection) -> Option<Arc<Handle>> {
    // SAFETY: the file object lives as long as the connection.
    unsafe {
        match MainFile::of(main_file(api, connection)) {
            Some(main) => Some(Arc::clone(main.handle())),
            None => {
                let name = (api.db_filename)(connection, c"main".as_ptr());
                register::find_open(api, name).map(|known| known.handle)
            }
        }
    }
}

/// # Safety
/// The file object lives, or is null.
unsafe fn is_no_file(file: *mut RawFile) -> bool {
    // SAFETY: by the contract. A database in memory, or a temporary one that was not written yet, has no methods.
    file.is_null() || unsafe { (*file).methods.is_null() }
}

/// Whether the main database is on pwal, or temporary or in memory.
///
/// # Safety
/// `connection` is open, or being opened.
pub(super) unsafe fn is_on_pwal_or_no_file(connection: *mut Connection, api: &Api) -> bool {
    // SAFETY: the file object lives as long as the connection.
    unsafe { is_no_file(main_file(api, connection)) || main_handle(api, connection).is_some() }
}

/// The state of the main database, as JSON.
///
/// # Safety
/// `call` is the call of a function that the SQLite of `api` makes just now.
unsafe fn status(api: &Api, call: *mut FunctionCall) -> String {
    // SAFETY: the file object lives as long as the connection, which runs a statement now.
    unsafe {
        let connection = (api.context_db_handle)(call);
        if let Some(main) = main_handle(api, connection) {
            return handle::status_json(&main);
        }
        let reason = if is_no_file(main_file(api, connection)) {
            "the main database is temporary or in memory"
        } else if (api.user_data)(call).is_null() {
            "opened on another VFS than pwal"
        } else {
            "opened before pwal was loaded"
        };
        let vfs = vfs_name(api, connection);
        Status::inactive(vfs, reason).to_json()
    }
}

/// The name of the main database's VFS, as it says it itself.
///
/// # Safety
/// `connection` is open.
unsafe fn vfs_name(api: &Api, connection: *mut Connection) -> Option<String> {
    let mut name: *mut c_char = std::ptr::null_mut();
    // SAFETY: the file control takes a `char**` and leaves text made by `sqlite3_malloc`.
    unsafe {
        let out = (&raw mut name).cast();
        (api.file_control)(connection, c"main".as_ptr(), ffi::FCNTL_VFSNAME, out);
        if name.is_null() {
            return None;
        }
        let text = CStr::from_ptr(name).to_string_lossy().into_owned();
        (api.free)(name.cast());
        Some(text)
    }
}
