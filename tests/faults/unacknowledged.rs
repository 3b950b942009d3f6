//! A COMMIT that is published and cannot be made durable, through SQLite, with another process attached (a second
//! registration of pwal has an engine of its own): an answer that is not OK means that the row is not there, for nobody, also
//! after the next open; and that everybody is poisoned if it was published.

use rusqlite::{Connection, ffi};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::Duration;
use support::lab::{Call, Lab, eio, status};

/// Another process, as far as pwal can tell.
fn another(lab: &Lab, other: &Lab) -> Connection {
    let connection = support::try_open(&lab.path(), support::flags(), &other.vfs).expect("opened");
    connection.busy_timeout(Duration::from_secs(5)).unwrap();
    support::run(&connection, "PRAGMA wal_autocheckpoint=0; PRAGMA synchronous=FULL; SELECT * FROM t");
    assert_eq!(status(&connection, "active"), true);
    connection
}

/// From the moment on that the batch is written, such calls on segments fail, so many of them.
fn fail_behind_publication(lab: &Lab, call: Call, times: u64) -> Arc<AtomicU64> {
    let (written, failed) = (AtomicBool::new(false), Arc::new(AtomicU64::new(0)));
    let count = Arc::clone(&failed);
    lab.hook(move |moment| {
        if !moment.name.ends_with(".seg") {
            return Ok(());
        }
        if !written.load(SeqCst) {
            written.store(moment.call == Call::Write && moment.done, SeqCst);
            return Ok(());
        }
        if moment.call == call && !moment.done && count.load(SeqCst) < times {
            count.fetch_add(1, SeqCst);
            return Err(eio());
        }
        Ok(())
    });
    failed
}

fn is_poisoned(connection: &Connection) -> bool {
    status(connection, "poisoned").is_string()
}

#[test]
fn what_is_answered_with_an_error_does_not_come_back() {
    const EVER: u64 = u64::MAX;
    // A lone commit has its certificate written with it: the next write is only of one that is not.
    for (call, times) in
        [(Call::Sync, 1), (Call::Sync, EVER), (Call::Write, 1), (Call::Write, EVER), (Call::Open, EVER)]
    {
        for mode in ["auto", "conservative"] {
            for synchronous in ["FULL", "NORMAL"] {
                for attached in [false, true] {
                    let what = format!("{call:?} {times}, {mode}, {synchronous}, attached {attached}");
                    let (lab, other) = (Lab::new(), Lab::new());
                    let connection = lab.wal();
                    support::run(&connection, "CREATE TABLE t(x); INSERT INTO t VALUES(0)");
                    let second = another(&lab, &other);
                    support::run(&connection, &format!("PRAGMA parallel_wal_mode={mode}"));
                    support::run(&connection, &format!("PRAGMA synchronous={synchronous}"));
                    let mut insert = String::from("INSERT INTO t VALUES(1)");
                    if attached {
                        let path = lab.scratch.file("b.db");
                        support::run(
                            &connection,
                            &format!("ATTACH '{}' AS b; PRAGMA b.journal_mode=WAL", path.display()),
                        );
                        support::run(&connection, &format!("PRAGMA b.synchronous={synchronous}; CREATE TABLE b.u(x)"));
                        insert = String::from("BEGIN; INSERT INTO t VALUES(1); INSERT INTO u VALUES(1); COMMIT");
                    }
                    fail_behind_publication(&lab, call, times);
                    let code = support::code_of(&connection, &insert);
                    let poisoned = is_poisoned(&second);
                    if code == 0 {
                        assert!(!poisoned, "{what}");
                    } else if poisoned {
                        assert_eq!(
                            support::code_of(&second, "INSERT INTO t VALUES(2)") & 0xff,
                            ffi::SQLITE_IOERR,
                            "{what}"
                        );
                    }
                    let unknown = poisoned && status(&second, "poisoned").to_string().contains("unknown");
                    if code != 0 {
                        assert_eq!(support::text(&second, "SELECT x FROM t"), "0", "{what}");
                    }
                    lab.unhook();
                    drop((connection, second));
                    let reopened = lab.open("a.db");
                    let rows = support::text(&reopened, "SELECT x FROM t");
                    let expected = if code == 0 { "0 1" } else { "0" };
                    assert!(rows == expected || unknown, "{what}: COMMIT {code}, poisoned {poisoned}, then '{rows}'");
                }
            }
        }
    }
}
