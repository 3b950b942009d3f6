//! What the entry points of the loadable library do, and the entry that SQLite calls for
//! every connection it opens afterwards.

use super::above;
use super::callback::callback_value;
use super::database_handle;
use super::error::RegisterError;
use super::functions::{self, Opened};
use super::main_file::MainFile;
use super::messages;
use super::register::{self, Options};
use super::registration::{self, Registration};
use crate::sqlite::ffi::{self, Connection, EntryPoint};
use crate::sqlite::{Api, ApiError, Code};
use std::ffi::{c_char, c_int, c_void};
use std::sync::atomic::Ordering;

/// What an entry point of the loadable library asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Databases that are opened without naming a VFS go through pwal.
    Default,
    /// The same, and a connection to a file that is opened on another VFS afterwards is an error; one that finds the database open past
    /// pwal is refused, not on stock's WAL beside it.
    Strict,
    /// Only those that say so: `?vfs=pwal`.
    ByName,
}

/// Registers the VFS `pwal` with the SQLite that loads the library, and adds the SQL functions to this and
/// every later connection. Answers a result code; with `SQLITE_ERROR` there is a message.
///
/// # Safety
/// Called by an entry point of the loadable library, with the arguments that SQLite gave it.
pub unsafe fn load(
    connection: *mut Connection,
    message: *mut *mut c_char,
    routines: *const c_void,
    wanted: Wanted,
) -> c_int {
    callback_value(Code::INTERNAL.number(), || {
        // SAFETY: as SQLite promises to entry points.
        let result = unsafe { Api::from_host(routines) }
            .map_err(RegisterError::from)
            // SAFETY: as above.
            .and_then(|api| unsafe { load_with(api, connection, wanted) });
        match result {
            // The library keeps pointers in SQLite: it must not be unloaded with this connection.
            Ok(()) => ffi::OK_LOAD_PERMANENTLY,
            Err(error) => {
                // SAFETY: as above.
                unsafe { tell(&error, message, routines) };
                Code::ERROR.number()
            }
        }
    })
}

/// # Safety
/// `connection` is the open connection that loads the library, of the SQLite of `api`.
unsafe fn load_with(api: Api, connection: *mut Connection, wanted: Wanted) -> Result<(), RegisterError> {
    // What may fail comes before databases that name no VFS go through pwal.
    let registration = register::register_api(api, Options::default())?;
    // SAFETY: by the contract.
    match unsafe { functions::add_to(connection, &api, Opened::BeforePwal) } {
        // "unable to delete/modify user-function due to active statements": it has them, and a statement runs,
        // that of `SELECT load_extension(..)` itself.
        Ok(()) | Err(Code::BUSY) => {}
        Err(code) => return Err(RegisterError::Refused(code.number())),
    }
    add_to_later(registration, for_later_connection)?;
    if wanted == Wanted::Strict {
        registration.strict.store(true, Ordering::SeqCst);
        add_to_later(registration, refuse_on_another_vfs)?;
    }
    if wanted != Wanted::ByName {
        register::register_api(api, Options { make_default: true, ..Options::default() })?;
    }
    Ok(())
}

fn add_to_later(registration: &Registration, entry: EntryPoint) -> Result<(), RegisterError> {
    // SAFETY: the entry is a function of a library that stays; registered twice, it counts once.
    match unsafe { (registration.api.auto_extension)(Some(entry)) } {
        ffi::OK => Ok(()),
        code => Err(RegisterError::Refused(code)),
    }
}

/// The SQL functions for every later connection of the linked SQLite.
#[cfg(feature = "linked")]
pub(super) fn add_functions_when_linked(registration: &Registration) -> Result<(), RegisterError> {
    add_to_later(registration, for_later_connection_when_linked)
}

/// Copies the error's text for SQLite, which frees it.
///
/// # Safety
/// As [`load`].
unsafe fn tell(error: &RegisterError, message: *mut *mut c_char, routines: *const c_void) {
    if message.is_null() || routines.is_null() {
        return;
    }
    let text = format!("pwal: {error}");
    // SAFETY: `sqlite3_malloc` is in every table (segment 68); `sqlite3_malloc64`, which a host as old as the
    // error may say has not, is not asked for. SQLite frees the message.
    unsafe {
        let segment = routines.cast::<*const c_void>().add(68).read();
        if segment.is_null() {
            return;
        }
        let malloc = std::mem::transmute::<*const c_void, unsafe extern "C" fn(c_int) -> *mut c_void>(segment);
        let Ok(bytes) = c_int::try_from(text.len() + 1) else { return };
        let copy: *mut u8 = malloc(bytes).cast();
        if !copy.is_null() {
            copy.copy_from_nonoverlapping(text.as_ptr(), text.len());
            copy.add(text.len()).write(0);
            message.write(copy.cast());
        }
    }
}

/// SQLite calls it for each connection that it opens (`sqlite3_auto_extension`).
unsafe extern "C" fn for_later_connection(
    connection: *mut Connection,
    _message: *mut *mut c_char,
    routines: *const c_void,
) -> c_int {
    // SAFETY: SQLite passes its table.
    unsafe { later(connection, || Api::from_host(routines)) }
}

/// The same for the linked SQLite, which passes no table where it was built without extensions.
#[cfg(feature = "linked")]
unsafe extern "C" fn for_later_connection_when_linked(
    connection: *mut Connection,
    _message: *mut *mut c_char,
    _routines: *const c_void,
) -> c_int {
    // SAFETY: this entry is registered with the linked SQLite only.
    unsafe { later(connection, Api::linked) }
}

/// # Safety
/// `connection` is a connection that is being opened, of the SQLite of `api`.
unsafe fn later(connection: *mut Connection, api: impl FnOnce() -> Result<Api, ApiError>) -> c_int {
    callback_value((), || {
        if let Ok(api) = api() {
            // A connection without the functions is still a good one: no error of its opening.
            // SAFETY: by the contract.
            let _ = unsafe { functions::add_to(connection, &api, Opened::WithPwal) };
            // SAFETY: SQLite calls this after the open of the main file.
            unsafe { above::try_main(&api, connection, |file| MainFile::of(file).is_some()) };
        }
    });
    ffi::OK
}

/// SQLite calls it for each connection that it opens, once an entry point asked for [`Wanted::Strict`]: an error of it is an error of
/// `sqlite3_open` (`sqlite3AutoLoadExtensions`).
unsafe extern "C" fn refuse_on_another_vfs(
    connection: *mut Connection,
    message: *mut *mut c_char,
    routines: *const c_void,
) -> c_int {
    callback_value(Code::INTERNAL.number(), || {
        // SAFETY: SQLite passes its table.
        let Ok(api) = (unsafe { Api::from_host(routines) }) else { return ffi::OK };
        // SAFETY: the connection is being opened; its main file is open.
        if database_handle::opens_private_connection() || unsafe { functions::is_on_pwal_or_no_file(connection, &api) }
        {
            return ffi::OK;
        }
        let text = "pwal: this file would be on another VFS than pwal, which the program has forbidden (strict)";
        if !message.is_null() {
            // SAFETY: SQLite frees the text.
            unsafe { message.write(api.copy_text(text)) };
        }
        Code::CANTOPEN.number()
    })
}

/// Sends the text of each panic of this library to `sqlite3_log` instead of standard error. For the
/// loadable library, which has a panic hook of its own; a program's hook is the program's.
pub fn report_panics() {
    std::panic::set_hook(Box::new(|panic| {
        if let Some(registration) = registration::any() {
            messages::write(&registration.api, Code::INTERNAL.number(), &format!("pwal: {panic}"));
        }
    }));
}
