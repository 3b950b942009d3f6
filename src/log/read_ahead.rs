//! Reads past the page cache that are begun before they are asked for: the kernel itself reads ahead only into its cache.
//!
//! One thread reads what was begun, in this order. The caller makes a read again that failed, or that no thread could be made
//! for: so nothing depends on what is begun. Files that do not read past the cache, those of simulations too, are
//! not read beside other work.

use crate::disk::{AlignedBytes, LogFile};
use crate::os::spawn_without_signals;
use crate::sync::Mutex;
use std::collections::VecDeque;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::mpsc::{Receiver, Sender, channel};

/// The reads of the files of a log.
#[derive(Debug, Default)]
pub(super) struct ReadAhead {
    state: Mutex<State>,
    /// What has been read is not asked for any more.
    is_over: Arc<AtomicBool>,
    spare: Spare,
}

/// Memory that the next read can use.
type Spare = Arc<Mutex<Vec<AlignedBytes>>>;

#[derive(Debug, Default)]
struct State {
    /// To the thread, if there is one.
    jobs: Option<Sender<Job>>,
    /// In the order in which they were begun.
    reads: VecDeque<Read>,
}

/// A read that was begun.
#[derive(Debug)]
struct Read {
    path: PathBuf,
    offset: u64,
    bytes: usize,
    done: Receiver<Option<AheadBytes>>,
}

/// A read for the thread.
struct Job {
    file: Arc<dyn LogFile>,
    offset: u64,
    bytes: usize,
    done: Sender<Option<AheadBytes>>,
}

/// What a read has given. Its memory goes back to the reads of the log.
#[derive(Debug)]
pub(super) struct AheadBytes {
    bytes: AlignedBytes,
    spare: Spare,
}

impl Deref for AheadBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for AheadBytes {
    fn drop(&mut self) {
        self.spare.lock().push(std::mem::take(&mut self.bytes));
    }
}

impl AheadBytes {
    /// `None`: no memory, or an error of the medium.
    fn read(job: &Job, spare: &Spare) -> Option<AheadBytes> {
        let mut bytes = spare.lock().pop().unwrap_or_default();
        if !bytes.set_len(job.bytes) {
            bytes = AlignedBytes::new(job.bytes)?;
        }
        let read = job.file.read_at(&mut bytes, job.offset).ok()?;
        bytes.set_len(read);
        Some(AheadBytes { bytes, spare: Arc::clone(spare) })
    }
}

impl Drop for ReadAhead {
    fn drop(&mut self) {
        // Without waiting: a forked child has no such thread.
        self.is_over.store(true, SeqCst);
    }
}

impl ReadAhead {
    /// Begins to read `bytes` bytes of the file at `path` from `offset` on; false: it is not read before it is asked for.
    pub(super) fn begin(&self, file: &Arc<dyn LogFile>, path: &Path, bytes: usize, offset: u64) -> bool {
        if !file.reads_past_cache() {
            return false;
        }
        let mut state = self.state.lock();
        if state.jobs.is_none() {
            let (jobs, mine) = channel::<Job>();
            let (is_over, spare) = (Arc::clone(&self.is_over), Arc::clone(&self.spare));
            let run = move || {
                while let Ok(job) = mine.recv() {
                    if !is_over.load(SeqCst) {
                        // An error: it was given up.
                        let _ = job.done.send(AheadBytes::read(&job, &spare));
                    }
                }
            };
            if spawn_without_signals("pwal-read", run).is_err() {
                return false;
            }
            state.jobs = Some(jobs);
        }
        let (done, read) = channel();
        let job = Job { file: Arc::clone(file), offset, bytes, done };
        let is_sent = state.jobs.as_ref().is_some_and(|jobs| jobs.send(job).is_ok());
        if is_sent {
            state.reads.push_back(Read { path: path.to_path_buf(), offset, bytes, done: read });
        }
        is_sent
    }

    /// What was begun with just these bounds, of fewer bytes where the file ends; those that were begun before it are given up.
    /// `None`: to be read now.
    pub(super) fn take(&self, path: &Path, bytes: usize, offset: u64) -> Option<AheadBytes> {
        let mut state = self.state.lock();
        let is_it = |read: &Read| read.offset == offset && read.bytes == bytes && read.path == path;
        let at = state.reads.iter().position(is_it)?;
        let read = state.reads.drain(..=at).next_back()?;
        drop(state);
        read.done.recv().ok()?
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::without_new_threads;
    use std::io::{self, IoSlice};

    /// A file of 10,000 bytes.
    #[derive(Debug)]
    struct File {
        past_cache: bool,
        fails_from: u64,
    }

    fn byte(at: u64) -> u8 {
        (at % 251) as u8
    }

    impl LogFile for File {
        fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
            if offset >= self.fails_from {
                return Err(io::Error::from_raw_os_error(libc::EIO));
            }
            let there = buffer.len().min((10_000 - offset) as usize);
            buffer[..there].iter_mut().zip(offset..).for_each(|(to, at)| *to = byte(at));
            Ok(there)
        }

        fn write_at(&self, _: &[IoSlice<'_>], _: u64) -> io::Result<()> {
            Err(io::ErrorKind::PermissionDenied.into())
        }

        fn sync(&self) -> io::Result<()> {
            Ok(())
        }

        fn bytes(&self) -> io::Result<u64> {
            Ok(10_000)
        }

        fn reads_past_cache(&self) -> bool {
            self.past_cache
        }
    }

    fn file(past_cache: bool, fails_from: u64) -> Arc<dyn LogFile> {
        Arc::new(File { past_cache, fails_from })
    }

    fn is_right(given: Option<AheadBytes>, offset: u64, bytes: usize) -> bool {
        given.is_some_and(|given| {
            given.len() == bytes && given.iter().zip(offset..).all(|(value, at)| *value == byte(at))
        })
    }

    #[test]
    fn what_was_begun_is_given_once_and_for_its_bounds_alone() {
        let (ahead, one, other) = (ReadAhead::default(), file(true, u64::MAX), Path::new("other"));
        let path = Path::new("one");
        for offset in [0, 2000, 4000, 9000] {
            assert!(ahead.begin(&one, path, 2000, offset));
        }
        assert!(is_right(ahead.take(path, 2000, 0), 0, 2000));
        assert!(ahead.take(path, 2000, 0).is_none());
        for (path, bytes, offset) in [(other, 2000, 2000), (path, 1999, 2000), (path, 2000, 2001)] {
            assert!(ahead.take(path, bytes, offset).is_none(), "{path:?} {bytes} {offset}");
        }
        // Those before it are given up; the file ends in it, and its memory has been used before, by a longer one.
        assert!(is_right(ahead.take(path, 2000, 9000), 9000, 1000));
        assert!(ahead.take(path, 2000, 4000).is_none());
        assert!(ahead.begin(&one, path, 3000, 10));
        assert!(is_right(ahead.take(path, 3000, 10), 10, 3000));
    }

    #[test]
    fn what_cannot_be_read_ahead_is_left_to_the_one_who_asks() {
        let (ahead, path) = (ReadAhead::default(), Path::new("one"));
        assert!(!ahead.begin(&file(false, u64::MAX), path, 512, 0));
        assert!(!without_new_threads(|| ahead.begin(&file(true, u64::MAX), path, 512, 0)));
        assert!(ahead.take(path, 512, 0).is_none());
        let fails = file(true, 512);
        assert!(ahead.begin(&fails, path, 512, 0) && ahead.begin(&fails, path, 512, 512));
        assert!(is_right(ahead.take(path, 512, 0), 0, 512));
        assert!(ahead.take(path, 512, 512).is_none());
    }
}
