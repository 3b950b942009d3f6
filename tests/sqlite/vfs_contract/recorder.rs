//! A VFS below the shim that writes down every call it gets, can present itself in an older
//! version, and can fail on demand. What lies below it is the platform's own VFS.

use rusqlite::ffi::{self, sqlite3_file, sqlite3_io_methods, sqlite3_vfs};
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::sync::Mutex;
use std::sync::atomic::{AtomicI32, Ordering};

/// How the recorder presents itself.
#[derive(Clone, Copy)]
pub struct Shape {
    /// `iVersion` of its VFS and its files.
    pub version: c_int,
    /// Whether its files have shared memory.
    pub shm: bool,
    /// What its files' `xDeviceCharacteristics` adds.
    pub characteristics: c_int,
}

impl Default for Shape {
    fn default() -> Shape {
        Shape { version: 3, shm: true, characteristics: 0 }
    }
}

/// A registered recorder: leaked, since SQLite keeps it.
pub struct Recorder {
    name: CString,
    shape: Shape,
    below: *mut sqlite3_vfs,
    events: Mutex<Vec<String>>,
    /// The next calls of a method with this number (see [`Recorder::fail`]) answer a code.
    fail: Mutex<Option<(&'static str, c_int)>>,
    /// A failed open leaves its methods in the file object, as the interface allows.
    pub methods_after_failed_open: AtomicI32,
    /// Says in the out-flags of a main file that it is open for reading only.
    pub opens_read_only: AtomicI32,
    /// File objects that are open.
    pub open_files: AtomicI32,
    methods: sqlite3_io_methods,
}

// SAFETY: the pointers are to memory that stays; everything that changes is behind a lock.
unsafe impl Sync for Recorder {}
// SAFETY: as above.
unsafe impl Send for Recorder {}

#[repr(C)]
struct File {
    file: sqlite3_file,
    recorder: *const Recorder,
    kind: &'static str,
}

const HEAD_BYTES: usize = size_of::<File>().next_multiple_of(8);

unsafe fn below(file: *mut sqlite3_file) -> *mut sqlite3_file {
    // SAFETY: `szOsFile` covers both objects.
    unsafe { file.byte_add(HEAD_BYTES) }
}

impl Recorder {
    /// Registers a recorder under this name.
    pub fn register(name: &str, shape: Shape) -> &'static Recorder {
        Recorder::register_on(name, shape, None)
    }

    /// Registers a recorder on top of another VFS.
    pub fn register_on(name: &str, shape: Shape, below: Option<&str>) -> &'static Recorder {
        let below = below.map(|name| CString::new(name).unwrap());
        // SAFETY: null or a C string; a registered VFS stays.
        let below = unsafe { ffi::sqlite3_vfs_find(below.as_ref().map_or(std::ptr::null(), |name| name.as_ptr())) };
        assert!(!below.is_null());
        let recorder = Box::leak(Box::new(Recorder {
            name: CString::new(name).unwrap(),
            shape,
            below,
            events: Mutex::default(),
            fail: Mutex::default(),
            methods_after_failed_open: AtomicI32::new(0),
            opens_read_only: AtomicI32::new(0),
            open_files: AtomicI32::new(0),
            methods: methods(shape),
        }));
        let app_data = std::ptr::from_mut(recorder).cast();
        // SAFETY: the VFS below stays registered; the new one is complete before it is.
        unsafe {
            let vfs = Box::leak(Box::new(std::mem::zeroed::<sqlite3_vfs>()));
            vfs.iVersion = shape.version;
            vfs.szOsFile = (*below).szOsFile + c_int::try_from(HEAD_BYTES).unwrap();
            vfs.mxPathname = (*below).mxPathname;
            vfs.zName = recorder.name.as_ptr();
            vfs.pAppData = app_data;
            vfs.xOpen = Some(x_open);
            vfs.xDelete = Some(x_delete);
            vfs.xAccess = Some(x_access);
            vfs.xFullPathname = Some(x_full_pathname);
            vfs.xRandomness = Some(x_randomness);
            vfs.xSleep = Some(x_sleep);
            vfs.xCurrentTime = Some(x_current_time);
            vfs.xGetLastError = Some(x_get_last_error);
            if shape.version >= 2 {
                vfs.xCurrentTimeInt64 = Some(x_current_time_int64);
            }
            if shape.version >= 3 {
                vfs.xNextSystemCall = Some(x_next_system_call);
            }
            assert_eq!(ffi::sqlite3_vfs_register(vfs, 0), 0);
        }
        recorder
    }

    /// What came since the last time.
    pub fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.events.lock().unwrap())
    }

    /// From now on the method of that name answers `code` (0: as it should).
    pub fn fail(&self, method: &'static str, code: c_int) {
        *self.fail.lock().unwrap() = (code != 0).then_some((method, code));
    }

    fn note(&self, event: String) {
        self.events.lock().unwrap().push(event);
    }

    fn failure(&self, method: &str) -> Option<c_int> {
        self.fail.lock().unwrap().filter(|(name, _)| *name == method).map(|(_, code)| code)
    }
}

