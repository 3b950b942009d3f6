//! SQLite's C interface as far as a VFS sees it: own declarations, so that the crate compiles
//! and runs without SQLite's headers and on hosts older than them.
//!
//! Source: <https://www.sqlite.org/c3ref/vfs.html>, `io_methods.html`, `file.html`. The layouts
//! have only grown at their ends since version 3.7.6; `iVersion` says how far they reach.

use std::ffi::{c_char, c_int, c_void};

/// `sqlite3`: a connection, only ever passed back to SQLite.
#[repr(C)]
pub struct Connection {
    _opaque: [u8; 0],
}

/// `sqlite3_stmt`: a prepared statement.
#[repr(C)]
pub struct Statement {
    _opaque: [u8; 0],
}

/// `sqlite3_context`: the call of a SQL function.
#[repr(C)]
pub struct FunctionCall {
    _opaque: [u8; 0],
}

/// `sqlite3_value`
#[repr(C)]
pub struct Value {
    _opaque: [u8; 0],
}

/// `sqlite3_file`: the head of every file object.
#[repr(C)]
pub struct RawFile {
    /// `pMethods`: null in a file that is not open.
    pub methods: *const IoMethods,
}

/// `sqlite3_io_methods`
#[repr(C)]
#[derive(Clone, Copy)]
#[allow(missing_docs)] // the names are SQLite's
pub struct IoMethods {
    pub version: c_int,
    pub close: Option<unsafe extern "C" fn(*mut RawFile) -> c_int>,
    pub read: Option<unsafe extern "C" fn(*mut RawFile, *mut c_void, c_int, i64) -> c_int>,
    pub write: Option<unsafe extern "C" fn(*mut RawFile, *const c_void, c_int, i64) -> c_int>,
    pub truncate: Option<unsafe extern "C" fn(*mut RawFile, i64) -> c_int>,
    pub sync: Option<unsafe extern "C" fn(*mut RawFile, c_int) -> c_int>,
    pub file_size: Option<unsafe extern "C" fn(*mut RawFile, *mut i64) -> c_int>,
    pub lock: Option<unsafe extern "C" fn(*mut RawFile, c_int) -> c_int>,
    pub unlock: Option<unsafe extern "C" fn(*mut RawFile, c_int) -> c_int>,
    pub check_reserved_lock: Option<unsafe extern "C" fn(*mut RawFile, *mut c_int) -> c_int>,
    pub file_control: Option<unsafe extern "C" fn(*mut RawFile, c_int, *mut c_void) -> c_int>,
    pub sector_size: Option<unsafe extern "C" fn(*mut RawFile) -> c_int>,
    pub device_characteristics: Option<unsafe extern "C" fn(*mut RawFile) -> c_int>,
    // version 2
    pub shm_map: Option<unsafe extern "C" fn(*mut RawFile, c_int, c_int, c_int, *mut *mut c_void) -> c_int>,
    pub shm_lock: Option<unsafe extern "C" fn(*mut RawFile, c_int, c_int, c_int) -> c_int>,
    pub shm_barrier: Option<unsafe extern "C" fn(*mut RawFile)>,
    pub shm_unmap: Option<unsafe extern "C" fn(*mut RawFile, c_int) -> c_int>,
    // version 3
    pub fetch: Option<unsafe extern "C" fn(*mut RawFile, i64, c_int, *mut *mut c_void) -> c_int>,
    pub unfetch: Option<unsafe extern "C" fn(*mut RawFile, i64, *mut c_void) -> c_int>,
}

/// What `xDlSym` and the system call table hand out: a function of unknown type.
pub type AnyFunction = Option<unsafe extern "C" fn()>;

