//! The memory of the control block: the mapped file `<database>-pwal/control`, from the claim on; or private memory of
//! one process, where files cannot be shared.
//!
//! A mapped file must not become shorter: only the holder of `lock` replaces it, under a new inode. Memory that a
//! crashed machine leaves is worthless: the identity holds the boot id.

use super::SharedError;
use super::control_block::{
    COMMIT_BYTES, CONTROL_BYTES, ControlBlock, ControlView, EPOCH_RING_AT, HEAD_BYTES, LAYOUT_VERSION, MAGIC,
    SNAPSHOTS_AT, State,
};
use super::ring::COMMIT_RING;
use super::snapshots::{SNAPSHOT_BYTES, SNAPSHOT_SLOTS, SNAPSHOT_SPARE};
use crate::disk::{Access, Directory};
use crate::os::{boot_id, clock_offset_us};
use rustix::mm::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};
use rustix::param::page_size;
use std::ffi::c_void;
use std::fs::File;
use std::io;
use std::ops::{Range, RangeInclusive};
use std::os::unix::fs::FileExt;
use std::ptr::NonNull;

/// The name in the log directory.
pub const CONTROL_NAME: &str = "control";

/// What a log may have (rule S3), in bytes.
const BLOCKS: RangeInclusive<u64> = 4096..=65536;

/// Entries of the commit ring that are allocated at once: 16 KiB, a few microseconds.
const COMMITS_AT_ONCE: u64 = 128;

/// Snapshot slots that are allocated when the control block is made: with what lies before them some pages.
const SNAPSHOTS_AT_FIRST: usize = 32;

/// Snapshot slots that are allocated at once later: 16 KiB.
const SNAPSHOTS_AT_ONCE: usize = 256;

/// No file system has smaller blocks.
const BLOCK_MIN: usize = 512;

/// A mapping of `CONTROL_BYTES`.
#[derive(Debug)]
struct Mapping {
    address: NonNull<c_void>,
}

// SAFETY: the mapping is plain memory that any thread may use; all of it is atomics.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    fn anonymous() -> io::Result<Mapping> {
        // SAFETY: a new private mapping at an address of the kernel's choice touches no other memory.
        let address = unsafe {
            mmap_anonymous(
                std::ptr::null_mut(),
                CONTROL_BYTES,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE | MapFlags::NORESERVE,
            )
        }?;
        Mapping::of(address)
    }

    fn shared(file: &File, protection: ProtFlags) -> io::Result<Mapping> {
        // SAFETY: as above; the caller checked that the file is as long as the mapping.
        let address = unsafe { mmap(std::ptr::null_mut(), CONTROL_BYTES, protection, MapFlags::SHARED, file, 0) }?;
        let mapping = Mapping::of(address)?;
        #[cfg(test)]
        simulated::maps(address.expose_provenance());
        Ok(mapping)
    }

    fn of(address: *mut c_void) -> io::Result<Mapping> {
        NonNull::new(address).map(|address| Mapping { address }).ok_or_else(|| io::ErrorKind::OutOfMemory.into())
    }

    fn control(&self) -> &ControlView {
        // SAFETY: the mapping is page aligned, CONTROL_BYTES long and lives as long as `self`; any bytes are valid
        // atomics, and all other accesses are atomic too.
        unsafe { self.address.cast::<ControlView>().as_ref() }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        #[cfg(test)]
        simulated::unmaps(self.address.as_ptr().addr());
        // SAFETY: `address` came from mmap with this length, and every reference borrows from `self`.
        let _ = unsafe { munmap(self.address.as_ptr(), CONTROL_BYTES) };
    }
}

/// The control block of one engine, writable.
#[derive(Debug)]
pub struct ControlMapping {
    mapping: Mapping,
    /// What is mapped; `None`: memory of this process alone.
    file: Option<File>,
}

impl ControlMapping {
    /// ControlBlock in memory of this process alone, all zero; costs one system call, pages come as they are touched.
    ///
    /// # Errors
    /// The system has no memory.
    pub fn anonymous() -> io::Result<ControlMapping> {
        Ok(ControlMapping { mapping: Mapping::anonymous()?, file: None })
    }

