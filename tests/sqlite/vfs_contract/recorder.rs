//! A VFS below pwal that writes down every call it gets, can present itself in an older version, and can fail on demand. What
//! lies below it is the platform's own VFS.

use rusqlite::ffi;
use std::ffi::{CStr, c_char, c_int};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering::SeqCst};
use support::test_vfs::{self, Below, Call, Hook, OpenFile, Shape};

/// What a recorder has seen, and how it deviates from the VFS below.
#[derive(Default)]
pub struct Recorder {
    events: Mutex<Vec<String>>,
    /// Calls that begin with this text are answered with the code.
    fails: Mutex<Option<(&'static str, c_int)>>,
    /// A failed open leaves its methods in the file object, as the interface allows.
    pub methods_after_failed_open: AtomicBool,
    /// Answers in the out-flags of a main file that it is open for reading only.
    pub opens_read_only: AtomicBool,
    /// What its files' `xDeviceCharacteristics` adds.
    pub characteristics: AtomicI32,
    /// File objects that are open.
    pub open_files: AtomicI32,
}

impl Recorder {
    /// Registers a recorder under this name.
    pub fn register(name: &str, below: &str, shape: Shape) -> &'static Recorder {
        test_vfs::register(name, below, shape, Recorder::default())
    }

    /// What came since the last time.
    pub fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.events.lock().unwrap())
    }

    /// From now on calls that begin with `call`, without their file, are answered with `code` (0: as they should).
    pub fn fail(&self, call: &'static str, code: c_int) {
        *self.fails.lock().unwrap() = (code != 0).then_some((call, code));
    }

    fn note(&self, event: String) {
        self.events.lock().unwrap().push(event);
    }

    fn open(&self, call: &Call, file: &OpenFile, below: &Below) -> c_int {
        let fails = self.fails.lock().unwrap().filter(|(text, _)| *text == "open").map(|(_, code)| code);
        let code = fails.unwrap_or_else(|| below.pass(call));
        if self.opens_read_only.load(SeqCst) {
            call.answer((file.flags & !ffi::SQLITE_OPEN_READWRITE | ffi::SQLITE_OPEN_READONLY).into());
        }
        if self.methods_after_failed_open.load(SeqCst) {
            file.has_methods_in_any_case();
        }
        let is_open = code == 0 || self.methods_after_failed_open.load(SeqCst);
        self.open_files.fetch_add(is_open.into(), SeqCst);
        code
    }
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

/// The operation that only the recorder knows: its argument is a text.
pub const FCNTL_OWN: c_int = 987_654;

unsafe fn text_at(text: *const c_char) -> String {
    // SAFETY: the caller has a C string.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

/// `<kind of the file>: <call>` or `vfs: <call>`, with all arguments.
fn event(call: &Call, file: Option<&OpenFile>) -> String {
    let (text, kind) = (call.text(), file.map_or("vfs", |file| kind(file.flags)));
    let rest = match call {
        Call::Open { name, flags, .. } => {
            let probe = if flags & ffi::SQLITE_OPEN_MAIN_DB == 0 {
                std::ptr::null()
            } else {
                // SAFETY: the name of a main file is SQLite's.
                unsafe { ffi::sqlite3_uri_parameter(*name, c"probe".as_ptr()) }
            };
            // SAFETY: a parameter ends with a zero byte.
            let probe = if probe.is_null() { String::new() } else { format!(" probe={}", unsafe { text_at(probe) }) };
            format!(" {} flags={flags:#x}{probe}", call.label())
        }
        Call::Delete { .. } => format!(" {}", call.label()),
        Call::Access { flags, .. } => format!(" {} flags={flags}", call.label()),
        Call::FullPathname { bytes, .. } => format!(" {} bytes={bytes}", call.label()),
        Call::ShmMap { bytes, .. } => format!(" bytes={bytes}"),
        Call::Unfetch { page, .. } if page.is_null() => String::from(" all"),
        Call::FileControl { operation: FCNTL_OWN, argument, .. } => {
            // SAFETY: it carries a string.
            format!(" {}", unsafe { text_at((*argument).cast()) })
        }
        _ => String::new(),
    };
    format!("{kind}: {text}{rest}")
}

impl Hook for Recorder {
    fn call(&self, call: &Call, file: Option<&OpenFile>, below: &Below) -> c_int {
        if matches!(call, Call::Randomness { .. } | Call::GetLastError { .. }) {
            return below.pass(call);
        }
        self.note(event(call, file));
        match (call, file) {
            (Call::Open { .. }, Some(file)) => return self.open(call, file, below),
            (Call::FileControl { operation: FCNTL_OWN, .. }, _) => return ffi::SQLITE_OK,
            (Call::Close { .. }, _) => _ = self.open_files.fetch_sub(1, SeqCst),
            _ => {}
        }
        if let Some((text, code)) = *self.fails.lock().unwrap()
            && file.is_some()
            && call.text().starts_with(text)
        {
            return code;
        }
        match call {
            Call::DeviceCharacteristics { .. } => below.pass(call) | self.characteristics.load(SeqCst),
            _ => below.pass(call),
        }
    }
}
