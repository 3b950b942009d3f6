//! CREATE: this process makes the next segment, or deletes one, which is reserved for it.
//!
//! Filling a segment and syncing it takes long, and a process may be stopped in it. So no lock that others need is held
//! meanwhile: the process has one of a few [reservations](crate::shared::Reservations), which keeps its file from
//! being taken, and APPEND covers the choice. Another process that needs the next segment waits for the one that makes
//! it as long as that one makes steps; then it overtakes it, and makes another segment. What becomes the next one is
//! decided under APPEND: the first that is large enough. One that comes later is a free segment.

use super::append::Append;
use super::context::LogContext;
use super::error::EngineError;
use super::owner_lock::{OwnerGuard, OwnerLocks, Which, least_lease};
use super::segment_file::Segment;
use super::segment_files::SegmentFiles;
use super::tail::AppendGuard;
use crate::interleave::Instant;
use crate::log::format::SegmentHeader;
use crate::shared::{Making, RESERVATIONS, Reservations, TIMED_WAIT};
use crate::sqlite::Code;
use crate::sync::Mutex;
use std::io;
use std::sync::Arc;
use std::time::Duration;

const CREATE: [Which; RESERVATIONS] = [
    |control| control.reservations().lock(0),
    |control| control.reservations().lock(1),
    |control| control.reservations().lock(2),
    |control| control.reservations().lock(3),
];

/// A segment of which nothing is needed any more.
pub(super) struct Free {
    pub(super) segment: Segment,
    pub(super) header: Option<SegmentHeader>,
    /// The newest commit that its records speak of; 0: it has none that counts.
    pub(super) last_sequence: u64,
    /// It has a header, of a segment before the tail.
    pub(super) is_used: bool,
}

/// CREATE, as this process sees it.
pub(super) struct Create {
    log: Arc<LogContext>,
    locks: Arc<OwnerLocks>,
    files: Arc<SegmentFiles>,
    append: Arc<Append>,
    /// The last step that was seen of each process that makes the next segment, and when.
    seen: Mutex<[Option<(Making, Instant)>; RESERVATIONS]>,
}

/// One segment at a time is reserved by its owner; dropped, it is not any more.
pub(super) struct Reservation {
    log: Arc<LogContext>,
    index: usize,
    _lock: OwnerGuard,
}

impl Reservation {
    /// The file of this segment is reserved from here on: one that no other process knows yet.
    pub(super) fn set_new_segment(&self, number: u32) {
        self.log.marks.control().reservations().set_segment(self.index, number);
    }

    /// The work goes on.
    pub(super) fn add_step(&self) {
        self.log.marks.control().reservations().add_step(self.index);
    }
}

/// What makes the next segment.
pub(super) enum NextMaker {
    /// This thread.
    Here(Reservation),
    /// Another one. `None`: all reservations are taken.
    Other(Option<Making>),
}

impl Create {
    pub(super) fn new(
        log: &Arc<LogContext>,
        locks: &Arc<OwnerLocks>,
        files: &Arc<SegmentFiles>,
        append: &Arc<Append>,
    ) -> Create {
        let (log, locks) = (Arc::clone(log), Arc::clone(locks));
        Create { log, locks, files: Arc::clone(files), append: Arc::clone(append), seen: Mutex::default() }
    }

    fn reservations(&self) -> &Reservations {
        self.log.marks.control().reservations()
    }

    /// Reserves the making of the next segment, unless a process or a thread makes it that makes steps.
    pub(super) fn reserve_next(&self) -> Result<NextMaker, EngineError> {
        if let Some(making) = self.maker_of_next() {
            return Ok(NextMaker::Other(Some(making)));
        }
        let append = self.append.lock_to_seal()?;
        if let Some(making) = self.maker_of_next() {
            return Ok(NextMaker::Other(Some(making)));
        }
        Ok(self.reserve(&append, true).map_or(NextMaker::Other(None), NextMaker::Here))
    }

    /// A reservation for segments that this thread deletes; `None`: all are taken.
    pub(super) fn reserve_deletion(&self) -> Result<Option<Reservation>, EngineError> {
        let append = self.append.lock_to_seal()?;
        Ok(self.reserve(&append, false))
    }

