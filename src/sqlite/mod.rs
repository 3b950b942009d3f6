//! The table of SQLite functions that pwal calls, SQLite's C types, and its result codes.
//!
//! The table is filled by the host (`sqlite3_api_routines`, loadable library) or from
//! the linked `libsqlite3-sys` (feature `linked`); nothing else in the crate links SQLite.

mod api;
mod code;
pub mod ffi;

pub use api::{Api, ApiError};
pub use code::Code;