unsafe fn recorder<'a>(vfs: *mut sqlite3_vfs) -> &'a Recorder {
    // SAFETY: only VFSes made above have these methods.
    unsafe { &*(*vfs).pAppData.cast() }
}

unsafe fn base_name(path: *const c_char) -> String {
    if path.is_null() {
        return String::from("(none)");
    }
    // SAFETY: SQLite passes a C string.
    let path = unsafe { CStr::from_ptr(path) }.to_string_lossy().into_owned();
    path.rsplit('/').next().unwrap_or_default().to_owned()
}

/// The kind of a file by its open flags.
fn kind(flags: c_int) -> &'static str {
    const KINDS: [(c_int, &str); 8] = [
        (ffi::SQLITE_OPEN_MAIN_DB, "main"),
        (ffi::SQLITE_OPEN_TEMP_DB, "temp-db"),
        (ffi::SQLITE_OPEN_TRANSIENT_DB, "transient-db"),
        (ffi::SQLITE_OPEN_MAIN_JOURNAL, "journal"),
        (ffi::SQLITE_OPEN_TEMP_JOURNAL, "temp-journal"),
        (ffi::SQLITE_OPEN_SUBJOURNAL, "subjournal"),
        (ffi::SQLITE_OPEN_SUPER_JOURNAL, "super-journal"),
        (ffi::SQLITE_OPEN_WAL, "wal"),
    ];
    KINDS.iter().find(|(flag, _)| flags & flag != 0).map_or("other", |(_, name)| name)
}

unsafe extern "C" fn x_open(
    vfs: *mut sqlite3_vfs,
    name: *const c_char,
    file: *mut sqlite3_file,
    flags: c_int,
    out_flags: *mut c_int,
) -> c_int {
    // SAFETY: SQLite's (or the shim's) arguments, passed on.
    unsafe {
        let recorder = recorder(vfs);
        let probe = if flags & ffi::SQLITE_OPEN_MAIN_DB != 0 {
            ffi::sqlite3_uri_parameter(name, c"probe".as_ptr())
        } else {
            std::ptr::null()
        };
        let probe = if probe.is_null() { String::new() } else { format!(" probe={}", base_name(probe)) };
        let super_journal = flags & ffi::SQLITE_OPEN_SUPER_JOURNAL != 0;
        // A super-journal's name is random.
        let shown = if super_journal { String::from("(random)") } else { base_name(name) };
        recorder.note(format!("vfs.open {} {shown} flags={flags:#x}{probe}", kind(flags)));
        let head: *mut File = file.cast();
        (*file).pMethods = std::ptr::null();
        (*head).recorder = recorder;
        (*head).kind = kind(flags);
        (*below(file)).pMethods = std::ptr::null();
        let code = match recorder.failure("open") {
            Some(code) => code,
            None => ((*recorder.below).xOpen.unwrap())(recorder.below, name, below(file), flags, out_flags),
        };
        if recorder.opens_read_only.load(Ordering::SeqCst) != 0 && !out_flags.is_null() {
            out_flags.write(flags & !ffi::SQLITE_OPEN_READWRITE | ffi::SQLITE_OPEN_READONLY);
        }
        if code == 0 || recorder.methods_after_failed_open.load(Ordering::SeqCst) != 0 {
            recorder.open_files.fetch_add(1, Ordering::SeqCst);
            (*file).pMethods = &raw const recorder.methods;
        }
        code
    }
}

