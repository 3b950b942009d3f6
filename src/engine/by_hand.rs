//! What an engine's own threads do, done by a test at moments of its choice.

use super::{Engine, Rest, Settings};
use crate::engine::EngineError;
use std::sync::Arc;

/// A piece of work of the engine's own threads.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Work {
    NextSegment,
    Checkpoint,
    IdleCheckpoint,
    Flush,
    Rest,
}

impl Engine {
    pub(crate) fn work_by_hand(self: &Arc<Engine>, work: Work) -> Result<(), EngineError> {
        match work {
            Work::NextSegment if self.log.is_active() => self.segments.prepare_next_segment(),
            Work::NextSegment => {}
            Work::Checkpoint => self.checkpointer.checkpoint_in_background()?,
            Work::IdleCheckpoint => drop(self.checkpointer.checkpoint_when_idle()?),
            Work::Flush => self.checkpointer.flush_ahead()?,
            Work::Rest => {
                let _either: Rest = self.rest()?;
            }
        }
        Ok(())
    }

    /// Whether the engine is poisoned, and says that commits that were answered with an error may be there.
    pub(crate) fn is_outcome_unknown(&self) -> bool {
        self.log.marks.control().poison_outcome() == Some(true)
    }

    /// Small segments, transactions that spill from a size on, and no waiting for other commits.
    pub(crate) fn make_small(&self, segment_bytes: u64, batch_bytes: u64) {
        let settings = Settings::for_simulation(segment_bytes);
        settings.spill_from(batch_bytes);
        settings.copy_to(&self.log.settings);
    }
}
