//! What is mounted where (Linux).

use std::path::Path;

/// One line of `/proc/self/mountinfo`.
#[derive(Debug, PartialEq, Eq)]
pub struct Mount {
    /// Where it is mounted.
    pub point: String,
    /// The name of the file system: `ext4`, `nfs4`, `fuse.sshfs`.
    pub kind: String,
    /// Of the mount and of the file system, with commas around each.
    options: String,
}

impl Mount {
    /// The mount that `path` lies on; `None` where the system does not tell.
    pub fn of(path: &Path) -> Option<Mount> {
        let table = std::fs::read("/proc/self/mountinfo").ok()?;
        Mount::find(&String::from_utf8_lossy(&table), path)
    }

    /// The same in a given table.
    pub fn find(table: &str, path: &Path) -> Option<Mount> {
        // Of mounts on one point the last hides the others.
        let mounts = table.lines().filter_map(Mount::parse).filter(|mount| path.starts_with(&mount.point));
        mounts.max_by_key(|mount| mount.point.len())
    }

    /// `36 35 98:0 /root /point rw,noatime shared:1 - ext4 /dev/root rw,errors=continue`
    fn parse(line: &str) -> Option<Mount> {
        let (mount, file_system) = line.split_once(" - ")?;
        let mut mount = mount.split(' ').skip(4);
        let (point, own) = (unescape(mount.next()?), mount.next()?);
        let mut file_system = file_system.split(' ');
        let kind = file_system.next()?.to_owned();
        Some(Mount { point, kind, options: format!(",{own},{},", file_system.nth(1).unwrap_or_default()) })
    }

    /// Whether it is mounted with this option.
    pub fn has(&self, option: &str) -> bool {
        self.options.contains(&format!(",{option},"))
    }
}

/// Blanks in mount points stand as `\040`.
fn unescape(text: &str) -> String {
    text.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}
