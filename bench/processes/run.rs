//! One measured run: processes that begin together on one database, each thread with its own connection.

use crate::support::compare::Seen;
use crate::support::run::{CREATE, INSERT, begin, connect, cpu_us, is_locked, payload};
use rusqlite::Connection;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Barrier;
use std::time::{Duration, Instant};

/// What one run does.
#[derive(Clone, Debug, PartialEq)]
pub struct Load {
    /// The VFS.
    pub vfs: String,
    /// `PRAGMA parallel_wal_mode`; stock does not know it.
    pub mode: String,
    /// `PRAGMA synchronous`.
    pub synchronous: String,
    /// What each sync costs more, in microseconds.
    pub extra_us: u64,
    /// Processes.
    pub processes: usize,
    /// Threads of each process.
    pub threads: usize,
    /// How long the run lasts, in milliseconds.
    pub length_ms: u64,
}

/// A process that has not ended so long after the run hangs.
const PATIENCE: Duration = Duration::from_secs(60);

impl Load {
    /// As arguments of a child.
    fn to_arguments(&self) -> Vec<String> {
        vec![
            self.vfs.clone(),
            self.mode.clone(),
            self.synchronous.clone(),
            self.extra_us.to_string(),
            self.processes.to_string(),
            self.threads.to_string(),
            self.length_ms.to_string(),
        ]
    }

    fn from_arguments(words: &[String]) -> Option<Load> {
        let [vfs, mode, synchronous, extra_us, processes, threads, length_ms] = words else { return None };
        Some(Load {
            vfs: vfs.clone(),
            mode: mode.clone(),
            synchronous: synchronous.clone(),
            extra_us: extra_us.parse().ok()?,
            processes: processes.parse().ok()?,
            threads: threads.parse().ok()?,
            length_ms: length_ms.parse().ok()?,
        })
    }
}

/// What one process did.
#[derive(Debug, Default)]
struct Done {
    /// Commits that were acknowledged, also after the end of the time.
    acknowledged: u64,
    /// Within the time, of each thread.
    within: Vec<u64>,
    locked: u64,
    cpu_us: u64,
    latencies_ns: Vec<u64>,
}

impl Done {
    fn write(&self, out: &mut impl Write) -> std::io::Result<()> {
        let mut words = vec![self.acknowledged, self.locked, self.cpu_us, self.within.len() as u64];
        words.extend(&self.within);
        words.extend(&self.latencies_ns);
        words.iter().try_for_each(|word| out.write_all(&word.to_le_bytes()))?;
        out.flush()
    }

    fn read(bytes: &[u8]) -> Option<Done> {
        let words: Vec<u64> = bytes.as_chunks::<8>().0.iter().map(|bytes| u64::from_le_bytes(*bytes)).collect();
        let [acknowledged, locked, cpu_us, threads, rest @ ..] = &words[..] else { return None };
        let (within, latencies) = rest.split_at_checked(usize::try_from(*threads).ok()?)?;
        Some(Done {
            acknowledged: *acknowledged,
            within: within.to_vec(),
            locked: *locked,
            cpu_us: *cpu_us,
            latencies_ns: latencies.to_vec(),
        })
    }
}

fn open(path: &Path, load: &Load, vfs: &str) -> rusqlite::Result<Connection> {
    let connection = connect(path, vfs)?;
    connection.execute_batch(&format!(
        "PRAGMA parallel_wal_mode={}; PRAGMA journal_mode=WAL; PRAGMA synchronous={}",
        load.mode, load.synchronous
    ))?;
    Ok(connection)
}

/// Ends children that are still there.
struct Children(Vec<Child>);

