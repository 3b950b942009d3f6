//! The table of SQLite functions that pwal calls: one for each registration of the VFS.
//!
//! A loadable library must call the SQLite that loaded it, through the table that its entry
//! point got (`sqlite3_api_routines`); a program with a linked SQLite calls that one. Both fill
//! the same [`Api`]. The slots of `sqlite3_api_routines` never move, they only grow in number:
//! the newest one that is needed came with 3.32.0, so the version is checked before any other slot
//! is read; younger ones may be missing in an older host. `tests/sqlite/api_slots.rs` compares each slot with the linked function.
//!
//! No variadic function is called but `sqlite3_log`, and that always with the format `"%s"`.

use super::ffi::{Connection, EntryPoint, FunctionCall, RawFile, RawVfs, SqlFunction, Statement, Value};
use std::ffi::{CString, c_char, c_int, c_void};

/// The oldest version that has all slots: 3.32.0 brought `sqlite3_database_file_object`.
const VERSION_MIN: c_int = 3_032_000;

/// Why a table cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ApiError {
    /// The entry point was called without a table.
    #[error("SQLite handed over no table of functions (it was built without extension loading); link pwal instead")]
    NoTable,
    /// The host is too old.
    #[error("pwal needs SQLite 3.32.0 or newer, this is {}.{}.{}", .0 / 1_000_000, .0 / 1_000 % 1_000, .0 % 1_000)]
    TooOld(i32),
    /// The host was built without a function.
    #[error("this SQLite was built without {0}, which pwal needs")]
    Missing(&'static str),
}

type LogFunction = unsafe extern "C" fn(c_int, *const c_char, ...);
type Destructor = unsafe extern "C" fn(*mut c_void);
type ExecCallback = unsafe extern "C" fn(*mut c_void, c_int, *mut *mut c_char, *mut *mut c_char) -> c_int;

macro_rules! api {
    (
        needed { $($name:ident, $symbol:ident, $slot:literal: ($($argument:ty),*) $(-> $result:ty)?;)* }
        younger { $($new:ident, $new_symbol:ident, $new_slot:literal, $since:literal: ($($new_argument:ty),*) -> $new_result:ty;)* }
    ) => {
        /// SQLite's functions.
        #[derive(Clone, Copy)]
        pub struct Api {
            $(pub(crate) $name: unsafe extern "C" fn($($argument),*) $(-> $result)?,)*
            $(pub(crate) $new: Option<unsafe extern "C" fn($($new_argument),*) -> $new_result>,)*
            log: LogFunction,
        }

        /// The linked library's functions, declared with the types used here.
        #[cfg(feature = "linked")]
        mod linked {
            use super::*;
            // Makes the linker take the library.
            use libsqlite3_sys as _;
            unsafe extern "C" {
                $(pub fn $symbol($(_: $argument),*) $(-> $result)?;)*
                $(pub fn $new_symbol($(_: $new_argument),*) -> $new_result;)*
                pub fn sqlite3_log(code: c_int, format: *const c_char, ...);
            }
        }

        impl Api {
            /// The table of the SQLite that called a library's entry point.
            ///
            /// # Safety
            /// `routines` is null or the `sqlite3_api_routines*` that SQLite gave to an entry point.
            ///
            /// # Errors
            /// The host is older than 3.32.0, or was built without a function that pwal needs.
            pub unsafe fn from_host(routines: *const c_void) -> Result<Api, ApiError> {
                let slots: *const *const c_void = routines.cast();
                if slots.is_null() {
                    return Err(ApiError::NoTable);
                }
                // SAFETY: `sqlite3_libversion_number` is in the table since 3.3.13, which brought extensions.
                let version = unsafe {
                    let function = slots.add(67).read();
                    if function.is_null() {
                        return Err(ApiError::Missing("sqlite3_libversion_number"));
                    }
                    std::mem::transmute::<*const c_void, unsafe extern "C" fn() -> c_int>(function)()
                };
                if version < VERSION_MIN {
                    return Err(ApiError::TooOld(version));
                }
                let slot = |index: usize, name: &'static str| {
                    // SAFETY: a table of 3.32.0 has 252 slots, and none of ours is after them.
                    let function = unsafe { slots.add(index).read() };
                    if function.is_null() { Err(ApiError::Missing(name)) } else { Ok(function) }
                };
                // SAFETY: the slot of a younger function is read from the version on that brought it.
                let younger = |index: usize, since: c_int| unsafe {
                    if version < since { std::ptr::null() } else { slots.add(index).read() }
                };
                // SAFETY: each slot holds the function of that name, whose C prototype is the type
                // given here (`sqlite3ext.h`); null was refused, or is `None`.
                unsafe {
                    Ok(Api {
                        $($name: std::mem::transmute::<*const c_void, unsafe extern "C" fn($($argument),*) $(-> $result)?>(
                            slot($slot, stringify!($symbol))?,
                        ),)*
                        $($new: std::mem::transmute::<*const c_void, Option<unsafe extern "C" fn($($new_argument),*) -> $new_result>>(
                            younger($new_slot, $since),
                        ),)*
                        log: std::mem::transmute::<*const c_void, LogFunction>(slot(167, "sqlite3_log")?),
                    })
                }
            }

            /// The table of the SQLite that is linked into this program.
            ///
            /// # Errors
            /// The linked library is older than 3.32.0.
            #[cfg(feature = "linked")]
            pub fn linked() -> Result<Api, ApiError> {
                let api = Api {
                    $($name: linked::$symbol,)*
                    $($new: Some(linked::$new_symbol),)*
                    log: linked::sqlite3_log,
                };
                match api.version() {
                    version if version < VERSION_MIN => Err(ApiError::TooOld(version)),
                    _ => Ok(api),
                }
            }

            /// Name and address of each function: for comparing two tables.
            #[must_use]
            pub fn addresses(&self) -> Vec<(&'static str, *const c_void)> {
                vec![
                    $((stringify!($symbol), self.$name as *const c_void),)*
                    $((stringify!($new_symbol), self.$new.map_or(std::ptr::null(), |function| function as *const c_void)),)*
                    ("sqlite3_log", self.log as *const c_void),
                ]
            }
        }
    };
}

