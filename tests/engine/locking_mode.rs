//! `locking_mode=EXCLUSIVE` on databases in WAL mode, step by step, by stock SQLite and through pwal: every answer has to be
//! the same, and what is left.
//!
//! Each scene is a list of steps, played once by processes on stock SQLite and once by processes on pwal, each on a database of
//! its own: in WAL mode, with a table `t(x)` and one row in it. Nobody waits for a lock.

mod stage;

use pwal::internal::shared::OnStockWal;
use stage::{Stage, same};
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use support::processes::agent::Agent;
use support::{Watchdog, library};

#[test]
fn before_the_first_read() {
    same(&[
        "1a open",
        "1a PRAGMA locking_mode=EXCLUSIVE",
        "1a SELECT x FROM t",
        "2b open",
        "2b SELECT x FROM t",
        "2b INSERT INTO t VALUES('other')",
        "1b open",
        "1b SELECT x FROM t",
        "1a INSERT INTO t VALUES(1)",
        "1a BEGIN",
        "1a INSERT INTO t VALUES(2)",
        "1a ROLLBACK",
        "1a UPDATE t SET x=x+10",
        "1a PRAGMA journal_mode",
        "1a PRAGMA wal_checkpoint",
        "1a INSERT INTO t VALUES(3)",
        "1a SELECT x FROM t",
        "2b SELECT x FROM t",
        "1a PRAGMA locking_mode=NORMAL",
        "1a INSERT INTO t VALUES(4)",
        "2b SELECT x FROM t",
        "1a close",
        "2b SELECT x FROM t",
        "2b INSERT INTO t VALUES(5)",
    ]);
}

#[test]
fn before_the_first_write() {
    same(&[
        "1a open",
        "1a PRAGMA locking_mode=EXCLUSIVE",
        "1a INSERT INTO t VALUES(1)",
        "wal",
        "2a open",
        "2a INSERT INTO t VALUES('other')",
        "2a PRAGMA journal_mode=DELETE",
        "1a PRAGMA wal_checkpoint(TRUNCATE)",
        "1a INSERT INTO t VALUES(2)",
        "1a close",
        "wal",
        "2a INSERT INTO t VALUES(3)",
    ]);
}

#[test]
fn behind_the_first_read() {
    same(&[
        "1a open",
        "1a SELECT x FROM t",
        "1a PRAGMA locking_mode=EXCLUSIVE",
        "1a SELECT x FROM t",
        "2a open",
        "2a SELECT x FROM t",
        "2a close",
        "1a INSERT INTO t VALUES(1)",
        "2a open",
        "2a SELECT x FROM t",
        "2a INSERT INTO t VALUES('other')",
        "1b open",
        "1b SELECT x FROM t",
        "1a UPDATE t SET x=x+10",
        "1a BEGIN",
        "1a DELETE FROM t",
        "1a ROLLBACK",
        "1a SELECT x FROM t",
        "1a PRAGMA locking_mode=NORMAL",
        "1a SELECT x FROM t",
        "1b SELECT x FROM t",
        "2a INSERT INTO t VALUES(2)",
        "1b INSERT INTO t VALUES(3)",
        "1a INSERT INTO t VALUES(4)",
        "2a SELECT x FROM t",
        "1a SELECT x FROM t",
    ]);
}

#[test]
fn behind_commits() {
    same(&[
        "1a open",
        "1a INSERT INTO t VALUES(1)",
        "1a INSERT INTO t VALUES(2)",
        "1a PRAGMA locking_mode=EXCLUSIVE",
        "1a INSERT INTO t VALUES(3)",
        "2a open",
        "2a SELECT x FROM t",
        "1a CREATE TABLE u(y)",
        "1a INSERT INTO u VALUES(zeroblob(100000))",
        "1a SELECT x FROM t",
        "1a PRAGMA locking_mode=NORMAL",
        "1a INSERT INTO t VALUES(4)",
        "2a INSERT INTO t VALUES(5)",
        "1a PRAGMA locking_mode=EXCLUSIVE",
        "1a INSERT INTO t VALUES(6)",
        "2a close",
        "1a INSERT INTO t VALUES(7)",
        "1a SELECT x FROM t",
        "1a PRAGMA wal_checkpoint(TRUNCATE)",
        "1a SELECT x FROM t",
        "1a PRAGMA locking_mode=NORMAL",
        "1a SELECT x FROM t",
        "2a open",
        "2a INSERT INTO t VALUES(8)",
        "1a SELECT x FROM t",
        "1a INSERT INTO t VALUES(9)",
    ]);
}

