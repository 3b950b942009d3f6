//! A VFS that passes everything on to another and tells what it saw; a hook may answer instead.
//!
//! It is written for tests alone and knows nothing of pwal: the yardstick must not share code with
//! what is measured. One registration for each [`Shim::register`], leaked.

#![allow(unsafe_code, reason = "a VFS is a table of C functions")]

use rusqlite::ffi;
use std::collections::HashMap;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::mem::size_of;
use std::path::Path;
use std::ptr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

/// What a hook decides about a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The base answers.
    Pass,
    /// The base is not asked; this is the result code.
    Answer(c_int),
    /// `xWrite`: the base writes so many bytes, then this is the result code.
    Short(usize, c_int),
    /// `SQLITE_FCNTL_PRAGMA`: this result code and this text.
    Say(c_int, &'static CStr),
    /// `xCheckReservedLock`, `xDeviceCharacteristics`, `xSectorSize`, `xSleep`: this is the value.
    Value(c_int),
    /// The base answers, and this is the result code.
    Behind(c_int),
    /// `xOpen`: the base answers, and the shim reads the file for itself.
    Read,
}

/// A call that is about to be made.
pub struct Moment<'a> {
    /// `<file>: <call> <arguments>`, as it stands in the trace.
    pub text: &'a str,
    /// The bytes of an `xWrite`.
    pub data: &'a [u8],
    /// The name as SQLite passed it, for `xOpen`, `xAccess`, `xDelete`.
    pub name: *const c_char,
    /// The file as SQLite knows it; null where there is none.
    pub file: *mut ffi::sqlite3_file,
    /// Region 0 of the wal-index, if it is mapped.
    pub index: Option<WalIndex>,
}

type Hook = Box<dyn FnMut(&Moment<'_>) -> Verdict + Send>;

pub struct Shim {
    pub name: String,
    base: *mut ffi::sqlite3_vfs,
    events: Mutex<Vec<String>>,
    hook: Mutex<Option<Hook>>,
    recording: bool,
    /// `xShmMap` gives memory of the shim's own.
    pub has_own_memory: AtomicBool,
    /// Its regions, by label and number.
    regions: Mutex<HashMap<(String, c_int), usize>>,
}

// SAFETY: the base VFS is usable from every thread, the rest is behind locks.
unsafe impl Send for Shim {}
// SAFETY: as above.
unsafe impl Sync for Shim {}

/// What SQLite allocates for each file; the base's file lies behind it.
#[repr(C)]
struct File {
    methods: *const ffi::sqlite3_io_methods,
    shim: *const Shim,
    label: *mut String,
    index: *mut u32,
}

impl Shim {
    /// Registers a shim on `base`. With `recording` it keeps a trace of everything.
    pub fn register(name: &str, base: &str, recording: bool) -> &'static Shim {
        let base = CString::new(base).expect("a name");
        // SAFETY: the name ends with a zero byte; SQLite never frees a registered VFS.
        let base = unsafe { ffi::sqlite3_vfs_find(base.as_ptr()) };
        assert!(!base.is_null(), "no such base VFS");
        let shim: &'static Shim = Box::leak(Box::new(Shim {
            name: name.to_owned(),
            base,
            events: Mutex::default(),
            hook: Mutex::default(),
            recording,
            has_own_memory: AtomicBool::new(false),
            regions: Mutex::default(),
        }));
        // SAFETY: `base` is a registered VFS; the new one is a copy of it with our functions, never freed.
        unsafe {
            let mut vfs = *base;
            vfs.pNext = ptr::null_mut();
            vfs.zName = CString::new(name).expect("a name").into_raw();
            vfs.pAppData = ptr::from_ref(shim).cast_mut().cast();
            vfs.szOsFile += c_int::try_from(size_of::<File>()).expect("small");
            vfs.xOpen = Some(x_open);
            vfs.xDelete = Some(x_delete);
            vfs.xAccess = Some(x_access);
            vfs.xFullPathname = Some(x_full_pathname);
            vfs.xSleep = Some(x_sleep);
            vfs.xRandomness = Some(x_randomness);
            vfs.xCurrentTime = Some(x_current_time);
            vfs.xCurrentTimeInt64 = Some(x_current_time_int64);
            vfs.xGetLastError = Some(x_get_last_error);
            // Without system calls; the base's xDlOpen and so on want its own `pAppData` and are not called.
            vfs.iVersion = 2;
            let code = ffi::sqlite3_vfs_register(Box::leak(Box::new(vfs)), 0);
            assert_eq!(code, ffi::SQLITE_OK);
        }
        shim
    }

    /// Sets the hook that sees every call first.
    pub fn hook(&self, hook: impl FnMut(&Moment<'_>) -> Verdict + Send + 'static) {
        *self.hook.lock().expect("hook") = Some(Box::new(hook));
    }

    /// Takes the hook away.
    pub fn unhook(&self) {
        *self.hook.lock().expect("hook") = None;
    }

    /// What was recorded since the last time.
    pub fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.events.lock().expect("events"))
    }

    fn ask(&self, moment: &Moment<'_>) -> Verdict {
        if self.recording {
            self.events.lock().expect("events").push(moment.text.to_owned());
        }
        match &mut *self.hook.lock().expect("hook") {
            Some(hook) => hook(moment),
            None => Verdict::Pass,
        }
    }
}

