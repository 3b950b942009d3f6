//! Failures of the disk, of the database file, of the process: what is answered, and what the next open finds.

mod abandoned_batch;
#[cfg(target_os = "linux")]
mod clock_jumps;
mod concurrent;
mod descriptors;
mod disk;
mod file_size_limit;
mod first_commit;
mod full_disk;
mod io;
mod kernel_syncs;
mod no_descriptors;
mod no_memory;
mod on_demand;
mod panics;
mod proven_images;
mod refused_writers;
mod strange_directories;
mod unacknowledged;
mod unreadable_header;

support::roles!();
