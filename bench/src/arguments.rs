//! The command line.

use crate::Error;
use crate::case::{Case, Load, serial};
use crate::machine;
use std::path::PathBuf;

/// Compare pwal with stock SQLite on this machine: rates, latencies, what a commit costs
///
/// Runs both sides in turns, each run in processes of its own on a new database, and checks with stock SQLite that nothing is lost.
/// Without options it measures everything that it can; with --load, --threads and so on each value with each of the others.
#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// What is done to the database (default, if nothing is chosen: a list of everything, some ten minutes)
    #[arg(long, value_delimiter = ',')]
    load: Vec<Load>,
    /// Threads of each process (default: 8)
    #[arg(long, value_delimiter = ',', value_parser = clap::value_parser!(u16).range(1..=256))]
    threads: Vec<u16>,
    /// Processes (default: 1)
    #[arg(long, value_delimiter = ',', value_parser = clap::value_parser!(u16).range(1..=64))]
    processes: Vec<u16>,
    /// PRAGMA synchronous (default: FULL)
    #[arg(long, value_delimiter = ',', value_parser = ["OFF", "NORMAL", "FULL", "EXTRA"], ignore_case = true)]
    synchronous: Vec<String>,
    /// PRAGMA parallel_wal_mode (default: auto)
    #[arg(long, value_delimiter = ',', value_parser = ["auto", "conservative", "off"])]
    mode: Vec<String>,
    /// PRAGMA parallel_wal_writers (default: serial; both, for loads with time inside their transactions)
    #[arg(long, value_delimiter = ',', value_parser = ["serial", "concurrent"])]
    writers: Vec<String>,
    /// What each fsync and fdatasync takes longer, on both sides: 100us, 1ms (default: 0)
    #[arg(long, value_delimiter = ',', value_parser = delay)]
    sync_delay: Vec<u64>,
    /// Size of loads that have one, in MiB; see --help (default: 64; 32 beside a checkpoint, 256 behind a reader)
    #[arg(long, value_delimiter = ',', value_parser = clap::value_parser!(u64).range(1..=65536))]
    mib: Vec<u64>,
    /// Pairs of runs for each line
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..))]
    pairs: u16,
    /// How long a run lasts, in seconds
    #[arg(long, default_value_t = 1.0, value_parser = seconds)]
    seconds: f64,
    /// What is compared with stock SQLite; `unix` is stock itself, and shows the noise
    #[arg(long, default_value = "pwal", value_parser = ["pwal", "unix"])]
    vfs: String,
    /// Print the table of targets: measured as the disk is, and with syncs that take 100 us and 1 ms longer. Half an hour
    #[arg(long, conflicts_with_all = ["load", "threads", "processes", "synchronous", "mode", "writers", "sync_delay"])]
    pub targets: bool,
    /// With --targets: end with status 1 if one is missed
    #[arg(long, requires = "targets")]
    check: bool,
    /// Only lines whose name contains this
    #[arg(long)]
    only: Vec<String>,
    /// A short form: one pair of runs of 0.05 s, 2 threads, 1 MiB. It shows that everything runs, no more
    #[arg(long, conflicts_with_all = ["pairs", "seconds", "mib", "threads"])]
    quick: bool,
    /// Write the results there as JSON, and pictures of them beside it
    #[arg(long)]
    json: Option<PathBuf>,
    /// Measure nothing: draw the pictures of a file that --json has written
    #[arg(long, value_name = "JSON", exclusive = true)]
    pub draw: Option<PathBuf>,
    /// Where to make the databases: the disk that counts (default: the directory for temporary files, or the present one if that
    /// is in memory)
    #[arg(long)]
    dir: Option<PathBuf>,
    /// The loadable library, for loads that use the sqlite3 shell (default: beside this program)
    #[arg(long)]
    library: Option<PathBuf>,
}

