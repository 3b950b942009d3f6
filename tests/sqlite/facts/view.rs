//! xShmMap and xShmLock: what a connection makes of the wal-index it is given.

use super::Lab;
use rusqlite::{Connection, ffi};
use std::sync::{Arc, Mutex};
use support::shim::*;

/// Calls `act` with the wal-index, once, just before the next call whose text contains `word`.
fn once_at(lab: &Lab, word: &'static str, act: impl FnOnce(WalIndex) + Send + 'static) {
    let mut act = Some(act);
    lab.shim.hook(move |moment| {
        if moment.text.contains(word)
            && let Some(act) = act.take()
        {
            act(moment.index.expect("a mapped wal-index"));
        }
        Verdict::Pass
    });
}

fn data_version(connection: &Connection) -> i64 {
    support::number(connection, "PRAGMA data_version")
}

const READ: &str = "SELECT x FROM t";

/// Two connections: the second's cache holds page 1 and the table.
fn warm(lab: &Lab) -> (Connection, Connection) {
    let writer = lab.wal();
    support::run(&writer, "INSERT INTO t VALUES(1)");
    let reader = lab.open("a.db");
    support::text(&reader, READ);
    (writer, reader)
}

#[test]
fn an_unchanged_header_keeps_the_cache() {
    let lab = Lab::new();
    let (_writer, reader) = warm(&lab);
    let before = data_version(&reader);
    let trace = lab.trace(|| support::text(&reader, READ));
    assert_eq!(trace.only(&["read", "shm"]), ["a.db: shm lock shared READ1", "a.db: shm unlock shared READ1"]);
    assert_eq!(data_version(&reader), before);
}

#[test]
fn any_change_of_the_48_bytes_drops_the_cache_and_moves_data_version_and_costs_one_retry() {
    for word in [CHANGE, FRAME_CHECKSUM, FRAME_CHECKSUM + 1, 8, 9] {
        let lab = Lab::new();
        let (_writer, reader) = warm(&lab);
        let before = data_version(&reader);
        once_at(&lab, "shm lock shared READ1", move |index| index.set_header(word, index.word(word).wrapping_add(1)));
        let trace = lab.trace(|| support::text(&reader, READ));
        assert_eq!(
            trace.only(&["shm"]),
            [
                "a.db: shm lock shared READ1",
                "a.db: shm unlock shared READ1",
                "a.db: shm lock shared READ1",
                "a.db: shm unlock shared READ1"
            ],
            "word {word}"
        );
        assert!(trace.count("read 4096@") >= 2, "word {word}: both pages again");
        assert_eq!(data_version(&reader), before + 1, "word {word}");
    }
}

#[test]
fn the_checksum_of_the_last_frame_is_never_verified() {
    let lab = Lab::new();
    let (writer, reader) = warm(&lab);
    once_at(&lab, "shm lock shared READ1", |index| {
        index.set_header(FRAME_CHECKSUM, 0xdead_beef);
        index.set_header(FRAME_CHECKSUM + 1, 7);
    });
    assert_eq!(support::text(&reader, READ), "1");
    support::run(&writer, "INSERT INTO t VALUES(2)");
    assert_eq!(support::text(&reader, READ), "1 2");
    support::assert_integrity(&writer);
}

#[test]
fn the_checkpoint_info_is_not_compared() {
    let lab = Lab::new();
    let (_writer, reader) = warm(&lab);
    let before = data_version(&reader);
    once_at(&lab, "shm lock shared READ1", |index| index.set(READ_MARK + 3, 77));
    let trace = lab.trace(|| support::text(&reader, READ));
    assert_eq!(trace.count("read "), 0);
    assert_eq!(data_version(&reader), before);
}

#[test]
fn without_a_number_of_pages_in_the_header_the_file_is_asked_for_its_size() {
    let lab = Lab::new();
    let (writer, reader) = warm(&lab);
    support::run(&writer, "PRAGMA wal_checkpoint; INSERT INTO t VALUES(2)");
    support::text(&reader, READ);
    assert_eq!(lab.trace(|| support::text(&reader, READ)).count("a.db: size"), 0);
    once_at(&lab, "shm lock shared READ1", |index| index.set_header(PAGES, 0));
    assert_eq!(lab.trace(|| support::text(&reader, READ)).count("a.db: size"), 1);
}

