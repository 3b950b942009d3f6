//! The simulated disk as the engine wants to have it: directory, files and database handle with a place for other things to happen
//! in before each operation and within each sync, and a disk that can be full.
//!
//! The log directory has a real path, since the engine maps `control` there; the files live in the simulation.

use crate::disk::sim::{SimDatabase, SimDirectory, SimLogFile, SyncToken};
use crate::disk::{Database, LogDirectory, LogFile, OpenMode};
use crate::host::{DatabaseHandle, Host, LockLevel};
use crate::interleave::{split, step};
use crate::log::format::{CONTROL_NAME, LOCK_NAME};
use crate::sqlite::Code;
use crate::sync::Mutex;
use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

type Between = Rc<dyn Fn()>;

thread_local! {
    static BETWEEN: RefCell<Option<Between>> = const { RefCell::new(None) };
}

/// What happens on this thread before each operation of the disk, and between the beginning and the end of each sync.
pub fn set_between(between: Option<Between>) {
    BETWEEN.with(|cell| *cell.borrow_mut() = between);
}

fn behind_sync(synced: &io::Result<()>) {
    between();
    if synced.is_err() {
        step("a failed sync");
    }
}

fn between() {
    step("the disk");
    let now = BETWEEN.with(|cell| cell.borrow().clone());
    if let Some(now) = now {
        now();
    }
}

/// What all files have in common.
#[derive(Clone, Debug, Default)]
pub struct Medium(Arc<Troubles>);

#[derive(Debug, Default)]
struct Troubles {
    /// No file grows.
    full: AtomicBool,
    /// A sync of the log has failed: who knows it may be dead, and what only the cache held is lost.
    failed: AtomicBool,
    /// How often a file could not grow.
    refused: AtomicU64,
}

impl Medium {
    pub fn set_full(&self, full: bool) {
        self.0.full.store(full, SeqCst);
    }

    pub fn is_full(&self) -> bool {
        self.0.full.load(SeqCst)
    }

    /// Whether a sync of the log has failed since [`take_failed`](Medium::take_failed).
    pub fn has_failed(&self) -> bool {
        self.0.failed.load(SeqCst)
    }

    /// Whether a sync of the log has failed since this was asked last.
    pub fn take_failed(&self) -> bool {
        self.0.failed.swap(false, SeqCst)
    }

    /// How often a file could not grow.
    pub fn refused(&self) -> u64 {
        self.0.refused.load(SeqCst)
    }

    fn check(&self, now: io::Result<u64>, then: u64) -> io::Result<()> {
        if !self.is_full() || now? >= then {
            return Ok(());
        }
        self.0.refused.fetch_add(1, SeqCst);
        Err(io::Error::from_raw_os_error(libc::ENOSPC))
    }
}

#[derive(Debug)]
pub struct Directory {
    pub inner: SimDirectory,
    pub path: PathBuf,
    pub medium: Medium,
    /// Several processes: `lock` and `control` are the real files that they share.
    pub is_shared: bool,
}

impl Directory {
    fn is_real(&self, name: &str) -> bool {
        self.is_shared && (name == LOCK_NAME || name == CONTROL_NAME)
    }
}

impl LogDirectory for Directory {
    fn path(&self) -> &Path {
        &self.path
    }

    fn create(&self) -> io::Result<()> {
        between();
        if self.is_shared {
            std::fs::create_dir_all(&self.path)?;
        }
        self.inner.create()
    }

    fn exists(&self) -> io::Result<bool> {
        self.inner.exists()
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = self.inner.list()?;
        names.extend(
            [CONTROL_NAME, LOCK_NAME]
                .map(str::to_owned)
                .into_iter()
                .filter(|name| self.is_real(name) && self.path.join(name).exists()),
        );
        Ok(names)
    }

    fn open(&self, name: &str, how: OpenMode) -> io::Result<Arc<dyn LogFile>> {
        between();
        let inner = self.inner.open_file(name, how)?;
        Ok(Arc::new(File { inner, medium: self.medium.clone() }))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        between();
        if self.is_real(name) {
            return match std::fs::remove_file(self.path.join(name)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            };
        }
        self.inner.remove(name)
    }

    fn sync(&self) -> io::Result<()> {
        between();
        self.inner.sync()
    }

    fn sync_parent(&self) -> io::Result<()> {
        between();
        self.inner.sync_parent()
    }

    fn remove_directory(&self) -> io::Result<bool> {
        between();
        if self.is_shared && [CONTROL_NAME, LOCK_NAME].iter().any(|name| self.path.join(name).exists()) {
            return Ok(false);
        }
        let removed = self.inner.remove_directory()?;
        if self.is_shared && removed {
            std::fs::remove_dir(&self.path)?;
        }
        Ok(removed)
    }

    fn create_placeholder(&self) -> io::Result<bool> {
        between();
        self.inner.create_placeholder()
    }

