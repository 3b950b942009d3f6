//! Single jobs on one connection: a bulk load, VACUUM, transactions behind a reader, the log's size for a commit.

use crate::case::{Case, Load};
use crate::child::{Outcome, Run};
use crate::database::{Random, open, payload};
use crate::seen::{median, shows};
use rusqlite::{Connection, Result};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// About what a row of 100 bytes of text and its entry in an index take of the database.
const ROW_BYTES: u64 = 224;
/// Rows of a transaction behind a reader, and about what they take of a log.
const BATCH: u64 = 1000;
const BATCH_BYTES: u64 = 120_000;
/// Commits whose log is measured.
const COMMITS: u64 = 1000;

pub fn run(path: &Path, case: &Case, run: Run) -> Outcome {
    let connection = open(path, case).expect("open the database");
    connection.query_row("SELECT max(id) FROM t", [], |_| Ok(())).expect("read");
    let mut running = run.begin();
    let job = match case.load {
        Load::Vacuum => vacuum(&connection),
        Load::BehindReader => behind_reader(path, case, &connection),
        Load::LogBytes => log_bytes(path, case, &connection),
        _ => bulk_load(case, &connection),
    };
    let job = job.expect("the job");
    let mut outcome = running.end(path, case);
    outcome.acknowledged = job.acknowledged;
    outcome.operations = vec![job.operations];
    outcome.seconds = job.times.iter().sum::<Duration>().as_secs_f64();
    job.times.iter().for_each(|time| outcome.latencies.record(*time));
    outcome.more.extend(job.more.map(|(name, value)| (name.to_owned(), value)));
    outcome
}

struct Job {
    acknowledged: u64,
    operations: u64,
    times: Vec<Duration>,
    more: Option<(&'static str, f64)>,
}

fn bulk_load(case: &Case, connection: &Connection) -> Result<Job> {
    let rows = (case.mib << 20) / ROW_BYTES;
    let mut random = Random::new(1);
    let mut insert = connection.prepare("INSERT INTO t(thread, n, value) VALUES(0, 1, ?1)")?;
    let begin = Instant::now();
    connection.execute_batch("BEGIN IMMEDIATE")?;
    for _ in 0..rows {
        insert.execute([format!("{:0100}", random.below(u64::MAX))])?;
    }
    connection.execute_batch("COMMIT")?;
    Ok(Job { acknowledged: rows, operations: rows, times: vec![begin.elapsed()], more: None })
}

fn vacuum(connection: &Connection) -> Result<Job> {
    let begin = Instant::now();
    connection.execute_batch("VACUUM")?;
    Ok(Job { acknowledged: 0, operations: 1, times: vec![begin.elapsed()], more: None })
}

/// What a reader keeps from being checkpointed grows; a commit must not become slower by it.
fn behind_reader(path: &Path, case: &Case, connection: &Connection) -> Result<Job> {
    let reader = open(path, case)?;
    reader.execute_batch("BEGIN")?;
    reader.query_row("SELECT max(id) FROM t", [], |_| Ok(()))?;
    let mut insert = connection.prepare("INSERT INTO t(thread, n, value) VALUES(0, 1, ?1)")?;
    let (transactions, payload) = ((case.mib << 20) / BATCH_BYTES, payload());
    let mut times = Vec::new();
    for _ in 0..transactions {
        let begin = Instant::now();
        connection.execute_batch("BEGIN IMMEDIATE")?;
        for _ in 0..BATCH {
            insert.execute([payload.as_str()])?;
        }
        connection.execute_batch("COMMIT")?;
        times.push(begin.elapsed());
    }
    reader.execute_batch("COMMIT")?;
    let tenth = (times.len() / 10).max(1);
    let middle = |times: &[Duration]| median(&times.iter().map(Duration::as_secs_f64).collect::<Vec<_>>());
    let growth = middle(&times[times.len().saturating_sub(tenth)..])
        .zip(middle(&times[..tenth.min(times.len())]))
        .map(|(last, first)| (shows::GROWTH, last / first));
    Ok(Job { acknowledged: transactions * BATCH, operations: transactions, times, more: growth })
}

fn log_bytes(path: &Path, case: &Case, connection: &Connection) -> Result<Job> {
    connection.execute_batch("PRAGMA wal_autocheckpoint=0")?;
    let mut update = connection.prepare("UPDATE t SET n = n + 1 WHERE id = 1")?;
    let mut times = Vec::new();
    let before = written(path, case);
    for _ in 0..COMMITS {
        let begin = Instant::now();
        update.execute([])?;
        times.push(begin.elapsed());
    }
    let bytes = (written(path, case) - before) as f64 / COMMITS as f64;
    Ok(Job { acknowledged: COMMITS, operations: COMMITS, times, more: Some((shows::LOG_BYTES, bytes)) })
}

/// Bytes of the log: a segment of pwal is filled with zeros before it is written. (Only while nothing was checkpointed.)
fn written(path: &Path, case: &Case) -> u64 {
    let beside = |suffix: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        PathBuf::from(name)
    };
    if !case.is_pwal() {
        return std::fs::metadata(beside("-wal")).map_or(0, |file| file.len());
    }
    let Ok(entries) = std::fs::read_dir(beside("-pwal")) else { return 0 };
    let segments = entries.flatten().filter(|entry| entry.path().extension().is_some_and(|suffix| suffix == "seg"));
    segments.map(|segment| to_last_nonzero(&segment.path())).sum()
}

/// To the end of the sector with the last byte that is not zero.
fn to_last_nonzero(path: &Path) -> u64 {
    let mut bytes = Vec::new();
    File::open(path).and_then(|mut file| file.read_to_end(&mut bytes)).expect("read a segment");
    bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| (last as u64 / 512 + 1) * 512)
}
