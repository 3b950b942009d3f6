//! Stock SQLite beside processes that use the database through pwal: it never gets in.

use super::assert_left;
use std::io::{BufRead, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use support::processes::agent::{Agent, wait_for};
use support::scene::{COUNT, scene};

/// What the `sqlite3` shell, without pwal, says to a statement.
fn shell(path: &Path, sql: &str) -> Result<String, String> {
    let name = std::env::var_os("PWAL_TEST_SQLITE3").unwrap_or_else(|| "/usr/bin/sqlite3".into());
    let output = Command::new(name).arg("-batch").arg(path).arg(sql).output().expect("the sqlite3 shell");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("a text").trim().to_owned();
    if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
}

const STATEMENTS: [&str; 4] =
    ["SELECT count(*) FROM t", "INSERT INTO t VALUES('stock')", "PRAGMA journal_mode=DELETE", "VACUUM"];

/// By the lock where somebody holds it, at the latest by the directory in place of the `-wal`; with `locked`, by the lock.
#[track_caller]
fn assert_kept_out(path: &Path, locked: bool) {
    for sql in STATEMENTS {
        let error = shell(path, sql).expect_err(sql);
        let by_lock = error.contains("database is locked");
        assert!(by_lock || (!locked && error.contains("unable to open database file")), "{sql}: {error}");
    }
}

#[test]
fn stock_is_kept_out_while_anybody_is_attached() {
    if !support::on_pwal() {
        return;
    }
    let (_scene, path) = scene("stock outside");
    let mut first = Agent::on(&path);
    first.run(COUNT);
    assert_kept_out(&path, true);
    let mut second = Agent::on(&path);
    second.run(COUNT);
    assert_kept_out(&path, true);
    first.run("INSERT INTO t VALUES(1)");
    // The first held EXCLUSIVE.
    first.end();
    assert_kept_out(&path, false);
    second.run("INSERT INTO t VALUES(2)");
    assert_kept_out(&path, false);
    let mut third = Agent::on(&path);
    third.run("INSERT INTO t VALUES(3)");
    assert_kept_out(&path, false);
    second.kill();
    assert_kept_out(&path, false);
    third.run("INSERT INTO t VALUES(4)");
    assert_kept_out(&path, false);
    // Nobody is there any more, and the log is.
    third.kill();
    assert_kept_out(&path, false);
    let last = support::open(&path);
    assert_eq!(support::number(&last, COUNT), 4);
    support::close(last);
    assert_eq!(shell(&path, COUNT).expect("nobody is attached"), "4");
    shell(&path, "INSERT INTO t VALUES('stock')").expect("nobody is attached");
    assert_left(&path, 5);
}

/// Who has committed nothing yet has written nothing either: then the lock alone keeps stock out, and when the
/// first dies the second must not go on as if it had it.
#[test]
fn stock_is_kept_out_of_a_database_that_nobody_has_written_yet() {
    if !support::on_pwal() {
        return;
    }
    let (_scene, path) = scene("stock outside of readers");
    for kills in [false, true] {
        let (mut first, mut second) = (Agent::on(&path), Agent::on(&path));
        first.run(COUNT);
        second.run(COUNT);
        assert_kept_out(&path, false);
        if kills {
            first.kill();
        } else {
            first.end();
        }
        assert_kept_out(&path, false);
        assert_eq!(second.run(COUNT), "0");
        assert_kept_out(&path, false);
        second.end();
        assert_left(&path, 0);
    }
}

/// On stock's own `-wal` with it, each seeing the others' commits; and on pwal again when all of them have closed.
#[test]
fn beside_a_stock_connection_that_was_there_first_every_process_works_as_stock_does() {
    if !support::on_pwal() {
        return;
    }
    let (_scene, path) = scene("stock inside");
    let mut stock = Agent::start();
    assert_eq!(stock.ask(&format!("c .vfs unix {}", path.display())), "open");
    stock.run(COUNT);
    let mut agents = [Agent::on(&path), Agent::on(&path)];
    for (number, agent) in agents.iter_mut().enumerate() {
        agent.run("INSERT INTO t VALUES('beside')");
        let status = agent.status();
        for word in ["\"active\":false", "\"beside_stock\":true", "on stock SQLite's own -wal", "load pwal before"] {
            assert!(status.contains(word), "{word}: {status}");
        }
        assert!(agent.log().contains("on stock SQLite's own -wal"));
        assert_eq!(stock.run(COUNT), (number + 1).to_string());
    }
    stock.run("INSERT INTO t VALUES('stock')");
    assert_eq!(agents.each_mut().map(|agent| agent.run(COUNT)), ["3", "3"]);
    stock.end();
    // The connections beside it keep what they have: one that comes now joins them.
    let mut late = Agent::on(&path);
    late.run("INSERT INTO t VALUES('late')");
    assert!(late.status().contains("\"beside_stock\":true"));
    agents[0].close();
    agents[0].open("c", &path);
    agents[0].run(COUNT);
    assert!(agents[0].status().contains("\"beside_stock\":true"));
    agents.into_iter().for_each(Agent::end);
    late.close();
    assert_left(&path, 4);
    late.open("c", &path);
    late.run("INSERT INTO t VALUES('on pwal')");
    assert!(late.status().contains("\"active\":true"));
    assert_kept_out(&path, true);
    late.end();
    assert_left(&path, 5);
}

#[test]
fn who_prefers_it_is_refused_beside_a_stock_connection() {
    if !support::on_pwal() {
        return;
    }
    let (_scene, path) = scene("stock inside, refused");
    let mut stock = Agent::start();
    assert_eq!(stock.ask(&format!("c .vfs unix {}", path.display())), "open");
    stock.run(COUNT);
    let uri = |value: &str| PathBuf::from(format!("file:{}?parallel_wal_beside_stock={value}", path.display()));
    let refuse = [("PWAL_BESIDE_STOCK", String::from("refuse"))];
    let mut agents = [Agent::start_with(&refuse), Agent::start(), Agent::start(), Agent::start_with(&refuse)];
    agents[0].open("c", &path);
    agents[1].open("c", &uri("refuse"));
    agents[2].open("c", &path);
    assert_eq!(agents[2].run("PRAGMA parallel_wal_beside_stock"), "share");
    assert_eq!(agents[2].run("PRAGMA parallel_wal_beside_stock=refuse"), "refuse");
    for agent in &mut agents[..3] {
        assert_eq!(agent.run("PRAGMA parallel_wal_beside_stock"), "refuse");
        agent.ask("c .timeout 100");
        assert_eq!(agent.ask("c SELECT * FROM t"), "code 5");
        // It is still there: in WAL mode it holds SHARED for as long as it is open.
        assert_eq!(agent.ask("c INSERT INTO t VALUES(1)"), "code 5");
        let status = agent.status();
        assert!(status.contains("a connection that is not on pwal has the database open"), "{status}");
    }
    assert_eq!(agents[1].ask("c PRAGMA parallel_wal_beside_stock=maybe"), "code 1");
    // The URI of a connection counts more than the environment.
    agents[3].open("c", &uri("share"));
    agents[3].run("INSERT INTO t VALUES('beside')");
    // For who is refused, that one is a connection of stock's, too.
    stock.end();
    assert_eq!(agents[0].ask("c SELECT * FROM t"), "code 5");
    agents[3].close();
    for agent in &mut agents[..3] {
        agent.run("INSERT INTO t VALUES(1)");
        assert!(agent.status().contains("\"active\":true"));
    }
    agents.into_iter().for_each(Agent::end);
    assert_left(&path, 4);
}

/// The SHARED of POSIX is the process's: closing the file anywhere in it drops it, and another SQLite library in it is not
/// kept out. A claim then would take the database from under a connection that works on stock's `-wal`.
#[test]
fn nobody_claims_a_database_whose_locks_a_process_beside_stock_has_dropped() {
    if !support::on_pwal() {
        return;
    }
    let (_scene, path) = scene("dropped locks");
    let mut stock = Agent::start();
    assert_eq!(stock.ask(&format!("c .vfs unix {}", path.display())), "open");
    stock.run(COUNT);
    let beside = support::open(&path);
    support::run(&beside, "INSERT INTO t VALUES('beside')");
    stock.end();
    // A backup by an ordinary copy.
    drop(std::fs::read(&path).expect("read the database file"));
    let mut other = Agent::on(&path);
    other.run("INSERT INTO t VALUES('other')");
    assert!(other.status().contains("\"beside_stock\":true"), "{}", other.status());
    support::run(&beside, "INSERT INTO t VALUES('beside')");
    assert_eq!(other.run(COUNT), "3");
    other.close();
    support::close(beside);
    other.open("c", &path);
    other.run("INSERT INTO t VALUES('on pwal')");
    assert!(other.status().contains("\"active\":true"));
    other.end();
    assert_left(&path, 4);
}

/// A killed one leaves a `-wal` of stock's, which the next open settles.
#[test]
fn what_a_killed_process_beside_stock_committed_is_there() {
    if !support::on_pwal() {
        return;
    }
    let (_scene, path) = scene("a kill beside stock");
    let mut stock = Agent::start();
    assert_eq!(stock.ask(&format!("c .vfs unix {}", path.display())), "open");
    stock.run(COUNT);
    let mut beside = Agent::on(&path);
    beside.run("INSERT INTO t VALUES('beside')");
    beside.kill();
    stock.kill();
    let mut next = Agent::on(&path);
    assert_eq!(next.run(COUNT), "1");
    assert!(next.status().contains("\"active\":true"));
    next.end();
    assert_left(&path, 1);
}

/// Everybody opens, writes and closes as it comes, on stock and through pwal: each row that was acknowledged is there, and
/// nothing but BUSY and, to stock beside a log, CANTOPEN is answered.
#[test]
fn connections_on_stock_and_through_pwal_that_come_and_go_lose_nothing() {
    if !support::on_pwal() {
        return;
    }
    let (_scene, path) = scene("coming and going");
    let rounds = support::env_number("PWAL_TEST_ROUNDS", 150);
    // How often somebody through pwal was beside stock, and how many of them are at it still.
    let (met, left) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(2)));
    let worker = |number: u64| {
        let (path, met, left) = (path.clone(), Arc::clone(&met), Arc::clone(&left));
        std::thread::spawn(move || {
            let mut agent = Agent::start();
            let mut dice = pwal::internal::disk::sim::Dice::new(number);
            let (mut acknowledged, mut active, mut beside) = (0, 0, 0);
            for round in 0..rounds {
                let vfs = if number == 0 { "unix" } else { "pwal" };
                assert_eq!(agent.ask(&format!("c .vfs {vfs} {}", path.display())), "open");
                agent.ask(&format!("c .timeout {}", dice.pick(&[0, 5, 500])));
                for _ in 0..dice.index(4) {
                    let answer = agent.ask(&format!("c INSERT INTO t VALUES('{number}, {round}')"));
                    match answer.as_str() {
                        "" => acknowledged += 1,
                        "code 5" | "code 261" | "code 517" => {}
                        "code 14" if number == 0 => {}
                        other => panic!("{number}: {other}"),
                    }
                }
                let status = agent.status();
                active += u32::from(status.contains("\"active\":true"));
                let is_beside = u32::from(status.contains("\"beside_stock\":true"));
                beside += is_beside;
                met.fetch_add(is_beside, SeqCst);
                if number == 0 && round % 50 == 0 {
                    // Who comes waits a while for stock to go, longer than most of these rounds.
                    while agent.ask(&format!("c {COUNT}")).starts_with("code") && left.load(SeqCst) > 0 {}
                    let before = met.load(SeqCst);
                    wait_for("somebody beside stock", || met.load(SeqCst) > before || left.load(SeqCst) == 0);
                }
                agent.close();
            }
            left.fetch_sub(u32::from(number > 0), SeqCst);
            agent.end();
            (acknowledged, active, beside)
        })
    };
    let done: Vec<(i64, u32, u32)> =
        [0, 1, 2].map(worker).into_iter().map(|worker| worker.join().expect("a worker")).collect();
    println!("acknowledged, on pwal, beside stock: {done:?}");
    let acknowledged: i64 = done.iter().map(|(acknowledged, ..)| acknowledged).sum();
    assert!(done.iter().all(|(acknowledged, ..)| *acknowledged > 0));
    assert!(done[1..].iter().any(|(_, active, _)| *active > 0) && done[1..].iter().any(|(.., beside)| *beside > 0));
    assert_left(&path, acknowledged);
}

