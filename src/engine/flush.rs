//! Epochs: group commit. The first committer that finds no flush in progress leads: it stores the epoch record of what
//! is published, writes the certificate, syncs once for all commits in it, and notifies those that wait for that epoch
//! (`durability` says how they are woken).

use super::append::Append;
use super::context::LogContext;
use super::epoch_counts::EpochCounts;
use super::error::EngineError;
use super::follow::Follower;
use super::leader::{Leader, Leading};
use super::log_frames::LogFrames;
use super::page_one::{PageOne, PageOneCopy};
use super::poison::{Failed, Poison};
use super::segment_file::sync_all;
use super::segment_files::SegmentFiles;
use super::segments::Segments;
use super::tail::{Begun, LogTail, Place, Record};
use super::undurable::Undurable;
use super::wakes::NextWake;
use crate::interleave::Instant;
use crate::log::format::Certificate;
use crate::shared::EpochRecord;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

/// Below this sync time waiting for more commits costs more than it gains (`docs/measurements.md`).
const GATHER_SYNC_MIN: Duration = Duration::from_micros(20);

/// A sync that costs less is no wait for the disk: to hand WRITE to another thread or process costs as much.
const SYNC_FREE: Duration = Duration::from_micros(10);

/// Commits that are counted while the table is locked, before APPEND is taken.
const COMMITS_AT_ONCE: u64 = 64;

/// The epoch of a batch that carries its own certificate.
pub(crate) struct SelfSealed {
    /// Held until the flush is over.
    pub(super) leader: Leader,
    pub(crate) certificate: Certificate,
}

/// Writes epochs and makes them durable.
pub(crate) struct Flusher {
    log: Arc<LogContext>,
    files: Arc<SegmentFiles>,
    tail: Arc<LogTail>,
    append: Arc<Append>,
    poison: Arc<Poison>,
    undurable: Arc<Undurable>,
    segments: Arc<Segments>,
    frames: Arc<LogFrames>,
    follower: Arc<Follower>,
    page_one: Arc<PageOneCopy>,
    leading: Arc<Leading>,
}

/// What [`Flusher`] writes with.
pub(super) struct FlusherParts<'a> {
    pub(super) log: &'a Arc<LogContext>,
    pub(super) files: &'a Arc<SegmentFiles>,
    pub(super) tail: &'a Arc<LogTail>,
    pub(super) append: &'a Arc<Append>,
    pub(super) poison: &'a Arc<Poison>,
    pub(super) undurable: &'a Arc<Undurable>,
    pub(super) segments: &'a Arc<Segments>,
    pub(super) frames: &'a Arc<LogFrames>,
    pub(super) follower: &'a Arc<Follower>,
    pub(super) page_one: &'a Arc<PageOneCopy>,
    pub(super) leading: &'a Arc<Leading>,
}

impl Flusher {
    pub(super) fn new(parts: &FlusherParts<'_>) -> Flusher {
        Flusher {
            log: Arc::clone(parts.log),
            files: Arc::clone(parts.files),
            tail: Arc::clone(parts.tail),
            append: Arc::clone(parts.append),
            poison: Arc::clone(parts.poison),
            undurable: Arc::clone(parts.undurable),
            segments: Arc::clone(parts.segments),
            frames: Arc::clone(parts.frames),
            follower: Arc::clone(parts.follower),
            page_one: Arc::clone(parts.page_one),
            leading: Arc::clone(parts.leading),
        }
    }

    /// Holding LEADER only: unless a sync is very fast, waits for the committers that were just woken, so that they need not
    /// wait for two syncs; for as many as the last flushes released or left. They come one after the other: it waits for the
    /// next one as long as that costs those that are there less than their share of the time since the last flush, and no
    /// longer than a sync takes.
    pub(super) fn gather(&self) {
        let (marks, control) = (&self.log.marks, self.log.marks.control());
        let goal = control.flush_group();
        let sync = Duration::from_nanos(control.sync_nanos());
        let mut pending = marks.syncs_pending();
        if goal <= 1 || sync < GATHER_SYNC_MIN || pending >= goal {
            return;
        }
        let began = Instant::now();
        let (at_most, mut last) = (self.log.settings.flush_delay_max(), began);
        control.set_gather_goal(goal);
        loop {
            let ticket = control.gathered().ticket();
            let (now, then) = (Instant::now(), pending);
            pending = marks.syncs_pending();
            if pending >= goal {
                break;
            }
            if pending > then {
                last = now;
            }
            let gathered_for = now.saturating_duration_since(began);
            let share = (sync + gathered_for) / u32::try_from(pending.max(1)).unwrap_or(u32::MAX);
            let gap = share.min(sync);
            let left = (last + gap).saturating_duration_since(now).min(at_most.saturating_sub(gathered_for));
            if left.is_zero() {
                break;
            }
            let _notified_or_late = control.gathered().wait(ticket, left);
        }
        control.set_gather_goal(0);
    }

    /// Whether the next certificate of this process moves B: it is doubled then, and does not fit into a batch.
    pub(super) fn moves_backfilled(&self) -> bool {
        self.page_one.to_carry().is_some()
    }

