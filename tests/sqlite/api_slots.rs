//! The table of SQLite functions: each slot of a host's `sqlite3_api_routines` is the function it is
//! taken for, hosts that lack one are refused, and a registration outlives `sqlite3_shutdown`.
//!
//! Those that change what all of a process share (SQLite's default VFS, its automatic extensions, SQLite itself, which one of them
//! shuts down) run in a process of their own.

use pwal::internal::sqlite::{Api, ApiError};
use pwal::{RegisterError, Vfs};
use rusqlite::{Connection, ffi};
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::sync::atomic::{AtomicPtr, Ordering};
use support::child;

type EntryPoint = unsafe extern "C" fn(*mut ffi::sqlite3, *mut *mut c_char, *const ffi::sqlite3_api_routines) -> c_int;

static GRABBED: AtomicPtr<c_void> = AtomicPtr::new(std::ptr::null_mut());

unsafe extern "C" fn grab(
    _connection: *mut ffi::sqlite3,
    _message: *mut *mut c_char,
    routines: *const ffi::sqlite3_api_routines,
) -> c_int {
    GRABBED.store(routines.cast_mut().cast(), Ordering::SeqCst);
    0
}

/// The table that SQLite hands to extensions.
fn routines() -> *const c_void {
    // SAFETY: `grab` has the type of an entry point, which the bindings give in a form of their own.
    let code =
        unsafe { ffi::sqlite3_auto_extension(Some(std::mem::transmute::<*const (), EntryPoint>(grab as *const ()))) };
    assert_eq!(code, 0);
    Connection::open_in_memory().unwrap();
    let routines = GRABBED.load(Ordering::SeqCst);
    assert!(!routines.is_null(), "SQLite called no automatic extension");
    routines
}

#[test]
fn every_slot_is_the_function_of_its_name() {
    child::alone("api_slots::every_slot_is_the_function_of_its_name", compare_slots);
}

fn compare_slots() {
    // SAFETY: the table that SQLite handed over.
    let host = unsafe { Api::from_host(routines()) }.unwrap();
    let linked = Api::linked().unwrap();
    let (host, linked) = (host.addresses(), linked.addresses());
    assert!(host.len() >= 20);
    for ((name, of_host), (_, of_library)) in host.iter().zip(&linked) {
        assert_eq!(of_host, of_library, "the slot of {name} holds another function");
    }
}

extern "C" fn version_3_31_1() -> c_int {
    3_031_001
}

extern "C" fn version_3_32_0() -> c_int {
    3_032_000
}

/// A table in which only the version can be asked.
fn table(version: extern "C" fn() -> c_int) -> Vec<*const c_void> {
    let mut table = vec![std::ptr::null(); 252];
    table[67] = version as *const c_void;
    table
}

#[test]
fn a_host_that_is_too_old_or_lacks_a_function_is_refused_by_name() {
    // A table of 3.31.1 ends before the newest slots: nothing but the version may be read.
    let old = &table(version_3_31_1)[..68];
    // SAFETY: a table as far as its version allows to read.
    let error = unsafe { Api::from_host(old.as_ptr().cast()) }.unwrap_err();
    assert!(matches!(error, ApiError::TooOld(3_031_001)));
    assert_eq!(error.to_string(), "pwal needs SQLite 3.32.0 or newer, this is 3.31.1");

    // SAFETY: as above.
    let error = unsafe { Api::from_host(table(version_3_32_0).as_ptr().cast()) }.unwrap_err();
    assert!(matches!(error, ApiError::Missing(_)), "{error}");

    // SAFETY: null is allowed.
    let error = unsafe { Api::from_host(std::ptr::null()) }.unwrap_err();
    assert!(matches!(error, ApiError::NoTable), "{error}");
}

fn default_vfs() -> String {
    // SAFETY: null asks for the default; a registered VFS has a name.
    unsafe { CStr::from_ptr((*ffi::sqlite3_vfs_find(std::ptr::null())).zName).to_str().unwrap().to_owned() }
}

#[test]
fn after_a_shutdown_a_second_registration_is_the_default_again() {
    child::alone("api_slots::after_a_shutdown_a_second_registration_is_the_default_again", register_after_a_shutdown);
}

