//! The header through the life of a write transaction, step by step.

use super::client::Client;
use super::log::{Log, image};
use super::{header_words, no_spill};
use crate::view::{Composition, View};

fn commit(client: &mut Client, view: &mut View, page: u32, content: u64) {
    assert!(client.frames(view, &[(page, content)], Some(4), &mut no_spill).unwrap());
}

fn prepared() -> (View, Client, Log) {
    let mut log = Log::new(4);
    log.commit([(1, 1), (2, 2)], 4);
    let mut view = View::new(1024, 1 << 20);
    view.refresh(&log, log.snapshot(1), 1000);
    let mut client = Client::new(1024);
    client.try_header(&mut view);
    view.begin_write(9, 2);
    commit(&mut client, &mut view, 3, 33);
    (view, client, log)
}

#[test]
fn own_commits_move_the_sequence_along() {
    let (mut view, mut client, mut log) = prepared();
    for sequence in 2..6 {
        let header = header_words(&mut view, 0);
        log.commit([(3, sequence)], 4);
        view.published(sequence + 1, sequence);
        assert_eq!(view.sequence(), Some(sequence));
        assert!(!view.refresh(&log, log.snapshot(sequence), 1000));
        assert_eq!(header, header_words(&mut view, 0));
        assert!(!client.try_header(&mut view));
        view.begin_write(9, sequence + 1);
        commit(&mut client, &mut view, 3, sequence + 1);
    }
}

#[test]
fn a_foreign_commit_is_appended_behind_an_own_one() {
    let (mut view, mut client, mut log) = prepared();
    log.commit([(3, 33)], 4);
    view.published(3, 2);
    log.commit([(4, 44)], 4);
    assert!(view.refresh(&log, log.snapshot(3), 1000));
    assert!(client.try_header(&mut view));
    assert_eq!(view.numbers, [1, 2, 3, 4]);
    let contents: Vec<u64> = (1..=4).map(|page| client.read(&mut view, &log, page)).collect();
    assert_eq!(contents, [1, 2, 33, 44]);
}

#[test]
fn a_hidden_advance_comes_back_byte_for_byte() {
    let (mut view, _, _) = prepared();
    let advanced = [0, 1].map(|copy| header_words(&mut view, copy));
    view.hide_advance();
    assert_ne!(header_words(&mut view, 0), advanced[0]);
    assert!(view.header_advanced());
    view.restore_advance();
    view.restore_advance();
    assert_eq!([0, 1].map(|copy| header_words(&mut view, copy)), advanced);
    view.hide_advance();
    view.published(3, 2);
    assert_eq!([0, 1].map(|copy| header_words(&mut view, copy)), advanced);
    assert_eq!(view.max_frame(), 3);
}

#[test]
fn a_reset_leaves_the_page_numbers_for_the_undo() {
    let (mut view, mut client, _) = prepared();
    assert!(view.rolled_back());
    assert_eq!(client.undo(&mut view), [3], "the cache must drop page 3");
    assert!(!view.rolled_back() && !view.header_advanced());
}

#[test]
fn a_reset_header_leaves_the_frames_until_the_rollback() {
    for hidden in [false, true] {
        let (mut view, mut client, log) = prepared();
        if hidden {
            view.hide_advance();
        }
        assert!(view.reset_header());
        let reset = header_words(&mut view, 0);
        assert!(!view.reset_header() && !view.header_advanced());
        // SQLite's own header is the advanced one still: it reads what it wrote.
        assert_eq!(client.read(&mut view, &log, 3), 33);
        view.restore_advance();
        assert_eq!(header_words(&mut view, 0), reset, "nothing is hidden any more");
        assert_eq!(client.undo(&mut view), [3]);
        assert!(!view.rolled_back());
        assert_eq!(header_words(&mut view, 0), reset, "an open cursor may go on, and write again");
        assert!(view.lane().is_empty());
    }
}

#[test]
fn the_change_counter_of_a_reset_wraps() {
    let log = Log::new(4);
    let mut view = View::new(1024, 1 << 20);
    view.refresh(&log, log.snapshot(0), 1000);
    let mut client = Client::new(1024);
    client.try_header(&mut view);
    client.header[2] = u32::MAX - 1;
    client.write_index_header(&mut view);
    view.begin_write(9, 1);
    commit(&mut client, &mut view, 3, 33);
    assert_eq!(client.header[2], u32::MAX);
    assert!(view.rolled_back());
    assert_eq!(header_words(&mut view, 0)[2], 0);
}

#[test]
fn nothing_to_hide_or_to_roll_back() {
    let log = Log::new(4);
    let mut view = View::new(1024, 1 << 20);
    view.refresh(&log, log.snapshot(0), 1000);
    let before = header_words(&mut view, 0);
    view.hide_advance();
    view.restore_advance();
    assert!(!view.rolled_back() && !view.header_advanced());
    view.begin_write(9, 1);
    view.hide_advance();
    assert!(!view.header_advanced() && !view.rolled_back());
    assert_eq!(before, header_words(&mut view, 0));
}

#[test]
fn truncate_under_write_is_undone() {
    // `wal_checkpoint(TRUNCATE)`: WRITE is held while `walRestartHdr` sets mxFrame = 0.
    let (mut view, mut client, mut log) = prepared();
    log.commit([(3, 33)], 4);
    view.published(3, 2);
    view.begin_write(9, 3);
    client.restart_header(&mut view);
    assert!(view.live_max_frame_is_zero());
    view.rolled_back();
    view.reset_checkpoint_info();
    assert_eq!(view.max_frame(), 3);
    assert!(client.try_header(&mut view));
    client.begin_read(&mut view);
    assert_eq!(client.read(&mut view, &log, 3), 33);
}

#[test]
fn a_snapshot_that_went_back_is_rebuilt() {
    // After a flush that failed: the commit is gone, the view goes back once.
    let (mut view, mut client, mut log) = prepared();
    log.commit([(3, 33)], 4);
    view.published(3, 2);
    assert!(view.refresh(&log, log.snapshot(1), 1000));
    assert!(client.try_header(&mut view));
    assert_eq!(view.numbers, [1, 2]);
    assert_eq!(client.read(&mut view, &log, 3), log.in_database(3));
}

/// A page that was spilled is written again at the end of the commit: where both are published as something else, SQLite reads the later one.
#[test]
fn a_page_that_is_staged_twice_and_replaced_is_read_as_it_was_last() {
    let mut log = Log::new(9);
    log.commit([(1, 1), (2, 2)], 9);
    let mut view = View::new(1024, 1 << 20);
    view.refresh(&log, log.snapshot(1), 1000);
    let mut client = Client::new(1024);
    client.try_header(&mut view);
    view.begin_write(9, 2);
    assert!(client.frames(&mut view, &[(9, 91)], None, &mut no_spill).unwrap());
    assert!(client.frames(&mut view, &[(1, 11), (9, 92)], Some(9), &mut no_spill).unwrap());
    let mut composition = Composition::of(&mut view).unwrap();
    composition.replace(9, (1, &image(12, 1024))).unwrap();
    composition.replace(1, (1, &image(12, 1024))).unwrap();
    log.commit([(1, 12), (1, 11), (1, 12)], 9);
    view.published(3, 2);
    assert_eq!(client.read(&mut view, &log, 9), 92);
    assert_eq!(client.read(&mut view, &log, 1), 11);
}