    /// A commit that wants durability is published.
    pub(crate) fn notify_gathering_leader(&self) {
        let control = self.log.marks.control();
        let goal = control.gather_goal();
        if goal > 0 && self.log.marks.syncs_pending() >= goal {
            control.gathered().notify();
        }
    }

    /// One epoch: everything that is published is sealed and made durable. `mark`: also if nothing is new, so that
    /// a durable certificate carries the present D and B.
    ///
    /// # Errors
    /// The write or the sync failed: the engine is poisoned.
    pub(crate) fn flush(&self, leader: &Leader, mark: bool) -> Result<Option<NextWake>, EngineError> {
        match self.write_epoch(leader, mark)? {
            Some(epoch) => self.sync_and_seal(leader, epoch),
            None => Ok(None),
        }
    }

    /// Most of what the next certificate says of its commits, before APPEND is taken, for which the committers wait.
    fn count_ahead(&self) -> Result<EpochCounts, EngineError> {
        self.log.check_poison()?;
        let mut counts = EpochCounts::after(self.log.marks.durable());
        if self.log.is_active() {
            self.follower.follow(self.log.marks.published())?;
            while !self.frames.read().count(&mut counts, COMMITS_AT_ONCE) {}
        }
        Ok(counts)
    }

    /// Its first half: everything that is published is sealed by a certificate that is written; `None`: there was nothing.
    ///
    /// # Errors
    /// As [`Flusher::flush`].
    pub(crate) fn write_epoch(&self, leader: &Leader, mark: bool) -> Result<Option<u64>, EngineError> {
        let copy = self.page_one.to_carry();
        let mut counts = self.count_ahead()?;
        let (mut append, place) = loop {
            let append = self.append.lock()?;
            self.log.check_poison()?;
            let hi = self.log.marks.published();
            let leads = leader.leads(&append) || crate::drops("lease-cut");
            if !leads || !self.log.is_active() || (self.log.marks.durable() >= hi && !mark) {
                return Ok(None);
            }
            let kind = if copy.is_some() { Record::Doubled } else { Record::Certificate };
            match self.tail.place(&append, kind, hi + 1)? {
                Some(place) => break (append, place),
                None => {
                    drop(append);
                    self.segments.make_room(0)?;
                }
            }
        };
        let hi = self.log.marks.published();
        self.follower.follow(hi)?;
        let (counts, database_pages) = {
            let frames = self.frames.read();
            let durable = self.log.marks.durable();
            if counts.after != durable {
                // Only a leader makes commits durable, and LEADER is checked above. A certificate with counts of other
                // commits would make recovery refuse the log, so it is not left to that.
                counts = EpochCounts::after(durable);
            }
            frames.count(&mut counts, u64::MAX);
            (counts, frames.database_pages(hi))
        };
        let certificate = self.certificate(&counts, &place, hi, append.end()?.chain, database_pages, copy.as_deref());
        let bytes = match &copy {
            Some(copy) if !crate::drops("b-doubled") => {
                certificate.encode_doubled(self.log.block_bytes, &copy.bytes, copy.next_block_crc)
            }
            _ => certificate.encode().to_vec(),
        };
        let record = self.tail.write_record(&append, &place, &[&bytes]).and_then(|()| {
            crate::fault_point("leading_before_cut");
            let at = (place.segment.id, place.ordinal, place.offset);
            let record = self.append.store_epoch(&append, &certificate, at, copy.is_some());
            self.tail.mark_in_use(&append, &place);
            record
        });
        if let Err(error) = record {
            // Nothing is written then.
            if error.is_open_failure() {
                return Err(error);
            }
            self.poison.poison(&append, &error.to_string(), Failed::Write(Begun::at(&place)));
            return Err(self.log.poisoned_as(error));
        }
        self.tail.advance(&mut append, place, certificate.chain);
        drop(append);
        Ok(Some(certificate.epoch))
    }

    /// The certificate of an epoch whose last batch carries it is written: syncs and seals.
    ///
    /// # Errors
    /// As [`Flusher::flush`].
    pub(super) fn flush_self_sealed(&self, self_sealed: &SelfSealed) -> Result<Option<NextWake>, EngineError> {
        self.log.check_poison()?;
        self.sync_and_seal(&self_sealed.leader, self_sealed.certificate.epoch)
    }

