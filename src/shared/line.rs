//! What several processors store all the time lies on a 64-byte line of its own.

use crate::sync::atomic::AtomicU64;

/// On a cache line of its own.
#[repr(C, align(64))]
#[cfg_attr(loom, derive(Default))]
pub(super) struct OwnLine<T>(pub(super) T);

/// A word on a line of its own.
#[repr(C, align(64))]
#[cfg_attr(loom, derive(Default))]
pub(super) struct Line(pub(super) AtomicU64);
