//! What one types into the `sqlite3` shell, and what comes of it.

use super::{Place, printed, program, run};
use std::process::Output;
use support::library;

fn shell(place: &Place, arguments: &[&str], input: &str) -> Output {
    let batch: Vec<&str> = ["-batch"].iter().chain(arguments).copied().collect();
    run(place, &program("PWAL_TEST_SQLITE3", "/usr/bin/sqlite3"), &batch, input)
}

/// Where the connection is, as a person would ask.
const ASK: &str = ".vfsname";

#[test]
fn what_one_types() {
    let rows: [(&str, &[&str], &str, &str); 7] = [
        ("load, then open", &[], ".load ./libpwal\n.open app.db\n.vfsname\n", "pwal/unix"),
        ("load and open as arguments", &["app.db", ".load ./libpwal", ".open app.db", ASK], "", "pwal/unix"),
        ("as commands", &["-cmd", ".load ./libpwal", "-cmd", ".open app.db", ":memory:", ASK], "", "pwal/unix"),
        ("an -init file", &["-init", "init.sql", ":memory:", ASK], "", "pwal/unix"),
        ("a URI after loading", &[], ".load ./libpwal\n.open file:app.db?vfs=pwal\n.vfsname\n", "pwal/unix"),
        ("back to stock by URI", &[], ".load ./libpwal\n.open file:app.db?vfs=unix\n.vfsname\n", "unix"),
        ("loaded too late", &["-cmd", ".load ./libpwal", "app.db", ASK], "", "unix"),
    ];
    for (what, arguments, input, expected) in rows {
        let place = Place::new();
        std::fs::write(place.path().join("init.sql"), ".load ./libpwal\n.open app.db\n").unwrap();
        assert_eq!(printed(&shell(&place, arguments, input)), expected, "{what}");
    }
    // The name is not known when the shell opens its argument.
    for arguments in [
        &["-vfs", "pwal", "app.db", "SELECT 1"][..],
        &["-cmd", ".load ./libpwal", "file:app.db?vfs=pwal", "SELECT 1"][..],
    ] {
        let output = shell(&Place::new(), arguments, "");
        assert!(!output.status.success());
        assert!(String::from_utf8_lossy(&output.stderr).to_lowercase().contains("no such vfs"), "{output:?}");
    }
}

#[test]
fn a_connection_says_whether_it_is_on_pwal() {
    let place = Place::new();
    let late = ["-cmd", ".load ./libpwal", "app.db", "PRAGMA parallel_wal_mode", "SELECT pwal_status()"];
    assert_eq!(
        printed(&shell(&place, &late, "")),
        r#"{"schema":1,"vfs":"unix","active":false,"reason":"opened before pwal was loaded"}"#,
        "no row of the pragma means stock"
    );
    let input = ".load ./libpwal\n.open app.db\nPRAGMA journal_mode=wal;\nCREATE TABLE t(x);\n\
                 PRAGMA parallel_wal_mode;\nSELECT pwal_version();\nSELECT pwal_status();\n";
    let text = printed(&shell(&place, &[], input));
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[..2], ["wal", "auto"]);
    assert!(lines[2].starts_with(env!("CARGO_PKG_VERSION")), "{text}");
    let status: serde_json::Value = serde_json::from_str(lines[3]).unwrap();
    assert_eq!(status["vfs"], "pwal");
    assert_eq!(status["active"], true);
}

#[test]
fn what_was_written_through_pwal_is_read_by_stock() {
    let place = Place::new();
    let input = ".load ./libpwal\n.open app.db\nPRAGMA journal_mode=wal;\nPRAGMA synchronous=full;\n\
                 CREATE TABLE t(x);\nINSERT INTO t VALUES(1),(2);\nSELECT sum(x) FROM t;\n";
    assert_eq!(printed(&shell(&place, &[], input)), "wal\n3");
    assert_eq!(place.files(), ["app.db"], "a clean close leaves one plain file");
    assert_eq!(printed(&shell(&place, &["app.db", "SELECT sum(x) FROM t", "PRAGMA integrity_check"], "")), "3\nok");
    // And the other way round.
    shell(&place, &["app.db", "INSERT INTO t VALUES(4)"], "");
    let input = ".load ./libpwal\n.open app.db\nSELECT sum(x) FROM t;\n";
    assert_eq!(printed(&shell(&place, &[], input)), "7");
    assert_eq!(place.files(), ["app.db"]);
}

