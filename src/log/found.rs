//! What a fresh process finds of one log: its segments, its certificates, and the batches in them.
//!
//! Nothing here decides or writes. Every block that the file system keeps is probed ([`probe`](super::probe)), because
//! a certificate after damage still shows what was durable, and because commit B + 1 may begin anywhere in a reused
//! segment. The chain of the batches is in [`walk`](super::walk).

use super::error::LogError;
use super::files::{Files, Unreadable};
use super::follow::{OpenFile, SegmentReader, Spills};
use super::format::{Batch, Certificate, FileName, FormatError, LogId, PageCopy, Rule};
use super::image_cache::ImageCache;
use crate::disk::{LogDirectory, OpenMode};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

/// A certificate that does not fit what it seals, or another certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contradiction {
    /// The rule, by its number in the specification.
    pub rule: &'static str,
    /// The segment file of the certificate.
    pub file: PathBuf,
    /// Its offset in bytes.
    pub offset: u64,
    /// What does not fit.
    pub what: String,
}

/// One half of a doubled certificate, found by probing.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FoundCopy {
    pub(crate) segment: usize,
    /// Of this half.
    pub(crate) offset: u64,
    pub(crate) backfilled: u64,
    pub(crate) copy: PageCopy,
}

/// What block 0 of a segment file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HeaderState {
    /// A segment header.
    Whole,
    /// Zeros, or nothing: the segment file is free, or the segment in it was given up.
    Free,
    /// Other bytes.
    Broken,
    /// The medium does not give it.
    Unreadable,
}

/// A segment file of a log.
#[derive(Debug)]
pub(crate) struct FoundSegment<'a> {
    pub(crate) open: OpenFile<'a>,
    pub(crate) bytes: u64,
    pub(crate) state: HeaderState,
    /// Its header, if it is whole.
    pub(crate) reader: Option<SegmentReader<'a>>,
    /// The header as the batches in the segment have it, if it is broken or unreadable.
    pub(crate) inferred: Option<SegmentReader<'a>>,
    /// The segment that the first record names, in a segment file without a header.
    pub(crate) first_ordinal: Option<u64>,
    /// Its blocks that the medium does not give, in order.
    pub(crate) unreadable: Vec<Unreadable>,
}

/// A batch whose head is valid, found by probing.
#[derive(Clone, Debug)]
pub(crate) struct Candidate {
    pub(crate) segment: usize,
    pub(crate) offset: u64,
    pub(crate) end: u64,
    pub(crate) ordinal: u64,
    pub(crate) sequence: u64,
    pub(crate) chain: u64,
    /// All of it, if the probe has verified its images, too ([`passing`](super::passing)).
    pub(crate) whole: Option<Arc<Batch>>,
}

/// A batch whose head is not valid, found by probing.
#[derive(Clone, Debug)]
pub(crate) struct Broken {
    pub(crate) segment: usize,
    pub(crate) offset: u64,
    pub(crate) sequence: u64,
    pub(crate) flaw: Flaw,
}

/// Why the head of a batch is not valid.
#[derive(Clone, Debug)]
pub(crate) enum Flaw {
    /// A rule does not hold.
    Rule(FormatError),
    /// The medium does not give all of it, and says this.
    Unreadable(String),
}

/// A certificate, found by probing.
#[derive(Clone, Debug)]
pub(crate) struct Seal {
    pub(crate) segment: usize,
    pub(crate) offset: u64,
    pub(crate) certificate: Certificate,
}

/// What every certificate says of the others.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Epoch {
    pub(crate) segment: usize,
    pub(crate) offset: u64,
    /// Of the segment that it names: an older one than the segment file has, where it was left over.
    pub(crate) ordinal: u64,
    pub(crate) in_batch: bool,
    /// It is doubled, and this is the first of the two.
    pub(crate) has_second: bool,
    pub(crate) epoch: u64,
    pub(crate) lo: u64,
    pub(crate) hi: u64,
    pub(crate) durable: u64,
    pub(crate) backfilled: u64,
    pub(crate) chain: u64,
    pub(crate) batches: u32,
}

