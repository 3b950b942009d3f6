//! When a connection's transactions beside others get WRITE sooner than at COMMIT: `parallel_wal_writers=concurrent`.
//!
//! *As a grant*, which the write queue gives a connection before it comes for WRITE: for [`GRANT`] no other one is inside, so that nothing
//! is committed beside the transaction, which comes for it at COMMIT. If it does not come in time others go on, and it is validated as any
//! other.
//!
//! - Brief ones take a grant before their snapshot. What takes less time than a thread needs to wake up gains nothing by running
//!   beside others, and each commit of another connection empties SQLite's page cache. With the grant goes the lease: a connection that
//!   begins again at once commits several times before the next one.
//! - After one that lost with its first write or at COMMIT, and had read or computed for long and written for a short time only, as one that inserts a
//!   row at the end of a table as its last statement, the next ones of its connection take a grant with their first write, which costs the others that
//!   short time, and see what is committed by then: also of pages that the one before has left in SQLite's cache, since they begin with an empty one. Their number grows, from [`PERIOD_MIN`] to [`PERIOD_MAX`], where another one
//!   loses soon after them, and ends where one of them writes for long.
//!
//! *Before it reads* (its turn): after [`LOST_OFTEN`] in a row that lost, the next one waits in the write queue before its snapshot, and writes
//! serially. Half as many, down to one, if the last one that has committed needed its turn, and begins with a write: where nearly all
//! lose, as those that insert a row with a generated key first and think then, fewer tries are in vain. One that reads first could have
//! seen what others have committed; turns would only make it lose more often.
//!
//! Transactions in a row are those of the connection, or those of the thread in the same database: an application with a pool of
//! connections begins again on another one.

use std::cell::Cell;
use std::time::Duration;

const LOST_OFTEN: u32 = 4;
/// How long others that write wait for COMMIT, at most, of one that has WRITE as a grant.
pub(super) const GRANT: Duration = Duration::from_millis(1);
/// A transaction that comes to COMMIT within this time, in microseconds, is brief.
const BRIEF_US: u64 = 100;
/// The next one is expected to be brief if at least this number more were brief than not; each that was not counts as much.
const BRIEF_OFTEN: u32 = 8;
/// Transactions of a connection that take a grant with their first write, after one that lost.
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
    /// It has written for a short time only, so far, or when COMMIT came.
    wrote_briefly: bool,
    /// The present one has WRITE as a grant.
    has_grant: bool,
    /// It has that, or is of the connection that has committed last, which may have the lease.
    is_next: bool,
    /// How many more were brief than not, by their weight.
    brief: u32,
    late: LateWrites,
}

/// The transactions that take a grant with their first write.
#[derive(Debug, Default)]
struct LateWrites {
    /// The number of those that come.
    left: u32,
    /// How many they were, the last time.
    period: u32,
    /// Commits since the last one of them.
    commits: u32,
}

impl LateWrites {
    /// One that could have been one has lost.
    fn begin(&mut self) {
        let soon = self.commits < PERIOD_MIN;
        let period = if soon { (self.period * 2).clamp(PERIOD_MIN, PERIOD_MAX) } else { PERIOD_MIN };
        *self = LateWrites { left: period, period, commits: 0 };
    }

    fn note_committed(&mut self) {
        match self.left {
            0 => self.commits = self.commits.saturating_add(1),
            left => self.left = left - 1,
        }
    }
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

    /// Whether the next transaction is expected to be brief.
    pub(super) fn is_brief(&self) -> bool {
        self.brief >= BRIEF_OFTEN && !crate::drops("concurrent-brief")
    }

    /// Whether the next transaction begins with an empty page cache: else it depends on what an earlier one has read or written last.
    pub(super) fn begins_afresh(&self) -> bool {
        self.late.left > 0 && !crate::drops("concurrent-afresh")
    }

    /// Whether the present one takes a grant with its first write.
    pub(super) fn takes_grant_to_write(&self) -> bool {
        !self.has_grant && self.late.left > 0 && !crate::drops("concurrent-write-at-first")
    }

    /// `is_next`: it is granted WRITE, or needs no grant.
    pub(super) fn note_grant(&mut self, has_grant: bool, is_next: bool) {
        (self.has_grant, self.is_next) = (has_grant, is_next);
    }

    pub(super) fn has_grant(&self) -> bool {
        self.has_grant
    }

    /// Whether it is expected that no other commits before it does.
    pub(super) fn is_next(&self) -> bool {
        self.is_next
    }

    /// The transaction is over, or is refused; true: the grant is to be given back.
    pub(super) fn end(&mut self) -> bool {
        self.is_next = false;
        std::mem::take(&mut self.has_grant)
    }

    /// Before a snapshot: its transaction waits for its turn, or not.
    pub(super) fn note_turn(&mut self, has_waited: bool) {
        self.has_waited = has_waited;
    }

    /// The snapshot is taken now.
    pub(super) fn note_snapshot(&mut self, now: u64) {
        self.times.begun = now;
    }

    /// Its first write comes now; `is_first`: in its first statement.
    pub(super) fn note_first_write(&mut self, is_first: bool, now: u64) {
        self.writes_first = is_first;
        self.times.first_write = now;
        self.wrote_briefly = now.saturating_sub(self.times.begun) > BRIEF_US;
    }

    /// It has waited since its first write came.
    pub(super) fn note_waited(&mut self, now: u64) {
        self.times.begun += now.saturating_sub(self.times.first_write);
        self.times.first_write = now;
    }

