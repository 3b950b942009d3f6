//! The transactions of a history, one after the other in the order of their commits, on stock SQLite: each statement must answer the
//! same.

use crate::serializable::history::{Item, Step, answer};
use rusqlite::Connection;
use std::path::Path;
use support::number;

/// How a transaction that wrote nothing says up to which commit it may have read.
pub const UP_TO: &str = "-- up to";

/// The database in which they are played.
pub struct Replay {
    connection: Connection,
    what: String,
}

impl Replay {
    /// `settings`: pragmas of the new database. `what`: named in messages.
    pub fn new(path: &Path, settings: &str, fill: &[String], what: &str) -> Replay {
        let connection = support::open_stock(path);
        super::prepare(&connection, settings, fill);
        support::run(&connection, "PRAGMA synchronous=OFF");
        Replay { connection, what: what.to_owned() }
    }

    /// Plays them all; returns the connection, or what is not as it is serially.
    pub fn play(self, mut items: Vec<Item>, first: i64) -> Result<Connection, String> {
        let (mut readers, mut writers): (Vec<Item>, Vec<Item>) = (Vec::new(), Vec::new());
        for item in items.drain(..) {
            if item.commits { writers.push(item) } else { readers.push(item) }
        }
        writers.sort_by_key(|item| item.order);
        readers.sort_by_key(|item| item.order);
        let mut open: Vec<Item> = Vec::new();
        let mut readers = readers.into_iter().peekable();
        for state in first..=first + writers.len() as i64 {
            while let Some(reader) = readers.next_if(|reader| reader.order <= state) {
                open.push(reader);
            }
            let mut left = Vec::new();
            for reader in open {
                if !self.is_answered_here(&reader, state)? {
                    left.push(reader);
                }
            }
            open = left;
            let Some(writer) = writers.get(usize::try_from(state - first).expect("a place")) else { continue };
            let Item { order, steps, .. } = writer;
            if *order != state + 1 {
                return Err(format!("{}: a commit that no connection made, or one twice: {writer:#?}", self.what));
            }
            self.run("BEGIN IMMEDIATE");
            for (index, Step { sql, answer: saw }) in steps.iter().enumerate() {
                let serially = answer(&self.connection, sql);
                if *saw != serially {
                    let of = format!("{}: commit {order}, step {index}", self.what);
                    return Err(format!("{of}, saw {saw:?}; serially it is {serially:?}: {steps:#?}"));
                }
            }
            self.run("COMMIT");
        }
        let left: Vec<Item> = open.into_iter().chain(readers).collect();
        match left.is_empty() {
            true => Ok(self.connection),
            false => Err(format!("{}: transactions that only read, at no state there was: {left:#?}", self.what)),
        }
    }

    /// Whether a transaction that only read fits this state; an error if it was the last that may.
    fn is_answered_here(&self, reader: &Item, state: i64) -> Result<bool, String> {
        let (last, steps) = reader.steps.split_last().expect("the last state");
        assert_eq!(last.sql, UP_TO);
        let last: i64 = last.answer.parse().expect("a number");
        self.run("BEGIN IMMEDIATE");
        let other = steps.iter().find(|step| answer(&self.connection, &step.sql) != step.answer);
        self.run("ROLLBACK");
        if other.is_some() && state >= last {
            let from = format!("{}: a transaction that wrote nothing saw no state from {}", self.what, reader.order);
            return Err(format!("{from} to {last}: {other:?} of {steps:#?}"));
        }
        Ok(other.is_none())
    }

    fn run(&self, sql: &str) {
        if sql != "COMMIT" && sql != "ROLLBACK" || !self.connection.is_autocommit() {
            support::run(&self.connection, sql);
        }
    }
}

fn logical(connection: &Connection) -> String {
    let dump = support::dump::dump(connection);
    dump.lines().filter(|line| !line.starts_with("main.page_count")).collect::<Vec<_>>().join("\n")
}

/// The file has what the replay has, and both are whole: no page is lost, or used twice. `same_trees`: nor were interior pages changed
/// beside each other. A b-tree that is balanced by what a transaction saw of such a page need not have as many pages as one that is
/// balanced with what others had added by then (`balance` looks at how full the page is).
pub fn assert_same(database: &Connection, replayed: &Connection, same_trees: bool, what: &str) {
    for connection in [database, replayed] {
        let answer = support::text(connection, "PRAGMA integrity_check");
        assert_eq!(answer, "ok", "{what}");
    }
    // Which pages are used is chosen otherwise beside others, and so free ones may be left; how many are used is not.
    let used = |connection| number(connection, "PRAGMA page_count") - number(connection, "PRAGMA freelist_count");
    if same_trees {
        assert_eq!(used(database), used(replayed), "{what}: pages in use");
    }
    assert_eq!(difference(database, replayed), None, "{what}");
}

/// The first difference of what is in the two.
pub fn difference(database: &Connection, replayed: &Connection) -> Option<String> {
    support::dump::first_difference(&logical(database), &logical(replayed))
}
