//! Two processes on one log, step by step on one thread: what one leaves where it dies, or where it stands still, and what
//! another makes of it. Each has an engine of its own; the disk is simulated, the control block and locks are real.

mod allocated;
mod descriptors;
mod errors;
mod packed;
mod requests;
mod reservations;
mod rules;
mod wakes;
mod zeros;

use super::reservation::NextMaker;
use super::tail::Record;
use super::{ClaimedDatabase, CommitFacts, Engine, EngineError, Rest, Settings, SharedDatabase};
use crate::disk::fault::{DATABASE_NAME, Effect, Fault, Operation};
use crate::disk::hooked::{Call, Hook, HookedDirectory};
use crate::disk::sim::{HeaderTear, PowerCut, SimDatabase, SimDisk};
use crate::disk::{Database, LogDirectory, LogFile, OpenMode};
use crate::host::{DatabaseHandle, Environment, Host, LockLevel};
use crate::log::format::segment_name;
use crate::log::recovery::{Next, OpenFacts, open_database};
use crate::log::segments::Space;
use crate::shared::{ControlMapping, INIT, LockFile, Member};
use crate::sqlite::Code;
use crate::sync::Mutex;
use crate::view::{View, Written};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::Duration;

const PAGE_BYTES: u32 = 4096;
const PAGES: u32 = 3;
const BLOCK: u64 = 4096;
/// So few that a batch of 20 pages needs a segment of its own.
const SEGMENT_BYTES: u64 = 24 * BLOCK;

struct Pair {
    page_bytes: u32,
    real: tempfile::TempDir,
    disk: SimDisk,
    ghosts: Ghosts,
    /// How often each file was opened again.
    reopened: Arc<AtomicU64>,
    /// How often the directory was listed.
    lists: Arc<AtomicU64>,
    /// How many files got their space without a write.
    allocations: Arc<AtomicU64>,
    /// A connection that is not on pwal has the database open.
    is_open_elsewhere: Arc<AtomicBool>,
}

/// Names that a list of the directory still has, of files that somebody else deletes meanwhile.
type Ghosts = Arc<Mutex<Vec<String>>>;

/// The log directory on the simulated disk, with `lock` and `control` in a real one; its files are closed by their disk at times.
#[derive(Debug)]
struct Watched {
    /// Of `lock`.
    real: PathBuf,
    ghosts: Ghosts,
    reopened: Arc<AtomicU64>,
    lists: Arc<AtomicU64>,
    allocations: Arc<AtomicU64>,
}

impl Hook for Watched {
    fn after(&self, call: &Call<'_>) -> io::Result<()> {
        self.allocations.fetch_add(u64::from(call.operation == Operation::Allocate), SeqCst);
        Ok(())
    }

    fn path(&self) -> Option<&Path> {
        Some(&self.real)
    }

    fn listed(&self, names: &mut Vec<String>) {
        self.lists.fetch_add(1, SeqCst);
        names.extend(self.ghosts.lock().iter().cloned());
    }

    fn openings(&self, openings: u64) -> u64 {
        openings + self.reopened.load(SeqCst)
    }
}

/// A database handle whose EXCLUSIVE is granted where no other connection has the database open; and whether its next write panics.
#[derive(Debug)]
struct AnyDatabaseHandle(SimDatabase, Arc<AtomicBool>, bool);

impl Database for AnyDatabaseHandle {
    fn read_at(&mut self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_at(buffer, offset)
    }

    fn write_at(&mut self, data: &[u8], offset: u64) -> io::Result<()> {
        assert!(!std::mem::take(&mut self.2), "on purpose");
        self.0.write_at(data, offset)
    }

    fn set_bytes(&mut self, bytes: u64) -> io::Result<()> {
        self.0.set_bytes(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.0.sync()
    }

    fn bytes(&mut self) -> io::Result<u64> {
        self.0.bytes()
    }
}

impl DatabaseHandle for AnyDatabaseHandle {
    fn lock(&mut self, level: LockLevel) -> Result<(), Code> {
        if level == LockLevel::Exclusive && self.1.load(SeqCst) { Err(Code::BUSY) } else { Ok(()) }
    }

