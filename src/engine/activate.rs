//! Activation: the log of a database begins, with the first commit or the second member, and again after a rest.
//!
//! A0 to A2 of `docs/format.md`, under APPEND: what an earlier try left is undone, the first segment is made and synced with its
//! name, and the stamp in the header of the database file is written and synced last. From the stamp on stock SQLite does
//! not open the file; so before it is written, EXCLUSIVE is confirmed, and the file is compared with what it was at the
//! claim: what another program committed meanwhile is an error, and not overwritten.

use super::append::Append;
use super::context::LogContext;
use super::error::EngineError;
use super::exclusive::ExclusiveLock;
use super::page_one::PageOneCopy;
use super::segment_file::SegmentFile;
use super::segment_files::SegmentFiles;
use crate::host::DatabaseHandle;
use crate::log::format::{self, SegmentHeader};
use crate::log::retire;
use crate::log::segments::{SEGMENT_BYTES_FIRST, create_first_segment};
use crate::log::stamp::{self, STAMP_WRITE_BYTES, Stamp};
use crate::shared::{CONTROL_NAME, EpochRecord};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Bytes that are compared at activation.
pub(super) const HEADER_BYTES: usize = 100;

/// The first record of a log.
struct BeginOfLog {
    ordinal: u64,
    /// The number of the segment file.
    file: u32,
    epoch: u64,
    /// The last commit before it: all up to there are in the database file.
    last: u64,
    /// The chain value after it.
    chain: u64,
}

/// Shows whether another program has changed the database file: a checksum of its header in the upper half, of its
/// modification time in the lower one. (Commits in WAL mode need move neither the change counter nor the size.)
pub(super) fn checksums(header: &[u8], file: &std::fs::Metadata) -> u64 {
    let mut plain = header.get(..HEADER_BYTES).unwrap_or(header).to_vec();
    // An activation that failed may have left its stamp.
    stamp::clear(&mut plain);
    let modified = [file.mtime().to_le_bytes(), file.mtime_nsec().to_le_bytes()].concat();
    u64::from(crc32c::crc32c(&plain)) << 32 | u64::from(crc32c::crc32c(&modified))
}

