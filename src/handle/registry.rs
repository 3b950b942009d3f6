//! Which engines live in this process: found by file identity, so that symlinks, relative and URI paths meet.

use crate::engine::Engine;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::fmt;
use std::io;
use std::path::Path;
use std::sync::{Arc, Weak};

/// Device and inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct FileIdentity(u64, u64);

impl FileIdentity {
    pub(super) fn of(path: &Path) -> io::Result<FileIdentity> {
        // `stat` by path: opening and closing the file would drop the process's POSIX locks on it.
        let stat = rustix::fs::stat(path)?;
        Ok(FileIdentity(stat.st_dev as u64, stat.st_ino as u64))
    }
}

/// One database file: its mutex, and the engine if one lives.
#[derive(Debug, Default)]
pub(super) struct Entry {
    /// Held for every join, claim, leave and retirement.
    pub(super) engine: Mutex<Option<Arc<Engine>>>,
}

/// The database files that handles of one registration have open.
#[derive(Default)]
pub struct Registry(Mutex<HashMap<FileIdentity, Weak<Entry>>>);

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry").finish_non_exhaustive()
    }
}

impl Registry {
    pub(super) fn entry(&self, identity: FileIdentity) -> Arc<Entry> {
        let mut entries = self.0.lock();
        if let Some(entry) = entries.get(&identity).and_then(Weak::upgrade) {
            return entry;
        }
        entries.retain(|_, entry| entry.strong_count() > 0);
        let entry = Arc::new(Entry::default());
        entries.insert(identity, Arc::downgrade(&entry));
        entry
    }

    /// The engines that live.
    pub(crate) fn engines(&self) -> Vec<Arc<Engine>> {
        let entries: Vec<_> = self.0.lock().values().filter_map(Weak::upgrade).collect();
        entries.iter().filter_map(|entry| entry.engine.try_lock().and_then(|engine| engine.clone())).collect()
    }
}
