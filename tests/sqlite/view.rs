//! A real SQLite over views: it must never recover, never write the database file, and see what stock's own WAL
//! would show.

mod harness;

use harness::Database;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rusqlite::{Connection, ErrorCode, ffi};

const SCHEMA: &str = "CREATE TABLE t(a INTEGER PRIMARY KEY, b); CREATE INDEX i ON t(b);";

fn count(connection: &Connection) -> i64 {
    connection.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).unwrap()
}

fn data_version(connection: &Connection) -> i64 {
    connection.query_row("PRAGMA data_version", [], |row| row.get(0)).unwrap()
}

fn checkpoint(connection: &Connection, mode: &str) -> [i64; 3] {
    connection
        .query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |row| Ok([row.get(0)?, row.get(1)?, row.get(2)?]))
        .unwrap()
}

fn sound(connection: &Connection) {
    let answer: String = connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(answer, "ok");
}

fn code(result: rusqlite::Result<()>) -> i32 {
    match result {
        Ok(()) => 0,
        Err(rusqlite::Error::SqliteFailure(error, _)) => error.extended_code,
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn commits_are_seen_by_others_at_every_page_size() {
    for shift in 9..=16 {
        let database = Database::new(1 << shift, 1 << 20, SCHEMA);
        let (a, b) = (database.connect(), database.connect());
        for i in 0..20 {
            a.execute("INSERT INTO t(b) VALUES(zeroblob(?1))", [i * 100]).unwrap();
            assert_eq!((count(&a), count(&b)), (2 * i64::from(i) + 1, 2 * i64::from(i) + 1));
            b.execute("INSERT INTO t(b) VALUES(?1)", [i]).unwrap();
            assert_eq!((count(&a), count(&b)), (2 * i64::from(i) + 2, 2 * i64::from(i) + 2));
        }
        sound(&a);
        database.no_trouble();
    }
}

#[test]
fn the_cache_stays_while_nothing_foreign_happens() {
    let database = Database::new(4096, 1 << 20, SCHEMA);
    let (a, b) = (database.connect(), database.connect());
    count(&a);
    let version = data_version(&a);
    let moved = database.world(|world| world.headers_moved);
    for i in 0..50 {
        a.execute("INSERT INTO t(b) VALUES(?1)", [i]).unwrap();
        count(&a);
    }
    a.execute_batch("BEGIN; INSERT INTO t(b) VALUES(1); ROLLBACK;").unwrap();
    assert_eq!(data_version(&a), version);
    assert_eq!(database.world(|world| world.headers_moved), moved, "own commits need no second attempt");
    // A checkpoint and a drop of frames change nothing either.
    assert_eq!(checkpoint(&b, "PASSIVE")[0], 0);
    assert_eq!(count(&a), 50);
    assert_eq!(data_version(&a), version);
    b.execute("INSERT INTO t(b) VALUES(1)", []).unwrap();
    assert_ne!(data_version(&a), version);
    database.no_trouble();
}

#[test]
fn a_snapshot_stands_still() {
    let database = Database::new(1024, 1 << 20, SCHEMA);
    let (a, b) = (database.connect(), database.connect());
    b.execute_batch("INSERT INTO t(b) VALUES(1); BEGIN;").unwrap();
    assert_eq!(count(&b), 1);
    for i in 0..30 {
        a.execute("INSERT INTO t(b) VALUES(zeroblob(?1))", [i * 50]).unwrap();
        assert_eq!(count(&b), 1);
    }
    // Held back by the reader, in every mode; nothing is written by SQLite itself.
    let max_frame = checkpoint(&a, "PASSIVE")[1];
    assert_eq!(checkpoint(&a, "PASSIVE"), [0, max_frame, 2], "the two pages of the commit that the reader sees");
    for mode in ["FULL", "RESTART", "TRUNCATE"] {
        assert_eq!(checkpoint(&a, mode)[0], 1, "{mode}");
    }
    assert_eq!(code(b.execute_batch("INSERT INTO t(b) VALUES(2)")), ffi::SQLITE_BUSY_SNAPSHOT);
    assert_eq!(count(&b), 1);
    b.execute_batch("COMMIT").unwrap();
    assert_eq!(count(&b), 31);
    for mode in ["PASSIVE", "FULL", "RESTART"] {
        let [busy, log, done] = checkpoint(&a, mode);
        assert!(busy == 0 && log == done && log > 0, "{mode}");
    }
    assert_eq!(checkpoint(&a, "TRUNCATE"), [0, 0, 0]);
    assert_eq!((count(&a), count(&b)), (31, 31));
    a.execute("INSERT INTO t(b) VALUES(1)", []).unwrap();
    assert_eq!((count(&a), count(&b)), (32, 32));
    sound(&b);
    database.no_trouble();
}

#[test]
fn autocheckpoint_keeps_the_view_short() {
    let database = Database::new(512, 1 << 20, SCHEMA);
    let connection = database.connect();
    for i in 0..1500 {
        connection.execute("INSERT INTO t(b) VALUES(?1)", [i]).unwrap();
    }
    // One look at a foreign commit renumbers.
    database.connect().execute("INSERT INTO t(b) VALUES(1)", []).unwrap();
    assert_eq!(count(&connection), 1501);
    assert!(checkpoint(&connection, "PASSIVE")[1] < 1100);
    sound(&connection);
    database.no_trouble();
}

#[test]
fn large_transactions_spill_and_overwrite() {
    let database = Database::new(512, 100 * 512, SCHEMA);
    let connection = database.connect();
    connection.execute_batch("PRAGMA cache_size=10").unwrap();
    let insert = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x+1 FROM n WHERE x<2000)
                  INSERT INTO t(b) SELECT printf('%d-%d', x*7919%1000, x) || hex(zeroblob(100)) FROM n;";
    for commit in [true, false, true] {
        connection.execute_batch("BEGIN").unwrap();
        connection.execute_batch(insert).unwrap();
        connection.execute_batch("UPDATE t SET b=b||'x' WHERE a%3=0; SAVEPOINT s; DELETE FROM t WHERE a%2=0;").unwrap();
        sound(&connection);
        connection.execute_batch("ROLLBACK TO s; INSERT INTO t(b) VALUES('after');").unwrap();
        sound(&connection);
        connection.execute_batch(if commit { "COMMIT" } else { "ROLLBACK" }).unwrap();
        sound(&connection);
    }
    assert_eq!(count(&connection), 4002);
    assert_eq!(count(&database.connect()), 4002);
    assert!(database.world(|world| world.spilled) > 0);
    sound(&database.connect());
    database.no_trouble();
}

#[test]
fn a_commit_that_fails_leaves_nothing() {
    let database = Database::new(1024, 1 << 20, SCHEMA);
    let (a, b) = (database.connect(), database.connect());
    a.execute("INSERT INTO t(b) VALUES(0)", []).unwrap();
    for prepare in [true, false] {
        for failure in [ffi::SQLITE_FULL, ffi::SQLITE_IOERR_WRITE, ffi::SQLITE_BUSY_SNAPSHOT] {
            if !prepare && failure == ffi::SQLITE_BUSY_SNAPSHOT {
                continue;
            }
            for sql in ["INSERT INTO t(b) VALUES(1)", "BEGIN; INSERT INTO t(b) VALUES(1); COMMIT"] {
                database.world(|world| {
                    if prepare {
                        world.fail_prepare = Some(failure);
                    } else {
                        world.fail_publish = Some(failure);
                    }
                });
                let commits = database.commits();
                assert_eq!(code(a.execute_batch(sql)), failure);
                if !a.is_autocommit() {
                    a.execute_batch("ROLLBACK").unwrap();
                }
                assert_eq!(database.commits(), commits);
                assert_eq!((count(&a), count(&b)), (1, 1), "{failure} {sql}");
                // The next one goes through.
                a.execute_batch("UPDATE t SET b=b+1").unwrap();
                assert_eq!((count(&a), count(&b)), (1, 1));
                sound(&a);
            }
        }
    }
    database.no_trouble();
}

#[test]
fn a_commit_that_was_busy_is_tried_again() {
    let database = Database::new(512, 20 * 512, SCHEMA);
    let connection = database.connect();
    connection.execute_batch("PRAGMA cache_size=5; BEGIN").unwrap();
    for i in 0..200 {
        connection.execute("INSERT INTO t(b) VALUES(?1 || hex(zeroblob(90)))", [i * 7919 % 200]).unwrap();
    }
    for _ in 0..3 {
        database.world(|world| world.fail_prepare = Some(ffi::SQLITE_BUSY));
        let busy = connection.execute_batch("COMMIT").unwrap_err();
        assert_eq!(busy.sqlite_error_code(), Some(ErrorCode::DatabaseBusy));
        assert!(!connection.is_autocommit());
        assert_eq!(count(&database.connect()), 0);
        connection.execute_batch("UPDATE t SET b=b||'y' WHERE a%5=0; DELETE FROM t WHERE a%50=3").unwrap();
    }
    connection.execute_batch("COMMIT").unwrap();
    assert_eq!(count(&database.connect()), 196);
    sound(&connection);
    sound(&database.connect());
    database.no_trouble();
}

#[test]
fn attached_databases_commit_or_fail_together() {
    let (one, two) = (Database::new(1024, 1 << 20, SCHEMA), Database::new(4096, 1 << 20, SCHEMA));
    let connection = one.connect();
    connection.execute("ATTACH ?1 AS two", [two.name()]).unwrap();
    let both = "BEGIN; INSERT INTO main.t(b) VALUES(1); INSERT INTO two.t(b) VALUES(1); COMMIT";
    let counts = |connection: &Connection| -> (i64, i64) {
        connection
            .query_row("SELECT (SELECT count(*) FROM main.t), (SELECT count(*) FROM two.t)", [], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })
            .unwrap()
    };
    for round in 1..5 {
        connection.execute_batch(both).unwrap();
        assert_eq!(counts(&connection), (round, round));
        assert_eq!((count(&one.connect()), count(&two.connect())), (round, round));
        for failing in [&one, &two] {
            failing.world(|world| world.fail_prepare = Some(ffi::SQLITE_FULL));
            assert_eq!(code(connection.execute_batch(both)), ffi::SQLITE_FULL);
            if !connection.is_autocommit() {
                connection.execute_batch("ROLLBACK").unwrap();
            }
            assert_eq!(counts(&connection), (round, round));
            assert_eq!((count(&one.connect()), count(&two.connect())), (round, round));
        }
    }
    one.no_trouble();
    two.no_trouble();
}

