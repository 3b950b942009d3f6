//! One life of a machine: connections of up to four processes work in turn, and plain databases in memory do what was
//! committed, commit by commit.

pub mod meanwhile;

use super::machine::{Machine, Member, Moment, Promise, Set};
use super::state::state;
use super::{Character, NAMES, medium, process_vfs, registration, script};
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

/// The states of each database since a life began, one for each of its commits.
pub type Histories = Vec<Vec<u64>>;

/// A statement, with `$` for the name of its database; a savepoint has none.
#[derive(Clone, Debug)]
struct Statement {
    file: Option<usize>,
    sql: String,
}

struct Client {
    /// `None`: stock SQLite on the medium.
    process: Option<usize>,
    connection: Connection,
    /// The databases, the first one as `main`.
    files: Vec<usize>,
    /// The number of its own table ([`script::derive`]).
    place: usize,
    /// The statements of its transaction that worked.
    transaction: Option<Vec<Statement>>,
    /// By the number of the database.
    levels: [usize; NAMES.len()],
}

impl Client {
    fn schema(&self, file: usize) -> String {
        schema(&self.files, file)
    }

    /// Whether its open transaction has written.
    fn has_written(&self) -> bool {
        self.transaction.as_ref().is_some_and(|statements| statements.iter().any(|statement| statement.file.is_some()))
    }

    fn text(&self, statement: &Statement) -> String {
        statement
            .file
            .map_or_else(|| statement.sql.clone(), |file| script::in_schema(&statement.sql, &self.schema(file)))
    }

    fn any_file(&self, dice: &mut Dice) -> usize {
        self.files[dice.index(self.files.len())]
    }
}

/// The name of a database in a connection that has these.
pub fn schema(files: &[usize], file: usize) -> String {
    if files[0] == file { String::from("main") } else { twin_schema(file) }
}

/// Its name in the twin.
fn twin_schema(file: usize) -> String {
    format!("d{file}")
}

pub struct Life {
    pub machine: Arc<Machine>,
    character: Character,
    clients: Vec<Client>,
    /// Those that have had a connection.
    processes: BTreeSet<usize>,
    twin: Connection,
    pub histories: Histories,
    /// The moments before a failure took commits away, with the histories as they were then.
    earlier: Vec<(Vec<Moment>, Histories)>,
    pub events: Vec<String>,
}

/// What is left of a life.
pub struct Ended {
    pub histories: Histories,
    /// The moments at which its machine could have stopped, with the histories at each.
    pub moments: Vec<(Vec<Moment>, Histories)>,
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

/// Others have committed since its snapshot what it cannot go on with.
fn is_lost(error: &Error) -> bool {
    error.sqlite_error().is_some_and(|error| error.extended_code == ffi::SQLITE_BUSY_SNAPSHOT)
}

/// It fails in the same way wherever it is run.
fn is_of_sql(error: &Error) -> bool {
    matches!(primary(error), ffi::SQLITE_ERROR | ffi::SQLITE_CONSTRAINT)
}

/// A connection to these databases, the first one as `main`.
pub fn open(machine: &Machine, process: Option<usize>, files: &[usize]) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let name = process.map_or_else(|| medium::MEDIUM.to_owned(), process_vfs);
    let connection = Connection::open_with_flags_and_vfs(machine.path(files[0]), flags, name.as_str())?;
    connection.busy_timeout(Duration::ZERO)?;
    for file in &files[1..] {
        let path = machine.path(*file);
        connection.execute_batch(&format!("ATTACH '{}' AS {}", path.display(), schema(files, *file)))?;
    }
    Ok(connection)
}

fn copy_one(connection: &Connection, files: &[usize], file: usize, twin: &mut Connection) {
    let backup = Backup::new_with_names(connection, schema(files, file).as_str(), twin, twin_schema(file).as_str());
    let copied = backup.and_then(|backup| backup.run_to_completion(i32::MAX, Duration::ZERO, None));
    copied.expect("a copy");
}

