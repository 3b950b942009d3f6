//! The log: slots, batches, certificates; recovery and retirement. Knows no SQLite.

mod error;
pub mod format;
pub mod slots;
pub mod stamp;

pub use error::{ErrorKind, LogError};
