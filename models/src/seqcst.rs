//! The atomics of the models: loom's, with sequential consistency.
//!
//! Loom takes a sequentially consistent access for acquire or release; what two processes find out by storing and then looking would
//! fail with it. A fence before each such access makes up for it, as compilers do for processors whose plain accesses are weak:
//! between two of them in one thread there is a fence, and these have one order that all threads agree on. What is relaxed, acquire or
//! release stays so.
//!
//! Loom also remembers only the last access of a word when it looks for orders that it has not tried: a thread that reads a word and
//! then stores it would never be tried before a read of another thread that came first. So each sequentially consistent access also
//! changes one word of all threads, and each order of them is tried. That orders nothing that the fences do not order.
//!
//! Mutants: `orders-seqcst` (acquire and release instead), `orders-release` (relaxed stores instead), `orders-acquire` (relaxed loads),
//! `orders-fence-release`, `orders-fence-acquire` (no such fence).

use crate::drops;
use loom::sync::atomic::AtomicU64 as Loom;
pub(crate) use loom::sync::atomic::Ordering;
use loom::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst};

#[derive(Debug, Default)]
pub(crate) struct AtomicU64(Loom);

pub(crate) fn fence(order: Ordering) {
    let is_dropped = match order {
        Release => drops("orders-fence-release"),
        Acquire => drops("orders-fence-acquire"),
        _ => false,
    };
    if !is_dropped {
        loom::sync::atomic::fence(order);
    }
}

loom::lazy_static! {
    static ref ORDER: Loom = Loom::new(0);
}

/// At the begin of a model, before it has threads.
pub(crate) fn begin() {
    ORDER.store(1, Relaxed);
}

fn before(order: Ordering) {
    if order == SeqCst {
        ORDER.fetch_add(1, Relaxed);
        if !drops("orders-seqcst") {
            loom::sync::atomic::fence(SeqCst);
        }
    }
}

impl AtomicU64 {
    #[track_caller]
    pub(crate) fn load(&self, order: Ordering) -> u64 {
        before(order);
        let order = match order {
            Acquire if drops("orders-acquire") => Relaxed,
            SeqCst => Acquire,
            other => other,
        };
        self.0.load(order)
    }

    #[track_caller]
    pub(crate) fn store(&self, value: u64, order: Ordering) {
        before(order);
        let order = match order {
            Release if drops("orders-release") => Relaxed,
            SeqCst => Release,
            other => other,
        };
        self.0.store(value, order);
    }

    #[track_caller]
    pub(crate) fn compare_exchange(&self, from: u64, to: u64, order: Ordering, _failed: Ordering) -> Result<u64, u64> {
        before(order);
        self.0.compare_exchange(from, to, AcqRel, Acquire)
    }

    #[track_caller]
    pub(crate) fn fetch_add(&self, value: u64, order: Ordering) -> u64 {
        before(order);
        self.0.fetch_add(value, AcqRel)
    }

    #[track_caller]
    pub(crate) fn fetch_max(&self, value: u64, order: Ordering) -> u64 {
        before(order);
        self.0.fetch_max(value, AcqRel)
    }

    #[track_caller]
    pub(crate) fn fetch_min(&self, value: u64, order: Ordering) -> u64 {
        before(order);
        self.0.fetch_min(value, AcqRel)
    }

    #[track_caller]
    pub(crate) fn fetch_or(&self, value: u64, order: Ordering) -> u64 {
        before(order);
        self.0.fetch_or(value, AcqRel)
    }

    /// What names the word.
    pub(crate) fn address(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }
}
