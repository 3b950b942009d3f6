//! Which file systems a log may lie on.

use std::path::{Path, PathBuf};

/// File systems that several machines, or a virtual machine and its host, can have mounted at once, and those of a program
/// (FUSE): their locks and shared memory need not hold for all who have the file open, nor their syncs reach a medium.
/// Magic number (`statfs(2)`; `linux/magic.h`, and `stat.c` of the GNU core utilities for those outside of the kernel), name.
///
/// FUSE is also what the bind mounts of Docker Desktop and of other virtual machines are (virtiofs has its number): the host's
/// processes take no part in the locks there, and a sync ends in the host's cache. A volume of the virtual machine is local.
#[cfg(target_os = "linux")]
const NOT_LOCAL: [(u64, &str); 24] = [
    (0x6969, "NFS"),
    (0xff53_4d42, "CIFS"),
    (0xfe53_4d42, "SMB2"),
    (0x517b, "SMB"),
    (0x564c, "NCP"),
    (0x0102_1997, "9p"),
    (0x6573_5546, "FUSE"),
    (0x00c3_6400, "CephFS"),
    (0x0bd0_0bd0, "Lustre"),
    (0x5346_414f, "AFS"),
    (0x6b41_4653, "AFS"),
    (0x7375_7245, "Coda"),
    (0x7461_636f, "OCFS2"),
    (0x0116_1970, "GFS2"),
    (0x4750_4653, "GPFS"),
    (0x1983_0326, "BeeGFS"),
    (0x2003_0528, "OrangeFS"),
    (0xaad7_aaea, "PanFS"),
    (0x6163_6673, "ACFS"),
    (0x0131_11a8, "IBRIX"),
    (0xbeef_dead, "SNFS"),
    (0x786f_4256, "vboxsf"),
    (0xbacb_acbc, "vmhgfs"),
    (0x7c7c_6673, "prl_fs"),
];

/// The name of the file system that the database file at `database` or its log lies on, if it is none that keeps the
/// log's promises. The two differ where the file, or the log directory, is a mount of its own.
#[must_use]
pub fn not_local(database: &Path) -> Option<&'static str> {
    file_system_of(database).or_else(|| file_system_of(&place_of_log(database)))
}

/// The log directory, or the directory in which it will be made.
pub(super) fn place_of_log(database: &Path) -> PathBuf {
    let mut log = database.as_os_str().to_owned();
    log.push("-pwal");
    if rustix::fs::lstat(&log).is_ok() {
        return PathBuf::from(log);
    }
    match database.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_path_buf(),
        _ => PathBuf::from("."),
    }
}

fn file_system_of(path: &Path) -> Option<&'static str> {
    #[cfg(target_os = "linux")]
    {
        // A path that cannot be inspected is reported by the code that opens it.
        let found = rustix::fs::statfs(path).ok()?;
        // The magic numbers have 32 bits; some systems sign-extend them.
        name_of(u64::try_from(found.f_type & 0xffff_ffff).ok()?)
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = path;
        None
    }
}

#[cfg(target_os = "linux")]
fn name_of(magic: u64) -> Option<&'static str> {
    NOT_LOCAL.iter().find(|(known, _)| *known == magic).map(|(_, name)| *name)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn what_several_machines_can_mount_has_a_name_and_what_is_local_has_none() {
        // As the system's headers have them.
        let known: &[(libc::c_long, &str)] = &[
            (libc::NFS_SUPER_MAGIC as libc::c_long, "NFS"),
            (libc::SMB_SUPER_MAGIC as libc::c_long, "SMB"),
            (libc::NCP_SUPER_MAGIC as libc::c_long, "NCP"),
            (libc::CODA_SUPER_MAGIC as libc::c_long, "Coda"),
            (libc::AFS_SUPER_MAGIC as libc::c_long, "AFS"),
            (libc::FUSE_SUPER_MAGIC as libc::c_long, "FUSE"),
        ];
        for (magic, name) in known {
            assert_eq!(name_of(u64::try_from(*magic).unwrap()), Some(*name));
        }
        // And those that are names in ASCII.
        for (magic, letters, name) in [
            (0xff53_4d42, "SMB", "CIFS"),
            (0xfe53_4d42, "SMB", "SMB2"),
            (0x7461_636f, "taco", "OCFS2"),
            (0x4750_4653, "GPFS", "GPFS"),
            (0x6163_6673, "acfs", "ACFS"),
            (0x786f_4256, "xoBV", "vboxsf"),
        ] {
            let bytes = u32::to_be_bytes(magic);
            assert!(String::from_utf8_lossy(&bytes).ends_with(letters), "{name}");
            assert_eq!(name_of(u64::from(magic)), Some(name));
        }
        let numbers: BTreeSet<u64> = NOT_LOCAL.iter().map(|(magic, _)| *magic).collect();
        assert_eq!(numbers.len(), NOT_LOCAL.len());
        for (local, name) in [
            (0xef53, "ext4"),
            (0x0102_1994, "tmpfs"),
            (0x5846_5342, "xfs"),
            (0x9123_683e, "btrfs"),
            (0x2fc1_2fc1, "ZFS"),
            (0xf2f5_2010, "F2FS"),
            (0x794c_7630, "overlay"),
            (0xca45_1a4e, "bcachefs"),
            (0x5346_544e, "NTFS"),
        ] {
            assert_eq!(name_of(local), None, "{name}");
        }
    }

    /// A file that is a mount of its own, as in a container, says nothing of where its log is.
    #[test]
    fn the_place_of_the_log_counts_too() {
        let place = tempfile::tempdir().unwrap();
        let database = place.path().join("app.db");
        assert_eq!(place_of_log(&database), place.path());
        std::fs::create_dir(place.path().join("app.db-pwal")).unwrap();
        assert_eq!(place_of_log(&database), place.path().join("app.db-pwal"));
        assert_eq!(place_of_log(Path::new("app.db")), Path::new("."));
        assert_eq!(not_local(&database), None);
        assert_eq!(file_system_of(place.path()), None);
    }
}

/// The number of names that a file has which this process has open, by device and inode; `None`: it cannot be known. The file is
/// not opened for it: to close it would drop the process's POSIX locks.
#[must_use]
pub fn links_of_open_file(device: u64, inode: u64) -> Option<u64> {
    use std::os::unix::fs::MetadataExt;
    let entries = std::fs::read_dir("/proc/self/fd").ok()?;
    let mut files = entries.filter_map(|entry| std::fs::metadata(entry.ok()?.path()).ok());
    files.find(|file| (file.dev(), file.ino()) == (device, inode)).map(|file| file.nlink())
}
