//! How a segment gets its space: by writing zeros, or without.

use super::{Pair, commit, die};
use crate::engine::Engine;
use crate::engine::segments::{RECENT_COMMITS, UNDURABLE_SEGMENTS};
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

/// How many segments were allocated while the log went on for `segments`, with one commit in `every` that wants durability, and
/// whether all are made durable at once.
fn allocated(pair: &Pair, engine: &Arc<Engine>, segments: u64, (every, at_once): (u64, bool)) -> u64 {
    let before = pair.allocations.load(SeqCst);
    let end = engine.log.tail().ordinal + segments;
    while engine.log.tail().ordinal < end {
        let next = engine.log.marks.published() + 1;
        commit(engine, 1, next, next.is_multiple_of(every)).unwrap();
        if at_once {
            engine.durability.wait_durable(next).unwrap();
        }
    }
    pair.allocations.load(SeqCst) - before
}

#[test]
fn zeros_are_written_where_commits_wait_for_their_syncs() {
    let pair = Pair::new();
    let one = pair.claim();
    assert_eq!(allocated(&pair, &one, 4, (1, false)), 0);
    assert_eq!(allocated(&pair, &one, 4, (7, false)), 0);
    // The log began with those that did: its first hundred commits that do not end that.
    let seldom = allocated(&pair, &one, 2 * RECENT_COMMITS, (10 * RECENT_COMMITS, true));
    assert!((100..200).contains(&seldom), "{seldom} of 200");
    assert!(allocated(&pair, &one, 20, (1, false)) <= 1);
    let last = one.log.marks.published();
    die(one);
    pair.lose_power();
    assert_eq!(pair.recovered()[0], last);
}

#[test]
fn zeros_are_written_where_the_disk_does_not_keep_up() {
    let pair = Pair::new();
    let one = pair.claim();
    assert_eq!(allocated(&pair, &one, 10, (u64::MAX, false)), UNDURABLE_SEGMENTS);
    one.durability.wait_durable(one.log.marks.published()).unwrap();
    assert!(allocated(&pair, &one, 10, (u64::MAX, true)) > 5);
}

/// Its zeros would be as many bytes as it has itself.
#[test]
fn a_batch_that_needs_most_of_a_segment_gets_one_without_zeros() {
    let pair = Pair::new();
    let one = pair.claim();
    commit(&one, 3, 1, true).unwrap();
    let mut large = 0;
    for value in 2..12 {
        let before = pair.allocations.load(SeqCst);
        commit(&one, 30, value, true).unwrap();
        large += pair.allocations.load(SeqCst) - before;
    }
    assert!(large >= 2, "{large}");
    die(one);
    pair.lose_power();
    assert_eq!(pair.recovered(), [11; 3]);
}

/// What is not durable in such a segment reads as zeros after a power cut, also where the file system knows nothing of it.
#[test]
fn a_lost_commit_in_an_allocated_segment_is_a_torn_tail() {
    let pair = Pair::new();
    let one = pair.claim();
    assert!(allocated(&pair, &one, 3, (u64::MAX, true)) > 0);
    let durable = one.log.marks.published();
    one.durability.wait_durable(durable).unwrap();
    commit(&one, 1, durable + 1, false).unwrap();
    die(one);
    pair.lose_power();
    let recovered = pair.recovered();
    assert!([durable, durable + 1].contains(&recovered[0]), "{recovered:?}");
}