    /// COMMIT comes now.
    pub(super) fn note_commit_begins(&mut self, now: u64) {
        let is_brief = now.saturating_sub(self.times.begun) <= BRIEF_US;
        self.brief = match is_brief {
            true => (self.brief + 1).min(2 * BRIEF_OFTEN),
            false => self.brief.saturating_sub(BRIEF_OFTEN),
        };
        self.wrote_briefly = self.times.writes_briefly(now);
        if self.has_grant && !is_brief && !self.wrote_briefly {
            self.late = LateWrites::default();
        }
    }

    pub(super) fn note_lost(&mut self, database: Database) {
        self.lost += 1;
        LOST.set((database, lost_in_thread(database) + 1));
        // One more with each: transactions that only read in between use some up.
        self.turns = (self.lost + 1).saturating_sub(self.lost_often());
        if !self.has_grant {
            // Others are not, or it allocates beside them.
            self.brief = self.brief.min(BRIEF_OFTEN - 1);
        }
        if self.wrote_briefly {
            self.late.begin();
        }
    }

    pub(super) fn note_committed(&mut self, database: Database) {
        let lost = self.lost.max(lost_in_thread(database));
        let needed_turn = lost >= self.lost_often() && !crate::drops("concurrent-turn-sooner");
        let halves = needed_turn && (self.writes_first || crate::drops("concurrent-turn-of-readers"));
        self.halved = if halves { (self.halved + 1).min(LOST_OFTEN.ilog2()) } else { 0 };
        (self.lost, self.turns) = (0, 0);
        LOST.set((database, 0));
        self.late.note_committed();
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

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: Database = Database(1);

    /// A transaction that begins now, writes and comes to COMMIT after these times; the clock goes on.
    fn transaction(turns: &mut Turns, clock: &mut u64, (before, written): (u64, u64)) {
        turns.note_turn(false);
        turns.note_snapshot(*clock);
        turns.note_first_write(before == 0, *clock + before);
        *clock += before + written;
        turns.note_commit_begins(*clock);
    }

    fn commits(turns: &mut Turns, clock: &mut u64, times: (u64, u64)) {
        transaction(turns, clock, times);
        turns.note_committed(HERE);
        turns.end();
    }

    #[test]
    fn brief_ones_are_expected_after_brief_ones() {
        let (turns, clock) = (&mut Turns::default(), &mut 1000);
        for _ in 0..BRIEF_OFTEN {
            assert!(!turns.is_brief());
            commits(turns, clock, (BRIEF_US / 2, BRIEF_US / 2));
        }
        assert!(turns.is_brief());
        commits(turns, clock, (0, BRIEF_US + 1));
        assert!(!turns.is_brief());
        (0..2 * BRIEF_OFTEN).for_each(|_| commits(turns, clock, (0, 1)));
        commits(turns, clock, (5000, 1));
        assert!(turns.is_brief(), "one of many");
        commits(turns, clock, (5000, 1));
        assert!(!turns.is_brief());
        // One that lost without a grant does not wait for one, until another one has been brief.
        (0..BRIEF_OFTEN).for_each(|_| commits(turns, clock, (0, 1)));
        assert!(turns.is_brief());
        turns.note_lost(HERE);
        assert!(!turns.is_brief());
        commits(turns, clock, (0, 1));
        assert!(turns.is_brief());
        turns.note_grant(true, true);
        turns.note_lost(HERE);
        assert!(turns.is_brief());
        turns.note_committed(HERE);
    }

    #[test]
    fn a_grant_is_taken_to_write_while_what_is_written_last_is_brief() {
        let (turns, clock) = (&mut Turns::default(), &mut 1000);
        let loses = |turns: &mut Turns, clock: &mut u64, times| {
            transaction(turns, clock, times);
            turns.note_lost(HERE);
            turns.end();
        };
        loses(turns, clock, (2000, 1000));
        assert!(!turns.takes_grant_to_write(), "it wrote for long");
        loses(turns, clock, (2000, 500));
        for period in [PERIOD_MIN, 2 * PERIOD_MIN, 4 * PERIOD_MIN] {
            for _ in 0..period {
                assert!(turns.takes_grant_to_write());
                commits(turns, clock, (2000, 10));
            }
            assert!(!turns.takes_grant_to_write());
            // Soon after that.
            loses(turns, clock, (2000, 10));
        }
        (0..7 * PERIOD_MAX).for_each(|_| commits(turns, clock, (2000, 10)));
        loses(turns, clock, (2000, 10));
        (0..PERIOD_MIN).for_each(|_| commits(turns, clock, (2000, 10)));
        assert!(!turns.takes_grant_to_write(), "not soon");
        loses(turns, clock, (2000, 10));
        // One that has it for long is the last.
        turns.note_snapshot(*clock);
        turns.note_first_write(false, *clock + 10);
        turns.note_grant(true, true);
        assert!(!turns.takes_grant_to_write(), "it has it");
        turns.note_commit_begins(*clock + 2000);
        turns.note_committed(HERE);
        assert!(turns.end());
        assert!(!turns.takes_grant_to_write());
        assert!(!turns.end(), "it is given back once");
    }

    /// What was waited for a grant is no time of its transaction.
    #[test]
    fn waiting_is_not_writing() {
        let turns = &mut Turns::default();
        for _ in 0..BRIEF_OFTEN {
            turns.note_snapshot(1000);
            turns.note_first_write(true, 1010);
            turns.note_waited(9000);
            turns.note_commit_begins(9050);
            turns.note_committed(HERE);
        }
        assert!(turns.is_brief());
    }
}
