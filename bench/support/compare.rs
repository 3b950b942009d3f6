//! Two sides against each other in pairs of runs: the choice on the command line, the table, and the targets.

use super::{Warm, directory, machine, median, quantile, spread};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// What one run showed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Seen {
    /// Operations in a second, of all threads and processes.
    pub rate: f64,
    /// The slowest worker's operations, divided by the fastest's.
    pub fairness: f64,
    /// Latency of an operation in microseconds.
    pub median_us: f64,
    /// 99% are below.
    pub p99_us: f64,
    /// The longest one.
    pub longest_us: f64,
    /// Processor time of all processes for each operation, in microseconds.
    pub cpu_us: f64,
    /// How often the application was told "database is locked".
    pub locked: f64,
    /// What a sync cost more, in microseconds, as measured; 0: not said.
    pub extra_us: f64,
}

impl Seen {
    /// The same, with these latencies.
    pub fn with_latencies(self, mut latencies_ns: Vec<u64>) -> Seen {
        latencies_ns.sort_unstable();
        let us = |ns: u64| ns as f64 / 1000.0;
        Seen {
            median_us: us(quantile(&latencies_ns, 0.5)),
            p99_us: us(quantile(&latencies_ns, 0.99)),
            longest_us: us(latencies_ns.last().copied().unwrap_or(0)),
            ..self
        }
    }
}

/// One line of the table: two sides that are compared.
pub struct Line<L> {
    pub name: String,
    /// The yardstick, and what is measured by it.
    pub sides: [L; 2],
    pub targets: Targets,
}

/// What is asked of the second side.
#[derive(Clone, Copy, Default)]
pub struct Targets {
    /// Its rate, divided by the yardstick's, at least.
    pub ratio: Option<f64>,
    /// Slowest / fastest worker, at least.
    pub fairness: Option<f64>,
    /// Its longest commit, divided by the yardstick's, at most.
    pub longest: Option<f64>,
    /// No "database is locked".
    pub never_locked: bool,
}

/// What is chosen on the command line.
pub struct Choice {
    pub short: bool,
    pairs: Option<usize>,
    length_ms: Option<u64>,
    only: Vec<String>,
    /// What is compared with unix.
    pub vfs: String,
    check: bool,
    /// Where the results go, too, as JSON: the input of `plot`.
    json: Option<PathBuf>,
}

impl Choice {
    /// What is said, or else what can be.
    fn parse(words: &[String], table: &Table) -> Result<Choice, String> {
        let mut choice = Choice {
            short: false,
            pairs: None,
            length_ms: None,
            only: Vec::new(),
            vfs: "pwal".into(),
            check: false,
            json: None,
        };
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or_else(|| format!("{word} wants a value"));
            let number = |text: &String| text.parse::<u64>().map_err(|error| format!("{text}: {error}"));
            match word.as_str() {
                // From cargo.
                "--bench" => {}
                "--short" if table.has_short => choice.short = true,
                "--pairs" => choice.pairs = usize::try_from(number(value()?)?).ok(),
                "--ms" => choice.length_ms = Some(number(value()?)?),
                "--only" => choice.only.push(value()?.clone()),
                "--vfs" => choice.vfs.clone_from(value()?),
                "--check" => choice.check = true,
                "--json" => choice.json = Some(value()?.into()),
                _ => return Err(table.help.into()),
            }
        }
        Ok(choice)
    }

    fn pairs(&self) -> usize {
        self.pairs.unwrap_or(if self.short { 1 } else { 3 }).max(1)
    }

    /// How long a run lasts, in milliseconds.
    pub fn length_ms(&self) -> u64 {
        self.length_ms.unwrap_or(if self.short { 500 } else { 1000 }).max(1)
    }
}

/// What is said of the table.
pub struct Table {
    pub help: &'static str,
    /// `--short` can be chosen.
    pub has_short: bool,
    /// Over the names of the lines.
    pub lines: &'static str,
    /// Whose operations are compared for fairness.
    pub worker: &'static str,
    /// What the sides are, beside stock and the VFS that is chosen.
    pub other_sides: &'static str,
}

