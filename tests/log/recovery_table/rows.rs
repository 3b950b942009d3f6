//! Each row made by hand from real bytes, on the simulated disk and on real files.

use super::{FACTS, OTHER, OWN};
use pwal::internal::disk::fault::{DATABASE_NAME, Effect, Fault, Operation, PARENT_NAME};
use pwal::internal::disk::sim::{HeaderTear, PowerCut};
use pwal::internal::log::format::marker_name;
use pwal::internal::log::recovery::{Done, Next, OpenFacts, Opened, Recovered, open_database};
use pwal::internal::log::stamp::Stamp;
use pwal::internal::log::{ErrorKind, LogError};
use support::log::{Commit, Files, LogBuilder, Place, RealPlace, SimPlace, database_of, stamped};

fn open(place: &dyn Place, facts: OpenFacts) -> Result<Opened, LogError> {
    open_database(&*place.directory(), &mut *place.database(), facts)
}

/// Runs `check` on both disks.
fn on_both(files: &Files, check: impl Fn(&dyn Place)) {
    check(&SimPlace::new(files));
    check(&RealPlace::new(files));
}

/// The last byte of each page, for messages.
fn summary(database: &[u8], page_bytes: u32) -> String {
    let last: Vec<u8> = database.chunks(page_bytes as usize).map(|page| page[page.len() - 8]).collect();
    format!("versions {:?}, pages {last:?}", database.get(18..20))
}

/// The open settles everything: `done`, `pages` in a plain file, and no log file left.
#[track_caller]
fn expect_ready(files: &Files, pages: &[u64], page_bytes: u32, done: impl Fn(&[Done])) {
    on_both(files, |place| {
        let opened = open(place, FACTS).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(opened.next, Next::Ready);
        done(&opened.done);
        let after = place.files();
        assert!(after.database == database_of(pages, page_bytes), "{}", summary(&after.database, page_bytes));
        let names: Vec<String> = after.directory.unwrap_or_default().into_keys().collect();
        assert!(names.iter().all(|name| name == "lock"), "{names:?}");
        let again = open(place, FACTS).unwrap();
        assert_eq!(again, Opened { done: vec![], next: Next::Ready });
    });
}

/// The open is refused, and not a byte was touched.
#[track_caller]
fn expect_refusal(files: &Files, facts: OpenFacts, kind: ErrorKind, words: &[&str]) {
    on_both(files, |place| {
        let error = open(place, facts).expect_err("it should be refused");
        assert_eq!(error.kind(), kind, "{error}");
        for word in words {
            assert!(error.to_string().contains(word), "{word} is not in: {error}");
        }
        assert!(&place.files() == files, "{error}");
        assert!(place.moved_away().is_empty());
    });
}

fn expect_recovered(files: &Files, count: u64, backfilled: u64, torn: bool) {
    expect_ready(files, &LogBuilder::values_after(count), 1024, |done| {
        let [Done::Recovered(Recovered { log_id: OWN, backfilled: b, last, torn_tail, .. })] = done else {
            panic!("{done:?}")
        };
        assert_eq!((*b, *last, torn_tail.is_some()), (backfilled, count, torn), "{torn_tail:?}");
    });
}

fn log_of(commits: u64) -> LogBuilder {
    let mut log = LogBuilder::new(OWN, 1024);
    log.commits(commits);
    log
}

fn base() -> Vec<u64> {
    vec![0; 3]
}

fn fresh(target: u64) -> Files {
    Files::new(stamped(&base(), 1024, OWN, target)).with_file("lock", b"")
}

fn plain() -> Files {
    Files::new(database_of(&base(), 1024)).with_file("lock", b"")
}

#[test]
fn plain_without_a_log_opens() {
    expect_ready(&plain(), &base(), 1024, |done| assert!(done.is_empty()));
    expect_ready(&Files::new(database_of(&base(), 1024)), &base(), 1024, |done| assert!(done.is_empty()));
    expect_ready(&Files::new(vec![]), &[], 1024, |done| assert!(done.is_empty()));
    // Reserved bytes that somebody else filled.
    let mut files = plain();
    files.database[80] = 7;
    on_both(&files, |place| {
        assert_eq!(open(place, FACTS).unwrap(), Opened { done: vec![], next: Next::Ready });
        assert!(place.files() == files);
    });
}

