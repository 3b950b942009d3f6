//! Transactions that write beside each other in several processes: which one wins, and what one that dies at a step of its commit leaves to the others.

use rusqlite::{Connection, ffi};
use std::path::Path;
use support::processes::agent::Agent;
use support::scene::watchdog;
use support::{Scratch, child, code_of, number, run, text};

const SNAPSHOT: i32 = ffi::SQLITE_BUSY_SNAPSHOT;

const SCHEMA: &str = "CREATE TABLE t(id INTEGER PRIMARY KEY, n, pad);
    WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < 2000)
    INSERT INTO t SELECT x * 10, 0, zeroblob(100) FROM c";

const CONCURRENT: &str = "PRAGMA parallel_wal_writers=concurrent";

fn create(path: &Path) -> Connection {
    let connection = support::open_wal(path);
    run(&connection, SCHEMA);
    connection
}

fn agent(path: &Path, settings: &[(&str, String)]) -> Agent {
    let mut agent = Agent::start_with(settings);
    agent.open("c", path);
    assert_eq!(agent.run(CONCURRENT), "concurrent");
    agent.run("SELECT count(*) FROM sqlite_schema");
    agent
}

/// Of an own snapshot behind what the agents did, so that nothing of before is in the cache.
fn concurrent(path: &Path) -> Connection {
    let connection = support::open(path);
    assert_eq!(text(&connection, CONCURRENT), "concurrent");
    number(&connection, "SELECT count(*) FROM sqlite_schema");
    connection
}

/// Adds one to a row, in a transaction that stays open.
fn begin(agent: &mut Agent, id: i64) {
    agent.run("BEGIN");
    agent.run(&format!("UPDATE t SET n=n+1 WHERE id={id}"));
}

#[test]
fn the_first_process_to_commit_wins() {
    if !support::on_pwal() || child::role("concurrent") {
        return;
    }
    let _watchdog = watchdog("the first to commit");
    let scratch = Scratch::new();
    let path = scratch.file("app.db");
    let serial = create(&path);
    let (mut a, mut b) = (agent(&path, &[]), agent(&path, &[]));
    begin(&mut a, 10);
    begin(&mut b, 20000);
    a.run("COMMIT");
    b.run("COMMIT");
    begin(&mut a, 10);
    begin(&mut b, 10);
    b.run("COMMIT");
    assert_eq!(a.ask("c COMMIT"), format!("code {SNAPSHOT}"));
    let log = a.log();
    assert!(log.contains("517") && log.contains("wrote page") && log.contains("leaf of a table"), "{log}");
    assert!(log.contains("which this transaction has written"), "{log}");
    begin(&mut a, 10);
    a.run("COMMIT");
    assert_eq!(number(&serial, "SELECT sum(n) FROM t"), 4);
    a.end();
    b.end();
    support::assert_integrity(&serial);
    support::close(serial);
    support::assert_plain(&path);
}

/// At each step of a commit that a process can die in, under FULL and NORMAL. What it has published counts for the others, and
/// nothing else does.
#[cfg(debug_assertions)]
#[test]
fn one_that_dies_in_its_commit_leaves_a_commit_or_nothing() {
    let _watchdog = watchdog("a death in a commit");
    let of_a_flush = ["leading_before_cut", "leading_uncertified", "sealing"];
    for point in ["staging", "publish_before_store", "after_publish"].into_iter().chain(of_a_flush) {
        for synchronous in ["FULL", "NORMAL"] {
            let what = format!("{point}, {synchronous}");
            let scratch = Scratch::new();
            let path = scratch.file("app.db");
            let serial = create(&path);
            let mut victim = agent(&path, &[("PWAL_TEST_DIE_AT", point.to_owned())]);
            victim.run(&format!("PRAGMA synchronous={synchronous}"));
            let (same, other) = (concurrent(&path), concurrent(&path));
            run(&same, "BEGIN; UPDATE t SET n=n+1 WHERE id=10");
            run(&other, "BEGIN; UPDATE t SET n=n+1 WHERE id=20000");
            begin(&mut victim, 10);
            // Under NORMAL a commit is not flushed. And it never comes to the last one, if it dies where it shall.
            victim.tell_all(&["c COMMIT", "c SELECT pwal_sync()", "c .exit"]);
            victim.end_killed();
            // Published or not; whether it is durable yet is another matter.
            let is_there = !["staging", "publish_before_store"].contains(&point);
            assert_eq!(code_of(&same, "COMMIT"), if is_there { SNAPSHOT } else { 0 }, "{what}");
            assert_eq!(code_of(&other, "COMMIT"), 0, "{what}");
            assert_eq!(number(&serial, "SELECT n FROM t WHERE id=10"), 1, "{what}");
            assert_eq!(number(&serial, "SELECT n FROM t WHERE id=20000"), 1, "{what}");
            for connection in [same, other, serial] {
                support::assert_integrity(&connection);
                support::close(connection);
            }
            support::assert_plain(&path);
        }
    }
}