    fn unlock(&mut self, _level: LockLevel) -> Result<(), Code> {
        Ok(())
    }

    fn read_only(&self) -> bool {
        false
    }
}

#[derive(Debug)]
struct Talks;

impl Host for Talks {
    fn open_database_handle(&self, _path: &Path) -> Result<Box<dyn DatabaseHandle>, Code> {
        Err(Code::CANTOPEN)
    }

    fn recover_stock_files(&self, _path: &Path) -> Result<(), Code> {
        Err(Code::ERROR)
    }

    fn log(&self, code: i32, text: &str) {
        println!("log {code}: {text}");
    }
}

/// A value of pages that have zeros in their middle.
const WITH_ZEROS: u64 = 1 << 40;

fn image(page: u32, value: u64) -> Vec<u8> {
    image_of(PAGE_BYTES, page, value)
}

fn image_of(page_bytes: u32, page: u32, value: u64) -> Vec<u8> {
    let mut image = value.to_le_bytes().repeat(page_bytes as usize / 8);
    if value & WITH_ZEROS != 0 {
        image[page_bytes as usize / 4..page_bytes as usize / 8 * 7].fill(0);
    }
    if page == 1 {
        image[..100].fill(0);
        image[..16].copy_from_slice(b"SQLite format 3\0");
        image[16..18].copy_from_slice(&u16::try_from(page_bytes).unwrap().to_be_bytes());
        image[18..20].fill(2);
    }
    image
}

fn sim_path() -> PathBuf {
    PathBuf::from("/sim/a.db")
}

impl Pair {
    fn new() -> Pair {
        Pair::with_dice(1)
    }

    /// `seed`: of the dice of a power cut.
    fn with_dice(seed: u64) -> Pair {
        Pair::with_pages(PAGE_BYTES, seed)
    }

    fn with_pages(page_bytes: u32, seed: u64) -> Pair {
        let real = tempfile::tempdir().unwrap();
        std::fs::write(real.path().join("a.db"), "").unwrap();
        let disk = SimDisk::new(seed);
        drop(disk.database(&sim_path()));
        disk.edit(&sim_path(), |file| *file = (1..=PAGES).flat_map(|page| image_of(page_bytes, page, 0)).collect());
        Pair {
            page_bytes,
            real,
            disk,
            ghosts: Ghosts::default(),
            reopened: Arc::default(),
            lists: Arc::default(),
            allocations: Arc::default(),
            is_open_elsewhere: Arc::default(),
        }
    }

    fn path(&self) -> PathBuf {
        self.real.path().join("a.db")
    }

    fn directory(&self) -> Arc<dyn LogDirectory> {
        let watched = Watched {
            real: self.real.path().to_path_buf(),
            ghosts: Arc::clone(&self.ghosts),
            reopened: Arc::clone(&self.reopened),
            lists: Arc::clone(&self.lists),
            allocations: Arc::clone(&self.allocations),
        };
        Arc::new(HookedDirectory::new(Arc::new(self.disk.directory(&sim_path())), Arc::new(watched)))
    }

    fn environment(&self) -> Arc<Environment> {
        let disk = Arc::new(self.disk.clone());
        Arc::new(Environment { host: Box::new(Talks), disk, defaults: Vec::new() })
    }

    fn database_handle(&self) -> Box<dyn DatabaseHandle> {
        Box::new(AnyDatabaseHandle(self.disk.database(&sim_path()), Arc::clone(&self.is_open_elsewhere), false))
    }

    fn lock(&self) -> LockFile {
        let lock = LockFile::open(&crate::disk::Directory::open(self.real.path()).unwrap(), 0o600).unwrap();
        assert!(lock.try_lock(INIT).unwrap());
        lock
    }