#[test]
fn plain_with_finished_logs_deletes_them() {
    let log = log_of(3);
    let marked = plain().with(&log.files).with_file(marker_name(OWN, 3), b"").with_file("control", b"x");
    let deleted = |done: &[Done]| assert_eq!(done, [Done::DeletedLeftovers { log_ids: vec![OWN] }]);
    expect_ready(&marked, &base(), 1024, deleted);
    // Deletion had begun.
    expect_ready(&plain().with_file(marker_name(OWN, 3), b""), &base(), 1024, deleted);
    // Activation had begun: an empty log, a header that is torn, a segment that is not even zeroed.
    expect_ready(&plain().with(&log_of(0).files), &base(), 1024, deleted);
    let mut torn = log_of(0);
    torn.place_of_header()[40] ^= 1;
    expect_ready(&plain().with(&torn.files), &base(), 1024, deleted);
    expect_ready(&plain().with_file(log.segment_name(), b""), &base(), 1024, deleted);
    expect_ready(&plain().with_file("0000000000000005-0000.spill", b"x"), &base(), 1024, |done| {
        assert_eq!(done, [Done::DeletedLeftovers { log_ids: vec![5] }]);
    });
}

#[test]
fn plain_with_the_log_of_another_file_moves_it_away() {
    let log = log_of(3);
    let mut only_certified = log_of(3);
    only_certified.certify(3, 0);
    for sequence in 1..=3 {
        let (bytes, offset) = only_certified.place(sequence);
        bytes[offset..offset + 4096].fill(0xee);
    }
    for log in [log, only_certified] {
        let files = plain().with(&log.files);
        on_both(&files, |place| {
            let opened = open(place, FACTS).unwrap();
            let suffix = format!("orphan-{OWN:016x}");
            assert_eq!(opened.next, Next::ClaimAgain);
            assert_eq!(opened.done, [Done::Orphaned { log_id: OWN, suffix: suffix.clone() }]);
            assert!(place.files() == Files::new(files.database.clone()));
            assert_eq!(place.moved_away(), [suffix]);
            assert_eq!(open(place, FACTS).unwrap(), Opened { done: vec![], next: Next::Ready });
        });
    }
}

/// Until it is known that the directory does not come back with its old name, nothing is claimed there.
#[test]
fn an_orphan_is_moved_away_durably_or_not_at_all() {
    let files = plain().with(&log_of(1).files);
    let mut failed = 0;
    for nth in 1..4 {
        let place = SimPlace::new(&files);
        let name_contains = PARENT_NAME.to_owned();
        let fault = Fault { operation: Operation::Sync, name_contains, nth, effect: Effect::Error, goes_on: false };
        place.disk.plan().add(fault);
        let opened = open(&place, FACTS);
        assert_eq!(opened.is_err(), place.disk.plan().fired() > 0, "sync {nth}: {opened:?}");
        failed += place.disk.plan().fired();
        assert!(open(&place, FACTS).is_ok(), "sync {nth}");
        assert_eq!(place.moved_away(), [format!("orphan-{OWN:016x}")], "sync {nth}");
    }
    assert_eq!(failed, 2);
}

#[test]
fn a_taken_name_does_not_keep_an_orphan_here() {
    let files = plain().with(&log_of(1).files);
    let place = SimPlace::new(&files);
    assert_eq!(open(&place, FACTS).unwrap().next, Next::ClaimAgain);
    let directory = place.directory();
    directory.create().unwrap();
    for (name, bytes) in files.directory.as_ref().unwrap() {
        directory
            .open(name, pwal::internal::disk::OpenMode::CreateNew)
            .unwrap()
            .write_at(&[std::io::IoSlice::new(bytes)], 0)
            .unwrap();
    }
    let opened = open(&place, FACTS).unwrap();
    assert_eq!(opened.done, [Done::Orphaned { log_id: OWN, suffix: format!("orphan-{OWN:016x}-2") }]);
    assert_eq!(place.moved_away().len(), 2);
}

#[test]
fn stock_leftovers_are_settled_first_or_refused() {
    for facts in [OpenFacts { hot_journal: true, ..FACTS }, OpenFacts { real_wal_not_empty: true, ..FACTS }] {
        for files in [plain(), plain().with(&log_of(2).files), Files::new(vec![])] {
            on_both(&files, |place| {
                let opened = open(place, facts).unwrap();
                assert_eq!(opened, Opened { done: vec![], next: Next::RecoverStock });
                assert!(place.files() == files);
            });
        }
        expect_refusal(&fresh(0).with(&log_of(2).files), facts, ErrorKind::CannotOpen, &["journal", "-wal"]);
        expect_refusal(&fresh(0), facts, ErrorKind::CannotOpen, &["journal"]);
    }
}

