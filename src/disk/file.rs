//! A file of the log on the real file system, and the pool of open files.
//!
//! Writes are whole, however little the kernel takes at once, and reads go past the page cache where the file system
//! supports that.
//!
//! A log may have more files than its process has descriptors. So each directory has a pool: beyond [`IDLE_MAX`] files
//! it closes the least recently used ones, and any of them, of the other directories of the process too, when a
//! descriptor is missing. A file is opened again by its name when it is used next, and must be the same file then; one
//! that was deleted meanwhile is empty. Never closed is what this process has written and not synced, since a failure
//! to write it back is reported to the descriptors that were open then; and, except for another directory, what the
//! engine keeps open ([`LogFile::keep_open`]).

use super::aligned::DIRECT_ALIGN;
use super::descriptor;
use super::directory::{Access, Directory, FileIdentity};
use super::size_limit::SizeLimit;
use super::{LogFile, OpenMode};
use crate::sync::{Mutex, RwLock};
#[cfg(target_os = "linux")]
use rustix::fs::FallocateFlags;
use rustix::fs::OFlags;
#[cfg(target_os = "linux")]
use rustix::io::Errno;
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, IoSlice};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::ptr;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Weak};

/// One direct read at most, in bytes.
const DIRECT_PIECE: usize = 4 << 20;
/// One buffered write of zeros at most, in bytes (see `write_zeros`).
#[cfg(target_os = "linux")]
const ZEROS_BUFFERED: usize = 16384;
/// What `pwritev` takes at once (`IOV_MAX` of Linux).
#[cfg(target_os = "linux")]
const VECTORS_MAX: usize = 1024;
/// Files of one directory that stay open though nothing asks for it.
const IDLE_MAX: usize = 16;

/// The open files of one directory, the one that was opened or found in use longest ago first.
#[derive(Debug, Default)]
pub(super) struct Pool(Mutex<VecDeque<Weak<RealFile>>>);

/// The pools of all directories. Only tried, never waited for: a forked child may inherit it locked.
static POOLS: Mutex<Vec<Weak<Pool>>> = Mutex::new(Vec::new());

impl Pool {
    pub(super) fn new() -> Arc<Pool> {
        let pool = Arc::new(Pool::default());
        if let Some(mut pools) = POOLS.try_lock() {
            pools.retain(|other| other.strong_count() > 0);
            pools.push(Arc::downgrade(&pool));
        }
        pool
    }

    fn admit(&self, file: &Arc<RealFile>) {
        let mut open = self.0.lock();
        open.retain(|other| other.upgrade().is_some_and(|other| !Arc::ptr_eq(&other, file) && other.is_open()));
        while open.len() >= IDLE_MAX && close_one(&mut open, Which::Unused) {}
        // At the end: the others may be of those that stay open, and this one is about to be used.
        open.push_back(Arc::downgrade(file));
    }

    /// Closes a file that can be opened again, of another directory if there is none of this one; false: there is none at all.
    pub(super) fn close_one(&self) -> bool {
        let closed = close_one(&mut self.0.lock(), Which::Any);
        closed || self.others_close_one()
    }

    fn others_close_one(&self) -> bool {
        let others: Vec<Arc<Pool>> = match POOLS.try_lock() {
            Some(pools) => pools.iter().filter_map(Weak::upgrade).filter(|other| !ptr::eq(&**other, self)).collect(),
            None => return false,
        };
        others.iter().any(|other| other.0.try_lock().is_some_and(|mut open| close_one(&mut open, Which::Kept)))
    }
}

/// Which files may be closed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Which {
    /// That was not used since the last look.
    Unused,
    /// Also one that was.
    Any,
    /// Also one that is kept open: a database that has two segments open lets one go for another database, which has none.
    Kept,
}

