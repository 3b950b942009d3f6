//! Several processes on one database, on pwal and on stock SQLite, side by side: `cargo bench --bench processes`.
//!
//! Pairs of runs, one on each, on the same disk, in turns; a ratio for each pair; the median of the ratios and their
//! spread. Each run has a new database and processes of its own, which begin together. The last lines compare pwal with
//! itself: so many processes against so many threads of one process. `-- --help` tells what can be chosen.

mod run;
#[cfg_attr(not(target_os = "linux"), path = "../commits/slow_sync_none.rs")]
#[cfg_attr(target_os = "linux", path = "../commits/slow_sync.rs")]
mod slow_sync;
#[path = "../support/mod.rs"]
mod support;

use run::{Load, Seen};
use std::path::Path;
use std::process::ExitCode;
use support::{median, spread};

const HELP: &str = "\
cargo bench --bench processes -- [--short] [--pairs N] [--ms N] [--only WORD] [--vfs NAME] [--check]
  --short      few lines, one pair of runs of 500 ms each
  --pairs N    pairs of runs for each line (default 3)
  --ms N       length of a run in milliseconds (default 1000)
  --only WORD  only the lines whose name contains WORD, for example FULL, conservative, +100, \"8 x 1\", against
  --vfs NAME   what is compared with unix (default pwal; unix shows the noise)
  --check      fail if a target is missed
";

/// One line of the table: two sides that are compared.
struct Line {
    name: String,
    /// The yardstick, and what is measured by it.
    sides: [Load; 2],
    targets: Targets,
}

/// What is asked of the second side.
#[derive(Clone, Copy, Default)]
struct Targets {
    /// Its rate, divided by the yardstick's, at least.
    ratio: Option<f64>,
    /// Slowest / fastest process, at least.
    fairness: Option<f64>,
    /// Its longest commit, divided by the yardstick's, at most.
    longest: Option<f64>,
    /// No "database is locked".
    never_locked: bool,
}

struct Choice {
    short: bool,
    pairs: Option<usize>,
    length_ms: Option<u64>,
    only: Vec<String>,
    vfs: String,
    check: bool,
}

impl Choice {
    fn pairs(&self) -> usize {
        self.pairs.unwrap_or(if self.short { 1 } else { 3 }).max(1)
    }

    fn length_ms(&self) -> u64 {
        self.length_ms.unwrap_or(if self.short { 500 } else { 1000 }).max(1)
    }
}