/// The same databases in memory.
pub fn copy(connection: &Connection, files: &[usize]) -> Connection {
    let mut twin = Connection::open_in_memory().expect("a twin");
    for file in files {
        twin.execute_batch(&format!("ATTACH ':memory:' AS {}", twin_schema(*file))).expect("a twin");
        copy_one(connection, files, *file, &mut twin);
    }
    twin
}

/// What a commit does to one database.
struct Write {
    file: usize,
    then: u64,
    changes: bool,
    has_journal: bool,
}

/// The databases that statements write.
fn written(statements: &[Statement]) -> Vec<usize> {
    let files: BTreeSet<usize> = statements.iter().filter_map(|statement| statement.file).collect();
    files.into_iter().collect()
}

impl Life {
    /// With what was found on the disk, which `twin` has, too.
    pub fn new(machine: Arc<Machine>, character: Character, twin: Connection) -> Life {
        let begun = |file| vec![state(&twin, &twin_schema(file)).expect("a state")];
        let histories = (0..character.files).map(begun).collect();
        Life {
            machine,
            character,
            clients: Vec::new(),
            processes: BTreeSet::new(),
            twin,
            histories,
            earlier: Vec::new(),
            events: Vec::new(),
        }
    }

    fn say(&mut self, event: String) {
        self.events.push(event);
    }

    fn client(&mut self, process: Option<usize>, files: Vec<usize>) -> Checked {
        let opened = open(&self.machine, process, &files).and_then(|connection| {
            for file in &files {
                let sql = format!("SELECT count(*) FROM {}.sqlite_schema", schema(&files, *file));
                connection.query_row(&sql, [], |_| Ok(()))?;
            }
            Ok(connection)
        });
        let connection = match opened {
            Ok(connection) => connection,
            Err(error) if is_busy(&error) => return Ok(()),
            Err(error) => return self.fails("open", &error),
        };
        for file in &files {
            self.joins(process, *file, &files, &connection)?;
        }
        if self.character.beside {
            for file in &files {
                let sql = format!("PRAGMA {}.parallel_wal_writers=concurrent", schema(&files, *file));
                if let Err(error) = connection.query_row(&sql, [], |_| Ok(())) {
                    return self.fails(&sql, &error);
                }
            }
        }
        let place = (0..).find(|place| self.clients.iter().all(|client| client.place != *place)).unwrap_or(0);
        self.clients.push(Client { process, connection, files, place, transaction: None, levels: [0; NAMES.len()] });
        self.processes.extend(process);
        if self.processes.len() == 4 {
            self.machine.count("lives of more than three processes");
            self.processes.clear();
        }
        self.set_levels(self.clients.len() - 1, 0)
    }

    /// A connection opened a database.
    fn joins(&mut self, process: Option<usize>, file: usize, files: &[usize], connection: &Connection) -> Checked {
        let mut others = self.clients.iter().filter(|client| client.files.contains(&file)).peekable();
        let is_first = others.peek().is_none();
        let attaches = process.is_some() && others.any(|client| client.process != process);
        if attaches {
            self.machine.count("processes that attached");
        }
        if let Some(process) = process
            && let Some(engine) = registration(process).context.registry.engine_of(&self.machine.path(file))
            && is_first
        {
            engine.make_small(self.character.segment_bytes, self.character.batch_bytes);
        }
        if is_first && self.machine.disk.plan().fired() > 0 {
            match state(connection, &schema(files, file)) {
                Ok(found) => self.go_back_to(file, found, files, connection)?,
                Err(error) => return self.fails("read", &error),
            }
        }
        Ok(())
    }

    /// An engine has failed, and the database was opened anew: what was not durable may be gone with a failed sync.
    fn go_back_to(&mut self, file: usize, found: u64, files: &[usize], connection: &Connection) -> Checked {
        let Promise { must, last, under_way, .. } = self.machine.current().files[file];
        let at = (must..=last).rev().find(|at| self.histories[file][*at] == found);
        match at {
            Some(at) if at == last => {}
            Some(at) => self.machine_keeps(file, at, files, connection),
            None if under_way == Some(found) => {
                self.histories[file].push(found);
                self.machine_keeps(file, last + 1, files, connection);
            }
            None => {
                return Err(format!(
                    "an opening after a failure finds a state that is not {must}..={last} or the next"
                ));
            }
        }
        let last = self.histories[file].len() - 1;
        self.machine.promise(file, |promise| *promise = Promise { must: last, kept: last, last, under_way: None });
        Ok(())
    }

