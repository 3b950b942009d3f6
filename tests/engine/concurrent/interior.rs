//! Interior pages that others have changed: no conflict where what was read below them lies there still, and both changes of one are
//! published.

use super::growth::{TABLES, warm};
use super::*;

/// A scene with small pages, so that a table of some hundred rows has interior pages on two levels.
fn small(schema: &str) -> Scene {
    let scratch = Scratch::new();
    let path = scratch.file("a.db");
    let serial = support::open(&path);
    run(&serial, &format!("PRAGMA page_size=512; PRAGMA journal_mode=WAL; {schema}"));
    Scene { _scratch: scratch, path, serial }
}

/// 300 keys `k001000`, `k002000`, ..., twenty bytes of text in each: some ten to a page.
const KEYS: &str = "CREATE TABLE w(k PRIMARY KEY, n, pad) WITHOUT ROWID; CREATE TABLE o(id INTEGER PRIMARY KEY, n);
    WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < 300)
    INSERT INTO w SELECT format('k%03d000', x), 0, zeroblob(20) FROM c;
    INSERT INTO o VALUES(1, 0)";

/// The text of the entries on interior pages of `w`, in order, as the database file has them.
fn interior_keys(scene: &Scene) -> Vec<String> {
    run(&scene.serial, "PRAGMA wal_checkpoint(TRUNCATE)");
    let file = std::fs::read(&scene.path).expect("the database");
    let mut keys = Vec::new();
    for page in file.chunks(512).skip(1).filter(|page| page[0] == 2) {
        for cell in 0..usize::from(page[4]) {
            let at = 12 + 2 * cell;
            let at = usize::from(u16::from_be_bytes([page[at], page[at + 1]]));
            let text = &page[at + 4..];
            let begin = text.iter().position(|byte| *byte == b'k').expect("a key");
            keys.push(String::from_utf8(text[begin..begin + 7].to_vec()).expect("text"));
        }
    }
    keys.sort();
    assert!(keys.len() > 10, "{keys:?}");
    keys
}

/// A table `c` with the numbers from `first` to `last`, for the statement after it.
fn rows(first: u32, last: u32) -> String {
    format!("WITH RECURSIVE c(x) AS (SELECT {first} UNION ALL SELECT x + 1 FROM c WHERE x < {last})")
}

/// Nine rows of `t`, wide ones, after the row `id`: its page is divided.
fn split_after(id: u32) -> String {
    format!("{} INSERT INTO t SELECT {id} + x, 0, zeroblob(900) FROM c", rows(1, 9))
}

/// A split changes the page through which all have come that read rows beside it.
#[test]
fn a_split_elsewhere_is_no_conflict() {
    let scene = scene(ROWS);
    let (a, b) = scene.pair();
    for turn in 1..4_u32 {
        run(&a, "BEGIN; UPDATE t SET n=n+1 WHERE id=10");
        run(&b, &format!("BEGIN; {}; COMMIT", split_after(10000 + 2000 * turn)));
        assert_eq!(commit(&a), 0, "turn {turn}");
        assert!(counted(&a, "excused") >= u64::from(turn), "turn {turn}");
    }
    // Deleted, so that the pages beside are balanced.
    run(&a, "BEGIN; UPDATE t SET n=n+1 WHERE id=10");
    run(&b, "BEGIN; DELETE FROM t WHERE id BETWEEN 9000 AND 14000; COMMIT");
    assert_eq!(commit(&a), 0);
    assert_eq!(number(&scene.serial, "SELECT n FROM t WHERE id=10"), 4);
    for connection in [&a, &b, &scene.serial] {
        support::assert_integrity(connection);
    }
    assert_eq!(counted(&a, "merged"), 0);
    // What has been read and is divided or gone is a conflict.
    for other in [split_after(17000), String::from("DELETE FROM t WHERE id > 15000")] {
        run(&a, "BEGIN; UPDATE t SET n=n+1 WHERE id=500");
        number(&a, "SELECT count(*) FROM t WHERE id BETWEEN 17000 AND 17010");
        run(&b, &format!("BEGIN; {other}; COMMIT"));
        assert_eq!(commit(&a), SNAPSHOT, "{other}");
        run(&a, "BEGIN; UPDATE t SET n=n+1 WHERE id=500; COMMIT");
    }
}