fn lines(choice: &Choice) -> Vec<Line> {
    let load = |vfs: &str, mode: &str, synchronous: &str, extra_us: u64, processes: usize, threads: usize| Load {
        vfs: vfs.into(),
        mode: mode.into(),
        synchronous: synchronous.into(),
        extra_us,
        processes,
        threads,
        length_ms: choice.length_ms(),
    };
    let slow = |extra_us: u64| if extra_us == 0 { String::new() } else { format!(" +{extra_us} us") };
    let against_stock = |mode: &str, synchronous: &str, extra_us: u64, processes: usize, threads: usize| {
        let side = |vfs: &str| load(vfs, mode, synchronous, extra_us, processes, threads);
        let fair = (mode == "auto").then_some(0.8);
        let longest = (mode == "auto" && synchronous == "FULL" && processes >= 4).then_some(0.1);
        Line {
            name: format!("{mode}, {synchronous}{}, {processes} x {threads}", slow(extra_us)),
            sides: [side("unix"), side(&choice.vfs)],
            targets: Targets { ratio: None, fairness: fair, longest, never_locked: true },
        }
    };
    let against_threads = |synchronous: &str, extra_us: u64, count: usize| Line {
        name: format!("auto, {synchronous}{}, {count} processes against {count} threads", slow(extra_us)),
        sides: [
            load(&choice.vfs, "auto", synchronous, extra_us, 1, count),
            load(&choice.vfs, "auto", synchronous, extra_us, count, 1),
        ],
        targets: Targets {
            ratio: (count == 8).then_some(0.85),
            fairness: Some(0.8),
            longest: None,
            never_locked: true,
        },
    };
    let mut all = Vec::new();
    if choice.short {
        for synchronous in ["FULL", "NORMAL"] {
            all.extend([(2, 1), (8, 1)].map(|(p, t)| against_stock("auto", synchronous, 0, p, t)));
        }
        all.extend(["FULL", "NORMAL"].map(|synchronous| against_threads(synchronous, 0, 8)));
    } else {
        for mode in ["auto", "conservative"] {
            for synchronous in ["FULL", "NORMAL"] {
                for threads in [1, 4] {
                    all.extend([2, 4, 8, 16].map(|count| against_stock(mode, synchronous, 0, count, threads)));
                }
            }
        }
        all.extend([2, 8].map(|count| against_stock("auto", "FULL", 100, count, 1)));
        for (synchronous, extra_us) in [("FULL", 0), ("NORMAL", 0), ("FULL", 100)] {
            all.extend([2, 8, 16].map(|count| against_threads(synchronous, extra_us, count)));
        }
    }
    all.retain(|line| choice.only.iter().all(|word| line.name.contains(word.as_str())));
    all
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
        pairs.iter().map(|(one, two)| (pick(one), pick(two))).unzip()
    };
    let medians = |pick: fn(&Seen) -> f64, show: fn(f64) -> String| {
        let (one, two) = each(pick);
        format!("{} / {}", show(median(&one)), show(median(&two)))
    };
    let top = |values: &[f64]| values.iter().copied().fold(0.0, f64::max);
    let highest = |pick: fn(&Seen) -> f64, show: fn(f64) -> String| {
        let (one, two) = each(pick);
        format!("{} / {}", show(top(&one)), show(top(&two)))
    };
    let ratios: Vec<f64> = pairs.iter().map(|(one, two)| two.rate / one.rate.max(f64::MIN_POSITIVE)).collect();
    let mut missed = Vec::new();
    let mut demand = |what: &str, seen: f64, holds: Option<bool>, wanted: &str| {
        if holds == Some(false) {
            missed.push(format!("{}: {what} {seen:.2}, wanted {wanted}", line.name));
        }
    };
    let Targets { ratio, fairness, longest, never_locked } = line.targets;
    let at_least = |seen: f64, wanted: Option<f64>| wanted.map(|wanted| seen >= wanted);
    let text = |wanted: Option<f64>| wanted.unwrap_or_default().to_string();
    demand("ratio", median(&ratios), at_least(median(&ratios), ratio), &text(ratio));
    let fair = median(&each(|seen| seen.fairness).1);
    demand("slowest / fastest process", fair, at_least(fair, fairness), &text(fairness));
    let (stock_longest, longest_seen) = each(|seen| seen.longest_us);
    let share = median(&longest_seen) / median(&stock_longest).max(f64::MIN_POSITIVE);
    let wanted = format!("{} at most", text(longest));
    demand("longest commit, of the yardstick's", share, longest.map(|most| share <= most), &wanted);
    let locked: f64 = each(|seen| seen.locked).1.iter().sum();
    demand("locked", locked, never_locked.then_some(locked == 0.0), "0");
    let (one, two) = each(|seen| seen.rate);
    let row = format!(
        "| {} | {} | {} | {} | {} | {} | {} | {} | {} | {} |",
        line.name,
        spread(&one, rate),
        spread(&two, rate),
        spread(&ratios, |value| format!("{value:.2}")),
        medians(|seen| seen.fairness, |value| format!("{value:.2}")),
        medians(|seen| seen.median_us, time),
        medians(|seen| seen.p99_us, time),
        highest(|seen| seen.longest_us, time),
        medians(|seen| seen.cpu_us, |us| format!("{us:.1} us")),
        highest(|seen| seen.locked, |value| format!("{value:.0}")),
    );
    (row, missed)
}

fn choose(words: &[String]) -> Result<Choice, String> {
    let mut choice =
        Choice { short: false, pairs: None, length_ms: None, only: Vec::new(), vfs: "pwal".into(), check: false };
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| format!("{word} wants a value"));
        let number = |text: &String| text.parse::<u64>().map_err(|error| format!("{text}: {error}"));
        match word.as_str() {
            // From cargo.
            "--bench" => {}
            "--short" => choice.short = true,
            "--pairs" => choice.pairs = usize::try_from(number(value()?)?).ok(),
            "--ms" => choice.length_ms = Some(number(value()?)?),
            "--only" => choice.only.push(value()?.clone()),
            "--vfs" => choice.vfs.clone_from(value()?),
            "--check" => choice.check = true,
            _ => return Err(HELP.into()),
        }
    }
    Ok(choice)
}

/// Both sides of a pair; each goes first in half of the pairs.
fn pair(directory: &Path, line: &Line, turn: usize) -> Result<(Seen, Seen), String> {
    let [one, two] = &line.sides;
    if turn.is_multiple_of(2) {
        Ok((run::measure(directory, one)?, run::measure(directory, two)?))
    } else {
        let two = run::measure(directory, two)?;
        Ok((run::measure(directory, one)?, two))
    }
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if let [run, path, load @ ..] = &words[..]
        && run == "--run"
    {
        run::child(Path::new(path), load);
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
        "{} pairs of runs of {} ms; median (lowest..highest); stock / {}, or threads / processes\n",
        choice.pairs(),
        choice.length_ms(),
        choice.vfs
    );
    println!(
        "| autocommit inserts, processes x threads | stock, 1/s | {}, 1/s | ratio | slowest / fastest process | median | 99% below | longest | CPU | locked |",
        choice.vfs
    );
    println!("|---|---|---|---|---|---|---|---|---|---|");
    let mut missed = Vec::new();
    for line in lines(&choice) {
        let mut pairs = Vec::new();
        for turn in 0..choice.pairs() {
            match pair(directory.path(), &line, turn) {
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
