//! The log: slots, batches, certificates; recovery and retirement. Knows no SQLite.

pub mod backfill;
pub mod decide;
mod error;
pub mod follow;
pub mod format;
mod found;
pub mod recovery;
pub mod retire;
pub mod salvage;
pub mod scan;
pub mod slots;
pub mod stamp;

pub use error::{ErrorKind, LogError};
pub use found::TornTail;
