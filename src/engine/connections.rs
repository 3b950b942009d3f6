//! The connections of an engine.

use super::context::LogContext;
use super::error::EngineError;
use super::log_frames::LogFrames;
use super::membership::{INIT_WAIT, Membership};
use super::owner_lock::OwnerLocks;
use super::queue::{ConnectionId, WriteQueue};
use crate::os::now_us;
use crate::shared::{CONTROL_NAME, PageLeases, SNAPSHOT_SLOTS, Sharing, SnapshotSlot};
use crate::sync::Mutex;
use std::io;
use std::sync::Arc;

#[derive(Debug, Default)]
struct Counted {
    last_id: ConnectionId,
    count: usize,
}

/// A connection's place in the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Connection {
    pub(crate) id: ConnectionId,
    /// Its snapshot slot.
    slot: SnapshotSlot,
}

/// What a connection that allocates pages beside others may take without meeting them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Leased(Sharing);

impl Leased {
    /// Whether a page was leased to it beyond the end, when it was the end.
    pub(crate) fn is_own(&self, page: u32) -> bool {
        self.0.own.contains(&u64::from(page))
    }

    /// Whether what was leased to it beyond the end is of a time when the database was far larger than `pages` pages.
    pub(crate) fn is_far(&self, pages: u32) -> bool {
        self.0.is_far(pages)
    }

    /// Whether a page of the freelist is its share.
    pub(crate) fn has(&self, page: u32) -> bool {
        let Leased(Sharing { place, sharers, others, .. }) = self;
        let is_of_others = || others.iter().any(|leased| leased.contains(&u64::from(page)));
        self.is_own(page) || ((page / SHARED_PAGES) % sharers.max(&1) == *place && !is_of_others())
    }
}

/// Neighbours on the freelist that one connection gets: what it takes lies close together in the file.
const SHARED_PAGES: u32 = 8;
/// How long one is remembered that has allocated beside others. Also a process that is stopped or dead.
const LEASE_US: u64 = 1_000_000;
/// How often that is stored, at most.
const NOTE_US: u64 = 50_000;

/// The connections of this process to the log, and their snapshots.
pub(crate) struct Connections {
    log: Arc<LogContext>,
    locks: Arc<OwnerLocks>,
    queue: Arc<WriteQueue>,
    membership: Arc<Membership>,
    frames: Arc<LogFrames>,
    counted: Mutex<Counted>,
}

impl Connections {
    pub(super) fn new(
        log: &Arc<LogContext>,
        locks: &Arc<OwnerLocks>,
        queue: &Arc<WriteQueue>,
        membership: &Arc<Membership>,
        frames: &Arc<LogFrames>,
    ) -> Connections {
        let (log, locks, queue) = (Arc::clone(log), Arc::clone(locks), Arc::clone(queue));
        let (membership, frames) = (Arc::clone(membership), Arc::clone(frames));
        Connections { log, locks, queue, membership, frames, counted: Mutex::default() }
    }

    /// One more connection.
    ///
    /// # Errors
    /// All snapshot slots are taken, by all processes together; or there is no space for one.
    pub(crate) fn add(&self) -> Result<Connection, EngineError> {
        let claimed = self.claim_snapshot_slot().map_err(|e| EngineError::write(CONTROL_NAME, e))?;
        let Some(slot) = claimed else {
            return Err(EngineError::TooManyConnections { connections: SNAPSHOT_SLOTS, file: self.log.path.clone() });
        };
        let mut connections = self.counted.lock();
        connections.last_id += 1;
        connections.count += 1;
        self.frames.recent.set_connections(connections.count);
        Ok(Connection { id: connections.last_id, slot })
    }

    fn claim_snapshot_slot(&self) -> io::Result<Option<SnapshotSlot>> {
        let claimed = self.log.marks.claim_snapshot_slot()?;
        if claimed.is_some() {
            return Ok(claimed);
        }
        // Snapshots of killed processes stay until a checkpoint clears them.
        let _resting = self.membership.one_thread.lock();
        let member = self.log.marks.member();
        let Ok(has_init) = member.wait_init(INIT_WAIT) else { return Ok(None) };
        if has_init {
            member.control().snapshot_slots().free_idle(|owner| member.is_alive(owner));
            if member.end_init().is_err() {
                return Ok(None);
            }
        }
        self.log.marks.claim_snapshot_slot()
    }

    /// The connection goes; true: it was the last one.
    pub(crate) fn remove(&self, connection: Connection) -> bool {
        self.log.marks.free_snapshot_slot(connection.slot);
        self.queue.forget(connection.id);
        let mut connections = self.counted.lock();
        connections.count -= 1;
        self.frames.recent.set_connections(connections.count);
        connections.count == 0
    }

    /// The number of connections.
    pub(crate) fn count(&self) -> usize {
        self.counted.lock().count
    }

    /// The snapshot of a transaction that begins now: what is visible, or for a connection that is likely to
    /// write the newest published state.
    ///
    /// # Errors
    /// The control block is damaged.
    pub(crate) fn take_snapshot(&self, connection: Connection, newest: bool) -> Result<u64, EngineError> {
        let sequence = self.log.marks.take_snapshot(connection.slot, newest && !self.log.is_poisoned())?;
        crate::fault_point("reading");
        Ok(sequence)
    }

    /// The transaction is over.
    pub(crate) fn drop_snapshot(&self, connection: Connection) {
        self.log.marks.end_snapshot(connection.slot);
    }

    fn leases(&self) -> PageLeases<'_> {
        PageLeases::of(self.log.marks.control())
    }

    /// Whether transactions have allocated pages beside each other of late, in any process.
    pub(crate) fn allocate_beside_others(&self) -> bool {
        let last_us = self.leases().allocated_us();
        last_us != 0 && now_us().saturating_sub(last_us) < LEASE_US
    }

    /// One has just done so, or has tried.
    pub(crate) fn note_allocation(&self) {
        let (leases, now_us) = (self.leases(), now_us());
        if now_us.saturating_sub(leases.allocated_us()) > NOTE_US {
            leases.set_allocated_us(now_us);
        }
    }

    /// The share of the freelist of this connection, among those that allocate.
    pub(crate) fn lease(&self, connection: Connection) -> Leased {
        Leased(self.leases().share_pages(connection.slot, now_us(), LEASE_US))
    }

    /// `count` pages beyond the end of the database, which has `database_pages`, that no other connection has leased: the first.
    pub(crate) fn lease_beyond(&self, connection: Connection, database_pages: u32, count: u32) -> u32 {
        self.leases().lease_beyond(connection.slot, (database_pages, count), now_us(), LEASE_US)
    }

    /// After a busy timeout that ended without the write lock: `sqlite3_log` says which process has it.
    pub(crate) fn warn_blocked_writer(&self, connection: ConnectionId) {
        if let Some(owner) = self.queue.kept_waiting_by(connection) {
            self.locks.warn_blocked_by("WRITE", owner);
        }
    }
}
