//! A commit: prepare (may fail, writes nothing), publish (writes the batch), acknowledge.

use super::activate::Activation;
use super::append::Append;
use super::batch_images::BatchImages;
use super::context::LogContext;
use super::durability::Durability;
use super::epoch_counts::EpochCounts;
use super::error::EngineError;
use super::flush::Flusher;
use super::flush::SelfSealed;
use super::follow::Follower;
use super::frames::{FileId, LogCommit, NewFrame};
use super::leader::Leader;
use super::lease::Lease;
use super::log_frames::LogFrames;
use super::poison::Failed;
use super::queue::WriteQueue;
use super::segment_files::SegmentFiles;
use super::segments::{Segments, UNDURABLE_SEGMENTS};
use super::tail::LogTail;
use super::tail::{AppendGuard, Begun, Place, Record};
use crate::log::format::{self, BatchHeader, Descriptor};
use crate::shared::{CONTROL_NAME, CommitEntry, PAGES_INLINE, commit_ring};
use crate::view::Lane;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, UNIX_EPOCH};

/// Where no commit wants durability, this part of the commit ring may be written before a flush is due, or `UNDURABLE_SEGMENTS`: long
/// before a writer has to wait for one (`undurable_backlog_is_full`).
const UNDURABLE_PART: u64 = 8;

/// A batch that is written and not published.
pub(crate) struct Written {
    header: BatchHeader,
    descriptors: Vec<Descriptor>,
    place: Place,
    chain: u64,
    spill: Option<u32>,
}

impl Written {
    fn begun(&self) -> Begun {
        Begun::at(&self.place)
    }
}

/// What a commit is, beside its frames.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CommitFacts {
    pub(crate) sequence: u64,
    pub(crate) database_pages: u32,
    pub(crate) wants_durable: bool,
    pub(crate) lane: u16,
    /// The number of the spill file, if the lane has one.
    pub(crate) spill: Option<u32>,
    /// It may be checkpointed when the database is idle.
    pub(crate) checkpoint_when_idle: bool,
}

/// What the engine's own threads have to do after a commit.
#[derive(Clone, Copy, Debug)]
pub(super) struct Due {
    pub(super) segment: bool,
    pub(super) watch: bool,
    pub(super) flush: bool,
}

/// A published commit.
pub(crate) struct Published {
    pub(super) due: Due,
    /// The number of its first frame.
    pub(crate) first_number: u64,
    /// The certificate is in the batch: the writer leads, and has to flush it.
    pub(crate) self_sealed: Option<SelfSealed>,
}

/// A batch that is written and not published, since something may still fail: on the conservative path, beside a
/// super-journal, or in a transaction over several databases. Its owner holds APPEND, and, where the commit wants
/// durability, LEADER: the batch has its certificate then, and is synced.
pub(crate) struct PreparedBatch {
    append: AppendGuard,
    leader: Option<Leader>,
    written: Written,
    facts: CommitFacts,
}

/// The pages that fit the entry of the commit ring.
fn inline_pages(descriptors: &[Descriptor]) -> [u32; PAGES_INLINE] {
    let mut pages = [0; PAGES_INLINE];
    if descriptors.len() <= PAGES_INLINE {
        for (page, descriptor) in pages.iter_mut().zip(descriptors) {
            *page = descriptor.page;
        }
    }
    pages
}

/// Microseconds since 1970 began, by the clock of the machine; 0 before that.
fn wall_clock_us() -> u64 {
    let since = UNIX_EPOCH.elapsed().unwrap_or(Duration::ZERO);
    u64::try_from(since.as_micros()).unwrap_or(0)
}

/// Writes and publishes batches.
pub(crate) struct Committer {
    log: Arc<LogContext>,
    queue: Arc<WriteQueue>,
    files: Arc<SegmentFiles>,
    tail: Arc<LogTail>,
    append: Arc<Append>,
    segments: Arc<Segments>,
    follower: Arc<Follower>,
    frames: Arc<LogFrames>,
    flusher: Arc<Flusher>,
    lease: Arc<Lease>,
    durability: Arc<Durability>,
    activation: Arc<Activation>,
}

