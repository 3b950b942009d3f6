//! A registration of pwal on a base and a disk that fail as planned, and the books that are kept of each commit.

use super::scene::Scene;
use pwal::internal::disk::RealDisk;
use pwal::internal::disk::fault::{Effect, Fault, Operation, Plan};
use pwal::internal::disk::hooked::HookedDisk;
use rusqlite::{Connection, ffi};
use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use support::{
    self, Scratch,
    shim::{Shim, Verdict},
};

/// Which files fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    Log,
    Database,
}

/// The rows of one of two transactions beside each other are far from the other's.
const FAR: i64 = 1_000_000;

/// One planned failure.
#[derive(Clone, Debug)]
pub struct Case {
    pub target: Target,
    pub operation: Operation,
    pub name: String,
    pub effect: Effect,
    pub goes_on: bool,
    pub nth: u64,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Case { target, operation, name, effect, goes_on, nth } = self;
        write!(f, "{target:?} {operation:?} {name:?} {effect:?} {nth}{}", if *goes_on { " and all later" } else { "" })
    }
}

/// The failures of the database file that are planned.
#[derive(Default)]
struct Base {
    case: Option<Case>,
    seen: u64,
    fired: u64,
}

pub struct World {
    vfs: String,
    /// What stands for another process: the VFS once more, with engines of its own.
    other: String,
    plan: Plan,
    base: Arc<Mutex<Base>>,
}

// The plan's locks are never left in the middle of a change.
impl std::panic::RefUnwindSafe for World {}

impl World {
    pub fn new() -> World {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        support::vfs();
        let base = Arc::new(Mutex::new(Base::default()));
        let below = format!("failing-{number}");
        let shim = Shim::register(&below, support::STOCK, false);
        let failing = Arc::clone(&base);
        shim.hook(move |moment| failing.lock().unwrap().verdict(moment.text));
        let plan = Plan::default();
        let register = |vfs: &str| {
            let disk = Arc::new(HookedDisk::new(Arc::new(RealDisk), Arc::new(plan.clone())));
            pwal::Vfs::builder().name(vfs).base(&below).disk(disk).register().expect("register");
        };
        let (vfs, other) = (format!("pwal-failing-{number}"), format!("pwal-failing-{number}-other"));
        register(&vfs);
        register(&other);
        World { vfs, other, plan, base }
    }

    /// Plays a scene with a failure in it; says whether it came to the failure.
    pub fn play(&self, scene: &Scene, case: &Case) -> bool {
        self.calm();
        let mut books = Books {
            world: self,
            scratch: Scratch::in_memory(),
            acknowledged: BTreeSet::new(),
            failed: BTreeSet::new(),
            maybe: BTreeSet::new(),
            half: BTreeSet::new(),
            half_seen: BTreeSet::new(),
            next: 1,
            unknown: false,
            kills_at_failure: false,
        };
        (scene.play)(&mut books, &|| self.strike(case));
        let fired = self.calm();
        books.close_the_books();
        fired > 0
    }

    fn strike(&self, case: &Case) {
        match case.target {
            Target::Log => self.plan.add(Fault {
                operation: case.operation,
                name_contains: case.name.clone(),
                nth: case.nth,
                effect: case.effect,
                goes_on: case.goes_on,
            }),
            Target::Database => *self.base.lock().unwrap() = Base { case: Some(case.clone()), ..Base::default() },
        }
    }

    /// From here on nothing fails; how much did since the last time.
    fn calm(&self) -> u64 {
        let fired = self.plan.fired() + self.base.lock().unwrap().fired;
        self.plan.reset();
        *self.base.lock().unwrap() = Base::default();
        fired
    }
}

impl Base {
    fn verdict(&mut self, text: &str) -> Verdict {
        let Some(case) = &self.case else { return Verdict::Pass };
        let (word, code) = match case.operation {
            Operation::Write => ("write ", ffi::SQLITE_IOERR_WRITE),
            Operation::Sync => ("sync ", ffi::SQLITE_IOERR_FSYNC),
            Operation::SetBytes => ("truncate ", ffi::SQLITE_IOERR_TRUNCATE),
            Operation::Read => ("read ", ffi::SQLITE_IOERR_READ),
            _ => return Verdict::Pass,
        };
        let Some((file, call)) = text.split_once(": ") else { return Verdict::Pass };
        if file != case.name || !call.starts_with(word) {
            return Verdict::Pass;
        }
        self.seen += 1;
        if self.seen != case.nth && !(case.goes_on && self.seen > case.nth) {
            return Verdict::Pass;
        }
        self.fired += 1;
        match case.effect {
            Effect::Error => Verdict::Answer(code),
            Effect::NoSpace => Verdict::Answer(ffi::SQLITE_FULL),
            Effect::NoDescriptor => Verdict::Answer(ffi::SQLITE_CANTOPEN),
            Effect::Done => Verdict::Behind(code),
            Effect::Short(bytes) => Verdict::Short(bytes.min(65536), code),
            Effect::ShortNoSpace(bytes) => Verdict::Short(bytes.min(65536), ffi::SQLITE_FULL),
        }
    }
}

