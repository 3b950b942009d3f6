//! One script of commits, rollbacks, checkpoints, rotations and spills, again and again: each time another operation of
//! the disk or of the database file fails, once or from then on. Whatever is answered, it is true: what was acknowledged is
//! there, what was refused is not, for everybody, now, after a kill, and after a close.
//!
//! `PWAL_TEST_STRIDE=1` tries every operation (the default takes a sample); `PWAL_TEST_FAULT=<name>` tries one again.

use rusqlite::{Connection, ffi};
use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;
use support::lab::{Call, Lab, status};
use support::{Watchdog, env_number};

/// What fails: the how manieth operation of which kind, and how.
#[derive(Clone, Copy, Debug)]
struct Fault {
    kind: Kind,
    nth: u64,
    how: How,
    goes_on: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Log(Call),
    /// Of the database file: the word in the call.
    Base(&'static str),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    /// An error instead of the operation.
    Error,
    /// It is done, and answered with an error.
    DoneAndError,
    NoSpace,
}

const KINDS: [Kind; 8] = [
    Kind::Log(Call::Write),
    Kind::Log(Call::Sync),
    Kind::Log(Call::Create),
    Kind::Log(Call::Open),
    Kind::Log(Call::Remove),
    Kind::Base("a.db: write"),
    Kind::Base("a.db: sync"),
    Kind::Base("a.db: truncate"),
];

impl Fault {
    fn name(&self) -> String {
        format!("{:?} {} {:?} {}", self.kind, self.nth, self.how, self.goes_on)
    }

    fn hits(&self, count: u64) -> bool {
        count == self.nth || (self.goes_on && count > self.nth)
    }

    /// Counts the operations of its kind from now on; returns the count.
    fn plan(self, lab: &Lab) -> Arc<AtomicU64> {
        let count = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&count);
        match self.kind {
            Kind::Log(call) => lab.hook(move |moment| {
                if moment.call != call
                    || !moment.name.ends_with(".seg") && !moment.name.ends_with(".spill") && call == Call::Write
                {
                    return Ok(());
                }
                let number = if moment.done { counted.load(SeqCst) } else { counted.fetch_add(1, SeqCst) + 1 };
                let is_behind = self.how == How::DoneAndError;
                if moment.done == is_behind && self.hits(number) {
                    return Err(io::Error::from_raw_os_error(if self.how == How::NoSpace { 28 } else { 5 }));
                }
                Ok(())
            }),
            Kind::Base(word) => lab.hook_base(move |text| {
                if !text.contains(word) {
                    return None;
                }
                let code = match (self.how, word) {
                    (How::NoSpace, _) => ffi::SQLITE_FULL,
                    (_, "a.db: sync") => ffi::SQLITE_IOERR_FSYNC,
                    (_, "a.db: truncate") => ffi::SQLITE_IOERR_TRUNCATE,
                    _ => ffi::SQLITE_IOERR_WRITE,
                };
                self.hits(counted.fetch_add(1, SeqCst) + 1).then_some(code)
            }),
        }
        count
    }
}

/// What was answered.
#[derive(Default)]
struct Answers {
    acknowledged: BTreeSet<i64>,
    refused: BTreeSet<i64>,
    log: Vec<String>,
}

impl Answers {
    fn commit(&mut self, connection: &Connection, value: i64, sql: &str) {
        let code = support::code_of(connection, sql);
        self.log.push(format!("{value}: {code}"));
        if code == 0 {
            self.acknowledged.insert(value);
            return;
        }
        self.refused.insert(value);
        if !connection.is_autocommit() {
            let _ = connection.execute_batch("ROLLBACK");
        }
    }

    fn run(&mut self, connection: &Connection, sql: &str) {
        let code = support::code_of(connection, sql);
        if code != 0 {
            self.log.push(format!("{sql}: {code}"));
        }
    }

    /// Whether these rows are what was answered. `unknown`: a flush failed and could not be undone.
    fn check(&self, rows: &[String], unknown: bool, when: &str) {
        let rows: BTreeSet<i64> = rows.iter().map(|row| row.parse().unwrap()).collect();
        let missing: Vec<_> = self.acknowledged.difference(&rows).collect();
        assert!(missing.is_empty(), "{when}: acknowledged and not there: {missing:?}\n{:#?}", self.log);
        let phantoms: Vec<_> = rows.intersection(&self.refused).collect();
        assert!(unknown || phantoms.is_empty(), "{when}: refused and there: {phantoms:?}\n{:#?}", self.log);
    }
}

const ROWS: &str = "SELECT DISTINCT x FROM t ORDER BY x";

