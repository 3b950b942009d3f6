//! The state of an engine at a glance.

use super::parts::Engine;
use crate::os::now_us;
use crate::status::{LogStatus, ProcessStatus, ReaderStatus};
use std::sync::atomic::Ordering::SeqCst;

impl Engine {
    /// For `parallel_wal_status` and `pwal_status()`. Takes no lock that a commit holds while it waits for the disk,
    /// but in conservative mode.
    pub(crate) fn status(&self) -> LogStatus {
        let (segments, segment_bytes) = self.files.segment_sizes();
        let lost = if self.log.is_poisoned() { self.log.marks.published() - self.log.marks.durable() } else { 0 };
        LogStatus {
            log_id: self.log.is_active().then(|| format!("{:016x}", self.log.log_id)),
            page_bytes: self.log.page_bytes,
            connections: self.connections.count(),
            waiting_writers: self.queue.waiting(),
            published: self.log.marks.published(),
            visible: self.log.marks.visible(),
            durable: self.log.marks.durable(),
            backfilled: self.log.marks.backfilled(),
            oldest_snapshot: self.log.marks.oldest_snapshot(),
            oldest_reader: self.oldest_reader(),
            processes: self.processes(),
            commits: self.log.counters.commits.load(SeqCst),
            flushes: self.log.counters.flushes.load(SeqCst),
            checkpoints: self.log.counters.checkpoints.load(SeqCst),
            spills: self.log.counters.spills.load(SeqCst),
            sync_us: self.log.marks.control().sync_nanos() / 1000,
            segments,
            segment_bytes,
            lost_commits: lost,
            poisoned: self.log.check_poison().err().map(|error| error.to_string()),
        }
    }

    /// The process with the oldest snapshot, and the bytes of the log that it keeps (`None`: the log cannot be read).
    fn oldest_reader(&self) -> Option<ReaderStatus> {
        let snapshot = self.log.marks.oldest_reader()?;
        let process = self.log.marks.control().processes().find(|process| process.owner == snapshot.owner);
        let process = process.map(|process| (process.pid, process.command));
        Some(snapshot.status(process, now_us(), self.checkpointer.kept_by(snapshot.sequence).ok()))
    }

    /// The members, this process too.
    fn processes(&self) -> Vec<ProcessStatus> {
        let now_us = now_us();
        self.log.marks.process_infos().iter().map(|process| process.status(now_us)).collect()
    }
}
