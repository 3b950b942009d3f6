//! pwal replaces how SQLite stores its write-ahead log, without touching SQLite.
//!
//! Register the VFS once, then open databases through it; `PRAGMA journal_mode=WAL` is all that
//! they need:
//!
//! ```
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use rusqlite::{Connection, OpenFlags};
//!
//! pwal::register()?;
//! # let directory = tempfile::tempdir()?;
//! # let path = directory.path().join("app.db");
//! let connection = Connection::open_with_flags_and_vfs(&path, OpenFlags::default(), "pwal")?;
//! connection.pragma_update(None, "journal_mode", "wal")?;
//! connection.execute_batch("CREATE TABLE t(x); INSERT INTO t VALUES(1)")?;
//! let mode: String = connection.query_row("PRAGMA parallel_wal_mode", [], |row| row.get(0))?;
//! assert_eq!(mode, "auto");
//! # Ok(())
//! # }
//! ```
//!
//! [`register_with`] makes it the default for databases that are opened without naming a VFS. Programs that
//! cannot link it load `libpwal.so`, the package `pwal-sqlite-ext` of this workspace.
#![deny(unsafe_code)]

#[forbid(unsafe_code)]
mod disk;
#[forbid(unsafe_code)]
mod engine;
#[forbid(unsafe_code)]
mod handle;
#[forbid(unsafe_code)]
mod interleave;
#[forbid(unsafe_code)]
mod log;
#[forbid(unsafe_code)]
mod mutants;
#[allow(unsafe_code)]
mod shared;
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
    }
    pub mod log {
        pub use crate::log::*;
    }
    pub mod shared {
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
pub(crate) use shared::fault_point;
pub use status::{LogStatus, ProcessStatus, ReaderStatus, Status};
pub use vfs::{Options, RegisterError, version};
#[cfg(feature = "linked")]
pub use vfs::{RecoverError, recover, register, register_with};
