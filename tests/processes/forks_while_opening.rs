//! Forks while other threads open and close databases: the child holds no lock of its parent, and can open what it wants.
//!
//! `PWAL_TEST_FORKS=10000 cargo test --test processes forks_while_opening::` is the long form.

use pwal::internal::disk::Directory;
use pwal::internal::shared::LockFile;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use support::scene::watchdog;
use support::{Scratch, child, run};

const CLEAN: i32 = 0;
const INHERITED: i32 = 7;

fn forks() -> usize {
    std::env::var("PWAL_TEST_FORKS").map_or(400, |forks| forks.parse().expect("a number"))
}

/// Forks; the child runs `act` and ends with what it answers, or by a signal after a while.
fn in_a_fork(act: impl FnOnce() -> i32) -> i32 {
    // SAFETY: the child calls what may be called there (the C library's memory is safe over a fork), and ends.
    unsafe {
        match libc::fork() {
            0 => {
                libc::alarm(20);
                libc::_exit(act())
            }
            pid => {
                assert!(pid > 0);
                let mut status = 0;
                assert_eq!(libc::waitpid(pid, &raw mut status, 0), pid);
                if libc::WIFEXITED(status) { libc::WEXITSTATUS(status) } else { -libc::WTERMSIG(status) }
            }
        }
    }
}

/// Whether this process has a lock file open.
fn has_lock_files() -> bool {
    let links = (3..256).filter_map(|fd| std::fs::read_link(format!("/proc/self/fd/{fd}")).ok());
    links.into_iter().any(|link| link.to_string_lossy().contains("-pwal/lock"))
}

/// Plays `role` in a process of its own, and says what it reports.
fn plays(role: &str) -> String {
    let scratch = Scratch::new();
    let mut process = child::start(role, &[("PWAL_TEST_DIRECTORY", scratch.path().to_str().expect("text").to_owned())]);
    let said = process.lines.next();
    assert!(process.wait().success());
    said.expect("a report")
}

#[test]
fn child_forks_while_databases_are_opened() {
    if !child::role("forks_while_opening::child_forks_while_databases_are_opened") {
        return;
    }
    let directory = PathBuf::from(child::setting("PWAL_TEST_DIRECTORY"));
    let long = support::open_wal(&directory.join("long.db"));
    run(&long, "CREATE TABLE t(x); INSERT INTO t VALUES(1)");
    let (stop, opened) = (AtomicBool::new(false), AtomicUsize::new(0));
    let mut found = [0; 3];
    std::thread::scope(|threads| {
        for thread in 0..2 {
            let path = directory.join(format!("{thread}.db"));
            let (stop, opened) = (&stop, &opened);
            threads.spawn(move || {
                while !stop.load(SeqCst) {
                    let connection = support::open_wal(&path);
                    run(&connection, "CREATE TABLE IF NOT EXISTS t(x)");
                    drop(connection);
                    opened.fetch_add(1, SeqCst);
                }
            });
        }
        for _ in 0..forks() {
            match in_a_fork(|| if has_lock_files() { INHERITED } else { CLEAN }) {
                CLEAN => found[0] += 1,
                INHERITED => found[1] += 1,
                _ => found[2] += 1,
            }
        }
        stop.store(true, SeqCst);
    });
    assert!(opened.load(SeqCst) > 4);
    run(&long, "INSERT INTO t VALUES(2)");
    child::report(&format!("{found:?}"));
}

#[test]
fn a_forked_child_inherits_no_lock_whatever_other_threads_open() {
    if !support::on_pwal() {
        return;
    }
    let _watchdog = watchdog("forks while databases are opened");
    assert_eq!(plays("forks_while_opening::child_forks_while_databases_are_opened"), format!("[{}, 0, 0]", forks()));
}

/// Only the library's own locks: those of SQLite, of which a forked child may find one taken, are not in it.
#[test]
fn child_forks_while_lock_files_are_opened() {
    if !child::role("forks_while_opening::child_forks_while_lock_files_are_opened") {
        return;
    }
    support::vfs();
    let directory = PathBuf::from(child::setting("PWAL_TEST_DIRECTORY"));
    let place = |name: &str| {
        let path = directory.join(name);
        std::fs::create_dir(&path).expect("a directory");
        Directory::open(&path).expect("open it")
    };
    let (one, two, own) = (place("one"), place("two"), place("own"));
    let stop = AtomicBool::new(false);
    let mut hung = 0;
    std::thread::scope(|threads| {
        for place in [&one, &two] {
            let stop = &stop;
            threads.spawn(move || {
                while !stop.load(SeqCst) {
                    drop(LockFile::open(place, 0o600).expect("a lock file"));
                }
            });
        }
        for _ in 0..forks() {
            let opens =
                || LockFile::open(&own, 0o600).map_or(1, |lock| i32::from(lock.try_lock(0..1).ok() != Some(true)));
            hung += usize::from(in_a_fork(opens) != CLEAN);
        }
        stop.store(true, SeqCst);
    });
    child::report(&hung.to_string());
}

#[test]
fn a_forked_child_waits_for_no_thread_of_its_parent() {
    let _watchdog = watchdog("forks while lock files are opened");
    assert_eq!(plays("forks_while_opening::child_forks_while_lock_files_are_opened"), "0");
}
