//! Whether one order explains a history.
//!
//! The database names the order itself: each commit stores its number and its transaction. Then the checks are exact:
//!
//! 1. The numbers are dense; each is of a transaction that was about to commit as this number, and not of one that was told that it
//!    failed.
//! 2. What was acknowledged is in the order: no process was lied to, whoever was killed (the machine lives on, so under every
//!    `synchronous`).
//! 3. Each transaction, also one that only read or failed, read the registers as the commits up to the number that it read
//!    left them; one that committed as n saw n - 1.
//! 4. The order fits the real time: what had ended when a transaction began is no later than what this one saw. So no connection
//!    is shown a state and then an older one, none misses its own commits, nor those that others were told of.
//! 5. The registers in the end are what the whole order left.

use std::collections::BTreeMap;

/// What a transaction was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It only read, and ended.
    Read,
    /// COMMIT worked.
    Acknowledged,
    /// An error, or it rolled back by itself.
    Failed,
    /// Nothing: its process was killed.
    Unknown,
}

/// One transaction, as its client wrote it down.
#[derive(Clone, Debug)]
pub struct Transaction {
    /// Nobody else's.
    pub id: i64,
    /// Before its first statement, and behind its last one: microseconds of the machine's clock.
    pub began: u64,
    pub ended: u64,
    pub outcome: Outcome,
    /// The number of the last commit that it saw.
    pub saw: i64,
    /// Register and value.
    pub reads: Vec<(i64, i64)>,
    pub writes: Vec<(i64, i64)>,
}

/// All that is known.
#[derive(Clone, Debug)]
pub struct History {
    pub transactions: Vec<Transaction>,
    /// Numbers and transactions, as the database has them in the end.
    pub order: Vec<(i64, i64)>,
    /// The registers in the end.
    pub registers: BTreeMap<i64, i64>,
}

/// What a history held.
#[derive(Debug, Default)]
#[allow(dead_code, reason = "it is printed")]
pub struct Told {
    pub commits: usize,
    pub reads: usize,
    pub failed: usize,
    /// Not answered: in the order, and not in it.
    pub unknown: [usize; 2],
}

/// A register's values, each with the commit that wrote it.
type Versions = BTreeMap<i64, Vec<(i64, i64)>>;

/// # Errors
/// What no order explains.
pub fn check(history: &History) -> Result<Told, String> {
    let by_id: BTreeMap<i64, &Transaction> = history.transactions.iter().map(|t| (t.id, t)).collect();
    if by_id.len() != history.transactions.len() {
        return Err(String::from("an id is there twice: the test is wrong"));
    }
    let mut versions = Versions::new();
    let mut number_of = BTreeMap::new();
    for (expected, (number, id)) in (1..).zip(&history.order) {
        if *number != expected {
            return Err(format!("commit {expected} is not there, commit {number} is"));
        }
        let transaction =
            by_id.get(id).ok_or_else(|| format!("commit {number} is of transaction {id}, which nobody began"))?;
        if transaction.outcome == Outcome::Failed || transaction.outcome == Outcome::Read {
            return Err(format!("commit {number} came back: {transaction:?}"));
        }
        if transaction.saw != number - 1 {
            return Err(format!("commit {number} did not see the one before it: {transaction:?}"));
        }
        if number_of.insert(*id, *number).is_some() {
            return Err(format!("a transaction committed twice: {transaction:?}"));
        }
        for (register, value) in &transaction.writes {
            versions.entry(*register).or_default().push((*number, *value));
        }
    }
    check_reads(history, &versions)?;
    check_time(history, &number_of)?;
    let all = history.order.len() as i64;
    for register in history.registers.keys().chain(versions.keys()) {
        let (found, left) = (history.registers.get(register).copied().unwrap_or(0), at(&versions, *register, all));
        if found != left {
            return Err(format!("register {register} is {found} in the end, the commits left {left}"));
        }
    }
    let mut told = Told::default();
    for transaction in &history.transactions {
        match transaction.outcome {
            Outcome::Read => told.reads += 1,
            Outcome::Failed => told.failed += 1,
            Outcome::Unknown => told.unknown[usize::from(!number_of.contains_key(&transaction.id))] += 1,
            Outcome::Acknowledged if number_of.contains_key(&transaction.id) => told.commits += 1,
            Outcome::Acknowledged => return Err(format!("an acknowledged commit is lost: {transaction:?}")),
        }
    }
    Ok(told)
}

/// The register behind commit `number`; 0 before its first value.
fn at(versions: &Versions, register: i64, number: i64) -> i64 {
    let all = versions.get(&register).map_or(&[][..], Vec::as_slice);
    match all.partition_point(|(commit, _)| *commit <= number) {
        0 => 0,
        place => all[place - 1].1,
    }
}

fn check_reads(history: &History, versions: &Versions) -> Result<(), String> {
    let last = history.order.len() as i64;
    for transaction in &history.transactions {
        if transaction.saw > last {
            return Err(format!("a state was seen that is not in the order: {transaction:?}"));
        }
        for (register, value) in &transaction.reads {
            let expected = at(versions, *register, transaction.saw);
            if *value != expected {
                return Err(format!("register {register} was {expected} then: {transaction:?}"));
            }
        }
    }
    Ok(())
}

