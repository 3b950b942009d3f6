//! Two cases in pairs of runs, in turns.

use crate::Error;
use crate::case::{Case, STOCK, serial};
use crate::parent;
use crate::seen::{Seen, median};
use indicatif::{ProgressBar, ProgressStyle};
use std::path::Path;
use std::time::Duration;

/// Two cases that are compared.
pub struct Line {
    pub name: String,
    /// The yardstick, and what is measured by it.
    pub sides: [Side; 2],
}

pub struct Side {
    pub name: String,
    pub case: Case,
}

impl Line {
    /// The case beside the same one, or what comes nearest to it, on stock SQLite.
    pub fn beside_stock(case: Case) -> Line {
        let (load, synchronous) = case.without_functions();
        let stock =
            Case { load, synchronous, vfs: STOCK.into(), mode: "auto".into(), writers: serial(), ..case.clone() };
        let name = case.to_string();
        let side = |name: &str, case| Side { name: name.into(), case };
        Line { name, sides: [side("stock", stock), side(if case.is_pwal() { "pwal" } else { "stock again" }, case)] }
    }
}

/// What both sides showed, pair by pair.
pub type Pairs = Vec<(Seen, Seen)>;

/// Runs the line, with its progress on the standard error of a terminal.
pub fn run(line: &Line, count: usize, directory: &Path) -> Result<Pairs, Error> {
    let progress = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} {elapsed}") {
        progress.set_style(style);
    }
    progress.enable_steady_tick(Duration::from_millis(100));
    let mut pairs = Pairs::new();
    for turn in 0..count {
        let measure = |side: &Side| {
            progress.set_message(format!("{}: {}, pair {} of {count}", line.name, side.name, turn + 1));
            parent::measure(directory, &side.case)
        };
        let [one, other] = &line.sides;
        // Each side goes first as often as the other.
        pairs.push(if turn.is_multiple_of(2) {
            (measure(one)?, measure(other)?)
        } else {
            let other = measure(other)?;
            (measure(one)?, other)
        });
    }
    progress.finish_and_clear();
    Ok(pairs)
}

/// A number that a line's pairs are judged by.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Metric {
    /// Operations a second, divided by the yardstick's.
    Ratio,
    /// Slowest / fastest thread or process.
    Fairness,
    /// This percentile, divided by the yardstick's.
    Percentile(f64),
    /// What only this load shows.
    More(&'static str),
    /// The same, divided by the yardstick's.
    MoreRatio(&'static str),
}

impl Metric {
    /// The median of the pairs; `None`: it was not seen.
    pub fn of(self, pairs: &Pairs) -> Option<f64> {
        let divided = |one: Option<f64>, other: Option<f64>| Some(other? / one.filter(|one| *one > 0.0)?);
        let each = pairs.iter().map(|(one, other)| match self {
            Metric::Ratio => divided(Some(one.rate), Some(other.rate)),
            Metric::Fairness => Some(other.fairness),
            Metric::Percentile(percent) => divided(one.percentile(percent), other.percentile(percent)),
            Metric::More(name) => other.more.get(name).copied(),
            Metric::MoreRatio(name) => divided(one.more.get(name).copied(), other.more.get(name).copied()),
        });
        median(&each.collect::<Option<Vec<_>>>()?)
    }

    pub fn is_met(self, seen: f64, limit: f64) -> bool {
        if self.is_at_least() { seen >= limit } else { seen <= limit }
    }

    pub fn is_at_least(self) -> bool {
        matches!(self, Metric::Ratio | Metric::Fairness)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_is_the_median_of_the_pairs() {
        let seen = |rate: f64, p99: f64| Seen { rate, latency_us: vec![(99.0, p99)], ..Seen::default() };
        let pairs = [(1.0, 10.0), (1.0, 20.0), (1.0, 90.0)].map(|(one, other)| (seen(one, 5.0), seen(other, other)));
        let pairs = pairs.to_vec();
        assert_eq!(Metric::Ratio.of(&pairs), Some(20.0));
        assert_eq!(Metric::Percentile(99.0).of(&pairs), Some(4.0));
        assert_eq!(Metric::Percentile(100.0).of(&pairs), None);
        assert_eq!(Metric::More("retries").of(&pairs), None);
        assert!(Metric::Ratio.is_met(1.1, 1.1) && !Metric::Ratio.is_met(1.0, 1.1));
        assert!(Metric::Percentile(99.0).is_met(1.0, 1.1) && !Metric::Percentile(99.0).is_met(1.2, 1.1));
    }
}
