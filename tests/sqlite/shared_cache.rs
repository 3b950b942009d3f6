//! Connections that share one cache (`cache=shared`): one file object, one view, several connections, whose opener may be
//! gone.

use rusqlite::{Connection, OpenFlags, ffi};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;
use support::lab::{Call, Lab, Once, copy_crashed, eio, status};
use support::shim::{Shim, Verdict};

fn open(lab: &Lab, name: &str) -> Connection {
    let flags = support::flags() | OpenFlags::SQLITE_OPEN_SHARED_CACHE;
    let connection = support::try_open(&lab.scratch.file(name), flags, &lab.vfs).unwrap();
    connection.busy_timeout(Duration::ZERO).unwrap();
    connection
}

fn attach(lab: &Lab, connection: &Connection, schema: &str) {
    let path = lab.scratch.file(&format!("{schema}.db"));
    support::run(connection, &format!("ATTACH '{}' AS {schema}", path.display()));
}

/// Each of the two databases was opened by another connection than the one that writes both.
#[test]
fn a_transaction_over_databases_that_others_opened_is_in_both_or_in_none() {
    for call in [Call::Write, Call::Sync] {
        for failing in ["a", "b"] {
            let lab = Lab::new();
            let openers = ["a.db", "b.db"].map(|name| open(&lab, name));
            for (connection, table) in openers.iter().zip(["t", "u"]) {
                support::run(
                    connection,
                    &format!(
                        "PRAGMA journal_mode=WAL; PRAGMA wal_autocheckpoint=0; CREATE TABLE {table}(x);
                         INSERT INTO {table} VALUES(0)"
                    ),
                );
            }
            let log = status(&openers[usize::from(failing == "b")], "log_id").as_str().unwrap().to_owned();
            let writer = open(&lab, "a.db");
            attach(&lab, &writer, "b");
            support::run(&writer, "PRAGMA synchronous=FULL; PRAGMA b.synchronous=FULL; SELECT * FROM t, u");
            drop(openers);
            let others = ["a.db", "b.db"].map(|name| lab.open(name));
            let read = || {
                ["SELECT x FROM t", "SELECT x FROM u"]
                    .iter()
                    .zip(&others)
                    .map(|(sql, connection)| support::text(connection, sql))
                    .collect::<Vec<_>>()
            };
            assert_eq!(read(), ["0", "0"]);
            let once = Once::default();
            lab.hook(move |moment| {
                let hit = moment.call == call && moment.name.starts_with(&log) && !moment.done;
                if hit && once.first() { Err(eio()) } else { Ok(()) }
            });
            let code = support::code_of(&writer, "BEGIN; INSERT INTO t VALUES(1); INSERT INTO u VALUES(1); COMMIT");
            lab.unhook();
            assert_eq!(code & 0xff, ffi::SQLITE_IOERR, "{call:?} of {failing}");
            assert_eq!(read(), ["0", "0"], "{call:?} of {failing}");
            for name in ["a.db", "b.db"] {
                let crashed = copy_crashed(&lab.scratch.file(name));
                let table = if name == "a.db" { "t" } else { "u" };
                assert_eq!(support::text(&crashed.open(), &format!("SELECT x FROM {table}")), "0");
            }
        }
    }
}

