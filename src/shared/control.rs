//! The memory behind the words: anonymous at first, `<database>-pwal/control` from activation on.
//!
//! Who maps the file must not find it shorter later: only who holds `lock` replaces it, under a new
//! inode. Memory that a killed machine leaves is worthless: the identity holds the boot id.

use super::words::{
    COMMIT_RING, CUT_RING, LAYOUT_VERSION, MAGIC, ReadOnlyWords, SNAPSHOT_SLOTS, State, WORDS_BYTES, Words,
};
use rustix::mm::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};
use std::ffi::c_void;
use std::fs::{File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};

/// The name in the log directory.
pub const CONTROL_NAME: &str = "control";

/// A mapping of `WORDS_BYTES`.
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
                WORDS_BYTES,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE | MapFlags::NORESERVE,
            )
        }?;
        Mapping::of(address)
    }

    fn shared(file: &File, protection: ProtFlags) -> io::Result<Mapping> {
        // SAFETY: as above; the caller checked that the file is as long as the mapping.
        let address = unsafe { mmap(std::ptr::null_mut(), WORDS_BYTES, protection, MapFlags::SHARED, file, 0) }?;
        Mapping::of(address)
    }

    fn of(address: *mut c_void) -> io::Result<Mapping> {
        NonNull::new(address).map(|address| Mapping { address }).ok_or_else(|| io::ErrorKind::OutOfMemory.into())
    }

    /// All of it as words, also what is padding in the structure.
    fn cells(&self) -> &[AtomicU64] {
        // SAFETY: as in `words`.
        unsafe { std::slice::from_raw_parts(self.address.cast::<AtomicU64>().as_ptr(), WORDS_BYTES / 8) }
    }

    fn words(&self) -> &ReadOnlyWords {
        // SAFETY: the mapping is page aligned, WORDS_BYTES long and lives as long as `self`; any bytes
        // are valid atomics, and everybody else accesses them as atomics too.
        unsafe { self.address.cast::<ReadOnlyWords>().as_ref() }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: `address` came from mmap with this length, and every reference borrows from `self`.
        let _ = unsafe { munmap(self.address.as_ptr(), WORDS_BYTES) };
    }
}

/// The shared words of one engine, writable.
#[derive(Debug)]
pub struct Control {
    mapping: Mapping,
}

impl Control {
    /// Words in memory of this process alone, all zero; costs one system call, pages come as they are touched.
    ///
    /// # Errors
    /// The system has no memory.
    pub fn anonymous() -> io::Result<Control> {
        Ok(Control { mapping: Mapping::anonymous()? })
    }

    /// Creates the file at `path` with exactly the permission bits `mode` (what was there is unlinked;
    /// who has mapped that keeps it), allocates all of it, fills it from `from` and maps it shared.
    /// Its state is READY when this returns; `from` must hold its identity.
    ///
    /// Stores to `from` that come after this has read them are not in the file: the caller keeps
    /// everybody out of `from` meanwhile (WRITE and INIT held, registering and ending snapshots
    /// under the mutex that the switch takes), keeps `from` mapped, and wakes who waits on its words.
    ///
    /// # Errors
    /// Any error of the file system; `StorageFull`: nothing is left behind.
    pub fn create(path: &Path, mode: u32, from: &Control) -> io::Result<Control> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(mode).open(path)?;
        let filled = Control::fill(&file, mode, from);
        if filled.is_err() {
            let _ = std::fs::remove_file(path);
        }
        filled
    }

    fn fill(file: &File, mode: u32, from: &Control) -> io::Result<Control> {
        file.set_permissions(Permissions::from_mode(mode & 0o7777))?;
        allocate(file)?;
        let control = Control { mapping: Mapping::shared(file, ProtFlags::READ | ProtFlags::WRITE)? };
        copy(&from.mapping, &control.mapping);
        control.words().set_state(State::Ready);
        Ok(control)
    }

    /// The words.
    #[must_use]
    pub fn words(&self) -> &Words {
        // SAFETY: `Words` is a transparent wrapper of `ReadOnlyWords`; this mapping is writable.
        unsafe { &*std::ptr::from_ref(self.mapping.words()).cast::<Words>() }
    }

    /// Maps the `control` of a live log for looking only: creates, locks and changes nothing.
    ///
    /// # Errors
    /// Any error of the file system; `InvalidData`, with a text, if it is not a `control` of this layout.
    pub fn open_read_only(path: &Path) -> io::Result<Observed> {
        let file = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(path)?;
        let refuse =
            |why: String| Err(io::Error::new(io::ErrorKind::InvalidData, format!("{}: {why}", path.display())));
        let bytes = file.metadata()?.len();
        if bytes != WORDS_BYTES as u64 {
            return refuse(format!("{bytes} bytes, a control file has {WORDS_BYTES}"));
        }
        let observed = Observed { mapping: Mapping::shared(&file, ProtFlags::READ)? };
        match observed.words().layout() {
            (MAGIC, LAYOUT_VERSION) => Ok(observed),
            (MAGIC, version) => refuse(format!("layout version {version}, this program knows {LAYOUT_VERSION}")),
            _ => refuse(String::from("not a control file")),
        }
    }
}

/// The shared words of a log that somebody else may be using, for looking only.
#[derive(Debug)]
pub struct Observed {
    mapping: Mapping,
}

impl Observed {
    /// The words. They change under the reader: read `recycled_below` again after reading a slot.
    #[must_use]
    pub fn words(&self) -> &ReadOnlyWords {
        self.mapping.words()
    }
}

/// Writes the file to its size, so that no store into the mapping meets a full disk. Not `fallocate`: the first
/// touch of space that was only allocated reads ahead (0.2 ms), and file systems that delay allocation need not
/// give the blocks back (0.2 to 2 ms with online discard) when the log of a short session is retired. In small pieces:
/// a store into the mapping makes all of its piece of the page cache dirty.
fn allocate(file: &File) -> io::Result<()> {
    let zeros = [0; 16384];
    let mut offset = 0;
    while offset < WORDS_BYTES {
        let part = zeros.len().min(WORDS_BYTES - offset);
        file.write_all_at(&zeros[..part], offset as u64)?;
        offset += part;
    }
    Ok(())
}

/// Copies what is not zero: of the rings only what was published and cut, so that fresh pages of either
/// side stay untouched.
fn copy(from: &Mapping, to: &Mapping) {
    let line = |first: usize, lines: usize| {
        let place = first..first + lines * 8;
        for (source, sink) in from.cells()[place.clone()].iter().zip(&to.cells()[place]) {
            let value = source.load(SeqCst);
            if value != 0 {
                sink.store(value, Relaxed);
            }
        }
    };
    let ring = WORDS_BYTES / 8 - (COMMIT_RING + CUT_RING) as usize * 8;
    let snapshots = ring - SNAPSHOT_SLOTS * 8;
    line(0, snapshots / 8 + SNAPSHOT_SLOTS);
    let (published, cuts) = (from.words().published(), from.words().cuts());
    for sequence in (published + 1).saturating_sub(COMMIT_RING)..=published {
        line(ring + (sequence % COMMIT_RING) as usize * 8, 1);
    }
    for epoch in (cuts + 1).saturating_sub(CUT_RING)..=cuts {
        line(ring + (COMMIT_RING + epoch % CUT_RING) as usize * 8, 1);
    }
}
