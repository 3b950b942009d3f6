//! A connection beside stock SQLite: a connection that is not on pwal had the database open first, so that EXCLUSIVE
//! cannot be had. Then this one works as stock does, with the real `-wal` and `-shm`, until all of them have closed.
//!
//! No process may have the log meanwhile. A claim needs EXCLUSIVE, against the SHARED of this connection's base file;
//! but POSIX locks belong to the process (another SQLite library in it is not kept out, and closing the file anywhere
//! in it drops them). So each such connection also holds the byte STOCK of the lock file, shared, by a lock of its open
//! file. STOCK is taken, and checked by claims, under INIT: a claim that finds it held is BUSY, and STOCK is not taken
//! while there is a member.

use crate::disk::LogDirectory;
use crate::shared::{ALIVE_BYTES, INIT, LOCK_NAME, LockFile, STOCK};
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// How long the end of such a connection waits for INIT: without it the log directory stays, empty, for the next open.
const INIT_WAIT: Duration = Duration::from_millis(100);

pub(super) struct BesideStock {
    lock: LockFile,
    dir: Arc<dyn LogDirectory>,
}

impl BesideStock {
    /// Under INIT, which `lock` holds and keeps, without members.
    ///
    /// # Errors
    /// Any error of the file system.
    pub(super) fn begin(lock: LockFile, dir: &Arc<dyn LogDirectory>) -> io::Result<BesideStock> {
        if !lock.try_lock_shared(STOCK)? {
            // No process ever holds it exclusively.
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(BesideStock { lock, dir: Arc::clone(dir) })
    }

    /// As [`BesideStock::begin`], with STOCK alone; `None`: others have it.
    ///
    /// # Errors
    /// Any error of the file system.
    pub(super) fn begin_alone(lock: LockFile, dir: &Arc<dyn LogDirectory>) -> io::Result<Option<BesideStock>> {
        Ok(lock.try_lock(STOCK)?.then(|| BesideStock { lock, dir: Arc::clone(dir) }))
    }

    /// STOCK alone, before this connection writes as the only one; false: others have it, too.
    ///
    /// # Errors
    /// Any error of the file system.
    pub(super) fn be_alone(&self) -> io::Result<bool> {
        self.lock.try_lock(STOCK)
    }

    /// STOCK together with others again.
    ///
    /// # Errors
    /// Any error of the file system.
    pub(super) fn share(&self) -> io::Result<()> {
        self.lock.try_lock_shared(STOCK).map(drop)
    }

    /// STOCK is free; the directory stays. Under INIT, which another open file of this process holds.
    ///
    /// # Errors
    /// Any error of the file system.
    pub(super) fn end_under_init(self) -> io::Result<()> {
        self.lock.unlock(STOCK)?;
        self.lock.close();
        Ok(())
    }

    /// Others may come.
    ///
    /// # Errors
    /// Any error of the file system.
    pub(super) fn end_init(&self) -> io::Result<()> {
        self.lock.unlock(INIT)
    }

    fn leave(&self) -> io::Result<()> {
        let has_init = self.lock.lock_within(INIT, INIT_WAIT, || Ok(false))?;
        self.lock.unlock(STOCK)?;
        if has_init && self.lock.is_in(&*self.dir.directory()?)? {
            give_up_lock(&self.lock, &*self.dir);
        }
        Ok(())
    }
}

impl Drop for BesideStock {
    fn drop(&mut self) {
        // Closing the lock file frees all; in a forked child it is closed already. A failure leaves an empty directory.
        let _ = self.leave();
    }
}

/// Whether connections of pwal are beside stock SQLite, but for this open file.
pub(super) fn is_beside_stock(lock: &LockFile) -> io::Result<bool> {
    lock.is_held_by_others(STOCK)
}

/// Under INIT, with STOCK held by others: whether it is one, which has the database for itself.
pub(super) fn is_held_alone(lock: &LockFile) -> io::Result<bool> {
    let shared = lock.try_lock_shared(STOCK)?;
    if shared {
        lock.unlock(STOCK)?;
    }
    Ok(!shared)
}

/// Under INIT: removes the log directory if nothing but `lock` and `control` is in it, and no process holds locks by
/// it. A failure leaves a harmless empty directory.
pub(super) fn give_up_lock(lock: &LockFile, dir: &dyn LogDirectory) {
    let is_ours = |name: &String| name == LOCK_NAME || name == crate::shared::CONTROL_NAME;
    let is_used = lock.is_held_by_others(ALIVE_BYTES).unwrap_or(true) || is_beside_stock(lock).unwrap_or(true);
    if !is_used && dir.list().is_ok_and(|names| names.iter().all(is_ours)) {
        let _ = crate::log::retire::remove_directory(dir);
    }
}
