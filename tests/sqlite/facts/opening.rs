//! xOpen, names and file objects; the first read.

use super::{Lab, Trace};
use rusqlite::{Connection, ffi};
use std::ffi::CStr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use support::shim::Verdict;

/// A closed database in WAL mode with one row.
fn closed(lab: &Lab) {
    let connection = lab.wal();
    support::run(&connection, "INSERT INTO t VALUES(1)");
    support::close(connection);
    lab.shim.take();
}

fn first_read(lab: &Lab, connection: &Connection) -> Trace {
    lab.trace(|| support::text(connection, "SELECT x FROM t"))
}

#[test]
fn the_name_of_a_wal_leads_to_the_object_of_its_main_file() {
    let lab = Lab::new();
    let (main, found) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (main_seen, found_seen) = (Arc::clone(&main), Arc::clone(&found));
    lab.shim.hook(move |moment| {
        match moment.text {
            "a.db: open" => main_seen.store(moment.file.addr(), Ordering::Relaxed),
            "a.db-wal: open" => {
                // SAFETY: inside xOpen of a WAL the name is the pager's, made for this function.
                let object = unsafe { ffi::sqlite3_database_file_object(moment.name) };
                found_seen.store(object.addr(), Ordering::Relaxed);
            }
            _ => {}
        }
        Verdict::Pass
    });
    let _connection = lab.wal();
    assert_ne!(main.load(Ordering::Relaxed), 0);
    assert_eq!(found.load(Ordering::Relaxed), main.load(Ordering::Relaxed));
}

#[test]
fn a_wal_is_known_by_the_pointer_of_its_name() {
    let lab = Lab::new();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let pointers = Arc::clone(&seen);
    lab.shim.hook(move |moment| {
        if moment.text == "a.db: open" {
            // SAFETY: the name of a main file as SQLite passes it to xOpen.
            let wal = unsafe { ffi::sqlite3_filename_wal(moment.name) };
            // SAFETY: it ends with a zero byte.
            assert!(unsafe { CStr::from_ptr(wal) }.to_bytes().ends_with(b"/a.db-wal"));
            pointers.lock().unwrap().push((String::from("of the main file"), wal.addr()));
        } else if moment.text.starts_with("a.db-wal: ") && !moment.name.is_null() {
            pointers.lock().unwrap().push((moment.text.to_owned(), moment.name.addr()));
        }
        Verdict::Pass
    });
    support::close(lab.wal());
    let seen = seen.lock().unwrap();
    for call in ["a.db-wal: access", "a.db-wal: open", "a.db-wal: delete, sync directory 0"] {
        assert!(seen.iter().any(|(text, _)| text == call), "no {call}: {seen:?}");
    }
    assert!(seen.iter().all(|(_, pointer)| *pointer == seen[0].1), "{seen:?}");
}

#[test]
fn a_connection_on_the_base_may_be_opened_inside_xlock_and_xopen() {
    let lab = Lab::new();
    closed(&lab);
    let path = lab.file("a.db");
    let answers = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&answers);
    lab.shim.hook(move |moment| {
        if matches!(moment.text, "a.db: lock SHARED" | "a.db-wal: open") {
            let nested = support::open_stock(&path);
            seen.lock().unwrap().push(support::text(&nested, "SELECT x FROM t"));
            seen.lock().unwrap().push(support::text(&nested, "PRAGMA wal_checkpoint(TRUNCATE)"));
        }
        Verdict::Pass
    });
    let connection = lab.open("a.db");
    assert_eq!(support::text(&connection, "SELECT x FROM t"), "1");
    assert_eq!(*answers.lock().unwrap(), ["1", "0|0|0", "1", "0|0|0"]);
}

