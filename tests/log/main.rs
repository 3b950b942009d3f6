//! The log by itself, without SQLite: recovery, retirement, salvage, and damage of every kind.

mod content;
mod damage;
mod descriptors;
mod hostile;
mod media;
mod recovery_table;
mod recovery_walk;
mod replay;
mod retire;
mod salvage;