/// Whether a WAL of stock SQLite that is not empty lies beside the database file at `path`; the placeholder is none.
pub(crate) fn has_stock_wal(path: &Path) -> bool {
    std::fs::metadata(beside(path, "-wal")).is_ok_and(|wal| wal.is_file() && wal.len() > 0)
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// Begins the log.
pub(super) struct Activation {
    log: Arc<LogContext>,
    files: Arc<SegmentFiles>,
    append: Arc<Append>,
    page_one: Arc<PageOneCopy>,
    exclusive: Arc<ExclusiveLock>,
}

impl Activation {
    pub(super) fn new(
        log: &Arc<LogContext>,
        files: &Arc<SegmentFiles>,
        append: &Arc<Append>,
        page_one: &Arc<PageOneCopy>,
        exclusive: &Arc<ExclusiveLock>,
    ) -> Activation {
        let (log, files, append) = (Arc::clone(log), Arc::clone(files), Arc::clone(append));
        Activation { log, files, append, page_one: Arc::clone(page_one), exclusive: Arc::clone(exclusive) }
    }

    /// A0 to A2 of `docs/format.md`: the log exists from here on. The first process to commit does it, under APPEND;
    /// again from the start if that process died.
    pub(super) fn activate(&self) -> Result<(), EngineError> {
        if self.log.is_active() {
            return Ok(());
        }
        let _append = self.append.lock()?;
        if self.log.is_active() {
            return Ok(());
        }
        let control = self.log.marks.control();
        let mut database_handle = self.exclusive.database_handle.lock();
        let database_handle = database_handle.as_mut().ok_or(EngineError::NoLog)?;
        let pages = control.backfilled_pages().map_or(0, |(_, pages)| pages);
        let mut first = self.nothing_changed(database_handle.as_mut())?;
        let begin = self.begin_of_log()?;
        let io = |action| move |e| EngineError::database(action, &self.log.path, e);
        self.undo_earlier_try(database_handle.as_mut(), &mut first, &begin)?;
        let segment = self.make_first_segment(&first, &begin, pages)?;

        // After a rest the ring holds the last epoch, which says what is durable.
        if begin.epoch == 1 {
            let mapping = self.log.marks.member().mapping();
            mapping.allocate_epochs().map_err(|e| EngineError::write(CONTROL_NAME, e))?;
        }

        // If another process holds EXCLUSIVE, it may have died since, or either may have lost it: stock SQLite may have
        // opened the file, and its commits would be lost under the stamp.
        if !crate::drops("r7-confirm-guard") && !self.exclusive.confirm(database_handle.as_mut()) {
            return Err(EngineError::NotOnPwal { file: self.log.path.clone() });
        }
        let again = self.nothing_changed(database_handle.as_mut())?;
        if again != first {
            return Err(EngineError::Changed { file: self.log.path.clone() });
        }
        Stamp { log_id: self.log.log_id, backfill_target: begin.last }.apply(&mut first);
        crate::fault_point("activating");
        control.set_may_be_stamped(true);
        if !crate::drops("a2-stamp") {
            database_handle.write_at(&first[..STAMP_WRITE_BYTES], 0).map_err(io("write"))?;
        }
        if !crate::drops("a2-sync-stamp") {
            database_handle.sync().map_err(io("sync"))?;
        }

        if begin.ordinal > 1 && !crate::drops("a3-unmark") {
            crate::fault_point("activating_again");
            retire::unmark(&*self.log.dir, self.log.log_id, begin.last)?;
        }

        self.files.add_segment(Arc::new(segment));
        self.seal_first_epoch(&begin)?;
        self.files.note_ordinal(begin.ordinal, begin.file);
        control.set_active();
        Ok(())
    }

    /// How the log begins: anew, or where it ended when it was retired with connections open, or when another process died
    /// before it could say that the log is active.
    fn begin_of_log(&self) -> Result<BeginOfLog, EngineError> {
        let control = self.log.marks.control();
        if control.last_written_epoch() == 0 {
            return Ok(BeginOfLog { ordinal: 1, file: 0, epoch: 1, last: 0, chain: self.log.log_id });
        }
        let file = u32::try_from(control.give_segment_id()).map_err(|_| EngineError::NoLog)?;
        Ok(BeginOfLog {
            ordinal: self.log.tail().ordinal + 1,
            file,
            epoch: control.last_written_epoch() + 1,
            last: control.published(),
            chain: control.last_commit().map_or(self.log.log_id, |entry| entry.chain),
        })
    }

    /// The certificate that the log begins with is durable: an epoch without commits.
    fn seal_first_epoch(&self, begin: &BeginOfLog) -> Result<(), EngineError> {
        self.log.marks.store_epoch(&EpochRecord {
            epoch: begin.epoch,
            lo: begin.last + 1,
            hi: begin.last,
            ordinal: begin.ordinal,
            segment: begin.file,
            offset: u64::from(self.log.block_bytes),
            is_doubled: true,
            doubled_ordinal: begin.ordinal,
            backfilled: begin.last,
            chain: begin.chain,
        })?;
        self.log.marks.certify(begin.epoch, 0);
        Ok(())
    }

    /// What the database file is now is what the next activation must find.
    pub(super) fn note_claim(&self, database_handle: &mut dyn DatabaseHandle) -> Result<(), EngineError> {
        let first = self.page_one.read_beginning(database_handle)?;
        let bytes = database_handle.bytes().map_err(|e| EngineError::database("measure", &self.log.path, e))?;
        let file =
            std::fs::metadata(&self.log.path).map_err(|e| EngineError::database("look at", &self.log.path, e))?;
        self.log.marks.control().set_at_claim(checksums(&first, &file), bytes);
        Ok(())
    }

    /// A0: takes away, durably, what an activation left that failed after its stamp. `first` is the beginning of the file.
    ///
    /// What other programs wrote before is as durable as they made it, until the sync of the stamp: no commit is in the log before.
    fn undo_earlier_try(
        &self,
        database_handle: &mut dyn DatabaseHandle,
        first: &mut [u8],
        begin: &BeginOfLog,
    ) -> Result<(), EngineError> {
        let control = self.log.marks.control();
        let io = |action| move |e| EngineError::database(action, &self.log.path, e);
        if control.may_be_stamped() {
            if begin.ordinal > 1 && !crate::drops("a0-mark-again") {
                // An earlier try took it away: the segments that it left beside a plain file would not be a finished log.
                retire::mark(&*self.log.dir, self.log.log_id, begin.last)?;
            }
            // By an earlier try, whose segment is deleted now: a stamp without a segment is a damaged log. Also where
            // the header reads plain: that may be in the cache only.
            stamp::clear(first);
            if !crate::drops("a0-clear-stamp") {
                database_handle.write_at(&first[..STAMP_WRITE_BYTES], 0).map_err(io("write"))?;
            }
            if !crate::drops("a0-sync-database") {
                database_handle.sync().map_err(io("sync"))?;
            }
            let file = std::fs::metadata(&self.log.path).map_err(io("look at"))?;
            control.set_at_claim(checksums(first, &file), control.at_claim().1);
            control.set_may_be_stamped(false);
        }
        // A journal that stays (`journal_mode` was PERSIST or TRUNCATE) must not become hot again after a power cut, nor an empty
        // WAL have frames again (SQLite does not sync what `sqlite3WalClose` and `walLimitSize` truncate): beside a stamp they are
        // refused, and beside a file that is plain again SQLite would copy old pages over newer ones.
        if !crate::drops("a0-sync-journal") {
            self.log.dir.sync_beside("-journal").map_err(|e| EngineError::sync("the journal", e))?;
        }
        if !crate::drops("a0-sync-wal") {
            self.log.dir.sync_beside("-wal").map_err(|e| EngineError::sync("stock SQLite's -wal", e))?;
        }
        Ok(())
    }

    /// A1: the first segment, its name and that of the log directory are durable.
    fn make_first_segment(&self, first: &[u8], begin: &BeginOfLog, pages: u32) -> Result<SegmentFile, EngineError> {
        self.log.dir.create().map_err(|e| EngineError::write("the log directory", e))?;
        let name = format::segment_name(self.log.log_id, begin.file);
        let bytes = SEGMENT_BYTES_FIRST
            .min(self.log.settings.segment_bytes())
            .next_multiple_of(u64::from(self.log.block_bytes));
        // A segment of an earlier try, whose stamp could not be written.
        if !crate::drops("a1-delete-segments") {
            retire::delete_slots(&*self.log.dir, self.log.log_id)?;
        }
        let header = SegmentHeader {
            log_id: self.log.log_id,
            block_bytes: self.log.block_bytes,
            page_bytes: self.log.page_bytes,
            segment_bytes: bytes,
            ordinal: begin.ordinal,
            first_sequence: begin.last + 1,
            chain: begin.chain,
        };
        let copy = self.page_one.of(first.to_vec(), begin.last);
        // Its name becomes durable with that of the log directory. Where a file has the name (an empty WAL of stock SQLite) the
        // stamp has to do alone. Before the segment: a file system with one journal for all names writes it once, with the sync
        // of the segment.
        self.log
            .dir
            .create_placeholder()
            .map_err(|e| EngineError::write("the directory in place of stock's -wal", e))?;
        let made =
            create_first_segment(&*self.log.dir, &name, &header, begin.epoch, pages, &copy.bytes, copy.next_block_crc);
        let file = match made {
            Ok(file) => file,
            Err(error) => {
                // The file is plain, and no log will be there. If this fails the next open does it.
                let _ = retire::remove_placeholder(&*self.log.dir);
                return Err(error.into());
            }
        };
        if !crate::drops("a1-sync-parent") {
            self.log.dir.sync_parent().map_err(|e| EngineError::sync("the directory of the database", e))?;
        }
        Ok(SegmentFile::new(begin.file, name, file, bytes, || None))
    }

    /// The beginning of a database file that has not changed since the claim.
    fn nothing_changed(&self, database_handle: &mut dyn DatabaseHandle) -> Result<Vec<u8>, EngineError> {
        let first = self.page_one.read_beginning(database_handle)?;
        let bytes = database_handle.bytes().map_err(|e| EngineError::database("measure", &self.log.path, e))?;
        let file =
            std::fs::metadata(&self.log.path).map_err(|e| EngineError::database("look at", &self.log.path, e))?;
        let (now, (then, bytes_then)) = (checksums(&first, &file), self.log.marks.control().at_claim());
        // Where an activation failed after its stamp, the last modification was its own.
        let same = if self.log.marks.control().may_be_stamped() { now >> 32 == then >> 32 } else { now == then };
        if (!same || bytes != bytes_then || has_stock_wal(&self.log.path)) && !crate::drops("r7-nothing-changed") {
            return Err(EngineError::Changed { file: self.log.path.clone() });
        }
        Ok(first)
    }
}
