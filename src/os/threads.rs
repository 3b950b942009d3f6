//! Threads of our own in a host's process: they take no signal that the host waits for.

use std::io;
use std::mem::MaybeUninit;
use std::thread::{Builder, JoinHandle, Scope, ScopedJoinHandle};

/// A thread in which every signal is blocked.
///
/// # Errors
/// The system makes no more threads.
pub fn spawn_without_signals(name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    #[cfg(test)]
    if tests::IS_REFUSED.get() {
        return Err(io::ErrorKind::WouldBlock.into());
    }
    without_signals(|| {
        Builder::new().name(name.to_owned()).spawn(move || {
            let _inside = super::inside();
            run();
        })
    })
}

/// The same, for what the caller has on its stack.
///
/// # Errors
/// The system makes no more threads: `run` was not called.
pub fn spawn_scoped_without_signals<'scope, 'env>(
    scope: &'scope Scope<'scope, 'env>,
    name: &str,
    run: impl FnOnce() + Send + 'scope,
) -> io::Result<ScopedJoinHandle<'scope, ()>> {
    #[cfg(test)]
    if tests::IS_REFUSED.get() {
        return Err(io::ErrorKind::WouldBlock.into());
    }
    without_signals(|| {
        Builder::new().name(name.to_owned()).spawn_scoped(scope, move || {
            let _inside = super::inside();
            run();
        })
    })
}

/// A thread inherits the mask of the one that makes it, so the mask is set around that.
fn without_signals<T>(spawn: impl FnOnce() -> T) -> T {
    let mut all = MaybeUninit::<libc::sigset_t>::uninit();
    let mut before = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: both sets are ours, large enough, and filled by the calls before they are read; a mask that
    // cannot be set leaves `before` unread.
    let masked = unsafe {
        libc::sigfillset(all.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr()) == 0
    };
    let thread = spawn();
    if masked {
        // SAFETY: `before` was filled by the call above.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, before.as_ptr(), std::ptr::null_mut()) };
    }
    thread
}

#[cfg(test)]
pub(crate) mod tests {
    use std::cell::Cell;

    thread_local! {
        /// The system makes no more threads for this one.
        pub(super) static IS_REFUSED: Cell<bool> = const { Cell::new(false) };
    }

    /// Runs `act`, which gets no new thread.
    pub(crate) fn without_new_threads<T>(act: impl FnOnce() -> T) -> T {
        IS_REFUSED.set(true);
        let done = act();
        IS_REFUSED.set(false);
        done
    }
}
