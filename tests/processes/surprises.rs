//! What users do to a database that processes have open: it is removed and made anew under them, opened for reading first,
//! its processes are killed in the middle of large transactions.
//!
//! Each scene is played by agents (`support::processes::agent`).

use rustix::process::Signal;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use support::Scratch;
use support::processes::agent::Agent;
use support::scene::{COUNT, create, scene, watchdog};

fn log_directory(path: &Path) -> PathBuf {
    PathBuf::from(format!("{}-pwal", path.display()))
}

/// `rm -rf app.db*; ./migrate` while an old server runs, which is ended afterwards: at its exit it shall not take the
/// files of the new database for its own.
#[test]
fn the_exit_of_one_whose_database_was_made_anew_leaves_the_new_one_alone() {
    let (_scene, path) = scene("a database made anew");
    let mut old = Agent::on(&path);
    old.run("INSERT INTO t VALUES('old')");
    std::fs::remove_file(&path).unwrap();
    std::fs::remove_dir_all(log_directory(&path)).unwrap();
    create(&path);
    let (mut one, mut other) = (Agent::on(&path), Agent::on(&path));
    one.run("INSERT INTO t VALUES(1)");
    other.run("INSERT INTO t VALUES(2)");

    old.run("INSERT INTO t VALUES('old')");
    old.tell("c .exit");
    old.wait();
    for name in ["lock", "control"] {
        assert!(log_directory(&path).join(name).exists(), "{name} of the new database");
    }
    // Without them the next one would find nobody there, and recover the log of the other.
    one.kill();
    let mut next = Agent::on(&path);
    next.run("INSERT INTO t VALUES(3)");
    other.run("INSERT INTO t VALUES(4)");
    for agent in [&mut next, &mut other] {
        assert_eq!(agent.run("SELECT x FROM t ORDER BY x"), "1 2 3 4");
    }
    next.end();
    other.end();
    support::assert_plain(&path);
    let stock = support::open_stock(&path);
    assert_eq!(support::text(&stock, "SELECT x FROM t ORDER BY x"), "1 2 3 4");
}

fn read_only(path: &Path) -> PathBuf {
    PathBuf::from(format!("file:{}?mode=ro", path.display()))
}

/// A dashboard that opens the database with `mode=ro` is often the first to come.
#[test]
fn who_only_reads_keeps_no_writer_out_even_if_it_comes_first() {
    let (_scene, path) = scene("a reader that comes first");
    let (mut reader, mut other, mut writer) = (Agent::start(), Agent::start(), Agent::on(&path));
    reader.open("c", &read_only(&path));
    other.open("c", &read_only(&path));
    assert_eq!((reader.run(COUNT), other.run(COUNT)), (String::from("0"), String::from("0")));
    writer.run("INSERT INTO t VALUES(1)");
    assert_eq!((reader.run(COUNT), other.run(COUNT)), (String::from("1"), String::from("1")));
    writer.close();
    reader.close();
    assert_eq!(other.run(COUNT), "1");
    // What a reader alone leaves.
    other.close();
    support::assert_plain(&path);
}

/// Beside stock SQLite it reads as a connection of stock does: pwal cannot have the database, and who only reads needs no log.
#[test]
fn who_only_reads_does_so_beside_stock_too() {
    let (_scene, path) = scene("a reader beside stock");
    let (mut reader, mut stock) = (Agent::start(), Agent::start());
    assert_eq!(stock.ask(&format!("c .vfs unix {}", path.display())), "open");
    stock.run("INSERT INTO t VALUES(1)");
    reader.open("c", &read_only(&path));
    assert_eq!(reader.run(COUNT), "1");
    stock.run("INSERT INTO t VALUES(2)");
    assert_eq!(reader.run(COUNT), "2");
    stock.close();
    reader.close();
    reader.open("w", &path);
    assert_eq!(reader.ask(&format!("w {COUNT}")), "2");
    assert!(reader.ask("w .status").contains("\"active\":true"));
}

fn spill_files(path: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(log_directory(path)).unwrap();
    let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.retain(|name| name.ends_with(".spill"));
    names.sort();
    names
}

/// More than a lane holds in memory.
const LARGE: &str = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<8000)
                     INSERT INTO t SELECT randomblob(1000) FROM n";

/// Begins a transaction that has a spill file.
fn stage(agent: &mut Agent) {
    agent.run("PRAGMA cache_size=10");
    agent.run("BEGIN");
    agent.run(LARGE);
}

/// A VACUUM that is killed leaves a file as large as the database, and where some process is always there, the log is
/// never retired.
#[test]
fn the_spill_file_of_a_killed_transaction_goes_with_a_checkpoint_of_another_process() {
    if !support::on_pwal() {
        return;
    }
    let (_scene, path) = scene("a killed transaction");
    let (mut victim, mut other) = (Agent::on(&path), Agent::on(&path));
    other.run("INSERT INTO t VALUES(1)");
    stage(&mut victim);
    assert_eq!(spill_files(&path).len(), 1);
    // In use: no checkpoint takes it away, nor does a transaction that its own process rolls back.
    other.run("PRAGMA wal_checkpoint");
    assert_eq!(spill_files(&path).len(), 1);
    victim.kill();
    other.run("INSERT INTO t VALUES(2)");
    other.run("PRAGMA wal_checkpoint");
    assert_eq!(spill_files(&path), [""; 0]);
    assert_eq!(other.run(COUNT), "2");
    other.end();
    support::assert_plain(&path);
}