    /// Creates the file in this directory with exactly the permission bits `mode` (an existing one is unlinked;
    /// processes that have mapped it keep it) and maps it shared, all zero, its state BUILDING. Allocated except for most
    /// snapshot slots and the rings: [`allocate_snapshots`](ControlMapping::allocate_snapshots),
    /// [`allocate_epochs`](ControlMapping::allocate_epochs), [`allocate_commit`](ControlMapping::allocate_commit). Under INIT.
    ///
    /// # Errors
    /// Any error of the file system; `StorageFull`: no file is left.
    pub fn create(directory: &Directory, mode: u32) -> io::Result<ControlMapping> {
        match directory.remove(CONTROL_NAME) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let made = ControlMapping::make(directory.create_file(CONTROL_NAME, mode)?);
        if made.is_err() {
            let _ = directory.remove(CONTROL_NAME);
        }
        made
    }

    fn make(file: File) -> io::Result<ControlMapping> {
        file.set_len(CONTROL_BYTES as u64)?;
        let first = space_at_first(page_size());
        allocate(&file, first.clone())?;
        allocate(&file, space_before_commits(page_size()))?;
        let mapping = Mapping::shared(&file, ProtFlags::READ | ProtFlags::WRITE)?;
        let made = ControlMapping { mapping, file: Some(file) };
        made.control().snapshot_slots().begin_allocated(snapshots_before(first.end, page_size()));
        Ok(made)
    }