/// Of all that had ended before a transaction began, it saw the last state that was seen or committed.
fn check_time(history: &History, number_of: &BTreeMap<i64, i64>) -> Result<(), String> {
    let mut ended: Vec<(u64, i64, &Transaction)> = Vec::new();
    for transaction in &history.transactions {
        let number = match transaction.outcome {
            Outcome::Unknown => continue,
            Outcome::Acknowledged => number_of.get(&transaction.id).copied().unwrap_or(0),
            Outcome::Read | Outcome::Failed => transaction.saw,
        };
        ended.push((transaction.ended, number, transaction));
    }
    ended.sort_by_key(|(at, ..)| *at);
    let mut began: Vec<&Transaction> = history.transactions.iter().collect();
    began.sort_by_key(|transaction| transaction.began);
    let mut before: Option<(i64, &Transaction)> = None;
    let mut next = ended.iter().peekable();
    for transaction in began {
        while let Some((_, number, other)) = next.next_if(|(at, ..)| *at < transaction.began) {
            if before.is_none_or(|(highest, _)| *number > highest) {
                before = Some((*number, *other));
            }
        }
        if let Some((number, other)) = before
            && transaction.saw < number
        {
            return Err(format!("went back behind {number}, as of {other:?}: {transaction:?}"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three commits and two readers.
    fn healthy() -> History {
        let transaction = |id, time: [u64; 2], outcome, saw, reads: &[_], writes: &[_]| Transaction {
            id,
            began: time[0],
            ended: time[1],
            outcome,
            saw,
            reads: reads.to_vec(),
            writes: writes.to_vec(),
        };
        use Outcome::{Acknowledged, Failed, Read, Unknown};
        History {
            transactions: vec![
                transaction(10, [1, 2], Acknowledged, 0, &[(1, 0)], &[(1, 100), (2, 101)]),
                transaction(11, [3, 6], Acknowledged, 1, &[(2, 101)], &[(2, 110)]),
                transaction(12, [4, 5], Read, 1, &[(1, 100), (2, 101)], &[]),
                transaction(13, [7, 0], Unknown, 2, &[], &[(1, 130)]),
                transaction(14, [8, 9], Failed, 3, &[(1, 130)], &[(1, 140)]),
                transaction(15, [10, 11], Read, 3, &[(1, 130), (2, 110)], &[]),
                transaction(16, [10, 0], Unknown, 3, &[], &[(2, 160)]),
            ],
            order: vec![(1, 10), (2, 11), (3, 13)],
            registers: BTreeMap::from([(1, 130), (2, 110)]),
        }
    }

    /// What is said of the healthy history after this harm.
    fn said(harm: impl FnOnce(&mut History)) -> String {
        let mut history = healthy();
        harm(&mut history);
        check(&history).expect_err("it fits")
    }

    #[test]
    fn a_healthy_history_fits() {
        let told = check(&healthy()).expect("it fits");
        assert_eq!((told.commits, told.reads, told.failed, told.unknown), (2, 2, 1, [1, 1]));
    }

    #[test]
    fn a_lost_commit() {
        let lost = said(|history| {
            history.order.pop();
            history.registers.insert(1, 100);
            history.transactions.retain(|transaction| transaction.id < 12);
            history.order.pop();
            history.registers.insert(2, 101);
        });
        assert!(lost.contains("an acknowledged commit is lost"), "{lost}");
        let seen = said(|history| {
            history.order.pop();
            history.registers.insert(1, 100);
        });
        assert!(seen.contains("not in the order"), "seen by a reader, and lost behind it: {seen}");
    }

    #[test]
    fn a_lost_update() {
        // Two that saw the same state.
        let lost = said(|history| {
            history.transactions[1].saw = 0;
            history.transactions[1].reads = vec![(2, 0)];
        });
        assert!(lost.contains("did not see the one before it"), "{lost}");
        let value = said(|history| {
            history.registers.insert(2, 101);
        });
        assert!(value.contains("in the end"), "{value}");
    }

    #[test]
    fn a_stale_read() {
        // The whole snapshot is of an older state than what its client was told before,
        let snapshot = said(|history| {
            history.transactions[5].saw = 1;
            history.transactions[5].reads = vec![(1, 100), (2, 101)];
        });
        assert!(snapshot.contains("went back"), "{snapshot}");
        // or one page of it.
        let page = said(|history| history.transactions[5].reads = vec![(1, 130), (2, 101)]);
        assert!(page.contains("register 2 was 110 then"), "{page}");
    }

    #[test]
    fn a_read_of_what_was_not_committed() {
        let dirty = said(|history| history.transactions[5].reads = vec![(1, 140)]);
        assert!(dirty.contains("register 1 was 130 then"), "{dirty}");
        let back = said(|history| history.order[2] = (3, 14));
        assert!(back.contains("came back"), "{back}");
        let nobody = said(|history| history.order[2] = (3, 99));
        assert!(nobody.contains("which nobody began"), "{nobody}");
    }

    #[test]
    fn another_order() {
        let swapped = said(|history| {
            history.order.swap(0, 1);
            history.order[0].0 = 1;
            history.order[1].0 = 2;
        });
        assert!(swapped.contains("did not see the one before it"), "{swapped}");
        // Each one for itself fits, but the later one had ended before the earlier one began.
        let time = said(|history| (history.transactions[0].began, history.transactions[0].ended) = (20, 21));
        assert!(time.contains("went back"), "{time}");
        let gap = said(|history| {
            history.order.remove(1);
        });
        assert!(gap.contains("commit 2 is not there"), "{gap}");
    }
}
