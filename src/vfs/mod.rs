//! The shim between SQLite and its base VFS: FFI and marshalling only.
