//! A survey of a log as plain values, for the tools: what lies in which segment, which commits and epochs there are,
//! and which rules are violated.
//!
//! Only reads: creates, locks and syncs nothing. In a log that is written meanwhile the newest records may look torn.

mod text;

pub use text::dump_segment;

use super::decide::Action;
use super::error::LogError;
use super::files::Unreadable;
use super::format::{Certificate, FileName, LogId, SegmentHeader};
use super::found::Contradiction;
use super::found::{FoundLog, Probed, TornTail};
use super::recovery::{Inspection, OpenFacts, list};
use super::stamp::StampState;
use super::walk::Walk;
use crate::disk::{LogDirectory, OpenMode};
use std::collections::BTreeMap;

/// Everything beside one database file.
#[derive(Clone, Debug)]
pub struct Survey {
    /// What the database header says.
    pub header: StampState,
    /// The logs, by their ids.
    pub logs: Vec<LogSurvey>,
    /// Files in the directory that are none of ours.
    pub foreign: Vec<String>,
    /// What the next open that may write would do, apart from stock SQLite's own files.
    pub action: Action,
}

/// One log.
#[derive(Clone, Debug)]
pub struct LogSurvey {
    /// The log.
    pub log_id: LogId,
    /// Its segments, by their names.
    pub segments: Vec<SegmentSurvey>,
    /// Its spill files and their sizes in bytes.
    pub spills: Vec<(String, u64)>,
    /// n of each marker.
    pub markers: Vec<u64>,
    /// B: commits up to here are in the database file.
    pub backfilled: u64,
    /// D: commits up to here were durable when the newest certificate was written.
    pub durable: u64,
    /// n: commits up to here are valid.
    pub last: u64,
    /// The commits from B + 1 to n, in order.
    pub commits: Vec<CommitSurvey>,
    /// Every certificate, by its epoch.
    pub certificates: Vec<CertificateSurvey>,
    /// A commit after n that was begun.
    pub torn_tail: Option<TornTail>,
    /// What the medium does not give.
    pub unreadable: Vec<Unreadable>,
    /// What does not hold, the worst first.
    pub findings: Vec<Finding>,
}

/// One segment file.
#[derive(Clone, Debug)]
pub struct SegmentSurvey {
    /// Its name.
    pub name: String,
    /// Its size in bytes.
    pub bytes: u64,
    /// Its header; `None` if it is free.
    pub header: Option<SegmentHeader>,
    /// Batches in it whose heads are valid, also those that are backfilled.
    pub batches: u64,
}

/// One commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommitSurvey {
    /// The commit sequence.
    pub sequence: u64,
    /// The segment file.
    pub segment: String,
    /// The offset in bytes.
    pub offset: u64,
    /// The size with its images in bytes; images in a spill file not counted.
    pub bytes: u64,
    /// Its frames.
    pub frames: u32,
    /// The size of the database after it, in pages.
    pub database_pages: u32,
    /// The lane that it was staged in.
    pub lane: u16,
    /// It wanted durability.
    pub wants_durable: bool,
    /// When it was committed, in microseconds since 1970 began; 0: unknown.
    pub time_us: u64,
    /// The chain value after it.
    pub chain: u64,
}

/// One certificate, and where it lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateSurvey {
    /// The segment file.
    pub segment: String,
    /// The offset of its block in bytes.
    pub offset: u64,
    /// It lies in the header of a batch.
    pub in_batch: bool,
    /// What it says.
    pub certificate: Certificate,
}

/// Something that does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The rule, by its number in the specification.
    pub rule: &'static str,
    /// The file, or the log directory.
    pub file: String,
    /// The offset in bytes.
    pub offset: u64,
    /// What is wrong.
    pub what: String,
}

/// Surveys the log directory of a database file that begins with `header` (100 bytes, or the whole file).
///
/// # Errors
/// Any error of the medium; records of a newer pwal.
pub fn survey(dir: &dyn LogDirectory, header: &[u8]) -> Result<Survey, LogError> {
    let names = list(dir)?;
    let mut seen: BTreeMap<LogId, Seen> = BTreeMap::new();
    let look = Inspection::at(
        dir,
        header.into(),
        None,
        OpenFacts::default(),
        &names,
        OpenMode::ReadOnly,
        &mut |log_id, probed| {
            seen.entry(log_id).or_default().note(&probed);
        },
    )?;
    let target = match look.situation.header {
        StampState::Stamped(stamp) => Some((stamp.log_id, stamp.backfill_target)),
        _ => None,
    };
    let mut logs = Vec::new();
    for found in &look.logs {
        let target = target.and_then(|(log_id, target)| (log_id == found.log.log_id).then_some(target));
        let seen = seen.remove(&found.log.log_id).unwrap_or_default();
        logs.push(survey_log(&found.log, &found.walk, seen, target)?);
    }
    let is_foreign = |name: &&String| FileName::parse(name).is_none();
    Ok(Survey {
        header: look.situation.header,
        logs,
        foreign: names.iter().filter(is_foreign).cloned().collect(),
        action: super::decide::decide(&look.situation),
    })
}

