//! A process that calls `exit` inside a call of SQLite into the shim, with whatever locks that call holds: a log callback
//! of the application may do that, or a signal handler. The process ends, and the next one finds what was
//! acknowledged.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::mpsc;
use std::time::Duration;
use support::lab::Lab;
use support::{Scratch, child};

/// How long an exit may take: the hook waits for whoever is in the middle, some times.
const EXIT_MAX: Duration = Duration::from_secs(10);

fn settings(path: &Path, at: u64, threads: u64) -> Vec<(&'static str, String)> {
    vec![
        ("PWAL_TEST_DATABASE", path.to_str().unwrap().to_owned()),
        ("PWAL_TEST_AT", at.to_string()),
        ("PWAL_TEST_THREADS", threads.to_string()),
        // What the child leaves goes with the parent's directory.
        ("TMPDIR", path.parent().unwrap().to_str().unwrap().to_owned()),
    ]
}

/// Commits of one connection: says `<number> <result>` of each.
fn work(lab: &Lab, path: &Path, writer: i64) {
    let open = || {
        let connection = support::try_open(path, support::flags(), &lab.vfs).unwrap();
        connection.busy_timeout(Duration::from_secs(5)).unwrap();
        connection
    };
    let mut connection = open();
    for round in 0..16_i64 {
        let n = 1000 * writer + round;
        let set = if round % 4 == 3 { "NORMAL" } else { "FULL" };
        let mode = if round % 8 > 5 { "conservative" } else { "auto" };
        support::code_of(
            &connection,
            &format!("PRAGMA wal_autocheckpoint=5; PRAGMA synchronous={set}; PRAGMA parallel_wal_mode={mode}"),
        );
        let code = support::code_of(&connection, &format!("INSERT INTO t VALUES({n}, zeroblob(30000))"));
        child::report(&format!("{n} {code}"));
        if round % 6 == 5 {
            drop(connection);
            connection = open();
        }
    }
}

#[test]
fn child_exits_inside_a_call() {
    if !child::role("exits::child_exits_inside_a_call") {
        return;
    }
    let path = PathBuf::from(child::setting("PWAL_TEST_DATABASE"));
    let at: u64 = child::setting("PWAL_TEST_AT").parse().unwrap();
    let threads: i64 = child::setting("PWAL_TEST_THREADS").parse().unwrap();
    let (lab, count) = (Lab::new(), AtomicU64::new(0));
    lab.hook(move |moment| {
        if count.fetch_add(1, SeqCst) + 1 == at {
            child::report(&format!("exits in {:?} {} {}", moment.call, moment.name, moment.done));
            std::process::exit(7);
        }
        Ok(())
    });
    std::thread::scope(|scope| {
        for writer in 1..threads {
            let (lab, path) = (&lab, &path);
            scope.spawn(move || work(lab, path, writer));
        }
        work(&lab, &path, 0);
    });
    std::process::exit(0);
}

#[test]
fn an_exit_at_any_call_of_the_disk_ends_the_process_and_loses_nothing() {
    let step = usize::try_from(support::env_number("PWAL_TEST_STEP", 29)).unwrap();
    let only = support::env_number("PWAL_TEST_ONE", 0);
    for threads in [1, 3] {
        for at in (1..).step_by(step) {
            let at = if only != 0 { only } else { at };
            let scratch = Scratch::new();
            let path = scratch.file("a.db");
            let setup = support::open_wal(&path);
            support::run(&setup, "CREATE TABLE t(n INTEGER PRIMARY KEY, x)");
            support::close(setup);
            let mut process = child::start("exits::child_exits_inside_a_call", &settings(&path, at, threads));
            // Its output ends when it has ended.
            let (ended, end) = mpsc::channel();
            let pid = process.pid();
            let watchdog = std::thread::spawn(move || {
                let hangs = end.recv_timeout(EXIT_MAX).is_err();
                if hangs {
                    // SAFETY: a child that was not waited for yet: its pid is nobody else's.
                    unsafe { libc::kill(pid, libc::SIGKILL) };
                }
                hangs
            });
            let lines: Vec<String> = process.lines.by_ref().collect();
            let _no_watchdog_any_more = ended.send(());
            let what = format!("{threads} threads, PWAL_TEST_ONE={at}: {lines:?}");
            assert!(!watchdog.join().unwrap(), "it hangs: {what}");
            let status = process.wait();
            assert!([Some(0), Some(7)].contains(&status.code()), "{status:?}: {what}");
            let connection = support::open(&path);
            let found = support::rows(&connection, "SELECT n FROM t").unwrap();
            for (n, code) in lines.iter().filter_map(|line| line.split_once(' ')) {
                if code == "0" {
                    assert!(found.iter().any(|row| row == n), "{n} is lost: {what}, {found:?}");
                }
            }
            support::assert_integrity(&connection);
            support::close(connection);
            if status.code() == Some(0) || only != 0 {
                println!("{what}");
                break;
            }
        }
    }
}