    fn reserve(&self, _append: &AppendGuard, is_next: bool) -> Option<Reservation> {
        let take = |which: &Which| self.locks.try_hold(*which).or_else(|| self.locks.try_take_over(*which));
        let (index, lock) = CREATE.iter().enumerate().find_map(|(index, which)| Some((index, take(which)?)))?;
        self.reservations().begin(index, is_next);
        Some(Reservation { log: Arc::clone(&self.log), index, _lock: lock })
    }

    /// All reservations: no thread makes or deletes a segment then.
    pub(super) fn reserve_all(&self) -> Result<Vec<OwnerGuard>, EngineError> {
        CREATE.iter().map(|which| self.locks.hold(*which, "CREATE")).collect()
    }

    /// What makes the next segment, and makes steps. Another process that makes none is overtaken.
    pub(super) fn maker_of_next(&self) -> Option<Making> {
        let member = self.log.marks.member();
        self.reservations().making().find(|making| {
            if making.owner == member.me() {
                return true;
            }
            if !member.is_alive(making.owner) {
                return false;
            }
            let is_stalled =
                self.stalled_for(*making) >= least_lease(self.log.marks.control()) && !crate::drops("create-overtaken");
            if is_stalled {
                self.reservations().overtake(making);
                let owner = self.log.describe(making.owner);
                self.log.report(Code::NOTICE, &format!("makes a segment instead of {owner}, which makes no progress"));
            }
            !is_stalled
        })
    }

    /// For how long no step has been seen of it.
    fn stalled_for(&self, making: Making) -> Duration {
        let seen = &mut self.seen.lock()[making.index];
        match seen {
            Some((before, since)) if *before == making => since.elapsed(),
            _ => {
                *seen = Some((making, Instant::now()));
                Duration::ZERO
            }
        }
    }

    /// Until no other thread or process makes the next segment.
    ///
    /// # Errors
    /// As those of a [bounded wait](OwnerLocks::bounded_wait).
    pub(super) fn wait_for_maker(&self) -> Result<(), EngineError> {
        let mut wait = self.locks.bounded_wait();
        while let Some(making) = self.maker_of_next() {
            self.locks.goes_on(&mut wait, "CREATE", Some(making.owner))?;
            self.wait_a_moment(Some(making));
        }
        Ok(())
    }

    /// Until this reservation may be over.
    pub(super) fn wait_a_moment(&self, making: Option<Making>) {
        let index = making.map_or(0, |making| making.index);
        self.reservations().lock(index).wait(TIMED_WAIT);
    }

    /// Whether a live process, this one too, has reserved the segment. Under APPEND it stays so until it is released.
    pub(super) fn is_reserved(&self, number: u32) -> bool {
        let member = self.log.marks.member();
        let mut reserved = self.reservations().segments(|owner| member.is_alive(owner));
        reserved.any(|segment| segment == number) && !crate::drops("create-reserved")
    }

    /// Reserves a segment that was found free. False: it is not free any more, or may not be.
    pub(super) fn reserve_free(&self, reservation: &Reservation, free: &Free) -> Result<bool, EngineError> {
        let Free { segment, header, is_used, .. } = free;
        {
            let _append = self.append.lock_to_seal()?;
            let next = self.log.marks.control().next_segment();
            let is_next = next == Some(segment.id) && !crate::drops("create-next-stays");
            // The log has gone on in a segment that a dead writer had begun: the header is the same, to the last bit.
            let last = self.log.tail().ordinal;
            let is_begun_again = !is_used && header.as_ref().is_some_and(|header| header.ordinal <= last);
            if is_next || self.is_reserved(segment.id) || is_begun_again && !crate::drops("create-begun-again") {
                return Ok(false);
            }
            self.reservations().set_segment(reservation.index, segment.id);
        }
        if crate::drops("create-looks-again") {
            return Ok(true);
        }
        // From here on no other process changes it. Meanwhile one may have: then it is in use, or was deleted.
        let now = match self.files.open_segment(segment.id) {
            Err(EngineError::Open { source, .. }) if source.kind() == io::ErrorKind::NotFound => return Ok(false),
            now => now?,
        };
        Ok(now.bytes == segment.bytes && self.files.header_of(&now)? == *header)
    }
}