#[test]
fn inside_a_transaction() {
    same(&[
        "1a open",
        "1a INSERT INTO t VALUES(1)",
        "1a BEGIN",
        "1a SELECT x FROM t",
        "1a PRAGMA locking_mode=EXCLUSIVE",
        "1a COMMIT",
        "1a BEGIN",
        "1a SELECT x FROM t",
        "1a INSERT INTO t VALUES(2)",
        "1a COMMIT",
        "2a open",
        "2a SELECT x FROM t",
        "1a BEGIN IMMEDIATE",
        "1a ROLLBACK",
        "1a BEGIN IMMEDIATE",
        "1a INSERT INTO t VALUES(3)",
        "1a PRAGMA locking_mode=NORMAL",
        "1a COMMIT",
        "2a INSERT INTO t VALUES(4)",
        "1a SELECT x FROM t",
    ]);
}

#[test]
fn beside_others() {
    same(&[
        "1a open",
        "2a open",
        "1a SELECT x FROM t",
        "2a SELECT x FROM t",
        "1a PRAGMA locking_mode=EXCLUSIVE",
        "1a SELECT x FROM t",
        "1a INSERT INTO t VALUES('refused')",
        "2a INSERT INTO t VALUES(1)",
        "1a SELECT x FROM t",
        "1b open",
        "1b PRAGMA locking_mode=EXCLUSIVE",
        "1b SELECT x FROM t",
        "2a close",
        "1b SELECT x FROM t",
        "1b close",
        "1a INSERT INTO t VALUES(2)",
        "1a SELECT x FROM t",
        "1a PRAGMA locking_mode=NORMAL",
        "1a SELECT x FROM t",
        "2a open",
        "2a INSERT INTO t VALUES(3)",
    ]);
}

#[test]
fn two_that_want_it() {
    same(&[
        "1a open",
        "2a open",
        "1a PRAGMA locking_mode=EXCLUSIVE",
        "2a PRAGMA locking_mode=EXCLUSIVE",
        "1a SELECT x FROM t",
        "2a SELECT x FROM t",
        "1a INSERT INTO t VALUES(1)",
        "2a INSERT INTO t VALUES('refused')",
        "1a close",
        "2a INSERT INTO t VALUES(2)",
        "2a SELECT x FROM t",
    ]);
}

#[test]
fn to_rollback_mode_and_back() {
    same(&[
        "1a open",
        "1a PRAGMA locking_mode=EXCLUSIVE",
        "1a INSERT INTO t VALUES(1)",
        "1a PRAGMA journal_mode=DELETE",
        "wal",
        "1a INSERT INTO t VALUES(2)",
        "2a open",
        "2a SELECT x FROM t",
        "1a PRAGMA journal_mode=WAL",
        "1a INSERT INTO t VALUES(3)",
        "wal",
        "2a SELECT x FROM t",
        "1a PRAGMA journal_mode=DELETE",
        "1a PRAGMA locking_mode=NORMAL",
        "1a SELECT x FROM t",
        "2a INSERT INTO t VALUES(4)",
        "1a PRAGMA journal_mode=WAL",
        "1a INSERT INTO t VALUES(5)",
        "2a INSERT INTO t VALUES(6)",
        "2a SELECT x FROM t",
    ]);
}

