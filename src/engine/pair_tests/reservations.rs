//! CREATE: a segment is made, reused or deleted by one process at a time, though no lock is held meanwhile.

use super::{BLOCK, Pair, SEGMENT_BYTES, commit, commit_and_die_before_the_store, die};
use crate::engine::Engine;
use crate::engine::reservation::Free;
use crate::engine::reservation::{NextMaker, Reservation};
use crate::engine::segment_file::Segment;
use crate::log::format::segment_name;
use crate::log::segments::Space;
use std::sync::Arc;
use std::time::{Duration, Instant};

fn reserve(engine: &Engine) -> Reservation {
    match engine.segments.create.reserve_next().unwrap() {
        NextMaker::Here(reservation) => reservation,
        NextMaker::Other(maker) => panic!("{maker:?} makes it"),
    }
}

fn is_there(pair: &Pair, engine: &Engine, segment: &Segment) -> bool {
    pair.directory().list().unwrap().contains(&segment_name(engine.log.log_id, segment.id))
}

/// Whether a process that needs the next segment makes it at once (`Create::wait_for_maker`).
fn waits_for_nobody(engine: &Engine) -> bool {
    engine.segments.create.maker_of_next().is_none()
}

/// Until the log has gone on in another segment.
fn rotate(engine: &Arc<Engine>) {
    let before = engine.log.tail().ordinal;
    while engine.log.tail().ordinal == before {
        commit(engine, 3, engine.log.marks.published() + 1, true).unwrap();
    }
}

/// A process is stopped when its segment is complete, and not chosen: another one chooses its own, within about a second, and the
/// next ones at once. No process takes, deletes or writes the file of the first one; when that process continues, its segment is free.
#[test]
fn a_segment_that_a_stopped_process_makes_is_left_to_it() {
    let pair = Pair::new();
    let (one, two) = (pair.claim(), pair.join());
    commit(&one, 3, 1, true).unwrap();
    let reservation = reserve(&one);
    let (all, tail) = one.segments.survey().unwrap();
    let made = one.segments.create_segment(&reservation, SEGMENT_BYTES, Space::Written).unwrap();

    let start = Instant::now();
    rotate(&two);
    assert!(start.elapsed() >= Duration::from_millis(900), "{:?}: it makes steps", start.elapsed());
    for _ in 0..10 {
        assert!(waits_for_nobody(&two), "it was overtaken");
        rotate(&two);
        assert_ne!(two.log.tail().segment, made.id);
    }
    two.segments.choose_next(&reserve(&two), 0).unwrap();
    two.checkpointer.checkpoint_when_idle().unwrap();
    two.checkpointer.shrink();
    assert!(is_there(&pair, &one, &made), "a live process makes it");

    let next = two.log.marks.control().next_segment();
    assert!(next.is_some_and(|next| next != made.id), "{next:?}");
    one.segments.set_next(&made, &all, tail, SEGMENT_BYTES).unwrap();
    assert_eq!(two.log.marks.control().next_segment(), next, "the first that is chosen counts");
    drop(reservation);
    two.checkpointer.shrink();
    assert!(!is_there(&pair, &one, &made), "it is free, and not needed");
    rotate(&one);
    let last = one.log.marks.published();
    die(one);
    die(two);
    pair.lose_power();
    assert_eq!(pair.recovered(), [last; 3]);
}

/// It is killed: its segment is free at once.
#[test]
fn a_segment_that_a_dead_process_was_making_is_free() {
    let pair = Pair::new();
    let (one, two) = (pair.claim(), pair.join());
    commit(&one, 3, 1, true).unwrap();
    let reservation = reserve(&one);
    let made = one.segments.create_segment(&reservation, SEGMENT_BYTES, Space::Written).unwrap();
    std::mem::forget(reservation);
    // As the kernel does.
    one.log.marks.member().lock().close();
    assert!(waits_for_nobody(&two), "it is dead");
    rotate(&two);
    assert_eq!(two.log.tail().segment, made.id);
}

/// What happens to a segment between the look at it and its reservation.
type Look = fn(&Arc<Engine>, &Free);

