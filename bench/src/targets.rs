//! What pwal is to reach, beside what it reaches here: one table from one command (`pwal bench --targets`).

use crate::arguments::Choice;
use crate::case::{Case, Load};
use crate::lines::{against_serial, against_threads};
use crate::pairs::{Line, Metric};
use crate::report::{Session, number, target};
use crate::seen::shows;
use crate::{Error, Verdict};

/// The columns: what a sync takes longer, in microseconds.
const DELAYS: [u64; 3] = [0, 100, 1000];

/// What is asked of one line.
struct Target {
    what: &'static str,
    metric: Metric,
    /// For each column.
    limits: [f64; 3],
}

impl Target {
    fn new(what: &'static str, metric: Metric, limit: f64) -> Target {
        Target { what, metric, limits: [limit; 3] }
    }

    fn ratio(limits: [f64; 3]) -> Target {
        Target { what: "rate", metric: Metric::Ratio, limits }
    }

    fn fairness(limit: f64) -> Target {
        Target::new("slowest / fastest", Metric::Fairness, limit)
    }

    fn longest(limit: f64) -> Target {
        Target::new("longest, of stock's", Metric::Percentile(100.0), limit)
    }

    fn time(limit: f64) -> Target {
        Target::new("time, of stock's", Metric::Percentile(50.0), limit)
    }
}

/// A case with its targets.
struct Row<'a> {
    /// The line, with syncs that take this number of microseconds longer.
    line: Box<dyn Fn(u64) -> Line + 'a>,
    /// In how many of the columns it is measured; the delay changes nothing in a row of one.
    columns: usize,
    targets: Vec<Target>,
}

impl Row<'_> {
    fn new(case: Case, targets: Vec<Target>) -> Self {
        let line = move |delay_us| Line::beside_stock(Case { delay_us, ..case.clone() });
        Row { line: Box::new(line), columns: DELAYS.len(), targets }
    }

    fn as_the_disk_is(case: Case, targets: Vec<Target>) -> Self {
        Row { columns: 1, ..Row::new(case, targets) }
    }
}

/// Prints the table.
pub fn run(choice: &Choice, print: &dyn Fn(&str)) -> Result<Verdict, Error> {
    let mut session = Session::begin(choice, print)?;
    print("| | target | disk as it is | +100 us | +1 ms |\n|---|---|---|---|---|\n");
    let (mut met, mut missed, mut unseen) = (0, 0, 0);
    for row in rows(choice) {
        let name = (row.line)(0).name;
        if !choice.wants(&name) {
            continue;
        }
        let columns: Vec<_> = DELAYS[..row.columns].iter().map(|delay| session.measure(&(row.line)(*delay))).collect();
        for Target { what, metric, limits } in &row.targets {
            let cells = (0..DELAYS.len()).map(|column| {
                let Some(pairs) = columns.get(column) else { return String::new() };
                let Some(seen) = pairs.as_ref().and_then(|pairs| metric.of(pairs)) else {
                    unseen += 1;
                    return "-".to_owned();
                };
                let is_met = metric.is_met(seen, limits[column]);
                *if is_met { &mut met } else { &mut missed } += 1;
                if is_met { number(seen) } else { format!("**{}**", number(seen)) }
            });
            let cells: Vec<String> = cells.collect();
            print(&format!(
                "| {name}: {what} | {} | {} |\n",
                wanted(*metric, &limits[..row.columns]),
                cells.join(" | ")
            ));
        }
    }
    print(&format!("\nmedians of the pairs; bold: missed. Met {met}, missed {missed}, not measured {unseen}\n"));
    session.end()?;
    Ok(if choice.check && missed + unseen > 0 { Verdict::Missed } else { Verdict::Met })
}

/// "at least 1.1", "at least 3.5, 7, 7.6".
fn wanted(metric: Metric, limits: &[f64]) -> String {
    let mut text = target(metric, limits[0]);
    if limits.iter().any(|limit| limit != &limits[0]) {
        limits[1..].iter().for_each(|limit| text.push_str(&format!(", {limit}")));
    }
    text
}

fn rows(choice: &Choice) -> Vec<Row<'_>> {
    let mut rows = full(choice);
    rows.extend(normal(choice));
    rows.extend(others(choice));
    rows.extend(concurrent(choice));
    rows
}

/// Transactions beside each other, of those with 2 ms inside, against the same one at a time.
fn concurrent(choice: &Choice) -> Vec<Row<'_>> {
    let mut rows = Vec::new();
    for (load, at_32_threads) in
        [(Load::OwnTables, 12.0), (Load::RandomKeys, 12.0), (Load::ReadThinkUpdate, 15.0), (Load::LateAppend, 5.0)]
    {
        let case = Case { writers: "concurrent".into(), ..choice.case(load, "FULL") };
        let by_threads = [2, 8, 32].map(|threads| Case { threads, ..case.clone() });
        let by_processes = [2, 4, 8].map(|processes| Case { processes, threads: 2, ..case.clone() });
        for case in by_threads.into_iter().chain(by_processes) {
            let mut targets = vec![Target::ratio([if case.threads == 32 { at_32_threads } else { 1.0 }; 3])];
            if load == Load::ReadThinkUpdate {
                targets.push(Target::new("refused tries", Metric::More(shows::RETRIES), 0.1));
            }
            let line = move |delay_us| against_serial(Case { delay_us, ..case.clone() });
            rows.push(Row { line: Box::new(line), columns: 1, targets });
        }
    }
    rows
}

