//! The walk along the batches of a log: what recovery finds, where it ends, and what it does with it.

mod beginnings;
mod fields;

use pwal::internal::disk::OpenMode;
use pwal::internal::disk::fault::{Effect, Fault, Operation};
use pwal::internal::log::format::{BatchPlace, Certificate, batch_head_bytes, decode_batch, segment_name};
use pwal::internal::log::recovery::{Done, OpenFacts, Recovered, open_database};
use pwal::internal::log::scan::{Survey, is_sound, survey};
use pwal::internal::log::{ErrorKind, LogError};
use std::io::IoSlice;
use support::log::{Commit, Files, LogBuilder, Place, RealPlace, SimPlace, database_of, image, stamped};

const ID: u64 = 0xabcd;

fn recover_on(place: &dyn Place) -> Result<Recovered, LogError> {
    let opened = open_database(&*place.directory(), &mut *place.database(), OpenFacts::default())?;
    match opened.done.into_iter().next() {
        Some(Done::Recovered(recovered)) => Ok(recovered),
        other => panic!("{other:?}"),
    }
}

/// Recovers the log under a stamp with `target`, and returns what was done and the database file behind it.
fn recover(log: &LogBuilder, target: u64) -> Result<(Recovered, Vec<u8>), LogError> {
    let files = Files::new(stamped(&[0; 3], log.page_bytes, ID, target)).with(&log.files);
    let place = SimPlace::new(&files);
    let recovered = recover_on(&place)?;
    Ok((recovered, place.files().database))
}

#[track_caller]
fn expect(log: &LogBuilder, target: u64, last: u64) -> Recovered {
    let (recovered, database) = recover(log, target).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(recovered.last, last, "{recovered:?}");
    assert!(database == database_of(&LogBuilder::values_after(last), log.page_bytes), "not the pages of commit {last}");
    recovered
}

fn log(commits: u64) -> LogBuilder {
    let mut log = LogBuilder::new(ID, 1024);
    log.commits(commits);
    log
}

#[test]
fn every_page_size_and_block_is_recovered_on_real_files() {
    for page_bytes in [512, 1024, 2048, 4096, 8192, 16384, 32768, 65536] {
        for block_bytes in [4096, 8192, 65536] {
            let mut log = LogBuilder::with_blocks(ID, page_bytes, block_bytes, 12 * 65536 / u64::from(block_bytes));
            log.commits(2);
            log.certify(2, 0);
            log.rotate(1);
            log.commits(2);
            let files = Files::new(stamped(&[0; 3], page_bytes, ID, 0)).with(&log.files);
            let place = RealPlace::new(&files);
            let recovered = recover_on(&place).unwrap();
            assert_eq!((recovered.last, recovered.pages), (4, 3), "{page_bytes} {block_bytes}");
            assert!(place.files().database == database_of(&LogBuilder::values_after(4), page_bytes));
        }
    }
}

#[test]
fn batches_count_without_a_certificate() {
    expect(&log(5), 0, 5);
}

#[test]
fn any_number_of_certificates_and_two_lost_blocks_are_stepped_over() {
    let mut between = log(2);
    for _ in 0..5 {
        between.certify(2, 0);
    }
    let mut lost_two = between.clone();
    between.commits(2);
    expect(&between, 0, 4);
    // One doubled certificate that the power cut took: the leader's, before its sync.
    lost_two.put(&[0xee; 4096]);
    lost_two.certify(2, 0);
    lost_two.put(&[0xee; 4096]);
    let mut lost_three = lost_two.clone();
    lost_two.commits(2);
    expect(&lost_two, 0, 4);
    lost_three.put(&[0xee; 4096]);
    lost_three.commits(2);
    expect(&lost_three, 0, 2);
}

/// The rest of the block in which the last batch ends is none of the two.
#[test]
fn a_certificate_may_be_lost_in_the_block_in_which_a_batch_ends() {
    let tail = log(2);
    assert_ne!(tail.offset % 4096, 0);
    for (lost, last) in [(0, 4), (1, 4), (2, 4), (3, 2)] {
        for rest in [0, 0xee] {
            let mut log = tail.clone();
            let bytes = log.offset.next_multiple_of(4096) - log.offset;
            log.put(&vec![rest; bytes as usize]);
            for _ in 0..lost {
                log.put(&[0xee; 4096]);
            }
            log.commits(2);
            expect(&log, 0, last);
        }
    }
    // Nothing that follows in that block is looked for beside the place where the batch ends.
    let mut log = tail.clone();
    log.put(&[0; 512]);
    log.commits(2);
    expect(&log, 0, 2);
}

