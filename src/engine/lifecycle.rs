//! The life of an engine: start on a claimed database or beside the processes that have it, activation of the log, the end
//! with or without a clean close.

use super::append::Append;
use super::context::LogContext;
use super::durability::{Durability, DurabilityParts};
use super::exclusive::ExclusiveLock;
use super::flush::{Flusher, FlusherParts};
use super::follow::Follower;
use super::leader::Leading;
use super::lease::Lease;
use super::log_frames::LogFrames;
use super::membership::Membership;
use super::on_demand::OnDemand;
use super::owner_lock::OwnerLocks;
use super::page_one::PageOneCopy;
use super::poison::{Failed, Poison};
use super::queue::WriteQueue;
use super::segment_file::SegmentFile;
use super::segment_files::SegmentFiles;
use super::segments::Segments;
use super::shortage::Shortage;
use super::space::Space;
use super::tail::LogTail;
use super::undurable::Undurable;
use super::{Engine, EngineError, Settings};
use crate::disk::{LogDirectory, links_of_open_file};
use crate::host::{DatabaseHandle, Environment};
use crate::log::format::{self, LogId, SegmentHeader};
use crate::log::recovery::{OpenFacts, open_database};
use crate::log::retire;
use crate::log::segments::{SEGMENT_BYTES_FIRST, create_first_segment};
use crate::log::stamp::{self, STAMP_WRITE_BYTES, Stamp};
use crate::shared::{CONTROL_NAME, EpochRecord, Identity, LOCK_NAME, Member, State, boot_id};
use crate::sync::Mutex;

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Bytes that are compared at activation.
const HEADER_BYTES: usize = 100;

/// A database that this process may use alone: `lock` is held, the database handle has EXCLUSIVE, what stock
/// SQLite or a crash left is settled, the file is plain and in WAL mode.
pub(crate) struct ClaimedDatabase {
    pub(crate) path: PathBuf,
    pub(crate) dir: Arc<dyn LogDirectory>,
    /// The control block is all zero but for this process's segment.
    pub(crate) member: Member,
    pub(crate) database_handle: Box<dyn DatabaseHandle>,
    /// The first bytes of the database file.
    pub(crate) header: [u8; HEADER_BYTES],
    pub(crate) page_bytes: u32,
    pub(crate) database_bytes: u64,
}

/// A database that other processes have open, too: its words are complete, and this process has a place in them.
pub(crate) struct SharedDatabase {
    pub(crate) path: PathBuf,
    pub(crate) dir: Arc<dyn LogDirectory>,
    pub(crate) member: Member,
    /// Without a lock.
    pub(crate) database_handle: Box<dyn DatabaseHandle>,
    pub(crate) page_bytes: u32,
}

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

/// What an engine is built from.
struct Parts {
    path: PathBuf,
    dir: Arc<dyn LogDirectory>,
    member: Arc<Member>,
    database_handle: Box<dyn DatabaseHandle>,
    is_exclusive: bool,
    page_bytes: u32,
    block_bytes: u32,
}

