//! What a fresh process finds of one log: its slots, its certificates, and the chain of its batches.
//!
//! Nothing here decides or writes. Every block is probed, because a certificate behind damage still tells
//! what was durable, and because B + 1 may begin anywhere in a recycled slot.

use super::error::LogError;
use super::follow::{ImageRef, OpenFile, ReadAhead, SlotReader, Spills, proven};
use super::format::{
    BATCH_HEADER_BYTES, BLOCK_BYTES_MIN, Batch, CERTIFICATE_BYTES, Certificate, CertificatePlace, FileName,
    FormatError, ImagePlace, LogId, Rule, decode_batch, decode_batch_header, embedded_certificate,
};
use crate::disk::{LogDirectory, OpenHow};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

/// Slots are read in pieces of so many bytes while they are probed: a multiple of every block.
const PROBE_PIECE_BYTES: usize = 1 << 20;

/// Blocks between two batches that are no certificates: those of a doubled one that was not synced.
const MISSED_BLOCKS_MAX: u32 = 2;

/// A slot file of a log.
#[derive(Debug)]
pub(crate) struct FoundSlot {
    pub(crate) open: OpenFile,
    /// With a header that proves itself; without it the slot is free.
    pub(crate) reader: Option<SlotReader>,
}

/// A batch whose head proves itself, found by probing.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Candidate {
    pub(crate) slot: usize,
    pub(crate) offset: u64,
    pub(crate) sequence: u64,
}

/// What a probe meets, in the order of the file.
pub(crate) enum Probed<'a> {
    /// A certificate of this log; in a batch, or in a block of its own.
    Certificate { offset: u64, certificate: &'a Certificate, in_batch: bool },
    /// A batch whose head proves itself.
    Batch { offset: u64, batch: &'a Batch },
    /// A batch that was begun there, and whose head does not prove itself.
    Broken { offset: u64, sequence: u64, error: FormatError },
}

/// A batch whose head does not prove itself, found by probing.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Broken {
    pub(crate) slot: usize,
    pub(crate) offset: u64,
    pub(crate) sequence: u64,
    pub(crate) error: FormatError,
}

/// Everything of one log id.
#[derive(Debug)]
pub(crate) struct FoundLog {
    pub(crate) log_id: LogId,
    pub(crate) slots: Vec<FoundSlot>,
    pub(crate) spills: Spills,
    /// n of each marker.
    pub(crate) markers: BTreeSet<u64>,
    pub(crate) candidates: Vec<Candidate>,
    pub(crate) broken: Vec<Broken>,
    /// B, the maximum over the certificates.
    pub(crate) backfilled: u64,
    /// D, the maximum over the certificates.
    pub(crate) durable: u64,
}

/// The chain of batches from one commit on.
#[derive(Clone, Debug)]
pub(crate) struct Walk {
    /// The first commit of it minus 1.
    pub(crate) base: u64,
    /// Where its batches lie, in order: index of the slot, offset.
    pub(crate) batches: Vec<(usize, u64)>,
    /// The size of the database behind the last batch, in pages; 0 without a batch.
    pub(crate) database_pages: u32,
    /// Where the next batch should begin: index of the slot, offset. `None` without a batch.
    pub(crate) end: Option<(usize, u64)>,
    /// Why it ends there, if a batch of the next commit was begun and does not prove itself.
    pub(crate) torn: Option<TornTail>,
}

/// The place where a batch was begun and does not prove itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TornTail {
    /// The slot file.
    pub file: PathBuf,
    /// The offset of the batch in bytes.
    pub offset: u64,
    /// What does not hold of it.
    pub reason: String,
}

impl Walk {
    /// n: the last commit of the chain.
    pub(crate) fn last(&self) -> u64 {
        self.base + self.batches.len() as u64
    }

    fn empty(base: u64) -> Walk {
        Walk { base, batches: Vec::new(), database_pages: 0, end: None, torn: None }
    }
}

/// The log ids that the names in a directory speak of.
pub(crate) fn log_ids(names: &[String]) -> BTreeSet<LogId> {
    names.iter().filter_map(|name| FileName::parse(name)?.log_id()).collect()
}

