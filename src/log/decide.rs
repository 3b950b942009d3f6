//! What an opener does with what it finds: the decision table of the specification, as a table.
//!
//! Exactly one row fits each situation; `tests/log/recovery_table.rs` goes through all of them.

use super::format::LogId;
use super::stamp::StampState;

/// What is known of one log beside the database file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogFacts {
    /// The log.
    pub log_id: LogId,
    /// n of its marker; of several different ones one that is not `last`.
    pub marker: Option<u64>,
    /// It may hold commits that were durable: a certificate with D > 0, a block that cannot be read, or where commit 1 was begun
    /// a batch of which every sector was written, whether it is valid or not.
    pub has_commits: bool,
    /// The header of its first segment is valid, or of any segment where B > 0. That of the first one is durable before a stamp is
    /// written.
    pub has_header: bool,
    /// B of its certificates.
    pub backfilled: u64,
    /// D of its certificates.
    pub durable: u64,
    /// n: where the chain of batches from B + 1 on ends.
    pub last: u64,
    /// The pages of the log have the size that the database header states; true if the log does not say.
    pub page_size_fits: bool,
    /// The following is only determined where the header does not show whose file this is: the log has the beginning of
    /// page 1, by an image in the chain or by a copy.
    pub has_page_one: bool,
    /// A block that cannot be read may hold commit n + 1, or a certificate that speaks of it.
    pub is_unreadable: bool,
    /// A certificate does not fit its batches, or another certificate (rules E1 to E3).
    pub is_contradicted: bool,
    /// And the file begins otherwise, marks aside.
    pub has_lost_page_one: bool,
    /// The other pages of the file say that it is this log's.
    pub is_of_file: bool,
}

impl LogFacts {
    /// Nothing of it is needed: a marker says that all of it is in the database file, or it never held a commit.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.marker.is_some() || !self.has_commits
    }

    /// As [`LogFacts::is_finished`], beside half a stamp. Where that was being written, the header of the first segment was
    /// durable, or a marker is: a log with neither is damaged, and may have held commits.
    #[must_use]
    pub fn is_finished_beside_half(&self) -> bool {
        self.is_finished() && !self.has_lost_header()
    }

    /// Only damage takes the header of the first segment beside a stamp, whole or not.
    fn has_lost_header(&self) -> bool {
        !(self.has_header || self.marker.is_some() || crate::drops("l-no-header"))
    }

    /// The file is this log's though its header does not say so, and the log brings all of it back.
    fn brings_header_back(&self) -> bool {
        let is_whole = self.durable <= self.last && self.marker.is_none_or(|marker| marker == self.last);
        self.has_page_one && self.is_of_file && is_whole && !self.is_unreadable && !self.is_contradicted
    }
}

/// Everything that the decision rests on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Situation {
    /// The header of the database file.
    pub header: StampState,
    /// The logs in the directory, by their file names.
    pub logs: Vec<LogFacts>,
    /// A hot journal, or a real `-wal` that is not empty, lies beside the database file.
    pub has_stock_leftovers: bool,
    /// Nothing may be written.
    pub is_read_only: bool,
}

/// What is to be done. All but `Open` and the refusals end with a plain header and without the logs that they name,
/// and are followed by another look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Nothing: the file is as SQLite left it.
    Open,
    /// Stock SQLite has to settle its journal or its `-wal` first.
    RecoverStock,
    /// Page 1 plain again, synced; then delete every log.
    DeleteAll,
    /// Page 1 plain again, synced; then delete this log.
    DeleteOwn(LogId),
    /// Page 1 plain again, synced; this log, whose first commit was written and has rotted, is kept: move the directory
    /// away.
    SetAside(LogId),
    /// The logs are those of another database file: page 1, which is plain, synced; move the directory away, named by this one.
    Orphan(LogId),
    /// Replay this log to its n, and retire it.
    Recover(LogId),
    /// Touch nothing.
    Refuse(Refusal),
}

/// Why nothing is touched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// A log must be recovered or cleared away, and nothing may be written.
    ReadOnly,
    /// Stock's leftovers would take the stamp with them.
    StockLeftovers,
    /// The log of the stamp is not there.
    BareCopy(LogId),
    /// The pages of the log are of another size.
    PageSize(LogId),
    /// Rule L1 does not hold: T < B.
    OldCopy(LogId),
    /// Rule L2 or L3 does not hold: T > n, or D > n; or no segment header is left; or a certificate is contradicted.
    Damaged(LogId),
    /// What cannot be read may be a commit, or say that there was one.
    Unreadable(LogId),
    /// Rule L4 does not hold: a marker names another n.
    MarkerMismatch(LogId),
    /// The header is neither plain nor stamped, and nothing says that this is harmless.
    UnknownHeader,
    /// The stamp is one of format version 1.
    OlderStamp(LogId),
    /// The file does not begin as a database, and nothing proves that it is this log's.
    NoHeader(LogId),
}

