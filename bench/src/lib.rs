//! What pwal costs and saves beside stock SQLite: the loads, the runs in turns, the tables, the pictures. The command `pwal
//! bench` and the benchmark `compare` are two faces of it.
//!
//! A **case** is a load on one VFS with a number of processes, threads and so on. A **run** of it takes place in processes of its
//! own, on a new database. A **line** compares two cases in **pairs** of runs, one on each side, in turns on the same disk; what
//! counts is the median of a line's pairs. `docs/measurements.md` says how it is measured and why.

mod arguments;
mod awake;
mod case;
mod child;
mod counters;
mod crash;
mod database;
mod jobs;
mod lines;
mod machine;
mod notice;
mod open_close;
mod pairs;
mod parent;
mod plot;
mod report;
mod results;
mod scheduling;
mod seen;
#[cfg_attr(not(target_os = "linux"), path = "slow_sync_none.rs")]
mod slow_sync;
mod space;
mod targets;
mod threads;

pub use arguments::Arguments;
pub use awake::Awake;
pub use child::{CHILD, ChildArguments, run as child};
pub use machine::{file_system, is_in_memory, place};

use std::io;
use std::path::PathBuf;

/// Why a benchmark cannot be made, or a run of it failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An operation on a file failed.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// A verb, and maybe more.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// SQLite refused.
    #[error("{}: {source}", path.display())]
    Sqlite {
        /// The database.
        path: PathBuf,
        /// What SQLite says.
        source: rusqlite::Error,
    },
    /// A process that was measured did not do what it was asked.
    #[error("{case}: {what}")]
    Run {
        /// What was measured.
        case: String,
        /// What happened.
        what: String,
    },
    /// A file with results is not one, or has not what is needed.
    #[error("{}: {what}", path.display())]
    Results {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// A measurement needs what this machine does not have.
    #[error("{0}")]
    Missing(String),
}

impl Error {
    fn io(action: &'static str, path: &std::path::Path) -> impl FnOnce(io::Error) -> Error {
        let path = path.to_owned();
        move |source| Error::Io { action, path, source }
    }

    fn sqlite(path: &std::path::Path) -> impl FnOnce(rusqlite::Error) -> Error {
        let path = path.to_owned();
        move |source| Error::Sqlite { path, source }
    }
}

/// How a benchmark ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// All targets are met, or there were none.
    Met,
    /// A target is missed, and `--check` asked for it.
    Missed,
}

/// `pwal bench`: prints with `print`.
///
/// # Errors
/// A run failed, or a file cannot be written.
pub fn run(arguments: &Arguments, print: &dyn Fn(&str)) -> Result<Verdict, Error> {
    if let Some(results) = &arguments.draw {
        return plot::draw_beside(results).map(|()| Verdict::Met);
    }
    let choice = arguments.choice()?;
    if arguments.targets {
        targets::run(&choice, print)
    } else {
        report::run(&choice, &lines::chosen(&choice), print).map(|()| Verdict::Met)
    }
}
