//! What applications do with a database on pwal, in one process or a few.

mod attached;
mod checkpoints_after_commits;
mod concurrent;
mod content;
mod features;
mod idle_checkpoint;
mod journal_modes;
mod large_transaction;
mod live_copy;
mod locking_mode;
mod on_demand;
mod readers;
mod replaced_file;
mod rest;
mod siblings;
mod space;
mod undurable;

support::roles!();
