//! What one run does.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::PathBuf;

/// What is done to the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Load {
    /// One row of 100 bytes of text, each a commit
    Insert,
    /// One row of 10,000, by its key, each a commit
    Update,
    /// BEGIN IMMEDIATE, 10 rows, COMMIT
    TenRows,
    /// BEGIN, read a row, update it, COMMIT; again as long as it is refused
    ReadModifyWrite,
    /// BEGIN, update a row of a table that no other thread has, 2 ms, COMMIT
    OwnTables,
    /// BEGIN, insert a row into a table that no other thread has, COMMIT
    OwnInserts,
    /// BEGIN, update one of 20,000 rows by its key, 2 ms, COMMIT
    RandomKeys,
    /// BEGIN, insert a row with a random key between 20,000 others, 2 ms, COMMIT
    RandomInserts,
    /// BEGIN, read one of 20,000 rows, 2 ms, update it, COMMIT
    ReadThinkUpdate,
    /// BEGIN, read one of 20,000 rows, 2 ms, insert a row with a generated key, COMMIT
    LateAppend,
    /// BEGIN, insert a row with a generated key, 2 ms, COMMIT
    EarlyAppend,
    /// 5 of 100 operations insert a row, the others read one
    Mixed,
    /// Reads of a row by its key
    Read,
    /// The same, while 4 threads more insert
    ReadBesideWriters,
    /// BEGIN IMMEDIATE, 10,000 rows, COMMIT
    TenThousandRows,
    /// Updates all over a table of --mib, without and while checkpoints run
    BesideCheckpoint,
    /// Inserts under NORMAL, and pwal_sync() after each 100th
    OnDemand,
    /// How soon another thread notices a commit: pwal_wait_commit, or polling data_version each millisecond
    Notice,
    /// One transaction of --mib, into a table with an index
    Bulk,
    /// VACUUM of a database of --mib
    Vacuum,
    /// Transactions of 1,000 rows behind a reader, to a log of --mib
    BehindReader,
    /// Bytes of the log for each commit of one page
    LogBytes,
    /// Memory and descriptors of 32 connections
    Connections,
    /// Memory and descriptors of 100 databases with a connection each
    Databases,
    /// Open after a crash with a log of --mib that is not cached, read, checkpoint
    OpenAfterCrash,
    /// Open, insert a row, close: one connection
    OpenInsertClose,
    /// Open, read, close: one connection
    OpenReadClose,
    /// Open, insert a row, close: a process of the sqlite3 shell
    ShellInsert,
    /// Open, read, close: a process of the sqlite3 shell
    ShellRead,
}

impl Load {
    /// Whether threads do it until the time is over; the others are single jobs with a size of their own.
    pub fn is_timed(self) -> bool {
        !matches!(
            self,
            Load::Notice
                | Load::Bulk
                | Load::Vacuum
                | Load::BehindReader
                | Load::LogBytes
                | Load::Connections
                | Load::Databases
                | Load::OpenAfterCrash
                | Load::OpenInsertClose
                | Load::OpenReadClose
                | Load::ShellInsert
                | Load::ShellRead
        )
    }

    /// Whether its transactions may run beside each other, and begin again as long as they are refused.
    pub fn is_for_both_writers(self) -> bool {
        matches!(
            self,
            Load::OwnTables
                | Load::OwnInserts
                | Load::RandomKeys
                | Load::RandomInserts
                | Load::ReadThinkUpdate
                | Load::LateAppend
                | Load::EarlyAppend
        )
    }

    /// As on the command line.
    pub fn name(self) -> String {
        use clap::ValueEnum;
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// The MiB that it has if none are chosen; `None`: it has no size.
    pub fn mib(self) -> Option<u64> {
        match self {
            Load::BesideCheckpoint => Some(32),
            Load::Bulk | Load::Vacuum | Load::OpenAfterCrash => Some(64),
            Load::BehindReader => Some(256),
            _ => None,
        }
    }
}

/// What one run does, and on what.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Case {
    pub load: Load,
    /// The VFS.
    pub vfs: String,
    /// `PRAGMA parallel_wal_mode`; stock has none.
    pub mode: String,
    /// `PRAGMA parallel_wal_writers`; stock has none.
    #[serde(default = "serial")]
    pub writers: String,
    /// `PRAGMA synchronous`.
    pub synchronous: String,
    pub processes: usize,
    /// Of each process.
    pub threads: usize,
    /// What each sync takes longer, in microseconds.
    pub delay_us: u64,
    /// How long a timed load runs, in milliseconds; single jobs that repeat themselves, too.
    pub run_ms: u64,
    /// The size of loads that have one.
    pub mib: u64,
    /// The loadable library, for the shell.
    pub library: Option<PathBuf>,
}

impl Case {
    pub fn is_pwal(&self) -> bool {
        self.vfs != STOCK
    }
}

/// What `parallel_wal_writers` is without the pragma.
pub fn serial() -> String {
    "serial".into()
}

/// SQLite's own VFS.
pub const STOCK: &str = "unix";

/// "insert, FULL +100 us, 8 threads": without the VFS.
impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {}", self.load.name(), self.synchronous)?;
        if self.delay_us > 0 {
            write!(f, " +{}", delay(self.delay_us))?;
        }
        if self.mode != "auto" {
            write!(f, ", {}", self.mode)?;
        }
        if self.writers != serial() {
            write!(f, ", {}", self.writers)?;
        }
        if self.processes > 1 {
            write!(f, ", {} processes", self.processes)?;
        }
        if self.load.is_timed() && (self.threads > 1 || self.processes == 1) {
            write!(f, ", {} {}", self.threads, if self.threads == 1 { "thread" } else { "threads" })?;
        }
        if self.load.mib().is_some() {
            write!(f, ", {} MiB", self.mib)?;
        }
        Ok(())
    }
}

/// A time in microseconds, for people: "100 us", "1 ms".
pub fn delay(us: u64) -> String {
    if us.is_multiple_of(1000) { format!("{} ms", us / 1000) } else { format!("{us} us") }
}

impl Case {
    /// The nearest load, and `synchronous`, for SQLite without pwal's functions.
    pub fn without_functions(&self) -> (Load, String) {
        match self.load {
            Load::OnDemand => (Load::Insert, "FULL".into()),
            load => (load, self.synchronous.clone()),
        }
    }
}