fn close_one(open: &mut VecDeque<Weak<RealFile>>, which: Which) -> bool {
    for _ in 0..2 * open.len() {
        let Some(first) = open.pop_front() else { return false };
        let Some(file) = first.upgrade() else { continue };
        if file.close_if_idle(which) {
            return true;
        }
        if file.is_open() {
            open.push_back(first);
        }
    }
    false
}

/// A file of the log.
#[derive(Debug)]
pub(super) struct RealFile {
    directory: Arc<Directory>,
    pool: Arc<Pool>,
    name: String,
    how: OpenMode,
    identity: FileIdentity,
    /// `None`: closed for now.
    open: RwLock<Option<Opened>>,
    /// Used since the pool looked last.
    used: AtomicBool,
    /// Writes that have ended; and how many of these a successful sync has made durable. A write in progress when that
    /// sync began is counted after it.
    written: AtomicU64,
    synced: AtomicU64,
    keep: AtomicBool,
    openings: AtomicU64,
    this: Weak<RealFile>,
}

#[derive(Debug)]
struct Opened {
    file: File,
    limit: SizeLimit,
    /// Reads go past the page cache.
    is_direct: bool,
}

impl Opened {
    fn new(file: File, is_direct: bool) -> Opened {
        Opened { limit: SizeLimit::of(&file), file, is_direct }
    }
}

impl RealFile {
    /// Opens or creates the file `name`; a new one with the permission bits `mode`.
    pub(super) fn open(
        directory: &Arc<Directory>,
        pool: &Arc<Pool>,
        name: &str,
        how: OpenMode,
        mode: u32,
    ) -> io::Result<Arc<RealFile>> {
        let opened = if how == OpenMode::CreateNew {
            let file = directory.create_with(name, mode, || pool.close_one())?;
            Opened::new(file, false)
        } else {
            open_again(directory, pool, name, how)?
        };
        let identity = FileIdentity::of(&opened.file)?;
        let file = Arc::new_cyclic(|this| RealFile {
            directory: Arc::clone(directory),
            pool: Arc::clone(pool),
            name: name.to_owned(),
            how,
            identity,
            open: RwLock::new(Some(opened)),
            used: AtomicBool::new(true),
            written: AtomicU64::new(0),
            synced: AtomicU64::new(0),
            keep: AtomicBool::new(false),
            openings: AtomicU64::new(1),
            this: Weak::clone(this),
        });
        pool.admit(&file);
        Ok(file)
    }

    fn is_open(&self) -> bool {
        self.open.try_read().is_none_or(|open| open.is_some())
    }

    /// Runs `act` with the open file, which is opened again if it was closed.
    fn with<R>(&self, mut act: impl FnMut(&Opened) -> io::Result<R>) -> io::Result<R> {
        loop {
            if let Some(opened) = self.open.read().as_ref() {
                if !self.used.load(Relaxed) {
                    self.used.store(true, Relaxed);
                }
                return act(opened);
            }
            if let Some(result) = self.reopen_with(&mut act)? {
                return result;
            }
        }
    }

    /// Opens the file again and runs `act` before the pool can close it: where all others must stay open, this one is
    /// closed at once. `None`: another thread has opened it.
    fn reopen_with<R>(&self, act: &mut impl FnMut(&Opened) -> io::Result<R>) -> io::Result<Option<io::Result<R>>> {
        let mut open = self.open.write();
        if open.is_some() {
            return Ok(None);
        }
        let how = if self.how == OpenMode::CreateNew { OpenMode::Existing } else { self.how };
        let opened = open_again(&self.directory, &self.pool, &self.name, how)?;
        if FileIdentity::of(&opened.file)? != self.identity {
            return Err(descriptor::refused(format!("{} was replaced by another file", self.name)));
        }
        self.openings.fetch_add(1, SeqCst);
        let result = act(open.insert(opened));
        self.used.store(true, Relaxed);
        drop(open);
        if let Some(this) = self.this.upgrade() {
            self.pool.admit(&this);
        }
        Ok(Some(result))
    }

