//! The clock and the boot that the processes of one machine share.

use std::io;

/// Microseconds of the machine's monotonic clock, the same for all its processes.
#[must_use]
pub fn now_us() -> u64 {
    microseconds(rustix::time::ClockId::Monotonic)
}

/// As [`now_us`], as it was a few milliseconds ago at most, and for a fraction of the cost where the system offers that.
#[must_use]
pub(crate) fn now_coarse_us() -> u64 {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    return microseconds(rustix::time::ClockId::MonotonicCoarse);
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    return now_us();
}

fn microseconds(clock: rustix::time::ClockId) -> u64 {
    #[cfg(test)]
    if let Some(now) = crate::interleave::now_us() {
        return now;
    }
    let now = rustix::time::clock_gettime(clock);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    seconds.saturating_mul(1_000_000).saturating_add(u64::try_from(now.tv_nsec).unwrap_or(0) / 1000)
}

/// What names this boot of the machine; 0 where the system does not tell, which equals nothing.
///
/// # Errors
/// `/proc` cannot be read, or holds something else.
pub fn boot_id() -> io::Result<u128> {
    if cfg!(any(target_os = "linux", target_os = "android")) {
        let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
        let digits: String = text.trim().chars().filter(|c| *c != '-').collect();
        u128::from_str_radix(&digits, 16).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    } else {
        Ok(0)
    }
}