#[test]
fn the_walk_goes_on_in_later_segments_also_over_one_without_a_batch() {
    let mut log = log(2);
    log.rotate(1);
    log.certify(2, 0);
    log.rotate(2);
    log.certify(2, 0);
    log.rotate(3);
    log.commits(2);
    log.rotate(4);
    expect(&log, 0, 4);
}

#[test]
fn a_segment_that_a_dead_writer_began_does_not_end_the_walk() {
    // Two segments with one ordinal: the first holds a header alone.
    let mut log = log(2);
    log.rotate(1);
    log.ordinal -= 1;
    log.rotate(2);
    log.commits(1);
    expect(&log, 0, 3);
}

#[test]
fn a_batch_of_another_chain_is_not_taken() {
    // Commit 3 of a history in which commit 2 was another one: whole, at the right place, and not ours.
    let mut log = log(1);
    let mut other = log.clone();
    other.commit(&Commit { frames: &[(3, 7), (2, 7)], ..Commit::default() });
    other.commits(1);
    log.commits(1);
    let (stale, at) = other.place(3);
    let stale = stale[at..at + 2560].to_vec();
    let clean = log.clone();
    assert_eq!(at as u64, log.offset);
    log.put(&stale);
    expect(&log, 0, 2);
    // Also not in a later segment whose header says so.
    let mut log = clean;
    log.chain ^= 1;
    log.rotate(1);
    log.commits(1);
    expect(&log, 0, 2);
}

#[test]
fn commit_one_follows_the_log_id() {
    let mut log = LogBuilder::new(ID, 1024);
    log.chain = 0x5555;
    log.commits(1);
    log.certify(1, 0);
    assert_eq!(recover(&log, 1).unwrap_err().kind(), ErrorKind::Corrupt);
}

#[test]
fn stale_batches_behind_the_tail_of_a_recycled_segment_are_not_taken() {
    let mut log = log(3);
    log.certify(3, 0);
    log.rotate(1);
    log.commits(2);
    log.certify(5, 3);
    // Segment 0 again: commits 2 and 3 of its first life lie behind commit 6.
    log.rotate(0);
    log.commits(1);
    let recovered = expect_from(&log, 3, 6);
    assert_eq!(recovered.backfilled, 3);
}

#[test]
fn of_two_beginnings_as_long_as_each_other_the_one_in_the_earlier_segment_counts() {
    // Everything is backfilled. A writer whose batch did not fit the current segment began the next one, and died before it
    // published; a smaller one fitted, and was acknowledged.
    for (current, next) in [(1, 0), (0, 1)] {
        let mut log = log(1);
        if current == 1 {
            log.rotate(1);
        }
        log.commits(1);
        log.certify(2, 2);
        let mut dead = log.clone();
        dead.rotate(next);
        dead.commit(&Commit { frames: &[(1, 7), (2, 7), (3, 7)], ..Commit::default() });
        let begun = segment_name(ID, next);
        log.files.insert(begun.clone(), dead.files[&begun].clone());
        log.commits(1);
        log.certify(3, 2);
        expect_from(&log, 2, 3);
    }
}

/// As `expect`, on a database file that holds the pages of commit `target` already.
#[track_caller]
fn expect_from(log: &LogBuilder, target: u64, last: u64) -> Recovered {
    let values = LogBuilder::values_after(target);
    let place = SimPlace::new(&Files::new(stamped(&values, 1024, ID, target)).with(&log.files));
    let recovered = recover_on(&place).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(recovered.last, last);
    assert!(place.files().database == database_of(&LogBuilder::values_after(last), 1024));
    recovered
}

