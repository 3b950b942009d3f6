//! Debian's `sqlite3` shell.

use super::{assert_rows, directory, host};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Output, Stdio};

fn shell() -> Option<std::path::PathBuf> {
    host("/usr/bin/sqlite3")
}

/// Runs the shell in this directory with these arguments and this input, to its end.
fn run(directory: &Path, arguments: &[&str], input: &str) -> Output {
    let mut child = Command::new("/usr/bin/sqlite3")
        .args(["-init", "/dev/null"].iter().filter(|_| !arguments.contains(&"-init")))
        .args(arguments)
        .current_dir(directory)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the shell");
    // With a command as an argument it ends without reading.
    let _ = child.stdin.take().expect("its input").write_all(input.as_bytes());
    child.wait_with_output().expect("its output")
}

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

fn all(output: &Output) -> String {
    format!("{}{}", out(output), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn what_one_types_that_gives_pwal() {
    if shell().is_none() {
        return;
    }
    for (arguments, input) in [
        (&[][..], ".load ./libpwal\n.open app.db\n.vfsname\n"),
        (&["app.db", ".load ./libpwal", ".open app.db", ".vfsname"], ""),
        (&["-cmd", ".load ./libpwal", "-cmd", ".open app.db", ":memory:"], ".vfsname\n"),
        (&["-init", "start"], ".vfsname\n"),
        (&["app.db", ".load ./libpwal", ".open file:app.db?vfs=pwal", ".vfsname"], ""),
        (&[":memory:", ".load ./libpwal sqlite3_pwalvfs_init", ".open file:app.db?vfs=pwal", ".vfsname"], ""),
    ] {
        let scratch = directory();
        std::fs::write(scratch.file("start"), ".load ./libpwal\n.open app.db\n").unwrap();
        let output = run(scratch.path(), arguments, input);
        assert_eq!(out(&output), "pwal/unix", "{arguments:?} {input:?}: {}", all(&output));
        assert!(output.status.success());
    }
}

#[test]
fn what_one_types_that_gives_stock() {
    if shell().is_none() {
        return;
    }
    for arguments in [
        &["-cmd", ".load ./libpwal", "app.db"][..],
        &["app.db", ".load ./libpwal", ".vfsname"],
        &[":memory:", ".load ./libpwal sqlite3_pwalvfs_init", ".open app.db", ".vfsname"],
    ] {
        let scratch = directory();
        let output = run(scratch.path(), arguments, ".vfsname\n");
        assert_eq!(out(&output).lines().next(), Some("unix"), "{arguments:?}: {}", all(&output));
        // The way to see it: no row.
        let output = run(scratch.path(), &["-cmd", ".load ./libpwal", "app.db"], "PRAGMA parallel_wal_mode;\n");
        assert_eq!(out(&output), "");
    }
}

#[test]
fn what_one_types_that_is_an_error() {
    if shell().is_none() {
        return;
    }
    for arguments in [
        &["-vfs", "pwal", "app.db"][..],
        &["-cmd", ".load ./libpwal", "file:app.db?vfs=pwal"],
        &["file:app.db?vfs=pwal"],
    ] {
        let scratch = directory();
        let output = run(scratch.path(), arguments, "SELECT 1;\n");
        assert!(
            all(&output).contains("no such vfs") || all(&output).contains("no such VFS"),
            "{arguments:?}: {}",
            all(&output)
        );
    }
}

const OPEN: &str = ".load ./libpwal\n.open app.db\nPRAGMA journal_mode=WAL;\n";

#[test]
fn work_in_the_shell_and_every_way_to_leave_it() {
    if shell().is_none() {
        return;
    }
    for (leave, status) in [("", 0), (".quit\n", 0), (".exit\n", 0), (".exit 5\n", 5)] {
        let scratch = directory();
        let work =
            "CREATE TABLE t(writer, n); INSERT INTO t VALUES(0,1),(1,1); UPDATE t SET n=n; PRAGMA parallel_wal_mode;\n";
        let output = run(scratch.path(), &[], &format!("{OPEN}{work}{leave}"));
        assert_eq!(out(&output), "wal\nauto", "{}", all(&output));
        assert_eq!(output.status.code(), Some(status));
        assert_rows(&scratch.file("app.db"), [1, 1]);
    }
}

#[test]
fn an_error_with_bail_leaves_a_plain_file() {
    if shell().is_none() {
        return;
    }
    let scratch = directory();
    let input =
        format!("{OPEN}CREATE TABLE t(writer, n); INSERT INTO t VALUES(0,1),(1,1);\nINSERT INTO none VALUES(1);\n");
    let output = run(scratch.path(), &["-bail"], &input);
    assert_eq!(output.status.code(), Some(1), "{}", all(&output));
    assert_rows(&scratch.file("app.db"), [1, 1]);
}

#[test]
fn status_and_version_are_there_on_every_connection() {
    if shell().is_none() {
        return;
    }
    let scratch = directory();
    let input = ".load ./libpwal\nSELECT pwal_version();\nSELECT json_extract(pwal_status(), '$.active', '$.vfs');\n\
                 .open app.db\nPRAGMA journal_mode=WAL;\nCREATE TABLE t(x);\nSELECT json_extract(pwal_status(), '$.active', '$.vfs');\n";
    let output = run(scratch.path(), &["stock.db"], input);
    let lines: Vec<String> = out(&output).lines().map(str::to_owned).collect();
    assert_eq!(lines[1..], ["[false,\"unix\"]", "wal", "[true,\"pwal\"]"], "{}", all(&output));
}

#[test]
fn loading_twice_and_the_dot_commands() {
    if shell().is_none() {
        return;
    }
    let scratch = directory();
    let input = format!(
        "{OPEN}.load ./libpwal\nCREATE TABLE t(writer, n);\nINSERT INTO t VALUES(0,1),(1,1);\n.backup copy.db\n.dump t\n.tables\n\
         VACUUM INTO 'into.db';\n.clone clone.db\n"
    );
    let output = run(scratch.path(), &[], &input);
    assert!(out(&output).contains("INSERT INTO t VALUES(1,1);"), "{}", all(&output));
    for name in ["app.db", "copy.db", "into.db", "clone.db"] {
        let stock = support::open_stock(&scratch.file(name));
        assert_eq!(support::number(&stock, "SELECT count(*) FROM t"), 2, "{name}");
    }
    assert_eq!(support::beside(&scratch.file("copy.db")), Vec::<String>::new());
}

/// Two connections of one shell write in turn and say so; SIGKILL comes in the middle.
#[test]
fn kill_9_in_the_middle_of_two_connections() {
    if shell().is_none() {
        return;
    }
    let scratch = directory();
    let mut child = Command::new("/usr/bin/sqlite3")
        .args(["-init", "/dev/null", ":memory:"])
        .current_dir(scratch.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the shell");
    let mut input = child.stdin.take().expect("its input");
    let typing = std::thread::spawn(move || {
        let mut script =
            format!("{OPEN}PRAGMA synchronous=FULL;\nCREATE TABLE t(writer, n);\n.connection 1\n.open app.db\n");
        for n in 1..100_000 {
            for writer in 0..2 {
                // `.system` writes past the shell's own buffer, after the statement before it is done.
                script +=
                    &format!(".connection {writer}\nINSERT INTO t VALUES({writer},{n});\n.system echo {writer} {n}\n");
            }
            if input.write_all(script.as_bytes()).is_err() {
                return; // killed
            }
            script.clear();
        }
    });
    let mut acknowledged = [0; 2];
    let mut lines = BufReader::new(child.stdout.take().expect("its output")).lines();
    let mut note = |line: String| {
        if let Some((writer, n)) = line.split_once(' ') {
            acknowledged[writer.parse::<usize>().unwrap()] = n.parse().unwrap();
            return n.parse::<i64>().unwrap();
        }
        0
    };
    while note(lines.next().expect("the shell goes on").expect("a line")) < 60 {}
    child.kill().expect("kill");
    child.wait().expect("its end");
    for line in lines {
        note(line.expect("a line"));
    }
    typing.join().expect("the typist");
    let path = scratch.file("app.db");
    assert!(support::beside(&path).iter().any(|name| name.ends_with("-pwal")), "a log is left");

    let check = format!("{OPEN}PRAGMA integrity_check;\nSELECT count(*)>=119 FROM t;\n");
    let output = run(scratch.path(), &[], &check);
    assert_eq!(out(&output), "wal\nok\n1", "{}", all(&output));
    assert_rows(&path, acknowledged);
}
