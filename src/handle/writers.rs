//! Which transactions of a connection get the newest published state as their snapshot.
//!
//! A commit under FULL is published some time before it is visible (durable). A transaction that writes must have what
//! is published as its snapshot: with an older one `sqlite3BtreeBeginTrans` is BUSY, and a transaction that has read
//! already gets `SQLITE_BUSY_SNAPSHOT`, for which no busy handler is called. A transaction that only reads gets what is
//! visible: more is not durable, and a transaction that has seen more must wait for the flush at its end (R3).
//!
//! SQLite tells by the running statement: one that writes begins a transaction that writes. After one that only reads,
//! others may write in the same transaction; the statement's text predicts that ([`Upgrades`]): it gets the newest state if the last
//! transaction that began with the same text, and contended with others, wanted to write; and it takes its turn in the write
//! queue before.

use super::Running;
use super::upgrades::{Expected, Upgrades};
use crate::os::now_us;

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

/// What a transaction needs before its snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Needs {
    /// A snapshot of what is visible.
    Visible,
    /// One of what is published.
    Newest,
    /// That, and its turn in the write queue.
    Turn,
}

#[derive(Debug, Default)]
pub(super) struct Writers {
    pub(super) begun: Begun,
    /// When it began, in microseconds.
    begun_us: u64,
    /// How long after that it wanted WRITE first.
    wrote_after_us: Option<u64>,
    /// The last transaction of [`Begun::Unknown`] wrote, or wanted to.
    unknown_writes: bool,
}

impl Writers {
    /// A transaction begins with this statement.
    pub(super) fn begin(&mut self, running: Running, upgrades: &Upgrades) -> Needs {
        let (begun, needs) = match running {
            Running::Unknown if self.unknown_writes => (Begun::Unknown, Needs::Newest),
            Running::Unknown => (Begun::Unknown, Needs::Visible),
            Running::Writes => (Begun::Writes, Needs::Newest),
            Running::Reads { text } => {
                let needs = match upgrades.expected(text) {
                    Expected::Reads => Needs::Visible,
                    Expected::Writes => Needs::Newest,
                    Expected::WritesSoon => Needs::Turn,
                };
                (Begun::Reads(text), needs)
            }
        };
        self.begun = begun;
        self.wrote_after_us = None;
        needs
    }

    /// The snapshot is taken.
    pub(super) fn began(&mut self) {
        if matches!(self.begun, Begun::Reads(_)) {
            self.begun_us = now_us();
        }
    }

    /// The transaction asks for WRITE.
    pub(super) fn wants_write(&mut self) {
        if matches!(self.begun, Begun::Reads(_)) && self.wrote_after_us.is_none() {
            self.wrote_after_us = Some(now_us().saturating_sub(self.begun_us));
        }
    }

    /// The transaction is over; `wrote`: it wrote, or was refused WRITE.
    pub(super) fn end(&mut self, wrote: bool, upgrades: &Upgrades) {
        match self.begun {
            Begun::Unasked | Begun::Writes => {}
            Begun::Unknown => self.unknown_writes = wrote,
            Begun::Reads(text) => upgrades.ended(text, self.wrote_after_us.filter(|_| wrote)),
        }
    }
}
