//! A log directory on a medium with bad sectors, that counts what is read and how many files are open.

use pwal::internal::disk::LogDirectory;
use pwal::internal::disk::fault::Operation;
use pwal::internal::disk::hooked::{Call, Hook, HookedDirectory, Verdict};
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

/// What the medium does, and what it has seen.
#[derive(Debug, Default)]
pub struct Medium {
    /// Bytes of files that are never read again.
    pub bad: Mutex<Vec<(String, Range<u64>)>>,
    pub read: AtomicU64,
    open: AtomicU64,
    pub most_open: AtomicU64,
}

impl Medium {
    /// `inner` on a medium on which these bytes are bad.
    pub fn new(bad: Vec<(String, Range<u64>)>) -> Arc<Medium> {
        Arc::new(Medium { bad: Mutex::new(bad), ..Medium::default() })
    }

    pub fn under(self: &Arc<Medium>, inner: Arc<dyn LogDirectory>) -> HookedDirectory {
        HookedDirectory::new(inner, Arc::clone(self) as Arc<dyn Hook>)
    }
}

impl Hook for Medium {
    fn before(&self, call: &Call<'_>) -> Verdict {
        let end = call.offset + call.bytes as u64;
        let hits =
            |(name, bytes): &(String, Range<u64>)| *name == call.name && bytes.start < end && call.offset < bytes.end;
        match call.operation {
            Operation::Read if self.bad.lock().unwrap().iter().any(hits) => {
                Verdict::Fail(io::Error::from_raw_os_error(libc::EIO))
            }
            _ => Verdict::Pass,
        }
    }

    fn after(&self, call: &Call<'_>) -> io::Result<()> {
        match call.operation {
            Operation::Open | Operation::Create if !call.name.starts_with('(') => {
                let open = self.open.fetch_add(1, SeqCst) + 1;
                self.most_open.fetch_max(open, SeqCst);
            }
            Operation::Read => drop(self.read.fetch_add(call.bytes as u64, SeqCst)),
            _ => {}
        }
        Ok(())
    }

    fn closed(&self, _name: &str) {
        self.open.fetch_sub(1, SeqCst);
    }
}
