//! One side of the comparison: its files, its connections, and what each step answers.

use super::script::{CONNECTIONS, Step};
use rusqlite::{Connection, ffi};
use std::collections::BTreeMap;
use std::ffi::{CStr, CString};
use std::path::{Path, PathBuf};
use std::ptr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// The database files of each side.
pub const DATABASES: [&str; 3] = ["main.db", "one.db", "two.db"];

pub struct Side {
    directory: PathBuf,
    vfs: &'static str,
    /// The VFS of the connections that are opened next.
    now: &'static str,
    connections: Vec<Option<Segment>>,
    commits: Commits,
}

/// How often each file was committed to.
type Commits = Arc<Mutex<BTreeMap<PathBuf, u64>>>;

/// A connection with at most one statement that was stepped and not reset.
struct Segment {
    connection: Connection,
    cursor: *mut ffi::sqlite3_stmt,
    commits: Commits,
    /// For each schema inside a transaction: the commits of its file when its snapshot was taken.
    snapshots: BTreeMap<&'static CStr, u64>,
}

const SCHEMAS: [&CStr; 4] = [c"main", c"one", c"two", c"again"];

impl Side {
    pub fn new(directory: PathBuf, vfs: &'static str) -> Side {
        std::fs::create_dir_all(&directory).expect("a directory");
        let connections = (0..CONNECTIONS).map(|_| None).collect();
        Side { directory, vfs, now: vfs, connections, commits: Commits::default() }
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// What a step answers, as `result code: rows`.
    pub fn take(&mut self, step: &Step) -> String {
        match step {
            Step::Open(index) => {
                if self.connections[*index].is_none() {
                    self.connections[*index] = Some(Segment::open(&self.file(DATABASES[0]), self.now, &self.commits));
                }
                String::new()
            }
            Step::Close(index) => {
                self.connections[*index] = None;
                String::new()
            }
            Step::CloseAll { stock_next } => {
                self.close_all();
                self.now = if *stock_next { support::STOCK } else { self.vfs };
                String::new()
            }
            Step::Sql { connection, sql } => {
                self.with(*connection, |segment, here| segment.run(&sql.replace("{dir}", here)))
            }
            Step::Checkpoint { connection, database, mode } => {
                self.with(*connection, |segment, _| segment.run(&format!("PRAGMA {database}wal_checkpoint({mode})")))
            }
            Step::OpenCursor { connection, sql } => self.with(*connection, |segment, _| segment.cursor_open(sql)),
            Step::Advance(index) => self.with(*index, |segment, _| segment.cursor_step()),
            Step::CloseCursor(index) => self.with(*index, |segment, _| segment.cursor_close()),
        }
    }

    fn with(&mut self, index: usize, act: impl FnOnce(&mut Segment, &str) -> String) -> String {
        let directory = self.directory.to_str().expect("a name in UTF-8");
        match &mut self.connections[index] {
            Some(segment) => {
                let answer = act(segment, directory);
                segment.note_snapshots();
                answer
            }
            None => String::from("closed"),
        }
    }

    /// Whether a snapshot of this connection is older than a commit to its file.
    pub fn is_stale(&self, index: usize) -> bool {
        self.connections[index].as_ref().is_some_and(Segment::is_stale)
    }

    /// Whether the snapshots that this connection only reads from are of all that is committed.
    pub fn sees_the_newest(&self, index: usize) -> bool {
        let Some(segment) = &self.connections[index] else { return false };
        let fresh = support::try_open(&self.file(DATABASES[0]), support::flags(), self.now).expect("open");
        let others = "SELECT name, file FROM pragma_database_list WHERE seq>1";
        for line in support::rows(&segment.connection, others).expect("the list of databases") {
            let (name, file) = line.split_once('|').expect("two columns");
            support::run(&fresh, &format!("ATTACH '{file}' AS {name}"));
        }
        let reads = "SELECT name FROM pragma_database_list WHERE seq<>1";
        let names = support::rows(&segment.connection, reads).expect("the list of databases");
        names.iter().all(|name| {
            let schema = CString::new(name.as_str()).expect("no zero byte");
            // SAFETY: the connection is open, the name ends with a zero byte.
            let state = unsafe { ffi::sqlite3_txn_state(segment.connection.handle(), schema.as_ptr()) };
            state != ffi::SQLITE_TXN_READ
                || support::dump::dump_database(&segment.connection, name) == support::dump::dump_database(&fresh, name)
        })
    }

    pub fn close_all(&mut self) {
        self.connections.fill_with(|| None);
    }
}

impl Segment {
    fn open(path: &Path, vfs: &str, commits: &Commits) -> Segment {
        let mut connection = support::try_open(path, support::flags(), vfs).expect("open");
        connection.busy_timeout(Duration::ZERO).expect("no busy timeout");
        // SAFETY: only the number is kept; the hook is called by this connection alone, while it is open.
        let database = unsafe { connection.handle() }.expose_provenance();
        let counted = Arc::clone(commits);
        let count = move || {
            let database = ptr::with_exposed_provenance_mut(database);
            for schema in SCHEMAS {
                if transaction(database, schema) == ffi::SQLITE_TXN_WRITE {
                    *counted.lock().unwrap().entry(file(database, schema)).or_default() += 1;
                }
            }
            false
        };
        connection.commit_hook(Some(count)).expect("a commit hook");
        Segment { connection, cursor: ptr::null_mut(), commits: Arc::clone(commits), snapshots: BTreeMap::new() }
    }

    /// Keeps the number of commits for each snapshot that was taken in this step, drops those that have ended.
    fn note_snapshots(&mut self) {
        // SAFETY: the connection is open.
        let database = unsafe { self.connection.handle() };
        let commits = self.commits.lock().unwrap();
        for schema in SCHEMAS {
            if transaction(database, schema) > ffi::SQLITE_TXN_NONE {
                let now = commits.get(&file(database, schema)).copied().unwrap_or(0);
                self.snapshots.entry(schema).or_insert(now);
            } else {
                self.snapshots.remove(schema);
            }
        }
    }

    fn is_stale(&self) -> bool {
        // SAFETY: the connection is open.
        let database = unsafe { self.connection.handle() };
        let commits = self.commits.lock().unwrap();
        let now = |schema| commits.get(&file(database, schema)).copied().unwrap_or(0);
        self.snapshots.iter().any(|(schema, then)| *then != now(schema))
    }

    fn run(&self, sql: &str) -> String {
        match support::rows(&self.connection, sql) {
            Ok(rows) => {
                if sql.starts_with("VACUUM") {
                    // It commits without asking the commit hook.
                    self.commits.lock().unwrap().values_mut().for_each(|commits| *commits += 1);
                }
                format!("0: {}", rows.join(" "))
            }
            Err(error) => format!("{}:", support::code(&error)),
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

/// `sqlite3_txn_state`; -1 for a schema that is not there.
fn transaction(database: *mut ffi::sqlite3, schema: &CStr) -> i32 {
    // SAFETY: the connection is open, the name ends with a zero byte.
    unsafe { ffi::sqlite3_txn_state(database, schema.as_ptr()) }
}

/// The file of a schema that is there.
fn file(database: *mut ffi::sqlite3, schema: &CStr) -> PathBuf {
    // SAFETY: as above; the name lives while the schema is attached.
    let name = unsafe { ffi::sqlite3_db_filename(database, schema.as_ptr()) };
    if name.is_null() {
        return PathBuf::new();
    }
    // SAFETY: it ends with a zero byte.
    PathBuf::from(unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned())
}

impl Drop for Segment {
    fn drop(&mut self) {
        self.cursor_close();
    }
}
