//! A process that works on the ledger from several threads, and may be killed at any moment.
//!
//! Each thread opens a connection, plays one part for a while (writes, reads, checkpoints), closes it and opens the
//! next. What must hold at each moment is asserted at once; a panic makes the process end with a failure.

use super::board::{Board, Line, Troubles};
use super::ledger::{self, Entry};
use crate::{Watchdog, child};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rusqlite::{Connection, ffi};
use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

/// Nobody may wait longer for the write lock.
pub const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// What the test does to the processes, so that a statement may fail meanwhile: bits of the board's word.
pub struct Trouble;

impl Trouble {
    /// The disk is full: `SQLITE_FULL`.
    pub const FULL: u64 = 1;
    /// A process has no descriptor left: no connection can be opened; those that are open go on.
    pub const DESCRIPTORS: u64 = 2;
    /// A process is stopped for longer than the others wait: `SQLITE_BUSY`.
    pub const STOPPED: u64 = 4;

    /// Whether a statement may fail with this code; `opens`: it opens a connection.
    fn excuses(bits: u64, code: i32, opens: bool) -> bool {
        let may = |trouble: u64| bits & trouble != 0;
        match code & 0xff {
            ffi::SQLITE_BUSY => may(Trouble::STOPPED),
            ffi::SQLITE_FULL => may(Trouble::FULL),
            ffi::SQLITE_CANTOPEN => may(Trouble::FULL) || opens && may(Trouble::DESCRIPTORS),
            _ => false,
        }
    }
}

const FIRST_READ: &str = "the first read of a process";

thread_local! {
    /// How the busy handler of this thread's connection sleeps, and when it began.
    static POLLS: Cell<Duration> = const { Cell::new(Duration::ZERO) };
    static POLLS_SINCE: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// A busy handler of the application's: sleeps by itself, and gives up after [`BUSY_TIMEOUT`].
fn poll(tries: i32) -> bool {
    if tries == 0 {
        POLLS_SINCE.set(Some(Instant::now()));
    }
    std::thread::sleep(POLLS.get());
    POLLS_SINCE.get().is_some_and(|since| since.elapsed() < BUSY_TIMEOUT)
}

/// The process has a child for a moment, which inherits all its descriptors and does nothing.
fn fork_for(time: Duration) {
    // SAFETY: the child calls nothing but these two, which are async-signal-safe; the parent gives no addresses.
    unsafe {
        if libc::fork() == 0 {
            libc::usleep(time.as_micros() as u32);
            libc::_exit(0);
        }
        while libc::waitpid(-1, std::ptr::null_mut(), libc::WNOHANG) > 0 {}
    }
}

/// What a working process is told.
#[derive(Clone, Debug)]
pub struct Work<'a> {
    pub database: &'a Path,
    pub board: &'a Path,
    /// Its place: the threads of place p are the writers p * threads and so on.
    pub place: usize,
    pub places: usize,
    pub threads: usize,
    pub mode: &'a str,
    /// `synchronous` of the connections, by chance.
    pub synchronous: &'a [&'a str],
    pub seed: u64,
    /// Whether some connections only checkpoint.
    pub checkpoints: bool,
    /// So many operations of each thread, then a clean end.
    pub life: u64,
    /// After so many seconds it kills itself: it hangs.
    pub limit: Duration,
}

impl Work<'_> {
    /// Starts the process.
    pub fn start(&self) -> child::Role {
        self.start_with(&[])
    }

    /// With more variables of the environment.
    pub fn start_with(&self, more: &[(&str, String)]) -> child::Role {
        let path = |path: &Path| path.to_str().expect("a name in UTF-8").to_owned();
        let mut settings = vec![
            ("PWAL_TEST_DATABASE", path(self.database)),
            ("PWAL_TEST_BOARD", path(self.board)),
            ("PWAL_TEST_PLACE", self.place.to_string()),
            ("PWAL_TEST_PLACES", self.places.to_string()),
            ("PWAL_TEST_THREADS", self.threads.to_string()),
            ("PWAL_TEST_MODE", self.mode.to_owned()),
            ("PWAL_TEST_SYNCHRONOUS", self.synchronous.join(" ")),
            ("PWAL_TEST_CHECKPOINTS", u8::from(self.checkpoints).to_string()),
            ("PWAL_TEST_LIFE_SEED", self.seed.to_string()),
            ("PWAL_TEST_LIFE", self.life.to_string()),
            ("PWAL_TEST_LIMIT", self.limit.as_secs().to_string()),
        ];
        settings.extend_from_slice(more);
        child::start(ROLE, &settings)
    }
}