#[test]
fn to_rollback_mode_behind_the_first_read() {
    same(&[
        "1a open",
        "1a INSERT INTO t VALUES(1)",
        "1a PRAGMA locking_mode=EXCLUSIVE",
        "1a INSERT INTO t VALUES(2)",
        "1a PRAGMA journal_mode=DELETE",
        "wal",
        "1a INSERT INTO t VALUES(3)",
        "1a PRAGMA journal_mode=WAL",
        "1a INSERT INTO t VALUES(4)",
        "2a open",
        "2a SELECT x FROM t",
        "1a SELECT x FROM t",
        "1a PRAGMA locking_mode=NORMAL",
        "1a close",
        "2a SELECT x FROM t",
    ]);
}

#[test]
fn from_rollback_mode() {
    same(&[
        "1a open",
        "1a PRAGMA journal_mode=DELETE",
        "1a PRAGMA locking_mode=EXCLUSIVE",
        "1a INSERT INTO t VALUES(1)",
        "1a PRAGMA journal_mode=WAL",
        "1a INSERT INTO t VALUES(2)",
        "wal",
        "2a open",
        "2a SELECT x FROM t",
        "1a PRAGMA locking_mode=NORMAL",
        "1a INSERT INTO t VALUES(3)",
        "2a SELECT x FROM t",
        "1a close",
        "2a INSERT INTO t VALUES(4)",
    ]);
}

/// A process that was killed left a log, a `-wal` there, which the one that wants the database alone recovers first.
#[test]
fn behind_a_kill() {
    for exclusive in ["PRAGMA locking_mode=EXCLUSIVE", "SELECT x FROM t"] {
        same(&[
            "1a open",
            "1a INSERT INTO t VALUES(1)",
            "1a INSERT INTO t VALUES(2)",
            "1 kill",
            "2a open",
            &format!("2a {exclusive}"),
            "2a PRAGMA locking_mode=EXCLUSIVE",
            "2a SELECT x FROM t",
            "2a INSERT INTO t VALUES(3)",
            "3a open",
            "3a SELECT x FROM t",
            "2 kill",
            "3a SELECT x FROM t",
            "3a INSERT INTO t VALUES(4)",
            "3 kill",
        ]);
    }
}

#[test]
fn killed_with_a_transaction_open() {
    same(&[
        "1a open",
        "1a SELECT x FROM t",
        "1a PRAGMA locking_mode=EXCLUSIVE",
        "1a INSERT INTO t VALUES(1)",
        "1a PRAGMA cache_size=5",
        "1a BEGIN",
        "1a CREATE TABLE u(y)",
        "1a INSERT INTO u VALUES(zeroblob(300000))",
        "1 kill",
        "2a open",
        "2a SELECT x FROM t",
        "2a SELECT count(*) FROM sqlite_master",
    ]);
}

/// As a SQLite with `SQLITE_DEFAULT_LOCKING_MODE=1` does: no pragma says it to the VFS.
#[test]
fn without_a_pragma_that_the_vfs_sees() {
    same(&[
        "1a attach",
        "1a PRAGMA locking_mode=EXCLUSIVE",
        "1a SELECT x FROM t",
        "2a open",
        "2a SELECT x FROM t",
        "1a INSERT INTO t VALUES(1)",
        "1a close",
        "2a SELECT x FROM t",
    ]);
}

/// Nor does one where the main database is another one: SQLite is refused once, and comes again.
#[test]
fn behind_the_first_read_without_a_pragma_that_the_vfs_sees() {
    same(&[
        "1a attach",
        "1a INSERT INTO t VALUES(1)",
        "1a SELECT x FROM t",
        "1a PRAGMA locking_mode=EXCLUSIVE",
        "1a .timeout 1000",
        "1a INSERT INTO t VALUES(2)",
        "2a open",
        "2a SELECT x FROM t",
        "1a PRAGMA locking_mode=NORMAL",
        "1a SELECT x FROM t",
        "2a INSERT INTO t VALUES(3)",
        "1a SELECT x FROM t",
        "2a close",
        "1a PRAGMA locking_mode=EXCLUSIVE",
        "1a INSERT INTO t VALUES(4)",
        "1a INSERT INTO t VALUES(5)",
        "1 kill",
        "2a open",
        "2a SELECT x FROM t",
    ]);
}