/// SQLite saves the positions of open cursors before it undoes, and reads pages for that which it had spilled.
#[test]
fn an_open_cursor_survives_a_commit_that_fails() {
    for (order, own) in [("a", false), ("b", false), ("b", true)] {
        let (one, two) = (Database::new(512, 4096, SCHEMA), Database::new(512, 4096, SCHEMA));
        let connection = one.connect();
        connection.execute("ATTACH ?1 AS two", [two.name()]).unwrap();
        connection.execute_batch("CREATE TABLE main.u(x); PRAGMA main.cache_size=5").unwrap();
        connection
            .execute_batch(
                "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x+1 FROM n WHERE x<80)
                 INSERT INTO main.t SELECT x, printf('%03d', x) || hex(zeroblob(700)) FROM n",
            )
            .unwrap();
        let mut reader = connection.prepare(&format!("SELECT a, substr(b,1,3) FROM main.t ORDER BY {order}")).unwrap();
        let mut rows = reader.query([]).unwrap();
        let next = |rows: &mut rusqlite::Rows<'_>| -> Option<(i64, String)> {
            rows.next().unwrap().map(|row| (row.get(0).unwrap(), row.get(1).unwrap()))
        };
        for a in 1..=10 {
            assert_eq!(next(&mut rows), Some((a, format!("{a:03}"))));
        }
        connection
            .execute_batch(
                "BEGIN; UPDATE main.t SET b=substr(b,1,3)||'x'||substr(b,4) WHERE a>3; DELETE FROM main.t WHERE a%7=0;
                 UPDATE main.t SET b=b||'y'; INSERT INTO two.t(b) VALUES(1);",
            )
            .unwrap();
        // The cursor stands on a row of this transaction, whose overflow pages are spilled.
        let here = next(&mut rows).unwrap().0;
        connection
            .execute_batch(
                "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x+1 FROM n WHERE x<80)
                 INSERT INTO main.u SELECT hex(zeroblob(300)) FROM n",
            )
            .unwrap();
        let failing = if own { &one } else { &two };
        failing.world(|world| world.fail_prepare = Some(ffi::SQLITE_FULL));
        assert_eq!(code(connection.execute_batch("COMMIT")), ffi::SQLITE_FULL);
        for a in here + 1..=80 {
            assert_eq!(next(&mut rows), Some((a, format!("{a:03}"))), "{order}");
        }
        assert_eq!(next(&mut rows), None);
        sound(&connection);
        one.no_trouble();
        two.no_trouble();
    }
}