#[test]
fn a_crash_in_activation_leaves_nothing() {
    let deleted = |done: &[Done]| assert_eq!(done, [Done::DeletedLeftovers { log_ids: vec![OWN] }]);
    expect_ready(&fresh(0).with(&log_of(0).files), &base(), 1024, deleted);
    // In the write of the first commit.
    let mut torn = log_of(1);
    let (bytes, offset) = torn.place(1);
    bytes[offset + 1024..offset + 4096].fill(0);
    expect_ready(&fresh(0).with(&torn.files), &base(), 1024, deleted);
}

#[test]
fn a_first_commit_that_has_rotted_is_kept_beside() {
    // All of it was written: durable or not, nothing says which.
    for at in [3, 350, 1000] {
        let mut rotten = log_of(1);
        let (bytes, offset) = rotten.place(1);
        bytes[offset + at] ^= 1;
        is_kept_beside(&rotten);
        // With a certificate that calls it durable it is damage.
        rotten.certify(1, 0);
        expect_refusal(&fresh(0).with(&rotten.files), FACTS, ErrorKind::Corrupt, &["durable up to 1"]);
    }
}

fn is_kept_beside(rotten: &LogBuilder) {
    let files = fresh(0).with(&rotten.files);
    on_both(&files, |place| {
        let opened = open(place, FACTS).unwrap();
        let suffix = format!("orphan-{OWN:016x}");
        assert_eq!(opened.done, [Done::SetAside { log_id: OWN, suffix: suffix.clone() }]);
        assert_eq!(opened.next, Next::ClaimAgain);
        assert_eq!(place.moved_away(), [suffix]);
        assert!(place.files() == Files::new(database_of(&base(), 1024)));
        assert_eq!(open(place, FACTS).unwrap(), Opened { done: vec![], next: Next::Ready });
    });
}

#[test]
fn the_only_header_rotten_is_not_a_crash_in_activation() {
    let mut log = log_of(2);
    log.place_of_header()[48] ^= 1;
    expect_refusal(&fresh(0).with(&log.files), FACTS, ErrorKind::Corrupt, &["-0000.seg", "byte 0", "header"]);
}

#[test]
fn a_crash_is_recovered() {
    for commits in [1, 2, 7] {
        expect_recovered(&fresh(0).with(&log_of(commits).files), commits, 0, false);
        let mut certified = log_of(commits);
        certified.certify(commits - 1, 0);
        expect_recovered(&fresh(0).with(&certified.files), commits, 0, false);
    }
    // In a checkpoint: pages of a later pass lie there already.
    let mut log = log_of(5);
    log.certify(3, 2);
    log.commits(1);
    let mut files = fresh(4).with(&log.files);
    files.database[1024..2048].fill(0x77);
    expect_recovered(&files, 6, 2, false);
    // In retirement: the marker names the same n.
    expect_recovered(&fresh(6).with(&log.files).with_file(marker_name(OWN, 6), b""), 6, 2, false);
    // Everything was in the database file.
    let mut whole = log_of(4);
    whole.certify(4, 4);
    let values = LogBuilder::values_after(4);
    expect_recovered(&Files::new(stamped(&values, 1024, OWN, 4)).with(&whole.files), 4, 4, false);
}

#[test]
fn a_bare_copy_is_not_opened() {
    let words = ["1122334455667788", "--discard-log"];
    expect_refusal(&fresh(3), FACTS, ErrorKind::CannotOpen, &words);
    expect_refusal(&Files::new(stamped(&base(), 1024, OWN, 0)), FACTS, ErrorKind::CannotOpen, &words);
    let mut other = LogBuilder::new(OTHER, 1024);
    other.commits(2);
    expect_refusal(&fresh(0).with(&other.files), FACTS, ErrorKind::CannotOpen, &words);
}

