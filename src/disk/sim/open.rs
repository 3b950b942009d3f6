//! The open files of a [`SimDisk`]. One that was opened before the disk was restarted fails in every call; each reports a
//! failed sync once, as the kernel does for each descriptor.

use super::file::SECTOR_BYTES;
use super::{DATABASE_NAME, Effect, FileId, Operation, SimDisk, State, SyncToken, off, strike};
use crate::disk::{Database, LogFile, OpenMode};
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

/// An open file, by its number.
#[derive(Clone, Debug)]
pub(super) struct SimHandle {
    disk: SimDisk,
    file: FileId,
    incarnation: u64,
    /// The failed syncs that were reported to this file, or are older than it.
    reported: Arc<AtomicU64>,
    /// Once closed and deleted, it is empty.
    gone: Arc<AtomicBool>,
}

impl SimHandle {
    /// Opened in life `incarnation` of the disk.
    pub(super) fn new(disk: &SimDisk, state: &mut State, file: FileId, incarnation: u64) -> SimHandle {
        let reported = Arc::new(AtomicU64::new(state.file(file).failed_syncs()));
        SimHandle { disk: disk.clone(), file, incarnation, reported, gone: Arc::default() }
    }

    /// Whether a failed sync is still to be reported to this file.
    fn is_to_be_reported(&self, state: &mut State) -> bool {
        let failed = state.file(self.file).failed_syncs();
        self.reported.swap(failed, SeqCst) < failed && state.reports_each
    }

    /// Whether the file may have been closed to save descriptors and its name is gone, as the dice say; from then on for good.
    fn is_gone(&self, directory: FileId, name: &str) -> bool {
        let mut state = self.disk.state.lock();
        if state.check(self.incarnation).is_err() || state.names(directory).cache.get(name) == Some(&self.file) {
            return false;
        }
        let is_gone = self.gone.load(SeqCst) || state.dice.percent(50);
        self.gone.store(is_gone, SeqCst);
        is_gone
    }

    pub(super) fn read(&self, name: &str, buffer: &mut [u8], offset: u64, past_cache: bool) -> io::Result<usize> {
        let mut state = self.disk.state.lock();
        state.check(self.incarnation)?;
        strike(&self.disk.plan, Operation::Read, name)?;
        state.check_readable(self.file, offset, buffer.len())?;
        Ok(state.file(self.file).read(buffer, offset, past_cache))
    }

    pub(super) fn write(&self, name: &str, data: &[u8], offset: u64) -> io::Result<()> {
        let mut state = self.disk.state.lock();
        state.check(self.incarnation)?;
        let effect = self.disk.plan.strike(Operation::Write, name);
        state.check_room(self.file, offset + data.len() as u64)?;
        let runs = state.begin(self.incarnation)?;
        let clock = state.clock;
        let length = match effect {
            Some(Effect::Short(bytes) | Effect::ShortNoSpace(bytes)) => bytes.min(data.len()),
            Some(Effect::Error | Effect::NoSpace | Effect::NoDescriptor | Effect::Done) => 0,
            None if runs => data.len(),
            // The process died in it, or the power went: whole sectors of it are there.
            None => (state.dice.index(data.len() / SECTOR_BYTES + 2) * SECTOR_BYTES).min(data.len()),
        };
        state.file(self.file).write(&data[..length], offset, clock);
        if name == DATABASE_NAME && offset == 0 && runs {
            match &mut state.header_fuse {
                Some(0) => {
                    state.is_off = true;
                    return Err(off());
                }
                Some(left) => *left -= 1,
                None => {}
            }
        }
        match effect {
            Some(effect) => Err(effect.error()),
            None if runs => Ok(()),
            None => Err(off()),
        }
    }

    pub(super) fn sync_begin(&self) -> SyncToken {
        SyncToken(self.disk.state.lock().clock)
    }

