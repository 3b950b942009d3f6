//! The log: segments, batches, certificates; recovery and retirement. Knows no SQLite.

pub mod backfill;
pub mod decide;
mod error;
mod files;
pub mod follow;
pub mod format;
mod found;
mod image_cache;
pub mod kept;
mod open_file;
mod page_one;
mod passing;
mod probe;
mod read_ahead;
pub mod recovery;
mod replay;
pub mod retire;
pub mod salvage;
pub mod scan;
mod seals;
pub mod segments;
pub mod stamp;
pub mod undo;
mod unwritten;
mod walk;

pub use error::{ErrorKind, LogError};
pub use files::{Unreadable, is_unreadable};
pub use found::{Contradiction, TornTail};
