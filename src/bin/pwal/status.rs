//! `pwal status`: who has a database open, and how far its log is; disturbs nobody.

use crate::database::DatabaseFile;
use crate::failure::{Done, Failure};
use crate::text::say;
use crate::{owner, text};
use pwal::log::stamp::StampState;
use pwal::shared::{CONTROL_NAME, Control, State, now_us};
use std::path::PathBuf;
use std::time::Duration;

/// Show who has a database open, and the marks of its log
#[derive(clap::Args)]
pub struct Arguments {
    /// The database file
    database: PathBuf,
}

pub fn run(arguments: &Arguments) -> Done {
    let database = DatabaseFile::look(&arguments.database)?;
    let pages = database.page_bytes().map_or(String::new(), |page_bytes| {
        let pages = database.bytes / u64::from(page_bytes);
        format!(", {} of {page_bytes} bytes", text::counted(pages, "page"))
    });
    line("database", &format!("{} ({}{pages})", database.name(), text::bytes(database.bytes)));
    line("header", &database.describe());
    let directory = database.log_directory();
    let owned = owner::is_owned(&database).map_err(|error| Failure::io("look at the lock in", &directory, &error))?;
    line("state", state(&database, owned));
    for process in owner::processes_with_open(&database.path) {
        line("open in", &process.to_string());
    }
    let log = log(&database);
    if !log.is_empty() {
        line("log", &log);
    }
    if owned {
        marks(&database);
    }
    for path in database.leftovers().iter().filter(|path| **path != directory) {
        line("beside it", &path.display().to_string());
    }
    Ok(())
}

fn line(what: &str, value: &str) {
    say!("{what:<10} {value}");
}

fn state(database: &DatabaseFile, owned: bool) -> &'static str {
    match (owned, database.stamp()) {
        (true, _) => "open through pwal",
        (false, StampState::Plain { wal: true }) => "not open through pwal; pwal takes it with the next open",
        (false, StampState::Plain { wal: false }) => "not open through pwal, not in WAL mode",
        (false, _) => "closed by a crash: the next open through pwal recovers it, or `pwal recover`",
    }
}

/// The files of the log, by their names.
fn log(database: &DatabaseFile) -> String {
    let directory = database.log_directory();
    let Ok(entries) = std::fs::read_dir(&directory) else { return String::new() };
    let (mut slots, mut spills, mut bytes) = (0, 0, 0);
    for entry in entries.flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let counter = match () {
            () if name.ends_with(".seg") => &mut slots,
            () if name.ends_with(".spill") => &mut spills,
            () => continue,
        };
        *counter += 1;
        bytes += entry.metadata().map_or(0, |file| file.len());
    }
    let spills = if spills > 0 { format!(", {}", text::counted(spills, "spill file")) } else { String::new() };
    format!("{}{spills}, {} in {}", text::counted(slots, "slot"), text::bytes(bytes), directory.display())
}

/// What the shared words say: they are a file from the first commit on.
fn marks(database: &DatabaseFile) {
    let Ok(control) = Control::open_read_only(&database.log_directory().join(CONTROL_NAME)) else {
        return line("marks", "nothing committed yet");
    };
    let words = control.words();
    if words.state() != State::Ready {
        return;
    }
    // The lower ones first: they only grow.
    let (backfilled, durable) = (words.backfilled(), words.durable());
    let (visible, published) = (words.visible(), words.published());
    line(
        "marks",
        &format!("published {published}, visible {visible}, durable {durable}, in the database file {backfilled}"),
    );
    line("mode", if words.mode() == 1 { "conservative" } else { "auto" });
    if let Some(oldest) = words.snapshots().min_by_key(|snapshot| snapshot.sequence) {
        let age = Duration::from_micros(now_us().saturating_sub(oldest.since_us));
        let transactions = text::counted(words.snapshots().count() as u64, "transaction");
        let (commit, age) = (oldest.sequence, text::duration(age));
        line("reading", &format!("{transactions}; the oldest sees commit {commit}, for {age}"));
    }
    if words.poisoned() != 0 {
        line("failed", "a write or a sync of the log failed: close all connections and open the database again");
    }
}
