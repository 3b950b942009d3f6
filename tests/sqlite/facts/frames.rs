//! xWrite and xRead on the WAL.

use super::{Lab, Trace};
use rusqlite::{Connection, ffi};
use support::shim::Verdict;

const HEADER: u64 = 24;
const PAGE: u64 = 512;

/// A write to the WAL: a frame's header or its image, and the number of the frame from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Header(u64),
    Image(u64),
    Other,
}

fn parts(trace: &Trace) -> Vec<Part> {
    trace.only(&["a.db-wal: write"]).iter().map(|call| part(call)).collect()
}

fn part(call: &str) -> Part {
    let (bytes, offset) = call.rsplit(' ').next().unwrap().split_once('@').unwrap();
    let (bytes, offset): (u64, u64) = (bytes.parse().unwrap(), offset.parse().unwrap());
    let position = offset.wrapping_sub(32);
    let frame = position / (HEADER + PAGE) + 1;
    match (bytes, position % (HEADER + PAGE)) {
        (HEADER, 0) => Part::Header(frame),
        (PAGE, HEADER) => Part::Image(frame),
        _ => Part::Other,
    }
}

/// A database of small pages with a WAL that is not empty and a cache of one page.
fn small(lab: &Lab) -> Connection {
    let connection = lab.open("a.db");
    support::run(
        &connection,
        "PRAGMA page_size=512; PRAGMA journal_mode=WAL; CREATE TABLE t(id INTEGER PRIMARY KEY, x); PRAGMA cache_size=1",
    );
    lab.shim.take();
    connection
}

const MANY: &str = "INSERT INTO t WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<200) \
                    SELECT i, zeroblob(100) FROM n";

#[test]
fn a_frame_is_two_writes_its_header_and_its_image() {
    let lab = Lab::new();
    let connection = small(&lab);
    let trace = lab.trace(|| support::run(&connection, "INSERT INTO t VALUES(1,'one')"));
    let parts = parts(&trace);
    assert_eq!(parts.len() % 2, 0);
    for pair in parts.chunks(2) {
        let (Part::Header(header), Part::Image(image)) = (pair[0], pair[1]) else { panic!("{pair:?}") };
        assert_eq!(header, image);
    }
}

#[test]
fn only_the_last_frame_of_a_commit_has_a_database_size() {
    let lab = Lab::new();
    let connection = small(&lab);
    let sizes = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let seen = std::sync::Arc::clone(&sizes);
    lab.shim.hook(move |moment| {
        if moment.text.starts_with("a.db-wal: write 24@") {
            seen.lock().unwrap().push(u32::from_be_bytes(moment.data[4..8].try_into().unwrap()));
        }
        Verdict::Pass
    });
    support::run(&connection, MANY);
    let pages = u32::try_from(support::number(&connection, "PRAGMA page_count")).unwrap();
    let sizes = sizes.lock().unwrap();
    // Headers that are written again for their checksums come after it and repeat what they were.
    let commits: Vec<u32> = sizes.iter().copied().filter(|size| *size != 0).collect();
    assert!(!commits.is_empty() && commits.iter().all(|size| *size == pages), "{commits:?} {pages}");
}

#[test]
fn a_spilled_page_is_written_in_place_without_a_header_and_headers_again_behind_the_commit_frame() {
    let lab = Lab::new();
    let connection = small(&lab);
    support::run(&connection, "INSERT INTO t VALUES(-1,'a last frame of the snapshot')");
    support::run(&connection, "BEGIN");
    let spilled = parts(&lab.trace(|| support::run(&connection, MANY)));
    let last = spilled.iter().filter_map(|part| if let Part::Image(frame) = part { Some(*frame) } else { None }).max();
    let update = lab.trace(|| support::run(&connection, "UPDATE t SET x=zeroblob(101)"));
    let in_place = parts(&update)
        .windows(2)
        .filter(|pair| matches!(pair, [Part::Image(_) | Part::Other, Part::Image(frame)] if Some(*frame) <= last))
        .count();
    assert!(in_place > 10, "{in_place} images without a header before them");

    let commit = lab.trace(|| support::run(&connection, "COMMIT"));
    // The commit frame is the last image that is written; it is new.
    let calls: Vec<&str> = commit.only(&["a.db-wal: write", "a.db-wal: read"]);
    let image = calls.iter().rposition(|call| matches!(part(call), Part::Image(_)) && call.contains("write")).unwrap();
    let Part::Image(commit_frame) = part(calls[image]) else { unreachable!() };
    assert!(parts(&update).iter().all(|part| *part != Part::Image(commit_frame)), "appended, not overwritten");
    // Behind it: 8 bytes at 16 of the header before the first rewritten frame, then each frame read whole
    // and its header written.
    let behind = &calls[image + 1..];
    assert!(behind[0].contains("read 8@") && behind.len() > 20, "{behind:?}");
    let first: u64 = behind[0].rsplit('@').next().unwrap().parse().unwrap();
    assert_eq!((first - 32) % (HEADER + PAGE), 16);
    for pair in behind[1..].chunks(2) {
        assert!(pair[0].starts_with("a.db-wal: read 536@"), "{pair:?}");
        assert!(matches!(part(pair[1]), Part::Header(_)), "{pair:?}");
    }
    let trace = lab.trace(|| support::assert_integrity(&connection));
    assert!(trace.count("a.db-wal: read 512@") > 0);
}

