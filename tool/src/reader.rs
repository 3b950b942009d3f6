//! The reader behind which checkpoints cannot go on, and how much of the log it keeps.

use crate::database::DatabaseFile;
use crate::text;
use pwal::ReaderStatus;
use pwal::internal::disk::{Access, Directory};
use pwal::internal::log::format::{FileName, SegmentHeader};
use pwal::internal::log::kept::bytes_kept;
use pwal::internal::shared::{ControlView, ProcessInfo, Snapshot};
use std::os::unix::fs::FileExt;
use std::time::Duration;

/// The process with the oldest snapshot.
pub struct OldestReader {
    pub snapshot: Snapshot,
    pub pid: u32,
    pub command: String,
    /// Of the log, in bytes; `None`: its files cannot be read.
    pub kept: Option<u64>,
}

impl OldestReader {
    /// `None`: none of those that live reads.
    pub fn of(database: &DatabaseFile, control: &ControlView, attached: &[ProcessInfo]) -> Option<OldestReader> {
        let reading = attached.iter().filter(|process| process.alive);
        let oldest = reading.filter_map(|process| Some((process.oldest_snapshot?, process)));
        let (snapshot, process) = oldest.min_by_key(|(snapshot, _)| snapshot.sequence)?;
        let kept = kept_by(database, control, snapshot.sequence);
        Some(OldestReader { snapshot, pid: process.pid, command: process.command.clone(), kept })
    }

    /// As in a sentence; empty: it keeps nothing that would not be there anyway.
    pub fn keeps(&self) -> String {
        match self.kept {
            Some(0) => String::new(),
            Some(bytes) => format!(", and keeps {} of the log", text::bytes(bytes)),
            None => ", and keeps the log after that".to_owned(),
        }
    }

    pub fn status(&self, now_us: u64) -> ReaderStatus {
        self.snapshot.status(Some((self.pid, self.command.clone())), now_us, self.kept)
    }

    pub fn since(&self, now_us: u64) -> Duration {
        Duration::from_micros(now_us.saturating_sub(self.snapshot.since_us))
    }
}

fn kept_by(database: &DatabaseFile, control: &ControlView, snapshot: u64) -> Option<u64> {
    let Some(tail) = control.tail().filter(|_| control.is_active()) else { return Some(0) };
    let log_id = control.identity().log_id;
    let directory = Directory::open(&database.log_directory()).ok()?;
    let mut segments = Vec::new();
    for name in directory.list().ok()? {
        let Some(FileName::Segment { log_id: of, .. }) = FileName::parse(&name) else { continue };
        // It may be deleted meanwhile.
        let Ok(file) = directory.open_file(&name, Access::Read) else { continue };
        let mut bytes = [0; 512];
        let read = file.read_at(&mut bytes, 0).ok()?;
        segments.extend(SegmentHeader::decode(&bytes[..read], log_id).ok().filter(|_| of == log_id));
    }
    Some(bytes_kept(&segments, snapshot, tail.ordinal))
}
