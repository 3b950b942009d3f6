//! Snapshots that move forward: a page conflicts only if it is written after it was first read.

use super::*;
use rusqlite::backup::Backup;
use std::time::Instant;

const TABLES: &str =
    "CREATE TABLE log(id INTEGER PRIMARY KEY, v); CREATE TABLE mark(id INTEGER PRIMARY KEY AUTOINCREMENT, v);
    CREATE INDEX log_v ON log(v); INSERT INTO log(v) SELECT hex(n) FROM t LIMIT 30; INSERT INTO mark(v) VALUES(1)";

fn moved_scene() -> (Scene, Connection, Connection) {
    let scene = scene(ROWS);
    run(&scene.serial, TABLES);
    let (a, b) = scene.pair();
    (scene, a, b)
}

/// What is appended late is appended after what others have appended since BEGIN.
#[test]
fn a_late_append_does_not_conflict() {
    let (scene, a, b) = moved_scene();
    for table in ["log", "mark"] {
        for turn in 0..5 {
            run(&a, "BEGIN");
            number(&a, "SELECT n FROM t WHERE id=10");
            run(&a, "UPDATE t SET n=n+1 WHERE id=10");
            run(&b, &format!("BEGIN; INSERT INTO {table}(v) VALUES('b'); COMMIT"));
            let moved = counted(&a, "moved");
            run(&a, &format!("INSERT INTO {table}(v) VALUES('a')"));
            assert_eq!(number(&a, &format!("SELECT count(*) FROM {table} WHERE v='b'")), turn + 1, "it sees the other");
            assert!(counted(&a, "moved") > moved);
            assert_eq!(commit(&a), 0, "{table}, {turn}");
        }
    }
    for connection in [&a, &b, &scene.serial] {
        assert_eq!(number(connection, "SELECT count(*) FROM log"), 40);
        assert_eq!(number(connection, "SELECT sum(n) FROM t"), 10);
        support::assert_integrity(connection);
    }
}

/// What was read stays, and so does the snapshot; also of the cache.
#[test]
fn what_was_read_does_not_move() {
    let (_scene, a, b) = moved_scene();
    run(&a, "BEGIN; UPDATE t SET n=n+1 WHERE id=10");
    let last = number(&a, "SELECT max(id) FROM log");
    run(&b, "BEGIN; INSERT INTO log(v) VALUES('b'); UPDATE mark SET v=5; COMMIT");
    assert_eq!(number(&a, "SELECT max(id) FROM log"), last);
    // Not read yet: but the other page of the same commit was.
    assert_eq!(number(&a, "SELECT v FROM mark"), 1);
    assert_eq!(commit(&a), SNAPSHOT);
    // One that only reads stays at its snapshot.
    run(&a, "BEGIN");
    assert_eq!(number(&a, "SELECT v FROM mark"), 5);
    run(&b, "UPDATE t SET n=77 WHERE id=20000");
    assert_eq!(number(&a, "SELECT n FROM t WHERE id=20000"), 0);
    run(&a, "COMMIT");
    // And a schema that has changed.
    run(&a, "BEGIN; UPDATE t SET n=n+1 WHERE id=10");
    run(&b, "CREATE TABLE other(x); INSERT INTO log(v) VALUES('c')");
    assert_eq!(number(&a, "SELECT count(*) FROM log WHERE v='c'"), 0);
    assert_eq!(commit(&a), SNAPSHOT);
}

/// A freelist of its own does not hide a schema that has changed.
#[test]
fn it_does_not_move_past_a_schema_change() {
    let (scene, a, b) = moved_scene();
    run(&scene.serial, super::growth::TABLES);
    for turn in 0..6 {
        super::growth::warm(&a, &b);
        run(&a, "BEGIN; UPDATE t SET n=n+1 WHERE id=10");
        run(&b, &format!("BEGIN; CREATE TABLE other{turn}(x); INSERT INTO log(v) VALUES('c{turn}'); COMMIT"));
        assert_eq!(number(&a, &format!("SELECT count(*) FROM log WHERE v='c{turn}'")), 0);
        assert_eq!(commit(&a), SNAPSHOT);
        run(&a, "BEGIN; UPDATE t SET n=n+1 WHERE id=20000; COMMIT");
    }
}