fn script(lab: &Lab, mode: &str, answers: &mut Answers) -> (Connection, Connection) {
    let connection = lab.wal();
    support::run(
        &connection,
        &format!(
            "PRAGMA parallel_wal_mode={mode}; PRAGMA parallel_wal_segment_bytes=262144; PRAGMA parallel_wal_max_batch_bytes=65536"
        ),
    );
    let other = lab.open("a.db");
    support::run(&other, "PRAGMA wal_autocheckpoint=0; SELECT * FROM sqlite_schema");
    let insert = |value: i64| format!("INSERT INTO t VALUES({value}, zeroblob(100))");
    let many = |value: i64, bytes: i64| {
        format!(
            "BEGIN; INSERT INTO t WITH n(i) AS (VALUES(1) UNION ALL SELECT i+1 FROM n WHERE i<30) SELECT {value}, zeroblob({bytes}) FROM n; COMMIT"
        )
    };
    answers.run(&connection, "CREATE TABLE IF NOT EXISTS t(x, b)");
    let mut value = 0;
    let mut next = || {
        value += 1;
        value
    };
    for round in 0..2 {
        for full in [true, false, true] {
            answers.run(&connection, if full { "PRAGMA synchronous=FULL" } else { "PRAGMA synchronous=NORMAL" });
            for _ in 0..3 {
                let value = next();
                answers.commit(&connection, value, &insert(value));
            }
            let value = next();
            answers.commit(&connection, value, &many(value, 1500));
        }
        answers.run(
            &connection,
            "BEGIN; INSERT INTO t VALUES(-1, zeroblob(9000)); SAVEPOINT s; DELETE FROM t; ROLLBACK TO s; ROLLBACK",
        );
        let value = next();
        answers.commit(&connection, value, &many(value, 6000));
        answers.run(&other, ROWS);
        answers.run(&connection, "PRAGMA wal_checkpoint");
        answers.run(&other, "BEGIN; SELECT count(*) FROM t");
        for _ in 0..12 {
            let value = next();
            answers.commit(&connection, value, &many(value, 100));
        }
        answers.run(&other, "COMMIT");
        if round == 0 {
            answers.run(&connection, "DELETE FROM t WHERE x BETWEEN 1000 AND 2000; PRAGMA wal_checkpoint(TRUNCATE)");
        }
        let value = next();
        answers.commit(&other, value, &insert(value));
    }
    (connection, other)
}

fn try_fault(fault: Option<Fault>, mode: &str) -> u64 {
    let name = fault.map_or_else(String::new, |fault| fault.name());
    let what = format!("{mode}: {name}");
    let _watchdog = Watchdog::new(&what, Duration::from_secs(120));
    let lab = Lab::new();
    support::close(lab.wal());
    let mut answers = Answers::default();
    let count = fault.map(|fault| fault.plan(&lab));
    let (connection, other) = script(&lab, mode, &mut answers);
    if fault.is_none() {
        assert!(status(&connection, "spills").as_u64() > Some(0), "the script spills");
        assert!(status(&connection, "slots").as_u64() > Some(2), "the script rotates");
    }
    let poisoned = status(&connection, "poisoned").as_str().unwrap_or("").to_owned();
    answers.log.push(format!("poisoned: {poisoned}"));
    let (lost, unknown) = (!poisoned.is_empty(), poisoned.contains("unknown"));

    // Everybody who may still read sees the same.
    match support::rows(&other, ROWS) {
        Ok(rows) => answers.check(&rows, false, &format!("{what}: live")),
        Err(error) => {
            let code = support::code(&error);
            let no_table = code == ffi::SQLITE_ERROR && answers.acknowledged.is_empty();
            assert!(lost || no_table, "{what}: live: {error:?}\n{:#?}", answers.log);
        }
    }
    let crashed = lab.crash();
    if fault.is_some_and(|fault| fault.goes_on) {
        // The disk has failed for good; then another one, or another day.
        support::close(other);
        drop(connection);
        lab.unhook();
    } else {
        lab.unhook();
        drop((connection, other));
    }
    for (when, reopened) in [("killed", crashed.open()), ("closed", lab.open("a.db"))] {
        match support::rows(&reopened, ROWS) {
            Ok(rows) => answers.check(&rows, unknown, &format!("{what}: {when}")),
            Err(error) => {
                let no_table = support::code(&error) == ffi::SQLITE_ERROR && answers.acknowledged.is_empty();
                assert!(no_table, "{what}: {when}: {error:?}\n{:#?}", answers.log);
            }
        }
        support::assert_integrity(&reopened);
        let path = if when == "killed" { crashed.path().to_path_buf() } else { lab.path() };
        support::close(reopened);
        support::assert_plain(&path);
    }
    count.map_or(0, |count| count.load(SeqCst))
}

fn every_fault(mode: &str) {
    if !support::on_pwal() {
        return;
    }
    try_fault(None, mode);
    let stride = env_number("PWAL_TEST_STRIDE", 7);
    let only = std::env::var("PWAL_TEST_FAULT").ok();
    let mut tried = 0;
    for kind in KINDS {
        let total = try_fault(Some(Fault { kind, nth: u64::MAX, how: How::Error, goes_on: false }), mode);
        println!("{mode}: {total} operations of {kind:?}");
        let hows = if matches!(kind, Kind::Log(_)) {
            &[How::Error, How::DoneAndError, How::NoSpace][..]
        } else {
            &[How::Error, How::NoSpace]
        };
        for (number, &how) in hows.iter().enumerate() {
            for goes_on in [false, true] {
                // Another sample for each way to fail.
                let first = 1 + (number as u64 * 2 + u64::from(goes_on)) % stride;
                for nth in (first..=total + 3).step_by(usize::try_from(stride).unwrap()) {
                    let fault = Fault { kind, nth, how, goes_on };
                    if only.as_ref().is_none_or(|only| *only == fault.name()) {
                        try_fault(Some(fault), mode);
                        tried += 1;
                    }
                }
            }
        }
    }
    println!("{mode}: {tried} faults");
}

#[test]
fn every_fault_in_auto_mode() {
    every_fault("auto");
}

#[test]
fn every_fault_in_conservative_mode() {
    every_fault("conservative");
}