/// What a probe finds in a segment, for callers that want all of it.
pub(crate) enum Probed<'a> {
    /// A certificate of this log; in a batch, or outside of a batch.
    Certificate { segment: usize, offset: u64, certificate: &'a Certificate, in_batch: bool },
    /// A batch whose head is valid.
    Batch { segment: usize },
}

/// Everything of one log id.
#[derive(Debug)]
pub(crate) struct FoundLog<'a> {
    pub(crate) log_id: LogId,
    pub(super) files: Arc<Files<'a>>,
    pub(crate) segments: Vec<FoundSegment<'a>>,
    pub(crate) spills: Spills<'a>,
    /// n of each marker.
    pub(crate) markers: BTreeSet<u64>,
    /// By segment and offset.
    pub(crate) candidates: Vec<Candidate>,
    /// By segment and offset.
    pub(crate) broken: Vec<Broken>,
    /// The certificates outside of batches, by segment and offset; those of commits after B.
    pub(crate) seals: Vec<Seal>,
    /// Their indices by hi.
    pub(super) seals_by_hi: BTreeMap<u64, Vec<usize>>,
    /// Where all certificates outside of batches lie, also the one that a doubled one speaks of: segment and offset.
    pub(super) certificates: Vec<(usize, u64)>,
    /// Every certificate, by epoch.
    pub(crate) epochs: Vec<Epoch>,
    /// The halves of doubled certificates.
    pub(crate) copies: Vec<FoundCopy>,
    /// B, the maximum over the certificates.
    pub(crate) backfilled: u64,
    /// D, the maximum over the certificates.
    pub(crate) durable: u64,
    /// What two certificates say that cannot both be.
    pub(crate) contradiction: Option<Contradiction>,
}

/// The place where a batch was begun and is not valid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TornTail {
    /// The segment file.
    pub file: PathBuf,
    /// The offset of the batch in bytes.
    pub offset: u64,
    /// What does not hold of it.
    pub reason: String,
}

/// The log ids that the names in a directory speak of.
pub(crate) fn log_ids(names: &[String]) -> BTreeSet<LogId> {
    names.iter().filter_map(|name| FileName::parse(name)?.log_id()).collect()
}

impl<'a> FoundLog<'a> {
    /// Reads the headers of the files of `log_id` among `names`, and probes every block. `page_bytes`: those of the
    /// database, for segments without a header. `observe` is shown what is met, and `cache` gets the images.
    pub(crate) fn read(
        dir: &'a dyn LogDirectory,
        names: &[String],
        log_id: LogId,
        (how, page_bytes): (OpenMode, Option<u32>),
        cache: &mut ImageCache,
        observe: &mut dyn FnMut(Probed<'_>),
    ) -> Result<FoundLog<'a>, LogError> {
        let mut log = FoundLog::open(dir, names, log_id, how)?;
        log.probe_all(page_bytes, cache, observe)?;
        Ok(log)
    }