/// The right-most page of a table stays as it is when a row is appended after it is full (`balance_quick`): the page above it changes.
#[test]
fn an_append_after_what_was_the_last_row_is_a_conflict() {
    let scene = scene(ROWS);
    let (a, b) = scene.pair();
    for turn in 0..80 {
        run(&a, "BEGIN");
        let last = number(&a, "SELECT max(id) FROM t");
        run(&a, "UPDATE t SET n=n+1 WHERE id=10");
        run(&b, "BEGIN; INSERT INTO t(n, pad) VALUES(0, zeroblob(100)); COMMIT");
        assert_eq!(commit(&a), SNAPSHOT, "turn {turn}");
        // After some that lost one takes its turn.
        run(&a, "BEGIN; UPDATE t SET n=n+1 WHERE id=10; COMMIT");
        assert_eq!(number(&a, "SELECT max(id) FROM t"), last + 1);
    }
    // And before what was the first one.
    for turn in 1..80 {
        run(&a, "BEGIN");
        assert_eq!(number(&a, "SELECT min(id) FROM t"), if turn == 1 { 10 } else { 1 - turn });
        run(&a, "UPDATE t SET n=n+1 WHERE id=20000");
        run(&b, &format!("BEGIN; INSERT INTO t(id, n, pad) VALUES(-{turn}, 0, zeroblob(100)); COMMIT"));
        assert_eq!(commit(&a), SNAPSHOT, "turn {turn}");
        run(&a, "BEGIN; UPDATE t SET n=n+1 WHERE id=20000; COMMIT");
    }
}

/// Also for one that has changed that page elsewhere.
#[test]
fn so_it_is_where_both_have_changed_that_page() {
    let scene = scene(ROWS);
    run(&scene.serial, TABLES);
    let (a, b) = scene.pair();
    for turn in 0..40 {
        warm(&a, &b);
        run(&a, "BEGIN");
        let last = number(&a, "SELECT max(id) FROM t");
        run(&a, &split_after(1000 + 300 * turn));
        run(&b, "BEGIN; INSERT INTO t(n, pad) VALUES(0, zeroblob(100)); COMMIT");
        assert_eq!(commit(&a), SNAPSHOT, "turn {turn}");
        assert_eq!(number(&a, "SELECT max(id) FROM t"), last + 1);
    }
}

/// A transaction finds an entry of an index on an interior page, and reads no page below. `others` is what is committed before its
/// COMMIT, `meanwhile` while that waits for the write lock: in both the entry is `KEY`, and `BESIDE` the keys beside it, of so many
/// pages that they become one without them. What COMMIT answers.
fn found_on_an_interior_page(place: usize, others: &str, meanwhile: &str) -> i32 {
    let scene = small(KEYS);
    let key = interior_keys(&scene).swap_remove(place);
    let number_of: u32 = key[1..4].parse().expect("a number");
    let beside = format!("(k BETWEEN 'k{:03}' AND 'k{:03}' AND k <> '{key}')", number_of - 9, number_of + 10);
    let of = |sql: &str| sql.replace("KEY", &format!("'{key}'")).replace("BESIDE", &beside);
    let (a, c) = scene.pair();
    let b = &scene.serial;
    patient(&a, 20_000);
    run(&a, &of("BEGIN; INSERT OR IGNORE INTO w VALUES(KEY, 7, NULL)"));
    run(&a, "UPDATE o SET n=n+1 WHERE id=1");
    run(&c, &of(&format!("BEGIN; {others}; COMMIT")));
    run(b, &of(&format!("BEGIN IMMEDIATE; {meanwhile}")));
    let code = std::thread::scope(|scope| {
        let waits = scope.spawn(move || commit(&a));
        // Or it was refused before.
        support::lab::wait_until(|| waits.is_finished() || support::lab::status(b, "waiting_writers") == 1);
        run(b, "COMMIT");
        waits.join().expect("no panic")
    });
    assert_eq!(number(b, "SELECT n FROM o"), i64::from(code == 0));
    support::assert_integrity(b);
    code
}

