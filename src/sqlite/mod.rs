//! The table of SQLite functions that pwal calls, and SQLite's result codes.
//!
//! The table is filled by the host (`sqlite3_api_routines`, loadable library) or from
//! the linked `libsqlite3-sys` (feature `linked`); nothing else in the crate links SQLite.

mod code;

pub use code::Code;
