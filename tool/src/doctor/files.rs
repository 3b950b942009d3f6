//! The database file, its log, and what else lies beside it.

use super::Scene;
use super::report::Report;
use crate::openers::Way;
use crate::survey::{Seen, describe, describe_refusal};
use crate::text;
use pwal::internal::disk::Directory;
use pwal::internal::log::decide::{Action, Refusal};
use pwal::internal::log::scan::Finding;
use pwal::internal::log::stamp::StampState;
use pwal::internal::shared::{CONTROL_NAME, ControlMapping, boot_id};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

const LOG: &str = "log";
const CONTROL: &str = "control";
const LEFTOVERS: &str = "leftovers";

/// The unit of most file systems and of the log.
const BLOCK_BYTES: u32 = 4096;

pub fn check_database(scene: &Scene, report: &mut Report) {
    let database = &scene.database;
    if scene.unreadable.is_some() {
        return;
    }
    let size = text::bytes(database.bytes);
    let Some(page_bytes) = database.page_bytes() else {
        if database.header.is_empty() {
            return report.note("database", format!("{} is empty: no database yet", database.name()));
        }
        let found = format!("{} ({size}): the page size in its header is none", database.name());
        return report.problem("database", found, "the file is damaged: restore a backup");
    };
    report.ok("database", format!("{} ({size}), {}", database.name(), database.describe()));
    if page_bytes < BLOCK_BYTES {
        let found = format!("{page_bytes} bytes: a checkpoint rewrites parts of blocks of {BLOCK_BYTES} bytes");
        report.note(
            "page size",
            format!("{found}; PRAGMA page_size={BLOCK_BYTES} and VACUUM, outside of WAL mode, change it"),
        );
    } else {
        report.ok("page size", format!("{page_bytes} bytes"));
    }
    match database.stamp() {
        StampState::Plain { wal: false } => report.warn(
            "journal mode",
            "rollback: pwal leaves it to stock SQLite",
            "PRAGMA journal_mode=WAL on a connection through pwal, once: the file remembers it",
        ),
        _ => report.ok("journal mode", "WAL"),
    }
}

/// What the next open does with the log.
pub fn check_log(scene: &Scene, report: &mut Report) {
    let database = &scene.database;
    if scene.unreadable.is_some() {
        return;
    }
    let seen = match Seen::look(&database.path) {
        Ok(seen) => seen,
        Err(failure) => {
            let advice = "see what it says; `pwal recover` and `pwal inspect` say more";
            return report.problem(LOG, format!("cannot be looked at: {failure}"), advice);
        }
    };
    let (owned, survey) = (scene.owned || seen.owned, &seen.survey);
    let finding = survey.logs.iter().flat_map(|log| &log.findings).next();
    let recover = format!("pwal recover {} says what would be lost, and needs your word for it", database.name());
    match survey.action {
        _ if owned => match finding {
            // Seen on every one of several looks, but slots are recycled under them all.
            Some(Finding { rule, file, offset, what }) => report.note(
                LOG,
                format!("in use; {file}, byte {offset} does not hold (rule {rule}: {what}), which a log in use can look like"),
            ),
            None => report.ok(LOG, format!("in use, {}", text::counted(survey.logs.len() as u64, "log"))),
        },
        Action::Refuse(Refusal::ReadOnly) => report.note(LOG, "has commits that are not in the database file yet"),
        Action::Refuse(refusal) => {
            let more = finding.map_or(String::new(), |Finding { rule, file, offset, what }| {
                format!(" ({file}, byte {offset}, rule {rule}: {what})")
            });
            report.problem(LOG, format!("the next open is refused: {}{more}", describe_refusal(refusal)), recover);
        }
        Action::Open if survey.logs.is_empty() => report.ok(LOG, "none: the database file is all"),
        action => report.note(LOG, format!("left by a crash; the next open {}", describe(action))),
    }
    if !survey.foreign.is_empty() {
        let names = survey.foreign.join(", ");
        let found = format!("not of pwal, in {}: {names}", database.log_directory().display());
        report.warn(
            LEFTOVERS,
            found,
            "move them away: they are not used there, and pwal deletes no files that are not its own",
        );
    }
}

