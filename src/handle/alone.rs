//! A connection in `locking_mode=EXCLUSIVE`, which has the database for itself: the log is retired, and SQLite works on the
//! database file with a `-wal` of its own, as it does without pwal, under the EXCLUSIVE that was the engine's.
//!
//! SQLite asks for EXCLUSIVE at one of two moments:
//! * before it opens the WAL (`pagerOpenWal`). Then its wal-index is in its own memory (`WAL_HEAPMEMORY_MODE`), and it stays in the
//!   mode as long as the WAL is open;
//! * before a write, with the WAL open on a view (`sqlite3PagerBegin`). It keeps the memory of the view as its wal-index, takes no lock
//!   in it any more (`sqlite3WalExclusiveMode`), and appends to the frames that it knows; but a `-wal` that is to be recovered has to
//!   hold all frames from the first on. So it must begin the WAL anew, as `walRestartLog` does where every frame is in the
//!   database file and the snapshot was taken by `READ_LOCK(0)`. `WalConnection::shows_backfilled` provides for that, in the
//!   snapshot of a connection that is expected to ask, since a pragma said so or since it was refused. Back in NORMAL, SQLite
//!   asks for the lock of its snapshot again: what it has put into the `-wal` goes to the database file, and an
//!   engine begins.
//!
//! The byte STOCK, held alone, keeps claims and connections beside stock SQLite away where EXCLUSIVE does not (POSIX locks are the
//! process's, see [`super::beside`]).

use super::beside::BesideStock;
use super::claim;
use super::file::{OpenFile, beside};
use super::init_lock::{INIT_WAIT, take_init};
use super::opening::{ExclusiveDatabase, Opening};
use super::refusal::Refused;
use super::wal_connection::WalConnection;
use crate::disk::open_to_read;
use crate::engine::EngineError;
use crate::host::DatabaseHandle;
use crate::log::backfill::Backfill;
use crate::log::stamp::Marks;
use crate::sqlite::Code;
use crate::view::View;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// `WAL_HDRSIZE`
const WAL_HEADER_BYTES: u64 = 32;
/// `WAL_FRAME_HDRSIZE`
const FRAME_HEADER_BYTES: u64 = 24;

/// What `parallel_wal_status` says of such a connection.
pub(super) const WHY_INACTIVE: &str =
    "locking_mode=EXCLUSIVE: this connection has the database for itself, on stock SQLite's own -wal";

static NEXT_WAL: AtomicU64 = AtomicU64::new(1);

pub(super) struct Alone {
    /// Holds EXCLUSIVE. `None`: the way back failed where nothing could be undone, and only `xClose` is left.
    database_handle: Option<Box<dyn DatabaseHandle>>,
    /// The memory that SQLite has its wal-index in, until `xShmUnmap`; `None`: it has its own.
    pub(super) view: Option<Box<View>>,
    /// The number of the WAL file that belongs to the view: no two have the same.
    wal: u64,
    lock: Option<BesideStock>,
}

impl Alone {
    /// The log is retired, and `database handle` holds EXCLUSIVE.
    pub(super) fn new(file: &OpenFile, database_handle: Box<dyn DatabaseHandle>, view: Option<Box<View>>) -> Alone {
        crate::fault_point("retired_alone");
        file.log_message(Code::NOTICE, WHY_INACTIVE);
        Alone { database_handle: Some(database_handle), view, wal: NEXT_WAL.fetch_add(1, Relaxed), lock: hold(file) }
    }

    /// # Errors
    /// `IOERR`: only `xClose` is left.
    pub(super) fn check(&self) -> Result<(), Code> {
        if self.database_handle.is_some() { Ok(()) } else { Err(Code::IOERR) }
    }

    /// The number of the `-wal` that SQLite's open WAL stands for; `None`: it opened that one itself.
    pub(super) fn wal(&self) -> Option<u64> {
        self.view.as_ref().map(|_| self.wal)
    }

    /// The database handle, with its EXCLUSIVE.
    ///
    /// # Errors
    /// `IOERR`: only `xClose` is left.
    pub(super) fn database_handle(&mut self) -> Result<&mut dyn DatabaseHandle, Code> {
        Ok(self.database_handle.as_mut().ok_or(Code::IOERR)?.as_mut())
    }

