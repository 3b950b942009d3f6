//! Threads write, read and checkpoint while the disk fails at some moment: everybody gets an answer, every answer is
//! true, and no reader has seen what is gone afterwards.
//!
//! `PWAL_TEST_SEED` (default 1) and `PWAL_TEST_ROUNDS` (default 12).

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rusqlite::{Connection, ffi};
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::Duration;
use support::lab::{Call, Lab, status};
use support::{Watchdog, env_number};

/// The last row of each writer.
type Last = BTreeMap<i64, i64>;

fn last_rows(connection: &Connection) -> rusqlite::Result<Last> {
    let mut statement = connection.prepare_cached("SELECT w, max(n) FROM t GROUP BY w")?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    rows.collect()
}

/// The rows that one writer was acknowledged, and the one that failed.
struct Written {
    writer: i64,
    full: bool,
    acknowledged: i64,
    failed: Option<i64>,
}

fn write(lab: &Lab, writer: i64, full: bool, stop: &AtomicBool) -> Written {
    let connection = lab.open("a.db");
    connection.busy_timeout(Duration::from_secs(5)).unwrap();
    support::run(&connection, if full { "PRAGMA synchronous=FULL" } else { "PRAGMA synchronous=NORMAL" });
    let mut written = Written { writer, full, acknowledged: 0, failed: None };
    while !stop.load(SeqCst) {
        let n = written.acknowledged + 1;
        match connection.execute("INSERT INTO t VALUES(?1, ?2)", [writer, n]) {
            Ok(_) => written.acknowledged = n,
            Err(error) if support::code(&error) & 0xff == ffi::SQLITE_BUSY => {}
            Err(error) => {
                assert_eq!(support::code(&error) & 0xff, ffi::SQLITE_IOERR, "writer {writer}: {error:?}");
                written.failed = Some(n);
                // It stays so.
                for _ in 0..3 {
                    let again = connection.execute("INSERT INTO t VALUES(?1, ?2)", [writer, n]);
                    assert_eq!(again.map_err(|error| support::code(&error) & 0xff), Err(ffi::SQLITE_IOERR));
                }
                break;
            }
        }
    }
    written
}

/// Never goes back, and fails only where it may have seen commits that wanted no durability, and a failed flush took them.
fn read(lab: &Lab, all_full: bool, stop: &AtomicBool) -> Last {
    let connection = lab.open("a.db");
    let mut seen = Last::new();
    while !stop.load(SeqCst) {
        let now = match last_rows(&connection) {
            Ok(now) => now,
            Err(error) if !all_full && support::code(&error) & 0xff == ffi::SQLITE_IOERR => return seen,
            Err(error) => panic!("a reader: {error:?}"),
        };
        for (writer, last) in &seen {
            assert!(now.get(writer) >= Some(last), "writer {writer}: {last}, then {:?}", now.get(writer));
        }
        seen = now;
    }
    seen
}

fn checkpoint(lab: &Lab, stop: &AtomicBool) {
    let connection = lab.open("a.db");
    let modes = ["PASSIVE", "FULL", "RESTART", "TRUNCATE"];
    for mode in modes.iter().cycle() {
        if stop.load(SeqCst) {
            return;
        }
        let code = support::code_of(&connection, &format!("PRAGMA wal_checkpoint({mode})")) & 0xff;
        assert!(code == 0 || code == ffi::SQLITE_IOERR, "checkpoint: {code}");
    }
}

