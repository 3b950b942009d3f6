//! `pwal shell`

use super::{Output, command, tool};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use support::{Scratch, assert_plain, library, number, open_stock};

fn sqlite3() -> PathBuf {
    std::env::var_os("PWAL_TEST_SQLITE3").map_or_else(|| PathBuf::from("/usr/bin/sqlite3"), PathBuf::from)
}

/// The shell on a database, with the library and the shell of the test.
fn shell(path: &Path, arguments: &[&str], input: &str) -> Output {
    let mut command = command(["shell".as_ref(), path.as_os_str()]);
    let built = library::library();
    command.args(arguments).env("PWAL_LIBRARY", built).env("PWAL_SQLITE3", sqlite3());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the tool starts");
    child.stdin.take().expect("its stdin").write_all(input.as_bytes()).expect("write to it");
    Output::of(child.wait_with_output().expect("it ends"))
}

#[test]
fn the_database_is_opened_through_pwal() {
    let scratch = Scratch::new();
    // What a shell would take apart.
    let path = scratch.file("a \"b\" \\c' d.db");
    let sql = "PRAGMA journal_mode=wal; CREATE TABLE t(x); INSERT INTO t VALUES(1);";
    assert_eq!(shell(&path, &[sql], "").printed(), "wal\n");
    assert_plain(&path);
    let output =
        shell(&path, &[], "PRAGMA parallel_wal_mode;\n.vfsname\nINSERT INTO t VALUES(2);\nSELECT count(*) FROM t;\n");
    assert_eq!(output.printed(), "auto\npwal/unix\n2\n");
    let output = shell(&path, &["-header", "-csv", "SELECT x AS a, x + 1 AS b FROM t"], "");
    assert_eq!(output.printed().replace("\r\n", "\n"), "a,b\n1,2\n2,3\n");
    assert_plain(&path);
    assert_eq!(number(&open_stock(&path), "SELECT count(*) FROM t"), 2);
}

#[test]
fn a_database_in_memory_is_no_file() {
    let scratch = Scratch::new();
    let mut command = command(["shell", ":memory:", "PRAGMA database_list; SELECT pwal_status() LIKE '%in memory%'"]);
    command.env("PWAL_LIBRARY", library::library()).env("PWAL_SQLITE3", sqlite3()).current_dir(scratch.path());
    let output = Output::of(command.stdin(Stdio::null()).output().expect("the tool starts"));
    assert_eq!(output.printed(), "0|main|\n1\n");
    assert_eq!(super::contents(scratch.path()).len(), 0);
}

#[test]
fn an_error_does_not_end_a_script_as_in_sqlite3() {
    let scratch = Scratch::new();
    let path = scratch.file("app.db");
    let output = shell(&path, &[], "SELECT nonsense;\nSELECT 'goes on';\n");
    assert_eq!(output.stdout, "goes on\n", "{output:?}");
}

#[test]
fn a_library_that_does_not_load_does_not_become_stock() {
    let scratch = Scratch::new();
    let path = scratch.file("app.db");
    let broken = scratch.file("libpwal.so");
    std::fs::write(&broken, "no library").expect("write");
    let mut command = command(["shell".as_ref(), path.as_os_str(), "CREATE TABLE t(x)".as_ref()]);
    let output = command.env("PWAL_LIBRARY", &broken).env("PWAL_SQLITE3", sqlite3()).output();
    let output = Output::of(output.expect("the tool starts"));
    assert_ne!(output.status, Some(0), "{output:?}");
    assert!(!path.exists(), "{output:?}");
}

#[test]
fn what_is_missing_is_named() {
    let scratch = Scratch::new();
    let path = scratch.file("app.db");
    let with = |name: &str, value: &str| {
        let mut command = command(["shell".as_ref(), path.as_os_str()]);
        command.env("PWAL_LIBRARY", library::library()).env(name, value);
        Output::of(command.stdin(Stdio::null()).output().expect("the tool starts"))
    };
    assert!(with("PWAL_LIBRARY", "/nowhere/libpwal.so").refused(4).contains("/nowhere/libpwal.so"));
    assert!(with("PWAL_SQLITE3", "/nowhere/sqlite3").refused(4).contains("PWAL_SQLITE3"));
    // Copied away from its library, and no variable.
    let alone = scratch.file("pwal");
    library::copy_program(&library::tool(), &alone);
    let output = std::process::Command::new(&alone).arg("shell").arg(&path).env_remove("PWAL_LIBRARY").output();
    let output = Output::of(output.expect("the copy starts"));
    assert!(output.refused(4).contains("PWAL_LIBRARY"), "{output:?}");
    assert_eq!(tool(["shell"]).status, Some(2));
}
