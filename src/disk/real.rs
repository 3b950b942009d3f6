//! The real file system.
//!
//! Promises what [`super`] asks. The log directory is opened once and used by its descriptor ([`Directory`]); it must
//! belong to a user who may write the database anyway.

use super::descriptor::refused;
use super::directory::{Directory, identity};
use super::file::{Pool, RealFile};
use super::file_system::place_of_log;
use super::{Disk, LogDirectory, LogFile, OpenMode, placeholder};
use crate::sync::Mutex;
use rustix::fs::{AtFlags, FileType, Stat, lstat, renameat, statat, unlinkat};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The file system that the database lies on.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealDisk;

impl Disk for RealDisk {
    fn log_directory(&self, database: &Path) -> Arc<dyn LogDirectory> {
        Arc::new(RealLogDirectory::new(database))
    }

    fn sector_bytes(&self, database: &Path) -> u32 {
        // The log may lie on another device than the file.
        let mut devices = [database.to_path_buf(), place_of_log(database)].map(|path| device_of(&path)).to_vec();
        devices.dedup();
        let sector = |device: &Option<u64>| device.and_then(physical_sector).filter(is_sector).unwrap_or(4096);
        devices.iter().map(sector).max().unwrap_or(4096).min(65536)
    }
}

fn is_sector(bytes: &u32) -> bool {
    bytes.is_power_of_two() && *bytes >= 512
}

/// The device that holds `path`, or the directory that it will lie in.
fn device_of(path: &Path) -> Option<u64> {
    let metadata = fs::metadata(path).or_else(|_| fs::metadata(path.parent().unwrap_or(path))).ok()?;
    Some(metadata.dev())
}

/// The physical sector of a block device, as Linux reports it.
fn physical_sector(device: u64) -> Option<u32> {
    if cfg!(not(target_os = "linux")) {
        return None;
    }
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
    opened: Mutex<Option<Opened>>,
}

#[derive(Clone, Debug)]
struct Opened {
    directory: Arc<Directory>,
    files: Arc<Pool>,
}

impl Opened {
    /// Under whatever name: it was not removed.
    fn is_there(&self) -> bool {
        self.directory.metadata().is_ok_and(|own| own.st_nlink > 0)
    }

    fn new(directory: Directory) -> Opened {
        Opened { directory: Arc::new(directory), files: Pool::new() }
    }
}

impl RealLogDirectory {
    /// The log directory of the database file at `database`; nothing is created.
    #[must_use]
    pub fn new(database: &Path) -> RealLogDirectory {
        let path = beside(database, "-pwal");
        RealLogDirectory { database: database.to_path_buf(), path, opened: Mutex::new(None) }
    }

    fn parent(&self) -> &Path {
        match self.path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        }
    }

    /// The directory, opened if it is not, or is not there any more.
    fn opened(&self) -> io::Result<Opened> {
        let mut opened = self.opened.lock();
        if let Some(opened) = opened.as_ref().filter(|opened| opened.is_there()) {
            return Ok(opened.clone());
        }
        let directory = Directory::open(&self.path)?;
        self.check_owner(&directory)?;
        Ok(opened.insert(Opened::new(directory.like(&self.database))).clone())
    }

    /// The owner of the directory may delete and replace the log: it must be a user who may write the database anyway,
    /// this user or root.
    fn check_owner(&self, directory: &Directory) -> io::Result<()> {
        let own = directory.metadata()?;
        let me = rustix::process::geteuid().as_raw();
        if own.st_uid == me || own.st_uid == 0 {
            return Ok(());
        }
        let Ok(database) = lstat(&self.database) else { return Ok(()) };
        let parent = statat(directory, "..", AtFlags::empty())?;
        if own.st_uid == database.st_uid || may_write(&own, &database, &parent) {
            return Ok(());
        }
        Err(refused(format!(
            "{} belongs to user {}, who may not write the database of user {}: nothing in it is used; delete it, or give \
             it to the owner of the database (chown)",
            self.path.display(),
            own.st_uid,
            database.st_uid
        )))
    }

    /// Makes the directory; false: something has its name.
    fn make(&self) -> io::Result<bool> {
        let parent = Directory::open_parent(self.parent())?;
        let Some(made) = Directory::make_in(parent, name_of(&self.path), &self.path)? else { return Ok(false) };
        *self.opened.lock() = Some(Opened::new(self.adopt(made)?));
        Ok(true)
    }

    /// Gives a directory that was just made the owner and the permissions of the database file.
    fn adopt(&self, made: Directory) -> io::Result<Directory> {
        let made = made.like(&self.database);
        if let Ok(database) = fs::symlink_metadata(&self.database) {
            made.adopt(made.as_fd(), mode_of(&database, true))?;
        }
        Ok(made)
    }

    /// The directory that the log directory lies in, with its own name there: not if another has that name by now.
    fn parent_of(&self, opened: &Opened) -> io::Result<Option<OwnedFd>> {
        let parent = opened.directory.parent()?;
        let own = opened.directory.metadata()?;
        let is_own = |there: Stat| identity(&there) == identity(&own);
        let there = statat(&parent, name_of(&self.path), AtFlags::SYMLINK_NOFOLLOW);
        Ok(there.is_ok_and(is_own).then_some(parent))
    }

    fn forget(&self) {
        *self.opened.lock() = None;
    }
}