/// Others allocate and free pages meanwhile: what they have taken is no free page of this one any more.
#[test]
fn it_moves_past_growth() {
    let (scene, a, b) = moved_scene();
    let (fill, both) = ("INSERT INTO log(v) VALUES(hex(zeroblob(4000)))", "UPDATE t SET n=n+1 WHERE id=10");
    run(&scene.serial, super::growth::TABLES);
    let mut moved = 0;
    for turn in 0..30 {
        super::growth::warm(&a, &b);
        run(&a, &format!("BEGIN; {both}"));
        run(&b, &format!("BEGIN; {fill}; {fill}"));
        if turn % 3 == 2 {
            run(&b, &format!("DELETE FROM log WHERE id % 5 = {}", turn % 5));
        }
        run(&b, "COMMIT");
        let before = counted(&a, "moved");
        let code = code_of(&a, &format!("INSERT INTO log(v) VALUES(hex(zeroblob({})))", 100 * turn));
        assert!(matches!(code, 0 | SNAPSHOT), "{code}");
        moved += i32::from(counted(&a, "moved") > before);
        if code == 0 {
            // What others have just written changes in this one, too.
            run(&a, "UPDATE log SET v=v||'x' WHERE id=(SELECT max(id) FROM log) - 1");
            let code = commit(&a);
            assert!(matches!(code, 0 | SNAPSHOT), "{code}");
        } else {
            run(&a, "ROLLBACK");
        }
        // After four that lose in a row one takes its turn before the others.
        run(&a, "BEGIN; UPDATE t SET n=n+1 WHERE id=20000; COMMIT");
        for connection in [&a, &b, &scene.serial] {
            support::assert_integrity(connection);
        }
    }
    assert!(moved > 3, "{moved} of 30");
}

/// Pages that others have taken since BEGIN, which SQLite has on its freelist still, are changed as any other.
#[test]
fn what_others_have_just_allocated_is_changed() {
    let (scene, a, b) = moved_scene();
    run(&scene.serial, super::growth::TABLES);
    run(&scene.serial, "CREATE TABLE wide(id INTEGER PRIMARY KEY, n, pad)");
    let mut expected = 0;
    for turn in 0..12 {
        super::growth::warm(&a, &b);
        run(&a, "BEGIN; UPDATE t SET n=n+1 WHERE id=10");
        run(&b, "BEGIN; INSERT INTO wide(n, pad) SELECT 2, zeroblob(1500) FROM t LIMIT 8; COMMIT");
        let changed = "UPDATE wide SET n=n+1 WHERE id=(SELECT max(id) FROM wide)";
        let code = code_of(&a, changed);
        assert!(matches!(code, 0 | SNAPSHOT), "{code}");
        // It is not too much to take some, too.
        let code =
            if code == 0 && turn % 2 == 0 { code_of(&a, "INSERT INTO x(v) VALUES(zeroblob(9000))") } else { code };
        if code == 0 && commit(&a) == 0 {
            expected += 1;
        } else if !a.is_autocommit() {
            run(&a, "ROLLBACK");
        }
        run(&a, "BEGIN; UPDATE t SET n=n+1 WHERE id=20000; COMMIT");
        for connection in [&a, &b, &scene.serial] {
            assert_eq!(number(connection, "SELECT sum(n % 2) FROM wide"), expected, "turn {turn}");
            support::assert_integrity(connection);
        }
    }
    assert!(expected > 2, "{expected} of 12");
}

/// A statement that comes to pages which others have taken ends in its midst, and SQLite keeps what it has done by then: the
/// transaction cannot commit.
#[test]
fn a_statement_that_ended_in_its_midst_is_not_committed() {
    let (scene, a, b) = moved_scene();
    run(&scene.serial, super::growth::TABLES);
    let mut refused = 0;
    for turn in 0..3 {
        super::growth::warm(&a, &b);
        run(&a, "BEGIN; UPDATE t SET n=n+1 WHERE id=10");
        run(&b, "BEGIN; INSERT INTO log(v) VALUES(hex(zeroblob(4000))); COMMIT");
        let moved = counted(&a, "moved");
        number(&a, "SELECT max(id) FROM log");
        if counted(&a, "moved") > moved {
            // More pages than are leased, in one row.
            let code = code_of(&a, &format!("INSERT INTO x(v) VALUES(zeroblob({}))", 2_000_000 << turn));
            assert_eq!(code, SNAPSHOT);
            assert!(!a.is_autocommit());
            // SQLite counts a free page less before it reads the trunk (`allocateBtreePage`), here again one more (`freePage2`).
            assert_eq!(code_of(&a, "DELETE FROM log WHERE id=(SELECT max(id) FROM log)"), SNAPSHOT);
            refused += 1;
            let code = commit(&a);
            support::assert_integrity(&scene.serial);
            assert_eq!(code, SNAPSHOT);
        } else {
            run(&a, "ROLLBACK");
        }
        for connection in [&a, &b, &scene.serial] {
            support::assert_integrity(connection);
        }
        run(&a, "BEGIN; UPDATE t SET n=n+1 WHERE id=20000; COMMIT");
    }
    assert!(refused > 0);
}

