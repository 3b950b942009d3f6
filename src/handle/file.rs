//! An open main file, as its connection sees it: its facts, whether pwal serves it, and why it is refused.

use super::base::{BaseFile, OpenFacts, Pager};
use super::header::{Header, MAGIC, read_header};
use super::options::Options;
use super::refusal::Refused;
use super::registry::{Context, FileIdentity};
use crate::disk::not_local;
use crate::engine::EngineError;
use crate::host::LockLevel;
use crate::interleave::Instant;
use crate::log::stamp::{self, DATABASE_HEADER_BYTES, StampState};
use crate::shared::lock_is_held;
use crate::sqlite::Code;
use crate::sync::Mutex;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

/// A retry within this time of a BUSY means that the caller has a busy handler. SQLite's own counts what it sleeps, not
/// what it waits here: of each further attempt only a small part of its longest sleep (100 ms) may be spent here, or
/// the busy timeout has no meaning.
const AGAIN: Duration = Duration::from_millis(500);

/// An open main file: what it was opened with, and what is known of it. It knows no state: that is of the
/// [`ServedFile`](super::state::ServedFile) that has it.
///
/// It answers what a claim asks before it takes a lock of the log: whether the log or the base serves the file, by its header and by
/// what is beside it ([`OpenFile::is_ours`]), and where its log is ([`OpenFile::database_path`]). It takes no lock but that of the
/// base, and reports to `sqlite3_log` why the database cannot be had. None of its own locks is held over a call of SQLite.
pub(super) struct OpenFile {
    pub(super) context: Arc<Context>,
    pub(super) facts: OpenFacts,
    /// What the file was when it was opened; `None`: it could not be looked at.
    pub(super) identity: Option<FileIdentity>,
    /// Known from `SQLITE_FCNTL_PDB` on.
    pub(super) pager: OnceLock<Box<dyn Pager>>,
    /// The path without symlinks, once it was needed.
    pub(super) real_path: OnceLock<PathBuf>,
    /// The last refusal reported to `sqlite3_log`; `None` once on pwal.
    pub(super) refused: Mutex<Option<String>>,
    /// Why the file is the base's, as of the last SHARED.
    pub(super) bases: Mutex<Option<&'static str>>,
    /// When it was last answered BUSY, after a wait of its own.
    pub(super) waited: Mutex<Option<Instant>>,
    /// It has been [`Alone`](super::alone).
    pub(super) was_alone: AtomicBool,
    /// It was read or measured while SQLite had no lock, otherwise than SQLite does before its first one.
    pub(super) read_unlocked: AtomicBool,
    /// It, as the other databases of a transaction reach it; `None`: it is in none.
    pub(super) sibling: Option<Weak<dyn Sibling>>,
}

/// A database that is prepared in a transaction of several, as the commit of another one finds it in the list of the thread
/// ([`super::siblings`]). The commit has the facts of its own file only; [`ServedFile`](super::state::ServedFile) implements this, with
/// the state of the other. Nothing happens where that is not on pwal any more.
pub(super) trait Sibling: Send + Sync {
    /// Another file of the connection is called: SQLite may still roll back, and must find the header before this commit.
    fn hide_advance(self: Arc<Self>);
    /// Writes what is prepared, durably if that is wanted; it can be taken back.
    ///
    /// # Errors
    /// As of any prepare.
    fn write_prepared(self: Arc<Self>) -> Result<(), EngineError>;
    /// Takes back what was written early: the transaction stays open, for as long as the application likes.
    fn free_prepared(self: Arc<Self>);
    /// The transaction is over without a commit.
    fn reset_prepared(self: Arc<Self>);
}

impl OpenFile {
    /// A file that SQLite, or a tool, has opened; no sibling of others.
    pub(super) fn open(context: &Arc<Context>, facts: OpenFacts) -> OpenFile {
        OpenFile {
            context: Arc::clone(context),
            identity: FileIdentity::of(&facts.path).ok(),
            facts,
            pager: OnceLock::new(),
            real_path: OnceLock::new(),
            refused: Mutex::new(None),
            bases: Mutex::new(None),
            waited: Mutex::new(None),
            was_alone: AtomicBool::new(false),
            read_unlocked: AtomicBool::new(false),
            sibling: None,
        }
    }

