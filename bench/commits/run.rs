//! One measured run in a process of its own: threads on one database, each with its own connection.

use crate::support::compare::Seen;
use crate::support::run::{CREATE, INSERT, begin, connect, cpu_us, is_locked, payload};
use rusqlite::Connection;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Barrier;
use std::time::{Duration, Instant};

/// What one run does.
#[derive(Clone, Debug, PartialEq)]
pub struct Load {
    /// The VFS.
    pub vfs: String,
    /// `PRAGMA synchronous`.
    pub synchronous: String,
    /// Threads.
    pub threads: usize,
    /// What each sync costs more, in microseconds.
    pub extra_us: u64,
    /// Of a hundred operations, how many are autocommit inserts; the others read a row by its key.
    pub writes: u64,
    /// How long the run lasts, in milliseconds.
    pub length_ms: u64,
}

const ROWS: u64 = 10_000;

impl Load {
    /// As arguments of the child.
    fn to_arguments(&self) -> Vec<String> {
        vec![
            self.vfs.clone(),
            self.synchronous.clone(),
            self.threads.to_string(),
            self.extra_us.to_string(),
            self.writes.to_string(),
            self.length_ms.to_string(),
        ]
    }

    fn from_arguments(words: &[String]) -> Option<Load> {
        let [vfs, synchronous, threads, extra_us, writes, length_ms] = words else { return None };
        Some(Load {
            vfs: vfs.clone(),
            synchronous: synchronous.clone(),
            threads: threads.parse().ok()?,
            extra_us: extra_us.parse().ok()?,
            writes: writes.parse().ok()?,
            length_ms: length_ms.parse().ok()?,
        })
    }
}

/// What the child prints.
fn to_line(seen: &Seen) -> String {
    let Seen { rate, fairness, median_us, p99_us, longest_us, cpu_us, locked, extra_us } = seen;
    format!("{rate} {fairness} {median_us} {p99_us} {longest_us} {cpu_us} {locked} {extra_us}")
}

fn from_line(line: &str) -> Option<Seen> {
    let numbers: Vec<f64> = line.split_whitespace().map(str::parse).collect::<Result<_, _>>().ok()?;
    let [rate, fairness, median_us, p99_us, longest_us, cpu_us, locked, extra_us] = numbers[..] else { return None };
    Some(Seen { rate, fairness, median_us, p99_us, longest_us, cpu_us, locked, extra_us })
}

/// Runs `load` in a process of its own, on a new database below `directory`.
pub fn measure(directory: &Path, load: &Load) -> Result<Seen, String> {
    let place = tempfile::tempdir_in(directory).map_err(|error| error.to_string())?;
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let child = Command::new(program)
        .arg("--run")
        .arg(place.path())
        .args(load.to_arguments())
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| error.to_string())?;
    let text = String::from_utf8_lossy(&child.stdout);
    from_line(&text).filter(|_| child.status.success()).ok_or_else(|| format!("{load:?}: {}", child.status))
}

/// The child: runs the load of its arguments on a new database in `directory`, prints what it saw.
pub fn child(directory: &Path, words: &[String]) {
    let load = Load::from_arguments(words).expect("the arguments that the parent made");
    let extra = begin(&load.vfs, load.extra_us);
    let seen = run(&directory.join("app.db"), &load);
    println!("{}", to_line(&Seen { extra_us: extra.as_nanos() as f64 / 1000.0, ..seen }));
}

fn open(path: &Path, vfs: &str, synchronous: &str) -> Connection {
    let connection = connect(path, vfs).expect("open the database");
    let mode: String = connection.query_row("PRAGMA journal_mode=WAL", [], |row| row.get(0)).expect("journal mode");
    assert_eq!(mode, "wal");
    connection.pragma_update(None, "synchronous", synchronous).expect("synchronous");
    connection
}

struct Done {
    acknowledged: u64,
    /// Operations that ended before the time was over.
    operations: u64,
    latencies_ns: Vec<u64>,
    locked: u64,
}

fn run(path: &Path, load: &Load) -> Seen {
    {
        let mut first = open(path, &load.vfs, "OFF");
        first.execute_batch(CREATE).expect("the table");
        if load.writes < 100 {
            let all = first.transaction().expect("begin");
            for _ in 0..ROWS {
                all.execute("INSERT INTO t(thread, value) VALUES(-1, hex(randomblob(50)))", []).expect("insert");
            }
            all.commit().expect("commit");
        }
    }
    let length = Duration::from_millis(load.length_ms);
    let cpu_before = cpu_us();
    let start = Barrier::new(load.threads);
    let done: Vec<Done> = std::thread::scope(|threads| {
        let handles: Vec<_> = (0..load.threads)
            .map(|index| {
                let start = &start;
                threads.spawn(move || work(&open(path, &load.vfs, &load.synchronous), index, start, load, length))
            })
            .collect();
        handles.into_iter().map(|handle| handle.join().expect("a worker")).collect()
    });
    let cpu = cpu_us() - cpu_before;
    // Stock SQLite counts what both say they have written.
    let acknowledged: u64 = done.iter().map(|each| each.acknowledged).sum();
    let rows: i64 = open(path, "unix", "FULL")
        .query_row("SELECT count(*) FROM t WHERE thread >= 0", [], |row| row.get(0))
        .expect("count the rows");
    assert_eq!(u64::try_from(rows), Ok(acknowledged), "rows and acknowledged commits");
    let operations =
        |pick: fn(u64, u64) -> u64, first| done.iter().map(|each| each.operations).fold(first, pick) as f64;
    let seen = Seen {
        rate: operations(|a, b| a + b, 0) / length.as_secs_f64(),
        fairness: operations(u64::min, u64::MAX) / operations(u64::max, 1),
        cpu_us: cpu as f64 / operations(|a, b| a + b, 0).max(1.0),
        locked: done.iter().map(|each| each.locked).sum::<u64>() as f64,
        ..Seen::default()
    };
    seen.with_latencies(done.into_iter().flat_map(|each| each.latencies_ns).collect())
}

fn work(connection: &Connection, index: usize, start: &Barrier, load: &Load, length: Duration) -> Done {
    let mut insert = connection.prepare(INSERT).expect("prepare");
    let mut select = connection.prepare("SELECT value FROM t WHERE id = ?1").expect("prepare");
    let payload = payload();
    let mut done = Done { acknowledged: 0, operations: 0, latencies_ns: Vec::with_capacity(1 << 16), locked: 0 };
    // A fixed sequence for each thread (splitmix64).
    let mut state = index as u64;
    let mut random = move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb) >> 33
    };
    start.wait();
    let begin = Instant::now();
    while begin.elapsed() < length {
        let writes = random() % 100 < load.writes;
        let before = Instant::now();
        let result = if writes {
            insert.execute((index as i64, payload.as_str())).map(|_| done.acknowledged += 1)
        } else {
            select.query_row([(random() % ROWS + 1) as i64], |row| row.get_ref(0).map(|_| ()))
        };
        match result {
            Ok(()) => {
                done.operations += u64::from(begin.elapsed() < length);
                if writes || load.writes == 0 {
                    done.latencies_ns.push(before.elapsed().as_nanos() as u64);
                }
            }
            Err(error) if is_locked(&error) => {
                done.locked += 1;
                done.latencies_ns.push(before.elapsed().as_nanos() as u64);
            }
            Err(error) => panic!("thread {index}: {error}"),
        }
    }
    done
}