fn full(choice: &Choice) -> Vec<Row<'_>> {
    let mut rows = Vec::new();
    let by_threads = [(1, [1.05, 1.0, 1.0]), (2, [1.8, 1.8, 1.95]), (8, [3.5, 7.0, 7.6]), (32, [4.0, 12.0, 28.0])];
    for (threads, limits) in by_threads {
        let mut targets = vec![Target::ratio(limits)];
        if threads > 1 {
            targets.push(Target::fairness(0.9));
        }
        if threads == 32 {
            targets.push(Target::longest(0.05));
        }
        rows.push(Row::new(Case { threads, ..choice.case(Load::Insert, "FULL") }, targets));
    }
    for count in [8, 16] {
        rows.push(Row {
            line: Box::new(move |delay_us| against_threads(choice, "FULL", count, delay_us)),
            columns: DELAYS.len(),
            targets: vec![Target::ratio([0.9, 0.9, 0.95]), Target::fairness(0.9)],
        });
    }
    rows
}

fn normal(choice: &Choice) -> Vec<Row<'_>> {
    let mut rows = Vec::new();
    for load in [Load::Insert, Load::Update] {
        let case = choice.case(load, "NORMAL");
        let by_threads = [1, 2, 8, 32].map(|threads| Case { threads, ..case.clone() });
        let by_processes = [2, 8, 16].map(|processes| Case { processes, ..case.clone() });
        for case in by_threads.into_iter().chain(by_processes) {
            let mut targets = vec![Target::ratio([1.1; 3])];
            if case.threads * case.processes > 1 {
                targets.extend([Target::fairness(0.8), Target::longest(0.1)]);
            }
            rows.push(Row::new(case, targets));
        }
    }
    rows
}

fn others(choice: &Choice) -> Vec<Row<'_>> {
    let mut rows = Vec::new();
    for synchronous in ["FULL", "NORMAL"] {
        for load in [Load::TenRows, Load::Mixed, Load::ReadBesideWriters, Load::TenThousandRows] {
            let mut targets = vec![Target::ratio([1.1; 3])];
            if load == Load::ReadBesideWriters {
                targets.push(Target::new("99% below, of stock's", Metric::Percentile(99.0), 1.0));
            }
            rows.push(Row::new(Case { threads: 8, ..choice.case(load, synchronous) }, targets));
        }
        for load in [Load::Bulk, Load::Vacuum] {
            rows.push(Row::new(choice.case(load, synchronous), vec![Target::ratio([1.1; 3])]));
        }
        let retries = Target::new("refused tries", Metric::More(shows::RETRIES), 0.02);
        rows.push(Row::new(Case { threads: 8, ..choice.case(Load::ReadModifyWrite, synchronous) }, vec![retries]));
        let bytes = Target::new("log bytes, of stock's", Metric::MoreRatio(shows::LOG_BYTES), 1.35);
        rows.push(Row::as_the_disk_is(choice.case(Load::LogBytes, synchronous), vec![bytes]));
        let beside = Target::new("99% below beside a checkpoint, of alone", Metric::More(shows::BESIDE), 2.0);
        rows.push(Row::new(Case { threads: 8, ..choice.case(Load::BesideCheckpoint, synchronous) }, vec![beside]));
    }
    rows.push(Row::new(choice.case(Load::OpenInsertClose, "FULL"), vec![Target::time(1.7)]));
    rows.push(Row::new(choice.case(Load::ShellInsert, "FULL"), vec![Target::time(1.3)]));
    rows.push(Row::new(choice.case(Load::OpenReadClose, "FULL"), vec![Target::time(1.2)]));
    // The sizes that are asked for, unless others are chosen.
    let large = |load, mib| {
        let case = choice.case(load, "NORMAL");
        if choice.mib.is_empty() { Case { mib, ..case } } else { case }
    };
    let read = Target::new("reads of the log", Metric::More(shows::READS), 1.1);
    rows.push(Row::as_the_disk_is(large(Load::OpenAfterCrash, 1024), vec![Target::time(0.5), read]));
    let growth = Target::new("last tenth of the transactions, of the first", Metric::More(shows::GROWTH), 1.5);
    rows.push(Row::as_the_disk_is(large(Load::BehindReader, 4096), vec![growth]));
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_that_differ_are_all_named() {
        assert_eq!(wanted(Metric::Ratio, &[1.1, 1.1, 1.1]), "at least 1.1");
        assert_eq!(wanted(Metric::Ratio, &[3.5, 7.0, 7.6]), "at least 3.5, 7, 7.6");
        assert_eq!(wanted(Metric::Percentile(50.0), &[0.5]), "at most 0.5");
    }
}
