//! Media errors that stay: what nobody needs costs nothing, what may be a commit is never passed over in silence, and what can
//! be read can be saved.

use pwal::internal::log::format::segment_name;
use pwal::internal::log::recovery::{Done, Next, OpenFacts, Recovered, open_database};
use pwal::internal::log::salvage::{Salvage, discard_log, plan, plan_discard, salvage};
use pwal::internal::log::scan::survey;
use pwal::internal::log::{ErrorKind, LogError};
use std::ops::Range;
use std::sync::atomic::Ordering::SeqCst;
use support::log::media::Medium;
use support::log::{Commit, Files, LogBuilder, Place, RealPlace, SimPlace, database_of, stamped};

const ID: u64 = 0xfeed;
const BLOCK: u64 = 4096;

/// Commits 1 to 3 in segment 0 and 4 to 6 in segment 1 are in the database file; 7 and 8 in segment 2 are not.
fn sample() -> (LogBuilder, Files) {
    let mut log = LogBuilder::new(ID, 1024);
    log.commits(3);
    log.certify(3, 0);
    log.rotate(1);
    log.commits(3);
    log.certify(6, 6);
    log.rotate(2);
    log.certify(6, 6);
    log.commits(2);
    let files = Files::new(stamped(&LogBuilder::values_after(6), 1024, ID, 6)).with(&log.files);
    (log, files)
}

fn recover(place: &dyn Place, bad: &[(String, Range<u64>)]) -> Result<Recovered, LogError> {
    let medium = Medium::new(bad.to_vec());
    let opened = open_database(&medium.under(place.directory()), &mut *place.database(), OpenFacts::default())?;
    assert_eq!(opened.next, Next::Ready);
    match opened.done.into_iter().next() {
        Some(Done::Recovered(recovered)) => Ok(recovered),
        other => panic!("{other:?}"),
    }
}

#[test]
fn each_block_that_cannot_be_read() {
    let (mut log, files) = sample();
    let (end, tail) = (log.offset.div_ceil(BLOCK), log.segment_name());
    let first = log.place(7).1 as u64 / BLOCK;
    for (name, bytes) in &files.directory.clone().unwrap() {
        for block in 0..bytes.len() as u64 / BLOCK {
            let bad = [(name.clone(), block * BLOCK..(block + 1) * BLOCK)];
            let place = SimPlace::new(&files);
            // The header, the commits that are not in the database file, and where the next one would be.
            let is_needed = *name == tail && (block == 0 || (first..end + 3).contains(&block));
            match recover(&place, &bad) {
                Ok(recovered) => {
                    assert!(!is_needed, "{name} block {block}");
                    assert_eq!((recovered.backfilled, recovered.last), (6, 8), "{name} block {block}");
                    assert!(
                        recovered.unreadable[0].file.ends_with(name) && recovered.unreadable[0].offset == block * BLOCK
                    );
                    assert!(place.files().database == database_of(&LogBuilder::values_after(8), 1024));
                }
                Err(error) => {
                    assert!(is_needed, "{name} block {block}: {error}");
                    assert!(matches!(error, LogError::Unreadable { .. }), "{error}");
                    assert_eq!(error.kind(), ErrorKind::Io);
                    assert!(error.to_string().contains(name.as_str()), "{error}");
                    assert!(place.files() == files, "the refusal touched something");
                    expect_saved(&place, &files, &bad);
                }
            }
        }
    }
}

/// Salvage goes on where the open refuses; a state of the history comes of it.
fn expect_saved(place: &SimPlace, files: &Files, bad: &[(String, Range<u64>)]) {
    let medium = Medium::new(bad.to_vec());
    let directory = medium.under(place.directory());
    let Salvage::Possible(planned) = plan(&directory, &mut *place.database()).unwrap() else {
        panic!("nothing can be saved: {bad:?}")
    };
    let discarded = plan_discard(&directory, &mut *place.database()).unwrap();
    assert!(!discarded.unreadable.is_empty());
    assert!(place.files() == *files, "a plan touched something");
    let saved = salvage(&directory, &mut *place.database()).unwrap().unwrap();
    assert_eq!(saved.plan, planned);
    assert!(planned.unreadable[0].file.ends_with(&bad[0].0));
    assert!((6..=8).contains(&planned.last), "{planned:?}");
    assert!(place.files().database == database_of(&LogBuilder::values_after(planned.last), 1024), "{planned:?}");
}

