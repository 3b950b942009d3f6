//! A process may not make a file longer than its limit (`RLIMIT_FSIZE`, `ulimit -f`): what does not fit is refused with the code that
//! stock SQLite gives, what was acknowledged is there, other processes go on, and so does this one when the limit is gone.

use rusqlite::{Connection, ffi};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::path::{Path, PathBuf};
use support::scene::{COUNT, watchdog};
use support::{Scratch, child, code_of, number, run};

fn limit(bytes: Option<u64>) {
    setrlimit(Resource::Fsize, Rlimit { current: bytes, ..getrlimit(Resource::Fsize) }).expect("set a limit");
}

/// As Python does: a write that does not fit is EFBIG, not the end of the process.
fn ignore_the_signal() {
    // SAFETY: a disposition of this process.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
}

/// No zeros, which the log would leave out.
const ROW: &str = "INSERT INTO t VALUES(randomblob(3000))";

fn database(scratch: &Scratch) -> PathBuf {
    let path = scratch.file("a.db");
    support::scene::create(&path);
    path
}

/// Refused as stock refuses it, or done.
fn insert(connection: &Connection, done: &mut i64) -> bool {
    let code = code_of(connection, ROW);
    assert!([0, ffi::SQLITE_IOERR_WRITE].contains(&code), "{code}: {}", state(connection));
    *done += i64::from(code == 0);
    code == 0
}

fn state(connection: &Connection) -> String {
    // Stock has no such pragma.
    connection.query_row("PRAGMA parallel_wal_status", [], |row| row.get(0)).unwrap_or_default()
}

#[test]
fn what_does_not_fit_is_refused_and_nothing_else() {
    child::alone("file_size_limit::what_does_not_fit_is_refused_and_nothing_else", || {
        ignore_the_signal();
        // The database, a segment, the control block do not fit, in turn.
        for kib in [64, 200, 600, 2000] {
            let _watchdog = watchdog("a limit of file sizes");
            let scratch = Scratch::new();
            let path = database(&scratch);
            limit(Some(kib * 1024));
            let connection = support::open(&path);
            let mut done = 0;
            let mut refused = 0;
            while refused < 30 && done < 600 {
                refused += i64::from(!insert(&connection, &mut done));
            }
            // The log may grow by as many segments as it likes.
            assert!(refused == 30 || support::on_pwal() && kib >= 300, "{kib} KiB: {done} rows");
            // A quarter of the limit at least fits in, if a segment does.
            assert!(done * 4 * 4 >= kib as i64 || kib < 300, "{kib} KiB: {done} rows");
            assert_eq!(number(&connection, COUNT), done, "{kib} KiB");
            let checkpoint = code_of(&connection, "PRAGMA wal_checkpoint(TRUNCATE)");
            assert!(
                [0, ffi::SQLITE_IOERR_WRITE].contains(&checkpoint),
                "{kib} KiB: {checkpoint}: {}",
                state(&connection)
            );
            limit(None);
            assert!(insert(&connection, &mut done), "{kib} KiB: {}", state(&connection));
            assert_eq!(number(&connection, COUNT), done, "{kib} KiB");
            support::assert_integrity(&connection);
            support::close(connection);
            support::assert_plain(&path);
        }
    });
}

const LIMITED: &str = "file_size_limit::child_has_a_limit";

#[test]
fn child_has_a_limit() {
    if !child::role(LIMITED) {
        return;
    }
    ignore_the_signal();
    limit(child::setting("PWAL_TEST_LIMIT").parse().ok());
    let connection = support::open(Path::new(&child::setting("PWAL_TEST_DATABASE")));
    while let Some(command) = child::command() {
        if let Some(bytes) = command.strip_prefix("limit ") {
            limit(bytes.parse().ok());
            child::report("0");
        } else {
            child::report(&code_of(&connection, &command).to_string());
        }
    }
}

/// A process without the limit makes segments that are longer, and a database file that is.
#[test]
fn others_go_on_beside_a_process_with_a_limit() {
    if !support::on_pwal() {
        return;
    }
    let _watchdog = watchdog("beside a limit of file sizes");
    let scratch = Scratch::new();
    let path = database(&scratch);
    let free = support::open(&path);
    run(&free, "PRAGMA wal_autocheckpoint=0");
    let mut done = 0;
    (0..100).for_each(|_| assert!(insert(&free, &mut done)));
    let mut refused = 0;
    for kib in [100, 300, 1000, 2000] {
        let settings = [
            ("PWAL_TEST_DATABASE", path.to_str().expect("text").to_owned()),
            ("PWAL_TEST_LIMIT", (kib * 1024).to_string()),
        ];
        let mut limited = child::start(LIMITED, &settings);
        let mut ask = |sql: &str| -> i32 {
            limited.send(sql);
            limited.lines.next().expect("an answer").parse().expect("a code")
        };
        for round in 0..15 {
            for sql in [ROW, "PRAGMA wal_checkpoint(PASSIVE)", ROW] {
                let code = ask(sql);
                assert!([0, ffi::SQLITE_IOERR_WRITE].contains(&code), "{kib} KiB, {sql}: {code}: {}", state(&free));
                done += i64::from(code == 0 && sql == ROW);
                refused += i64::from(code != 0);
            }
            (0..round % 20).for_each(|_| assert!(insert(&free, &mut done), "{kib} KiB: {}", state(&free)));
            assert_eq!(number(&free, COUNT), done, "{kib} KiB");
        }
        assert_eq!(code_of(&free, "PRAGMA wal_checkpoint(PASSIVE)"), 0, "{kib} KiB: {}", state(&free));
        assert_eq!((ask("limit none"), ask(ROW)), (0, 0), "{kib} KiB");
        done += 1;
        limited.end_input();
        assert!(limited.wait().success());
    }
    assert!(refused > 50, "{refused} refused");
    assert_eq!(number(&free, COUNT), done);
    support::assert_integrity(&free);
    support::close(free);
    support::assert_plain(&path);
}

/// The limit comes while the files of the log are open: what lies beyond it is refused, and the log goes on.
#[test]
fn a_limit_that_comes_later_concerns_one_process() {
    if !support::on_pwal() {
        return;
    }
    let _watchdog = watchdog("a limit of file sizes that comes later");
    let scratch = Scratch::new();
    let path = database(&scratch);
    let free = support::open(&path);
    run(&free, "PRAGMA wal_autocheckpoint=0");
    let mut done = 0;
    let settings =
        [("PWAL_TEST_DATABASE", path.to_str().expect("text").to_owned()), ("PWAL_TEST_LIMIT", "none".to_owned())];
    let mut limited = child::start(LIMITED, &settings);
    let mut ask = |sql: &str| -> i32 {
        limited.send(sql);
        limited.lines.next().expect("an answer").parse().expect("a code")
    };
    for round in 0..12 {
        (0..7 + round).for_each(|_| assert!(insert(&free, &mut done), "{}", state(&free)));
        assert_eq!((ask(ROW), ask("limit 16384")), (0, 0), "round {round}: {}", state(&free));
        done += 1;
        for _ in 0..2 {
            assert_eq!(ask(ROW), ffi::SQLITE_IOERR_WRITE, "round {round}: {}", state(&free));
        }
        assert!(insert(&free, &mut done), "round {round}: {}", state(&free));
        assert_eq!(ask("limit none"), 0);
    }
    limited.end_input();
    assert!(limited.wait().success());
    assert_eq!(number(&free, COUNT), done);
    support::assert_integrity(&free);
    support::close(free);
    support::assert_plain(&path);
}
