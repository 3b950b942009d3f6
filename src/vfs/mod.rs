//! The shim between SQLite and its base VFS: FFI and marshalling only.
//!
//! A registration is one `sqlite3_vfs` on top of another. A main database file is a file object of ours that owns the
//! base's; each method is one call of [`Handle`](crate::handle::Handle), which decides. Every other kind of file, and
//! the WAL of a main file that is not on pwal, is opened by the base directly in SQLite's file object: its methods are
//! then called without pwal in between.
//!
//! Promises: the base's version, flags, sizes and file controls reach SQLite and back as they are, unless the handle
//! says otherwise; no panic leaves a callback; a failed open leaves a null method table.

mod above;
mod base;
#[cfg(feature = "linked")]
mod builder;
mod callback;
mod database_handle;
mod environment;
mod error;
mod functions;
mod load;
mod main_file;
mod messages;
mod methods;
mod pager;
#[cfg(all(test, feature = "linked"))]
mod power_tests;
#[cfg(feature = "linked")]
mod recover;
mod register;
mod registration;
mod wal_file;

#[cfg(feature = "linked")]
pub use builder::{Vfs, VfsBuilder, register};
pub use error::RegisterError;
pub use functions::version;
pub use load::{Wanted, load, report_panics};
pub use messages::set_socket as send_messages_to;
#[cfg(feature = "linked")]
pub use recover::recover_on;
