//! `pwal recover`: replays the log that a crash left, and retires it; where recovery refuses, saves what can be saved.

use crate::database::DatabaseFile;
use crate::failure::{Done, Failure};
use crate::owner;
use crate::progress::watched_disk;
use crate::read_only::{ReadOnlyDatabase, ReadOnlyDirectory};
use crate::text;
use crate::text::say;
use pwal::internal::disk::{Directory, LogDirectory};
use pwal::internal::handle::settle::{How, Report, SettleError};
use pwal::internal::log::format::FileName;
use pwal::internal::log::recovery::{self, Recovered};
use pwal::internal::log::salvage::{self, Discarded, Plan, Salvage, Salvaged};
use pwal::internal::log::stamp::{self, StampState};
use pwal::internal::log::undo::UNDO_NAME;
use std::path::PathBuf;

/// Recover a database after a crash: replay its log, retire it, leave one plain SQLite file
///
/// The next open through pwal does the same by itself; this says what was done. A log that is not valid is
/// refused, and nothing is touched.
#[derive(clap::Args)]
pub struct Arguments {
    /// The database file
    database: PathBuf,
    /// Where recovery refuses: replay the commits that are valid, give up what is behind them, and move the
    /// log away. Without --yes only says what that would be
    #[arg(long, conflicts_with = "discard_log")]
    salvage: bool,
    /// Give up the log: take the database file as the last checkpoint left it, and move the log away. Without --yes
    /// only says what that gives up
    #[arg(long)]
    discard_log: bool,
    /// Do it
    #[arg(long)]
    yes: bool,
}

pub fn run(arguments: &Arguments) -> Done {
    let database = DatabaseFile::look(&arguments.database)?;
    let how = match (arguments.salvage, arguments.discard_log) {
        (true, _) => How::Salvage,
        (_, true) => How::DiscardLog,
        _ => How::Recover,
    };
    if !arguments.yes && how != How::Recover {
        return ask(&database, how);
    }
    let report = recover(&database, how)?;
    print(&report);
    let after = DatabaseFile::look(&arguments.database)?;
    say!("{} is {}", after.name(), after.describe());
    if report.salvaged.is_some() || report.discarded.is_some() {
        say!("check it before you use it: `pwal off {}` runs integrity_check", after.name());
    }
    Ok(())
}

/// Says what would be given up. Touches nothing; success if nothing would be.
fn ask(database: &DatabaseFile, how: How) -> Done {
    let lines = match how {
        How::DiscardLog => plan_of_discard(database)?,
        How::Salvage | How::Recover => plan_of_salvage(database)?,
    };
    let Some(lines) = lines else {
        say!("nothing has to be given up: `pwal recover` without this option, or an open through pwal, does it all");
        return Ok(());
    };
    for line in lines {
        say!("{line}");
    }
    Err(Failure::no(format!("{}: nothing was done", database.name()))
        .hint("copy the database file and its -pwal directory first; then the same command with --yes"))
}

fn plan_of_salvage(database: &DatabaseFile) -> Result<Option<Vec<String>>, Failure> {
    let directory = ReadOnlyDirectory::new(database.log_directory());
    let mut file = ReadOnlyDatabase::open(&database.path)?;
    match salvage::plan(&directory, &mut file).map_err(Failure::log)? {
        Salvage::NotNeeded => Ok(None),
        Salvage::Possible(plan) => Ok(Some(describe_plan(&plan, "would be"))),
        Salvage::Impossible { why } => Err(Failure::no(format!("{}: nothing can be salvaged: {why}", database.name()))),
    }
}

fn describe_plan(plan: &Plan, verb: &str) -> Vec<String> {
    let Plan { log_id, base, last, replays, known, seen, reason, unreadable, .. } = plan;
    let mut lines = vec![format!("log {log_id:016x}: {reason}")];
    if !replays {
        lines.push(format!(
            "no commit {verb} replayed: the log is whole up to commit {last}, and the database file holds pages of commits up to {seen}; it {} taken as it is, and integrity_check has to show whether it is whole",
            if verb == "were" { "was" } else { verb }
        ));
    } else if last > base {
        lines
            .push(format!("commits {} to {last} {verb} replayed; the pages that they overwrite {verb} kept", base + 1));
    } else {
        lines.push(format!("no commit {verb} replayed"));
    }
    let kept = plan.kept();
    if *known > kept {
        lines.push(format!("commits {} to {known} {verb} given up", kept + 1));
    }
    lines.extend(unreadable.iter().map(|unread| format!("could not be looked at: {unread}")));
    lines
}

fn plan_of_discard(database: &DatabaseFile) -> Result<Option<Vec<String>>, Failure> {
    let directory = ReadOnlyDirectory::new(database.log_directory());
    let mut file = ReadOnlyDatabase::open(&database.path)?;
    let plan = salvage::plan_discard(&directory, &mut file).map_err(Failure::log)?;
    let mut lines = describe_given_up(&plan, "would be");
    let header = stamp::read(&database.header);
    if let (StampState::Stamped(stamp), true) = (header, lines.is_empty()) {
        let names = directory.list().map_err(|error| Failure::io("list", directory.path(), &error))?;
        if names.iter().any(|name| FileName::parse(name).and_then(|name| name.log_id()) == Some(stamp.log_id)) {
            return Ok(None);
        }
        let (id, target) = (stamp.log_id, stamp.backfill_target);
        lines.push(format!("log {id:016x} is not there: every commit after {target} would be given up"));
    }
    match (header, lines.is_empty()) {
        (StampState::Plain { .. }, true) => Ok(None),
        (_, true) => Ok(Some(vec![format!("the database file ({}) would be taken as it is", database.describe())])),
        (_, false) => Ok(Some(lines)),
    }
}

