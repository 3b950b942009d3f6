//! Short lives: open, one statement, close, on a connection of this process or in a process of the sqlite3 shell.

use crate::case::{Case, Load};
use crate::child::{Outcome, Run};
use crate::database::open;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const INSERT: &str = "INSERT INTO t(thread, n, value) VALUES(0, 1, 'one row')";
const READ: &str = "SELECT count(*) FROM t WHERE id = 1";

pub fn run(path: &Path, case: &Case, run: Run) -> Outcome {
    let (sql, in_shell) = match case.load {
        Load::OpenInsertClose => (INSERT, false),
        Load::ShellInsert => (INSERT, true),
        Load::ShellRead => (READ, true),
        _ => (READ, false),
    };
    let life = || if in_shell { shell(path, case, sql) } else { connection(path, case, sql) };
    // Libraries and statements are in the caches.
    life();
    let mut running = run.begin();
    let (begin, mut times) = (Instant::now(), Vec::new());
    while begin.elapsed() < Duration::from_millis(case.run_ms) {
        let start = Instant::now();
        life();
        times.push(start.elapsed());
    }
    let mut outcome = running.end(path, case);
    outcome.seconds = begin.elapsed().as_secs_f64();
    outcome.operations = vec![times.len() as u64];
    outcome.acknowledged = if sql == INSERT { times.len() as u64 + 1 } else { 0 };
    times.iter().for_each(|time| outcome.latencies.record(*time));
    outcome
}

fn connection(path: &Path, case: &Case, sql: &str) {
    let connection = open(path, case).expect("open the database");
    if sql == READ {
        connection.query_row(sql, [], |_| Ok(())).expect("read");
    } else {
        connection.execute_batch(sql).expect("insert");
    }
    connection.close().expect("close the database");
}

fn shell(path: &Path, case: &Case, sql: &str) {
    let mut command = Command::new(sqlite3());
    command.arg(":memory:");
    if case.is_pwal() {
        let library = case.library.as_ref().expect("the loadable library");
        // Without its suffix: the shell adds it, and finds the entry point by the name.
        command.arg(format!(".load {}", quoted(&library.with_extension(""))));
    }
    command.arg(format!(".open {}", quoted(path)));
    if case.is_pwal() {
        command.arg(format!("PRAGMA parallel_wal_mode={}", case.mode));
    }
    command.arg(format!("PRAGMA synchronous={}; {sql};", case.synchronous));
    let done = command.stdin(Stdio::null()).output().expect("start sqlite3");
    let error = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success() && error.is_empty(), "sqlite3: {} {error}", done.status);
}

/// As an argument of a dot command, where the shell undoes C's escapes.
fn quoted(path: &Path) -> String {
    format!("\"{}\"", path.display().to_string().replace('\\', "\\\\").replace('"', "\\\""))
}

/// The shell; `PWAL_SQLITE3` names another.
pub fn sqlite3() -> std::ffi::OsString {
    std::env::var_os("PWAL_SQLITE3").unwrap_or_else(|| "sqlite3".into())
}