    fn remove_placeholder(&self) -> io::Result<()> {
        between();
        self.inner.remove_placeholder()
    }

    fn rename(&self, suffix: &str) -> io::Result<()> {
        self.inner.rename(suffix)
    }
}

#[derive(Debug)]
struct File {
    inner: SimLogFile,
    medium: Medium,
}

impl LogFile for File {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        between();
        let read = self.inner.read_at(buffer, offset);
        between();
        read
    }

    fn write_at(&self, parts: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        between();
        let bytes: usize = parts.iter().map(|part| part.len()).sum();
        self.medium.check(self.inner.bytes(), offset + bytes as u64)?;
        match split(bytes) {
            None => self.inner.write_at(parts, offset)?,
            Some(first) => {
                let all: Vec<u8> = parts.iter().flat_map(|part| part.iter().copied()).collect();
                let (first, second) = all.split_at(first.min(bytes));
                self.inner.write_at(&[IoSlice::new(first)], offset)?;
                between();
                self.inner.write_at(&[IoSlice::new(second)], offset + first.len() as u64)?;
            }
        }
        between();
        Ok(())
    }

    fn allocate(&self, bytes: u64) -> io::Result<bool> {
        between();
        self.medium.check(self.inner.bytes(), bytes)?;
        let is_allocated = self.inner.allocate(bytes);
        between();
        is_allocated
    }

    fn sync(&self) -> io::Result<()> {
        between();
        let token: SyncToken = self.inner.sync_begin();
        between();
        step("a sync");
        let synced = self.inner.sync_end(token, false);
        self.medium.0.failed.fetch_or(synced.is_err(), SeqCst);
        behind_sync(&synced);
        synced
    }

    fn bytes(&self) -> io::Result<u64> {
        self.inner.bytes()
    }

    fn truncate(&self) -> io::Result<()> {
        between();
        self.inner.truncate()?;
        between();
        Ok(())
    }
}

/// The database handle: locks are granted, but EXCLUSIVE to one process at a time.
#[derive(Debug)]
pub struct SimDatabaseHandle {
    pub inner: SimDatabase,
    pub medium: Medium,
    pub exclusive: Option<Exclusive>,
}

/// EXCLUSIVE on the database file, of one process at a time.
#[derive(Clone, Debug)]
pub struct Exclusive {
    pub holder: Arc<Mutex<Option<u64>>>,
    pub process: u64,
}

impl Drop for SimDatabaseHandle {
    fn drop(&mut self) {
        let _freed = self.unlock(LockLevel::None);
    }
}

impl Database for SimDatabaseHandle {
    fn read_at(&mut self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.inner.read_at(buffer, offset)
    }

    fn write_at(&mut self, data: &[u8], offset: u64) -> io::Result<()> {
        between();
        self.medium.check(self.inner.bytes(), offset + data.len() as u64)?;
        self.inner.write_at(data, offset)?;
        if offset == 0 {
            crate::interleave::step("header written");
        }
        between();
        Ok(())
    }

    fn set_bytes(&mut self, bytes: u64) -> io::Result<()> {
        between();
        self.medium.check(self.inner.bytes(), bytes)?;
        self.inner.set_bytes(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        between();
        let token = self.inner.sync_begin();
        between();
        let synced = self.inner.sync_end(token, false);
        behind_sync(&synced);
        synced
    }

    fn bytes(&mut self) -> io::Result<u64> {
        self.inner.bytes()
    }
}

impl DatabaseHandle for SimDatabaseHandle {
    fn lock(&mut self, level: LockLevel) -> Result<(), Code> {
        between();
        let Some(Exclusive { holder, process }) = &self.exclusive else { return Ok(()) };
        let mut holder = holder.lock();
        if holder.is_some_and(|holder| holder != *process) {
            return Err(Code::BUSY);
        }
        if level == LockLevel::Exclusive {
            *holder = Some(*process);
        }
        Ok(())
    }

    fn unlock(&mut self, _level: LockLevel) -> Result<(), Code> {
        if let Some(Exclusive { holder, process }) = &self.exclusive {
            holder.lock().take_if(|holder| *holder == *process);
        }
        Ok(())
    }

    fn read_only(&self) -> bool {
        false
    }
}

/// A host that nobody asks anything.
#[derive(Debug)]
pub struct SimHost;

impl Host for SimHost {
    fn open_database_handle(&self, _path: &Path) -> Result<Box<dyn DatabaseHandle>, Code> {
        Err(Code::CANTOPEN)
    }

    fn recover_stock_files(&self, _path: &Path) -> Result<(), Code> {
        Err(Code::ERROR)
    }

    fn log(&self, _code: i32, text: &str) {
        if std::env::var_os("PWAL_TEST_TALK").is_some() {
            println!("  log: {text}");
        }
    }
}