#[test]
fn loading_twice_changes_nothing_and_another_copy_is_refused() {
    let place = Place::new();
    std::fs::copy(library::library(), place.path().join("copy.so")).unwrap();
    let input = ".load ./libpwal\n.load ./libpwal\n.open app.db\n.load ./libpwal\n.vfsname\n\
                 SELECT instr(pwal_status(), 'pwal') > 0;\n";
    assert_eq!(printed(&shell(&place, &[], input)), "pwal/unix\n1");

    let input = ".load ./libpwal\n.load ./copy sqlite3_pwal_init\n.open app.db\n.vfsname\n";
    let output = shell(&place, &[], input);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(errors.contains("a VFS named \"pwal\" is registered already"), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("pwal/unix"), "the first copy works on: {output:?}");
}

#[test]
fn the_second_entry_point_does_not_become_the_default() {
    let place = Place::new();
    let input = ".load ./libpwal sqlite3_pwalvfs_init\n.open app.db\n.vfsname\nSELECT pwal_status();\n\
                 .open file:app.db?vfs=pwal\n.vfsname\n.load ./libpwal\n.open app.db\n.vfsname\n";
    let text = printed(&shell(&place, &[], input));
    let status = r#"{"schema":1,"vfs":"unix","active":false,"reason":"opened on another VFS than pwal"}"#;
    assert_eq!(text, format!("unix\n{status}\npwal/unix\npwal/unix"));
}

/// Ends of the shell at which SQLite closes nothing: the exit hook does.
#[test]
fn an_end_without_a_close_leaves_one_plain_file() {
    let open = ".load ./libpwal\n.open app.db\nPRAGMA journal_mode=wal;\nCREATE TABLE IF NOT EXISTS t(x);\n";
    for (what, arguments, end, status) in [
        (".exit", &[][..], ".exit 5\n", 5),
        ("an error under -bail", &["-bail"][..], "SELECT nothing;\nSELECT 1;\n", 1),
        (".quit", &[][..], ".quit\n", 0),
    ] {
        let place = Place::new();
        let input = format!("{open}INSERT INTO t VALUES(1);\n{end}");
        let output = shell(&place, arguments, &input);
        assert_eq!(output.status.code(), Some(status), "{what}: {output:?}");
        assert_eq!(place.files(), ["app.db"], "{what}");
        let stock = ["app.db", "SELECT count(*) FROM t", "PRAGMA integrity_check"];
        assert_eq!(printed(&shell(&place, &stock, "")), "1\nok", "{what}");
    }
}

/// In the middle of a transaction the exit hook may leave the log to the next opener.
#[test]
fn an_end_inside_a_transaction_rolls_it_back() {
    let place = Place::new();
    let open = ".load ./libpwal\n.open app.db\nPRAGMA journal_mode=wal;\nCREATE TABLE IF NOT EXISTS t(x);\n";
    let input = format!("{open}INSERT INTO t VALUES(1);\nBEGIN; INSERT INTO t VALUES(9);\n.exit 5\n");
    assert_eq!(shell(&place, &[], &input).status.code(), Some(5));
    let again = format!("{open}SELECT sum(x) FROM t; PRAGMA integrity_check;\n");
    assert_eq!(printed(&shell(&place, &[], &again)), "wal\n1\nok");
    assert_eq!(place.files(), ["app.db"]);
    assert_eq!(printed(&shell(&place, &["app.db", "SELECT sum(x) FROM t"], "")), "1");
}

/// Loading comes after opening somewhere: then pwal works beside the stock connection as stock does, and SQLite's log says why.
#[test]
fn a_stock_connection_that_is_open_is_named_as_the_reason() {
    let place = Place::new();
    printed(&shell(&place, &["app.db", "PRAGMA journal_mode=wal; CREATE TABLE t(x)"], ""));
    let input = "PRAGMA journal_mode;\nSELECT * FROM t;\n.load ./libpwal\n.log stderr\n\
                 .connection 1\n.open app.db\nSELECT * FROM t;\n";
    let output = shell(&place, &["app.db"], input);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(errors.contains("on stock SQLite's own -wal"), "{output:?}");
    assert!(!errors.contains("database is locked"), "{output:?}");
    assert!(errors.contains("pwal"), "{output:?}");
    assert!(errors.contains("app.db"), "{output:?}");
}
