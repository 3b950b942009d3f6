//! The SQL functions, on every connection of a SQLite that has pwal. On a connection that is not on pwal they are errors, but for
//! `pwal_version()` and `pwal_status()`, which gives the reason.

use super::callback::callback_value;
use super::main_file::MainFile;
use super::registration;
use crate::handle::{self, Handle};
use crate::sqlite::ffi::{self, Connection, FunctionCall, RawFile, SqlFunction, Value};
use crate::sqlite::{Api, Code};
use crate::status::Status;
use std::ffi::{CStr, CString, c_char, c_int};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// pwal's version, with the revision it was built from where that is known.
#[must_use]
pub const fn version() -> &'static str {
    env!("PWAL_VERSION")
}

/// When a connection was opened: passed to its functions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Opened {
    /// It loaded pwal itself, so it is older.
    BeforePwal,
    /// With pwal there to choose.
    WithPwal,
}

/// A SQL function gets nothing from which it could find out which SQLite calls it, and one process can have several. So
/// each gets functions of its own.
const HOSTS_MAX: usize = 4;
static HOSTS: [OnceLock<Api>; HOSTS_MAX] = [const { OnceLock::new() }; HOSTS_MAX];
static FUNCTIONS: [Functions; HOSTS_MAX] = [functions::<0>(), functions::<1>(), functions::<2>(), functions::<3>()];

/// A function: its name, the number of its arguments, its flags.
type Function = (&'static CStr, c_int, c_int, SqlFunction);
type Functions = [Function; 7];

/// Those that wait or change something are not for a view or a trigger, which a stranger may have written into the database.
const fn functions<const HOST: usize>() -> Functions {
    [
        (c"pwal_version", 0, ffi::DETERMINISTIC | ffi::INNOCUOUS, pwal_version::<HOST>),
        (c"pwal_status", 0, 0, pwal_status::<HOST>),
        (c"pwal_retire", 0, ffi::DIRECTONLY, pwal_retire::<HOST>),
        (c"pwal_commit", 0, ffi::DIRECTONLY, pwal_commit::<HOST>),
        (c"pwal_sync", 0, ffi::DIRECTONLY, pwal_sync::<HOST>),
        (c"pwal_wait_durable", 2, ffi::DIRECTONLY, pwal_wait_durable::<HOST>),
        (c"pwal_wait_commit", 2, ffi::DIRECTONLY, pwal_wait_commit::<HOST>),
    ]
}

/// The functions of the SQLite with this table; `None` if there are too many in this process.
fn functions_of(api: &Api) -> Option<&'static Functions> {
    let same = |known: &Api| std::ptr::fn_addr_eq(known.vfs_find, api.vfs_find);
    FUNCTIONS.get(HOSTS.iter().position(|host| same(host.get_or_init(|| *api)))?)
}

