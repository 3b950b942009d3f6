//! The layout of the control block, and the plain reads and stores on it.
//!
//! Everything is 64-bit atomics in the machine's own byte order (a `control` never outlives a boot,
//! and the magic shows the order). All zero is a valid beginning: nothing published, everything
//! free, all snapshots idle. So opening a database maps fresh memory and touches a page or two.
//!
//! | offset | size | what |
//! |---|---|---|
//! | 0 | 128 | identity: magic, layout version, boot id (2), log id, device, inode, block bytes, offset of the clock (us) |
//! | 128 | 64 | state, poison, mode, last commit that poisoning leaves, activation (2), change counter and bytes of the database at the claim |
//! | 192 | 4 x 64 | WRITE, APPEND, LEADER, CKPT: owner locks |
//! | 448 | 64 | `flush_events`: that of epoch e at e mod 4 |
//! | 512 | 64 | until when the grant in WRITE is valid (us) |
//! | 576 | 7 x 64 | `published`, `last_written_epoch`, `last_certified_epoch`, `visible`, `backfilled`, `checkpoint_target`, `recycled_below` |
//! | 1024 | 64 | settings: 0 is the default |
//! | 1088 | 4 x 64 + 64 | CREATE: four owner locks; their segments (4), their steps (4) |
//! | 1408 | 64 | EXCL: an owner lock |
//! | 1472 | 64 | `gathered` |
//! | 1536 | 64 | of the log: next segment, segment ids given, spill numbers given, database pages at `backfilled` (2), spill of WRITE's owner, sync in doubt, segments deleted |
//! | 1600 | 64 | of the flushes: commits that wanted durability, those that have it, gather goal, group, sync (ns), lease of LEADER (us), whether it was ever taken from a live process, bytes of the log in use of late |
//! | 1664 | 64 | `visible_wake` |
//! | 1728 | 64 | of readers: whether the database file was found to be another one, snapshots below this have ended; when what the log had in use last faded (us); entries of the commit ring that are allocated; whether a doubled certificate was begun |
//! | 1792 | 64 | process slots that have ever been acquired |
//! | 1856 | 128 x 128 | process slots: incarnation, pid, joined (us), waiting since (us), command (32 bytes); `turn` on its own line |
//! | 18240 | 64 | snapshot slots that have ever been claimed; of leases of pages: when transactions last allocated beside each other (us), leases given; the last snapshot slots, that are not allocated |
//! | 18304 | 2048 x 64 | snapshot slots: owner, complement of the sequence, since (us); leased pages when (us), the first and the last of those beyond the end |
//! | 149376 | 8192 x 128 | commit ring, entry of commit n at n mod 8192 |
//! | 1197952 | 1024 x 64 | epoch ring, entry of epoch e at e mod 1024 |
//!
//! The epoch ring is allocated at activation, the commit ring and most snapshot slots piece by piece ahead of the commits and
//! connections that first use them, the rest when the control block is made: until then nothing is stored in them. So a short life
//! pays for a piece, and not for a ring.
//!
//! What several processors store all the time lies on a 64-byte line of its own.

use super::event::Event;
use super::flush_events::FlushEvents;
use super::line::{Line, OwnLine};
use super::owner::{Owner, OwnerLock};
use super::process_slots::{Process, ProcessTable};
use super::reservations::Reservations;
use super::ring::{CommitRing, EpochRing};
use super::snapshots::{Snapshot, SnapshotTable};
use crate::interleave::step;
use crate::sync::atomic::AtomicU64;
use crate::sync::atomic::Ordering::SeqCst;
use std::mem::{offset_of, size_of};
use std::ops::Deref;

/// "pwalctl" and a byte that shows the byte order.
pub const MAGIC: u64 = u64::from_ne_bytes(*b"pwalctl\x01");
/// Raised by each change of the layout or of what a word means.
pub const LAYOUT_VERSION: u64 = 13;
/// The size of the control block, and of the file `control`.
pub const CONTROL_BYTES: usize = size_of::<ControlBlock>();

/// Settings that the control block holds.
pub const SETTINGS: usize = 8;