/// Region 0 of a wal-index, in the control block of `wal.c` (`WalIndexHdr`, `WalCkptInfo`).
#[derive(Clone, Copy)]
pub struct WalIndex(*mut u32);

// SAFETY: the memory is shared by design; each word is read and written whole.
unsafe impl Send for WalIndex {}

/// ControlBlock of the header.
pub const CHANGE: usize = 2;
pub const MX_FRAME: usize = 4;
pub const PAGES: usize = 5;
pub const FRAME_CHECKSUM: usize = 6;
/// ControlBlock of the checkpoint info.
pub const BACKFILLED: usize = 24;
pub const READ_MARK: usize = 25;

impl WalIndex {
    pub fn word(self, index: usize) -> u32 {
        assert!(index < 34);
        // SAFETY: the region has 32 KiB and stays mapped while its file is open.
        unsafe { self.0.add(index).read_volatile() }
    }

    pub fn set(self, index: usize, value: u32) {
        assert!(index < 34);
        // SAFETY: as in `word`.
        unsafe { self.0.add(index).write_volatile(value) }
    }

    /// Sets a word of the header in both copies, with a right checksum (`walIndexWriteHdr`).
    pub fn set_header(self, index: usize, value: u32) {
        self.set(index, value);
        let (mut one, mut two) = (0_u32, 0_u32);
        for pair in (0..10).step_by(2) {
            one = one.wrapping_add(self.word(pair)).wrapping_add(two);
            two = two.wrapping_add(self.word(pair + 1)).wrapping_add(one);
        }
        self.set(10, one);
        self.set(11, two);
        for word in 0..12 {
            self.set(12 + word, self.word(word));
        }
    }
}

/// The last part of a path; one word for files without a name and for super-journals.
fn label(name: *const c_char, flags: c_int) -> String {
    if flags & ffi::SQLITE_OPEN_SUPER_JOURNAL != 0 {
        return String::from("super");
    }
    if name.is_null() {
        return String::from("temp");
    }
    // SAFETY: SQLite passes names that end with a zero byte.
    let name = unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned();
    let last = Path::new(&name).file_name().map_or(name.clone(), |part| part.to_string_lossy().into_owned());
    if last.contains("-mj") { String::from("super") } else { last }
}

// SAFETY (of all functions below): SQLite calls them with its own pointers as the VFS interface
// documents; `pAppData` and `File` hold what `register` and `x_open` stored.

unsafe fn shim_of(vfs: *mut ffi::sqlite3_vfs) -> &'static Shim {
    // SAFETY: set in `register`, never freed.
    unsafe { &*(*vfs).pAppData.cast::<Shim>() }
}

