//! The state of an engine at a glance.

use super::Engine;
use serde_json::{Value, json};
use std::sync::atomic::Ordering::SeqCst;

impl Engine {
    /// For `parallel_wal_status` and `pwal_status()`. Takes no lock that a commit holds while it waits for the disk,
    /// but in conservative mode.
    pub(crate) fn status(&self) -> Value {
        let (slots, slot_bytes) = self.append.try_lock().map_or((Value::Null, Value::Null), |append| {
            let slots = append.slots.as_ref();
            (json!(slots.map_or(0, |slots| slots.count())), json!(slots.map_or(0, |slots| slots.total_bytes())))
        });
        json!({
            "path": self.path.display().to_string(),
            "log_id": if self.is_active() { json!(format!("{:016x}", self.log_id)) } else { Value::Null },
            "page_bytes": self.page_bytes,
            "connections": self.joined(),
            "waiting_writers": self.queue.waiting(),
            "published": self.marks.published(),
            "visible": self.marks.visible(),
            "durable": self.marks.durable(),
            "backfilled": self.marks.backfilled(),
            "oldest_snapshot": self.marks.oldest_snapshot(),
            "commits": self.counters.commits.load(SeqCst),
            "flushes": self.counters.flushes.load(SeqCst),
            "checkpoints": self.counters.checkpoints.load(SeqCst),
            "spills": self.counters.spills.load(SeqCst),
            "sync_us": self.marks.words().sync_nanos() / 1000,
            "slots": slots,
            "slot_bytes": slot_bytes,
            "lost_commits": self.lost.load(SeqCst),
            "poisoned": self.check_poison().err().map(|error| error.to_string()),
        })
    }
}
