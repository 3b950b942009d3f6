//! Debian's Python with its `sqlite3` module. The scripts are beside this file.

use super::{assert_rows, directory, host};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

const PYTHON: &str = "/usr/bin/python3";

/// Debian's Python, if it can load extensions.
fn python() -> bool {
    if host(PYTHON).is_none() {
        return false;
    }
    let probe = "import sqlite3; sqlite3.connect(':memory:').enable_load_extension(True)";
    let able =
        Command::new(PYTHON).args(["-c", probe]).stderr(Stdio::null()).status().is_ok_and(|status| status.success());
    if !able {
        println!("skipped: {PYTHON} cannot load extensions");
    }
    able
}

fn script(name: &str) -> String {
    format!("{}/tests/hosts/{name}.py", env!("CARGO_MANIFEST_DIR"))
}

fn start(directory: &Path, name: &str, arguments: &[&str]) -> Child {
    Command::new(PYTHON)
        .arg(script(name))
        .args(arguments)
        .current_dir(directory)
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .expect("python")
}

fn run(directory: &Path, name: &str, arguments: &[&str]) -> Output {
    start(directory, name, arguments).wait_with_output().expect("python's output")
}

#[test]
fn both_entry_points_and_both_ways_to_choose() {
    if !python() {
        return;
    }
    let scratch = directory();
    let output = run(scratch.path(), "choose", &[]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    for name in ["default.db", "by-uri.db", "by-uri-only.db", "threads.db"] {
        support::assert_plain(&scratch.file(name));
    }
}

/// What SQLite does that transactions beside each other rely on, on a SQLite that is not the bundled one.
#[test]
fn transactions_write_beside_each_other() {
    if !python() {
        return;
    }
    let scratch = directory();
    let output = run(scratch.path(), "concurrent", &[]);
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "ok");
    support::assert_plain(&scratch.file("app.db"));
}

#[test]
fn two_threads_write_until_kill_9() {
    if !python() {
        return;
    }
    let scratch = directory();
    let path = scratch.file("app.db");
    let mut child = start(scratch.path(), "write", &["write"]);
    let mut acknowledged = [0_i64; 2];
    let mut lines = BufReader::new(child.stdout.take().expect("its output")).lines();
    let mut note = |line: String| {
        let (writer, n) = line.split_once(' ').expect("a writer and a number");
        let n = n.parse::<i64>().unwrap();
        acknowledged[writer.parse::<usize>().unwrap()] = n;
        n
    };
    while note(lines.next().expect("python goes on").expect("a line")) < 150 {}
    child.kill().expect("kill");
    child.wait().expect("its end");
    for line in lines {
        note(line.expect("a line"));
    }
    assert!(support::beside(&path).iter().any(|name| name.ends_with("-pwal")), "a log is left");
    let output = run(scratch.path(), "write", &["check"]);
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "ok");
    assert!(output.status.success());
    assert_rows(&path, acknowledged);
}

#[test]
fn every_way_to_end_leaves_a_plain_file() {
    if !python() {
        return;
    }
    for way in ["close", "forget", "exit", "raise", "daemon"] {
        let scratch = directory();
        let output = run(scratch.path(), "leave", &[way]);
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "written", "{way}");
        assert_rows(&scratch.file("app.db"), [1, 1]);
    }
}

#[test]
fn a_database_of_another_vfs_fails_in_the_same_transaction() {
    if !python() {
        return;
    }
    let scratch = directory();
    let output = run(scratch.path(), "beside", &[]);
    let lines = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && lines.lines().count() == 4, "{lines}");
    assert!(lines.lines().all(|line| line.ends_with("; abort due to ROLLBACK")), "{lines}");
    support::assert_plain(&scratch.file("app.db"));
}
