//! The order of a commit, alone and with attached databases, and what tells it from a rollback.

use super::{Lab, Trace};
use rusqlite::{Connection, ffi};
use std::sync::{Arc, Mutex};
use support::shim::*;

const COMMIT_CALLS: [&str; 5] = ["wal: write", "wal: sync", "shm lock", "shm unlock", "PHASETWO"];

/// A database whose read mark fits and whose log has begun: a commit has no other calls.
fn settled(lab: &Lab) -> Connection {
    let connection = lab.wal();
    support::run(&connection, "INSERT INTO t VALUES(0); SELECT * FROM t");
    lab.shim.take();
    connection
}

#[test]
fn a_commit_writes_syncs_under_full_unlocks_write_sends_phasetwo_and_ends_its_read() {
    for (synchronous, syncs) in [("OFF", 0), ("NORMAL", 0), ("FULL", 1), ("EXTRA", 1)] {
        let lab = Lab::new();
        let connection = settled(&lab);
        support::run(&connection, &format!("PRAGMA synchronous={synchronous}"));
        for sql in ["INSERT INTO t VALUES(1)", "BEGIN; INSERT INTO t VALUES(1); COMMIT"] {
            let trace = lab.trace(|| support::run(&connection, sql));
            let mut calls = trace.only(&COMMIT_CALLS);
            calls.retain(|call| !call.contains("exclusive READ"));
            let mut expected = vec!["a.db: shm lock shared READ1", "a.db: shm lock exclusive WRITE"];
            let writes: Vec<&str> = trace.only(&["wal: write"]);
            expected.extend(&writes);
            expected.extend(vec!["a.db-wal: sync 2"; syncs]);
            expected.extend([
                "a.db: shm unlock exclusive WRITE",
                "a.db: control PHASETWO",
                "a.db: shm unlock shared READ1",
            ]);
            assert_eq!(calls, expected, "{synchronous}, {sql}");
            assert_eq!(writes.len(), 2);
        }
    }
}

#[test]
fn phasetwo_is_the_very_next_call_after_a_commit_has_unlocked_write() {
    let lab = Lab::new();
    let connection = settled(&lab);
    let trace = lab.trace(|| {
        let sql = "INSERT INTO t VALUES(1); CREATE TABLE u(x); BEGIN; INSERT INTO t VALUES(2); INSERT INTO u VALUES(2); COMMIT;
                   VACUUM; DROP TABLE u; PRAGMA user_version=5; BEGIN IMMEDIATE; COMMIT; SAVEPOINT s; DELETE FROM t; RELEASE s";
        support::run(&connection, sql);
    });
    let unlocks: Vec<usize> =
        (0..trace.0.len()).filter(|at| trace.0[*at] == "a.db: shm unlock exclusive WRITE").collect();
    assert_eq!(unlocks.len(), 8);
    for at in unlocks {
        assert_eq!(trace.0[at + 1], "a.db: control PHASETWO");
    }
}

#[test]
fn a_rollback_and_the_end_of_a_read_send_no_phasetwo() {
    let lab = Lab::new();
    let connection = settled(&lab);
    let trace = lab.trace(|| {
        support::run(&connection, "BEGIN; INSERT INTO t VALUES(1); ROLLBACK; BEGIN IMMEDIATE; ROLLBACK");
        support::run(&connection, "SELECT * FROM t; BEGIN; SELECT * FROM t; COMMIT; BEGIN; COMMIT");
        support::run(&connection, "SAVEPOINT s; INSERT INTO t VALUES(1); ROLLBACK TO s; ROLLBACK");
        assert_ne!(support::code_of(&connection, "INSERT INTO t SELECT abs(-9223372036854775808)"), 0);
    });
    assert_eq!(trace.count("shm unlock exclusive WRITE"), 4);
    assert_eq!(trace.count("PHASETWO"), 0);
}

