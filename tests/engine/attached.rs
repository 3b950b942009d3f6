//! Several databases in one connection: each commits, all roll back, and the order of everything in
//! between is that of stock.

use rusqlite::{Connection, ffi};
use std::path::PathBuf;
use std::time::{Duration, Instant};
use support::{Scratch, Watchdog, env_number};

/// `main` and the databases `b` and `c`, all in WAL mode, a table `t_<name>(x)` in each.
fn three(scratch: &Scratch) -> Connection {
    let connection = attach(scratch);
    for name in ["main", "b", "c"] {
        support::run(&connection, &format!("PRAGMA {name}.journal_mode=WAL; CREATE TABLE {name}.t_{name}(x)"));
    }
    connection
}

fn attach(scratch: &Scratch) -> Connection {
    let connection = support::open(&scratch.file("main.db"));
    connection.busy_timeout(Duration::ZERO).unwrap();
    for name in ["b", "c"] {
        support::run(&connection, &format!("ATTACH '{}' AS {name}", scratch.file(&format!("{name}.db")).display()));
    }
    connection
}

fn files(scratch: &Scratch) -> [PathBuf; 3] {
    ["main.db", "b.db", "c.db"].map(|name| scratch.file(name))
}

fn counts(connection: &Connection) -> String {
    support::text(
        connection,
        "SELECT (SELECT count(*) FROM t_main), (SELECT count(*) FROM t_b), (SELECT count(*) FROM t_c)",
    )
}

const ONE_EACH: &str = "INSERT INTO t_main VALUES(1); INSERT INTO t_b VALUES(1); INSERT INTO t_c VALUES(1)";

#[test]
fn a_commit_reaches_all_of_them() {
    for synchronous in ["OFF", "NORMAL", "FULL"] {
        let scratch = Scratch::new();
        let (own, other) = (three(&scratch), attach(&scratch));
        support::run(&own, &format!("PRAGMA synchronous={synchronous}"));
        for round in 1..=10 {
            support::run(&own, &format!("BEGIN; {ONE_EACH}"));
            assert_eq!(counts(&other), format!("{0}|{0}|{0}", round - 1));
            support::run(&own, "COMMIT");
            assert_eq!(counts(&other), format!("{round}|{round}|{round}"));
        }
        support::close(own);
        support::close(other);
        files(&scratch).iter().for_each(|path| support::assert_plain(path));
    }
}

#[test]
fn a_rollback_and_savepoints_reach_all_of_them() {
    let scratch = Scratch::new();
    let (own, other) = (three(&scratch), attach(&scratch));
    support::run(&own, &format!("BEGIN; {ONE_EACH}; ROLLBACK"));
    assert_eq!((counts(&own), counts(&other)), (String::from("0|0|0"), String::from("0|0|0")));
    support::run(&own, &format!("BEGIN; {ONE_EACH}; SAVEPOINT s; {ONE_EACH}; DELETE FROM t_b; ROLLBACK TO s; COMMIT"));
    assert_eq!(counts(&other), "1|1|1");
}

#[test]
fn some_of_them_written_others_only_read() {
    let scratch = Scratch::new();
    let (own, other) = (three(&scratch), attach(&scratch));
    support::run(&own, "BEGIN; SELECT * FROM t_main; INSERT INTO t_b SELECT 1; INSERT INTO t_c VALUES(1); COMMIT");
    support::run(&own, "BEGIN; INSERT INTO t_b VALUES(2); SELECT * FROM t_c; COMMIT");
    assert_eq!(counts(&other), "0|2|1");
}

