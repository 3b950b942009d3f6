//! One directory, opened once: whatever has its name later, this is the directory that is used.
//!
//! Files are opened, inspected, created and deleted relative to its descriptor. No symbolic link is followed, for the
//! directory or in it; only regular files are used; and owner and mode are given, by descriptor, only to what this
//! process has just created. So a user who may write beside a database cannot lead another user's process (root's) to a
//! file or directory elsewhere.

use super::descriptor::{self, refused};
use crate::sync::Mutex;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat, fchmod, fchown, fstat, lstat, mkdirat, statat, unlinkat};
use rustix::fs::{Gid, Uid};
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// How a file that is there is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// For reading.
    Read,
    /// For reading and writing: it must have one name only.
    Write,
}

/// An open directory.
#[derive(Debug)]
pub struct Directory {
    descriptor: OwnedFd,
    path: PathBuf,
    /// The file whose owner new files get; `None`: they stay this process's.
    database: Option<PathBuf>,
    /// The position of the descriptor is shared by all lists.
    listing: Mutex<()>,
}

impl Directory {
    /// Opens the directory at `path`, whose last component is no symbolic link.
    ///
    /// # Errors
    /// Any error of the file system; `NotFound`: it is not there.
    pub fn open(path: &Path) -> io::Result<Directory> {
        Directory::open_in(rustix::fs::CWD, path.as_os_str(), path)
    }

