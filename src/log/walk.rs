//! The walk along the chain of batches (rules W1 to W6).
//!
//! It ends with the last batch that is valid and follows the one before. Where it ends may be doubtful: a block that the
//! medium does not give may hold the next commit, or the certificate that says that there was one. Then the walk says so.

use super::error::LogError;
use super::files::Unreadable;
use super::follow::{ImageRef, SegmentReader};
use super::format::{BLOCK_BYTES_MIN, Batch, block_after};
use super::found::{Candidate, Contradiction, Flaw, FoundLog, FoundSegment, HeaderState, TornTail};
use super::seals::Counts;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Blocks between two batches that are no certificates: those of a doubled one that was not synced. The rest of the block
/// in which a batch ends is not counted.
const MISSED_BLOCKS_MAX: u32 = 2;

/// What a walk goes through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Through {
    /// Segments whose headers are whole.
    Headers,
    /// Also segments whose headers are broken and whose batches show what they were: for salvage.
    Batches,
}

/// The chain of batches from one commit on.
#[derive(Clone, Debug)]
pub(crate) struct Walk {
    /// The first commit of it minus 1.
    pub(crate) base: u64,
    /// What it went through.
    pub(crate) through: Through,
    /// Where its batches lie, in order: index of the segment, offset.
    pub(crate) batches: Vec<(usize, u64)>,
    /// The newest image of each page: index of the segment, place. Also of pages beyond the final size.
    pub(crate) newest: BTreeMap<u32, (usize, ImageRef)>,
    /// The size of the database after the last batch, in pages; 0 without a batch.
    pub(crate) database_pages: u32,
    /// Where the next batch should begin: index of the segment, offset. `None` without a batch.
    pub(crate) end: Option<(usize, u64)>,
    /// Why it ends there, if a batch of the next commit was begun and is not valid.
    pub(crate) torn: Option<TornTail>,
    /// What may hold the next commit, or say that there was one, and cannot be read.
    pub(crate) doubt: Option<Unreadable>,
    /// A certificate that does not fit the batches, or another certificate.
    pub(crate) contradiction: Option<Contradiction>,
    /// Whether a certificate names the chain value after the last batch.
    is_confirmed: bool,
}

impl Walk {
    /// n: the last commit of the chain.
    pub(crate) fn last(&self) -> u64 {
        self.base + self.batches.len() as u64
    }

    fn empty(base: u64, through: Through) -> Walk {
        Walk {
            base,
            through,
            batches: Vec::new(),
            newest: BTreeMap::new(),
            database_pages: 0,
            end: None,
            torn: None,
            doubt: None,
            contradiction: None,
            is_confirmed: false,
        }
    }

    fn take(&mut self, segment: usize, batch: &Batch) {
        let offset = batch.header.offset;
        self.batches.push((segment, offset));
        self.database_pages = batch.header.database_pages;
        self.end = Some((segment, offset + batch.header.bytes));
        for descriptor in &batch.descriptors {
            let image = ImageRef::of(batch, descriptor);
            self.newest.insert(descriptor.page, (segment, image));
        }
    }
}

/// Where and how a batch is looked for.
#[derive(Clone, Copy)]
struct Wanted {
    sequence: u64,
    /// The chain value before it; `None`: any.
    chain: Option<u64>,
    through: Through,
}

/// What a search for the batch of one commit met.
#[derive(Default)]
struct Search {
    found: Option<(usize, Arc<Batch>)>,
    /// A batch of that commit was begun and is not valid.
    torn: Option<TornTail>,
    /// Could not be read, and may be that batch.
    unread: Option<Unreadable>,
    /// It was found in another segment, after something that may be it.
    crossed: Option<Unreadable>,
    /// A whole batch of that commit that a certificate denies (rule W6).
    denied: Option<(usize, Arc<Batch>, Contradiction)>,
}

