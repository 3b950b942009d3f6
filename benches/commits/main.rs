//! Commits per second on pwal and on stock SQLite, side by side: `cargo bench --bench commits`.
//!
//! Pairs of runs, one on each, on the same disk, in turns; a ratio for each pair; the median of the
//! ratios and their spread. Each run is a process of its own with a new database. `-- --help` tells
//! what can be chosen; `docs/measurements.md` tells what is measured and why.

mod run;
#[cfg_attr(not(target_os = "linux"), path = "slow_sync_none.rs")]
mod slow_sync;
#[path = "../support/mod.rs"]
mod support;

use run::{Load, Seen};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use support::{median, spread};

const HELP: &str = "\
cargo bench --bench commits -- [--pairs N] [--ms N] [--only WORD] [--vfs NAME] [--check]
  --pairs N    pairs of runs for each line (default 3)
  --ms N       length of a run in milliseconds (default 1000)
  --only WORD  only the lines whose name contains WORD, for example FULL, NORMAL, +100, SELECT, \"8 threads\"
  --vfs NAME   what is compared with unix (default pwal; unix shows the noise)
  --check      fail if a target is missed
";

/// One line of the table.
struct Line {
    name: String,
    load: Load,
    /// What the ratio must be at least.
    ratio: Option<f64>,
    /// What slowest / fastest thread must be at least.
    fairness: Option<f64>,
}

struct Choice {
    pairs: usize,
    length_ms: u64,
    only: Vec<String>,
    vfs: String,
    check: bool,
}

fn lines(choice: &Choice) -> Vec<Line> {
    let line = |synchronous: &str, threads: usize, extra_us: u64, writes: u64| {
        let what = match writes {
            100 => String::new(),
            0 => ", SELECT".into(),
            share => format!(", SELECT with {share}% INSERT"),
        };
        let slow = if extra_us == 0 { String::new() } else { format!(" +{extra_us} us") };
        let threads_word = if threads == 1 { "thread" } else { "threads" };
        let ratio = match (synchronous, threads, extra_us, writes) {
            ("FULL", 1, 0, 100) => Some(0.9),
            ("FULL", 8, 0, 100) => Some(1.5),
            ("FULL", 8, 100, 100) => Some(3.0),
            _ => None,
        };
        Line {
            name: format!("{synchronous}{slow}, {threads} {threads_word}{what}"),
            load: Load {
                vfs: String::new(),
                synchronous: synchronous.into(),
                threads,
                extra_us,
                writes,
                length_ms: choice.length_ms,
            },
            ratio,
            fairness: (synchronous == "FULL" && threads > 1 && writes == 100).then_some(0.8),
        }
    };
    let mut all = Vec::new();
    for (synchronous, extra_us) in [("FULL", 0), ("FULL", 100), ("NORMAL", 0)] {
        all.extend([1, 2, 8, 32].map(|threads| line(synchronous, threads, extra_us, 100)));
    }
    all.extend([line("FULL", 8, 0, 5), line("NORMAL", 8, 0, 5), line("FULL", 8, 0, 0), line("FULL", 1, 0, 0)]);
    all.retain(|line| choice.only.iter().all(|word| line.name.contains(word.as_str())));
    all
}

fn measure(directory: &Path, load: &Load) -> Result<Seen, String> {
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
    Seen::from_line(&text).filter(|_| child.status.success()).ok_or_else(|| format!("{load:?}: {}", child.status))
}

fn rate(value: f64) -> String {
    if value < 10_000.0 { format!("{value:.0}") } else { format!("{:.1}k", value / 1000.0) }
}

fn time(us: f64) -> String {
    if us < 1000.0 { format!("{us:.0} us") } else { format!("{:.1} ms", us / 1000.0) }
}

