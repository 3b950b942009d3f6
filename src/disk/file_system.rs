//! Which file systems a log may lie on.

use std::path::Path;

/// File systems whose locks or syncs do not mean what the log relies on: magic number (`statfs(2)`), name.
#[cfg(target_os = "linux")]
const NOT_LOCAL: [(u64, &str); 6] = [
    (0x6969, "NFS"),
    (0xff53_4d42, "CIFS"),
    (0xfe53_4d42, "SMB2"),
    (0x517b, "SMB"),
    (0x0102_1997, "9p"),
    (0x6573_5546, "FUSE"),
];

/// The name of the file system that `path` lies on, if it is none that keeps the log's promises: a network file system, or
/// one that a program makes up.
#[must_use]
pub fn not_local(path: &Path) -> Option<&'static str> {
    #[cfg(target_os = "linux")]
    {
        // A path that cannot be looked at is told by whoever opens it.
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

    #[test]
    fn network_file_systems_have_names_and_local_ones_none() {
        assert_eq!(name_of(0x6969), Some("NFS"));
        assert_eq!(name_of(0xff53_4d42), Some("CIFS"));
        assert_eq!(name_of(0x6573_5546), Some("FUSE"));
        // ext4, tmpfs, xfs, btrfs
        for local in [0xef53, 0x0102_1994, 0x5846_5342, 0x9123_683e] {
            assert_eq!(name_of(local), None);
        }
        assert_eq!(not_local(&std::env::temp_dir()), None);
    }
}