fn rate(value: f64) -> String {
    if value < 10_000.0 { format!("{value:.0}") } else { format!("{:.1}k", value / 1000.0) }
}

fn time(us: f64) -> String {
    if us < 1000.0 { format!("{us:.0} us") } else { format!("{:.1} ms", us / 1000.0) }
}

impl Table {
    /// The bench: with `--run <path> <load>` a `child`, else the table of the lines that are chosen.
    pub fn main<L>(
        &self,
        child: fn(&Path, &[String]),
        lines: fn(&Choice) -> Vec<Line<L>>,
        measure: fn(&Path, &L) -> Result<Seen, String>,
    ) -> ExitCode {
        let words: Vec<String> = std::env::args().skip(1).collect();
        if let [run, path, load @ ..] = &words[..]
            && run == "--run"
        {
            child(Path::new(path), load);
            return ExitCode::SUCCESS;
        }
        match Choice::parse(&words, self) {
            Ok(choice) => {
                let mut lines = lines(&choice);
                lines.retain(|line| choice.only.iter().all(|word| line.name.contains(word.as_str())));
                self.compare(&choice, &lines, measure)
            }
            Err(text) => {
                eprint!("{text}");
                ExitCode::FAILURE
            }
        }
    }

    fn compare<L>(
        &self,
        choice: &Choice,
        lines: &[Line<L>],
        measure: fn(&Path, &L) -> Result<Seen, String>,
    ) -> ExitCode {
        let directory = directory();
        let _warm = Warm::start();
        let machine = machine(directory.path());
        println!("{machine}");
        println!(
            "{} pairs of runs of {} ms; median (lowest..highest); stock / {}{}\n",
            choice.pairs(),
            choice.length_ms(),
            choice.vfs,
            self.other_sides
        );
        println!(
            "| {} | stock, 1/s | {}, 1/s | ratio | slowest / fastest {} | median | 99% below | longest | CPU | locked |",
            self.lines, choice.vfs, self.worker
        );
        println!("|---|---|---|---|---|---|---|---|---|---|");
        let (mut missed, mut results) = (Vec::new(), Vec::new());
        for line in lines {
            let mut pairs = Vec::new();
            for turn in 0..choice.pairs() {
                match pair(&line.sides, turn, |load| measure(directory.path(), load)) {
                    Ok(pair) => pairs.push(pair),
                    Err(error) => missed.push(format!("{}: {error}", line.name)),
                }
            }
            if !pairs.is_empty() {
                println!("{}", row(&line.name, &pairs));
                results.push(result(&line.name, &pairs));
                missed.extend(self.missed(line, &pairs));
            }
        }
        if let Some(path) = &choice.json {
            let all = json!({"machine": machine, "run_ms": choice.length_ms(), "vfs": choice.vfs, "lines": results});
            if let Err(error) = std::fs::write(path, format!("{all:#}\n")) {
                missed.push(format!("{}: {error}", path.display()));
            }
        }
        println!();
        for text in &missed {
            println!("missed: {text}");
        }
        if choice.check && !missed.is_empty() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
    }

