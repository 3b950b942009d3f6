//! Starts the processes of a run, lets them begin together, and adds up what they did.

use crate::Error;
use crate::case::{Case, Load};
use crate::child::{CHILD, Outcome, READY, Step, Task};
use crate::seen::{Latencies, Seen, shows};
use crate::{crash, database};
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

/// A process that has not ended this long after its time hangs: single jobs take as long as the disk needs.
const PATIENCE: Duration = Duration::from_secs(600);

/// Runs the case on a new database below `directory`.
pub fn measure(directory: &Path, case: &Case) -> Result<Seen, Error> {
    let place = tempfile::Builder::new().prefix("run-").tempdir_in(directory);
    let place = place.map_err(Error::io("make a directory in", directory))?;
    let path = place.path().join("app.db");
    database::make(&path, case)?;
    let start = |step| Process::start(&Task { case: case.clone(), path: path.clone(), step }, case);
    if case.load == Load::OpenAfterCrash {
        crash::kill_when_full(start(Step::Crash)?)?;
        crash::uncache(place.path())?;
    }
    let count = if case.load.is_timed() { case.processes } else { 1 };
    let processes = (0..count).map(|_| start(Step::Run)).collect::<Result<Vec<_>, _>>()?;
    let outcomes = together(processes, case)?;
    check(&path, case, &outcomes)?;
    Ok(summary(case, &outcomes))
}

/// One process that is measured; killed if it is still there when this is dropped.
pub struct Process {
    child: Child,
    /// Read by `together` in the end.
    output: Option<BufReader<ChildStdout>>,
    case: String,
}

