//! `pwal verify`: whether a log is valid.

use crate::failure::{Done, Failure};
use crate::survey::{Seen, describe_refusal};
use crate::text;
use crate::text::say;
use pwal::internal::log::decide::Action;
use pwal::internal::log::scan::Finding;
use pwal::internal::log::stamp::StampState;
use std::path::PathBuf;

/// Check that the log of a database is valid; the exit status says it
///
/// Names the first rule that does not hold. Creates and locks nothing. The pages of the database file are not
/// looked at: that is PRAGMA integrity_check.
#[derive(clap::Args)]
pub struct Arguments {
    /// The database file
    database: PathBuf,
}

pub fn run(arguments: &Arguments) -> Done {
    let seen = Seen::look(&arguments.database)?;
    let name = seen.database.name();
    if let Some(wrong) = first_wrong(&seen) {
        return Err(if seen.owned {
            Failure::in_use(format!("{name}: {wrong}"))
                .hint("the log is written meanwhile, which can look like this: verify again when it is closed")
        } else {
            Failure::no(format!("{name}: {wrong}"))
        });
    }
    if seen.survey.logs.is_empty() {
        say!("{name}: no log; {}", seen.database.describe());
    }
    for log in &seen.survey.logs {
        let tail = if log.torn_tail.is_some() { "; a torn tail after them, which recovery truncates" } else { "" };
        let commits = text::counted(log.last - log.backfilled, "commit");
        let certificates = text::counted(log.certificates.len() as u64, "certificate");
        say!("{name}: log {:016x} is valid: {commits} after {}, {certificates}{tail}", log.log_id, log.backfilled);
    }
    Ok(())
}

/// The first thing that does not hold.
fn first_wrong(seen: &Seen) -> Option<String> {
    if let Some(finding) = seen.survey.logs.iter().flat_map(|log| &log.findings).next() {
        let Finding { rule, file, offset, what } = finding;
        return Some(format!("rule {rule}, {file}, byte {offset}: {what}"));
    }
    if let Some(unread) = seen.survey.logs.iter().flat_map(|log| &log.unreadable).next() {
        let refused = match seen.survey.action {
            Action::Refuse(refusal) => format!("; {}", describe_refusal(refusal)),
            _ => "; nothing that the next open needs".to_owned(),
        };
        return Some(format!("cannot be read: {unread}{refused}"));
    }
    if let Action::Refuse(refusal) = seen.survey.action {
        return Some(describe_refusal(refusal));
    }
    // Stock plays these back before it looks at the version bytes, and takes the stamp with it.
    let stamped = !matches!(seen.survey.header, StampState::Plain { .. });
    let of_stock = seen.database.leftovers().into_iter().find(|path| {
        let name = path.as_os_str().to_string_lossy();
        (name.ends_with("-wal") || name.ends_with("-journal"))
            && path.metadata().is_ok_and(|file| file.is_file() && file.len() > 0)
    });
    of_stock.filter(|_| stamped).map(|path| format!("{} of stock SQLite lies beside the log", path.display()))
}
