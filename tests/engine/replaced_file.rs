//! Somebody copies another file over a database that is open, restores an older state, or renames another file over it: no
//! page of the log goes to a file that is not the log's.

use std::path::{Path, PathBuf};
use support::processes::agent::Agent;
use support::scene::{COUNT, scene};

/// `SQLITE_IOERR_READ`
const REPLACED: &str = "code 266";

fn beside(path: &Path, suffix: &str) -> PathBuf {
    PathBuf::from(format!("{}{suffix}", path.display()))
}

/// A writer and a reader, two commits in the database file, and two in the log.
fn two_on(path: &Path) -> (Agent, Agent) {
    let (mut writer, mut reader) = (Agent::on(path), Agent::on(path));
    writer.run("PRAGMA wal_autocheckpoint=0");
    writer.run("INSERT INTO t VALUES(1)");
    writer.run("INSERT INTO t VALUES(2)");
    writer.run("PRAGMA wal_checkpoint");
    assert_eq!(reader.run(COUNT), "2");
    (writer, reader)
}

/// The file is another one now: nobody writes to it, nobody reads it, and the log stays.
fn is_noticed(path: &Path, mut writer: Agent, mut reader: Agent) {
    let now = std::fs::read(path).unwrap();
    let answer = writer.ask("c PRAGMA wal_checkpoint");
    let log = writer.log();
    assert_eq!(answer, REPLACED, "{log}");
    assert!(log.contains("was overwritten while it was open"), "{log}");
    assert_eq!(reader.ask(&format!("c {COUNT}")), REPLACED);
    assert_eq!(writer.ask(&format!("c {COUNT}")), REPLACED);
    let refused = writer.ask("c INSERT INTO t VALUES(5)");
    assert!(refused.starts_with("code 10") || refused == REPLACED, "{refused}");
    writer.end();
    reader.end();
    assert!(std::fs::read(path).unwrap() == now, "nothing was written to the file");
}

#[test]
fn a_backup_that_is_copied_over_the_open_file_stays_as_it_is() {
    if !support::on_pwal() {
        return;
    }
    let (_scene, path) = scene("a backup copied over the open file");
    let (mut writer, mut reader) = two_on(&path);
    let backup = beside(&path, ".backup");
    writer.run(&format!("VACUUM INTO '{}'", backup.display()));
    for row in [3, 4] {
        writer.run(&format!("INSERT INTO t VALUES({row})"));
    }
    assert_eq!(reader.run(COUNT), "4");
    std::fs::copy(&backup, &path).unwrap();
    is_noticed(&path, writer, reader);
    // Its log is another file's, and is put aside.
    let mut next = Agent::on(&path);
    assert_eq!((next.run(COUNT), next.run("PRAGMA integrity_check")), (String::from("2"), String::from("ok")));
    next.end();
    let names = std::fs::read_dir(path.parent().unwrap()).unwrap().map(|entry| entry.unwrap().file_name());
    let orphans = names.filter(|name| name.to_string_lossy().starts_with("app.db-pwal.orphan-"));
    assert_eq!(orphans.count(), 1, "the log with the other commits is there");
}

#[test]
fn an_older_state_of_the_same_file_is_another_file() {
    if !support::on_pwal() {
        return;
    }
    let (_scene, path) = scene("an older state of the file");
    let (mut writer, reader) = two_on(&path);
    let older = std::fs::read(&path).unwrap();
    writer.run("INSERT INTO t VALUES(3)");
    writer.run("PRAGMA wal_checkpoint");
    writer.run("INSERT INTO t VALUES(4)");
    // In place, as `cp` does it.
    std::fs::write(&path, &older).unwrap();
    is_noticed(&path, writer, reader);
    let mut next = Agent::on(&path);
    let refused = next.ask(&format!("c {COUNT}"));
    assert_eq!(refused, "code 14");
    assert!(next.log().contains("an old copy was put back under a newer log"));
}

/// As stock SQLite: who has the old file open goes on with it, and the new one is not touched.
#[test]
fn a_file_that_is_renamed_over_the_open_one_is_left_alone() {
    if !support::on_pwal() {
        return;
    }
    let (_scene, path) = scene("a file renamed over the open one");
    let (mut writer, mut reader) = two_on(&path);
    let backup = beside(&path, ".backup");
    writer.run(&format!("VACUUM INTO '{}'", backup.display()));
    writer.run("INSERT INTO t VALUES(3)");
    std::fs::rename(&backup, &path).unwrap();
    let now = std::fs::read(&path).unwrap();
    writer.run("INSERT INTO t VALUES(4)");
    writer.run("PRAGMA wal_checkpoint");
    let log = writer.log();
    assert!(log.contains("was renamed, removed or replaced while it was open"), "{log}");
    assert_eq!((reader.run(COUNT), reader.run("PRAGMA integrity_check")), (String::from("4"), String::from("ok")));
    let mut other = Agent::on(&path);
    let refused = other.ask(&format!("c {COUNT}"));
    assert!(refused.starts_with("code "), "{refused}");
    writer.end();
    reader.end();
    assert!(std::fs::read(&path).unwrap() == now, "nothing was written to the new file");
    assert_eq!((other.run(COUNT), other.run("PRAGMA integrity_check")), (String::from("2"), String::from("ok")));
}