    /// The targets that a line missed.
    fn missed<L>(&self, line: &Line<L>, pairs: &[(Seen, Seen)]) -> Vec<String> {
        let mut missed = Vec::new();
        let mut demand = |what: &str, seen: f64, holds: Option<bool>, wanted: &str| {
            if holds == Some(false) {
                missed.push(format!("{}: {what} {seen:.2}, wanted {wanted}", line.name));
            }
        };
        let Targets { ratio, fairness, longest, never_locked } = line.targets;
        let at_least = |seen: f64, wanted: Option<f64>| wanted.map(|wanted| seen >= wanted);
        let text = |wanted: Option<f64>| wanted.unwrap_or_default().to_string();
        let of_rates = median(&ratios(pairs));
        demand("ratio", of_rates, at_least(of_rates, ratio), &text(ratio));
        let fair = median(&each(pairs, |seen| seen.fairness).1);
        let what = format!("slowest / fastest {}", self.worker);
        demand(&what, fair, at_least(fair, fairness), &text(fairness));
        let (stock_longest, longest_seen) = each(pairs, |seen| seen.longest_us);
        let share = median(&longest_seen) / median(&stock_longest).max(f64::MIN_POSITIVE);
        let wanted = format!("{} at most", text(longest));
        demand("longest commit, of the yardstick's", share, longest.map(|most| share <= most), &wanted);
        let locked: f64 = each(pairs, |seen| seen.locked).1.iter().sum();
        demand("locked", locked, never_locked.then_some(locked == 0.0), "0");
        missed
    }
}

/// Both sides of a pair; each goes first in half of the pairs.
fn pair<L>(
    [one, two]: &[L; 2],
    turn: usize,
    measure: impl Fn(&L) -> Result<Seen, String>,
) -> Result<(Seen, Seen), String> {
    if turn.is_multiple_of(2) {
        Ok((measure(one)?, measure(two)?))
    } else {
        let two = measure(two)?;
        Ok((measure(one)?, two))
    }
}

fn each(pairs: &[(Seen, Seen)], pick: fn(&Seen) -> f64) -> (Vec<f64>, Vec<f64>) {
    pairs.iter().map(|(one, two)| (pick(one), pick(two))).unzip()
}

fn ratios(pairs: &[(Seen, Seen)]) -> Vec<f64> {
    pairs.iter().map(|(one, two)| two.rate / one.rate.max(f64::MIN_POSITIVE)).collect()
}

/// A line's runs, for a file: stock and the other side, pair by pair.
fn result(name: &str, pairs: &[(Seen, Seen)]) -> Value {
    let side = |pick: fn(&(Seen, Seen)) -> &Seen| {
        let values = |of: fn(&Seen) -> f64| pairs.iter().map(|pair| of(pick(pair))).collect::<Vec<_>>();
        json!({
            "rate": values(|seen| seen.rate),
            "fairness": values(|seen| seen.fairness),
            "median_us": values(|seen| seen.median_us),
            "p99_us": values(|seen| seen.p99_us),
            "longest_us": values(|seen| seen.longest_us),
            "cpu_us": values(|seen| seen.cpu_us),
        })
    };
    json!({"name": name, "stock": side(|pair| &pair.0), "other": side(|pair| &pair.1)})
}

/// One row of the table.
fn row(name: &str, pairs: &[(Seen, Seen)]) -> String {
    let both = |pick: fn(&Seen) -> f64, of: fn(&[f64]) -> f64, show: fn(f64) -> String| {
        let (one, two) = each(pairs, pick);
        format!("{} / {}", show(of(&one)), show(of(&two)))
    };
    let highest = |values: &[f64]| values.iter().copied().fold(0.0, f64::max);
    let (one, two) = each(pairs, |seen| seen.rate);
    let extra = match median(&each(pairs, |seen| seen.extra_us).1) {
        0.0 => String::new(),
        us => format!(" ({us:.0} us)"),
    };
    format!(
        "| {name}{extra} | {} | {} | {} | {} | {} | {} | {} | {} | {} |",
        spread(&one, rate),
        spread(&two, rate),
        spread(&ratios(pairs), |value| format!("{value:.2}")),
        both(|seen| seen.fairness, median, |value| format!("{value:.2}")),
        both(|seen| seen.median_us, median, time),
        both(|seen| seen.p99_us, median, time),
        both(|seen| seen.longest_us, highest, time),
        both(|seen| seen.cpu_us, median, |us| format!("{us:.1} us")),
        both(|seen| seen.locked, highest, |value| format!("{value:.0}")),
    )
}
