//! At the end of a process: SQLite was used there, and not by us.

use super::{resolve, say, sqlite};
use std::ffi::{c_int, c_void};

/// The dynamic linker calls it when the process ends by `exit` or by the end of `main`.
#[used]
#[unsafe(link_section = ".fini_array")]
static AT_EXIT: extern "C" fn() = tell_what_was_not_reached;

/// A SQLite with memory in use at some time (`sqlite3_memory_highwater`) has opened a database; a program that is only linked with
/// one has not.
extern "C" fn tell_what_was_not_reached() {
    let mut told: Vec<*mut c_void> = Vec::new();
    for scope in resolve::all() {
        let (open_v2, highwater) = (scope.find(c"sqlite3_open_v2"), scope.find(c"sqlite3_memory_highwater"));
        if open_v2.is_null() || highwater.is_null() || resolve::is_ours(open_v2) || told.contains(&highwater) {
            continue;
        }
        told.push(highwater);
        // SAFETY: SQLite's function of this name has this type, and may be called at any time.
        let used = unsafe { std::mem::transmute::<*mut c_void, extern "C" fn(c_int) -> i64>(highwater)(0) };
        if used > 0 && !sqlite::is_reached(open_v2) && !sqlite::was_refused() {
            let process = std::process::id();
            let file = resolve::file_of(highwater);
            say(&format!(
                "process {process} has used {file} in a way that `pwal run` does not reach: it was on stock SQLite"
            ));
        }
    }
}