/// What the control block take before the rings.
pub(super) const HEAD_BYTES: usize = offset_of!(ControlView, commit_ring);
/// Where the snapshot slots begin.
pub(super) const SNAPSHOTS_AT: usize = offset_of!(ControlView, snapshots) + offset_of!(SnapshotTable, slots);
/// Where the epoch ring begins.
pub(super) const EPOCH_RING_AT: usize = offset_of!(ControlView, epoch_ring);
/// An entry of the commit ring.
pub(super) const COMMIT_BYTES: usize = CommitRing::ENTRY_BYTES;

#[repr(C, align(64))]
#[cfg_attr(loom, derive(Default))]
struct IdentityLines {
    magic: AtomicU64,
    layout_version: AtomicU64,
    boot_id: [AtomicU64; 2],
    log_id: AtomicU64,
    device: AtomicU64,
    inode: AtomicU64,
    block_bytes: AtomicU64,
    clock_offset_us: AtomicU64,
}

/// Rarely stored, read in every call.
#[repr(C, align(64))]
#[cfg_attr(loom, derive(Default))]
struct StateLine {
    state: AtomicU64,
    poison: AtomicU64,
    mode: AtomicU64,
    /// The last commit that poisoning leaves in the log, + 1; 0: not decided.
    kept: AtomicU64,
    active: AtomicU64,
    may_be_stamped: AtomicU64,
    claim_checksums: AtomicU64,
    claim_bytes: AtomicU64,
}

/// The database's settings, as the engine numbers them.
#[repr(C, align(64))]
#[cfg_attr(loom, derive(Default))]
struct SettingsLine([AtomicU64; SETTINGS]);

#[repr(C, align(64))]
#[cfg_attr(loom, derive(Default))]
struct LogLine {
    /// The segment that the log continues in when the current one is full, + 1; 0: none is ready.
    next_segment: AtomicU64,
    segments_given: AtomicU64,
    spills_given: AtomicU64,
    /// Low halves of the commit and of the pages; two, so that the present one stays while the next is stored.
    backfilled_pages: [AtomicU64; 2],
    /// The spill file of the transaction that has WRITE, + 1; 0: it has none.
    staged_spill: AtomicU64,
    sync_in_doubt: AtomicU64,
    segments_deleted: AtomicU64,
}

/// Why readers have to stop, looked at with each page.
#[repr(C, align(64))]
#[cfg_attr(loom, derive(Default))]
struct ReadersLine {
    replaced: AtomicU64,
    ended_below: AtomicU64,
    /// Not of readers, as those after it: rarely stored, and with room for them.
    faded_us: AtomicU64,
    commits_allocated: AtomicU64,
    doubled_begun: AtomicU64,
}

/// What a leader guesses by; nothing is decided by it that could be wrong.
#[repr(C, align(64))]
#[cfg_attr(loom, derive(Default))]
struct FlushLine {
    syncs_requested: AtomicU64,
    syncs_done: AtomicU64,
    gather_goal: AtomicU64,
    group: AtomicU64,
    sync_nanos: AtomicU64,
    /// As long as a leader may make no progress; 0: as long as the engine's constant says.
    lease_us: AtomicU64,
    /// LEADER was taken from a process that lives.
    led_away: AtomicU64,
    in_use_bytes: AtomicU64,
}

/// The read-only part of the control block: all that an observer may do ([`Observed`](super::Observed)).
#[repr(C)]
#[cfg_attr(loom, derive(Default))]
pub struct ControlView {
    identity: IdentityLines,
    state: StateLine,
    pub(super) write: OwnerLock,
    pub(super) append: OwnerLock,
    pub(super) leader: OwnerLock,
    pub(super) checkpoint: OwnerLock,
    flush_events: FlushEvents,
    pub(super) grant_until_us: Line,
    pub(super) published: Line,
    pub(super) last_written_epoch: Line,
    pub(super) last_certified_epoch: Line,
    pub(super) visible: Line,
    pub(super) backfilled: Line,
    pub(super) checkpoint_target: Line,
    pub(super) recycled_below: Line,
    settings: SettingsLine,
    pub(super) create: Reservations,
    exclusive: OwnerLock,
    gathered: OwnLine<Event>,
    log: LogLine,
    flush: FlushLine,
    visible_wake: OwnLine<Event>,
    readers: ReadersLine,
    processes: ProcessTable,
    pub(super) snapshots: SnapshotTable,
    pub(super) commit_ring: CommitRing,
    pub(super) epoch_ring: EpochRing,
}

