//! What certificates say of the batches that they seal, and of each other (rules E1 to E4).
//!
//! A certificate outside of a batch is written when its commits are published: what it says of them is true. One in a
//! batch is only as true as the batch: a writer that died before it published left both.

use super::follow::SegmentReader;
use super::format::{Batch, Certificate, LANES_MAX};
use super::found::{Contradiction, Epoch, FoundLog};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::PathBuf;

/// What is counted along the chain, to be compared with the certificates.
#[derive(Clone, Debug, Default)]
pub(super) struct Counts {
    /// Lane and frames of each commit of the walk, in order.
    commits: Vec<(u16, u32)>,
    /// The pages of the commits after the last certificate, if that ended before the next commit.
    pages: HashSet<u32>,
    pages_from: u64,
}

impl Counts {
    pub(super) fn from(base: u64) -> Counts {
        Counts { pages_from: base, ..Counts::default() }
    }

    pub(super) fn add(&mut self, batch: &Batch) {
        self.commits.push((batch.header.lane, batch.header.frames));
        self.pages.extend(batch.descriptors.iter().map(|descriptor| descriptor.page));
    }

    /// What does not fit in a certificate over commits up to the last one, `batch`; `base`: the commit before the first.
    fn compare(&mut self, base: u64, batch: &Batch, certificate: &Certificate) -> Option<String> {
        let Certificate { epoch, lo, hi, .. } = *certificate;
        if crate::drops("e2-counts") {
            return None;
        }
        if certificate.database_pages != batch.header.database_pages {
            let (stated, there) = (certificate.database_pages, batch.header.database_pages);
            return Some(format!("epoch {epoch} says that the database has {stated} pages, commit {hi} says {there}"));
        }
        // Of a mark, or of an epoch that is in the database file in part, there is nothing to count.
        if certificate.is_mark() || lo <= base {
            return None;
        }
        let first = usize::try_from(lo - base - 1).ok()?;
        let sealed = self.commits.get(first..)?;
        let frames: u64 = sealed.iter().map(|(_, frames)| u64::from(*frames)).sum();
        if frames != certificate.frames {
            let counted = certificate.frames;
            return Some(format!("epoch {epoch} counts {counted} frames, its batches have {frames}"));
        }
        let lanes = lane_frames(sealed);
        if lanes != certificate.lane_frames {
            let counted = &certificate.lane_frames;
            return Some(format!("epoch {epoch} counts {counted:?} frames of its lanes, its batches have {lanes:?}"));
        }
        let pages = (self.pages_from + 1 == lo).then_some(self.pages.len() as u64);
        if pages.is_some_and(|pages| pages != certificate.distinct_pages) {
            let (counted, there) = (certificate.distinct_pages, pages.unwrap_or(0));
            return Some(format!("epoch {epoch} counts {counted} pages, its batches have {there}"));
        }
        None
    }

    /// After `last` another epoch begins.
    fn sealed_to(&mut self, last: u64) {
        self.pages.clear();
        self.pages_from = last;
    }
}

/// The frames of each lane, as a certificate has them: the last one has those of all further lanes.
fn lane_frames(commits: &[(u16, u32)]) -> Vec<u32> {
    let mut lanes: Vec<u32> = Vec::new();
    for (lane, frames) in commits {
        let lane = usize::from(*lane).min(LANES_MAX - 1);
        if lanes.len() <= lane {
            lanes.resize(lane + 1, 0);
        }
        lanes[lane] = lanes[lane].saturating_add(*frames);
    }
    lanes
}

