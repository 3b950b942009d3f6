//! The engine when its disk or the database file fails: what is answered, what others see meanwhile, and what is there
//! after the next open. No commit that was acknowledged is lost, none that was refused comes back.

use rusqlite::ffi;
use support::lab::{Call, Gate, Lab, Once, eio, status};

/// A checkpoint that fails for the second time poisons, and erases what is not durable. A flush that was under way then
/// must not acknowledge what was erased.
#[test]
fn a_flush_does_not_acknowledge_what_poison_has_erased() {
    let lab = Lab::new();
    let connection = lab.wal();
    support::run(&connection, "CREATE TABLE t(x); INSERT INTO t VALUES(0)");
    let other = lab.open("a.db");
    lab.base_fails("a.db: write", ffi::SQLITE_IOERR_WRITE);
    assert_ne!(support::code_of(&other, "PRAGMA wal_checkpoint"), 0);

    // The next flush has synced and is not over.
    let (synced, go_on) = lab.hold_a_sync(true);
    let code = std::thread::scope(|scope| {
        let commit = scope.spawn(|| {
            let code = support::code_of(&connection, "PRAGMA wal_autocheckpoint=1000; INSERT INTO t VALUES(1)");
            drop(connection);
            code
        });
        synced.pass();
        // The checkpoint of an idle log comes by itself.
        support::lab::wait_until(|| status(&other, "poisoned").is_string());
        go_on.open();
        commit.join().unwrap()
    });
    lab.base_works();
    support::close(other);
    let reopened = lab.open("a.db");
    let rows = support::text(&reopened, "SELECT x FROM t");
    assert_eq!(rows, if code == 0 { "0 1" } else { "0" }, "COMMIT answered {code}");
    assert_eq!(code, ffi::SQLITE_IOERR_FSYNC);
}

/// A retirement that failed on the way has written its marker, and perhaps the plain header: what is committed after that
/// would be thrown away by the next open.
#[test]
fn nothing_is_committed_behind_a_retirement_that_failed() {
    for (call, name) in
        [(Call::Remove, ".seg"), (Call::Sync, "(directory)"), (Call::Remove, "retired"), (Call::Remove, "lock")]
    {
        let lab = Lab::new();
        let connection = lab.wal();
        support::run(&connection, "CREATE TABLE t(x); INSERT INTO t VALUES(0)");
        lab.hook(move |moment| if moment.call == call && moment.name.contains(name) { Err(eio()) } else { Ok(()) });
        let code = support::code_of(&connection, "PRAGMA journal_mode=DELETE");
        lab.unhook();
        let inserted = support::code_of(&connection, "INSERT INTO t VALUES(1)");
        let crashed = lab.crash();
        drop(connection);
        let expected = if inserted == 0 { "0 1" } else { "0" };
        for (how, reopened) in [("killed", crashed.open()), ("closed", lab.open("a.db"))] {
            let rows = support::text(&reopened, "SELECT x FROM t");
            assert_eq!(rows, expected, "{how}, {call:?} of {name}: DELETE {code}, INSERT {inserted}");
        }
    }
}

/// What stock SQLite leaves beside the file (a journal of PERSIST, an empty WAL) must not be another one after a power cut, beside a
/// stamp: so the log begins when it is synced.
#[test]
fn a_log_does_not_begin_beside_what_cannot_be_synced() {
    for suffix in ["-journal", "-wal"] {
        let lab = Lab::new();
        let connection = lab.wal();
        lab.hook(move |moment| if moment.call == Call::Sync && moment.name == suffix { Err(eio()) } else { Ok(()) });
        assert_eq!(support::code_of(&connection, "CREATE TABLE t(x)"), ffi::SQLITE_IOERR_FSYNC, "{suffix}");
        lab.unhook();
        assert_eq!(std::fs::read(lab.path()).unwrap()[18..20], [2, 2], "{suffix}: it has no stamp");
        support::run(&connection, "CREATE TABLE t(x); INSERT INTO t VALUES(0)");
    }
}

/// The size of a segment is rounded to blocks: one that is not would not be valid.
#[test]
fn odd_segment_sizes_survive_a_kill() {
    for bytes in [262_144, 300_000, 300_001, 1_048_577] {
        let lab = Lab::new();
        let connection = lab.wal();
        support::run(&connection, &format!("PRAGMA parallel_wal_segment_bytes={bytes}; CREATE TABLE t(x)"));
        for i in 0..200 {
            support::run(&connection, &format!("INSERT INTO t VALUES({i})"));
        }
        let crashed = lab.crash();
        let reopened = crashed.open();
        assert_eq!(support::number(&reopened, "SELECT count(*) FROM t"), 200, "{bytes}");
        support::assert_integrity(&reopened);
    }
}

