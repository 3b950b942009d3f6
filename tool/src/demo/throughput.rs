//! The second half: the same writers on stock SQLite and on pwal, in turns on the same disk.

use super::{Arguments, start_writer};
use crate::failure::{Done, Failure};
use crate::progress;
use crate::text::say;
use crate::text::{self, Table};
use pwal_bench::Awake;
use std::io::{BufRead, BufReader};
use std::path::Path;

/// What the threads of one run committed.
struct Run {
    /// Commits of each thread, ascending.
    commits: Vec<u64>,
    seconds: f64,
}

impl Run {
    fn per_second(&self) -> f64 {
        self.commits.iter().sum::<u64>() as f64 / self.seconds
    }

    fn row(&self, round: u32, name: &str, ratio: &str) -> Vec<String> {
        let thread = |commits: Option<&u64>| text::count(commits.copied().unwrap_or(0));
        let per_second = text::count(self.per_second() as u64);
        vec![
            round.to_string(),
            name.to_owned(),
            per_second,
            thread(self.commits.first()),
            thread(self.commits.last()),
            ratio.to_owned(),
        ]
    }
}

pub fn run(arguments: &Arguments, directory: &Path) -> Done {
    say!("Compared with stock SQLite {}, {} s each, in turns:", rusqlite::version(), arguments.seconds);
    let _awake = Awake::new();
    let mut table = Table::new(&["round", "", "commits/s", "slowest thread", "fastest thread", "ratio"]);
    let mut ratios = Vec::new();
    for round in 1..=arguments.rounds {
        let one = |name| measure(arguments, directory, round, name);
        // Each side goes first as often as the other.
        let (stock, pwal) = if round % 2 == 1 {
            let stock = one("stock")?;
            (stock, one("pwal")?)
        } else {
            let pwal = one("pwal")?;
            (one("stock")?, pwal)
        };
        let ratio = pwal.per_second() / stock.per_second().max(f64::MIN_POSITIVE);
        table.row(stock.row(round, "stock", ""));
        table.row(pwal.row(round, "pwal", &format!("{ratio:.2}")));
        ratios.push(ratio);
    }
    text::print(&table.render("  "));
    ratios.sort_by(f64::total_cmp);
    let middle = ratios.len() / 2;
    let median = if ratios.len() % 2 == 1 { ratios[middle] } else { (ratios[middle - 1] + ratios[middle]) / 2.0 };
    say!("  pwal committed {median:.2} times as much as stock SQLite (median of {} rounds)", ratios.len());
    Ok(())
}

fn measure(arguments: &Arguments, directory: &Path, round: u32, name: &str) -> Result<Run, Failure> {
    let wait = progress::spinner(format!("round {round}: {name}"));
    let vfs = if name == "stock" { "unix" } else { "pwal" };
    let path = directory.join(format!("{name}-{round}.db"));
    let more = ["--seconds".to_owned(), arguments.seconds.to_string()];
    let (mut child, stdout) = start_writer(&path, vfs, arguments.threads, &more)?;
    let lines = BufReader::new(stdout).lines().map_while(Result::ok);
    let mut commits: Vec<u64> = lines.filter_map(|line| line.split_once(' ')?.1.parse().ok()).collect();
    let status = child.wait().map_err(|error| Failure::cannot(format!("cannot wait for the writers: {error}")))?;
    wait.finish_and_clear();
    if !status.success() || commits.len() != arguments.threads as usize {
        return Err(Failure::cannot(format!("the writers on {name} failed ({status}); they said why")));
    }
    commits.sort_unstable();
    Ok(Run { commits, seconds: arguments.seconds })
}
