//! A VFS that begins as a copy of pwal's table, as shims are often made, and puts something of its own into `pAppData`.

use rusqlite::{Connection, OpenFlags, ffi};
use std::ffi::CString;
use support::child;

/// What is in its `pAppData`: nothing that pwal can read.
static OWN: [u8; 4096] = [0xa5; 4096];

/// Registers the copy of `original`, with each of its methods.
fn copy_of(original: &str, name: &str) {
    let original = CString::new(original).unwrap();
    // SAFETY: a registered VFS is copied, and the copy lives as long as the process.
    unsafe {
        let found = ffi::sqlite3_vfs_find(original.as_ptr());
        assert!(!found.is_null());
        let mut vfs = *found;
        vfs.pNext = std::ptr::null_mut();
        vfs.zName = CString::new(name).unwrap().into_raw();
        vfs.pAppData = OWN.as_ptr().cast_mut().cast();
        assert_eq!(ffi::sqlite3_vfs_register(Box::leak(Box::new(vfs)), 0), ffi::SQLITE_OK);
    }
}

/// Where there is one registration, the copy can only mean that one.
#[test]
fn a_copy_of_the_table_works_beside_one_registration() {
    if !support::on_pwal() {
        return;
    }
    child::alone("copied::a_copy_of_the_table_works_beside_one_registration", || {
        support::vfs();
        copy_of("pwal", "copy");
        let scratch = support::Scratch::new();
        let path = scratch.file("app.db");
        let connection = Connection::open_with_flags_and_vfs(&path, OpenFlags::default(), "copy").unwrap();
        support::run(&connection, "PRAGMA journal_mode=WAL; CREATE TABLE t(x); INSERT INTO t VALUES(1)");
        support::assert_integrity(&connection);
        support::close(connection);
        support::assert_plain(&path);
    });
}

/// Beside several it means none: an error, and nothing of its memory is read as a registration.
#[test]
fn a_copy_of_the_table_is_refused_beside_several_registrations() {
    if !support::on_pwal() {
        return;
    }
    child::alone("copied::a_copy_of_the_table_is_refused_beside_several_registrations", || {
        support::vfs();
        pwal::Vfs::builder().name("another").register().unwrap();
        copy_of("pwal", "copy");
        let scratch = support::Scratch::new();
        let path = scratch.file("app.db");
        let error = Connection::open_with_flags_and_vfs(&path, OpenFlags::default(), "copy").unwrap_err();
        assert!(error.sqlite_error_code().is_some(), "{error}");
        assert!(!path.exists());
        let connection = support::open(&path);
        support::run(&connection, "CREATE TABLE t(x)");
    });
}
