//! Several processes on one database, on pwal and on stock SQLite, side by side: `cargo bench -p pwal-bench --bench processes`.
//!
//! Pairs of runs, one on each, on the same disk, in turns; a ratio for each pair; the median of the ratios and their
//! spread. Each run has a new database and processes of its own, which begin together. The last lines compare pwal with
//! itself: processes against the same number of threads of one process. `-- --help` lists the options.

mod run;
#[path = "../support/mod.rs"]
mod support;

use run::Load;
use std::process::ExitCode;
use support::compare::{Choice, Line, Table, Targets};

const HELP: &str = "\
cargo bench -p pwal-bench --bench processes -- [--short] [--pairs N] [--ms N] [--only WORD] [--vfs NAME] [--json FILE] [--check]
  --short      few lines, one pair of runs of 500 ms each
  --pairs N    pairs of runs for each line (default 3)
  --ms N       length of a run in milliseconds (default 1000)
  --only WORD  only the lines whose name contains WORD, for example FULL, conservative, +100, \"8 x 1\", against
  --vfs NAME   what is compared with unix (default pwal; unix shows the noise)
  --json FILE  write the results there, too (the input of plot)
  --check      fail if a target is missed
";

fn lines(choice: &Choice) -> Vec<Line<Load>> {
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
    all
}

fn main() -> ExitCode {
    let table = Table {
        help: HELP,
        has_short: true,
        lines: "autocommit inserts, processes x threads",
        worker: "process",
        other_sides: ", or threads / processes",
    };
    table.main(run::child, lines, run::measure)
}
