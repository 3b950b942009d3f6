//! What the certificate of an epoch says of its commits, counted before it is written.

use std::collections::HashSet;

/// What the certificate of the next epoch will say of it.
#[derive(Debug, Default)]
pub(crate) struct EpochCounts {
    /// Of the commits after this one,
    pub(super) after: u64,
    /// up to this one.
    pub(super) through: u64,
    pub(crate) batches: u32,
    pub(crate) frames: u64,
    pub(crate) pages: HashSet<u32>,
    pub(crate) lane_frames: Vec<u32>,
}

impl EpochCounts {
    /// Nothing is counted yet of the commits after `after`.
    pub(super) fn after(after: u64) -> EpochCounts {
        EpochCounts { after, through: after, ..EpochCounts::default() }
    }

    /// Counts one more batch.
    pub(crate) fn add(&mut self, lane: u16, pages: impl ExactSizeIterator<Item = u32>) {
        self.batches += 1;
        self.frames += pages.len() as u64;
        let lane = usize::from(lane);
        if self.lane_frames.len() <= lane {
            self.lane_frames.resize(lane + 1, 0);
        }
        let frames = u32::try_from(pages.len()).unwrap_or(u32::MAX);
        self.lane_frames[lane] = self.lane_frames[lane].saturating_add(frames);
        self.pages.extend(pages);
    }
}
