//! A segment as text: one line for each record, so that a change of the format shows in a review.

use crate::disk::{LogDirectory, OpenMode};
use crate::log::error::LogError;
use crate::log::follow::{SegmentReader, Spills, proven};
use crate::log::format::{Batch, Certificate, FORMAT_VERSION, FileName, ImageForm, ImagePlace};
use crate::log::found::FoundLog;
use std::fmt::Write;
use std::io;

/// The segment file `name` as text.
///
/// # Errors
/// Any error of the medium; records of a newer pwal; [`LogError::Io`] for a name that is not a segment's.
pub fn dump_segment(dir: &dyn LogDirectory, name: &str) -> Result<String, LogError> {
    let Some(FileName::Segment { log_id, .. }) = FileName::parse(name) else {
        return Err(LogError::io("dump", &dir.path().join(name), io::ErrorKind::InvalidInput.into()));
    };
    let mut out = String::new();
    let names = super::list(dir)?;
    let log = FoundLog::open(dir, &names, log_id, OpenMode::ReadOnly)?;
    let spills = &log.spills;
    let path = dir.path().join(name);
    let Some(segment) = log.segments.iter().find(|segment| segment.open.path == path) else {
        return Err(LogError::io("open", &path, io::ErrorKind::NotFound.into()));
    };
    let Some(reader) = &segment.reader else {
        let _ = writeln!(out, "{name}: free (no segment header is valid)");
        return Ok(out);
    };
    let mut allowance = segment.allowance()?;
    let header = &reader.header;
    let _ = writeln!(
        out,
        "{name}: format {FORMAT_VERSION}, segment {} bytes, block {}, page {}\n  log {:016x}, segment {}, first commit {}, chain {:016x}",
        header.segment_bytes,
        header.block_bytes,
        header.page_bytes,
        header.log_id,
        header.ordinal,
        header.first_sequence,
        header.chain,
    );
    let mut offset = u64::from(header.block_bytes);
    let mut unknown = Unknown::default();
    while offset < header.segment_bytes {
        if let Some(batch) = proven(log.files.within(&mut allowance, || reader.head_at(offset)))? {
            unknown.end(&mut out, offset);
            show_batch(&mut out, reader, &batch, spills)?;
            offset += batch.header.bytes;
        } else if let Some(certificate) = proven(reader.certificate_at(offset))? {
            unknown.end(&mut out, offset);
            let _ = write!(out, "{offset:>10}  ");
            show_certificate(&mut out, &certificate);
            offset = reader.block_after(offset);
        } else {
            // The rest of the block in which a batch ends, or a whole one.
            let end = reader.block_after(offset);
            let mut block = vec![0; usize::try_from(end - offset).unwrap_or(0)];
            reader.open.read(&mut block, offset)?;
            let is_zero = block.iter().all(|&byte| byte == 0);
            unknown.block(&mut out, offset, is_zero);
            offset = end;
            if is_zero {
                // The rest of a hole are zeros as well.
                let data = reader.open.data(offset)?.map_or(header.segment_bytes, |data| data.start);
                offset = offset.max(data - data % u64::from(header.block_bytes)).min(header.segment_bytes);
            }
        }
    }
    unknown.end(&mut out, offset);
    Ok(out)
}

/// A run of blocks that are no records.
#[derive(Default)]
struct Unknown {
    run: Option<(u64, bool)>,
}

impl Unknown {
    fn block(&mut self, out: &mut String, offset: u64, is_zero: bool) {
        match self.run {
            Some((_, zeros)) if zeros == is_zero => {}
            _ => {
                self.end(out, offset);
                self.run = Some((offset, is_zero));
            }
        }
    }

    fn end(&mut self, out: &mut String, offset: u64) {
        if let Some((start, is_zero)) = self.run.take() {
            let what = if is_zero { "zeros" } else { "no record" };
            let _ = writeln!(out, "{start:>10}  {what}, {} bytes", offset - start);
        }
    }
}

fn show_batch(
    out: &mut String,
    reader: &SegmentReader<'_>,
    batch: &Batch,
    spills: &Spills<'_>,
) -> Result<(), LogError> {
    let header = &batch.header;
    let _ = writeln!(
        out,
        "{:>10}  commit {}: {} bytes, {} frames, database {} pages, lane {}{}, time {} us\n{:12}chain {:016x} -> {:016x}",
        header.offset,
        header.sequence,
        header.bytes,
        header.frames,
        header.database_pages,
        header.lane,
        if header.wants_durable { ", wants durability" } else { "" },
        header.time_us,
        "",
        header.chain,
        batch.chain_after,
    );
    if let Some(certificate) = &header.certificate {
        let _ = write!(out, "{:12}", "");
        show_certificate(out, certificate);
    }
    let mut image = vec![0; reader.header.page_bytes as usize];
    for descriptor in &batch.descriptors {
        let place = match descriptor.place {
            ImagePlace::Batch(position) => format!("+{position}"),
            ImagePlace::Spill { file, offset } => format!("spill {file} at {offset}"),
        };
        let is_whole = proven(reader.image(batch, descriptor, spills, &mut image))?.is_some();
        let state = if is_whole { "" } else { ", is not valid" };
        let form = form(&descriptor.form);
        let _ = writeln!(out, "{:12}page {} {place}{form}, crc {:08x}{state}", "", descriptor.page, descriptor.crc);
    }
    Ok(())
}

/// How an image is stored, if it is not as it is.
fn form(form: &ImageForm) -> String {
    let mut text = if form.mask == 0 { String::new() } else { format!(", mask {:02x}", form.mask) };
    if !form.omitted.is_empty() {
        let zeros = form.omitted.range();
        let _ = write!(text, ", without the zeros from {} to {}", zeros.start, zeros.end - 1);
    }
    text
}

fn show_certificate(out: &mut String, certificate: &Certificate) {
    let kind = if certificate.is_mark() { "mark" } else { "certificate" };
    let _ = write!(
        out,
        "{kind}: epoch {}, commits {}..{}, D {}, B {}, chain {:016x}, {} batches, {} frames of {} pages, database {} pages, lanes {:?}",
        certificate.epoch,
        certificate.lo,
        certificate.hi,
        certificate.durable,
        certificate.backfilled,
        certificate.chain,
        certificate.batches,
        certificate.frames,
        certificate.distinct_pages,
        certificate.database_pages,
        certificate.lane_frames,
    );
    if let Some(copy) = &certificate.copy {
        let half = if copy.is_second { "second" } else { "first" };
        let mask = if copy.mask == 0 { String::new() } else { format!(", mask {:02x}", copy.mask) };
        let _ = write!(out, ", {half} half of {} bytes of page 1{mask}, crc {:08x}", copy.bytes, copy.crc);
    }
    for (is_set, flag) in [(certificate.fallback, "fallback"), (certificate.clean_end, "clean end")] {
        if is_set {
            let _ = write!(out, ", {flag}");
        }
    }
    out.push('\n');
}