    /// Opens the directory that `parent` has under this name; `path` is for messages.
    pub(super) fn open_in(parent: impl AsFd, name: &OsStr, path: &Path) -> io::Result<Directory> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        let opened = descriptor::open(parent, name, flags, Mode::empty(), || false);
        let descriptor = opened.map_err(|error| not_a_directory(path, error))?;
        Ok(Directory { descriptor, path: path.to_path_buf(), database: None, listing: Mutex::new(()) })
    }

    /// Makes a directory of this name in `parent`, for this user alone; `path` is for messages. `None`: the name is
    /// taken, or another process put another one in its place at once; that is not touched.
    pub(super) fn make_in(parent: impl AsFd, name: &OsStr, path: &Path) -> io::Result<Option<Directory>> {
        match mkdirat(&parent, name, bits(0o700)) {
            Ok(()) => {}
            Err(rustix::io::Errno::EXIST) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
        let made = Directory::open_in(parent, name, path)?;
        let own = made.metadata()?;
        let is_new = own.st_uid == rustix::process::geteuid().as_raw() && own.st_mode & 0o777 == 0o700;
        Ok((is_new && made.list()?.is_empty()).then_some(made))
    }

    /// The directory at `path`, whatever links lead there: of a database file, which the user named.
    pub(super) fn open_parent(path: &Path) -> io::Result<OwnedFd> {
        descriptor::open(rustix::fs::CWD, path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty(), || false)
    }

    /// New files have the owner of the database file from now on, as far as this process may give files away.
    pub(super) fn like(self, database: &Path) -> Directory {
        Directory { database: Some(database.to_path_buf()), ..self }
    }

    /// The path that it was opened at, for messages.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Opens the regular file `name` in it.
    ///
    /// # Errors
    /// Any error of the file system; what is no regular file, or is a link, is refused by name.
    pub fn open_file(&self, name: &str, access: Access) -> io::Result<File> {
        self.open_with(name, access, OFlags::empty(), || false)
    }

    pub(super) fn open_with(
        &self,
        name: &str,
        access: Access,
        flags: OFlags,
        make_room: impl Fn() -> bool,
    ) -> io::Result<File> {
        let how = if access == Access::Write { OFlags::RDWR } else { OFlags::RDONLY };
        let file = descriptor::open_regular(&self.descriptor, name, how | flags, Mode::empty(), make_room)?;
        // Another user's file may have been given this name, too.
        if access == Access::Write && fstat(&file)?.st_nlink > 1 {
            let text = "has more than one name (hard links), and may be another user's file";
            return Err(refused(format!("{name} {text}: delete the other names, or copy the file")));
        }
        Ok(file)
    }

    /// Creates the file `name` with exactly the permission bits `mode`, whatever the umask says, and with the owner of
    /// the database file as far as this process may give it away.
    ///
    /// # Errors
    /// Any error of the file system, after which the file is not there; `AlreadyExists`.
    pub fn create_file(&self, name: &str, mode: u32) -> io::Result<File> {
        self.create_with(name, mode, || false)
    }

    pub(super) fn create_with(&self, name: &str, mode: u32, make_room: impl Fn() -> bool) -> io::Result<File> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
        let file = descriptor::open_regular(&self.descriptor, name, flags, bits(mode) & bits(0o600), make_room)?;
        if let Err(error) = self.adopt(file.as_fd(), mode) {
            let _ = self.remove(name);
            return Err(error);
        }
        Ok(file)
    }

    /// Owner and mode of something that this process has just created.
    pub(super) fn adopt(&self, made: BorrowedFd<'_>, mode: u32) -> io::Result<()> {
        if let Some(database) = &self.database
            && let Ok(database) = lstat(database)
            && FileType::from_raw_mode(database.st_mode) == FileType::RegularFile
        {
            give(made, &database)?;
        }
        if fstat(made)?.st_mode & 0o7777 != bits(mode).as_raw_mode() {
            fchmod(made, bits(mode))?;
        }
        Ok(())
    }

    /// Deletes the file `name` in it.
    ///
    /// # Errors
    /// Any error of the file system; `NotFound`.
    pub fn remove(&self, name: &str) -> io::Result<()> {
        Ok(unlinkat(&self.descriptor, name, AtFlags::empty())?)
    }

    /// What has this name in it; a link is not followed.
    ///
    /// # Errors
    /// Any error of the file system; `NotFound`.
    pub fn look_at(&self, name: &str) -> io::Result<Stat> {
        Ok(statat(&self.descriptor, name, AtFlags::SYMLINK_NOFOLLOW)?)
    }

    /// Which file has this name, as [`FileIdentity::of`].
    ///
    /// # Errors
    /// Any error of the file system; `NotFound`.
    pub(super) fn identity_of(&self, name: &str) -> io::Result<FileIdentity> {
        FileIdentity::at(self.descriptor.as_fd(), name, AtFlags::SYMLINK_NOFOLLOW, identity(&self.look_at(name)?))
    }

    /// The directory itself.
    ///
    /// # Errors
    /// Any error of the file system.
    pub fn metadata(&self) -> io::Result<Stat> {
        Ok(fstat(&self.descriptor)?)
    }

    /// Whether the path still leads here: it may have been removed, moved, or replaced.
    ///
    /// # Errors
    /// Any error of the file system, but not for "is not there".
    pub fn is_current(&self) -> io::Result<bool> {
        is_same(&self.metadata()?, lstat(&self.path).map_err(io::Error::from))
    }

    /// Whether `name` in it is this open file.
    ///
    /// # Errors
    /// Any error of the file system, but not for "is not there".
    pub fn has(&self, name: &str, file: impl AsFd) -> io::Result<bool> {
        is_same(&fstat(file)?, self.look_at(name))
    }

    /// The names in it, sorted. A name that is not text is not ours, and left out.
    ///
    /// # Errors
    /// Any error of the file system.
    pub fn list(&self) -> io::Result<Vec<String>> {
        let _alone = self.listing.lock();
        let mut names = self.names()?;
        names.sort();
        Ok(names)
    }

    /// By the descriptor itself: also where the process has none left.
    #[cfg(target_os = "linux")]
    fn names(&self) -> io::Result<Vec<String>> {
        use rustix::fs::{RawDir, SeekFrom, seek};
        seek(&self.descriptor, SeekFrom::Start(0))?;
        let mut buffer = Vec::with_capacity(16384);
        let mut entries = RawDir::new(&self.descriptor, buffer.spare_capacity_mut());
        let mut names = Vec::new();
        while let Some(entry) = entries.next() {
            names.extend(entry?.file_name().to_str().ok().filter(|name| !is_dots(name)).map(str::to_owned));
        }
        Ok(names)
    }

    #[cfg(not(target_os = "linux"))]
    fn names(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(&self.descriptor)? {
            names.extend(entry?.file_name().to_str().ok().filter(|name| !is_dots(name)).map(str::to_owned));
        }
        Ok(names)
    }

    /// Makes the names in it durable.
    ///
    /// # Errors
    /// Any error of the file system.
    pub fn sync(&self) -> io::Result<()> {
        Ok(rustix::fs::fsync(&self.descriptor)?)
    }

    /// The directory that this one lies in.
    pub(super) fn parent(&self) -> io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        descriptor::open(&self.descriptor, "..", flags, Mode::empty(), || false)
    }
}

