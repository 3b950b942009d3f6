//! `pwal inspect`: what lies in a log, for people and (`--json`) for programs.

use crate::failure::{Done, Failure};
use crate::survey::{Seen, describe};
use crate::text::say;
use crate::text::{self, Table};
use pwal::internal::log::scan::{CertificateSurvey, CommitSurvey, Finding, LogSurvey, SegmentSurvey};
use rusqlite::Connection;
use serde_json::{Value, json};
use std::path::PathBuf;

/// Show the segments, epochs and commits of a database's log
///
/// Creates and locks nothing, also while the database is written.
#[derive(clap::Args)]
pub struct Arguments {
    /// The database file
    database: PathBuf,
    /// Print everything as JSON
    #[arg(long)]
    json: bool,
    /// How many of the newest epochs and commits to show
    #[arg(long, default_value_t = 20, conflicts_with = "json")]
    last: usize,
}

pub fn run(arguments: &Arguments) -> Done {
    let seen = Seen::look(&arguments.database)?;
    if arguments.json {
        say!("{:#}", as_json(&seen));
        return Ok(());
    }
    say!("database   {}", seen.database.name());
    say!("header     {}", seen.database.describe());
    if seen.owned {
        say!("in use     what is written meanwhile may look torn");
    } else {
        say!("next open  {}", describe(seen.survey.action));
    }
    for log in &seen.survey.logs {
        show(log, arguments.last)?;
    }
    for name in &seen.survey.foreign {
        say!("\nnot a file of pwal: {}", seen.database.log_directory().join(name).display());
    }
    Ok(())
}

fn show(log: &LogSurvey, last: usize) -> Done {
    say!("\nlog {:016x}", log.log_id);
    say!("  commits to {} are valid (n)", log.last);
    say!("  durable to {} when the newest certificate was written (D)", log.durable);
    say!("  in the database file to {} (B)", log.backfilled);
    for marker in &log.markers {
        say!("  a marker says: all of it, to commit {marker}, is in the database file");
    }
    if let Some(tail) = &log.torn_tail {
        say!(
            "  a torn tail: commit {} is not whole, byte {} of {}: {}",
            log.last + 1,
            tail.offset,
            tail.file.display(),
            tail.reason
        );
    }
    for unread in &log.unreadable {
        say!("  cannot be read: {unread}");
    }
    for Finding { rule, file, offset, what } in &log.findings {
        say!("  broken: rule {rule}, {file}, byte {offset}: {what}");
    }
    text::print(&format!("\n{}", segments(log).render("  ")));
    text::print(&shown("epoch", &epochs(&log.certificates, last), log.certificates.len(), last));
    text::print(&shown("commit", &commits(log, last)?, log.commits.len(), last));
    Ok(())
}

/// The table, and whether it is all.
fn shown(what: &str, table: &Table, all: usize, last: usize) -> String {
    if table.is_empty() {
        return String::new();
    }
    let before = all.saturating_sub(last) as u64;
    let more =
        if before > 0 { format!("  ({} before these: --last)\n", text::counted(before, what)) } else { String::new() };
    format!("\n{more}{}", table.render("  "))
}

fn newest<T>(all: &[T], last: usize) -> &[T] {
    &all[all.len().saturating_sub(last)..]
}

fn segments(log: &LogSurvey) -> Table {
    let mut table = Table::new(&["segment", "size", "ordinal", "first commit", "batches"]);
    for SegmentSurvey { name, bytes, header, batches } in &log.segments {
        let (segment, first) = match header {
            Some(header) => (header.ordinal.to_string(), header.first_sequence.to_string()),
            None => ("free".to_owned(), String::new()),
        };
        table.row(vec![name.clone(), text::bytes(*bytes), segment, first, batches.to_string()]);
    }
    for (name, bytes) in &log.spills {
        table.row(vec![name.clone(), text::bytes(*bytes)]);
    }
    table
}

fn epochs(certificates: &[CertificateSurvey], last: usize) -> Table {
    let mut table =
        Table::new(&["epoch", "commits", "durable", "backfilled", "frames", "pages", "in batch", "segment", "at"]);
    for CertificateSurvey { segment, offset, in_batch, certificate } in newest(certificates, last) {
        table.row(vec![
            certificate.epoch.to_string(),
            if certificate.is_mark() { "a mark".to_owned() } else { format!("{}..{}", certificate.lo, certificate.hi) },
            certificate.durable.to_string(),
            certificate.backfilled.to_string(),
            certificate.frames.to_string(),
            certificate.distinct_pages.to_string(),
            if *in_batch { "yes" } else { "no" }.to_owned(),
            short(segment).to_owned(),
            offset.to_string(),
        ]);
    }
    table
}

