//! A VFS that passes everything on to another and keeps a trace of it; a hook may answer instead.
//!
//! One registration for each [`Shim::register`], for ever.

#![allow(unsafe_code, reason = "arguments of file controls, and the wal-index")]

use crate::test_vfs::{self, Below, Call, OpenFile, Shape};
use rusqlite::ffi;
use std::cell::Cell;
use std::collections::HashMap;
use std::ffi::{CStr, c_char, c_int, c_void};
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
    events: Mutex<Vec<String>>,
    hook: Mutex<Option<Hook>>,
    recording: bool,
    /// `xShmMap` gives memory of the shim's own.
    pub has_own_memory: AtomicBool,
    /// Its regions, by label and number.
    regions: Mutex<HashMap<(String, c_int), usize>>,
}

impl Shim {
    /// Registers a shim on `base`. With `recording` it keeps a trace of everything.
    pub fn register(name: &str, base: &str, recording: bool) -> &'static Shim {
        let shim = Shim {
            name: name.to_owned(),
            events: Mutex::default(),
            hook: Mutex::default(),
            recording,
            has_own_memory: AtomicBool::new(false),
            regions: Mutex::default(),
        };
        test_vfs::register(name, base, Shape::default(), shim)
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

    /// A region of the shim's own: as large as SQLite asks for, and never freed.
    fn own_region(&self, label: &str, region: c_int, bytes: c_int, extend: bool) -> *mut c_void {
        let mut regions = self.regions.lock().expect("regions");
        let key = (label.to_owned(), region);
        let new = || vec![0_u64; usize::try_from(bytes).expect("a length") / 8].leak().as_mut_ptr() as usize;
        match regions.get(&key) {
            None if !extend => ptr::null_mut(),
            None => *regions.entry(key).or_insert_with(new) as *mut c_void,
            Some(&region) => region as *mut c_void,
        }
    }
}

/// Region 0 of the wal-index of a file, while it is mapped.
type MappedIndex = Cell<Option<WalIndex>>;

impl test_vfs::Hook for Shim {
    fn call(&self, call: &Call, file: Option<&OpenFile>, below: &Below) -> c_int {
        if matches!(call, Call::FullPathname { .. } | Call::Randomness { .. } | Call::ShmBarrier { .. })
            || matches!(call, Call::CurrentTime { .. } | Call::CurrentTimeInt64 { .. } | Call::GetLastError { .. })
        {
            return below.pass(call);
        }
        let index = file.and_then(OpenFile::kept::<MappedIndex>);
        if let (Call::ShmMap { region, bytes, extend, .. }, Some(file)) = (call, file)
            && self.has_own_memory.load(SeqCst)
        {
            call.answer_address(self.own_region(&file.label, *region, *bytes, *extend != 0));
            return ffi::SQLITE_OK;
        }
        if let (Call::ShmUnmap { .. }, Some(index)) = (call, index) {
            index.set(None);
        }
        let text = text(call, file);
        let moment = Moment {
            text: &text,
            data: call.data(),
            name: call.name(),
            file: file.map_or(ptr::null_mut(), |file| file.address),
            index: index.and_then(Cell::get),
        };
        let code = obey(self.ask(&moment), call, below);
        match (call, file, index) {
            (Call::Open { .. }, Some(file), _) => file.keep(MappedIndex::new(None)),
            (Call::ShmMap { region: 0, .. }, _, Some(index)) if code == ffi::SQLITE_OK => {
                let address: *mut u32 = call.address().cast();
                index.set((!address.is_null()).then_some(WalIndex(address)));
            }
            _ => {}
        }
        code
    }
}

/// A verdict that does not fit the call lets it pass.
fn obey(verdict: Verdict, call: &Call, below: &Below) -> c_int {
    match (verdict, call) {
        (Verdict::Value(value), Call::SectorSize { .. } | Call::DeviceCharacteristics { .. } | Call::Sleep { .. }) => {
            value
        }
        (_, Call::SectorSize { .. } | Call::DeviceCharacteristics { .. } | Call::Sleep { .. } | Call::Close { .. }) => {
            below.pass(call)
        }
        (Verdict::Answer(code), Call::Fetch { .. }) => {
            call.answer_address(ptr::null_mut());
            code
        }
        (Verdict::Answer(code), _) => code,
        (Verdict::Value(value), Call::CheckReservedLock { .. }) => {
            call.answer(value.into());
            ffi::SQLITE_OK
        }
        (Verdict::Short(part, code), Call::Write { .. }) => {
            below.write_part(call, part);
            code
        }
        (Verdict::Say(code, said), Call::FileControl { argument, .. }) => {
            // SAFETY: SQLite frees the text of a pragma with `sqlite3_free`.
            unsafe { *(*argument).cast::<*mut c_char>() = ffi::sqlite3_mprintf(c"%s".as_ptr(), said.as_ptr()) };
            code
        }
        (Verdict::Read, Call::Open { .. }) => {
            let opened = below.pass(call);
            let code = if opened == ffi::SQLITE_OK { below.read_through() } else { return opened };
            if code != ffi::SQLITE_OK {
                below.close();
            }
            code
        }
        // There is nothing after these that an error could replace.
        (
            Verdict::Behind(_),
            Call::Open { .. }
            | Call::Delete { .. }
            | Call::Access { .. }
            | Call::CheckReservedLock { .. }
            | Call::Fetch { .. },
        ) => below.pass(call),
        (Verdict::Behind(code), _) => {
            below.pass(call);
            code
        }
        _ => below.pass(call),
    }
}

/// `<file>: <call> <arguments>`.
fn text(call: &Call, file: Option<&OpenFile>) -> String {
    match (call, file) {
        (Call::Sleep { .. }, _) => call.text(),
        (Call::FileControl { operation, argument }, Some(file)) => {
            format!("{}: control {}", file.label, control_text(*operation, *argument))
        }
        (_, Some(file)) => format!("{}: {}", file.label, call.text()),
        (_, None) => format!("{}: {}", call.label(), call.text()),
    }
}

fn control_text(operation: c_int, argument: *mut c_void) -> String {
    // SAFETY: the argument of each known control has the documented type.
    unsafe {
        match operation {
            ffi::SQLITE_FCNTL_COMMIT_PHASETWO => String::from("PHASETWO"),
            ffi::SQLITE_FCNTL_SYNC => String::from("SYNC"),
            ffi::SQLITE_FCNTL_PDB => format!("PDB {:?}", *argument.cast::<*mut c_void>()),
            ffi::SQLITE_FCNTL_PRAGMA => {
                let arguments = argument.cast::<*const c_char>();
                let (name, value) = (*arguments.add(1), *arguments.add(2));
                let show = |text: *const c_char| {
                    if text.is_null() { String::from("-") } else { CStr::from_ptr(text).to_string_lossy().into_owned() }
                };
                format!("PRAGMA {} {}", show(name), show(value))
            }
            other => other.to_string(),
        }
    }
}

/// Region 0 of a wal-index, in the layout of `wal.c` (`WalIndexHdr`, `WalCkptInfo`).
#[derive(Clone, Copy)]
pub struct WalIndex(*mut u32);

// SAFETY: the memory is shared by design; each word is read and written whole.
unsafe impl Send for WalIndex {}

/// Words of the header.
pub const CHANGE: usize = 2;
pub const MX_FRAME: usize = 4;
pub const PAGES: usize = 5;
pub const FRAME_CHECKSUM: usize = 6;
/// Words of the checkpoint info.
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
