//! Transactions that allocate and free pages beside each other.

use super::*;
use rusqlite::backup::{Backup, StepResult};

pub(super) const TABLES: &str = "CREATE TABLE x(id INTEGER PRIMARY KEY, v); CREATE TABLE y(id INTEGER PRIMARY KEY, v);
    CREATE TABLE z(id INTEGER PRIMARY KEY, v); INSERT INTO x VALUES(1, 1); INSERT INTO y VALUES(1, 1)";

/// Both allocate beside each other until they get pages of their own: leases are for a second.
pub(super) fn warm(a: &Connection, b: &Connection) {
    for _ in 0..50 {
        if round(
            a,
            b,
            "UPDATE x SET v=zeroblob(20000 - length(v) % 20000)",
            "UPDATE y SET v=zeroblob(20000 - length(v) % 20000)",
        ) {
            return;
        }
    }
    panic!("two transactions that allocate conflict each time");
}

/// One transaction of each, which are open together; whether both have committed.
fn round(a: &Connection, b: &Connection, of_a: &str, of_b: &str) -> bool {
    run(a, &format!("BEGIN; {of_a}"));
    run(b, &format!("BEGIN; {of_b}"));
    let codes = (commit(a), commit(b));
    assert!(matches!(codes, (0, 0 | SNAPSHOT)), "{codes:?}");
    codes.1 == 0
}

fn pages(connection: &Connection) -> i64 {
    number(connection, "PRAGMA page_count")
}

/// A growing transaction and one that does not grow never met; and what two allocate are different pages, once they are known to.
#[test]
fn transactions_grow_beside_each_other() {
    let scene = scene(ROWS);
    run(&scene.serial, TABLES);
    let (a, b) = scene.pair();
    assert!(round(&a, &b, "INSERT INTO u(pad) VALUES(zeroblob(20000))", "UPDATE t SET n=1 WHERE id=10"));
    support::assert_integrity(&scene.serial);
    warm(&a, &b);
    let composed = counted(&a, "composed");
    assert!(composed > 0);
    // On a machine that stands still for a second in between, the next two meet again.
    let sql = |table: &str| format!("INSERT INTO {table}(v) VALUES(zeroblob(20000))");
    let met = (0..20).filter(|_| !round(&a, &b, &sql("x"), &sql("y"))).count();
    assert!(met <= 5, "{met} of 20 conflict");
    assert!(counted(&a, "composed") > composed);
    for connection in [&a, &b, &scene.serial] {
        assert_eq!(number(connection, "SELECT count(*) FROM x"), 21);
        support::assert_integrity(connection);
    }
    for connection in [a, b, scene.serial] {
        support::close(connection);
    }
    support::assert_plain(&scene.path);
    let stock = support::open_stock(&scene.path);
    support::assert_integrity(&stock);
    assert_eq!(number(&stock, "SELECT count(*) FROM y"), 21 - i64::try_from(met).expect("a count"));
}

/// The size that a commit without growth publishes is that of those before it, also in the file.
#[test]
fn one_that_does_not_grow_keeps_the_size() {
    let scene = scene(ROWS);
    run(&scene.serial, TABLES);
    let (a, b) = scene.pair();
    for is_warm in [false, true] {
        if is_warm {
            warm(&a, &b);
        }
        assert!(round(&a, &b, "INSERT INTO x(v) VALUES(zeroblob(90000))", "UPDATE t SET n=2 WHERE id=10"));
        assert!(round(&b, &a, "UPDATE t SET n=3 WHERE id=10", "UPDATE t SET n=2 WHERE id=20000"));
        support::assert_integrity(&b);
    }
    for connection in [a, b, scene.serial] {
        support::close(connection);
    }
    support::assert_plain(&scene.path);
}