#[test]
fn phasetwo_comes_in_rollback_mode_too_and_at_a_mode_change() {
    let lab = Lab::new();
    let connection = lab.open("a.db");
    let trace = lab.trace(|| support::run(&connection, "CREATE TABLE t(x)"));
    assert_eq!(
        trace.only(&["PHASETWO", "delete"]),
        ["a.db-journal: delete, sync directory 0", "a.db: control PHASETWO"]
    );
    assert_eq!(lab.trace(|| support::run(&connection, "PRAGMA journal_mode=WAL")).count("PHASETWO"), 1);
}

/// `a.db` and `b.db`, both in WAL mode, their logs begun, a transaction in both open.
fn two(lab: &Lab) -> Connection {
    let connection = lab.wal();
    support::run(&connection, &format!("ATTACH '{}' AS b", lab.file("b.db").display()));
    support::run(&connection, "PRAGMA b.journal_mode=WAL; CREATE TABLE b.u(x); INSERT INTO t VALUES(0)");
    support::run(&connection, "BEGIN; INSERT INTO t VALUES(1); INSERT INTO u VALUES(1)");
    lab.shim.take();
    connection
}

fn in_order(trace: &Trace) -> Vec<String> {
    let mut calls: Vec<String> = trace
        .only(&["wal: write", "wal: sync", "exclusive WRITE", "PHASETWO"])
        .iter()
        .map(|call| call.split('@').next().unwrap().to_owned())
        .collect();
    calls.dedup();
    calls
}

#[test]
fn two_databases_are_both_written_before_the_first_is_unlocked() {
    let lab = Lab::new();
    let connection = two(&lab);
    let trace = lab.trace(|| support::run(&connection, "COMMIT"));
    assert_eq!(
        in_order(&trace),
        [
            "a.db-wal: write 24",
            "a.db-wal: write 4096",
            "a.db-wal: sync 2",
            "b.db-wal: write 24",
            "b.db-wal: write 4096",
            "b.db-wal: sync 2",
            "a.db: shm unlock exclusive WRITE",
            "a.db: control PHASETWO",
            "b.db: shm unlock exclusive WRITE",
            "b.db: control PHASETWO",
        ]
    );
}

#[test]
fn files_of_one_connection_are_told_its_pointer() {
    let lab = Lab::new();
    let connection = lab.open("a.db");
    support::run(&connection, &format!("ATTACH '{}' AS b", lab.file("b.db").display()));
    let other = lab.open("a.db");
    let trace = Trace(lab.shim.take());
    let told = trace.only(&["PDB"]);
    assert_eq!(told.len(), 3);
    assert_eq!(told[0].rsplit(' ').next(), told[1].rsplit(' ').next(), "{told:?}");
    assert_ne!(told[0], told[2]);
    drop(other);
}

/// The control block of `a.db`'s live header at each call whose text is in `at`.
fn frames_at(lab: &Lab, at: &'static [&'static str]) -> Arc<Mutex<Vec<(String, u32)>>> {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let frames = Arc::clone(&seen);
    lab.shim.hook(move |moment| {
        if at.contains(&moment.text) {
            let index = moment.index.expect("a mapped wal-index");
            frames.lock().unwrap().push((moment.text.to_owned(), index.word(MX_FRAME)));
        }
        Verdict::Pass
    });
    seen
}

#[test]
fn a_rollback_after_prepare_looks_like_a_commit_until_phasetwo_does_not_come() {
    let lab = Lab::new();
    let connection = two(&lab);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let frames = Arc::clone(&seen);
    lab.shim.hook(move |moment| {
        if moment.text == "a.db: control PRAGMA look -" || moment.text == "a.db: shm unlock exclusive WRITE" {
            frames.lock().unwrap().push(moment.index.unwrap().word(MX_FRAME));
        }
        if moment.text.starts_with("b.db-wal: write") { Verdict::Answer(ffi::SQLITE_FULL) } else { Verdict::Pass }
    });
    support::run(&connection, "PRAGMA main.look");
    let trace = lab.trace(|| assert_eq!(support::code_of(&connection, "COMMIT"), ffi::SQLITE_FULL));
    assert!(connection.is_autocommit());
    assert_eq!(trace.count("PHASETWO"), 0);
    let frames = seen.lock().unwrap().clone();
    assert_eq!(frames[1..], [frames[0] + 1], "the live header is advanced at the one unlock");
    lab.shim.unhook();
    let other = lab.open("a.db");
    assert_eq!(support::text(&other, "SELECT x FROM t"), "0 1", "stock itself shows half of the transaction");
}

