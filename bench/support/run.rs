//! What a measured process does before it runs, and what it needs while it does.

use super::slow_sync;
use rusqlite::{Connection, Error, ErrorCode, OpenFlags};
use std::path::Path;
use std::time::Duration;

/// What rusqlite sets by itself.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// The table that is written to.
pub const CREATE: &str = "CREATE TABLE t(id INTEGER PRIMARY KEY, thread, value)";
/// A row: the thread, and [`payload`].
pub const INSERT: &str = "INSERT INTO t(thread, value) VALUES(?1, ?2)";

/// 100 bytes of text.
pub fn payload() -> String {
    "x".repeat(100)
}

/// A process that is measured begins: before others that want the processor, on this VFS, with syncs that cost this number of
/// microseconds more. What they cost more, as measured.
pub fn begin(vfs: &str, extra_us: u64) -> Duration {
    // Where that is permitted: what else runs on the machine delays each wake by a time slice of some ms.
    let _refusal_changes_nothing = rustix::process::setpriority_process(None, -20);
    if vfs == "pwal" {
        pwal::register().expect("the VFS pwal");
    }
    match extra_us {
        0 => Duration::ZERO,
        us => slow_sync::install(Duration::from_micros(us)).expect("a kernel with seccomp user notification"),
    }
}

/// A connection of one thread.
pub fn connect(path: &Path, vfs: &str) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags_and_vfs(path, flags, vfs)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    Ok(connection)
}

/// Whether the application was told "database is locked".
pub fn is_locked(error: &Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
}

/// Processor time that this process has used, in microseconds.
pub fn cpu_us() -> u64 {
    let used = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    used.tv_sec.unsigned_abs() * 1_000_000 + used.tv_nsec.unsigned_abs() / 1000
}
