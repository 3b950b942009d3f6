//! What runs showed.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;

/// The percentiles that results keep.
const PERCENTS: [f64; 6] = [50.0, 90.0, 99.0, 99.9, 99.99, 100.0];

/// What one run showed. What cannot be measured on this machine is not there.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Seen {
    /// Operations a second, of all threads and processes.
    pub rate: f64,
    /// The slowest thread's operations, divided by the fastest's; of processes, if there are several.
    pub fairness: f64,
    /// Percent, and the microseconds within which so much of the operations ended.
    pub latency_us: Vec<(f64, f64)>,
    /// Processor time of all processes for each operation, in microseconds.
    pub cpu_us: f64,
    /// For each 1,000 operations: `fsync` and `fdatasync`, all system calls, context switches.
    pub syncs: Option<f64>,
    pub system_calls: Option<f64>,
    pub context_switches: Option<f64>,
    /// For each 1,000 operations: flushes of pwal's log.
    pub flushes: Option<f64>,
    /// How often the application got "database is locked".
    pub locked: f64,
    /// What a sync took longer, in microseconds, as measured.
    pub delay_us: f64,
    /// What only some loads show ([`shows`]).
    pub more: BTreeMap<String, f64>,
}

/// Names in [`Seen::more`].
pub mod shows {
    /// Tries of a transaction that were refused, for each that was committed.
    pub const RETRIES: &str = "retries";
    /// The 99th percentile while no checkpoint ran, in microseconds.
    pub const P99_ALONE_US: &str = "p99 alone, us";
    /// The 99th percentile while one ran, divided by that.
    pub const BESIDE: &str = "p99 beside a checkpoint / alone";
    /// The median of the last tenth of the transactions, divided by that of the first.
    pub const GROWTH: &str = "last tenth / first";
    /// Bytes that were read, divided by the size of the log.
    pub const READS: &str = "bytes read / log";
    /// Bytes of the log for each commit.
    pub const LOG_BYTES: &str = "log bytes";
    /// Memory of the process, in KiB, beyond what it had before.
    pub const MEMORY_KIB: &str = "KiB";
    /// Open file descriptors.
    pub const DESCRIPTORS: &str = "descriptors";
    /// Threads that the process has beyond the first.
    pub const THREADS: &str = "threads";
}

impl Seen {
    pub fn percentile(&self, percent: f64) -> Option<f64> {
        self.latency_us.iter().find(|(at, _)| *at >= percent).map(|(_, us)| *us)
    }
}

/// Times of operations in nanoseconds, to three digits.
#[derive(Clone)]
pub struct Latencies(Histogram<u64>);

impl Latencies {
    pub fn new() -> Latencies {
        Latencies(Histogram::new(3).expect("three digits are a valid precision"))
    }

    pub fn record(&mut self, time: Duration) {
        let _it_resizes = self.0.record(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
    }

    pub fn add(&mut self, other: &Latencies) {
        let _it_resizes = self.0.add(&other.0);
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn us(&self, percent: f64) -> f64 {
        let ns = if percent >= 100.0 { self.0.max() } else { self.0.value_at_percentile(percent) };
        ns as f64 / 1000.0
    }

    /// As results keep them.
    pub fn percentiles(&self) -> Vec<(f64, f64)> {
        if self.is_empty() { Vec::new() } else { PERCENTS.map(|percent| (percent, self.us(percent))).to_vec() }
    }
}

/// For the way from a process to its parent: value and count.
impl Serialize for Latencies {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter_recorded().map(|at| (at.value_iterated_to(), at.count_at_value())))
    }
}

impl<'de> Deserialize<'de> for Latencies {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Latencies, D::Error> {
        let mut all = Latencies::new();
        for (value, count) in Vec::<(u64, u64)>::deserialize(deserializer)? {
            let _it_resizes = all.0.record_n(value, count);
        }
        Ok(all)
    }
}

impl Default for Latencies {
    fn default() -> Latencies {
        Latencies::new()
    }
}

/// The median; `None` of nothing.
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => None,
        n if n % 2 == 1 => Some(sorted[n / 2]),
        n => Some(f64::midpoint(sorted[n / 2 - 1], sorted[n / 2])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_survive_the_way_to_the_parent() {
        let mut all = Latencies::new();
        (1..=1000).for_each(|us| all.record(Duration::from_micros(us)));
        let text = serde_json::to_string(&all).expect("JSON");
        let read: Latencies = serde_json::from_str(&text).expect("the same");
        for percent in PERCENTS {
            let (wrote, read) = (all.us(percent), read.us(percent));
            assert!((wrote - percent * 10.0).abs() < 2.0 && (wrote - read).abs() < 2.0, "{percent}: {wrote}, {read}");
        }
        assert_eq!(Latencies::new().percentiles(), []);
    }

    #[test]
    fn the_median_of_an_even_number_lies_between() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
    }
}