    /// Syncs every file that holds part of what was written since the last certificate, up to the record of this epoch,
    /// without APPEND. Does nothing if another process has taken LEADER meanwhile: that one finishes the flush.
    pub(crate) fn sync_and_seal(&self, leader: &Leader, epoch: u64) -> Result<Option<NextWake>, EngineError> {
        let control = self.log.marks.control();
        let wanted = self.log.marks.syncs_requested();
        let mut written_again = false;
        loop {
            if control.last_certified_epoch() >= epoch {
                return Ok(None);
            }
            let began = Instant::now();
            let synced = control.epoch(epoch).ok_or(EngineError::NoLog).and_then(|record| self.sync_to_epoch(&record));
            crate::fault_point("sealing");
            // Under APPEND: a process that poisons now erases these records, or finds them durable, and so does one
            // that takes LEADER.
            let append = match &synced {
                // Nothing was synced then, and nothing failed: the next leader does it.
                Err(error) if error.is_open_failure() => return synced.map(|_| None),
                Err(_) => self.append.lock_unrepaired(),
                Ok(_) => self.append.lock_to_seal()?,
            };
            if !leader.leads(&append) && !crate::drops("lease-seal") {
                return Ok(None);
            }
            self.log.check_poison()?;
            let is_young = match synced {
                Ok(is_young) => is_young,
                Err(error) => {
                    self.poison.poison(&append, &error.to_string(), Failed::Flush);
                    return Err(self.log.poisoned_as(error));
                }
            };
            let in_doubt = control.is_sync_in_doubt() && !crate::drops("sync-in-doubt");
            if !in_doubt && (written_again || !is_young || crate::drops("lease-young-descriptor")) {
                self.leading.note_lease(began.elapsed());
                return Ok(Some(self.sealed(epoch, wanted)));
            }
            // A process that got an error of a sync may be dead or stopped, and this sync proves nothing.
            self.undurable.prove(&append)?;
            written_again = true;
        }
    }

    /// True: LEADER was once taken from a live process, and a file was opened here when what is to be verified was
    /// written already. A failed write-back may have been reported to that process, and is then not reported to this
    /// open file.
    fn sync_to_epoch(&self, record: &EpochRecord) -> Result<bool, EngineError> {
        let segments = self.files.segments_between(self.log.first_unsynced_segment(), record.ordinal)?;
        let durable = self.log.marks.durable();
        crate::fault_point("leading_uncertified");
        let began = Instant::now();
        let unsynced = if crate::drops("epoch-all-segments") { segments.len() - 1 } else { 0 };
        if !crate::drops("epoch-sync") {
            sync_all(&segments[unsynced..])?;
        }
        self.measured_sync(began.elapsed());
        // After the sync, which may have opened one again.
        let published = self.log.marks.published();
        let is_young = segments.iter().any(|segment| segment.opened_at(published) > durable);
        Ok(is_young && self.log.marks.control().was_led_away())
    }

    /// The epoch is durable, and with it what its certificate says of D and B.
    pub(super) fn sealed(&self, epoch: u64, wanted: u64) -> NextWake {
        let control = self.log.marks.control();
        let group = self.log.marks.syncs_pending();
        self.log.marks.certify(epoch, wanted);
        // Committers that are not woken yet are of the next group, too.
        control.set_flush_group(group.max(control.flush_group() * 7 / 8));
        self.log.counters.flushes.fetch_add(1, SeqCst);
        NextWake::first(&self.log, epoch)
    }

    /// Syncs what was written since the last certificate, to the record at `place`, under APPEND (the conservative path).
    pub(crate) fn sync_to(&self, place: &Place) -> Result<(), EngineError> {
        let before = place.ordinal - u64::from(place.begins_segment());
        let mut segments = self.files.segments_between(self.log.first_unsynced_segment(), before)?;
        if crate::drops("conservative-segments-before") {
            segments.clear();
        }
        if place.begins_segment() || crate::drops("conservative-segments-before") {
            segments.push(place.segment.clone());
        }
        if crate::drops("conservative-sync") {
            return Ok(());
        }
        sync_all(&segments)
    }

    /// Whether a sync costs almost nothing here (a file system in memory): then each writer flushes for itself, and
    /// keeps writing like one that does not wait.
    pub(crate) fn sync_is_free(&self) -> bool {
        let nanos = self.log.marks.control().sync_nanos();
        nanos > 0 && Duration::from_nanos(nanos) < SYNC_FREE
    }

    /// A moving average, so that a leader knows what a sync costs here.
    fn measured_sync(&self, took: Duration) {
        let took = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let before = self.log.marks.control().sync_nanos();
        let average = if before == 0 { took } else { before - before / 8 + took / 8 };
        self.log.marks.control().set_sync_nanos(average);
    }

    /// The certificate of the epoch that ends with commit `hi`, in the record at `place`. It moves B if it is to be doubled,
    /// with this copy.
    pub(crate) fn certificate(
        &self,
        counts: &EpochCounts,
        place: &Place,
        hi: u64,
        chain: u64,
        database_pages: u32,
        copy: Option<&PageOne>,
    ) -> Certificate {
        let durable = self.log.marks.durable();
        Certificate {
            log_id: self.log.log_id,
            ordinal: place.ordinal,
            offset: place.offset,
            epoch: self.log.marks.epoch() + 1,
            lo: durable + 1,
            hi,
            durable,
            backfilled: copy.map_or(self.log.marks.certified().backfilled, |copy| copy.sequence),
            chain,
            batches: counts.batches,
            frames: counts.frames,
            distinct_pages: counts.pages.len() as u64,
            database_pages,
            fallback: false,
            clean_end: false,
            lane_frames: counts.lane_frames.clone(),
            copy: None,
        }
    }
}
