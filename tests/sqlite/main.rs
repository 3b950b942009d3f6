//! What pwal and SQLite rely on in each other: how SQLite calls a VFS, and what pwal passes on.

mod above;
mod api_slots;
mod copied;
mod facts;
mod other_vfs;
mod shared_cache;
mod vfs_contract;
mod view;
mod wal_index;
