//! What every part of an engine needs of its log: where it is, its sizes, the control block, and whether the engine is
//! over. Nothing of it changes while the engine lives, but the three flags that end it.

use super::error::EngineError;
use super::marks::Marks;
use super::settings::Settings;
use super::stopping::Stopping;
use crate::disk::LogDirectory;
use crate::host::Environment;
use crate::log::format::{self, LogId};
use crate::os::generation;
use crate::shared::{Member, Owner, RecordAddress};
use crate::sqlite::Code;
use crate::status::ContendedPage;
use crate::sync::Mutex;
use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, OnceLock};

/// What is counted for `parallel_wal_status`.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) commits: AtomicU64,
    pub(crate) flushes: AtomicU64,
    pub(crate) checkpoints: AtomicU64,
    pub(crate) spills: AtomicU64,
    pub(crate) concurrent: ConcurrentCounters,
}

/// Pages that are listed.
const CONTENDED_MAX: usize = 16;

/// Of transactions that write beside each other.
#[derive(Debug, Default)]
pub(crate) struct ConcurrentCounters {
    /// Those that are open now, and what they have staged, in bytes.
    pub(crate) open: AtomicU64,
    pub(crate) staged_bytes: AtomicU64,
    pub(crate) commits: AtomicU64,
    pub(crate) conflicts: AtomicU64,
    /// How often a snapshot has moved.
    pub(crate) moved: AtomicU64,
    /// Commits whose page 1 and freelist were made anew.
    pub(crate) composed: AtomicU64,
    /// Interior pages that others had changed, of those that have committed: read, and written.
    pub(crate) excused: AtomicU64,
    pub(crate) merged: AtomicU64,
    /// Those that have taken WRITE before COMMIT, since their lane was full.
    pub(crate) full_lanes: AtomicU64,
    contended: Mutex<VecDeque<ContendedPage>>,
}

impl ConcurrentCounters {
    /// A transaction lost on this page to that commit.
    pub(crate) fn note_contended(&self, page: u32, kind: &str, commit: u64) {
        let mut pages = self.contended.lock();
        let known = pages.iter().position(|known| known.page == page).and_then(|at| pages.remove(at));
        let conflicts = known.map_or(0, |known| known.conflicts) + 1;
        if pages.len() == CONTENDED_MAX {
            pages.pop_front();
        }
        pages.push_back(ContendedPage { page, kind: kind.to_owned(), conflicts, commit });
    }

    /// Those pages, the last one first.
    pub(crate) fn contended_pages(&self) -> Vec<ContendedPage> {
        self.contended.lock().iter().rev().cloned().collect()
    }
}

/// The log of one open database, as all parts of its engine know it.
pub(crate) struct LogContext {
    pub(crate) environment: Arc<Environment>,
    /// The database file.
    pub(crate) path: PathBuf,
    /// The log directory.
    pub(crate) dir: Arc<dyn LogDirectory>,
    pub(crate) page_bytes: u32,
    pub(crate) block_bytes: u32,
    pub(crate) log_id: LogId,
    pub(crate) settings: Settings,
    pub(crate) marks: Marks,
    pub(crate) counters: Counters,
    pub(super) stopping: Stopping,
    life: Life,
    /// Why this process poisoned.
    poison_reason: OnceLock<String>,
}

/// Whether the engine is over.
#[derive(Debug)]
struct Life {
    retired: AtomicBool,
    /// Retired, or left at the exit of the process with connections still open.
    over: AtomicBool,
    /// The process that the engine belongs to.
    generation: u32,
}

impl LogContext {
    pub(super) fn new(
        environment: &Arc<Environment>,
        path: PathBuf,
        dir: Arc<dyn LogDirectory>,
        (page_bytes, block_bytes): (u32, u32),
        member: &Arc<Member>,
    ) -> LogContext {
        LogContext {
            environment: Arc::clone(environment),
            path,
            dir,
            page_bytes,
            block_bytes,
            log_id: member.control().identity().log_id,
            settings: Settings::shared(member),
            marks: Marks::new(member),
            counters: Counters::default(),
            stopping: Stopping::default(),
            life: Life { retired: AtomicBool::new(false), over: AtomicBool::new(false), generation: generation() },
            poison_reason: OnceLock::new(),
        }
    }

    /// Whether the log has been activated and not been retired.
    pub(crate) fn is_active(&self) -> bool {
        self.marks.control().is_active() && !self.is_retired()
    }