impl AsFd for Directory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

fn is_dots(name: &str) -> bool {
    name == "." || name == ".."
}

pub(super) fn bits(mode: u32) -> Mode {
    // Of 16 bits on some systems.
    Mode::from_raw_mode((mode & 0o7777) as rustix::fs::RawMode)
}

/// Device and inode; their types differ from system to system.
pub(super) fn identity(stat: &Stat) -> (i128, i128) {
    (i128::from(stat.st_dev), i128::from(stat.st_ino))
}

/// A file among all that are and were: a file system gives the inode of a deleted one to the next that is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FileIdentity {
    inode: (i128, i128),
    /// When it was made, where the file system says so: seconds and nanoseconds.
    made: Option<(i64, u32)>,
}

impl FileIdentity {
    /// That of an open file.
    ///
    /// # Errors
    /// Any error of the file system.
    pub(super) fn of(file: &File) -> io::Result<FileIdentity> {
        FileIdentity::at(file.as_fd(), "", empty_path(), identity(&fstat(file)?))
    }

    #[cfg(target_os = "linux")]
    fn at(directory: BorrowedFd<'_>, name: &str, flags: AtFlags, inode: (i128, i128)) -> io::Result<FileIdentity> {
        use rustix::fs::{StatxFlags, statx};
        use rustix::io::Errno;
        let made = match statx(directory, name, flags, StatxFlags::BTIME) {
            Ok(there) if there.stx_mask & StatxFlags::BTIME.bits() != 0 => {
                Some((there.stx_btime.tv_sec, there.stx_btime.tv_nsec))
            }
            // A kernel or a sandbox that does not know the call.
            Ok(_) | Err(Errno::NOSYS | Errno::PERM) => None,
            Err(error) => return Err(error.into()),
        };
        Ok(FileIdentity { inode, made })
    }

    #[cfg(not(target_os = "linux"))]
    fn at(_: BorrowedFd<'_>, _: &str, _: AtFlags, inode: (i128, i128)) -> io::Result<FileIdentity> {
        Ok(FileIdentity { inode, made: None })
    }
}

/// The descriptor itself.
fn empty_path() -> AtFlags {
    #[cfg(target_os = "linux")]
    return AtFlags::EMPTY_PATH;
    #[cfg(not(target_os = "linux"))]
    AtFlags::empty()
}

fn is_same(own: &Stat, there: io::Result<Stat>) -> io::Result<bool> {
    match there {
        Ok(there) => Ok(identity(own) == identity(&there)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(false),
        Err(error) => Err(error),
    }
}

/// A link at the last place of `path` is said to be "not a directory" by some systems, and "a loop" by others.
fn not_a_directory(path: &Path, error: io::Error) -> io::Error {
    if !matches!(error.raw_os_error(), Some(libc::ENOTDIR | libc::ELOOP)) {
        return error;
    }
    match lstat(path) {
        Ok(there) if FileType::from_raw_mode(there.st_mode) == FileType::Symlink => refused(format!(
            "{} is a symbolic link, which is not followed: to have the log elsewhere, move the database there",
            path.display()
        )),
        Ok(there) if FileType::from_raw_mode(there.st_mode) != FileType::Directory => {
            refused(format!("{} is no directory, and not pwal's: move it away, or delete it", path.display()))
        }
        _ => error,
    }
}

/// As `robust_open` of SQLite with a `-wal`, and to the group where the user may not be changed: this process
/// could open the database, so the group and the others are what counts. Not being permitted to is no error.
fn give(made: BorrowedFd<'_>, database: &Stat) -> io::Result<()> {
    let own = fstat(made)?;
    let (user, group) = (Uid::from_raw(database.st_uid), Gid::from_raw(database.st_gid));
    if own.st_uid != database.st_uid && fchown(made, Some(user), Some(group)).is_ok() {
        return Ok(());
    }
    if own.st_gid != database.st_gid {
        let _not_permitted = fchown(made, None, Some(group));
    }
    Ok(())
}
