//! Operations for which the process has no file descriptor left (`EMFILE`, `ENFILE`).
//!
//! Nothing was begun then, and a moment later a descriptor may be free, or another process may have done what it is missing for.
//! So the operation is tried again: at once, if files of the log could be closed, and for [`PATIENCE`] in all, or
//! [`PATIENCE_ALONE`]. That time is the shortage's, not the statement's: once it is over, statements fail at once, until an
//! operation has succeeded again or none has failed for [`OVER_AFTER`].

use super::context::LogContext;
use super::error::EngineError;
use crate::interleave::Instant;
use crate::shared::TIMED_WAIT;
use crate::sync::Mutex;
use std::sync::Arc;
use std::time::Duration;

/// How long operations are tried again in one shortage, while another process may do what a descriptor is missing for.
const PATIENCE: Duration = Duration::from_secs(2);
/// The same where no other process is joined: only this one can close something.
const PATIENCE_ALONE: Duration = Duration::from_millis(500);
/// A failure this long after the last one begins another shortage.
const OVER_AFTER: Duration = Duration::from_secs(10);

/// Since when descriptors are missing, and when that was seen last; `None`: they are not.
pub(super) struct Shortage {
    log: Arc<LogContext>,
    seen: Mutex<Option<(Instant, Instant)>>,
}

impl Shortage {
    pub(super) fn new(log: &Arc<LogContext>) -> Shortage {
        Shortage { log: Arc::clone(log), seen: Mutex::default() }
    }

    /// A descriptor is missing now. How long that has been so.
    fn goes_on(&self) -> Duration {
        let mut seen = self.seen.lock();
        let now = Instant::now();
        let began = seen.filter(|(_, last)| last.elapsed() < OVER_AFTER).map_or(now, |(began, _)| began);
        *seen = Some((began, now));
        began.elapsed()
    }

    /// What was missing was there.
    pub(super) fn ends(&self) {
        *self.seen.lock() = None;
    }

    /// A descriptor is missing now. True: it has been missing for so long that no caller waits for one any more.
    pub(super) fn lasts(&self) -> bool {
        let lasts = self.goes_on();
        lasts >= PATIENCE || lasts >= PATIENCE_ALONE && self.log.marks.member().others().is_empty()
    }

    /// Like [`Shortage::lasts`] for an operation: `make_room` closes files; false: there is nothing more to
    /// close than before.
    pub(super) fn retry<T>(
        &self,
        mut act: impl FnMut() -> Result<T, EngineError>,
        make_room: impl Fn() -> bool,
    ) -> Result<T, EngineError> {
        let mut has_made_room = false;
        let mut failed_at: Option<Instant> = None;
        loop {
            let control = self.log.marks.control();
            let wake = control.flush_events().of(control.last_certified_epoch() + 1);
            let ticket = wake.ticket();
            let result = act();
            if !result.as_ref().is_err_and(EngineError::is_out_of_descriptors) {
                if failed_at.is_some() {
                    self.ends();
                }
                return result;
            }
            let is_over = failed_at.get_or_insert_with(Instant::now).elapsed() >= PATIENCE || self.lasts();
            if self.log.stopping.stops_here() || is_over && has_made_room {
                return result;
            }
            has_made_room = true;
            if !make_room() && !is_over {
                let _notified_or_not = wake.wait(ticket, TIMED_WAIT);
                // This one may not have led.
                wake.pass_on();
            }
        }
    }
}
