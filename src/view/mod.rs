//! What one connection sees: its synthesised wal-index and its virtual WAL file.

use std::sync::atomic::AtomicU32;

/// The size of one region of the wal-index, in bytes (`WALINDEX_PGSZ` of `wal.c`).
pub const REGION_BYTES: usize = 32768;

/// One region of a wal-index: SQLite's memory, so atomics only. Never moves.
#[repr(C, align(8))]
pub struct Region(pub(crate) [AtomicU32; REGION_BYTES / 4]);
