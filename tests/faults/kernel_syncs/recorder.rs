//! Records the calls by which this process changes a directory, below SQLite, pwal and libc.
//!
//! A seccomp filter stops each such call of this thread, and of all that it starts from now on, before the kernel has seen it,
//! and notifies a thread that the filter does not cover. That one makes the same call with the same arguments (it has the same
//! memory and the same descriptors), writes down what was done, and lets the stopped thread go on with the result. So the calls
//! come one after the other, and the record says in which order they were made: a sync that is written down was over before
//! the next call began. Several processes may write to one file of records: they take turns by a lock on it.

use super::trace::Call;
use std::ffi::{CStr, CString, c_char};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock};
use support::seccomp::{self, Answer, Listener};

/// What is stopped: all calls of Linux that change a file or directory or make it durable, and those that kill.
const CALLS: &[i64] = &[
    #[cfg(target_arch = "x86_64")]
    libc::SYS_open,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_creat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_rename,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_link,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_unlink,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_mkdir,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_rmdir,
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_linkat,
    libc::SYS_unlinkat,
    libc::SYS_mkdirat,
    libc::SYS_write,
    libc::SYS_pwrite64,
    libc::SYS_writev,
    libc::SYS_pwritev,
    libc::SYS_pwritev2,
    libc::SYS_truncate,
    libc::SYS_ftruncate,
    libc::SYS_fallocate,
    libc::SYS_copy_file_range,
    libc::SYS_sendfile,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_sync_file_range,
    libc::SYS_sync,
    libc::SYS_syncfs,
    libc::SYS_kill,
    libc::SYS_tkill,
    libc::SYS_tgkill,
];

/// A failure that a call is to be answered with.
#[derive(Clone, Debug)]
pub enum Failure {
    /// The write of the next batch: everything is written.
    BatchWrite,
    /// The sync behind the next batch: nothing is synced.
    BatchSync,
    /// The next sync of the file with this inode.
    Sync(u64),
    /// The next write to such a file ([`SPACE`]: of zeros to a segment) is the last call of this process.
    Death(&'static str),
}

/// Stands for the writes that give a segment its space.
pub const SPACE: &str = "space";

struct Recorder {
    root: PathBuf,
    records: File,
    failure: Option<Failure>,
}

/// The descriptor of marks.
const MARKS: RawFd = -77;

static RECORDER: OnceLock<Mutex<Recorder>> = OnceLock::new();

/// Records what this thread, and all threads that it starts from now on, do below the directory `root`, behind what is in the
/// file `records` already.
///
/// # Errors
/// The kernel has no user notification of seccomp, or the sandbox does not permit it.
pub fn start(root: &Path, records: &Path) -> io::Result<()> {
    let records = OpenOptions::new().append(true).open(records)?;
    let recorder = Recorder { root: root.canonicalize()?, records, failure: None };
    assert!(RECORDER.set(Mutex::new(recorder)).is_ok(), "records already");
    seccomp::stop(CALLS, "recorder", supervise)
}

/// Writes a mark down: by a write to no file, which the recorder knows.
pub fn mark(text: &str) {
    // SAFETY: bytes and their number; no file has this descriptor.
    let written = unsafe { libc::write(MARKS, text.as_ptr().cast(), text.len()) };
    assert_eq!(written, text.len() as isize, "nobody records the mark {text}");
}

/// The next such call fails.
pub fn fail(failure: Failure) {
    RECORDER.get().expect("a recorder").lock().expect("the recorder").failure = Some(failure);
}

/// SIGKILL for this process, between two calls.
pub fn kill() -> ! {
    // SAFETY: a signal to this process.
    unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
    unreachable!("SIGKILL ends the process");
}

/// Performs each stopped call; ends with the process.
fn supervise(listener: &Listener) {
    let _ends = EndsWithIt;
    loop {
        let Some(stopped) = listener.receive() else { continue };
        let Some(Ok(mut recorder)) = RECORDER.get().map(Mutex::lock) else { give_up("there is none") };
        let result = recorder.perform(i64::from(stopped.data.nr), &stopped.data.args);
        drop(recorder);
        let answer = result.map_or(Answer::Continue, |result| result.map_or_else(Answer::Error, Answer::Value));
        listener.answer(stopped.id, answer);
    }
}

/// A panic of the recorder ends its process, whose threads would wait for it.
struct EndsWithIt;

impl Drop for EndsWithIt {
    fn drop(&mut self) {
        give_up("it has ended");
    }
}

/// Says why this process cannot go on, past all that it has buffered and locked, and ends it.
fn give_up(text: &str) -> ! {
    let text = format!("the recorder of system calls: {text}\n");
    // SAFETY: bytes and their number.
    unsafe { libc::write(2, text.as_ptr().cast(), text.len()) };
    std::process::abort();
}

/// The call itself; its result, or the number of its error.
fn call(number: i64, a: &[u64; 6]) -> Result<i64, i32> {
    // SAFETY: the arguments are those with which a thread of this process, stopped until this is over, wanted to make it.
    let result = unsafe { libc::syscall(number, a[0], a[1], a[2], a[3], a[4], a[5]) };
    if result == -1 { Err(io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)) } else { Ok(result) }
}