/// What [`Committer`] writes with.
pub(super) struct CommitterParts<'a> {
    pub(super) log: &'a Arc<LogContext>,
    pub(super) queue: &'a Arc<WriteQueue>,
    pub(super) files: &'a Arc<SegmentFiles>,
    pub(super) tail: &'a Arc<LogTail>,
    pub(super) append: &'a Arc<Append>,
    pub(super) segments: &'a Arc<Segments>,
    pub(super) follower: &'a Arc<Follower>,
    pub(super) flusher: &'a Arc<Flusher>,
    pub(super) lease: &'a Arc<Lease>,
    pub(super) durability: &'a Arc<Durability>,
    pub(super) activation: &'a Arc<Activation>,
}

impl Committer {
    pub(super) fn new(parts: &CommitterParts<'_>) -> Committer {
        Committer {
            log: Arc::clone(parts.log),
            queue: Arc::clone(parts.queue),
            files: Arc::clone(parts.files),
            tail: Arc::clone(parts.tail),
            append: Arc::clone(parts.append),
            segments: Arc::clone(parts.segments),
            follower: Arc::clone(parts.follower),
            frames: Arc::clone(&parts.follower.frames),
            flusher: Arc::clone(parts.flusher),
            lease: Arc::clone(parts.lease),
            durability: Arc::clone(parts.durability),
            activation: Arc::clone(parts.activation),
        }
    }

    /// Makes sure that the commit of this lane can be written: the log is active, its segment has room or the
    /// next one has, the spill file is durable. No byte of the batch is written.
    ///
    /// # Errors
    /// A full disk, a medium that fails, a poisoned engine: nothing is promised, SQLite rolls back. `LockHeld`: a process that does
    /// not go on has what this needs; the transaction may be committed later.
    pub(crate) fn prepare(&self, lane: &Lane) -> Result<(), EngineError> {
        self.durability.with_descriptors(|| self.try_prepare(lane))
    }

    fn try_prepare(&self, lane: &Lane) -> Result<(), EngineError> {
        self.log.check_poison()?;
        self.activation.activate()?;
        if let Some(spill) = lane.spill() {
            if !crate::drops("spill-sync") {
                spill.sync().map_err(|e| EngineError::sync("the spill file", e))?;
            }
            if !crate::drops("spill-sync-name") {
                self.log.dir.sync().map_err(|e| EngineError::sync("the log directory", e))?;
            }
        }
        let mapping = self.log.marks.member().mapping();
        mapping.allocate_commit(self.log.marks.published() + 1).map_err(|e| EngineError::write(CONTROL_NAME, e))?;
        let batch_bytes = BatchImages::whole(lane, self.log.page_bytes).bytes;
        let ready = || {
            if !crate::drops("r6-room-in-prepare") {
                self.segments.make_room(batch_bytes)?;
            }
            if !crate::drops("unsynced-stay-open") {
                let last = self.tail.with_end(|end| end.map(|end| end.tail.ordinal));
                self.files.open_unsynced(last.unwrap_or_else(|| self.log.tail().ordinal))?;
            }
            // The writer of the batch needs what others have published, and publish must not fail.
            self.follower.follow(self.log.marks.published())
        };
        ready()?;
        if self.log.marks.undurable_backlog_is_full() {
            self.durability.wait_for_backlog()?;
        }
        if self.log.marks.control().append().holder().is_some() {
            // Of a process that is stopped: publish could not answer that it is busy.
            drop(self.append.lock_to_seal()?);
        }
        Ok(())
    }