impl FoundLog {
    /// Opens the files of `log_id` among `names`, reads the headers, and probes every block.
    pub(crate) fn read(
        dir: &dyn LogDirectory,
        names: &[String],
        log_id: LogId,
        how: OpenHow,
    ) -> Result<FoundLog, LogError> {
        let mut log = FoundLog::open(dir, names, log_id, how)?;
        let (mut backfilled, mut durable, mut candidates, mut broken) = (0, 0, Vec::new(), Vec::new());
        for slot in 0..log.slots.len() {
            log.probe(slot, &mut |probed| match probed {
                Probed::Certificate { certificate, .. } => {
                    backfilled = backfilled.max(certificate.backfilled);
                    durable = durable.max(certificate.durable);
                }
                Probed::Batch { offset, batch } => {
                    candidates.push(Candidate { slot, offset, sequence: batch.header.sequence });
                }
                Probed::Broken { offset, sequence, error } => {
                    broken.push(Broken { slot, offset, sequence, error });
                }
            })?;
        }
        (log.backfilled, log.durable, log.candidates, log.broken) = (backfilled, durable, candidates, broken);
        Ok(log)
    }

    /// As [`FoundLog::read`] without the probing.
    pub(crate) fn open(
        dir: &dyn LogDirectory,
        names: &[String],
        log_id: LogId,
        how: OpenHow,
    ) -> Result<FoundLog, LogError> {
        let mut log = FoundLog {
            log_id,
            slots: Vec::new(),
            spills: BTreeMap::new(),
            markers: BTreeSet::new(),
            candidates: Vec::new(),
            broken: Vec::new(),
            backfilled: 0,
            durable: 0,
        };
        for name in names {
            let Some(parsed) = FileName::parse(name).filter(|parsed| parsed.log_id() == Some(log_id)) else { continue };
            let path = dir.path().join(name);
            let open = || -> Result<OpenFile, LogError> {
                let file = dir.open(name, how).map_err(|error| LogError::io("open", &path, error))?;
                Ok(OpenFile { path: path.clone(), file: Arc::new(ReadAhead::new(file)) })
            };
            match parsed {
                FileName::Slot { .. } => {
                    let open = open()?;
                    let reader = proven(SlotReader::new(open.clone(), log_id))?;
                    let bytes = reader.as_ref().map(|reader| reader.header.page_bytes);
                    // One log has one page size; else an image could prove itself and not fit.
                    if bytes.is_some() && log.page_bytes().is_some() && bytes != log.page_bytes() {
                        return Err(LogError::record(&open.path, 0, Rule::SlotPlace.into()));
                    }
                    log.slots.push(FoundSlot { open, reader });
                }
                FileName::Spill { number, .. } => {
                    log.spills.insert(number, open()?);
                }
                FileName::Marker { last, .. } => {
                    log.markers.insert(last);
                }
                FileName::Lock | FileName::Control => {}
            }
        }
        Ok(log)
    }

    /// The page size of the log in bytes; `None` without a slot header.
    pub(crate) fn page_bytes(&self) -> Option<u32> {
        self.slots.iter().find_map(|slot| Some(slot.reader.as_ref()?.header.page_bytes))
    }

