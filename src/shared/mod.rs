//! The control block that connections and processes share, and the lock file beside the log.
//!
//! One `#[repr(C)]` structure of atomics ([`ControlBlock`]) carries everything that decides what is published, durable
//! and visible, which process may write, and which snapshots are read. It lies in the mapped file
//! `<database>-pwal/control` ([`ControlMapping`]); a process has a slot in it ([`Member`]). [`LockFile`] is
//! `<database>-pwal/lock`: the locks that the kernel frees when a process dies.
//!
//! Promises of this room: each transition is one atomic store of something complete; all else (`durable`, `visible`,
//! the tail) is derived; an owner is a process slot and its incarnation, never a pointer, a pid or a thread; no value
//! read from the control block can cause a panic or an endless loop.

mod control_block;
mod error;
mod event;
mod flush_events;
mod line;
mod lock;
mod mapping;
mod member;
mod owner;
mod page_leases;
mod process_info;
mod process_slots;
mod reservations;
mod ring;
mod snapshots;
mod watermarks;

pub use control_block::{CONTROL_BYTES, ControlBlock, ControlView, Identity, LAYOUT_VERSION, MAGIC, SETTINGS, State};
pub use error::SharedError;
pub use event::Event;
pub use lock::{
    ALIVE_BYTE, ALONE, BYTE_RANGES, INIT, INIT_BYTE, LOCK_NAME, LockFile, LockProbe, OnStockWal, STOCK, WHOLE_LOCK,
    lock_is_held, on_stock_wal,
};
pub use mapping::{CONTROL_NAME, ControlMapping, Observed};
pub use member::{ALIVE_BYTES, Member, living, names};
pub(crate) use owner::OwnerState;
pub use owner::{Owner, OwnerLock, TIMED_WAIT};
pub use page_leases::{PageLeases, Sharing};
pub use process_info::ProcessInfo;
pub use process_slots::{PROCESS_SLOTS, Process, ProcessTable};
pub(crate) use reservations::Making;
pub use reservations::{RESERVATIONS, Reservations};
pub(crate) use ring::commit_ring;
pub use ring::{COMMIT_RING, CommitEntry, EPOCH_RING, EpochRecord, PAGES_INLINE, RecordAddress};
pub use snapshots::{SNAPSHOT_SLOTS, Snapshot, SnapshotSlot, SnapshotTable};

/// A simulated process ([`crate::interleave`]) is killed: its words and its locks.
#[cfg(test)]
pub(crate) fn cut_off(process: u64) {
    mapping::simulated::cut_off(process);
    lock::simulated::cut_off(process);
}
