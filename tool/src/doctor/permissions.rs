//! Who may do what: this user, and the others that may write the database.

use super::Scene;
use super::report::Report;
use pwal::internal::disk::Directory;
use rustix::fs::{Access, AtFlags, CWD, accessat};
use rustix::io::Errno;
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

const PERMISSIONS: &str = "permissions";

pub fn check(scene: &Scene, report: &mut Report) {
    let database = &scene.database.path;
    let Ok(own) = fs::metadata(database) else { return };
    let user = rustix::process::geteuid().as_raw();
    let shown = format!("{} ({}), this user {user}", mode_of(&own), owner_of(&own));
    let Some(directory) = database.parent() else { return };
    if scene.unreadable.is_some() {
        let advice = "run as a user that may open the database, or give this one the rights (group, chmod g+rw)";
        report.problem(PERMISSIONS, format!("this user may not read the database: {shown}"), advice);
    } else if !may(database, Access::READ_OK | Access::WRITE_OK) {
        let advice = "pwal leaves it to stock SQLite then, and refuses it with a log: chmod, chown, or another user";
        report.warn(PERMISSIONS, format!("this user may read the database, not write it: {shown}"), advice);
    }
    if !may(directory, Access::WRITE_OK | Access::EXEC_OK) {
        let found = format!("this user may make no files in {}", directory.display());
        report.problem(PERMISSIONS, found, "the log lies there, beside the database: make the directory writable");
    }
    check_group(directory, &own, report);
    check_links(scene, &own, report);
    check_beside(scene, &own, report);
    if report.is_silent_on(PERMISSIONS) {
        report.ok(PERMISSIONS, format!("database {shown}; its directory is writable"));
    }
}

/// Whether this user may, by its effective ids. A read-only mount is reported with the file system; where the system cannot
/// be asked, nothing is claimed.
fn may(path: &Path, access: Access) -> bool {
    !matches!(accessat(CWD, path, access, AtFlags::EACCESS), Err(Errno::ACCESS | Errno::PERM))
}

fn mode_of(file: &Metadata) -> String {
    format!("{:o}", file.mode() & 0o7777)
}

fn owner_of(file: &Metadata) -> String {
    format!("user {}, group {}", file.uid(), file.gid())
}

/// A user who may write the database must be able to make its log.
fn check_group(directory: &Path, own: &Metadata, report: &mut Report) {
    let Ok(place) = fs::metadata(directory) else { return };
    let group_writes = own.mode() & 0o020 != 0;
    let group_makes = place.mode() & 0o002 != 0 || (place.mode() & 0o020 != 0 && place.gid() == own.gid());
    if group_writes && !group_makes {
        let group = own.gid();
        let found = format!("group {group} may write the database, but make no log in {}", directory.display());
        let advice = format!("chgrp {group} {0} && chmod g+ws {0}", directory.display());
        report.warn(PERMISSIONS, found, advice);
    }
}

fn check_links(scene: &Scene, own: &Metadata, report: &mut Report) {
    let database = &scene.database;
    if own.nlink() > 1 {
        let found = format!("{} has {} names (hard links)", database.name(), own.nlink());
        let advice =
            "each name has a log directory of its own, and a crash leaves the log under one of them: keep one name";
        report.warn(PERMISSIONS, found, advice);
    }
    if fs::symlink_metadata(&scene.named).is_ok_and(|named| named.is_symlink()) {
        report.note("symlink", format!("{} is one; the log lies beside {}", scene.named.display(), database.name()));
    }
}

/// The log and stock's files have owner and mode of the database, so that a user of the one may use the others.
fn check_beside(scene: &Scene, own: &Metadata, report: &mut Report) {
    let log = scene.database.log_directory();
    let mut files = scene.database.leftovers();
    match Directory::open(&log).and_then(|directory| directory.list()) {
        Ok(names) => files.extend(names.iter().map(|name| log.join(name))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) if error.kind() == std::io::ErrorKind::InvalidInput => {
            let advice = "move it away, or delete it; to have the log elsewhere, move the database there";
            return report.problem(PERMISSIONS, format!("pwal refuses the log directory: {error}"), advice);
        }
        Err(error) => {
            let found = format!("this user may not look into {} ({error})", log.display());
            let advice = format!("it should have owner and rights of the database: {}", owner_of(own));
            return report.problem(PERMISSIONS, found, advice);
        }
    }
    // The files of a directory usually differ in the same way.
    let mut wrong = files.iter().filter_map(|path| Some((path, difference(path, own)?)));
    if let Some((path, differs)) = wrong.next() {
        let more = match wrong.count() {
            0 => String::new(),
            more => format!(", and {more} more"),
        };
        let found = format!("{} {differs}{more}: not every user of the database may use it", path.display());
        let wanted = format!("{}, mode {} (directories searchable)", owner_of(own), mode_of(own));
        let advice =
            format!("close it everywhere, and the next open makes a log with the database's own; or set {wanted}");
        report.warn(PERMISSIONS, found, advice);
    }
}

/// What one who may use the database could miss at a file beside it.
fn difference(path: &Path, own: &Metadata) -> Option<String> {
    let file = fs::symlink_metadata(path).ok()?;
    let (group, others) = (own.mode() >> 3 & 6, own.mode() & 6);
    if own.mode() & !file.mode() & 0o066 != 0 {
        return Some(format!("has mode {}, the database {}", mode_of(&file), mode_of(own)));
    }
    if file.gid() != own.gid() && group & !others != 0 {
        return Some(format!("has group {}, the database {}", file.gid(), own.gid()));
    }
    let owner_may = others == 6 || (group == 6 && file.gid() == own.gid());
    (file.uid() != own.uid() && !owner_may)
        .then(|| format!("belongs to user {}, the database to user {}", file.uid(), own.uid()))
}