    /// Shows every certificate of this log, and every batch whose head proves itself, in one slot file.
    pub(crate) fn probe(&self, slot: usize, show: &mut dyn FnMut(Probed<'_>)) -> Result<(), LogError> {
        let found = &self.slots[slot];
        let file_bytes = found.open.bytes()?;
        let mut piece = vec![0; PROBE_PIECE_BYTES];
        let mut start = 0;
        while start < file_bytes {
            let read = found.open.read(&mut piece, start)?;
            for (index, block) in piece[..read].chunks(BLOCK_BYTES_MIN as usize).enumerate() {
                let at = index * BLOCK_BYTES_MIN as usize;
                self.probe_block(found, start + at as u64, block, &piece[at..read], show)?;
            }
            start += PROBE_PIECE_BYTES as u64;
        }
        Ok(())
    }

    fn probe_block(
        &self,
        found: &FoundSlot,
        offset: u64,
        block: &[u8],
        rest: &[u8],
        show: &mut dyn FnMut(Probed<'_>),
    ) -> Result<(), LogError> {
        if block.iter().take(8).all(|&byte| byte == 0) {
            return Ok(());
        }
        // What an older segment of the slot left is true, too.
        let place = CertificatePlace { log_id: self.log_id, ordinal: None, offset };
        let (certificate, in_batch) = match embedded_certificate(block, &place) {
            Some(embedded) => (Some(embedded), true),
            None => (block.get(..CERTIFICATE_BYTES).map(|bytes| Certificate::decode(bytes, &place)), false),
        };
        match certificate {
            Some(Ok(certificate)) => show(Probed::Certificate { offset, certificate: &certificate, in_batch }),
            Some(Err(error)) if error.is_other_version() => {
                return Err(LogError::record(&found.open.path, offset, error));
            }
            _ => {}
        }
        let Some(reader) = &found.reader else { return Ok(()) };
        if offset == 0 || !offset.is_multiple_of(u64::from(reader.header.block_bytes)) {
            return Ok(());
        }
        let place = reader.place(offset);
        let Some(header) = block.get(..BATCH_HEADER_BYTES) else { return Ok(()) };
        let Ok(claimed) = decode_batch_header(header, &place) else { return Ok(()) };
        let batch = match rest.get(..claimed.head_bytes) {
            Some(head) => decode_batch(head, &place).map_err(|error| LogError::record(&found.open.path, offset, error)),
            None => reader.head_at(offset),
        };
        match batch {
            Ok(batch) => show(Probed::Batch { offset, batch: &batch }),
            Err(LogError::Record { source: error, .. }) => {
                show(Probed::Broken { offset, sequence: claimed.sequence, error });
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Whether the log holds commits: a batch that proves itself whole, or a certificate that speaks of durable
    /// commits (then there were batches, and something rotted).
    pub(crate) fn has_commits(&self) -> Result<bool, LogError> {
        if self.durable > 0 {
            return Ok(true);
        }
        for candidate in &self.candidates {
            if let Some(reader) = &self.slots[candidate.slot].reader
                && proven(reader.batch_at(candidate.offset, &self.spills))?.is_some()
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The longest chain of batches from commit `base + 1` on (rules W1 to W5).
    pub(crate) fn walk(&self, base: u64) -> Result<Walk, LogError> {
        let mut best = Walk::empty(base);
        let first = |candidate: &&Candidate| Some(candidate.sequence) == base.checked_add(1);
        let mut beginnings: Vec<Candidate> = self.candidates.iter().filter(first).copied().collect();
        // Of chains as long as each other the first counts: a writer that died may have begun the next segment with this
        // commit, before another one was published in the segment that it had left.
        beginnings
            .sort_by_key(|candidate| self.slots[candidate.slot].reader.as_ref().map(|reader| reader.header.ordinal));
        for first in beginnings {
            let walk = self.walk_from(base, first)?;
            if walk.batches.len() > best.batches.len() || (best.batches.is_empty() && best.torn.is_none()) {
                best = walk;
            }
        }
        if best.torn.is_none() {
            let next = best.last().checked_add(1);
            best.torn = self.broken.iter().find(|broken| Some(broken.sequence) == next).map(|broken| TornTail {
                file: self.slots[broken.slot].open.path.clone(),
                offset: broken.offset,
                reason: broken.error.to_string(),
            });
        }
        Ok(best)
    }

    fn walk_from(&self, base: u64, first: Candidate) -> Result<Walk, LogError> {
        let mut walk = Walk::empty(base);
        let Some(reader) = &self.slots[first.slot].reader else { return Ok(walk) };
        let mut next = match reader.batch_at(first.offset, &self.spills) {
            // W1: before commit 1 the chain value is the log id.
            Ok(batch) if base > 0 || batch.header.chain == self.log_id => Some((first.slot, batch)),
            Ok(_) => None,
            Err(LogError::Record { source, file, offset }) => {
                walk.torn = Some(TornTail { file, offset, reason: source.to_string() });
                None
            }
            Err(error) => return Err(error),
        };
        while let Some((slot, batch)) = next {
            walk.batches.push((slot, batch.header.offset));
            walk.database_pages = batch.header.database_pages;
            walk.end = Some((slot, batch.header.offset + batch.header.bytes));
            next = self.after(slot, &batch, &mut walk.torn)?;
        }
        Ok(walk)
    }

    /// The batch after `batch`: behind it, or in a later segment that begins with it (rules W2 to W4).
    fn after(
        &self,
        slot: usize,
        batch: &Batch,
        torn: &mut Option<TornTail>,
    ) -> Result<Option<(usize, Batch)>, LogError> {
        let Some(sequence) = batch.header.sequence.checked_add(1) else { return Ok(None) };
        let chain = batch.chain_after;
        *torn = None;
        let behind = batch.header.offset + batch.header.bytes;
        if let Some(found) = self.next_in(slot, behind, sequence, chain, torn)? {
            return Ok(Some((slot, found)));
        }
        let mut later: Vec<(u64, usize)> = Vec::new();
        for (index, found) in self.slots.iter().enumerate() {
            if let Some(reader) = &found.reader {
                let header = &reader.header;
                if header.ordinal > batch.header.ordinal && header.first_sequence == sequence && header.chain == chain {
                    later.push((header.ordinal, index));
                }
            }
        }
        later.sort_unstable();
        for (_, index) in later {
            let Some(reader) = &self.slots[index].reader else { continue };
            let start = u64::from(reader.header.block_bytes);
            if let Some(found) = self.next_in(index, start, sequence, chain, torn)? {
                return Ok(Some((index, found)));
            }
        }
        Ok(None)
    }

    /// The batch of commit `sequence` behind `offset` in a slot, over any number of certificates and at most
    /// [`MISSED_BLOCKS_MAX`] blocks that are neither (rule W3).
    fn next_in(
        &self,
        slot: usize,
        offset: u64,
        sequence: u64,
        chain: u64,
        torn: &mut Option<TornTail>,
    ) -> Result<Option<Batch>, LogError> {
        let Some(reader) = &self.slots[slot].reader else { return Ok(None) };
        let block_bytes = u64::from(reader.header.block_bytes);
        let mut offset = offset;
        let mut missed = 0;
        while offset < reader.header.slot_bytes {
            match reader.batch_at(offset, &self.spills) {
                Ok(batch) if batch.header.sequence == sequence && batch.header.chain == chain => {
                    *torn = None;
                    return Ok(Some(batch));
                }
                Ok(_) => {}
                Err(LogError::Record { source, file, offset: at }) => {
                    let begun = proven(reader.claimed_at(offset))?.is_some_and(|claimed| claimed.sequence == sequence);
                    if begun && torn.is_none() {
                        *torn = Some(TornTail { file, offset: at, reason: source.to_string() });
                    }
                }
                Err(error) => return Err(error),
            }
            if proven(reader.certificate_at(offset))?.is_none() {
                if missed == MISSED_BLOCKS_MAX {
                    return Ok(None);
                }
                missed += 1;
            }
            offset += block_bytes;
        }
        Ok(None)
    }

    /// Where the newest image of each page lies along `walk`, leaving out pages beyond the final size.
    pub(crate) fn newest_images(&self, walk: &Walk) -> Result<BTreeMap<u32, (usize, ImageRef)>, LogError> {
        let mut newest = BTreeMap::new();
        for &(slot, offset) in &walk.batches {
            let Some(reader) = &self.slots[slot].reader else { continue };
            let batch = reader.head_at(offset)?;
            for descriptor in batch.descriptors.iter().filter(|descriptor| descriptor.page <= walk.database_pages) {
                let place = match descriptor.place {
                    ImagePlace::Batch(position) => ImagePlace::Batch(offset + position),
                    spilled @ ImagePlace::Spill { .. } => spilled,
                };
                let (page, sequence) = (descriptor.page, batch.header.sequence);
                let (mask, crc) = (descriptor.mask, descriptor.crc);
                newest.insert(page, (slot, ImageRef { place, page, sequence, mask, crc }));
            }
        }
        Ok(newest)
    }
}