/// A checkpoint that waits for writers has WRITE while it works; it must not keep it when it fails.
#[test]
fn a_checkpoint_that_fails_under_write_lets_go_of_it() {
    let lab = Lab::new();
    let connection = lab.wal();
    support::run(&connection, "CREATE TABLE t(x); INSERT INTO t VALUES(0)");
    let (writer, third) = (lab.open("a.db"), lab.open("a.db"));
    support::run(&writer, "PRAGMA synchronous=NORMAL; SELECT * FROM t");
    // Between the pass under CKPT and the one under WRITE somebody commits; then the database file fails.
    let (once, fail) = (Once::default(), lab.base_failures());
    let writer = std::sync::Mutex::new(writer);
    let (inside, written) = (once.clone(), Once::default());
    lab.hook(move |moment| {
        if moment.call == Call::Read && moment.name.ends_with(".seg") && inside.first() {
            support::run(&writer.lock().unwrap(), "INSERT INTO t VALUES(1)");
            written.first();
        } else if written.happened() && moment.call == Call::Write && moment.name.ends_with(".seg") && !moment.done {
            // The mark of the second pass: the first one is over.
            fail.lock().unwrap().push(("a.db: write", ffi::SQLITE_FULL));
        }
        Ok(())
    });
    assert_eq!(support::code_of(&connection, "PRAGMA wal_checkpoint(TRUNCATE)"), ffi::SQLITE_FULL);
    lab.unhook();
    lab.base_works();
    assert_eq!(support::code_of(&third, "INSERT INTO t VALUES(2)"), 0);
    assert_eq!(support::text(&third, "SELECT x FROM t"), "0 1 2");
}

/// R5.0: what is not published is erased; if that fails, nobody is told that it was.
#[test]
fn a_batch_that_can_be_neither_written_nor_erased_has_an_unknown_outcome() {
    let lab = Lab::new();
    let connection = lab.wal();
    support::run(&connection, "CREATE TABLE t(x); INSERT INTO t VALUES(0)");
    let other = lab.open("a.db");
    support::run(&other, "SELECT * FROM t");
    // All of it is written, and then an error.
    let once = Once::default();
    lab.hook(move |moment| {
        let segment_write = moment.call == Call::Write && moment.name.ends_with(".seg");
        if segment_write && (moment.done || once.happened()) {
            once.first();
            return Err(eio());
        }
        Ok(())
    });
    let code = support::code_of(&connection, "INSERT INTO t VALUES(1)");
    assert_eq!(code, ffi::SQLITE_IOERR_FSYNC);
    let told = status(&other, "poisoned").to_string();
    assert!(told.contains("unknown"), "{told}");
    assert_eq!(support::text(&other, "SELECT x FROM t"), "0");
    assert_eq!(support::code_of(&other, "INSERT INTO t VALUES(2)") & 0xff, ffi::SQLITE_IOERR);
    assert_eq!(support::code_of(&connection, "INSERT INTO t VALUES(2)") & 0xff, ffi::SQLITE_IOERR);
}

/// The same, but it can be erased in the end, through another descriptor.
#[test]
fn a_batch_that_is_erased_at_the_second_attempt_does_not_come_back() {
    let lab = Lab::new();
    let connection = lab.wal();
    support::run(&connection, "CREATE TABLE t(x); INSERT INTO t VALUES(0)");
    let writes = std::sync::atomic::AtomicU32::new(0);
    lab.hook(move |moment| {
        if moment.call == Call::Write && moment.name.ends_with(".seg") {
            let write = writes.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            // Calls count twice. The batch arrives and fails; the zeros over it fail.
            if write == 1 || write == 2 {
                return Err(eio());
            }
        }
        Ok(())
    });
    assert_eq!(support::code_of(&connection, "INSERT INTO t VALUES(1)"), ffi::SQLITE_IOERR_FSYNC);
    lab.unhook();
    let told = status(&connection, "poisoned").to_string();
    assert!(told.contains("rolled back"), "{told}");
    assert_eq!(support::text(&lab.crash().open(), "SELECT x FROM t"), "0");
}

