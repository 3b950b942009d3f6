//! Where the database lies: the file system, how it is mounted, its locks, its space.

use super::Scene;
use super::mount::Mount;
use super::report::Report;
use crate::text;
use pwal::internal::disk::not_local;
use pwal::internal::shared::{LockProbe, WHOLE_LOCK};
use std::path::Path;

const FILE_SYSTEM: &str = "file system";
const SPACE: &str = "free space";

/// `control`, the first slot and a checkpoint want so much at once.
const SPACE_MIN: u64 = 4 << 20;
/// The log grows by slots of 16 MiB.
const SPACE_LOW: u64 = 128 << 20;

pub fn check(scene: &Scene, report: &mut Report) {
    let path = &scene.database.path;
    let mount = Mount::of(path);
    let name = mount.as_ref().map_or_else(|| "its file system".to_owned(), |mount| mount.kind.clone());
    if let Some(refused) = not_local(path) {
        let found = format!("{name} ({refused}): its locks or syncs do not keep what a log relies on");
        let advice = "move the database to a local disk; pwal refuses it here, unless parallel_wal_file_system=any \
                      (PWAL_FILE_SYSTEM=any) takes the risk: then for one process at a time";
        report.problem(FILE_SYSTEM, found, advice);
    }
    if let Some(mount) = &mount {
        check_mount(mount, report);
    }
    check_flags(path, report);
    let locks = std::fs::File::open(path).and_then(|file| LockProbe::of(file).is_held(WHOLE_LOCK));
    match locks {
        Err(error) if scene.unreadable.is_none() => {
            let advice = "one process at a time can use the database here: move it to a local disk";
            report.problem(FILE_SYSTEM, format!("{name} has no byte-range locks ({error})"), advice);
        }
        _ => {}
    }
    if report.is_silent_on(FILE_SYSTEM) {
        let at = mount.map_or(String::new(), |mount| format!(" at {}", mount.point));
        report.ok(FILE_SYSTEM, format!("{name}{at}: local, with locks"));
    }
    check_space(path, report);
}

fn check_mount(mount: &Mount, report: &mut Report) {
    let Mount { point, kind, .. } = mount;
    if mount.has("ro") {
        report.problem(FILE_SYSTEM, format!("{kind} at {point} is mounted read-only"), "mount it writable");
    }
    if mount.has("nobarrier") || mount.has("barrier=0") {
        let found =
            format!("{kind} at {point} is mounted without barriers: a synced commit may be lost with the power");
        report.warn(FILE_SYSTEM, found, "mount it with barriers, unless the disk's cache has a battery");
    }
    match kind.as_str() {
        "tmpfs" | "ramfs" => {
            let found = format!("{kind} at {point} is memory: a reboot takes the database");
            report.warn(FILE_SYSTEM, found, "put what must stay on a disk");
        }
        "overlay" => {
            let found = format!("overlay at {point}: a container's own layer, which goes with the container");
            report.warn(FILE_SYSTEM, found, "put the database on a volume, which all its containers mount");
        }
        "btrfs" | "zfs" | "bcachefs" => {
            let nocow = if kind == "btrfs" { ", or chattr +C on the empty directory" } else { "" };
            let found = format!(
                "{kind} at {point}: local, with locks; copy-on-write, so that an overwrite can meet a full disk"
            );
            report.note(FILE_SYSTEM, format!("{found}: keep space free{nocow}"));
        }
        _ => {}
    }
}

/// `chattr +i`, `chattr +a`.
#[cfg(target_os = "linux")]
fn check_flags(path: &Path, report: &mut Report) {
    use rustix::fs::{IFlags, ioctl_getflags};
    let Ok(file) = std::fs::File::open(path) else { return };
    // Many file systems have no such flags.
    let Ok(flags) = ioctl_getflags(&file) else { return };
    if flags.intersects(IFlags::IMMUTABLE | IFlags::APPEND) {
        let found = format!("{} is marked immutable or append-only", path.display());
        report.problem(FILE_SYSTEM, found, format!("chattr -i -a {}", path.display()));
    }
}

#[cfg(not(target_os = "linux"))]
fn check_flags(_path: &Path, _report: &mut Report) {}

fn check_space(path: &Path, report: &mut Report) {
    let Some(directory) = path.parent() else { return };
    let space = match rustix::fs::statvfs(directory) {
        Ok(space) => space,
        Err(error) => return report.note(SPACE, format!("unknown: {error}")),
    };
    let free = space.f_bavail.saturating_mul(space.f_frsize);
    let found = format!("{} free for this user", text::bytes(free));
    match free {
        // Some file systems count no files: both are 0 there.
        _ if space.f_favail == 0 && space.f_files > 0 => {
            report.problem(SPACE, format!("{found}, but no more files (inodes)"), "delete files that are not needed");
        }
        0..SPACE_MIN => report.problem(SPACE, found, "free some: the next commit may be SQLITE_FULL"),
        SPACE_MIN..SPACE_LOW => report.warn(SPACE, found, "free some: the log grows in steps of up to 16 MiB"),
        _ => report.ok(SPACE, found),
    }
}
