//! A log directory that is a link, a pipe, a socket or a file: each command refuses it by name, and touches nothing.

use crate::{contents, tool};
use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;
use support::{Scratch, open_wal, run};

const COMMANDS: [&[&str]; 9] = [
    &["verify"],
    &["inspect"],
    &["status"],
    &["doctor"],
    &["off"],
    &["recover"],
    &["recover", "--salvage"],
    &["recover", "--discard-log"],
    &["recover", "--discard-log", "--yes"],
];

fn pipe(path: &Path) {
    assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
}

/// Each command against what lies at `<database>-pwal`; `victim` is what a link leads to.
fn expect_refused(scratch: &Scratch, kind: &str) {
    let (database, victim) = (scratch.file("a.db"), scratch.file("victim"));
    let log = scratch.file("a.db-pwal");
    let before = (contents(&victim), fs::read(&database).unwrap(), fs::symlink_metadata(&log).unwrap());
    for command in COMMANDS {
        let arguments = command.iter().map(|word| (*word).to_owned()).chain([database.to_str().unwrap().to_owned()]);
        // A command that opened a pipe would wait for ever.
        let done = tool(arguments);
        let said = format!("{}{}", done.stdout, done.stderr);
        assert!(matches!(done.status, Some(1 | 4)), "{kind}, {command:?}: {done:?}");
        assert!(said.contains("a.db-pwal is "), "{kind}, {command:?}: {said}");
        let after = (contents(&victim), fs::read(&database).unwrap(), fs::symlink_metadata(&log).unwrap());
        assert!(after.0 == before.0 && after.1 == before.1, "{kind}, {command:?}: touched");
        assert_eq!(after.2.file_type(), before.2.file_type(), "{kind}, {command:?}");
    }
}

#[test]
fn a_log_directory_that_is_none_is_refused_and_nothing_behind_it_is_touched() {
    let scratch = Scratch::new();
    let (database, log, victim) = (scratch.file("a.db"), scratch.file("a.db-pwal"), scratch.file("victim"));
    let connection = open_wal(&database);
    run(&connection, "CREATE TABLE t(x)");
    support::close(connection);
    // What a log directory has, and what would be replayed or deleted.
    fs::create_dir(&victim).unwrap();
    for name in ["lock", "control", "00000000000000aa-0000.seg", "retired-00000000000000aa-3"] {
        fs::write(victim.join(name), name).unwrap();
    }
    symlink(&victim, &log).unwrap();
    expect_refused(&scratch, "a link");
    fs::remove_file(&log).unwrap();
    symlink(scratch.file("nowhere"), &log).unwrap();
    expect_refused(&scratch, "a link to nothing");
    fs::remove_file(&log).unwrap();
    pipe(&log);
    expect_refused(&scratch, "a pipe");
    fs::remove_file(&log).unwrap();
    let _listener = UnixListener::bind(&log).unwrap();
    expect_refused(&scratch, "a socket");
    fs::remove_file(&log).unwrap();
    fs::write(&log, "a file").unwrap();
    expect_refused(&scratch, "a file");
}

#[test]
fn a_pipe_in_place_of_a_segment_is_refused_and_a_pipe_is_no_database() {
    let scratch = Scratch::new();
    let (database, log) = (scratch.file("a.db"), scratch.file("a.db-pwal"));
    let connection = open_wal(&database);
    run(&connection, "CREATE TABLE t(x)");
    support::close(connection);
    fs::create_dir(&log).unwrap();
    pipe(&log.join("00000000000000aa-0000.seg"));
    for command in ["verify", "inspect", "recover"] {
        let done = tool([command, database.to_str().unwrap()]);
        assert!(matches!(done.status, Some(1..=4)), "{command}: {done:?}");
        assert!(done.stderr.contains("00000000000000aa-0000.seg"), "{command}: {done:?}");
    }
    let database = scratch.file("pipe.db");
    pipe(&database);
    for command in ["verify", "inspect", "recover", "status", "doctor"] {
        let done = tool([command, database.to_str().unwrap()]);
        assert!(done.refused(4).contains("is not a file"), "{command}: {done:?}");
    }
}
