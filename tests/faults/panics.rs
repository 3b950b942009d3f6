//! A panic in the middle of a commit, as a bug would raise one: it does not leave the shim, nobody hangs, and what a
//! COMMIT answered is what the next open finds.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;
use support::child;
use support::lab::{Call, Lab, Once};

/// Rows by their writer: 0 before, 1 whose COMMIT panics, 2 others beside it, 3 afterwards.
fn rows(connection: &rusqlite::Connection) -> rusqlite::Result<Vec<String>> {
    support::rows(connection, "SELECT w FROM t ORDER BY w")
}

#[test]
fn a_panic_in_a_commit_is_an_error_and_nobody_hangs() {
    let _watchdog = support::Watchdog::new("panics", Duration::from_secs(120));
    let mut told = Vec::new();
    for mode in ["auto", "conservative"] {
        for synchronous in ["FULL", "NORMAL"] {
            for (call, done) in [(Call::Write, false), (Call::Write, true), (Call::Sync, false), (Call::Sync, true)] {
                for idle in [false, true] {
                    let what = format!("{mode}, {synchronous}, {call:?}, done {done}, idle {idle}");
                    let lab = Lab::new();
                    let connection = lab.wal();
                    support::run(&connection, &format!("PRAGMA parallel_wal_mode={mode}; CREATE TABLE t(w)"));
                    support::run(&connection, &format!("PRAGMA synchronous={synchronous}; INSERT INTO t VALUES(0)"));
                    let other = lab.open("a.db");
                    support::run(&other, &format!("PRAGMA synchronous={synchronous}; SELECT * FROM t"));
                    let cursor = idle.then(|| connection.prepare("SELECT w FROM t").unwrap());
                    let once = Once::default();
                    let happened = once.clone();
                    lab.hook(move |moment| {
                        let hit = moment.call == call && moment.done == done && moment.name.ends_with(".seg");
                        if hit && once.first() {
                            panic!("on purpose");
                        }
                        Ok(())
                    });
                    let code = support::code_of(&connection, "INSERT INTO t VALUES(1)");
                    lab.unhook();
                    assert_eq!(code != 0, happened.happened(), "{what}: {code}");
                    let after_a_kill = rows(&lab.crash().open()).unwrap();
                    assert_eq!(after_a_kill.contains(&String::from("1")), code == 0, "{what}: {after_a_kill:?}");
                    // In a thread: whatever the first one left must not stop it.
                    let (tell, answer) = mpsc::channel();
                    let thread = std::thread::spawn(move || {
                        other.busy_timeout(Duration::from_secs(5)).unwrap();
                        let code = support::code_of(&other, "INSERT INTO t VALUES(2)");
                        tell.send((code, rows(&other))).unwrap();
                    });
                    let (of_other, seen) = answer.recv_timeout(Duration::from_secs(30)).expect(&what);
                    thread.join().unwrap();
                    drop(cursor);
                    let again = support::code_of(&connection, "INSERT INTO t VALUES(3)");
                    drop(connection);
                    let found = rows(&lab.open("a.db")).unwrap();
                    told.push(format!("{what}: {code}, other {of_other}, sees {seen:?}, then {again}: {found:?}"));
                    assert_ne!(of_other & 0xff, rusqlite::ffi::SQLITE_BUSY, "{told:#?}");
                    for (writer, code) in [("0", 0), ("1", code), ("2", of_other), ("3", again)] {
                        let is_there = found.iter().any(|row| row == writer);
                        assert_eq!(is_there, code == 0, "{writer}: {told:#?}");
                    }
                }
            }
        }
    }
    println!("{told:#?}");
}

/// The flush of a commit panics when it is synced already, while another one waits for the same flush: who goes on with it
/// shall not make durable what was answered with an error.
#[test]
fn what_a_panicking_leader_answered_nobody_makes_durable() {
    let _watchdog = support::Watchdog::new("a panicking leader", Duration::from_secs(120));
    for round in 0..20 {
        let lab = Lab::new();
        let connection = lab.wal();
        support::run(&connection, "CREATE TABLE t(w); INSERT INTO t VALUES(0)");
        let other = lab.open("a.db");
        other.busy_timeout(Duration::from_secs(5)).unwrap();
        support::run(&other, "PRAGMA synchronous=FULL; SELECT * FROM t");
        let (synced, is_synced) = mpsc::channel();
        let (written, is_written) = mpsc::channel();
        let (once, is_written) = (Once::default(), Mutex::new(is_written));
        lab.hook(move |moment| {
            let log = moment.done && moment.name.ends_with(".seg");
            if log && moment.call == Call::Sync && once.first() {
                synced.send(()).unwrap();
                is_written.lock().unwrap().recv().unwrap();
                panic!("on purpose");
            }
            if log && moment.call == Call::Write && once.happened() {
                // Nobody hears it once the panic is over.
                let _ = written.send(());
            }
            Ok(())
        });
        let thread = std::thread::spawn(move || {
            is_synced.recv().unwrap();
            support::code_of(&other, "INSERT INTO t VALUES(2)")
        });
        let code = support::code_of(&connection, "INSERT INTO t VALUES(1)");
        let of_other = thread.join().unwrap();
        lab.unhook();
        drop(connection);
        assert_ne!(code, 0, "{round}");
        let found = rows(&lab.open("a.db")).unwrap();
        assert!(!found.contains(&String::from("1")), "{round}: {code}, other {of_other}: {found:?}");
        assert_eq!(found.contains(&String::from("2")), of_other == 0, "{round}: {found:?}");
    }
}

