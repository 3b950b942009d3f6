//! The VFS of the tests: each call of it becomes a [`Call`], which a [`Hook`] answers itself or passes on to the VFS below.
//!
//! It knows nothing of pwal: the yardstick must not share code with what is measured. A registration is never taken back.

#![allow(unsafe_code, reason = "a VFS is a table of C functions")]

use rusqlite::ffi::{self, sqlite3_file, sqlite3_int64, sqlite3_io_methods, sqlite3_vfs};
use std::any::Any;
use std::cell::{Cell, OnceCell};
use std::ffi::{CStr, CString, OsStr, c_char, c_int, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::{ptr, slice};

/// Sees all calls of one VFS and of its files.
pub trait Hook: Send + Sync + 'static {
    /// The result of a call; `file` where it is a file's. At `xOpen` that is the file which is being opened.
    fn call(&self, call: &Call, file: Option<&OpenFile>, below: &Below) -> c_int;
}

/// How the VFS presents itself.
#[derive(Clone, Copy)]
pub struct Shape {
    /// `iVersion` of the VFS and of its files.
    pub version: c_int,
    /// Whether its files have shared memory.
    pub shm: bool,
}

impl Default for Shape {
    fn default() -> Shape {
        Shape { version: 3, shm: true }
    }
}

/// The VFS below, and its file, which is open unless the hook opened none.
pub struct Below {
    vfs: *mut sqlite3_vfs,
    file: *mut sqlite3_file,
}

/// A file that is open, or about to be.
pub struct OpenFile {
    /// As [`Call::label`].
    pub label: String,
    /// The flags of its `xOpen`.
    pub flags: c_int,
    /// What SQLite knows it by.
    pub address: *mut sqlite3_file,
    kept: OnceCell<Box<dyn Any>>,
    has_methods: Cell<bool>,
}

struct Registered {
    below: *mut sqlite3_vfs,
    hook: &'static dyn Hook,
    methods: sqlite3_io_methods,
}

/// What SQLite allocates for each file; the file of the VFS below lies after it.
#[repr(C)]
struct File {
    methods: *const sqlite3_io_methods,
    registered: *const Registered,
    open: *mut OpenFile,
}

/// Registers `name` on the VFS `below`.
pub fn register<H: Hook>(name: &str, below: &str, shape: Shape, hook: H) -> &'static H {
    let below = CString::new(below).expect("a name");
    // SAFETY: the name ends with a zero byte; SQLite never frees a registered VFS.
    let below = unsafe { ffi::sqlite3_vfs_find(below.as_ptr()) };
    assert!(!below.is_null(), "no such VFS below");
    let hook: &'static H = Box::leak(Box::new(hook));
    let registered = Box::leak(Box::new(Registered { below, hook, methods: methods(shape) }));
    // SAFETY: `below` is a registered VFS; the new one is a copy of it with our functions, and stays.
    unsafe {
        let mut vfs = *below;
        vfs.iVersion = shape.version;
        vfs.szOsFile += c_int::try_from(size_of::<File>()).expect("small");
        vfs.pNext = ptr::null_mut();
        vfs.zName = CString::new(name).expect("a name").into_raw();
        vfs.pAppData = ptr::from_mut(registered).cast();
        vfs.xOpen = Some(x_open);
        vfs.xDelete = Some(x_delete);
        vfs.xAccess = Some(x_access);
        vfs.xFullPathname = Some(x_full_pathname);
        vfs.xRandomness = Some(x_randomness);
        vfs.xSleep = Some(x_sleep);
        vfs.xCurrentTime = Some(x_current_time);
        vfs.xGetLastError = Some(x_get_last_error);
        vfs.xCurrentTimeInt64 = (shape.version >= 2).then_some(x_current_time_int64 as _);
        // The system calls want the `pAppData` of the VFS below, and are not called.
        vfs.xNextSystemCall = vfs.xNextSystemCall.filter(|_| shape.version >= 3);
        assert_eq!(ffi::sqlite3_vfs_register(Box::leak(Box::new(vfs)), 0), ffi::SQLITE_OK);
    }
    hook
}