    /// Writes the batch of this lane at the tail; with the certificate that seals it, if `leader` leads still.
    fn write_batch(
        &self,
        mut append: AppendGuard,
        lane: &Lane,
        facts: CommitFacts,
        leader: Option<&Leader>,
    ) -> Result<(AppendGuard, Written), EngineError> {
        let whole = BatchImages::whole(lane, self.log.page_bytes);
        let (place, leads, images) = loop {
            self.log.check_poison()?;
            let leads = leader.is_some_and(|leader| leader.leads(&append) || crate::drops("lease-batch"));
            let images = if leads { self.in_fewest_blocks(&append, lane)? } else { whole.clone() };
            let batch = Record::Batch { bytes: images.bytes, is_sealed: leads };
            if let Some(place) = self.tail.place(&append, batch, facts.sequence)? {
                break (place, leads, images);
            }
            // Other processes' certificates took what prepare had found.
            drop(append);
            self.segments.make_room(whole.bytes)?;
            append = self.append.lock()?;
        };
        self.follower.follow(facts.sequence - 1)?;
        let chain = append.end()?.chain;
        // Of commit 1 recovery must know what was never written.
        let mask_of = if facts.sequence == 1 { format::mask_of_first } else { format::mask_of };
        let (descriptors, stored) = images.store(lane, facts.spill, mask_of);
        let mut header = BatchHeader {
            log_id: self.log.log_id,
            sequence: facts.sequence,
            ordinal: place.ordinal,
            offset: place.offset,
            bytes: place.bytes,
            frames: u32::try_from(descriptors.len()).map_err(|_| EngineError::NoLog)?,
            database_pages: facts.database_pages,
            lane: facts.lane,
            wants_durable: facts.wants_durable,
            time_us: wall_clock_us(),
            chain: if crate::drops("r1-chain") { self.log.log_id } else { chain },
            certificate: None,
        };
        let seal = |chain| {
            let mut counts = EpochCounts::after(self.log.marks.durable());
            self.frames.read().count(&mut counts, u64::MAX);
            counts.add(facts.lane, descriptors.iter().map(|descriptor| descriptor.page));
            self.flusher.certificate(&counts, &place, facts.sequence, chain, facts.database_pages, None)
        };
        let (head, chain) = format::encode_batch_sealed(&mut header, &descriptors, |chain| leads.then(|| seal(chain)))?;
        let parts: Vec<&[u8]> = match stored.is_empty() {
            true => std::iter::once(head.as_slice()).chain(lane.memory_pieces()).collect(),
            false => std::iter::once(head.as_slice()).chain(stored.iter().map(|image| &**image)).collect(),
        };
        let cleared = if facts.sequence == 1 { self.tail.clear_begun(&append, &place) } else { Ok(()) };
        if let Err(error) = cleared.and_then(|()| self.tail.write_record(&append, &place, &parts)) {
            // Nothing is written then.
            if error.is_open_failure() {
                return Err(error);
            }
            let erased = self.append.erase_unpublished(&append, &place);
            return Err(if erased { error } else { self.log.poisoned_as(error) });
        }
        Ok((append, Written { header, descriptors, place, chain, spill: facts.spill }))
    }

    /// The images of this lane in a batch that carries its certificate.
    fn in_fewest_blocks(&self, append: &AppendGuard, lane: &Lane) -> Result<BatchImages, EngineError> {
        let tail = append.end()?.tail.offset;
        Ok(BatchImages::in_fewest_blocks(lane, self.log.page_bytes, tail, |offset| self.log.round_up(offset)))
    }