/// More frames than one block of the wal-index has, pages that were spilled and rolled back, a database that became smaller.
#[test]
fn large_transactions() {
    same(&[
        "1a open",
        "1a CREATE TABLE u(y)",
        "1a INSERT INTO u VALUES(zeroblob(3000000))",
        "1a PRAGMA cache_size=10",
        "1a PRAGMA wal_autocheckpoint=0",
        "1a PRAGMA locking_mode=EXCLUSIVE",
        "1a INSERT INTO u VALUES(zeroblob(20000000))",
        "1a INSERT INTO u VALUES(randomblob(10000))",
        "1a BEGIN",
        "1a UPDATE u SET y=zeroblob(length(y))",
        "1a SELECT sum(length(y)) FROM u",
        "1a ROLLBACK",
        "1a SELECT sum(length(y)) FROM u",
        "1a PRAGMA locking_mode=NORMAL",
        "1a INSERT INTO t VALUES(1)",
        "2a open",
        "2a PRAGMA integrity_check",
        "2a SELECT sum(length(y)) FROM u",
        "2a DELETE FROM u WHERE length(y) > 10000",
        "1a SELECT sum(length(y)) FROM u",
        "2a close",
        "1a PRAGMA locking_mode=EXCLUSIVE",
        "1a VACUUM",
        "1a PRAGMA page_count",
        "1a PRAGMA locking_mode=NORMAL",
        "1a SELECT count(*) FROM u",
        "2a open",
        "2a INSERT INTO t VALUES(2)",
        "2a PRAGMA integrity_check",
        "1a PRAGMA page_count",
    ]);
}

#[test]
fn back_to_normal_without_a_write_or_a_read_in_between() {
    same(&[
        "1a open",
        "1a INSERT INTO t VALUES(1)",
        "1a PRAGMA locking_mode=EXCLUSIVE",
        "1a SELECT x FROM t",
        "1a PRAGMA locking_mode=NORMAL",
        "1a INSERT INTO t VALUES(2)",
        "1a PRAGMA locking_mode=EXCLUSIVE",
        "1a BEGIN",
        "1a SELECT x FROM t",
        "1a PRAGMA locking_mode=NORMAL",
        "1a INSERT INTO t VALUES(3)",
        "1a COMMIT",
        "2a open",
        "2a INSERT INTO t VALUES(4)",
        "1a SELECT x FROM t",
        "2a close",
        "1a PRAGMA locking_mode=EXCLUSIVE",
        "1a BEGIN IMMEDIATE",
        "1a COMMIT",
        "1a SELECT x FROM t",
        "1a PRAGMA locking_mode=NORMAL",
        "1a BEGIN IMMEDIATE",
        "1a INSERT INTO t VALUES(5)",
        "1a COMMIT",
        "2a open",
        "2a SELECT x FROM t",
        "2a INSERT INTO t VALUES(6)",
        "1a PRAGMA journal_mode=DELETE",
        "2a close",
        "1a PRAGMA locking_mode=EXCLUSIVE",
        "1a INSERT INTO t VALUES(7)",
        "1a PRAGMA journal_mode=DELETE",
        "1a PRAGMA locking_mode=NORMAL",
        "1a PRAGMA journal_mode=WAL",
        "1a INSERT INTO t VALUES(8)",
        "2a open",
        "2a SELECT x FROM t",
        "2a INSERT INTO t VALUES(9)",
        "1a SELECT x FROM t",
    ]);
}

#[test]
fn for_reading() {
    same(&[
        "1a open for reading",
        "1a PRAGMA locking_mode=EXCLUSIVE",
        "1a SELECT x FROM t",
        "2a open",
        "2a SELECT x FROM t",
        "2a INSERT INTO t VALUES(1)",
        "1a SELECT x FROM t",
        "1a close",
        "1a open for reading",
        "1a SELECT x FROM t",
        "1a PRAGMA locking_mode=EXCLUSIVE",
        "1a SELECT x FROM t",
        "1a INSERT INTO t VALUES('refused')",
        "2a INSERT INTO t VALUES(2)",
    ]);
}