/// Others move it to a leaf, delete it, or change it.
#[test]
fn an_entry_that_was_found_is_there_still() {
    let (others, elsewhere) = ("DELETE FROM w WHERE BESIDE", "UPDATE w SET n=n+1 WHERE k='k001000'");
    let moved: Vec<usize> = (1..10).filter(|place| found_on_an_interior_page(*place, others, elsewhere) == 0).collect();
    assert!(!moved.is_empty(), "none has moved to a leaf");
    for place in moved {
        for others in
            ["DELETE FROM w WHERE BESIDE OR k=KEY", "DELETE FROM w WHERE BESIDE; UPDATE w SET n=n+1 WHERE k=KEY"]
        {
            assert_eq!(found_on_an_interior_page(place, others, elsewhere), SNAPSHOT, "entry {place}: {others}");
        }
        // On a leaf by the time that COMMIT waits: the page above it is not written again.
        for meanwhile in ["DELETE FROM w WHERE k=KEY", "UPDATE w SET n=n+1 WHERE k=KEY"] {
            assert_eq!(found_on_an_interior_page(place, others, meanwhile), SNAPSHOT, "entry {place}: {meanwhile}");
        }
    }
    for others in
        ["DELETE FROM w WHERE k=KEY", "UPDATE w SET n=n+1 WHERE k=KEY", "REPLACE INTO w VALUES(KEY, 1, zeroblob(90))"]
    {
        assert_eq!(found_on_an_interior_page(4, others, elsewhere), SNAPSHOT, "{others}");
    }
}

/// Two transactions divide or join pages below one page.
#[test]
fn both_changes_of_one_page_are_published() {
    let scene = scene(ROWS);
    run(&scene.serial, TABLES);
    let (a, b) = scene.pair();
    let (mut rows, mut both) = (2000, 0);
    for turn in 0..8_u32 {
        warm(&a, &b);
        let (low, high) = (1000 + turn * 500, 19000 - turn * 500);
        let joined = format!("DELETE FROM t WHERE id BETWEEN {low} AND {low} + 800");
        run(&a, &format!("BEGIN; {}", if turn % 3 == 2 { joined } else { split_after(low) }));
        let of_a = number(&a, "SELECT changes()") * if turn % 3 == 2 { -1 } else { 1 };
        run(&b, &format!("BEGIN; {}; COMMIT", split_after(high)));
        rows += 9;
        let before = counted(&a, "merged");
        let code = commit(&a);
        assert!(matches!(code, 0 | SNAPSHOT), "{code}");
        if code == 0 {
            rows += of_a;
            both += 1;
            assert!(counted(&a, "merged") > before, "turn {turn}");
        }
        for connection in [&a, &b, &scene.serial] {
            assert_eq!(number(connection, "SELECT count(*) FROM t"), rows, "turn {turn}");
            support::assert_integrity(connection);
        }
    }
    assert!(both > 4, "{both} of 8");
    for connection in [a, b, scene.serial] {
        support::close(connection);
    }
    support::assert_integrity(&support::open_stock(&scene.path));
}