    /// Maps the `control` that another process made, to share it: a complete control block of this layout, of this boot
    /// of the machine, and of the database file with this device and inode. Under INIT, and while there is another
    /// member.
    ///
    /// # Errors
    /// What differs, by name.
    pub fn open(directory: &Directory, device: u64, inode: u64) -> Result<ControlMapping, SharedError> {
        let path = &directory.path().join(CONTROL_NAME);
        let named = |source| SharedError::ControlOpen { file: path.clone(), source };
        let damaged = |reason: String| SharedError::ControlDamaged { file: path.clone(), reason };
        let file = directory.open_file(CONTROL_NAME, Access::Write).map_err(named)?;
        let mut head = [0; 16];
        file.read_exact_at(&mut head, 0).map_err(|error| damaged(error.to_string()))?;
        // Of another length in another version, so that is asked first.
        let [magic, version] = [&head[..8], &head[8..]].map(|word| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(word);
            u64::from_ne_bytes(bytes)
        });
        if magic != MAGIC {
            return Err(damaged(String::from("other bytes")));
        }
        if version != LAYOUT_VERSION {
            return Err(SharedError::OtherVersion { file: path.clone(), found: version, known: LAYOUT_VERSION });
        }
        let bytes = file.metadata().map_err(named)?.len();
        if bytes != CONTROL_BYTES as u64 {
            return Err(damaged(format!("{bytes} bytes instead of {CONTROL_BYTES}")));
        }
        let mapping = Mapping::shared(&file, ProtFlags::READ | ProtFlags::WRITE).map_err(named)?;
        let mapping = ControlMapping { mapping, file: Some(file) };
        let identity = mapping.control().identity();
        // 0 means that the boot id is unknown to either process: skip the check.
        if boot_id().is_ok_and(|boot| boot != identity.boot_id && boot != 0 && identity.boot_id != 0) {
            return Err(SharedError::OtherBoot { file: path.clone() });
        }
        if mapping.control().clock_offset_us() != clock_offset_us() {
            return Err(SharedError::OtherClock { file: path.clone() });
        }
        if (identity.device, identity.inode) != (device, inode) {
            return Err(SharedError::OtherDatabase { file: path.clone() });
        }
        if !identity.block_bytes.is_power_of_two() || !BLOCKS.contains(&identity.block_bytes) {
            return Err(damaged(format!("blocks of {} bytes", identity.block_bytes)));
        }
        if mapping.control().state() != State::Ready {
            // The process that builds it holds INIT.
            return Err(damaged(String::from("it was never completed")));
        }
        Ok(mapping)
    }

    /// Ensures that no store into further snapshot slots meets a full disk: allocates the next piece of them. False: there is none.
    /// At any time, by any process, also by several at once: what is stored in the slots stays.
    ///
    /// # Errors
    /// Any error of the file system.
    pub fn allocate_snapshots(&self) -> io::Result<bool> {
        let slots = self.control().snapshot_slots();
        let Some((file, space)) = self.file.as_ref().zip(space_of_snapshots(slots.allocated(), page_size())) else {
            return Ok(false);
        };
        let until = snapshots_before(space.end, page_size());
        allocate_beside_stores(file, space)?;
        slots.note_allocated(until);
        Ok(true)
    }

    /// Ensures that no store into the epoch ring meets a full disk. Before the first epoch record, and the first commit: under
    /// APPEND, in the first activation. It writes zeros.
    ///
    /// # Errors
    /// Any error of the file system.
    pub fn allocate_epochs(&self) -> io::Result<()> {
        self.file.as_ref().map_or(Ok(()), |file| allocate(file, space_of_epochs(page_size())))
    }

    /// Ensures that the store of the commit `sequence` into its ring meets no full disk: allocates the pieces of the ring up to
    /// its entry that are not yet. By the owner of WRITE, for the next commit: no store has gone there, so that zeros may be
    /// written, also once more after an owner that died in between.
    ///
    /// # Errors
    /// Any error of the file system.
    pub fn allocate_commit(&self, sequence: u64) -> io::Result<()> {
        let Some(file) = &self.file else { return Ok(()) };
        let control = self.control();
        // Its place in the ring, and in the first round also that of each commit before it.
        let needed = sequence.saturating_add(1).min(COMMIT_RING);
        let mut allocated = control.commits_allocated();
        while allocated < needed {
            let until = (allocated + COMMITS_AT_ONCE).min(COMMIT_RING);
            allocate(file, space_of_commits(allocated..until, page_size()))?;
            control.set_commits_allocated(until);
            allocated = until;
        }
        Ok(())
    }

    /// Whether other processes can share these words.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        self.file.is_some()
    }

    /// The control block.
    #[must_use]
    pub fn control(&self) -> &ControlBlock {
        // SAFETY: `ControlBlock` is a transparent wrapper of `ControlView`; this mapping is writable.
        unsafe { &*std::ptr::from_ref(self.mapping.control()).cast::<ControlBlock>() }
    }

    /// Maps the `control` of a live log for looking only: creates, locks and changes nothing.
    ///
    /// # Errors
    /// Any error of the file system; `InvalidData`, with a text, if it is not a `control` of this layout.
    pub fn open_read_only(directory: &Directory) -> io::Result<Observed> {
        let path = directory.path().join(CONTROL_NAME);
        let file = directory.open_file(CONTROL_NAME, Access::Read)?;
        let refuse =
            |why: String| Err(io::Error::new(io::ErrorKind::InvalidData, format!("{}: {why}", path.display())));
        let bytes = file.metadata()?.len();
        if bytes != CONTROL_BYTES as u64 {
            return refuse(format!("{bytes} bytes, a control file has {CONTROL_BYTES}"));
        }
        let observed = Observed { mapping: Mapping::shared(&file, ProtFlags::READ)? };
        match observed.control().layout() {
            (MAGIC, LAYOUT_VERSION) => Ok(observed),
            (MAGIC, version) => refuse(format!("layout version {version}, this program knows {LAYOUT_VERSION}")),
            _ => refuse(String::from("not a control file")),
        }
    }
}

/// The control block of a log that another process may be using, read-only.
#[derive(Debug)]
pub struct Observed {
    mapping: Mapping,
}

impl Observed {
    /// The control block. It changes under the reader: read `recycled_below` again after reading a segment.
    #[must_use]
    pub fn control(&self) -> &ControlView {
        self.mapping.control()
    }
}

// A store into the mapping needs the space of its whole page of memory, which may have several blocks of the file system (ext4
// of less than 512 MB has blocks of 1 KiB, and some kernels have pages of 64 KiB), or ends in SIGBUS where the disk is full. So
// what is allocated ends with a page, or begins with one.