#[test]
fn certificates_behind_damage_and_in_headless_segments_count() {
    let mut log = log(2);
    log.rotate(1);
    log.commits(1);
    log.certify(3, 0);
    let clean = log.clone();
    // The header of segment 1 is gone, and with it commit 3; the certificate in it still says that it was durable.
    log.files.get_mut(&segment_name(ID, 1)).unwrap()[..4096].fill(0);
    let error = recover(&log, 0).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.to_string().contains("whole up to commit 2, but was durable up to 3"), "{error}");
    // As one in a batch whose images are damaged does.
    let mut log = clean;
    log.commit(&Commit { frames: &[(2, 9)], certificate: Some((3, 0)), ..Commit::default() });
    for sequence in [3, 4] {
        let (bytes, at) = log.place(sequence);
        bytes[at + 1000] ^= 1;
    }
    assert_eq!(recover(&log, 0).unwrap_err().kind(), ErrorKind::Corrupt);
}

#[test]
fn a_failed_epoch_that_was_zeroed_is_gone() {
    let mut log = log(4);
    for sequence in [3, 4] {
        let (bytes, at) = log.place(sequence);
        bytes[at..at + 4096].fill(0);
    }
    expect(&log, 0, 2);
}

#[test]
fn the_final_size_counts() {
    let mut log = log(1);
    log.commit(&Commit { frames: &[(4, 50), (5, 51)], database_pages: 5, ..Commit::default() });
    let grown = log.clone();
    log.commit(&Commit { frames: &[(1, 60)], database_pages: 2, ..Commit::default() });
    let (recovered, database) = recover(&log, 0).unwrap();
    assert_eq!(recovered.pages, 2);
    assert!(database == database_of(&[60, 101], 1024));
    let (_, database) = recover(&grown, 0).unwrap();
    assert!(database == database_of(&[101, 101, 0, 50, 51], 1024));
}

#[test]
fn the_last_image_of_a_page_in_a_batch_wins() {
    let mut log = LogBuilder::new(ID, 1024);
    log.commit(&Commit { frames: &[(2, 1), (3, 1), (2, 2)], ..Commit::default() });
    assert!(recover(&log, 0).unwrap().1 == database_of(&[0, 2, 1], 1024));
}

#[test]
fn spilled_images_are_read_proven_and_missed() {
    let mut log = log(1);
    let frames = [(1, 5), (2, 6), (3, 7)];
    log.commit(&Commit { frames: &frames, spill_from: 1, ..Commit::default() });
    let (recovered, database) = recover(&log, 0).unwrap();
    assert!(database == database_of(&[5, 6, 7], 1024));
    assert_eq!(recovered.last, 2);
    let spill = log.files.keys().find(|name| name.ends_with(".spill")).unwrap().clone();
    let mut rotten = log.clone();
    rotten.files.get_mut(&spill).unwrap()[1500] ^= 1;
    assert!(expect(&rotten, 0, 1).torn_tail.unwrap().file.ends_with(&spill));
    let mut short = log.clone();
    short.files.get_mut(&spill).unwrap().truncate(1500);
    expect(&short, 0, 1);
    log.files.remove(&spill);
    assert!(expect(&log, 0, 1).torn_tail.unwrap().file.ends_with(&spill));
    log.certify(2, 0);
    assert_eq!(recover(&log, 2).unwrap_err().kind(), ErrorKind::Corrupt);
}

#[test]
fn a_thousand_frames_in_one_batch() {
    let frames: Vec<(u32, u64)> = (1..=1000).map(|page| (page, u64::from(page) * 7)).collect();
    let mut log = LogBuilder::with_blocks(ID, 512, 4096, 200);
    log.commit(&Commit { frames: &frames, database_pages: 1000, ..Commit::default() });
    let files = Files::new(stamped(&[0; 3], 512, ID, 0)).with(&log.files);
    let place = RealPlace::new(&files);
    assert_eq!(recover_on(&place).unwrap().pages, 1000);
    let values: Vec<u64> = (1..=1000).map(|page| page * 7).collect();
    assert!(place.files().database == database_of(&values, 512));
}