    /// Publishes the batch: one atomic store of `published`, after its ring entry is complete.
    fn finish(&self, append: &mut AppendGuard, written: Written) -> Result<u64, EngineError> {
        let begun = written.begun();
        let Written { header, descriptors, place, chain, spill } = written;
        let segment = &place.segment;
        let commit = LogCommit {
            sequence: header.sequence,
            database_pages: header.database_pages,
            lane: header.lane,
            segment: segment.id,
            ordinal: place.ordinal,
            offset: place.offset,
            end: place.offset + header.bytes,
        };
        let entry = CommitEntry {
            sequence: header.sequence,
            wants_durable: header.wants_durable,
            ordinal: place.ordinal,
            segment: segment.id,
            offset: place.offset,
            end: place.offset + header.bytes,
            frames: header.frames,
            database_pages: header.database_pages,
            has_certificate: header.certificate.is_some(),
            has_spill: spill.is_some(),
            has_forms: descriptors.iter().any(|descriptor| !descriptor.form.is_plain()) && !crate::drops("ring-forms"),
            chain,
            lane: header.lane,
            pages: inline_pages(&descriptors),
        };
        let at = (segment.id, place.ordinal, place.offset);
        crate::fault_point("publish_before_store");
        let published = {
            // No thread follows the log meanwhile: the commit is in the table once.
            let mut frames = self.frames.write();
            self.log.marks.publish(&entry).map(|()| {
                frames.drop_to(self.log.marks.backfilled());
                frames.add_file(FileId::Segment(segment.id), &segment.file);
                if let Some(spill) = spill {
                    frames.add_spill(header.sequence, spill);
                }
                let first = frames.append(&commit, descriptors.iter().map(NewFrame::from));
                self.frames.set_followed(commit.sequence);
                first
            })
        };
        self.tail.mark_in_use(append, &place);
        if spill.is_some() && published.is_ok() {
            self.log.marks.forget_staged_spill();
        }
        let record = match &header.certificate {
            Some(certificate) if published.is_ok() => {
                crate::fault_point("leading_before_cut");
                self.append.store_epoch(append, certificate, at, false)
            }
            _ => Ok(()),
        };
        let counts = published.map_err(EngineError::from).and_then(|first_number| record.map(|()| first_number));
        if counts.is_ok() {
            self.tail.advance(append, place, chain);
        }
        counts.map_err(|error| {
            // Against what prepare made sure of: the control block is not what it was.
            let is_published = self.log.marks.published() >= header.sequence || crate::drops("r5-erase-refused");
            let failed = if is_published { Failed::Commit(header.sequence) } else { Failed::Write(begun) };
            self.append.poison.poison(append, &error.to_string(), failed);
            self.log.poisoned_as(error)
        })
    }

    /// Writes the batch and publishes it. The caller holds WRITE and has prepared. `may_lead`: it can flush right after.
    ///
    /// # Errors
    /// Nothing is published then, and the bytes are erased (or the engine is poisoned).
    pub(super) fn publish(&self, lane: &Lane, facts: CommitFacts, may_lead: bool) -> Result<Published, EngineError> {
        // Until it is published nothing is written that counts.
        self.durability.with_descriptors(|| self.try_publish(lane, facts, may_lead))
    }

    fn try_publish(&self, lane: &Lane, facts: CommitFacts, may_lead: bool) -> Result<Published, EngineError> {
        self.log.check_poison()?;
        let alone = || !self.queue.contended() && self.log.marks.control().flush_group() <= 1;
        // One that moves B does not fit into a batch.
        let may_be_self_sealed = may_lead && facts.wants_durable && !self.flusher.moves_backfilled();
        let self_sealed = may_be_self_sealed && (self.flusher.sync_is_free() || alone());
        let leader =
            if self_sealed { self.lease.try_lead().map(|leader| leader.answering(Some(facts.sequence))) } else { None };
        let append = self.append.lock()?;
        let (mut append, written) = self.write_batch(append, lane, facts, leader.as_ref())?;
        let certificate = written.header.certificate.clone();
        let first_number = self.finish(&mut append, written)?;
        let (low, tail) = (self.segments.is_low(&append), append.end.as_ref().map_or(0, |end| end.tail.ordinal));
        drop(append);
        // Before the next writer begins. A writer that does not wait for the disk commits many times before another connection
        // reads: the copies would cost more than the reads.
        if facts.wants_durable {
            self.frames.recent.keep(first_number, facts.sequence, lane);
        }
        crate::fault_point("after_publish");
        if facts.wants_durable {
            self.flusher.notify_gathering_leader();
        }
        self.log.counters.commits.fetch_add(1, SeqCst);
        let self_sealed = leader.zip(certificate).map(|(leader, certificate)| SelfSealed { leader, certificate });
        Ok(Published { first_number, due: self.due(low, tail, facts), self_sealed })
    }

