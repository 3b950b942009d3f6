//! One life of a machine: connections of up to four processes work in turn, and a plain database in memory does what was
//! committed, commit by commit.

use super::machine::{Machine, Moment, Promise};
use super::state::state;
use super::{Character, medium, process_vfs, registration, script};
use crate::disk::sim::Dice;
use crate::engine::Work;
use rusqlite::backup::Backup;
use rusqlite::{Connection, Error, OpenFlags, ffi};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// What `synchronous` a connection has.
const LEVELS: [(&str, bool); 4] = [("FULL", true), ("NORMAL", false), ("EXTRA", true), ("OFF", false)];

const EXTRA: usize = 2;

struct Client {
    /// `None`: stock SQLite on the medium.
    process: Option<usize>,
    connection: Connection,
    /// The statements of its transaction that worked.
    transaction: Option<Vec<String>>,
    level: usize,
}

pub struct Life {
    pub machine: Arc<Machine>,
    character: Character,
    clients: Vec<Client>,
    /// Those that have had a connection.
    processes: BTreeSet<usize>,
    twin: Connection,
    /// The states since this life began, one for each commit.
    pub history: Vec<u64>,
    /// The moments before a failure took commits away, with the history as it was then.
    earlier: Vec<(Vec<Moment>, Vec<u64>)>,
    pub events: Vec<String>,
}

/// What is left of a life.
pub struct Ended {
    pub history: Vec<u64>,
    /// The moments at which its machine could have stopped, with the history at each.
    pub moments: Vec<(Vec<Moment>, Vec<u64>)>,
    pub events: Vec<String>,
}

pub type Checked = Result<(), String>;

fn primary(error: &Error) -> i32 {
    match error {
        Error::SqlInputError { error, .. } => error.extended_code & 0xff,
        other => other.sqlite_extended_error_code().map_or(-1, |code| code & 0xff),
    }
}

pub fn is_busy(error: &Error) -> bool {
    matches!(primary(error), ffi::SQLITE_BUSY | ffi::SQLITE_LOCKED)
}

/// It fails in the same way wherever it is run.
fn is_of_sql(error: &Error) -> bool {
    matches!(primary(error), ffi::SQLITE_ERROR | ffi::SQLITE_CONSTRAINT)
}

pub fn open(machine: &Machine, process: Option<usize>) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let name = process.map_or_else(|| medium::MEDIUM.to_owned(), process_vfs);
    let connection = Connection::open_with_flags_and_vfs(machine.path(), flags, name.as_str())?;
    connection.busy_timeout(Duration::ZERO)?;
    Ok(connection)
}

/// The same database in memory.
pub fn copy(connection: &Connection) -> Connection {
    let mut twin = Connection::open_in_memory().expect("a twin");
    let copied =
        Backup::new(connection, &mut twin).and_then(|backup| backup.run_to_completion(i32::MAX, Duration::ZERO, None));
    copied.expect("a copy");
    twin
}

impl Life {
    /// With what was found on the disk, which `twin` has, too.
    pub fn new(machine: Arc<Machine>, character: Character, twin: Connection) -> Life {
        let now = state(&twin).expect("a state");
        machine.promise(|promise| *promise = Promise::default());
        Life {
            machine,
            character,
            clients: Vec::new(),
            processes: BTreeSet::new(),
            twin,
            history: vec![now],
            earlier: Vec::new(),
            events: Vec::new(),
        }
    }

    fn say(&mut self, event: String) {
        self.events.push(event);
    }

    fn client(&mut self, process: Option<usize>) -> Checked {
        let opened = open(&self.machine, process).and_then(|connection| {
            connection.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
            Ok(connection)
        });
        let connection = match opened {
            Ok(connection) => connection,
            Err(error) if is_busy(&error) => return Ok(()),
            Err(error) => return self.fails("open", &error),
        };
        if let Some(process) = process
            && let Some(engine) = registration(process).context.registry.engine_of(&self.machine.path())
            && self.clients.is_empty()
        {
            engine.make_small(self.character.segment_bytes, self.character.batch_bytes);
        }
        if self.clients.is_empty() && self.machine.disk.plan().fired() > 0 {
            match state(&connection) {
                Ok(found) => self.go_back_to(found, &connection)?,
                Err(error) => return self.fails("read", &error),
            }
        }
        if process.is_some_and(|process| self.clients.iter().any(|client| client.process != Some(process))) {
            self.machine.count("processes that attached");
        }
        self.clients.push(Client { process, connection, transaction: None, level: 0 });
        self.processes.extend(process);
        if self.processes.len() == 4 {
            self.machine.count("lives of more than three processes");
            self.processes.clear();
        }
        let at = self.clients.len() - 1;
        self.set_level(at, 0)
    }