#[test]
fn read_lock_0_is_taken_only_if_everything_is_backfilled() {
    let lab = Lab::new();
    let (writer, reader) = warm(&lab);
    assert_eq!(lab.trace(|| support::text(&reader, READ)).count("READ0"), 0);
    support::run(&writer, "PRAGMA wal_checkpoint");
    assert_eq!(lab.trace(|| support::text(&reader, READ)).only(&["shm lock"]), ["a.db: shm lock shared READ0"]);
    // With it a writer starts the log again: the header of the WAL is written.
    let trace = lab.trace(|| support::run(&writer, "INSERT INTO t VALUES(2)"));
    assert_eq!(trace.only(&["wal: write"])[0], "a.db-wal: write 32@0");
    // With one frame that is not backfilled none of it happens.
    let seen = Arc::new(Mutex::new(Vec::new()));
    let words = Arc::clone(&seen);
    once_at(&lab, "shm lock", move |index| {
        words.lock().unwrap().extend([index.word(BACKFILLED), index.word(MX_FRAME)])
    });
    let trace = lab.trace(|| support::run(&writer, "INSERT INTO t VALUES(3)"));
    assert_eq!(*seen.lock().unwrap(), [0, 1]);
    assert_eq!(trace.count("READ0") + trace.count("wal: write 32@0"), 0);
}

#[test]
fn a_read_mark_that_fits_saves_two_lock_calls() {
    let lab = Lab::new();
    let (writer, reader) = warm(&lab);
    support::run(&writer, "INSERT INTO t VALUES(2)");
    let mark = "a.db: shm lock exclusive READ1";
    let trace = lab.trace(|| support::text(&reader, READ));
    assert_eq!(trace.count(mark), 1, "stale: raised by the reader");
    support::run(&writer, "INSERT INTO t VALUES(3)");
    once_at(&lab, "shm lock", |index| index.set(READ_MARK + 1, index.word(MX_FRAME)));
    let trace = lab.trace(|| support::text(&reader, READ));
    // The hook comes with a lock call, so the first try still had the old mark; the second fits.
    assert!(trace.count(mark) <= 1);
    let trace = lab.trace(|| support::text(&reader, READ));
    assert_eq!(trace.count(mark), 0, "fits");
    assert_eq!(support::text(&reader, READ), "1 2 3");
}

#[test]
fn busy_with_any_extension_from_a_read_lock_is_tried_again_without_the_busy_handler() {
    for code in [ffi::SQLITE_BUSY, ffi::SQLITE_BUSY_SNAPSHOT, ffi::SQLITE_BUSY_RECOVERY] {
        let lab = Lab::new();
        let (_writer, mut reader) = warm(&lab);
        reader.busy_handler(Some(|_| panic!("not asked"))).unwrap();
        let mut refusals = 3;
        lab.shim.hook(move |moment| {
            if moment.text == "a.db: shm lock shared READ1" && refusals > 0 {
                refusals -= 1;
                return Verdict::Answer(code);
            }
            Verdict::Pass
        });
        assert_eq!(support::text(&reader, READ), "1", "{code}");
    }
}

#[test]
fn busy_for_ever_from_a_read_lock_or_from_the_first_xshmmap_ends_as_protocol_after_ten_seconds() {
    for refused in ["shm lock shared READ1", "shm map"] {
        let lab = Lab::new();
        let (writer, reader) = warm(&lab);
        let fresh = lab.open("a.db");
        lab.shim.hook(move |moment| {
            if moment.text.contains(refused) {
                return Verdict::Answer(ffi::SQLITE_BUSY);
            }
            if moment.text.starts_with("sleep") { Verdict::Value(0) } else { Verdict::Pass }
        });
        let connection = if refused == "shm map" { &fresh } else { &reader };
        let trace = lab.trace(|| assert_eq!(support::code_of(connection, READ), ffi::SQLITE_PROTOCOL));
        let slept: u64 =
            trace.only(&["sleep"]).iter().map(|call| call.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum();
        assert!((9_000_000..12_000_000).contains(&slept), "{slept} us");
        drop(writer);
    }
}

#[test]
fn only_the_first_region_is_mapped_to_read_and_each_further_one_when_the_log_needs_it() {
    let lab = Lab::new();
    let writer = lab.open("a.db");
    support::run(
        &writer,
        "PRAGMA page_size=512; PRAGMA journal_mode=WAL; PRAGMA wal_autocheckpoint=0; CREATE TABLE t(x)",
    );
    let many = "INSERT INTO t WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<6000) SELECT zeroblob(400) FROM n";
    let trace = lab.trace(|| support::run(&writer, many));
    assert_eq!(trace.only(&["shm map 1"]), ["a.db: shm map 1 extend 1"]);
    let reader = lab.open("a.db");
    let trace = lab.trace(|| support::text(&reader, "SELECT count(*) FROM t"));
    assert_eq!(trace.only(&["shm map"])[0], "a.db: shm map 0 extend 0");
    assert!(trace.count("shm map 1 extend 0") == 1, "{:#?}", trace.only(&["map"]));
}