/// Adds the functions to a connection.
///
/// # Safety
/// `connection` is an open connection of the SQLite of `api`.
pub(super) unsafe fn add_to(connection: *mut Connection, api: &Api, opened: Opened) -> Result<(), Code> {
    let user_data = std::ptr::without_provenance_mut(usize::from(opened == Opened::BeforePwal));
    for &(name, arguments, flags, function) in functions_of(api).ok_or(Code::ERROR)? {
        let flags = ffi::UTF8 | flags;
        let (name, function) = (name.as_ptr(), Some(function));
        // SAFETY: the connection is open and the name a C string; the user data is only a number.
        Code::check(unsafe {
            (api.create_function_v2)(connection, name, arguments, flags, user_data, function, None, None, None)
        })?;
    }
    Ok(())
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
            // SAFETY: SQLite copies `bytes` bytes before the call returns.
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

/// What a function answers.
enum Answer {
    Text(&'static str),
    Number(u64),
    Null,
}

/// Returns what `body` makes of the main database's handle, and its arguments; its error is the statement's, with the
/// function's name before it.
///
/// # Safety
/// `call` is the call of the function `name` that the SQLite of `HOST` makes just now, with `ARGUMENTS` arguments.
unsafe fn answer_of_main<const HOST: usize, const ARGUMENTS: usize>(
    (call, arguments): (*mut FunctionCall, *mut *mut Value),
    name: &str,
    body: impl FnOnce(&Handle, [u64; ARGUMENTS]) -> Result<Answer, (Code, String)>,
) {
    let Some(api) = HOSTS[HOST].get() else { return };
    let answered = callback_value(Err((Code::INTERNAL, String::from("internal error, see SQLite's log"))), || {
        // SAFETY: the file object lives as long as the connection, which runs a statement now.
        let main = unsafe { MainFile::of(main_file(api, (api.context_db_handle)(call))) };
        let main = main.ok_or_else(|| (Code::ERROR, String::from("the main database is not on pwal")))?;
        let mut numbers = [0; ARGUMENTS];
        for (at, number) in numbers.iter_mut().enumerate() {
            // SAFETY: SQLite hands over as many values as the function is registered with.
            *number = unsafe { unsigned(api, *arguments.add(at)) }?;
        }
        body(main.handle(), numbers)
    });
    // SAFETY: only the SQLite of this host has got this function; it copies the text.
    unsafe {
        match answered {
            Ok(Answer::Text(text)) => answer(call, api, || String::from(text)),
            Ok(Answer::Number(number)) => (api.result_int64)(call, i64::try_from(number).unwrap_or(i64::MAX)),
            Ok(Answer::Null) => (api.result_null)(call),
            Err((code, text)) => {
                let text = CString::new(format!("{name}: {text}")).unwrap_or_default();
                (api.result_error)(call, text.as_ptr(), -1);
                (api.result_error_code)(call, code.number());
            }
        }
    }
}

/// # Errors
/// Not an integer from 0 on. NULL is none, so that the answer of `pwal_commit()` where there is no commit is not taken for one.
///
/// # Safety
/// `value` is an argument of a function that the SQLite of `api` calls just now.
unsafe fn unsigned(api: &Api, value: *mut Value) -> Result<u64, (Code, String)> {
    // SAFETY: by the contract.
    let number = unsafe {
        ((api.value_type)(value) == ffi::INTEGER).then(|| u64::try_from((api.value_int64)(value)).ok()).flatten()
    };
    number.ok_or_else(|| (Code::ERROR, String::from("an argument is not an integer from 0 on")))
}

/// More than a month is as good as without an end.
const TIMEOUT_MAX_MS: u64 = i32::MAX as u64;

fn timeout(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds.min(TIMEOUT_MAX_MS))
}

/// `pwal_retire()`: retires the log of the main database, with its connections open: answers what came of it.
unsafe extern "C" fn pwal_retire<const HOST: usize>(call: *mut FunctionCall, _: c_int, values: *mut *mut Value) {
    let retire = |handle: &Handle, []: [u64; 0]| handle.retire_log().map(Answer::Text);
    // SAFETY: SQLite calls this function, registered with this number of arguments.
    unsafe { answer_of_main::<HOST, 0>((call, values), "pwal_retire", retire) }
}

/// `pwal_commit()`: the number of this connection's last commit to the main database; NULL if there was none.
unsafe extern "C" fn pwal_commit<const HOST: usize>(call: *mut FunctionCall, _: c_int, values: *mut *mut Value) {
    let commit = |handle: &Handle, []: [u64; 0]| Ok(handle.last_commit().map_or(Answer::Null, Answer::Number));
    // SAFETY: as for `pwal_retire`.
    unsafe { answer_of_main::<HOST, 0>((call, values), "pwal_commit", commit) }
}

/// `pwal_sync()`: makes all that is committed durable; the number of the last commit of that.
unsafe extern "C" fn pwal_sync<const HOST: usize>(call: *mut FunctionCall, _: c_int, values: *mut *mut Value) {
    let sync = |handle: &Handle, []: [u64; 0]| handle.sync_commits().map(Answer::Number);
    // SAFETY: as for `pwal_retire`.
    unsafe { answer_of_main::<HOST, 0>((call, values), "pwal_sync", sync) }
}

/// `pwal_wait_durable(number, timeout_ms)`: 1 once that commit is durable, 0 if it is not in time.
unsafe extern "C" fn pwal_wait_durable<const HOST: usize>(call: *mut FunctionCall, _: c_int, values: *mut *mut Value) {
    let wait = |handle: &Handle, [number, ms]: [u64; 2]| {
        handle.wait_durable(number, timeout(ms)).map(|durable| Answer::Number(u64::from(durable)))
    };
    // SAFETY: as for `pwal_retire`.
    unsafe { answer_of_main::<HOST, 2>((call, values), "pwal_wait_durable", wait) }
}

/// `pwal_wait_commit(after, timeout_ms)`: the number of the newest commit, once it is greater than `after` or the time is over.
unsafe extern "C" fn pwal_wait_commit<const HOST: usize>(call: *mut FunctionCall, _: c_int, values: *mut *mut Value) {
    let wait = |handle: &Handle, [after, ms]: [u64; 2]| handle.wait_commit(after, timeout(ms)).map(Answer::Number);
    // SAFETY: as for `pwal_retire`.
    unsafe { answer_of_main::<HOST, 2>((call, values), "pwal_wait_commit", wait) }
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
                registration::find_open(api, name).map(|known| known.handle)
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