const TABLES: &str = "CREATE TABLE x(id INTEGER PRIMARY KEY, v); CREATE TABLE y(id INTEGER PRIMARY KEY, v)";

/// Transactions of one process that are open together and allocate: until they have pages of their own, in all processes.
fn grow_together(a: &Connection, b: &Connection) {
    let inserts = ["x", "y"].map(|table| format!("BEGIN; INSERT INTO {table}(v) VALUES(zeroblob(20000))"));
    for _ in 0..50 {
        run(a, &inserts[0]);
        run(b, &inserts[1]);
        let codes = (code_of(a, "COMMIT"), code_of(b, "COMMIT"));
        assert!(matches!(codes, (0, 0 | SNAPSHOT)), "{codes:?}");
        if codes.1 == 0 {
            return;
        }
    }
    panic!("two transactions that allocate conflict each time");
}

/// What processes allocate beside each other are different pages; and what one of them has leased as it dies, at each step in which
/// it can, is lost to none.
#[cfg(debug_assertions)]
#[test]
fn pages_that_a_dead_process_had_leased_are_used_by_others() {
    let _watchdog = watchdog("a death with leased pages");
    for point in ["", "leased", "staging", "composed", "publish_before_store", "after_publish"] {
        let scratch = Scratch::new();
        let path = scratch.file("app.db");
        let serial = create(&path);
        run(&serial, TABLES);
        let (a, b) = (concurrent(&path), concurrent(&path));
        grow_together(&a, &b);
        let settings = [("PWAL_TEST_DIE_AT", point.to_owned())];
        let mut other = agent(&path, if point.is_empty() { &[] } else { &settings });
        run(&a, "BEGIN; INSERT INTO x(v) VALUES(zeroblob(20000))");
        let steps = ["c BEGIN", "c INSERT INTO y(v) VALUES(zeroblob(50000))", "c COMMIT"];
        if point.is_empty() {
            for step in steps {
                other.ask(step);
            }
            other.kill();
        } else {
            other.tell_all(&[steps[0], steps[1], steps[2], "c .exit"]);
            other.end_killed();
        }
        let code = code_of(&a, "COMMIT");
        assert!(matches!(code, 0 | SNAPSHOT), "{point}: {code}");
        // It sees also what is published and not durable yet.
        run(&serial, "BEGIN IMMEDIATE");
        let rows = number(&serial, "SELECT count(*) FROM y WHERE length(v)=50000");
        run(&serial, "COMMIT");
        let may_be_there = if point.is_empty() { 0..2 } else { i64::from(point == "after_publish")..2 };
        assert!(may_be_there.contains(&rows), "{point}: {rows}");
        for _ in 0..10 {
            grow_together(&a, &b);
            run(&serial, "DELETE FROM x; DELETE FROM y");
        }
        for connection in [&a, &b, &serial] {
            support::assert_integrity(connection);
        }
        let pages = number(&serial, "PRAGMA page_count");
        assert!(pages < 400, "{point}: {pages} pages");
        for connection in [a, b, serial] {
            support::close(connection);
        }
        support::assert_plain(&path);
    }
}

