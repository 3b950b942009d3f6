//! One transaction over several databases, when another file than the prepared one fails, and the connection stays in the
//! middle of reading.

use rusqlite::{Connection, ffi};
use std::time::Duration;
use support::lab::{Call, Lab, Once, copy_crashed, eio, status};

/// `a.db` in WAL mode, with `attached` others in rollback mode: two of them make SQLite write a super-journal.
fn with_journals(lab: &Lab, attached: &[&str]) -> Connection {
    let connection = lab.wal();
    support::run(&connection, "CREATE TABLE t(x); INSERT INTO t VALUES(1),(2),(3)");
    for name in attached {
        let path = lab.scratch.file(&format!("{name}.db"));
        support::run(&connection, &format!("ATTACH '{}' AS {name}; CREATE TABLE {name}.{name}(x)", path.display()));
    }
    connection
}

/// A transaction that is prepared in `a.db` and fails in a sibling is rolled back at once, also where an open cursor keeps
/// SQLite from calling again: else WRITE, and on the early path the log's tail, would be held by an idle connection.
#[test]
fn a_prepared_transaction_that_sqlite_has_undone_holds_nothing() {
    for (mode, attached) in [("auto", &["x"][..]), ("conservative", &["x"]), ("auto", &["x", "y"])] {
        let lab = Lab::new();
        let connection = with_journals(&lab, attached);
        support::run(&connection, &format!("PRAGMA parallel_wal_mode={mode}"));
        let other = lab.open("a.db");
        support::run(&other, "SELECT * FROM t");

        let mut cursor = connection.prepare("SELECT x FROM t").unwrap();
        let mut rows = cursor.query([]).unwrap();
        assert!(rows.next().unwrap().is_some());
        support::run(&connection, "BEGIN; INSERT INTO t VALUES(77)");
        for name in attached {
            support::run(&connection, &format!("INSERT INTO {name} VALUES(77)"));
        }
        lab.base_fails("x.db: write", ffi::SQLITE_FULL);
        let code = support::code_of(&connection, "COMMIT");
        lab.base_works();
        assert_eq!(code, ffi::SQLITE_FULL, "{mode}, {attached:?}");

        // The other one in a thread: a hang shall be a failure.
        let (tell, told) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let code = support::code_of(&other, "INSERT INTO t VALUES(4)");
            tell.send((code, support::text(&other, "SELECT x FROM t"))).unwrap();
        });
        let told = told.recv_timeout(Duration::from_secs(20));
        assert_eq!(
            told.as_ref().map(|(code, rows)| (*code, rows.as_str())),
            Ok((0, "1 2 3 4")),
            "{mode}, {attached:?}"
        );
        assert_eq!(rows.next().unwrap().unwrap().get::<_, i64>(0), Ok(2), "the cursor goes on");
        drop(rows);
        drop(cursor);
        assert_eq!(support::text(&connection, "SELECT x FROM t"), "1 2 3 4");
        assert_eq!(support::text(&connection, "SELECT count(*) FROM x"), "0");
    }
}

/// Two databases of pwal in one transaction: what fails in either, a write or a sync, takes both back, for everybody.
#[test]
fn a_commit_of_two_databases_that_fails_in_one_is_in_none() {
    for (mode, synchronous, call, failing, done) in [
        ("auto", "FULL", Call::Sync, "a", false),
        ("auto", "FULL", Call::Sync, "b", false),
        ("auto", "FULL", Call::Write, "a", false),
        ("auto", "FULL", Call::Write, "b", false),
        ("auto", "FULL", Call::Write, "b", true),
        ("auto", "NORMAL", Call::Write, "a", true),
        ("auto", "NORMAL", Call::Write, "b", false),
        ("auto", "NORMAL", Call::Write, "b", true),
        // The first is written and synced when the second one is prepared.
        ("conservative", "FULL", Call::Write, "b", false),
        ("conservative", "FULL", Call::Sync, "b", false),
    ] {
        let what = format!("{mode}, {synchronous}, {call:?} of {failing}, {done}");
        let lab = Lab::new();
        let connection = lab.wal();
        support::run(
            &connection,
            &format!("ATTACH '{}' AS b; PRAGMA b.journal_mode=WAL", lab.scratch.file("b.db").display()),
        );
        support::run(
            &connection,
            "CREATE TABLE t(x); CREATE TABLE b.u(x); INSERT INTO t VALUES(0); INSERT INTO u VALUES(0)",
        );
        support::run(
            &connection,
            &format!(
                "PRAGMA main.synchronous={synchronous}; PRAGMA b.synchronous={synchronous};
                 PRAGMA main.parallel_wal_mode={mode}; PRAGMA b.parallel_wal_mode={mode}"
            ),
        );
        let others = ["a.db", "b.db"].map(|name| lab.open(name));
        let read = |connections: &[Connection; 2]| {
            ["SELECT x FROM t", "SELECT x FROM u"]
                .iter()
                .zip(connections)
                .map(|(sql, connection)| support::text(connection, sql))
                .collect::<Vec<_>>()
        };
        assert_eq!(read(&others), ["0", "0"]);
        let log = status(&others[usize::from(failing == "b")], "log_id").as_str().unwrap().to_owned();
        let once = Once::default();
        lab.hook(move |moment| {
            let hit = moment.call == call && moment.name.starts_with(&log) && moment.done == done;
            if hit && once.first() { Err(eio()) } else { Ok(()) }
        });
        let code = support::code_of(&connection, "BEGIN; INSERT INTO t VALUES(1); INSERT INTO u VALUES(1); COMMIT");
        lab.unhook();
        assert_eq!(code & 0xff, ffi::SQLITE_IOERR, "{what}");
        assert!(connection.is_autocommit(), "{what}");
        assert_eq!(read(&others), ["0", "0"], "{what}: live");
        let crashed = ["a.db", "b.db"].map(|name| copy_crashed(&lab.scratch.file(name)));
        assert_eq!(read(&crashed.each_ref().map(|crashed| crashed.open())), ["0", "0"], "{what}: killed");
        drop(connection);
        drop(others);
        let reopened = ["a.db", "b.db"].map(|name| lab.open(name));
        assert_eq!(read(&reopened), ["0", "0"], "{what}: closed");
        support::run(&reopened[0], "INSERT INTO t VALUES(2)");
        support::run(&reopened[1], "INSERT INTO u VALUES(2)");
        assert_eq!(read(&reopened), ["0 2", "0 2"], "{what}");
    }
}

