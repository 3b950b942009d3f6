//! The scheduler's classes of the calling thread (Linux; elsewhere nothing changes).

/// Whatever else wants the core gets it at once.
pub fn idle() {
    #[cfg(target_os = "linux")]
    set(libc::SCHED_IDLE, 0);
}

/// Before all others, where that is permitted.
pub fn first() {
    #[cfg(target_os = "linux")]
    set(libc::SCHED_FIFO, 1);
}

#[cfg(target_os = "linux")]
fn set(policy: libc::c_int, priority: libc::c_int) {
    let parameter = libc::sched_param { sched_priority: priority };
    // SAFETY: the call reads the parameter and changes this thread only. A refusal changes nothing.
    unsafe { libc::sched_setscheduler(0, policy, &raw const parameter) };
}