/// Where stock SQLite was there first, every connection works as it does.
#[test]
fn beside_stock() {
    same(&[
        "3a open stock",
        "3a SELECT x FROM t",
        "1a open",
        "1a INSERT INTO t VALUES(1)",
        "1a PRAGMA locking_mode=EXCLUSIVE",
        "1a INSERT INTO t VALUES('refused')",
        "2a open",
        "2a PRAGMA locking_mode=EXCLUSIVE",
        "2a INSERT INTO t VALUES('refused')",
        "3a INSERT INTO t VALUES(2)",
        "3a close",
        "1a INSERT INTO t VALUES('refused')",
        "2a close",
        "1a INSERT INTO t VALUES(3)",
        "2a open",
        "2a SELECT x FROM t",
        "3a open stock",
        "3a SELECT x FROM t",
        "1a PRAGMA locking_mode=NORMAL",
        "1a SELECT x FROM t",
        "2a INSERT INTO t VALUES(4)",
        "3a INSERT INTO t VALUES(5)",
        "1a INSERT INTO t VALUES(6)",
        "1a SELECT x FROM t",
    ]);
}

/// Stock SQLite comes while somebody has the database for itself, and is refused as it is by one of its own.
#[test]
fn before_stock() {
    for first in ["1a PRAGMA cache_size", "1a SELECT x FROM t"] {
        same(&[
            "1a open",
            first,
            "1a PRAGMA locking_mode=EXCLUSIVE",
            "1a INSERT INTO t VALUES(1)",
            "3a open stock",
            "3a SELECT x FROM t",
            "3a PRAGMA journal_mode=DELETE",
            "3a VACUUM",
            "1a INSERT INTO t VALUES(2)",
            "1a close",
            "3a INSERT INTO t VALUES(3)",
        ]);
    }
}

/// Several databases in one transaction, one of which is had alone.
#[test]
fn with_another_database_in_the_transaction() {
    same(&[
        "1a open",
        "1a ATTACH ':memory:' AS other",
        "1a CREATE TABLE other.u(y)",
        "1a SELECT x FROM t",
        "1a PRAGMA main.locking_mode=EXCLUSIVE",
        "1a BEGIN",
        "1a INSERT INTO t VALUES(1)",
        "1a INSERT INTO u VALUES(1)",
        "1a COMMIT",
        "1a BEGIN",
        "1a INSERT INTO u VALUES(2)",
        "1a INSERT INTO t VALUES(2)",
        "1a ROLLBACK",
        "1a SELECT x, y FROM t, u",
        "1a PRAGMA main.locking_mode=NORMAL",
        "1a INSERT INTO t VALUES(3)",
        "2a open",
        "2a SELECT x FROM t",
    ]);
}

/// Whatever two processes do, one after the other, and are killed in between. (But for `journal_mode`: where others have
/// committed meanwhile, stock SQLite goes on with an old page cache.)
#[test]
fn in_any_order() {
    let first = support::env_number("PWAL_TEST_SEED", 1);
    for seed in first..first + support::env_number("PWAL_TEST_ROUNDS", 4) {
        let _watchdog = Watchdog::new("any order", Duration::from_secs(100));
        let (mut stock, mut pwal) = (Stage::new(support::STOCK), Stage::new(support::vfs()));
        let mut dice = pwal::internal::disk::sim::Dice::new(seed);
        let mut open = [false; 3];
        let mut played = Vec::new();
        for number in 0..60 {
            let who = dice.index(open.len());
            let name = ["1a", "1b", "2a"][who];
            let insert = format!("{name} INSERT INTO t VALUES({number})");
            let steps = match dice.index(15) {
                _ if !open[who] => {
                    open[who] = true;
                    vec![format!("{name} open")]
                }
                0 => {
                    open[who] = false;
                    vec![format!("{name} close")]
                }
                1..=3 => vec![format!("{name} PRAGMA locking_mode=EXCLUSIVE")],
                4..=5 => vec![format!("{name} PRAGMA locking_mode=NORMAL")],
                6..=8 => vec![format!("{name} SELECT x FROM t")],
                9 => vec![format!("{name} BEGIN IMMEDIATE"), insert, format!("{name} ROLLBACK")],
                10 => {
                    let its = if who == 2 { 2..3 } else { 0..2 };
                    open[its].fill(false);
                    vec![format!("{} kill", &name[..1])]
                }
                _ => vec![insert],
            };
            for step in steps {
                let (of_stock, of_pwal) = (stock.play(&step), pwal.play(&step));
                played.push(format!("{step}: {of_stock}"));
                assert_eq!(of_pwal, of_stock, "seed {seed}: {played:#?}");
            }
        }
        assert_eq!(pwal.end(), stock.end(), "seed {seed}: {played:#?}");
    }
}

