//! Where the walk begins, if more than one batch of commit B + 1 is there (rule W1).

use super::{ID, expect_from, log};
use pwal::internal::log::format::segment_name;
use support::log::Commit;

/// A writer that died before it published had begun the next segment, in a file that is found earlier. What was published in the
/// segment before it is not sealed yet.
#[test]
fn of_two_beginnings_that_nothing_seals_the_one_in_the_earlier_segment_counts() {
    let mut log = log(1);
    log.rotate(1);
    log.commits(1);
    log.certify(2, 2);
    let mut dead = log.clone();
    dead.rotate(0);
    dead.commit(&Commit { frames: &[(1, 7), (2, 7), (3, 7)], ..Commit::default() });
    let begun = segment_name(ID, 0);
    log.files.insert(begun.clone(), dead.files[&begun].clone());
    log.commits(1);
    expect_from(&log, 2, 3);
}

/// What a writer left that died before it published lies at the end of its segment: the zeros over it were lost, and the log goes on in
/// the next one.
#[test]
fn of_several_beginnings_the_longest_chain_counts() {
    let mut log = log(2);
    log.certify(2, 2);
    let clean = log.clone();
    log.commit(&Commit { frames: &[(1, 7), (2, 7), (3, 7)], ..Commit::default() });
    let mut goes_on = clean;
    goes_on.files = log.files;
    goes_on.rotate(1);
    goes_on.commits(2);
    expect_from(&goes_on, 2, 4);
}