#[test]
fn a_sync_that_fails_does_not_advance_the_header_of_its_own_database() {
    let lab = Lab::new();
    let connection = settled(&lab);
    let seen = frames_at(&lab, &["a.db: shm lock exclusive WRITE", "a.db: shm unlock exclusive WRITE"]);
    support::run(&connection, "INSERT INTO t VALUES(1)");
    let words = std::mem::take(&mut *seen.lock().unwrap());
    assert_eq!(words[1].1, words[0].1 + 1);
    let frames = Arc::clone(&seen);
    lab.shim.hook(move |moment| {
        if moment.text.contains("exclusive WRITE") {
            frames.lock().unwrap().push((moment.text.to_owned(), moment.index.unwrap().word(MX_FRAME)));
        }
        if moment.text == "a.db-wal: sync 2" { Verdict::Answer(ffi::SQLITE_IOERR_FSYNC) } else { Verdict::Pass }
    });
    let trace =
        lab.trace(|| assert_eq!(support::code_of(&connection, "INSERT INTO t VALUES(2)"), ffi::SQLITE_IOERR_FSYNC));
    let words = seen.lock().unwrap().clone();
    assert_eq!(words[1].1, words[0].1);
    assert_eq!(trace.count("PHASETWO"), 0);
    lab.shim.unhook();
    assert_eq!(support::text(&connection, "SELECT x FROM t"), "0 1");
}

#[test]
fn between_the_writes_and_the_unlock_of_one_database_only_its_sibling_is_called() {
    // So an advanced header that is set back when another file of the connection is called for was
    // never needed in between.
    let lab = Lab::new();
    let connection = two(&lab);
    let trace = lab.trace(|| support::run(&connection, "COMMIT"));
    let (synced, unlocked) = (trace.position("a.db-wal: sync"), trace.position("a.db: shm unlock exclusive WRITE"));
    let between: Vec<&String> = trace.0[synced + 1..unlocked].iter().filter(|call| !call.starts_with("b.db")).collect();
    assert_eq!(between, Vec::<&String>::new());
}

#[test]
fn a_super_journal_is_opened_before_prepare_and_makes_phasetwos_result_ignored() {
    let lab = Lab::new();
    let connection = lab.wal();
    for name in ["b", "c"] {
        support::run(&connection, &format!("ATTACH '{}' AS {name}", lab.file(&format!("{name}.db")).display()));
        support::run(&connection, &format!("CREATE TABLE {name}.{name}(x)"));
    }
    support::run(&connection, "BEGIN; INSERT INTO t VALUES(1); INSERT INTO b VALUES(1); INSERT INTO c VALUES(1)");
    lab.shim.hook(|moment| {
        if moment.text == "a.db: control PHASETWO" { Verdict::Answer(ffi::SQLITE_IOERR_WRITE) } else { Verdict::Pass }
    });
    let trace = lab.trace(|| assert_eq!(support::code_of(&connection, "COMMIT"), ffi::SQLITE_OK));
    assert!(trace.position("super: open") < trace.position("a.db-wal: write"));
    assert!(trace.position("a.db-wal: sync") < trace.position("super: delete"));
    assert!(trace.position("super: delete") < trace.position("a.db: control PHASETWO"));
}

#[test]
fn one_database_in_rollback_mode_beside_ours_makes_no_super_journal() {
    let lab = Lab::new();
    let connection = lab.wal();
    support::run(&connection, &format!("ATTACH '{}' AS b; CREATE TABLE b.b(x)", lab.file("b.db").display()));
    support::run(&connection, "BEGIN; INSERT INTO t VALUES(1); INSERT INTO b VALUES(1)");
    let trace = lab.trace(|| support::run(&connection, "COMMIT"));
    assert_eq!(trace.count("super"), 0);
    assert_eq!(trace.count("PHASETWO"), 2);
}