fn number(name: &str) -> u64 {
    child::setting(name).parse().unwrap_or_else(|_| panic!("{name} is a number"))
}

/// The test that plays it in a process of its own ([`crate::roles!`]).
const ROLE: &str = "roles::child_works";

/// A role of its own process; nothing in a normal run.
pub fn child_works() {
    if child::role(ROLE) {
        run();
    }
}

fn run() {
    let _watchdog = Watchdog::new("a working process", Duration::from_secs(number("PWAL_TEST_LIMIT")));
    let board = Board::open(child::setting("PWAL_TEST_BOARD").as_ref());
    let threads = number("PWAL_TEST_THREADS") as usize;
    let place = number("PWAL_TEST_PLACE") as usize;
    let seed = number("PWAL_TEST_LIFE_SEED");
    // SAFETY: a number.
    let parent = unsafe { libc::getppid() };
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let board = &board;
            scope.spawn(move || {
                let number = place * threads + thread;
                let rng = StdRng::seed_from_u64(seed.wrapping_mul(1024) + thread as u64);
                let mut worker = Worker::new(board, number, parent, rng);
                let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| worker.work()));
                if let Err(panic) = result {
                    board.fail();
                    std::panic::resume_unwind(panic);
                }
            });
        }
    });
}

/// What a connection is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Writes,
    Reads,
    Checkpoints,
}

struct Worker<'a> {
    board: &'a Board,
    line: &'static Line,
    number: usize,
    writers: usize,
    parent: i32,
    rng: StdRng,
    path: PathBuf,
    mode: String,
    synchronous: Vec<String>,
    checkpoints: bool,
    /// `PWAL_TEST_NEMESIS`: some connections poll, the process forks, and what the board excuses may fail.
    nemesis: bool,
    /// The troubles before this operation.
    before: Troubles,
    /// Operations that are left.
    life: u64,
    /// Transactions that were acknowledged.
    done: u64,
}