/// One method of the VFS: noted, then passed on.
macro_rules! vfs_method {
    ($name:ident, $method:ident($($argument:ident: $type:ty),*) -> $result:ty, $text:expr) => {
        unsafe extern "C" fn $name(vfs: *mut sqlite3_vfs $(, $argument: $type)*) -> $result {
            // SAFETY: SQLite's (or the shim's) arguments, passed on.
            unsafe {
                let recorder = recorder(vfs);
                let text: Option<String> = $text;
                if let Some(text) = text {
                    recorder.note(text);
                }
                ((*recorder.below).$method.unwrap())(recorder.below $(, $argument)*)
            }
        }
    };
}

vfs_method!(x_delete, xDelete(name: *const c_char, sync: c_int) -> c_int,
    Some(format!("vfs.delete {} sync={sync}", super_or_name(name))));
vfs_method!(x_access, xAccess(name: *const c_char, flags: c_int, out: *mut c_int) -> c_int,
    Some(format!("vfs.access {} flags={flags}", super_or_name(name))));
vfs_method!(x_full_pathname, xFullPathname(name: *const c_char, bytes: c_int, out: *mut c_char) -> c_int,
    Some(format!("vfs.full_pathname {} bytes={bytes}", base_name(name))));
vfs_method!(x_randomness, xRandomness(bytes: c_int, out: *mut c_char) -> c_int, None);
vfs_method!(x_sleep, xSleep(microseconds: c_int) -> c_int, Some(format!("vfs.sleep {microseconds}")));
vfs_method!(x_current_time, xCurrentTime(out: *mut f64) -> c_int, Some(String::from("vfs.current_time")));
vfs_method!(x_get_last_error, xGetLastError(bytes: c_int, out: *mut c_char) -> c_int, None);
vfs_method!(x_current_time_int64, xCurrentTimeInt64(out: *mut i64) -> c_int,
    Some(String::from("vfs.current_time_int64")));
vfs_method!(x_next_system_call, xNextSystemCall(name: *const c_char) -> *const c_char,
    Some(String::from("vfs.next_system_call")));

unsafe fn super_or_name(path: *const c_char) -> String {
    // SAFETY: SQLite passes a C string.
    let name = unsafe { base_name(path) };
    if name.contains("-mj") { String::from("(random)") } else { name }
}

unsafe fn opened<'a>(file: *mut sqlite3_file) -> (&'a Recorder, &'static str) {
    // SAFETY: only files opened above have these methods.
    unsafe { (&*(*file.cast::<File>()).recorder, (*file.cast::<File>()).kind) }
}

/// One method of a file: noted, failed on demand, or passed on.
macro_rules! file_method {
    ($name:ident, $label:literal, $method:ident($($argument:ident: $type:ty),*), $text:expr) => {
        unsafe extern "C" fn $name(file: *mut sqlite3_file $(, $argument: $type)*) -> c_int {
            // SAFETY: SQLite's (or the shim's) arguments, passed on.
            unsafe {
                let (recorder, kind) = opened(file);
                let text: String = $text;
                recorder.note(format!("{kind}.{}{text}", $label));
                if let Some(code) = recorder.failure($label) {
                    return code;
                }
                let file = below(file);
                ((*(*file).pMethods).$method.unwrap())(file $(, $argument)*)
            }
        }
    };
}

unsafe extern "C" fn x_close(file: *mut sqlite3_file) -> c_int {
    // SAFETY: an open file of ours; the one below is open unless its open failed.
    unsafe {
        let (recorder, kind) = opened(file);
        recorder.note(format!("{kind}.close"));
        recorder.open_files.fetch_sub(1, Ordering::SeqCst);
        let file = below(file);
        if (*file).pMethods.is_null() { 0 } else { ((*(*file).pMethods).xClose.unwrap())(file) }
    }
}

