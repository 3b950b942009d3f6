//! The clock and the boot that the processes of one machine share.

use std::io;

/// What the clock shows when the machine boots, in microseconds: a day. So 0, which stands for "never" in the control block, is no
/// time, and a time some hours ago can be subtracted to on a machine that has just booted, or in a time namespace of its own.
const AT_BOOT_US: u64 = 24 * 3600 * 1_000_000;

/// Microseconds of the machine's monotonic clock, the same for all its processes; at least a day.
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
    since_boot(rustix::time::clock_gettime(clock))
}

fn since_boot(now: rustix::time::Timespec) -> u64 {
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    let microseconds = u64::try_from(now.tv_nsec).unwrap_or(0) / 1000;
    seconds.saturating_mul(1_000_000).saturating_add(microseconds).saturating_add(AT_BOOT_US)
}

/// By how much the monotonic clock of this process's time namespace is ahead of the machine's, in microseconds; 0 where there are
/// no such namespaces, or it cannot be found out.
#[must_use]
pub fn clock_offset_us() -> i64 {
    let text = std::fs::read_to_string("/proc/self/timens_offsets").unwrap_or_default();
    offset_us(&text).unwrap_or(0)
}

/// `monotonic <seconds> <nanoseconds>` (`time_namespaces(7)`).
fn offset_us(text: &str) -> Option<i64> {
    let line = text.lines().find_map(|line| line.trim_start().strip_prefix("monotonic"))?;
    let mut numbers = line.split_whitespace().map(|number| number.parse::<i64>().ok());
    let (seconds, nanoseconds) = (numbers.next()??, numbers.next()??);
    seconds.checked_mul(1_000_000)?.checked_add(nanoseconds / 1000)
}

/// The boot id of the machine; 0 where the system has none, which equals nothing.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shared::{ControlBlock, ControlMapping};

    const HOUR_US: u64 = 3600 * 1_000_000;

    #[test]
    fn the_offset_of_a_time_namespace() {
        let text = "monotonic     1000   5000000\nboottime           0         0\n";
        assert_eq!(offset_us(text), Some(1_000_005_000));
        assert_eq!(offset_us("monotonic -7 0"), Some(-7_000_000));
        for text in ["", "monotonic", "monotonic 1", "monotonic x 0", "monotonic 9223372036854775807 0", "boottime 1 1"]
        {
            assert_eq!(offset_us(text), None, "{text}");
        }
    }

    fn at(seconds: i64, nanoseconds: i64) -> u64 {
        since_boot(rustix::time::Timespec { tv_sec: seconds as _, tv_nsec: nanoseconds as _ })
    }

    /// A machine that booted just now: what waits since then does wait, and an hour before is a time, too.
    #[test]
    fn a_clock_near_zero_is_no_never() {
        let mapping = ControlMapping::anonymous().unwrap();
        let control: &ControlBlock = mapping.control();
        let waiter = control.process_slots().acquire(0, 1, "a program").unwrap();
        let other = control.process_slots().acquire(1, 2, "another").unwrap();
        for now in [at(0, 0), at(0, 999), at(0, 1000), at(1, 0)] {
            control.process_slots().set_waiting(waiter, now);
            assert_eq!(control.process_slots().waiting(other).collect::<Vec<_>>(), [(now, waiter)]);
            control.process_slots().set_waiting(waiter, now - HOUR_US);
            let seen = control.process_infos(|_| true);
            assert_eq!(seen[0].status(now).waiting_for_us, Some(HOUR_US));
        }
        assert_eq!((at(0, 1000) - at(0, 0), at(7, 0) - at(0, 0)), (1, 7_000_000), "in microseconds");
    }
}