    /// The conservative path, first half: everything before it is made durable, then batch and certificate are written
    /// and synced. A commit that does not want durability is only written.
    ///
    /// # Errors
    /// Nothing is published. A failed sync poisons.
    pub(crate) fn write_prepared(&self, lane: &Lane, facts: CommitFacts) -> Result<PreparedBatch, EngineError> {
        self.durability.with_descriptors(|| self.try_write_prepared(lane, facts))
    }

    fn try_write_prepared(&self, lane: &Lane, facts: CommitFacts) -> Result<PreparedBatch, EngineError> {
        let leader = if facts.wants_durable { Some(self.durability.lead_before_all()?) } else { None };
        let append = self.append.lock()?;
        let (append, written) = self.write_batch(append, lane, facts, leader.as_ref())?;
        if leader.is_some() && written.header.certificate.is_none() {
            // LEADER was taken away since.
            let holder = "another process, which leads now".to_owned();
            let held = EngineError::LockHeld { what: "LEADER", file: self.log.path.clone(), holder };
            let erases = || self.append.erase_unpublished(&append, &written.place);
            return Err(if crate::drops("r5-erase-unled") || erases() { held } else { self.log.poisoned_as(held) });
        }
        if leader.is_some()
            && let Err(error) = self.flusher.sync_to(&written.place)
        {
            // Nothing was synced then.
            if error.is_open_failure() && self.append.erase_unpublished(&append, &written.place) {
                return Err(error);
            }
            self.append.poison.poison(&append, &error.to_string(), Failed::Write(written.begun()));
            return Err(self.log.poisoned_as(error));
        }
        if leader.is_some() {
            crate::fault_point("written_early");
        }
        Ok(PreparedBatch { append, leader, written, facts })
    }

    /// The conservative path, second half.
    ///
    /// # Errors
    /// The control block refuse: the engine is poisoned.
    pub(super) fn commit_prepared(&self, early: PreparedBatch) -> Result<Published, EngineError> {
        let PreparedBatch { mut append, leader, written, facts } = early;
        let certificate = written.header.certificate.clone();
        let first_number = self.finish(&mut append, written)?;
        if let Some(certificate) = certificate {
            drop(self.flusher.sealed(certificate.epoch, self.log.marks.syncs_requested()));
        }
        let (low, tail) = (self.segments.is_low(&append), append.end.as_ref().map_or(0, |end| end.tail.ordinal));
        drop(append);
        crate::fault_point("after_publish");
        drop(leader);
        self.log.counters.commits.fetch_add(1, SeqCst);
        Ok(Published { first_number, due: self.due(low, tail, facts), self_sealed: None })
    }

    /// The transaction rolls back after all: its batch is zeroed and the zeros synced.
    ///
    /// # Errors
    /// The zeros could not be made durable: the engine is poisoned, the outcome unknown.
    pub(crate) fn rollback_prepared(&self, early: PreparedBatch) -> Result<(), EngineError> {
        let PreparedBatch { append, leader, written, .. } = early;
        let erased = self.append.erase_unpublished(&append, &written.place);
        drop(append);
        drop(leader);
        if erased { Ok(()) } else { self.log.check_poison() }
    }

    /// A commit is published, and the log ends in segment `tail`: what there is to do for the engine's own threads.
    fn due(&self, segment: bool, tail: u64, facts: CommitFacts) -> Due {
        let is_due = || self.is_flush_due(tail, facts.sequence);
        Due { segment, watch: facts.checkpoint_when_idle, flush: !facts.wants_durable && is_due() }
    }

    /// Whether so much is not durable that a flush is due, where the log ends in segment `tail`, with commit `last`.
    pub(super) fn is_flush_due(&self, tail: u64, last: u64) -> bool {
        tail >= self.log.first_unsynced_segment() + UNDURABLE_SEGMENTS
            || last.saturating_sub(self.log.marks.durable()) >= commit_ring() / UNDURABLE_PART
    }
}
