//! Models of what processes share: the source of the rooms `src/shared` and of the write queue, compiled with atomics and locks of
//! loom, which runs a model in every order of its threads, and with every value that a load may return, up to a number of
//! preemptions. A thread of a model stands for a process, or for a thread of one.
//!
//! * `seqcst.rs`: the atomics. Loom takes sequentially consistent accesses for acquire and release; here they are exact.
//! * `os/futex.rs`: a wait that only a wake ends, so that a lost wake is a deadlock, which loom reports.
//! * `models/*`: each model says in its head what it shows.
//!
//! A model is only worth something if it can fail. So each is run with a rule dropped (`PWAL_MUTANT`, `docs/mutants.md`), which it has to
//! notice: a step left out in the source, or one kind of ordering weakened everywhere (`orders-*`, in `seqcst.rs`).
//!
//! `cargo test -p pwal-models` is the short form; `PWAL_TEST_PREEMPTIONS=4` the long one (the short form's number is each model's own).

#[allow(dead_code, reason = "a model uses a part of the room")]
mod engine;
mod interleave;
pub mod models;
#[path = "../../src/mutants.rs"]
mod mutants;
#[allow(dead_code, reason = "a model uses a part of the room")]
mod os;
mod seqcst;
#[allow(dead_code, reason = "a model uses a part of the room")]
mod shared;
mod sync;

pub(crate) use mutants::drops;