#[test]
fn marks_that_contradict_each_other_are_refused() {
    let mut log = log_of(4);
    log.certify(4, 3);
    expect_refusal(&fresh(2).with(&log.files), FACTS, ErrorKind::CannotOpen, &["to commit 2", "says 3"]);
    expect_refusal(
        &fresh(5).with(&log.files),
        FACTS,
        ErrorKind::Corrupt,
        &["-0000.seg", "has seen 5", "commit 5 is not there"],
    );
    let files = fresh(4).with(&log.files).with_file(marker_name(OWN, 5), b"");
    expect_refusal(&files, FACTS, ErrorKind::Corrupt, &["retired at commit 5", "end at 4"]);
    let mut small = stamped(&base(), 1024, OWN, 4);
    small[16..18].copy_from_slice(&512_u16.to_be_bytes());
    Stamp { log_id: OWN, backfill_target: 4 }.apply(&mut small);
    expect_refusal(&Files::new(small).with(&log.files), FACTS, ErrorKind::Corrupt, &["1024", "512"]);
}

#[test]
fn damage_below_a_certificate_is_refused_with_its_place() {
    for what in ["header", "descriptor", "image"] {
        let mut log = log_of(4);
        log.certify(4, 1);
        let (bytes, offset) = log.place(3);
        bytes[offset
            + match what {
                "header" => 20,
                "descriptor" => 348,
                _ => 900,
            }] ^= 0x10;
        let place = format!("byte {}", if what == "image" { offset + 344 + 48 } else { offset });
        let words = ["-0000.seg", place.as_str(), "commit 3", if what == "image" { "rule B8" } else { "rule B3" }];
        expect_refusal(&fresh(2).with(&log.files), FACTS, ErrorKind::Corrupt, &words);
    }
}

#[test]
fn a_torn_tail_is_cut_and_reported() {
    for at in [0, 20, 348, 900] {
        let mut log = log_of(5);
        log.certify(4, 1);
        log.commits(1);
        let (bytes, offset) = log.place(6);
        bytes[offset + at] ^= 0x10;
        // Where not even the first bytes are there, nothing says that a commit was begun.
        expect_recovered(&fresh(2).with(&log.files), 5, 1, at != 0);
    }
}

#[test]
fn others_beside_the_own_log_are_moved_away_or_deleted() {
    let mut other = LogBuilder::new(OTHER, 1024);
    other.commits(2);
    let files = fresh(0).with(&log_of(3).files).with(&other.files);
    on_both(&files, |place| {
        let opened = open(place, FACTS).unwrap();
        assert_eq!(opened.next, Next::ClaimAgain);
        let [Done::Recovered(recovered), Done::Orphaned { log_id: OTHER, .. }] = opened.done.as_slice() else {
            panic!("{opened:?}")
        };
        assert_eq!(recovered.last, 3);
        assert!(place.files() == Files::new(database_of(&LogBuilder::values_after(3), 1024)));
    });
    let marked = files.with_file(marker_name(OTHER, 2), b"");
    expect_ready(&marked, &LogBuilder::values_after(3), 1024, |done| {
        assert!(matches!(done, [Done::Recovered(_), Done::DeletedLeftovers { .. }]), "{done:?}");
    });
    let beside_empty = fresh(0).with(&log_of(0).files).with_file(marker_name(OTHER, 2), b"");
    expect_ready(&beside_empty, &base(), 1024, |done| assert_eq!(done.len(), 2));
}

#[test]
fn torn_stamps_follow_the_log() {
    let torn = |target| {
        let mut files = fresh(target);
        files.database[84] ^= 0x40;
        files
    };
    let mut log = log_of(4);
    log.certify(3, 2);
    expect_recovered(&torn(3).with(&log.files), 4, 2, false);
    let deleted = |done: &[Done]| assert_eq!(done, [Done::DeletedLeftovers { log_ids: vec![OWN] }]);
    expect_ready(&torn(0).with(&log_of(0).files), &base(), 1024, deleted);
    // All of it is in the file.
    let values = LogBuilder::values_after(4);
    let mut complete = torn(4);
    complete.database[1024..].copy_from_slice(&database_of(&values, 1024)[1024..]);
    complete.database[100..1024].copy_from_slice(&database_of(&values, 1024)[100..1024]);
    expect_ready(&complete.with(&log.files).with_file(marker_name(OWN, 4), b""), &values, 1024, deleted);
    let mut damaged = log.clone();
    damaged.certify(4, 2);
    let (bytes, offset) = damaged.place(4);
    bytes[offset + 900] ^= 1;
    expect_refusal(&torn(3).with(&damaged.files), FACTS, ErrorKind::Corrupt, &["commit 4"]);
    let mut other = LogBuilder::new(OTHER, 1024);
    other.commits(1);
    expect_refusal(&torn(3).with(&other.files), FACTS, ErrorKind::CannotOpen, &["header"]);
    expect_refusal(&torn(3), FACTS, ErrorKind::CannotOpen, &["header"]);
}

