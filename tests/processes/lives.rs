//! How processes that share one database come, stop, die and leave, and who may share it.
//!
//! Each scene is played by agents (`support::processes::agent`): processes that do what the test tells them. A few need what a
//! machine may not give (root, user namespaces): they say so, and are not played there.

pub(crate) mod forks;
mod limits;
mod stock;
mod stopped;
mod strangers;

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};
use support::library;
use support::processes::agent::Agent;
use support::scene::{COUNT, scene};

/// What the tool says of a database.
fn status(path: &Path) -> String {
    let output = Command::new(library::tool()).arg("status").arg(path).output().expect("the tool starts");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("a text")
}

/// After all have left: one plain file, in order, with so many rows.
#[track_caller]
fn assert_left(path: &Path, rows: i64) {
    support::assert_plain(path);
    let stock = support::open_stock(path);
    assert_eq!(support::number(&stock, "SELECT count(*) FROM t"), rows);
    support::close(stock);
}

#[test]
fn processes_see_each_others_commits_and_the_last_leaves_a_plain_file() {
    let (_scene, path) = scene("three processes");
    let mut agents: Vec<Agent> = (0..3).map(|_| Agent::on(&path)).collect();
    for round in 1..=5 {
        for index in 0..agents.len() {
            agents[index].run("INSERT INTO t VALUES(1)");
            let rows = ((round - 1) * 3 + index + 1).to_string();
            for agent in &mut agents {
                assert_eq!(agent.run(COUNT), rows, "round {round}, behind process {index}");
            }
        }
    }
    // They leave in the order in which they came; the others go on.
    for left in (1..=3).rev() {
        let mut first = agents.remove(0);
        if left > 1 {
            first.run("INSERT INTO t VALUES('before it leaves')");
        }
        first.close();
        first.end();
        for agent in &mut agents {
            agent.run("INSERT INTO t VALUES('still here')");
        }
    }
    assert_left(&path, 15 + 2 + 2 + 1);
}

#[test]
fn a_snapshot_of_one_process_stands_while_others_write_and_checkpoint() {
    let (_scene, path) = scene("a snapshot");
    let (mut reader, mut writer) = (Agent::on(&path), Agent::on(&path));
    writer.run("PRAGMA parallel_wal_segment_bytes=262144");
    writer.run("PRAGMA wal_autocheckpoint=10");
    writer.run("INSERT INTO t VALUES(randomblob(3000))");
    reader.run("BEGIN");
    let before = reader.run("SELECT count(*), hex(substr(x, 1, 8)) FROM t");
    for _ in 0..300 {
        writer.run("INSERT INTO t VALUES(randomblob(3000))");
    }
    writer.run("DELETE FROM t WHERE rowid < 200");
    writer.run("PRAGMA wal_checkpoint(PASSIVE)");
    assert_eq!(reader.run("SELECT count(*), hex(substr(x, 1, 8)) FROM t"), before);
    reader.run("COMMIT");
    assert_eq!(reader.run(COUNT), "102");
    reader.end();
    writer.end();
    assert_left(&path, 102);
}

#[test]
fn mode_and_settings_are_the_databases() {
    if !support::on_pwal() {
        return;
    }
    let (_scene, path) = scene("settings");
    let (mut one, mut two) = (Agent::on(&path), Agent::on(&path));
    assert_eq!((one.run(COUNT), two.run(COUNT)), (String::from("0"), String::from("0")));
    assert_eq!(one.run("PRAGMA parallel_wal_mode=conservative"), "conservative");
    assert_eq!(two.run("PRAGMA parallel_wal_mode"), "conservative");
    two.run("INSERT INTO t VALUES(1)");
    assert_eq!(two.run("PRAGMA parallel_wal_mode=auto"), "auto");
    assert_eq!(one.run("PRAGMA parallel_wal_mode"), "auto");
    assert_eq!(two.run("PRAGMA parallel_wal_segment_bytes=262144"), "262144");
    assert_eq!(one.run("PRAGMA parallel_wal_segment_bytes"), "262144");
    // Also for who comes later.
    let mut three = Agent::on(&path);
    three.run(COUNT);
    assert_eq!(three.run("PRAGMA parallel_wal_segment_bytes"), "262144");
    for agent in [one, two, three] {
        agent.end();
    }
    assert_left(&path, 1);
}

