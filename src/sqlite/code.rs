//! SQLite's result codes as a type. Source: <https://www.sqlite.org/rescode.html>.

use std::fmt;
use std::io;

/// A result code of SQLite other than `SQLITE_OK`, primary or extended.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Code(i32);

macro_rules! codes {
    ($($name:ident = $value:expr;)*) => {
        impl Code {
            $(#[doc = concat!("`SQLITE_", stringify!($name), "`")] pub const $name: Code = Code($value);)*
            fn name(self) -> Option<&'static str> {
                $(if self.0 == $value { return Some(concat!("SQLITE_", stringify!($name))); })*
                None
            }
        }
    };
}

codes! {
    ERROR = 1;
    INTERNAL = 2;
    PERM = 3;
    BUSY = 5;
    LOCKED = 6;
    NOMEM = 7;
    READONLY = 8;
    IOERR = 10;
    INTERRUPT = 9;
    CORRUPT = 11;
    NOTFOUND = 12;
    FULL = 13;
    CANTOPEN = 14;
    PROTOCOL = 15;
    MISUSE = 21;
    NOTADB = 26;
    NOTICE = 27;
    WARNING = 28;
    BUSY_SNAPSHOT = 5 | (2 << 8);
    BUSY_TIMEOUT = 5 | (3 << 8);
    READONLY_RECOVERY = 8 | (1 << 8);
    READONLY_DBMOVED = 8 | (4 << 8);
    IOERR_READ = 10 | (1 << 8);
    IOERR_SHORT_READ = 10 | (2 << 8);
    IOERR_WRITE = 10 | (3 << 8);
    IOERR_FSYNC = 10 | (4 << 8);
    IOERR_DIR_FSYNC = 10 | (5 << 8);
    IOERR_TRUNCATE = 10 | (6 << 8);
    IOERR_FSTAT = 10 | (7 << 8);
    IOERR_UNLOCK = 10 | (8 << 8);
    IOERR_DELETE = 10 | (10 << 8);
    IOERR_NOMEM = 10 | (12 << 8);
    IOERR_ACCESS = 10 | (13 << 8);
    IOERR_LOCK = 10 | (15 << 8);
    IOERR_SHMOPEN = 10 | (18 << 8);
    IOERR_SHMMAP = 10 | (21 << 8);
    IOERR_DATA = 10 | (32 << 8);
    IOERR_CORRUPTFS = 10 | (33 << 8);
    CANTOPEN_ISDIR = 14 | (2 << 8);
    ABORT_ROLLBACK = 4 | (2 << 8);
    ERROR_SNAPSHOT = 1 | (3 << 8);
}

impl Code {
    /// The number SQLite uses; never 0.
    #[must_use]
    pub const fn number(self) -> i32 {
        self.0
    }

    /// The code without its extension: the low byte.
    #[must_use]
    pub const fn primary(self) -> Code {
        Code(self.0 & 0xff)
    }

    /// `Ok` for `SQLITE_OK`, else the code.
    ///
    /// # Errors
    /// The code itself, when it is not `SQLITE_OK`.
    pub const fn check(number: i32) -> Result<(), Code> {
        if number == 0 { Ok(()) } else { Err(Code(number)) }
    }
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => write!(f, "{name} ({})", self.0),
            None => write!(f, "SQLite result code {}", self.0),
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl std::error::Error for Code {}

/// The code travels inside the error; [`Code::of`] takes it out again. `FULL` has the kind
/// `StorageFull`, `NOMEM` the kind `OutOfMemory`.
impl From<Code> for io::Error {
    fn from(code: Code) -> io::Error {
        let kind = match code {
            Code::FULL => io::ErrorKind::StorageFull,
            Code::NOMEM | Code::IOERR_NOMEM => io::ErrorKind::OutOfMemory,
            _ => io::ErrorKind::Other,
        };
        io::Error::new(kind, code)
    }
}

impl Code {
    /// Whether a read answers so where the medium does not give the bytes (`seekAndRead`: `EIO` is `IOERR_CORRUPTFS` since 3.34).
    #[must_use]
    pub fn is_unreadable(self) -> bool {
        [Code::IOERR_READ, Code::IOERR_DATA, Code::IOERR_CORRUPTFS].contains(&self)
    }

    /// The code inside an error that was made from one.
    #[must_use]
    pub fn of(error: &io::Error) -> Option<Code> {
        error.get_ref()?.downcast_ref::<Code>().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_survives_the_way_through_an_io_error() {
        for code in [Code::FULL, Code::NOMEM, Code::IOERR_FSYNC, Code::BUSY] {
            assert_eq!(Code::of(&io::Error::from(code)), Some(code));
        }
        assert_eq!(io::Error::from(Code::FULL).kind(), io::ErrorKind::StorageFull);
        assert_eq!(Code::of(&io::Error::from_raw_os_error(5)), None);
    }
}