/// The control block. Only ever used by a reference into a mapping ([`ControlMapping`](super::ControlMapping)).
#[repr(transparent)]
#[cfg_attr(loom, derive(Default))]
pub struct ControlBlock {
    readable: ControlView,
}

#[cfg(not(loom))]
const _: () = {
    assert!(offset_of!(ControlView, identity) == 0);
    assert!(offset_of!(ControlView, state) == 128);
    assert!(offset_of!(ControlView, write) == 192);
    assert!(offset_of!(ControlView, append) == 256);
    assert!(offset_of!(ControlView, leader) == 320);
    assert!(offset_of!(ControlView, checkpoint) == 384);
    assert!(offset_of!(ControlView, flush_events) == 448);
    assert!(offset_of!(ControlView, grant_until_us) == 512);
    assert!(offset_of!(ControlView, published) == 576);
    assert!(offset_of!(ControlView, last_written_epoch) == 640);
    assert!(offset_of!(ControlView, last_certified_epoch) == 704);
    assert!(offset_of!(ControlView, visible) == 768);
    assert!(offset_of!(ControlView, backfilled) == 832);
    assert!(offset_of!(ControlView, checkpoint_target) == 896);
    assert!(offset_of!(ControlView, recycled_below) == 960);
    assert!(offset_of!(ControlView, settings) == 1024);
    assert!(offset_of!(ControlView, create) == 1088);
    assert!(offset_of!(ControlView, gathered) == 1472);
    assert!(offset_of!(ControlView, log) == 1536);
    assert!(offset_of!(ControlView, flush) == 1600);
    assert!(offset_of!(ControlView, visible_wake) == 1664);
    assert!(offset_of!(ControlView, readers) == 1728);
    assert!(offset_of!(ControlView, processes) == 1792);
    assert!(offset_of!(ControlView, snapshots) == 18_240);
    assert!(offset_of!(ControlView, commit_ring) == 149_376);
    assert!(offset_of!(ControlView, epoch_ring) == 1_197_952);
    assert!(CONTROL_BYTES == 1_263_488);
    assert!(size_of::<Line>() == 64 && size_of::<OwnerLock>() == 64 && size_of::<FlushEvents>() == 64);
};

/// The stages of poisoning.
const NOT_POISONED: u64 = 0;
const POISONING: u64 = 1;
const POISONED_KNOWN: u64 = 2;
const POISONED_UNKNOWN: u64 = 3;

/// Of a word with pages: it has been stored.
const PAGES_STORED: u64 = 1 << 32;
const LOW_31: u64 = (1 << 31) - 1;

/// Whether the control block is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It is being initialized, or the process that did so died.
    Building,
    /// They are complete.
    Ready,
}

/// What the control block belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The boot of the machine ([`boot_id`](crate::os::boot_id)): words of another one say nothing.
    pub boot_id: u128,
    /// The log.
    pub log_id: u64,
    /// The device of the database file.
    pub device: u64,
    /// Its inode.
    pub inode: u64,
    /// The block of the log, in bytes.
    pub block_bytes: u64,
}

impl ControlView {
    /// What the control block belongs to.
    #[must_use]
    pub fn identity(&self) -> Identity {
        let i = &self.identity;
        Identity {
            boot_id: u128::from(i.boot_id[0].load(SeqCst)) << 64 | u128::from(i.boot_id[1].load(SeqCst)),
            log_id: i.log_id.load(SeqCst),
            device: i.device.load(SeqCst),
            inode: i.inode.load(SeqCst),
            block_bytes: i.block_bytes.load(SeqCst),
        }
    }

    /// The offset of the clock of the process that made the control block (us): the times in it are by that clock.
    pub(super) fn clock_offset_us(&self) -> i64 {
        self.identity.clock_offset_us.load(SeqCst) as i64
    }

