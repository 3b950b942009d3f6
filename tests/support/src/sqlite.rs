//! The VFS under test, connections, rows as text, and the promise about the files that a clean close leaves.

use rusqlite::types::ValueRef;
use rusqlite::{Connection, Error, OpenFlags, ffi};
use std::ffi::{CStr, c_char, c_int, c_void};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// The VFS that is tested.
pub const PWAL: &str = "pwal";
/// The VFS below it, which is also the yardstick.
pub const STOCK: &str = "unix";

/// The name of the VFS under test; registers pwal the first time.
pub fn vfs() -> &'static str {
    static NAME: OnceLock<String> = OnceLock::new();
    NAME.get_or_init(|| {
        if std::env::var_os("PWAL_TEST_LOG").is_some() {
            // SAFETY: nothing uses SQLite yet; the function has the documented type and never goes.
            let code = unsafe {
                let tell = tell as unsafe extern "C" fn(*mut c_void, c_int, *const c_char);
                ffi::sqlite3_config(ffi::SQLITE_CONFIG_LOG, tell, std::ptr::null_mut::<c_void>())
            };
            assert_eq!(code, ffi::SQLITE_OK);
        }
        pwal::register().expect("pwal registers");
        std::env::var("PWAL_TEST_VFS").unwrap_or_else(|_| String::from(PWAL))
    })
}

unsafe extern "C" fn tell(_: *mut c_void, code: c_int, text: *const c_char) {
    // SAFETY: SQLite passes a text that ends with a zero byte.
    eprintln!("sqlite3_log: {code} {}", unsafe { CStr::from_ptr(text) }.to_string_lossy());
}

/// Whether the VFS under test is pwal: for what pwal promises beyond stock.
pub fn on_pwal() -> bool {
    vfs() == PWAL
}

/// The flags of every connection here but those that say otherwise.
pub fn flags() -> OpenFlags {
    OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_CREATE
        | OpenFlags::SQLITE_OPEN_URI
        | OpenFlags::SQLITE_OPEN_NO_MUTEX
}

/// A connection through the VFS under test, with rusqlite's busy timeout of 5 s.
pub fn open(path: &Path) -> Connection {
    try_open(path, flags(), vfs()).unwrap_or_else(|error| panic!("open {} on {}: {error}", path.display(), vfs()))
}

/// [`open`], then WAL mode.
pub fn open_wal(path: &Path) -> Connection {
    let connection = open(path);
    assert_eq!(text(&connection, "PRAGMA journal_mode=WAL"), "wal");
    connection
}

/// A connection past pwal.
pub fn open_stock(path: &Path) -> Connection {
    try_open(path, flags(), STOCK).unwrap_or_else(|error| panic!("open {} on stock: {error}", path.display()))
}

/// A connection with these flags on this VFS.
pub fn try_open(path: &Path, flags: OpenFlags, vfs: &str) -> rusqlite::Result<Connection> {
    Connection::open_with_flags_and_vfs(path, flags, vfs)
}

/// Runs statements; panics with the statement on an error.
pub fn run(connection: &Connection, sql: &str) {
    connection.execute_batch(sql).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
}

/// All rows of one statement, a line each.
pub fn rows(connection: &Connection, sql: &str) -> rusqlite::Result<Vec<String>> {
    let mut statement = connection.prepare(sql)?;
    let columns = statement.column_count();
    let mut found = statement.query([])?;
    let mut lines = Vec::new();
    while let Some(row) = found.next()? {
        let mut line = String::new();
        for column in 0..columns {
            if column > 0 {
                line.push('|');
            }
            value(row.get_ref(column)?, &mut line);
        }
        lines.push(line);
    }
    Ok(lines)
}

/// All rows of one statement that must work, joined by blanks.
pub fn text(connection: &Connection, sql: &str) -> String {
    rows(connection, sql).unwrap_or_else(|error| panic!("{sql}: {error:?}")).join(" ")
}

/// One number that must be there.
pub fn number(connection: &Connection, sql: &str) -> i64 {
    connection.query_row(sql, [], |row| row.get(0)).unwrap_or_else(|error| panic!("{sql}: {error:?}"))
}

/// A value as text; long ones as length and checksum.
fn value(value: ValueRef<'_>, line: &mut String) {
    use std::fmt::Write;
    let _ = match value {
        ValueRef::Null => write!(line, "NULL"),
        ValueRef::Integer(number) => write!(line, "{number}"),
        ValueRef::Real(number) => write!(line, "{number:?}"),
        ValueRef::Text(bytes) if bytes.len() <= 200 => write!(line, "{}", String::from_utf8_lossy(bytes)),
        ValueRef::Blob(bytes) if bytes.len() <= 16 => write!(line, "x{bytes:02x?}"),
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => {
            write!(line, "<{} bytes {:08x}>", bytes.len(), crc32c::crc32c(bytes))
        }
    };
}

