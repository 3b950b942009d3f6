//! System calls of this process, stopped by a seccomp filter before the kernel has seen them, and answered by a supervisor thread
//! of the same process.
//!
//! It needs no privileges, but Linux 5.5 and a sandbox that permits `seccomp(2)` with `SECCOMP_FILTER_FLAG_NEW_LISTENER`.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// What a stopped call gets.
#[derive(Clone, Copy, Debug)]
pub enum Answer {
    /// The kernel makes the call.
    Continue,
    /// It has been made; this is its result.
    Value(i64),
    /// It fails with this error number.
    Error(i32),
}

/// Where the supervisor receives stopped calls.
#[derive(Debug)]
pub struct Listener(OwnedFd);

impl Listener {
    /// Waits for a call; `None` if its thread was killed meanwhile.
    pub fn receive(&self) -> Option<libc::seccomp_notif> {
        // SAFETY: the kernel wants the structure zeroed and fills it.
        unsafe {
            let mut call: libc::seccomp_notif = std::mem::zeroed();
            (libc::ioctl(self.0.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_RECV as _, &raw mut call) == 0).then_some(call)
        }
    }

    /// Lets the call with this id go on. Fails only for a thread that was killed meanwhile, and says nothing then.
    pub fn answer(&self, id: u64, answer: Answer) {
        // SAFETY: all zero is a valid response; the kernel reads it.
        unsafe {
            let mut response: libc::seccomp_notif_resp = std::mem::zeroed();
            response.id = id;
            match answer {
                Answer::Continue => response.flags = libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32,
                Answer::Value(value) => response.val = value,
                Answer::Error(error) => response.error = -error,
            }
            libc::ioctl(self.0.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SEND as _, &raw mut response);
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Stops these calls of the calling thread, and of all threads that it starts from now on. `supervise` runs in a thread of its own,
/// which has this name and whose calls are not stopped; it answers until the process ends.
///
/// # Errors
/// The kernel has no user notification of seccomp, or the sandbox does not permit it.
pub fn stop(calls: &[libc::c_long], name: &str, supervise: impl FnOnce(&Listener) + Send + 'static) -> io::Result<()> {
    let (send, receive) = std::sync::mpsc::channel();
    // It comes before the filter, and so is outside it.
    std::thread::Builder::new().name(name.to_owned()).spawn(move || {
        if let Ok(listener) = receive.recv() {
            supervise(&listener);
        }
    })?;
    send.send(filter(calls)?).map_err(|_| io::ErrorKind::BrokenPipe.into())
}

fn filter(calls: &[libc::c_long]) -> io::Result<Listener> {
    let load = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    let equal = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    let answer = (libc::BPF_RET | libc::BPF_K) as u16;
    let step = |code, k, jt, jf| libc::sock_filter { code, jt, jf, k };
    // Offset 0 of seccomp_data: the number of the system call.
    let mut program = vec![step(load, 0, 0, 0)];
    for (at, call) in calls.iter().enumerate() {
        let to_notify = u8::try_from(calls.len() - at).expect("few calls");
        program.push(step(equal, u32::try_from(*call).expect("a number"), to_notify, 0));
    }
    program.push(step(answer, libc::SECCOMP_RET_ALLOW, 0, 0));
    program.push(step(answer, libc::SECCOMP_RET_USER_NOTIF, 0, 0));
    let program = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: the program and its header live through the call, which copies them.
    let listener = unsafe {
        if libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 {
            return Err(io::Error::last_os_error());
        }
        let (mode, flags) = (libc::SECCOMP_SET_MODE_FILTER, libc::SECCOMP_FILTER_FLAG_NEW_LISTENER);
        libc::syscall(libc::SYS_seccomp, mode, flags, &raw const program)
    };
    if listener < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a new descriptor that nothing else owns.
    Ok(Listener(unsafe { OwnedFd::from_raw_fd(listener as RawFd) }))
}
