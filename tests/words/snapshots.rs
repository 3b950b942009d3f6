//! Snapshots against checkpoint targets.

use super::{ME, collide, commit, cut, seed};
use pwal::internal::shared::{Control, Owner, SNAPSHOT_SLOTS};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicBool, AtomicU64};

/// One of a reader that stores its snapshot and a checkpointer that announces sees the other.
#[test]
fn a_snapshot_and_a_target_do_not_pass_each_other() {
    let control = Control::anonymous().unwrap();
    let words = control.words();
    let slot = words.claim_snapshot_slot(ME).unwrap();
    let (taken, target) = (AtomicBool::new(false), AtomicU64::new(0));
    let make_visible = |sequence| {
        words.publish(&commit(sequence, true)).unwrap();
        for _ in 0..2 {
            words.store_cut(&cut(words, sequence)).unwrap();
            words.certify(words.cuts());
        }
        words.advance_visible();
    };
    make_visible(1);
    let mut both = [0u32; 2];
    collide(
        40_000,
        |round| taken.store(words.take_snapshot(slot, round - 1, 1), SeqCst),
        |_| target.store(words.choose_checkpoint_target(|_| true), SeqCst),
        |round| {
            let (taken, target) = (taken.load(SeqCst), target.load(SeqCst));
            assert!(!taken || target < round, "snapshot {} is registered, the target is {target}", round - 1);
            both[usize::from(taken)] += 1;
            words.end_snapshot(slot);
            words.set_backfilled(round);
            make_visible(round + 1);
            taken
        },
    );
    println!("{both:?} refused and taken");
}

#[test]
fn a_registered_snapshot_and_a_checkpoint_target_exclude_each_other() {
    const PASSES: u64 = 2000;
    let seed = seed();
    let control = Control::anonymous().unwrap();
    let words = control.words();
    let file = AtomicU64::new(0);
    let passes = AtomicU64::new(0);
    let refused = AtomicU64::new(0);
    let stop = AtomicBool::new(false);
    std::thread::scope(|threads| {
        let (file, passes, refused, stop) = (&file, &passes, &refused, &stop);
        let readers: Vec<_> = (0..3)
            .map(|thread| {
                threads.spawn(move || {
                    let mut random = StdRng::seed_from_u64(seed ^ thread);
                    let slot = words.claim_snapshot_slot(ME).unwrap();
                    while passes.load(SeqCst) < PASSES {
                        // Readers that never rest leave no gap for a target above their snapshots.
                        if random.random_bool(0.3) {
                            std::thread::yield_now();
                        }
                        let sequence = words.visible();
                        if !words.take_snapshot(slot, sequence, 1) {
                            refused.fetch_add(1, SeqCst);
                            continue;
                        }
                        for _ in 0..random.random_range(1..20) {
                            let now = file.load(SeqCst);
                            assert!(now <= sequence, "the database file is at {now}, a snapshot at {sequence}");
                        }
                        words.end_snapshot(slot);
                    }
                    words.free_snapshot_slot(slot);
                })
            })
            .collect();
        threads.spawn(move || {
            while !stop.load(SeqCst) {
                words.publish(&commit(words.published() + 1, true)).unwrap();
                // Two epochs: the second one's certificate says that the first is durable.
                words.store_cut(&cut(words, words.published())).unwrap();
                words.certify(words.cuts());
                words.store_cut(&cut(words, words.published())).unwrap();
                words.certify(words.cuts());
                words.advance_visible();
            }
        });
        threads.spawn(move || {
            while !stop.load(SeqCst) {
                assert!(words.checkpoint().try_acquire(ME, false));
                let target = words.choose_checkpoint_target(|_| true);
                assert!(target >= words.backfilled());
                if target > words.backfilled() {
                    file.store(target, SeqCst);
                    words.set_backfilled(target);
                    passes.fetch_add(1, SeqCst);
                }
                assert!(words.checkpoint().release(ME));
            }
        });
        let results: Vec<_> = readers.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
        stop.store(true, SeqCst);
        results.into_iter().for_each(|result| result.unwrap());
    });
    println!("{} passes, {} snapshots refused", passes.load(SeqCst), refused.load(SeqCst));
}

#[test]
fn snapshots_hold_the_target_and_those_of_the_dead_do_not() {
    let control = Control::anonymous().unwrap();
    let words = control.words();
    for sequence in 1..=9 {
        words.publish(&commit(sequence, true)).unwrap();
    }
    words.store_cut(&cut(words, 9)).unwrap();
    words.certify(1);
    words.advance_visible();
    assert_eq!(words.choose_checkpoint_target(|_| true), 0, "no durable certificate says yet that anything is durable");
    words.store_cut(&cut(words, 9)).unwrap();
    words.certify(2);
    let dead = Owner { slot: 3, incarnation: 8 };
    let (mine, theirs) = (words.claim_snapshot_slot(ME).unwrap(), words.claim_snapshot_slot(dead).unwrap());
    assert_ne!(mine, theirs);
    assert!(words.take_snapshot(mine, 7, 11));
    assert!(words.take_snapshot(theirs, 4, 12));
    assert_eq!(
        words.snapshots().map(|s| (s.owner, s.sequence, s.since_us)).collect::<Vec<_>>(),
        [(ME, 7, 11), (dead, 4, 12)]
    );
    assert_eq!(words.choose_checkpoint_target(|_| true), 4);
    assert_eq!(words.choose_checkpoint_target(|owner| owner != dead), 7);
    assert_eq!(words.snapshots().count(), 1);
    assert!(!words.take_snapshot(words.claim_snapshot_slot(ME).unwrap(), 6, 13), "below the announced target");
    assert!(words.take_snapshot(words.claim_snapshot_slot(ME).unwrap(), 7, 13));
    words.set_backfilled(7);
    words.set_recycled_below(8);
    assert!(words.take_snapshot(mine, 7, 14));
    // The same by what is written over, whatever a target says.
    words.set_recycled_below(9);
    assert!(!words.take_snapshot(mine, 7, 15), "its frames may be gone, and commit 8 is in the database file");
    assert!(words.take_snapshot(mine, 8, 15));
    words.end_snapshot(mine);
    assert_eq!(words.oldest_snapshot(|_| true), Some(7));
}

#[test]
fn every_snapshot_slot_is_given_once() {
    let control = Control::anonymous().unwrap();
    let words = control.words();
    let mut slots: Vec<_> = (0..SNAPSHOT_SLOTS).map(|_| words.claim_snapshot_slot(ME).unwrap()).collect();
    assert_eq!(words.claim_snapshot_slot(ME), None);
    assert!(words.take_snapshot(slots[2047], 5, 1));
    words.free_snapshot_slot(slots[2047]);
    assert_eq!(words.oldest_snapshot(|_| true), None);
    assert_eq!(words.claim_snapshot_slot(ME), Some(slots[2047]));
    slots.sort();
    slots.dedup();
    assert_eq!(slots.len(), SNAPSHOT_SLOTS);
}
