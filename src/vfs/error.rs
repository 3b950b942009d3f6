//! Why a registration failed.

use crate::sqlite::ApiError;

/// Why a registration failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegisterError {
    /// SQLite lacks something.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// `SQLITE_THREADSAFE=0`: the log is written and checkpointed by more than one thread.
    #[error("this SQLite was built without thread safety (SQLITE_THREADSAFE=0), which pwal needs")]
    NotThreadSafe,
    /// `SQLITE_CONFIG_SINGLETHREAD`: the same, by `sqlite3_config`.
    #[error("this SQLite is configured for one thread (SQLITE_CONFIG_SINGLETHREAD), and pwal needs its mutexes")]
    SingleThread,
    /// The name belongs to other code, perhaps to another copy of pwal.
    #[error("a VFS named {0:?} is registered already, by other code than this copy of pwal; load one copy only")]
    NameTaken(String),
    /// The name is registered on another base.
    #[error("the VFS {name:?} is registered on {base:?} already")]
    OtherBase {
        /// The VFS.
        name: String,
        /// What it is on.
        base: String,
    },
    /// The base is a VFS of ours.
    #[error("{0:?} is a pwal VFS itself and cannot be the base of one")]
    OwnBase(String),
    /// The base is not there, or SQLite could not be initialised.
    #[error("SQLite has no VFS {0}")]
    NoBase(String),
    /// A name cannot be used.
    #[error("{0:?} cannot be the name of a VFS")]
    BadName(String),
    /// A variable of the environment has a value that pwal does not take.
    #[error("the environment variable {variable} is not accepted: {reason}")]
    Environment {
        /// Its name.
        variable: String,
        /// What is wrong with it, and what is accepted.
        reason: String,
    },
    /// `sqlite3_vfs_register` or `sqlite3_auto_extension` failed.
    #[error("SQLite refused the registration: result code {0}")]
    Refused(i32),
}