unsafe fn base_of(file: *mut ffi::sqlite3_file) -> (*mut ffi::sqlite3_file, &'static ffi::sqlite3_io_methods) {
    // SAFETY: `szOsFile` leaves room for the base's file behind ours; it is open, so it has methods.
    unsafe {
        let base = file.cast::<u8>().add(size_of::<File>()).cast::<ffi::sqlite3_file>();
        (base, &*(*base).pMethods)
    }
}

unsafe fn ask(file: *mut ffi::sqlite3_file, call: &str, data: &[u8]) -> Verdict {
    // SAFETY: `x_open` filled the file.
    unsafe {
        let own = &*file.cast::<File>();
        let text = format!("{}: {call}", *own.label);
        let index = (!own.index.is_null()).then_some(WalIndex(own.index));
        (*own.shim).ask(&Moment { text: &text, data, name: ptr::null(), file, index })
    }
}

/// The hook's result code if it has one, else what the base says.
macro_rules! pass {
    ($file:expr, $text:expr, $method:ident $(, $argument:expr)*) => {{
        // SAFETY: see above.
        unsafe {
            match ask($file, $text, &[]) {
                Verdict::Answer(code) => code,
                verdict => {
                    let (base, methods) = base_of($file);
                    let code = methods.$method.expect("the base has it")(base $(, $argument)*);
                    if let Verdict::Behind(code) = verdict { code } else { code }
                }
            }
        }
    }};
}

unsafe extern "C" fn x_open(
    vfs: *mut ffi::sqlite3_vfs,
    name: ffi::sqlite3_filename,
    file: *mut ffi::sqlite3_file,
    flags: c_int,
    out_flags: *mut c_int,
) -> c_int {
    // SAFETY: see above; a failed open leaves no methods.
    unsafe {
        let shim = shim_of(vfs);
        (*file).pMethods = ptr::null();
        let label = label(name, flags);
        let text = format!("{label}: open");
        let verdict = shim.ask(&Moment { text: &text, data: &[], name, file, index: None });
        if let Verdict::Answer(code) = verdict {
            return code;
        }
        let base = file.cast::<u8>().add(size_of::<File>()).cast::<ffi::sqlite3_file>();
        (*base).pMethods = ptr::null();
        let code = (*shim.base).xOpen.expect("the base has it")(shim.base, name, base, flags, out_flags);
        if code == ffi::SQLITE_OK && verdict == Verdict::Read {
            let (mut bytes, mut buffer) = (0, vec![0_u8; 512]);
            let methods = &*(*base).pMethods;
            let code = methods.xFileSize.expect("the base has it")(base, &raw mut bytes);
            if code != ffi::SQLITE_OK {
                methods.xClose.expect("the base has it")(base);
                return code;
            }
            for offset in (0..bytes).step_by(512) {
                methods.xRead.expect("the base has it")(base, buffer.as_mut_ptr().cast(), 512, offset);
            }
        }
        if code == ffi::SQLITE_OK {
            let is_main = flags & ffi::SQLITE_OPEN_MAIN_DB != 0;
            assert!(!is_main || (*(*base).pMethods).iVersion >= 3, "the tests' base has all methods");
            file.cast::<File>().write(File {
                methods: &raw const METHODS,
                shim,
                label: Box::into_raw(Box::new(label)),
                index: ptr::null_mut(),
            });
        }
        code
    }
}

unsafe extern "C" fn x_delete(vfs: *mut ffi::sqlite3_vfs, name: *const c_char, sync_directory: c_int) -> c_int {
    // SAFETY: see above.
    unsafe {
        let shim = shim_of(vfs);
        let text = format!("{}: delete, sync directory {sync_directory}", label(name, 0));
        match shim.ask(&Moment { text: &text, data: &[], name, file: ptr::null_mut(), index: None }) {
            Verdict::Answer(code) => code,
            _ => (*shim.base).xDelete.expect("the base has it")(shim.base, name, sync_directory),
        }
    }
}