impl FoundLog<'_> {
    /// The longest chain of batches from commit `base + 1` on (rules W1 to W6).
    pub(crate) fn walk(&self, base: u64, through: Through) -> Result<Walk, LogError> {
        let mut best = Walk::empty(base, through);
        let is_first = |candidate: &&Candidate| Some(candidate.sequence) == base.checked_add(1);
        let mut beginnings: Vec<Candidate> = self.candidates.iter().filter(is_first).cloned().collect();
        // Of chains as long as each other the first counts: a writer that died may have begun the next segment with this
        // commit, before another one was published in the segment that it had left.
        beginnings.sort_by_key(|candidate| if crate::drops("w1-earliest") { 0 } else { candidate.ordinal });
        for first in beginnings {
            let walk = self.walk_from(base, first, through)?;
            let is_longer = walk.batches.len() > best.batches.len() && !crate::drops("w1-longest");
            if is_longer || (best.batches.is_empty() && best.torn.is_none()) {
                best = walk;
            }
        }
        if best.torn.is_none() {
            best.torn = self.torn_behind(&best);
        }
        if best.doubt.is_none() {
            best.doubt = self.doubt(&best)?;
        }
        if best.contradiction.is_none() {
            best.contradiction.clone_from(&self.contradiction);
        }
        Ok(best)
    }

    pub(crate) fn reader(&self, segment: usize, through: Through) -> Option<&SegmentReader<'_>> {
        self.segments.get(segment)?.reader(through == Through::Batches)
    }

    fn walk_from(&self, base: u64, first: Candidate, through: Through) -> Result<Walk, LogError> {
        let mut walk = Walk::empty(base, through);
        let mut counts = Counts::from(base);
        let mut search = Search::default();
        // W1: before commit 1 the chain value is the log id.
        if base > 0 || first.chain == self.log_id || crate::drops("w1-log-id") {
            let wanted = Wanted { sequence: first.sequence, chain: None, through };
            self.look(&mut search, first.segment, first.offset, wanted)?;
        }
        let mut crossed = None;
        while let Some((segment, batch)) = search.found.take() {
            crossed = search.crossed.take();
            walk.take(segment, &batch);
            walk.is_confirmed = self.is_confirmed(&batch);
            if let Some(reader) = self.reader(segment, through)
                && let Some(wrong) = self.count(&mut counts, base, reader, &batch)
            {
                walk.contradiction.get_or_insert(wrong);
            }
            search = self.after(segment, &batch, through)?;
        }
        // The batch in another segment may be that of a writer that died, where nothing confirms it.
        let crossed = crossed.filter(|_| !walk.is_confirmed && !crate::drops("u5"));
        walk.doubt = search.unread.filter(|_| !crate::drops("u1")).or(crossed);
        walk.torn = search.torn;
        if let Some((segment, batch, contradiction)) = search.denied {
            // Where the log continues after it, the certificate cannot be of another commit of that number.
            if self.after(segment, &batch, through)?.found.is_some() && !crate::drops("e1") {
                walk.contradiction.get_or_insert_with(|| contradiction.clone());
            }
            let (file, offset) = (self.segments[segment].open.path.clone(), batch.header.offset);
            let place = format!("{}, byte {}", contradiction.file.display(), contradiction.offset);
            let reason = format!("rule {}, {place}: {}", contradiction.rule, contradiction.what);
            walk.torn = Some(TornTail { file, offset, reason });
        }
        Ok(walk)
    }

    /// The batch after `batch`.
    fn after(&self, segment: usize, batch: &Batch, through: Through) -> Result<Search, LogError> {
        let Some(sequence) = batch.header.sequence.checked_add(1) else { return Ok(Search::default()) };
        let wanted = Wanted { sequence, chain: Some(batch.chain_after), through };
        self.search(segment, batch.header.offset + batch.header.bytes, batch.header.ordinal, wanted)
    }

    /// After `offset` in a segment file, or in a later segment that begins with the commit (rules W2 to W4).
    fn search(&self, segment: usize, offset: u64, ordinal: u64, wanted: Wanted) -> Result<Search, LogError> {
        let mut search = Search::default();
        self.scan(&mut search, segment, offset, wanted)?;
        if search.found.is_some() {
            return Ok(search);
        }
        let mut later: Vec<(u64, usize, u64)> = Vec::new();
        for index in 0..self.segments.len() {
            let Some(reader) = self.reader(index, wanted.through) else { continue };
            let header = &reader.header;
            let is_chained = Some(header.chain) == wanted.chain || crate::drops("w4-chain");
            let is_next = (header.first_sequence == wanted.sequence || crate::drops("w4-first")) && is_chained;
            if (header.ordinal > ordinal || crate::drops("w4-later")) && is_next {
                later.push((header.ordinal, index, u64::from(header.block_bytes)));
            }
        }
        if !crate::drops("w4-order") {
            later.sort_unstable();
        }
        for (_, index, start) in later {
            let passed = search.unread.clone();
            self.scan(&mut search, index, start, wanted)?;
            if search.found.is_some() {
                search.crossed = passed;
                break;
            }
        }
        Ok(search)
    }

    /// At `offset` in a segment, or else at the beginning of a block after it, past any number of certificates and at most
    /// [`MISSED_BLOCKS_MAX`] blocks that are neither (rule W3).
    fn scan(&self, search: &mut Search, segment: usize, offset: u64, wanted: Wanted) -> Result<(), LogError> {
        let Some(reader) = self.reader(segment, wanted.through) else { return Ok(()) };
        let (block_bytes, end) = (u64::from(reader.header.block_bytes), reader.header.segment_bytes);
        let block_after = |offset| reader.block_after(offset);
        let mut offset = offset;
        let mut missed = 0;
        while offset < end {
            let candidate = self.candidate(segment, offset);
            let is_chained = |it: &Candidate| Some(it.chain) == wanted.chain || crate::drops("w2-chain");
            if candidate.is_some_and(|it| it.sequence == wanted.sequence && is_chained(it)) {
                self.look(search, segment, offset, wanted)?;
                if search.found.is_some() {
                    return Ok(());
                }
            }
            let broken = self.broken_at(segment, offset).filter(|broken| broken.sequence == wanted.sequence);
            match broken.map(|broken| &broken.flaw) {
                Some(Flaw::Rule(error)) => {
                    let file = self.segments[segment].open.path.clone();
                    search.torn.get_or_insert(TornTail { file, offset, reason: error.to_string() });
                }
                Some(Flaw::Unreadable(error)) => self.segments[segment].note_unread(search, offset, error),
                None => {}
            }
            if !self.is_certificate(segment, offset) || crate::drops("w3-certificates") {
                match self.segments[segment].unreadable_in(offset, block_after(offset) - offset) {
                    // It may have been a certificate, as well.
                    Some(unread) => {
                        search.unread.get_or_insert_with(|| unread.clone());
                    }
                    None if !offset.is_multiple_of(block_bytes) => {}
                    None if missed == if crate::drops("w3-missed") { 0 } else { MISSED_BLOCKS_MAX }
                        && !crate::drops("w3-missed-bound") =>
                    {
                        return Ok(());
                    }
                    None => missed += 1,
                }
            }
            offset = block_after(offset);
        }
        Ok(())
    }

    /// `offset`, or the first block after it and the certificates that follow there.
    pub(super) fn after_certificates(&self, segment: usize, mut offset: u64) -> u64 {
        let block_bytes = self.block_bytes().unwrap_or(BLOCK_BYTES_MIN);
        while self.is_certificate(segment, offset) {
            offset = block_after(offset, block_bytes);
        }
        offset
    }

    fn is_certificate(&self, segment: usize, offset: u64) -> bool {
        self.certificates.binary_search(&(segment, offset)).is_ok()
    }

    /// Verifies a batch whose head is valid.
    fn look(&self, search: &mut Search, segment: usize, offset: u64, wanted: Wanted) -> Result<(), LogError> {
        let Some(reader) = self.reader(segment, wanted.through) else { return Ok(()) };
        let verified = self.candidate(segment, offset).and_then(|it| it.whole.clone());
        let batch = match verified.map_or_else(|| reader.batch_at(offset, &self.spills).map(Arc::new), Ok) {
            Ok(batch) => batch,
            Err(LogError::Record { source, file, offset }) => {
                search.torn.get_or_insert(TornTail { file, offset, reason: source.to_string() });
                return Ok(());
            }
            Err(error) => match error.unreadable_at(&reader.open.path, offset) {
                Some(unread) => {
                    search.unread.get_or_insert(unread);
                    return Ok(());
                }
                None => return Err(error),
            },
        };
        let is_chained = wanted.chain.is_none_or(|chain| chain == batch.header.chain) || crate::drops("w2-chain");
        if batch.header.sequence != wanted.sequence || !is_chained {
            return Ok(());
        }
        if crate::drops("w5") && batch.header.certificate.is_none() && !self.is_confirmed(&batch) {
            return Ok(());
        }
        match self.denied(&batch).filter(|_| !crate::drops("w6")) {
            Some(contradiction) => {
                search.denied.get_or_insert((segment, batch, contradiction));
            }
            None => search.found = Some((segment, batch)),
        }
        Ok(())
    }

    /// A batch of the next commit that is not valid, wherever it was begun.
    fn torn_behind(&self, walk: &Walk) -> Option<TornTail> {
        let next = walk.last().checked_add(1)?;
        let begun = self.broken.iter().filter(|broken| broken.sequence == next);
        let torn = begun.filter_map(|broken| match &broken.flaw {
            Flaw::Rule(error) => Some((broken.segment, broken.offset, error.to_string())),
            Flaw::Unreadable(_) => None,
        });
        // A segment whose header is broken: what follows it is not walked.
        let headless = self.segments.iter().enumerate().filter(|(_, segment)| {
            segment.state == HeaderState::Broken && walk.through == Through::Headers && !self.is_before(segment, walk)
        });
        let headless = headless.map(|(segment, found)| {
            let what = match &found.inferred {
                Some(reader) => format!(", and commit {} lies after it", reader.header.first_sequence),
                None => String::new(),
            };
            (segment, 0, format!("the header of this segment is broken{what}"))
        });
        let (segment, offset, reason) = torn.chain(headless).next()?;
        Some(TornTail { file: self.segments[segment].open.path.clone(), offset, reason })
    }

    /// Whether the segment in a segment file without a header is known to lie before the end of the walk.
    fn is_before(&self, segment: &FoundSegment<'_>, walk: &Walk) -> bool {
        let end = walk.end.map(|(segment, _)| segment).or_else(|| self.resume(walk.base).map(|(segment, ..)| segment));
        let end = end.and_then(|segment| self.reader(segment, walk.through)).map(|reader| reader.header.ordinal);
        segment.first_ordinal.zip(end).is_some_and(|(ordinal, end)| ordinal <= end)
    }

    /// Where commit `base + 1` would follow, and the chain value before it: after the newest certificate that ends with
    /// `base`, or where the log began.
    pub(super) fn resume(&self, base: u64) -> Option<(usize, u64, u64)> {
        if let Some(newest) = self.epochs.iter().rev().find(|epoch| epoch.hi == base) {
            let header = &self.segments[newest.segment].reader.as_ref()?.header;
            if header.ordinal != newest.ordinal {
                return None;
            }
            let first = block_after(newest.offset, header.block_bytes);
            let end = match newest.in_batch {
                true => self.candidate(newest.segment, newest.offset)?.end,
                false if newest.has_second => block_after(first, header.block_bytes),
                false => first,
            };
            return Some((newest.segment, end, newest.chain));
        }
        let is_first = |segment: &FoundSegment<'_>| {
            let header = &segment.reader.as_ref()?.header;
            let begins = base == 0 && header.first_sequence == 1 && header.chain == self.log_id;
            begins.then_some((header.ordinal, u64::from(header.block_bytes)))
        };
        let segments = self.segments.iter().enumerate();
        let first =
            segments.filter_map(|(index, segment)| is_first(segment).map(|(ordinal, start)| (ordinal, index, start)));
        first.min().map(|(_, index, start)| (index, start, self.log_id))
    }

    /// What cannot be read, and may hold the next commit or a certificate that speaks of it.
    fn doubt(&self, walk: &Walk) -> Result<Option<Unreadable>, LogError> {
        let Some(anything) = self.unreadable().next() else { return Ok(None) };
        let Some(next) = walk.last().checked_add(1) else { return Ok(None) };
        for broken in self.broken.iter().filter(|broken| broken.sequence == next) {
            if let Flaw::Unreadable(error) = &broken.flaw {
                return Ok(Some(self.segments[broken.segment].unread(broken.offset, error)));
            }
        }
        // A segment file that may be a later segment: unless the first record in it says that it is not.
        let headless = self
            .segments
            .iter()
            .find(|segment| segment.state == HeaderState::Unreadable && !self.is_before(segment, walk));
        if let Some(unread) = headless.and_then(|segment| segment.unreadable.first())
            && !crate::drops("u3")
        {
            return Ok(Some(unread.clone()));
        }
        // Where the walk begins.
        if crate::drops("u2") {
        } else if let Some((segment, offset, chain)) = self.resume(walk.base) {
            let Some(reader) = self.reader(segment, walk.through) else { return Ok(Some(anything.clone())) };
            let wanted = Wanted { sequence: walk.base.saturating_add(1), chain: Some(chain), through: walk.through };
            let search = self.search(segment, offset, reader.header.ordinal, wanted)?;
            let missed = if walk.batches.is_empty() { search.unread } else { search.crossed };
            if missed.is_some() && !(walk.batches.len() > 1 || walk.is_confirmed) {
                return Ok(missed);
            }
        } else if walk.batches.is_empty() {
            return Ok(Some(anything.clone()));
        }
        // A commit that was begun may have been durable: the certificate that says so follows it.
        if walk.torn.is_some() && !crate::drops("u4") {
            return Ok(self.unread_behind(walk).cloned());
        }
        Ok(None)
    }

    fn unread_behind(&self, walk: &Walk) -> Option<&Unreadable> {
        let end = walk.end.or_else(|| self.resume(walk.base).map(|(segment, offset, _)| (segment, offset)));
        let Some((segment, offset)) = end else { return self.unreadable().next() };
        let ordinal = self.reader(segment, walk.through).map_or(0, |reader| reader.header.ordinal);
        self.segments.iter().enumerate().find_map(|(index, found)| {
            let from = match found.reader(true) {
                _ if index == segment => offset,
                Some(reader) if reader.header.ordinal > ordinal => 0,
                None if found.state != HeaderState::Free => 0,
                _ => return None,
            };
            found.unreadable.iter().find(|unread| unread.offset.saturating_add(unread.bytes) > from)
        })
    }
}

impl FoundSegment<'_> {
    fn unread(&self, offset: u64, error: &str) -> Unreadable {
        Unreadable { file: self.open.path.clone(), offset, bytes: u64::from(BLOCK_BYTES_MIN), error: error.to_owned() }
    }

    fn note_unread(&self, search: &mut Search, offset: u64, error: &str) {
        search.unread.get_or_insert_with(|| self.unread(offset, error));
    }

    fn unreadable_in(&self, offset: u64, bytes: u64) -> Option<&Unreadable> {
        self.unreadable.iter().find(|unread| {
            unread.offset < offset.saturating_add(bytes) && unread.offset.saturating_add(unread.bytes) > offset
        })
    }
}
