//! What is not known to be durable, and can be: proven by its CRCs and written again, the same bytes, to be synced by the
//! caller.
//!
//! A leader that died in a flush, or was passed over, may have got the only report of a failed write-back: Linux reports
//! one once to each open file. A sync of another process proves nothing then, but for what it has written itself. Written
//! again are the batches and certificates after the last durable one, the headers of the segments that began since, and
//! the zeros after the tail of each that ended. What cannot be read poisons the log.

use super::context::LogContext;
use super::error::EngineError;
use super::poison::{Failed, Poison};
use super::segment_files::SegmentFiles;
use super::tail::AppendGuard;
use crate::log::format::{Certificate, CertificatePlace, ImagePlace, encode_batch, image_crc};
use crate::shared::{CommitEntry, EpochRecord};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Bytes of a batch that are written again in one write, and a page more.
const WRITTEN_AT_ONCE: usize = 1 << 20;

/// Writes again what is not known to be durable.
pub(super) struct Undurable {
    log: Arc<LogContext>,
    files: Arc<SegmentFiles>,
    poison: Arc<Poison>,
}

impl Undurable {
    pub(super) fn new(log: &Arc<LogContext>, files: &Arc<SegmentFiles>, poison: &Arc<Poison>) -> Undurable {
        Undurable { log: Arc::clone(log), files: Arc::clone(files), poison: Arc::clone(poison) }
    }

    /// Under LEADER: what is not known to be durable is proven and written again, or the engine is poisoned.
    pub(super) fn prove(&self, append: &AppendGuard) -> Result<(), EngineError> {
        self.log.check_poison()?;
        if let Err(error) = self.write_again() {
            if error.is_open_failure() {
                return Err(error);
            }
            self.poison.poison(
                append,
                &format!("what a process left that died in a flush cannot be read: {error}"),
                Failed::Flush,
            );
            return Err(self.log.poisoned_as(error));
        }
        crate::interleave::step("written again");
        self.log.marks.control().set_sync_in_doubt(false);
        Ok(())
    }

    fn write_again(&self) -> Result<(), EngineError> {
        let (control, block) = (self.log.marks.control(), u64::from(self.log.block_bytes));
        // The records, by segment and offset: file and end. A certificate in a batch is no longer than that.
        let mut records: BTreeMap<(u64, u64), (u32, u64)> = BTreeMap::new();
        let mut lies = |ordinal: u64, file: u32, offset: u64, end: u64| {
            let before = records.entry((ordinal, offset)).or_insert((file, end));
            before.1 = before.1.max(end);
        };
        let certified = control.certified_epoch().map(|record| (record.ordinal, record.offset));
        if let Some(record) = control.certified_epoch() {
            // If the certificate lies in a batch, the end of the batch counts. A segment before it may have been
            // overwritten.
            let in_batch = control
                .commit(record.hi)
                .filter(|entry| (entry.ordinal, entry.offset) == (record.ordinal, record.offset));
            let end = in_batch.map_or(record.end(block), |entry| entry.end);
            lies(record.ordinal, record.segment, record.offset, end);
        }
        for sequence in self.log.marks.durable() + 1..=control.published() {
            let entry = control.commit(sequence).ok_or_else(|| self.log.no_commit(sequence))?;
            lies(entry.ordinal, entry.segment, entry.offset, entry.end);
            if !crate::drops("taker-batches-again") {
                self.prove_batch(&entry)?;
            }
        }
        for epoch in control.last_certified_epoch() + 1..=control.last_written_epoch() {
            let record = control.epoch(epoch).ok_or(EngineError::NoLog)?;
            lies(record.ordinal, record.segment, record.offset, record.end(block));
            let in_batch = control.commit(record.hi).is_some_and(|entry| {
                entry.has_certificate && (entry.segment, entry.offset) == (record.segment, record.offset)
            });
            if !in_batch && !crate::drops("taker-certificate-again") {
                self.prove_certificate(&record)?;
            }
        }
        let mut ends: BTreeMap<u64, (u32, u64)> = BTreeMap::new();
        // Where the record before ends, if it is not durable.
        let mut before = None;
        for ((ordinal, offset), (number, end)) in records {
            // Before a doubled certificate there are zeros, to its block: a record may have been abandoned there.
            if let Some((_, gap)) = before.filter(|(of, end)| *of == ordinal && *end < offset)
                && !crate::drops("taker-gap-again")
            {
                let zeros = vec![0; usize::try_from(offset - gap).unwrap_or(0)];
                self.files.segment(number)?.write(&zeros, gap)?;
            }
            before = (Some((ordinal, offset)) != certified).then_some((ordinal, end));
            ends.insert(ordinal, (number, end));
        }
        // The headers of the segments that began since, and the zeros after the tail of each segment that ended. The
        // header of the certified segment is durable, with every commit that depends on it: it is not written again.
        let durable = control.certified_epoch().map_or(0, |record| record.ordinal);
        let last = ends.keys().next_back().copied();
        for (ordinal, (number, end)) in ends {
            let segment = self.files.segment(number)?;
            let reader = self.files.reader_of(&segment)?.filter(|reader| reader.header.ordinal == ordinal);
            let header = reader.ok_or_else(|| self.log.no_segment(ordinal))?.header;
            // The first segment's was durable before the log was active.
            let is_durable = ordinal <= durable.max(1) && !crate::drops("taker-leaves-durable-header");
            if !is_durable && !crate::drops("taker-header-again") {
                segment.write(&header.encode(), 0)?;
            }
            if Some(ordinal) != last && end < segment.bytes && !crate::drops("taker-zeros-again") {
                let zeros = vec![0; usize::try_from(self.log.block_after(end) - end).unwrap_or(0)];
                segment.write(&zeros, end)?;
            }
        }
        Ok(())
    }