api! {
    needed {
        errmsg, sqlite3_errmsg, 53: (*mut Connection) -> *const c_char;
        exec, sqlite3_exec, 55: (*mut Connection, *const c_char, Option<ExecCallback>, *mut c_void, *mut *mut c_char) -> c_int;
        free, sqlite3_free, 58: (*mut c_void);
        get_autocommit, sqlite3_get_autocommit, 60: (*mut Connection) -> c_int;
        libversion_number, sqlite3_libversion_number, 67: () -> c_int;
        result_error, sqlite3_result_error, 80: (*mut FunctionCall, *const c_char, c_int);
        result_error_code, sqlite3_result_error_code, 146: (*mut FunctionCall, c_int);
        result_int64, sqlite3_result_int64, 83: (*mut FunctionCall, i64);
        result_null, sqlite3_result_null, 84: (*mut FunctionCall);
        result_text, sqlite3_result_text, 85: (*mut FunctionCall, *const c_char, c_int, *const c_void);
        user_data, sqlite3_user_data, 101: (*mut FunctionCall) -> *mut c_void;
        value_int64, sqlite3_value_int64, 107: (*mut Value) -> i64;
        value_type, sqlite3_value_type, 113: (*mut Value) -> c_int;
        file_control, sqlite3_file_control, 127: (*mut Connection, *const c_char, c_int, *mut c_void) -> c_int;
        open_v2, sqlite3_open_v2, 135: (*const c_char, *mut *mut Connection, c_int, *const c_char) -> c_int;
        vfs_find, sqlite3_vfs_find, 141: (*const c_char) -> *mut RawVfs;
        vfs_register, sqlite3_vfs_register, 142: (*mut RawVfs, c_int) -> c_int;
        threadsafe, sqlite3_threadsafe, 144: () -> c_int;
        context_db_handle, sqlite3_context_db_handle, 149: (*mut FunctionCall) -> *mut Connection;
        next_stmt, sqlite3_next_stmt, 152: (*mut Connection, *mut Statement) -> *mut Statement;
        sql, sqlite3_sql, 153: (*mut Statement) -> *const c_char;
        create_function_v2, sqlite3_create_function_v2, 162: (*mut Connection, *const c_char, c_int, c_int, *mut c_void, Option<SqlFunction>, Option<SqlFunction>, Option<unsafe extern "C" fn(*mut FunctionCall)>, Option<Destructor>) -> c_int;
        extended_errcode, sqlite3_extended_errcode, 166: (*mut Connection) -> c_int;
        close_v2, sqlite3_close_v2, 179: (*mut Connection) -> c_int;
        db_filename, sqlite3_db_filename, 180: (*mut Connection, *const c_char) -> *const c_char;
        stmt_busy, sqlite3_stmt_busy, 184: (*mut Statement) -> c_int;
        stmt_readonly, sqlite3_stmt_readonly, 185: (*mut Statement) -> c_int;
        uri_parameter, sqlite3_uri_parameter, 189: (*const c_char, *const c_char) -> *const c_char;
        uri_boolean, sqlite3_uri_boolean, 187: (*const c_char, *const c_char, c_int) -> c_int;
        db_release_memory, sqlite3_db_release_memory, 182: (*mut Connection) -> c_int;
        wal_checkpoint_v2, sqlite3_wal_checkpoint_v2, 191: (*mut Connection, *const c_char, c_int, *mut c_int, *mut c_int) -> c_int;
        auto_extension, sqlite3_auto_extension, 192: (Option<EntryPoint>) -> c_int;
        malloc64, sqlite3_malloc64, 197: (u64) -> *mut c_void;
        uri_key, sqlite3_uri_key, 245: (*const c_char, c_int) -> *const c_char;
        filename_wal, sqlite3_filename_wal, 248: (*const c_char) -> *const c_char;
        create_filename, sqlite3_create_filename, 249: (*const c_char, *const c_char, *const c_char, c_int, *mut *const c_char) -> *mut c_char;
        free_filename, sqlite3_free_filename, 250: (*mut c_char);
        database_file_object, sqlite3_database_file_object, 251: (*const c_char) -> *mut RawFile;
    }
    younger {
        // Missing where SQLite was built without threads.
        mutex_alloc, sqlite3_mutex_alloc, 130, 0: (c_int) -> *mut c_void;
        mutex_free, sqlite3_mutex_free, 132, 0: (*mut c_void) -> ();
        txn_state, sqlite3_txn_state, 252, 3_034_000: (*mut Connection, *const c_char) -> c_int;
        db_name, sqlite3_db_name, 264, 3_039_000: (*mut Connection, c_int) -> *const c_char;
    }
}