/// While what failed is being erased, nobody reads the zeros.
#[test]
fn a_reader_ahead_of_the_disk_gets_an_error_and_not_what_is_being_erased() {
    let lab = Lab::new();
    let connection = lab.open("a.db");
    support::run(&connection, "PRAGMA page_size=512; PRAGMA journal_mode=WAL; PRAGMA wal_autocheckpoint=0");
    support::run(
        &connection,
        "CREATE TABLE t(x); CREATE TABLE u(x); INSERT INTO t VALUES('old'); INSERT INTO u VALUES(0)",
    );
    let reader = lab.open("a.db");
    support::run(&reader, "PRAGMA cache_size=1; INSERT INTO u VALUES(1)");

    let (syncing, go_on) = (Gate::default(), Gate::default());
    let (erasing, erase_on) = (Gate::default(), Gate::default());
    let gates = [&syncing, &go_on, &erasing, &erase_on].map(Clone::clone);
    lab.hook(move |moment| {
        let [syncing, go_on, erasing, erase_on] = &gates;
        if moment.call == Call::Sync && moment.name.ends_with(".seg") && !syncing.is_open() {
            syncing.open();
            go_on.pass();
            return Err(eio());
        }
        if moment.call == Call::Open && !moment.done {
            // The zeros are written, and the sync of them is to come.
            erasing.open();
            erase_on.pass();
        }
        Ok(())
    });
    std::thread::scope(|scope| {
        let commit = scope.spawn(move || support::code_of(&{ connection }, "UPDATE t SET x='new'"));
        syncing.pass();
        // It is about to write, so it is given what is published.
        support::run(&reader, "BEGIN IMMEDIATE; SELECT * FROM u");
        go_on.open();
        erasing.pass();
        // The end of its transaction waits for the outcome.
        scope.spawn(move || {
            std::thread::sleep(std::time::Duration::from_millis(300));
            erase_on.open();
        });
        let read = support::rows(&reader, "SELECT x FROM t");
        assert_eq!(commit.join().unwrap(), ffi::SQLITE_IOERR_FSYNC);
        assert_eq!(read.map_err(|error| support::code(&error)), Err(ffi::SQLITE_IOERR_READ));
    });
}

/// A stamp that may be on the disk keeps its segment until it is taken back.
#[test]
fn an_activation_that_is_tried_again_can_be_killed() {
    let lab = Lab::new();
    let connection = lab.wal();
    support::run(&connection, "CREATE TABLE t(x)");
    support::close(connection);
    let connection = lab.wal();
    support::run(&connection, "SELECT * FROM t");
    // The second sync of the database file is the stamp's.
    let crashed = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let (path, copies, failures) = (lab.path(), std::sync::Arc::clone(&crashed), lab.base_failures());
    lab.hook(move |moment| {
        if moment.name == "(parent)" {
            failures.lock().unwrap().push(("a.db: sync", ffi::SQLITE_IOERR_FSYNC));
        }
        if moment.name.ends_with(".seg") || moment.name == "(directory)" {
            copies.lock().unwrap().push((
                format!("{:?} {} {}", moment.call, moment.name, moment.done),
                support::lab::copy_crashed(&path),
            ));
        }
        Ok(())
    });
    assert_eq!(support::code_of(&connection, "INSERT INTO t VALUES(0)") & 0xff, ffi::SQLITE_IOERR);
    lab.base_works();
    assert_eq!(support::code_of(&connection, "INSERT INTO t VALUES(1)") & 0xff, ffi::SQLITE_IOERR);
    lab.unhook();
    lab.base_works();
    support::run(&connection, "INSERT INTO t VALUES(2)");
    assert_eq!(support::text(&lab.crash().open(), "SELECT x FROM t"), "2");
    for (at, copy) in crashed.lock().unwrap().iter() {
        let reopened = copy.open();
        assert_eq!(support::rows(&reopened, "SELECT x FROM t").as_deref(), Ok(&[][..]), "{at}");
        support::close(reopened);
        support::assert_plain(copy.path());
    }
    support::close(connection);
    support::assert_plain(&lab.path());
}

/// The background thread ends before the retirement, and must come back if there is none.
#[test]
fn a_retirement_that_meets_a_full_disk_leaves_a_working_engine() {
    let lab = Lab::new();
    let connection = lab.wal();
    support::run(&connection, "PRAGMA wal_autocheckpoint=1000; CREATE TABLE t(x); INSERT INTO t VALUES(0)");
    lab.base_fails("a.db: write", ffi::SQLITE_FULL);
    assert_eq!(support::code_of(&connection, "PRAGMA journal_mode=DELETE"), ffi::SQLITE_FULL);
    lab.base_works();
    support::run(&connection, "INSERT INTO t VALUES(1)");
    support::lab::wait_until(|| status(&connection, "backfilled") == status(&connection, "published"));
    assert_eq!(support::text(&connection, "PRAGMA journal_mode=DELETE"), "delete");
    support::close(connection);
    support::assert_plain_header(&lab.path(), 1);
}