/// A cursor that stays open over COMMIT reads what its transaction has made of the page, not what is published.
#[test]
fn a_cursor_stays_open_over_a_merged_commit() {
    for pages_in_cache in [2000, 10] {
        let scene = scene(ROWS);
        run(&scene.serial, TABLES);
        let (a, b) = scene.pair();
        run(&a, &format!("PRAGMA cache_size={pages_in_cache}"));
        let mut merged = 0;
        for turn in 0..4 {
            warm(&a, &b);
            let before = number(&b, "SELECT count(*) FROM t");
            run(&a, "BEGIN");
            let mut statement = a.prepare("SELECT id FROM t ORDER BY id").expect("a statement");
            let mut rows = statement.query([]).expect("a query");
            rows.next().expect("a row");
            run(&a, &split_after(5000 + 1000 * turn));
            run(&b, &format!("BEGIN; {}; COMMIT", split_after(15000 + 1000 * turn)));
            let before_commit = counted(&a, "merged");
            let code = commit(&a);
            merged += counted(&a, "merged") - before_commit;
            if code == 0 {
                assert_eq!(tried(&a, "UPDATE t SET n=n+1 WHERE id=10"), SNAPSHOT);
                let mut left = 1;
                while rows.next().expect("a row").is_some() {
                    left += 1;
                }
                assert_eq!(left, before + 9);
            }
            drop(rows);
            drop(statement);
            let now = before + if code == 0 { 18 } else { 9 };
            for connection in [&a, &b, &scene.serial] {
                assert_eq!(number(connection, "SELECT count(*) FROM t"), now);
                support::assert_integrity(connection);
            }
        }
        assert!(merged > 1, "{merged}");
    }
}

/// COMMIT waits for a serial writer, which changes the page once more.
#[test]
fn what_is_merged_is_merged_again_under_the_write_lock() {
    let scene = scene(ROWS);
    run(&scene.serial, TABLES);
    let (mut a, c) = scene.pair();
    patient(&a, 20_000);
    let mut codes = Vec::new();
    for turn in 0..4 {
        warm(&a, &c);
        let before = number(&c, "SELECT count(*) FROM t");
        run(&a, &format!("BEGIN; {}", split_after(3000 + 1000 * turn)));
        run(&c, &format!("BEGIN; {}; COMMIT", split_after(10000 + 1000 * turn)));
        let b = &scene.serial;
        let last =
            if turn == 3 { "UPDATE t SET n=n+1 WHERE id=6000".to_owned() } else { split_after(16000 + 1000 * turn) };
        run(b, &format!("BEGIN IMMEDIATE; {last}"));
        let code;
        (code, a) = std::thread::scope(|scope| {
            let waits = scope.spawn(move || (commit(&a), a));
            support::lab::wait_until(|| waits.is_finished() || support::lab::status(b, "waiting_writers") == 1);
            run(b, "COMMIT");
            waits.join().expect("no panic")
        });
        codes.push(code);
        let added = [9, 9 * i64::from(turn < 3), 9 * i64::from(code == 0)].iter().sum::<i64>();
        for connection in [&a, &c, b] {
            assert_eq!(number(connection, "SELECT count(*) FROM t"), before + added, "turn {turn}: {code}");
            support::assert_integrity(connection);
        }
    }
    assert!(codes[..3].contains(&0), "{codes:?}");
    assert_eq!(codes[3], SNAPSHOT, "a row beside its own");
}

/// COMMIT is BUSY for another database after this one is prepared: what was merged is taken back, and merged again with what has come since.
#[test]
fn what_is_merged_is_taken_back_if_another_database_is_busy() {
    let scene = scene(ROWS);
    run(&scene.serial, TABLES);
    let other = scene.path.with_file_name("other.db");
    let reader = support::open_stock(&other);
    run(&reader, "CREATE TABLE r(x); INSERT INTO r VALUES(1)");
    let (a, b) = scene.pair();
    run(&a, &format!("ATTACH '{}' AS other", other.display()));
    patient(&a, 0);
    let mut merged = 0;
    for turn in 0..4 {
        warm(&a, &b);
        let before = number(&b, "SELECT count(*) FROM t");
        run(&a, &format!("BEGIN; {}; INSERT INTO r VALUES(2)", split_after(3000 + 1000 * turn)));
        run(&b, &format!("BEGIN; {}; COMMIT", split_after(10000 + 1000 * turn)));
        run(&reader, "BEGIN; SELECT * FROM r");
        let code = code_of(&a, "COMMIT");
        let mut added = 9;
        if code == ffi::SQLITE_BUSY {
            assert!(!a.is_autocommit());
            let own = format!("SELECT count(*) FROM t WHERE id BETWEEN {0} + 1 AND {0} + 9", 3000 + 1000 * turn);
            assert_eq!(number(&a, &own), 9);
            run(&b, &format!("BEGIN; {}; COMMIT", split_after(16000 + 1000 * turn)));
            added += 9;
            run(&reader, "COMMIT");
            let of_a = counted(&a, "merged");
            if commit(&a) == 0 {
                added += 9;
                merged += counted(&a, "merged") - of_a;
            }
        } else {
            assert_eq!(code, SNAPSHOT);
            run(&reader, "COMMIT");
        }
        for connection in [&a, &b, &scene.serial] {
            assert_eq!(number(connection, "SELECT count(*) FROM t"), before + added, "turn {turn}: {code}");
            support::assert_integrity(connection);
        }
    }
    assert!(merged > 1, "{merged}");
}