/// What the control block begins with, to the end of the page with the first snapshot slots.
fn space_at_first(page_bytes: usize) -> Range<usize> {
    0..(SNAPSHOTS_AT + SNAPSHOTS_AT_FIRST * SNAPSHOT_BYTES).next_multiple_of(page_bytes)
}

/// The page in which the commit ring begins, with the last snapshot slots.
fn space_before_commits(page_bytes: usize) -> Range<usize> {
    HEAD_BYTES - HEAD_BYTES % page_bytes..HEAD_BYTES.next_multiple_of(page_bytes)
}

/// The next piece after the first `allocated` snapshot slots, which end with a page; `None`: all are allocated.
fn space_of_snapshots(allocated: usize, page_bytes: usize) -> Option<Range<usize>> {
    let [from, until] = [allocated, allocated + SNAPSHOTS_AT_ONCE].map(|slots| SNAPSHOTS_AT + slots * SNAPSHOT_BYTES);
    // From there on there is space, and commits are stored.
    let end = space_before_commits(page_bytes).start;
    (allocated < SNAPSHOT_SLOTS).then(|| from.min(end)..until.next_multiple_of(page_bytes).min(end))
}

/// The snapshot slots that have space if all before `end` has it.
fn snapshots_before(end: usize, page_bytes: usize) -> usize {
    let has_all = end >= space_before_commits(page_bytes).start;
    if has_all { SNAPSHOT_SLOTS } else { end.saturating_sub(SNAPSHOTS_AT) / SNAPSHOT_BYTES }
}

/// The epoch ring, from the beginning of a page: with the last entries of the commit ring.
fn space_of_epochs(page_bytes: usize) -> Range<usize> {
    EPOCH_RING_AT - EPOCH_RING_AT % page_bytes..CONTROL_BYTES
}

/// These entries of the commit ring, if those before them are allocated, and what follows them in their last page.
fn space_of_commits(entries: Range<u64>, page_bytes: usize) -> Range<usize> {
    let [from, to] = [entries.start, entries.end].map(|entry| HEAD_BYTES + entry as usize * COMMIT_BYTES);
    from..to.next_multiple_of(page_bytes).min(EPOCH_RING_AT)
}

/// Writes zeros to `range` (bytes) of the file, so that no store into the mapping meets a full disk. Not `fallocate`: the first
/// touch of space that was only allocated reads ahead (0.2 ms), and file systems that delay allocation need not
/// give the blocks back (0.2 to 2 ms with online discard) when the log of a short session is retired. In small pieces:
/// a store into the mapping makes all of its piece of the page cache dirty.
fn allocate(file: &File, range: Range<usize>) -> io::Result<()> {
    let zeros = [0; 16384];
    let mut offset = range.start;
    while offset < range.end {
        let part = zeros.len().min(range.end - offset);
        file.write_all_at(&zeros[..part], offset as u64)?;
        offset += part;
    }
    Ok(())
}

/// As [`allocate`], of snapshot slots that another process may use already: by words in which nothing is ever stored, one for each
/// block that a file system could have.
fn allocate_beside_stores(file: &File, slots: Range<usize>) -> io::Result<()> {
    for block in slots.step_by(BLOCK_MIN) {
        if crate::drops("snapshot-space-beside-stores") {
            file.write_all_at(&[0; BLOCK_MIN], block as u64)?;
        }
        file.write_all_at(&[0; 8], (block + SNAPSHOT_SPARE) as u64)?;
    }
    Ok(())
}

/// The mappings of simulated processes ([`crate::interleave`]), which end with a process before its threads do.
#[cfg(test)]
pub(crate) mod simulated {
    use super::{CONTROL_BYTES, MapFlags, ProtFlags, mmap_anonymous};
    use crate::interleave::process;
    use crate::sync::Mutex;

    /// Process and address.
    static MAPPED: Mutex<Vec<(u64, usize)>> = Mutex::new(Vec::new());

    pub(super) fn maps(address: usize) {
        if let Some(process) = process() {
            MAPPED.lock().push((process, address));
        }
    }

    pub(super) fn unmaps(address: usize) {
        MAPPED.lock().retain(|(_, mapped)| *mapped != address);
    }