/// Inode, kind and whatever else is known of an open file.
fn status(descriptor: RawFd) -> Option<libc::stat> {
    let mut status = MaybeUninit::uninit();
    // SAFETY: filled if the call works.
    unsafe { (libc::fstat(descriptor, status.as_mut_ptr()) == 0).then(|| status.assume_init()) }
}

fn status_at(directory: RawFd, name: &CStr) -> Option<libc::stat> {
    let mut status = MaybeUninit::uninit();
    // SAFETY: a C string; filled if the call works.
    unsafe {
        let result = libc::fstatat(directory, name.as_ptr(), status.as_mut_ptr(), libc::AT_SYMLINK_NOFOLLOW);
        (result == 0).then(|| status.assume_init())
    }
}

fn path_of(descriptor: RawFd) -> Option<PathBuf> {
    std::fs::read_link(format!("/proc/self/fd/{descriptor}")).ok()
}

/// A path that a call names: the directory that it is in, its name there, and all of it.
struct Named {
    directory: u64,
    name: String,
    path: PathBuf,
}

impl Named {
    fn new(directory: RawFd, path: u64) -> Option<Named> {
        // SAFETY: a path that a thread of this process has passed to the kernel; it waits.
        let given = unsafe { CStr::from_ptr(path as *const c_char) };
        let given = Path::new(std::ffi::OsStr::from_bytes(given.to_bytes()));
        let base = match directory {
            libc::AT_FDCWD => std::env::current_dir().ok()?,
            other => path_of(other)?,
        };
        let path = base.join(given);
        let name = path.file_name()?.to_str()?.to_owned();
        let parent = CString::new(path.parent()?.as_os_str().as_bytes()).ok()?;
        let directory = status_at(libc::AT_FDCWD, &parent)?.st_ino;
        Some(Named { directory, name, path })
    }

    fn status(&self) -> Option<libc::stat> {
        status_at(libc::AT_FDCWD, &CString::new(self.path.as_os_str().as_bytes()).ok()?)
    }
}

/// Bytes of this process.
fn gather_one(address: u64, bytes: u64) -> Vec<u8> {
    // SAFETY: memory that a thread of this process has passed to the kernel; it waits.
    unsafe { std::slice::from_raw_parts(address as *const u8, bytes as usize) }.to_vec()
}

/// The bytes of a vector of so many parts.
fn gather(vector: u64, parts: u64, most: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    for part in 0..parts as usize {
        // SAFETY: a vector that a thread of this process has passed to the kernel, and the memory that it names.
        let part = unsafe {
            let part = &*(vector as *const libc::iovec).add(part);
            std::slice::from_raw_parts(part.iov_base.cast::<u8>(), part.iov_len)
        };
        bytes.extend_from_slice(part);
        if bytes.len() >= most {
            break;
        }
    }
    bytes.truncate(most);
    bytes
}

