//! How soon another connection notices a commit, and what that costs: `pwal_wait_commit`, or `PRAGMA data_version` again and again.

use crate::case::Case;
use crate::child::{Outcome, Run};
use crate::database::{Random, open};
use crate::seen::Latencies;
use rusqlite::{Connection, Result};
use std::path::Path;
use std::sync::Barrier;
use std::time::{Duration, Instant};

/// How often `data_version` is asked.
const POLL: Duration = Duration::from_millis(1);

pub fn run(path: &Path, case: &Case, run: Run) -> Outcome {
    let base = Instant::now();
    let writer = open(path, case).expect("open the database");
    let (start, end) = (Barrier::new(2), Barrier::new(2));
    std::thread::scope(|threads| {
        let waiter = threads.spawn(|| {
            let connection = open(path, case).expect("open the database");
            let mut waiter = Waiter::new(&connection, case.is_pwal()).expect("read");
            start.wait();
            let latencies = wait(&mut waiter, base).expect("wait for commits");
            // Its switches are counted while it is there.
            end.wait();
            latencies
        });
        start.wait();
        let mut running = run.begin();
        let commits = write(&writer, base, Duration::from_millis(case.run_ms)).expect("commit");
        let mut outcome = running.end(path, case);
        end.wait();
        outcome.latencies = waiter.join().expect("the waiter");
        outcome.acknowledged = commits;
        outcome.operations = vec![commits];
        outcome
    })
}

/// A commit each 1 to 3 ms, which says when it began; the last one with a minus.
fn write(connection: &Connection, base: Instant, length: Duration) -> Result<u64> {
    let mut insert = connection.prepare("INSERT INTO t(thread, n, value) VALUES(0, 1, ?1)")?;
    let mut random = Random::new(1);
    let (begin, mut commits) = (Instant::now(), 0);
    loop {
        std::thread::sleep(Duration::from_micros(1000 + random.below(2000)));
        let is_over = begin.elapsed() >= length;
        let now = base.elapsed().as_nanos() as i64;
        insert.execute([if is_over { -now } else { now }])?;
        commits += 1;
        if is_over {
            return Ok(commits);
        }
    }
}

fn wait(waiter: &mut Waiter<'_>, base: Instant) -> Result<Latencies> {
    let mut latencies = Latencies::new();
    let mut newest = waiter.connection.prepare("SELECT value FROM t ORDER BY id DESC LIMIT 1")?;
    loop {
        waiter.wait()?;
        let value: i64 = newest.query_row([], |row| row.get(0))?;
        latencies.record(base.elapsed().saturating_sub(Duration::from_nanos(value.unsigned_abs())));
        if value < 0 {
            return Ok(latencies);
        }
    }
}

struct Waiter<'a> {
    connection: &'a Connection,
    waits: bool,
    /// A commit, or a data version.
    seen: i64,
}

impl<'a> Waiter<'a> {
    fn new(connection: &'a Connection, waits: bool) -> Result<Waiter<'a>> {
        connection.query_row("SELECT max(id) FROM t", [], |_| Ok(()))?;
        let mut waiter = Waiter { connection, waits, seen: 0 };
        waiter.seen = if waits { waiter.newest(0)? } else { waiter.version()? };
        Ok(waiter)
    }

    /// Until there is a commit that was not seen.
    fn wait(&mut self) -> Result<()> {
        loop {
            let now = if self.waits { self.newest(1000)? } else { self.version()? };
            if std::mem::replace(&mut self.seen, now) != now {
                return Ok(());
            }
            if !self.waits {
                std::thread::sleep(POLL);
            }
        }
    }

    fn newest(&self, timeout_ms: i64) -> Result<i64> {
        let mut wait = self.connection.prepare_cached("SELECT pwal_wait_commit(?1, ?2)")?;
        wait.query_row([self.seen, timeout_ms], |row| row.get(0))
    }

    fn version(&self) -> Result<i64> {
        self.connection.prepare_cached("PRAGMA data_version")?.query_row([], |row| row.get(0))
    }
}
