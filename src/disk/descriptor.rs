//! Where every descriptor that the library keeps comes from.
//!
//! Three promises. No descriptor is 0, 1 or 2, as `robust_open` of SQLite: what a program prints after it closed its standard
//! streams would overwrite the file that has got the number. All are close-on-exec. And a process that has no
//! descriptor left has one more here: the reserve, a descriptor of `/dev/null` that is closed for an open that would fail
//! otherwise, and taken back with the next descriptor that is free.

use crate::sync::Mutex;
use rustix::fs::{FileType, Mode, OFlags, fstat, openat};
use rustix::io::{dup2, fcntl_dupfd_cloexec};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, IntoRawFd, OwnedFd, RawFd};
use std::path::Path;

/// As `SQLITE_MINIMUM_FILE_DESCRIPTOR`.
const LOWEST: RawFd = 3;

/// Only tried, never waited for: a forked child may inherit it locked.
static RESERVE: Mutex<Option<OwnedFd>> = Mutex::new(None);

/// Whether the process, or the system, has no descriptor left.
#[must_use]
pub fn is_out_of_descriptors(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
}

/// What a message adds to an error of the system: what the user can do about it.
#[must_use]
pub fn advice(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EMFILE) => "; the process has no file descriptor left: close files, or raise its limit (ulimit -n)",
        Some(libc::EFBIG) => "; the process may not make a file so long: raise its limit (ulimit -f)",
        Some(libc::ENFILE) => "; the machine has no file descriptor left: close files, or raise fs.file-max",
        _ => "",
    }
}

/// Opens `name`, relative to `at`. `make_room` closes a descriptor that can be opened again later, if there is one.
pub(super) fn open(
    at: impl AsFd,
    name: impl AsRef<Path>,
    flags: OFlags,
    mode: Mode,
    make_room: impl Fn() -> bool,
) -> io::Result<OwnedFd> {
    let attempt =
        || openat(&at, name.as_ref(), flags | OFlags::CLOEXEC | OFlags::NOCTTY, mode).map_err(io::Error::from);
    let opened = match attempt() {
        Err(error) if is_out_of_descriptors(&error) && make_room() => attempt(),
        other => other,
    };
    let opened = match opened {
        Err(error) if is_out_of_descriptors(&error) && release() => attempt(),
        other => other,
    }?;
    let opened = lift(opened)?;
    refill();
    Ok(opened)
}

/// As [`open`], for a regular file that is no symbolic link. What else has the name (a FIFO, a device) is not waited for.
pub(super) fn open_regular(
    at: impl AsFd,
    name: impl AsRef<Path>,
    flags: OFlags,
    mode: Mode,
    make_room: impl Fn() -> bool,
) -> io::Result<File> {
    let name = name.as_ref();
    let opened = open(at, name, flags | OFlags::NOFOLLOW | OFlags::NONBLOCK, mode, make_room);
    let opened = opened.map_err(|error| match error.raw_os_error() {
        Some(libc::ELOOP) => refused(format!("{} is a symbolic link, which is not followed", name.display())),
        Some(libc::ENXIO) => not_regular(name),
        _ => error,
    })?;
    if FileType::from_raw_mode(fstat(&opened)?.st_mode) != FileType::RegularFile {
        return Err(not_regular(name));
    }
    Ok(File::from(opened))
}

fn not_regular(name: &Path) -> io::Error {
    refused(format!("{} is not a regular file", name.display()))
}

/// What lies there is not used.
pub(super) fn refused(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, text)
}

/// The regular file at `path`, for reading.
///
/// # Errors
/// Any error of the file system; a symbolic link, or no regular file.
pub(crate) fn open_to_read(path: &Path) -> io::Result<File> {
    open_regular(rustix::fs::CWD, path, OFlags::RDONLY, Mode::empty(), || false)
}

/// The file at `path`, created if it is not there, for messages that are appended.
///
/// # Errors
/// Any error of the file system.
pub(crate) fn open_to_append(path: &Path) -> io::Result<File> {
    let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE;
    let mode = Mode::RUSR | Mode::WUSR | Mode::RGRP | Mode::WGRP | Mode::ROTH | Mode::WOTH;
    Ok(File::from(open(rustix::fs::CWD, path, flags, mode, || false)?))
}

/// The same file once more, for writes past the page cache. Where it cannot be had, the caller does without.
#[cfg(target_os = "linux")]
pub(super) fn open_to_write_directly(file: &File) -> io::Result<File> {
    let name = format!("/proc/self/fd/{}", file.as_raw_fd());
    let again = openat(rustix::fs::CWD, name, OFlags::WRONLY | OFlags::DIRECT | OFlags::CLOEXEC, Mode::empty())?;
    Ok(File::from(lift(again)?))
}

/// The same open file under a number from 3 on, with `/dev/null` under the low one.
fn lift(opened: OwnedFd) -> io::Result<OwnedFd> {
    if opened.as_raw_fd() >= LOWEST {
        return Ok(opened);
    }
    let mut low = opened;
    let high = fcntl_dupfd_cloexec(&low, LOWEST)?;
    let null = openat(rustix::fs::CWD, "/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    // Kept open, also by programs that are started from here: the next file that the process opens must not get the
    // number.
    dup2(&null, &mut low)?;
    let _kept_open = low.into_raw_fd();
    Ok(high)
}

/// False: there is no reserve, or another thread is just using it.
fn release() -> bool {
    !crate::drops("descriptor-reserve")
        && RESERVE.try_lock().and_then(|mut reserve| reserve.take_if(|reserve| is_below_limit(reserve))).is_some()
}

/// Whether another file may get the number of this descriptor: the limit may have been lowered since it was opened.
pub(super) fn is_below_limit(descriptor: impl AsFd) -> bool {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    limit.is_none_or(|limit| i64::from(descriptor.as_fd().as_raw_fd()) < i64::try_from(limit).unwrap_or(i64::MAX))
}

/// Takes the reserve back if it is missing and a descriptor is free.
pub(super) fn refill() {
    if let Some(mut reserve) = RESERVE.try_lock()
        && reserve.is_none()
    {
        let null = openat(rustix::fs::CWD, "/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
        *reserve = null.map_err(io::Error::from).and_then(lift).ok();
    }
}
