//! The shared words: the rings; what is published, durable and visible.

#[path = "words/control.rs"]
mod control_file;
#[path = "words/snapshots.rs"]
mod snapshots;

use pwal::internal::shared::{
    COMMIT_RING, CUT_RING, CommitEntry, Control, Cut, Identity, Owner, PAGES_INLINE, SharedError, Tail, Words, boot_id,
    now_us,
};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64};
use std::time::{Duration, Instant};

const ME: Owner = Owner { slot: 0, incarnation: 1 };
const BLOCK: u64 = 4096;

fn identity() -> Identity {
    Identity { boot_id: boot_id().unwrap(), log_id: 7, device: 1, inode: 2, generation: 1, block_bytes: BLOCK }
}

fn commit(sequence: u64, wants_durable: bool) -> CommitEntry {
    CommitEntry {
        sequence,
        wants_durable,
        ordinal: 1,
        file: 0,
        offset: sequence * 2 * BLOCK,
        end: (sequence + 1) * 2 * BLOCK,
        frames: 1,
        database_pages: 9,
        has_certificate: false,
        has_spill: false,
        has_masks: false,
        writer: 0,
        chain: sequence,
        crc: 5,
        lane: 3,
        pages: [7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    }
}

fn cut(words: &Words, hi: u64) -> Cut {
    Cut {
        epoch: words.cuts() + 1,
        lo: words.durable() + 1,
        hi,
        ordinal: 1,
        file: 0,
        offset: hi * 2 * BLOCK,
        is_doubled: false,
        doubled_ordinal: 1,
        backfilled: words.backfilled(),
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
    let control = Control::anonymous().unwrap();
    let words = control.words();
    assert_eq!((words.published(), words.cuts(), words.certified(), words.durable()), (0, 0, 0, 0));
    assert_eq!((words.visible(), words.advance_visible(), words.poisoned()), (0, 0, 0));
    assert_eq!(words.tail(), None);
    assert_eq!(words.commit(0), None);
    assert_eq!(words.commit(1), None);
    assert_eq!(words.cut(0), None);
    assert_eq!(words.oldest_snapshot(|_| true), None);
    assert_eq!(words.holders(), [None; 5]);
    assert!(!words.ring_is_half_full());
}

#[test]
fn an_entry_comes_back_as_it_was_published() {
    let control = Control::anonymous().unwrap();
    let words = control.words();
    words.set_identity(&identity());
    let entry = CommitEntry {
        sequence: 1,
        wants_durable: true,
        ordinal: u64::MAX,
        file: u32::MAX,
        offset: u64::MAX - 1,
        end: u64::MAX - 2,
        frames: u32::MAX - 3,
        database_pages: u32::MAX - 4,
        has_certificate: true,
        has_spill: false,
        has_masks: false,
        writer: 127,
        chain: u64::MAX - 5,
        crc: u32::MAX - 6,
        lane: u16::MAX - 7,
        pages: std::array::from_fn(|at| u32::MAX - 8 - at as u32),
    };
    words.publish(&entry).unwrap();
    assert_eq!(words.commit(1), Some(entry));
    let other = CommitEntry { has_certificate: false, has_spill: true, has_masks: true, writer: 0, ..commit(2, false) };
    words.publish(&other).unwrap();
    assert_eq!(words.commit(2), Some(other));
    let cut = Cut {
        epoch: 1,
        lo: 1,
        hi: 2,
        ordinal: u64::MAX,
        file: u32::MAX,
        offset: u64::from(u32::MAX) * 4096,
        is_doubled: true,
        doubled_ordinal: u64::MAX >> 1,
        backfilled: 4,
        chain: u64::MAX,
    };
    words.store_cut(&cut).unwrap();
    assert_eq!(words.cut(1), Some(cut));
    assert_eq!(words.durable(), 0, "a cut is not durable before it is certified");
    words.certify(1);
    assert_eq!(words.durable(), 2);
}

#[test]
fn the_pages_of_a_small_commit_are_in_its_entry() {
    let control = Control::anonymous().unwrap();
    let words = control.words();
    let pages: [u32; PAGES_INLINE] = std::array::from_fn(|at| 100 + at as u32);
    let all = CommitEntry { frames: PAGES_INLINE as u32, pages, ..commit(1, false) };
    assert_eq!(all.inline_pages(), Some(&pages[..]));
    assert_eq!(CommitEntry { has_spill: true, ..all }.inline_pages(), None);
    assert_eq!(CommitEntry { has_masks: true, ..all }.inline_pages(), None);
    assert_eq!(CommitEntry { frames: PAGES_INLINE as u32 + 1, ..all }.inline_pages(), None);
    for sequence in 1..=COMMIT_RING {
        words.publish(&CommitEntry { sequence, ..all }).unwrap();
        words.store_cut(&cut(words, sequence)).unwrap();
        words.certify(sequence);
    }
    // In the same place of the ring as the first: nothing of that one is left.
    let mut pages = [0; PAGES_INLINE];
    pages[..3].copy_from_slice(&[7, 8, 9]);
    let small = CommitEntry { frames: 3, pages, ..commit(COMMIT_RING + 1, false) };
    words.publish(&small).unwrap();
    assert_eq!(words.commit(COMMIT_RING + 1), Some(small));
    assert_eq!(small.inline_pages(), Some(&[7, 8, 9][..]));
}

#[test]
fn what_does_not_fit_is_refused_and_changes_nothing() {
    let control = Control::anonymous().unwrap();
    let words = control.words();
    assert!(matches!(words.publish(&commit(0, true)), Err(SharedError::NotTheNextCommit { .. })));
    assert!(matches!(words.publish(&commit(2, true)), Err(SharedError::NotTheNextCommit { .. })));
    words.publish(&commit(1, true)).unwrap();
    assert!(matches!(words.publish(&commit(1, true)), Err(SharedError::NotTheNextCommit { .. })));
    let good = cut(words, 1);
    for bad in [good.offset + 1, 4096 << 32] {
        assert!(matches!(words.store_cut(&Cut { offset: bad, ..good }), Err(SharedError::TooLarge { .. })));
    }
    assert!(matches!(words.store_cut(&Cut { epoch: 2, ..good }), Err(SharedError::NotTheNextEpoch { .. })));
    assert_eq!((words.published(), words.cuts()), (1, 0));
    words.certify(5);
    assert_eq!(words.certified(), 0, "certified never passes the cuts");
}

#[test]
fn a_ring_never_loses_what_is_not_durable() {
    let control = Control::anonymous().unwrap();
    let words = control.words();
    let mut refused = 0;
    for sequence in 1..=3 * COMMIT_RING {
        assert_eq!(words.ring_is_half_full(), sequence - 1 - words.durable() >= COMMIT_RING / 2);
        if let Err(error) = words.publish(&commit(sequence, sequence.is_multiple_of(3))) {
            assert!(matches!(error, SharedError::RingFull { .. }), "{error}");
            refused += 1;
            words.store_cut(&cut(words, sequence - 1)).unwrap();
            words.certify(words.cuts());
            words.publish(&commit(sequence, true)).unwrap();
        }
        assert_eq!(words.commit(words.durable() + 1).unwrap().sequence, words.durable() + 1);
    }
    assert_eq!(refused, 3);
    assert_eq!(words.commit(2 * COMMIT_RING), None, "the ring has moved on");
    let control = Control::anonymous().unwrap();
    let words = control.words();
    for _ in 1..CUT_RING {
        words.store_cut(&cut(words, 0)).unwrap();
    }
    assert!(words.ring_is_half_full());
    assert!(matches!(words.store_cut(&cut(words, 0)), Err(SharedError::RingFull { .. })));
    words.certify(words.cuts());
    words.store_cut(&cut(words, 0)).unwrap();
}

#[test]
fn the_tail_is_behind_the_last_batch_and_the_last_cut() {
    let control = Control::anonymous().unwrap();
    let words = control.words();
    words.set_identity(&identity());
    let at =
        |ordinal, file, offset, end| CommitEntry { ordinal, file, offset, end, ..commit(words.published() + 1, true) };
    words.publish(&at(1, 4, BLOCK, 3 * BLOCK)).unwrap();
    assert_eq!(words.tail(), Some(Tail { ordinal: 1, offset: 3 * BLOCK, file: 4 }));
    // A certificate in the header of that batch.
    words.store_cut(&Cut { file: 4, offset: BLOCK, ..cut(words, 1) }).unwrap();
    assert_eq!(words.tail(), Some(Tail { ordinal: 1, offset: 3 * BLOCK, file: 4 }));
    // A block of its own behind it, then one in the next segment.
    words.store_cut(&Cut { file: 4, offset: 3 * BLOCK, ..cut(words, 1) }).unwrap();
    assert_eq!(words.tail(), Some(Tail { ordinal: 1, offset: 4 * BLOCK, file: 4 }));
    words.store_cut(&Cut { ordinal: 2, file: 2, offset: BLOCK, ..cut(words, 1) }).unwrap();
    assert_eq!(words.tail(), Some(Tail { ordinal: 2, offset: 2 * BLOCK, file: 2 }));
    words.publish(&at(2, 2, 2 * BLOCK, 5 * BLOCK)).unwrap();
    assert_eq!(words.tail(), Some(Tail { ordinal: 2, offset: 5 * BLOCK, file: 2 }));
    // A doubled one.
    words.store_cut(&Cut { ordinal: 2, file: 2, offset: 5 * BLOCK, is_doubled: true, ..cut(words, 2) }).unwrap();
    assert_eq!(words.tail(), Some(Tail { ordinal: 2, offset: 7 * BLOCK, file: 2 }));
}

#[test]
fn the_tail_is_found_while_the_rings_turn_under_who_looks() {
    let control = Control::anonymous().unwrap();
    let words = control.words();
    words.set_identity(&identity());
    words.publish(&commit(1, false)).unwrap();
    let over = AtomicBool::new(false);
    std::thread::scope(|threads| {
        for _ in 0..8 {
            threads.spawn(|| {
                let mut last = 0;
                while !over.load(SeqCst) {
                    let found = words.last_commit().map_or(0, |entry| entry.sequence);
                    assert!(found >= last && found > 0, "commit {found} behind {last}");
                    last = found;
                    let tail = words.tail().map_or(0, |tail| tail.offset);
                    assert!(tail >= (found + 1) * 2 * BLOCK, "{tail} with {found} commits");
                }
            });
        }
        let until = Instant::now() + Duration::from_secs(1);
        while Instant::now() < until {
            for _ in 0..COMMIT_RING / 2 {
                words.publish(&commit(words.published() + 1, false)).unwrap();
            }
            words.store_cut(&cut(words, words.published())).unwrap();
            words.certify(words.cuts());
        }
        over.store(true, SeqCst);
    });
}

#[test]
fn visible_is_what_the_rule_says_after_each_step() {
    let mut random = StdRng::seed_from_u64(seed());
    for _ in 0..60 {
        let control = Control::anonymous().unwrap();
        let words = control.words();
        let (full, cuts) = (random.random_range(0.0..1.0), random.random_range(0.001..0.5));
        let mut wants = vec![false];
        let mut poisoned_at = None;
        for _ in 0..random.random_range(1..1500) {
            if random.random_bool(cuts) {
                let hi = random.random_range(words.durable()..=words.published());
                words.store_cut(&cut(words, hi)).unwrap();
                words.certify(words.cuts());
            } else {
                wants.push(random.random_bool(full));
                words.publish(&commit(words.published() + 1, *wants.last().unwrap())).unwrap();
            }
            if poisoned_at.is_none() && random.random_bool(0.0005) {
                assert!(words.poison());
                assert!(!words.poison());
                assert!(words.is_being_poisoned() && words.poison_outcome().is_none());
                words.set_poison_outcome(false);
                assert_eq!((words.is_being_poisoned(), words.poison_outcome()), (false, Some(false)));
                poisoned_at = Some(words.durable());
            }
            let durable = words.durable();
            let rule =
                (durable + 1..=words.published()).find(|n| wants[*n as usize]).unwrap_or(words.published() + 1) - 1;
            let expected = if poisoned_at.is_some() { durable } else { rule };
            assert_eq!(words.advance_visible(), expected);
            assert_eq!(words.visible(), expected);
        }
    }
}

/// Writers publish under APPEND, one leader at a time certifies some time after it said so, readers look.
#[test]
fn visible_only_grows_and_never_shows_an_undurable_commit_that_wants_durability() {
    const COMMITS: u64 = 60_000;
    let seed = seed();
    let control = Control::anonymous().unwrap();
    let words = control.words();
    // What is certified next: stored before `certify`, so never below durable.
    let announced = AtomicU64::new(0);
    let stop = AtomicBool::new(false);
    let ahead = AtomicU64::new(0);
    std::thread::scope(|threads| {
        let (announced, stop, ahead) = (&announced, &stop, &ahead);
        let lead = move || {
            if !words.leader().try_acquire(ME, false) {
                return;
            }
            let hi = words.published();
            if hi > words.durable() {
                words.append().acquire(ME, |_| true, || Ok::<(), ()>(())).unwrap();
                words.store_cut(&cut(words, hi)).unwrap();
                assert!(words.append().release(ME));
                let begin = now_us();
                while now_us() - begin < 30 {
                    std::hint::spin_loop();
                }
                announced.fetch_max(hi, SeqCst);
                words.certify(words.cuts());
                words.advance_visible();
                words.durable_wake().notify();
            }
            assert!(words.leader().release(ME));
        };
        let writers: Vec<_> = (0..3u64)
            .map(|thread| {
                threads.spawn(move || {
                    let mut random = StdRng::seed_from_u64(seed ^ thread);
                    loop {
                        while words.ring_is_half_full() {
                            lead();
                        }
                        let full = random.random_bool(0.1);
                        words.append().acquire(ME, |_| true, || Ok::<(), ()>(())).unwrap();
                        let sequence = words.published() + 1;
                        if sequence <= COMMITS {
                            words.publish(&commit(sequence, full)).unwrap();
                        }
                        assert!(words.append().release(ME));
                        if sequence > COMMITS {
                            return;
                        }
                        words.advance_visible();
                        if full && thread == 0 {
                            lead();
                        } else if full {
                            loop {
                                let ticket = words.durable_wake().ticket();
                                if words.durable() >= sequence {
                                    break;
                                }
                                lead();
                                words.durable_wake().wait(ticket, Duration::from_millis(1));
                            }
                            assert!(words.advance_visible() >= sequence, "durable, so visible");
                        }
                    }
                })
            })
            .collect();
        for _ in 0..2 {
            threads.spawn(move || {
                let mut last = 0;
                while !stop.load(SeqCst) {
                    let visible = words.visible();
                    assert!(visible >= last, "visible went back from {last} to {visible}");
                    last = visible;
                    let safe = announced.load(SeqCst);
                    for sequence in safe + 1..=visible {
                        ahead.fetch_add(1, SeqCst);
                        if let Some(entry) = words.commit(sequence) {
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
    assert_eq!(words.published(), COMMITS);
    let wanting = (words.durable() + 1..=COMMITS).find(|n| words.commit(*n).unwrap().wants_durable);
    assert_eq!(words.visible(), wanting.map_or(COMMITS, |n| n - 1), "nobody is left to move visible");
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
    let control = Control::anonymous().unwrap();
    let words = control.words();
    words.publish(&commit(1, true)).unwrap();
    words.store_cut(&cut(words, 1)).unwrap();
    collide(
        20_000,
        |round| {
            words.publish(&commit(2 * round, false)).unwrap();
            words.advance_visible();
        },
        |round| {
            words.certify(round);
            words.advance_visible();
        },
        |round| {
            assert_eq!(words.visible(), 2 * round, "nobody is left to move visible");
            words.publish(&commit(2 * round + 1, true)).unwrap();
            words.store_cut(&cut(words, 2 * round + 1)).unwrap();
            round.is_multiple_of(512) ^ (round / 512).is_multiple_of(2)
        },
    );
}
