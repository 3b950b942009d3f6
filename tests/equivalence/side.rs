//! One side of the comparison: its files, its connections, and what each step answers.

use super::common;
use super::script::{CONNECTIONS, Step};
use rusqlite::{Connection, ffi};
use std::ffi::CString;
use std::path::{Path, PathBuf};
use std::ptr;
use std::time::Duration;

/// The database files of each side.
pub const DATABASES: [&str; 3] = ["main.db", "one.db", "two.db"];

pub struct Side {
    directory: PathBuf,
    vfs: &'static str,
    /// The VFS of the connections that are opened next.
    now: &'static str,
    connections: Vec<Option<Slot>>,
}

/// A connection with at most one statement that was stepped and not reset.
struct Slot {
    connection: Connection,
    cursor: *mut ffi::sqlite3_stmt,
}

impl Side {
    pub fn new(directory: PathBuf, vfs: &'static str) -> Side {
        std::fs::create_dir_all(&directory).expect("a directory");
        Side { directory, vfs, now: vfs, connections: (0..CONNECTIONS).map(|_| None).collect() }
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// What a step answers, as `result code: rows`.
    pub fn take(&mut self, step: &Step) -> String {
        match step {
            Step::Open(index) => {
                if self.connections[*index].is_none() {
                    self.connections[*index] = Some(Slot::open(&self.file(DATABASES[0]), self.now));
                }
                String::new()
            }
            Step::Close(index) => {
                self.connections[*index] = None;
                String::new()
            }
            Step::CloseAll { stock_next } => {
                self.close_all();
                self.now = if *stock_next { common::STOCK } else { self.vfs };
                String::new()
            }
            Step::Sql { connection, sql } => self.with(*connection, |slot, here| slot.run(&sql.replace("{dir}", here))),
            Step::Checkpoint { connection, database, mode } => {
                self.with(*connection, |slot, _| slot.run(&format!("PRAGMA {database}wal_checkpoint({mode})")))
            }
            Step::OpenCursor { connection, sql } => self.with(*connection, |slot, _| slot.cursor_open(sql)),
            Step::Advance(index) => self.with(*index, |slot, _| slot.cursor_step()),
            Step::CloseCursor(index) => self.with(*index, |slot, _| slot.cursor_close()),
        }
    }

    fn with(&mut self, index: usize, act: impl FnOnce(&mut Slot, &str) -> String) -> String {
        let directory = self.directory.to_str().expect("a name in UTF-8");
        match &mut self.connections[index] {
            Some(slot) => act(slot, directory),
            None => String::from("closed"),
        }
    }

    pub fn close_all(&mut self) {
        self.connections.fill_with(|| None);
    }
}

impl Slot {
    fn open(path: &Path, vfs: &str) -> Slot {
        let connection = common::try_open(path, common::flags(), vfs).expect("open");
        connection.busy_timeout(Duration::ZERO).expect("no busy timeout");
        Slot { connection, cursor: ptr::null_mut() }
    }

    fn run(&self, sql: &str) -> String {
        match common::rows(&self.connection, sql) {
            Ok(rows) => format!("0: {}", rows.join(" ")),
            Err(error) => format!("{}:", common::code(&error)),
        }
    }

    fn cursor_open(&mut self, sql: &str) -> String {
        if !self.cursor.is_null() {
            return String::from("open");
        }
        let sql = CString::new(sql).expect("no zero byte");
        // SAFETY: the connection is open, the text ends with a zero byte, and the statement is finalized in
        // `cursor_close` before the connection is closed.
        let code = unsafe {
            let database = self.connection.handle();
            ffi::sqlite3_prepare_v2(database, sql.as_ptr(), -1, &raw mut self.cursor, ptr::null_mut())
        };
        if code == ffi::SQLITE_OK { self.cursor_step() } else { format!("prepare {code}") }
    }

    fn cursor_step(&mut self) -> String {
        if self.cursor.is_null() {
            return String::from("none");
        }
        // SAFETY: the statement is not finalized, its connection is open.
        let code = unsafe { ffi::sqlite3_step(self.cursor) };
        if code == ffi::SQLITE_ROW {
            // SAFETY: the statement is on a row.
            let first = unsafe { ffi::sqlite3_column_int64(self.cursor, 0) };
            return format!("row {first}");
        }
        // The first step of a statement may be refused; then it is not an open cursor.
        format!("{code}, {}", self.cursor_close())
    }

    fn cursor_close(&mut self) -> String {
        // SAFETY: null, or a statement that is finalized here once.
        let code = unsafe { ffi::sqlite3_finalize(std::mem::replace(&mut self.cursor, ptr::null_mut())) };
        format!("finalized {code}")
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.cursor_close();
    }
}