    /// The process was killed: what its threads still do while they unwind is not visible.
    pub(crate) fn cut_off(process: u64) {
        let all = MAPPED.lock();
        for (_, address) in all.iter().filter(|(of, _)| *of == process) {
            let flags = MapFlags::PRIVATE | MapFlags::FIXED | MapFlags::NORESERVE;
            let at = std::ptr::with_exposed_provenance_mut(*address);
            // SAFETY: all of this range is one live mapping of ours, of atomics, for which any bytes are valid: a drop
            // takes it off the list first, under the mutex that is held here.
            let mapped = unsafe { mmap_anonymous(at, CONTROL_BYTES, ProtFlags::READ | ProtFlags::WRITE, flags) };
            assert_eq!(mapped.expect("memory").addr(), *address);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shared::Identity;
    use std::fs::OpenOptions;
    use std::mem::discriminant;
    use std::os::unix::fs::MetadataExt;
    use std::path::PathBuf;

    const DEVICE: u64 = 5;
    const INODE: u64 = 6;

    struct Made {
        directory: tempfile::TempDir,
        path: PathBuf,
    }

    /// A complete control file.
    fn made() -> Made {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(CONTROL_NAME);
        let mapping = ControlMapping::create(&Directory::open(directory.path()).unwrap(), 0o600).unwrap();
        mapping.control().set_identity(&Identity {
            boot_id: boot_id().unwrap(),
            log_id: 7,
            device: DEVICE,
            inode: INODE,
            block_bytes: 4096,
        });
        mapping.control().set_state(State::Ready);
        Made { directory, path }
    }

    impl Made {
        /// Stores a word, past all that maps the file.
        fn store(&self, offset: u64, word: u64) {
            let file = OpenOptions::new().write(true).open(&self.path).unwrap();
            file.write_all_at(&word.to_ne_bytes(), offset).unwrap();
        }

        fn open(&self) -> Result<ControlMapping, SharedError> {
            ControlMapping::open(&Directory::open(self.directory.path()).unwrap(), DEVICE, INODE)
        }

        fn error(&self) -> SharedError {
            self.open().unwrap_err()
        }
    }

    /// Else a store would be SIGBUS on a full disk whose blocks are smaller than a page of memory.
    #[test]
    fn whole_pages_of_memory_are_allocated_before_anything_is_stored_in_them() {
        for page in [4096, 16384, 65536] {
            let mut allocated = vec![false; CONTROL_BYTES];
            let mut allocate = |range: Range<usize>| allocated[range].fill(true);
            let first = space_at_first(page);
            allocate(first.clone());
            allocate(space_before_commits(page));
            allocate(space_of_epochs(page));
            let is_stored = |allocated: &[bool], bytes: Range<usize>| {
                let pages = bytes.start / page * page..bytes.end.next_multiple_of(page).min(CONTROL_BYTES);
                allocated[pages].iter().all(|byte| *byte)
            };
            let mut slots = snapshots_before(first.end, page);
            assert!(slots >= SNAPSHOTS_AT_FIRST, "{page}");
            loop {
                assert!(is_stored(&allocated, 0..SNAPSHOTS_AT + slots * SNAPSHOT_BYTES), "{page}, {slots}");
                let Some(space) = space_of_snapshots(slots, page) else { break };
                assert!(
                    space.end > space.start && space.end <= HEAD_BYTES,
                    "{page}, {slots}: commits are stored there"
                );
                slots = snapshots_before(space.end, page);
                allocated[space].fill(true);
            }
            assert!(is_stored(&allocated, 0..HEAD_BYTES), "{page}");
            assert!(is_stored(&allocated, EPOCH_RING_AT..CONTROL_BYTES), "{page}");
            for first in (0..COMMIT_RING).step_by(COMMITS_AT_ONCE as usize) {
                let until = first + COMMITS_AT_ONCE;
                let space = space_of_commits(first..until, page);
                assert!(space.end <= EPOCH_RING_AT, "{page}: epochs are stored there");
                assert_eq!(
                    space.start,
                    HEAD_BYTES + first as usize * COMMIT_BYTES,
                    "{page}: commits are stored before"
                );
                allocated[space.clone()].fill(true);
                assert!(
                    is_stored(&allocated, space.start..HEAD_BYTES + until as usize * COMMIT_BYTES),
                    "{page}, {first}"
                );
            }
        }
    }

    /// Another process may have found the same piece missing, and be late.
    #[test]
    fn what_snapshot_slots_hold_stays_when_their_space_is_allocated() {
        let made = made();
        let blocks = || std::fs::metadata(&made.path).unwrap().blocks() * 512;
        let mapping = made.open().unwrap();
        let (control, at_first) = (mapping.control(), blocks());
        let me = control.process_slots().acquire(0, 1, "").unwrap();
        let slots = control.snapshot_slots();
        let few = slots.allocated();
        assert!((SNAPSHOTS_AT_FIRST..SNAPSHOT_SLOTS).contains(&few) || page_size() > 65536);
        let late = space_of_snapshots(few, page_size()).unwrap();
        let mut claimed = 0..0;
        while mapping.allocate_snapshots().unwrap() {
            while let Some(slot) = slots.claim(me) {
                claimed.end += 1;
                assert!(control.take_snapshot(slot, claimed.end, claimed.end));
            }
        }
        assert_eq!((slots.claim(me), claimed.end), (None, SNAPSHOT_SLOTS as u64));
        assert!(blocks() >= at_first + (SNAPSHOT_SLOTS - few) as u64 * 60, "space for all of them");
        allocate_beside_stores(mapping.file.as_ref().unwrap(), late).unwrap();
        let seen: Vec<(u64, u64)> = control.snapshots().map(|seen| (seen.sequence, seen.since_us)).collect();
        assert_eq!(seen, (1..=claimed.end).map(|n| (n, n)).collect::<Vec<_>>());
    }

    #[test]
    fn what_one_maps_the_other_sees() {
        let made = made();
        let [one, other] = [(); 2].map(|()| made.open().unwrap());
        one.control().set_mode(1);
        assert_eq!(other.control().mode(), 1);
        assert!(other.is_shared());
    }

    #[test]
    fn what_cannot_be_shared_is_refused_by_name() {
        let made = made();
        // The offsets are those of the layout's table.
        let cases: &[(u64, u64, &str)] = &[
            (0, 1, "no control file (other bytes)"),
            (8, LAYOUT_VERSION - 1, "an older version of pwal"),
            (8, LAYOUT_VERSION + 1, "a newer version of pwal"),
            (16, 1, "another boot or another machine"),
            (40, DEVICE + 1, "another database file"),
            (48, INODE + 1, "another database file"),
            (56, 0, "blocks of 0 bytes"),
            (56, 4097, "blocks of 4097 bytes"),
            (128, 0, "never completed"),
        ];
        for (offset, word, told) in cases {
            let mut before = [0; 8];
            File::open(&made.path).unwrap().read_exact_at(&mut before, *offset).unwrap();
            made.store(*offset, *word);
            let error = made.error().to_string();
            assert!(error.contains(told), "{offset}: {error}");
            assert!(error.contains("control"), "which file: {error}");
            made.store(*offset, u64::from_ne_bytes(before));
            assert!(made.open().is_ok(), "{offset}");
        }
    }

    #[test]
    fn a_version_is_told_before_a_length_that_it_may_have_changed() {
        let made = made();
        made.store(8, LAYOUT_VERSION + 1);
        let file = OpenOptions::new().write(true).open(&made.path).unwrap();
        file.set_len(4096).unwrap();
        assert!(matches!(made.error(), SharedError::OtherVersion { .. }));
        made.store(8, LAYOUT_VERSION);
        assert!(made.error().to_string().contains("4096 bytes instead of"));
        file.set_len(10).unwrap();
        assert!(matches!(made.error(), SharedError::ControlDamaged { .. }));
        std::fs::remove_file(&made.path).unwrap();
        let gone = made.error();
        assert!(matches!(gone, SharedError::ControlOpen { .. }), "{gone}");
        std::os::unix::fs::symlink("/dev/zero", &made.path).unwrap();
        assert_eq!(discriminant(&made.error()), discriminant(&gone), "no symlink is followed");
    }
}