/// A kill at each step of the way into the mode and back: all that was acknowledged is there.
#[test]
#[cfg(debug_assertions)]
fn killed_on_the_way() {
    if !support::on_pwal() {
        return;
    }
    for (point, first, left) in [
        ("retired_alone", "SELECT x FROM t", "0 1"),
        ("retired_alone", "PRAGMA cache_size", "0 1"),
        ("backfilled_alone", "SELECT x FROM t", "0 1 2 3"),
        ("sharing_again", "SELECT x FROM t", "0 1 2 3"),
    ] {
        let _watchdog = Watchdog::new(point, Duration::from_secs(100));
        let mut stage = Stage::new(support::PWAL);
        for step in ["2a open", "2a INSERT INTO t VALUES(1)"] {
            stage.play(step);
        }
        stage.play("2 kill");
        let path = stage.path();
        let mut agent = Agent::start_with(&[("PWAL_TEST_DIE_AT", point.to_owned())]);
        agent.open("c", &path);
        agent.run(first);
        for sql in [
            "PRAGMA locking_mode=EXCLUSIVE",
            "INSERT INTO t VALUES(2)",
            "UPDATE t SET x=x",
            "INSERT INTO t VALUES(3)",
            "PRAGMA locking_mode=NORMAL",
            "SELECT x FROM t",
        ] {
            agent.tell(&format!("c {sql}"));
        }
        agent.end_killed();
        assert_eq!(stage.end(), ["beside: []", &format!("left: {left}")], "{point}, {first}");
    }
}

#[test]
fn it_says_what_it_is() {
    if !support::on_pwal() {
        return;
    }
    for steps in [
        vec!["PRAGMA locking_mode=EXCLUSIVE", "INSERT INTO t VALUES(1)"],
        vec!["SELECT x FROM t", "PRAGMA locking_mode=EXCLUSIVE", "INSERT INTO t VALUES(1)"],
        vec![
            "PRAGMA journal_mode=DELETE",
            "PRAGMA locking_mode=EXCLUSIVE",
            "PRAGMA journal_mode=WAL",
            "INSERT INTO t VALUES(1)",
        ],
    ] {
        let stage = Stage::new(support::PWAL);
        let (mut alone, mut other) = (Agent::on(&stage.path()), Agent::on(&stage.path()));
        steps.iter().for_each(|sql| drop(alone.run(sql)));
        let why = "locking_mode=EXCLUSIVE: this connection has the database for itself";
        for word in ["\"active\":false", "\"exclusive\":true", why] {
            assert!(alone.status().contains(word), "{word}: {}", alone.status());
        }
        let mode = alone.run("PRAGMA parallel_wal_mode");
        assert!(mode.starts_with(&format!("inactive: {why}")), "{mode}");
        other.ask("c .timeout 0");
        assert_eq!(other.ask("c SELECT x FROM t"), "code 5");
        assert!(other.status().contains("a connection with locking_mode=EXCLUSIVE"), "{}", other.status());
        // By a lock that no close of the file in that process drops.
        let lock = pwal::internal::shared::on_stock_wal(&stage.scratch.file("app.db-pwal")).expect("its lock file");
        assert_eq!(lock, OnStockWal::Alone);
        let tool = |command: &str| {
            let output =
                Command::new(library::tool()).arg(command).arg(stage.path()).output().expect("the tool starts");
            String::from_utf8(output.stdout).expect("a text")
        };
        for command in ["status", "doctor"] {
            let said = tool(command);
            assert!(said.contains("locking_mode=EXCLUSIVE") && said.contains("for itself"), "{said}");
        }
        alone.close();
        other.run("INSERT INTO t VALUES(2)");
        assert!(other.status().contains("\"active\":true"), "{}", other.status());
        other.end();
        alone.end();
        assert_eq!(stage.end(), ["beside: []", "left: 0 1 2"]);
    }
}

