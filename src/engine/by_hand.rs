//! What an engine's own threads do, done by a test at moments of its choice.

use super::{Engine, Rest, Settings};
use crate::engine::EngineError;
use std::sync::Arc;

/// A piece of work of the engine's own threads.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Work {
    NextSlot,
    Checkpoint,
    IdleCheckpoint,
    Flush,
    Rest,
}

impl Engine {
    pub(crate) fn work_by_hand(self: &Arc<Engine>, work: Work) -> Result<(), EngineError> {
        match work {
            Work::NextSlot if self.is_active() => self.prepare_next_slot(),
            Work::NextSlot => {}
            Work::Checkpoint => self.checkpoint_in_background()?,
            Work::IdleCheckpoint => drop(self.checkpoint_when_idle()?),
            Work::Flush => self.flush_ahead()?,
            Work::Rest => {
                let _either: Rest = self.rest()?;
            }
        }
        Ok(())
    }

    /// Whether the engine is poisoned, and says that commits that were answered with an error may be there.
    pub(crate) fn is_outcome_unknown(&self) -> bool {
        self.marks.control().poison_outcome() == Some(true)
    }

    /// Small slots, and no waiting for other commits.
    pub(crate) fn make_slots_small(&self, segment_bytes: u64) {
        Settings::for_simulation(segment_bytes).copy_to(&self.settings);
    }
}