/// What was promised about each row of `t(n)`.
pub struct Books<'a> {
    world: &'a World,
    pub scratch: Scratch,
    acknowledged: BTreeSet<i64>,
    failed: BTreeSet<i64>,
    /// Reported as failed with an unknown outcome.
    maybe: BTreeSet<i64>,
    /// Reported as failed, over two databases: as in stock the first may have it, when the second failed behind it.
    half: BTreeSet<i64>,
    /// Of those, the ones that somebody saw.
    half_seen: BTreeSet<i64>,
    next: i64,
    /// pwal says that it could not take back what failed.
    unknown: bool,
    /// The first commit that fails is looked at as a kill would leave it, before another one is written over it.
    kills_at_failure: bool,
}

impl Books<'_> {
    pub fn path(&self) -> PathBuf {
        self.scratch.file("app.db")
    }

    fn note_status(&mut self, connection: &Connection) {
        let status = support::rows(connection, "SELECT ifnull(json_extract(pwal_status(), '$.poisoned'), '')");
        let text = status.map(|rows| rows.concat()).unwrap_or_default();
        self.unknown |= text.contains("unknown");
    }

    /// What was acknowledged and is not found: nothing. Nobody but pwal fails here, so that also under NORMAL all that was
    /// written is there.
    fn check_lost(&self, found: &BTreeSet<i64>) {
        let lost: BTreeSet<i64> = self.acknowledged.difference(found).copied().collect();
        assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");
    }

    /// A connection through what fails.
    pub fn open(&self) -> Connection {
        self.open_on(&self.world.vfs)
    }

    /// And from another process.
    pub fn open_elsewhere(&self) -> Connection {
        self.open_on(&self.world.other)
    }

    fn open_on(&self, vfs: &str) -> Connection {
        let open = || support::try_open(&self.path(), support::flags(), vfs);
        let connection = open().unwrap_or_else(|error| {
            self.expected(&error, "open");
            // It is opened without the failure: the scene goes on.
            let case = self.world.base.lock().unwrap().case.take();
            let connection = open().expect("open");
            self.world.base.lock().unwrap().case = case;
            connection
        });
        connection.busy_timeout(Duration::from_millis(100)).expect("a busy timeout");
        connection
    }

    /// A second database, in the scenes that have one.
    pub fn second(&self) -> PathBuf {
        self.scratch.file("two.db")
    }

    /// A connection with both databases.
    pub fn open_both(&self) -> Connection {
        let connection = self.open();
        support::run(&connection, &format!("ATTACH '{}' AS two", self.second().display()));
        connection
    }

    /// The database of all scenes, made before anything fails.
    pub fn create(&self) {
        let connection = self.open();
        support::run(
            &connection,
            "PRAGMA journal_mode=WAL; CREATE TABLE t(n INTEGER PRIMARY KEY, x); CREATE TABLE other(x);
             INSERT INTO other SELECT zeroblob(10000)",
        );
        support::close(connection);
    }

    /// Commits one row, with a body of so many bytes, and keeps the books. `false` if it failed.
    pub fn commit(&mut self, connection: &Connection, bytes: u32) -> bool {
        let n = self.next;
        self.next += 1;
        let sql = format!("BEGIN IMMEDIATE; INSERT INTO t VALUES({n}, zeroblob({bytes})); COMMIT");
        let done = connection.execute_batch(&sql);
        self.answered(connection, n, (&sql, done))
    }

    /// Commits a row on each of these, in transactions that are open together. `false` if one of them failed.
    pub fn commit_beside(&mut self, connections: [&Connection; 2], bytes: u32) -> bool {
        let n = self.next;
        self.next += 1;
        let rows = [n, FAR + n];
        let begins = |connection: &Connection, row: i64| {
            connection.execute_batch(&format!("BEGIN; INSERT INTO t VALUES({row}, zeroblob({bytes}))"))
        };
        let [first, second] = [0, 1].map(|at: usize| begins(connections[at], rows[at]));
        let mut all = true;
        for (at, begun) in [first, second].into_iter().enumerate() {
            let done = begun.and_then(|()| connections[at].execute_batch("COMMIT"));
            all &= self.answered(connections[at], rows[at], ("a transaction beside another", done));
        }
        all
    }

    /// What was answered to the commit of a row.
    fn answered(&mut self, connection: &Connection, n: i64, (sql, done): (&str, rusqlite::Result<()>)) -> bool {
        match done {
            Ok(()) => {
                self.acknowledged.insert(n);
                true
            }
            Err(error) => {
                self.expected(&error, sql);
                if !connection.is_autocommit() {
                    let _ = connection.execute_batch("ROLLBACK");
                }
                self.note_status(connection);
                self.failed.insert(n);
                if std::mem::take(&mut self.kills_at_failure) {
                    self.look_after_kill();
                }
                false
            }
        }
    }

    /// As [`Books::commit`], into the attached database `two` as well.
    pub fn commit_both(&mut self, connection: &Connection, bytes: u32) -> bool {
        let n = self.next;
        self.next += 1;
        let row = format!("VALUES({n}, zeroblob({bytes}))");
        let sql = format!("BEGIN IMMEDIATE; INSERT INTO main.t {row}; INSERT INTO two.t {row}; COMMIT");
        if self.try_run(connection, &sql) {
            self.acknowledged.insert(n);
            return true;
        }
        self.half.insert(n);
        false
    }

    /// Any statement; its error must be one that a failing medium gives.
    pub fn try_run(&mut self, connection: &Connection, sql: &str) -> bool {
        match connection.execute_batch(sql) {
            Ok(()) => true,
            Err(error) => {
                self.expected(&error, sql);
                if !connection.is_autocommit() {
                    let _ = connection.execute_batch("ROLLBACK");
                }
                self.note_status(connection);
                false
            }
        }
    }

    fn expected(&self, error: &rusqlite::Error, sql: &str) {
        let code = support::code(error);
        let fine = [ffi::SQLITE_IOERR, ffi::SQLITE_FULL, ffi::SQLITE_BUSY, ffi::SQLITE_CANTOPEN, ffi::SQLITE_READONLY];
        assert!(fine.contains(&(code & 0xff)), "{sql}: {error:?}");
    }

    /// What a connection that never writes sees: everything acknowledged and nothing that failed; or an error.
    pub fn look(&mut self, reader: &Connection) {
        self.note_status(reader);
        match support::rows(reader, "SELECT n FROM t ORDER BY n") {
            Ok(rows) => {
                let seen: BTreeSet<i64> = rows.iter().map(|n| n.parse().expect("a number")).collect();
                self.half_seen.extend(seen.intersection(&self.half));
                let mut failed = &seen - &self.acknowledged;
                failed.retain(|n| !self.half.contains(n));
                assert!(failed.is_empty(), "seen, and not acknowledged: {failed:?}");
                self.check_lost(&seen);
            }
            Err(error) => self.expected(&error, "SELECT"),
        }
    }

    /// As [`Books::look`], and it must work.
    pub fn must_see(&mut self, reader: &Connection) {
        support::rows(reader, "SELECT n FROM t").expect("a read that must work");
        self.look(reader);
    }

    /// Looks at the first commit that fails as a kill would leave it. For scenes in which no checkpoint runs meanwhile.
    pub fn kill_at_failure(&mut self) {
        self.kills_at_failure = true;
    }

    /// A kill now: what must be there is there, what must not is not.
    pub fn look_after_kill(&self) {
        let killed = support::lab::copy_crashed(&self.path());
        let connection = killed.open();
        let rows = support::rows(&connection, "SELECT n FROM t").expect("open after a kill");
        let found: BTreeSet<i64> = rows.iter().map(|n| n.parse().expect("a number")).collect();
        self.check_lost(&found);
        let phantoms: Vec<_> = found.intersection(&self.failed).collect();
        assert!(self.unknown || phantoms.is_empty(), "reported as failed, and there after a kill: {phantoms:?}");
        support::assert_integrity(&connection);
        support::close(connection);
        support::assert_plain(killed.path());
    }

    /// Opens without failures, twice: what must be there is there, what must not is not.
    fn close_the_books(&mut self) {
        if self.unknown {
            self.maybe.append(&mut self.failed);
        }
        let found = self.close_the_book(&self.path());
        let two = self.second();
        if two.exists() {
            let found_two = self.close_the_book(&two);
            let (first, second) = (&found & &self.half, &found_two & &self.half);
            assert!(
                second.is_subset(&first) || self.unknown,
                "the second has what the first has not: {second:?}, {first:?}"
            );
            let gone = &self.half_seen - &found;
            assert!(gone.is_empty() || self.unknown, "seen, and gone: {gone:?}");
        }
    }

    fn close_the_book(&self, path: &Path) -> BTreeSet<i64> {
        let connection = support::open(path);
        connection.busy_timeout(Duration::from_secs(5)).expect("a busy timeout");
        let rows = support::rows(&connection, "SELECT n FROM t ORDER BY n").expect("open again");
        let found: BTreeSet<i64> = rows.iter().map(|n| n.parse().expect("a number")).collect();
        self.check_lost(&found);
        let phantoms: Vec<_> = found.intersection(&self.failed).collect();
        assert!(phantoms.is_empty(), "reported as failed, and there: {phantoms:?}");
        let strange: Vec<_> = found
            .iter()
            .filter(|n| [&self.acknowledged, &self.maybe, &self.half].iter().all(|set| !set.contains(n)))
            .collect();
        assert!(strange.is_empty(), "never heard of: {strange:?}");
        support::assert_integrity(&connection);
        support::run(&connection, "PRAGMA journal_mode=WAL; INSERT INTO t VALUES(-1, 'new')");
        support::close(connection);
        support::assert_plain(path);
        found
    }
}
