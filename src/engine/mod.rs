//! The engine: what one process holds for one open database. Commits, epochs, snapshots, the
//! write queue, checkpoints.
//!
//! It promises the rules R1 to R9 of `docs/architecture.md`; it knows no SQLite but its result codes.
//! Order of its locks: CKPT > WRITE > LEADER > CREATE (of this process) > APPEND.

mod activate;
mod append;
mod background;
mod batch_images;
#[cfg(test)]
mod by_hand;
mod checkpoint;
mod commit;
mod connections;
mod context;
mod durability;
mod epoch_counts;
mod error;
mod exclusive;
mod flush;
mod follow;
mod frames;
mod freelist;
mod images;
mod lanes;
mod leader;
mod lease;
mod lifecycle;
mod limits;
mod log_frames;
mod marks;
mod membership;
mod on_demand;
mod owner_lock;
mod page_index;
mod page_one;
#[cfg(test)]
mod pair_tests;
mod parts;
mod poison;
mod pool;
mod queue;
mod reader;
mod recent;
mod reservation;
mod rest;
mod segment_file;
mod segment_files;
mod segments;
mod settings;
mod shortage;
mod space;
mod spills;
mod status;
mod stopping;
mod tail;
mod turn;
mod undurable;
mod validation;
mod wakes;

pub(crate) use activate::has_stock_wal;
#[cfg(all(test, feature = "linked"))]
pub(crate) use by_hand::Work;
pub(crate) use commit::{CommitFacts, PreparedBatch};
pub(crate) use connections::Connection;
pub(crate) use context::ConcurrentCounters;
pub(crate) use error::EngineError;
pub(crate) use flush::SelfSealed;
pub(crate) use freelist::Freelist;
#[cfg(test)]
pub(crate) use lease::Stall;
pub(crate) use lifecycle::{ClaimedDatabase, SharedDatabase};
#[cfg(test)]
pub(crate) use marks::Marks;
pub(crate) use membership::INIT_WAIT;
pub(crate) use parts::Engine;
pub(crate) use rest::Rest;
pub(crate) use settings::{JOURNAL_SIZE_LIMIT, Mode, Settings, UNLIMITED};
pub(crate) use validation::WrittenPage;
pub(crate) use wakes::KeptWake;
