//! The files of a log as recovery and the tools read them: they are not written meanwhile, there may be more of them
//! than this process may open, and any block of them may be unreadable or false.
//!
//! Promises: at most [`OPEN_MAX`] of them are open at a time, each with one window of [`WINDOW_BYTES`]; a read that
//! nothing verified asked for can be given a limit.

use super::error::{LogError, ReadsTooMuch};
use super::format::BLOCK_BYTES_MIN;
use super::open_file::OpenFile;
use super::read_ahead::{AheadBytes, ReadAhead};
use crate::disk::{LogDirectory, LogFile, OpenMode, is_out_of_descriptors};
use crate::sync::Mutex;
use std::fmt;
use std::io::{self, IoSlice};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Files that are open at the same time.
const OPEN_MAX: usize = 16;
/// What is read ahead of a file, in bytes.
const WINDOW_BYTES: usize = 256 << 10;

/// The open files of a log.
#[derive(Debug)]
pub(crate) struct Files<'a> {
    dir: &'a dyn LogDirectory,
    how: OpenMode,
    state: Mutex<State>,
    ahead: ReadAhead,
}

#[derive(Debug, Default)]
struct State {
    /// By the time of their last use, the newest last.
    open: Vec<(String, Window<'static>)>,
    /// The bytes that have been asked for.
    read: u64,
    /// The bytes that may still be read.
    limit: Option<u64>,
}

impl<'a> Files<'a> {
    pub(crate) fn new(dir: &'a dyn LogDirectory, how: OpenMode) -> Arc<Files<'a>> {
        Arc::new(Files { dir, how, state: Mutex::new(State::default()), ahead: ReadAhead::default() })
    }

    /// The file `name`; it is opened when something of it is read.
    pub(crate) fn file(self: &Arc<Files<'a>>, name: &str) -> OpenFile<'a> {
        let file = OnDemand { files: Arc::clone(self), name: name.to_owned() };
        OpenFile { path: self.dir.path().join(name), file: Arc::new(file) }
    }

    /// Begins to read `bytes` bytes from `offset` on, for a [`take_begun`](Files::take_begun) with the same bounds; false: they are not
    /// read before they are asked for.
    pub(crate) fn begin(&self, file: &OpenFile<'_>, bytes: usize, offset: u64) -> bool {
        let Some(name) = file.path.file_name().and_then(|name| name.to_str()) else { return false };
        // What cannot be opened now is an error when it is read.
        let opened = self.with(name, |opened, _| Ok(Arc::clone(&opened.file)));
        opened.is_ok_and(|opened| self.ahead.begin(&opened, &file.path, bytes, offset))
    }

    /// What was begun, and did not fail: fewer bytes where the file ends.
    pub(super) fn take_begun(&self, file: &OpenFile<'_>, bytes: usize, offset: u64) -> Option<AheadBytes> {
        let taken = self.ahead.take(&file.path, bytes, offset)?;
        self.state.lock().read += bytes as u64;
        Some(taken)
    }

    /// Runs `read` with a limit of `allowance` bytes, and subtracts what it read.
    pub(crate) fn within<T>(&self, allowance: &mut u64, read: impl FnOnce() -> T) -> T {
        let before = {
            let mut state = self.state.lock();
            state.limit = Some(state.read.saturating_add(*allowance));
            state.read
        };
        let result = read();
        let mut state = self.state.lock();
        state.limit = None;
        *allowance = allowance.saturating_sub(state.read - before);
        result
    }

    fn with<T>(
        &self,
        name: &str,
        use_it: impl FnOnce(&mut Window<'static>, &mut State) -> io::Result<T>,
    ) -> io::Result<T> {
        let mut state = self.state.lock();
        let known = state.open.iter().position(|(known, _)| known == name);
        let mut file = match known {
            Some(at) => state.open.remove(at),
            None => {
                if state.open.len() >= OPEN_MAX {
                    state.open.remove(0);
                }
                (name.to_owned(), Window::new(self.open(name, &mut state)?))
            }
        };
        let used = use_it(&mut file.1, &mut state);
        state.open.push(file);
        used
    }

    fn open(&self, name: &str, state: &mut State) -> io::Result<Arc<dyn LogFile>> {
        match self.dir.open(name, self.how) {
            // The others are closed, and it is tried once more.
            Err(error) if is_out_of_descriptors(&error) && !state.open.is_empty() => {
                state.open.clear();
                self.dir.open(name, self.how)
            }
            opened => opened,
        }
    }
}

/// Whether the medium does not give these bytes, now and at the next attempt. Other errors are of the moment (no descriptor,
/// no memory), or something that the user can change (permissions).
#[must_use]
pub fn is_unreadable(error: &io::Error) -> bool {
    match error.raw_os_error() {
        // What a block device says of a bad sector, and file systems of a checksum that does not fit.
        #[cfg(target_os = "linux")]
        Some(libc::ENODATA | libc::EILSEQ | libc::EREMOTEIO | libc::EUCLEAN) => true,
        code => matches!(code, Some(libc::EIO | libc::EBADMSG)),
    }
}

/// A file of [`Files`].
#[derive(Debug)]
struct OnDemand<'a> {
    files: Arc<Files<'a>>,
    name: String,
}

impl LogFile for OnDemand<'_> {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.files.with(&self.name, |file, state| {
            let wanted = state.read.saturating_add(buffer.len() as u64);
            if state.limit.is_some_and(|limit| wanted > limit) {
                return Err(io::Error::other(ReadsTooMuch));
            }
            let before = file.asked;
            let read = file.read_at(buffer, offset);
            state.read += file.asked - before;
            read
        })
    }

    fn write_at(&self, _parts: &[IoSlice<'_>], _offset: u64) -> io::Result<()> {
        Err(io::ErrorKind::PermissionDenied.into())
    }

    fn sync(&self) -> io::Result<()> {
        self.files.with(&self.name, |file, _| file.file.sync())
    }

    fn bytes(&self) -> io::Result<u64> {
        self.files.with(&self.name, |file, _| file.file.bytes())
    }

    fn data(&self, from: u64) -> io::Result<Option<Range<u64>>> {
        self.files.with(&self.name, |file, _| file.file.data(from))
    }
}