/// Whether the owner of `directory` may write the database, by the rights of all others, or by its group: a user other
/// than root can give a directory to his own groups only, or it has the group from the directory above, which only
/// members may write to.
fn may_write(directory: &Stat, database: &Stat, parent: &Stat) -> bool {
    let by_parent = parent.st_mode & 0o2000 != 0 && parent.st_mode & 0o002 != 0;
    let by_group = database.st_mode & 0o020 != 0 && directory.st_gid == database.st_gid && !by_parent;
    database.st_mode & 0o002 != 0 || by_group
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

fn name_of(path: &Path) -> &OsStr {
    path.file_name().unwrap_or(path.as_os_str())
}

impl LogDirectory for RealLogDirectory {
    fn path(&self) -> &Path {
        &self.path
    }

    fn directory(&self) -> io::Result<Arc<Directory>> {
        Ok(self.opened()?.directory)
    }

    fn create(&self) -> io::Result<()> {
        if self.opened.lock().as_ref().is_some_and(Opened::is_there) || self.make()? {
            return Ok(());
        }
        self.opened().map(|_| ())
    }

    fn exists(&self) -> io::Result<bool> {
        match lstat(&self.path) {
            Ok(there) => Ok(FileType::from_raw_mode(there.st_mode) == FileType::Directory),
            Err(rustix::io::Errno::NOENT) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    fn list(&self) -> io::Result<Vec<String>> {
        match self.opened() {
            Ok(opened) => opened.directory.list(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    fn open(&self, name: &str, how: OpenMode) -> io::Result<Arc<dyn LogFile>> {
        let Opened { directory, files } = self.opened()?;
        let mode = fs::symlink_metadata(&self.database).map_or(0o600, |database| mode_of(&database, false));
        Ok(RealFile::open(&directory, &files, name, how, mode)?)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        match self.opened().and_then(|opened| opened.directory.remove(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn sync(&self) -> io::Result<()> {
        self.opened()?.directory.sync()
    }

    fn sync_parent(&self) -> io::Result<()> {
        // By the path where it was removed.
        let of_opened = self.opened.lock().as_ref().and_then(|opened| opened.directory.parent().ok());
        let parent = of_opened.map_or_else(|| Directory::open_parent(self.parent()), Ok)?;
        Ok(rustix::fs::fsync(parent)?)
    }

    fn remove_directory(&self) -> io::Result<bool> {
        let opened = match self.opened() {
            Ok(opened) => opened,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
            Err(error) => return Err(error),
        };
        // Another user's directory has the name by now.
        let Some(parent) = self.parent_of(&opened)? else { return Ok(false) };
        let removed = unlinkat(&parent, name_of(&self.path), AtFlags::REMOVEDIR).map_err(io::Error::from);
        match removed {
            Ok(()) => {
                self.forget();
                Ok(true)
            }
            Err(error) => match error.kind() {
                io::ErrorKind::NotFound => Ok(true),
                // Or a mount, or another user's in a directory like /tmp.
                io::ErrorKind::DirectoryNotEmpty
                | io::ErrorKind::AlreadyExists
                | io::ErrorKind::NotADirectory
                | io::ErrorKind::ResourceBusy
                | io::ErrorKind::PermissionDenied => Ok(false),
                _ => Err(error),
            },
        }
    }

    fn create_placeholder(&self) -> io::Result<bool> {
        placeholder::create(&self.database, |made| self.adopt(made).map(|_| ()))
    }

    fn remove_placeholder(&self) -> io::Result<()> {
        placeholder::remove(&self.database)
    }

    fn rename(&self, suffix: &str) -> io::Result<()> {
        let opened = self.opened()?;
        let parent = self.parent_of(&opened)?.ok_or(io::ErrorKind::NotFound)?;
        let name = name_of(&self.path);
        renameat(&parent, name, &parent, beside(Path::new(name), &format!(".{suffix}")))?;
        self.forget();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::IoSlice;
    use std::os::unix::fs::PermissionsExt;

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
        let file = directory.open("b", OpenMode::CreateNew).unwrap();
        assert_eq!(fs::metadata(directory.path().join("b")).unwrap().mode() & 0o777, 0o640);
        assert_eq!(directory.open("b", OpenMode::CreateNew).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(directory.open("c", OpenMode::Existing).unwrap_err().kind(), io::ErrorKind::NotFound);
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
        let file = directory.open("b", OpenMode::CreateNew).unwrap();
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
            let file = directory.open(&number.to_string(), OpenMode::CreateNew).unwrap();
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
        let file = directory.open("b", OpenMode::CreateNew).unwrap();
        let bytes: Vec<u8> = (0..3_000_001_u32).map(|n| (n % 251) as u8).collect();
        file.write_at(&[IoSlice::new(&bytes)], 0).unwrap();
        let direct = directory.open("b", OpenMode::PastCache).unwrap();
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

    /// Whatever else stays open: a file that was closed is opened again, and used.
    #[test]
    fn files_are_closed_and_opened_again() {
        let (_place, directory) = directory();
        directory.create().unwrap();
        let files: Vec<_> = (0..50_u8)
            .map(|number| {
                let file = directory.open(&number.to_string(), OpenMode::CreateNew).unwrap();
                file.write_at(&[IoSlice::new(&[number])], 0).unwrap();
                file
            })
            .collect();
        let open = || {
            let links = (0..1024).filter_map(|fd| fs::read_link(format!("/proc/self/fd/{fd}")).ok());
            links.filter(|link| link.starts_with(directory.path()) && link != directory.path()).count()
        };
        let all_read = || {
            for (number, file) in (0_u8..).zip(&files) {
                let mut read = [99];
                assert_eq!((file.read_at(&mut read, 0).unwrap(), read), (1, [number]));
                assert_eq!(file.bytes().unwrap(), 1);
            }
        };
        assert_eq!(open(), 50, "what is not synced stays open");
        files[..48].iter().for_each(|file| file.sync().unwrap());
        all_read();
        let last = directory.open("last", OpenMode::CreateNew).unwrap();
        assert!(open() <= 20, "{}", open());
        all_read();
        // More than that many stay open: the others come and go beside them.
        files[..30].iter().for_each(|file| file.keep_open(true).unwrap());
        all_read();
        assert_eq!(open(), 30 + 2 + 1);
        files[..30].iter().chain(&files[48..]).for_each(|file| file.keep_open(false).unwrap());
        last.sync().unwrap();
        all_read();
        assert!(open() <= 20, "{}", open());
        // One that was deleted or replaced while it was closed is empty, never another file.
        // It gets the inode of the one before, on most file systems.
        directory.remove("1").unwrap();
        directory.open("1", OpenMode::CreateNew).unwrap().write_at(&[IoSlice::new(b"other")], 0).unwrap();
        directory.remove("0").unwrap();
        assert_eq!(files[0].read_at(&mut [0; 9], 0).unwrap(), 0);
        assert_eq!((files[0].bytes().unwrap(), files[1].bytes().unwrap()), (0, 0));
        assert!(files[1].read_at(&mut [0; 9], 0).is_err());
    }
}