/// What is chosen, with the defaults.
pub struct Choice {
    /// Nothing but sizes and lengths is chosen.
    pub everything: bool,
    pub loads: Vec<Load>,
    pub threads: Vec<usize>,
    pub processes: Vec<usize>,
    pub synchronous: Vec<String>,
    pub modes: Vec<String>,
    /// What is chosen of it: perhaps nothing.
    pub writers: Vec<String>,
    pub delays_us: Vec<u64>,
    pub mib: Vec<u64>,
    pub pairs: usize,
    pub run_ms: u64,
    pub vfs: String,
    pub check: bool,
    pub quick: bool,
    only: Vec<String>,
    pub json: Option<PathBuf>,
    pub place: PathBuf,
    pub library: Option<PathBuf>,
}

fn or<T: Clone>(chosen: &[T], default: T) -> Vec<T> {
    if chosen.is_empty() { vec![default] } else { chosen.to_vec() }
}

impl Arguments {
    /// The loadable library, unless one is named.
    #[must_use]
    pub fn with_library(mut self, library: Option<PathBuf>) -> Arguments {
        self.library = self.library.or(library);
        self
    }

    pub(crate) fn choice(&self) -> Result<Choice, Error> {
        let everything = self.load.is_empty()
            && self.threads.is_empty()
            && self.processes.is_empty()
            && self.synchronous.is_empty()
            && self.mode.is_empty()
            && self.writers.is_empty()
            && self.sync_delay.is_empty();
        let numbers = |chosen: &[u16], default: usize| match chosen {
            [] => vec![default],
            chosen => chosen.iter().copied().map(usize::from).collect(),
        };
        Ok(Choice {
            everything,
            loads: or(&self.load, Load::Insert),
            threads: numbers(&self.threads, if self.quick { 2 } else { 8 }),
            processes: numbers(&self.processes, 1),
            synchronous: or(&self.synchronous, "FULL".into()).iter().map(|text| text.to_uppercase()).collect(),
            modes: or(&self.mode, "auto".into()),
            writers: self.writers.clone(),
            delays_us: or(&self.sync_delay, 0),
            mib: if self.quick { vec![1] } else { self.mib.clone() },
            pairs: if self.quick { 1 } else { self.pairs.into() },
            run_ms: if self.quick { 50 } else { (self.seconds * 1000.0) as u64 },
            vfs: self.vfs.clone(),
            check: self.check,
            quick: self.quick,
            only: self.only.clone(),
            json: self.json.clone(),
            place: self.dir.clone().map_or_else(machine::place, Ok)?,
            library: self.library.clone().map(|path| std::path::absolute(&path).unwrap_or(path)),
        })
    }
}

impl Choice {
    /// A case on the VFS that is compared, with one thread.
    pub fn case(&self, load: Load, synchronous: &str) -> Case {
        Case {
            load,
            vfs: self.vfs.clone(),
            mode: "auto".into(),
            writers: serial(),
            synchronous: synchronous.into(),
            processes: 1,
            threads: 1,
            delay_us: 0,
            run_ms: self.run_ms,
            mib: self.mib.first().copied().or(load.mib()).unwrap_or(0),
            library: self.library.clone(),
        }
    }

    /// Whether a line of this name is to be measured.
    pub fn wants(&self, name: &str) -> bool {
        self.only.iter().all(|word| name.contains(word.as_str()))
    }
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(seconds) if (0.01..=3600.0).contains(&seconds) => Ok(seconds),
        _ => Err("between 0.01 and 3600".to_owned()),
    }
}

/// In microseconds.
fn delay(text: &str) -> Result<u64, String> {
    let (number, unit) = match (text.strip_suffix("us"), text.strip_suffix("ms")) {
        (Some(number), _) => (number, 1),
        (_, Some(number)) => (number, 1000),
        _ if text == "0" => ("0", 1),
        _ => return Err("a time, for example 100us or 1ms".to_owned()),
    };
    let number: u64 = number.trim().parse().map_err(|error| format!("{error}"))?;
    Some(number.saturating_mul(unit)).filter(|us| *us <= 1_000_000).ok_or_else(|| "at most 1000ms".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_have_units() {
        assert_eq!(delay("0"), Ok(0));
        assert_eq!(delay("100us"), Ok(100));
        assert_eq!(delay("2ms"), Ok(2000));
        assert!(delay("5").is_err() && delay("2s").is_err() && delay("1001ms").is_err() && delay("-1ms").is_err());
    }
}