    /// The magic and the layout version, as stored.
    pub(super) fn layout(&self) -> (u64, u64) {
        (self.identity.magic.load(SeqCst), self.identity.layout_version.load(SeqCst))
    }

    /// Whether the control block is complete.
    #[must_use]
    pub fn state(&self) -> State {
        if self.state.state.load(SeqCst) == 1 { State::Ready } else { State::Building }
    }

    /// Whether the engine is poisoned, or just being: not 0.
    #[must_use]
    pub fn poisoned(&self) -> u64 {
        self.state.poison.load(SeqCst)
    }

    /// `Some` once the engine is poisoned and what could be erased is: whether the outcome of what was not answered is
    /// unknown.
    #[must_use]
    pub fn poison_outcome(&self) -> Option<bool> {
        match self.poisoned() {
            NOT_POISONED | POISONING => None,
            outcome => Some(outcome != POISONED_KNOWN),
        }
    }

    /// Whether the poisoning process is erasing, or died while it did. Under APPEND: died.
    #[must_use]
    pub fn is_being_poisoned(&self) -> bool {
        self.poisoned() == POISONING
    }

    /// The last commit that poisoning leaves in the log; `None`: the engine is not poisoned, or it is not decided yet.
    #[must_use]
    pub fn kept_by_poison(&self) -> Option<u64> {
        self.state.kept.load(SeqCst).checked_sub(1)
    }

    /// Whether the database file was found to be another one than that of this log: no process reads it any more.
    #[must_use]
    pub fn is_replaced(&self) -> bool {
        self.readers.replaced.load(SeqCst) != 0
    }

    /// Snapshots below this commit have ended: checkpoints pass them, and their readers get an error.
    #[must_use]
    pub fn ended_below(&self) -> u64 {
        self.readers.ended_below.load(SeqCst)
    }

    /// The mode of the database, as the engine numbers it.
    #[must_use]
    pub fn mode(&self) -> u64 {
        self.state.mode.load(SeqCst)
    }

    /// The last published commit; 0: none.
    #[must_use]
    pub fn published(&self) -> u64 {
        self.published.0.load(SeqCst)
    }

    /// The last epoch whose record is stored; 0: none.
    #[must_use]
    pub fn last_written_epoch(&self) -> u64 {
        self.last_written_epoch.0.load(SeqCst)
    }

    /// The last epoch whose certificate is durable; 0: none.
    #[must_use]
    pub fn last_certified_epoch(&self) -> u64 {
        self.last_certified_epoch.0.load(SeqCst)
    }

    /// Commits up to here are in the database file and synced there.
    #[must_use]
    pub fn backfilled(&self) -> u64 {
        self.backfilled.0.load(SeqCst)
    }

    /// The announced target of the checkpoint.
    #[must_use]
    pub fn checkpoint_target(&self) -> u64 {
        self.checkpoint_target.0.load(SeqCst)
    }

    /// Commits below this may be gone from the segment files: read them from the database file.
    #[must_use]
    pub fn recycled_below(&self) -> u64 {
        self.recycled_below.0.load(SeqCst)
    }