/// The same statements on two connections over views and on two connections over stock's own WAL: the same
/// rows and the same codes.
#[test]
fn random_statements_do_what_they_do_on_stock() {
    for seed in 0..25 {
        println!("seed {seed}");
        let mut random = StdRng::seed_from_u64(seed);
        let page_bytes = [512, 1024, 4096][random.random_range(0..3)];
        let database = Database::new(page_bytes, page_bytes * random.random_range(1..50), SCHEMA);
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("stock.db");
        Connection::open(&path)
            .unwrap()
            .execute_batch(&format!("PRAGMA page_size={page_bytes}; PRAGMA journal_mode=WAL; {SCHEMA}"))
            .unwrap();
        let pairs: Vec<[Connection; 2]> = (0..2)
            .map(|_| {
                let stock = Connection::open(&path).unwrap();
                stock.busy_timeout(std::time::Duration::ZERO).unwrap();
                [database.connect(), stock]
            })
            .collect();
        for pair in &pairs {
            let cache = random.random_range(3..30);
            for connection in pair {
                connection.execute_batch(&format!("PRAGMA cache_size={cache}; PRAGMA synchronous=OFF")).unwrap();
            }
        }
        for step in 0..150 {
            let sql = statement(&mut random);
            let pair = &pairs[random.random_range(0..2)];
            let codes = [0, 1].map(|i| code(pair[i].execute_batch(&sql)));
            assert_eq!(codes[0], codes[1], "step {step}: {sql}");
            let states = [0, 1].map(|i| pair[i].is_autocommit());
            assert_eq!(states[0], states[1], "step {step}: {sql}");
            if step % 5 == 0 {
                assert_eq!(rows(&pair[0]), rows(&pair[1]), "step {step}: {sql}");
            }
        }
        for pair in &pairs {
            let _ = [0, 1].map(|i| pair[i].execute_batch("ROLLBACK"));
            assert_eq!(rows(&pair[0]), rows(&pair[1]));
            sound(&pair[0]);
        }
        database.no_trouble();
    }
}

