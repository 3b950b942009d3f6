//! The room of the control block, without the file that it lies in, the locks of the kernel, and forks.

#[path = "../../../src/shared/control_block.rs"]
mod control_block;
#[path = "../../../src/shared/error.rs"]
mod error;
#[path = "../../../src/shared/event.rs"]
mod event;
#[path = "../../../src/shared/flush_events.rs"]
mod flush_events;
#[path = "../../../src/shared/line.rs"]
mod line;
mod member;
#[path = "../../../src/shared/owner.rs"]
mod owner;
#[path = "../../../src/shared/process_slots.rs"]
mod process_slots;
#[path = "../../../src/shared/reservations.rs"]
mod reservations;
#[path = "../../../src/shared/ring.rs"]
mod ring;
#[path = "../../../src/shared/snapshots.rs"]
mod snapshots;
#[path = "../../../src/shared/watermarks.rs"]
mod watermarks;

pub use control_block::ControlBlock;
pub use error::SharedError;
pub use event::Event;
pub(crate) use member::Member;
pub(crate) use owner::OwnerState;
pub use owner::{Owner, OwnerLock, TIMED_WAIT};
pub use ring::{CommitEntry, EpochRecord, PAGES_INLINE};