/// Shows whether another program has changed the database file: a checksum of its header in the upper half, of its
/// modification time in the lower one. (Commits in WAL mode need move neither the change counter nor the size.)
fn checksums(header: &[u8], file: &std::fs::Metadata) -> u64 {
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

impl Engine {
    /// An engine on a claimed database. Nothing is written before the first commit.
    ///
    /// # Errors
    /// The system has no random numbers.
    pub(crate) fn start(
        environment: &Arc<Environment>,
        claimed: ClaimedDatabase,
        settings: Settings,
    ) -> Result<Arc<Engine>, EngineError> {
        Engine::start_log(environment, claimed, settings, new_log_id()?)
    }

    /// As [`Engine::start`], with the id that the log gets.
    pub(super) fn start_log(
        environment: &Arc<Environment>,
        claimed: ClaimedDatabase,
        settings: Settings,
        log_id: LogId,
    ) -> Result<Arc<Engine>, EngineError> {
        let ClaimedDatabase { path, dir, member, database_handle, header, page_bytes, database_bytes } = claimed;
        // Rounded up: the size that SQLite would take from the file.
        let pages = database_bytes.div_ceil(u64::from(page_bytes));
        let block_bytes = environment.disk.sector_bytes(&path).max(format::BLOCK_BYTES_MIN);
        let file = std::fs::metadata(&path).map_err(|e| EngineError::database("look at", &path, e))?;
        let identity = Identity {
            boot_id: boot_id().unwrap_or(0),
            log_id,
            device: file.dev(),
            inode: file.ino(),
            generation: 1,
            block_bytes: u64::from(block_bytes),
        };
        let member = Arc::new(member);
        let control = member.control();
        control.set_identity(&identity);
        control.set_at_claim(checksums(&header, &file), database_bytes);
        control.set_backfilled_pages(0, u32::try_from(pages).unwrap_or(u32::MAX));
        control.exclusive().try_acquire(member.me(), false);
        settings.copy_to(&Settings::shared(&member));
        let parts = Parts { path, dir, member, database_handle, is_exclusive: true, page_bytes, block_bytes };
        let engine = Engine::build(environment, parts);
        engine.log.marks.control().set_state(State::Ready);
        Ok(engine)
    }

    /// An engine beside those of other processes. Under INIT. The joining process activates the log if no process has,
    /// so that the stamp keeps stock SQLite out when the holder of EXCLUSIVE leaves.
    ///
    /// # Errors
    /// The log could not be activated, or not while stock SQLite was kept out; this process is not on pwal then.
    pub(crate) fn join(environment: &Arc<Environment>, joined: SharedDatabase) -> Result<Arc<Engine>, EngineError> {
        let SharedDatabase { path, dir, member, database_handle, page_bytes } = joined;
        let member = Arc::new(member);
        let block_bytes = u32::try_from(member.control().identity().block_bytes).unwrap_or(0);
        let parts = Parts { path, dir, member, database_handle, is_exclusive: false, page_bytes, block_bytes };
        let engine = Engine::build(environment, parts);
        match engine.activate_under_exclusive() {
            Ok(()) => Ok(engine),
            Err(error) => {
                engine.abandon();
                Err(error)
            }
        }
    }

    /// As [`Engine::activate`], with another process's EXCLUSIVE, which must have been held all the time: without it
    /// stock SQLite may have opened the file before the stamp, and would overwrite it.
    fn activate_under_exclusive(self: &Arc<Engine>) -> Result<(), EngineError> {
        if self.log.marks.control().is_active() {
            self.exclusive.refresh();
            return Ok(());
        }
        self.activate()?;
        if self.exclusive.is_held() || self.exclusive.acquire() {
            return Ok(());
        }
        // The holder of EXCL died meanwhile, and stock SQLite came. Without a commit the log can go again.
        self.retire()?;
        Err(EngineError::NotOnPwal { file: self.log.path.clone() })
    }

    fn build(environment: &Arc<Environment>, parts: Parts) -> Arc<Engine> {
        let Parts { path, dir, member, database_handle, is_exclusive, page_bytes, block_bytes } = parts;
        let pages = member.control().backfilled_pages().map_or(0, |(_, pages)| pages);
        let log = Arc::new(LogContext::new(environment, path, dir, (page_bytes, block_bytes), &member));
        let locks = Arc::new(OwnerLocks::new(&log));
        let files = Arc::new(SegmentFiles::new(&log, &locks));
        let tail = Arc::new(LogTail::new(&log, &files));
        let shortage = Arc::new(Shortage::new(&log));
        let queue = Arc::new(WriteQueue::new(Arc::clone(&member)));
        let poison = Arc::new(Poison::new(&log, &files, &shortage, &queue));
        let append = Arc::new(Append::new(&log, &locks, &files, &tail, &poison));
        let segments = Arc::new(Segments::new(&log, &locks, &files, &tail, &append));
        let frames = Arc::new(LogFrames::new(pages, page_bytes));
        let follower = Arc::new(Follower::new(&log, &files, &frames));
        let undurable = Arc::new(Undurable::new(&log, &files, &poison));
        let space = Space::new(&log, &files, &segments, &follower);
        let page_one = Arc::new(PageOneCopy::new(&log));
        let leading = Arc::new(Leading::new(&log, &append));
        let flusher = Arc::new(Flusher::new(&FlusherParts {
            log: &log,
            files: &files,
            tail: &tail,
            append: &append,
            poison: &poison,
            undurable: &undurable,
            segments: &segments,
            frames: &frames,
            follower: &follower,
            page_one: &page_one,
            leading: &leading,
        }));
        let lease = Arc::new(Lease::new(&log, &locks, &append, &undurable, &leading, &flusher));
        let durability = Arc::new(Durability::new(&DurabilityParts {
            log: &log,
            locks: &locks,
            shortage: &shortage,
            files: &files,
            append: &append,
            poison: &poison,
            flusher: &flusher,
            lease: &lease,
        }));
        let on_demand = OnDemand::new(&log, &locks, &durability);
        Arc::new(Engine {
            exclusive: ExclusiveLock::new(&log, database_handle, is_exclusive),
            page_one,
            membership: Membership::new(&log),
            background: super::Background::new(&log),
            lanes: super::lanes::Lanes::default(),
            connections: Mutex::default(),
            checkpointing: Mutex::default(),
            flusher,
            lease,
            durability,
            on_demand,
            rest_refused: Mutex::default(),
            log,
            locks,
            files,
            tail,
            queue,
            poison,
            append,
            segments,
            frames,
            follower,
            space,
        })
    }

    /// A0 to A2 of `docs/format.md`: the log exists from here on. The first process to commit does it, under APPEND;
    /// again from the start if that process died.
    pub(super) fn activate(self: &Arc<Engine>) -> Result<(), EngineError> {
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

        let mapping = self.log.marks.member().mapping();
        mapping.allocate_rings().map_err(|e| EngineError::write(CONTROL_NAME, e))?;

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
        }
        if !crate::drops("a0-sync-database") {
            database_handle.sync().map_err(io("sync"))?;
        }
        if control.may_be_stamped() {
            let file = std::fs::metadata(&self.log.path).map_err(io("look at"))?;
            control.set_at_claim(checksums(first, &file), control.at_claim().1);
            control.set_may_be_stamped(false);
        }
        // A journal that stays (`journal_mode` was PERSIST or TRUNCATE) must not become hot again after a power cut:
        // beside a stamp it is refused.
        if !crate::drops("a0-sync-journal") {
            self.log.dir.sync_journal().map_err(|e| EngineError::sync("the journal", e))?;
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
        let file =
            create_first_segment(&*self.log.dir, &name, &header, begin.epoch, pages, &copy.bytes, copy.next_block_crc)?;
        // Its name becomes durable with that of the log directory. Where a file has the name (an empty WAL of stock SQLite) the
        // stamp has to do alone.
        self.log
            .dir
            .create_placeholder()
            .map_err(|e| EngineError::write("the directory in place of stock's -wal", e))?;
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

    /// The last connection of this process has closed. There are other members: this process leaves. There are none: a
    /// clean close, unless `keep_log`. In any case this engine is over.
    ///
    /// # Errors
    /// Stamp and log stay for the next open.
    pub(crate) fn close(self: &Arc<Engine>, keep_log: bool) -> Result<(), EngineError> {
        // Other members continue with the checkpoint; the last one does it anew if it is abandoned.
        self.background.stop(!self.log.marks.member().others().is_empty());
        let closed = self.close_if_last(keep_log);
        self.abandon();
        closed
    }

    fn close_if_last(self: &Arc<Engine>, keep_log: bool) -> Result<(), EngineError> {
        // Under INIT: of two that leave at once one is the last.
        self.membership.wait_init()?;
        if keep_log && !self.is_deleted() || self.log.is_poisoned() {
            return Ok(());
        }
        match self.membership.check_alone() {
            Ok(()) => self.retire_under_exclusive(),
            Err(_) => Ok(()),
        }
    }

    /// Whether the database file has no name any more: no process can open it again, and its log is of no use. (SQLite
    /// asks for no EXCLUSIVE where its file has another name or none, `databaseIsUnmoved`.)
    fn is_deleted(&self) -> bool {
        let identity = self.log.marks.control().identity();
        let same = |file: std::fs::Metadata| (file.dev(), file.ino()) == (identity.device, identity.inode);
        !std::fs::metadata(&self.log.path).is_ok_and(same)
            && links_of_open_file(identity.device, identity.inode) == Some(0)
    }

    /// Retires the log for a connection that continues with the database file alone, as `journal_mode=DELETE` does:
    /// INIT is held until the log is gone.
    ///
    /// # Errors
    /// `BUSY`: there are other members, or other locks on the file; with `unused` (the connection has not opened the
    /// WAL), there are commits in this log, and the connection has read page 1 past them. What the retirement met:
    /// stamp and log stay.
    pub(crate) fn retire_alone(self: &Arc<Engine>, unused: bool) -> Result<(), EngineError> {
        self.membership.check_alone()?;
        // It may be retiring the log, and to the kernel its INIT is this thread's.
        self.background.stop(true);
        let _resting = self.membership.one_thread.lock();
        if let Err(error) = self.membership.wait_init() {
            self.background.allow();
            return Err(error);
        }
        let check_unused = || match unused && self.log.marks.published() > 0 {
            true => Err(EngineError::Committed { file: self.log.path.clone() }),
            false => Ok(()),
        };
        let retired =
            self.membership.check_alone().and_then(|()| check_unused()).and_then(|()| self.retire_under_exclusive());
        if retired.is_err() {
            self.background.allow();
            self.membership.end_init()?;
        }
        retired
    }

    /// Under INIT, and with no other process joined.
    fn retire_under_exclusive(self: &Arc<Engine>) -> Result<(), EngineError> {
        if !self.exclusive.acquire() {
            return Err(EngineError::NotOnPwal { file: self.log.path.clone() });
        }
        self.retire()
    }

    /// Everything goes to the database file, the log is retired. What is left is one plain SQLite file. Under INIT, and
    /// with EXCLUSIVE, which the database handle keeps.
    ///
    /// # Errors
    /// Stamp and log stay for the next open.
    pub(crate) fn retire(self: &Arc<Engine>) -> Result<(), EngineError> {
        if self.log.is_retired() {
            return Ok(());
        }
        self.background.stop(false);
        let retired = self.try_retire();
        if retired.is_err() {
            // The caller keeps using this engine.
            self.background.allow();
        }
        retired
    }

    fn try_retire(self: &Arc<Engine>) -> Result<(), EngineError> {
        self.log.check_poison()?;
        let has_directory = self.membership.has_directory()?;
        if self.log.is_active() {
            self.checkpoint_all()?;
            if !crate::drops("z2-end-log") {
                self.append.end_log()?;
            }
            let retired = match self.exclusive.database_handle.lock().as_mut() {
                // All is in the database file, and there is no log that could be played back.
                Some(database_handle) if !has_directory => retire::make_plain(database_handle.as_mut())
                    .and_then(|()| retire::remove_placeholder(&*self.log.dir))
                    .map_err(EngineError::from),
                Some(database_handle) => {
                    let last = self.log.marks.published();
                    retire::retire(&*self.log.dir, database_handle.as_mut(), self.log.log_id, last, self.log.page_bytes)
                        .map_err(EngineError::from)
                }
                None => Err(EngineError::NoLog),
            };
            if let Err(error) = retired {
                // The marker may exist, the stamp may be gone, segments may be deleted: a later commit would be lost,
                // or make the next open refuse the log.
                self.poison.poison(
                    &self.append.lock_unrepaired(),
                    &format!("the log could not be retired: {error}"),
                    Failed::Flush,
                );
                return Err(error);
            }
        } else if has_directory {
            let names = self.log.dir.list().map_err(|e| EngineError::write("the log directory", e))?;
            if names.iter().any(|name| name != CONTROL_NAME && name != LOCK_NAME) {
                // An activation that failed on the way: what it left is what a crash there leaves.
                let mut database_handle = self.exclusive.database_handle.lock();
                let database_handle = database_handle.as_mut().ok_or(EngineError::NoLog)?;
                open_database(&*self.log.dir, database_handle.as_mut(), OpenFacts::default())?;
            }
            // Nothing was written: `lock` and the directory go. A newcomer's files keep it.
            retire::remove_directory(&*self.log.dir)?;
        }
        self.log.set_retired();
        self.log.marks.member().leave();
        Ok(())
    }

    /// The process exits with connections open: as a close, if no thread is in the middle of a commit and no reader
    /// holds the checkpoint back; else the log is left to the others, or to recovery. Nothing is committed after this.
    /// A thread in the middle of a commit may still report it as durable, and threads may still read: so ALIVE stays
    /// until the process has ended, and no process takes it for dead before.
    pub(crate) fn close_at_exit(self: &Arc<Engine>, at_most: Duration) {
        let quiet = !self.log.is_poisoned() && self.queue.close_when_free(at_most);
        if quiet && let Err(error) = self.leave_at_exit() {
            self.log.report(error.code(), &format!("not closed at exit: {error}"));
        }
        self.log.set_over();
    }

    fn leave_at_exit(self: &Arc<Engine>) -> Result<(), EngineError> {
        let _resting = self.membership.one_thread.lock();
        self.membership.wait_init()?;
        let left = match self.membership.check_alone() {
            Ok(()) => self.retire_under_exclusive(),
            Err(_) => {
                // From here on another process may retire the log: no thread reads by it. The background thread ends
                // with the process; it may be waiting for others.
                self.log.set_over();
                self.exclusive.release();
                let member = self.log.marks.member();
                member.control().release_process_slot(member.me());
                Ok(())
            }
        };
        if !self.log.is_retired() {
            self.membership.end_init()?;
        }
        left
    }

    /// The end of this process's part: the log stays as it is, for the others or for the next open.
    pub(crate) fn abandon(&self) {
        self.background.stop(true);
        self.exclusive.release();
        self.log.marks.member().leave();
    }
}

fn new_log_id() -> Result<LogId, EngineError> {
    #[cfg(test)]
    if let Some(id) = crate::interleave::log_id() {
        return Ok(id);
    }
    loop {
        let id = getrandom::u64().map_err(|e| EngineError::write("a log id", std::io::Error::other(e.to_string())))?;
        if id != 0 {
            return Ok(id);
        }
    }
}