    fn close_if_idle(&self, which: Which) -> bool {
        if self.keep.load(SeqCst) && which != Which::Kept {
            return false;
        }
        if self.used.swap(false, Relaxed) && which == Which::Unused {
            return false;
        }
        let Some(mut open) = self.open.try_write() else { return false };
        // No write is under way now.
        if self.written.load(SeqCst) != self.synced.load(SeqCst) {
            return false;
        }
        let Some(opened) = &*open else { return false };
        if which != Which::Unused && !descriptor::is_below_limit(&opened.file) {
            return false;
        }
        *open = None;
        true
    }

    /// Runs `act`, which writes `bytes` from `offset` on.
    fn write_with<R>(&self, offset: u64, bytes: u64, mut act: impl FnMut(&File) -> io::Result<R>) -> io::Result<R> {
        self.with(|opened| {
            opened.limit.check_to(&opened.file, offset.saturating_add(bytes))?;
            let result = act(&opened.file);
            self.written.fetch_add(1, SeqCst);
            result.map_err(|error| opened.limit.refused(error, offset))
        })
    }
}

impl Drop for RealFile {
    fn drop(&mut self) {
        // Without a lock: a forked child may inherit it as another thread had it.
        *self.open.get_mut() = None;
        descriptor::refill();
    }
}

fn open_again(directory: &Directory, pool: &Pool, name: &str, how: OpenMode) -> io::Result<Opened> {
    let buffered = |access| {
        let file = directory.open_with(name, access, OFlags::empty(), || pool.close_one())?;
        Ok(Opened::new(file, false))
    };
    match how {
        OpenMode::CreateNew | OpenMode::Existing => buffered(Access::Write),
        OpenMode::ReadOnly => buffered(Access::Read),
        OpenMode::PastCache => open_past_cache(directory, pool, name),
    }
}

/// Opens `name` for reading what the medium holds.
fn open_past_cache(directory: &Directory, pool: &Pool, name: &str) -> io::Result<Opened> {
    #[cfg(target_os = "linux")]
    match directory.open_with(name, Access::Read, OFlags::DIRECT, || pool.close_one()) {
        Ok(file) => {
            // Some file systems take the flag and refuse the read.
            match read_direct(&file, &mut [0; 512], 0) {
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
                Err(error) => return Err(error),
                Ok(_) => return Ok(Opened::new(file, true)),
            }
        }
        Err(error) if error.raw_os_error() != Some(libc::EINVAL) => return Err(error),
        Err(_) => {}
    }
    let file = directory.open_with(name, Access::Read, OFlags::empty(), || pool.close_one())?;
    file.sync_all()?;
    #[cfg(target_os = "linux")]
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?;
    #[cfg(target_vendor = "apple")]
    rustix::fs::fcntl_nocache(&file, true)?;
    Ok(Opened::new(file, false))
}

