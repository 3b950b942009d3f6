//! A transaction far larger than a lane: it commits and rolls back, in bounded memory.
//!
//! `PWAL_TEST_TRANSACTION_MB` (default 96, at most 64 MiB resident) is its size; the long form,
//! `PWAL_TEST_TRANSACTION_MB=1024 cargo test --release --test engine large_transaction::`, must stay under 200 MiB.

use rusqlite::Connection;
use std::path::PathBuf;
use std::time::Duration;
use support::{Scratch, Watchdog, child, env_number};

/// Bytes of a row's body, about a page.
const BODY: u64 = 4000;

fn megabytes() -> u64 {
    env_number("PWAL_TEST_TRANSACTION_MB", 96)
}

fn rows() -> u64 {
    megabytes() * (1 << 20) / 4096
}

fn resident_kilobytes_max() -> u64 {
    if megabytes() <= 96 { 64 << 10 } else { 200 << 10 }
}

/// The most memory that this process ever had, in KiB.
fn peak_kilobytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("/proc/self/status");
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("VmHWM");
    line.split_whitespace().nth(1).expect("a number").parse().expect("a number")
}

/// A role of its own process, whose memory is measured; nothing in a normal run.
#[test]
fn child_writes_much() {
    if !child::role("large_transaction::child_writes_much") {
        return;
    }
    let path = child::setting("PWAL_TEST_DATABASE");
    let connection = support::open(path.as_ref());
    support::run(&connection, "PRAGMA cache_size=-4000; BEGIN");
    support::run(&connection, &insert());
    // Pages that have left the cache are written again in their places.
    support::run(&connection, "UPDATE t SET y=y+1 WHERE id%50=0");
    assert_eq!(support::number(&connection, "SELECT count(*) FROM t WHERE y=2"), i64::try_from(rows() / 50).unwrap());
    child::report("staged");
    let end = child::command().expect("COMMIT or ROLLBACK");
    support::run(&connection, &end);
    child::report("ended");
    check(&connection, end == "COMMIT");
    child::report(&peak_kilobytes().to_string());
    if child::command().is_some() {
        support::close(connection);
        child::report("closed");
    }
}

fn insert() -> String {
    format!(
        "INSERT INTO t(x, y) WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<{}) \
         SELECT CAST(printf('%.*c', {BODY}, char(97+i%26)) AS BLOB), 1 FROM n",
        rows()
    )
}

/// All rows are there, each with its body, or none.
fn check(connection: &Connection, committed: bool) {
    let expected = if committed { format!("{0}|{0}", rows()) } else { String::from("0|0") };
    let right = format!("sum(length(x)={BODY} AND substr(x,1,1)=CAST(char(97+id%26) AS BLOB) AND y=1+(id%50=0))");
    assert_eq!(support::text(connection, &format!("SELECT count(*), ifnull({right}, 0) FROM t")), expected);
}

fn database() -> (Watchdog, Scratch, PathBuf) {
    let watchdog = Watchdog::new("a large transaction", Duration::from_secs(900));
    let scratch = Scratch::new();
    let path = scratch.file("app.db");
    let connection = support::open_wal(&path);
    support::run(&connection, "CREATE TABLE t(id INTEGER PRIMARY KEY, x BLOB, y INTEGER); CREATE TABLE beside(x)");
    support::close(connection);
    (watchdog, scratch, path)
}

/// A process that has staged the transaction.
fn staged() -> (Watchdog, Scratch, PathBuf, child::Role) {
    let (watchdog, scratch, path) = database();
    let mut writer = child::start(
        "large_transaction::child_writes_much",
        &[("PWAL_TEST_DATABASE", path.to_str().unwrap().to_owned())],
    );
    writer.expect("staged");
    (watchdog, scratch, path, writer)
}

#[test]
fn it_commits_and_rolls_back_in_bounded_memory_and_leaves_a_plain_file() {
    for end in ["ROLLBACK", "COMMIT"] {
        let (_watchdog, _scratch, path, mut writer) = staged();
        writer.send(end);
        writer.expect("ended");
        let peak: u64 = writer.lines.next().expect("its memory").parse().expect("a number");
        println!("{end} of {} MiB: {} MiB resident at most", megabytes(), peak >> 10);
        assert!(peak < resident_kilobytes_max(), "{end}: {peak} KiB resident");
        writer.send("close");
        writer.expect("closed");
        assert!(writer.wait().success());
        support::assert_plain(&path);
        check(&support::open_stock(&path), end == "COMMIT");
    }
}

#[test]
fn it_is_there_or_not_there_after_a_kill() {
    for committed in [false, true] {
        let (_watchdog, _scratch, path, mut writer) = staged();
        if committed {
            writer.send("COMMIT");
            writer.expect("ended");
        }
        writer.kill();
        let connection = support::open(&path);
        check(&connection, committed);
        support::assert_integrity(&connection);
        support::close(connection);
        support::assert_plain(&path);
    }
}

#[test]
fn others_read_meanwhile_and_write_afterwards() {
    let (_watchdog, _scratch, path) = database();
    let (own, other) = (support::open(&path), support::open(&path));
    support::run(&own, "PRAGMA cache_size=-4000; BEGIN");
    support::run(&own, &insert());
    check(&other, false);
    support::run(&own, "SAVEPOINT s; DELETE FROM t; ROLLBACK TO s; UPDATE t SET y=y+1 WHERE id%50=0; COMMIT");
    check(&other, true);
    support::run(&other, "INSERT INTO beside VALUES(1)");
    support::run(&own, "INSERT INTO beside VALUES(2)");
    assert_eq!(support::text(&other, "PRAGMA wal_checkpoint(TRUNCATE)"), "0|0|0");
    check(&other, true);
    support::close(own);
    support::close(other);
    support::assert_plain(&path);
}
