//! Who is attached, and the `control` file.

use super::{commit, cut, identity};
use pwal::internal::disk::Directory;
use pwal::internal::shared::{COMMIT_RING, CONTROL_BYTES, ControlMapping, State};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};

#[test]
fn a_process_slot_raises_its_incarnation_at_each_attach() {
    let mapping = ControlMapping::anonymous().unwrap();
    let control = mapping.control();
    let first = control.process_slots().acquire(5, 77, "a command of more than 32 bytes, which is cut").unwrap();
    assert_eq!(control.processes().next().unwrap().command, "a command of more than 32 bytes,");
    let second = control.process_slots().acquire(5, 78, "second").unwrap();
    assert_eq!((first.slot, second.slot, second.incarnation), (5, 5, first.incarnation + 1));
    assert_eq!(control.process_slots().acquire(128, 1, ""), None);
    let seen: Vec<_> = control.processes().collect();
    assert_eq!(seen.len(), 1);
    assert_eq!((seen[0].owner, seen[0].pid, seen[0].command.as_str()), (second, 78, "second"));
    control.process_slots().release(first);
    assert_eq!(control.processes().count(), 1, "not the predecessor's to leave");
    control.process_slots().release(second);
    assert_eq!(control.processes().count(), 0);
    // 31 bytes and a letter of two: no half letter is kept.
    assert!(control.process_slots().acquire(5, 79, &format!("{}\u{e9}", "x".repeat(31))).is_some());
    assert_eq!(control.processes().next().unwrap().command, "x".repeat(31));
}

#[test]
fn a_process_says_since_when_it_waits_and_its_successor_begins_anew() {
    let mapping = ControlMapping::anonymous().unwrap();
    let control = mapping.control();
    let waiting = || control.processes().map(|process| process.waiting_since_us).collect::<Vec<_>>();
    let other = control.process_slots().acquire(0, 1, "other").unwrap();
    let first = control.process_slots().acquire(5, 77, "killed while it waits").unwrap();
    assert_eq!(waiting(), [0, 0]);
    control.process_slots().set_waiting(first, 123);
    assert_eq!(waiting(), [0, 123]);
    let second = control.process_slots().acquire(5, 78, "its successor").unwrap();
    assert_eq!(waiting(), [0, 0]);
    control.process_slots().set_waiting(first, 124);
    assert_eq!(waiting(), [0, 0], "not the predecessor's to say");
    control.process_slots().set_waiting(second, 125);
    control.process_slots().set_waiting(other, 126);
    assert_eq!(waiting(), [126, 125]);
    control.process_slots().set_waiting(second, 0);
    assert_eq!(waiting(), [126, 0]);
    control.process_slots().set_waiting(pwal::internal::shared::Owner { slot: 128, incarnation: 0 }, 1);
}