    /// An engine has failed, and the database was opened anew: what was not durable may be gone with a failed sync.
    fn go_back_to(&mut self, found: u64, connection: &Connection) -> Checked {
        let Promise { must, last, under_way, .. } = self.machine.current();
        let at = (must..=last).rev().find(|at| self.history[*at] == found);
        match at {
            Some(at) if at == last => {}
            Some(at) => self.machine_keeps(at, connection),
            None if under_way == Some(found) => {
                self.history.push(found);
                self.machine_keeps(last + 1, connection);
            }
            None => {
                return Err(format!(
                    "an opening after a failure finds a state that is not {must}..={last} or the next"
                ));
            }
        }
        let last = self.history.len() - 1;
        self.machine.promise(|promise| *promise = Promise { must: last, kept: last, last, under_way: None });
        Ok(())
    }

    fn machine_keeps(&mut self, at: usize, connection: &Connection) {
        self.say(format!("  after the failure: state {at}"));
        self.earlier.push((self.machine.take_moments(), self.history.clone()));
        self.history.truncate(at + 1);
        self.machine.count("openings after a failure that lost something");
        self.twin = copy(connection);
    }

    /// An error that a statement may get in this world, or a violation.
    fn fails(&mut self, what: &str, error: &Error) -> Checked {
        self.say(format!("  {what}: {error:?}"));
        if primary(error) == ffi::SQLITE_FULL {
            self.machine.count("refusals of a full disk");
        }
        let is_allowed = is_busy(error)
            || is_of_sql(error)
            || (self.character.fills && primary(error) == ffi::SQLITE_FULL)
            || (self.machine.disk.plan().fired() > 0
                && matches!(primary(error), ffi::SQLITE_IOERR | ffi::SQLITE_FULL | ffi::SQLITE_CANTOPEN));
        if is_allowed { Ok(()) } else { Err(format!("{what} fails on a healthy machine: {error:?}")) }
    }

    fn set_level(&mut self, at: usize, level: usize) -> Checked {
        let sql = format!("PRAGMA synchronous={}", LEVELS[level].0);
        match self.clients[at].connection.execute_batch(&sql) {
            Ok(()) => {
                self.clients[at].level = level;
                Ok(())
            }
            Err(error) => self.fails(&sql, &error),
        }
    }