fn register_after_a_shutdown() {
    let register = || Vfs::builder().name("pwal-shutdown").make_default(true).register();
    let before = default_vfs();
    register().unwrap();
    assert_eq!(default_vfs(), "pwal-shutdown");
    // SAFETY: no connection is open in this process.
    assert_eq!(unsafe { ffi::sqlite3_shutdown() }, 0);
    assert_eq!(default_vfs(), before, "SQLite puts its own VFS first when it starts again");
    register().unwrap();
    assert_eq!(default_vfs(), "pwal-shutdown");
    let status: String =
        Connection::open_in_memory().unwrap().query_row("SELECT pwal_status()", [], |row| row.get(0)).unwrap();
    assert!(status.contains("in memory"), "{status}");
    // SAFETY: a registered VFS becomes the default again.
    unsafe { ffi::sqlite3_vfs_register(ffi::sqlite3_vfs_find(CString::new(before).unwrap().as_ptr()), 1) };
}

#[test]
fn a_registration_is_idempotent_and_never_takes_what_is_not_its_own() {
    child::alone("api_slots::a_registration_is_idempotent_and_never_takes_what_is_not_its_own", register_again);
}

fn register_again() {
    let register = |name: &str, base: Option<&str>| {
        let builder = Vfs::builder().name(name);
        base.into_iter().fold(builder, pwal::VfsBuilder::base).register()
    };
    let find = |name: &CStr| {
        // SAFETY: a C string.
        unsafe { ffi::sqlite3_vfs_find(name.as_ptr()) }
    };
    register("pwal-first", None).unwrap();
    let first = find(c"pwal-first");
    register("pwal-first", None).unwrap();
    register("pwal-first", Some("unix")).unwrap();
    assert_eq!(find(c"pwal-first"), first);

    let error = register("pwal-first", Some("unix-none")).unwrap_err();
    assert!(matches!(error, RegisterError::OtherBase { .. }), "{error}");
    let error = register("unix-excl", None).unwrap_err();
    assert!(matches!(error, RegisterError::NameTaken(_)), "{error}");
    let error = register("pwal-second", Some("pwal-first")).unwrap_err();
    assert!(matches!(error, RegisterError::OwnBase(_)), "{error}");
    let error = register("pwal-second", Some("nowhere")).unwrap_err();
    assert!(matches!(error, RegisterError::NoBase(_)), "{error}");
    let error = register("pwal\0second", None).unwrap_err();
    assert!(matches!(error, RegisterError::BadName(_)), "{error}");
    assert!(find(c"pwal-second").is_null());

    // Somebody takes it off SQLite's list: it comes back, the same one.
    // SAFETY: a registered VFS, without open files.
    unsafe { ffi::sqlite3_vfs_unregister(first) };
    assert!(find(c"pwal-first").is_null());
    register("pwal-first", None).unwrap();
    assert_eq!(find(c"pwal-first"), first);
}

#[test]
fn as_default_it_is_never_its_own_base() {
    child::alone("api_slots::as_default_it_is_never_its_own_base", register_two_defaults);
}

fn register_two_defaults() {
    let before = default_vfs();
    let register = |name: &str| Vfs::builder().name(name).make_default(true).register();
    register("pwal-below").unwrap();
    register("pwal-above").unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    let connection = Connection::open(file.path()).unwrap();
    let mut name: *mut c_char = std::ptr::null_mut();
    // SAFETY: the file control leaves text made by `sqlite3_malloc`.
    let name = unsafe {
        let out = (&raw mut name).cast();
        ffi::sqlite3_file_control(connection.handle(), c"main".as_ptr(), ffi::SQLITE_FCNTL_VFSNAME, out);
        let text = CStr::from_ptr(name).to_str().unwrap().to_owned();
        ffi::sqlite3_free(name.cast());
        text
    };
    assert_eq!(name, format!("pwal-above/{before}"));
    drop(connection);
    // SAFETY: a registered VFS becomes the default again.
    unsafe { ffi::sqlite3_vfs_register(ffi::sqlite3_vfs_find(CString::new(before).unwrap().as_ptr()), 1) };
}