impl FoundLog<'_> {
    /// The certificate outside of a batch that names another chain value after this batch (rule E1).
    pub(super) fn denied(&self, batch: &Batch) -> Option<Contradiction> {
        let sequence = batch.header.sequence;
        let seal = self.seals_of(sequence).find(|seal| seal.certificate.chain != batch.chain_after)?;
        let epoch = seal.certificate.epoch;
        let what = format!("epoch {epoch}: its chain value is not that of commit {sequence}");
        Some(self.contradiction_at("E1", seal.segment, seal.offset, what))
    }

    /// Whether a certificate outside of a batch names the chain value after this batch.
    pub(super) fn is_confirmed(&self, batch: &Batch) -> bool {
        self.seals_of(batch.header.sequence).any(|seal| seal.certificate.chain == batch.chain_after)
    }

    fn seals_of(&self, sequence: u64) -> impl Iterator<Item = &super::found::Seal> {
        self.seals_by_hi.get(&sequence).into_iter().flatten().filter_map(|&index| self.seals.get(index))
    }

    /// Counts a batch of the walk and compares it with what seals it (rule E2).
    pub(super) fn count(
        &self,
        counts: &mut Counts,
        base: u64,
        reader: &SegmentReader<'_>,
        batch: &Batch,
    ) -> Option<Contradiction> {
        counts.add(batch);
        let sequence = batch.header.sequence;
        let mut wrong = None;
        let mut is_end = false;
        for seal in self.seals_of(sequence) {
            is_end |= !seal.certificate.is_mark();
            if let Some(what) = counts.compare(base, batch, &seal.certificate) {
                wrong.get_or_insert_with(|| self.contradiction_at("E2", seal.segment, seal.offset, what));
            }
        }
        if let Some(certificate) = &batch.header.certificate {
            is_end = true;
            if let Some(what) = counts.compare(base, batch, certificate) {
                let (file, offset) = (reader.open.path.clone(), batch.header.offset);
                wrong.get_or_insert(Contradiction { rule: "E2", file, offset, what });
            }
        }
        if is_end {
            counts.sealed_to(sequence);
        }
        wrong
    }

    fn contradiction_at(&self, rule: &'static str, segment: usize, offset: u64, what: String) -> Contradiction {
        let file = self.segments.get(segment).map_or_else(PathBuf::new, |segment| segment.open.path.clone());
        Contradiction { rule, file, offset, what }
    }

    /// Contradictions among the certificates, in order: D never falls (rule E3), a certificate counts as many batches
    /// as it seals (rule E2).
    ///
    /// B may fall: a leader that died before its epoch record has left a doubled certificate with a newer B, and the
    /// next leader seals the same epoch at another place by a certificate that carries the B of the last durable one.
    /// Of one epoch there may be two for the same reason; the order of these is not known.
    pub(super) fn check_epochs(&self) -> Option<Contradiction> {
        for pair in self.epochs.windows(2) {
            let (before, after) = (&pair[0], &pair[1]);
            if before.epoch < after.epoch && after.durable < before.durable && !crate::drops("e3") {
                let what = format!("epoch {} says less of D than epoch {} before it", after.epoch, before.epoch);
                return Some(self.contradiction_at("E3", after.segment, after.offset, what));
            }
        }
        let miscounted = self.epochs.iter().find(|epoch| epoch.hi - (epoch.lo - 1) != u64::from(epoch.batches))?;
        if crate::drops("e2-batches") {
            return None;
        }
        let Epoch { epoch, lo, hi, batches, .. } = *miscounted;
        let what = format!("epoch {epoch} counts {batches} batches for commits {lo} to {hi}");
        Some(self.contradiction_at("E2", miscounted.segment, miscounted.offset, what))
    }

    /// Where an epoch does not follow the one before it (rule E4): for `verify`. The commits of a certificate that rotted
    /// are valid without it.
    pub(crate) fn gaps(&self) -> Vec<Contradiction> {
        let ordinal = |segment: usize| Some(self.segments[segment].reader.as_ref()?.header.ordinal);
        let ordinals: BTreeSet<u64> = (0..self.segments.len()).filter_map(ordinal).collect();
        let mut by_epoch: BTreeMap<u64, Vec<&Epoch>> = BTreeMap::new();
        // What an older segment left is no part of the log any more.
        for epoch in self.epochs.iter().filter(|epoch| ordinal(epoch.segment) == Some(epoch.ordinal)) {
            by_epoch.entry(epoch.epoch).or_default().push(epoch);
        }
        let groups: Vec<(&u64, &Vec<&Epoch>)> = by_epoch.iter().collect();
        let mut gaps = Vec::new();
        for pair in groups.windows(2) {
            let ((before, earlier), (epoch, later)) = (pair[0], pair[1]);
            let Some(first) = later.iter().find(|later| !later.in_batch) else { continue };
            let follows = earlier.iter().any(|earlier| earlier.hi.checked_add(1) == Some(first.lo));
            // A segment in between may have been used again.
            let all_there = earlier
                .iter()
                .any(|earlier| (earlier.ordinal..=first.ordinal).all(|ordinal| ordinals.contains(&ordinal)));
            if !follows && all_there && !crate::drops("e4") {
                let what = if *epoch == before + 1 {
                    format!("epoch {epoch} begins with commit {}, which does not follow epoch {before}", first.lo)
                } else {
                    format!("no certificate of the epochs {} to {}", before + 1, epoch - 1)
                };
                gaps.push(self.contradiction_at("E4", first.segment, first.offset, what));
            }
        }
        gaps
    }
}