/// Files of stock SQLite, and logs that were moved away.
pub fn check_leftovers(scene: &Scene, report: &mut Report) {
    let database = &scene.database;
    let bytes =
        |path: &PathBuf| fs::symlink_metadata(path).map_or(0, |file| if file.is_dir() { 0 } else { file.len() });
    let stamped = !matches!(database.stamp(), StampState::Plain { .. });
    let stock_has_it = scene.openers.all.iter().any(|opener| opener.way != Way::Pwal);
    for suffix in ["-wal", "-journal"] {
        let path = database.beside(suffix);
        if bytes(&path) == 0 {
            continue;
        }
        let found = format!("{} ({})", path.display(), text::bytes(bytes(&path)));
        match () {
            () if stamped || scene.owned => {
                let found =
                    format!("{found} of stock SQLite lies beside a log of pwal: it is older, or of another file");
                let advice = "move it away, never into stock SQLite's hands: it would overwrite what the log has";
                report.problem(LEFTOVERS, found, advice);
            }
            () if stock_has_it => report.note(LEFTOVERS, format!("{found}: in use by stock SQLite")),
            () if suffix == "-wal" => report.note(
                LEFTOVERS,
                format!("{found}: stock SQLite did not close; the next open through pwal plays it back first"),
            ),
            () => report.note(
                LEFTOVERS,
                format!(
                    "{found}: a transaction that did not end, or journal_mode=PERSIST; the next open rolls it back"
                ),
            ),
        }
    }
    if database.beside("-shm").exists() && bytes(&database.beside("-wal")) == 0 && !stock_has_it {
        report.note(LEFTOVERS, format!("{}: harmless, goes with the next close", database.beside("-shm").display()));
    }
    check_placeholder(scene, stamped, report);
    for path in moved_away(&database.log_directory()) {
        let found = format!("{}: a log that was moved away", path.display());
        report.note(LEFTOVERS, format!("{found}; delete it when no commit is missing"));
    }
    if report.is_silent_on(LEFTOVERS) {
        report.ok(LEFTOVERS, "none beside the database file");
    }
}

/// The directory at `<database>-wal`, which goes with the log.
fn check_placeholder(scene: &Scene, stamped: bool, report: &mut Report) {
    let database = &scene.database;
    let Some(path) = database.placeholder() else {
        if stamped {
            let found = format!("no directory at {}", database.beside("-wal").display());
            let what = "until the next open through pwal stock SQLite calls this file \"not a database\"; it is one";
            report.note(LEFTOVERS, format!("{found}: {what}"));
        }
        return;
    };
    if stamped || scene.owned {
        return;
    }
    let found = format!("{} is a directory: stock SQLite cannot open the database", path.display());
    if fs::read_dir(&path).is_ok_and(|mut entries| entries.next().is_none()) {
        let advice =
            format!("left by a crash: `pwal recover {}`, or any open through pwal, removes it", database.name());
        report.problem(LEFTOVERS, found, advice);
    } else {
        report.problem(LEFTOVERS, found, "pwal did not put anything into it: move it away");
    }
}

/// `<database>-pwal.orphan-...`, `<database>-pwal.salvaged-...`.
fn moved_away(log: &Path) -> Vec<PathBuf> {
    let (Some(directory), Some(name)) = (log.parent(), log.file_name().and_then(|name| name.to_str())) else {
        return Vec::new();
    };
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let prefix = format!("{name}.");
    let mut found: Vec<PathBuf> = entries
        .filter(|entry| entry.file_name().to_str().is_some_and(|name| name.starts_with(&prefix)))
        .map(|entry| entry.path())
        .collect();
    found.sort();
    found
}

/// The control block.
pub fn check_control(scene: &Scene, report: &mut Report) {
    let path = scene.database.log_directory().join(CONTROL_NAME);
    match &scene.control {
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            let found = format!("the processes that have it open run another version of pwal ({error})");
            report.problem(
                CONTROL,
                found,
                "use one version of the library and of the tool, and restart processes with the other",
            );
        }
        Err(error) => report.problem(CONTROL, format!("{}: {error}", path.display()), "see the permissions"),
        Ok(Some((mapping, _))) => {
            let identity = mapping.control().identity();
            let own = fs::metadata(&scene.database.path).map_or((0, 0), |file| (file.dev(), file.ino()));
            if (identity.device, identity.inode) != own {
                let found = "the processes that have it open have another file than the one that bears the name now";
                report.problem(
                    CONTROL,
                    found,
                    "it was replaced or copied while open: close it everywhere, then look which one counts",
                );
            } else {
                report.ok(CONTROL, format!("shared by processes, log {:016x}", identity.log_id));
            }
        }
        Ok(None) if scene.owned => {
            report.note(
                CONTROL,
                "none: it is being opened just now, or its one process shares nothing (no shared mappings here)",
            );
        }
        Ok(None) => {
            // Left by a crash: the next opener makes its own.
            let left = Directory::open(&scene.database.log_directory())
                .and_then(|directory| ControlMapping::open_read_only(&directory));
            let why = match left {
                Ok(left) if boot_id().ok() != Some(left.control().identity().boot_id) => {
                    "of another boot of the machine"
                }
                Ok(_) => "of processes that were killed",
                Err(error) if error.kind() == io::ErrorKind::InvalidData => "of another version of pwal",
                Err(_) => return,
            };
            report.note(CONTROL, format!("left, {why}; the next open makes a new one"));
        }
    }
}
