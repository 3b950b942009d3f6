//! Why a database cannot be had: the result code for SQLite, and a text for people.

use crate::disk::advice;
use crate::engine::EngineError;
use crate::sqlite::Code;
use std::io;
use std::path::Path;

/// Why EXCLUSIVE cannot be had.
pub(super) const STOCK_IS_THERE: &str = "a connection that is not on pwal has the database open, in this or another process: one that was \
                              opened before pwal was loaded, or on another VFS, or with mode=ro while such a one was there or by \
                              a user who may only read it. Close it, and load pwal before the first connection, or open it with \
                              vfs=pwal";

pub(super) const ALONE_IS_THERE: &str = "a connection with locking_mode=EXCLUSIVE, in this or another process, has the database for itself: close it, or \
                              set locking_mode=NORMAL in it before it reads the database";

/// Why a database cannot be had, and what the user can do about it.
pub(super) struct Refused {
    pub(super) code: Code,
    /// `None`: the code says all.
    pub(super) text: Option<String>,
}

impl Refused {
    pub(super) fn new(code: Code, text: impl Into<String>) -> Refused {
        Refused { code, text: Some(text.into()) }
    }
}

impl From<Code> for Refused {
    fn from(code: Code) -> Refused {
        Refused { code, text: None }
    }
}

impl From<EngineError> for Refused {
    fn from(error: EngineError) -> Refused {
        Refused::new(error.code(), error.to_string())
    }
}

pub(super) fn lock_failed(lock_path: &Path, error: &io::Error) -> Refused {
    let code = if error.kind() == io::ErrorKind::StorageFull { Code::FULL } else { Code::CANTOPEN };
    let hint = if error.kind() == io::ErrorKind::PermissionDenied {
        "; a user of a database on pwal must be able to write to it and to its log directory"
    } else {
        advice(error)
    };
    Refused::new(code, format!("cannot take {}: {error}{hint}", lock_path.display()))
}