#[test]
fn a_spill_file_that_is_in_use_is_nobodys_to_delete() {
    if !support::on_pwal() {
        return;
    }
    let (_scene, path) = scene("spill files in use");
    let (mut writer, mut other) = (Agent::on(&path), Agent::on(&path));
    // So that nothing holds the checkpoints back, and nothing is checkpointed unasked.
    writer.run("PRAGMA wal_autocheckpoint=0");
    other.run("INSERT INTO t VALUES(1)");
    stage(&mut writer);
    for _ in 0..3 {
        other.run("PRAGMA wal_checkpoint");
    }
    // A cache of ten pages: what is read here comes from the spill file.
    assert_eq!(writer.run("SELECT count(*), sum(length(x)) FROM t"), "8001|8000001");
    writer.run("COMMIT");
    assert_eq!(spill_files(&path).len(), 1, "published, and not in the database file");
    // Beside a reader that holds the checkpoint back.
    assert_eq!(other.run("SELECT count(*), sum(length(x)) FROM t"), "8001|8000001");
    other.kill();
    writer.kill();
    // Recovery finds it, whoever dies.
    let mut next = Agent::on(&path);
    assert_eq!(next.run("SELECT count(*), sum(length(x)) FROM t"), "8001|8000001");
    next.end();
    support::assert_plain(&path);
}

#[test]
fn the_spill_file_of_a_commit_whose_process_was_killed_goes_when_nobody_needs_it() {
    if !support::on_pwal() {
        return;
    }
    let (_scene, path) = scene("a commit of a killed process");
    let (mut victim, mut other) = (Agent::on(&path), Agent::on(&path));
    other.run("INSERT INTO t VALUES(1)");
    stage(&mut victim);
    victim.run("COMMIT");
    // In the database file, so that the other one has no reason to read of it.
    victim.run("PRAGMA wal_checkpoint");
    victim.kill();
    let mut gone = false;
    for row in 2..6 {
        assert_eq!(other.run(COUNT), (row + 7999).to_string());
        other.run("INSERT INTO t VALUES(2)");
        other.run("PRAGMA wal_checkpoint");
        gone |= spill_files(&path).is_empty();
    }
    assert!(gone, "{:?}", spill_files(&path));
    other.end();
    support::assert_plain(&path);
}

/// What a newcomer finds in the database file it does not read in the log; recovery may still do so.
#[test]
fn the_spill_file_of_a_commit_that_recovery_reads_stays() {
    if !support::on_pwal() {
        return;
    }
    let (_scene, path) = scene("a newcomer");
    let (mut writer, mut second) = (Agent::on(&path), Agent::on(&path));
    second.run(COUNT);
    writer.run("PRAGMA wal_autocheckpoint=0");
    stage(&mut writer);
    writer.run("COMMIT");
    writer.run("PRAGMA wal_checkpoint");
    writer.kill();
    let mut newcomer = Agent::on(&path);
    newcomer.run(COUNT);
    newcomer.run("PRAGMA wal_checkpoint");
    newcomer.kill();
    second.kill();
    let mut next = Agent::on(&path);
    assert_eq!(next.run("SELECT count(*), sum(length(x)) FROM t"), "8000|8000000");
    next.end();
    support::assert_plain(&path);
}

/// Somebody cleans up what looks like temporary files. The processes have their log open still, so nothing of it is lost
/// as long as one of them closes the database.
#[test]
fn a_log_directory_that_was_removed_costs_nothing_if_a_process_closes() {
    if !support::on_pwal() {
        return;
    }
    let (_scene, path) = scene("a log directory that was removed");
    let (mut one, mut other) = (Agent::on(&path), Agent::on(&path));
    one.run("INSERT INTO t VALUES(1)");
    other.run("INSERT INTO t VALUES(2)");
    std::fs::remove_dir_all(log_directory(&path)).unwrap();
    one.run("INSERT INTO t VALUES(3)");
    assert_eq!(other.run(COUNT), "3");
    other.run("INSERT INTO t VALUES(4)");
    one.close();
    other.close();
    support::assert_plain(&path);
    assert_eq!(one.ask(&format!("c .open {}", path.display())), "open");
    assert_eq!(one.run(COUNT), "4");
    one.end();
    other.end();
}