    fn machine_keeps(&mut self, file: usize, at: usize, files: &[usize], connection: &Connection) {
        self.say(format!("  after the failure: state {at} of {}", NAMES[file]));
        self.earlier.push((self.machine.take_moments(), self.histories.clone()));
        self.histories[file].truncate(at + 1);
        self.machine.count("openings after a failure that lost something");
        copy_one(connection, files, file, &mut self.twin);
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

    fn set_level(&mut self, at: usize, file: usize, level: usize) -> Checked {
        let client = &mut self.clients[at];
        let sql = format!("PRAGMA {}.synchronous={}", client.schema(file), LEVELS[level].0);
        match client.connection.execute_batch(&sql) {
            Ok(()) => {
                client.levels[file] = level;
                Ok(())
            }
            Err(error) => self.fails(&sql, &error),
        }
    }

    fn set_levels(&mut self, at: usize, level: usize) -> Checked {
        for file in self.clients[at].files.clone() {
            self.set_level(at, file, level)?;
        }
        Ok(())
    }

    /// The journal mode of the file, read anew.
    fn journal_mode(&mut self, at: usize, file: usize) -> Option<String> {
        let Client { connection, files, .. } = &self.clients[at];
        let schema = schema(files, file);
        connection.query_row(&format!("SELECT count(*) FROM {schema}.sqlite_schema"), [], |_| Ok(())).ok()?;
        self.present_mode(at, file).ok()
    }

    /// The journal mode of a connection that has read.
    fn present_mode(&self, at: usize, file: usize) -> rusqlite::Result<String> {
        let client = &self.clients[at];
        client.connection.query_row(&format!("PRAGMA {}.journal_mode", client.schema(file)), [], |row| row.get(0))
    }

    /// Whether a commit of this connection stays when the power goes.
    fn is_durable(&self, at: usize, file: usize) -> bool {
        LEVELS[self.clients[at].levels[file]].1
    }

    /// The databases of a new connection, most often all.
    fn some_files(&self, dice: &mut Dice) -> Vec<usize> {
        let mut files: Vec<usize> = (0..self.character.files).collect();
        let first = dice.index(files.len());
        files.rotate_left(first);
        if files.len() > 1 && dice.percent(30) {
            files.truncate(1 + dice.index(files.len()));
        }
        files
    }

    /// The process of a new connection. One that falls behind has a single one.
    fn some_process(&self, dice: &mut Dice) -> usize {
        let processes = self.character.processes;
        match self.clients.first() {
            Some(Client { process: Some(first), .. }) if self.character.falls_behind && processes > 1 => {
                (first + 1 + dice.index(processes - 1)) % processes
            }
            _ => dice.index(processes),
        }
    }

    pub fn step(&mut self, mut dice: Dice) -> Checked {
        let dice = &mut dice;
        if self.clients.is_empty() || (self.clients.len() < self.character.connections && dice.percent(20)) {
            let process = match self.character.stock {
                true => None,
                false => Some(self.some_process(dice)),
            };
            let files = self.some_files(dice);
            self.say(format!("open {files:?} on {process:?}"));
            return self.client(process, files);
        }
        let mut at = dice.index(self.clients.len());
        if self.character.falls_behind && at == 0 && !dice.percent(10) {
            at = self.clients.len() - 1;
        }
        if self.clients[at].transaction.is_some() {
            return self.go_on(at, dice);
        }
        match dice.below(100) {
            0..30 | 64..74 if self.character.falls_behind => self.autocommit(at, dice),
            0..30 => self.begin(at, dice),
            30..50 if self.character.beside => self.begin(at, dice),
            30..58 => self.autocommit(at, dice),
            58..64 => self.begin_read(at, dice),
            64..74 => self.checkpoint(at, dice),
            74..79 => {
                let level = dice.index(if self.character.stock { 3 } else { 4 });
                let file = self.clients[at].any_file(dice);
                if dice.percent(50) { self.set_level(at, file, level) } else { self.set_levels(at, level) }
            }
            79..81 => self.vacuum(at, dice),
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
    fn prepare_to_write(&mut self, at: usize) -> Result<bool, String> {
        for file in self.clients[at].files.clone() {
            let Some(mode) = self.journal_mode(at, file) else { return Ok(false) };
            if mode != "wal" {
                self.set_level(at, file, EXTRA)?;
            }
        }
        Ok(true)
    }

    fn begin(&mut self, at: usize, dice: &mut Dice) -> Checked {
        if !self.prepare_to_write(at)? {
            return Ok(());
        }
        let file = self.clients[at].any_file(dice);
        let reads = format!("BEGIN; SELECT count(*) FROM {}.n", self.clients[at].schema(file));
        // Transactions that write beside others begin with BEGIN.
        let often = if self.character.beside { "BEGIN" } else { "BEGIN IMMEDIATE" };
        let sql = dice.pick(&["BEGIN IMMEDIATE", often, &reads]);
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
        self.read(at, dice)
    }

    fn read(&mut self, at: usize, dice: &mut Dice) -> Checked {
        let file = self.clients[at].any_file(dice);
        let sql = script::in_schema(&script::read(dice), &self.clients[at].schema(file));
        let done = self.pragma(at, &sql);
        if self.clients[at].connection.is_autocommit() {
            // As SQLite rolls back where a read fails: what follows is not in the transaction.
            self.clients[at].transaction = None;
        }
        done
    }

    fn go_on(&mut self, at: usize, dice: &mut Dice) -> Checked {
        match dice.below(10) {
            0..5 => {
                let file = self.clients[at].any_file(dice);
                let sql = match self.character.beside && dice.percent(60) {
                    true => script::derive(dice, self.clients[at].place),
                    false => script::write(dice),
                };
                let ignores = self.character.beside && dice.percent(60);
                self.write(at, &Statement { file: Some(file), sql }, ignores)
            }
            5 => {
                let sql = dice.pick(&["SAVEPOINT s", "ROLLBACK TO s", "RELEASE s"]);
                self.write(at, &Statement { file: None, sql: sql.to_owned() }, false)
            }
            6 => self.read(at, dice),
            7 => {
                self.say(format!("{at}: ROLLBACK"));
                self.roll_back(at)
            }
            _ => self.commit(at, dice),
        }
    }

    /// `ignores`: as an application that ignores that the statement is refused. Its transaction is what has worked, though a statement
    /// may have ended in its midst.
    fn write(&mut self, at: usize, statement: &Statement, ignores: bool) -> Checked {
        let sql = self.clients[at].text(statement);
        self.say(format!("{at}: {sql}"));
        let done = self.clients[at].connection.execute_batch(&sql);
        let is_over = self.clients[at].connection.is_autocommit();
        if is_over {
            // As SQLite rolls back what has failed half way.
            self.clients[at].transaction = None;
        } else if done.is_ok()
            && let Some(statements) = &mut self.clients[at].transaction
        {
            statements.push(statement.clone());
        }
        match done {
            Err(error) => {
                if ignores && is_lost(&error) && !is_over {
                    self.machine.count("refused statements of transactions that went on");
                } else if !is_of_sql(&error) && !is_over {
                    self.roll_back(at)?;
                }
                self.fails(&sql, &error)
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

    fn commit(&mut self, at: usize, dice: &mut Dice) -> Checked {
        let written = written(self.clients[at].transaction.as_deref().unwrap_or_default());
        // Beside others one that writes nothing after all comes before those that were committed meanwhile.
        if written.len() > 1 || self.character.beside {
            self.mark(at, &written, dice)?;
        }
        let other = self.other_writer(at).filter(|_| self.character.beside && dice.percent(40));
        if let Some(other) = other {
            self.mark(other, &[0], dice)?;
        }
        let Some(statements) = self.clients[at].transaction.take() else { return Ok(()) };
        if let Some(other) = other.filter(|_| !statements.is_empty())
            && let Some(others) = self.clients[other].transaction.take()
        {
            return self.commit_with((at, &statements), (other, others));
        }
        self.answered(at, &statements, "COMMIT")?;
        self.roll_back(at)?;
        // A single statement right after it: SQLite has in its cache what it was shown in the transaction.
        if self.character.beside && dice.percent(30) { self.autocommit(at, dice) } else { Ok(()) }
    }

    /// No state before its commit is one after it.
    fn mark(&mut self, at: usize, files: &[usize], dice: &mut Dice) -> Checked {
        let value = dice.next() >> 2;
        let sql = match self.character.beside {
            true => format!("REPLACE INTO $m{} VALUES(9, {value})", self.clients[at].place),
            false => format!("REPLACE INTO $n VALUES(2, {value})"),
        };
        files.iter().try_for_each(|file| self.write(at, &Statement { file: Some(*file), sql: sql.clone() }, false))
    }

    fn autocommit(&mut self, at: usize, dice: &mut Dice) -> Checked {
        if !self.prepare_to_write(at)? {
            return Ok(());
        }
        let file = self.clients[at].any_file(dice);
        let statement = Statement { file: Some(file), sql: script::write(dice) };
        let sql = self.clients[at].text(&statement);
        self.answered(at, &[statement], &sql)
    }

    /// The twin does the statements first, then SQLite is asked for the last word: `sql`.
    fn answered(&mut self, at: usize, statements: &[Statement], sql: &str) -> Checked {
        self.twin.execute_batch("BEGIN").expect("the twin begins");
        for Statement { file, sql } in statements {
            let sql = file.map_or_else(|| sql.clone(), |file| script::in_schema(sql, &twin_schema(file)));
            // A single statement may fail, here and there in the same way.
            let _either = self.twin.execute_batch(&sql);
        }
        let mut writes = Vec::new();
        for file in written(statements) {
            let mode = self.present_mode(at, file).map_err(|error| format!("{error:?}"))?;
            let then = state(&self.twin, &twin_schema(file)).expect("a state");
            let changes = self.histories[file].last() != Some(&then);
            writes.push(Write { file, then, changes, has_journal: mode != "wal" });
        }
        let set = self.expect(&writes);
        // Others that have written since its BEGIN are open, or committed.
        let is_beside =
            self.character.beside && sql == "COMMIT" && self.clients.iter().any(|client| client.has_written());
        let done = self.clients[at].connection.execute_batch(sql);
        let shown = |at: usize, write: &Write| {
            let level = LEVELS[self.clients[at].levels[write.file]].0;
            let mode = if write.has_journal { "journal" } else { "wal" };
            format!(" {} {} ({mode}, {level})", NAMES[write.file], self.histories[write.file].len())
        };
        let shown: String = writes.iter().map(|write| shown(at, write)).collect();
        match done {
            Ok(()) => {
                self.twin.execute_batch("COMMIT").expect("the twin commits");
                self.machine.count("commits");
                if is_beside {
                    self.machine.count("commits beside others");
                }
                if let Some(set) = &set {
                    self.machine.count("commits of several databases");
                    if set.has_super_journal() {
                        self.machine.count("commits with a super-journal");
                    }
                }
                writes.iter().for_each(|write| self.committed(at, write));
                self.say(format!("{at}: {sql}: commit{shown} of {}", self.machine.operations()));
                Ok(())
            }
            Err(error) => {
                self.twin.execute_batch("ROLLBACK").expect("the twin rolls back");
                if self.character.beside && is_lost(&error) {
                    self.machine.count("transactions that lost");
                }
                let mut is_unknown = false;
                for write in &writes {
                    if self.is_unknown(write.file) {
                        is_unknown = true;
                    } else {
                        self.machine.promise(write.file, |promise| promise.under_way = None);
                    }
                }
                if set.is_some() && !is_unknown {
                    self.machine.sets(|sets| drop(sets.pop()));
                }
                self.say(format!("{at}: {sql}:{shown} failed, outcome unknown {is_unknown}"));
                self.fails(sql, &error)
            }
        }
    }

    /// Before the last word: what may be there if the machine stops in it. Returns the commit of several databases that it is.
    fn expect(&mut self, writes: &[Write]) -> Option<Set> {
        for write in writes {
            if !self.is_unknown(write.file) {
                self.machine.promise(write.file, |promise| promise.under_way = Some(write.then));
            }
        }
        let member = |write: &Write| Member {
            file: write.file,
            number: self.histories[write.file].len(),
            has_journal: write.has_journal,
        };
        let set = Set(writes.iter().filter(|write| write.changes).map(member).collect());
        if set.0.len() < 2 {
            return None;
        }
        self.machine.sets(|sets| sets.push(set.clone()));
        Some(set)
    }

    fn committed(&mut self, at: usize, write: &Write) {
        let file = write.file;
        if write.has_journal {
            self.machine.count("commits with a journal");
        }
        self.histories[file].push(write.then);
        let last = self.histories[file].len() - 1;
        let is_durable = write.changes && self.is_durable(at, file);
        // A commit of which nobody knows stays in doubt, also when a transaction that wrote nothing ends.
        let stays_in_doubt = self.is_unknown(file);
        self.machine.promise(file, |promise| {
            if !stays_in_doubt {
                promise.under_way = None;
            }
            promise.last = last;
            promise.kept = last;
            if is_durable {
                promise.must = last;
            }
        });
    }

    /// What an engine that has failed says of the commits that were not answered with OK.
    fn is_unknown(&self, file: usize) -> bool {
        (0..self.character.processes).any(|process| {
            let engine = registration(process).context.registry.engine_of(&self.machine.path(file));
            engine.is_some_and(|engine| engine.is_outcome_unknown())
        })
    }

    fn checkpoint(&mut self, at: usize, dice: &mut Dice) -> Checked {
        let kind = dice.pick(&["PASSIVE", "FULL", "RESTART", "TRUNCATE"]);
        let file = self.clients[at].any_file(dice);
        // Without a name: all of them.
        let name = if dice.percent(50) { format!("{}.", self.clients[at].schema(file)) } else { String::new() };
        self.pragma(at, &format!("PRAGMA {name}wal_checkpoint({kind})"))
    }

    fn vacuum(&mut self, at: usize, dice: &mut Dice) -> Checked {
        if !self.prepare_to_write(at)? {
            return Ok(());
        }
        let file = self.clients[at].any_file(dice);
        self.pragma(at, &format!("VACUUM {}", self.clients[at].schema(file)))
    }

    fn switch(&mut self, at: usize, dice: &mut Dice) -> Checked {
        let mode = dice.pick(&["WAL", "WAL", "WAL", "DELETE", "TRUNCATE", "PERSIST"]);
        let file = self.clients[at].any_file(dice);
        self.set_level(at, file, EXTRA)?;
        self.pragma(at, &format!("PRAGMA {}.journal_mode={mode}", self.clients[at].schema(file)))?;
        let now = self.journal_mode(at, file);
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
        if self.character.falls_behind && matches!(work, Work::Checkpoint | Work::IdleCheckpoint | Work::Rest) {
            return Ok(());
        }
        let (process, file) = (dice.index(self.character.processes), dice.index(self.character.files));
        let Some(engine) = registration(process).context.registry.engine_of(&self.machine.path(file)) else {
            return Ok(());
        };
        let done = engine.work_by_hand(work);
        self.say(format!("{work:?} of {} in process {process}: {done:?}", NAMES[file]));
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
        moments.push((self.machine.take_moments(), self.histories.clone()));
        for client in self.clients.drain(..) {
            drop(client.connection);
        }
        Ended { histories: self.histories, moments, events: self.events }
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