file_method!(x_read, "read", xRead(data: *mut c_void, bytes: c_int, offset: i64), format!(" {bytes} at {offset}"));
file_method!(x_write, "write", xWrite(data: *const c_void, bytes: c_int, offset: i64), format!(" {bytes} at {offset}"));
file_method!(x_truncate, "truncate", xTruncate(bytes: i64), format!(" {bytes}"));
file_method!(x_sync, "sync", xSync(flags: c_int), format!(" flags={flags}"));
file_method!(x_file_size, "file_size", xFileSize(out: *mut i64), String::new());
file_method!(x_lock, "lock", xLock(level: c_int), format!(" {level}"));
file_method!(x_unlock, "unlock", xUnlock(level: c_int), format!(" {level}"));
file_method!(x_check_reserved_lock, "check_reserved_lock", xCheckReservedLock(out: *mut c_int), String::new());
file_method!(x_sector_size, "sector_size", xSectorSize(), String::new());
file_method!(x_shm_map, "shm_map", xShmMap(region: c_int, bytes: c_int, extend: c_int, out: *mut *mut c_void),
    format!(" {region} bytes={bytes} extend={extend}"));
file_method!(x_shm_lock, "shm_lock", xShmLock(first: c_int, count: c_int, flags: c_int),
    format!(" {first}+{count} flags={flags}"));
file_method!(x_shm_unmap, "shm_unmap", xShmUnmap(delete: c_int), format!(" delete={delete}"));
file_method!(x_fetch, "fetch", xFetch(offset: i64, bytes: c_int, out: *mut *mut c_void), format!(" {bytes} at {offset}"));
file_method!(x_unfetch, "unfetch", xUnfetch(offset: i64, page: *mut c_void),
    format!(" {} at {offset}", if page.is_null() { "all" } else { "page" }));

/// The operation that only the recorder knows: it answers its argument's address.
pub const FCNTL_OWN: c_int = 987_654;

unsafe extern "C" fn x_file_control(file: *mut sqlite3_file, operation: c_int, argument: *mut c_void) -> c_int {
    // SAFETY: SQLite's (or the shim's) arguments, passed on.
    unsafe {
        let (recorder, kind) = opened(file);
        // FCNTL_OWN carries a string; the others are noted by number.
        if operation == FCNTL_OWN {
            recorder.note(format!("{kind}.file_control own {}", base_name(argument.cast())));
            return 0;
        }
        recorder.note(format!("{kind}.file_control {operation}"));
        if let Some(code) = recorder.failure("file_control") {
            return code;
        }
        let file = below(file);
        ((*(*file).pMethods).xFileControl.unwrap())(file, operation, argument)
    }
}

unsafe extern "C" fn x_device_characteristics(file: *mut sqlite3_file) -> c_int {
    // SAFETY: an open file of ours.
    unsafe {
        let (recorder, kind) = opened(file);
        recorder.note(format!("{kind}.device_characteristics"));
        let file = below(file);
        ((*(*file).pMethods).xDeviceCharacteristics.unwrap())(file) | recorder.shape.characteristics
    }
}

unsafe extern "C" fn x_shm_barrier(file: *mut sqlite3_file) {
    // SAFETY: an open file of ours.
    unsafe {
        let (recorder, kind) = opened(file);
        recorder.note(format!("{kind}.shm_barrier"));
        let file = below(file);
        ((*(*file).pMethods).xShmBarrier.unwrap())(file);
    }
}

fn methods(shape: Shape) -> sqlite3_io_methods {
    let (two, three) = (shape.version >= 2, shape.version >= 3);
    sqlite3_io_methods {
        iVersion: shape.version,
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
        xShmMap: (two && shape.shm).then_some(x_shm_map as _),
        xShmLock: (two && shape.shm).then_some(x_shm_lock as _),
        xShmBarrier: (two && shape.shm).then_some(x_shm_barrier as _),
        xShmUnmap: (two && shape.shm).then_some(x_shm_unmap as _),
        xFetch: three.then_some(x_fetch as _),
        xUnfetch: three.then_some(x_unfetch as _),
    }
}