/// Between the look for a free segment and its reservation another process may do anything with it.
#[test]
fn a_segment_that_was_free_a_moment_ago_is_not_reserved() {
    // Something is done by the second process with the segment that the first has found free.
    let looks: [(&str, Look); 4] = [
        ("chosen", |two, free| {
            two.segments.choose_next(&reserve(two), 0).unwrap();
            assert_eq!(two.log.marks.control().next_segment(), Some(free.segment.id));
        }),
        ("used", |two, free| {
            rotate(two);
            assert_eq!(two.log.tail().segment, free.segment.id);
            // So that it is not the last one, which no process takes in any case.
            rotate(two);
        }),
        ("deleted", |two, _| two.checkpointer.shrink()),
        ("reserved", |two, free| {
            let reservation = two.segments.create.reserve_deletion().unwrap().unwrap();
            assert!(two.segments.create.reserve_free(&reservation, free).unwrap());
            std::mem::forget(reservation);
        }),
    ];
    for (what, look) in looks {
        let pair = Pair::new();
        let (one, two) = (pair.claim(), pair.join());
        commit(&one, 3, 1, true).unwrap();
        // Two of them, so that one is deleted.
        for _ in 0..2 {
            let reservation = reserve(&one);
            one.segments.create_segment(&reservation, SEGMENT_BYTES, Space::Written).unwrap();
        }
        let (all, tail) = one.segments.survey().unwrap();
        let free = one.segments.free_segments(&all, tail).into_iter().next().expect("a free segment");
        let reservation = one.segments.create.reserve_deletion().unwrap().unwrap();
        look(&two, &free);
        assert!(!one.segments.create.reserve_free(&reservation, &free).unwrap(), "{what}");
    }
}

/// A writer has died in the first batch of a segment, which is free then; the log goes on in it with the same header as before,
/// while a process that has found it free is stopped: it is not taken.
#[test]
fn a_begun_segment_in_which_the_log_goes_on_is_not_reserved() {
    let pair = Pair::new();
    let (one, two, dies) = (pair.claim(), pair.join(), pair.join());
    commit(&one, 3, 1, true).unwrap();
    one.segments.choose_next(&reserve(&one), SEGMENT_BYTES / 2).unwrap();
    let next = one.log.marks.control().next_segment().unwrap();
    let fills = usize::try_from(SEGMENT_BYTES / BLOCK / 2).unwrap();
    while one.log.tail().offset + SEGMENT_BYTES / 2 < one.files.segment(one.log.tail().segment).unwrap().bytes {
        commit(&one, 1, one.log.marks.published() + 1, true).unwrap();
    }
    commit_and_die_before_the_store(dies, fills, 66);

    let (all, tail) = one.segments.survey().unwrap();
    let free = one.segments.free_segments(&all, tail).into_iter().find(|free| free.segment.id == next);
    let free = free.expect("it is free: its batch is not published");
    let found = free.header.clone();
    assert!(found.as_ref().is_some_and(|header| header.ordinal == tail.ordinal + 1), "{found:?}");
    let last = two.log.marks.published() + 1;
    commit(&two, fills, last, true).unwrap();
    assert_eq!(two.files.header_of(&free.segment).unwrap(), found, "as if nothing had happened");
    rotate(&two);

    let reservation = one.segments.create.reserve_deletion().unwrap().unwrap();
    assert!(
        !one.segments.create.reserve_free(&reservation, &free).unwrap(),
        "its commits are not in the database file"
    );
    let last = two.log.marks.published();
    die(one);
    die(two);
    pair.lose_power();
    assert_eq!(pair.recovered(), [last; 3]);
}

/// A free segment that is too small for the batches of late is not the next one: each of them would make its own, and wait.
#[test]
fn a_segment_that_is_chosen_ahead_of_need_has_room_for_the_batches_of_late() {
    let pair = Pair::new();
    let one = pair.claim();
    commit(&one, 3, 1, true).unwrap();
    let small = one.segments.create_segment(&reserve(&one), SEGMENT_BYTES, Space::Written).unwrap();
    let large = 2 * SEGMENT_BYTES;
    one.segments.make_room(large).unwrap();
    let (tail, next) = (one.log.tail(), one.log.marks.control().next_segment());
    assert_ne!(next, Some(small.id), "it has no room");
    one.log.marks.control().set_next_segment(None);
    let chosen = one.segments.free_segments(&one.segments.survey().unwrap().0, tail);
    assert!(chosen.iter().any(|free| free.segment.id == small.id), "it is free");
    while one.log.tail().offset * 4 <= SEGMENT_BYTES {
        commit(&one, 1, one.log.marks.published() + 1, true).unwrap();
    }
    assert_eq!(one.log.marks.control().next_segment(), None);
    one.segments.prepare_next_segment();
    let next = one.log.marks.control().next_segment().expect("the next segment");
    assert!(one.files.segment(next).unwrap().bytes > large);
    // The batches of before are of no concern to the next choice.
    one.log.marks.control().set_next_segment(None);
    one.segments.prepare_next_segment();
    assert_eq!(one.log.marks.control().next_segment(), Some(small.id));
}