#[test]
fn immutable_and_nolock_never_lock_and_open_no_wal() {
    for parameter in ["immutable=1", "nolock=1"] {
        let lab = Lab::new();
        closed(&lab);
        let uri = format!("file:{}?{parameter}", lab.file("a.db").display());
        let connection = support::try_open(uri.as_ref(), support::flags(), &lab.shim.name).unwrap();
        // nolock cannot read a WAL database; immutable reads it as it is.
        let answer = support::rows(&connection, "SELECT x FROM t");
        if parameter == "immutable=1" {
            assert_eq!(answer.unwrap(), ["1"]);
        } else {
            assert_eq!(answer.map_err(|error| support::code(&error)), Err(ffi::SQLITE_CANTOPEN));
        }
        let trace = Trace(lab.shim.take());
        assert_eq!(trace.only(&["lock", "shm", "wal: open"]), Vec::<&str>::new(), "{parameter}");
    }
}

#[test]
fn a_first_read_locks_looks_for_a_journal_reads_page_1_and_then_opens_the_wal() {
    let lab = Lab::new();
    closed(&lab);
    let connection = lab.open("a.db");
    assert_eq!(
        lab.shim.take().iter().filter(|call| call.contains("a.db: read")).count(),
        1,
        "100 bytes, without a lock"
    );
    let trace = first_read(&lab, &connection);
    let until_mapped: Vec<&String> = trace.0.iter().take_while(|call| !call.contains("shm lock")).collect();
    assert_eq!(
        until_mapped,
        [
            "a.db: lock SHARED",
            "a.db-journal: access",
            "a.db-wal: access",
            "a.db: size",
            "a.db: read 4096@0",
            "a.db-wal: open",
            "a.db: characteristics",
            "a.db: control 18",
            "a.db: shm map 0 extend 0",
        ]
    );
    // WAL mode keeps SHARED, and no statement locks the database file again.
    assert_eq!(first_read(&lab, &connection).only(&[": lock", ": unlock"]), Vec::<&str>::new());
}

#[test]
fn a_first_read_of_a_used_pager_reads_16_bytes_at_24() {
    let lab = Lab::new();
    closed(&lab);
    let connection = lab.open("a.db");
    support::run(&connection, "SELECT x FROM t; PRAGMA journal_mode=DELETE");
    support::text(&connection, "SELECT x FROM t");
    assert_eq!(first_read(&lab, &connection).0[..3], ["a.db: lock SHARED", "a.db-journal: access", "a.db: read 16@24"]);
}

#[test]
fn a_hot_journal_is_looked_for_before_page_1_is_looked_at() {
    let lab = Lab::new();
    closed(&lab);
    // Not a journal that is played back: a header of zeros. But it is there.
    std::fs::write(lab.file("a.db-journal"), [0; 512]).unwrap();
    let connection = lab.open("a.db");
    let trace = first_read(&lab, &connection);
    assert!(trace.position("a.db: check reserved") < trace.position("a.db: read 4096@0"), "{:#?}", trace.0);
    assert_eq!(trace.0[1..3], ["a.db-journal: access", "a.db: check reserved"]);
}

#[test]
fn a_failed_xshmmap_leaves_shared_until_close() {
    let lab = Lab::new();
    closed(&lab);
    let connection = lab.open("a.db");
    lab.shim.hook(|moment| {
        if moment.text.contains("shm map") { Verdict::Answer(ffi::SQLITE_IOERR_SHMMAP) } else { Verdict::Pass }
    });
    let trace = lab.trace(|| assert_eq!(support::code_of(&connection, "SELECT x FROM t"), ffi::SQLITE_IOERR_SHMMAP));
    assert_eq!(trace.only(&[": lock", ": unlock"]), ["a.db: lock SHARED"]);
    lab.shim.unhook();
    let trace = lab.trace(|| support::close(connection));
    assert_eq!(trace.only(&[": unlock"]), ["a.db: unlock NONE"]);
}

#[test]
fn a_table_of_frames_that_is_not_there_is_made_under_write_ckpt_and_recover() {
    let lab = Lab::new();
    closed(&lab);
    let connection = lab.open("a.db");
    let trace = first_read(&lab, &connection);
    let recovery = trace.position("shm lock exclusive CKPT..RECOVER");
    assert!(trace.position("shm lock exclusive WRITE") < recovery);
    // Another connection finds a valid header and recovers nothing.
    let second = lab.open("a.db");
    assert_eq!(first_read(&lab, &second).count("RECOVER"), 0);
}