unsafe extern "C" fn x_access(vfs: *mut ffi::sqlite3_vfs, name: *const c_char, flags: c_int, out: *mut c_int) -> c_int {
    // SAFETY: see above.
    unsafe {
        let shim = shim_of(vfs);
        let text = format!("{}: access", label(name, 0));
        match shim.ask(&Moment { text: &text, data: &[], name, file: ptr::null_mut(), index: None }) {
            Verdict::Answer(code) => code,
            _ => (*shim.base).xAccess.expect("the base has it")(shim.base, name, flags, out),
        }
    }
}

unsafe extern "C" fn x_full_pathname(
    vfs: *mut ffi::sqlite3_vfs,
    name: *const c_char,
    bytes: c_int,
    out: *mut c_char,
) -> c_int {
    // SAFETY: see above.
    unsafe {
        let base = shim_of(vfs).base;
        (*base).xFullPathname.expect("the base has it")(base, name, bytes, out)
    }
}

unsafe extern "C" fn x_sleep(vfs: *mut ffi::sqlite3_vfs, microseconds: c_int) -> c_int {
    // SAFETY: see above.
    unsafe {
        let shim = shim_of(vfs);
        let text = format!("sleep {microseconds}");
        match shim.ask(&Moment { text: &text, data: &[], name: ptr::null(), file: ptr::null_mut(), index: None }) {
            Verdict::Value(slept) => slept,
            _ => (*shim.base).xSleep.expect("the base has it")(shim.base, microseconds),
        }
    }
}

/// Passed on as it comes.
macro_rules! forwarded {
    ($($name:ident = $method:ident($($argument:ident: $type:ty),*);)*) => {
        $(unsafe extern "C" fn $name(vfs: *mut ffi::sqlite3_vfs $(, $argument: $type)*) -> c_int {
            // SAFETY: see above.
            unsafe {
                let base = shim_of(vfs).base;
                (*base).$method.expect("the base has it")(base $(, $argument)*)
            }
        })*
    };
}

forwarded! {
    x_randomness = xRandomness(bytes: c_int, out: *mut c_char);
    x_current_time = xCurrentTime(out: *mut f64);
    x_current_time_int64 = xCurrentTimeInt64(out: *mut ffi::sqlite3_int64);
    x_get_last_error = xGetLastError(bytes: c_int, out: *mut c_char);
}

unsafe extern "C" fn x_close(file: *mut ffi::sqlite3_file) -> c_int {
    // SAFETY: see above; SQLite calls nothing more on this file, so its label may go.
    unsafe {
        ask(file, "close", &[]);
        let (base, methods) = base_of(file);
        let code = methods.xClose.expect("the base has it")(base);
        drop(Box::from_raw((*file.cast::<File>()).label));
        (*file).pMethods = ptr::null();
        code
    }
}

unsafe extern "C" fn x_read(
    file: *mut ffi::sqlite3_file,
    to: *mut c_void,
    bytes: c_int,
    offset: ffi::sqlite3_int64,
) -> c_int {
    pass!(file, &format!("read {bytes}@{offset}"), xRead, to, bytes, offset)
}

unsafe extern "C" fn x_write(
    file: *mut ffi::sqlite3_file,
    from: *const c_void,
    bytes: c_int,
    offset: ffi::sqlite3_int64,
) -> c_int {
    // SAFETY: see above; `from` has `bytes` bytes.
    unsafe {
        let data = std::slice::from_raw_parts(from.cast::<u8>(), usize::try_from(bytes).expect("a length"));
        let verdict = ask(file, &format!("write {bytes}@{offset}"), data);
        let (base, methods) = base_of(file);
        let write = methods.xWrite.expect("the base has it");
        match verdict {
            Verdict::Answer(code) => code,
            Verdict::Short(some, code) => {
                write(base, from, c_int::try_from(some).expect("a length").min(bytes), offset);
                code
            }
            Verdict::Behind(code) => {
                write(base, from, bytes, offset);
                code
            }
            _ => write(base, from, bytes, offset),
        }
    }
}