    pub(super) fn options(&self) -> Options<'_> {
        Options { context: &self.context, facts: &self.facts }
    }

    /// The `sqlite3*` that uses the file now, as a number; 0: not known.
    pub(super) fn connection(&self) -> usize {
        self.pager.get().map_or(0, |pager| pager.connection())
    }

    /// Whether a busy handler asks for the database, again.
    pub(super) fn comes_again(&self) -> bool {
        self.waited.lock().is_some_and(|waited| waited.elapsed() < AGAIN)
    }

    /// Whether the database is pwal's: in WAL mode, or with a log. But one that this process can only read, and whose
    /// log no process has, is the base's, with its real `-wal` and `-shm`. Where only the connection is read-only, it
    /// is pwal's like any other: the base's SHARED, held as long as it is open, would keep all writers out.
    pub(super) fn is_ours(&self, header: &Header) -> bool {
        let has_log = || {
            std::fs::symlink_metadata(beside(self.real_path(), "-pwal")).is_ok() || has_placeholder(self.real_path())
        };
        match stamp::read(header) {
            // Of an encrypted database (a codec between SQLite and its VFS) these bytes say nothing.
            _ if !header.starts_with(MAGIC) && !has_log() => false,
            // An earlier log's placeholder keeps SQLite out of whatever file was brought here since: the claim takes it away.
            StampState::Plain { wal: false } | StampState::NoHeader => {
                (has_placeholder(self.real_path()) && may_write(self.real_path())) || self.may_have_lost_header(header)
            }
            StampState::Plain { wal: true } if self.facts.read_only => self.is_taken() || may_write(self.real_path()),
            StampState::Plain { wal: true } | StampState::Stamped(_) | StampState::Older { .. } => true,
            // The bytes that SQLite reserves may hold another program's data.
            StampState::BadStamp { .. } | StampState::Leftover => has_log(),
        }
    }

    /// Whether the first sector may be lost: the file does not begin as a database, and a log directory lies beside it. Beside
    /// the file of a codec lies none.
    pub(super) fn may_have_lost_header(&self, header: &Header) -> bool {
        let path = self.real_path();
        !stamp::is_database(header)
            && std::fs::metadata(path).is_ok_and(|file| file.len() >= header.len() as u64)
            && self.has_directory()
    }

    /// Whether a process has the log of the database, or is just opening it.
    pub(super) fn is_taken(&self) -> bool {
        lock_is_held(&beside(self.real_path(), "-pwal")).is_ok_and(|held| held == Some(true))
    }

    /// For a connection that only reads, and cannot have the database through pwal: whether it may read on the base
    /// beside the processes that have the database (a stock connection, or none). True: SHARED of the base is held.
    pub(super) fn is_bases_to_read(&self, base: &mut dyn BaseFile) -> bool {
        if base.lock(LockLevel::Shared).is_err() {
            return false;
        }
        let plain = read_header(base).is_ok_and(|header| matches!(stamp::read(&header), StampState::Plain { .. }));
        if plain && !self.is_taken() {
            return true;
        }
        let _the_first_error_counts = base.unlock(LockLevel::None);
        false
    }

    /// Like `read_header`; zeros where the header cannot be read and a log directory lies beside the file: recovery can
    /// restore it.
    pub(super) fn read_header_or_lost(&self, base: &mut dyn BaseFile) -> Result<Header, Code> {
        match read_header(base) {
            Err(code) if code.is_unreadable() && self.has_directory() => Ok([0; DATABASE_HEADER_BYTES]),
            read => read,
        }
    }

    /// Whether a log directory lies beside the file.
    pub(super) fn has_directory(&self) -> bool {
        std::fs::symlink_metadata(beside(self.real_path(), "-pwal")).is_ok()
    }

    pub(super) fn log_error(&self, error: &EngineError) -> Code {
        let code = error.code();
        self.log_message(code, &error.to_string());
        code
    }

    pub(super) fn log_message(&self, code: Code, text: &str) {
        if code != Code::NOTICE {
            *self.refused.lock() = Some(text.to_owned());
        }
        self.context.environment.host.log(code.number(), &format!("pwal: {}: {text}", self.facts.path.display()));
    }

    /// The directory of the log lies beside the file, not beside a symlink to it.
    pub(super) fn real_path(&self) -> &Path {
        self.real_path
            .get_or_init(|| std::fs::canonicalize(&self.facts.path).unwrap_or_else(|_| self.facts.path.clone()))
    }

    /// The real path of the file that was opened, on a file system where a log may lie.
    pub(super) fn database_path(&self, identity: FileIdentity) -> Result<PathBuf, Refused> {
        let path = self.real_path().to_path_buf();
        if FileIdentity::of(&path).ok() != Some(identity) {
            let text = "another file has this name by now; close the connection and open it again";
            return Err(Refused::new(Code::READONLY_DBMOVED, text));
        }
        if let Some(name) = not_local(&path)
            && !self.options().any_file_system()
        {
            let text = format!(
                "is on {name}, whose locks or syncs do not keep what a log relies on; move it to a local file system, open it \
                 with parallel_wal_mode=off, or take the risk with parallel_wal_file_system=any (PWAL_FILE_SYSTEM=any)"
            );
            return Err(Refused::new(Code::CANTOPEN, text));
        }
        Ok(path)
    }
}

/// Whether a directory has the name of the database's `-wal`.
fn has_placeholder(path: &Path) -> bool {
    std::fs::symlink_metadata(beside(path, "-wal")).is_ok_and(|wal| wal.is_dir())
}

/// The database file, and a log beside it; as far as permissions show.
fn may_write(path: &Path) -> bool {
    use rustix::fs::{Access, AtFlags, CWD, accessat};
    let may = |path: &Path| accessat(CWD, path, Access::WRITE_OK, AtFlags::EACCESS).is_ok();
    may(path) && (beside(path, "-pwal").exists() || path.parent().is_some_and(may))
}

pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}
