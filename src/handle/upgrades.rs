//! Transactions that read before they write, of one database in this process.
//!
//! For the write of such a transaction SQLite calls no busy handler: if another connection writes or has written since its snapshot, it
//! is refused and has to begin again. So it takes its turn in the write queue before its snapshot, if it is expected to write. What is
//! expected is known by the text of the statement that begins it: the last transactions that began with that text wrote, and so soon
//! after their snapshot that the others can wait for it. Texts that differ in numbers and strings only count as one (`vfs/pager.rs`).
//!
//! The connections of the process share what is known, since many applications open one for each request. It is a hint in a few words
//! of memory: texts that meet in one word forget each other, and a transaction that is expected wrongly reads a newer snapshot, or
//! waits a little, no more. Where one that began with a text has only read, the next ones are expected to read, until some have
//! written: so readers wait seldom. One that is tried again is expected to write in any case.

use crate::os::now_us;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// Texts that are known at a time.
const TEXTS: usize = 64;
/// Of a word: the average time from snapshot to WRITE, in microseconds; above it the doubt: how many that write are to come until one
/// is expected again; above it the text's hash.
const TIME_BITS: u32 = 20;
const TIME_MAX: u64 = (1 << TIME_BITS) - 1;
const DOUBT_BITS: u32 = 4;
const VALUE_BITS: u32 = TIME_BITS + DOUBT_BITS;
/// The doubt after a transaction that only read.
const DOUBT: u64 = 8;
/// A transaction that takes longer from its snapshot to its first write takes no turn: the others would wait that long.
const SOON: Duration = Duration::from_millis(10);
/// How long the statement that begins a transaction is asked for after one was refused, in microseconds.
const CONTENDED: u64 = 1_000_000;

/// What is known of a transaction by the statement that begins it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expected {
    /// Nothing, or that it only reads.
    Reads,
    /// It will write.
    Writes,
    /// It will write soon after its snapshot.
    WritesSoon,
}

#[derive(Debug)]
pub(super) struct Upgrades {
    texts: [AtomicU64; TEXTS],
    /// In microseconds of the monotonic clock; 0: no transaction was refused lately.
    contended_until: AtomicU64,
}

impl Default for Upgrades {
    fn default() -> Upgrades {
        Upgrades { texts: [const { AtomicU64::new(0) }; TEXTS], contended_until: AtomicU64::new(0) }
    }
}

impl Upgrades {
    fn word(&self, text: u64) -> &AtomicU64 {
        &self.texts[text as usize % TEXTS]
    }

    /// The time and the doubt, if the text is known.
    fn known(&self, text: u64) -> Option<(u64, u64)> {
        let word = self.word(text).load(Relaxed);
        let is_known = word != 0 && word >> VALUE_BITS == text >> VALUE_BITS;
        is_known.then_some((word & TIME_MAX, word >> TIME_BITS & ((1 << DOUBT_BITS) - 1)))
    }

    /// `again`: the last transaction of the connection that wanted to write was refused.
    pub(super) fn expected(&self, text: u64, again: bool) -> Expected {
        match self.known(text) {
            None => Expected::Reads,
            Some((_, doubt)) if doubt > 0 && !again => Expected::Reads,
            Some((time, _)) if time <= SOON.as_micros() as u64 => Expected::WritesSoon,
            Some(_) => Expected::Writes,
        }
    }

    /// A transaction that began with this text is over; it wrote, or was refused, so long after its snapshot.
    pub(super) fn ended(&self, text: u64, wrote_after_us: Option<u64>) {
        let (time, doubt) = match (self.known(text), wrote_after_us.map(|us| us.min(TIME_MAX))) {
            (None, None) => return,
            (Some((average, _)), None) => (average, DOUBT),
            (None, Some(us)) => (us, 0),
            (Some((average, doubt)), Some(us)) => ((3 * average + us) / 4, doubt.saturating_sub(1)),
        };
        self.word(text).store(text >> VALUE_BITS << VALUE_BITS | doubt << TIME_BITS | time.max(1), Relaxed);
    }

    /// A transaction that had read was refused WRITE, or took its turn among others.
    pub(super) fn note_contended(&self) {
        let (now, until) = (now_us(), self.contended_until.load(Relaxed));
        // Seldom stored: all connections read it.
        if until < now + CONTENDED / 2 {
            self.contended_until.store(now + CONTENDED, Relaxed);
        }
    }

    pub(super) fn are_contended(&self) -> bool {
        let until = self.contended_until.load(Relaxed);
        if until == 0 {
            return false;
        }
        let contended = now_us() < until;
        if !contended {
            self.contended_until.store(0, Relaxed);
        }
        contended
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In one word.
    const A: u64 = 0x1234_5678_9abc_0001;
    const B: u64 = 0x1235_5678_9abc_0001;

    #[test]
    fn what_the_last_one_did_is_expected() {
        let upgrades = Upgrades::default();
        assert_eq!(upgrades.expected(A, false), Expected::Reads);
        upgrades.ended(A, Some(0));
        assert_eq!((upgrades.expected(A, false), upgrades.expected(B, false)), (Expected::WritesSoon, Expected::Reads));
        upgrades.ended(B, None);
        assert_eq!(upgrades.expected(A, false), Expected::WritesSoon, "another text has only read");
        upgrades.ended(A, None);
        assert_eq!(upgrades.expected(A, false), Expected::Reads);
        assert_eq!(upgrades.expected(A, true), Expected::WritesSoon, "it is tried again");
        upgrades.ended(A, Some(5));
        upgrades.ended(B, Some(5));
        assert_eq!((upgrades.expected(A, false), upgrades.expected(B, false)), (Expected::Reads, Expected::WritesSoon));
    }

    #[test]
    fn one_that_writes_late_takes_no_turn_and_one_delay_does_not_matter() {
        let upgrades = Upgrades::default();
        upgrades.ended(A, Some(100));
        upgrades.ended(A, Some(30_000));
        assert_eq!(upgrades.expected(A, false), Expected::WritesSoon);
        upgrades.ended(A, Some(30_000));
        assert_eq!(upgrades.expected(A, false), Expected::Writes);
        for _ in 0..10 {
            upgrades.ended(A, Some(100));
        }
        assert_eq!(upgrades.expected(A, false), Expected::WritesSoon);
        upgrades.ended(B, Some(u64::MAX));
        assert_eq!(upgrades.expected(B, false), Expected::Writes);
    }
}
