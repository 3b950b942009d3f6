//! The log is retired while connections stay, when nobody commits for long or on request, and the next commit makes it anew.

use rusqlite::{Connection, ffi};
use std::path::Path;
use support::lab::{Call, Gate, Lab};
use support::processes::agent::{Agent, wait_for};
use support::scene::{COUNT, scene, watchdog};
use support::{number, run};

/// At once, with connections open.
const RETIRE: &str = "SELECT pwal_retire()";

/// Looked at by another process: a `close` of the file in this one would drop its locks.
fn is_plain(path: &Path) -> bool {
    let head = std::process::Command::new("head").args(["-c", "100"]).arg(path).output().expect("head");
    let bytes = head.stdout;
    bytes[18..20] == [2, 2] && bytes[72..92].iter().all(|byte| *byte == 0)
}

/// What lies beside it: nothing but the directory, without segments.
#[track_caller]
fn assert_rests(path: &Path, commits: u64) {
    assert!(is_plain(path));
    assert_eq!(support::beside(path), ["app.db-pwal"]);
    let directory = std::fs::read_dir(format!("{}-pwal", path.display())).expect("read the log directory");
    let mut names: Vec<String> =
        directory.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    assert_eq!((names.len(), &names[..2]), (3, &[String::from("control"), String::from("lock")][..]), "{names:?}");
    assert!(names[2].starts_with("retired-") && names[2].ends_with(&format!("-{commits}")), "{names:?}");
}

/// What the `sqlite3` shell, without pwal, answers: from another process, so that it drops no locks of this one.
fn stock(path: &Path, sql: &str) -> Result<String, String> {
    let shell = std::env::var_os("PWAL_TEST_SQLITE3").unwrap_or_else(|| "/usr/bin/sqlite3".into());
    let output = std::process::Command::new(shell).arg("-batch").arg(path).arg(sql).output().expect("the shell");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("a text").trim().to_owned();
    if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
}

fn data_version(connection: &Connection) -> i64 {
    number(connection, "PRAGMA data_version")
}

#[test]
fn commits_snapshots_and_caches_go_on_over_it() {
    if !support::on_pwal() {
        return;
    }
    let (_scene, path) = scene("a rest");
    let (writer, reader) = (support::open(&path), support::open(&path));
    assert_eq!(support::text(&writer, RETIRE), "no log");
    let mut commits = 0;
    for round in 0..5 {
        for _ in 0..=round {
            run(&writer, "INSERT INTO t VALUES(randomblob(5000))");
            commits += 1;
        }
        run(&reader, "BEGIN");
        assert_eq!(number(&reader, COUNT), commits);
        let version = data_version(&reader);
        assert_eq!(support::text(&writer, RETIRE), "retired");
        assert_eq!(support::text(&reader, RETIRE), "no log");
        assert!(stock(&path, COUNT).unwrap_err().contains("database is locked"));
        assert_rests(&path, commits as u64);
        // The snapshot holds, and the cache is what it was.
        assert_eq!((number(&reader, COUNT), data_version(&reader)), (commits, version));
        run(&reader, "COMMIT");
        assert_eq!((number(&reader, COUNT), data_version(&reader)), (commits, version));
        assert_eq!(number(&writer, COUNT), commits);
    }
    run(&reader, "BEGIN; SELECT count(*) FROM t");
    run(&writer, "UPDATE t SET x=zeroblob(9000)");
    assert_eq!(number(&reader, "SELECT count(*) FROM t WHERE x=zeroblob(9000)"), 0, "an older snapshot");
    run(&reader, "COMMIT");
    assert_eq!(number(&reader, "SELECT count(*) FROM t WHERE x=zeroblob(9000)"), commits);
    support::assert_integrity(&reader);
    assert_eq!(support::text(&reader, RETIRE), "retired");
    support::close(reader);
    support::close(writer);
    support::assert_plain(&path);
}

#[test]
fn a_transaction_or_another_process_keeps_the_log() {
    if !support::on_pwal() {
        return;
    }
    let (_scene, path) = scene("no rest");
    let (one, two) = (support::open(&path), support::open(&path));
    run(&one, "INSERT INTO t VALUES(1)");
    run(&two, "BEGIN IMMEDIATE; INSERT INTO t VALUES(2)");
    assert_eq!(support::code_of(&one, RETIRE), ffi::SQLITE_BUSY);
    assert_eq!(support::code_of(&two, RETIRE), ffi::SQLITE_BUSY);
    run(&two, "COMMIT");
    run(&two, "BEGIN; SELECT count(*) FROM t");
    run(&one, "INSERT INTO t VALUES(3)");
    let refused = one.query_row(RETIRE, [], |_| Ok(())).unwrap_err().to_string();
    assert!(refused.contains("pwal_retire: not all commits could be brought into"), "{refused}");
    run(&two, "COMMIT");
    let mut other = Agent::on(&path);
    other.run(COUNT);
    let refused = one.query_row(RETIRE, [], |_| Ok(())).unwrap_err().to_string();
    assert!(refused.contains(&other.pid().to_string()), "{refused}");
    assert_eq!(other.ask(&format!("c {RETIRE}")), "code 5");
    other.end();
    run(&one, "INSERT INTO t VALUES(4)");
    assert_eq!(support::text(&one, RETIRE), "retired");
    assert_rests(&path, 4);
    // Who comes makes it anew, so that both have the stamp between them and stock SQLite.
    let mut other = Agent::on(&path);
    assert_eq!(other.run(COUNT), "4");
    assert!(!is_plain(&path));
    other.run("INSERT INTO t VALUES(5)");
    run(&one, "INSERT INTO t VALUES(6)");
    assert_eq!(other.run(COUNT), "6");
    support::close(two);
    support::close(one);
    other.run("INSERT INTO t VALUES(7)");
    assert_eq!(other.run(RETIRE), "retired");
    other.kill();
    assert_eq!(stock(&path, COUNT).expect("it is plain"), "7");
}

