//! A slower disk needs seccomp user notification: Linux only.

use std::io;
use std::time::Duration;

/// Refuses.
///
/// # Errors
/// Always.
pub fn install(_extra: Duration) -> io::Result<Duration> {
    Err(io::Error::new(io::ErrorKind::Unsupported, "slower syncs need Linux (seccomp user notification)"))
}