impl LogFile for RealFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let read = self.with(|opened| {
            #[cfg(target_os = "linux")]
            if opened.is_direct {
                return read_direct(&opened.file, buffer, offset);
            }
            read_full(&opened.file, buffer, offset)
        });
        match read {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
            read => read,
        }
    }

    fn reads_past_cache(&self) -> bool {
        self.open.read().as_ref().is_some_and(|opened| opened.is_direct)
    }

    fn write_at(&self, parts: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        let bytes: u64 = parts.iter().map(|part| part.len() as u64).sum();
        self.write_with(offset, bytes, |file| write_all(file, parts, offset))
    }

    /// Directly, so that commits beside it do not wait for the write-back of the zeros; and so that the page cache does
    /// not hold the segment in large pieces: ext4 walks all 4 KiB buffers of a piece in each write to it (5 us for a
    /// batch of two blocks in a piece of 1 MiB, 3 us in one of its own size).
    #[cfg(target_os = "linux")]
    fn write_zeros(&self, bytes: usize, offset: u64) -> io::Result<bool> {
        let aligned = bytes.is_multiple_of(DIRECT_ALIGN) && offset.is_multiple_of(DIRECT_ALIGN as u64);
        self.write_with(offset, bytes as u64, |file| {
            if aligned && let Ok(direct) = descriptor::open_to_write_directly(file) {
                match zeros_to(&direct, bytes, offset, bytes) {
                    // Refused by the file system, or not aligned for it.
                    Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
                    other => return other.map(|()| true),
                }
            }
            zeros_to(file, bytes, offset, ZEROS_BUFFERED).map(|()| false)
        })
    }

    /// `fallocate`: extents that are known to be unwritten.
    #[cfg(target_os = "linux")]
    fn allocate(&self, bytes: u64) -> io::Result<bool> {
        let allocate = |file: &File| rustix::fs::fallocate(file, FallocateFlags::empty(), 0, bytes);
        self.write_with(0, bytes, |file| match rustix::io::retry_on_intr(|| allocate(file)) {
            Ok(()) => Ok(true),
            // Not this file system, not this kernel, or a filter of system calls.
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL | Errno::PERM) => Ok(false),
            Err(error) => Err(error.into()),
        })
    }

    /// `fdatasync`; on macOS the standard library asks for `F_FULLFSYNC`, which is at least what is needed.
    fn sync(&self) -> io::Result<()> {
        self.with(|opened| {
            let written = self.written.load(SeqCst);
            opened.file.sync_data()?;
            self.synced.fetch_max(written, SeqCst);
            Ok(())
        })
    }

    /// Without opening it again.
    fn bytes(&self) -> io::Result<u64> {
        if let Some(opened) = self.open.read().as_ref() {
            return Ok(opened.file.metadata()?.len());
        }
        let there = self.directory.identity_of(&self.name);
        match there.and_then(|there| Ok((there, self.directory.look_at(&self.name)?))) {
            Ok((there, stat)) if there == self.identity => u64::try_from(stat.st_size).map_err(io::Error::other),
            Ok(_) => Ok(0),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
            Err(error) => Err(error),
        }
    }

    fn truncate(&self) -> io::Result<()> {
        if self.how == OpenMode::ReadOnly || self.how == OpenMode::PastCache {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        // Nothing is left of it that a sync would have to make durable.
        self.with(|opened| {
            let written = self.written.load(SeqCst);
            opened.file.set_len(0)?;
            self.synced.fetch_max(written, SeqCst);
            Ok(())
        })
    }

    fn openings(&self) -> u64 {
        self.openings.load(SeqCst)
    }

    fn data(&self, from: u64) -> io::Result<Option<Range<u64>>> {
        self.with(|opened| super::data_of(&opened.file, from))
    }

    fn keep_open(&self, keep: bool) -> io::Result<()> {
        self.keep.store(keep, SeqCst);
        if keep {
            return self.with(|opened| opened.limit.check(&opened.file));
        }
        self.synced.fetch_max(self.written.load(SeqCst), SeqCst);
        Ok(())
    }
}

/// Writes all parts, whatever the kernel takes at once.
#[cfg(target_os = "linux")]
fn write_all(file: &File, parts: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
    let mut offset = offset;
    let mut at = 0;
    while at < parts.len() {
        let end = parts.len().min(at + VECTORS_MAX);
        let mut left: u64 = parts[at..end].iter().map(|part| part.len() as u64).sum();
        let mut written = write_some(file, &parts[at..end], offset)?;
        left -= written.min(left);
        offset += written;
        if left > 0 {
            // The kernel took less (2 GiB at once, a full disk, a signal): continue after it.
            let mut rest: Vec<IoSlice<'_>> = parts[at..end].iter().map(|part| IoSlice::new(part)).collect();
            let mut rest = rest.as_mut_slice();
            while left > 0 {
                IoSlice::advance_slices(&mut rest, usize::try_from(written).unwrap_or(usize::MAX));
                written = write_some(file, rest, offset)?;
                left -= written.min(left);
                offset += written;
            }
        }
        at = end;
    }
    Ok(())
}