unsafe extern "C" fn x_truncate(file: *mut ffi::sqlite3_file, bytes: ffi::sqlite3_int64) -> c_int {
    pass!(file, &format!("truncate {bytes}"), xTruncate, bytes)
}

unsafe extern "C" fn x_sync(file: *mut ffi::sqlite3_file, flags: c_int) -> c_int {
    pass!(file, &format!("sync {flags}"), xSync, flags)
}

unsafe extern "C" fn x_file_size(file: *mut ffi::sqlite3_file, out: *mut ffi::sqlite3_int64) -> c_int {
    pass!(file, "size", xFileSize, out)
}

fn level_name(level: c_int) -> &'static str {
    ["NONE", "SHARED", "RESERVED", "PENDING", "EXCLUSIVE"][usize::try_from(level).expect("a level")]
}

unsafe extern "C" fn x_lock(file: *mut ffi::sqlite3_file, level: c_int) -> c_int {
    pass!(file, &format!("lock {}", level_name(level)), xLock, level)
}

unsafe extern "C" fn x_unlock(file: *mut ffi::sqlite3_file, level: c_int) -> c_int {
    pass!(file, &format!("unlock {}", level_name(level)), xUnlock, level)
}

unsafe extern "C" fn x_check_reserved_lock(file: *mut ffi::sqlite3_file, out: *mut c_int) -> c_int {
    // SAFETY: see above.
    unsafe {
        match ask(file, "check reserved", &[]) {
            Verdict::Answer(code) => code,
            Verdict::Value(value) => {
                *out = value;
                ffi::SQLITE_OK
            }
            _ => {
                let (base, methods) = base_of(file);
                methods.xCheckReservedLock.expect("the base has it")(base, out)
            }
        }
    }
}

unsafe extern "C" fn x_file_control(file: *mut ffi::sqlite3_file, op: c_int, argument: *mut c_void) -> c_int {
    // SAFETY: see above; the argument of each known control has the documented type.
    let text = unsafe {
        match op {
            ffi::SQLITE_FCNTL_COMMIT_PHASETWO => String::from("control PHASETWO"),
            ffi::SQLITE_FCNTL_SYNC => String::from("control SYNC"),
            ffi::SQLITE_FCNTL_PDB => format!("control PDB {:?}", *argument.cast::<*mut c_void>()),
            ffi::SQLITE_FCNTL_PRAGMA => {
                let arguments = argument.cast::<*const c_char>();
                let (name, value) = (*arguments.add(1), *arguments.add(2));
                let show = |text: *const c_char| {
                    if text.is_null() { String::from("-") } else { CStr::from_ptr(text).to_string_lossy().into_owned() }
                };
                format!("control PRAGMA {} {}", show(name), show(value))
            }
            other => format!("control {other}"),
        }
    };
    // SAFETY: see above; SQLite frees the text of a pragma with `sqlite3_free`.
    unsafe {
        match ask(file, &text, &[]) {
            Verdict::Answer(code) => code,
            Verdict::Say(code, said) => {
                *argument.cast::<*mut c_char>() = ffi::sqlite3_mprintf(c"%s".as_ptr(), said.as_ptr());
                code
            }
            verdict => {
                let (base, methods) = base_of(file);
                let code = methods.xFileControl.expect("the base has it")(base, op, argument);
                if let Verdict::Behind(code) = verdict { code } else { code }
            }
        }
    }
}

unsafe extern "C" fn x_sector_size(file: *mut ffi::sqlite3_file) -> c_int {
    // SAFETY: see above.
    unsafe {
        match ask(file, "sector size", &[]) {
            Verdict::Value(value) => value,
            _ => {
                let (base, methods) = base_of(file);
                methods.xSectorSize.expect("the base has it")(base)
            }
        }
    }
}

