//! The control block: the rings; what is published, durable and visible.

mod control_file;
mod snapshots;

use pwal::internal::shared::{
    COMMIT_RING, CommitEntry, ControlBlock, ControlMapping, EPOCH_RING, EpochRecord, Identity, Owner, PAGES_INLINE,
    RecordAddress, SharedError, boot_id, now_us,
};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64};
use std::time::{Duration, Instant};

const ME: Owner = Owner { slot: 0, incarnation: 1 };
const BLOCK: u64 = 4096;

fn identity() -> Identity {
    Identity { boot_id: boot_id().unwrap(), log_id: 7, device: 1, inode: 2, block_bytes: BLOCK }
}

fn commit(sequence: u64, wants_durable: bool) -> CommitEntry {
    CommitEntry {
        sequence,
        wants_durable,
        ordinal: 1,
        segment: 0,
        offset: sequence * 2 * BLOCK,
        end: (sequence + 1) * 2 * BLOCK,
        frames: 1,
        database_pages: 9,
        has_certificate: false,
        has_spill: false,
        has_forms: false,
        chain: sequence,
        lane: 3,
        pages: [7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    }
}

fn cut(control: &ControlBlock, hi: u64) -> EpochRecord {
    EpochRecord {
        epoch: control.last_written_epoch() + 1,
        lo: control.durable() + 1,
        hi,
        ordinal: 1,
        segment: 0,
        offset: hi * 2 * BLOCK,
        is_doubled: false,
        doubled_ordinal: 1,
        backfilled: control.backfilled(),
        chain: hi,
    }
}

/// A seed from `SEED`, or a fixed one; printed, and so shown when the test fails.
fn seed() -> u64 {
    let seed = std::env::var("SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(20_240_607);
    println!("SEED={seed}");
    seed
}

#[test]
fn fresh_words_are_an_empty_log() {
    let mapping = ControlMapping::anonymous().unwrap();
    let control = mapping.control();
    assert_eq!(
        (control.published(), control.last_written_epoch(), control.last_certified_epoch(), control.durable()),
        (0, 0, 0, 0)
    );
    assert_eq!((control.visible(), control.advance_visible(), control.poisoned()), (0, 0, 0));
    assert_eq!(control.tail(), None);
    assert_eq!(control.commit(0), None);
    assert_eq!(control.commit(1), None);
    assert_eq!(control.epoch(0), None);
    assert_eq!(control.oldest_snapshot(|_| true), None);
    assert_eq!(control.holders(), [None; 4]);
    assert!(!control.ring_is_half_full());
}

#[test]
fn an_entry_comes_back_as_it_was_published() {
    let mapping = ControlMapping::anonymous().unwrap();
    let control = mapping.control();
    control.set_identity(&identity());
    let entry = CommitEntry {
        sequence: 1,
        wants_durable: true,
        ordinal: u64::MAX,
        segment: u32::MAX,
        offset: u64::MAX - 1,
        end: u64::MAX - 2,
        frames: u32::MAX - 3,
        database_pages: u32::MAX - 4,
        has_certificate: true,
        has_spill: false,
        has_forms: false,
        chain: u64::MAX - 5,
        lane: u16::MAX - 7,
        pages: std::array::from_fn(|at| u32::MAX - 8 - at as u32),
    };
    control.publish(&entry).unwrap();
    assert_eq!(control.commit(1), Some(entry));
    let other = CommitEntry { has_certificate: false, has_spill: true, has_forms: true, ..commit(2, false) };
    control.publish(&other).unwrap();
    assert_eq!(control.commit(2), Some(other));
    let cut = EpochRecord {
        epoch: 1,
        lo: 1,
        hi: 2,
        ordinal: u64::MAX,
        segment: u32::MAX,
        offset: u64::from(u32::MAX) * 512,
        is_doubled: true,
        doubled_ordinal: u64::MAX >> 1,
        backfilled: 4,
        chain: u64::MAX,
    };
    control.store_epoch(&cut).unwrap();
    assert_eq!(control.epoch(1), Some(cut));
    assert_eq!(control.durable(), 0, "a cut is not durable before it is certified");
    control.certify(1);
    assert_eq!(control.durable(), 2);
}

#[test]
fn the_pages_of_a_small_commit_are_in_its_entry() {
    let mapping = ControlMapping::anonymous().unwrap();
    let control = mapping.control();
    let pages: [u32; PAGES_INLINE] = std::array::from_fn(|at| 100 + at as u32);
    let all = CommitEntry { frames: PAGES_INLINE as u32, pages, ..commit(1, false) };
    assert_eq!(all.inline_pages(), Some(&pages[..]));
    assert_eq!(CommitEntry { has_spill: true, ..all }.inline_pages(), None);
    assert_eq!(CommitEntry { has_forms: true, ..all }.inline_pages(), None);
    assert_eq!(CommitEntry { frames: PAGES_INLINE as u32 + 1, ..all }.inline_pages(), None);
    for sequence in 1..=COMMIT_RING {
        control.publish(&CommitEntry { sequence, ..all }).unwrap();
        control.store_epoch(&cut(control, sequence)).unwrap();
        control.certify(sequence);
    }
    // In the same place of the ring as the first: nothing of that one is left.
    let mut pages = [0; PAGES_INLINE];
    pages[..3].copy_from_slice(&[7, 8, 9]);
    let small = CommitEntry { frames: 3, pages, ..commit(COMMIT_RING + 1, false) };
    control.publish(&small).unwrap();
    assert_eq!(control.commit(COMMIT_RING + 1), Some(small));
    assert_eq!(small.inline_pages(), Some(&[7, 8, 9][..]));
}

#[test]
fn what_does_not_fit_is_refused_and_changes_nothing() {
    let mapping = ControlMapping::anonymous().unwrap();
    let control = mapping.control();
    assert!(matches!(control.publish(&commit(0, true)), Err(SharedError::NotTheNextCommit { .. })));
    assert!(matches!(control.publish(&commit(2, true)), Err(SharedError::NotTheNextCommit { .. })));
    control.publish(&commit(1, true)).unwrap();
    assert!(matches!(control.publish(&commit(1, true)), Err(SharedError::NotTheNextCommit { .. })));
    let good = cut(control, 1);
    for bad in [good.offset + 1, 4096 << 32] {
        assert!(matches!(control.store_epoch(&EpochRecord { offset: bad, ..good }), Err(SharedError::TooLarge { .. })));
    }
    assert!(matches!(control.store_epoch(&EpochRecord { epoch: 2, ..good }), Err(SharedError::NotTheNextEpoch { .. })));
    assert_eq!((control.published(), control.last_written_epoch()), (1, 0));
    control.certify(5);
    assert_eq!(control.last_certified_epoch(), 0, "certified never passes the cuts");
}

#[test]
fn a_ring_never_loses_what_is_not_durable() {
    let mapping = ControlMapping::anonymous().unwrap();
    let control = mapping.control();
    let mut refused = 0;
    for sequence in 1..=3 * COMMIT_RING {
        assert_eq!(control.ring_is_half_full(), sequence - 1 - control.durable() >= COMMIT_RING / 2);
        if let Err(error) = control.publish(&commit(sequence, sequence.is_multiple_of(3))) {
            assert!(matches!(error, SharedError::RingFull { .. }), "{error}");
            refused += 1;
            control.store_epoch(&cut(control, sequence - 1)).unwrap();
            control.certify(control.last_written_epoch());
            control.publish(&commit(sequence, true)).unwrap();
        }
        assert_eq!(control.commit(control.durable() + 1).unwrap().sequence, control.durable() + 1);
    }
    assert_eq!(refused, 3);
    assert_eq!(control.commit(2 * COMMIT_RING), None, "the ring has moved on");
    let mapping = ControlMapping::anonymous().unwrap();
    let control = mapping.control();
    for _ in 1..EPOCH_RING {
        control.store_epoch(&cut(control, 0)).unwrap();
    }
    assert!(control.ring_is_half_full());
    assert!(matches!(control.store_epoch(&cut(control, 0)), Err(SharedError::RingFull { .. })));
    control.certify(control.last_written_epoch());
    control.store_epoch(&cut(control, 0)).unwrap();
}

#[test]
fn the_tail_is_behind_the_last_batch_and_the_last_cut() {
    let mapping = ControlMapping::anonymous().unwrap();
    let control = mapping.control();
    control.set_identity(&identity());
    let at = |ordinal, file, offset, end| CommitEntry {
        ordinal,
        segment: file,
        offset,
        end,
        ..commit(control.published() + 1, true)
    };
    control.publish(&at(1, 4, BLOCK, 3 * BLOCK)).unwrap();
    assert_eq!(control.tail(), Some(RecordAddress { ordinal: 1, offset: 3 * BLOCK, segment: 4 }));
    // A certificate in the header of that batch.
    control.store_epoch(&EpochRecord { segment: 4, offset: BLOCK, ..cut(control, 1) }).unwrap();
    assert_eq!(control.tail(), Some(RecordAddress { ordinal: 1, offset: 3 * BLOCK, segment: 4 }));
    // A certificate outside of a batch after it, then one in the next segment.
    control.store_epoch(&EpochRecord { segment: 4, offset: 3 * BLOCK, ..cut(control, 1) }).unwrap();
    assert_eq!(control.tail(), Some(RecordAddress { ordinal: 1, offset: 4 * BLOCK, segment: 4 }));
    control.store_epoch(&EpochRecord { ordinal: 2, segment: 2, offset: BLOCK, ..cut(control, 1) }).unwrap();
    assert_eq!(control.tail(), Some(RecordAddress { ordinal: 2, offset: 2 * BLOCK, segment: 2 }));
    control.publish(&at(2, 2, 2 * BLOCK, 5 * BLOCK)).unwrap();
    assert_eq!(control.tail(), Some(RecordAddress { ordinal: 2, offset: 5 * BLOCK, segment: 2 }));
    // A doubled one.
    control
        .store_epoch(&EpochRecord { ordinal: 2, segment: 2, offset: 5 * BLOCK, is_doubled: true, ..cut(control, 2) })
        .unwrap();
    assert_eq!(control.tail(), Some(RecordAddress { ordinal: 2, offset: 7 * BLOCK, segment: 2 }));
}

#[test]
fn the_tail_is_found_while_the_rings_turn_under_who_looks() {
    let mapping = ControlMapping::anonymous().unwrap();
    let control = mapping.control();
    control.set_identity(&identity());
    control.publish(&commit(1, false)).unwrap();
    let over = AtomicBool::new(false);
    std::thread::scope(|threads| {
        for _ in 0..8 {
            threads.spawn(|| {
                let mut last = 0;
                while !over.load(SeqCst) {
                    let found = control.last_commit().map_or(0, |entry| entry.sequence);
                    assert!(found >= last && found > 0, "commit {found} behind {last}");
                    last = found;
                    let tail = control.tail().map_or(0, |tail| tail.offset);
                    assert!(tail >= (found + 1) * 2 * BLOCK, "{tail} with {found} commits");
                }
            });
        }
        let until = Instant::now() + Duration::from_secs(1);
        while Instant::now() < until {
            for _ in 0..COMMIT_RING / 2 {
                control.publish(&commit(control.published() + 1, false)).unwrap();
            }
            control.store_epoch(&cut(control, control.published())).unwrap();
            control.certify(control.last_written_epoch());
        }
        over.store(true, SeqCst);
    });
}

#[test]
fn visible_is_what_the_rule_says_after_each_step() {
    let mut random = StdRng::seed_from_u64(seed());
    for _ in 0..60 {
        let mapping = ControlMapping::anonymous().unwrap();
        let control = mapping.control();
        let (full, cuts) = (random.random_range(0.0..1.0), random.random_range(0.001..0.5));
        let mut wants = vec![false];
        let mut poisoned_at = None;
        for _ in 0..random.random_range(1..1500) {
            if random.random_bool(cuts) {
                let hi = random.random_range(control.durable()..=control.published());
                control.store_epoch(&cut(control, hi)).unwrap();
                control.certify(control.last_written_epoch());
            } else {
                wants.push(random.random_bool(full));
                control.publish(&commit(control.published() + 1, *wants.last().unwrap())).unwrap();
            }
            if poisoned_at.is_none() && random.random_bool(0.0005) {
                assert!(control.poison());
                assert!(!control.poison());
                assert!(control.is_being_poisoned() && control.poison_outcome().is_none());
                control.set_poison_outcome(false);
                assert_eq!((control.is_being_poisoned(), control.poison_outcome()), (false, Some(false)));
                poisoned_at = Some(control.durable());
            }
            let durable = control.durable();
            let rule =
                (durable + 1..=control.published()).find(|n| wants[*n as usize]).unwrap_or(control.published() + 1) - 1;
            let expected = if poisoned_at.is_some() { durable } else { rule };
            assert_eq!(control.advance_visible(), expected);
            assert_eq!(control.visible(), expected);
        }
    }
}

/// Writers publish under APPEND, one leader at a time certifies some time after it said so, readers look.
#[test]
#[expect(clippy::too_many_lines, reason = "a scene, from top to bottom")]
fn visible_only_grows_and_never_shows_an_undurable_commit_that_wants_durability() {
    const COMMITS: u64 = 60_000;
    let seed = seed();
    let mapping = ControlMapping::anonymous().unwrap();
    let control = mapping.control();
    // What is certified next: stored before `certify`, so never below durable.
    let announced = AtomicU64::new(0);
    let stop = AtomicBool::new(false);
    let ahead = AtomicU64::new(0);
    std::thread::scope(|threads| {
        let (announced, stop, ahead) = (&announced, &stop, &ahead);
        let lead = move || {
            if !control.leader().try_acquire(ME, false) {
                return;
            }
            let hi = control.published();
            if hi > control.durable() {
                control.append().acquire(ME, |_| true, || Ok::<(), ()>(())).unwrap();
                control.store_epoch(&cut(control, hi)).unwrap();
                assert!(control.append().release(ME));
                let begin = now_us();
                while now_us() - begin < 30 {
                    std::hint::spin_loop();
                }
                announced.fetch_max(hi, SeqCst);
                control.certify(control.last_written_epoch());
                control.advance_visible();
                control.flush_events().of(control.last_certified_epoch()).notify();
            }
            assert!(control.leader().release(ME));
        };
        let writers: Vec<_> = (0..3u64)
            .map(|thread| {
                threads.spawn(move || {
                    let mut random = StdRng::seed_from_u64(seed ^ thread);
                    loop {
                        while control.ring_is_half_full() {
                            lead();
                        }
                        let full = random.random_bool(0.1);
                        control.append().acquire(ME, |_| true, || Ok::<(), ()>(())).unwrap();
                        let sequence = control.published() + 1;
                        if sequence <= COMMITS {
                            control.publish(&commit(sequence, full)).unwrap();
                        }
                        assert!(control.append().release(ME));
                        if sequence > COMMITS {
                            return;
                        }
                        control.advance_visible();
                        if full && thread == 0 {
                            lead();
                        } else if full {
                            loop {
                                let last = control.last_epoch();
                                let is_in_last = last.is_some_and(|last| last.hi >= sequence);
                                let epoch = last.map_or(0, |last| last.epoch) + u64::from(!is_in_last);
                                let event = control.flush_events().of(epoch);
                                let ticket = event.ticket();
                                if control.durable() >= sequence {
                                    break;
                                }
                                lead();
                                if event.wait(ticket, Duration::from_millis(1)) {
                                    event.pass_on();
                                }
                            }
                            assert!(control.advance_visible() >= sequence, "durable, so visible");
                        }
                    }
                })
            })
            .collect();
        for _ in 0..2 {
            threads.spawn(move || {
                let mut last = 0;
                while !stop.load(SeqCst) {
                    let visible = control.visible();
                    assert!(visible >= last, "visible went back from {last} to {visible}");
                    last = visible;
                    let safe = announced.load(SeqCst);
                    for sequence in safe + 1..=visible {
                        ahead.fetch_add(1, SeqCst);
                        if let Some(entry) = control.commit(sequence) {
                            assert!(!entry.wants_durable, "commit {sequence} is visible, durable is at most {safe}");
                        }
                    }
                }
            });
        }
        let results: Vec<_> = writers.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
        stop.store(true, SeqCst);
        results.into_iter().for_each(|result| result.unwrap());
    });
    assert_eq!(control.published(), COMMITS);
    let syncs_pending = (control.durable() + 1..=COMMITS).find(|n| control.commit(*n).unwrap().wants_durable);
    assert_eq!(control.visible(), syncs_pending.map_or(COMMITS, |n| n - 1), "nobody is left to move visible");
    assert!(ahead.load(SeqCst) > 0, "visible was never ahead of durable: the test has not tested");
}

/// Runs `one` and `other` at the same moment, `rounds` times (fewer if that takes 5 s), and `check` after each; it tells whether
/// `one` came first, so that the next round can start them closer together.
fn collide(rounds: u64, one: impl Fn(u64) + Sync, other: impl Fn(u64), mut check: impl FnMut(u64) -> bool) {
    let wait = |turns: i64| (0..turns).for_each(|turn| _ = std::hint::black_box(turn));
    /// Lets the other thread go when this one panics.
    struct Let<'a>(&'a AtomicU64);
    impl Drop for Let<'_> {
        fn drop(&mut self) {
            self.0.store(u64::MAX, SeqCst);
        }
    }
    // Gives the core away if the other thread has none.
    let until = |word: &AtomicU64, n| {
        let mut turns = 0u32;
        while word.load(SeqCst) < n {
            turns += 1;
            if turns < 2000 { std::hint::spin_loop() } else { std::thread::yield_now() }
        }
    };
    let (round, done, lead) = (AtomicU64::new(0), AtomicU64::new(0), AtomicI64::new(0));
    std::thread::scope(|threads| {
        threads.spawn(|| {
            let _go = Let(&done);
            for n in 1..=rounds {
                until(&round, n);
                if round.load(SeqCst) == u64::MAX {
                    return;
                }
                wait(lead.load(SeqCst));
                one(n);
                done.store(n, SeqCst);
            }
        });
        let _go = Let(&round);
        let begin = Instant::now();
        // On a machine that is busy otherwise the two hardly ever run at the same time.
        for n in (1..=rounds).take_while(|_| begin.elapsed() < Duration::from_secs(5)) {
            round.store(n, SeqCst);
            wait(-lead.load(SeqCst));
            other(n);
            until(&done, n);
            lead.fetch_add(if check(n) { 1 } else { -1 }, SeqCst);
        }
    });
}

/// Whoever of `publish` and `certify` comes last moves visible for both, however they interleave.
#[test]
fn the_last_of_publish_and_certify_moves_visible() {
    let mapping = ControlMapping::anonymous().unwrap();
    let control = mapping.control();
    control.publish(&commit(1, true)).unwrap();
    control.store_epoch(&cut(control, 1)).unwrap();
    collide(
        20_000,
        |round| {
            control.publish(&commit(2 * round, false)).unwrap();
            control.advance_visible();
        },
        |round| {
            control.certify(round);
            control.advance_visible();
        },
        |round| {
            assert_eq!(control.visible(), 2 * round, "nobody is left to move visible");
            control.publish(&commit(2 * round + 1, true)).unwrap();
            control.store_epoch(&cut(control, 2 * round + 1)).unwrap();
            round.is_multiple_of(512) ^ (round / 512).is_multiple_of(2)
        },
    );
}
