//! The segment files that this process has open: which files exist, and in which file the segment of an ordinal lies.
//!
//! Nothing of this is stored: the ordinal of a segment is in its header. Only open files are remembered, and in which of
//! them the last ordinals lie; what is remembered is compared with the header where it matters. A file that holds
//! something not durable stays open (`keep_open`): a write-back error is reported to the descriptors that were open.

use super::context::LogContext;
use super::error::EngineError;
use super::owner_lock::OwnerLocks;
use super::segment_file::{Segment, SegmentFile};
use crate::disk::OpenMode;
use crate::log::LogError;
use crate::log::follow::{OpenFile, SegmentReader, proven};
use crate::log::format::{self, Batch, FileName, SegmentHeader};
use crate::shared::{CommitEntry, ControlBlock};
use crate::sync::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

/// Ordinals of which it is remembered in which file they lie.
const ORDINALS_KEPT: usize = 64;

/// What this process remembers of the segments.
#[derive(Debug, Default)]
struct Known {
    open: BTreeMap<u32, Segment>,
    /// In which file the segment of an ordinal lies, as far as it is remembered.
    by_ordinal: BTreeMap<u64, u32>,
}

/// The segment files of the log, as this process has them open.
pub(crate) struct SegmentFiles {
    log: Arc<LogContext>,
    locks: Arc<OwnerLocks>,
    known: Mutex<Known>,
    /// The last segment up to which the files that a flush has to sync were opened, and the next segment file, which was,
    /// too.
    opened: Mutex<Option<(u64, Option<u32>)>>,
}

/// A segment file and its header, if that is valid.
pub(super) struct Found {
    pub(super) segment: Segment,
    pub(super) header: Option<SegmentHeader>,
}