impl Recorder {
    fn note(&mut self, calls: &[Call]) {
        for call in calls {
            if let Err(error) = self.records.write_all(&call.encode(std::process::id())) {
                give_up(&format!("cannot write: {error}"));
            }
        }
    }

    fn is_below(&self, path: &Path) -> bool {
        path.starts_with(&self.root)
    }

    /// The path of an open file, if it is below the root.
    fn recorded(&self, descriptor: u64) -> Option<PathBuf> {
        path_of(descriptor as RawFd).filter(|path| self.is_below(path))
    }

    /// Makes the call and writes it down; `None`: it is none of those that are recorded, and the kernel shall go on with it.
    fn perform(&mut self, number: i64, a: &[u64; 6]) -> Option<Result<i64, i32>> {
        let turn = Turn::of(&self.records);
        let done = self.perform_alone(number, a);
        drop(turn);
        done
    }

    fn perform_alone(&mut self, number: i64, a: &[u64; 6]) -> Option<Result<i64, i32>> {
        const AT_CWD: u64 = libc::AT_FDCWD as u64;
        match number {
            #[cfg(target_arch = "x86_64")]
            libc::SYS_open => self.open(number, a, AT_CWD, a[0], a[1]),
            #[cfg(target_arch = "x86_64")]
            libc::SYS_creat => {
                self.open(number, a, AT_CWD, a[0], (libc::O_CREAT | libc::O_WRONLY | libc::O_TRUNC) as u64)
            }
            #[cfg(target_arch = "x86_64")]
            libc::SYS_rename => self.rename(number, a, (AT_CWD, a[0]), (AT_CWD, a[1])),
            #[cfg(target_arch = "x86_64")]
            libc::SYS_link => self.link(number, a, (AT_CWD, a[0]), (AT_CWD, a[1])),
            #[cfg(target_arch = "x86_64")]
            libc::SYS_unlink | libc::SYS_rmdir => self.remove(number, a, AT_CWD, a[0]),
            #[cfg(target_arch = "x86_64")]
            libc::SYS_mkdir => self.make_directory(number, a, AT_CWD, a[0]),
            libc::SYS_openat => self.open(number, a, a[0], a[1], a[2]),
            libc::SYS_renameat | libc::SYS_renameat2 => self.rename(number, a, (a[0], a[1]), (a[2], a[3])),
            libc::SYS_linkat => self.link(number, a, (a[0], a[1]), (a[2], a[3])),
            libc::SYS_unlinkat => self.remove(number, a, a[0], a[1]),
            libc::SYS_mkdirat => self.make_directory(number, a, a[0], a[1]),
            libc::SYS_write | libc::SYS_pwrite64 | libc::SYS_writev | libc::SYS_pwritev | libc::SYS_pwritev2 => {
                self.write(number, a)
            }
            libc::SYS_ftruncate => self.resize(number, a, a[1]),
            libc::SYS_fallocate => self.allocate(number, a),
            libc::SYS_fsync | libc::SYS_fdatasync => self.sync(number, a),
            // It promises nothing.
            libc::SYS_sync_file_range => None,
            libc::SYS_kill | libc::SYS_tkill | libc::SYS_tgkill => {
                let signal = if number == libc::SYS_tgkill { a[2] } else { a[1] };
                (signal == libc::SIGKILL as u64).then(|| call(number, a))
            }
            libc::SYS_copy_file_range => self.refuse_below(number, a[2]),
            libc::SYS_sendfile => self.refuse_below(number, a[0]),
            other => give_up(&format!("does not know what system call {other} does")),
        }
    }

