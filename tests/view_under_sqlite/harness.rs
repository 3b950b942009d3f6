//! The smallest VFS that puts views under a real SQLite: a database file and a log in memory, one view for each
//! connection, no durability. It keeps the rules that the view asks of its owner, and notes when SQLite does
//! something that a right view never makes it do.

use libsqlite3_sys as ffi;
use pwal::disk::LogFile;
use pwal::view::{FrameTable, Image, ReadError, Region, Snapshot, View, ViewError, Written};
use rusqlite::{Connection, OpenFlags};
use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::io::{self, IoSlice};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, Once, Weak};

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
        let written = state.view.write(data, offset, &mut || Ok(Arc::new(MemoryFile::default())));
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
            assert_eq!(frame.crc, pwal::log::format::image_crc(LOG_ID, frame.page, sequence, &image));
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

#[derive(Debug, Default)]
struct MemoryFile(Mutex<Vec<u8>>);

impl LogFile for MemoryFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let bytes = self.0.lock().unwrap();
        let rest = bytes.get(offset as usize..).unwrap_or_default();
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }

    fn write_at(&self, parts: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        let mut bytes = self.0.lock().unwrap();
        for part in parts {
            let end = offset as usize + part.len();
            let length = bytes.len().max(end);
            bytes.resize(length, 0);
            bytes[offset as usize..end].copy_from_slice(part);
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn bytes(&self) -> io::Result<u64> {
        Ok(self.0.lock().unwrap().len() as u64)
    }
}

// ---------------------------------------------------------------------------------------------
// The VFS

static WORLDS: LazyLock<Mutex<HashMap<String, Arc<Mutex<World>>>>> = LazyLock::new(Mutex::default);
static CONNECTIONS: AtomicU64 = AtomicU64::new(1);
static REGISTER: Once = Once::new();
const VFS_NAME: &CStr = c"view-under-sqlite";

/// What stands behind an open file of ours.
enum Open {
    Main(Arc<Connected>),
    Wal(Arc<Connected>),
}

#[repr(C)]
struct File {
    methods: *const ffi::sqlite3_io_methods,
    open: *mut Open,
}

fn open_of<'a>(file: *mut ffi::sqlite3_file) -> &'a Open {
    // SAFETY: SQLite calls our methods only with files that our `xOpen` filled, until `xClose`.
    unsafe { &*(*file.cast::<File>()).open }
}

fn connected<'a>(file: *mut ffi::sqlite3_file) -> &'a Arc<Connected> {
    let (Open::Main(connected) | Open::Wal(connected)) = open_of(file);
    connected.entered();
    connected
}

fn base() -> *mut ffi::sqlite3_vfs {
    // SAFETY: looks up the default VFS, which is never unregistered here.
    unsafe { ffi::sqlite3_vfs_find(c"unix".as_ptr()) }
}

unsafe extern "C" fn x_open(
    _: *mut ffi::sqlite3_vfs,
    name: *const c_char,
    file: *mut ffi::sqlite3_file,
    flags: c_int,
    out: *mut c_int,
) -> c_int {
    let open = if flags & ffi::SQLITE_OPEN_MAIN_DB != 0 {
        // SAFETY: a main database has a name, zero-terminated.
        let name = unsafe { CStr::from_ptr(name) }.to_str().unwrap().to_owned();
        let Some(world) = WORLDS.lock().unwrap().get(&name).cloned() else { return ffi::SQLITE_CANTOPEN };
        let (page_bytes, lane_bytes) = {
            let world = world.lock().unwrap();
            (world.page_bytes as u32, world.lane_bytes)
        };
        let state = State {
            view: View::new(page_bytes, lane_bytes),
            snapshot: None,
            again: false,
            writing: false,
            prepared: None,
            checkpointing: false,
            held_back: false,
            mapped: Vec::new(),
        };
        let id = CONNECTIONS.fetch_add(1, Ordering::Relaxed);
        Open::Main(Arc::new(Connected { id, world, state: Mutex::new(state) }))
    } else if flags & ffi::SQLITE_OPEN_WAL != 0 {
        // SAFETY: inside `xOpen` of a WAL name, which is what this function asks for.
        let main = unsafe { ffi::sqlite3_database_file_object(name) };
        Open::Wal(Arc::clone(connected(main)))
    } else {
        // SAFETY: `szOsFile` has room for the base's files; nothing of it is ours then.
        return unsafe { ((*base()).xOpen.unwrap())(base(), name, file, flags, out) };
    };
    if !out.is_null() {
        // SAFETY: a valid pointer or null.
        unsafe { *out = flags };
    }
    let open = Box::into_raw(Box::new(open));
    // SAFETY: `szOsFile` bytes are ours to fill.
    unsafe { file.cast::<File>().write(File { methods: &raw const METHODS, open }) };
    ffi::SQLITE_OK
}

unsafe extern "C" fn x_delete(_: *mut ffi::sqlite3_vfs, name: *const c_char, sync: c_int) -> c_int {
    // SAFETY: SQLite's own arguments, handed on.
    unsafe { ((*base()).xDelete.unwrap())(base(), name, sync) }
}

unsafe extern "C" fn x_access(_: *mut ffi::sqlite3_vfs, _: *const c_char, _: c_int, out: *mut c_int) -> c_int {
    // No journal and no WAL lies beside a database of ours.
    // SAFETY: SQLite passes a valid pointer.
    unsafe { *out = 0 };
    ffi::SQLITE_OK
}

unsafe extern "C" fn x_full_pathname(
    _: *mut ffi::sqlite3_vfs,
    name: *const c_char,
    n: c_int,
    out: *mut c_char,
) -> c_int {
    // SAFETY: SQLite's own arguments, handed on.
    unsafe { ((*base()).xFullPathname.unwrap())(base(), name, n, out) }
}

unsafe extern "C" fn x_randomness(_: *mut ffi::sqlite3_vfs, n: c_int, out: *mut c_char) -> c_int {
    // SAFETY: SQLite's own arguments, handed on.
    unsafe { ((*base()).xRandomness.unwrap())(base(), n, out) }
}

unsafe extern "C" fn x_sleep(_: *mut ffi::sqlite3_vfs, microseconds: c_int) -> c_int {
    microseconds
}

unsafe extern "C" fn x_current_time(_: *mut ffi::sqlite3_vfs, out: *mut f64) -> c_int {
    // SAFETY: SQLite's own arguments, handed on.
    unsafe { ((*base()).xCurrentTime.unwrap())(base(), out) }
}

unsafe extern "C" fn x_close(file: *mut ffi::sqlite3_file) -> c_int {
    connected(file);
    // SAFETY: the box of `x_open`; SQLite does not use the file any more.
    drop(unsafe { Box::from_raw((*file.cast::<File>()).open) });
    ffi::SQLITE_OK
}

unsafe extern "C" fn x_read(file: *mut ffi::sqlite3_file, to: *mut c_void, n: c_int, offset: i64) -> c_int {
    // SAFETY: SQLite passes `n` bytes of its own; they may be fresh, so they are set first.
    let buffer = unsafe {
        to.cast::<u8>().write_bytes(0, n as usize);
        std::slice::from_raw_parts_mut(to.cast::<u8>(), n as usize)
    };
    match open_of(file) {
        Open::Wal(_) => connected(file).read_wal(buffer, offset as u64),
        Open::Main(_) => {
            let world = connected(file).world.lock().unwrap();
            let rest = world.file.get(offset as usize..).unwrap_or_default();
            let count = rest.len().min(buffer.len());
            buffer[..count].copy_from_slice(&rest[..count]);
            if count < buffer.len() { ffi::SQLITE_IOERR_SHORT_READ } else { ffi::SQLITE_OK }
        }
    }
}

unsafe extern "C" fn x_write(file: *mut ffi::sqlite3_file, from: *const c_void, n: c_int, offset: i64) -> c_int {
    // SAFETY: SQLite passes `n` bytes.
    let data = unsafe { std::slice::from_raw_parts(from.cast::<u8>(), n as usize) };
    match open_of(file) {
        Open::Wal(_) => connected(file).write_wal(data, offset as u64),
        Open::Main(connected) => {
            connected.world.lock().unwrap().trouble.push("a write to the database file".into());
            ffi::SQLITE_IOERR_WRITE
        }
    }
}

unsafe extern "C" fn x_truncate(file: *mut ffi::sqlite3_file, _: i64) -> c_int {
    if let Open::Main(connected) = open_of(file) {
        connected.world.lock().unwrap().trouble.push("a truncation of the database file".into());
    }
    ffi::SQLITE_OK
}

unsafe extern "C" fn x_sync(_: *mut ffi::sqlite3_file, _: c_int) -> c_int {
    ffi::SQLITE_OK
}

unsafe extern "C" fn x_file_size(file: *mut ffi::sqlite3_file, out: *mut i64) -> c_int {
    let connected = connected(file);
    let bytes = match open_of(file) {
        Open::Main(_) => connected.world.lock().unwrap().file.len() as u64,
        Open::Wal(_) => connected.state.lock().unwrap().view.wal_bytes(),
    };
    // SAFETY: SQLite passes a valid pointer.
    unsafe { *out = bytes as i64 };
    ffi::SQLITE_OK
}

unsafe extern "C" fn x_lock(_: *mut ffi::sqlite3_file, level: c_int) -> c_int {
    // At close SQLite asks for EXCLUSIVE to checkpoint and delete the WAL.
    if level > ffi::SQLITE_LOCK_SHARED { ffi::SQLITE_BUSY } else { ffi::SQLITE_OK }
}

unsafe extern "C" fn x_unlock(_: *mut ffi::sqlite3_file, _: c_int) -> c_int {
    ffi::SQLITE_OK
}

unsafe extern "C" fn x_check_reserved_lock(_: *mut ffi::sqlite3_file, out: *mut c_int) -> c_int {
    // SAFETY: SQLite passes a valid pointer.
    unsafe { *out = 0 };
    ffi::SQLITE_OK
}

unsafe extern "C" fn x_file_control(file: *mut ffi::sqlite3_file, op: c_int, _: *mut c_void) -> c_int {
    let connected = connected(file);
    if op != ffi::SQLITE_FCNTL_COMMIT_PHASETWO {
        return ffi::SQLITE_NOTFOUND;
    }
    let code = connected.phase_two();
    if code != ffi::SQLITE_OK {
        connected.fail_siblings();
    }
    code
}

unsafe extern "C" fn x_sector_size(_: *mut ffi::sqlite3_file) -> c_int {
    4096
}

unsafe extern "C" fn x_device_characteristics(_: *mut ffi::sqlite3_file) -> c_int {
    ffi::SQLITE_IOCAP_POWERSAFE_OVERWRITE
}

unsafe extern "C" fn x_shm_map(
    file: *mut ffi::sqlite3_file,
    index: c_int,
    _: c_int,
    extend: c_int,
    out: *mut *mut c_void,
) -> c_int {
    let connected = connected(file);
    let world = connected.world.lock().unwrap();
    let mut state = connected.state.lock().unwrap();
    if state.view.sequence().is_none() {
        Connected::refresh(&world, &mut state);
    }
    let region = state.view.region(index as u32, extend != 0);
    let address = region.as_ref().map_or(std::ptr::null_mut(), |region| Arc::as_ptr(region).cast_mut().cast());
    state.mapped.extend(region);
    // SAFETY: SQLite passes a valid pointer.
    unsafe { *out = address };
    ffi::SQLITE_OK
}

unsafe extern "C" fn x_shm_lock(file: *mut ffi::sqlite3_file, first: c_int, n: c_int, flags: c_int) -> c_int {
    let connected = connected(file);
    if flags & ffi::SQLITE_SHM_UNLOCK != 0 {
        connected.unlock(first);
        return ffi::SQLITE_OK;
    }
    connected.lock(first, n, flags & ffi::SQLITE_SHM_EXCLUSIVE != 0)
}

unsafe extern "C" fn x_shm_barrier(_: *mut ffi::sqlite3_file) {}

unsafe extern "C" fn x_shm_unmap(_: *mut ffi::sqlite3_file, _: c_int) -> c_int {
    ffi::SQLITE_OK
}

static METHODS: ffi::sqlite3_io_methods = ffi::sqlite3_io_methods {
    iVersion: 2,
    xClose: Some(x_close),
    xRead: Some(x_read),
    xWrite: Some(x_write),
    xTruncate: Some(x_truncate),
    xSync: Some(x_sync),
    xFileSize: Some(x_file_size),
    xLock: Some(x_lock),
    xUnlock: Some(x_unlock),
    xCheckReservedLock: Some(x_check_reserved_lock),
    xFileControl: Some(x_file_control),
    xSectorSize: Some(x_sector_size),
    xDeviceCharacteristics: Some(x_device_characteristics),
    xShmMap: Some(x_shm_map),
    xShmLock: Some(x_shm_lock),
    xShmBarrier: Some(x_shm_barrier),
    xShmUnmap: Some(x_shm_unmap),
    xFetch: None,
    xUnfetch: None,
};

fn register() {
    REGISTER.call_once(|| {
        // SAFETY: a VFS that lives for ever, copied from the base where nothing is changed.
        unsafe {
            let mut vfs: ffi::sqlite3_vfs = std::ptr::read(base());
            vfs.iVersion = 1;
            vfs.szOsFile = vfs.szOsFile.max(size_of::<File>() as c_int);
            vfs.pNext = std::ptr::null_mut();
            vfs.zName = VFS_NAME.as_ptr();
            vfs.xOpen = Some(x_open);
            vfs.xDelete = Some(x_delete);
            vfs.xAccess = Some(x_access);
            vfs.xFullPathname = Some(x_full_pathname);
            vfs.xRandomness = Some(x_randomness);
            vfs.xSleep = Some(x_sleep);
            vfs.xCurrentTime = Some(x_current_time);
            vfs.xDlOpen = None;
            assert_eq!(ffi::sqlite3_vfs_register(Box::into_raw(Box::new(vfs)), 0), ffi::SQLITE_OK);
        }
    });
}

/// A database of its own; stock SQLite has made its first bytes, in WAL mode, with `schema`.
pub struct Database {
    name: String,
    world: Arc<Mutex<World>>,
}

impl Database {
    pub fn new(page_bytes: usize, lane_bytes: usize, schema: &str) -> Database {
        register();
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("seed.db");
        let connection = Connection::open(&path).unwrap();
        connection.execute_batch(&format!("PRAGMA page_size={page_bytes}; PRAGMA journal_mode=WAL; {schema}")).unwrap();
        connection.close().unwrap();
        let file = std::fs::read(&path).unwrap();
        let pages = (file.len() / page_bytes) as u32;
        let world = World {
            file,
            page_bytes,
            lane_bytes,
            frames: Vec::new(),
            commits: vec![(0, pages)],
            backfilled: 0,
            writer: None,
            snapshots: HashMap::new(),
            fail_prepare: None,
            fail_publish: None,
            trouble: Vec::new(),
            spilled: 0,
            headers_moved: 0,
        };
        let world = Arc::new(Mutex::new(world));
        let name = format!("/view-under-sqlite-{}.db", CONNECTIONS.fetch_add(1, Ordering::Relaxed));
        WORLDS.lock().unwrap().insert(name.clone(), Arc::clone(&world));
        Database { name, world }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn connect(&self) -> Connection {
        let connection =
            Connection::open_with_flags_and_vfs(&self.name, OpenFlags::SQLITE_OPEN_READ_WRITE, VFS_NAME).unwrap();
        connection.busy_timeout(std::time::Duration::ZERO).unwrap();
        connection
    }

    pub fn world<T>(&self, look: impl FnOnce(&mut World) -> T) -> T {
        look(&mut self.world.lock().unwrap())
    }

    pub fn no_trouble(&self) {
        self.world(|world| assert_eq!(world.trouble, Vec::<String>::new()));
    }

    /// Commits so far.
    pub fn commits(&self) -> usize {
        self.world(|world| world.commits.len() - 1)
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        WORLDS.lock().unwrap().remove(&self.name);
    }
}
