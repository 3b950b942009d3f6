//! Drops one rule of recovery at the door to the disk, to show that the checks would notice.

use pwal::internal::disk::fault::{DIRECTORY_NAME, Operation};
use pwal::internal::disk::hooked::{Call, Hook, Verdict};
use pwal::internal::disk::sim::SimDatabase;
use pwal::internal::disk::{Database, OpenMode};
use pwal::internal::log::stamp;
use std::borrow::Cow;
use std::io;

/// The database file; `dropped` names the rule that is not kept.
#[derive(Debug)]
pub struct DatabaseAdapter {
    pub inner: SimDatabase,
    pub dropped: &'static str,
}

impl Database for DatabaseAdapter {
    fn read_at(&mut self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.inner.read_at(buffer, offset)
    }

    fn write_at(&mut self, data: &[u8], offset: u64) -> io::Result<()> {
        if self.dropped == "replay_stamp" && offset == 0 && data.len() >= 100 {
            let mut plain = data.to_vec();
            stamp::clear(&mut plain);
            return self.inner.write_at(&plain, 0);
        }
        self.inner.write_at(data, offset)
    }

    fn set_bytes(&mut self, bytes: u64) -> io::Result<()> {
        if self.dropped == "truncate" { Ok(()) } else { self.inner.set_bytes(bytes) }
    }

    fn sync(&mut self) -> io::Result<()> {
        if self.dropped == "database_sync" { Ok(()) } else { self.inner.sync() }
    }

    fn bytes(&mut self) -> io::Result<u64> {
        self.inner.bytes()
    }
}

/// The log directory without the rule `dropped`.
#[derive(Debug)]
pub struct Dropped(pub &'static str);

impl Hook for Dropped {
    fn before(&self, call: &Call<'_>) -> Verdict {
        let is_file = !call.name.starts_with('(');
        let is_skipped = match self.0 {
            "directory_sync" => call.name == DIRECTORY_NAME,
            "sync_first" => is_file,
            _ => false,
        };
        if is_skipped && call.operation == Operation::Sync { Verdict::Skip } else { Verdict::Pass }
    }

    fn opens<'a>(&self, name: &'a str, how: OpenMode) -> (Cow<'a, str>, OpenMode) {
        match how {
            OpenMode::PastCache if self.0 == "past_cache" => (Cow::Borrowed(name), OpenMode::Existing),
            _ if self.0 == "marker_z2" && name.starts_with("retired-") => {
                (Cow::Borrowed("control"), OpenMode::CreateNew)
            }
            how => (Cow::Borrowed(name), how),
        }
    }
}