impl Api {
    /// `sqlite3_libversion_number`: 3054001 for 3.54.1.
    #[must_use]
    pub fn version(&self) -> i32 {
        // SAFETY: needs nothing, may be called at any time.
        unsafe { (self.libversion_number)() }
    }

    /// `sqlite3_log(code, "%s", text)`.
    pub fn write_log(&self, code: i32, text: &str) {
        let text = CString::new(text.replace('\0', "\u{fffd}")).unwrap_or_default();
        // SAFETY: the format takes one string, and `text` outlives the call.
        unsafe { (self.log)(code, c"%s".as_ptr(), text.as_ptr()) }
    }

    /// A copy of `text` that SQLite frees by `sqlite3_free`; null if there is no memory.
    #[must_use]
    pub fn copy_text(&self, text: &str) -> *mut c_char {
        // A NUL inside would end the text for SQLite; such a text comes only from foreign input.
        let text = text.as_bytes().split(|byte| *byte == 0).next().unwrap_or_default();
        // SAFETY: allocates any number of bytes; null is checked below.
        let copy: *mut u8 = unsafe { (self.malloc64)(text.len() as u64 + 1) }.cast();
        if copy.is_null() {
            return std::ptr::null_mut();
        }
        // SAFETY: `copy` has room for the text and its NUL, and is new memory.
        unsafe {
            copy.copy_from_nonoverlapping(text.as_ptr(), text.len());
            copy.add(text.len()).write(0);
        }
        copy.cast()
    }
}

impl std::fmt::Debug for Api {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Api(SQLite {})", self.version())
    }
}
