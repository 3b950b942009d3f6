//! The placeholder: an empty directory at `<database>-wal`, the name of stock SQLite's WAL, while a log exists.
//!
//! Stock SQLite finds it in `pagerOpenWalIfPresent` (`unixAccess` counts everything that is no regular file), before it
//! reads the version bytes of page 1, and cannot open it: `SQLITE_CANTOPEN`, which is not mistaken for damage. It stops
//! builds that know more versions than SQLite does, and `SQLITE_DBCONFIG_RESET_DATABASE`, which skips the version
//! check.
//!
//! Made through a descriptor of the directory that the database lies in, and removed by `rmdir`; neither follows a link
//! at that name, and nothing that another program put there is touched.

use super::directory::Directory;
use rustix::fs::{AtFlags, CWD, FileType, statat, unlinkat};
use rustix::io::Errno;
use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

/// The directory that the database lies in, and the placeholder's name in it.
fn place(database: &Path) -> io::Result<(OwnedFd, OsString)> {
    let parent = match database.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    Ok((Directory::open_parent(parent)?, name_of(database)?))
}

fn name_of(database: &Path) -> io::Result<OsString> {
    let mut name = database.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_owned();
    name.push("-wal");
    Ok(name)
}

/// Makes the placeholder of `database`, and passes it to `adopt` if this call made it. False: something else has the name,
/// and stays.
///
/// # Errors
/// Any error of the file system.
pub(super) fn create(database: &Path, adopt: impl FnOnce(Directory) -> io::Result<()>) -> io::Result<bool> {
    let (parent, name) = place(database)?;
    if let Some(made) = Directory::make_in(&parent, &name, &database.with_file_name(&name))? {
        adopt(made)?;
        return Ok(true);
    }
    let there = statat(&parent, &name, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(FileType::from_raw_mode(there.st_mode).is_dir())
}

/// Removes the placeholder of `database`, if it is there, empty, and this process's to remove.
///
/// # Errors
/// Any other error of the file system.
pub(super) fn remove(database: &Path) -> io::Result<()> {
    let name = name_of(database)?;
    // By its path: a retirement that has begun shall not need a descriptor. The last component of it is not followed.
    match unlinkat(CWD, database.with_file_name(name), AtFlags::REMOVEDIR) {
        // A file has the name (a WAL of stock SQLite), or a directory that is in use, or another user's in a directory
        // like /tmp.
        Ok(())
        | Err(
            Errno::NOENT | Errno::NOTDIR | Errno::NOTEMPTY | Errno::EXIST | Errno::BUSY | Errno::PERM | Errno::ACCESS,
        ) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::os::unix::fs::symlink;
    use std::path::PathBuf;

    fn scene() -> (tempfile::TempDir, PathBuf, PathBuf) {
        let scratch = tempfile::tempdir().unwrap();
        let (database, wal) = (scratch.path().join("a.db"), scratch.path().join("a.db-wal"));
        std::fs::write(&database, "").unwrap();
        (scratch, database, wal)
    }

    #[test]
    fn what_was_made_is_adopted_once_and_removed() {
        let (_scratch, database, wal) = scene();
        let adopted = Cell::new(0);
        let adopt = |_: Directory| {
            adopted.set(adopted.get() + 1);
            Ok(())
        };
        assert!(create(&database, adopt).unwrap());
        assert!(wal.is_dir());
        assert!(create(&database, adopt).unwrap(), "that of an earlier try");
        assert_eq!(adopted.get(), 1);
        remove(&database).unwrap();
        assert!(!wal.exists());
        remove(&database).unwrap();
    }

    #[test]
    fn what_another_program_put_there_stays() {
        let refused = |_: Directory| panic!("adopted what another program made");
        let (_scratch, database, wal) = scene();
        std::fs::write(&wal, "a WAL of stock SQLite").unwrap();
        assert!(!create(&database, refused).unwrap());
        remove(&database).unwrap();
        assert_eq!(std::fs::read(&wal).unwrap(), b"a WAL of stock SQLite");

        let (scratch, database, wal) = scene();
        let elsewhere = scratch.path().join("elsewhere");
        std::fs::create_dir(&elsewhere).unwrap();
        symlink(&elsewhere, &wal).unwrap();
        assert!(!create(&database, refused).unwrap());
        remove(&database).unwrap();
        assert!(elsewhere.is_dir() && wal.is_symlink());

        let (_scratch, database, wal) = scene();
        std::fs::create_dir(&wal).unwrap();
        std::fs::write(wal.join("notes"), "").unwrap();
        assert!(create(&database, refused).unwrap(), "stock SQLite cannot open this one either");
        remove(&database).unwrap();
        assert!(wal.join("notes").exists());
    }
}