    /// The process that claims the database.
    fn claim(&self) -> Arc<Engine> {
        let lock = self.lock();
        self.directory().create().unwrap();
        let mapping = ControlMapping::create(&crate::disk::Directory::open(self.real.path()).unwrap(), 0o600).unwrap();
        let mut database_handle = self.database_handle();
        let mut header = [0; 100];
        database_handle.read_at(&mut header, 0).unwrap();
        let claimed = ClaimedDatabase {
            member: Member::acquire(mapping, lock, "first").unwrap().unwrap(),
            path: self.path(),
            dir: self.directory(),
            database_bytes: database_handle.bytes().unwrap(),
            database_handle,
            header,
            page_bytes: self.page_bytes,
        };
        let engine = Engine::start(&self.environment(), claimed, Settings::for_simulation(SEGMENT_BYTES)).unwrap();
        engine.background.stop(false);
        engine.membership.end_init().unwrap();
        engine
    }

    /// One more.
    fn join(&self) -> Arc<Engine> {
        self.try_join().unwrap()
    }

    fn try_join(&self) -> Result<Arc<Engine>, EngineError> {
        let lock = self.lock();
        let file = std::fs::metadata(self.path()).unwrap();
        let mapping =
            ControlMapping::open(&crate::disk::Directory::open(self.real.path()).unwrap(), file.dev(), file.ino())
                .unwrap();
        let joined = SharedDatabase {
            path: self.path(),
            dir: self.directory(),
            member: Member::acquire(mapping, lock, "another").unwrap().unwrap(),
            database_handle: self.database_handle(),
            page_bytes: self.page_bytes,
        };
        let engine = Engine::join(&self.environment(), joined)?;
        engine.background.stop(false);
        engine.membership.end_init().unwrap();
        Ok(engine)
    }

    fn fault(&self, operation: Operation, name: &str) -> Fault {
        Fault { operation, name_contains: name.to_owned(), nth: 1, effect: Effect::Error, goes_on: false }
    }

    /// Once.
    fn cannot_open(&self, name: &str) {
        self.disk.plan().add(self.fault(Operation::Open, name));
    }

    /// What the next open finds: the value of each page. No log is taken for another file's.
    fn recovered(&self) -> Vec<u64> {
        let mut database_handle = self.database_handle();
        let opened = open_database(&*self.directory(), database_handle.as_mut(), OpenFacts::default()).unwrap();
        assert_eq!(opened.next, Next::Ready, "{opened:?}");
        let (bytes, _) = self.disk.contents(&sim_path()).unwrap();
        bytes.chunks(self.page_bytes as usize).map(|page| u64::from_le_bytes(*page.last_chunk().unwrap())).collect()
    }

    /// Nothing stays that was not synced.
    fn lose_power(&self) {
        self.lose_power_but(0);
    }

