//! Processes that share one database: how they come, stop, die, fork and leave.

mod attach;
mod concurrent;
mod deaths;
mod exit_in_a_commit;
mod exits;
mod forks_and_exits;
mod forks_while_opening;
mod grants;
mod late_exits;
mod leaving;
mod lives;
mod renamed;
mod stopped;
mod surprises;

support::roles!();