#[cfg(not(target_os = "linux"))]
fn write_all(file: &File, parts: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
    let mut offset = offset;
    for part in parts {
        file.write_all_at(part, offset)?;
        offset += part.len() as u64;
    }
    Ok(())
}

/// Zeros at an address that direct writes accept.
#[cfg(target_os = "linux")]
#[repr(align(4096))]
struct Zeros([u8; 65536]);

#[cfg(target_os = "linux")]
static ZEROS: Zeros = Zeros([0; 65536]);

/// Zeros by calls of at most `piece` bytes.
#[cfg(target_os = "linux")]
fn zeros_to(file: &File, bytes: usize, offset: u64, piece: usize) -> io::Result<()> {
    let mut done = 0;
    while done < bytes {
        let now = piece.min(bytes - done);
        let parts = vec![IoSlice::new(&ZEROS.0); now / ZEROS.0.len()];
        let rest = IoSlice::new(&ZEROS.0[..now % ZEROS.0.len()]);
        write_all(file, &[parts, vec![rest]].concat(), offset + done as u64)?;
        done += now;
    }
    Ok(())
}

/// One `pwritev`; at least one byte, or an error.
#[cfg(target_os = "linux")]
fn write_some(file: &File, parts: &[IoSlice<'_>], offset: u64) -> io::Result<u64> {
    loop {
        match rustix::io::pwritev(file, parts, offset) {
            Ok(0) if parts.iter().any(|part| !part.is_empty()) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => return Ok(written as u64),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn read_full(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// Reads with `O_DIRECT`: into the buffer itself where it is aligned, or else through one that is.
#[cfg(target_os = "linux")]
fn read_direct(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let align = DIRECT_ALIGN as u64;
    // Not after the block that the file ends in: a process that was killed in the middle of a buffered write leaves
    // blocks there that ext4 has reserved and never wrote, and a direct read that touches one is EIO.
    let end = file.metadata()?.len().next_multiple_of(align);
    let mut filled = 0;
    let mut space = Vec::new();
    while filled < buffer.len() {
        let from = offset + filled as u64;
        let start = from - from % align;
        let skip = usize::try_from(from - start).unwrap_or(0);
        let there = usize::try_from(end.saturating_sub(start)).unwrap_or(usize::MAX);
        let left = &mut buffer[filled..];
        if skip == 0 && left.len() >= DIRECT_ALIGN && left.as_ptr().align_offset(DIRECT_ALIGN) == 0 {
            let wanted = (left.len() - left.len() % DIRECT_ALIGN).min(DIRECT_PIECE).min(there);
            if wanted == 0 {
                break;
            }
            let read = match file.read_at(&mut left[..wanted], from) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                other => other?,
            };
            filled += read;
            if read == 0 || read % DIRECT_ALIGN != 0 {
                break;
            }
            continue;
        }
        let wanted = (skip + buffer.len() - filled).next_multiple_of(DIRECT_ALIGN).min(DIRECT_PIECE).min(there);
        if wanted == 0 {
            break;
        }
        if space.len() < wanted + DIRECT_ALIGN {
            space = vec![0; wanted + DIRECT_ALIGN];
        }
        let aligned = space.as_ptr().align_offset(DIRECT_ALIGN);
        let bounce = &mut space[aligned..aligned + wanted];
        let read = match file.read_at(bounce, start) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            other => other?,
        };
        let piece = read.saturating_sub(skip).min(buffer.len() - filled);
        buffer[filled..filled + piece].copy_from_slice(&bounce[skip..skip + piece]);
        filled += piece;
        // A direct read ends short of an aligned place only at the end of the file.
        if piece == 0 || read % DIRECT_ALIGN != 0 {
            break;
        }
    }
    Ok(filled)
}
