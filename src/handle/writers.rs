//! Which transactions of a connection get the newest published state as their snapshot.
//!
//! A commit under FULL is published some time before it is visible (durable). A transaction that writes must have what
//! is published as its snapshot: with an older one `sqlite3BtreeBeginTrans` is BUSY, and a transaction that has read
//! already gets `SQLITE_BUSY_SNAPSHOT`, for which no busy handler is called. A transaction that only reads gets what is
//! visible: more is not durable, and a transaction that has seen more must wait for the flush at its end (R3).
//!
//! SQLite tells by the running statement: one that writes begins a transaction that writes. After one that only reads,
//! others may write in the same transaction; the statement's text predicts that ([`Upgrades`]): it gets the newest state if the last
//! transactions that began with the same text, and contended with others, wanted to write; and it takes its turn in the write
//! queue before.

use super::base::Running;
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
    /// A transaction begins with this statement; `again`: the last one of its connection that wanted to write was refused.
    pub(super) fn begin(&mut self, running: Running, upgrades: &Upgrades, again: bool) -> Needs {
        let (begun, needs) = match running {
            Running::Unknown if self.unknown_writes => (Begun::Unknown, Needs::Newest),
            Running::Unknown => (Begun::Unknown, Needs::Visible),
            Running::Writes => (Begun::Writes, Needs::Newest),
            Running::Reads { text } => {
                let needs = match upgrades.expected(text, again) {
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

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: u64 = 0x1234_5678_9abc_0001;

    /// One transaction that begins with the text, and writes or only reads: what it needed.
    fn one(writers: &mut Writers, upgrades: &Upgrades, wrote: bool, again: bool) -> Needs {
        let needs = writers.begin(Running::Reads { text: TEXT }, upgrades, again);
        writers.began();
        if wrote {
            writers.wants_write();
        }
        writers.end(wrote, upgrades);
        needs
    }

    /// Nor do they see what is not durable, for which they would wait at their end.
    #[test]
    fn readers_seldom_wait_where_others_write_after_the_same_statement() {
        for (writes_of_ten, held_up_max) in [(1, 1), (5, 1), (7, 1), (9, 20)] {
            let (mut writers, upgrades) = (Writers::default(), Upgrades::default());
            let mut held_up = 0;
            for nth in 0..200 {
                let wrote = nth % 10 < writes_of_ten;
                let needs = one(&mut writers, &upgrades, wrote, false);
                held_up += u32::from(!wrote && needs != Needs::Visible);
            }
            assert!(held_up <= held_up_max, "{writes_of_ten} of ten write: {held_up} readers of 200 are held up");
        }
    }

    #[test]
    fn one_that_is_tried_again_takes_its_turn() {
        let (mut writers, upgrades) = (Writers::default(), Upgrades::default());
        for wrote in [true, false, true] {
            one(&mut writers, &upgrades, wrote, false);
        }
        assert_eq!(one(&mut writers, &upgrades, true, false), Needs::Visible);
        assert_eq!(one(&mut writers, &upgrades, true, true), Needs::Turn);
        // Those that only write from now on all take their turn again.
        let visible = (0..20).filter(|_| one(&mut writers, &upgrades, true, false) == Needs::Visible).count();
        assert!(visible < 8, "{visible}");
    }
}