#[test]
fn an_attached_database_of_another_kind_commits_too() {
    for (attached, super_journal) in [
        (&["file:{}/x.db?vfs=unix"][..], false),
        (&[":memory:"][..], false),
        (&["{}/x.db"][..], false),
        // Two in rollback mode write a super-journal, and SQLite then ignores what COMMIT_PHASETWO answers.
        (&["{}/x.db", "{}/y.db"][..], true),
    ] {
        let scratch = Scratch::new();
        let (own, other) = (three(&scratch), attach(&scratch));
        for (number, name) in attached.iter().enumerate() {
            let name = name.replace("{}", &scratch.path().display().to_string());
            support::run(&own, &format!("ATTACH '{name}' AS x{number}; CREATE TABLE x{number}.x{number}(x)"));
        }
        for round in 1..=5_i64 {
            support::run(&own, &format!("BEGIN; {ONE_EACH}"));
            for number in 0..attached.len() {
                support::run(&own, &format!("INSERT INTO x{number} VALUES(1)"));
            }
            let beside = support::beside(&scratch.file("x.db"));
            support::run(&own, "COMMIT");
            assert_eq!(counts(&other), format!("{round}|{round}|{round}"), "{attached:?}, {beside:?}");
            for number in 0..attached.len() {
                assert_eq!(support::number(&own, &format!("SELECT count(*) FROM x{number}")), round);
            }
        }
        support::run(&own, &format!("BEGIN; {ONE_EACH}; INSERT INTO x0 VALUES(1); ROLLBACK"));
        assert_eq!(counts(&other), "5|5|5");
        let leftovers = std::fs::read_dir(scratch.path()).unwrap();
        let journals = leftovers.flatten().filter(|entry| entry.file_name().to_string_lossy().contains("-mj")).count();
        assert_eq!(journals, 0, "super-journals, {super_journal}");
        support::close(own);
        support::close(other);
        files(&scratch).iter().for_each(|path| support::assert_plain(path));
    }
}

#[test]
fn the_same_file_twice_is_read_twice_and_writing_both_waits_for_itself() {
    let scratch = Scratch::new();
    let connection = three(&scratch);
    support::run(&connection, &format!("ATTACH '{}' AS again", scratch.file("main.db").display()));
    support::run(&connection, "INSERT INTO main.t_main VALUES(1); INSERT INTO again.t_main VALUES(2)");
    for name in ["main", "again"] {
        assert_eq!(support::text(&connection, &format!("SELECT x FROM {name}.t_main")), "1 2");
    }
    support::run(&connection, "BEGIN; INSERT INTO main.t_main VALUES(3)");
    assert_eq!(support::text(&connection, "SELECT x FROM again.t_main"), "1 2");
    assert_eq!(support::code_of(&connection, "INSERT INTO again.t_main VALUES(4)"), ffi::SQLITE_BUSY);
    support::run(&connection, "COMMIT");
    assert_eq!(support::text(&connection, "SELECT x FROM again.t_main"), "1 2 3");
    support::run(&connection, "DETACH again; INSERT INTO main.t_main VALUES(4)");
    support::close(connection);
    support::assert_plain(&scratch.file("main.db"));
}

#[test]
fn detaching_the_last_use_leaves_a_plain_file() {
    let scratch = Scratch::new();
    let connection = three(&scratch);
    support::run(&connection, ONE_EACH);
    support::run(&connection, "DETACH b");
    support::assert_plain(&scratch.file("b.db"));
    assert_eq!(support::text(&connection, "SELECT (SELECT count(*) FROM t_main), count(*) FROM t_c"), "1|1");
    let used = support::open(&scratch.file("c.db"));
    support::run(&connection, "DETACH c");
    support::run(&used, "INSERT INTO t_c VALUES(2)");
    support::close(used);
    support::assert_plain(&scratch.file("c.db"));
}

#[test]
fn an_attached_database_may_be_written_by_others_meanwhile() {
    let scratch = Scratch::new();
    let own = three(&scratch);
    let b = support::open(&scratch.file("b.db"));
    b.busy_timeout(Duration::ZERO).unwrap();
    support::run(&own, "BEGIN; INSERT INTO t_main VALUES(1); SELECT * FROM t_c");
    support::run(&b, "INSERT INTO t_b VALUES(7)");
    support::run(&own, "INSERT INTO t_b VALUES(8)");
    assert_eq!(support::code_of(&b, "INSERT INTO t_b VALUES(9)"), ffi::SQLITE_BUSY);
    support::run(&own, "COMMIT");
    support::run(&b, "INSERT INTO t_b VALUES(9)");
    assert_eq!(counts(&own), "1|3|0");
}

#[test]
fn a_stale_snapshot_of_one_of_them_keeps_the_transaction_from_writing_there() {
    let scratch = Scratch::new();
    let own = three(&scratch);
    let b = support::open(&scratch.file("b.db"));
    support::run(&own, "BEGIN; SELECT * FROM t_b; INSERT INTO t_main VALUES(1)");
    support::run(&b, "INSERT INTO t_b VALUES(7)");
    assert_eq!(support::code_of(&own, "INSERT INTO t_b VALUES(8)"), ffi::SQLITE_BUSY_SNAPSHOT);
    support::run(&own, "INSERT INTO t_c VALUES(1); COMMIT");
    assert_eq!(counts(&own), "1|1|1");
}