/// What one frees the other takes: the file does not grow with each round.
#[test]
fn freed_pages_are_used_again() {
    let scene = scene(TABLES);
    let (a, b) = scene.pair();
    warm(&a, &b);
    let mut largest = 0;
    for turn in 0..60 {
        let (fills, empties) = if turn % 2 == 0 { ("x", "y") } else { ("y", "x") };
        let insert = format!("INSERT INTO {fills}(v) VALUES(zeroblob(100000))");
        let _either = round(&a, &b, &insert, &format!("DELETE FROM {empties} WHERE id > 1"));
        if turn == 20 {
            largest = pages(&scene.serial);
        }
    }
    support::assert_integrity(&scene.serial);
    let last = pages(&scene.serial);
    assert!(last <= 2 * largest + 64, "{largest} pages after 20 turns, {last} after 60");
}

/// In the transaction the database is whole, though it has a freelist of its own.
#[test]
fn a_database_with_leases_is_whole_in_the_transaction_too() {
    let scene = scene(ROWS);
    run(&scene.serial, TABLES);
    // Free pages on several trunks.
    run(&scene.serial, "INSERT INTO z(v) SELECT zeroblob(4000) FROM t; DELETE FROM z");
    let (a, b) = scene.pair();
    warm(&a, &b);
    for sql in ["", "INSERT INTO x(v) VALUES(zeroblob(30000))", "DELETE FROM x WHERE id > 1"] {
        run(&a, &format!("BEGIN; {sql}"));
        assert_eq!(text(&a, "PRAGMA integrity_check"), "ok", "inside, after {sql}");
        assert!(pages(&a) > pages(&scene.serial), "it has leases");
        if sql.is_empty() {
            // Not of one that has written (`sqlite3_backup_step`).
            let mut copy = Connection::open_in_memory().expect("a database in memory");
            let step = Backup::new(&a, &mut copy).and_then(|backup| backup.step(-1)).expect("a backup");
            assert_eq!(step, StepResult::Done);
            support::assert_integrity(&copy);
            assert_eq!(number(&copy, "SELECT count(*) FROM x"), number(&a, "SELECT count(*) FROM x"));
        }
        let file = scene.path.with_file_name("copy.db");
        assert_eq!(code_of(&a, &format!("VACUUM INTO '{}'", file.display())), ffi::SQLITE_ERROR, "SQLite does not");
        run(&a, if sql.is_empty() { "INSERT INTO x(v) VALUES(1); COMMIT" } else { "ROLLBACK" });
        assert_eq!(text(&a, "PRAGMA integrity_check"), "ok", "outside, after {sql}");
        assert_eq!(pages(&a), pages(&scene.serial), "outside");
        run(&a, &format!("VACUUM INTO '{}'", file.display()));
        support::assert_integrity(&support::open_stock(&file));
        std::fs::remove_file(file).expect("the copy");
    }
}

/// A trunk that only one connection was shown is another one's page by the time of its commit.
#[test]
fn a_trunk_of_its_own_is_not_published() {
    let scene = scene(&format!(
        "{TABLES}; CREATE TABLE low(v); CREATE TABLE filler(v); CREATE TABLE high(v); INSERT INTO low VALUES(zeroblob(3000));
         WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 40) INSERT INTO filler SELECT zeroblob(3000) FROM c;
         INSERT INTO high VALUES(zeroblob(3000)), (zeroblob(3000))"
    ));
    let (a, b) = scene.pair();
    let (mut committed, mut rows) = (0, 2);
    for turn in 0..12 {
        warm(&a, &b);
        run(&scene.serial, "DELETE FROM filler");
        // It takes the nearest page of its own, the serial writer nearly all others from the other end.
        run(&a, "BEGIN; INSERT INTO low VALUES(zeroblob(3000))");
        let many = "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 34) INSERT INTO high SELECT zeroblob(3000) FROM c";
        run(&scene.serial, many);
        rows += 34;
        let code = commit(&a);
        assert!(matches!(code, 0 | SNAPSHOT), "{code}");
        committed += i32::from(code == 0);
        for connection in [&b, &scene.serial] {
            support::assert_integrity(connection);
            assert_eq!(number(connection, "SELECT sum(length(v)) FROM high"), 3000 * rows, "turn {turn}");
        }
        run(&scene.serial, "INSERT INTO filler SELECT zeroblob(3000) FROM high LIMIT 40");
    }
    assert!(committed > 0);
}

