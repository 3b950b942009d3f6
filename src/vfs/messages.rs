//! Where messages go beside `sqlite3_log`, which few hosts can show: to standard error or a file (`PWAL_LOG`), and to a
//! socket that the host's own package reads ([`set_socket`]).
//!
//! A message is one line and one system call. Nothing here waits, panics, allocates a lock or owns a thread: so it may be called under any
//! lock of pwal's, and a fork in the middle of it leaves nothing behind. What cannot be written is lost.

use super::environment::LOG;
use super::error::RegisterError;
use crate::disk::open_to_append;
use crate::sqlite::Api;
use rustix::fs::Stat;
use rustix::io::Errno;
use std::ffi::c_int;
use std::fmt::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI32, Ordering::SeqCst};
use std::time::{SystemTime, UNIX_EPOCH};

/// The longest line: what one write to a pipe leaves whole.
const LINE_BYTES_MAX: usize = 4096;

/// What `PWAL_LOG` names.
#[derive(Debug)]
enum Sink {
    /// Standard error, as long as descriptor 2 is what it was at the start: a program may have closed it, and it may be anything then.
    Stderr(Option<Stat>),
    /// Opened for appending, so that lines of several processes do not overwrite each other.
    File(OwnedFd),
}

static SINK: OnceLock<Option<Sink>> = OnceLock::new();
/// A descriptor, or -1.
static SOCKET: AtomicI32 = AtomicI32::new(-1);

/// Opens what `PWAL_LOG` names, the first time.
///
/// # Errors
/// The file cannot be opened.
pub(super) fn open() -> Result<(), RegisterError> {
    if SINK.get().is_none() {
        let sink = sink_of_environment()?;
        // Another thread's, if it was faster: that is the same.
        let _ = SINK.set(sink);
    }
    Ok(())
}

fn sink_of_environment() -> Result<Option<Sink>, RegisterError> {
    // In a program with the rights of another user the environment may not name a file to write.
    // SAFETY: needs nothing.
    if unsafe { libc::getauxval(libc::AT_SECURE) } != 0 {
        return Ok(None);
    }
    let Some(target) = std::env::var_os(LOG).filter(|target| !target.is_empty()) else { return Ok(None) };
    if target == "stderr" {
        return Ok(Some(Sink::Stderr(rustix::fs::fstat(std::io::stderr()).ok())));
    }
    let path = PathBuf::from(target);
    match open_to_append(&path) {
        Ok(file) => Ok(Some(Sink::File(file.into()))),
        Err(error) => {
            let reason = format!("cannot open {} for writing: {error}", path.display());
            Err(RegisterError::Environment { variable: String::from(LOG), reason })
        }
    }
}

/// Sends messages to this socket, too, a datagram each; -1: no longer. It is the caller's, and stays open.
pub fn set_socket(descriptor: c_int) {
    SOCKET.store(descriptor.max(-1), SeqCst);
}

/// Writes to `sqlite3_log`, and to the other destinations.
pub(super) fn write(api: &Api, code: i32, text: &str) {
    api.write_log(code, text);
    let socket = SOCKET.load(SeqCst);
    let sink = SINK.get().and_then(Option::as_ref);
    if socket < 0 && sink.is_none() {
        return;
    }
    let line = line(SystemTime::now(), std::process::id(), code, text);
    match sink {
        Some(Sink::File(file)) => write_to(file.as_fd(), line.as_bytes()),
        Some(Sink::Stderr(Some(stat))) => write_to_stderr(stat, line.as_bytes()),
        Some(Sink::Stderr(None)) | None => {}
    }
    if socket >= 0 {
        send(socket, line.trim_end().as_bytes());
    }
}

fn write_to_stderr(as_at_the_start: &Stat, line: &[u8]) {
    let stderr = std::io::stderr();
    let same = |now: Stat| (now.st_dev, now.st_ino) == (as_at_the_start.st_dev, as_at_the_start.st_ino);
    if rustix::fs::fstat(&stderr).is_ok_and(same) {
        write_to(stderr.as_fd(), line);
    }
}

fn write_to(file: BorrowedFd<'_>, line: &[u8]) {
    while rustix::io::write(file, line) == Err(Errno::INTR) {}
}

/// Without waiting: a reader that does not read loses messages. One that is gone gets none any more.
fn send(socket: c_int, line: &[u8]) {
    // SAFETY: plain bytes that outlive the call; the descriptor is the host's, and nothing but a socket takes `send`.
    let sent = unsafe { libc::send(socket, line.as_ptr().cast(), line.len(), libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) };
    let error = std::io::Error::last_os_error().kind();
    if sent < 0 && error != std::io::ErrorKind::WouldBlock && error != std::io::ErrorKind::Interrupted {
        let _ = SOCKET.compare_exchange(socket, -1, SeqCst, SeqCst);
    }
}

/// `2026-11-29T21:41:36.123Z 4711 (5) pwal: /srv/app.db: ...`: the time, the process, SQLite's result code, the text.
fn line(now: SystemTime, process: u32, code: i32, text: &str) -> String {
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let (year, month, day) = date(days);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    let mut line = String::new();
    let millisecond = since.subsec_millis();
    let _ = write!(line, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millisecond:03}Z ");
    let _ = write!(line, "{process} ({code}) ");
    line.extend(text.chars().map(|c| if c.is_control() { ' ' } else { c }));
    let mut end = line.len().min(LINE_BYTES_MAX - 1);
    while !line.is_char_boundary(end) {
        end -= 1;
    }
    line.truncate(end);
    line.push('\n');
    line
}

/// Year, month and day of a number of days since 1970. Source: Howard Hinnant, "chrono-Compatible Low-Level Date
/// Algorithms", `civil_from_days`.
fn date(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_line_tells_time_process_code_and_text_and_is_one_line() {
        let at = UNIX_EPOCH + Duration::from_millis(1_795_988_496_007);
        assert_eq!(line(at, 4711, 5, "pwal: /a\nb: x"), "2026-11-29T21:41:36.007Z 4711 (5) pwal: /a b: x\n");
        let leap = UNIX_EPOCH + Duration::from_secs(951_782_399 + 1);
        assert!(line(leap, 1, 0, "").starts_with("2000-02-29T00:00:00.000Z 1 (0) "));
        assert!(line(UNIX_EPOCH, 1, 0, "").starts_with("1970-01-01T"));
        assert_eq!(date(365 * 30 + 7 + 365), (2000, 12, 31));
        assert_eq!(date(365 * 30 + 7 + 366), (2001, 1, 1));
        let long = line(at, 1, 0, &"é".repeat(10_000));
        assert!(long.len() <= LINE_BYTES_MAX && long.ends_with("é\n"), "{}", long.len());
    }

    #[test]
    fn a_message_goes_to_the_socket_until_its_reader_is_gone() {
        let (reader, writer) = std::os::unix::net::UnixDatagram::pair().unwrap();
        set_socket(std::os::fd::AsRawFd::as_raw_fd(&writer));
        let api = Api::linked().unwrap();
        write(&api, 28, "pwal: hello");
        let mut buffer = [0; 200];
        let read = reader.recv(&mut buffer).unwrap();
        let text = String::from_utf8_lossy(&buffer[..read]).into_owned();
        assert!(text.ends_with(&format!(" {} (28) pwal: hello", std::process::id())), "{text}");
        drop(reader);
        write(&api, 28, "pwal: no reader");
        assert_eq!(SOCKET.load(SeqCst), -1);
    }
}
