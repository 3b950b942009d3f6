//! Snapshots against checkpoint targets.

use super::{ME, collide, commit, cut, seed};
use pwal::internal::shared::{ControlMapping, Owner, SNAPSHOT_SLOTS};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicBool, AtomicU64};

/// One of a reader that stores its snapshot and a checkpointer that announces sees the other.
#[test]
fn a_snapshot_and_a_target_do_not_pass_each_other() {
    let mapping = ControlMapping::anonymous().unwrap();
    let control = mapping.control();
    let slot = control.snapshot_slots().claim(ME).unwrap();
    let (taken, target) = (AtomicBool::new(false), AtomicU64::new(0));
    let make_visible = |sequence| {
        control.publish(&commit(sequence, true)).unwrap();
        for _ in 0..2 {
            control.store_epoch(&cut(control, sequence)).unwrap();
            control.certify(control.last_written_epoch());
        }
        control.advance_visible();
    };
    make_visible(1);
    let mut both = [0u32; 2];
    collide(
        40_000,
        |round| taken.store(control.take_snapshot(slot, round - 1, 1), SeqCst),
        |_| target.store(control.choose_checkpoint_target(|_| true), SeqCst),
        |round| {
            let (taken, target) = (taken.load(SeqCst), target.load(SeqCst));
            assert!(!taken || target < round, "snapshot {} is registered, the target is {target}", round - 1);
            both[usize::from(taken)] += 1;
            control.snapshot_slots().end(slot);
            control.set_backfilled(round);
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
    let mapping = ControlMapping::anonymous().unwrap();
    let control = mapping.control();
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
                    let slot = control.snapshot_slots().claim(ME).unwrap();
                    while passes.load(SeqCst) < PASSES {
                        // Readers that never rest leave no gap for a target above their snapshots.
                        if random.random_bool(0.3) {
                            std::thread::yield_now();
                        }
                        let sequence = control.visible();
                        if !control.take_snapshot(slot, sequence, 1) {
                            refused.fetch_add(1, SeqCst);
                            continue;
                        }
                        for _ in 0..random.random_range(1..20) {
                            let now = file.load(SeqCst);
                            assert!(now <= sequence, "the database file is at {now}, a snapshot at {sequence}");
                        }
                        control.snapshot_slots().end(slot);
                    }
                    control.snapshot_slots().free(slot);
                })
            })
            .collect();
        threads.spawn(move || {
            while !stop.load(SeqCst) {
                control.publish(&commit(control.published() + 1, true)).unwrap();
                // Two epochs: the second one's certificate says that the first is durable.
                control.store_epoch(&cut(control, control.published())).unwrap();
                control.certify(control.last_written_epoch());
                control.store_epoch(&cut(control, control.published())).unwrap();
                control.certify(control.last_written_epoch());
                control.advance_visible();
            }
        });
        threads.spawn(move || {
            while !stop.load(SeqCst) {
                assert!(control.checkpoint().try_acquire(ME, false));
                let target = control.choose_checkpoint_target(|_| true);
                assert!(target >= control.backfilled());
                if target > control.backfilled() {
                    file.store(target, SeqCst);
                    control.set_backfilled(target);
                    passes.fetch_add(1, SeqCst);
                }
                assert!(control.checkpoint().release(ME));
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
    let mapping = ControlMapping::anonymous().unwrap();
    let control = mapping.control();
    for sequence in 1..=9 {
        control.publish(&commit(sequence, true)).unwrap();
    }
    control.store_epoch(&cut(control, 9)).unwrap();
    control.certify(1);
    control.advance_visible();
    assert_eq!(
        control.choose_checkpoint_target(|_| true),
        0,
        "no durable certificate says yet that anything is durable"
    );
    control.store_epoch(&cut(control, 9)).unwrap();
    control.certify(2);
    let dead = Owner { slot: 3, incarnation: 8 };
    let (mine, theirs) = (control.snapshot_slots().claim(ME).unwrap(), control.snapshot_slots().claim(dead).unwrap());
    assert_ne!(mine, theirs);
    assert!(control.take_snapshot(mine, 7, 11));
    assert!(control.take_snapshot(theirs, 4, 12));
    assert_eq!(
        control.snapshots().map(|s| (s.owner, s.sequence, s.since_us)).collect::<Vec<_>>(),
        [(ME, 7, 11), (dead, 4, 12)]
    );
    assert_eq!(control.choose_checkpoint_target(|_| true), 4);
    assert_eq!(control.choose_checkpoint_target(|owner| owner != dead), 7);
    assert_eq!(control.snapshots().count(), 1);
    assert!(!control.take_snapshot(control.snapshot_slots().claim(ME).unwrap(), 6, 13), "below the announced target");
    assert!(control.take_snapshot(control.snapshot_slots().claim(ME).unwrap(), 7, 13));
    control.set_backfilled(7);
    control.set_recycled_below(8);
    assert!(control.take_snapshot(mine, 7, 14));
    // The same by what is written over, whatever a target says.
    control.set_recycled_below(9);
    assert!(!control.take_snapshot(mine, 7, 15), "its frames may be gone, and commit 8 is in the database file");
    assert!(control.take_snapshot(mine, 8, 15));
    control.snapshot_slots().end(mine);
    assert_eq!(control.oldest_snapshot(|_| true), Some(7));
}

#[test]
fn every_snapshot_slot_is_given_once() {
    let mapping = ControlMapping::anonymous().unwrap();
    let control = mapping.control();
    let mut slots: Vec<_> = (0..SNAPSHOT_SLOTS).map(|_| control.snapshot_slots().claim(ME).unwrap()).collect();
    assert_eq!(control.snapshot_slots().claim(ME), None);
    assert!(control.take_snapshot(slots[2047], 5, 1));
    control.snapshot_slots().free(slots[2047]);
    assert_eq!(control.oldest_snapshot(|_| true), None);
    assert_eq!(control.snapshot_slots().claim(ME), Some(slots[2047]));
    slots.sort();
    slots.dedup();
    assert_eq!(slots.len(), SNAPSHOT_SLOTS);
}