#[test]
fn a_read_lock_outlives_commits_while_a_cursor_is_open() {
    let lab = Lab::new();
    let connection = settled(&lab);
    support::run(&connection, "INSERT INTO t VALUES(1); INSERT INTO t VALUES(2)");
    let mut cursor = connection.prepare("SELECT x FROM t").unwrap();
    let mut rows = cursor.query([]).unwrap();
    rows.next().unwrap();
    let trace = lab.trace(|| support::run(&connection, "INSERT INTO t VALUES(3); INSERT INTO t VALUES(4)"));
    assert_eq!(trace.count("shared READ"), 0, "neither taken nor given back");
    assert_eq!(trace.count("PHASETWO"), 2);
    let trace = lab.trace(|| drop(rows));
    assert_eq!(trace.only(&["shm"]).len(), 1);
}

/// `SQLITE_FCNTL_DATA_VERSION` of `a.db`, asked inside the calls that begin with these words.
fn versions_at(lab: &Lab, connection: &Connection, at: &'static [&'static str]) -> Arc<Mutex<Vec<u32>>> {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let versions = Arc::clone(&seen);
    // SAFETY: the connection outlives the hook's calls, which come from inside its own.
    let handle = unsafe { connection.handle() }.addr();
    lab.shim.hook(move |moment| {
        if at.iter().any(|word| moment.text.starts_with(word)) {
            versions.lock().unwrap().push(data_version(handle));
        }
        if moment.text.starts_with("c.db: write") { Verdict::Answer(ffi::SQLITE_FULL) } else { Verdict::Pass }
    });
    seen
}

#[allow(unsafe_code, reason = "rusqlite has no such function")]
fn data_version(connection: usize) -> u32 {
    let mut version = 0_u32;
    // SAFETY: an open connection, which this thread is using; the file control stores a number.
    let code = unsafe {
        let connection = std::ptr::with_exposed_provenance_mut::<ffi::sqlite3>(connection);
        ffi::sqlite3_file_control(
            connection,
            c"main".as_ptr(),
            ffi::SQLITE_FCNTL_DATA_VERSION,
            (&raw mut version).cast(),
        )
    };
    assert_eq!(code, ffi::SQLITE_OK);
    version
}

#[test]
fn the_data_version_has_risen_when_a_commit_unlocks_write_and_not_when_a_rollback_does() {
    let lab = Lab::new();
    let connection = settled(&lab);
    support::run(&connection, &format!("ATTACH '{}' AS c; CREATE TABLE c.c(x)", lab.file("c.db").display()));
    const WRITES: &[&str] = &["a.db-wal: write", "a.db: shm unlock exclusive WRITE"];
    for (sql, code, commits) in [
        ("INSERT INTO t VALUES(1)", 0, true),
        ("BEGIN; INSERT INTO t VALUES(1); SELECT * FROM t; COMMIT", 0, true),
        ("CREATE TABLE u(x)", 0, true),
        ("VACUUM main", 0, true),
        ("BEGIN; INSERT INTO t VALUES(2); INSERT INTO c VALUES(2); COMMIT", ffi::SQLITE_FULL, false),
        ("PRAGMA cache_size=1; BEGIN; INSERT INTO t SELECT zeroblob(9000) FROM t; ROLLBACK", 0, false),
    ] {
        let seen = versions_at(&lab, &connection, WRITES);
        assert_eq!(support::code_of(&connection, sql), code, "{sql}");
        let seen = std::mem::take(&mut *seen.lock().unwrap());
        let (at_unlock, before) = seen.split_last().unwrap();
        assert!(!before.is_empty() && before.iter().all(|version| *version == before[0]), "{sql}: {seen:?}");
        assert_eq!(*at_unlock, before[0] + u32::from(commits), "{sql}");
    }
}
