//! When a connection's transactions beside others take WRITE sooner than at COMMIT, since they have lost: `parallel_wal_writers=concurrent`.
//!
//! *With the first write*: a transaction that lost at COMMIT, and had read or computed for long and written for a short time only, as one
//! that inserts a row at the end of a table as its last statement. The next ones of its connection take WRITE with their first write,
//! which costs the others that short time, and see what is committed by then. Their number grows, from [`PERIOD_MIN`] to [`PERIOD_MAX`],
//! where another one loses soon after them, and ends where one of them keeps WRITE for long.
//!
//! *Before it reads* (its turn): after [`LOST_OFTEN`] in a row that lost, the next one waits in the write queue before its snapshot, and writes
//! serially. Half as many, down to one, if the last one that has committed needed its turn, and begins with a write: where nearly all
//! lose, as those that insert a row with a generated key first and think then, fewer tries are in vain. One that reads first could have
//! seen what others have committed; turns would only make it lose more often.
//!
//! Transactions in a row are those of the connection, or those of the thread in the same database: an application with a pool of
//! connections begins again on another one.

use std::cell::Cell;

const LOST_OFTEN: u32 = 4;
/// Transactions of a connection that take WRITE with their first write, after one that lost.
const PERIOD_MIN: u32 = 4;
const PERIOD_MAX: u32 = 64;
/// One that writes for at most this part of its time writes for a short time.
const SHORT: u64 = 4;

thread_local! {
    /// The transactions of the thread that lost since one has committed, in the database that it lost in last.
    static LOST: Cell<(Database, u32)> = const { Cell::new((Database(0), 0)) };
}

/// A database that this process has open, by the address of its engine. One that is opened later may have the same: its first loss may
/// be counted as a later one then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Database(usize);

impl Database {
    pub(super) fn of<T>(engine: &T) -> Database {
        Database(std::ptr::from_ref(engine).addr())
    }
}

/// The transactions of this thread that lost in the database since one has committed.
fn lost_in_thread(database: Database) -> u32 {
    let (known, lost) = LOST.get();
    if known == database && !crate::drops("concurrent-turn-of-thread") { lost } else { 0 }
}

/// Of one connection.
#[derive(Debug, Default)]
pub(super) struct Turns {
    /// Transactions that lost since one has committed.
    lost: u32,
    /// How often the number that takes a turn is halved.
    halved: u32,
    /// The last one that began virtually wrote by its first statement.
    writes_first: bool,
    /// The number of next transactions that take their turn before they read.
    turns: u32,
    /// The present one has waited for its turn.
    has_waited: bool,
    times: Times,
    /// COMMIT has come, and it had written for a short time only.
    wrote_briefly: bool,
    /// The number of next transactions that take WRITE with their first write.
    with_write: u32,
    /// The last period of such transactions.
    period: u32,
    /// Commits since it ended.
    commits: u32,
}

/// Of the present transaction, in microseconds.
#[derive(Clone, Copy, Debug, Default)]
struct Times {
    begun: u64,
    first_write: u64,
}

impl Times {
    /// Whether, at its COMMIT, it has written for a short time only.
    fn writes_briefly(self, now: u64) -> bool {
        now.saturating_sub(self.first_write) * SHORT <= self.first_write.saturating_sub(self.begun)
    }
}

impl Turns {
    /// The number of lost transactions in a row after which one takes its turn.
    fn lost_often(&self) -> u32 {
        (LOST_OFTEN >> self.halved).max(1)
    }

    /// Whether the next transaction takes its turn before it reads.
    pub(super) fn is_due(&self, database: Database) -> bool {
        self.turns > 0 || lost_in_thread(database) >= self.lost_often()
    }

    /// Whether it has waited for its turn.
    pub(super) fn has_waited(&self) -> bool {
        self.has_waited
    }

    /// Whether the present one takes WRITE with its first write.
    pub(super) fn takes_write(&self) -> bool {
        self.with_write > 0 && !crate::drops("concurrent-write-at-first")
    }

    /// The snapshot is taken now. `has_waited`: after a turn was waited for.
    pub(super) fn note_snapshot(&mut self, has_waited: bool, now: u64) {
        self.has_waited = has_waited;
        self.times.begun = now;
    }

    /// Its first write comes now; `is_first`: in its first statement.
    pub(super) fn note_first_write(&mut self, is_first: bool, now: u64) {
        (self.writes_first, self.wrote_briefly) = (is_first, false);
        self.times.first_write = now;
    }

    /// COMMIT comes now, and has WRITE since the first write, or not.
    pub(super) fn note_commit_begins(&mut self, has_write: bool, now: u64) {
        self.wrote_briefly = self.times.writes_briefly(now);
        if has_write && !self.wrote_briefly {
            (self.with_write, self.period) = (0, 0);
        }
    }

    pub(super) fn note_lost(&mut self, database: Database) {
        self.lost += 1;
        LOST.set((database, lost_in_thread(database) + 1));
        // One more with each: transactions that only read in between use some up.
        self.turns = (self.lost + 1).saturating_sub(self.lost_often());
        if self.wrote_briefly {
            let soon = self.commits < PERIOD_MIN;
            self.period = if soon { (self.period * 2).clamp(PERIOD_MIN, PERIOD_MAX) } else { PERIOD_MIN };
            (self.with_write, self.commits) = (self.period, 0);
        }
    }

    pub(super) fn note_committed(&mut self, database: Database) {
        let lost = self.lost.max(lost_in_thread(database));
        let needed_turn = lost >= self.lost_often() && !crate::drops("concurrent-turn-sooner");
        let halves = needed_turn && (self.writes_first || crate::drops("concurrent-turn-of-readers"));
        self.halved = if halves { (self.halved + 1).min(LOST_OFTEN.ilog2()) } else { 0 };
        (self.lost, self.turns) = (0, 0);
        LOST.set((database, 0));
        match self.with_write {
            0 => self.commits = self.commits.saturating_add(1),
            left => self.with_write = left - 1,
        }
    }

    /// The transaction is over, and has only read: if it has taken a turn, or waited for one, that is one less. Else a connection that
    /// loses and then only reads would keep all that write waiting, and each of its readers would wait for them.
    pub(super) fn only_read(&mut self, database: Database) {
        if std::mem::take(&mut self.has_waited) {
            self.turns = self.turns.saturating_sub(1);
            LOST.set((database, lost_in_thread(database).min(self.lost_often() - 1)));
        }
    }
}
