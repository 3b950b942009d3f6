//! Connections that may not write: `mode=ro`, `immutable=1`, `query_only`, a directory without permission.

use super::fill;
use rusqlite::{Connection, ffi};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use support::Scratch;

fn with(path: &Path, parameter: &str) -> Connection {
    let uri = format!("file:{}?{parameter}", path.display());
    support::try_open(uri.as_ref(), support::flags(), support::vfs()).unwrap()
}

fn closed(scratch: &Scratch) -> std::path::PathBuf {
    let path = scratch.file("app.db");
    let connection = support::open_wal(&path);
    fill(&connection, 10, 1000);
    support::close(connection);
    path
}

#[test]
fn mode_ro_reads_a_closed_database_and_refuses_to_write() {
    let scratch = Scratch::new();
    let path = closed(&scratch);
    let before = std::fs::read(&path).unwrap();
    let reader = with(&path, "mode=ro");
    assert_eq!(support::number(&reader, "SELECT count(*) FROM t"), 10);
    for sql in ["INSERT INTO t(x) VALUES(1)", "BEGIN IMMEDIATE; CREATE TABLE u(x)"] {
        assert_eq!(support::code_of(&reader, sql) & 0xff, ffi::SQLITE_READONLY, "{sql}");
        let _ = reader.execute_batch("ROLLBACK");
    }
    support::close(reader);
    assert_eq!(std::fs::read(&path).unwrap(), before);
}

#[test]
fn mode_ro_reads_beside_a_writer() {
    let scratch = Scratch::new();
    let path = closed(&scratch);
    let writer = support::open(&path);
    fill(&writer, 5, 1000);
    let reader = with(&path, "mode=ro");
    assert_eq!(support::number(&reader, "SELECT count(*) FROM t"), 15);
    fill(&writer, 5, 1000);
    assert_eq!(support::number(&reader, "SELECT count(*) FROM t"), 20);
    assert_eq!(support::code_of(&reader, "DELETE FROM t") & 0xff, ffi::SQLITE_READONLY);
    support::close(reader);
    support::close(writer);
    support::assert_plain(&path);
}

#[test]
fn immutable_reads_a_closed_database_and_locks_nothing() {
    let scratch = Scratch::new();
    let path = closed(&scratch);
    let reader = with(&path, "immutable=1");
    assert_eq!(support::number(&reader, "SELECT count(*) FROM t"), 10);
    assert_eq!(support::beside(&path), Vec::<String>::new());
    support::close(reader);
}

#[test]
fn immutable_never_shows_a_log_in_use_as_the_whole_database() {
    if !support::on_pwal() {
        return; // stock shows the file without its WAL, as documented
    }
    let scratch = Scratch::new();
    let path = closed(&scratch);
    let writer = support::open(&path);
    fill(&writer, 5, 1000);
    for vfs in [support::vfs(), support::STOCK] {
        let uri = format!("file:{}?immutable=1", path.display());
        let reader = support::try_open(uri.as_ref(), support::flags(), vfs).unwrap();
        assert_eq!(support::code_of(&reader, "SELECT count(*) FROM t"), ffi::SQLITE_NOTADB, "{vfs}");
    }
    support::run(&writer, "INSERT INTO t(x) VALUES(1)");
}

#[test]
fn query_only_refuses_writes_and_can_be_taken_back() {
    let scratch = Scratch::new();
    let path = closed(&scratch);
    let connection = support::open(&path);
    support::run(&connection, "PRAGMA query_only=ON");
    assert_eq!(support::code_of(&connection, "DELETE FROM t"), ffi::SQLITE_READONLY);
    support::run(&connection, "PRAGMA query_only=OFF; DELETE FROM t WHERE id=1");
    assert_eq!(support::number(&connection, "SELECT count(*) FROM t"), 9);
}

/// Runs `act` on a thread whose file accesses are those of a user without rights: root's are
/// not bound by permissions.
fn without_rights<T: Send>(act: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        scope
            .spawn(|| {
                // SAFETY: changes how this thread's file accesses are checked, nothing else.
                unsafe { libc::setfsuid(65534) };
                act()
            })
            .join()
            .expect("the thread")
    })
}

#[test]
fn a_directory_without_permission_is_refused_as_stock_does() {
    let scratch = Scratch::new();
    let path = closed(&scratch);
    let directory = path.parent().unwrap();
    let mode = |path: &Path, mode| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    for file in [0o444, 0o666] {
        mode(&path, file);
        mode(directory, 0o555);
        let code = without_rights(|| {
            let connection = support::open(&path);
            [support::code_of(&connection, "SELECT count(*) FROM t"), support::code_of(&connection, "DELETE FROM t")]
        });
        mode(directory, 0o755);
        for code in code {
            assert!(matches!(code & 0xff, ffi::SQLITE_CANTOPEN | ffi::SQLITE_READONLY), "{file:o}: {code}");
        }
        assert_eq!(support::beside(&path), Vec::<String>::new());
        mode(&path, 0o644);
    }
    let connection = support::open(&path);
    assert_eq!(support::number(&connection, "SELECT count(*) FROM t"), 10);
}

#[test]
fn a_file_without_permission_to_write_is_read_only() {
    let scratch = Scratch::new();
    let path = closed(&scratch);
    let mode = |path: &Path, mode| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    mode(&path, 0o444);
    mode(path.parent().unwrap(), 0o777);
    let (rows, code) = without_rights(|| {
        let connection = support::open(&path);
        (support::rows(&connection, "SELECT count(*) FROM t").unwrap(), support::code_of(&connection, "DELETE FROM t"))
    });
    assert_eq!((rows, code & 0xff), (vec![String::from("10")], ffi::SQLITE_READONLY));
}