impl Process {
    fn start(task: &Task, case: &Case) -> Result<Process, Error> {
        let name = case.to_string();
        let failed = |what: String| Error::Run { case: name.clone(), what };
        let program = std::env::current_exe().map_err(|error| failed(format!("cannot start itself: {error}")))?;
        let task = serde_json::to_string(task).map_err(|error| failed(error.to_string()))?;
        let mut command = Command::new(program);
        command.args([CHILD, &task]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().map_err(|error| failed(format!("cannot start itself: {error}")))?;
        let output = child.stdout.take().map(BufReader::new);
        Ok(Process { child, output, case: name })
    }

    pub fn failed(&self, what: impl Into<String>) -> Error {
        Error::Run { case: self.case.clone(), what: what.into() }
    }

    /// Waits until the process has opened its database.
    pub fn wait_until_ready(&mut self) -> Result<(), Error> {
        let mut line = String::new();
        let output = self.output.as_mut().ok_or_else(|| Error::Missing("a process without output".to_owned()))?;
        let read = output.read_line(&mut line);
        let read = read.map_err(|error| self.failed(error.to_string()))?;
        if read > 0 && line.trim_end() == READY {
            return Ok(());
        }
        let status = self.child.wait().map_err(|error| self.failed(error.to_string()))?;
        Err(self.failed(format!("a process did not begin: {status}")))
    }

    /// Kills it (SIGKILL).
    pub fn kill(mut self) -> Result<(), Error> {
        let killed = self.child.kill().and_then(|()| self.child.wait());
        killed.map(|_| ()).map_err(|error| self.failed(error.to_string()))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail for one that has ended, as it should have.
        let _ended = self.child.kill();
        let _ended = self.child.wait();
    }
}

/// They wait for each other, and run.
fn together(mut processes: Vec<Process>, case: &Case) -> Result<Vec<Outcome>, Error> {
    processes.iter_mut().try_for_each(Process::wait_until_ready)?;
    // They wait for the end of their input.
    processes.iter_mut().for_each(|process| drop(process.child.stdin.take()));
    let (send, receive) = mpsc::channel();
    for (index, process) in processes.iter_mut().enumerate() {
        let (send, output) = (send.clone(), process.output.take());
        std::thread::spawn(move || {
            let mut text = String::new();
            let read = output.map_or(Ok(0), |mut output| output.read_to_string(&mut text));
            let _the_parent_waits = send.send((index, read.map(|_| text)));
        });
    }
    let failed = |what: String| Error::Run { case: case.to_string(), what };
    let mut outcomes: Vec<Outcome> = processes.iter().map(|_| Outcome::default()).collect();
    for _ in 0..processes.len() {
        let patience = Duration::from_millis(case.run_ms) + PATIENCE;
        let (index, text) = receive.recv_timeout(patience).map_err(|_| failed("a process hangs".to_owned()))?;
        let text = text.map_err(|error| failed(error.to_string()))?;
        let outcome = serde_json::from_str(&text);
        outcomes[index] = outcome.map_err(|_| failed("a process died; it printed why".to_owned()))?;
    }
    Ok(outcomes)
}

/// Stock SQLite counts what the processes say they have written.
fn check(path: &Path, case: &Case, outcomes: &[Outcome]) -> Result<(), Error> {
    let acknowledged: u64 = outcomes.iter().map(|outcome| outcome.acknowledged).sum();
    let written = database::written(path)?;
    if written == acknowledged {
        return Ok(());
    }
    let what = format!("{acknowledged} operations were acknowledged, the database has {written}");
    Err(Error::Run { case: format!("{case} on {}", case.vfs), what })
}

fn summary(case: &Case, outcomes: &[Outcome]) -> Seen {
    let each: Vec<u64> = match outcomes {
        [one] => one.operations.clone(),
        many => many.iter().map(|outcome| outcome.operations.iter().sum()).collect(),
    };
    let all: u64 = each.iter().sum();
    let extreme = |value: Option<&u64>| value.copied().unwrap_or(0) as f64;
    let (mut latencies, mut alone) = (Latencies::new(), Latencies::new());
    for outcome in outcomes {
        latencies.add(&outcome.latencies);
        alone.add(&outcome.alone);
    }
    let counts = outcomes.iter().map(|outcome| outcome.counts).reduce(|all, one| all.and(one)).unwrap_or_default();
    let a_thousand = |count: Option<u64>| count.filter(|_| all > 0).map(|count| count as f64 * 1000.0 / all as f64);
    let sum = |pick: fn(&Outcome) -> u64| outcomes.iter().map(pick).sum::<u64>() as f64;
    let flushes = outcomes.iter().map(|outcome| outcome.flushes).sum::<Option<u64>>();
    let mut more =
        outcomes.iter().flat_map(|outcome| outcome.more.clone()).collect::<std::collections::BTreeMap<_, _>>();
    if case.load == Load::ReadModifyWrite || case.load.is_for_both_writers() {
        more.insert(shows::RETRIES.to_owned(), sum(|outcome| outcome.retries) / (all.max(1) as f64));
    }
    if !alone.is_empty() && !latencies.is_empty() {
        more.insert(shows::P99_ALONE_US.to_owned(), alone.us(99.0));
        more.insert(shows::BESIDE.to_owned(), latencies.us(99.0) / alone.us(99.0));
    }
    Seen {
        rate: all as f64 / outcomes.first().map_or(1.0, |outcome| outcome.seconds),
        fairness: extreme(each.iter().min()) / extreme(each.iter().max()).max(1.0),
        latency_us: latencies.percentiles(),
        cpu_us: counts.cpu_us as f64 / all.max(1) as f64,
        syncs: a_thousand(counts.syncs),
        system_calls: a_thousand(counts.system_calls),
        context_switches: a_thousand(counts.context_switches),
        flushes: a_thousand(flushes),
        locked: sum(|outcome| outcome.locked),
        delay_us: outcomes.iter().map(|outcome| outcome.delay_us).fold(0.0, f64::max),
        more,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case::STOCK;

    fn case() -> Case {
        let (vfs, mode, synchronous) = (STOCK.into(), "auto".into(), "FULL".into());
        let (load, processes, threads, library) = (Load::Update, 1, 1, None);
        Case {
            load,
            vfs,
            mode,
            writers: crate::case::serial(),
            synchronous,
            processes,
            threads,
            delay_us: 0,
            run_ms: 1,
            mib: 0,
            library,
        }
    }

    #[test]
    fn an_operation_that_was_acknowledged_and_is_not_there_is_an_error() {
        let place = tempfile::tempdir().expect("a directory");
        let path = place.path().join("app.db");
        let case = case();
        database::make(&path, &case).expect("a database");
        let stock = database::open(&path, &case).expect("open it");
        stock.execute_batch("UPDATE t SET n = n + 1 WHERE id <= 3").expect("update");
        drop(stock);
        let outcome = |acknowledged| Outcome { acknowledged, ..Outcome::default() };
        assert!(check(&path, &case, &[outcome(1), outcome(2)]).is_ok());
        let error = check(&path, &case, &[outcome(2), outcome(2)]).expect_err("one is lost");
        assert!(error.to_string().contains("4 operations were acknowledged, the database has 3"), "{error}");
    }

    #[test]
    fn processes_add_up_and_are_compared_by_all_of_their_threads() {
        let mut one = Outcome { operations: vec![10, 20], seconds: 2.0, ..Outcome::default() };
        one.counts.system_calls = Some(30);
        let mut other = Outcome { operations: vec![30, 30], seconds: 2.0, ..Outcome::default() };
        other.counts.system_calls = Some(60);
        let seen = summary(&Case { load: Load::Insert, ..case() }, &[one, other]);
        assert_eq!((seen.rate, seen.fairness, seen.system_calls), (45.0, 0.5, Some(1000.0)));
        assert_eq!((seen.syncs, seen.flushes), (None, None));
    }
}
