//! What does not fit: too many processes, too many readers, words of another layout. Each is an error with a name, and
//! goes away with its cause.

use super::assert_left;
use pwal::internal::disk::Directory;
use pwal::internal::shared::{ALIVE_BYTE, CONTROL_NAME, LAYOUT_VERSION, LockFile, PROCESS_SLOTS, SNAPSHOT_SLOTS};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use support::processes::agent::Agent;
use support::scene::{COUNT, scene};

fn in_log(path: &Path, name: &str) -> PathBuf {
    path.with_file_name("app.db-pwal").join(name)
}

#[test]
fn a_process_that_finds_no_place_is_told_so_by_name() {
    if !support::on_pwal() {
        return;
    }
    let (_scene, path) = scene("no place");
    let mut first = Agent::on(&path);
    first.run("INSERT INTO t VALUES(1)");
    // A place is taken by its lock alone.
    let directory = Directory::open(&path.with_file_name("app.db-pwal")).expect("open the log");
    let lock = LockFile::open(&directory, 0o600).expect("open the lock file");
    let bytes = (0..PROCESS_SLOTS as u64).map(|slot| ALIVE_BYTE + slot);
    let taken = bytes.filter(|byte| lock.try_lock(*byte..byte + 1).expect("take a place")).count();
    assert_eq!(taken, PROCESS_SLOTS - 1, "the first process has one place");
    let mut late = Agent::on(&path);
    late.ask("c .timeout 200");
    assert_eq!(late.ask("c SELECT * FROM t"), "code 5");
    let told = late.log();
    assert!(told.contains("128"), "{told}");
    first.run("INSERT INTO t VALUES(2)");
    late.ask("c .timeout 10000");
    late.tell(&format!("c {COUNT}"));
    drop(lock);
    assert_eq!(late.answer(), "2");
    first.end();
    late.run("INSERT INTO t VALUES(3)");
    late.end();
    assert_left(&path, 3);
}

/// Where the lines of the snapshot slots begin, and how long one is; its first word names its owner (0: free).
const SNAPSHOTS: (u64, u64) = (18_304, 64);

#[test]
fn a_reader_that_finds_no_place_is_told_so_by_name() {
    if !support::on_pwal() {
        return;
    }
    let (_scene, path) = scene("no place for a reader");
    let (mut holder, mut other) = (Agent::on(&path), Agent::on(&path));
    other.run("INSERT INTO t VALUES(1)");
    holder.run("BEGIN");
    holder.run(COUNT);
    other.close();
    // The holder takes all places, as 2048 connections of it would: each line a copy of its own.
    let control = File::options().read(true).write(true).open(in_log(&path, CONTROL_NAME)).expect("open control");
    let line = |segment: u64| {
        let mut line = [0; SNAPSHOTS.1 as usize];
        control.read_exact_at(&mut line, SNAPSHOTS.0 + segment * SNAPSHOTS.1).expect("read a line");
        line
    };
    let all = 0..SNAPSHOT_SLOTS as u64;
    let own = all.clone().map(line).find(|line| line[..8] != [0; 8]).expect("the holder's line");
    for segment in all.filter(|segment| line(*segment)[..8] == [0; 8]) {
        control.write_all_at(&own, SNAPSHOTS.0 + segment * SNAPSHOTS.1).expect("take a line");
    }
    other.log();
    other.open("c", &path);
    other.ask("c .timeout 200");
    let answer = other.ask("c SELECT * FROM t");
    assert!(answer.starts_with("code "), "{answer}");
    let told = other.log();
    assert!(told.contains("2048"), "{answer}: {told}");
    holder.kill();
    // What a dead process held is free again.
    other.ask("c .timeout 10000");
    assert_eq!(other.run(COUNT), "1");
    other.run("INSERT INTO t VALUES(2)");
    other.end();
    assert_left(&path, 2);
}

/// Where the layout version lies.
const VERSION_AT: u64 = 8;

#[test]
fn words_of_another_layout_are_refused_by_name_while_somebody_uses_them_and_replaced_when_nobody_does() {
    if !support::on_pwal() {
        return;
    }
    for version in [LAYOUT_VERSION - 1, LAYOUT_VERSION + 1] {
        let (_scene, path) = scene("another layout");
        let mut holder = Agent::on(&path);
        holder.run("INSERT INTO t VALUES(1)");
        let control = File::options().write(true).open(in_log(&path, CONTROL_NAME)).expect("open control");
        let set = |version: u64| control.write_all_at(&version.to_ne_bytes(), VERSION_AT).expect("set the version");
        set(version);
        let before = std::fs::read(&path).expect("read");
        let mut late = Agent::on(&path);
        late.ask("c .timeout 100");
        let answer = late.ask("c SELECT * FROM t");
        assert!(answer.starts_with("code "), "{answer}");
        let told = late.log();
        assert!(told.contains("layout") && told.contains(&version.to_string()), "{answer}: {told}");
        assert!(std::fs::read(&path).expect("read") == before, "it wrote to the database");
        // Whoever has it goes on; whoever comes when the versions fit comes in.
        holder.run("INSERT INTO t VALUES(2)");
        set(LAYOUT_VERSION);
        late.ask("c .timeout 10000");
        assert_eq!(late.run(COUNT), "2");
        late.end();
        set(version);
        holder.kill();
        let mut next = Agent::on(&path);
        next.run("INSERT INTO t VALUES(3)");
        assert_eq!(next.run(COUNT), "3");
        next.end();
        assert_left(&path, 3);
    }
}
