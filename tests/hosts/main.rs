//! The loadable library in hosts that bring their own SQLite, and the README's examples.

mod debian;
mod loadable;
mod own_sqlite;
mod readme;
