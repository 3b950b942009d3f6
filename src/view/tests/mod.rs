//! Tests of the view against a model of the log and a client that behaves as `wal.c` does.

mod client;
mod file;
mod index;
mod lane;
mod log;
mod model;
mod transactions;

use super::View;
use crate::disk::LogFile;
use std::io::{self, IoSlice};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

/// A spill file in memory.
#[derive(Debug, Default)]
struct MemoryFile {
    bytes: Mutex<Vec<u8>>,
    full: AtomicBool,
}

impl LogFile for MemoryFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let bytes = self.bytes.lock().unwrap();
        let from = (offset as usize).min(bytes.len());
        let count = buffer.len().min(bytes.len() - from);
        buffer[..count].copy_from_slice(&bytes[from..from + count]);
        Ok(count)
    }

    fn write_at(&self, parts: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        if self.full.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let mut bytes = self.bytes.lock().unwrap();
        let mut at = offset as usize;
        for part in parts {
            if bytes.len() < at + part.len() {
                bytes.resize(at + part.len(), 0xee);
            }
            bytes[at..at + part.len()].copy_from_slice(part);
            at += part.len();
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn bytes(&self) -> io::Result<u64> {
        Ok(self.bytes.lock().unwrap().len() as u64)
    }
}

pub(super) fn open_memory() -> io::Result<Arc<dyn LogFile>> {
    Ok(Arc::new(MemoryFile::default()))
}

fn no_spill() -> io::Result<Arc<dyn LogFile>> {
    panic!("the lane has room")
}

/// The 12 words of a header copy, from a view's region 0.
fn header_words(view: &mut View, copy: usize) -> [u32; 12] {
    let region = view.region(0, false).unwrap();
    std::array::from_fn(|i| region.word(12 * copy + i))
}