/// A flush fails under two connections of one cache, beside a private one.
#[test]
fn a_broken_disk_fails_all_of_them_and_what_was_acknowledged_stays() {
    for (call, synchronous) in [(Call::Sync, "FULL"), (Call::Write, "FULL"), (Call::Write, "NORMAL")] {
        let what = format!("{call:?}, {synchronous}");
        let lab = Lab::new();
        let (one, two) = (open(&lab, "a.db"), open(&lab, "a.db"));
        support::run(&one, "PRAGMA journal_mode=WAL; PRAGMA wal_autocheckpoint=0; CREATE TABLE t(x)");
        support::run(&one, &format!("PRAGMA synchronous={synchronous}"));
        support::run(&two, &format!("PRAGMA synchronous={synchronous}; INSERT INTO t VALUES(1)"));
        support::run(&one, "INSERT INTO t VALUES(2)");
        let private = lab.open("a.db");
        assert_eq!(support::text(&private, "SELECT x FROM t"), "1 2");
        lab.hook(move |moment| if moment.call == call { Err(eio()) } else { Ok(()) });
        let mut cursor = two.prepare("SELECT x FROM t").unwrap();
        let mut rows = cursor.query([]).unwrap();
        rows.next().unwrap();
        assert_eq!(support::code_of(&two, "INSERT INTO t VALUES(3)") & 0xff, ffi::SQLITE_IOERR, "{what}");
        drop(rows);
        drop(cursor);
        for connection in [&one, &two, &private] {
            let code = support::code_of(connection, "INSERT INTO t VALUES(4)");
            assert!([ffi::SQLITE_IOERR, ffi::SQLITE_READONLY].contains(&(code & 0xff)), "{what}: {code}");
            for _ in 0..2 {
                match support::rows(connection, "SELECT x FROM t") {
                    Ok(rows) => assert_eq!(rows.join(" "), "1 2", "{what}"),
                    Err(error) => assert_eq!(support::code(&error) & 0xff, ffi::SQLITE_IOERR, "{what}"),
                }
            }
        }
        lab.unhook();
        drop(one);
        assert_eq!(support::code_of(&two, "INSERT INTO t VALUES(5)") & 0xff, ffi::SQLITE_IOERR, "{what}");
        drop((two, private));
        let again = open(&lab, "a.db");
        assert_eq!(support::text(&again, "SELECT x FROM t"), "1 2", "{what}");
        support::run(&again, "INSERT INTO t VALUES(6)");
        support::assert_integrity(&again);
    }
}

/// A database of another VFS takes the transaction back: at once where the connection that opened the cache commits; where
/// another does, nothing can be asked of SQLite, and the next call on the file frees what was held.
#[test]
fn what_another_vfs_takes_back() {
    for by_opener in [true, false] {
        let lab = Lab::new();
        let other_vfs = format!("{}-beside", lab.vfs);
        let fails = Arc::new(AtomicBool::new(false));
        let failing = Arc::clone(&fails);
        Shim::register(&other_vfs, support::STOCK, false).hook(move |moment| {
            let hit = moment.text.starts_with("x.db: write") && failing.load(SeqCst);
            if hit { Verdict::Answer(ffi::SQLITE_FULL) } else { Verdict::Pass }
        });
        let (opener, second) = (open(&lab, "a.db"), open(&lab, "a.db"));
        support::run(&opener, "PRAGMA journal_mode=WAL; CREATE TABLE t(x); INSERT INTO t VALUES(1),(2)");
        let writer = if by_opener {
            opener
        } else {
            support::run(&second, "SELECT * FROM t");
            drop(opener);
            second
        };
        let path = lab.scratch.file("x.db");
        support::run(
            &writer,
            &format!("ATTACH 'file:{}?vfs={other_vfs}&cache=private' AS x; CREATE TABLE x.x(x)", path.display()),
        );
        let mut cursor = writer.prepare("SELECT x FROM t").unwrap();
        let mut rows = cursor.query([]).unwrap();
        rows.next().unwrap();
        support::run(&writer, "BEGIN; UPDATE t SET x=77 WHERE x=2; INSERT INTO x VALUES(1)");
        fails.store(true, SeqCst);
        assert_eq!(support::code_of(&writer, "COMMIT"), ffi::SQLITE_FULL);
        fails.store(false, SeqCst);
        let other = lab.open("a.db");
        if by_opener {
            support::run(&other, "INSERT INTO t VALUES(3)");
        }
        drop(rows);
        drop(cursor);
        support::run(&other, "INSERT INTO t VALUES(4)");
        let expected = if by_opener { "1 2 3 4" } else { "1 2 4" };
        assert_eq!(support::text(&writer, "SELECT x FROM t"), expected);
        assert_eq!(support::text(&other, "SELECT x FROM t"), expected);
    }
}