/// One row of the table, and the targets that it missed.
fn row(line: &Line, pairs: &[(Seen, Seen)]) -> (String, Vec<String>) {
    let each = |pick: fn(&Seen) -> f64| -> (Vec<f64>, Vec<f64>) {
        pairs.iter().map(|(stock, ours)| (pick(stock), pick(ours))).unzip()
    };
    let medians = |pick: fn(&Seen) -> f64, show: fn(f64) -> String| {
        let (stock, ours) = each(pick);
        format!("{} / {}", show(median(&stock)), show(median(&ours)))
    };
    let highest = |pick: fn(&Seen) -> f64, show: fn(f64) -> String| {
        let (stock, ours) = each(pick);
        let top = |values: &[f64]| show(values.iter().copied().fold(0.0, f64::max));
        format!("{} / {}", top(&stock), top(&ours))
    };
    let ratios: Vec<f64> = pairs.iter().map(|(stock, ours)| ours.rate / stock.rate.max(f64::MIN_POSITIVE)).collect();
    let (stock, ours) = each(|seen| seen.rate);
    let mut missed = Vec::new();
    let mut demand = |what: &str, seen: f64, wanted: Option<f64>| {
        if let Some(wanted) = wanted.filter(|wanted| seen < *wanted) {
            missed.push(format!("{}: {what} {seen:.2}, wanted {wanted}", line.name));
        }
    };
    demand("ratio", median(&ratios), line.ratio);
    demand("slowest / fastest thread", median(&each(|seen| seen.fairness).1), line.fairness);
    let extra = if line.load.extra_us == 0 {
        String::new()
    } else {
        format!(" ({:.0} us)", median(&each(|seen| seen.extra_us).1))
    };
    let text = format!(
        "| {}{extra} | {} | {} | {} | {} | {} | {} | {} | {} | {} |",
        line.name,
        spread(&stock, rate),
        spread(&ours, rate),
        spread(&ratios, |value| format!("{value:.2}")),
        medians(|seen| seen.fairness, |value| format!("{value:.2}")),
        medians(|seen| seen.median_us, time),
        medians(|seen| seen.p99_us, time),
        highest(|seen| seen.max_us, time),
        medians(|seen| seen.cpu_us, |us| format!("{us:.1} us")),
        highest(|seen| seen.locked, |value| format!("{value:.0}")),
    );
    (text, missed)
}

fn choose(words: &[String]) -> Result<Choice, String> {
    let mut choice = Choice { pairs: 3, length_ms: 1000, only: Vec::new(), vfs: "pwal".into(), check: false };
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| format!("{word} wants a value"));
        let number = |text: &String| text.parse::<u64>().map_err(|error| format!("{text}: {error}"));
        match word.as_str() {
            // From cargo.
            "--bench" => {}
            "--pairs" => choice.pairs = usize::try_from(number(value()?)?.max(1)).unwrap_or(usize::MAX),
            "--ms" => choice.length_ms = number(value()?)?.max(1),
            "--only" => choice.only.push(value()?.clone()),
            "--vfs" => choice.vfs.clone_from(value()?),
            "--check" => choice.check = true,
            _ => return Err(HELP.into()),
        }
    }
    Ok(choice)
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if let [run, directory, load @ ..] = &words[..]
        && run == "--run"
    {
        run::child(Path::new(directory), load);
        return ExitCode::SUCCESS;
    }
    let choice = match choose(&words) {
        Ok(choice) => choice,
        Err(text) => {
            eprint!("{text}");
            return ExitCode::FAILURE;
        }
    };
    let directory = support::directory();
    let _warm = support::Warm::start();
    println!("{}", support::machine(directory.path()));
    println!(
        "{} pairs of runs of {} ms; median (lowest..highest); stock / {}\n",
        choice.pairs, choice.length_ms, choice.vfs
    );
    println!(
        "| autocommit inserts | stock, 1/s | {}, 1/s | ratio | slowest / fastest thread | median | 99% below | longest | CPU | locked |",
        choice.vfs
    );
    println!("|---|---|---|---|---|---|---|---|---|---|");
    let mut missed = Vec::new();
    for line in lines(&choice) {
        let mut pairs = Vec::new();
        for turn in 0..choice.pairs {
            let on = |vfs: &str| measure(directory.path(), &Load { vfs: vfs.into(), ..line.load.clone() });
            // Each goes first in half of the pairs.
            let pair = if turn % 2 == 0 {
                on("unix").and_then(|stock| Ok((stock, on(&choice.vfs)?)))
            } else {
                on(&choice.vfs).and_then(|ours| Ok((on("unix")?, ours)))
            };
            match pair {
                Ok(pair) => pairs.push(pair),
                Err(error) => missed.push(format!("{}: {error}", line.name)),
            }
        }
        if !pairs.is_empty() {
            let (text, more) = row(&line, &pairs);
            println!("{text}");
            missed.extend(more);
        }
    }
    println!();
    for text in &missed {
        println!("missed: {text}");
    }
    if choice.check && !missed.is_empty() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
