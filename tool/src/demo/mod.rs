//! `pwal demo`: what pwal promises, shown on this machine: writers are killed and nothing that was
//! acknowledged is lost; the same writers on stock SQLite and on pwal, in turns on the same disk.

pub mod check;
mod crash;
mod throughput;
pub mod writer;

use crate::failure::{Done, Failure};
use crate::text;
use crate::text::say;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

/// Kill 8 writers in the middle, recover, count every acknowledged commit; then compare with stock SQLite
///
/// Works in a directory of its own, which it removes. Ends with status 1 if an acknowledged commit is lost.
#[derive(clap::Args)]
pub struct Arguments {
    /// Threads that write, each with a connection of its own
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=256))]
    threads: u32,
    /// How often the writers are killed
    #[arg(long, default_value_t = 3)]
    kills: u32,
    /// Rounds of the comparison; each runs stock SQLite and pwal
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// Seconds that each side of a round writes
    #[arg(long, default_value_t = 2.0, value_parser = seconds)]
    seconds: f64,
    /// Where to make the directory: the disk that counts (default: the directory for temporary files, or the present
    /// one if that is in memory)
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Keep the directory with the databases
    #[arg(long)]
    keep: bool,
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(seconds) if (0.1..=3600.0).contains(&seconds) => Ok(seconds),
        _ => Err("between 0.1 and 3600".to_owned()),
    }
}

pub fn run(arguments: &Arguments) -> Done {
    let directory = directory(arguments)?;
    say!(
        "{} threads, each INSERT a commit of its own, synchronous=FULL, in {} ({})\n",
        arguments.threads,
        directory.path().display(),
        file_system(directory.path())
    );
    let crashed = if arguments.kills > 0 { crash::run(arguments, directory.path()) } else { Ok(()) };
    let compare = || if arguments.rounds > 0 { throughput::run(arguments, directory.path()) } else { Ok(()) };
    let compared = crashed.and_then(|()| compare());
    // A database that lost something must be kept for inspection.
    if arguments.keep || compared.is_err() {
        say!("\nthe databases stay in {}", directory.keep().display());
    }
    compared
}

fn directory(arguments: &Arguments) -> Result<tempfile::TempDir, Failure> {
    let place = match &arguments.dir {
        Some(place) => place.clone(),
        None => pwal_bench::place().map_err(|error| Failure::cannot(error.to_string()))?,
    };
    let made = tempfile::Builder::new().prefix("pwal-demo-").tempdir_in(&place);
    made.map_err(|error| Failure::io("make a directory in", &place, &error))
}

/// The kind of file system that `place` lies on, for people.
fn file_system(place: &Path) -> String {
    let kind = pwal_bench::file_system(place);
    if pwal_bench::is_in_memory(place) { format!("{kind}, in memory: syncs cost nothing here") } else { kind }
}

/// Starts this program again as a process that writes.
fn start_writer(database: &Path, vfs: &str, threads: u32, more: &[String]) -> Result<(Child, ChildStdout), Failure> {
    let program = env::current_exe().map_err(|error| Failure::cannot(format!("cannot start myself: {error}")))?;
    let mut command = Command::new(&program);
    command.arg("demo-writer").arg(database).args(["--vfs", vfs, "--threads", &threads.to_string()]).args(more);
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command.spawn().map_err(|error| Failure::io("start", &program, &error))?;
    match child.stdout.take() {
        Some(stdout) => Ok((child, stdout)),
        None => Err(Failure::cannot("a child without its output")),
    }
}

/// The names and sizes of what lies in `directory`.
fn files(directory: &Path) -> String {
    let Ok(entries) = fs::read_dir(directory) else { return "nothing".to_owned() };
    let mut names: Vec<String> = entries
        .flatten()
        .map(|entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            match entry.metadata() {
                Ok(about) if about.is_file() => format!("{name} ({})", text::bytes(about.len())),
                _ => {
                    let inside = fs::read_dir(entry.path()).map_or(0, Iterator::count);
                    format!("{name}/ ({})", text::counted(inside as u64, "file"))
                }
            }
        })
        .collect();
    names.sort();
    names.join(", ")
}
