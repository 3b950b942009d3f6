//! The VFS: what SQLite calls, and the databases that it opens by it.

use super::{Connected, State, World};
use libsqlite3_sys as ffi;
use pwal::internal::view::View;
use rusqlite::{Connection, OpenFlags};
use std::collections::HashMap;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, Once};

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
