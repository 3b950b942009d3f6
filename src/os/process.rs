//! This process as the kernel sees it: its forks and its exit.
//!
//! A forked child inherits memory and descriptors, but no engine is its own: it bears another generation, has closed the
//! inherited lock files (never unlocked them), and touches nothing of its parent's. At a normal exit a hook runs,
//! once, and never in a child for what is its parent's.

use crate::sync::RwLock;
use std::cell::{Cell, RefCell};
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Once, OnceLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

static GENERATION: AtomicU32 = AtomicU32::new(1);
static AT_EXIT: OnceLock<fn()> = OnceLock::new();
static IN_CHILD: OnceLock<fn()> = OnceLock::new();

/// Shared while a lock of the whole process (a `static`, or the registry of a VFS) is held or a lock file is opened;
/// exclusive during a fork. So a child inherits none of those locks from a thread that it does not have, and knows
/// every lock file that it inherits.
static FORKS: RwLock<()> = RwLock::new(());

/// Threads that fork, or wait to: a thread that is not inside yet lets them go first.
static FORKERS: AtomicU32 = AtomicU32::new(0);

/// How long a fork waits for that: it comes from inside such a lock where a callback of the application forks.
const FORK_WAIT: Duration = Duration::from_secs(1);
const FORK_PAUSE: Duration = Duration::from_micros(100);

thread_local! {
    static DEPTH: Cell<u32> = const { Cell::new(0) };
    /// How often this thread has [`between_forks`] now.
    static WITHOUT_FORKS: Cell<u32> = const { Cell::new(0) };
    /// During a fork, by the thread that forks.
    static FORKING: RefCell<Option<RwLockWriteGuard<'static, ()>>> = const { RefCell::new(None) };
}

/// While this lives no fork begins.
#[derive(Debug)]
#[must_use]
pub struct WithoutForks {
    _held: RwLockReadGuard<'static, ()>,
}

/// No fork begins from now on. For short, and never around a call of the application; it may be nested.
pub fn between_forks() -> WithoutForks {
    let deadline = Instant::now() + FORK_WAIT;
    while WITHOUT_FORKS.get() == 0 && FORKERS.load(SeqCst) > 0 && Instant::now() < deadline {
        std::thread::sleep(FORK_PAUSE);
    }
    WITHOUT_FORKS.set(WITHOUT_FORKS.get() + 1);
    WithoutForks { _held: FORKS.read() }
}

impl Drop for WithoutForks {
    fn drop(&mut self) {
        WITHOUT_FORKS.set(WITHOUT_FORKS.get() - 1);
    }
}

/// A number that distinguishes the threads of a process, as long as they live.
#[must_use]
pub fn this_thread() -> usize {
    DEPTH.with(|depth| std::ptr::from_ref(depth).addr())
}

/// While this lives, its thread is inside pwal, and may hold any of its locks.
#[derive(Debug)]
#[must_use]
pub struct Inside(());

/// This thread enters pwal. An exit from in there (a log callback, a signal handler) finds no way to close anything: what
/// it leaves is what a kill leaves.
pub fn inside() -> Inside {
    DEPTH.with(|depth| depth.set(depth.get() + 1));
    Inside(())
}

impl Drop for Inside {
    fn drop(&mut self) {
        DEPTH.with(|depth| depth.set(depth.get() - 1));
    }
}

/// Which process this is, in a line of forks: what was made in another generation is another process's.
#[must_use]
pub fn generation() -> u32 {
    GENERATION.load(SeqCst)
}

/// The name of this process, for messages: the file names of its program and of its first argument if that is no option
/// (`python3 manage.py`). No further arguments: other users of the database must not read secrets there.
#[must_use]
pub fn command() -> String {
    command_of(std::env::args_os())
}

fn command_of(arguments: impl Iterator<Item = OsString>) -> String {
    let words: Vec<String> = arguments
        .take(2)
        .filter(|word| !word.as_bytes().starts_with(b"-"))
        .filter_map(|word| Some(Path::new(&word).file_name()?.to_string_lossy().into_owned()))
        .map(|word| word.chars().map(|c| if c.is_control() { ' ' } else { c }).collect())
        .collect();
    words.join(" ")
}