#[test]
fn what_cannot_be_read_may_be_what_says_that_a_torn_commit_was_durable() {
    let (mut log, _) = sample();
    log.commits(1);
    let behind = log.offset;
    log.certify(8, 6);
    log.commits(1);
    let (bytes, at) = log.place(9);
    bytes[at + 1000] ^= 1;
    let files = Files::new(stamped(&LogBuilder::values_after(6), 1024, ID, 6)).with(&log.files);
    // Commit 9 is torn, and nothing calls it durable: that is cut.
    let place = SimPlace::new(&files);
    assert!(recover(&place, &[]).unwrap().torn_tail.is_some());
    // Nor does a bad block of an older segment.
    let old = [(segment_name(ID, 0), 2 * BLOCK..3 * BLOCK)];
    assert_eq!(recover(&SimPlace::new(&files), &old).unwrap().last, 8);
    // One behind it might.
    let bad = [(segment_name(ID, 2), behind..behind + BLOCK)];
    let error = recover(&SimPlace::new(&files), &bad).unwrap_err();
    assert!(matches!(error, LogError::Unreadable { last: 8, .. }), "{error}");
}

/// Farther behind the end of the chain than the next commit may lie (rule U4).
#[test]
fn also_where_no_commit_is_looked_for() {
    let (mut log, _) = sample();
    log.commits(8);
    let behind = log.offset;
    log.certify(8, 6);
    let (bytes, at) = log.place(9);
    bytes[at + 1000] ^= 1;
    let files = Files::new(stamped(&LogBuilder::values_after(6), 1024, ID, 6)).with(&log.files);
    assert_eq!(recover(&SimPlace::new(&files), &[]).unwrap().last, 8);
    let error = recover(&SimPlace::new(&files), &[(segment_name(ID, 2), behind..behind + BLOCK)]).unwrap_err();
    assert!(matches!(error, LogError::Unreadable { last: 8, .. }), "{error}");
}

/// A segment file whose header is not given may be the segment in which the chain goes on (rule U3): nothing else speaks of its commits.
#[test]
fn a_header_that_cannot_be_read_may_be_that_of_the_next_segment() {
    let mut log = LogBuilder::new(ID, 1024);
    log.commits(2);
    log.certify(2, 0);
    log.rotate(1);
    log.commits(2);
    let files = Files::new(stamped(&[0; 3], 1024, ID, 0)).with(&log.files);
    let place = SimPlace::new(&files);
    let error = recover(&place, &[(segment_name(ID, 1), 0..BLOCK)]).unwrap_err();
    assert!(matches!(error, LogError::Unreadable { last: 2, .. }), "{error}");
    assert!(place.files() == files, "the refusal touched something");
}

#[test]
fn a_batch_in_the_next_segment_does_not_stand_in_for_one_that_cannot_be_read() {
    // A writer whose batch did not fit began segment 1 with commit 3 and died; another commit 3 was published in segment 0.
    let mut log = LogBuilder::new(ID, 1024);
    log.commits(2);
    let mut dead = log.clone();
    dead.rotate(1);
    dead.commit(&Commit { frames: &[(1, 7), (2, 7), (3, 7)], ..Commit::default() });
    let begun = segment_name(ID, 1);
    log.files.insert(begun.clone(), dead.files[&begun].clone());
    log.commits(1);
    let at = log.place(3).1 as u64;
    let files = Files::new(stamped(&[0; 3], 1024, ID, 0)).with(&log.files);
    let bad = [(segment_name(ID, 0), at..at + BLOCK)];
    let error = recover(&SimPlace::new(&files), &bad).unwrap_err();
    assert!(matches!(error, LogError::Unreadable { last: 3, .. }), "{error}");
}