#[test]
fn a_control_file_carries_on_what_the_anonymous_words_said() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("control");
    std::fs::write(&path, "left by a crash").unwrap();
    let place = Directory::open(directory.path()).unwrap();
    let mapping = ControlMapping::create(&place, 0o640).unwrap();
    let metadata = std::fs::metadata(&path).unwrap();
    assert_eq!((metadata.len(), metadata.permissions().mode() & 0o7777), (CONTROL_BYTES as u64, 0o640));
    assert!(metadata.blocks() * 512 < CONTROL_BYTES as u64 / 2, "the rings are not there yet");
    assert!(metadata.blocks() * 512 < 64 * 1024 || rustix::param::page_size() > 4096, "nor are most snapshot slots");
    let control = mapping.control();
    assert_eq!((control.state(), control.backfilled_pages()), (State::Building, None));
    control.set_identity(&identity());
    control.set_state(State::Ready);
    let me = control.process_slots().acquire(0, 1, "it").unwrap();
    let slot = control.snapshot_slots().claim(me).unwrap();
    assert!(control.take_snapshot(slot, 3, 9));
    assert!(control.write().try_acquire(me, true));
    control.set_mode(2);
    let allocated = || std::fs::metadata(&path).unwrap().blocks() * 512;
    let head = allocated();
    mapping.allocate_epochs().unwrap();
    let few = allocated();
    assert!(few < head + 128 * 1024, "only the epoch ring");
    while mapping.allocate_snapshots().unwrap() {}
    let slots = allocated() - few;
    assert!(slots > 100 * 1024, "most of the snapshot slots, {slots} bytes");
    for sequence in 1..=COMMIT_RING + 3 {
        let before = allocated();
        mapping.allocate_commit(sequence).unwrap();
        match sequence {
            1 => {
                assert!(before < allocated() && allocated() < head + slots + 128 * 1024, "a piece, and the epoch ring")
            }
            // Its entry is the 101st of a piece of 128.
            100 => assert_eq!(before, allocated(), "nothing for each commit"),
            COMMIT_RING => assert!(allocated() >= CONTROL_BYTES as u64, "allocated, not sparse"),
            _ => {}
        }
        control.publish(&commit(sequence, false)).unwrap();
        if sequence == 100 {
            control.store_epoch(&cut(control, sequence)).unwrap();
            control.certify(1);
        }
    }
    control.advance_visible();
    let observed = ControlMapping::open_read_only(&place).unwrap();
    for seen in [&**control, observed.control()] {
        assert_eq!((seen.identity(), seen.state(), seen.mode()), (identity(), State::Ready, 2));
        assert_eq!((seen.published(), seen.durable(), seen.visible()), (COMMIT_RING + 3, 100, COMMIT_RING + 3));
        assert_eq!(seen.commit(COMMIT_RING), Some(commit(COMMIT_RING, false)));
        assert_eq!(seen.commit(4).unwrap().sequence, 4);
        assert_eq!(seen.commit(3), None, "the ring has moved on");
        assert_eq!(seen.epoch(1).unwrap().hi, 100);
        assert_eq!(seen.holders(), [Some(me), None, None, None]);
        assert_eq!(seen.snapshots().map(|s| s.sequence).collect::<Vec<_>>(), [3]);
        assert_eq!(seen.processes().count(), 1);
        assert_eq!(seen.tail(), control.tail());
    }
    assert!(control.write().release(me));
    control.publish(&commit(COMMIT_RING + 4, true)).unwrap();
    assert_eq!(observed.control().published(), COMMIT_RING + 4, "one memory");
}

#[test]
fn the_pages_behind_what_is_backfilled_change_with_it() {
    let mapping = ControlMapping::anonymous().unwrap();
    let control = mapping.control();
    control.set_backfilled_pages(0, 7);
    assert_eq!(control.backfilled_pages(), Some((0, 7)));
    for (sequence, pages) in [(5, 9), (6, 2), (1 << 40, u32::MAX)] {
        let before = control.backfilled_pages();
        // Stored by a checkpointer that died, and again by the next one.
        control.set_backfilled_pages(sequence, 1);
        control.set_backfilled_pages(sequence, pages);
        assert_eq!(control.backfilled_pages(), before);
        control.set_backfilled(sequence);
        assert_eq!(control.backfilled_pages(), Some((sequence, pages)));
    }
}

#[test]
fn what_is_no_control_file_is_refused_by_name() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("control");
    let place = Directory::open(directory.path()).unwrap();
    assert_eq!(ControlMapping::open_read_only(&place).unwrap_err().kind(), std::io::ErrorKind::NotFound);
    std::fs::write(&path, "short").unwrap();
    let refused = |part: &str| {
        let text = ControlMapping::open_read_only(&place).unwrap_err().to_string();
        assert!(text.contains(part) && text.contains(path.to_str().unwrap()), "{text}");
    };
    refused("5 bytes");
    std::fs::write(&path, vec![0; CONTROL_BYTES]).unwrap();
    refused("not a control file");
    ControlMapping::create(&place, 0o600).unwrap().control().set_identity(&identity());
    ControlMapping::open_read_only(&place).unwrap();
    std::fs::File::options().write(true).open(&path).unwrap().write_all_at(&99u64.to_ne_bytes(), 8).unwrap();
    refused("layout version 99");
    std::fs::remove_file(&path).unwrap();
    std::fs::remove_dir(directory.path()).unwrap();
    assert_eq!(ControlMapping::create(&place, 0o600).unwrap_err().kind(), std::io::ErrorKind::NotFound);
}
