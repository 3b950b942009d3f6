//! `libpwal.so`: the entry points of the loadable library, and nothing else.
//!
//! `.load ./libpwal` (or `sqlite3_load_extension`) calls `sqlite3_pwal_init`: the VFS `pwal` becomes the
//! default for databases that are opened afterwards. With the entry point `sqlite3_pwalvfs_init`
//! the default stays as it is, and `?vfs=pwal` chooses; with `sqlite3_pwalstrict_init` a connection past pwal is an error.
//! The library stays loaded.

use pwal::internal::sqlite::ffi::Connection;
use pwal::internal::vfs::Wanted;
use std::ffi::{c_char, c_int, c_void};
use std::sync::Once;

#[cfg(panic = "abort")]
compile_error!("a panic must become an error code of SQLite, not the end of the host: build with panic = \"unwind\"");

/// Panics of this library go to `sqlite3_log`: it has its own copy of the standard library, so the hook is its own.
fn own_panic_hook() {
    static HOOK: Once = Once::new();
    HOOK.call_once(pwal::internal::vfs::report_panics);
}

/// Loads pwal and makes it the default VFS.
///
/// # Safety
/// Called by SQLite, as the entry point of an extension.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sqlite3_pwal_init(
    connection: *mut Connection,
    message: *mut *mut c_char,
    routines: *const c_void,
) -> c_int {
    own_panic_hook();
    // SAFETY: SQLite's arguments, passed on.
    unsafe { pwal::internal::vfs::load(connection, message, routines, Wanted::Default) }
}

/// Loads pwal without making it the default VFS.
///
/// # Safety
/// Called by SQLite, as the entry point of an extension.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sqlite3_pwalvfs_init(
    connection: *mut Connection,
    message: *mut *mut c_char,
    routines: *const c_void,
) -> c_int {
    own_panic_hook();
    // SAFETY: SQLite's arguments, passed on.
    unsafe { pwal::internal::vfs::load(connection, message, routines, Wanted::ByName) }
}

/// Loads pwal, makes it the default VFS, and lets every later connection to a file on another VFS fail.
///
/// # Safety
/// Called by SQLite, as the entry point of an extension.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sqlite3_pwalstrict_init(
    connection: *mut Connection,
    message: *mut *mut c_char,
    routines: *const c_void,
) -> c_int {
    own_panic_hook();
    // SAFETY: SQLite's arguments, passed on.
    unsafe { pwal::internal::vfs::load(connection, message, routines, Wanted::Strict) }
}

/// For the packages of hosts that have a log of their own: every message goes to this socket, too, a datagram each, without
/// waiting; -1: no longer. The socket stays the caller's.
#[unsafe(no_mangle)]
pub extern "C" fn pwal_messages_to(socket: c_int) {
    pwal::internal::vfs::send_messages_to(socket);
}
