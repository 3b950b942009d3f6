//! Rules that no random world comes to: each test fails with its rule dropped (`docs/mutants.md`).

use super::{BLOCK, Pair, commit, die};
use crate::disk::OpenMode;
use crate::disk::fault::{DIRECTORY_NAME, Fault, Operation};
use crate::engine::Rest;
use crate::log::format::segment_name;

/// Of what was not synced a power cut leaves what the dice say.
const SEEDS: std::ops::Range<u64> = 0..8;

/// A0. An activation behind a rest fails when its stamp is durable, the next try when the segment of the first is gone: the
/// database file has no stamp then, durably.
#[test]
fn an_activation_that_is_tried_again_leaves_no_stamp_without_a_segment() {
    for (operation, name) in [(Operation::Remove, "retired"), (Operation::Sync, DIRECTORY_NAME)] {
        for (seed, nth) in SEEDS.flat_map(|seed| (1..8).map(move |nth| (seed, nth))) {
            let pair = Pair::with_dice(seed);
            let one = pair.claim();
            commit(&one, 3, 1, true).unwrap();
            assert_eq!(one.rest().unwrap(), Rest::Retired);
            pair.disk.plan().add(Fault { nth, ..pair.fault(operation, name) });
            let is_refused = commit(&one, 3, 2, true).is_err();
            assert!(is_refused || nth > 1, "{operation:?} {name}: nothing failed");
            pair.disk.plan().clear();
            if is_refused {
                pair.disk.plan().add(pair.fault(Operation::Create, ".seg"));
                commit(&one, 3, 2, true).unwrap_err();
                die(one);
                pair.lose_power();
                assert_eq!(pair.recovered(), [1; 3], "{operation:?} {name} {nth}, seed {seed}");
            }
        }
    }
}

/// R6. A dead process had made a segment, and its name was not durable yet.
#[test]
fn the_slot_of_a_dead_process_has_a_durable_name_before_commits_rely_on_it() {
    for seed in SEEDS {
        let pair = Pair::with_dice(seed);
        let one = pair.claim();
        commit(&one, 3, 1, true).unwrap();
        let number = u32::try_from(one.marks.control().give_segment_id()).unwrap();
        let file = pair.directory().open(&segment_name(one.log_id, number), OpenMode::CreateNew).unwrap();
        file.write_zeros(usize::try_from(24 * BLOCK).unwrap(), 0).unwrap();
        while one.tail().segment == 0 {
            commit(&one, 3, one.marks.published() + 1, true).unwrap();
        }
        assert_eq!(one.tail().segment, number);
        let last = one.marks.published();
        die(one);
        pair.lose_power();
        assert_eq!(pair.recovered(), [last; 3], "seed {seed}");
    }
}