/// Notices forks from now on. When the library is loaded, mostly by the only thread.
pub fn watch_forks() {
    static WATCHED: Once = Once::new();
    WATCHED.call_once(|| {
        // SAFETY: takes functions that stay: the library is never unloaded (`-z nodelete`). Without memory for the entry it
        // fails, and a forked child keeps its parent's locks until it ends.
        unsafe {
            libc::pthread_atfork(Some(before_fork), Some(in_parent), Some(in_child));
        }
    });
}

/// From now on `close` runs in each forked child, before anything else of pwal's: it closes what the child must not have. Only the
/// first call counts.
pub fn close_in_child(close: fn()) {
    // Set only here.
    let _ = IN_CHILD.set(close);
}

/// Notices forks and the exit from now on; `at_exit` runs at a normal exit (`exit`, return from `main`), not for
/// signals, after all handlers of `atexit` and all destructors of the program: they may use databases. Only the first
/// call counts.
pub fn watch(at_exit: fn()) {
    watch_forks();
    let _no_fork = between_forks();
    // Set only here.
    let _ = AT_EXIT.set(at_exit);
}

/// A destructor of this library, or of the program that it is linked into. Handlers that were registered with `atexit`, by
/// whomever and whenever, have run by then.
#[used]
#[cfg_attr(not(target_vendor = "apple"), unsafe(link_section = ".fini_array"))]
#[cfg_attr(target_vendor = "apple", unsafe(link_section = "__DATA,__mod_term_func"))]
static AT_END: extern "C" fn() = exiting;

extern "C" fn before_fork() {
    FORKERS.fetch_add(1, SeqCst);
    let deadline = Instant::now() + FORK_WAIT;
    loop {
        if let Some(held) = FORKS.try_write() {
            // A thread that ends has no place for it any more: then the child is as without it.
            let _ended = FORKING.try_with(|forking| *forking.borrow_mut() = Some(held));
            return;
        }
        if Instant::now() >= deadline {
            return;
        }
        std::thread::sleep(FORK_PAUSE);
    }
}

extern "C" fn in_parent() {
    FORKERS.fetch_sub(1, SeqCst);
    let _ended = FORKING.try_with(|forking| forking.borrow_mut().take());
}

extern "C" fn in_child() {
    GENERATION.fetch_add(1, SeqCst);
    FORKERS.store(0, SeqCst);
    if let Some(close) = IN_CHILD.get() {
        close();
    }
    let _ended = FORKING.try_with(|forking| forking.borrow_mut().take());
}

extern "C" fn exiting() {
    if DEPTH.get() > 0 {
        return;
    }
    if let Some(hook) = AT_EXIT.get() {
        // No panic crosses into the C library; what the hook could not do, recovery does. The payload is
        // forgotten: dropping it could panic again.
        if let Err(payload) = std::panic::catch_unwind(hook) {
            std::mem::forget(payload);
        }
    }
}

/// What this process has used: processor time (microseconds), and how often its threads gave their processor away.
#[cfg(test)]
pub(crate) fn usage() -> (u64, u64) {
    // SAFETY: getrusage fills the structure that it is given.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        assert_eq!(libc::getrusage(libc::RUSAGE_SELF, &raw mut usage), 0);
        usage
    };
    let us = |time: libc::timeval| u64::try_from(time.tv_sec * 1_000_000 + time.tv_usec).unwrap();
    (us(usage.ru_utime) + us(usage.ru_stime), u64::try_from(usage.ru_nvcsw).unwrap())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_two_file_names_at_most() {
        let command = |words: &[&str]| command_of(words.iter().map(OsString::from));
        assert_eq!(command(&["/usr/bin/python3", "/srv/app/manage.py", "--password", "x"]), "python3 manage.py");
        assert_eq!(command(&["/usr/bin/python3", "-c", "print()"]), "python3");
        assert_eq!(command(&["a\nb"]), "a b");
        assert_eq!(command(&[]), "");
        assert_eq!(command(&["/", "/"]), "");
    }
}