fn describe_given_up(discarded: &Discarded, verb: &str) -> Vec<String> {
    let Discarded { given_up, unreadable, .. } = discarded;
    let given_up = given_up.iter().map(|(log_id, backfilled, known)| {
        format!("log {log_id:016x}: commits {} to {known} {verb} given up", backfilled + 1)
    });
    let unreadable = unreadable.iter().map(|(log_id, what)| {
        format!("log {log_id:016x}: could not be looked at, and what it holds {verb} given up: {what}")
    });
    given_up.chain(unreadable).collect()
}

/// Settles the database as an open through pwal would, with a progress bar.
pub fn recover(database: &DatabaseFile, how: How) -> Result<Report, Failure> {
    let (disk, bar) = watched_disk(log_bytes(database));
    let settled = pwal::internal::vfs::recover_on(&database.path, how, disk);
    bar.finish_and_clear();
    match settled {
        Ok(Ok(report)) => Ok(report),
        Ok(Err(error)) => Err(refused(database, &error)),
        Err(error) => Err(Failure::cannot(error.to_string())),
    }
}

/// The bytes of all segments and spill files.
fn log_bytes(database: &DatabaseFile) -> u64 {
    let Ok(directory) = Directory::open(&database.log_directory()) else { return 0 };
    let bytes = |name: &String| directory.look_at(name).map_or(0, |file| u64::try_from(file.st_size).unwrap_or(0));
    directory.list().map_or(0, |names| names.iter().map(bytes).sum())
}

fn refused(database: &DatabaseFile, error: &SettleError) -> Failure {
    let done: String = describe(&error.report).iter().map(|line| format!("{line}; then ")).collect();
    let failure = Failure::of_code(error.code, format!("{}: {done}{}", database.name(), error.text));
    if failure.is_in_use() {
        return failure.hint(owner::sentence(database));
    }
    failure
}

/// Says what was done.
pub fn print(report: &Report) {
    let lines = describe(report);
    if lines.is_empty() {
        say!("nothing to recover");
    }
    for line in lines {
        say!("{line}");
    }
}

/// What was done, a line each.
pub fn describe(report: &Report) -> Vec<String> {
    let mut lines = Vec::new();
    if report.stock_recovered {
        lines.push("stock SQLite played back its own journal or -wal file".to_owned());
    }
    if let Some(Salvaged { plan, pages, moved_to }) = &report.salvaged {
        lines.extend(describe_plan(plan, "were"));
        lines.push(format!("{} written; the log directory is now -pwal.{moved_to}", text::counted(*pages, "page")));
        if *pages > 0 {
            lines.push(format!(
                "what they overwrote is in -pwal.{moved_to}/{UNDO_NAME}: a rollback journal of SQLite, which takes the file back to what it was if it is laid beside it as <database>-journal"
            ));
        }
    }
    if let Some(discarded) = &report.discarded {
        lines.extend(describe_given_up(discarded, "were"));
        lines.push(match &discarded.moved_to {
            Some(moved_to) => format!("the log directory is now -pwal.{moved_to}"),
            None => "there was no log; the database file is taken as it is".to_owned(),
        });
    }
    for done in &report.done {
        match done {
            recovery::Done::DeletedLeftovers { log_ids } => {
                let logs = text::counted(log_ids.len() as u64, "log");
                lines.push(format!("deleted what was left of {logs} that held nothing the database file needs"));
            }
            recovery::Done::SetAside { log_id, suffix } => lines.push(format!(
                "no commit of log {log_id:016x} is whole: the first was written and is damaged; its directory is now -pwal.{suffix}"
            )),
            recovery::Done::Orphaned { log_id, suffix } => lines.push(format!(
                "log {log_id:016x} belongs to another database file; its directory is now -pwal.{suffix}"
            )),
            recovery::Done::Recovered(recovered) => lines.extend(describe_recovered(recovered)),
        }
    }
    lines
}

fn describe_recovered(recovered: &Recovered) -> Vec<String> {
    let Recovered { log_id, backfilled, last, pages, restored_header, torn_tail, unreadable } = recovered;
    let mut lines = Vec::new();
    lines.push(if last > backfilled {
        format!(
            "recovered log {log_id:016x}: commits {} to {last} replayed, {} written",
            backfilled + 1,
            text::counted(*pages, "page")
        )
    } else {
        format!("recovered log {log_id:016x}: all {last} commits were in the database file already")
    });
    if *restored_header {
        lines.push("the first sector of the database file was lost, and came back from its copy in the log".to_owned());
    }
    if let Some(tail) = torn_tail {
        lines.push(format!(
            "truncated a torn tail: commit {} was begun and is not whole, byte {} of {}: {}",
            last + 1,
            tail.offset,
            tail.file.display(),
            tail.reason
        ));
    }
    lines.extend(unreadable.iter().map(|unread| format!("cannot be read, and was not needed: {unread}")));
    lines
}