    /// The joined processes.
    pub fn processes(&self) -> impl Iterator<Item = Process> + '_ {
        self.processes.joined()
    }

    /// The incarnation that the process slot `slot` has now.
    pub(crate) fn incarnation(&self, slot: u16) -> Option<u32> {
        self.processes.incarnation(slot)
    }

    /// The registered snapshots.
    pub fn snapshots(&self) -> impl Iterator<Item = Snapshot> + '_ {
        self.snapshots.registered()
    }

    /// The owners of WRITE, APPEND, LEADER and CKPT, in this order.
    #[must_use]
    pub fn holders(&self) -> [Option<Owner>; 4] {
        [&self.write, &self.append, &self.leader, &self.checkpoint].map(OwnerLock::holder)
    }

    /// Until when the grant in WRITE counts: microseconds, as [`now_us`](crate::os::now_us).
    #[must_use]
    pub fn grant_until_us(&self) -> u64 {
        self.grant_until_us.0.load(SeqCst)
    }

    /// The holder of SQLite's EXCLUSIVE on the database file, as last stored.
    #[must_use]
    pub fn exclusive_holder(&self) -> Option<Owner> {
        self.exclusive.holder()
    }

    /// Whether the log exists: its first segment is there and the stamp is on the database file.
    #[must_use]
    pub fn is_active(&self) -> bool {
        self.state.active.load(SeqCst) != 0
    }

    /// The setting `index`, as the engine numbers and codes it; 0: the default.
    #[must_use]
    pub fn setting(&self, index: usize) -> u64 {
        self.settings.0.get(index).map_or(0, |word| word.load(SeqCst))
    }

    /// The size of the database in pages after the commit `backfilled`, and that commit. `None`: it has never been
    /// stored.
    #[must_use]
    pub fn backfilled_pages(&self) -> Option<(u64, u32)> {
        loop {
            let backfilled = self.backfilled();
            let found = self.log.backfilled_pages.iter().map(|word| word.load(SeqCst));
            let found = found.filter(|word| word & PAGES_STORED != 0).find(|word| (word >> 33) == backfilled & LOW_31);
            if found.is_some() || self.backfilled() == backfilled {
                return found.map(|word| (backfilled, word as u32));
            }
        }
    }
}

impl Deref for ControlBlock {
    type Target = ControlView;

    fn deref(&self) -> &ControlView {
        &self.readable
    }
}

impl ControlBlock {
    /// WRITE: one writer, from the check of its snapshot to publish.
    #[must_use]
    pub fn write(&self) -> &OwnerLock {
        &self.write
    }

    /// APPEND: the tail. Held for microseconds, never while waiting for a flush.
    #[must_use]
    pub fn append(&self) -> &OwnerLock {
        &self.append
    }

    /// LEADER: epoch record, certificate, sync. Tried, not waited for.
    #[must_use]
    pub fn leader(&self) -> &OwnerLock {
        &self.leader
    }

    /// CKPT: backfill and recycling.
    #[must_use]
    pub fn checkpoint(&self) -> &OwnerLock {
        &self.checkpoint
    }

    /// The process slots.
    #[must_use]
    pub fn process_slots(&self) -> &ProcessTable {
        &self.processes
    }

    /// The snapshot slots.
    #[must_use]
    pub fn snapshot_slots(&self) -> &SnapshotTable {
        &self.snapshots
    }

    /// Commits that are to become durable wait here.
    #[must_use]
    pub fn flush_events(&self) -> &FlushEvents {
        &self.flush_events
    }

    /// Stores what the control block belongs to, with magic and layout version; before [`ControlMapping::create`](super::Control::create).
    pub fn set_identity(&self, identity: &Identity) {
        let i = &self.identity;
        i.boot_id[0].store((identity.boot_id >> 64) as u64, SeqCst);
        i.boot_id[1].store(identity.boot_id as u64, SeqCst);
        i.log_id.store(identity.log_id, SeqCst);
        i.device.store(identity.device, SeqCst);
        i.inode.store(identity.inode, SeqCst);
        i.block_bytes.store(identity.block_bytes, SeqCst);
        i.clock_offset_us.store(crate::os::clock_offset_us() as u64, SeqCst);
        i.layout_version.store(LAYOUT_VERSION, SeqCst);
        i.magic.store(MAGIC, SeqCst);
    }

    /// Stores whether the control block is complete.
    pub fn set_state(&self, state: State) {
        self.state.state.store(u64::from(state == State::Ready), SeqCst);
    }

    /// The engine ends: no process continues above what is durable. Under APPEND; then what is not durable is erased,
    /// then [`set_poison_outcome`](ControlBlock::set_poison_outcome). True if this call did it.
    pub fn poison(&self) -> bool {
        self.state.poison.compare_exchange(NOT_POISONED, POISONING, SeqCst, SeqCst).is_ok()
    }

    /// Decides that poisoning erases only what lies after commit `kept`. Under APPEND, after
    /// [`poison`](ControlBlock::poison). The first decision counts, and is returned.
    pub fn keep_at_poison(&self, kept: u64) -> u64 {
        step("before kept");
        match self.state.kept.compare_exchange(0, kept.saturating_add(1), SeqCst, SeqCst) {
            Ok(_) => kept,
            Err(before) => before - 1,
        }
    }

