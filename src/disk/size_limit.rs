//! The limit of the length of files that this process writes (`RLIMIT_FSIZE`, `ulimit -f`). Another process may have made a longer
//! file: the kernel refuses a write beyond the limit, and shortens one that crosses it. A record that is written in part has
//! failed, and concerns all processes; so this process begins no commit in a file that is longer, and no write that crosses the
//! limit. Below the limit it writes: what it has to take back lies there. A limit that came after the file was opened shows by the
//! first write that the kernel refuses.

use rustix::fs::fstat;
use rustix::process::{Resource, getrlimit};
use std::fmt;
use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// Whether one open file is longer than the limit, as far as was looked.
#[derive(Debug)]
pub(super) struct SizeLimit(AtomicBool);

impl SizeLimit {
    pub(super) fn of(file: &File) -> SizeLimit {
        SizeLimit(AtomicBool::new(is_exceeded(file)))
    }

    /// Looks again: the file may have grown, and the limit may be another one.
    fn look(&self, file: &File) {
        self.0.store(is_exceeded(file), Relaxed);
    }

    /// The error of a write from `start` on (bytes from the start of the file) that the kernel has refused. Where all of it lies
    /// beyond the limit, which came after the file was opened, nothing is written.
    pub(super) fn refused(&self, error: io::Error, start: u64) -> io::Error {
        if error.raw_os_error() != Some(libc::EFBIG) {
            return error;
        }
        self.0.store(true, Relaxed);
        if limit().is_some_and(|limit| start >= limit) { too_long() } else { error }
    }

    /// # Errors
    /// The file is longer than the limit ([`is_refused_for_size`]).
    pub(super) fn check(&self, file: &File) -> io::Result<()> {
        self.check_to(file, u64::MAX)
    }

    /// Before a write that ends at `end` (bytes from the start of the file).
    ///
    /// # Errors
    /// The file is longer than the limit, and the write would cross it ([`is_refused_for_size`]).
    pub(super) fn check_to(&self, file: &File, end: u64) -> io::Result<()> {
        if self.0.load(Relaxed) {
            self.look(file);
            if self.0.load(Relaxed) && limit().is_some_and(|limit| end > limit) {
                return Err(too_long());
            }
        }
        Ok(())
    }
}

fn too_long() -> io::Error {
    io::Error::new(io::ErrorKind::FileTooLarge, TooLong)
}

/// In bytes; `None`: there is none.
fn limit() -> Option<u64> {
    getrlimit(Resource::Fsize).current
}

fn is_exceeded(file: &File) -> bool {
    let Some(limit) = limit() else { return false };
    fstat(file).is_ok_and(|stat| u64::try_from(stat.st_size).unwrap_or(0) > limit)
}

#[derive(Debug)]
struct TooLong;

impl fmt::Display for TooLong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the file is longer than this process may write one: raise its limit (ulimit -f)")
    }
}

impl std::error::Error for TooLong {}

/// Whether a write was refused, and nothing written, since the file is longer than the limit of this process.
#[must_use]
pub fn is_refused_for_size(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<TooLong>())
}