/// One row of the table.
pub struct Row {
    /// Its name in the specification.
    pub name: &'static str,
    /// Whether it fits.
    pub fits: fn(&Situation) -> bool,
    /// What it does; only meaningful where it fits.
    pub action: fn(&Situation) -> Action,
}

impl Situation {
    fn is_plain(&self) -> bool {
        match self.header {
            StampState::Plain { .. } => true,
            // Reserved bytes that are not zero are none of ours where no log is.
            StampState::Leftover | StampState::NoHeader => self.logs.is_empty(),
            StampState::Stamped(_) | StampState::BadStamp { .. } | StampState::Older { .. } => false,
        }
    }

    fn is_older(&self) -> bool {
        matches!(self.header, StampState::Older { .. })
    }

    fn is_stamped(&self) -> bool {
        matches!(self.header, StampState::Stamped(_))
    }

    fn is_torn(&self) -> bool {
        matches!(self.header, StampState::BadStamp { .. })
    }

    fn is_lost(&self) -> bool {
        self.header == StampState::NoHeader && !self.logs.is_empty()
    }

    /// The only log that has anything to say of the file: beside it lies no other but what was deleted in part.
    pub(crate) fn teller(&self) -> Option<&LogFacts> {
        let mut tellers = self.logs.iter().filter(|log| log.has_header || !log.is_finished());
        tellers.next().filter(|_| tellers.next().is_none())
    }

    fn sole(&self, holds: impl Fn(&LogFacts) -> bool) -> bool {
        self.teller().is_some_and(holds)
    }

    /// Half a stamp, and only logs that nothing needs.
    fn is_half_and_finished(&self) -> bool {
        (self.is_torn() || self.is_leftover())
            && self.is_free()
            && !self.logs.is_empty()
            && self.is_all_finished_beside_half()
    }

    /// Half a stamp, which names no log that needs it, and one that does.
    fn is_half_beside_another(&self) -> bool {
        let is_half = self.is_leftover() || self.is_torn() && !self.has_own(|log| !log.is_finished_beside_half());
        is_half && self.is_free() && !self.is_all_finished_beside_half()
    }

    fn teller_id(&self) -> LogId {
        self.teller().or(self.logs.first()).map_or(0, |log| log.log_id)
    }

    fn is_leftover(&self) -> bool {
        self.header == StampState::Leftover && !self.logs.is_empty()
    }

    /// Nothing outside the table's main columns forbids to go on.
    fn is_free(&self) -> bool {
        !self.has_stock_leftovers && !self.is_read_only
    }

    fn is_all_finished(&self) -> bool {
        self.logs.iter().all(LogFacts::is_finished)
    }

    fn is_all_finished_beside_half(&self) -> bool {
        self.logs.iter().all(LogFacts::is_finished_beside_half)
    }

    fn id(&self) -> LogId {
        match self.header {
            StampState::Stamped(stamp) => stamp.log_id,
            StampState::BadStamp { log_id } | StampState::Older { log_id } => log_id,
            StampState::Plain { .. } | StampState::Leftover | StampState::NoHeader => 0,
        }
    }

    /// T, where the stamp is whole.
    fn target(&self) -> u64 {
        match self.header {
            StampState::Stamped(stamp) => stamp.backfill_target,
            _ => 0,
        }
    }

    fn own(&self) -> Option<&LogFacts> {
        self.logs.iter().find(|log| log.log_id == self.id())
    }

    fn has_own(&self, holds: impl Fn(&LogFacts) -> bool) -> bool {
        self.own().is_some_and(holds)
    }

    fn unfinished(&self) -> LogId {
        self.logs.iter().find(|log| !log.is_finished()).map_or(0, |log| log.log_id)
    }

    /// Stamped, with its own log, and nothing forbids to look at it.
    fn stamped_own(&self, holds: impl Fn(&LogFacts, u64) -> bool) -> bool {
        self.is_stamped() && self.is_free() && self.has_own(|log| holds(log, self.target()))
    }

    /// The stamp is not whole, and the log that it names holds commits.
    fn torn_own(&self, holds: impl Fn(&LogFacts) -> bool) -> bool {
        self.is_torn() && self.is_free() && self.has_own(|log| !log.is_finished_beside_half() && holds(log))
    }
}

/// A crash between A2 and the first commit, in its write too. The segment of A1 was synced before the stamp: without
/// its header this is a log whose only header rotted, and commits may follow it.
fn is_activation(log: &LogFacts, target: u64) -> bool {
    target == 0 && !log.has_commits && log.marker.is_none() && log.has_header
}

