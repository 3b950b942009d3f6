//! How a command ends that did not do what it was asked: a text, and an exit status.

use pwal::internal::log::{ErrorKind, LogError};
use pwal::internal::sqlite::Code;
use std::fmt;
use std::io;
use std::path::Path;
use std::process::ExitCode;

/// Why a command ends without success.
#[derive(Debug)]
pub struct Failure {
    kind: Kind,
    text: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// A rule is broken, a commit is lost, or the user must decide.
    No = 1,
    /// The database is open in another process.
    InUse = 3,
    /// The system, the medium, a missing file.
    Cannot = 4,
}

pub type Done = Result<(), Failure>;

impl Failure {
    /// What was looked at is not in order.
    pub fn no(text: impl Into<String>) -> Failure {
        Failure { kind: Kind::No, text: text.into() }
    }

    /// The database is open in another process.
    pub fn in_use(text: impl Into<String>) -> Failure {
        Failure { kind: Kind::InUse, text: text.into() }
    }

    /// It could not be done.
    pub fn cannot(text: impl Into<String>) -> Failure {
        Failure { kind: Kind::Cannot, text: text.into() }
    }

    /// An operation on a file failed.
    pub fn io(action: &str, file: &Path, error: &io::Error) -> Failure {
        Failure::cannot(format!("cannot {action} {}: {error}", file.display()))
    }

    /// The failure that a result code of SQLite stands for.
    pub fn of_code(code: Code, text: impl Into<String>) -> Failure {
        let kind = match code.primary() {
            Code::BUSY | Code::LOCKED => Kind::InUse,
            Code::CORRUPT | Code::NOTADB | Code::CANTOPEN => Kind::No,
            _ if code == Code::READONLY_RECOVERY => Kind::No,
            _ => Kind::Cannot,
        };
        Failure { kind, text: text.into() }
    }

    /// What the log says.
    pub fn log(error: LogError) -> Failure {
        match error.kind() {
            ErrorKind::Io | ErrorKind::Full => Failure::cannot(error.to_string()),
            ErrorKind::Corrupt | ErrorKind::CannotOpen | ErrorKind::ReadOnly => Failure::no(error.to_string()),
        }
    }

    /// What SQLite says of the database at `path`.
    pub fn sqlite(path: &Path, error: &rusqlite::Error) -> Failure {
        let text = format!("{}: {error}", path.display());
        match error.sqlite_error().and_then(|error| Code::check(error.extended_code).err()) {
            Some(code) => Failure::of_code(code, text),
            None => Failure::cannot(text),
        }
    }

    /// Adds a line that says what the user can do.
    pub fn hint(mut self, hint: impl AsRef<str>) -> Failure {
        self.text.push_str("\n  ");
        self.text.push_str(hint.as_ref());
        self
    }

    pub fn is_in_use(&self) -> bool {
        self.kind == Kind::InUse
    }

    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.kind as u8)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
