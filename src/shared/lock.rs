//! `<database>-pwal/lock`: the locks that the kernel frees when their holder dies.
//!
//! Linux: byte ranges by OFD locks, which belong to the open file and so hold between two SQLite
//! libraries in one process. Elsewhere: `flock`, on the whole file whatever the range. The system
//! decides which, never a probe: the two do not exclude each other.
//!
//! | bytes | lock |
//! |---|---|
//! | 0 | INIT: join, recovery, last close |
//! | 1 | held, with all others, by a process that does not share the database |
//! | 16 + i | ALIVE(i): process slot i, i < 128 |
//! | 144 | STOCK: shared by connections that work as stock SQLite does, with its own `-wal` |

use super::process_slots::PROCESS_SLOTS;
use crate::disk::{Access, Directory};
use crate::interleave::{self, Instant};
use crate::os::{between_forks, close_in_child};
use crate::sync::Mutex;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::AtomicI32;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Weak};
use std::time::Duration;

/// The name in the log directory.
pub const LOCK_NAME: &str = "lock";
/// The byte of INIT.
pub const INIT_BYTE: u64 = 0;
/// INIT.
pub const INIT: Range<u64> = INIT_BYTE..INIT_BYTE + 1;
/// Held for life by a process that shares with no other; never without the others, only as part of [`WHOLE_LOCK`].
pub const ALONE: Range<u64> = 1..2;
/// The byte of ALIVE(0).
pub const ALIVE_BYTE: u64 = 16;
/// All locks: held by a process that does not share the database.
pub const WHOLE_LOCK: Range<u64> = 0..ALIVE_BYTE + PROCESS_SLOTS as u64;

/// STOCK: held, shared, by each connection of pwal that works beside stock SQLite, without the log. Not part of
/// [`WHOLE_LOCK`]: its holder does not have the log.
pub const STOCK: Range<u64> = WHOLE_LOCK.end..WHOLE_LOCK.end + 1;

/// Whether processes can hold different bytes at the same time. Otherwise only one process has a database.
pub const BYTE_RANGES: bool = cfg!(any(target_os = "linux", target_os = "android"));

const CLOSED: RawFd = -1;

/// Pauses between two looks at a lock that others hold: from, to.
const POLL_FIRST: Duration = Duration::from_micros(100);
const POLL_LAST: Duration = Duration::from_millis(5);

/// The open lock file. Dropping it closes the descriptor, and with the last descriptor of this open
/// file go its locks.
#[derive(Debug)]
pub struct LockFile {
    descriptor: Arc<AtomicI32>,
}

/// Every lock file of this process, for a forked child.
static OPEN: Mutex<Vec<Weak<AtomicI32>>> = Mutex::new(Vec::new());

/// In a forked child: closes every inherited lock file, as [`LockFile::close_inherited`].
fn close_all_inherited() {
    // Held only where the fork came from inside a call that holds it (`between_forks`): then its descriptors stay, and the
    // child's own attempts to open those databases are BUSY while the child lives.
    if let Some(open) = OPEN.try_lock() {
        for descriptor in open.iter().filter_map(Weak::upgrade) {
            close(&descriptor);
        }
    }
}

fn close(descriptor: &AtomicI32) {
    let descriptor = descriptor.swap(CLOSED, SeqCst);
    if descriptor != CLOSED {
        // SAFETY: the swap gave this call the only copy of an open descriptor.
        unsafe { libc::close(descriptor) };
    }
}

