//! What the operating system gives beside files: the clock, a wait on a word of memory, threads, and the forks and the exit of
//! this process. Knows no log.

mod clock;
mod fault_point;
pub(crate) mod futex;
mod process;
mod threads;

pub use clock::{boot_id, now_us};
pub(crate) use clock::{clock_offset_us, now_coarse_us};
#[doc(hidden)]
pub use fault_point::fault_point;
#[cfg(test)]
pub(crate) use process::usage;
pub use process::{
    Inside, between_forks, close_in_child, command, generation, inside, this_thread, watch, watch_forks,
};
#[cfg(test)]
pub(crate) use threads::tests::without_new_threads;
pub use threads::{spawn_scoped_without_signals, spawn_without_signals};