/// A serial writer takes what this one has leased, and has taken: SQLite has it in its cache as its own.
#[test]
fn it_does_not_move_past_one_that_took_its_pages() {
    let (scene, a, b) = moved_scene();
    run(&scene.serial, super::growth::TABLES);
    for turn in 1..6 {
        super::growth::warm(&a, &b);
        while number(&scene.serial, "PRAGMA freelist_count") > 0 {
            run(&scene.serial, "INSERT INTO z(v) VALUES(zeroblob(3000))");
        }
        run(&a, "BEGIN; UPDATE t SET n=n+1 WHERE id=10; INSERT INTO x(v) VALUES(zeroblob(9000))");
        // As many pages beyond the end as are leased, and more.
        run(&scene.serial, &format!("UPDATE mark SET v=hex(zeroblob({})) WHERE id=1", 120_000 + turn));
        let is_before = format!("length(v) IN (1, {}) AND ltrim(v, substr(v, 1, 1)) = ''", 2 * (120_000 + turn - 1));
        assert_eq!(number(&a, &format!("SELECT {is_before} FROM mark WHERE id=1")), 1, "turn {turn}");
        assert_eq!(commit(&a), SNAPSHOT);
        run(&a, "BEGIN; UPDATE t SET n=n+1 WHERE id=20000; COMMIT");
        for connection in [&a, &b, &scene.serial] {
            support::assert_integrity(connection);
        }
    }
}

/// A copy that is made step by step has read pages that are free: one that others take then is not what the cache has.
#[test]
fn it_does_not_move_past_a_free_page_that_was_read() {
    let (scene, a, b) = moved_scene();
    run(&scene.serial, super::growth::TABLES);
    for turn in 0..6 {
        super::growth::warm(&a, &b);
        // Free pages, then a table, and then the trunk that lists them.
        run(&scene.serial, "INSERT INTO z(v) SELECT zeroblob(3000) FROM t LIMIT 120");
        run(
            &scene.serial,
            &format!("CREATE TABLE late{turn}(id INTEGER PRIMARY KEY, v); INSERT INTO late{turn} VALUES(1, 1)"),
        );
        run(&scene.serial, "INSERT INTO z(v) SELECT zeroblob(3000) FROM t LIMIT 5");
        run(&scene.serial, "DELETE FROM z WHERE id=(SELECT max(id) FROM z); DELETE FROM z");
        run(&a, "BEGIN");
        let root = number(&a, &format!("SELECT rootpage FROM sqlite_schema WHERE name='late{turn}'"));
        let mut copy = Connection::open_in_memory().expect("a database in memory");
        Backup::new(&a, &mut copy).expect("a backup").step(i32::try_from(root - 1).expect("few")).expect("a step");
        run(&a, "UPDATE t SET n=n+1 WHERE id=10");
        run(&b, &format!("BEGIN; UPDATE late{turn} SET v=replace(hex(zeroblob(15000)), '0', 'x') WHERE id=1; COMMIT"));
        let is_whole = "SELECT length(v) IN (1, 30000) AND ltrim(v, substr(v, 1, 1)) = ''";
        assert_eq!(number(&a, &format!("{is_whole} FROM late{turn} WHERE id=1")), 1, "turn {turn}");
        let code = commit(&a);
        assert!(matches!(code, 0 | SNAPSHOT), "{code}");
        run(&a, "BEGIN; UPDATE t SET n=n+1 WHERE id=20000; COMMIT");
        for connection in [&a, &b, &scene.serial] {
            support::assert_integrity(connection);
        }
    }
}

/// Pages of the database file, which are in no frame of the view.
#[test]
fn it_moves_over_a_checkpoint() {
    let (scene, a, b) = moved_scene();
    for kind in ["PASSIVE", "TRUNCATE"] {
        run(&scene.serial, "PRAGMA wal_checkpoint(TRUNCATE)");
        run(&a, "BEGIN; UPDATE t SET n=n+1 WHERE id=10");
        run(&b, "BEGIN; UPDATE t SET n=n+1 WHERE id=20000; COMMIT");
        assert!(number(&a, "SELECT n FROM t WHERE id=20000") > 0);
        patient(&scene.serial, 0);
        let _busy_or_not = code_of(&scene.serial, &format!("PRAGMA wal_checkpoint({kind})"));
        run(&b, "BEGIN; UPDATE t SET n=n+1 WHERE id=15000; COMMIT");
        assert!(number(&a, "SELECT n FROM t WHERE id=15000") > 0);
        assert_eq!(commit(&a), 0, "{kind}");
        support::assert_integrity(&scene.serial);
    }
}

/// One that cannot move past what another one has allocated shows that both write beside each other: the next ones, for a second, have
/// freelists of their own.
#[test]
fn one_that_could_not_move_past_allocations_is_the_last() {
    loop {
        let (scene, a, b) = moved_scene();
        run(&a, "BEGIN; UPDATE t SET n=n+1 WHERE id=10");
        assert_eq!(number(&a, "PRAGMA freelist_count"), 0);
        run(&b, "BEGIN; INSERT INTO log(v) VALUES(zeroblob(9000)); COMMIT");
        let begin = Instant::now();
        assert_eq!(number(&a, "SELECT count(*) FROM log WHERE length(v)=9000"), 0, "it does not see the other");
        run(&a, "ROLLBACK; BEGIN; UPDATE t SET n=n+1 WHERE id=10");
        let own = number(&a, "PRAGMA freelist_count");
        if begin.elapsed() < Duration::from_millis(900) {
            assert!(own > 0);
            assert_eq!(number(&scene.serial, "PRAGMA freelist_count"), 0);
            return;
        }
    }
}
