//! The smallest VFS that puts views under a real SQLite: a database file and a log in memory, one view for each
//! connection, no durability. It keeps the rules that the view asks of its owner, and notes when SQLite does
//! something that a right view never makes it do.

mod vfs;

pub use vfs::Database;

use libsqlite3_sys as ffi;
use pwal::internal::disk::sim::SimDisk;
use pwal::internal::disk::{LogDirectory, LogFile, OpenMode};
use pwal::internal::view::{FrameTable, Image, ReadError, Region, Snapshot, View, ViewError, Written};
use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::c_int;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, Weak};

const LOG_ID: u64 = 77;
const WRITE: c_int = 0;
const CHECKPOINT: c_int = 1;
const RECOVER: c_int = 2;
const READ_0: c_int = 3;

/// One database: its file, the log behind it, and who is in it.
pub struct World {
    file: Vec<u8>,
    page_bytes: usize,
    lane_bytes: usize,
    /// Frame number - 1 is the index.
    frames: Vec<(u32, Box<[u8]>)>,
    /// (last frame, database pages) of each commit; commit 0 is the file as it was.
    commits: Vec<(u64, u32)>,
    /// Commits up to here are in the file, and have left the table.
    backfilled: usize,
    writer: Option<u64>,
    snapshots: HashMap<u64, u64>,
    /// The next prepare is answered so.
    pub fail_prepare: Option<c_int>,
    /// The next PHASETWO is answered so; nothing is published then.
    pub fail_publish: Option<c_int>,
    /// What SQLite should not have done.
    pub trouble: Vec<String>,
    /// Frames that went to a spill file.
    pub spilled: usize,
    /// Image writes to frames that were there, as SQLite does with spilled pages.
    pub headers_moved: u64,
}

impl World {
    fn newest(&self) -> Snapshot {
        let sequence = self.commits.len() as u64 - 1;
        Snapshot { sequence, database_pages: self.commits[sequence as usize].1 }
    }

    fn bound(&self) -> u32 {
        let waiting = self.commits[self.commits.len() - 1].0 - self.commits[self.backfilled].0;
        1000 + waiting as u32
    }

    fn page(&self, page: u32) -> &[u8] {
        let at = (page as usize - 1) * self.page_bytes;
        self.file.get(at..at + self.page_bytes).expect("a page of the database file")
    }

    /// To the lowest snapshot; returns the last frame of that commit, and whether it is the newest.
    fn checkpoint(&mut self) -> (u64, bool) {
        let newest = self.commits.len() - 1;
        let target = self.snapshots.values().map(|&s| s as usize).min().unwrap_or(newest).min(newest);
        if target > self.backfilled {
            let (last, pages) = self.commits[target];
            let end = pages as usize * self.page_bytes;
            self.file.resize(self.file.len().max(end), 0);
            for (page, image) in &self.frames[self.commits[self.backfilled].0 as usize..last as usize] {
                let at = (*page as usize - 1) * self.page_bytes;
                if at < end {
                    self.file[at..at + self.page_bytes].copy_from_slice(image);
                }
            }
            self.file.truncate(end);
            self.backfilled = target;
        }
        (self.commits[self.backfilled].0, self.backfilled == newest)
    }
}

impl FrameTable for World {
    fn between(&self, from: u64, to: u64, each: &mut dyn FnMut(u64, u32)) -> bool {
        if (from as usize) < self.backfilled {
            return false;
        }
        for number in self.commits[from as usize].0..self.commits[to as usize].0 {
            each(number + 1, self.frames[number as usize].0);
        }
        true
    }

    fn newest(&self, to: u64, each: &mut dyn FnMut(u64, u32)) {
        let (first, last) = (self.commits[self.backfilled].0, self.commits[to as usize].0);
        let newest: HashMap<u32, u64> = (first..last).map(|i| (self.frames[i as usize].0, i + 1)).collect();
        let mut numbers: Vec<(u64, u32)> = newest.into_iter().map(|(page, number)| (number, page)).collect();
        numbers.sort_unstable();
        numbers.into_iter().for_each(|(number, page)| each(number, page));
    }
}

/// One connection's main file.
struct Connected {
    id: u64,
    world: Arc<Mutex<World>>,
    state: Mutex<State>,
}