/// `sqlite3_vfs`
#[repr(C)]
#[allow(missing_docs)] // the names are SQLite's
pub struct RawVfs {
    pub version: c_int,
    pub file_bytes: c_int,
    pub path_bytes_max: c_int,
    pub next: *mut RawVfs,
    pub name: *const c_char,
    pub app_data: *mut c_void,
    pub open: Option<unsafe extern "C" fn(*mut RawVfs, *const c_char, *mut RawFile, c_int, *mut c_int) -> c_int>,
    pub delete: Option<unsafe extern "C" fn(*mut RawVfs, *const c_char, c_int) -> c_int>,
    pub access: Option<unsafe extern "C" fn(*mut RawVfs, *const c_char, c_int, *mut c_int) -> c_int>,
    pub full_pathname: Option<unsafe extern "C" fn(*mut RawVfs, *const c_char, c_int, *mut c_char) -> c_int>,
    pub dl_open: Option<unsafe extern "C" fn(*mut RawVfs, *const c_char) -> *mut c_void>,
    pub dl_error: Option<unsafe extern "C" fn(*mut RawVfs, c_int, *mut c_char)>,
    pub dl_sym: Option<unsafe extern "C" fn(*mut RawVfs, *mut c_void, *const c_char) -> AnyFunction>,
    pub dl_close: Option<unsafe extern "C" fn(*mut RawVfs, *mut c_void)>,
    pub randomness: Option<unsafe extern "C" fn(*mut RawVfs, c_int, *mut c_char) -> c_int>,
    pub sleep: Option<unsafe extern "C" fn(*mut RawVfs, c_int) -> c_int>,
    pub current_time: Option<unsafe extern "C" fn(*mut RawVfs, *mut f64) -> c_int>,
    pub get_last_error: Option<unsafe extern "C" fn(*mut RawVfs, c_int, *mut c_char) -> c_int>,
    // version 2
    pub current_time_int64: Option<unsafe extern "C" fn(*mut RawVfs, *mut i64) -> c_int>,
    // version 3
    pub set_system_call: Option<unsafe extern "C" fn(*mut RawVfs, *const c_char, AnyFunction) -> c_int>,
    pub get_system_call: Option<unsafe extern "C" fn(*mut RawVfs, *const c_char) -> AnyFunction>,
    pub next_system_call: Option<unsafe extern "C" fn(*mut RawVfs, *const c_char) -> *const c_char>,
}

/// An entry point of an extension, as `sqlite3_auto_extension` calls it.
pub type EntryPoint = unsafe extern "C" fn(*mut Connection, *mut *mut c_char, *const c_void) -> c_int;

/// A SQL function (`xFunc`).
pub type SqlFunction = unsafe extern "C" fn(*mut FunctionCall, c_int, *mut *mut Value);

macro_rules! constants {
    ($($name:ident = $value:expr;)*) => {
        $(#[doc = concat!("`SQLITE_", stringify!($name), "`")] pub const $name: c_int = $value;)*
    };
}

constants! {
    OK = 0;
    OK_LOAD_PERMANENTLY = 256;

    OPEN_READONLY = 0x1;
    OPEN_READWRITE = 0x2;
    OPEN_CREATE = 0x4;
    OPEN_MAIN_DB = 0x100;
    OPEN_SUPER_JOURNAL = 0x4000;
    OPEN_NOMUTEX = 0x8000;
    OPEN_PRIVATECACHE = 0x40000;
    OPEN_WAL = 0x80000;

    LOCK_NONE = 0;
    LOCK_SHARED = 1;
    LOCK_RESERVED = 2;
    LOCK_PENDING = 3;
    LOCK_EXCLUSIVE = 4;

    SHM_UNLOCK = 1;
    SHM_LOCK = 2;
    SHM_SHARED = 4;
    SHM_EXCLUSIVE = 8;

    SYNC_FULL = 3;

    FCNTL_LOCKSTATE = 1;
    FCNTL_LAST_ERRNO = 4;
    FCNTL_SIZE_HINT = 5;
    FCNTL_FILE_POINTER = 7;
    FCNTL_VFSNAME = 12;
    FCNTL_PRAGMA = 14;
    FCNTL_BUSYHANDLER = 15;
    FCNTL_COMMIT_PHASETWO = 22;
    FCNTL_VFS_POINTER = 27;
    FCNTL_PDB = 30;
    FCNTL_DATA_VERSION = 35;
    FCNTL_EXTERNAL_READER = 40;

    TXN_NONE = 0;
    TXN_WRITE = 2;

    MUTEX_FAST = 0;

    CHECKPOINT_TRUNCATE = 3;

    INTEGER = 1;

    UTF8 = 1;
    DETERMINISTIC = 0x800;
    INNOCUOUS = 0x20_0000;
    DIRECTONLY = 0x8_0000;
}