    pub(super) fn sync_end(&self, name: &str, token: SyncToken, fails: bool) -> io::Result<()> {
        let mut state = self.disk.state.lock();
        state.check(self.incarnation)?;
        let effect = self.disk.plan.strike(Operation::Sync, name);
        if effect == Some(Effect::NoDescriptor) {
            return Err(Effect::NoDescriptor.error());
        }
        let runs = state.begin(self.incarnation)?;
        if effect.is_some() || fails {
            let mut dice = state.dice.clone();
            state.file(self.file).sync_failed(token.0, &mut dice);
            state.dice = dice;
            self.is_to_be_reported(&mut state);
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        if runs {
            state.file(self.file).sync(token.0);
            match self.is_to_be_reported(&mut state) {
                true => Err(io::Error::from_raw_os_error(libc::EIO)),
                false => Ok(()),
            }
        } else {
            Err(off())
        }
    }

    pub(super) fn bytes(&self) -> io::Result<u64> {
        let mut state = self.disk.state.lock();
        state.check(self.incarnation)?;
        Ok(state.file(self.file).bytes())
    }

    pub(super) fn set_bytes(&self, name: &str, bytes: u64) -> io::Result<()> {
        let mut state = self.disk.state.lock();
        state.check(self.incarnation)?;
        strike(&self.disk.plan, Operation::SetBytes, name)?;
        state.check_room(self.file, bytes)?;
        if !state.begin(self.incarnation)? {
            return Err(off());
        }
        let clock = state.clock;
        state.file(self.file).set_bytes(bytes, clock);
        Ok(())
    }
}

/// A log file on a [`SimDisk`].
#[derive(Clone, Debug)]
pub struct SimLogFile {
    pub(super) handle: SimHandle,
    /// In which it has its name.
    pub(super) directory: FileId,
    pub(super) name: String,
    pub(super) how: OpenMode,
}

impl SimLogFile {
    /// The first half of a sync, for tests that let other things happen before its end.
    #[must_use]
    pub fn sync_begin(&self) -> SyncToken {
        self.handle.sync_begin()
    }

    /// The second half: what was written before `token` is on the medium now; `fails`: any of it.
    ///
    /// # Errors
    /// `EIO` if it fails, or if that is planned.
    pub fn sync_end(&self, token: SyncToken, fails: bool) -> io::Result<()> {
        self.handle.sync_end(&self.name, token, fails)
    }
}

impl LogFile for SimLogFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        if self.handle.is_gone(self.directory, &self.name) {
            return Ok(0);
        }
        self.handle.read(&self.name, buffer, offset, self.how == OpenMode::PastCache)
    }

    fn write_at(&self, parts: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        if matches!(self.how, OpenMode::ReadOnly | OpenMode::PastCache) {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        let data = parts.iter().map(|part| &**part).collect::<Vec<_>>().concat();
        self.handle.write(&self.name, &data, offset)
    }

    /// What is not synced may be lost, and is zeros or beyond the end of the file then: as after a write of zeros.
    fn allocate(&self, bytes: u64) -> io::Result<bool> {
        let zeros = vec![0; usize::try_from(bytes).map_err(io::Error::other)?];
        self.write_at(&[IoSlice::new(&zeros)], 0).map(|()| true)
    }

    fn sync(&self) -> io::Result<()> {
        let token = self.sync_begin();
        self.sync_end(token, false)
    }

    fn bytes(&self) -> io::Result<u64> {
        self.handle.bytes()
    }

    fn truncate(&self) -> io::Result<()> {
        self.handle.set_bytes(&self.name, 0)
    }
}

/// A database file on a [`SimDisk`].
#[derive(Clone, Debug)]
pub struct SimDatabase {
    pub(super) handle: SimHandle,
}

impl SimDatabase {
    /// As [`SimLogFile::sync_begin`].
    #[must_use]
    pub fn sync_begin(&self) -> SyncToken {
        self.handle.sync_begin()
    }

    /// As [`SimLogFile::sync_end`].
    ///
    /// # Errors
    /// As there.
    pub fn sync_end(&self, token: SyncToken, fails: bool) -> io::Result<()> {
        self.handle.sync_end(DATABASE_NAME, token, fails)
    }
}

impl Database for SimDatabase {
    fn read_at(&mut self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.handle.read(DATABASE_NAME, buffer, offset, false)
    }

    fn write_at(&mut self, data: &[u8], offset: u64) -> io::Result<()> {
        self.handle.write(DATABASE_NAME, data, offset)
    }

    fn set_bytes(&mut self, bytes: u64) -> io::Result<()> {
        self.handle.set_bytes(DATABASE_NAME, bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        let token = self.sync_begin();
        self.sync_end(token, false)
    }

    fn bytes(&mut self) -> io::Result<u64> {
        self.handle.bytes()
    }
}