    /// Whether the log was retired: the database is one plain file again and this engine is over.
    pub(crate) fn is_retired(&self) -> bool {
        self.life.retired.load(SeqCst)
    }

    pub(super) fn set_retired(&self) {
        self.life.retired.store(true, SeqCst);
        self.set_over();
    }

    /// The process exits with connections open: the engine is over for them.
    pub(super) fn set_over(&self) {
        self.life.over.store(true, SeqCst);
    }

    /// Whether this engine is of this process and not over: a forked child has none of its parent's.
    pub(crate) fn is_mine(&self) -> bool {
        self.is_of_this_process() && !self.life.over.load(SeqCst)
    }

    /// Whether this engine is of this process: what it began in the log may be undone.
    pub(crate) fn is_of_this_process(&self) -> bool {
        self.life.generation == generation()
    }

    /// Whether the engine is poisoned: what could be erased is.
    pub(crate) fn is_poisoned(&self) -> bool {
        self.marks.control().poison_outcome().is_some()
    }

    /// Whether a view of this commit shows what a failed flush took, or is just taking.
    pub(crate) fn shows_lost(&self, sequence: u64) -> bool {
        self.marks.is_poisoned() && sequence > self.marks.visible()
    }

    /// Whether acknowledged commits are not shown any more: they stay in the log for the next open, but a flush failed, and what
    /// the cache still shows of them may not be what the medium has.
    pub(crate) fn hides_acknowledged(&self) -> bool {
        let control = self.marks.control();
        self.marks.is_poisoned()
            && control.kept_by_poison().unwrap_or_else(|| control.was_visible()) > control.durable()
    }

    /// # Errors
    /// The engine is poisoned, by this process or another.
    pub(crate) fn check_poison(&self) -> Result<(), EngineError> {
        let outcome = self.marks.control().poison_outcome().filter(|_| !crate::drops("r5-no-process-continues"));
        let Some(unknown) = outcome else { return Ok(()) };
        let reason = match self.poison_reason.get() {
            Some(reason) => reason.clone(),
            None => "a write or a sync of the log failed in another process".to_owned(),
        };
        Err(EngineError::Poisoned { reason, unknown })
    }

    /// The error of an operation that poisoned the engine: the operation's own code with the poison's text.
    pub(crate) fn poisoned_as(&self, error: EngineError) -> EngineError {
        self.check_poison().err().unwrap_or(error)
    }

    /// Why this process poisons; of two reasons at once the first counts.
    pub(super) fn set_poison_reason(&self, reason: &str) {
        let _other = self.poison_reason.set(reason.to_owned());
    }

    /// Where the log ends. Under APPEND.
    pub(crate) fn tail(&self) -> RecordAddress {
        let begin = RecordAddress { ordinal: 1, offset: u64::from(self.block_bytes), segment: 0 };
        self.marks.control().tail().unwrap_or(begin)
    }

    /// The segment of the last durable certificate: what follows it may not be durable.
    pub(super) fn first_unsynced_segment(&self) -> u64 {
        self.marks.control().certified_epoch().map_or(1, |record| record.ordinal)
    }

    pub(super) fn round_up(&self, bytes: u64) -> u64 {
        bytes.next_multiple_of(u64::from(self.block_bytes))
    }

    /// The first block after `offset` in a segment.
    pub(super) fn block_after(&self, offset: u64) -> u64 {
        format::block_after(offset, self.block_bytes)
    }

    pub(super) fn zero_block(&self) -> Vec<u8> {
        vec![0; self.block_bytes as usize]
    }

    pub(super) fn no_commit(&self, sequence: u64) -> EngineError {
        EngineError::NoCommit { file: self.dir.path().to_path_buf(), sequence }
    }

    pub(super) fn no_segment(&self, ordinal: u64) -> EngineError {
        EngineError::NoSegment { file: self.dir.path().to_path_buf(), ordinal }
    }

    /// Writes `pwal: <database>: <text>` to SQLite's log.
    pub(super) fn report(&self, code: Code, text: &str) {
        self.environment.host.log(code.number(), &format!("pwal: {}: {text}", self.path.display()));
    }

    /// The owner of a lock, for messages.
    pub(crate) fn describe(&self, owner: Owner) -> String {
        match self.marks.control().processes().find(|process| process.owner == owner) {
            Some(process) => format!("process {} ({})", process.pid, process.command),
            None => format!("the process in slot {}", owner.slot),
        }
    }
}