struct State {
    view: View,
    snapshot: Option<u64>,
    /// The last snapshot changed the header: SQLite comes again, and finds it as it is.
    again: bool,
    writing: bool,
    prepared: Option<u32>,
    checkpointing: bool,
    held_back: bool,
    /// SQLite keeps the addresses.
    mapped: Vec<Arc<Region>>,
}

thread_local! {
    /// Prepared and not published: while SQLite calls for another file, their advance is hidden.
    static PREPARED: RefCell<Vec<Weak<Connected>>> = const { RefCell::new(Vec::new()) };
}

impl Connected {
    /// First thing in each call.
    fn entered(&self) {
        PREPARED.with_borrow(|prepared| {
            for sibling in prepared.iter().filter_map(Weak::upgrade).filter(|sibling| sibling.id != self.id) {
                sibling.state.lock().unwrap().view.hide_advance();
            }
        });
    }

    fn no_longer_prepared(&self) {
        PREPARED.with_borrow_mut(|prepared| prepared.retain(|p| p.upgrade().is_some_and(|p| p.id != self.id)));
    }

    fn roll_back(&self, world: &mut World, state: &mut State) {
        state.view.rolled_back();
        state.prepared = None;
        self.no_longer_prepared();
        if world.writer == Some(self.id) {
            world.writer = None;
        }
    }

    /// The sibling rule: what is prepared and unpublished goes back at once.
    fn fail_siblings(&self) {
        let siblings = PREPARED.take();
        for sibling in siblings.iter().filter_map(Weak::upgrade).filter(|sibling| sibling.id != self.id) {
            // Its frames go with SQLite's own unlock of WRITE, or with its next call if that came.
            let mut world = sibling.world.lock().unwrap();
            let mut state = sibling.state.lock().unwrap();
            state.view.reset_header();
            state.prepared = None;
            if !state.writing {
                sibling.roll_back(&mut world, &mut state);
            }
        }
    }

    fn refresh(world: &World, state: &mut State) -> bool {
        state.view.refresh(world, world.newest(), world.bound())
    }

    fn lock(&self, first: c_int, count: c_int, exclusive: bool) -> c_int {
        let mut world = self.world.lock().unwrap();
        let mut state = self.state.lock().unwrap();
        let (world, state) = (&mut *world, &mut *state);
        if state.prepared.is_some() {
            self.roll_back(world, state);
        }
        match (first, exclusive) {
            (READ_0.., false) => {
                if first == READ_0 && !state.view.live_max_frame_is_zero() {
                    world.trouble.push("READ_LOCK(0)".into());
                }
                if !std::mem::take(&mut state.again) && state.view.lane().is_empty() {
                    state.again = Connected::refresh(world, state);
                    world.headers_moved += u64::from(state.again);
                }
                state.snapshot = state.view.sequence();
                world.snapshots.insert(self.id, state.snapshot.unwrap());
                ffi::SQLITE_OK
            }
            (WRITE, true) => {
                if world.writer.is_some_and(|writer| writer != self.id) {
                    return ffi::SQLITE_BUSY;
                }
                match state.snapshot {
                    Some(at) if at != world.newest().sequence => return ffi::SQLITE_BUSY_SNAPSHOT,
                    Some(_) => {}
                    None => self.checkpoint(world, state),
                }
                world.writer = Some(self.id);
                state.writing = true;
                state.view.begin_write(LOG_ID, world.newest().sequence + 1);
                ffi::SQLITE_OK
            }
            (CHECKPOINT, true) => {
                state.checkpointing = true;
                self.checkpoint(world, state);
                ffi::SQLITE_OK
            }
            (RECOVER, _) => {
                world.trouble.push("recovery".into());
                ffi::SQLITE_IOERR
            }
            (READ_0.., true) => {
                let mark_1 = first <= READ_0 + 1 && first + count > READ_0 + 1;
                if state.checkpointing && mark_1 && state.held_back { ffi::SQLITE_BUSY } else { ffi::SQLITE_OK }
            }
            _ => {
                world.trouble.push(format!("lock {first}, exclusive {exclusive}"));
                ffi::SQLITE_IOERR
            }
        }
    }

    fn checkpoint(&self, world: &mut World, state: &mut State) {
        Connected::refresh(world, state);
        let (last, all_done) = world.checkpoint();
        let prefix = state.view.frames_up_to(last);
        state.view.set_checkpoint_info(prefix, all_done);
        state.held_back = !all_done && prefix < state.view.max_frame();
    }