/// A transaction that deletes rows gives the children of one interior page to the one beside it, and frees a page, without reading what is
/// below: another transaction has divided a leaf there, or moved entries from one leaf to the next.
#[test]
fn an_interior_page_that_is_freed_is_as_it_was() {
    const WIDE: &str = "CREATE TABLE w(k PRIMARY KEY, n, pad) WITHOUT ROWID;
        WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < 999)
        INSERT INTO w SELECT format('k%03d000', x), 0, zeroblob(20) FROM c";
    let (mut conflicts, mut commits) = (0, 0);
    for divides in [true, false] {
        let scene = small(WIDE);
        run(&scene.serial, TABLES);
        // With room on each leaf, so that entries move to the leaves beside it, and no page is allocated.
        let numbers = if divides { "WHERE x > 0" } else { "WHERE x % 3 > 0" };
        run(
            &scene.serial,
            &format!("DELETE FROM w WHERE k NOT IN ({} SELECT format('k%03d000', x) FROM c {numbers})", rows(1, 999)),
        );
        let rows_of_all = number(&scene.serial, "SELECT count(*) FROM w");
        let (a, b) = scene.pair();
        patient(&b, 0);
        if !divides {
            // It is never shown a freelist of its own.
            run(&a, "PRAGMA max_page_count=100000");
        }
        for turn in 0..380 {
            if divides {
                warm(&a, &b);
            }
            let (from, at) = (1 + turn / 16 * 30, 1 + turn / 16 * 30 + 130 + turn % 16 * 6);
            let of_b = match divides {
                true => {
                    format!("{} INSERT INTO w SELECT format('k%03d%03d', {at}, x), 0, zeroblob(20) FROM c", rows(1, 8))
                }
                false => format!("UPDATE w SET pad=zeroblob(60) WHERE k BETWEEN 'k{at:03}' AND 'k{:03}'", at + 9),
            };
            run(&a, &format!("BEGIN; DELETE FROM w WHERE k BETWEEN 'k{from:03}' AND 'k{:03}'", from + 120));
            run(&b, &format!("BEGIN; {of_b}"));
            let of_b = code_of(&b, "COMMIT");
            if of_b == ffi::SQLITE_BUSY {
                // The other one has its turn.
                run(&b, "ROLLBACK");
            }
            let codes = (of_b, commit(&a));
            support::assert_integrity(&scene.serial);
            match codes {
                (0, 0) => commits += 1,
                (0, SNAPSHOT) => conflicts += 1,
                (SNAPSHOT | ffi::SQLITE_BUSY, 0) => {}
                _ => panic!("{codes:?}"),
            }
            // One that loses again and again would take its turn.
            for connection in [&a, &b] {
                run(connection, "BEGIN; UPDATE x SET v=1 WHERE id=1; COMMIT");
            }
            run(&scene.serial, &format!("DELETE FROM w WHERE k BETWEEN 'k{at:03}001' AND 'k{at:03}999'; UPDATE w SET pad=zeroblob(20) WHERE length(pad) > 20;
                {} INSERT OR IGNORE INTO w SELECT format('k%03d000', x), 0, zeroblob(20) FROM c {numbers}", rows(from, from + 121)));
            assert_eq!(number(&scene.serial, "SELECT count(*) FROM w"), rows_of_all, "turn {turn}");
        }
    }
    assert!(conflicts > 20 && commits > 20, "{conflicts} conflicts, {commits} commits");
}
