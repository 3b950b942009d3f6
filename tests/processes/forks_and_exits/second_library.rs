//! Two SQLite libraries in one process: POSIX locks do not hold between them, so to SQLite each is alone.

use super::count;
use rusqlite::ffi;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::{Path, PathBuf};
use std::ptr;
use support::scene::scene;
use support::{child, library};

/// Debian's SQLite, beside the one that this test is linked with.
struct Second {
    library: *mut c_void,
}

type Open = unsafe extern "C" fn(*const c_char, *mut *mut c_void, c_int, *const c_char) -> c_int;
type Exec = unsafe extern "C" fn(*mut c_void, *const c_char, *const c_void, *const c_void, *const c_void) -> c_int;
type Close = unsafe extern "C" fn(*mut c_void) -> c_int;
type Enable = unsafe extern "C" fn(*mut c_void, c_int) -> c_int;
type Load = unsafe extern "C" fn(*mut c_void, *const c_char, *const c_char, *mut *mut c_char) -> c_int;

impl Second {
    fn load() -> Option<Second> {
        // SAFETY: a library that the system installs; its symbols stay local.
        let library = unsafe { libc::dlopen(c"libsqlite3.so.0".as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        (!library.is_null()).then_some(Second { library })
    }

    fn symbol(&self, name: &CStr) -> *mut c_void {
        // SAFETY: the library is never closed.
        let symbol = unsafe { libc::dlsym(self.library, name.as_ptr()) };
        assert!(!symbol.is_null(), "{name:?}");
        symbol
    }

    fn open(&self, path: &Path, vfs: Option<&CStr>) -> *mut c_void {
        let path = CString::new(path.to_str().unwrap()).unwrap();
        let mut connection = ptr::null_mut();
        let flags = ffi::SQLITE_OPEN_READWRITE | ffi::SQLITE_OPEN_CREATE;
        // SAFETY: the function of that name and its documented type.
        let code = unsafe {
            let open: Open = std::mem::transmute(self.symbol(c"sqlite3_open_v2"));
            open(path.as_ptr(), &raw mut connection, flags, vfs.map_or(ptr::null(), CStr::as_ptr))
        };
        assert_eq!(code, ffi::SQLITE_OK);
        connection
    }

    fn run(&self, connection: *mut c_void, sql: &str) -> c_int {
        let sql = CString::new(sql).unwrap();
        // SAFETY: as above; the connection is open.
        unsafe {
            let exec: Exec = std::mem::transmute(self.symbol(c"sqlite3_exec"));
            exec(connection, sql.as_ptr(), ptr::null(), ptr::null(), ptr::null())
        }
    }

    fn close(&self, connection: *mut c_void) {
        // SAFETY: as above; not used again.
        let code = unsafe {
            let close: Close = std::mem::transmute(self.symbol(c"sqlite3_close"));
            close(connection)
        };
        assert_eq!(code, ffi::SQLITE_OK);
    }

    /// Loads `libpwal.so`: another copy of pwal, for this SQLite.
    fn load_pwal(&self) {
        let connection = self.open(":memory:".as_ref(), None);
        let library = CString::new(library::library().to_str().unwrap()).unwrap();
        // SAFETY: as above.
        let code = unsafe {
            let enable: Enable = std::mem::transmute(self.symbol(c"sqlite3_enable_load_extension"));
            assert_eq!(enable(connection, 1), ffi::SQLITE_OK);
            let load: Load = std::mem::transmute(self.symbol(c"sqlite3_load_extension"));
            load(connection, library.as_ptr(), ptr::null(), ptr::null_mut())
        };
        assert_eq!(code, ffi::SQLITE_OK);
        self.close(connection);
    }
}

/// A role of its own process: the second library shall not become part of the other tests.
#[test]
fn child_has_two_libraries() {
    if !child::role("forks_and_exits::second_library::child_has_two_libraries") {
        return;
    }
    let path = PathBuf::from(child::setting("PWAL_TEST_DATABASE"));
    let Some(second) = Second::load() else {
        child::report("skipped: no libsqlite3.so.0");
        return;
    };
    let own = support::open(&path);
    support::run(&own, "INSERT INTO t VALUES('first library')");
    second.load_pwal();
    let other = second.open(&path, Some(c"pwal"));
    // Each is a process of its own to the other.
    assert_eq!(second.run(other, "PRAGMA journal_mode=DELETE"), ffi::SQLITE_BUSY);
    for _ in 0..10 {
        assert_eq!(second.run(other, "INSERT INTO t VALUES('second library')"), ffi::SQLITE_OK);
        support::run(&own, "INSERT INTO t VALUES('first library')");
    }
    assert_eq!(count(&own), 21);
    support::close(own);
    assert_eq!(second.run(other, "INSERT INTO t VALUES('second library')"), ffi::SQLITE_OK);
    let own = support::open(&path);
    assert_eq!(count(&own), 22);
    second.close(other);
    support::run(&own, "INSERT INTO t VALUES('first library')");
    assert_eq!(count(&own), 23);
    support::close(own);
    child::report("done");
}

#[test]
fn a_second_sqlite_library_in_the_process_shares_the_database() {
    if !support::on_pwal() {
        return;
    }
    library::library();
    let (_scene, path) = scene("two libraries");
    let mut process = child::start(
        "forks_and_exits::second_library::child_has_two_libraries",
        &[("PWAL_TEST_DATABASE", path.to_str().unwrap().to_owned())],
    );
    let said = process.lines.next().expect("a word");
    println!("{said}");
    assert!(process.wait().success());
    if said == "done" {
        support::assert_plain(&path);
    }
}
