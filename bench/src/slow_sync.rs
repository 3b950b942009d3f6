//! A slower disk for everything in this process: each `fsync` and `fdatasync` takes so much longer.
//!
//! A seccomp filter stops the system call before the kernel has seen it and notifies a supervisor
//! thread, which lets it go on when its time has come. It is below SQLite, pwal and libc; several
//! delays run at the same time; the delayed thread sleeps in the kernel, as it does on a slow disk.

use crate::scheduling;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::MemfdFlags;
use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};
use test_support::seccomp::{self, Answer, Listener};

/// Slows the syncs of the calling thread and of all that it spawns from now on. Returns what a sync
/// that costs nothing takes longer, as measured.
///
/// # Errors
/// The kernel has no user notification, or refuses it.
pub fn install(extra: Duration) -> io::Result<Duration> {
    // A sleep is to end when it is said to, not up to 50 us later; inherited by threads.
    rustix::thread::set_current_timer_slack(NonZeroU64::new(1))?;
    let before = cost_of_nothing()?;
    let delay = Arc::new(AtomicU64::new(0));
    let to_supervisor = Arc::clone(&delay);
    seccomp::stop(&[libc::SYS_fsync, libc::SYS_fdatasync], "slow-sync", move |listener| {
        supervise(listener, || Duration::from_nanos(to_supervisor.load(SeqCst)));
    })?;
    // What the notification and the late end of a sleep cost is part of what is asked for.
    let mut asleep = Duration::ZERO;
    let mut longer = cost_of_nothing()?.saturating_sub(before);
    for _ in 0..3 {
        asleep = (asleep + extra).saturating_sub(longer);
        delay.store(u64::try_from(asleep.as_nanos()).unwrap_or(u64::MAX), SeqCst);
        longer = cost_of_nothing()?.saturating_sub(before);
    }
    Ok(longer)
}

/// The median of syncs of a file in memory.
fn cost_of_nothing() -> io::Result<Duration> {
    let file = File::from(rustix::fs::memfd_create("nothing", MemfdFlags::CLOEXEC)?);
    let mut each = Vec::new();
    let begin = Instant::now();
    // Long delays are as exact with fewer samples.
    while each.len() < 201 && (each.len() < 21 || begin.elapsed() < Duration::from_millis(50)) {
        let start = Instant::now();
        file.sync_data()?;
        each.push(start.elapsed());
    }
    each.sort_unstable();
    Ok(each[each.len() / 2])
}

/// Lets each notified call go on `delay()` after it came; ends with the process.
fn supervise(listener: &Listener, delay: impl Fn() -> Duration) {
    // As an interrupt would: it does not queue behind the threads that are measured. Where that is not
    // permitted, delays are longer on a busy machine, on both sides.
    scheduling::first();
    // The delay is the same for all, so the first that came is the first to go.
    let mut waiting: VecDeque<(Instant, u64)> = VecDeque::new();
    loop {
        while let Some((due, id)) = waiting.front().copied() {
            if Instant::now() < due {
                break;
            }
            waiting.pop_front();
            listener.answer(id, Answer::Continue);
        }
        let rest = waiting.front().map(|(due, _)| due.saturating_duration_since(Instant::now()));
        let timeout = rest.and_then(|rest| Timespec::try_from(rest).ok());
        let mut polls = [PollFd::new(listener, PollFlags::IN)];
        if poll(&mut polls, timeout.as_ref()) == Ok(1) && polls[0].revents().contains(PollFlags::IN) {
            let id = listener.receive().map(|call| call.id);
            waiting.extend(id.map(|id| (Instant::now() + delay(), id)));
        }
    }
}
