//! Opening after a crash: a process fills the log and is killed; another opens the database, which is not cached.

use crate::Error;
use crate::case::Case;
use crate::child::{Outcome, READY, Run};
use crate::counters::field;
use crate::database::{connect, open as open_case};
use crate::parent::Process;
use crate::seen::shows;
use rustix::fs::{Advice, fadvise};
use std::fs::File;
use std::path::Path;
use std::time::Instant;

/// One page of the database for each row.
const ROW_BYTES: usize = 3900;
const PAGE_BYTES: u64 = 4096;
/// Rows of a transaction.
const BATCH: u64 = 256;

fn rows(case: &Case) -> u64 {
    ((case.mib << 20) / PAGE_BYTES).next_multiple_of(BATCH)
}

/// The process that is killed: fills the log, says so, and waits.
pub fn fill(path: &Path, case: &Case) -> ! {
    if case.is_pwal() {
        pwal::register().expect("the VFS pwal");
    }
    let connection =
        open_case(path, &Case { synchronous: "NORMAL".into(), ..case.clone() }).expect("open the database");
    connection.execute_batch("PRAGMA wal_autocheckpoint=0").expect("a pragma");
    let row = vec![b'x'; ROW_BYTES];
    let mut insert = connection.prepare("INSERT INTO t(thread, n, value) VALUES(0, 1, ?1)").expect("prepare");
    for number in 0..rows(case) {
        if number.is_multiple_of(BATCH) {
            connection.execute_batch("BEGIN IMMEDIATE").expect("begin");
        }
        insert.execute([&row]).expect("insert");
        if (number + 1).is_multiple_of(BATCH) {
            connection.execute_batch("COMMIT").expect("commit");
        }
    }
    println!("{READY}");
    loop {
        std::thread::park();
    }
}

pub fn kill_when_full(mut process: Process) -> Result<(), Error> {
    process.wait_until_ready()?;
    process.kill()
}

/// Takes all files below `directory` out of the page cache.
pub fn uncache(directory: &Path) -> Result<(), Error> {
    for entry in std::fs::read_dir(directory).map_err(Error::io("list", directory))? {
        let path = entry.map_err(Error::io("list", directory))?.path();
        if path.is_dir() {
            uncache(&path)?;
            continue;
        }
        let file = File::open(&path).map_err(Error::io("open", &path))?;
        // What is not written yet stays in the cache.
        file.sync_all().map_err(Error::io("sync", &path))?;
        fadvise(&file, 0, None, Advice::DontNeed)
            .map_err(|error| Error::io("take from the cache", &path)(error.into()))?;
    }
    Ok(())
}

/// Open, read, and what stock does by the first checkpoint: until the database file has everything.
pub fn open(path: &Path, case: &Case, run: Run) -> Outcome {
    let read_before = read_bytes();
    let mut running = run.begin();
    let begin = Instant::now();
    let connection = connect(path, &case.vfs).expect("open the database");
    let last: i64 = connection.query_row("SELECT max(id) FROM t", [], |row| row.get(0)).expect("read");
    let busy: i64 = connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| row.get(0)).expect("checkpoint");
    let took = begin.elapsed();
    assert_eq!((last.unsigned_abs(), busy), (rows(case), 0), "commits before the crash");
    let mut outcome = running.end(path, case);
    outcome.acknowledged = rows(case);
    outcome.operations = vec![1];
    outcome.seconds = took.as_secs_f64();
    outcome.latencies.record(took);
    if let Some(bytes) = read_bytes().zip(read_before).map(|(now, before)| now - before) {
        outcome.more.insert(shows::READS.to_owned(), bytes as f64 / (case.mib << 20) as f64);
    }
    outcome
}

/// What this process has read by system calls, from a cache or not.
fn read_bytes() -> Option<u64> {
    field(&std::fs::read_to_string("/proc/self/io").ok()?, "rchar:")
}
