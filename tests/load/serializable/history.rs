//! What one thread of one process did, in a file of its own.

use rusqlite::Connection;
use serde_json::{Value, json};
use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

/// One transaction.
#[derive(Clone, Debug)]
pub struct Item {
    /// The state of the clock that it made, or that it read.
    pub order: i64,
    pub commits: bool,
    /// One statement without BEGIN.
    pub autocommit: bool,
    pub steps: Vec<Step>,
}

/// One statement, and what it answered.
#[derive(Clone, Debug)]
pub struct Step {
    pub sql: String,
    pub answer: String,
}

/// Rows and changed rows, or the result code.
pub fn answer(connection: &Connection, sql: &str) -> String {
    match support::rows(connection, sql) {
        Ok(rows) if changes(sql) => format!("{}; {} changed", rows.join(" "), connection.changes()),
        Ok(rows) => rows.join(" "),
        Err(error) => format!("code {}", support::code(&error)),
    }
}

pub fn changes(sql: &str) -> bool {
    ["INSERT", "REPLACE", "UPDATE", "DELETE"].iter().any(|word| sql.starts_with(word))
}

impl Item {
    pub fn new(order: i64, commits: bool) -> Item {
        Item { order, commits, autocommit: false, steps: Vec::new() }
    }

    pub fn run(&mut self, connection: &Connection, sql: &str) {
        let answer = answer(connection, sql);
        self.note(sql, answer);
    }

    pub fn note(&mut self, sql: &str, answer: String) {
        self.steps.push(Step { sql: sql.to_owned(), answer });
    }

    pub fn to_json(&self) -> Value {
        let steps: Vec<Value> = self.steps.iter().map(|step| json!([step.sql, step.answer])).collect();
        json!([self.order, self.commits, self.autocommit, steps])
    }

    pub fn from_json(item: &Value) -> Item {
        let text = |value: &Value| value.as_str().expect("a text").to_owned();
        let steps = item[3].as_array().expect("steps");
        Item {
            order: item[0].as_i64().expect("an order"),
            commits: item[1].as_bool().expect("a flag"),
            autocommit: item[2].as_bool().expect("a flag"),
            steps: steps.iter().map(|step| Step { sql: text(&step[0]), answer: text(&step[1]) }).collect(),
        }
    }
}

pub struct Recorder(BufWriter<File>);

impl Recorder {
    pub fn create(path: &Path) -> Recorder {
        Recorder(BufWriter::new(File::create_new(path).expect("create a history")))
    }

    pub fn add(&mut self, item: Item) {
        writeln!(self.0, "{}", item.to_json()).expect("write a history");
    }

    pub fn finish(&mut self) {
        self.0.flush().expect("write a history");
    }
}

/// Where a thread's history is.
pub fn file(database: &Path, place: u64, thread: u64) -> PathBuf {
    database.with_file_name(format!("history.{place}.{thread}"))
}

pub fn read(path: &Path) -> Vec<Item> {
    let lines = BufReader::new(File::open(path).expect("open a history")).lines();
    let item = |line: &str| Item::from_json(&serde_json::from_str(line).expect("JSON"));
    lines.map(|line| item(&line.expect("read a history"))).collect()
}