    /// Of what was not synced so many percent stay, by the dice.
    fn lose_power_but(&self, keep_percent: u32) {
        self.disk.power_cut(&PowerCut {
            keep_percent,
            tears_sectors: false,
            tears_same_bytes: false,
            tears_header: HeaderTear::Never,
        });
    }
}

/// The process is killed: the kernel frees what it locked, and its words stay as they are.
fn die(engine: Arc<Engine>) {
    engine.log.marks.member().lock().close();
    // What it held is not let go of.
    std::mem::forget(engine);
}

/// A transaction that fills so many frames of pages, again and again the same, with `value`.
fn staged(engine: &Engine, frames: usize, value: u64) -> View {
    staged_in(engine, View::new(engine.log.page_bytes, 1 << 20), frames, value, &mut || {
        Err(io::ErrorKind::Unsupported.into())
    })
}

fn staged_in(
    engine: &Engine,
    mut view: View,
    frames: usize,
    value: u64,
    open_spill: &mut dyn FnMut() -> io::Result<Arc<dyn LogFile>>,
) -> View {
    view.begin_write(engine.log.log_id, engine.log.marks.published() + 1);
    let mut at = 32;
    for index in 0..frames {
        let page = index as u32 % PAGES + 1;
        let mut header = [0; 24];
        header[..4].copy_from_slice(&page.to_be_bytes());
        if index + 1 == frames {
            header[4..8].copy_from_slice(&PAGES.to_be_bytes());
        }
        view.write(&header, at, open_spill).unwrap();
        let written = view.write(&image_of(engine.log.page_bytes, page, value), at + 24, open_spill).unwrap();
        assert_eq!(matches!(written, Written::Commit { .. }), index + 1 == frames);
        at += 24 + u64::from(engine.log.page_bytes);
    }
    view
}

fn facts(engine: &Engine, wants_durable: bool) -> CommitFacts {
    CommitFacts {
        sequence: engine.log.marks.published() + 1,
        database_pages: PAGES,
        wants_durable,
        lane: 0,
        spill: None,
        checkpoint_when_idle: false,
    }
}

/// A commit, acknowledged.
fn commit(engine: &Arc<Engine>, frames: usize, value: u64, wants_durable: bool) -> Result<(), EngineError> {
    let view = staged(engine, frames, value);
    engine.committer.prepare(view.lane())?;
    let facts = facts(engine, wants_durable);
    let published = engine.publish(view.lane(), facts, true)?;
    engine.durability.acknowledge(facts.sequence, wants_durable, published.self_sealed).map(drop)
}

#[test]
fn two_processes_commit_and_what_they_leave_is_recovered() {
    let pair = Pair::new();
    let one = pair.claim();
    commit(&one, 3, 1, true).unwrap();
    let other = pair.join();
    commit(&other, 3, 2, true).unwrap();
    commit(&one, 1, 3, false).unwrap();
    die(one);
    die(other);
    pair.disk.kill();
    assert_eq!(pair.recovered(), [3, 2, 2]);
}

/// The first segment holds no batch where the first transaction is too large for it. Its segment file was used again before
/// anything was durable, and whoever then led the first flush did not find the segment and poisoned the log.
#[test]
fn a_segment_without_a_batch_is_not_free_before_a_later_certificate_is_durable() {
    let pair = Pair::new();
    let one = pair.claim();
    commit(&one, 20, 1, false).unwrap();
    while one.log.tail().ordinal < 4 {
        let value = 1 + one.log.marks.published();
        commit(&one, 3, value, false).unwrap();
    }
    let last = one.log.marks.published();
    let other = pair.join();
    commit(&other, 1, 1000, true).unwrap();
    die(one);
    die(other);
    pair.lose_power();
    assert_eq!(pair.recovered(), [1000, last, last]);
}

/// As [`commit`], of a writer that dies before its batch is published.
fn commit_and_die_before_the_store(engine: Arc<Engine>, frames: usize, value: u64) {
    let view = staged(&engine, frames, value);
    engine.committer.prepare(view.lane()).unwrap();
    // Written, and held: nothing of it is published.
    std::mem::forget(engine.committer.write_prepared(view.lane(), facts(&engine, false)).unwrap());
    die(engine);
}

/// Two segments of one ordinal, of which recovery takes the abandoned one: the zeros over a header that a dead writer wrote
/// were never made durable, since who wrote them died, too, or its sync failed.
#[test]
fn a_segment_that_was_begun_is_given_up_durably_before_another_is_the_next() {
    let pair = Pair::new();
    let one = pair.claim();
    let other = pair.join();
    commit(&one, 3, 1, true).unwrap();
    commit_and_die_before_the_store(one, 12, 66);
    let begun = segment_name(other.log.log_id, 1);
    pair.directory().open(&begun, OpenMode::Existing).unwrap().sync().unwrap();

    let fault =
        Fault { operation: Operation::Sync, name_contains: begun, nth: 1, effect: Effect::Error, goes_on: false };
    pair.disk.plan().add(fault);
    let larger = staged(&other, 20, 7);
    let failed = other.committer.prepare(larger.lane()).unwrap_err();
    assert!(matches!(failed, EngineError::Sync { .. }), "{failed}");
    drop(larger);
    commit(&other, 20, 7, true).unwrap();
    die(other);
    pair.lose_power();
    assert_eq!(pair.recovered(), [7; 3]);
}

/// `visible` is moved behind `certified`, in a step of its own. A leader that died in between left a commit that is durable
/// and not visible, and nothing to flush: whoever waited for it went round and round.
#[test]
fn what_a_dead_leader_made_durable_becomes_visible_to_who_waits_for_it() {
    let pair = Pair::new();
    let one = pair.claim();
    let other = pair.join();
    commit(&one, 1, 1, true).unwrap();
    for (engine, wants_durable) in [(&one, true), (&other, false)] {
        let view = staged(engine, 1, 2);
        engine.committer.prepare(view.lane()).unwrap();
        engine.publish(view.lane(), facts(engine, wants_durable), false).unwrap();
    }
    let leader = one.lease.try_lead().unwrap();
    let epoch = one.flusher.write_epoch(&leader, false).unwrap().unwrap();
    one.files.segment(0).unwrap().sync().unwrap();
    one.log.marks.control().certify(epoch);
    std::mem::forget(leader);
    die(one);
    let (told, heard) = std::sync::mpsc::channel();
    std::thread::spawn(move || told.send(other.durability.acknowledge(3, false, None)));
    heard.recv_timeout(Duration::from_secs(20)).expect("who waits hangs").unwrap();
}

/// Who looks for a free segment file reads headers. One that has rotted made a segment file seem free whose commits are needed, or the segment
/// before it seem to hold one commit only.
#[test]
fn a_segment_with_needed_commits_is_not_free_because_a_header_has_rotted() {
    for rotten in [1, 2] {
        let pair = Pair::new();
        let one = pair.claim();
        let next = || commit(&one, 3, one.log.marks.published() + 1, true).unwrap();
        next();
        one.checkpointer.checkpoint_on_request().unwrap();
        while one.log.tail().ordinal < 3 {
            next();
        }
        next();
        let segment = one.files.segment_with_ordinal(rotten).unwrap().unwrap();
        let mut header = vec![0; 4096];
        segment.file.read_at(&mut header, 0).unwrap();
        segment.write(&[7; 4096], 0).unwrap();
        // A process that remembers, and one that does not.
        let other = pair.join();
        for engine in [&one, &other] {
            let begins = engine.log.tail().ordinal;
            while engine.log.tail().ordinal <= begins {
                commit(engine, 3, engine.log.marks.published() + 1, true).unwrap();
            }
        }
        segment.write(&header, 0).unwrap();
        let last = one.log.marks.published();
        die(one);
        die(other);
        pair.disk.kill();
        assert_eq!(pair.recovered(), [last; 3], "segment {rotten}");
    }
}

/// Everything is in the database file, the last certificate says so, and all that comes is in the next segment: nobody who
/// joins now has read the last one.
fn leave_a_segment(engine: &Arc<Engine>) {
    commit(engine, 3, 1, false).unwrap();
    let (segment, ordinal) = (engine.files.segment(engine.log.tail().segment).unwrap(), engine.log.tail().ordinal);
    // At most four blocks each; the last eight are for certificates.
    while engine.log.tail().offset + 12 * BLOCK <= segment.bytes {
        commit(engine, 3, engine.log.marks.published() + 1, false).unwrap();
    }
    engine.checkpointer.checkpoint_when_idle().unwrap();
    assert_eq!(engine.log.marks.control().certified_epoch().unwrap().ordinal, ordinal);
    commit(engine, 3, engine.log.marks.published() + 1, false).unwrap();
    assert_eq!(engine.log.tail().ordinal, ordinal + 1);
}

/// Where the disk is full the segment file is deleted again that somebody has begun to make: whoever looks for a segment meanwhile
/// finds the name in the list, and no file. A leader that did poisoned the log.
#[test]
fn a_slot_that_goes_while_another_process_looks_through_all_of_them_is_passed_over() {
    let pair = Pair::new();
    let one = pair.claim();
    leave_a_segment(&one);
    let other = pair.join();
    pair.ghosts.lock().push(segment_name(one.log.log_id, 77));
    commit(&other, 3, 1000, true).unwrap();
}

/// A batch could not be written, and the sync of its erasure failed, too; who was told died before it could poison. Others'
/// commits lie in that segment: whoever led next synced in vain, and answered a commit that was lost with them.
#[test]
fn what_a_dead_writer_was_told_of_a_failed_sync_is_not_durable_for_the_next_leader() {
    for self_sealed in [false, true] {
        let pair = Pair::new();
        let one = pair.claim();
        commit(&one, 3, 1, true).unwrap();
        commit(&one, 3, 2, false).unwrap();
        let other = pair.join();
        let append = one.append.lock().unwrap();
        let place = one.tail.place(&append, Record::Batch { bytes: 4 * BLOCK, is_sealed: false }, 3).unwrap().unwrap();
        pair.disk.plan().add(pair.fault(Operation::Sync, ".seg"));
        one.tail.erase(&append, &place).unwrap_err();
        std::mem::forget(append);
        die(one);
        let view = staged(&other, 1, 4);
        other.committer.prepare(view.lane()).unwrap();
        let facts = facts(&other, true);
        let published = other.publish(view.lane(), facts, self_sealed).unwrap();
        assert_eq!(published.self_sealed.is_some(), self_sealed);
        other.durability.acknowledge(facts.sequence, true, published.self_sealed).unwrap();
        die(other);
        pair.lose_power();
        assert_eq!(pair.recovered(), [4, 2, 2], "self-sealed {self_sealed}");
    }
}

/// The process with EXCLUSIVE is killed while another one joins, and stock SQLite comes before the stamp: what that one
/// writes of page 1 would be lost under it.
#[test]
fn no_stamp_is_written_while_stock_sqlite_has_the_database() {
    let pair = Pair::new();
    die(pair.claim());
    pair.is_open_elsewhere.store(true, SeqCst);
    pair.disk.plan().add(Fault { goes_on: true, ..pair.fault(Operation::Write, DATABASE_NAME) });
    let refused = pair.try_join().unwrap_err();
    assert!(matches!(refused, EngineError::NotOnPwal { .. }), "{refused}");
    assert_eq!(pair.disk.plan().fired(), 0);
    pair.disk.plan().clear();
    pair.is_open_elsewhere.store(false, SeqCst);
    commit(&pair.join(), 3, 1, true).unwrap();
}

/// The thread of a process that exits with connections open goes on until the process has ended, without a database handle.
#[test]
fn checkpoints_of_a_process_that_has_left_are_no_failures_of_the_medium() {
    let pair = Pair::new();
    let one = pair.claim();
    let other = pair.join();
    commit(&one, 3, 1, true).unwrap();
    other.close_at_exit(Duration::from_secs(1));
    for _ in 0..3 {
        let _whatever_it_says = other.checkpointer.checkpoint_in_background();
    }
    commit(&one, 3, 2, true).unwrap();
    one.checkpointer.checkpoint_when_idle().unwrap();
}

/// Who makes a segment may die in the middle of a write: its size may be anything then.
#[test]
fn a_slot_that_a_dead_process_was_making_is_used_as_far_as_it_goes() {
    let pair = Pair::new();
    let one = pair.claim();
    commit(&one, 3, 1, true).unwrap();
    let number = u32::try_from(one.log.marks.control().give_segment_id()).unwrap();
    let file = pair.directory().open(&segment_name(one.log.log_id, number), OpenMode::CreateNew).unwrap();
    file.write_zeros(usize::try_from(20 * BLOCK).unwrap() + 700, 0).unwrap();
    while one.log.tail().segment == 0 {
        commit(&one, 3, one.log.marks.published() + 1, true).unwrap();
    }
    let last = one.log.marks.published();
    assert_eq!(one.log.tail().segment, number);
    die(one);
    pair.disk.kill();
    assert_eq!(pair.recovered(), [last; 3]);
}

/// A whole batch behind the end of the log, of a writer that died before it published: a marker that says where the log
/// ended was contradicted by it, and the next open refused the database.
#[test]
fn what_a_dead_writer_left_does_not_contradict_the_marker_of_a_retirement() {
    // In the segment, and in the next one.
    for frames in [3, 12] {
        let pair = Pair::new();
        let one = pair.claim();
        commit(&one, 3, 1, true).unwrap();
        one.checkpointer.checkpoint_when_idle().unwrap();
        let other = pair.join();
        commit_and_die_before_the_store(other, frames, 66);
        pair.disk.plan().add(pair.fault(Operation::Write, DATABASE_NAME));
        assert!(one.retire().is_err(), "the stamp is there still, and the marker is, too");
        die(one);
        pair.disk.kill();
        assert_eq!(pair.recovered(), [1; 3], "{frames}");
    }
}

/// A segment made ahead of need would come after the others have gone: the next log went on in it, and with that log's first segment
/// it was deleted.
#[test]
fn a_segment_that_is_being_made_goes_with_the_log() {
    let pair = Pair::new();
    let one = pair.claim();
    commit(&one, 3, 1, true).unwrap();
    one.checkpointer.checkpoint_when_idle().unwrap();
    let control = one.log.marks.control();
    let NextMaker::Here(reservation) = one.segments.create.reserve_next().unwrap() else { panic!("a thread has it") };
    let rests = {
        let one = Arc::clone(&one);
        std::thread::spawn(move || one.rest())
    };
    while !control.reservations().lock(0).look().is_waited_for() {
        assert!(!rests.is_finished(), "it does not wait");
        std::thread::yield_now();
    }
    let made = one.segments.create_segment(&reservation, SEGMENT_BYTES, Space::Written).unwrap();
    control.set_next_segment(Some(made.id));
    drop(reservation);
    assert_eq!(rests.join().unwrap().unwrap(), Rest::Retired);
    let names = pair.directory().list().unwrap();
    assert!(!names.iter().any(|name| name.contains(".seg")), "{names:?}");
    while one.log.tail().ordinal < 4 {
        commit(&one, 3, one.log.marks.published() + 1, true).unwrap();
    }
    let last = one.log.marks.published();
    die(one);
    pair.lose_power();
    assert_eq!(pair.recovered(), [last; 3]);
}

/// In which file each segment lies that a flush has to sync is known, however many there are: a look through all files for each
/// of them, in each commit, was cubic.
#[test]
fn a_commit_behind_many_undurable_segments_looks_through_no_files() {
    let pair = Pair::new();
    let one = pair.claim();
    commit(&one, 3, 1, true).unwrap();
    while one.log.tail().ordinal < 100 {
        commit(&one, 3, one.log.marks.published() + 1, false).unwrap();
    }
    assert_eq!(one.log.first_unsynced_segment(), 1);
    let mut stayed = 0;
    for _ in 0..20 {
        let place = || (one.log.tail().ordinal, one.log.marks.control().next_segment());
        let (before, lists) = (place(), pair.lists.load(SeqCst));
        commit(&one, 3, one.log.marks.published() + 1, false).unwrap();
        // Who needs another segment looks which file is free.
        if place() == before {
            assert_eq!(pair.lists.load(SeqCst) - lists, 0);
            stayed += 1;
        }
    }
    assert!(stayed >= 6, "{stayed} commits in the segment of the one before");
    let before = pair.lists.load(SeqCst);
    one.durability.wait_durable(one.log.marks.published()).unwrap();
    assert_eq!(pair.lists.load(SeqCst) - before, 0);

    // Who has followed by the ring alone looks once for all.
    while one.log.tail().ordinal < 200 {
        commit(&one, 3, one.log.marks.published() + 1, false).unwrap();
    }
    let other = pair.join();
    let before = pair.lists.load(SeqCst);
    other.durability.wait_durable(other.log.marks.published()).unwrap();
    assert!(pair.lists.load(SeqCst) - before <= 2, "{} looks", pair.lists.load(SeqCst) - before);
}