/// A file that is read ahead.
#[derive(Debug)]
pub(super) struct Ahead<'a>(Mutex<Window<'a>>);

impl<'a> Ahead<'a> {
    pub(super) fn new(file: Arc<dyn LogFile + 'a>) -> Ahead<'a> {
        Ahead(Mutex::new(Window::new(file)))
    }
}

impl LogFile for Ahead<'_> {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.lock().read_at(buffer, offset)
    }

    fn write_at(&self, _parts: &[IoSlice<'_>], _offset: u64) -> io::Result<()> {
        Err(io::ErrorKind::PermissionDenied.into())
    }

    fn sync(&self) -> io::Result<()> {
        self.0.lock().file.sync()
    }

    fn bytes(&self) -> io::Result<u64> {
        self.0.lock().file.bytes()
    }
}

/// Reads ahead: a walk takes many small steps through a file, and each read past the page cache is one of the disk.
#[derive(Debug)]
struct Window<'a> {
    file: Arc<dyn LogFile + 'a>,
    start: u64,
    window: Vec<u8>,
    /// Where the last read ended: only a read that continues there fills the window. The first is that of a header,
    /// alone.
    last_end: u64,
    /// The bytes that the file was asked for.
    asked: u64,
}

impl<'a> Window<'a> {
    fn new(file: Arc<dyn LogFile + 'a>) -> Window<'a> {
        Window { file, start: 0, window: Vec::new(), last_end: u64::MAX, asked: 0 }
    }

    fn ask(&mut self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.asked += buffer.len() as u64;
        self.file.read_at(buffer, offset)
    }

    fn inside(&self, length: usize, offset: u64) -> Option<usize> {
        let at = usize::try_from(offset.checked_sub(self.start)?).ok()?;
        (at.checked_add(length)? <= self.window.len()).then_some(at)
    }

    fn read_at(&mut self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let goes_on = offset.abs_diff(self.last_end) <= WINDOW_BYTES as u64 / 4;
        self.last_end = offset.saturating_add(buffer.len() as u64);
        if self.inside(buffer.len(), offset).is_none() {
            if !goes_on || buffer.len() > WINDOW_BYTES / 2 {
                return self.ask(buffer, offset);
            }
            let mut window = std::mem::take(&mut self.window);
            window.resize(WINDOW_BYTES, 0);
            // An error lies somewhere in it, and maybe not in what is wanted.
            let read = self.ask(&mut window, offset).unwrap_or(0);
            window.truncate(read);
            (self.start, self.window) = (offset, window);
        }
        match self.inside(buffer.len(), offset) {
            Some(at) => {
                buffer.copy_from_slice(&self.window[at..at + buffer.len()]);
                Ok(buffer.len())
            }
            // The window ends with the file.
            None => self.ask(buffer, offset),
        }
    }
}

/// Bytes of a log file that the medium does not give.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable {
    /// The file.
    pub file: PathBuf,
    /// From here, in bytes.
    pub offset: u64,
    /// The number of bytes; `u64::MAX`: not known, or all of it.
    pub bytes: u64,
    /// What the medium says.
    pub error: String,
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Unreadable { file, offset, bytes, error } = self;
        match *bytes {
            u64::MAX => write!(f, "{}: {error}", file.display()),
            _ => write!(f, "{}, {bytes} bytes from byte {offset}: {error}", file.display()),
        }
    }
}

impl LogError {
    /// As [`LogError::unreadable`], for a record at `offset` of the file `path` that was to be read.
    pub(crate) fn unreadable_at(&self, path: &Path, offset: u64) -> Option<Unreadable> {
        let LogError::Io { file, source, .. } = self else { return None };
        // In a spill file it is not known where.
        let (offset, bytes) = if file == path { (offset, u64::from(BLOCK_BYTES_MIN)) } else { (0, u64::MAX) };
        is_unreadable(source).then(|| Unreadable { file: file.clone(), offset, bytes, error: source.to_string() })
    }

    /// What the medium says, if it does not give the bytes of a file.
    pub(crate) fn unreadable(&self) -> Option<&io::Error> {
        match self {
            LogError::Io { source, .. } if is_unreadable(source) => Some(source),
            _ => None,
        }
    }
}