    fn refuse_below(&self, number: i64, descriptor: u64) -> Option<Result<i64, i32>> {
        match self.recorded(descriptor) {
            Some(path) => give_up(&format!("does not know what system call {number} does to {}", path.display())),
            None => None,
        }
    }

    fn open(&mut self, number: i64, a: &[u64; 6], directory: u64, path: u64, flags: u64) -> Option<Result<i64, i32>> {
        let flags = flags as i32;
        let named = Named::new(directory as RawFd, path);
        // Where it leads by `..` or a link is only known behind it.
        let was_there = flags & libc::O_CREAT == 0 || named.as_ref().is_some_and(|named| named.status().is_some());
        let opened = call(number, a);
        let Ok(descriptor) = opened else { return Some(opened) };
        if let (Some(path), Some(status)) = (self.recorded(descriptor as u64), status(descriptor as RawFd)) {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let node = status.st_ino;
            let mut calls = Vec::new();
            match named {
                Some(Named { directory, name, .. }) if !was_there => {
                    calls.push(Call::Create { directory, node, name });
                }
                _ => calls.push(Call::Open { node, flags, name }),
            }
            if was_there && flags & libc::O_TRUNC != 0 {
                calls.push(Call::Resize { node, bytes: 0 });
            }
            self.note(&calls);
        }
        Some(opened)
    }

    fn rename(&mut self, number: i64, a: &[u64; 6], from: (u64, u64), to: (u64, u64)) -> Option<Result<i64, i32>> {
        let [from, to] = [from, to].map(|(directory, path)| Named::new(directory as RawFd, path));
        let (Some(from), Some(to)) = (from, to) else { return None };
        if !self.is_below(&from.path) && !self.is_below(&to.path) {
            return None;
        }
        let renamed = call(number, a);
        if renamed.is_ok() {
            let (directory, new_directory) = (from.directory, to.directory);
            self.note(&[Call::Rename { directory, name: from.name, new_directory, new_name: to.name }]);
        }
        Some(renamed)
    }

    fn link(&mut self, number: i64, a: &[u64; 6], from: (u64, u64), to: (u64, u64)) -> Option<Result<i64, i32>> {
        let [from, to] = [from, to].map(|(directory, path)| Named::new(directory as RawFd, path));
        let (Some(from), Some(to)) = (from, to) else { return None };
        if !self.is_below(&to.path) {
            return None;
        }
        let node = from.status()?.st_ino;
        let linked = call(number, a);
        if linked.is_ok() {
            self.note(&[Call::Link { directory: to.directory, node, name: to.name }]);
        }
        Some(linked)
    }

    fn remove(&mut self, number: i64, a: &[u64; 6], directory: u64, path: u64) -> Option<Result<i64, i32>> {
        let named = Named::new(directory as RawFd, path).filter(|named| self.is_below(&named.path))?;
        let removed = call(number, a);
        if removed.is_ok() {
            self.note(&[Call::Remove { directory: named.directory, name: named.name }]);
        }
        Some(removed)
    }

    fn make_directory(&mut self, number: i64, a: &[u64; 6], directory: u64, path: u64) -> Option<Result<i64, i32>> {
        let named = Named::new(directory as RawFd, path).filter(|named| self.is_below(&named.path))?;
        let made = call(number, a);
        if made.is_ok() {
            let node = named.status().map_or(0, |status| status.st_ino);
            self.note(&[Call::MakeDirectory { directory: named.directory, node, name: named.name }]);
        }
        Some(made)
    }

