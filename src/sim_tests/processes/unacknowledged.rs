//! R5 for a commit that is published and cannot be made durable, with another process joined: it is tried again as long as
//! nothing has failed on the medium, and then everybody is poisoned. No COMMIT is answered with a plain error and comes back
//! later, made durable by somebody else's flush.

use super::super::client::Phase;
use super::super::world::NAME;
use super::parties::{FULL, How, NORMAL, Party, SELF_SEALED, Scenery};
use crate::disk::fault::Operation;
use crate::engine::EngineError;

/// `second` has published a commit; `first` has published more, in a segment that `second` does not have open.
fn in_another_segment(scenery: &Scenery, how: How) -> (Party, Party) {
    let mut first = scenery.party(1, FULL);
    first.commits();
    let mut second = scenery.party(2, how);
    second.commits();
    if !how.full {
        // What it is based on is not visible.
        first.publishes();
    }
    second.publishes();
    let mut third = scenery.party(3, NORMAL);
    // The next one may have been made by the second itself.
    let enough = third.ordinal() + 2;
    while third.ordinal() < enough {
        third.publishes();
        third.client.phase = Phase::Idle;
        third.engine().connections.drop_snapshot(third.client.me);
    }
    (first, second)
}

/// Everybody is told, and nothing comes back that was reported as failed.
fn check_all_over(scenery: &Scenery, error: &EngineError, parties: Vec<Party>) {
    let EngineError::Poisoned { unknown, .. } = error else { panic!("a plain error: {error}") };
    let durable = parties[0].engine().log.marks.durable();
    parties.iter().for_each(Party::check_over);
    scenery.heal();
    let expected = scenery.world.lock().history[usize::try_from(durable).unwrap()].clone();
    let state = scenery.recovered(parties);
    assert!(*unknown || state == expected, "{state:?} instead of {expected:?}, commit {durable}");
}

/// Too many open files: the segment that another process began cannot be opened, so the flush cannot even begin.
#[test]
fn a_flush_that_cannot_begin_poisons_everybody_in_the_end() {
    for how in [FULL, NORMAL] {
        let scenery = Scenery::new(1);
        let (first, mut second) = in_another_segment(&scenery, how);
        scenery.plan(Operation::Open, 1, true);
        let fired = || scenery.world.lock().disk.plan().fired();
        let error = second.acknowledges().expect_err("it cannot be durable");
        assert!(fired() > 10, "{how:?}: tried {} times", fired());
        check_all_over(&scenery, &error, vec![first, second]);
    }
}

/// The same, but only for a while.
#[test]
fn a_flush_that_cannot_begin_is_tried_again() {
    for how in [FULL, NORMAL] {
        let scenery = Scenery::new(2);
        let (mut first, mut second) = in_another_segment(&scenery, how);
        (1..=5).for_each(|nth| scenery.plan(Operation::Open, nth, false));
        second.acknowledges().expect("acknowledged in the end");
        assert_eq!(scenery.world.lock().disk.plan().fired(), 5, "{how:?}");
        assert!(first.engine().log.check_poison().is_ok());
        if !how.full {
            first.acknowledges().expect("made durable by the other one");
        }
        first.commits();
    }
}

/// Whatever fails on the medium behind publication: at once, for everybody.
#[test]
fn a_flush_that_fails_poisons_everybody() {
    for (operation, goes_on) in [(Operation::Sync, false), (Operation::Sync, true), (Operation::Write, true)] {
        for how in [FULL, SELF_SEALED, NORMAL] {
            let scenery = Scenery::new(3);
            let mut first = scenery.party(1, FULL);
            first.commits();
            let mut second = scenery.party(2, how);
            let is_based = !how.full;
            if is_based {
                first.publishes();
            }
            second.publishes();
            if operation == Operation::Write && how == SELF_SEALED {
                // Its certificate is written already.
                continue;
            }
            scenery.plan(operation, 1, goes_on);
            let error = second.acknowledges().expect_err("it cannot be durable");
            assert_eq!(matches!(error, EngineError::Poisoned { unknown: true, .. }), goes_on, "{error}");
            if is_based {
                let error = first.acknowledges().expect_err("it was rolled back");
                assert!(matches!(error, EngineError::Poisoned { .. }), "{error}");
            }
            check_all_over(&scenery, &error, vec![first, second]);
        }
    }
}

/// A process died with LEADER behind its last store, and what it left cannot be read: nobody waits for ever.
#[test]
fn what_a_dead_leader_left_that_cannot_be_read_ends_in_an_answer() {
    for operation in [Operation::Open, Operation::Read] {
        let scenery = Scenery::new(4);
        let (first, mut second) = in_another_segment(&scenery, FULL);
        let leader = first.engine().lease.try_lead().expect("LEADER is free");
        first.engine().flusher.write_epoch(&leader, false).expect("cut");
        first.is_killed(&scenery);
        std::mem::forget(leader);
        scenery.plan(operation, 1, true);
        let error = second.acknowledges().expect_err("it cannot be durable");
        assert!(scenery.refuses(), "{operation:?}: who comes now is told");
        check_all_over(&scenery, &error, vec![second]);
    }
}

#[test]
fn the_database_of_these_tests_is_real_enough() {
    let scenery = Scenery::new(5);
    let mut first = scenery.party(1, SELF_SEALED);
    let mut second = scenery.party(2, FULL);
    for sequence in (1..20).step_by(2) {
        assert_eq!((first.commits(), second.commits()), (sequence, sequence + 1));
    }
    let expected = scenery.world.lock().history[20].clone();
    assert!(scenery.world.lock().real.join(NAME).exists());
    assert_eq!(scenery.recovered(vec![first, second]), expected);
}

/// A process died while it erased: whoever comes next erases, and tells.
#[test]
fn a_poisoning_that_its_process_did_not_survive_is_finished() {
    let scenery = Scenery::new(6);
    let mut first = scenery.party(1, FULL);
    first.commits();
    let mut second = scenery.party(2, FULL);
    second.publishes();
    first.engine().log.marks.poison();
    first.is_killed(&scenery);
    let error = second.acknowledges().expect_err("it is over");
    assert!(matches!(error, EngineError::Poisoned { unknown: false, .. }), "{error}");
    check_all_over(&scenery, &error, vec![second]);
}