unsafe extern "C" fn x_device_characteristics(file: *mut ffi::sqlite3_file) -> c_int {
    // SAFETY: see above.
    unsafe {
        match ask(file, "characteristics", &[]) {
            Verdict::Value(value) => value,
            _ => {
                let (base, methods) = base_of(file);
                methods.xDeviceCharacteristics.expect("the base has it")(base)
            }
        }
    }
}

unsafe extern "C" fn x_shm_map(
    file: *mut ffi::sqlite3_file,
    region: c_int,
    bytes: c_int,
    extend: c_int,
    out: *mut *mut c_void,
) -> c_int {
    // SAFETY: see above; a region of the shim's own is as large as SQLite asks for, and never freed.
    unsafe {
        let own = &*file.cast::<File>();
        let key = ((*own.label).clone(), region);
        let mut regions = (*own.shim).regions.lock().expect("regions");
        if (*own.shim).has_own_memory.load(SeqCst) {
            let new = || vec![0_u64; usize::try_from(bytes).expect("a length") / 8].leak().as_mut_ptr() as usize;
            *out = match (regions.get(&key), extend) {
                (None, 0) => ptr::null_mut(),
                (None, _) => *regions.entry(key).or_insert_with(new) as *mut c_void,
                (Some(&region), _) => region as *mut c_void,
            };
            return ffi::SQLITE_OK;
        }
    }
    let code = pass!(file, &format!("shm map {region} extend {extend}"), xShmMap, region, bytes, extend, out);
    if code == ffi::SQLITE_OK && region == 0 {
        // SAFETY: see above.
        unsafe { (*file.cast::<File>()).index = (*out).cast() };
    }
    code
}

unsafe extern "C" fn x_shm_lock(file: *mut ffi::sqlite3_file, offset: c_int, count: c_int, flags: c_int) -> c_int {
    let verb = if flags & ffi::SQLITE_SHM_LOCK != 0 { "lock" } else { "unlock" };
    let kind = if flags & ffi::SQLITE_SHM_EXCLUSIVE != 0 { "exclusive" } else { "shared" };
    let name = |offset: c_int| match offset {
        0 => String::from("WRITE"),
        1 => String::from("CKPT"),
        2 => String::from("RECOVER"),
        read => format!("READ{}", read - 3),
    };
    let range = if count == 1 { name(offset) } else { format!("{}..{}", name(offset), name(offset + count - 1)) };
    pass!(file, &format!("shm {verb} {kind} {range}"), xShmLock, offset, count, flags)
}

unsafe extern "C" fn x_shm_barrier(file: *mut ffi::sqlite3_file) {
    // SAFETY: see above.
    unsafe {
        let (base, methods) = base_of(file);
        methods.xShmBarrier.expect("the base has it")(base);
    }
}

unsafe extern "C" fn x_shm_unmap(file: *mut ffi::sqlite3_file, delete: c_int) -> c_int {
    // SAFETY: see above.
    unsafe { (*file.cast::<File>()).index = ptr::null_mut() };
    pass!(file, &format!("shm unmap delete {delete}"), xShmUnmap, delete)
}

unsafe extern "C" fn x_fetch(
    file: *mut ffi::sqlite3_file,
    offset: ffi::sqlite3_int64,
    bytes: c_int,
    out: *mut *mut c_void,
) -> c_int {
    // SAFETY: see above.
    unsafe {
        match ask(file, &format!("fetch {bytes}@{offset}"), &[]) {
            Verdict::Answer(code) => {
                *out = ptr::null_mut();
                code
            }
            _ => {
                let (base, methods) = base_of(file);
                methods.xFetch.expect("the base has it")(base, offset, bytes, out)
            }
        }
    }
}

unsafe extern "C" fn x_unfetch(file: *mut ffi::sqlite3_file, offset: ffi::sqlite3_int64, page: *mut c_void) -> c_int {
    pass!(file, &format!("unfetch {offset}"), xUnfetch, offset, page)
}

static METHODS: ffi::sqlite3_io_methods = ffi::sqlite3_io_methods {
    iVersion: 3,
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
    xFetch: Some(x_fetch),
    xUnfetch: Some(x_unfetch),
};