/// `None` for a record that is not valid, and for one in a file that was deleted meanwhile and not open.
pub(super) fn if_there<T>(record: Result<T, LogError>) -> Result<Option<T>, EngineError> {
    match proven(record) {
        Err(LogError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
        record => Ok(record?),
    }
}

impl SegmentFiles {
    pub(super) fn new(log: &Arc<LogContext>, locks: &Arc<OwnerLocks>) -> SegmentFiles {
        let (log, locks) = (Arc::clone(log), Arc::clone(locks));
        SegmentFiles { log, locks, known: Mutex::default(), opened: Mutex::new(None) }
    }

    /// The log was retired: its files are gone.
    pub(super) fn forget(&self) {
        *self.known.lock() = Known::default();
        *self.opened.lock() = None;
    }

    /// The files of the segments from `first` on that this process remembers.
    pub(super) fn known_from(&self, first: u64) -> BTreeSet<u32> {
        self.known.lock().by_ordinal.range(first..).map(|(_, number)| *number).collect()
    }

    /// The segment file of this number, which is complete: a record of it counts, or it is the next one.
    pub(crate) fn segment(&self, number: u32) -> Result<Segment, EngineError> {
        if let Some(segment) = self.known.lock().open.get(&number) {
            return Ok(segment.clone());
        }
        let segment = self.open_segment(number)?;
        self.add_segment(segment.clone());
        Ok(segment)
    }

    /// As [`SegmentFiles::segment`]; `None`: it is deleted, and what was in it is in the database file.
    pub(super) fn segment_if_there(&self, number: u32) -> Result<Option<Segment>, EngineError> {
        match self.segment(number) {
            Err(EngineError::Open { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
            segment => segment.map(Some),
        }
    }

    pub(super) fn open_segment(&self, number: u32) -> Result<Segment, EngineError> {
        let name = format::segment_name(self.log.log_id, number);
        let file = self.log.dir.open(&name, OpenMode::Existing).map_err(|e| EngineError::open(&name, e))?;
        let bytes = file.bytes().map_err(|e| EngineError::open(&name, e))?;
        // Whole blocks, or its header is not valid: the process that was making it may have died in the middle of a
        // write.
        let bytes = bytes - bytes % u64::from(self.log.block_bytes);
        Ok(Arc::new(SegmentFile::new(number, name, file, bytes, || Some(self.log.marks.published()))))
    }

    /// A segment file that is complete.
    pub(super) fn add_segment(&self, segment: Segment) {
        self.known.lock().open.insert(segment.id, segment);
    }

    /// The segment `ordinal` lies in the file `id`.
    pub(super) fn note_ordinal(&self, ordinal: u64, number: u32) {
        let first_unsynced = self.log.first_unsynced_segment();
        let by_ordinal = &mut self.known.lock().by_ordinal;
        by_ordinal.insert(ordinal, number);
        // Those that a flush has to sync stay, however many they are.
        while by_ordinal.len() > ORDINALS_KEPT
            && let Some(first) = by_ordinal.first_entry().filter(|first| *first.key() < first_unsynced)
        {
            first.remove();
        }
    }

    /// The segment file in which the segment `ordinal` lies.
    pub(crate) fn segment_with_ordinal(&self, ordinal: u64) -> Result<Option<Segment>, EngineError> {
        let known = self.known.lock().by_ordinal.get(&ordinal).copied();
        if let Some(number) = known
            && let Some(segment) = self.segment_if_there(number)?
            && self.header_of(&segment)?.is_some_and(|header| header.ordinal == ordinal)
        {
            return Ok(Some(segment));
        }
        let found = self
            .all_slots()?
            .into_iter()
            .find_map(|found| found.header.is_some_and(|header| header.ordinal == ordinal).then_some(found.segment));
        if let Some(segment) = &found {
            self.note_ordinal(ordinal, segment.id);
        }
        Ok(found)
    }

    pub(super) fn reader_of(&self, segment: &Segment) -> Result<Option<SegmentReader<'static>>, EngineError> {
        let open = OpenFile { path: self.log.dir.path().join(&segment.name), file: Arc::clone(&segment.file) };
        if_there(SegmentReader::new(open, self.log.log_id))
    }

    pub(super) fn header_of(&self, segment: &Segment) -> Result<Option<SegmentHeader>, EngineError> {
        Ok(self.reader_of(segment)?.map(|reader| reader.header))
    }

    /// Every segment file of the log with its header.
    pub(super) fn all_slots(&self) -> Result<Vec<Found>, EngineError> {
        let mut all = Vec::new();
        for name in self.log.dir.list().map_err(|e| EngineError::open("the log directory", e))? {
            let number = match FileName::parse(&name) {
                Some(FileName::Segment { log_id, id }) if log_id == self.log.log_id => id,
                _ => continue,
            };
            let known = self.known.lock().open.get(&number).cloned();
            // One that was truncated, and could not be removed: by a process that died, or an error.
            let known = known.filter(|segment| segment.file.bytes().is_ok_and(|bytes| bytes >= segment.bytes));
            let segment = match known.map_or_else(|| self.open_segment(number), Ok) {
                // It could not be made whole, or was not needed, and was removed.
                Err(EngineError::Open { source, .. }) if source.kind() == io::ErrorKind::NotFound => continue,
                segment => segment?,
            };
            let header = self.header_of(&segment)?;
            if header.is_some() {
                // Only now: one without may be growing.
                self.add_segment(segment.clone());
            }
            all.push(Found { segment, header });
        }
        // The oldest files first, which are the smallest: what is used again soon is in the processor's caches still.
        all.sort_unstable_by_key(|found| found.segment.id);
        Ok(all)
    }

    /// The headers of all segments that have one.
    pub(super) fn segment_headers(&self) -> Result<Vec<SegmentHeader>, EngineError> {
        Ok(self.all_slots()?.into_iter().filter_map(|found| found.header).collect())
    }

    /// The first segment in which the published commit `sequence` may lie.
    pub(super) fn ordinal_with(&self, sequence: u64) -> Result<Option<u64>, EngineError> {
        let last = self.log.tail().ordinal;
        let candidates = self
            .segment_headers()?
            .into_iter()
            .filter(|header| header.ordinal <= last && header.first_sequence <= sequence);
        let first = candidates.max_by_key(|header| (header.first_sequence, std::cmp::Reverse(header.ordinal)));
        Ok(first.map(|header| header.ordinal))
    }

    /// Keeps open from now on what a flush would have to sync, and the `next` one. The other files may be closed, if
    /// APPEND is free: no process writes to a segment then. False: it was not.
    pub(super) fn keep_open(&self, unsynced: &[Segment], next: Option<u32>) -> Result<bool, EngineError> {
        for segment in unsynced {
            segment.file.keep_open(true).map_err(|error| EngineError::open(&segment.name, error))?;
        }
        let next = match next.map_or(Ok(None), |number| self.segment_if_there(number)) {
            // It is opened in the place of another one when it begins.
            Err(error) if error.is_out_of_descriptors() => None,
            next => next?,
        };
        // Nor is this an error before it is needed.
        let next = next.filter(|next| next.file.keep_open(true).is_ok());
        let kept: BTreeSet<u32> = unsynced.iter().chain(&next).map(|segment| segment.id).collect();
        self.let_close_but(&kept)
    }

    /// What was kept open may be closed, except what a flush would have to sync now. False: APPEND is held.
    pub(super) fn keep_no_more(&self) -> Result<bool, EngineError> {
        // So `open_unsynced` looks again.
        *self.opened.lock() = None;
        self.let_close_but(&BTreeSet::new())
    }

    /// The files of all segments but these may be closed, except those that may hold something not durable. What was
    /// written to the others is durable, whichever process synced it: so APPEND, under which segments are written, must
    /// be free for this.
    fn let_close_but(&self, kept: &BTreeSet<u32>) -> Result<bool, EngineError> {
        let Some(_append) = self.locks.try_hold(ControlBlock::append) else { return Ok(false) };
        let control = self.log.marks.control();
        let mut needed = kept.clone();
        let is_all_durable =
            control.published() <= control.durable() && control.last_written_epoch() == control.last_certified_epoch();
        let segments = self.known.lock();
        if !is_all_durable {
            needed.extend(segments.by_ordinal.range(self.log.first_unsynced_segment()..).map(|(_, number)| *number));
            // Also where this process has not followed yet.
            needed.insert(self.log.tail().segment);
        }
        segments.open.values().filter(|segment| !needed.contains(&segment.id)).try_for_each(|segment| {
            let ended = segment.file.keep_open(false);
            ended.map_err(|error| EngineError::open(&segment.name, error))
        })?;
        Ok(true)
    }

    /// Any file may be closed: nothing is made durable any more but what is erased.
    pub(super) fn keep_none(&self) {
        for segment in self.known.lock().open.values() {
            // No error: it is not opened.
            let _not_kept = segment.file.keep_open(false);
        }
    }

    /// Closes what was deleted, by whichever process; the numbers of those segments.
    pub(super) fn close_deleted_slots(&self) -> Vec<u32> {
        let mut segments = self.known.lock();
        let Known { open, by_ordinal } = &mut *segments;
        let is_deleted = |segment: &Segment| match segment.file.bytes() {
            Ok(bytes) => bytes == 0,
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        };
        let deleted: Vec<u32> = open.values().filter(|segment| is_deleted(segment)).map(|segment| segment.id).collect();
        for segment in deleted.iter().filter_map(|number| open.get(number)) {
            // Others may have the file for longer. No error: it is not opened.
            let _not_kept = segment.file.keep_open(false);
        }
        open.retain(|number, _| !deleted.contains(number));
        by_ordinal.retain(|_, number| !deleted.contains(number));
        deleted
    }

    /// The segments and their bytes, for the status.
    pub(super) fn segment_sizes(&self) -> (usize, u64) {
        let segments = self.known.lock();
        (segments.open.len(), segments.open.values().map(|segment| segment.bytes).sum())
    }

    /// The segment files between the segments `first` and `last`, in log order.
    pub(crate) fn segments_between(&self, first: u64, last: u64) -> Result<Vec<Segment>, EngineError> {
        let known = |ordinal: u64| {
            let number = self.known.lock().by_ordinal.get(&ordinal).copied();
            number.map_or(Ok(None), |number| self.segment_if_there(number))
        };
        let mut segments = Vec::new();
        for ordinal in first..=last {
            let mut segment = known(ordinal)?;
            if segment.is_none() {
                // One look for all that are unknown.
                self.note_segments(ordinal, last)?;
                segment = known(ordinal)?;
            }
            segments.push(segment.ok_or_else(|| self.log.no_segment(ordinal))?);
        }
        Ok(segments)
    }

    /// Looks in which segment files the segments between `first` and `last` lie.
    fn note_segments(&self, first: u64, last: u64) -> Result<(), EngineError> {
        for Found { segment, header } in self.all_slots()? {
            if let Some(header) = header.filter(|header| (first..=last).contains(&header.ordinal)) {
                self.note_ordinal(header.ordinal, segment.id);
            }
        }
        Ok(())
    }

    /// Opens the segments that a flush would have to sync now, and the one that it may begin; the log ends in segment `last`. A process without descriptors shall not publish what it cannot make
    /// durable.
    ///
    /// # Errors
    /// One cannot be opened.
    pub(super) fn open_unsynced(&self, last: u64) -> Result<(), EngineError> {
        let next = self.log.marks.control().next_segment();
        // What is open stays open.
        if *self.opened.lock() == Some((last, next)) {
            return Ok(());
        }
        // First, for what is opened here: the process may have no other descriptor.
        self.keep_no_more()?;
        match self.segments_between(self.log.first_unsynced_segment(), last) {
            Ok(unsynced) => {
                if self.keep_open(&unsynced, next)? {
                    *self.opened.lock() = Some((last, next));
                }
                Ok(())
            }
            Err(error) if error.is_open_failure() => Err(error),
            // Without APPEND it may have become another segment meanwhile.
            Err(_) => Ok(()),
        }
    }

    /// The batch that an entry of the commit ring speaks of; `None` if it is not there. Read piece by piece: no memory for a
    /// length before its bytes were there.
    pub(super) fn batch_of(&self, entry: &CommitEntry) -> Result<Option<Batch>, EngineError> {
        let Some(segment) = self.segment_if_there(entry.segment)? else { return Ok(None) };
        let header = SegmentHeader {
            log_id: self.log.log_id,
            block_bytes: self.log.block_bytes,
            page_bytes: self.log.page_bytes,
            segment_bytes: segment.bytes,
            ordinal: entry.ordinal,
            first_sequence: entry.sequence,
            chain: entry.chain,
        };
        let open = OpenFile { path: self.log.dir.path().join(&segment.name), file: segment.file.clone() };
        let batch = match (SegmentReader { open, header }).head_at(entry.offset) {
            Err(LogError::OtherVersion { .. }) => None,
            head => if_there(head)?,
        };
        Ok(batch.filter(|batch| batch.header.sequence == entry.sequence && batch.chain_after == entry.chain))
    }
}
