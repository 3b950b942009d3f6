//! Which transactions of a connection get the newest published state as their snapshot.
//!
//! A commit under FULL is published some time before it is visible (durable). A transaction that writes must have what
//! is published as its snapshot: with an older one `sqlite3BtreeBeginTrans` is BUSY, and a transaction that has read
//! already gets `SQLITE_BUSY_SNAPSHOT`, for which no busy handler is called. A transaction that only reads gets what is
//! visible: more is not durable, and a transaction that has seen more must wait for the flush at its end (R3).
//!
//! SQLite tells by the running statement: one that writes begins a transaction that writes. After one that only reads,
//! others may write in the same transaction; the statement's text predicts that: it gets the newest state if the last
//! transaction that began with the same text, and contended with others, wanted to write.

use super::Running;

/// What is known of the transaction that has the snapshot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Begun {
    /// No other connection's commit was waiting for its flush: all snapshots are the same.
    #[default]
    Unasked,
    /// By no statement, or by one that is not known.
    Unknown,
    /// By a statement that writes.
    Writes,
    /// By a statement with this text (a hash), which only reads.
    Reads(u64),
}

#[derive(Debug, Default)]
pub(super) struct Writers {
    pub(super) begun: Begun,
    /// The last transaction of [`Begun::Unknown`] wrote, or wanted to.
    unknown_writes: bool,
    /// The text of a statement that only reads, with which a transaction began that then wrote, or wanted to.
    reads_then_writes: Option<u64>,
}

impl Writers {
    /// A transaction begins with this statement; true: its snapshot shall be the newest.
    pub(super) fn begin(&mut self, running: Running) -> bool {
        let (begun, newest) = match running {
            Running::Unknown => (Begun::Unknown, self.unknown_writes),
            Running::Writes => (Begun::Writes, true),
            Running::Reads { text } => (Begun::Reads(text), self.reads_then_writes == Some(text)),
        };
        self.begun = begun;
        newest
    }

    /// The transaction is over; `wrote`: it wrote, or was refused WRITE.
    pub(super) fn end(&mut self, wrote: bool) {
        match self.begun {
            Begun::Unasked | Begun::Writes => {}
            Begun::Unknown => self.unknown_writes = wrote,
            Begun::Reads(text) if wrote => self.reads_then_writes = Some(text),
            Begun::Reads(text) if self.reads_then_writes == Some(text) => self.reads_then_writes = None,
            Begun::Reads(_) => {}
        }
    }
}
