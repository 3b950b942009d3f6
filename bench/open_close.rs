//! What it costs to open a database, commit one row under FULL and close: `cargo bench -p pwal-bench --bench open_close`.
//!
//! In the real `sqlite3` shell with the loadable library (a process for each), and on one connection of
//! this process, in pairs with stock SQLite. `-- [--pairs N] [--check]`; `SQLITE3` names another shell.

#[path = "support/mod.rs"]
mod support;

use rusqlite::{Connection, OpenFlags};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};
use support::{median, spread};

/// What the shell may cost, in units of stock.
const SHELL_MOST: f64 = 2.5;

const CREATE: &str = "PRAGMA journal_mode=WAL; CREATE TABLE IF NOT EXISTS t(id INTEGER PRIMARY KEY, value);";
const INSERT: &str = "PRAGMA synchronous=FULL; INSERT INTO t(value) VALUES('one row');";
const READ: &str = "SELECT count(*) FROM t WHERE id = 1;";

/// Builds the loadable library in the profile of the benches.
fn library() -> Result<PathBuf, String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let built = Command::new(cargo)
        .args(["build", "--quiet", "--release", "--package", "pwal-sqlite-ext", "--manifest-path"])
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml"))
        .status()
        .map_err(|error| format!("cargo: {error}"))?;
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap_or(Path::new("target"));
    let library = target.join("release").join(format!("libpwal{}", std::env::consts::DLL_SUFFIX));
    if built.success() && library.is_file() { Ok(library) } else { Err(format!("{}: not built", library.display())) }
}

/// One run of the shell.
fn shell(database: &Path, load: Option<&Path>, sql: &str) -> Result<Duration, String> {
    let program = std::env::var_os("SQLITE3").unwrap_or_else(|| "sqlite3".into());
    let mut command = Command::new(program);
    command.arg(":memory:");
    if let Some(library) = load {
        // Without its suffix: the shell adds it, and the name tells the entry point.
        command.arg(format!(".load {}", library.with_extension("").display()));
    }
    command.arg(format!(".open {}", database.display())).arg(sql);
    let begin = Instant::now();
    let done = command.stdin(Stdio::null()).output().map_err(|error| format!("sqlite3: {error}"))?;
    let took = begin.elapsed();
    if done.status.success() && done.stderr.is_empty() {
        Ok(took)
    } else {
        Err(format!("sqlite3: {} {}", done.status, String::from_utf8_lossy(&done.stderr)))
    }
}

/// One connection of this process.
fn linked(database: &Path, vfs: &str, sql: &str) -> Result<Duration, String> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let begin = Instant::now();
    let done = Connection::open_with_flags_and_vfs(database, flags, vfs).and_then(|connection| {
        connection.execute_batch(sql)?;
        connection.close().map_err(|(_, error)| error)
    });
    done.map(|()| begin.elapsed()).map_err(|error| format!("{vfs}: {error}"))
}

fn pairs(
    count: usize,
    stock: impl Fn() -> Result<Duration, String>,
    ours: impl Fn() -> Result<Duration, String>,
) -> Result<(Vec<f64>, Vec<f64>), String> {
    let us = |time: Duration| time.as_nanos() as f64 / 1000.0;
    let mut seen = (Vec::new(), Vec::new());
    for turn in 0..count {
        let (one, other) = if turn % 2 == 0 {
            let one = stock()?;
            (one, ours()?)
        } else {
            let other = ours()?;
            (stock()?, other)
        };
        seen.0.push(us(one));
        seen.1.push(us(other));
    }
    Ok(seen)
}

fn compare(count: usize) -> Result<f64, String> {
    pwal::register().map_err(|error| error.to_string())?;
    let library = library()?;
    let directory = support::directory();
    let _warm = support::Warm::start();
    println!("{}", support::machine(directory.path()));
    println!("{count} pairs; median (lowest..highest)\n");
    println!(
        "| opening, then closing | stock | pwal | ratio of the medians | median of the ratios |\n|---|---|---|---|---|"
    );
    let mut in_shell = 0.0;
    for (name, sql) in [("one insert under FULL", INSERT), ("one read", READ)] {
        for by_shell in [true, false] {
            let database = |kind: &str| directory.path().join(format!("{kind}-{by_shell}.db"));
            let (stock_file, our_file) = (database("stock"), database("pwal"));
            // Both are there before, closed and in WAL mode.
            linked(&stock_file, "unix", CREATE)?;
            linked(&our_file, "unix", CREATE)?;
            let (stock, ours) = if by_shell {
                pairs(count, || shell(&stock_file, None, sql), || shell(&our_file, Some(&library), sql))?
            } else {
                pairs(count, || linked(&stock_file, "unix", sql), || linked(&our_file, "pwal", sql))?
            };
            let ratios: Vec<f64> = ours.iter().zip(&stock).map(|(ours, stock)| ours / stock).collect();
            let ratio = median(&ours) / median(&stock);
            if by_shell && sql == INSERT {
                in_shell = ratio;
            }
            let time = |us: f64| format!("{:.2} ms", us / 1000.0);
            println!(
                "| {name}, {} | {} | {} | {ratio:.2} | {:.2} |",
                if by_shell { "sqlite3 shell" } else { "one connection" },
                spread(&stock, time),
                spread(&ours, time),
                median(&ratios)
            );
        }
    }
    Ok(in_shell)
}

fn main() -> ExitCode {
    let (mut count, mut check) = (30, false);
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--bench" => {}
            "--check" => check = true,
            "--pairs" => count = words.next().and_then(|text| text.parse().ok()).unwrap_or(count).max(1),
            _ => {
                eprintln!("cargo bench -p pwal-bench --bench open_close -- [--pairs N] [--check]");
                return ExitCode::FAILURE;
            }
        }
    }
    match compare(count) {
        Ok(ratio) if ratio > SHELL_MOST => {
            println!("\nmissed: one insert in the shell costs {ratio:.2} times stock's, wanted at most {SHELL_MOST}");
            if check { ExitCode::FAILURE } else { ExitCode::SUCCESS }
        }
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