#[test]
fn a_spill_file_that_cannot_be_read_is_not_a_torn_tail() {
    let mut log = LogBuilder::new(ID, 1024);
    log.commits(1);
    log.commit(&Commit { frames: &[(1, 5), (2, 6), (3, 7)], spill_from: 1, ..Commit::default() });
    let files = Files::new(stamped(&[0; 3], 1024, ID, 0)).with(&log.files);
    let spill = log.files.keys().find(|name| name.ends_with(".spill")).unwrap().clone();
    let place = SimPlace::new(&files);
    let error = recover(&place, &[(spill.clone(), 0..512)]).unwrap_err();
    assert!(matches!(&error, LogError::Unreadable { file, .. } if file.ends_with(&spill)), "{error}");
    assert!(place.files() == files);
}

#[test]
fn a_medium_that_gives_nothing_is_refused_and_named_by_discard() {
    let (_, files) = sample();
    let bad: Vec<_> = files.directory.clone().unwrap().into_keys().map(|name| (name, 0..u64::MAX)).collect();
    let place = RealPlace::new(&files);
    assert_eq!(recover(&place, &bad).unwrap_err().kind(), ErrorKind::Io);
    assert!(place.files() == files);
    let medium = Medium::new(bad);
    let directory = medium.under(place.directory());
    let discarded = discard_log(&directory, &mut *place.database()).unwrap();
    assert_eq!((discarded.given_up, discarded.unreadable.len()), (vec![], 3));
    assert!(place.files().database == database_of(&LogBuilder::values_after(6), 1024));
}

#[test]
fn a_survey_says_what_cannot_be_read() {
    let (_, files) = sample();
    let place = SimPlace::new(&files);
    let medium = Medium::new(vec![(segment_name(ID, 0), 2 * BLOCK..4 * BLOCK)]);
    let survey = survey(&medium.under(place.directory()), &files.database).unwrap();
    let unreadable = &survey.logs[0].unreadable;
    assert_eq!((unreadable.len(), unreadable[0].offset, unreadable[0].bytes), (1, 2 * BLOCK, 2 * BLOCK));
    assert!(survey.logs[0].findings.is_empty() && survey.logs[0].last == 8);
}

/// 20 segments of 40 commits each.
fn large() -> LogBuilder {
    let mut log = LogBuilder::new(ID, 1024);
    log.commits(40);
    for segment in 1..20 {
        log.rotate(segment);
        log.commits(40);
    }
    log
}

/// 8 segments of 4 MiB; each of the commits has 40 pages that no other has.
fn of_many_pages() -> (LogBuilder, Vec<u64>) {
    let mut log = LogBuilder::with_blocks(ID, 1024, 4096, 1024);
    let mut values = Vec::new();
    for segment in 0..8 {
        if segment > 0 {
            log.rotate(segment);
        }
        while log.offset + 48 * 1024 < log.segment_bytes {
            let first = values.len() as u32 + 1;
            let frames: Vec<(u32, u64)> = (first..first + 40).map(|page| (page, u64::from(page % 200) + 1)).collect();
            values.extend(frames.iter().map(|(_, value)| value));
            log.commit(&Commit { frames: &frames, database_pages: first + 39, ..Commit::default() });
        }
    }
    (log, values)
}

#[test]
fn the_log_is_read_once_and_what_goes_to_the_database_file_once_more() {
    let mut idle = large();
    let base = idle.sequence;
    idle.rotate(20);
    idle.certify(base, base);
    idle.commits(10);
    let (many, of_many) = of_many_pages();
    let all_of = |log: LogBuilder| {
        let values = LogBuilder::values_after(log.sequence);
        (log, values)
    };
    let cases = [(all_of(idle), base, 110), (all_of(large()), 0, 110), ((many, of_many), 0, 210)];
    for ((log, values), target, at_most) in cases {
        let all: u64 = log.files.values().map(|bytes| bytes.len() as u64).sum();
        let files = Files::new(stamped(&LogBuilder::values_after(target), 1024, ID, target)).with(&log.files);
        let place = SimPlace::new(&files);
        let medium = Medium::new(vec![]);
        open_database(&medium.under(place.directory()), &mut *place.database(), OpenFacts::default()).unwrap();
        assert!(place.files().database == database_of(&values, 1024));
        let percent = medium.read.load(SeqCst) * 100 / all;
        println!("commits from {target} on: {percent}% of the bytes of the log are read");
        assert!((100..=at_most).contains(&percent), "{percent}%");
        // Also the file that is being opened.
        assert!(medium.most_open.load(SeqCst) <= 17);
    }
}