/// The name of this test's program, by which status and messages name its processes.
fn program() -> String {
    let path = std::env::current_exe().expect("this binary");
    path.file_name().expect("a name").to_string_lossy().into_owned()
}

#[test]
fn status_shows_every_process_from_everywhere_and_disturbs_nobody() {
    if !support::on_pwal() {
        return;
    }
    // Nobody waits while it is built.
    library::tool();
    let (_scene, path) = scene("status");
    let (mut writer, mut reader, mut waiter) = (Agent::on(&path), Agent::on(&path), Agent::on(&path));
    reader.run("BEGIN");
    reader.run(COUNT);
    writer.run("INSERT INTO t VALUES(1)");
    writer.run("BEGIN IMMEDIATE");
    waiter.run(COUNT);
    waiter.tell("c INSERT INTO t VALUES(2)");
    let told = status(&path);
    let told_inside = reader.status();
    for (text, which) in [(&told, "pwal status"), (&told_inside, "PRAGMA parallel_wal_status")] {
        for agent in [&writer, &reader, &waiter] {
            assert!(text.contains(&agent.pid().to_string()), "{which} does not name {}: {text}", agent.pid());
        }
        assert!(text.contains(&program()), "{which}: {text}");
    }
    writer.run("COMMIT");
    assert_eq!(waiter.answer(), "");
    reader.run("COMMIT");
    let (gone, here) = (waiter.pid(), [writer.pid(), reader.pid()]);
    waiter.end();
    let told = writer.status();
    assert!(!told.contains(&gone.to_string()), "{gone} has left: {told}");
    assert!(here.iter().all(|pid| told.contains(&pid.to_string())), "{told}");
    writer.end();
    reader.end();
    assert_left(&path, 2);
}

#[test]
fn who_dies_with_the_write_lock_is_taken_over_at_once() {
    let (_scene, path) = scene("a dead writer");
    let mut heir = Agent::on(&path);
    let mut slowest = Duration::ZERO;
    for round in 1..=10 {
        let mut writer = Agent::on(&path);
        writer.run("BEGIN IMMEDIATE");
        writer.run("INSERT INTO t VALUES('never committed')");
        heir.tell("c INSERT INTO t VALUES('the heir')");
        writer.kill();
        let start = Instant::now();
        assert_eq!(heir.answer(), "");
        slowest = slowest.max(start.elapsed());
        assert_eq!(heir.run(COUNT), round.to_string());
    }
    println!("the slowest takeover: {slowest:?}");
    // 50 ms, and what a busy machine needs to run anybody at all.
    assert!(!support::on_pwal() || slowest < Duration::from_secs(1), "{slowest:?}");
    heir.end();
    assert_left(&path, 10);
}

#[test]
fn the_place_of_a_crashed_process_is_free_at_once() {
    let (_scene, path) = scene("many crashes");
    let mut stays = Agent::on(&path);
    stays.run("INSERT INTO t VALUES(1)");
    // More than there are places.
    for round in 1..=140 {
        let mut crashes = Agent::on(&path);
        assert_eq!(crashes.run(COUNT), round.to_string());
        crashes.run("INSERT INTO t VALUES(1)");
        if round % 2 == 0 {
            crashes.run("BEGIN");
            crashes.run(COUNT);
        }
        crashes.kill();
    }
    if support::on_pwal() {
        let told = stays.status();
        assert!(told.contains(&stays.pid().to_string()), "{told}");
    }
    // What dead readers held back is free too.
    stays.run("PRAGMA wal_checkpoint(TRUNCATE)");
    stays.end();
    assert_left(&path, 141);
}

#[test]
fn processes_come_and_leave_at_the_same_moment() {
    let (_scene, path) = scene("coming and leaving");
    let mut agents: Vec<Agent> = (0..4).map(|_| Agent::start()).collect();
    let rounds = 40;
    for _ in 0..rounds {
        // All open, write and close without waiting for each other: some are the first, some the last.
        for agent in &mut agents {
            agent.tell(&format!("c .open {}", path.display()));
            agent.tell("c INSERT INTO t VALUES(1)");
            agent.tell("c .close");
        }
        for agent in &mut agents {
            assert_eq!([agent.answer(), agent.answer(), agent.answer()], ["open", "", "closed"]);
        }
        support::assert_plain_header(&path, 2);
    }
    agents.into_iter().for_each(Agent::end);
    assert_left(&path, 4 * rounds);
}
