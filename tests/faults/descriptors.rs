//! A process that has no file descriptor left (`EMFILE`): what fails is refused cleanly, what was acknowledged stays, and
//! with descriptors it goes on.

use rusqlite::ffi;
use std::fs::File;
use std::io;
use std::path::PathBuf;
use support::lab::{Call, Lab, eio, status};
use support::{Scratch, child};

fn no_descriptor() -> io::Error {
    io::Error::from_raw_os_error(libc::EMFILE)
}

fn is_opening(call: Call) -> bool {
    call == Call::Open || call == Call::Create
}

/// Poison erases through descriptors of its own: without one it cannot, and says so. What was acknowledged stays.
#[test]
fn what_cannot_be_erased_for_want_of_a_descriptor_has_an_unknown_outcome() {
    for (mode, failing) in
        [("auto", Call::Sync), ("conservative", Call::Sync), ("auto", Call::Write), ("conservative", Call::Write)]
    {
        let what = format!("{mode}, {failing:?}");
        let lab = Lab::new();
        let connection = lab.wal();
        support::run(&connection, &format!("PRAGMA parallel_wal_mode={mode}; CREATE TABLE t(x)"));
        support::run(&connection, "INSERT INTO t VALUES(1)");
        let other = lab.open("a.db");
        assert_eq!(support::text(&other, "SELECT x FROM t"), "1");
        lab.hook(move |moment| match moment.call {
            call if call == failing && moment.name.ends_with(".seg") => Err(eio()),
            call if is_opening(call) => Err(no_descriptor()),
            _ => Ok(()),
        });
        assert_eq!(support::code_of(&connection, "INSERT INTO t VALUES(2)") & 0xff, ffi::SQLITE_IOERR, "{what}");
        let told = status(&other, "poisoned").as_str().unwrap().to_owned();
        assert!(told.contains("unknown"), "{what}: {told}");
        assert_eq!(support::code_of(&other, "INSERT INTO t VALUES(3)") & 0xff, ffi::SQLITE_IOERR, "{what}");
        match support::rows(&other, "SELECT x FROM t") {
            Ok(rows) => assert_eq!(rows, ["1"], "{what}"),
            Err(error) => assert_eq!(support::code(&error) & 0xff, ffi::SQLITE_IOERR, "{what}"),
        }
        lab.unhook();
        let crashed = lab.crash();
        drop((connection, other));
        for (how, again) in [("killed", crashed.open()), ("closed", lab.open("a.db"))] {
            let rows = support::text(&again, "SELECT x FROM t");
            assert!(["1", "1 2"].contains(&rows.as_str()), "{what}, {how}: {rows}");
            support::run(&again, "INSERT INTO t VALUES(4)");
            support::assert_integrity(&again);
        }
    }
}

/// A segment, a spill file: a commit that needs one is refused before it is promised, and the next one works.
#[test]
fn a_commit_that_needs_a_file_is_refused_cleanly() {
    for big in [false, true] {
        let lab = Lab::new();
        let connection = lab.wal();
        support::run(&connection, "PRAGMA parallel_wal_max_batch_bytes=65536; CREATE TABLE t(n, x)");
        let other = lab.open("a.db");
        let insert = |n: i64| {
            let bytes = if big { 3_000_000 } else { 20_000 };
            support::code_of(&connection, &format!("INSERT INTO t VALUES({n}, zeroblob({bytes}))"))
        };
        assert_eq!(insert(0), 0);
        lab.hook(|moment| if is_opening(moment.call) { Err(no_descriptor()) } else { Ok(()) });
        let mut acknowledged = vec![String::from("0")];
        let mut refused = 0;
        for n in 1..60 {
            match insert(n) {
                0 => acknowledged.push(n.to_string()),
                code => {
                    assert!(
                        [ffi::SQLITE_CANTOPEN, ffi::SQLITE_IOERR, ffi::SQLITE_FULL].contains(&(code & 0xff)),
                        "{code}"
                    );
                    assert!(connection.is_autocommit());
                    refused += 1;
                }
            }
        }
        assert!(refused > 0, "nothing needed a file");
        assert!(status(&other, "poisoned").is_null());
        assert_eq!(support::rows(&other, "SELECT n FROM t ORDER BY n").unwrap(), acknowledged);
        lab.unhook();
        assert_eq!(insert(100), 0);
        acknowledged.push(String::from("100"));
        let crashed = lab.crash();
        for again in [&other, &crashed.open()] {
            assert_eq!(support::rows(again, "SELECT n FROM t ORDER BY n").unwrap(), acknowledged);
            support::assert_integrity(again);
        }
    }
}

/// Leaves this process with so many descriptors.
fn exhaust(free: usize) -> Vec<File> {
    let mut taken: Vec<File> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
    taken.truncate(taken.len() - free);
    taken
}

#[test]
fn child_runs_out_of_descriptors() {
    if !child::role("descriptors::child_runs_out_of_descriptors") {
        return;
    }
    let limit = libc::rlimit { rlim_cur: 100, rlim_max: 100 };
    // SAFETY: a limit of this process.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) }, 0);
    let path = PathBuf::from(child::setting("PWAL_TEST_DATABASE"));
    let mut acknowledged = Vec::new();
    let mut failed = 0;
    // From an open database, from a closed one, from one that was not closed.
    for scene in 0..3 {
        for free in 0..16 {
            let before = (scene == 0).then(|| support::open(&path));
            if let Some(connection) = &before {
                assert_eq!(support::number(connection, "SELECT count(*) FROM t"), acknowledged.len() as i64);
            }
            let taken = exhaust(free);
            let n = scene * 100 + free;
            let insert = format!("PRAGMA synchronous=FULL; INSERT INTO t VALUES({n}, zeroblob(300000))");
            let connection = support::try_open(&path, support::flags(), support::vfs());
            let code = connection.as_ref().map_or(-1, |connection| support::code_of(connection, &insert));
            if code == 0 {
                acknowledged.push(n.to_string());
            } else {
                failed += 1;
            }
            // Closed without a descriptor, or with.
            let taken = (free % 2 == 0).then_some(taken);
            drop(connection);
            drop((before, taken));
            let again = support::open(&path);
            assert_eq!(
                support::rows(&again, "SELECT n FROM t ORDER BY n").unwrap(),
                acknowledged,
                "{scene}, {free}: {code}"
            );
            support::assert_integrity(&again);
            if scene == 2 {
                let config = rusqlite::config::DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE;
                again.set_db_config(config, true).unwrap();
            }
            support::close(again);
        }
    }
    child::report(&format!("{} and {failed}", acknowledged.len()));
}

/// At any number of free descriptors an open, a commit and a close either work or fail whole.
#[test]
fn any_number_of_free_descriptors() {
    let scratch = Scratch::new();
    let path = scratch.file("a.db");
    let setup = support::open_wal(&path);
    support::run(&setup, "CREATE TABLE t(n INTEGER PRIMARY KEY, x)");
    support::close(setup);
    let mut process = child::start(
        "descriptors::child_runs_out_of_descriptors",
        &[("PWAL_TEST_DATABASE", path.to_str().unwrap().to_owned())],
    );
    let told = process.lines.next();
    assert!(process.wait().success());
    println!("{told:?}");
    let counts: Vec<u32> = told.unwrap().split(" and ").map(|count| count.parse().unwrap()).collect();
    assert!(counts.iter().all(|count| *count > 0), "{counts:?}");
    support::assert_integrity(&support::open(&path));
}