/// Pages that a process has freed are allocated in others before the file grows, also beside each other.
#[test]
fn pages_that_one_process_frees_are_used_by_others() {
    if !support::on_pwal() {
        return;
    }
    let _watchdog = watchdog("pages freed by another process");
    let scratch = Scratch::new();
    let path = scratch.file("app.db");
    let serial = create(&path);
    run(&serial, TABLES);
    let (mut frees, mut other) = (agent(&path, &[]), agent(&path, &[]));
    let here = concurrent(&path);
    frees.run("INSERT INTO x(v) VALUES(zeroblob(1000000))");
    let pages = number(&serial, "PRAGMA page_count");
    frees.run("BEGIN");
    frees.run("DELETE FROM x");
    frees.run("COMMIT");
    assert!(number(&serial, "PRAGMA freelist_count") > 200);
    let mut committed = 0;
    while committed < 20 {
        other.run("BEGIN");
        other.run("INSERT INTO y(v) VALUES(zeroblob(20000))");
        run(&here, "BEGIN; INSERT INTO x(v) VALUES(zeroblob(20000))");
        other.run("COMMIT");
        let code = code_of(&here, "COMMIT");
        assert!(matches!(code, 0 | SNAPSHOT), "{code}");
        committed += 1 + i64::from(code == 0);
    }
    let rows = "SELECT (SELECT count(*) FROM x) + (SELECT count(*) FROM y)";
    assert_eq!(number(&serial, rows), committed);
    assert_eq!(number(&serial, "PRAGMA page_count"), pages);
    support::assert_integrity(&serial);
    frees.end();
    other.end();
    support::close(here);
    support::close(serial);
    support::assert_plain(&path);
}

fn spill_files(path: &Path) -> usize {
    let entries = std::fs::read_dir(format!("{}-pwal", path.display())).expect("the log directory");
    entries
        .filter(|entry| entry.as_ref().expect("an entry").path().extension().is_some_and(|end| end == "spill"))
        .count()
}

/// The spill file of a process that has WRITE is known by its number. Transactions that begin, fail and end beside it leave that as it
/// is, or a checkpoint of theirs would delete the file.
#[test]
fn one_that_ends_beside_a_spilled_one_leaves_its_file() {
    if !support::on_pwal() {
        return;
    }
    let _watchdog = watchdog("a spilled one");
    let scratch = Scratch::new();
    let path = scratch.file("app.db");
    let serial = create(&path);
    let mut spilled = agent(&path, &[]);
    spilled.run("PRAGMA cache_size=10");
    spilled.run("PRAGMA parallel_wal_max_batch_bytes=65536");
    let beside = concurrent(&path);
    beside.busy_timeout(std::time::Duration::ZERO).expect("no busy timeout");
    let (mut committed, mut sum) = (0, 0);
    for end in ["COMMIT", "ROLLBACK", "COMMIT"] {
        run(&serial, "UPDATE t SET n=n+1 WHERE id=15000; PRAGMA wal_checkpoint(TRUNCATE)");
        sum += 1;
        spilled.run("BEGIN");
        // 0 and 1 take no byte each, so that no page is split.
        spilled.run("UPDATE t SET n=1-n WHERE id <= 10000");
        assert_eq!(spill_files(&path), 1);
        for beside_ends in ["ROLLBACK", "COMMIT"] {
            run(&beside, "BEGIN; UPDATE t SET n=n+1 WHERE id=20000");
            let code = code_of(&beside, beside_ends);
            assert_eq!(code, if beside_ends == "COMMIT" { ffi::SQLITE_BUSY } else { 0 });
            run(&serial, "PRAGMA wal_checkpoint");
            assert_eq!(spill_files(&path), 1, "{beside_ends}");
        }
        assert_eq!(spilled.run("SELECT sum(n) FROM t WHERE id <= 10000"), (1000 - committed).to_string());
        spilled.run(end);
        if end == "COMMIT" {
            (committed, sum) = (1000 - committed, sum + 1000 - 2 * committed);
        }
        assert_eq!(code_of(&beside, "COMMIT"), 0, "{end}");
        sum += 1;
        assert_eq!(number(&serial, "SELECT sum(n) FROM t"), sum, "{end}");
    }
    spilled.kill();
    for connection in [beside, serial] {
        assert_eq!(number(&connection, "SELECT sum(n) FROM t"), sum);
        support::assert_integrity(&connection);
        support::close(connection);
    }
    support::assert_plain(&path);
}