/// What one worker has had answered: commits, and how often it had the database for itself.
#[derive(Default)]
struct Had {
    commits: i64,
    alone: u32,
    on_pwal: u32,
}

fn works(path: &Path, seed: u64, rounds: u64) -> Had {
    let mut dice = pwal::internal::disk::sim::Dice::new(seed);
    let (mut agent, mut had) = (Agent::start(), Had::default());
    for round in 0..rounds {
        agent.open("c", path);
        agent.ask(&format!("c .timeout {}", dice.pick(&[0, 20, 200])));
        for _ in 0..1 + dice.index(8) {
            let (sql, writes) = match dice.index(8) {
                0 | 1 => ("PRAGMA locking_mode=EXCLUSIVE".to_owned(), false),
                2 => ("PRAGMA locking_mode=NORMAL".to_owned(), false),
                3 | 4 => ("SELECT count(*) FROM t".to_owned(), false),
                _ => (format!("INSERT INTO t VALUES('{seed}, {round}')"), true),
            };
            match agent.ask(&format!("c {sql}")).as_str() {
                "code 5" | "code 261" | "code 517" => {}
                error if error.starts_with("code") => panic!("seed {seed}: {sql}: {error}: {}", agent.log()),
                _ => had.commits += i64::from(writes),
            }
        }
        let status = agent.status();
        had.alone += u32::from(status.contains("\"exclusive\":true"));
        had.on_pwal += u32::from(status.contains("\"active\":true"));
        if dice.index(10) == 0 {
            std::mem::replace(&mut agent, Agent::start()).kill();
        } else {
            agent.close();
        }
    }
    agent.end();
    had
}

/// Three processes at once, which are killed now and then: nothing but BUSY is answered, and every commit that was
/// acknowledged is there.
#[test]
fn at_once() {
    if !support::on_pwal() {
        return;
    }
    let _watchdog = Watchdog::new("locking_mode at once", Duration::from_secs(100 + 2 * rounds()));
    let stage = Stage::new(support::PWAL);
    let (path, seed) = (stage.path(), support::env_number("PWAL_TEST_SEED", 1));
    let workers: Vec<_> = (0..3)
        .map(|number| {
            let path = path.clone();
            std::thread::spawn(move || works(&path, 1000 * seed + number, rounds()))
        })
        .collect();
    let had: Vec<Had> = workers.into_iter().map(|worker| worker.join().expect("a worker")).collect();
    let of = |which: fn(&Had) -> i64| had.iter().map(which).sum::<i64>();
    println!(
        "seed {seed}: {} commits, alone {}, on pwal {}",
        of(|h| h.commits),
        of(|h| h.alone.into()),
        of(|h| h.on_pwal.into())
    );
    let last = support::open(&path);
    assert_eq!(support::number(&last, "SELECT count(*)-1 FROM t"), of(|h| h.commits), "seed {seed}");
    support::assert_integrity(&last);
    support::close(last);
    support::assert_plain(&path);
    assert!(of(|h| h.alone.into()) > 0 && of(|h| h.on_pwal.into()) > 0);
}

/// Of each worker.
fn rounds() -> u64 {
    support::env_number("PWAL_TEST_ROUNDS", 40)
}