#[test]
fn a_log_that_was_moved_with_its_database_is_played_back_by_the_next_open() {
    if !support::on_pwal() {
        return;
    }
    let _watchdog = watchdog("a directory that was moved");
    let scratch = Scratch::new();
    let (before, behind) = (scratch.file("before"), scratch.file("behind"));
    std::fs::create_dir(&before).unwrap();
    let path = before.join("app.db");
    create(&path);
    let (mut one, mut other) = (Agent::on(&path), Agent::on(&path));
    one.run("INSERT INTO t VALUES(1)");
    other.run("INSERT INTO t VALUES(2)");
    std::fs::rename(&before, &behind).unwrap();
    one.run("INSERT INTO t VALUES(3)");
    one.end();
    other.end();
    let path = behind.join("app.db");
    let mut next = Agent::on(&path);
    assert_eq!(next.run(COUNT), "3");
    next.end();
    support::assert_plain(&path);
}

/// The file of a codec (an encrypted database) begins with any bytes: they are no marks of ours.
#[test]
fn a_file_that_does_not_begin_as_a_database_is_left_to_the_base() {
    let scratch = Scratch::new();
    let mut bytes: Vec<u8> = (0..8192_u32).map(|at| (at * 37 % 251) as u8).collect();
    for versions in [[0x70, 0x70], [7, 0x70], [0x70, 7], [7, 2], [3, 3]] {
        bytes[18..20].copy_from_slice(&versions);
        let path = scratch.file(&format!("{}-{}.db", versions[0], versions[1]));
        std::fs::write(&path, &bytes).unwrap();
        let [ours, stock] = [support::open(&path), support::open_stock(&path)]
            .map(|connection| support::code_of(&connection, "SELECT 1 FROM sqlite_schema"));
        assert_eq!(ours, stock, "{versions:?}");
        assert_eq!((std::fs::read(&path).unwrap() == bytes, support::beside(&path)), (true, vec![]), "{versions:?}");
    }
}

/// A job that reads and then writes, as a migration does, beside somebody who commits all the time: it is refused once, since
/// its first statement only reads and is given what is durable; the next transaction that begins so gets what is published.
#[test]
fn a_transaction_that_reads_first_may_write_while_a_flush_is_under_way() {
    if !support::on_pwal() || !cfg!(debug_assertions) {
        return; // a release has no fault points
    }
    let (_scene, path) = scene("a flush that stands still");
    let (mut reader, mut job) = (Agent::on(&path), Agent::on(&path));
    assert_eq!((reader.run(COUNT), job.run(COUNT)), (String::from("0"), String::from("0")));
    let mut leader = Agent::start_with(&[("PWAL_TEST_STOP_AT", String::from("leading_uncertified"))]);
    leader.open("c", &path);
    leader.run("PRAGMA synchronous=FULL");
    leader.tell("c INSERT INTO t VALUES(1)");
    leader.wait_stopped();
    // A statement of its own reads what is durable, and waits for nobody; nor does who cannot write.
    assert_eq!(reader.run(COUNT), "0");
    reader.open("r", &read_only(&path));
    assert_eq!(reader.ask("r BEGIN"), "");
    assert_eq!(reader.ask(&format!("r {COUNT}")), "0");
    assert_eq!(reader.ask("r COMMIT"), "");
    job.run("BEGIN");
    assert_eq!(job.run(COUNT), "0");
    assert_eq!(job.ask("c INSERT INTO t VALUES(2)"), format!("code {}", rusqlite::ffi::SQLITE_BUSY_SNAPSHOT));
    job.run("ROLLBACK");
    job.run("BEGIN");
    assert_eq!(job.run(COUNT), "1");
    job.run("INSERT INTO t VALUES(2)");
    leader.signal(Signal::CONT);
    job.run("COMMIT");
    assert_eq!(leader.answer(), "");
    assert_eq!((reader.run(COUNT), job.run(COUNT)), (String::from("2"), String::from("2")));
    for agent in [leader, reader, job] {
        agent.end();
    }
    support::assert_plain(&path);
}

/// SQLite's busy handler counts its own sleeps: what an attempt waits before it answers BUSY comes on top.
#[test]
fn a_busy_timeout_is_about_as_long_as_it_says_for_an_open_too() {
    if !support::on_pwal() || !cfg!(debug_assertions) {
        return; // a release has no fault points
    }
    let (_scene, path) = scene("busy timeouts");
    let mut first = Agent::on(&path);
    first.run(COUNT);
    let mut stopped = Agent::start_with(&[("PWAL_TEST_STOP_AT", String::from("attaching"))]);
    stopped.open("c", &path);
    stopped.tell(&format!("c {COUNT}"));
    stopped.wait_stopped();
    let mut waiter = Agent::on(&path);
    assert_eq!(waiter.ask("c .timeout 1000"), "ok");
    let began = Instant::now();
    assert_eq!(waiter.ask(&format!("c {COUNT}")), "code 5");
    let took = began.elapsed();
    // A second for the first attempt, and one for the timeout. Twenty attempts of a second each are too many.
    assert!(took < Duration::from_secs(10), "{took:?}");
    stopped.signal(Signal::CONT);
    assert_eq!(stopped.answer(), "0");
    for agent in [stopped, waiter, first] {
        agent.end();
    }
    support::assert_plain(&path);
}
