//! The models, and how one is run.

mod event;
mod owner;
mod queue;
mod rings;
mod snapshots;
mod visible;

pub use event::{all_are_woken, all_become_durable, all_that_wait_for_something_are_woken};
pub use owner::{
    a_dead_owner_is_followed_by_one, a_release_wakes_who_waits, an_incarnation_is_not_its_predecessor, one_is_inside,
};
pub use queue::{write_goes_round, write_goes_round_at_home_too};
pub use rings::{
    a_commit_is_whole_or_absent, an_epoch_is_whole_or_absent, the_last_is_always_there,
    the_pages_are_those_of_the_commit,
};
pub use snapshots::{
    a_dead_snapshot_is_cleared_once, an_ended_snapshot_reads_no_later_page, no_target_passes_a_snapshot,
    recycled_slots_are_known,
};
pub use visible::{visible_arrives, visible_waits_for_durable};

use crate::os::futex;
use crate::shared::{CommitEntry, ControlBlock, EpochRecord, Owner, PAGES_INLINE};
use loom::model::Builder;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

/// Runs `model` in every order of its threads with at most so many preemptions (`PWAL_TEST_PREEMPTIONS`: with so many instead).
/// `waits_end`: a wait may end by its time; else only a wake ends it.
fn check(name: &str, preemptions: usize, waits_end: bool, model: impl Fn() + Send + Sync + 'static) {
    let asked = std::env::var("PWAL_TEST_PREEMPTIONS").ok().map(|number| number.parse().expect("a number"));
    let mut builder = Builder::new();
    builder.preemption_bound = Some(asked.unwrap_or(preemptions));
    builder.max_branches = 100_000;
    futex::waits_end(waits_end);
    let runs = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&runs);
    let began = std::time::Instant::now();
    builder.check(move || {
        counted.fetch_add(1, Relaxed);
        crate::seqcst::begin();
        model();
    });
    println!("{name}: {} orders, {} ms", runs.load(Relaxed), began.elapsed().as_millis());
}

/// The process in this slot, the first in it.
fn process(slot: u16) -> Owner {
    Owner { slot, incarnation: 1 }
}

/// Commit `sequence`, of which each value follows from the sequence.
fn commit(sequence: u64, wants_durable: bool) -> CommitEntry {
    let mut pages = [0; PAGES_INLINE];
    pages[0] = sequence as u32 + 100;
    CommitEntry {
        sequence,
        wants_durable,
        ordinal: sequence,
        segment: sequence as u32,
        offset: sequence * 4096,
        end: sequence * 4096 + 4096,
        frames: 1,
        database_pages: sequence as u32 + 7,
        has_certificate: false,
        has_spill: false,
        has_forms: false,
        chain: sequence + 1000,
        lane: sequence as u16 + 3,
        pages,
    }
}

/// Epoch `epoch`, which holds the commit of the same number.
fn record(epoch: u64) -> EpochRecord {
    EpochRecord {
        epoch,
        lo: epoch,
        hi: epoch,
        ordinal: epoch,
        segment: epoch as u32,
        offset: epoch * 4096,
        is_doubled: false,
        doubled_ordinal: epoch,
        backfilled: epoch - 1,
        chain: epoch + 1000,
    }
}

/// ControlBlock in which so many commits are published, durable and visible.
fn control_with(commits: u64) -> Arc<ControlBlock> {
    let control = Arc::new(ControlBlock::default());
    for sequence in 1..=commits {
        control.publish(&commit(sequence, false)).expect("the next one");
        control.store_epoch(&record(sequence)).expect("the next one");
        control.certify(sequence);
        control.advance_visible();
    }
    control
}
