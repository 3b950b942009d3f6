//! Measures lines, and prints a table of them.

use crate::arguments::Choice;
use crate::awake::Awake;
use crate::case::{Load, STOCK};
use crate::machine::Machine;
use crate::pairs::{self, Line, Metric, Pairs};
use crate::results::{LineResults, Results};
use crate::seen::{Seen, median};
use crate::{Error, open_close, plot};
use std::process::{Command, Stdio};
use tempfile::TempDir;

/// A place for the databases, cores that stay awake, and what was seen so far.
pub struct Session<'a> {
    choice: &'a Choice,
    directory: TempDir,
    shell: Result<(), String>,
    results: Results,
    failed: Option<Error>,
    _awake: Awake,
    print: &'a dyn Fn(&str),
}

impl<'a> Session<'a> {
    /// Prints what the machine is.
    pub fn begin(choice: &'a Choice, print: &'a dyn Fn(&str)) -> Result<Session<'a>, Error> {
        let directory = tempfile::Builder::new().prefix("pwal-bench-").tempdir_in(&choice.place);
        let directory = directory.map_err(Error::io("make a directory in", &choice.place))?;
        let awake = Awake::new();
        let machine = Machine::look(directory.path())?;
        print(&format!("{machine}\ncounted by {}\n", machine.counters));
        print(&format!("pairs: {}, runs of {} ms; median (lowest..highest)\n\n", choice.pairs, choice.run_ms));
        let results = Results { machine, lines: Vec::new() };
        Ok(Session { choice, directory, shell: shell(choice), results, failed: None, _awake: awake, print })
    }

    /// Runs the pairs of a line; `None`: they cannot be, or one failed, and the reason is printed.
    pub fn measure(&mut self, line: &Line) -> Option<Pairs> {
        if let (Load::ShellInsert | Load::ShellRead, Err(reason)) = (line.sides[1].case.load, &self.shell) {
            (self.print)(&format!("| {} | not measured: {reason} |\n", line.name));
            return None;
        }
        match pairs::run(line, self.choice.pairs, self.directory.path()) {
            Ok(pairs) => {
                self.results.lines.push(LineResults::new(line, &pairs));
                Some(pairs)
            }
            Err(error) => {
                (self.print)(&format!("| {} | failed: {error} |\n", line.name));
                self.failed.get_or_insert(error);
                None
            }
        }
    }

    /// Writes the results, and draws them. The error is the first that a run ended with.
    pub fn end(self) -> Result<(), Error> {
        if let Some(path) = &self.choice.json {
            self.results.write(path)?;
            plot::draw_beside(path)?;
        }
        self.failed.map_or(Ok(()), Err)
    }
}

/// Whether there are a shell and a library for it.
fn shell(choice: &Choice) -> Result<(), String> {
    if choice.vfs != STOCK && !choice.library.as_ref().is_some_and(|library| library.is_file()) {
        return Err("no loadable library (--library)".to_owned());
    }
    let program = open_close::sqlite3();
    let started = Command::new(&program).arg("-version").stdin(Stdio::null()).output();
    started.map(|_| ()).map_err(|error| format!("{}: {error}", program.display()))
}

const HEAD: &str = "\
| stock / pwal | stock, 1/s | pwal, 1/s | ratio | slowest / fastest | median | 99% below | longest | CPU | syncs | flushes \
| system calls | context switches | locked | |
|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|
";

pub fn run(choice: &Choice, lines: &[Line], print: &dyn Fn(&str)) -> Result<(), Error> {
    let mut session = Session::begin(choice, print)?;
    print(HEAD);
    for line in lines {
        if let Some(pairs) = session.measure(line) {
            print(&row(&line.name, &pairs));
        }
    }
    print("\nsyncs to context switches: for each 1,000 operations\n");
    session.end()
}