#[test]
fn a_page_that_looks_like_a_record_of_this_log_is_none() {
    // A database that stores a copy of its own log: the images are no places for batches.
    let mut inner = LogBuilder::with_blocks(ID, 4096, 4096, 16);
    inner.commit(&Commit { frames: &[(2, 1)], ..Commit::default() });
    inner.commit(&Commit { frames: &[(2, 66)], ..Commit::default() });
    let (bytes, at) = inner.place(2);
    let head = bytes[at..at + batch_head_bytes(1) as usize].to_vec();
    let place = BatchPlace {
        log_id: ID,
        ordinal: 1,
        offset: at as u64,
        block_bytes: 4096,
        page_bytes: 4096,
        segment_bytes: 16 * 4096,
    };
    assert!(decode_batch(&head, &place).is_ok());
    assert!(decode_batch(&head, &BatchPlace { offset: at as u64 + 4096, ..place }).is_err());
    assert!(decode_batch(&head, &BatchPlace { ordinal: 2, ..place }).is_err());
    assert!(decode_batch(&head, &BatchPlace { log_id: ID + 1, ..place }).is_err());
    assert_eq!(image(2, 66, 4096).len(), 4096);
}

#[test]
fn what_a_failed_sync_left_in_the_cache_alone_does_not_count() {
    let mut seen = 0;
    for seed in 0..20 {
        let mut log = log(2);
        let files = Files::new(stamped(&[0; 3], 1024, ID, 0)).with(&log.files);
        let place = SimPlace { disk: SimPlace::new(&files).disk.deep_clone(seed), path: "/sim/a.db".into() };
        log.commits(1);
        let (bytes, at) = log.place(3);
        let file = place.directory().open(&segment_name(ID, 0), OpenMode::Existing).unwrap();
        file.write_at(&[IoSlice::new(&bytes[at..at + 4096])], at as u64).unwrap();
        let (operation, effect) = (Operation::Sync, Effect::Error);
        let name_contains = ".seg".to_owned();
        place.disk.plan().add(Fault { operation, name_contains, nth: 1, effect, goes_on: false });
        file.sync().unwrap_err();
        place.disk.kill();
        let (cached, medium) = place.disk.contents(&place.directory().path().join(segment_name(ID, 0))).unwrap();
        if cached == medium {
            continue;
        }
        seen += 1;
        assert_eq!(recover_on(&place).unwrap().last, 2, "seed {seed}");
        assert!(place.files().database == database_of(&LogBuilder::values_after(2), 1024));
    }
    assert!(seen > 10);
}

/// A writer whose batch 3 did not fit segment 0 began segment 1 with it and died; a smaller one was published in segment 0 and sealed by a
/// certificate with this D.
fn dead_and_sealed(durable: u64) -> LogBuilder {
    let mut log = log(2);
    let mut dead = log.clone();
    dead.rotate(1);
    dead.commit(&Commit { frames: &[(1, 7), (2, 7), (3, 7)], certificate: Some((2, 0)), ..Commit::default() });
    let begun = segment_name(ID, 1);
    log.files.insert(begun.clone(), dead.files[&begun].clone());
    log.commits(1);
    log.certify(durable, 0);
    log
}

#[test]
fn a_batch_that_a_certificate_denies_is_not_taken() {
    for durable in [2, 3] {
        let mut log = dead_and_sealed(durable);
        assert!(is_sound(&survey_of(&log)), "{:?}", survey_of(&log).logs[0].findings);
        expect(&log, 0, 3);
        // Commit 3 rots, or a power cut took it: the dead writer's batch is whole, and is not the one that was sealed.
        let (bytes, at) = log.place(3);
        bytes[at + 1000] ^= 1;
        if durable == 2 {
            let torn = expect(&log, 0, 2).torn_tail.unwrap();
            assert!(torn.file.ends_with(segment_name(ID, 1)) && torn.reason.contains("E1"), "{torn:?}");
        } else {
            let error = recover(&log, 0).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt);
            assert!(error.to_string().contains("rule E1"), "{error}");
        }
    }
}

#[test]
fn a_certificate_whose_chain_is_not_that_of_a_log_that_goes_on_is_damage() {
    let mut log = log(2);
    let mut certificate = log.next_certificate(2, 0, 0);
    certificate.chain ^= 1;
    log.put_certificate(&certificate);
    expect(&log, 0, 1);
    log.commits(1);
    let error = recover(&log, 0).unwrap_err();
    assert!(matches!(error, LogError::Damaged { .. }) && error.to_string().contains("rule E1"), "{error}");
    assert!(survey_of(&log).logs[0].findings.iter().any(|finding| finding.rule == "E1"));
}