#[test]
fn a_commit_that_a_constraint_refuses_leaves_all_of_them_open() {
    let scratch = Scratch::new();
    let (own, other) = (three(&scratch), attach(&scratch));
    support::run(
        &own,
        "CREATE TABLE b.parent(id INTEGER PRIMARY KEY);
         CREATE TABLE b.child(p REFERENCES parent(id) DEFERRABLE INITIALLY DEFERRED); PRAGMA foreign_keys=ON",
    );
    support::run(&own, &format!("BEGIN; {ONE_EACH}; INSERT INTO child VALUES(5)"));
    assert_eq!(support::code_of(&own, "COMMIT"), ffi::SQLITE_CONSTRAINT_FOREIGNKEY);
    assert_eq!(counts(&other), "0|0|0");
    assert!(!own.is_autocommit());
    support::run(&own, "INSERT INTO parent VALUES(5); COMMIT");
    assert_eq!(counts(&other), "1|1|1");
}

#[test]
fn different_page_sizes_and_checkpoints_of_each() {
    let scratch = Scratch::new();
    let connection = attach(&scratch);
    for (name, page_bytes) in [("main", 4096), ("b", 512), ("c", 65536)] {
        support::run(
            &connection,
            &format!(
                "PRAGMA {name}.page_size={page_bytes}; PRAGMA {name}.journal_mode=WAL; CREATE TABLE {name}.t_{name}(x)"
            ),
        );
    }
    for _ in 0..20 {
        let big = ONE_EACH.replace("(1)", "(zeroblob(9000))");
        support::run(&connection, &format!("BEGIN; {big}; COMMIT"));
    }
    assert_eq!(support::text(&connection, "PRAGMA wal_checkpoint(TRUNCATE)"), "0|0|0");
    assert_eq!(support::text(&connection, "PRAGMA b.wal_checkpoint(TRUNCATE)"), "0|0|0");
    for name in ["main", "b", "c"] {
        assert_eq!(support::text(&connection, &format!("PRAGMA {name}.integrity_check")), "ok");
    }
    support::close(connection);
    files(&scratch).iter().for_each(|path| support::assert_plain(path));
}

/// Threads write the same two databases, attached in either order; the rows stay as many in both, but for
/// a commit that was refused between the two.
#[test]
fn threads_with_the_databases_in_either_order() {
    let seconds = Duration::from_secs(env_number("PWAL_TEST_SECONDS", 2));
    let _watchdog = Watchdog::new("attached databases in threads", seconds + Duration::from_secs(120));
    let scratch = Scratch::new();
    support::close(three(&scratch));
    let until = Instant::now() + seconds;
    let done: Vec<i64> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4_i64)
            .map(|thread| {
                let scratch = &scratch;
                scope.spawn(move || write_both(scratch, thread, until))
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let connection = attach(&scratch);
    for (thread, done) in done.iter().enumerate() {
        for table in ["t_b", "t_c"] {
            let rows = support::number(&connection, &format!("SELECT count(*) FROM {table} WHERE x={thread}"));
            assert_eq!(rows, *done, "thread {thread}, {table}");
        }
    }
    println!("{done:?} commits");
    support::close(connection);
    files(&scratch).iter().for_each(|path| support::assert_plain(path));
}

fn write_both(scratch: &Scratch, thread: i64, until: Instant) -> i64 {
    let connection = attach(scratch);
    connection.busy_timeout(Duration::from_millis(50)).unwrap();
    let (first, second) = if thread % 2 == 0 { ("t_b", "t_c") } else { ("t_c", "t_b") };
    let mut done = 0;
    while Instant::now() < until {
        let sql = format!("BEGIN; INSERT INTO {first} VALUES({thread}); INSERT INTO {second} VALUES({thread}); COMMIT");
        match connection.execute_batch(&sql) {
            Ok(()) => done += 1,
            Err(error) => {
                assert_eq!(support::code(&error) & 0xff, ffi::SQLITE_BUSY, "{error:?}");
                if !connection.is_autocommit() {
                    support::run(&connection, "ROLLBACK");
                }
            }
        }
    }
    done
}
