//! What is visible: the last commit before the first undurable one that wants durability. Whoever stores `published` or `certified`
//! last sees the other's store and does what is left: nobody else would.

use super::{check, commit, control_with, record};
use loom::thread;
use std::sync::Arc;

/// Commit 2 wants durability and is being certified while commit 3, which does not, is published: both are visible in the end.
pub fn visible_arrives() {
    check("visible_arrives", 3, true, || {
        let control = control_with(1);
        control.publish(&commit(2, true)).expect("the next one");
        control.store_epoch(&record(2)).expect("the next one");
        let of_leader = Arc::clone(&control);
        let leader = thread::spawn(move || {
            of_leader.certify(2);
            of_leader.advance_visible();
        });
        control.publish(&commit(3, false)).expect("the next one");
        control.advance_visible();
        leader.join().expect("it ends");
        assert_eq!(control.visible(), 3, "nobody moves it any more");
    });
}

/// Whoever sees commit 2, which wants durability, finds it durable.
pub fn visible_waits_for_durable() {
    check("visible_waits_for_durable", 2, true, || {
        let control = control_with(1);
        let of_writer = Arc::clone(&control);
        let writer = thread::spawn(move || {
            of_writer.publish(&commit(2, true)).expect("the next one");
            of_writer.advance_visible();
            of_writer.store_epoch(&record(2)).expect("the next one");
            of_writer.certify(2);
            of_writer.advance_visible();
        });
        let visible = control.advance_visible();
        let durable = control.durable();
        assert!(visible < 2 || durable >= 2, "commit {visible} is visible, and {durable} durable");
        assert!(control.visible() >= visible, "what one has been shown goes back");
        writer.join().expect("it ends");
        assert_eq!(control.visible(), 2);
    });
}
