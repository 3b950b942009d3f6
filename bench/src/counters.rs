//! What a process did in the kernel: system calls, syncs, context switches, processor time.
//!
//! By `perf_event_open` where that is allowed (tracepoints need root, or CAP_PERFMON and a readable tracefs). Otherwise the kernel's
//! account of the process counts context switches, and only the system calls that read and write; syncs are not known then.

use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// Counts from the start of the process, or differences of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Counts {
    pub syncs: Option<u64>,
    pub system_calls: Option<u64>,
    pub context_switches: Option<u64>,
    pub cpu_us: u64,
}

impl Counts {
    pub fn since(self, before: Counts) -> Counts {
        let less = |now: Option<u64>, before: Option<u64>| Some(now?.saturating_sub(before?));
        Counts {
            syncs: less(self.syncs, before.syncs),
            system_calls: less(self.system_calls, before.system_calls),
            context_switches: less(self.context_switches, before.context_switches),
            cpu_us: self.cpu_us.saturating_sub(before.cpu_us),
        }
    }

    /// Of several processes: unknown if one of them is.
    pub fn and(self, other: Counts) -> Counts {
        let sum = |one: Option<u64>, other: Option<u64>| Some(one? + other?);
        Counts {
            syncs: sum(self.syncs, other.syncs),
            system_calls: sum(self.system_calls, other.system_calls),
            context_switches: sum(self.context_switches, other.context_switches),
            cpu_us: self.cpu_us + other.cpu_us,
        }
    }
}

/// Counts the calling thread and all threads and processes that it starts from now on.
pub struct Counters {
    #[cfg(target_os = "linux")]
    perf: Option<perf::Events>,
}

impl Counters {
    pub fn open() -> Counters {
        Counters {
            #[cfg(target_os = "linux")]
            perf: perf::Events::open().ok(),
        }
    }

    /// How it counts.
    pub fn source(&self) -> &'static str {
        #[cfg(target_os = "linux")]
        if self.perf.is_some() {
            return "perf_event_open";
        }
        if cfg!(target_os = "linux") {
            "/proc: context switches, and of the system calls those that read or write"
        } else {
            "not known on this system"
        }
    }

    pub fn read(&mut self) -> Counts {
        let used = clock_gettime(ClockId::ProcessCPUTime);
        let cpu_us = used.tv_sec.unsigned_abs() * 1_000_000 + used.tv_nsec.unsigned_abs() / 1000;
        #[cfg(target_os = "linux")]
        if let Some(counts) = self.perf.as_mut().and_then(|events| events.read().ok()) {
            return Counts { cpu_us, ..counts };
        }
        Counts { syncs: None, system_calls: reads_and_writes(), context_switches: switches(), cpu_us }
    }
}

/// From `/proc/self/io`; threads that have ended are in it.
fn reads_and_writes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/io").ok()?;
    Some(field(&text, "syscr:")? + field(&text, "syscw:")?)
}

/// Of the threads that live now: read before they end.
fn switches() -> Option<u64> {
    let mut all = 0;
    for thread in std::fs::read_dir("/proc/self/task").ok()?.flatten() {
        // One that has ended meanwhile.
        let Ok(text) = std::fs::read_to_string(thread.path().join("status")) else { continue };
        all += field(&text, "voluntary_ctxt_switches:")? + field(&text, "nonvoluntary_ctxt_switches:")?;
    }
    Some(all)
}

/// The number after `name` at the beginning of a line.
pub fn field(text: &str, name: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    rest.split_whitespace().next()?.parse().ok()
}

#[cfg(target_os = "linux")]
mod perf {
    use super::Counts;
    use perf_event::events::{Event, Software, Tracepoint};
    use perf_event::{Builder, Counter};
    use std::io;

    pub struct Events {
        syncs: [Counter; 2],
        system_calls: Counter,
        context_switches: Counter,
    }

    impl Events {
        pub fn open() -> io::Result<Events> {
            Ok(Events {
                syncs: [
                    count(tracepoint("syscalls/sys_enter_fsync")?)?,
                    count(tracepoint("syscalls/sys_enter_fdatasync")?)?,
                ],
                system_calls: count(tracepoint("raw_syscalls/sys_enter")?)?,
                context_switches: count(Software::CONTEXT_SWITCHES)?,
            })
        }

        pub fn read(&mut self) -> io::Result<Counts> {
            let [fsync, fdatasync] = &mut self.syncs;
            Ok(Counts {
                syncs: Some(fsync.read()? + fdatasync.read()?),
                system_calls: Some(self.system_calls.read()?),
                context_switches: Some(self.context_switches.read()?),
                cpu_us: 0,
            })
        }
    }

    fn count(event: impl Event) -> io::Result<Counter> {
        let mut counter = Builder::new(event).observe_self().any_cpu().include_kernel().inherit(true).build()?;
        counter.enable()?;
        Ok(counter)
    }

    fn tracepoint(name: &str) -> io::Result<Tracepoint> {
        let read = |place: &str| std::fs::read_to_string(format!("{place}/events/{name}/id"));
        let text = read("/sys/kernel/tracing").or_else(|_| read("/sys/kernel/debug/tracing"))?;
        let id = text.trim().parse().map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        Ok(Tracepoint::with_id(id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_found_by_its_whole_name() {
        let text = "Name:\tx\nnonvoluntary_ctxt_switches:\t7\nvoluntary_ctxt_switches:\t11\n";
        assert_eq!(field(text, "voluntary_ctxt_switches:"), Some(11));
        assert_eq!(field(text, "nonvoluntary_ctxt_switches:"), Some(7));
        assert_eq!(field(text, "VmRSS:"), None);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn the_work_of_threads_that_come_later_is_counted() {
        let mut counters = Counters::open();
        let before = counters.read();
        let (send, receive) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            for _ in 0..100 {
                std::fs::read("/proc/self/stat").expect("read");
            }
            send.send(()).expect("the other end");
        });
        receive.recv().expect("it ends");
        let counts = counters.read().since(before);
        assert!(counts.system_calls.is_some_and(|calls| calls >= 100), "{counts:?}");
        assert!(counts.context_switches.is_some(), "{counts:?}");
    }
}