/// The same with pages of the file alone: what a connection has just leased.
#[test]
fn a_trunk_of_its_own_in_the_file_is_not_published() {
    let many = |rows: u32, into: &str| {
        format!(
            "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < {rows}) INSERT INTO {into} SELECT zeroblob(3000) FROM c"
        )
    };
    let mut committed = 0;
    for rows in [20, 30, 40, 50, 60, 70] {
        let scene = scene(&format!(
            "{TABLES}; CREATE TABLE low(v); CREATE TABLE filler(v); CREATE TABLE high(v); INSERT INTO low VALUES(zeroblob(3000)), (zeroblob(3000))"
        ));
        run(&scene.serial, &many(90, "filler"));
        let (a, b) = scene.pair();
        warm(&a, &b);
        run(&scene.serial, "DELETE FROM filler");
        let c = scene.concurrent();
        run(&c, "BEGIN; INSERT INTO low VALUES(zeroblob(3000))");
        run(&scene.serial, &many(rows, "high"));
        let code = commit(&c);
        assert!(matches!(code, 0 | SNAPSHOT), "{code}");
        committed += i32::from(code == 0);
        for connection in [&b, &scene.serial] {
            support::assert_integrity(connection);
            assert_eq!(number(connection, "SELECT sum(length(v)) FROM high"), 3000 * i64::from(rows));
        }
    }
    assert!(committed > 0);
}

/// SQLite goes on with its own freelist, as long as no others commit; a statement outside of BEGIN never has one.
#[test]
fn a_connection_goes_on_with_its_own_freelist() {
    let scene = scene(TABLES);
    let (a, b) = scene.pair();
    warm(&a, &b);
    for turn in 0..30 {
        run(&a, "BEGIN; INSERT INTO x(v) VALUES(zeroblob(9000)); COMMIT");
        match turn % 5 {
            1 => run(&a, "INSERT INTO z(v) VALUES(zeroblob(9000))"),
            2 => run(&a, "BEGIN IMMEDIATE; DELETE FROM z; COMMIT"),
            3 => run(
                &a,
                "BEGIN; DELETE FROM x WHERE id > 3; SAVEPOINT s; INSERT INTO z(v) VALUES(zeroblob(50000)); ROLLBACK TO s; COMMIT",
            ),
            4 => run(&b, "BEGIN; INSERT INTO y(v) VALUES(zeroblob(9000)); COMMIT"),
            _ => {}
        }
        if turn % 3 == 0 {
            for connection in [&a, &b, &scene.serial] {
                support::assert_integrity(connection);
            }
        }
    }
}

#[test]
fn a_cursor_stays_open_over_a_composed_commit() {
    let scene = scene(ROWS);
    run(&scene.serial, TABLES);
    let (a, b) = scene.pair();
    warm(&a, &b);
    run(&a, "BEGIN");
    let mut statement = a.prepare("SELECT id, n FROM t ORDER BY id").expect("a statement");
    let mut rows = statement.query([]).expect("a query");
    rows.next().expect("a row");
    run(&a, "INSERT INTO x(v) VALUES(zeroblob(16000))");
    run(&b, "BEGIN; INSERT INTO y(v) VALUES(zeroblob(16000)); COMMIT");
    assert_eq!(commit(&a), 0);
    // Its snapshot has a freelist of its own, and others are in between.
    for begin in ["", "BEGIN"] {
        assert_eq!(tried(&a, &format!("{begin}; INSERT INTO z(v) VALUES(zeroblob(16000))")), SNAPSHOT, "{begin}");
    }
    let mut left = 0;
    while rows.next().expect("a row").is_some() {
        left += 1;
    }
    assert_eq!(left, 1999);
    drop(rows);
    drop(statement);
    for connection in [&a, &b, &scene.serial] {
        assert_eq!(number(connection, "SELECT length(v) FROM x ORDER BY id DESC LIMIT 1"), 16000);
        support::assert_integrity(connection);
    }
    run(&a, "INSERT INTO z(v) VALUES(zeroblob(16000))");
    support::assert_integrity(&b);
}