/// Commits over two databases, in either order, beside commits in one, checkpoints, and changes of the mode: nobody waits
/// for ever, and each transaction is in both or in none.
#[test]
#[expect(clippy::too_many_lines, reason = "a scene, from top to bottom")]
fn threads_over_two_databases_beside_threads_over_one() {
    let seconds = Duration::from_secs(support::env_number("PWAL_TEST_SECONDS", 3));
    let _watchdog = support::Watchdog::new("two databases in threads", seconds + Duration::from_secs(60));
    let lab = Lab::new();
    let open = |first: &str, second: &str| {
        let connection = lab.open(&format!("{first}.db"));
        support::run(
            &connection,
            &format!(
                "ATTACH '{}' AS other; PRAGMA main.journal_mode=WAL; PRAGMA other.journal_mode=WAL",
                lab.scratch.file(&format!("{second}.db")).display()
            ),
        );
        connection.busy_timeout(Duration::from_millis(20)).unwrap();
        connection
    };
    let setup = open("a", "b");
    support::run(&setup, "CREATE TABLE t(w, n); CREATE TABLE other.u(w, n)");
    let until = std::time::Instant::now() + seconds;
    let goes_on = || std::time::Instant::now() < until;
    let acknowledged: Vec<(i64, i64)> = std::thread::scope(|scope| {
        let (open, goes_on, lab) = (&open, &goes_on, &lab);
        let both = (0..4_i64).map(|writer| {
            scope.spawn(move || {
                let connection = if writer % 2 == 0 { open("a", "b") } else { open("b", "a") };
                support::run(
                    &connection,
                    if writer < 2 { "PRAGMA synchronous=FULL" } else { "PRAGMA synchronous=NORMAL" },
                );
                let mut n = 0;
                while goes_on() {
                    let sql = format!(
                        "BEGIN; INSERT INTO t VALUES({writer},{n}); INSERT INTO u VALUES({writer},{n}); COMMIT"
                    );
                    match support::code_of(&connection, &sql) {
                        0 => n += 1,
                        code => {
                            assert_eq!(code & 0xff, ffi::SQLITE_BUSY);
                            if !connection.is_autocommit() {
                                support::run(&connection, "ROLLBACK");
                            }
                        }
                    }
                }
                (writer, n)
            })
        });
        let one = [("a", "t"), ("b", "u")].map(|(name, table)| {
            scope.spawn(move || {
                let connection = lab.open(&format!("{name}.db"));
                connection.busy_timeout(Duration::from_secs(5)).unwrap();
                let modes = ["auto", "conservative"];
                for n in 0.. {
                    if !goes_on() {
                        break;
                    }
                    support::run(&connection, &format!("INSERT INTO {table} VALUES(100, {n})"));
                    if n % 16 == 0 {
                        support::code_of(&connection, "PRAGMA wal_checkpoint(TRUNCATE)");
                        support::run(&connection, &format!("PRAGMA parallel_wal_mode={}", modes[n / 16 % 2]));
                    }
                }
                (100, 0)
            })
        });
        both.collect::<Vec<_>>().into_iter().chain(one).map(|thread| thread.join().unwrap()).collect()
    });
    for (writer, n) in acknowledged.iter().filter(|(writer, _)| *writer < 100) {
        for table in ["t", "u"] {
            let sql = format!("SELECT count(*) FROM {table} WHERE w={writer}");
            assert_eq!(support::number(&setup, &sql), *n, "writer {writer}, {table}: {acknowledged:?}");
        }
    }
    println!("{acknowledged:?}");
}