#[test]
fn a_certificate_that_counts_otherwise_is_damage() {
    type Change = fn(&mut Certificate);
    let changes: [(&str, Change); 7] = [
        ("E2", |certificate| certificate.frames += 1),
        ("E2", |certificate| certificate.distinct_pages += 1),
        ("E2", |certificate| certificate.database_pages += 1),
        ("E2", |certificate| certificate.batches += 1),
        ("E2", |certificate| certificate.lane_frames[0] -= 1),
        ("E2", |certificate| certificate.lane_frames.push(0)),
        ("E3", |certificate| certificate.durable = 0),
    ];
    for (rule, change) in changes {
        let mut log = log(2);
        log.certify(1, 0);
        log.commits(2);
        let mut certificate = log.next_certificate(4, 2, 0);
        change(&mut certificate);
        log.put_certificate(&certificate);
        expect_contradicted(&log, rule);
    }
    // In a batch, as well.
    let mut log = log(1);
    let frames = [(2, 102), (3, 102)];
    log.commit(&Commit { frames: &frames, certificate: Some((0, 0)), miscounts: true, ..Commit::default() });
    expect_contradicted(&log, "E2");
}

#[track_caller]
fn expect_contradicted(log: &LogBuilder, rule: &str) {
    let error = recover(log, 0).unwrap_err();
    assert!(matches!(error, LogError::Damaged { .. }), "{error}");
    assert!(error.to_string().contains(&format!("rule {rule}")), "{error}");
    let survey = survey_of(log);
    let findings = &survey.logs[0].findings;
    assert!(findings.iter().any(|finding| finding.rule == rule), "{findings:?}");
    assert!(!is_sound(&survey));
}

/// A leader that moves B died before its cut; the next one seals the same epoch at another place and carries the B of the last
/// durable certificate. So do the epochs after it.
#[test]
fn b_of_a_dead_leaders_certificate_is_true_though_later_ones_say_less() {
    let mut log = log(2);
    log.certify(0, 0);
    log.commits(1);
    let dead = log.next_certificate(3, 2, 2);
    log.put_certificate(&dead);
    let place = log.next_certificate(3, 2, 0);
    let again = Certificate { ordinal: place.ordinal, offset: place.offset, backfilled: 0, ..dead };
    log.put_certificate(&again);
    log.commits(1);
    let last = Certificate { epoch: 3, ..log.next_certificate(4, 3, 0) };
    log.put_certificate(&last);
    expect(&log, 2, 4);
    let findings = &survey_of(&log).logs[0].findings;
    assert!(findings.iter().all(|finding| !finding.rule.starts_with('E')), "{findings:?}");
}

#[test]
fn a_certificate_that_is_missing_between_two_is_named_by_verify_and_needed_by_nobody() {
    let mut log = log(1);
    log.certify(0, 0);
    log.commits(1);
    let at = log.offset as usize;
    log.certify(1, 0);
    log.commits(1);
    log.certify(2, 0);
    assert!(is_sound(&survey_of(&log)));
    log.place_of_header()[at + 20] ^= 1;
    expect(&log, 0, 3);
    let survey = survey_of(&log);
    let rules: Vec<&str> = survey.logs[0].findings.iter().map(|finding| finding.rule).collect();
    assert_eq!(rules, ["E4"], "{:?}", survey.logs[0].findings);
}

fn survey_of(log: &LogBuilder) -> Survey {
    let files = Files::new(stamped(&[0; 3], log.page_bytes, ID, 0)).with(&log.files);
    survey(&*SimPlace::new(&files).directory(), &files.database).unwrap()
}

#[test]
fn a_broken_segment_header_is_reported() {
    // Commits 3 to 7 lie behind a header of which one bit rotted. Nothing calls them durable, and they are not passed over in
    // silence.
    let mut log = log(2);
    log.certify(0, 0);
    log.rotate(1);
    log.commits(5);
    log.files.get_mut(&segment_name(ID, 1)).unwrap()[40] ^= 1;
    let torn = expect(&log, 0, 2).torn_tail.unwrap();
    assert!(
        torn.file.ends_with(segment_name(ID, 1)) && torn.offset == 0 && torn.reason.contains("commit 3"),
        "{torn:?}"
    );
    // A segment that was given up begins with zeros.
    log.files.get_mut(&segment_name(ID, 1)).unwrap()[..4096].fill(0);
    assert_eq!(expect(&log, 0, 2).torn_tail, None);
}
