//! The clock and the futex of a model.

mod clock;
pub(crate) mod futex;

pub(crate) use clock::{clock_offset_us, now_us, this_thread};