    /// `sqlite3WalExclusiveMode`, back to NORMAL: others may come, through an engine. SQLite asks again with the end of the next
    /// transaction where it is refused.
    ///
    /// # Errors
    /// The connection stays alone: what could not be read, written or locked.
    pub(super) fn share(&mut self, file: &OpenFile) -> Result<WalConnection, Code> {
        self.check()?;
        let Some(view) = &self.view else { return Err(Code::BUSY) };
        let refused = |refused: Refused| {
            file.log_message(
                refused.code,
                &format!("stays in locking_mode=EXCLUSIVE: {}", refused.text.unwrap_or_default()),
            );
            refused.code
        };
        let identity = file.identity.ok_or(Code::IOERR)?;
        let path = file.database_path(identity).map_err(refused)?;
        let wal = beside(&file.facts.path, "-wal");
        let database_handle = self.database_handle.as_mut().ok_or(Code::IOERR)?;
        backfill(view, &wal, database_handle.as_mut()).map_err(|error| refused(error.into()))?;
        let entry = file.context.registry.entry(identity);
        let mut of_entry = entry.engine.lock();
        let opening = Opening::new(file, &path);
        crate::fault_point("backfilled_alone");
        let Some(lock) = take_init(&path, &*opening.dir, INIT_WAIT).map_err(refused)? else {
            return Err(Code::BUSY);
        };
        match std::fs::remove_file(&wal) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(refused(EngineError::write("the end of stock SQLite's -wal", error).into()));
            }
            _ => {}
        }
        // The database file is all there is. From here on a failure leaves it, and this connection has to be closed.
        let (Some(database_handle), Some(view)) = (self.database_handle.take(), self.view.take()) else {
            return Err(Code::IOERR);
        };
        if let Some(own) = self.lock.take() {
            own.end_under_init().map_err(|_| Code::IOERR_LOCK)?;
        }
        crate::fault_point("sharing_again");
        let (engine, wal) = claim::resume(file, &entry, &opening, ExclusiveDatabase { database_handle, lock }, view)?;
        *of_entry = Some(engine);
        Ok(wal)
    }
}

/// STOCK, alone. Where it cannot be had EXCLUSIVE has to do, as with stock SQLite.
pub(super) fn hold(file: &OpenFile) -> Option<BesideStock> {
    let held = claim::hold_alone(file);
    held.unwrap_or_else(|refused| {
        file.log_message(
            Code::WARNING,
            &format!("locked by SQLite's own locks only: {}", refused.text.unwrap_or_default()),
        );
        None
    })
}

/// What SQLite has put into the file at `wal`, and not into the database file, goes there, durably: as `walCheckpoint` does it.
fn backfill(view: &View, wal: &Path, database: &mut dyn DatabaseHandle) -> Result<(), EngineError> {
    let (frames, database_pages) = view.frames_to_backfill();
    if frames.is_empty() {
        return Ok(());
    }
    let failed = |action| move |error| EngineError::database(action, wal, error);
    let file = open_to_read(wal).map_err(failed("open"))?;
    // Of commits that are not durable the database file would have some pages, and the `-wal` no frames.
    if !crate::drops("alone-sync-wal") {
        file.sync_all().map_err(failed("sync"))?;
    }
    let page_bytes = view.page_bytes();
    Backfill::with_marks(database, page_bytes, Marks::Plain).run(
        frames.iter().map(|(page, _)| *page),
        database_pages,
        |page, buffer| {
            let at = frames.binary_search_by_key(&page, |(page, _)| *page).map_or(0, |at| frames[at].1);
            read_frame(&file, page, at, buffer).map_err(failed("read"))
        },
    )
}

/// The image of `page` in that frame.
fn read_frame(wal: &File, page: u32, frame: u32, image: &mut [u8]) -> io::Result<()> {
    let frame_bytes = FRAME_HEADER_BYTES + image.len() as u64;
    let at = WAL_HEADER_BYTES + u64::from(frame.saturating_sub(1)) * frame_bytes;
    let mut number = [0; 4];
    wal.read_exact_at(&mut number, at)?;
    if u32::from_be_bytes(number) != page {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("frame {frame} is not of page {page}")));
    }
    wal.read_exact_at(image, at + FRAME_HEADER_BYTES)
}