    fn write(&mut self, number: i64, a: &[u64; 6]) -> Option<Result<i64, i32>> {
        if a[0] as RawFd == MARKS {
            let text = gather_one(a[1], a[2]);
            self.note(&[Call::Mark(String::from_utf8_lossy(&text).into_owned())]);
            return Some(Ok(a[2] as i64));
        }
        let path = self.recorded(a[0])?;
        let descriptor = a[0] as RawFd;
        // SAFETY: numbers only.
        let flags = unsafe { libc::fcntl(descriptor, libc::F_GETFL) };
        let node = status(descriptor)?.st_ino;
        let offset = match number {
            libc::SYS_write | libc::SYS_writev if flags & libc::O_APPEND != 0 => {
                give_up(&format!("{} is opened to append", path.display()))
            }
            // SAFETY: numbers only.
            libc::SYS_write | libc::SYS_writev => unsafe { libc::lseek(descriptor, 0, libc::SEEK_CUR) as u64 },
            _ => a[3],
        };
        let written = call(number, a);
        let Ok(count) = written else { return Some(written) };
        let bytes = match number {
            libc::SYS_write | libc::SYS_pwrite64 => gather_one(a[1], count as u64),
            _ => gather(a[1], a[2], count as usize),
        };
        let is_synced = flags & (libc::O_SYNC | libc::O_DSYNC) != 0 || number == libc::SYS_pwritev2 && a[5] != 0;
        let sync = is_synced.then_some(Call::Sync { node, failed: false });
        let is_batch = bytes.starts_with(b"pwalbtch");
        let is_space =
            bytes.len() > 65536 && bytes.iter().all(|byte| *byte == 0) && path.to_string_lossy().ends_with(".seg");
        let calls: Vec<Call> = [Call::Write { node, offset, bytes }].into_iter().chain(sync).collect();
        self.note(&calls);
        match self.failure {
            Some(Failure::BatchWrite) if is_batch => {
                self.failure = None;
                Some(Err(libc::EIO))
            }
            Some(Failure::BatchSync) if is_batch => {
                self.failure = Some(Failure::Sync(node));
                Some(written)
            }
            Some(Failure::Death(SPACE)) if is_space => kill(),
            Some(Failure::Death(end)) if path.to_string_lossy().ends_with(end) => kill(),
            _ => Some(written),
        }
    }

    fn resize(&mut self, number: i64, a: &[u64; 6], bytes: u64) -> Option<Result<i64, i32>> {
        self.recorded(a[0])?;
        let resized = call(number, a);
        if resized.is_ok() {
            self.note(&[Call::Resize { node: status(a[0] as RawFd)?.st_ino, bytes }]);
        }
        Some(resized)
    }

    /// Only as far as the file grows by it.
    fn allocate(&mut self, number: i64, a: &[u64; 6]) -> Option<Result<i64, i32>> {
        let path = self.recorded(a[0])?;
        if a[1] != 0 {
            give_up(&format!("does not know what fallocate of mode {} does to {}", a[1], path.display()));
        }
        let before = status(a[0] as RawFd)?.st_size;
        let allocated = call(number, a);
        let behind = status(a[0] as RawFd)?;
        if behind.st_size != before {
            self.note(&[Call::Resize { node: behind.st_ino, bytes: behind.st_size as u64 }]);
        }
        Some(allocated)
    }

    fn sync(&mut self, number: i64, a: &[u64; 6]) -> Option<Result<i64, i32>> {
        self.recorded(a[0])?;
        let node = status(a[0] as RawFd)?.st_ino;
        let fails = matches!(self.failure, Some(Failure::Sync(planned)) if planned == node);
        let synced = if fails { Err(libc::EIO) } else { call(number, a) };
        if fails {
            self.failure = None;
        }
        self.note(&[Call::Sync { node, failed: synced.is_err() }]);
        Some(synced)
    }
}

/// The lock on the file of records, so that processes come one after the other; a killed one lets go of it.
struct Turn(RawFd);

impl Turn {
    fn of(records: &File) -> Turn {
        let descriptor = records.as_raw_fd();
        // SAFETY: numbers only.
        while unsafe { libc::flock(descriptor, libc::LOCK_EX) } != 0 {}
        Turn(descriptor)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        // SAFETY: numbers only.
        unsafe { libc::flock(self.0, libc::LOCK_UN) };
    }
}
