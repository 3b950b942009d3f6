//! One measured run in a process of its own: threads on one database, each with its own connection.

use crate::slow_sync;
use crate::support::quantile;
use rusqlite::{Connection, ErrorCode, OpenFlags};
use std::path::Path;
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

/// What one run showed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Seen {
    /// Operations in a second: commits, or with reads commits and reads.
    pub rate: f64,
    /// The slowest thread's operations, divided by the fastest's.
    pub fairness: f64,
    /// Latency of a commit (of an operation, if nothing is written) in microseconds.
    pub median_us: f64,
    /// 99% are below.
    pub p99_us: f64,
    /// The longest one.
    pub max_us: f64,
    /// Processor time of the whole process for each operation, in microseconds.
    pub cpu_us: f64,
    /// How often the application was told "database is locked".
    pub locked: f64,
    /// What a sync cost more, in microseconds, as measured.
    pub extra_us: f64,
}

const ROWS: u64 = 10_000;
/// What rusqlite sets by itself.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

impl Load {
    /// As arguments of the child.
    pub fn to_arguments(&self) -> Vec<String> {
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

impl Seen {
    fn to_line(&self) -> String {
        format!(
            "{} {} {} {} {} {} {} {}",
            self.rate, self.fairness, self.median_us, self.p99_us, self.max_us, self.cpu_us, self.locked, self.extra_us
        )
    }

    /// What the child printed.
    pub fn from_line(line: &str) -> Option<Seen> {
        let numbers: Vec<f64> = line.split_whitespace().map(str::parse).collect::<Result<_, _>>().ok()?;
        let [rate, fairness, median_us, p99_us, max_us, cpu_us, locked, extra_us] = numbers[..] else { return None };
        Some(Seen { rate, fairness, median_us, p99_us, max_us, cpu_us, locked, extra_us })
    }
}

/// The child: runs the load of its arguments on a new database in `directory`, prints what it saw.
pub fn child(directory: &Path, words: &[String]) {
    let load = Load::from_arguments(words).expect("the arguments that the parent made");
    // Where that is permitted: what else runs on the machine delays each wake by a time slice of some ms.
    // SAFETY: numbers only; a refusal changes nothing.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, -20) };
    if load.vfs == "pwal" {
        pwal::register().expect("the VFS pwal");
    }
    let extra = match load.extra_us {
        0 => Duration::ZERO,
        us => slow_sync::install(Duration::from_micros(us)).expect("a kernel with seccomp user notification"),
    };
    let mut seen = run(&directory.join("app.db"), &load);
    seen.extra_us = extra.as_nanos() as f64 / 1000.0;
    println!("{}", seen.to_line());
}

fn open(path: &Path, vfs: &str, synchronous: &str) -> Connection {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags_and_vfs(path, flags, vfs).expect("open the database");
    connection.busy_timeout(BUSY_TIMEOUT).expect("busy timeout");
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
        first.execute_batch("CREATE TABLE t(id INTEGER PRIMARY KEY, thread, value)").expect("the table");
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
    let mut latencies: Vec<u64> = done.iter().flat_map(|each| each.latencies_ns.iter().copied()).collect();
    latencies.sort_unstable();
    let us = |ns: u64| ns as f64 / 1000.0;
    Seen {
        rate: operations(|a, b| a + b, 0) / length.as_secs_f64(),
        fairness: operations(u64::min, u64::MAX) / operations(u64::max, 1),
        median_us: us(quantile(&latencies, 0.5)),
        p99_us: us(quantile(&latencies, 0.99)),
        max_us: us(latencies.last().copied().unwrap_or(0)),
        cpu_us: cpu / operations(|a, b| a + b, 0).max(1.0),
        locked: done.iter().map(|each| each.locked).sum::<u64>() as f64,
        extra_us: 0.0,
    }
}

/// Processor time that this process has used, in microseconds.
fn cpu_us() -> f64 {
    let used = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    used.tv_sec as f64 * 1e6 + used.tv_nsec as f64 / 1e3
}

fn work(connection: &Connection, index: usize, start: &Barrier, load: &Load, length: Duration) -> Done {
    let mut insert = connection.prepare("INSERT INTO t(thread, value) VALUES(?1, ?2)").expect("prepare");
    let mut select = connection.prepare("SELECT value FROM t WHERE id = ?1").expect("prepare");
    let payload = "x".repeat(100);
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
            Err(error)
                if matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked)) =>
            {
                done.locked += 1;
                done.latencies_ns.push(before.elapsed().as_nanos() as u64);
            }
            Err(error) => panic!("thread {index}: {error}"),
        }
    }
    done
}