impl OpenFile {
    /// What the hook keeps for this file until it is closed. Once.
    pub fn keep(&self, value: impl Any) {
        assert!(self.kept.set(Box::new(value)).is_ok(), "nothing was kept yet");
    }

    /// What it keeps.
    pub fn kept<T: Any>(&self) -> Option<&T> {
        self.kept.get()?.downcast_ref()
    }

    /// The file object gets methods even if `xOpen` fails, as the interface allows: SQLite closes it then.
    pub fn has_methods_in_any_case(&self) {
        self.has_methods.set(true);
    }

    /// The file at this address.
    ///
    /// # Safety
    /// It is one of a VFS registered here, and open.
    pub unsafe fn at<'a>(file: *mut sqlite3_file) -> &'a OpenFile {
        // SAFETY: the caller's promise; `x_open` filled it.
        unsafe { &*(*file.cast::<File>()).open }
    }
}

// SAFETY (of all functions below): SQLite calls them with its own pointers as the VFS interface documents; `pAppData` and
// `File` hold what `register` and `x_open` stored. A `Call` is made here alone, and lent for the time of the call.

unsafe fn below_file(file: *mut sqlite3_file) -> *mut sqlite3_file {
    // SAFETY: `szOsFile` covers both.
    unsafe { file.byte_add(size_of::<File>()) }
}

unsafe fn of_vfs(vfs: *mut sqlite3_vfs, call: &Call) -> c_int {
    // SAFETY: see above.
    let registered = unsafe { &*(*vfs).pAppData.cast::<Registered>() };
    registered.hook.call(call, None, &Below { vfs: registered.below, file: ptr::null_mut() })
}

unsafe fn of_file(file: *mut sqlite3_file, call: &Call) -> c_int {
    // SAFETY: see above.
    unsafe {
        let own = &*file.cast::<File>();
        let below = Below { vfs: (*own.registered).below, file: below_file(file) };
        (*own.registered).hook.call(call, Some(&*own.open), &below)
    }
}

