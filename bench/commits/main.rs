//! Commits per second on pwal and on stock SQLite, side by side: `cargo bench -p pwal-bench --bench commits`.
//!
//! Pairs of runs, one on each, on the same disk, in turns; a ratio for each pair; the median of the
//! ratios and their spread. Each run is a process of its own with a new database. `-- --help` tells
//! what can be chosen; `docs/measurements.md` tells what is measured and why.

mod run;
#[path = "../support/mod.rs"]
mod support;

use run::Load;
use std::process::ExitCode;
use support::compare::{Choice, Line, Table, Targets};

const HELP: &str = "\
cargo bench -p pwal-bench --bench commits -- [--pairs N] [--ms N] [--only WORD] [--vfs NAME] [--json FILE] [--check]
  --pairs N    pairs of runs for each line (default 3)
  --ms N       length of a run in milliseconds (default 1000)
  --only WORD  only the lines whose name contains WORD, for example FULL, NORMAL, +100, SELECT, \"8 threads\"
  --vfs NAME   what is compared with unix (default pwal; unix shows the noise)
  --json FILE  write the results there, too (the input of plot)
  --check      fail if a target is missed
";

fn lines(choice: &Choice) -> Vec<Line<Load>> {
    let line = |synchronous: &str, threads: usize, extra_us: u64, writes: u64| {
        let what = match writes {
            100 => String::new(),
            0 => ", SELECT".into(),
            share => format!(", SELECT with {share}% INSERT"),
        };
        let slow = if extra_us == 0 { String::new() } else { format!(" +{extra_us} us") };
        let threads_word = if threads == 1 { "thread" } else { "threads" };
        let ratio = match (synchronous, threads, extra_us, writes) {
            ("FULL", 1, 0, 100) => Some(0.9),
            ("FULL", 8, 0, 100) => Some(1.5),
            ("FULL", 8, 100, 100) => Some(3.0),
            _ => None,
        };
        let side = |vfs: &str| Load {
            vfs: vfs.into(),
            synchronous: synchronous.into(),
            threads,
            extra_us,
            writes,
            length_ms: choice.length_ms(),
        };
        let fairness = (synchronous == "FULL" && threads > 1 && writes == 100).then_some(0.8);
        Line {
            name: format!("{synchronous}{slow}, {threads} {threads_word}{what}"),
            sides: [side("unix"), side(&choice.vfs)],
            targets: Targets { ratio, fairness, ..Targets::default() },
        }
    };
    let mut all = Vec::new();
    for (synchronous, extra_us) in [("FULL", 0), ("FULL", 100), ("NORMAL", 0)] {
        all.extend([1, 2, 8, 32].map(|threads| line(synchronous, threads, extra_us, 100)));
    }
    all.extend([line("FULL", 8, 0, 5), line("NORMAL", 8, 0, 5), line("FULL", 8, 0, 0), line("FULL", 1, 0, 0)]);
    all
}

fn main() -> ExitCode {
    let table = Table { help: HELP, has_short: false, lines: "autocommit inserts", worker: "thread", other_sides: "" };
    table.main(run::child, lines, run::measure)
}