    /// What was answered with an error is erased; `unknown`: or may not be. The caller then wakes: [`flush_events`](ControlBlock::flush_events)
    /// and the owner locks.
    pub fn set_poison_outcome(&self, unknown: bool) {
        step("before poisoned");
        self.state.poison.store(if unknown { POISONED_UNKNOWN } else { POISONED_KNOWN }, SeqCst);
    }

    /// Sets the mode of the database.
    pub fn set_mode(&self, mode: u64) {
        self.state.mode.store(mode, SeqCst);
    }

    /// Commits up to `sequence` are in the database file and synced there. Under CKPT; never goes back.
    pub fn set_backfilled(&self, sequence: u64) {
        step("before backfilled");
        self.backfilled.0.fetch_max(sequence, SeqCst);
    }

    /// Slots with commits below `sequence` are about to be written over: stored *before* that, under
    /// CKPT, and only when a durable certificate carries B >= `sequence` - 1. Never goes back.
    pub fn set_recycled_below(&self, sequence: u64) {
        step("before recycled_below");
        self.recycled_below.0.fetch_max(sequence, SeqCst);
    }

    /// Ends every snapshot below this commit, which is not beyond `visible`.
    pub fn end_snapshots_below(&self, sequence: u64) {
        step("before ended_below");
        self.readers.ended_below.fetch_max(sequence, SeqCst);
    }

    /// The database file is another one than that of this log.
    pub fn set_replaced(&self) {
        self.readers.replaced.store(1, SeqCst);
    }

    /// Changes the bytes of segments that were in use at once of late, which say how large a log the load needs; returns them.
    pub fn update_in_use_bytes(&self, change: impl Fn(u64) -> u64) -> u64 {
        let word = &self.flush.in_use_bytes;
        let mut before = word.load(SeqCst);
        loop {
            let after = change(before);
            match word.compare_exchange(before, after, SeqCst, SeqCst) {
                Ok(_) => return after,
                Err(other) => before = other,
            }
        }
    }

    /// The entries of the commit ring that are allocated, the first ones.
    pub(super) fn commits_allocated(&self) -> u64 {
        self.readers.commits_allocated.load(SeqCst)
    }

    /// As [`commits_allocated`](ControlBlock::commits_allocated). By the owner of WRITE, after the space is allocated.
    pub(super) fn set_commits_allocated(&self, entries: u64) {
        step("before commits_allocated");
        self.readers.commits_allocated.store(entries, SeqCst);
    }

    /// Whether `every_us` have passed since any process was last answered with true; `now_us` as [`now_us`](crate::os::now_us).
    pub(crate) fn fades_again(&self, now_us: u64, every_us: u64) -> bool {
        let (faded, before) = (&self.readers.faded_us, self.readers.faded_us.load(SeqCst));
        now_us.saturating_sub(before) >= every_us && faded.compare_exchange(before, now_us, SeqCst, SeqCst).is_ok()
    }

    /// Counts the segments that were deleted while there were members: a process that has one of them open may close
    /// it.
    #[must_use]
    pub fn segments_deleted(&self) -> u64 {
        self.log.segments_deleted.load(SeqCst)
    }

    /// One more segment is deleted.
    pub fn add_segment_deleted(&self) {
        self.log.segments_deleted.fetch_add(1, SeqCst);
    }

    /// Sets until when the next grant in WRITE counts (microseconds, as [`now_us`](crate::os::now_us)); by the owner of WRITE, before it grants.
    pub fn set_grant_until_us(&self, until_us: u64) {
        self.grant_until_us.0.store(until_us, SeqCst);
    }

    /// CREATE: the segments that are being made or deleted.
    #[must_use]
    pub fn reservations(&self) -> &Reservations {
        &self.create
    }

    /// EXCL: the member whose database handle holds SQLite's EXCLUSIVE on the database file.
    #[must_use]
    pub fn exclusive(&self) -> &OwnerLock {
        &self.exclusive
    }

    /// Notified when as many commits that want durability are published as the leader waits for.
    #[must_use]
    pub fn gathered(&self) -> &Event {
        &self.gathered.0
    }