impl Drop for Children {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Runs `load` on a new database below `directory`.
pub fn measure(directory: &Path, load: &Load) -> Result<Seen, String> {
    let told = |error: &dyn std::fmt::Display| format!("{load:?}: {error}");
    let place = tempfile::tempdir_in(directory).map_err(|error| told(&error))?;
    let path = place.path().join("app.db");
    if load.vfs == "pwal" {
        pwal::register().map_err(|error| told(&error))?;
    }
    open(&path, load, &load.vfs).and_then(|first| first.execute_batch(CREATE)).map_err(|error| told(&error))?;
    let dones = run(&path, load).map_err(|error| told(&error))?;
    // Stock SQLite counts what all say they have written.
    let rows: i64 = open(&path, load, "unix")
        .and_then(|stock| stock.query_row("SELECT count(*) FROM t", [], |row| row.get(0)))
        .map_err(|error| told(&error))?;
    let acknowledged: u64 = dones.iter().map(|done| done.acknowledged).sum();
    if u64::try_from(rows) != Ok(acknowledged) {
        return Err(told(&format!("{acknowledged} commits were acknowledged, {rows} rows are there")));
    }
    Ok(summary(&dones, load))
}

fn run(path: &Path, load: &Load) -> Result<Vec<Done>, String> {
    let io = |error: std::io::Error| error.to_string();
    let program = std::env::current_exe().map_err(io)?;
    let mut children = Children(Vec::new());
    for _ in 0..load.processes {
        let mut command = Command::new(&program);
        command.arg("--run").arg(path).args(load.to_arguments());
        children.0.push(command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().map_err(io)?);
    }
    let mut outputs = Vec::new();
    for child in &mut children.0 {
        let mut output = BufReader::new(child.stdout.take().ok_or("no output")?);
        let mut ready = String::new();
        output.read_line(&mut ready).map_err(io)?;
        if ready != "ready\n" {
            return Err(format!("a process did not begin: {:?}", child.wait()));
        }
        outputs.push(output);
    }
    // They wait for the end of their input.
    children.0.iter_mut().for_each(|child| drop(child.stdin.take()));
    let (send, receive) = std::sync::mpsc::channel();
    for (index, mut output) in outputs.into_iter().enumerate() {
        let send = send.clone();
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            let read = output.read_to_end(&mut bytes);
            let _ = send.send((index, read.map(|_| bytes)));
        });
    }
    let mut dones: Vec<Done> = (0..load.processes).map(|_| Done::default()).collect();
    for _ in 0..load.processes {
        let (index, bytes) = receive
            .recv_timeout(Duration::from_millis(load.length_ms) + PATIENCE)
            .map_err(|_| String::from("a process hangs"))?;
        dones[index] = Done::read(&bytes.map_err(io)?).ok_or("a process died")?;
    }
    for child in &mut children.0 {
        let status = child.wait().map_err(io)?;
        if !status.success() {
            return Err(format!("a process ended with {status}"));
        }
    }
    Ok(dones)
}

fn summary(dones: &[Done], load: &Load) -> Seen {
    let each: Vec<u64> = match dones {
        [one] => one.within.clone(),
        many => many.iter().map(|done| done.within.iter().sum()).collect(),
    };
    let sum = |pick: fn(&Done) -> u64| dones.iter().map(pick).sum::<u64>() as f64;
    let commits: u64 = each.iter().sum();
    let seen = Seen {
        rate: commits as f64 * 1000.0 / load.length_ms as f64,
        fairness: each.iter().copied().min().unwrap_or(0) as f64
            / each.iter().copied().max().unwrap_or(0).max(1) as f64,
        cpu_us: sum(|done| done.cpu_us) / (commits.max(1) as f64),
        locked: sum(|done| done.locked),
        ..Seen::default()
    };
    seen.with_latencies(dones.iter().flat_map(|done| done.latencies_ns.iter().copied()).collect())
}

/// A child: says that it is ready, waits for the end of its input, runs, and writes what it did.
pub fn child(path: &Path, words: &[String]) {
    let load = Load::from_arguments(words).expect("the arguments that the parent made");
    begin(&load.vfs, load.extra_us);
    let start = Barrier::new(load.threads + 1);
    let mut done = std::thread::scope(|threads| {
        let handles: Vec<_> = (0..load.threads)
            .map(|index| {
                let (start, load) = (&start, &load);
                threads.spawn(move || work(path, index, start, load))
            })
            .collect();
        // Every connection is open.
        start.wait();
        println!("ready");
        std::io::stdin().read_to_end(&mut Vec::new()).expect("wait for the others");
        let cpu_before = cpu_us();
        start.wait();
        let mut all = Done::default();
        for handle in handles {
            let one = handle.join().expect("a worker");
            all.acknowledged += one.acknowledged;
            all.locked += one.locked;
            all.within.extend(one.within);
            all.latencies_ns.extend(one.latencies_ns);
        }
        all.cpu_us = cpu_us() - cpu_before;
        all
    });
    // A line was printed before: what follows is bytes.
    done.latencies_ns.sort_unstable();
    done.write(&mut std::io::stdout().lock()).expect("tell the parent");
}

fn work(path: &Path, index: usize, start: &Barrier, load: &Load) -> Done {
    let connection = open(path, load, &load.vfs).expect("open the database");
    let mut insert = connection.prepare(INSERT).expect("prepare");
    // Joined, read, cached: the first insert is as the others.
    let none: i64 = connection.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).expect("read");
    assert_eq!(none, 0, "an empty table");
    let payload = payload();
    let length = Duration::from_millis(load.length_ms);
    let mut done = Done { within: vec![0], latencies_ns: Vec::with_capacity(1 << 16), ..Done::default() };
    start.wait();
    start.wait();
    let begin = Instant::now();
    while begin.elapsed() < length {
        let before = Instant::now();
        let result = insert.execute((index as i64, payload.as_str()));
        done.latencies_ns.push(before.elapsed().as_nanos() as u64);
        match result {
            Ok(_) => {
                done.acknowledged += 1;
                done.within[0] += u64::from(begin.elapsed() < length);
            }
            Err(error) if is_locked(&error) => done.locked += 1,
            Err(error) => panic!("thread {index}: {error}"),
        }
    }
    done
}
