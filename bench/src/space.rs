//! What many connections take: memory, file descriptors, threads.

use crate::case::{Case, Load};
use crate::child::{Outcome, Run};
use crate::counters::field;
use crate::database::open;
use crate::seen::shows;
use rusqlite::{Connection, Result};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

const CONNECTIONS: u64 = 32;
const DATABASES: u64 = 100;

pub fn run(path: &Path, case: &Case, run: Run) -> Outcome {
    let is_one = case.load == Load::Connections;
    let count = if is_one { CONNECTIONS } else { DATABASES };
    // What any use of SQLite takes is not counted.
    drop(use_one(&path.with_file_name("other.db"), case).expect("another database"));
    let before = Taken::now();
    let mut running = run.begin();
    let (mut all, mut times) = (Vec::new(), Vec::new());
    for number in 0..count {
        let file = if is_one { path.to_owned() } else { PathBuf::from(format!("{}-{number}.db", path.display())) };
        let begin = Instant::now();
        all.push(use_one(&file, case).expect("a connection that commits"));
        times.push(begin.elapsed());
    }
    let taken = Taken::now();
    let mut outcome = running.end(path, case);
    outcome.acknowledged = if is_one { count } else { 0 };
    outcome.operations = vec![count];
    outcome.seconds = times.iter().sum::<std::time::Duration>().as_secs_f64();
    times.iter().for_each(|time| outcome.latencies.record(*time));
    let more = |now: Option<u64>, before: Option<u64>| Some(now?.saturating_sub(before?) as f64);
    let more = [
        (shows::MEMORY_KIB, more(taken.memory_kib, before.memory_kib)),
        (shows::DESCRIPTORS, more(taken.descriptors, before.descriptors)),
        (shows::THREADS, more(taken.threads, before.threads)),
    ];
    outcome.more.extend(more.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))));
    outcome
}

/// A connection that has read and committed.
fn use_one(path: &Path, case: &Case) -> Result<Connection> {
    let connection = open(path, case)?;
    connection.query_row("PRAGMA journal_mode=WAL", [], |_| Ok(()))?;
    connection.execute_batch("CREATE TABLE IF NOT EXISTS t(id INTEGER PRIMARY KEY, thread, n, value)")?;
    connection.execute_batch("INSERT INTO t(thread, n, value) VALUES(0, 1, 'one row')")?;
    Ok(connection)
}

/// By `/proc`; not known elsewhere.
struct Taken {
    memory_kib: Option<u64>,
    descriptors: Option<u64>,
    threads: Option<u64>,
}

impl Taken {
    fn now() -> Taken {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let descriptors = fs::read_dir("/proc/self/fd").ok().map(|entries| entries.count() as u64);
        Taken { memory_kib: field(&status, "VmRSS:"), descriptors, threads: field(&status, "Threads:") }
    }
}