/// What fails in a round.
#[derive(Clone, Copy, Debug)]
enum Fault {
    Log { call: Call, nth: u64, done: bool, goes_on: bool },
    Database { word: &'static str, nth: u64 },
}

fn plan(dice: &mut StdRng) -> Fault {
    let nth = dice.random_range(20..400);
    match dice.random_range(0..6) {
        0..=2 => Fault::Log { call: Call::Sync, nth, done: dice.random(), goes_on: dice.random() },
        3..=4 => Fault::Log { call: Call::Write, nth, done: dice.random(), goes_on: true },
        _ => Fault::Database { word: if dice.random() { "a.db: write" } else { "a.db: sync" }, nth: nth / 50 },
    }
}

fn inject(lab: &Lab, fault: Fault) {
    let count = AtomicU64::new(0);
    match fault {
        Fault::Log { call, nth, done, goes_on } => lab.hook(move |moment| {
            if moment.call == call && moment.done == done && moment.name.ends_with(".seg") {
                let number = count.fetch_add(1, SeqCst) + 1;
                if number == nth || (goes_on && number > nth) {
                    return Err(io::Error::from_raw_os_error(5));
                }
            }
            Ok(())
        }),
        Fault::Database { word, nth } => lab.hook_base(move |text| {
            (text.contains(word) && count.fetch_add(1, SeqCst) >= nth).then_some(ffi::SQLITE_IOERR)
        }),
    }
}

fn round(seed: u64, all_full: bool, mode: &str) {
    let mut dice = StdRng::seed_from_u64(seed);
    let fault = plan(&mut dice);
    let what = format!("seed {seed}, {mode}, all full: {all_full}, {fault:?}");
    let _watchdog = Watchdog::new(&what, Duration::from_secs(120));
    let lab = Lab::new();
    let watcher = lab.wal();
    support::run(
        &watcher,
        &format!(
            "PRAGMA parallel_wal_mode={mode}; PRAGMA parallel_wal_segment_bytes=524288;
             CREATE TABLE t(w INTEGER, n INTEGER, PRIMARY KEY(w, n)) WITHOUT ROWID"
        ),
    );
    inject(&lab, fault);
    let (stop, stop_readers) = (AtomicBool::new(false), AtomicBool::new(false));
    let (written, seen) = std::thread::scope(|scope| {
        let (lab, stop, stop_readers) = (&lab, &stop, &stop_readers);
        let writers: Vec<_> =
            (0..4).map(|writer| scope.spawn(move || write(lab, writer, all_full || writer % 2 == 0, stop))).collect();
        let readers: Vec<_> = (0..2).map(|_| scope.spawn(move || read(lab, all_full, stop_readers))).collect();
        let checkpoints = scope.spawn(move || checkpoint(lab, stop));
        // A failed write alone is no poison, and then it is over by the count.
        let end = std::time::Instant::now() + Duration::from_secs(3);
        support::lab::wait_until(|| status(&watcher, "poisoned").is_string() || std::time::Instant::now() > end);
        // The readers go on for a while.
        std::thread::sleep(Duration::from_millis(50));
        stop.store(true, SeqCst);
        let written: Vec<Written> = writers.into_iter().map(|thread| thread.join().unwrap()).collect();
        checkpoints.join().unwrap();
        stop_readers.store(true, SeqCst);
        (written, readers.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<Last>>())
    });
    let poisoned = status(&watcher, "poisoned").as_str().unwrap_or("").to_owned();
    let (is_poisoned, unknown) = (!poisoned.is_empty(), poisoned.contains("unknown"));
    let crashed = lab.crash();
    lab.unhook();
    drop(watcher);
    for (when, reopened) in [("killed", crashed.open()), ("closed", lab.open("a.db"))] {
        support::assert_integrity(&reopened);
        let last = last_rows(&reopened).unwrap();
        let of = |writer: i64| last.get(&writer).copied().unwrap_or(0);
        for Written { writer, full, acknowledged, failed } in &written {
            let there = of(*writer);
            if *full || !is_poisoned {
                assert!(
                    there >= *acknowledged,
                    "{when}, {what}: writer {writer}: {acknowledged} were acknowledged, {there} are there; {poisoned}"
                );
            }
            if let (Some(failed), false) = (failed, unknown) {
                assert!(there < *failed, "{when}, {what}: writer {writer}: {failed} failed and is there; {poisoned}");
            }
        }
        if all_full {
            for seen in &seen {
                for (writer, last) in seen {
                    assert!(
                        of(*writer) >= *last,
                        "{when}, {what}: a reader saw {last} of writer {writer}, {} are there",
                        of(*writer)
                    );
                }
            }
        }
        let total = support::number(&reopened, "SELECT count(*) FROM t");
        assert_eq!(total, last.values().sum::<i64>(), "{when}, {what}: no gaps");
    }
    println!("{what}: {} rows acknowledged; {poisoned}", written.iter().map(|w| w.acknowledged).sum::<i64>());
}

#[test]
fn answers_are_true_when_the_disk_fails_under_threads() {
    if !support::on_pwal() {
        return;
    }
    let seed = env_number("PWAL_TEST_SEED", 1);
    for number in 0..env_number("PWAL_TEST_ROUNDS", 12) {
        let mode = if number % 4 == 3 { "conservative" } else { "auto" };
        round(seed * 1000 + number, number % 2 == 0, mode);
    }
}

/// An engine that is told of a failure in another thread ends its waits, too.
#[test]
fn a_writer_that_waits_in_its_busy_handler_gets_the_error() {
    let lab = Arc::new(Lab::new());
    let connection = lab.wal();
    support::run(&connection, "CREATE TABLE t(x); BEGIN IMMEDIATE; INSERT INTO t VALUES(1)");
    let waiting = lab.open("a.db");
    waiting.busy_timeout(Duration::from_secs(60)).unwrap();
    let watcher = lab.open("a.db");
    support::run(&watcher, "SELECT * FROM t");
    let waits = std::thread::spawn(move || support::code_of(&waiting, "INSERT INTO t VALUES(2)"));
    support::lab::wait_until(|| status(&watcher, "waiting_writers").as_u64() == Some(1));
    lab.hook(|moment| {
        if moment.call == Call::Sync && moment.name.ends_with(".seg") { Err(support::lab::eio()) } else { Ok(()) }
    });
    let began = std::time::Instant::now();
    assert_eq!(support::code_of(&connection, "COMMIT"), ffi::SQLITE_IOERR_FSYNC);
    assert_eq!(waits.join().unwrap() & 0xff, ffi::SQLITE_IOERR);
    assert!(began.elapsed() < Duration::from_secs(30));
}
