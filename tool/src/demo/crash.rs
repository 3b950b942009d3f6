//! The first half: SIGKILL in the middle, recovery, and the count.

use super::check::Told;
use super::{Arguments, check, files, start_writer, writer};
use crate::database::DatabaseFile;
use crate::failure::{Done, Failure};
use crate::recover;
use crate::text::{self, say};
use pwal::internal::handle::settle::How;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::ChildStdout;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

/// A kill comes so long after the first commit at the earliest, and before twice as much.
const RUN_MS: u64 = 700;
/// A child that does not commit within this time never will.
const PATIENCE: Duration = Duration::from_secs(60);

pub fn run(arguments: &Arguments, directory: &Path) -> Done {
    say!("Killed in the middle, {}:", text::counted(arguments.kills.into(), "time"));
    let path = directory.join("killed.db");
    let mut acknowledged = BTreeMap::new();
    let mut all = 0;
    for _ in 0..arguments.kills {
        let told = kill_in_the_middle(arguments, &path, &mut acknowledged)?;
        all += told;
        say!("  SIGKILL after {} acknowledged commits; left: {}", text::count(told), files(directory));
        let began = Instant::now();
        let report = recover::recover(&DatabaseFile::look(&path)?, How::Recover)?;
        let took = text::duration(began.elapsed());
        for line in recover::describe(&report) {
            say!("    {line}");
        }
        let found = check::check(&path, &acknowledged)?;
        if !found.wrong.is_empty() {
            return Err(Failure::no(format!("{}: {}", path.display(), found.wrong.join("; "))));
        }
        say!(
            "    in {took}; {} acknowledged, {} there, 0 lost; integrity_check ok by stock SQLite",
            text::count(all),
            text::count(found.commits)
        );
    }
    say!("");
    Ok(())
}

/// Lets the writers commit for a random while and kills them. Returns the commits they were told of in this run.
fn kill_in_the_middle(
    arguments: &Arguments,
    path: &Path,
    acknowledged: &mut BTreeMap<u32, u64>,
) -> Result<u64, Failure> {
    let random = getrandom::u64().map_err(|error| Failure::cannot(format!("no random numbers: {error}")))?;
    let run = Duration::from_millis(RUN_MS + random % RUN_MS);
    let (mut child, stdout) = start_writer(path, "pwal", arguments.threads, &[])?;
    let (first, committed) = mpsc::channel();
    let listener = thread::spawn(move || listen(stdout, &first));
    // The listener drops its end when the child has closed the pipe.
    let ended = match committed.recv_timeout(PATIENCE) {
        Ok(()) => committed.recv_timeout(run) != Err(RecvTimeoutError::Timeout),
        Err(_) => true,
    };
    let killed = child.kill().and_then(|()| child.wait());
    let status = killed.map_err(|error| Failure::cannot(format!("cannot kill the writers: {error}")))?;
    let told = listener.join().map_err(|_| Failure::cannot("the listener panicked"))?;
    if ended {
        return Err(Failure::cannot(format!("the writers ended before they were killed ({status}); they said why")));
    }
    let Told { commits, last } = told;
    acknowledged.extend(last);
    Ok(commits)
}

/// Reads until the child is gone; tells `first` once, of the first commit.
fn listen(stdout: ChildStdout, first: &Sender<()>) -> Told {
    let mut has_told = false;
    let lines = BufReader::new(stdout).lines().map_while(Result::ok);
    check::last_of(lines.inspect(|line| {
        if !has_told && line != writer::READY {
            has_told = true;
            let _ = first.send(());
        }
    }))
}
