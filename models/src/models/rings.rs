//! The rings: whoever reads an entry while the ring turns gets all of it, or nothing; and there is always a last one.
//!
//! This is where the weak orders are: an entry's values are stored and loaded relaxed, between fences.

use super::{check, commit, control_with, record};
use loom::thread;
use std::sync::Arc;

/// Commit 1 is read while commit 5 is stored in its place.
pub fn a_commit_is_whole_or_absent() {
    check("a_commit_is_whole_or_absent", 2, true, || {
        let control = control_with(4);
        let of_writer = Arc::clone(&control);
        let writer = thread::spawn(move || of_writer.publish(&commit(5, false)).expect("the next one"));
        let found = control.commit(1);
        assert!(found.is_none_or(|found| found == commit(1, false)), "{found:?}");
        writer.join().expect("it ends");
        assert_eq!(control.commit(5), Some(commit(5, false)));
        assert_eq!(control.commit(1), None);
    });
}

/// The same for the pages that lie in the entry: of commit 5, as soon as it is published.
pub fn the_pages_are_those_of_the_commit() {
    check("the_pages_are_those_of_the_commit", 3, true, || {
        let control = control_with(4);
        let of_writer = Arc::clone(&control);
        let writer = thread::spawn(move || of_writer.publish(&commit(5, true)).expect("the next one"));
        if control.published() == 5 {
            let found = control.commit(5).expect("it is published");
            assert_eq!(found, commit(5, true));
            assert_eq!(found.inline_pages(), Some(&[105][..]));
        }
        writer.join().expect("it ends");
    });
}

/// The record of epoch 1 is read while that of epoch 5 is stored in its place.
pub fn an_epoch_is_whole_or_absent() {
    check("an_epoch_is_whole_or_absent", 2, true, || {
        let control = control_with(4);
        control.publish(&commit(5, false)).expect("the next one");
        let of_leader = Arc::clone(&control);
        let leader = thread::spawn(move || of_leader.store_epoch(&record(5)).expect("the next one"));
        let found = control.epoch(1);
        assert!(found.is_none_or(|found| found == record(1)), "{found:?}");
        leader.join().expect("it ends");
        assert_eq!(control.epoch(5), Some(record(5)));
    });
}

/// The last commit and the last durable epoch are found whenever there is one, though the ring turns under the reader.
pub fn the_last_is_always_there() {
    check("the_last_is_always_there", 1, true, || {
        let control = control_with(2);
        let of_writer = Arc::clone(&control);
        let writer = thread::spawn(move || {
            for sequence in 3..=6 {
                of_writer.publish(&commit(sequence, false)).expect("the next one");
                of_writer.store_epoch(&record(sequence)).expect("the next one");
                of_writer.certify(sequence);
            }
        });
        let last = control.last_commit().expect("there is one");
        let last_record = control.last_epoch().expect("there is one");
        assert_eq!(last_record, record(last_record.epoch));
        let durable = control.certified_epoch().expect("there is one");
        assert_eq!(last.chain, commit(last.sequence, false).chain);
        assert_eq!(durable, record(durable.epoch));
        writer.join().expect("it ends");
        assert_eq!((control.published(), control.durable()), (6, 6));
    });
}
