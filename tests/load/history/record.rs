//! What a client writes down: one line for each thing, by one write to a file of its own, which survives a kill. A transaction that
//! writes has a line before its COMMIT, and one behind it.
//!
//!     id began saw reads writes     before COMMIT, or behind a transaction that only reads (writes: -)
//!     id ended outcome              behind it

use super::checker::{Outcome, Transaction};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;

/// The file of one client.
pub struct Record(File);

impl Record {
    pub fn create(path: &Path) -> Record {
        Record(File::create_new(path).expect("create a record"))
    }

    fn line(&mut self, line: &str) {
        let line = format!("{line}\n");
        let written = self.0.write(line.as_bytes()).expect("write a record");
        assert_eq!(written, line.len(), "written in pieces");
    }

    pub fn begins(&mut self, transaction: &Transaction) {
        let Transaction { id, began, saw, .. } = transaction;
        self.line(&format!("{id} {began} {saw} {} {}", text(&transaction.reads), text(&transaction.writes)));
    }

    pub fn ends(&mut self, id: i64, ended: u64, outcome: Outcome) {
        let outcome = match outcome {
            Outcome::Read => "read",
            Outcome::Acknowledged => "acknowledged",
            Outcome::Failed => "failed",
            Outcome::Unknown => unreachable!("what is unknown is not written down"),
        };
        self.line(&format!("{id} {ended} {outcome}"));
    }
}

fn text(pairs: &[(i64, i64)]) -> String {
    let mut text = String::new();
    for (register, value) in pairs {
        let _ = write!(text, "{register}={value},");
    }
    text.push('-');
    text
}

fn pairs(text: &str) -> Vec<(i64, i64)> {
    let pairs = text.split(',').filter(|pair| *pair != "-");
    pairs
        .map(|pair| pair.split_once('=').expect("a pair"))
        .map(|(register, value)| (number(register), number(value)))
        .collect()
}

fn number<N: std::str::FromStr>(text: &str) -> N {
    text.parse().unwrap_or_else(|_| panic!("{text} is no number"))
}

/// What the clients wrote down.
pub fn read_all(directory: &Path) -> Vec<Transaction> {
    let mut all = BTreeMap::new();
    for entry in std::fs::read_dir(directory).expect("read the directory") {
        let text = std::fs::read_to_string(entry.expect("an entry").path()).expect("read a record");
        // The last line of a client that was killed may be torn: then it had not been done, or been told, what it says.
        for line in text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')) {
            let parts: Vec<&str> = line.split(' ').collect();
            match parts[..] {
                [id, began, saw, reads, writes] => {
                    let transaction = Transaction {
                        id: number(id),
                        began: number(began),
                        ended: 0,
                        outcome: Outcome::Unknown,
                        saw: number(saw),
                        reads: pairs(reads),
                        writes: pairs(writes),
                    };
                    assert!(all.insert(transaction.id, transaction).is_none(), "an id is there twice: {line}");
                }
                [id, ended, outcome] => {
                    let transaction = all.get_mut(&number(id)).expect("it began before");
                    transaction.ended = number(ended);
                    transaction.outcome = match outcome {
                        "read" => Outcome::Read,
                        "acknowledged" => Outcome::Acknowledged,
                        "failed" => Outcome::Failed,
                        other => panic!("{other} is no outcome"),
                    };
                }
                _ => panic!("no record: {line}"),
            }
        }
    }
    all.into_values().collect()
}