fn statement(random: &mut StdRng) -> String {
    let (n, size, modulus) = (random.random_range(1..400), random.random_range(0..2000), random.random_range(2..9));
    let many = random.random_range(1..150);
    match random.random_range(0..22) {
        0..4 => format!("INSERT INTO t(b) VALUES({n} || hex(zeroblob({size})))"),
        4..6 => format!(
            "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x+1 FROM n WHERE x<{many})
             INSERT INTO t(b) SELECT (x*{n}%97) || hex(zeroblob({size}%200)) FROM n"
        ),
        6..8 => format!("UPDATE t SET b=b||{n} WHERE a%{modulus}=0"),
        8 => format!("DELETE FROM t WHERE a%{modulus}=0"),
        9..11 => "BEGIN".into(),
        11 => "BEGIN IMMEDIATE".into(),
        12..15 => "COMMIT".into(),
        15 => "ROLLBACK".into(),
        16 => format!("SAVEPOINT s{}", modulus % 3),
        17 => format!("ROLLBACK TO s{}", modulus % 3),
        18 => format!("RELEASE s{}", modulus % 3),
        19 => format!("CREATE TABLE IF NOT EXISTS u{modulus}(x)"),
        20 => format!("DROP TABLE IF EXISTS u{modulus}"),
        _ => match modulus {
            2 => "VACUUM".into(),
            3 => "PRAGMA wal_checkpoint(PASSIVE)".into(),
            _ => format!("DELETE FROM t WHERE a>{n}"),
        },
    }
}

fn rows(connection: &Connection) -> Vec<String> {
    let mut all = Vec::new();
    for sql in ["SELECT a || '=' || b FROM t ORDER BY a", "SELECT b FROM t ORDER BY b", "SELECT sql FROM sqlite_schema"]
    {
        let mut statement = connection.prepare(sql).unwrap();
        let found = statement.query_map([], |row| row.get::<_, Option<String>>(0)).unwrap();
        all.extend(found.map(|row| row.unwrap().unwrap_or_default()));
    }
    all
}
