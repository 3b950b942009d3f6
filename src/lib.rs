//! pwal replaces how SQLite stores its write-ahead log, without touching SQLite: durable commits of many connections share one
//! disk flush, in one process or in many, writers queue fairly, and readers never wait.
//!
//! It is a VFS that lies on SQLite's own. Register it once, then open databases through it; `PRAGMA journal_mode=WAL` is all that
//! they need:
//!
//! ```
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use rusqlite::{Connection, OpenFlags};
//!
//! pwal::register()?;
//! # let directory = tempfile::tempdir()?;
//! # let path = directory.path().join("app.db");
//! let connection = Connection::open_with_flags_and_vfs(&path, OpenFlags::default(), pwal::VFS_NAME)?;
//! connection.pragma_update(None, "journal_mode", "wal")?;
//! connection.pragma_update(None, "synchronous", "full")?;
//! connection.execute_batch("CREATE TABLE t(x); INSERT INTO t VALUES(1)")?; // durable when it returns
//! let mode: String = connection.query_row("PRAGMA parallel_wal_mode", [], |row| row.get(0))?;
//! assert_eq!(mode, "auto"); // "inactive: .." gives the reason
//! # Ok(())
//! # }
//! ```
//!
//! The database file stays SQLite's: after a clean close it is one plain file in WAL mode, with nothing beside it.
//!
//! | | |
//! |---|---|
//! | [`register`], [`Vfs::builder`] | the VFS: under its name, or as the default of the process |
//! | [`retry`] | a transaction that begins again where SQLite says so |
//! | [`Status`] | what `PRAGMA parallel_wal_status` and `SELECT pwal_status()` answer |
//! | [`recover`], [`salvage`], [`discard_log`] | a database after a crash, without a connection |
//!
//! A copy of a database in use is made by SQLite's backup API on a connection through pwal (rusqlite: `rusqlite::backup`), or by
//! `pwal backup`, which also checks it.
//!
//! # What "committed" means
//!
//! | `PRAGMA synchronous` | COMMIT returns when | the process is killed | the power fails |
//! |---|---|---|---|
//! | `FULL`, `EXTRA` | the commit and all before it are synced to the disk | nothing is lost | nothing is lost |
//! | `NORMAL`, `OFF` | the commit is written to the log | nothing is lost | the newest commits may be lost, never consistency |
//!
//! When a write or a sync of the log fails, pwal stops: the failed commit is erased, no connection writes until all are closed, and the
//! next open recovers what was durable.
//!
//! # Platforms and features
//!
//! Linux, with SQLite 3.32 or newer that is built with threads, on a local file system. Programs that cannot link a crate load
//! `libpwal.so`, the package `pwal-sqlite-ext` of the same workspace.
//!
//! | feature | default | |
//! |---|---|---|
//! | `linked` | yes | SQLite's functions come from the `libsqlite3-sys` that the program links. All of this page but [`Status`] needs it |
//!
//! # Pragmas
//!
//! Also URI parameters (`file:app.db?vfs=pwal&parallel_wal_mode=conservative`) and environment variables (`PWAL_MODE=conservative`). A
//! value that is not accepted changes nothing, and the error lists what is accepted. All of them: `docs/settings.md`.
//!
//! | pragma | default | |
//! |---|---|---|
//! | `parallel_wal_mode` | `auto` | `conservative`: one flush for each commit. `off`: this connection passes everything through to the base VFS |
//! | `parallel_wal_max_batch_bytes` | 4 MiB | what a transaction keeps in memory before it spills to a file |
//! | `parallel_wal_max_flush_delay_ms` | 2 | the longest time that a flush may wait for more commits |
//! | `parallel_wal_idle_retire_ms` | 10000 | after this time without a commit the log is retired; `SELECT pwal_retire()` does it at once |
//! | `parallel_wal_log_limit_bytes` | none | when a long reader makes the log grow to this size, commits are refused: `SQLITE_FULL` |
//! | `parallel_wal_reader_limit_bytes` | none | when a long reader makes the log grow to this size, its snapshot ends: `SQLITE_BUSY_SNAPSHOT` |
//! | `parallel_wal_writers` | `serial` | `concurrent`: transactions after BEGIN write beside each other, checked at COMMIT. Of the connection (`docs/concurrent.md`) |
//! | `parallel_wal_status` | | [`Status`], as JSON |
//!
//! # Limits
//!
//! * One transaction writes at a time, as in SQLite, but for connections with `parallel_wal_writers=concurrent`.
//! * At most 128 processes with 2048 connections share a database.
//! * While a process has a database open through pwal, a connection on stock SQLite gets `database is locked`; while there is a log,
//!   after a crash too, `unable to open database file`. The next open through pwal or [`recover`] makes the file plain.
//! * The file alone, copied while it is in use, lacks its newest commits and is refused.
//! * Not on network file systems. `mmap_size` has no effect, and snapshots (`sqlite3_snapshot_open`) are refused.
//!
//! All of them: `docs/limits.md`; how it works: `docs/architecture.md`; the log on disk: `docs/format.md`.
#![deny(unsafe_code)]

#[forbid(unsafe_code)]
mod disk;
#[forbid(unsafe_code)]
mod engine;
#[forbid(unsafe_code)]
mod handle;
#[forbid(unsafe_code)]
mod host;
#[forbid(unsafe_code)]
mod interleave;
#[forbid(unsafe_code)]
mod log;
#[forbid(unsafe_code)]
mod mutants;
#[allow(unsafe_code)]
mod os;
#[forbid(unsafe_code)]
mod pages;
#[cfg(feature = "linked")]
#[forbid(unsafe_code)]
mod recovery;
#[forbid(unsafe_code)]
mod retry;
#[allow(unsafe_code)]
mod shared;
#[cfg(test)]
#[forbid(unsafe_code)]
mod sim_tests;
#[allow(unsafe_code)]
mod sqlite;
#[forbid(unsafe_code)]
mod status;
#[forbid(unsafe_code)]
mod sync;
#[allow(unsafe_code)]
mod vfs;
#[forbid(unsafe_code)]
mod view;

/// The rooms, for the tests, the tool and the loadable library of this workspace. Not part of the API: semver does not cover it.
#[doc(hidden)]
pub mod internal {
    pub mod disk {
        pub use crate::disk::*;
    }
    pub mod handle {
        pub use crate::handle::*;
        pub use crate::host::Environment;
    }
    pub mod log {
        pub use crate::log::*;
    }
    pub mod pages {
        pub use crate::pages::*;
    }
    pub mod shared {
        pub use crate::os::*;
        pub use crate::shared::*;
    }
    pub mod sqlite {
        pub use crate::sqlite::*;
    }
    pub mod vfs {
        pub use crate::vfs::*;
    }
    pub mod view {
        pub use crate::view::*;
    }
}

/// The name of the VFS that [`register`] registers, and the loadable library.
pub const VFS_NAME: &str = "pwal";

pub(crate) use mutants::drops;
#[allow(unused_imports, reason = "the rooms call it as `crate::fault_point`")]
pub(crate) use os::fault_point;
#[cfg(feature = "linked")]
pub use recovery::{RecoverError, Recovery, Unrecovered, discard_log, recover, salvage};
pub use retry::retry;
pub use sqlite::ApiError;
pub use status::{ConcurrentStatus, ContendedPage, LogStatus, ProcessStatus, ReaderStatus, Status};
pub use vfs::{RegisterError, version};
#[cfg(feature = "linked")]
pub use vfs::{Vfs, VfsBuilder, register};