#[test]
fn a_statement_outside_of_begin_with_a_cursor_of_inside_is_refused() {
    let scene = scene(ROWS);
    run(&scene.serial, TABLES);
    let (a, b) = scene.pair();
    warm(&a, &b);
    run(&a, "BEGIN");
    let mut statement = a.prepare("SELECT id FROM t").expect("a statement");
    let mut rows = statement.query([]).expect("a query");
    rows.next().expect("a row");
    run(&a, "COMMIT");
    assert_eq!(code_of(&a, "INSERT INTO z(v) VALUES(zeroblob(30000))"), SNAPSHOT);
    drop(rows);
    drop(statement);
    run(&a, "INSERT INTO z(v) VALUES(zeroblob(30000))");
    support::assert_integrity(&b);
}

#[test]
fn a_spilled_transaction_grows_beside_others() {
    let scene = scene(TABLES);
    run(&scene.serial, "PRAGMA parallel_wal_max_batch_bytes=65536");
    let (a, b) = scene.pair();
    warm(&a, &b);
    run(&a, "PRAGMA cache_size=5");
    let rows = "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 200)
        INSERT INTO x(v) SELECT zeroblob(2000) FROM c";
    let mut committed = 0;
    for turn in 0..6 {
        // The first one takes more than it has leased.
        run(&a, &format!("BEGIN; {rows}; DELETE FROM x WHERE id % 7 = {turn}"));
        patient(&b, 0);
        let other = code_of(&b, "BEGIN; INSERT INTO y(v) VALUES(zeroblob(9000)); COMMIT");
        assert!(matches!(other, 0 | ffi::SQLITE_BUSY), "{other}");
        let code = commit(&a);
        assert!(matches!(code, 0 | SNAPSHOT), "{code}");
        committed += i32::from(code == 0);
        if !b.is_autocommit() {
            run(&b, "ROLLBACK");
        }
        for connection in [&a, &b, &scene.serial] {
            support::assert_integrity(connection);
        }
    }
    assert!(committed > 0);
}

/// COMMIT is refused for a serial writer, and repeated: SQLite has its own images still.
#[test]
fn a_commit_that_is_repeated_is_composed_anew() {
    let scene = scene(TABLES);
    let (a, b) = scene.pair();
    warm(&a, &b);
    patient(&a, 0);
    run(&a, "BEGIN; INSERT INTO x(v) VALUES(zeroblob(30000))");
    run(&b, "BEGIN IMMEDIATE; INSERT INTO y(v) VALUES(zeroblob(30000))");
    assert_eq!(code_of(&a, "COMMIT"), ffi::SQLITE_BUSY);
    assert_eq!(text(&a, "PRAGMA integrity_check"), "ok");
    run(&a, "INSERT INTO x(v) VALUES(zeroblob(30000))");
    run(&b, "COMMIT");
    let code = commit(&a);
    assert!(matches!(code, 0 | SNAPSHOT), "{code}");
    for connection in [&a, &b, &scene.serial] {
        support::assert_integrity(connection);
    }
}

#[test]
fn a_new_schema_grows_beside_others() {
    let scene = scene(TABLES);
    let (a, b) = scene.pair();
    warm(&a, &b);
    let ddl = "CREATE TABLE new(x); CREATE INDEX of_new ON new(x); INSERT INTO new VALUES(zeroblob(20000))";
    // The one that changes the schema commits last: page 1 is its own, with the counters of both.
    let both = (0..20).any(|_| {
        run(&a, "BEGIN; INSERT INTO x(v) VALUES(zeroblob(20000))");
        run(&b, &format!("BEGIN; {ddl}"));
        (commit(&a), commit(&b)) == (0, 0)
    });
    assert!(both);
    support::assert_integrity(&scene.serial);
    assert_eq!(number(&scene.serial, "SELECT count(*) FROM new"), 1);
    run(&a, "BEGIN; INSERT INTO x(v) VALUES(zeroblob(20000))");
    run(&b, "DROP TABLE new");
    assert_eq!(commit(&a), SNAPSHOT);
    run(&a, "BEGIN; DROP TABLE z; INSERT INTO x(v) VALUES(zeroblob(20000)); COMMIT");
    for connection in [&a, &b, &scene.serial] {
        support::assert_integrity(connection);
    }
}

