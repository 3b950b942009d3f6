//! The state of a connection and its log, as values: what `PRAGMA parallel_wal_status` and `SELECT pwal_status()` answer as JSON.

use serde::{Deserialize, Serialize};

/// The state of a connection's main database: the JSON of `PRAGMA parallel_wal_status` and `SELECT pwal_status()`, as a type.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # pwal::register()?;
/// # let directory = tempfile::tempdir()?;
/// # let path = directory.path().join("app.db");
/// # let flags = rusqlite::OpenFlags::default();
/// # let connection = rusqlite::Connection::open_with_flags_and_vfs(path, flags, pwal::VFS_NAME)?;
/// # connection.execute_batch("PRAGMA journal_mode=wal; CREATE TABLE t(x)")?;
/// let json: String = connection.query_row("SELECT pwal_status()", [], |row| row.get(0))?;
/// let status: pwal::Status = json.parse()?;
/// assert!(status.active && status.log.is_some_and(|log| log.published == 1));
/// # Ok(())
/// # }
/// ```
///
/// The values are read one after the other while the database is in use: they need not be of one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Status {
    /// The version of these keys: [`Status::SCHEMA`] of the pwal that answers. It changes when a key goes or changes its meaning, not
    /// when one is added.
    pub schema: u32,
    /// The name of the VFS that the main database was opened on. `None`: it is temporary or in memory.
    pub vfs: Option<String>,
    /// Whether the connection is on pwal's log.
    pub active: bool,
    /// Why it is not; `None` where it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// `auto`, `conservative` or `off`. `None`: the database is not on pwal's VFS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
    /// The database file. `None`: the database is not on pwal's VFS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Whether the connection works on stock SQLite's own `-wal`, since one that is not on pwal had the database open. `None`: it is
    /// on the log, or not on pwal's VFS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub beside_stock: Option<bool>,
    /// Whether the connection has the database for itself, by `PRAGMA locking_mode=EXCLUSIVE`. `None`: as above.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exclusive: Option<bool>,
    /// Transactions that write beside each other, where this process has any. `None`: it has none, or the connection is not on the log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrent: Option<ConcurrentStatus>,
    /// The log, where the connection is on it.
    #[serde(flatten)]
    pub log: Option<LogStatus>,
}

/// The log of a database and the processes that share it: the part of [`Status`] of a connection that is on pwal's log.
///
/// A commit sequence counts the commits of one log, from 1; 0 is before the first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct LogStatus {
    /// The identity of the log, 16 hexadecimal digits. `None`: nothing was committed yet, or the log was retired.
    pub log_id: Option<String>,
    /// The size of a page of the database, in bytes.
    pub page_bytes: u32,
    /// Connections of this process that are on the log.
    pub connections: usize,
    /// Connections of this process that wait for the write lock.
    pub waiting_writers: usize,
    /// The newest commit in the log.
    pub published: u64,
    /// The newest commit that transactions that only read see.
    pub visible: u64,
    /// The newest commit that is synced to the disk, with all before it.
    pub durable: u64,
    /// The newest commit that a checkpoint has moved to the database file, with all before it.
    pub backfilled: u64,
    /// The oldest commit that a transaction reads at; `None`: no transaction is open.
    pub oldest_snapshot: Option<u64>,
    /// The process of that transaction.
    pub oldest_reader: Option<ReaderStatus>,
    /// The processes that have the database open through pwal, this one too.
    pub processes: Vec<ProcessStatus>,
    /// Commits of this process since it opened the database.
    pub commits: u64,
    /// Flushes of the log by this process.
    pub flushes: u64,
    /// Checkpoints by this process.
    pub checkpoints: u64,
    /// Transactions of this process that were larger than the memory they are staged in.
    pub spills: u64,
    /// How long a sync of the log takes of late, in microseconds.
    pub sync_us: u64,
    /// Files of the log; `slots` in JSON.
    #[serde(rename = "slots")]
    pub segments: usize,
    /// Their size together, in bytes; `slot_bytes` in JSON.
    #[serde(rename = "slot_bytes")]
    pub segment_bytes: u64,
    /// Commits that were lost when the log failed; they were never durable.
    pub lost_commits: u64,
    /// Why the log failed and nothing is written any more; `None`: it did not.
    pub poisoned: Option<String>,
}

/// Transactions of this process that write beside each other (`parallel_wal_writers=concurrent`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ConcurrentStatus {
    /// Whether this connection's transactions do.
    pub on: bool,
    /// Transactions that have written and are open now, each with a lane of its own.
    pub open: u64,
    /// What lies in their lanes, in bytes.
    pub staged_bytes: u64,
    /// Those that have committed.
    pub commits: u64,
    /// Those that conflicted with others: `SQLITE_BUSY_SNAPSHOT`.
    pub conflicts: u64,
    /// How often the snapshot of one has moved to a later commit.
    pub moved: u64,
    /// Those that have committed pages which they allocated or freed beside others.
    pub composed: u64,
    /// Interior b-tree pages that others had changed, and that such a commit had read: it came after theirs without a conflict.
    pub excused: u64,
    /// Interior b-tree pages that both others and such a commit had changed, published with both changes.
    pub merged: u64,
    /// Those whose lane was full, so that they took the write lock before COMMIT.
    pub full_lanes: u64,
    /// The pages of the last conflicts, at most 16, the last one first.
    pub contended_pages: Vec<ContendedPage>,
}

