//! Named places in the code where a test lets this process die or stop, as a kill or SIGSTOP at that moment would.
//!
//! In builds with debug assertions only; in all others a call is nothing. A child of a test is started with
//! `PWAL_TEST_DIE_AT=<point>[:<n>]` (SIGKILL) or `PWAL_TEST_STOP_AT=<point>[:<n>]` (SIGSTOP, so that its parent can look at
//! what others do meanwhile, and then let it go on or kill it): it happens when a thread passes the point for the
//! n-th time (default 1) in this process. `tests/processes/deaths.rs` plays each.

/// The points, in the order of the crash cases that they stand for. A call with another name is a mistake, and panics.
///
/// | point | the process is, when it passes |
/// |---|---|
/// | `reading` | holding a registered snapshot, before it reads by it |
/// | `staging` | holding WRITE, with a frame in its lane |
/// | `leased` | in BEGIN beside others, pages leased that it has not taken |
/// | `composed` | holding WRITE, page 1 and the freelist that it publishes made, no byte written |
/// | `publish_before_store` | holding WRITE and APPEND, the batch written, `published` not stored |
/// | `after_publish` | holding WRITE, APPEND released, its batch published |
/// | `leading_before_cut` | holding LEADER and APPEND, the certificate written, its epoch record not stored |
/// | `leading_uncertified` | holding LEADER, the epoch record stored, nothing synced for it |
/// | `sealing` | holding LEADER, everything synced, `certified` not stored |
/// | `written_early` | holding WRITE, LEADER and APPEND, batch and certificate synced, `published` not stored: the conservative path |
/// | `checkpointing` | holding CKPT, some pages written to the database file, not synced |
/// | `making` | having reserved a new segment, whose file is filled in part and not synced |
/// | `deleting` | having reserved a segment, what is in a segment read from the database file from now on, the segment not touched |
/// | `truncated` | having reserved it, an unused segment truncated, its name there |
/// | `rotating` | holding APPEND, a new segment's header written, no batch of it published |
/// | `attaching` | holding INIT, its process slot claimed, what a dead process left in it not freed yet |
/// | `recovering` | holding INIT, pages of the log replayed, the log not retired |
/// | `activating` | holding INIT, the log made, the stamp not written |
/// | `activating_again` | holding WRITE and APPEND, the log made anew after a rest, the stamp written, the marker there |
/// | `resting` | holding INIT, CKPT, WRITE, LEADER and APPEND, the log retired with connections open, the control block not updated |
/// | `retiring` | holding INIT, everything backfilled, the marker written, the log not removed |
/// | `retired_alone` | holding EXCLUSIVE (`locking_mode`), the log retired, nothing in stock SQLite's `-wal` |
/// | `backfilled_alone` | holding EXCLUSIVE, all of its own `-wal` in the database file and synced, the `-wal` there |
/// | `sharing_again` | holding EXCLUSIVE and INIT, its own `-wal` removed, no engine yet |
#[cfg(debug_assertions)]
const POINTS: [&str; 24] = [
    "reading",
    "staging",
    "leased",
    "composed",
    "publish_before_store",
    "after_publish",
    "leading_before_cut",
    "leading_uncertified",
    "sealing",
    "written_early",
    "checkpointing",
    "making",
    "deleting",
    "truncated",
    "rotating",
    "attaching",
    "recovering",
    "activating",
    "activating_again",
    "resting",
    "retiring",
    "retired_alone",
    "backfilled_alone",
    "sharing_again",
];

#[cfg(debug_assertions)]
struct Plan {
    point: String,
    /// Passes that are left.
    left: std::sync::atomic::AtomicU64,
    signal: libc::c_int,
}

#[cfg(debug_assertions)]
impl Plan {
    fn from_environment() -> Option<Plan> {
        let (signal, text) = [(libc::SIGKILL, "PWAL_TEST_DIE_AT"), (libc::SIGSTOP, "PWAL_TEST_STOP_AT")]
            .into_iter()
            .find_map(|(signal, name)| Some((signal, std::env::var(name).ok()?)))?;
        let (point, passes) = text.split_once(':').unwrap_or((&text, "1"));
        Some(Plan { point: point.to_owned(), left: passes.parse::<u64>().unwrap_or(1).into(), signal })
    }
}

/// Passes the point `name`: see the module.
#[cfg(debug_assertions)]
pub fn fault_point(name: &str) {
    use std::sync::atomic::Ordering::SeqCst;
    static PLAN: std::sync::OnceLock<Option<Plan>> = std::sync::OnceLock::new();
    assert!(POINTS.contains(&name), "{name} is not a fault point");
    crate::interleave::step(name);
    let Some(plan) = PLAN.get_or_init(Plan::from_environment) else { return };
    if plan.point == name && plan.left.fetch_sub(1, SeqCst) == 1 {
        // SAFETY: a signal to this thread, numbers only. The kernel acts on it before the call returns.
        unsafe { libc::raise(plan.signal) };
    }
}

/// A build without debug assertions has no fault points.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub fn fault_point(name: &str) {
    crate::interleave::step(name);
}