/// All of the first batch was written, and it has rotted: the log says nothing of whether it was durable.
fn is_unproven(log: &LogFacts, target: u64) -> bool {
    target == 0
        && log.has_commits
        && log.last == 0
        && log.durable == 0
        && log.marker.is_none()
        && log.has_header
        && log.page_size_fits
        && !log.is_unreadable
        && !log.is_contradicted
}

fn is_old_copy(log: &LogFacts, target: u64) -> bool {
    target < log.backfilled && !crate::drops("l1")
}

fn is_damaged(log: &LogFacts, target: u64) -> bool {
    let (l2, l3) = (target > log.last && !crate::drops("l2"), log.durable > log.last && !crate::drops("l3"));
    !log.is_unreadable && (l2 || l3 || log.has_lost_header() || log.is_contradicted)
}

fn is_marked_otherwise(log: &LogFacts) -> bool {
    log.marker.is_some_and(|marker| marker != log.last) && !crate::drops("l4")
}

/// The table.
pub const ROWS: &[Row] = &[
    Row {
        name: "plain, no log",
        fits: |s| s.is_plain() && s.logs.is_empty() && (!s.has_stock_leftovers || s.is_read_only),
        action: |_| Action::Open,
    },
    Row {
        name: "plain, stock's leftovers",
        fits: |s| s.is_plain() && s.has_stock_leftovers && !s.is_read_only,
        action: |_| Action::RecoverStock,
    },
    Row {
        name: "plain, a log, read-only",
        fits: |s| s.is_plain() && !s.logs.is_empty() && s.is_read_only,
        action: |_| Action::Refuse(Refusal::ReadOnly),
    },
    Row {
        name: "plain, finished logs",
        fits: |s| s.is_plain() && s.is_free() && !s.logs.is_empty() && s.is_all_finished(),
        action: |_| Action::DeleteAll,
    },
    Row {
        name: "plain, the log of another file",
        fits: |s| s.is_plain() && s.is_free() && !s.is_all_finished(),
        action: |s| Action::Orphan(s.unfinished()),
    },
    Row {
        name: "stamped by an older pwal",
        fits: Situation::is_older,
        action: |s| Action::Refuse(Refusal::OlderStamp(s.id())),
    },
    Row {
        name: "marked, stock's leftovers",
        fits: |s| !s.is_plain() && !s.is_older() && s.has_stock_leftovers,
        action: |_| Action::Refuse(Refusal::StockLeftovers),
    },
    Row {
        name: "stamped, own log absent",
        fits: |s| s.is_stamped() && !s.has_stock_leftovers && s.own().is_none(),
        action: |s| Action::Refuse(Refusal::BareCopy(s.id())),
    },
    Row {
        name: "marked, a log, read-only",
        fits: |s| {
            !s.is_plain()
                && !s.is_older()
                && !s.has_stock_leftovers
                && s.is_read_only
                && !s.logs.is_empty()
                && (s.own().is_some() || !s.is_stamped())
        },
        action: |_| Action::Refuse(Refusal::ReadOnly),
    },
    Row {
        name: "stamped, crash in activation",
        fits: |s| s.stamped_own(is_activation),
        action: |s| Action::DeleteOwn(s.id()),
    },
    Row {
        name: "stamped, commit 1 has rotted",
        fits: |s| s.stamped_own(is_unproven),
        action: |s| Action::SetAside(s.id()),
    },
    Row {
        name: "stamped, another page size",
        fits: |s| s.stamped_own(|log, target| !is_activation(log, target) && !log.page_size_fits),
        action: |s| Action::Refuse(Refusal::PageSize(s.id())),
    },
    Row {
        name: "stamped, T < B",
        fits: |s| {
            s.stamped_own(|log, target| !is_activation(log, target) && log.page_size_fits && is_old_copy(log, target))
        },
        action: |s| Action::Refuse(Refusal::OldCopy(s.id())),
    },
    Row {
        name: "stamped, unreadable where a commit may be",
        fits: |s| {
            s.stamped_own(|log, target| {
                !is_activation(log, target) && log.page_size_fits && !is_old_copy(log, target) && log.is_unreadable
            })
        },
        action: |s| Action::Refuse(Refusal::Unreadable(s.id())),
    },
    Row {
        name: "stamped, T > n or D > n",
        fits: |s| {
            s.stamped_own(|log, target| {
                !is_activation(log, target)
                    && log.page_size_fits
                    && !is_old_copy(log, target)
                    && is_damaged(log, target)
            })
        },
        action: |s| Action::Refuse(Refusal::Damaged(s.id())),
    },
    Row {
        name: "stamped, a marker with another n",
        fits: |s| {
            s.stamped_own(|log, target| {
                log.page_size_fits
                    && !is_old_copy(log, target)
                    && !log.is_unreadable
                    && !is_damaged(log, target)
                    && is_marked_otherwise(log)
            })
        },
        action: |s| Action::Refuse(Refusal::MarkerMismatch(s.id())),
    },
    Row {
        name: "stamped, B <= T <= n, D <= n",
        fits: |s| {
            s.stamped_own(|log, target| {
                !is_activation(log, target)
                    && !is_unproven(log, target)
                    && log.page_size_fits
                    && !is_old_copy(log, target)
                    && !log.is_unreadable
                    && !is_damaged(log, target)
                    && !is_marked_otherwise(log)
            })
        },
        action: |s| Action::Recover(s.id()),
    },
    Row {
        name: "torn stamp, finished logs",
        fits: |s| s.is_torn() && s.is_half_and_finished() && !s.sole(|log| log.has_lost_page_one),
        action: |_| Action::DeleteAll,
    },
    Row {
        name: "torn stamp, own log, another page size",
        fits: |s| s.torn_own(|log| !log.page_size_fits && !log.has_page_one),
        action: |s| Action::Refuse(Refusal::PageSize(s.id())),
    },
    Row {
        name: "torn stamp, own log, anything unreadable",
        fits: |s| s.torn_own(|log| (log.page_size_fits || log.has_page_one) && log.is_unreadable),
        action: |s| Action::Refuse(Refusal::Unreadable(s.id())),
    },
    Row {
        name: "torn stamp, own log, D > n",
        fits: |s| {
            s.torn_own(|log| {
                (log.page_size_fits || log.has_page_one)
                    && !log.is_unreadable
                    && (log.durable > log.last || log.has_lost_header() || log.is_contradicted)
            })
        },
        action: |s| Action::Refuse(Refusal::Damaged(s.id())),
    },
    Row {
        name: "torn stamp, own log, D <= n",
        fits: |s| {
            s.torn_own(|log| {
                (log.page_size_fits || log.has_page_one)
                    && !log.is_unreadable
                    && log.durable <= log.last
                    && !log.has_lost_header()
                    && !log.is_contradicted
            })
        },
        action: |s| Action::Recover(s.id()),
    },
    Row {
        name: "torn stamp, another log or none",
        fits: |s| {
            s.is_torn()
                && !s.has_stock_leftovers
                && (s.logs.is_empty() || (s.is_half_beside_another() && !s.sole(LogFacts::brings_header_back)))
        },
        action: |_| Action::Refuse(Refusal::UnknownHeader),
    },
    Row {
        name: "2,2 and reserved bytes, finished logs",
        fits: |s| s.is_leftover() && s.is_half_and_finished() && !s.sole(|log| log.has_lost_page_one),
        action: |_| Action::DeleteAll,
    },
    Row {
        name: "2,2 and reserved bytes, a log with commits",
        fits: |s| s.is_leftover() && s.is_half_beside_another() && !s.sole(LogFacts::brings_header_back),
        action: |_| Action::Refuse(Refusal::UnknownHeader),
    },
    Row {
        name: "half a stamp, a finished log of this file, page 1 lost",
        fits: |s| s.is_half_and_finished() && s.sole(|log| log.has_lost_page_one && log.brings_header_back()),
        action: |s| Action::Recover(s.teller_id()),
    },
    Row {
        name: "half a stamp, a finished log, page 1 lost",
        fits: |s| s.is_half_and_finished() && s.sole(|log| log.has_lost_page_one && !log.brings_header_back()),
        action: |s| Action::Refuse(Refusal::NoHeader(s.teller_id())),
    },
    Row {
        name: "half a stamp, another log, which is this file's",
        fits: |s| s.is_half_beside_another() && s.sole(LogFacts::brings_header_back),
        action: |s| Action::Recover(s.teller_id()),
    },
    Row {
        name: "no header, the log of this file",
        fits: |s| s.is_lost() && s.is_free() && s.sole(LogFacts::brings_header_back),
        action: |s| Action::Recover(s.teller_id()),
    },
    Row {
        name: "no header, other logs",
        fits: |s| s.is_lost() && s.is_free() && !s.sole(LogFacts::brings_header_back),
        action: |s| Action::Refuse(Refusal::NoHeader(s.teller_id())),
    },
];

/// The row that fits.
#[must_use]
pub fn row(situation: &Situation) -> Option<&'static Row> {
    ROWS.iter().find(|row| (row.fits)(situation) && !crate::drops(row.name))
}

/// What is to be done; a situation that no row fits (there is none) is refused.
#[must_use]
pub fn decide(situation: &Situation) -> Action {
    row(situation).map_or(Action::Refuse(Refusal::UnknownHeader), |row| (row.action)(situation))
}