/// What a run was answered: numbers by what their COMMIT said.
#[derive(Debug, Default)]
struct Answers {
    durable: Vec<i64>,
    written: Vec<i64>,
    failed: Vec<i64>,
}

/// Commits, checkpoints and closes on two connections, one after the other; whatever fails is opened again.
fn work(lab: &Lab, answers: &mut Answers) {
    let mut connections: [Option<rusqlite::Connection>; 2] = [None, None];
    for n in 0..24_i64 {
        let connection = connections[usize::from(n % 3 == 2)].get_or_insert_with(|| {
            let connection = lab.open("a.db");
            connection.busy_timeout(Duration::from_secs(2)).unwrap();
            connection
        });
        let durable = n % 4 != 3;
        let set = if durable { "PRAGMA synchronous=FULL" } else { "PRAGMA synchronous=NORMAL" };
        let mode = if n % 8 > 5 { "conservative" } else { "auto" };
        let settings =
            format!("PRAGMA journal_mode=WAL; PRAGMA wal_autocheckpoint=5; {set}; PRAGMA parallel_wal_mode={mode}");
        if support::code_of(connection, &settings) == 0 && n % 5 == 4 {
            let _may_fail = support::rows(connection, "PRAGMA wal_checkpoint(TRUNCATE)");
        }
        let sql = format!("BEGIN IMMEDIATE; INSERT INTO t VALUES({n}, zeroblob(30000)); COMMIT");
        let to = match support::code_of(connection, &sql) {
            0 if durable => &mut answers.durable,
            0 => &mut answers.written,
            _ => {
                connections = [None, None];
                &mut answers.failed
            }
        };
        to.push(n);
        if n % 9 == 8 {
            connections = [None, None];
        }
    }
}

/// At one call of the disk after the other (`PWAL_TEST_STEP=1`: at each; `PWAL_TEST_ONE`: the one): what was acknowledged is there, what was answered with an error is not, and the
/// database can be opened again, in this process.
/// In a process of its own, which says nothing of these panics.
#[test]
fn a_panic_in_any_call_of_the_disk() {
    child::alone("panics::a_panic_in_any_call_of_the_disk", panic_everywhere);
}

fn panic_everywhere() {
    let _watchdog = support::Watchdog::new("panics everywhere", Duration::from_secs(300));
    std::panic::set_hook(Box::new(|_| {}));
    let only = support::env_number("PWAL_TEST_ONE", 0);
    let mut violations = Vec::new();
    let step = usize::try_from(support::env_number("PWAL_TEST_STEP", 9)).unwrap();
    for at in (1..).step_by(step) {
        let at = if only != 0 { only } else { at };
        let lab = Lab::new();
        let setup = lab.wal();
        support::run(&setup, "CREATE TABLE t(n INTEGER PRIMARY KEY, x)");
        support::run(&setup, "PRAGMA parallel_wal_segment_bytes=1048576");
        drop(setup);
        let (count, where_to) = (Arc::new(AtomicU64::new(0)), Arc::new(Mutex::new(String::new())));
        let (counted, place) = (count.clone(), where_to.clone());
        lab.hook(move |moment| {
            if counted.fetch_add(1, SeqCst) + 1 == at {
                *place.lock().unwrap() = format!("{:?} {} {}", moment.call, moment.name, moment.done);
                panic!("on purpose");
            }
            Ok(())
        });
        let mut answers = Answers::default();
        work(&lab, &mut answers);
        let happened = count.load(SeqCst) >= at;
        lab.unhook();
        let again = lab.open("a.db");
        again.busy_timeout(Duration::from_secs(2)).unwrap();
        let what = format!("{at}: {}: {answers:?}", where_to.lock().unwrap());
        match support::rows(&again, "SELECT n FROM t ORDER BY n") {
            Ok(found) => {
                let is_there = |n: &i64| found.contains(&n.to_string());
                let lost: Vec<_> = answers.durable.iter().filter(|n| !is_there(n)).collect();
                let undead: Vec<_> = answers.failed.iter().filter(|n| is_there(n)).collect();
                let at_risk: Vec<_> = answers.written.iter().filter(|n| !is_there(n)).collect();
                if !(lost.is_empty() && undead.is_empty()) || answers.failed.len() > 2 || at_risk.len() > 1 {
                    violations.push(format!("{what}: lost {lost:?}, {at_risk:?}, undead {undead:?}"));
                }
                support::assert_integrity(&again);
            }
            Err(error) => violations.push(format!("{what}: {error:?}")),
        }
        if !happened {
            println!("{at} calls");
            break;
        }
        if only != 0 {
            println!("{what}");
            break;
        }
    }
    // Told here: the hook above is silent.
    println!("{violations:#?}");
    assert!(violations.is_empty());
}