impl<'a> Worker<'a> {
    fn new(board: &'a Board, number: usize, parent: i32, rng: StdRng) -> Worker<'a> {
        let line = board.line(number);
        line.pid.store(u64::from(std::process::id()), SeqCst);
        line.clear();
        let before = board.troubles();
        Worker {
            board,
            line,
            number,
            writers: (self::number("PWAL_TEST_PLACES") * self::number("PWAL_TEST_THREADS")) as usize,
            parent,
            rng,
            path: PathBuf::from(child::setting("PWAL_TEST_DATABASE")),
            mode: child::setting("PWAL_TEST_MODE"),
            synchronous: child::setting("PWAL_TEST_SYNCHRONOUS").split(' ').map(str::to_owned).collect(),
            checkpoints: self::number("PWAL_TEST_CHECKPOINTS") != 0,
            nemesis: std::env::var_os("PWAL_TEST_NEMESIS").is_some(),
            before,
            life: self::number("PWAL_TEST_LIFE"),
            done: 0,
        }
    }

    fn goes_on(&self) -> bool {
        // SAFETY: a number. Nobody counts any more what an orphan does.
        self.board.goes_on() && self.life > 0 && unsafe { libc::getppid() } == self.parent
    }

    fn work(&mut self) {
        let mut first = true;
        while self.goes_on() {
            let (board, line) = (self.board, self.line);
            let connection = board.during(line, "opening", || self.open(first));
            let part = match self.rng.random_range(0..10) {
                // Nobody lives without writing.
                _ if first => Part::Writes,
                0..6 => Part::Writes,
                9 if self.checkpoints => Part::Checkpoints,
                _ => Part::Reads,
            };
            first = false;
            let mut before = vec![0; self.writers];
            let until = self.life.saturating_sub(self.rng.random_range(1..150));
            while self.goes_on() && self.life > until {
                self.life -= 1;
                self.before = self.board.troubles();
                if self.nemesis && self.rng.random_range(0..300) == 0 {
                    fork_for(Duration::from_millis(self.rng.random_range(0..50)));
                }
                match part {
                    Part::Writes => self.write(&connection),
                    Part::Reads => {}
                    Part::Checkpoints => self.checkpoint(&connection),
                }
                // Who writes looks now and then: snapshots of one connection never go back, whatever it did.
                if part == Part::Reads || self.rng.random_range(0..10) == 0 {
                    board.during(line, "reading", || self.read(&connection, &mut before));
                }
            }
            board.during(line, "closing", || crate::close(connection));
        }
    }

    fn open(&mut self, first: bool) -> Connection {
        loop {
            self.before = self.board.troubles();
            match self.try_open(first) {
                Ok(connection) => return connection,
                Err(error) => self.excuse(&error, "opening"),
            }
        }
    }

    fn try_open(&mut self, first: bool) -> rusqlite::Result<Connection> {
        let mut connection = crate::try_open(&self.path, crate::flags(), crate::vfs())?;
        // Where opening the file for reading and writing fails, unixOpen() opens it for reading. If there was no descriptor at the
        // first attempt and one at the second, that succeeds.
        if connection.is_readonly("main")? {
            let reason = String::from("opened for reading only");
            return Err(rusqlite::Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_CANTOPEN), Some(reason)));
        }
        connection.busy_timeout(BUSY_TIMEOUT)?;
        if self.nemesis && self.rng.random_range(0..3) == 0 {
            POLLS.set(Duration::from_millis([1, 20][self.rng.random_range(0..2)]));
            connection.busy_handler(Some(poll))?;
        }
        // Small segments, small lanes and early checkpoints: rotation, recycling, spilling and backfill are in every run; so are
        // batches that are larger than the usual segment. Stock ignores the control block it does not know.
        let synchronous = &self.synchronous[self.rng.random_range(0..self.synchronous.len())];
        connection.execute_batch(&format!(
            "PRAGMA parallel_wal_mode={}; PRAGMA parallel_wal_segment_bytes=262144;
                 PRAGMA parallel_wal_max_batch_bytes={}; PRAGMA synchronous={synchronous};
                 PRAGMA wal_autocheckpoint={}; PRAGMA cache_size={}",
            self.mode,
            [65_536, 1 << 20][self.rng.random_range(0..2)],
            [10, 30, 200][self.rng.random_range(0..3)],
            [5, 50, 500][self.rng.random_range(0..3)]
        ))?;
        if first {
            self.take_over(&connection);
        }
        Ok(connection)
    }

    /// Goes on where the last process of this place ended: at what it was told, or at the commit behind that, which was
    /// under way when it was killed. That one may be published and not durable yet.
    fn take_over(&mut self, connection: &Connection) {
        let told = self.line.acknowledged.load(SeqCst);
        let last = loop {
            self.before = self.board.troubles();
            let start = Instant::now();
            match ledger::look_at_newest(connection, self.writers) {
                Ok(seen) => break seen[self.number],
                Err(error) => self.excuse(&error, &format!("{FIRST_READ}, after {:?}", start.elapsed())),
            }
        };
        assert!(
            last == told || last == told + 1,
            "writer {}: {told} transactions were acknowledged, {last} are there",
            self.number
        );
        self.done = last;
        self.line.acknowledged.store(last, SeqCst);
        self.line.ready.store(1, SeqCst);
    }

    /// Nothing fails but with BUSY, and on pwal nothing with that: whoever waits gets its turn.
    #[track_caller]
    fn excuse(&self, error: &rusqlite::Error, what: &str) {
        let busy = crate::code(error) & 0xff == ffi::SQLITE_BUSY;
        let opens = what == "opening" || what.starts_with(FIRST_READ);
        let stood_still = busy && self.board.stood_still(&self.before, BUSY_TIMEOUT);
        let excused =
            stood_still || Trouble::excuses(self.board.trouble_since(&self.before), crate::code(error), opens);
        assert!(excused || busy && !crate::on_pwal(), "writer {}, {what}: {error:?}", self.number);
        self.line.busy.fetch_add(1, SeqCst);
    }

    fn write(&mut self, connection: &Connection) {
        let entry = Entry::random(&mut self.rng, self.number as i64, self.done as i64 + 1);
        let (board, line) = (self.board, self.line);
        let start = Instant::now();
        let (what, result) = match self.rng.random_range(0..10) {
            0..4 => {
                let what = "an autocommit statement";
                (what, board.during(line, what, || entry.insert(connection).map(|()| true)))
            }
            4..7 => {
                let what = "a transaction that writes at once";
                (what, board.during(line, what, || transaction(connection, "BEGIN IMMEDIATE", "COMMIT", &entry)))
            }
            7..9 => {
                let what = "a transaction that reads first";
                let result = board.during(line, what, || transaction(connection, "BEGIN", "COMMIT", &entry));
                (what, self.forgive_stale(result))
            }
            _ => {
                let what = "a transaction that rolls back";
                let result = board.during(line, what, || {
                    transaction(connection, "BEGIN IMMEDIATE", "ROLLBACK", &entry).map(|_| false)
                });
                (what, result)
            }
        };
        match result {
            Ok(true) => {
                self.done += 1;
                self.line.acknowledged.store(self.done, SeqCst);
            }
            Ok(false) => {}
            Err(error) => self.excuse(&error, &format!("{what}, after {:?}", start.elapsed())),
        }
        if !connection.is_autocommit() {
            crate::run(connection, "ROLLBACK");
        }
        self.sees_its_own(connection);
    }

    /// A read snapshot that is not the newest cannot become a write transaction: SQLite says BUSY at once.
    fn forgive_stale(&self, result: rusqlite::Result<bool>) -> rusqlite::Result<bool> {
        match result {
            Err(error) if crate::code(&error) & 0xff == ffi::SQLITE_BUSY => {
                self.line.stale.fetch_add(1, SeqCst);
                Ok(false)
            }
            result => result,
        }
    }

    fn sees_its_own(&self, connection: &Connection) {
        let seen = connection.query_row("SELECT max(n) FROM head WHERE writer=?1", [self.number as i64], |row| {
            row.get::<_, Option<i64>>(0)
        });
        match seen {
            Ok(seen) => {
                assert_eq!(seen.unwrap_or(0), self.done as i64, "writer {} does not see its last commit", self.number);
            }
            Err(error) => self.excuse(&error, "the read of an own commit"),
        }
    }

    /// In one transaction everything fits and stands still; nothing goes back; and what anybody was told before it
    /// began is there.
    fn read(&mut self, connection: &Connection, before: &mut Vec<u64>) {
        let told = self.board.acknowledged(self.writers);
        let both = || -> rusqlite::Result<_> {
            connection.execute_batch("BEGIN")?;
            let one = ledger::snapshot(connection, self.writers)?;
            std::thread::yield_now();
            let two = ledger::snapshot(connection, self.writers)?;
            connection.execute_batch("COMMIT")?;
            Ok((one, two))
        };
        let (one, two) = match both() {
            Ok(both) => both,
            Err(error) => {
                self.excuse(&error, "a read");
                if !connection.is_autocommit() {
                    crate::run(connection, "ROLLBACK");
                }
                return;
            }
        };
        assert_eq!(one, two, "the snapshot moved inside a transaction");
        // A commit under NORMAL is acknowledged when it is published; one under FULL before it, which another connection
        // waits for, hides it a while.
        let acknowledged_is_visible = !crate::on_pwal() || self.synchronous.len() == 1;
        for writer in 0..self.writers {
            let (seen, before, told) = (one[writer], before[writer], told[writer]);
            assert!(seen >= before, "writer {writer}: went back from {before} to {seen}");
            assert!(
                !acknowledged_is_visible || seen >= told,
                "writer {writer}: {told} were acknowledged, {seen} are seen by {}",
                self.number
            );
        }
        *before = one;
        self.line.reads.fetch_add(1, SeqCst);
    }

    fn checkpoint(&mut self, connection: &Connection) {
        let kind = ["PASSIVE", "FULL", "RESTART", "TRUNCATE"][self.rng.random_range(0..4)];
        let (board, line) = (self.board, self.line);
        let result = board.during(line, "a checkpoint", || {
            connection.query_row(&format!("PRAGMA wal_checkpoint({kind})"), [], |row| row.get::<_, i64>(2))
        });
        if let Err(error) = result {
            self.excuse(&error, kind);
        }
        // A pace, not a wait: back to back they would keep every writer out.
        std::thread::sleep(Duration::from_millis(self.rng.random_range(0..8)));
    }
}

fn transaction(connection: &Connection, begin: &str, end: &str, entry: &Entry) -> rusqlite::Result<bool> {
    connection.execute_batch(begin)?;
    entry.transfer(connection)?;
    connection.execute_batch(end)?;
    Ok(true)
}
