//! Probing a segment: every sector that the file system keeps is looked at as a record.
//!
//! A block that the medium does not give is noted, and its neighbours are read by themselves. What a record claims of its
//! length is read only as far as the file has bytes: [`ALLOWANCE_FACTOR`]. Images are verified on the way
//! ([`passing`](super::passing)).

use super::error::LogError;
use super::files::Unreadable;
use super::follow::SegmentReader;
use super::format::{
    BATCH_HEADER_BYTES, BLOCK_BYTES_MIN, Batch, BatchPlace, CERTIFICATE_BYTES, Certificate, CertificatePlace,
    RECORD_PLACE_BYTES, SegmentHeader, batch_place, begins_record, decode_batch, decode_batch_header,
    embedded_certificate, is_block_size,
};
use super::found::FoundCopy;
use super::found::{Broken, Candidate, Epoch, Flaw, FoundLog, FoundSegment, HeaderState, Probed, Seal};
use super::image_cache::ImageCache;
use super::passing::Passing;
use std::ops::Range;
use std::sync::Arc;

const BLOCK: u64 = BLOCK_BYTES_MIN as u64;
/// Segments are probed in pieces of this size: a multiple of every block.
const PIECE_BYTES: usize = 2 << 20;
/// Less than this need not be read beside other work.
const AHEAD_BYTES_MIN: u64 = 512 << 10;
/// Holes are looked for in larger files only: up to here nothing depends on whether the file system knows them rightly.
const WHOLE_BYTES: u64 = 64 << 20;
/// This multiple of the bytes of a segment (without its holes) is read at most for what its records claim. The heads of
/// batches are a small part of a segment, and each generation of a reused segment leaves those that it did not
/// overwrite.
const ALLOWANCE_FACTOR: u64 = 16;
/// And this number of bytes in addition.
const ALLOWANCE_BYTES: u64 = 64 << 20;

/// One segment while it is probed.
struct Probe<'o> {
    segment: usize,
    /// Up to here the blocks are descriptors of a batch whose head is valid.
    head_end: u64,
    /// Bytes that may still be read for what records claim.
    allowance: u64,
    /// Batches in a segment without a header.
    without_header: Vec<Candidate>,
    page_bytes: Option<u32>,
    /// `None` without a header.
    passing: Option<Passing>,
    cache: &'o mut ImageCache,
    observe: &'o mut dyn FnMut(Probed<'_>),
}