#[test]
fn an_idle_database_is_plain_and_a_kill_leaves_one() {
    if !support::on_pwal() {
        return;
    }
    let (_scene, path) = scene("idle");
    let mut agent = Agent::on(&path);
    assert_eq!(agent.run("PRAGMA parallel_wal_idle_retire_ms"), "10000");
    assert_eq!(agent.run("PRAGMA parallel_wal_idle_retire_ms=20"), "20");
    for round in 1..=3 {
        agent.run("INSERT INTO t VALUES(1)");
        wait_for("the log to be retired", || agent.status().contains("\"log_id\":null"));
        assert_rests(&path, round);
        assert_eq!(agent.run(COUNT), round.to_string());
    }
    agent.kill();
    assert_eq!(stock(&path, COUNT).expect("it is plain"), "3");
    stock(&path, "INSERT INTO t VALUES('stock')").expect("nobody has it open");
    let last = support::open(&path);
    assert_eq!(number(&last, COUNT), 4);
    support::close(last);
    support::assert_plain(&path);
}

/// Each would keep a thread, to try again and again.
#[test]
#[cfg(target_os = "linux")]
fn beside_another_process_nobody_waits_for_a_rest() {
    if !support::on_pwal() {
        return;
    }
    let (_scene, path) = scene("idle, two processes");
    let (mut one, mut other) = (Agent::on(&path), Agent::on(&path));
    let threads = |agent: &Agent| std::fs::read_dir(format!("/proc/{}/task", agent.pid())).map_or(0, Iterator::count);
    assert_eq!(one.run("PRAGMA parallel_wal_idle_retire_ms=20"), "20");
    assert_eq!(other.run(COUNT), "0");
    let before = threads(&one);
    one.run("INSERT INTO t VALUES(1)");
    assert_eq!(threads(&one), before + 1);
    wait_for("the thread to end", || threads(&one) == before);
    assert!(!is_plain(&path), "the log is there");
    other.end();
    one.run("INSERT INTO t VALUES(2)");
    wait_for("the log to be retired", || one.status().contains("\"log_id\":null"));
    assert_rests(&path, 2);
    one.end();
    support::assert_plain(&path);
}

/// A kill at each step, of a rest and of the activation that follows: nothing is lost, and what is left is cleaned up.
#[test]
fn a_kill_at_each_step_loses_nothing() {
    if !support::on_pwal() || !cfg!(debug_assertions) {
        return; // a release has no fault points
    }
    for (point, pass, rows) in [
        ("retiring", 1, "2"),
        ("resting", 1, "2"),
        ("activating", 2, "2"),
        ("activating_again", 1, "2"),
        ("retiring", 2, "3"),
        ("resting", 2, "3"),
        ("activating_again", 2, "3"),
    ] {
        let (_scene, path) = scene("a kill at a rest");
        let mut victim = Agent::start_with(&[("PWAL_TEST_DIE_AT", format!("{point}:{pass}"))]);
        victim.open("c", &path);
        for sql in ["INSERT INTO t VALUES(1)", "INSERT INTO t VALUES(2)", RETIRE, "INSERT INTO t VALUES(3)", RETIRE] {
            victim.tell(&format!("c {sql}"));
        }
        victim.tell("c INSERT INTO t VALUES(4)");
        victim.end_killed();
        let next = support::open(&path);
        assert_eq!(support::text(&next, COUNT), rows, "{point}:{pass}");
        run(&next, "INSERT INTO t VALUES('next')");
        support::assert_integrity(&next);
        support::close(next);
        support::assert_plain(&path);
    }
}

/// A connection without a busy handler is alone with itself: it meets no lock that only the engine holds.
#[test]
fn a_write_that_meets_a_rest_waits_for_its_end() {
    if !support::on_pwal() {
        return;
    }
    let _watchdog = watchdog("a write that meets a rest");
    for write in ["INSERT INTO t VALUES(2)", "BEGIN IMMEDIATE; INSERT INTO t VALUES(2); COMMIT"] {
        let lab = Lab::new();
        let (retiring, writing) = (lab.wal(), lab.open("a.db"));
        run(&retiring, "CREATE TABLE t(x); INSERT INTO t VALUES(1)");
        assert_eq!(number(&writing, COUNT), 1);
        writing.busy_timeout(std::time::Duration::ZERO).expect("no busy timeout");
        let (resting, go_on) = (Gate::default(), Gate::default());
        let gates = (resting.clone(), go_on.clone());
        lab.hook(move |moment| {
            if moment.call == Call::Remove && moment.name.ends_with(".seg") && !moment.done {
                gates.0.open();
                gates.1.pass();
            }
            Ok(())
        });
        std::thread::scope(|threads| {
            threads.spawn(move || assert_eq!(support::text(&retiring, RETIRE), "retired"));
            resting.pass();
            let written = threads.spawn(move || {
                let code = support::code_of(&writing, write);
                (code, number(&writing, COUNT))
            });
            // It is refused at once, or waits.
            std::thread::sleep(std::time::Duration::from_millis(100));
            go_on.open();
            assert_eq!(written.join().expect("no panic"), (0, 2), "{write}");
        });
    }
}