/// The enumeration of calls, the functions that make them, and how they are passed on.
macro_rules! calls {
    (
        vfs { $($of_vfs:ident $VfsCall:ident $vfs_method:ident($($v:ident: $v_type:ty),*);)* }
        file { $($of_file:ident $FileCall:ident $method:ident($($f:ident: $f_type:ty),*);)* }
    ) => {
        /// A call with its arguments, as SQLite passed them. Only made here: so its pointers hold while it is lent.
        pub enum Call {
            #[non_exhaustive]
            Open { name: *const c_char, flags: c_int, out_flags: *mut c_int },
            #[non_exhaustive]
            ShmBarrier {},
            $(#[non_exhaustive] $VfsCall { $($v: $v_type),* },)*
            $(#[non_exhaustive] $FileCall { $($f: $f_type),* },)*
        }

        impl Below {
            /// Makes the call there.
            pub fn pass(&self, call: &Call) -> c_int {
                // SAFETY: see above; a file is open while its methods are set.
                unsafe {
                    match *call {
                        Call::Open { name, flags, out_flags } => self.open(name, flags, out_flags),
                        Call::Close {} if (*self.file).pMethods.is_null() => ffi::SQLITE_OK,
                        Call::ShmBarrier {} => {
                            (*(*self.file).pMethods).xShmBarrier.expect("the file below has it")(self.file);
                            ffi::SQLITE_OK
                        }
                        $(Call::$VfsCall { $($v),* } => {
                            (*self.vfs).$vfs_method.expect("the VFS below has it")(self.vfs $(, $v)*)
                        })*
                        $(Call::$FileCall { $($f),* } => {
                            (*(*self.file).pMethods).$method.expect("the file below has it")(self.file $(, $f)*)
                        })*
                    }
                }
            }
        }

        $(unsafe extern "C" fn $of_vfs(vfs: *mut sqlite3_vfs $(, $v: $v_type)*) -> c_int {
            // SAFETY: see above.
            unsafe { of_vfs(vfs, &Call::$VfsCall { $($v),* }) }
        })*

        $(unsafe extern "C" fn $of_file(file: *mut sqlite3_file $(, $f: $f_type)*) -> c_int {
            // SAFETY: see above.
            unsafe { of_file(file, &Call::$FileCall { $($f),* }) }
        })*
    };
}

calls! {
    vfs {
        x_delete Delete xDelete(name: *const c_char, sync_directory: c_int);
        x_access Access xAccess(name: *const c_char, flags: c_int, out: *mut c_int);
        x_full_pathname FullPathname xFullPathname(name: *const c_char, bytes: c_int, out: *mut c_char);
        x_randomness Randomness xRandomness(bytes: c_int, out: *mut c_char);
        x_sleep Sleep xSleep(microseconds: c_int);
        x_current_time CurrentTime xCurrentTime(out: *mut f64);
        x_get_last_error GetLastError xGetLastError(bytes: c_int, out: *mut c_char);
        x_current_time_int64 CurrentTimeInt64 xCurrentTimeInt64(out: *mut sqlite3_int64);
    }
    file {
        close Close xClose();
        x_read Read xRead(to: *mut c_void, bytes: c_int, offset: sqlite3_int64);
        x_write Write xWrite(from: *const c_void, bytes: c_int, offset: sqlite3_int64);
        x_truncate Truncate xTruncate(bytes: sqlite3_int64);
        x_sync Sync xSync(flags: c_int);
        x_file_size FileSize xFileSize(out: *mut sqlite3_int64);
        x_lock Lock xLock(level: c_int);
        x_unlock Unlock xUnlock(level: c_int);
        x_check_reserved_lock CheckReservedLock xCheckReservedLock(out: *mut c_int);
        x_file_control FileControl xFileControl(operation: c_int, argument: *mut c_void);
        x_sector_size SectorSize xSectorSize();
        x_device_characteristics DeviceCharacteristics xDeviceCharacteristics();
        x_shm_map ShmMap xShmMap(region: c_int, bytes: c_int, extend: c_int, out: *mut *mut c_void);
        x_shm_lock ShmLock xShmLock(offset: c_int, count: c_int, flags: c_int);
        x_shm_unmap ShmUnmap xShmUnmap(delete: c_int);
        x_fetch Fetch xFetch(offset: sqlite3_int64, bytes: c_int, out: *mut *mut c_void);
        x_unfetch Unfetch xUnfetch(offset: sqlite3_int64, page: *mut c_void);
    }
}

impl Below {
    unsafe fn open(&self, name: *const c_char, flags: c_int, out_flags: *mut c_int) -> c_int {
        // SAFETY: see above.
        unsafe {
            let code = (*self.vfs).xOpen.expect("the VFS below has it")(self.vfs, name, self.file, flags, out_flags);
            if code == ffi::SQLITE_OK && flags & ffi::SQLITE_OPEN_MAIN_DB != 0 {
                assert!((*(*self.file).pMethods).iVersion >= 3, "the VFS below the tests' has all methods");
            }
            code
        }
    }

    /// Reads all of the file.
    pub fn read_through(&self) -> c_int {
        let (mut bytes, mut buffer) = (0, vec![0_u8; 512]);
        let code = self.pass(&Call::FileSize { out: &raw mut bytes });
        for offset in (0..bytes).step_by(512) {
            self.pass(&Call::Read { to: buffer.as_mut_ptr().cast(), bytes: 512, offset });
        }
        code
    }

    /// Writes the beginning of an `xWrite`.
    pub fn write_part(&self, call: &Call, part: usize) -> c_int {
        let Call::Write { from, bytes, offset } = *call else { panic!("no write") };
        self.pass(&Call::Write { from, bytes: c_int::try_from(part).expect("a length").min(bytes), offset })
    }

    /// Closes what `xOpen` opened.
    pub fn close(&self) -> c_int {
        self.pass(&Call::Close {})
    }
}

impl Call {
    /// The path of `xOpen`, `xDelete` and so on, at SQLite's own address. Null where there is none.
    pub fn name(&self) -> *const c_char {
        match *self {
            Call::Open { name, .. }
            | Call::Delete { name, .. }
            | Call::Access { name, .. }
            | Call::FullPathname { name, .. } => name,
            _ => ptr::null(),
        }
    }

    /// The path.
    pub fn path(&self) -> Option<&Path> {
        let name = self.name();
        // SAFETY: null or SQLite's; it ends with a zero byte.
        (!name.is_null()).then(|| Path::new(OsStr::from_bytes(unsafe { CStr::from_ptr(name) }.to_bytes())))
    }

    /// The last part of the path; one word for files without a name and for super-journals, whose names are random.
    pub fn label(&self) -> String {
        if matches!(self, Call::Open { flags, .. } if flags & ffi::SQLITE_OPEN_SUPER_JOURNAL != 0) {
            return String::from("super");
        }
        let Some(path) = self.path() else { return String::from("temp") };
        let last = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        if last.contains("-mj") { String::from("super") } else { last }
    }

    /// The bytes of an `xWrite`.
    pub fn data(&self) -> &[u8] {
        match *self {
            // SAFETY: SQLite passes that many.
            Call::Write { from, bytes, .. } => unsafe { slice::from_raw_parts(from.cast(), length(bytes)) },
            _ => &[],
        }
    }

    /// Answers an `xRead` by what `read` puts into a buffer of zeros: it returns how much that is.
    pub fn read<E>(&self, read: impl FnOnce(&mut [u8], u64) -> Result<usize, E>) -> Result<c_int, E> {
        let Call::Read { to, bytes, offset } = *self else { panic!("no read") };
        // SAFETY: SQLite passes so many bytes, which may be fresh.
        let buffer = unsafe {
            to.cast::<u8>().write_bytes(0, length(bytes));
            slice::from_raw_parts_mut(to.cast::<u8>(), length(bytes))
        };
        let count = read(buffer, offset.unsigned_abs())?;
        buffer[count..].fill(0);
        Ok(if count < buffer.len() { ffi::SQLITE_IOERR_SHORT_READ } else { ffi::SQLITE_OK })
    }

    /// Answers what has a number besides its result: a size, whether something is there or reserved, the flags of a file.
    pub fn answer(&self, number: i64) {
        // SAFETY: SQLite's own places for it.
        unsafe {
            match *self {
                Call::FileSize { out } => *out = number,
                Call::Open { out_flags: out, .. } if out.is_null() => {}
                Call::Open { out_flags: out, .. } | Call::Access { out, .. } | Call::CheckReservedLock { out } => {
                    *out = c_int::try_from(number).expect("a small number");
                }
                _ => panic!("no number is asked for"),
            }
        }
    }

    /// Answers an `xShmMap` or an `xFetch`.
    pub fn answer_address(&self, address: *mut c_void) {
        let (Call::ShmMap { out, .. } | Call::Fetch { out, .. }) = *self else { panic!("no address is asked for") };
        // SAFETY: SQLite's own place for it.
        unsafe { *out = address };
    }

    /// What an `xShmMap` or an `xFetch` was answered.
    pub fn address(&self) -> *mut c_void {
        let (Call::ShmMap { out, .. } | Call::Fetch { out, .. }) = *self else { panic!("no address is asked for") };
        // SAFETY: SQLite's own place for it.
        unsafe { *out }
    }

    /// As it stands in a trace, without the file.
    pub fn text(&self) -> String {
        match *self {
            Call::Open { .. } => String::from("open"),
            Call::Delete { sync_directory, .. } => format!("delete, sync directory {sync_directory}"),
            Call::Access { .. } => String::from("access"),
            Call::FullPathname { .. } => String::from("full pathname"),
            Call::Randomness { .. } => String::from("randomness"),
            Call::Sleep { microseconds } => format!("sleep {microseconds}"),
            Call::CurrentTime { .. } | Call::CurrentTimeInt64 { .. } => String::from("current time"),
            Call::GetLastError { .. } => String::from("last error"),
            Call::Close {} => String::from("close"),
            Call::Read { bytes, offset, .. } => format!("read {bytes}@{offset}"),
            Call::Write { bytes, offset, .. } => format!("write {bytes}@{offset}"),
            Call::Truncate { bytes } => format!("truncate {bytes}"),
            Call::Sync { flags } => format!("sync {flags}"),
            Call::FileSize { .. } => String::from("size"),
            Call::Lock { level } => format!("lock {}", level_name(level)),
            Call::Unlock { level } => format!("unlock {}", level_name(level)),
            Call::CheckReservedLock { .. } => String::from("check reserved"),
            Call::FileControl { operation, .. } => format!("control {operation}"),
            Call::SectorSize {} => String::from("sector size"),
            Call::DeviceCharacteristics {} => String::from("characteristics"),
            Call::ShmMap { region, extend, .. } => format!("shm map {region} extend {extend}"),
            Call::ShmLock { offset, count, flags } => shm_lock_text(offset, count, flags),
            Call::ShmBarrier {} => String::from("shm barrier"),
            Call::ShmUnmap { delete } => format!("shm unmap delete {delete}"),
            Call::Fetch { bytes, offset, .. } => format!("fetch {bytes}@{offset}"),
            Call::Unfetch { offset, .. } => format!("unfetch {offset}"),
        }
    }
}

fn length(bytes: c_int) -> usize {
    usize::try_from(bytes).expect("a length")
}

fn level_name(level: c_int) -> &'static str {
    ["NONE", "SHARED", "RESERVED", "PENDING", "EXCLUSIVE"][usize::try_from(level).expect("a level")]
}

fn shm_lock_text(offset: c_int, count: c_int, flags: c_int) -> String {
    let verb = if flags & ffi::SQLITE_SHM_LOCK != 0 { "lock" } else { "unlock" };
    let kind = if flags & ffi::SQLITE_SHM_EXCLUSIVE != 0 { "exclusive" } else { "shared" };
    let name = |offset: c_int| match offset {
        0 => String::from("WRITE"),
        1 => String::from("CKPT"),
        2 => String::from("RECOVER"),
        read => format!("READ{}", read - 3),
    };
    let range = if count == 1 { name(offset) } else { format!("{}..{}", name(offset), name(offset + count - 1)) };
    format!("shm {verb} {kind} {range}")
}

unsafe extern "C" fn x_open(
    vfs: *mut sqlite3_vfs,
    name: *const c_char,
    file: *mut sqlite3_file,
    flags: c_int,
    out_flags: *mut c_int,
) -> c_int {
    // SAFETY: see above; a failed open leaves no methods, unless the hook wants that.
    unsafe {
        let registered = &*(*vfs).pAppData.cast::<Registered>();
        let below = Below { vfs: registered.below, file: below_file(file) };
        (*file).pMethods = ptr::null();
        (*below.file).pMethods = ptr::null();
        let call = Call::Open { name, flags, out_flags };
        let open = Box::new(OpenFile {
            label: call.label(),
            flags,
            address: file,
            kept: OnceCell::new(),
            has_methods: Cell::new(false),
        });
        let code = registered.hook.call(&call, Some(&open), &below);
        if code == ffi::SQLITE_OK || open.has_methods.get() {
            let methods = &raw const registered.methods;
            file.cast::<File>().write(File { methods, registered, open: Box::into_raw(open) });
        }
        code
    }
}

unsafe extern "C" fn x_close(file: *mut sqlite3_file) -> c_int {
    // SAFETY: see above; SQLite calls nothing more on this file.
    unsafe {
        let code = close(file);
        drop(Box::from_raw((*file.cast::<File>()).open));
        (*file).pMethods = ptr::null();
        code
    }
}

unsafe extern "C" fn x_shm_barrier(file: *mut sqlite3_file) {
    // SAFETY: see above.
    unsafe { of_file(file, &Call::ShmBarrier {}) };
}

fn methods(Shape { version, shm }: Shape) -> sqlite3_io_methods {
    let (has_shm, has_pages) = (version >= 2 && shm, version >= 3);
    sqlite3_io_methods {
        iVersion: version,
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
        xShmMap: has_shm.then_some(x_shm_map as _),
        xShmLock: has_shm.then_some(x_shm_lock as _),
        xShmBarrier: has_shm.then_some(x_shm_barrier as _),
        xShmUnmap: has_shm.then_some(x_shm_unmap as _),
        xFetch: has_pages.then_some(x_fetch as _),
        xUnfetch: has_pages.then_some(x_unfetch as _),
    }
}