impl LockFile {
    /// Opens `lock` in this directory, or creates it with exactly the permission bits `mode`. Locks nothing.
    ///
    /// # Errors
    /// Any error of the file system; `NotFound` if the directory was removed.
    pub fn open(directory: &Directory, mode: u32) -> io::Result<LockFile> {
        close_in_child(close_all_inherited);
        loop {
            // Across the open: a child that is forked meanwhile would have a descriptor that is not in the list.
            let _no_fork = between_forks();
            let mut open = OPEN.lock();
            match directory.open_file(LOCK_NAME, Access::Write) {
                Ok(file) => return Ok(LockFile::of(file, &mut open)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
            match directory.create_file(LOCK_NAME, mode) {
                Ok(file) => return Ok(LockFile::of(file, &mut open)),
                // Created between the two calls.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn of(file: File, open: &mut Vec<Weak<AtomicI32>>) -> LockFile {
        let descriptor = Arc::new(AtomicI32::new(file.into_raw_fd()));
        #[cfg(test)]
        simulated::opens(&descriptor);
        open.retain(|other| other.strong_count() > 0);
        open.push(Arc::downgrade(&descriptor));
        LockFile { descriptor }
    }

    /// Takes `range` (bytes) for this open file. `Ok(false)`: another open file holds some of it.
    ///
    /// # Errors
    /// Any error of the file system, for example that it has no locks; `EBADF` after
    /// [`close_inherited`](LockFile::close_inherited).
    pub fn try_lock(&self, range: Range<u64>) -> io::Result<bool> {
        self.try_to(os::EXCLUSIVE, range)
    }

    /// Like [`try_lock`](LockFile::try_lock), shared.
    ///
    /// # Errors
    /// As [`try_lock`](LockFile::try_lock).
    pub fn try_lock_shared(&self, range: Range<u64>) -> io::Result<bool> {
        self.try_to(os::SHARED, range)
    }

    fn try_to(&self, take: libc::c_int, range: Range<u64>) -> io::Result<bool> {
        match os::lock(self.descriptor()?, range, take) {
            Ok(()) => Ok(true),
            Err(error) => match error.raw_os_error() {
                Some(code) if code == libc::EAGAIN || code == libc::EWOULDBLOCK || code == libc::EACCES => Ok(false),
                _ => Err(error),
            },
        }
    }

    /// Repeats [`try_lock`](LockFile::try_lock) for at most this time; `give_up` is asked in between.
    ///
    /// # Errors
    /// As [`try_lock`](LockFile::try_lock).
    pub fn lock_within(
        &self,
        range: Range<u64>,
        at_most: Duration,
        mut give_up: impl FnMut() -> io::Result<bool>,
    ) -> io::Result<bool> {
        let deadline = Instant::now() + at_most;
        let mut pause = POLL_FIRST;
        loop {
            if self.try_lock(range.clone())? {
                return Ok(true);
            }
            // The kernel has a call that waits, but not for a bounded time.
            if give_up()? || Instant::now() + pause > deadline {
                return Ok(false);
            }
            interleave::sleep(pause);
            pause = (pause * 2).min(POLL_LAST);
        }
    }

    /// Lets go of `range` (bytes).
    ///
    /// # Errors
    /// As [`try_lock`](LockFile::try_lock).
    pub fn unlock(&self, range: Range<u64>) -> io::Result<()> {
        os::lock(self.descriptor()?, range, os::UNLOCK)
    }

    /// Whether another open file holds any lock of `range` (bytes).
    ///
    /// # Errors
    /// As [`try_lock`](LockFile::try_lock).
    pub fn is_held_by_others(&self, range: Range<u64>) -> io::Result<bool> {
        os::is_held(self.descriptor()?, range, os::EXCLUSIVE)
    }

    /// Closes the file: its locks are free, and nothing can be locked any more.
    pub fn close(&self) {
        // A child that is forked in the middle of it would have a descriptor that it takes for closed.
        let _no_fork = between_forks();
        close(&self.descriptor);
    }

    /// Whether the path of `directory` still leads to this file. To be checked after a lock was taken, since the last
    /// holder may have deleted the file, or moved the directory away, in between; if not, start again.
    ///
    /// # Errors
    /// Any error of the file system, but not "is not there", which is `Ok(false)`.
    pub fn is_in(&self, directory: &Directory) -> io::Result<bool> {
        Ok(self.with_file(|file| directory.has(LOCK_NAME, file))? && directory.is_current()?)
    }

    /// Whether the file has no name any more.
    ///
    /// # Errors
    /// Any error of the file system.
    pub fn is_deleted(&self) -> io::Result<bool> {
        self.with_file(|file| Ok(file.metadata()?.nlink() == 0))
    }

    fn with_file<R>(&self, look: impl FnOnce(&File) -> io::Result<R>) -> io::Result<R> {
        // SAFETY: the descriptor is open as long as `self` is; `ManuallyDrop` keeps this `File` from closing it.
        let file = std::mem::ManuallyDrop::new(unsafe { File::from_raw_fd(self.descriptor()?) });
        look(&file)
    }

    /// In a forked child: closes the inherited descriptor and never unlocks, since an unlock would
    /// take the parent's lock away. Safe between `fork` and `exec`: one atomic and one `close`.
    pub fn close_inherited(&self) {
        close(&self.descriptor);
    }

    fn descriptor(&self) -> io::Result<RawFd> {
        match self.descriptor.load(SeqCst) {
            CLOSED => Err(io::Error::from_raw_os_error(libc::EBADF)),
            descriptor => Ok(descriptor),
        }
    }
}

/// The lock files of simulated processes ([`crate::interleave`]), whose locks end with the process.
#[cfg(test)]
pub(crate) mod simulated {
    use super::{Arc, AtomicI32, Mutex, Weak, close};

    static OPENED: Mutex<Vec<(u64, Weak<AtomicI32>)>> = Mutex::new(Vec::new());

    pub(super) fn opens(descriptor: &Arc<AtomicI32>) {
        if let Some(process) = crate::interleave::process() {
            let mut opened = OPENED.lock();
            opened.retain(|(_, other)| other.strong_count() > 0);
            opened.push((process, Arc::downgrade(descriptor)));
        }
    }

    /// The process was killed.
    pub(crate) fn cut_off(process: u64) {
        let opened = OPENED.lock();
        for (_, descriptor) in opened.iter().filter(|(of, _)| *of == process) {
            if let Some(descriptor) = descriptor.upgrade() {
                close(&descriptor);
            }
        }
    }
}

/// An inspection of the lock file: creates, takes and changes nothing, so that no process is refused because of it.
#[derive(Debug)]
pub struct LockProbe {
    file: File,
}

impl LockProbe {
    /// Of `lock` in this directory; `None`: there is no such file.
    ///
    /// # Errors
    /// Any error of the file system.
    pub fn open(directory: &Directory) -> io::Result<Option<LockProbe>> {
        match directory.open_file(LOCK_NAME, Access::Read) {
            Ok(file) => Ok(Some(LockProbe { file })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Of another file, to see whether its file system has locks.
    #[must_use]
    pub fn of(file: File) -> LockProbe {
        LockProbe { file }
    }

    /// Whether a process, this one too, holds any byte of `range`; where there are no byte ranges: any lock at all.
    ///
    /// # Errors
    /// Any error of the file system.
    pub fn is_held(&self, range: Range<u64>) -> io::Result<bool> {
        os::is_held(self.file.as_raw_fd(), range, os::EXCLUSIVE)
    }

    /// Whether a process holds any byte of `range` exclusively.
    ///
    /// # Errors
    /// Any error of the file system.
    pub fn is_held_alone(&self, range: Range<u64>) -> io::Result<bool> {
        os::is_held(self.file.as_raw_fd(), range, os::SHARED)
    }

    /// Whether the process in slot `slot` is alive: its ALIVE byte is held.
    ///
    /// # Errors
    /// Any error of the file system.
    pub fn is_alive(&self, slot: u16) -> io::Result<bool> {
        let byte = ALIVE_BYTE + u64::from(slot);
        self.is_held(byte..byte + 1)
    }
}

/// Whether a process holds any of the locks of `lock` in the directory at `path`; `None`: there is no such file. Like
/// [`LockProbe`].
///
/// # Errors
/// Any error of the file system; a directory that is a symbolic link.
pub fn lock_is_held(path: &Path) -> io::Result<Option<bool>> {
    probe_at(path)?.map(|probe| probe.is_held(WHOLE_LOCK)).transpose()
}

/// How connections of pwal use a database that has no log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnStockWal {
    /// None does.
    No,
    /// On stock SQLite's own `-wal`, beside a connection that is not on pwal.
    Shared,
    /// One does, in `locking_mode=EXCLUSIVE`, on stock SQLite's own `-wal`.
    Alone,
}

/// How connections of pwal use the database, by `lock` in the directory at `path`. As [`LockProbe`].
///
/// # Errors
/// As [`lock_is_held`].
pub fn on_stock_wal(path: &Path) -> io::Result<OnStockWal> {
    Ok(match probe_at(path)? {
        Some(probe) if probe.is_held_alone(STOCK)? => OnStockWal::Alone,
        Some(probe) if probe.is_held(STOCK)? => OnStockWal::Shared,
        _ => OnStockWal::No,
    })
}

fn probe_at(path: &Path) -> io::Result<Option<LockProbe>> {
    match Directory::open(path) {
        Ok(directory) => LockProbe::open(&directory),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

impl Drop for LockFile {
    fn drop(&mut self) {
        self.close();
    }
}

#[cfg(any(target_os = "linux", target_os = "android"))]
mod os {
    use super::{Range, RawFd, io};

    pub(super) const EXCLUSIVE: libc::c_int = libc::F_WRLCK as libc::c_int;
    pub(super) const SHARED: libc::c_int = libc::F_RDLCK as libc::c_int;
    pub(super) const UNLOCK: libc::c_int = libc::F_UNLCK as libc::c_int;

    fn describe(range: Range<u64>, kind: libc::c_int) -> io::Result<libc::flock> {
        let offset =
            |bytes: u64| libc::off_t::try_from(bytes).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput));
        // l_len 0 would mean "to the end of the file".
        if range.is_empty() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        // SAFETY: `flock` is plain data; the calls on OFD locks want its l_pid 0.
        let mut what: libc::flock = unsafe { std::mem::zeroed() };
        what.l_type = kind as libc::c_short;
        what.l_whence = libc::SEEK_SET as libc::c_short;
        what.l_start = offset(range.start)?;
        what.l_len = offset(range.end - range.start)?;
        Ok(what)
    }

    /// Whether a lock that is held conflicts with `take`.
    pub(super) fn is_held(descriptor: RawFd, range: Range<u64>, take: libc::c_int) -> io::Result<bool> {
        let mut what = describe(range, take)?;
        // SAFETY: F_OFD_GETLK reads and writes one `flock` at the pointer.
        if unsafe { libc::fcntl(descriptor, libc::F_OFD_GETLK, &raw mut what) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(what.l_type != libc::F_UNLCK as libc::c_short)
    }

    pub(super) fn lock(descriptor: RawFd, range: Range<u64>, take: libc::c_int) -> io::Result<()> {
        let what = describe(range, take)?;
        loop {
            // SAFETY: F_OFD_SETLK reads one `flock` at the pointer and does not wait.
            if unsafe { libc::fcntl(descriptor, libc::F_OFD_SETLK, &raw const what) } == 0 {
                return Ok(());
            }
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
mod os {
    use super::{Range, RawFd, io};

    pub(super) const EXCLUSIVE: libc::c_int = libc::LOCK_EX | libc::LOCK_NB;
    pub(super) const SHARED: libc::c_int = libc::LOCK_SH | libc::LOCK_NB;
    pub(super) const UNLOCK: libc::c_int = libc::LOCK_UN;

    /// `flock` has no question. On the systems that come here it shares its lock list with `fcntl`, which has.
    pub(super) fn is_held(descriptor: RawFd, _range: Range<u64>, take: libc::c_int) -> io::Result<bool> {
        // SAFETY: `flock` is plain data.
        let mut what: libc::flock = unsafe { std::mem::zeroed() };
        what.l_type = if take == SHARED { libc::F_RDLCK } else { libc::F_WRLCK } as libc::c_short;
        what.l_whence = libc::SEEK_SET as libc::c_short;
        // SAFETY: F_GETLK reads and writes one `flock` at the pointer.
        if unsafe { libc::fcntl(descriptor, libc::F_GETLK, &raw mut what) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(what.l_type != libc::F_UNLCK as libc::c_short)
    }

    pub(super) fn lock(descriptor: RawFd, _range: Range<u64>, take: libc::c_int) -> io::Result<()> {
        loop {
            // SAFETY: flock takes a descriptor and flags, no memory.
            if unsafe { libc::flock(descriptor, take) } == 0 {
                return Ok(());
            }
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn two_open_files_of_one_process_exclude_each_other() {
        let directory = tempfile::tempdir().unwrap();
        let place = Directory::open(directory.path()).unwrap();
        let one = LockFile::open(&place, 0o600).unwrap();
        let other = LockFile::open(&place, 0o600).unwrap();
        assert!(one.try_lock(WHOLE_LOCK).unwrap());
        assert!(one.try_lock(WHOLE_LOCK).unwrap(), "again by the same open file");
        assert!(!other.try_lock(WHOLE_LOCK).unwrap());
        assert!(!other.try_lock(INIT_BYTE..INIT_BYTE + 1).unwrap());
        one.unlock(WHOLE_LOCK).unwrap();
        assert!(other.try_lock(WHOLE_LOCK).unwrap());
        drop(other);
        assert!(one.try_lock(WHOLE_LOCK).unwrap(), "a close frees");
    }

    #[test]
    fn a_look_sees_the_lock_and_takes_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let place = Directory::open(directory.path()).unwrap();
        assert_eq!(lock_is_held(directory.path()).unwrap(), None);
        assert!(!directory.path().join(LOCK_NAME).exists());
        let lock = LockFile::open(&place, 0o600).unwrap();
        assert_eq!(lock_is_held(directory.path()).unwrap(), Some(false));
        assert!(lock.try_lock(INIT_BYTE..INIT_BYTE + 1).unwrap());
        assert_eq!(lock_is_held(directory.path()).unwrap(), Some(true));
        drop(lock);
        assert_eq!(lock_is_held(directory.path()).unwrap(), Some(false));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_look_tells_the_living_slots_from_the_others() {
        let directory = tempfile::tempdir().unwrap();
        let place = Directory::open(directory.path()).unwrap();
        assert!(LockProbe::open(&place).unwrap().is_none());
        let lock = LockFile::open(&place, 0o600).unwrap();
        let probe = LockProbe::open(&place).unwrap().unwrap();
        assert!(lock.try_lock(ALIVE_BYTE + 3..ALIVE_BYTE + 4).unwrap());
        let alive: Vec<u16> = (0..PROCESS_SLOTS as u16).filter(|slot| probe.is_alive(*slot).unwrap()).collect();
        assert_eq!(alive, [3]);
        assert!(!probe.is_held(INIT_BYTE..INIT_BYTE + 1).unwrap());
        drop(probe);
        let other = LockFile::open(&place, 0o600).unwrap();
        assert!(!other.try_lock(ALIVE_BYTE + 3..ALIVE_BYTE + 4).unwrap(), "the end of a look frees nothing");
        drop(lock);
        assert!(!LockProbe::open(&place).unwrap().unwrap().is_alive(3).unwrap());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn ranges_are_separate() {
        let directory = tempfile::tempdir().unwrap();
        let place = Directory::open(directory.path()).unwrap();
        let one = LockFile::open(&place, 0o600).unwrap();
        let other = LockFile::open(&place, 0o600).unwrap();
        assert!(one.try_lock(ALIVE_BYTE..ALIVE_BYTE + 1).unwrap());
        assert!(other.try_lock(ALIVE_BYTE + 1..ALIVE_BYTE + 2).unwrap());
        assert!(!other.try_lock(ALIVE_BYTE..ALIVE_BYTE + 2).unwrap());
        assert!(one.try_lock(5..5).is_err(), "an empty range is not the whole file");
    }

    #[test]
    fn the_mode_is_exact_and_the_path_is_compared() {
        let directory = tempfile::tempdir().unwrap();
        let place = Directory::open(directory.path()).unwrap();
        let path = directory.path().join(LOCK_NAME);
        let lock = LockFile::open(&place, 0o666).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o666);
        assert!(lock.is_in(&place).unwrap());
        std::fs::remove_file(&path).unwrap();
        assert!(!lock.is_in(&place).unwrap());
        assert!(lock.is_deleted().unwrap());
        let newer = LockFile::open(&place, 0o600).unwrap();
        assert!(!lock.is_in(&place).unwrap());
        assert!(newer.is_in(&place).unwrap() && !newer.is_deleted().unwrap());
        std::fs::rename(directory.path(), directory.path().with_extension("moved")).unwrap();
        assert!(!newer.is_in(&place).unwrap(), "the directory is another one's by now");
        std::fs::rename(directory.path().with_extension("moved"), directory.path()).unwrap();
        assert!(newer.is_in(&place).unwrap());
        std::fs::remove_file(&path).unwrap();
        std::fs::remove_dir(directory.path()).unwrap();
        assert_eq!(LockFile::open(&place, 0o600).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn an_inherited_descriptor_is_closed_without_unlocking() {
        let directory = tempfile::tempdir().unwrap();
        let place = Directory::open(directory.path()).unwrap();
        let parent = LockFile::open(&place, 0o600).unwrap();
        assert!(parent.try_lock(WHOLE_LOCK).unwrap());
        // A duplicate shares the open file, as a forked child's descriptor does.
        // SAFETY: F_DUPFD_CLOEXEC takes an open descriptor and gives a new one.
        let duplicate = unsafe { libc::fcntl(parent.descriptor().unwrap(), libc::F_DUPFD_CLOEXEC, 0) };
        assert!(duplicate >= 0);
        let child = LockFile { descriptor: Arc::new(AtomicI32::new(duplicate)) };
        child.close_inherited();
        child.close_inherited();
        assert!(child.try_lock(WHOLE_LOCK).is_err());
        assert!(child.unlock(WHOLE_LOCK).is_err());
        let other = LockFile::open(&place, 0o600).unwrap();
        assert!(!other.try_lock(WHOLE_LOCK).unwrap(), "the parent's lock stays");
    }
}
