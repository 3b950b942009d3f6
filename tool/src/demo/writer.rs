//! The process that writes: one connection for each thread, each INSERT a commit.
//!
//! It reports an acknowledged commit only after SQLite answered, with one write of a line to the pipe: a line
//! arrives whole or not at all, also if the process is killed right behind it.

use crate::failure::{Done, Failure};
use rusqlite::{Connection, OpenFlags};
use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

/// Far longer than any writer waits on pwal; on stock SQLite one may wait that long.
const BUSY_TIMEOUT: Duration = Duration::from_secs(60);

/// The line before the first commit.
pub const READY: &str = "ready";

/// Each INSERT changes two tables, so that half a transaction shows.
const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS entry(
        writer INTEGER, number INTEGER, amount INTEGER, note TEXT, PRIMARY KEY(writer, number));
    CREATE TABLE IF NOT EXISTS account(writer INTEGER PRIMARY KEY, entries INTEGER, total INTEGER);
    CREATE TRIGGER IF NOT EXISTS booked AFTER INSERT ON entry BEGIN
        UPDATE account SET entries = entries + 1, total = total + NEW.amount WHERE writer = NEW.writer;
    END;";

/// Writes into the demo's database until killed, or for some seconds.
#[derive(clap::Args)]
pub struct Arguments {
    database: PathBuf,
    #[arg(long)]
    vfs: String,
    #[arg(long)]
    threads: u32,
    /// Then stop and report the commits of each thread; without it write until killed and report each commit.
    #[arg(long)]
    seconds: Option<f64>,
}

pub fn run(arguments: &Arguments) -> Done {
    pwal::register().map_err(|error| Failure::cannot(error.to_string()))?;
    let failed = |error: rusqlite::Error| Failure::sqlite(&arguments.database, &error);
    let stdout = || std::io::stdout().as_fd().try_clone_to_owned().map(File::from);
    let mut out = stdout().map_err(|error| Failure::cannot(error.to_string()))?;
    let first = open(&arguments.database, &arguments.vfs).map_err(failed)?;
    first.execute_batch(SCHEMA).map_err(failed)?;
    for writer in 1..=arguments.threads {
        first.execute("INSERT OR IGNORE INTO account VALUES(?1, 0, 0)", [writer]).map_err(failed)?;
    }
    report(&mut out, READY);
    let begin = Barrier::new(arguments.threads as usize);
    let results = thread::scope(|scope| {
        let threads: Vec<_> = (1..=arguments.threads)
            .map(|writer| {
                let (begin, out) = (&begin, stdout());
                scope.spawn(move || {
                    let out = out.map_err(|error| Failure::cannot(error.to_string()));
                    let connection = open(&arguments.database, &arguments.vfs);
                    begin.wait();
                    write(&connection.map_err(failed)?, writer, arguments.seconds, &mut out?).map_err(failed)
                })
            })
            .collect();
        threads.into_iter().map(thread::ScopedJoinHandle::join).collect::<Vec<_>>()
    });
    for (writer, result) in (1_u32..).zip(results) {
        let commits = result.map_err(|_| Failure::cannot("a writer panicked"))??;
        report(&mut out, &format!("{writer} {commits}"));
    }
    first.close().map_err(|(_, error)| failed(error))
}

/// A connection on which COMMIT returns only when the commit is durable.
fn open(path: &Path, vfs: &str) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags_and_vfs(path, flags, vfs)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.query_row("PRAGMA journal_mode=WAL", [], |_| Ok(()))?;
    connection.execute_batch("PRAGMA synchronous=FULL")?;
    Ok(connection)
}

/// Commits one row after the other, from the last one on that is there; returns how many.
fn write(connection: &Connection, writer: u32, seconds: Option<f64>, out: &mut File) -> rusqlite::Result<u64> {
    let sql = "SELECT coalesce(max(number), 0) FROM entry WHERE writer = ?1";
    let last: u64 = connection.query_row(sql, [writer], |row| row.get(0))?;
    let mut insert = connection.prepare("INSERT INTO entry VALUES(?1, ?2, ?3, 'so that a row has some length')")?;
    let until = seconds.map(|seconds| Instant::now() + Duration::from_secs_f64(seconds));
    for number in last + 1.. {
        if until.is_some_and(|until| Instant::now() >= until) {
            return Ok(number - last - 1);
        }
        insert.execute((writer, number, number % 1000))?;
        if until.is_none() {
            report(out, &format!("{writer} {number}"));
        }
    }
    Ok(0)
}

/// One line, in one write.
fn report(out: &mut File, line: &str) {
    if out.write_all(format!("{line}\n").as_bytes()).is_err() {
        // There is no reader any more.
        std::process::exit(4);
    }
}