/// One row of the table.
fn row(name: &str, pairs: &Pairs) -> String {
    let both = |pick: &dyn Fn(&Seen) -> Option<f64>, show: fn(f64) -> String| {
        let side = |values: Option<Vec<f64>>| values.and_then(|values| median(&values)).map_or("-".to_owned(), show);
        let one = side(pairs.iter().map(|(one, _)| pick(one)).collect());
        let other = side(pairs.iter().map(|(_, other)| pick(other)).collect());
        if one == "-" && other == "-" { String::new() } else { format!("{one} / {other}") }
    };
    let of = |pick: fn(&(Seen, Seen)) -> f64| pairs.iter().map(pick).collect::<Vec<f64>>();
    let ratios = of(|(one, other)| if one.rate > 0.0 { other.rate / one.rate } else { 0.0 });
    let delay = median(&of(|(_, other)| other.delay_us)).filter(|us| *us > 0.0);
    let cells = [
        format!("{name}{}", delay.map_or(String::new(), |us| format!(" ({us:.0} us)"))),
        spread(&of(|(one, _)| one.rate), rate),
        spread(&of(|(_, other)| other.rate), rate),
        spread(&ratios, |value| format!("{value:.2}")),
        both(&|seen| Some(seen.fairness), |value| format!("{value:.2}")),
        both(&|seen| seen.percentile(50.0), time),
        both(&|seen| seen.percentile(99.0), time),
        both(&|seen| seen.percentile(100.0), time),
        both(&|seen| Some(seen.cpu_us), time),
        both(&|seen| seen.syncs, count),
        both(&|seen| seen.flushes, count),
        both(&|seen| seen.system_calls, count),
        both(&|seen| seen.context_switches, count),
        both(&|seen| Some(seen.locked), count),
        more(pairs),
    ];
    format!("| {} |\n", cells.join(" | "))
}

/// What only this load shows.
fn more(pairs: &Pairs) -> String {
    let names = pairs.iter().flat_map(|(one, other)| one.more.keys().chain(other.more.keys()));
    let mut names: Vec<&String> = names.collect();
    names.sort();
    names.dedup();
    let side = |pick: fn(&(Seen, Seen)) -> &Seen, name: &str| {
        let values: Vec<f64> = pairs.iter().filter_map(|pair| pick(pair).more.get(name).copied()).collect();
        median(&values).map_or("-".to_owned(), number)
    };
    let texts =
        names.iter().map(|name| format!("{name}: {} / {}", side(|pair| &pair.0, name), side(|pair| &pair.1, name)));
    texts.collect::<Vec<_>>().join("; ")
}

/// "median (lowest..highest)", each by `show`.
fn spread(values: &[f64], show: impl Fn(f64) -> String) -> String {
    let lowest = values.iter().copied().fold(f64::INFINITY, f64::min);
    let highest = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    match median(values) {
        Some(middle) if values.len() > 1 => format!("{} ({}..{})", show(middle), show(lowest), show(highest)),
        middle => middle.map_or("-".to_owned(), show),
    }
}

fn rate(value: f64) -> String {
    match value {
        ..10.0 => format!("{value:.2}"),
        ..10_000.0 => format!("{value:.0}"),
        _ => format!("{:.1}k", value / 1000.0),
    }
}

fn time(us: f64) -> String {
    match us {
        ..10.0 => format!("{us:.1} us"),
        ..1000.0 => format!("{us:.0} us"),
        ..1_000_000.0 => format!("{:.1} ms", us / 1000.0),
        _ => format!("{:.1} s", us / 1_000_000.0),
    }
}

fn count(value: f64) -> String {
    format!("{value:.0}")
}

/// Of any size.
pub fn number(value: f64) -> String {
    if value.abs() < 10.0 { format!("{value:.3}") } else { format!("{value:.0}") }
}

/// The same for a metric, with what it is compared to.
pub fn target(metric: Metric, limit: f64) -> String {
    format!("{} {limit}", if metric.is_at_least() { "at least" } else { "at most" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_has_what_was_seen_and_a_dash_for_what_was_not() {
        let seen = |rate: f64, syncs: Option<f64>| Seen {
            rate,
            syncs,
            latency_us: vec![(50.0, 7.0), (99.0, 1500.0), (100.0, 2.5e6)],
            more: [("retries".to_owned(), 0.25)].into(),
            ..Seen::default()
        };
        let text = row("insert", &vec![(seen(4.0, None), seen(20_000.0, Some(310.0)))]);
        let cells: Vec<&str> = text.split(" | ").collect();
        assert_eq!(cells[..4], ["| insert", "4.00", "20.0k", "5000.00"]);
        assert_eq!(cells[5..8], ["7.0 us / 7.0 us", "1.5 ms / 1.5 ms", "2.5 s / 2.5 s"]);
        assert_eq!((cells[9], cells[10]), ("- / 310", ""));
        assert_eq!(cells[14], "retries: 0.250 / 0.250 |\n");
    }
}