impl<'a> FoundLog<'a> {
    pub(super) fn probe_all(
        &mut self,
        page_bytes: Option<u32>,
        cache: &mut ImageCache,
        observe: &mut dyn FnMut(Probed<'_>),
    ) -> Result<(), LogError> {
        let page_bytes = self.page_bytes().or(page_bytes);
        for segment in 0..self.segments.len() {
            let passing = self.segments[segment].reader.as_ref().map(|reader| &reader.header);
            let passing = passing.map(|header| Passing::new(header.log_id, header.page_bytes));
            let without_header = Vec::new();
            let mut probe =
                Probe { segment, head_end: 0, allowance: 0, without_header, page_bytes, passing, cache, observe };
            self.probe(&mut probe)?;
            let without_header = probe.without_header;
            self.infer(segment, page_bytes, without_header);
        }
        self.epochs.sort_by_key(|epoch| (epoch.epoch, epoch.durable, epoch.backfilled));
        self.seals.retain(|seal| seal.certificate.hi > self.backfilled);
        self.certificates.sort_unstable();
        for (index, seal) in self.seals.iter().enumerate() {
            self.seals_by_hi.entry(seal.certificate.hi).or_default().push(index);
        }
        self.contradiction = self.check_epochs();
        Ok(())
    }

    fn probe(&mut self, probe: &mut Probe<'_>) -> Result<(), LogError> {
        let (open, bytes) = (self.segments[probe.segment].open.clone(), self.segments[probe.segment].bytes);
        probe.allowance = match self.segments[probe.segment].allowance() {
            Ok(allowance) => allowance,
            Err(error) => return self.note_unreadable(probe.segment, 0, u64::MAX, error),
        };
        if bytes <= WHOLE_BYTES {
            return self.probe_data(probe, 0..bytes.next_multiple_of(BLOCK));
        }
        let mut from = 0;
        while let Some(data) = open.data(from)? {
            let data = (data.start - data.start % BLOCK)..data.end.next_multiple_of(BLOCK);
            self.probe_data(probe, data.clone())?;
            from = data.end;
        }
        Ok(())
    }

    fn probe_data(&mut self, probe: &mut Probe<'_>, data: Range<u64>) -> Result<(), LogError> {
        let open = self.segments[probe.segment].open.clone();
        let piece_bytes = usize::try_from(data.end - data.start).unwrap_or(usize::MAX).min(PIECE_BYTES);
        let mut piece = Vec::new();
        let mut start = data.start;
        while start < data.end {
            let wanted = usize::try_from(data.end - start).unwrap_or(usize::MAX).min(piece_bytes);
            begin_after(self, probe.segment, start + wanted as u64, data.end);
            if let Some(read) = self.files.take_begun(&open, wanted, start) {
                self.probe_whole(probe, start, &read)?;
                start += wanted as u64;
                continue;
            }
            piece.resize(piece_bytes, 0);
            match open.read(&mut piece[..wanted], start) {
                Ok(read) => self.probe_whole(probe, start, &piece[..read])?,
                Err(error) if error.unreadable().is_some() => {
                    for at in (0..wanted as u64).step_by(BLOCK as usize) {
                        let block = &mut piece[..BLOCK as usize];
                        match open.read(block, start + at) {
                            Ok(read) => self.probe_piece(probe, start + at, &piece[..read])?,
                            Err(error) => self.note_unreadable(probe.segment, start + at, BLOCK, error)?,
                        }
                    }
                }
                Err(error) => return Err(error),
            }
            start += wanted as u64;
        }
        Ok(())
    }

    /// A piece that the medium gave at once.
    fn probe_whole(&mut self, probe: &mut Probe<'_>, start: u64, piece: &[u8]) -> Result<(), LogError> {
        self.probe_piece(probe, start, piece)?;
        let Some(passing) = &mut probe.passing else { return Ok(()) };
        let (segment, cache, backfilled) = (probe.segment, &mut *probe.cache, self.backfilled);
        let candidates = &mut self.candidates;
        passing.pass(
            start,
            piece,
            |frame, image| cache.keep(segment, frame, image, backfilled),
            |candidate, batch| candidates[candidate].whole = Some(Arc::new(batch)),
        );
        Ok(())
    }

    fn note_unreadable(&mut self, segment: usize, offset: u64, bytes: u64, error: LogError) -> Result<(), LogError> {
        let Some(text) = error.unreadable().map(ToString::to_string) else { return Err(error) };
        let segment = &mut self.segments[segment];
        match segment.unreadable.last_mut() {
            Some(last) if last.offset.saturating_add(last.bytes) >= offset => {
                last.bytes = last.bytes.max(offset.saturating_add(bytes) - last.offset);
            }
            _ => segment.unreadable.push(Unreadable { file: segment.open.path.clone(), offset, bytes, error: text }),
        }
        Ok(())
    }

    fn probe_piece(&mut self, probe: &mut Probe<'_>, start: u64, piece: &[u8]) -> Result<(), LogError> {
        for (index, sector) in piece.chunks(RECORD_PLACE_BYTES).enumerate() {
            if begins_record(sector) {
                let at = index * RECORD_PLACE_BYTES;
                self.probe_sector(probe, start + at as u64, sector, &piece[at..])?;
            }
        }
        Ok(())
    }

    fn probe_sector(&mut self, probe: &mut Probe<'_>, offset: u64, block: &[u8], rest: &[u8]) -> Result<(), LogError> {
        if offset < probe.head_end {
            return Ok(());
        }
        let path = &self.segments[probe.segment].open.path;
        // What an older segment in the same file left is true, too.
        let place = CertificatePlace { log_id: self.log_id, ordinal: None, offset };
        let (certificate, in_batch) = match embedded_certificate(block, &place) {
            Some(embedded) => (Some(embedded), true),
            None => (block.get(..CERTIFICATE_BYTES).map(|bytes| Certificate::decode(bytes, &place)), false),
        };
        match certificate {
            Some(Ok(certificate)) => self.note_certificate(probe, offset, certificate, in_batch),
            Some(Err(error)) if error.is_other_version() => return Err(LogError::record(path, offset, error)),
            _ => {}
        }
        match self.segments[probe.segment].reader.clone() {
            Some(reader) => self.probe_batch(probe, &reader, offset, block, rest),
            None => self.probe_without_header(probe, offset, block),
        }
    }

    fn note_certificate(&mut self, probe: &mut Probe<'_>, offset: u64, certificate: Certificate, in_batch: bool) {
        let segment = probe.segment;
        (probe.observe)(Probed::Certificate { segment, offset, certificate: &certificate, in_batch });
        self.backfilled = self.backfilled.max(certificate.backfilled);
        self.durable = self.durable.max(certificate.durable);
        let Certificate { ordinal, epoch, lo, hi, durable, backfilled, chain, batches, .. } = certificate;
        self.copies.extend(certificate.copy.map(|copy| FoundCopy {
            segment,
            offset,
            backfilled: certificate.backfilled,
            copy,
        }));
        let has_second = certificate.copy.is_some_and(|copy| !copy.is_second);
        let has_first = certificate.copy.is_some_and(|copy| copy.is_second);
        self.epochs.push(Epoch {
            segment,
            offset,
            ordinal,
            in_batch,
            has_second,
            epoch,
            lo,
            hi,
            durable,
            backfilled,
            chain,
            batches,
        });
        // One in a batch is that batch's word: of a writer that died before it published, it speaks of no commit.
        let block_bytes = self.block_bytes().unwrap_or(BLOCK_BYTES_MIN);
        let found = &mut self.segments[segment];
        if !in_batch && found.reader.as_ref().is_none_or(|reader| reader.header.ordinal == ordinal) {
            self.certificates.push((segment, offset));
            let block_bytes = u64::from(block_bytes);
            let other = if has_second { offset.checked_add(block_bytes) } else { offset.checked_sub(block_bytes) };
            self.certificates.extend(other.filter(|_| has_second || has_first).map(|other| (segment, other)));
        }
        if found.reader.is_none() && offset == u64::from(block_bytes) {
            found.first_ordinal.get_or_insert(ordinal);
        }
        if !in_batch && hi > self.backfilled {
            self.seals.push(Seal { segment, offset, certificate });
        }
    }

    fn probe_batch(
        &mut self,
        probe: &mut Probe<'_>,
        reader: &SegmentReader<'_>,
        offset: u64,
        block: &[u8],
        rest: &[u8],
    ) -> Result<(), LogError> {
        if offset < u64::from(reader.header.block_bytes) {
            return Ok(());
        }
        let place = reader.place(offset);
        let Some(header) = block.get(..BATCH_HEADER_BYTES) else { return Ok(()) };
        let Ok(claimed) = decode_batch_header(header, &place) else { return Ok(()) };
        let segment = probe.segment;
        match self.head(probe, reader, offset, rest.get(..claimed.head_bytes), &place) {
            Ok(batch) => {
                (probe.observe)(Probed::Batch { segment });
                probe.head_end = offset + claimed.head_bytes as u64;
                self.candidates.push(Candidate::of(segment, &batch));
                if let Some(passing) = &mut probe.passing {
                    passing.enter(self.candidates.len() - 1, batch);
                }
            }
            Err(error) => {
                let flaw = match error.unreadable() {
                    Some(source) => Flaw::Unreadable(source.to_string()),
                    None => match error {
                        LogError::Record { source, .. } => Flaw::Rule(source),
                        error => return Err(error),
                    },
                };
                self.broken.push(Broken { segment, offset, sequence: claimed.sequence, flaw });
            }
        }
        Ok(())
    }

    /// The head of a batch, from what was read already if all of it was.
    fn head(
        &self,
        probe: &mut Probe<'_>,
        reader: &SegmentReader<'_>,
        offset: u64,
        read: Option<&[u8]>,
        place: &BatchPlace,
    ) -> Result<Batch, LogError> {
        match read {
            Some(head) => decode_batch(head, place).map_err(|error| LogError::record(&reader.open.path, offset, error)),
            None => self.files.within(&mut probe.allowance, || reader.head_at(offset)),
        }
    }

    /// A batch names its log, its segment and its place itself.
    fn probe_without_header(&mut self, probe: &mut Probe<'_>, offset: u64, block: &[u8]) -> Result<(), LogError> {
        let found = &self.segments[probe.segment];
        let Some((log_id, ordinal, at)) = batch_place(block) else { return Ok(()) };
        let is_here = offset > 0 && log_id == self.log_id && at == offset && found.state != HeaderState::Free;
        let Some(page_bytes) = probe.page_bytes.filter(|_| is_here) else { return Ok(()) };
        let header = SegmentHeader {
            log_id,
            block_bytes: BLOCK_BYTES_MIN,
            page_bytes,
            segment_bytes: found.bytes - found.bytes % BLOCK,
            ordinal,
            first_sequence: 1,
            chain: 0,
        };
        let reader = SegmentReader { open: found.open.clone(), header };
        let place = reader.place(offset);
        match self.head(probe, &reader, offset, None, &place) {
            Ok(batch) => probe.without_header.push(Candidate::of(probe.segment, &batch)),
            Err(LogError::Record { .. }) => {}
            Err(error) if error.unreadable().is_some() => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    pub(crate) fn block_bytes(&self) -> Option<u32> {
        self.segments.iter().find_map(|segment| Some(segment.reader.as_ref()?.header.block_bytes))
    }

    /// The header of a segment file whose own is broken, as the batches of its newest segment have it.
    fn infer(&mut self, segment: usize, page_bytes: Option<u32>, batches: Vec<Candidate>) {
        let Some(ordinal) = batches.iter().map(|batch| batch.ordinal).max() else { return };
        let newest = || batches.iter().filter(|batch| batch.ordinal == ordinal);
        let Some(first) = newest().min_by_key(|batch| batch.offset).cloned() else { return };
        let at = u32::try_from(first.offset).ok().filter(|bytes| is_block_size(*bytes));
        let block_bytes = self.block_bytes().or(at).unwrap_or(BLOCK_BYTES_MIN);
        let Some(page_bytes) = page_bytes else { return };
        let found = &mut self.segments[segment];
        if first.offset == u64::from(block_bytes) {
            found.first_ordinal = Some(ordinal);
        }
        let header = SegmentHeader {
            log_id: self.log_id,
            block_bytes,
            page_bytes,
            segment_bytes: found.bytes - found.bytes % u64::from(block_bytes),
            ordinal,
            first_sequence: first.sequence,
            chain: first.chain,
        };
        found.inferred = Some(SegmentReader { open: found.open.clone(), header });
        let newest: Vec<Candidate> = newest().cloned().collect();
        self.candidates.extend(newest);
    }
}

/// Begins to read what is probed next: the piece of this segment file at `offset`, or the first one of the next file.
fn begin_after(log: &FoundLog<'_>, segment: usize, offset: u64, end: u64) {
    let (segment, offset, end) = match offset < end {
        true => (segment, offset, end),
        false => match log.segments.get(segment + 1).map(|next| next.bytes.next_multiple_of(BLOCK)) {
            Some(end) if end <= WHOLE_BYTES => (segment + 1, 0, end),
            _ => return,
        },
    };
    let bytes = (end - offset).min(PIECE_BYTES as u64);
    if bytes >= AHEAD_BYTES_MIN {
        log.files.begin(&log.segments[segment].open, bytes as usize, offset);
    }
}

impl FoundSegment<'_> {
    /// What may be read for what the records in it claim, in bytes.
    pub(super) fn allowance(&self) -> Result<u64, LogError> {
        let (mut allowance, mut from) = (ALLOWANCE_BYTES, 0);
        while let Some(data) = self.open.data(from)? {
            allowance = allowance.saturating_add(ALLOWANCE_FACTOR.saturating_mul(data.end - data.start));
            from = data.end;
        }
        Ok(allowance)
    }
}

impl Candidate {
    fn of(segment: usize, batch: &Batch) -> Candidate {
        let header = &batch.header;
        Candidate {
            segment,
            offset: header.offset,
            end: header.offset + header.bytes,
            ordinal: header.ordinal,
            sequence: header.sequence,
            chain: header.chain,
            whole: None,
        }
    }
}