/// Pointer maps are shared: as before there were leases.
#[test]
fn with_pointer_maps_growth_conflicts() {
    for auto_vacuum in [1, 2] {
        let scene = scene(&format!("PRAGMA auto_vacuum={auto_vacuum}; VACUUM; {TABLES}"));
        let (a, b) = scene.pair();
        // Fewer than after which one takes its turn.
        for _ in 0..3 {
            assert!(!round(
                &a,
                &b,
                "INSERT INTO x(v) VALUES(zeroblob(20000))",
                "INSERT INTO y(v) VALUES(zeroblob(20000))"
            ));
            assert_eq!(pages(&a), pages(&scene.serial));
        }
        run(&a, "BEGIN; PRAGMA incremental_vacuum(5); DELETE FROM x; COMMIT");
        support::assert_integrity(&scene.serial);
    }
}

/// Leases lie beyond the end of the database, which is what `max_page_count` bounds.
#[test]
fn a_page_limit_counts_what_is_used() {
    let scene = scene(TABLES);
    let (a, b) = scene.pair();
    warm(&a, &b);
    let limit = pages(&scene.serial) + 10;
    run(&a, &format!("PRAGMA max_page_count={limit}"));
    run(&a, "BEGIN");
    assert_eq!(pages(&a), limit - 10, "no leases");
    run(&a, "INSERT INTO z(v) VALUES(zeroblob(30000)); COMMIT");
    assert_eq!(code_of(&a, &format!("BEGIN; INSERT INTO z(v) VALUES(zeroblob({limit} * 4096))")), ffi::SQLITE_FULL);
    if !a.is_autocommit() {
        run(&a, "ROLLBACK");
    }
    assert!(pages(&scene.serial) <= limit);
    support::assert_integrity(&a);
}

/// Others see by `data_version` that something was committed, once for each snapshot.
#[test]
fn data_version_changes_with_the_commits_of_others() {
    let scene = scene(TABLES);
    let (a, b) = scene.pair();
    warm(&a, &b);
    let version = |connection: &Connection| number(connection, "PRAGMA data_version");
    let (of_a, of_serial) = (version(&a), version(&scene.serial));
    assert_eq!(version(&a), of_a);
    run(&b, "BEGIN; INSERT INTO y(v) VALUES(zeroblob(30000)); COMMIT");
    assert_ne!(version(&a), of_a);
    assert_ne!(version(&scene.serial), of_serial);
    let of_serial = version(&scene.serial);
    assert_eq!(version(&scene.serial), of_serial);
}

/// What is leased lies beyond the end as it was: the file does not grow back.
#[test]
fn a_database_that_became_smaller_stays_small() {
    let scene = scene(TABLES);
    let many = "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 3000) INSERT INTO z(v) SELECT zeroblob(3000) FROM c";
    run(&scene.serial, many);
    let (a, b) = scene.pair();
    warm(&a, &b);
    let before = pages(&scene.serial);
    run(&scene.serial, "DELETE FROM z; VACUUM");
    let small = pages(&scene.serial);
    assert!(small < 100 && before > 3000, "{before}, {small}");
    let insert = |table: &str| format!("INSERT INTO {table}(v) VALUES(zeroblob(20000))");
    for _ in 0..8 {
        let _either = round(&a, &b, &insert("x"), &insert("y"));
    }
    let after = pages(&scene.serial);
    assert!(after < 600, "{small} pages after VACUUM, {after} after some inserts");
    support::assert_integrity(&scene.serial);
}
