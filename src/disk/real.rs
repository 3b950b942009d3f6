//! The real file system.
//!
//! Promises what [`super`] asks: whole writes whatever the kernel takes at once, every descriptor
//! close-on-exec, files with mode and owner of the database file, and reads past the page cache where the
//! file system can do them.

use super::{Disk, LogDirectory, LogFile, OpenHow, placeholder};
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, IoSlice};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What direct reads are aligned to, in bytes: a multiple of every usual logical sector.
const DIRECT_ALIGN: usize = 4096;
/// One direct read at most, in bytes.
const DIRECT_PIECE: usize = 1 << 20;
/// One buffered write of zeros at most, in bytes (see `write_zeros`).
#[cfg(target_os = "linux")]
const ZEROS_BUFFERED: usize = 16384;
/// What `pwritev` takes at once (`IOV_MAX` of Linux).
#[cfg(target_os = "linux")]
const VECTORS_MAX: usize = 1024;

/// The file system that the database lies on.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealDisk;

impl Disk for RealDisk {
    fn log_directory(&self, database: &Path) -> Arc<dyn LogDirectory> {
        Arc::new(RealLogDirectory::new(database))
    }

    fn sector_bytes(&self, database: &Path) -> u32 {
        physical_sector(database).filter(|bytes| bytes.is_power_of_two() && *bytes >= 512).unwrap_or(4096).min(65536)
    }
}

/// The physical sector of the block device that holds `path`, as Linux tells it.
fn physical_sector(path: &Path) -> Option<u32> {
    if cfg!(not(target_os = "linux")) {
        return None;
    }
    let metadata = fs::metadata(path).or_else(|_| fs::metadata(path.parent().unwrap_or(path))).ok()?;
    let device = metadata.dev();
    let name = format!("/sys/dev/block/{}:{}", rustix::fs::major(device), rustix::fs::minor(device));
    // A partition has no queue of its own; its disk is the directory above it.
    ["queue/physical_block_size", "../queue/physical_block_size"]
        .iter()
        .find_map(|file| fs::read_to_string(Path::new(&name).join(file)).ok())
        .and_then(|text| text.trim().parse().ok())
}

/// `<database>-pwal` on the file system.
#[derive(Debug)]
pub struct RealLogDirectory {
    database: PathBuf,
    path: PathBuf,
}

impl RealLogDirectory {
    /// The log directory of the database file at `database`; nothing is created.
    #[must_use]
    pub fn new(database: &Path) -> RealLogDirectory {
        RealLogDirectory { database: database.to_path_buf(), path: beside(database, "-pwal") }
    }

    fn parent(&self) -> &Path {
        match self.path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        }
    }

    /// Gives what was just created the owner and the permissions of the database file.
    fn adopt(&self, file: &File, directory: bool) -> io::Result<()> {
        let Ok(database) = fs::metadata(&self.database) else { return Ok(()) };
        let own = file.metadata()?;
        give(&own, &database, |user, group| std::os::unix::fs::fchown(file, user, group));
        let mode = mode_of(&database, directory);
        if own.mode() & 0o777 != mode {
            file.set_permissions(fs::Permissions::from_mode(mode))?;
        }
        Ok(())
    }
}

/// Gives the file at `path` the owner of the database file, as far as this process may: as `findCreateFileMode` and
/// `robust_open` of SQLite do with a `-wal`. Others may write the database by its group.
pub fn adopt(path: &Path, database: &Path) {
    if let (Ok(own), Ok(database)) = (fs::symlink_metadata(path), fs::metadata(database)) {
        give(&own, &database, |user, group| std::os::unix::fs::lchown(path, user, group));
    }
}

/// A process that may not give files away keeps them, and gives them to the group if it is in it: it could open the
/// database, so the group and the others are what counts.
fn give(own: &fs::Metadata, database: &fs::Metadata, change: impl Fn(Option<u32>, Option<u32>) -> io::Result<()>) {
    let (user, group) = (own.uid() != database.uid(), own.gid() != database.gid());
    if user && change(Some(database.uid()), Some(database.gid())).is_ok() {
        return;
    }
    if group {
        let _ = change(None, Some(database.gid()));
    }
}

fn mode_of(database: &fs::Metadata, directory: bool) -> u32 {
    let mode = database.mode() & 0o666;
    if directory { mode | ((mode & 0o444) >> 2) | 0o700 } else { mode | 0o600 }
}

fn beside(database: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(database.as_os_str());
    name.push(suffix);
    PathBuf::from(name)
}

fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

impl LogDirectory for RealLogDirectory {
    fn path(&self) -> &Path {
        &self.path
    }