#[test]
fn a_page_that_spilled_is_read_back_by_its_own_transaction() {
    let lab = Lab::new();
    let connection = small(&lab);
    support::run(&connection, "BEGIN");
    let last = parts(&lab.trace(|| support::run(&connection, MANY))).len();
    assert!(last > 20);
    let trace = lab.trace(|| support::text(&connection, "SELECT sum(length(x)) FROM t"));
    assert!(trace.count("a.db-wal: read 512@") > 10);
    support::run(&connection, "ROLLBACK");
}

#[test]
fn a_rollback_or_a_savepoint_writes_nothing_and_the_next_frames_take_the_places() {
    let lab = Lab::new();
    let connection = small(&lab);
    support::run(&connection, "BEGIN; SAVEPOINT s");
    let first = parts(&lab.trace(|| support::run(&connection, MANY)))[0];
    assert_eq!(lab.trace(|| support::run(&connection, "ROLLBACK TO s")).count("write"), 0);
    let again = parts(&lab.trace(|| support::run(&connection, MANY)))[0];
    assert_eq!(first, again, "after ROLLBACK TO");
    assert_eq!(lab.trace(|| support::run(&connection, "ROLLBACK")).count("write"), 0);
    let next = parts(&lab.trace(|| support::run(&connection, "INSERT INTO t VALUES(1,1)")))[0];
    assert_eq!(first, next, "after ROLLBACK");
}

#[test]
fn powersafe_overwrite_is_asked_of_the_database_file_when_the_wal_is_opened() {
    for (characteristics, padded) in [(ffi::SQLITE_IOCAP_POWERSAFE_OVERWRITE, false), (0, true)] {
        let lab = Lab::new();
        support::close(small(&lab));
        lab.shim.hook(move |moment| match moment.text {
            "a.db: characteristics" => Verdict::Value(characteristics),
            "a.db: sector size" => Verdict::Value(4096),
            _ => Verdict::Pass,
        });
        let connection = lab.open("a.db");
        lab.shim.take();
        support::run(&connection, "SELECT * FROM t");
        let opened = Trace(lab.shim.take());
        assert!(
            opened.position("a.db-wal: open")
                < opened.0.iter().rposition(|call| call == "a.db: characteristics").unwrap()
        );
        let trace = lab.trace(|| support::run(&connection, "INSERT INTO t VALUES(1,1)"));
        assert_eq!(
            parts(&trace).len() > 8,
            padded,
            "FULL pads with copies of the commit frame to the sector: {:?}",
            trace.0
        );
    }
}

#[test]
fn an_image_is_always_one_whole_page() {
    let lab = Lab::new();
    let connection = small(&lab);
    support::run(&connection, "BEGIN");
    let trace = lab.trace(|| {
        support::run(&connection, MANY);
        support::run(
            &connection,
            "UPDATE t SET x=zeroblob(9000) WHERE id%50=0; DELETE FROM t WHERE id%3=0; COMMIT; VACUUM",
        );
    });
    assert!(parts(&trace).len() > 100);
    assert_eq!(parts(&trace).iter().filter(|part| **part == Part::Other).count(), 0);
}

#[test]
fn nothing_is_read_behind_the_frames_that_were_written() {
    let lab = Lab::new();
    let connection = small(&lab);
    let mut end = 0_u64;
    lab.shim.hook(move |moment| {
        if let Some(range) =
            moment.text.strip_prefix("a.db-wal: write ").or(moment.text.strip_prefix("a.db-wal: read "))
        {
            let (bytes, offset) = range.split_once('@').unwrap();
            let until = bytes.parse::<u64>().unwrap() + offset.parse::<u64>().unwrap();
            if moment.text.contains("write") {
                end = end.max(until);
            } else {
                assert!(until <= end || end == 0, "{}", moment.text);
            }
        }
        Verdict::Pass
    });
    support::run(&connection, "BEGIN");
    support::run(&connection, MANY);
    support::run(&connection, "UPDATE t SET x=1; COMMIT; SELECT sum(x) FROM t; PRAGMA wal_checkpoint(TRUNCATE)");
}