    /// Reads the batch of this entry, verifies it, and writes the same bytes again, in pieces.
    fn prove_batch(&self, entry: &CommitEntry) -> Result<(), EngineError> {
        let segment = self.files.segment(entry.segment)?;
        let missing = || self.log.no_commit(entry.sequence);
        let batch = self.files.batch_of(entry)?.ok_or_else(missing)?;
        // What was proven of it is all of it: the same bytes.
        let mut piece = encode_batch(&batch.header, &batch.descriptors)?;
        let (mut start, mut image) = (entry.offset, vec![0; self.log.page_bytes as usize]);
        for descriptor in &batch.descriptors {
            // Images in a spill file were durable before this was published.
            let ImagePlace::Batch(at) = descriptor.place else { continue };
            // They lie packed.
            if entry.offset + at != start + piece.len() as u64 {
                return Err(missing());
            }
            let stored = descriptor.form.stored_bytes(image.len());
            let read = segment
                .file
                .read_at(&mut image[..stored], entry.offset + at)
                .map_err(|e| EngineError::read(&self.log.path, e))?;
            piece.extend(&image[..read]);
            descriptor.form.restore(&mut image, 0, at);
            let is_whole =
                read == stored && image_crc(self.log.log_id, descriptor.page, entry.sequence, &image) == descriptor.crc;
            if !is_whole {
                return Err(missing());
            }
            if piece.len() >= WRITTEN_AT_ONCE {
                segment.write(&piece, start)?;
                start += piece.len() as u64;
                piece.clear();
            }
        }
        let padding = (entry.offset + batch.header.bytes).saturating_sub(start + piece.len() as u64);
        if padding >= u64::from(self.log.block_bytes) {
            return Err(missing());
        }
        piece.resize(piece.len() + usize::try_from(padding).unwrap_or(0), 0);
        segment.write(&piece, start)
    }

    /// Reads the certificate of this epoch record, which lies in blocks of its own, verifies it, and writes the same
    /// bytes again.
    fn prove_certificate(&self, record: &EpochRecord) -> Result<(), EngineError> {
        let (segment, block) = (self.files.segment(record.segment)?, u64::from(self.log.block_bytes));
        let mut bytes = vec![0; usize::try_from(record.end(block) - record.offset).unwrap_or(0)];
        let read = segment.file.read_at(&mut bytes, record.offset).map_err(|e| EngineError::read(&self.log.path, e))?;
        let mut is_whole = read == bytes.len();
        for (at, half) in
            (record.offset..).step_by(self.log.block_bytes as usize).zip(bytes.chunks(self.log.block_bytes as usize))
        {
            let place = CertificatePlace { log_id: self.log.log_id, ordinal: Some(record.ordinal), offset: at };
            let certificate = Certificate::decode(half, &place)?;
            is_whole &= (certificate.epoch, certificate.chain) == (record.epoch, record.chain)
                && certificate.copy.is_some() == record.is_doubled
                && certificate.copy.is_none_or(|copy| copy.read(&bytes).is_some());
        }
        if !is_whole {
            return Err(EngineError::NoLog);
        }
        segment.write(&bytes, record.offset)
    }
}
