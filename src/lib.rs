//! pwal replaces how SQLite stores its write-ahead log, without touching SQLite.
#![deny(unsafe_code)]

pub mod disk;
mod engine;
pub mod handle;
pub mod log;
#[allow(unsafe_code)]
pub mod shared;
#[allow(unsafe_code)]
pub mod sqlite;
#[allow(unsafe_code)]
pub mod vfs;
pub mod view;

pub use vfs::{Options, RegisterError, version};
#[cfg(feature = "linked")]
pub use vfs::{RecoverError, recover, register, register_with};
