//! A process that is measured: it opens, prints that it is ready, waits for the end of its input, runs, and prints what it did.

use crate::case::{Case, Load};
use crate::counters::{Counters, Counts};
use crate::seen::Latencies;
use crate::{Error, crash, jobs, notice, open_close, slow_sync, space, threads};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The first argument of a program that is to call [`run`].
pub const CHILD: &str = "bench-run";

/// What a process that is measured gets from its parent.
#[derive(clap::Args)]
pub struct ChildArguments {
    task: String,
}

/// What one process has to do.
#[derive(Serialize, Deserialize)]
pub struct Task {
    pub case: Case,
    pub path: PathBuf,
    pub step: Step,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Step {
    /// Measure.
    Run,
    /// Fill the log, and be killed.
    Crash,
}

/// What one process did.
#[derive(Default, Serialize, Deserialize)]
pub struct Outcome {
    /// What the sum of `n` in the table has to be because of it.
    pub acknowledged: u64,
    /// Operations within the time, of each thread.
    pub operations: Vec<u64>,
    /// The time in seconds.
    pub seconds: f64,
    pub locked: u64,
    pub retries: u64,
    pub latencies: Latencies,
    pub alone: Latencies,
    pub counts: Counts,
    pub flushes: Option<u64>,
    pub delay_us: f64,
    /// What only this load shows.
    pub more: BTreeMap<String, f64>,
}

/// The line that a process prints when it is ready.
pub const READY: &str = "ready";

/// A process that is not running yet.
pub struct Run {
    counters: Counters,
    delay: Duration,
}

/// A process while it is measured.
pub struct Running {
    counters: Counters,
    before: Counts,
    delay: Duration,
}

impl Run {
    /// Before others that want the processor, on this VFS, with syncs that take longer.
    fn prepare(case: &Case) -> Result<Run, Error> {
        // Where that is permitted: what else runs on the machine delays each wake by a time slice of some ms.
        let _refusal_changes_nothing = rustix::process::setpriority_process(None, -20);
        if case.is_pwal() {
            pwal::register().map_err(|error| Error::Missing(error.to_string()))?;
        }
        let delay = match case.delay_us {
            0 => Duration::ZERO,
            us => slow_sync::install(Duration::from_micros(us)).map_err(|error| {
                Error::Missing(format!("slower syncs need a kernel that permits seccomp user notification: {error}"))
            })?,
        };
        // After that: the thread that delays is not counted.
        Ok(Run { counters: Counters::open(), delay })
    }

    /// Waits for the other processes; the measured time begins.
    pub fn begin(self) -> Running {
        println!("{READY}");
        std::io::stdin().read_to_end(&mut Vec::new()).expect("wait for the others");
        let Run { mut counters, delay } = self;
        Running { before: counters.read(), counters, delay }
    }
}

impl Running {
    /// It is over; the database at `path` is still open.
    pub fn end(&mut self, path: &Path, case: &Case) -> Outcome {
        let counts = self.counters.read().since(self.before);
        Outcome {
            counts,
            delay_us: self.delay.as_nanos() as f64 / 1000.0,
            seconds: case.run_ms as f64 / 1000.0,
            flushes: flushes(path, case),
            ..Outcome::default()
        }
    }
}

/// Flushes of this process since it opened the database.
fn flushes(path: &Path, case: &Case) -> Option<u64> {
    if !case.is_pwal() || !case.load.is_timed() {
        return None;
    }
    let connection = crate::database::open(path, case).ok()?;
    connection.query_row("SELECT count(*) FROM t WHERE 0", [], |_| Ok(())).ok()?;
    let status: String = connection.query_row("SELECT pwal_status()", [], |row| row.get(0)).ok()?;
    let status: pwal::Status = serde_json::from_str(&status).ok()?;
    status.log.map(|log| log.flushes)
}

/// Does what the parent asks for.
///
/// # Errors
/// It cannot begin. What fails later is a bug of pwal or of this program, and a panic.
pub fn run(arguments: &ChildArguments) -> Result<(), Error> {
    let Task { case, path, step } = serde_json::from_str(&arguments.task)
        .map_err(|error| Error::Missing(format!("{CHILD} is for this program itself: {error}")))?;
    if step == Step::Crash {
        crash::fill(&path, &case);
    }
    let run = Run::prepare(&case)?;
    let outcome = match case.load {
        load if load.is_timed() => threads::run(&path, &case, run),
        Load::Notice => notice::run(&path, &case, run),
        Load::Connections | Load::Databases => space::run(&path, &case, run),
        Load::OpenAfterCrash => crash::open(&path, &case, run),
        Load::OpenInsertClose | Load::OpenReadClose | Load::ShellInsert | Load::ShellRead => {
            open_close::run(&path, &case, run)
        }
        _ => jobs::run(&path, &case, run),
    };
    println!("{}", serde_json::to_string(&outcome).expect("numbers"));
    Ok(())
}