#[test]
fn a_rotten_page_size_comes_back_from_the_log() {
    let mut files = fresh(0);
    files.database[16] ^= 1;
    // Commits 2, 4, ... hold page 3, the others page 1.
    expect_recovered(&files.clone().with(&log_of(3).files), 3, 0, false);
    let mut without = LogBuilder::new(OWN, 1024);
    without.commit(&Commit { frames: &[(2, 5)], ..Commit::default() });
    expect_refusal(&files.with(&without.files), FACTS, ErrorKind::Corrupt, &["pages of 1024"]);
}

#[test]
fn half_a_stamp_on_a_plain_header() {
    let mut half = fresh(0);
    half.database[18..20].fill(2);
    let deleted = |done: &[Done]| assert_eq!(done, [Done::DeletedLeftovers { log_ids: vec![OWN] }]);
    expect_ready(&half.clone().with(&log_of(0).files), &base(), 1024, deleted);
    // All of it is in the file.
    let values = LogBuilder::values_after(2);
    let mut complete = half.clone();
    complete.database[100..].copy_from_slice(&database_of(&values, 1024)[100..]);
    expect_ready(&complete.with(&log_of(2).files).with_file(marker_name(OWN, 2), b""), &values, 1024, deleted);
    expect_refusal(&half.with(&log_of(2).files), FACTS, ErrorKind::CannotOpen, &["header"]);
}

#[test]
fn read_only_touches_nothing() {
    let read_only = OpenFacts { read_only: true, ..FACTS };
    for files in [plain(), Files::new(vec![])] {
        on_both(&files, |place| {
            assert_eq!(open(place, read_only).unwrap(), Opened { done: vec![], next: Next::Ready });
            assert!(place.files() == files);
        });
    }
    for files in [plain(), fresh(0)] {
        expect_refusal(&files.with(&log_of(2).files), read_only, ErrorKind::ReadOnly, &["read-write"]);
    }
    expect_refusal(&fresh(0), read_only, ErrorKind::CannotOpen, &["--discard-log"]);
}

#[test]
fn newer_records_and_read_errors_touch_nothing() {
    let mut newer = log_of(2);
    let header = newer.place_of_header();
    header[8] = 3;
    let crc = crc32c::crc32c(&header[..64]);
    header[64..68].copy_from_slice(&crc.to_le_bytes());
    for files in [fresh(0), plain()] {
        expect_refusal(&files.with(&newer.files), FACTS, ErrorKind::CannotOpen, &["format version 3"]);
    }
    let mut older = log_of(2);
    let header = older.place_of_header();
    header[8] = 1;
    let crc = crc32c::crc32c(&header[..64]);
    header[64..68].copy_from_slice(&crc.to_le_bytes());
    let mut stamped = plain().database;
    stamped[18..20].fill(3);
    stamped[72..80].copy_from_slice(&OWN.to_le_bytes());
    let crc = crc32c::crc32c_append(crc32c::crc32c(&stamped[16..20]), &stamped[72..88]);
    stamped[88..92].copy_from_slice(&crc.to_le_bytes());
    let stamped = Files::new(stamped);
    for files in [fresh(0), plain(), stamped.clone()] {
        expect_refusal(&files.with(&older.files), FACTS, ErrorKind::CannotOpen, &["format version 1", "older pwal"]);
    }
    expect_refusal(&stamped, FACTS, ErrorKind::CannotOpen, &["format version 1", "older pwal"]);
    let mut flagged = log_of(2);
    let mut certificate = flagged.next_certificate(2, 1, 0).encode();
    certificate[11] = 0x80;
    let crc = crc32c::crc32c(&certificate[..252]);
    certificate[252..256].copy_from_slice(&crc.to_le_bytes());
    flagged.put(&certificate);
    expect_refusal(&fresh(0).with(&flagged.files), FACTS, ErrorKind::CannotOpen, &["unknown flags"]);

    let files = fresh(0).with(&log_of(3).files);
    for (operation, name) in [
        (Operation::Read, ".seg"),
        (Operation::Open, ".seg"),
        (Operation::Sync, ".seg"),
        (Operation::Sync, "(directory)"),
        (Operation::Sync, "(parent)"),
        (Operation::Read, "(directory)"),
        (Operation::Read, DATABASE_NAME),
    ] {
        for nth in 1..4 {
            let place = SimPlace::new(&files);
            let fault = Fault { operation, name_contains: name.to_owned(), nth, effect: Effect::Error, goes_on: true };
            place.disk.plan().add(fault);
            match open(&place, FACTS) {
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::Io, "{error}");
                    // Behind the replay a sync of the directory may fail, too; all else fails before it.
                    if (name != "(directory)" || nth == 1) && name != DATABASE_NAME {
                        // The images are read once T is the last commit.
                        let mut expected = files.database.clone();
                        if operation == Operation::Read && place.files().database != expected {
                            expected = fresh(3).database;
                        }
                        assert!(place.files().database == expected, "{operation:?} {name} {nth}");
                    }
                }
                // It needed fewer.
                Ok(_) => assert!(nth > 1, "{operation:?} {name}"),
            }
            place.disk.plan().clear();
            if operation == Operation::Sync && name == ".seg" {
                continue;
            }
            open(&place, FACTS).unwrap();
            assert!(place.files().database == database_of(&LogBuilder::values_after(3), 1024));
        }
    }
}

