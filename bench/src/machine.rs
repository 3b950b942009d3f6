//! The machine in words and numbers: results mean nothing without.

use crate::Error;
use crate::counters::Counters;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// What the numbers are of.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Machine {
    pub cpu: String,
    pub cores: usize,
    pub kernel: String,
    pub file_system: String,
    pub sqlite: String,
    /// `fdatasync` after a 4 KiB overwrite of written blocks, in microseconds.
    pub sync_median_us: u64,
    pub sync_p99_us: u64,
    /// Processes that were ready to run, over the minute before; more than a few tenths, and it was not quiet.
    pub load_average: Option<f64>,
    /// How system calls and context switches are counted.
    pub counters: String,
}

impl Machine {
    /// This one, with the disk of `directory`.
    pub fn look(directory: &Path) -> Result<Machine, Error> {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let info = read("/proc/cpuinfo");
        let model = info.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("an unknown processor");
        // Before the syncs that are measured.
        let load_average = read("/proc/loadavg").split(' ').next().and_then(|text| text.parse().ok());
        let syncs = syncs(directory)?;
        let quantile = |percent: usize| syncs.get((syncs.len().max(1) - 1) * percent / 100).copied().unwrap_or(0);
        Ok(Machine {
            cpu: model.trim_start_matches([' ', '\t', ':']).to_owned(),
            cores: cores(),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            file_system: file_system(directory),
            sqlite: rusqlite::version().to_owned(),
            sync_median_us: quantile(50),
            sync_p99_us: quantile(99),
            load_average,
            counters: Counters::open().source().to_owned(),
        })
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Machine { cpu, cores, kernel, file_system, sqlite, sync_median_us, sync_p99_us, .. } = self;
        write!(f, "{cores} cores, {cpu}, Linux {kernel}, {file_system}, SQLite {sqlite}; ")?;
        write!(f, "fdatasync of 4 KiB: median {sync_median_us} us, 99% below {sync_p99_us} us")?;
        self.load_average.map_or(Ok(()), |load| write!(f, "; load average {load}"))
    }
}

/// The number of cores.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// The kind of file system that `place` lies on, by `/proc/mounts`.
pub fn file_system(place: &Path) -> String {
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap_or_default();
    let place = place.canonicalize().unwrap_or_else(|_| place.to_owned());
    let at_and_kind = mounts.lines().filter_map(|line| {
        let mut words = line.split(' ').skip(1);
        Some((words.next()?, words.next()?))
    });
    let around = at_and_kind.filter(|(at, _)| place.starts_with(at));
    // The later of two on one directory covers the other.
    around.max_by_key(|(at, _)| at.len()).map_or("an unknown file system", |(_, kind)| kind).to_owned()
}

/// Nothing is durable there, and a sync costs nothing: that would show nothing.
pub fn is_in_memory(place: &Path) -> bool {
    matches!(file_system(place).as_str(), "tmpfs" | "ramfs")
}

/// Where databases that are measured lie if the user names no place: the directory for temporary files, or the present one if
/// that is in memory.
///
/// # Errors
/// There is no present directory.
pub fn place() -> Result<PathBuf, Error> {
    let temporary = std::env::temp_dir();
    if is_in_memory(&temporary) {
        std::env::current_dir().map_err(Error::io("find", Path::new(".")))
    } else {
        Ok(temporary)
    }
}

/// Times of syncs, ascending, in microseconds.
fn syncs(directory: &Path) -> Result<Vec<u64>, Error> {
    let path = directory.join("sync");
    let measure = || -> std::io::Result<Vec<u64>> {
        let file = File::options().create(true).truncate(true).write(true).open(&path)?;
        file.write_all_at(&vec![1; 1 << 20], 0)?;
        file.sync_all()?;
        let mut each: Vec<u64> = Vec::new();
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_millis(300) {
            file.write_all_at(&[2; 4096], (each.len() as u64 % 256) * 4096)?;
            let start = Instant::now();
            file.sync_data()?;
            each.push(u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX));
        }
        each.sort_unstable();
        std::fs::remove_file(&path)?;
        Ok(each)
    };
    measure().map_err(Error::io("measure syncs of", &path))
}
