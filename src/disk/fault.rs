//! Errors on purpose: the n-th operation of a kind on a file fails, on the simulated disk, or as the hook of a
//! [`HookedDisk`](super::hooked::HookedDisk).
//!
//! What it promises: an operation that fails here fails as the kernel would let it. A failed write may have
//! written a part; a failed sync is never passed on, so that what it should have covered stays unsynced.

use super::Database;
use super::hooked::{Call, Hook, Verdict};
pub use super::hooked::{DIRECTORY_NAME, Operation, PARENT_NAME, PLACEHOLDER_NAME};
use crate::sync::Mutex;
use std::io::{self, IoSlice};
use std::sync::Arc;

/// The name that a [`Fault`] knows the database file by.
pub const DATABASE_NAME: &str = "(database)";

/// How it fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Effect {
    /// An error of the medium (`EIO`), nothing done.
    Error,
    /// No space left (`ENOSPC`), nothing done.
    NoSpace,
    /// An error of the medium after this number of bytes of the write.
    Short(usize),
    /// No space left after this number of bytes of the write.
    ShortNoSpace(usize),
    /// The process has no descriptor left (`EMFILE`), nothing done.
    NoDescriptor,
    /// All of it done, and an error of the medium. On a [`HookedDisk`](super::hooked::HookedDisk) alone.
    Done,
}

impl Effect {
    pub(super) fn error(self) -> io::Error {
        match self {
            // As from the kernel: an error that says its number.
            Effect::Error | Effect::Short(_) | Effect::Done => io::Error::from_raw_os_error(libc::EIO),
            Effect::NoSpace | Effect::ShortNoSpace(_) => io::Error::from_raw_os_error(libc::ENOSPC),
            Effect::NoDescriptor => io::Error::from_raw_os_error(libc::EMFILE),
        }
    }
}

/// One planned failure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What fails.
    pub operation: Operation,
    /// On files whose name contains this; the names above stand for the rest.
    pub name_contains: String,
    /// Fail the n-th matching operation, counted from 1 since the fault was planned.
    pub nth: u64,
    /// How it fails.
    pub effect: Effect,
    /// All later ones fail as well.
    pub goes_on: bool,
}

/// Failures that are planned, and the count of what happened. Shared by everything that one disk made.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    state: Arc<Mutex<Planned>>,
}

#[derive(Debug, Default)]
struct Planned {
    faults: Vec<(Fault, u64)>,
    fired: u64,
}

impl Plan {
    /// Plans one more failure.
    pub fn add(&self, fault: Fault) {
        self.state.lock().faults.push((fault, 0));
    }

    /// Plans nothing any more.
    pub fn clear(&self) {
        self.state.lock().faults.clear();
    }

    /// Plans nothing any more, and counts from 0 again.
    pub fn reset(&self) {
        *self.state.lock() = Planned::default();
    }

    /// How many operations have failed on purpose.
    #[must_use]
    pub fn fired(&self) -> u64 {
        self.state.lock().fired
    }

    /// Counts an operation; `Some` if it has to fail.
    pub(super) fn strike(&self, operation: Operation, name: &str) -> Option<Effect> {
        let mut state = self.state.lock();
        let mut effect = None;
        for (fault, seen) in &mut state.faults {
            if fault.operation == operation && name.contains(&fault.name_contains) {
                *seen += 1;
                if *seen == fault.nth || (fault.goes_on && *seen > fault.nth) {
                    effect = Some(fault.effect);
                }
            }
        }
        state.fired += u64::from(effect.is_some());
        effect
    }

    fn check(&self, operation: Operation, name: &str) -> io::Result<()> {
        self.strike(operation, name).map_or(Ok(()), |effect| Err(effect.error()))
    }

    /// Passes `parts` on to `write`, all of them or as many bytes as the plan leaves.
    fn write(
        &self,
        name: &str,
        parts: &[IoSlice<'_>],
        write: &mut dyn FnMut(&[IoSlice<'_>]) -> io::Result<()>,
    ) -> io::Result<()> {
        let Some(effect) = self.strike(Operation::Write, name) else { return write(parts) };
        if let Effect::Short(bytes) | Effect::ShortNoSpace(bytes) = effect {
            let all: Vec<u8> = parts.iter().flat_map(|part| part.iter().copied()).take(bytes).collect();
            write(&[IoSlice::new(&all)])?;
        }
        Err(effect.error())
    }
}

impl Hook for Plan {
    fn before(&self, call: &Call<'_>) -> Verdict {
        // What is known of a list or a renaming is the directory's.
        let operation = match call.operation {
            Operation::List => Operation::Read,
            Operation::Allocate => Operation::Write,
            Operation::Rename => Operation::Remove,
            other => other,
        };
        match self.strike(operation, call.name) {
            None => Verdict::Pass,
            Some(effect @ (Effect::Short(bytes) | Effect::ShortNoSpace(bytes))) => {
                Verdict::Short(bytes, effect.error())
            }
            Some(effect @ Effect::Done) => Verdict::Done(effect.error()),
            Some(effect) => Verdict::Fail(effect.error()),
        }
    }
}

/// A database file that fails as planned, under the name [`DATABASE_NAME`].
#[derive(Debug)]
pub struct FaultDatabase<D> {
    inner: D,
    plan: Plan,
}

impl<D: Database> FaultDatabase<D> {
    /// Around `inner`, failing what `plan` says.
    #[must_use]
    pub fn new(inner: D, plan: Plan) -> FaultDatabase<D> {
        FaultDatabase { inner, plan }
    }
}

impl<D: Database> Database for FaultDatabase<D> {
    fn read_at(&mut self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.plan.check(Operation::Read, DATABASE_NAME)?;
        self.inner.read_at(buffer, offset)
    }

    fn write_at(&mut self, data: &[u8], offset: u64) -> io::Result<()> {
        let inner = &mut self.inner;
        self.plan.write(DATABASE_NAME, &[IoSlice::new(data)], &mut |parts| {
            parts.iter().try_for_each(|part| inner.write_at(part, offset))
        })
    }

    fn set_bytes(&mut self, bytes: u64) -> io::Result<()> {
        self.plan.check(Operation::SetBytes, DATABASE_NAME)?;
        self.inner.set_bytes(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.plan.check(Operation::Sync, DATABASE_NAME)?;
        self.inner.sync()
    }

    fn bytes(&mut self) -> io::Result<u64> {
        self.inner.bytes()
    }
}