#[test]
fn a_full_disk_keeps_the_log() {
    let files = fresh(0).with(&log_of(3).files);
    for (operation, name) in [(Operation::Write, DATABASE_NAME), (Operation::Create, "retired")] {
        let place = SimPlace::new(&files);
        let effect = Effect::NoSpace;
        place.disk.plan().add(Fault { operation, name_contains: name.to_owned(), nth: 1, effect, goes_on: true });
        assert_eq!(open(&place, FACTS).unwrap_err().kind(), ErrorKind::Full);
        assert!(place.files().directory == files.directory);
        place.disk.plan().clear();
        open(&place, FACTS).unwrap();
        assert!(place.files().database == database_of(&LogBuilder::values_after(3), 1024));
    }
}

#[test]
fn every_step_may_be_the_last_before_a_crash() {
    let mut spilled = LogBuilder::new(OWN, 1024);
    spilled.commits(2);
    let frames = [(1, 900), (2, 901), (3, 902), (4, 903)];
    spilled.commit(&Commit { frames: &frames, database_pages: 4, spill_from: 1, ..Commit::default() });
    spilled.rotate(1);
    spilled.commit(&Commit { frames: &[(2, 904)], database_pages: 2, ..Commit::default() });
    spilled.certify(3, 0);
    let mut torn = log_of(3);
    let (bytes, offset) = torn.place(1);
    bytes[offset + 1024..offset + 2048].fill(0);
    let cases = [
        (fresh(0).with(&spilled.files), vec![900, 904]),
        (fresh(0).with(&log_of(3).files), LogBuilder::values_after(3)),
        (fresh(0).with(&log_of(0).files), base()),
        (fresh(0).with(&torn.files), base()),
        (plain().with(&log_of(3).files).with_file(marker_name(OWN, 3), b""), base()),
        (fresh(3).with(&log_of(3).files).with_file(marker_name(OWN, 3), b""), LogBuilder::values_after(3)),
    ];
    let cuts = [0, 30, 100].map(|keep_percent| PowerCut {
        keep_percent,
        tears_sectors: true,
        tears_same_bytes: false,
        tears_header: HeaderTear::Mixed,
    });
    for (index, (files, pages)) in cases.iter().enumerate() {
        for stop in 0.. {
            let stopped = SimPlace::new(files);
            stopped.disk.stop_after(stop);
            let result = open(&stopped, FACTS);
            for (seed, cut) in std::iter::once(None).chain(cuts.iter().map(Some)).cycle().take(40).enumerate() {
                let place = SimPlace { disk: stopped.disk.deep_clone(seed as u64), path: stopped.path.clone() };
                match cut {
                    Some(cut) => place.disk.power_cut(cut),
                    None => place.disk.kill(),
                }
                let opened = open(&place, FACTS)
                    .unwrap_or_else(|error| panic!("case {index} stopped after {stop}, seed {seed} {cut:?}: {error}"));
                assert_eq!(opened.next, Next::Ready);
                let after = place.files().database;
                assert!(
                    after == database_of(pages, 1024),
                    "case {index} stop {stop} seed {seed}: {}",
                    summary(&after, 1024)
                );
            }
            if result.is_ok() {
                assert!(stop > 3, "case {index}");
                break;
            }
        }
    }
}