    fn unlock(&self, first: c_int) {
        let mut world = self.world.lock().unwrap();
        let mut state = self.state.lock().unwrap();
        match first {
            WRITE => {
                state.writing = false;
                if state.prepared.is_none() {
                    self.roll_back(&mut world, &mut state);
                }
            }
            CHECKPOINT => {
                state.checkpointing = false;
                state.view.reset_checkpoint_info();
            }
            READ_0.. if state.snapshot.is_some() && !state.checkpointing => {
                state.snapshot = None;
                world.snapshots.remove(&self.id);
            }
            _ => {}
        }
    }

    fn write_wal(self: &Arc<Connected>, data: &[u8], offset: u64) -> c_int {
        let mut world = self.world.lock().unwrap();
        let mut state = self.state.lock().unwrap();
        let written = state.view.write(data, offset, &mut spill_file);
        match written {
            Ok(Written::Staged) => ffi::SQLITE_OK,
            Ok(Written::Commit { database_pages }) => match world.fail_prepare.take() {
                Some(code) => {
                    drop((world, state));
                    self.fail_siblings();
                    code
                }
                None => {
                    state.prepared = Some(database_pages);
                    PREPARED.with_borrow_mut(|prepared| prepared.push(Arc::downgrade(self)));
                    ffi::SQLITE_OK
                }
            },
            Err(ViewError::Spill(error)) => panic!("{error}"),
            Err(error) => {
                world.trouble.push(error.to_string());
                ffi::SQLITE_CORRUPT
            }
        }
    }

    fn read_wal(&self, buffer: &mut [u8], offset: u64) -> c_int {
        let mut world = self.world.lock().unwrap();
        let state = self.state.lock().unwrap();
        let dropped = world.commits[world.backfilled].0;
        let read = state.view.read::<()>(buffer, offset, &mut |number, page, at, part| {
            let image = match number {
                number if number > dropped => &world.frames[number as usize - 1].1,
                _ => world.page(page),
            };
            part.copy_from_slice(&image[at as usize..at as usize + part.len()]);
            Ok(())
        });
        match read {
            Ok(()) => ffi::SQLITE_OK,
            Err(ReadError::BehindEnd { .. }) => ffi::SQLITE_IOERR_SHORT_READ,
            Err(error) => {
                world.trouble.push(format!("{error:?}"));
                ffi::SQLITE_IOERR_READ
            }
        }
    }

    fn phase_two(&self) -> c_int {
        let mut world = self.world.lock().unwrap();
        let mut state = self.state.lock().unwrap();
        state.view.restore_advance();
        let Some(pages) = state.prepared.take() else { return ffi::SQLITE_OK };
        self.no_longer_prepared();
        if let Some(code) = world.fail_publish.take() {
            self.roll_back(&mut world, &mut state);
            return code;
        }
        if !state.view.header_advanced() {
            world.trouble.push("PHASETWO without a header".into());
        }
        let first = world.frames.len() as u64 + 1;
        let lane = state.view.lane();
        world.spilled += lane.len() - lane.memory_frames();
        for frame in lane.frames() {
            let mut image = vec![0; world.page_bytes];
            match frame.image {
                Image::Memory(bytes) => image.copy_from_slice(bytes),
                Image::Spill(offset) => {
                    assert_eq!(lane.spill().unwrap().read_at(&mut image, offset).unwrap(), image.len());
                }
            }
            let sequence = world.commits.len() as u64;
            assert_eq!(frame.crc, pwal::internal::log::format::image_crc(LOG_ID, frame.page, sequence, &image));
            world.frames.push((frame.page, image.into_boxed_slice()));
        }
        let last = world.frames.len() as u64;
        world.commits.push((last, pages));
        let sequence = world.newest().sequence;
        state.view.published(first, sequence);
        state.snapshot = state.snapshot.map(|_| sequence);
        if state.snapshot.is_some() {
            world.snapshots.insert(self.id, sequence);
        }
        world.writer = None;
        ffi::SQLITE_OK
    }
}

fn spill_file() -> io::Result<Arc<dyn LogFile>> {
    let directory = SimDisk::new(1).directory(Path::new("/view/a.db"));
    directory.create()?;
    directory.open("a.spill", OpenMode::CreateNew)
}