    /// Notified when `visible` moves: what [`Event::wait_for`] waits for.
    pub fn visible_wake(&self) -> &Event {
        &self.visible_wake.0
    }

    /// The log exists from here on. Under APPEND.
    pub fn set_active(&self) {
        step("before active");
        self.state.active.store(1, SeqCst);
    }

    /// The log is retired; the control block is complete still. Under APPEND.
    pub fn set_inactive(&self) {
        step("before inactive");
        self.state.active.store(0, SeqCst);
    }

    /// Whether an activation that ended early may have left its stamp on the database file. Under APPEND.
    #[must_use]
    pub fn may_be_stamped(&self) -> bool {
        self.state.may_be_stamped.load(SeqCst) != 0
    }

    /// As [`may_be_stamped`](ControlBlock::may_be_stamped).
    pub fn set_may_be_stamped(&self, may_be: bool) {
        self.state.may_be_stamped.store(u64::from(may_be), SeqCst);
    }

    /// What the header and the time of modification of the database file were at the claim, as checksums, and its size in bytes.
    #[must_use]
    pub fn at_claim(&self) -> (u64, u64) {
        (self.state.claim_checksums.load(SeqCst), self.state.claim_bytes.load(SeqCst))
    }

    /// As [`at_claim`](ControlBlock::at_claim).
    pub fn set_at_claim(&self, checksums: u64, bytes: u64) {
        self.state.claim_checksums.store(checksums, SeqCst);
        self.state.claim_bytes.store(bytes, SeqCst);
    }

    /// Sets the setting `index`.
    pub fn set_setting(&self, index: usize, value: u64) {
        if let Some(word) = self.settings.0.get(index) {
            word.store(value, SeqCst);
        }
    }

    /// The segment that the log continues in when the current one is full. Stored and taken back under APPEND.
    #[must_use]
    pub fn next_segment(&self) -> Option<u32> {
        u32::try_from(self.log.next_segment.load(SeqCst).checked_sub(1)?).ok()
    }

    /// As [`next_segment`](ControlBlock::next_segment).
    pub fn set_next_segment(&self, file: Option<u32>) {
        step("before next_segment");
        self.log.next_segment.store(file.map_or(0, |file| u64::from(file) + 1), SeqCst);
    }

    /// An id for a new segment file, never given before in this log; from 1, since the first segment has id 0.
    #[must_use]
    pub fn give_segment_id(&self) -> u64 {
        self.log.segments_given.fetch_add(1, SeqCst) + 1
    }

    /// A number for a new spill file, never given before in this log.
    #[must_use]
    pub fn give_spill_number(&self) -> u64 {
        self.log.spills_given.fetch_add(1, SeqCst)
    }

    /// Whether this log ever had a spill file.
    pub(crate) fn has_spilled(&self) -> bool {
        self.log.spills_given.load(SeqCst) != 0
    }

    /// The spill file of the transaction that has WRITE: no published batch names it yet. It may be that of a dead
    /// owner, until the next one [stores its own](ControlBlock::set_staged_spill).
    pub(crate) fn staged_spill(&self) -> Option<u32> {
        u32::try_from(self.log.staged_spill.load(SeqCst).checked_sub(1)?).ok()
    }

    /// Sets [`staged_spill`](ControlBlock::staged_spill): stored before the file is made, and cleared after the
    /// publication of its batch, or after the end of the file. By the owner of WRITE.
    pub(crate) fn set_staged_spill(&self, number: Option<u32>) {
        self.log.staged_spill.store(number.map_or(0, |number| u64::from(number) + 1), SeqCst);
    }

    /// Whether a process that does not lead syncs a segment under APPEND. Read under APPEND: that process died before
    /// clearing the flag, and may have got an error that no other process gets.
    pub(crate) fn is_sync_in_doubt(&self) -> bool {
        self.log.sync_in_doubt.load(SeqCst) != 0
    }

    /// Whether the write of a doubled certificate was begun that does not count yet. Read under APPEND: it was abandoned.
    pub(crate) fn is_doubled_begun(&self) -> bool {
        self.readers.doubled_begun.load(SeqCst) != 0
    }