/// What a look at a log meets.
#[derive(Default)]
struct Seen {
    /// Segment, offset, whether it lies in a batch.
    certificates: Vec<(usize, u64, bool, Certificate)>,
    /// The batches with a valid head in each segment.
    batches: BTreeMap<usize, u64>,
}

impl Seen {
    fn note(&mut self, probed: &Probed<'_>) {
        match *probed {
            Probed::Certificate { segment, offset, certificate, in_batch } => {
                self.certificates.push((segment, offset, in_batch, certificate.clone()));
            }
            Probed::Batch { segment } => *self.batches.entry(segment).or_default() += 1,
        }
    }
}

fn file_name(log: &FoundLog<'_>, segment: usize) -> String {
    let path = &log.segments[segment].open.path;
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

fn survey_log(log: &FoundLog<'_>, walk: &Walk, seen: Seen, target: Option<u64>) -> Result<LogSurvey, LogError> {
    let mut segments = Vec::new();
    for (index, segment) in log.segments.iter().enumerate() {
        let header = segment.reader.as_ref().map(|reader| reader.header.clone());
        let batches = seen.batches.get(&index).copied().unwrap_or(0);
        segments.push(SegmentSurvey { name: file_name(log, index), bytes: segment.bytes, header, batches });
    }
    let certificates = seen.certificates.into_iter();
    let mut certificates: Vec<CertificateSurvey> = certificates
        .map(|(segment, offset, in_batch, certificate)| CertificateSurvey {
            segment: file_name(log, segment),
            offset,
            in_batch,
            certificate,
        })
        .collect();
    certificates.sort_by_key(|survey| (survey.certificate.epoch, survey.segment.clone(), survey.offset));
    let mut spills = Vec::new();
    for open in log.spills.values() {
        let name = open.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        spills.push((name, open.bytes()?));
    }
    let mut survey = LogSurvey {
        log_id: log.log_id,
        segments,
        spills,
        markers: log.markers.iter().copied().collect(),
        backfilled: log.backfilled,
        durable: log.durable,
        last: walk.last(),
        commits: commits_of(log, walk)?,
        certificates,
        torn_tail: walk.torn.clone(),
        unreadable: log.unreadable().cloned().collect(),
        findings: Vec::new(),
    };
    survey.findings = findings_of(log, walk, &survey, target);
    Ok(survey)
}

fn commits_of(log: &FoundLog<'_>, walk: &Walk) -> Result<Vec<CommitSurvey>, LogError> {
    let mut commits = Vec::new();
    for &(segment, offset) in &walk.batches {
        let Some(reader) = log.reader(segment, walk.through) else { continue };
        let batch = reader.head_at(offset)?;
        commits.push(CommitSurvey {
            sequence: batch.header.sequence,
            segment: file_name(log, segment),
            offset,
            bytes: batch.header.bytes,
            frames: batch.header.frames,
            database_pages: batch.header.database_pages,
            lane: batch.header.lane,
            wants_durable: batch.header.wants_durable,
            time_us: batch.header.time_us,
            chain: batch.chain_after,
        });
    }
    Ok(commits)
}

/// What recovery would refuse.
fn findings_of(log: &FoundLog<'_>, walk: &Walk, survey: &LogSurvey, target: Option<u64>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut add = |rule, file: &str, offset, what| {
        findings.push(Finding { rule, file: file.to_owned(), offset, what });
    };
    let directory =
        log.segments.first().map_or_else(|| ".".to_owned(), |segment| segment.open.path.display().to_string());
    let (b, d, n) = (survey.backfilled, survey.durable, survey.last);
    let (torn_file, torn_offset, torn_reason) = match &survey.torn_tail {
        Some(torn) => (torn.file.display().to_string(), torn.offset, format!("; {}", torn.reason)),
        None => (directory.clone(), 0, String::new()),
    };
    if target.is_some_and(|target| target < b) {
        add("L1", &directory, 0, format!("T is {} in the database file, B is {b} in the log", target.unwrap_or(0)));
    }
    if target.is_some_and(|target| target > n) {
        let target = target.unwrap_or(0);
        add("L2", &torn_file, torn_offset, format!("T is {target}, the batches end at commit {n}{torn_reason}"));
    }
    // A file that needs nothing of a finished log: its segments may be deleted in any order.
    let is_deleted = target.is_none() && !survey.markers.is_empty();
    if d > n && !is_deleted {
        add("L3", &torn_file, torn_offset, format!("D is {d}, the batches end at commit {n}{torn_reason}"));
    }
    for marker in survey.markers.iter().filter(|marker| **marker != n && !is_deleted) {
        add("L4", &directory, 0, format!("a marker says that the log ends at commit {marker}, the batches end at {n}"));
    }
    for Contradiction { rule, file, offset, what } in walk.contradiction.iter().cloned().chain(log.gaps()) {
        add(rule, &file.display().to_string(), offset, what);
    }
    findings
}

/// Whether everything that a log says of itself holds: no finding, and the next open goes through.
#[must_use]
pub fn is_sound(survey: &Survey) -> bool {
    let holds = |log: &LogSurvey| log.findings.is_empty() && log.unreadable.is_empty();
    !matches!(survey.action, Action::Refuse(_)) && survey.logs.iter().all(holds)
}