fn commits(log: &LogSurvey, last: usize) -> Result<Table, Failure> {
    let clock = Connection::open_in_memory().map_err(|error| Failure::cannot(format!("no SQLite: {error}")))?;
    let head = [
        "commit",
        "time (UTC)",
        "epoch",
        "frames",
        "size",
        "database pages",
        "lane",
        "wants durability",
        "segment",
        "at",
    ];
    let mut table = Table::new(&head);
    for commit in newest(&log.commits, last) {
        let CommitSurvey {
            sequence, segment, offset, bytes, frames, database_pages, lane, wants_durable, time_us, ..
        } = commit;
        table.row(vec![
            sequence.to_string(),
            utc(&clock, *time_us),
            epoch_of(log, *sequence).map_or(String::new(), |epoch| epoch.to_string()),
            frames.to_string(),
            text::bytes(*bytes),
            database_pages.to_string(),
            lane.to_string(),
            if *wants_durable { "yes" } else { "no" }.to_owned(),
            short(segment).to_owned(),
            offset.to_string(),
        ]);
    }
    Ok(table)
}

/// Microseconds since 1970 began, as SQLite writes a time. A clock that was not set is 0.
fn utc(clock: &Connection, time_us: u64) -> String {
    if time_us == 0 {
        return "unknown".to_owned();
    }
    let sql = "SELECT strftime('%Y-%m-%d %H:%M:%S', ?1, 'unixepoch')";
    let text = clock.query_row(sql, [time_us / 1_000_000], |row| row.get::<_, Option<String>>(0));
    match text {
        Ok(Some(text)) => format!("{text}.{:06}", time_us % 1_000_000),
        // Beyond the year 9999.
        _ => format!("{time_us} us"),
    }
}

/// The epoch that seals a commit; `None`: no certificate covers it (yet).
fn epoch_of(log: &LogSurvey, sequence: u64) -> Option<u64> {
    let covers = |survey: &&CertificateSurvey| {
        survey.certificate.lo <= sequence && sequence <= survey.certificate.hi && !survey.certificate.is_mark()
    };
    log.certificates.iter().find(covers).map(|survey| survey.certificate.epoch)
}

/// A segment's name without the log id, which stands above.
fn short(segment: &str) -> &str {
    segment.split_once('-').map_or(segment, |(_, number)| number)
}

fn as_json(seen: &Seen) -> Value {
    json!({
        "database": seen.database.name().to_string(),
        "header": seen.database.describe(),
        "in_use": seen.owned,
        "next_open": describe(seen.survey.action),
        "logs": seen.survey.logs.iter().map(log_json).collect::<Vec<_>>(),
        "foreign_files": seen.survey.foreign,
    })
}

fn log_json(log: &LogSurvey) -> Value {
    json!({
        "log_id": hex(log.log_id),
        "last": log.last,
        "durable": log.durable,
        "backfilled": log.backfilled,
        "markers": log.markers,
        "torn_tail": log.torn_tail.as_ref().map(|tail| json!({
            "file": tail.file.display().to_string(),
            "offset": tail.offset,
            "reason": tail.reason,
        })),
        "unreadable": log.unreadable.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "findings": log.findings.iter().map(|finding| json!({
            "rule": finding.rule,
            "file": finding.file,
            "offset": finding.offset,
            "what": finding.what,
        })).collect::<Vec<_>>(),
        "slots": log.segments.iter().map(|segment| json!({
            "name": segment.name,
            "bytes": segment.bytes,
            "segment": segment.header.as_ref().map(|header| header.ordinal),
            "first_commit": segment.header.as_ref().map(|header| header.first_sequence),
            "batches": segment.batches,
        })).collect::<Vec<_>>(),
        "spills": log.spills.iter().map(|(name, bytes)| json!({ "name": name, "bytes": bytes })).collect::<Vec<_>>(),
        "epochs": log.certificates.iter().map(epoch_json).collect::<Vec<_>>(),
        "commits": log.commits.iter().map(|commit| json!({
            "commit": commit.sequence,
            "epoch": epoch_of(log, commit.sequence),
            "slot": commit.segment,
            "offset": commit.offset,
            "bytes": commit.bytes,
            "frames": commit.frames,
            "database_pages": commit.database_pages,
            "lane": commit.lane,
            "wants_durable": commit.wants_durable,
            "time_us": commit.time_us,
            "chain": hex(commit.chain),
        })).collect::<Vec<_>>(),
    })
}

fn epoch_json(survey: &CertificateSurvey) -> Value {
    let CertificateSurvey { segment, offset, in_batch, certificate } = survey;
    json!({
        "epoch": certificate.epoch,
        "lo": certificate.lo,
        "hi": certificate.hi,
        "mark": certificate.is_mark(),
        "durable": certificate.durable,
        "backfilled": certificate.backfilled,
        "batches": certificate.batches,
        "frames": certificate.frames,
        "distinct_pages": certificate.distinct_pages,
        "database_pages": certificate.database_pages,
        "lane_frames": certificate.lane_frames,
        "fallback": certificate.fallback,
        "clean_end": certificate.clean_end,
        "chain": hex(certificate.chain),
        "slot": segment,
        "offset": offset,
        "in_batch": in_batch,
    })
}

/// 64 bits are too much for the numbers of JSON.
fn hex(number: u64) -> String {
    format!("{number:016x}")
}
