//! `pwal recover`: replays the log that a crash left, and retires it.

use crate::database::DatabaseFile;
use crate::failure::{Done, Failure};
use crate::owner;
use crate::progress::WatchedDisk;
use crate::text;
use pwal::handle::settle::{How, Report, SettleError};
use pwal::log::recovery::{self, Recovered};
use std::path::PathBuf;
use std::time::Instant;

/// Recover a database after a crash: replay its log, retire it, leave one plain SQLite file
///
/// The next open through pwal does the same by itself; this says what was done. A log that does not prove itself is
/// refused, and nothing is touched.
#[derive(clap::Args)]
pub struct Arguments {
    /// The database file
    database: PathBuf,
}

pub fn run(arguments: &Arguments) -> Done {
    let database = DatabaseFile::look(&arguments.database)?;
    let report = recover(&database, How::Recover)?;
    print(&report);
    let after = DatabaseFile::look(&arguments.database)?;
    println!("{} is {}", after.name(), after.describe());
    Ok(())
}

/// Settles the database as an open through pwal would, with a progress bar.
pub fn recover(database: &DatabaseFile, how: How) -> Result<Report, Failure> {
    let (disk, bar) = WatchedDisk::new(log_bytes(database));
    let began = Instant::now();
    let settled = pwal::recover(&database.path, how, Some(disk));
    bar.finish_and_clear();
    match settled {
        Ok(report) => {
            if began.elapsed().as_secs() >= 1 {
                eprintln!("pwal: recovery took {}", text::duration(began.elapsed()));
            }
            Ok(report)
        }
        Err(pwal::RecoverError::Settle(error)) => Err(refused(database, &error)),
        Err(error) => Err(Failure::cannot(error.to_string())),
    }
}

/// The bytes of all slots and spill files.
pub fn log_bytes(database: &DatabaseFile) -> u64 {
    let Ok(entries) = std::fs::read_dir(database.log_directory()) else { return 0 };
    entries.filter_map(|entry| Some(entry.ok()?.metadata().ok()?.len())).sum()
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
        println!("nothing to recover");
    }
    for line in lines {
        println!("{line}");
    }
}

/// What was done, a line each.
pub fn describe(report: &Report) -> Vec<String> {
    let mut lines = Vec::new();
    if report.stock_settled {
        lines.push("stock SQLite played back its own journal or -wal file".to_owned());
    }
    for done in &report.done {
        match done {
            recovery::Done::DeletedLeftovers { log_ids } => {
                let logs = text::counted(log_ids.len() as u64, "log");
                lines.push(format!("deleted what was left of {logs} that held nothing the database file needs"));
            }
            recovery::Done::Orphaned { log_id, suffix } => lines.push(format!(
                "log {log_id:016x} belongs to another database file; its directory is now -pwal.{suffix}"
            )),
            recovery::Done::Recovered(recovered) => lines.extend(describe_recovered(recovered)),
        }
    }
    lines
}

fn describe_recovered(recovered: &Recovered) -> Vec<String> {
    let Recovered { log_id, backfilled, last, pages, torn_tail } = recovered;
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
    if let Some(tail) = torn_tail {
        lines.push(format!(
            "cut a torn tail: commit {} was begun and is not whole, byte {} of {}: {}",
            last + 1,
            tail.offset,
            tail.file.display(),
            tail.reason
        ));
    }
    lines
}
