//! Snapshots against the target of a checkpoint, without a lock: a reader stores its snapshot and then looks at the target, a checkpoint
//! announces its target and then looks at the snapshots. So no page of a commit beyond a snapshot that counts reaches the database file.

use super::{check, control_with, process};
use crate::sync::atomic::AtomicU64;
use crate::sync::atomic::Ordering::SeqCst;
use loom::thread;
use std::sync::Arc;

/// A reader that has looked at `visible` some time ago takes its snapshot while a checkpoint chooses its target.
pub fn no_target_passes_a_snapshot() {
    check("no_target_passes_a_snapshot", 3, true, || {
        let control = control_with(3);
        let slot = control.snapshot_slots().claim(process(0)).expect("one is free");
        let of_reader = Arc::clone(&control);
        let reader = thread::spawn(move || of_reader.take_snapshot(slot, 1, 1));
        let target = control.choose_checkpoint_target(|_| true);
        let is_taken = reader.join().expect("it ends");
        assert!(!is_taken || target <= 1, "the snapshot is of commit 1, the target {target}");
        assert_eq!(control.checkpoint_target(), target);
    });
}

/// The same for slots that are about to be written over: a reader whose snapshot needs them is not given it.
pub fn recycled_slots_are_known() {
    check("recycled_slots_are_known", 3, true, || {
        let control = control_with(3);
        let slot = control.snapshot_slots().claim(process(0)).expect("one is free");
        let of_reader = Arc::clone(&control);
        let reader = thread::spawn(move || of_reader.take_snapshot(slot, 1, 1));
        let target = control.choose_checkpoint_target(|_| true);
        control.set_backfilled(target);
        control.set_recycled_below(target + 1);
        let is_taken = reader.join().expect("it ends");
        assert!(!is_taken || control.recycled_below() <= 2, "commit 2 is gone, and needed behind the snapshot");
    });
}

/// A process died with a snapshot. A checkpoint clears it, a joining process frees the slot, and a connection of a third one gets
/// it: its own snapshot is not what is cleared.
pub fn a_dead_snapshot_is_cleared_once() {
    check("a_dead_snapshot_is_cleared_once", 2, true, || {
        let control = control_with(3);
        let dead = process(2);
        let slot = control.snapshot_slots().claim(dead).expect("one is free");
        assert!(control.take_snapshot(slot, 1, 1));
        assert!(control.snapshot_slots().claim(process(1)).is_some());
        let of_joining = Arc::clone(&control);
        let joining = thread::spawn(move || {
            of_joining.snapshot_slots().free_idle(|owner| owner != dead);
            let slot = of_joining.snapshot_slots().claim(process(0))?;
            of_joining.take_snapshot(slot, 3, 1).then_some(slot)
        });
        control.oldest_snapshot(|owner| owner != dead);
        let taken = joining.join().expect("it ends");
        assert!(control.snapshots().all(|snapshot| snapshot.owner != dead), "it was cleared");
        if let Some(slot) = taken {
            let found = control.snapshots().find(|snapshot| snapshot.slot == slot);
            assert!(found.is_some_and(|found| found.owner == process(0) && found.sequence == 3), "{found:?}");
        }
    });
}

/// A snapshot is ended, because it keeps too much. Whoever reads by it looks behind each page whether it counts still: a page of a later
/// commit is not taken for one of its own.
pub fn an_ended_snapshot_reads_no_later_page() {
    check("an_ended_snapshot_reads_no_later_page", 3, true, || {
        let control = control_with(3);
        // The commit that the page in the database file is of.
        let page = Arc::new(AtomicU64::default());
        page.store(1, SeqCst);
        let slot = control.snapshot_slots().claim(process(0)).expect("one is free");
        let (of_reader, page_read) = (Arc::clone(&control), Arc::clone(&page));
        let reader = thread::spawn(move || {
            if !of_reader.take_snapshot(slot, 1, 1) {
                return;
            }
            let read = page_read.load(SeqCst);
            assert!(of_reader.ended_below() > 1 || read == 1, "a page of commit {read} in snapshot 1");
        });
        control.end_snapshots_below(2);
        let target = control.choose_checkpoint_target(|_| true);
        if target >= 2 {
            page.store(target, SeqCst);
        }
        reader.join().expect("it ends");
    });
}
