//! The control block that connections and processes share, and the lock file beside the log.
//!
//! One `#[repr(C)]` structure of atomics ([`ControlBlock`]) carries everything that decides what is
//! published, durable and visible, who may write, and who still reads what. It lives in the mapped file
//! `<database>-pwal/control` ([`ControlMapping`]); a process has a place in it ([`Member`]). [`LockFile`] is
//! `<database>-pwal/lock`: what the kernel frees when a process dies.
//!
//! Promises of this room: each transition is one atomic store of something complete; all else
//! (`durable`, `visible`, the tail) is derived; an owner is a process slot and its incarnation,
//! never a pointer, a pid or a thread; nothing that is read from the control block can make it panic or loop.

mod clock;
mod control_block;
mod event;
mod fault_point;
mod futex;
mod lock;
mod mapping;
mod member;
mod owner;
mod process;
mod process_info;
mod process_slots;
mod ring;
mod snapshots;
mod threads;

pub(crate) use clock::now_coarse_us;
pub use clock::{boot_id, now_us};
pub use control_block::{
    COMMIT_RING, CONTROL_BYTES, ControlBlock, ControlView, EPOCH_RING, Identity, LAYOUT_VERSION, MAGIC, PROCESS_SLOTS,
    SETTINGS, SNAPSHOT_SLOTS, State,
};
pub use event::Event;
#[doc(hidden)]
pub use fault_point::fault_point;
pub use lock::{
    ALIVE_BYTE, ALONE, BYTE_RANGES, INIT, INIT_BYTE, LOCK_NAME, LockFile, LockProbe, OnStockWal, STOCK, WHOLE_LOCK,
    lock_is_held, on_stock_wal,
};
pub use mapping::{CONTROL_NAME, ControlMapping, Observed};
pub use member::{ALIVE_BYTES, Member, living, names};
pub(crate) use owner::OwnerState;
pub use owner::{Owner, OwnerLock, TIMED_WAIT};
#[cfg(test)]
pub(crate) use process::usage;
pub use process::{Inside, between_forks, command, generation, inside, this_thread, watch, watch_forks};
pub use process_info::ProcessInfo;
pub use process_slots::Process;
pub use ring::{CommitEntry, EpochRecord, PAGES_INLINE, Tail};
pub use snapshots::{Snapshot, SnapshotSlot};
pub use threads::spawn_without_signals;

/// A simulated process ([`crate::interleave`]) is killed: its words and its locks.
#[cfg(test)]
pub(crate) fn cut_off(process: u64) {
    mapping::simulated::cut_off(process);
    lock::simulated::cut_off(process);
}

use std::io;
use std::path::PathBuf;

/// Why the control block refuse a step, or a `control` file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SharedError {
    /// A commit that is not the next one.
    #[error("commit {offered} cannot be published: the last published commit is {published}")]
    NotTheNextCommit {
        /// The sequence that was to be published.
        offered: u64,
        /// The last one that is.
        published: u64,
    },
    /// An epoch that is not the next one.
    #[error("epoch {offered} cannot be recorded: the last recorded epoch is {last_epoch}")]
    NotTheNextEpoch {
        /// The epoch that was to be recorded.
        offered: u64,
        /// The last one that is.
        last_epoch: u64,
    },
    /// The ring's oldest entry is still needed: something before it is not durable yet.
    #[error("the ring of {ring} is full: commits or epochs that are not durable yet fill it; lead a flush first")]
    RingFull {
        /// "commits" or "epochs".
        ring: &'static str,
    },
    /// `control` cannot be opened or mapped.
    #[error("cannot open {file}: {source}; who shares a database must be able to read and write the files of its log")]
    ControlOpen {
        /// The file.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Somebody else has written over `control`, or put another file there.
    #[error(
        "{file} is no control file ({reason}), but processes have the database open: close them, and open it again; \
         the log has what was committed"
    )]
    ControlDamaged {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The layout of another version of this library.
    #[error(
        "processes with {} version of pwal have the database open ({file} has layout {found}, this version knows {known}): \
         close them, or use their version", if found < known { "an older" } else { "a newer" }
    )]
    OtherVersion {
        /// The file.
        file: PathBuf,
        /// Its layout version.
        found: u64,
        /// Ours.
        known: u64,
    },
    /// The control block is of another boot of the machine, or of another machine.
    #[error(
        "{file} is of another boot or another machine, but processes have the database open: \
         pwal shares a database only between the processes of one machine"
    )]
    OtherBoot {
        /// The file.
        file: PathBuf,
    },
    /// The control block belongs to another database file.
    #[error(
        "{file} belongs to another database file than the one with this name, which was replaced while processes had it \
         open: close them, and open it again"
    )]
    OtherDatabase {
        /// The file.
        file: PathBuf,
    },
    /// The clock of another time namespace: the times in the control block would be over long ago, or never.
    #[error(
        "{file} is shared by processes of another time namespace, whose monotonic clock differs: pwal shares a database only \
         between processes with one clock"
    )]
    OtherClock {
        /// The file.
        file: PathBuf,
    },
    /// The announced target of a checkpoint lies beyond what is visible, and stays there.
    #[error(
        "no snapshot can be taken: a checkpoint announces commit {target}, and commits up to {visible} are visible: the \
         control block is damaged; close all connections of all processes and open the database again"
    )]
    NoSnapshot {
        /// The announced target.
        target: u64,
        /// The last visible commit.
        visible: u64,
    },
    /// A value that its place in the control block cannot hold.
    #[error("{what} {value} does not fit the control block")]
    TooLarge {
        /// What it is.
        what: &'static str,
        /// The value.
        value: u64,
    },
}