    /// Sets [`is_doubled_begun`](ControlBlock::is_doubled_begun), under APPEND.
    pub(crate) fn set_doubled_begun(&self, begun: bool) {
        step("before doubled_begun");
        self.readers.doubled_begun.store(u64::from(begun), SeqCst);
    }

    /// Sets [`is_sync_in_doubt`](ControlBlock::is_sync_in_doubt). Cleared by the process that knows the result, or by a
    /// leader that has written again what is not durable.
    pub(crate) fn set_sync_in_doubt(&self, in_doubt: bool) {
        self.log.sync_in_doubt.store(u64::from(in_doubt), SeqCst);
    }

    /// Stores the size of the database (pages) after commit `backfilled`, before that becomes `backfilled`. Under CKPT.
    pub fn set_backfilled_pages(&self, backfilled: u64, pages: u32) {
        let present = self.backfilled() & LOW_31;
        let is_present = |word: u64| word & PAGES_STORED != 0 && word >> 33 == present;
        let [first, second] = &self.log.backfilled_pages;
        let other = if is_present(first.load(SeqCst)) && backfilled & LOW_31 != present { second } else { first };
        other.store((backfilled & LOW_31) << 33 | PAGES_STORED | u64::from(pages), SeqCst);
    }

    /// One more published commit wants durability. Like all that follows: for guesses only.
    pub(crate) fn add_sync_request(&self) {
        self.flush.syncs_requested.fetch_add(1, SeqCst);
    }

    /// Commits that wanted durability, ever.
    pub(crate) fn syncs_requested(&self) -> u64 {
        self.flush.syncs_requested.load(SeqCst)
    }

    /// This number of them is done.
    pub(crate) fn add_syncs_done(&self, syncs_requested: u64) {
        self.flush.syncs_done.fetch_max(syncs_requested, SeqCst);
    }

    /// Commits that want durability and wait for it.
    pub(crate) fn syncs_pending(&self) -> u64 {
        self.flush.syncs_requested.load(SeqCst).saturating_sub(self.flush.syncs_done.load(SeqCst))
    }

    /// The number of commits that a gathering leader waits for; 0: no leader gathers.
    pub(crate) fn gather_goal(&self) -> u64 {
        self.flush.gather_goal.load(SeqCst)
    }

    /// As [`gather_goal`](ControlBlock::gather_goal).
    pub(crate) fn set_gather_goal(&self, goal: u64) {
        self.flush.gather_goal.store(goal, SeqCst);
    }

    /// The commits that the last flush released.
    pub(crate) fn flush_group(&self) -> u64 {
        self.flush.group.load(SeqCst)
    }

    /// As [`flush_group`](ControlBlock::flush_group).
    pub(crate) fn set_flush_group(&self, group: u64) {
        self.flush.group.store(group, SeqCst);
    }

    /// What a sync of the log costs here (ns), averaged; 0: none was measured.
    pub(crate) fn sync_nanos(&self) -> u64 {
        self.flush.sync_nanos.load(SeqCst)
    }

    /// As [`sync_nanos`](ControlBlock::sync_nanos).
    pub(crate) fn set_sync_nanos(&self, nanos: u64) {
        self.flush.sync_nanos.store(nanos, SeqCst);
    }

    /// How long a leader may make no progress (us); 0: not set.
    pub(crate) fn lease_us(&self) -> u64 {
        self.flush.lease_us.load(SeqCst)
    }

    /// As [`lease_us`](ControlBlock::lease_us).
    pub(crate) fn set_lease_us(&self, lease_us: u64) {
        self.flush.lease_us.store(lease_us, SeqCst);
    }

    /// Whether LEADER was ever taken from a live process: its sync may end at any time, and get an error that no file
    /// gets that is opened later.
    pub(crate) fn was_led_away(&self) -> bool {
        self.flush.led_away.load(SeqCst) != 0
    }

    /// As [`was_led_away`](ControlBlock::was_led_away). Under APPEND.
    pub(crate) fn set_led_away(&self) {
        self.flush.led_away.store(1, SeqCst);
    }
}