    /// As [`FoundLog::read`] without the probing.
    pub(crate) fn open(
        dir: &'a dyn LogDirectory,
        names: &[String],
        log_id: LogId,
        how: OpenMode,
    ) -> Result<FoundLog<'a>, LogError> {
        let mut log = FoundLog {
            log_id,
            files: Files::new(dir, how),
            segments: Vec::new(),
            spills: BTreeMap::new(),
            markers: BTreeSet::new(),
            candidates: Vec::new(),
            broken: Vec::new(),
            seals: Vec::new(),
            seals_by_hi: BTreeMap::new(),
            certificates: Vec::new(),
            epochs: Vec::new(),
            copies: Vec::new(),
            backfilled: 0,
            durable: 0,
            contradiction: None,
        };
        for name in names {
            let Some(parsed) = FileName::parse(name).filter(|parsed| parsed.log_id() == Some(log_id)) else { continue };
            match parsed {
                FileName::Segment { .. } => {
                    let segment = FoundSegment::open(log.files.file(name), log_id)?;
                    let bytes = segment.reader.as_ref().map(|reader| reader.header.page_bytes);
                    // One log has one page size; else an image could be valid and not fit.
                    if bytes.is_some() && log.page_bytes().is_some() && bytes != log.page_bytes() {
                        return Err(LogError::record(&segment.open.path, 0, Rule::SegmentPlace.into()));
                    }
                    log.segments.push(segment);
                }
                FileName::Spill { number, .. } => {
                    log.spills.insert(number, log.files.file(name));
                }
                FileName::Marker { last, .. } => {
                    log.markers.insert(last);
                }
                FileName::Lock | FileName::Control => {}
            }
        }
        Ok(log)
    }

    /// The page size of the log in bytes; `None` without a segment header.
    pub(crate) fn page_bytes(&self) -> Option<u32> {
        let of = |reader: &Option<SegmentReader<'_>>| Some(reader.as_ref()?.header.page_bytes);
        let whole = self.segments.iter().find_map(|segment| of(&segment.reader));
        whole.or_else(|| self.segments.iter().find_map(|segment| of(&segment.inferred)))
    }

    /// Whether the log may hold commits: the head of a batch, a certificate that speaks of durable commits (then there
    /// were batches, and something rotted), or a block that cannot be read.
    pub(crate) fn has_commits(&self) -> bool {
        self.durable > 0 || !self.candidates.is_empty() || self.unreadable().next().is_some()
    }

    /// What the medium does not give.
    pub(crate) fn unreadable(&self) -> impl Iterator<Item = &Unreadable> {
        self.segments.iter().flat_map(|segment| &segment.unreadable)
    }

    /// The batch with a valid head at this place.
    pub(crate) fn candidate(&self, segment: usize, offset: u64) -> Option<&Candidate> {
        let key = |candidate: &Candidate| (candidate.segment, candidate.offset);
        let at = self.candidates.binary_search_by_key(&(segment, offset), key).ok()?;
        self.candidates.get(at)
    }

    /// The batch without a valid head at this place.
    pub(crate) fn broken_at(&self, segment: usize, offset: u64) -> Option<&Broken> {
        let at = self.broken.binary_search_by_key(&(segment, offset), |broken| (broken.segment, broken.offset)).ok()?;
        self.broken.get(at)
    }
}

impl<'a> FoundSegment<'a> {
    fn open(open: OpenFile<'a>, log_id: LogId) -> Result<FoundSegment<'a>, LogError> {
        let mut segment = FoundSegment {
            open: open.clone(),
            bytes: 0,
            state: HeaderState::Free,
            reader: None,
            inferred: None,
            first_ordinal: None,
            unreadable: Vec::new(),
        };
        let whole = |error: &LogError| {
            let error = error.unreadable()?.to_string();
            Some(Unreadable { file: open.path.clone(), offset: 0, bytes: u64::MAX, error })
        };
        match open.bytes() {
            Ok(bytes) => segment.bytes = bytes,
            Err(error) => match whole(&error) {
                Some(unreadable) => {
                    segment.unreadable.push(unreadable);
                    segment.state = HeaderState::Unreadable;
                    return Ok(segment);
                }
                None => return Err(error),
            },
        }
        match SegmentReader::new(open, log_id) {
            Ok(reader) => (segment.reader, segment.state) = (Some(reader), HeaderState::Whole),
            Err(LogError::Record { .. }) => {
                let mut bytes = [0; 512];
                let read = segment.open.read(&mut bytes, 0)?;
                if bytes[..read].iter().any(|&byte| byte != 0) {
                    segment.state = HeaderState::Broken;
                }
            }
            // Also if the probe should read it a moment later: the batches after it are not walked.
            Err(error) => {
                let path = segment.open.path.clone();
                segment.unreadable.push(error.unreadable_at(&path, 0).ok_or(error)?);
                segment.state = HeaderState::Unreadable;
            }
        }
        Ok(segment)
    }

    /// The segment's header, or with `inferred` what the batches in it say of one that is broken.
    pub(crate) fn reader(&self, inferred: bool) -> Option<&SegmentReader<'a>> {
        self.reader.as_ref().or(self.inferred.as_ref().filter(|_| inferred))
    }
}
