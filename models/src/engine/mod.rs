//! The write queue of a process, and its side of the lock WRITE.

#[path = "../../../src/engine/queue/mod.rs"]
#[allow(dead_code, reason = "a model uses a part of it")]
pub(crate) mod queue;
#[path = "../../../src/engine/turn.rs"]
mod turn;
