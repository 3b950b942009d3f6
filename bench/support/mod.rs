//! What the benches share: the machine in words, a core that stays awake, medians; pairs of runs and their table.
#![allow(dead_code, reason = "each bench takes what it needs")]

pub mod compare;
pub mod run;
#[cfg_attr(not(target_os = "linux"), path = "slow_sync_none.rs")]
mod slow_sync;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Keeps every core awake at idle priority until dropped: the sync of a virtual disk takes
/// microseconds or milliseconds, depending on whether the machine had gone to sleep.
pub struct Warm {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Warm {
    /// One busy thread for each core.
    pub fn start() -> Warm {
        let stop = Arc::new(AtomicBool::new(false));
        let threads = (0..cores())
            .map(|_| {
                let stop = Arc::clone(&stop);
                std::thread::spawn(move || {
                    idle_priority();
                    while !stop.load(Relaxed) {
                        // Entering the kernel lets a woken thread have the core now, not at the next tick.
                        std::thread::yield_now();
                    }
                })
            })
            .collect();
        Warm { stop, threads }
    }
}

impl Drop for Warm {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// Anything else that wants the core gets it at once.
fn idle_priority() {
    #[cfg(target_os = "linux")]
    {
        // SAFETY: all zero is a valid parameter; the call reads it and changes this thread only.
        unsafe {
            let none: libc::sched_param = std::mem::zeroed();
            libc::sched_setscheduler(0, libc::SCHED_IDLE, &raw const none);
        }
    }
}

/// The number of cores.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// The median; 0 of nothing.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => 0.0,
        n if n % 2 == 1 => sorted[n / 2],
        n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
    }
}

/// "median (lowest..highest)", each by `show`.
pub fn spread(values: &[f64], show: impl Fn(f64) -> String) -> String {
    let lowest = values.iter().copied().fold(f64::INFINITY, f64::min);
    let highest = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    format!("{} ({}..{})", show(median(values)), show(lowest), show(highest))
}

/// The value below which `share` of the sorted values lie.
pub fn quantile(sorted: &[u64], share: f64) -> u64 {
    if sorted.is_empty() {
        return 0;
    }
    sorted[((sorted.len() - 1) as f64 * share).round() as usize]
}

/// Cores, processor, system, file system of `directory`, and what a sync costs there.
pub fn machine(directory: &Path) -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let info = read("/proc/cpuinfo");
    let model = info.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or(" an unknown processor");
    let mounts = read("/proc/mounts");
    let place = directory.canonicalize().unwrap_or_else(|_| directory.to_owned());
    let system = mounts
        .lines()
        .filter_map(|line| {
            let mut words = line.split(' ').skip(1);
            Some((words.next()?, words.next()?))
        })
        .filter(|(at, _)| place.starts_with(at))
        .max_by_key(|(at, _)| at.len())
        .map_or("an unknown file system", |(_, name)| name);
    format!(
        "{} cores, {}, Linux {}, {system}, SQLite {}; {}",
        cores(),
        model.trim_start_matches([' ', '\t', ':']),
        read("/proc/sys/kernel/osrelease").trim(),
        rusqlite::version(),
        sync_cost(directory)
    )
}

/// What `fdatasync` costs after a 4 KiB overwrite of written blocks.
fn sync_cost(directory: &Path) -> String {
    let path = directory.join("sync-cost");
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
            each.push(start.elapsed().as_micros() as u64);
        }
        each.sort_unstable();
        Ok(each)
    };
    let each = measure().unwrap_or_default();
    let _ = std::fs::remove_file(&path);
    format!("fdatasync of 4 KiB: median {} us, 99% below {} us", quantile(&each, 0.5), quantile(&each, 0.99))
}

/// A directory on the disk to be measured: beside the build, or where `PWAL_BENCH_DIR` says.
/// (`/tmp` may be memory.)
pub fn directory() -> tempfile::TempDir {
    let place =
        std::env::var_os("PWAL_BENCH_DIR").map_or_else(|| env!("CARGO_TARGET_TMPDIR").into(), std::path::PathBuf::from);
    tempfile::Builder::new().prefix("bench-").tempdir_in(place).expect("a directory for the measured databases")
}
