//! What one thread of one process did, in a file that is whole when it is killed: each transaction before its COMMIT, and after it.
//!
//! Whether the one that was in its COMMIT is in the database is known by the last statement of each transaction that writes: it stores the
//! transaction's number in a table of its thread.

use crate::serializable::history::{self, Item};
use serde_json::{Value, json};
use std::fs::File;
use std::io::Write;
use std::path::Path;

pub struct Journal {
    file: File,
    table: String,
    /// Whether the thread may be killed.
    marks: bool,
    /// The transactions that were marked.
    count: u64,
}

fn table(place: u64, thread: u64) -> String {
    format!("mark_{place}_{thread}")
}

/// The statements that make the tables.
pub fn tables(places: u64, threads: u64) -> Vec<String> {
    let all = (0..places).flat_map(|place| (0..threads).map(move |thread| table(place, thread)));
    let create =
        |name| format!("CREATE TABLE {name}(id INTEGER PRIMARY KEY, n, v); INSERT INTO {name} VALUES(1, 0, NULL)");
    all.map(create).collect()
}

/// The number of the last marked transaction that is in the database.
pub fn last_marked(connection: &rusqlite::Connection, place: u64, thread: u64) -> u64 {
    let number = support::number(connection, &format!("SELECT n FROM {}", table(place, thread)));
    u64::try_from(number).expect("a count")
}

impl Journal {
    pub fn create(database: &Path, (place, thread): (u64, u64), marks: bool) -> Journal {
        let file = File::create_new(history::file(database, place, thread)).expect("create a journal");
        Journal { file, table: table(place, thread), marks, count: 0 }
    }

    fn add(&mut self, kind: &str, item: &Item) {
        // By one call.
        let line = format!("{}\n", json!([kind, self.count, item.to_json()]));
        self.file.write_all(line.as_bytes()).expect("write a journal");
    }

    /// The last statement of a transaction that writes, if it is to be marked.
    pub fn mark(&mut self, item: &Item) -> Option<String> {
        let writes = self.marks && item.steps.iter().any(|step| history::changes(&step.sql));
        writes.then(|| {
            self.count += 1;
            format!("UPDATE {} SET n={}", self.table, self.count)
        })
    }

    /// A transaction of one statement, which marks itself and reads.
    pub fn marked(&mut self, reading: &str) -> String {
        self.count += 1;
        format!("UPDATE {} SET n={}, v=({reading})", self.table, self.count)
    }

    pub fn marks(&self) -> bool {
        self.marks
    }

    pub fn is_pending(&mut self, item: &Item) {
        if self.marks {
            self.add("pending", item);
        }
    }

    pub fn is_done(&mut self, item: &Item) {
        self.add("done", item);
    }
}

/// What is known of a thread's transactions.
#[derive(Default)]
pub struct Journaled {
    pub done: Vec<Item>,
    /// The last one that was in its COMMIT, if it was marked and what has become of it is not known; and its mark.
    pub pending: Option<(u64, Item)>,
    /// The mark of the last one that was done.
    pub last: u64,
}

pub fn read(database: &Path, place: u64, thread: u64) -> Journaled {
    let mut journaled = Journaled::default();
    let bytes = std::fs::read(history::file(database, place, thread)).expect("read a journal");
    // Without the line that it was killed in.
    let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
    for line in bytes[..whole].split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let line: Value = serde_json::from_slice(line).expect("JSON");
        let (mark, item) = (line[1].as_u64().expect("a mark"), Item::from_json(&line[2]));
        let is_marked = item.steps.iter().any(|step| history::changes(&step.sql));
        match line[0].as_str() {
            Some("pending") => journaled.pending = is_marked.then_some((mark, item)),
            _ => {
                if item.commits {
                    journaled.last = mark;
                }
                journaled.pending = None;
                journaled.done.push(item);
            }
        }
    }
    journaled
}