/// The certificate that carries D and B may lie in a segment that it frees itself. Written over before another one is durable,
/// it leaves a log that says less than the stamp. The numbers are for segments of 64 blocks, of which batches use 56.
#[test]
fn the_segment_of_the_last_durable_certificate_is_not_recycled() {
    let lab = Lab::new();
    let connection = lab.wal();
    let fill = |from: i64, to: i64| {
        for i in from..to {
            support::run(&connection, &format!("INSERT INTO t VALUES({i})"));
        }
    };
    support::run(&connection, "PRAGMA parallel_wal_segment_bytes=262144; CREATE TABLE t(x); CREATE TABLE u(x)");
    fill(0, 23);
    support::run(&connection, "PRAGMA wal_autocheckpoint=1000");
    let flushes = || status(&connection, "flushes").as_u64().unwrap();
    let before = flushes();
    fill(23, 24);
    // Everything is backfilled: a mark for D, and one for B, which is the last block of segment 0 that counts.
    support::lab::wait_until(|| flushes() == before + 3);
    support::run(&connection, "PRAGMA wal_autocheckpoint=0; PRAGMA synchronous=OFF");
    fill(24, 24 + 27);
    support::run(&connection, "CREATE TABLE v(x)");
    fill(51, 51 + 60);
    let reopened = lab.crash();
    assert_eq!(support::text(&reopened.open(), "SELECT count(*) FROM t"), "111");
}

/// Two failures of the database file in a row end the engine; a full disk is none, however often it is met.
#[test]
fn a_full_disk_at_a_checkpoint_is_no_failure_of_the_medium() {
    let lab = Lab::new();
    let connection = lab.wal();
    support::run(&connection, "CREATE TABLE t(x); INSERT INTO t VALUES(0)");
    for (code, poisons) in [
        (ffi::SQLITE_FULL, false),
        (ffi::SQLITE_FULL, false),
        (ffi::SQLITE_IOERR_WRITE, false),
        (ffi::SQLITE_FULL, false),
        (ffi::SQLITE_IOERR_WRITE, true),
    ] {
        lab.base_fails("a.db: write", code);
        assert_eq!(support::code_of(&connection, "PRAGMA wal_checkpoint") & 0xff, code & 0xff);
        lab.base_works();
        assert_eq!(status(&connection, "poisoned").is_string(), poisons, "{code}");
        assert_eq!(support::code_of(&connection, "INSERT INTO t VALUES(1)") == 0, !poisons);
    }
}

/// A disk that has no room for a segment of the usual size may have it for the commit.
#[test]
fn a_nearly_full_disk_gets_smaller_slots() {
    let lab = Lab::new();
    let connection = lab.wal();
    support::run(&connection, "CREATE TABLE t(x)");
    // Segments are made in pieces of 1 MiB: those of more than one do not fit.
    let pieces = std::sync::Mutex::new(std::collections::HashMap::<String, u32>::new());
    let tried = std::sync::Arc::new(std::sync::atomic::AtomicU32::new(0));
    let count = std::sync::Arc::clone(&tried);
    lab.hook(move |moment| {
        let mut pieces = pieces.lock().unwrap();
        match moment.call {
            Call::Create if !moment.done => {
                count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                pieces.insert(moment.name.to_owned(), 0);
            }
            Call::Write if !moment.done => {
                if let Some(piece) = pieces.get_mut(moment.name) {
                    *piece += 1;
                    if *piece == 2 {
                        return Err(std::io::Error::from_raw_os_error(28));
                    }
                }
            }
            // It is there.
            Call::Sync if moment.done && moment.name == "(directory)" => pieces.clear(),
            _ => {}
        }
        Ok(())
    });
    for i in 0..400 {
        assert_eq!(support::code_of(&connection, &format!("INSERT INTO t VALUES({i})")), 0, "{i}");
    }
    assert_eq!(support::text(&lab.crash().open(), "SELECT count(*) FROM t"), "400");
    // Ahead of need once for each segment, by the writer once with and once without luck.
    let (tried, segments) = (tried.load(std::sync::atomic::Ordering::SeqCst), status(&connection, "slots"));
    assert!(tried <= 4 * 3, "{tried} attempts for {segments} segments");
}
