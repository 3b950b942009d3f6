//! Which engines live in this process: found by file identity, so that symlinks, relative and URI paths meet.

use super::upgrades::Upgrades;
use crate::engine::Engine;
use crate::host::Environment;
use crate::os::{between_forks, generation};
use crate::sync::Mutex;
use std::collections::HashMap;
use std::fmt;
use std::io;
use std::path::Path;
use std::sync::{Arc, Weak};
use std::time::Duration;

/// How long the exit of the process waits for each thing.
const EXIT_WAIT: Duration = Duration::from_secs(1);

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
    pub(super) upgrades: Upgrades,
    /// Held while a connection that has just committed makes a checkpoint which SQLite's own hook may have asked for; tried only.
    pub(super) after_commit: Mutex<()>,
}

/// What all handles of one registration of the VFS share.
#[derive(Debug)]
pub struct Context {
    /// What their engines share.
    pub environment: Arc<Environment>,
    /// The databases that are open.
    pub registry: Registry,
}

/// The database files that handles of one registration have open. A forked child finds none of its parent's.
#[derive(Default)]
pub struct Registry(Mutex<HashMap<(FileIdentity, u32), Weak<Entry>>>);

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry").finish_non_exhaustive()
    }
}

impl Registry {
    pub(super) fn entry(&self, identity: FileIdentity) -> Arc<Entry> {
        let _no_fork = between_forks();
        let mut entries = self.0.lock();
        let identity = (identity, generation());
        if let Some(entry) = entries.get(&identity).and_then(Weak::upgrade) {
            return entry;
        }
        let inherited = entries.iter().filter(|((of, from), _)| *of == identity.0 && *from != generation());
        for entry in inherited.filter_map(|(_, entry)| entry.upgrade()) {
            if let Some(engine) = entry.engine.try_lock().as_ref().and_then(|engine| engine.as_ref()) {
                engine.exclusive.forget_inherited();
            }
        }
        entries.retain(|_, entry| entry.strong_count() > 0);
        let entry = Arc::new(Entry::default());
        entries.insert(identity, Arc::downgrade(&entry));
        entry
    }

    /// The engine of the database file at `path`, if one lives.
    #[cfg(test)]
    pub(crate) fn engine_of(&self, path: &Path) -> Option<Arc<Engine>> {
        let identity = FileIdentity::of(path).ok()?;
        let entry = self.0.lock().get(&(identity, generation())).and_then(Weak::upgrade)?;
        let engine = entry.engine.lock();
        engine.clone()
    }

    /// The process exits: closes every engine of this process that no thread is in the middle of. What cannot be had in
    /// time is left to recovery.
    pub(super) fn close_all(&self) {
        let mine = |((_, of), entry): (&(FileIdentity, u32), &Weak<Entry>)| {
            (*of == generation()).then(|| entry.upgrade()).flatten()
        };
        let Some(mine) = self.0.try_lock_for(EXIT_WAIT).map(|all| all.iter().filter_map(mine).collect::<Vec<_>>())
        else {
            return;
        };
        for entry in mine {
            if let Some(mut engine) = entry.engine.try_lock_for(EXIT_WAIT)
                && let Some(engine) = engine.take()
            {
                engine.close_at_exit(EXIT_WAIT);
            }
        }
    }
}
