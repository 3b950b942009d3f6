//! This process as the kernel sees it: its forks and its exit.
//!
//! A forked child inherits memory and descriptors, but no engine is its own: it bears another generation, has closed the
//! inherited lock files (never unlocked them), and touches nothing of its parent's. At a normal exit a hook runs,
//! once, and never in a child for what is its parent's.

use std::cell::Cell;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Once, OnceLock};

static GENERATION: AtomicU32 = AtomicU32::new(1);
static AT_EXIT: OnceLock<fn()> = OnceLock::new();

thread_local! {
    static DEPTH: Cell<u32> = const { Cell::new(0) };
}

/// While this lives, its thread is inside pwal, and may hold any of its locks.
#[derive(Debug)]
#[must_use]
pub struct Inside(());

/// This thread enters pwal. An exit from in there (a log callback, a signal handler) finds no way to close anything: what
/// it leaves is what a kill leaves.
pub fn inside() -> Inside {
    DEPTH.set(DEPTH.get() + 1);
    Inside(())
}

impl Drop for Inside {
    fn drop(&mut self) {
        DEPTH.set(DEPTH.get() - 1);
    }
}

/// Which process this is, in a line of forks: what was made in another generation is another process's.
#[must_use]
pub fn generation() -> u32 {
    GENERATION.load(SeqCst)
}

/// What this process is called, for people: the file names of its program and of its first argument if that is no option
/// (`python3 manage.py`). No further arguments: others who may open the database shall not read secrets there.
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

/// Notices forks and the exit from now on; `at_exit` runs at a normal exit (`exit`, return from `main`), not
/// for signals. Only the first call counts.
pub fn watch(at_exit: fn()) {
    static WATCHED: Once = Once::new();
    WATCHED.call_once(|| {
        // Set by nobody else.
        let _ = AT_EXIT.set(at_exit);
        // SAFETY: both take a function that stays: the library is never unloaded (`-z nodelete`). Without memory
        // for the entry they fail, and recovery at the next open does the hook's work.
        unsafe {
            libc::pthread_atfork(None, None, Some(in_child));
            libc::atexit(exiting);
        }
    });
}

extern "C" fn in_child() {
    GENERATION.fetch_add(1, SeqCst);
    super::lock::close_all_inherited();
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
