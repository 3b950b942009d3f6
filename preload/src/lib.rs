//! `libpwal_preload.so`: loads pwal before a program opens its first database. `pwal run` puts it into `LD_PRELOAD`.
//!
//! It defines `sqlite3_open`, `sqlite3_open_v2` and `sqlite3_open16`, to which the dynamic linker then binds every program
//! and library that imports them. Each call finds the function that its caller would have got without us, loads
//! `PWAL_LIBRARY` into that SQLite (once, by a connection to `:memory:`), and goes on with that function. Where pwal does not load, the
//! open fails, with a line on standard error: the program would be on stock SQLite without knowing.
//!
//! Not reached: a SQLite that is linked into the program or one of its libraries; functions that are found by `dlsym`; libraries that are
//! opened with `RTLD_DEEPBIND` (PHP's). If such a SQLite was used and can be seen, a line on standard error says so at the process's exit.
#![cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]

mod exit;
mod resolve;
mod sqlite;

use std::arch::naked_asm;
use std::ffi::{c_char, c_int, c_void};
use std::ptr;

const CANTOPEN: c_int = 14;

/// The open functions have two or four arguments: the return address, which says who calls, becomes the next one.
macro_rules! with_caller {
    ($name:ident, $x86_64:literal, $aarch64:literal, $target:path) => {
        /// SQLite's function of this name, with pwal loaded before.
        ///
        /// # Safety
        /// As SQLite's.
        #[unsafe(no_mangle)]
        #[unsafe(naked)]
        pub unsafe extern "C" fn $name() {
            #[cfg(target_arch = "x86_64")]
            naked_asm!(concat!("mov ", $x86_64, ", [rsp]"), "jmp {target}", target = sym $target);
            #[cfg(target_arch = "aarch64")]
            naked_asm!(concat!("mov ", $aarch64, ", x30"), "b {target}", target = sym $target);
        }
    };
}

with_caller!(sqlite3_open, "rdx", "x2", open);
with_caller!(sqlite3_open16, "rdx", "x2", open16);
with_caller!(sqlite3_open_v2, "r8", "x4", open_v2);

type Open = unsafe extern "C" fn(*const c_void, *mut *mut c_void) -> c_int;
type OpenV2 = unsafe extern "C" fn(*const c_void, *mut *mut c_void, c_int, *const c_char) -> c_int;

unsafe extern "C" fn open(name: *const c_void, out: *mut *mut c_void, caller: *const c_void) -> c_int {
    let Some(real) = sqlite::real(c"sqlite3_open", caller) else { return refuse(out) };
    // SAFETY: the function of this name has this type; its arguments are the caller's.
    unsafe { std::mem::transmute::<*mut c_void, Open>(real)(name, out) }
}

unsafe extern "C" fn open16(name: *const c_void, out: *mut *mut c_void, caller: *const c_void) -> c_int {
    let Some(real) = sqlite::real(c"sqlite3_open16", caller) else { return refuse(out) };
    // SAFETY: as above.
    unsafe { std::mem::transmute::<*mut c_void, Open>(real)(name, out) }
}

unsafe extern "C" fn open_v2(
    name: *const c_void,
    out: *mut *mut c_void,
    flags: c_int,
    vfs: *const c_char,
    caller: *const c_void,
) -> c_int {
    let Some(real) = sqlite::real(c"sqlite3_open_v2", caller) else { return refuse(out) };
    // SAFETY: as above.
    unsafe { std::mem::transmute::<*mut c_void, OpenV2>(real)(name, out, flags, vfs) }
}

/// What SQLite answers without memory for a connection.
fn refuse(out: *mut *mut c_void) -> c_int {
    if !out.is_null() {
        // SAFETY: the caller's variable for the connection.
        unsafe { out.write(ptr::null_mut()) };
    }
    CANTOPEN
}

/// A line on standard error, which may be closed.
fn say(text: &str) {
    let line = format!("pwal: {text}\n");
    // SAFETY: plain bytes that outlive the call.
    let _ = unsafe { libc::write(2, line.as_ptr().cast(), line.len()) };
}
