//! The connections of an engine.

use super::context::LogContext;
use super::error::EngineError;
use super::log_frames::LogFrames;
use super::membership::{INIT_WAIT, Membership};
use super::owner_lock::OwnerLocks;
use super::queue::{ConnectionId, WriteQueue};
use crate::shared::{SNAPSHOT_SLOTS, SnapshotSlot};
use crate::sync::Mutex;
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
    /// All snapshot slots are taken, by all processes together.
    pub(crate) fn add(&self) -> Result<Connection, EngineError> {
        let Some(slot) = self.claim_snapshot_slot() else {
            return Err(EngineError::TooManyConnections { connections: SNAPSHOT_SLOTS, file: self.log.path.clone() });
        };
        let mut connections = self.counted.lock();
        connections.last_id += 1;
        connections.count += 1;
        self.frames.recent.set_connections(connections.count);
        Ok(Connection { id: connections.last_id, slot })
    }

    fn claim_snapshot_slot(&self) -> Option<SnapshotSlot> {
        self.log.marks.claim_snapshot_slot().or_else(|| {
            // Snapshots of killed processes stay until a checkpoint clears them.
            let _resting = self.membership.one_thread.lock();
            let member = self.log.marks.member();
            if member.wait_init(INIT_WAIT).ok()? {
                member.control().snapshot_slots().free_idle(|owner| member.is_alive(owner));
                member.end_init().ok()?;
            }
            self.log.marks.claim_snapshot_slot()
        })
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

    /// After a busy timeout that ended without the write lock: `sqlite3_log` says which process has it.
    pub(crate) fn warn_blocked_writer(&self, connection: ConnectionId) {
        if let Some(owner) = self.queue.kept_waiting_by(connection) {
            self.locks.warn_blocked_by("WRITE", owner);
        }
    }
}