    /// The journal mode of the file, read anew.
    fn journal_mode(&mut self, at: usize) -> Option<String> {
        let connection = &self.clients[at].connection;
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(())).ok()?;
        connection.query_row("PRAGMA journal_mode", [], |row| row.get(0)).ok()
    }

    /// Whether a commit of this connection stays when the power goes.
    fn is_durable(&self, at: usize) -> bool {
        LEVELS[self.clients[at].level].1
    }

    pub fn step(&mut self, mut dice: Dice) -> Checked {
        let dice = &mut dice;
        if self.clients.is_empty() || (self.clients.len() < self.character.connections && dice.percent(20)) {
            let process = match self.character.stock {
                true => None,
                false => Some(dice.index(self.character.processes)),
            };
            self.say(format!("open on {process:?}"));
            return self.client(process);
        }
        let at = dice.index(self.clients.len());
        if self.clients[at].transaction.is_some() {
            return self.go_on(at, dice);
        }
        match dice.below(100) {
            0..30 => self.begin(at, dice),
            30..58 => self.autocommit(at, dice),
            58..64 => self.begin_read(at, dice),
            64..74 => self.checkpoint(at, dice),
            74..79 => {
                let level = dice.index(if self.character.stock { 3 } else { 4 });
                self.set_level(at, level)
            }
            79..81 => self.vacuum(at),
            81..84 if self.character.switches => self.switch(at, dice),
            81..88 => {
                self.say(format!("{at} closes"));
                let client = self.clients.remove(at);
                self.close(client)
            }
            88..91 => {
                let sql = dice.pick(&[
                    "PRAGMA cache_size=1",
                    "PRAGMA cache_size=100",
                    "PRAGMA wal_autocheckpoint=3",
                    "PRAGMA wal_autocheckpoint=1000",
                    "PRAGMA parallel_wal_mode=conservative",
                    "PRAGMA parallel_wal_mode=auto",
                ]);
                self.pragma(at, sql)
            }
            _ => self.background(dice),
        }
    }

    fn pragma(&mut self, at: usize, sql: &str) -> Checked {
        self.say(format!("{at}: {sql}"));
        let done = self.clients[at].connection.prepare(sql).and_then(|mut statement| {
            let mut rows = statement.query([])?;
            while rows.next()?.is_some() {}
            Ok(())
        });
        done.or_else(|error| self.fails(sql, &error))
    }

    fn close(&mut self, client: Client) -> Checked {
        let Client { connection, .. } = client;
        match connection.close() {
            Ok(()) => Ok(()),
            Err((_, error)) => self.fails("close", &error),
        }
    }

    /// With a rollback journal a connection has EXTRA: without a sync of the directory a deleted journal may come back, and where
    /// its transaction made the file shorter (`pager_end_transaction` does that last) it cannot be rolled back any more.
    fn prepare_to_write(&mut self, at: usize) -> Result<Option<String>, String> {
        let Some(mode) = self.journal_mode(at) else { return Ok(None) };
        if mode != "wal" {
            self.set_level(at, EXTRA)?;
        }
        Ok(Some(mode))
    }

    fn begin(&mut self, at: usize, dice: &mut Dice) -> Checked {
        if self.prepare_to_write(at)?.is_none() {
            return Ok(());
        }
        let sql = dice.pick(&["BEGIN IMMEDIATE", "BEGIN IMMEDIATE", "BEGIN; SELECT count(*) FROM n"]);
        self.say(format!("{at}: {sql}"));
        match self.clients[at].connection.execute_batch(sql) {
            Ok(()) => {
                self.clients[at].transaction = Some(Vec::new());
                Ok(())
            }
            Err(error) => {
                self.roll_back(at)?;
                self.fails(sql, &error)
            }
        }
    }

    fn begin_read(&mut self, at: usize, dice: &mut Dice) -> Checked {
        self.begin(at, dice)?;
        let sql = script::read(dice);
        self.pragma(at, &sql)
    }

    fn go_on(&mut self, at: usize, dice: &mut Dice) -> Checked {
        match dice.below(10) {
            0..5 => {
                let sql = script::write(dice);
                self.write(at, &sql)
            }
            5 => {
                let sql = dice.pick(&["SAVEPOINT s", "ROLLBACK TO s", "RELEASE s"]);
                self.write(at, sql)
            }
            6 => {
                let sql = script::read(dice);
                self.pragma(at, &sql)
            }
            7 => {
                self.say(format!("{at}: ROLLBACK"));
                self.roll_back(at)
            }
            _ => self.commit(at),
        }
    }

    fn write(&mut self, at: usize, sql: &str) -> Checked {
        self.say(format!("{at}: {sql}"));
        let done = self.clients[at].connection.execute_batch(sql);
        let is_over = self.clients[at].connection.is_autocommit();
        if is_over {
            // As SQLite rolls back what has failed half way.
            self.clients[at].transaction = None;
        } else if done.is_ok()
            && let Some(statements) = &mut self.clients[at].transaction
        {
            statements.push(sql.to_owned());
        }
        match done {
            Err(error) => {
                if !is_of_sql(&error) && !is_over {
                    self.roll_back(at)?;
                }
                self.fails(sql, &error)
            }
            Ok(()) => Ok(()),
        }
    }

    fn roll_back(&mut self, at: usize) -> Checked {
        self.clients[at].transaction = None;
        if !self.clients[at].connection.is_autocommit()
            && let Err(error) = self.clients[at].connection.execute_batch("ROLLBACK")
        {
            return self.fails("ROLLBACK", &error);
        }
        Ok(())
    }

    fn commit(&mut self, at: usize) -> Checked {
        let Some(statements) = self.clients[at].transaction.take() else { return Ok(()) };
        self.answered(at, &statements, "COMMIT")?;
        self.roll_back(at)
    }

    fn autocommit(&mut self, at: usize, dice: &mut Dice) -> Checked {
        if self.prepare_to_write(at)?.is_none() {
            return Ok(());
        }
        let sql = script::write(dice);
        self.answered(at, std::slice::from_ref(&sql), &sql)
    }

    /// The twin does the statements first, then SQLite is asked for the last word: `sql`.
    fn answered(&mut self, at: usize, statements: &[String], sql: &str) -> Checked {
        let mode: String = {
            let connection = &self.clients[at].connection;
            connection.query_row("PRAGMA journal_mode", [], |row| row.get(0)).map_err(|error| format!("{error:?}"))?
        };
        self.twin.execute_batch("BEGIN").expect("the twin begins");
        for statement in statements {
            // A single statement may fail, here and there in the same way.
            let _either = self.twin.execute_batch(statement);
        }
        let then = state(&self.twin).expect("a state");
        let now = self.history[self.history.len() - 1];
        if !self.is_unknown() {
            self.machine.promise(|promise| promise.under_way = Some(then));
        }
        let done = self.clients[at].connection.execute_batch(sql);
        let level = LEVELS[self.clients[at].level].0;
        match done {
            Ok(()) => {
                self.twin.execute_batch("COMMIT").expect("the twin commits");
                self.machine.count("commits");
                if mode != "wal" {
                    self.machine.count("commits with a journal");
                }
                self.history.push(then);
                let last = self.history.len() - 1;
                let is_durable = then != now && self.is_durable(at);
                // A commit of which nobody knows stays in doubt, also when a transaction that wrote nothing ends.
                let stays_in_doubt = self.is_unknown();
                self.machine.promise(|promise| {
                    if !stays_in_doubt {
                        promise.under_way = None;
                    }
                    promise.last = last;
                    promise.kept = last;
                    if is_durable {
                        promise.must = last;
                    }
                });
                self.say(format!("{at}: {sql}: commit {last} ({mode}, {level}) of {}", self.machine.operations()));
                Ok(())
            }
            Err(error) => {
                self.twin.execute_batch("ROLLBACK").expect("the twin rolls back");
                let is_unknown = self.is_unknown();
                if !is_unknown {
                    self.machine.promise(|promise| promise.under_way = None);
                }
                self.say(format!("{at}: {sql} ({mode}, {level}) failed, outcome unknown {is_unknown}"));
                self.fails(sql, &error)
            }
        }
    }

    /// What an engine that has failed says of the commits that were not answered with OK.
    fn is_unknown(&self) -> bool {
        (0..self.character.processes).any(|process| {
            let engine = registration(process).context.registry.engine_of(&self.machine.path());
            engine.is_some_and(|engine| engine.is_outcome_unknown())
        })
    }

    fn checkpoint(&mut self, at: usize, dice: &mut Dice) -> Checked {
        let kind = dice.pick(&["PASSIVE", "FULL", "RESTART", "TRUNCATE"]);
        self.pragma(at, &format!("PRAGMA wal_checkpoint({kind})"))
    }

    fn vacuum(&mut self, at: usize) -> Checked {
        if self.prepare_to_write(at)?.is_some() { self.pragma(at, "VACUUM") } else { Ok(()) }
    }

    fn switch(&mut self, at: usize, dice: &mut Dice) -> Checked {
        let mode = dice.pick(&["WAL", "WAL", "WAL", "DELETE", "TRUNCATE", "PERSIST"]);
        self.set_level(at, EXTRA)?;
        self.pragma(at, &format!("PRAGMA journal_mode={mode}"))?;
        let now = self.journal_mode(at);
        self.say(format!("{at}: {now:?}"));
        Ok(())
    }

    /// What the threads of an engine would do.
    fn background(&mut self, dice: &mut Dice) -> Checked {
        let work = dice.pick(&[
            Work::NextSegment,
            Work::NextSegment,
            Work::Checkpoint,
            Work::IdleCheckpoint,
            Work::Flush,
            Work::Rest,
        ]);
        let process = dice.index(self.character.processes);
        let Some(engine) = registration(process).context.registry.engine_of(&self.machine.path()) else {
            return Ok(());
        };
        let done = engine.work_by_hand(work);
        self.say(format!("{work:?} in process {process}: {done:?}"));
        match done {
            Err(error)
                if error.code().primary() != crate::sqlite::Code::BUSY
                    && self.machine.disk.plan().fired() == 0
                    && !self.character.fills =>
            {
                Err(format!("{work:?} fails on a healthy machine: {error}"))
            }
            _ => Ok(()),
        }
    }

    /// The machine is over: what is open closes on a disk that is not there any more.
    pub fn end(mut self) -> Ended {
        // What these write is not the history's.
        let mut moments = std::mem::take(&mut self.earlier);
        moments.push((self.machine.take_moments(), self.history.clone()));
        for client in self.clients.drain(..) {
            drop(client.connection);
        }
        Ended { history: self.history, moments, events: self.events }
    }

    /// All connections close.
    pub fn close_all(&mut self) -> Checked {
        for at in 0..self.clients.len() {
            self.roll_back(at)?;
        }
        while let Some(client) = self.clients.pop() {
            self.close(client)?;
        }
        Ok(())
    }
}
