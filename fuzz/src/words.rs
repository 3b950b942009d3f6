//! The control block that processes share, with anything in them: what is not whole is refused; whatever is read from them makes
//! nobody panic or loop.

use crate::input::Input;
use crate::memory;
use pwal::internal::disk::Directory;
use pwal::internal::shared::{CONTROL_BYTES, ControlBlock, ControlMapping, ControlView, Identity, State, boot_id};
use std::cell::OnceCell;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;

const DEVICE: u64 = 5;
const INODE: u64 = 6;

/// A complete `control`, in a directory of its own.
struct Scene {
    _root: tempfile::TempDir,
    directory: Directory,
    file: File,
    /// Up to the last byte that is not zero.
    whole: Vec<u8>,
}

impl Scene {
    fn new() -> Scene {
        // In memory, if there is such a place: the control block is written again for each input.
        let memory = std::path::Path::new("/dev/shm");
        let root = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap();
        let directory = Directory::open(root.path()).unwrap();
        let mapping = ControlMapping::create(&directory, 0o600).unwrap();
        let control = mapping.control();
        control.set_identity(&Identity {
            boot_id: boot_id().unwrap(),
            log_id: 7,
            device: DEVICE,
            inode: INODE,
            block_bytes: 4096,
        });
        control.set_state(State::Ready);
        let me = control.process_slots().acquire(0, 70, "a program").unwrap();
        let slot = control.snapshot_slots().claim(me).unwrap();
        assert!(control.take_snapshot(slot, 0, 9));
        let path = root.path().join(pwal::internal::shared::CONTROL_NAME);
        let mut whole = std::fs::read(&path).unwrap();
        let end = whole.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        whole.truncate(end);
        let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        Scene { _root: root, directory, file, whole }
    }

    /// The control block is as they were.
    fn restore(&self) {
        self.file.set_len(0).unwrap();
        self.file.set_len(CONTROL_BYTES as u64).unwrap();
        self.file.write_all_at(&self.whole, 0).unwrap();
    }
}

thread_local! {
    static SCENE: OnceCell<Scene> = const { OnceCell::new() };
}

/// One input: a length, and words with their places.
pub fn check(data: &[u8]) {
    SCENE.with(|scene| {
        let scene = scene.get_or_init(Scene::new);
        let mut input = Input::new(data);
        let cut = input.u8();
        for _ in 0..64 {
            if input.is_empty() {
                break;
            }
            let at = 8 * (input.u32() as usize % (CONTROL_BYTES / 8));
            scene.file.write_all_at(&word(&mut input).to_ne_bytes(), at as u64).unwrap();
        }
        if cut & 15 == 15 {
            scene.file.set_len(CONTROL_BYTES as u64 * u64::from(cut >> 4) / 16).unwrap();
        }
        memory::within(1 << 20, "the words", || {
            if let Ok(mapping) = ControlMapping::open(&scene.directory, DEVICE, INODE) {
                assert_eq!(mapping.control().state(), State::Ready);
                read(mapping.control());
                take_part(mapping.control());
            }
            if let Ok(observed) = ControlMapping::open_read_only(&scene.directory) {
                read(observed.control());
            }
        });
        scene.restore();
    });
}

/// Small numbers, the ends of what a word can say, or any word.
fn word(input: &mut Input<'_>) -> u64 {
    match input.u8() {
        255 => input.u64(),
        254 => u64::MAX - u64::from(input.u8()),
        253 => (1 << 63) + u64::from(input.u8()),
        252 => (1 << 32) + u64::from(input.u8()),
        small => u64::from(small),
    }
}

fn read(control: &ControlView) {
    let _ =
        (control.identity(), control.state(), control.poisoned(), control.poison_outcome(), control.kept_by_poison());
    let _ = (
        control.is_being_poisoned(),
        control.is_replaced(),
        control.ended_below(),
        control.mode(),
        control.published(),
    );
    let _ = (
        control.last_written_epoch(),
        control.last_certified_epoch(),
        control.backfilled(),
        control.checkpoint_target(),
        control.recycled_below(),
    );
    let _ = (
        control.holders(),
        control.exclusive_holder(),
        control.grant_until_us(),
        control.is_active(),
        control.backfilled_pages(),
    );
    let _ =
        (control.last_commit(), control.last_epoch(), control.certified_epoch(), control.durable(), control.visible());
    let _ = (control.tail(), control.ring_is_half_full());
    if let Some(entry) = control.commit(control.published()) {
        let _ = entry.inline_pages().map(<[u32]>::len);
    }
    if let Some(cut) = control.epoch(control.last_written_epoch()) {
        let _ = (cut.durable(), cut.end(4096));
    }
    for process in control.process_infos(|owner| owner.slot % 2 == 0) {
        assert!(process.command.len() <= 32 * 3);
        let _ = process.status(9);
    }
    let _ = (control.processes().count(), control.snapshots().count());
}

fn take_part(control: &ControlBlock) {
    let _ = control.advance_visible();
    let _ = control.oldest_snapshot(|owner| owner.slot == 0);
    control.snapshot_slots().free_idle(|owner| owner.slot == 0);
    let _ = control.choose_checkpoint_target(|owner| owner.slot == 0);
    if let Some(me) = control.process_slots().acquire(1, 71, "another program") {
        if let Some(slot) = control.snapshot_slots().claim(me) {
            let _ = control.take_snapshot(slot, control.visible(), 9);
            control.snapshot_slots().free(slot);
        }
        control.process_slots().set_waiting(me, 3);
        let _ = control.write().try_acquire(me, true);
        let _ = control.write().release(me);
        control.process_slots().release(me);
    }
}
