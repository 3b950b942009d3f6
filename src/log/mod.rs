//! The log: slots, batches, certificates; recovery and retirement. Knows no SQLite.

pub mod format;