/// The extended result code of an error; -1 if it does not come from SQLite.
pub fn code(error: &Error) -> i32 {
    match error {
        Error::SqlInputError { error, .. } => error.extended_code,
        other => other.sqlite_extended_error_code().unwrap_or(-1),
    }
}

/// The extended result code of a statement; 0 for success.
pub fn code_of(connection: &Connection, sql: &str) -> i32 {
    match connection.execute_batch(sql) {
        Ok(()) => 0,
        Err(error) => code(&error),
    }
}

/// Closes a connection, which must work.
pub fn close(connection: Connection) {
    connection.close().unwrap_or_else(|(_, error)| panic!("close: {error:?}"));
}

/// `PRAGMA integrity_check` must say ok.
pub fn assert_integrity(connection: &Connection) {
    assert_eq!(text(connection, "PRAGMA integrity_check"), "ok");
}

/// After the clean close of the last connection: one plain file in WAL mode and nothing beside
/// it, which stock SQLite opens and finds in order.
pub fn assert_plain(path: &Path) {
    assert_plain_header(path, 2);
    let stock = open_stock(path);
    assert_integrity(&stock);
    close(stock);
}

/// [`assert_plain`] without stock's opinion, for a given read version: 1 rollback, 2 WAL.
pub fn assert_plain_header(path: &Path, version: u8) {
    assert_eq!(beside(path), Vec::<String>::new(), "files beside {}", path.display());
    let bytes = std::fs::read(path).expect("read the database file");
    assert!(bytes.len() >= 512, "{} has {} bytes", path.display(), bytes.len());
    assert_eq!((bytes[18], bytes[19]), (version, version), "version bytes of {}", path.display());
    assert!(bytes[72..92].iter().all(|byte| *byte == 0), "stamp in {}: {:02x?}", path.display(), &bytes[72..92]);
}

/// The names that begin with the database's own, without it: `-wal`, `-shm`, `-journal`, `-pwal` ...
pub fn beside(path: &Path) -> Vec<String> {
    let own = path.file_name().expect("a file name").to_string_lossy().into_owned();
    let mut names: Vec<String> = std::fs::read_dir(path.parent().expect("a directory"))
        .expect("read the directory")
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .filter(|name| name.starts_with(&own) && *name != own)
        .collect();
    names.sort();
    names
}

/// A directory that goes at the end of the test, or stays if `PWAL_TEST_KEEP` is set.
pub struct Scratch {
    directory: tempfile::TempDir,
}

impl Scratch {
    pub fn new() -> Scratch {
        Scratch::below(&std::env::temp_dir())
    }

    /// In memory where the system has a place for it and `TMPDIR` names no other: for what needs no disk.
    pub fn in_memory() -> Scratch {
        let memory = Path::new("/dev/shm");
        if memory.is_dir() && std::env::var_os("TMPDIR").is_none() { Scratch::below(memory) } else { Scratch::new() }
    }

    fn below(directory: &Path) -> Scratch {
        let mut builder = tempfile::Builder::new();
        builder.prefix("pwal-test-").disable_cleanup(std::env::var_os("PWAL_TEST_KEEP").is_some());
        Scratch { directory: builder.tempdir_in(directory).expect("a temporary directory") }
    }

    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }
}

/// A number from the environment, or the default.
pub fn env_number(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")),
        Err(_) => default,
    }
}

/// Ends the process with a message if it is not dropped in time: a hang is a failure, not a
/// job that somebody must cancel.
pub struct Watchdog {
    _alive: mpsc::Sender<()>,
}

impl Watchdog {
    pub fn new(what: &str, limit: Duration) -> Watchdog {
        let (alive, gone) = mpsc::channel::<()>();
        let what = what.to_owned();
        std::thread::spawn(move || {
            // Seconds in which the process was stopped, or waited for a processor most of the time, do not count, up to a bound.
            let (step, end) = (Duration::from_secs(1), Instant::now() + 10 * limit);
            let (mut left, mut before) = (limit, waited_for_processors());
            while !left.is_zero() {
                if gone.recv_timeout(step) != Err(mpsc::RecvTimeoutError::Timeout) {
                    return;
                }
                let waited = waited_for_processors();
                if waited.saturating_sub(before) < step / 2 || Instant::now() > end {
                    left = left.saturating_sub(step);
                }
                before = waited;
            }
            eprintln!("{what}: does not end in {limit:?}");
            std::process::abort();
        });
        Watchdog { _alive: alive }
    }
}

/// How long the threads of this process have waited for a processor, together; zero where the kernel does not count it.
fn waited_for_processors() -> Duration {
    let Ok(threads) = std::fs::read_dir("/proc/self/task") else { return Duration::ZERO };
    let waited = threads.flatten().filter_map(|thread| {
        let counts = std::fs::read_to_string(thread.path().join("schedstat")).ok()?;
        counts.split(' ').nth(1)?.parse::<u64>().ok()
    });
    Duration::from_nanos(waited.sum())
}