    fn create(&self) -> io::Result<()> {
        match fs::DirBuilder::new().mode(0o700).create(&self.path) {
            Ok(()) => self.adopt(&File::open(&self.path)?, true),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && self.path.is_dir() => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn exists(&self) -> io::Result<bool> {
        match fs::metadata(&self.path) {
            Ok(metadata) => Ok(metadata.is_dir()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let entries = match fs::read_dir(&self.path) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut names = Vec::new();
        for entry in entries {
            // A name that is not text is not ours, and is left alone.
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    fn open(&self, name: &str, how: OpenHow) -> io::Result<Arc<dyn LogFile>> {
        let path = self.path.join(name);
        let mut options = OpenOptions::new();
        options.read(true).custom_flags(libc::O_NOFOLLOW);
        match how {
            OpenHow::CreateNew => {
                let file = options.write(true).create_new(true).mode(0o600).open(&path)?;
                if let Err(error) = self.adopt(&file, false) {
                    let _ = fs::remove_file(&path);
                    return Err(error);
                }
                Ok(Arc::new(RealFile { file }))
            }
            OpenHow::Existing => Ok(Arc::new(RealFile { file: options.write(true).open(&path)? })),
            OpenHow::ReadOnly => Ok(Arc::new(RealFile { file: options.open(&path)? })),
            OpenHow::PastCache => open_past_cache(&path),
        }
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        match fs::remove_file(self.path.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn sync(&self) -> io::Result<()> {
        sync_directory(&self.path)
    }

    fn sync_parent(&self) -> io::Result<()> {
        sync_directory(self.parent())
    }

    fn remove_directory(&self) -> io::Result<bool> {
        match fs::remove_dir(&self.path) {
            Ok(()) => Ok(true),
            Err(error) => match error.kind() {
                io::ErrorKind::NotFound => Ok(true),
                io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists => Ok(false),
                // Somebody else made it: a symlink to another place, a mount, another user's in a directory like /tmp.
                io::ErrorKind::NotADirectory | io::ErrorKind::ResourceBusy | io::ErrorKind::PermissionDenied => {
                    Ok(false)
                }
                _ => Err(error),
            },
        }
    }

    fn create_placeholder(&self) -> io::Result<bool> {
        placeholder::create(&self.database, |made| self.adopt(made, true))
    }

    fn remove_placeholder(&self) -> io::Result<()> {
        placeholder::remove(&self.database)
    }

    fn rename(&self, suffix: &str) -> io::Result<()> {
        fs::rename(&self.path, beside(&self.database, &format!("-pwal.{suffix}")))
    }
}

/// A file that is read and written through the page cache.
#[derive(Debug)]
struct RealFile {
    file: File,
}

impl LogFile for RealFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        read_full(&self.file, buffer, offset)
    }

    #[cfg(target_os = "linux")]
    fn write_at(&self, parts: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        let mut offset = offset;
        let mut at = 0;
        while at < parts.len() {
            let end = parts.len().min(at + VECTORS_MAX);
            let mut left: u64 = parts[at..end].iter().map(|part| part.len() as u64).sum();
            let mut written = write_some(&self.file, &parts[at..end], offset)?;
            left -= written.min(left);
            offset += written;
            if left > 0 {
                // The kernel took less (2 GiB at once, a full disk, a signal): go on behind it.
                let mut rest: Vec<IoSlice<'_>> = parts[at..end].iter().map(|part| IoSlice::new(part)).collect();
                let mut rest = rest.as_mut_slice();
                while left > 0 {
                    IoSlice::advance_slices(&mut rest, usize::try_from(written).unwrap_or(usize::MAX));
                    written = write_some(&self.file, rest, offset)?;
                    left -= written.min(left);
                    offset += written;
                }
            }
            at = end;
        }
        Ok(())
    }

    #[cfg(not(target_os = "linux"))]
    fn write_at(&self, parts: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        let mut offset = offset;
        for part in parts {
            self.file.write_all_at(part, offset)?;
            offset += part.len() as u64;
        }
        Ok(())
    }

    /// Directly, so that commits beside it do not wait for the write-back of so many zeros; and so that the page
    /// cache does not hold the slot in large pieces: ext4 walks all 4 KiB buffers of a piece in each write to it (5 us
    /// for a batch of two blocks in a piece of 1 MiB, 3 us in one of its own size).
    #[cfg(target_os = "linux")]
    fn write_zeros(&self, bytes: usize, offset: u64) -> io::Result<()> {
        use std::os::fd::AsRawFd;
        let aligned = bytes.is_multiple_of(DIRECT_ALIGN) && offset.is_multiple_of(DIRECT_ALIGN as u64);
        let again = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        let direct = OpenOptions::new().write(true).custom_flags(libc::O_DIRECT).open(again);
        if aligned && let Ok(file) = direct {
            match zeros_to(&RealFile { file }, bytes, offset, bytes) {
                // Refused by the file system, or in a place that is aligned for nobody.
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
                other => return other,
            }
        }
        zeros_to(self, bytes, offset, ZEROS_BUFFERED)
    }

    /// `fdatasync`; on macOS the standard library asks for `F_FULLFSYNC`, which is at least what is needed.
    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn bytes(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn truncate(&self) -> io::Result<()> {
        self.file.set_len(0)
    }
}

/// Zeros at an address that direct writes accept.
#[cfg(target_os = "linux")]
#[repr(align(4096))]
struct Zeros([u8; 65536]);

#[cfg(target_os = "linux")]
static ZEROS: Zeros = Zeros([0; 65536]);

/// Zeros by calls of at most `piece` bytes.
#[cfg(target_os = "linux")]
fn zeros_to(file: &RealFile, bytes: usize, offset: u64, piece: usize) -> io::Result<()> {
    let mut done = 0;
    while done < bytes {
        let now = piece.min(bytes - done);
        let parts = vec![IoSlice::new(&ZEROS.0); now / ZEROS.0.len()];
        let rest = IoSlice::new(&ZEROS.0[..now % ZEROS.0.len()]);
        file.write_at(&[parts, vec![rest]].concat(), offset + done as u64)?;
        done += now;
    }
    Ok(())
}

/// One `pwritev`; at least one byte, or an error.
#[cfg(target_os = "linux")]
fn write_some(file: &File, parts: &[IoSlice<'_>], offset: u64) -> io::Result<u64> {
    loop {
        match rustix::io::pwritev(file, parts, offset) {
            Ok(0) if parts.iter().any(|part| !part.is_empty()) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => return Ok(written as u64),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn read_full(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// Opens `path` for reading what the medium holds.
fn open_past_cache(path: &Path) -> io::Result<Arc<dyn LogFile>> {
    #[cfg(target_os = "linux")]
    match OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_DIRECT).open(path) {
        Ok(file) => {
            let direct = DirectFile { file };
            // Some file systems take the flag and refuse the read.
            match direct.read_at(&mut [0; 512], 0) {
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
                Err(error) => return Err(error),
                Ok(_) => return Ok(Arc::new(direct)),
            }
        }
        Err(error) if error.raw_os_error() != Some(libc::EINVAL) => return Err(error),
        Err(_) => {}
    }
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(path)?;
    file.sync_all()?;
    #[cfg(target_os = "linux")]
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?;
    #[cfg(target_vendor = "apple")]
    rustix::fs::fcntl_nocache(&file, true)?;
    Ok(Arc::new(RealFile { file }))
}

/// A file that is read with `O_DIRECT`, through aligned buffers, and not written.
#[cfg(target_os = "linux")]
#[derive(Debug)]
struct DirectFile {
    file: File,
}

#[cfg(target_os = "linux")]
impl LogFile for DirectFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let align = DIRECT_ALIGN as u64;
        // Not behind the block that the file ends in: a process that was killed in the middle of a buffered write leaves
        // blocks there that ext4 has reserved and never wrote, and a direct read that touches one is EIO.
        let end = self.bytes()?.next_multiple_of(align);
        let mut filled = 0;
        let mut space = Vec::new();
        while filled < buffer.len() {
            let from = offset + filled as u64;
            let start = from - from % align;
            let skip = usize::try_from(from - start).unwrap_or(0);
            let there = usize::try_from(end.saturating_sub(start)).unwrap_or(usize::MAX);
            let wanted = (skip + buffer.len() - filled).next_multiple_of(DIRECT_ALIGN).min(DIRECT_PIECE).min(there);
            if wanted == 0 {
                break;
            }
            if space.len() < wanted + DIRECT_ALIGN {
                space = vec![0; wanted + DIRECT_ALIGN];
            }
            let aligned = space.as_ptr().align_offset(DIRECT_ALIGN);
            let bounce = &mut space[aligned..aligned + wanted];
            let read = match self.file.read_at(bounce, start) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                other => other?,
            };
            let piece = read.saturating_sub(skip).min(buffer.len() - filled);
            buffer[filled..filled + piece].copy_from_slice(&bounce[skip..skip + piece]);
            filled += piece;
            // A direct read ends short of an aligned place only at the end of the file.
            if piece == 0 || read % DIRECT_ALIGN != 0 {
                break;
            }
        }
        Ok(filled)
    }

    fn write_at(&self, _parts: &[IoSlice<'_>], _offset: u64) -> io::Result<()> {
        Err(io::ErrorKind::PermissionDenied.into())
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn bytes(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory() -> (tempfile::TempDir, RealLogDirectory) {
        let place = tempfile::tempdir().unwrap();
        let database = place.path().join("a.db");
        fs::write(&database, b"x").unwrap();
        fs::set_permissions(&database, fs::Permissions::from_mode(0o640)).unwrap();
        let directory = RealLogDirectory::new(&database);
        (place, directory)
    }

    #[test]
    fn a_directory_lives_and_goes() {
        let (place, directory) = directory();
        assert!(!directory.exists().unwrap());
        assert!(directory.list().unwrap().is_empty());
        directory.create().unwrap();
        directory.create().unwrap();
        assert!(directory.exists().unwrap());
        assert_eq!(fs::metadata(directory.path()).unwrap().mode() & 0o777, 0o750);
        let file = directory.open("b", OpenHow::CreateNew).unwrap();
        assert_eq!(fs::metadata(directory.path().join("b")).unwrap().mode() & 0o777, 0o640);
        assert_eq!(directory.open("b", OpenHow::CreateNew).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(directory.open("c", OpenHow::Existing).unwrap_err().kind(), io::ErrorKind::NotFound);
        file.write_at(&[IoSlice::new(b"ab"), IoSlice::new(b""), IoSlice::new(b"cd")], 4096).unwrap();
        file.sync().unwrap();
        directory.sync().unwrap();
        directory.sync_parent().unwrap();
        assert_eq!(directory.list().unwrap(), ["b"]);
        assert!(!directory.remove_directory().unwrap());
        directory.remove("b").unwrap();
        directory.remove("b").unwrap();
        assert!(directory.remove_directory().unwrap());
        assert!(directory.remove_directory().unwrap());
        directory.create().unwrap();
        directory.rename("orphan-1").unwrap();
        assert!(place.path().join("a.db-pwal.orphan-1").is_dir());
    }

    #[test]
    fn more_parts_than_the_kernel_takes_arrive_in_order() {
        let (_place, directory) = directory();
        directory.create().unwrap();
        let file = directory.open("b", OpenHow::CreateNew).unwrap();
        let words: Vec<[u8; 4]> = (0..5000_u32).map(u32::to_le_bytes).collect();
        let parts: Vec<IoSlice<'_>> = words.iter().map(|word| IoSlice::new(word)).collect();
        file.write_at(&parts, 6).unwrap();
        assert_eq!(file.bytes().unwrap(), 6 + 20000);
        let mut read = vec![0; 20000];
        assert_eq!(file.read_at(&mut read, 6).unwrap(), 20000);
        assert_eq!(read, words.concat());
    }

    #[test]
    fn zeros_replace_what_was_there_and_nothing_beside_it() {
        let (_place, directory) = directory();
        directory.create().unwrap();
        for (number, (offset, length)) in
            [(0, 1 << 20), (4096, 200_704), (4096, 100), (7, 70_001)].into_iter().enumerate()
        {
            let file = directory.open(&number.to_string(), OpenHow::CreateNew).unwrap();
            file.write_at(&[IoSlice::new(&vec![7; 300_000])], 0).unwrap();
            file.write_zeros(length, offset).unwrap();
            file.sync().unwrap();
            let end = offset as usize + length;
            assert_eq!(file.bytes().unwrap(), end.max(300_000) as u64);
            let mut read = vec![1; end.max(300_000)];
            assert_eq!(file.read_at(&mut read, 0).unwrap(), read.len());
            assert!(
                (0..read.len()).all(|at| (read[at] == 0) == (offset as usize..end).contains(&at)),
                "{offset} {length}"
            );
        }
    }

    #[test]
    fn reads_past_the_cache_take_any_place_and_length() {
        let (_place, directory) = directory();
        directory.create().unwrap();
        let file = directory.open("b", OpenHow::CreateNew).unwrap();
        let bytes: Vec<u8> = (0..3_000_001_u32).map(|n| (n % 251) as u8).collect();
        file.write_at(&[IoSlice::new(&bytes)], 0).unwrap();
        let direct = directory.open("b", OpenHow::PastCache).unwrap();
        direct.sync().unwrap();
        for (offset, length) in [(0, 10), (4095, 2), (1, 2_999_999), (2_999_000, 5000), (3_000_001, 7), (9_000_000, 1)]
        {
            let mut buffer = vec![0; length];
            let read = direct.read_at(&mut buffer, offset as u64).unwrap();
            let expected = bytes.get(offset..).unwrap_or(&[]);
            let expected = &expected[..expected.len().min(length)];
            assert_eq!(&buffer[..read], expected, "{offset} {length}");
        }
    }
}
