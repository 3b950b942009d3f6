//! The words that processes share, with anything in them: what is not whole is refused; whatever is read from them makes
//! nobody panic or loop.

use crate::input::Input;
use crate::memory;
use pwal::internal::disk::Directory;
use pwal::internal::shared::{Control, Identity, ReadOnlyWords, State, WORDS_BYTES, Words, boot_id};
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
        // In memory, if there is such a place: the words are written again for each input.
        let memory = std::path::Path::new("/dev/shm");
        let root = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap();
        let directory = Directory::open(root.path()).unwrap();
        let control = Control::create(&directory, 0o600).unwrap();
        let words = control.words();
        words.set_identity(&Identity {
            boot_id: boot_id().unwrap(),
            log_id: 7,
            device: DEVICE,
            inode: INODE,
            generation: 1,
            block_bytes: 4096,
        });
        words.set_state(State::Ready);
        let me = words.attach(0, 70, "a program").unwrap();
        let slot = words.claim_snapshot_slot(me).unwrap();
        assert!(words.take_snapshot(slot, 0, 9));
        let path = root.path().join(pwal::internal::shared::CONTROL_NAME);
        let mut whole = std::fs::read(&path).unwrap();
        let end = whole.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        whole.truncate(end);
        let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        Scene { _root: root, directory, file, whole }
    }

    /// The words are as they were.
    fn restore(&self) {
        self.file.set_len(0).unwrap();
        self.file.set_len(WORDS_BYTES as u64).unwrap();
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
            let at = 8 * (input.u32() as usize % (WORDS_BYTES / 8));
            scene.file.write_all_at(&word(&mut input).to_ne_bytes(), at as u64).unwrap();
        }
        if cut & 15 == 15 {
            scene.file.set_len(WORDS_BYTES as u64 * u64::from(cut >> 4) / 16).unwrap();
        }
        memory::within(1 << 20, "the words", || {
            if let Ok(control) = Control::open(&scene.directory, DEVICE, INODE) {
                assert_eq!(control.words().state(), State::Ready);
                read(control.words());
                take_part(control.words());
            }
            if let Ok(observed) = Control::open_read_only(&scene.directory) {
                read(observed.words());
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

fn read(words: &ReadOnlyWords) {
    let _ = (words.identity(), words.state(), words.poisoned(), words.poison_outcome(), words.kept_by_poison());
    let _ = (words.is_being_poisoned(), words.is_replaced(), words.ended_below(), words.mode(), words.published());
    let _ = (words.cuts(), words.certified(), words.backfilled(), words.checkpoint_target(), words.recycled_below());
    let _ =
        (words.holders(), words.guard_holder(), words.grant_until_us(), words.is_active(), words.backfilled_pages());
    let _ = (words.last_commit(), words.last_cut(), words.certified_cut(), words.durable(), words.visible());
    let _ = (words.tail(), words.ring_is_half_full());
    if let Some(entry) = words.commit(words.published()) {
        let _ = entry.inline_pages().map(<[u32]>::len);
    }
    if let Some(cut) = words.cut(words.cuts()) {
        let _ = (cut.durable(), cut.end(4096));
    }
    for attached in words.attached(|owner| owner.slot % 2 == 0) {
        assert!(attached.command.len() <= 32 * 3);
        let _ = attached.to_json(9);
    }
    let _ = (words.processes().count(), words.snapshots().count());
}

fn take_part(words: &Words) {
    let _ = words.advance_visible();
    let _ = words.oldest_snapshot(|owner| owner.slot == 0);
    words.free_idle_snapshot_slots(|owner| owner.slot == 0);
    let _ = words.choose_checkpoint_target(|owner| owner.slot == 0);
    if let Some(me) = words.attach(1, 71, "another program") {
        if let Some(slot) = words.claim_snapshot_slot(me) {
            let _ = words.take_snapshot(slot, words.visible(), 9);
            words.free_snapshot_slot(slot);
        }
        words.set_process_waiting(me, 3);
        let _ = words.write().try_acquire(me, true);
        let _ = words.write().release(me);
        words.detach(me);
    }
}