/// A page that transactions conflicted on, in this process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ContendedPage {
    /// Its number in the database file.
    pub page: u32,
    /// What it is, for people: "leaf of a table".
    pub kind: String,
    /// How often, since it is listed.
    pub conflicts: u64,
    /// The last commit that won.
    pub commit: u64,
}

/// The process with the oldest snapshot: checkpoints cannot go past it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ReaderStatus {
    /// Its process id, in its own namespace. `None`: it has ended meanwhile.
    pub pid: Option<u32>,
    /// The beginning of its command. `None`: it has ended meanwhile.
    pub command: Option<String>,
    /// The commit that it reads at.
    pub snapshot: u64,
    /// For how long, in microseconds.
    pub for_us: u64,
    /// What stays in the log for it, in bytes; `None`: the log cannot be read.
    pub kept_bytes: Option<u64>,
}

/// A process that has a database open through pwal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ProcessStatus {
    /// Its place among the processes of the database.
    pub slot: u16,
    /// Its process id, in its own namespace.
    pub pid: u32,
    /// The beginning of its command, at most 32 bytes.
    pub command: String,
    /// Whether it lives. False: it was killed, and what it held is taken over by the next process that needs it.
    pub alive: bool,
    /// For how long it has had the database open, in microseconds.
    pub attached_for_us: u64,
    /// Its open transactions.
    pub transactions: usize,
    /// The oldest commit that a reader reads at; `None`: there is no reader.
    pub oldest_snapshot: Option<u64>,
    /// For how long, in microseconds.
    pub oldest_snapshot_for_us: Option<u64>,
    /// For how long the first of its connections has waited for the write lock, in microseconds; `None`: none waits.
    pub waiting_for_us: Option<u64>,
    /// The locks that it holds: `WRITE`, `APPEND`, `LEADER`, `CKPT`, `CREATE`, `EXCL` (docs/processes.md).
    pub holding: Vec<String>,
}

impl Status {
    /// The version of the keys that this pwal answers.
    pub const SCHEMA: u32 = 1;

    /// The state of a connection that is not on the log.
    pub(crate) fn inactive(vfs: Option<String>, reason: impl Into<String>) -> Status {
        Status {
            schema: Status::SCHEMA,
            vfs,
            active: false,
            reason: Some(reason.into()),
            mode: None,
            path: None,
            beside_stock: None,
            exclusive: None,
            concurrent: None,
            log: None,
        }
    }

    /// As JSON, without line breaks.
    #[must_use]
    pub fn to_json(&self) -> String {
        // Strings, numbers and lists: nothing of it can fail.
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// From the JSON that the pragma and the function answer.
impl std::str::FromStr for Status {
    type Err = serde_json::Error;

    fn from_str(json: &str) -> Result<Status, serde_json::Error> {
        serde_json::from_str(json)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_inactive_status_has_the_keys_that_it_needs() {
        let status = Status::inactive(Some(String::from("unix")), "opened before pwal was loaded");
        let json = r#"{"schema":1,"vfs":"unix","active":false,"reason":"opened before pwal was loaded"}"#;
        assert_eq!(status.to_json(), json);
        assert_eq!(json.parse::<Status>().unwrap(), status);
    }

    #[test]
    fn an_active_status_survives_its_json() {
        let process = ProcessStatus {
            slot: 3,
            pid: 70,
            command: String::from("a \"program\""),
            alive: true,
            attached_for_us: u64::MAX,
            transactions: 1,
            oldest_snapshot: Some(4),
            oldest_snapshot_for_us: Some(5),
            waiting_for_us: None,
            holding: vec![String::from("WRITE")],
        };
        let reader = ReaderStatus { pid: None, command: None, snapshot: 4, for_us: 5, kept_bytes: None };
        let log = LogStatus {
            log_id: None,
            page_bytes: 4096,
            connections: 1,
            waiting_writers: 2,
            published: u64::MAX,
            visible: 8,
            durable: 7,
            backfilled: 6,
            oldest_snapshot: Some(4),
            oldest_reader: Some(reader),
            processes: vec![process],
            commits: 9,
            flushes: 10,
            checkpoints: 11,
            spills: 12,
            sync_us: 13,
            segments: 14,
            segment_bytes: 15,
            lost_commits: 0,
            poisoned: None,
        };
        let status = Status {
            active: true,
            reason: None,
            mode: Some(String::from("auto")),
            path: Some(String::from("/srv/app.db")),
            log: Some(log),
            ..Status::inactive(Some(String::from("pwal")), "")
        };
        let json = status.to_json();
        assert!(
            json.contains(r#""log_id":null"#) && json.contains(r#""poisoned":null"#),
            "what is not is null: {json}"
        );
        assert!(json.contains(r#""slots":14,"slot_bytes":15"#), "{json}");
        assert!(!json.contains("reason") && !json.contains("beside_stock"), "{json}");
        assert_eq!(json.parse::<Status>().unwrap(), status);
    }
}