/// The application opens and closes the file itself (a copy, a checksum): POSIX locks of the whole process go by that.
#[test]
fn what_stock_commits_after_the_process_lost_its_locks_is_not_overwritten() {
    if !support::on_pwal() {
        return;
    }
    for stays in [false, true] {
        let scratch = support::Scratch::new();
        let path = scratch.file("app.db");
        let connection = support::open_wal(&path);
        support::run(&connection, "CREATE TABLE t(x INTEGER PRIMARY KEY, y); INSERT INTO t VALUES(1, 0), (2, 0)");
        support::close(connection);
        let connection = support::open(&path);
        assert_eq!(support::text(&connection, "SELECT y FROM t"), "0 0");
        assert_kept_out(&path, true);
        drop(std::fs::read(&path).unwrap());
        let write = "UPDATE t SET y='stock' WHERE x=1";
        let mut stock = stays.then(|| {
            let name = std::env::var_os("PWAL_TEST_SQLITE3").unwrap_or_else(|| "/usr/bin/sqlite3".into());
            let mut child = Command::new(name);
            child.arg("-batch").arg(&path).stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
            let mut child = child.spawn().expect("the sqlite3 shell");
            let mut answers = std::io::BufReader::new(child.stdout.take().unwrap());
            let mut line = String::new();
            writeln!(child.stdin.as_mut().unwrap(), "{write}; SELECT 'done';").unwrap();
            answers.read_line(&mut line).unwrap();
            assert_eq!(line.trim(), "done");
            child
        });
        if !stays {
            shell(&path, write).unwrap();
        }
        let code = support::code_of(&connection, "UPDATE t SET y='pwal' WHERE x=2");
        assert_ne!(code, 0, "a commit on what stock has changed");
        drop(connection);
        if let Some(stock) = &mut stock {
            drop(stock.stdin.take());
            stock.wait().unwrap();
        }
        assert_eq!(shell(&path, "SELECT y FROM t ORDER BY x; PRAGMA integrity_check").unwrap(), "stock\n0\nok");
        let again = support::open(&path);
        support::run(&again, "UPDATE t SET y='pwal' WHERE x=2");
        assert_eq!(support::text(&again, "SELECT y FROM t"), "stock pwal");
    }
}

/// Not by stock: the file is as it was, and the lock is taken again.
#[test]
fn a_process_that_lost_its_locks_to_nobody_goes_on() {
    if !support::on_pwal() {
        return;
    }
    let scratch = support::Scratch::new();
    let path = scratch.file("app.db");
    let connection = support::open_wal(&path);
    support::run(&connection, "CREATE TABLE t(x)");
    support::close(connection);
    let connection = support::open(&path);
    assert_eq!(support::number(&connection, "SELECT count(*) FROM t"), 0);
    drop(std::fs::read(&path).unwrap());
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    support::run(&connection, "INSERT INTO t VALUES(1)");
    assert_kept_out(&path, true);
}
