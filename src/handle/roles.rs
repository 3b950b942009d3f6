//! What a connection on pwal has in each of its three roles, by SQLite's locks of the wal-index: a reader (`READ_LOCK`), a writer (WRITE)
//! and a checkpointer (CKPT). What they do is in the files of their steps, `reader`, `transaction`, `concurrent` and `checkpointer`: a
//! step of one looks at what the others have.

use super::concurrent_state::{Concurrent, Write};
use super::writers::Writers;
use crate::engine::{CommitFacts, Engine, KeptWake, PreparedBatch};

/// SQLite's read lock of the wal-index, and the snapshot that stands for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum ReadLock {
    /// No lock, no snapshot.
    #[default]
    None,
    /// A snapshot is read.
    Held,
    /// Like `Held`, and the snapshot changed the header: SQLite unlocks and retries (`WAL_RETRY`).
    Retries,
    /// No lock; the snapshot is kept for the lock that follows.
    Pinned,
}

/// What a connection reads, and what it has shown to the application.
#[derive(Default)]
pub(super) struct Reader {
    pub(super) lock: ReadLock,
    /// The present snapshot is read by `READ_LOCK(0)`: all of it from the database file.
    pub(super) at_zero: bool,
    /// WRITE was taken in this read transaction, or refused to it for what others have committed beside it.
    pub(super) wrote: bool,
    /// The present snapshot began with a grant of WRITE.
    pub(super) granted: bool,
    /// WRITE was refused in this read transaction.
    pub(super) refused: bool,
    /// It was refused in the call of SQLite that took the snapshot, of which nothing has come to the application.
    pub(super) shows_nothing: bool,
    /// WRITE or COMMIT was refused, and no transaction that only read has come since.
    pub(super) was_refused: bool,
    /// The newest commit that this connection has shown to the application.
    pub(super) seen: u64,
    /// What `seen` was before the present read transaction.
    pub(super) seen_before: u64,
    /// SQLite's own header stands for a commit that is rolled back, until its next snapshot.
    pub(super) shows_rolled_back: bool,
    /// A read lock has come.
    pub(super) was_locked: bool,
    /// Which transactions get the newest published state as their snapshot.
    pub(super) writers: Writers,
}

impl Reader {
    /// The present transaction does not need the grant of WRITE that it began with.
    pub(super) fn give_up_grant(&mut self, engine: &Engine, connection: u64) {
        if std::mem::take(&mut self.granted) {
            engine.queue.give_up_grant(connection);
        }
    }
}

#[derive(Default)]
pub(super) enum Transaction {
    #[default]
    None,
    Staging {
        /// The number of its spill file.
        spill: Option<u32>,
    },
    Prepared(Box<Prepared>),
    /// Reported as failed. The lane stays until UNLOCK(WRITE): SQLite saves open cursors before `sqlite3WalUndo`, and
    /// reads spilled pages for that.
    Failed {
        /// The number of its spill file.
        spill: Option<u32>,
    },
}

pub(super) struct Prepared {
    pub(super) facts: CommitFacts,
    /// Written and synced before its last word: the conservative path, or a super-journal.
    pub(super) two_phase: bool,
    pub(super) prepared_batch: Option<PreparedBatch>,
    /// UNLOCK(WRITE) came: the next call is PHASETWO, or it is a rollback.
    pub(super) unlocked: bool,
    /// A sibling is being called: the view's header shows the state before this commit.
    pub(super) hidden: bool,
    /// The pager's data version, where the commit may still fail in a database that is not ours.
    pub(super) version: Option<u32>,
}

impl Transaction {
    pub(super) fn waits_for_phase_two(&self) -> bool {
        matches!(self, Transaction::Prepared(prepared) if prepared.unlocked)
    }

    pub(super) fn is_prepared(&self) -> bool {
        matches!(self, Transaction::Prepared(_))
    }

    /// UNLOCK(WRITE): true if something is prepared, and PHASETWO may come.
    pub(super) fn write_unlocked(&mut self) -> bool {
        match self {
            Transaction::Prepared(prepared) => {
                prepared.unlocked = true;
                true
            }
            Transaction::None | Transaction::Staging { .. } | Transaction::Failed { .. } => false,
        }
    }
}

/// What a connection writes, from WRITE to the last word.
#[derive(Default)]
pub(super) struct Writer {
    pub(super) holds_write: bool,
    pub(super) transaction: Transaction,
    /// PHASETWO runs for this commit.
    pub(super) committing: Option<u64>,
    /// The last commit of this connection.
    pub(super) last_commit: Option<u64>,
    /// The next waiter for a flush, which this connection wakes after its next commit.
    pub(super) next_wake: KeptWake,
    /// The lane that the transaction is bound to.
    pub(super) lane: Option<u16>,
    /// UNLOCK(WRITE) was the last call, and took a prepared transaction for rolled back: a PHASETWO now would say that it
    /// was not.
    pub(super) undone_at_unlock: bool,
    /// `PRAGMA max_page_count` was set: pages beyond the end of the database count.
    pub(super) limits_pages: bool,
    /// `parallel_wal_writers=concurrent`.
    pub(super) concurrent: Option<Box<Concurrent>>,
}

impl Writer {
    pub(super) fn has_transaction(&self) -> bool {
        !matches!(self.transaction, Transaction::None)
    }

    /// Whether SQLite has WRITE virtually only (`concurrent`).
    pub(super) fn is_virtual(&self) -> bool {
        self.concurrent.as_ref().is_some_and(|concurrent| concurrent.write == Write::Virtual)
    }

    /// A call of SQLite comes; true: PHASETWO should have come.
    pub(super) fn called(&mut self) -> bool {
        self.undone_at_unlock = false;
        self.transaction.waits_for_phase_two()
    }
}

/// `SQLITE_DEFAULT_WAL_AUTOCHECKPOINT`, in frames.
pub(super) const AUTOCHECKPOINT: i32 = 1000;

/// A checkpoint of this connection, between lock and unlock of CKPT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Checkpointing {
    No,
    /// An autocheckpoint inside COMMIT: the background thread works. Work starts here only if SQLite asks for more.
    Automatic,
    Requested,
}

/// Where the connection is after its last commit: a checkpoint that follows at once is an autocheckpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AfterCommit {
    No,
    Committed,
    ReadReleased,
}

/// What a connection checkpoints, and what SQLite knows of it.
pub(super) struct Checkpointer {
    pub(super) running: Checkpointing,
    pub(super) after: AfterCommit,
    /// What `after` was before this call.
    pub(super) previous: AfterCommit,
    /// A backfilled commit, and the number of its last frame.
    pub(super) backfilled: (u64, u64),
    /// `PRAGMA wal_autocheckpoint` of the handle, in frames.
    pub(super) autocheckpoint: i32,
    /// A checkpoint came directly after the last commit after which SQLite's own hook asks for one, and none where it does not.
    pub(super) hook_is_sqlites: bool,
}

impl Default for Checkpointer {
    fn default() -> Checkpointer {
        Checkpointer {
            running: Checkpointing::No,
            after: AfterCommit::No,
            previous: AfterCommit::No,
            backfilled: (0, 0),
            autocheckpoint: AUTOCHECKPOINT,
            hook_is_sqlites: false,
        }
    }
}

impl Checkpointer {
    /// A call of SQLite comes.
    pub(super) fn called(&mut self) {
        self.previous = std::mem::replace(&mut self.after, AfterCommit::No);
    }

    pub(super) fn end(&mut self) {
        self.running = Checkpointing::No;
    }

    pub(super) fn is_running(&self) -> bool {
        self.running != Checkpointing::No
    }
}
